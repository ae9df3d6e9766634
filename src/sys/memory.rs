//! Memory that a start took and the rest does not need.

use nix::libc;

/// Gives the kernel back what was freed since this process started (malloc_trim(3)): a process that waits for hours
/// keeps nothing of what reading its policy took. Another C library keeps it.
#[cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "the allocator's own call")
)]
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer, and only touches memory that the allocator holds as free, under its own lock.
    unsafe {
        libc::malloc_trim(0);
    }
}

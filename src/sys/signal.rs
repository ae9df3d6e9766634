//! Signal dispositions (signal(7)).

use std::io;

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Ignores what a terminal's keyboard sends. Safe between fork(2) and execve(2).
pub(super) fn ignore_keyboard() -> io::Result<()> {
    dispose(Signal::SIGINT, SigHandler::SigIgn)?;
    dispose(Signal::SIGQUIT, SigHandler::SigIgn)
}

/// Every disposition back to the default and nothing blocked, so that a program that is executed
/// next starts as a shell would start it. By the bare system call, because libc keeps two real-time
/// signals for itself and would leave them as they were inherited.
pub fn reset() -> io::Result<()> {
    /// `_NSIG` of asm-generic/signal.h.
    const LAST: libc::c_int = 64;
    /// `struct sigaction` of the kernel at its longest, all zero: `SIG_DFL`, no flags, empty mask.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=LAST {
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
            continue;
        }
        let (action, old) = (DEFAULT.as_ptr(), std::ptr::null::<u64>());
        #[expect(unsafe_code, reason = "rt_sigaction(2) has no safe wrapper")]
        // SAFETY: the kernel reads one action of at most 32 bytes, which DEFAULT has, writes nothing,
        // and SIG_DFL runs no code of ours; 8 is the size of the kernel's signal set.
        let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action, old, 8_usize) };
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Ignores every signal that can be ignored: for a process that must finish what it does, and that
/// nobody but SIGKILL may end before.
pub fn ignore_all() -> io::Result<()> {
    for signal in Signal::iterator() {
        // Children do not concern us, but ignoring SIGCHLD would change wait(2).
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP | Signal::SIGCHLD) {
            dispose(signal, SigHandler::SigIgn)?;
        }
    }
    Ok(())
}

/// Ignores what would stop a process that shares its terminal with others (SIGTSTP, SIGTTIN, SIGTTOU): for
/// one that nobody would continue. Programs that it starts ignore them as well, until they say otherwise.
pub fn ignore_stops() -> io::Result<()> {
    for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        dispose(signal, SigHandler::SigIgn)?;
    }
    Ok(())
}

fn dispose(signal: Signal, handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    #[expect(unsafe_code, reason = "sigaction(2) can install handlers")]
    // SAFETY: SIG_IGN and SIG_DFL run no code of ours.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

//! Signal dispositions (signal(7)).

use std::io;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Ignores what a terminal's keyboard sends. Safe between fork(2) and execve(2).
pub(super) fn ignore_keyboard() -> io::Result<()> {
    dispose(Signal::SIGINT, SigHandler::SigIgn)?;
    dispose(Signal::SIGQUIT, SigHandler::SigIgn)
}

/// Every disposition back to the default and nothing blocked, so that a program that is executed
/// next starts as a shell would start it. Real-time signals are never touched by us or by those who
/// start us.
pub fn reset() -> io::Result<()> {
    for signal in Signal::iterator() {
        // These two cannot be changed (sigaction(2), EINVAL).
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            dispose(signal, SigHandler::SigDfl)?;
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

fn dispose(signal: Signal, handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    #[expect(unsafe_code, reason = "sigaction(2) can install handlers")]
    // SAFETY: SIG_IGN and SIG_DFL run no code of ours.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

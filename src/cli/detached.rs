//! `portcullis run --detach`: the session is a process of its own, which leads a session of the kernel's
//! (setsid(2)) without a terminal but the one that it makes, so nothing that ends the caller ends it.

use std::path::PathBuf;

use rustix::termios::tcgetwinsize;

use super::failure::{Failure, Outcome};
use super::print;
use crate::exit::Exit;
use crate::session::caller::Caller;
use crate::session::{self, Ask, Backing, LaunchRequest, Notice, Progress};
use crate::sys::fd;
use crate::sys::process::Spawn;
use crate::wire::detached::{CHANNEL_FD, Launched};
use crate::wire::session::Size;
use crate::wire::{Channel, WireError};

/// A terminal's size where nobody says another.
const USUAL: Size = Size {
    rows: 24,
    columns: 80,
};

/// The size of the caller's terminal.
pub(super) fn size() -> Size {
    let sizes = [
        tcgetwinsize(std::io::stdin()),
        tcgetwinsize(std::io::stdout()),
        tcgetwinsize(std::io::stderr()),
    ];
    let size = sizes.into_iter().flatten().map(|size| Size {
        rows: size.ws_row,
        columns: size.ws_col,
    });
    size.into_iter()
        .find(|size| size.rows > 0 && size.columns > 0)
        .unwrap_or(USUAL)
}

/// Starts it and waits until its command is executed.
pub(super) fn start(request: &LaunchRequest, quiet: bool) -> Outcome {
    if request.ask == Some(Ask::Terminal) {
        let why = "--ask terminal: a detached session has no terminal of yours; use --ask others";
        return Err(Failure::new(Exit::Usage, why));
    }
    let channel = spawn().map_err(|error| {
        Failure::new(
            Exit::NotStarted,
            format!("start a session process: {error}"),
        )
    })?;
    let wire = |error: WireError| {
        let what = match error {
            WireError::Closed => "it ended without a word".to_owned(),
            other => other.to_string(),
        };
        Failure::new(Exit::NotStarted, format!("the session process: {what}"))
    };
    channel.send(request).map_err(wire)?;
    loop {
        match channel.recv().map_err(wire)? {
            Launched::Said(_) if quiet => {}
            Launched::Said(line) | Launched::Warned(line) => print::error(print::escape(&line)),
            Launched::Started(session) => {
                // It runs, whether or not somebody reads this.
                print::line(session).ok();
                return Ok(Exit::Success);
            }
            Launched::Failed { code, message } => {
                return Err(Failure::new(Exit::Command(code), print::escape(&message)));
            }
            Launched::Ended(code) => return Ok(Exit::Command(code)),
        }
    }
}

/// The same program again, with our variables and folder, our standard error until it has a terminal, and
/// the other end of a channel.
fn spawn() -> std::io::Result<Channel> {
    let (channel, theirs) = Channel::pair()?;
    let own: PathBuf = std::env::current_exe()?;
    let mut spawn = Spawn::new(&own).arg("detached-session").inherit_stderr();
    for (name, value) in Caller::current().environment {
        spawn = spawn.env(name, value);
    }
    // Nobody waits for it: it outlives us.
    drop(spawn.fd(theirs.into_stream(), CHANNEL_FD).start()?);
    Ok(channel)
}

/// The session process.
pub(super) fn session() -> Outcome {
    let refused = |error: &dyn std::fmt::Display| {
        let what = format!("detached-session: {error}; it is run -d that starts this");
        Failure::new(Exit::Usage, what)
    };
    let channel = fd::inherit(CHANNEL_FD).map_err(|error| refused(&error))?;
    let channel = Channel::from(channel);
    let request: LaunchRequest = channel.recv().map_err(|error| refused(&error))?;
    // Nobody who listens any more is told of a failure either.
    let failed = |channel: &Channel, exit: Exit, message: String| {
        let code = exit.code();
        channel.send(&Launched::Failed { code, message }).ok();
        Ok(exit)
    };
    if let Err(errno) = rustix::process::setsid() {
        return failed(&channel, Exit::NotStarted, format!("setsid: {errno}"));
    }
    let mut listener = Some(channel);
    let outcome = session::run(&request, Backing::default(), &mut |progress| {
        tell(&mut listener, progress)
    });
    match (outcome, listener) {
        (Ok(report), _) => Ok(report.exit),
        (Err(error), Some(channel)) => failed(&channel, error.exit(), error.to_string()),
        (Err(error), None) => Ok(error.exit()),
    }
}

/// Tells whoever waits for the start; after it there is nobody.
fn tell(listener: &mut Option<Channel>, progress: Progress<'_>) {
    let Some(channel) = listener else {
        return;
    };
    let message = match progress {
        Progress::Note(note) => Launched::Said(note.to_owned()),
        Progress::Notice(Notice::Said(line) | Notice::Problem(line)) => Launched::Said(line),
        Progress::Notice(_) => return,
        Progress::Started(session) => Launched::Started(session),
    };
    let heard = channel.send(&message).is_ok();
    if matches!(message, Launched::Started(_)) {
        *listener = None;
        if !heard {
            // Interrupted before it knew the session: as Ctrl-C ends one that is not detached.
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).ok();
        }
    }
}

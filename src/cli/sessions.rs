//! Running sessions as users name them, and one exchange with one of them.

use std::io;

use super::failure::Failure;
use super::print::escape;
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::session::caller::Caller;
use crate::session::socket;
use crate::wire::session::{SessionReply, SessionRequest};
use crate::wire::{Channel, WireError};

/// The sessions of this user that run, oldest first.
pub(super) fn running(caller: &Caller) -> Vec<(SessionId, Channel)> {
    let known = socket::sessions(caller).into_iter();
    // A socket that nobody listens on is of a session that died.
    known
        .filter_map(|session| Some((session, socket::connect(caller, session).ok()?)))
        .collect()
}

/// The one running session that this names: by the beginning of its identifier, or by being the only one.
pub(super) fn find(caller: &Caller, name: Option<&str>) -> Result<(SessionId, Channel), Failure> {
    let mut running = running(caller);
    let wanted = name.unwrap_or_default().to_ascii_lowercase();
    running.retain(|(session, _)| session.to_string().starts_with(&wanted));
    let of = name.map_or_else(String::new, |name| {
        format!(" whose id begins with {}", escape(name))
    });
    match running.len() {
        0 => Err(Failure::new(
            Exit::Unavailable,
            format!("no session of yours runs{of}; portcullis audit verify lists those that ran"),
        )),
        1 => running
            .pop()
            .ok_or_else(|| Failure::new(Exit::Internal, "no session")),
        count => {
            let names: Vec<_> = running.iter().map(|(id, _)| id.to_string()).collect();
            Err(Failure::new(
                Exit::Usage,
                format!("{count} sessions run{of}; name one: {}", names.join(", ")),
            ))
        }
    }
}

/// Asks a session and waits for its answer.
pub(super) fn ask(channel: &Channel, request: &SessionRequest) -> Result<SessionReply, Failure> {
    channel.send(request).map_err(|error| gone(&error))?;
    match channel.recv().map_err(|error| gone(&error))? {
        SessionReply::Failed(why) => Err(Failure::new(Exit::No, escape(&why))),
        reply => Ok(reply),
    }
}

/// The session ended, or does not answer.
pub(super) fn gone(error: &WireError) -> Failure {
    let what = match error {
        WireError::Closed => "it ended".to_owned(),
        WireError::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
            "it does not answer".to_owned()
        }
        other => other.to_string(),
    };
    Failure::new(Exit::Unavailable, format!("session: {what}"))
}

/// It answered something else.
pub(super) fn unexpected() -> Failure {
    let what = "session: unexpected answer; are both portcullis of one version?";
    Failure::new(Exit::Internal, what)
}

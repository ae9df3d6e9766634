//! Running sessions as users name them, and one exchange with one of them.

use std::io;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};

use super::failure::Failure;
use super::print::escape;
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::session::caller::Caller;
use crate::session::running;
use crate::wire::session::{SessionReply, SessionRequest};
use crate::wire::{Channel, WireError};

/// The one running session that this means: by the beginning of its identifier, by its name, or by being
/// the only one.
pub(super) fn find(caller: &Caller, text: Option<&str>) -> Result<(SessionId, Channel), Failure> {
    let mut meant = text.map_or_else(|| running::all(caller), |text| running::meant(caller, text));
    let of = text.map_or_else(String::new, |text| {
        format!(
            " whose id begins with {0} or whose name is {0}",
            escape(text)
        )
    });
    match meant.len() {
        0 => Err(Failure::new(
            Exit::Unavailable,
            format!("no session of yours runs{of}; portcullis audit verify lists those that ran"),
        )),
        1 => meant
            .pop()
            .map(|one| (one.id, one.channel))
            .ok_or_else(|| Failure::new(Exit::Internal, "no session")),
        count => {
            let names: Vec<_> = meant.iter().map(|one| one.id.to_string()).collect();
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

/// Waits for the end of the session's own process: then its last record is written. Answers whether it has
/// ended; until when it waits at most, if not for ever.
pub(super) fn wait_for_end(
    id: SessionId,
    channel: &Channel,
    until: Option<Instant>,
) -> Result<bool, Failure> {
    let failed = |what: &str, errno: Errno| {
        Failure::new(Exit::Internal, format!("session {id}: {what}: {errno}"))
    };
    let peer = socket_peercred(channel).map_err(|errno| failed("ask who it is", errno))?;
    let process = match pidfd_open(peer.pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Ok(true),
        Err(errno) => return Err(failed("watch it", errno)),
    };
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("wait for it", errno)),
        }
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

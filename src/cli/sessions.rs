//! Running sessions as users name them, and one exchange with one of them.

use std::io;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};

use super::failure::Failure;
use super::print::escape;
use super::service;
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::session::caller::Caller;
use crate::session::running::{self, RunningSession};
use crate::wire::control::Listed;
use crate::wire::session::{SessionReply, SessionRequest};
use crate::wire::{Channel, WireError};

/// Every running session that the caller may know of: their own, and where the host has the service and lets
/// them, those of others.
pub(super) fn of_everybody(caller: &Caller) -> Result<Vec<RunningSession>, Failure> {
    let mut all = running::all(caller);
    for listed in listed()? {
        if all.iter().all(|one| one.id != listed.session)
            && let Ok(channel) = service::connect(listed.session)
        {
            let id = listed.session;
            all.push(RunningSession { id, channel });
        }
    }
    all.sort_unstable_by_key(|one| one.id);
    Ok(all)
}

fn listed() -> Result<Vec<Listed>, Failure> {
    if service::is_there() {
        service::list()
    } else {
        Ok(Vec::new())
    }
}

/// Sessions of others that this means.
fn of_others(text: &str) -> Result<Vec<RunningSession>, Failure> {
    let wanted = text.to_ascii_lowercase();
    let mut listed = listed()?;
    let begins = |one: &Listed| one.session.to_string().starts_with(&wanted);
    if listed.iter().any(begins) {
        listed.retain(begins);
    } else {
        listed.retain(|one| one.name.as_ref().is_some_and(|name| name.as_str() == text));
    }
    let found = listed.into_iter().map(|one| {
        let id = one.session;
        service::connect(id).map(|channel| RunningSession { id, channel })
    });
    found.collect()
}

/// The one running session that this means: by the beginning of its identifier, by its name, or by being
/// the only one.
pub(super) fn find(caller: &Caller, text: Option<&str>) -> Result<(SessionId, Channel), Failure> {
    let mut meant = text.map_or_else(|| running::all(caller), |text| running::meant(caller, text));
    if let Some(text) = text.filter(|_| meant.is_empty()) {
        meant = of_others(text)?;
    }
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
    if is_daemon(peer.pid) {
        return wait_for_silence(id, channel, until);
    }
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

/// As [`find`], for what only a session's owner may do: somebody else is told at once.
pub(super) fn find_own(
    caller: &Caller,
    text: Option<&str>,
) -> Result<(SessionId, Channel), Failure> {
    let (id, channel) = find(caller, text)?;
    let visits = socket_peercred(&channel).is_ok_and(|peer| is_daemon(peer.pid));
    if visits && !caller.uid.is_root() {
        let owner = listed()?.into_iter().find(|one| one.session == id);
        if owner.is_none_or(|one| one.uid != caller.uid.as_raw()) {
            let why = format!("session {id}: not permitted: this is somebody else's session");
            return Err(Failure::new(Exit::NoPermission, why));
        }
    }
    Ok((id, channel))
}

/// Whether the channel was made by the daemon, which then is not the session's own process.
fn is_daemon(pid: rustix::process::Pid) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name.trim_end() == "portcullisd")
}

/// As [`wait_for_end`], where the session's process cannot be watched: until the daemon knows it no more.
fn wait_for_silence(
    id: SessionId,
    channel: &Channel,
    until: Option<Instant>,
) -> Result<bool, Failure> {
    loop {
        if listed()?.iter().all(|one| one.session != id) {
            return Ok(true);
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            return Ok(false);
        }
        // The channel is closed shortly before that; there is nothing else to wait for.
        let tenth = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let closed = poll(&mut [PollFd::new(channel, PollFlags::IN)], Some(&tenth));
        if matches!(closed, Ok(1..)) {
            std::thread::sleep(std::time::Duration::from_millis(20));
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

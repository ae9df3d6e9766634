//! The caller's running sessions: which there are, what they are, and which one a name means.

use std::io;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::caller::Caller;
use super::error::LaunchError;
use super::socket;
use crate::ids::{SessionId, SessionName};
use crate::wire::Channel;
use crate::wire::session::{Description, SessionReply, SessionRequest};

/// How long one that lists sessions waits for each of them: one that is still starting does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A session that runs.
#[derive(Debug)]
pub struct RunningSession {
    /// Its identifier.
    pub id: SessionId,
    /// The way to it.
    pub channel: Channel,
}

/// The sessions that run, oldest first. One whose socket nobody listens on has died.
pub fn all(caller: &Caller) -> Vec<RunningSession> {
    let connected = |id| {
        let channel = socket::connect(caller, id).ok()?;
        Some(RunningSession { id, channel })
    };
    socket::sessions(caller)
        .into_iter()
        .filter_map(connected)
        .collect()
}

/// Removes what sessions leave that were killed at the wrong moment, or together with their sweepers: sockets,
/// jails that had only begun to start, control groups.
pub fn sweep_leftovers(caller: &Caller) {
    socket::sweep(caller);
    crate::jail::orphan::end_all();
    crate::jail::cgroup::sweep_leftovers();
}

/// Those that this means: by the beginning of the identifier, or by the name.
pub fn meant(caller: &Caller, text: &str) -> Vec<RunningSession> {
    let mut all = all(caller);
    let wanted = text.to_ascii_lowercase();
    if all
        .iter()
        .any(|one| one.id.to_string().starts_with(&wanted))
    {
        all.retain(|one| one.id.to_string().starts_with(&wanted));
        return all;
    }
    all.retain(|one| has_name(one, text));
    all
}

/// Whether no running session has this name.
pub(super) fn is_free(caller: &Caller, name: &SessionName) -> Result<(), LaunchError> {
    match all(caller).iter().find(|one| has_name(one, name.as_str())) {
        None => Ok(()),
        Some(other) => Err(LaunchError::NameTaken {
            name: name.clone(),
            session: other.id,
        }),
    }
}

fn has_name(session: &RunningSession, name: &str) -> bool {
    let description = describe(session).ok();
    description
        .and_then(|description| description.name)
        .is_some_and(|own| own.as_str() == name)
}

/// What a session is. One that does not answer soon is starting, or stopped.
pub fn describe(session: &RunningSession) -> io::Result<Description> {
    let channel = &session.channel;
    set_socket_timeout(channel, Timeout::Recv, Some(PATIENCE))?;
    let asked = channel
        .send(&SessionRequest::Describe)
        .and_then(|()| channel.recv());
    match asked {
        Ok(SessionReply::Session(description)) => Ok(*description),
        Ok(SessionReply::Failed(why)) => Err(io::Error::other(why)),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(error) => Err(io::Error::other(error)),
    }
}

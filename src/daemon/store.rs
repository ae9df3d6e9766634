//! What outlives the daemon: descriptors that systemd keeps for us while we are restarted (the "file
//! descriptor store", sd_notify(3), `FDSTORE=1`), and those that it passes at the start (sd_listen_fds(3)).
//!
//! Without systemd nothing is kept: the sessions go on, but nobody can be let in to them any more.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use sd_notify::NotifyState;

use crate::ids::SessionId;
use crate::sys::fd;

/// The name of the listening socket's descriptor (`FileDescriptorName=` of the socket unit).
const CONTROL: &str = "control";

/// What of a session is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// What the daemon knows of it.
    Record,
    /// Its own process.
    Process,
    /// The service channel.
    Service,
    /// What the session's gates leave one another.
    Memory,
    /// The gate.
    Gate,
    /// The gate's supply channel.
    GateSupply,
    /// The audit writer.
    Writer,
    /// The writer's supply channel.
    WriterSupply,
}

impl Part {
    const ALL: [Self; 8] = [
        Self::Record,
        Self::Process,
        Self::Service,
        Self::Memory,
        Self::Gate,
        Self::GateSupply,
        Self::Writer,
        Self::WriterSupply,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Process => "process",
            Self::Service => "service",
            Self::Memory => "memory",
            Self::Gate => "gate",
            Self::GateSupply => "gate-supply",
            Self::Writer => "writer",
            Self::WriterSupply => "writer-supply",
        }
    }

    fn name(self, session: SessionId) -> String {
        format!("{session}.{}", self.word())
    }

    fn parse(name: &str) -> Option<(SessionId, Self)> {
        let (session, word) = name.split_once('.')?;
        let part = Self::ALL.into_iter().find(|part| part.word() == word)?;
        Some((session.parse().ok()?, part))
    }
}

/// What was passed at the start.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The listening socket.
    pub control: Option<OwnedFd>,
    /// Parts of sessions that were running when the daemon before us ended.
    pub parts: Vec<(SessionId, Part, OwnedFd)>,
}

/// Takes what was passed. To be called once, first thing.
pub fn inherited() -> io::Result<Inherited> {
    let mut inherited = Inherited::default();
    for (number, name) in sd_notify::listen_fds_with_names()? {
        let fd = fd::inherit(number)?;
        if let Some((session, part)) = Part::parse(&name) {
            inherited.parts.push((session, part, fd));
        } else if name == CONTROL || name == "unknown" || name.ends_with(".socket") {
            inherited.control = Some(fd);
        }
    }
    Ok(inherited)
}

/// Has one descriptor kept. Not being able to costs the session its place after a restart, no more.
pub fn keep(session: SessionId, part: Part, fd: BorrowedFd<'_>) {
    let name = part.name(session);
    let state = [NotifyState::FdStore, NotifyState::FdName(&name)];
    sd_notify::notify_with_fds(&state, &[fd]).ok();
}

/// Has it kept no longer.
pub fn forget(session: SessionId, part: Part) {
    let name = part.name(session);
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]).ok();
}

/// Has nothing of a session kept any longer.
pub fn forget_all(session: SessionId) {
    for part in Part::ALL {
        forget(session, part);
    }
}

/// Tells systemd that requests are taken, and how many sessions there are.
pub fn ready(sessions: usize) {
    let status = format!("{sessions} sessions");
    sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]).ok();
}

/// Tells systemd that we are alive, and how many sessions there are.
pub fn alive(sessions: usize) {
    let status = format!("{sessions} sessions");
    sd_notify::notify(&[NotifyState::Watchdog, NotifyState::Status(&status)]).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_read_back() {
        let session = SessionId::generate();
        for part in Part::ALL {
            assert_eq!(Part::parse(&part.name(session)), Some((session, part)));
        }
        assert_eq!(Part::parse("control"), None);
        assert_eq!(Part::parse(&format!("{session}.hat")), None);
    }
}

//! What outlives the daemon: descriptors that systemd keeps for us while we are restarted (the "file
//! descriptor store", sd_notify(3), `FDSTORE=1`), and those that it passes at the start (sd_listen_fds(3)).
//!
//! Without systemd nothing is kept: the sessions go on, but nobody can be let in to them any more.
//!
//! The names are short, and not those of sessions: at the start all of them come in one variable, and execve(2)
//! takes no string beyond 128 KiB (`MAX_ARG_STRLEN`). Of longer ones systemd could not start us again.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use sd_notify::NotifyState;

use crate::sys::fd;

/// The name of the listening socket's descriptor (`FileDescriptorName=` of the socket unit).
const CONTROL: &str = "control";

/// A session's place in the store: a number that no other session there has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u16);

impl Slot {
    /// The lowest that is not taken.
    pub(super) fn free(taken: impl Iterator<Item = Self>) -> Option<Self> {
        let taken: BTreeSet<u16> = taken.map(|slot| slot.0).collect();
        (0..=u16::MAX)
            .find(|number| !taken.contains(number))
            .map(Self)
    }
}

/// What of a session is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// What the daemon knows of it.
    Record,
    /// Its own process.
    Process,
    /// The service channel.
    Service,
    /// Its user namespace.
    Namespace,
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
    const ALL: [Self; 9] = [
        Self::Record,
        Self::Process,
        Self::Service,
        Self::Namespace,
        Self::Memory,
        Self::Gate,
        Self::GateSupply,
        Self::Writer,
        Self::WriterSupply,
    ];

    fn letter(self) -> char {
        match self {
            Self::Record => 'r',
            Self::Process => 'p',
            Self::Service => 's',
            Self::Namespace => 'n',
            Self::Memory => 'm',
            Self::Gate => 'g',
            Self::GateSupply => 'G',
            Self::Writer => 'w',
            Self::WriterSupply => 'W',
        }
    }

    fn name(self, Slot(number): Slot) -> String {
        format!("{number:x}.{}", self.letter())
    }

    fn parse(name: &str) -> Option<(Slot, Self)> {
        let (number, letter) = name.split_once('.')?;
        let part = Self::ALL
            .into_iter()
            .find(|part| letter.chars().eq([part.letter()]))?;
        Some((Slot(u16::from_str_radix(number, 16).ok()?), part))
    }
}

/// What was passed at the start.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// The listening socket.
    pub control: Option<OwnedFd>,
    /// Parts of sessions that were running when the daemon before us ended.
    pub parts: Vec<(Slot, Part, OwnedFd)>,
}

/// Takes what was passed. To be called once, first thing.
pub(super) fn inherited() -> io::Result<Inherited> {
    let mut inherited = Inherited::default();
    for (number, name) in sd_notify::listen_fds_with_names()? {
        let fd = fd::inherit(number)?;
        if let Some((slot, part)) = Part::parse(&name) {
            inherited.parts.push((slot, part, fd));
        } else if name == CONTROL || name == "unknown" || name.ends_with(".socket") {
            inherited.control = Some(fd);
        }
    }
    Ok(inherited)
}

/// What is kept of one session.
#[derive(Debug)]
pub(super) struct Kept {
    slot: Slot,
    /// Nothing else needs to be forgotten, of which systemd hears each time.
    parts: BTreeSet<Part>,
}

impl Kept {
    /// Of a session of which these are kept already.
    pub(super) fn new(slot: Slot, parts: impl IntoIterator<Item = Part>) -> Self {
        let parts = parts.into_iter().collect();
        Self { slot, parts }
    }

    /// Where.
    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    /// Has one descriptor kept, in the place of the one before. Not being able to costs the session its place after
    /// a restart, no more.
    pub(super) fn keep(&mut self, part: Part, fd: BorrowedFd<'_>) {
        self.forget(part);
        self.parts.insert(part);
        let name = part.name(self.slot);
        let state = [NotifyState::FdStore, NotifyState::FdName(&name)];
        sd_notify::notify_with_fds(&state, &[fd]).ok();
    }

    /// Has it kept no longer.
    pub(super) fn forget(&mut self, part: Part) {
        if self.parts.remove(&part) {
            forget(self.slot, part);
        }
    }
}

fn forget(slot: Slot, part: Part) {
    let name = part.name(slot);
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]).ok();
}

/// Has nothing of a session kept any longer.
pub(super) fn forget_all(slot: Slot) {
    for part in Part::ALL {
        forget(slot, part);
    }
}

/// Tells systemd that requests are taken, and how many sessions there are.
pub(super) fn ready(sessions: usize) {
    let status = format!("{sessions} sessions");
    sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]).ok();
}

/// Tells systemd that we are alive, and how many sessions there are.
pub(super) fn alive(sessions: usize) {
    let status = format!("{sessions} sessions");
    sd_notify::notify(&[NotifyState::Watchdog, NotifyState::Status(&status)]).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_read_back() {
        for slot in [Slot(0), Slot(0xabc)] {
            for part in Part::ALL {
                assert_eq!(Part::parse(&part.name(slot)), Some((slot, part)));
            }
        }
        for other in [
            "control",
            "portcullisd.socket",
            "unknown",
            "0.h",
            "0.rr",
            ".r",
            "10000.r",
        ] {
            assert_eq!(Part::parse(other), None);
        }
    }

    #[test]
    fn the_names_of_two_thousand_sessions_fit_into_one_variable() {
        // MAX_ARG_STRLEN of linux/binfmts.h, of which the variable's own name takes some.
        let most = 128 * 1024 - 100;
        let names =
            (0..2000).flat_map(|number| Part::ALL.map(|part| part.name(Slot(number)).len() + 1));
        assert!(names.sum::<usize>() < most);
    }

    #[test]
    fn the_lowest_slot_that_is_free_is_taken() {
        let free = |taken: &[u16]| Slot::free(taken.iter().map(|number| Slot(*number)));
        assert_eq!(free(&[]), Some(Slot(0)));
        assert_eq!(free(&[1, 0, 3]), Some(Slot(2)));
        assert_eq!(Slot::free((0..=u16::MAX).map(Slot)), None);
    }
}

//! Who knows the jail's processes, whichever process that is by now: the witness, and the next one should it die.
//!
//! Owns: what a witness has to know of the jail, which outlives each of them, and how often another is tried. Never: looks
//! at the jail's processes itself. A session without a witness goes on: its records say that they name no process.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::restarts::Restarts;
use super::service::Shared;
use crate::jail::witness::Subject;
use crate::jail::{Footing, JailError, Witness};

/// The witness of one session.
#[derive(Debug)]
pub struct Observer {
    subject: Subject,
    /// Who starts another.
    by: By,
    /// `None`: it died, and no other takes its place.
    witness: Option<Witness>,
    restarts: Restarts,
}

/// Who starts a witness while the session runs.
#[derive(Debug)]
enum By {
    /// The session.
    Ourselves(File, Footing),
    /// The service: the session has given up the right to.
    Service(Shared),
}

impl Observer {
    /// Has this one look at this jail. Another is started from the program of init, on this footing, or by the service.
    pub fn new(
        witness: Witness,
        subject: Subject,
        (program, footing, service): (File, Footing, Option<Shared>),
    ) -> Result<Self, JailError> {
        witness.watch(&subject)?;
        Ok(Self {
            subject,
            by: service.map_or(By::Ourselves(program, footing), By::Service),
            witness: Some(witness),
            restarts: Restarts::default(),
        })
    }

    /// An end of a new channel to the one there is, for a gate. `None`: there is none.
    pub fn channel(&self) -> Option<OwnedFd> {
        // One that has just died is found out by its own channel.
        self.witness.as_ref().and_then(|one| one.channel().ok())
    }

    /// What becomes readable when it dies. `None`: it is lost.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.witness.as_ref().map(AsFd::as_fd)
    }

    /// Has another one take the place of the one that died. Answers whether one does: if not, none will.
    pub fn restart(&mut self) -> bool {
        self.witness = None;
        while self.witness.is_none() && self.restarts.one_more() {
            self.witness = self.another();
        }
        self.witness.is_some()
    }

    fn another(&self) -> Option<Witness> {
        let witness = match &self.by {
            By::Ourselves(program, footing) => Witness::start(program, *footing),
            By::Service(service) => {
                let channel = service.borrow_mut().another_witness().ok()?;
                Witness::served(channel)
            }
        };
        let witness = witness.ok()?;
        witness.watch(&self.subject).ok()?;
        Some(witness)
    }
}

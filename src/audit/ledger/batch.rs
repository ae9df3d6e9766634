//! Entries that are written together: each follows the one before it, and the last one signs them all.

use std::io;

use super::entry::{self, LedgerEvent, Place, checkpoint_message};
use super::key::{KeyError, SigningKey};
use super::tail::Tail;
use crate::audit::chain::ChainHash;

/// Lines that follow one another.
#[derive(Debug)]
pub(super) struct Batch {
    host_id: String,
    seq: u64,
    head: ChainHash,
    pub(super) lines: Vec<u8>,
}

impl Batch {
    /// None yet, behind this end.
    pub(super) fn new(tail: &Tail) -> Self {
        Self {
            host_id: tail.host_id.clone(),
            seq: tail.seq,
            head: tail.head,
            lines: Vec::new(),
        }
    }

    /// One more, made for the place where it will stand.
    pub(super) fn push(
        &mut self,
        event: impl FnOnce(Place<'_>) -> Result<LedgerEvent, KeyError>,
    ) -> Result<(), KeyError> {
        let (seq, ts) = (self.seq + 1, entry::now());
        let place = Place {
            host_id: &self.host_id,
            seq,
            ts: &ts,
            prev: self.head,
        };
        let event = event(place)?;
        let sealed = entry::seal(&mut self.lines, place, &event);
        self.head = sealed.map_err(io::Error::other)?;
        self.seq = seq;
        Ok(())
    }

    /// The checkpoint.
    pub(super) fn sign(&mut self, key: &SigningKey) -> Result<(), KeyError> {
        self.push(|place| {
            let message = checkpoint_message(place, &key.public());
            let (key, signature) = (key.public(), key.sign(&message)?);
            Ok(LedgerEvent::Checkpoint { key, signature })
        })
    }
}

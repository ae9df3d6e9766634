//! What is looked out for during one exchange: placeholders in what goes up, values in what comes down.
//! Finds, records, and makes the answer for the client; the bodies ([`super::body`]) stop.

use std::cell::RefCell;
use std::rc::Rc;

use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper::http::request::Parts;

use crate::audit::AuditEvent;
use crate::policy::DenyReason;

use super::authorize::{Destination, Refusal};
use super::keyring::Misplaced;
use super::placeholder::{Needle, Scan, Sieve, find, find_in_field};
use super::state::Gate;

/// One exchange that is watched. `None` in its place: the session has no credentials.
#[derive(Debug)]
pub(super) struct Lookout {
    gate: Rc<Gate>,
    destination: Destination,
    /// What may not go up in content.
    marks: Rc<[Needle]>,
    /// What may not come down.
    values: Rc<[Needle]>,
    /// What was found while a body was on its way, for whoever waits for the answer.
    found: RefCell<Option<Refusal>>,
}

impl Lookout {
    /// The last step before a request goes to its origin's connection: puts in the values that belong
    /// there, records each, and waits until that is kept. The head is as the origin would get it.
    pub(super) async fn apply(
        gate: &Rc<Gate>,
        destination: &Destination,
        head: &mut Parts,
    ) -> Result<Option<Rc<Self>>, Refusal> {
        if gate.keyring.is_empty() {
            return Ok(None);
        }
        let used = gate
            .keyring
            .apply(destination, head)
            .map_err(|misplaced| refuse(gate, destination, misplaced))?;
        for name in &used.names {
            let recorded = gate.reporter.record(AuditEvent::CredentialUsed {
                conn: destination.conn,
                credential: name.to_string(),
                host: destination.host.clone(),
            });
            if recorded.await.is_err() {
                let detail = format!("credential {name}: its use cannot be recorded");
                return Err(destination.fail(gate, DenyReason::AuditUnavailable, detail));
            }
        }
        Ok(Some(Rc::new(Self {
            gate: Rc::clone(gate),
            destination: destination.clone(),
            marks: gate.keyring.marks_for(destination),
            values: gate.keyring.values_and(used.reflections),
            found: RefCell::new(None),
        })))
    }

    /// What a body on its way stumbled over, if it was that which ended the exchange.
    pub(super) fn found(&self) -> Option<Refusal> {
        self.found.borrow_mut().take()
    }

    /// Holds an answer's head, or trailers, against the values.
    pub(super) fn check_answer(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let name = |value: &[u8]| find(&self.values, value).map(|needle| Rc::clone(&needle.name));
        match headers.values().find_map(|value| name(value.as_bytes())) {
            None => Ok(()),
            Some(name) => Err(self.refuse(Misplaced::echoed(&name))),
        }
    }

    fn refuse(&self, misplaced: Misplaced) -> Refusal {
        refuse(&self.gate, &self.destination, misplaced)
    }

    fn stop(&self, misplaced: Misplaced) -> Stopped {
        let refusal = self.refuse(misplaced);
        self.found.replace(Some(refusal));
        Stopped
    }
}

fn refuse(gate: &Gate, destination: &Destination, misplaced: Misplaced) -> Refusal {
    destination.fail(gate, misplaced.reason, misplaced.detail)
}

/// A body may not go on. Already recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a credential is where it does not belong")]
pub(super) struct Stopped;

/// Content on its way up.
#[derive(Debug)]
pub(super) struct Outgoing {
    lookout: Rc<Lookout>,
    scan: Scan,
}

impl Outgoing {
    /// Watches one request's content.
    pub(super) fn new(lookout: &Rc<Lookout>) -> Self {
        Self {
            scan: Scan::new(Rc::clone(&lookout.marks)),
            lookout: Rc::clone(lookout),
        }
    }

    /// Whether this chunk may be sent.
    pub(super) fn check(&mut self, chunk: &[u8]) -> Result<(), Stopped> {
        match self.scan.completes(chunk) {
            None => Ok(()),
            Some(needle) => {
                let misplaced = Misplaced::at(&needle.name, "in the content");
                Err(self.lookout.stop(misplaced))
            }
        }
    }

    /// Whether these trailers may be sent.
    pub(super) fn check_trailers(&self, trailers: &HeaderMap) -> Result<(), Stopped> {
        let marks = self.lookout.gate.keyring.marks();
        let found = trailers.iter().find_map(|(name, value)| {
            find(marks, name.as_str().as_bytes()).or_else(|| find_in_field(marks, value.as_bytes()))
        });
        match found {
            None => Ok(()),
            Some(needle) => Err(self
                .lookout
                .stop(Misplaced::at(&needle.name, "in a trailer"))),
        }
    }
}

/// Content on its way down.
#[derive(Debug)]
pub(super) struct Incoming {
    lookout: Rc<Lookout>,
    sieve: Sieve,
}

impl Incoming {
    /// Watches one answer's content.
    pub(super) fn new(lookout: &Rc<Lookout>) -> Self {
        Self {
            sieve: Sieve::new(Rc::clone(&lookout.values)),
            lookout: Rc::clone(lookout),
        }
    }

    /// What may go on after this chunk, which is empty while all of it may be the beginning of a value.
    pub(super) fn pass(&mut self, chunk: Bytes) -> Result<Bytes, Stopped> {
        self.sieve
            .pass(chunk)
            .map_err(|needle| self.lookout.stop(Misplaced::echoed(&needle.name)))
    }

    /// What is left when the content is over.
    pub(super) fn rest(&mut self) -> Bytes {
        self.sieve.rest()
    }

    /// How much is held back.
    pub(super) fn held(&self) -> usize {
        self.sieve.held()
    }
}

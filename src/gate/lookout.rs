//! What is looked out for during one exchange: placeholders in what goes up, values in what comes down.
//! Finds, records, and makes the answer for the client; the bodies ([`super::watched`]) stop.

use std::cell::RefCell;
use std::rc::Rc;

use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;

use crate::audit::AuditEvent;
use crate::policy::DenyReason;

use super::authorize::{Destination, Refusal};
use super::keyring::Misplaced;
use super::placeholder::{Needle, find, find_in_field};
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
                let detail = format!("the use of credential {name} cannot be recorded");
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

    /// Holds an answer's head against the values.
    pub(super) fn check_answer(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.echo_in(headers) {
            None => Ok(()),
            Some(misplaced) => Err(self.refuse(misplaced)),
        }
    }

    /// The value that stands in these fields of an answer.
    pub(super) fn echo_in(&self, headers: &HeaderMap) -> Option<Misplaced> {
        let find = |value: &HeaderValue| find(&self.values, value.as_bytes());
        let found = headers.values().find_map(find)?;
        Some(Misplaced::echoed(&found.name))
    }

    /// What may not go up in content.
    pub(super) fn marks(&self) -> Rc<[Needle]> {
        Rc::clone(&self.marks)
    }

    /// What may not come down.
    pub(super) fn values(&self) -> Rc<[Needle]> {
        Rc::clone(&self.values)
    }

    /// Whether trailers may go up.
    pub(super) fn check_trailers(&self, trailers: &HeaderMap) -> Result<(), Stopped> {
        let marks = self.gate.keyring.marks();
        let found = trailers.iter().find_map(|(name, value)| {
            find(marks, name.as_str().as_bytes()).or_else(|| find_in_field(marks, value.as_bytes()))
        });
        match found {
            None => Ok(()),
            Some(needle) => Err(self.stop(Misplaced::at(&needle.name, "in a trailer"))),
        }
    }

    /// Ends a body that is on its way.
    pub(super) fn stop(&self, misplaced: Misplaced) -> Stopped {
        let refusal = self.refuse(misplaced);
        self.found.replace(Some(refusal));
        Stopped
    }

    fn refuse(&self, misplaced: Misplaced) -> Refusal {
        refuse(&self.gate, &self.destination, misplaced)
    }
}

fn refuse(gate: &Gate, destination: &Destination, misplaced: Misplaced) -> Refusal {
    destination.fail(gate, misplaced.reason, misplaced.detail)
}

/// A body may not go on. Already recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a credential is where it does not belong")]
pub(super) struct Stopped;

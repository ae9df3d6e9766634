//! A profile that is read again: from the files to the gate, and what came of it to whoever asked.

use super::super::companions::{AuditWriter, CompanionError, Gate};
use super::super::socket::PeerId;
use super::super::watch::Notice;
use super::{Desk, Tell};
use crate::audit::AuditEvent;
use crate::wire::gate::{Applied, GateCommand};
use crate::wire::session::SessionReply;

/// Who is told what came of a new policy.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker {
    /// A file changed, or SIGHUP came.
    Ourselves,
    Peer(PeerId),
}

impl Desk {
    /// Reads the profile again and gives it to the gate.
    pub fn reload(
        &mut self,
        gate: &Gate,
        audit: Option<&mut AuditWriter>,
        tell: Tell<'_>,
    ) -> Result<(), CompanionError> {
        self.reload_for(Asker::Ourselves, gate, audit, tell)
    }

    pub(super) fn reload_for(
        &mut self,
        asker: Asker,
        gate: &Gate,
        audit: Option<&mut AuditWriter>,
        tell: Tell<'_>,
    ) -> Result<(), CompanionError> {
        match self.live.read() {
            Ok(profile) => {
                let policy = Box::new(profile.network.clone());
                self.applying.push_back((asker, Box::new(profile)));
                gate.command(&GateCommand::Policy(policy))
            }
            Err(error) => {
                if let Some(audit) = audit {
                    let error = error.clone();
                    // A writer that is gone is told of elsewhere; the policy stays either way.
                    drop(audit.append(AuditEvent::PolicyRejected { error }));
                }
                self.not_applied(asker, &error, tell);
                Ok(())
            }
        }
    }

    pub(super) fn not_applied(&mut self, asker: Asker, error: &str, tell: Tell<'_>) {
        let line = format!("the policy in force stays: {error}");
        if let Asker::Peer(peer) = asker {
            self.reply(peer, &SessionReply::Failed(line.clone()));
        }
        tell(Notice::Problem(line));
    }

    pub(super) fn applied(&mut self, applied: &Applied, tell: Tell<'_>) {
        let Some((asker, profile)) = self.applying.pop_front() else {
            return;
        };
        self.approvals.take_rules(&profile.approvals);
        if let Some(description) = &mut self.description {
            description.generation = applied.generation.clone();
        }
        let later = self.live.take(*profile);
        let line = outcome(applied, &later);
        if applied.changed || !later.is_empty() {
            tell(Notice::Said(line.clone()));
        }
        if let Asker::Peer(peer) = asker {
            self.reply(peer, &SessionReply::Done(line));
        }
    }
}

/// What a new policy did, one line.
fn outcome(applied: &Applied, later: &[&str]) -> String {
    let first = if applied.changed {
        format!("policy {} is in force", applied.generation)
    } else {
        "the network policy is the one in force".to_owned()
    };
    let closed = match applied.closed {
        0 => None,
        1 => Some("closed 1 connection that it does not permit".to_owned()),
        more => Some(format!("closed {more} connections that it does not permit")),
    };
    let ports: Vec<_> = applied
        .unreachable
        .iter()
        .map(ToString::to_string)
        .collect();
    let ports =
        (!ports.is_empty()).then(|| format!("port {} needs a new session", ports.join(", ")));
    let later =
        (!later.is_empty()).then(|| format!("{} counts for new sessions", later.join(", ")));
    let said = [Some(first), closed, ports, later].into_iter().flatten();
    said.collect::<Vec<_>>().join("; ")
}

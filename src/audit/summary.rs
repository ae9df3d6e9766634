//! Folds a session's records into its story: what ran, how confined, what it reached, how it ended.
//!
//! The jail chooses how many destinations there are, so their number is capped; what is beyond the cap
//! is counted.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use serde::Serialize;

use super::changes::FileChanges;
use super::event::{AuditEvent, Isolation, Status};
use super::limit::Counted;
use super::process::{Process, ProcessUnknown};
use super::record::AuditRecord;
use crate::ids::{ConnId, PolicyGeneration};
use crate::policy::{DenyReason, Host, HostPattern, Port, RuleId, Transport, Verdict};

/// The most destinations that are told apart.
const MAX_DESTINATIONS: usize = 4096;

/// The most programs that are told apart.
const MAX_PROGRAMS: usize = 256;

/// The most connections that are told apart: of more than these each request counts as one.
const MAX_CONNECTIONS: usize = 1 << 16;

/// The most budgets that are told apart: more than a policy has.
const MAX_LIMITS: usize = 1024;

/// A session's story.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SessionSummary {
    /// How the session started; `None` when it never did.
    pub start: Option<Start>,
    /// When its last record was written.
    pub last: Option<Timestamp>,
    /// Whose session.
    pub user: String,
    /// On which host.
    pub host_id: String,
    /// How it ended, and after how many milliseconds; `None` while it runs.
    pub end: Option<End>,
    /// What changed in the folders that it could write, where that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FileChanges>,
    /// Who had it ended, if somebody had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<String>,
    /// Connections from outside to the jail's own ports that were asked for.
    pub forwarded: u64,
    /// How often another gate took the place of one that died: connections that it held have no end on
    /// record.
    #[serde(skip_serializing_if = "is_zero")]
    pub gate_restarts: u64,
    /// How often another writer went on with the log: a record that stands twice was sent again.
    #[serde(skip_serializing_if = "is_zero")]
    pub log_resumed: u64,
    /// How often the disk did not take what was written to a segment, which was given up.
    #[serde(skip_serializing_if = "is_zero")]
    pub sync_failures: u64,
    /// How many records could not be kept, as `records.lost` tells.
    #[serde(skip_serializing_if = "is_zero")]
    pub records_lost: u64,
    /// How often another witness took the place of one that died: connections made meanwhile name no process.
    #[serde(skip_serializing_if = "is_zero")]
    pub witness_restarts: u64,
    /// Whether the witness was lost for good: connections made since name no process.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub witness_lost: bool,
    /// How often the log could not be bound into the ledger for a while.
    #[serde(skip_serializing_if = "is_zero")]
    pub ledger_lost: u64,
    /// Whether the gate was lost for good: connections it held then have no end on record.
    pub gate_lost: bool,
    /// Where it wanted to go, in the order of first requests.
    pub destinations: Vec<Destination>,
    /// Requests that failed without a destination, in the order of the first of each kind.
    pub refusals: Vec<Refusal>,
    /// Names that were resolved.
    pub dns_queries: u64,
    /// Budgets that were used up, one row a budget, in the order of the first time.
    pub limits: Vec<Limit>,
    /// Requests to destinations beyond the cap on destinations.
    pub beyond_cap: u64,
    /// Who made connections, in the order of the first of each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<Program>,
    /// Connections of programs beyond the cap on programs.
    #[serde(skip_serializing_if = "is_zero")]
    pub programs_beyond_cap: u64,
    /// Connections that are counted with their program.
    #[serde(skip)]
    attributed: HashSet<ConnId>,
    /// Place of each destination in the list.
    #[serde(skip)]
    rows: HashMap<(Host, Port), usize>,
    /// Which destination a connection that was let through is for, until it is over.
    #[serde(skip)]
    connections: HashMap<ConnId, usize>,
}

/// How a session started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Start {
    /// When.
    pub at: Timestamp,
    /// The command.
    pub argv: Vec<String>,
    /// Name of the profile.
    pub profile: String,
    /// How much of the file system it might change.
    pub mode: String,
    /// The working directory inside the jail.
    pub workspace: String,
    /// The policy that decided.
    pub generation: PolicyGeneration,
    /// What confinement was achieved.
    pub isolation: Isolation,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct End {
    /// How the command ended.
    pub status: Status,
    /// After how many milliseconds.
    pub ms: u64,
}

/// Everything about one host and port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// The host as asked for.
    pub host: Host,
    /// The port as asked for.
    pub port: Port,
    /// Requests that were let through.
    pub allowed: u64,
    /// Requests that were denied by a rule or for want of one.
    pub denied: u64,
    /// Requests that a rule allowed and that failed afterwards.
    pub failed: u64,
    /// Why the last one was denied or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<DenyReason>,
    /// The rule that decided last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// Payload bytes to the network.
    pub bytes_up: u64,
    /// Payload bytes from the network.
    pub bytes_down: u64,
    /// How often an answer had which status, of requests that the gate could read.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub statuses: BTreeMap<u16, u64>,
}

/// A program that made connections, whichever of its processes did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Program {
    /// Its file, by its path in the jail; `None`: it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Why it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<ProcessUnknown>,
    /// Connections to the gate; a request that came out of TLS is none, one of plain HTTP in a tunnel that is looked
    /// into is.
    pub connections: u64,
}

/// Requests that could not be read as a request for a destination, one row a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Why.
    pub reason: DenyReason,
    /// What exactly, the last time.
    pub detail: String,
    /// How often.
    pub count: u64,
}

/// A budget that was used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// What was counted.
    pub what: Counted,
    /// The hosts whose budget it is; `None`: the session's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostPattern>,
    /// How often it came to that.
    pub count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl SessionSummary {
    /// Takes the next record in.
    pub fn add(&mut self, record: AuditRecord) {
        self.last = Some(record.ts);
        self.user = record.user;
        self.host_id = record.host_id;
        match record.event {
            AuditEvent::SessionStarted {
                argv,
                profile,
                mode,
                workspace,
                generation,
                isolation,
                ..
            } => {
                let at = record.ts;
                self.start = Some(Start {
                    at,
                    argv,
                    profile,
                    mode,
                    workspace,
                    generation,
                    isolation,
                });
            }
            AuditEvent::EgressDecided {
                conn,
                transport,
                host,
                port,
                verdict,
                reason,
                rule,
                process,
                process_unknown,
                ..
            } => {
                if transport != Transport::Inspected {
                    self.made(conn, process.as_deref(), process_unknown);
                }
                self.decided(conn, (host, port), verdict, (reason, rule));
            }
            AuditEvent::DnsQuery { .. } => self.dns_queries += 1,
            AuditEvent::EgressDialed { .. }
            | AuditEvent::DnsAsked { .. }
            | AuditEvent::DnsDropped { .. }
            | AuditEvent::CredentialUsed { .. }
            | AuditEvent::ApprovalAsked { .. }
            | AuditEvent::ApprovalAnswered { .. }
            | AuditEvent::PolicyApplied { .. }
            | AuditEvent::PolicyRejected { .. }
            | AuditEvent::LedgerResumed { .. }
            | AuditEvent::SessionAttached { .. }
            | AuditEvent::SessionDetached { .. }
            | AuditEvent::BodyKept(_)
            | AuditEvent::BodySkipped(_) => {}
            AuditEvent::HttpExchanged(exchange) => {
                let row = self.connections.get(&exchange.conn).copied();
                let destination = row.and_then(|row| self.destinations.get_mut(row));
                if let (Some(destination), Some(status)) = (destination, exchange.status) {
                    *destination.statuses.entry(status).or_default() += 1;
                }
            }
            AuditEvent::EgressRefused {
                conn,
                transport,
                reason,
                detail,
                process,
                process_unknown,
            } => {
                if transport != Transport::Inspected {
                    self.made(conn, process.as_deref(), process_unknown);
                }
                self.refused(conn, reason, detail);
            }
            AuditEvent::EgressClosed {
                conn,
                bytes_up,
                bytes_down,
                ..
            } => {
                if let Some(destination) = self.finish(conn) {
                    destination.bytes_up = destination.bytes_up.saturating_add(bytes_up);
                    destination.bytes_down = destination.bytes_down.saturating_add(bytes_down);
                }
            }
            AuditEvent::LimitHit { what, host, .. } => self.limit(what, host),
            AuditEvent::SessionStopping { by, .. } => self.stopped_by = Some(by),
            AuditEvent::SessionForwarded { .. } => self.forwarded += 1,
            AuditEvent::SessionEnded { status, ms, files } => {
                self.end = Some(End { status, ms });
                self.files = files;
            }
            other => self.failed(&other),
        }
    }

    /// Something of the session's own failed, if it is that.
    fn failed(&mut self, event: &AuditEvent) {
        match event {
            AuditEvent::GateRestarted { .. } => self.gate_restarts += 1,
            AuditEvent::GateLost { .. } => self.gate_lost = true,
            AuditEvent::WitnessRestarted { .. } => self.witness_restarts += 1,
            AuditEvent::WitnessLost { .. } => self.witness_lost = true,
            AuditEvent::LogResumed { .. } => self.log_resumed += 1,
            AuditEvent::LogSyncFailed { .. } => self.sync_failures += 1,
            AuditEvent::RecordsLost { count, .. } => {
                self.records_lost = self.records_lost.saturating_add(*count);
            }
            AuditEvent::LedgerLost { .. } => self.ledger_lost += 1,
            _ => {}
        }
    }

    fn decided(
        &mut self,
        conn: ConnId,
        (host, port): (Host, Port),
        verdict: Verdict,
        (reason, rule): (Option<DenyReason>, Option<RuleId>),
    ) {
        let Some(row) = self.row(host, port) else {
            self.beyond_cap += 1;
            self.connections.remove(&conn);
            return;
        };
        if let Some(destination) = self.destinations.get_mut(row) {
            match verdict {
                Verdict::Allow => destination.allowed += 1,
                Verdict::Deny => destination.denied += 1,
                // The answer is a record of its own.
                Verdict::Ask => {}
            }
            destination.reason = reason.or(destination.reason);
            destination.rule = rule;
        }
        match verdict {
            Verdict::Allow => self.connections.insert(conn, row),
            Verdict::Ask | Verdict::Deny => self.connections.remove(&conn),
        };
    }

    /// Counts a connection for its program, the first time that it is told of.
    fn made(&mut self, conn: ConnId, process: Option<&Process>, unknown: Option<ProcessUnknown>) {
        let told = process.is_some() || unknown.is_some();
        if !told || self.attributed.contains(&conn) {
            return;
        }
        if self.attributed.len() < MAX_CONNECTIONS {
            self.attributed.insert(conn);
        }
        let exe = process.map(|process| process.exe.as_str());
        let full = self.programs.len() >= MAX_PROGRAMS;
        let mut known = self.programs.iter_mut();
        match known.find(|known| known.exe.as_deref() == exe && known.unknown == unknown) {
            Some(program) => program.connections += 1,
            None if full => self.programs_beyond_cap += 1,
            None => self.programs.push(Program {
                exe: exe.map(ToOwned::to_owned),
                unknown,
                connections: 1,
            }),
        }
    }

    fn refused(&mut self, conn: ConnId, reason: DenyReason, detail: String) {
        if let Some(destination) = self.finish(conn) {
            destination.failed += 1;
            destination.reason = Some(reason);
            return;
        }
        let known = self
            .refusals
            .iter_mut()
            .find(|refusal| refusal.reason == reason);
        if let Some(refusal) = known {
            refusal.count += 1;
            refusal.detail = detail;
        } else {
            self.refusals.push(Refusal {
                reason,
                detail,
                count: 1,
            });
        }
    }

    fn limit(&mut self, what: Counted, host: Option<HostPattern>) {
        let full = self.limits.len() >= MAX_LIMITS;
        let mut known = self.limits.iter_mut();
        match known.find(|limit| limit.what == what && limit.host == host) {
            Some(limit) => limit.count += 1,
            None if full => {}
            None => self.limits.push(Limit {
                what,
                host,
                count: 1,
            }),
        }
    }

    /// The place of a destination in the list; `None` when the list is full.
    fn row(&mut self, host: Host, port: Port) -> Option<usize> {
        let next = self.destinations.len();
        match self.rows.entry((host, port)) {
            Entry::Occupied(known) => Some(*known.get()),
            Entry::Vacant(_) if next >= MAX_DESTINATIONS => None,
            Entry::Vacant(new) => {
                let host = new.key().0.clone();
                self.destinations.push(Destination {
                    host,
                    port,
                    allowed: 0,
                    denied: 0,
                    failed: 0,
                    reason: None,
                    rule: None,
                    bytes_up: 0,
                    bytes_down: 0,
                    statuses: BTreeMap::new(),
                });
                Some(*new.insert(next))
            }
        }
    }

    /// The destination of a request that is over. The next one on its connection is decided anew.
    fn finish(&mut self, conn: ConnId) -> Option<&mut Destination> {
        let row = self.connections.remove(&conn)?;
        self.destinations.get_mut(row)
    }
}

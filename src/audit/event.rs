//! What can happen to a session, one variant an event. The words that scripts match on stand here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::changes::FileChanges;
use super::http::{BodyKept, BodySkipped, HttpExchange};
use super::limit::{Counted, LimitAction};
use super::process::{Process, ProcessUnknown};
use crate::ids::{ConnId, PolicyGeneration, QuestionId, SessionName};
use crate::policy::{
    DenyReason, Host, HostPattern, Method, Port, QuestionEnd, RuleId, Scope, Transport, Verdict,
};

/// One fact about a session. A record (see [`super::record`]) adds who, when and the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", deny_unknown_fields)]
pub enum AuditEvent {
    /// The jail stands, confined as told; the command is about to be executed.
    #[serde(rename = "session.started")]
    SessionStarted {
        /// The command as given, each argument capped at 4 KiB.
        argv: Vec<String>,
        /// What the caller calls the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<SessionName>,
        /// Name of the profile.
        profile: String,
        /// `read-only`, `workspace-write` or `danger-full-access`.
        mode: String,
        /// The working directory inside the jail.
        workspace: String,
        /// The policy that will decide.
        generation: PolicyGeneration,
        /// What confinement was achieved.
        isolation: Isolation,
        /// The host's Unix sockets that the command may connect to.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unix_sockets: Vec<ShownSocket>,
    },
    /// A request was judged. Recorded before any byte or DNS query leaves for it.
    #[serde(rename = "egress.decided")]
    EgressDecided {
        /// The connection it came on.
        conn: ConnId,
        /// The front door.
        transport: Transport,
        /// The destination as asked for.
        host: Host,
        /// The port as asked for.
        port: Port,
        /// The method, where the gate sees it.
        #[serde(skip_serializing_if = "Option::is_none")]
        method: Option<Method>,
        /// The path without query, where the gate sees it; capped at 1 KiB.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// Allow or deny.
        verdict: Verdict,
        /// Why, when denied.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<DenyReason>,
        /// The rule that decided.
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<RuleId>,
        /// The policy that decided.
        generation: PolicyGeneration,
        /// The process in the jail that made it, as it was seen when the connection was accepted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        process: Option<Box<Process>>,
        /// Why none is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        process_unknown: Option<ProcessUnknown>,
    },
    /// What a name resolved to, after the decision that allowed the query.
    #[serde(rename = "dns.query")]
    DnsQuery {
        /// The connection that needed it.
        conn: ConnId,
        /// The name asked for.
        name: String,
        /// Addresses that may be dialed.
        addresses: Vec<IpAddr>,
        /// Addresses that policy refuses to dial.
        refused: Vec<IpAddr>,
    },
    /// A program in the jail asked for a name. Recorded before it is answered; nothing is looked up.
    #[serde(rename = "dns.asked")]
    DnsAsked {
        /// The name asked for, bytes that are no letters, digits or hyphens escaped; empty if it could not be
        /// read.
        name: String,
        /// The type asked for, as `A`; empty if it could not be read.
        kind: String,
        /// What it was told.
        answer: DnsAnswer,
        /// The process in the jail that asked, as it was seen when the question came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        process: Option<Box<Process>>,
        /// Why none is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        process_unknown: Option<ProcessUnknown>,
    },
    /// Programs in the jail asked for names faster than they are answered.
    #[serde(rename = "dns.dropped")]
    DnsDropped {
        /// Questions since the last such record that were neither answered nor recorded.
        count: u64,
    },
    /// A connection to this address stands, and behind it, where `via` names a proxy, one to the
    /// destination.
    #[serde(rename = "egress.dialed")]
    EgressDialed {
        /// The connection it serves.
        conn: ConnId,
        /// The address that was dialed: one of those checked, or the upstream proxy's.
        address: SocketAddr,
        /// The upstream proxy, as `proxy.corp:3128`, where the connection goes through one.
        #[serde(skip_serializing_if = "Option::is_none")]
        via: Option<String>,
    },
    /// A request failed outside of the rules: unreadable, refused address, wrong SNI, no answer.
    #[serde(rename = "egress.refused")]
    EgressRefused {
        /// The connection it came on.
        conn: ConnId,
        /// The front door.
        transport: Transport,
        /// Why.
        reason: DenyReason,
        /// What exactly, for a person; never raw bytes from the jail.
        detail: String,
        /// The process in the jail that made the connection, as it was seen when it was accepted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        process: Option<Box<Process>>,
        /// Why none is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        process_unknown: Option<ProcessUnknown>,
    },
    /// A credential's value was put into a request. Recorded before any byte of it leaves.
    #[serde(rename = "credential.used")]
    CredentialUsed {
        /// The connection the request came on.
        conn: ConnId,
        /// Which credential, by its name in the profile; never its value.
        credential: String,
        /// The host that gets it.
        host: Host,
    },
    /// A request that the gate could read is over, answered or not. Comes before its `egress.closed`.
    #[serde(rename = "http.exchanged")]
    HttpExchanged(Box<HttpExchange>),
    /// A body of a request or of its answer is kept beside the log. Comes before its `http.exchanged`.
    #[serde(rename = "body.kept")]
    BodyKept(BodyKept),
    /// A body that the profile would have kept is not.
    #[serde(rename = "body.skipped")]
    BodySkipped(BodySkipped),
    /// A tunnel or request is over.
    #[serde(rename = "egress.closed")]
    EgressClosed {
        /// The connection.
        conn: ConnId,
        /// Bytes from the jail to the network, payload only.
        bytes_up: u64,
        /// Bytes from the network to the jail, payload only.
        bytes_down: u64,
        /// Milliseconds from decision to end.
        ms: u64,
        /// Who ended it.
        ended_by: EndedBy,
    },
    /// A budget is used up; recorded once for each time that it comes to that, before what follows. Or a
    /// share of the machine is: recorded once a session, when the kernel has said so.
    #[serde(rename = "limit.hit")]
    LimitHit {
        /// What was counted.
        what: Counted,
        /// The hosts whose budget it is; absent for the session's.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<HostPattern>,
        /// How much was used: bytes, a number, milliseconds or percent, by the kind.
        used: u64,
        /// How much might be used.
        max: u64,
        /// What follows.
        action: LimitAction,
    },
    /// Whoever answers for the session is about to be asked. Comes after the `egress.decided` with the
    /// verdict `ask`.
    #[serde(rename = "approval.asked")]
    ApprovalAsked {
        /// The question; later requests for the same wait for its answer as well.
        question: QuestionId,
        /// The connection that made it necessary.
        conn: ConnId,
        /// The front door.
        transport: Transport,
        /// The destination as asked for.
        host: Host,
        /// The port as asked for.
        port: Port,
        /// The method, where the gate sees it.
        #[serde(skip_serializing_if = "Option::is_none")]
        method: Option<Method>,
        /// The path without query, where the gate sees it; capped at 1 KiB.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// The rule that asks; none: the policy asks for what no rule speaks of.
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<RuleId>,
    },
    /// The question is over. Recorded before anything goes on; each connection that waited then has an
    /// `egress.decided` of its own.
    #[serde(rename = "approval.answered")]
    ApprovalAnswered {
        /// The question.
        question: QuestionId,
        /// What became of it.
        end: QuestionEnd,
        /// How far the answer reaches, if there was one.
        #[serde(skip_serializing_if = "Option::is_none")]
        scope: Option<Scope>,
        /// Who answered, as the session tells it.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A new policy is about to be in force; what it does not permit is closed. Every decision that lets
    /// something through from here on is taken by it.
    #[serde(rename = "policy.applied")]
    PolicyApplied {
        /// The policy.
        generation: PolicyGeneration,
    },
    /// A profile that changed could not be taken: the policy in force stays.
    #[serde(rename = "policy.rejected")]
    PolicyRejected {
        /// What is wrong with it, for a person.
        error: String,
    },
    /// The gate ended by itself or did not answer, and another one is about to take its place, under the
    /// same policy. Connections that the first one held have no `egress.closed`; what the jail connected
    /// to meanwhile waited. Records that it had sent and that were not acknowledged may follow.
    #[serde(rename = "gate.restarted")]
    GateRestarted {
        /// Milliseconds for which there was none, from when it was noticed to this record.
        ms: u64,
    },
    /// The audit writer died and another one goes on with its log, which was whole up to here. What was
    /// not acknowledged before is sent again, so it may stand in the log twice.
    #[serde(rename = "log.resumed")]
    LogResumed {
        /// Bytes of a last record that was written only in part, and cut off. It was not acknowledged.
        lost_bytes: u64,
    },
    /// The disk did not take what was written to a segment of the log, as it said late (fsync(2)): that segment is given up,
    /// and this is the first record of another. Nothing that came after the last record below was acknowledged from there.
    #[serde(rename = "log.sync_failed")]
    LogSyncFailed {
        /// The number of the segment that is given up.
        segment: u32,
        /// The place in the log of the last record in it that the disk is known to have. What follows it there, if anything
        /// does, may not be there after the next start of the machine.
        records: u64,
        /// What the disk said.
        why: String,
    },
    /// Records could not be kept for a while: a full disk, a slow one. The first record after that while, or behind
    /// those that waited.
    #[serde(rename = "records.lost")]
    RecordsLost {
        /// How many there would have been. What each was to let through was let through only where the profile says
        /// `[audit] on_failure = "continue"`.
        count: u64,
        /// The same by event.
        kinds: BTreeMap<String, u64>,
        /// When the first of them came.
        from: Timestamp,
        /// When the last of them came.
        to: Timestamp,
        /// Why, for a person.
        why: String,
        /// Who counted them.
        by: LostBy,
    },
    /// The log's head cannot be bound into the ledger: what follows is in the log's own chain, and nothing of it is
    /// signed until [`Self::LedgerResumed`] stands here.
    #[serde(rename = "ledger.lost")]
    LedgerLost {
        /// Why, for a person.
        why: String,
    },
    /// It is bound again: all up to here is signed.
    #[serde(rename = "ledger.resumed")]
    LedgerResumed {
        /// Milliseconds for which it was not, from the first attempt that failed.
        ms: u64,
    },
    /// The gate ended by itself or does not answer, and no other could take its place: the jail had no
    /// network from then on, and connections that it held have no `egress.closed`. Written when the
    /// session ends.
    #[serde(rename = "gate.lost")]
    GateLost {
        /// Milliseconds from `session.started` to this record.
        ms: u64,
    },
    /// The witness ended by itself, and another one is about to take its place: of connections made meanwhile nobody can
    /// say which process made them (`no_witness`).
    #[serde(rename = "witness.restarted")]
    WitnessRestarted {
        /// Milliseconds for which there was none, from when it was noticed to this record.
        ms: u64,
    },
    /// The witness ended by itself, and none takes its place: from here on nobody can say which process made a
    /// connection.
    #[serde(rename = "witness.lost")]
    WitnessLost {
        /// Milliseconds for which another one was tried.
        ms: u64,
    },
    /// Somebody had the session ended.
    #[serde(rename = "session.stopping")]
    SessionStopping {
        /// Who.
        by: String,
        /// Whether the command was killed without being asked first.
        kill: bool,
    },
    /// Somebody outside is about to be connected to a TCP port of the jail's own. Written before.
    #[serde(rename = "session.forwarded")]
    SessionForwarded {
        /// Who.
        by: String,
        /// The port on the jail's loopback.
        port: Port,
    },
    /// Somebody looks at the session's own terminal from now on.
    #[serde(rename = "session.attached")]
    SessionAttached {
        /// Who.
        by: String,
        /// Whether the keys typed there go nowhere.
        read_only: bool,
    },
    /// Somebody does not look at it any more.
    #[serde(rename = "session.detached")]
    SessionDetached {
        /// Who.
        by: String,
        /// As in `session.attached`.
        read_only: bool,
    },
    /// The session is over; always a session's last record.
    #[serde(rename = "session.ended")]
    SessionEnded {
        /// How the command ended.
        status: Status,
        /// Milliseconds since `session.started`.
        ms: u64,
        /// What changed in the folders that it could write; absent where it could write none, where the profile does not want
        /// it, and where the session process died.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<FileChanges>,
    },
}

impl AuditEvent {
    /// The word that stands in the record's `event` field.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SessionStarted { .. } => "session.started",
            Self::EgressDecided { .. } => "egress.decided",
            Self::DnsQuery { .. } => "dns.query",
            Self::DnsAsked { .. } => "dns.asked",
            Self::DnsDropped { .. } => "dns.dropped",
            Self::EgressDialed { .. } => "egress.dialed",
            Self::EgressRefused { .. } => "egress.refused",
            Self::CredentialUsed { .. } => "credential.used",
            Self::HttpExchanged(_) => "http.exchanged",
            Self::BodyKept(_) => "body.kept",
            Self::BodySkipped(_) => "body.skipped",
            Self::EgressClosed { .. } => "egress.closed",
            Self::LimitHit { .. } => "limit.hit",
            Self::ApprovalAsked { .. } => "approval.asked",
            Self::ApprovalAnswered { .. } => "approval.answered",
            Self::PolicyApplied { .. } => "policy.applied",
            Self::PolicyRejected { .. } => "policy.rejected",
            Self::GateRestarted { .. } => "gate.restarted",
            Self::LogResumed { .. } => "log.resumed",
            Self::LogSyncFailed { .. } => "log.sync_failed",
            Self::RecordsLost { .. } => "records.lost",
            Self::LedgerLost { .. } => "ledger.lost",
            Self::LedgerResumed { .. } => "ledger.resumed",
            Self::GateLost { .. } => "gate.lost",
            Self::WitnessRestarted { .. } => "witness.restarted",
            Self::WitnessLost { .. } => "witness.lost",
            Self::SessionStopping { .. } => "session.stopping",
            Self::SessionForwarded { .. } => "session.forwarded",
            Self::SessionAttached { .. } => "session.attached",
            Self::SessionDetached { .. } => "session.detached",
            Self::SessionEnded { .. } => "session.ended",
        }
    }

    /// Who made the connection that it is about, where that is told.
    pub fn process_mut(&mut self) -> Option<&mut Process> {
        match self {
            Self::EgressDecided { process, .. }
            | Self::EgressRefused { process, .. }
            | Self::DnsAsked { process, .. } => process.as_deref_mut(),
            _ => None,
        }
    }

    /// Whether it tells of a death or of a loss: that has happened whether or not it is on record, and lets nothing
    /// through.
    pub fn tells_of_a_loss(&self) -> bool {
        matches!(
            self,
            Self::GateRestarted { .. }
                | Self::GateLost { .. }
                | Self::WitnessRestarted { .. }
                | Self::WitnessLost { .. }
                | Self::RecordsLost { .. }
        )
    }

    /// Who may report it.
    pub fn source(&self) -> Source {
        match self {
            Self::SessionStarted { .. }
            | Self::PolicyRejected { .. }
            | Self::GateRestarted { .. }
            | Self::GateLost { .. }
            | Self::WitnessRestarted { .. }
            | Self::WitnessLost { .. }
            | Self::SessionStopping { .. }
            | Self::SessionForwarded { .. }
            | Self::SessionAttached { .. }
            | Self::SessionDetached { .. }
            | Self::SessionEnded { .. } => Source::Session,
            Self::LogResumed { .. }
            | Self::LogSyncFailed { .. }
            | Self::LedgerLost { .. }
            | Self::LedgerResumed { .. }
            | Self::RecordsLost {
                by: LostBy::Writer, ..
            } => Source::Writer,
            // Time is kept where a lost gate does not stop it.
            Self::LimitHit { what, .. } if what.is_the_sessions() => Source::Session,
            Self::LimitHit { .. }
            | Self::EgressDecided { .. }
            | Self::DnsQuery { .. }
            | Self::DnsAsked { .. }
            | Self::DnsDropped { .. }
            | Self::EgressDialed { .. }
            | Self::EgressRefused { .. }
            | Self::CredentialUsed { .. }
            | Self::HttpExchanged(_)
            | Self::BodyKept(_)
            | Self::BodySkipped(_)
            | Self::EgressClosed { .. }
            | Self::ApprovalAsked { .. }
            | Self::ApprovalAnswered { .. }
            | Self::PolicyApplied { .. }
            | Self::RecordsLost {
                by: LostBy::Gate, ..
            } => Source::Gate,
        }
    }
}

/// A process that reports events. Each reports its own kind alone: a gate that was taken over cannot
/// end a session's log, nor can it start one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The session process: `session.*`, `gate.restarted`, `gate.lost`, `witness.*`, `policy.rejected`, and `limit.hit` of a
    /// time or a share of the machine.
    Session,
    /// The gate: `egress.*`, `http.*`, `body.*`, `dns.*`, `credential.used`, `approval.*`, `policy.applied`, and `limit.hit` of
    /// all else; `records.lost` of what it could not send.
    Gate,
    /// The audit writer itself: `log.resumed`, `log.sync_failed`, `records.lost`, `ledger.*`. No channel is its own.
    Writer,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Session => "session",
            Self::Gate => "gate",
            Self::Writer => "audit writer",
        })
    }
}

/// Who could not keep a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostBy {
    /// The audit writer: the disk did not take it.
    Writer,
    /// The gate: the audit writer did not take it, or died with it.
    Gate,
}

/// What a program in the jail was told of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DnsAnswer {
    /// An address that stands for the name within the session.
    Address,
    /// That it has no address of this kind: IPv6, in a jail without.
    NoAddress,
    /// REFUSED: no rule may allow the name, or it is no question for an address.
    Refused,
    /// FORMERR: no question could be read.
    Malformed,
    /// SERVFAIL: the session has asked for as many names as it may.
    Full,
    /// Nothing: it was no query.
    Nothing,
}

impl std::fmt::Display for DnsAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Address => "address",
            Self::NoAddress => "no_address",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Full => "full",
            Self::Nothing => "nothing",
        })
    }
}

/// Who ended a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// The program in the jail.
    Client,
    /// The far end.
    Upstream,
    /// The gate: limit, time-out or shutdown.
    Gate,
    /// A transport error on either side.
    Error,
    /// The gate: a budget of bytes is used up.
    Budget,
    /// A new policy that does not permit it any more.
    Policy,
}

/// How a session's command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It exited with this status.
    Exited(u8),
    /// This signal ended it.
    Signaled(u8),
    /// It was never executed.
    NotStarted(String),
    /// The session process died; the audit writer closed the log itself.
    SessionLost,
}

/// The confinement that was achieved, as far as it could be asked of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isolation {
    /// Which bubblewrap built the mounts, as `bubblewrap 0.8.0`.
    pub bwrap: String,
    /// Landlock ABI in force (0: none).
    pub landlock_abi: u8,
    /// Number of system calls that the seccomp table lets through.
    pub seccomp_allowed: u32,
    /// What was wanted and is missing; empty on a kernel that has all of it.
    pub shortfalls: Vec<Shortfall>,
}

/// The most sockets of the host that one jail shows, so that all of them fit the record of its start.
pub const MAX_SHOWN_SOCKETS: usize = 16;

/// A Unix socket of the host that shows in the jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShownSocket {
    /// Its path, as the profile has it.
    pub path: String,
    /// What it gives away, where it is a dangerous one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub danger: Option<String>,
}

/// One wanted protection that this kernel lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shortfall {
    /// What is missing, as `landlock: scoped signals`.
    pub what: String,
    /// What it needs, as `Landlock ABI 6 (Linux 6.12)`.
    pub needs: String,
}

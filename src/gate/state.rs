//! What every connection of one gate shares. One thread, so cells and no locks.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;

use crate::ids::ConnId;
use crate::policy::{NetworkLimits, Ruleset};

use super::bodies::Bodies;
use super::budget::Ledger;
use super::control::Control;
use super::counters::Counters;
use super::dns::Names;
use super::keyring::Keyring;
use super::live::Reachable;
use super::memory::{Memory, Note};
use super::mitm::Leaves;
use super::open::Leases;
use super::origin_tls::OriginTls;
use super::questions::Questions;
use super::report::Reporter;
use super::resolve::Resolver;
use super::room::Room;
use super::socks5_udp::Relay;
use super::splice::Pipes;
use super::summary::Summary;
use super::terms::Terms;
use super::upstream::Pool;
use super::via::Via;
use super::witness::Witness;

/// The bytes moved by one read of a relay.
pub(super) const CHUNK: usize = 64 << 10;

/// Numbers of connections that are noted together ahead of their use.
const NUMBERS: u64 = 1024;

/// One gate.
#[derive(Debug)]
pub(super) struct Gate {
    /// What decides now; replaced as a whole.
    pub(super) policy: RefCell<Rc<Ruleset>>,
    /// What no policy exceeds.
    pub(super) terms: Terms,
    /// Bounds, as the policy has them.
    pub(super) limits: Limits,
    /// Asks name servers, after a permit.
    pub(super) resolver: Resolver,
    /// Addresses that stand for names in the jail.
    pub(super) names: Names,
    /// The upstream proxies, where some lead out.
    pub(super) via: Via,
    /// The relay for datagrams, where the policy has one; there once the gate serves.
    pub(super) relay: OnceCell<Rc<Relay>>,
    /// What the session is told.
    pub(super) control: Control,
    /// Who waits for an answer, and what was answered.
    pub(super) questions: Questions,
    /// What is permitted at the moment.
    pub(super) leases: Leases,
    /// True while a new policy waits for its record; told again once it is in force.
    pub(super) changes: watch::Sender<bool>,
    /// Where the gate's own confinement lets it connect to; set once it is in force.
    pub(super) reachable: OnceCell<Reachable>,
    /// The audit channel.
    pub(super) reporter: Reporter,
    /// Counters for the report at the end.
    pub(super) summary: Summary,
    /// Whose bodies are kept.
    pub(super) bodies: Bodies,
    /// Credentials that the jail has placeholders of.
    pub(super) keyring: Keyring,
    /// What may be used, and how far it is used up.
    pub(super) ledger: Ledger,
    /// Live counters.
    pub(super) counters: Counters,
    /// Connections to origins that requests can be sent over.
    pub(super) pool: Pool,
    /// What HTTP/2 may have in memory.
    pub(super) room: Room,
    /// The certificates that clients see, where the policy has any TLS looked into.
    pub(super) mitm: Option<Leaves>,
    /// Who made each connection.
    pub(super) witness: Witness,
    /// The number given out last, see [`Gate::next_conn`].
    pub(super) last_conn: Cell<u64>,
    /// The last number that a successor will not give out.
    pub(super) noted_conn: Cell<u64>,
    /// What a gate that takes this one's place will know.
    pub(super) memory: Rc<Memory>,
    /// TLS towards origins and proxies, where the policy has any looked into or a proxy is spoken to by it.
    pub(super) origin_tls: Option<OriginTls>,
    /// Pipes for relays that move much.
    pub(super) pipes: Pipes,
    /// One read buffer for all relays: an idle tunnel holds none.
    pub(super) scratch: RefCell<Box<[u8]>>,
    /// True once the gate drains.
    pub(super) stopping: watch::Sender<bool>,
}

impl Gate {
    /// The rules that decide now. Whoever needs two answers of one policy keeps what it got.
    pub(super) fn rules(&self) -> Rc<Ruleset> {
        Rc::clone(&self.policy.borrow())
    }

    /// The next number for a connection, or for a request within a terminated one: both are told apart
    /// by it in the log. No gate of a session gives out what another one did.
    pub(super) fn next_conn(&self) -> ConnId {
        let next = self.last_conn.get().saturating_add(1);
        self.last_conn.set(next);
        if next > self.noted_conn.get() {
            self.noted_conn.set(next.saturating_add(NUMBERS));
            self.memory.keep(&Note::Conns(self.noted_conn.get()));
        }
        ConnId(next)
    }

    /// Resolves once no new policy waits for its record: what it has to say comes first.
    pub(super) async fn until_policy_stands(&self) {
        // The sender lives in self, so waiting cannot fail.
        drop(self.changes.subscribe().wait_for(|waits| !*waits).await);
    }

    /// Resolves when connections must end: the gate drains.
    pub(super) async fn until_stopping(&self) {
        // The sender lives in self, so waiting cannot fail.
        drop(
            self.stopping
                .subscribe()
                .wait_for(|stopping| *stopping)
                .await,
        );
    }

    /// Resolves when open tunnels must end: the gate drains, or nothing can be recorded any more.
    pub(super) async fn until_interrupted(&self) {
        tokio::select! {
            () = self.until_stopping() => {}
            () = self.reporter.until_lost() => {}
        }
    }
}

/// The bounds of [`NetworkLimits`] as durations and sizes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at once.
    pub(super) connections: usize,
    /// The longest request head.
    pub(super) head_bytes: usize,
    /// For a head, a SOCKS greeting, a `ClientHello`.
    pub(super) head: Duration,
    /// For resolution and dial together.
    pub(super) dial: Duration,
    /// Without a byte in either direction.
    pub(super) idle: Duration,
}

impl From<&NetworkLimits> for Limits {
    fn from(limits: &NetworkLimits) -> Self {
        Self {
            connections: limits.connections as usize,
            head_bytes: limits.head_bytes as usize,
            head: Duration::from_secs(limits.head_seconds.into()),
            dial: Duration::from_secs(limits.dial_seconds.into()),
            idle: Duration::from_secs(limits.idle_seconds.into()),
        }
    }
}

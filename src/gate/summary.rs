//! What a session reached and what it was refused, counted for the last lines of `run`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::policy::{DenyReason, EgressRequest, Host, Method, Port, Transport};
use crate::wire::gate::{DeniedDestination, GateSummary, LimitNotice};

/// Refusals that are told apart; a jail that asks for more only adds to those known.
const TRACKED: usize = 1024;

/// Refusals that are reported.
const REPORTED: usize = 64;

/// The longest path that is reported, in characters.
const MAX_PATH: usize = 200;

/// What is told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Subject {
    host: Host,
    port: Port,
    reason: DenyReason,
    /// The method, where it is of account.
    method: Option<Method>,
    /// Whether it was about datagrams.
    datagrams: bool,
}

/// How often, and the last one.
#[derive(Debug)]
struct Refused {
    count: u64,
    transport: Transport,
    path: Option<String>,
}

/// Counters of one gate.
#[derive(Debug, Default)]
pub(super) struct Summary {
    allowed: Cell<u64>,
    bytes_up: Cell<u64>,
    bytes_down: Cell<u64>,
    refused: Cell<u64>,
    denied: RefCell<HashMap<Subject, Refused>>,
}

impl Summary {
    /// A request was let through.
    pub(super) fn count_allowed(&self) {
        self.allowed.set(self.allowed.get().saturating_add(1));
    }

    /// A request or tunnel is over.
    pub(super) fn count_bytes(&self, up: u64, down: u64) {
        self.bytes_up.set(self.bytes_up.get().saturating_add(up));
        self.bytes_down
            .set(self.bytes_down.get().saturating_add(down));
    }

    /// A request was refused by the policy. `specific`: by a rule that speaks of methods or paths.
    pub(super) fn count_denied(&self, request: &EgressRequest, reason: DenyReason, specific: bool) {
        // Method and path are told where they were the reason; elsewhere the destination says it all.
        let within = matches!(
            reason,
            DenyReason::MethodNotAllowed
                | DenyReason::PathNotAllowed
                | DenyReason::WebsocketNotAllowed
        );
        let told = (specific || within).then_some(request);
        let method = told.and_then(|request| request.method.clone());
        let path = told.and_then(|request| request.path.as_ref());
        let path = path.map(|path| path.chars().take(MAX_PATH).collect());
        let subject = Subject {
            host: request.host.clone(),
            port: request.port,
            reason,
            method,
            datagrams: request.transport == Transport::Socks5Udp,
        };
        self.count(subject, request.transport, path);
    }

    /// Something for a destination was refused or came to nothing.
    pub(super) fn count_refused(
        &self,
        (host, port): (&Host, Port),
        transport: Transport,
        reason: DenyReason,
    ) {
        let subject = Subject {
            host: host.clone(),
            port,
            reason,
            method: None,
            datagrams: transport == Transport::Socks5Udp,
        };
        self.count(subject, transport, None);
    }

    fn count(&self, subject: Subject, transport: Transport, path: Option<String>) {
        self.refused.set(self.refused.get().saturating_add(1));
        let mut denied = self.denied.borrow_mut();
        if denied.len() >= TRACKED && !denied.contains_key(&subject) {
            return;
        }
        let entry = denied.entry(subject).or_insert(Refused {
            count: 0,
            transport,
            path: None,
        });
        entry.count = entry.count.saturating_add(1);
        (entry.transport, entry.path) = (transport, path);
    }

    /// How often something was refused.
    pub(super) fn denied(&self) -> u64 {
        self.refused.get()
    }

    /// The counters, most refused first, and the limits that were crossed.
    pub(super) fn report(&self, limits: Vec<LimitNotice>) -> GateSummary {
        let mut denied: Vec<_> = self
            .denied
            .borrow()
            .iter()
            .map(|(subject, refused)| DeniedDestination {
                host: subject.host.clone(),
                port: subject.port,
                transport: refused.transport,
                method: subject.method.clone(),
                path: refused.path.clone(),
                reason: subject.reason,
                count: refused.count,
            })
            .collect();
        denied.sort_by_cached_key(|d| {
            let what = (d.reason.code(), d.method.clone());
            let count = std::cmp::Reverse(d.count);
            (count, d.host.to_string(), d.port, what)
        });
        denied.truncate(REPORTED);
        GateSummary {
            allowed: self.allowed.get(),
            bytes_up: self.bytes_up.get(),
            bytes_down: self.bytes_down.get(),
            denied,
            limits,
        }
    }
}

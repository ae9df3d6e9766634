//! What a session reached and what it was refused, counted for the last lines of `run`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::policy::{DenyReason, Host, Port};
use crate::wire::gate::{DeniedDestination, GateSummary, LimitNotice};

/// Refused destinations that are told apart; a jail that asks for more only adds to those known.
const TRACKED: usize = 1024;

/// Refused destinations that are reported.
const REPORTED: usize = 64;

/// Counters of one gate.
#[derive(Debug, Default)]
pub(super) struct Summary {
    allowed: Cell<u64>,
    bytes_up: Cell<u64>,
    bytes_down: Cell<u64>,
    refused: Cell<u64>,
    denied: RefCell<HashMap<(Host, Port), (DenyReason, u64)>>,
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

    /// A destination was refused.
    pub(super) fn count_denied(&self, host: &Host, port: Port, reason: DenyReason) {
        self.refused.set(self.refused.get().saturating_add(1));
        let mut denied = self.denied.borrow_mut();
        let key = (host.clone(), port);
        if denied.len() >= TRACKED && !denied.contains_key(&key) {
            return;
        }
        let entry = denied.entry(key).or_insert((reason, 0));
        *entry = (reason, entry.1.saturating_add(1));
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
            .map(|((host, port), (reason, count))| DeniedDestination {
                host: host.clone(),
                port: *port,
                reason: *reason,
                count: *count,
            })
            .collect();
        denied.sort_by_cached_key(|d| (std::cmp::Reverse(d.count), d.host.to_string(), d.port));
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

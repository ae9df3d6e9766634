//! Live counters: what moves now, in all and by destination. Counting allocates only for a destination
//! that was not seen before.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use crate::policy::{Host, Port};
use crate::wire::gate::{Counters as Report, HostCounters};

use super::relay::Direction;
use super::state::Gate;

/// Destinations that are told apart; the others are summed up.
const TRACKED: usize = 1024;

/// Destinations that are reported by name: a report fits into what a socket takes at once.
const REPORTED: usize = 128;

/// Counters of one gate.
#[derive(Debug, Default)]
pub(super) struct Counters {
    all: Row,
    opened: Cell<u64>,
    open: Cell<u64>,
    rows: RefCell<HashMap<(Host, Port), Rc<Row>>>,
    rest: Rc<Row>,
}

/// Counters of one destination.
#[derive(Debug, Default)]
pub(super) struct Row {
    requests: Cell<u64>,
    up: Cell<u64>,
    down: Cell<u64>,
}

impl Row {
    fn count(&self, direction: Direction, bytes: u64) {
        let counter = match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        };
        counter.set(counter.get().saturating_add(bytes));
    }

    fn count_request(&self) {
        self.requests.set(self.requests.get().saturating_add(1));
    }
}

impl Counters {
    /// The row of a destination.
    pub(super) fn row(&self, host: &Host, port: Port) -> Rc<Row> {
        let mut rows = self.rows.borrow_mut();
        let key = (host.clone(), port);
        if let Some(row) = rows.get(&key) {
            return Rc::clone(row);
        }
        if rows.len() >= TRACKED {
            return Rc::clone(&self.rest);
        }
        Rc::clone(rows.entry(key).or_default())
    }

    /// A request was let through.
    pub(super) fn count_request(&self, host: &Host, port: Port) {
        self.all.count_request();
        self.row(host, port).count_request();
    }

    /// Payload moved.
    pub(super) fn count_bytes(&self, row: &Row, direction: Direction, bytes: usize) {
        self.all.count(direction, bytes as u64);
        row.count(direction, bytes as u64);
    }

    /// A connection was opened.
    pub(super) fn opened(&self) {
        self.opened.set(self.opened.get().saturating_add(1));
    }

    /// A request or tunnel has a connection.
    pub(super) fn connected(&self) {
        self.open.set(self.open.get().saturating_add(1));
    }

    /// A request or tunnel is over.
    pub(super) fn disconnected(&self) {
        self.open.set(self.open.get().saturating_sub(1));
    }

    /// The counters as they stand, destinations with the most bytes first.
    pub(super) fn report(&self, gate: &Gate) -> Report {
        let rows = self.rows.borrow();
        let mut hosts: Vec<_> = rows
            .iter()
            .map(|((host, port), row)| counted(Some((host.clone(), *port)), row))
            .collect();
        hosts.sort_by_cached_key(|row| {
            let bytes = row.bytes_up.saturating_add(row.bytes_down);
            let name = row.host.as_ref().map(ToString::to_string);
            (std::cmp::Reverse((bytes, row.requests)), name, row.port)
        });
        let cut = hosts.split_off(hosts.len().min(REPORTED));
        let rest = cut
            .into_iter()
            .fold(counted(None, &self.rest), |mut rest, row| {
                rest.requests = rest.requests.saturating_add(row.requests);
                rest.bytes_up = rest.bytes_up.saturating_add(row.bytes_up);
                rest.bytes_down = rest.bytes_down.saturating_add(row.bytes_down);
                rest
            });
        if (rest.requests, rest.bytes_up, rest.bytes_down) != (0, 0, 0) {
            hosts.push(rest);
        }
        Report {
            bytes_up: self.all.up.get(),
            bytes_down: self.all.down.get(),
            requests: self.all.requests.get(),
            connections_open: self.open.get(),
            connections_total: self.opened.get(),
            denied: gate.summary.denied(),
            hosts,
            budgets: gate.ledger.report(),
        }
    }
}

fn counted(destination: Option<(Host, Port)>, row: &Row) -> HostCounters {
    let (host, port) = destination.unzip();
    HostCounters {
        host,
        port,
        requests: row.requests.get(),
        bytes_up: row.up.get(),
        bytes_down: row.down.get(),
    }
}

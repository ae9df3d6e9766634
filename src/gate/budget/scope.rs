//! What is counted together: all of the session, or the hosts of one rule.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::ConnId;
use crate::policy::host::registrable;
use crate::policy::{
    BudgetKind, BudgetRule, Budgets, DomainName, EgressRequest, Host, HostPattern,
};

use super::super::memory::{Memory, Note, Recalled};
use super::super::relay::Direction;
use super::Seen;
use super::meter::Meter;

/// Names below all domains together that one scope tells apart; beyond it a new name is refused.
const MAX_NAMES: usize = 65_536;

/// The meters of one scope.
#[derive(Debug)]
pub(in crate::gate) struct Scope {
    /// The hosts it speaks of; `None`: all.
    pub(super) host: Option<HostPattern>,
    bytes_up: Rc<Meter>,
    bytes_down: Rc<Meter>,
    requests: Rc<Meter>,
    connections: Rc<Meter>,
    url_bytes: Rc<Meter>,
    header_bytes: Rc<Meter>,
    rate: Rc<Meter>,
    /// The window of the rate.
    per: Cell<Duration>,
    /// When all requests let through so far would have come, had they come evenly (GCRA, ITU-T I.371).
    due: Cell<Option<Instant>>,
    hosts: Rc<Meter>,
    known_hosts: RefCell<HashSet<Host>>,
    labels: Rc<Meter>,
    /// Names by the registrable domain that they are below.
    known_names: RefCell<HashMap<Box<str>, HashSet<DomainName>>>,
    /// How many names that is.
    names: Cell<usize>,
    /// Where names are noted.
    memory: OnceCell<Rc<Memory>>,
}

/// One request, as far as budgets care.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) conn: ConnId,
    pub(super) request: &'a EgressRequest,
    pub(super) seen: Seen,
    /// Whether a rule names exactly this host.
    pub(super) named: bool,
}

impl Scope {
    /// All of the session.
    pub(super) fn session(budgets: &Budgets) -> Self {
        Self::new(None, budgets)
    }

    /// The hosts of one rule.
    pub(super) fn of_rule(rule: &BudgetRule) -> Self {
        Self::new(Some(&rule.host), &rule.budgets)
    }

    fn new(host: Option<&HostPattern>, budgets: &Budgets) -> Self {
        let meter = |kind| Rc::new(Meter::new(kind, host, budgets.get(kind)));
        let scope = Self {
            host: host.cloned(),
            bytes_up: meter(BudgetKind::BytesUp),
            bytes_down: meter(BudgetKind::BytesDown),
            requests: meter(BudgetKind::Requests),
            connections: meter(BudgetKind::Connections),
            url_bytes: meter(BudgetKind::UrlBytes),
            header_bytes: meter(BudgetKind::HeaderBytes),
            rate: meter(BudgetKind::Rate),
            per: Cell::new(Duration::ZERO),
            due: Cell::new(None),
            hosts: meter(BudgetKind::Hosts),
            known_hosts: RefCell::default(),
            labels: meter(BudgetKind::Labels),
            known_names: RefCell::default(),
            names: Cell::new(0),
            memory: OnceCell::new(),
        };
        scope.adopt(budgets);
        scope
    }

    /// From now on what is used up is noted; what an earlier gate has noted is used. Of the rate nothing is
    /// noted: where there was any request, all of its window is taken for used.
    pub(super) fn keep_in(&self, memory: &Rc<Memory>, recalled: &Recalled) {
        let known = |meter: &Meter| recalled.used.get(&(self.host.clone(), meter.what()));
        for meter in self.added_up() {
            meter.keep_in(memory, known(meter));
        }
        for (_, host, label) in recalled
            .known
            .iter()
            .filter(|(scope, ..)| *scope == self.host)
        {
            match host {
                Host::Name(name) if *label => {
                    let names = self.add_label(registrable(name), name);
                    self.labels.set_used(self.labels.used().max(names));
                }
                Host::Name(_) | Host::Addr(_) => {
                    let mut known = self.known_hosts.borrow_mut();
                    known.insert(host.clone());
                    self.hosts.set_used(known.len() as u64);
                }
            }
        }
        if known(&self.requests).is_some() && self.rate.is_limited() {
            self.due.set(Some(Instant::now() + self.burst()));
            self.rate.set_used(self.rate.max());
        }
        self.memory.get_or_init(|| Rc::clone(memory));
    }

    /// The meters whose use only grows, one by one.
    fn added_up(&self) -> [&Rc<Meter>; 6] {
        [
            &self.bytes_up,
            &self.bytes_down,
            &self.requests,
            &self.connections,
            &self.url_bytes,
            &self.header_bytes,
        ]
    }

    fn note(&self, host: &Host, label: bool) {
        if let Some(memory) = self.memory.get() {
            memory.keep(&Note::Known {
                scope: self.host.clone(),
                host: host.clone(),
                label,
            });
        }
    }

    /// Takes new limits over; what was used stays used.
    pub(super) fn adopt(&self, budgets: &Budgets) {
        for meter in self.meters() {
            meter.adopt(budgets.get(meter.what()));
        }
        let per = budgets.get(BudgetKind::Rate).map(|budget| budget.per);
        self.per.set(Duration::from_millis(per.unwrap_or_default()));
    }

    /// Every meter.
    pub(super) fn meters(&self) -> [&Rc<Meter>; 9] {
        [
            &self.bytes_up,
            &self.bytes_down,
            &self.requests,
            &self.connections,
            &self.rate,
            &self.hosts,
            &self.labels,
            &self.url_bytes,
            &self.header_bytes,
        ]
    }

    /// Whether it speaks of this host.
    pub(super) fn covers(&self, host: &Host) -> bool {
        self.host
            .as_ref()
            .is_none_or(|pattern| pattern.covers(host))
    }

    /// The meter of payload.
    pub(super) fn bytes(&self, direction: Direction) -> &Rc<Meter> {
        match direction {
            Direction::Up => &self.bytes_up,
            Direction::Down => &self.bytes_down,
        }
    }

    /// The meter of connections to the network: they are counted when they are opened, because a request
    /// may do with one that stands.
    pub(super) fn connections(&self) -> &Rc<Meter> {
        &self.connections
    }

    /// The first meter that has no room for a request, and the hosts it speaks of if they are narrower
    /// than the scope.
    pub(super) fn obstacle(&self, asked: Asked<'_>) -> Option<(&Rc<Meter>, Option<HostPattern>)> {
        let blocked = self
            .needs(asked.seen)
            .into_iter()
            .find(|(meter, need, _)| meter.room() < *need);
        if let Some((meter, ..)) = blocked {
            return Some((meter, None));
        }
        if !self.rate.only_warns() && self.is_too_fast(Instant::now()) {
            return Some((&self.rate, None));
        }
        let host = &asked.request.host;
        if self.hosts.is_limited()
            && !self.hosts.only_warns()
            && self.hosts.room() == 0
            && !self.known_hosts.borrow().contains(host)
        {
            return Some((&self.hosts, None));
        }
        if self.labels.only_warns() {
            return None;
        }
        let (parent, _, siblings) = self.new_label(asked)?;
        let full = siblings >= self.labels.max() || self.names.get() >= MAX_NAMES;
        full.then(|| (&self.labels, below(parent)))
    }

    /// Counts a request for which there is room. Answers the meters that went over their limit.
    pub(super) fn charge(&self, asked: Asked<'_>) -> impl Iterator<Item = &Rc<Meter>> {
        for (meter, _, amount) in self.needs(asked.seen) {
            meter.charge(amount);
        }
        self.charge_rate(Instant::now());
        self.charge_host(&asked.request.host);
        self.charge_label(asked);
        self.meters().into_iter().filter(|meter| meter.is_over())
    }

    /// Of what is simply added up: what must be left, and what is charged.
    fn needs(&self, seen: Seen) -> [(&Rc<Meter>, u64, u64); 5] {
        let head = seen.url.saturating_add(seen.header);
        [
            (&self.requests, 1, 1),
            (&self.url_bytes, seen.url, seen.url),
            (&self.header_bytes, seen.header, seen.header),
            // A request that could move nothing at all is not worth a connection.
            (&self.bytes_up, head.max(1), head),
            (&self.bytes_down, 1, 0),
        ]
    }

    // === rate ===

    /// Between two requests at an even pace.
    fn interval(&self) -> Duration {
        let divisor = u32::try_from(self.rate.max()).unwrap_or(u32::MAX).max(1);
        (self.per.get() / divisor).max(Duration::from_nanos(1))
    }

    /// How far ahead of the even pace a burst may be.
    fn burst(&self) -> Duration {
        let count = u32::try_from(self.rate.max()).unwrap_or(u32::MAX);
        self.interval().saturating_mul(count)
    }

    /// How far ahead of the even pace it is.
    fn ahead(&self, now: Instant) -> Duration {
        self.due
            .get()
            .map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }

    fn is_too_fast(&self, now: Instant) -> bool {
        self.rate.is_limited() && self.ahead(now) + self.interval() > self.burst()
    }

    fn charge_rate(&self, now: Instant) {
        if !self.rate.is_limited() {
            return;
        }
        let ahead = self.ahead(now);
        if ahead.is_zero() {
            self.rate.rearm();
        }
        // One over the limit is enough to know; a meter that warns goes on for ever.
        let ahead = (ahead + self.interval()).min(self.burst() + self.interval());
        self.due.set(Some(now + ahead));
        let in_window = ahead.as_nanos().div_ceil(self.interval().as_nanos().max(1));
        self.rate
            .set_used(u64::try_from(in_window).unwrap_or(u64::MAX));
    }

    // === names ===

    fn charge_host(&self, host: &Host) {
        // A meter that warns needs one more than its limit to know, and no further.
        if !self.hosts.is_limited() || self.hosts.is_over() {
            return;
        }
        let mut known = self.known_hosts.borrow_mut();
        if !known.contains(host) {
            self.note(host, false);
            known.insert(host.clone());
            self.hosts.set_used(known.len() as u64);
        }
    }

    /// The name as one below its registrable domain that was not let through before; with the number
    /// of those that were. `None` if it is none.
    fn new_label<'a>(&self, asked: Asked<'a>) -> Option<(&'a str, &'a DomainName, u64)> {
        let Host::Name(name) = &asked.request.host else {
            return None;
        };
        if !self.labels.is_limited() || asked.named {
            return None;
        }
        let parent = registrable(name);
        match self.known_names.borrow().get(parent) {
            Some(names) if names.contains(name) => None,
            Some(names) => Some((parent, name, names.len() as u64)),
            None => Some((parent, name, 0)),
        }
    }

    fn charge_label(&self, asked: Asked<'_>) {
        let Some((parent, name, siblings)) = self.new_label(asked) else {
            return;
        };
        if siblings > self.labels.max() || self.names.get() >= MAX_NAMES {
            return;
        }
        self.note(&Host::Name(name.clone()), true);
        self.add_label(parent, name);
        self.labels.set_used(self.labels.used().max(siblings + 1));
    }

    /// Answers how many names there are below this domain now.
    fn add_label(&self, parent: &str, name: &DomainName) -> u64 {
        let mut known = self.known_names.borrow_mut();
        let names = known.entry(parent.into()).or_default();
        if names.insert(name.clone()) {
            self.names.set(self.names.get() + 1);
        }
        names.len() as u64
    }
}

fn below(parent: &str) -> Option<HostPattern> {
    DomainName::parse(parent).ok().map(HostPattern::Below)
}

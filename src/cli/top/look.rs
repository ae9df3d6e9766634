//! One look at every running session, and what has changed since the one before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;

use super::usage::{Processes, Usage};
use crate::cli::counters;
use crate::ids::SessionId;
use crate::session::caller::Caller;
use crate::session::running;
use crate::wire::gate::Counters;
use crate::wire::session::Description;

/// A session as it was found.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: SessionId,
    /// What it is; or why it does not say.
    pub(super) known: Result<Description, String>,
    /// `None`: its gate is gone, or it does not answer.
    pub(super) counters: Option<Box<Counters>>,
    /// Bytes a second since the last look.
    pub(super) rates: Rates,
    pub(super) usage: Usage,
    /// Hundredths of one processor since the last look.
    pub(super) cpu: u64,
}

/// Payload bytes a second, to and from the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) up: u64,
    pub(super) down: u64,
}

/// Looks, again and again; remembers the last one.
#[derive(Debug)]
pub(super) struct Looker {
    caller: Caller,
    last: Option<Instant>,
    processes: Processes,
    bytes: BTreeMap<SessionId, (u64, u64)>,
}

impl Looker {
    pub(super) fn new(caller: Caller) -> Self {
        Self {
            caller,
            last: None,
            processes: Processes::default(),
            bytes: BTreeMap::new(),
        }
    }

    /// Every session, oldest first. May wait two seconds for one that does not answer.
    pub(super) fn look(&mut self) -> Vec<Row> {
        let now = Instant::now();
        // Nothing is known of the time before the first look.
        let since = self.last.replace(now).map(|last| now - last);
        let processes = Processes::now();
        let mut bytes = BTreeMap::new();
        let mut rows = Vec::new();
        for session in running::all(&self.caller) {
            let known = running::describe(&session).map_err(|error| error.to_string());
            let counters = counters::ask(&session.channel).ok();
            let root = socket_peercred(&session.channel).ok();
            let root = root.and_then(|peer| u32::try_from(peer.pid.as_raw_nonzero().get()).ok());
            let usage = root.map(|root| processes.tree(root, &self.processes));
            let moved = counters
                .as_ref()
                .map(|counters| (counters.bytes_up, counters.bytes_down));
            let before = self.bytes.get(&session.id).copied();
            bytes.extend(moved.map(|moved| (session.id, moved)));
            let usage = usage.unwrap_or_default();
            rows.push(Row {
                id: session.id,
                known,
                counters,
                rates: rates(before, moved, since),
                usage,
                cpu: since.map_or(0, |since| per_second(usage.busy_ms * 100, since) / 1000),
            });
        }
        self.bytes = bytes;
        self.processes = processes;
        rows
    }
}

fn rates(before: Option<(u64, u64)>, now: Option<(u64, u64)>, since: Option<Duration>) -> Rates {
    let (Some(before), Some(now), Some(since)) = (before, now, since) else {
        return Rates::default();
    };
    Rates {
        up: per_second(now.0.saturating_sub(before.0), since),
        down: per_second(now.1.saturating_sub(before.1), since),
    }
}

fn per_second(amount: u64, since: Duration) -> u64 {
    let ms = since.as_millis().max(1);
    u64::try_from(u128::from(amount) * 1000 / ms).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_has_come_since_the_last_look() {
        let half = Some(Duration::from_millis(500));
        let expected = Rates { up: 20, down: 0 };
        assert_eq!(rates(Some((5, 7)), Some((15, 7)), half), expected);
        assert_eq!(rates(None, Some((15, 7)), half), Rates::default());
        assert_eq!(rates(Some((5, 7)), None, half), Rates::default());
        assert_eq!(rates(Some((5, 7)), Some((15, 7)), None), Rates::default());
    }
}

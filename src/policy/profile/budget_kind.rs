//! What a budget counts, and its amounts as they are written: `"200M"`, `"30m"`, `10000`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::policy::amount::{decimal, milliseconds, size};
use crate::policy::host::shown;

/// What is counted. The word is the key of a profile and stands in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetKind {
    /// Bytes to the network: payload, and the heads of requests that the gate sees.
    BytesUp,
    /// Payload bytes from the network.
    BytesDown,
    /// Requests and tunnels that were let through.
    Requests,
    /// Connections opened to the network.
    Connections,
    /// Requests within a window of time.
    Rate,
    /// Distinct hosts that were let through.
    Hosts,
    /// Distinct names below one registrable domain that no rule names itself: what a tunnel through
    /// DNS labels needs many of.
    Labels,
    /// Bytes of path and query in requests that the gate sees.
    UrlBytes,
    /// Bytes of names and values of header fields in requests that the gate sees.
    HeaderBytes,
    /// Milliseconds without a byte in any direction.
    IdleTime,
    /// Milliseconds since the command was started.
    TotalTime,
}

/// The most names that a set of names may hold.
const MAX_NAMES: u64 = 65_536;

/// 1 EiB, a billion billion requests: more than any session moves.
const MAX_AMOUNT: u64 = 1 << 60;

/// Thirty days, in milliseconds.
const MAX_TIME: u64 = 30 * 24 * 60 * 60 * 1000;

/// A number, or a text with a unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number, or a text as \"200M\" or \"30m\"")]
pub(super) enum Amount {
    Number(u64),
    Text(String),
}

// === impl BudgetKind ===

impl BudgetKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 11] = [
        Self::BytesUp,
        Self::BytesDown,
        Self::Requests,
        Self::Connections,
        Self::Rate,
        Self::Hosts,
        Self::Labels,
        Self::UrlBytes,
        Self::HeaderBytes,
        Self::IdleTime,
        Self::TotalTime,
    ];

    /// The key in a profile and the word in records.
    pub fn key(self) -> &'static str {
        match self {
            Self::BytesUp => "bytes_up",
            Self::BytesDown => "bytes_down",
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Rate => "rate",
            Self::Hosts => "hosts",
            Self::Labels => "labels",
            Self::UrlBytes => "url_bytes",
            Self::HeaderBytes => "header_bytes",
            Self::IdleTime => "idle_time",
            Self::TotalTime => "total_time",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.key() == text)
    }

    /// Whether it is a time of the whole session.
    pub fn is_time(self) -> bool {
        matches!(self, Self::IdleTime | Self::TotalTime)
    }

    fn is_bytes(self) -> bool {
        matches!(
            self,
            Self::BytesUp | Self::BytesDown | Self::UrlBytes | Self::HeaderBytes
        )
    }

    /// Whether it can be said of some hosts alone.
    pub(super) fn is_of_hosts(self) -> bool {
        !self.is_time() && self != Self::Hosts
    }

    fn range(self) -> (u64, u64) {
        match self {
            Self::Hosts | Self::Labels => (1, MAX_NAMES),
            Self::IdleTime | Self::TotalTime => (1, MAX_TIME),
            Self::Rate => (1, 1_000_000),
            Self::BytesUp
            | Self::BytesDown
            | Self::Requests
            | Self::Connections
            | Self::UrlBytes
            | Self::HeaderBytes => (1, MAX_AMOUNT),
        }
    }

    /// An amount of this kind in words: `200M`, `30m`, `10000`.
    pub fn amount(self, amount: u64) -> String {
        let units: &[(u64, &str)] = if self.is_bytes() {
            &[
                (1 << 40, "T"),
                (1 << 30, "G"),
                (1 << 20, "M"),
                (1 << 10, "K"),
            ]
        } else if self.is_time() {
            &[(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")]
        } else {
            &[]
        };
        let fitting = units
            .iter()
            .find(|(unit, _)| amount >= *unit && amount.is_multiple_of(*unit));
        match fitting {
            Some((unit, name)) => format!("{}{name}", amount / unit),
            None => amount.to_string(),
        }
    }

    /// Reads an amount of this kind.
    pub(super) fn read(self, amount: &Amount) -> Result<u64, String> {
        let found = match amount {
            Amount::Number(_) if self.is_time() => None,
            Amount::Number(number) => Some(*number),
            Amount::Text(text) if self.is_time() => milliseconds(text),
            Amount::Text(text) if self.is_bytes() => size(text),
            Amount::Text(text) => decimal(text),
        };
        let (least, most) = self.range();
        found
            .filter(|found| (least..=most).contains(found))
            .ok_or_else(|| {
                let written = match amount {
                    Amount::Number(number) => number.to_string(),
                    Amount::Text(text) => shown(text),
                };
                let forms = if self.is_time() {
                    "a time as \"90s\", \"30m\" or \"8h\""
                } else if self.is_bytes() {
                    "a size as 512, \"64K\", \"200M\" or \"2G\""
                } else {
                    "a number"
                };
                format!(
                    "{written} is not {forms}, from {} to {}",
                    self.amount(least),
                    self.amount(most)
                )
            })
    }
}

impl fmt::Display for BudgetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.key())
    }
}

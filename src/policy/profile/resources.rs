//! `[limits]`: how much of the machine one session may take, all its processes together. Plain numbers: who
//! sets them (control groups, setrlimit(2)) never sees a profile.
//!
//! What a session may do on the network, and for how long, is a budget ([`super::budgets`]).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use super::budget_kind::{Amount, BudgetKind};
use super::error::{ProfileError, not_one_of};
use super::file::entry;
use super::read::Source;
use crate::policy::amount::{decimal, size};
use crate::policy::host::shown;

/// What is limited. The word is the key of a profile and stands in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Bytes of memory of all processes, what they have in memory file systems and in the page cache
    /// included.
    Memory,
    /// Processes and threads.
    Tasks,
    /// Time on processors in percent of one: 200 is two of them all the time.
    Cpu,
    /// Open files of one process.
    OpenFiles,
    /// Bytes of one file that is written.
    FileSize,
}

/// What a profile takes for "no limit", where it extends one that has a limit.
const NONE: &str = "none";

/// Limits by what they limit. What is not there is not limited; nor is what is there without an amount, which
/// takes back what an extended profile says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceLimits(BTreeMap<Resource, Option<u64>>);

/// What becomes of a session whose limits cannot all be set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitsFloor {
    /// It does not start.
    Required,
    /// It starts; what is missing is told and recorded.
    #[default]
    BestEffort,
}

// === impl Resource ===

impl Resource {
    /// Every resource, in the order of the documentation.
    pub const ALL: [Self; 5] = [
        Self::Memory,
        Self::Tasks,
        Self::Cpu,
        Self::OpenFiles,
        Self::FileSize,
    ];

    /// The key in a profile and the word in records.
    pub fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Tasks => "tasks",
            Self::Cpu => "cpu",
            Self::OpenFiles => "open_files",
            Self::FileSize => "file_size",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|resource| resource.key() == text)
    }

    /// Least and most. Below the least no jail starts; the most is what the kernel can count.
    fn range(self) -> (u64, u64) {
        match self {
            Self::Memory => (16 << 20, 1 << 60),
            // PID_MAX_LIMIT.
            Self::Tasks => (1, 1 << 22),
            Self::Cpu => (1, 100_000),
            // fs.nr_open.
            Self::OpenFiles => (16, 1 << 20),
            Self::FileSize => (1, 1 << 60),
        }
    }

    /// An amount in words: `4G`, `512`, `200%`.
    pub fn amount(self, amount: u64) -> String {
        match self {
            Self::Memory | Self::FileSize => BudgetKind::BytesUp.amount(amount),
            Self::Cpu => format!("{amount}%"),
            Self::Tasks | Self::OpenFiles => amount.to_string(),
        }
    }

    fn forms(self) -> &'static str {
        match self {
            Self::Memory | Self::FileSize => "a size as \"512M\" or \"4G\"",
            Self::Cpu => "a share of one processor as \"50%\" or \"200%\"",
            Self::Tasks | Self::OpenFiles => "a number",
        }
    }

    fn read(self, amount: &Amount) -> Result<Option<u64>, String> {
        let found = match amount {
            Amount::Text(text) if text == NONE => return Ok(None),
            Amount::Number(_) if self == Self::Cpu => None,
            Amount::Number(number) => Some(*number),
            Amount::Text(text) => match self {
                Self::Memory | Self::FileSize => size(text),
                Self::Cpu => text.strip_suffix('%').and_then(decimal),
                Self::Tasks | Self::OpenFiles => decimal(text),
            },
        };
        let (least, most) = self.range();
        let fitting = found.filter(|found| (least..=most).contains(found));
        if fitting.is_some() {
            return Ok(fitting);
        }
        let written = match amount {
            Amount::Number(number) => number.to_string(),
            Amount::Text(text) => shown(text),
        };
        Err(format!(
            "{written} is not {}, from {} to {}, nor \"{NONE}\"",
            self.forms(),
            self.amount(least),
            self.amount(most)
        ))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.key())
    }
}

// === impl ResourceLimits ===

impl ResourceLimits {
    /// The limit of a resource, if there is one.
    pub fn get(&self, resource: Resource) -> Option<u64> {
        self.0.get(&resource).copied().flatten()
    }

    /// Every limit that there is.
    pub fn iter(&self) -> impl Iterator<Item = (Resource, u64)> {
        let amounts = self.0.iter();
        amounts.filter_map(|(resource, amount)| Some((*resource, (*amount)?)))
    }

    /// Holds these limits to others: of each the lower stays. Gives those that changed.
    pub fn hold_to(&mut self, bound: &Self) -> Vec<(Resource, u64)> {
        let mut changed = Vec::new();
        for resource in Resource::ALL {
            if let Some(most) = bound.get(resource)
                && self.get(resource).is_none_or(|own| own > most)
            {
                self.0.insert(resource, Some(most));
                changed.push((resource, most));
            }
        }
        changed
    }

    /// Reads a table of an admin's file, whose keys are those of `[limits]`; `place` is where it stands, for
    /// people.
    pub fn parse(place: &str, table: toml::Table) -> Result<Self, ProfileError> {
        super::requirement::limits(place, table)
    }

    /// Sets a limit from its text on the command line: `KEY=AMOUNT`.
    pub(super) fn set_flag(&mut self, text: &str) -> Result<(), String> {
        let forms = "accepted are \"memory=4G\", \"tasks=512\", \"cpu=200%\", \"open_files=4096\", \
                     \"file_size=10G\"";
        let (key, amount) = text
            .split_once('=')
            .ok_or_else(|| format!("no amount; {forms}"))?;
        let resource = Resource::parse(key).ok_or_else(|| match time_is_a_budget(key) {
            Some(cure) => cure.to_owned(),
            None => format!("{} is no limit; {forms}", shown(key)),
        })?;
        let amount = resource.read(&Amount::Text(amount.to_owned()))?;
        self.0.insert(resource, amount);
        Ok(())
    }
}

impl FromIterator<(Resource, u64)> for ResourceLimits {
    fn from_iter<T: IntoIterator<Item = (Resource, u64)>>(limits: T) -> Self {
        let limits = limits.into_iter();
        Self(limits.map(|(what, amount)| (what, Some(amount))).collect())
    }
}

impl Serialize for ResourceLimits {
    /// As it is written in a profile.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(resource, amount)| {
            let text = amount.map_or_else(|| NONE.to_owned(), |amount| resource.amount(amount));
            let written = decimal(&text).map_or(Amount::Text(text), Amount::Number);
            (resource, written)
        }))
    }
}

/// Lays the keys of `[limits]` over those of the extended profile.
pub(super) fn overlay(
    limits: &mut ResourceLimits,
    source: Source<'_>,
    found: toml::Table,
) -> Result<(), ProfileError> {
    for (key, value) in found {
        let at = format!("limits.{key}");
        let Some(resource) = Resource::parse(&key) else {
            if let Some(cure) = time_is_a_budget(&key) {
                return Err(source.wrong(&at, cure));
            }
            let keys = Resource::ALL.map(Resource::key);
            return Err(not_one_of(source.profile, &at, &key, &keys));
        };
        let amount = entry(source.profile, &at, value)?;
        let amount = resource
            .read(&amount)
            .map_err(|problem| source.wrong(&at, problem))?;
        limits.0.insert(resource, amount);
    }
    Ok(())
}

/// Time is counted with what happens in it, and can be warned of.
fn time_is_a_budget(key: &str) -> Option<&'static str> {
    (key == "time")
        .then_some("time is a budget: write total_time in [network.budgets], or give --timeout")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(resource: Resource, text: &str) -> Result<Option<u64>, String> {
        resource.read(&Amount::Text(text.to_owned()))
    }

    #[test]
    fn amounts_are_read_as_they_are_written() {
        for (resource, text, amount) in [
            (Resource::Memory, "4G", 4 << 30),
            (Resource::Memory, "16777216", 16 << 20),
            (Resource::Tasks, "512", 512),
            (Resource::Cpu, "200%", 200),
            (Resource::OpenFiles, "4096", 4096),
            (Resource::FileSize, "10G", 10 << 30),
        ] {
            assert_eq!(read(resource, text), Ok(Some(amount)), "{text}");
        }
        assert_eq!(read(Resource::Cpu, "none"), Ok(None));
    }

    #[test]
    fn what_is_no_amount_is_refused_with_the_accepted_form() {
        for (resource, text) in [
            (Resource::Memory, "4GB"),
            (Resource::Memory, "1M"),
            (Resource::Tasks, "0"),
            (Resource::Tasks, "1K"),
            (Resource::Cpu, "2"),
            (Resource::Cpu, "0%"),
            (Resource::OpenFiles, "15"),
            (Resource::FileSize, "-1"),
            (Resource::FileSize, ""),
        ] {
            assert!(read(resource, text).is_err(), "{resource} {text}");
        }
        assert_eq!(
            read(Resource::Cpu, "2").unwrap_err(),
            "\"2\" is not a share of one processor as \"50%\" or \"200%\", from 1% to 100000%, nor \"none\""
        );
    }
}

//! `[network.budgets]` and `[[network.budget_rules]]`: how much may leave, arrive and happen in one
//! session, or at some hosts of it, and what follows when it is used up.
//!
//! The file form and the valid form meet here: a budget serialises as it is written in a profile, so
//! that `policy show` reads back and the gate gets what was shown.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::budget_kind::{Amount, BudgetKind};
use super::error::{ProfileError, not_one_of};
use super::file::entry;
use super::read::{Source, append};
use crate::policy::amount::{decimal, milliseconds};
use crate::policy::host::shown;
use crate::policy::rule::HostPattern;

/// What follows when a budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetAction {
    /// It is recorded and told, once; everything goes on.
    Warn,
    /// Whoever answers for the session is asked; a yes raises the budget by its own size, anything
    /// else is a deny.
    Ask,
    /// Requests are refused, tunnels end at the limit.
    Deny,
    /// As deny, and the session is ended.
    Kill,
}

/// One budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// How much: bytes, a number, or milliseconds, by the kind.
    pub max: u64,
    /// The window of a [`BudgetKind::Rate`] in milliseconds; zero for every other kind.
    pub per: u64,
    /// What follows.
    pub action: BudgetAction,
}

/// Budgets by what they count; what is not there is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<BudgetKind, BudgetFile>",
    into = "BTreeMap<BudgetKind, BudgetFile>"
)]
pub struct Budgets(BTreeMap<BudgetKind, Budget>);

/// Budgets that all hosts of one pattern share, beside those of the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetRule {
    /// The hosts.
    pub host: HostPattern,
    /// How much.
    #[serde(flatten)]
    pub budgets: Budgets,
}

/// Rules for hosts that one policy may have; each costs a comparison a request.
const MAX_RULES: usize = 256;

/// A budget as it is written in a table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with max and action")]
struct BudgetFile {
    max: Amount,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    per: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    action: Option<BudgetAction>,
}

impl fmt::Display for BudgetAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warn => "warn",
            Self::Ask => "ask",
            Self::Deny => "deny",
            Self::Kill => "kill",
        })
    }
}

// === impl Budget ===

impl Budget {
    /// What keeps to both budgets. One that only warns holds nobody, so the other one's amount counts
    /// where that is no warning.
    fn within(&self, bound: &Self) -> Self {
        if self.action == BudgetAction::Warn && bound.action > BudgetAction::Warn {
            return *bound;
        }
        let max = self.max.min(bound.max);
        Self {
            max,
            per: self.window(max).max(bound.window(max)),
            action: self.action.max(bound.action),
        }
    }

    /// In how many milliseconds a rate gives this much, which is no more than its own amount; zero for
    /// what is no rate. Rounded up, so that no pace is exceeded.
    fn window(&self, amount: u64) -> u64 {
        let share = u128::from(amount) * u128::from(self.per);
        let share = share.div_ceil(u128::from(self.max.max(1)));
        u64::try_from(share).unwrap_or(self.per)
    }

    fn read(kind: BudgetKind, file: &BudgetFile) -> Result<Self, (&'static str, String)> {
        let max = kind.read(&file.max).map_err(|problem| ("max", problem))?;
        let per = match (kind, &file.per) {
            (BudgetKind::Rate, None) => 1000,
            (BudgetKind::Rate, Some(text)) => {
                let ms = milliseconds(text).filter(|ms| (1..=86_400_000).contains(ms));
                ms.ok_or_else(|| {
                    let problem = format!("{} is not a time as \"1s\", up to 1d", shown(text));
                    ("per", problem)
                })?
            }
            (_, None) => 0,
            (_, Some(_)) => return Err(("per", "only a rate has a window".to_owned())),
        };
        let action = match (kind.is_time(), file.action) {
            (false, action) => action.unwrap_or(BudgetAction::Deny),
            (true, None) => BudgetAction::Kill,
            (true, Some(action @ (BudgetAction::Warn | BudgetAction::Kill))) => action,
            (true, Some(_)) => {
                let problem = "a time that is over can be warned of or end the session: write \"warn\" or \"kill\"";
                return Err(("action", problem.to_owned()));
            }
        };
        Ok(Self { max, per, action })
    }
}

// === impl Budgets ===

impl Budgets {
    /// The budget of a kind, if there is one.
    pub fn get(&self, kind: BudgetKind) -> Option<&Budget> {
        self.0.get(&kind)
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Holds these budgets to others: of each kind stays what exceeds neither. Gives the kinds that changed.
    pub(in crate::policy) fn hold_to(&mut self, bound: &Self) -> Vec<BudgetKind> {
        let mut changed = Vec::new();
        for (kind, bound) in &bound.0 {
            let own = self.0.get(kind);
            let held = own.map_or(*bound, |own| own.within(bound));
            if own != Some(&held) {
                self.0.insert(*kind, held);
                changed.push(*kind);
            }
        }
        changed
    }

    /// Sets a budget from its text on the command line: `KEY=AMOUNT`, with `/WINDOW` after a rate, and
    /// `:ACTION` if it is not the default.
    pub(super) fn set_flag(&mut self, text: &str) -> Result<(), String> {
        let forms = "accepted are \"bytes_up=10M\", \"requests=500:warn\", \"rate=20/1s\"";
        let (key, rest) = text
            .split_once('=')
            .ok_or_else(|| format!("no amount; {forms}"))?;
        let kind = BudgetKind::parse(key)
            .ok_or_else(|| format!("{} is no budget; {forms}", shown(key)))?;
        let (rest, action) = match rest.split_once(':') {
            None => (rest, None),
            Some((rest, action)) => (rest, Some(action_of(action)?)),
        };
        let (max, per) = match rest.split_once('/') {
            None => (rest, None),
            Some((max, per)) => (max, Some(per.to_owned())),
        };
        let file = BudgetFile {
            max: Amount::Text(max.to_owned()),
            per,
            action,
        };
        let budget = Budget::read(kind, &file).map_err(|(_, problem)| problem)?;
        self.0.insert(kind, budget);
        Ok(())
    }

    /// Ends the session after this time.
    pub(super) fn set_timeout(&mut self, text: &str) -> Result<(), String> {
        self.set_flag(&format!("{}={text}:kill", BudgetKind::TotalTime))
    }
}

fn action_of(text: &str) -> Result<BudgetAction, String> {
    [
        BudgetAction::Warn,
        BudgetAction::Ask,
        BudgetAction::Deny,
        BudgetAction::Kill,
    ]
    .into_iter()
    .find(|action| action.to_string() == text)
    .ok_or_else(|| format!("{} is none of warn, ask, deny, kill", shown(text)))
}

impl FromIterator<(BudgetKind, Budget)> for Budgets {
    fn from_iter<T: IntoIterator<Item = (BudgetKind, Budget)>>(budgets: T) -> Self {
        Self(budgets.into_iter().collect())
    }
}

impl TryFrom<BTreeMap<BudgetKind, BudgetFile>> for Budgets {
    type Error = String;

    fn try_from(files: BTreeMap<BudgetKind, BudgetFile>) -> Result<Self, String> {
        let read = |(kind, file)| {
            let budget = Budget::read(kind, &file);
            budget
                .map(|budget| (kind, budget))
                .map_err(|(key, problem)| format!("{kind}.{key}: {problem}"))
        };
        files.into_iter().map(read).collect()
    }
}

impl From<Budgets> for BTreeMap<BudgetKind, BudgetFile> {
    fn from(budgets: Budgets) -> Self {
        let written = |(kind, budget): (BudgetKind, Budget)| {
            let max = kind.amount(budget.max);
            let file = BudgetFile {
                max: decimal(&max).map_or(Amount::Text(max), Amount::Number),
                per: (kind == BudgetKind::Rate).then(|| BudgetKind::TotalTime.amount(budget.per)),
                action: Some(budget.action),
            };
            (kind, file)
        };
        budgets.0.into_iter().map(written).collect()
    }
}

// === from a profile ===

/// Lays the keys of `[network.budgets]` over those of the extended profile.
pub(super) fn overlay(
    policy: &mut Budgets,
    source: Source<'_>,
    found: toml::Table,
) -> Result<(), ProfileError> {
    for (key, value) in found {
        let (kind, budget) = one(source, "network.budgets", &key, value, |_| true)?;
        policy.0.insert(kind, budget);
    }
    Ok(())
}

/// Adds the entries of `[[network.budget_rules]]`.
pub(super) fn rules(
    policy: &mut Vec<BudgetRule>,
    source: Source<'_>,
    found: Vec<toml::Value>,
) -> Result<(), ProfileError> {
    for (i, value) in found.into_iter().enumerate() {
        let at = format!("network.budget_rules[{i}]");
        let mut table: toml::Table = entry(source.profile, &at, value)?;
        let Some(toml::Value::String(host)) = table.remove("host") else {
            return Err(source.wrong(&at, "needs host = \"api.example.com\" or a pattern"));
        };
        let host = HostPattern::parse(&host)
            .map_err(|problem| source.wrong(&format!("{at}.host"), problem))?;
        let budgets: Budgets = table
            .into_iter()
            .map(|(key, value)| one(source, &at, &key, value, BudgetKind::is_of_hosts))
            .collect::<Result<_, _>>()?;
        if budgets.is_empty() {
            return Err(source.wrong(&at, "limits nothing; add one as bytes_up = \"10M\""));
        }
        append(policy, BudgetRule { host, budgets });
    }
    if policy.len() > MAX_RULES {
        let problem = format!("more than {MAX_RULES} rules; use wider patterns");
        return Err(source.wrong("network.budget_rules", problem));
    }
    Ok(())
}

/// One key: a bare amount, or a table.
fn one(
    source: Source<'_>,
    at: &str,
    key: &str,
    value: toml::Value,
    accepted: fn(BudgetKind) -> bool,
) -> Result<(BudgetKind, Budget), ProfileError> {
    let at = format!("{at}.{key}");
    let Some(kind) = BudgetKind::parse(key).filter(|kind| accepted(*kind)) else {
        let keys: Vec<_> = BudgetKind::ALL
            .into_iter()
            .filter(|kind| accepted(*kind))
            .map(BudgetKind::key)
            .collect();
        return Err(not_one_of(source.profile, &at, key, &keys));
    };
    let file = if value.is_table() {
        entry(source.profile, &at, value)?
    } else {
        BudgetFile {
            max: entry(source.profile, &at, value)?,
            per: None,
            action: None,
        }
    };
    let budget = Budget::read(kind, &file)
        .map_err(|(part, problem)| source.wrong(&format!("{at}.{part}"), problem))?;
    Ok((kind, budget))
}

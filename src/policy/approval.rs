//! The words of asking: what an answer says and how far it reaches.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answered {
    /// Let it through.
    Allow,
    /// Refuse it.
    Deny,
}

/// How far an answer reaches. Ordered: the later reaches further.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Whoever waits for this question's answer.
    #[default]
    Once,
    /// The same host and port until the session ends. A deny rule, also one that comes later, still wins.
    Session,
    /// As [`Scope::Session`], and a rule in the caller's own profile for sessions to come.
    Profile,
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionEnd {
    /// Answered with yes.
    Allowed,
    /// Answered with no.
    Denied,
    /// Nobody answered in time.
    Expired,
    /// Nobody waits for the answer any more: the clients left, or the session ends.
    Withdrawn,
    /// A new policy says something else than "ask" by now.
    Superseded,
    /// The session does not listen: it could not be asked.
    Unheard,
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Once => "once",
            Self::Session => "session",
            Self::Profile => "profile",
        })
    }
}

impl fmt::Display for QuestionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
            Self::Superseded => "superseded",
            Self::Unheard => "unheard",
        })
    }
}

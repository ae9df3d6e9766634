//! Session ↔ sweeper.
//!
//! The session sends one [`Claim::Placeholder`] a placeholder, with the folder that it is to stand in; the
//! sweeper makes it, or shares the one that is there, and answers [`Claimed`] with the placeholder's own
//! descriptor. It sends one [`Claim::Group`] a control group before it makes it, and what kills the group once
//! it stands. When the session has said its last, or is gone, and the jail is dead, the sweeper removes
//! what nobody else uses and says [`Swept`].

use serde::{Deserialize, Serialize};

/// What is to be made and removed, or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Claim {
    /// A placeholder in the folder whose descriptor came with this frame, by its name in that folder: one
    /// component, as bytes (file names need not be UTF-8).
    Placeholder(Vec<u8>),
    /// A control group that the session makes in the folder whose descriptor came with this frame.
    Group(String),
    /// The descriptor that came with this frame is the `cgroup.kill` of a group.
    Killer,
}

/// The answer to a [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Claimed {
    /// It stands, and its descriptor came with this frame; or it is known by now.
    Stands,
    /// Something else stands there by now.
    Taken,
    /// It could not be made: the errno.
    Failed(i32),
}

/// Everything is removed that was to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swept {}

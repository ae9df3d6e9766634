//! Session ↔ sweeper of placeholders.
//!
//! The session sends one [`Claim`] a placeholder, with the folder that it is to stand in; the sweeper
//! makes it, or shares the one that is there, and answers [`Claimed`] with the placeholder's own
//! descriptor. When the session has said its last, or is gone, and the jail is dead, the sweeper removes
//! what nobody else uses and says [`Swept`].

use serde::{Deserialize, Serialize};

/// Asks for a placeholder in the folder whose descriptor came with this frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Its name in that folder: one component, as bytes (file names need not be UTF-8).
    pub name: Vec<u8>,
}

/// The answer to a [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Claimed {
    /// It stands; its descriptor came with this frame.
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

//! What the model will say, step by step.

use std::error::Error;
use std::path::Path;

use serde::Deserialize;

/// One answer of the model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Step {
    /// Call the shell tool with this command.
    Run(String),
    /// Change files with this patch, in Codex's own patch language.
    Patch(String),
    /// End the turn with this message.
    Say(String),
}

/// The steps of a turn.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Script {
    steps: Vec<Step>,
}

impl Script {
    /// The task that `scripts/demo` shows.
    pub(crate) fn demo() -> Self {
        let steps = serde_json::from_str(include_str!("demo.json")).unwrap_or_default();
        Self { steps }
    }

    /// Reads a script from a file.
    pub(crate) fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// The step that follows on this many tool outputs. A script that has run out ends the turn.
    pub(crate) fn step(&self, outputs: usize) -> Step {
        let over = || Step::Say("The script is over.".to_owned());
        self.steps.get(outputs).cloned().unwrap_or_else(over)
    }
}

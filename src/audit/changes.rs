//! What a `session.ended` record says of the files that the session could write.

use serde::{Deserialize, Serialize};

/// The most files that a record names.
pub const MAX_NAMED: usize = 64;

/// Files whose content, name or rights changed while the session ran, whoever changed them. Files that were
/// removed are not counted: nothing is left of them to find.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileChanges {
    /// Files that were made, or put in the place of others.
    pub created: u64,
    /// Files that were there before and changed.
    pub modified: u64,
    /// Whether all was looked at: not where there was too much, or a folder could not be read.
    pub complete: bool,
    /// Of all these, files that others will execute, or that tell others' programs what to execute; those
    /// nearest to the workspace first.
    pub executed_later: Vec<ChangedFile>,
    /// How many more of these there are than are named.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub executed_later_more: u64,
}

/// A file that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangedFile {
    /// Where it is, as the host sees it.
    pub path: String,
    /// Whether it was made; else it was there before.
    pub created: bool,
    /// Who executes it, or what it says.
    pub by: ExecutedBy,
}

/// By what a file is executed, or told what to execute, when somebody goes on working in its folder. Ordered:
/// what needs the least to happen comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutedBy {
    /// A shell that starts or enters the folder: `.bashrc`, `.envrc`.
    Shell,
    /// git: hooks, filters, configuration.
    Git,
    /// An editor that opens the folder: tasks, settings, development containers.
    Editor,
    /// A coding agent: its configuration and instructions.
    Agent,
    /// Python, when it starts or runs tests: `.pth`, `sitecustomize.py`, `conftest.py`.
    Python,
    /// A package manager: scripts and configuration.
    Package,
    /// A build tool: makefiles and their like.
    Build,
    /// A container tool: images and compositions.
    Container,
    /// A service that builds what is pushed.
    Pipeline,
    /// Whoever calls it: a file with the right to be executed.
    Anybody,
}

impl std::fmt::Display for ExecutedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shell => "shell",
            Self::Git => "git",
            Self::Editor => "editor",
            Self::Agent => "agent",
            Self::Python => "python",
            Self::Package => "package",
            Self::Build => "build",
            Self::Container => "container",
            Self::Pipeline => "pipeline",
            Self::Anybody => "anybody",
        })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

//! What a test wants of a jail, and how it went. Crosses a process border as JSON, because some tests
//! need another uid.

use std::path::PathBuf;

use portcullis::policy::FilesystemMode;
use portcullis::wire::init::InitReport;
use serde::{Deserialize, Serialize};

/// What a test wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) init: PathBuf,
    pub(crate) workspace: PathBuf,
    pub(crate) home: PathBuf,
    pub(crate) mode: FilesystemMode,
    pub(crate) writable: Vec<PathBuf>,
    pub(crate) readable: Vec<PathBuf>,
    pub(crate) masked: Vec<PathBuf>,
    pub(crate) protected: Vec<PathBuf>,
    pub(crate) hidden: Vec<PathBuf>,
    pub(crate) shown: Vec<(PathBuf, PathBuf)>,
    pub(crate) replaced: Vec<(PathBuf, Vec<u8>)>,
    pub(crate) files: Vec<(PathBuf, Vec<u8>)>,
    pub(crate) listen: Vec<u16>,
    pub(crate) floor: u8,
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// Where the outcome goes: standard output is the command's.
    pub(crate) outcome: PathBuf,
}

/// How it went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Why there was no jail.
    pub(crate) refused: Option<String>,
    /// What init reported.
    pub(crate) report: Option<InitReport>,
    /// How many listening sockets came out.
    pub(crate) listeners: usize,
    /// The status of bubblewrap.
    pub(crate) status: Option<i32>,
}

//! The Codex versions that `scripts/test` installs.

use std::path::{Path, PathBuf};

/// A version to test with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodexVersion {
    /// 0.118.0: the old package layout, bubblewrap compiled in, `--full-auto`.
    Oldest,
    /// What npm calls latest.
    Newest,
}

/// Both ends of what is supported.
pub(crate) const VERSIONS: [CodexVersion; 2] = [CodexVersion::Oldest, CodexVersion::Newest];

impl CodexVersion {
    /// The folder that npm installed it in.
    pub(crate) fn folder(self) -> PathBuf {
        let name = match self {
            Self::Oldest => "0.118.0",
            Self::Newest => "newest",
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/codex")
            .join(name);
        assert!(
            folder.join("node_modules/.bin/codex").exists(),
            "{} has no Codex: scripts/test installs it",
            folder.display()
        );
        folder
    }
}

/// The folder for `PATH` in an installation.
pub(crate) fn bin(folder: &Path) -> PathBuf {
    folder.join("node_modules/.bin")
}

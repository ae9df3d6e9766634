//! The index over the logs that a verb reads, and what is told about it.

use std::ffi::OsString;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::escape;
use super::logs::Logs;
use crate::audit::index::{Index, IndexError, Note};
use crate::cli::failure::Failure;
use crate::cli::print;
use crate::exit::Exit;

/// Where the index of some logs is kept, and what names those logs.
pub(super) struct Place {
    pub(super) file: PathBuf,
    folder: String,
}

impl Place {
    /// `$XDG_CACHE_HOME/portcullis/audit-<hash>.sqlite`, by default below `~/.cache`.
    pub(super) fn of(logs: &Logs) -> Result<Self, Failure> {
        let cache = cache(std::env::var_os).ok_or_else(|| {
            let why =
                "audit index: neither XDG_CACHE_HOME nor HOME is an absolute path; set one of them";
            Failure::new(Exit::Config, why)
        })?;
        let path = logs.path();
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let with = if logs.has_service() {
            " and the service"
        } else {
            ""
        };
        let folder = format!("{}{with}", path.to_string_lossy());
        let digest = Sha256::digest(folder.as_bytes());
        let (first, _) = digest.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let name = format!(
            "portcullis/audit-{:016x}.sqlite",
            u64::from_be_bytes(*first)
        );
        Ok(Self {
            file: cache.join(name),
            folder,
        })
    }

    /// The index.
    pub(super) fn index<'a>(&'a self, logs: &'a Logs) -> Index<'a, Logs> {
        Index::new(&self.file, &self.folder, logs)
    }
}

fn cache(variable: impl Fn(&'static str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))
}

/// Tells whoever asked.
pub(super) fn tell(note: Note) {
    match note {
        Note::Rebuilt(why) => print::error(format_args!(
            "audit index: {}; it was dropped and is built anew from the logs",
            escape(&why)
        )),
        Note::Building(bytes) => print::error(format_args!(
            "audit index: taking in {} of logs",
            super::phrase::bytes(bytes)
        )),
        Note::Broken(session, why) => print::error(format_args!(
            "warning: the log of session {session} does not hold: {}; what follows there was not \
             searched (portcullis audit verify)",
            escape(&why)
        )),
    }
}

/// What a verb answers where the index cannot.
pub(super) fn failure(error: &IndexError) -> Failure {
    Failure::new(Exit::Unavailable, escape(&error.to_string()))
}

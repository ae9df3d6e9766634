//! Where profiles come from: a file that was named, the caller's own folder, what is built in.

use std::io;
use std::path::{Path, PathBuf};

use crate::policy::Profile;
use crate::policy::profile::{ProfileError, builtin, builtin_names};

use super::caller::Caller;

/// The longest profile that is read, in bytes: far above any real one, far below what hurts.
const MAX_BYTES: u64 = 1 << 20;

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its text is wrong, or it is unknown.
    #[error("{0}")]
    Profile(#[from] ProfileError),
    /// The file that was named cannot be read.
    #[error("profile {}: {source}; name a readable TOML file or one of the built-in profiles", path.display())]
    File {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Reads a profile by name or file. What it extends is looked up by name: first in the caller's own
/// folder (`$XDG_CONFIG_HOME/portcullis/profiles/NAME.toml`), then among those built in.
pub fn load(name: &str, caller: &Caller) -> Result<Profile, LoadError> {
    let folder = caller.config_folder().join("profiles");
    // Read first, for an error that names the file as it was given.
    let named = if names_a_file(name) {
        Some(text(name, caller)?)
    } else {
        None
    };
    let mut lookup = |wanted: &str| match &named {
        Some(text) if wanted == name => Ok(Some(text.clone())),
        _ => by_name(wanted, &folder),
    };
    Profile::read(name, &mut lookup).map_err(|error| {
        match error {
            // The policy knows what is built in; here the caller's own are known as well.
            ProfileError::Missing {
                name, extended_by, ..
            } => ProfileError::missing(&name, extended_by.as_deref(), names(caller)),
            other => other,
        }
        .into()
    })
}

/// A profile's own text, without what it extends.
pub fn text(name: &str, caller: &Caller) -> Result<String, LoadError> {
    if names_a_file(name) {
        let path = PathBuf::from(name);
        return read(&path).map_err(|source| LoadError::File { path, source });
    }
    let found = by_name(name, &caller.config_folder().join("profiles"));
    match found {
        Ok(Some(text)) => Ok(text),
        Ok(None) | Err(_) => Err(ProfileError::missing(name, None, names(caller)).into()),
    }
}

/// The names a caller may give to `-p`: built in, and those of the caller's own folder.
pub fn names(caller: &Caller) -> Vec<String> {
    let folder = caller.config_folder().join("profiles");
    let own = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let own = own.filter_map(|entry| {
        entry
            .file_name()
            .to_str()?
            .strip_suffix(".toml")
            .map(str::to_owned)
    });
    let mut names: Vec<_> = own.chain(builtin_names().map(str::to_owned)).collect();
    names.sort();
    names.dedup();
    names
}

/// A slash or `.toml` makes a file of it; a name has neither.
fn names_a_file(name: &str) -> bool {
    name.contains('/')
        || Path::new(name)
            .extension()
            .is_some_and(|extension| extension == "toml")
}

fn by_name(name: &str, folder: &Path) -> Result<Option<String>, String> {
    if name.is_empty() || names_a_file(name) || name.starts_with('.') {
        return Err(format!("{name:?} is no profile name"));
    }
    let path = folder.join(format!("{name}.toml"));
    match read(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(builtin(name).map(str::to_owned))
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn read(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() > MAX_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_BYTES} bytes")));
    }
    std::fs::read_to_string(path)
}

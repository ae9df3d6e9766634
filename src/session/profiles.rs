//! Profiles by name: the caller's own files first, then the compiled-in ones; or one file by path.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::policy::profile::{builtin, builtin_names, is_name};
use crate::policy::{Overrides, PolicyTest, Profile, ProfileError};

/// The caller's environment, read once when the process starts.
pub type Environment = BTreeMap<OsString, OsString>;

/// The longest profile; a larger file is none.
const MAX_PROFILE: u64 = 1 << 20;

/// Reads a profile and what it extends. A name with a slash or ending in `.toml` is the path of a file;
/// any other is looked up in `$XDG_CONFIG_HOME/portcullis/profiles`, then among the compiled-in ones.
pub fn load(name: &str, environment: &Environment) -> Result<Profile, ProfileError> {
    load_with(name, environment, &Overrides::default())
}

/// The same with flags laid over it.
pub fn load_with(
    name: &str,
    environment: &Environment,
    overrides: &Overrides,
) -> Result<Profile, ProfileError> {
    let file = is_path(name).then(|| Path::new(name));
    let read = |name: &str| match file {
        Some(file) => read(file).map(Some),
        None => by_name(name, environment),
    };
    load_by(name, read, environment, overrides)
}

/// As [`load_with`], with the files that were read: those of the caller, not the compiled-in profiles.
pub fn load_with_files(
    name: &str,
    environment: &Environment,
    overrides: &Overrides,
) -> (Result<Profile, ProfileError>, Vec<PathBuf>) {
    let mut files = Vec::new();
    let own = folder(environment);
    let mut load = |layer: &str| {
        if files.is_empty() && layer == name && is_path(name) {
            let file = std::path::absolute(name).unwrap_or_else(|_| PathBuf::from(name));
            files.push(file);
            return read(Path::new(name)).map(Some);
        }
        let text = by_name(layer, environment)?;
        let file = own.as_ref().filter(|_| is_name(layer));
        let file = file.map(|folder| folder.join(format!("{layer}.toml")));
        files.extend(file.filter(|file| file.exists()));
        Ok(text)
    };
    let loaded = Profile::read_with(name, &mut load, overrides);
    let loaded = loaded.map_err(|error| name_all(error, own.as_deref()));
    (loaded, files)
}

/// Reads the profile in a file, and the tests that stand there.
pub fn load_file(
    file: &Path,
    environment: &Environment,
) -> Result<(Profile, Vec<PolicyTest>), ProfileError> {
    let name = file.display().to_string();
    let text = read(file).map_err(|problem| ProfileError::Load {
        profile: name.clone(),
        problem,
    })?;
    let read = |_: &str| Ok(Some(text.clone()));
    let profile = load_by(&name, read, environment, &Overrides::default())?;
    Ok((profile, PolicyTest::read_all(&name, &text)?))
}

/// Reads the profile asked for in one way and what it extends by name.
fn load_by(
    asked_for: &str,
    read: impl Fn(&str) -> Result<Option<String>, String>,
    environment: &Environment,
    overrides: &Overrides,
) -> Result<Profile, ProfileError> {
    let mut first = true;
    let mut load = |name: &str| {
        if std::mem::take(&mut first) {
            read(name)
        } else {
            by_name(name, environment)
        }
    };
    Profile::read_with(asked_for, &mut load, overrides)
        .map_err(|error| name_all(error, folder(environment).as_deref()))
}

/// The caller's own profile of this name, else the compiled-in one.
fn by_name(name: &str, environment: &Environment) -> Result<Option<String>, String> {
    let own = folder(environment).filter(|_| is_name(name));
    match own.map(|folder| folder.join(format!("{name}.toml"))) {
        Some(file) if exists(&file)? => read(&file).map(Some),
        _ => Ok(builtin(name).map(ToOwned::to_owned)),
    }
}

/// The names of every profile there is, the caller's own and the compiled-in ones.
pub fn names(environment: &Environment) -> Vec<String> {
    let mut names = own_names(folder(environment).as_deref());
    names.extend(builtin_names().map(ToOwned::to_owned));
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether `-p` means a file rather than a name.
pub(super) fn is_path(name: &str) -> bool {
    let toml = Path::new(name).extension() == Some(OsStr::new("toml"));
    name.contains('/') || toml
}

/// Where the caller keeps profiles: `$XDG_CONFIG_HOME`, which counts only when absolute (XDG Base
/// Directory Specification), else `~/.config`.
pub(super) fn folder(environment: &Environment) -> Option<PathBuf> {
    let absolute = |name: &str| {
        environment
            .get(OsStr::new(name))
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(config.join("portcullis/profiles"))
}

/// A missing profile is told with the caller's own names too.
fn name_all(error: ProfileError, folder: Option<&Path>) -> ProfileError {
    match error {
        ProfileError::Missing {
            name,
            extended_by,
            mut available,
            ..
        } => {
            available.extend(own_names(folder));
            ProfileError::missing(&name, extended_by.as_deref(), available)
        }
        other => other,
    }
}

fn own_names(folder: Option<&Path>) -> Vec<String> {
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
    entries
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_suffix(".toml")
                .filter(|name| is_name(name))
                .map(ToOwned::to_owned)
        })
        .collect()
}

/// A file that is there but cannot be looked at is no reason to take another profile of that name.
fn exists(file: &Path) -> Result<bool, String> {
    file.try_exists().map_err(|error| failed(file, &error))
}

fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|open| open.take(MAX_PROFILE + 1).read_to_string(&mut text))
        .map_err(|error| failed(file, &error))?;
    if text.len() as u64 > MAX_PROFILE {
        return Err(failed(file, &io::Error::other("longer than 1 MiB")));
    }
    Ok(text)
}

fn failed(file: &Path, error: &io::Error) -> String {
    format!("read {}: {error}", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(home: &Path) -> Environment {
        [(OsString::from("HOME"), home.as_os_str().to_owned())]
            .into_iter()
            .collect()
    }

    fn write(home: &Path, name: &str, text: &str) {
        let folder = home.join(".config/portcullis/profiles");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), text).unwrap();
    }

    #[test]
    fn the_callers_own_profile_comes_before_the_built_in_one_of_its_name() {
        let home = tempfile::tempdir().unwrap();
        assert!(load("codex", &caller(home.path())).unwrap().codex.enabled);
        write(
            home.path(),
            "codex.toml",
            "description = 'mine'\nextends = 'offline'",
        );
        let own = load("codex", &caller(home.path())).unwrap();
        assert_eq!(
            (own.description.as_str(), own.network.enabled),
            ("mine", false)
        );
    }

    #[test]
    fn a_path_is_a_file_and_a_name_is_never_one() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("own.toml");
        std::fs::write(&file, "extends = 'offline'").unwrap();
        let caller = caller(home.path());
        assert!(
            !load(file.to_str().unwrap(), &caller)
                .unwrap()
                .network
                .enabled
        );
        assert!(matches!(
            load("../own", &caller),
            Err(ProfileError::Load { .. })
        ));
        std::fs::write(&file, "extends = 'own.toml'").unwrap();
        let missing = load(file.to_str().unwrap(), &caller).unwrap_err();
        assert!(matches!(missing, ProfileError::Missing { .. }), "{missing}");
    }

    #[test]
    fn a_missing_profile_is_told_with_the_callers_own_names() {
        let home = tempfile::tempdir().unwrap();
        write(home.path(), "strict.toml", "");
        write(home.path(), ".hidden.toml", "");
        assert_eq!(
            load("strickt", &caller(home.path()))
                .unwrap_err()
                .to_string(),
            "no profile \"strickt\"; there are base, codex, codex-sealed, offline, registries, strict; did you mean \"strict\"?"
        );
        assert_eq!(
            names(&caller(home.path())),
            [
                "base",
                "codex",
                "codex-sealed",
                "offline",
                "registries",
                "strict"
            ]
        );
    }

    #[test]
    fn an_own_profile_that_cannot_be_read_is_no_reason_to_take_the_built_in_one() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".config/portcullis/profiles/codex.toml"))
            .unwrap();
        assert!(matches!(
            load("codex", &caller(home.path())),
            Err(ProfileError::Load { .. })
        ));
    }

    #[test]
    fn the_tests_of_a_file_come_with_it() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("t");
        std::fs::write(&file, "[[tests]]\nrequest='a.test'\nexpect='deny'").unwrap();
        let (profile, tests) = load_file(&file, &caller(home.path())).unwrap();
        assert_eq!((profile.name, tests.len()), (file.display().to_string(), 1));
    }
}

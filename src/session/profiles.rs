//! Profiles by name: the caller's own files first, then the admin's, then the compiled-in ones; or one
//! file by path. What the admin insists on holds for all of them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{caller, project_file};
use crate::policy::profile::{LayerText, Overlays, Reading, builtin, builtin_names, is_name};
use crate::policy::requirements::REQUIREMENTS_FILE;
use crate::policy::{Overrides, PolicyTest, Profile, ProfileError, Requirements, RuleId};
use crate::sys::admin_file;

/// The caller's environment, read once when the process starts.
pub type Environment = BTreeMap<OsString, OsString>;

/// The longest profile; a larger file is none.
const MAX_PROFILE: u64 = 1 << 20;

/// What the admin of this host has written: profiles, and what none of them may exceed.
pub const SYSTEM: &str = "/etc/portcullis";

/// Where profiles are looked up, and what is laid over them.
#[derive(Debug, Clone, Copy)]
pub struct Shelf<'a> {
    /// The caller's environment.
    pub environment: &'a Environment,
    /// The admin's folder.
    pub system: &'a Path,
    /// The file of the project, if there is one.
    pub project: Option<&'a LayerText>,
}

impl<'a> Shelf<'a> {
    /// The shelf of a caller on this host.
    pub fn new(environment: &'a Environment, project: Option<&'a LayerText>) -> Self {
        Self {
            environment,
            system: Path::new(SYSTEM),
            project,
        }
    }

    /// Reads a profile with all its layers. A name with a slash or ending in `.toml` is the path of a
    /// file; any other is looked up in `$XDG_CONFIG_HOME/portcullis/profiles`, then in
    /// `/etc/portcullis/profiles`, then among the compiled-in ones.
    pub fn read(&self, name: &str, overrides: &Overrides) -> Result<Reading, ProfileError> {
        self.read_noting(name, overrides, false).0
    }

    /// As [`Shelf::read`], noting where each value was written.
    pub fn read_with_origins(
        &self,
        name: &str,
        overrides: &Overrides,
    ) -> Result<Reading, ProfileError> {
        self.read_noting(name, overrides, true).0
    }

    /// As [`Shelf::read`], with the files that were read or would be: those of the caller and of the
    /// admin, not the compiled-in profiles.
    pub fn read_with_files(
        &self,
        name: &str,
        overrides: &Overrides,
    ) -> (Result<Reading, ProfileError>, Vec<PathBuf>) {
        self.read_noting(name, overrides, false)
    }

    fn read_noting(
        &self,
        name: &str,
        overrides: &Overrides,
        origins: bool,
    ) -> (Result<Reading, ProfileError>, Vec<PathBuf>) {
        let mut files = vec![self.system.join(REQUIREMENTS_FILE)];
        let read = self.requirements().and_then(|requirements| {
            let own = Self::may_bring_own(name, requirements.as_ref())?;
            let over = Overlays {
                project: self.project,
                overrides,
                requirements: requirements.as_ref(),
                origins,
            };
            // Only what is asked for may be a path: what a file extends is a name, whatever it looks like.
            let mut file = is_path(name).then(|| Path::new(name));
            let mut load = |name: &str, nth| match file.take() {
                Some(file) if own => at(file, &mut files).map(Some),
                Some(_) => Ok(None),
                None => self.nth(name, nth, own, &mut files),
            };
            Profile::read_layers(name, &mut load, over)
        });
        (read.map_err(|error| self.name_all(error)), files)
    }

    /// What the admin insists on. A file that cannot be taken for the admin's is no reason to go on
    /// without.
    fn requirements(&self) -> Result<Option<Requirements>, ProfileError> {
        let file = self.system.join(REQUIREMENTS_FILE);
        let place = file.display().to_string();
        let text = admin_file::read(&file).map_err(|problem| ProfileError::Load {
            profile: place.clone(),
            problem,
        })?;
        text.map(|text| Requirements::parse(&place, &text))
            .transpose()
    }

    /// Whether files of the caller's own count. Where the admin lists profiles for a group of the
    /// caller's, those of the host count alone, and of them those that are listed.
    fn may_bring_own(
        name: &str,
        requirements: Option<&Requirements>,
    ) -> Result<bool, ProfileError> {
        if let Some(names) = caller::listed_profiles() {
            if names.iter().any(|listed| listed == name) {
                return Ok(false);
            }
            return Err(ProfileError::Load {
                profile: name.to_owned(),
                problem: format!("the service lets you use others: {}", names.join(", ")),
            });
        }
        let Some(required) = requirements.filter(|required| required.lists_profiles()) else {
            return Ok(true);
        };
        let groups = caller::groups().map_err(|error| ProfileError::Load {
            profile: name.to_owned(),
            problem: format!(
                "{} lists profiles by group, and yours cannot be looked up: {error}",
                required.place()
            ),
        })?;
        let Some(names) = required.profiles_for(&groups) else {
            return Ok(true);
        };
        if names.iter().any(|listed| listed == name) {
            return Ok(false);
        }
        Err(ProfileError::Load {
            profile: name.to_owned(),
            problem: format!(
                "{} lists other profiles for a group of yours: {}",
                required.place(),
                names.join(", ")
            ),
        })
    }

    /// The nth text of a name, the caller's before the admin's before the compiled-in one.
    fn nth(
        &self,
        name: &str,
        nth: usize,
        own: bool,
        files: &mut Vec<PathBuf>,
    ) -> Result<Option<LayerText>, String> {
        if !is_name(name) {
            return Err(format!(
                "{name:?} is no profile name; accepted are letters, digits, '-', '_' and '.', not in front, or the path of a file"
            ));
        }
        let mut found = Vec::new();
        if let Some(folder) = folder(self.environment).filter(|_| own) {
            let file = folder.join(format!("{name}.toml"));
            if exists(&file)? {
                found.push(layer(read(&file)?, &file.display().to_string()));
                files.push(file);
            }
        }
        let file = self.system.join("profiles").join(format!("{name}.toml"));
        if let Some(text) = admin_file::read(&file)? {
            found.push(layer(text, &file.display().to_string()));
            files.push(file);
        }
        found.extend(builtin(name).map(|text| layer(text.to_owned(), &format!("built-in {name}"))));
        Ok(found.into_iter().nth(nth))
    }

    /// The names of every profile there is: the caller's own, the admin's and the compiled-in ones.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.own_names();
        names.extend(builtin_names().map(ToOwned::to_owned));
        names.sort_unstable();
        names.dedup();
        names
    }

    fn own_names(&self) -> Vec<String> {
        let own = folder(self.environment);
        let system = self.system.join("profiles");
        own.iter()
            .chain([&system])
            .flat_map(|folder| names_in(folder))
            .collect()
    }

    /// A missing profile is told with the names of the caller's and of the host's.
    fn name_all(&self, error: ProfileError) -> ProfileError {
        match error {
            ProfileError::Missing {
                name,
                extended_by,
                mut available,
                ..
            } => {
                available.extend(self.own_names());
                ProfileError::missing(&name, extended_by.as_deref(), available)
            }
            other => other,
        }
    }
}

/// Whether a rule is the admin's: its name begins with the file of the requirements, and a profile's never
/// with a path.
pub(super) fn is_required(rule: &RuleId) -> bool {
    let file = Path::new(SYSTEM).join(REQUIREMENTS_FILE);
    let rest = rule.as_str().strip_prefix(&*file.to_string_lossy());
    rest.is_some_and(|rest| rest.starts_with(": "))
}

/// The layer in a file.
fn at(file: &Path, files: &mut Vec<PathBuf>) -> Result<LayerText, String> {
    let text = read(file)?;
    files.push(std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
    Ok(layer(text, &file.display().to_string()))
}

/// The file of the project that a folder belongs to, for this process's user.
pub fn project_of(folder: &Path) -> Result<Option<LayerText>, ProfileError> {
    project_file::find(folder, nix::unistd::getuid())
}

fn layer(text: String, place: &str) -> LayerText {
    LayerText {
        text,
        place: place.to_owned(),
    }
}

/// Reads the profile in a file, and the tests that stand there. What is laid over it elsewhere, by a
/// project or by the admin, is not what is asked for.
pub fn load_file(
    file: &Path,
    environment: &Environment,
) -> Result<(Profile, Vec<PolicyTest>), ProfileError> {
    let name = file.display().to_string();
    let text = read(file).map_err(|problem| ProfileError::Load {
        profile: name.clone(),
        problem,
    })?;
    let shelf = Shelf::new(environment, None);
    let mut files = Vec::new();
    let mut load = |asked_for: &str, nth| match nth {
        0 if asked_for == name => Ok(Some(layer(text.clone(), &name))),
        _ => shelf.nth(asked_for, nth, true, &mut files),
    };
    let overrides = Overrides::default();
    let reading = Profile::read_layers(&name, &mut load, Overlays::flags(&overrides))
        .map_err(|error| shelf.name_all(error))?;
    Ok((reading.profile, PolicyTest::read_all(&name, &text)?))
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

/// The names of the profiles in a folder.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries
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

    fn load(name: &str, environment: &Environment) -> Result<Profile, ProfileError> {
        let nobodys = Path::new("/nonexistent");
        let shelf = Shelf {
            environment,
            system: nobodys,
            project: None,
        };
        let reading = shelf.read(name, &Overrides::default())?;
        Ok(reading.profile)
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
            Shelf::new(&caller(home.path()), None).names(),
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

//! Who calls: the caller's identity, folders and environment, read once.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getegid, getgid, getgrouplist, getgroups, getuid};

/// The process that asked for a session, as it was when it asked.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Real user.
    pub uid: Uid,
    /// Real group.
    pub gid: Gid,
    /// Login name, or the uid in digits when the user database has none.
    pub user: String,
    /// Group name, or the gid in digits.
    pub group: String,
    /// The home folder: `$HOME` if absolute, else the user database's, else `/`.
    pub home: PathBuf,
    /// The environment.
    pub environment: BTreeMap<OsString, OsString>,
}

/// Who calls, where that is another process: of a session that the service has started, the environment of
/// the session process is not the caller's.
#[derive(Debug)]
struct Assumed {
    environment: BTreeMap<OsString, OsString>,
    user: String,
    profiles: Option<Vec<String>>,
}

static ASSUMED: OnceLock<Assumed> = OnceLock::new();

/// Has [`Caller::current`] answer with these variables and this name from now on. `profiles`: those that the
/// service lets the caller use, the host's own alone; `None`: any.
pub fn assume(environment: Vec<(String, String)>, user: String, profiles: Option<Vec<String>>) {
    let environment = environment.into_iter().map(|(k, v)| (k.into(), v.into()));
    let assumed = Assumed {
        environment: environment.collect(),
        user,
        profiles,
    };
    // Said once: a process runs one session.
    ASSUMED.set(assumed).ok();
}

/// The profiles that the service lets the caller use, the host's own alone; `None`: any.
pub(super) fn listed_profiles() -> Option<&'static [String]> {
    ASSUMED.get()?.profiles.as_deref()
}

/// The names of this process's groups, and of those that the user database has its user in: a login may be
/// older than that. A group without a name goes by its number. An error where they cannot be told: whoever
/// goes by them must not take somebody for nobody.
pub(super) fn groups() -> nix::Result<Vec<String>> {
    let mut gids = getgroups()?;
    gids.extend([getgid(), getegid()]);
    if let Some(user) = User::from_uid(getuid())? {
        let name = CString::new(user.name).map_err(|_| Errno::EINVAL)?;
        gids.extend(getgrouplist(&name, user.gid)?);
    }
    gids.sort_unstable_by_key(|gid| gid.as_raw());
    gids.dedup();
    gids.into_iter().map(name_of).collect()
}

fn name_of(gid: Gid) -> nix::Result<String> {
    let group = Group::from_gid(gid)?;
    Ok(group.map_or_else(|| gid.to_string(), |group| group.name))
}

impl Caller {
    /// Reads the identity of this process.
    pub fn current() -> Self {
        let (uid, gid) = (getuid(), getgid());
        let assumed = ASSUMED.get();
        let environment: BTreeMap<_, _> = assumed.map_or_else(
            || std::env::vars_os().collect(),
            |assumed| assumed.environment.clone(),
        );
        let record = User::from_uid(uid).ok().flatten();
        let home = environment
            .get(OsStr::new("HOME"))
            .map(PathBuf::from)
            .or_else(|| record.as_ref().map(|user| user.dir.clone()))
            .filter(|home| home.is_absolute())
            .unwrap_or_else(|| PathBuf::from("/"));
        let group = Group::from_gid(gid).ok().flatten();
        Self {
            uid,
            gid,
            user: assumed.map_or_else(
                || record.map_or_else(|| uid.to_string(), |user| user.name),
                |assumed| assumed.user.clone(),
            ),
            group: group.map_or_else(|| gid.to_string(), |group| group.name),
            home,
            environment,
        }
    }

    /// Somebody with this home and these variables.
    #[cfg(test)]
    pub(super) fn ada<K: Into<OsString>, V: Into<OsString>>(
        home: impl Into<PathBuf>,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let variables = variables.into_iter();
        Self {
            uid: 7.into(),
            gid: 7.into(),
            user: "ada".to_owned(),
            group: "ada".to_owned(),
            home: home.into(),
            environment: variables.map(|(k, v)| (k.into(), v.into())).collect(),
        }
    }

    /// An environment variable, if it is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// Portcullis's own folder of state: `$XDG_STATE_HOME/portcullis`.
    pub fn state_folder(&self) -> PathBuf {
        self.folder("XDG_STATE_HOME", ".local/state")
    }

    /// Portcullis's own folder of configuration: `$XDG_CONFIG_HOME/portcullis`.
    pub fn config_folder(&self) -> PathBuf {
        self.folder("XDG_CONFIG_HOME", ".config")
    }

    /// XDG Base Directory Specification 0.8: the variable if it is absolute, else below the home.
    fn folder(&self, variable: &str, default: &str) -> PathBuf {
        self.variable(variable)
            .map(Path::new)
            .filter(|path| path.is_absolute())
            .map_or_else(|| self.home.join(default), Path::to_path_buf)
            .join("portcullis")
    }
}

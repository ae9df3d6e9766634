//! `/etc/portcullis/portcullis.toml`: who may use the service, for what, and how much of it. Read at every
//! launch and every request, so that a change counts at once; a file that is wrong admits nobody.

use std::path::Path;

use serde::Deserialize;

use super::accounts::Accounts;
use crate::policy::ResourceLimits;
use crate::policy::profile::is_name;
use crate::sys::admin_file;
use crate::sys::peer::Peer;
use crate::wire::service::May;

/// Where it stands.
pub const FILE: &str = "/etc/portcullis/portcullis.toml";

/// Sessions at once, where the file does not say.
const SESSIONS: usize = 1000;

/// The file form.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct ConfigFile {
    sessions: Option<usize>,
    operators: Option<Vec<String>>,
    auditors: Option<Vec<String>>,
    access: Option<Vec<AccessFile>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct AccessFile {
    who: Vec<String>,
    profiles: Option<Vec<String>>,
    sessions: Option<usize>,
    #[serde(default)]
    limits: toml::Table,
}

/// The valid form.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Sessions at once, of everybody.
    pub sessions: usize,
    operators: Vec<Who>,
    auditors: Vec<Who>,
    access: Vec<Access>,
}

/// What some may have.
#[derive(Debug, Clone, PartialEq)]
pub struct Access {
    who: Vec<Who>,
    /// The profiles that they may use, the host's own alone; `None`: any, their own too.
    pub profiles: Option<Vec<String>>,
    /// Sessions at once of one user; `None`: as many as there may be.
    pub sessions: Option<usize>,
    /// The most of the machine that one session may take.
    pub limits: ResourceLimits,
}

/// Somebody, or some group.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    /// `*`
    Everybody,
    /// `ada`, or `1000`
    User(u32),
    /// `@staff`, or `@100`
    Group(u32),
    /// A name that no file has: nobody, until it is there.
    Unknown,
}

impl Config {
    /// Reads the file; without one everybody may start sessions, and the groups `portcullis-operators` and
    /// `portcullis-auditors` are what they are called. The error is one line.
    pub fn read(accounts: &Accounts) -> Result<Self, String> {
        let text = admin_file::read(Path::new(FILE))?;
        Self::parse(&text.unwrap_or_default(), accounts)
    }

    /// Reads the text.
    pub fn parse(text: &str, accounts: &Accounts) -> Result<Self, String> {
        let file: ConfigFile = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .and_then(|span| text.get(..span.start))
                .map_or(1, |before| before.matches('\n').count() + 1);
            format!(
                "{FILE}: line {line}: {}",
                error.message().replace('\n', "; ")
            )
        })?;
        let list = |key: &str, list: Option<Vec<String>>, usual: &str| {
            let list = list.unwrap_or_else(|| vec![usual.to_owned()]);
            whos(key, &list, accounts)
        };
        let access = file.access.unwrap_or_else(|| {
            vec![AccessFile {
                who: vec!["*".to_owned()],
                profiles: None,
                sessions: None,
                limits: toml::Table::new(),
            }]
        });
        Ok(Self {
            sessions: file.sessions.unwrap_or(SESSIONS),
            operators: list("operators", file.operators, "@portcullis-operators")?,
            auditors: list("auditors", file.auditors, "@portcullis-auditors")?,
            access: access
                .into_iter()
                .enumerate()
                .map(|(i, access)| valid(&format!("access[{i}]"), access, accounts))
                .collect::<Result<_, _>>()?,
        })
    }

    /// What this peer may have: the first entry that names them. `None`: nothing.
    pub fn access(&self, peer: &Peer) -> Option<&Access> {
        self.access.iter().find(|access| names(&access.who, peer))
    }

    /// What this peer may do with a session of this user; `None`: not even know of it.
    pub fn may(&self, peer: &Peer, owner: u32) -> Option<May> {
        if peer.uid == owner || peer.uid == 0 {
            Some(May::Own)
        } else if names(&self.operators, peer) {
            Some(May::Operate)
        } else if names(&self.auditors, peer) {
            Some(May::See)
        } else {
            None
        }
    }

    /// Whether this peer may read the logs of others.
    pub fn reads_logs(&self, peer: &Peer) -> bool {
        peer.uid == 0 || names(&self.auditors, peer)
    }
}

fn valid(key: &str, access: AccessFile, accounts: &Accounts) -> Result<Access, String> {
    let who = whos(&format!("{key}.who"), &access.who, accounts)?;
    if let Some(name) = access.profiles.iter().flatten().find(|name| !is_name(name)) {
        return Err(format!(
            "{FILE}: {key}.profiles: {name:?} is no profile name; write it as \"codex\""
        ));
    }
    Ok(Access {
        who,
        profiles: access.profiles,
        sessions: access.sessions,
        limits: ResourceLimits::parse(&format!("{FILE}: {key}"), access.limits)
            .map_err(|error| error.to_string())?,
    })
}

fn whos(key: &str, list: &[String], accounts: &Accounts) -> Result<Vec<Who>, String> {
    let one = |text: &String| {
        who(text, accounts).ok_or_else(|| {
            format!("{FILE}: {key}: {text:?} is nobody; accepted are \"ada\", \"@group\", \"*\" and numbers")
        })
    };
    list.iter().map(one).collect()
}

fn who(text: &str, accounts: &Accounts) -> Option<Who> {
    let number = |text: &str| text.parse::<u32>().ok();
    match text.strip_prefix('@') {
        _ if text == "*" => Some(Who::Everybody),
        Some("") => None,
        Some(group) => {
            let gid = number(group).or_else(|| accounts.group(group));
            Some(gid.map_or(Who::Unknown, Who::Group))
        }
        None if text.is_empty() || text.contains([' ', ':']) => None,
        None => {
            let uid = number(text).or_else(|| accounts.user(text).map(|(uid, _)| uid));
            Some(uid.map_or(Who::Unknown, Who::User))
        }
    }
}

fn names(list: &[Who], peer: &Peer) -> bool {
    list.iter().any(|who| match who {
        Who::Everybody => true,
        Who::User(uid) => *uid == peer.uid,
        Who::Group(gid) => *gid == peer.gid || peer.groups.contains(gid),
        Who::Unknown => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Resource;

    fn accounts() -> Accounts {
        Accounts::parse(
            "ada:x:1000:1000::/:\nbob:x:1001:1001::/:\n",
            "staff:x:50:\nportcullis-operators:x:60:\nportcullis-auditors:x:61:\n",
        )
    }

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        Peer {
            pid: rustix::process::getpid(),
            uid,
            gid: uid,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn without_a_file_everybody_has_their_own_sessions_and_nobody_sees_others() {
        let config = Config::parse("", &accounts()).unwrap();
        let everybody = config.access(&peer(1000, &[])).unwrap();
        assert_eq!((&everybody.profiles, everybody.sessions), (&None, None));
        for (peer, may) in [
            (peer(1000, &[]), Some(May::Own)),
            (peer(1001, &[50]), None),
            (peer(1001, &[60]), Some(May::Operate)),
            (peer(1001, &[61]), Some(May::See)),
            (peer(1001, &[61, 60]), Some(May::Operate)),
            (peer(0, &[]), Some(May::Own)),
        ] {
            assert_eq!(config.may(&peer, 1000), may, "{peer:?}");
        }
        assert!(config.reads_logs(&peer(1, &[61])) && !config.reads_logs(&peer(1, &[60])));
    }

    #[test]
    fn the_first_entry_that_names_somebody_is_theirs() {
        let text = "
            sessions = 9
            operators = [\"bob\", \"@nowhere\"]
            [[access]]
            who = [\"ada\"]
            profiles = [\"codex\"]
            sessions = 2
            limits = { memory = \"1G\" }
            [[access]]
            who = [\"@staff\", \"@1000\"]
        ";
        let config = Config::parse(text, &accounts()).unwrap();
        assert_eq!(config.sessions, 9);
        let ada = config.access(&peer(1000, &[50])).unwrap();
        assert_eq!(ada.profiles.as_deref(), Some(&["codex".to_owned()][..]));
        assert_eq!(
            (ada.sessions, ada.limits.get(Resource::Memory)),
            (Some(2), Some(1 << 30))
        );
        assert_eq!(config.access(&peer(7, &[50])).unwrap().profiles, None);
        assert!(config.access(&peer(7, &[])).is_none());
        assert_eq!(config.may(&peer(1001, &[]), 1000), Some(May::Operate));
        assert_eq!(config.may(&peer(7, &[60]), 1000), None);
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        for (text, problem) in [
            ("\nsessoins = 1", "line 2: unknown field `sessoins`"),
            ("operators = [\"\"]", "operators: \"\" is nobody"),
            (
                "[[access]]\nwho = [\"*\"]\nprofiles = [\"a/b\"]",
                "access[0].profiles: \"a/b\" is no profile name",
            ),
            (
                "[[access]]\nwho = [\"*\"]\nlimits = { memroy = 1 }",
                "limits.memroy",
            ),
        ] {
            let error = Config::parse(text, &accounts()).unwrap_err();
            assert!(error.contains(problem) && error.contains(FILE), "{error}");
        }
    }
}

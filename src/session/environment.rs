//! The command's environment: built from a list, never inherited whole.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::jail::identity::login_shell;
use crate::policy::EnvironmentPolicy;

use super::caller::Caller;

/// Where programs are looked for after the caller's own folders.
const SYSTEM_PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// What is known about the jail when its environment is built.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Paths that can be read in the jail; a `PATH` entry of the caller counts only below one of them.
    pub visible: &'a [PathBuf],
    /// Folders that come first in `PATH`, as the search tool that Codex brings.
    pub path_first: &'a [PathBuf],
    /// Variables that the session sets: proxies, Codex.
    pub session: Vec<(String, String)>,
}

/// Later sources win: identity, what the profile passes through, what the session sets, what the
/// profile sets. Values that are not UTF-8 are not passed.
pub fn build(
    caller: &Caller,
    policy: &EnvironmentPolicy,
    jail: Surroundings<'_>,
) -> Vec<(String, String)> {
    let mut variables = std::collections::BTreeMap::new();
    let home = caller.home.to_string_lossy().into_owned();
    for (name, value) in [
        ("HOME", home.as_str()),
        ("USER", &caller.user),
        ("LOGNAME", &caller.user),
        ("SHELL", login_shell()),
        ("TMPDIR", "/tmp"),
    ] {
        variables.insert(name.to_owned(), value.to_owned());
    }
    variables.insert(
        "PATH".to_owned(),
        path(caller, jail.visible, jail.path_first),
    );
    for (name, value) in &caller.environment {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
            continue;
        };
        if policy.pass.iter().any(|passed| passed == name) {
            variables.insert(name.to_owned(), value.to_owned());
        }
    }
    variables.extend(jail.session);
    variables.extend(policy.set.clone());
    variables.into_iter().collect()
}

fn path(caller: &Caller, visible: &[PathBuf], first: &[PathBuf]) -> String {
    let callers = caller.variable("PATH").unwrap_or(OsStr::new(""));
    let callers = std::env::split_paths(callers)
        .filter(|entry| entry.is_absolute() && visible.iter().any(|root| entry.starts_with(root)));
    let mut entries: Vec<String> = Vec::new();
    let all = first
        .iter()
        .cloned()
        .chain(callers)
        .chain(SYSTEM_PATH.map(PathBuf::from));
    for entry in all.filter_map(|entry| plain(&entry)) {
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries.join(":")
}

fn plain(path: &Path) -> Option<String> {
    path.to_str()
        .filter(|text| !text.contains(':'))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn only_listed_variables_pass_and_later_sources_win() {
        let caller = Caller::ada(
            "/home/ada",
            [
                ("PATH", "/home/ada/bin:relative:/usr/bin:/opt/tool/bin"),
                ("LC_ALL", "C"),
                ("TERM", "xterm"),
                ("AWS_SECRET_ACCESS_KEY", "s"),
                ("LD_PRELOAD", "/tmp/x.so"),
            ],
        );
        let policy = EnvironmentPolicy {
            pass: vec!["LC_ALL".to_owned(), "TERM".to_owned(), "ABSENT".to_owned()],
            set: BTreeMap::from([("TERM".to_owned(), "dumb".to_owned())]),
        };
        let jail = Surroundings {
            visible: &["/usr".into(), "/opt/tool".into()],
            path_first: &["/opt/codex/path".into()],
            session: vec![("HTTP_PROXY".to_owned(), "http://127.0.0.1:3128".to_owned())],
        };
        let expected = [
            ("HOME", "/home/ada"),
            ("HTTP_PROXY", "http://127.0.0.1:3128"),
            ("LC_ALL", "C"),
            ("LOGNAME", "ada"),
            (
                "PATH",
                "/opt/codex/path:/usr/bin:/opt/tool/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin",
            ),
            ("SHELL", login_shell()),
            ("TERM", "dumb"),
            ("TMPDIR", "/tmp"),
            ("USER", "ada"),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        assert_eq!(build(&caller, &policy, jail), expected);
    }
}

//! The upstream proxy of a session: from the profile, or from the caller's environment as curl reads
//! it. The gate gets it, the jail never does.

use std::path::{Path, PathBuf};

use crate::policy::upstream::ProxyUrlError;
use crate::policy::{
    NetworkPolicy, NoProxy, Password, ProxyScheme, ProxyUrl, ResolveNames, UpstreamPolicy,
};
use crate::wire::gate::{ProxyAccess, UpstreamProxy};

use super::Progress;
use super::caller::Caller;
use super::trust;

/// The longest file that can hold a password.
const MAX_PASSWORD_FILE: usize = 4096;

/// The upstream proxy is wanted and cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("upstream proxy, by {place}: {problem}")]
pub struct UpstreamError {
    /// A key of the profile, a variable or a file.
    place: String,
    problem: String,
}

impl UpstreamError {
    fn new(place: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self {
            place: place.into(),
            problem: problem.to_string(),
        }
    }
}

/// Settles which proxy leads out; `None`: none does. `writable` are folders that sessions can write.
pub(super) fn settle(
    policy: &NetworkPolicy,
    caller: &Caller,
    writable: &[PathBuf],
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<Option<UpstreamProxy>, UpstreamError> {
    let wanted = &policy.upstream_proxy;
    if !policy.allow_upstream_proxy {
        if wanted.url.is_some() {
            tell(Progress::Note(
                "network.upstream_proxy.url does not count: network.allow_upstream_proxy is false, \
                 so connections go out directly",
            ));
        }
        return Ok(None);
    }
    let (plain, tunnels) = match &wanted.url {
        Some(url) => {
            if url.password.is_some() {
                tell(Progress::Note(
                    "network.upstream_proxy.url has a password in it, which everybody who reads the \
                     profile sees; network.upstream_proxy.password_file keeps it apart",
                ));
            }
            let access = access(url.clone(), wanted, caller, writable)?;
            (Some(access.clone()), Some(access))
        }
        None => from_environment(wanted, caller, writable)?,
    };
    if plain.is_none() && tunnels.is_none() {
        return Ok(None);
    }
    let mut no_proxy = wanted.no_proxy.clone();
    if wanted.url.is_none() {
        no_proxy.extend(exempt(caller, tell));
    }
    Ok(Some(UpstreamProxy {
        plain,
        tunnels,
        no_proxy,
    }))
}

type Found = (Option<ProxyAccess>, Option<ProxyAccess>);

/// `http_proxy` for plain HTTP, `https_proxy` for tunnels, `all_proxy` for what the two leave. The
/// lower-case name wins, as in curl. `HTTP_PROXY` does not count in a CGI program, where a client's
/// header can set it (CVE-2016-5385).
fn from_environment(
    wanted: &UpstreamPolicy,
    caller: &Caller,
    writable: &[PathBuf],
) -> Result<Found, UpstreamError> {
    let first = |names: &[&'static str]| {
        names
            .iter()
            .find(|name| caller.variable(name).is_some())
            .copied()
    };
    let in_cgi = caller.variable("REQUEST_METHOD").is_some();
    let all = first(&["all_proxy", "ALL_PROXY"]);
    let plain = if in_cgi {
        first(&["http_proxy"])
    } else {
        first(&["http_proxy", "HTTP_PROXY"])
    };
    let tunnels = first(&["https_proxy", "HTTPS_PROXY"]);
    let read = |name: Option<&'static str>| {
        name.map(|name| {
            let text = caller.variable(name).unwrap_or_default();
            let text = text
                .to_str()
                .ok_or_else(|| UpstreamError::new(name, "it is not UTF-8"))?;
            let url = ProxyUrl::parse(text)
                .map_err(|problem: ProxyUrlError| UpstreamError::new(name, problem))?;
            access(url, wanted, caller, writable)
        })
        .transpose()
    };
    Ok((read(plain.or(all))?, read(tunnels.or(all))?))
}

/// Entries that mean nothing here are left out, as every client does, but said.
fn exempt(caller: &Caller, tell: &mut dyn FnMut(Progress<'_>)) -> Vec<NoProxy> {
    let name = ["no_proxy", "NO_PROXY"]
        .into_iter()
        .find(|name| caller.variable(name).is_some());
    let Some(name) = name else {
        return Vec::new();
    };
    let list = caller.variable(name).unwrap_or_default().to_string_lossy();
    let mut entries = Vec::new();
    for text in list.split([',', ' ']).filter(|text| !text.is_empty()) {
        match NoProxy::parse(text) {
            Ok(entry) => entries.push(entry),
            Err(problem) => tell(Progress::Note(&format!("{name}: {problem}"))),
        }
    }
    entries
}

fn access(
    mut url: ProxyUrl,
    wanted: &UpstreamPolicy,
    caller: &Caller,
    writable: &[PathBuf],
) -> Result<ProxyAccess, UpstreamError> {
    let password = match (&wanted.password_file, url.password.take()) {
        (Some(path), _) => Some(read_password(path, caller, writable)?),
        (None, password) => password,
    };
    if password.is_some() && url.user.is_none() {
        let problem = "there is a password and no user; write the user into the URL, as http://user@host:port";
        return Err(UpstreamError::new("network.upstream_proxy", problem));
    }
    let resolve = wanted.resolve.unwrap_or(match url.scheme {
        ProxyScheme::Socks5 => ResolveNames::Local,
        ProxyScheme::Http | ProxyScheme::Https | ProxyScheme::Socks5h => ResolveNames::Proxy,
    });
    Ok(ProxyAccess {
        url,
        password,
        resolve,
    })
}

/// Refuses a proxy that the admin's requirements do not list, whoever named it: without it connections
/// would go out directly, which nobody asked for.
pub(super) fn hold_to(
    upstream: Option<&UpstreamProxy>,
    permitted: Option<&[ProxyUrl]>,
) -> Result<(), UpstreamError> {
    let (Some(upstream), Some(permitted)) = (upstream, permitted) else {
        return Ok(());
    };
    for access in [&upstream.plain, &upstream.tunnels].into_iter().flatten() {
        if !permitted.iter().any(|listed| listed.is_same(&access.url)) {
            let listed: Vec<_> = permitted.iter().map(ProxyUrl::to_string).collect();
            let problem = match listed.as_slice() {
                [] => "the requirements of this host permit none; set network.allow_upstream_proxy = false"
                    .to_owned(),
                listed => format!(
                    "the requirements of this host list others: {}",
                    listed.join(", ")
                ),
            };
            return Err(UpstreamError::new(access.url.to_string(), problem));
        }
    }
    Ok(())
}

/// Whether a proxy is spoken to by TLS, so that there must be authorities to hold it to.
pub(super) fn needs_tls(upstream: Option<&UpstreamProxy>) -> bool {
    let both = upstream.map(|upstream| [&upstream.plain, &upstream.tunnels]);
    both.into_iter()
        .flatten()
        .flatten()
        .any(|access| access.url.scheme == ProxyScheme::Https)
}

/// A path of the profile, `~/` put in.
pub(super) fn in_home(path: &Path, home: &Path) -> PathBuf {
    match path.strip_prefix("~") {
        Ok(below) => home.join(below),
        Err(_) => path.to_owned(),
    }
}

/// The first line of the file.
fn read_password(
    path: &Path,
    caller: &Caller,
    writable: &[PathBuf],
) -> Result<Password, UpstreamError> {
    let path = in_home(path, &caller.home);
    let error = |problem: String| UpstreamError::new(path.display().to_string(), problem);
    if !trust::is_outside(&path, writable) {
        return Err(error(
            "lies in a folder that the session can write; keep it elsewhere".to_owned(),
        ));
    }
    let text = std::fs::read_to_string(&path)
        .map_err(|problem| error(format!("{problem}; network.upstream_proxy.password_file")))?;
    if text.len() > MAX_PASSWORD_FILE {
        return Err(error(
            "is too long for a password; write it on the first line".to_owned(),
        ));
    }
    let line = text.lines().next().unwrap_or_default().to_owned();
    Password::new(line).map_err(|problem| error(problem.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(variables: &[(&str, &str)]) -> Caller {
        Caller::ada("/home/ada", variables.iter().copied())
    }

    fn policy(url: Option<&str>) -> NetworkPolicy {
        NetworkPolicy {
            allow_upstream_proxy: true,
            upstream_proxy: UpstreamPolicy {
                url: url.map(|url| ProxyUrl::parse(url).unwrap()),
                ..UpstreamPolicy::default()
            },
            ..NetworkPolicy::default()
        }
    }

    fn of(variables: &[(&str, &str)]) -> (Option<String>, Option<String>, Vec<String>) {
        let caller = caller(variables);
        let found = settle(&policy(None), &caller, &[], &mut |_| ()).unwrap();
        let text = |access: Option<ProxyAccess>| access.map(|access| access.url.to_string());
        found.map_or((None, None, Vec::new()), |found| {
            let exempt = found.no_proxy.iter().map(ToString::to_string).collect();
            (text(found.plain), text(found.tunnels), exempt)
        })
    }

    #[test]
    fn variables_are_read_as_curl_reads_them() {
        let some = |text: &str| Some(text.to_owned());
        let (a, b) = ("http://a:1", "https://b:2");
        assert_eq!(of(&[]), (None, None, vec![]));
        assert_eq!(of(&[("NO_PROXY", "*")]), (None, None, vec![]));
        assert_eq!(of(&[("http_proxy", a)]), (some(a), None, vec![]));
        assert_eq!(of(&[("HTTPS_PROXY", a)]), (None, some(a), vec![]));
        assert_eq!(
            of(&[
                ("HTTPS_PROXY", a),
                ("https_proxy", b),
                ("no_proxy", ".x, y:1")
            ]),
            (None, some(b), vec!["x".to_owned(), "y:1".to_owned()])
        );
        assert_eq!(
            of(&[("ALL_PROXY", a), ("HTTP_PROXY", b)]),
            (some(b), some(a), vec![])
        );
        assert_eq!(
            of(&[("HTTP_PROXY", b), ("REQUEST_METHOD", "GET")]),
            (None, None, vec![])
        );
    }

    #[test]
    fn a_proxy_that_the_requirements_do_not_list_ends_the_launch_wherever_it_was_named() {
        let listed: Vec<_> = ["http://corp:3128", "https://safe:443"]
            .into_iter()
            .map(|url| ProxyUrl::parse(url).unwrap())
            .collect();
        let held = |url: Option<&str>, variables: &[(&str, &str)], listed: Option<&[ProxyUrl]>| {
            let found = settle(&policy(url), &caller(variables), &[], &mut |_| ()).unwrap();
            hold_to(found.as_ref(), listed).map_err(|error| error.to_string())
        };
        let listed = Some(listed.as_slice());
        assert_eq!(held(None, &[], listed), Ok(()));
        assert_eq!(held(Some("http://me:pw@corp:3128"), &[], listed), Ok(()));
        assert_eq!(held(Some("http://mine:1"), &[], None), Ok(()));
        for (url, variables) in [
            (Some("http://mine:1"), &[][..]),
            (Some("http://corp:3129"), &[]),
            (Some("socks5h://corp:3128"), &[]),
            // The same proxy, but nothing of what is sent to it is secret any more.
            (Some("http://safe:443"), &[]),
            (None, &[("https_proxy", "http://mine:1")]),
            (
                None,
                &[
                    ("http_proxy", "http://mine:1"),
                    ("https_proxy", "http://corp:3128"),
                ],
            ),
        ] {
            let told = held(url, variables, listed).unwrap_err();
            assert!(told.contains("list others: http://corp:3128"), "{told}");
        }
        let none = held(Some("http://corp:3128"), &[], Some(&[])).unwrap_err();
        assert!(none.contains("permit none"), "{none}");
    }

    #[test]
    fn authorities_are_needed_where_either_proxy_is_spoken_to_by_tls() {
        for (variables, needs) in [
            (vec![], false),
            (vec![("https_proxy", "http://a:1")], false),
            (vec![("https_proxy", "https://a:1")], true),
            (vec![("http_proxy", "https://a:1")], true),
            (vec![("https_proxy", "socks5h://a:1")], false),
        ] {
            let found = settle(&policy(None), &caller(&variables), &[], &mut |_| ()).unwrap();
            assert_eq!(needs_tls(found.as_ref()), needs, "{variables:?}");
        }
    }

    #[test]
    fn a_proxy_counts_only_where_the_profile_allows_one_and_what_cannot_be_used_ends_the_launch() {
        let with = caller(&[("https_proxy", "http://env:1")]);
        let mut told = Vec::new();
        let mut tell = |progress: Progress<'_>| {
            if let Progress::Note(note) = progress {
                told.push(note.to_owned());
            }
        };
        let off = NetworkPolicy {
            allow_upstream_proxy: false,
            ..policy(Some("http://file:2"))
        };
        assert_eq!(settle(&off, &with, &[], &mut tell).unwrap(), None);
        let on = settle(&policy(Some("http://u:p@file:2")), &with, &[], &mut tell);
        let tunnels = on.unwrap().unwrap().tunnels.unwrap();
        assert_eq!(tunnels.url.to_string(), "http://u@file:2");
        assert_eq!(tunnels.password.as_ref().map(Password::expose), Some("p"));
        assert_eq!(told.len(), 2, "{told:?}");
        for (name, value) in [
            ("https_proxy", "ftp://secure:1"),
            ("all_proxy", "http://noport"),
        ] {
            let caller = caller(&[(name, value)]);
            let error = settle(&policy(None), &caller, &[], &mut |_| ()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_password_comes_from_the_first_line_of_a_file_that_no_session_can_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "s3cret\nrest\n").unwrap();
        let mut policy = policy(Some("http://u@file:2"));
        policy.upstream_proxy.password_file = Some(path);
        let found = |writable: &[PathBuf]| settle(&policy, &caller(&[]), writable, &mut |_| ());
        let password = found(&[]).unwrap().unwrap().plain.unwrap().password;
        assert_eq!(password.as_ref().map(Password::expose), Some("s3cret"));
        let error = found(&[folder.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains("can write"), "{error}");
    }
}

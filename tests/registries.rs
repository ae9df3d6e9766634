//! Registries: the hosts come from the clients' own configuration on this machine, asked of the real
//! clients; nothing that a session can write counts.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic and start real clients"
)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis::policy::profile::builtin;
use portcullis::policy::{Effect, Profile, Registry};
use portcullis::session::profiles::Environment;
use portcullis::session::registries::{Found, discover, resolve};

const ALL: [Registry; 4] = [Registry::Pip, Registry::Npm, Registry::Cargo, Registry::Apt];

/// The caller's environment with some variables changed.
fn environment(changes: &[(&str, &str)]) -> Environment {
    let mut environment: Environment = std::env::vars_os().collect();
    for (name, value) in changes {
        environment.insert(OsString::from(name), OsString::from(value));
    }
    environment
}

fn one(registry: Registry, changes: &[(&str, &str)]) -> Found {
    discover(&[registry], &environment(changes), &[])
        .into_iter()
        .next()
        .unwrap()
}

fn places(found: &Found) -> Vec<String> {
    let mut shown: Vec<String> = found
        .places
        .iter()
        .map(|place| format!("{}:{}", place.host, place.port))
        .collect();
    shown.sort();
    shown
}

fn executable(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn every_client_of_this_machine_tells_its_own_hosts() {
    for found in discover(&ALL, &environment(&[]), &[]) {
        assert_eq!(found.problem, None, "{found}");
        assert!(!found.places.is_empty(), "{found}");
        for rule in found.rules() {
            assert!(rule.id.as_str().starts_with("registries."));
            assert_eq!((rule.effect, rule.ports.len()), (Effect::Allow, 1));
        }
    }
}

#[test]
fn npm_is_believed_about_its_registry_and_its_scopes() {
    let told = Command::new("npm")
        .args(["config", "get", "registry"])
        .current_dir("/")
        .output()
        .unwrap();
    let url = String::from_utf8(told.stdout).unwrap();
    let host = url
        .trim()
        .split("://")
        .nth(1)
        .unwrap()
        .split(['/', ':'])
        .next()
        .unwrap()
        .to_owned();
    assert!(
        places(&one(Registry::Npm, &[]))
            .iter()
            .any(|place| place.starts_with(&host))
    );

    let folder = tempfile::tempdir().unwrap();
    let npmrc = folder.path().join("npmrc");
    fs::write(
        &npmrc,
        "registry=https://npm.mirror.test/\n@acme:registry=http://acme.mirror.test:4873/npm/\n\
         //npm.mirror.test/:_authToken=secret\nproxy=http://proxy.test:3128\n",
    )
    .unwrap();
    let found = one(
        Registry::Npm,
        &[("NPM_CONFIG_USERCONFIG", npmrc.to_str().unwrap())],
    );
    assert_eq!(
        places(&found),
        ["acme.mirror.test:4873", "npm.mirror.test:443"]
    );
    assert!(!found.to_string().contains("secret"));
}

#[test]
fn pip_is_believed_about_its_indexes() {
    let index = (
        "PIP_INDEX_URL",
        "https://user:secret@pip.mirror.test:8443/simple",
    );
    let extra = (
        "PIP_EXTRA_INDEX_URL",
        "https://a.test/simple http://b.test/simple",
    );
    let found = one(
        Registry::Pip,
        &[index, extra, ("PIP_FIND_LINKS", "/opt/wheels")],
    );
    assert_eq!(
        places(&found),
        ["a.test:443", "b.test:80", "pip.mirror.test:8443"]
    );
    assert!(!found.to_string().contains("secret"), "{found}");
}

#[test]
fn pip_without_an_index_of_its_own_is_asked_for_its_default() {
    let found = one(
        Registry::Pip,
        &[("PIP_CONFIG_FILE", "/dev/null"), ("PIP_FIND_LINKS", "")],
    );
    // The index and, since files do not come from it, their host.
    assert_eq!(found.places.len(), 2, "{found}");
    assert!(
        found
            .places
            .iter()
            .all(|place| place.source == "pip's own default"),
        "{found}"
    );
    let found = one(
        Registry::Pip,
        &[
            ("PIP_CONFIG_FILE", "/dev/null"),
            ("PIP_FIND_LINKS", ""),
            ("PIP_NO_INDEX", "1"),
        ],
    );
    assert_eq!(places(&found), [""; 0], "{found}");
}

#[test]
fn cargo_is_believed_about_its_registries() {
    let home = tempfile::tempdir().unwrap();
    let variable = ("CARGO_HOME", home.path().to_str().unwrap());
    // rustup must find its toolchains although CARGO_HOME is another.
    let by_default = one(Registry::Cargo, &[variable]);
    assert_eq!(by_default.problem, None);
    // No cache: the index and the domain whose sister serves the downloads.
    assert_eq!(by_default.places.len(), 2, "{by_default}");
    assert!(
        by_default
            .places
            .iter()
            .any(|p| p.host.to_string().starts_with("**.")),
        "{by_default}"
    );

    fs::write(
        home.path().join("config.toml"),
        "[source.crates-io]\nreplace-with = 'mirror'\n[source.mirror]\nregistry = 'sparse+https://crates.mirror.test/index/'\n",
    )
    .unwrap();
    let cache = home
        .path()
        .join("registry/index/crates.mirror.test-0123456789abcdef");
    fs::create_dir_all(&cache).unwrap();
    fs::write(
        cache.join("config.json"),
        r#"{"dl":"https://files.mirror.test/{crate}","api":null}"#,
    )
    .unwrap();
    // Cached by a project that once named another registry: not cargo's own configuration.
    let foreign = home
        .path()
        .join("registry/index/foreign.test-0123456789abcdef");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(
        foreign.join("config.json"),
        r#"{"dl":"https://foreign.test/"}"#,
    )
    .unwrap();
    let replaced = one(Registry::Cargo, &[variable]);
    assert_eq!(
        places(&replaced),
        ["crates.mirror.test:443", "files.mirror.test:443"]
    );
}

#[test]
fn apt_is_believed_about_its_sources_in_either_form() {
    let folder = tempfile::tempdir().unwrap();
    let parts = folder.path().join("sources.list.d");
    fs::create_dir(&parts).unwrap();
    let list = folder.path().join("sources.list");
    fs::write(
        &list,
        "deb [trusted=yes] http://one.mirror.test/debian stable main\n",
    )
    .unwrap();
    fs::write(
        parts.join("two.sources"),
        "Types: deb\nURIs: https://two.mirror.test:8443/debian\nSuites: stable\nComponents: main\n",
    )
    .unwrap();
    let mirrors = folder.path().join("mirrors");
    fs::write(
        &mirrors,
        "http://three.mirror.test/debian\tpriority:1\nhttps://four.mirror.test/debian\n",
    )
    .unwrap();
    fs::write(
        parts.join("five.list"),
        format!("deb mirror+file:{} stable main\n", mirrors.display()),
    )
    .unwrap();
    let config = folder.path().join("apt.conf");
    fs::write(
        &config,
        format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"{}\";\n",
            list.display(),
            parts.display()
        ),
    )
    .unwrap();
    let found = one(Registry::Apt, &[("APT_CONFIG", config.to_str().unwrap())]);
    assert_eq!(
        places(&found),
        [
            "four.mirror.test:443",
            "one.mirror.test:80",
            "three.mirror.test:80",
            "two.mirror.test:8443"
        ]
    );
}

#[test]
fn what_a_session_can_write_neither_counts_nor_runs() {
    let workspace = tempfile::tempdir().unwrap();
    let marker = workspace.path().join("ran");
    let script = format!(
        "#!/bin/sh\ntouch '{}'\necho https://evil.test\n",
        marker.display()
    );
    for program in ["pip", "pip3", "npm", "cargo", "apt-get", "python3"] {
        executable(&workspace.path().join("venv/bin").join(program), &script);
    }
    // A link from outside leads back in.
    let outside = tempfile::tempdir().unwrap();
    for program in ["pip", "npm"] {
        std::os::unix::fs::symlink(
            workspace.path().join("venv/bin").join(program),
            outside.path().join(program),
        )
        .unwrap();
    }
    fs::write(
        workspace.path().join(".npmrc"),
        "registry=https://evil.test/\n",
    )
    .unwrap();
    fs::write(
        workspace.path().join("pip.conf"),
        "[global]\nindex-url=https://evil.test/\n",
    )
    .unwrap();
    let own = std::env::var("PATH").unwrap();
    let path = format!(
        "{}:{}:{own}",
        workspace.path().join("venv/bin").display(),
        outside.path().display()
    );
    let caller = environment(&[("PATH", &path), ("PWD", workspace.path().to_str().unwrap())]);
    let writable = [workspace.path().to_owned()];
    let found = discover(&ALL, &caller, &writable);
    assert!(!marker.exists());
    for found in &found {
        assert!(!found.to_string().contains("evil.test"), "{found}");
    }
    // The twin: the same programs run where they are trusted.
    drop(discover(&ALL, &caller, &[]));
    assert!(marker.exists());
}

// G05
#[test]
fn a_variable_of_the_callers_does_not_lead_into_the_workspace() {
    let workspace = tempfile::tempdir().unwrap();
    let at = |name: &str| workspace.path().join(name).display().to_string();
    let marker = workspace.path().join("ran");
    let python = format!("open({:?}, 'w')\n", at("ran"));
    fs::write(workspace.path().join("sitecustomize.py"), python).unwrap();
    let node = format!("require('fs').writeFileSync({:?}, '')\n", at("ran"));
    fs::write(workspace.path().join("hook.cjs"), node).unwrap();
    fs::write(
        workspace.path().join(".npmrc"),
        "registry=https://evil.test/\n",
    )
    .unwrap();
    fs::write(
        workspace.path().join("pip.conf"),
        "[global]\nindex-url=https://evil.test/\n",
    )
    .unwrap();
    fs::write(
        workspace.path().join("config.toml"),
        "[registries.e]\nindex='https://evil.test/'\n",
    )
    .unwrap();
    let root = workspace.path().display().to_string();
    let hooks = [
        ("PYTHONPATH", root.clone()),
        ("NODE_OPTIONS", format!("--require={}", at("hook.cjs"))),
    ];
    let files = [
        ("PIP_CONFIG_FILE", at("pip.conf")),
        ("NPM_CONFIG_USERCONFIG", at(".npmrc")),
        ("CARGO_HOME", root.clone()),
    ];
    let changes: Vec<(&str, &str)> = hooks
        .iter()
        .chain(&files)
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let writable = [workspace.path().to_owned()];
    for changes in [changes.as_slice(), &[("HOME", root.as_str())]] {
        for found in discover(&ALL, &environment(changes), &writable) {
            assert!(!found.to_string().contains("evil.test"), "{found}");
        }
    }
    // Nor may a home whose configuration alone is writable.
    let home = [("HOME", root.as_str())];
    let npmrc = [workspace.path().join(".npmrc")];
    for found in discover(&[Registry::Npm], &environment(&home), &npmrc) {
        assert!(!found.to_string().contains("evil.test"), "{found}");
    }
    assert!(!marker.exists());
    // The twin: where nothing is writable the same files count.
    for (registry, changes) in [
        (Registry::Npm, &files[1..2]),
        (Registry::Pip, &files[0..1]),
        (Registry::Cargo, &files[2..3]),
    ] {
        let changes: Vec<(&str, &str)> = changes.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let found = one(registry, &changes);
        assert!(found.to_string().contains("evil.test"), "{found}");
    }
}

#[test]
fn a_client_that_is_not_there_is_told_and_stops_nothing() {
    let caller: Environment = [(OsString::from("PATH"), OsString::from("/nowhere"))]
        .into_iter()
        .collect();
    let found = discover(
        &[Registry::Npm, Registry::Apt],
        &caller,
        &[PathBuf::from("/workspace")],
    );
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "npm: not found: no npm in PATH outside of the workspace",
            "apt: not found: no apt-get in PATH outside of the workspace",
        ]
    );
}

#[test]
fn a_profile_gets_a_rule_for_each_host_and_nothing_more_to_look_up() {
    let profile = Profile::read("registries", &mut |name| {
        Ok(builtin(name).map(ToOwned::to_owned))
    })
    .unwrap();
    let npmrc = tempfile::NamedTempFile::new().unwrap();
    fs::write(npmrc.path(), "registry=https://npm.mirror.test/\n").unwrap();
    let caller = environment(&[("NPM_CONFIG_USERCONFIG", npmrc.path().to_str().unwrap())]);
    let workspace = tempfile::tempdir().unwrap();
    let (profile, found) = resolve(profile, &caller, workspace.path());
    assert_eq!(profile.network.registries, []);
    assert_eq!(found.len(), 4);
    let npm = profile
        .network
        .rules
        .iter()
        .find(|rule| rule.id.as_str() == "registries.npm");
    let npm = npm.unwrap_or_else(|| panic!("{:?}", profile.network.rules));
    assert_eq!(
        (npm.host.to_string(), npm.ports.len()),
        ("npm.mirror.test".to_owned(), 1)
    );
}

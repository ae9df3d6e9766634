//! What is installed: the units as systemd reads them, manual pages and completions, scripts/install and the
//! Debian package.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use portcullis::daemon::accounts::Accounts;
use portcullis::daemon::config::Config;
use tempfile::TempDir;

/// A uid without an account.
const USER: u32 = 4001;

/// What `systemd-analyze security` says of the service, in tenths (systemd 252). The unit tells why not less.
const EXPOSURE: &str = "64";

/// The same of the notary.
const NOTARY_EXPOSURE: &str = "10";

const PROGRAMS: [&str; 8] = [
    "portcullis",
    "portcullis-audit",
    "portcullis-auditor",
    "portcullis-gate",
    "portcullis-init",
    "portcullis-notary",
    "portcullis-prune",
    "portcullisd",
];

const UNITS: [&str; 8] = [
    "portcullis-forward.service",
    "portcullis-notary.service",
    "portcullis-prune.service",
    "portcullis-prune.timer",
    "portcullis-sessions.service",
    "portcullis.slice",
    "portcullisd.service",
    "portcullisd.socket",
];

fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of the programs that were built for this test.
fn built() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_portcullis"))
        .parent()
        .unwrap()
}

/// A folder that everybody can enter.
fn folder() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("portcullis-")
        .tempdir()
        .unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs it; what it says belongs to the message of its failure.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let all = text(&output.stdout) + &text(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{all}",
        output.status
    );
    text(&output.stdout)
}

fn install(arguments: &[&str]) -> Command {
    let mut command = Command::new(tree().join("scripts/install"));
    command.args(arguments);
    command
}

/// An installation below a folder that goes when it is dropped.
struct Installed {
    folder: TempDir,
}

impl Installed {
    fn new() -> Self {
        let installed = Self { folder: folder() };
        installed.again();
        installed
    }

    fn prefix(&self) -> PathBuf {
        self.folder.path().join("opt/portcullis")
    }

    fn path(&self, below: &str) -> PathBuf {
        self.prefix().join(below)
    }

    fn again(&self) -> String {
        let (prefix, built) = (self.prefix(), built());
        run(install(&[])
            .arg("--prefix")
            .arg(prefix)
            .arg("--programs")
            .arg(built))
    }
}

/// Paths below a folder with their kinds and modes; what a link leads to.
fn listing(folder: &Path) -> BTreeMap<String, String> {
    fn look(folder: &Path, top: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let about = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(top).unwrap().display().to_string();
            let kind = if about.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                format!("{:o}", about.mode() & 0o7777)
            };
            found.insert(name, kind);
            if about.is_dir() {
                look(&path, top, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    look(folder, folder, &mut found);
    found
}

/// What is installed runs, for root and for a user, called by the link that is in people's PATH.
fn works(portcullis: &Path, scratch: &Path) {
    for user in [0, USER] {
        let home = scratch.join(format!("home-{user}"));
        fs::create_dir_all(home.join("work")).unwrap();
        for path in [&home, &home.join("work")] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        }
        let portcullis = |arguments: &[&str]| {
            let mut command = Command::new(portcullis);
            command
                .args(arguments)
                .env_clear()
                .env("HOME", &home)
                .env("PATH", "/usr/bin:/bin");
            command.current_dir(home.join("work")).uid(user).gid(user);
            run(&mut command)
        };
        let version = format!("portcullis {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(portcullis(&["--version"]), version);
        assert_eq!(
            portcullis(&["run", "-q", "--", "echo", "in the jail"]),
            "in the jail\n"
        );
    }
}

// === the units ===

#[test]
fn systemd_reads_every_unit_without_a_word() {
    let installed = Installed::new();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]);
    verify.args(UNITS.map(|unit| installed.path("lib/systemd/system").join(unit)));
    let output = verify.output().unwrap();
    assert_eq!(text(&output.stdout) + &text(&output.stderr), "");
    assert!(output.status.success());

    // Its twin: a word that systemd does not know is told.
    let unit = installed.path("lib/systemd/system/portcullisd.service");
    let wrong = fs::read_to_string(&unit)
        .unwrap()
        .replace("WatchdogSec=", "WatchdogSecs=");
    fs::write(&unit, wrong).unwrap();
    let output = verify.output().unwrap();
    assert!(text(&output.stderr).contains("WatchdogSecs"), "{output:?}");
}

#[test]
fn the_service_is_as_exposed_as_it_has_to_be_and_not_more() {
    let installed = Installed::new();
    let unit = installed.path("lib/systemd/system/portcullisd.service");
    let mut security = Command::new("systemd-analyze");
    security.args([
        "security",
        "--no-pager",
        "--offline=true",
        "--threshold",
        EXPOSURE,
    ]);
    security.arg(&unit);
    run(&mut security);

    // The notary needs next to nothing.
    let notary = installed.path("lib/systemd/system/portcullis-notary.service");
    let mut exposed = Command::new("systemd-analyze");
    exposed.args([
        "security",
        "--no-pager",
        "--offline=true",
        "--threshold",
        NOTARY_EXPOSURE,
    ]);
    run(exposed.arg(notary));

    let open = fs::read_to_string(&unit)
        .unwrap()
        .replace("ProtectClock=yes", "");
    fs::write(&unit, open).unwrap();
    assert!(!security.output().unwrap().status.success());
}

#[test]
fn what_the_unit_says_of_an_open_setting_stands_in_it() {
    let unit = fs::read_to_string(tree().join("systemd/portcullisd.service")).unwrap();
    let (set, open) = unit.split_once("# Open, and why:").unwrap();
    let names = |text: &str| -> BTreeSet<String> {
        let words = text.split([' ', ',', '\n']);
        words
            .filter_map(|word| word.strip_suffix('='))
            .map(str::to_owned)
            .collect()
    };
    // Each of them makes jails fail, or the daemon: nobody sets one without reading why it is open.
    let breaking = [
        "IPAddressDeny",
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "NoNewPrivileges",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateNetwork",
        "PrivateTmp",
        "PrivateUsers",
        "ProcSubset",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "RestrictNamespaces",
        "RestrictSUIDSGID",
        "RootDirectory",
        "User",
    ];
    let explained = names(open);
    for name in breaking {
        assert!(explained.contains(name), "{name} is not explained");
        let is_set = set
            .lines()
            .any(|line| line.starts_with(&format!("{name}=")));
        assert!(!is_set, "{name} is set");
    }
}

#[test]
fn users_and_folders_are_made_as_the_service_needs_them() {
    let root = folder();
    fs::create_dir(root.path().join("etc")).unwrap();
    let option = format!("--root={}", root.path().display());
    let systemd = tree().join("systemd");
    run(Command::new("systemd-sysusers")
        .arg(&option)
        .arg(systemd.join("sysusers.d/portcullis.conf")));
    run(Command::new("systemd-tmpfiles")
        .args([&option, "--create"])
        .arg(systemd.join("tmpfiles.d/portcullis.conf")));

    let read = |file: &str| -> Vec<Vec<String>> {
        let text = fs::read_to_string(root.path().join("etc").join(file)).unwrap();
        let fields = |line: &str| line.split(':').map(str::to_owned).collect();
        text.lines().map(fields).collect()
    };
    let mut users = BTreeMap::new();
    for user in read("passwd") {
        // No home, no shell.
        assert_eq!(user[5], "/nonexistent");
        assert!(user[6].ends_with("/nologin"), "{user:?}");
        users.insert(user[0].clone(), user[2].clone());
    }
    let names: Vec<&str> = users.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "portcullis-audit",
            "portcullis-forward",
            "portcullis-gate",
            "portcullis-notary"
        ]
    );
    assert_eq!(users.values().collect::<BTreeSet<_>>().len(), 4);
    for user in read("shadow") {
        assert!(user[1].starts_with('!'), "{user:?} has a password");
    }
    let groups: BTreeMap<_, _> = read("group")
        .into_iter()
        .map(|g| (g[0].clone(), g[2].clone()))
        .collect();
    for group in ["portcullis-operators", "portcullis-auditors"] {
        assert!(groups.contains_key(group));
    }

    let auditors = groups["portcullis-auditors"].as_str();
    let notary = users["portcullis-notary"].as_str();
    for (path, mode, (user, group)) in [
        ("run/portcullis", 0o755, ("0", "0")),
        ("run/portcullis/user", 0o755, ("0", "0")),
        ("var/lib/portcullis", 0o700, ("0", "0")),
        ("var/log/portcullis", 0o750, ("0", auditors)),
        ("var/log/portcullis/ledger", 0o2750, (notary, auditors)),
        ("etc/portcullis", 0o755, ("0", "0")),
        ("etc/portcullis/profiles", 0o755, ("0", "0")),
    ] {
        let about = fs::metadata(root.path().join(path)).unwrap();
        let found = (
            about.mode() & 0o7777,
            about.uid().to_string(),
            about.gid().to_string(),
        );
        assert_eq!(found, (mode, user.to_owned(), group.to_owned()), "{path}");
    }
}

#[test]
fn the_configuration_that_is_installed_says_what_holds_without_it() {
    let accounts = Accounts::parse(
        "ada:x:1000:1000::/:\n",
        "developers:x:50:\nportcullis-operators:x:60:\nportcullis-auditors:x:61:\n",
    );
    let file = fs::read_to_string(tree().join("systemd/etc/portcullis.toml")).unwrap();
    let defaults = Config::parse("", &accounts);
    assert_eq!(Config::parse(&file, &accounts), defaults);
    // What is commented out is what holds.
    let uncommented = |mark: &str| -> String {
        let lines = file.lines().filter(|line| !line.starts_with("# "));
        let lines = lines.filter_map(|line| line.strip_prefix(mark));
        lines
            .filter(|line| !line.starts_with('#'))
            .flat_map(|line| [line, "\n"])
            .collect()
    };
    let spoken = uncommented("#");
    assert!(spoken.contains("sessions = 1000"), "{spoken}");
    assert_eq!(Config::parse(&spoken, &accounts), defaults);
    let example = uncommented("##");
    assert!(example.contains("profiles = "), "{example}");
    Config::parse(&example, &accounts).unwrap();
}

// === manual pages and completions ===

/// Every visible verb with its long options, as `--help` tells them: `["policy", "show"]`.
fn verbs() -> Vec<(Vec<String>, BTreeSet<String>)> {
    let mut found = Vec::new();
    let mut waiting = vec![Vec::new()];
    while let Some(verb) = waiting.pop() {
        let verb: Vec<String> = verb;
        let help = run(Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(&verb)
            .arg("--help"));
        let mut options = BTreeSet::new();
        let mut section = "";
        for line in help.lines() {
            if !line.starts_with(' ') {
                section = line;
            } else if section == "Commands:" && line.starts_with("  ") && !line.starts_with("   ") {
                let word = line.split_whitespace().next().unwrap();
                waiting.push([verb.clone(), vec![word.to_owned()]].concat());
            } else if section == "Options:" && line.trim_start().starts_with('-') {
                let words = line.split_whitespace().take(2);
                options.extend(
                    words
                        .filter(|word| word.starts_with("--"))
                        .map(str::to_owned),
                );
            }
        }
        found.push((verb, options));
    }
    found
}

#[test]
fn every_verb_has_its_page_and_every_option_stands_in_it() {
    let folder = folder();
    run(Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("man")
        .arg(folder.path()));
    let verbs = verbs();
    assert!(verbs.len() > 20, "{verbs:?}");
    let mut pages = BTreeSet::new();
    for (verb, options) in verbs {
        let name = [vec!["portcullis".to_owned()], verb].concat().join("-") + ".1";
        let page = fs::read_to_string(folder.path().join(&name))
            .unwrap()
            .replace("\\-", "-");
        for option in options {
            assert!(
                page.contains(&format!("\\fB{option}\\fR")),
                "{name} has no {option}"
            );
        }
        pages.insert(name);
    }
    // And no page more: what is hidden stays so.
    assert_eq!(
        listing(folder.path()).into_keys().collect::<BTreeSet<_>>(),
        pages
    );
}

#[test]
fn every_option_is_completed_in_every_shell() {
    let options: BTreeSet<String> = verbs()
        .into_iter()
        .flat_map(|(_, options)| options)
        .collect();
    assert!(options.contains("--no-mitm"), "{options:?}");
    for shell in ["bash", "zsh", "fish"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let script = run(command.args(["completions", shell]));
        // fish names them apart: -l allow.
        let script = script.replace(" -l ", " --");
        let words: BTreeSet<&str> = script
            .split([' ', '\n', '\'', '[', '=', '"', ')', '*'])
            .collect();
        for option in &options {
            assert!(
                words.contains(option.as_str()),
                "{shell} does not know {option}"
            );
        }
    }
    let mut bash = Command::new("bash");
    let script = run(Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["completions", "bash"]));
    run(bash.args(["-n", "-c", &script]));
}

// === scripts/install ===

#[test]
fn what_is_installed_works_and_everything_of_it_is_removed_again() {
    let installed = Installed::new();
    works(&installed.path("bin/portcullis"), installed.folder.path());

    let files = listing(&installed.prefix());
    let programs: BTreeMap<String, String> = PROGRAMS
        .iter()
        .map(|name| (format!("lib/portcullis/{name}"), "755".to_owned()))
        .collect();
    for (path, mode) in &programs {
        assert_eq!(files.get(path), Some(mode), "{path}");
    }
    assert_eq!(files["bin/portcullis"], "-> ../lib/portcullis/portcullis");
    for unit in UNITS {
        let path = format!("lib/systemd/system/{unit}");
        assert_eq!(files[&path], "644");
        // A unit starts what was installed with it.
        let unit = fs::read_to_string(installed.path(&path)).unwrap();
        assert!(!unit.contains("=/usr/lib/portcullis"), "{unit}");
    }

    // Over itself, and with something beside it that is not ours.
    installed.again();
    assert_eq!(listing(&installed.prefix()), files);
    fs::write(installed.path("bin/other"), "").unwrap();
    run(install(&["--uninstall"])
        .arg("--prefix")
        .arg(installed.prefix()));
    let left = listing(&installed.prefix());
    assert_eq!(left.into_keys().collect::<Vec<_>>(), ["bin", "bin/other"]);
    fs::remove_file(installed.path("bin/other")).unwrap();

    installed.again();
    fs::remove_dir_all(installed.folder.path().join("home-0")).unwrap();
    fs::remove_dir_all(installed.folder.path().join(format!("home-{USER}"))).unwrap();
    run(install(&["--uninstall"])
        .arg("--prefix")
        .arg(installed.prefix()));
    // What was there before we came: the second installation found this folder empty.
    let left = listing(installed.folder.path());
    assert_eq!(
        left.into_keys().collect::<Vec<_>>(),
        ["opt", "opt/portcullis", "opt/portcullis/bin"]
    );
}

#[test]
fn what_an_older_version_brought_goes_with_it() {
    let installed = Installed::new();
    let (old, record) = (
        installed.path("lib/portcullis/old"),
        installed.path("lib/portcullis/installed"),
    );
    fs::write(&old, "").unwrap();
    let known = fs::read_to_string(&record).unwrap() + &format!("{}\n", old.display());
    fs::write(&record, known).unwrap();
    installed.again();
    assert!(!old.exists());
}

#[test]
fn a_dry_run_makes_nothing_and_says_what_it_would() {
    let folder = folder();
    let prefix = folder.path().join("x");
    let said = run(install(&["--dry-run"])
        .arg("--prefix")
        .arg(&prefix)
        .arg("--programs")
        .arg(built()));
    let line = format!(
        "would make: {}/lib/portcullis/portcullisd\n",
        prefix.display()
    );
    assert!(said.contains(&line), "{said}");
    assert!(!said.contains("systemctl"), "{said}");
    assert_eq!(listing(folder.path()), BTreeMap::new());

    // For the places that systemd looks at, the service as well.
    let said = run(install(&["--dry-run"]).arg("--programs").arg(built()));
    assert!(
        said.contains("would run: systemd-sysusers /usr/local/lib/sysusers.d/portcullis.conf\n"),
        "{said}"
    );
}

#[test]
fn whoever_is_not_root_is_told_so_and_so_is_who_has_built_nothing() {
    let refusal = |command: &mut Command| -> (Option<i32>, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        assert_eq!(text(&stdout), "");
        (status.code(), text(&stderr))
    };
    let folder = folder();
    let script = folder.path().join("install");
    fs::copy(tree().join("scripts/install"), &script).unwrap();
    let mut command = Command::new(&script);
    command.uid(USER).gid(USER).current_dir("/");
    let (status, why) = refusal(command.arg("--prefix").arg(folder.path().join("x")));
    assert_eq!(status, Some(1));
    assert!(
        why.starts_with("install: this needs root, whose the files have to be: sudo "),
        "{why}"
    );

    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let prefix = folder.path().join("x");
    let (status, why) = refusal(
        install(&[])
            .arg("--prefix")
            .arg(&prefix)
            .arg("--programs")
            .arg(&empty),
    );
    assert_eq!(status, Some(1));
    assert!(
        why.ends_with("has no portcullis: cargo build --release --locked --bins\n"),
        "{why}"
    );
    let (status, why) = refusal(install(&["--uninstall"]).arg("--prefix").arg(&prefix));
    assert_eq!(status, Some(1));
    assert!(
        why.starts_with("install: nothing that this script has made is below"),
        "{why}"
    );
    let (status, why) = refusal(&mut install(&["--prefix", "here"]));
    assert_eq!(
        (status, why.as_str()),
        (
            Some(1),
            "install: --prefix needs an absolute path, not: here\n"
        )
    );
    assert!(!prefix.exists());
}

// === the Debian package ===

#[test]
fn the_debian_package_is_whole_and_what_it_unpacks_works() {
    let said = run(Command::new(tree().join("scripts/package"))
        .arg("--programs")
        .arg(built()));
    let package = said.lines().last().unwrap();
    assert!(
        Path::new(package)
            .extension()
            .is_some_and(|extension| extension == "deb"),
        "{said}"
    );

    // As dpkg lists it: everything is root's, nothing is set-id, nobody else can write.
    let contents = run(Command::new("dpkg-deb").args(["--contents", package]));
    let mut files = BTreeMap::new();
    for line in contents.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert!(["0/0", "root/root"].contains(&fields[1]), "{line}");
        let expected = match fields[5] {
            path if path.ends_with('/') => "drwxr-xr-x",
            "./usr/bin/portcullis" => "lrwxrwxrwx",
            path if path.starts_with("./usr/lib/portcullis/") => "-rwxr-xr-x",
            _ => "-rw-r--r--",
        };
        assert_eq!(fields[0], expected, "{line}");
        files.insert(
            fields[5].trim_start_matches("./").to_owned(),
            fields.last().unwrap().to_string(),
        );
    }
    assert_eq!(files["usr/bin/portcullis"], "../lib/portcullis/portcullis");
    for name in PROGRAMS.iter().chain(&["hold-groups", "end-sessions"]) {
        assert!(
            files.contains_key(&format!("usr/lib/portcullis/{name}")),
            "{name}"
        );
    }
    for unit in UNITS {
        assert!(
            files.contains_key(&format!("usr/lib/systemd/system/{unit}")),
            "{unit}"
        );
    }
    for path in [
        "etc/portcullis/portcullis.toml",
        "usr/lib/sysusers.d/portcullis.conf",
        "usr/lib/tmpfiles.d/portcullis.conf",
        "usr/share/bash-completion/completions/portcullis",
        "usr/share/doc/portcullis/changelog.gz",
        "usr/share/doc/portcullis/copyright",
        "usr/share/fish/vendor_completions.d/portcullis.fish",
        "usr/share/man/man1/portcullis-run.1.gz",
        "usr/share/man/man1/portcullis.1.gz",
        "usr/share/man/man5/portcullis-audit.toml.5.gz",
        "usr/share/man/man5/portcullis-profile.5.gz",
        "usr/share/man/man5/portcullis-requirements.5.gz",
        "usr/share/man/man8/portcullisd.8.gz",
        "usr/share/zsh/vendor-completions/_portcullis",
    ] {
        assert!(files.contains_key(path), "{path}");
    }

    let field = |name: &str| run(Command::new("dpkg-deb").args(["--field", package, name]));
    assert_eq!(field("Package"), "portcullis\n");
    assert_eq!(field("Version"), format!("{}\n", env!("CARGO_PKG_VERSION")));
    let depends = field("Depends");
    for dependency in ["bubblewrap (>= 0.8)", "libc6 (>= ", "systemd |"] {
        assert!(depends.contains(dependency), "{depends}");
    }
    assert_eq!(field("Recommends"), "ca-certificates, nftables\n");

    let folder = folder();
    let control = folder.path().join("control");
    run(Command::new("dpkg-deb")
        .arg("--control")
        .arg(package)
        .arg(&control));
    let conffiles = fs::read_to_string(control.join("conffiles")).unwrap();
    assert_eq!(conffiles, "/etc/portcullis/portcullis.toml\n");
    for script in ["postinst", "prerm", "postrm"] {
        let path = control.join(script);
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o755, "{script}");
        run(Command::new("sh").arg("-n").arg(path));
    }

    let unpacked = folder.path().join("unpacked");
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .arg(package)
        .arg(&unpacked));
    works(&unpacked.join("usr/bin/portcullis"), folder.path());
    let unit =
        fs::read_to_string(unpacked.join("usr/lib/systemd/system/portcullisd.service")).unwrap();
    assert!(unit.contains("\nExecStart=/usr/lib/portcullis/portcullisd\n"));
}

//! `/etc/portcullis`: the admin's profiles and requirements, on hosts of their own (a mount namespace with
//! another `/etc`).
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cli::{EVERYONE, Install, Run, USER, Who};
use serde_json::json;

/// What is run on such a host: `/etc` with the admin's folder in it, then the command as its user.
const ENTER: &str = r#"
mount -t overlay overlay -o "lowerdir=$1:/etc" /etc
mount --bind "$1/portcullis" /etc/portcullis
user=$2
shift 2
if [ "$user" = 0 ]; then exec "$@"; fi
exec setpriv --reuid "$user" --regid "$user" --clear-groups -- "$@"
"#;

/// A host whose admin has a word.
struct Host {
    install: Install,
    who: Who,
}

impl Host {
    fn new(who: Who) -> Self {
        let install = Install::new(who);
        fs::create_dir_all(install.path("etc/portcullis/profiles")).unwrap();
        Self { install, who }
    }

    /// A file of the admin's.
    fn admin(&self, name: &str, text: &str) {
        fs::write(self.install.path("etc/portcullis").join(name), text).unwrap();
    }

    /// A profile of the caller's own.
    fn own(&self, name: &str, text: &str) {
        let below = format!("home/.config/portcullis/profiles/{name}.toml");
        self.install.write(&below, text);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let user = if self.who == Who::User { USER } else { 0 };
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-e",
                "-c",
                ENTER,
                "enter",
            ])
            .arg(self.install.path("etc"))
            .arg(user.to_string())
            .arg(self.install.path("bin/portcullis"))
            .args(arguments)
            .current_dir(self.install.work())
            .env_clear()
            .env("HOME", self.install.path("home"))
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .stdin(Stdio::null());
        command
    }

    fn portcullis(&self, arguments: &[&str]) -> Run {
        Run::of(&self.command(arguments).output().unwrap())
    }

    /// Asks for one page in a session.
    fn fetch(&self, flags: &[&str], url: &str) -> Run {
        let client = ["--", "curl", "-s", "-x", "http://127.0.0.1:3128", url];
        self.portcullis(&[&["run", "--quiet"], flags, &client].concat())
    }
}

/// The code of the refusal that the jail was told.
fn code(run: &Run) -> String {
    let body: serde_json::Value = serde_json::from_str(&run.stdout).unwrap_or_default();
    body["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_admins_profile_counts_below_the_callers_own_and_above_the_built_in_one() {
    let host = Host::new(Who::User);
    host.admin(
        "profiles/codex.toml",
        "description = \"the admin's\"\nextends = \"codex\"\n",
    );
    let show = |host: &Host| {
        host.portcullis(&["policy", "show", "codex", "--origin"])
            .stdout
    };
    let admins = show(&host);
    assert!(
        admins.contains("description = \"the admin's\"")
            && admins.contains("# /etc/portcullis/profiles/codex.toml"),
        "{admins}"
    );
    assert!(
        admins.contains("# built-in codex"),
        "it builds on it: {admins}"
    );
    host.own(
        "codex",
        "description = \"mine\"\nextends = \"codex\"\n[network]\nmode = \"limited\"\n",
    );
    let mine = show(&host);
    assert!(
        mine.contains("description = \"mine\"") && mine.contains("# built-in codex"),
        "{mine}"
    );
    let line = mine.lines().find(|line| line.starts_with("network.mode"));
    let file = host
        .install
        .path("home/.config/portcullis/profiles/codex.toml");
    assert!(
        line.unwrap().ends_with(&format!("# {}", file.display())),
        "{line:?}"
    );
}

#[test]
fn a_session_gets_no_more_than_the_requirements_and_is_told_so() {
    for who in EVERYONE {
        let host = Host::new(who);
        let before = host.fetch(&["--allow", "a.test"], "http://a.test/");
        assert_eq!(
            code(&before),
            "resolve_failed",
            "nothing is required: {before:?}"
        );
        host.admin(
            "requirements.toml",
            "[filesystem]\nmode = \"read-only\"\n[network.domains]\n\"*.example\" = \"allow\"\n",
        );
        let refused = host.fetch(&["--allow", "a.test"], "http://a.test/");
        assert_eq!(code(&refused), "forbidden_by_requirements", "{refused:?}");
        let flags = ["--allow", "a.example"];
        let permitted = host.fetch(&flags, "http://a.example/");
        assert_eq!(code(&permitted), "resolve_failed", "{permitted:?}");
        let written = host.portcullis(&["run", "--mode", "workspace-write", "--", "touch", "new"]);
        assert_ne!(written.status, Some(0), "{written:?}");
        assert!(
            written
                .stderr
                .contains("by the requirements of this host, filesystem.mode is read-only"),
            "{written:?}"
        );
        let decided = host.install.events("egress.decided");
        let reasons: Vec<_> = decided.iter().map(|record| &record["reason"]).collect();
        assert_eq!(
            reasons,
            [
                &json!(null),
                &json!("forbidden_by_requirements"),
                &json!(null)
            ]
        );
        let explained =
            host.portcullis(&["policy", "explain", "--allow", "a.test", "http://a.test/"]);
        assert_eq!(explained.status, Some(1), "{explained:?}");
        assert!(
            explained.stdout.contains("forbidden_by_requirements"),
            "{explained:?}"
        );
    }
}

#[test]
fn requirements_that_others_can_write_or_that_are_broken_start_nothing() {
    let host = Host::new(Who::User);
    let file = host.install.path("etc/portcullis/requirements.toml");
    host.admin("requirements.toml", "");
    let start = || host.portcullis(&["run", "--", "true"]);
    assert_eq!(start().status, Some(0), "the twin");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
    let others_write = "others than root can write it, so it does not count as the admin's; chown root and \
                        chmod go-w it";
    let said = |path: &str| {
        format!("portcullis: /etc/portcullis/requirements.toml: {path}: {others_write}\n")
    };
    let complaint = |run: Run| (run.status, run.stderr);
    let file_said = said("/etc/portcullis/requirements.toml");
    assert_eq!(complaint(start()), (Some(125), file_said));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let folder = host.install.path("etc/portcullis");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let folder_said = said("/etc/portcullis");
    assert_eq!(complaint(start()), (Some(125), folder_said));
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    host.admin("requirements.toml", "[network]\nmode = \"none\"\n");
    let broken = start();
    assert_eq!(broken.status, Some(125), "{broken:?}");
    assert!(
        broken
            .stderr
            .contains("requirements.toml: network.mode: unknown variant"),
        "{broken:?}"
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let unreadable = start();
    assert_eq!(unreadable.status, Some(125), "{unreadable:?}");
    assert!(
        unreadable.stderr.contains("Permission denied"),
        "{unreadable:?}"
    );
    assert_eq!(
        host.install.events("session.started").len(),
        1,
        "of the twin alone"
    );
}

#[test]
fn variables_of_the_callers_are_held_to_the_requirements_as_well() {
    let host = Host::new(Who::User);
    host.own("p", "[network]\nmitm = true\nallow_upstream_proxy = true\n");
    let run = |variable: (&str, &str)| {
        let mut command = host.command(&["run", "-p", "p", "--", "true"]);
        Run::of(&command.env(variable.0, variable.1).output().unwrap())
    };
    let proxy = ("https_proxy", "http://127.0.0.1:9");
    let authority = ("CODEX_CA_CERTIFICATE", "/etc/ssl/certs/ca-certificates.crt");
    for (variable, requirement, told) in [
        (
            proxy,
            "upstream_proxies = ['http://corp:3128']",
            "list others: http://corp:3128",
        ),
        (
            authority,
            "extra_ca = []",
            "CODEX_CA_CERTIFICATE does not count",
        ),
    ] {
        host.admin("requirements.toml", "");
        let free = run(variable);
        assert!(
            free.status == Some(0) && !free.stderr.contains(told),
            "{}",
            free.stderr
        );
        host.admin("requirements.toml", &format!("[network]\n{requirement}\n"));
        let held = run(variable);
        assert!(held.stderr.contains(told), "{}", held.stderr);
    }
}

#[test]
fn members_of_a_group_use_the_hosts_profiles_alone() {
    let host = Host::new(Who::User);
    // The group has no name, so it goes by its number.
    let text = format!("[[profiles]]\ngroup = \"{USER}\"\nnames = [\"offline\"]\n");
    host.admin("requirements.toml", &text);
    host.own(
        "offline",
        "extends = \"base\"\n[network.domains]\n\"a.test\" = \"allow\"\n",
    );
    let file = host.install.write("work/p.toml", "");
    let own = host.fetch(&["-p", "offline"], "http://a.test/");
    assert_eq!(
        code(&own),
        "network_disabled",
        "the file of that name does not count: {own:?}"
    );
    for other in ["base", file.to_str().unwrap()] {
        let refused = host.portcullis(&["run", "-p", other, "--", "true"]);
        assert_eq!(refused.status, Some(125), "{refused:?}");
        assert!(
            refused
                .stderr
                .contains("lists other profiles for a group of yours: offline"),
            "{refused:?}"
        );
    }
    let host = Host::new(Who::Root);
    host.admin("requirements.toml", &text);
    let other = host.portcullis(&["run", "-p", "base", "--", "true"]);
    assert_eq!(other.status, Some(0), "not of that group: {other:?}");
}

#[test]
fn a_group_counts_that_the_user_database_knows_and_the_login_does_not() {
    let host = Host::new(Who::User);
    for (file, line) in [
        ("passwd", format!("ada:x:{USER}:{USER}::/:/bin/sh\n")),
        ("group", "agents:x:54321:ada\n".to_owned()),
    ] {
        let of_the_host = fs::read_to_string(Path::new("/etc").join(file)).unwrap();
        let path = host.install.path("etc").join(file);
        fs::write(path, of_the_host + &line).unwrap();
    }
    let run = |group: &str| {
        let text = format!("[[profiles]]\ngroup = \"{group}\"\nnames = [\"offline\"]\n");
        host.admin("requirements.toml", &text);
        host.portcullis(&["run", "-p", "base", "--", "true"]).status
    };
    assert_eq!(run("agents"), Some(125));
    assert_eq!(run("others"), Some(0));
}

#[test]
fn a_profile_extends_no_file_of_the_folder_that_it_is_used_in() {
    let host = Host::new(Who::User);
    host.install.write(
        "work/mine.toml",
        "[network.domains]\n\"a.test\" = \"allow\"\n",
    );
    let file = host
        .install
        .write("home/p.toml", "extends = \"mine.toml\"\n");
    let run = host.portcullis(&["run", "-p", file.to_str().unwrap(), "--", "true"]);
    assert_eq!(run.status, Some(125), "{run:?}");
    assert!(run.stderr.contains("no profile \"mine.toml\""), "{run:?}");
    let itself = host.portcullis(&["run", "-p", "mine.toml", "--", "true"]);
    assert_eq!(itself.status, Some(0), "{itself:?}");
}

#[test]
fn a_project_narrows_its_sessions_and_the_jail_cannot_rid_the_next_of_it() {
    for who in EVERYONE {
        let host = Host::new(who);
        host.install.write(
            "work/.portcullis.toml",
            "[network.domains]\n\"a.test\" = \"deny\"\n",
        );
        let denied = host.fetch(&["--allow", "a.test"], "http://a.test/");
        assert_eq!(code(&denied), "host_denied", "{denied:?}");
        let spared = host.fetch(&["--allow", "b.test"], "http://b.test/");
        assert_eq!(code(&spared), "resolve_failed", "{spared:?}");
        for attempt in [
            "rm -f .portcullis.toml",
            "mv .portcullis.toml x",
            "true > .portcullis.toml",
        ] {
            let tried = host.portcullis(&["run", "--quiet", "--", "sh", "-c", attempt]);
            assert_ne!(tried.status, Some(0), "{attempt}: {tried:?}");
        }
        let ordinary = [
            "run",
            "--quiet",
            "--",
            "sh",
            "-c",
            "true > y && mv y z && rm z",
        ];
        assert_eq!(
            host.portcullis(&ordinary).status,
            Some(0),
            "other files can be changed"
        );
        let kept = fs::read_to_string(host.install.path("work/.portcullis.toml")).unwrap();
        assert_eq!(kept, "[network.domains]\n\"a.test\" = \"deny\"\n");
    }
}

#[test]
fn a_project_is_found_above_the_workspace_but_not_where_anybody_can_write() {
    let host = Host::new(Who::User);
    for folder in ["work/deep", "work/deep/below"] {
        fs::create_dir(host.install.path(folder)).unwrap();
        host.install.own(folder);
    }
    let name = host
        .install
        .write("work/.portcullis.toml", "[network]\nenabled = false\n");
    let at = |folder: &str| {
        let folder = host.install.path(folder);
        code(&host.fetch(&["-C", folder.to_str().unwrap()], "http://a.test/"))
    };
    assert_eq!(at("work/deep/below"), "network_disabled");
    let shared = host.install.path("work");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(
        at("work/deep/below"),
        "host_not_allowed",
        "anybody could have put it there"
    );
    assert_eq!(
        at("work"),
        "network_disabled",
        "the workspace itself always counts"
    );
    fs::remove_file(&name).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &name).unwrap();
    let link = host.portcullis(&["run", "--", "true"]);
    assert_eq!(link.status, Some(125), "{link:?}");
    assert!(
        link.stderr.contains(".portcullis.toml: read it: is a link"),
        "{link:?}"
    );
}

#[test]
fn requirements_that_change_hold_for_sessions_that_run() {
    for mode in ["workspace-write", "danger-full-access"] {
        changed_requirements_hold(mode);
    }
}

fn changed_requirements_hold(mode: &str) {
    let host = Host::new(Who::User);
    host.admin("requirements.toml", "");
    let script = "curl -s -x http://127.0.0.1:3128 http://a.test/ > first; touch ready; \
                  while ! curl -s -x http://127.0.0.1:3128 http://a.test/ | grep -q forbidden; do sleep 0.1; done";
    let arguments = [
        "run", "--mode", mode, "--allow", "a.test", "--", "sh", "-c", script,
    ];
    let mut child = Reaped(host.command(&arguments).spawn().unwrap());
    let ready = host.install.path("work/ready");
    until("the session asked once", || ready.exists());
    let first = fs::read_to_string(host.install.path("work/first")).unwrap();
    assert!(first.contains("resolve_failed"), "{first}");
    host.admin(
        "requirements.toml",
        "[network.domains]\n\"*.example\" = \"allow\"\n",
    );
    until("the session was refused", || {
        child.0.try_wait().unwrap().is_some()
    });
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert_eq!(host.install.events("policy.applied").len(), 1);
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A session that does not outlive its test.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

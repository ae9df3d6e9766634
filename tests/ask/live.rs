//! A profile that changes while its session runs.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::{Install, Who};
use crate::scene::{OWN, Session, edit, eventually, install, origin, portcullis, profile};

fn rule(port: u16) -> String {
    format!("[[network.rules]]\nhost = \"127.0.0.2\"\nports = [{port}]\naction = \"allow\"\n")
}

#[test]
fn an_edited_profile_is_in_force_at_once_and_a_broken_one_never() {
    let (one, two) = (origin(), origin());
    let both = profile(&(rule(one.port()) + &rule(two.port())));
    let install = install(&both);
    let mut session = Session::start(&install, &[]);
    assert_eq!(
        (session.fetch(one), session.fetch(two)),
        ("200".into(), "200".into())
    );
    edit(&install, &profile(&rule(one.port())));
    let said = session.said();
    assert!(
        said.starts_with("portcullis: policy ") && said.ends_with(" is in force"),
        "{said}"
    );
    assert_eq!(
        (session.fetch(one), session.fetch(two)),
        ("200".into(), "403".into())
    );
    edit(&install, "[network]\nmode = 3\n");
    let said = session.said();
    assert!(
        said.starts_with("portcullis: the policy in force stays: profile p: "),
        "{said}"
    );
    assert_eq!(
        (session.fetch(one), session.fetch(two)),
        ("200".into(), "403".into())
    );
    edit(&install, &both);
    assert!(session.said().ends_with(" is in force"));
    assert_eq!(session.fetch(two), "200");
    session.end();
    assert_eq!(install.events("policy.applied").len(), 2);
    assert_eq!(install.events("policy.rejected").len(), 1);
    assert_eq!(
        install.portcullis(["audit", "verify"]).status.code(),
        Some(0)
    );
}

#[test]
fn what_cannot_change_in_a_running_session_is_told() {
    let one = origin();
    let install = install(&profile(&rule(one.port())));
    let mut session = Session::start(&install, &[]);
    edit(
        &install,
        &profile(&format!(
            "{}{}[filesystem]\nreadable = [\"/opt\"]\n",
            rule(one.port()),
            rule(2222)
        )),
    );
    let said = session.said();
    assert!(
        said.ends_with("; port 2222 needs a new session; filesystem counts for new sessions"),
        "{said}"
    );
    session.end();
}

#[test]
fn sighup_and_policy_reload_read_a_profile_that_nobody_watches() {
    let one = origin();
    let install = install("");
    // Through a link whose target moves away: no folder that is watched sees it.
    let session_profile = install.path(OWN);
    fs::remove_file(&session_profile).unwrap();
    install.write("a/p.toml", &profile(&rule(one.port())));
    install.write("b/p.toml", &profile(""));
    std::os::unix::fs::symlink(install.path("a"), install.path("current")).unwrap();
    std::os::unix::fs::symlink(install.path("current/p.toml"), &session_profile).unwrap();
    let mut session = Session::start(&install, &[]);
    assert_eq!(session.fetch(one), "200");
    let point = |to: &str| {
        fs::remove_file(install.path("current")).unwrap();
        std::os::unix::fs::symlink(install.path(to), install.path("current")).unwrap();
    };
    point("b");
    let pid = Pid::from_raw(i32::try_from(session.child.id()).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
    assert!(session.said().ends_with(" is in force"));
    assert_eq!(session.fetch(one), "403");
    point("a");
    let (status, line) = portcullis(&install, &["policy", "reload"]);
    assert!(
        status == Some(0) && line.ends_with(" is in force"),
        "{line}"
    );
    assert_eq!(session.fetch(one), "200");
    let again = portcullis(&install, &["policy", "reload"]);
    assert_eq!(
        again,
        (Some(0), "the network policy is the one in force".to_owned())
    );
    install.write("a/p.toml", "x = 1");
    let (status, line) = eventually("a refusal", || {
        Some(portcullis(&install, &["policy", "reload"]))
    });
    assert!(
        status == Some(1) && line.contains("the policy in force stays: profile p: "),
        "{line}"
    );
    assert_eq!(session.fetch(one), "200");
    session.end();
}

#[test]
fn a_profile_that_the_session_can_write_is_not_read_again() {
    let one = origin();
    let install = Install::new(Who::Root);
    install.write("work/p.toml", &profile(""));
    let mut session = Session::start(&install, &["-p", "./p.toml"]);
    assert_eq!(session.fetch(one), "403");
    install.write("work/p.toml", &profile(&rule(one.port())));
    let (status, line) = portcullis(&install, &["policy", "reload"]);
    assert!(
        status == Some(1) && line.contains("the session could have written it"),
        "{line}"
    );
    assert_eq!(session.fetch(one), "403");
    session.end();
}

//! Running sessions: what they moved, questions about their budgets, budgets that change.

use std::fs;

use serde_json::{Value, json};

use crate::cli::{Install, Who};
use crate::scene::{OWN, Session, edit, install, origin, portcullis, profile, question};

fn limited(port: u16, budgets: &str) -> String {
    profile(&format!(
        "[[network.rules]]\nhost = \"127.0.0.2\"\nports = [{port}]\naction = \"allow\"\n\
         [network.budgets]\n{budgets}\n"
    ))
}

#[test]
fn counters_of_a_running_session_are_read_from_another_terminal() {
    let (one, other) = (origin(), origin());
    let install = install(&limited(one.port(), "requests = 5\nbytes_up = '1M'"));
    let mut session = Session::start(&install, &[]);
    for (origin, status) in [(one, "200"), (one, "200"), (other, "403")] {
        assert_eq!(session.fetch(origin), status);
    }
    let (status, text) = portcullis(&install, &["counters", "--json"]);
    assert_eq!(status, Some(0), "{text}");
    let mut told: Value = serde_json::from_str(&text).unwrap();
    let mut counters = told["counters"].take();
    // Heads of requests, whose length is curl's matter.
    let heads = counters["budgets"][0]["used"].take();
    assert!((100..2000).contains(&heads.as_u64().unwrap()), "{heads}");
    // Whether the last exchange is over yet.
    counters["connections_open"].take();
    let expected = json!({
        "bytes_up": 0, "bytes_down": 0, "requests": 2, "denied": 1,
        "connections_open": null, "connections_total": 2,
        "hosts": [{
            "host": "127.0.0.2", "port": one.port(), "requests": 2, "bytes_up": 0, "bytes_down": 0,
        }],
        "budgets": [
            { "what": "bytes_up", "host": null, "used": null, "max": 1 << 20 },
            { "what": "requests", "host": null, "used": 2, "max": 5 },
        ],
    });
    assert_eq!(counters, expected);
    let (status, text) = portcullis(&install, &["counters"]);
    assert_eq!(status, Some(0));
    for line in [
        "requests     2 let through, 1 refused",
        "budget       requests: 2 of 5 (40 %)",
    ] {
        assert!(text.lines().any(|found| found == line), "{text}");
    }
    session.end();
    let (status, text) = portcullis(&install, &["counters"]);
    assert_eq!(status, Some(69), "{text}");
}

#[test]
fn watched_counters_end_with_their_session() {
    let one = origin();
    let install = install(&limited(one.port(), "requests = 5"));
    let session = Session::start(&install, &[]);
    let mut command = install.command(["counters", "--watch", "--json"]);
    command.stdout(std::process::Stdio::piped());
    let mut watching = command.spawn().unwrap();
    let mut first = [0; 1];
    std::io::Read::read_exact(watching.stdout.as_mut().unwrap(), &mut first).unwrap();
    session.end();
    assert_eq!(watching.wait().unwrap().code(), Some(0));
}

#[test]
fn a_budget_is_raised_from_another_terminal_and_the_profile_stays() {
    let one = origin();
    let text = limited(one.port(), "requests = { max = 1, action = 'ask' }");
    // A rule answers for destinations, not for how much goes there.
    let text = format!("{text}[[approvals.rules]]\nhost = \"127.0.0.2\"\nverdict = \"allow\"\n");
    let install = install(&text);
    let mut session = Session::start(&install, &[]);
    assert_eq!(session.fetch(one), "200");
    session.begin(one);
    let asked = question(&install);
    let rule = "budget requests: 1 used up; a yes adds 1";
    assert_eq!(
        (&asked["budget"], &asked["rule"]),
        (&json!(true), &json!(rule))
    );
    let allow = ["approvals", "allow", "1", "--scope", "profile"];
    let done =
        format!("allowed {rule} (asked for GET http://{one}/) (session) by root, not kept: ");
    let (status, said) = portcullis(&install, &allow);
    assert!(status == Some(0) && said.starts_with(&done), "{said}");
    assert_eq!(session.status(), "200");
    session.begin(one);
    assert_eq!(question(&install)["id"], 2, "a yes counts once");
    let deny = portcullis(&install, &["approvals", "deny", "2"]);
    assert_eq!(deny.0, Some(0), "{deny:?}");
    assert_eq!(
        (session.status(), session.fetch(one)),
        ("429".into(), "429".into())
    );
    assert_eq!(fs::read_to_string(install.path(OWN)).unwrap(), text);
    session.end();
    assert_eq!(install.events("limit.hit").len(), 2);
}

#[test]
fn an_edited_profile_changes_the_budgets_of_a_running_session() {
    let one = origin();
    let install = install(&limited(one.port(), "requests = 1"));
    let mut session = Session::start(&install, &[]);
    assert_eq!(
        (session.fetch(one), session.fetch(one)),
        ("200".into(), "429".into())
    );
    edit(&install, &limited(one.port(), "requests = 2"));
    while !session.said().ends_with(" is in force") {}
    assert_eq!(
        (session.fetch(one), session.fetch(one)),
        ("200".into(), "429".into())
    );
    edit(&install, &limited(one.port(), "total_time = '1s'"));
    assert_eq!(session.child.wait().unwrap().code(), Some(137));
    let rest = session.end();
    let last = "portcullis: session killed: total_time budget of 1s used up";
    assert_eq!(rest.lines().last(), Some(last), "{rest}");
}

#[test]
fn nobody_runs() {
    let install = Install::new(Who::User);
    let (status, text) = portcullis(&install, &["counters"]);
    assert_eq!(status, Some(69), "{text}");
}

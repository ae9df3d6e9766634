//! What a gate that takes another's place knows of it.

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::cli::{EVERYONE, Install, Who};
use crate::scene::{self, asking, install, origin, portcullis, question};
use crate::support::{ALLOWED, DENIED, OTHER, Scene, eventually, records_of, running};
use crate::tls_origin::OriginSpec;

#[test]
fn a_budget_of_bytes_is_not_refilled() {
    let scene = Scene::new(Who::User, "", "[network.budgets]\nbytes_up = '100K'\n");
    let mut session = scene.session(&[]);
    let port = scene.allowed.port();
    let mut upload = |path: &str, bytes: u64| {
        let act = json!(["http", ALLOWED, port, path, bytes]);
        let outcome = session.does(&act);
        scene.kill_gate();
        outcome
    };
    assert_eq!(upload("/one", 40_000), "200");
    assert_eq!(
        upload("/two", 40_000),
        "200",
        "a restart costs next to nothing"
    );
    assert_ne!(upload("/three", 40_000), "200");
    assert_ne!(upload("/four", 40_000), "200", "nor does another one help");
    session.end();
    let sent = scene.allowed.log.raw_bytes();
    assert!((80_000..=103_000).contains(&sent), "{sent} bytes");
    scene.assert_verified();
}

#[test]
fn numbers_of_requests_and_hosts_are_not_refilled() {
    let budgets = "[network.budgets]\nrequests = 5\nhosts = 1\n";
    let scene = Scene::new(Who::User, "", budgets);
    let mut session = scene.session(&[]);
    let port = scene.allowed.port();
    let mut outcomes = Vec::new();
    for host in [ALLOWED, OTHER, ALLOWED, ALLOWED] {
        outcomes.push(session.does(&json!(["http", host, port, "/"])));
        scene.kill_gate();
    }
    assert_eq!(outcomes, ["200", "429", "200", "200"], "{outcomes:?}");
    for expected in ["200", "200", "429"] {
        assert_eq!(session.does(&scene.act("http", "/")), expected);
    }
    session.end();
    scene.assert_verified();
}

#[test]
fn a_name_keeps_its_address_and_no_other_name_gets_it() {
    let scene = Scene::new(Who::User, "transparent = true", "");
    let mut session = scene.session(&[]);
    let address = session.does(&json!(["resolve", ALLOWED]));
    scene.kill_gate();
    let other = session.does(&json!(["resolve", OTHER]));
    assert_ne!(address, other);
    let port = scene.allowed.port();
    // As a program that remembers an address does.
    assert_eq!(session.does(&json!(["plain", address, port, "/"])), "200");
    session.end();
    let records = scene.records();
    let decided: Vec<_> = records
        .iter()
        .filter(|record| record["event"] == "egress.decided")
        .map(|record| record["host"].as_str().unwrap())
        .collect();
    assert_eq!(decided, [ALLOWED]);
}

#[test]
fn no_connection_has_a_number_that_another_gates_had() {
    let scene = Scene::new(Who::User, "", "");
    let mut session = scene.session(&[]);
    for _ in 0..3 {
        assert_eq!(session.does(&scene.act("http", "/")), "200");
        scene.kill_gate();
        let denied = json!(["http", DENIED, scene.denied.port(), "/"]);
        assert_eq!(session.does(&denied), "403");
    }
    session.end();
    let records = scene.records();
    let mut conns: Vec<_> = records
        .iter()
        .filter(|record| record["event"] == "egress.decided")
        .map(|record| record["conn"].as_u64().unwrap())
        .collect();
    let count = conns.len();
    conns.sort_unstable();
    conns.dedup();
    assert_eq!((count, conns.len()), (6, 6));
}

#[test]
fn what_was_approved_for_the_session_stays_so_and_what_was_once_is_asked_again() {
    let install = install(&asking(""));
    let (first, second) = (origin(), origin());
    let mut session = scene::Session::start(&install, &[]);
    session.begin(first);
    assert_eq!(question(&install)["id"], 1);
    let allow = ["approvals", "allow", "1", "--scope", "session"];
    assert_eq!(portcullis(&install, &allow).0, Some(0));
    assert_eq!(session.status(), "200");
    session.begin(second);
    let asked = question(&install)["id"].as_u64().unwrap();
    let id = asked.to_string();
    assert_eq!(
        portcullis(&install, &["approvals", "allow", &id]).0,
        Some(0)
    );
    assert_eq!(session.status(), "200");
    kill_gate(&install, 1);
    assert_eq!(session.fetch(first), "200", "for the session");
    session.begin(second);
    let again = question(&install)["id"].as_u64().unwrap();
    assert!(again > asked, "a number of its own: {again}");
    // A gate that dies takes its questions along.
    kill_gate(&install, 2);
    assert_eq!(session.status(), "000");
    let late = again.to_string();
    let late = portcullis(&install, &["approvals", "allow", &late]);
    assert_eq!(late.0, Some(1), "{late:?}");
    session.begin(second);
    let last = question(&install)["id"].as_u64().unwrap();
    assert!(last > again);
    let last = last.to_string();
    assert_eq!(
        portcullis(&install, &["approvals", "deny", &last]).0,
        Some(0)
    );
    assert_eq!(session.status(), "403");
    session.end();
    let decided = install.events("egress.decided");
    let by: Vec<_> = decided
        .iter()
        .filter(|record| record["verdict"] == "allow")
        .map(|record| record["rule"].as_str().unwrap())
        .collect();
    assert_eq!(by.len(), 3);
    assert_eq!(by[0], by[2], "by the same answer");
}

#[test]
fn a_policy_that_came_into_force_is_the_next_gates_as_well() {
    let origin = origin();
    let text = |host: &str| {
        let port = origin.port();
        format!(
            "[[network.rules]]\nhost = '{host}'\nports = [{port}]\naction = 'allow'\n\
             [network.addresses]\nallow = ['127.0.0.0/8']\n"
        )
    };
    let install = install(&text("127.0.0.2"));
    let mut session = scene::Session::start(&install, &[]);
    assert_eq!(session.fetch(origin), "200");
    install.write(scene::OWN, &text("127.0.0.3"));
    eventually("another policy", || {
        records_of(&install)
            .iter()
            .any(|record| record["event"] == "policy.applied")
    });
    assert_eq!(session.fetch(origin), "403");
    kill_gate(&install, 1);
    assert_eq!(session.fetch(origin), "403", "not the policy of the start");
    session.end();
    let decided = install.events("egress.decided");
    assert_eq!(decided[1]["generation"], decided[2]["generation"]);
    assert_ne!(decided[0]["generation"], decided[1]["generation"]);
    assert_eq!(install.events("gate.restarted").len(), 1);
}

/// Kills the only gate and waits for the next, so many in all.
fn kill_gate(install: &Install, count: usize) {
    let gates = running(&install.path("bin/portcullis-gate"));
    assert_eq!(gates.len(), 1);
    kill(gates[0], Signal::SIGKILL).unwrap();
    eventually("another gate", || {
        let records = records_of(install);
        let restarted = |record: &&Value| record["event"] == "gate.restarted";
        records.iter().filter(restarted).count() == count
    });
}

#[test]
fn an_inspecting_session_keeps_its_authority_and_its_credentials() {
    for who in EVERYONE {
        let tls = OriginSpec::new(ALLOWED).start();
        let network = "mitm = true\nextra_ca = ['~/origin-ca.pem']";
        let tables = format!(
            "[[network.rules]]\nhost = '{ALLOWED}'\nports = [{0}]\naction = 'allow'\n\
             [[network.credentials]]\nname = 'key'\nhost = '{ALLOWED}'\nports = [{0}]\n\
             header = 'authorization'\nvalue = 'Bearer ${{env:API_KEY}}'\nenv = 'API_KEY'\n",
            tls.port()
        );
        let scene = Scene::new(who, network, &tables);
        scene.install.write("home/origin-ca.pem", &tls.ca_pem);
        let variables = [("API_KEY", "the-real-secret-value")];
        let mut session = scene.session_with(&[], &variables);
        let get = |path: &str, header: &str| json!(["https", ALLOWED, tls.port(), path, header]);
        for round in 0..3 {
            if round > 0 {
                scene.kill_gate();
            }
            let outcome = session.does(&get("/body", "Authorization: Bearer $API_KEY\r\n"));
            assert_eq!(
                outcome,
                "200",
                "{who:?}, round {round}: {:?}",
                scene.records()
            );
        }
        let (status, errors) = session.end();
        assert_eq!(status, Some(0), "{errors}");
        let seen = tls.seen();
        let values: Vec<_> = seen
            .iter()
            .map(|request| {
                request
                    .header("authorization")
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect();
        let value = "Bearer the-real-secret-value".to_owned();
        assert_eq!(values, vec![value; 3], "{who:?}");
        let records: String = scene.records().iter().map(Value::to_string).collect();
        assert!(!records.contains("the-real-secret"), "{records}");
        assert_eq!(scene.count("credential.used"), 3);
        scene.assert_verified();
    }
}

//! The promise about secrets: whatever a request, an answer, a name, a login or a command line holds, no secret
//! of a known form stands in the log, in the bodies beside it or in what the verbs print of either. Beside
//! each secret an innocent word is planted, which does stand there.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "../support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;
#[path = "../support/dns.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod dns;
mod plants;
#[path = "../support/tls_origin.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod tls_origin;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use cli::{Install, Run, Who};
use dns::DnsStub;
use hyper::Response;
use hyper::body::Bytes;
use plants::{Plant, plants};
use serde_json::Value;
use tls_origin::{OriginSpec, Seen};

const HOST: &str = "a.test";

/// The value of the session's own credential, which has no known form.
const CREDENTIAL: &str = "the-value-of-the-credential";

/// Answers with what it was asked, as an object of header fields; with secrets of its own; or briefly.
fn answer(seen: &Seen, plants: &[Plant]) -> Response<Bytes> {
    if seen.path.starts_with("/quiet") {
        return Response::new(Bytes::from_static(b"innocent-quiet"));
    }
    let mut fields = serde_json::Map::new();
    for (name, value) in &seen.headers {
        fields.insert(name.clone(), value.clone().into());
    }
    let down = |place: &str| plants.iter().find(|plant| plant.place == place).unwrap();
    let (body, header) = (down("answer's body"), down("answer's header"));
    let text = serde_json::json!({
        "path": seen.path,
        "headers": fields,
        "refresh_token": body.secret,
        "note": body.innocent,
    });
    Response::builder()
        .header("content-type", "application/json")
        .header("set-cookie", format!("sid={}", header.secret))
        .header("x-innocent", &header.innocent)
        .body(Bytes::from(text.to_string()))
        .unwrap()
}

/// Every file below a folder, in one text.
fn everything(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &everything(&path);
        } else {
            all += &path.display().to_string();
            all += &String::from_utf8_lossy(&fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one session, told from its start to its end"
)]
fn a_secret_is_in_no_record_and_no_body_and_what_stands_beside_it_is() {
    let install = Install::new(Who::Root);
    let plants = plants();
    let shared = plants.clone();
    // It answers at once: over HTTP/2 that may reset a stream whose body is still on its way.
    let origin = OriginSpec::new(HOST)
        .alpn(&["http/1.1"])
        .answer(move |seen| answer(seen, &shared))
        .start();
    let names = DnsStub::constant(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let ca = install.write("ca.pem", &origin.ca_pem);
    let profile = install.write(
        "profile.toml",
        &format!(
            "[network]\nmitm = true\nextra_ca = [{ca:?}]\nenable_socks5 = true\n\
             [network.dns]\nservers = [\"{dns}\"]\n\
             [network.addresses]\nallow = [\"127.0.0.1/32\"]\n\
             [[network.rules]]\nhost = \"{HOST}\"\nports = [{port}]\naction = \"allow\"\n\
             [[network.credentials]]\nname = \"key\"\nhost = \"{HOST}\"\nports = [{port}]\n\
             header = \"x-own\"\nvalue = \"${{env:OWN}}\"\n\
             [audit.bodies]\nhosts = [\"{HOST}\"]\n",
            ca = ca.display().to_string(),
            dns = names.address,
            port = origin.port(),
        ),
    );
    let mut script = format!("set -u\nB=https://{HOST}:{}\n", origin.port());
    script += "c() { curl -sS -o /dev/null \"$@\" || echo \"failed: $*\" >&2; }\n";
    for plant in &plants {
        script += &plant.line();
        script.push('\n');
    }
    // The session's own value: where it belongs, and found elsewhere by the jail.
    script += "c -H \"x-own: $OWN\" $B/quiet/innocent-own\n";
    script += &["c -d 'x=", CREDENTIAL, "&y=innocent-found' $B/quiet/1\n"].concat();
    script += &["c $B/quiet/", CREDENTIAL, "\n"].concat();
    install.write("work/plant.sh", &script);

    let argv = plants.iter().filter(|plant| plant.place == "argv");
    let mut command = vec!["sh".to_owned(), "plant.sh".to_owned()];
    for plant in argv {
        command.extend([
            "--token".to_owned(),
            plant.secret.clone(),
            plant.innocent.clone(),
        ]);
    }
    let environment = plants
        .iter()
        .find(|plant| plant.place == "environment")
        .unwrap();
    let variable = format!("PLANTED={}", environment.secret);
    let profile = profile.display().to_string();
    let session = plants
        .iter()
        .find(|plant| plant.place == "session's name")
        .unwrap();
    let name = format!("{}-{}", session.innocent, session.secret);
    let flags = [
        "run", "-p", &profile, "--name", &name, "--env", &variable, "--",
    ]
    .map(str::to_owned);
    let mut run = install.command(flags.iter().chain(&command));
    let run = Run::of(&run.env("OWN", CREDENTIAL).output().unwrap());
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(!run.stderr.contains("failed:"), "{run:?}");

    // Everything got where it was sent.
    let seen = format!("{:?}", origin.seen());
    assert!(
        seen.contains(CREDENTIAL) && seen.contains("innocent-own"),
        "{seen}"
    );
    for plant in plants.iter().filter(|plant| plant.is_sent_in_head()) {
        assert!(seen.contains(&plant.sent()), "{}: {seen}", plant.place);
    }

    let folder = install.path("home/.local/state/portcullis/audit");
    let records = install.records();
    let session = records[0]["session"].as_str().unwrap().to_owned();
    let show = |arguments: &[&str]| {
        let run = Run::of(&install.portcullis([&["audit"], arguments].concat()));
        assert_eq!(run.status, Some(0), "{arguments:?}: {run:?}");
        run.stdout
    };
    let mut printed = show(&["tail", "-n", "100000"]);
    printed += &show(&["tail", "-n", "100000", "--json"]);
    printed += &show(&["show", &session]);
    printed += &show(&["show", &session, "--json"]);
    let mut kept = 0;
    for record in &records {
        let id = format!("{session}:{}", record["seq"]);
        if record["event"] == "body.kept" {
            kept += 1;
            printed += &show(&["show", &id, "--body"]);
        }
    }
    assert!(kept > 20, "{kept} bodies");
    let found = everything(&folder);
    for (what, text) in [("log", &found), ("verbs", &printed)] {
        for plant in &plants {
            for form in plant.forms() {
                assert!(!text.contains(&form), "{what}: {} of {}", form, plant.place);
            }
            assert!(
                plant.leaves_nothing() || text.contains(&plant.innocent),
                "{what}: no {} of {}",
                plant.innocent,
                plant.place
            );
        }
        assert!(!text.contains(CREDENTIAL), "{what}");
        for innocent in ["innocent-own", "innocent-found", "innocent-quiet"] {
            assert!(text.contains(innocent), "{what}: no {innocent}");
        }
    }
    assert!(found.contains("[redacted:credential]"));
    let verified = install.portcullis(["audit", "verify", &session]);
    assert_eq!(verified.status.code(), Some(0));

    // A body that was changed afterwards is not shown.
    let one = records
        .iter()
        .find(|record| record["event"] == "body.kept")
        .unwrap();
    let name = one["sha256"].as_str().unwrap();
    fs::write(folder.join("bodies").join(name), "something else").unwrap();
    let id = format!("{session}:{}", one["seq"]);
    let run = Run::of(&install.portcullis(["audit", "show", &id, "--body"]));
    assert_eq!((run.status, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    let other = format!("{session}:1");
    let run = Run::of(&install.portcullis(["audit", "show", &other, "--body"]));
    assert_eq!(run.status, Some(64), "{run:?}");

    told_as_the_profile_says(&records);
}

/// Sizes, types, codings and reasons of what was kept.
fn told_as_the_profile_says(records: &[Value]) {
    let all = |event: &str| -> Vec<&Value> {
        let records = records.iter();
        records.filter(|record| record["event"] == event).collect()
    };
    let exchanged = all("http.exchanged");
    let closed = all("egress.closed");
    assert!(
        exchanged.iter().all(|record| record["status"] == 200),
        "{exchanged:?}"
    );
    assert!(exchanged.len() < closed.len());
    let compressed: Vec<_> = all("body.kept")
        .into_iter()
        .filter(|record| record["encoding"] == "gzip")
        .collect();
    assert_eq!(compressed.len(), 1, "{compressed:?}");
    assert_eq!(compressed[0]["truncated"], false);
    assert_eq!(compressed[0]["redactions"], 1);
    let skipped = all("body.skipped");
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert_eq!(skipped[0]["reason"], "encoding");
}

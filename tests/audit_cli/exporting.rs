//! `export`: each form read by what it is for, and logs that are broken, packed or half there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use portcullis::audit::ChainHash;
use portcullis::audit::folder::file_name;
use portcullis::ids::SessionId;
use serde_json::{Value, json};

use super::support::{Ran, audit, record, says, story};

/// Installed once, from the registry of this machine's own pip configuration.
const PACKAGES: [&str; 2] = ["jsonschema==4.26.0", "pyarrow==26.0.1"];

/// The folder that has the packages.
fn packages() -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("export-packages");
    if !folder.is_dir() {
        let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let made = Command::new("/usr/bin/python3")
            .args(["-m", "pip", "install", "-q", "--target"])
            .arg(fresh.path())
            .args(PACKAGES)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        // Another process may have been faster.
        drop(fs::rename(fresh.path(), &folder));
    }
    folder
}

/// Has another program read an export; answers what it printed.
fn check(arguments: &[&str]) -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audit_cli");
    let output = Command::new("/usr/bin/python3")
        .env("PYTHONPATH", packages())
        .current_dir(&here)
        .arg("check_export.py")
        .args(arguments)
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes a log of these events, sealed as a writer seals them, a second apart. They need not be known here.
fn seal(folder: &Path, events: &[Value]) -> SessionId {
    let session = SessionId::generate();
    let mut prev = ChainHash::genesis(session);
    let mut log = String::new();
    for (at, event) in events.iter().enumerate() {
        let mut fields = event.as_object().unwrap().clone();
        let name = fields.remove("event").unwrap();
        let fields = Value::Object(fields).to_string();
        let open = format!(
            r#"{{"v":1,"seq":{},"ts":"2026-01-31T08:00:{at:02}.000000Z","host_id":"00112233aabbccdd","session":"{session}","user":"alice","event":{name},{},"prev":"{prev}""#,
            at + 1,
            &fields[1..fields.len() - 1],
        );
        prev = prev.follow(open.as_bytes());
        log.extend([&open, ",\"hash\":\"", &prev.to_string(), "\"}\n"]);
    }
    fs::write(folder.join(file_name(session)), log).unwrap();
    session
}

/// One of everything, with fields and events that are younger than this test.
fn everything() -> Vec<Value> {
    let process = json!({
        "pid": 12, "host_pid": 4012, "exe": "/usr/bin/pip", "argv": ["pip", "install", "x"],
        "parents": [{ "pid": 7, "exe": "/usr/bin/bash" }, { "pid": 1, "exe": "/usr/bin/codex" }],
    });
    let text = r#"[
      {"event":"session.started","argv":["codex","exec","fix"],"profile":"codex","mode":"workspace-write","workspace":"/w","generation":"0123456789abcdef","isolation":{"bwrap":"b","landlock_abi":4,"seccomp_allowed":3,"shortfalls":[]}},
      {"event":"dns.asked","name":"api.test","kind":"A","answer":"address"},
      {"event":"dns.asked","name":"","kind":"","answer":"malformed"},
      {"event":"egress.decided","conn":1,"transport":"connect","host":"api.test","port":443,"verdict":"ask","generation":"0123456789abcdef"},
      {"event":"approval.asked","question":1,"conn":1,"transport":"connect","host":"api.test","port":443},
      {"event":"approval.answered","question":1,"end":"allowed","scope":"session","by":"alice"},
      {"event":"egress.decided","conn":1,"transport":"connect","host":"api.test","port":443,"verdict":"allow","rule":"answer 1","generation":"0123456789abcdef"},
      {"event":"dns.query","conn":1,"name":"api.test","addresses":["192.0.2.1","2001:db8::1"],"refused":["10.0.0.1"]},
      {"event":"egress.dialed","conn":1,"address":"192.0.2.1:443"},
      {"event":"egress.decided","conn":2,"transport":"inspected","host":"api.test","port":443,"method":"POST","path":"/v1/a b","verdict":"allow","rule":"=cmd()","generation":"0123456789abcdef"},
      {"event":"credential.used","conn":2,"credential":"openai","host":"api.test"},
      {"event":"egress.dialed","conn":2,"address":"192.0.2.9:3128","via":"proxy.corp:3128"},
      {"event":"egress.closed","conn":2,"bytes_up":120,"bytes_down":4000,"ms":900,"ended_by":"upstream"},
      {"event":"http.exchanged","conn":2,"method":"POST","status":201,"version":"HTTP/2","request_type":"application/json","response_type":"text/event-stream","request_bytes":100,"response_bytes":3900,"first_byte_ms":2300,"ms":2800,"ended_by":"upstream","thread":"t1","turn":"u1"},
      {"event":"egress.closed","conn":1,"bytes_up":1500,"bytes_down":2500000,"ms":5000,"ended_by":"client"},
      {"event":"egress.decided","conn":3,"transport":"forward","host":"evil.test","port":80,"method":"BREW","path":"/","verdict":"deny","reason":"host_denied","rule":"network.domains.\"evil.test\"","generation":"0123456789abcdef"},
      {"event":"egress.decided","conn":4,"transport":"socks5","host":"2001:db8::7","port":22,"verdict":"deny","reason":{"address_refused":"private"},"generation":"0123456789abcdef"},
      {"event":"egress.decided","conn":5,"transport":"transparent","host":"other.test","port":443,"verdict":"allow","generation":"0123456789abcdef"},
      {"event":"egress.refused","conn":5,"transport":"transparent","reason":"resolve_failed","detail":"no such name"},
      {"event":"egress.refused","conn":6,"transport":"connect","reason":"malformed","detail":"bad request line"},
      {"event":"approval.asked","question":2,"conn":7,"transport":"inspected","host":"api.test","port":443,"method":"DELETE","path":"/x"},
      {"event":"approval.answered","question":2,"end":"expired"},
      {"event":"dns.dropped","count":9},
      {"event":"limit.hit","what":"requests","used":10,"max":10,"action":"deny"},
      {"event":"policy.applied","generation":"fedcba9876543210"},
      {"event":"gate.restarted","ms":20},
      {"event":"log.resumed","lost_bytes":3},
      {"event":"weather.changed","wind":{"speed":3}},
      {"event":"session.ended","status":{"exited":2},"ms":65000}
    ]"#;
    let mut events: Vec<Value> = serde_json::from_str(text).unwrap();
    events[9]["process"] = process;
    events
}

fn export(folder: &Path, format: &str, more: &[&str]) -> Ran {
    audit(folder, &[&["export", "-f", format], more].concat())
}

/// Exports to a file of this name beside the logs.
fn export_to(folder: &Path, format: &str) -> String {
    let path = folder.join(format!("out.{format}"));
    let path = path.to_str().unwrap();
    assert_eq!(export(folder, format, &["-o", path]), says(0, "", ""));
    path.to_owned()
}

#[test]
fn records_are_exported_byte_for_byte_over_segments_plain_and_packed_and_still_verify() {
    let folder = tempfile::tempdir().unwrap();
    let session = record(folder.path(), story());
    let path = folder.path().join(file_name(session));
    let text = fs::read_to_string(&path).unwrap();
    let border = text.match_indices('\n').nth(4).unwrap().0 + 1;
    let packed = zstd::encode_all(&text.as_bytes()[..border], 0).unwrap();
    fs::write(path.with_extension("jsonl.zst"), packed).unwrap();
    fs::write(path.with_extension("0002.jsonl"), &text[border..]).unwrap();
    fs::remove_file(&path).unwrap();
    let id = session.to_string();
    assert_eq!(export(folder.path(), "jsonl", &[&id]), says(0, &text, ""));

    let copy = export_to(folder.path(), "jsonl");
    let verified = audit(folder.path(), &["verify", &copy]);
    assert_eq!((verified.code, verified.err.as_str()), (0, ""));
    assert!(verified.out.starts_with("complete"), "{}", verified.out);

    // Segments from the front may be pruned; one from the middle is missed.
    fs::remove_file(path.with_extension("jsonl.zst")).unwrap();
    let rest = export(folder.path(), "jsonl", &[]);
    assert_eq!(rest, says(0, &text[border..], ""));
    fs::rename(
        path.with_extension("0002.jsonl"),
        path.with_extension("0003.jsonl"),
    )
    .unwrap();
    fs::write(&path, &text[..border]).unwrap();
    let gap = export(folder.path(), "jsonl", &[]);
    assert_eq!((gap.code, gap.out.as_str()), (1, &text[..border]));
    assert!(
        gap.err.contains("the segment before it is missing"),
        "{}",
        gap.err
    );
}

#[test]
fn of_a_broken_log_what_holds_is_exported_and_the_first_broken_record_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let broken = record(folder.path(), story());
    let whole = record(folder.path(), story());
    let read = |session| fs::read_to_string(folder.path().join(file_name(session))).unwrap();
    let (changed, good) = (
        read(broken).replacen("192.0.2.1", "192.0.2.2", 1),
        read(whole),
    );
    let path = folder.path().join(file_name(broken));
    fs::write(&path, &changed).unwrap();
    let holds: String = changed.split_inclusive('\n').take(2).collect();
    let error = format!(
        "portcullis: audit log {}: record 3 at byte {}: hash does not match its content: it was changed; \
         exported up to there\n",
        path.display(),
        holds.len()
    );
    let ran = export(folder.path(), "jsonl", &[]);
    assert_eq!(ran, says(1, &format!("{holds}{good}"), &error));
    let lines = |ran: &Ran| ran.out.lines().count();
    let csv = export(folder.path(), "csv", &[]);
    assert_eq!((csv.code, lines(&csv)), (1, 1 + 2 + 15));
    let twin = export(folder.path(), "csv", &[&whole.to_string()]);
    assert_eq!(
        (twin.code, lines(&twin), twin.err.as_str()),
        (0, 1 + 15, "")
    );

    // A last line that is cut off is one as well, unless somebody writes it now.
    fs::write(&path, &holds[..holds.len() - 5]).unwrap();
    let cut = export(folder.path(), "jsonl", &[&broken.to_string()]);
    let first: String = holds.split_inclusive('\n').take(1).collect();
    assert_eq!((cut.code, cut.out), (1, first));
    assert!(cut.err.contains("record 2"), "{}", cut.err);
}

#[test]
fn a_table_has_a_row_a_record_and_no_formula() {
    let folder = tempfile::tempdir().unwrap();
    let events = everything();
    let session = seal(folder.path(), &events);
    let ran = export(folder.path(), "csv", &[]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.lines().count() == 1 + events.len() && ran.out.ends_with("\r\n"));
    let mut reader = csv::Reader::from_reader(ran.out.as_bytes());
    let header = reader.headers().unwrap().clone();
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    let row = |at: usize| -> Vec<(&str, &str)> {
        let cells = header.iter().zip(rows[at].iter());
        let fixed = ["host_id", "hash", "user", "session"];
        let cells = cells.filter(|(name, cell)| !cell.is_empty() && !fixed.contains(name));
        cells.collect()
    };
    assert_eq!(
        row(9),
        [
            ("time", "2026-01-31T08:00:09.000000Z"),
            ("seq", "10"),
            ("event", "egress.decided"),
            ("conn", "2"),
            ("transport", "inspected"),
            ("verdict", "allow"),
            ("rule", "'=cmd()"),
            ("host", "api.test"),
            ("port", "443"),
            ("method", "POST"),
            ("path", "/v1/a b"),
            ("program", "/usr/bin/pip"),
            ("pid", "12"),
            ("host_pid", "4012"),
            ("command_line", "pip install x"),
            ("parents", "7 /usr/bin/bash < 1 /usr/bin/codex"),
            ("other", r#"{"generation":"0123456789abcdef"}"#),
        ]
    );
    assert_eq!(
        row(13),
        [
            ("time", "2026-01-31T08:00:13.000000Z"),
            ("seq", "14"),
            ("event", "http.exchanged"),
            ("conn", "2"),
            ("method", "POST"),
            ("status", "201"),
            ("bytes_up", "100"),
            ("bytes_down", "3900"),
            ("ms", "2800"),
            ("first_byte_ms", "2300"),
            ("request_type", "application/json"),
            ("response_type", "text/event-stream"),
            ("thread", "t1"),
            ("turn", "u1"),
            ("other", r#"{"ended_by":"upstream","version":"HTTP/2"}"#),
        ]
    );
    assert_eq!(row(16)[5], ("verdict", "deny"));
    assert_eq!(row(16)[6], ("reason", "address_refused (private)"));
    assert_eq!(row(27)[3], ("other", r#"{"wind":{"speed":3}}"#));
    assert!(rows.iter().all(|row| row[1] == session.to_string()));
}

#[test]
fn a_data_frame_reads_the_same_rows_with_their_types() {
    let folder = tempfile::tempdir().unwrap();
    seal(folder.path(), &everything());
    let csv = fs::read_to_string(export_to(folder.path(), "csv")).unwrap();
    let read = check(&["parquet", &export_to(folder.path(), "parquet")]);
    let read: Value = serde_json::from_str(&read).unwrap();
    let types = &read["types"];
    assert_eq!(types["time"], "timestamp[us, tz=UTC]");
    assert_eq!(
        (&types["bytes_up"], &types["host"]),
        (&json!("int64"), &json!("string"))
    );

    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let header = reader.headers().unwrap().clone();
    let rows = read["rows"].as_array().unwrap();
    let mut compared = 0;
    for (row, cells) in rows.iter().zip(reader.records()) {
        for (name, cell) in header.iter().zip(&cells.unwrap()) {
            let value = match &row[name] {
                Value::Null => String::new(),
                Value::String(time) if name == "time" => time.replace("+00:00", ".000000Z"),
                Value::String(text) => text.clone(),
                number => number.to_string(),
            };
            assert_eq!(value, cell.strip_prefix('\'').unwrap_or(cell), "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, everything().len() * header.len());
}

#[test]
fn an_archive_fits_the_published_schema_and_has_an_entry_a_request() {
    let folder = tempfile::tempdir().unwrap();
    let session = seal(folder.path(), &everything()).to_string();
    let path = export_to(folder.path(), "har");
    check(&["har", "schemas/har-1.2.json", &path]);
    let archive: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let entries = archive["log"]["entries"].as_array().unwrap();
    let short = |entry: &Value| {
        let (request, response) = (&entry["request"], &entry["response"]);
        json!([
            request["method"],
            request["url"],
            response["status"],
            entry["comment"]
        ])
    };
    assert_eq!(
        entries.iter().map(short).collect::<Vec<_>>(),
        [
            json!(["POST", "https://api.test/v1/a%20b", 201, null]),
            json!(["CONNECT", "https://api.test/", 200, null]),
            json!([
                "BREW",
                "http://evil.test/",
                403,
                "denied by Portcullis: host_denied, by network.domains.\"evil.test\""
            ]),
            json!([
                "CONNECT",
                "tcp://[2001:db8::7]:22/",
                403,
                "denied by Portcullis: address_refused (private)"
            ]),
            json!([
                "CONNECT",
                "https://other.test/",
                502,
                "refused by Portcullis: resolve_failed: no such name"
            ]),
        ]
    );
    let post = &entries[0];
    assert_eq!(
        json!({
            "page": post["pageref"], "started": post["startedDateTime"], "time": post["time"], "timings": post["timings"],
            "version": post["response"]["httpVersion"], "sent": post["request"]["bodySize"],
            "headers": post["request"]["headers"], "got": post["response"]["bodySize"],
            "content": post["response"]["content"], "address": post["serverIPAddress"], "connection": post["connection"],
        }),
        json!({
            "page": session, "started": "2026-01-31T08:00:09.000000Z", "time": 2800.0,
            "timings": { "blocked": -1.0, "dns": -1.0, "connect": 2000.0, "ssl": -1, "send": 0, "wait": 300.0, "receive": 500.0 },
            "version": "HTTP/2", "sent": 100,
            "headers": [{ "name": "content-type", "value": "application/json" }], "got": 3900,
            "content": { "size": 3900, "mimeType": "text/event-stream" }, "address": null, "connection": "2",
        })
    );
    let tunnel = &entries[1];
    assert_eq!(
        tunnel["timings"]["blocked"], 3000.0,
        "somebody was asked meanwhile"
    );
    assert_eq!(tunnel["serverIPAddress"], "192.0.2.1");
    assert_eq!(
        archive["log"]["pages"],
        json!([{ "id": session, "title": "codex exec fix", "startedDateTime": "2026-01-31T08:00:00.000000Z", "pageTimings": {} }])
    );
}

#[test]
fn every_event_is_valid_in_its_published_class() {
    let folder = tempfile::tempdir().unwrap();
    seal(folder.path(), &everything());
    record(folder.path(), story());
    let path = export_to(folder.path(), "ocsf");
    check(&["ocsf", "schemas/ocsf-1.8.0.json", &path]);
    let text = fs::read_to_string(&path).unwrap();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), everything().len() + story().len());
    let sealed: Vec<_> = events
        .iter()
        .filter(|event| {
            event["metadata"]["original_time"]
                .as_str()
                .unwrap()
                .starts_with("2026-01-31T08")
        })
        .collect();
    let short = |event: &Value| {
        json!([
            event["metadata"]["event_code"],
            event["type_uid"],
            event["disposition"]
        ])
    };
    assert_eq!(
        sealed.iter().map(|event| short(event)).collect::<Vec<_>>(),
        [
            json!(["session.started", 600_203, "Logged"]),
            json!(["dns.asked", 400_301, "Allowed"]),
            json!(["dns.asked", 400_301, "Error"]),
            json!(["egress.decided", 400_199, "Delayed"]),
            json!(["approval.asked", 300_399, "Delayed"]),
            json!(["approval.answered", 300_301, "Allowed"]),
            json!(["egress.decided", 400_101, "Allowed"]),
            json!(["dns.query", 400_302, "Allowed"]),
            json!(["egress.dialed", 400_199, "Logged"]),
            json!(["egress.decided", 400_206, "Allowed"]),
            json!(["credential.used", 300_301, "Allowed"]),
            json!(["egress.dialed", 400_206, "Logged"]),
            json!(["egress.closed", 400_206, "Logged"]),
            json!(["http.exchanged", 400_206, "Logged"]),
            json!(["egress.closed", 400_102, "Logged"]),
            json!(["egress.decided", 400_299, "Blocked"]),
            json!(["egress.decided", 400_105, "Blocked"]),
            json!(["egress.decided", 400_101, "Allowed"]),
            json!(["egress.refused", 400_104, "Error"]),
            json!(["egress.refused", 400_104, "Blocked"]),
            json!(["approval.asked", 300_399, "Delayed"]),
            json!(["approval.answered", 300_399, "Blocked"]),
            json!(["dns.dropped", 400_399, "Blocked"]),
            json!(["limit.hit", 99, "Logged"]),
            json!(["policy.applied", 99, "Logged"]),
            json!(["gate.restarted", 600_205, "Logged"]),
            json!(["log.resumed", 99, "Logged"]),
            json!(["weather.changed", 99, "Logged"]),
            json!(["session.ended", 600_204, "Logged"]),
        ]
    );
    let exchanged = sealed[13];
    assert_eq!(
        exchanged["actor"]["process"],
        json!({
            "pid": 4012, "namespace_pid": 12, "name": "pip", "cmd_line": "pip install x",
            "file": { "name": "pip", "path": "/usr/bin/pip", "type_id": 8, "type": "Executable File" },
            "parent_process": {
                "uid": "jail:7", "namespace_pid": 7, "name": "bash",
                "file": { "name": "bash", "path": "/usr/bin/bash", "type_id": 8, "type": "Executable File" },
                "parent_process": {
                    "uid": "jail:1", "namespace_pid": 1, "name": "codex",
                    "file": { "name": "codex", "path": "/usr/bin/codex", "type_id": 8, "type": "Executable File" },
                },
            },
        })
    );
    assert_eq!(
        exchanged["dst_endpoint"],
        json!({ "hostname": "api.test", "port": 443 })
    );
    assert_eq!(exchanged["http_response"]["code"], 201);
    assert_eq!(exchanged["unmapped"]["thread"], "t1");
    assert_eq!(sealed[5]["privileges"], json!(["connect to api.test:443"]));
    assert_eq!(sealed[27]["unmapped"]["wind"], json!({ "speed": 3 }));
}

#[test]
fn only_records_of_the_time_asked_for_are_exported() {
    let folder = tempfile::tempdir().unwrap();
    let session = seal(folder.path(), &everything());
    let text = fs::read_to_string(folder.path().join(file_name(session))).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let window = [
        "--since",
        "2026-01-31T08:00:03Z",
        "--until",
        "2026-01-31T08:00:05Z",
    ];
    let ran = export(folder.path(), "jsonl", &window);
    assert_eq!(ran, says(0, &lines[3..5].concat(), ""));
    assert_eq!(
        export(folder.path(), "jsonl", &["--since", "1h"]),
        says(0, "", "")
    );
    assert_eq!(
        export(folder.path(), "jsonl", &["--since", "soon"]).code,
        64
    );
}

#[test]
fn a_file_appears_whole_or_not_at_all_and_a_terminal_gets_no_parquet() {
    let folder = tempfile::tempdir().unwrap();
    record(folder.path(), story());
    let others = tempfile::tempdir().unwrap();
    let wanted = others.path().join("out.csv");
    let wanted_text = wanted.to_str().unwrap();
    fs::write(&wanted, "old").unwrap();
    assert_eq!(
        export(folder.path(), "csv", &["-o", wanted_text]),
        says(0, "", "")
    );
    assert!(fs::read_to_string(&wanted).unwrap().starts_with("time,"));
    let missing = others.path().join("no/out.csv");
    let failed = export(folder.path(), "csv", &["-o", missing.to_str().unwrap()]);
    assert_eq!(failed.code, 69, "{}", failed.err);
    let full = export(
        folder.path(),
        "csv",
        &["-o", others.path().to_str().unwrap()],
    );
    assert_eq!(full.code, 69, "a folder is in the way: {}", full.err);
    let names: Vec<_> = fs::read_dir(others.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["out.csv"]);

    let terminal = |format: &str| {
        let program = env!("CARGO_BIN_EXE_portcullis");
        let command = format!(
            "{program} audit export -f {format} --dir {}",
            folder.path().display()
        );
        let ran = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .output()
            .unwrap();
        (
            ran.status.code().unwrap(),
            String::from_utf8(ran.stdout).unwrap(),
        )
    };
    let (code, said) = terminal("parquet");
    assert_eq!(code, 64);
    assert!(said.contains("parquet is no text for a terminal"), "{said}");
    for format in ["jsonl", "csv", "har", "ocsf"] {
        let (code, said) = terminal(format);
        assert_eq!(code, 0, "{said}");
        assert!(
            said.contains("api.test") && !said.contains('\u{1b}'),
            "{format}"
        );
    }
    let piped = audit(folder.path(), &["export", "-f", "har"]);
    assert_eq!(piped.code, 0);
}

//! journald's native protocol, read by its description.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use super::scene::{PATIENCE, Scene};

/// `NAME=value`, or a name, a length and a value of any bytes (systemd, "Native Journal Protocol").
fn parse(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    while !entry.is_empty() {
        let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
        let (line, rest) = (&entry[..end], &entry[end + 1..]);
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            fields.insert(text(&line[..equals]), text(&line[equals + 1..]));
            entry = rest;
        } else {
            let (length, rest) = rest.split_first_chunk().unwrap();
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
            fields.insert(text(line), text(&rest[..length]));
            assert_eq!(rest[length], b'\n');
            entry = &rest[length + 1..];
        }
    }
    fields
}

#[test]
fn the_journal_gets_an_entry_a_record_with_fields_to_search_by() {
    let scene = Scene::new("");
    let path = scene.path("journal");
    let journal = UnixDatagram::bind(&path).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    scene.configure(&format!(
        "[[forward]]\nname = \"journal\"\nkind = \"journald\"\naddress = \"{}\"\nevents = [\"egress.*\"]\n",
        path.display()
    ));
    let mut session = scene.session("alice");
    session.denials(3);
    session.end();
    assert_eq!(scene.once(), (0, String::new()));
    let mut bytes = vec![0; 256 << 10];
    for seq in 1..=3_u64 {
        let length = journal.recv(&mut bytes).unwrap();
        let mut fields = parse(&bytes[..length]);
        let record = fields.remove("MESSAGE").unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        assert_eq!(
            fields.remove("PORTCULLIS_HASH").unwrap(),
            record["hash"].as_str().unwrap()
        );
        let seq = seq.to_string();
        let id = session.id.to_string();
        let expected = [
            ("PORTCULLIS_CONN", seq.as_str()),
            ("PORTCULLIS_EVENT", "egress.decided"),
            ("PORTCULLIS_HOST", "evil.test"),
            ("PORTCULLIS_HOST_ID", "00112233aabbccdd"),
            ("PORTCULLIS_PORT", "443"),
            ("PORTCULLIS_REASON", "host_not_allowed"),
            ("PORTCULLIS_SEQ", &seq),
            ("PORTCULLIS_SESSION", &id),
            ("PORTCULLIS_USER", "alice"),
            ("PORTCULLIS_VERDICT", "deny"),
            ("PRIORITY", "5"),
            ("SYSLOG_FACILITY", "13"),
            ("SYSLOG_IDENTIFIER", "portcullis"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields, BTreeMap::from(expected));
    }
    // The end is no event that was asked for, and it counts as sent.
    journal.set_nonblocking(true).unwrap();
    assert!(journal.recv(&mut bytes).is_err());
    let state = std::fs::read_to_string(scene.path("state/journal.json")).unwrap();
    assert!(
        state.contains("\"ended\":true") && state.contains("\"lag_bytes\":0"),
        "{state}"
    );
}

/// Runs a journal of its own in a mount namespace of its own, has records forwarded to it, and asks it. It neither
/// reads the kernel's messages nor turns auditing on.
const REAL_JOURNAL: &str = r#"
set -e
printf '[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\nRateLimitIntervalSec=0\n' > "$1/journald.conf"
mount -t tmpfs tmpfs /run
mount --bind "$1/journald.conf" /etc/systemd/journald.conf
mkdir -p /run/systemd/journal /run/log/journal
/lib/systemd/systemd-journald &
trap "kill $!" EXIT
tries=0
until [ -S /run/systemd/journal/socket ]; do
    tries=$((tries + 1)); [ $tries -lt 600 ]; sleep 0.1
done
"$2" audit forward --once --config "$1/audit.toml" --state "$1/state" --dir "$1/logs"
tries=0
until [ "$(journalctl -q -D /run/log/journal -o cat PORTCULLIS_SESSION="$3" PORTCULLIS_EVENT=session.ended | wc -l)" = 1 ]; do
    tries=$((tries + 1)); [ $tries -lt 600 ]; sleep 0.1
done
journalctl -q -D /run/log/journal -o cat PORTCULLIS_SESSION="$3"
"#;

#[test]
fn a_real_journal_finds_the_records_of_a_session() {
    let scene = Scene::new("[[forward]]\nname = \"journal\"\nkind = \"journald\"\n");
    let (mut session, mut other) = (scene.session("alice"), scene.session("bob"));
    session.denials(30);
    session.end();
    other.denials(2);
    let id = session.id.to_string();
    let folder = scene.path("");
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-c", REAL_JOURNAL, "bash"]);
    command
        .arg(folder)
        .arg(env!("CARGO_BIN_EXE_portcullis"))
        .arg(&id);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let found = String::from_utf8(output.stdout).unwrap();
    let log = scene.logs().join("alice").join(format!("{id}.jsonl"));
    assert_eq!(found, std::fs::read_to_string(log).unwrap());
}

#[test]
fn a_log_that_cannot_be_read_holds_up_no_other_and_one_that_was_changed_is_sent() {
    let scene = Scene::new("");
    let path = scene.path("journal");
    let journal = UnixDatagram::bind(&path).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    scene.configure(&format!(
        "[[forward]]\nname = \"journal\"\nkind = \"journald\"\naddress = \"{}\"\n[retention.logs]\nage = \"90d\"\n",
        path.display()
    ));
    let mut session = scene.session("alice");
    session.denials(2);
    let log = scene
        .logs()
        .join("alice")
        .join(format!("{}.jsonl", session.id));
    let text = std::fs::read_to_string(&log)
        .unwrap()
        .replacen("evil", "good", 1);
    let no_zstd = scene
        .logs()
        .join("alice/0192f0c1a2b37c4d8e5f60718293a4b5.jsonl.zst");
    std::fs::write(no_zstd, b"\x28\xb5\x2f\xfd and then something else").unwrap();
    std::fs::write(&log, text).unwrap();
    assert_eq!(scene.once(), (0, String::new()));
    let mut bytes = vec![0; 256 << 10];
    let mut received = || {
        let length = journal.recv(&mut bytes).unwrap();
        parse(&bytes[..length]).remove("PORTCULLIS_HOST")
    };
    assert_eq!(received().as_deref(), Some("good.test"));
    assert_eq!(received().as_deref(), Some("evil.test"));
    let state = std::fs::read_to_string(scene.path("state/journal.json")).unwrap();
    assert_eq!(state.matches("\"broken\":true").count(), 2, "{state}");
}

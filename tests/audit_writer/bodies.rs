//! Bodies beside the log: who may have them kept, and that nothing else can be opened for them.

use std::fs;

use data_encoding::BASE64;
use portcullis::audit::http::{BodyKept, BodySide};
use portcullis::audit::verify::State;
use portcullis::audit::{AuditEvent, bodies};
use portcullis::ids::ConnId;
use portcullis::policy::Durability;
use portcullis::wire::WireError;
use portcullis::wire::audit::{AuditReply, BodyOffer, KeepBody, append};

use super::support::{Writer, decided, ended, events, started, whole};

fn offer(id: u64, content: &[u8]) -> KeepBody {
    KeepBody {
        id,
        body: BodyOffer {
            conn: ConnId(1),
            direction: BodySide::Response,
            truncated: true,
            encoding: Some("gzip".to_owned()),
            redactions: 0,
            content: BASE64.encode(content),
        },
    }
}

fn kept(content: &[u8], redactions: u32) -> AuditEvent {
    AuditEvent::BodyKept(BodyKept {
        conn: ConnId(1),
        direction: BodySide::Response,
        sha256: bodies::name(content),
        bytes: content.len() as u64,
        truncated: true,
        encoding: Some("gzip".to_owned()),
        redactions,
    })
}

#[test]
fn a_body_is_kept_before_its_record_is_acknowledged_and_what_is_secret_in_it_is_not() {
    for durability in [Durability::Batch, Durability::Each] {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::start(folder.path(), durability);
        append(&writer.gate, 1, decided(1)).unwrap();
        let large = vec![b'x'; bodies::LONGEST];
        let clean = b"{\"password\":\"[redacted:assigned]\"}".as_slice();
        for (id, sent) in [
            (2, b"{\"password\":\"hunter2\"}".as_slice()),
            (3, clean),
            (4, &large),
        ] {
            writer.gate.send(&offer(id, sent)).unwrap();
            let seq = id;
            assert_eq!(
                writer.gate.recv::<AuditReply>().unwrap(),
                AuditReply::Recorded { id, seq }
            );
            let expected = if id == 4 { &large } else { clean };
            let file = folder
                .path()
                .join(bodies::FOLDER)
                .join(bodies::name(expected));
            assert_eq!(fs::read(file).unwrap(), expected);
        }
        append(&writer.session, 1, ended()).unwrap();
        let id = writer.id;
        whole(id, 5, State::Complete, &writer.finish().1);
        assert_eq!(
            events(folder.path(), id),
            [
                decided(1),
                kept(clean, 1),
                kept(clean, 0),
                kept(&large, 0),
                ended()
            ]
        );
        let files = fs::read_dir(folder.path().join(bodies::FOLDER)).unwrap();
        assert_eq!(files.count(), 2);
    }
}

#[test]
fn only_a_gate_has_bodies_kept_and_none_that_is_not_one() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, started(&["true"])).unwrap();
    let mut bad = offer(1, b"");
    bad.body.content = "?".to_owned();
    writer.gate.send(&bad).unwrap();
    assert!(matches!(
        writer.gate.recv::<AuditReply>(),
        Err(WireError::Closed)
    ));
    append(&writer.session, 2, ended()).unwrap();
    let id = writer.id;
    whole(id, 2, State::Complete, &writer.finish().1);
    let writer = Writer::start(folder.path(), Durability::Batch);
    writer.session.send(&offer(1, b"x")).unwrap();
    assert!(matches!(
        writer.session.recv::<AuditReply>().unwrap(),
        AuditReply::Failed { id: 1, .. }
    ));
    drop(writer.finish());
    let files = fs::read_dir(folder.path().join(bodies::FOLDER)).unwrap();
    assert_eq!(files.count(), 0);
}

#[test]
fn a_full_disk_or_a_link_in_the_folders_place_costs_the_body_and_not_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join(bodies::FOLDER)).unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    writer.gate.send(&offer(1, b"x")).unwrap();
    assert_eq!(
        writer.gate.recv::<AuditReply>().unwrap(),
        AuditReply::Recorded { id: 1, seq: 1 }
    );
    append(&writer.session, 1, ended()).unwrap();
    let id = writer.id;
    whole(id, 2, State::Complete, &writer.finish().1);
    let log = fs::read_to_string(folder.path().join(format!("{id}.jsonl"))).unwrap();
    assert!(
        log.contains(
            r#""event":"body.skipped","conn":1,"direction":"response","reason":"storage""#
        ),
        "{log}"
    );
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

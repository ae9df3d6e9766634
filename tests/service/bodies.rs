//! Bodies beside the logs of the service's sessions: shown to whoever may read the logs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use portcullis::audit::folder::{LogFolder, file_name};
use portcullis::audit::http::{BodyKept, BodySide};
use portcullis::audit::log::Log;
use portcullis::audit::{AuditEvent, Status, bodies};
use portcullis::ids::{ConnId, SessionId};
use portcullis::policy::Durability;

use crate::service::{ADA, AUDITOR, BOB, Service};

const CONTENT: &[u8] = b"what was sent";

#[test]
fn a_body_of_a_session_is_shown_to_its_user_and_to_auditors() {
    let host = Service::start("");
    let run = host.run(ADA, &["run", "-q", "--", "true"]);
    assert_eq!(run.status, Some(0), "{run:#?}");
    // As the audit writer leaves it, of a session whose request kept a body.
    let folder = host.inside(&format!("/var/log/portcullis/{}", ADA.uid));
    let owner = fs::metadata(&folder).unwrap();
    let session = SessionId::generate();
    let opened = LogFolder::open(&folder).unwrap();
    let whose = (session, "ada");
    let mut log = Log::create(
        &opened,
        &folder,
        whose,
        Durability::Batch,
        "00112233aabbccdd",
    )
    .unwrap();
    let sha256 = bodies::name(CONTENT);
    let kept = AuditEvent::BodyKept(BodyKept {
        conn: ConnId(1),
        direction: BodySide::Request,
        sha256: sha256.clone(),
        bytes: CONTENT.len() as u64,
        truncated: false,
        encoding: None,
        redactions: 0,
    });
    let ended = AuditEvent::SessionEnded {
        status: Status::Exited(0),
        ms: 1,
        files: None,
    };
    for event in [kept, ended] {
        log.stage(event).unwrap();
    }
    log.commit().unwrap();
    drop(log);
    let own = |path: &Path, mode| {
        chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    own(&folder.join(file_name(session)), 0o640);
    let place = folder.join(bodies::FOLDER);
    fs::create_dir_all(&place).unwrap();
    own(&place, 0o750);
    let body = place.join(&sha256);
    fs::write(&body, CONTENT).unwrap();
    own(&body, 0o640);

    let id = format!("{session}:1");
    let show = |user| host.run(user, &["audit", "show", &id, "--body"]);
    for user in [ADA, AUDITOR] {
        let shown = show(user);
        assert_eq!(shown.status, Some(0), "{shown:#?}");
        assert_eq!(shown.stdout.as_bytes(), CONTENT);
    }
    // He knows the session and the hash, and is told of neither.
    let refused = show(BOB);
    assert_eq!((refused.status, refused.stdout.as_str()), (Some(64), ""));

    // Another one stands where its writer died over it.
    fs::write(&body, b"what w").unwrap();
    let second = place.join(format!("{sha256}.1"));
    fs::write(&second, CONTENT).unwrap();
    own(&second, 0o640);
    assert_eq!(show(ADA).stdout.as_bytes(), CONTENT);
    // One that is not the writer's is not opened, and one that was changed is not shown.
    chown(&second, Some(ADA.uid), None).unwrap();
    let refused = show(ADA);
    assert_eq!((refused.status, refused.stdout.as_str()), (Some(1), ""));
    assert!(
        refused.stderr.contains("its hash is another"),
        "{refused:#?}"
    );
}

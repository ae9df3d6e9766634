//! What is secret stays outside of the jail, and is read with the rights of whoever asks for the session.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use serde_json::{Value, json};

use super::scene::{Served, Turn};
use crate::cli::Run;
use crate::codex_install::{CodexVersion, VERSIONS};
use crate::credentials::{KEY, LOOK, sealed_profile};
use crate::scene::Transport;
use crate::service::{ADA, BOB};

/// The model got the real key with every request, and nobody else saw it.
#[track_caller]
fn assert_sealed(served: &Served, run: &Run) {
    assert_eq!(run.status, Some(0), "{run:#?}");
    let requests = served.stub.requests();
    assert!(requests.len() >= 2, "{requests:#?}");
    for request in &requests {
        assert_eq!(request["authorized"], true, "{request}");
    }
    let outputs = served.stub.outputs();
    let seen = outputs.iter().find(|output| output.contains("looked"));
    let seen = seen.unwrap();
    assert!(seen.contains("CODEX_API_KEY=sk-portcullis-"), "{seen}");
    let records = served.records();
    let used = |record: &&Value| record["event"] == "credential.used";
    assert!(records.iter().any(|record| used(&record)), "{records:#?}");
    for record in records.iter().filter(used) {
        assert_eq!(record["credential"], "openai-api-key");
    }
    let records = Value::Array(records).to_string();
    for text in [seen, &run.stdout, &run.stderr, &records] {
        assert!(!text.contains("the-real-secret"), "{text}");
    }
    served.assert_verified();
}

#[test]
fn the_model_gets_the_key_of_the_caller_and_the_jail_its_placeholder() {
    let script = json!([{ "run": LOOK }, { "say": "done" }]);
    for version in VERSIONS {
        let expected = format!("Bearer {KEY}");
        let served = Served::expecting(version, Transport::Sse, &expected, &script);
        let auth = json!({"auth_mode": "apikey", "OPENAI_API_KEY": KEY});
        served.give(ADA, ".codex/auth.json", &auth.to_string());
        let mut command = served.exec("sealed");
        command.env_remove("OPENAI_API_KEY");
        let run = Turn::begin(command).end();
        assert_sealed(&served, &run);
        let outputs = served.stub.outputs();
        assert!(
            outputs[0].contains("\"OPENAI_API_KEY\":\"sk-portcullis-"),
            "{outputs:#?}"
        );
    }
}

/// `LoadCredential=` of a unit that calls `portcullis run`: systemd.exec(5) has it in a folder that the variable names,
/// readable for the unit's user.
#[test]
fn a_credential_of_the_callers_unit_reaches_the_model_and_not_the_jail() {
    let script = json!([
        { "run": format!("{LOOK}; env | grep CREDENTIALS_DIRECTORY; ls $UNITS_FOLDER && echo shown") },
        { "say": "done" },
    ]);
    let expected = format!("Bearer {KEY}");
    let served = Served::expecting(CodexVersion::Newest, Transport::Sse, &expected, &script);
    let folder = served.host.inside("/run/credentials/agent.service");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("model-key");
    fs::write(&file, format!("{KEY}\n")).unwrap();
    // As systemd leaves it where the file system has access control lists: a mask in the place of the group.
    for (path, mode) in [(&file, 0o440), (&folder, 0o550)] {
        chown(path, Some(ADA.uid), Some(0)).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let profile =
        sealed_profile(&served.stub).replace("${codex:api_key}", "${credential:model-key}");
    let profile =
        profile + "[environment.set]\nUNITS_FOLDER = \"/run/credentials/agent.service\"\n";
    served.host.admin("profiles/unit.toml", &profile);
    let asked = |folder: &str| {
        let mut command = served.exec("unit");
        command
            .env_remove("OPENAI_API_KEY")
            .env("CREDENTIALS_DIRECTORY", folder);
        Turn::begin(command).end()
    };
    let run = asked("/run/credentials/agent.service");
    assert_sealed(&served, &run);
    // Nothing is wrong with what the manager made, and nothing is missing.
    assert!(!run.stderr.contains("portcullis: "), "{run:#?}");
    let output = &served.stub.outputs()[0];
    assert!(
        !output.contains("CREDENTIALS_DIRECTORY=") && !output.contains("shown"),
        "{output}"
    );

    // What root could read, or another user, she cannot have read for her.
    let before = served.stub.requests().len();
    for owner in [0, BOB.uid] {
        chown(&file, Some(owner), Some(0)).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o400)).unwrap();
        let run = asked("/run/credentials/agent.service");
        assert_eq!(
            run.complaint(),
            (
                Some(125),
                vec![
                    "portcullis: credential openai-api-key: read /run/credentials/agent.service/model-key: Permission denied \
                 (os error 13); put the secret there, or set optional = true"
                ]
            )
        );
    }
    assert_eq!(served.stub.requests().len(), before);
}

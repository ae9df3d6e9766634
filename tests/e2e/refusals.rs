//! What is off the list: refused, explained to agent and operator, recorded, never looked up.

use std::collections::BTreeSet;

use serde_json::json;

use crate::cli::Who;
use crate::codex_install::VERSIONS;
use crate::scene::{Model, Scene, Transport};
use crate::stub::NAME;

#[test]
fn a_host_off_the_list_is_refused_explained_recorded_and_never_looked_up() {
    let script = json!([
        { "run": "curl -sS --max-time 30 http://off-the-list.test/path" },
        { "run": "curl -sS --max-time 30 https://off-the-list.test/" },
        { "say": "done" },
    ]);
    for version in VERSIONS {
        let scene = Scene::new(version, &script);
        let run = scene.exec(&["fetch"]);
        assert_eq!(run.status, Some(0), "{version:?}: {run:?}");
        let outputs = scene.stub.outputs();
        assert!(
            outputs[0].contains(r#""code":"host_not_allowed""#),
            "the agent reads why: {}",
            outputs[0]
        );
        assert!(outputs[1].contains("403"), "{}", outputs[1]);
        for line in [
            "refused off-the-list.test:80: host_not_allowed; to allow it: --allow off-the-list.test",
            "refused off-the-list.test:443: host_not_allowed; to allow it: --allow off-the-list.test",
        ] {
            assert!(run.stderr.contains(line), "{line:?} in {}", run.stderr);
        }
        assert_eq!(scene.stub.names(), BTreeSet::from([NAME.to_owned()]));

        let refused = |port| ("off-the-list.test".to_owned(), port, "deny".to_owned());
        let judged: BTreeSet<_> = scene.judged().into_iter().collect();
        let mut expected = BTreeSet::from([refused(80), refused(443)]);
        expected.extend(scene.only_the_model());
        assert_eq!(judged, expected, "{version:?}");

        let verified = scene.install.portcullis(["audit", "verify"]);
        assert_eq!(verified.status.code(), Some(0), "{version:?}: {verified:?}");
        let session = scene.install.records()[0]["session"].clone();
        let told = scene
            .install
            .portcullis(["audit", "show", session.as_str().unwrap()]);
        let told = String::from_utf8(told.stdout).unwrap();
        assert!(told.contains("--allow off-the-list.test"), "{told}");
    }
}

/// Codex 0.169 left to itself waits for such a host for ever: the managed configuration ends that.
#[test]
fn codex_gives_up_when_the_model_itself_is_off_the_list() {
    let script = json!([{ "say": "done" }]);
    std::thread::scope(|scope| {
        for version in VERSIONS {
            for transport in [Transport::Sse, Transport::WebSocket] {
                let script = &script;
                scope.spawn(move || {
                    let codex = version.folder();
                    let scene = Scene::with(Who::Root, codex, transport, Model::OffTheList, script);
                    let run = scene.exec(&["anything"]);
                    assert_eq!(run.status, Some(1), "{version:?} {transport:?}: {run:?}");
                    let port = scene.stub.port;
                    for part in [
                        format!("portcullis: refused {NAME}:{port} ("),
                        format!(" times): host_not_allowed; to allow it: --allow {NAME}:{port}"),
                    ] {
                        assert!(run.stderr.contains(&part), "{part:?} in {}", run.stderr);
                    }
                    assert_eq!(scene.stub.requests(), Vec::<serde_json::Value>::new());
                    assert_eq!(scene.stub.names(), BTreeSet::new());
                });
            }
        }
    });
}

//! A policy without WebSockets: Codex goes on over plain HTTP at once.

use serde_json::json;

use crate::codex_install::VERSIONS;
use crate::credentials::{KEY, exec_with, sealed_profile};
use crate::scene::{Scene, Transport};

#[test]
fn a_refused_websocket_makes_codex_fall_back_to_an_event_stream_at_once() {
    let script = json!([{ "run": "echo fell-back" }, { "say": "done" }]);
    for version in VERSIONS {
        let wanted = format!("Bearer {KEY}");
        let scene = Scene::expecting(version, Transport::WebSocket, &wanted, &script);
        let auth = json!({"auth_mode": "apikey", "OPENAI_API_KEY": KEY});
        scene
            .install
            .write("codex-home/auth.json", &auth.to_string());
        let profile = sealed_profile(&scene.stub)
            .replace("mitm = false\n", "mitm = false\nwebsocket = \"426\"\n");
        let run = exec_with(&scene, &profile, &[]);
        assert_eq!(run.status, Some(0), "{version:?}: {run:?}");
        let requests = scene.stub.requests();
        let streams = requests
            .iter()
            .filter(|request| request["transport"] == "sse");
        assert!(streams.count() >= 2, "{version:?}: {requests:?}");
        assert!(
            requests
                .iter()
                .all(|request| request["transport"] != "websocket"),
            "{version:?}: {requests:?}"
        );
        assert!(scene.stub.outputs()[0].contains("fell-back"), "{version:?}");
        let decided = scene.install.events("egress.decided");
        let refused = decided
            .iter()
            .filter(|record| record["reason"] == "websocket_not_allowed");
        // No retries: one try to open, and one to warm up, at most.
        assert!(
            (1..=2).contains(&refused.count()),
            "{version:?}: {decided:?}"
        );
    }
}

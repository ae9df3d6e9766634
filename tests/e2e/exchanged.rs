//! Threads and turns of a real Codex on record, where its requests are looked into.

use serde_json::{Value, json};

use crate::cli::Run;
use crate::codex_install::VERSIONS;
use crate::scene::Scene;

#[test]
fn the_thread_and_the_turn_of_codex_are_told_with_its_requests_where_they_are_looked_into() {
    for version in VERSIONS {
        let scene = Scene::new(version, &json!([{ "run": "true" }, { "say": "done" }]));
        // The profile trusts the stub for Codex; here the session's own authority is in between.
        let verb = ["run", "--mitm", "--env", "CODEX_CA_CERTIFICATE"];
        let codex = ["codex", "exec", "--json", "--skip-git-repo-check", "look"];
        let mut command = scene.command(&verb, &codex);
        let run = Run::of(
            &command
                .env("SSL_CERT_FILE", scene.stub.ca())
                .output()
                .unwrap(),
        );
        assert_eq!(run.status, Some(0), "{version:?}: {run:?}");
        let thread = run.stdout.lines().find_map(|line| {
            let event: Value = serde_json::from_str(line).ok()?;
            Some(event["thread_id"].as_str()?.to_owned())
        });
        let thread = thread.unwrap();
        let posts: Vec<Value> = scene.install.events("http.exchanged");
        let posts: Vec<&Value> = posts
            .iter()
            .filter(|record| {
                record["method"] == "POST" && record["response_type"] == "text/event-stream"
            })
            .collect();
        assert!(posts.len() >= 2, "{version:?}: {posts:?}");
        for post in posts {
            assert_eq!(post["thread"], thread, "{version:?}: {post}");
            assert_eq!(
                post["turn"].as_str().map(str::len),
                Some(36),
                "{version:?}: {post}"
            );
            assert_eq!(post["status"], 200, "{version:?}: {post}");
        }
    }
}

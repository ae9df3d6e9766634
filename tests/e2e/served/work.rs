//! Codex does its work there as it does in a session of one's own.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;

use super::scene::{Served, Turn};
use crate::codex_install::VERSIONS;
use crate::scene::{Transport, judged, only_the_model};
use crate::service::ADA;

#[test]
fn codex_works_as_its_caller_and_all_that_it_did_is_in_a_log_that_holds() {
    let script = json!([
        { "run": "printf 'one\\n' > notes.txt; id -u > who.txt; id -G >> who.txt" },
        { "patch": "*** Begin Patch\n*** Update File: notes.txt\n@@\n-one\n+two\n*** End Patch\n" },
        { "say": "all of it is done" },
    ]);
    for version in VERSIONS {
        for transport in [Transport::Sse, Transport::WebSocket] {
            let served = Served::new(version, transport, &script);
            let run = Turn::begin(served.exec("model")).end();
            assert_eq!(run.status, Some(0), "{version:?} {transport:?}: {run:#?}");
            assert!(run.stdout.contains("all of it is done"), "{run:#?}");
            for (name, text) in [("notes.txt", "two\n"), ("who.txt", "4001\n4001 4050\n")] {
                let file = served.workspace_file(name);
                assert_eq!(fs::read_to_string(&file).unwrap(), text);
                let stat = fs::metadata(&file).unwrap();
                assert_eq!((stat.uid(), stat.gid()), (ADA.uid, ADA.uid));
            }
            let records = served.records();
            assert_eq!(judged(&records), only_the_model(&served.stub));
            let ends = [records.first(), records.last()];
            let ends = ends.map(|record| &record.unwrap()["event"]);
            assert_eq!(ends, ["session.started", "session.ended"]);
            served.assert_verified();
        }
    }
}

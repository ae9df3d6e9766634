//! Checkpoints of the host's chain, kept elsewhere.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use super::scene::{Scene, free_port};

fn entry(seq: u64, event: &str) -> String {
    format!(
        r#"{{"v":1,"seq":{seq},"ts":"2026-01-31T08:00:00.000000Z","host_id":"00112233aabbccdd","event":"{event}","prev":"a","hash":"b"}}"#
    )
}

#[test]
fn a_file_gets_each_checkpoint_once_and_nothing_else() {
    let scene = Scene::new("");
    let anchor = scene.path("anchor");
    scene.configure(&format!(
        "[[anchor]]\nkind = \"file\"\npath = \"{}\"\n",
        anchor.display()
    ));
    scene.session("alice").denials(3);
    let ledger = scene.logs().join("alice/ledger");
    fs::create_dir(&ledger).unwrap();
    let write = |text: &str| {
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .append(true)
            .create(true)
            .open(ledger.join("ledger.jsonl"))
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let (one, two) = (entry(2, "checkpoint"), entry(4, "checkpoint"));
    write(&format!(
        "{}\n{one}\n{}\n",
        entry(1, "log.head"),
        entry(3, "log.head")
    ));
    // The last one is not whole yet.
    write(&two[..20]);
    assert_eq!(scene.once(), (0, String::new()));
    assert_eq!(fs::read_to_string(&anchor).unwrap(), format!("{one}\n"));
    write(&format!("{}\n", &two[20..]));
    assert_eq!(scene.once(), (0, String::new()));
    assert_eq!(scene.once(), (0, String::new()));
    assert_eq!(
        fs::read_to_string(&anchor).unwrap(),
        format!("{one}\n{two}\n")
    );
}

#[test]
fn an_endpoint_gets_a_post_a_checkpoint_and_a_missing_one_is_told() {
    let port = free_port();
    let scene = Scene::new(&format!(
        "[[anchor]]\nkind = \"http\"\naddress = \"http://127.0.0.1:{port}/anchors?host=1\"\n"
    ));
    let ledger = scene.logs().join("ledger");
    fs::create_dir(&ledger).unwrap();
    let checkpoint = entry(1, "checkpoint");
    fs::write(ledger.join("ledger.jsonl"), format!("{checkpoint}\n")).unwrap();
    let (code, said) = scene.once();
    assert_eq!(code, 1);
    assert!(said.contains("anchor-http: Connection refused"), "{said}");

    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut chunk = [0; 4096];
        while !request.ends_with(b"}") {
            let got = stream.read(&mut chunk).unwrap();
            request.extend_from_slice(&chunk[..got]);
        }
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .unwrap();
        String::from_utf8(request).unwrap()
    });
    assert_eq!(scene.once(), (0, String::new()));
    let request = server.join().unwrap();
    assert!(
        request.starts_with("POST /anchors?host=1 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.ends_with(&format!("\r\n\r\n{checkpoint}")),
        "{request}"
    );
}

#[test]
fn checkpoints_are_sent_over_segments_packed_or_not_and_go_on_in_the_next() {
    let scene = Scene::new("");
    let anchor = scene.path("anchor");
    scene.configure(&format!(
        "[[anchor]]\nkind = \"file\"\npath = \"{}\"\n",
        anchor.display()
    ));
    let ledger = scene.logs().join("ledger");
    fs::create_dir(&ledger).unwrap();
    let checkpoints: Vec<String> = (1..=4).map(|seq| entry(seq, "checkpoint") + "\n").collect();
    let packed = zstd::encode_all(checkpoints[0].as_bytes(), 0).unwrap();
    fs::write(ledger.join("ledger.jsonl.zst"), packed).unwrap();
    fs::write(ledger.join("ledger.0002.jsonl"), &checkpoints[1]).unwrap();
    let sent = || fs::read_to_string(&anchor).unwrap();
    assert_eq!(scene.once(), (0, String::new()));
    assert_eq!(sent(), checkpoints[..2].concat());
    // The one that was read is closed and packed, and another goes on.
    let closed = checkpoints[1..3].concat();
    let packed = zstd::encode_all(closed.as_bytes(), 0).unwrap();
    fs::write(ledger.join("ledger.0002.jsonl.zst"), packed).unwrap();
    fs::remove_file(ledger.join("ledger.0002.jsonl")).unwrap();
    fs::write(ledger.join("ledger.0003.jsonl"), &checkpoints[3]).unwrap();
    assert_eq!(scene.once(), (0, String::new()));
    assert_eq!(scene.once(), (0, String::new()));
    assert_eq!(sent(), checkpoints.concat());
}

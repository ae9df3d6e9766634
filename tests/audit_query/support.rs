//! Logs in the writer's form with records of any event, and the program that searches them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use portcullis::audit::ChainHash;
use portcullis::ids::SessionId;
use tempfile::TempDir;

/// A log being written.
pub(crate) struct Book {
    pub(crate) session: SessionId,
    user: String,
    pub(crate) at: Timestamp,
    seq: u64,
    prev: ChainHash,
    pub(crate) text: String,
}

impl Book {
    pub(crate) fn new(user: &str, at: &str) -> Self {
        let session = SessionId::generate();
        Self {
            session,
            user: user.into(),
            at: at.parse().unwrap(),
            seq: 0,
            prev: ChainHash::genesis(session),
            text: String::new(),
        }
    }

    /// Appends a record, a second after the one before.
    pub(crate) fn put(&mut self, event: &str, rest: &str) -> &mut Self {
        self.seq += 1;
        self.at = self.at.checked_add(SignedDuration::from_secs(1)).unwrap();
        let prev = String::from_utf8(self.prev.to_hex().to_vec()).unwrap();
        let comma = if rest.is_empty() { "" } else { "," };
        let open = format!(
            r#"{{"v":1,"seq":{},"ts":"{:.6}","host_id":"00112233aabbccdd","session":"{}","user":{},"event":"{event}"{comma}{rest},"prev":"{prev}""#,
            self.seq,
            self.at,
            self.session,
            serde_json::to_string(&self.user).unwrap(),
        );
        self.prev = self.prev.follow(open.as_bytes());
        let hash = String::from_utf8(self.prev.to_hex().to_vec()).unwrap();
        self.text.extend([&open, ",\"hash\":\"", &hash, "\"}\n"]);
        self
    }

    pub(crate) fn started(&mut self) -> &mut Self {
        self.put(
            "session.started",
            r#""argv":["codex","exec","fix <b>it</b>"],"profile":"codex","mode":"workspace-write","workspace":"/home/u/w","generation":"0123456789abcdef","isolation":{"bwrap":"bubblewrap 0.8.0","landlock_abi":4,"seccomp_allowed":301,"shortfalls":[]}"#,
        )
    }

    pub(crate) fn decided(
        &mut self,
        conn: u64,
        host: &str,
        verdict: &str,
        rest: &str,
    ) -> &mut Self {
        let rest = format!(
            r#""conn":{conn},"transport":"connect","host":"{host}","port":443,{rest}"verdict":"{verdict}","generation":"0123456789abcdef""#
        );
        self.put("egress.decided", &rest)
    }

    pub(crate) fn closed(&mut self, conn: u64, up: u64, down: u64) -> &mut Self {
        let rest = format!(
            r#""conn":{conn},"bytes_up":{up},"bytes_down":{down},"ms":5,"ended_by":"client""#
        );
        self.put("egress.closed", &rest)
    }

    pub(crate) fn ended(&mut self) -> &mut Self {
        self.put("session.ended", r#""status":{"exited":0},"ms":60000"#)
    }

    /// Writes the log into its only segment.
    pub(crate) fn save(&self, folder: &Folder) -> PathBuf {
        let path = folder.logs().join(format!("{}.jsonl", self.session));
        fs::write(&path, &self.text).unwrap();
        path
    }
}

/// A folder of logs, and a cache for its index.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.logs()).unwrap();
        folder
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.0.path().join("logs")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    /// The index's file.
    pub(crate) fn index(&self) -> PathBuf {
        let files = fs::read_dir(self.cache().join("portcullis")).unwrap();
        let mut files = files.map(|entry| entry.unwrap().path());
        files
            .find(|path| path.extension().is_some_and(|end| end == "sqlite"))
            .unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.arg("audit").args(arguments).arg("--dir");
        command.arg(self.logs()).env("XDG_CACHE_HOME", self.cache());
        command
    }

    pub(crate) fn audit(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output().unwrap();
        Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The records that are found, oldest first, as the user's first letter and their number; and what was
    /// said meanwhile.
    pub(crate) fn found(&self, filters: &[&str]) -> (String, String) {
        let ran = self.audit(&[&["query", "--json", "--oldest-first"], filters].concat());
        assert_eq!(ran.code, 0, "{filters:?}: {}", ran.err);
        (numbers(&ran.out), ran.err)
    }
}

/// `a1 a2 b7` of records as JSON.
pub(crate) fn numbers(json: &str) -> String {
    let number = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let user = record["user"].as_str().unwrap();
        format!("{}{}", &user[..1], record["seq"])
    };
    json.lines().map(number).collect::<Vec<_>>().join(" ")
}

#[derive(Debug, PartialEq)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A session of alice's with something of everything.
pub(crate) fn alice() -> Book {
    let mut book = Book::new("alice", "2026-03-01T10:00:00Z");
    let pip = r#""rule":"r1","thread":"t-1","process":{"pid":7,"host_pid":107,"exe":"/usr/bin/pip","argv":["pip","install","flask"],"parents":[]},"#;
    let curl = r#""method":"POST","path":"/repos/acme/secret","reason":"host_not_allowed","process":{"pid":8,"host_pid":108,"exe":"/usr/bin/curl","argv":["curl"],"parents":[]},"#;
    book.started()
        .decided(1, "api.example.com", "allow", pip)
        .put(
            "dns.query",
            r#""conn":1,"name":"api.example.com","addresses":["192.0.2.1"],"refused":[]"#,
        )
        .put(
            "http.exchanged",
            r#""conn":1,"method":"GET","version":"HTTP/1.1","path":"/repos/acme/issues","status":404,"request_bytes":0,"response_bytes":12,"ms":5,"ended_by":"client""#,
        )
        .decided(2, "example.com", "deny", curl)
        .closed(1, 10, 20)
        .decided(3, "evil.test", "ask", r#""rule":"r2","#)
        .put(
            "approval.asked",
            r#""question":1,"conn":3,"host":"evil.test","port":443"#,
        )
        .put(
            "approval.answered",
            r#""question":1,"end":"denied","by":"carol""#,
        )
        .put(
            "egress.refused",
            r#""conn":9,"transport":"connect","reason":"malformed","detail":"odd bytes here""#,
        )
        .ended();
    book
}

/// One of bob's, a day later.
pub(crate) fn bob() -> Book {
    let mut book = Book::new("bob", "2026-03-02T10:00:00Z");
    let python = r#""method":"GET","path":"/acme/repos","rule":"r1","process":{"pid":7,"host_pid":107,"exe":"/usr/local/bin/python","argv":["python"],"parents":[]},"#;
    book.started()
        .decided(1, "api.example.com", "allow", python)
        .put(
            "http.exchanged",
            r#""conn":1,"method":"GET","version":"HTTP/1.1","status":200,"request_bytes":0,"response_bytes":12,"ms":5,"ended_by":"client""#,
        )
        .closed(1, 1000, 2000)
        .ended();
    book
}

pub(crate) fn both() -> (Folder, Book, Book) {
    let (folder, alice, bob) = (Folder::new(), alice(), bob());
    alice.save(&folder);
    bob.save(&folder);
    (folder, alice, bob)
}

pub(crate) fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

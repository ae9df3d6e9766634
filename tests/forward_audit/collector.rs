//! OpenTelemetry's own definitions read what is sent: a receiver in Python with the package opentelemetry-proto.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::scene::{Running, Scene, free_port, repeats_only_at_seams, seqs, wait_for};

/// Answers 503 to the first request, then takes everything and writes each record as a line.
const COLLECTOR: &str = r#"
import http.server, json, sys
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

refused = []
out = open(sys.argv[2], "a")

class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        assert self.path == "/v1/logs" and self.headers["content-type"] == "application/x-protobuf"
        body = self.rfile.read(int(self.headers["content-length"]))
        request = ExportLogsServiceRequest.FromString(body)
        known = ExportLogsServiceRequest.FromString(body)
        known.DiscardUnknownFields()
        assert known.ByteSize() == len(body), "fields that are not in the definition"
        status = 200 if refused else 503
        refused.append(1)
        answer = ExportLogsServiceResponse().SerializeToString()
        if status == 200:
            for resource in request.resource_logs:
                for scope in resource.scope_logs:
                    for record in scope.log_records:
                        whole = MessageToDict(record)
                        whole["resource"] = MessageToDict(resource.resource)["attributes"]
                        out.write(json.dumps(whole) + "\n")
            out.flush()
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_): pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Collector).serve_forever()
"#;

fn packages() -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("collector-packages");
    if !folder.is_dir() {
        let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let made = Command::new("/usr/bin/python3")
            .args([
                "-m",
                "pip",
                "install",
                "-q",
                "opentelemetry-proto==1.38.0",
                "--target",
            ])
            .arg(fresh.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        drop(fs::rename(fresh.path(), &folder));
    }
    folder
}

#[test]
fn a_collector_reads_every_record_and_what_it_refused_comes_again() {
    let port = free_port();
    let scene = Scene::new(&format!(
        "[[forward]]\nname = \"otel\"\nkind = \"otlp\"\naddress = \"http://127.0.0.1:{port}\"\n"
    ));
    let out = scene.path("received");
    let mut collector = Command::new("/usr/bin/python3");
    collector
        .env("PYTHONPATH", packages())
        .args(["-c", COLLECTOR, &port.to_string()]);
    let _collector = Running(collector.arg(&out).stdin(Stdio::null()).spawn().unwrap());
    wait_for("the collector", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let mut session = scene.session("alice");
    session.denials(700);
    let (code, said) = scene.once();
    assert_eq!(code, 1);
    assert!(said.contains("otel: the receiver answered 503"), "{said}");
    assert_eq!(scene.once(), (0, String::new()));

    let text = fs::read_to_string(&out).unwrap();
    let records: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let body =
        |record: &serde_json::Value| record["body"]["stringValue"].as_str().unwrap().to_owned();
    let bodies: Vec<_> = records.iter().map(body).collect();
    repeats_only_at_seams(&seqs(&bodies, session.id), 700, 0);
    let one = &records[6];
    assert_eq!(one["eventName"], "portcullis.egress.decided");
    assert_eq!(one["severityText"], "INFO2");
    let attribute = |of: &serde_json::Value, name: &str| {
        let all = of.as_array().unwrap().iter();
        let found = all
            .filter(|one| one["key"] == name)
            .map(|one| one["value"].clone());
        found.collect::<Vec<_>>()
    };
    let text = |value: &str| vec![serde_json::json!({ "stringValue": value })];
    assert_eq!(
        attribute(&one["attributes"], "server.address"),
        text("evil.test")
    );
    assert_eq!(
        attribute(&one["attributes"], "portcullis.session"),
        text(&session.id.to_string())
    );
    assert_eq!(
        attribute(&one["resource"], "host.id"),
        text("00112233aabbccdd")
    );
    let time: u64 = one["timeUnixNano"].as_str().unwrap().parse().unwrap();
    assert!(time > 1_700_000_000_000_000_000);
}

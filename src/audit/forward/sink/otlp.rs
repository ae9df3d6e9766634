//! OpenTelemetry logs: OTLP 1.x over HTTP with Protobuf (opentelemetry-proto, `logs/v1`).

use std::path::Path;

use prost::Message;

use super::super::address::Address;
use super::super::source::Item;
use super::SinkError;
use super::http::Post;
use crate::audit::export::Seen;

/// A collector.
pub(in super::super) struct Otlp {
    post: Post,
}

impl Otlp {
    pub(super) fn new(address: &Address, ca: Option<&Path>) -> Result<Self, SinkError> {
        let mut address = address.clone();
        if address.path == "/" {
            address.path = "/v1/logs".into();
        }
        let post = Post::new(&address, ca)?;
        Ok(Self { post })
    }

    pub(super) async fn send(&self, items: &[Item]) -> Result<Option<String>, SinkError> {
        let body = request(items).encode_to_vec();
        let answer = self
            .post
            .post("application/x-protobuf", body.into())
            .await?;
        let answer = Response::decode(answer).unwrap_or_default();
        // A client must not send these again: it would not change the collector's mind (OTLP, "Partial Success").
        let rejected = answer
            .partial_success
            .filter(|partial| partial.rejected > 0);
        Ok(rejected.map(|partial| {
            let why: String = partial.message.chars().take(200).collect();
            let (rejected, all) = (partial.rejected, items.len());
            format!(
                "the collector took {all} records and rejected {rejected} of them for good: {why}"
            )
        }))
    }
}

fn request(items: &[Item]) -> Request {
    let host = items.first().map(|item| item.seen.host_id.as_str());
    let resource = [
        ("service.name", Some("portcullis")),
        ("service.version", Some(env!("CARGO_PKG_VERSION"))),
        ("host.id", host),
    ];
    let attributes = resource
        .into_iter()
        .filter_map(|(name, value)| Some(text(name, value?)));
    Request {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource {
                attributes: attributes.collect(),
            }),
            scope_logs: vec![ScopeLogs {
                scope: Some(Scope {
                    name: "portcullis.audit".into(),
                    version: env!("CARGO_PKG_VERSION").into(),
                }),
                log_records: items.iter().map(record).collect(),
            }],
        }],
    }
}

fn record(item: &Item) -> LogRecord {
    let seen = &item.seen;
    let (number, severity) = match seen.event.as_str() {
        "gate.lost" | "witness.lost" | "ledger.lost" | "log.resumed" | "log.sync_failed"
        | "records.lost" | "policy.rejected" => (13, "WARN"),
        _ if seen.reason().is_some() => (10, "INFO2"),
        _ => (9, "INFO"),
    };
    LogRecord {
        time: u64::try_from(seen.ts.as_nanosecond()).unwrap_or_default(),
        observed: u64::try_from(seen.ts.as_nanosecond()).unwrap_or_default(),
        severity_number: number,
        severity_text: severity.into(),
        body: Some(AnyValue {
            value: Some(Value::Text(item.text.clone())),
        }),
        attributes: attributes(seen),
        event_name: format!("portcullis.{}", seen.event),
    }
}

/// Names of OpenTelemetry's semantic conventions where there is one.
fn attributes(seen: &Seen) -> Vec<KeyValue> {
    let process = seen.process().unwrap_or_default();
    let reason = seen.reason();
    let texts = [
        ("portcullis.session", Some(seen.session.as_str())),
        ("portcullis.event", Some(seen.event.as_str())),
        ("portcullis.verdict", seen.text("verdict")),
        ("portcullis.reason", reason.as_deref()),
        ("portcullis.rule", seen.text("rule")),
        ("user.name", Some(seen.user.as_str())),
        ("server.address", seen.text("host")),
        ("http.request.method", seen.text("method")),
        ("url.path", seen.text("path")),
        ("process.executable.path", process.exe),
        ("process.command_line", process.command_line.as_deref()),
    ];
    let numbers = [
        ("portcullis.seq", Some(seen.seq)),
        ("portcullis.conn", seen.conn()),
        ("server.port", seen.number("port")),
        ("http.response.status_code", seen.number("status")),
        ("process.pid", process.host_pid),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(name, value)| Some(text(name, value?)));
    let numbers = numbers.into_iter().filter_map(|(name, value)| {
        let value = i64::try_from(value?).ok()?;
        Some(KeyValue {
            key: name.into(),
            value: Some(AnyValue {
                value: Some(Value::Number(value)),
            }),
        })
    });
    texts.chain(numbers).collect()
}

fn text(name: &str, value: &str) -> KeyValue {
    KeyValue {
        key: name.into(),
        value: Some(AnyValue {
            value: Some(Value::Text(value.into())),
        }),
    }
}

/// `ExportLogsServiceRequest`.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    log_records: Vec<LogRecord>,
}

/// `InstrumentationScope`.
#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct LogRecord {
    #[prost(fixed64, tag = "1")]
    time: u64,
    #[prost(int32, tag = "2")]
    severity_number: i32,
    #[prost(string, tag = "3")]
    severity_text: String,
    #[prost(message, optional, tag = "5")]
    body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
    #[prost(fixed64, tag = "11")]
    observed: u64,
    #[prost(string, tag = "12")]
    event_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// `ExportLogsServiceResponse`.
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    message: String,
}

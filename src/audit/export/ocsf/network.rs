//! Connections, requests and names.

use serde_json::{Map, Value, json};

use super::super::Seen;
use super::super::row::names;
use super::super::seen::{address, authority};
use super::envelope::{DNS, Event, HTTP, NETWORK, Outcome, process_object};
use super::{Connection, Session};

/// Methods that are activities of their own.
const METHODS: [(&str, u64, &str); 9] = [
    ("CONNECT", 1, "Connect"),
    ("DELETE", 2, "Delete"),
    ("GET", 3, "Get"),
    ("HEAD", 4, "Head"),
    ("OPTIONS", 5, "Options"),
    ("POST", 6, "Post"),
    ("PUT", 7, "Put"),
    ("TRACE", 8, "Trace"),
    ("PATCH", 9, "Patch"),
];

/// A request was judged.
pub(super) fn decided(session: &mut Session, seen: &Seen) -> Event {
    let outcome = match seen.text("verdict") {
        Some("allow") => Outcome::Allowed,
        Some("ask") => Outcome::Asked,
        _ => Outcome::Blocked,
    };
    let request = seen.is_http().then(|| request(seen));
    let connection = Connection {
        endpoint: endpoint(seen.text("host"), seen.port()),
        request,
        process: seen.process().as_ref().and_then(process_object),
    };
    let mut event = match (&connection.request, outcome) {
        (Some(_), _) => http(seen.text("method")),
        (None, Outcome::Allowed) => Event::new(&NETWORK, 1, "Open"),
        (None, Outcome::Asked) => Event::new(&NETWORK, 99, "Ask"),
        (None, _) => Event::new(&NETWORK, 5, "Refuse"),
    };
    event.outcome(outcome);
    event.mapped(&["host", "port", "verdict"]);
    if connection.request.is_some() {
        event.mapped(&["method", "path"]);
    }
    endpoints(&mut event, seen, &connection);
    session.remember(seen.conn(), connection);
    event
}

/// What became of one that was judged.
pub(super) fn followed(session: &mut Session, seen: &Seen) -> Event {
    let known = seen.conn().and_then(|conn| session.connections.get(&conn));
    let connection = known.cloned().unwrap_or_default();
    let method = connection.request.as_ref();
    let method = method.and_then(|request| request.get("http_method")?.as_str());
    let of = |activity, name| match &connection.request {
        Some(_) => http(method),
        None => Event::new(&NETWORK, activity, name),
    };
    let mut event = match seen.event.as_str() {
        "egress.dialed" => of(99, "Dial"),
        "egress.refused" => of(4, "Fail"),
        _ => of(2, "Close"),
    };
    endpoints(&mut event, seen, &connection);
    match seen.event.as_str() {
        "egress.dialed" => dialed(&mut event, seen, &connection),
        "egress.refused" => event.outcome(match seen.reason().as_deref() {
            Some("resolve_failed" | "dial_failed" | "timed_out" | "upstream_proxy_failed") => {
                Outcome::Failed
            }
            _ => Outcome::Blocked,
        }),
        _ => {
            traffic(&mut event, seen);
            if let Some(ms) = event.take_number(seen, &["ms"]) {
                event.set("duration", ms.into());
            }
        }
    }
    event
}

fn dialed(event: &mut Event, seen: &Seen, connection: &Connection) {
    let dialed: Option<std::net::SocketAddr> =
        seen.text("address").and_then(|text| text.parse().ok());
    let Some(dialed) = dialed else {
        return;
    };
    let (ip, port) = (dialed.ip().to_string(), dialed.port());
    event.mapped(&["address"]);
    if let Some(via) = event.take(seen, &["via"]) {
        let proxy = json!({ "name": via, "ip": ip, "port": port });
        event.set_with("network_proxy", "proxy_endpoint", proxy);
        return;
    }
    let mut endpoint = connection.endpoint.as_object().cloned().unwrap_or_default();
    endpoint.insert("ip".into(), ip.into());
    endpoint.insert("port".into(), port.into());
    event.set("dst_endpoint", Value::Object(endpoint));
}

/// A request was answered.
pub(super) fn exchanged(session: &mut Session, seen: &Seen) -> Event {
    let known = seen.conn().and_then(|conn| session.connections.get(&conn));
    let mut connection = known.cloned().unwrap_or_default();
    if connection.endpoint.is_null() {
        connection.endpoint = endpoint(seen.text("host"), seen.port());
    }
    let method = connection.request.as_ref();
    let method = method.and_then(|request| request.get("http_method")?.as_str());
    let method = seen.text("method").or(method).map(str::to_owned);
    let mut event = http(method.as_deref());
    let mut request = connection.request.take().unwrap_or_else(|| request(seen));
    if let Some(request) = request.as_object_mut() {
        if METHODS
            .iter()
            .any(|(known, ..)| Some(*known) == method.as_deref())
        {
            event.mapped(&["method"]);
        }
        if let Some(version) = event.take(seen, &["version"]) {
            request.insert("version".into(), version.into());
        }
        if let Some(bytes) = seen.any_number(names::UP) {
            request.insert("body_length".into(), bytes.into());
        }
    }
    connection.request = Some(request);
    endpoints(&mut event, seen, &connection);
    let mut response = Map::new();
    if let Some(status) = event.take_number(seen, &["status"]) {
        response.insert("code".into(), status.into());
        if let Some(media_type) = event.take(seen, &["response_type"]) {
            response.insert("content_type".into(), media_type.into());
        }
        if let Some(bytes) = seen.any_number(names::DOWN) {
            response.insert("body_length".into(), bytes.into());
        }
        if let Some(ms) = event.take_number(seen, &["first_byte_ms"]) {
            response.insert("latency".into(), ms.into());
        }
        event.set("http_response", Value::Object(response));
    }
    traffic(&mut event, seen);
    if let Some(ms) = event.take_number(seen, &["ms"]) {
        event.set("duration", ms.into());
    }
    event
}

/// A name was asked for, or looked up.
pub(super) fn dns(session: &mut Session, seen: &Seen) -> Event {
    let known = seen.conn().and_then(|conn| session.connections.get(&conn));
    let connection = known.cloned().unwrap_or_default();
    let mut event = match seen.event.as_str() {
        "dns.asked" => Event::new(&DNS, 1, "Query"),
        "dns.query" => Event::new(&DNS, 2, "Response"),
        _ => Event::new(&DNS, 99, "Dropped"),
    };
    event.set("src_endpoint", jail(seen));
    if !connection.endpoint.is_null() {
        event.set("dst_endpoint", connection.endpoint);
    }
    let mut query = Map::new();
    if let Some(name) = seen.text("name").filter(|name| !name.is_empty()) {
        event.mapped(&["name"]);
        query.insert("hostname".into(), name.into());
        if let Some(kind) = event.take(seen, &["kind"]) {
            query.insert("type".into(), kind.into());
        }
        query.insert("class".into(), "IN".into());
        event.set("query", Value::Object(query));
    }
    if let Some(count) = event.take_number(seen, &["count"]) {
        event.set("count", count.into());
        event.outcome(Outcome::Blocked);
    }
    if let Some(addresses) = seen.fields.get("addresses").and_then(Value::as_array) {
        event.mapped(&["addresses"]);
        let answer = |address: &Value| {
            let text = address.as_str()?;
            let kind = if text.contains(':') { "AAAA" } else { "A" };
            Some(json!({ "rdata": text, "type": kind, "class": "IN" }))
        };
        let answers: Vec<_> = addresses.iter().filter_map(answer).collect();
        event.set("answers", answers.into());
        event.outcome(Outcome::Allowed);
    }
    let answer = match seen.text("answer") {
        Some("address" | "no_address") => Some((0, "NoError", Outcome::Allowed)),
        Some("refused") => Some((5, "Refused", Outcome::Blocked)),
        Some("malformed") => Some((1, "FormError", Outcome::Failed)),
        Some("full") => Some((2, "ServError", Outcome::Blocked)),
        _ => None,
    };
    if let Some((id, name, outcome)) = answer {
        event.set("rcode_id", id.into());
        event.set("rcode", name.into());
        event.outcome(outcome);
    }
    event
}

fn http(method: Option<&str>) -> Event {
    let known = METHODS.into_iter().find(|(name, ..)| Some(*name) == method);
    match (known, method) {
        (Some((_, activity, name)), _) => Event::new(&HTTP, activity, name),
        (None, Some(method)) => Event::new(&HTTP, 99, method),
        (None, None) => Event::new(&HTTP, 0, "Unknown"),
    }
}

/// The jail, and where it went.
fn endpoints(event: &mut Event, seen: &Seen, connection: &Connection) {
    event.set("src_endpoint", jail(seen));
    if !connection.endpoint.is_null() {
        event.set("dst_endpoint", connection.endpoint.clone());
    }
    if let Some(request) = &connection.request {
        event.set("http_request", request.clone());
    }
    let protocol = match seen.text("transport") {
        Some("socks5_udp") => (17, "udp"),
        _ => (6, "tcp"),
    };
    let mut info = json!({
        "direction_id": 2, "direction": "Outbound",
        "protocol_num": protocol.0, "protocol_name": protocol.1,
    });
    if let (Some(info), Some(conn)) = (info.as_object_mut(), seen.conn()) {
        info.insert("uid".into(), conn.to_string().into());
    }
    event.set("connection_info", info);
    event.mapped(&["conn"]);
}

fn jail(seen: &Seen) -> Value {
    json!({ "name": "jail", "uid": seen.session, "owner": { "name": seen.user } })
}

/// A host by name or by address. Null: nobody knows.
fn endpoint(host: Option<&str>, port: Option<u16>) -> Value {
    let Some(host) = host else {
        return Value::Null;
    };
    let mut endpoint = match address(host) {
        Some(address) => json!({ "ip": address.to_string() }),
        None => json!({ "hostname": host }),
    };
    if let (Some(endpoint), Some(port)) = (endpoint.as_object_mut(), port) {
        endpoint.insert("port".into(), port.into());
    }
    endpoint
}

/// The request as far as it is recorded: never its headers or query.
fn request(seen: &Seen) -> Value {
    let mut request = Map::new();
    let known = |method: &&str| METHODS.iter().any(|(name, ..)| name == method);
    if let Some(method) = seen.text("method").filter(known) {
        request.insert("http_method".into(), method.into());
    }
    if let Some(host) = seen.text("host") {
        let scheme = match seen.text("transport") {
            Some("forward") => "http",
            _ => "https",
        };
        let path = seen.text("path").unwrap_or("/");
        let whole = format!("{scheme}://{}{path}", authority(host, seen.port()));
        let mut url = json!({
            "scheme": scheme, "hostname": host, "path": path, "url_string": whole,
        });
        if let (Some(url), Some(port)) = (url.as_object_mut(), seen.port()) {
            url.insert("port".into(), port.into());
        }
        request.insert("url".into(), url);
    }
    Value::Object(request)
}

fn traffic(event: &mut Event, seen: &Seen) {
    let up = event.take_number(seen, names::UP);
    let down = event.take_number(seen, names::DOWN);
    if let Some((up, down)) = up.zip(down) {
        let all = up.saturating_add(down).min(i64::MAX.unsigned_abs());
        let traffic = json!({ "bytes_out": up, "bytes_in": down, "bytes": all });
        event.set("traffic", traffic);
    }
}

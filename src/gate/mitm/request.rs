//! One request within TLS to one [`EgressRequest`], without guessing: it must be for exactly the host
//! that the tunnel was permitted for. A raw HTTP/1.1 head was checked by the guard in front of hyper;
//! duplicate pseudo-fields, fields of one hop and the like never leave the HTTP/2 library.

use hyper::body::Body;
use hyper::ext::Protocol;
use hyper::header::{HOST, HeaderMap, HeaderValue, UPGRADE};
use hyper::http::uri::PathAndQuery;
use hyper::{Method as HttpMethod, Request, Version};

use crate::gate::authority::parse_authority;
use crate::gate::authorize::Destination;
use crate::gate::dns_over_https;
use crate::gate::hop::{self, ProtectedNamed};
use crate::gate::http_request::{Malformed, PROTECTED, check_mode, method};
use crate::gate::websocket;
use crate::policy::{DenyReason, EgressRequest, Method, NetworkMode, Transport};

/// Why a request is not one for the permitted host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It has no one reading.
    Malformed(&'static str),
    /// It is for another host: fronting, or a connection used for a second host that its certificate
    /// does not cover (RFC 9110 section 7.4).
    Misdirected(String),
}

impl From<Malformed> for Unreadable {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.0)
    }
}

impl Unreadable {
    /// For the log and for the client.
    pub(super) fn told(self) -> (DenyReason, String) {
        match self {
            Self::Malformed(why) => (DenyReason::Malformed, why.to_owned()),
            Self::Misdirected(what) => (DenyReason::SniMismatch, what),
        }
    }
}

/// Reads what is asked for.
pub(super) fn read<B: Body>(
    request: &Request<B>,
    permitted: &Destination,
    mode: NetworkMode,
) -> Result<EgressRequest, Unreadable> {
    let extended = if request.version() == Version::HTTP_2 {
        read_http2(request, permitted)?
    } else {
        read_http1(request, permitted)?
    };
    let websocket = extended || asks_for_websocket(request)?;
    let method = if extended {
        Method::parse("GET").ok_or(Malformed("a method that is not forwarded"))?
    } else {
        method(request)?
    };
    dns_over_https::check(request.headers())?;
    // An extended CONNECT has no content: what follows it is the WebSocket's.
    check_mode(request, mode)?;
    hop::check_request(request.headers()).map_err(|ProtectedNamed| Malformed(PROTECTED))?;
    let path = match request.uri().path() {
        "*" if method.as_str() == "OPTIONS" => "*",
        path if path.starts_with('/') => path,
        _ => {
            return Err(Unreadable::Malformed(
                "a path that does not start with a slash",
            ));
        }
    };
    Ok(EgressRequest {
        transport: Transport::Inspected,
        host: permitted.host.clone(),
        port: permitted.port,
        method: Some(method),
        path: Some(path.to_owned()),
        websocket,
    })
}

/// Origin-form, or absolute-form for the same origin (RFC 9112 section 3.2.2 has servers accept it);
/// exactly one `Host`.
fn read_http1<B>(request: &Request<B>, permitted: &Destination) -> Result<bool, Unreadable> {
    if request.method() == HttpMethod::CONNECT {
        return Err(Unreadable::Malformed("CONNECT within TLS"));
    }
    let uri = request.uri();
    match (uri.scheme_str(), uri.authority()) {
        (None, None) => {}
        (Some("https"), Some(authority)) => same_host(authority.as_str(), permitted)?,
        _ => return Err(Unreadable::Malformed("a target that is not of this origin")),
    }
    let named = one_host(request.headers())?;
    same_host(named.ok_or(Malformed("no Host"))?, permitted)?;
    Ok(false)
}

/// RFC 9113 section 8.3.1. Answers whether it is an extended CONNECT (RFC 8441) for a WebSocket.
fn read_http2<B>(request: &Request<B>, permitted: &Destination) -> Result<bool, Unreadable> {
    let uri = request.uri();
    let protocol = request.extensions().get::<Protocol>();
    let extended = match (request.method() == HttpMethod::CONNECT, protocol) {
        (true, Some(protocol)) if protocol.as_str() == "websocket" => true,
        (true, _) => return Err(Unreadable::Malformed("CONNECT within TLS")),
        (false, Some(_)) => return Err(Unreadable::Malformed(":protocol without CONNECT")),
        (false, None) => false,
    };
    if uri.scheme_str() != Some("https") {
        return Err(Unreadable::Malformed("a :scheme other than https"));
    }
    // As the guard in front of HTTP/1.1 has it: hyper lets bytes beyond ASCII pass.
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        let why = "the target has a byte that no URI has";
        return Err(Unreadable::Malformed(why));
    }
    let authority = uri.authority().ok_or(Malformed("no :authority"))?;
    same_host(authority.as_str(), permitted)?;
    if let Some(named) = one_host(request.headers())? {
        same_host(named, permitted)?;
    }
    Ok(extended)
}

fn one_host(headers: &HeaderMap) -> Result<Option<&str>, Malformed> {
    let mut named = headers.get_all(HOST).iter();
    let first = named.next();
    if named.next().is_some() {
        return Err(Malformed("more than one Host"));
    }
    let text = |value: &'_ HeaderValue| value.to_str().is_ok();
    match first {
        Some(value) if !text(value) => Err(Malformed("the Host field is not a host")),
        first => Ok(first.and_then(|value| value.to_str().ok())),
    }
}

/// The host must be the permitted one, the port too where there is one.
fn same_host(named: &str, permitted: &Destination) -> Result<(), Unreadable> {
    let (host, port) =
        parse_authority(named).ok_or(Malformed("not exactly a host and a port are named"))?;
    if host == permitted.host && port.is_none_or(|port| port == permitted.port) {
        return Ok(());
    }
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    Err(Unreadable::Misdirected(format!(
        "the tunnel is for {}:{}, the request within for {host}{port}",
        permitted.host, permitted.port
    )))
}

/// Whether an HTTP/1.1 request asks for a WebSocket. No other protocol is switched to, and within TLS
/// no client offers one by habit.
fn asks_for_websocket<B: Body>(request: &Request<B>) -> Result<bool, Unreadable> {
    let asked = websocket::is_asked_for(request)?;
    if !asked && request.headers().contains_key(UPGRADE) {
        return Err(Unreadable::Malformed("an Upgrade other than to websocket"));
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::http_request::to_origin;
    use crate::ids::ConnId;
    use crate::policy::{Handling, Host, Port};
    use http_body_util::Empty;
    use hyper::body::Bytes;

    fn permitted(port: u16) -> Destination {
        Destination {
            by: crate::gate::witness::By::default(),
            conn: ConnId(1),
            transport: Transport::Connect,
            host: Host::parse("a.test").unwrap(),
            port: Port::new(port).unwrap(),
            handling: Handling::Inspect,
            rule: None,
        }
    }

    fn request(
        version: Version,
        (method, uri): (&str, &str),
        fields: &[(&str, &str)],
    ) -> Request<Empty<Bytes>> {
        let mut request = Request::builder().version(version).method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(Empty::new()).unwrap()
    }

    fn asked(
        version: Version,
        line: (&str, &str),
        fields: &[(&str, &str)],
    ) -> Result<String, &'static str> {
        let request = request(version, line, fields);
        match read(&request, &permitted(443), NetworkMode::Full) {
            Ok(asked) => Ok(format!(
                "{} {}{}",
                asked.method.unwrap(),
                asked.path.unwrap(),
                if asked.websocket { " ws" } else { "" }
            )),
            Err(Unreadable::Malformed(why)) => Err(why),
            Err(Unreadable::Misdirected(_)) => Err("misdirected"),
        }
    }

    #[test]
    fn a_request_of_http1_is_for_the_permitted_host_or_refused() {
        let get = |uri, host| asked(Version::HTTP_11, ("GET", uri), &[("host", host)]);
        for host in ["a.test", "A.TEST", "a.test:443"] {
            assert_eq!(get("/x?q", host), Ok("GET /x".into()), "{host}");
        }
        for host in ["b.test", "a.test:80", "a.test.b.test", "127.0.0.1"] {
            assert_eq!(get("/x", host), Err("misdirected"), "{host}");
        }
        assert_eq!(get("https://a.test/x", "a.test"), Ok("GET /x".into()));
        assert_eq!(get("https://b.test/x", "a.test"), Err("misdirected"));
        for (uri, host) in [
            ("http://a.test/x", "a.test"),
            ("*", "a.test"),
            ("/x", "u@a.test"),
            ("/x", ""),
            ("/x", "a.test, b.test"),
        ] {
            let read = get(uri, host);
            assert!(
                read.is_err() && read != Err("misdirected"),
                "{uri} {host}: {read:?}"
            );
        }
        let none = asked(Version::HTTP_10, ("GET", "/"), &[]);
        assert_eq!(none, Err("no Host"));
        let twice = [("host", "a.test"), ("host", "a.test")];
        let twice = asked(Version::HTTP_11, ("GET", "/"), &twice);
        assert_eq!(twice, Err("more than one Host"));
        for method in ["TRACE", "get", "CONNECT", "BREW"] {
            let line = (
                method,
                if method == "CONNECT" {
                    "a.test:443"
                } else {
                    "/"
                },
            );
            assert!(
                asked(Version::HTTP_11, line, &[("host", "a.test")]).is_err(),
                "{method}"
            );
        }
        let options = asked(Version::HTTP_11, ("OPTIONS", "*"), &[("host", "a.test")]);
        assert_eq!(options, Ok("OPTIONS *".into()));
    }

    #[test]
    fn a_request_of_http2_is_for_the_permitted_host_or_refused() {
        let get = |uri, fields: &[_]| asked(Version::HTTP_2, ("GET", uri), fields);
        assert_eq!(get("https://a.test/x", &[]), Ok("GET /x".into()));
        let agreeing = [("host", "a.test")];
        assert_eq!(get("https://a.test:443/x", &agreeing), Ok("GET /x".into()));
        assert_eq!(get("https://b.test/x", &[]), Err("misdirected"));
        assert_eq!(get("https://b.test/x", &agreeing), Err("misdirected"));
        let other = [("host", "b.test")];
        assert_eq!(get("https://a.test/x", &other), Err("misdirected"));
        let twice = [("host", "a.test"), ("host", "b.test")];
        assert_eq!(get("https://a.test/x", &twice), Err("more than one Host"));
        let plain = get("http://a.test/x", &[]);
        assert_eq!(plain, Err("a :scheme other than https"));
        assert_eq!(get("/x", &[]), Err("a :scheme other than https"));
        let connect = asked(Version::HTTP_2, ("CONNECT", "a.test:443"), &[]);
        assert_eq!(connect, Err("CONNECT within TLS"));
        for path in ["https://a.test/\u{e9}", "https://a.test/x?\u{e9}"] {
            assert_eq!(get(path, &[]), Err("the target has a byte that no URI has"));
        }
    }

    #[test]
    fn an_upgrade_is_to_a_websocket_or_refused() {
        let good = [
            ("host", "a.test"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let upgrade = |method, fields: &[_]| asked(Version::HTTP_11, (method, "/ws"), fields);
        assert_eq!(upgrade("GET", &good), Ok("GET /ws ws".into()));
        for (at, value) in [(1, "close"), (2, "h2c"), (3, "8"), (4, "short")] {
            let mut fields = good;
            fields[at].1 = value;
            assert!(upgrade("GET", &fields).is_err(), "{value}");
        }
        assert!(upgrade("POST", &good).is_err());
    }

    #[test]
    fn the_origin_gets_what_was_judged_and_nothing_of_this_hop() {
        let line = ("GET", "https://a.test/x?q=1");
        let fields = [("connection", "x-mine"), ("x-mine", "1"), ("x-end", "2")];
        let sent = to_origin(request(Version::HTTP_11, line, &fields));
        assert_eq!(sent.uri(), "/x?q=1");
        let names: Vec<_> = sent
            .headers()
            .keys()
            .map(hyper::header::HeaderName::as_str)
            .collect();
        assert_eq!(names, ["x-end"]);
        // Judged as a path of `/`.
        let bare = request(Version::HTTP_2, ("GET", "https://a.test?q"), &[]);
        assert_eq!(bare.uri().path(), "/");
        let sent = to_origin(bare).uri().path_and_query().cloned();
        assert_eq!(sent.unwrap().as_str(), "/?q");
        let star = request(Version::HTTP_11, ("OPTIONS", "*"), &[]);
        assert_eq!(to_origin(star).uri(), "*");
    }
}

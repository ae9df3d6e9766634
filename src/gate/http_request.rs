//! One HTTP request to one [`EgressRequest`], without guessing. The raw head was checked by
//! [`super::head`]; here is what its words mean.

use hyper::header::{HOST, HeaderMap};
use hyper::{Method as HttpMethod, Request, Uri};

use crate::policy::{EgressRequest, Host, Method, NetworkMode, Port, Transport};

use super::authority::parse_authority;
use super::websocket;
use super::{dns_over_https, hop};

/// Methods that are forwarded: those of RFC 9110 but TRACE (it reflects headers), PATCH (RFC 5789),
/// QUERY, and WebDAV's, which svn and git's dumb transport use. Anything else, `get` included, is
/// not a request that the gate can read.
const FORWARDED: [&str; 18] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "QUERY",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "MERGE",
];

/// Fields by which frameworks let a POST be another method.
const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// What is said of a `Connection` that names a field which is not of one hop.
pub(super) const PROTECTED: &str = "Connection names a field it may not";

/// Why a request is not exactly one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// The door a request came through.
pub(super) fn transport<B>(request: &Request<B>) -> Transport {
    if request.method() == HttpMethod::CONNECT {
        Transport::Connect
    } else {
        Transport::Forward
    }
}

/// The server that a client takes us for, where it knows no proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    /// The host that it connected to.
    pub(super) host: Host,
    /// The port there.
    pub(super) port: Port,
}

/// Reads what is asked of a server: origin-form (RFC 9112 section 3.2.1), its `Host` the one that the client
/// connected to, by name or by the address that stands for it (`resolved`).
pub(super) fn read_for<B: hyper::body::Body>(
    request: &Request<B>,
    mode: NetworkMode,
    server: &Authority,
    resolved: impl Fn(Host) -> Host,
) -> Result<EgressRequest, Malformed> {
    let uri = request.uri();
    if transport(request) == Transport::Connect || uri.authority().is_some() {
        return Err(Malformed("a request for a proxy, sent to a server"));
    }
    check_mode(request, mode)?;
    dns_over_https::check(request.headers())?;
    let method = method(request)?;
    if let Some((host, port)) = read_host(request.headers())?
        && (resolved(host) != server.host || port.unwrap_or(Port::HTTP) != server.port)
    {
        return Err(Malformed("the Host field names another destination"));
    }
    // `OPTIONS *` speaks of the server as a whole, of which no rule does.
    let path = Some(uri.path()).filter(|path| path.starts_with('/'));
    let path = path.ok_or(Malformed("a path that does not start with a slash"))?;
    Ok(EgressRequest {
        transport: Transport::Forward,
        host: server.host.clone(),
        port: server.port,
        method: Some(method),
        path: Some(path.to_owned()),
        websocket: websocket::is_asked_for(request)?,
    })
}

/// Reads what is asked for.
pub(super) fn read<B: hyper::body::Body>(
    request: &Request<B>,
    mode: NetworkMode,
) -> Result<EgressRequest, Malformed> {
    match transport(request) {
        Transport::Connect => read_connect(request.uri(), request.headers()),
        Transport::Forward
        | Transport::Inspected
        | Transport::Socks5
        | Transport::Transparent
        | Transport::Socks5Udp => {
            check_mode(request, mode)?;
            read_forward(request)
        }
    }
}

/// Authority-form (RFC 9112 section 3.2.3).
fn read_connect(uri: &Uri, headers: &HeaderMap) -> Result<EgressRequest, Malformed> {
    let authority = uri.authority().filter(|_| uri.path_and_query().is_none());
    let authority = authority.ok_or(Malformed("CONNECT takes host:port"))?;
    let (host, port) = parse_authority(authority.as_str())
        .ok_or(Malformed("the target is not exactly a host and a port"))?;
    let port = port.ok_or(Malformed("CONNECT without a port"))?;
    // Clients of HTTP/1.0 send none, and some send it without the port.
    if let Some(named) = read_host(headers)?
        && (named.0 != host || named.1.is_some_and(|named| named != port))
    {
        return Err(Malformed("the Host field names another destination"));
    }
    Ok(EgressRequest {
        transport: Transport::Connect,
        host,
        port,
        method: None,
        path: None,
        websocket: false,
    })
}

/// Absolute-form (RFC 9112 section 3.2.2).
fn read_forward<B: hyper::body::Body>(request: &Request<B>) -> Result<EgressRequest, Malformed> {
    let method = method(request)?;
    dns_over_https::check(request.headers())?;
    let uri = request.uri();
    match uri.scheme_str() {
        Some("http") => {}
        Some(_) => return Err(Malformed("only http is forwarded; use CONNECT for https")),
        None => return Err(Malformed("a proxy request needs an absolute target")),
    }
    let authority = uri
        .authority()
        .ok_or(Malformed("a target without a host"))?;
    let (host, port) = parse_authority(authority.as_str())
        .ok_or(Malformed("the target is not exactly a host and a port"))?;
    let port = port.unwrap_or(Port::HTTP);
    // HTTP/1.0 has no Host; HTTP/1.1 without one was refused with the head.
    if let Some(named) = read_host(request.headers())?
        && (named.0 != host || named.1.unwrap_or(Port::HTTP) != port)
    {
        return Err(Malformed("the Host field names another destination"));
    }
    let path = match uri.path() {
        "" => "/",
        path if path.starts_with('/') => path,
        _ => return Err(Malformed("a path that does not start with a slash")),
    };
    Ok(EgressRequest {
        transport: Transport::Forward,
        host,
        port,
        method: Some(method),
        path: Some(path.to_owned()),
        websocket: websocket::is_asked_for(request)?,
    })
}

fn read_host(headers: &HeaderMap) -> Result<Option<(Host, Option<Port>)>, Malformed> {
    let Some(value) = headers.get(HOST) else {
        return Ok(None);
    };
    let named = value.to_str().ok().and_then(parse_authority);
    named
        .map(Some)
        .ok_or(Malformed("the Host field is not exactly a host and a port"))
}

/// The method, if it is one that is forwarded.
pub(super) fn method<B>(request: &Request<B>) -> Result<Method, Malformed> {
    Method::parse(request.method().as_str())
        .filter(|method| FORWARDED.contains(&method.as_str()))
        .ok_or(Malformed("a method that is not forwarded"))
}

/// The request without what is of the client's hop: origin-form, no field of one hop. `upstream` names
/// the host.
pub(super) fn to_origin<B>(request: Request<B>) -> Request<B> {
    let (mut head, body) = request.into_parts();
    head.uri = match head.uri.path_and_query() {
        // Not read again: the origin gets exactly what was judged.
        Some(path) if path.as_str().starts_with(['/', '*']) => Uri::from(path.clone()),
        // An empty path with a query; it was judged as `/`, which is also the default.
        Some(path) => ["/", path.as_str()].concat().parse().unwrap_or_default(),
        None => Uri::default(),
    };
    head.extensions.clear();
    hop::strip_request(&mut head.headers);
    Request::from_parts(head, body)
}

/// What `mode = "limited"` asks of a request that is in sight: nothing may be written, neither as content
/// of a method that only reads nor by a method in disguise.
pub(super) fn check_mode<B: hyper::body::Body>(
    request: &Request<B>,
    mode: NetworkMode,
) -> Result<(), Malformed> {
    if mode == NetworkMode::Full {
        return Ok(());
    }
    let reads = matches!(request.method().as_str(), "GET" | "HEAD" | "OPTIONS");
    if reads && !request.body().is_end_stream() {
        return Err(Malformed("content in a method that only reads"));
    }
    let overrides = |name: &&str| request.headers().contains_key(*name);
    if METHOD_OVERRIDES.iter().any(overrides) {
        return Err(Malformed("a field that overrides the method"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;
    use hyper::body::Bytes;

    fn request(method: &str, target: &str, host: Option<&str>) -> Request<Empty<Bytes>> {
        let mut request = Request::builder().method(method).uri(target);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        request.body(Empty::new()).unwrap()
    }

    fn asked(method: &str, target: &str, host: Option<&str>) -> Result<String, &'static str> {
        read(&request(method, target, host), NetworkMode::Full)
            .map(|r| format!("{}:{} {}", r.host, r.port, r.path.unwrap_or_default()))
            .map_err(|malformed| malformed.0)
    }

    #[test]
    fn a_request_names_exactly_one_destination_or_is_malformed() {
        let other = Err("the Host field names another destination");
        let target = Err("the target is not exactly a host and a port");
        for (method, uri, host, expected) in [
            (
                "GET",
                "http://a.test/x?q=1",
                Some("a.test"),
                Ok("a.test:80 /x"),
            ),
            ("GET", "http://a.test", Some("a.test:80"), Ok("a.test:80 /")),
            (
                "GET",
                "http://a.test:8080/",
                Some("a.test:8080"),
                Ok("a.test:8080 /"),
            ),
            ("GET", "http://a.test/", None, Ok("a.test:80 /")),
            ("GET", "http://a.test/", Some("b.test"), other),
            ("GET", "http://a.test:81/", Some("a.test"), other),
            (
                "GET",
                "http://a.test/",
                Some("a.test, b.test"),
                Err("the Host field is not exactly a host and a port"),
            ),
            ("GET", "http://u@a.test/", Some("a.test"), target),
            ("GET", "http://u:p@a.test:80/", Some("a.test"), target),
            ("GET", "http://a.test:/", Some("a.test"), target),
            (
                "GET",
                "/x",
                Some("a.test"),
                Err("a proxy request needs an absolute target"),
            ),
            (
                "GET",
                "https://a.test/",
                Some("a.test"),
                Err("only http is forwarded; use CONNECT for https"),
            ),
            (
                "GET",
                "ftp://a.test/",
                Some("a.test"),
                Err("only http is forwarded; use CONNECT for https"),
            ),
            (
                "TRACE",
                "http://a.test/",
                Some("a.test"),
                Err("a method that is not forwarded"),
            ),
            (
                "get",
                "http://a.test/",
                Some("a.test"),
                Err("a method that is not forwarded"),
            ),
            (
                "BREW",
                "http://a.test/",
                Some("a.test"),
                Err("a method that is not forwarded"),
            ),
            (
                "GET",
                "http://a.test/..hidden",
                Some("a.test"),
                Ok("a.test:80 /..hidden"),
            ),
            ("CONNECT", "a.test:443", None, Ok("a.test:443 ")),
            ("CONNECT", "a.test:443", Some("a.test"), Ok("a.test:443 ")),
            ("CONNECT", "a.test:443", Some("a.test:80"), other),
            ("CONNECT", "a.test:443", Some("b.test:443"), other),
            (
                "CONNECT",
                "a.test",
                Some("a.test"),
                Err("CONNECT without a port"),
            ),
            ("CONNECT", "u@a.test:443", Some("a.test"), target),
            (
                "CONNECT",
                "http://a.test:443/",
                Some("a.test"),
                Err("CONNECT takes host:port"),
            ),
        ] {
            let expected = expected.map(str::to_owned);
            assert_eq!(
                asked(method, uri, host),
                expected,
                "{method} {uri} {host:?}"
            );
        }
    }
}

//! The forms of one request: HTTP/1.1 (RFC 9112) and HTTP/2 (RFC 9113). Path and query are those that
//! were judged, the authority is the permit's; neither comes from a field of the client.

use hyper::header::{COOKIE, HOST, HeaderValue, PROXY_AUTHORIZATION, TE};
use hyper::http::uri::{Authority, Parts, PathAndQuery, Scheme};
use hyper::{HeaderMap, Request, Uri, Version};

use crate::gate::authorize::Destination;
use crate::gate::via::Forwarder;
use crate::policy::{Host, Port, Transport};

/// As an HTTP/1.1 connection takes it: in origin-form, or in absolute-form with the login of the proxy that
/// is at its end (RFC 9112 sections 3.2.1 and 3.2.2). The proxy's login never stays in a request: whoever
/// sends it next, over whichever connection, begins without. `None`: the host cannot be written as an
/// authority.
pub(super) fn for_http1<B>(
    request: &mut Request<B>,
    destination: &Destination,
    forwarder: Option<&Forwarder>,
) -> Option<()> {
    *request.version_mut() = Version::HTTP_11;
    let target = request.uri().path_and_query().cloned();
    *request.uri_mut() = match forwarder {
        None => target.map(Uri::from).unwrap_or_default(),
        Some(_) => absolute(target, destination)?,
    };
    let headers = request.headers_mut();
    headers.remove(PROXY_AUTHORIZATION);
    if let Some(login) = forwarder.and_then(Forwarder::login) {
        headers.insert(PROXY_AUTHORIZATION, login.clone());
    }
    if let Ok(host) = HeaderValue::try_from(authority(destination)) {
        headers.remove(HOST);
        headers.insert(HOST, host);
    }
    headers.remove(TE);
    join_cookies(headers);
    Some(())
}

/// As an HTTP/2 session takes it; with `trailers`, the client is given those of the answer (a gRPC server
/// insists on hearing it). `None`: the host cannot be written as an authority.
pub(super) fn for_http2<B>(
    request: &mut Request<B>,
    destination: &Destination,
    trailers: bool,
) -> Option<()> {
    *request.version_mut() = Version::HTTP_2;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(Authority::try_from(authority(destination)).ok()?);
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    let headers = request.headers_mut();
    headers.remove(PROXY_AUTHORIZATION);
    headers.remove(HOST);
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Some(())
}

/// `http://authority/path?query`. Only plain requests go to a proxy like that.
fn absolute(target: Option<PathAndQuery>, destination: &Destination) -> Option<Uri> {
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::try_from(authority(destination)).ok()?);
    parts.path_and_query = Some(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).ok()
}

/// RFC 9113 section 8.2.3: HTTP/2 may send one field in several; HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() > 1
        && let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, cookie);
    }
}

/// RFC 9110 section 7.2: without the port where it is the scheme's own.
fn authority(destination: &Destination) -> String {
    let host = match &destination.host {
        Host::Addr(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        host @ (Host::Addr(std::net::IpAddr::V4(_)) | Host::Name(_)) => host.to_string(),
    };
    let own = if destination.transport == Transport::Inspected {
        Port::HTTPS
    } else {
        Port::HTTP
    };
    if destination.port == own {
        host
    } else {
        format!("{host}:{}", destination.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnId;
    use crate::policy::Handling;

    fn destination(host: &str, port: u16) -> Destination {
        Destination {
            by: crate::gate::witness::By::default(),
            conn: ConnId(1),
            transport: Transport::Inspected,
            host: Host::parse(host).unwrap(),
            port: Port::new(port).unwrap(),
            handling: Handling::Inspect,
            rule: None,
        }
    }

    fn request(version: Version) -> Request<()> {
        Request::builder()
            .uri("/a?b=c")
            .version(version)
            .header(HOST, "evil.test")
            .header(COOKIE, "a=1")
            .header(COOKIE, "b=2")
            .header(PROXY_AUTHORIZATION, "Basic of another hop")
            .header("x-end", "1")
            .body(())
            .unwrap()
    }

    fn shown(request: &Request<()>) -> String {
        let mut fields: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        format!(
            "{} {:?} {}",
            request.uri(),
            request.version(),
            fields.join(", ")
        )
    }

    #[test]
    fn a_request_has_the_permits_authority_in_either_form() {
        for (host, port, expected) in [
            ("a.test", 443, "a.test"),
            ("a.test", 80, "a.test:80"),
            ("a.test", 8443, "a.test:8443"),
            ("127.0.0.1", 443, "127.0.0.1"),
            ("::1", 8443, "[::1]:8443"),
        ] {
            let destination = destination(host, port);
            let mut request = request(Version::HTTP_2);
            let h2 = format!(
                "https://{expected}/a?b=c HTTP/2.0 cookie: a=1, cookie: b=2, te: trailers, x-end: 1"
            );
            for_http2(&mut request, &destination, true).unwrap();
            assert_eq!(shown(&request), h2);
            // What an HTTP/2 session did not take may go over HTTP/1.1.
            for_http1(&mut request, &destination, None).unwrap();
            let h1 = format!("/a?b=c HTTP/1.1 cookie: a=1; b=2, host: {expected}, x-end: 1");
            assert_eq!(shown(&request), h1);
        }
    }

    #[test]
    fn a_client_of_http_1_is_not_said_to_take_trailers() {
        let destination = destination("a.test", 443);
        let mut request = request(Version::HTTP_11);
        for_http2(&mut request, &destination, false).unwrap();
        assert_eq!(request.headers().get(TE), None);
    }
}

//! Header fields that end at the gate (RFC 9110 section 7.6.1).

use hyper::HeaderMap;
use hyper::header::{
    CONNECTION, EXPECT, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, UPGRADE,
};

/// Fields of one hop, whether or not `Connection` names them. `Expect` too: hyper itself asks the
/// client for the body, when the origin's connection wants it.
const OF_ONE_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    UPGRADE,
    EXPECT,
];

/// Fields that `Connection` may not name: without them the request would mean something else at the
/// origin than what was judged here.
const PROTECTED: [&str; 11] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "authorization",
    "cookie",
    "cache-control",
    "range",
    "sec-websocket-key",
    "sec-websocket-version",
];

/// Fields beside [`PROTECTED`] that say how to read, whom to ask or who asks.
const NOT_IN_TRAILERS: [&str; 7] = [
    "content-range",
    "set-cookie",
    "location",
    "age",
    "expires",
    "vary",
    "www-authenticate",
];

/// `Connection` names a field that may not be taken away, or is not a list of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProtectedNamed;

/// Checks what a request's `Connection` names.
pub(super) fn check_request(headers: &HeaderMap) -> Result<(), ProtectedNamed> {
    let named = named_by_connection(headers);
    if named.iter().any(|name| PROTECTED.contains(&name.as_str())) {
        Err(ProtectedNamed)
    } else {
        Ok(())
    }
}

/// Takes the fields of one hop from a request that was checked.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    let named = named_by_connection(headers);
    remove(headers, &named);
}

/// Takes the fields of one hop from a response, whose body hyper frames anew towards the client.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    let named = named_by_connection(headers);
    remove(headers, &named);
    headers.remove(hyper::header::TRANSFER_ENCODING);
}

/// Takes from trailers what has a meaning only in a head (RFC 9110 section 6.5.1): a reader that merges
/// them would take it for one.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    remove(trailers, &[]);
    for name in PROTECTED.iter().chain(&NOT_IN_TRAILERS) {
        trailers.remove(*name);
    }
}

fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|token| String::from_utf8_lossy(token.trim_ascii()).to_ascii_lowercase())
        .collect()
}

fn remove(headers: &mut HeaderMap, named: &[String]) {
    for name in &OF_ONE_HOP {
        headers.remove(name);
    }
    for name in named
        .iter()
        .filter(|name| !PROTECTED.contains(&name.as_str()))
    {
        headers.remove(name.as_str());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn fields_of_one_hop_go_and_the_others_stay() {
        let mut request = headers(&[
            ("connection", "close, X-Mine"),
            ("connection", "upgrade"),
            ("x-mine", "1"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("authorization", "Bearer x"),
        ]);
        assert_eq!(check_request(&request), Ok(()));
        strip_request(&mut request);
        assert_eq!(request, headers(&[("authorization", "Bearer x")]));
    }

    #[test]
    fn trailers_carry_nothing_that_belongs_into_a_head() {
        let mut trailers = headers(&[
            ("grpc-status", "0"),
            ("content-length", "9"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("set-cookie", "a=1"),
            ("authorization", "Bearer x"),
        ]);
        strip_trailers(&mut trailers);
        assert_eq!(trailers, headers(&[("grpc-status", "0")]));
    }

    #[test]
    fn connection_cannot_take_a_field_that_carries_meaning() {
        for name in PROTECTED {
            let mut request = HeaderMap::new();
            request.insert(CONNECTION, format!("close, {name}").parse().unwrap());
            assert_eq!(check_request(&request), Err(ProtectedNamed), "{name}");
        }
    }
}

//! Whether a request of HTTP/1.1 asks for a WebSocket (RFC 6455 section 4.1). A half-formed handshake is
//! an error: an origin might read it as a whole one. Other upgrades, as h2c, are no concern of this
//! file: their fields end at the gate.

use hyper::body::Body;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Request, Version};

use super::http_request::Malformed;

/// 16 bytes as base64.
const KEY_LENGTH: usize = 24;

/// Whether a value of `Upgrade` speaks of WebSockets in any way. What follows the head of such a request
/// need not be another head.
pub(super) fn is_named_by(upgrade: &[u8]) -> bool {
    upgrade
        .windows(b"websocket".len())
        .any(|word| word.eq_ignore_ascii_case(b"websocket"))
}

/// The same for all of a head's fields.
pub(super) fn is_named(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    upgrades.any(|upgrade| is_named_by(upgrade.as_bytes()))
}

/// Whether the request asks for a WebSocket; an error if it does so in part.
pub(super) fn is_asked_for<B: Body>(request: &Request<B>) -> Result<bool, Malformed> {
    let headers = request.headers();
    if !is_named(headers) {
        return Ok(false);
    }
    let only = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        let first = values.next().map(|value| value.as_bytes().trim_ascii());
        first.filter(|_| values.next().is_none())
    };
    if !only(&UPGRADE).is_some_and(|to| to.eq_ignore_ascii_case(b"websocket")) {
        return Err(Malformed("Upgrade names more than a WebSocket"));
    }
    if !lists(headers, &CONNECTION, "upgrade") {
        return Err(Malformed("an Upgrade that Connection does not name"));
    }
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return Err(Malformed("a WebSocket is opened by a GET of HTTP/1.1"));
    }
    if only(&SEC_WEBSOCKET_VERSION) != Some(b"13") {
        return Err(Malformed("a WebSocket of another version than 13"));
    }
    if !only(&SEC_WEBSOCKET_KEY).is_some_and(is_key) {
        return Err(Malformed("a WebSocket without exactly one key of 16 bytes"));
    }
    let framed = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    if framed || !request.body().is_end_stream() {
        return Err(Malformed("content in a request for a WebSocket"));
    }
    Ok(true)
}

/// Whether a list of tokens has this one (RFC 9110 section 5.6.1).
pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn is_key(key: &[u8]) -> bool {
    let letters = key.strip_suffix(b"==").unwrap_or_default();
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == KEY_LENGTH && letters.iter().all(is_base64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use hyper::body::Bytes;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn asked(
        method: &str,
        version: Version,
        fields: &[(&str, &str)],
        body: &'static str,
    ) -> Result<bool, &'static str> {
        let mut request = Request::builder().method(method).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body)));
        let asked = is_asked_for(&request.map_err(|_| "not a request")?);
        asked.map_err(|malformed| malformed.0)
    }

    #[test]
    fn a_handshake_is_whole_or_malformed() {
        let good = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ];
        let with = |name: &str, value: Option<&'static str>| {
            let rest = good.into_iter().filter(|(field, _)| *field != name);
            let mut fields: Vec<_> = rest.collect();
            let name = good.iter().find(|(field, _)| *field == name).unwrap().0;
            fields.extend(value.map(|value| (name, value)));
            asked("GET", Version::HTTP_11, &fields, "")
        };
        assert_eq!(asked("GET", Version::HTTP_11, &good, ""), Ok(true));
        assert_eq!(with("upgrade", Some(" websocket ")), Ok(true));
        assert_eq!(with("upgrade", None), Ok(false));
        assert_eq!(with("upgrade", Some("h2c")), Ok(false));
        let more = Err("Upgrade names more than a WebSocket");
        assert_eq!(with("upgrade", Some("h2c, websocket")), more);
        assert_eq!(with("upgrade", Some("websocket/13")), more);
        let unnamed = Err("an Upgrade that Connection does not name");
        assert_eq!(with("connection", None), unnamed);
        assert_eq!(with("connection", Some("close")), unnamed);
        let version = Err("a WebSocket of another version than 13");
        assert_eq!(with("sec-websocket-version", None), version);
        assert_eq!(with("sec-websocket-version", Some("8")), version);
        let key = Err("a WebSocket without exactly one key of 16 bytes");
        assert_eq!(with("sec-websocket-key", None), key);
        assert_eq!(with("sec-websocket-key", Some("dGhl")), key);
        assert_eq!(
            with("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25j!!==")),
            key
        );

        let get = Err("a WebSocket is opened by a GET of HTTP/1.1");
        assert_eq!(asked("POST", Version::HTTP_11, &good, ""), get);
        assert_eq!(asked("GET", Version::HTTP_10, &good, ""), get);
        let content = Err("content in a request for a WebSocket");
        assert_eq!(asked("GET", Version::HTTP_11, &good, "x"), content);
        for twice in [
            ("upgrade", "websocket", more),
            ("sec-websocket-version", "13", version),
            ("sec-websocket-key", KEY, key),
            ("content-length", "0", content),
        ] {
            let fields: Vec<_> = good.into_iter().chain([(twice.0, twice.1)]).collect();
            assert_eq!(asked("GET", Version::HTTP_11, &fields, ""), twice.2);
        }
    }
}

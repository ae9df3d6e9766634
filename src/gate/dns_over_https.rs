//! Tells a request that is a question of DNS over HTTPS, where the gate sees requests: behind the answer to
//! one, names would be looked up that no record shows. Owns the media types by which it is told. A client
//! that leaves them out is not found, and within a tunnel nobody sees any.

use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap};

use super::http_request::Malformed;

/// RFC 8484 section 6, RFC 9230 section 8.1, and what public resolvers answer in JSON with.
const MEDIA_TYPES: [&str; 3] = [
    "application/dns-message",
    "application/oblivious-dns-message",
    "application/dns-json",
];

/// An error if the request sends or takes a message of DNS.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Malformed> {
    let values = [ACCEPT, CONTENT_TYPE];
    let mut values = values.iter().flat_map(|name| headers.get_all(name));
    if values.any(|value| names_one(value.as_bytes())) {
        return Err(Malformed("DNS over HTTPS: names are the gate's to resolve"));
    }
    Ok(())
}

/// Whether a list of media types, with or without parameters, has one of them.
fn names_one(list: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|listed| {
        let essence = listed.split(|byte| *byte == b';').next();
        let essence = essence.unwrap_or_default().trim_ascii();
        MEDIA_TYPES
            .iter()
            .any(|name| essence.eq_ignore_ascii_case(name.as_bytes()))
    })
}

//! WebSockets within TLS: by `Upgrade` (RFC 6455) or by extended CONNECT (RFC 8441). The origin is
//! always asked with an HTTP/1.1 GET.

use hyper::body::Incoming;
use hyper::header::{
    CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
};
use hyper::{Method, Request, Response, StatusCode, Version};

use crate::gate::body::GateBody;
use crate::gate::hop;

use super::leaf::MitmError;
use super::{random, request};

/// The client's handshake as the origin gets it; `upstream` adds the fields of the hop.
pub(super) fn to_origin(request: Request<Incoming>) -> Result<Request<Incoming>, MitmError> {
    let extended = request.method() == Method::CONNECT;
    let mut request = request::to_origin(request);
    *request.version_mut() = Version::HTTP_11;
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    if extended {
        // HTTP/2 needs no key (RFC 8441 section 5); what a client sent all the same is not used.
        let key = base64(&random::bytes::<16>()?);
        let key = HeaderValue::try_from(key).map_err(|_| MitmError::Random)?;
        headers.insert(SEC_WEBSOCKET_KEY, key);
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    Ok(request)
}

/// The origin's 101 as an HTTP/2 client gets it: without what is of HTTP/1.1 (RFC 8441 section 5).
pub(super) fn connected(answer: Response<()>) -> Response<GateBody> {
    let mut response = answer.map(|()| GateBody::empty());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    hop::strip_response(headers);
    headers.remove(CONTENT_LENGTH);
    headers.remove(SEC_WEBSOCKET_ACCEPT);
    response
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4_u32 {
            let index = (bits >> (18 - 6 * at)) & 63;
            let used = at as usize <= group.len();
            let letter = ALPHABET.get(index as usize).filter(|_| used);
            text.push(letter.map_or('=', |letter| char::from(*letter)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foobar", "Zm9vYmFy"),
            (b"the sample nonce", "dGhlIHNhbXBsZSBub25jZQ=="),
            (&[0xfb, 0xff], "+/8="),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }
}

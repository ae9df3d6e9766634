//! WebSockets within TLS: by `Upgrade` (RFC 6455) or by extended CONNECT (RFC 8441). The origin is
//! always asked with an HTTP/1.1 GET.

use data_encoding::BASE64;
use hyper::body::Incoming;
use hyper::header::{
    CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
};
use hyper::{Method, Request, Response, StatusCode, Version};

use crate::gate::body::GateBody;
use crate::gate::{hop, http_request};

use super::leaf::MitmError;
use super::random;

/// The client's handshake as the origin gets it; `upstream` adds the fields of the hop.
pub(super) fn to_origin(request: Request<Incoming>) -> Result<Request<Incoming>, MitmError> {
    let extended = request.method() == Method::CONNECT;
    let mut request = http_request::to_origin(request);
    *request.version_mut() = Version::HTTP_11;
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    if extended {
        // HTTP/2 needs no key (RFC 8441 section 5); what a client sent all the same is not used.
        let key = BASE64.encode(&random::bytes::<16>()?);
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

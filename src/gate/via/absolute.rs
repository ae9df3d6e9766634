//! Plain HTTP requests sent to an HTTP proxy as they are, in absolute-form (RFC 9112 section 3.2.2), which
//! is how every client does it: many proxies refuse CONNECT to port 80.

use std::fmt;

use data_encoding::BASE64;
use hyper::header::HeaderValue;
use zeroize::Zeroizing;

use crate::policy::{Password, ProxyScheme};
use crate::wire::gate::ProxyAccess;

use super::super::authorize::Destination;
use super::Target;

/// A proxy at the end of a connection, for requests to one destination.
pub(in crate::gate) struct Forwarder {
    /// `host:port`, for records.
    authority: String,
    /// What it is told in `Proxy-Authorization`.
    login: Option<HeaderValue>,
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Forwarder").field(&self.authority).finish()
    }
}

impl Forwarder {
    /// The proxy as one that gets requests. `None`: it has to be asked for a tunnel, because it is none of
    /// HTTP, or because the name was resolved here: in absolute-form a proxy goes by the target alone, so
    /// that the origin would get the address in `Host`.
    pub(super) fn new(
        proxy: &ProxyAccess,
        target: &Target,
        destination: &Destination,
    ) -> Option<Self> {
        let http = matches!(proxy.url.scheme, ProxyScheme::Http | ProxyScheme::Https);
        (http && target.host == destination.host).then(|| Self {
            authority: proxy.url.authority(),
            login: login(proxy).and_then(|login| {
                let mut value = HeaderValue::try_from(login.as_str()).ok()?;
                value.set_sensitive(true);
                Some(value)
            }),
        })
    }

    /// `host:port` of the proxy.
    pub(in crate::gate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The value of `Proxy-Authorization`, for this proxy and nobody else.
    pub(in crate::gate) fn login(&self) -> Option<&HeaderValue> {
        self.login.as_ref()
    }
}

/// Basic credentials (RFC 7617), where there is a user.
pub(super) fn login(proxy: &ProxyAccess) -> Option<Zeroizing<String>> {
    let user = proxy.url.user.as_ref()?;
    let password = proxy.password.as_ref().map_or("", Password::expose);
    let pair = Zeroizing::new([user, ":", password].concat());
    let mut login = Zeroizing::new(String::with_capacity(1024));
    login.push_str("Basic ");
    // Appends, so that no copy of a password is left behind: 511 bytes are 684 in base64.
    BASE64.encode_append(pair.as_bytes(), &mut login);
    Some(login)
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnId;
    use crate::policy::{Handling, Host, Port, ProxyUrl, ResolveNames, Transport};

    fn forwarder(url: &str, asked_for: &str) -> Option<Forwarder> {
        let mut url = ProxyUrl::parse(url).unwrap();
        let proxy = ProxyAccess {
            password: url.password.take(),
            url,
            resolve: ResolveNames::Proxy,
        };
        let destination = Destination {
            by: crate::gate::witness::By::default(),
            conn: ConnId(1),
            transport: Transport::Forward,
            host: Host::parse("a.test").unwrap(),
            port: Port::HTTP,
            handling: Handling::Tunnel,
            rule: None,
        };
        let host = Host::parse(asked_for).unwrap();
        let port = Port::HTTP;
        Forwarder::new(&proxy, &Target { host, port }, &destination)
    }

    #[test]
    fn only_a_proxy_of_http_that_gets_the_name_itself_gets_requests() {
        for (url, asked_for, gets) in [
            ("http://p:1", "a.test", true),
            ("https://p:1", "a.test", true),
            ("http://p:1", "192.0.2.1", false),
            ("socks5h://p:1", "a.test", false),
            ("socks5://p:1", "a.test", false),
        ] {
            assert_eq!(forwarder(url, asked_for).is_some(), gets, "{url}");
        }
    }

    #[test]
    fn a_login_is_not_shown() {
        let forwarder = forwarder("http://Aladdin:open%20sesame@p:1", "a.test").unwrap();
        let login = forwarder.login().unwrap();
        assert_eq!(login, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(login.is_sensitive());
        assert_eq!(format!("{forwarder:?}"), "Forwarder(\"p:1\")");
        assert_eq!(format!("{login:?}"), "Sensitive");
    }
}

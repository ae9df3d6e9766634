//! A question about a URL: what a client asks at the gate's door for it, and what it asks inside, should
//! the gate open the TLS.

use super::request::{Asked, EgressRequest, RequestError, Transport};

/// The requests that one URL leads to, in the order in which the gate sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What the gate sees first: a forwarded request, or a tunnel.
    pub door: EgressRequest,
    /// What follows in the tunnel of an `https://` or `wss://` URL; the gate sees it only where it opens
    /// the TLS.
    pub inside: Option<EgressRequest>,
}

impl Question {
    /// Reads `[METHOD] URL`, `host:port` or `host`, as [`EgressRequest::parse`] does. Nothing is looked
    /// up.
    pub fn parse(text: &str) -> Result<Self, RequestError> {
        let asked = Asked::read(text)?;
        let tls = matches!(asked.scheme, "https" | "wss");
        Ok(Self {
            door: asked.at_the_door(),
            inside: tls.then(|| asked.in_sight(Transport::Inspected)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Host, Method, Port};
    use super::*;

    #[test]
    fn what_is_inside_a_tunnel_is_known_for_urls_with_tls_alone() {
        for text in ["a.test", "a.test:443", "http://a.test/x", "ws://a.test/x"] {
            let question = Question::parse(text).unwrap();
            assert_eq!(question.inside, None, "{text}");
            assert_eq!(Ok(question.door), EgressRequest::parse(text), "{text}");
        }
        for (text, method, port, path, websocket) in [
            ("https://a.test", "GET", 443, "/", false),
            ("POST https://a.test:8443/x?y#z", "POST", 8443, "/x", false),
            (
                "wss://a.test/v1/responses",
                "GET",
                443,
                "/v1/responses",
                true,
            ),
        ] {
            let question = Question::parse(text).unwrap();
            let inside = EgressRequest {
                transport: Transport::Inspected,
                host: Host::parse("a.test").unwrap(),
                port: Port::new(port).unwrap(),
                method: Method::parse(method),
                path: Some(path.to_owned()),
                websocket,
            };
            assert_eq!(question.inside, Some(inside), "{text}");
            assert_eq!(Ok(question.door), EgressRequest::parse(text), "{text}");
        }
    }
}

//! Where a receiver is: `tls://siem.corp:6514`, `https://collector:4318/v1/logs`.

use std::fmt;

/// A scheme, a host, a port and, of HTTP, a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path and query, from its slash on.
    pub path: String,
    text: String,
}

impl Address {
    /// Reads one with one of these schemes.
    pub fn parse(text: &str, schemes: &[&str]) -> Result<Self, String> {
        let bad = |why: &str| format!("address {text:?}: {why}");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("no scheme"))?;
        if !schemes.contains(&scheme) {
            return Err(bad(&format!(
                "the scheme must be one of {}",
                schemes.join(", ")
            )));
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(|| bad("no closing ]"))?;
                (host, after.strip_prefix(':'))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let usual = match scheme {
            "http" => Some(80),
            "https" => Some(443),
            "tls" => Some(6514),
            _ => None,
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port > 0),
            None => usual,
        };
        let http = scheme.starts_with("http");
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(plain) {
            return Err(bad("no host"));
        }
        if !http && !path.is_empty() || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("a path that cannot be one"));
        }
        Ok(Self {
            tls: matches!(scheme, "tls" | "https"),
            host: host.to_owned(),
            port: port.ok_or_else(|| bad("no port"))?,
            path: if path.is_empty() { "/" } else { path }.to_owned(),
            text: text.to_owned(),
        })
    }

    /// Host and port as HTTP's `host` has them.
    pub fn authority(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

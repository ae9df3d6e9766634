//! `host[:port]` (RFC 9110 section 4.2, RFC 3986 section 3.2), read strictly: no user information, no
//! empty port. [`Host::parse_bracketed`] decides what a host is.

use crate::policy::{Host, Port};

/// Reads an authority; `None` when it is not exactly a host and perhaps a port.
pub(super) fn parse_authority(text: &str) -> Option<(Host, Option<Port>)> {
    // A colon outside of brackets starts the port.
    let end = text.find(']').map_or(0, |bracket| bracket + 1);
    let (before, after) = text.split_at_checked(end)?;
    let (host, port) = match after.split_once(':') {
        Some((rest, port)) => (before.len() + rest.len(), Some(Port::parse(port)?)),
        None => (text.len(), None),
    };
    Some((Host::parse_bracketed(text.get(..host)?).ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<(String, Option<u16>)> {
        parse_authority(text).map(|(host, port)| (host.to_string(), port.map(Port::number)))
    }

    #[test]
    fn a_host_and_its_port_are_read_and_nothing_looser() {
        assert_eq!(read("a.test"), Some(("a.test".into(), None)));
        assert_eq!(read("a.test:80"), Some(("a.test".into(), Some(80))));
        assert_eq!(
            read("[2001:db8::1]:8"),
            Some(("2001:db8::1".into(), Some(8)))
        );
        for odd in [
            "",
            ":80",
            "a.test:",
            "a.test:0",
            "a.test:+1",
            "a.test:65536",
            "u@a.test",
            "a.test:80:80",
            "[a.test]",
            "[a.test]:80",
            "[::1",
            "[::1]80",
            "[fe80::1%25eth0]",
            "::1",
            "a%2etest",
            "a.test/",
            "a.test#x",
            "a.test\0",
            "a b",
            "\u{ff41}.test",
        ] {
            assert_eq!(read(odd), None, "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_reads_back_as_itself(text in "\\PC{0,40}|[a-z0-9.:\\[\\]%@-]{0,40}") {
            if let Some((host, port)) = parse_authority(&text) {
                let shown = match (&host, port) {
                    (Host::Addr(std::net::IpAddr::V6(a)), Some(p)) => format!("[{a}]:{p}"),
                    (Host::Addr(std::net::IpAddr::V6(a)), None) => format!("[{a}]"),
                    (host, Some(p)) => format!("{host}:{p}"),
                    (host, None) => host.to_string(),
                };
                prop_assert_eq!(parse_authority(&shown), Some((host, port)));
            }
        }
    }
}

//! How programs in the jail find the gate: the variables of the clients that agents use.
//!
//! They are a courtesy, not a fence: a program that ignores them finds no network at all.

/// Where the gate listens in the jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyPorts {
    /// The HTTP proxy's port on 127.0.0.1.
    pub http: u16,
    /// The SOCKS5 proxy's port on 127.0.0.1, when the profile has one.
    pub socks: Option<u16>,
    /// Where `localhost` leads.
    pub loopback: Loopback,
}

/// Where requests for `localhost` go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// To the jail's own loopback, which no one outside can reach and which leads nowhere: test
    /// suites and development servers work.
    Jail,
    /// To the gate: for a policy that allows something on the host's loopback.
    Gate,
}

/// The variables, for every command.
pub fn proxy_environment(ports: ProxyPorts) -> Vec<(String, String)> {
    VARIABLES
        .iter()
        .filter_map(|(name, meaning, _why)| Some(((*name).to_owned(), meaning.value(ports)?)))
        .collect()
}

/// What a variable says.
enum Meaning {
    Http,
    Socks,
    Exempt,
    Java,
    Word(&'static str),
}

impl Meaning {
    fn value(&self, ports: ProxyPorts) -> Option<String> {
        Some(match self {
            Self::Http => format!("http://127.0.0.1:{}", ports.http),
            // The "h" leaves names to the gate: there is no resolver in the jail.
            Self::Socks => format!("socks5h://127.0.0.1:{}", ports.socks?),
            // Whole addresses, no ranges: Codex's WebSocket client does not read those.
            Self::Exempt => match ports.loopback {
                Loopback::Jail => "localhost,127.0.0.1,::1".to_owned(),
                Loopback::Gate => String::new(),
            },
            Self::Java => java(ports),
            Self::Word(word) => (*word).to_owned(),
        })
    }
}

fn java(ports: ProxyPorts) -> String {
    let exempt = match ports.loopback {
        Loopback::Jail => "localhost|127.0.0.1|[::1]",
        Loopback::Gate => "",
    };
    let port = ports.http;
    format!(
        "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort={port} \
         -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort={port} -Dhttp.nonProxyHosts={exempt}"
    )
}

/// Name, value, why. Not here: git, apt, wget, Go, Ruby, Deno, Bun, which read the general ones.
const VARIABLES: &[(&str, Meaning, &str)] = &[
    ("HTTP_PROXY", Meaning::Http, "Codex, Go, Python, Node"),
    (
        "http_proxy",
        Meaning::Http,
        "curl reads only this spelling for http",
    ),
    ("HTTPS_PROXY", Meaning::Http, "Codex, Go, Python, Node"),
    ("https_proxy", Meaning::Http, "wget, apt, git"),
    (
        "WS_PROXY",
        Meaning::Http,
        "WebSocket clients; Codex's goes by the two above",
    ),
    ("ws_proxy", Meaning::Http, "the same"),
    ("WSS_PROXY", Meaning::Http, "the same"),
    ("wss_proxy", Meaning::Http, "the same"),
    (
        "ALL_PROXY",
        Meaning::Http,
        "the rest. Not SOCKS: httpx, and so OpenAI's own Python client, cannot even be made with a \
         SOCKS proxy here unless an extra package is installed, and Codex's HTTP client knows none",
    ),
    (
        "all_proxy",
        Meaning::Http,
        "the same; curl for schemes other than http and https",
    ),
    (
        "SOCKS_PROXY",
        Meaning::Socks,
        "tells whoever needs raw TCP where to get it",
    ),
    ("socks_proxy", Meaning::Socks, "the same"),
    (
        "NO_PROXY",
        Meaning::Exempt,
        "set even when empty: what the host says must not count",
    ),
    ("no_proxy", Meaning::Exempt, "the same"),
    (
        "NODE_USE_ENV_PROXY",
        Meaning::Word("1"),
        "Node's fetch and http ignore the variables without",
    ),
    (
        "npm_config_proxy",
        Meaning::Http,
        "wins over a proxy in an .npmrc",
    ),
    ("npm_config_https_proxy", Meaning::Http, "the same"),
    (
        "YARN_HTTP_PROXY",
        Meaning::Http,
        "Yarn from version 2 on reads its own",
    ),
    ("YARN_HTTPS_PROXY", Meaning::Http, "the same"),
    (
        "PIP_PROXY",
        Meaning::Http,
        "wins over a proxy in a pip.conf",
    ),
    (
        "CARGO_HTTP_PROXY",
        Meaning::Http,
        "wins over http.proxy in Cargo's and git's configuration",
    ),
    (
        "ELECTRON_GET_USE_PROXY",
        Meaning::Word("true"),
        "Electron's downloader ignores them without",
    ),
    (
        "JAVA_TOOL_OPTIONS",
        Meaning::Java,
        "no JVM reads the variables; it says so on its stderr",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn value(ports: ProxyPorts, name: &str) -> Option<String> {
        proxy_environment(ports)
            .into_iter()
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    const PORTS: ProxyPorts = ProxyPorts {
        http: 3128,
        socks: Some(8081),
        loopback: Loopback::Jail,
    };

    #[test]
    fn every_general_variable_leads_to_the_http_proxy_in_both_spellings() {
        for name in [
            "http_proxy",
            "https_proxy",
            "ws_proxy",
            "wss_proxy",
            "all_proxy",
        ] {
            for name in [name.to_owned(), name.to_uppercase()] {
                assert_eq!(
                    value(PORTS, &name).as_deref(),
                    Some("http://127.0.0.1:3128")
                );
            }
        }
    }

    #[test]
    fn socks_is_named_only_when_there_is_one() {
        assert_eq!(
            value(PORTS, "SOCKS_PROXY").as_deref(),
            Some("socks5h://127.0.0.1:8081")
        );
        let without = ProxyPorts {
            socks: None,
            ..PORTS
        };
        assert_eq!(value(without, "SOCKS_PROXY"), None);
        assert_eq!(value(without, "socks_proxy"), None);
    }

    #[test]
    fn localhost_is_the_jails_own_unless_the_policy_speaks_of_it() {
        assert_eq!(
            value(PORTS, "no_proxy").as_deref(),
            Some("localhost,127.0.0.1,::1")
        );
        let gate = ProxyPorts {
            loopback: Loopback::Gate,
            ..PORTS
        };
        assert_eq!(value(gate, "NO_PROXY").as_deref(), Some(""));
        assert_eq!(
            value(gate, "JAVA_TOOL_OPTIONS").as_deref(),
            Some(
                "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=3128 -Dhttps.proxyHost=127.0.0.1 \
                 -Dhttps.proxyPort=3128 -Dhttp.nonProxyHosts="
            )
        );
    }

    #[test]
    fn no_variable_is_set_twice() {
        let mut names: Vec<_> = VARIABLES.iter().map(|(name, ..)| name).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}

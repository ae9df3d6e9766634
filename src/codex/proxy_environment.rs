//! The variables that send programs to the gate. A courtesy: what ignores them has no route at all.

/// Variables that hold the HTTP proxy, each with who reads it.
const HTTP: [(&str, &str); 15] = [
    ("HTTP_PROXY", "Codex, Go, Python requests"),
    (
        "http_proxy",
        "curl (which ignores the upper-case one), git, wget, apt",
    ),
    ("HTTPS_PROXY", "Codex, curl, Go, Python requests, cargo"),
    ("https_proxy", "curl, git, wget, apt"),
    ("WS_PROXY", "WebSocket clients"),
    ("ws_proxy", "WebSocket clients"),
    ("WSS_PROXY", "WebSocket clients"),
    ("wss_proxy", "WebSocket clients"),
    ("npm_config_proxy", "npm, pnpm"),
    ("npm_config_https_proxy", "npm, pnpm"),
    ("YARN_HTTP_PROXY", "yarn"),
    ("YARN_HTTPS_PROXY", "yarn"),
    ("PIP_PROXY", "pip"),
    ("BUNDLE_HTTP_PROXY", "bundler"),
    ("BUNDLE_HTTPS_PROXY", "bundler"),
];

/// Variables for any other scheme: SOCKS where there is one. Never alone: Codex's HTTP client cannot
/// speak SOCKS and takes the scheme's own variable first.
const ANY: [&str; 4] = ["ALL_PROXY", "all_proxy", "FTP_PROXY", "ftp_proxy"];

/// Variables with one value, each with its reason.
const FIXED: [(&str, &str, &str); 5] = [
    (
        "NO_PROXY",
        "localhost,127.0.0.1,::1",
        "a server under test in the jail's own loopback is no egress",
    ),
    ("no_proxy", "localhost,127.0.0.1,::1", "the same"),
    (
        "NODE_USE_ENV_PROXY",
        "1",
        "node's fetch looks at the variables above only if told",
    ),
    (
        "ELECTRON_GET_USE_PROXY",
        "true",
        "downloads of the electron package",
    ),
    (
        "GIT_TERMINAL_PROMPT",
        "0",
        "a refused clone ends instead of asking for a password nobody can type",
    ),
];

/// The variables, given the proxies' ports in the jail.
pub fn variables(http_port: u16, socks_port: Option<u16>) -> Vec<(String, String)> {
    let http = format!("http://127.0.0.1:{http_port}");
    let any = socks_port.map_or_else(
        || http.clone(),
        |port| format!("socks5h://127.0.0.1:{port}"),
    );
    let http = HTTP.iter().map(|(name, _)| (*name, http.as_str()));
    let any = ANY.iter().map(|name| (*name, any.as_str()));
    let fixed = FIXED.iter().map(|(name, value, _)| (*name, *value));
    http.chain(any)
        .chain(fixed)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socks_is_named_only_where_there_is_one_and_never_for_http() {
        let value = |socks, name: &str| {
            let all = variables(3128, socks);
            all.into_iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value)
        };
        assert_eq!(
            value(Some(8081), "ALL_PROXY").as_deref(),
            Some("socks5h://127.0.0.1:8081")
        );
        assert_eq!(
            value(None, "ALL_PROXY").as_deref(),
            Some("http://127.0.0.1:3128")
        );
        assert_eq!(
            value(Some(8081), "HTTPS_PROXY").as_deref(),
            Some("http://127.0.0.1:3128")
        );
    }
}

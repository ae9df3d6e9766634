//! How programs in the jail come to trust the session's CA: the variables of the clients that agents
//! use, where the policy has TLS inspected. Clients that know no variable find the same bundle at the
//! system's own places.

/// The files in the jail that the variables name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustFiles<'a> {
    /// Every authority: the host's, the profile's, the session's.
    pub bundle: &'a str,
    /// The session's CA alone.
    pub authority: &'a str,
}

/// The variables, for every command of a session that is inspected.
pub fn trust_environment(files: TrustFiles<'_>) -> Vec<(String, String)> {
    let value = |meaning: &Meaning| match meaning {
        Meaning::Bundle => Some(files.bundle.to_owned()),
        Meaning::Authority => Some(files.authority.to_owned()),
        Meaning::Absent => None,
    };
    VARIABLES
        .iter()
        .filter_map(|(name, meaning, _why)| Some(((*name).to_owned(), value(meaning)?)))
        .collect()
}

/// Whether a variable says which certificates a client trusts: the caller's value of it would lead past
/// the session's CA.
pub fn names_trust(variable: &str) -> bool {
    VARIABLES.iter().any(|(name, ..)| *name == variable)
}

/// What a variable says.
enum Meaning {
    /// All authorities: the client takes these instead of its own.
    Bundle,
    /// The session's CA: the client takes it beside its own.
    Authority,
    /// Nothing: it would replace or widen what the others say.
    Absent,
}

/// Name, value, why. Not here: wget, Java, GnuTLS, which have no variable and read the system's files.
const VARIABLES: &[(&str, Meaning, &str)] = &[
    (
        "SSL_CERT_FILE",
        Meaning::Bundle,
        "OpenSSL (Python, Ruby, PHP), Go, Rust's native roots, uv, .NET, Codex",
    ),
    (
        "SSL_CERT_DIR",
        Meaning::Absent,
        "the same; its default holds what the bundle holds",
    ),
    ("CURL_CA_BUNDLE", Meaning::Bundle, "curl, Python's requests"),
    ("REQUESTS_CA_BUNDLE", Meaning::Bundle, "Python's requests"),
    ("GIT_SSL_CAINFO", Meaning::Bundle, "git"),
    ("GIT_SSL_CAPATH", Meaning::Absent, "git"),
    (
        "PIP_CERT",
        Meaning::Bundle,
        "pip, which brings its own list",
    ),
    (
        "NODE_EXTRA_CA_CERTS",
        Meaning::Authority,
        "Node, which brings its own list and parses these at each start",
    ),
    (
        "CARGO_HTTP_CAINFO",
        Meaning::Bundle,
        "Cargo; wins over http.cainfo in its configuration",
    ),
    ("BUNDLE_SSL_CA_CERT", Meaning::Bundle, "Ruby's Bundler"),
    (
        "NPM_CONFIG_CAFILE",
        Meaning::Bundle,
        "npm takes these instead of Node's; wins over an .npmrc",
    ),
    ("npm_config_cafile", Meaning::Bundle, "the same"),
    (
        "YARN_HTTPS_CA_FILE_PATH",
        Meaning::Bundle,
        "Yarn from version 2 on reads its own",
    ),
    (
        "CODEX_CA_CERTIFICATE",
        Meaning::Bundle,
        "Codex, where it wins over SSL_CERT_FILE",
    ),
    (
        "DENO_CERT",
        Meaning::Bundle,
        "Deno, which brings its own list",
    ),
    ("AWS_CA_BUNDLE", Meaning::Bundle, "AWS's clients"),
    (
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
        Meaning::Bundle,
        "Google's command line",
    ),
    (
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        Meaning::Bundle,
        "gRPC, which brings its own list",
    ),
    ("HTTPLIB2_CA_CERTS", Meaning::Bundle, "Python's httplib2"),
    ("HEX_CACERTS_PATH", Meaning::Bundle, "Elixir's Hex"),
    ("PERL_LWP_SSL_CA_FILE", Meaning::Bundle, "Perl's LWP"),
    (
        "NIX_SSL_CERT_FILE",
        Meaning::Bundle,
        "Nix; its OpenSSL prefers it to SSL_CERT_FILE",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: TrustFiles<'_> = TrustFiles {
        bundle: "/b.pem",
        authority: "/a.pem",
    };

    fn value(name: &str) -> Option<String> {
        trust_environment(FILES)
            .into_iter()
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    #[test]
    fn a_client_gets_the_whole_bundle_or_the_one_authority_beside_its_own() {
        for name in ["SSL_CERT_FILE", "GIT_SSL_CAINFO", "npm_config_cafile"] {
            assert_eq!(value(name).as_deref(), Some("/b.pem"), "{name}");
        }
        assert_eq!(value("NODE_EXTRA_CA_CERTS").as_deref(), Some("/a.pem"));
    }

    #[test]
    fn a_variable_that_would_widen_trust_is_named_and_not_set() {
        for name in ["SSL_CERT_DIR", "GIT_SSL_CAPATH"] {
            assert_eq!(value(name), None);
            assert!(names_trust(name));
        }
        assert!(names_trust("SSL_CERT_FILE"));
        assert!(!names_trust("PATH"));
    }

    #[test]
    fn no_variable_is_listed_twice() {
        let mut names: Vec<_> = VARIABLES.iter().map(|(name, ..)| name).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}

//! A credential that stays outside the jail: what of it is public. The value itself is no policy; it
//! travels apart ([`crate::wire::gate`]) and is never shown or hashed.

use serde::{Deserialize, Serialize};

use super::credential_file::CredentialFile;
use super::host::Host;
use super::path::{PathMatch, PathPattern};
use super::request::Port;
use super::rule::HostPattern;

/// One credential, valid by construction. Its serialised form is the form in a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CredentialFile", into = "CredentialFile")]
pub struct Credential {
    /// Names it in records, errors and messages.
    pub name: String,
    /// The hosts that get the value: one name, or the names below one.
    pub host: HostPattern,
    /// The ports there; never empty.
    pub ports: Vec<Port>,
    /// The paths there; empty: every path.
    pub paths: Vec<PathPattern>,
    /// The header field that carries it, in small letters.
    pub header: String,
    /// The field's value round the secret.
    pub template: Template,
    /// Where the session finds the secret.
    pub source: CredentialSource,
    /// The variable in the jail that holds the placeholder.
    pub env: Option<String>,
    /// When the field is put in.
    pub inject: Inject,
    /// What becomes of a request to the credential's own host with the placeholder in its content.
    pub bodies: Bodies,
    /// A source that has nothing is no error.
    pub optional: bool,
}

/// Text before and after the secret in a header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// As `Bearer `.
    pub before: String,
    /// Mostly nothing.
    pub after: String,
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// `${env:NAME}`: a variable of the caller's.
    Env(String),
    /// `${file:PATH}`: a file of the caller's, absolute or below `~/`.
    File(String),
    /// `${credential:NAME}`: a file in `$CREDENTIALS_DIRECTORY` (systemd.exec(5), `LoadCredential=`).
    Systemd(String),
    /// `${command}`: the output of `command`, run outside the jail.
    Command(Vec<String>),
    /// `${codex:…}`: the caller's own Codex sign-in.
    Codex(CodexSecret),
}

/// A secret of Codex's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodexSecret {
    /// `CODEX_API_KEY`, `OPENAI_API_KEY`, or the key in `auth.json`.
    ApiKey,
    /// The access token of a ChatGPT account in `auth.json`.
    AccessToken,
}

/// When a credential's header field is put in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inject {
    /// Where the client sent the placeholder.
    #[default]
    Placeholder,
    /// In every request to its host, port and paths, in place of what the client sent.
    Always,
}

/// What becomes of a request to the credential's own host with the placeholder in its content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bodies {
    /// It is refused: somebody tries to send the secret where it does not belong.
    #[default]
    Refuse,
    /// It goes as it is: the placeholder is worthless, and an agent tells its model what it sees.
    Pass,
}

impl Credential {
    /// Whether the value may go with a request to this host, port and path.
    pub fn belongs_to(&self, host: &Host, port: Port, path: &str) -> bool {
        let on_path = |pattern: &PathPattern| pattern.matches(path) == PathMatch::Yes;
        self.is_at(host, port) && (self.paths.is_empty() || self.paths.iter().any(on_path))
    }

    /// Whether this host and port are the credential's own.
    pub fn is_at(&self, host: &Host, port: Port) -> bool {
        let host = match (&self.host, host) {
            (HostPattern::Exact(own), host) => own == host,
            (HostPattern::Below(parent), Host::Name(name)) => below(name.as_str(), parent.as_str()),
            (HostPattern::AtOrBelow(parent), Host::Name(name)) => {
                name == parent || below(name.as_str(), parent.as_str())
            }
            (HostPattern::Below(_) | HostPattern::AtOrBelow(_), Host::Addr(_))
            | (HostPattern::Any, _) => false,
        };
        host && self.ports.contains(&port)
    }
}

fn below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(host: &str) -> Credential {
        let form = serde_json::json!({
            "host": host, "ports": [443, 8443], "paths": ["/v1/**"], "header": "X-API-Key",
            "value": "${env:K}",
        });
        serde_json::from_value(form).unwrap()
    }

    #[test]
    fn a_value_belongs_to_its_hosts_ports_and_paths_alone() {
        let at = |pattern: &str, host: &str, port: u16, path: &str| {
            let (host, port) = (Host::parse(host).unwrap(), Port::new(port).unwrap());
            credential(pattern).belongs_to(&host, port, path)
        };
        for (pattern, host, expected) in [
            ("a.test", "a.test", true),
            ("a.test", "b.a.test", false),
            ("a.test", "xa.test", false),
            ("*.a.test", "b.a.test", true),
            ("*.a.test", "c.b.a.test", true),
            ("*.a.test", "a.test", false),
            ("*.a.test", "xa.test", false),
            ("**.a.test", "a.test", true),
            ("**.a.test", "b.a.test", true),
            ("**.a.test", "xa.test", false),
            ("*.a.test", "192.0.2.1", false),
        ] {
            assert_eq!(
                at(pattern, host, 443, "/v1/x"),
                expected,
                "{pattern} {host}"
            );
        }
        assert!(at("a.test", "a.test", 8443, "/v1"));
        assert!(!at("a.test", "a.test", 80, "/v1/x"));
        assert!(!at("a.test", "a.test", 443, "/v2/x"));
        assert!(!at("a.test", "a.test", 443, "/v1/../v1/x"));
    }

    #[test]
    fn a_credential_reads_back_from_its_own_form() {
        let credential = credential("*.a.test");
        let text = serde_json::to_string(&credential).unwrap();
        assert_eq!(
            text,
            r#"{"name":"*.a.test/x-api-key","host":"*.a.test","ports":[443,8443],"paths":["/v1/**"],"header":"x-api-key","value":"${env:K}","env":"K"}"#
        );
        assert_eq!(
            serde_json::from_str::<Credential>(&text).unwrap(),
            credential
        );
    }
}

//! The form of a credential in a profile: read into [`Credential`], and written back.

use serde::{Deserialize, Serialize};

use super::credential::{Bodies, CodexSecret, Credential, CredentialSource, Inject, Template};
use super::host::{Host, shown};
use super::path::PathPattern;
use super::request::Port;
use super::rule::HostPattern;

/// The form in a profile.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct CredentialFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<String>>,
    header: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inject: Option<Inject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bodies: Option<Bodies>,
    #[serde(skip_serializing_if = "Option::is_none")]
    optional: Option<bool>,
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct CredentialError {
    /// The key, as `host`.
    pub key: &'static str,
    /// What is wrong, and what is accepted.
    pub problem: String,
}

fn wrong(key: &'static str, problem: impl Into<String>) -> CredentialError {
    let problem = problem.into();
    CredentialError { key, problem }
}

impl TryFrom<CredentialFile> for Credential {
    type Error = CredentialError;

    fn try_from(file: CredentialFile) -> Result<Self, Self::Error> {
        let host = host(&file.host)?;
        let header = header(&file.header)?;
        let (template, source) = value(&file.value, file.command)?;
        let env = match (file.env, &source) {
            (Some(name), _) => Some(variable(name)?),
            (None, CredentialSource::Env(name)) => Some(name.clone()),
            (None, _) => None,
        };
        let inject = file.inject.unwrap_or_default();
        let known_to_codex = matches!(source, CredentialSource::Codex(_));
        if env.is_none() && !known_to_codex && inject == Inject::Placeholder {
            return Err(wrong(
                "env",
                "nothing in the jail would know the placeholder; name a variable for it, as env = \"API_TOKEN\", \
                 or set inject = \"always\"",
            ));
        }
        let derived = || format!("{host}/{header}");
        Ok(Self {
            name: name(file.name.unwrap_or_else(derived))?,
            ports: ports(file.ports)?,
            paths: paths(file.paths)?,
            host,
            header,
            template,
            source,
            env,
            inject,
            bodies: file.bodies.unwrap_or_default(),
            optional: file.optional.unwrap_or_default(),
        })
    }
}

impl From<Credential> for CredentialFile {
    fn from(credential: Credential) -> Self {
        let Template { before, after } = &credential.template;
        let value = format!("{before}${{{}}}{after}", reference(&credential.source));
        let command = match credential.source {
            CredentialSource::Command(argv) => Some(argv),
            CredentialSource::Env(_)
            | CredentialSource::File(_)
            | CredentialSource::Systemd(_)
            | CredentialSource::Codex(_) => None,
        };
        let paths = credential.paths.into_iter().map(String::from).collect();
        Self {
            name: Some(credential.name),
            host: credential.host.to_string(),
            ports: Some(credential.ports.into_iter().map(Port::number).collect()),
            paths: Some(paths).filter(|paths: &Vec<String>| !paths.is_empty()),
            header: credential.header,
            value,
            command,
            env: credential.env,
            inject: Some(credential.inject).filter(|inject| *inject != Inject::default()),
            bodies: Some(credential.bodies).filter(|bodies| *bodies != Bodies::default()),
            optional: Some(true).filter(|_| credential.optional),
        }
    }
}

fn reference(source: &CredentialSource) -> String {
    match source {
        CredentialSource::Env(name) => format!("env:{name}"),
        CredentialSource::File(path) => format!("file:{path}"),
        CredentialSource::Systemd(name) => format!("credential:{name}"),
        CredentialSource::Command(_) => "command".to_owned(),
        CredentialSource::Codex(CodexSecret::ApiKey) => "codex:api_key".to_owned(),
        CredentialSource::Codex(CodexSecret::AccessToken) => "codex:access_token".to_owned(),
    }
}

fn name(name: String) -> Result<String, CredentialError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./*".contains(&b);
    if !name.is_empty() && name.len() <= 512 && name.bytes().all(plain) {
        return Ok(name);
    }
    let problem = format!(
        "{} is no name; accepted are letters, digits, '-', '_', '.' and '/'",
        shown(&name)
    );
    Err(wrong("name", problem))
}

fn host(text: &str) -> Result<HostPattern, CredentialError> {
    let pattern = HostPattern::parse(text).map_err(|problem| wrong("host", problem.to_string()))?;
    match pattern {
        HostPattern::Any => Err(wrong(
            "host",
            "\"*\" would give the value to everybody; name the host that it is for",
        )),
        HostPattern::Exact(Host::Addr(_)) => Err(wrong(
            "host",
            format!("{text} is an address; a value goes only where a certificate proves the name"),
        )),
        HostPattern::Exact(Host::Name(_)) | HostPattern::Below(_) | HostPattern::AtOrBelow(_) => {
            Ok(pattern)
        }
    }
}

fn ports(found: Option<Vec<u16>>) -> Result<Vec<Port>, CredentialError> {
    let Some(found) = found else {
        return Ok(vec![Port::HTTPS]);
    };
    let ports: Option<Vec<Port>> = found.iter().map(|number| Port::new(*number)).collect();
    ports.filter(|ports| !ports.is_empty()).ok_or_else(|| {
        wrong(
            "ports",
            "accepted are numbers from 1 to 65535; leave the key out for 443",
        )
    })
}

fn paths(found: Option<Vec<String>>) -> Result<Vec<PathPattern>, CredentialError> {
    let Some(found) = found else {
        return Ok(Vec::new());
    };
    if found.is_empty() {
        let problem = "an empty list matches nothing; leave the key out for every path";
        return Err(wrong("paths", problem));
    }
    let read = |text: &String| {
        PathPattern::parse(text).map_err(|problem| wrong("paths", problem.to_string()))
    };
    found.iter().map(read).collect()
}

/// Fields that say where a request goes, how it is framed, or what ends at the gate.
const NOT_FOR_CREDENTIALS: [&str; 12] = [
    "host",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "transfer-encoding",
    "content-length",
    "content-encoding",
    "accept-encoding",
    "range",
];

fn header(text: &str) -> Result<String, CredentialError> {
    let header = text.to_ascii_lowercase();
    // RFC 9110 section 5.6.2; the ones that occur in names.
    let token = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let shown = shown(text);
    if header.is_empty() || header.len() > 128 || !header.bytes().all(token) {
        let problem =
            format!("{shown} is no header field; accepted is a name as \"authorization\"");
        return Err(wrong("header", problem));
    }
    if NOT_FOR_CREDENTIALS.contains(&header.as_str()) || header.starts_with("proxy-") {
        let problem = format!(
            "{shown} is the gate's own; name the field that authenticates, as \"authorization\""
        );
        return Err(wrong("header", problem));
    }
    Ok(header)
}

const SOURCES: &str = "accepted are ${env:NAME}, ${file:PATH}, ${credential:NAME}, ${command}, \
     ${codex:api_key} and ${codex:access_token}";

fn value(
    text: &str,
    command: Option<Vec<String>>,
) -> Result<(Template, CredentialSource), CredentialError> {
    let none = || {
        // The text may be a secret that was written here by mistake: it is not repeated.
        wrong("value", format!("names no source of the secret; {SOURCES}"))
    };
    let (before, rest) = text.split_once("${").ok_or_else(none)?;
    let (inside, after) = rest.split_once('}').ok_or_else(none)?;
    if after.contains("${") {
        return Err(wrong(
            "value",
            format!("names two sources; one secret a credential; {SOURCES}"),
        ));
    }
    let graphic = |b: u8| b.is_ascii_graphic() || b == b' ';
    if !before.bytes().chain(after.bytes()).all(graphic) || text.trim() != text {
        let problem =
            "the text round the source is no header value: printable ASCII, no space at the ends";
        return Err(wrong("value", problem));
    }
    let source = source(inside, command)?;
    let template = Template {
        before: before.to_owned(),
        after: after.to_owned(),
    };
    Ok((template, source))
}

fn source(inside: &str, command: Option<Vec<String>>) -> Result<CredentialSource, CredentialError> {
    if command.is_some() && inside != "command" {
        let problem = "value does not use it; write ${command} there, or leave the key out";
        return Err(wrong("command", problem));
    }
    let unknown = || {
        wrong(
            "value",
            format!("${{{}}} is no source; {SOURCES}", inside.escape_debug()),
        )
    };
    let (kind, argument) = inside.split_once(':').unwrap_or((inside, ""));
    match (kind, argument) {
        ("command", "") => match command {
            Some(argv) if argv.first().is_some_and(|program| !program.is_empty()) => {
                Ok(CredentialSource::Command(argv))
            }
            _ => Err(wrong(
                "command",
                "value asks for a command; add it as command = [\"pass\", \"show\", \"openai\"]",
            )),
        },
        ("env", name) => Ok(CredentialSource::Env(variable(name.to_owned())?)),
        ("file", path) if path.starts_with('/') || path.starts_with("~/") => {
            Ok(CredentialSource::File(path.to_owned()))
        }
        ("file", _) => Err(wrong(
            "value",
            "a file is named as ${file:/abs/path} or ${file:~/below/home}",
        )),
        ("credential", name) if is_file_name(name) => {
            Ok(CredentialSource::Systemd(name.to_owned()))
        }
        ("credential", _) => Err(wrong(
            "value",
            "a credential of the service manager is named as ${credential:NAME}, without a slash",
        )),
        ("codex", "api_key") => Ok(CredentialSource::Codex(CodexSecret::ApiKey)),
        ("codex", "access_token") => Ok(CredentialSource::Codex(CodexSecret::AccessToken)),
        _ => Err(unknown()),
    }
}

fn is_file_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain)
}

fn variable(name: String) -> Result<String, CredentialError> {
    super::profile::check_variable(&name).map_err(|problem| wrong("env", problem))?;
    // The session sets these itself, or the jail does not work without them.
    if matches!(
        name.as_str(),
        "PATH" | "HOME" | "TMPDIR" | "SHELL" | "USER" | "LOGNAME"
    ) {
        let problem = format!("{name} is what the jail needs it for; name another variable");
        return Err(wrong("env", problem));
    }
    Ok(name)
}

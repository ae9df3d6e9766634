//! What is forwarded and anchored where: `[[forward]]`, `[[anchor]]` and `[metrics]` of `audit.toml`, which
//! [`crate::audit::settings`] reads.

use std::path::PathBuf;

use serde::Deserialize;

use super::address::Address;

/// What goes where, as it was read; [`Self::targets`] is the valid form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Where records go.
    pub forward: Vec<Forward>,
    /// Where checkpoints go.
    pub anchor: Vec<Anchor>,
    /// Where numbers can be asked for.
    pub metrics: Option<Metrics>,
}

/// Records to one place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// What it is called: names its state file.
    pub name: String,
    /// How it is spoken to.
    pub kind: ForwardKind,
    /// Where it is; of journald the socket, if it is another than the system's.
    pub address: Option<String>,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// What a message holds.
    #[serde(default)]
    pub format: MessageFormat,
    /// Which events: names, or a beginning and `*`. All, if there are none.
    #[serde(default)]
    pub events: Vec<String>,
}

/// A kind of place for records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardKind {
    /// systemd's journal, by its native protocol.
    Journald,
    /// RFC 5424 over TCP or TLS.
    Syslog,
    /// OpenTelemetry logs over HTTP.
    Otlp,
}

/// What a message holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageFormat {
    /// The record as it stands.
    #[default]
    Jsonl,
    /// The event of the Open Cybersecurity Schema Framework.
    Ocsf,
}

/// Checkpoints to one place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// What it is called; by default its kind.
    pub name: Option<String>,
    /// How it is spoken to.
    pub kind: AnchorKind,
    /// The file that they are appended to.
    pub path: Option<PathBuf>,
    /// Where it is.
    pub address: Option<String>,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca: Option<PathBuf>,
}

/// A kind of place for checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnchorKind {
    /// A file, on another mount if it is to be worth something.
    File,
    /// systemd's journal.
    Journald,
    /// RFC 5424 over TCP or TLS.
    Syslog,
    /// A POST a checkpoint.
    Http,
}

/// Where numbers can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// A Unix socket.
    pub socket: Option<PathBuf>,
    /// An address of the loopback.
    pub listen: Option<std::net::SocketAddr>,
}

/// Where something goes, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Names its state file.
    pub name: String,
    /// How to get there.
    pub place: TargetPlace,
    /// Certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// What a message holds.
    pub format: MessageFormat,
    /// Which events.
    pub events: Vec<String>,
    /// Whether it gets checkpoints and no records.
    pub anchor: bool,
}

/// How to get somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPlace {
    /// A datagram socket of journald's.
    Journald(PathBuf),
    /// A syslog receiver.
    Syslog(Address),
    /// A collector of OpenTelemetry.
    Otlp(Address),
    /// A file.
    File(PathBuf),
    /// An HTTP server.
    Http(Address),
}

const JOURNALD: &str = "/run/systemd/journal/socket";

impl Forwarding {
    /// Whether it can be used; the error is one line.
    pub fn check(&self) -> Result<(), String> {
        self.targets()?;
        let listen = self.metrics.as_ref().and_then(|metrics| metrics.listen);
        match listen.filter(|listen| !listen.ip().is_loopback()) {
            None => Ok(()),
            Some(listen) => Err(format!(
                "metrics.listen = \"{listen}\": only addresses of the loopback are listened on"
            )),
        }
    }

    /// Everything that something goes to.
    pub fn targets(&self) -> Result<Vec<Target>, String> {
        let forwards = self.forward.iter().map(Forward::target);
        let anchors = self.anchor.iter().map(Anchor::target);
        let targets = forwards.chain(anchors).collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<_> = targets.iter().map(|target| &target.name).collect();
        names.sort_unstable();
        let twice = names
            .iter()
            .zip(names.iter().skip(1))
            .find(|(one, two)| one == two);
        if let Some((one, _)) = twice {
            return Err(format!(
                "two are called {one:?}: give each a name of its own"
            ));
        }
        Ok(targets)
    }
}

impl Forward {
    fn target(&self) -> Result<Target, String> {
        let name = named(&self.name)?;
        let address = || wanted(&name, self.address.as_deref(), "address");
        let place = match self.kind {
            ForwardKind::Journald => journald(self.address.as_deref()),
            ForwardKind::Syslog => {
                TargetPlace::Syslog(Address::parse(&address()?, &["tcp", "tls"])?)
            }
            ForwardKind::Otlp => {
                TargetPlace::Otlp(Address::parse(&address()?, &["http", "https"])?)
            }
        };
        Ok(Target {
            place,
            ca: self.ca.clone(),
            format: self.format,
            events: self.events.clone(),
            anchor: false,
            name,
        })
    }
}

impl Anchor {
    fn target(&self) -> Result<Target, String> {
        let kind = match self.kind {
            AnchorKind::File => "anchor-file",
            AnchorKind::Journald => "anchor-journald",
            AnchorKind::Syslog => "anchor-syslog",
            AnchorKind::Http => "anchor-http",
        };
        let name = named(self.name.as_deref().unwrap_or(kind))?;
        let address = || wanted(&name, self.address.as_deref(), "address");
        let place = match self.kind {
            AnchorKind::File => {
                let path = self.path.clone().filter(|path| path.is_absolute());
                TargetPlace::File(path.ok_or(format!("{name}: path must be an absolute path"))?)
            }
            AnchorKind::Journald => journald(self.address.as_deref()),
            AnchorKind::Syslog => {
                TargetPlace::Syslog(Address::parse(&address()?, &["tcp", "tls"])?)
            }
            AnchorKind::Http => TargetPlace::Http(Address::parse(&address()?, &["http", "https"])?),
        };
        Ok(Target {
            place,
            ca: self.ca.clone(),
            format: MessageFormat::Jsonl,
            events: Vec::new(),
            anchor: true,
            name,
        })
    }
}

fn journald(address: Option<&str>) -> TargetPlace {
    TargetPlace::Journald(address.unwrap_or(JOURNALD).into())
}

/// It becomes the name of a file.
fn named(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        return Err(format!(
            "name {name:?}: accepted are letters, digits, '-' and '_', at most 64"
        ));
    }
    Ok(name.to_owned())
}

fn wanted(name: &str, value: Option<&str>, key: &str) -> Result<String, String> {
    let value = value.map(str::to_owned);
    value.ok_or_else(|| format!("{name}: {key} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::settings::Settings;

    fn read(text: &str) -> Result<Vec<Target>, String> {
        let read = Settings::parse("audit.toml", text).map_err(|error| error.to_string())?;
        read.forwarding.targets()
    }

    #[test]
    fn a_file_is_taken_whole_or_refused_with_what_is_wrong() {
        let good = r#"
            [[forward]]
            name = "siem"
            kind = "syslog"
            address = "tls://siem.corp:6514"
            format = "ocsf"
            events = ["egress.*"]
            [[anchor]]
            kind = "file"
            path = "/mnt/anchor"
            [metrics]
            listen = "127.0.0.1:9464"
        "#;
        let targets = read(good).unwrap();
        let places: Vec<_> = targets.iter().map(|target| &target.place).collect();
        let siem = Address::parse("tls://siem.corp:6514", &["tls"]).unwrap();
        let file = TargetPlace::File("/mnt/anchor".into());
        assert_eq!(places, [&TargetPlace::Syslog(siem), &file]);
        assert_eq!(targets[1].name, "anchor-file");
        for (from, to, why) in [
            ("127.0.0.1", "0.0.0.0", "only addresses of the loopback"),
            ("tls://", "udp://", "tcp, tls"),
            ("format", "fromat", "unknown field"),
            ("\"siem\"", "\"../x\"", "letters, digits"),
            ("\"siem\"", "\"anchor-file\"", "two are called"),
            ("/mnt", "mnt", "absolute"),
        ] {
            let refused = read(&good.replacen(from, to, 1)).unwrap_err();
            assert!(refused.contains(why), "{to}: {refused}");
        }
    }
}

//! `audit.toml`: what the host, or a user for logs of their own, wants done with logs besides writing them.
//!
//! The one reader of the file: whoever needs a table of it reads all of it, and a key that is not known is an error for all.
//! Read by the verbs and processes that act on it: prune, forward, the notary, and the audit writer, which gets it open.
//! Never by portcullisd, a session or a gate.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::forward::config::{Anchor, Forward, Forwarding, Metrics};
use super::retention::Retention;
use super::retention::rules::RetentionFile;
use super::roll::{Segments, SegmentsFile};
use crate::sys::admin_file;

/// The host's.
pub const HOSTS: &str = "/etc/portcullis/audit.toml";

/// A user's own, as it is called in messages where the path is not known.
pub const OWN: &str = "$XDG_CONFIG_HOME/portcullis/audit.toml";

/// The tables that stand once.
const TABLES: [&str; 8] = [
    "retention",
    "retention.logs",
    "retention.bodies",
    "retention.output",
    "segments",
    "segments.logs",
    "segments.ledger",
    "metrics",
];

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// How long and how much is kept.
    pub retention: Retention,
    /// When logs and the ledger go on in another segment.
    pub segments: Segments,
    /// What goes where.
    pub forwarding: Forwarding,
}

/// The file form: every table there is. Whoever needs one reads all.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct SettingsFile {
    retention: RetentionFile,
    segments: SegmentsFile,
    forward: Vec<Forward>,
    anchor: Vec<Anchor>,
    metrics: Option<Metrics>,
}

/// The file cannot be used; one line with place and cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl Settings {
    /// The host's own, for the logs of the service; the defaults where there is no file.
    pub fn of_the_host() -> Result<Self, SettingsError> {
        let text = admin_file::read(Path::new(HOSTS)).map_err(SettingsError)?;
        text.map_or_else(|| Ok(Self::default()), |text| Self::parse(HOSTS, &text))
    }

    /// A user's, for logs of their own: `$XDG_CONFIG_HOME/portcullis/audit.toml`; the defaults where there is no
    /// file.
    pub fn own(variable: impl Fn(&'static str) -> Option<OsString>) -> Result<Self, SettingsError> {
        let Some(path) = own_path(variable) else {
            return Ok(Self::default());
        };
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(unreadable(&path.to_string_lossy(), &error)),
            Ok(file) => Self::read_open(&path.to_string_lossy(), file),
        }
    }

    /// A file that somebody names, which is there.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let place = path.to_string_lossy();
        let file = File::open(path).map_err(|error| unreadable(&place, &error))?;
        Self::read_open(&place, file)
    }

    /// The same of an open file.
    pub fn read_open(place: &str, file: File) -> Result<Self, SettingsError> {
        let text = admin_file::text(file).map_err(|error| unreadable(place, &error))?;
        Self::parse(place, &text)
    }

    /// What this text says; `place` names it in errors.
    pub fn parse(place: &str, text: &str) -> Result<Self, SettingsError> {
        let wrong = |error: String| SettingsError(format!("{place}: {error}"));
        let told = |error: toml::de::Error| wrong(error.to_string().trim().replace('\n', " "));
        let table: toml::Table = toml::from_str(text).map_err(told)?;
        // serde would take a list for a table, by the order of its fields.
        for path in TABLES {
            let value = path.split('.').try_fold(None, |above, key| {
                let above: Option<&toml::Value> = above;
                let table = above.map_or(Some(&table), toml::Value::as_table)?;
                table.get(key).map(Some)
            });
            if value.flatten().is_some_and(|value| !value.is_table()) {
                return Err(wrong(format!("{path}: expected a table")));
            }
        }
        let file: SettingsFile = toml::from_str(text).map_err(told)?;
        let forwarding = Forwarding {
            forward: file.forward,
            anchor: file.anchor,
            metrics: file.metrics,
        };
        forwarding.check().map_err(wrong)?;
        Ok(Self {
            retention: file.retention.read().map_err(wrong)?,
            segments: file.segments.read().map_err(wrong)?,
            forwarding,
        })
    }
}

/// The file cannot be read.
pub(super) fn unreadable(place: &str, error: &io::Error) -> SettingsError {
    SettingsError(format!("read {place}: {error}"))
}

/// Where a user's file is. A relative variable counts as unset (XDG Base Directory Specification 0.8).
pub fn own_path(variable: impl Fn(&'static str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let config = absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(config.join("portcullis/audit.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_whole_or_not_at_all() {
        assert_eq!(Settings::parse("audit.toml", ""), Ok(Settings::default()));
        let error = Settings::parse("audit.toml", "[retention.logs]\nage = 'x'\n").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("audit.toml: retention.logs.age"),
            "{error}"
        );
        let all = "[[forward]]\nname = 'j'\nkind = 'journald'\n[[anchor]]\nkind = 'file'\npath = '/a'\n[metrics]\n\
                   [segments.logs]\nsize = '2M'\n[retention]\npack_after = 'never'\n";
        let read = Settings::parse("audit.toml", all).unwrap();
        assert_eq!(read.segments.logs.bytes, 2 << 20);
        assert_eq!(read.retention.pack_after, None);
        assert_eq!(read.forwarding.targets().unwrap().len(), 2);
        assert!(Settings::parse("audit.toml", "[retain]\n").is_err());
        for list in [
            "[[retention]]",
            "[[retention.logs]]",
            "[[segments]]",
            "[[segments.ledger]]",
            "[[metrics]]",
            "metrics = [\"/run/m\"]",
        ] {
            let error = Settings::parse("audit.toml", list).unwrap_err();
            assert!(error.to_string().ends_with("expected a table"), "{error}");
        }
    }

    #[test]
    fn a_user_without_a_file_has_the_defaults() {
        let base = tempfile::tempdir().unwrap();
        let home = base.path().to_owned();
        let variable = |name| (name == "HOME").then(|| home.clone().into_os_string());
        assert_eq!(Settings::own(variable), Ok(Settings::default()));
        std::fs::create_dir_all(home.join(".config/portcullis")).unwrap();
        let file = home.join(".config/portcullis/audit.toml");
        std::fs::write(&file, "[retention]\npack_after = 'never'\n").unwrap();
        assert_eq!(Settings::own(variable).unwrap().retention.pack_after, None);
    }
}

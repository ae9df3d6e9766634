//! The rules, as `audit.toml` has them: `[retention.logs] age = "90d"`, `size = "20G"`.

use std::time::Duration;

use serde::Deserialize;

use crate::policy::amount::{milliseconds, size};

/// How long and how much of one stream is kept; without a rule all of it, for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// What was last written longer ago goes.
    pub age: Option<Duration>,
    /// What is beyond this many bytes goes, the oldest first.
    pub size: Option<u64>,
}

/// How long and how much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The segments of logs.
    pub logs: Keep,
    /// Bodies that were captured.
    pub bodies: Keep,
    /// What detached sessions printed.
    pub output: Keep,
    /// How long after its last record a closed segment is packed; `None`: never.
    pub pack_after: Option<Duration>,
}

/// How long after its last record a closed segment is packed, where no file says.
const PACK_AFTER: Duration = Duration::from_hours(24);

impl Default for Retention {
    fn default() -> Self {
        Self {
            logs: Keep::default(),
            bodies: Keep::default(),
            output: Keep::default(),
            pack_after: Some(PACK_AFTER),
        }
    }
}

/// The file form of [`Retention`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RetentionFile {
    logs: KeepFile,
    bodies: KeepFile,
    output: KeepFile,
    pack_after: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct KeepFile {
    age: Option<String>,
    size: Option<String>,
}

impl RetentionFile {
    /// The valid form. The error names the key and what it takes.
    pub fn read(&self) -> Result<Retention, String> {
        let pack_after = match self.pack_after.as_deref() {
            None => Some(PACK_AFTER),
            Some("never") => None,
            Some(text) => Some(time("retention.pack_after", text)?),
        };
        Ok(Retention {
            logs: self.logs.read("logs")?,
            bodies: self.bodies.read("bodies")?,
            output: self.output.read("output")?,
            pack_after,
        })
    }
}

impl KeepFile {
    fn read(&self, stream: &str) -> Result<Keep, String> {
        let age = self.age.as_deref();
        let bytes = self.size.as_deref();
        Ok(Keep {
            age: age
                .map(|age| time(&format!("retention.{stream}.age"), age))
                .transpose()?,
            size: bytes
                .map(|bytes| amount(&format!("retention.{stream}.size"), bytes))
                .transpose()?,
        })
    }
}

/// A time as people write it; `what` is the key or the flag.
pub fn time(what: &str, text: &str) -> Result<Duration, String> {
    let found = milliseconds(text).filter(|found| *found > 0);
    found.map(Duration::from_millis).ok_or_else(|| {
        format!("{what}: {text:?} is not a time as \"12h\" or \"90d\"; nothing was removed")
    })
}

/// A number of bytes as people write it; `what` is the key or the flag.
pub fn amount(what: &str, text: &str) -> Result<u64, String> {
    size(text).ok_or_else(|| {
        format!("{what}: {text:?} is not a size as \"500M\" or \"20G\"; nothing was removed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Retention, String> {
        let file: RetentionFile = toml::from_str(text).map_err(|error| error.to_string())?;
        file.read()
    }

    #[test]
    fn without_rules_all_is_kept_and_packed_after_a_day() {
        let kept = read("").unwrap();
        assert_eq!(kept, Retention::default());
        assert_eq!(kept.logs, Keep::default());
        assert_eq!(kept.pack_after, Some(Duration::from_hours(24)));
    }

    #[test]
    fn each_stream_has_its_own_rules() {
        let text =
            "pack_after = 'never'\n[logs]\nage = '90d'\nsize = '20G'\n[output]\nage = '12h'\n";
        let day = Duration::from_hours(24);
        let expected = Retention {
            logs: Keep {
                age: Some(90 * day),
                size: Some(20 << 30),
            },
            bodies: Keep::default(),
            output: Keep {
                age: Some(day / 2),
                size: None,
            },
            pack_after: None,
        };
        assert_eq!(read(text), Ok(expected));
    }

    #[test]
    fn what_is_no_time_or_size_is_refused_by_its_key() {
        for (text, key) in [
            ("[logs]\nage = '90'", "retention.logs.age"),
            ("[logs]\nage = '0d'", "retention.logs.age"),
            ("[bodies]\nsize = 'much'", "retention.bodies.size"),
            ("pack_after = 'soon'", "retention.pack_after"),
            ("[logs]\ndays = 3", "days"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
    }
}

//! When a segment is followed by the next: `[segments.logs]` and `[segments.ledger]` of `audit.toml`.

use serde::{Deserialize, Serialize};

use crate::policy::amount::size;

/// How long a segment may become, in bytes, where nobody says otherwise: 64 MiB.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// The shortest that may be asked for: below it a busy day makes more files than a folder is good for.
const SHORTEST: u64 = 1 << 20;

/// The longest: a segment is packed, and unpacked to be read, as a whole.
const LONGEST: u64 = 4 << 30;

/// How many bytes of a time name its day: `2026-11-23`.
const DAY: usize = 10;

/// When one stream goes on in its next segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roll {
    /// Before it is longer than this, in bytes. What is written at once stays together.
    pub bytes: u64,
    /// Before the first record of another day (UTC).
    pub daily: bool,
}

/// The same of all streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segments {
    /// Of the sessions' logs.
    pub logs: Roll,
    /// Of the ledger beside them.
    pub ledger: Roll,
}

/// The file form of [`Segments`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct SegmentsFile {
    logs: RollFile,
    ledger: RollFile,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct RollFile {
    size: Option<String>,
    daily: Option<bool>,
}

impl Default for Roll {
    fn default() -> Self {
        Self {
            bytes: SEGMENT_BYTES,
            daily: true,
        }
    }
}

impl Roll {
    /// All in one segment.
    pub const NEVER: Self = Self {
        bytes: u64::MAX,
        daily: false,
    };

    /// Whether what is written now belongs into the next segment, where this one has so many bytes and was last written
    /// then. Times are RFC 3339, UTC.
    pub(super) fn is_due(self, length: u64, more: u64, last: &str, now: &str) -> bool {
        let other_day = last.get(..DAY) != now.get(..DAY);
        length.saturating_add(more) > self.bytes || self.daily && other_day
    }
}

impl SegmentsFile {
    /// The valid form. The error names the key and what it takes.
    pub fn read(&self) -> Result<Segments, String> {
        Ok(Segments {
            logs: self.logs.read("logs")?,
            ledger: self.ledger.read("ledger")?,
        })
    }
}

impl RollFile {
    fn read(&self, stream: &str) -> Result<Roll, String> {
        let ours = Roll::default();
        let bytes = match self.size.as_deref() {
            None => ours.bytes,
            Some(text) => size(text)
                .filter(|bytes| (SHORTEST..=LONGEST).contains(bytes))
                .ok_or_else(|| {
                    let what = "a size from \"1M\" to \"4G\"";
                    format!("segments.{stream}.size: {text:?} is not {what}")
                })?,
        };
        let daily = self.daily.unwrap_or(ours.daily);
        Ok(Roll { bytes, daily })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Segments, String> {
        let file: SegmentsFile = toml::from_str(text).map_err(|error| error.to_string())?;
        file.read()
    }

    #[test]
    fn each_stream_has_its_own_rule_within_bounds() {
        assert_eq!(read(""), Ok(Segments::default()));
        let text = "[logs]\nsize = '1M'\n[ledger]\nsize = '4G'\ndaily = false\n";
        let expected = Segments {
            logs: Roll {
                bytes: 1 << 20,
                daily: true,
            },
            ledger: Roll {
                bytes: 4 << 30,
                daily: false,
            },
        };
        assert_eq!(read(text), Ok(expected));
        for (text, key) in [
            ("[logs]\nsize = '1048575'", "segments.logs.size"),
            ("[ledger]\nsize = '5G'", "segments.ledger.size"),
            ("[ledger]\nsize = 'much'", "segments.ledger.size"),
            ("[ledger]\ndaily = 'yes'", "daily"),
            ("[ledger]\nage = '1d'", "age"),
            ("size = '2M'", "size"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn a_segment_ends_when_it_is_full_or_its_day_is_over() {
        let (last, today) = ("2026-11-23T23:59:59.9Z", "2026-11-23T23:59:59.99Z");
        let tomorrow = "2026-11-24T00:00:00Z";
        let roll = Roll {
            bytes: 10,
            daily: true,
        };
        assert!(!roll.is_due(4, 6, last, today));
        assert!(roll.is_due(4, 7, last, today));
        assert!(roll.is_due(4, 6, last, tomorrow));
        let daily = false;
        assert!(!Roll { daily, ..roll }.is_due(4, 6, last, tomorrow));
        assert!(!Roll::NEVER.is_due(u64::MAX, 1, last, tomorrow));
    }
}

//! Where each value of a profile was written: what `policy show --origin` prints.

use std::fmt;

use super::Profile;

/// Every value of a profile, in the order of its keys, with the place that put it there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<Origin>);

/// One value: a scalar, or one entry of a list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Origin {
    /// The path of the key, as `filesystem.masked`.
    pub key: String,
    /// The value as TOML.
    pub value: String,
    /// Where it was written, as `/etc/portcullis/profiles/ci.toml` or `the command line`.
    pub place: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.key, self.value)
    }
}

impl Origins {
    /// The values.
    pub fn values(&self) -> &[Origin] {
        &self.0
    }

    /// Notes what a place made of the profile: whatever was not there before is from there. A list is
    /// noted entry by entry, because layers add to it.
    pub(super) fn note(&mut self, profile: &Profile, place: &str) -> Result<(), toml::ser::Error> {
        let before = std::mem::take(&mut self.0);
        let mut values = Vec::new();
        let mut table = toml::Table::try_from(profile)?;
        table.remove("name");
        flatten("", toml::Value::Table(table), &mut values);
        self.0 = values
            .into_iter()
            .map(|(key, value)| {
                let known = before
                    .iter()
                    .find(|known| known.key == key && known.value == value);
                let place = known.map_or(place, |known| &known.place).to_owned();
                Origin { key, value, place }
            })
            .collect();
        Ok(())
    }
}

/// Key paths and values as text. An empty list or table says nothing.
fn flatten(key: &str, value: toml::Value, into: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let name = quoted(&name);
                let below = if key.is_empty() {
                    name
                } else {
                    format!("{key}.{name}")
                };
                flatten(&below, value, into);
            }
        }
        toml::Value::Array(entries) => {
            for entry in entries {
                into.push((key.to_owned(), entry_text(entry)));
            }
        }
        scalar @ (toml::Value::String(_)
        | toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_)) => into.push((key.to_owned(), scalar.to_string())),
    }
}

/// An entry of a list on one line. The name of a rule tells where it was written, not what it says.
fn entry_text(mut entry: toml::Value) -> String {
    if let toml::Value::Table(table) = &mut entry {
        table.remove("id");
        table.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
    }
    entry.to_string()
}

/// A key as TOML wants it written.
fn quoted(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if !name.is_empty() && name.bytes().all(bare) {
        name.to_owned()
    } else {
        toml::Value::String(name.to_owned()).to_string()
    }
}

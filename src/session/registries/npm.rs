//! npm: `registry` and every `@scope:registry` of its merged configuration, defaults included.

use std::ffi::OsStr;

use serde_json::Value;

use super::client::Trusted;
use super::{Place, place};

pub(super) fn places(trusted: &Trusted) -> Result<Vec<Place>, String> {
    let npm = trusted.program("npm")?;
    let told = trusted.ask(&npm, &["config", "list", "--json"].map(OsStr::new))?;
    let config: serde_json::Map<String, Value> =
        serde_json::from_str(&told).map_err(|error| format!("npm config list --json: {error}"))?;
    Ok(config
        .iter()
        .filter(|(key, _)| *key == "registry" || key.ends_with(":registry"))
        .filter_map(|(key, value)| place(value.as_str()?, &format!("npm config: {key}")))
        .collect())
}

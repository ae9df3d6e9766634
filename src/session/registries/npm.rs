//! npm: its registry, and those of scopes (`@scope:registry`), as `npm config` resolves them.

use std::collections::BTreeSet;

use super::super::caller::Caller;
use super::{Site, ask::ask, site};

pub(super) fn sites(caller: &Caller) -> Result<BTreeSet<Site>, String> {
    let text = ask(caller, "npm", &["config", "list", "--json"])?;
    let config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&text).map_err(|error| format!("npm config list: {error}"))?;
    Ok(config
        .iter()
        .filter(|(key, _)| *key == "registry" || key.ends_with(":registry"))
        .filter_map(|(_, value)| site(value.as_str()?))
        .collect())
}

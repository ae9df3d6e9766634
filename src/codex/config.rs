//! The configuration that the jail imposes on Codex: `/etc/codex/managed_config.toml`, which wins over
//! the user's `config.toml` (0.118 to 0.169), but not over the command line ([`super::argv`]).

use toml::{Table, Value};

/// Renders the managed configuration; `profile` is the profile's own `[codex.config]`, which wins over
/// everything here but the sandbox mode.
pub fn managed(profile: &Table) -> String {
    let mut config = defaults();
    merge(&mut config, profile);
    // The jail is the sandbox. Codex's own cannot start in it: every command would fail, and Codex
    // would still exit with 0.
    config.insert("sandbox_mode".to_owned(), "danger-full-access".into());
    toml::to_string(&config).unwrap_or_default()
}

/// Measured on 0.118 and 0.169; a key that a version does not know is ignored by it.
fn defaults() -> Table {
    let mut config = Table::new();
    config.insert("check_for_update_on_startup".to_owned(), false.into());
    // About 600 KB of metrics a run, to a host that no profile lists.
    config.insert("analytics".to_owned(), off(&["enabled"]));
    config.insert(
        "features".to_owned(),
        off(&[
            // Clones a repository at each start.
            "plugins",
            // Asks a host for models that an API key does not need; nine seconds when refused.
            "api_key_model_discovery",
            // Retries a refused host for ever.
            "unbounded_connection_retries",
        ]),
    );
    config
}

fn off(keys: &[&str]) -> Value {
    Value::Table(
        keys.iter()
            .map(|key| ((*key).to_owned(), false.into()))
            .collect(),
    )
}

fn merge(into: &mut Table, from: &Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_wins_over_the_defaults_but_not_over_the_jail() {
        let profile = "sandbox_mode = \"read-only\"\nmodel = \"m\"\n[features]\nplugins = true\n";
        let text = managed(&profile.parse().unwrap());
        let expected = "\
check_for_update_on_startup = false
sandbox_mode = \"danger-full-access\"
model = \"m\"

[analytics]
enabled = false

[features]
plugins = true
api_key_model_discovery = false
unbounded_connection_retries = false
";
        assert_eq!(
            text.parse::<Table>().unwrap(),
            expected.parse::<Table>().unwrap()
        );
    }
}

//! Codex's managed configuration for the jail.
//!
//! Codex reads `/etc/codex/managed_config.toml` after every other file and after `-c`: what stands
//! there wins over the caller's `config.toml`, also over its `default_permissions` and over a
//! `--profile` file. Only `-s`, `-c default_permissions=…` and, in 0.118, a `[profiles.*]` table still
//! beat it: [`super::argv`] sees to those. Keys that a version does not know are ignored by it, also
//! with `--strict-config` in 0.169, which knows all of these. Tried with 0.118.0 and 0.169.0.

use toml::{Table, Value};

/// Where the jail shows it.
pub const MANAGED_CONFIG: &str = "/etc/codex/managed_config.toml";

/// The text of [`MANAGED_CONFIG`]: our settings, then those of the profile's `[codex] config`.
pub fn managed_config(profile: &Table) -> String {
    let mut config = Table::new();
    for (path, value, _why) in SETTINGS {
        set(&mut config, path, value);
    }
    merge(&mut config, profile);
    // Not for a profile to change: any other mode starts bubblewrap in the jail, which fails there,
    // and then every command fails while Codex itself exits 0.
    set(
        &mut config,
        &["sandbox_mode"],
        &Setting::Word("danger-full-access"),
    );
    config.remove("default_permissions");
    config.to_string()
}

/// A value in [`SETTINGS`].
enum Setting {
    Word(&'static str),
    Off,
}

/// Key, value, why.
const SETTINGS: &[(&[&str], Setting, &str)] = &[
    (
        &["check_for_update_on_startup"],
        Setting::Off,
        "the installation is read-only in the jail, and the release host is off the list",
    ),
    (
        &["analytics", "enabled"],
        Setting::Off,
        "else half a megabyte of metrics goes to another host than the model's",
    ),
    (
        &["features", "plugins"],
        Setting::Off,
        "else every start clones a repository and asks two more hosts",
    ),
    (
        &["features", "apps"],
        Setting::Off,
        "else the apps that a ChatGPT account is connected to are tools: a way out that no rule sees",
    ),
    (
        &["features", "api_key_model_discovery"],
        Setting::Off,
        "else 0.169 sends the API key to a second host, and waits nine seconds when that is refused",
    ),
    (
        &["features", "unbounded_connection_retries"],
        Setting::Off,
        "else 0.169 tries for ever when the model's host is refused, instead of half a minute",
    ),
];

fn set(table: &mut Table, path: &[&str], setting: &Setting) {
    let value = match setting {
        Setting::Word(word) => Value::from(*word),
        Setting::Off => Value::from(false),
    };
    let nested = path.iter().rev().fold(value, |value, key| {
        Value::Table(Table::from_iter([((*key).to_owned(), value)]))
    });
    if let Value::Table(nested) = nested {
        merge(table, &nested);
    }
}

/// Tables are merged key by key; of anything else the later wins.
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

    fn rendered(profile: &str) -> Table {
        managed_config(&profile.parse().unwrap()).parse().unwrap()
    }

    #[test]
    fn without_a_profile_codex_has_no_sandbox_of_its_own_and_talks_to_the_model_alone() {
        let wanted = r#"
            sandbox_mode = "danger-full-access"
            check_for_update_on_startup = false
            [analytics]
            enabled = false
            [features]
            plugins = false
            apps = false
            api_key_model_discovery = false
            unbounded_connection_retries = false
        "#;
        assert_eq!(rendered(""), wanted.parse::<Table>().unwrap());
    }

    #[test]
    fn a_profile_wins_key_by_key_but_for_the_sandbox() {
        let config = rendered(
            r#"
            model = "m"
            sandbox_mode = "read-only"
            default_permissions = "mine"
            [features]
            plugins = true
            "#,
        );
        let wanted = r#"
            model = "m"
            sandbox_mode = "danger-full-access"
            check_for_update_on_startup = false
            [analytics]
            enabled = false
            [features]
            plugins = true
            apps = false
            api_key_model_discovery = false
            unbounded_connection_retries = false
        "#;
        assert_eq!(config, wanted.parse::<Table>().unwrap());
    }
}

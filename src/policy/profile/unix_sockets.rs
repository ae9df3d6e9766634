//! `[network.unix_sockets]`: file form → valid form.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::{ProfileError, not_one_of};
use super::read::Source;
use crate::policy::unix_socket::{UnixSocket, parse_path};

/// Reads the entries; a later layer's entry replaces an earlier one's.
pub(super) fn overlay(
    policy: &mut BTreeMap<PathBuf, UnixSocket>,
    source: Source<'_>,
    entries: BTreeMap<String, String>,
) -> Result<(), ProfileError> {
    for (text, action) in entries {
        let key = format!("network.unix_sockets.{text:?}");
        let path = parse_path(&text).map_err(|problem| source.wrong(&key, problem))?;
        let action = match action.as_str() {
            "allow" => UnixSocket::Allow,
            "allow-dangerous" => UnixSocket::AllowDangerous,
            "deny" => UnixSocket::Deny,
            other => {
                let accepted = ["allow", "allow-dangerous", "deny"];
                return Err(not_one_of(source.profile, &key, other, &accepted));
            }
        };
        policy.insert(path, action);
    }
    Ok(())
}

//! pip: the indexes of its configuration, or the one it has built in, and where that keeps its files.

use std::collections::BTreeSet;

use crate::policy::Port;

use super::super::caller::Caller;
use super::{Site, ask::ask, site};

/// pip knows its default index and the host of that index's files; no option prints them.
const DEFAULTS: &str = "from pip._internal.models.index import PyPI as i; print(i.simple_url); print(i.file_storage_domain)";

pub(super) fn sites(caller: &Caller) -> Result<BTreeSet<Site>, String> {
    let config = ask(caller, "python3", &["-m", "pip", "config", "list"])?;
    let mut sites = BTreeSet::new();
    let mut has_index = false;
    for (key, value) in config.lines().filter_map(|line| line.split_once('=')) {
        let key = key.rsplit('.').next().unwrap_or(key);
        has_index |= key == "index-url";
        if matches!(key, "index-url" | "extra-index-url" | "find-links") {
            // Lists come as one value, parted by white space, sometimes as an escaped line feed.
            sites.extend(
                value
                    .trim_matches('\'')
                    .replace("\\n", " ")
                    .split_whitespace()
                    .filter_map(site),
            );
        }
    }
    if !has_index {
        sites.extend(defaults(&ask(caller, "python3", &["-c", DEFAULTS])?));
    }
    Ok(sites)
}

/// A URL on the first line, a host on the second.
fn defaults(text: &str) -> Vec<Site> {
    let mut lines = text.lines();
    let index = lines.next().and_then(site);
    let files = lines.next().map(|host| Site {
        pattern: host.trim().to_owned(),
        port: Port::HTTPS,
    });
    index.into_iter().chain(files).collect()
}

//! apt: the repositories that `apt-get indextargets` lists (sources.list and deb822 files alike).

use std::ffi::OsStr;
use std::path::Path;

use super::client::Trusted;
use super::{Place, place, places_in};

pub(super) fn places(trusted: &Trusted) -> Result<Vec<Place>, String> {
    let apt = trusted.program("apt-get")?;
    // Without this option a repository shows only once its lists have been downloaded.
    let every = "--no-release-info";
    let arguments = ["indextargets", every, "--format", "$(REPO_URI)"].map(OsStr::new);
    let told = trusted.ask(&apt, &arguments)?;
    let mut uris: Vec<&str> = told.lines().collect();
    uris.sort_unstable();
    uris.dedup();
    Ok(uris
        .into_iter()
        .flat_map(|uri| of_repository(trusted, uri))
        .collect())
}

/// The hosts of one repository: its own, those of a list of mirrors in a file, or, for a list that is
/// itself downloaded, the host of the list (apt-transport-mirror(1)).
fn of_repository(trusted: &Trusted, uri: &str) -> Vec<Place> {
    let source = format!(
        "apt-get indextargets: {}",
        uri.split("://").next().unwrap_or_default()
    );
    if let Some(list) = uri.strip_prefix("mirror+file:") {
        let list = list.trim_end_matches('/');
        let text = trusted.read(Path::new(list)).unwrap_or_default();
        return places_in(&text, &format!("apt's mirror list {list}")).collect();
    }
    let url = uri.strip_prefix("mirror+").unwrap_or(uri);
    let url = match url.split_once("://") {
        Some(("mirror", rest)) => format!("http://{rest}"),
        Some(("http" | "https", _)) => url.to_owned(),
        // cdrom:, file:, copy:, ssh:, tor+http: …: nothing that the gate would carry.
        _ => return Vec::new(),
    };
    place(&url, &source).into_iter().collect()
}

//! pip: what `pip config list` names (files and `PIP_` variables alike), and without an `index-url` the
//! defaults that pip itself is built with.

use std::ffi::OsStr;
use std::path::Path;

use super::client::Trusted;
use super::{Place, place, places_in};

/// Prints the default index and, since downloads do not come from it, the host of the files.
const DEFAULTS: &str = "\
import sys
sys.path.insert(0, sys.argv[1])
from pip._internal.models.index import PyPI
print(PyPI.simple_url)
print('https://' + PyPI.file_storage_domain)
";

pub(super) fn places(trusted: &Trusted) -> Result<Vec<Place>, String> {
    let pip = trusted
        .program("pip")
        .or_else(|_| trusted.program("pip3"))?;
    let told = trusted.ask(&pip, &["config", "list"].map(OsStr::new))?;
    let set = configured(&told);
    let mut places: Vec<Place> = set.iter().flat_map(|(_, places)| places.clone()).collect();
    let index_is_set = set.iter().any(|(key, _)| key.ends_with(".index-url"));
    let index_is_off = told.lines().any(|line| {
        line.split_once('=')
            .is_some_and(|(key, value)| key.ends_with(".no-index") && value != "'false'")
    });
    if !index_is_set && !index_is_off {
        places.extend(defaults(trusted, &pip)?);
    }
    Ok(places)
}

/// Of `pip config list` (`scope.key='value'` a line), the keys that name hosts.
fn configured(told: &str) -> Vec<(&str, Vec<Place>)> {
    let names_hosts = |key: &str| {
        [".index-url", ".extra-index-url", ".find-links"]
            .iter()
            .any(|end| key.ends_with(end))
    };
    told.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| names_hosts(key))
        .map(|(key, value)| {
            // A list in a file comes with its line breaks as \n.
            let value = value.replace("\\n", " ");
            (
                key,
                places_in(&value, &format!("pip config: {key}")).collect(),
            )
        })
        .collect()
}

/// What pip is built with, asked of the very package that `pip --version` names.
fn defaults(trusted: &Trusted, pip: &Path) -> Result<Vec<Place>, String> {
    let version = trusted.ask(pip, &[OsStr::new("--version")])?;
    let package = version
        .split_once(" from ")
        .and_then(|(_, rest)| rest.rsplit_once(" (python"))
        .map(|(package, _)| Path::new(package))
        .and_then(Path::parent)
        .ok_or_else(|| format!("unexpected answer of pip --version: {version:?}"))?;
    if !trusted.spares(package) {
        return Err(format!(
            "pip is installed below the workspace ({})",
            package.display()
        ));
    }
    let python = trusted.program("python3")?;
    // -I: neither the current folder nor PYTHON variables decide what is imported.
    let arguments = [
        OsStr::new("-I"),
        OsStr::new("-c"),
        OsStr::new(DEFAULTS),
        package.as_os_str(),
    ];
    let told = trusted.ask(&python, &arguments)?;
    Ok(told
        .lines()
        .filter_map(|url| place(url, "pip's own default"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_name_hosts_are_read_and_no_others() {
        let told = ":env:.find-links='/opt/wheels'\nglobal.index-url='https://u:p@a.test/simple'\n\
            global.trusted-host='evil.test'\nglobal.proxy='http://proxy.test'\n\
            install.extra-index-url='\\nhttps://b.test/x\\nhttp://c.test'\n";
        let hosts: Vec<String> = configured(told)
            .into_iter()
            .flat_map(|(key, places)| places.into_iter().map(move |p| format!("{key} {}", p.host)))
            .collect();
        assert_eq!(
            hosts,
            [
                "global.index-url a.test",
                "install.extra-index-url b.test",
                "install.extra-index-url c.test"
            ]
        );
    }
}

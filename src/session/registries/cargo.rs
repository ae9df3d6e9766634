//! cargo: the registries of its configuration, or the index that it has built in. Cargo prints neither,
//! so its own files are read: `config.toml`, the cached index, and the program itself.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::super::caller::Caller;
use super::{Site, site};

use crate::sys::process::find_in_path;

/// What precedes the URL of the built-in index in the program.
const MARK: &[u8] = b"sparse+https://";

/// The longest program that is searched, in bytes.
const LONGEST: u64 = 256 << 20;

pub(super) fn sites(caller: &Caller) -> Result<BTreeSet<Site>, String> {
    let home = caller
        .variable("CARGO_HOME")
        .map_or_else(|| caller.home.join(".cargo"), PathBuf::from);
    let config = config(&home);
    let mut indexes: BTreeSet<Site> = configured(&config)
        .iter()
        .filter_map(|url| site(url))
        .collect();
    let replaced = config
        .get("source")
        .and_then(|source| source.get("crates-io")?.get("replace-with"));
    if replaced.is_none() {
        let built_in = built_in(caller)?;
        // Until cargo has fetched the index once, nobody knows where it says that the crates are.
        if downloads(&home, &built_in).is_empty() {
            indexes.extend(with_neighbours(&built_in));
        }
        indexes.insert(built_in);
    }
    let cached: Vec<Site> = indexes
        .iter()
        .flat_map(|index| downloads(&home, index))
        .collect();
    indexes.extend(cached);
    Ok(indexes)
}

/// The caller's own configuration; a broken one is cargo's to complain about.
fn config(home: &Path) -> toml::Table {
    let read = |name: &str| std::fs::read_to_string(home.join(name)).ok();
    let text = read("config.toml").or_else(|| read("config"));
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Every URL of an index: `registries.*.index`, `source.*.registry`.
fn configured(config: &toml::Table) -> Vec<String> {
    let urls = |table: &str, key: &str| -> Vec<String> {
        let entries = config
            .get(table)
            .and_then(toml::Value::as_table)
            .into_iter()
            .flatten();
        entries
            .filter_map(|(_, entry)| Some(entry.get(key)?.as_str()?.to_owned()))
            .collect()
    };
    [urls("registries", "index"), urls("source", "registry")].concat()
}

/// Where the cached `config.json` of an index says that crates and the API are.
fn downloads(home: &Path, index: &Site) -> Vec<Site> {
    let folders = std::fs::read_dir(home.join("registry/index"))
        .into_iter()
        .flatten()
        .flatten();
    let mine = format!("{}-", index.pattern);
    let mine = folders.filter(|entry| entry.file_name().to_string_lossy().starts_with(&mine));
    let read = |folder: PathBuf| -> Option<serde_json::Value> {
        serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).ok()?).ok()
    };
    let configs = mine.filter_map(|entry| read(entry.path()));
    configs
        .flat_map(|config| {
            ["dl", "api"].map(|key| config.get(key).and_then(|url| site(url.as_str()?)))
        })
        .flatten()
        .collect()
}

/// The built-in index: the first URL behind [`MARK`] in the program that has a dot in its host.
fn built_in(caller: &Caller) -> Result<Site, String> {
    let program = program(caller).ok_or("cargo is not in PATH")?;
    let length = std::fs::metadata(&program)
        .map_err(|error| format!("cargo: {error}"))?
        .len();
    if length > LONGEST {
        return Err(format!("{} is too large to search", program.display()));
    }
    let bytes = std::fs::read(&program).map_err(|error| format!("cargo: {error}"))?;
    urls(&bytes)
        .find_map(|url| site(&url))
        .ok_or_else(|| "cargo names no index of its own".to_owned())
}

/// rustup puts a proxy of the same name into `PATH`; the real one is in the toolchain.
fn program(caller: &Caller) -> Option<PathBuf> {
    let path = caller.variable("PATH")?;
    let toolchain = super::ask::ask(caller, "rustc", &["--print", "sysroot"]).ok();
    let real = toolchain
        .map(|root| Path::new(root.trim()).join("bin/cargo"))
        .filter(|real| real.is_file());
    real.or_else(|| find_in_path(OsStr::new("cargo"), path).map(PathBuf::from))
}

fn urls(program: &[u8]) -> impl Iterator<Item = String> {
    let starts = program
        .windows(MARK.len())
        .enumerate()
        .filter(|(_, window)| *window == MARK);
    starts.filter_map(move |(at, _)| {
        let url: Vec<u8> = program
            .get(at..)?
            .iter()
            .copied()
            .take_while(|byte| is_url_byte(*byte))
            .take(200)
            .collect();
        // Strings stand side by side in a program: a URL ends with its first slash after the host.
        let url = String::from_utf8(url).ok()?;
        let host_end = url.get(MARK.len()..)?.find('/')? + MARK.len();
        url.get(..=host_end)
            .filter(|url| url.contains('.'))
            .map(str::to_owned)
    })
}

fn is_url_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+:/.-_".contains(&byte)
}

/// Everything of the same owner: the registrable domain of the index (Public Suffix List) and below.
fn with_neighbours(index: &Site) -> Option<Site> {
    let domain = psl::domain_str(&index.pattern)?;
    Some(Site {
        pattern: format!("**.{domain}"),
        port: index.port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_index_is_found_among_other_strings() {
        let program =
            b"..sparse+https://hints only\0sparse+https://index.mirror.test/sparse+registry..";
        let found: Vec<_> = urls(program).collect();
        assert_eq!(found, ["sparse+https://index.mirror.test/"]);
        assert_eq!(
            with_neighbours(&site(&found[0]).unwrap()).unwrap().pattern,
            "**.mirror.test"
        );
    }

    #[test]
    fn configured_indexes_are_those_of_registries_and_sources() {
        let config = "[registries.a]\nindex = \"sparse+https://a.test/i/\"\n[source.b]\nregistry = \"https://b.test\"\n[source.c]\ndirectory = \"v\"\n";
        assert_eq!(
            configured(&config.parse().unwrap()),
            ["sparse+https://a.test/i/", "https://b.test"]
        );
    }
}

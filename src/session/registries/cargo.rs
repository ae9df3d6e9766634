//! cargo: the registries of its configuration (replaced sources, `[registries]`, variables), and the
//! default index that is built into the program unless it is replaced.
//!
//! An index names another host for downloads in its `config.json`; cargo keeps a copy in its cache once
//! it has talked to that index. Without one, the default index stands for its whole domain, since its
//! downloads come from a sister of it; any other index stands for itself.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::client::Trusted;
use super::{Place, family, place};

/// How an index over HTTP begins in cargo's configuration, and in the program for the default one.
const SPARSE: &str = "sparse+https://";

/// The longest program that is searched; cargo has some 40 MB.
const MAX_PROGRAM: u64 = 256 << 20;

pub(super) fn places(trusted: &Trusted) -> Result<Vec<Place>, String> {
    let home = trusted
        .variable("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(trusted.home()?.join(".cargo")))
        .ok_or("neither CARGO_HOME nor HOME is set")?;
    let config = Config::read(trusted, &home);
    let mut indexes = config.indexes;
    if !config.default_is_replaced {
        let url = default_index(trusted)?;
        let index = place(&url, "cargo's own default").ok_or("cargo's default index is no URL")?;
        let cached = downloads(trusted, &home, &index);
        let sisters = family(&index.host).map(|host| Place {
            host,
            source: "cargo's own default; its downloads come from a sister".to_owned(),
            ..index.clone()
        });
        indexes.extend(if cached.is_empty() { sisters } else { None });
        indexes.push(index);
    }
    let downloads: Vec<Place> = indexes
        .iter()
        .flat_map(|index| downloads(trusted, &home, index))
        .collect();
    indexes.extend(downloads);
    Ok(indexes)
}

/// What the configuration says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Config {
    indexes: Vec<Place>,
    default_is_replaced: bool,
}

impl Config {
    /// `CARGO_HOME`'s own file and the variables: with `/` as working directory cargo reads no others.
    fn read(trusted: &Trusted, home: &Path) -> Self {
        let mut config = Self::default();
        for file in ["config.toml", "config"].map(|name| home.join(name)) {
            let table = trusted
                .read(&file)
                .and_then(|text| text.parse::<toml::Table>().ok());
            if let Some(table) = table {
                config.take_file(&table, &file.display().to_string());
                break;
            }
        }
        for (name, value) in trusted.variables() {
            config.take_variable(name, value);
        }
        config
    }

    fn take_file(&mut self, table: &toml::Table, source: &str) {
        let tables = |key: &str| {
            table
                .get(key)
                .and_then(toml::Value::as_table)
                .into_iter()
                .flatten()
        };
        for (name, entry) in tables("source").chain(tables("registries")) {
            let Some(entry) = entry.as_table() else {
                continue;
            };
            self.default_is_replaced |= name == "crates-io" && entry.contains_key("replace-with");
            for key in ["registry", "index"] {
                let url = entry.get(key).and_then(toml::Value::as_str);
                self.indexes.extend(url.and_then(|url| place(url, source)));
            }
        }
    }

    fn take_variable(&mut self, name: &str, value: &str) {
        let Some(rest) = name.strip_prefix("CARGO_") else {
            return;
        };
        self.default_is_replaced |= rest == "SOURCE_CRATES_IO_REPLACE_WITH";
        let names_index = (rest.starts_with("REGISTRIES_") && rest.ends_with("_INDEX"))
            || (rest.starts_with("SOURCE_") && rest.ends_with("_REGISTRY"))
            || rest == "REGISTRY_INDEX";
        if names_index {
            self.indexes.extend(place(value, name));
        }
    }
}

/// The hosts that an index names for downloads and its API, from cargo's cached copy of its
/// `config.json`. The cache's folders are named after the index's host and a hash.
fn downloads(trusted: &Trusted, home: &Path, index: &Place) -> Vec<Place> {
    let prefix = format!("{}-", index.host);
    let of_index = |folder: &PathBuf| {
        let name = folder
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default();
        name.strip_prefix(&prefix)
            .is_some_and(|hash| hash.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    trusted
        .list(&home.join("registry/index"))
        .iter()
        .filter(|folder| of_index(folder))
        .filter_map(|folder| trusted.read(&folder.join("config.json")))
        .filter_map(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
        .flat_map(|config| {
            let url = |key| {
                place(
                    config.get(key)?.as_str()?,
                    "cargo's cached config.json of the index",
                )
            };
            [url("dl"), url("api")].into_iter().flatten()
        })
        .collect()
}

/// The default index, out of the program: behind rustup's proxy lies the real one.
fn default_index(trusted: &Trusted) -> Result<String, String> {
    let mut program = trusted.program("cargo")?;
    let resolved = program
        .canonicalize()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if resolved.file_name() == Some(OsStr::new("rustup")) {
        let told = trusted.ask(&resolved, &["which", "cargo"].map(OsStr::new))?;
        program = PathBuf::from(told.trim_end());
    }
    if !trusted.spares(&program) {
        return Err(format!("{} lies below the workspace", program.display()));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(&program)
        .and_then(|file| file.take(MAX_PROGRAM).read_to_end(&mut bytes))
        .map_err(|error| format!("{}: {error}", program.display()))?;
    index_in(&bytes).ok_or_else(|| format!("no default index in {}", program.display()))
}

/// The first URL of an index in a program's bytes, up to the slash after its host.
fn index_in(bytes: &[u8]) -> Option<String> {
    let marker = SPARSE.as_bytes();
    let starts = bytes
        .windows(marker.len())
        .enumerate()
        .filter(|(_, window)| *window == marker);
    starts
        .filter_map(|(at, _)| {
            let rest = bytes.get(at + marker.len()..)?;
            let (host, _) = rest.split_at(rest.iter().take(254).position(|b| *b == b'/')?);
            let host = std::str::from_utf8(host).ok()?;
            // Other texts follow such a marker too; a host is one of a known top-level domain.
            let known = psl::suffix(host.as_bytes()).is_some_and(|suffix| suffix.is_known());
            (known && host.contains('.')).then(|| format!("https://{host}/"))
        })
        .find(|url| place(url, "").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (Vec<String>, bool) {
        let mut config = Config::default();
        config.take_file(&text.parse().unwrap(), "file");
        let shown = |p: &Place| format!("{}:{}", p.host, p.port);
        (
            config.indexes.iter().map(shown).collect(),
            config.default_is_replaced,
        )
    }

    #[test]
    fn replaced_sources_and_named_registries_are_found() {
        let text = "[source.crates-io]\nreplace-with='m'\n[source.m]\nregistry='sparse+https://m.test:8443/x/'\n\
            [registries.own]\nindex='https://git.test/index'\n[source.v]\ndirectory='/v'";
        assert_eq!(
            config(text),
            (
                vec!["m.test:8443".to_owned(), "git.test:443".to_owned()],
                true
            )
        );
        assert_eq!(config("[net]\nretry=1"), (Vec::new(), false));
    }

    #[test]
    fn variables_name_registries_too() {
        let mut config = Config::default();
        config.take_variable("CARGO_REGISTRIES_OWN_INDEX", "sparse+https://own.test/");
        config.take_variable("CARGO_HTTP_PROXY", "http://proxy.test");
        config.take_variable("CARGO_SOURCE_CRATES_IO_REPLACE_WITH", "own");
        let hosts: Vec<String> = config.indexes.iter().map(|p| p.host.to_string()).collect();
        assert_eq!(
            (hosts, config.default_is_replaced),
            (vec!["own.test".to_owned()], true)
        );
    }

    #[test]
    fn the_default_index_is_told_from_the_texts_around_it() {
        let program = b"xsparse+https://iints/sparse+https://index.example.com/https://y/";
        assert_eq!(
            index_in(program),
            Some("https://index.example.com/".to_owned())
        );
        assert_eq!(index_in(b"sparse+https://"), None);
    }
}

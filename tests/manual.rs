//! The pages of section 5 (systemd/man) against the code: the readers of the files say themselves, in their
//! errors, which keys, values and ranges they accept.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use portcullis::audit::settings::Settings;
use portcullis::policy::profile::{LayerText, Overlays, builtin};
use portcullis::policy::{Overrides, Profile, Requirements};

/// A key that nothing has.
const UNKNOWN: &str = "\"no such key\" = 1\n";

// === the files, as their readers tell of them ===

/// Reads a text, or says why not.
type Read = fn(&str) -> Result<(), String>;

fn load(text: &str, name: &str, nth: usize) -> Option<LayerText> {
    let text = if name == "p" {
        Some(text)
    } else {
        builtin(name)
    };
    text.filter(|_| nth == 0).map(|text| LayerText {
        text: text.to_owned(),
        place: name.to_owned(),
    })
}

fn profile(text: &str) -> Result<Profile, String> {
    let overrides = Overrides::default();
    let mut load = |name: &str, nth: usize| Ok(load(text, name, nth));
    Profile::read_layers("p", &mut load, Overlays::flags(&overrides))
        .map(|reading| reading.profile)
        .map_err(|error| error.to_string())
}

fn read_profile(text: &str) -> Result<(), String> {
    profile(text).map(drop)
}

fn read_requirements(text: &str) -> Result<(), String> {
    Requirements::parse("requirements.toml", text)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn read_audit(text: &str) -> Result<(), String> {
    Settings::parse("audit.toml", text)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn read_project(text: &str) -> Result<(), String> {
    let overrides = Overrides::default();
    let project = LayerText {
        text: text.to_owned(),
        place: ".portcullis.toml".to_owned(),
    };
    let over = Overlays {
        project: Some(&project),
        ..Overlays::flags(&overrides)
    };
    Profile::read_layers(
        "base",
        &mut |name: &str, nth: usize| Ok(load("", name, nth)),
        over,
    )
    .map(drop)
    .map_err(|error| error.to_string())
}

/// The words between two marks, as in: expected one of `a`, `b`.
fn quoted(text: &str, mark: char) -> Vec<String> {
    let words = text.split(mark).skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

/// The accepted words that an error lists, if it lists any.
fn listed(error: &str) -> Option<Vec<String>> {
    // A hint at the nearest word is no list.
    let (error, _) = error.split_once("; did you mean").unwrap_or((error, ""));
    if let Some((_, list)) = error.split_once(" is none of ") {
        return Some(quoted(list, '"'));
    }
    let unknown = error.contains("unknown field") || error.contains("unknown variant");
    let (_, list) = error.split_once(", expected ").filter(|_| unknown)?;
    Some(quoted(list, '`'))
}

/// The keys of the table under this head, if it is one whose keys are known.
fn keys_below(read: Read, head: &str) -> Option<Vec<String>> {
    let error = read(&format!("{head}{UNKNOWN}")).err()?;
    if error.contains("needs host = ") {
        let own = read(&format!("{head}host = \"a.test\"\n{UNKNOWN}")).unwrap_err();
        return Some([vec!["host".to_owned()], listed(&own)?].concat());
    }
    // Of keys, not of what a value may be.
    let of_keys = ["unknown field `no such key`", "\"no such key\" is none of"];
    listed(&error).filter(|_| of_keys.iter().any(|words| error.contains(words)))
}

/// Every table of the file with its keys, by the head that a TOML file would have: `[network]`, `[[tests]]`.
/// What stands at the top has an empty head.
fn tables(read: Read) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![String::new()];
    while let Some(path) = waiting.pop() {
        let heads = if path.is_empty() {
            vec![String::new()]
        } else {
            vec![format!("[{path}]"), format!("[[{path}]]")]
        };
        for head in heads {
            let Some(keys) = keys_below(read, &format!("{head}\n")) else {
                continue;
            };
            let below = |key: &String| match path.as_str() {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            // An entry of an array has nothing below it that has a head of its own.
            if !head.starts_with("[[") {
                waiting.extend(keys.iter().map(below));
            }
            found.insert(head, keys.into_iter().collect());
        }
    }
    // All budgets have the same form, and stand once.
    let budgets = "[network.budgets.";
    let forms: BTreeMap<_, _> = found
        .extract_if(.., |head, _| head.starts_with(budgets))
        .collect();
    let forms: BTreeSet<_> = forms.into_values().collect();
    assert!(forms.len() <= 1, "{forms:?}");
    let form = forms.into_iter().next();
    found.extend(form.map(|form| (format!("{budgets}KEY]"), form)));
    found
}

/// What errors say of values that the key does not take.
fn refusals(read: Read, head: &str, key: &str) -> Vec<String> {
    // The form of all budgets, of which the rate has every key; how large one may be stands at its own key.
    let head = head.replace("network.budgets.KEY", "network.budgets.rate");
    if head == "[network.budgets.rate]" && key == "max" {
        return Vec::new();
    }
    let word = "\"no such value\"";
    let values = ["0", "4000000000", word, &format!("[{word}]")];
    let refusal = |value: &&str| {
        let mut text = format!("{head}\n{key} = {value}\n");
        loop {
            let error = read(&text).err()?;
            // What an entry needs beside it.
            let missing = match error.split_once("missing field `") {
                Some((_, rest)) => rest.split('`').next().unwrap(),
                None if error.contains("needs host = ") && key != "host" => "host",
                None => return Some(error).filter(|error| error.contains(key)),
            };
            let filling = match missing {
                "value" => "${env:K}",
                "max" => "1",
                // A host, an action, a header field.
                _ => "allow",
            };
            text.extend([missing, " = \"", filling, "\"\n"]);
        }
    };
    values.iter().filter_map(refusal).collect()
}

// === the pages ===

/// One entry of a list of keys: `.TP`, the keys, what is said of them.
#[derive(Debug, Default, Clone)]
struct Entry {
    keys: Vec<String>,
    text: String,
}

/// The page's parts by their heads (`.SH` and `.SS`), each with its lists of keys and its text.
#[derive(Debug, Default)]
struct Part {
    entries: Vec<Entry>,
    lines: Vec<String>,
}

impl Part {
    fn keys(&self) -> BTreeSet<String> {
        let keys = self.entries.iter().flat_map(|entry| &entry.keys);
        keys.cloned().collect()
    }
}

fn file(page: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("systemd/man")
        .join(page)
}

/// A line without what is for the formatter.
fn plain(line: &str) -> String {
    let line = [("\\fB", ""), ("\\fI", ""), ("\\fR", ""), ("\\(ti", "~")]
        .iter()
        .fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
    line.replace("\\-", "-")
}

fn parts(page: &str) -> BTreeMap<String, Part> {
    let text = fs::read_to_string(file(page)).unwrap();
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    let mut head = String::new();
    // Lists within an entry speak of its value.
    let mut depth = 0;
    let mut before = "";
    for line in text.lines() {
        let part = parts.entry(head.clone()).or_default();
        part.lines.push(plain(line));
        let key = line
            .strip_prefix(".B ")
            .filter(|_| depth == 0 && before.starts_with(".T"));
        match (line, before, key) {
            (".RS", ..) => depth += 1,
            (".RE", ..) => depth -= 1,
            (_, ".TP", Some(key)) => part.entries.push(Entry {
                keys: vec![plain(key)],
                text: String::new(),
            }),
            (_, ".TQ", Some(key)) => part.entries.last_mut().unwrap().keys.push(plain(key)),
            _ => {
                if let Some(title) = line
                    .strip_prefix(".SS ")
                    .or_else(|| line.strip_prefix(".SH "))
                {
                    title.clone_into(&mut head);
                    assert!(
                        parts.insert(head.clone(), Part::default()).is_none(),
                        "{page}: {head} twice"
                    );
                } else if let Some(entry) = part.entries.last_mut() {
                    entry.text += &plain(line);
                    entry.text.push('\n');
                }
            }
        }
        before = line;
    }
    parts
}

/// The example: what stands as it is under its head.
fn example(page: &str) -> String {
    let parts = parts(page);
    let lines = parts["EXAMPLE"].lines.iter();
    let lines = lines
        .skip_while(|line| *line != ".nf")
        .skip(1)
        .take_while(|line| *line != ".fi");
    lines.flat_map(|line| [line.as_str(), "\n"]).collect()
}

/// Whether a part is a table of the file, or what stands at its top.
fn is_table(head: &str) -> bool {
    head.starts_with('[')
}

/// Compares a page's tables with those of the file; a key stands in its table's list or has a head of its own.
/// Gives how many words and ranges of values the errors told.
fn compare(page: &str, read: Read, elsewhere: &BTreeSet<String>) -> (usize, usize) {
    let (mut words_told, mut ranges_told) = (0, 0);
    let parts = parts(page);
    let tables = tables(read);
    assert!(tables.len() > 5, "{tables:?}");
    for (head, keys) in &tables {
        let top = head.is_empty();
        let title = if top { "At the top" } else { head };
        let path = head.trim_matches(['[', ']']);
        let empty = Part::default();
        let part = match parts.get(title) {
            Some(part) => part,
            None if elsewhere.contains(head) => continue,
            // Nothing at the top but tables.
            None if top => &empty,
            None => panic!("{page} has no {title}"),
        };
        let listed = part.keys();
        for key in keys {
            let below = if top {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            let prefix = format!("[{below}.");
            let own_head = parts.keys().any(|head| {
                *head == format!("[{below}]")
                    || *head == format!("[[{below}]]")
                    || head.starts_with(&prefix)
            });
            let known = listed.contains(key) || own_head || elsewhere.contains(head);
            assert!(known, "{page}: {title} does not name {key}");
        }
        for key in &listed {
            assert!(keys.contains(key), "{page}: {title} has no key {key}");
        }
        // What a value may be and how large, in the words of the error.
        for entry in &part.entries {
            let said = entry.text.replace('\n', " ");
            for key in &entry.keys {
                for refusal in refusals(read, head, key) {
                    if said.contains("As in [") {
                        continue;
                    }
                    for word in listed_values(&refusal) {
                        words_told += 1;
                        assert!(
                            said.contains(&format!("\"{word}\"")),
                            "{page}: {title} {key} does not name {word:?}: {refusal}"
                        );
                    }
                    if let Some((from, to)) = range(&refusal) {
                        ranges_told += 1;
                        let words = [
                            format!("from {from} to {to}"),
                            format!("from \"{from}\" to \"{to}\""),
                        ];
                        assert!(
                            words.iter().any(|words| said.contains(words.as_str())),
                            "{page}: {title} {key} does not say {words:?}: {refusal}"
                        );
                    }
                }
            }
        }
    }
    // And no table more, but for those whose keys are anybody's: domains and the like.
    for head in parts.keys().filter(|head| is_table(head)) {
        if tables.contains_key(head) {
            continue;
        }
        let path = head.trim_matches(['[', ']']);
        let (above, key) = path.rsplit_once('.').unwrap_or(("", path));
        let above = if above.is_empty() {
            String::new()
        } else {
            format!("[{above}]")
        };
        let known = tables.get(&above).is_some_and(|keys| keys.contains(key));
        assert!(known, "{page}: there is no {head}");
        // It is a table, and not something else of this name.
        let refusal = read(&format!("{above}\n{key} = 1\n")).unwrap_err();
        assert!(
            refusal.contains("expected a table") || refusal.contains("expected a map"),
            "{head}: {refusal}"
        );
        let said = parts[head].lines.join(" ");
        let refusals = ["a.test", "/run/a.sock"]
            .map(|key| read(&format!("{head}\n\"{key}\" = \"no such value\"\n")));
        let refusals: Vec<String> = refusals.into_iter().filter_map(Result::err).collect();
        assert_eq!(refusals.is_empty(), FREE.contains(&head.as_str()), "{head}");
        for refusal in refusals {
            for word in listed_values(&refusal) {
                words_told += 1;
                assert!(
                    said.contains(&format!("\"{word}\"")) || said.contains("As in a profile"),
                    "{page}: {head} does not name {word:?}"
                );
            }
        }
    }
    (words_told, ranges_told)
}

/// Tables whose keys and values may be anything.
const FREE: [&str; 1] = ["[codex.config]"];

fn listed_values(refusal: &str) -> Vec<String> {
    if refusal.contains("unknown field") {
        return Vec::new();
    }
    listed(refusal).unwrap_or_default()
}

/// The ends of a range that an error names.
fn range(refusal: &str) -> Option<(String, String)> {
    let (_, rest) = refusal.rsplit_once(" from ")?;
    let (from, rest) = rest.split_once(" to ")?;
    let to = rest.split([' ', ',', ';']).next()?;
    Some((from.to_owned(), to.to_owned()))
}

#[test]
fn the_page_of_profiles_has_every_key_that_a_profile_has_and_no_other() {
    let (words, ranges) = compare("portcullis-profile.5", read_profile, &BTreeSet::new());
    assert!(words > 40 && ranges > 20, "{words} {ranges}");
}

#[test]
fn the_page_of_requirements_has_every_key_that_they_have_and_no_other() {
    // What is as in a profile stands there.
    let of_profiles = tables(read_profile);
    let same: BTreeSet<String> = tables(read_requirements)
        .into_iter()
        .filter(|(head, keys)| of_profiles.get(head) == Some(keys))
        .map(|(head, _)| head)
        .filter(|head| {
            [
                "[limits]",
                "[[network.rules]]",
                "[network.budgets]",
                "[network.budgets.KEY]",
            ]
            .contains(&head.as_str())
        })
        .collect();
    assert_eq!(same.len(), 4, "{same:?}");
    let (words, _) = compare("portcullis-requirements.5", read_requirements, &same);
    assert!(words > 10, "{words}");
}

#[test]
fn the_page_of_the_audit_has_every_key_that_its_file_has_and_no_other() {
    let (words, _) = compare("portcullis-audit.toml.5", read_audit, &BTreeSet::new());
    assert!(words >= 9, "{words}");
    assert_eq!(read_audit(&example("portcullis-audit.toml.5")), Ok(()));
}

#[test]
fn the_page_of_profiles_tells_what_a_project_may_have() {
    let mut accepted = BTreeSet::new();
    let tables = tables(read_project);
    for (head, keys) in &tables {
        let path = head.trim_matches(['[', ']']);
        for key in keys {
            let path = match path {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            accepted.insert(path);
        }
    }
    // What is below one that the page names is as in a profile.
    let page = parts("portcullis-profile.5")["PROJECTS"].keys();
    let named: BTreeSet<String> = accepted
        .iter()
        .filter(|path| !page.iter().any(|above| path.starts_with(&format!("{above}."))))
        // A table of which the page names the keys.
        .filter(|path| !page.iter().any(|below| below.starts_with(&format!("{path}."))))
        .cloned()
        .collect();
    assert_eq!(named, page);
}

#[test]
fn the_page_of_profiles_tells_the_defaults() {
    let parts = parts("portcullis-profile.5");
    let mut holds = toml::Table::try_from(profile("").unwrap()).unwrap();
    holds.remove("name");
    let mut compared = 0;
    for (head, part) in &parts {
        let table = match head.as_str() {
            "At the top" => Some(&holds),
            head if is_table(head) && !head.starts_with("[[") => head
                .trim_matches(['[', ']'])
                .split('.')
                .try_fold(&holds, |table, key| table.get(key)?.as_table()),
            _ => None,
        };
        for entry in &part.entries {
            let said = entry
                .text
                .lines()
                .find_map(|line| line.strip_prefix("Default: ")?.strip_suffix('.'));
            for key in &entry.keys {
                let held = table
                    .and_then(|table| table.get(key))
                    // A list grows: what is in it is not replaced.
                    .filter(|value| !value.is_array() && !value.is_table())
                    .map(ToString::to_string);
                assert_eq!(said.map(str::to_owned), held, "{head} {key}");
                compared += usize::from(held.is_some());
            }
        }
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn the_example_of_a_profile_is_one_and_holds_what_it_promises() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.toml");
    fs::write(&path, example("portcullis-profile.5")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["policy", "check"])
        .arg(&path)
        .env("HOME", folder.path())
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.ends_with("valid; 3 tests, 0 failed\n"), "{said}");
}

#[test]
fn the_example_of_requirements_binds() {
    let text = example("portcullis-requirements.5");
    let required = Requirements::parse("requirements.toml", &text).unwrap();
    let interns = required.profiles_for(&["interns".to_owned()]);
    assert_eq!(
        interns,
        Some(["codex".to_owned(), "offline".to_owned()].as_slice())
    );
}

/// What a formatter has to say of the pages, where there is one.
#[test]
fn the_pages_are_well_formed() {
    for page in fs::read_dir(file("")).unwrap() {
        let page = page.unwrap().path();
        let formatter = Command::new("groff")
            .args(["-man", "-ww", "-z"])
            .arg(&page)
            .stdin(Stdio::null())
            .output();
        let output = formatter.expect("groff, which scripts/test installs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

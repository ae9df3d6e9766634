//! An answer that is to last: a rule in the caller's own profile, written by replacing the file as a
//! whole. Comments and order stay. Never writes what would not read back as a valid profile.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

use super::described;
use crate::policy::{Answered, Port};
use crate::session::profiles::{self, Environment};
use crate::wire::gate::Question;

/// The profile's own file: the one that was named by its path, else the caller's of that name. A
/// compiled-in profile gets a file of the caller's that builds on it.
pub fn file_of(profile: &str, environment: &Environment) -> Option<PathBuf> {
    if profiles::is_path(profile) {
        return std::path::absolute(profile).ok();
    }
    Some(profiles::folder(environment)?.join(format!("{profile}.toml")))
}

/// Adds the rule to the file. The error is one line for a person.
pub fn remember(
    file: &Path,
    profile: &str,
    (question, verdict): (&Question, Answered),
    environment: &Environment,
) -> Result<(), String> {
    // What a link leads to is replaced, not the link.
    let file = &std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            format!(
                "# Builds on the profile of this name that comes with portcullis.\nextends = \"{profile}\"\n"
            )
        }
        Err(error) => return Err(failed(&error)),
    };
    let mut document: DocumentMut = text.parse().map_err(|error| failed(&error))?;
    add(&mut document, question, verdict).map_err(|problem| failed(&problem))?;
    replace(file, &document.to_string(), environment).map_err(|problem| failed(&problem))
}

/// The rule, where a person would have put it.
fn add(document: &mut DocumentMut, question: &Question, verdict: Answered) -> Result<(), String> {
    if question.budget {
        return Err(
            "a budget is raised for this session alone; change it there yourself".to_owned(),
        );
    }
    if verdict == Answered::Allow && question.rule.as_ref().is_some_and(profiles::is_required) {
        return Err(
            "the requirements of this host have it asked each time; allow it for this session"
                .to_owned(),
        );
    }
    if question.exact {
        let what = described(question);
        return Err(format!(
            "write the rule for {what} yourself, one for methods or paths is not made from an answer"
        ));
    }
    let host = question.host.to_string();
    let web = [Port::HTTP, Port::HTTPS].contains(&question.port);
    if question.rule.is_some() {
        // An ask wins over every allow, so the answer has to go where asks are answered.
        let entries = entries(document, "approvals")?;
        entries.push(entry(&host, question.port, "verdict", verdict));
    } else if web && verdict == Answered::Allow {
        let domains = table(table(document.as_table_mut(), "network")?, "domains")?;
        domains.insert(&host, value(verdict.to_string()));
    } else {
        let entries = entries(document, "network")?;
        entries.push(entry(&host, question.port, "action", verdict));
    }
    Ok(())
}

fn entry(host: &str, port: Port, key: &str, verdict: Answered) -> Table {
    let mut entry = Table::new();
    entry.insert("host", value(host));
    let ports = Array::from_iter([i64::from(port.number())]);
    entry.insert("ports", value(ports));
    entry.insert(key, value(verdict.to_string()));
    entry
}

/// A table by its key, made if it is missing.
fn table<'a>(parent: &'a mut Table, key: &str) -> Result<&'a mut Table, String> {
    let item = parent.entry(key).or_insert_with(|| {
        let mut table = Table::new();
        // Shown only through what it holds.
        table.set_implicit(true);
        Item::Table(table)
    });
    item.as_table_mut()
        .ok_or_else(|| format!("{key} is not written as [{key}]; add the rule yourself"))
}

/// The `[[….rules]]` of a table.
fn entries<'a>(
    document: &'a mut DocumentMut,
    parent: &str,
) -> Result<&'a mut ArrayOfTables, String> {
    table(document.as_table_mut(), parent)?
        .entry("rules")
        .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()))
        .as_array_of_tables_mut()
        .ok_or_else(|| {
            format!("{parent}.rules is not written as [[{parent}.rules]]; add the rule yourself")
        })
}

/// Writes beside the file, checks what was written, renames.
fn replace(file: &Path, text: &str, environment: &Environment) -> Result<(), String> {
    let folder = file.parent().ok_or("has no folder")?;
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let mode = std::fs::metadata(file).map_or(0o600, |metadata| metadata.mode() & 0o777);
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // Hidden, and so no profile's name; a leftover of a crash is overwritten.
    let beside = folder.join(format!(".{name}.{}", std::process::id()));
    let written = write(&beside, text, mode)
        .map_err(|error| error.to_string())
        .and_then(|()| {
            profiles::load_file(&beside, environment)
                .map(|_| ())
                .map_err(|error| error.to_string())
        })
        .and_then(|()| std::fs::rename(&beside, file).map_err(|error| error.to_string()));
    if written.is_err() {
        // Perhaps it was not even made.
        std::fs::remove_file(&beside).ok();
    }
    written
}

fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    // One that is left of a crash, or was put there, is no file of ours.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::QuestionId;
    use crate::policy::{Host, RuleId, Transport};

    fn question(host: &str, port: u16) -> Question {
        Question {
            id: QuestionId(1),
            host: Host::parse(host).unwrap(),
            port: Port::new(port).unwrap(),
            transport: Transport::Connect,
            method: None,
            path: None,
            exact: false,
            budget: false,
            rule: None,
            wait_seconds: 1,
        }
    }

    fn caller(home: &Path) -> Environment {
        [("HOME".into(), home.into())].into_iter().collect()
    }

    #[test]
    fn a_rule_is_added_and_comments_stay() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("p.toml");
        let before =
            "# mine\nextends = \"codex\"\n\n[network.domains]\n\"a.test\" = \"allow\" # why\n";
        std::fs::write(&file, before).unwrap();
        let caller = caller(home.path());
        let add = |question: &Question, verdict| {
            remember(&file, "p", (question, verdict), &caller).unwrap();
        };
        add(&question("b.test", 443), Answered::Allow);
        add(&question("c.test", 22), Answered::Deny);
        let mut asked_by_a_rule = question("d.test", 443);
        asked_by_a_rule.rule = Some(RuleId::new("network.domains.\"d.test\""));
        add(&asked_by_a_rule, Answered::Allow);
        let after = std::fs::read_to_string(&file).unwrap();
        let expected = format!(
            "{before}\"b.test\" = \"allow\"\n\n[[network.rules]]\nhost = \"c.test\"\nports = [22]\n\
             action = \"deny\"\n\n[[approvals.rules]]\nhost = \"d.test\"\nports = [443]\n\
             verdict = \"allow\"\n"
        );
        assert_eq!(after, expected);
        let names: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_compiled_in_profile_gets_a_file_that_builds_on_it() {
        let home = tempfile::tempdir().unwrap();
        let caller = caller(home.path());
        let file = file_of("codex", &caller).unwrap();
        let asked = question("b.test", 443);
        remember(&file, "codex", (&asked, Answered::Allow), &caller).unwrap();
        let shelf = profiles::Shelf::new(&caller, None);
        let reading = shelf
            .read("codex", &crate::policy::Overrides::default())
            .unwrap();
        let profile = reading.profile;
        assert!(
            profile.codex.enabled,
            "what comes with portcullis still counts"
        );
        assert!(
            profile
                .network
                .rules
                .iter()
                .any(|rule| rule.host.to_string() == "b.test")
        );
    }

    #[test]
    fn a_yes_to_what_the_admin_has_asked_is_not_kept() {
        let home = tempfile::tempdir().unwrap();
        let caller = caller(home.path());
        let file = home.path().join("p.toml");
        let mut asked = question("b.test", 443);
        asked.rule = Some(RuleId::new(
            "/etc/portcullis/requirements.toml: network.rules[0]",
        ));
        let keep = |verdict| remember(&file, "p", (&asked, verdict), &caller);
        let told = keep(Answered::Allow).unwrap_err();
        assert!(told.contains("each time"), "{told}");
        assert!(!file.exists());
        std::fs::write(&file, "").unwrap();
        keep(Answered::Deny).unwrap();
    }

    #[test]
    fn what_would_not_read_back_is_not_written() {
        let home = tempfile::tempdir().unwrap();
        let caller = caller(home.path());
        let file = home.path().join("p.toml");
        for broken in ["extends = \"nothing\"\n", "network = 1\n", "["] {
            std::fs::write(&file, broken).unwrap();
            let asked = question("b.test", 443);
            assert!(remember(&file, "p", (&asked, Answered::Allow), &caller).is_err());
            assert_eq!(std::fs::read_to_string(&file).unwrap(), broken);
        }
    }
}

//! The module table of `ARCHITECTURE.md`, held: a module imports only from rows above its own, and no
//! process imports another process.
#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Leaves first. One row may be imported by every row below it.
const ROWS: [&str; 13] = [
    "exit", "ids", "secret", "sys", "policy", "audit", "codex", "wire", "jail", "gate", "session",
    "daemon", "cli",
];

/// Pairs that the order would permit and the design forbids: processes talk over `wire`.
const FORBIDDEN: [(&str, &str, &str); 8] = [
    (
        "gate",
        "jail",
        "the gate and the jail are different processes",
    ),
    (
        "session",
        "gate",
        "the session starts the gate and talks to it over wire",
    ),
    ("cli", "gate", "the command line never runs a gate's code"),
    ("jail", "policy::ruleset", "the jail knows no rules"),
    (
        "daemon",
        "gate",
        "root starts the gate and never runs its code",
    ),
    (
        "daemon",
        "session",
        "root starts the session and never runs its code",
    ),
    ("daemon", "policy::ruleset", "root knows no rules"),
    ("daemon", "codex", "root does not know what a session runs"),
];

/// Pairs against the order that are sound, each with its reason.
const PERMITTED: [(&str, &str, &str); 1] = [(
    "audit",
    "wire",
    "the writer process, audit::writer, answers on its channels",
)];

#[test]
fn modules_import_only_from_rows_above_their_own() {
    let mut broken = Vec::new();
    for (file, module) in sources() {
        let row = ROWS.iter().position(|name| *name == module).unwrap();
        for import in imports(&file) {
            let target = import.split("::").next().unwrap();
            let Some(target_row) = ROWS.iter().position(|name| *name == target) else {
                panic!(
                    "{}: crate::{import} is in no row of the table",
                    file.display()
                );
            };
            let permitted = PERMITTED
                .iter()
                .any(|(from, to, _)| *from == module && *to == target);
            if target_row > row && !permitted {
                broken.push(format!("{}: {module} imports {target}", file.display()));
            }
            for (from, to, why) in FORBIDDEN {
                if module == from && (import == to || import.starts_with(&format!("{to}::"))) {
                    broken.push(format!(
                        "{}: {module} imports {to}, but {why}",
                        file.display()
                    ));
                }
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn every_module_of_the_tree_is_in_the_table_and_the_other_way_round() {
    let modules: BTreeSet<_> = sources().into_iter().map(|(_, module)| module).collect();
    let rows: BTreeSet<_> = ROWS.iter().map(|row| (*row).to_owned()).collect();
    assert_eq!(modules, rows);
    let table = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for row in ROWS {
        assert!(
            table.contains(&format!("| `{row}` |")),
            "ARCHITECTURE.md has no row for `{row}`"
        );
    }
}

#[test]
fn unsafe_code_lives_in_sys_alone() {
    for (file, module) in sources() {
        if module != "sys" {
            let text = fs::read_to_string(&file).unwrap();
            let uses = text
                .lines()
                .any(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
            assert!(!uses, "{} uses unsafe", file.display());
        }
    }
}

#[test]
fn pure_modules_do_not_touch_the_world() {
    for (file, module) in sources() {
        if module == "policy" || module == "codex" {
            let text = fs::read_to_string(&file).unwrap();
            for world in [
                "std::fs",
                "std::env::var",
                "std::process",
                "std::time",
                "std::net::Tcp",
                "tokio",
            ] {
                assert!(
                    !text.contains(world),
                    "{} is pure but names {world}",
                    file.display()
                );
            }
        }
    }
}

/// Every file of the library with its top-level module.
fn sources() -> Vec<(PathBuf, String)> {
    let source = root().join("src");
    let mut found = Vec::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let module = |path: &Path| {
        let first = path
            .strip_prefix(&source)
            .unwrap()
            .components()
            .next()
            .unwrap();
        let name = first.as_os_str().to_str().unwrap();
        name.trim_end_matches(".rs").to_owned()
    };
    let mut modules: Vec<_> = found
        .into_iter()
        .map(|path| (path.clone(), module(&path)))
        .filter(|(_, module)| module != "bin" && module != "lib")
        .collect();
    modules.sort();
    modules
}

/// What follows `crate::` in the code of a file; comments and documentation do not count.
fn imports(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
                .next()
                .unwrap()
        })
        .map(|path| path.trim_end_matches(':').to_owned())
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

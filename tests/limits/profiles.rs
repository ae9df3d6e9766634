//! `[limits]` in profiles and on the command line.

use crate::cli::{Install, Run, Who};

fn show(install: &Install, profile: &str) -> Run {
    Run::of(&install.portcullis(["policy", "show", profile]))
}

/// The lines of one table.
fn table(text: &str, name: &str) -> Vec<String> {
    let mut lines = text.lines().skip_while(|line| *line != format!("[{name}]"));
    lines.next();
    lines
        .take_while(|line| !line.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn what_is_shown_reads_back_to_the_same() {
    let install = Install::new(Who::Root);
    let text = "[limits]\nmemory = '4096M'\ntasks = 'none'\ncpu = '150%'\nopen_files = 4096\n\
                file_size = 1000\n[isolation]\nlimits = 'required'\n";
    let path = install.write("p.toml", text).display().to_string();
    let shown = show(&install, &path);
    assert_eq!(
        table(&shown.stdout, "limits"),
        [
            "cpu = \"150%\"",
            "file_size = 1000",
            "memory = \"4G\"",
            "open_files = 4096",
            "tasks = \"none\"",
        ],
        "{shown:#?}"
    );
    assert!(table(&shown.stdout, "isolation").contains(&"limits = \"required\"".to_owned()));
    let again = install.write("p.toml", &shown.stdout).display().to_string();
    assert_eq!(show(&install, &again), shown);
}

#[test]
fn shipped_profiles_limit_nothing() {
    let install = Install::new(Who::Root);
    for profile in ["base", "codex", "codex-sealed", "offline", "registries"] {
        let shown = show(&install, profile);
        assert_eq!(
            table(&shown.stdout, "limits"),
            Vec::<String>::new(),
            "{profile}"
        );
    }
}

#[test]
fn mistakes_are_told_with_what_is_accepted() {
    let install = Install::new(Who::Root);
    for (text, problem) in [
        ("limits = 3", "the file"),
        (
            "[limits]\nmemroy = '4G'",
            "limits.memroy: \"memroy\" is none of \"memory\", \"tasks\", \"cpu\", \"open_files\", \
             \"file_size\"; did you mean \"memory\"?",
        ),
        (
            "[limits]\nmemory = '4GB'",
            "limits.memory: \"4GB\" is not a size as \"512M\" or \"4G\", from 16M to 1048576T, nor \
             \"none\"",
        ),
        (
            "[limits]\ncpu = 2",
            "limits.cpu: 2 is not a share of one processor as \"50%\" or \"200%\", from 1% to \
             100000%, nor \"none\"",
        ),
        ("[limits]\ntasks = 0", "limits.tasks: 0 is not a number"),
        ("[limits]\ntasks = true", "limits.tasks: "),
        (
            "[limits]\ntime = '1h'",
            "limits.time: time is a budget: write total_time in [network.budgets], or give --timeout",
        ),
        (
            "[isolation]\nlimits = 'maybe'",
            "isolation.limits: unknown variant `maybe`",
        ),
    ] {
        let path = install.write("p.toml", text).display().to_string();
        let run = show(&install, &path);
        let told = run.stderr.contains(problem) || problem == "the file";
        assert!(run.status != Some(0) && told, "{text}\n  → {run:#?}");
    }
    for (flag, problem) in [
        (
            "memory",
            "--limit memory: no amount; accepted are \"memory=4G\"",
        ),
        (
            "mem=4G",
            "--limit mem=4G: \"mem\" is no limit; accepted are \"memory=4G\"",
        ),
        ("time=1h", "--limit time=1h: time is a budget"),
        (
            "open_files=1",
            "--limit open_files=1: \"1\" is not a number, from 16 to 1048576",
        ),
    ] {
        let run = install.run(&["--limit", flag], &["true"]);
        assert_eq!(run.status, Some(125), "{run:#?}");
        assert!(run.stderr.contains(problem), "{flag}\n  → {run:#?}");
    }
}

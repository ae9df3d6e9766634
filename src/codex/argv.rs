//! Codex's command line. A sandbox named on it wins over the managed configuration and would make
//! Codex start its own bubblewrap, which cannot run in the jail.

use crate::policy::FilesystemMode;

/// The mode in which Codex leaves confinement to the jail.
const UNCONFINED: &str = "danger-full-access";

/// A command line whose sandbox is the jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confined {
    /// The arguments, every named sandbox replaced.
    pub argv: Vec<String>,
    /// The least that was asked for: the jail may narrow itself to it, never widen.
    pub asked: Option<FilesystemMode>,
}

/// Rewrites `-s MODE`, `--sandbox MODE`, `-c sandbox_mode=MODE` and `--full-auto`, in every spelling that
/// clap takes. What follows `--` is a prompt.
pub fn confine(argv: &[String]) -> Confined {
    let mut confined = Confined {
        argv: Vec::with_capacity(argv.len()),
        asked: None,
    };
    let mut words = argv.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            confined.argv.push(word.clone());
            confined.argv.extend(words.cloned());
            break;
        }
        if word == "--full-auto" {
            // Means workspace-write, and approvals that Codex takes from its configuration.
            confined.ask("workspace-write");
            confined
                .argv
                .extend(["--sandbox".to_owned(), UNCONFINED.to_owned()]);
        } else if word == "-s" || word == "--sandbox" {
            confined.argv.push(word.clone());
            confined.argv.extend(
                words
                    .next()
                    .map(|mode| confined_mode(&mut confined.asked, mode)),
            );
        } else if let Some((flag, mode)) = joined(word, "--sandbox=").or_else(|| joined(word, "-s"))
        {
            let mode = confined_mode(&mut confined.asked, mode.trim_start_matches('='));
            confined.argv.push(format!("{flag}{mode}"));
        } else if word == "-c" || word == "--config" {
            confined.argv.push(word.clone());
            confined.argv.extend(
                words
                    .next()
                    .map(|setting| confined_setting(&mut confined.asked, setting)),
            );
        } else if let Some((flag, setting)) =
            joined(word, "--config=").or_else(|| joined(word, "-c"))
        {
            let setting = confined_setting(&mut confined.asked, setting);
            confined.argv.push(format!("{flag}{setting}"));
        } else {
            confined.argv.push(word.clone());
        }
    }
    confined
}

impl Confined {
    fn ask(&mut self, mode: &str) {
        ask(&mut self.asked, mode);
    }
}

/// `-sMODE` and `--sandbox=MODE`: the flag and what is joined to it. `-s` alone and longer flags are none.
fn joined<'a>(word: &'a str, flag: &'static str) -> Option<(&'static str, &'a str)> {
    let value = word.strip_prefix(flag)?;
    (!value.is_empty()
        && !word.starts_with("--s=")
        && (flag.starts_with("--") || !word.starts_with("--")))
    .then_some((flag, value))
}

fn confined_mode(asked: &mut Option<FilesystemMode>, mode: &str) -> String {
    ask(asked, mode);
    UNCONFINED.to_owned()
}

/// `sandbox_mode=x`, quoted as TOML or not; any other setting stays.
fn confined_setting(asked: &mut Option<FilesystemMode>, setting: &str) -> String {
    match setting.split_once('=') {
        Some((key, value)) if key.trim() == "sandbox_mode" => {
            ask(asked, value.trim().trim_matches(['"', '\'']));
            format!("sandbox_mode=\"{UNCONFINED}\"")
        }
        _ => setting.to_owned(),
    }
}

fn ask(asked: &mut Option<FilesystemMode>, mode: &str) {
    let mode = match mode {
        "read-only" => FilesystemMode::ReadOnly,
        "workspace-write" => FilesystemMode::WorkspaceWrite,
        // Codex refuses a word it does not know; the jail need not guess.
        _ => return,
    };
    *asked = Some(asked.map_or(mode, |before| before.min(mode)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_sandbox_is_replaced_and_reported() {
        use FilesystemMode::{ReadOnly, WorkspaceWrite};
        let cases = [
            (
                "codex exec -s read-only p",
                "codex exec -s danger-full-access p",
                Some(ReadOnly),
            ),
            (
                "codex -sread-only p",
                "codex -sdanger-full-access p",
                Some(ReadOnly),
            ),
            (
                "codex --sandbox=workspace-write",
                "codex --sandbox=danger-full-access",
                Some(WorkspaceWrite),
            ),
            (
                "codex -c sandbox_mode=\"read-only\"",
                "codex -c sandbox_mode=\"danger-full-access\"",
                Some(ReadOnly),
            ),
            (
                "codex -csandbox_mode='read-only'",
                "codex -csandbox_mode=\"danger-full-access\"",
                Some(ReadOnly),
            ),
            (
                "codex exec --full-auto p",
                "codex exec --sandbox danger-full-access p",
                Some(WorkspaceWrite),
            ),
            (
                "codex -s workspace-write -s read-only",
                "codex -s danger-full-access -s danger-full-access",
                Some(ReadOnly),
            ),
            (
                "codex exec --skip-git-repo-check -c model=m p",
                "codex exec --skip-git-repo-check -c model=m p",
                None,
            ),
            ("codex exec --yolo p", "codex exec --yolo p", None),
            (
                "codex exec -- -s read-only",
                "codex exec -- -s read-only",
                None,
            ),
            (
                "codex -s danger-full-access",
                "codex -s danger-full-access",
                None,
            ),
        ];
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (given, expected, asked) in cases {
            assert_eq!(
                confine(&words(given)),
                Confined {
                    argv: words(expected),
                    asked
                },
                "{given}"
            );
        }
    }
}

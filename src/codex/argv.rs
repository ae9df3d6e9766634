//! Codex's command line: whatever it says of Codex's own sandbox is said of the jail instead.
//!
//! Codex must run without a sandbox of its own in the jail: any other mode starts bubblewrap, which
//! fails there, and then every command fails while Codex exits 0. The managed configuration
//! ([`super::config`]) sets that, but not against `-s`, `--full-auto` (0.118), `--approve-for-me`,
//! `-c default_permissions=…` (0.169) or a `[profiles.*]` table (0.118). So these are taken off the
//! line, one `--sandbox danger-full-access` is put on it where it beats them all, and the mode that the
//! caller asked for is reported: the session narrows the jail to it.
//!
//! Tried with 0.118.0 and 0.169.0. What is left: `codex review` (not `exec review`) with a legacy
//! profile table in 0.118.

use std::iter::Peekable;
use std::slice;

use crate::policy::FilesystemMode;

/// A command line that starts Codex without a sandbox of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confined {
    /// The command line to execute.
    pub argv: Vec<String>,
    /// The narrowest mode that was asked for; none if the line says nothing of it.
    pub asked: Option<FilesystemMode>,
}

/// Rewrites a command line whose first word is Codex's.
pub fn confine(argv: &[String]) -> Confined {
    let Some((program, words)) = argv.split_first() else {
        return Confined {
            argv: Vec::new(),
            asked: None,
        };
    };
    let line = Line::read(words);
    if line.verbatim {
        return Confined {
            argv: argv.to_vec(),
            asked: None,
        };
    }
    let mut argv = vec![program.clone()];
    argv.extend(line.kept);
    // exec does not take this one from before its name (0.118), and elsewhere it may stand in front.
    let place = line.exec.map_or(1, |at| at + 2);
    let flag = ["--sandbox", NO_SANDBOX].map(str::to_owned);
    argv.splice(place..place, flag);
    Confined {
        argv,
        asked: line.asked.into_iter().min(),
    }
}

/// A command line, read from left to right as Codex's own parser (clap) does.
#[derive(Default)]
struct Line {
    /// Words that stay.
    kept: Vec<String>,
    /// Where in `kept` the word `exec` stands.
    exec: Option<usize>,
    /// Modes that were asked for.
    asked: Vec<FilesystemMode>,
    /// Everything is for another program.
    verbatim: bool,
}

impl Line {
    fn read(words: &[String]) -> Self {
        let mut line = Self::default();
        let mut rest = words.iter().peekable();
        let mut command_known = false;
        while let Some(word) = rest.next() {
            if word == "--" {
                line.keep([word.as_str()]);
                line.kept.extend(rest.cloned());
                break;
            }
            if !word.starts_with('-') || word == "-" {
                if !command_known {
                    line.verbatim |= FOR_OTHERS.contains(&word.as_str());
                    line.exec = EXEC.contains(&word.as_str()).then_some(line.kept.len());
                    command_known = true;
                }
                line.keep([word.as_str()]);
                continue;
            }
            line.option(word, &mut rest);
        }
        line
    }

    fn option<'a>(&mut self, word: &'a str, rest: &mut Words<'a>) {
        let (name, attached) = split(word);
        match name {
            "-s" | "--sandbox" => self.sandbox(word, attached, rest),
            "-c" | "--config" => self.setting(word, attached, rest),
            "--full-auto" | "--approve-for-me" => {
                self.asked.push(FilesystemMode::WorkspaceWrite);
            }
            "--yolo" | "--dangerously-bypass-approvals-and-sandbox" => {
                // It says the same of the sandbox; what it says of approvals is the caller's to say.
                self.asked.push(FilesystemMode::DangerFullAccess);
                self.keep([word]);
            }
            _ => {
                if attached.is_none() && IMAGES.contains(&name) {
                    self.images(rest);
                    return;
                }
                self.keep([word]);
                if attached.is_none() && ONE_VALUE.contains(&name) {
                    self.keep(rest.next().map(String::as_str));
                }
            }
        }
    }

    /// Each image with its own option, attached: the option that ends a list may be one that is taken off,
    /// and then the list would go on and swallow what follows, `exec` for one.
    fn images(&mut self, rest: &mut Words<'_>) {
        let mut none = true;
        while let Some(value) = rest.next_if(|next| *next == "-" || !next.starts_with('-')) {
            self.keep([format!("--image={value}")]);
            none = false;
        }
        // Codex's own usage error is the best answer to this.
        self.verbatim |= none;
    }

    fn sandbox<'a>(&mut self, word: &'a str, attached: Option<&'a str>, rest: &mut Words<'a>) {
        let value = attached.or_else(|| rest.next().map(String::as_str));
        match value.and_then(mode) {
            Some(mode) => self.asked.push(mode),
            // Codex's own usage error is the best answer to this.
            None => self.keep_pair(word, attached, value),
        }
    }

    fn setting<'a>(&mut self, word: &'a str, attached: Option<&'a str>, rest: &mut Words<'a>) {
        let value = attached.or_else(|| rest.next().map(String::as_str));
        let (key, text) = value
            .and_then(|value| value.split_once('='))
            .unwrap_or_default();
        let text = text.trim().trim_matches(['"', '\'']);
        match key.trim() {
            "sandbox_mode" if mode(text).is_some() => self.asked.extend(mode(text)),
            "default_permissions" => self.asked.push(permissions(text)),
            _ => self.keep_pair(word, attached, value),
        }
    }

    fn keep<W: Into<String>>(&mut self, words: impl IntoIterator<Item = W>) {
        self.kept.extend(words.into_iter().map(Into::into));
    }

    fn keep_pair(&mut self, word: &str, attached: Option<&str>, value: Option<&str>) {
        self.keep([word]);
        if attached.is_none() {
            self.keep(value);
        }
    }
}

type Words<'a> = Peekable<slice::Iter<'a, String>>;

/// `--name=value`, `-nvalue` and `-n=value` have their value attached.
fn split(word: &str) -> (&str, Option<&str>) {
    if word.starts_with("--") {
        return match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
    }
    let after = word.char_indices().nth(2).map_or(word.len(), |(at, _)| at);
    match word.split_at_checked(after) {
        Some((name, value)) if !value.is_empty() => {
            (name, Some(value.strip_prefix('=').unwrap_or(value)))
        }
        _ => (word, None),
    }
}

fn mode(text: &str) -> Option<FilesystemMode> {
    [
        FilesystemMode::ReadOnly,
        FilesystemMode::WorkspaceWrite,
        FilesystemMode::DangerFullAccess,
    ]
    .into_iter()
    .find(|mode| mode.to_string() == text)
}

/// Codex's built-in permission profiles; of one that the caller made we know nothing but that it is
/// meant to confine.
fn permissions(name: &str) -> FilesystemMode {
    match name {
        ":workspace" => FilesystemMode::WorkspaceWrite,
        ":danger-full-access" => FilesystemMode::DangerFullAccess,
        _ => FilesystemMode::ReadOnly,
    }
}

const NO_SANDBOX: &str = "danger-full-access";

/// `codex exec` and its short name.
const EXEC: [&str; 2] = ["exec", "e"];

/// Commands whose arguments are another program's command line.
const FOR_OTHERS: [&str; 2] = ["sandbox", "mcp"];

/// Take every word up to the next option.
const IMAGES: [&str; 2] = ["-i", "--image"];

/// Take one value, so that it is not mistaken for a command.
const ONE_VALUE: [&str; 24] = [
    "-m",
    "--model",
    "-p",
    "--profile",
    "-a",
    "--ask-for-approval",
    "-C",
    "--cd",
    "-o",
    "--output-last-message",
    "--add-dir",
    "--base",
    "--color",
    "--commit",
    "--cyber-access-program",
    "--disable",
    "--enable",
    "--listen",
    "--local-provider",
    "--output-schema",
    "--remote",
    "--remote-auth-token-env",
    "--thread-source",
    "--title",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn check(line: &str, expected: &str, asked: Option<FilesystemMode>) {
        let argv = words(expected);
        assert_eq!(confine(&words(line)), Confined { argv, asked }, "{line}");
    }

    #[test]
    fn a_line_that_says_nothing_gets_no_sandbox_and_asks_for_nothing() {
        check("codex", "codex --sandbox danger-full-access", None);
        check(
            "codex -m gpt exec --json p",
            "codex -m gpt exec --sandbox danger-full-access --json p",
            None,
        );
        check(
            "codex resume --last",
            "codex --sandbox danger-full-access resume --last",
            None,
        );
    }

    #[test]
    fn every_spelling_of_a_sandbox_mode_is_taken_off_and_reported() {
        for spelling in [
            "-s read-only",
            "-sread-only",
            "-s=read-only",
            "--sandbox read-only",
            "--sandbox=read-only",
            "-c sandbox_mode=read-only",
            "-c sandbox_mode=\"read-only\"",
            "-csandbox_mode='read-only'",
            "--config=sandbox_mode=read-only",
            "--config default_permissions=:read-only",
            "-c default_permissions=mine",
        ] {
            check(
                &format!("codex exec {spelling} p"),
                "codex exec --sandbox danger-full-access p",
                Some(FilesystemMode::ReadOnly),
            );
        }
        for spelling in [
            "--full-auto",
            "--approve-for-me",
            "-c default_permissions=:workspace",
        ] {
            check(
                &format!("codex e --json {spelling} p"),
                "codex e --sandbox danger-full-access --json p",
                Some(FilesystemMode::WorkspaceWrite),
            );
        }
    }

    #[test]
    fn of_several_modes_the_narrowest_counts() {
        check(
            "codex -s danger-full-access exec -s read-only resume --last --full-auto",
            "codex exec --sandbox danger-full-access resume --last",
            Some(FilesystemMode::ReadOnly),
        );
    }

    #[test]
    fn a_bypass_keeps_its_word_on_approvals_and_never_widens() {
        for flag in ["--yolo", "--dangerously-bypass-approvals-and-sandbox"] {
            check(
                &format!("codex {flag} p"),
                &format!("codex --sandbox danger-full-access {flag} p"),
                Some(FilesystemMode::DangerFullAccess),
            );
        }
    }

    #[test]
    fn what_only_looks_like_a_mode_is_left_alone() {
        for (line, expected) in [
            (
                "codex exec -- -s read-only",
                "codex exec --sandbox danger-full-access -- -s read-only",
            ),
            (
                "codex -m exec p",
                "codex --sandbox danger-full-access -m exec p",
            ),
            (
                "codex -i exec e -m x",
                "codex --sandbox danger-full-access --image=exec --image=e -m x",
            ),
            (
                "codex -c model=sandbox_mode p",
                "codex --sandbox danger-full-access -c model=sandbox_mode p",
            ),
            (
                "codex -s nonsense",
                "codex --sandbox danger-full-access -s nonsense",
            ),
            (
                "codex exec p -s",
                "codex exec --sandbox danger-full-access p -s",
            ),
            (
                "codex sandbox linux --full-auto ls -s",
                "codex sandbox linux --full-auto ls -s",
            ),
            (
                "codex mcp add x npx -s read-only",
                "codex mcp add x npx -s read-only",
            ),
        ] {
            check(line, expected, None);
        }
        assert_eq!(
            confine(&[]),
            Confined {
                argv: Vec::new(),
                asked: None
            }
        );
    }

    #[test]
    fn an_image_swallows_nothing_when_the_option_behind_it_is_taken_off() {
        check(
            "codex -i a.png b.png -s read-only exec p",
            "codex --image=a.png --image=b.png exec --sandbox danger-full-access p",
            Some(FilesystemMode::ReadOnly),
        );
        // Without an image Codex refuses the line itself.
        check(
            "codex -i -sread-only exec",
            "codex -i -sread-only exec",
            None,
        );
    }

    proptest! {
        #[test]
        fn a_confined_line_asks_for_nothing_narrower_than_no_sandbox(
            line in proptest::collection::vec(
                prop_oneof![
                    "[a-z-]{0,4}",
                    ".{0,8}",
                    prop::sample::select(vec![
                        "-s", "--sandbox", "read-only", "-sread-only", "exec", "e", "resume", "-c",
                        "sandbox_mode=read-only", "--full-auto", "-i", "-m", "--yolo", "--", "-é",
                    ]).prop_map(str::to_owned),
                ],
                0..12,
            )
        ) {
            let mut argv = vec!["codex".to_owned()];
            argv.extend(line);
            let once = confine(&argv);
            let twice = confine(&once.argv);
            prop_assert_ne!(twice.asked, Some(FilesystemMode::ReadOnly));
            prop_assert_ne!(twice.asked, Some(FilesystemMode::WorkspaceWrite));
            prop_assert_eq!(twice.argv, once.argv);
        }
    }
}

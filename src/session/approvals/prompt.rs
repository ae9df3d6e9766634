//! Asking at the terminal that the command uses as well, for those who want that (`--ask terminal`).
//!
//! The command may read the same keys and may print whatever it likes, so an answer needs a code that
//! only the screen has shown: keys that were typed for the command, and what a terminal can be made to
//! type by itself, are none. Nothing is read while we are in the background (that would stop us, tty(4)).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

use super::described;
use crate::ids::{QuestionId, SessionId};
use crate::policy::{Answered, Scope};
use crate::wire::gate::{Answer, Question};

/// The longest line that is kept.
const MAX_LINE: usize = 256;

/// The terminal, and what stands on it.
#[derive(Debug)]
pub struct Prompt {
    terminal: File,
    /// The question that was put, with its code.
    put: Option<(QuestionId, String)>,
    typed: Vec<u8>,
    /// True once the terminal is gone.
    lost: bool,
}

impl Prompt {
    /// Opens the controlling terminal.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let terminal = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open("/dev/tty")?;
        Ok(Self {
            terminal,
            put: None,
            typed: Vec::new(),
            lost: false,
        })
    }

    /// What may become readable: only while a question stands and the keys are ours to read.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        (self.put.is_some() && self.is_usable()).then(|| self.terminal.as_fd())
    }

    /// Whether keys may be read, and the terminal is there.
    pub fn is_usable(&self) -> bool {
        !self.lost && self.is_foreground()
    }

    /// Forgets a question that nobody waits for.
    pub fn withdraw(&mut self, id: QuestionId) {
        if self.put.as_ref().is_some_and(|(put, _)| *put == id) {
            self.put = None;
            self.typed.clear();
        }
    }

    /// Puts the next question if none stands, and reads what was typed; never waits.
    pub fn attend(&mut self, next: Option<&Question>) -> Option<Answer> {
        if !self.is_usable() {
            return None;
        }
        if let (None, Some(question)) = (&self.put, next) {
            let code = code();
            // Who does not see the question does not answer it.
            self.terminal
                .write_all(text(question, &code).as_bytes())
                .ok();
            self.put = Some((question.id, code));
        }
        let (id, code) = self.put.clone()?;
        self.read_keys();
        while let Some(end) = self.typed.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            let line: Vec<u8> = self.typed.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some((verdict, scope)) = understood(line.trim(), &code) {
                self.put = None;
                return Some(Answer {
                    question: id,
                    verdict,
                    scope,
                    by: "the terminal".to_owned(),
                });
            }
        }
        None
    }

    fn read_keys(&mut self) {
        let mut chunk = [0; 256];
        loop {
            match self.terminal.read(&mut chunk) {
                Ok(got) if got > 0 => {
                    self.typed.extend(chunk.iter().take(got));
                    let beyond = self.typed.len().saturating_sub(MAX_LINE);
                    self.typed.drain(..beyond);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Ctrl-D is the command's to understand.
                Ok(_) => return,
                Err(_) => {
                    self.lost = true;
                    return;
                }
            }
        }
    }

    fn is_foreground(&self) -> bool {
        rustix::termios::tcgetpgrp(&self.terminal)
            .is_ok_and(|foreground| foreground == rustix::process::getpgrp())
    }
}

fn text(question: &Question, code: &str) -> String {
    let what = escaped(&described(question));
    let seconds = question.wait_seconds;
    format!(
        "\r\nportcullis: may this session reach {what}? Type {code} and y (once), s (this session), \
         p (and keep it in the profile) or n, then Enter; no answer in {seconds} s is no.\r\n"
    )
}

/// Safe for a terminal, whatever the jail put into a path.
fn escaped(text: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() || c == ' ';
    let mut safe = String::new();
    for c in text.chars() {
        if plain(c) {
            safe.push(c);
        } else {
            safe.extend(c.escape_unicode());
        }
    }
    safe
}

/// Four digits that nobody can know: the random end of a fresh identifier.
fn code() -> String {
    let id = SessionId::generate().to_string();
    id.get(id.len().saturating_sub(4)..)
        .unwrap_or_default()
        .to_owned()
}

fn understood(line: &str, code: &str) -> Option<(Answered, Scope)> {
    match line.strip_prefix(code)?.trim() {
        "y" => Some((Answered::Allow, Scope::Once)),
        "s" => Some((Answered::Allow, Scope::Session)),
        "p" => Some((Answered::Allow, Scope::Profile)),
        "n" => Some((Answered::Deny, Scope::Once)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_line_with_the_code_is_an_answer() {
        let yes = Some((Answered::Allow, Scope::Once));
        assert_eq!(understood("ab12 y", "ab12"), yes);
        assert_eq!(understood("ab12y", "ab12"), yes);
        for none in ["y", "yes", "", "ab12", "ab12 yes", "ab13 y", "y ab12"] {
            assert_eq!(understood(none, "ab12"), None, "{none}");
        }
        assert_ne!(code(), code());
    }

    #[test]
    fn a_path_cannot_draw_on_the_terminal() {
        assert_eq!(
            escaped("/a\u{1b}[2J\r\n\u{202e}é b"),
            "/a\\u{1b}[2J\\u{d}\\u{a}\\u{202e}\\u{e9} b"
        );
    }
}

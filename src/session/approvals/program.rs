//! A program of the operator's that answers: one JSON line in, one JSON line out. Started outside the
//! jail, so it must lie where no session can write; without a shell, in a process group of its own, for
//! one question. It is killed when it has answered or nobody waits any more.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;

use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use crate::ids::SessionId;
use crate::policy::{Answered, FilesystemMode, Scope};
use crate::session::caller::Caller;
use crate::session::trust::{is_outside, path_outside};
use crate::sys::process::Spawn;
use crate::wire::gate::Question;

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 4096;

/// What a program of the operator's may need to reach a person, beside `PATH`.
const PASSED: [&str; 9] = [
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
];

/// What to start, checked.
#[derive(Debug)]
pub struct Setup {
    /// The program.
    pub program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(OsString, OsString)>,
    folder: PathBuf,
    profile: String,
}

impl Setup {
    /// Checks that no session can have written the program; one line if it could.
    pub fn check(
        command: &[String],
        caller: &Caller,
        writable: &[PathBuf],
        (mode, profile): (FilesystemMode, &str),
    ) -> Result<Self, String> {
        let Some((program, arguments)) = command.split_first() else {
            return Err("the profile has none; set command in [approvals]".to_owned());
        };
        let program = std::fs::canonicalize(program)
            .map_err(|error| format!("{program}: {error}; name an existing program"))?;
        // A script that an interpreter is named with is a program as well.
        let scripts = arguments.iter().map(|argument| caller.home.join(argument));
        let scripts = scripts.filter(|path| path.exists());
        for path in std::iter::once(program.clone()).chain(scripts) {
            let full = mode == FilesystemMode::DangerFullAccess && is_ours(&path);
            if full || !is_outside(&path, writable) {
                return Err(format!(
                    "{}: the session could change it; put it where the session cannot write",
                    path.display()
                ));
            }
        }
        let passed = PASSED
            .iter()
            .filter_map(|name| Some(((*name).into(), caller.variable(name)?.to_owned())));
        let path = path_outside(caller.variable("PATH").unwrap_or_default(), writable);
        Ok(Self {
            program,
            arguments: arguments.to_vec(),
            environment: passed.chain([("PATH".into(), path)]).collect(),
            folder: caller.home.clone(),
            profile: profile.to_owned(),
        })
    }
}

/// Whether we ourselves could replace a file, by any name on its way: a session with full access then
/// can. What is ours counts whatever its mode is, because its owner can change that.
fn is_ours(file: &Path) -> bool {
    let us = nix::unistd::geteuid().as_raw();
    file.ancestors().any(|path| {
        access(path, AccessFlags::W_OK).is_ok()
            || std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.uid() == us)
    })
}

/// What the program reads.
#[derive(Debug, Serialize)]
struct Line<'a> {
    session: SessionId,
    profile: &'a str,
    #[serde(flatten)]
    question: &'a Question,
}

/// What it writes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    verdict: Answered,
    #[serde(default)]
    scope: Scope,
}

/// A program that thinks about one question.
#[derive(Debug)]
pub struct Program {
    child: Child,
    output: std::process::ChildStdout,
    said: Vec<u8>,
}

impl Program {
    /// Starts it and hands it the question.
    pub fn start(setup: &Setup, session: SessionId, question: &Question) -> io::Result<Self> {
        let mut spawn = Spawn::new(&setup.program)
            .pipe_stdin()
            .pipe_stdout()
            .die_with_us()
            .own_process_group();
        for argument in &setup.arguments {
            spawn = spawn.arg(argument);
        }
        for (name, value) in &setup.environment {
            spawn = spawn.env(name, value);
        }
        if setup.folder.is_dir() {
            spawn = spawn.current_dir(&setup.folder);
        }
        let line = Line {
            session,
            profile: &setup.profile,
            question,
        };
        let mut line = serde_json::to_vec(&line)?;
        line.push(b'\n');
        let mut child = spawn.start()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        if let Some(mut input) = child.stdin.take() {
            // Less than a pipe holds (pipe(7): 64 KiB), so this does not wait. A program that reads
            // nothing may still answer.
            input.write_all(&line).ok();
        }
        rustix::io::ioctl_fionbio(&output, true)?;
        Ok(Self {
            child,
            output,
            said: Vec::new(),
        })
    }

    /// What may become readable.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// Its answer, if it is there; the error is why there will be none. Never waits.
    pub fn answer(&mut self) -> Option<Result<(Answered, Scope), String>> {
        let mut chunk = [0; 1024];
        loop {
            match self.output.read(&mut chunk) {
                Ok(0) => return Some(read(&self.said)),
                Ok(got) => {
                    self.said.extend(chunk.iter().take(got));
                    if self.said.contains(&b'\n') || self.said.len() > MAX_ANSWER {
                        return Some(read(&self.said));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(error.to_string())),
            }
        }
    }
}

/// One line of JSON, nothing else counts.
fn read(said: &[u8]) -> Result<(Answered, Scope), String> {
    if said.len() > MAX_ANSWER {
        return Err("its answer is too long".to_owned());
    }
    let line = said.split(|byte| *byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice::<Said>(line)
        .map(|said| (said.verdict, said.scope))
        .map_err(|error| {
            format!(
                "no answer ({error}); accepted is {{\"verdict\":\"allow\",\"scope\":\"once\"}} or the like"
            )
        })
}

impl Drop for Program {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        // Ended already is as good as killed; it is not reaped yet, so the number is its own.
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        self.child.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_line_of_json_and_anything_else_is_none() {
        let yes = |scope| Ok((Answered::Allow, scope));
        assert_eq!(read(br#"{"verdict":"allow"}"#), yes(Scope::Once));
        assert_eq!(
            read(b"{\"verdict\":\"allow\",\"scope\":\"profile\"}\nmore"),
            yes(Scope::Profile)
        );
        for none in [
            &b""[..],
            b"allow",
            b"{}",
            br#"{"verdict":"ask"}"#,
            br#"{"verdict":"allow","x":1}"#,
            b"\n{\"verdict\":\"allow\"}",
            &[b' '; MAX_ANSWER + 1],
        ] {
            assert!(read(none).is_err(), "{none:?}");
        }
    }
}

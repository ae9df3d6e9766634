//! Asking a client: run it from the root folder with the caller's environment, bounded in time and size.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use crate::sys::process::{Spawn, find_in_path};

use super::super::caller::Caller;

/// A client that takes longer than this is taken for missing.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest answer that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// What a client prints on standard output; an error says which client and why, for a person.
pub(super) fn ask(caller: &Caller, program: &str, arguments: &[&str]) -> Result<String, String> {
    let path = caller
        .variable("PATH")
        .unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
    let found = find_in_path(OsStr::new(program), path)
        .ok_or_else(|| format!("{program} is not in PATH"))?;
    let mut spawn = Spawn::new(Path::new(&found))
        .current_dir(Path::new("/"))
        .pipe_stdout();
    for (name, value) in &caller.environment {
        spawn = spawn.env(name, value);
    }
    for argument in arguments {
        spawn = spawn.arg(argument);
    }
    let mut child = spawn
        .start()
        .map_err(|error| format!("{program}: {error}"))?;
    let output = child
        .stdout
        .take()
        .ok_or_else(|| format!("{program}: no output"))?;
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = output.take(LONGEST).read_to_string(&mut text);
        // Nobody waits any more when the patience is over.
        drop(answer.send(read.map(|_| text)));
    });
    let text = answered.recv_timeout(PATIENCE);
    if text.is_err() {
        // It may have ended meanwhile; either way it is reaped below.
        drop(child.kill());
    }
    let status = child
        .wait()
        .map_err(|error| format!("{program}: {error}"))?;
    let text =
        text.map_err(|_| format!("{program} gave no answer within {} s", PATIENCE.as_secs()))?;
    let text = text.map_err(|error| format!("{program}: {error}"))?;
    if status.success() {
        Ok(text)
    } else {
        Err(format!("{program} {}: {status}", arguments.join(" ")))
    }
}

//! `portcullis logs`: what the command of a detached session has printed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};

use super::failure::{Failure, Outcome};
use super::print;
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::session::caller::Caller;
use crate::session::running;
use crate::session::terminal::filter::{Filter, Kind};
use crate::session::terminal::log;

/// How often a log that is followed is looked at, in nanoseconds.
const EVERY: i64 = 100_000_000;

/// Arguments of `logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portcullis logs nightly            a running session, by its name
  portcullis logs 0197 -n 100        any session, by the beginning of its id
  portcullis logs -f                 the latest, until its command ends

What acts on a terminal beyond drawing (clipboard, titles, questions) is left out, unless --raw.")]
pub struct LogsArguments {
    /// The session: a running one's name, or the beginning of any one's id; left out: the latest
    session: Option<String>,
    /// Go on until the command ends
    #[arg(short, long)]
    follow: bool,
    /// Print the last lines alone
    #[arg(short = 'n', long, value_name = "LINES")]
    lines: Option<usize>,
    /// Leave nothing out; dangerous at a terminal: the command decides what it does there
    #[arg(long)]
    raw: bool,
}

/// Prints them.
pub fn run(arguments: &LogsArguments) -> Outcome {
    let caller = Caller::current();
    let session = find(&caller, arguments.session.as_deref())?;
    let failed = |error: io::Error| {
        let exit = Exit::Unavailable;
        Failure::new(exit, format!("log of session {session}: {error}"))
    };
    // Before the log is read: what is printed after that is read in the last round.
    let process = arguments
        .follow
        .then(|| process(&caller, session))
        .flatten();
    let mut log = Reader {
        file: log::open(&caller, session).map_err(failed)?,
        printer: Printer::new(arguments.raw),
    };
    if let Some(lines) = arguments.lines {
        let start = last_lines(&mut log.file, lines).map_err(failed)?;
        log.file.seek(SeekFrom::Start(start)).map_err(failed)?;
    }
    loop {
        let ended = process.as_ref().is_none_or(has_ended);
        loop {
            match log.print() {
                Ok(true) => {}
                // Nobody reads any more.
                Ok(false) => return Ok(Exit::Success),
                Err(error) => return Err(failed(error)),
            }
            if !log.reopen(&caller, session).map_err(failed)? {
                break;
            }
        }
        if ended {
            log.printer.end();
            return Ok(Exit::Success);
        }
    }
}

fn find(caller: &Caller, text: Option<&str>) -> Result<SessionId, Failure> {
    let all = log::sessions(caller);
    let none = |what: &str| {
        let why = format!("no session of yours that was started with run -d{what}");
        Failure::new(Exit::Unavailable, why)
    };
    let Some(text) = text else {
        return all.last().copied().ok_or_else(|| none(" has a log"));
    };
    let wanted = text.to_ascii_lowercase();
    let mut found: Vec<_> = all
        .iter()
        .filter(|id| id.to_string().starts_with(&wanted))
        .copied()
        .collect();
    if found.is_empty() {
        let named = running::meant(caller, text).into_iter().map(|one| one.id);
        found = named.filter(|id| all.contains(id)).collect();
    }
    match found.as_slice() {
        [] => Err(none(&format!(
            " has an id that begins with {0}, and none that runs is named {0}",
            print::escape(text)
        ))),
        [one] => Ok(*one),
        many => {
            let names: Vec<_> = many.iter().map(ToString::to_string).collect();
            let why = format!("several sessions; name one: {}", names.join(", "));
            Err(Failure::new(Exit::Usage, why))
        }
    }
}

/// The session's process, if it runs.
fn process(caller: &Caller, session: SessionId) -> Option<OwnedFd> {
    let all = running::all(caller);
    let running = all.into_iter().find(|one| one.id == session)?;
    let peer = socket_peercred(&running.channel).ok()?;
    pidfd_open(peer.pid, PidfdFlags::empty()).ok()
}

/// Waits a little for its end.
fn has_ended(process: &OwnedFd) -> bool {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: EVERY,
    };
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// Where the last lines begin; one that has no end yet is one as well.
fn last_lines(file: &mut File, lines: usize) -> io::Result<u64> {
    let mut starts = VecDeque::from([0]);
    let mut at = 0;
    let mut chunk = vec![0; 64 << 10];
    loop {
        let got = file.read(&mut chunk)?;
        if got == 0 {
            break;
        }
        for place in memchr::memchr_iter(b'\n', chunk.get(..got).unwrap_or_default()) {
            starts.push_back(at + place as u64 + 1);
            if starts.len() > lines.saturating_add(1) {
                starts.pop_front();
            }
        }
        at += got as u64;
    }
    // The last line may be whole, and then nothing begins behind it.
    if starts.back() == Some(&at) {
        starts.pop_back();
    }
    let first = starts.len().saturating_sub(lines);
    Ok(starts.get(first).copied().unwrap_or(at))
}

struct Reader {
    file: File,
    printer: Printer,
}

impl Reader {
    /// Prints to the end; false when nobody reads any more.
    fn print(&mut self) -> io::Result<bool> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            let got = self.file.read(&mut chunk)?;
            if got == 0 {
                return Ok(true);
            }
            let printed = self.printer.print(chunk.get(..got).unwrap_or_default());
            if printed.is_err() {
                return Ok(false);
            }
        }
    }

    /// Goes on in the file that has taken this one's place, if one has: it begins with the newer half of what
    /// was read already.
    fn reopen(&mut self, caller: &Caller, session: SessionId) -> io::Result<bool> {
        let mut now = log::open(caller, session)?;
        let (old, new) = (self.file.metadata()?, now.metadata()?);
        if (old.dev(), old.ino()) == (new.dev(), new.ino()) {
            return Ok(false);
        }
        now.seek(SeekFrom::Start(log::MAX / 2))?;
        self.file = now;
        Ok(true)
    }
}

struct Printer {
    filter: Option<Filter>,
    terminal: bool,
    output: Vec<u8>,
    /// A carriage return that may belong to the end of a line.
    returned: bool,
}

impl Printer {
    fn new(raw: bool) -> Self {
        Self {
            filter: (!raw).then(|| Filter::new(Kind::View)),
            terminal: io::stdout().is_terminal(),
            output: Vec::new(),
            returned: false,
        }
    }

    fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(filter) = &mut self.filter else {
            return print::bytes(bytes);
        };
        self.output.clear();
        filter.pass(bytes, &mut self.output);
        if self.terminal {
            return print::bytes(&self.output);
        }
        // A terminal's ends of lines are two characters; a file's are one.
        let mut plain = Vec::with_capacity(self.output.len() + 1);
        for byte in &self.output {
            if std::mem::take(&mut self.returned) && *byte != b'\n' {
                plain.push(b'\r');
            }
            if *byte == b'\r' {
                self.returned = true;
            } else {
                plain.push(*byte);
            }
        }
        print::bytes(&plain)
    }

    /// Leaves the terminal as it was.
    fn end(&mut self) {
        if let Some(filter) = self.filter.as_ref().filter(|_| self.terminal) {
            let mut reset = Vec::new();
            filter.reset(&mut reset);
            print::bytes(&reset).ok();
        }
    }
}

//! `portcullis attach`: a person's terminal in front of a detached session's.
//!
//! Owns: the person's terminal while it lasts: raw, and as it was again on every way out. Trusts: the
//! session, not the command in it: what is shown passes a filter
//! ([`Kind`]). Never: gives a key to the session that detaches.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::escape::{Escape, EscapeKey};
use super::failure::{Failure, Outcome};
use super::{detached, print, sessions, stop};
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::session::caller::Caller;
use crate::session::terminal::filter::{Filter, Kind};
use crate::wire::session::{MAX_REPLY, SessionReply, SessionRequest};
use crate::wire::{Channel, Inbox};

/// Keys that wait for a command that does not read, in bytes; more are lost, as at any terminal.
const TYPED: usize = 64 << 10;

/// For the session to write its last record once its command has ended.
const LAST_RECORD: Duration = Duration::from_secs(20);

/// Arguments of `attach`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portcullis attach nightly                   Ctrl-] d leaves; the command goes on
  portcullis attach --escape ctrl-p 0197      Ctrl-p d leaves
  portcullis attach --read-only               look, and type nothing; q leaves

Exit status: the command's own when it ends, 0 after leaving, 69 if the session is not there.")]
pub struct AttachArguments {
    /// The session: its name, or the beginning of its id; may be left out if only one runs
    session: Option<String>,
    /// Type nothing there
    #[arg(short, long)]
    read_only: bool,
    /// The key that, with d behind it, leaves; or none
    #[arg(long, value_name = "KEY", default_value = "ctrl-]")]
    escape: EscapeKey,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By the keys, or because nobody types or reads any more.
    Left,
    /// The command has ended.
    Ended(u8),
    /// The session let go of us.
    CutOff,
    /// A signal asked us to.
    Signal(u8),
}

/// Attaches.
pub fn run(arguments: &AttachArguments) -> Outcome {
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !terminal && !arguments.read_only {
        let why = "attach needs a terminal; without one use --read-only, or portcullis logs -f";
        return Err(Failure::new(Exit::Usage, why));
    }
    let (id, channel) = sessions::find(&Caller::current(), arguments.session.as_deref())?;
    let mut view = View::new(channel, arguments.read_only, arguments.escape)?;
    let end = view.show_until_the_end()?;
    tell(id, &view.channel, end)
}

/// Puts the person in front of a session's terminal until its command ends, or something else ends that; no key
/// leaves it.
pub(super) fn in_front(channel: Channel) -> Result<End, Failure> {
    View::new(channel, false, EscapeKey::None)?.show_until_the_end()
}

/// Asks for the stream.
fn ask(channel: &Channel, read_only: bool) -> Result<UnixStream, Failure> {
    let size = detached::size();
    let request = SessionRequest::Attach { size, read_only };
    let asked = channel.send(&request).and_then(|()| channel.recv_with());
    let mut received = asked.map_err(|error| sessions::gone(&error))?;
    match (received.message, received.fds.pop()) {
        (SessionReply::Attached, Some(stream)) => Ok(stream.into()),
        (SessionReply::Failed(why), _) => Err(Failure::new(Exit::No, print::escape(&why))),
        _ => Err(sessions::unexpected()),
    }
}

/// The last line, and the status.
fn tell(id: SessionId, channel: &Channel, end: End) -> Outcome {
    match end {
        End::Left => {
            print::error(format!(
                "left session {id}; it goes on: portcullis attach {id}"
            ));
            Ok(Exit::Success)
        }
        End::Ended(status) => {
            // Its status stands, even if the session takes long for its last record.
            stop::over(id, channel, Instant::now() + LAST_RECORD).ok();
            Ok(Exit::Command(status))
        }
        End::CutOff => Err(Failure::new(
            Exit::Unavailable,
            format!(
                "session {id} let go: it is gone, or this terminal took too long; portcullis ps"
            ),
        )),
        End::Signal(signal) => Ok(Exit::Signal(signal)),
    }
}

fn system(error: &io::Error) -> Failure {
    Failure::new(Exit::Internal, format!("attach: {error}"))
}

fn watch_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGWINCH,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        set.add(signal);
    }
    set.thread_block()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&set, flags)?)
}

/// A person in front of a session's terminal.
struct View {
    channel: Channel,
    inbox: Inbox,
    stream: UnixStream,
    signals: SignalFd,
    /// Whether keys are read.
    reads: bool,
    read_only: bool,
    escape: Escape,
    /// What was typed and the session has not taken yet.
    typed: Vec<u8>,
    filter: Filter,
    /// The command's status, once it is known.
    ended: Option<u8>,
}

impl View {
    fn new(channel: Channel, read_only: bool, escape: EscapeKey) -> Result<Self, Failure> {
        // Before the first size is told: a change after that is a signal.
        let signals = watch_signals().map_err(|error| system(&error))?;
        let stream = ask(&channel, read_only)?;
        stream
            .set_nonblocking(true)
            .map_err(|error| system(&error))?;
        let kind = if read_only { Kind::View } else { Kind::Drive };
        Ok(Self {
            channel,
            inbox: Inbox::new(MAX_REPLY),
            stream,
            signals,
            reads: io::stdin().is_terminal(),
            read_only,
            escape: Escape::new(escape),
            typed: Vec::new(),
            filter: Filter::new(kind),
            ended: None,
        })
    }

    /// Shows it, and leaves the person's terminal as it was.
    fn show_until_the_end(&mut self) -> Result<End, Failure> {
        let raw = self.reads.then(Raw::enter).transpose();
        let raw = raw.map_err(|error| system(&error))?;
        let end = self.until_the_end();
        if io::stdout().is_terminal() {
            let mut reset = Vec::new();
            self.filter.reset(&mut reset);
            print::bytes(&reset).ok();
        }
        drop(raw);
        end.map_err(|error| system(&error))
    }

    fn until_the_end(&mut self) -> io::Result<End> {
        loop {
            let [stream, keys, channel, signals] = self.wait()?;
            if signals && let Some(end) = self.obey()? {
                return Ok(end);
            }
            if stream && let Some(end) = self.show() {
                return Ok(end);
            }
            if keys
                && self.reads
                && let Some(end) = self.listen()?
            {
                return Ok(end);
            }
            if channel && self.ended.is_none() && !self.hear() {
                // What it has shown last is still to be seen.
                return Ok(self.show().unwrap_or(End::CutOff));
            }
        }
    }

    fn wait(&self) -> io::Result<[bool; 4]> {
        let mut stream = PollFlags::IN;
        if !self.typed.is_empty() {
            stream |= PollFlags::OUT;
        }
        let stdin = io::stdin();
        // What is of no interest is the queue of signals a second time.
        let queue: BorrowedFd<'_> = self.signals.as_fd();
        let keys = if self.reads { stdin.as_fd() } else { queue };
        let channel = match self.ended {
            None => self.channel.as_fd(),
            Some(_) => queue,
        };
        let mut fds = [
            PollFd::from_borrowed_fd(self.stream.as_fd(), stream),
            PollFd::from_borrowed_fd(keys, PollFlags::IN),
            PollFd::from_borrowed_fd(channel, PollFlags::IN),
            PollFd::from_borrowed_fd(queue, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(fds.map(|fd| !fd.revents().is_empty()))
    }

    /// A signal: another size, or the end.
    fn obey(&mut self) -> io::Result<Option<End>> {
        while let Some(info) = self.signals.read_signal()? {
            let number = u8::try_from(info.ssi_signo).unwrap_or(0);
            if i32::from(number) != Signal::SIGWINCH as i32 {
                return Ok(Some(End::Signal(number)));
            }
            if !self.read_only {
                // A session that is gone says so by the end of the stream.
                let resize = SessionRequest::Resize(detached::size());
                self.channel.send(&resize).ok();
            }
        }
        Ok(None)
    }

    /// Gives the session what was typed and shows what it sends.
    fn show(&mut self) -> Option<End> {
        if !self.typed.is_empty()
            && let Ok(taken) = self.stream.write(&self.typed)
        {
            self.typed.drain(..taken);
        }
        let mut chunk = [0; 16 << 10];
        let got = match self.stream.read(&mut chunk) {
            Ok(0) => return Some(self.farewell()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return None,
            Err(_) => return Some(self.farewell()),
        };
        let mut output = Vec::with_capacity(got);
        self.filter
            .pass(chunk.get(..got).unwrap_or_default(), &mut output);
        // The person's terminal is gone.
        print::bytes(&output).is_err().then_some(End::Left)
    }

    /// The stream has ended: the status is there, or comes at once.
    fn farewell(&mut self) -> End {
        let until = Instant::now() + Duration::from_secs(2);
        while self.ended.is_none() && Instant::now() < until {
            let mut fds = [PollFd::new(&self.channel, PollFlags::IN)];
            let second = rustix::event::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            poll(&mut fds, Some(&second)).ok();
            if !self.hear() {
                break;
            }
        }
        self.ended.map_or(End::CutOff, End::Ended)
    }

    /// What the session says beside the stream; false when it says nothing any more.
    fn hear(&mut self) -> bool {
        loop {
            match self.inbox.next(&self.channel) {
                Ok(Some(SessionReply::Ended(status))) => self.ended = Some(status),
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
            if self.ended.is_some() {
                return true;
            }
        }
    }

    /// Keys.
    fn listen(&mut self) -> io::Result<Option<End>> {
        let mut chunk = [0; 4 << 10];
        let got = match rustix::io::read(io::stdin(), &mut chunk) {
            Ok(0) | Err(rustix::io::Errno::IO) => return Ok(Some(End::Left)),
            Ok(got) => got,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let mut keys = Vec::with_capacity(got);
        let leaves = self
            .escape
            .pass(chunk.get(..got).unwrap_or_default(), &mut keys);
        // Who only looks leaves as from a pager.
        let leaves = leaves || self.read_only && keys.iter().any(|key| matches!(key, b'q' | 3));
        if leaves {
            return Ok(Some(End::Left));
        }
        if !self.read_only && self.typed.len() + keys.len() <= TYPED {
            self.typed.extend(keys);
            if let Ok(taken) = self.stream.write(&self.typed) {
                self.typed.drain(..taken);
            }
        }
        Ok(None)
    }
}

/// The person's terminal, raw as long as this lives.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        // An abort runs no destructor.
        let kept = before.clone();
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore(&kept);
            usual(info);
        }));
        let raw_now = Self { before };
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(raw_now)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore(&self.before);
    }
}

/// Answers that the terminal gave to the command's last questions are not for the shell: they are dropped.
fn restore(before: &Termios) {
    tcsetattr(io::stdin(), OptionalActions::Flush, before).ok();
}

//! The terminal of a detached session: a pseudo-terminal (pty(7)) that the session makes, and that is its
//! own controlling terminal, as a person's would be.
//!
//! Owns: both its ends; what the command prints goes to a [`log`] and to whoever is attached ([`viewer`]).
//! Trusts: of what comes out of it nothing; what a person sees of it passes a [`filter`]. Never: waits. The
//! command waits for a viewer that reads slowly, a few seconds at most; then that one is cut off.
//!
//! The slave stays open in the session, so that what was printed last is not lost when the jail has ended.

pub mod filter;
pub mod log;
mod viewer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::pty::openpty;
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::termios::{Winsize, tcsetwinsize};

use super::caller::Caller;
use super::socket::PeerId;
use crate::ids::SessionId;
use crate::wire::session::Size;
use filter::{Filter, Kind};
use log::Log;
use viewer::Viewer;

/// Viewers at once.
const MAX_VIEWERS: usize = 16;

/// What is taken from the command before anything else has its turn, in bytes.
const TURN: usize = 64 << 10;

/// What a viewer gets of what was printed before, in bytes.
const REPLAY: usize = 64 << 10;

/// Between the two changes of size that make a program draw its screen anew.
const NUDGE: Duration = Duration::from_millis(100);

/// How long what was printed last may take to reach the viewers.
const LAST: Duration = Duration::from_secs(2);

/// The terminal of one session.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    /// Held so that the master never reads an end.
    _slave: OwnedFd,
    /// `None`: it could not be written any more.
    log: Option<Log>,
    viewers: BTreeMap<PeerId, Viewer>,
    /// Follows what is printed, for those who come later.
    follower: Filter,
    /// What the follower lets through, which nobody needs.
    followed: Vec<u8>,
    size: Size,
    /// Whether anybody has typed here.
    seen: bool,
    /// When the terminal gets the size that it has for its viewers.
    settles: Option<Instant>,
}

/// A viewer that is not there any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Who.
    pub by: String,
    /// Whether it could not type.
    pub read_only: bool,
}

impl Terminal {
    /// Makes it. From then on it is this process's standard streams and controlling terminal: the process
    /// must lead a session that has none (setsid(2)).
    pub fn open(caller: &Caller, session: SessionId, size: Size) -> io::Result<Self> {
        let log = Log::create(caller, session).map_err(|error| {
            io::Error::other(format!("{}: {error}", log::folder(caller).display()))
        })?;
        let pty = openpty(None, None)?;
        for end in [&pty.master, &pty.slave] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        let flags = rustix::fs::fcntl_getfl(&pty.master)?;
        rustix::fs::fcntl_setfl(&pty.master, flags | OFlags::NONBLOCK)?;
        tcsetwinsize(&pty.master, window(size))?;
        // The keys of whoever attaches are for the command, which is in our process group at first.
        crate::sys::signal::ignore_stops()?;
        rustix::process::ioctl_tiocsctty(&pty.slave)?;
        rustix::stdio::dup2_stdin(&pty.slave)?;
        rustix::stdio::dup2_stdout(&pty.slave)?;
        rustix::stdio::dup2_stderr(&pty.slave)?;
        Ok(Self {
            master: pty.master.into(),
            _slave: pty.slave,
            log: Some(log),
            viewers: BTreeMap::new(),
            follower: Filter::new(Kind::Drive),
            followed: Vec::new(),
            size,
            seen: false,
            settles: None,
        })
    }

    /// The command has the terminal as its own: what this process and those it starts from now on say is not
    /// for it, and must not wait for it either.
    pub fn step_back() -> io::Result<()> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        Ok(())
    }

    /// What to wait for.
    pub fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut master = PollFlags::empty();
        if !self.viewers.values().any(Viewer::is_behind) {
            master |= PollFlags::IN;
        }
        let mut polled = Vec::new();
        for viewer in self.viewers.values() {
            let mut flags = PollFlags::empty();
            if viewer.is_behind() {
                flags |= PollFlags::OUT;
            }
            if viewer.may_type() {
                flags |= PollFlags::IN;
            } else {
                master |= PollFlags::OUT;
            }
            polled.push((viewer.fd(), flags));
        }
        polled.push((self.master.as_fd(), master));
        polled
    }

    /// When [`Terminal::attend`] is to be called although nothing happened.
    pub fn due(&self) -> Option<Instant> {
        let viewers = self.viewers.values().filter_map(Viewer::due);
        viewers.chain(self.settles).min()
    }

    /// Moves what there is to move; answers who left. An error is the log's, told once: without it the
    /// session goes on.
    pub fn attend(&mut self) -> (Vec<Left>, io::Result<()>) {
        let mut left = self.turn();
        let mut logged = Ok(());
        let mut moved = 0;
        let mut chunk = [0; 4 << 10];
        while moved < TURN && !self.viewers.values().any(Viewer::is_behind) {
            let Ok(got) = self.master.read(&mut chunk) else {
                break;
            };
            let printed = chunk.get(..got).unwrap_or_default();
            moved += got;
            logged = logged.and(self.print(printed));
            left.extend(self.turn());
            if got == 0 {
                break;
            }
        }
        if self.settles.is_some_and(|at| at <= Instant::now()) {
            self.settles = None;
            self.set_size(self.size);
        }
        (left, logged)
    }

    /// What viewers take and what they typed.
    fn turn(&mut self) -> Vec<Left> {
        let mut left = Vec::new();
        let mut master = &self.master;
        self.viewers.retain(|_, viewer| {
            let stays = viewer.flush().and_then(|()| viewer.listen()).is_ok();
            if !viewer.keys.is_empty()
                && let Ok(taken) = master.write(&viewer.keys)
            {
                viewer.keys.drain(..taken);
            }
            if !stays {
                left.push(Left {
                    by: viewer.name.clone(),
                    read_only: viewer.read_only,
                });
            }
            stays
        });
        if !left.is_empty() {
            self.fit();
        }
        left
    }

    /// The command has printed this.
    fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.followed.clear();
        self.follower.pass(bytes, &mut self.followed);
        let asked = self.follower.take_asked();
        if !self.viewers.values().any(|viewer| !viewer.read_only) {
            for question in asked {
                // Nobody else answers, and some programs do not start without. What does not fit is lost,
                // as on a line.
                self.master.write_all(question.plain_answer()).ok();
            }
        }
        for viewer in self.viewers.values_mut() {
            viewer.show(bytes);
        }
        let written = self.log.as_mut().map_or(Ok(()), |log| log.write(bytes));
        if written.is_err() {
            self.log = None;
        }
        written
    }

    /// Lets somebody look, and type unless `read_only`; answers with the descriptor to do it with.
    pub fn attach(
        &mut self,
        (peer, name): (PeerId, String),
        size: Size,
        read_only: bool,
    ) -> io::Result<OwnedFd> {
        if self.viewers.len() >= MAX_VIEWERS {
            return Err(io::Error::other(format!(
                "{MAX_VIEWERS} are attached already"
            )));
        }
        if self.viewers.contains_key(&peer) {
            return Err(io::Error::other("you are attached already"));
        }
        let (mut viewer, theirs) = Viewer::new(name, size, read_only)?;
        let mut before = Vec::new();
        if !self.follower.is_full_screen() {
            let tail = self.log.as_ref().map(|log| log.tail(REPLAY));
            Filter::new(Kind::Replay).pass(&tail.unwrap_or_default(), &mut before);
        }
        self.follower.restore(&mut before);
        viewer.show(&before);
        self.viewers.insert(peer, viewer);
        if !read_only {
            // Whoever is the first to look, at the size that it has had from the start, has the replay: as with
            // a session that is run in front of a person.
            let as_it_was = !std::mem::replace(&mut self.seen, true)
                && self.wanted() == self.size
                && !self.follower.is_full_screen();
            self.size = self.wanted();
            if !as_it_was {
                // A program draws its whole screen anew for a size that is new to it.
                let rows = self.size.rows.saturating_sub(1).max(1);
                self.set_size(Size { rows, ..self.size });
                self.settles = Some(Instant::now() + NUDGE);
            }
        }
        Ok(theirs)
    }

    /// A viewer's own terminal has this size now; answers whether there is such a viewer.
    pub fn resize(&mut self, peer: PeerId, size: Size) -> bool {
        let Some(viewer) = self.viewers.get_mut(&peer) else {
            return false;
        };
        viewer.size = size;
        self.fit();
        true
    }

    /// The largest size that every viewer who types can show; without such the one there was.
    fn wanted(&self) -> Size {
        let typing = self.viewers.values().filter(|viewer| !viewer.read_only);
        let sizes = typing.map(|viewer| viewer.size);
        sizes
            .reduce(|a, b| Size {
                rows: a.rows.min(b.rows),
                columns: a.columns.min(b.columns),
            })
            .unwrap_or(self.size)
    }

    fn fit(&mut self) {
        let wanted = self.wanted();
        if wanted != self.size {
            self.size = wanted;
            self.settles = None;
            self.set_size(wanted);
        }
    }

    fn set_size(&self, size: Size) {
        // A terminal that keeps its size is still of use.
        tcsetwinsize(&self.master, window(size)).ok();
    }

    /// What was printed before the session's command could run: why it does not. Nothing is kept of it.
    pub fn last_words(&mut self) -> Vec<String> {
        if let Some(log) = self.log.take() {
            log.remove();
        }
        let mut said = Vec::new();
        let mut chunk = [0; 4 << 10];
        while let Ok(got) = self.master.read(&mut chunk) {
            said.extend_from_slice(chunk.get(..got).unwrap_or_default());
            if got == 0 || said.len() > TURN {
                break;
            }
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        let lines = said.lines().map(|line| line.trim_end().to_owned());
        lines.filter(|line| !line.is_empty()).take(20).collect()
    }

    /// The jail has ended: moves what it has printed last, for a moment at most; answers who was there.
    pub fn finish(&mut self) -> Vec<(PeerId, Left)> {
        let until = Instant::now() + LAST;
        loop {
            // Those who leave now are not told of the end either.
            self.attend().1.ok();
            let polled: Vec<_> = self.polled().into_iter().map(|(fd, _)| fd).collect();
            let behind = self.viewers.values().any(Viewer::is_behind);
            let rest = super::companions::any_readable(&polled, Duration::ZERO);
            let rest = rest.is_ok_and(|ready| ready.last().copied().unwrap_or_default());
            if !behind && !rest || until <= Instant::now() {
                break;
            }
            if behind {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let viewers = std::mem::take(&mut self.viewers).into_iter();
        let left = |viewer: Viewer| Left {
            by: viewer.name,
            read_only: viewer.read_only,
        };
        viewers.map(|(peer, viewer)| (peer, left(viewer))).collect()
    }
}

fn window(size: Size) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

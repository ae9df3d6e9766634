//! The processes a session starts beside the jail: the audit writer and the gate.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{PidfdFlags, pidfd_open};
use serde::de::DeserializeOwned;

use crate::audit::AuditEvent;
use crate::policy::NetworkPolicy;
use crate::sys::beside::{self, Errors, Process};
use crate::wire::audit::{Append, AppendError, AuditBoot, AuditReply, kept};
use crate::wire::frame::Received;
use crate::wire::gate::{GateBoot, GateCommand, GateReply, GateSummary};
use crate::wire::{Channel, Inbox, WireError};

use super::signals::{Arrived, Signals};

/// Starting a companion takes no longer than this on a working host, however loaded.
const START: Duration = Duration::from_secs(30);

/// Nothing that a running companion is asked for takes this long: one that hangs (a stopped process, a
/// stuck disk) must not keep the session from its end.
const ANSWER: Duration = Duration::from_secs(10);

/// The longest message of a gate, in bytes: a summary of 64 destinations is far below.
const MAX_REPLY: usize = 1 << 20;

/// Why a companion is of no use.
#[derive(Debug, thiserror::Error)]
pub enum CompanionError {
    /// The program is not where it was installed, or does not start.
    #[error("start {}: {source}; it belongs beside portcullis: reinstall", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It stopped answering, or answered something else.
    #[error("{who}: {source}")]
    Wire {
        /// Which.
        who: &'static str,
        /// How.
        source: WireError,
    },
    /// It gave up, and said why.
    #[error("{who}: {message}")]
    Refused {
        /// Which.
        who: &'static str,
        /// Its own words: cause and cure.
        message: String,
    },
    /// A record is not kept.
    #[error("{0}")]
    Append(#[from] AppendError),
    /// It said something that does not belong here: a bug.
    #[error("{0}: unexpected answer")]
    Unexpected(&'static str),
    /// It did not answer in time.
    #[error("{who}: no answer within {} s", patience.as_secs())]
    TimedOut {
        /// Which.
        who: &'static str,
        /// How long it was waited for.
        patience: Duration,
    },
    /// A signal asked the session to end meanwhile.
    #[error("interrupted by {}", .0.signal)]
    Interrupted(Arrived),
    /// Waiting failed.
    #[error("wait: {0}")]
    Wait(#[source] io::Error),
}

/// Waits for one frame: with signals until one asks to end or a start is overdue, without until an
/// answer is.
pub fn receive<T: DeserializeOwned>(
    who: &'static str,
    channel: &Channel,
    signals: Option<&mut Signals>,
) -> Result<Received<T>, CompanionError> {
    receive_from(who, channel, signals, &mut || Ok(true))
}

/// As [`receive`], from somebody who may be dead while another holds its end of the channel: `lives` is
/// asked whenever a child has ended.
pub fn receive_from<T: DeserializeOwned>(
    who: &'static str,
    channel: &Channel,
    mut signals: Option<&mut Signals>,
    lives: &mut dyn FnMut() -> io::Result<bool>,
) -> Result<Received<T>, CompanionError> {
    let patience = if signals.is_some() { START } else { ANSWER };
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CompanionError::TimedOut { who, patience });
        }
        let queue = signals.as_deref().map_or(channel.as_fd(), AsFd::as_fd);
        let [spoke, _] = readable([channel.as_fd(), queue], left).map_err(CompanionError::Wait)?;
        if spoke {
            return channel
                .recv_with()
                .map_err(|source| CompanionError::Wire { who, source });
        }
        if let Some(queue) = signals.as_deref_mut()
            && let Some(arrived) = queue.take().map_err(CompanionError::Wait)?
        {
            if arrived.signal != Signal::SIGCHLD {
                return Err(CompanionError::Interrupted(arrived));
            }
            if !lives().map_err(CompanionError::Wait)? {
                let source = WireError::Closed;
                return Err(CompanionError::Wire { who, source });
            }
        }
    }
}

/// Which of the descriptors can be read (or are closed at the other end), waiting at most `timeout`.
pub fn readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Duration,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(polled.map(|fd| !fd.revents().is_empty()))
}

/// The same for any number of descriptors.
pub fn any_readable(fds: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<Vec<bool>> {
    let fds: Vec<_> = fds.iter().map(|fd| (*fd, PollFlags::IN)).collect();
    any_ready(&fds, timeout)
}

/// The same, each for what it is waited for.
pub fn any_ready(fds: &[(BorrowedFd<'_>, PollFlags)], timeout: Duration) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = fds
        .iter()
        .map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
        .collect();
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect())
}

/// Waits for the end of a companion whose channel is closed; one that hangs is killed.
pub fn reap(child: &mut Process) -> io::Result<()> {
    // Not reaped yet, so the number is still its own.
    let process = pidfd_open(child.pid(), PidfdFlags::empty())?;
    if let [false] = readable([process.as_fd()], ANSWER)? {
        child.kill()?;
    }
    child.wait()
}

/// The path of a program that is installed beside this one.
pub fn installed(name: &str) -> Result<PathBuf, CompanionError> {
    let own = std::env::current_exe().map_err(|source| CompanionError::Start {
        path: name.into(),
        source,
    })?;
    Ok(own.with_file_name(name))
}

fn start(
    name: &str,
    fds: [OwnedFd; 2],
    folder: Option<OwnedFd>,
) -> Result<Process, CompanionError> {
    let path = installed(name)?;
    let fds: Vec<_> = fds.into_iter().chain(folder).zip(3..).collect();
    beside::start(&path, None, Errors::Inherited, &fds)
        .map_err(|source| CompanionError::Start { path, source })
}

// === impl AuditWriter ===

/// The running `portcullis-audit`.
#[derive(Debug)]
pub struct AuditWriter {
    child: Process,
    channel: Channel,
    /// Identifies the next record on this channel.
    next: u64,
}

impl AuditWriter {
    const WHO: &'static str = "audit writer";

    /// Starts the writer on an open log folder; the other channel is for the gate.
    pub fn start(boot: &AuditBoot, folder: OwnedFd) -> Result<(Self, Channel), CompanionError> {
        let wire = |source| CompanionError::Wire {
            who: Self::WHO,
            source,
        };
        let (channel, theirs) = Channel::pair().map_err(|error| wire(error.into()))?;
        let (gate, gate_theirs) = Channel::pair().map_err(|error| wire(error.into()))?;
        let child = start(
            "portcullis-audit",
            [theirs.into(), gate_theirs.into()],
            Some(folder),
        )?;
        // As with the gate: one that is stopped must not stop the session as well.
        set_socket_timeout(&channel, Timeout::Send, Some(ANSWER))
            .map_err(|errno| wire(io::Error::from(errno).into()))?;
        channel.send(boot).map_err(wire)?;
        Ok((
            Self {
                child,
                channel,
                next: 1,
            },
            gate,
        ))
    }

    /// Waits until records can be written.
    pub fn ready(&self, signals: &mut Signals) -> Result<(), CompanionError> {
        match receive(Self::WHO, &self.channel, Some(signals))?.message {
            AuditReply::Ready => Ok(()),
            AuditReply::Failed { error, .. } => Err(CompanionError::Refused {
                who: Self::WHO,
                message: error,
            }),
            AuditReply::Recorded { .. } => Err(CompanionError::Unexpected(Self::WHO)),
        }
    }

    /// Has an event recorded; returns once it is.
    pub fn append(&mut self, event: AuditEvent) -> Result<(), CompanionError> {
        let id = self.next;
        self.next += 1;
        self.channel
            .send(&Append { id, event })
            .map_err(|source| CompanionError::Wire {
                who: Self::WHO,
                source,
            })?;
        kept(receive(Self::WHO, &self.channel, None)?.message, id)?;
        Ok(())
    }

    /// Closes the channel, which ends the writer once everything is written; it is still to be waited
    /// for.
    pub fn close(self) -> Process {
        self.child
    }
}

impl AsFd for AuditWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

// === impl Gate ===

/// The running `portcullis-gate`.
#[derive(Debug)]
pub struct Gate {
    child: Process,
    control: Channel,
    /// What has come on the channel since the gate serves.
    inbox: RefCell<Inbox>,
}

impl Gate {
    const WHO: &'static str = "gate";

    /// Starts the gate and tells it its policy; it compiles it and confines itself meanwhile.
    pub fn start(boot: &GateBoot, audit: Channel) -> Result<Self, CompanionError> {
        let wire = |source| CompanionError::Wire {
            who: Self::WHO,
            source,
        };
        let (control, theirs) = Channel::pair().map_err(|error| wire(error.into()))?;
        let child = start("portcullis-gate", [theirs.into(), audit.into()], None)?;
        // A gate that is stopped and reads nothing must not stop the session as well.
        set_socket_timeout(&control, Timeout::Send, Some(ANSWER))
            .map_err(|errno| wire(io::Error::from(errno).into()))?;
        control.send(boot).map_err(wire)?;
        Ok(Self {
            child,
            control,
            inbox: RefCell::new(Inbox::new(MAX_REPLY)),
        })
    }

    /// Waits until the gate is confined. Gives the session's CA (PEM), if it has one.
    pub fn confined(&self, signals: &mut Signals) -> Result<Option<String>, CompanionError> {
        match receive(Self::WHO, &self.control, Some(signals))?.message {
            GateReply::Confined { authority } => Ok(authority),
            other => Err(Self::complaint(other)),
        }
    }

    /// Hands over the listening sockets and waits until the gate accepts on them. None is kept here:
    /// should the gate die, a connect in the jail is refused at once instead of waiting in a backlog.
    pub fn serve(
        &self,
        listeners: Vec<OwnedFd>,
        signals: &mut Signals,
    ) -> Result<(), CompanionError> {
        let borrowed: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        self.control
            .send_with(&GateCommand::Serve, &borrowed)
            .map_err(|source| CompanionError::Wire {
                who: Self::WHO,
                source,
            })?;
        drop(borrowed);
        drop(listeners);
        match receive(Self::WHO, &self.control, Some(signals))?.message {
            GateReply::Serving => Ok(()),
            other => Err(Self::complaint(other)),
        }
    }

    /// Commands something of a gate that serves; what it answers comes through [`Gate::heard`].
    pub fn command(&self, command: &GateCommand) -> Result<(), CompanionError> {
        self.control.send(command).map_err(Self::wire)
    }

    /// The next message of a gate that serves, if one is there; never waits.
    pub fn heard(&self) -> Result<Option<GateReply>, CompanionError> {
        let mut inbox = self.inbox.borrow_mut();
        inbox.next(&self.control).map_err(Self::wire)
    }

    /// Has every connection closed and recorded. What the gate told unasked until then is too late.
    pub fn drain(&self) -> Result<GateSummary, CompanionError> {
        self.command(&GateCommand::Drain)?;
        let deadline = Instant::now() + ANSWER;
        loop {
            match self.heard()? {
                Some(GateReply::Drained(summary)) => return Ok(summary),
                Some(GateReply::Failed(message)) => {
                    return Err(Self::complaint(GateReply::Failed(message)));
                }
                Some(_) => continue,
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CompanionError::TimedOut {
                    who: Self::WHO,
                    patience: ANSWER,
                });
            }
            readable([self.control.as_fd()], left).map_err(CompanionError::Wait)?;
        }
    }

    /// Closes the control channel, which ends the gate; it is still to be waited for.
    pub fn close(self) -> Process {
        self.child
    }

    fn complaint(reply: GateReply) -> CompanionError {
        match reply {
            GateReply::Failed(message) => CompanionError::Refused {
                who: Self::WHO,
                message,
            },
            _ => CompanionError::Unexpected(Self::WHO),
        }
    }

    fn wire(source: WireError) -> CompanionError {
        CompanionError::Wire {
            who: Self::WHO,
            source,
        }
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

/// What the gate needs to know beside the policy: it opens no files.
pub fn gate_boot(policy: NetworkPolicy, approval_seconds: u32) -> GateBoot {
    let name_servers = if policy.dns.servers.is_empty() {
        name_servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    } else {
        policy.dns.servers.clone()
    };
    let mut hosts_file = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    hosts_file.truncate(hosts_file.floor_char_boundary(64 << 10));
    GateBoot {
        policy,
        name_servers,
        hosts_file,
        roots: String::new(),
        approval_seconds,
        credentials: Vec::new(),
        upstream: None,
    }
}

/// The `nameserver` lines of a resolv.conf(5).
fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse().ok())?
    };
    resolv_conf
        .lines()
        .filter_map(address)
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_the_nameserver_lines_of_resolv_conf() {
        let text = "# nameserver 1.1.1.1\nsearch corp\nnameserver 10.0.0.2\nnameserver ::1\nnameserver x\n";
        let expected: Vec<SocketAddr> =
            vec!["10.0.0.2:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
    }
}

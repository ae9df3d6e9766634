//! Who starts the audit writer and the gate, wires the two to each other, and starts another one in the
//! place of one that died.
//!
//! Owns: the processes, their supply channels ([`crate::wire::supply`]), and what outlives each of them:
//! the folder of logs and the memory of the session's gates, which is never read here. Never: speaks for
//! the session; the channels on which the session does are handed out. That a companion has to be
//! replaced, and how often it is tried, is the session's to say.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use serde::Serialize;

use super::companions::{ANSWER, CompanionError, installed, reap};
use super::service::{ServiceError, Shared};
use crate::audit::settings;
use crate::policy::AuditPolicy;
use crate::sys::beside::{self, Errors, Process};
use crate::sys::fd::unnamed;
use crate::wire::audit::AuditBoot;
use crate::wire::supply::{GateSupply, WriterSupply};
use crate::wire::{Channel, WireError};

/// Whoever starts the companions of one session.
#[derive(Debug)]
pub enum Starter {
    /// The session itself: they are its children.
    Children(Children),
    /// The service, which wires them: nothing that the session says comes between the two.
    Service(Shared),
}

/// The session's ends of the channels to both.
#[derive(Debug)]
pub struct Started {
    /// To the audit writer, which says when it is ready.
    pub audit: Channel,
    /// To the gate, which waits for its boot frame.
    pub gate: Channel,
}

impl Starter {
    /// Starts both as children of this process, for the log of this boot frame in this open folder.
    pub fn children(boot: AuditBoot, folder: OwnedFd) -> Result<(Self, Started), CompanionError> {
        let (children, started) = Children::start(boot, folder)?;
        Ok((Self::Children(children), started))
    }

    /// Has the service start both.
    pub fn service(service: Shared, kept: &AuditPolicy) -> Result<(Self, Started), CompanionError> {
        let [audit, gate] = service.borrow_mut().companions(kept)?;
        for end in [&audit, &gate] {
            bound(end).map_err(|error| wire(GATE, error))?;
        }
        Ok((Self::Service(service), Started { audit, gate }))
    }

    /// Ends the gate, whatever became of it, and starts another one, which finds what that one left and
    /// reports to the present audit writer. Answers the control channel.
    pub fn restart_gate(&mut self) -> Result<Channel, CompanionError> {
        match self {
            Self::Children(children) => children.restart_gate(),
            Self::Service(service) => served(service.borrow_mut().another_gate()),
        }
    }

    /// Ends the audit writer, whatever became of it, and starts another one, which goes on with the log
    /// and serves the present gate. Answers the session's channel.
    pub fn restart_writer(&mut self) -> Result<Channel, CompanionError> {
        match self {
            Self::Children(children) => children.restart_writer(),
            Self::Service(service) => served(service.borrow_mut().another_writer()),
        }
    }

    /// Waits for the end of both, once the channels that were handed out are closed; one that hangs is
    /// killed.
    pub fn end(&mut self) -> io::Result<()> {
        match self {
            Self::Children(children) => children.end(),
            // It waits for them.
            Self::Service(_) => Ok(()),
        }
    }
}

/// Both companions, as children of the session.
#[derive(Debug)]
pub struct Children {
    boot: AuditBoot,
    folder: OwnedFd,
    /// The user's `audit.toml`, for the audit writer to read.
    settings: Option<File>,
    /// What a gate leaves to the next. Whoever has this descriptor can read keys and credentials: this
    /// process is unreadable where there are any.
    memory: OwnedFd,
    writer: Companion,
    gate: Companion,
}

/// One of the two.
#[derive(Debug)]
struct Companion {
    who: &'static str,
    process: Process,
    supply: Channel,
}

impl Children {
    fn start(boot: AuditBoot, folder: OwnedFd) -> Result<(Self, Started), CompanionError> {
        let memory = unnamed("portcullis-gates").map_err(|error| wire(GATE, error))?;
        let memory = OwnedFd::from(memory);
        let settings = own_settings().map_err(|error| wire(WRITER, error))?;
        let first = WriterSupply::Boot(boot.clone());
        let (writer, audit) = start_writer(&first, &folder, settings.as_ref())?;
        let (gate, control) = start_gate(&memory)?;
        connect(&writer, &gate)?;
        let started = Started {
            audit,
            gate: control,
        };
        let children = Self {
            boot,
            folder,
            settings,
            memory,
            writer,
            gate,
        };
        Ok((children, started))
    }

    fn restart_gate(&mut self) -> Result<Channel, CompanionError> {
        // Before anything else: there are never two gates with one memory.
        self.gate.bury()?;
        let (gate, control) = start_gate(&self.memory)?;
        self.gate = gate;
        connect(&self.writer, &self.gate)?;
        Ok(control)
    }

    fn restart_writer(&mut self) -> Result<Channel, CompanionError> {
        // Before anything else: it holds the lock of the log.
        self.writer.bury()?;
        let resume = WriterSupply::Resume(self.boot.clone());
        let (writer, audit) = start_writer(&resume, &self.folder, self.settings.as_ref())?;
        self.writer = writer;
        connect(&self.writer, &self.gate)?;
        Ok(audit)
    }

    fn end(&mut self) -> io::Result<()> {
        reap(&mut self.gate.process)?;
        reap(&mut self.writer.process)
    }
}

impl Companion {
    fn start(
        who: &'static str,
        program: &str,
        folder: Option<OwnedFd>,
    ) -> Result<(Self, Channel), CompanionError> {
        let pair = || Channel::pair().map_err(|error| wire(who, error));
        let ((channel, theirs), (supply, their_supply)) = (pair()?, pair()?);
        for end in [&channel, &supply] {
            bound(end).map_err(|error| wire(who, error))?;
        }
        let path = installed(program)?;
        let fds = [theirs.into(), their_supply.into()];
        let fds: Vec<_> = fds.into_iter().chain(folder).zip(3..).collect();
        let process = beside::start(&path, None, Errors::Inherited, &fds)
            .map_err(|source| CompanionError::Start { path, source })?;
        let companion = Self {
            who,
            process,
            supply,
        };
        Ok((companion, channel))
    }

    fn supply<T: Serialize>(
        &self,
        what: &T,
        with: Option<BorrowedFd<'_>>,
    ) -> Result<(), CompanionError> {
        let fds: Vec<_> = with.into_iter().collect();
        let sent = self.supply.send_with(what, &fds);
        sent.map_err(|source| CompanionError::Wire {
            who: self.who,
            source,
        })
    }

    /// Makes sure that it is dead.
    fn bury(&mut self) -> Result<(), CompanionError> {
        let killed = self.process.kill();
        killed
            .and_then(|()| reap(&mut self.process))
            .map_err(CompanionError::Wait)
    }
}

/// Opens the user's `audit.toml`, if there is one. Nothing of it is read here.
fn own_settings() -> io::Result<Option<File>> {
    let Some(path) = settings::own_path(std::env::var_os) else {
        return Ok(None);
    };
    match File::open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let text = format!("{}: {error}", path.display());
            Err(io::Error::new(error.kind(), text))
        }
    }
}

const WRITER: &str = "audit writer";
const GATE: &str = "gate";

fn start_writer(
    first: &WriterSupply,
    folder: &OwnedFd,
    settings: Option<&File>,
) -> Result<(Companion, Channel), CompanionError> {
    let folder = folder.try_clone().map_err(|error| wire(WRITER, error))?;
    let (writer, channel) = Companion::start(WRITER, "portcullis-audit", Some(folder))?;
    writer.supply(first, settings.map(AsFd::as_fd))?;
    Ok((writer, channel))
}

fn start_gate(memory: &OwnedFd) -> Result<(Companion, Channel), CompanionError> {
    let (gate, control) = Companion::start(GATE, "portcullis-gate", None)?;
    gate.supply(&GateSupply::Memory, Some(memory.as_fd()))?;
    Ok((gate, control))
}

/// Gives both an end of a new channel. One that is dead by now is replaced later, and connected then.
fn connect(writer: &Companion, gate: &Companion) -> Result<(), CompanionError> {
    let (ours, theirs) = Channel::pair().map_err(|error| wire(GATE, error))?;
    let supplied = [
        writer.supply(&WriterSupply::Gate, Some(ours.as_fd())),
        gate.supply(&GateSupply::Lane, Some(theirs.as_fd())),
    ];
    for outcome in supplied {
        match outcome {
            Err(CompanionError::Wire {
                source: WireError::Io(error),
                ..
            }) if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) => {}
            other => other?,
        }
    }
    Ok(())
}

/// One that is stopped and reads nothing must not stop us as well.
fn bound(end: &Channel) -> io::Result<()> {
    Ok(set_socket_timeout(end, Timeout::Send, Some(ANSWER))?)
}

/// What the service has started.
fn served(given: Result<Channel, ServiceError>) -> Result<Channel, CompanionError> {
    let channel = given?;
    bound(&channel).map_err(|error| wire(GATE, error))?;
    Ok(channel)
}

fn wire(who: &'static str, error: io::Error) -> CompanionError {
    let source = error.into();
    CompanionError::Wire { who, source }
}

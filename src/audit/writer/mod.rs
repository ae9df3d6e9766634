//! The process `portcullis-audit`: writes the log of one session, and nothing else.
//!
//! Owns: the log's file and the head of its chain. Trusts: the session for the events of the session,
//! the gate for those of the gate, neither for sequence, time or hashes; it takes a hostile gate for
//! granted. Never: opens a file after its start but new ones, the next segments and bodies, and bodies that are there;
//! makes a socket, executes
//! anything.
//!
//! `main` is one numbered list. It is started in a process group of its own and outlives the session
//! process: if that dies, somebody must still write down that it did.
//!
//! Reading order: this file → [`confine`] → [`serve`] → [`outage`] → [`lane`] → [`bodies`].

mod binder;
mod bodies;
pub mod confine;
mod lane;
mod outage;
mod serve;

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use nix::sys::signal::SigSet;

use self::binder::Binder;
use self::bodies::Bodies;
use self::confine::{ConfineError, Folders};
use self::outage::Outage;
use super::AuditEvent;
use super::host;
use super::ledger::append::KeyPlace;
use super::ledger::{self, Ledger, LedgerError};
use super::log::{Log, LogError};
use super::redact;
use super::roll::Segments;
use super::settings::{self, Settings, SettingsError};
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::policy::{Durability, OnFailure};
use crate::sys::fd::inherit;
use crate::sys::memory;
use crate::wire::audit::{AuditBoot, AuditReply};
use crate::wire::supply::{WriterSupply, only};
use crate::wire::{Channel, WireError};

/// The session's channel.
const SESSION_FD: i32 = 3;
/// The starter's channel: whose log it is, then the gates' channels.
const SUPPLY_FD: i32 = 4;
/// The folder of logs.
const FOLDER_FD: i32 = 5;

/// Entry of `portcullis-audit`.
pub fn main() -> ExitCode {
    // Without the session's channel there is nobody to tell why.
    let Ok(session) = inherit(SESSION_FD).map(Channel::from) else {
        return Exit::Usage.into();
    };
    let exit = match start(&session) {
        Ok(opened) => serve::serve(opened, session),
        Err(error) => {
            let failed = AuditReply::Failed {
                id: 0,
                error: error.to_string(),
            };
            // If the session does not read it, our end tells it the same.
            drop(session.send(&failed));
            error.exit()
        }
    };
    exit.into()
}

/// Steps 1 to 6, in an order that matters; step 7 is [`serve`].
fn start(session: &Channel) -> Result<Opened, StartError> {
    // 1. No signal but SIGKILL ends the log: the session decides when it does. A terminal sends SIGINT
    //    and SIGHUP, a supervisor SIGTERM, a vanished reader SIGPIPE.
    SigSet::all()
        .thread_block()
        .map_err(|error| StartError::Signals(error.into()))?;

    // 2. Take what was passed, so that nothing else can be taken for it.
    let inherited =
        |number| inherit(number).map_err(|error| StartError::Descriptor { number, error });
    let supply = Channel::from(inherited(SUPPLY_FD)?);
    let folder: OwnedFd = inherited(FOLDER_FD)?;

    // 3. Learn whose log it is, and whether another writer began it: from the starter alone, before the
    //    gate is listened to.
    let booted = supply.recv_with::<WriterSupply>()?;
    let (boot, segments) = (booted.message, only(booted.fds));
    let segments = self::segments(&boot, segments)?;

    // 4. Open the log, the folder of bodies and the ledger: all that is opened from here on are new files beside them, and
    //    bodies that are there already.
    let (log, ended, outage) = open(&folder, &boot, segments)?;
    let bodies = Bodies::open(&folder, durability(&boot));
    let binder = binder(&folder, &boot, (&log, ended.is_some()), segments)?;
    drop(folder);
    redact::prepare();

    // 5. Give up everything that writing to open descriptors does not need, before a byte of the gate
    //    is read.
    confine::confine(&Folders {
        logs: Some(log.folder()),
        bodies: bodies.folder(),
        ledger: binder.folder(),
    })?;

    // 6. Say that records are taken. A session that died meanwhile is found out next: the log is open, so
    //    that its end belongs into it.
    drop(session.send(&AuditReply::Ready));
    memory::give_back();
    Ok(Opened {
        log,
        binder,
        bodies,
        ended,
        supply,
        on_failure: on_failure(&boot),
        outage,
    })
}

/// What there is to work with.
struct Opened {
    log: Log,
    /// Binds it into the ledger.
    binder: Binder,
    bodies: Bodies,
    /// The place of `session.ended`, where the writer before kept it and died.
    ended: Option<u64>,
    supply: Channel,
    on_failure: OnFailure,
    /// That the log was resumed could not be kept yet.
    outage: Option<Outage>,
}

fn open(
    folder: &OwnedFd,
    boot: &WriterSupply,
    segments: Segments,
) -> Result<(Log, Option<u64>, Option<Outage>), StartError> {
    let host = host::id();
    match boot {
        WriterSupply::Boot(boot) => {
            let log = Log::create(folder, &boot.folder, whose(boot), boot.durability, &host)?;
            Ok((log.rolling(segments.logs), None, None))
        }
        WriterSupply::Resume(boot) => {
            let (shown, durability) = (&boot.folder, boot.durability);
            let (log, found) = Log::resume(folder, shown, whose(boot), durability, &host)?;
            let mut log = log.rolling(segments.logs);
            let mut outage = None;
            if found.ended.is_none() {
                // On record before anything that follows is kept.
                let lost_bytes = found.lost_bytes;
                let resumed = AuditEvent::LogResumed { lost_bytes };
                log.stage(resumed.clone())?;
                match log.commit() {
                    // The disk that was full when the writer before died is still full.
                    Err(error @ LogError::Failed { .. }) => {
                        outage = Some(Outage::with(&error, resumed));
                    }
                    kept => kept?,
                }
            }
            Ok((log, found.ended, outage))
        }
        WriterSupply::Gate => {
            let early = io::Error::other("a gate's channel came before it");
            Err(StartError::Boot(WireError::Io(early)))
        }
    }
}

/// Who binds the log into the ledger beside it: this process, where nobody else does.
fn binder(
    folder: &OwnedFd,
    boot: &WriterSupply,
    (log, ended): (&Log, bool),
    segments: Segments,
) -> Result<Binder, StartError> {
    let (WriterSupply::Boot(boot) | WriterSupply::Resume(boot)) = boot else {
        let early = io::Error::other("a gate's channel came before it");
        return Err(StartError::Boot(WireError::Io(early)));
    };
    let ledger = if boot.ledger {
        let shown = boot.folder.join(ledger::FOLDER);
        let folder = ledger::append::folder(folder).map_err(|error| LedgerError::Io {
            path: shown.clone(),
            error,
        })?;
        let (place, durability) = (KeyPlace::Beside, boot.durability);
        let ledger = Ledger::open(folder, &shown, place, durability, host::id())?;
        Some(ledger.rolling(segments.ledger))
    } else {
        None
    };
    Ok(Binder::new(ledger, boot.session, log.place(), ended))
}

/// When the log and the ledger go on in another segment.
fn segments(boot: &WriterSupply, file: Option<OwnedFd>) -> Result<Segments, StartError> {
    let place = match boot {
        WriterSupply::Boot(boot) | WriterSupply::Resume(boot) if boot.ledger => settings::OWN,
        _ => settings::HOSTS,
    };
    let read = |file: OwnedFd| {
        let mut file = File::from(file);
        // The writer before has read it as well.
        let rewound = file.rewind();
        rewound.map_err(|error| settings::unreadable(place, &error))?;
        Settings::read_open(place, file)
    };
    match (boot, file) {
        (WriterSupply::Boot(boot) | WriterSupply::Resume(boot), _) if boot.segments.is_some() => {
            Ok(boot.segments.unwrap_or_default())
        }
        (_, None) => Ok(Segments::default()),
        // A session that goes on does not end over a file that was changed meanwhile.
        (WriterSupply::Resume(_), Some(file)) => {
            Ok(read(file).map_or_else(|_| Segments::default(), |read| read.segments))
        }
        (_, Some(file)) => Ok(read(file)?.segments),
    }
}

fn durability(boot: &WriterSupply) -> Durability {
    match boot {
        WriterSupply::Boot(boot) | WriterSupply::Resume(boot) => boot.durability,
        WriterSupply::Gate => Durability::Each,
    }
}

fn on_failure(boot: &WriterSupply) -> OnFailure {
    match boot {
        WriterSupply::Boot(boot) | WriterSupply::Resume(boot) => boot.on_failure,
        WriterSupply::Gate => OnFailure::Block,
    }
}

fn whose(boot: &AuditBoot) -> (SessionId, &str) {
    (boot.session, boot.user.as_str())
}

/// Why no log was begun.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("audit writer: signals cannot be blocked: {0}")]
    Signals(io::Error),
    #[error(
        "audit writer: descriptor {number} was not passed: {error}; start it through `portcullis run`"
    )]
    Descriptor { number: i32, error: io::Error },
    #[error("audit writer: first message: {0}; are all processes of one version?")]
    Boot(#[from] WireError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("audit writer: {0}")]
    Confine(#[from] ConfineError),
}

impl StartError {
    fn exit(&self) -> Exit {
        match self {
            Self::Signals(_) => Exit::Internal,
            Self::Descriptor { .. } | Self::Boot(_) => Exit::Usage,
            Self::Settings(_) => Exit::Config,
            Self::Log(_) | Self::Ledger(_) | Self::Confine(_) => Exit::Unavailable,
        }
    }
}

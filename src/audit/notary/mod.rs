//! The process `portcullis-notary`: binds the logs of all users of the service into the host's ledger.
//!
//! Owns: the ledger of the host, and its key. Trusts: nobody who writes a log: what is new in one must go on
//! where it was bound, or it is bound no more, and that is told. Never: writes a log, opens a socket, executes
//! anything; it can read the logs and write what is open, and no more ([`confine`]). Sessions do not wait for it:
//! while it is down their logs are not bound, and what is missing is made up for at its start.
//!
//! `main` is one numbered list. Reading order: this file → [`confine`] → [`serve`] → [`follow`]. The same program
//! answers users who verify their own logs, as another process: [`answer`].

pub mod answer;
pub mod confine;
pub mod follow;
mod serve;

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::{Mode, OFlags};

use self::confine::ConfineError;
use super::host;
use super::ledger::anchor::Anchors;
use super::ledger::append::{self, KeyPlace};
use super::ledger::key::{KeyError, KeyFile};
use super::ledger::read::{BrokenEntry, Contents};
use super::ledger::{FILE, FOLDER, Ledger, LedgerError};
use super::roll::Roll;
use super::settings::Settings;
use crate::exit::Exit;
use crate::policy::Durability;

/// Where the service keeps logs: a folder a user.
pub const LOGS: &str = "/var/log/portcullis";
/// Where the key is, for the notary alone (systemd.exec(5), `StateDirectory=`).
pub const STATE: &str = "/var/lib/portcullis-notary";
/// Name of the key, where the service manager gives it (systemd.exec(5), `LoadCredential=`).
pub const CREDENTIAL: &str = "audit-key";

/// Entry of `portcullis-notary [LOGS STATE [FILE]]` and `portcullis-notary --answer [LOGS]`; folders and the file of
/// settings are for tests.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from).peekable();
    if arguments.next_if(|first| first == "--answer").is_some() {
        let logs = arguments.next().unwrap_or_else(|| LOGS.into());
        let answered = answer::answer(&logs).inspect_err(|error| tell(format_args!("{error}")));
        return answered
            .map_or_else(|error| error.exit(), |()| Exit::Success)
            .into();
    }
    let logs = arguments.next().unwrap_or_else(|| LOGS.into());
    let state = arguments.next().unwrap_or_else(|| STATE.into());
    let file = arguments.next();
    let exit = match start(&logs, &state, roll(file.as_deref())) {
        Ok(opened) => serve::serve(opened),
        Err(error) => {
            tell(format_args!("{error}"));
            error.exit()
        }
    };
    exit.into()
}

/// Steps 1 to 5, in an order that matters; step 6 is [`serve`].
fn start(logs: &Path, state: &Path, roll: Roll) -> Result<serve::Opened, StartError> {
    // 1. A signal that asks to end is data: what is due is bound first.
    let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    let mut ending = SigSet::empty();
    for signal in signals {
        ending.add(signal);
    }
    ending.thread_block().map_err(io::Error::from)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&ending, flags).map_err(io::Error::from)?;

    // 2. Look at what there is from now on, so that nothing is missed between reading and watching.
    let watch = serve::Watch::new(logs)?;

    // 3. Open the ledger and the key: what is opened to be written from here on is the ledger's next segment.
    let folder = append::folder(folder(logs)?)?;
    let shown = logs.join(FOLDER);
    let place = key_place(state)?;
    let is_given = matches!(place, KeyPlace::Given(_));
    let ledger = Ledger::open(&folder, &shown, place, Durability::Each, host::id())?;
    if is_given {
        ledger.publish(&folder)?;
    }
    let ledger = ledger.rolling(roll);

    // 4. Learn from it what was bound. One that does not hold is not gone on with.
    let contents = Contents::of(&folder, &mut Anchors::default())?.unwrap_or_default();
    if let Some(broken) = contents.broken {
        let path = shown.join(FILE);
        return Err(StartError::Broken { path, broken });
    }

    // 5. Give up everything else, before a byte of a log is read.
    confine::confine(&self::folder(logs)?, Some(ledger.folder()))?;
    Ok(serve::Opened {
        logs: logs.to_owned(),
        signals,
        watch,
        ledger,
        bound: contents.sessions,
    })
}

/// When the ledger goes on in another segment. Where the settings cannot be read it is signed all the same.
fn roll(file: Option<&Path>) -> Roll {
    let settings = file.map_or_else(Settings::of_the_host, Settings::read);
    settings.map_or_else(
        |error| {
            tell(format_args!(
                "{error}; segments of the ledger are as by default"
            ));
            Roll::default()
        },
        |settings| settings.segments.ledger,
    )
}

fn folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    opened.map_err(|errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    })
}

/// The key of the service manager, if there is one; otherwise the one in the state folder.
fn key_place(state: &Path) -> Result<KeyPlace, StartError> {
    match credential().map_err(StartError::Credential)? {
        Some(key) => Ok(KeyPlace::Given(key)),
        None => Ok(KeyPlace::In(folder(state)?)),
    }
}

/// The key that the service manager gives this process, whatever program it is (systemd.exec(5),
/// `$CREDENTIALS_DIRECTORY`).
pub fn credential() -> Result<Option<KeyFile>, KeyError> {
    let Some(credentials) = std::env::var_os("CREDENTIALS_DIRECTORY") else {
        return Ok(None);
    };
    KeyFile::credential(folder(Path::new(&credentials))?, CREDENTIAL)
}

/// One line to who runs us; lost if nobody reads.
fn tell(text: std::fmt::Arguments<'_>) {
    drop(writeln!(io::stderr().lock(), "portcullis-notary: {text}"));
}

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{0}; install Portcullis's tmpfiles.d file, or run systemd-tmpfiles")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("credential {CREDENTIAL}: {0}")]
    Credential(KeyError),
    #[error(
        "audit ledger {}: {broken}; it is not continued: see portcullis audit verify --dir, and move its folder away \
         to begin another",
        path.display()
    )]
    Broken { path: PathBuf, broken: BrokenEntry },
    #[error("{0}")]
    Confine(#[from] ConfineError),
}

impl StartError {
    /// [`Exit::Config`] where trying again is of no use.
    fn exit(&self) -> Exit {
        match self {
            Self::Broken { .. }
            | Self::Credential(_)
            | Self::Ledger(LedgerError::NotContinued { .. } | LedgerError::Key { .. }) => {
                Exit::Config
            }
            Self::Io(_) | Self::Ledger(_) | Self::Confine(_) => Exit::Unavailable,
        }
    }
}

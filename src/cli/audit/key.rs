//! `portcullis audit key`: the key that signs the ledger.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use super::{FolderArg, finish};
use crate::audit::host;
use crate::audit::ledger::append::KeyPlace;
use crate::audit::ledger::key::{FILE as FILE_OF_KEY, KeyFile, PUBLIC_FILE};
use crate::audit::ledger::{FILE, FOLDER, Ledger, LedgerError, PublicKey, segment};
use crate::audit::notary;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print::{escape, line};
use crate::exit::Exit;
use crate::policy::Durability;

/// What to do with the key.
#[derive(Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// Print the public key: note it elsewhere, and give it to `audit verify --key`
    Show(KeyArgs),
    /// Have another key sign from here on; that is on record in the ledger, signed with both
    Rotate(KeyArgs),
}

/// Which key.
#[derive(Debug, clap::Args)]
pub struct KeyArgs {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folder: FolderArg,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Shown {
    ledger: PathBuf,
    key: PublicKey,
    /// The key until now.
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<PublicKey>,
}

/// Shows it or has another take its place.
pub(super) fn run(command: KeyCommand) -> Outcome {
    let (arguments, rotates) = match command {
        KeyCommand::Show(arguments) => (arguments, false),
        KeyCommand::Rotate(arguments) => (arguments, true),
    };
    let folder = arguments.folder.path()?.join(FOLDER);
    let path = folder.join(FILE);
    let segments = std::fs::File::open(&folder).and_then(segment::list);
    if segments.is_ok_and(|segments| segments.is_empty()) || !folder.exists() {
        let why = "there is no ledger; the first session that is run makes one";
        let shown = escape(&path.to_string_lossy());
        return Err(Failure::new(Exit::Unavailable, format!("{shown}: {why}")));
    }
    let shown = if rotates {
        let (old, key) = rotate(&folder)?;
        Shown {
            ledger: path,
            key,
            old: Some(old),
        }
    } else {
        let key = public(&folder)?;
        Shown {
            ledger: path,
            key,
            old: None,
        }
    };
    finish(if arguments.json {
        let text = serde_json::to_string(&shown);
        line(text.map_err(|error| Failure::new(Exit::Internal, error))?)
    } else {
        line(shown.key)
    })
}

fn public(folder: &Path) -> Result<PublicKey, Failure> {
    let path = folder.join(PUBLIC_FILE);
    let shown = escape(&path.to_string_lossy());
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::new(
            Exit::Unavailable,
            format!("{shown}: {error}; check the folder"),
        )
    })?;
    let key = text.trim().parse();
    key.map_err(|error| {
        Failure::new(
            Exit::No,
            format!("{shown}: {error}; see portcullis audit verify"),
        )
    })
}

fn rotate(folder: &Path) -> Result<(PublicKey, PublicKey), Failure> {
    let (ledger, opened) = open_ledger(folder)?;
    ledger.rotate(&opened).map_err(ledger_failure)
}

/// Nothing was appended.
pub(super) fn ledger_failure(error: LedgerError) -> Failure {
    let exit = match error {
        LedgerError::NotContinued { .. } => Exit::No,
        _ => Exit::Unavailable,
    };
    Failure::new(exit, error)
}

/// Opens a ledger that is there, to be appended to, and its folder.
pub(super) fn open_ledger(folder: &Path) -> Result<(Ledger, OwnedFd), Failure> {
    let open = |path: &Path| -> Result<OwnedFd, Failure> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
            let shown = escape(&path.to_string_lossy());
            Failure::new(
                Exit::Unavailable,
                format!("{shown}: {errno}; check the folder"),
            )
        })
    };
    let opened = open(folder)?;
    let service = folder.parent() == Some(Path::new(notary::LOGS));
    let place = if service || !folder.join(FILE_OF_KEY).exists() {
        match given()? {
            Some(key) => KeyPlace::Given(key),
            // The service has its key in another place: whoever reads the ledger cannot read it.
            None if service => KeyPlace::In(open(&state()?)?),
            None => KeyPlace::Beside,
        }
    } else {
        KeyPlace::Beside
    };
    let ledger = Ledger::open(&opened, folder, place, Durability::Each, host::id());
    Ok((ledger.map_err(ledger_failure)?, opened))
}

/// The key that the service manager gives us, as it gives it to the notary.
fn given() -> Result<Option<KeyFile>, Failure> {
    notary::credential().map_err(|error| {
        let text = format!("credential {}: {error}", notary::CREDENTIAL);
        Failure::new(Exit::Config, text)
    })
}

/// Where the notary's key is. Without one there it is a credential, which this process was not given.
fn state() -> Result<PathBuf, Failure> {
    let state = PathBuf::from(notary::STATE);
    match state.join(FILE_OF_KEY).metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = notary::CREDENTIAL;
            let text = format!(
                "no key of the notary in {}: it is a credential; run this with the line that portcullis-notary.service has: \
                 systemd-run --pipe --wait -p LoadCredentialEncrypted={name}:PATH portcullis audit …, and \
                 portcullis-prune.service with the same in a drop-in",
                state.display()
            );
            Err(Failure::new(Exit::Config, text))
        }
        // Whatever else is wrong with it is told by who opens it.
        _ => Ok(state),
    }
}

//! What `audit verify` holds logs to: the ledger beside them, the key, and checkpoints kept elsewhere.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use crate::audit::ChainHash;
use crate::audit::ledger::anchor::{AnchorFlaw, Anchors};
use crate::audit::ledger::key::PUBLIC_FILE;
use crate::audit::ledger::read::{BrokenEntry, Contents, Pinned};
use crate::audit::ledger::{FILE, FOLDER, PublicKey};
use crate::cli::failure::Failure;
use crate::cli::print::escape;
use crate::exit::Exit;

/// From when on a progress line is shown, and how often.
const PROGRESS: Duration = Duration::from_secs(1);

/// The ledger, verified.
#[derive(Debug, Serialize)]
pub(super) struct Proof {
    /// The file that it begins in.
    ledger: PathBuf,
    entries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<ChainHash>,
    /// The last entry that is signed, and when it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_at: Option<String>,
    /// The keys that signed, in their order.
    keys: Vec<PublicKey>,
    /// Whether the key was given, and not found beside the ledger.
    key_given: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<BrokenEntry>,
    /// What is wrong with the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_flaw: Option<KeyFlaw>,
    /// Checkpoints kept elsewhere that were compared.
    anchors: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    anchor_flaws: Vec<AnchorFlaw>,
    /// Bytes of a last line that is not whole.
    torn: usize,
}

/// What is wrong with the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyFlaw {
    /// The ledger has others.
    #[error("is signed with other keys than this one: {0}")]
    Other(PublicKey),
    /// It has signed nothing.
    #[error("has nothing that is signed with {0}")]
    Unused(PublicKey),
    /// There is none beside the ledger.
    #[error("has no key beside it: key.pub is missing or is no key")]
    Missing,
    /// There is no ledger, though one was asked for.
    #[error("is missing, and what was given (--key, --anchor) is of one: it was removed")]
    NoLedger,
}

/// Reads the key that somebody noted: 64 hex digits, or a file with them.
pub(super) fn noted_key(text: &str) -> Result<PublicKey, Failure> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let shown = escape(text);
    let file = std::fs::read_to_string(text).map_err(|error| {
        let why = "give 64 lower-case hex digits, or a file with them";
        Failure::new(Exit::Usage, format!("--key {shown}: {error}; {why}"))
    })?;
    file.trim().parse().map_err(|error| {
        let why = "a public key is one line of them, as `portcullis audit key show` prints it";
        Failure::new(Exit::Usage, format!("--key {shown}: {error}; {why}"))
    })
}

/// Reads the checkpoints of these files.
pub(super) fn anchors(files: &[PathBuf]) -> Result<Anchors, Failure> {
    let mut anchors = Anchors::default();
    for path in files {
        let shown = escape(&path.to_string_lossy());
        let read = File::open(path).and_then(|file| anchors.add(BufReader::new(file)));
        match read {
            Ok(0) => {
                let why = "no checkpoint stands in it; forward them there, or leave it out";
                return Err(Failure::new(Exit::No, format!("--anchor {shown}: {why}")));
            }
            Ok(_) => {}
            Err(error) => {
                let text = format!("--anchor {shown}: {error}; check the file");
                return Err(Failure::new(Exit::Usage, text));
            }
        }
    }
    Ok(anchors)
}

/// Reads the ledger beside the logs of this folder.
pub(super) fn ledger(
    logs: &Path,
    noted: Option<PublicKey>,
    mut anchors: Anchors,
) -> Result<(Contents, Option<Proof>), Failure> {
    let folder = logs.join(FOLDER);
    let path = folder.join(FILE);
    let read = match File::open(&folder) {
        Ok(opened) => Contents::of(opened, &mut anchors),
        Err(error) => Err(error),
    };
    let contents = match read {
        Ok(Some(contents)) => contents,
        Ok(None) => return Ok(none(path, noted, &anchors)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(none(path, noted, &anchors));
        }
        Err(error) => return Err(super::log_failure(&path, &error)),
    };
    let beside = || -> Option<PublicKey> {
        let text = std::fs::read_to_string(folder.join(PUBLIC_FILE)).ok()?;
        text.trim().parse().ok()
    };
    let mut proof = Proof::new(path, &contents, &anchors, noted.is_some());
    proof.key_flaw = match noted.or_else(beside) {
        // What does not hold is named already.
        _ if contents.broken.is_some() => None,
        // Made a moment ago, and nothing is in it yet.
        _ if contents.entries == 0 && noted.is_none() => None,
        None => Some(KeyFlaw::Missing),
        Some(key) => match contents.pinned(&key) {
            Pinned::Holds => None,
            Pinned::Unknown => Some(KeyFlaw::Other(key)),
            Pinned::Unused => Some(KeyFlaw::Unused(key)),
        },
    };
    Ok((contents, Some(proof)))
}

/// There is no ledger, which is all right unless one was asked for.
fn none(path: PathBuf, noted: Option<PublicKey>, anchors: &Anchors) -> (Contents, Option<Proof>) {
    let asked = noted.is_some() || anchors.count > 0;
    let contents = Contents::default();
    let proof = asked.then(|| Proof {
        key_flaw: Some(KeyFlaw::NoLedger),
        ..Proof::new(path, &contents, anchors, true)
    });
    (contents, proof)
}

impl Proof {
    fn new(ledger: PathBuf, contents: &Contents, anchors: &Anchors, key_given: bool) -> Self {
        let (signed, signed_at) = contents.signed.clone().unzip();
        Self {
            ledger,
            entries: contents.entries,
            head: contents.head,
            signed,
            signed_at,
            keys: contents.keys.iter().map(|(key, _)| *key).collect(),
            key_given,
            broken: contents.broken.clone(),
            key_flaw: None,
            anchors: anchors.count,
            anchor_flaws: anchors.flaws(contents),
            torn: contents.torn,
        }
    }

    /// Whether everything holds.
    pub(super) fn holds(&self) -> bool {
        self.broken.is_none() && self.key_flaw.is_none() && self.anchor_flaws.is_empty()
    }

    /// For people: a line of its own for each thing that does not hold.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(broken) = &self.broken {
            lines.push(format!("BROKEN    ledger  {broken}"));
        }
        if let Some(flaw) = &self.key_flaw {
            lines.push(format!("BROKEN    ledger  {flaw}"));
        }
        for flaw in &self.anchor_flaws {
            lines.push(format!("BROKEN    anchor  {}", escape(&flaw.to_string())));
        }
        if lines.is_empty() {
            lines.push(format!("ledger    {}", self.words()));
            if !self.key_given && self.entries > 0 {
                lines.push(
                    "          the key is the one beside the ledger: it proves nothing against who owns that folder; \
                     note it elsewhere and give it with --key"
                        .to_owned(),
                );
            }
        }
        lines
    }

    fn words(&self) -> String {
        let Some(head) = self.head else {
            return "nothing is in it yet".to_owned();
        };
        let entries = match self.entries {
            1 => "1 entry".to_owned(),
            entries => format!("{entries} entries"),
        };
        let signed = match (self.signed, self.keys.last()) {
            (Some(signed), Some(key)) => {
                let age = self
                    .age()
                    .map_or_else(String::new, |age| format!(", {age} ago,"));
                format!("signed up to entry {signed}{age} with key {key}")
            }
            _ => "not signed yet".to_owned(),
        };
        let anchored = match self.anchors {
            0 => String::new(),
            1 => "; 1 checkpoint kept elsewhere stands in it".to_owned(),
            count => format!("; {count} checkpoints kept elsewhere stand in it"),
        };
        let torn = match self.torn {
            0 => String::new(),
            bytes => {
                format!("; {bytes} bytes of a line at its end are not whole, and count for nothing")
            }
        };
        format!("{entries}, head {head}; {signed}{anchored}{torn}")
    }

    /// How long ago the last checkpoint was made.
    fn age(&self) -> Option<String> {
        let at: Timestamp = self.signed_at.as_ref()?.parse().ok()?;
        let seconds = Timestamp::now()
            .as_second()
            .saturating_sub(at.as_second())
            .max(0);
        Some(match seconds {
            0..120 => format!("{seconds} s"),
            120..7200 => format!("{} min", seconds / 60),
            7200..172_800 => format!("{} h", seconds / 3600),
            _ => format!("{} days", seconds / 86_400),
        })
    }
}

/// Does this for each, on as many threads as there are cores, and takes the outcomes in order until one
/// is not taken.
pub(super) fn each<I: Sync, O: Send>(
    items: &[I],
    work: impl Fn(&I) -> O + Sync,
    mut take: impl FnMut(O) -> bool,
) {
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::sync_channel(2 * threads);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(place) else { return };
                    if sender.send((place, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut progress = Progress::new(items.len());
        let mut waiting = std::collections::BTreeMap::new();
        let mut done = 0;
        loop {
            match receiver.recv_timeout(PROGRESS) {
                Ok((place, outcome)) => drop(waiting.insert(place, outcome)),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            progress.show(done + waiting.len());
            while let Some(outcome) = waiting.remove(&done) {
                progress.clear();
                if !take(outcome) {
                    // Threads that still work find nobody who listens.
                    next.store(items.len(), Ordering::Relaxed);
                    drop(receiver);
                    return;
                }
                done += 1;
            }
        }
        progress.clear();
    });
}

/// One line on a terminal, once it takes long.
struct Progress {
    all: usize,
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    fn new(all: usize) -> Self {
        let next = io::stderr()
            .is_terminal()
            .then(|| Instant::now() + PROGRESS);
        Self {
            all,
            next,
            shown: false,
        }
    }

    fn show(&mut self, done: usize) {
        let now = Instant::now();
        if let Some(next) = self.next.as_mut().filter(|next| **next <= now) {
            *next = now + PROGRESS;
            self.shown = true;
            drop(write!(
                io::stderr().lock(),
                "\r{done} of {} logs verified",
                self.all
            ));
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            drop(write!(io::stderr().lock(), "\r\x1b[K"));
        }
    }
}

//! What the ledger of the host says of the logs that the service keeps: read by those who may, the auditors; others are
//! told of their own logs by the notary ([`crate::audit::notary::answer`]).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use serde::Serialize;

use super::prove::{self, KeyFlaw, Proof};
use crate::audit::ledger::read::{Bound, Contents, LogName};
use crate::audit::ledger::{FILE, FOLDER, PublicKey};
use crate::audit::notary::LOGS;
use crate::audit::notary::answer::{MAX_LINE, SOCKET, Told};
use crate::cli::failure::Failure;
use crate::cli::print::escape;
use crate::exit::Exit;
use crate::ids::SessionId;

/// How long one look of the notary's at the ledger may take, and all of its answer.
const ANSWER: Duration = Duration::from_mins(2);

/// How much an answer may be, in bytes.
const LONGEST: u64 = 512 << 20;

/// The ledger of the host, as far as the caller may know it.
pub(super) struct Host {
    contents: Contents,
    /// What it calls each session.
    names: HashMap<SessionId, LogName>,
    pub(super) word: Word,
}

/// Whose word it is.
pub(super) enum Word {
    /// It was read here.
    Read(Proof),
    /// The notary's.
    Answered(Answered),
    /// There is none: nothing was bound yet, or nobody answers.
    None(String),
    /// There should be one, and it did not come.
    Failed(String),
}

/// The notary's word on the ledger.
#[derive(Debug, Serialize)]
pub(super) struct Answered {
    /// Its file.
    ledger: PathBuf,
    /// It was not read here.
    #[serde(rename = "answered")]
    by_notary: bool,
    /// Whether all of it holds.
    holds: bool,
    /// The keys that signed, in their order.
    keys: Vec<PublicKey>,
    /// Whether the key was given.
    key_given: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_flaw: Option<KeyFlaw>,
}

impl Host {
    /// Reads it or asks for it. `anchors` are files with checkpoints of it.
    pub(super) fn find(noted: Option<PublicKey>, anchors: &[PathBuf]) -> Result<Self, Failure> {
        let file = Path::new(LOGS).join(FOLDER).join(FILE);
        match File::open(&file) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                if !anchors.is_empty() {
                    let why = "--anchor: checkpoints are held to the whole ledger of this host, which is the auditors' to read; \
                               leave it out, or ask one of them";
                    return Err(Failure::new(Exit::NoPermission, why));
                }
                Ok(Self::asked(noted, file))
            }
            // Whatever else is wrong with it is told by who reads it.
            _ => {
                let (contents, proof) =
                    prove::ledger(Path::new(LOGS), noted, prove::anchors(anchors)?)?;
                let nothing = || Word::None("the host has none yet".to_owned());
                Ok(Self::new(contents, proof.map_or_else(nothing, Word::Read)))
            }
        }
    }

    fn new(contents: Contents, word: Word) -> Self {
        let names = contents.sessions.keys();
        let names = names.map(|name| (name.1, *name)).collect();
        Self {
            contents,
            names,
            word,
        }
    }

    fn asked(noted: Option<PublicKey>, ledger: PathBuf) -> Self {
        let answer = match ask() {
            Ok(answer) => answer,
            // Without a notary there is no ledger.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                let why =
                    format!("nobody answers on {SOCKET}: is portcullis-ledger.socket in order?");
                return Self::new(Contents::default(), Word::None(why));
            }
            Err(error) => {
                let why = format!("{SOCKET}: {}", escape(&error.to_string()));
                return Self::new(Contents::default(), Word::Failed(why));
            }
        };
        let mut contents = Contents::default();
        let uid = rustix::process::getuid().as_raw();
        contents.sessions = answer
            .logs
            .into_iter()
            .map(|(session, bound)| ((Some(uid), session), bound))
            .collect();
        let Some((holds, keys)) = answer.ledger else {
            return Self::new(contents, Word::None("the host has none yet".to_owned()));
        };
        let key_flaw = noted.filter(|key| !keys.contains(key)).map(KeyFlaw::Other);
        let word = Word::Answered(Answered {
            ledger,
            by_notary: true,
            holds,
            keys,
            key_given: noted.is_some(),
            key_flaw,
        });
        Self::new(contents, word)
    }

    /// Whether logs can be held to it.
    pub(super) fn is_there(&self) -> bool {
        matches!(self.word, Word::Read(_) | Word::Answered(_))
    }

    /// What it says of a session.
    pub(super) fn bound(&self, session: SessionId) -> Option<&Bound> {
        self.contents.sessions.get(self.names.get(&session)?)
    }

    /// What it says of each.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (&LogName, &Bound)> {
        self.contents.sessions.iter()
    }

    /// In whose folder a session's log is.
    pub(super) fn uid(&self, session: SessionId) -> u32 {
        let known = self.names.get(&session).and_then(|(uid, _)| *uid);
        known.unwrap_or_else(|| rustix::process::getuid().as_raw())
    }

    /// Whether it is signed with this key.
    pub(super) fn has(&self, key: &PublicKey) -> bool {
        match &self.word {
            Word::Read(_) => self.contents.keys.iter().any(|(known, _)| known == key),
            Word::Answered(answered) => answered.keys.contains(key),
            Word::None(_) | Word::Failed(_) => false,
        }
    }
}

impl Word {
    /// Whether nothing speaks against it; one that failed to come proves nothing either way.
    pub(super) fn holds(&self) -> bool {
        match self {
            Self::Read(proof) => proof.holds(),
            Self::Answered(answered) => answered.holds && answered.key_flaw.is_none(),
            Self::None(_) | Self::Failed(_) => true,
        }
    }

    /// For people: a line of its own for each thing.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Read(proof) => proof.lines(),
            Self::Answered(answered) => answered.lines(),
            Self::None(why) | Self::Failed(why) => vec![format!("ledger    {}", unheld(why))],
        }
    }
}

/// What it means that there is no word, and why there is none.
pub(super) fn unheld(why: &str) -> String {
    format!("{why}; logs that the service keeps were held to their own chains alone")
}

impl Answered {
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.holds {
            lines.push(
                "BROKEN    ledger  the one of this host does not hold, says the notary: an auditor can see where"
                    .to_owned(),
            );
        }
        lines.extend(
            self.key_flaw
                .map(|flaw| format!("BROKEN    ledger  {flaw}")),
        );
        if lines.is_empty() {
            let key = self
                .keys
                .last()
                .map_or_else(String::new, |key| format!(", signed with key {key}"));
            lines.push(format!("ledger    the one of this host holds{key}"));
            lines.push(
                "          that is the notary's word, who tells you of your own logs alone; an auditor can read the ledger itself"
                    .to_owned(),
            );
        }
        lines
    }
}

// === What the notary tells ===

#[derive(Default)]
struct Answer {
    /// Whether it holds, and the keys. `None`: there is none.
    ledger: Option<(bool, Vec<PublicKey>)>,
    logs: HashMap<SessionId, Bound>,
}

fn ask() -> io::Result<Answer> {
    let until = Instant::now() + ANSWER;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Also for the connection, where many wait for one (unix(7)).
    for way in [sockopt::Timeout::Send, sockopt::Timeout::Recv] {
        sockopt::set_socket_timeout(&socket, way, Some(ANSWER))?;
    }
    rustix::net::connect(&socket, &SocketAddrUnix::new(SOCKET)?)?;
    let stream = UnixStream::from(socket);
    let mut lines = BufReader::new(stream.take(LONGEST));
    let mut answer = Answer::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut lines).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') || Instant::now() > until {
            return Err(io::Error::other("its answer is not whole; try again"));
        }
        match serde_json::from_slice(&line)? {
            Told::Ledger { holds, keys } => answer.ledger = Some((holds, keys)),
            Told::Nothing => answer.ledger = None,
            Told::Log(log) => {
                let bound = answer.logs.entry(log.session).or_default();
                log.add_to(bound);
            }
            Told::End => return Ok(answer),
        }
    }
}

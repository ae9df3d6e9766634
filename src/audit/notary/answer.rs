//! `portcullis-notary --answer`: tells whoever is connected to standard input what the ledger has bound of their own
//! logs, and of nobody else's.
//!
//! The ledger names every session of the host, when it was active, and what is held and why: it is the auditors' to
//! read. A user is told the heads of their own logs, the keys that signed, and whether all of the ledger holds; not how
//! much is in it or when it was signed last, which would tell what others do. So it is this process's word, and no
//! proof against who owns the host: that an auditor has, who reads the ledger itself.
//!
//! Owns: nothing. One process a connection, started by the service manager under a user that can read the ledger and
//! not its key. It takes no request: who asks the kernel says. It is confined before it reads a byte.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use serde::{Deserialize, Serialize};

use super::confine;
use super::{StartError, folder};
use crate::audit::chain::ChainHash;
use crate::audit::ledger::FOLDER;
use crate::audit::ledger::anchor::Anchors;
use crate::audit::ledger::key::{PUBLIC_FILE, PublicKey};
use crate::audit::ledger::read::{Bound, Contents, Pinned};
use crate::audit::verify::SegmentEnd;
use crate::ids::SessionId;

/// Where the service manager listens for those who ask.
pub const SOCKET: &str = "/run/portcullis/ledger.sock";

/// The longest line of an answer, in bytes.
pub const MAX_LINE: u64 = 128 << 10;

/// How many heads, or removed segments, one line tells at most: a hash and two numbers each.
const PER_LINE: usize = 500;

/// For whoever asks to read what is sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// One line of an answer, JSON: `Ledger` first, `Log` any number of times, `End` last. Without `End` it is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The ledger as a whole.
    Ledger {
        /// Whether every entry holds, and the key beside it has signed.
        holds: bool,
        /// The keys that signed, in their order.
        keys: Vec<PublicKey>,
    },
    /// There is no ledger, or nothing is in it.
    Nothing,
    /// A log of theirs; one with many heads comes in several.
    Log(ToldLog),
    /// That was all.
    End,
}

/// What the ledger says of a log: a part of [`Bound`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldLog {
    /// Whose.
    pub session: SessionId,
    /// Number of records and the hash of the last of them.
    #[serde(default)]
    pub heads: Vec<(u64, ChainHash)>,
    /// Whether the last head of all is the end.
    #[serde(default)]
    pub ended: bool,
    /// The first record that did not hold, and why.
    #[serde(default)]
    pub broken: Option<(u64, String)>,
    /// Segments that were removed, from the first on: number, place of the last record, its hash.
    #[serde(default)]
    pub pruned: Vec<(u32, u64, ChainHash)>,
}

/// Answers the one at standard input, of the ledger beside these logs.
pub(super) fn answer(logs: &Path) -> Result<(), StartError> {
    // 1. Who asks, and the ledger: what there is to open.
    let asking = io::stdin();
    let uid = socket_peercred(&asking).map_err(io::Error::from)?.uid;
    set_socket_timeout(&asking, Timeout::Send, Some(PATIENCE)).map_err(io::Error::from)?;
    let asking = File::from(rustix::io::fcntl_dupfd_cloexec(&asking, 3).map_err(io::Error::from)?);
    let path = logs.join(FOLDER);
    let folder = folder(&path)?;

    // 2. Nothing but reading below the folder of the ledger, and writing the answer.
    confine::confine(&folder, None)?;

    // 3. Read, verify, tell.
    let contents = Contents::of(&folder, &mut Anchors::default())?.unwrap_or_default();
    let mut answer = BufWriter::new(asking);
    tell(
        &mut answer,
        &contents,
        (uid.as_raw(), pinned(&path, &contents)),
    )?;
    answer.flush()?;
    Ok(())
}

/// Whether the key beside the ledger has signed it.
fn pinned(folder: &Path, contents: &Contents) -> bool {
    let text = std::fs::read_to_string(folder.join(PUBLIC_FILE)).ok();
    let key = text.and_then(|text| text.trim().parse().ok());
    key.is_some_and(|key| contents.pinned(&key) == Pinned::Holds)
}

fn tell(
    answer: &mut impl Write,
    contents: &Contents,
    (uid, pinned): (u32, bool),
) -> io::Result<()> {
    let mut say = |told: &Told| -> io::Result<()> {
        serde_json::to_writer(&mut *answer, told)?;
        answer.write_all(b"\n")
    };
    if contents.entries == 0 && contents.broken.is_none() {
        say(&Told::Nothing)?;
        return say(&Told::End);
    }
    say(&Told::Ledger {
        holds: contents.broken.is_none() && pinned,
        keys: contents.keys.iter().map(|(key, _)| *key).collect(),
    })?;
    let theirs = contents.sessions.iter();
    let theirs = theirs.filter(|((of, _), _)| *of == Some(uid));
    for ((_, session), bound) in theirs {
        for told in ToldLog::of(*session, bound) {
            say(&Told::Log(told))?;
        }
    }
    say(&Told::End)
}

// === impl ToldLog ===

impl ToldLog {
    fn empty(session: SessionId) -> Self {
        Self {
            session,
            heads: Vec::new(),
            ended: false,
            broken: None,
            pruned: Vec::new(),
        }
    }

    /// What is told of one log, at least one line.
    fn of(session: SessionId, bound: &Bound) -> Vec<Self> {
        let mut all = vec![Self {
            ended: bound.ended,
            broken: bound.broken.clone(),
            ..Self::empty(session)
        }];
        let heads: Vec<_> = bound.heads.iter().map(|(at, head)| (*at, *head)).collect();
        all.extend(heads.chunks(PER_LINE).map(|heads| Self {
            heads: heads.to_vec(),
            ..Self::empty(session)
        }));
        let ends = bound.pruned.iter();
        let ends: Vec<_> = ends
            .map(|end| (end.segment, end.records, end.head))
            .collect();
        all.extend(ends.chunks(PER_LINE).map(|pruned| Self {
            pruned: pruned.to_vec(),
            ..Self::empty(session)
        }));
        all
    }

    /// Adds what this line says to what those before it said.
    pub fn add_to(self, bound: &mut Bound) {
        bound.heads.extend(self.heads);
        bound.ended |= self.ended;
        bound.broken = bound.broken.take().or(self.broken);
        let pruned = self.pruned.into_iter();
        bound
            .pruned
            .extend(pruned.map(|(segment, records, head)| SegmentEnd {
                segment,
                records,
                head,
            }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_log_in_several_lines_adds_up_to_what_is_bound() {
        let session = SessionId::generate();
        let head = |record: u64| ChainHash::of(&[&record.to_be_bytes()]);
        let bound = Bound {
            heads: (1..=1234).map(|record| (record, head(record))).collect(),
            ended: true,
            broken: Some((7, "changed".to_owned())),
            pruned: (1..=3)
                .map(|segment| SegmentEnd {
                    segment,
                    records: u64::from(segment) * 10,
                    head: head(u64::from(segment) * 10),
                })
                .collect(),
        };
        let lines = ToldLog::of(session, &bound);
        assert_eq!(lines.len(), 5);
        let mut again = Bound::default();
        for line in lines {
            let text = serde_json::to_string(&Told::Log(line)).unwrap();
            assert!(text.len() as u64 <= MAX_LINE);
            match serde_json::from_str(&text).unwrap() {
                Told::Log(line) => line.add_to(&mut again),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(again, bound);
    }

    #[test]
    fn a_user_is_told_of_their_own_logs_alone() {
        let mut contents = Contents::default();
        contents.entries = 3;
        let (hers, his) = (SessionId::generate(), SessionId::generate());
        for name in [(Some(1), hers), (Some(2), his), (None, his)] {
            contents.sessions.insert(name, Bound::default());
        }
        let mut answer = Vec::new();
        tell(&mut answer, &contents, (1, true)).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains(&hers.to_string()) && !answer.contains(&his.to_string()));
        let last = serde_json::from_str(answer.lines().last().unwrap()).unwrap();
        assert_eq!((answer.lines().count(), last), (3, Told::End));
    }
}

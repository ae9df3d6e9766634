//! What a gate leaves to the one that takes its place when it dies: a file without a name
//! (memfd_create(2)) that the starter keeps open and never reads.
//!
//! Each note is written, in one write(2), before what it says can have an effect: an address that stands
//! for a name before the jail learns it, a share of a budget before it is used. So a gate that is killed
//! at any instruction leaves at least what it gave away, and nobody gains by killing it. What is noted is
//! bounded, and so is the file: at its cap no successor starts any more.
//!
//! The authority's key and the credentials' values stand here too: not with the session, which runs as
//! the caller, and in no message of any channel. Only a gate ever reads the file. Never: trusts a file
//! that cannot be read to its last whole note.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, ftruncate, seek};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::policy::{Answered, BudgetKind, DomainName, Host, HostPattern, NetworkPolicy, RuleId};
use crate::secret::{self, Secret};
use crate::wire::frame::{body_length, decode, encode_wiped};
use crate::wire::gate::CredentialValue;

use super::questions::Subject;

/// The longest file, in bytes. Exceeds what one session can have noted: 65,536 names of 253 bytes, as many
/// labels, 4,096 answers, 257 notes a meter.
const CAPACITY: u64 = 64 << 20;

/// One thing that a successor must know.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Note {
    /// The first: a gate has begun to work.
    Begun,
    /// The session's CA.
    Authority(AuthorityNote),
    /// The value of a credential.
    Credential(CredentialValue),
    /// A policy that is about to be in force in place of the one before.
    Policy(Box<NetworkPolicy>),
    /// Numbers of connections up to this one may have been given out.
    Conns(u64),
    /// Numbers of questions up to this one may have been given out.
    Questions(u64),
    /// A name got the next of the addresses that stand for names.
    Name(DomainName),
    /// A host, or a name below a domain, counts in the budgets of this scope.
    Known {
        /// The hosts that the budget speaks of; `None`: the session's.
        scope: Option<HostPattern>,
        /// Which.
        host: Host,
        /// Whether it counts as a name below a domain.
        label: bool,
    },
    /// A budget is used up to here at most.
    Used {
        /// As above.
        scope: Option<HostPattern>,
        /// What is counted.
        what: BudgetKind,
        /// How far.
        spent: Spent,
    },
    /// An answer that counts for the session.
    Answer {
        /// To what.
        subject: Box<Subject>,
        /// Yes or no.
        answered: Answered,
        /// The rule that it is.
        rule: RuleId,
    },
}

/// What makes the same authority again: the certificate that the jail trusts is one of this name and key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthorityNote {
    /// What tells its name from those of other sessions.
    pub(super) tag: u64,
    /// Its key, PKCS #8 as PEM.
    #[serde(with = "secret::wire")]
    pub(super) key: Secret<String>,
    /// When its certificate ends, in seconds since 1970.
    pub(super) expires: u64,
}

/// How far a budget is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spent {
    /// At most this much was used.
    pub(super) used: u64,
    /// Of this much, raised by answers perhaps.
    pub(super) max: u64,
    /// What the policy said, and what an answer adds.
    pub(super) step: u64,
}

/// What the gates before have left.
#[derive(Debug, Default)]
pub(super) struct Recalled {
    /// Whether there was one.
    pub(super) begun: bool,
    /// The session's CA.
    pub(super) authority: Option<AuthorityNote>,
    /// Values of credentials.
    pub(super) credentials: Vec<CredentialValue>,
    /// The policy in force, if it is not the one that the session started with.
    pub(super) policy: Option<Box<NetworkPolicy>>,
    /// The last number of a connection that may have been given out.
    pub(super) conns: u64,
    /// The last number of a question that may have been given out.
    pub(super) questions: u64,
    /// Names in the order of their addresses.
    pub(super) names: Vec<DomainName>,
    /// Hosts that count: whose budget, which host, and whether as a label.
    pub(super) known: Vec<(Option<HostPattern>, Host, bool)>,
    /// How far each budget is used.
    pub(super) used: HashMap<(Option<HostPattern>, BudgetKind), Spent>,
    /// Answers that count for the session.
    pub(super) answers: Vec<(Subject, Answered, RuleId)>,
}

impl Recalled {
    fn take(&mut self, note: Note) {
        match note {
            Note::Begun => self.begun = true,
            Note::Authority(authority) => self.authority = Some(authority),
            Note::Credential(value) => self.credentials.push(value),
            Note::Policy(policy) => self.policy = Some(policy),
            Note::Conns(last) => self.conns = last,
            Note::Questions(last) => self.questions = last,
            Note::Name(name) => self.names.push(name),
            Note::Known { scope, host, label } => self.known.push((scope, host, label)),
            Note::Used { scope, what, spent } => {
                self.used.insert((scope, what), spent);
            }
            Note::Answer {
                subject,
                answered,
                rule,
            } => self.answers.push((*subject, answered, rule)),
        }
    }
}

/// Why nothing can be left or found.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryError {
    /// The file failed.
    #[error("memory of the session's gates: {0}")]
    Io(#[from] io::Error),
    /// It holds something else.
    #[error("memory of the session's gates: it cannot be read; end the session")]
    Unreadable,
    /// It is at its cap.
    #[error("memory of the session's gates: full; end the session")]
    Full,
}

/// Where notes are kept.
#[derive(Debug)]
pub(super) struct Memory {
    /// `None`: nothing is kept, and no gate will take this one's place.
    file: Option<File>,
    length: Cell<u64>,
    /// True once a note could not be kept.
    failed: watch::Sender<bool>,
}

impl Memory {
    /// One that keeps nothing.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self::new(None, 0)
    }

    fn new(file: Option<File>, length: u64) -> Self {
        Self {
            file,
            length: Cell::new(length),
            failed: watch::Sender::new(false),
        }
    }

    /// Reads what was left. A last note that was written in part had no effect yet: it is cut off.
    pub(super) fn open(file: File) -> Result<(Self, Recalled), MemoryError> {
        let length = file.metadata()?.len();
        if length >= CAPACITY {
            return Err(MemoryError::Full);
        }
        // A secret may be in it.
        let size = usize::try_from(length).map_err(io::Error::other)?;
        let mut bytes = Zeroizing::new(vec![0; size]);
        file.read_exact_at(&mut bytes, 0)?;
        let mut recalled = Recalled::default();
        let mut rest: &[u8] = &bytes;
        while let Some((header, after)) = rest.split_first_chunk() {
            let size = body_length(*header).map_err(|_| MemoryError::Unreadable)?;
            let Some((body, after)) = after.split_at_checked(size) else {
                break;
            };
            recalled.take(decode(body).map_err(|_| MemoryError::Unreadable)?);
            rest = after;
        }
        let whole = length - rest.len() as u64;
        ftruncate(&file, whole).map_err(io::Error::from)?;
        // The place to write at belongs to the open file, which the gate before shared.
        seek(&file, SeekFrom::Start(whole)).map_err(io::Error::from)?;
        Ok((Self::new(Some(file), whole), recalled))
    }

    /// Keeps a note: once this returns, a successor will know it.
    pub(super) fn keep(&self, note: &Note) {
        let Some(file) = &self.file else {
            return;
        };
        if self.length.get() >= CAPACITY {
            // No successor starts with this: it need not be complete.
            return;
        }
        match write(file, note) {
            Ok(written) => self.length.set(self.length.get() + written),
            Err(_) => drop(self.failed.send_replace(true)),
        }
    }

    /// Resolves once a note could not be kept: what it was for must not go on.
    pub(super) async fn until_failed(&self) {
        // The sender lives in self, so waiting cannot fail.
        drop(self.failed.subscribe().wait_for(|failed| *failed).await);
    }
}

/// Writes a note at the end; answers its length.
fn write(file: &File, note: &Note) -> io::Result<u64> {
    let bytes = encode_wiped(note).map_err(io::Error::other)?;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        match rustix::io::write(file, rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(bytes.as_slice().len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file() -> File {
        tempfile::tempfile().unwrap()
    }

    fn name(text: &str) -> Note {
        Note::Name(DomainName::parse(text).unwrap())
    }

    #[test]
    fn a_successor_finds_what_was_noted_and_goes_on_behind_it() {
        let file = file();
        let (memory, found) = Memory::open(file.try_clone().unwrap()).unwrap();
        assert!(!found.begun && found.names.is_empty());
        for note in [Note::Begun, name("a.test"), Note::Conns(7), name("b.test")] {
            memory.keep(&note);
        }
        let used = |used| Spent {
            used,
            max: 10,
            step: 5,
        };
        for spent in [used(1), used(2)] {
            memory.keep(&Note::Used {
                scope: None,
                what: BudgetKind::Requests,
                spent,
            });
        }
        drop(memory);
        let (memory, found) = Memory::open(file.try_clone().unwrap()).unwrap();
        let names: Vec<_> = found.names.iter().map(ToString::to_string).collect();
        assert_eq!(
            (names.join(" ").as_str(), found.conns),
            ("a.test b.test", 7)
        );
        let key = (None, BudgetKind::Requests);
        assert_eq!(found.used.get(&key), Some(&used(2)));
        memory.keep(&name("c.test"));
        let (_, found) = Memory::open(file).unwrap();
        assert_eq!((found.names.len(), found.begun), (3, true));
    }

    #[test]
    fn a_torn_note_is_cut_off_and_a_broken_one_ends_it() {
        let file = file();
        let (memory, _) = Memory::open(file.try_clone().unwrap()).unwrap();
        memory.keep(&name("a.test"));
        for torn in [&[1_u8, 0][..], &[9, 0, 0, 0, b'"']] {
            (&file).write_all(torn).unwrap();
            let (memory, found) = Memory::open(file.try_clone().unwrap()).unwrap();
            assert_eq!(found.names.len(), 1);
            assert_eq!(memory.length.get(), file.metadata().unwrap().len());
        }
        (&file).write_all(&[2, 0, 0, 0, b'{', b'}']).unwrap();
        let broken = Memory::open(file).unwrap_err();
        assert!(matches!(broken, MemoryError::Unreadable), "{broken}");
    }

    #[test]
    fn no_gate_follows_one_that_has_filled_it() {
        let file = file();
        file.set_len(CAPACITY).unwrap();
        assert!(matches!(Memory::open(file), Err(MemoryError::Full)));
    }

    #[tokio::test]
    async fn a_note_that_cannot_be_kept_is_told() {
        let read_only = File::open("/dev/null").unwrap();
        let memory = Memory::new(Some(read_only), 0);
        memory.keep(&Note::Begun);
        memory.until_failed().await;
    }
}

//! Checks that each record of a log holds, while it is read: over the borders of segments, without keeping any.
//!
//! The same checks as those of [`crate::audit::verify`], record by record. Where the first segments of a log are
//! gone (they were pruned), the chain is taken up at the first record that is there.

use crate::audit::chain::ChainHash;
use crate::audit::reader::{Ending, Line};
use crate::audit::record::SealedLine;
use crate::audit::verify::Flaw;
use crate::ids::SessionId;

/// The chain of one session so far.
#[derive(Debug)]
pub struct Checked {
    session: String,
    /// The hash that the next record must name, and its place; `None`: whatever it names.
    next: Option<(ChainHash, u64)>,
    ended: bool,
}

impl Checked {
    /// A chain that begins with the session's first record.
    pub fn from_start(session: SessionId) -> Self {
        Self {
            session: session.to_string(),
            next: Some((ChainHash::genesis(session), 1)),
            ended: false,
        }
    }

    /// A chain whose beginning is gone.
    pub fn from_within(session: SessionId) -> Self {
        Self {
            session: session.to_string(),
            next: None,
            ended: false,
        }
    }

    /// A chain whose last record so far has this hash and place; with neither, one from the session's start, and
    /// without a hash alone one whose beginning is gone.
    pub fn from_head(session: SessionId, head: Option<ChainHash>, seq: u64) -> Self {
        match head {
            Some(head) => Self {
                next: Some((head, seq.saturating_add(1))),
                ..Self::from_within(session)
            },
            None if seq == 0 => Self::from_start(session),
            None => Self::from_within(session),
        }
    }

    /// The hash of the last record that held.
    pub fn head(&self) -> Option<ChainHash> {
        self.next.map(|(head, _)| head)
    }

    /// Whether the session's last record was seen.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The record that stands in this line, if it holds.
    pub fn check<'a>(&mut self, line: &Line<'a>) -> Result<SealedLine<'a>, Flaw> {
        match line.ending {
            _ if self.ended => return Err(Flaw::AfterEnd),
            Ending::Cut => return Err(Flaw::Truncated),
            Ending::TooLong => return Err(Flaw::TooLong),
            Ending::Newline => {}
        }
        let Some(sealed) = SealedLine::parse(line.bytes) else {
            return Err(
                match serde_json::from_slice::<serde::de::IgnoredAny>(line.bytes) {
                    Ok(_) => Flaw::NotARecord,
                    Err(error) => Flaw::NotJson(error.to_string()),
                },
            );
        };
        if self.session.as_bytes() != sealed.session {
            let named = String::from_utf8_lossy(sealed.session).into_owned();
            return Err(Flaw::OtherSession(named));
        }
        let named = || -> Option<ChainHash> {
            let digits = String::from_utf8(sealed.prev.to_vec()).ok()?;
            ChainHash::try_from(digits).ok()
        };
        let (prev, expected) = match self.next {
            Some(next) => next,
            None => (named().ok_or(Flaw::NotARecord)?, sealed.seq),
        };
        if sealed.seq != expected {
            let found = sealed.seq;
            return Err(Flaw::Sequence { expected, found });
        }
        if *sealed.prev != prev.to_hex() {
            return Err(Flaw::Prev);
        }
        let hash = prev.follow(sealed.open_record);
        if *sealed.hash != hash.to_hex() {
            return Err(Flaw::Hash);
        }
        self.next = Some((hash, expected.saturating_add(1)));
        self.ended = sealed.event == b"session.ended";
        Ok(sealed)
    }
}

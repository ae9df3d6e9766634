//! The hash chain: each record's hash covers the one before it, byte for byte.
//!
//! `hash = SHA-256(prev ‖ canonical record)`, where `prev` is the 32 raw bytes of the hash before and
//! the canonical record is the line up to, and without, its `hash` field, closed by `}`. The first
//! record's `prev` is derived from the session's identifier, so that one session's file cannot be
//! passed off as another's. Nothing here parses or serialises JSON: what was hashed is what stands in
//! the file.
//!
//! The chain has no secret. It shows any change to a part of a file; somebody who may write the whole
//! file can write a new one. Against that, keep the head (`portcullis audit verify` prints it)
//! somewhere else.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::SessionId;

/// Starts the chain of every session; changes with the meaning of the hash.
const GENESIS: &[u8] = b"portcullis audit v1";

/// A link of the chain: a SHA-256 (FIPS 180-4), written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChainHash([u8; 32]);

impl ChainHash {
    /// What the first record of this session names as its predecessor.
    pub fn genesis(session: SessionId) -> Self {
        let mut hasher = Sha256::new_with_prefix(GENESIS);
        hasher.update(session.to_string());
        Self(hasher.finalize().into())
    }

    /// The hash of these parts, one after the other.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// The hash of the record that follows this one. `open_record` is its canonical form without the
    /// closing brace, which is how it stands in the file.
    #[must_use]
    pub fn follow(self, open_record: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        // The first block (64 bytes) in one piece: what follows is then hashed where it lies.
        if let Some((first, rest)) = open_record.split_first_chunk::<32>() {
            let mut block = [0; 64];
            let (prev, start) = block.split_at_mut(32);
            prev.copy_from_slice(&self.0);
            start.copy_from_slice(first);
            hasher.update(block);
            hasher.update(rest);
        } else {
            hasher.update(self.0);
            hasher.update(open_record);
        }
        hasher.update(b"}");
        Self(hasher.finalize().into())
    }

    /// The 64 hex digits.
    pub fn to_hex(self) -> [u8; 64] {
        let mut digits = [0; 64];
        for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(self.0) {
            *pair = HEX.get(usize::from(byte)).copied().unwrap_or_default();
        }
        digits
    }
}

/// The two digits of each byte: every record is compared and written as text.
#[expect(clippy::indexing_slicing, reason = "computed when this is compiled")]
const HEX: [[u8; 2]; 256] = {
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [hex_digit(byte >> 4), hex_digit(byte & 15)];
        byte += 1;
    }
    table
};

/// The lower-case digit of a number below 16.
#[expect(clippy::cast_possible_truncation, reason = "the number is below 16")]
const fn hex_digit(nibble: usize) -> u8 {
    nibble as u8 + if nibble < 10 { b'0' } else { b'a' - 10 }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_hex()
            .into_iter()
            .try_for_each(|digit| fmt::Write::write_char(f, digit.into()))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a chain hash (64 lower-case hex digits)")]
pub struct BadChainHash;

impl TryFrom<String> for ChainHash {
    type Error = BadChainHash;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(BadChainHash);
        }
        let mut hash = [0; 32];
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = hex_value(*high)? << 4 | hex_value(*low)?;
        }
        Ok(Self(hash))
    }
}

fn hex_value(digit: u8) -> Result<u8, BadChainHash> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(BadChainHash),
    }
}

impl From<ChainHash> for String {
    fn from(hash: ChainHash) -> Self {
        hash.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_what_its_description_says() {
        let session: SessionId = "0192f0c1a2b37c4d8e5f60718293a4b5".parse().unwrap();
        let genesis = ChainHash::genesis(session);
        let expected = Sha256::digest(format!("portcullis audit v1{session}"));
        assert_eq!(genesis.0.as_slice(), expected.as_slice());
        let next = Sha256::digest([genesis.0.as_slice(), b"{\"v\":1}"].concat());
        assert_eq!(genesis.follow(b"{\"v\":1").0.as_slice(), next.as_slice());
    }

    #[test]
    fn a_hash_reads_back_from_its_own_text_and_nothing_else() {
        let hash = ChainHash::genesis(SessionId::generate());
        let text = hash.to_string();
        assert_eq!(ChainHash::try_from(text.clone()), Ok(hash));
        for bad in [
            String::new(),
            text.to_uppercase() + "A",
            format!("{text}0"),
            "é".repeat(32),
        ] {
            assert!(ChainHash::try_from(bad).is_err());
        }
    }
}

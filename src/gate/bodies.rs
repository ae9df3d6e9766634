//! Bodies that the profile has kept: collected while they pass, never more than the cap; decoded, rid of secrets
//! and given to the audit writer when the exchange is over.
//!
//! Owns: how much memory all of them may take together. Never: holds up what passes; keeps a credential's value
//! of the session, which it knows, nor a secret that [`redact`] knows.

use std::cell::Cell;
use std::io::Read;
use std::rc::Rc;

use data_encoding::BASE64;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use crate::audit::http::{BodySide, SkipReason};
use crate::audit::redact;
use crate::ids::ConnId;
use crate::policy::{BodiesPolicy, Host};
use crate::wire::audit::BodyOffer;

use super::placeholder::scrub;
use super::state::Gate;

/// What is collected beyond the cap, in bytes: a secret that begins before the cap is known by what follows.
const BEYOND: usize = 8 << 10;

/// What all bodies may take at once, on their way and until the writer has them, in bytes.
const ALL: usize = 32 << 20;

/// The longest window of zstd, as its logarithm (RFC 9659: 8 MiB).
const WINDOW_LOG: u32 = 23;

/// Which bodies are kept.
#[derive(Debug)]
pub(super) struct Bodies {
    policy: BodiesPolicy,
    used: Rc<Cell<usize>>,
}

/// A share of the memory; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Share {
    used: Rc<Cell<usize>>,
    mine: usize,
}

/// One body on its way.
#[derive(Debug)]
pub(super) struct Capture {
    bytes: Vec<u8>,
    /// What is kept at most.
    cap: usize,
    share: Share,
    /// Whether there was more than is collected.
    more: bool,
    /// Whether there was no memory for it.
    busy: bool,
}

impl Bodies {
    pub(super) fn new(policy: BodiesPolicy) -> Self {
        Self {
            policy,
            used: Rc::default(),
        }
    }

    /// Begins to collect, if a body of this host is to be kept.
    pub(super) fn capture(&self, host: &Host, side: BodySide) -> Option<Capture> {
        let wanted = match side {
            BodySide::Request => self.policy.which.has_request(),
            BodySide::Response => self.policy.which.has_response(),
        };
        let hosts = &self.policy.hosts;
        let kept = wanted && hosts.iter().any(|pattern| pattern.covers(host));
        kept.then(|| Capture {
            bytes: Vec::new(),
            cap: self.policy.max_bytes as usize,
            share: Share {
                used: Rc::clone(&self.used),
                mine: 0,
            },
            more: false,
            busy: false,
        })
    }
}

impl Share {
    fn grow(&mut self, by: usize) -> bool {
        let used = self.used.get().saturating_add(by);
        let fits = used <= ALL;
        if fits {
            self.used.set(used);
            self.mine += by;
        }
        fits
    }

    fn give_back(&mut self) {
        self.used.set(self.used.get().saturating_sub(self.mine));
        self.mine = 0;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Capture {
    /// Takes what goes by, as far as there is room.
    pub(super) fn take(&mut self, part: &[u8]) {
        if self.busy {
            return;
        }
        let left = (self.cap + BEYOND).saturating_sub(self.bytes.len());
        let now = part.get(..left).unwrap_or(part);
        self.more |= now.len() < part.len();
        if self.share.grow(now.len()) {
            self.bytes.extend_from_slice(now);
        } else {
            self.busy = true;
            self.bytes = Vec::new();
            self.share.give_back();
        }
    }

    /// Gives it to the writer, or says why not. An empty body is none.
    pub(super) fn offer(
        self,
        gate: &Gate,
        (conn, direction): (ConnId, BodySide),
        encoding: Option<&str>,
        complete: bool,
    ) -> Result<(), SkipReason> {
        if self.busy {
            return Err(SkipReason::Busy);
        }
        if self.bytes.is_empty() {
            return Ok(());
        }
        let cut = self.more || !complete;
        let (content, whole) = decoded(encoding, &self.bytes, self.cap + BEYOND, cut)?;
        let (content, ours) = scrub(gate.keyring.values(), content);
        let (clean, found) = redact::bytes(&content);
        let kept = clean.get(..self.cap).unwrap_or(&clean);
        let offer = BodyOffer {
            conn,
            direction,
            truncated: !whole || kept.len() < clean.len(),
            encoding: encoding.map(ToOwned::to_owned),
            redactions: ours.saturating_add(found),
            content: BASE64.encode(kept),
        };
        gate.reporter.keep(offer, self.share);
        Ok(())
    }
}

/// At most so many bytes of what was coded, and whether that is all. `cut`: the coded bytes are not all there.
fn decoded(
    encoding: Option<&str>,
    bytes: &[u8],
    most: usize,
    cut: bool,
) -> Result<(Vec<u8>, bool), SkipReason> {
    let Some(encoding) = encoding else {
        return Ok((bytes.to_vec(), !cut));
    };
    let read = |from: &mut dyn Read| {
        let mut out = Vec::new();
        // One byte more tells that there is more.
        let read = from.take(most as u64 + 1).read_to_end(&mut out);
        let whole = read.is_ok() && out.len() <= most && !cut;
        out.truncate(most);
        match read {
            Err(_) if out.is_empty() => Err(SkipReason::Corrupt),
            _ => Ok((out, whole)),
        }
    };
    match encoding {
        "gzip" | "x-gzip" => read(&mut MultiGzDecoder::new(bytes)),
        // RFC 9110 section 8.4.1.2: with zlib's frame; some leave it out.
        "deflate" => {
            read(&mut ZlibDecoder::new(bytes)).or_else(|_| read(&mut DeflateDecoder::new(bytes)))
        }
        "zstd" => {
            let decoder = zstd::Decoder::with_buffer(bytes);
            let mut decoder = decoder.map_err(|_| SkipReason::Corrupt)?;
            decoder
                .window_log_max(WINDOW_LOG)
                .map_err(|_| SkipReason::Corrupt)?;
            read(&mut decoder)
        }
        _ => Err(SkipReason::Encoding),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;
    use crate::policy::{BodySides, HostPattern};

    fn policy(max_bytes: u32, which: BodySides) -> BodiesPolicy {
        BodiesPolicy {
            hosts: vec![HostPattern::parse("**.a.test").unwrap()],
            which,
            max_bytes,
        }
    }

    fn coded(encoding: &str, plain: &[u8]) -> Vec<u8> {
        let level = Compression::default();
        match encoding {
            "gzip" => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            "deflate" => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            "bare" => {
                let mut encoder = DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            _ => zstd::encode_all(plain, 0).unwrap(),
        }
    }

    #[test]
    fn codings_are_undone_and_a_bomb_grows_no_further_than_the_cap() {
        let plain = b"a body that is not long";
        let bomb = vec![b'a'; 64 << 20];
        for (name, encoding) in [
            ("gzip", "gzip"),
            ("deflate", "deflate"),
            ("bare", "deflate"),
            ("zstd", "zstd"),
        ] {
            let body = coded(name, plain);
            let found = decoded(Some(encoding), &body, 1000, false);
            assert_eq!(found, Ok((plain.to_vec(), true)), "{name}");
            let (found, whole) = decoded(Some(encoding), &body, 6, false).unwrap();
            assert_eq!((found.as_slice(), whole), (&b"a body"[..], false), "{name}");
            let (found, whole) = decoded(Some(encoding), &coded(name, &bomb), 5000, false).unwrap();
            assert_eq!(
                (found.len(), found.capacity() < 1 << 20, whole),
                (5000, true, false)
            );
            // The end of it never came.
            let cut = &body[..body.len() - 6];
            if let Ok((_, whole)) = decoded(Some(encoding), cut, 1000, true) {
                assert!(!whole);
            }
        }
        assert_eq!(
            decoded(None, plain, 1000, false),
            Ok((plain.to_vec(), true))
        );
        for (encoding, reason) in [
            ("br", SkipReason::Encoding),
            ("gzip, gzip", SkipReason::Encoding),
            ("gzip", SkipReason::Corrupt),
            ("zstd", SkipReason::Corrupt),
        ] {
            let found = decoded(Some(encoding), b"\xffnothing", 1000, false);
            assert_eq!(found, Err(reason), "{encoding}");
        }
    }

    #[test]
    fn only_what_the_profile_names_is_collected_and_only_as_far_as_there_is_room() {
        let bodies = Bodies::new(policy(10, BodySides::Request));
        let host = |name: &str| Host::parse(name).unwrap();
        let capture = |name: &str, side| bodies.capture(&host(name), side);
        assert!(capture("b.test", BodySide::Request).is_none());
        assert!(capture("x.a.test", BodySide::Response).is_none());
        let mut one = capture("x.a.test", BodySide::Request).unwrap();
        one.take(b"12345");
        one.take(&vec![b'6'; 20 << 10]);
        assert_eq!(
            (one.bytes.len(), one.more, one.busy),
            (10 + BEYOND, true, false)
        );
        assert_eq!(bodies.used.get(), 10 + BEYOND);
        drop(one);
        assert_eq!(bodies.used.get(), 0);
        let large = Bodies::new(policy(1 << 20, BodySides::Both));
        let part = vec![0; 1 << 20];
        let many: Vec<Capture> = (0..40)
            .map(|_| {
                let mut one = large.capture(&host("a.test"), BodySide::Response).unwrap();
                one.take(&part);
                one
            })
            .collect();
        assert_eq!(many.iter().filter(|one| one.busy).count(), 8);
        assert_eq!(large.used.get(), ALL);
        drop(many);
        assert_eq!(large.used.get(), 0);
    }
}

//! Cuts the bytes of an HTTP/2 connection into frames, and looks at their heads alone (RFC 9113 section 4.1).
//! Holds 17 bytes, whatever comes.

/// What a client says first (RFC 9113 section 3.4).
pub(super) const PREFACE: usize = 24;

/// A frame's head.
const HEAD: usize = 9;

/// Of a frame's payload: the stream and the code of GOAWAY, the code of `RST_STREAM`.
const START: usize = 8;

/// Content.
pub(super) const DATA: u8 = 0;
/// Opens a stream, or ends it with trailers.
pub(super) const HEADERS: u8 = 1;
/// Ends a stream.
pub(super) const RST_STREAM: u8 = 3;
/// Ends the connection.
pub(super) const GOAWAY: u8 = 7;

/// Flag of HEADERS.
pub(super) const END_STREAM: u8 = 1;

/// What is looked at of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// The start of its payload; zeros where it is shorter.
    start: [u8; START],
}

impl Frame {
    /// The number at this place of the payload's start.
    pub(super) fn word(&self, at: usize) -> u32 {
        let bytes = self.start.get(at..).and_then(<[u8]>::first_chunk);
        bytes.copied().map_or(0, u32::from_be_bytes)
    }
}

/// Finds frames in bytes that come in pieces.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    /// What is read of the frame so far: its head, and the start of its payload if that is wanted.
    seen: [u8; HEAD + START],
    have: usize,
    /// Bytes up to the next frame.
    skip: usize,
}

impl Cutter {
    /// The same, behind so many bytes that are no frame.
    pub(super) fn after(skip: usize) -> Self {
        Self {
            skip,
            ..Self::default()
        }
    }

    /// Takes bytes; tells each frame once what is looked at of it is there.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut found: impl FnMut(&Frame)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = self.wanted();
            let taken = wanted.saturating_sub(self.have).min(bytes.len());
            let (now, rest) = bytes.split_at(taken);
            if let Some(into) = self.seen.get_mut(self.have..self.have + taken) {
                into.copy_from_slice(now);
            }
            self.have += taken;
            bytes = rest;
            // With its head complete, more of the frame may be wanted.
            if self.have >= HEAD && self.have >= self.wanted() {
                found(&self.frame());
                self.skip = (HEAD + self.length()).saturating_sub(self.have);
                self.have = 0;
                self.seen = [0; HEAD + START];
            }
        }
    }

    /// So many bytes of the frame are looked at.
    fn wanted(&self) -> usize {
        let has_code = self.have >= HEAD && matches!(self.kind(), RST_STREAM | GOAWAY);
        if has_code {
            HEAD + self.length().min(START)
        } else {
            HEAD
        }
    }

    fn length(&self) -> usize {
        let [high, middle, low, ..] = self.seen;
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    }

    fn kind(&self) -> u8 {
        let [_, _, _, kind, ..] = self.seen;
        kind
    }

    fn frame(&self) -> Frame {
        let [_, _, _, kind, flags, a, b, c, d, start @ ..] = self.seen;
        Frame {
            kind,
            flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1),
            start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [
            &length[1..],
            &[kind, END_STREAM],
            &stream.to_be_bytes(),
            payload,
        ]
        .concat()
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let bytes = [
            frame(HEADERS, 5, &[RST_STREAM; 300]),
            frame(RST_STREAM, 1 << 31 | 5, &[0, 0, 0, 7]),
            frame(0, 5, &[]),
            frame(GOAWAY, 0, &[0, 0, 0, 5, 0, 0, 0, 11, b'x', b'y']),
            // Shorter than it may be.
            frame(RST_STREAM, 9, &[1]),
            frame(6, 0, &[0; 8]),
        ]
        .concat();
        for step in [1, 2, 7, 9, 10, 13, 1000] {
            let mut found = Vec::new();
            let mut cutter = Cutter::default();
            for part in bytes.chunks(step) {
                cutter.push(part, |frame| {
                    found.push((frame.kind, frame.stream, frame.word(0), frame.word(4)));
                });
            }
            let expected = [
                (HEADERS, 5, 0, 0),
                (RST_STREAM, 5, 7, 0),
                (0, 5, 0, 0),
                (GOAWAY, 0, 5, 11),
                (RST_STREAM, 9, 1 << 24, 0),
                (6, 0, 0, 0),
            ];
            assert_eq!(found, expected, "in steps of {step}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_cuts_do_not_matter(
            bytes in proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..300),
            skip in 0_usize..30,
            step in 1_usize..20,
        ) {
            let (mut whole, mut cut) = (Cutter::after(skip), Cutter::after(skip));
            let (mut at_once, mut in_steps) = (Vec::new(), Vec::new());
            whole.push(&bytes, |frame| at_once.push(*frame));
            for part in bytes.chunks(step) {
                cut.push(part, |frame| in_steps.push(*frame));
            }
            prop_assert_eq!(at_once, in_steps);
        }
    }
}

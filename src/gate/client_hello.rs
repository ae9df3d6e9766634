//! The TLS `ClientHello` (RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2), read just far enough to
//! know the one server name it asks for (RFC 6066 section 3), and strictly: a hello that two readers
//! could read in two ways is malformed. Reassembles fragments over any number of records and reads,
//! within [`MAX_HELLO`]; costs time linear in the bytes pushed.

use std::collections::HashSet;

/// The longest handshake message that is read. Must exceed a hello with a post-quantum key share,
/// ECH and a session ticket (about 4 KiB).
const MAX_HELLO: usize = 16 << 10;

/// The longest record of plaintext (RFC 8446 section 5.1).
const MAX_RECORD: usize = 1 << 14;

/// Content type `handshake`.
const HANDSHAKE: u8 = 22;

/// What the first byte of a TLS connection is.
pub(super) const FIRST_BYTE: u8 = HANDSHAKE;

/// Handshake type `client_hello`.
const CLIENT_HELLO: u8 = 1;

/// Extension `server_name`; the name type in it is 0 as well (`host_name`).
const SERVER_NAME: u16 = 0;

/// Extension `encrypted_client_hello` (RFC 9849 section 5).
const ENCRYPTED_HELLO: u16 = 0xfe0d;

/// The server name of a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServerName {
    /// The extension is not there.
    Absent,
    /// Exactly one `host_name`, as sent; ASCII without control characters.
    Named(String),
}

/// Why bytes are not a hello that the gate lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HelloError {
    /// The first bytes are something else.
    #[error("the first bytes are not a TLS handshake")]
    NotTls,
    /// Longer than the gate reads.
    #[error("the ClientHello is too long")]
    TooLong,
    /// TLS, but not a well-formed hello.
    #[error("the ClientHello is malformed: {0}")]
    Malformed(&'static str),
}

/// Collects bytes until the hello is whole.
#[derive(Debug, Default)]
pub(super) struct HelloReader {
    /// Everything pushed, for whoever forwards it.
    raw: Vec<u8>,
    /// Where in `raw` the next record starts.
    next: usize,
    /// The handshake message so far.
    message: Vec<u8>,
    /// Whether the whole hello has the extension of Encrypted ClientHello.
    encrypted: bool,
}

impl HelloReader {
    /// Adds bytes. `Ok(None)`: more are needed.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Option<ServerName>, HelloError> {
        self.raw.extend_from_slice(bytes);
        loop {
            let rest = self.raw.get(self.next..).unwrap_or_default();
            let Some(fragment) = next_fragment(rest)? else {
                return Ok(None);
            };
            self.message.extend_from_slice(fragment);
            self.next += RECORD_HEADER + fragment.len();
            if let Some(hello) = whole_message(&self.message)? {
                self.encrypted = hello.encrypted;
                return Ok(Some(hello.name));
            }
        }
    }

    /// Whether the hello, once whole, has the extension of Encrypted ClientHello (RFC 9849). What is in
    /// it cannot be told from the noise that some clients always send (section 6.2).
    pub(super) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Everything that was pushed.
    pub(super) fn into_raw(self) -> Vec<u8> {
        self.raw
    }
}

/// Type, version, length.
const RECORD_HEADER: usize = 5;

/// The payload of the first record, once it is there in full. Wrong bytes are refused as soon as they
/// are seen, so that a client that speaks first in another protocol is not waited for.
fn next_fragment(bytes: &[u8]) -> Result<Option<&[u8]>, HelloError> {
    let mut reader = Reader(bytes);
    if reader.u8().is_some_and(|kind| kind != HANDSHAKE) {
        return Err(HelloError::NotTls);
    }
    // legacy_record_version: 3.1 on a first hello, else 3.3; other minors are for old peers.
    if reader.u8().is_some_and(|major| major != 3) {
        return Err(HelloError::NotTls);
    }
    if reader.u8().is_some_and(|minor| minor > 4) {
        return Err(HelloError::NotTls);
    }
    let Some(length) = reader.u16() else {
        return Ok(None);
    };
    let length = usize::from(length);
    if length > MAX_RECORD {
        return Err(HelloError::TooLong);
    }
    if length == 0 {
        // RFC 8446 section 5.1: no zero-length fragments of handshake types.
        return Err(HelloError::Malformed("empty record"));
    }
    Ok(reader.take(length))
}

/// Reads the handshake message, once it is there in full.
fn whole_message(message: &[u8]) -> Result<Option<Hello>, HelloError> {
    let mut reader = Reader(message);
    if reader.u8().is_some_and(|kind| kind != CLIENT_HELLO) {
        return Err(HelloError::Malformed("not a ClientHello"));
    }
    let Some(length) = reader.u24() else {
        return Ok(None);
    };
    if length > MAX_HELLO {
        return Err(HelloError::TooLong);
    }
    let Some(body) = reader.take(length) else {
        return Ok(None);
    };
    if !reader.0.is_empty() {
        return Err(HelloError::Malformed("bytes after the message"));
    }
    read_body(body).map(Some)
}

/// What is wanted of a hello.
#[derive(Debug, PartialEq, Eq)]
struct Hello {
    name: ServerName,
    /// Whether the extension of Encrypted ClientHello is there.
    encrypted: bool,
}

/// Walks the hello to its extensions.
fn read_body(body: &[u8]) -> Result<Hello, HelloError> {
    let mut reader = Reader(body);
    let short = HelloError::Malformed("cut short");
    let major = reader.u16().ok_or(short)? >> 8;
    reader.take(32).ok_or(short)?;
    let session_id = reader.vec8().ok_or(short)?;
    let suites = reader.vec16().ok_or(short)?;
    let compressions = reader.vec8().ok_or(short)?;
    if major != 3
        || session_id.len() > 32
        || suites.is_empty()
        || suites.len() % 2 != 0
        || compressions.is_empty()
    {
        return Err(HelloError::Malformed("impossible field"));
    }
    if reader.0.is_empty() {
        return Ok(Hello {
            name: ServerName::Absent,
            encrypted: false,
        });
    }
    let extensions = reader.vec16().ok_or(short)?;
    if !reader.0.is_empty() {
        return Err(HelloError::Malformed("bytes after the extensions"));
    }
    read_extensions(extensions)
}

fn read_extensions(extensions: &[u8]) -> Result<Hello, HelloError> {
    let mut reader = Reader(extensions);
    let short = HelloError::Malformed("extension cut short");
    let mut seen = HashSet::new();
    let mut name = ServerName::Absent;
    while !reader.0.is_empty() {
        let kind = reader.u16().ok_or(short)?;
        let content = reader.vec16().ok_or(short)?;
        if !seen.insert(kind) {
            // RFC 8446 section 4.2: not more than one of a type.
            return Err(HelloError::Malformed("an extension twice"));
        }
        if kind == SERVER_NAME {
            name = ServerName::Named(host_name(content)?);
        }
    }
    Ok(Hello {
        name,
        encrypted: seen.contains(&ENCRYPTED_HELLO),
    })
}

/// A `ServerNameList` with exactly one `host_name`.
fn host_name(content: &[u8]) -> Result<String, HelloError> {
    let odd = HelloError::Malformed("not exactly one host name");
    let mut reader = Reader(content);
    let list = reader.vec16().filter(|_| reader.0.is_empty()).ok_or(odd)?;
    let mut reader = Reader(list);
    if reader.u8() != Some(0) {
        return Err(odd);
    }
    let name = reader.vec16().filter(|_| reader.0.is_empty()).ok_or(odd)?;
    if name.is_empty() || name.len() > 255 || !name.iter().all(u8::is_ascii_graphic) {
        return Err(odd);
    }
    String::from_utf8(name.to_vec()).map_err(|_| odd)
}

/// Reads big-endian numbers and vectors; `None` when too few bytes are left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u24(&mut self) -> Option<usize> {
        let high = self.u8()?;
        Some(usize::from(high) << 16 | usize::from(self.u16()?))
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn length(bytes: &[u8]) -> [u8; 2] {
        u16::try_from(bytes.len()).unwrap().to_be_bytes()
    }

    /// A hello with these extensions, as one handshake message.
    fn message(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (kind, content) in extensions {
            block.extend(kind.to_be_bytes());
            block.extend(length(content));
            block.extend(content);
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(length(&block));
        body.extend(block);
        let mut message = vec![CLIENT_HELLO, 0];
        message.extend(length(&body));
        message.extend(body);
        message
    }

    fn records(message: &[u8], fragment: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in message.chunks(fragment) {
            bytes.extend([HANDSHAKE, 3, 1]);
            bytes.extend(length(part));
            bytes.extend(part);
        }
        bytes
    }

    fn names(list: &[(u8, &[u8])]) -> (u16, Vec<u8>) {
        let mut block = Vec::new();
        for (kind, name) in list {
            block.push(*kind);
            block.extend(length(name));
            block.extend(*name);
        }
        let mut content = length(&block).to_vec();
        content.extend(block);
        (SERVER_NAME, content)
    }

    fn read(bytes: &[u8]) -> Result<Option<ServerName>, HelloError> {
        HelloReader::default().push(bytes)
    }

    #[test]
    fn the_server_name_is_found_however_the_hello_is_cut() {
        let hello = message(&[(43, vec![2, 3, 4]), names(&[(0, b"api.test")])]);
        let expected = Some(ServerName::Named("api.test".into()));
        for fragment in [1, 2, 5, 60, 4096] {
            let bytes = records(&hello, fragment);
            assert_eq!(read(&bytes), Ok(expected.clone()), "records of {fragment}");
            let mut reader = HelloReader::default();
            let (last, but_last) = bytes.split_last().unwrap();
            for byte in but_last {
                assert_eq!(reader.push(&[*byte]), Ok(None));
            }
            assert_eq!(reader.push(&[*last]), Ok(expected.clone()), "byte by byte");
            assert_eq!(reader.into_raw(), bytes);
        }
        assert_eq!(
            read(&records(&message(&[]), 99)),
            Ok(Some(ServerName::Absent))
        );
    }

    #[test]
    fn a_hello_that_two_readers_could_read_in_two_ways_is_malformed() {
        let good = names(&[(0, b"a.test")]);
        for (what, extensions) in [
            ("two names", vec![names(&[(0, b"a.test"), (0, b"b.test")])]),
            ("two lists", vec![good.clone(), names(&[(0, b"b.test")])]),
            ("other kind of name", vec![names(&[(1, b"a.test")])]),
            ("no name", vec![names(&[])]),
            ("empty name", vec![names(&[(0, b"")])]),
            ("NUL", vec![names(&[(0, b"a.test\0.b.test")])]),
            ("not ASCII", vec![names(&[(0, "\u{e4}.test".as_bytes())])]),
            ("long", vec![names(&[(0, &[b'a'; 256])])]),
            (
                "bytes after",
                vec![(SERVER_NAME, [good.1.clone(), vec![0]].concat())],
            ),
            (
                "repeated extension",
                vec![good.clone(), (43, vec![]), (43, vec![])],
            ),
        ] {
            let read = read(&records(&message(&extensions), 4096));
            assert!(
                matches!(read, Err(HelloError::Malformed(_))),
                "{what}: {read:?}"
            );
        }
        let twice = message(&[good]).repeat(2);
        assert!(matches!(
            read(&records(&twice, 4096)),
            Err(HelloError::Malformed(_))
        ));
    }

    #[test]
    fn an_encrypted_hello_is_noticed() {
        for (extra, expected) in [(0xfe0d, true), (0xfe0e, false)] {
            let extensions = [names(&[(0, b"a.test")]), (extra, vec![0; 30])];
            let mut reader = HelloReader::default();
            let name = reader.push(&records(&message(&extensions), 20)).unwrap();
            assert_eq!(name, Some(ServerName::Named("a.test".into())));
            assert_eq!(reader.is_encrypted(), expected, "{extra:x}");
        }
    }

    #[test]
    fn other_protocols_are_recognised_by_their_first_byte() {
        for bytes in [
            &b"S"[..],
            b"GET / HTTP/1.1",
            &[0x80, 0x2e, 1],
            &[22, 2],
            &[21, 3, 1],
        ] {
            assert_eq!(read(bytes), Err(HelloError::NotTls), "{bytes:?}");
        }
        assert_eq!(
            read(&[22, 3, 1, 0, 0]),
            Err(HelloError::Malformed("empty record"))
        );
        assert_eq!(read(&[22, 3, 1, 0xff, 0xff]), Err(HelloError::TooLong));
        assert_eq!(
            read(&[22, 3, 1, 0, 4, 1, 1, 0, 0]),
            Err(HelloError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            drop(read(&bytes));
            drop(read(&records(&[&[CLIENT_HELLO, 0, 2, 0][..], &bytes].concat(), 4096)));
            drop(read_body(&bytes));
            drop(read_extensions(&bytes));
            drop(host_name(&bytes));
        }

        #[test]
        fn cutting_never_changes_the_answer(
            name in "[a-z]{1,20}\\.test",
            extra in proptest::collection::vec(any::<u8>(), 0..80),
            cuts in proptest::collection::vec(1_usize..40, 1..20),
            fragment in 1_usize..200,
        ) {
            let hello = message(&[(35, extra), names(&[(0, name.as_bytes())])]);
            let bytes = records(&hello, fragment);
            let mut reader = HelloReader::default();
            let mut rest = &bytes[..];
            let mut cuts = cuts.into_iter().cycle();
            let mut answer = Ok(None);
            while !rest.is_empty() {
                let (part, left) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                answer = reader.push(part);
                rest = left;
            }
            prop_assert_eq!(answer, Ok(Some(ServerName::Named(name))));
        }
    }
}

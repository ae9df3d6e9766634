//! Doors for the fuzzer (`fuzz/`) to parsers that are private to the gate; compiled for it alone. Each
//! answers in plain types what its parser made of the bytes, so that an oracle can be held against it.

use super::client_hello::{HelloReader, ServerName};
use super::dns::message;
use super::socks5_wire::{self, Read};
use super::{authority, head_grammar};

/// Whether one whole head is taken, and the length of the body after it: `None` in the option for a
/// chunked body or a tunnel.
pub fn request_head(head: &[u8]) -> Result<Option<u64>, &'static str> {
    head_grammar::check(head).map(|framing| match framing {
        head_grammar::Framing::Empty => Some(0),
        head_grammar::Framing::Length(length) => Some(length),
        head_grammar::Framing::Chunked | head_grammar::Framing::Tunnel => None,
    })
}

/// An authority as its canonical host and port.
pub fn authority(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = authority::parse_authority(text)?;
    Some((host.to_string(), port.map(crate::policy::Port::number)))
}

/// What a reader of messages says of a prefix of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<T> {
    /// At least so many bytes more.
    More(usize),
    /// The message.
    Whole(T),
    /// No message.
    Refused,
}

/// A SOCKS5 greeting: whether it can do without authentication.
pub fn socks5_greeting(bytes: &[u8]) -> Progress<bool> {
    progress(socks5_wire::read_greeting(bytes), |acceptable| acceptable)
}

/// A SOCKS5 request: host and port.
pub fn socks5_request(bytes: &[u8]) -> Progress<(String, u16)> {
    progress(socks5_wire::read_request(bytes), |(host, port)| {
        (host.to_string(), port.number())
    })
}

fn progress<T, U, E>(read: Result<Read<T>, E>, shown: impl Fn(T) -> U) -> Progress<U> {
    match read {
        Ok(Read::More(more)) => Progress::More(more),
        Ok(Read::Whole(message)) => Progress::Whole(shown(message)),
        Err(_) => Progress::Refused,
    }
}

/// A message to the jail's name server: every answer that it could get, none if it is not answered.
pub fn dns_answers(bytes: &[u8]) -> Vec<Vec<u8>> {
    use message::Reply;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    let asked = message::read(bytes);
    let replies = [
        Reply::Address(IpAddr::V4(Ipv4Addr::new(198, 18, 1, 0))),
        Reply::Address(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        Reply::NoAddress,
        Reply::Refused,
        Reply::Malformed,
        Reply::Full,
    ];
    let answers = replies.into_iter();
    answers
        .filter_map(|reply| message::write(&asked, reply))
        .collect()
}

/// The server name of a hello that comes in pieces: `Ok(Some(None))` for a hello without one, `Ok(None)`
/// for one that is not whole, an error for what is no hello.
pub fn server_name<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<Option<String>>, String> {
    let mut reader = HelloReader::default();
    for piece in pieces {
        match reader.push(piece).map_err(|error| error.to_string())? {
            None => {}
            Some(ServerName::Absent) => return Ok(Some(None)),
            Some(ServerName::Named(name)) => return Ok(Some(Some(name))),
        }
    }
    Ok(None)
}

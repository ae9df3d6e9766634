//! The grammar of one request head (RFC 9112 sections 3 and 5), without any of the leniencies that the
//! sections permit: what two readers could read in two ways is an error.

use hyper::Uri;

use super::websocket;

/// How the head of a tunnel begins.
pub(super) const CONNECT: &[u8] = b"CONNECT ";

/// Fields in one head. Must exceed what browsers and SDKs send (about 30).
pub(super) const MAX_FIELDS: usize = 100;

/// How the body after a head is delimited (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// No head follows that could be checked: a tunnel, or what may become a WebSocket.
    Tunnel,
}

/// Checks one whole head, up to and including its empty line.
pub(super) fn check(head: &[u8]) -> Result<Framing, &'static str> {
    let head = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    let mut lines = lines(head);
    let request_line = lines.next().unwrap_or_default();
    let version = check_request_line(request_line)?;
    let mut fields = Fields::default();
    for line in lines {
        if line.contains(&b'\r') {
            return Err("a CR within a line");
        }
        fields.add(line)?;
        if fields.count > MAX_FIELDS {
            return Err("too many fields");
        }
    }
    fields.framing(request_line.starts_with(CONNECT), version)
}

/// The lines of a head, without the CR LF between them.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let from = rest?;
        let end = memchr::memmem::find(from, b"\r\n");
        let (line, after) = from.split_at_checked(end.unwrap_or(from.len()))?;
        rest = end.and_then(|_| after.get(2..));
        Some(line)
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

fn check_request_line(line: &[u8]) -> Result<Version, &'static str> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("the request line is not method, target and version");
    };
    if method.is_empty() || !method.iter().copied().all(is_token_byte) {
        return Err("the method is not a token");
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err("the target has a byte that no URI has");
    }
    if target.contains(&b'#') {
        return Err("the target has a fragment");
    }
    // What hyper could not read it would answer itself, without a reason and without a record.
    if Uri::try_from(target).is_err() {
        return Err("the target is not a URI");
    }
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        _ => Err("the version is not HTTP/1.0 or HTTP/1.1"),
    }
}

/// The fields that delimit a body or name a host, each at most once.
#[derive(Debug, Default)]
struct Fields {
    count: usize,
    length: Option<u64>,
    chunked: bool,
    host: bool,
    websocket: bool,
}

impl Fields {
    fn add(&mut self, line: &[u8]) -> Result<(), &'static str> {
        self.count += 1;
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = colon
            .and_then(|at| line.split_at_checked(at))
            .ok_or("a field without a colon")?;
        if name.is_empty() || !name.iter().copied().all(is_token_byte) {
            return Err("a field name that is not a token");
        }
        let value = without_white_space(value.strip_prefix(b":").unwrap_or(value));
        if value
            .iter()
            .any(|byte| byte.is_ascii_control() && *byte != b'\t')
        {
            return Err("a control character in a field");
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = parse_length(value).ok_or("Content-Length is not one number")?;
            if self.length.replace(length).is_some() {
                return Err("more than one Content-Length");
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if std::mem::replace(&mut self.chunked, true) || !value.eq_ignore_ascii_case(b"chunked")
            {
                return Err("a Transfer-Encoding other than chunked");
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.websocket |= websocket::is_named_by(value);
        } else if name.eq_ignore_ascii_case(b"host") && std::mem::replace(&mut self.host, true) {
            return Err("more than one Host");
        }
        Ok(())
    }

    fn framing(&self, connect: bool, version: Version) -> Result<Framing, &'static str> {
        if version == Version::Http11 && !self.host {
            return Err("no Host");
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err("both Content-Length and Transfer-Encoding"),
            (true, None) if version == Version::Http10 => Err("Transfer-Encoding in HTTP/1.0"),
            (true, None) | (false, Some(1..)) if connect => Err("CONNECT with content"),
            (false, None | Some(0)) if connect => Ok(Framing::Tunnel),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(length @ 1..)) => Ok(Framing::Length(length)),
            (false, None | Some(0)) if self.websocket => Ok(Framing::Tunnel),
            (false, None | Some(0)) => Ok(Framing::Empty),
        }
    }
}

/// Without the optional white space round a field's value: SP and HTAB, nothing else (RFC 9110 section
/// 5.6.3).
fn without_white_space(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Up to 18 digits, so that it fits and no reader overflows.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

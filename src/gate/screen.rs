//! Looks at a tunnel's first bytes before any of them goes up: on port 443 they must be a TLS hello
//! for the permitted host; on other ports TLS must be for it, and anything else may pass.
//!
//! Where a tunnel is looked into it must be TLS, or plain HTTP on any port but 443: the first bytes say
//! which, and anything else is refused, as are servers that would speak first.
//!
//! What this cannot see, where the tunnel is not opened: the `Host` inside TLS (fronting), and a second
//! hello after a HelloRetryRequest. The inner name of an Encrypted ClientHello (RFC 9849) could not be
//! seen either, so in a tunnel a hello with that extension is refused, be it only the noise that
//! browsers send (section 6.2): the two look alike. Where TLS ends here there is no inner name.

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::policy::{DenyReason, Host, Port};

use super::authorize::Destination;
use super::client_hello::{FIRST_BYTE, HelloError, HelloReader, ServerName};
use super::head_grammar::is_token_byte;
use super::state::Limits;

/// The longest method; [`crate::policy::Method`] takes no longer one.
const MAX_METHOD: usize = 32;

/// Why nothing of the client's goes up.
#[derive(Debug)]
pub(super) enum Screened {
    /// The bytes are not what was permitted.
    Refused(DenyReason, String),
    /// The client closed before it had said enough.
    Closed,
    /// The socket failed.
    Failed,
}

/// What a tunnel that is looked into begins with: the bytes, read so far.
#[derive(Debug)]
pub(super) enum Opening {
    /// A whole `ClientHello`, for the permitted host.
    Hello(Vec<u8>),
    /// The start of a request of HTTP/1.
    Http(Vec<u8>),
}

/// Reads until it is known what is spoken in a tunnel that is looked into.
pub(super) async fn opening(
    client: &TcpStream,
    early: &[u8],
    destination: &Destination,
    limits: &Limits,
) -> Result<Opening, Screened> {
    let mut first = first_bytes(client, early, true, limits).await?;
    if destination.port != Port::HTTPS {
        let begins = begins_request(client, &mut first);
        let begins = timeout(limits.head, begins).await.unwrap_or_else(|_| {
            let detail = "neither a ClientHello nor a request line in time".to_owned();
            Err(Screened::Refused(DenyReason::TimedOut, detail))
        });
        if begins? {
            return Ok(Opening::Http(first));
        }
    }
    let reader = read_hello(client, &first, destination, limits).await?;
    Ok(Opening::Hello(reader.into_raw()))
}

/// Reads until a tunnel's first bytes are judged; answers them, to be sent up first.
pub(super) async fn screen(
    client: &TcpStream,
    early: &[u8],
    destination: &Destination,
    limits: &Limits,
) -> Result<Vec<u8>, Screened> {
    let tls_only = destination.port == Port::HTTPS;
    let first = first_bytes(client, early, tls_only, limits).await?;
    let speaks_tls = first.first() == Some(&FIRST_BYTE);
    if !tls_only && !speaks_tls {
        return Ok(first);
    }
    let reader = read_hello(client, &first, destination, limits).await?;
    if reader.is_encrypted() {
        let detail = "the ClientHello has the encrypted_client_hello extension".to_owned();
        return Err(Screened::Refused(DenyReason::EncryptedHello, detail));
    }
    Ok(reader.into_raw())
}

/// The first bytes, already read or yet to come. Where only TLS may come the client must speak within the time for a
/// head; elsewhere the server may speak first for as long as it likes.
async fn first_bytes(
    client: &TcpStream,
    early: &[u8],
    tls_only: bool,
    limits: &Limits,
) -> Result<Vec<u8>, Screened> {
    if !early.is_empty() {
        return Ok(early.to_vec());
    }
    let mut first = Vec::new();
    let wait = read_some(client, &mut first);
    if tls_only {
        timeout(limits.head, wait).await.unwrap_or_else(|_| {
            let detail = "no ClientHello in time".to_owned();
            Err(Screened::Refused(DenyReason::TimedOut, detail))
        })?;
    } else {
        wait.await?;
    }
    Ok(first)
}

/// Reads a whole hello, which must be for the permitted host.
async fn read_hello(
    client: &TcpStream,
    first: &[u8],
    destination: &Destination,
    limits: &Limits,
) -> Result<HelloReader, Screened> {
    let mut reader = HelloReader::default();
    let Ok(name) = timeout(limits.head, read_name(client, first, &mut reader)).await else {
        let detail = "the ClientHello was not complete in time".to_owned();
        return Err(Screened::Refused(DenyReason::TimedOut, detail));
    };
    compare(&destination.host, &name?)?;
    Ok(reader)
}

async fn read_name(
    client: &TcpStream,
    first: &[u8],
    reader: &mut HelloReader,
) -> Result<ServerName, Screened> {
    let mut chunk = first.to_vec();
    loop {
        match reader.push(&chunk) {
            Ok(Some(name)) => return Ok(name),
            Ok(None) => {}
            Err(error) => return Err(refused(error)),
        }
        chunk.clear();
        read_some(client, &mut chunk).await?;
    }
}

/// Reads on until the bytes are the start of a request line, or cannot be.
async fn begins_request(client: &TcpStream, first: &mut Vec<u8>) -> Result<bool, Screened> {
    loop {
        match is_request(first) {
            Some(is_request) => return Ok(is_request),
            None => read_some(client, first).await?,
        }
    }
}

/// Whether these bytes are the start of a request line: a method, which is a token, and a space (RFC 9112
/// section 3). `None`: more are needed.
fn is_request(bytes: &[u8]) -> Option<bool> {
    let end = bytes.iter().position(|byte| !is_token_byte(*byte));
    match end.and_then(|end| Some((end, *bytes.get(end)?))) {
        Some((end, b' ')) => Some((1..=MAX_METHOD).contains(&end)),
        Some(_) => Some(false),
        None if bytes.len() > MAX_METHOD => Some(false),
        None => None,
    }
}

fn refused(error: HelloError) -> Screened {
    let reason = match error {
        HelloError::NotTls => DenyReason::NotTls,
        HelloError::TooLong | HelloError::Malformed(_) => DenyReason::Malformed,
    };
    Screened::Refused(reason, error.to_string())
}

async fn read_some(client: &TcpStream, into: &mut Vec<u8>) -> Result<(), Screened> {
    let mut chunk = [0; 2048];
    loop {
        client.readable().await.map_err(|_| Screened::Failed)?;
        match client.try_read(&mut chunk) {
            Ok(0) => return Err(Screened::Closed),
            Ok(got) => {
                into.extend_from_slice(chunk.get(..got).unwrap_or_default());
                return Ok(());
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Screened::Failed),
        }
    }
}

/// A name must be asked for by exactly that name, an address by none.
fn compare(host: &Host, hello: &ServerName) -> Result<(), Screened> {
    let detail = match (host, hello) {
        (Host::Addr(_), ServerName::Absent) => return Ok(()),
        (Host::Name(name), ServerName::Named(asked)) => {
            // RFC 6066 section 3 allows no trailing dot; case does not matter in a name.
            if asked.eq_ignore_ascii_case(name.as_str()) {
                return Ok(());
            }
            format!("permitted {name}, the ClientHello names {asked:?}")
        }
        (Host::Name(name), ServerName::Absent) => {
            format!("permitted {name}, the ClientHello names no server")
        }
        (Host::Addr(address), ServerName::Named(asked)) => {
            format!("permitted {address}, the ClientHello names {asked:?}")
        }
    };
    Err(Screened::Refused(DenyReason::SniMismatch, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_is_known_by_its_method_and_a_space() {
        for (bytes, expected) in [
            (&b"GET /"[..], Some(true)),
            (b"PROPFIND ", Some(true)),
            (b"PRI * HTTP/2.0", Some(true)),
            (b"GE", None),
            (b"", None),
            (b"SSH-2.0-x", None),
            (b"SSH-2.0-x\r\n", Some(false)),
            (b" GET /", Some(false)),
            (b"\r\nGET /", Some(false)),
            (b"\x16\x03\x01", Some(false)),
            (b"\0", Some(false)),
            (&[b'A'; 32], None),
            (&[b'A'; 33], Some(false)),
        ] {
            assert_eq!(is_request(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn only_the_permitted_name_itself_passes() {
        let host = Host::parse("api.test").unwrap();
        let named = |name: &str| ServerName::Named(name.to_owned());
        for good in ["api.test", "API.Test"] {
            assert!(compare(&host, &named(good)).is_ok(), "{good}");
        }
        for bad in [
            "api.test.",
            "x.api.test",
            "pi.test",
            "evil.test",
            "127.0.0.1",
            "api.test:443",
        ] {
            assert!(compare(&host, &named(bad)).is_err(), "{bad}");
        }
        assert!(compare(&host, &ServerName::Absent).is_err());
    }
}

//! Looks at a tunnel's first bytes before any of them goes up: on port 443 they must be a TLS hello
//! for the permitted host; on other ports TLS must be for it, and anything else may pass.
//!
//! What this cannot see, because the tunnel is not opened: the `Host` inside TLS (fronting), the inner
//! name of ECH (RFC 9849; the outer one must match), and a second hello after a HelloRetryRequest.

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::policy::{DenyReason, Host, Port};

use super::authorize::Destination;
use super::client_hello::{FIRST_BYTE, HelloError, HelloReader, ServerName};
use super::state::Limits;

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

/// Reads until the tunnel's first bytes are judged; answers them, to be sent up first.
pub(super) async fn screen(
    client: &TcpStream,
    early: &[u8],
    destination: &Destination,
    limits: &Limits,
) -> Result<Vec<u8>, Screened> {
    let first = first_bytes(client, early, destination.port, limits).await?;
    let speaks_tls = first.first() == Some(&FIRST_BYTE);
    if destination.port != Port::HTTPS && !speaks_tls {
        return Ok(first);
    }
    let mut reader = HelloReader::default();
    let hello = read_hello(client, &first, &mut reader);
    let Ok(hello) = timeout(limits.head, hello).await else {
        let detail = "the ClientHello was not complete in time".to_owned();
        return Err(Screened::Refused(DenyReason::TimedOut, detail));
    };
    compare(&destination.host, &hello?)?;
    Ok(reader.into_raw())
}

/// The first bytes, already read or yet to come. On 443 the client must speak within the time for a
/// head; elsewhere the server may speak first for as long as it likes.
async fn first_bytes(
    client: &TcpStream,
    early: &[u8],
    port: Port,
    limits: &Limits,
) -> Result<Vec<u8>, Screened> {
    if !early.is_empty() {
        return Ok(early.to_vec());
    }
    let mut first = Vec::new();
    let wait = read_some(client, &mut first);
    if port == Port::HTTPS {
        timeout(limits.head, wait).await.unwrap_or_else(|_| {
            let detail = "no ClientHello in time".to_owned();
            Err(Screened::Refused(DenyReason::TimedOut, detail))
        })?;
    } else {
        wait.await?;
    }
    Ok(first)
}

async fn read_hello(
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

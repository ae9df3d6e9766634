//! The door for programs that know no proxy: every TCP connection of the jail that is not to itself comes
//! here (`jail::intercept`), and still has the address that it was made to.
//!
//! That address is one that stands for a name ([`super::dns`]), or it is judged as the literal that it is.
//! Port 80 is read as HTTP, so that method and path can be judged; anything else is a tunnel, screened like
//! one that was asked for with CONNECT. Where tunnels are looked into, it is what the client speaks that
//! counts: TLS or HTTP, on any port. The kernel has accepted the connection by then: what is refused is
//! told in the port's own protocol, or reset.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::ids::ConnId;
use crate::policy::{DenyReason, EgressRequest, Handling, Host, Port, Transport, Verdict, decide};

use super::authorize::{Refusal, authorize};
use super::budget::Seen;
use super::client_hello::FIRST_BYTE;
use super::half_close::until_gone;
use super::http::{self, Authority};
use super::listen::close_after;
use super::state::Gate;
use super::tunnel::{self, ACCESS_DENIED, Opened};

/// Serves one connection to its end.
pub(super) async fn serve(gate: Rc<Gate>, stream: TcpStream, id: ConnId) {
    let (host, port) = match original(&stream) {
        Ok((host, port)) => (gate.names.host(host), port),
        Err(error) => {
            let (transport, reason) = (Transport::Transparent, DenyReason::Malformed);
            let detail = error.to_string();
            drop(Refusal::unreadable(&gate, id, transport, reason, detail).await);
            return reset(&stream);
        }
    };
    let asked = EgressRequest {
        transport: Transport::Transparent,
        host,
        port,
        method: None,
        path: None,
        websocket: false,
    };
    // Judged in advance for what to make of the connection; what counts is judged, and recorded, below.
    let foreseen = decide(&gate.rules(), &asked);
    let becomes = |handling| foreseen.verdict != Verdict::Deny && foreseen.handling == handling;
    let speaks_http = port == Port::HTTP && !becomes(Handling::Tcp);
    if speaks_http && !(becomes(Handling::Inspect) && speaks_tls(&gate, &stream).await) {
        let host = asked.host;
        return http::serve(gate, stream, id, Some(Authority { host, port })).await;
    }
    let opened = tokio::select! {
        opened = open(&gate, id, asked) => opened,
        () = gate.until_stopping() => return,
        // An answer may take minutes: nobody is asked for a client that has left. Where nobody is asked, one
        // that has said all it has to say may still be waiting for the server's word.
        () = until_gone(&stream), if foreseen.verdict == Verdict::Ask => return,
    };
    match opened {
        Ok(tunnel) => tunnel.serve(&gate, stream, &[]).await,
        Err(_) => refuse(&stream, port).await,
    }
}

/// Whether the client begins with TLS. One that says nothing within the time for a head does not: what it
/// is told then is for the door to say.
async fn speaks_tls(gate: &Gate, stream: &TcpStream) -> bool {
    let mut first = [0];
    let peeked = tokio::select! {
        peeked = timeout(gate.limits.head, stream.peek(&mut first)) => peeked,
        () = gate.until_stopping() => return false,
    };
    matches!(peeked, Ok(Ok(1..))) && first == [FIRST_BYTE]
}

/// The destination that the program in the jail connected to. Somebody who connects to the listener itself
/// has none.
fn original(stream: &TcpStream) -> io::Result<(Host, Port)> {
    let address: SocketAddr = stream.local_addr()?;
    let ip = address.ip().to_canonical();
    match Port::new(address.port()) {
        Some(port) if !ip.is_loopback() && !ip.is_unspecified() => Ok((Host::from(ip), port)),
        _ => Err(io::Error::other("a connection to the gate's own listener")),
    }
}

async fn open(gate: &Rc<Gate>, id: ConnId, asked: EgressRequest) -> Result<Opened, Refusal> {
    let permit = authorize(gate, id, asked, Seen::default()).await?;
    tunnel::open(gate, permit).await
}

/// Tells a TLS client why, and anybody else that nobody is there.
async fn refuse(stream: &TcpStream, port: Port) {
    if port == Port::HTTPS {
        close_after(stream, &ACCESS_DENIED).await;
    } else {
        reset(stream);
    }
}

/// Has the kernel reset the connection when it is closed.
pub(super) fn reset(stream: &TcpStream) {
    // A socket that fails here is gone already.
    drop(stream.set_zero_linger());
}

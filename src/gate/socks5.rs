//! The SOCKS5 door: CONNECT without authentication and, where the policy has it, UDP ASSOCIATE. The jail's
//! own network namespace is what says who may come here.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::ids::ConnId;
use crate::policy::{DenyReason, EgressRequest, Host, Port, Transport};

use super::authorize::{Refusal, authorize};
use super::budget::Seen;
use super::half_close::until_gone;
use super::listen::close_after;
use super::respond::socks5_reply;
use super::socks5_wire::{self, Command, Malformed, NO_AUTHENTICATION, Read};
use super::state::Gate;
use super::tunnel::{self, Opened};

/// No acceptable methods (RFC 1928 section 3).
const NO_METHOD: u8 = 0xff;

/// Succeeded.
const SUCCEEDED: u8 = 0;

/// General SOCKS server failure.
const GENERAL_FAILURE: u8 = 1;

/// Why there is no request.
enum Unread {
    /// The client left, or said something that only ends the connection.
    Gone,
    /// The bytes are not what belongs here.
    Malformed(Malformed),
    /// No method that the gate speaks.
    NoMethod,
}

/// Serves one connection to its end.
pub(super) async fn serve(gate: Rc<Gate>, mut stream: TcpStream, id: ConnId) {
    let read = tokio::select! {
        read = timeout(gate.limits.head, negotiate(&gate, &mut stream)) => read,
        () = gate.until_stopping() => return,
    };
    let (reason, detail, answer) = match read {
        Ok(Ok(Command::Connect(host, port))) => {
            return connect(&gate, stream, id, host, port).await;
        }
        Ok(Ok(Command::Associate(client))) => return associate(&gate, stream, id, client).await,
        Ok(Err(Unread::Gone)) => return,
        Ok(Err(Unread::NoMethod)) => (
            DenyReason::Malformed,
            "the client insists on SOCKS5 authentication",
            Some(vec![5, NO_METHOD]),
        ),
        Ok(Err(Unread::Malformed(Malformed { why, reply }))) => {
            (DenyReason::Malformed, why, reply.map(reply_bytes))
        }
        Err(_) => {
            let detail = "the SOCKS5 request was not complete in time";
            (DenyReason::TimedOut, detail, None)
        }
    };
    let (transport, detail) = (Transport::Socks5, detail.to_owned());
    // Only recorded: the answer is the one of the protocol's step.
    drop(Refusal::unreadable(&gate, id, transport, reason, detail).await);
    close_after(&stream, &answer.unwrap_or_default()).await;
}

/// Greeting and request. Reads not one byte more than these: what follows is the tunnel's.
async fn negotiate(gate: &Gate, stream: &mut TcpStream) -> Result<Command, Unread> {
    let can_do_without = read_message(stream, socks5_wire::read_greeting).await?;
    if !can_do_without {
        return Err(Unread::NoMethod);
    }
    send(stream, &[5, NO_AUTHENTICATION]).await?;
    let associates = gate.relay.get().is_some();
    read_message(stream, |bytes| socks5_wire::read_command(bytes, associates)).await
}

async fn read_message<T>(
    stream: &mut TcpStream,
    read: impl Fn(&[u8]) -> Result<Read<T>, Malformed>,
) -> Result<T, Unread> {
    let mut bytes = Vec::new();
    loop {
        match read(&bytes).map_err(Unread::Malformed)? {
            Read::Whole(message) => return Ok(message),
            Read::More(more) => {
                // The first byte alone tells another protocol, which may never send a second.
                let more = if bytes.is_empty() { 1 } else { more };
                let start = bytes.len();
                bytes.resize(start + more, 0);
                let missing = bytes.get_mut(start..).unwrap_or_default();
                let got = stream.read_exact(missing).await;
                got.map_err(|_| Unread::Gone)?;
            }
        }
    }
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), Unread> {
    stream.write_all(bytes).await.map_err(|_| Unread::Gone)
}

/// Relays datagrams for as long as the connection stands.
async fn associate(gate: &Rc<Gate>, mut stream: TcpStream, id: ConnId, client: Option<SocketAddr>) {
    let relay = gate.relay.get();
    let made = relay.and_then(|relay| Some((relay.bound(), relay.associate(id, client)?)));
    let Some((bound, association)) = made else {
        return close_after(&stream, &reply_bytes(GENERAL_FAILURE)).await;
    };
    let mut reply = vec![5, SUCCEEDED, 0];
    if let Some(port) = Port::new(bound.port()) {
        socks5_wire::write_destination(&mut reply, &Host::Addr(bound.ip()), port);
    }
    if send(&mut stream, &reply).await.is_ok() {
        association.run(gate, &stream).await;
    }
}

async fn connect(gate: &Rc<Gate>, mut stream: TcpStream, id: ConnId, host: Host, port: Port) {
    let asked = EgressRequest {
        transport: Transport::Socks5,
        host,
        port,
        method: None,
        path: None,
        websocket: false,
    };
    let opened = tokio::select! {
        opened = open(gate, id, asked) => opened,
        () = gate.until_stopping() => return,
        // An answer may take minutes: nobody is asked for a client that has left.
        () = until_gone(&stream) => return,
    };
    match opened {
        Ok(tunnel) => {
            if send(&mut stream, &reply_bytes(SUCCEEDED)).await.is_ok() {
                tunnel.serve(gate, stream, &[]).await;
            }
        }
        Err(refusal) => {
            let reply = reply_bytes(socks5_reply(refusal.reason));
            close_after(&stream, &reply).await;
        }
    }
}

async fn open(gate: &Rc<Gate>, id: ConnId, asked: EgressRequest) -> Result<Opened, Refusal> {
    let permit = authorize(gate, id, asked, Seen::default()).await?;
    tunnel::open(gate, permit).await
}

/// A reply (RFC 1928 section 6). The bound address is left out: which of the host's addresses leads to
/// the network is none of the jail's business.
fn reply_bytes(reply: u8) -> Vec<u8> {
    vec![5, reply, 0, 1, 0, 0, 0, 0, 0, 0]
}

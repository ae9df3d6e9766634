//! TLS inspection: where the policy says `inspect`, a tunnel's TLS ends here and every request in it
//! is judged by itself. So is plain HTTP in such a tunnel, whatever its port but 443.
//!
//! Owns: the session's certificate authority and the leaves under it, the client's half of the TLS
//! connection, HTTP/1.1 and HTTP/2 within it. Trusts: nothing from the jail. Never: dials by itself
//! (each inner request goes through `authorize` to `upstream`), writes a key anywhere, answers for a
//! name other than the one that was permitted.
//!
//! One tunnel walks: [`accept`] (screen the `ClientHello`, then a certificate from [`leaf`] under
//! [`authority`]) → [`http1`] or [`http2`] by ALPN, the latter between [`frames`] → [`request`] (one inner
//! request, strictly read) → [`exchange`] (authorize, then the origin or [`websocket`]).
//!
//! Each inner request has a number of its own in the log, because those of one HTTP/2 connection run
//! side by side; what is wrong with the tunnel itself is recorded under the tunnel's number.

mod accept;
mod authority;
mod cutter;
mod exchange;
mod frames;
mod http1;
mod http2;
mod leaf;
mod random;
mod replay;
mod request;
mod trace;
mod websocket;

use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::audit::EndedBy;
use crate::policy::{DenyReason, Transport};

use super::authorize::{Destination, Permit};
use super::listen::close_after;
use super::open::Lease;
use super::screen::{Opening, Screened, opening};
use super::state::Gate;
use super::tally::Tally;
use super::tunnel::ACCESS_DENIED;

pub(super) use leaf::{Leaves, MitmError};

use replay::Replay;
use trace::{Trace, Traced};

/// For a client to take its last answer and to close.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The client's side of a tunnel, TLS undone.
type Plain = Traced<TlsStream<Replay<TcpStream>>>;

/// One tunnel that is looked into.
#[derive(Debug)]
struct Tunnel {
    gate: Rc<Gate>,
    /// What was permitted: no inner request may be for anything else.
    destination: Destination,
    /// That permit, which may have been somebody's approval.
    lease: Rc<Lease>,
    /// What is known of the bytes within.
    trace: Rc<Trace>,
    /// What its requests are: within TLS, or plain.
    door: Transport,
}

/// What a client speaks in a tunnel that ends here.
enum Spoken {
    /// TLS, undone.
    Tls(Box<TlsStream<Replay<TcpStream>>>),
    /// HTTP as it is.
    Http(Replay<TcpStream>),
}

/// Terminates a tunnel that was permitted with `Handling::Inspect`, and its TLS, and serves what is in it to
/// its end. The client has its 200 (or its SOCKS reply) already; nothing was dialed. `early` came from
/// the client already.
pub(super) async fn serve_tunnel(gate: &Rc<Gate>, client: TcpStream, early: &[u8], permit: Permit) {
    // Its bytes are on the accounts of the inner requests; here is only when it ended and by whom.
    let tally = Tally::for_tunnel(gate, &permit);
    let served = async {
        let established = tokio::select! {
            established = establish(gate, client, early, permit.destination()) => established,
            () = gate.until_stopping() => Err(EndedBy::Gate),
        };
        match established {
            Ok(spoken) => serve(gate, spoken, &permit).await,
            Err(by) => by,
        }
    };
    // A revoked tunnel is dropped with all that goes on in it: each request records its own end. No word
    // of its requests gets out any more, whichever of them notices first.
    let by = tokio::select! {
        biased;
        () = tally.until_revoked() => EndedBy::Policy,
        by = served => by,
    };
    tally.end(by);
}

/// Finds out what the client speaks, and speaks TLS with it if it is that. What goes wrong is recorded, and
/// told as far as TLS has words for it.
async fn establish(
    gate: &Rc<Gate>,
    client: TcpStream,
    early: &[u8],
    destination: &Destination,
) -> Result<Spoken, EndedBy> {
    let hello = match opening(&client, early, destination, &gate.limits).await {
        Ok(Opening::Hello(hello)) => hello,
        Ok(Opening::Http(first)) => return Ok(Spoken::Http(Replay::new(first.into(), client))),
        Err(Screened::Closed) => return Err(EndedBy::Client),
        Err(Screened::Failed) => return Err(EndedBy::Error),
        Err(Screened::Refused(reason, detail)) => {
            destination.fail(gate, reason, detail);
            close_after(&client, &ACCESS_DENIED).await;
            return Err(EndedBy::Gate);
        }
    };
    match accept::handshake(gate, client, hello, destination).await {
        Ok(stream) => Ok(Spoken::Tls(Box::new(stream))),
        Err((reason, detail)) => {
            destination.fail(gate, reason, detail);
            Err(EndedBy::Client)
        }
    }
}

/// Serves what is within. Ends when the gate drains, and not before every request is on record.
async fn serve(gate: &Rc<Gate>, spoken: Spoken, permit: &Permit) -> EndedBy {
    let trace = Rc::new(Trace::new());
    let tunnel = |door| {
        Rc::new(Tunnel {
            gate: Rc::clone(gate),
            destination: permit.destination().clone(),
            lease: Rc::clone(permit.lease()),
            trace: Rc::clone(&trace),
            door,
        })
    };
    let stream = match spoken {
        Spoken::Http(stream) => return http1::serve(&tunnel(Transport::Forward), stream).await,
        Spoken::Tls(stream) => *stream,
    };
    let tunnel = tunnel(Transport::Inspected);
    let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(leaf::ALPN_H2);
    let stream = Traced::new(stream, Rc::clone(&trace));
    let by = if speaks_h2 {
        http2::serve(&tunnel, stream).await
    } else {
        http1::serve(&tunnel, stream).await
    };
    // Some clients look at the certificate only once the handshake is over.
    if let Some(detail) = tunnel.trace.rejected() {
        let reason = DenyReason::ClientTlsFailed;
        tunnel.destination.fail(gate, reason, detail);
    }
    by
}

/// Says a last word within TLS, ends TLS and the connection, and reads on for a moment: closing a
/// socket with unread bytes would reset it, and the word with it.
async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin, word: &[u8]) {
    let said = async {
        stream.write_all(word).await?;
        stream.shutdown().await?;
        let mut chunk = [0; 1024];
        while stream.read(&mut chunk).await? > 0 {}
        std::io::Result::Ok(())
    };
    // The client's loss, if it does not listen.
    drop(timeout(LAST_WORD, said).await);
}

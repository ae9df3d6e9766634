//! TLS inspection: where the policy says `inspect`, a tunnel's TLS ends here and every request in it
//! is judged by itself.
//!
//! Owns: the session's certificate authority and the leaves under it, the client's half of the TLS
//! connection, HTTP/1.1 and HTTP/2 within it. Trusts: nothing from the jail. Never: dials by itself
//! (each inner request goes through `authorize` to `upstream`), writes a key anywhere, answers for a
//! name other than the one that was permitted.
//!
//! One tunnel walks: [`accept`] (screen the `ClientHello`, then a certificate from [`leaf`] under
//! [`authority`]) → [`http1`] or [`http2`] by ALPN → [`request`] (one inner request, strictly read) →
//! [`exchange`] (authorize, then the origin or [`websocket`]).
//!
//! Each inner request has a number of its own in the log, because those of one HTTP/2 connection run
//! side by side; what is wrong with the tunnel itself is recorded under the tunnel's number.

mod accept;
mod authority;
mod exchange;
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
use crate::policy::DenyReason;

use super::authorize::{Destination, Permit};
use super::listen::close_after;
use super::open::Lease;
use super::screen::Screened;
use super::state::Gate;
use super::tally::Tally;
use super::tunnel::ACCESS_DENIED;

#[cfg(test)]
pub(super) use http2::SEND_BUFFER as CLIENT_SEND_BUFFER;
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
}

/// Terminates TLS of a tunnel that was permitted with `Handling::Inspect`, and serves what is in it to
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
            Ok(stream) => serve(gate, stream, &permit).await,
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

/// TLS with the client; what goes wrong is recorded, and told as far as TLS has words for it.
async fn establish(
    gate: &Rc<Gate>,
    client: TcpStream,
    early: &[u8],
    destination: &Destination,
) -> Result<TlsStream<Replay<TcpStream>>, EndedBy> {
    let hello = match accept::screened(gate, &client, early, destination).await {
        Ok(hello) => hello,
        Err(Screened::Closed) => return Err(EndedBy::Client),
        Err(Screened::Failed) => return Err(EndedBy::Error),
        Err(Screened::Refused(reason, detail)) => {
            destination.fail(gate, reason, detail);
            close_after(&client, &ACCESS_DENIED).await;
            return Err(EndedBy::Gate);
        }
    };
    let accepted = accept::handshake(gate, client, hello, destination).await;
    accepted.map_err(|(reason, detail)| {
        destination.fail(gate, reason, detail);
        EndedBy::Client
    })
}

/// Serves what is within. Ends when the gate drains, and not before every request is on record.
async fn serve(gate: &Rc<Gate>, stream: TlsStream<Replay<TcpStream>>, permit: &Permit) -> EndedBy {
    let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(leaf::ALPN_H2);
    let trace = Rc::new(Trace::new());
    let stream = Traced::new(stream, Rc::clone(&trace));
    let tunnel = Rc::new(Tunnel {
        gate: Rc::clone(gate),
        destination: permit.destination().clone(),
        lease: Rc::clone(permit.lease()),
        trace,
    });
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

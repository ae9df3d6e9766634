//! A client that has said all it has to say, and may still listen: RFC 9112 section 9.6 has a client close
//! its side right after its request. A client that has left sends the very same FIN.
//!
//! So the end of what a client sends is held back while it is being answered. For [`PATIENCE`] nothing tells
//! the two apart; what is written to a client that has left comes back as a reset, at once, because it is on
//! the same machine. Whoever has got bytes since, without a reset, still listens.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// How long a client that has closed its side is waited for before its answer begins: while somebody is
/// asked, while a destination is resolved and dialed, and until the origin answers. Clients in wide use
/// never close their side: an end is nearly always a client that was stopped, and what runs on its behalf
/// should not run long.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked at whether a client that closed its side has reset the connection since.
const LOOK: Duration = Duration::from_secs(1);

/// A stream with a client's socket beneath it.
pub(super) trait Peer {
    /// The socket.
    fn socket(&self) -> &TcpStream;
}

impl Peer for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

/// The end of what a client sends, held back.
#[derive(Debug)]
pub(super) struct HeldEnd {
    since: Instant,
    /// Fires when to look again.
    look: Pin<Box<Sleep>>,
}

impl HeldEnd {
    /// Held from now on.
    pub(super) fn new() -> Self {
        let since = Instant::now();
        Self {
            since,
            look: Box::pin(sleep_until(since + LOOK)),
        }
    }

    /// Ready once the client is taken for gone. `active`: when a byte last moved on its connection.
    pub(super) fn poll_gone(
        &mut self,
        context: &mut Context<'_>,
        socket: &TcpStream,
        active: Instant,
    ) -> Poll<()> {
        loop {
            ready!(self.look.as_mut().poll(context));
            let waited = active <= self.since && self.since.elapsed() >= PATIENCE;
            if waited || is_reset(socket) {
                return Poll::Ready(());
            }
            self.look.as_mut().reset(Instant::now() + LOOK);
        }
    }
}

/// Whether the client has reset the connection.
fn is_reset(socket: &TcpStream) -> bool {
    !matches!(socket.take_error(), Ok(None))
}

/// Resolves once the client has closed its side without a word and is taken for gone. For doors that have
/// nothing to write before they are waited for.
pub(super) async fn until_gone(socket: &TcpStream) {
    match socket.peek(&mut [0]).await {
        Ok(0) => {}
        Err(_) => return,
        // It sends before it may: whether it still listens shows when it is written to.
        Ok(_) => return std::future::pending().await,
    }
    let since = Instant::now();
    while since.elapsed() < PATIENCE && !is_reset(socket) {
        sleep(LOOK).await;
    }
}

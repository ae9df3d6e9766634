//! Accepts connections, numbers them, holds their number at the limit. The listening sockets were made
//! inside the jail's network namespace, so only the jail can connect to them.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::policy::{DenyReason, Transport};

use super::authorize::Refusal;
use super::relay::{finish, send_all};
use super::state::Gate;
use super::witness::Attributed;
use super::{http, respond, socks5, transparent};

/// Connections over the limit that are being told so; more than that are closed unheard.
const TURNED_AWAY: usize = 16;

/// After a failed accept(2), most likely for want of descriptors: busy waiting would not help.
const BACK_OFF: Duration = Duration::from_millis(100);

/// For a client to read its last answer.
const LAST_WORD: Duration = Duration::from_secs(1);

/// For connections to record their end when the gate drains.
const DRAIN: Duration = Duration::from_secs(2);

/// Which protocol a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// HTTP requests and CONNECT.
    Http,
    /// SOCKS5.
    Socks5,
    /// Whatever a program says to a destination of its own choice.
    Transparent,
}

/// Places for connections; one for all listeners of a gate.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    taken: Cell<usize>,
    /// Those over the limit that are being told so.
    turned_away: Cell<usize>,
    /// Whether the present burst over the limit is on record.
    recorded: Cell<bool>,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: Cell::new(0),
            turned_away: Cell::new(0),
            recorded: Cell::new(false),
        }
    }

    /// A place for what is no connection of the jail's but costs as much.
    pub(super) fn take_one(places: &Rc<Self>) -> Option<Place> {
        Place::take(places, Kind::Served)
    }
}

/// A place that is taken until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Rc<Places>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Served,
    TurnedAway,
}

impl Place {
    fn take(places: &Rc<Places>, kind: Kind) -> Option<Self> {
        let (count, limit) = match kind {
            Kind::Served => (&places.taken, places.limit),
            Kind::TurnedAway => (&places.turned_away, TURNED_AWAY),
        };
        if count.get() >= limit {
            return None;
        }
        count.set(count.get() + 1);
        Some(Self {
            places: Rc::clone(places),
            kind,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let count = match self.kind {
            Kind::Served => &self.places.taken,
            Kind::TurnedAway => &self.places.turned_away,
        };
        count.set(count.get().saturating_sub(1));
    }
}

/// Accepts until the gate drains, then waits for the connections to end.
pub(super) async fn accept(gate: Rc<Gate>, listener: TcpListener, door: Door, places: Rc<Places>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gate.until_stopping() => break,
        };
        // Ended tasks are let go here, so that their number is bounded by the open ones.
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(accepted) => admit(&gate, accepted, door, &places, &mut connections),
            Err(error) if is_of_the_connection(&error) => {}
            Err(_) => sleep(BACK_OFF).await,
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN, ended).await.is_err() {
        // Dropping a connection records its end.
        connections.shutdown().await;
    }
}

/// accept(2) reports errors of the new connection, not of the listener.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn admit(
    gate: &Rc<Gate>,
    (stream, client): (TcpStream, SocketAddr),
    door: Door,
    places: &Rc<Places>,
    connections: &mut JoinSet<()>,
) {
    // Small answers must not wait for an acknowledgement; a socket that fails here fails later.
    drop(stream.set_nodelay(true));
    let gate = Rc::clone(gate);
    if let Some(place) = Place::take(places, Kind::Served) {
        places.recorded.set(false);
        let id = gate.next_conn();
        // Asked for now, so that the answer comes while the request is read.
        let attributed = Attributed::accepted(&gate, id, &stream, client);
        connections.spawn_local(async move {
            match door {
                Door::Http => http::serve(gate, stream, id, None).await,
                Door::Socks5 => socks5::serve(gate, stream, id).await,
                Door::Transparent => transparent::serve(gate, stream, id).await,
            }
            drop((attributed, place));
        });
        return;
    }
    if let Some(place) = Place::take(places, Kind::TurnedAway) {
        let places = Rc::clone(places);
        connections.spawn_local(async move {
            record_burst(&gate, (&stream, client), door, &places).await;
            turn_away(&stream, door).await;
            drop(place);
        });
    }
}

/// Records the first refusal since a place was last free.
async fn record_burst(
    gate: &Rc<Gate>,
    (stream, client): (&TcpStream, SocketAddr),
    door: Door,
    places: &Places,
) {
    if places.recorded.replace(true) {
        return;
    }
    let transport = match door {
        Door::Http => Transport::Forward,
        Door::Socks5 => Transport::Socks5,
        Door::Transparent => Transport::Transparent,
    };
    let reason = DenyReason::TooManyConnections;
    let detail = format!("{} connections are open, the session's limit", places.limit);
    let id = gate.next_conn();
    let _attributed = Attributed::accepted(gate, id, stream, client);
    // What the client is told does not depend on the record.
    drop(Refusal::unreadable(gate, id, transport, reason, detail).await);
}

/// Tells a client that it is one too many, whatever it wanted.
async fn turn_away(stream: &TcpStream, door: Door) {
    match door {
        Door::Http => {
            let reason = DenyReason::TooManyConnections;
            let refusal = Refusal {
                reason,
                host: None,
                port: None,
                rule: None,
                detail: None,
            };
            let status = respond::status(reason);
            close_after(stream, &respond::refuse_raw(&refusal, status)).await;
        }
        // No acceptable method (RFC 1928 section 3) is all that can be said this early.
        Door::Socks5 => close_after(stream, &[5, 0xff]).await,
        Door::Transparent => transparent::reset(stream),
    }
}

/// Says a last word and closes. What the client still sends is read for a moment: closing a socket
/// with unread bytes resets the connection (RFC 1122 section 4.2.2.13), and the word with it.
pub(super) async fn close_after(stream: &TcpStream, word: &[u8]) {
    let said = async {
        send_all(stream, word).await?;
        finish(stream)?;
        let mut chunk = [0; 1024];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    // The client's loss, if it does not listen.
    drop(timeout(LAST_WORD, said).await);
}

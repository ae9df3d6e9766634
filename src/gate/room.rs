//! How much of what HTTP/2 carries may be in memory, in all connections of one gate together. HTTP/1.1
//! holds one buffer a connection; HTTP/2 holds one a stream, and whoever plays both the client and the
//! origin may open thousands and read none of them.
//!
//! Owns: the size of every window, and the count of the bytes that were given to the library to send.
//! Trusts: that the library keeps to its windows. Never: drops a byte; who finds no room waits.
//!
//! The worst case is `tests::worst_case`: at most 256 MiB with the connections that a profile permits
//! unless it says otherwise, and about 0.7 MiB more for each further one. Heads are not in it: they are
//! bounded one by one, and by the number of streams.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The window that every connection has: RFC 9113 section 6.9.2 gives it from the first byte on, and
/// knows no way to make it smaller.
const NARROW: u32 = 65_535;

/// What all windows together may have beyond that.
const WIDE: usize = 12 << 20;

/// One connection gets no larger part of what is left of it: the tenth is still no beggar.
const PART: usize = 3;

/// A stream's part of its connection's window: so many that nobody reads leave the others without.
const STREAMS_A_WINDOW: u32 = 4;

/// Bytes under way in one direction: given to the library, and not written out.
const UNDER_WAY: u32 = 12 << 20;

/// The longest piece of content that is given to the library at once: its longest frame.
const PIECE: u32 = 16 << 10;

/// What a piece counts for at least: the library keeps this much about it.
const LEAST: u32 = 512;

/// What one gate has.
#[derive(Debug)]
pub(super) struct Room {
    /// Left of [`WIDE`].
    wide: Rc<Cell<usize>>,
    /// Requests' content on its way to origins.
    pub(super) up: UnderWay,
    /// Answers' content on its way to clients.
    pub(super) down: UnderWay,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            wide: Rc::new(Cell::new(WIDE)),
            up: UnderWay::new(UNDER_WAY),
            down: UnderWay::new(UNDER_WAY),
        }
    }
}

impl Room {
    /// Whether nothing is held.
    #[cfg(test)]
    pub(super) fn is_free(&self) -> bool {
        let free = |way: &UnderWay| way.0.available_permits() == UNDER_WAY as usize;
        self.wide.get() == WIDE && free(&self.up) && free(&self.down)
    }

    /// For one more connection: at most `most` bytes that the other side may send unread.
    pub(super) fn window(&self, most: u32) -> Window {
        let left = self.wide.get();
        let wished = usize::try_from(most.saturating_sub(NARROW)).unwrap_or(usize::MAX);
        let beyond = wished.min(left / PART);
        self.wide.set(left - beyond);
        Window {
            wide: Rc::clone(&self.wide),
            beyond,
        }
    }
}

/// The window of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Window {
    wide: Rc<Cell<usize>>,
    beyond: usize,
}

impl Window {
    /// Of the connection, in bytes.
    pub(super) fn of_connection(&self) -> u32 {
        NARROW.saturating_add(u32::try_from(self.beyond).unwrap_or(u32::MAX))
    }

    /// Of each of its streams, in bytes.
    pub(super) fn of_stream(&self) -> u32 {
        self.of_connection().div_ceil(STREAMS_A_WINDOW)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.wide.set(self.wide.get() + self.beyond);
    }
}

/// Counts what is under way in one direction.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Semaphore>);

impl UnderWay {
    fn new(bytes: u32) -> Self {
        let permits = usize::try_from(bytes).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(
            permits.min(Semaphore::MAX_PERMITS),
        )))
    }

    /// For one body.
    pub(super) fn lane(&self) -> Lane {
        Lane {
            room: Some(Arc::clone(&self.0)),
            ..Lane::default()
        }
    }
}

/// Who waits for room.
type Waiting = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>>>>;

/// One body's way into the library.
#[derive(Default)]
pub(super) struct Lane {
    /// `None`: HTTP/1.1, where nothing is counted.
    room: Option<Arc<Semaphore>>,
    waiting: Option<Waiting>,
    /// Room for one piece.
    ready: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

impl Lane {
    /// The longest piece that may be [carried](Self::carry).
    pub(super) fn longest(&self) -> usize {
        match self.room {
            Some(_) => usize::try_from(PIECE).unwrap_or(usize::MAX),
            None => usize::MAX,
        }
    }

    /// Waits for room for one piece; first come, first served.
    pub(super) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(room) = &self.room else {
            return Poll::Ready(());
        };
        if self.ready.is_some() {
            return Poll::Ready(());
        }
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            none => {
                let room = Arc::clone(room);
                if let Ok(permit) = Arc::clone(&room).try_acquire_many_owned(PIECE) {
                    self.ready = Some(permit);
                    return Poll::Ready(());
                }
                none.insert(Box::pin(async move {
                    // It is never closed.
                    room.acquire_many_owned(PIECE).await.ok()
                }))
            }
        };
        self.ready = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(())
    }

    /// Nothing came to be carried: others may have the room.
    pub(super) fn rest(&mut self) {
        self.ready = None;
    }

    /// Counts a piece until the library lets go of it.
    pub(super) fn carry(&mut self, piece: Bytes) -> Bytes {
        let Some(mut permit) = self.ready.take() else {
            return piece;
        };
        let size = piece.len().max(usize::try_from(LEAST).unwrap_or_default());
        match permit.split(size) {
            Some(counted) => Bytes::from_owner(Counted {
                piece,
                _permit: counted,
            }),
            // Longer than `longest`, a mistake of ours: then as much as there is.
            None => Bytes::from_owner(Counted {
                piece,
                _permit: permit,
            }),
        }
    }
}

/// A piece under way.
struct Counted {
    piece: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::gate::mitm::CLIENT_SEND_BUFFER;
    use crate::gate::upstream::places;
    use crate::policy::NetworkLimits;

    const MIB: usize = 1 << 20;

    /// Bytes that HTTP/2 holds at most, in clients' connections and those to origins.
    fn worst_case(clients: usize) -> usize {
        let origins = places(clients);
        let windows = (clients + origins) * NARROW as usize + WIDE;
        // The library keeps up to 256 bytes about each frame. It takes shorter frames only as long as those
        // which wait cost no more than half the window; so at worst there is content, as much about it, and
        // that half.
        let received = windows * 5 / 2;
        // Both directions; then what became a WebSocket, whose bytes no body carries.
        let sent = 2 * UNDER_WAY as usize + origins * CLIENT_SEND_BUFFER;
        received + sent
    }

    #[test]
    fn all_of_http2_stays_below_a_quarter_of_a_gibibyte() {
        let clients = NetworkLimits::default().connections as usize;
        let most = worst_case(clients);
        assert!(most <= 256 * MIB, "{} MiB", most / MIB);
        let each = worst_case(clients + 1) - most;
        assert!(each < MIB * 3 / 4, "{each} bytes for one more connection");
    }

    #[test]
    fn the_first_window_is_wide_and_no_number_of_them_uses_more_than_there_is() {
        let room = Room::default();
        let most: u32 = 4 << 20;
        let mut windows: Vec<Window> = (0..2000).map(|_| room.window(most)).collect();
        assert_eq!(windows[0].of_connection(), most);
        assert_eq!(windows[0].of_stream(), 1 << 20);
        assert!(windows[3].of_stream() >= 256 << 10, "{windows:?}");
        let sum: usize = windows.iter().map(|w| w.of_connection() as usize).sum();
        assert!(sum <= windows.len() * NARROW as usize + WIDE, "{sum}");
        assert_eq!(windows.pop().unwrap().of_connection(), NARROW);
        // What is closed makes room.
        drop(windows);
        assert_eq!(room.wide.get(), WIDE);
        assert_eq!(room.window(most).of_connection(), most);
    }

    #[test]
    fn whoever_finds_no_room_waits_until_a_piece_is_let_go_of() {
        let way = UnderWay::new(2 * PIECE);
        let mut context = Context::from_waker(Waker::noop());
        let piece = || Bytes::from(vec![7; PIECE as usize]);
        let [mut first, mut second] = [way.lane(), way.lane()];
        let mut under_way = Vec::new();
        for _ in 0..2 {
            assert!(first.poll_ready(&mut context).is_ready());
            under_way.push(first.carry(piece()));
        }
        assert!(first.poll_ready(&mut context).is_pending());
        assert!(second.poll_ready(&mut context).is_pending());
        assert_eq!(under_way.pop(), Some(piece()));
        // First come, first served.
        assert!(second.poll_ready(&mut context).is_pending());
        assert!(first.poll_ready(&mut context).is_ready());
        // Nothing came to be carried.
        first.rest();
        assert!(second.poll_ready(&mut context).is_ready());
        // What a short piece does not need is free at once, but for what it costs to know of it.
        let short = second.carry(Bytes::from_static(b"x"));
        assert_eq!(way.0.available_permits(), (PIECE - LEAST) as usize);
        drop((short, under_way));
        assert_eq!(way.0.available_permits(), 2 * PIECE as usize);
    }

    #[test]
    fn http1_is_not_counted() {
        let mut lane = Lane::default();
        let mut context = Context::from_waker(Waker::noop());
        assert!(lane.poll_ready(&mut context).is_ready());
        assert_eq!(lane.longest(), usize::MAX);
        assert_eq!(lane.carry(Bytes::from_static(b"x")), "x");
    }
}

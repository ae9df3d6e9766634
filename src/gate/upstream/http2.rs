//! HTTP/2 over a fresh connection (RFC 9113): a session whose streams are shared by requests. Its end is
//! ours to choose: once nobody holds it, every task of it ends, whatever it waits for.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::gate::body::Uploaded;
use crate::gate::leg::Leg;
use crate::gate::state::Gate;

use super::MAX_ORIGIN_HEAD;
use super::pool::{KEEP_SESSION, Place};

/// Bytes of one answer that wait for their client. Must exceed bandwidth times delay of a good line.
const STREAM_WINDOW: u32 = 1 << 20;

/// The same of all answers of one session.
const SESSION_WINDOW: u32 = 4 << 20;

/// Bytes of one request's content that wait for the origin.
const SEND_BUFFER: usize = 256 << 10;

/// Streams that we gave up and whose last frames may still come; the origin decides how many there are.
const MAX_RESET_STREAMS: usize = 64;

/// Errors of the origin, each ending one stream, before the session ends.
const MAX_STREAM_ERRORS: usize = 64;

type Driven = Connection<TokioIo<TlsStream<Leg>>, Uploaded, Tasks>;

/// A connection while somebody drives it.
type Slot = Rc<RefCell<Option<Pin<Box<Driven>>>>>;

/// Empties the slot when its driver ends: without the connection, and only then, the sender knows that
/// nothing more is taken.
struct Emptied(Slot);

impl Drop for Emptied {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// One connection, shared.
pub(super) struct Session {
    sender: SendRequest<Uploaded>,
    /// Empty once it has ended.
    connection: Slot,
    /// Requests under way.
    streams: Cell<usize>,
    /// When it will have been unused for too long.
    idle_until: Cell<Instant>,
    /// Its tasks end when this is dropped.
    _alive: watch::Sender<()>,
    _place: Place,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = self.streams.get();
        f.debug_struct("Session")
            .field("streams", &streams)
            .finish_non_exhaustive()
    }
}

/// Shakes hands; `None`: the origin chose HTTP/2 and does not speak it.
pub(super) async fn open(gate: &Gate, stream: TlsStream<Leg>, place: Place) -> Option<Rc<Session>> {
    let alive = watch::Sender::new(());
    let tasks = Tasks {
        alive: alive.subscribe(),
        closing: gate.pool.closing(),
    };
    let mut builder = Builder::new(tasks.clone());
    builder
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(SESSION_WINDOW)
        .max_header_list_size(u32::try_from(MAX_ORIGIN_HEAD).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_STREAM_ERRORS);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.ok()?;
    let connection = Rc::new(RefCell::new(Some(Box::pin(connection))));
    let driven = Emptied(Rc::clone(&connection));
    tasks.execute(async move {
        poll_fn(|context| match driven.0.borrow_mut().as_mut() {
            Some(connection) => connection.as_mut().poll(context).map(drop),
            None => Poll::Ready(()),
        })
        .await;
    });
    Some(Rc::new(Session {
        sender,
        connection,
        streams: Cell::new(0),
        idle_until: Cell::new(Instant::now() + KEEP_SESSION),
        _alive: alive,
        _place: place,
    }))
}

impl Session {
    /// One more request.
    pub(super) fn stream(self: &Rc<Self>) -> Stream {
        self.streams.set(self.streams.get() + 1);
        Stream {
            sender: self.sender.clone(),
            session: Rc::clone(self),
        }
    }

    /// Whether it takes requests at all.
    pub(super) fn is_good(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Requests under way.
    pub(super) fn streams(&self) -> usize {
        self.streams.get()
    }

    /// Whether the origin takes one more stream now.
    pub(super) fn has_room(&self) -> bool {
        let most = |driven: &Pin<Box<Driven>>| driven.current_max_send_streams();
        self.connection
            .borrow()
            .as_ref()
            .is_some_and(|driven| self.streams.get() < most(driven))
    }

    /// When it will have been unused for too long; `None`: it is in use.
    pub(super) fn idle_until(&self) -> Option<Instant> {
        (self.streams.get() == 0).then(|| self.idle_until.get())
    }
}

/// A request's part of a session.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) sender: SendRequest<Uploaded>,
    session: Rc<Session>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let session = &self.session;
        session.streams.set(session.streams.get().saturating_sub(1));
        session.idle_until.set(Instant::now() + KEEP_SESSION);
    }
}

/// Runs what hyper splits a session into.
#[derive(Debug, Clone)]
struct Tasks {
    alive: watch::Receiver<()>,
    closing: watch::Receiver<bool>,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut this = self.clone();
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = task => {}
                // Nothing is ever sent: this is the sender's end.
                dropped = this.alive.changed() => drop(dropped),
                closed = this.closing.wait_for(|closing| *closing) => drop(closed),
            }
        });
    }
}

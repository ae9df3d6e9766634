//! Connections to origins that stand: idle ones of HTTP/1.1, each for one request at a time, and
//! sessions of HTTP/2, shared by requests. For the same host, port and kind (TLS or not), within this
//! gate only. There is no cache of responses.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::gate::authorize::Destination;
use crate::gate::body::Uploaded;
use crate::gate::state::Gate;
use crate::gate::via::Forwarder;
use crate::policy::{Host, Port, Transport};

use super::choices::Choices;
use super::http2::{Session, Stream};

/// Idle connections kept in all; the oldest makes room.
const MAX_IDLE: usize = 64;

/// How long an idle connection of HTTP/1.1 is kept. Below the 5 seconds after which common servers
/// close, so that a request seldom meets a connection that is being closed.
const KEEP_IDLE: Duration = Duration::from_secs(4);

/// How long an idle session of HTTP/2 is kept. Below the minute or more after which common servers
/// close; they announce it (GOAWAY), so that a request seldom meets a session that is being closed.
pub(super) const KEEP_SESSION: Duration = Duration::from_secs(30);

/// Sessions with one origin. More than one only where it takes fewer streams than there are requests.
const MAX_SESSIONS: usize = 4;

/// Connections to origins for each client's: one client may have many requests at once over HTTP/2.
/// Must fit the descriptors that [`crate::gate::confine`] asks for.
const PER_CLIENT: usize = 4;

/// For the origin's connection to come back from its last exchange.
const GRACE: Duration = Duration::from_millis(100);

/// For the tasks of every connection to end.
const CLOSING: Duration = Duration::from_secs(1);

/// A connection of HTTP/1.1.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<Uploaded>,
    /// The proxy that is at its end in the origin's place and gets every request in absolute-form.
    pub(super) forwarder: Option<Rc<Forwarder>>,
}

/// What a connection counts against while it is open.
pub(super) type Place = Rc<OwnedSemaphorePermit>;

/// Whom a connection is with. A plain connection is never used for what was judged to be secure, nor
/// the other way round.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    host: Host,
    port: Port,
    pub(super) secure: bool,
}

impl From<&Destination> for Key {
    fn from(destination: &Destination) -> Self {
        Self {
            host: destination.host.clone(),
            port: destination.port,
            secure: destination.transport == Transport::Inspected,
        }
    }
}

/// Something to send a request over.
#[derive(Debug)]
pub(super) enum Lane {
    /// A connection that carries nothing else meanwhile.
    Http1(Http1),
    /// A stream of a session.
    Http2(Stream),
}

/// Connections that stand.
#[derive(Debug)]
pub(in crate::gate) struct Pool {
    idle: RefCell<HashMap<Key, Vec<(Instant, Http1)>>>,
    sessions: RefCell<HashMap<Key, Vec<Rc<Session>>>>,
    /// What origins chose to speak.
    pub(super) choices: Rc<Choices>,
    /// Bounds the open connections.
    places: Arc<Semaphore>,
    /// How often everything was let go of.
    epoch: Cell<u64>,
    /// Whether a task is waiting to close them.
    reaping: Cell<bool>,
    /// True once every connection must end.
    closing: watch::Sender<bool>,
}

/// A connection in use that can be kept afterwards.
#[derive(Debug)]
pub(in crate::gate) struct Reusable {
    /// `None`: nobody else uses it, whatever becomes of it.
    key: Option<Key>,
    lane: Lane,
    epoch: u64,
}

impl Reusable {
    pub(super) fn new(key: Key, lane: Lane, epoch: u64) -> Self {
        let key = Some(key);
        Self { key, lane, epoch }
    }

    /// Not reusable after all.
    pub(super) fn once(connection: Http1) -> Self {
        Self {
            key: None,
            lane: Lane::Http1(connection),
            epoch: 0,
        }
    }

    /// Whether what comes over it may end with trailers that a client can be given.
    pub(in crate::gate) fn has_trailers(&self) -> bool {
        matches!(self.lane, Lane::Http2(_))
    }

    /// Keeps the connection for the next request to the same place.
    pub(in crate::gate) fn keep(self, gate: &Rc<Gate>) {
        // A session is in the pool while it is good: dropping the stream leaves it there.
        let (Some(key), Lane::Http1(connection)) = (self.key, self.lane) else {
            return;
        };
        let pool = &gate.pool;
        if connection.sender.is_closed() || *gate.stopping.borrow() || self.epoch != pool.epoch() {
            return;
        }
        pool.make_room();
        let entry = (Instant::now() + KEEP_IDLE, connection);
        pool.idle.borrow_mut().entry(key).or_default().push(entry);
        pool.start_reaping(gate);
    }
}

impl Pool {
    /// For this many clients.
    pub(in crate::gate) fn new(clients: usize) -> Self {
        let places = clients.saturating_mul(PER_CLIENT).saturating_add(MAX_IDLE);
        Self {
            idle: RefCell::default(),
            sessions: RefCell::default(),
            choices: Rc::default(),
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            epoch: Cell::new(1),
            reaping: Cell::new(false),
            closing: watch::Sender::new(false),
        }
    }

    /// A place for a new connection; `None`: none became free in this time.
    pub(super) async fn place(&self, limit: Duration) -> Option<Place> {
        let acquired = timeout(limit, Arc::clone(&self.places).acquire_owned());
        acquired.await.ok()?.ok().map(Rc::new)
    }

    /// A connection that stands, while it is good.
    pub(super) async fn take(&self, key: &Key) -> Option<Lane> {
        if let Some(stream) = self.stream(key) {
            return Some(Lane::Http2(stream));
        }
        loop {
            // The one that was used last.
            let (_, mut connection) = {
                let mut idle = self.idle.borrow_mut();
                let taken = idle.get_mut(key)?.pop();
                if idle.get(key).is_some_and(Vec::is_empty) {
                    idle.remove(key);
                }
                taken?
            };
            if matches!(timeout(GRACE, connection.sender.ready()).await, Ok(Ok(()))) {
                return Some(Lane::Http1(connection));
            }
        }
    }

    /// A stream of a session that takes one more, or of the one with the fewest where no further
    /// session may be opened.
    fn stream(&self, key: &Key) -> Option<Stream> {
        let mut sessions = self.sessions.borrow_mut();
        let with = sessions.get_mut(key)?;
        with.retain(|session| session.is_good());
        if with.is_empty() {
            sessions.remove(key);
            return None;
        }
        let free = with.iter().find(|session| session.has_room());
        let busy = || {
            let full = with.len() >= MAX_SESSIONS;
            let least = with.iter().min_by_key(|session| session.streams());
            least.filter(|_| full)
        };
        free.or_else(busy).map(Session::stream)
    }

    /// Shares a new session from now on.
    pub(super) fn share(gate: &Rc<Gate>, key: &Key, session: &Rc<Session>, epoch: u64) {
        let pool = &gate.pool;
        pool.choices.forget(key);
        if epoch != pool.epoch() {
            return;
        }
        pool.make_room();
        let mut sessions = pool.sessions.borrow_mut();
        let with = sessions.entry(key.clone()).or_default();
        with.push(Rc::clone(session));
        drop(sessions);
        pool.start_reaping(gate);
    }

    /// Tells the tasks of connections when to end.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Changes when everything is let go of: what was dialed before is not for requests that come after.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// Lets go of every connection: those in use go on to the end of their requests.
    pub(in crate::gate) fn clear(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.idle.borrow_mut().clear();
        self.sessions.borrow_mut().clear();
    }

    /// Closes everything, and waits until its tasks have let go of it.
    pub(in crate::gate) async fn close(&self) {
        self.clear();
        self.closing.send_replace(true);
        drop(timeout(CLOSING, self.closing.closed()).await);
    }

    fn make_room(&self) {
        let mut idle = self.idle.borrow_mut();
        let mut sessions = self.sessions.borrow_mut();
        let unused = sessions
            .values()
            .flatten()
            .filter(|session| session.streams() == 0)
            .count();
        if idle.values().map(Vec::len).sum::<usize>() + unused < MAX_IDLE {
            return;
        }
        let oldest = idle
            .iter()
            .filter_map(|(key, entries)| Some((entries.first()?.0, key.clone())))
            .min_by_key(|(expires, _)| *expires);
        if let Some((_, key)) = oldest {
            if let Some(entries) = idle.get_mut(&key) {
                entries.remove(0);
                if entries.is_empty() {
                    idle.remove(&key);
                }
            }
            return;
        }
        let oldest = sessions
            .iter()
            .flat_map(|(key, with)| with.iter().map(move |session| (key, session)))
            .filter_map(|(key, session)| Some((session.idle_until()?, key.clone())))
            .min_by_key(|(expires, _)| *expires);
        if let Some((expires, key)) = oldest
            && let Some(with) = sessions.get_mut(&key)
        {
            with.retain(|session| session.idle_until() != Some(expires));
            if with.is_empty() {
                sessions.remove(&key);
            }
        }
    }

    fn start_reaping(&self, gate: &Rc<Gate>) {
        if !self.reaping.replace(true) {
            let gate = Rc::clone(gate);
            tokio::task::spawn_local(async move { gate.pool.reap().await });
        }
    }

    /// Closes connections as their time comes; ends when none is left.
    async fn reap(&self) {
        while let Some(next) = self.expire() {
            sleep_until(next).await;
        }
        self.reaping.set(false);
    }

    /// Drops what has expired; answers when to look again.
    fn expire(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        for entries in idle.values_mut() {
            entries
                .retain(|(expires, connection)| *expires > now && !connection.sender.is_closed());
        }
        idle.retain(|_, entries| !entries.is_empty());
        let mut sessions = self.sessions.borrow_mut();
        for with in sessions.values_mut() {
            with.retain(|session| {
                session.is_good() && session.idle_until().is_none_or(|expires| expires > now)
            });
        }
        sessions.retain(|_, with| !with.is_empty());
        let connections = idle.values().flatten().map(|(expires, _)| *expires);
        let sessions = sessions
            .values()
            .flatten()
            .map(|session| session.idle_until().unwrap_or(now + KEEP_SESSION));
        connections.chain(sessions).min()
    }
}

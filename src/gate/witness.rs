//! Whom the gate asks which process of the jail made a connection: the witness, a process beside the session's
//! ([`crate::wire::witness`]).
//!
//! Owns: what is known of who made each connection that is open. It is asked for when the connection is accepted, so
//! that the answer comes while the request is read, and waited for before the first record, no longer than
//! [`PATIENCE`] after the question. Trusts: the witness, for no more than the words of a record. Never: decides by it,
//! or lets a connection wait for long.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;
use std::rc::{Rc, Weak};

use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::keyring::Keyring;
use super::placeholder;
use crate::audit::process::{Process, ProcessUnknown};
use crate::ids::ConnId;
use crate::wire::frame;
use crate::wire::supply::{Deliveries, only};
use crate::wire::witness::{Asked, Introduction, MAX_TOLD, Maker, PATIENCE, Protocol, Told};

use super::state::Gate;

/// Questions without an answer; of more connections nobody is asked.
const UNANSWERED: usize = 16 << 10;

/// Who made a connection, as records have it.
#[derive(Debug, Clone, Default)]
pub(super) enum By {
    /// No session has said whom to ask.
    #[default]
    Untold,
    /// This process.
    Process(Rc<Process>),
    /// Nobody can be named.
    Unknown(ProcessUnknown),
}

impl By {
    /// The two fields of a record, without the session's own credentials: a process that found one may have it in its
    /// command line.
    pub(super) fn fields(
        &self,
        keyring: &Keyring,
    ) -> (Option<Box<Process>>, Option<ProcessUnknown>) {
        match self {
            Self::Untold => (None, None),
            Self::Process(process) => {
                let mut process = Box::new(Process::clone(process));
                for text in process.texts_mut() {
                    if placeholder::find(keyring.values(), text.as_bytes()).is_some() {
                        let bytes = std::mem::take(text).into_bytes();
                        let (clean, _) = placeholder::scrub(keyring.values(), bytes);
                        *text = String::from_utf8_lossy(&clean).into_owned();
                    }
                }
                (Some(process), None)
            }
            Self::Unknown(why) => (None, Some(*why)),
        }
    }
}

/// One question.
#[derive(Debug)]
pub(super) struct Inquiry {
    since: Instant,
    answer: watch::Sender<Option<By>>,
}

impl Inquiry {
    fn new(answer: Option<By>) -> Rc<Self> {
        Rc::new(Self {
            since: Instant::now(),
            answer: watch::Sender::new(answer),
        })
    }

    /// The answer, waited for as long as there is time. One that comes later is for later records.
    pub(super) async fn answer(&self) -> By {
        let mut answer = self.answer.subscribe();
        let come = timeout_at(self.since + PATIENCE, answer.wait_for(Option::is_some));
        let come = come.await.ok().and_then(Result::ok);
        let come = come.and_then(|come| come.as_ref().cloned());
        come.unwrap_or(By::Unknown(ProcessUnknown::Timeout))
    }
}

/// The way to the witness.
#[derive(Debug, Default, Clone)]
enum Lane {
    /// No session has spoken of one.
    #[default]
    Untold,
    /// This is it.
    Open(Rc<UnixStream>),
    /// There is none, or none any more.
    Lost,
}

/// Who is asked, and what is known.
#[derive(Debug, Default)]
pub(super) struct Witness {
    lane: RefCell<Lane>,
    /// Those that are waited for, by the number of the question.
    unanswered: RefCell<HashMap<u64, Weak<Inquiry>>>,
    /// Those of open connections.
    connections: RefCell<HashMap<ConnId, Rc<Inquiry>>>,
    last: Cell<u64>,
    /// There is another lane.
    met: Notify,
}

impl Witness {
    /// Whom to ask from now on; `None`: nobody can be. To be called within a runtime, the first time before anything is
    /// accepted.
    pub(super) fn meet(&self, channel: Option<OwnedFd>) {
        let lane = channel.and_then(|channel| asynchronous(channel).ok());
        let lane = lane.map_or(Lane::Lost, |lane| Lane::Open(Rc::new(lane)));
        // Nobody answers what the one before was asked.
        self.lose();
        self.lane.replace(lane);
        self.met.notify_one();
    }

    /// Takes answers, of one witness after the other.
    pub(super) async fn run(&self) -> Infallible {
        loop {
            let lane = self.lane.borrow().clone();
            if let Lane::Open(lane) = lane {
                let mut hearing = pin!(self.hear(&lane));
                while self.has(&lane) {
                    tokio::select! {
                        // Whatever ended it, it is of no use any more.
                        _ended = &mut hearing => {
                            if self.has(&lane) {
                                self.lose();
                            }
                            break;
                        }
                        () = self.met.notified() => {}
                    }
                }
            } else {
                self.met.notified().await;
            }
        }
    }

    /// Whether this is the way to the witness.
    fn has(&self, lane: &Rc<UnixStream>) -> bool {
        matches!(&*self.lane.borrow(), Lane::Open(open) if Rc::ptr_eq(open, lane))
    }

    /// Meets whom the session introduces, until it is gone or says what does not belong here.
    pub(super) async fn be_introduced(&self, session: OwnedFd) {
        let Ok(session) = asynchronous(session) else {
            return;
        };
        let mut introductions = Deliveries::default();
        while session.readable().await.is_ok() {
            let next = session.try_io(Interest::READABLE, || match introductions.next(&session) {
                Ok(Some(introduced)) => Ok(introduced),
                Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => Err(io::Error::other(error)),
            });
            match next {
                Ok((Introduction::Witness, fds)) => self.meet(only(fds)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    async fn hear(&self, lane: &UnixStream) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            lane.readable().await?;
            let got = match lane.try_read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            buffer.extend_from_slice(chunk.get(..got).unwrap_or_default());
            while let Some(told) = next(&mut buffer)? {
                self.take(told);
            }
        }
    }

    fn take(&self, Told { id, maker }: Told) {
        let asked = self.unanswered.borrow_mut().remove(&id);
        // A connection that is over does not need it any more.
        if let Some(inquiry) = asked.and_then(|asked| asked.upgrade()) {
            inquiry.answer.send_replace(Some(match maker {
                Maker::Process(process) => By::Process(Rc::from(process)),
                Maker::Unknown(why) => By::Unknown(why),
            }));
        }
    }

    fn lose(&self) {
        self.lane.replace(Lane::Lost);
        let unanswered = self.unanswered.take();
        for inquiry in unanswered.values().filter_map(Weak::upgrade) {
            let lost = By::Unknown(ProcessUnknown::NoWitness);
            inquiry.answer.send_replace(Some(lost));
        }
    }

    /// Asks whose the socket with these addresses is; does not wait.
    pub(super) fn ask(
        &self,
        protocol: Protocol,
        client: SocketAddr,
        server: Option<SocketAddr>,
    ) -> Rc<Inquiry> {
        let known = |why| Inquiry::new(Some(By::Unknown(why)));
        let lane = match self.lane.borrow().clone() {
            Lane::Untold => return Inquiry::new(Some(By::Untold)),
            Lane::Lost => return known(ProcessUnknown::NoWitness),
            Lane::Open(lane) => lane,
        };
        let Some(server) = server else {
            return known(ProcessUnknown::Gone);
        };
        let mut unanswered = self.unanswered.borrow_mut();
        if unanswered.len() >= UNANSWERED {
            return known(ProcessUnknown::Timeout);
        }
        let id = self.last.get().wrapping_add(1);
        self.last.set(id);
        let asked = Asked {
            id,
            protocol,
            client,
            server,
        };
        let Ok(frame) = frame::encode(&asked) else {
            return known(ProcessUnknown::Failed);
        };
        match lane.try_write(&frame) {
            Ok(sent) if sent == frame.len() => {
                let inquiry = Inquiry::new(None);
                unanswered.insert(id, Rc::downgrade(&inquiry));
                inquiry
            }
            // So much waits there that nobody would wait for the answer.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                known(ProcessUnknown::Timeout)
            }
            // Gone, or half a question is on its way, and the rest would have to wait.
            Ok(_) | Err(_) => {
                drop(unanswered);
                self.lose();
                known(ProcessUnknown::NoWitness)
            }
        }
    }

    /// Who made this connection, as far as it is known in time.
    pub(super) async fn by(&self, conn: ConnId) -> By {
        let inquiry = self.connections.borrow().get(&conn).cloned();
        if let Some(inquiry) = inquiry {
            return inquiry.answer().await;
        }
        match *self.lane.borrow() {
            Lane::Untold => By::Untold,
            // What is told of it comes after its end.
            Lane::Open(_) | Lane::Lost => By::Unknown(ProcessUnknown::Gone),
        }
    }
}

/// What is known of who made one connection, for as long as that is open.
#[derive(Debug)]
pub(super) struct Attributed {
    gate: Rc<Gate>,
    conn: ConnId,
}

impl Attributed {
    /// A connection that was accepted from this address.
    pub(super) fn accepted(
        gate: &Rc<Gate>,
        conn: ConnId,
        stream: &TcpStream,
        client: SocketAddr,
    ) -> Self {
        let inquiry = gate
            .witness
            .ask(Protocol::Tcp, client, stream.local_addr().ok());
        Self::with(gate, conn, inquiry)
    }

    /// A datagram that came from this address to that one.
    pub(super) fn received(
        gate: &Rc<Gate>,
        conn: ConnId,
        client: SocketAddr,
        server: SocketAddr,
    ) -> Self {
        let inquiry = gate.witness.ask(Protocol::Udp, client, Some(server));
        Self::with(gate, conn, inquiry)
    }

    /// What came through another connection, and has a number of its own.
    pub(super) fn through(gate: &Rc<Gate>, conn: ConnId, other: ConnId) -> Self {
        let other = gate.witness.connections.borrow().get(&other).cloned();
        let gone = || Inquiry::new(Some(By::Unknown(ProcessUnknown::Gone)));
        Self::with(gate, conn, other.unwrap_or_else(gone))
    }

    fn with(gate: &Rc<Gate>, conn: ConnId, inquiry: Rc<Inquiry>) -> Self {
        gate.witness.connections.borrow_mut().insert(conn, inquiry);
        Self {
            gate: Rc::clone(gate),
            conn,
        }
    }
}

impl Drop for Attributed {
    fn drop(&mut self) {
        let mut connections = self.gate.witness.connections.borrow_mut();
        connections.remove(&self.conn);
    }
}

/// To be called within a runtime.
fn asynchronous(channel: OwnedFd) -> io::Result<UnixStream> {
    let channel = StdUnixStream::from(channel);
    channel.set_nonblocking(true)?;
    UnixStream::from_std(channel)
}

/// Takes one whole frame from the front of the buffer.
fn next(buffer: &mut Vec<u8>) -> io::Result<Option<Told>> {
    let Some(header) = buffer.first_chunk() else {
        return Ok(None);
    };
    let length = frame::body_length(*header).map_err(io::Error::other)?;
    if length > MAX_TOLD {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let Some(body) = buffer.get(4..4 + length) else {
        return Ok(None);
    };
    let told = frame::decode(body).map_err(io::Error::other)?;
    buffer.drain(..4 + length);
    Ok(Some(told))
}

//! Datagrams through SOCKS5 (RFC 1928 section 7): one relay socket in the jail for all associations, one
//! connected socket outside for each destination of an association.
//!
//! Owns: which client address belongs to which association, and the end of both. Trusts: of a datagram
//! nothing. Never: sends one whose destination was not decided, recorded and checked as any connection
//! is; reassembles fragments; keeps an association without its control connection.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::audit::EndedBy;
use crate::ids::ConnId;
use crate::policy::{DenyReason, EgressRequest, Host, Port, Transport};

use super::authorize::{Refusal, authorize};
use super::budget::Seen;
use super::dial::dial_datagrams;
use super::listen::{Place, Places};
use super::relay::Direction;
use super::socks5_datagram::{self, Datagram};
use super::state::{CHUNK, Gate};
use super::tally::Tally;
use super::witness::Attributed;

/// Destinations of one association at once.
const MAX_DESTINATIONS: usize = 64;

/// Datagrams that wait for one association, and for one destination while it is decided and resolved.
/// The network loses datagrams; so does a full queue.
const QUEUE: usize = 32;

/// Without a datagram in either direction, a destination's socket is closed. RFC 4787 section 4.3 asks
/// network translators for 2 minutes; nothing behind a proxy relies on that.
const IDLE: Duration = Duration::from_mins(1);

/// A refused destination is not judged again for so long, whatever is sent there.
const REFUSED: Duration = Duration::from_secs(5);

/// Sources without an association that are recorded.
const MAX_STRANGERS: usize = 32;

/// The relay of one gate.
#[derive(Debug)]
pub(super) struct Relay {
    socket: UdpSocket,
    /// What clients are told: the socket's address in the jail.
    bound: SocketAddr,
    places: Rc<Places>,
    /// In the order in which they were asked for.
    associations: RefCell<Vec<Entry>>,
    strangers: RefCell<HashSet<SocketAddr>>,
}

/// What the relay knows of an association.
#[derive(Debug)]
struct Entry {
    id: ConnId,
    /// Its client; `None` until its first datagram, when the request did not say.
    client: Rc<Cell<Option<SocketAddr>>>,
    datagrams: mpsc::Sender<Result<Datagram, &'static str>>,
}

impl Relay {
    pub(super) fn new(socket: UdpSocket, port: u16, places: Rc<Places>) -> Self {
        Self {
            socket,
            bound: (Ipv4Addr::LOCALHOST, port).into(),
            places,
            associations: RefCell::default(),
            strangers: RefCell::default(),
        }
    }

    /// Where clients send their datagrams.
    pub(super) fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Hands datagrams to their associations until the gate drains.
    pub(super) async fn run(&self, gate: &Rc<Gate>) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let received = tokio::select! {
                received = self.socket.recv_from(&mut buffer) => received,
                () = gate.until_stopping() => return,
            };
            match received {
                Ok((length, source)) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    self.hand_over(gate, source, bytes).await;
                }
                // An earlier answer could not be delivered (ICMP): of no interest to anybody else.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    async fn hand_over(&self, gate: &Rc<Gate>, source: SocketAddr, bytes: &[u8]) {
        if let Some(datagrams) = self.association_of(source) {
            // A full queue loses the datagram, as a full network does.
            datagrams.try_send(socks5_datagram::read(bytes)).ok();
            return;
        }
        let new = {
            let mut strangers = self.strangers.borrow_mut();
            strangers.len() < MAX_STRANGERS && strangers.insert(source)
        };
        if new {
            let detail = format!("a datagram from {source}, which no SOCKS5 connection stands for");
            let id = gate.next_conn();
            let _attributed = Attributed::received(gate, id, source, self.bound);
            refuse(gate, id, DenyReason::Malformed, detail).await;
        }
    }

    /// The association of a source: that which has it, else the oldest that has none yet.
    fn association_of(
        &self,
        source: SocketAddr,
    ) -> Option<mpsc::Sender<Result<Datagram, &'static str>>> {
        let associations = self.associations.borrow();
        let own = |entry: &&Entry| entry.client.get() == Some(source);
        let open = |entry: &&Entry| entry.client.get().is_none();
        let entry = associations
            .iter()
            .find(own)
            .or_else(|| associations.iter().find(open))?;
        entry.client.set(Some(source));
        Some(entry.datagrams.clone())
    }

    /// Makes an association; `None` if another one has this client.
    pub(super) fn associate(
        self: &Rc<Self>,
        id: ConnId,
        client: Option<SocketAddr>,
    ) -> Option<Association> {
        let mut associations = self.associations.borrow_mut();
        let taken = |entry: &Entry| entry.client.get() == client;
        if client.is_some() && associations.iter().any(taken) {
            return None;
        }
        let (sender, datagrams) = mpsc::channel(QUEUE);
        let client = Rc::new(Cell::new(client));
        associations.push(Entry {
            id,
            client: Rc::clone(&client),
            datagrams: sender,
        });
        Some(Association {
            relay: Rc::clone(self),
            id,
            client,
            datagrams,
            faulty: false,
            full: false,
        })
    }
}

/// The client's side of datagrams, for as long as its control connection stands.
#[derive(Debug)]
pub(super) struct Association {
    relay: Rc<Relay>,
    id: ConnId,
    client: Rc<Cell<Option<SocketAddr>>>,
    datagrams: mpsc::Receiver<Result<Datagram, &'static str>>,
    /// Whether a datagram that is none is on record.
    faulty: bool,
    /// Whether one too many destination is on record.
    full: bool,
}

impl Drop for Association {
    fn drop(&mut self) {
        let mut associations = self.relay.associations.borrow_mut();
        associations.retain(|entry| entry.id != self.id);
    }
}

type Destinations = HashMap<(Host, Port), mpsc::Sender<Vec<u8>>>;

impl Association {
    /// Relays until the control connection ends, the gate drains or nothing was sent for the idle limit.
    /// Then every socket of the association is closed, and its end recorded.
    pub(super) async fn run(mut self, gate: &Rc<Gate>, control: &TcpStream) {
        let mut destinations = Destinations::new();
        let mut flows = JoinSet::new();
        let mut active = Instant::now();
        loop {
            tokio::select! {
                () = until_closed(control) => return,
                () = gate.until_interrupted() => return,
                () = sleep_until(active + gate.limits.idle) => return,
                Some(ended) = flows.join_next() => {
                    if let Ok(ended) = ended {
                        destinations.remove(&ended);
                    }
                }
                Some(datagram) = self.datagrams.recv() => {
                    active = Instant::now();
                    match datagram {
                        Ok(datagram) => {
                            self.send(gate, &mut destinations, &mut flows, datagram).await;
                        }
                        Err(why) => {
                            if !std::mem::replace(&mut self.faulty, true) {
                                refuse(gate, self.id, DenyReason::Malformed, why.to_owned()).await;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Gives a datagram to its destination's flow, and starts the flow for the first one.
    async fn send(
        &mut self,
        gate: &Rc<Gate>,
        destinations: &mut Destinations,
        flows: &mut JoinSet<(Host, Port)>,
        Datagram { to, payload }: Datagram,
    ) {
        if let Some(flow) = destinations.get(&to) {
            // A full queue loses the datagram, as a full network does.
            flow.try_send(payload).ok();
            return;
        }
        let place = match self.client.get() {
            Some(client) if destinations.len() < MAX_DESTINATIONS => {
                Places::take_one(&self.relay.places).map(|place| (place, client))
            }
            _ => None,
        };
        let Some((place, client)) = place else {
            if !std::mem::replace(&mut self.full, true) {
                let detail = "one more destination for datagrams".to_owned();
                refuse(gate, self.id, DenyReason::TooManyConnections, detail).await;
            }
            return;
        };
        let (sender, payloads) = mpsc::channel(QUEUE);
        // The queue is new and empty.
        sender.try_send(payload).ok();
        let id = gate.next_conn();
        let flow = Flow {
            gate: Rc::clone(gate),
            relay: Rc::clone(&self.relay),
            id,
            _attributed: Attributed::through(gate, id, self.id),
            client,
            to: to.clone(),
            payloads,
            _place: place,
        };
        destinations.insert(to, sender);
        flows.spawn_local(flow.run());
    }
}

/// One destination of an association.
#[derive(Debug)]
struct Flow {
    gate: Rc<Gate>,
    relay: Rc<Relay>,
    id: ConnId,
    /// Whoever made the control connection.
    _attributed: Attributed,
    client: SocketAddr,
    to: (Host, Port),
    payloads: mpsc::Receiver<Vec<u8>>,
    _place: Place,
}

impl Flow {
    /// Answers with its destination when it is over.
    async fn run(mut self) -> (Host, Port) {
        if let Ok((socket, tally)) = self.open().await {
            let gate = Rc::clone(&self.gate);
            tokio::select! {
                // A permit that was taken back lets no datagram pass.
                biased;
                () = tally.until_revoked() => {}
                () = self.relay(&gate, &socket, &tally) => {}
                () = tally.idle_for(IDLE) => tally.end(EndedBy::Gate),
            }
        } else {
            // It is on record; what is sent there meanwhile is dropped with it.
            let drained = async { while self.payloads.recv().await.is_some() {} };
            timeout(REFUSED, drained).await.ok();
        }
        self.to
    }

    async fn open(&self) -> Result<(UdpSocket, Tally), Refusal> {
        let (host, port) = self.to.clone();
        let asked = EgressRequest {
            transport: Transport::Socks5Udp,
            host,
            port,
            method: None,
            path: None,
            websocket: false,
        };
        let permit = authorize(&self.gate, self.id, asked, Seen::default()).await?;
        let tally = Tally::open(&self.gate, &permit);
        let socket = dial_datagrams(&self.gate, permit, &tally).await?;
        Ok((socket, tally))
    }

    async fn relay(&mut self, gate: &Gate, socket: &UdpSocket, tally: &Tally) {
        let header = socks5_datagram::header(&self.to);
        loop {
            let moved = tokio::select! {
                payload = self.payloads.recv() => match payload {
                    Some(payload) => send(socket, &payload, tally).await,
                    None => return tally.end(EndedBy::Client),
                },
                answer = receive(gate, socket, &header) => match answer {
                    Ok(answer) => self.answer(&answer, answer.len() - header.len(), tally).await,
                    Err(error) => Err(error),
                },
            };
            match moved {
                Ok(()) => {}
                // Nobody listens there (ICMP), or it was too long: datagrams get lost.
                Err(error) if is_of_the_datagram(&error) => {}
                Err(_) => return tally.end(EndedBy::Error),
            }
        }
    }

    async fn answer(&self, answer: &[u8], payload: usize, tally: &Tally) -> io::Result<()> {
        reserve(tally, Direction::Down, payload).await?;
        // One that is too long with its header is lost, as on any link.
        if self.relay.socket.send_to(answer, self.client).await.is_ok() {
            tally.add_down(payload);
        }
        Ok(())
    }
}

async fn send(socket: &UdpSocket, payload: &[u8], tally: &Tally) -> io::Result<()> {
    reserve(tally, Direction::Up, payload.len()).await?;
    socket.send(payload).await.map(|sent| tally.add_up(sent))
}

/// Takes a whole datagram from the budgets: it cannot be sent in part.
async fn reserve(tally: &Tally, direction: Direction, mut bytes: usize) -> io::Result<()> {
    while bytes > 0 {
        let taken = tally.reserve(direction, bytes).await?;
        bytes = bytes.saturating_sub(taken);
    }
    Ok(())
}

fn is_of_the_datagram(error: &io::Error) -> bool {
    let too_long = error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error());
    too_long || error.kind() == io::ErrorKind::ConnectionRefused
}

/// The next answer of a destination behind a header, read through the buffer that all relays share.
async fn receive(gate: &Gate, socket: &UdpSocket, header: &[u8]) -> io::Result<Vec<u8>> {
    loop {
        socket.readable().await?;
        let mut buffer = gate.scratch.borrow_mut();
        match socket.try_recv(&mut buffer) {
            Ok(length) => {
                let payload = buffer.get(..length).unwrap_or_default();
                return Ok([header, payload].concat());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Resolves when the client closes its control connection. What it says there means nothing.
async fn until_closed(control: &TcpStream) {
    let mut chunk = [0; 256];
    loop {
        if control.readable().await.is_err() {
            return;
        }
        match control.try_read(&mut chunk) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Records why a datagram is dropped. Nobody is told: there is no word for it.
async fn refuse(gate: &Gate, conn: ConnId, reason: DenyReason, detail: String) {
    drop(Refusal::unreadable(gate, conn, Transport::Socks5Udp, reason, detail).await);
}

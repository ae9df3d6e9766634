//! The only place that opens a socket to the world. Takes a [`Permit`], has its addresses pinned,
//! connects to one of exactly these, or to the upstream proxy's, and has the address on record before
//! anybody gets the stream.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::audit::AuditEvent;
use crate::policy::DenyReason;
use crate::policy::upstream::authority;
use crate::wire::gate::ProxyAccess;

use super::authorize::{Destination, Permit, Refusal};
use super::leg::Leg;
use super::resolve::{self, PinnedAddrs};
use super::state::Gate;
use super::tally::Tally;
use super::via::{self, Forwarder};

/// Head start of one address over the next (RFC 8305 section 5, "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);

/// A connection to a permitted destination.
#[derive(Debug)]
pub(super) struct Outbound {
    /// The connection itself.
    pub(super) leg: Leg,
    /// Who is at its end and gets requests in absolute-form; `None`: the destination is.
    pub(super) forwarder: Option<Rc<Forwarder>>,
    /// What was permitted.
    pub(super) destination: Destination,
}

/// What a connection is dialed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    /// Any bytes, to the destination itself: a proxy is asked for a tunnel.
    Bytes,
    /// Plain requests, one after the other: an HTTP proxy gets them as they are.
    Requests,
}

/// A connection, where it leads, who is there.
type Connected = (Leg, SocketAddr, Option<Forwarder>);

/// Resolves, pins, connects (or has the upstream proxy do so), records.
pub(super) async fn dial(
    gate: &Gate,
    permit: Permit,
    tally: &Tally,
    carries: Carries,
) -> Result<Outbound, Refusal> {
    let destination = permit.destination();
    reserve(gate, destination, tally).await?;
    let proxy = gate.via.proxy_for(&gate.rules(), destination);
    let connected = timeout(gate.limits.dial, async {
        match proxy {
            Some(proxy) => by_proxy(gate, destination, proxy, carries).await,
            None => directly(gate, destination).await,
        }
    });
    let connected = tokio::select! {
        biased;
        () = tally.until_revoked() => return Err(taken_back(gate, destination, tally)),
        connected = connected => connected,
    };
    let Ok(connected) = connected else {
        let (reason, who) = match proxy {
            Some(proxy) => (
                DenyReason::UpstreamProxyFailed,
                format!("the upstream proxy {}", proxy.url.authority()),
            ),
            None => (
                DenyReason::TimedOut,
                authority(&destination.host, destination.port),
            ),
        };
        return Err(destination.fail(gate, reason, format!("{who}: no answer")));
    };
    let (leg, address, forwarder) = connected?;
    if proxy.is_none() {
        note_address(gate, &permit, address)?;
    }
    tally.connected();
    let recorded = gate.reporter.record(AuditEvent::EgressDialed {
        conn: destination.conn,
        address,
        via: proxy.map(|proxy| proxy.url.authority()),
    });
    if recorded.await.is_err() {
        let detail = "the audit writer does not answer".to_owned();
        return Err(destination.fail(gate, DenyReason::AuditUnavailable, detail));
    }
    Ok(Outbound {
        leg,
        forwarder: forwarder.map(Rc::new),
        destination: destination.clone(),
    })
}

/// Has a later policy know the address, so that it can take it back.
fn note_address(gate: &Gate, permit: &Permit, address: SocketAddr) -> Result<(), Refusal> {
    let noted = permit.lease().dialed(address.ip(), &gate.rules());
    noted.map_err(|class| {
        let detail = format!("{} is {class}, by a new policy", address.ip());
        let reason = DenyReason::AddressRefused(class);
        permit.destination().fail(gate, reason, detail)
    })
}

/// Takes the connection from the budgets, before a name is asked for.
async fn reserve(gate: &Gate, destination: &Destination, tally: &Tally) -> Result<(), Refusal> {
    let reserved = tokio::select! {
        biased;
        () = tally.until_revoked() => return Err(taken_back(gate, destination, tally)),
        reserved = tally.reserve_connection() => reserved,
    };
    if reserved {
        return Ok(());
    }
    let detail = "the budget of connections is used up".to_owned();
    Err(destination.fail(gate, DenyReason::BudgetExhausted, detail))
}

fn taken_back(gate: &Gate, destination: &Destination, tally: &Tally) -> Refusal {
    let detail = "a new policy does not permit it".to_owned();
    destination.fail(gate, tally.refused_because(), detail)
}

/// Opens a socket for datagrams to a permitted destination and to nowhere else: it is connected. An
/// upstream proxy carries none, and they do not go past it either.
pub(super) async fn dial_datagrams(
    gate: &Gate,
    permit: Permit,
    tally: &Tally,
) -> Result<UdpSocket, Refusal> {
    let destination = permit.destination();
    let who = authority(&destination.host, destination.port);
    if let Some(proxy) = gate.via.proxy_for(&gate.rules(), destination) {
        let detail = format!(
            "{who}: datagrams do not go through the upstream proxy {}",
            proxy.url.authority()
        );
        return Err(destination.fail(gate, DenyReason::UpstreamProxyFailed, detail));
    }
    reserve(gate, destination, tally).await?;
    let pinned = tokio::select! {
        biased;
        () = tally.until_revoked() => return Err(taken_back(gate, destination, tally)),
        pinned = timeout(gate.limits.dial, resolve::pin(gate, destination)) => pinned,
    };
    let Ok(pinned) = pinned else {
        return Err(destination.fail(gate, DenyReason::TimedOut, format!("{who}: no answer")));
    };
    let mut opened = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
    for address in pinned?.into_vec() {
        opened = open_datagrams(address).await;
        if opened.is_ok() {
            break;
        }
    }
    let (socket, address) = opened.map_err(|error| {
        destination.fail(gate, DenyReason::DialFailed, format!("{who}: {error}"))
    })?;
    note_address(gate, &permit, address)?;
    tally.connected();
    let recorded = gate.reporter.record(AuditEvent::EgressDialed {
        conn: destination.conn,
        address,
        via: None,
    });
    if recorded.await.is_err() {
        let detail = "the audit writer does not answer".to_owned();
        return Err(destination.fail(gate, DenyReason::AuditUnavailable, detail));
    }
    Ok(socket)
}

async fn open_datagrams(address: SocketAddr) -> io::Result<(UdpSocket, SocketAddr)> {
    let any: SocketAddr = if address.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok((socket, address))
}

async fn directly(gate: &Gate, destination: &Destination) -> Result<Connected, Refusal> {
    let pinned = resolve::pin(gate, destination).await?;
    let (stream, address) = connect_first(pinned).await.map_err(|error| {
        let who = authority(&destination.host, destination.port);
        destination.fail(gate, DenyReason::DialFailed, format!("{who}: {error}"))
    })?;
    Ok((Leg::Tcp(stream), address, None))
}

/// Connects to the proxy and has it connect to the destination, unless it gets the requests themselves.
async fn by_proxy(
    gate: &Gate,
    destination: &Destination,
    proxy: &ProxyAccess,
    carries: Carries,
) -> Result<Connected, Refusal> {
    let target = via::target(gate, destination, proxy).await?;
    let pinned = resolve::pin_proxy(gate, destination, &proxy.url).await?;
    let fail = |error: &dyn fmt::Display| {
        let detail = format!("the upstream proxy {}: {error}", proxy.url.authority());
        destination.fail(gate, DenyReason::UpstreamProxyFailed, detail)
    };
    let connected = connect_first(pinned).await;
    let (stream, address) = connected.map_err(|error| fail(&error))?;
    let secured = via::secure(stream, proxy, gate.origin_tls.as_ref()).await;
    let mut leg = secured.map_err(|error| fail(&error))?;
    let forwarder = match carries {
        Carries::Requests => via::forwarder(proxy, &target, destination),
        Carries::Bytes => None,
    };
    if forwarder.is_none() {
        let asked = via::ask(&mut leg, proxy, &target).await;
        asked.map_err(|error| fail(&error))?;
    }
    Ok((leg, address, forwarder))
}

/// Tries the addresses in order, each with a head start; the first that answers wins, the others are
/// dropped.
async fn connect_first(pinned: PinnedAddrs) -> io::Result<(TcpStream, SocketAddr)> {
    let mut rest = pinned.into_vec().into_iter();
    let mut attempts = JoinSet::new();
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        let started = match rest.next() {
            Some(address) => {
                attempts.spawn_local(connect(address));
                true
            }
            None => false,
        };
        if attempts.is_empty() {
            return Err(last_error);
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => last_error = error,
                Err(_) => {}
            },
            () = sleep(STAGGER), if started => {}
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one way out, behind a permit and a pin"
    )]
    let stream = TcpStream::connect(address).await?;
    // Else a small write waits for the acknowledgement of the one before (Nagle, delayed ACK).
    stream.set_nodelay(true)?;
    Ok((stream, address))
}

//! A tunnel: the client's first bytes are screened before any of them goes up, the rest is relayed
//! until one side, the clock or the gate ends it.

use std::rc::Rc;

use tokio::io::split;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::audit::EndedBy;
use crate::policy::{DenyReason, Handling};

use super::authorize::{Destination, Permit, Refusal};
use super::dial::{Carries, Outbound, dial};
use super::leg::Leg;
use super::listen::close_after;
use super::mitm;
use super::relay::{Direction, finish, pump, send_within};
use super::screen::{Screened, screen};
use super::state::Gate;
use super::tally::Tally;
use super::upgrade;

/// A fatal `access_denied` alert (RFC 8446 section 6.2): a TLS client can say why it failed.
pub(super) const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// A tunnel that was permitted, before its first byte.
#[derive(Debug)]
pub(super) enum Opened {
    /// The origin is dialed; bytes are relayed.
    Relay(Box<(Outbound, Tally)>),
    /// It is looked into; nothing was dialed.
    Inspect(Permit),
}

/// Dials what was permitted. Where it is looked into, only the requests within dial.
pub(super) async fn open(gate: &Rc<Gate>, permit: Permit) -> Result<Opened, Refusal> {
    if permit.destination().handling == Handling::Inspect {
        return Ok(Opened::Inspect(permit));
    }
    let tally = Tally::open(gate, &permit);
    let outbound = dial(gate, permit, &tally, Carries::Bytes).await?;
    Ok(Opened::Relay(Box::new((outbound, tally))))
}

impl Opened {
    /// Serves it to its end. The client was told that it stands; `early` came from it already.
    pub(super) async fn serve(self, gate: &Rc<Gate>, client: TcpStream, early: &[u8]) {
        match self {
            Self::Inspect(permit) => mitm::serve_tunnel(gate, client, early, permit).await,
            Self::Relay(relay) => {
                let (outbound, tally) = *relay;
                run(gate, client, early, outbound, tally).await;
            }
        }
    }
}

/// Runs a tunnel to its end. `early` came from the client already.
async fn run(
    gate: &Rc<Gate>,
    mut client: TcpStream,
    early: &[u8],
    mut outbound: Outbound,
    tally: Tally,
) {
    let destination = outbound.destination.clone();
    let relayed = tokio::select! {
        // A permit that was taken back while the origin was dialed lets no byte pass.
        biased;
        () = tally.until_revoked() => Ok(()),
        relayed = async {
            let opening = (early, &destination);
            match &mut outbound.leg {
                Leg::Tcp(origin) => both_ways(gate, &client, opening, origin, &tally).await,
                Leg::Tls(proxy) => by_tls(gate, &mut client, opening, proxy, &tally).await,
            }
        } => relayed,
        () = tally.idle_for(gate.limits.idle) => {
            tally.end(EndedBy::Gate);
            Ok(())
        }
        () = gate.until_interrupted() => {
            tally.end(EndedBy::Gate);
            Ok(())
        }
    };
    match relayed {
        Ok(()) => {}
        Err(Screened::Closed) => tally.end(EndedBy::Client),
        Err(Screened::Failed) => tally.end(EndedBy::Error),
        Err(Screened::Refused(reason, detail)) => {
            tally.end(EndedBy::Gate);
            destination.fail(gate, reason, detail);
            // The end is on record and the origin is closed before the client is waited for.
            drop((outbound, tally));
            close_after(&client, &ACCESS_DENIED).await;
        }
    }
}

/// Relays both directions until both are at their end. The server may speak first: only what the
/// client says is held back.
async fn both_ways(
    gate: &Gate,
    client: &TcpStream,
    opening: (&[u8], &Destination),
    origin: &TcpStream,
    tally: &Tally,
) -> Result<(), Screened> {
    let up = async {
        match first_bytes(gate, client, opening).await {
            Ok(first) => {
                send_within(origin, &first, tally, Direction::Up).await?;
                pump(gate, client, origin, tally, Direction::Up).await?;
            }
            Err(Screened::Closed) => finish(origin)?,
            Err(stopped) => return Err(stopped),
        }
        tally.end(EndedBy::Client);
        Ok(())
    };
    let down = async {
        pump(gate, origin, client, tally, Direction::Down).await?;
        tally.end(EndedBy::Upstream);
        Ok(())
    };
    tokio::try_join!(up, down).map(|((), ())| ())
}

/// [`both_ways`] inside TLS to an upstream proxy: by copying, and otherwise the same.
async fn by_tls(
    gate: &Gate,
    client: &mut TcpStream,
    opening: (&[u8], &Destination),
    proxy: &mut TlsStream<TcpStream>,
    tally: &Tally,
) -> Result<(), Screened> {
    let (from_client, to_client) = client.split();
    let (from_origin, mut to_origin) = split(proxy);
    let up = async {
        match first_bytes(gate, from_client.as_ref(), opening).await {
            Ok(first) => {
                upgrade::send_within(&mut to_origin, &first, tally, Direction::Up).await?;
                upgrade::pump(from_client, to_origin, tally, Direction::Up).await?;
            }
            Err(Screened::Closed) => upgrade::shut_down(to_origin).await?,
            Err(stopped) => return Err(stopped),
        }
        tally.end(EndedBy::Client);
        Ok(())
    };
    let down = async {
        upgrade::pump(from_origin, to_client, tally, Direction::Down).await?;
        tally.end(EndedBy::Upstream);
        Ok(())
    };
    tokio::try_join!(up, down).map(|((), ())| ())
}

/// The client's first bytes, once they may go up.
async fn first_bytes(
    gate: &Gate,
    client: &TcpStream,
    (early, destination): (&[u8], &Destination),
) -> Result<Vec<u8>, Screened> {
    match destination.handling {
        Handling::Tunnel => screen(client, early, destination, &gate.limits).await,
        Handling::Tcp => Ok(early.to_vec()),
        // The doors hand these to `mitm`, before anything is dialed.
        Handling::Inspect => Err(Screened::Refused(
            DenyReason::TunnelNotAllowed,
            "it would have to be inspected".to_owned(),
        )),
    }
}

//! Relays what is no socket on both sides, by copying: a connection that became something else than HTTP (an
//! open WebSocket, whose frames are not looked into), and a tunnel inside TLS to an upstream proxy. Bytes
//! are counted, and end with the gate, the log, the policy, a budget or the clock.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

use crate::audit::EndedBy;

use super::relay::Direction;
use super::state::Gate;
use super::tally::Tally;
use super::upstream::OriginStream;

/// The bytes moved by one read, in each direction.
const BUFFER: usize = 16 << 10;

/// Relays both directions until both are at their end, nothing has moved for the idle limit, the gate
/// drains or nothing can be recorded any more. Answers who ended it.
pub(super) async fn relay_upgraded(
    gate: &Gate,
    client: impl AsyncRead + AsyncWrite + Unpin,
    origin: OriginStream,
) -> EndedBy {
    let tally = origin.tally();
    let (from_client, to_client) = split(client);
    let (from_origin, to_origin) = split(origin);
    let up = async {
        pump(from_client, to_origin, &tally, Direction::Up).await?;
        tally.end(EndedBy::Client);
        Ok::<_, io::Error>(())
    };
    let down = async {
        pump(from_origin, to_client, &tally, Direction::Down).await?;
        tally.end(EndedBy::Upstream);
        Ok(())
    };
    tokio::select! {
        // A permit that was taken back lets no byte pass.
        biased;
        () = tally.until_revoked() => {}
        relayed = async { tokio::try_join!(up, down) } => {
            if relayed.is_err() {
                tally.end(EndedBy::Error);
            }
        }
        () = tally.idle_for(gate.limits.idle) => tally.end(EndedBy::Gate),
        () = gate.until_interrupted() => tally.end(EndedBy::Gate),
    }
    tally.ended_by()
}

/// Relays one direction to its end, and hands that on.
pub(super) async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    tally: &Tally,
    direction: Direction,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let got = match from.read(&mut buffer).await {
            Ok(got) => got,
            // TLS without its close_notify: what is inside says by itself whether it is whole, as over TCP.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        if got == 0 {
            return shut_down(to).await;
        }
        let bytes = buffer.get(..got).unwrap_or_default();
        send_within(&mut to, bytes, tally, direction).await?;
    }
}

/// Sends every byte for which the budgets have room, and counts it. An error when one is used up.
pub(super) async fn send_within(
    mut to: impl AsyncWrite + Unpin,
    mut bytes: &[u8],
    tally: &Tally,
    direction: Direction,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let taken = tally.reserve(direction, bytes.len()).await?;
        let (now, later) = bytes.split_at(taken.min(bytes.len()));
        to.write_all(now).await?;
        to.flush().await?;
        direction.count(tally, now.len());
        bytes = later;
    }
    Ok(())
}

/// Tells the far side that no more is coming.
pub(super) async fn shut_down(mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    match to.shutdown().await {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        ended => ended,
    }
}

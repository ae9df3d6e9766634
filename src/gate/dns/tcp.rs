//! DNS over TCP (RFC 7766): questions one after the other, each with its length before it.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::gate::state::Gate;
use crate::gate::witness::Inquiry;
use crate::wire::witness::Protocol;

use super::{Pace, answer};

/// Connections at once; one more is closed unheard.
const CONNECTIONS: usize = 16;

/// After a failed accept(2), most likely for want of descriptors.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Answers until the gate drains.
pub(in crate::gate) async fn serve(gate: Rc<Gate>, listener: TcpListener, pace: Rc<Pace>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gate.until_stopping() => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, client)) if connections.len() < CONNECTIONS => {
                let inquiry = gate
                    .witness
                    .ask(Protocol::Tcp, client, stream.local_addr().ok());
                let (gate, pace) = (Rc::clone(&gate), Rc::clone(&pace));
                // However it ends, what was asked and answered is on record.
                connections.spawn_local(async move {
                    drop(converse(&gate, stream, &pace, &inquiry).await);
                });
            }
            Ok(_) => pace.drop_one(&gate),
            Err(_) => sleep(BACK_OFF).await,
        }
    }
    connections.shutdown().await;
}

/// Answers one client until it leaves, is silent for too long or asks too much.
async fn converse(
    gate: &Gate,
    mut stream: TcpStream,
    pace: &Pace,
    inquiry: &Inquiry,
) -> io::Result<()> {
    loop {
        let asked = timeout(gate.limits.head, read(&mut stream)).await??;
        if !pace.take() {
            pace.drop_one(gate);
            return Ok(());
        }
        let Some(answer) = answer(gate, &asked, inquiry).await else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [length.to_be_bytes().as_slice(), &answer].concat();
        timeout(gate.limits.head, stream.write_all(&framed)).await??;
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

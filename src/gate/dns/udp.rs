//! DNS over UDP. A question that there is no room for is dropped, as a network would.

use std::rc::Rc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::gate::state::Gate;
use crate::wire::witness::Protocol;

use super::{AT_ONCE, Pace, answer};

/// The longest question that is read whole: what is longer is cut, and so malformed or another name. No
/// client sends more than 512 bytes (RFC 1035 section 2.3.4) but with padding.
const LONGEST: usize = 1500;

/// After a failed receive: busy waiting would not help.
const BACK_OFF: Duration = Duration::from_millis(10);

/// Answers until the gate drains.
pub(in crate::gate) async fn serve(gate: Rc<Gate>, socket: UdpSocket, pace: Rc<Pace>) {
    let socket = Rc::new(socket);
    let mut answering = JoinSet::new();
    let mut buffer = [0; LONGEST];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = gate.until_stopping() => break,
        };
        // Ended tasks are let go here, so that their number is bounded.
        while answering.try_join_next().is_some() {}
        let Ok((length, asker)) = received else {
            sleep(BACK_OFF).await;
            continue;
        };
        if answering.len() >= AT_ONCE || !pace.take() {
            pace.drop_one(&gate);
            continue;
        }
        let question = buffer.get(..length).unwrap_or_default().to_vec();
        let (gate, socket) = (Rc::clone(&gate), Rc::clone(&socket));
        // A program may close its socket as soon as it has asked.
        let inquiry = gate
            .witness
            .ask(Protocol::Udp, asker, socket.local_addr().ok());
        answering.spawn_local(async move {
            if let Some(answer) = answer(&gate, &question, &inquiry).await {
                // An asker that has gone away is no fault of ours.
                drop(socket.send_to(&answer, asker).await);
            }
        });
    }
    answering.shutdown().await;
    pace.record(&gate);
}

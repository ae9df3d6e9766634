//! The supply channel: what the starter gives a gate, first the memory and a lane to the audit writer, later
//! another lane when that writer is another. Trusts the starter. A channel that is closed changes nothing
//! but that nothing is replaced any more.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::wire::supply::{Deliveries, GateSupply, only};
use crate::wire::{Channel, WireError};

use super::report::Reporter;

/// What a gate begins with.
#[derive(Debug)]
pub(super) struct First {
    /// The memory of the session's gates.
    pub(super) memory: File,
    /// The file of the host's requirements, where the starter brings one.
    pub(super) terms: Option<OwnedFd>,
    /// The audit channel.
    pub(super) lane: StdUnixStream,
}

/// Waits for it.
pub(super) fn first(supply: &Channel) -> Result<First, WireError> {
    let wrong = |wanted: GateSupply, got: &GateSupply| -> WireError {
        let wrong = format!("expected {wanted:?} with a descriptor, got {got:?}");
        io::Error::other(wrong).into()
    };
    let next = || supply.recv_with::<GateSupply>();
    let received = next()?;
    let memory = only(received.fds)
        .filter(|_| received.message == GateSupply::Memory)
        .ok_or_else(|| wrong(GateSupply::Memory, &received.message))?;
    let mut received = next()?;
    let mut terms = None;
    if received.message == GateSupply::Terms {
        terms = received.fds.pop();
        received = next()?;
    }
    let lane = only(received.fds)
        .filter(|_| received.message == GateSupply::Lane)
        .ok_or_else(|| wrong(GateSupply::Lane, &received.message))?;
    Ok(First {
        memory: File::from(memory),
        terms,
        lane: StdUnixStream::from(lane),
    })
}

/// Ready to be waited for. To be called within a runtime.
pub(super) fn asynchronous(supply: Channel) -> io::Result<UnixStream> {
    let stream = supply.into_stream();
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Takes the lanes of later writers, until the starter is gone.
pub(super) async fn serve(supply: UnixStream, reporter: &Reporter) {
    let mut deliveries = Deliveries::default();
    while supply.readable().await.is_ok() {
        let next = supply.try_io(Interest::READABLE, || {
            match deliveries.next::<GateSupply>(&supply) {
                Ok(Some(delivered)) => Ok(delivered),
                Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => Err(io::Error::other(error)),
            }
        });
        match next {
            Ok((GateSupply::Lane, fds)) => {
                let lane = only(fds).map(StdUnixStream::from);
                let lane = lane.and_then(|lane| {
                    lane.set_nonblocking(true).ok()?;
                    UnixStream::from_std(lane).ok()
                });
                if let Some(lane) = lane {
                    reporter.replace(lane);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Gone, or it says what does not belong here.
            Ok((GateSupply::Memory | GateSupply::Terms, _)) | Err(_) => break,
        }
    }
    reporter.will_not_be_replaced();
}

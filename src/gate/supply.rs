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

/// What a gate begins with: the memory of the session's gates, and its audit channel.
pub(super) fn first(supply: &Channel) -> Result<(File, StdUnixStream), WireError> {
    let memory = expect(supply, &GateSupply::Memory)?;
    let lane = expect(supply, &GateSupply::Lane)?;
    Ok((File::from(memory), StdUnixStream::from(lane)))
}

fn expect(supply: &Channel, wanted: &GateSupply) -> Result<OwnedFd, WireError> {
    let received = supply.recv_with::<GateSupply>()?;
    let fd = only(received.fds).filter(|_| received.message == *wanted);
    fd.ok_or_else(|| {
        let wrong = format!("expected {wanted:?} with a descriptor, got {:?}", received.message);
        io::Error::other(wrong).into()
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
            Ok((GateSupply::Memory, _)) | Err(_) => break,
        }
    }
    reporter.will_not_be_replaced();
}

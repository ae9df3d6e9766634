//! The control channel while the gate serves: commands of the session one way, answers and what the
//! session is told unasked the other. Trusts the session for what it commands; a session that does not
//! read costs no more memory than [`UNSENT`] messages. Never decides anything itself.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use crate::sys::memory;
use crate::wire::gate::{GateCommand, GateReply};
use crate::wire::{Channel, WireError, frame};

use super::live;
use super::state::Gate;

/// Messages that may wait for the session to read them.
const UNSENT: usize = 128;

/// A message was not taken: the session does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unheard;

/// What waits to be told to the session, in order.
#[derive(Debug, Default)]
pub(super) struct Control {
    queue: RefCell<VecDeque<GateReply>>,
    /// Wakes the task that writes.
    told: Notify,
    /// Wakes whoever waits for room or for the end of the queue.
    sent: Notify,
}

impl Control {
    /// Tells the session something that it did not ask for, without waiting. [`Unheard`] when too much
    /// waits already: then whoever needs an answer must do without.
    pub(super) fn tell(&self, reply: GateReply) -> Result<(), Unheard> {
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= UNSENT {
            return Err(Unheard);
        }
        queue.push_back(reply);
        self.told.notify_one();
        Ok(())
    }

    /// Answers a command: waits for room, so that commands are read no faster than answers are.
    async fn answer(&self, reply: GateReply) {
        while self.tell(reply.clone()).is_err() {
            self.sent.notified().await;
        }
    }

    /// Waits until all of it is with the kernel.
    async fn flushed(&self) {
        while !self.queue.borrow().is_empty() {
            self.sent.notified().await;
        }
    }

    /// Writes what is told, in order, until the channel fails.
    async fn write_all(&self, mut to: OwnedWriteHalf) -> Result<(), WireError> {
        loop {
            let next = self.queue.borrow().front().map(frame::encode);
            let Some(bytes) = next else {
                self.told.notified().await;
                continue;
            };
            to.write_all(&bytes?).await?;
            // Only now, so that an empty queue means that everything is written.
            self.queue.borrow_mut().pop_front();
            self.sent.notify_waiters();
        }
    }
}

/// Works through the session's commands until one ends the gate's work (`drain`); then `wind_up` is
/// awaited, and its word is the last.
pub(super) async fn serve(
    gate: &Rc<Gate>,
    channel: &Channel,
    wind_up: impl Future<Output = GateReply>,
) -> Result<(), WireError> {
    let (from, to) = asynchronous(channel)?.into_split();
    let commands = async {
        gate.control.answer(GateReply::Serving).await;
        gate.control.flushed().await;
        // What compiling the policy took.
        memory::give_back();
        until_drain(gate, from).await?;
        gate.control.answer(wind_up.await).await;
        gate.control.flushed().await;
        Ok(())
    };
    tokio::select! {
        ended = commands => ended,
        failed = gate.control.write_all(to) => failed,
    }
}

/// Carries out commands; returns at `drain`.
async fn until_drain(gate: &Rc<Gate>, mut from: OwnedReadHalf) -> Result<(), WireError> {
    loop {
        match next_command(&mut from).await? {
            GateCommand::Drain => return Ok(()),
            GateCommand::Counters => {
                let counters = gate.counters.report(gate);
                gate.control.answer(GateReply::Counters(counters)).await;
            }
            GateCommand::NoMoreRecords => gate.reporter.give_up(),
            GateCommand::Answer(answer) => gate.questions.answer(answer),
            GateCommand::Policy(policy) => {
                let applying = {
                    let gate = Rc::clone(gate);
                    // A task, so that it goes on before those whose records were acknowledged after its
                    // own: what decided after "policy.applied" must not act on the policy before.
                    tokio::task::spawn_local(async move { live::apply(&gate, &policy).await })
                };
                let applied = applying.await.unwrap_or_else(|error| {
                    GateReply::NotApplied(format!("the gate's own fault: {error}"))
                });
                gate.control.answer(applied).await;
            }
            // Their place is before.
            GateCommand::Witness | GateCommand::Serve => {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            }
        }
    }
}

fn asynchronous(control: &Channel) -> Result<UnixStream, WireError> {
    let stream = StdUnixStream::from(control.as_fd().try_clone_to_owned()?);
    stream.set_nonblocking(true)?;
    Ok(UnixStream::from_std(stream)?)
}

/// One command. Memory is taken as bytes arrive, not as the header promises.
async fn next_command(from: &mut OwnedReadHalf) -> Result<GateCommand, WireError> {
    let mut header = [0; 4];
    match from.read_exact(&mut header).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(WireError::Closed);
        }
        Err(error) => return Err(error.into()),
    }
    let length = frame::body_length(header)?;
    let mut body = Vec::new();
    from.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    frame::decode(&body)
}

//! Connections from outside to the jail's own ports, for whoever may talk to the session.
//!
//! Owns: the jail's network namespace as a descriptor, the helper that connects in it (started with the
//! first connection, or while the session may, kept until it ends), and who waits for it. Never: opens a port of the gate's,
//! or any at all before the record is kept; waits for the jail.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::super::companions::{AuditWriter, readable};
use super::super::socket::PeerId;
use super::Desk;
use crate::audit::AuditEvent;
use crate::jail::Footing;
use crate::jail::reach::{Reacher, explain};
use crate::policy::Port;
use crate::wire::reach::Reached;
use crate::wire::session::SessionReply;

/// Connections that may be on their way at once: more than 16 peers that ask one after the other need.
const MAX_WAITING: usize = 64;

/// The way into one jail.
#[derive(Debug)]
pub(in crate::session) struct Inward {
    /// portcullis-init.
    program: File,
    network: OwnedFd,
    /// Ports of the jail that are the gate's.
    gate: BTreeSet<u16>,
    helper: Option<Reacher>,
    footing: Footing,
    /// Who waits for what, in the order in which the helper was asked.
    waiting: VecDeque<(PeerId, Port)>,
}

impl Inward {
    /// The way into the jail with this network; the sockets are those that the gate gets.
    pub(in crate::session) fn new(
        program: File,
        network: OwnedFd,
        sockets: &[OwnedFd],
        footing: Footing,
    ) -> std::io::Result<Self> {
        let mut gate = BTreeSet::new();
        for socket in sockets {
            let place = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
            gate.insert(place.port());
        }
        // Where entering takes rights that the session is about to give up, it is done now.
        let helper = match footing {
            Footing::Own => None,
            Footing::Given => {
                let helper = Reacher::start(&program, &network, footing);
                Some(helper.map_err(std::io::Error::other)?)
            }
        };
        Ok(Self {
            program,
            network,
            gate,
            helper,
            footing,
            waiting: VecDeque::new(),
        })
    }

    /// What may become readable.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.helper.as_ref().map(AsFd::as_fd)
    }

    /// Why this port is not reached, whoever asks.
    fn refusal(&self, port: Port) -> Option<String> {
        if self.gate.contains(&port.number()) {
            let why = "is the gate's own, not one of the command's";
            return Some(format!("port {} of the session {why}", port.number()));
        }
        (self.waiting.len() >= MAX_WAITING)
            .then(|| format!("{MAX_WAITING} connections are on their way already; try again"))
    }

    /// Has the helper connect.
    fn order(&mut self, peer: PeerId, port: Port) -> Result<(), String> {
        if self.helper.is_none() {
            if self.footing == Footing::Given {
                return Err(
                    "portcullis-init reach: it has ended, and a session of the service has no \
                            right to start another one"
                        .to_owned(),
                );
            }
            let helper = Reacher::start(&self.program, &self.network, self.footing);
            self.helper = Some(helper.map_err(|error| error.to_string())?);
        }
        let sent = self.helper.as_ref().map(|helper| helper.order(port));
        if let Some(Err(error)) = sent {
            return Err(format!("portcullis-init reach: {error}"));
        }
        self.waiting.push_back((peer, port));
        Ok(())
    }

    /// What the helper has answered; never waits for one.
    fn answers(&mut self) -> Vec<(PeerId, Result<OwnedFd, String>)> {
        let mut answers = Vec::new();
        while let Some(helper) = &self.helper {
            if !readable([helper.as_fd()], Duration::ZERO).is_ok_and(|[ready]| ready) {
                break;
            }
            let broken = match helper.answer() {
                Ok(answer) => {
                    let outcome = match (answer.message, answer.fds.into_iter().next()) {
                        (Reached::Connected, Some(socket)) => Ok(Ok(socket)),
                        (Reached::Refused(errno), _) => Ok(Err(errno)),
                        (Reached::Connected, None) => Err("no descriptor came".to_owned()),
                        (Reached::Unable(why), _) => Err(why),
                    };
                    match (outcome, self.waiting.pop_front()) {
                        (Ok(outcome), Some((peer, port))) => {
                            answers.push((peer, outcome.map_err(|errno| explain(port, errno))));
                            continue;
                        }
                        (Err(why), waited) => {
                            self.waiting.extend(waited);
                            why
                        }
                        (Ok(_), None) => "an answer that nobody asked for".to_owned(),
                    }
                }
                Err(error) => error.to_string(),
            };
            // The next who asks starts another one.
            self.helper = None;
            let failed = |(peer, _)| (peer, Err(format!("portcullis-init reach: {broken}")));
            answers.extend(self.waiting.drain(..).map(failed));
        }
        answers
    }
}

impl Desk {
    /// From now on the jail's ports can be reached from outside.
    pub(in crate::session) fn let_in(&mut self, inward: Inward) {
        self.inward = Some(inward);
    }

    /// Somebody wants a connection to a port of the jail. It is recorded before anything connects; without
    /// a record, nothing does.
    pub(super) fn reach(&mut self, peer: PeerId, port: Port, audit: Option<&mut AuditWriter>) {
        let by = self.socket.as_ref().map(|socket| socket.name(peer));
        let by = by.unwrap_or_default();
        let outcome = match &mut self.inward {
            None => Err("it is starting".to_owned()),
            Some(inward) => match inward.refusal(port) {
                Some(why) => Err(why),
                None => recorded(audit, AuditEvent::SessionForwarded { by, port })
                    .and_then(|()| inward.order(peer, port)),
            },
        };
        if let Err(why) = outcome {
            self.reply(peer, &SessionReply::Failed(why));
        }
    }

    /// Gives the connections that were made to those who asked for them.
    pub(super) fn hand_out(&mut self) {
        let Some(inward) = &mut self.inward else {
            return;
        };
        for (peer, outcome) in inward.answers() {
            match (outcome, &mut self.socket) {
                (Ok(connection), Some(socket)) => {
                    socket.tell_with(peer, &SessionReply::Reached, &[connection.as_fd()]);
                }
                (Err(why), _) => self.reply(peer, &SessionReply::Failed(why)),
                (Ok(_), None) => {}
            }
        }
    }
}

fn recorded(audit: Option<&mut AuditWriter>, event: AuditEvent) -> Result<(), String> {
    let kept = audit.is_some_and(|audit| audit.append(event).is_ok());
    if kept {
        Ok(())
    } else {
        Err("no record can be kept, so nobody is let in".to_owned())
    }
}

//! From the first instruction to the last: one list, in [`run`].

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use crate::audit::AuditEvent;
use crate::exit::Exit;
use crate::policy::Ruleset;
use crate::secret::Secret;
use crate::sys::fd::inherit;
use crate::sys::harden::harden;
use crate::wire::gate::{CredentialValue, GateBoot, GateCommand, GateReply};
use crate::wire::{Channel, WireError};

use super::bodies::Bodies;
use super::budget::{self, Ledger};
use super::confine::{ConfineError, confine};
use super::control::{self, Control};
use super::counters::Counters;
use super::dns::{Names, Pace, serve_tcp, serve_udp};
use super::keyring::{Keyring, Unfit};
use super::listen::{Places, accept};
use super::memory::{Memory, MemoryError, Note, Recalled};
use super::mitm::{Leaves, MitmError};
use super::open::Leases;
use super::origin_tls::{OriginTls, OriginTlsError};
use super::questions::Questions;
use super::report::Reporter;
use super::resolve::Resolver;
use super::room::Room;
use super::sockets::{self, Sockets, SocketsError};
use super::socks5_udp::Relay;
use super::splice::Pipes;
use super::state::{CHUNK, Gate, Limits};
use super::summary::Summary;
use super::supply;
use super::terms::Terms;
use super::upstream::Pool;
use super::via::Via;
use super::witness::Witness;

/// The descriptor of the control channel.
const CONTROL: i32 = 3;

/// The descriptor of the supply channel.
const SUPPLY: i32 = 4;

/// For the writer to acknowledge the last records.
const LAST_RECORDS: Duration = Duration::from_secs(5);

/// Why the gate did not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("descriptor {number}: {source}; the gate is started by portcullis, not by hand")]
    Inherit {
        number: i32,
        #[source]
        source: io::Error,
    },
    #[error("control channel: {0}")]
    Control(#[from] WireError),
    #[error("supply channel: {0}")]
    Supply(#[source] WireError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("control channel: expected `serve`")]
    NotServe,
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    #[error("start the event loop: {0}")]
    Runtime(#[source] io::Error),
    #[error("name servers: {0}")]
    Resolver(#[from] hickory_resolver::net::NetError),
    #[error("requirements: {0}")]
    Terms(String),
    #[error("{0}")]
    Credentials(#[from] Unfit),
    #[error("certificate authority: {0}")]
    Authority(#[from] MitmError),
    #[error(transparent)]
    OriginTls(#[from] OriginTlsError),
    #[error("confine: {0}")]
    Confine(#[from] ConfineError),
}

/// Entry of `portcullis-gate`.
pub fn main() -> ExitCode {
    let control = match inherited(CONTROL) {
        Ok(fd) => Channel::from(fd),
        Err(_) => return Exit::Usage.into(),
    };
    match run(&control) {
        Ok(()) => Exit::Success.into(),
        // The session is gone: nobody is left to tell.
        Err(StartError::Control(WireError::Closed)) => Exit::Unavailable.into(),
        Err(error) => {
            // If the session does not hear it either, the exit code is all there is.
            drop(control.send(&GateReply::Failed(format!("gate: {error}"))));
            Exit::NotStarted.into()
        }
    }
}

fn run(control: &Channel) -> Result<(), StartError> {
    // 1. The supply channel, which came with us.
    let supply = Channel::from(inherited(SUPPLY)?);
    // 2. Everything there is to know; secrets may be among it, so nobody else may look from here on.
    harden().map_err(ConfineError::Harden)?;
    let mut boot: GateBoot = control.recv()?;
    let first = supply::first(&supply).map_err(StartError::Supply)?;
    let (memory, mut recalled) = Memory::open(first.memory)?;
    let terms = Terms::read(first.terms).map_err(StartError::Terms)?;
    boot.policy = terms.hold(&boot.policy).map_err(StartError::Terms)?;
    if let Some(policy) = &mut recalled.policy {
        // The gate before held it to the terms of its time.
        **policy = terms.hold(policy).map_err(StartError::Terms)?;
    }
    // 3. The event loop, because epoll_create1(2) and eventfd2(2) are not needed later.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(StartError::Runtime)?;
    // 4. The compiled policy and all that works by it.
    let successor = recalled.begun;
    let gate = build(&runtime, &boot, (first.lane, terms), (memory, recalled))?;
    let supply = {
        let _inside = runtime.enter();
        supply::asynchronous(supply).map_err(StartError::Runtime)?
    };
    // The gate has the values; here they are wiped.
    boot.credentials.clear();
    // 5. Confinement, before the first byte from the jail can arrive.
    confine(&gate, &boot.name_servers)?;
    let authority = gate.mitm.as_ref().map(Leaves::authority_pem);
    control.send(&GateReply::Confined { authority })?;
    // 6. Who knows the jail's processes, and the listeners, made in the jail's network namespace.
    let mut received = control.recv_with::<GateCommand>()?;
    let mut introductions = None;
    if received.message == GateCommand::Witness {
        let _inside = runtime.enter();
        let mut fds = received.fds.into_iter();
        introductions = fds.next();
        gate.witness.meet(fds.next());
        received = control.recv_with::<GateCommand>()?;
    }
    if received.message != GateCommand::Serve {
        return Err(StartError::NotServe);
    }
    let sockets = {
        let _inside = runtime.enter();
        sockets::take(&boot.policy, received.fds)?
    };
    // 7. Work, until the session drains us or is gone.
    if successor {
        // Perhaps the gate before died between noting a policy and recording it. Everything that we decide
        // stands behind this.
        let generation = gate.rules().generation().clone();
        gate.reporter.note(AuditEvent::PolicyApplied { generation });
    }
    runtime.block_on(LocalSet::new().run_until(serve(
        gate,
        sockets,
        (supply, introductions, control),
    )))
}

fn inherited(number: i32) -> Result<OwnedFd, StartError> {
    inherit(number).map_err(|source| StartError::Inherit { number, source })
}

/// The compiled policy and all that works by it. A gate that takes the place of another goes on where that
/// one was: what the session started with is as it was then, what decides is what was last in force.
pub(super) fn build(
    runtime: &Runtime,
    boot: &GateBoot,
    (audit, terms): (StdUnixStream, Terms),
    (memory, recalled): (Memory, Recalled),
) -> Result<Rc<Gate>, StartError> {
    let _inside = runtime.enter();
    audit.set_nonblocking(true).map_err(StartError::Runtime)?;
    let audit = UnixStream::from_std(audit).map_err(StartError::Runtime)?;
    let policy = &boot.policy;
    let on_failure = terms.on_failure(boot.on_failure);
    let memory = Rc::new(memory);
    let known = recalled.authority.as_ref();
    let mitm = policy.inspects().then(|| Leaves::new(known)).transpose()?;
    if !recalled.begun {
        leave(&memory, boot, mitm.as_ref());
    }
    let values = if recalled.begun {
        &recalled.credentials
    } else {
        &boot.credentials
    };
    let in_force = recalled.policy.as_deref().unwrap_or(policy);
    let limits = Limits::from(&policy.limits);
    let via = Via::new(boot.upstream.as_ref());
    let origin_tls = (policy.inspects() || via.needs_tls())
        .then(|| OriginTls::new(&boot.roots))
        .transpose()?;
    Ok(Rc::new(Gate {
        policy: RefCell::new(Rc::new(Ruleset::compile(in_force))),
        terms,
        limits,
        resolver: Resolver::new(&boot.name_servers, &boot.hosts_file, &policy.rules)?
            .spelling_out(via.names()),
        names: Names::new(Rc::clone(&memory), &recalled.names),
        via,
        relay: OnceCell::new(),
        control: Control::default(),
        questions: Questions::new(
            Duration::from_secs(boot.approval_seconds.into()),
            Rc::clone(&memory),
            &recalled,
        ),
        leases: Leases::default(),
        changes: watch::Sender::new(false),
        reachable: OnceCell::new(),
        reporter: Reporter::new(audit, on_failure),
        summary: Summary::default(),
        bodies: Bodies::new(boot.bodies.clone()),
        keyring: Keyring::new(&policy.credentials, values)?,
        pool: Pool::new(limits.connections),
        room: Room::default(),
        mitm,
        witness: Witness::default(),
        last_conn: Cell::new(recalled.conns),
        noted_conn: Cell::new(recalled.conns),
        origin_tls,
        ledger: Ledger::new(in_force, &memory, &recalled),
        memory,
        counters: Counters::default(),
        pipes: Pipes::default(),
        scratch: RefCell::new(vec![0; CHUNK].into_boxed_slice()),
        stopping: watch::Sender::new(false),
    }))
}

/// What a successor needs of what only the first gate is given or makes.
fn leave(memory: &Memory, boot: &GateBoot, mitm: Option<&Leaves>) {
    memory.keep(&Note::Begun);
    if let Some(mitm) = mitm {
        memory.keep(&Note::Authority(mitm.note()));
    }
    for known in &boot.credentials {
        memory.keep(&Note::Credential(CredentialValue {
            name: known.name.clone(),
            placeholder: known.placeholder.clone(),
            value: Secret::new(known.value.expose().clone()),
        }));
    }
}

/// Tells the session whether records are kept, whenever that changes.
async fn tell_of_records(gate: &Gate) {
    let mut states = gate.reporter.states();
    while states.changed().await.is_ok() {
        let state = states.borrow_and_update().clone();
        gate.control.tell(GateReply::Audit(state)).ok();
    }
}

/// Accepts until the session says `drain` (answered with the summary) or is gone (the end, at once).
async fn serve(
    gate: Rc<Gate>,
    sockets: Sockets,
    (supply, introductions, control): (UnixStream, Option<OwnedFd>, &Channel),
) -> Result<(), StartError> {
    let reporting = Rc::clone(&gate);
    tokio::task::spawn_local(async move { reporting.reporter.run().await });
    let supplied = Rc::clone(&gate);
    tokio::task::spawn_local(async move { supply::serve(supply, &supplied.reporter).await });
    let telling = Rc::clone(&gate);
    tokio::task::spawn_local(async move { tell_of_records(&telling).await });
    let remembering = Rc::clone(&gate);
    tokio::task::spawn_local(async move {
        remembering.memory.until_failed().await;
        remembering.reporter.give_up();
    });
    tokio::task::spawn_local(budget::serve(Rc::clone(&gate)));
    let attributing = Rc::clone(&gate);
    tokio::task::spawn_local(async move { attributing.witness.run().await });
    if let Some(introductions) = introductions {
        let meeting = Rc::clone(&gate);
        tokio::task::spawn_local(async move { meeting.witness.be_introduced(introductions).await });
    }
    let places = Rc::new(Places::new(gate.limits.connections));
    let mut accepting = JoinSet::new();
    if let Some((socket, port)) = sockets.datagrams {
        let relay = Rc::new(Relay::new(socket, port, Rc::clone(&places)));
        let (gate, running) = (Rc::clone(&gate), Rc::clone(&relay));
        gate.relay.get_or_init(|| relay);
        accepting.spawn_local(async move { running.run(&gate).await });
    }
    for (listener, door) in sockets.doors {
        accepting.spawn_local(accept(Rc::clone(&gate), listener, door, Rc::clone(&places)));
    }
    if sockets.ipv6 {
        gate.names.with_ipv6();
    }
    if let Some((udp, tcp)) = sockets.names {
        let pace = Rc::new(Pace::new());
        accepting.spawn_local(serve_udp(Rc::clone(&gate), udp, Rc::clone(&pace)));
        accepting.spawn_local(serve_tcp(Rc::clone(&gate), tcp, pace));
    }
    let wind_up = async {
        gate.stopping.send_replace(true);
        while accepting.join_next().await.is_some() {}
        gate.pool.close().await;
        // A writer that is gone or stuck does not keep the session from ending.
        drop(timeout(LAST_RECORDS, gate.reporter.settled()).await);
        GateReply::Drained(gate.summary.report(gate.ledger.crossed()))
    };
    Ok(control::serve(&gate, control, wind_up).await?)
}

//! From the first instruction to the last: one list, in [`run`].

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use crate::exit::Exit;
use crate::policy::Ruleset;
use crate::sys::fd::inherit;
use crate::wire::gate::{GateBoot, GateCommand, GateReply};
use crate::wire::{Channel, WireError};

use super::budget::{self, Ledger};
use super::confine::{ConfineError, confine};
use super::control::{self, Control};
use super::counters::Counters;
use super::listen::{Door, Places, accept};
use super::mitm::{Leaves, MitmError};
use super::open::Leases;
use super::origin_tls::{OriginTls, OriginTlsError};
use super::questions::Questions;
use super::report::Reporter;
use super::resolve::Resolver;
use super::socks5_udp::{self, Relay};
use super::state::{CHUNK, Gate, Limits};
use super::summary::Summary;
use super::upstream::Pool;
use super::via::Via;

/// The descriptor of the control channel.
const CONTROL: i32 = 3;

/// The descriptor of the audit channel.
const AUDIT: i32 = 4;

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
    #[error("control channel: expected `serve`")]
    NotServe,
    #[error("{got} listening sockets came, the policy has {expected}")]
    Listeners { got: usize, expected: usize },
    #[error("take the socket for datagrams: {0}")]
    Datagrams(#[source] io::Error),
    #[error("start the event loop: {0}")]
    Runtime(#[source] io::Error),
    #[error("name servers: {0}")]
    Resolver(#[from] hickory_resolver::net::NetError),
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
    // 1. The audit channel, which came with us.
    let audit = StdUnixStream::from(inherited(AUDIT)?);
    // 2. Everything there is to know.
    let boot: GateBoot = control.recv()?;
    // 3. The event loop, because epoll_create1(2) and eventfd2(2) are not needed later.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(StartError::Runtime)?;
    // 4. The compiled policy and all that works by it.
    let gate = build(&runtime, &boot, audit)?;
    // 5. Confinement, before the first byte from the jail can arrive.
    confine(&gate, &boot.name_servers)?;
    let authority = gate.mitm.as_ref().map(Leaves::authority_pem);
    control.send(&GateReply::Confined { authority })?;
    // 6. The listeners, made in the jail's network namespace.
    let mut received = control.recv_with::<GateCommand>()?;
    if received.message != GateCommand::Serve {
        return Err(StartError::NotServe);
    }
    let datagrams = {
        let _inside = runtime.enter();
        socks5_udp::take(&boot.policy, &mut received.fds).map_err(StartError::Datagrams)?
    };
    let datagrams = datagrams.map(|socket| (socket, boot.policy.socks_port));
    let doors = doors(&runtime, &boot, received.fds)?;
    // 7. Work, until the session drains us or is gone.
    runtime.block_on(LocalSet::new().run_until(serve(gate, doors, datagrams, control)))
}

fn inherited(number: i32) -> Result<OwnedFd, StartError> {
    inherit(number).map_err(|source| StartError::Inherit { number, source })
}

/// The compiled policy and all that works by it.
pub(super) fn build(
    runtime: &Runtime,
    boot: &GateBoot,
    audit: StdUnixStream,
) -> Result<Rc<Gate>, StartError> {
    let _inside = runtime.enter();
    audit.set_nonblocking(true).map_err(StartError::Runtime)?;
    let audit = UnixStream::from_std(audit).map_err(StartError::Runtime)?;
    let policy = &boot.policy;
    let mitm = policy.inspects().then(Leaves::new).transpose()?;
    let origin_tls = policy
        .inspects()
        .then(|| OriginTls::new(&boot.roots))
        .transpose()?;
    let limits = Limits::from(&policy.limits);
    let via = Via::new(boot.upstream.as_ref());
    Ok(Rc::new(Gate {
        policy: RefCell::new(Rc::new(Ruleset::compile(policy))),
        limits,
        resolver: Resolver::new(&boot.name_servers, &boot.hosts_file, &policy.rules)?
            .spelling_out(via.names()),
        via,
        relay: OnceCell::new(),
        control: Control::default(),
        questions: Questions::new(Duration::from_secs(boot.approval_seconds.into())),
        leases: Leases::default(),
        changes: watch::Sender::new(()),
        reachable: OnceCell::new(),
        reporter: Reporter::new(audit),
        summary: Summary::default(),
        pool: Pool::new(limits.connections),
        mitm,
        last_conn: Cell::new(0),
        origin_tls,
        ledger: Ledger::new(policy),
        counters: Counters::default(),
        scratch: RefCell::new(vec![0; CHUNK].into_boxed_slice()),
        stopping: watch::Sender::new(false),
    }))
}

/// The listeners with what they speak, in the order of the contract.
fn doors(
    runtime: &Runtime,
    boot: &GateBoot,
    sockets: Vec<OwnedFd>,
) -> Result<Vec<(TcpListener, Door)>, StartError> {
    let _inside = runtime.enter();
    let expected: &[Door] = if boot.policy.enable_socks5 {
        &[Door::Http, Door::Socks5]
    } else {
        &[Door::Http]
    };
    if sockets.len() != expected.len() {
        return Err(StartError::Listeners {
            got: sockets.len(),
            expected: expected.len(),
        });
    }
    sockets
        .into_iter()
        .zip(expected)
        .map(|(socket, door)| {
            let listener = std::net::TcpListener::from(socket);
            listener
                .set_nonblocking(true)
                .map_err(StartError::Runtime)?;
            let listener = TcpListener::from_std(listener).map_err(StartError::Runtime)?;
            Ok((listener, *door))
        })
        .collect()
}

/// Accepts until the session says `drain` (answered with the summary) or is gone (the end, at once).
async fn serve(
    gate: Rc<Gate>,
    doors: Vec<(TcpListener, Door)>,
    datagrams: Option<(UdpSocket, u16)>,
    control: &Channel,
) -> Result<(), StartError> {
    let reporting = Rc::clone(&gate);
    tokio::task::spawn_local(async move { reporting.reporter.run().await });
    tokio::task::spawn_local(budget::serve(Rc::clone(&gate)));
    let places = Rc::new(Places::new(gate.limits.connections));
    let mut accepting = JoinSet::new();
    if let Some((socket, port)) = datagrams {
        let relay = Rc::new(Relay::new(socket, port, Rc::clone(&places)));
        let (gate, running) = (Rc::clone(&gate), Rc::clone(&relay));
        gate.relay.get_or_init(|| relay);
        accepting.spawn_local(async move { running.run(&gate).await });
    }
    for (listener, door) in doors {
        accepting.spawn_local(accept(Rc::clone(&gate), listener, door, Rc::clone(&places)));
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

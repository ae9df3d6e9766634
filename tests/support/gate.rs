//! A real gate process, with the test in the place of its session and of its audit writer: the test
//! decides when a record is acknowledged.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use portcullis::audit::AuditEvent;
use portcullis::audit::http::HttpExchange;
use portcullis::policy::{
    AddressPolicy, Effect, HostPattern, NetworkLimits, NetworkPolicy, OnFailure, Port, Protocol,
    Rule, RuleId,
};
use portcullis::sys::process::Spawn;
use portcullis::wire::Channel;
use portcullis::wire::audit::{Append, AuditReply};
use portcullis::wire::gate::{
    CredentialValue, GateBoot, GateCommand, GateReply, GateSummary, UpstreamProxy,
};
use portcullis::wire::supply::GateSupply;

/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Descriptors that a gate may have at its start: what a login shell gives.
const SOFT_FILES: u32 = 256;

/// What a gate is started with.
pub(crate) struct GateSpec {
    pub(crate) policy: NetworkPolicy,
    pub(crate) name_servers: Vec<SocketAddr>,
    pub(crate) hosts_file: String,
    pub(crate) roots: String,
    pub(crate) credentials: Vec<CredentialValue>,
    pub(crate) upstream: Option<UpstreamProxy>,
    pub(crate) approval_seconds: u32,
    pub(crate) on_failure: OnFailure,
}

/// A policy that allows nothing but dialing loopback, where the test's origins are.
pub(crate) fn spec() -> GateSpec {
    GateSpec {
        policy: NetworkPolicy {
            addresses: AddressPolicy {
                allow: vec!["127.0.0.0/8".parse().unwrap()],
            },
            limits: NetworkLimits {
                connections: 64,
                head_bytes: 16 << 10,
                head_seconds: 20,
                dial_seconds: 20,
                idle_seconds: 60,
            },
            ..NetworkPolicy::default()
        },
        name_servers: Vec::new(),
        hosts_file: String::new(),
        roots: String::new(),
        credentials: Vec::new(),
        upstream: None,
        approval_seconds: 60,
        on_failure: OnFailure::Block,
    }
}

impl GateSpec {
    pub(crate) fn rule(mut self, host: &str, ports: &[u16], effect: Effect) -> Self {
        self.policy.rules.push(Rule {
            id: RuleId::new(format!("{effect:?} {host}")),
            host: HostPattern::parse(host).unwrap(),
            ports: ports.iter().map(|port| Port::new(*port).unwrap()).collect(),
            methods: Vec::new(),
            paths: Vec::new(),
            protocol: Protocol::Web,
            effect,
        });
        self
    }

    pub(crate) fn allow(self, host: &str, ports: &[u16]) -> Self {
        self.rule(host, ports, Effect::Allow)
    }

    /// A host that is permitted at this port, and is here by the host's hosts file.
    pub(crate) fn reaches(self, host: &str, port: u16) -> Self {
        self.allow(host, &[port]).host(host, "127.0.0.1")
    }

    pub(crate) fn deny(self, host: &str) -> Self {
        self.rule(host, &[], Effect::Deny)
    }

    /// A line of the host's hosts file: a name without DNS.
    pub(crate) fn host(mut self, name: &str, address: &str) -> Self {
        self.hosts_file.extend([address, " ", name, "\n"]);
        self
    }

    pub(crate) fn name_server(mut self, address: SocketAddr) -> Self {
        self.name_servers.push(address);
        self
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut NetworkLimits)) -> Self {
        change(&mut self.policy.limits);
        self
    }

    pub(crate) fn credential(mut self, value: CredentialValue) -> Self {
        self.credentials.push(value);
        self
    }

    pub(crate) fn policy(mut self, change: impl FnOnce(&mut NetworkPolicy)) -> Self {
        change(&mut self.policy);
        self
    }

    pub(crate) fn start(self) -> TestGate {
        TestGate::start(self)
    }
}

/// A running gate.
pub(crate) struct TestGate {
    pub(crate) http: SocketAddr,
    pub(crate) socks: SocketAddr,
    /// The relay's socket, where the policy has one.
    udp: Option<UdpSocket>,
    /// The certificate of the session's CA, where TLS is looked into.
    pub(crate) authority: Option<String>,
    pub(crate) audit: AuditDouble,
    pub(crate) control: Option<Channel>,
    pub(crate) child: Child,
}

impl TestGate {
    fn start(spec: GateSpec) -> Self {
        let (mut gate, listeners) = Self::start_confined(spec);
        let mut sockets: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        sockets.extend(gate.udp.as_ref().map(AsFd::as_fd));
        gate.control()
            .send_with(&GateCommand::Serve, &sockets)
            .unwrap();
        assert_eq!(gate.reply(), GateReply::Serving);
        drop(sockets);
        gate.http = listeners[0].local_addr().unwrap();
        gate.socks = listeners.last().unwrap().local_addr().unwrap();
        gate
    }

    /// Up to the point where it is confined and waits for its listeners.
    pub(crate) fn start_confined(spec: GateSpec) -> (Self, Vec<TcpListener>) {
        let inspects = spec.policy.inspects();
        let (mut gate, listeners) = Self::boot(spec);
        gate.authority = match gate.reply() {
            GateReply::Confined { authority } => authority,
            other => panic!("not confined: {other:?}"),
        };
        assert_eq!(gate.authority.is_some(), inspects);
        (gate, listeners)
    }

    /// Up to its first answer.
    fn boot(mut spec: GateSpec) -> (Self, Vec<TcpListener>) {
        // As every session does first: what cargo left open is not for children.
        portcullis::sys::fd::cloexec_from(3).unwrap();
        let (control, theirs) = Channel::pair().unwrap();
        let (supply, supply_theirs) = Channel::pair().unwrap();
        let child = Spawn::new(Path::new("/bin/sh"))
            .arg("-c")
            .arg(format!("ulimit -Sn {SOFT_FILES} && exec \"$0\""))
            .arg(env!("CARGO_BIN_EXE_portcullis-gate"))
            .inherit_stderr()
            .fd(theirs, 3)
            .fd(supply_theirs, 4)
            .start()
            .unwrap();
        let doors = if spec.policy.enable_socks5 { 2 } else { 1 };
        let listeners = (0..doors)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect();
        let udp = spec.policy.relays_datagrams().then(|| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            spec.policy.socks_port = socket.local_addr().unwrap().port();
            socket
        });
        let boot = GateBoot {
            on_failure: spec.on_failure,
            policy: spec.policy,
            name_servers: spec.name_servers,
            hosts_file: spec.hosts_file,
            roots: spec.roots,
            credentials: spec.credentials,
            upstream: spec.upstream,
            approval_seconds: spec.approval_seconds,
            bodies: portcullis::policy::BodiesPolicy::default(),
        };
        control.send(&boot).unwrap();
        let memory = portcullis::sys::fd::unnamed("gates").unwrap();
        supply
            .send_with(&GateSupply::Memory, &[memory.as_fd()])
            .unwrap();
        let audit = AuditDouble::start(supply);
        let gate = Self {
            authority: None,
            http: (Ipv4Addr::LOCALHOST, 0).into(),
            socks: (Ipv4Addr::LOCALHOST, 0).into(),
            udp,
            audit,
            control: Some(control),
            child,
        };
        (gate, listeners)
    }

    pub(crate) fn control(&self) -> &Channel {
        self.control.as_ref().unwrap()
    }

    /// The next message but those about records, which come whenever that changes.
    pub(crate) fn reply(&self) -> GateReply {
        loop {
            match self.next_message() {
                GateReply::Audit(_) => {}
                other => return other,
            }
        }
    }

    pub(crate) fn next_message(&self) -> GateReply {
        self.control().recv().unwrap()
    }

    /// Ends the session's side and answers what the gate reports.
    pub(crate) fn drain(&self) -> GateSummary {
        self.control().send(&GateCommand::Drain).unwrap();
        loop {
            match self.reply() {
                GateReply::Drained(summary) => return summary,
                // Said unasked, before it drained.
                GateReply::Question(_) | GateReply::Withdrawn(_) | GateReply::Limit(_) => {}
                other => panic!("not drained: {other:?}"),
            }
        }
    }
}

impl Drop for TestGate {
    fn drop(&mut self) {
        // A closed control channel ends the gate; killing it is for a gate that is broken.
        self.control = None;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                self.child.kill().unwrap();
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What a gate complains about that does not start with this.
pub(crate) fn failure_of(spec: GateSpec) -> String {
    let (gate, _listeners) = TestGate::boot(spec);
    match gate.reply() {
        GateReply::Failed(message) => message,
        other => panic!("it started: {other:?}"),
    }
}

/// The test in the audit writer's place.
pub(crate) struct AuditDouble(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The writer's end of the present lane.
    lane: Mutex<Arc<Channel>>,
    /// The starter's end of the supply channel.
    supply: Channel,
}

struct State {
    events: Vec<AuditEvent>,
    /// Told apart: one comes with every request that the gate can read.
    exchanges: Vec<HttpExchange>,
    unanswered: Vec<u64>,
    hold: bool,
    /// How records are answered that are not kept.
    not_kept: Option<NotKept>,
    ended: bool,
}

/// What a writer says whose disk is full.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NotKept {
    Failed,
    Held,
}

/// A new lane, whose other end goes to the gate.
fn new_lane(supply: &Channel) -> Arc<Channel> {
    let (lane, theirs) = Channel::pair().unwrap();
    // A gate that is gone needs none.
    drop(supply.send_with(&GateSupply::Lane, &[theirs.as_fd()]));
    Arc::new(lane)
}

impl AuditDouble {
    fn start(supply: Channel) -> Self {
        let lane = new_lane(&supply);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                events: Vec::new(),
                exchanges: Vec::new(),
                unanswered: Vec::new(),
                hold: false,
                not_kept: None,
                ended: false,
            }),
            changed: Condvar::new(),
            lane: Mutex::new(lane),
            supply,
        });
        let double = Self(shared);
        double.read();
        double
    }

    /// Reads the present lane to its end.
    fn read(&self) {
        let reader = Arc::clone(&self.0);
        let lane = Arc::clone(&self.0.lane.lock().unwrap());
        thread::spawn(move || {
            while let Ok(Append { id, event }) = lane.recv() {
                let mut state = reader.state.lock().unwrap();
                match event {
                    AuditEvent::HttpExchanged(exchange) => state.exchanges.push(*exchange),
                    event => state.events.push(event),
                }
                state.unanswered.push(id);
                reader.answer(&mut state);
                reader.changed.notify_all();
            }
            reader.state.lock().unwrap().ended = true;
            reader.changed.notify_all();
        });
    }

    /// The writer dies; what it had not acknowledged it never will.
    pub(crate) fn die(&self) {
        let mut state = self.lock();
        state.unanswered.clear();
        let lane = self.0.lane.lock().unwrap();
        rustix::net::shutdown(&**lane, rustix::net::Shutdown::Both).unwrap();
    }

    /// Another writer takes its place.
    pub(crate) fn come_back(&self) {
        *self.0.lane.lock().unwrap() = new_lane(&self.0.supply);
        self.read();
    }

    /// From now on records are read but not acknowledged.
    pub(crate) fn hold(&self) {
        self.lock().hold = true;
    }

    /// Acknowledges what was held, and from now on everything.
    pub(crate) fn release(&self) {
        let mut state = self.lock();
        state.hold = false;
        self.0.answer(&mut state);
    }

    /// The starter is gone: no other writer will come.
    pub(crate) fn abandon(&self) {
        rustix::net::shutdown(&self.0.supply, rustix::net::Shutdown::Both).unwrap();
    }

    /// The writer dies, and no other will come.
    pub(crate) fn close(&self) {
        self.abandon();
        self.die();
    }

    /// The disk is full from now on, and the gate is told.
    pub(crate) fn block(&self, not_kept: NotKept) {
        self.lock().not_kept = Some(not_kept);
        let error = "disk full".to_owned();
        self.tell(&AuditReply::Blocked { error });
    }

    /// The disk takes records again, and the gate is told.
    pub(crate) fn unblock(&self) {
        self.lock().not_kept = None;
        self.tell(&AuditReply::Writing);
    }

    fn tell(&self, reply: &AuditReply) {
        self.0.lane.lock().unwrap().send(reply).unwrap();
    }

    /// Answers the next records with a failure of their own.
    pub(crate) fn fail(&self) {
        let failed = AuditReply::Failed {
            id: 0,
            error: "disk full".to_owned(),
        };
        self.0.lane.lock().unwrap().send(&failed).unwrap();
    }

    /// Waits for so many `http.exchanged`, which [`AuditDouble::events`] leaves out.
    pub(crate) fn exchanges(&self, count: usize) -> Vec<HttpExchange> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.lock();
        while state.exchanges.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{:#?}", state.exchanges);
            state = self.0.changed.wait_timeout(state, left).unwrap().0;
        }
        state.exchanges.clone()
    }

    /// How many records have come, of all kinds.
    pub(crate) fn received(&self) -> u64 {
        let state = self.lock();
        (state.events.len() + state.exchanges.len()) as u64
    }

    pub(crate) fn events(&self) -> Vec<AuditEvent> {
        self.lock().events.clone()
    }

    /// Waits until the records so far satisfy this, and answers them.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        enough: impl Fn(&[AuditEvent]) -> bool,
    ) -> Vec<AuditEvent> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.lock();
        while !enough(&state.events) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} in {:#?}", state.events);
            state = self.0.changed.wait_timeout(state, left).unwrap().0;
        }
        state.events.clone()
    }

    /// Waits for one record of a kind.
    pub(crate) fn wait_for_one(&self, what: &str, is: impl Fn(&AuditEvent) -> bool) -> AuditEvent {
        let events = self.wait_for(what, |events| events.iter().any(&is));
        events.into_iter().find(is).unwrap()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }
}

impl Shared {
    fn answer(&self, state: &mut State) {
        if state.hold {
            return;
        }
        let lane = self.lane.lock().unwrap();
        for id in state.unanswered.drain(..) {
            let reply = match state.not_kept {
                None => AuditReply::Recorded { id, seq: id },
                Some(NotKept::Held) => AuditReply::Held { id },
                Some(NotKept::Failed) => AuditReply::Failed {
                    id,
                    error: "disk full".to_owned(),
                },
            };
            // A gate that is gone needs no answer.
            drop(lane.send(&reply));
        }
    }
}

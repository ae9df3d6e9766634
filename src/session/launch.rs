//! A launch, as one numbered list (`ARCHITECTURE.md` walks it): [`run`].

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::audit::event::ShownSocket;
use crate::audit::{AuditEvent, Isolation, Shortfall, Status};
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::jail::{self, Footing, GivenGroups, Interceptor, Running, Sweeper, Witness};
use crate::sys::{harden, memory};
use crate::wire::gate::{GateSummary, LimitNotice};
use crate::wire::init::{Go, InitReport};
use crate::wire::transparent::Intercepted;
use crate::wire::{Channel, WireError};

use super::changes::{self, Beginning};
use super::companions::{self, AuditWriter, CompanionError, Gate, receive, receive_from};
use super::desk::{Desk, Inward};
use super::error::LaunchError;
use super::jail_trust::JailTrust;
use super::known_bwrap;
use super::limits::Limits;
use super::plan::{LaunchRequest, Plan};
use super::resources::{self, ResourceHit, Resources};
use super::signals::Signals;
use super::starter::Starter;
use super::trust::is_outside;
use super::watch::{self, Notice, Watch};
use super::{Backing, Progress};

/// How a session went.
#[derive(Debug)]
pub struct Report {
    /// The session.
    pub session: SessionId,
    /// The code to exit with.
    pub exit: Exit,
    /// What the gate let through and refused; `None` when the gate was lost.
    pub summary: Option<GateSummary>,
    /// The budget that ended the session, if one did.
    pub killed: Option<LimitNotice>,
    /// The limit of the machine that ended the command, if one did.
    pub ended_by: Option<ResourceHit>,
}

/// Runs one session:
///
/// 1. keep what we inherited from our children, rights included, and take signals as data;
/// 2. settle everything that has a name: profile, workspace, command, log folder ([`Plan::make`]), and
///    who is asked ([`Desk`]);
/// 3. start the jail: bubblewrap mounts, init binds the listeners in it and confines itself, and then
///    waits for our word; this takes longest, so it comes first;
/// 4. start the audit writer and the gate, which confine themselves as well. Where the policy has TLS
///    inspected this comes before step 3: the jail shows the certificate of the CA that the gate makes;
/// 5. give the listeners to the gate and wait until it accepts; where programs need know no proxy, all other
///    connections of the jail are made to lead to listeners first;
/// 6. record `session.started`, then let init execute the command;
/// 7. watch until the jail ends;
/// 8. drain the gate, record `session.ended`, remove what was made.
///
/// Whatever fails from step 4 on, step 8 still runs; a jail that is dropped is killed.
pub fn run(
    request: &LaunchRequest,
    backing: Backing,
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, LaunchError> {
    let (mut signals, footing) = step_aside()?;
    let mut plan = Plan::make(request, (footing, backing.service.clone()), tell)?;
    if plan.service.is_none() {
        jail::cgroup::make_room(&plan.profile.limits);
    }
    let helpers = Helpers::start()?;
    let mut desk = Desk::open(request, &plan, backing.requester, &mut |note| {
        tell(Progress::Note(note));
    })?;
    let (mut companions, jail) = start(&plan, helpers, &desk, &mut signals, tell)?;
    let live = jail.and_then(|jail| jail.start(&plan, &mut companions, &mut desk, &mut signals));
    let live = live.and_then(|live| {
        let system = |source| LaunchError::System {
            what: "leave the terminal to the command",
            source,
        };
        desk.step_back().map_err(system).map(|()| live)
    });
    match &live {
        Ok(_) => tell(Progress::Started(plan.session)),
        Err(_) => {
            for line in desk.last_words() {
                tell(Progress::Notice(Notice::Problem(line)));
            }
        }
    }
    // From here on the gate alone has the credentials' values, and leaves them to the one that takes its
    // place should it die: another start of a gate needs none from here.
    plan.credentials.forget();
    let outcome =
        live.and_then(|live| live.watch(&plan, &mut companions, &mut desk, &mut signals, tell));
    // Nobody can be asked any more.
    drop(desk);
    companions.end(&plan, outcome, tell)
}

/// Step 1. Descriptors that our caller left open stay ours: close_range(2) before anything is started.
fn step_aside() -> Result<(Signals, Footing), LaunchError> {
    let system = |what| move |source| LaunchError::System { what, source };
    crate::sys::fd::cloexec_from(3).map_err(system("mark descriptors close-on-exec"))?;
    let footing = Footing::settle().map_err(system("look at the user namespace"))?;
    let signals = Signals::watch().map_err(system("watch signals"))?;
    Ok((signals, footing))
}

/// Steps 3 and 4, in the order that the policy asks for.
fn start(
    plan: &Plan,
    helpers: Helpers,
    desk: &Desk,
    signals: &mut Signals,
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<(Companions, Result<Jail, LaunchError>), LaunchError> {
    if plan.trust.is_none() {
        let jail = build(plan, helpers, None, tell)?;
        let mut companions = Companions::start(plan, desk)?;
        let ready = companions.ready(signals);
        return Ok((companions, ready.map(|_| jail)));
    }
    let mut companions = Companions::start(plan, desk)?;
    let jail = companions.ready(signals).and_then(|authority| {
        let trust = plan.jail_trust(authority.as_deref())?;
        build(plan, helpers, trust.as_ref(), tell)
    });
    Ok((companions, jail))
}

// === impl Companions ===

/// The processes beside the jail, and when they were started.
struct Companions {
    starter: Rc<RefCell<Starter>>,
    audit: AuditWriter,
    gate: Gate,
    /// Whether the log is open: only then does it want a last record.
    recording: bool,
    since: Instant,
    /// When the command was about to start, by the clock of files.
    beginning: Option<Beginning>,
}

impl Companions {
    /// Step 4.
    fn start(plan: &Plan, desk: &Desk) -> Result<Self, LaunchError> {
        if plan.profile.network.inspects() {
            // What a gate leaves to the next lies behind a descriptor of ours, and the CA's key is in it.
            harden::unreadable().map_err(|source| LaunchError::System {
                what: "make this process unreadable",
                source,
            })?;
        }
        let (starter, channels) = match (&plan.service, &plan.log) {
            (Some(service), _) => Starter::service(Rc::clone(service), &plan.profile.audit)?,
            (None, log) => {
                let no_folder = || io::Error::from(io::ErrorKind::NotFound);
                let folder = log.as_ref().ok_or_else(no_folder);
                let folder = folder
                    .and_then(|log| log.as_fd().try_clone_to_owned())
                    .map_err(|source| LaunchError::System {
                        what: "pass the log folder",
                        source,
                    })?;
                Starter::children(plan.audit_boot(), folder)?
            }
        };
        let starter = Rc::new(RefCell::new(starter));
        let audit = AuditWriter::new(Rc::clone(&starter), channels.audit);
        let mut boot = companions::gate_boot(plan.profile.network.clone(), desk.approval_seconds());
        boot.on_failure = plan.profile.audit.on_failure;
        boot.credentials = plan.credentials.for_the_gate();
        boot.roots.clone_from(&plan.roots);
        boot.upstream.clone_from(&plan.upstream);
        boot.bodies.clone_from(&plan.profile.audit.bodies);
        let gate = Gate::start(Rc::clone(&starter), channels.gate, boot)?;
        Ok(Self {
            starter,
            audit,
            gate,
            recording: false,
            since: Instant::now(),
            beginning: None,
        })
    }

    /// The end of step 4: records are taken and the gate is confined. Gives the session's CA (PEM), if
    /// it has one.
    fn ready(&mut self, signals: &mut Signals) -> Result<Option<String>, LaunchError> {
        self.audit.ready(signals)?;
        self.recording = true;
        Ok(self.gate.confined(signals)?)
    }

    /// Step 8. Everything is asked to end before anything is waited for. The command's status stands
    /// even if the last record could not be kept; that is told.
    fn end(
        mut self,
        plan: &Plan,
        outcome: Result<Ended, LaunchError>,
        tell: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Report, LaunchError> {
        // A gate that was lost has no summary; its loss was told when it happened, and is recorded.
        let summary = self.gate.drain().ok();
        if self.recording && self.record_end(plan, &outcome, summary.is_some()).is_err() {
            tell(Progress::Notice(Notice::AuditLost));
        }
        // The ends of their channels end both; first the writer's, which has the ledger to sign.
        drop((self.audit, self.gate));
        let system = |source| LaunchError::System {
            what: "wait for the end",
            source,
        };
        self.starter.borrow_mut().end().map_err(system)?;
        let ended = outcome?;
        ended.running.finish().map_err(system)?;
        Ok(Report {
            session: plan.session,
            exit: Exit::Command(ended.status),
            summary,
            killed: ended.killed,
            ended_by: ended.limit,
        })
    }

    /// The last records.
    fn record_end(
        &mut self,
        plan: &Plan,
        outcome: &Result<Ended, LaunchError>,
        drained: bool,
    ) -> Result<(), CompanionError> {
        let ms = millis(self.since.elapsed());
        let status = match outcome {
            Ok(ended) => Status::Exited(ended.status),
            Err(error) => Status::NotStarted(error.to_string()),
        };
        // Before the command ran, a gate that has not served yet has nothing to sum up either.
        if outcome.is_ok() && !drained {
            self.audit.append(AuditEvent::GateLost { ms })?;
        }
        // The jail is over: what it left does not change any more by its hand.
        let beginning = self.beginning.filter(|_| outcome.is_ok());
        let files = beginning.zip(plan.changeable());
        let files = files.map(|(beginning, (folders, all))| {
            let mut files = changes::since(beginning, &folders);
            files.complete &= all;
            files
        });
        self.audit
            .append(AuditEvent::SessionEnded { status, ms, files })
    }
}

// === impl Jail ===

/// A jail that is being built: bubblewrap runs, init has not spoken yet.
struct Jail {
    running: Running,
    init: Channel,
    /// Waits to make the jail's connections lead to the gate, where the profile wants that.
    interceptor: Option<Interceptor>,
    /// portcullis-init, for helpers that are started later.
    program: File,
    /// Waits to be told of the jail; the gate's from then on.
    witness: Option<Witness>,
    /// The host's sockets that show, for the record.
    sockets: Vec<ShownSocket>,
    /// Limits that are not in force, for the record.
    shortfalls: Vec<Shortfall>,
}

/// What step 3 starts before it knows what it will be for, because its start takes as long as all that is
/// settled meanwhile.
struct Helpers {
    /// portcullis-init.
    program: File,
    sweeper: Sweeper,
}

impl Helpers {
    fn start() -> Result<Self, LaunchError> {
        let program = companions::installed("portcullis-init")?;
        let program = File::open(&program).map_err(|source| CompanionError::Start {
            path: program,
            source,
        })?;
        let sweeper = Sweeper::start(&program)?;
        Ok(Self { program, sweeper })
    }
}

/// Step 3, our side.
fn build(
    plan: &Plan,
    Helpers { program, sweeper }: Helpers,
    trust: Option<&JailTrust>,
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<Jail, LaunchError> {
    // Only where there is a bubblewrap: each look follows every link on the way.
    let outside = |path: &Path| is_outside(path, &plan.writable);
    let trusted = |program: &Path| program.parent().is_some_and(outside) && outside(program);
    let path = plan.caller.variable("PATH").unwrap_or_default();
    let bundled = &plan.command.bundled_bwrap;
    let bwrap = plan.footing.find_bwrap(path, trusted, bundled)?;
    let bwrap = known_bwrap::version(bwrap, &plan.caller.state_folder(), &plan.writable)?;
    let transparent = plan.profile.network.transparent;
    let interceptor = transparent.then(|| Interceptor::start(&program, plan.footing));
    let given = given_groups(plan)?;
    let prepared = jail::prepare_in(&plan.jail_request(&program, trust), Some(sweeper), given)?;
    let bwrap = bwrap.answer()?;
    let settled = resources::settle(&plan.profile, prepared.missing(), plan.footing)?;
    if let Some(note) = &settled.note {
        tell(Progress::Note(note));
    }
    let init_plan = plan.init_plan(
        &bwrap,
        prepared.takeover(),
        prepared.landlock_paths(),
        prepared.socket_paths(),
        settled.rlimits,
    );
    let sockets = prepared.sockets().to_vec();
    for ShownSocket { path, danger } in &sockets {
        if let Some(danger) = danger {
            let note = format!("the command can connect to {path} ({danger})");
            tell(Progress::Note(&note));
        }
    }
    let system = |source: io::Error| LaunchError::System {
        what: "make a channel",
        source,
    };
    let (init, theirs) = Channel::pair().map_err(system)?;
    init.learn_sender().map_err(system)?;
    let running = prepared.start(&bwrap, &init_plan, theirs.into())?;
    // While bubblewrap mounts.
    let witness = Witness::start(&program, plan.footing)?;
    Ok(Jail {
        running,
        init,
        interceptor: interceptor.transpose()?,
        program,
        witness: Some(witness),
        sockets,
        shortfalls: settled.shortfalls,
    })
}

/// The control groups that the service makes: with root's rights, so that nobody else can take the limits off.
fn given_groups(plan: &Plan) -> Result<Option<GivenGroups>, LaunchError> {
    let Some(service) = &plan.service else {
        return Ok(None);
    };
    if jail::cgroup::is_wanted(&plan.profile.limits) {
        let groups = service.borrow_mut().groups(&plan.profile.limits)?;
        Ok(Some(groups))
    } else {
        Ok(Some((None, Vec::new())))
    }
}

/// What init has done when it waits for the word to execute the command.
struct Confined {
    isolation: Isolation,
    listeners: Vec<OwnedFd>,
    /// Its number, as the host counts.
    pid: Pid,
    /// The process, which becomes the command. Opened while init waits for our word, so that its
    /// number cannot be anybody else's by then.
    process: OwnedFd,
}

impl Jail {
    /// Step 5 and 6. A jail that does not get through is killed on the way out.
    fn start(
        mut self,
        plan: &Plan,
        companions: &mut Companions,
        desk: &mut Desk,
        signals: &mut Signals,
    ) -> Result<Live, LaunchError> {
        let command = self.release(plan, companions, desk, signals)?;
        Ok(Live {
            running: self.running,
            command,
        })
    }

    fn release(
        &mut self,
        plan: &Plan,
        companions: &mut Companions,
        desk: &mut Desk,
        signals: &mut Signals,
    ) -> Result<OwnedFd, LaunchError> {
        let mut confined = self.confined(plan, signals)?;
        self.running.learn_first();
        let (diagnostics, missing) = jail::witness::take_diagnostics(&mut confined.listeners);
        confined.isolation.shortfalls.extend(missing);
        // Init waits for our word, so its number is its own.
        let witness = self.witness.take();
        let witness = witness.ok_or(CompanionError::Unexpected("witness"))?;
        witness.watch(confined.pid, diagnostics.as_ref())?;
        let network = confined.listeners.pop();
        let network = network.ok_or(CompanionError::Unexpected("init"))?;
        if let Some(interceptor) = self.interceptor.take() {
            let sockets = intercept(&interceptor, &network, signals)?;
            confined.listeners.extend(sockets);
        }
        let program = self.program.try_clone();
        let inward = program
            .and_then(|program| Inward::new(program, network, &confined.listeners, plan.footing));
        desk.let_in(inward.map_err(|source| LaunchError::System {
            what: "look at the jail's ports",
            source,
        })?);
        let down = plan.footing.step_down();
        down.map_err(|source| LaunchError::System {
            what: "give up capabilities",
            source,
        })?;
        confined.isolation.shortfalls.append(&mut self.shortfalls);
        companions
            .gate
            .serve(confined.listeners, witness, signals)?;
        companions.since = Instant::now();
        desk.introduce(plan.described(confined.isolation.clone(), confined.pid));
        companions
            .audit
            .append(plan.started(confined.isolation, std::mem::take(&mut self.sockets)))?;
        companions.beginning = Some(Beginning::now());
        self.execute(plan)?;
        Ok(confined.process)
    }

    fn confined(&mut self, plan: &Plan, signals: &mut Signals) -> Result<Confined, LaunchError> {
        let bwrap = self.running.child();
        let mut lives = || bwrap.try_wait().map(|ended| ended.is_none());
        let said = receive_from::<InitReport>("init", &self.init, Some(signals), &mut lives);
        let received = match said {
            Err(CompanionError::Wire {
                source: WireError::Closed,
                ..
            }) => {
                let status = self.running.child().wait();
                let status = status.map_err(|source| LaunchError::System {
                    what: "wait for bubblewrap",
                    source,
                })?;
                return Err(LaunchError::NoJail { status });
            }
            other => other?,
        };
        match (received.message, received.sender) {
            (InitReport::Confined(isolation), Some(init)) => Ok(Confined {
                isolation,
                listeners: received.fds,
                pid: init,
                process: pidfd_open(init, PidfdFlags::empty()).map_err(|errno| {
                    LaunchError::System {
                        what: "open init's process",
                        source: errno.into(),
                    }
                })?,
            }),
            (InitReport::Failed(failure), _) => Err(plan.explain(failure)),
            (InitReport::Confined(_), None) => Err(CompanionError::Unexpected("init").into()),
        }
    }

    /// The channel is close-on-exec, so its end without a word means that the command runs.
    fn execute(&self, plan: &Plan) -> Result<(), LaunchError> {
        let wire = |source| CompanionError::Wire {
            who: "init",
            source,
        };
        self.init.send(&Go {}).map_err(wire)?;
        match receive::<InitReport>("init", &self.init, None).map(|said| said.message) {
            Err(CompanionError::Wire {
                source: WireError::Closed,
                ..
            }) => Ok(()),
            Ok(InitReport::Failed(failure)) => Err(plan.explain(failure)),
            Ok(InitReport::Confined(_)) => Err(CompanionError::Unexpected("init").into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Step 5 where programs need know no proxy: gives the sockets to which all else leads.
fn intercept(
    interceptor: &Interceptor,
    network: &OwnedFd,
    signals: &mut Signals,
) -> Result<Vec<OwnedFd>, LaunchError> {
    let who = "portcullis-init intercept";
    interceptor.order(network)?;
    let answer = receive::<Intercepted>(who, interceptor.channel(), Some(signals))?;
    Ok(Interceptor::outcome(answer)?)
}

// === impl Live ===

/// A jail whose command runs.
struct Live {
    running: Running,
    command: OwnedFd,
}

/// A jail whose command has ended.
struct Ended {
    running: Running,
    /// The command's own.
    status: u8,
    /// The budget that ended it, if one did.
    killed: Option<LimitNotice>,
    /// The limit of the machine that ended it, if one did.
    limit: Option<ResourceHit>,
}

impl Live {
    /// Step 7, and the first of step 8: the placeholders may go.
    fn watch(
        mut self,
        plan: &Plan,
        companions: &mut Companions,
        desk: &mut Desk,
        signals: &mut Signals,
        tell: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Ended, LaunchError> {
        // What reading profiles and the command line took.
        memory::give_back();
        let mut limits = Limits::new(&plan.profile.network.budgets, companions.since);
        let system = |source| LaunchError::System {
            what: "watch the jail",
            source,
        };
        let meter = self.running.meter().map_err(system)?;
        let mut resources = Resources::new(&plan.profile.limits, meter);
        let watch = Watch {
            signals,
            jail: self.running.child(),
            command: &self.command,
            gate: Some(&mut companions.gate),
            audit: Some(&mut companions.audit),
            desk: &mut *desk,
            limits: &mut limits,
            resources: &mut resources,
        };
        let status = watch::until_the_end(watch, &mut |notice| tell(Progress::Notice(notice)))
            .map_err(system)?;
        self.running.begin_sweep();
        desk.hang_up(status, Some(&mut companions.audit));
        Ok(Ended {
            running: self.running,
            status,
            killed: limits.into_killed(),
            limit: resources.ended(status),
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

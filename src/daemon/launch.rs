//! From a request for a session to its processes, and what it asks for later.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use jiff::Timestamp;

use super::accounts::Accounts;
use super::config::{Config, FILE};
use super::door::Door;
use super::operation::{LOGS, Operation, OperationError, Others, Yield};
use super::process::Process;
use super::running::{Companion, Record, Running};
use super::store::Slot;
use super::{host_limit, rlimits};
use crate::audit::settings;
use crate::ids::SessionId;
use crate::policy::requirements::REQUIREMENTS_FILE;
use crate::policy::{Durability, OnFailure, Resource, ResourceLimits};
use crate::sys::admin_file;
use crate::sys::peer::Peer;
use crate::wire::audit::AuditBoot;
use crate::wire::control::{Launch, Refusal};
use crate::wire::service::{MissingGroup, SessionBoot, ToSession};
use crate::wire::supply::{GateSupply, WriterSupply};
use crate::wire::{Channel, WireError};

/// The folder of the admin's files.
const SYSTEM: &str = "/etc/portcullis";

/// Why a launch is refused: which kind, and for a person.
pub(super) type Refused = (Refusal, String);

/// Something that a session asked for could not be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum SupplyError {
    #[error("{0}")]
    Operation(#[from] OperationError),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("make a channel: {}{}", .0, host_limit::named(.0))]
    Channel(#[from] io::Error),
    #[error("{0}")]
    Admin(String),
    #[error("there is no {0} to replace")]
    None(&'static str),
    #[error("unexpected outcome")]
    Unexpected,
}

/// Judges whether this peer may have this session now. `own` and `all`: sessions that run, theirs and
/// everybody's.
pub(super) fn admit(
    peer: &Peer,
    launch: &Launch,
    (own, all): (usize, usize),
    accounts: &Accounts,
) -> Result<SessionBoot, Refused> {
    let refused = |message: String| (Refusal::NotPermitted, message);
    if peer.uid == 0 {
        let why = "root runs its sessions itself; use --standalone";
        return Err(refused(why.to_owned()));
    }
    // A file that is wrong admits nobody.
    let config = Config::read(accounts).map_err(|error| (Refusal::Failed, error))?;
    let Some(access) = config.access(peer) else {
        let why = format!(
            "{FILE} names nobody that is you; ask the admin of this host for an [[access]] entry"
        );
        return Err(refused(why));
    };
    if let Some(profiles) = &access.profiles
        && !profiles.contains(&launch.profile)
    {
        return Err(refused(format!(
            "profile {:?} is not one of yours; you may use {}",
            launch.profile,
            profiles.join(", ")
        )));
    }
    if access.sessions.is_some_and(|most| own >= most) {
        return Err(refused(format!(
            "{own} sessions of yours run, which is as many as you may have ({FILE}: access.sessions); portcullis ps \
             lists them"
        )));
    }
    if all >= config.sessions {
        return Err(refused(format!(
            "{all} sessions run, which is as many as this host takes ({FILE}: sessions)"
        )));
    }
    let caller_limits = rlimits::of(peer).map_err(|error| {
        let why = format!("look up the limits of who asks: {error}");
        (Refusal::Failed, why)
    })?;
    Ok(SessionBoot {
        session: SessionId::generate(),
        user: accounts.user_name(peer.uid),
        profile: launch.profile.clone(),
        caller_limits,
        profiles: access.profiles.clone(),
        limits: access.limits.iter().collect(),
        detached: launch.detached,
    })
}

/// Starts the session process. Gives the caller's end of the channel to it: nobody has sent anything there, and the
/// session's end is with the session alone.
pub(super) fn start(
    others: &Others,
    peer: &Peer,
    launch: &Launch,
    boot: SessionBoot,
    slot: Slot,
    reserved: u32,
) -> Result<(Running, Channel), SupplyError> {
    Operation::MakeRuntimeFolder(peer).perform(others)?;
    let Yield::Fd(namespace) = Operation::MakeNamespace {
        caller: peer,
        reserved,
    }
    .perform(others)?
    else {
        return Err(SupplyError::Unexpected);
    };
    let held = namespace.try_clone()?;
    let (ours, theirs) = Channel::pair()?;
    let record = Record {
        session: boot.session,
        uid: peer.uid,
        user: boot.user.clone(),
        name: launch.name.clone(),
        profile: launch.profile.clone(),
        since: Timestamp::now(),
        reserved,
        limits: boot.limits.clone(),
        durability: None,
        on_failure: OnFailure::Block,
    };
    let (caller, callers) = Channel::pair()?;
    // In the channel before there is anybody who reads it; a frame that does not fit is refused.
    ours.send_now(&ToSession::Boot(Box::new(boot)), &[callers.as_fd()])?;
    drop(callers);
    let process = process(
        Operation::StartSession {
            caller: peer,
            namespace,
            channel: theirs.into(),
        },
        others,
    )?;
    Ok((Running::new(slot, record, process, held, ours), caller))
}

fn process(operation: Operation<'_>, others: &Others) -> Result<Process, SupplyError> {
    match operation.perform(others)? {
        Yield::Process(process) => Ok(process),
        _ => Err(SupplyError::Unexpected),
    }
}

/// The session's first gate and audit writer, in the place of any. Gives the lane to the writer and the gate's control channel.
pub(super) fn companions(
    others: &Others,
    running: &mut Running,
    durability: Durability,
) -> Result<[OwnedFd; 2], SupplyError> {
    // Of a daemon that died before it could hand them over.
    for companion in running.gate.take().into_iter().chain(running.writer.take()) {
        Operation::Kill(&companion.process).perform(others)?;
    }
    // What was said first counts: a log is not kept less well later.
    let durability = running.record.durability.unwrap_or(durability);
    let lane = start_writer(others, running, durability)?;
    let control = start_gate(others, running)?;
    Ok([lane, control])
}

/// Another gate in the place of the one that died, or that is killed here.
pub(super) fn another_gate(others: &Others, running: &mut Running) -> Result<OwnedFd, SupplyError> {
    if running.writer.is_none() {
        return Err(SupplyError::None("audit writer for a gate, and no gate"));
    }
    if let Some(gate) = running.gate.take() {
        Operation::Kill(&gate.process).perform(others)?;
    }
    start_gate(others, running)
}

/// Another audit writer, which goes on with the log, in the place of the one that died, or that is killed
/// here.
pub(super) fn another_writer(
    others: &Others,
    running: &mut Running,
) -> Result<OwnedFd, SupplyError> {
    let Some(durability) = running.record.durability else {
        return Err(SupplyError::None("audit writer"));
    };
    if let Some(writer) = running.writer.take() {
        Operation::Kill(&writer.process).perform(others)?;
    }
    let lane = start_writer(others, running, durability)?;
    connect(running)?;
    Ok(lane)
}

/// Another witness of the session's jail. It ends with the session's channel to it, at the latest with everything else in
/// the session's namespace.
pub(super) fn another_witness(
    others: &Others,
    running: &mut Running,
) -> Result<OwnedFd, SupplyError> {
    let (ours, theirs) = Channel::pair()?;
    let witness = process(
        Operation::StartWitness {
            namespace: running.namespace().try_clone_to_owned()?,
            channel: theirs.into(),
        },
        others,
    )?;
    running.take_witness(witness);
    Ok(ours.into())
}

fn start_writer(
    others: &Others,
    running: &mut Running,
    durability: Durability,
) -> Result<OwnedFd, SupplyError> {
    let resumes = running.record.durability.is_some();
    let (ours, theirs) = Channel::pair()?;
    let (supply, supplied) = Channel::pair()?;
    let boot = AuditBoot {
        session: running.id(),
        user: running.record.user.clone(),
        folder: Path::new(LOGS).join(running.record.uid.to_string()),
        durability,
        ledger: false,
        on_failure: running.record.on_failure,
        segments: None,
    };
    let order = if resumes {
        WriterSupply::Resume(boot)
    } else {
        WriterSupply::Boot(boot)
    };
    // Its form is the writer's to judge: nothing of it is read here.
    let settings = match admin_file::open(Path::new(settings::HOSTS)) {
        // Who goes on with a session does not end it over a file.
        Err(_) if resumes => None,
        opened => opened.map_err(SupplyError::Admin)?,
    };
    let fds: Vec<_> = settings.iter().map(AsFd::as_fd).collect();
    supply.send_now(&order, &fds)?;
    let process = process(
        Operation::StartWriter {
            lane: theirs.into(),
            supply: supplied.into(),
            uid: running.record.uid,
        },
        others,
    )?;
    running.take_writer(Companion { process, supply }, durability);
    Ok(ours.into())
}

fn start_gate(others: &Others, running: &mut Running) -> Result<OwnedFd, SupplyError> {
    // What the admin insists on comes from us: the gate takes nobody else's word for it.
    let requirements =
        admin_file::open(&Path::new(SYSTEM).join(REQUIREMENTS_FILE)).map_err(SupplyError::Admin)?;
    let (ours, theirs) = Channel::pair()?;
    let (supply, supplied) = Channel::pair()?;
    let fds: Vec<_> = requirements.iter().map(AsFd::as_fd).collect();
    supply.send_now(&GateSupply::Memory, &[running.memory()?.as_fd()])?;
    supply.send_now(&GateSupply::Terms, &fds)?;
    let process = process(
        Operation::StartGate {
            control: theirs.into(),
            supply: supplied.into(),
        },
        others,
    )?;
    running.take_gate(Companion { process, supply });
    connect(running)?;
    Ok(ours.into())
}

/// A lane between gate and audit writer. One of them that is dead by now is replaced later, and connected
/// then.
fn connect(running: &Running) -> Result<(), SupplyError> {
    let (Some(gate), Some(writer)) = (&running.gate, &running.writer) else {
        return Ok(());
    };
    let (gates, writers) = Channel::pair()?;
    let supplied = [
        writer
            .supply
            .send_now(&WriterSupply::Gate, &[writers.as_fd()]),
        gate.supply.send_now(&GateSupply::Lane, &[gates.as_fd()]),
    ];
    for outcome in supplied {
        match outcome {
            Err(WireError::Io(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Control groups with these limits, and never more than the caller may have: what is sent of them.
pub(super) fn groups(
    others: &Others,
    running: &mut Running,
    number: u32,
    asked: BTreeMap<Resource, u64>,
) -> Result<(), SupplyError> {
    let mut limits: ResourceLimits = asked.into_iter().collect();
    limits.hold_to(&running.record.limits.clone().into_iter().collect());
    let (session, limits) = (running.id(), &limits);
    let made = Operation::MakeGroups { session, limits }.perform(others)?;
    let Yield::Groups(groups, missing) = made else {
        return Err(SupplyError::Unexpected);
    };
    running.doors.clear();
    for group in groups {
        let (door, theirs) = Door::new(group.procs)?;
        running.doors.push(door);
        let fds = [group.folder, theirs].into_iter().chain(group.kill);
        let fds: Vec<_> = fds.collect();
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if let Some(channel) = running.channel() {
            let words = group.words;
            channel.send_now(&ToSession::Group { number, words }, &fds)?;
        }
    }
    let Some(channel) = running.channel() else {
        return Ok(());
    };
    let missing = missing.into_iter().map(|missing| MissingGroup {
        resource: missing.resource,
        cause: missing.cause,
    });
    let missing = missing.collect();
    channel.send_now(&ToSession::Grouped { number, missing }, &[])?;
    Ok(())
}

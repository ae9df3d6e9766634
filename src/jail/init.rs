//! `portcullis-init`, the first process of ours in the jail (bubblewrap's reaper is its process 1):
//! confines itself step by step, then becomes the command.
//!
//! Owns: the listening sockets until they are sent out, and the order of confinement, which is the
//! order of [`run`]. Trusts: the plan, because it is sealed. Never: executes the command with a step
//! left out; every failure ends it with a report.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket,
};
use rustix::fs::{SealFlags, fcntl_get_seals};

use super::bwrap::{CONTROL_FD, PLAN_FD};
use super::seccomp::{self, Filter};
use super::{intercept, landlock, reach, sweep, takeover, witness};
use crate::audit::event::Isolation;
use crate::exit::Exit;
use crate::sys::process::find_in_path;
use crate::sys::{capability, fd, harden, namespace, signal};
use crate::wire::Channel;
use crate::wire::init::{FailureKind, Go, InitFailure, InitPlan, InitReport};

/// Entry of `portcullis-init`.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new("sweep")) {
        return sweep::main();
    }
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new("intercept")) {
        return intercept::main();
    }
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new("reach")) {
        return reach::main();
    }
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new("witness")) {
        return witness::main();
    }
    // 1. Take the control channel: without it nobody can be told anything.
    let Ok(control) = fd::inherit(CONTROL_FD).map(Channel::from) else {
        return Exit::Internal.into();
    };
    let Err(failure) = run(&control);
    let exit = match failure.kind {
        FailureKind::NotStarted => Exit::NotStarted,
        FailureKind::NotExecutable => Exit::NotExecutable,
        FailureKind::NotFound => Exit::NotFound,
    };
    // A session that cannot hear it any more is gone, and this jail with it.
    control.send(&InitReport::Failed(failure)).ok();
    exit.into()
}

/// The list. Returns only on failure.
fn run(control: &Channel) -> Result<Infallible, InitFailure> {
    // 2. Read the plan, before anything that depends on it; and become the user, where bubblewrap was not.
    let plan = read_plan().map_err(not_started("read the plan"))?;
    if let Some(plan) = &plan.takeover {
        takeover::take_over(plan).map_err(not_started("take over from bubblewrap"))?;
    }
    // 3. Bind the listeners, in the jail's own network namespace.
    let mut listeners = bind_listeners(&plan.listen)?;
    if let Some(port) = plan.datagrams {
        let step = format!("bind 127.0.0.1:{port} for datagrams");
        let socket = bind_loopback(port, SockType::Datagram);
        listeners.push(socket.map_err(|errno| failure(&step, errno, FailureKind::NotStarted))?);
    }
    // The namespace itself, for the helpers outside: one makes everything in it lead to the gate, one
    // connects to the command's own ports.
    if plan.network {
        let network =
            namespace::own_network().map_err(not_started("open the network namespace"))?;
        listeners.push(network);
        // And what tells whose a connection is. A kernel may lack it: the session says so then.
        listeners.extend(witness::diagnostics());
    }
    // 4. Let no descriptor but the standard streams outlive step 14: bubblewrap leaves us all of its
    //    bind sources, and through one the command could walk past the mounts.
    fd::cloexec_from(3).map_err(not_started("close descriptors"))?;
    refuse_folders_as_streams()?;
    // 5. No core dumps: the host's core_pattern may be a program that runs as root.
    harden::no_core_dumps().map_err(not_started("RLIMIT_CORE"))?;
    // 6. Drop all capabilities, before Landlock because nothing needs them any more.
    drop_capabilities()?;
    // 7. No new privileges: steps 8 and 13 require it.
    rustix::thread::set_no_new_privs(true).map_err(not_started("no_new_privs"))?;
    // 8. Landlock, after the last path that the command is not to open.
    let filter = seccomp::build().map_err(not_started("build the seccomp filter"))?;
    let isolation = restrict(&plan, &filter)?;
    // 9. Report, and give the listeners away: the gate accepts on them.
    report(control, isolation, &listeners)?;
    drop(listeners);
    // 10. Wait for the word that the start is recorded and the gate serves.
    wait_for_go(control)?;
    // 11. Signals as a shell would leave them: bubblewrap was told to ignore the keyboard's. And the limits
    //     of the plan, after the last step that opens something.
    signal::reset().map_err(not_started("reset signals"))?;
    let rlimits = &plan.rlimits;
    harden::limit(rlimits.open_files, rlimits.file_size, rlimits.processes)
        .map_err(not_started("set limits"))?;
    // 12. Look the command up, with the command's own PATH.
    let command = Command::look_up(&plan)?;
    // 13. Seccomp last, because it forbids what the steps above do.
    filter
        .install()
        .map_err(not_started("install the seccomp filter"))?;
    // 14. Become the command.
    Err(command.execute())
}

fn read_plan() -> io::Result<InitPlan> {
    let mut file = File::from(fd::inherit(PLAN_FD)?);
    if !fcntl_get_seals(&file)?.contains(SealFlags::WRITE | SealFlags::SEAL) {
        return Err(io::Error::other("it is not sealed"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Listens on the plan's loopback ports, in its order. No SO_REUSEADDR and no SO_REUSEPORT: nobody in
/// the jail can share a port with the gate.
fn bind_listeners(ports: &[u16]) -> Result<Vec<OwnedFd>, InitFailure> {
    let one = |port: &u16| {
        listen_on_loopback(*port).map_err(|errno| {
            let cure = match errno {
                nix::errno::Errno::EADDRINUSE => {
                    "; give network.http_port and network.socks_port different numbers"
                }
                nix::errno::Errno::EACCES => {
                    "; give network.http_port and network.socks_port numbers from 1024 on"
                }
                _ => "",
            };
            let step = format!("bind 127.0.0.1:{port}");
            failure(&step, format!("{errno}{cure}"), FailureKind::NotStarted)
        })
    };
    ports.iter().map(one).collect()
}

fn listen_on_loopback(port: u16) -> nix::Result<OwnedFd> {
    let socket = bind_loopback(port, SockType::Stream)?;
    listen(&socket, Backlog::new(1024)?)?;
    Ok(socket)
}

fn bind_loopback(port: u16, kind: SockType) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, kind, flags, None)?;
    let [a, b, c, d] = Ipv4Addr::LOCALHOST.octets();
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&socket),
        &SockaddrIn::new(a, b, c, d, port),
    )?;
    Ok(socket)
}

fn refuse_folders_as_streams() -> Result<(), InitFailure> {
    let step = "look at the standard streams";
    match landlock::folder_among_streams().map_err(not_started(step))? {
        None => Ok(()),
        Some(name) => Err(failure(
            step,
            format!("standard {name} is a folder, and a way past the jail; redirect it to a file"),
            FailureKind::NotStarted,
        )),
    }
}

/// Drops all capabilities and asks the kernel what is left.
fn drop_capabilities() -> Result<(), InitFailure> {
    let step = "drop capabilities";
    capability::drop_all().map_err(not_started(step))?;
    let left = capability::left().map_err(not_started(step))?;
    if left.is_empty() {
        Ok(())
    } else {
        let error = format!("still there: {}", left.join(", "));
        Err(failure(step, error, FailureKind::NotStarted))
    }
}

fn restrict(plan: &InitPlan, filter: &Filter) -> Result<Isolation, InitFailure> {
    let achieved = landlock::confine(
        &plan.readable,
        &plan.writable,
        &plan.sockets,
        plan.landlock_floor,
    )
    .map_err(not_started("landlock"))?;
    Ok(Isolation {
        bwrap: plan.bwrap.clone(),
        landlock_abi: achieved.abi,
        seccomp_allowed: filter.allowed,
        shortfalls: achieved.shortfalls,
    })
}

fn report(
    control: &Channel,
    isolation: Isolation,
    listeners: &[OwnedFd],
) -> Result<(), InitFailure> {
    let fds: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
    control
        .send_with(&InitReport::Confined(isolation), &fds)
        .map_err(not_started("report"))
}

fn wait_for_go(control: &Channel) -> Result<(), InitFailure> {
    let Go {} = control.recv().map_err(not_started("wait for go"))?;
    Ok(())
}

/// What step 14 executes.
struct Command {
    name: String,
    program: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    fn look_up(plan: &InitPlan) -> Result<Self, InitFailure> {
        let step = "look up the command";
        let name = plan.argv.first().cloned().unwrap_or_default();
        let path = plan.env.iter().find(|(name, _)| name == "PATH");
        let path = path.map_or("", |(_, path)| path.as_str());
        let program: OsString = find_in_path(OsStr::new(&name), OsStr::new(path))
            .filter(|_| !name.is_empty())
            .ok_or_else(|| {
                let error = format!("{name}: not found in the jail");
                failure(step, error, FailureKind::NotFound)
            })?;
        let text = |bytes: &[u8]| CString::new(bytes).map_err(not_started(step));
        let env = plan.env.iter();
        let env = env.map(|(name, value)| text(format!("{name}={value}").as_bytes()));
        let argv = plan.argv.iter().map(|argument| text(argument.as_bytes()));
        Ok(Self {
            program: text(program.as_bytes())?,
            argv: argv.collect::<Result<_, _>>()?,
            env: env.collect::<Result<_, _>>()?,
            name,
        })
    }

    /// Returns only when it could not be executed.
    fn execute(self) -> InitFailure {
        let Err(errno) = nix::unistd::execve(&self.program, &self.argv, &self.env);
        let kind = match errno {
            nix::errno::Errno::ENOENT if !std::path::Path::new(&self.name).exists() => {
                FailureKind::NotFound
            }
            _ => FailureKind::NotExecutable,
        };
        failure("execute", format!("{}: {}", self.name, errno.desc()), kind)
    }
}

fn failure(step: &str, error: impl Display, kind: FailureKind) -> InitFailure {
    InitFailure {
        step: step.to_owned(),
        error: error.to_string(),
        kind,
    }
}

fn not_started<E: Display>(step: &'static str) -> impl Fn(E) -> InitFailure {
    move |error| failure(step, error, FailureKind::NotStarted)
}

//! `portcullisd`: starts sessions for the users of a host, and lets those in to them who may.
//!
//! Owns: the control socket, who is who, which sessions run, and what root does for them
//! ([`operation`], a closed list). Trusts: the kernel's word on who is at the other end, the admin's file, and
//! nothing that a peer or a session says beyond what they may ask for. Never: resolves a path that
//! anybody named, reads a rule, a request of the network or a byte of a jail, waits for a peer, takes a
//! descriptor from one, has a second thread.
//!
//! Reading order: [`main`] is the numbered list, [`serve`] the loop, [`launch`] what becomes of a request for a
//! session; [`config`] and [`accounts`] say who may what.
#![forbid(unsafe_code)]

pub mod accounts;
mod client;
pub mod config;
mod door;
mod host_limit;
mod launch;
pub mod operation;
mod process;
mod rlimits;
mod running;
mod serve;
mod store;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use self::accounts::Accounts;
use self::config::Config;
use self::operation::Others;
use self::serve::Service;
use crate::exit::Exit;
use crate::sys::{fd, harden};
use crate::wire::control::SOCKET;

/// The folder of the socket and the lock.
const FOLDER: &str = "/run/portcullis";
/// Held for as long as a daemon runs.
const LOCK: &str = "/run/portcullis/lock";

/// Why the daemon does not serve. Each message is one line with cause and cure.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("portcullisd is started by root: systemctl start portcullisd.socket")]
    NotRoot,
    #[error("another portcullisd runs: {LOCK} is locked")]
    AnotherRuns,
    #[error("{0}")]
    Config(String),
    #[error("{what}: {source}")]
    System {
        what: &'static str,
        source: io::Error,
    },
}

/// Entry of `portcullisd`.
pub fn main() -> ExitCode {
    let error = match start() {
        Ok(service) => match service.run() {
            Ok(()) => return Exit::Success.into(),
            Err(source) => StartError::System {
                what: "wait for requests",
                source,
            },
        },
        Err(error) => error,
    };
    // systemd's journal, or a terminal. Nobody else is told.
    writeln!(io::stderr(), "portcullisd: {error}").ok();
    match error {
        StartError::NotRoot => Exit::NoPermission,
        StartError::AnotherRuns | StartError::System { .. } => Exit::Unavailable,
        StartError::Config(_) => Exit::Config,
    }
    .into()
}

fn start() -> Result<Service, StartError> {
    let system = |what| move |source: io::Error| StartError::System { what, source };
    // 1. Take what systemd passed, so that nothing else can be taken for it; nothing that we start has any
    //    of it.
    let inherited = store::inherited().map_err(system("take descriptors"))?;
    fd::cloexec_from(3).map_err(system("mark descriptors close-on-exec"))?;
    // 2. Only root can do what is asked of us.
    if !rustix::process::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    harden::no_core_dumps().map_err(system("RLIMIT_CORE"))?;
    // Eight for each session. Sessions have their callers' limit again.
    harden::raise_open_files().map_err(system("RLIMIT_NOFILE"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // 3. One daemon a host.
    let lock = lock()?;
    // 4. Who the others are, and whether the admin's file can be read: better now than at the first launch.
    let accounts = Accounts::read().map_err(system("read /etc/passwd"))?;
    let others = Others::find(&accounts).map_err(StartError::Config)?;
    Config::read(&accounts).map_err(StartError::Config)?;
    // 5. The socket.
    let listener = match inherited.control {
        Some(fd) => UnixListener::from(fd),
        None => listen().map_err(system("listen on /run/portcullis/control.sock"))?,
    };
    listener
        .set_nonblocking(true)
        .map_err(system("listen on /run/portcullis/control.sock"))?;
    // 6. Sessions that run already.
    Ok(Service::new(lock, listener, others, inherited.parts))
}

/// Makes our folder, and holds the lock in it for as long as the descriptor is open.
fn lock() -> Result<OwnedFd, StartError> {
    let system = |errno: Errno| StartError::System {
        what: "lock /run/portcullis/lock",
        source: errno.into(),
    };
    match rustix::fs::mkdir(FOLDER, Mode::from_raw_mode(0o755)) {
        Ok(()) => rustix::fs::chmod(FOLDER, Mode::from_raw_mode(0o755)).map_err(system)?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(system(errno)),
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(LOCK, flags, Mode::from_raw_mode(0o600)).map_err(system)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(StartError::AnotherRuns),
        Err(errno) => Err(system(errno)),
    }
}

/// Without systemd's socket. Everybody may connect: who may what is judged by who it is.
fn listen() -> io::Result<UnixListener> {
    match std::fs::remove_file(SOCKET) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(SOCKET)?;
    rustix::fs::chmod(SOCKET, Mode::from_raw_mode(0o666))?;
    Ok(listener)
}

/// Tells the admin something, on standard error.
fn tell(line: &str) {
    let mut stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    if let Ok(stderr) = &mut stderr {
        writeln!(stderr, "portcullisd: {line}").ok();
    }
}

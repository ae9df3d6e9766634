//! The helper that knows which process of the jail made a connection: `portcullis-init witness`, outside of the jail.
//!
//! Owns: a socket of the jail's network namespace that asks the kernel about its sockets ([`sockets`]), and the open
//! folders of processes under `/proc` ([`folder`], [`search`]). Trusts: the kernel; its session, for which jail it
//! is. Never: looks at a process that is not of that jail, tells a gate more than who made a connection, lets the
//! session wait.
//!
//! A process of its own, because a read in `/proc` waits for the process that it is about: the memory of a command
//! line may be one that its owner makes slow. So slow is the answer then, and the gate goes on without; the session,
//! which would wait as well if it read, does not notice. Besides, it may have rights that the session has given up:
//! in a user namespace that root made, those of its uid 0 over processes that made themselves unreadable.

mod folder;
mod search;
mod sockets;

use std::collections::VecDeque;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::Pid;
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Is,
    SeccompCondition as Argument, SeccompRule,
};

use super::error::JailError;
use super::footing::Footing;
use crate::audit::Shortfall;
use crate::audit::process::ProcessUnknown;
use crate::exit::Exit;
use crate::sys::beside::{self, Errors};
use crate::sys::capability::{self, Capability};
use crate::sys::fd::{self, proc_path};
use crate::sys::process::Spawn;
use crate::sys::seccomp::{Table, allow_only, install};
use crate::sys::{harden, signal};
use crate::wire::supply::Deliveries;
use crate::wire::witness::{Asked, MAX_ASKED, Maker, Order, PATIENCE, Told};
use crate::wire::{Channel, Inbox, WireError};

use folder::Folder;
use search::Jail;
use sockets::Ends;

pub(super) use sockets::diagnostics;

/// Questions that may wait: more than a gate has connections.
const WAITING: usize = 16 << 10;

/// A gate that does not read for so long is not told any more.
const UNREAD: Duration = Duration::from_secs(1);

/// The session's side. Dropping it kills the helper.
#[derive(Debug)]
pub struct Witness {
    channel: Channel,
    process: Helper,
}

/// Its process, by the way it was started.
#[derive(Debug)]
enum Helper {
    /// Without a copy of the session in between.
    Beside(beside::Process),
    /// With rights that the caller does not have.
    Raised(Child),
}

impl Witness {
    /// Starts the process, the program of init with one argument. It confines itself at once, while the jail is
    /// still being made, and waits for it.
    pub fn start(program: &File, footing: Footing) -> Result<Self, JailError> {
        let (channel, theirs) = Channel::pair().map_err(failed)?;
        set_socket_timeout(&channel, Timeout::Send, Some(UNREAD))
            .map_err(|errno| failed(errno.into()))?;
        let path = proc_path(program);
        let path = Path::new(&path);
        let process = match footing {
            Footing::Own => {
                let fds = [(theirs.into(), 3)];
                beside::start(path, Some("witness"), Errors::Dropped, &fds).map(Helper::Beside)
            }
            Footing::Given => {
                let spawn = Spawn::new(path).arg("witness").fd(theirs, 3);
                let spawn = footing.raise(spawn.own_process_group());
                spawn.start().map(Helper::Raised)
            }
        };
        let process = process.map_err(failed)?;
        Ok(Self { channel, process })
    }

    /// Tells it its jail: the one of this process, which must not end meanwhile. `diagnostics` as init made it, if
    /// it could.
    pub fn watch(&self, init: Pid, diagnostics: Option<&OwnedFd>) -> Result<(), JailError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = format!("/proc/{}", init.as_raw_nonzero());
        let folder =
            rustix::fs::open(folder, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let fds: Vec<_> = std::iter::once(folder.as_fd())
            .chain(diagnostics.map(AsFd::as_fd))
            .collect();
        match self.channel.send_with(&Order::Jail, &fds) {
            // One that has ended does not keep a session from starting: the records say so.
            Ok(()) | Err(WireError::Closed) => Ok(()),
            // It fits the socket, so nobody waits.
            Err(error) => Err(failed(std::io::Error::other(error))),
        }
    }

    /// An end of a new channel, for a gate; the one before is not listened to any more.
    pub fn channel(&self) -> Result<OwnedFd, WireError> {
        let (ours, theirs) = Channel::pair()?;
        // A gate that does not read is not waited for.
        set_socket_timeout(&theirs, Timeout::Send, Some(UNREAD)).map_err(std::io::Error::from)?;
        self.channel.send_with(&Order::Gate, &[theirs.as_fd()])?;
        Ok(ours.into())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // It holds nothing that needs an end of its own. An error means that it is gone.
        match &mut self.process {
            Helper::Beside(process) => {
                process.kill().ok();
                process.wait().ok();
            }
            Helper::Raised(process) => {
                process.kill().ok();
                process.wait().ok();
            }
        }
    }
}

fn failed(source: std::io::Error) -> JailError {
    JailError::Start {
        what: "portcullis-init witness",
        source,
    }
}

/// Takes the socket that asks about sockets from what init has sent, where it is the last; and says what is
/// missing, where there is none that knows the listener.
pub fn take_diagnostics(sent: &mut Vec<OwnedFd>) -> (Option<OwnedFd>, Option<Shortfall>) {
    let last = sent.pop_if(is_netlink);
    let listener = sent.first().and_then(|first| {
        let place = rustix::net::getsockname(first).ok()?;
        SocketAddr::try_from(place).ok()
    });
    let works = last.filter(|asks| listener.is_some_and(|at| sockets::works(asks, at)));
    let missing = works.is_none().then(|| Shortfall {
        what: "socket diagnostics: connections are looked up in /proc/net".to_owned(),
        needs: "the kernel's inet_diag, tcp_diag and udp_diag (`modprobe tcp_diag udp_diag`)"
            .to_owned(),
    });
    (works, missing)
}

fn is_netlink(socket: &mut OwnedFd) -> bool {
    rustix::net::sockopt::socket_domain(socket)
        .is_ok_and(|domain| domain == rustix::net::AddressFamily::NETLINK)
}

/// Entry of `portcullis-init witness`.
pub(super) fn main() -> ExitCode {
    match serve() {
        Ok(()) | Err(WireError::Closed) => Exit::Success.into(),
        Err(_) => Exit::Internal.into(),
    }
}

fn serve() -> Result<(), WireError> {
    let channel = Channel::from(fd::inherit(3)?);
    signal::ignore_all()?;
    // Before nobody may look at us any more, ourselves included.
    let mount = folder::mount_of_sockets(channel.as_fd());
    confine().map_err(std::io::Error::other)?;
    let first = channel.recv_with::<Order>()?;
    let mut fds = first.fds.into_iter();
    let (Order::Jail, Some(init)) = (first.message, fds.next()) else {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidData).into());
    };
    let diagnostics = fds.next();
    let jail = Jail::of(&Folder::with(init, 0), mount)?;
    let desk = Desk {
        jail,
        diagnostics,
        number: 0,
        waiting: VecDeque::new(),
    };
    desk.attend(&channel)
}

/// The list: what reading takes, and nothing else any more.
fn confine() -> Result<(), String> {
    fn at<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> String {
        move |error| format!("{step}: {error}")
    }
    // 1. Of the rights that uid 0 of a namespace has, and root, only those to look at other people's processes.
    let kept = [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH];
    capability::keep_only(&kept).map_err(at("drop capabilities"))?;
    // 2. No new privileges, no core dump, no ptrace by the same user.
    harden::harden().map_err(at("harden"))?;
    // 3. Seccomp last: files to read, and the channels. No Landlock: who has a domain may look at nobody outside
    //    of it.
    let table = table().map_err(at("seccomp table"))?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let program = allow_only(table, refuse).map_err(at("seccomp"))?;
    install(&program).map_err(at("seccomp"))
}

/// What is left to the helper.
fn table() -> Result<Table, BackendError> {
    let writes = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
    let reads = Argument::new(
        2,
        Len::Dword,
        Is::MaskedEq(u64::from(writes.cast_unsigned())),
        u64::from(libc::O_RDONLY.cast_unsigned()),
    )?;
    let mut table: Table = [
        // /proc.
        libc::SYS_read,
        libc::SYS_readlinkat,
        libc::SYS_getdents64,
        libc::SYS_close,
        // The channels and the kernel's answers.
        libc::SYS_recvmsg,
        libc::SYS_recvfrom,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_ppoll,
        libc::SYS_clock_gettime,
        // Memory.
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_madvise,
        // The end.
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
    ]
    .into_iter()
    .map(|call| (call, Vec::new()))
    .collect();
    #[cfg(target_arch = "x86_64")]
    table.insert(libc::SYS_poll, Vec::new());
    table.insert(libc::SYS_openat, vec![SeccompRule::new(vec![reads])?]);
    Ok(table)
}

/// Who answers.
#[derive(Debug)]
struct Desk {
    jail: Jail,
    diagnostics: Option<OwnedFd>,
    /// Of the last question to the kernel.
    number: u32,
    /// What is to be answered, and when it came.
    waiting: VecDeque<(Asked, Instant)>,
}

/// The gate that is served.
#[derive(Debug)]
struct Client {
    channel: Channel,
    inbox: Inbox,
}

impl Desk {
    /// Answers until the session is gone.
    fn attend(mut self, session: &Channel) -> Result<(), WireError> {
        let mut orders = Deliveries::default();
        let mut client: Option<Client> = None;
        loop {
            let quiet = if self.waiting.is_empty() {
                None
            } else {
                Some(Duration::ZERO)
            };
            let channels = [
                Some(session.as_fd()),
                client.as_ref().map(|one| one.channel.as_fd()),
            ];
            wait(channels, quiet)?;
            while let Some((order, fds)) = orders.next::<Order>(session)? {
                if let (Order::Gate, Some(gate)) = (order, fds.into_iter().next()) {
                    self.waiting.clear();
                    client = Some(Client::new(gate));
                }
            }
            if let Some(one) = &mut client
                && !self.hear(one)
            {
                self.waiting.clear();
                client = None;
            }
            if let Some((asked, since)) = self.waiting.pop_front()
                && let Some(one) = &client
            {
                let told = Told {
                    id: asked.id,
                    maker: self.answer(&asked, since),
                };
                if one.channel.send(&told).is_err() {
                    self.waiting.clear();
                    client = None;
                }
            }
        }
    }

    /// Takes what was asked; whether there may be more.
    fn hear(&mut self, client: &mut Client) -> bool {
        while self.waiting.len() < WAITING {
            match client.inbox.next::<Asked>(&client.channel) {
                Ok(Some(asked)) => self.waiting.push_back((asked, Instant::now())),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    fn answer(&mut self, asked: &Asked, since: Instant) -> Maker {
        if since.elapsed() > PATIENCE {
            return Maker::Unknown(ProcessUnknown::Timeout);
        }
        let ends = Ends {
            protocol: asked.protocol,
            client: asked.client,
            server: asked.server,
        };
        match self.find(ends) {
            Ok(process) => Maker::Process(Box::new(process)),
            Err(why) => Maker::Unknown(why),
        }
    }

    fn find(&mut self, ends: Ends) -> Result<crate::audit::process::Process, ProcessUnknown> {
        let inode = self.inode(ends)?.ok_or(ProcessUnknown::Gone)?;
        self.jail.holder(inode).map_err(|why| {
            // Closed while it was looked for?
            match self.inode(ends) {
                Ok(Some(now)) if now == inode => why,
                _ => ProcessUnknown::Gone,
            }
        })
    }

    fn inode(&mut self, ends: Ends) -> Result<Option<u64>, ProcessUnknown> {
        use crate::wire::witness::Protocol;
        self.number = self.number.wrapping_add(1);
        let asked = self
            .diagnostics
            .as_ref()
            .map(|asks| sockets::inode(asks, self.number, ends));
        let found = match asked {
            // A kernel may have the one about TCP alone, and says the same where there is no socket.
            Some(Ok(None)) if ends.protocol == Protocol::Udp => {
                sockets::inode_in_tables(self.jail.first(), ends)
            }
            Some(answer) => answer,
            None => sockets::inode_in_tables(self.jail.first(), ends),
        };
        found.map_err(|_| ProcessUnknown::Failed)
    }
}

impl Client {
    fn new(gate: OwnedFd) -> Self {
        Self {
            channel: Channel::from(gate),
            inbox: Inbox::new(MAX_ASKED),
        }
    }
}

/// Waits until one of them has something, at most so long.
fn wait(channels: [Option<BorrowedFd<'_>>; 2], most: Option<Duration>) -> Result<(), WireError> {
    let mut polled: Vec<_> = channels
        .into_iter()
        .flatten()
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let most = most.map(Timespec::try_from).transpose();
    let most = most.map_err(std::io::Error::other)?;
    match poll(&mut polled, most.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(WireError::Io(error.into())),
    }
}

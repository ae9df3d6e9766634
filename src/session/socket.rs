//! The session's own Unix socket, and the way to those of running sessions.
//!
//! Owns: `$XDG_RUNTIME_DIR/portcullis/<session>.sock`, in the folder of state where there is no such
//! folder. Trusts: who the kernel says is at the other end, if it is this user or root. Never: waits for
//! a peer; one that does not read, or talks too much, is cut off. The jail never shows the folder
//! (`JailRequest::hidden`), so what runs in it cannot answer its own questions.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, getuid};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};

use super::caller::Caller;
use crate::ids::SessionId;
use crate::wire::service::{May, Visitor};
use crate::wire::session::{MAX_REQUEST, SessionReply, SessionRequest};
use crate::wire::{Channel, Inbox};

/// Peers at once; the next is closed unheard.
const MAX_PEERS: usize = 16;

/// For a session to take one more in: it has room at once, or is stopped.
const KNOCK: std::time::Duration = std::time::Duration::from_secs(2);

/// For a session to answer.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(40);

const SUFFIX: &str = ".sock";

/// Where the service makes a folder for each user.
const SERVICE: &str = "/run/portcullis/user";

/// One connected peer, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerId(u64);

/// The folders that may hold the sockets of this caller's sessions, the preferred first: all are hidden
/// from jails.
pub fn folders(caller: &Caller) -> Vec<PathBuf> {
    let runtime = caller.variable("XDG_RUNTIME_DIR").map(Path::new);
    let runtime = runtime
        .filter(|path| path.is_absolute() && is_private(path, caller.uid))
        .map(|path| path.join("portcullis"));
    let state = caller.state_folder().join("run");
    let own = runtime.into_iter().chain([state]);
    service_folder(caller).into_iter().chain(own).collect()
}

/// The folder that the service made for its sessions of this caller: there also for one who has no other.
pub fn service_folder(caller: &Caller) -> Option<PathBuf> {
    let folder = PathBuf::from(format!("{SERVICE}/{}", caller.uid));
    is_private(&folder, caller.uid).then_some(folder)
}

/// What jails must not show: where this session's socket is, and where those of the caller's other
/// sessions may be, whatever this one's environment says.
pub fn hidden(caller: &Caller) -> Vec<PathBuf> {
    let usual = PathBuf::from(format!("/run/user/{}/portcullis", caller.uid));
    let mut hidden = folders(caller);
    // The service's own socket, and those of everybody's sessions.
    hidden.push(PathBuf::from("/run/portcullis"));
    if !hidden.contains(&usual) {
        hidden.push(usual);
    }
    hidden
}

/// Whether a folder is the user's own and nobody else can put something into it.
fn is_private(folder: &Path, uid: Uid) -> bool {
    std::fs::symlink_metadata(folder).is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == uid.as_raw() && metadata.mode() & 0o022 == 0
    })
}

/// The listening socket and who is connected. Removed when dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    folder: OwnedFd,
    name: String,
    owner: Uid,
    peers: BTreeMap<PeerId, Peer>,
    last: u64,
}

#[derive(Debug)]
struct Peer {
    channel: Channel,
    inbox: Inbox,
    watches: bool,
    name: String,
    may: May,
}

impl Socket {
    /// Listens, in the first folder that can be had; removes what dead sessions left there.
    pub fn open(caller: &Caller, session: SessionId) -> io::Result<Self> {
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for folder in folders(caller) {
            match Self::open_in(&folder, caller.uid, session) {
                Ok(socket) => return Ok(socket),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn open_in(path: &Path, owner: Uid, session: SessionId) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let folder = open_folder(path)?;
        // What was opened, whatever has the name by now. It is left as it is: where others choose what is
        // above it, it may not be ours to change.
        let stat = rustix::fs::fstat(&folder)?;
        if stat.st_uid != owner.as_raw() || stat.st_mode & 0o022 != 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        for stale in sessions_in(path) {
            // Another session's that lives answers; a dead one's refuses.
            let refused = connect_in(&folder, stale)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            if refused {
                remove(&folder, &file_name(stale));
            }
        }
        let name = file_name(session);
        let listener = UnixListener::bind(below(&folder, &name))?;
        let socket = Self {
            listener,
            folder,
            name,
            owner,
            peers: BTreeMap::new(),
            last: 0,
        };
        // Who is at the other end is asked in any case; this says it twice.
        rustix::fs::chmodat(
            &socket.folder,
            socket.name.as_str(),
            Mode::RUSR | Mode::WUSR,
            AtFlags::empty(),
        )?;
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }

    /// What may become readable.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let peers = self.peers.values().map(|peer| peer.channel.as_fd());
        std::iter::once(self.listener.as_fd()).chain(peers)
    }

    /// Lets in who knocks and reads what has come; never waits.
    pub fn requests(&mut self) -> Vec<(PeerId, SessionRequest)> {
        while let Ok((stream, _)) = self.listener.accept() {
            self.admit(stream);
        }
        let mut requests = Vec::new();
        self.peers.retain(|id, peer| {
            loop {
                match peer.inbox.next(&peer.channel) {
                    Ok(Some(request)) => requests.push((*id, request)),
                    Ok(None) => return true,
                    // Gone, or talking nonsense.
                    Err(_) => return false,
                }
            }
        });
        requests
    }

    fn admit(&mut self, stream: UnixStream) {
        let Ok(peer) = socket_peercred(&stream) else {
            return;
        };
        let uid = Uid::from_raw(peer.uid.as_raw());
        let known = uid == self.owner || uid.is_root();
        // A jail does not see the socket. Should it ever, it still has a network of its own.
        let inside = uid == self.owner && !shares_our_network(peer.pid);
        if !known || inside || self.peers.len() >= MAX_PEERS {
            return;
        }
        self.last += 1;
        let user = User::from_uid(uid).ok().flatten();
        let peer = Peer {
            channel: Channel::new(stream),
            inbox: Inbox::new(MAX_REQUEST),
            watches: false,
            name: user.map_or_else(|| format!("uid {uid}"), |user| user.name),
            may: May::Own,
        };
        self.peers.insert(PeerId(self.last), peer);
    }

    /// Lets somebody in whom the service has brought.
    pub fn admit_visitor(&mut self, visitor: Visitor, channel: Channel) {
        if self.peers.len() >= MAX_PEERS {
            return;
        }
        self.last += 1;
        let peer = Peer {
            channel,
            inbox: Inbox::new(MAX_REQUEST),
            watches: false,
            name: visitor.user,
            may: visitor.may,
        };
        self.peers.insert(PeerId(self.last), peer);
    }

    /// What this one may do; somebody who left, nothing but look.
    pub fn may(&self, peer: PeerId) -> May {
        self.peers.get(&peer).map_or(May::See, |peer| peer.may)
    }

    /// Who this is, for the record.
    pub fn name(&self, peer: PeerId) -> String {
        self.peers
            .get(&peer)
            .map_or_else(|| "somebody who left".to_owned(), |peer| peer.name.clone())
    }

    /// From now on this peer is told of every change.
    pub fn watch(&mut self, peer: PeerId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.watches = true;
        }
    }

    /// Tells one peer. One that does not read is cut off.
    pub fn tell(&mut self, peer: PeerId, reply: &SessionReply) {
        self.tell_with(peer, reply, &[]);
    }

    /// The same with descriptors.
    pub fn tell_with(&mut self, peer: PeerId, reply: &SessionReply, fds: &[BorrowedFd<'_>]) {
        let sent = self
            .peers
            .get(&peer)
            .is_some_and(|peer| peer.channel.send_now(reply, fds).is_ok());
        if !sent {
            self.peers.remove(&peer);
        }
    }

    /// Tells every peer that watches.
    pub fn tell_watchers(&mut self, reply: &SessionReply) {
        self.peers
            .retain(|_, peer| !peer.watches || peer.channel.send_now(reply, &[]).is_ok());
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        remove(&self.folder, &self.name);
    }
}

/// Whether a process is in our network namespace; one that cannot be looked at is not.
fn shares_our_network(process: rustix::process::Pid) -> bool {
    let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net"));
    match (network(&process.to_string()), network("self")) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        // The networks of the host's other processes do not show in a namespace that root made for us. A jail
        // also counts its processes for itself.
        (Err(error), Ok(_)) if error.kind() == io::ErrorKind::PermissionDenied => {
            is_counted_as_we_are(process)
        }
        _ => false,
    }
}

/// Whether a process is in our PID namespace and in none below it: it has one number, as we have (`NSpid`,
/// proc_pid_status(5); everybody can read that of everybody).
fn is_counted_as_we_are(process: rustix::process::Pid) -> bool {
    let numbers = |process: &str| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("NSpid:"))?;
        Some(line.split_ascii_whitespace().count())
    };
    let (theirs, ours) = (numbers(&process.to_string()), numbers("self"));
    theirs.is_some() && theirs == ours
}

/// The caller's sessions that have a socket, oldest first. One may have died without removing it.
pub fn sessions(caller: &Caller) -> Vec<SessionId> {
    let mut sessions: Vec<_> = folders(caller)
        .iter()
        .flat_map(|folder| sessions_in(folder))
        .collect();
    sessions.sort_unstable();
    sessions.dedup();
    sessions
}

/// Connects to a running session.
pub fn connect(caller: &Caller, session: SessionId) -> io::Result<Channel> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for folder in folders(caller) {
        let connected = open_folder(&folder).and_then(|folder| connect_in(&folder, session));
        match connected {
            Ok(stream) => {
                set_socket_timeout(&stream, Timeout::Recv, Some(ANSWER))?;
                set_socket_timeout(&stream, Timeout::Send, Some(ANSWER))?;
                return Ok(Channel::new(stream));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn sessions_in(folder: &Path) -> Vec<SessionId> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_suffix(SUFFIX)?.parse().ok()
        })
        .collect()
}

fn file_name(session: SessionId) -> String {
    format!("{session}{SUFFIX}")
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A path that is short whatever the folder's is: an address has room for 107 bytes (unix(7)).
fn below(folder: &OwnedFd, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()).into()
}

fn connect_in(folder: &OwnedFd, session: SessionId) -> io::Result<UnixStream> {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    };
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    // A session that is stopped (SIGSTOP) takes nobody from its queue; at the end of a full one connect(2)
    // would wait for ever.
    set_socket_timeout(&socket, Timeout::Send, Some(KNOCK))?;
    connect(
        &socket,
        &SocketAddrUnix::new(below(folder, &file_name(session)))?,
    )?;
    let stream = UnixStream::from(socket);
    // Whoever put the socket there must be us, or root.
    let uid = Uid::from_raw(socket_peercred(&stream)?.uid.as_raw());
    if uid != getuid() && !uid.is_root() && !getuid().is_root() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(stream)
}

fn remove(folder: &OwnedFd, name: &str) {
    // Somebody else may have removed it; the next session tries again.
    rustix::fs::unlinkat(folder, name, AtFlags::empty()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_session_that_takes_nobody_in_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let session = SessionId::generate();
        let listener = UnixListener::bind(folder.path().join(file_name(session))).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let opened = open_folder(folder.path()).unwrap();
        let waiting = connect_in(&opened, session).unwrap();
        let (told, answer) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(connect_in(&opened, session).map(drop)));
        let refused = answer.recv_timeout(std::time::Duration::from_secs(30));
        let kind = refused.unwrap().unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::WouldBlock);
        drop(waiting);
    }

    #[test]
    fn a_folder_that_others_can_write_holds_no_socket_and_any_other_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let mode = |mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let open = |owner| Socket::open_in(path, owner, SessionId::generate());
        for others_write in [0o777, 0o775, 0o702] {
            mode(others_write);
            assert!(open(getuid()).is_err());
        }
        mode(0o755);
        assert!(open(Uid::from_raw(getuid().as_raw() + 1)).is_err());
        drop(open(getuid()).unwrap());
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o755);
        assert_eq!(path.read_dir().unwrap().count(), 0);
    }
}

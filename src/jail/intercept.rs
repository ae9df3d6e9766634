//! The helper that makes the jail's connections lead to the gate: `portcullis-init intercept`, outside of
//! the jail.
//!
//! Owns: the changes to the jail's network namespace, and the sockets it makes there until they are sent
//! out. Trusts: its session. Never: changes another namespace than the one it was given, least of all the
//! host's ([`namespace::enter_network`]); runs longer than its session.
//!
//! Not the work of init, because init never holds a capability over the network: in an ordinary user's jail
//! bubblewrap makes two user namespaces, the outer one owns the network and the command lives in the inner
//! one. The user who made a user namespace may join it, so a process of the caller's that is not in the jail
//! can do it, and nothing in the jail needs a right that would have to be taken away again. In a namespace that
//! root made, it is started as that one's uid 0.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ExitCode};

use nix::errno::Errno;
use nix::sys::socket::sockopt::IpTransparent;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen,
    setsockopt, socket,
};

use super::error::JailError;
use super::footing::Footing;
use super::{routes, tproxy};
use crate::exit::Exit;
use crate::sys::fd::proc_path;
use crate::sys::process::Spawn;
use crate::sys::{fd, harden, namespace, signal};
use crate::wire::Channel;
use crate::wire::frame::Received;
use crate::wire::transparent::{Intercept, Intercepted};

/// Where the jail's programs ask for names.
const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

const CURE: &str = "; it needs the kernel's nf_tables and nft_tproxy (`modprobe nft_tproxy`); or set \
                    network.transparent = false";

/// The session's side: a helper that waits for its order.
#[derive(Debug)]
pub struct Interceptor {
    channel: Channel,
    child: Child,
}

impl Interceptor {
    /// Starts the process: the program of init with one argument.
    pub fn start(init: &impl AsFd, footing: Footing) -> Result<Self, JailError> {
        let failed = |source| JailError::Start {
            what: "portcullis-init intercept",
            source,
        };
        let (channel, theirs) = Channel::pair().map_err(failed)?;
        let program = init.as_fd().try_clone_to_owned().map_err(failed)?;
        let spawn = Spawn::new(Path::new(&proc_path(&program)))
            .arg("intercept")
            .fd(theirs, 3)
            .own_process_group();
        let child = footing.raise(spawn).start().map_err(failed)?;
        Ok(Self { channel, child })
    }

    /// Gives the order; the answer comes on [`Interceptor::channel`].
    pub fn order(&self, network: &OwnedFd) -> Result<(), JailError> {
        let sent = self.channel.send_with(&Intercept {}, &[network.as_fd()]);
        sent.map_err(|error| JailError::Intercept(error.to_string()))
    }

    /// Where the answer comes.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The sockets, if it is done.
    pub fn outcome(answer: Received<Intercepted>) -> Result<Vec<OwnedFd>, JailError> {
        match answer.message {
            Intercepted::Done => Ok(answer.fds),
            Intercepted::Failed(why) => Err(JailError::Intercept(why)),
        }
    }
}

impl Drop for Interceptor {
    fn drop(&mut self) {
        // It ends with its answer, or waits for an order that will not come. An error means that it is gone.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Entry of `portcullis-init intercept`.
pub(super) fn main() -> ExitCode {
    match serve() {
        Ok(()) => Exit::Success.into(),
        Err(_) => Exit::Internal.into(),
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let channel = Channel::from(fd::inherit(3)?);
    signal::ignore_all()?;
    harden::no_core_dumps()?;
    let order = channel.recv_with::<Intercept>()?;
    let network = order.fds.into_iter().next().ok_or(Errno::EBADF)?;
    match run(&network) {
        Ok(sockets) => {
            let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            channel.send_with(&Intercepted::Done, &sockets)?;
        }
        Err(why) => channel.send(&Intercepted::Failed(format!("{why}{CURE}")))?,
    }
    Ok(())
}

/// The list.
fn run(network: &OwnedFd) -> Result<Vec<OwnedFd>, String> {
    // 1. Enter the jail's network namespace, and no other one.
    at(
        "enter the jail's network",
        namespace::enter_network(network),
    )?;
    // 2. The listeners: without them a route would lead to nobody.
    let [v4, v6] =
        tproxy::LISTEN.map(|address| bound(SocketAddr::new(address, 0), SockType::Stream, true));
    let v4 = at("listen on 127.0.0.1", v4)?;
    let v6 = match v6 {
        // This host has no IPv6, or has it switched off.
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => None,
        other => Some(at("listen on [::1]", other)?),
    };
    let udp = at("bind 127.0.0.1:53", bound(DNS, SockType::Datagram, false))?;
    let tcp = at("bind 127.0.0.1:53", bound(DNS, SockType::Stream, false))?;
    // 3. The rule before the routes: never does a connection reach what is not the gate's.
    let listeners = [Some(&v4), v6.as_ref()].into_iter().flatten();
    let places: Result<Vec<_>, _> = listeners.map(place).collect();
    at("ask for the listeners' ports", places)
        .and_then(|places| tproxy::install(&places).map_err(|refused| refused.to_string()))?;
    // 4. Every address leads there.
    let loopback = at("find lo", nix::net::if_::if_nametoindex("lo"))?;
    routes::install(loopback, v6.is_some()).map_err(|refused| refused.to_string())?;
    Ok([v4, udp, tcp].into_iter().chain(v6).collect())
}

fn at<T>(step: &str, result: Result<T, impl Display>) -> Result<T, String> {
    result.map_err(|error| format!("{step}: {error}"))
}

fn place(listener: &OwnedFd) -> nix::Result<SocketAddr> {
    let place: SockaddrStorage = getsockname(listener.as_raw_fd())?;
    let v4 = place.as_sockaddr_in().map(|v4| (*v4).into());
    let v6 = || place.as_sockaddr_in6().map(|v6| (*v6).into());
    v4.map(SocketAddr::V4)
        .or_else(|| v6().map(SocketAddr::V6))
        .ok_or(Errno::EAFNOSUPPORT)
}

/// A socket that is bound, and listens if it is a stream's.
fn bound(at: SocketAddr, kind: SockType, transparent: bool) -> nix::Result<OwnedFd> {
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if transparent {
        setsockopt(&socket, IpTransparent, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    if kind == SockType::Stream {
        listen(&socket, Backlog::new(1024)?)?;
    }
    Ok(socket)
}

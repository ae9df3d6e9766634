//! A port of the host that leads to one of a running session's jail: the side of whoever asks.
//!
//! Owns: the listener, its connections, and the copying between the two ends. Trusts: the session, and the
//! kernel about whose a connection is. Never: looks at what is copied; lets another user in, but on an
//! address that is no loopback, where the caller said so.

mod owner;

use std::fmt::{self, Display};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::unistd::{Uid, getuid};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::caller::Caller;
use super::socket;
use crate::ids::SessionId;
use crate::policy::Port;
use crate::wire::session::{SessionReply, SessionRequest};
use crate::wire::{Channel, WireError};

/// Connections of one forward at once; the next is closed unheard.
const MAX_OPEN: usize = 256;

/// Bytes that are on their way in one direction of a connection.
const BUFFER: usize = 64 << 10;

/// For a session to answer: longer than its helper may need for all that wait.
const ANSWER: Duration = Duration::from_mins(5);

/// After an error of accept(2), which is a want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Which port of the host leads to which of the jail: `[BIND:]HOSTPORT:JAILPORT`, or `PORT` for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens.
    pub at: SocketAddr,
    /// The jail's port.
    pub to: Port,
}

impl FromStr for Forward {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a forward is [BIND:]HOSTPORT:JAILPORT, or PORT for both";
        let (before, to) = text.rsplit_once(':').unwrap_or((text, text));
        let to = Port::parse(to).ok_or(FORM)?;
        let (bind, port) = match before.rsplit_once(':') {
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), before),
            Some((bind, port)) => {
                let inner = bind
                    .strip_prefix('[')
                    .and_then(|bind| bind.strip_suffix(']'));
                let bind = match (inner, bind) {
                    (None, "localhost") => Ipv4Addr::LOCALHOST.into(),
                    (None, v4) => IpAddr::V4(v4.parse().map_err(|_| FORM)?),
                    (Some(v6), _) => IpAddr::V6(v6.parse().map_err(|_| FORM)?),
                };
                (bind, port)
            }
        };
        let port = match port {
            "0" => 0,
            other => Port::parse(other).ok_or(FORM)?.number(),
        };
        Ok(Self {
            at: SocketAddr::new(bind, port),
            to,
        })
    }
}

/// A session that connections are asked of. One at a time: an answer brings a descriptor, and must be the
/// one to this question.
#[derive(Debug)]
pub struct Door {
    caller: Caller,
    session: SessionId,
    /// `None` after an exchange that was not finished.
    channel: Mutex<Option<Channel>>,
}

impl Door {
    /// The door of this session.
    pub fn new(caller: Caller, session: SessionId) -> Self {
        Self {
            caller,
            session,
            channel: Mutex::new(None),
        }
    }

    /// A connection to this port of the jail; or why there is none, one line that may hold the session's
    /// text.
    fn reach(&self, port: Port) -> Result<TcpStream, String> {
        let mut held = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match held.take() {
            Some(channel) => channel,
            None => self
                .connect()
                .map_err(|error| format!("session: {error}"))?,
        };
        let asked = channel
            .send(&SessionRequest::Reach { port })
            .and_then(|()| channel.recv_with());
        let answer = asked.map_err(|error| match error {
            WireError::Closed => "the session ended".to_owned(),
            other => format!("session: {other}"),
        })?;
        let fd: Option<OwnedFd> = answer.fds.into_iter().next();
        match (answer.message, fd) {
            (SessionReply::Reached, Some(fd)) => {
                *held = Some(channel);
                Ok(fd.into())
            }
            (SessionReply::Failed(why), _) => {
                *held = Some(channel);
                Err(why)
            }
            _ => Err("session: unexpected answer; are both portcullis of one version?".to_owned()),
        }
    }

    fn connect(&self) -> io::Result<Channel> {
        let channel = socket::connect(&self.caller, self.session)?;
        set_socket_timeout(&channel, Timeout::Recv, Some(ANSWER))?;
        Ok(channel)
    }
}

/// A listening port of the host.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    /// Where; the port that was found, if any would do.
    pub at: SocketAddr,
    /// The jail's port.
    pub to: Port,
}

impl Listening {
    /// Listens.
    pub fn open(forward: &Forward) -> io::Result<Self> {
        let listener = TcpListener::bind(forward.at)?;
        let at = listener.local_addr()?;
        let to = forward.to;
        Ok(Self { listener, at, to })
    }

    /// Takes connections for as long as this process lives; tells what became of those that led nowhere.
    pub fn serve(self, door: &Arc<Door>, tell: fn(&str)) {
        let open = Arc::new(AtomicUsize::new(0));
        let Self { listener, at, to } = self;
        let tell = move |what: &dyn Display| tell(&format!("{at}: {what}"));
        loop {
            let client = match listener.accept() {
                Ok((client, _)) => client,
                Err(error) => {
                    tell(&format_args!("accept: {error}"));
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            let slot = Slot::new(&open);
            if slot.0.load(Ordering::Relaxed) > MAX_OPEN {
                tell(&format_args!(
                    "{MAX_OPEN} connections are open: closed the next"
                ));
                continue;
            }
            let door = Arc::clone(door);
            let started = thread::Builder::new().spawn(move || {
                let _slot = slot;
                if let Err(why) = carry(&client, &door, to) {
                    tell(&why);
                }
            });
            if let Err(error) = started {
                tell(&format_args!("start a thread: {error}"));
            }
        }
    }
}

/// A connection that is counted until it is over.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection led nowhere.
enum Nowhere {
    /// It is not the caller's.
    Stranger(Option<Uid>),
    /// The session gave none.
    NotReached(String),
    /// This host failed.
    Failed(io::Error),
}

impl Display for Nowhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stranger(Some(uid)) => write!(f, "closed a connection of uid {uid}: not yours"),
            Self::Stranger(None) => f.write_str(
                "closed a connection that nobody holds any more: not known whose it was",
            ),
            Self::NotReached(why) => f.write_str(why),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// One connection, from its first look to its end.
fn carry(client: &TcpStream, door: &Door, to: Port) -> Result<(), Nowhere> {
    let here = client.local_addr().map_err(Nowhere::Failed)?;
    // Any user of this host can connect to a loopback address; whoever opened another one was told.
    if here.ip().to_canonical().is_loopback() {
        let peer = client.peer_addr().map_err(Nowhere::Failed)?;
        let owner = owner::of(peer, here).map_err(Nowhere::Failed)?;
        if !owner.is_some_and(|uid| uid == getuid() || uid.is_root()) {
            return Err(Nowhere::Stranger(owner));
        }
    }
    let inside = door.reach(to).map_err(Nowhere::NotReached)?;
    relay(client, &inside).map_err(Nowhere::Failed)
}

/// Copies both ways until both have ended.
fn relay(client: &TcpStream, inside: &TcpStream) -> io::Result<()> {
    for socket in [client, inside] {
        // What one end sends at once goes on at once. An end that is gone is found out below.
        socket.set_nodelay(true).ok();
    }
    thread::scope(|scope| {
        thread::Builder::new().spawn_scoped(scope, || copy(inside, client))?;
        copy(client, inside);
        Ok(())
    })
}

/// Copies one way. An end is passed on, and the other direction goes on until it ends by itself.
fn copy(from: &TcpStream, to: &TcpStream) {
    let (mut reader, mut writer) = (from, to);
    let mut buffer = vec![0; BUFFER];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => {
                // An error of shutdown(2) means that it is gone already.
                to.shutdown(Shutdown::Write).ok();
                return;
            }
            Ok(got) => {
                let bytes = buffer.get(..got).unwrap_or_default();
                if writer.write_all(bytes).is_err() {
                    // Nobody takes it any more; what comes the other way may still be wanted.
                    from.shutdown(Shutdown::Read).ok();
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                // This end broke off: nothing can be brought to it either.
                to.shutdown(Shutdown::Both).ok();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_read_whole_or_not_at_all() {
        let read = |text: &str| {
            let forward = text.parse::<Forward>();
            forward.map(|read| (read.at.to_string(), read.to.number()))
        };
        for (text, at, to) in [
            ("3000", "127.0.0.1:3000", 3000),
            ("8080:3000", "127.0.0.1:8080", 3000),
            ("0:3000", "127.0.0.1:0", 3000),
            ("127.0.0.2:80:3000", "127.0.0.2:80", 3000),
            ("localhost:80:3000", "127.0.0.1:80", 3000),
            ("[::1]:8080:3000", "[::1]:8080", 3000),
            ("0.0.0.0:8080:3000", "0.0.0.0:8080", 3000),
        ] {
            assert_eq!(read(text), Ok((at.to_owned(), to)), "{text}");
        }
        for wrong in [
            "",
            "0",
            ":",
            "8080:",
            ":3000",
            "8080:0",
            "65536",
            "+80",
            "::1:80:80",
            "a:80:80",
            "[127.0.0.1]:80:80",
            "80:80:80",
            "1:2:3:4",
            "127.0.0.1:80 :80",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

//! The session's side of `portcullisd`, which started it ([`crate::wire::service`]): what it was told to run,
//! what it asks for, and who visits.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::ids::SessionId;
use crate::jail::cgroup::{Groups, Missing};
use crate::policy::{AuditPolicy, ResourceLimits};
use crate::wire::detached::Start;
use crate::wire::frame::Received;
use crate::wire::service::{Ask, Asked, CallerLimit, MissingGroup, ToSession, Visitor};
use crate::wire::{Channel, WireError};

/// For the daemon to answer: it may be waiting for a slow disk, or be restarted.
const ANSWER: Duration = Duration::from_secs(30);

/// As many groups as there are kinds of limits, and one to kill by.
const MOST_GROUPS: usize = 8;

/// The daemon did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// It said why.
    #[error("portcullisd: {0}")]
    Refused(String),
    /// It does not answer.
    #[error("portcullisd: {0}; the service may have been stopped")]
    Wire(#[from] WireError),
    /// It answered something else.
    #[error("portcullisd: unexpected answer; are all processes of one version?")]
    Unexpected,
}

/// The channel to the daemon.
#[derive(Debug)]
pub struct Service {
    channel: Channel,
    /// Who is here.
    pub session: SessionId,
    /// The caller's name, as the daemon knows it.
    pub user: String,
    /// The profiles that the caller may use, the host's own alone; `None`: any.
    pub profiles: Option<Vec<String>>,
    /// The most of the machine that the session may take.
    pub limits: ResourceLimits,
    /// Visitors that came while an answer was waited for.
    visitors: VecDeque<(Visitor, Channel)>,
    /// The number of the last request.
    asked: u32,
    gone: bool,
}

/// What the daemon says to a request.
#[derive(Debug)]
enum Answer {
    /// This.
    Message(ToSession, Vec<OwnedFd>),
    /// It is another daemon, which was asked once more: what came before is void.
    Again,
}

/// The same, for those who ask and those who let visitors in.
pub type Shared = Rc<RefCell<Service>>;

/// What was asked for, and with which descriptors.
#[derive(Debug)]
pub struct Boot {
    /// The way to the daemon from now on.
    pub service: Service,
    /// The profile for which the daemon has let the caller in.
    pub profile: String,
    /// The caller's variables.
    pub environment: Vec<(String, String)>,
    /// The launch request, as JSON text.
    pub request: String,
    /// Whether the session goes on without whoever asked for it.
    pub detached: bool,
    /// The way to whoever asked for it.
    pub requester: Channel,
    /// The folder to start in.
    pub folder: OwnedFd,
    /// Standard input, output and error, if the session shares the requester's.
    pub streams: Option<[OwnedFd; 3]>,
}

impl Boot {
    /// Waits for the daemon's first word, and for what the caller has to say. The caller's umask and limits are ours
    /// from then on.
    pub fn receive(channel: Channel) -> Result<Self, ServiceError> {
        let Received { message, fds, .. } = channel.recv_with::<ToSession>()?;
        let ToSession::Boot(boot) = message else {
            return Err(ServiceError::Unexpected);
        };
        for limit in &boot.caller_limits {
            bind(limit)?;
        }
        let [requester] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| ServiceError::Unexpected)?;
        let requester = Channel::from(requester);
        patience(&requester, Some(ANSWER))?;
        let Received { message, fds, .. } = requester.recv_with::<Start>()?;
        patience(&requester, None)?;
        rustix::process::umask(Mode::from_raw_mode(message.umask & 0o777));
        let mut fds = fds.into_iter();
        let folder = fds.next().ok_or(ServiceError::Unexpected)?;
        let streams = match (fds.next(), fds.next(), fds.next()) {
            (None, None, None) => None,
            (Some(input), Some(output), Some(error)) => Some([input, output, error]),
            _ => return Err(ServiceError::Unexpected),
        };
        patience(&channel, Some(ANSWER))?;
        Ok(Self {
            service: Service {
                channel,
                session: boot.session,
                user: boot.user,
                profiles: boot.profiles,
                limits: boot.limits.into_iter().collect(),
                visitors: VecDeque::new(),
                asked: 0,
                gone: false,
            },
            profile: boot.profile,
            environment: message.environment,
            request: message.request,
            detached: boot.detached,
            requester,
            folder,
            streams,
        })
    }
}

fn patience(channel: &Channel, time: Option<Duration>) -> Result<(), WireError> {
    let set = set_socket_timeout(channel, Timeout::Recv, time);
    set.map_err(|errno| WireError::Io(errno.into()))
}

/// Takes a limit of the caller's for our own, where it is below ours.
fn bind(theirs: &CallerLimit) -> Result<(), ServiceError> {
    let resource = match theirs.name.as_str() {
        "Max cpu time" => Resource::Cpu,
        "Max file size" => Resource::Fsize,
        "Max data size" => Resource::Data,
        "Max stack size" => Resource::Stack,
        "Max core file size" => Resource::Core,
        "Max resident set" => Resource::Rss,
        "Max processes" => Resource::Nproc,
        "Max open files" => Resource::Nofile,
        "Max locked memory" => Resource::Memlock,
        "Max address space" => Resource::As,
        "Max file locks" => Resource::Locks,
        "Max pending signals" => Resource::Sigpending,
        "Max msgqueue size" => Resource::Msgqueue,
        "Max nice priority" => Resource::Nice,
        "Max realtime priority" => Resource::Rtprio,
        "Max realtime timeout" => Resource::Rttime,
        // Of a newer kernel.
        _ => return Ok(()),
    };
    let lower = |ours: Option<u64>, theirs: Option<u64>| match (ours, theirs) {
        (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
        (ours, theirs) => ours.or(theirs),
    };
    let ours = getrlimit(resource);
    let maximum = lower(ours.maximum, theirs.hard);
    let bound = Rlimit {
        current: lower(maximum, theirs.soft),
        maximum,
    };
    setrlimit(resource, bound).map_err(|errno| WireError::Io(errno.into()))?;
    Ok(())
}

impl Service {
    /// Has an audit writer and a gate started: gives the lane to the writer and the gate's control channel.
    pub fn companions(&mut self, kept: &AuditPolicy) -> Result<[Channel; 2], ServiceError> {
        let fds = self.ask(Ask::Companions {
            durability: kept.durability,
            on_failure: kept.on_failure,
        })?;
        let [lane, control] =
            <[OwnedFd; 2]>::try_from(fds).map_err(|_| ServiceError::Unexpected)?;
        Ok([lane.into(), control.into()])
    }

    /// Has another gate started in the place of the one there is: gives its control channel.
    pub fn another_gate(&mut self) -> Result<Channel, ServiceError> {
        self.ask_for_one(Ask::Gate)
    }

    /// Has another audit writer started in the place of the one there is: gives the lane to it.
    pub fn another_writer(&mut self) -> Result<Channel, ServiceError> {
        self.ask_for_one(Ask::Writer)
    }

    /// Has another witness started: gives the channel to it.
    pub fn another_witness(&mut self) -> Result<Channel, ServiceError> {
        self.ask_for_one(Ask::Witness)
    }

    /// Has control groups made that hold these limits, and says which limits none holds.
    pub fn groups(
        &mut self,
        limits: &ResourceLimits,
    ) -> Result<(Option<Groups>, Vec<Missing>), ServiceError> {
        let limits: BTreeMap<_, _> = limits.iter().collect();
        let asked = self.say(Ask::Groups { limits })?;
        let mut handed = Vec::new();
        loop {
            match self.answer(&asked)? {
                Answer::Again => handed.clear(),
                Answer::Message(ToSession::Group { words, .. }, fds)
                    if handed.len() < MOST_GROUPS =>
                {
                    handed.push((words, fds));
                }
                Answer::Message(ToSession::Grouped { missing, .. }, _) => {
                    let missing = missing.into_iter();
                    let missing =
                        missing.map(|MissingGroup { resource, cause }| Missing { resource, cause });
                    let groups = Groups::take_over(&self.session.to_string(), handed);
                    return Ok((groups, missing.collect()));
                }
                Answer::Message(ToSession::Refused { why, .. }, _) => {
                    return Err(ServiceError::Refused(why));
                }
                Answer::Message(..) => return Err(ServiceError::Unexpected),
            }
        }
    }

    fn ask_for_one(&mut self, ask: Ask) -> Result<Channel, ServiceError> {
        let fds = self.ask(ask)?;
        let [one] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| ServiceError::Unexpected)?;
        Ok(one.into())
    }

    fn ask(&mut self, ask: Ask) -> Result<Vec<OwnedFd>, ServiceError> {
        let asked = self.say(ask)?;
        loop {
            match self.answer(&asked)? {
                Answer::Again => {}
                Answer::Message(ToSession::Given { .. }, fds) => return Ok(fds),
                Answer::Message(ToSession::Refused { why, .. }, _) => {
                    return Err(ServiceError::Refused(why));
                }
                Answer::Message(..) => return Err(ServiceError::Unexpected),
            }
        }
    }

    fn say(&mut self, ask: Ask) -> Result<Asked, ServiceError> {
        self.asked += 1;
        let number = self.asked;
        let asked = Asked { number, ask };
        self.channel.send(&asked)?;
        Ok(asked)
    }

    /// The next message that belongs to this request. What belongs to an earlier one came too late for it.
    fn answer(&mut self, asked: &Asked) -> Result<Answer, ServiceError> {
        loop {
            let Received {
                message, mut fds, ..
            } = self.channel.recv_with::<ToSession>()?;
            match message {
                ToSession::Visitor(visitor) => {
                    let channel = fds.pop().ok_or(ServiceError::Unexpected)?;
                    self.visitors.push_back((visitor, channel.into()));
                }
                ToSession::Renewed => {
                    self.channel.send(asked)?;
                    return Ok(Answer::Again);
                }
                message if message.number().is_some_and(|number| number < asked.number) => {}
                message => return Ok(Answer::Message(message, fds)),
            }
        }
    }

    /// For more than one to use.
    pub fn shared(self) -> Shared {
        Rc::new(RefCell::new(self))
    }

    /// What becomes readable when somebody visits, or the daemon is gone.
    pub fn bell(&self) -> io::Result<OwnedFd> {
        self.channel.as_fd().try_clone_to_owned()
    }

    /// Whether nobody will come any more.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Who has come to visit. Reads only what is there: the daemon sends whole frames.
    pub fn visitors(&mut self) -> Vec<(Visitor, Channel)> {
        while !self.gone && self.is_readable() {
            match self.channel.recv_with::<ToSession>() {
                Ok(Received {
                    message, mut fds, ..
                }) => match (message, fds.pop()) {
                    (ToSession::Visitor(visitor), Some(channel)) => {
                        self.visitors.push_back((visitor, channel.into()));
                    }
                    // Nothing waits to be asked again, and an answer came too late.
                    (ToSession::Renewed, _) => {}
                    (message, _) if message.number().is_some() => {}
                    _ => self.gone = true,
                },
                Err(_) => self.gone = true,
            }
        }
        self.visitors.drain(..).collect()
    }

    fn is_readable(&self) -> bool {
        super::companions::readable([self.channel.as_fd()], Duration::ZERO)
            .is_ok_and(|[readable]| readable)
    }
}

/// Makes the folder current and the streams our own.
pub fn settle_in(folder: &OwnedFd, streams: Option<[OwnedFd; 3]>) -> io::Result<()> {
    rustix::process::fchdir(folder)?;
    if let Some([input, output, error]) = streams {
        rustix::stdio::dup2_stdin(input)?;
        rustix::stdio::dup2_stdout(output)?;
        rustix::stdio::dup2_stderr(error)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::wire::service::GroupWords;

    fn service() -> (Service, Channel) {
        let (channel, daemon) = Channel::pair().unwrap();
        for end in [&channel, &daemon] {
            patience(end, Some(ANSWER)).unwrap();
        }
        let service = Service {
            channel,
            session: SessionId::generate(),
            user: "ada".to_owned(),
            profiles: None,
            limits: ResourceLimits::default(),
            visitors: VecDeque::new(),
            asked: 0,
            gone: false,
        };
        (service, daemon)
    }

    #[test]
    fn what_a_daemon_took_and_did_not_answer_is_asked_of_the_next_one() {
        let (mut service, daemon) = service();
        let daemon = thread::spawn(move || {
            let first: Asked = daemon.recv().unwrap();
            // It dies here, after half of an answer.
            let words = GroupWords {
                version: 1,
                resources: Vec::new(),
            };
            let number = first.number;
            daemon.send(&ToSession::Group { number, words }).unwrap();
            daemon.send(&ToSession::Renewed).unwrap();
            let second: Asked = daemon.recv().unwrap();
            let missing = Vec::new();
            daemon
                .send(&ToSession::Grouped { number, missing })
                .unwrap();
            (first, second)
        });
        let (groups, missing) = service.groups(&ResourceLimits::default()).unwrap();
        assert!(groups.is_none() && missing.is_empty());
        let (first, second) = daemon.join().unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn an_answer_that_came_twice_is_taken_once() {
        let (mut service, daemon) = service();
        let daemon = thread::spawn(move || {
            for kind in ["one", "another"] {
                let asked: Asked = daemon.recv().unwrap();
                let number = asked.number;
                for why in [kind.to_owned(), "the same again".to_owned()] {
                    daemon.send(&ToSession::Refused { number, why }).unwrap();
                }
            }
            daemon
        });
        for kind in ["one", "another"] {
            let refused = service.another_gate().map(drop).unwrap_err();
            assert_eq!(refused.to_string(), format!("portcullisd: {kind}"));
        }
        let _daemon = daemon.join().unwrap();
        // The last one is passed over, and the channel is still good.
        assert!(service.visitors().is_empty());
        assert!(!service.is_readable());
    }
}

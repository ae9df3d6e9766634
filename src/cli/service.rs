//! The service from the command line: asking `portcullisd`, and the session process that it starts.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::attach::{self, End};
use super::failure::{Failure, Outcome};
use super::{detached, print, run};
use crate::audit::bodies::BodyPlace;
use crate::audit::segment::SegmentName;
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::session::live::has_terminal;
use crate::session::requester::Requester;
use crate::session::service::{Boot, Service, ServiceError, settle_in};
use crate::session::{self, Ask, Backing, LaunchRequest, Progress, caller, running};
use crate::sys::fd;
use crate::wire::control::{
    ControlReply, ControlRequest, Launch, Listed, Refusal, SOCKET, Segment,
};
use crate::wire::detached::{FromStarter, Launched, Start};
use crate::wire::service::CHANNEL_FD;
use crate::wire::{Channel, Inbox, WireError};

/// For the daemon to answer: it does so at once, unless it is being restarted.
const ANSWER: Duration = Duration::from_secs(30);

/// The longest message of a session, in bytes.
const LONGEST: usize = 1 << 20;

/// Whether this host has the service, and the caller is somebody whom it serves: root's sessions are root's own.
pub(super) fn serves(caller: &caller::Caller) -> bool {
    !caller.uid.is_root() && is_there()
}

/// Whether this host has the service.
pub(super) fn is_there() -> bool {
    Path::new(SOCKET).exists()
}

// === The asking side ===

/// Asks the daemon, and waits for its answer.
fn ask(request: &ControlRequest) -> Result<(ControlReply, Vec<OwnedFd>), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        let cure = "is portcullisd.service in order? run --standalone does without it";
        Failure::new(Exit::Unavailable, format!("portcullisd: {error}; {cure}"))
    };
    let stream = UnixStream::connect(SOCKET).map_err(|error| failed(&error))?;
    set_socket_timeout(&stream, Timeout::Recv, Some(ANSWER)).map_err(|error| failed(&error))?;
    let channel = Channel::new(stream);
    channel.send(request).map_err(|error| failed(&error))?;
    let received = channel.recv_with().map_err(|error| failed(&error))?;
    Ok((received.message, received.fds))
}

/// What the daemon's no is to a script.
fn refused(kind: Refusal, message: &str) -> Failure {
    let exit = match kind {
        Refusal::NotPermitted => Exit::NoPermission,
        Refusal::NotFound | Refusal::Failed => Exit::Unavailable,
    };
    Failure::new(exit, print::escape(message))
}

fn unexpected() -> Failure {
    let what = "portcullisd: unexpected answer; are all programs of one version?";
    Failure::new(Exit::Internal, what)
}

/// The sessions that the caller may know of.
pub(super) fn list() -> Result<Vec<Listed>, Failure> {
    match ask(&ControlRequest::List)?.0 {
        ControlReply::Sessions(listed) => Ok(listed),
        ControlReply::Refused { kind, message } => Err(refused(kind, &message)),
        _ => Err(unexpected()),
    }
}

/// The way to a session, whoever's it is.
pub(super) fn connect(session: SessionId) -> Result<Channel, Failure> {
    let (reply, mut fds) = ask(&ControlRequest::Connect { session })?;
    match (reply, fds.pop()) {
        (ControlReply::Connected, Some(channel)) => {
            let channel = Channel::from(channel);
            for way in [Timeout::Recv, Timeout::Send] {
                set_socket_timeout(&channel, way, Some(ANSWER))
                    .map_err(|errno| Failure::new(Exit::Internal, errno))?;
            }
            Ok(channel)
        }
        (ControlReply::Refused { kind, message }, _) => Err(refused(kind, &message)),
        _ => Err(unexpected()),
    }
}

/// The sessions whose logs the service keeps for the caller.
pub(super) fn logs() -> Result<Vec<SessionId>, Failure> {
    match ask(&ControlRequest::Logs)?.0 {
        ControlReply::Logs(sessions) => Ok(sessions),
        ControlReply::Refused { kind, message } => Err(refused(kind, &message)),
        _ => Err(unexpected()),
    }
}

/// The segments of the log of one of them.
pub(super) fn segments(session: SessionId) -> Result<Vec<SegmentName>, Failure> {
    match ask(&ControlRequest::Segments { session })?.0 {
        ControlReply::Segments(all) => {
            let named = all
                .into_iter()
                .map(|Segment { number, packed }| SegmentName {
                    session,
                    number,
                    packed,
                });
            Ok(named.collect())
        }
        ControlReply::Refused { kind, message } => Err(refused(kind, &message)),
        _ => Err(unexpected()),
    }
}

/// One of those, to read.
pub(super) fn open_segment(name: SegmentName) -> io::Result<OwnedFd> {
    let SegmentName {
        session,
        number,
        packed,
    } = name;
    let segment = Segment { number, packed };
    open(&ControlRequest::OpenLog { session, segment })
}

/// A body that is kept beside one of those, to read.
pub(super) fn open_body(place: &BodyPlace) -> io::Result<OwnedFd> {
    open(&ControlRequest::OpenBody(place.clone()))
}

/// A file that the daemon opens.
fn open(request: &ControlRequest) -> io::Result<OwnedFd> {
    let failed = |failure: Failure| io::Error::other(failure.message);
    let (reply, mut fds) = ask(request).map_err(failed)?;
    match (reply, fds.pop()) {
        (ControlReply::Log, Some(file)) => Ok(file),
        (
            ControlReply::Refused {
                kind: Refusal::NotFound,
                ..
            },
            _,
        ) => Err(io::ErrorKind::NotFound.into()),
        (ControlReply::Refused { kind, message }, _) => Err(failed(refused(kind, &message))),
        _ => Err(failed(unexpected())),
    }
}

/// Has the daemon start a session: the same for the caller as one that `run` starts itself.
pub(super) fn launch(mut request: LaunchRequest, detached: bool, quiet: bool) -> Outcome {
    let not_started = |error: &dyn std::fmt::Display| Failure::new(Exit::NotStarted, error);
    if request.ask == Some(Ask::Terminal) {
        let why = "--ask terminal: a session of the service has no terminal of yours; use --ask others, or --standalone";
        return Err(Failure::new(Exit::Usage, why));
    }
    let own_terminal = detached || all_terminals();
    if own_terminal {
        request.terminal = Some(detached::size());
    }
    let folder = request.folder.take();
    let folder = folder.as_deref().unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).map_err(|errno| {
        let error = io::Error::from(errno);
        not_started(&format!("workspace {}: {error}", folder.display()))
    })?;
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    let mut fds = vec![opened.as_fd()];
    if !own_terminal {
        fds.extend([input.as_fd(), output.as_fd(), error.as_fd()]);
    }
    let text = serde_json::to_string(&request).map_err(|error| not_started(&error))?;
    let launch = Launch {
        profile: request.profile.clone(),
        name: request.name.clone(),
        detached,
    };
    let start = Start {
        umask: umask(),
        environment: environment(),
        request: text,
    };
    // Before anything runs that a signal could miss.
    let signals = watch_signals().map_err(|error| not_started(&error))?;
    let (reply, mut given) = ask(&ControlRequest::Launch(Box::new(launch)))
        .map_err(|failure| Failure::new(Exit::NotStarted, failure.message))?;
    let channel = match (reply, given.pop()) {
        (ControlReply::Launching(_), Some(channel)) => Channel::from(channel),
        (ControlReply::Refused { message, .. }, _) => {
            return Err(Failure::new(Exit::NotStarted, print::escape(&message)));
        }
        _ => return Err(unexpected()),
    };
    // A session that is gone already says why by what it has left in the channel.
    channel.send_with(&start, &fds).ok();
    Starter {
        channel,
        signals,
        inbox: Inbox::new(LONGEST),
        quiet,
        leaves: detached,
        own_terminal,
        seat: if has_terminal() {
            Seat::Terminal
        } else {
            Seat::None
        },
    }
    .until_the_end()
}

/// Whether a person sits in front of all three streams: then the session gets a terminal of its own, and the
/// person is attached to it.
fn all_terminals() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// The caller's own umask, which can only be asked for by setting another.
fn umask() -> u32 {
    let umask = rustix::process::umask(Mode::from_raw_mode(0o077));
    rustix::process::umask(umask);
    umask.as_raw_mode()
}

/// The caller's variables. What is no UTF-8 could not be the jail's either.
fn environment() -> Vec<(String, String)> {
    let variables = std::env::vars_os();
    variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn watch_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        set.add(signal);
    }
    set.thread_block()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&set, flags)?)
}

/// Whoever waits for a session that another process runs.
struct Starter {
    channel: Channel,
    signals: SignalFd,
    inbox: Inbox,
    quiet: bool,
    /// It is left alone once its command runs.
    leaves: bool,
    own_terminal: bool,
    seat: Seat,
}

/// Whether the process belongs to a terminal, whose loss is a SIGHUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    /// To none.
    None,
    /// To one.
    Terminal,
    /// It is gone, and the session has been asked to end.
    Lost,
}

impl Starter {
    fn until_the_end(mut self) -> Outcome {
        loop {
            let Some(message) = self.next()? else {
                continue;
            };
            match message {
                Launched::Said(_) if self.quiet => {}
                Launched::Said(line) | Launched::Warned(line) => print::error(print::escape(&line)),
                Launched::Started(session) if self.leaves => {
                    print::line(session).ok();
                    return Ok(Exit::Success);
                }
                Launched::Started(session) if self.own_terminal => self.stay_in_front(session)?,
                Launched::Started(_) => {}
                Launched::Failed { code, message } => {
                    return Err(Failure::new(Exit::Command(code), print::escape(&message)));
                }
                Launched::Ended(code) => return Ok(Exit::Command(code)),
            }
        }
    }

    /// The next message; `None`: a signal was passed on instead.
    fn next(&mut self) -> Result<Option<Launched>, Failure> {
        loop {
            match self.inbox.next::<Launched>(&self.channel) {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(error) => return Err(gone(&error)),
            }
            let mut fds = [
                PollFd::new(&self.channel, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Failure::new(Exit::Internal, io::Error::from(errno))),
            }
            while let Ok(Some(info)) = self.signals.read_signal() {
                let number = i32::try_from(info.ssi_signo).unwrap_or(0);
                if self.leaves {
                    // Nobody waits for it any more, and it is not left alone half started.
                    return Err(Failure::new(
                        Exit::Signal(u8::try_from(number).unwrap_or(0)),
                        "interrupted before the session was started",
                    ));
                }
                self.pass_on(number, info.ssi_code == nix::libc::SI_KERNEL);
            }
        }
    }

    /// Tells the session of a signal. One that is gone says so by the end of the channel.
    fn pass_on(&mut self, number: i32, from_terminal: bool) {
        let hung_up = number == Signal::SIGHUP as i32;
        if hung_up && (from_terminal || self.seat != Seat::None) {
            // Without a terminal it is a service's way to say that its profile has changed.
            return self.end_with_the_terminal();
        }
        // In a terminal of the session's own the keys are bytes.
        let typed = from_terminal && !self.own_terminal;
        let message = if typed && number == Signal::SIGINT as i32 {
            FromStarter::Interrupt
        } else {
            FromStarter::Signal(number)
        };
        self.channel.send(&message).ok();
    }

    /// Asks the session to end, once: asked twice it would give its command no time.
    fn end_with_the_terminal(&mut self) {
        if std::mem::replace(&mut self.seat, Seat::Lost) != Seat::Lost {
            let ends = FromStarter::Signal(Signal::SIGTERM as i32);
            self.channel.send(&ends).ok();
        }
    }

    /// Keeps the person in front of the session's terminal until the command ends. The session says the rest.
    fn stay_in_front(&mut self, session: SessionId) -> Result<(), Failure> {
        let mut end = attach_to(session)?;
        loop {
            match end {
                End::Ended(_) => return Ok(()),
                End::Left => self.end_with_the_terminal(),
                End::Signal(number) => self.pass_on(number.into(), false),
                // Their terminal took too long, and it is still the session's.
                End::CutOff => {}
            }
            if self.seat == Seat::Lost {
                return Ok(());
            }
            // One that is gone meanwhile has said why.
            let Ok(next) = attach_to(session) else {
                return Ok(());
            };
            end = next;
        }
    }
}

/// Puts the person in front of the session's terminal.
fn attach_to(session: SessionId) -> Result<End, Failure> {
    let caller = caller::Caller::current();
    let channel = running::all(&caller)
        .into_iter()
        .find(|one| one.id == session)
        .map_or_else(|| connect(session), |one| Ok(one.channel))?;
    attach::in_front(channel)
}

fn gone(error: &WireError) -> Failure {
    let what = match error {
        WireError::Closed => "it ended without a word".to_owned(),
        other => other.to_string(),
    };
    Failure::new(Exit::NotStarted, format!("the session process: {what}"))
}

// === The session process ===

/// `portcullis service-session`: what the daemon starts.
pub(super) fn session() -> Outcome {
    let refused = |error: &dyn std::fmt::Display| {
        let what = format!("service-session: {error}; it is portcullisd that starts this");
        Failure::new(Exit::Usage, what)
    };
    let channel = fd::inherit(CHANNEL_FD).map_err(|error| refused(&error))?;
    let boot =
        Boot::receive(Channel::from(channel)).map_err(|error: ServiceError| refused(&error))?;
    let Boot {
        service,
        profile,
        environment,
        request,
        detached,
        requester,
        folder,
        streams,
    } = boot;
    let said = Teller {
        channel: requester,
        leaves: detached,
    };
    match play(
        service,
        environment,
        (&profile, &request),
        (&folder, streams),
        &said,
    ) {
        Ok(exit) => Ok(exit),
        Err(failure) => {
            said.tell(&Launched::Failed {
                code: failure.exit.code(),
                message: failure.message,
            });
            Ok(failure.exit)
        }
    }
}

fn play(
    service: Service,
    environment: Vec<(String, String)>,
    (profile, request): (&str, &str),
    (folder, streams): (&OwnedFd, Option<[OwnedFd; 3]>),
    said: &Teller,
) -> Outcome {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::NotStarted, error);
    let request: LaunchRequest = serde_json::from_str(request)
        .map_err(|error| failed(&format!("launch request: {error}")))?;
    if request.profile != profile {
        let profile = &request.profile;
        let why = format!("launch request: profile {profile:?} is not the one that was asked for");
        return Err(failed(&why));
    }
    caller::assume(environment, service.user.clone(), service.profiles.clone());
    settle_in(folder, streams).map_err(|error| failed(&error))?;
    rustix::process::setsid().map_err(|errno| failed(&format!("setsid: {errno}")))?;
    let host = Backing {
        requester: (!said.leaves)
            .then(|| said.channel.try_clone().map(Requester::new))
            .transpose()
            .map_err(|error| failed(&error))?,
        service: Some(service.shared()),
    };
    let report = session::run(&request, host, &mut |progress| match &progress {
        Progress::Started(session) => said.tell(&Launched::Started(*session)),
        _ => {
            for (line, matters) in run::lines(progress) {
                said.line(line, matters);
            }
        }
    })
    .map_err(|error| Failure::new(error.exit(), error))?;
    for (line, matters) in run::last_lines(&report) {
        said.line(line, matters);
    }
    said.tell(&Launched::Ended(report.exit.code()));
    Ok(report.exit)
}

/// The way to whoever asked for the session. They may be gone.
struct Teller {
    channel: Channel,
    /// They left when the command was started, or will.
    leaves: bool,
}

impl Teller {
    fn tell(&self, message: &Launched) {
        let heard = self.channel.send_now(message, &[]).is_ok();
        if self.leaves && matches!(message, Launched::Started(_)) && !heard {
            // Interrupted before it knew the session: as Ctrl-C ends one that is not detached.
            nix::sys::signal::raise(Signal::SIGTERM).ok();
        }
    }

    fn line(&self, line: String, matters: bool) {
        self.tell(&if matters {
            Launched::Warned(line)
        } else {
            Launched::Said(line)
        });
    }
}

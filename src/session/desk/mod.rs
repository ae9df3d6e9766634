//! What a session does for its gate and for people while the command runs: questions and their answers,
//! a profile that changes, requests over the session's socket. Everything here is done at once or not at
//! all; the wait is [`watch`](super::watch)'s.

mod door;
mod inward;
mod reload;
mod terminal;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use self::door::Door;
use super::approvals::{Answerer, Approvals, Ask, described, program, prompt, remember};
use super::companions::{AuditWriter, CompanionError, Gate};
use super::error::LaunchError;
use super::live::{Launched, Live};
use super::plan::{LaunchRequest, Plan};
use super::requester::Requester;
use super::socket::{PeerId, Socket};
use super::terminal::Terminal;
use super::watch::Notice;
use crate::audit::AuditEvent;
use crate::policy::{Answered, Budgets, Profile, Scope};
use crate::wire::gate::{Answer, AuditState, GateCommand, GateReply, Question};
use crate::wire::service::May;
use crate::wire::session::{Description, SessionReply, SessionRequest};

pub(super) use inward::Inward;
use reload::Asker;

/// Says something to the person who started the session.
pub type Tell<'a> = &'a mut dyn FnMut(Notice);

/// How a session is to end. Ordered: the later wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// The command is asked to end first.
    Ask,
    /// At once.
    Kill,
}

/// The desk of one session.
#[derive(Debug)]
pub struct Desk {
    approvals: Approvals,
    /// `None`: it could not be made, and nobody at another terminal can be asked.
    socket: Option<Socket>,
    /// Where the service lets visitors in.
    service: Option<Door>,
    /// Whoever waits for the session's end.
    requester: Option<Requester>,
    live: Live,
    /// `None`: the command has the caller's standard streams.
    terminal: Option<Terminal>,
    seconds: u32,
    /// Peers that wait for counters, in the order in which the gate was asked.
    counting: VecDeque<PeerId>,
    /// What the session is, once its command runs.
    description: Option<Description>,
    /// The way to the jail's own ports, once its command is about to run.
    inward: Option<Inward>,
    /// Somebody has asked for the end.
    stop: Option<Stop>,
    /// Policies that the gate has not put in force yet, in order.
    applying: VecDeque<(Asker, Box<Profile>)>,
}

impl Desk {
    /// Opens the socket and settles who answers. Comes before the jail is built, which hides the
    /// socket's folder only if it is there.
    pub(super) fn open(
        request: &LaunchRequest,
        plan: &Plan,
        requester: Option<Requester>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Self, LaunchError> {
        let policy = &plan.profile.approvals;
        let socket = Socket::open(&plan.caller, plan.session);
        if request.terminal.is_some()
            && let Err(source) = socket
        {
            // Nobody could look at it, or stop it.
            let what = "make the session's socket (set XDG_RUNTIME_DIR to a folder of your own)";
            return Err(LaunchError::System { what, source });
        }
        if let Err(error) = &socket {
            tell(&format!(
                "no socket for portcullis approvals: {error}; set XDG_RUNTIME_DIR to a folder of your own"
            ));
        }
        let socket = socket.ok();
        let terminal = request.terminal.map(|size| {
            Terminal::open(&plan.caller, plan.session, size).map_err(|source| LaunchError::System {
                what: "give the session a terminal of its own",
                source,
            })
        });
        let terminal = terminal.transpose()?;
        let ask = request.ask.unwrap_or(if policy.command.is_empty() {
            Ask::Others
        } else {
            Ask::Command
        });
        let unusable = |problem: String| LaunchError::Approvals { problem };
        let answerer = match ask {
            Ask::Nobody | Ask::Others => Answerer::Others,
            Ask::Command => {
                let mode = plan.profile.filesystem.mode;
                let about = (mode, plan.profile.name.as_str());
                program::Setup::check(&policy.command, &plan.caller, &plan.writable, about)
                    .map(Answerer::Program)
                    .map_err(|problem| unusable(format!("command: {problem}")))?
            }
            Ask::Terminal => prompt::Prompt::open()
                .map(|prompt| Answerer::Terminal(Box::new(prompt)))
                .map_err(|error| {
                    unusable(format!("--ask terminal: there is no terminal: {error}"))
                })?,
        };
        let somebody =
            !matches!(answerer, Answerer::Others) || socket.is_some() || !policy.rules.is_empty();
        let launched = Launched {
            caller: &plan.caller,
            workspace: &plan.workspace,
            project: plan.project.as_ref(),
            files: &plan.read_from,
            writable: &plan.writable,
            mode: plan.profile.filesystem.mode,
            credentials: &plan.profile.network.credentials,
        };
        Ok(Self {
            approvals: Approvals::new(plan.session, policy, answerer),
            socket,
            terminal,
            service: plan.service.clone().and_then(Door::new),
            requester,
            live: Live::new(request, &launched, plan.read.clone(), plan.found.clone()),
            seconds: if somebody && ask != Ask::Nobody {
                policy.wait_seconds
            } else {
                0
            },
            counting: VecDeque::new(),
            description: None,
            inward: None,
            stop: None,
            applying: VecDeque::new(),
        })
    }

    /// How long the gate is to wait for an answer; 0: there is nobody to ask.
    pub fn approval_seconds(&self) -> u32 {
        self.seconds
    }

    /// The budgets of the policy in force.
    pub fn budgets(&self) -> &Budgets {
        self.live.budgets()
    }

    /// What may become readable.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = self.approvals.fds();
        fds.extend(self.socket.iter().flat_map(Socket::fds));
        fds.extend(self.live.fd());
        fds.extend(self.service.as_ref().map(Door::fd));
        fds.extend(self.requester.as_ref().and_then(Requester::fd));
        fds.extend(self.inward.as_ref().and_then(Inward::fd));
        fds
    }

    /// When [`Desk::attend`] is to be called although nothing became readable.
    pub fn due(&self) -> Option<Instant> {
        self.live
            .due()
            .into_iter()
            .chain(self.approvals.due())
            .chain(self.terminal.as_ref().and_then(Terminal::due))
            .min()
    }

    /// Takes what the gate says. What does not belong here is an error.
    pub fn hear(
        &mut self,
        reply: GateReply,
        gate: &Gate,
        tell: Tell<'_>,
    ) -> Result<(), CompanionError> {
        match reply {
            GateReply::Question(question) => {
                let shown = question.clone();
                let said = &mut |line| tell(Notice::Said(line));
                if let Some(answer) = self.approvals.asked(question, said) {
                    self.settle(&shown, answer, gate, tell)?;
                }
                self.tell_watchers();
                Ok(())
            }
            GateReply::Withdrawn(id) => {
                self.approvals.withdrawn(id);
                self.tell_watchers();
                Ok(())
            }
            GateReply::Counters(counters) => {
                if let Some(peer) = self.counting.pop_front() {
                    self.reply(peer, &SessionReply::Counters(Box::new(counters)));
                }
                Ok(())
            }
            GateReply::Applied(applied) => {
                self.applied(&applied, tell);
                Ok(())
            }
            GateReply::NotApplied(error) => {
                if let Some((asker, _)) = self.applying.pop_front() {
                    self.not_applied(asker, &error, tell);
                }
                Ok(())
            }
            GateReply::Audit(state) => {
                self.hear_of_records(state, tell);
                Ok(())
            }
            GateReply::Limit(_)
            | GateReply::Confined { .. }
            | GateReply::Serving
            | GateReply::Drained(_)
            | GateReply::Failed(_) => Err(CompanionError::Unexpected("gate")),
        }
    }

    /// Another gate has taken the place of the one before: it is asked again for what that one had not
    /// answered.
    pub fn meet(&mut self, gate: &Gate) -> Result<(), CompanionError> {
        self.approvals.withdraw_all();
        self.tell_watchers();
        for _ in &self.counting {
            gate.command(&GateCommand::Counters)?;
        }
        for (_, profile) in &self.applying {
            gate.command(&GateCommand::Policy(Box::new(profile.network.clone())))?;
        }
        Ok(())
    }

    /// Does what there is to do: answers that have come, requests of peers, files that changed. Never
    /// waits for a person. An error means that the gate is lost.
    pub fn attend(
        &mut self,
        gate: Option<&Gate>,
        mut audit: Option<&mut AuditWriter>,
        tell: Tell<'_>,
    ) -> Result<(), CompanionError> {
        self.open_the_door();
        self.hand_out();
        self.pump(audit.as_deref_mut(), tell);
        let answers = self.approvals.attend(&mut |line| tell(Notice::Said(line)));
        let requests = self
            .socket
            .as_mut()
            .map(Socket::requests)
            .unwrap_or_default();
        let requests = self.permitted(requests);
        let requests = self.without_the_gate(requests, audit.as_deref_mut(), tell);
        let Some(gate) = gate else {
            for (peer, _) in requests {
                let failed = "the gate of this session died; it has no network any more";
                self.reply(peer, &SessionReply::Failed(failed.to_owned()));
            }
            return Ok(());
        };
        let changed = !answers.is_empty();
        for (question, answer) in answers {
            self.settle(&question, answer, gate, tell)?;
        }
        if changed {
            self.tell_watchers();
        }
        let mut reload = self.live.is_due().then_some(Asker::Ourselves);
        for (peer, request) in requests {
            if request == SessionRequest::ReloadPolicy {
                // One reading is enough for all that ask at the same moment.
                if let Some(Asker::Peer(other)) = reload.replace(Asker::Peer(peer)) {
                    self.reply(
                        other,
                        &SessionReply::Done("see the other request".to_owned()),
                    );
                }
            } else {
                self.request(peer, &request, gate, tell)?;
            }
        }
        match reload {
            Some(asker) => self.reload_for(asker, gate, audit, tell),
            None => Ok(()),
        }
    }

    /// Leaves out what a visitor may not ask for, and says so.
    fn permitted(
        &mut self,
        requests: Vec<(PeerId, SessionRequest)>,
    ) -> Vec<(PeerId, SessionRequest)> {
        let mut permitted = Vec::new();
        for (peer, request) in requests {
            let may = self.socket.as_ref().map(|socket| socket.may(peer));
            if may.is_some_and(|may| may >= door::needs(&request)) {
                permitted.push((peer, request));
            } else {
                let why = "not permitted: this is somebody else's session".to_owned();
                self.reply(peer, &SessionReply::Failed(why));
            }
        }
        permitted
    }

    /// Records cannot be kept, or can be again: who looks at the session is told, and who asks for it.
    fn hear_of_records(&mut self, state: AuditState, tell: Tell<'_>) {
        if let Some(description) = &mut self.description {
            description.audit = match &state {
                AuditState::Writing => None,
                AuditState::Blocked(why) => Some(format!("blocked: {why}")),
                AuditState::Behind(why) => Some(format!("behind: {why}")),
            };
        }
        tell(Notice::Records(state));
    }

    /// What the session tells of itself from now on.
    pub fn introduce(&mut self, description: Description) {
        self.description = Some(description);
    }

    /// How the session is to end, if somebody has asked for that since the last time.
    pub fn take_stop(&mut self) -> Option<Stop> {
        self.stop.take()
    }

    /// Does what needs no gate; gives the other requests back.
    fn without_the_gate(
        &mut self,
        requests: Vec<(PeerId, SessionRequest)>,
        mut audit: Option<&mut AuditWriter>,
        tell: Tell<'_>,
    ) -> Vec<(PeerId, SessionRequest)> {
        let mut others = Vec::new();
        for (peer, request) in requests {
            match request {
                SessionRequest::Describe => {
                    let reply = match &self.description {
                        Some(known) => SessionReply::Session(Box::new(known.clone())),
                        None => SessionReply::Failed("it is starting".to_owned()),
                    };
                    self.reply(peer, &reply);
                }
                SessionRequest::Stop { kill } => self.stop(peer, kill, audit.as_deref_mut(), tell),
                SessionRequest::Reach { port } => self.reach(peer, port, audit.as_deref_mut()),
                SessionRequest::Attach { size, read_only } => {
                    self.attach(peer, (size, read_only), audit.as_deref_mut());
                }
                SessionRequest::Resize(size) => self.resize(peer, size),
                other => others.push((peer, other)),
            }
        }
        others
    }

    /// Somebody wants the end. It is told and recorded; a record that cannot be kept does not keep the
    /// session alive.
    fn stop(&mut self, peer: PeerId, kill: bool, audit: Option<&mut AuditWriter>, tell: Tell<'_>) {
        let by = self.socket.as_ref().map(|socket| socket.name(peer));
        let by = by.unwrap_or_default();
        let how = if kill { "killed" } else { "stopped" };
        tell(Notice::Said(format!("{how} by {by}")));
        if let Some(audit) = audit {
            drop(audit.append(AuditEvent::SessionStopping { by, kill }));
        }
        let asked = if kill { Stop::Kill } else { Stop::Ask };
        self.stop = self.stop.max(Some(asked));
        self.reply(peer, &SessionReply::Done(how.to_owned()));
    }

    fn request(
        &mut self,
        peer: PeerId,
        request: &SessionRequest,
        gate: &Gate,
        tell: Tell<'_>,
    ) -> Result<(), CompanionError> {
        match request {
            SessionRequest::Watch | SessionRequest::Questions => {
                if let (SessionRequest::Watch, Some(socket)) = (request, &mut self.socket) {
                    socket.watch(peer);
                }
                let questions = self.approvals.questions();
                self.reply(peer, &SessionReply::Questions(questions));
            }
            SessionRequest::Answer {
                question,
                verdict,
                scope,
            } => {
                let Some(asked) = self.approvals.take(*question) else {
                    let failed =
                        format!("question {question} does not wait for an answer (any more)");
                    self.reply(peer, &SessionReply::Failed(failed));
                    return Ok(());
                };
                let socket = self.socket.as_ref();
                let by = socket.map(|socket| socket.name(peer)).unwrap_or_default();
                let may = socket.map(|socket| socket.may(peer));
                // Their own profile is nobody else's to change.
                let scope = match scope {
                    Scope::Profile if may != Some(May::Own) => Scope::Session,
                    scope => *scope,
                };
                let answer = Answer {
                    question: *question,
                    verdict: *verdict,
                    scope,
                    by,
                };
                let done = self.settle(&asked, answer, gate, tell)?;
                self.reply(peer, &SessionReply::Done(done));
                self.tell_watchers();
            }
            SessionRequest::Counters => {
                gate.command(&GateCommand::Counters)?;
                self.counting.push_back(peer);
            }
            // One reading for all, and what needs no gate: see `attend`.
            SessionRequest::ReloadPolicy
            | SessionRequest::Describe
            | SessionRequest::Attach { .. }
            | SessionRequest::Resize(_)
            | SessionRequest::Stop { .. }
            | SessionRequest::Reach { .. } => {}
        }
        Ok(())
    }

    /// Hands an answer to the gate, and keeps it in the profile if it is to last. Answers with what was
    /// done, one line.
    fn settle(
        &mut self,
        question: &Question,
        mut answer: Answer,
        gate: &Gate,
        tell: Tell<'_>,
    ) -> Result<String, CompanionError> {
        let mut kept = String::new();
        if answer.scope == Scope::Profile {
            match self.keep(question, answer.verdict) {
                Ok(file) => kept = format!(", kept in {file}"),
                Err(problem) => {
                    // What cannot last still counts for as long as it can.
                    answer.scope = Scope::Session;
                    kept = format!(", not kept: {problem}");
                }
            }
        }
        let verb = match answer.verdict {
            Answered::Allow => "allowed",
            Answered::Deny => "denied",
        };
        let line = format!(
            "{verb} {} ({}) by {}{kept}",
            described(question),
            answer.scope,
            answer.by
        );
        if !kept.is_empty() {
            tell(Notice::Said(line.clone()));
        }
        gate.command(&GateCommand::Answer(answer))?;
        Ok(line)
    }

    fn keep(&self, question: &Question, verdict: Answered) -> Result<String, String> {
        let file = self.live.own_file()?;
        let (profile, environment) = (self.live.profile(), self.live.environment());
        remember::remember(&file, profile, (question, verdict), environment)?;
        Ok(file.display().to_string())
    }

    fn tell_watchers(&mut self) {
        if let Some(socket) = &mut self.socket {
            socket.tell_watchers(&SessionReply::Questions(self.approvals.questions()));
        }
    }

    fn reply(&mut self, peer: PeerId, reply: &SessionReply) {
        if let Some(socket) = &mut self.socket {
            socket.tell(peer, reply);
        }
    }
}

//! Questions of the gate, and who answers them: rules of the profile first, then whoever the caller
//! named: a program ([`program`]), the terminal ([`prompt`]), or anybody of the same user at another
//! terminal, who hears of it by a line.
//!
//! Trusts: the profile, the program that it names. Never: anything in a question, which comes from the
//! jail and is shown escaped. What nobody answers the gate refuses by itself.

pub mod program;
pub mod prompt;
pub mod remember;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::profiles::is_required;
use crate::ids::{QuestionId, SessionId};
use crate::policy::{
    Answered, ApprovalsPolicy, EgressRequest, NetworkPolicy, Ruleset, Scope, Verdict, decide,
    spelled_out, upstream::authority,
};
use crate::wire::gate::{Answer, Question};
use program::Program;
use prompt::Prompt;

/// Programs that run at once; later questions wait for their turn.
const PROGRAMS: usize = 4;

/// Questions that are kept; a gate has 32 at once, so one that sends more is not itself any more.
const KEPT: usize = 64;

/// The least time between two lines about questions: the jail decides how many there are.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked whether the terminal is ours again.
const FOREGROUND: Duration = Duration::from_secs(1);

/// Whom the caller wants to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Nobody: what would be asked is refused.
    Nobody,
    /// The program of the profile.
    Command,
    /// Whoever sits at this terminal.
    Terminal,
    /// Whoever uses `portcullis approvals`, told by a line.
    Others,
}

/// Who is asked when no rule answers.
#[derive(Debug)]
pub enum Answerer {
    /// A program and its arguments, and its environment.
    Program(program::Setup),
    /// The terminal.
    Terminal(Box<Prompt>),
    /// Whoever uses `portcullis approvals`.
    Others,
}

/// The questions of one session that wait.
#[derive(Debug)]
pub struct Approvals {
    session: SessionId,
    rules: Ruleset,
    answerer: Answerer,
    waiting: BTreeMap<QuestionId, Waiting>,
    /// When the last line was printed, and how many questions had none since.
    last_line: Option<Instant>,
    unsaid: u32,
}

#[derive(Debug)]
struct Waiting {
    question: Question,
    program: Option<Program>,
    /// Whether the program was tried: it is asked once.
    tried: bool,
}

impl Approvals {
    /// Ready to be asked.
    pub fn new(session: SessionId, policy: &ApprovalsPolicy, answerer: Answerer) -> Self {
        Self {
            session,
            rules: compile(policy),
            answerer,
            waiting: BTreeMap::new(),
            last_line: None,
            unsaid: 0,
        }
    }

    /// Other rules from now on.
    pub fn take_rules(&mut self, policy: &ApprovalsPolicy) {
        self.rules = compile(policy);
    }

    /// Takes a question; answers it if a rule does.
    pub fn asked(&mut self, question: Question, tell: &mut dyn FnMut(String)) -> Option<Answer> {
        if let Some(answer) = self.by_rule(&question) {
            return Some(answer);
        }
        if self.waiting.len() >= KEPT {
            return None;
        }
        if matches!(self.answerer, Answerer::Others) {
            self.say(&question, tell);
        }
        let waiting = Waiting {
            question,
            program: None,
            tried: false,
        };
        self.waiting.insert(waiting.question.id, waiting);
        None
    }

    /// Nobody waits for it any more.
    pub fn withdrawn(&mut self, id: QuestionId) {
        self.waiting.remove(&id);
        if let Answerer::Terminal(prompt) = &mut self.answerer {
            prompt.withdraw(id);
        }
    }

    /// The gate that asked is gone: nobody waits for any answer, and what was asked is asked again if it is
    /// still wanted.
    pub fn withdraw_all(&mut self) {
        while let Some(id) = self.waiting.keys().next().copied() {
            self.withdrawn(id);
        }
    }

    /// The questions that wait, oldest first.
    pub fn questions(&self) -> Vec<Question> {
        let waiting = self.waiting.values();
        waiting.map(|waiting| waiting.question.clone()).collect()
    }

    /// Takes a question out because somebody answered it.
    pub fn take(&mut self, id: QuestionId) -> Option<Question> {
        let question = self.waiting.remove(&id)?.question;
        self.withdrawn(id);
        Some(question)
    }

    /// What may become readable.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let programs = self
            .waiting
            .values()
            .filter_map(|waiting| waiting.program.as_ref())
            .map(Program::as_fd);
        let terminal = match &self.answerer {
            Answerer::Terminal(prompt) => prompt.fd(),
            Answerer::Program(_) | Answerer::Others => None,
        };
        programs.chain(terminal).collect()
    }

    /// When to attend although nothing became readable: nobody tells us that we came to the foreground.
    pub fn due(&self) -> Option<Instant> {
        match &self.answerer {
            Answerer::Terminal(prompt) if !self.waiting.is_empty() && !prompt.is_usable() => {
                Some(Instant::now() + FOREGROUND)
            }
            _ => None,
        }
    }

    /// Asks whom there is to ask, and takes what was answered; never waits.
    pub fn attend(&mut self, tell: &mut dyn FnMut(String)) -> Vec<(Question, Answer)> {
        let answers = match &mut self.answerer {
            Answerer::Program(setup) => {
                attend_programs(&mut self.waiting, setup, self.session, tell)
            }
            Answerer::Terminal(prompt) => {
                let next = self.waiting.values().next();
                prompt
                    .attend(next.map(|waiting| &waiting.question))
                    .into_iter()
                    .collect()
            }
            Answerer::Others => Vec::new(),
        };
        answers
            .into_iter()
            .filter_map(|answer| Some((self.take(answer.question)?, answer)))
            .collect()
    }

    /// Deny wins, ask leaves it to the next, as in the policy itself.
    fn by_rule(&self, question: &Question) -> Option<Answer> {
        // Rules speak of hosts: whoever may be reached may not be reached without end.
        if question.budget {
            return None;
        }
        let request = EgressRequest {
            transport: question.transport,
            host: question.host.clone(),
            port: question.port,
            method: question.method.clone(),
            path: None,
            websocket: false,
        };
        let decision = decide(&self.rules, &request);
        let rule = decision.rule?;
        let verdict = match decision.verdict {
            // What the admin has asked a person is asked, not the profile's author.
            Verdict::Allow if question.rule.as_ref().is_some_and(is_required) => return None,
            Verdict::Allow => Answered::Allow,
            Verdict::Deny => Answered::Deny,
            Verdict::Ask => return None,
        };
        Some(Answer {
            question: question.id,
            verdict,
            // The rule is there to be asked again.
            scope: Scope::Once,
            by: rule.to_string(),
        })
    }

    fn say(&mut self, question: &Question, tell: &mut dyn FnMut(String)) {
        let now = Instant::now();
        let too_soon = self
            .last_line
            .is_some_and(|last| now.duration_since(last) < LINE_EVERY);
        if too_soon {
            self.unsaid = self.unsaid.saturating_add(1);
            return;
        }
        self.last_line = Some(now);
        let others = match std::mem::take(&mut self.unsaid) {
            0 => String::new(),
            more => format!(" (and {more} more: portcullis approvals list)"),
        };
        let session = self.session;
        tell(format!(
            "waiting for approval of {} (question {}): portcullis approvals allow {session} {}{others}",
            described(question),
            question.id,
            question.id,
        ));
    }
}

fn compile(policy: &ApprovalsPolicy) -> Ruleset {
    Ruleset::compile(&NetworkPolicy {
        rules: policy.rules.clone(),
        unconfined_tunnels: true,
        ..NetworkPolicy::default()
    })
}

fn attend_programs(
    waiting: &mut BTreeMap<QuestionId, Waiting>,
    setup: &program::Setup,
    session: SessionId,
    tell: &mut dyn FnMut(String),
) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut running = 0;
    for waiting in waiting.values_mut() {
        if let Some(program) = &mut waiting.program {
            match program.answer() {
                None => running += 1,
                Some(answer) => {
                    waiting.program = None;
                    answers.push(said(&waiting.question, setup, answer, tell));
                }
            }
        }
    }
    let untried = waiting.values_mut().filter(|waiting| !waiting.tried);
    for waiting in untried.take(PROGRAMS.saturating_sub(running)) {
        waiting.tried = true;
        match Program::start(setup, session, &waiting.question) {
            Ok(program) => waiting.program = Some(program),
            Err(error) => {
                let failed = Err(format!("it does not start: {error}"));
                answers.push(said(&waiting.question, setup, failed, tell));
            }
        }
    }
    answers
}

/// What a program said; anything but an answer is a no, and is told.
fn said(
    question: &Question,
    setup: &program::Setup,
    answer: Result<(Answered, Scope), String>,
    tell: &mut dyn FnMut(String),
) -> Answer {
    let (verdict, scope) = answer.unwrap_or_else(|problem| {
        tell(format!(
            "{} refused: {}: {problem}",
            described(question),
            setup.program.display()
        ));
        (Answered::Deny, Scope::Once)
    });
    Answer {
        question: question.id,
        verdict,
        scope,
        by: setup.program.display().to_string(),
    }
}

/// What a question is about, as `POST http api.x:443 /path`; not escaped yet.
pub fn described(question: &Question) -> String {
    let (host, port) = (&question.host, question.port);
    let text = match (&question.method, &question.path) {
        (Some(method), Some(path)) => spelled_out(question.transport, method, (host, port), path),
        _ => authority(host, port),
    };
    match &question.rule {
        Some(budget) if question.budget => format!("{budget} (asked for {text})"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::profile::builtin;
    use crate::policy::{Host, Port, Profile, RuleId, Transport};

    #[test]
    fn a_rule_of_the_profile_does_not_say_yes_to_what_the_admin_has_asked() {
        let text = "[[approvals.rules]]\nhost = 'a.test'\nverdict = 'allow'\n\
                    [[approvals.rules]]\nhost = 'b.test'\nverdict = 'deny'\n";
        let mut load = |name: &str| {
            let base = || builtin(name).map(ToOwned::to_owned);
            Ok(Some(text.to_owned()).filter(|_| name == "p").or_else(base))
        };
        let policy = Profile::read("p", &mut load).unwrap().approvals;
        let mut approvals = Approvals::new(SessionId::generate(), &policy, Answerer::Others);
        let mut answer = |host: &str, rule: &str| {
            let question = Question {
                id: QuestionId(1),
                host: Host::parse(host).unwrap(),
                port: Port::HTTPS,
                transport: Transport::Connect,
                method: None,
                path: None,
                exact: false,
                budget: false,
                rule: Some(RuleId::new(rule)),
                wait_seconds: 1,
            };
            let answer = approvals.asked(question, &mut |_| ());
            answer.map(|answer| answer.verdict)
        };
        let own = "network.domains.\"a.test\"";
        let admins = "/etc/portcullis/requirements.toml: network.domains.\"a.test\"";
        assert_eq!(answer("a.test", own), Some(Answered::Allow));
        assert_eq!(answer("a.test", admins), None);
        assert_eq!(answer("b.test", admins), Some(Answered::Deny));
    }
}

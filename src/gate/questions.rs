//! Asking: a request that the policy answers with "ask" waits here for whoever answers for the session.
//!
//! One question is asked for all that want the same; its life is a task of its own ([`question_life`](super::question_life)), so that
//! a client that leaves takes nobody's answer with it. An answer counts once, and only after it is on
//! record. Trusts the session for what was answered; never lets anything through itself: whoever waited
//! asks the policy again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::ids::{ConnId, QuestionId};
use crate::policy::{Answered, Decision, EgressRequest, Host, Method, Port, RuleId, Transport};
use crate::wire::gate::Answer;

use super::memory::{Memory, Note, Recalled};
use super::question_life::conduct;
use super::state::Gate;

/// Questions that wait for an answer at once; what would be one more is refused.
const PENDING: usize = 32;

/// Answers that are remembered for the session; later ones count once.
const REMEMBERED: usize = 4096;

/// The longest path that is shown to whoever answers.
pub(super) const MAX_SHOWN_PATH: usize = 512;

/// Numbers that are noted together ahead of their use.
const NUMBERS: u64 = 64;

/// What makes two requests one question.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subject {
    host: Host,
    port: Port,
    /// Whether it is about datagrams: a port of UDP is another than that of TCP.
    datagrams: bool,
    /// Method and path, if the rule that asks speaks of them: what is approved is what was shown.
    pub(super) exactly: Option<(Option<Method>, Option<String>)>,
    /// The budget that is used up, if the question is whether it may be raised.
    pub(super) budget: Option<RuleId>,
}

impl Subject {
    fn of(request: &EgressRequest, decision: &Decision) -> Self {
        Self {
            host: request.host.clone(),
            port: request.port,
            datagrams: request.transport == Transport::Socks5Udp,
            exactly: decision
                .specific
                .then(|| (request.method.clone(), request.path.clone())),
            budget: None,
        }
    }
}

/// What asking came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Somebody agreed: who, as a rule.
    Allowed(RuleId),
    /// Nobody did: why, as a rule.
    Denied(RuleId),
    /// The policy has changed: ask it again.
    Superseded,
    /// The answer could not be recorded.
    AuditLost,
}

/// The questions of one gate.
#[derive(Debug)]
pub(super) struct Questions {
    /// How long an answer is waited for; zero: nobody is asked.
    pub(super) wait: Duration,
    pending: RefCell<BTreeMap<QuestionId, Rc<Pending>>>,
    remembered: RefCell<HashMap<Subject, (Answered, RuleId)>>,
    last: Cell<u64>,
    /// The last number that a successor will not give out.
    noted: Cell<u64>,
    memory: Rc<Memory>,
}

/// One question.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: QuestionId,
    pub(super) conn: ConnId,
    pub(super) subject: Subject,
    pub(super) request: EgressRequest,
    pub(super) rule: Option<RuleId>,
    /// Takes the answer; empty once there is one, or it is too late.
    pub(super) answer: RefCell<Option<oneshot::Sender<Answer>>>,
    /// How many wait; the task ends the question at none.
    pub(super) waiting: watch::Sender<usize>,
    outcome: watch::Sender<Option<Outcome>>,
}

/// One that waits, until dropped.
struct Waiting(Rc<Pending>);

impl Waiting {
    fn on(pending: &Rc<Pending>) -> Self {
        pending.waiting.send_modify(|count| *count += 1);
        Self(Rc::clone(pending))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0
            .waiting
            .send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Questions {
    /// Nothing is asked yet; the answers that count for the session are those to an earlier gate.
    pub(super) fn new(wait: Duration, memory: Rc<Memory>, recalled: &Recalled) -> Self {
        let remembered = recalled.answers.iter().cloned();
        let remembered = remembered.map(|(subject, answered, rule)| (subject, (answered, rule)));
        Self {
            wait,
            pending: RefCell::default(),
            remembered: RefCell::new(remembered.take(REMEMBERED).collect()),
            last: Cell::new(recalled.questions),
            noted: Cell::new(recalled.questions),
            memory,
        }
    }

    /// A number that no gate of this session has given out, so that no answer is taken for another's.
    fn next_id(&self) -> QuestionId {
        let next = self.last.get().saturating_add(1);
        self.last.set(next);
        if next > self.noted.get() {
            self.noted.set(next.saturating_add(NUMBERS));
            self.memory.keep(&Note::Questions(self.noted.get()));
        }
        QuestionId(next)
    }

    /// What was answered before for the whole session.
    pub(super) fn remembered(
        &self,
        request: &EgressRequest,
        decision: &Decision,
    ) -> Option<(Answered, RuleId)> {
        let remembered = self.remembered.borrow();
        if remembered.is_empty() {
            return None;
        }
        remembered.get(&Subject::of(request, decision)).cloned()
    }

    /// Keeps an answer for the session, while there is room.
    pub(super) fn remember(&self, pending: &Pending, answered: Answered, rule: &RuleId) {
        let mut remembered = self.remembered.borrow_mut();
        if remembered.len() < REMEMBERED {
            self.memory.keep(&Note::Answer {
                subject: Box::new(pending.subject.clone()),
                answered,
                rule: rule.clone(),
            });
            remembered.insert(pending.subject.clone(), (answered, rule.clone()));
        }
    }

    /// Takes an answer. One that comes late, twice or for nothing is of no account.
    pub(super) fn answer(&self, answer: Answer) {
        let pending = self.pending.borrow().get(&answer.question).map(Rc::clone);
        if let Some(waiting) = pending.and_then(|pending| pending.answer.take()) {
            // The task has just given up by itself.
            drop(waiting.send(answer));
        }
    }

    /// Joins the question that is already asked, or asks.
    fn join(
        &self,
        gate: &Rc<Gate>,
        conn: ConnId,
        request: &EgressRequest,
        subject: Subject,
        rule: Option<RuleId>,
    ) -> Option<Waiting> {
        let mut pending = self.pending.borrow_mut();
        let same = pending
            .values()
            .find(|pending| pending.subject == subject && pending.answer.borrow().is_some());
        if let Some(same) = same {
            return Some(Waiting::on(same));
        }
        if pending.len() >= PENDING {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        let new = Rc::new(Pending {
            id: self.next_id(),
            conn,
            subject,
            request: request.clone(),
            rule,
            answer: RefCell::new(Some(answer)),
            waiting: watch::Sender::new(0),
            outcome: watch::Sender::new(None),
        });
        pending.insert(new.id, Rc::clone(&new));
        let waiting = Waiting::on(&new);
        let gate = Rc::clone(gate);
        tokio::task::spawn_local(async move {
            let outcome = conduct(&gate, &new, answered).await;
            gate.questions.pending.borrow_mut().remove(&new.id);
            new.outcome.send_replace(Some(outcome));
        });
        Some(waiting)
    }
}

/// Asks, and waits for what comes of it. Bounded by the policy's patience and two records.
pub(super) async fn ask(
    gate: &Rc<Gate>,
    conn: ConnId,
    request: &EgressRequest,
    decision: &Decision,
) -> Outcome {
    let questions = &gate.questions;
    if questions.wait.is_zero() {
        return Outcome::Denied(RuleId::new("approvals: nobody is asked (wait_seconds = 0)"));
    }
    let is_cut = |path: &String| path.chars().nth(MAX_SHOWN_PATH).is_some();
    if decision.specific && request.path.as_ref().is_some_and(is_cut) {
        // What is approved is what was shown.
        let why = format!("approvals: the path is longer than the {MAX_SHOWN_PATH} shown");
        return Outcome::Denied(RuleId::new(why));
    }
    let subject = Subject::of(request, decision);
    let rule = decision.rule.clone();
    let Some(waiting) = questions.join(gate, conn, request, subject, rule) else {
        let why = format!("approvals: {PENDING} questions wait for an answer already");
        return Outcome::Denied(RuleId::new(why));
    };
    let mut outcome = waiting.0.outcome.subscribe();
    match outcome.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(outcome)) => outcome.clone(),
        // The sender lives in what we hold.
        Ok(None) | Err(_) => Outcome::AuditLost,
    }
}

/// Asks whether a budget that is used up may be raised; `budget` says which and by how much, and stands
/// where a rule does. Whatever is not a yes is a no.
pub(super) async fn ask_for_more(
    gate: &Rc<Gate>,
    conn: ConnId,
    request: &EgressRequest,
    budget: RuleId,
) -> bool {
    if gate.questions.wait.is_zero() {
        return false;
    }
    let subject = Subject {
        host: request.host.clone(),
        port: request.port,
        datagrams: false,
        exactly: None,
        budget: Some(budget.clone()),
    };
    let Some(waiting) = gate
        .questions
        .join(gate, conn, request, subject, Some(budget))
    else {
        return false;
    };
    let mut outcome = waiting.0.outcome.subscribe();
    let outcome = outcome.wait_for(Option::is_some).await;
    matches!(outcome.as_deref(), Ok(Some(Outcome::Allowed(_))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PolicyGeneration;
    use crate::policy::{Handling, Verdict};

    #[test]
    fn an_answer_about_a_connection_is_none_about_datagrams() {
        let decision = Decision {
            verdict: Verdict::Ask,
            handling: Handling::Tunnel,
            reason: None,
            rule: None,
            specific: false,
            generation: PolicyGeneration::new("1"),
        };
        let subject = |transport| {
            let request = EgressRequest {
                transport,
                host: Host::parse("a.test").unwrap(),
                port: Port::HTTPS,
                method: None,
                path: None,
                websocket: false,
            };
            Subject::of(&request, &decision)
        };
        let tunnel = subject(Transport::Connect);
        assert_eq!(tunnel, subject(Transport::Socks5));
        assert_ne!(tunnel, subject(Transport::Socks5Udp));
    }
}

//! The life of one question: asked, recorded, told, answered or not, recorded again. A task of its own, so
//! that a client that leaves takes nobody's answer with it; bounded by the policy's patience and two records.

use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::audit::AuditEvent;
use crate::policy::{Answered, QuestionEnd, RuleId, Scope, Verdict, decide};
use crate::wire::gate::{Answer, GateReply, Question};

use super::authorize::recorded_path;
use super::questions::{MAX_SHOWN_PATH, Outcome, Pending};
use super::state::Gate;

/// The longest word for who answered.
const MAX_BY: usize = 128;

/// Leads it to its end, whatever that is.
pub(super) async fn conduct(
    gate: &Gate,
    pending: &Pending,
    answered: oneshot::Receiver<Answer>,
) -> Outcome {
    if gate.reporter.record(asked(gate, pending)).await.is_err() {
        return Outcome::AuditLost;
    }
    let (end, answer) = match gate.control.tell(GateReply::Question(shown(gate, pending))) {
        Ok(()) => until_answered(gate, pending, answered).await,
        Err(_) => (QuestionEnd::Unheard, None),
    };
    // From here on it is a new question.
    pending.answer.take();
    if answer.is_none() && end != QuestionEnd::Unheard {
        // A session that does not read has more to worry about.
        gate.control.tell(GateReply::Withdrawn(pending.id)).ok();
    }
    let (scope, by) = match answer {
        Some(Answer { scope, by, .. }) => (scope, Some(short(&by))),
        None => (Scope::Once, None),
    };
    let recorded = gate.reporter.record(AuditEvent::ApprovalAnswered {
        question: pending.id,
        end,
        scope: by.is_some().then_some(scope),
        by: by.clone(),
    });
    if recorded.await.is_err() {
        return Outcome::AuditLost;
    }
    settle(gate, pending, end, scope, by.as_deref().unwrap_or_default())
}

fn asked(gate: &Gate, pending: &Pending) -> AuditEvent {
    let request = &pending.request;
    AuditEvent::ApprovalAsked {
        question: pending.id,
        conn: pending.conn,
        transport: request.transport,
        host: request.host.clone(),
        port: request.port,
        method: request.method.clone(),
        path: request
            .path
            .as_deref()
            .map(|path| recorded_path(gate, path)),
        rule: pending.rule.clone(),
    }
}

fn shown(gate: &Gate, pending: &Pending) -> Question {
    let request = &pending.request;
    let path = |path: &String| path.chars().take(MAX_SHOWN_PATH).collect();
    Question {
        id: pending.id,
        host: request.host.clone(),
        port: request.port,
        transport: request.transport,
        method: request.method.clone(),
        path: request.path.as_ref().map(path),
        exact: pending.subject.exactly.is_some(),
        budget: pending.subject.budget.is_some(),
        rule: pending.rule.clone(),
        wait_seconds: gate.questions.wait.as_secs(),
    }
}

async fn until_answered(
    gate: &Gate,
    pending: &Pending,
    answered: oneshot::Receiver<Answer>,
) -> (QuestionEnd, Option<Answer>) {
    let mut waiting = pending.waiting.subscribe();
    let none_waits = async {
        // The sender lives in `pending`.
        drop(waiting.wait_for(|count| *count == 0).await);
    };
    tokio::select! {
        // An answer that is there counts, whatever else has happened.
        biased;
        Ok(answer) = answered => match answer.verdict {
            Answered::Allow => (QuestionEnd::Allowed, Some(answer)),
            Answered::Deny => (QuestionEnd::Denied, Some(answer)),
        },
        () = gate.until_interrupted() => (QuestionEnd::Withdrawn, None),
        () = none_waits => (QuestionEnd::Withdrawn, None),
        () = until_not_asked(gate, pending) => (QuestionEnd::Superseded, None),
        () = sleep(gate.questions.wait) => (QuestionEnd::Expired, None),
    }
}

/// Resolves once a new policy decides this by itself. A budget's question stays: what it asks does not
/// depend on the rules.
async fn until_not_asked(gate: &Gate, pending: &Pending) {
    if pending.subject.budget.is_some() {
        return std::future::pending().await;
    }
    let request = &pending.request;
    let mut changes = gate.changes.subscribe();
    // The sender lives in the gate.
    while decide(&gate.rules(), request).verdict == Verdict::Ask && changes.changed().await.is_ok()
    {
    }
}

/// What the question came to, for all that wait; a far-reaching answer is remembered.
fn settle(gate: &Gate, pending: &Pending, end: QuestionEnd, scope: Scope, by: &str) -> Outcome {
    let id = pending.id;
    // A budget that is used up again is another question.
    let lasts = scope > Scope::Once && pending.subject.budget.is_none();
    let remember = |answered, rule: &RuleId| {
        if lasts {
            gate.questions.remember(pending, answered, rule);
        }
    };
    match end {
        QuestionEnd::Allowed => {
            let rule = RuleId::new(format!("approved by {by} (question {id}, {scope})"));
            remember(Answered::Allow, &rule);
            Outcome::Allowed(rule)
        }
        QuestionEnd::Denied => {
            let rule = RuleId::new(format!("denied by {by} (question {id}, {scope})"));
            remember(Answered::Deny, &rule);
            Outcome::Denied(rule)
        }
        QuestionEnd::Superseded => Outcome::Superseded,
        QuestionEnd::Expired => {
            let seconds = gate.questions.wait.as_secs();
            let why = format!("approvals: no answer to question {id} within {seconds} s");
            Outcome::Denied(RuleId::new(why))
        }
        QuestionEnd::Withdrawn | QuestionEnd::Unheard => {
            Outcome::Denied(RuleId::new(format!("approvals: question {id} {end}")))
        }
    }
}

/// Who answered, safe for a record and a header.
fn short(by: &str) -> String {
    by.chars()
        .filter(|c| !c.is_control())
        .take(MAX_BY)
        .collect()
}

//! Approvals and credentials: what somebody let a session do.

use serde_json::json;

use super::super::Seen;
use super::super::seen::authority;
use super::envelope::{Event, GRANT, Outcome};
use super::{MAX_KNOWN, Session};

/// Somebody is asked.
pub(super) fn asked(session: &mut Session, seen: &Seen) -> Event {
    let host = seen.text("host").unwrap_or("?");
    let mut what = format!("connect to {}", authority(host, seen.port()));
    if let Some(method) = seen.text("method") {
        what = format!(
            "{method} {}{}",
            authority(host, seen.port()),
            seen.text("path").unwrap_or_default()
        );
    }
    let mut event = about(seen, 99, "Ask", &what);
    event.outcome(Outcome::Asked);
    event.mapped(&["host", "port", "method", "path"]);
    if let Some(question) = seen.number("question") {
        session.questions.insert(question, what);
    }
    if session.questions.len() > MAX_KNOWN {
        session.questions.pop_first();
    }
    event
}

/// Somebody has answered, or nobody did in time.
pub(super) fn answered(session: &mut Session, seen: &Seen) -> Event {
    let question = seen.number("question");
    let what = question.and_then(|question| session.questions.remove(&question));
    let what = what.unwrap_or_else(|| format!("question {}", question.unwrap_or_default()));
    let end = seen.text("end").unwrap_or_default();
    let mut event = if end == "allowed" {
        let mut event = about(seen, 1, "Assign Privileges", &what);
        event.outcome(Outcome::Allowed);
        event
    } else {
        let mut event = about(seen, 99, "Deny", &what);
        event.outcome(Outcome::Blocked);
        event
    };
    event.set("status_detail", end.into());
    event
}

/// A credential's value was put into a request.
pub(super) fn credential(seen: &Seen) -> Event {
    let of = |name| seen.text(name).unwrap_or("?");
    let what = format!("credential {} for {}", of("credential"), of("host"));
    let mut event = about(seen, 1, "Assign Privileges", &what);
    event.outcome(Outcome::Allowed);
    event
}

fn about(seen: &Seen, activity: u64, name: &str, privilege: &str) -> Event {
    let mut event = Event::new(&GRANT, activity, name);
    event.set(
        "user",
        json!({ "name": seen.user, "type_id": 1, "type": "User" }),
    );
    event.set("session", json!({ "uid": seen.session }));
    event.set("privileges", json!([privilege]));
    event.set(
        "src_endpoint",
        json!({ "name": "jail", "uid": seen.session }),
    );
    event
}

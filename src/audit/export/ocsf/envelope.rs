//! What every event has, whatever its class.

use serde_json::{Map, Value, json};

use super::super::Seen;
use super::super::seen::Process;
use super::VERSION;

/// A class of the schema.
#[derive(Debug)]
pub(super) struct Class {
    uid: u64,
    name: &'static str,
    category: (u64, &'static str),
}

const fn class(uid: u64, name: &'static str, category: (u64, &'static str)) -> Class {
    Class {
        uid,
        name,
        category,
    }
}

const NETWORK_CATEGORY: (u64, &str) = (4, "Network Activity");
pub(super) const NETWORK: Class = class(4001, "Network Activity", NETWORK_CATEGORY);
pub(super) const HTTP: Class = class(4002, "HTTP Activity", NETWORK_CATEGORY);
pub(super) const DNS: Class = class(4003, "DNS Activity", NETWORK_CATEGORY);
pub(super) const GRANT: Class = class(
    3003,
    "Authorize Session",
    (3, "Identity & Access Management"),
);
pub(super) const LIFECYCLE: Class =
    class(6002, "Application Lifecycle", (6, "Application Activity"));
pub(super) const BASE: Class = class(0, "Base Event", (0, "Uncategorized"));

/// What became of what was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It may go on.
    Allowed,
    /// A rule, or the want of one, stopped it.
    Blocked,
    /// It failed.
    Failed,
    /// Somebody is asked.
    Asked,
    /// Nothing was decided: it happened.
    Seen,
}

/// An event in the making.
#[derive(Debug)]
pub(super) struct Event {
    class: &'static Class,
    activity: (u64, String),
    outcome: Outcome,
    alarming: bool,
    attributes: Map<String, Value>,
    /// Names of the record's fields that have an attribute.
    used: Vec<&'static str>,
    profiles: Vec<&'static str>,
}

impl Event {
    /// An event that merely happened. `name` is the caption of the activity; with 99 (Other) any word.
    pub(super) fn new(class: &'static Class, activity: u64, name: &str) -> Self {
        Self {
            class,
            activity: (activity, name.to_owned()),
            outcome: Outcome::Seen,
            alarming: false,
            attributes: Map::new(),
            used: Vec::new(),
            profiles: vec!["container", "host", "security_control"],
        }
    }

    /// What became of it.
    pub(super) fn outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Somebody should look at it.
    pub(super) fn alarming(&mut self) {
        self.alarming = true;
    }

    /// Sets an attribute.
    pub(super) fn set(&mut self, name: &str, value: Value) {
        self.attributes.insert(name.to_owned(), value);
    }

    /// Sets an attribute that a profile brings.
    pub(super) fn set_with(&mut self, profile: &'static str, name: &str, value: Value) {
        self.profiles.push(profile);
        self.set(name, value);
    }

    /// A text of the record that gets an attribute.
    pub(super) fn take<'a>(&mut self, seen: &'a Seen, names: &[&'static str]) -> Option<&'a str> {
        let found = |name: &&'static str| Some((*name, seen.text(name)?));
        let (name, text) = names.iter().find_map(found)?;
        self.used.push(name);
        Some(text)
    }

    /// A number of the record that gets an attribute. The schema's numbers end at 2^63 - 1.
    pub(super) fn take_number(&mut self, seen: &Seen, names: &[&'static str]) -> Option<u64> {
        let found = |name: &&'static str| Some((*name, seen.number(name)?));
        let (name, number) = names.iter().find_map(found)?;
        let fits = i64::try_from(number).is_ok();
        if fits {
            self.used.push(name);
        }
        fits.then_some(number)
    }

    /// These fields of the record have their place.
    pub(super) fn mapped(&mut self, names: &[&'static str]) {
        self.used.extend(names);
    }

    /// The whole event. `process`: whose connection it is, where the record does not say.
    pub(super) fn finish(mut self, seen: &Seen, process: Option<Value>) -> Value {
        let Class {
            uid,
            name,
            category,
        } = *self.class;
        let (activity, activity_name) = std::mem::take(&mut self.activity);
        let (severity_id, severity) = match self.outcome {
            _ if self.alarming => (3, "Medium"),
            Outcome::Blocked | Outcome::Failed => (2, "Low"),
            _ => (1, "Informational"),
        };
        let activity_caption = if activity == 99 {
            "Other"
        } else {
            &activity_name
        };
        let own = seen.process().and_then(|process| process_object(&process));
        if own.is_some() {
            self.used.push("process");
        }
        let mut actor = json!({
            "user": { "name": seen.user, "type_id": 1, "type": "User" },
            "session": { "uid": seen.session },
        });
        if let (Some(actor), Some(process)) = (actor.as_object_mut(), own.or(process)) {
            actor.insert("process".into(), process);
        }
        let message = self.message(seen);
        self.finish_outcome(seen);
        let mut unmapped: Map<_, _> = seen
            .fields
            .iter()
            .filter(|(name, _)| !self.used.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        unmapped.insert("hash".into(), seen.hash.clone().into());
        let mut event = json!({
            "metadata": {
                "version": VERSION,
                "product": {
                    "name": "Portcullis",
                    "vendor_name": "Portcullis",
                    "version": env!("CARGO_PKG_VERSION"),
                },
                "uid": format!("{}:{}", seen.session, seen.seq),
                "correlation_uid": seen.session,
                "sequence": seen.seq,
                "event_code": seen.event,
                "original_time": format!("{:.6}", seen.ts),
                "log_name": "audit",
                "log_provider": "Portcullis",
                "profiles": self.profiles,
            },
            "time": seen.ts.as_millisecond(),
            "category_uid": category.0,
            "category_name": category.1,
            "class_uid": uid,
            "class_name": name,
            "activity_id": activity,
            "activity_name": activity_name,
            "type_uid": uid * 100 + activity,
            "type_name": format!("{name}: {activity_caption}"),
            "severity_id": severity_id,
            "severity": severity,
            "message": message,
            "device": { "uid": seen.host_id, "type_id": 0, "type": "Unknown" },
            "actor": actor,
            "unmapped": unmapped,
        });
        if let Some(event) = event.as_object_mut() {
            event.extend(self.attributes);
        }
        event
    }

    /// Action, disposition and status; and the rule and policy behind them.
    fn finish_outcome(&mut self, seen: &Seen) {
        let (action, disposition, status) = match self.outcome {
            Outcome::Allowed => ((1, "Allowed"), (1, "Allowed"), (1, "Success")),
            Outcome::Blocked => ((2, "Denied"), (2, "Blocked"), (2, "Failure")),
            Outcome::Failed => ((2, "Denied"), (27, "Error"), (2, "Failure")),
            Outcome::Asked => ((99, "Asked"), (14, "Delayed"), (99, "Asked")),
            Outcome::Seen => ((3, "Observed"), (17, "Logged"), (1, "Success")),
        };
        for (name, (id, caption)) in [
            ("action", action),
            ("disposition", disposition),
            ("status", status),
        ] {
            self.set(&format!("{name}_id"), id.into());
            self.set(name, caption.into());
        }
        if let Some(reason) = seen.reason() {
            self.used.push("reason");
            self.set("status_code", reason.into());
        }
        if let Some(detail) = self.take(seen, &["detail"]) {
            self.set("status_detail", detail.into());
        }
        if let Some(rule) = self.take(seen, &["rule"]) {
            self.set("firewall_rule", json!({ "name": rule }));
        }
        if let Some(generation) = self.take(seen, &["generation"]) {
            self.set("policy", json!({ "uid": generation, "name": "network" }));
        }
    }

    /// One line for a person.
    fn message(&self, seen: &Seen) -> String {
        let endpoint = self.attributes.get("dst_endpoint");
        let host = endpoint.and_then(|one| one.get("hostname").or(one.get("ip")));
        let host = host.and_then(Value::as_str).or(seen.text("name"));
        let mut message = seen.event.clone();
        let reason = seen.reason();
        let words = [seen.text("verdict"), host, reason.as_deref()];
        for word in words.into_iter().flatten() {
            message.push(' ');
            message.push_str(word);
        }
        message
    }
}

/// A process. The schema wants a number, or it is none.
pub(super) fn process_object(process: &Process<'_>) -> Option<Value> {
    let mut object = Map::new();
    if let Some(pid) = process.host_pid {
        object.insert("pid".into(), pid.into());
    } else {
        object.insert("uid".into(), format!("jail:{}", process.pid?).into());
    }
    if let Some(inside) = process.pid {
        object.insert("namespace_pid".into(), inside.into());
    }
    if let Some((exe, name)) = process.exe.zip(process.name()) {
        object.insert("name".into(), name.into());
        let file = json!({ "name": name, "path": exe, "type_id": 8, "type": "Executable File" });
        object.insert("file".into(), file);
    }
    if let Some(line) = &process.command_line {
        object.insert("cmd_line".into(), line.as_str().into());
    }
    // The nearest is the outermost: each is the parent of the one before.
    let mut above = None;
    for parent in process.parents.iter().rev() {
        let Some(mut parent) = process_object(parent) else {
            continue;
        };
        if let (Some(object), Some(above)) = (parent.as_object_mut(), above) {
            object.insert("parent_process".into(), above);
        }
        above = Some(parent);
    }
    if let Some(above) = above {
        object.insert("parent_process".into(), above);
    }
    Some(Value::Object(object))
}

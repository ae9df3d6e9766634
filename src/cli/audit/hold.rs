//! `portcullis audit hold` and `release`: legal holds on sessions, on record in the ledger.

use jiff::Timestamp;
use serde::Serialize;

use super::places::Places;
use super::{FolderArg, finish, naming, no_sessions};
use crate::audit::ledger::LedgerEvent;
use crate::audit::redact;
use crate::audit::retention::hold::{self, Hold, MAX_REASON};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print::{self, escape, line};
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::session::caller::Caller;

/// What to hold.
#[derive(Debug, clap::Args)]
pub struct HoldArgs {
    /// Session ids or their beginnings; if none is given, what is held is listed
    #[arg(requires = "reason")]
    sessions: Vec<String>,
    /// Why, in one line
    #[arg(long, value_name = "TEXT", requires = "sessions")]
    reason: Option<String>,
    /// Print one JSON object a hold
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folder: FolderArg,
}

/// What not to hold any more.
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {
    /// Session ids or their beginnings
    #[arg(required = true)]
    sessions: Vec<String>,
    /// Why, in one line
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    folder: FolderArg,
}

/// A hold, for programs.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    session: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<&'a Hold>,
    /// Why nothing is known of it but that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Holds these, or lists what is held.
pub(super) fn hold(arguments: &HoldArgs) -> Outcome {
    let Some(places) = Places::hold(&arguments.folder)? else {
        return no_sessions(&arguments.folder.path()?);
    };
    let Some(reason) = &arguments.reason else {
        return list(&places, arguments.json);
    };
    let reason = one_line(reason)?;
    let by = Caller::current().user;
    let mut events = Vec::new();
    let mut lines = Vec::new();
    for (place, session) in meant(&places, &arguments.sessions, &places.sessions()?)? {
        let Some((uid, folder)) = places.folders.get(place) else {
            continue;
        };
        let hold = Hold {
            session,
            by: by.clone(),
            since: Timestamp::now(),
            reason: reason.clone(),
        };
        // From here on nothing of it is removed, whatever becomes of the rest.
        let set = hold::set(folder, &hold);
        if !set.map_err(|error| failed(session, &error))? {
            lines.push(format!("held already  {session}"));
            continue;
        }
        lines.push(format!("held      {session}"));
        events.push(LedgerEvent::HoldSet {
            session,
            uid: *uid,
            by: by.clone(),
            reason: reason.clone(),
        });
    }
    let recorded = places.record(&events);
    if !recorded.map_err(|failure| {
        let text = format!("{}; it is held, and that is not on record", failure.message);
        Failure::new(failure.exit, text)
    })? {
        unrecorded(&places);
    }
    finish(lines.into_iter().try_for_each(line))
}

/// Holds these no more.
pub(super) fn release(arguments: &ReleaseArgs) -> Outcome {
    let Some(places) = Places::hold(&arguments.folder)? else {
        return no_sessions(&arguments.folder.path()?);
    };
    let reason = arguments.reason.as_deref().map(one_line).transpose()?;
    let by = Caller::current().user;
    let mut held = Vec::new();
    for (place, (uid, folder)) in places.folders.iter().enumerate() {
        let here = hold::held(folder).map_err(|error| folder_failed(&places, &error))?;
        held.extend(here.into_iter().map(|session| (place, session)));
        // One whose file somebody removed.
        let signed = places.contents()?.map(|contents| contents.holds);
        let signed = signed.into_iter().flatten().filter(|(of, _)| of == uid);
        held.extend(signed.map(|(_, session)| (place, session)));
    }
    held.sort_unstable();
    held.dedup();
    let meant = meant(&places, &arguments.sessions, &held)?;
    let events: Vec<_> = meant
        .iter()
        .filter_map(|(place, session)| {
            let (uid, _) = places.folders.get(*place)?;
            Some(LedgerEvent::HoldReleased {
                session: *session,
                uid: *uid,
                by: by.clone(),
                reason: reason.clone(),
            })
        })
        .collect();
    // Not lifted before that is on record.
    if !places.record(&events)? {
        unrecorded(&places);
    }
    let mut lines = Vec::new();
    for (place, session) in meant {
        if let Some((_, folder)) = places.folders.get(place) {
            hold::lift(folder, session).map_err(|error| failed(session, &error))?;
            lines.push(format!("released  {session}"));
        }
    }
    finish(lines.into_iter().try_for_each(line))
}

fn list(places: &Places, json: bool) -> Outcome {
    let contents = places.contents()?;
    let mut lines = Vec::new();
    for (uid, folder) in &places.folders {
        let mut all = hold::all(folder).map_err(|error| folder_failed(places, &error))?;
        let signed = contents.iter().flat_map(|contents| &contents.holds);
        for (_, session) in signed.filter(|(of, _)| of == uid) {
            if all.iter().all(|(known, _)| known != session) {
                let gone = "its file is gone; the ledger says that it is held";
                all.push((*session, Err(std::io::Error::other(gone))));
            }
        }
        for (session, hold) in &all {
            lines.push(if json {
                let shown = Shown {
                    session: *session,
                    uid: *uid,
                    hold: hold.as_ref().ok(),
                    error: hold.as_ref().err().map(ToString::to_string),
                };
                let text = serde_json::to_string(&shown);
                text.map_err(|error| Failure::new(Exit::Internal, error))?
            } else {
                match hold {
                    Ok(hold) => format!(
                        "{session}  since {:.0} by {}: {}",
                        hold.since,
                        escape(&hold.by),
                        escape(&hold.reason)
                    ),
                    Err(error) => format!("{session}  {}", escape(&error.to_string())),
                }
            });
        }
    }
    if lines.is_empty() && !json {
        lines.push("nothing is held".to_owned());
    }
    finish(lines.into_iter().try_for_each(line))
}

/// The sessions that these name, of those there are.
fn meant(
    places: &Places,
    names: &[String],
    all: &[(usize, SessionId)],
) -> Result<Vec<(usize, SessionId)>, Failure> {
    let sessions: Vec<_> = all.iter().map(|(_, session)| *session).collect();
    let mut found = Vec::new();
    for name in names {
        let session = naming::among(&sessions, name, places.path())?;
        found.extend(all.iter().filter(|(_, one)| *one == session).copied());
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn one_line(reason: impl AsRef<str>) -> Result<String, Failure> {
    let reason = reason.as_ref().trim();
    if reason.is_empty() || reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
        let why = format!("--reason: give one line of at most {MAX_REASON} bytes");
        return Err(Failure::new(Exit::Usage, why));
    }
    let mut reason = reason.to_owned();
    // It stands in the ledger for ever.
    redact::text(&mut reason);
    Ok(reason)
}

fn unrecorded(places: &Places) {
    let path = escape(&places.path().to_string_lossy());
    print::error(format_args!(
        "{path}: there is no ledger, so that this is not on record; nothing is removed there either"
    ));
}

fn failed(session: SessionId, error: &std::io::Error) -> Failure {
    let exit = match error.kind() {
        std::io::ErrorKind::PermissionDenied => Exit::NoPermission,
        _ => Exit::Unavailable,
    };
    Failure::new(
        exit,
        format!("hold on {session}: {error}; check the folder"),
    )
}

fn folder_failed(places: &Places, error: &std::io::Error) -> Failure {
    let path = escape(&places.path().to_string_lossy());
    Failure::new(
        Exit::Unavailable,
        format!("holds in {path}: {error}; check the folder"),
    )
}

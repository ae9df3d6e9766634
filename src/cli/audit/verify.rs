//! `portcullis audit verify`: a line a log, and 1 if any is broken.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::logs::Logs;
use super::{FolderArg, finish, log_failure, naming, no_sessions};
use crate::audit::folder::file_name;
use crate::audit::segment::SegmentName;
use crate::audit::verify::{Report, State, verify_file, verify_log, verify_segment};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print::{escape, line};
use crate::exit::Exit;
use crate::ids::SessionId;

/// What to verify.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Session ids, their beginnings, or paths of logs; all sessions if none is given
    sessions: Vec<String>,
    /// Print one JSON object a log
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folder: FolderArg,
}

/// One log, verified.
#[derive(Debug, Serialize)]
struct Verified {
    log: PathBuf,
    #[serde(flatten)]
    report: Report,
}

/// Verifies each and prints as it goes.
pub(super) fn verify(arguments: &VerifyArgs) -> Outcome {
    let path = arguments.folder.path()?;
    let logs = logs(arguments, &path)?;
    if logs.is_empty() && !arguments.json {
        return no_sessions(&path);
    }
    let mut exit = Exit::Success;
    for log in logs {
        let verified = log.verify()?;
        if verified.report.broken.is_some() {
            exit = Exit::No;
        }
        let text = if arguments.json {
            serde_json::to_string(&verified).map_err(|error| Failure::new(Exit::Internal, error))?
        } else {
            describe(&verified)
        };
        if line(text).is_err() {
            break;
        }
    }
    // A closed pipe does not make a broken log whole.
    if exit == Exit::Success {
        finish(Ok(()))
    } else {
        Ok(exit)
    }
}

/// What is to be verified, opened only when its turn comes.
enum Log {
    InFolder(std::rc::Rc<Logs>, SessionId),
    AtPath(PathBuf),
}

fn logs(arguments: &VerifyArgs, path: &Path) -> Result<Vec<Log>, Failure> {
    let folder = Logs::find(&arguments.folder)?.map(std::rc::Rc::new);
    if arguments.sessions.is_empty() {
        let Some(folder) = folder else {
            return Ok(Vec::new());
        };
        let sessions = folder.sessions()?;
        return Ok(sessions
            .into_iter()
            .map(|id| Log::InFolder(folder.clone(), id))
            .collect());
    }
    let find = |name: &String| {
        if name.contains(['/', '.']) {
            return Ok(Log::AtPath(name.into()));
        }
        let folder = folder.clone().ok_or_else(|| naming::unknown(path, name))?;
        let session = naming::find(&folder, name)?;
        Ok(Log::InFolder(folder, session))
    };
    arguments.sessions.iter().map(find).collect()
}

impl Log {
    fn verify(self) -> Result<Verified, Failure> {
        let (log, report) = match self {
            Self::InFolder(folder, session) => {
                let log = folder.path().join(file_name(session));
                (log, verify_log(&*folder, session))
            }
            Self::AtPath(path) => {
                let name = path.file_name().and_then(OsStr::to_str);
                let named = name.and_then(SegmentName::parse);
                let report = File::open(&path).and_then(|file| match named {
                    Some(named) => verify_segment(file, named),
                    None => verify_file(&file, None),
                });
                (path, report)
            }
        };
        let report = report.map_err(|error| log_failure(&log, &error))?;
        Ok(Verified { log, report })
    }
}

fn describe(Verified { log, report }: &Verified) -> String {
    let log = report
        .session
        .map_or_else(|| escape(&log.to_string_lossy()), |id| id.to_string());
    format!("{}  {log}  {}", word(report), findings(report))
}

/// The state of a log in one word.
pub(super) fn word(report: &Report) -> &'static str {
    match (&report.broken, report.state) {
        (Some(_), _) => "BROKEN  ",
        (None, _) if report.part.is_some() => "part    ",
        (None, State::Complete) => "complete",
        (None, State::Running) => "running ",
        (None, State::Open) => "open    ",
    }
}

/// The rest of the line.
pub(super) fn findings(report: &Report) -> String {
    if let Some(broken) = &report.broken {
        return escape(&broken.to_string());
    }
    let count = match report.records {
        1 => "1 record".to_owned(),
        records => format!("{records} records"),
    };
    let part = report.part.map(|first| {
        format!(" from record {first} on: part of a log, whose other segments were not looked at")
    });
    let head = report.head.map(|head| format!(", head {head}"));
    let open = (report.state == State::Open)
        .then(|| "; not closed: its writer was killed, or its tail was cut off".to_owned());
    let times = report.clock_set_back;
    let clock = (times > 0).then(|| format!("; warning: the clock was set back {times} times"));
    [Some(count), part, head, open, clock]
        .into_iter()
        .flatten()
        .collect()
}

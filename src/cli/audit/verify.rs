//! `portcullis audit verify`: a line a log, a line for the ledger, and 1 if anything does not hold.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::logs::Logs;
use super::{FolderArg, finish, folder_failure, log_failure, naming, no_sessions, prove};
use crate::audit::folder::{LogFolder, file_name};
use crate::audit::ledger::compare::{Comparison, Standing, missing};
use crate::audit::ledger::read::{Contents, LogName};
use crate::audit::segment::SegmentName;
use crate::audit::verify::{Begins, Report, State, verify_file, verify_log_seen, verify_segment};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print::{escape, line};
use crate::exit::Exit;
use crate::ids::SessionId;

/// What to verify.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Session ids, their beginnings, or paths of logs; all sessions if none is given
    sessions: Vec<String>,
    /// Public key of the ledger that was noted elsewhere: 64 hex digits or a file [default: the one beside it]
    #[arg(long, value_name = "HEX|FILE")]
    key: Option<String>,
    /// File with checkpoints of the ledger that were kept elsewhere, as they are or in the lines of syslog or a journal
    #[arg(long = "anchor", value_name = "FILE")]
    anchors: Vec<PathBuf>,
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
    /// How it stands to the ledger, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    ledger: Option<Standing>,
}

/// Verifies each and prints as it goes.
pub(super) fn verify(arguments: &VerifyArgs) -> Outcome {
    let path = arguments.folder.path()?;
    let noted = arguments.key.as_deref().map(prove::noted_key).transpose()?;
    let anchors = prove::anchors(&arguments.anchors)?;
    let by_path = !arguments.sessions.is_empty() && arguments.sessions.iter().all(is_path);
    let (contents, proof) = if by_path && noted.is_none() && anchors.count == 0 {
        (Contents::default(), None)
    } else {
        // The ledger first: what comes into it while logs are read speaks of records that were not there yet.
        prove::ledger(&path, noted, anchors)?
    };
    let logs = logs(arguments, &path)?;
    if logs.is_empty() && proof.is_none() && !arguments.json {
        return no_sessions(&path);
    }
    let mut told = Told {
        json: arguments.json,
        exit: Exit::Success,
        goes_on: true,
        pruned: 0,
    };
    if arguments.sessions.is_empty() {
        let here: BTreeSet<LogName> = logs.iter().filter_map(Log::name).collect();
        let gone = contents
            .sessions
            .iter()
            .filter(|(name, _)| !here.contains(name));
        let mut gone: Vec<_> = gone.collect();
        gone.sort_by_key(|(name, _)| **name);
        for ((uid, session), bound) in gone {
            let standing = missing(bound);
            let pruned = standing.flaw.is_none();
            told.pruned += u64::from(pruned);
            if pruned && !arguments.json {
                continue;
            }
            told.log(&Verified {
                log: place(&path, *uid).join(file_name(*session)),
                report: Report {
                    session: Some(*session),
                    records: 0,
                    head: None,
                    state: if bound.ended {
                        State::Complete
                    } else {
                        State::Open
                    },
                    part: None,
                    pruned: pruned.then_some(standing.bound),
                    ends: Vec::new(),
                    broken: None,
                    clock_set_back: 0,
                },
                ledger: Some(standing),
            })?;
        }
    }
    let against = proof.as_ref().map(|_| &contents);
    let mut failure = None;
    prove::each(
        &logs,
        |log| log.verify(against),
        |verified| {
            let outcome = verified.and_then(|verified| told.log(&verified));
            failure = outcome.err();
            failure.is_none() && told.goes_on
        },
    );
    if let Some(failure) = failure {
        return Err(failure);
    }
    told.proof(proof.as_ref(), arguments.sessions.is_empty())?;
    // A closed pipe does not make a broken log whole.
    if told.exit == Exit::Success {
        finish(Ok(()))
    } else {
        Ok(told.exit)
    }
}

/// What was printed so far.
struct Told {
    json: bool,
    exit: Exit,
    /// Somebody still reads.
    goes_on: bool,
    /// Logs that are gone as a whole, as the ledger says.
    pruned: u64,
}

impl Told {
    fn log(&mut self, verified: &Verified) -> Result<(), Failure> {
        let flaw = verified
            .ledger
            .as_ref()
            .and_then(|standing| standing.flaw.as_ref());
        if verified.report.broken.is_some() || flaw.is_some() {
            self.exit = Exit::No;
        }
        let text = if self.json {
            json(verified)?
        } else {
            describe(verified)
        };
        self.goes_on &= line(text).is_ok();
        Ok(())
    }

    fn proof(&mut self, proof: Option<&prove::Proof>, whole: bool) -> Result<(), Failure> {
        if self.pruned > 0 && !self.json && self.goes_on {
            let logs = if self.pruned == 1 { "log" } else { "logs" };
            self.goes_on = line(format_args!(
                "pruned    {} {logs} as a whole, as the ledger says",
                self.pruned
            ))
            .is_ok();
        }
        let Some(proof) = proof else {
            if whole && !self.json && self.goes_on {
                drop(line(
                    "ledger    there is none: a log that is gone or that was written anew does not show",
                ));
            }
            return Ok(());
        };
        if !proof.holds() {
            self.exit = Exit::No;
        }
        let lines = if self.json {
            vec![json(proof)?]
        } else {
            proof.lines()
        };
        for text in lines {
            self.goes_on = self.goes_on && line(text).is_ok();
        }
        Ok(())
    }
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new(Exit::Internal, error))
}

/// What is to be verified, opened only when its turn comes.
enum Log {
    InFolder(Arc<Logs>, SessionId),
    /// In a folder of a user's, below that of a host.
    OfUser(Arc<LogFolder>, u32, SessionId),
    AtPath(PathBuf),
}

/// Whether this names a file and no session.
#[expect(clippy::ptr_arg, reason = "asked of each of a list of them")]
fn is_path(name: &String) -> bool {
    name.contains(['/', '.'])
}

/// The folder of a user's logs, or that of all.
fn place(path: &Path, uid: Option<u32>) -> PathBuf {
    uid.map_or_else(|| path.to_owned(), |uid| path.join(uid.to_string()))
}

fn logs(arguments: &VerifyArgs, path: &Path) -> Result<Vec<Log>, Failure> {
    let folder = Logs::find(&arguments.folder)?.map(Arc::new);
    if arguments.sessions.is_empty() {
        let Some(folder) = folder else {
            return Ok(Vec::new());
        };
        let own = folder.sessions()?.into_iter();
        let own = own.map(|id| Log::InFolder(folder.clone(), id));
        return Ok(own.chain(of_users(path)?).collect());
    }
    let find = |name: &String| {
        if is_path(name) {
            return Ok(Log::AtPath(name.into()));
        }
        let folder = folder.clone().ok_or_else(|| naming::unknown(path, name))?;
        let session = naming::find(&folder, name)?;
        Ok(Log::InFolder(folder, session))
    };
    arguments.sessions.iter().map(find).collect()
}

/// The logs in the folders of users, as the service keeps them.
fn of_users(path: &Path) -> Result<Vec<Log>, Failure> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Ok(Vec::new());
    };
    let uid = |name: &OsStr| -> Option<u32> { name.to_str()?.parse().ok() };
    let mut uids: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| uid(&entry.file_name()))
        .collect();
    uids.sort_unstable();
    let mut logs = Vec::new();
    for uid in uids {
        let folder = LogFolder::open(&place(path, Some(uid))).map_err(folder_failure)?;
        let folder = Arc::new(folder);
        let sessions = folder.sessions().map_err(folder_failure)?;
        logs.extend(
            sessions
                .into_iter()
                .map(|id| Log::OfUser(folder.clone(), uid, id)),
        );
    }
    Ok(logs)
}

impl Log {
    /// What the ledger calls it.
    fn name(&self) -> Option<LogName> {
        match self {
            Self::InFolder(_, session) => Some((None, *session)),
            Self::OfUser(_, uid, session) => Some((Some(*uid), *session)),
            Self::AtPath(_) => None,
        }
    }

    fn verify(&self, ledger: Option<&Contents>) -> Result<Verified, Failure> {
        let bound = ledger
            .zip(self.name())
            .map(|(ledger, name)| ledger.sessions.get(&name));
        let bound_here = bound.flatten();
        let pruned = bound_here.map_or(&[][..], |bound| bound.pruned.as_slice());
        let begins = Begins::Behind(pruned);
        let mut comparison = Comparison::new(bound_here);
        let mut seen = |record, hash| comparison.see(record, hash);
        let (log, report) = match self {
            Self::InFolder(folder, session) => {
                let log = folder.path().join(file_name(*session));
                (log, verify_log_seen(&**folder, *session, begins, &mut seen))
            }
            Self::OfUser(folder, _, session) => {
                let log = folder.path().join(file_name(*session));
                (log, verify_log_seen(&**folder, *session, begins, &mut seen))
            }
            Self::AtPath(path) => {
                let name = path.file_name().and_then(OsStr::to_str);
                let named = name.and_then(SegmentName::parse);
                let report = File::open(path).and_then(|file| match named {
                    Some(named) => verify_segment(file, named),
                    None => verify_file(&file, None),
                });
                (path.clone(), report)
            }
        };
        let report = report.map_err(|error| log_failure(&log, &error))?;
        let ledger = bound.map(|_| comparison.finish(&report));
        Ok(Verified {
            log,
            report,
            ledger,
        })
    }
}

fn describe(
    Verified {
        log,
        report,
        ledger,
    }: &Verified,
) -> String {
    let log = report
        .session
        .map_or_else(|| escape(&log.to_string_lossy()), |id| id.to_string());
    let flaw = ledger.as_ref().and_then(|standing| standing.flaw.as_ref());
    if let Some(flaw) = flaw {
        return format!("BROKEN    {log}  {}", escape(&flaw.to_string()));
    }
    let unbound = match ledger {
        Some(Standing { bound: 0, .. }) if report.records > 0 => "; not in the ledger".to_owned(),
        Some(Standing { unbound: 1, .. }) => "; its last record is not in the ledger".to_owned(),
        Some(Standing { unbound, .. }) if *unbound > 0 => {
            format!("; its last {unbound} records are not in the ledger")
        }
        _ => String::new(),
    };
    format!("{}  {log}  {}{unbound}", word(report), findings(report))
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
    let pruned = report
        .pruned
        .map(|before| format!(" after {before} that were pruned, as the ledger says"));
    let head = report.head.map(|head| format!(", head {head}"));
    let open = (report.state == State::Open)
        .then(|| "; not closed: its writer was killed, or its tail was cut off".to_owned());
    let times = report.clock_set_back;
    let clock = (times > 0).then(|| format!("; warning: the clock was set back {times} times"));
    [Some(count), part, pruned, head, open, clock]
        .into_iter()
        .flatten()
        .collect()
}

//! `portcullis audit verify`: a line a log, a line for the ledger, and 1 if anything does not hold.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::host::{Host, Word};
use super::logs::{Home, Logs, of_user};
use super::{FolderArg, finish, log_failure, naming, no_sessions, prove};
use crate::audit::folder::file_name;
use crate::audit::ledger::anchor::Anchors;
use crate::audit::ledger::compare::{Comparison, Standing, missing};
use crate::audit::ledger::read::{Bound, Contents, LogName};
use crate::audit::ledger::{FILE, FOLDER};
use crate::audit::notary::LOGS;
use crate::audit::segment::SegmentName;
use crate::audit::verify::{Begins, Report, State, verify_file, verify_log_seen, verify_segment};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print::{self, escape, line};
use crate::cli::service;
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
    let by_path = !arguments.sessions.is_empty() && arguments.sessions.iter().all(is_path);
    // The ledgers first: what comes into them while logs are read speaks of records that were not there yet.
    let host = if by_path || arguments.folder.path.is_some() || !service::is_there() {
        None
    } else {
        // What was kept elsewhere is of the ledger in the caller's own folder, if there is one.
        let own = path.join(FOLDER).join(FILE).exists();
        let anchors = if own { &[][..] } else { &arguments.anchors };
        let key = noted.filter(|_| !own);
        let mut host = Host::find(key, anchors)?;
        if let Some(noted) = noted.filter(|noted| own && host.has(noted)) {
            host = Host::find(Some(noted), &[])?;
        }
        Some((host, own))
    };
    let others = |(host, own): &(Host, bool)| !own || noted.is_some_and(|key| host.has(&key));
    let noted = noted.filter(|_| !host.as_ref().is_some_and(others));
    let anchors = match &host {
        Some((_, false)) => Anchors::default(),
        _ => prove::anchors(&arguments.anchors)?,
    };
    let (contents, proof) = if by_path && noted.is_none() && anchors.count == 0 {
        (Contents::default(), None)
    } else {
        prove::ledger(&path, noted, anchors)?
    };
    let all = Logs::find(&arguments.folder)?;
    let host = host.map(|(host, _)| host);
    let host = host.filter(|_| all.as_ref().is_some_and(Logs::has_service));
    let logs = logs(arguments, all.as_ref(), &path)?;
    let known = proof.is_some() || host.as_ref().is_some_and(Host::is_there);
    if logs.is_empty() && !known && !arguments.json {
        return no_sessions(&path);
    }
    let mut told = Told {
        json: arguments.json,
        exit: Exit::Success,
        goes_on: true,
        pruned: 0,
    };
    let ledgers = Ledgers {
        own: proof.as_ref().map(|_| &contents),
        host: host.as_ref().filter(|host| host.is_there()),
    };
    let whole = arguments.sessions.is_empty();
    if whole {
        for gone in ledgers.gone(&logs, &path) {
            told.gone(&gone)?;
        }
    }
    let mut failure = None;
    prove::each(
        &logs,
        |log| log.verify(ledgers),
        |verified| {
            let outcome = verified.and_then(|verified| told.log(&verified));
            failure = outcome.err();
            failure.is_none() && told.goes_on
        },
    );
    if let Some(failure) = failure {
        return Err(failure);
    }
    told.pruned();
    if let Some(host) = &host {
        told.host(&host.word)?;
    }
    let own = logs.iter().any(|log| log.is_own());
    told.proof(proof.as_ref(), whole && (own || host.is_none()))?;
    // A closed pipe does not make a broken log whole.
    if told.exit == Exit::Success {
        finish(Ok(()))
    } else {
        Ok(told.exit)
    }
}

/// What logs are held to.
#[derive(Clone, Copy)]
struct Ledgers<'a> {
    /// The ledger beside them.
    own: Option<&'a Contents>,
    /// The one of the host, for those that the service keeps.
    host: Option<&'a Host>,
}

impl<'a> Ledgers<'a> {
    /// What is said of a log, if there is a ledger that could.
    fn bound(self, log: &Log<'_>) -> Option<Option<&'a Bound>> {
        match log {
            Log::At(_, Home::Service, session) => self.host.map(|host| host.bound(*session)),
            Log::At(logs, home, session) => {
                let name = (logs.uid(*home), *session);
                self.own.map(|own| own.sessions.get(&name))
            }
            Log::AtPath(_) => None,
        }
    }

    /// Logs that are known and not there.
    fn gone(self, logs: &[Log<'_>], path: &Path) -> Vec<Verified> {
        let mut here: BTreeSet<LogName> = BTreeSet::new();
        let mut kept: BTreeSet<SessionId> = BTreeSet::new();
        for log in logs {
            match log {
                Log::At(_, Home::Service, session) => drop(kept.insert(*session)),
                Log::At(logs, home, session) => drop(here.insert((logs.uid(*home), *session))),
                Log::AtPath(_) => {}
            }
        }
        let own = self.own.into_iter().flat_map(|own| &own.sessions);
        let own = own.filter(|(name, _)| !here.contains(*name));
        let host = self.host.into_iter().flat_map(Host::sessions);
        let host = host.filter(|((_, session), _)| !kept.contains(session));
        let own = own.map(|known| (path, known));
        let mut gone: Vec<_> = own
            .chain(host.map(|known| (Path::new(LOGS), known)))
            .collect();
        gone.sort_by_key(|(_, (name, _))| **name);
        let gone = gone.into_iter();
        gone.map(|(path, ((uid, session), bound))| {
            let log = of_user(path, *uid).join(file_name(*session));
            Verified::gone(log, *session, bound)
        })
        .collect()
    }
}

impl Verified {
    /// Of a log that is not there.
    fn gone(log: PathBuf, session: SessionId, bound: &Bound) -> Self {
        let standing = missing(bound);
        let state = if bound.ended {
            State::Complete
        } else {
            State::Open
        };
        Self {
            log,
            report: Report {
                session: Some(session),
                records: 0,
                head: None,
                state,
                part: None,
                pruned: standing.flaw.is_none().then_some(standing.bound),
                ends: Vec::new(),
                broken: None,
                clock_set_back: 0,
            },
            ledger: Some(standing),
        }
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

    /// A log that is gone; one that was pruned as a whole is counted only, for people.
    fn gone(&mut self, gone: &Verified) -> Result<(), Failure> {
        let pruned = gone.report.pruned.is_some();
        self.pruned += u64::from(pruned);
        if pruned && !self.json {
            return Ok(());
        }
        self.log(gone)
    }

    fn pruned(&mut self) {
        if self.pruned > 0 && !self.json && self.goes_on {
            let logs = if self.pruned == 1 { "log" } else { "logs" };
            self.goes_on = line(format_args!(
                "pruned    {} {logs} as a whole, as the ledger says",
                self.pruned
            ))
            .is_ok();
        }
    }

    fn proof(&mut self, proof: Option<&prove::Proof>, whole: bool) -> Result<(), Failure> {
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
        self.lines(lines);
        Ok(())
    }

    fn host(&mut self, word: &Word) -> Result<(), Failure> {
        match word {
            _ if !word.holds() => self.exit = Exit::No,
            Word::Failed(_) if self.exit == Exit::Success => self.exit = Exit::Unavailable,
            _ => {}
        }
        let lines = match word {
            _ if !self.json => word.lines(),
            Word::Read(proof) => vec![json(proof)?],
            Word::Answered(answered) => vec![json(answered)?],
            // For whoever reads the lines of logs: they are without a word on the ledger.
            Word::None(_) | Word::Failed(_) => {
                word.lines().iter().for_each(print::error);
                return Ok(());
            }
        };
        self.lines(lines);
        Ok(())
    }

    fn lines(&mut self, lines: Vec<String>) {
        for text in lines {
            self.goes_on = self.goes_on && line(text).is_ok();
        }
    }
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new(Exit::Internal, error))
}

/// What is to be verified, opened only when its turn comes.
enum Log<'a> {
    At(&'a Logs, Home, SessionId),
    AtPath(PathBuf),
}

/// Whether this names a file and no session.
#[expect(clippy::ptr_arg, reason = "asked of each of a list of them")]
fn is_path(name: &String) -> bool {
    name.contains(['/', '.'])
}

fn logs<'a>(
    arguments: &VerifyArgs,
    logs: Option<&'a Logs>,
    path: &Path,
) -> Result<Vec<Log<'a>>, Failure> {
    if arguments.sessions.is_empty() {
        let Some(logs) = logs else {
            return Ok(Vec::new());
        };
        let mut all = logs.all()?;
        all.sort_by_key(|(session, home)| (*home, *session));
        let all = all.into_iter();
        return Ok(all.map(|(id, home)| Log::At(logs, home, id)).collect());
    }
    let find = |name: &String| {
        if is_path(name) {
            return Ok(Log::AtPath(name.into()));
        }
        let logs = logs.ok_or_else(|| naming::unknown(path, name))?;
        let (session, home) = naming::find_home(logs, name)?;
        Ok(Log::At(logs, home, session))
    };
    arguments.sessions.iter().map(find).collect()
}

impl Log<'_> {
    /// Whether it is in the folder itself.
    fn is_own(&self) -> bool {
        matches!(self, Self::At(_, Home::Folder(_), _))
    }

    fn verify(&self, ledgers: Ledgers<'_>) -> Result<Verified, Failure> {
        let bound = ledgers.bound(self);
        let bound_here = bound.flatten();
        let pruned = bound_here.map_or(&[][..], |bound| bound.pruned.as_slice());
        let begins = Begins::Behind(pruned);
        let mut comparison = Comparison::new(bound_here);
        let mut seen = |record, hash| comparison.see(record, hash);
        let (log, report) = match self {
            Self::At(logs, home, session) => {
                let uid = |host: &Host| host.uid(*session);
                let place = match home {
                    Home::Service => of_user(Path::new(LOGS), ledgers.host.map(uid)),
                    Home::Folder(_) => logs.place(*home).to_owned(),
                };
                let within = logs.within(*home);
                let report = verify_log_seen(&within, *session, begins, &mut seen);
                (place.join(file_name(*session)), report)
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

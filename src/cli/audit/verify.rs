//! `portcullis audit verify`: a line a log, a line for the ledger, and 1 if anything does not hold.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::against::{Ledgers, Name};
use super::host::{self, Word};
use super::logs::{Home, Logs};
use super::{FolderArg, finish, log_failure, naming, no_sessions, prove};
use crate::audit::ledger::compare::{Comparison, Standing, missing};
use crate::audit::ledger::read::Bound;
use crate::audit::segment::SegmentName;
use crate::audit::verify::{Begins, Report, State, verify_file, verify_log_seen, verify_segment};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print::{self, escape, line};
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
    let whole = arguments.sessions.is_empty();
    let by_path = !whole && arguments.sessions.iter().all(is_path);
    let mut ledgers = if by_path && noted.is_none() && arguments.anchors.is_empty() {
        Ledgers::none(&path)
    } else {
        Ledgers::find(&arguments.folder, (noted, &arguments.anchors))?
    };
    let all = Logs::find(&arguments.folder)?;
    let logs = logs(arguments, all.as_ref(), &path)?;
    let here: BTreeSet<Name> = logs.iter().filter_map(Log::name).collect();
    let is_kept = |name: &Name| matches!(name, Name::Kept(_));
    let has_service = all.as_ref().is_some_and(Logs::has_service);
    let asked = noted.is_some() || !arguments.anchors.is_empty();
    if !has_service || !(whole || asked || here.iter().any(is_kept)) {
        ledgers.forget_host();
    }
    if logs.is_empty() && !ledgers.any() && !arguments.json {
        return no_sessions(&path);
    }
    let mut told = Told {
        json: arguments.json,
        exit: Exit::Success,
        goes_on: true,
        pruned: 0,
    };
    if whole {
        for (name, bound) in ledgers.gone(&here) {
            let log = ledgers.place(name);
            told.gone(&Verified::gone(log, name.session(), bound))?;
        }
    }
    let mut failure = None;
    prove::each(
        &logs,
        |log| log.verify(&ledgers),
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
    let host = ledgers.host();
    if let Some(word) = host {
        told.host(word)?;
    }
    let own = here.iter().any(|name| !is_kept(name));
    told.proof(ledgers.proof.as_ref(), whole && (own || host.is_none()))?;
    // A closed pipe does not make a broken log whole.
    if told.exit == Exit::Success {
        finish(Ok(()))
    } else {
        Ok(told.exit)
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
            Word::None(why) | Word::Failed(why) => {
                print::error(format_args!("audit ledger: {}", host::unheld(why)));
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
    /// What ledgers call it.
    fn name(&self) -> Option<Name> {
        match self {
            Self::At(logs, home, session) => Some(Name::of(logs, *home, *session)),
            Self::AtPath(_) => None,
        }
    }

    fn verify(&self, ledgers: &Ledgers) -> Result<Verified, Failure> {
        let name = self.name();
        let bound = name.and_then(|name| ledgers.bound(name));
        let pruned = bound.map_or(&[][..], |bound| bound.pruned.as_slice());
        let begins = Begins::Behind(pruned);
        let mut comparison = Comparison::new(bound);
        let mut seen = |record, hash| comparison.see(record, hash);
        let (log, report) = match self {
            Self::At(logs, home, session) => {
                let log = ledgers.place(Name::of(logs, *home, *session));
                let within = logs.within(*home);
                let report = verify_log_seen(&within, *session, begins, &mut seen);
                (log, report)
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
        let known = name.filter(|name| ledgers.knows(*name));
        let ledger = known.map(|_| comparison.finish(&report));
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

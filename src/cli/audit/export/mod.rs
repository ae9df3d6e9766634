//! `portcullis audit export`: records of one or many sessions, in a form that other tools read.
//!
//! Every record is checked before it is written: of a log that is broken, what holds is exported.

mod output;

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::logs::Logs;
use super::{FolderArg, log_failure, naming};
use crate::audit::export::checked::Checked;
use crate::audit::export::{Form, Format, form};
use crate::audit::lock;
use crate::audit::reader::{Ending, Lines};
use crate::audit::verify::{Broken, Flaw};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print::{self, escape};
use crate::exit::Exit;
use crate::ids::SessionId;
use output::Output;

/// What to export.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Session ids or their beginnings; all sessions if none is given
    sessions: Vec<String>,
    /// The form: records as they stand, a table, HTTP Archive 1.2, OCSF 1.8, or Apache Parquet
    #[arg(short, long, value_name = "FORM")]
    format: FormatArg,
    /// File to write, whole or not at all; standard output if none is given
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only records from this time on: `2026-01-31`, `2026-01-31T08:00`, RFC 3339, or how long ago as `2h` or `7d`
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Only records before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
    #[command(flatten)]
    folder: FolderArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FormatArg {
    Jsonl,
    Csv,
    Har,
    Ocsf,
    Parquet,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Jsonl => Self::Jsonl,
            FormatArg::Csv => Self::Csv,
            FormatArg::Har => Self::Har,
            FormatArg::Ocsf => Self::Ocsf,
            FormatArg::Parquet => Self::Parquet,
        }
    }
}

/// Exports.
pub(super) fn export(arguments: &ExportArgs) -> Outcome {
    let format = Format::from(arguments.format);
    if format == Format::Parquet && arguments.output.is_none() && io::stdout().is_terminal() {
        let why = "parquet is no text for a terminal: give -o FILE, or send it to a file or pipe";
        return Err(Failure::new(Exit::Usage, why));
    }
    let path = arguments.folder.path()?;
    let logs = match (Logs::find(&arguments.folder)?, arguments.sessions.first()) {
        (Some(logs), _) => logs,
        (None, Some(name)) => return Err(naming::unknown(&path, name)),
        // Whoever reads the output expects the form, and an empty one would be taken for an answer.
        (None, None) => {
            let path = escape(&path.to_string_lossy());
            let why = format!("no sessions in {path}; `portcullis run` records one");
            return Err(Failure::new(Exit::Unavailable, why));
        }
    };
    let sessions = if arguments.sessions.is_empty() {
        logs.sessions()?
    } else {
        let named = arguments.sessions.iter();
        let mut sessions: Vec<_> = named
            .map(|name| naming::find(&logs, name))
            .collect::<Result<_, _>>()?;
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    };
    let output = Output::open(arguments.output.as_deref(), format)?;
    let handle = output.writer();
    match write(arguments, &logs, &sessions, form(format, handle)) {
        Ok(exit) => output.keep().map(|()| exit),
        Err(Stopped::Failure(failure)) => Err(failure),
        // Nobody reads any more.
        Err(Stopped::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Exit::Success)
        }
        Err(Stopped::Output(error)) => Err(output.failure(&error)),
    }
}

/// Why an export did not come to its end.
enum Stopped {
    /// A log could not be read.
    Failure(Failure),
    /// The output takes no more.
    Output(io::Error),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

fn write(
    arguments: &ExportArgs,
    logs: &Logs,
    sessions: &[SessionId],
    form: io::Result<Box<dyn Form>>,
) -> Result<Exit, Stopped> {
    let mut form = form.map_err(Stopped::Output)?;
    // Times in records are texts of one length, UTC: their order is that of the times.
    let text = |time: Timestamp| format!("{time:.6}");
    let mut export = Export {
        since: arguments.since.map(text),
        until: arguments.until.map(text),
        form: form.as_mut(),
        broken: false,
    };
    for session in sessions {
        export.session(logs, *session)?;
    }
    let broken = export.broken;
    form.finish().map_err(Stopped::Output)?;
    Ok(if broken { Exit::No } else { Exit::Success })
}

struct Export<'a> {
    since: Option<String>,
    until: Option<String>,
    form: &'a mut dyn Form,
    broken: bool,
}

impl Export<'_> {
    /// The records of a session that hold, up to the first that does not.
    fn session(&mut self, logs: &Logs, session: SessionId) -> Result<(), Stopped> {
        let segments = logs.segments(session)?;
        let mut chain = match segments.first() {
            Some(first) if first.number > 1 => Checked::from_within(session),
            _ => Checked::from_start(session),
        };
        let mut missing = segments.first().map_or(1, |first| first.number);
        let log = logs.log(session);
        for segment in segments {
            let path = log.with_file_name(segment.file_name());
            let shown = escape(&path.to_string_lossy());
            if segment.number != missing {
                self.broken = true;
                print::error(format_args!(
                    "audit log {shown}: the segment before it is missing; exported up to there"
                ));
                break;
            }
            missing = segment.number.saturating_add(1);
            let failed = |error: io::Error| log_failure(&path, &error);
            let file = logs.open_segment(segment).map_err(failed)?;
            // Asked first: what nobody writes now does not change while it is read.
            let written = !segment.packed && lock::is_held(&file).map_err(failed)?;
            let mut lines = segment.lines(file).map_err(failed)?;
            if let Some(broken) = self.lines(&mut lines, &mut chain, (written, &path))? {
                self.broken = true;
                let broken = escape(&broken.to_string());
                print::error(format_args!(
                    "audit log {shown}: {broken}; exported up to there"
                ));
                break;
            }
        }
        self.form.session_over().map_err(Stopped::Output)
    }

    /// `Some`: the first record that does not hold.
    fn lines<R: BufRead>(
        &mut self,
        lines: &mut Lines<R>,
        chain: &mut Checked,
        (written, path): (bool, &Path),
    ) -> Result<Option<Broken>, Stopped> {
        let failed = |error: io::Error| log_failure(path, &error);
        while let Some(line) = lines.next_line().map_err(failed)? {
            // The line that is being written right now.
            if line.ending == Ending::Cut && written {
                break;
            }
            let (record, offset) = (line.number, line.offset);
            let broken = |flaw| Broken {
                record,
                file: None,
                offset,
                flaw,
            };
            let sealed = match chain.check(&line) {
                Ok(sealed) => sealed,
                Err(flaw) => return Ok(Some(broken(flaw))),
            };
            let ts = sealed.ts.as_slice();
            let late_enough = |since: &String| ts >= since.as_bytes();
            let early_enough = |until: &String| ts < until.as_bytes();
            if !self.since.as_ref().is_none_or(late_enough)
                || !self.until.as_ref().is_none_or(early_enough)
            {
                continue;
            }
            match self.form.record(line.bytes) {
                Ok(()) => {}
                // Its chain holds and still it is no record: made by another program.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Ok(Some(broken(Flaw::NotJson(error.to_string()))));
                }
                Err(error) => return Err(Stopped::Output(error)),
            }
        }
        Ok(None)
    }
}

/// A point in time, seen from now.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    super::when::parse(text, &jiff::Zoned::now())
}

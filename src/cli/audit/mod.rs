//! `portcullis audit`: follow, verify and tell what was recorded.
//!
//! Reads logs and never writes one. What stands in a record may come from a jail: all of it goes to a
//! terminal through [`escape`].

mod body;
mod export;
mod filters;
mod forward;
mod hold;
mod indexed;
mod key;
mod logs;
mod naming;
pub(super) mod phrase;
mod places;
mod prove;
mod prune;
mod query;
mod report;
mod show;
mod stats;
mod tail;
mod verify;
mod when;

use std::io;
use std::path::{Path, PathBuf};

use super::failure::{Failure, Outcome};
use super::print::{self, escape};
use crate::audit::folder::{FolderError, standalone};
use crate::exit::Exit;

/// What to do with the logs.
#[derive(Debug, clap::Subcommand)]
pub enum AuditCommand {
    /// Print the last records, a line each
    #[command(after_help = "\
Examples:
  portcullis audit tail -f            follow every session, the coming ones too
  portcullis audit tail -n 50 0192f0  the last 50 records of one session
  portcullis audit tail -f --denied --host '*.example.com'
  portcullis audit tail --json | jq 'select(.verdict == \"deny\")'")]
    Tail(Box<tail::TailArgs>),
    /// Check that no record was changed, removed, added or moved
    #[command(after_help = "\
Examples:
  portcullis audit verify             every session in the folder
  portcullis audit verify 0192f0      one session
  portcullis audit verify ./copy/0192f0c1a2b37c4d8e5f60718293a4b5.jsonl

  portcullis audit verify ./copy/0192f0c1a2b37c4d8e5f60718293a4b5.0002.jsonl
                                      a later segment, by itself: reported as `part`
  portcullis audit verify --key KEY   by a key that was noted elsewhere: `audit key show` prints it
  portcullis audit verify --anchor /mnt/kept/checkpoints

Exits with 1 when a record does not hold, and names the first that does not. Logs are held to the ledger
beside them, which has their heads and is signed: what is missing, replaced or written anew shows. A
ledger that lost its own tail shows by checkpoints kept elsewhere alone (--anchor).")]
    Verify(verify::VerifyArgs),
    /// Tell a session's story, or print one record
    #[command(after_help = "\
Examples:
  portcullis audit show 0192f0        what ran, where it wanted to go, what would allow it
  portcullis audit show 0192f0:17     record 17 of that session
  portcullis audit show 0192f0:18 --body   the body that record 18 (body.kept) speaks of")]
    Show(show::ShowArgs),
    /// The key that signs the ledger of the logs
    #[command(
        subcommand,
        after_help = "\
Examples:
  portcullis audit key show           the public half, to be noted elsewhere
  portcullis audit key rotate         another one signs from here on"
    )]
    Key(key::KeyCommand),
    /// Write records in a form that other tools read
    #[command(after_help = "\
Examples:
  portcullis audit export -f csv -o today.csv --since 24h
  portcullis audit export -f har 0192f0 -o session.har      opens in a browser's network tools
  portcullis audit export -f ocsf | siem-import
  portcullis audit export -f jsonl -o copy.jsonl 0192f0     still verifiable

Exits with 1 when a record does not hold: all before it is exported, and it is named.")]
    Export(export::ExportArgs),
    /// Send records elsewhere while they are written, and anchor checkpoints
    #[command(after_help = "\
Examples:
  portcullis audit forward                  what $XDG_CONFIG_HOME/portcullis/audit.toml says, until it is ended
  portcullis audit forward --once           send what there is and end
  portcullis audit forward --config /etc/portcullis/audit.toml --dir /var/log/portcullis

A receiver that is down is tried again; nothing waits for it but its own records, which stay in the logs.")]
    Forward(forward::ForwardArgs),
    /// Find records by what they say
    #[command(after_help = "\
Examples:
  portcullis audit query --denied --since 2h          what was denied in the last two hours
  portcullis audit query --host '*.example.com' --user alice
  portcullis audit query --process pip --path /simple --json
  portcullis audit query --status 5xx --count

The latest come first. A record that goes back to a connection (its DNS query, its close) is found by the
connection's host, path and program as well. An index in $XDG_CACHE_HOME/portcullis makes this quick; it is
made from the logs, and every record that is printed was read back from its log and checked. --count reads
back up to 1000 records, and relies on the index beyond.")]
    Query(Box<query::QueryArgs>),
    /// The index that query and stats use
    #[command(subcommand)]
    Index(query::IndexCommand),
    /// Sum up what was recorded
    #[command(after_help = "\
Examples:
  portcullis audit stats --since 7d               totals, and the hosts with the most records
  portcullis audit stats --by user --denied       who was denied how much")]
    Stats(Box<stats::StatsArgs>),
    /// Write a report on one session: a web page, or Markdown
    #[command(after_help = "\
Examples:
  portcullis audit report 0192f0 -o report.html    one file, without scripts or anything from elsewhere
  portcullis audit report 0192f0 --format md")]
    Report(report::ReportArgs),
    /// Remove what is older or more than is kept, and pack what is closed
    #[command(after_help = "\
Examples:
  portcullis audit prune --dry-run                by the rules of audit.toml, [retention]; only say what
  portcullis audit prune --older-than 90d --max-size 20G
  portcullis audit prune --pack-after 12h
  portcullis audit prune --dir /var/log/portcullis     as root, what the service keeps, by /etc/portcullis/audit.toml

Whole segments of logs go, the oldest first. The ledger says so, signed, before they do, so that audit verify
still holds. Logs that are written or held stay; one that does not verify stays as well, and the exit code is 1.
Where there is no ledger nothing is removed.")]
    Prune(prune::PruneArgs),
    /// Keep sessions' logs whatever the rules say, until `release`; or list what is held
    #[command(after_help = "\
Examples:
  portcullis audit hold 0192f0 --reason 'case 2026-17'
  portcullis audit hold                                what is held, since when, by whom and why")]
    Hold(hold::HoldArgs),
    /// Hold them no more: the rules count again
    #[command(after_help = "\
Examples:
  portcullis audit release 0192f0 --reason 'case closed'")]
    Release(hold::ReleaseArgs),
}

/// Where the logs are.
#[derive(Debug, clap::Args)]
pub struct FolderArg {
    /// Folder of logs [default: $XDG_STATE_HOME/portcullis/audit, and what the service keeps for you]
    #[arg(long = "dir", value_name = "DIR")]
    path: Option<PathBuf>,
}

/// Does it.
pub fn run(command: AuditCommand) -> Outcome {
    match command {
        AuditCommand::Tail(arguments) => tail::tail(&arguments),
        AuditCommand::Verify(arguments) => verify::verify(&arguments),
        AuditCommand::Show(arguments) => show::show(&arguments),
        AuditCommand::Key(command) => key::run(command),
        AuditCommand::Export(arguments) => export::export(&arguments),
        AuditCommand::Forward(arguments) => forward::forward(&arguments),
        AuditCommand::Query(arguments) => query::query(&arguments),
        AuditCommand::Index(command) => query::index(&command),
        AuditCommand::Stats(arguments) => stats::stats(&arguments),
        AuditCommand::Report(arguments) => report::report(&arguments),
        AuditCommand::Prune(arguments) => prune::prune(&arguments),
        AuditCommand::Hold(arguments) => hold::hold(&arguments),
        AuditCommand::Release(arguments) => hold::release(&arguments),
    }
}

/// What the service's timer runs: `portcullis audit prune --dir /var/log/portcullis`.
pub(super) fn prune_of_the_host() -> Outcome {
    prune::prune(&prune::PruneArgs::of_the_host())
}

impl FolderArg {
    fn path(&self) -> Result<PathBuf, Failure> {
        let given = self.path.clone().map(Ok);
        given
            .unwrap_or_else(|| standalone(std::env::var_os))
            .map_err(folder_failure)
    }
}

fn folder_failure(error: FolderError) -> Failure {
    Failure::new(error.exit(), error)
}

/// A log that could not be read.
fn log_failure(log: &Path, error: &io::Error) -> Failure {
    let (exit, cure) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            Exit::NoPermission,
            "run this as the user whose session it is",
        ),
        io::ErrorKind::NotFound => (Exit::Usage, "check its name"),
        _ => (Exit::Unavailable, "check the file and its file system"),
    };
    let log = escape(&log.to_string_lossy());
    Failure::new(exit, format!("audit log {log}: {error}; {cure}"))
}

/// Says that a folder has no logs; not a failure.
fn no_sessions(path: &Path) -> Outcome {
    let path = escape(&path.to_string_lossy());
    finish(print::line(format_args!(
        "no sessions in {path}; `portcullis run` records one"
    )))
}

/// Success, also when nobody reads any more (`portcullis audit tail | head`).
#[expect(clippy::unnecessary_wraps, reason = "the answer of a verb")]
fn finish(printed: io::Result<()>) -> Outcome {
    drop(printed);
    Ok(Exit::Success)
}

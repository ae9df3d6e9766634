//! `portcullis run`: the command's output is its own; ours is a line where it matters, on standard error.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::detached;
use super::failure::{Failure, Outcome};
use super::mitm::Mitm;
use super::{print, service};
use crate::codex::auth::SIGN_IN_HOST;
use crate::exit::Exit;
use crate::ids::SessionName;
use crate::policy::upstream::authority;
use crate::policy::{
    BudgetAction, DenyReason, EgressRequest, FilesystemMode, Host, Overrides, Resource, remedy,
    spelled_out,
};
use crate::session::caller::Caller;
use crate::session::resources::ResourceHit;
use crate::session::{self, Ask, Backing, LaunchRequest, Notice, Progress, Report};
use crate::wire::gate::{AuditState, DeniedDestination};

/// Flags of `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portcullis run -- make test
  portcullis run -p codex -- codex exec --json \"fix the failing test\" </dev/null
  portcullis run -p registries --allow example.com:8443 -- ./build.sh
  portcullis run -d --name nightly -p codex -- codex     then: portcullis attach nightly
  portcullis run --mode read-only --ro ~/data -- python3 report.py

Exit status: the command's own (128+n for signal n); 137 with \"session killed\" in the last line if
a budget ended it; 125 if Portcullis failed before the command
started, 126 if the command cannot be executed, 127 if it was not found in the jail.")]
pub struct RunArguments {
    /// Profile: a name, or a file (has a slash or ends in .toml); portcullis-profile(5) has its keys
    #[arg(short, long, default_value = "base", value_name = "PROFILE")]
    profile: String,
    /// Work in this folder instead of the current one
    #[arg(short = 'C', long = "directory", value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Let the command reach this host (ports 80 and 443 unless one is named); *.x and **.x work
    #[arg(long, value_name = "HOST[:PORT]")]
    allow: Vec<String>,
    /// Never let the command reach this host, whatever else allows it
    #[arg(long, value_name = "HOST")]
    deny: Vec<String>,
    /// Let the command write this path too
    #[arg(long, value_name = "PATH")]
    rw: Vec<PathBuf>,
    /// Show the command this path, read-only
    #[arg(long, value_name = "PATH")]
    ro: Vec<PathBuf>,
    /// Let the command connect to this Unix socket
    #[arg(long, value_name = "PATH")]
    socket: Vec<String>,
    /// Set a variable for the command, or pass the caller's own through
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// How much of the file system the command may change
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,
    /// Who is asked where the policy says "ask" (by default: the profile's command if it has one, else
    /// others)
    #[arg(long, value_name = "WHO")]
    ask: Option<AskFlag>,
    #[command(flatten)]
    mitm: Mitm,
    /// End the session after this time, as 90s, 30m or 8h
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Limit what the session may do, as bytes_up=10M, requests=500:warn or rate=20/1s
    #[arg(long, value_name = "KEY=AMOUNT[:ACTION]")]
    budget: Vec<String>,
    /// What to call the session, for ps, show, stop and the others
    #[arg(long, value_name = "NAME")]
    name: Option<SessionName>,
    /// Print the session's id as soon as the command runs, and leave it running with a terminal of its own
    #[arg(short, long)]
    detach: bool,
    /// Limit what of the machine the session may take, as memory=4G, tasks=512, cpu=200%, open_files=4096
    /// or file_size=10G
    #[arg(long, value_name = "KEY=AMOUNT")]
    limit: Vec<String>,
    /// Start the session from here, although this host has the service
    #[arg(long)]
    standalone: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// [`FilesystemMode`], as a word on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// The workspace is readable; only the private home and /tmp can be written
    ReadOnly,
    /// The workspace can be written
    WorkspaceWrite,
    /// The host's whole file system with your own rights; the gate stays
    DangerFullAccess,
}

/// [`Ask`], as a word on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum AskFlag {
    /// Nobody: what would be asked is refused at once
    None,
    /// The program that the profile's approvals.command names
    Command,
    /// You, at this terminal; the command's own output and input go on
    Terminal,
    /// Whoever of this user answers with portcullis approvals
    Others,
}

impl From<AskFlag> for Ask {
    fn from(flag: AskFlag) -> Self {
        match flag {
            AskFlag::None => Self::Nobody,
            AskFlag::Command => Self::Command,
            AskFlag::Terminal => Self::Terminal,
            AskFlag::Others => Self::Others,
        }
    }
}

impl From<Mode> for FilesystemMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::ReadOnly => Self::ReadOnly,
            Mode::WorkspaceWrite => Self::WorkspaceWrite,
            Mode::DangerFullAccess => Self::DangerFullAccess,
        }
    }
}

/// Runs one session and passes its status on.
pub fn run(arguments: RunArguments) -> Outcome {
    let quiet = arguments.quiet;
    let detach = arguments.detach;
    let standalone = arguments.standalone;
    let mut request = request(arguments)?;
    if !standalone && service::serves(&Caller::current()) {
        return service::launch(request, detach, quiet);
    }
    if detach {
        request.terminal = Some(detached::size());
        return detached::start(&request, quiet);
    }
    let host = Backing::default();
    let report = session::run(&request, host, &mut |progress| tell(progress, quiet))
        .map_err(|error| Failure::new(error.exit(), error))?;
    for (line, matters) in last_lines(&report) {
        if matters || !quiet {
            print::error(print::escape(&line));
        }
    }
    Ok(report.exit)
}

fn request(arguments: RunArguments) -> Result<LaunchRequest, Failure> {
    let argv = arguments
        .command
        .into_iter()
        .map(OsString::into_string)
        .collect::<Result<_, _>>();
    let argv = argv.map_err(|word| {
        Failure::new(
            Exit::Usage,
            format!("command: {} is not UTF-8", word.display()),
        )
    })?;
    Ok(LaunchRequest {
        name: arguments.name,
        profile: arguments.profile,
        overrides: Overrides {
            allow: arguments.allow,
            deny: arguments.deny,
            writable: arguments.rw,
            readable: arguments.ro,
            sockets: arguments.socket,
            env: arguments.env,
            mode: arguments.mode.map(FilesystemMode::from),
            mitm: arguments.mitm.chosen(),
            budgets: arguments.budget,
            limits: arguments.limit,
            timeout: arguments.timeout,
        },
        folder: arguments.directory,
        argv,
        ask: arguments.ask.map(Ask::from),
        terminal: None,
    })
}

fn tell(progress: Progress<'_>, quiet: bool) {
    for (line, matters) in lines(progress) {
        if matters || !quiet {
            print::error(print::escape(&line));
        }
    }
}

/// What a person is told meanwhile, each with whether it matters to one who wants to hear of errors alone. May
/// hold text of the jail's.
pub(super) fn lines(progress: Progress<'_>) -> Vec<(String, bool)> {
    let (line, matters) = match progress {
        Progress::Started(_) => return Vec::new(),
        Progress::Note(note) => (note.to_owned(), false),
        Progress::Notice(Notice::Said(line)) => (line, false),
        Progress::Notice(Notice::Problem(line)) => (line, true),
        Progress::Notice(Notice::GateRestarted(outage)) => (
            format!(
                "the gate died and another one took its place after {} ms: connections that it held are gone",
                outage.as_millis()
            ),
            true,
        ),
        Progress::Notice(Notice::AuditRestarted) => (
            "the audit writer died and another one goes on with the log".to_owned(),
            true,
        ),
        Progress::Notice(Notice::WitnessRestarted(outage)) => (
            format!(
                "the witness died and another one took its place after {} ms: records of connections made meanwhile name no process",
                outage.as_millis()
            ),
            true,
        ),
        Progress::Notice(Notice::WitnessLost) => (
            "the witness died: records name no process from now on".to_owned(),
            true,
        ),
        Progress::Notice(Notice::GateLost) => (
            "the gate died: this session has no network any more".to_owned(),
            true,
        ),
        Progress::Notice(Notice::AuditLost) => (
            "the audit writer died: every request is refused from now on; see portcullis audit verify"
                .to_owned(),
            true,
        ),
        Progress::Notice(Notice::Records(AuditState::Writing)) => (
            "records are kept again: audit goes on".to_owned(),
            true,
        ),
        Progress::Notice(Notice::Records(AuditState::Blocked(why))) => (
            format!("audit blocked, nothing leaves until records can be kept: {why}"),
            true,
        ),
        Progress::Notice(Notice::Records(AuditState::Behind(why))) => (
            format!("audit behind, the session goes on without records: {why}"),
            true,
        ),
        Progress::Notice(Notice::Killing) => (
            "the command did not end when asked: killing the jail".to_owned(),
            true,
        ),
        Progress::Notice(Notice::Limit(limit)) => {
            (format!("{limit}: {}", consequence(limit.action)), false)
        }
        Progress::Notice(Notice::Resource(hit)) => (format!("{hit}: {}", effect(hit.what)), false),
    };
    vec![(line, matters)]
}

/// The last lines: what was refused, the flag that would allow it, and what ended the command.
pub(super) fn last_lines(report: &Report) -> Vec<(String, bool)> {
    let mut lines: Vec<_> = denials(report)
        .into_iter()
        .map(|line| (line, false))
        .collect();
    if let Some(limit) = &report.killed {
        lines.push((format!("session killed: {limit}"), true));
    }
    lines.extend(report.ended_by.map(|hit| (ending(hit), true)));
    lines
}

fn denials(report: &Report) -> Vec<String> {
    let Some(summary) = &report.summary else {
        return Vec::new();
    };
    let limits = summary.limits.iter();
    let limits = limits.map(|limit| format!("{limit} ({})", limit.action));
    let mut lines: Vec<_> = limits.chain(summary.denied.iter().map(denial)).collect();
    if !lines.is_empty() {
        lines.push(format!(
            "all of it: portcullis audit show {}",
            report.session
        ));
    }
    lines
}

/// What follows when a budget is used up.
fn consequence(action: BudgetAction) -> &'static str {
    match action {
        BudgetAction::Warn => "the session goes on",
        BudgetAction::Ask => "without a yes it stays at that",
        BudgetAction::Deny => "more is refused",
        BudgetAction::Kill => "the session ends",
    }
}

/// What follows when a share of the machine is used up.
fn effect(what: Resource) -> &'static str {
    match what {
        Resource::Memory => "a process was killed",
        Resource::Tasks => "more processes are refused",
        Resource::Cpu => "the session was slowed down",
        Resource::OpenFiles => "more open files are refused",
        Resource::FileSize => "no more of the file was written",
    }
}

/// What ended the command, where that was a limit.
fn ending(hit: ResourceHit) -> String {
    let amount = hit.what.amount(hit.max);
    if hit.what == Resource::Memory {
        format!("the command was killed: it used more than its {amount} of memory (limits.memory)")
    } else {
        format!("the command was ended: it wrote a file of more than {amount} (limits.file_size)")
    }
}

/// Why Codex wanted a host that its profile denies, and what helps.
fn renewal(host: &Host, reason: DenyReason) -> &'static str {
    match host {
        Host::Name(name) if reason == DenyReason::HostDenied && name.as_str() == SIGN_IN_HOST => {
            "; Codex's sign-in is not renewed from the jail: if it was too old, start codex once outside, \
             then run this again"
        }
        _ => "",
    }
}

fn denial(denied: &DeniedDestination) -> String {
    let DeniedDestination {
        host,
        port,
        transport,
        method,
        path,
        reason,
        count,
    } = denied;
    let what = match (method, path) {
        (Some(method), Some(path)) => spelled_out(*transport, method, (host, *port), path),
        _ => authority(host, *port),
    };
    let times = match (*count, path) {
        (1, _) => String::new(),
        (count, None) => format!(" ({count} times)"),
        (count, Some(_)) => format!(" (the last of {count})"),
    };
    let request = EgressRequest {
        transport: *transport,
        host: host.clone(),
        port: *port,
        method: method.clone(),
        path: path.clone(),
        websocket: false,
    };
    let remedy =
        remedy(&request, *reason).map_or_else(String::new, |cure| format!("; to allow it: {cure}"));
    format!(
        "refused {what}{times}: {reason}{remedy}{}",
        renewal(host, *reason)
    )
}

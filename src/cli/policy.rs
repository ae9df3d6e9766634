//! `portcullis policy`: asks a profile what it would decide, shows it, checks it. Looks up no name and
//! contacts nobody: a request may have been chosen by the code in a jail, to be resolved by whoever
//! looks into it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::failure::{Failure, Outcome};
use super::mitm::Mitm;
use super::{print, sessions};
use crate::exit::Exit;
use crate::policy::profile::{LayerText, Origin, Reading};
use crate::policy::{
    DenyReason, EgressRequest, Explanation, Method, Overrides, PolicyTest, Profile, ProfileError,
    Question, Ruleset, Transport, Verdict, explain,
};
use crate::session::caller::Caller;
use crate::session::profiles::{self, Environment, Shelf};
use crate::session::registries::{self, Found};
use crate::wire::session::{SessionReply, SessionRequest};

/// What can be asked of a profile.
#[derive(Debug, clap::Subcommand)]
pub enum PolicyCommand {
    /// Tell what would become of a request, by which rule, and what would change it
    #[command(after_help = "Examples:\n  \
        portcullis policy explain -p codex https://api.openai.com/v1/responses\n  \
        portcullis policy explain -p ./strict.toml --method POST http://intranet.example/api\n  \
        portcullis policy explain --allow '*.example.com' www.example.com:8443\n\n\
        Exits 0 if the request is allowed, 1 if it is denied. No name is looked up.")]
    Explain(Explain),
    /// Print a profile with everything that it extends, and where each rule was written
    #[command(after_help = "Examples:\n  portcullis policy show codex\n  \
        portcullis policy show codex --origin\n  portcullis policy show registries --json\n\n\
        What a project's .portcullis.toml above the current folder and the admin's \
        /etc/portcullis/requirements.toml change is in it.")]
    Show(Show),
    /// Validate a profile file and run its `[[tests]]`
    #[command(after_help = "Example:\n  portcullis policy check ./strict.toml\n\n\
        Exits 0 if the file is valid and every test holds, 1 if a test fails, 78 if it is not valid.")]
    Check(Check),
    /// Have a running session read its profile again
    #[command(after_help = "Example:\n  portcullis policy reload 0197\n\n\
        A session also does so by itself when a file of its profile changes. Exits 0 if the policy is in \
        force, 1 if the one before stays.")]
    Reload(Reload),
}

/// Arguments of `policy reload`.
#[derive(Debug, clap::Args)]
pub struct Reload {
    /// The session: the beginning of its id; may be left out if only one runs
    session: Option<String>,
}

/// Asks the session; its answer is the outcome.
fn reload(arguments: &Reload) -> Outcome {
    let caller = Caller::current();
    let (_, channel) = sessions::find(&caller, arguments.session.as_deref())?;
    match sessions::ask(&channel, &SessionRequest::ReloadPolicy)? {
        SessionReply::Done(what) => {
            // Nobody reads: it is done all the same.
            print::line(print::escape(&what)).ok();
            Ok(Exit::Success)
        }
        _ => Err(sessions::unexpected()),
    }
}

/// Arguments of `policy explain`.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// https://host/path, http://host/path, host:port or host
    url: String,
    /// The method of an http:// request, or of an https:// one where the profile has TLS inspected
    #[arg(long, default_value = "GET")]
    method: String,
    /// The profile: a name, or the path of a file
    #[arg(short, long, default_value = "base")]
    profile: String,
    /// Allow a host, as `run --allow` would
    #[arg(long, value_name = "HOST[:PORT]")]
    allow: Vec<String>,
    /// Deny a host, as `run --deny` would
    #[arg(long, value_name = "HOST[:PORT]")]
    deny: Vec<String>,
    #[command(flatten)]
    mitm: Mitm,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `policy show`.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The profile: a name, or the path of a file
    profile: String,
    /// Tell where each value was written, one value a line
    #[arg(long)]
    origin: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `policy check`.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The file
    file: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// Runs one of them.
pub fn run(command: PolicyCommand) -> Outcome {
    let environment: Environment = std::env::vars_os().collect::<BTreeMap<_, _>>();
    match command {
        PolicyCommand::Explain(arguments) => explain_request(arguments, &environment),
        PolicyCommand::Show(arguments) => show(&arguments, &environment),
        PolicyCommand::Check(arguments) => check(&arguments, &environment),
        PolicyCommand::Reload(arguments) => reload(&arguments),
    }
}

// === explain ===

fn explain_request(arguments: Explain, environment: &Environment) -> Outcome {
    let usage = |problem: &dyn std::fmt::Display| Failure::new(Exit::Usage, problem);
    let method = Method::try_from(arguments.method).map_err(|problem| usage(&problem))?;
    let text = format!("{method} {}", arguments.url);
    let question = Question::parse(&text).map_err(|problem| usage(&problem))?;
    let overrides = Overrides {
        allow: arguments.allow,
        deny: arguments.deny,
        mitm: arguments.mitm.chosen(),
        ..Overrides::default()
    };
    let Reading { profile, cuts, .. } = here()?
        .shelf(environment)
        .read(&arguments.profile, &overrides)
        .map_err(|error| wrong_profile(&error))?;
    let (profile, found) = resolve(profile, environment)?;
    let explanation = explain(&Ruleset::compile(&profile.network), &question);
    let also: Vec<String> = problems(&found)
        .chain(
            cuts.iter()
                .map(|cut| format!("by the requirements of this host, {cut}")),
        )
        .collect();
    if arguments.json {
        tell(json_of(&explanation, also));
    } else {
        tell(text_of(&profile.name, &explanation, also));
    }
    Ok(match explanation.decision.verdict {
        Verdict::Allow => Exit::Success,
        Verdict::Ask | Verdict::Deny => Exit::No,
    })
}

fn text_of(profile: &str, explanation: &Explanation, also: Vec<String>) -> String {
    let Explanation {
        request,
        inspected: _,
        decision,
        remedy,
        notes,
    } = explanation;
    let mut rows = vec![("request", shown(request)), ("profile", profile.to_owned())];
    if let Some(reason) = decision.reason {
        rows.push(("reason", format!("{reason}: {}", reason.meaning())));
    }
    if let Some(rule) = &decision.rule {
        rows.push(("rule", rule.to_string()));
    }
    rows.extend(remedy.iter().map(|remedy| ("remedy", remedy.clone())));
    rows.extend(notes.iter().map(|note| ("note", (*note).to_owned())));
    rows.extend(also.into_iter().map(|note| ("note", note)));
    rows.push(("policy", decision.generation.to_string()));
    rows.iter()
        .fold(word(decision.verdict).to_owned(), |text, (name, value)| {
            format!("{text}\n  {name:<9}{}", print::escape(value))
        })
}

fn json_of(explanation: &Explanation, also: Vec<String>) -> String {
    let Explanation {
        request,
        inspected,
        decision,
        remedy,
        notes,
    } = explanation;
    let notes: Vec<String> = notes
        .iter()
        .map(|&note| note.to_owned())
        .chain(also)
        .collect();
    json!({
        "transport": request.transport,
        "host": request.host,
        "port": request.port,
        "method": request.method,
        "path": request.path,
        "websocket": request.websocket,
        "inspected": inspected,
        "verdict": decision.verdict,
        "reason": decision.reason.map(DenyReason::code),
        "meaning": decision.reason.map(DenyReason::meaning),
        "rule": decision.rule,
        "generation": decision.generation,
        "remedy": remedy,
        "notes": notes,
    })
    .to_string()
}

fn shown(request: &EgressRequest) -> String {
    let EgressRequest {
        transport,
        host,
        port,
        method,
        path,
        websocket,
    } = request;
    let socket = if *websocket { " (a WebSocket)" } else { "" };
    match (transport, method, path) {
        (Transport::Forward | Transport::Inspected, Some(method), Some(path)) => {
            format!("{method} {path} of {host} port {port}{socket}")
        }
        _ => format!("a tunnel to {host} port {port}"),
    }
}

/// Registries that could not be found, which may be why a request is denied.
fn problems(found: &[Found]) -> impl Iterator<Item = String> {
    found
        .iter()
        .filter(|found| found.problem.is_some())
        .map(ToString::to_string)
}

// === show ===

fn show(arguments: &Show, environment: &Environment) -> Outcome {
    let place = here()?;
    let shelf = place.shelf(environment);
    let overrides = Overrides::default();
    let read = if arguments.origin {
        shelf.read_with_origins(&arguments.profile, &overrides)
    } else {
        shelf.read(&arguments.profile, &overrides)
    };
    let reading = read.map_err(|error| wrong_profile(&error))?;
    if let Some(origins) = &reading.origins {
        show_origins(origins.values(), arguments.json);
        return Ok(Exit::Success);
    }
    let profile = reading.profile;
    let internal = |error: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Internal,
            format!("show profile {}: {error}", arguments.profile),
        )
    };
    if arguments.json {
        let (resolved, found) = resolve(profile, environment)?;
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let mut value = serde_json::to_value(&resolved).map_err(|error| internal(&error))?;
        if let Some(object) = value.as_object_mut() {
            object.insert("registries_found".to_owned(), json!(found));
        }
        tell(value);
    } else {
        let mut text = profile.to_toml().map_err(|error| internal(&error))?;
        let (_, found) = resolve(profile, environment)?;
        for line in found.iter().flat_map(|found| lines(&found.to_string())) {
            text.push_str("\n# ");
            text.push_str(&line);
        }
        tell(lines(&text).join("\n"));
    }
    Ok(Exit::Success)
}

/// Every value with the place where it was written.
fn show_origins(origins: &[Origin], json: bool) {
    if json {
        tell(json!(origins));
        return;
    }
    let width = origins
        .iter()
        .map(|origin| origin.to_string().chars().count())
        .max()
        .unwrap_or_default()
        .min(60);
    for origin in origins {
        let line = format!("{:<width$}  # {}", origin.to_string(), origin.place);
        tell(print::escape(&line));
    }
}

/// Where a session would be started: its project counts.
struct Here(Option<LayerText>);

impl Here {
    fn shelf<'a>(&'a self, environment: &'a Environment) -> Shelf<'a> {
        Shelf::new(environment, self.0.as_ref())
    }
}

fn here() -> Result<Here, Failure> {
    let folder = current_folder()?;
    let project = profiles::project_of(&folder).map_err(|error| wrong_profile(&error))?;
    Ok(Here(project))
}

/// The lines of a text, each safe for a terminal.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(print::escape).collect()
}

// === check ===

fn check(arguments: &Check, environment: &Environment) -> Outcome {
    let (profile, tests) =
        profiles::load_file(&arguments.file, environment).map_err(|error| wrong_profile(&error))?;
    let rules = Ruleset::compile(&profile.network);
    let results: Vec<(&PolicyTest, Explanation)> = tests
        .iter()
        .map(|test| (test, explain(&rules, &test.question)))
        .collect();
    let failed = results
        .iter()
        .filter(|(test, found)| test.expect != found.decision.verdict)
        .count();
    if arguments.json {
        tell(json!({
            "profile": profile.name,
            "generation": rules.generation(),
            "tests": results.iter().map(|(test, found)| json!({
                "request": test.text,
                "expect": test.expect,
                "verdict": found.decision.verdict,
                "reason": found.decision.reason.map(DenyReason::code),
                "rule": found.decision.rule,
                "remedy": found.remedy,
            })).collect::<Vec<_>>(),
        }));
    } else {
        for (test, found) in &results {
            tell(print::escape(&line_of(test, found)));
        }
        tell(print::escape(&format!(
            "{}: valid; {} tests, {failed} failed",
            profile.name,
            results.len()
        )));
    }
    Ok(if failed == 0 { Exit::Success } else { Exit::No })
}

fn line_of(test: &PolicyTest, found: &Explanation) -> String {
    let decision = &found.decision;
    let why = match (&decision.reason, &decision.rule) {
        (Some(reason), Some(rule)) => format!("{reason} by {rule}"),
        (Some(reason), None) => reason.to_string(),
        (None, Some(rule)) => rule.to_string(),
        (None, None) => String::new(),
    };
    let verdict = word(decision.verdict);
    if test.expect == decision.verdict {
        return format!("ok      {}: {verdict} ({why})", test.text);
    }
    let remedy = found
        .remedy
        .as_ref()
        .map(|remedy| format!("; {remedy}"))
        .unwrap_or_default();
    format!(
        "FAILED  {}: expected {}, is {verdict} ({why}){remedy}",
        test.text,
        word(test.expect)
    )
}

// === all ===

/// Asks the registries' clients for their hosts; the current folder stands for the workspace.
fn resolve(profile: Profile, environment: &Environment) -> Result<(Profile, Vec<Found>), Failure> {
    let workspace = current_folder()?;
    Ok(registries::resolve(profile, environment, &workspace))
}

fn current_folder() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|error| {
        Failure::new(
            Exit::Unavailable,
            format!("current folder: {error}; change to one that exists"),
        )
    })
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Ask => "ask",
        Verdict::Deny => "deny",
    }
}

fn wrong_profile(error: &ProfileError) -> Failure {
    let exit = match error {
        ProfileError::Flag { .. } => Exit::Usage,
        ProfileError::Syntax { .. }
        | ProfileError::Key { .. }
        | ProfileError::Missing { .. }
        | ProfileError::Load { .. }
        | ProfileError::Chain { .. } => Exit::Config,
    };
    Failure::new(exit, print::escape(&error.to_string()))
}

/// Prints; when nobody reads any more, the exit code still answers.
fn tell(text: impl std::fmt::Display) {
    drop(print::line(text));
}

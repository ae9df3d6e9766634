//! `portcullis policy`: what a policy would say, without asking the network anything.

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Failure, Outcome};
use super::print;
use crate::exit::Exit;
use crate::policy::profile::{Overrides, PolicyTest};
use crate::policy::{
    Decision, DenyReason, EgressRequest, NetworkMode, Profile, Ruleset, Transport, Verdict, decide,
    remedy,
};
use crate::session::caller::Caller;
use crate::session::{profiles, registries};

/// Verbs of `policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Say whether a URL would be allowed, by which rule, and what would change it
    Explain(ExplainArguments),
    /// Print a profile with everything that it extends
    Show(ShowArguments),
    /// Check a profile file and run its [[tests]]
    Check(CheckArguments),
}

/// Flags of `policy explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portcullis policy explain https://api.openai.com/v1/responses -p codex
  portcullis policy explain http://example.com/ --method POST -p ./my.toml

Exit status: 0 allowed, 1 denied. Nothing is looked up or contacted.")]
pub struct ExplainArguments {
    /// https://host/path, http://host/path, host:port or host (which means https)
    url: String,
    /// The HTTP method
    #[arg(long, default_value = "GET")]
    method: String,
    /// Profile: a name, or a file
    #[arg(short, long, default_value = "base")]
    profile: String,
    /// As with run: let this host be reached
    #[arg(long, value_name = "HOST[:PORT]")]
    allow: Vec<String>,
    /// As with run: never let this host be reached
    #[arg(long, value_name = "HOST")]
    deny: Vec<String>,
    /// Answer as JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `policy show`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portcullis policy show codex")]
pub struct ShowArguments {
    /// Profile: a name, or a file; none: list the names
    profile: Option<String>,
    /// Print JSON instead of TOML
    #[arg(long)]
    json: bool,
}

/// Flags of `policy check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  portcullis policy check ./my.toml

Exit status: 0 valid and every test as expected, 1 a test is not, 78 not valid.")]
pub struct CheckArguments {
    /// The profile file, or a name
    file: String,
    /// Answer as JSON
    #[arg(long)]
    json: bool,
}

/// Runs one verb.
pub fn run(command: PolicyCommand) -> Outcome {
    match command {
        PolicyCommand::Explain(arguments) => explain(arguments),
        PolicyCommand::Show(arguments) => show(&arguments),
        PolicyCommand::Check(arguments) => check(&arguments),
    }
}

/// A profile, with the hosts of its registries found and told.
fn load(name: &str, overrides: &Overrides, quiet: bool) -> Result<Profile, Failure> {
    let config = |error: &dyn std::fmt::Display| Failure::new(Exit::Config, error);
    let caller = Caller::current();
    let profile = profiles::load(name, &caller).map_err(|error| config(&error))?;
    let profile = profile.apply(overrides).map_err(|error| config(&error))?;
    let (profile, findings) = registries::resolve(profile, &caller);
    for finding in findings.iter().filter(|_| !quiet) {
        print::error(print::escape(&finding.to_string()));
    }
    Ok(profile)
}

fn explain(arguments: ExplainArguments) -> Outcome {
    let request = EgressRequest::parse(&format!("{} {}", arguments.method, arguments.url))
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    let overrides = Overrides {
        allow: arguments.allow,
        deny: arguments.deny,
        ..Overrides::default()
    };
    let profile = load(&arguments.profile, &overrides, arguments.json)?;
    let rules = Ruleset::compile(&profile.network);
    let decision = decide(&rules, &request);
    let lines = if arguments.json {
        vec![as_json(&request, &decision).to_string()]
    } else {
        as_text(&request, &decision, &profile)
    };
    for line in lines {
        if print::line(print::escape(&line)).is_err() {
            break;
        }
    }
    Ok(if decision.verdict == Verdict::Allow {
        Exit::Success
    } else {
        Exit::No
    })
}

fn as_text(request: &EgressRequest, decision: &Decision, profile: &Profile) -> Vec<String> {
    let EgressRequest { host, port, .. } = request;
    let verdict = if decision.verdict == Verdict::Allow {
        "allow"
    } else {
        "deny"
    };
    let mut lines = vec![format!(
        "{verdict}  {host}:{port}  (profile {})",
        profile.name
    )];
    if let Some(rule) = &decision.rule {
        lines.push(format!("  rule    {rule}"));
    }
    if let Some(reason) = decision.reason {
        lines.push(format!("  reason  {reason}"));
        lines.extend(remedy(request, reason).map(|remedy| format!("  cure    {remedy}")));
    } else {
        lines.push(
            "  then    the name is resolved; private and other special addresses are refused"
                .to_owned(),
        );
        if request.transport != Transport::Forward {
            lines
                .push("  note    inside the TLS tunnel, methods and paths are not seen".to_owned());
            if profile.network.mode == NetworkMode::Limited {
                lines.push("  note    so mode = \"limited\" holds for plain HTTP only (unconfined_tunnels)".to_owned());
            }
        }
    }
    lines
}

fn as_json(request: &EgressRequest, decision: &Decision) -> serde_json::Value {
    json!({
        "host": request.host,
        "port": request.port,
        "transport": request.transport,
        "verdict": decision.verdict,
        "reason": decision.reason.map(DenyReason::code),
        "rule": decision.rule,
        "remedy": decision.reason.and_then(|reason| remedy(request, reason)),
        "generation": decision.generation,
    })
}

fn show(arguments: &ShowArguments) -> Outcome {
    let Some(name) = &arguments.profile else {
        for name in profiles::names(&Caller::current()) {
            if print::line(name).is_err() {
                break;
            }
        }
        return Ok(Exit::Success);
    };
    let profile = load(name, &Overrides::default(), arguments.json)?;
    let internal = |error: &dyn std::fmt::Display| Failure::new(Exit::Internal, error);
    let text = if arguments.json {
        serde_json::to_string_pretty(&profile).map_err(|error| internal(&error))?
    } else {
        profile.to_toml().map_err(|error| internal(&error))?
    };
    // A closed pipe is the reader's choice.
    drop(print::line(text.trim_end()));
    Ok(Exit::Success)
}

fn check(arguments: &CheckArguments) -> Outcome {
    let name = &arguments.file;
    let profile = load(name, &Overrides::default(), arguments.json)?;
    let config = |error: &dyn std::fmt::Display| Failure::new(Exit::Config, error);
    let text = profiles::text(name, &Caller::current()).map_err(|error| config(&error))?;
    let tests = PolicyTest::read_all(name, &text).map_err(|error| config(&error))?;
    let rules = Ruleset::compile(&profile.network);
    let mut failed = 0;
    for PolicyTest {
        text,
        request,
        expect,
    } in &tests
    {
        let decision = decide(&rules, request);
        if decision.verdict != *expect {
            failed += 1;
            let why = decision
                .reason
                .map_or_else(|| "allowed".to_owned(), |reason| reason.to_string());
            print::error(print::escape(&format!("{name}: test {text:?}: {why}")));
        }
    }
    let total = tests.len();
    let line = if arguments.json {
        json!({ "profile": name, "valid": true, "tests": total, "failed": failed }).to_string()
    } else {
        format!(
            "{name}: valid; {} of {total} tests as expected",
            total - failed
        )
    };
    // A closed pipe is the reader's choice.
    drop(print::line(line));
    Ok(if failed == 0 { Exit::Success } else { Exit::No })
}

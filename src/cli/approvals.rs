//! `portcullis approvals`: questions of running sessions, seen and answered from another terminal.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::failure::{Failure, Outcome};
use super::{print, sessions};
use crate::exit::Exit;
use crate::ids::{QuestionId, SessionId};
use crate::policy::{Answered, Scope};
use crate::session::approvals::described;
use crate::session::caller::Caller;
use crate::session::running;
use crate::wire::gate::Question;
use crate::wire::session::{SessionReply, SessionRequest};

/// Arguments of `approvals`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portcullis approvals                          what waits for an answer, in every session of yours
  portcullis approvals allow 3                  say yes to question 3 of the only session that runs
  portcullis approvals deny 0197 3 --scope session
  portcullis approvals watch --json             one line a change, for a program")]
pub struct ApprovalsArguments {
    #[command(subcommand)]
    command: Option<ApprovalsCommand>,
}

/// What can be done about questions.
#[derive(Debug, Subcommand)]
enum ApprovalsCommand {
    /// Print the questions that wait
    List(List),
    /// Let it through
    Allow(Answering),
    /// Refuse it
    Deny(Answering),
    /// Print the questions that wait whenever they change, until the session ends
    Watch(List),
}

#[derive(Debug, Default, Args)]
struct List {
    /// The session: the beginning of its id; by default all, or for watch the only one
    session: Option<String>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Answering {
    /// The session (may be left out if only one runs), and the question's number
    #[arg(required = true, num_args = 1..=2, value_name = "[SESSION] QUESTION")]
    words: Vec<String>,
    /// How far the answer reaches
    #[arg(long, value_name = "SCOPE", default_value = "once")]
    scope: ScopeFlag,
}

/// [`Scope`], as a word on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScopeFlag {
    /// Whoever waits for this question
    Once,
    /// The same host and port until the session ends
    Session,
    /// The same, and a rule in your profile for sessions to come
    Profile,
}

impl From<ScopeFlag> for Scope {
    fn from(flag: ScopeFlag) -> Self {
        match flag {
            ScopeFlag::Once => Self::Once,
            ScopeFlag::Session => Self::Session,
            ScopeFlag::Profile => Self::Profile,
        }
    }
}

/// Does it.
pub fn run(arguments: ApprovalsArguments) -> Outcome {
    let caller = Caller::current();
    match arguments.command {
        None => list(&caller, &List::default()),
        Some(ApprovalsCommand::List(arguments)) => list(&caller, &arguments),
        Some(ApprovalsCommand::Allow(answering)) => answer(&caller, &answering, Answered::Allow),
        Some(ApprovalsCommand::Deny(answering)) => answer(&caller, &answering, Answered::Deny),
        Some(ApprovalsCommand::Watch(arguments)) => watch(&caller, &arguments),
    }
}

fn list(caller: &Caller, arguments: &List) -> Outcome {
    let meant = if let Some(name) = &arguments.session {
        vec![sessions::find(caller, Some(name))?]
    } else {
        let all = running::all(caller).into_iter();
        all.map(|one| (one.id, one.channel)).collect()
    };
    let mut waiting = 0;
    for (session, channel) in &meant {
        match sessions::ask(channel, &SessionRequest::Questions)? {
            SessionReply::Questions(questions) => {
                waiting += questions.len();
                tell(*session, &questions, arguments.json);
            }
            _ => return Err(sessions::unexpected()),
        }
    }
    if waiting == 0 && !arguments.json {
        // Beside the list, which is empty.
        print::error(match meant.as_slice() {
            [] => "no session of yours runs, so nothing waits for an answer".to_owned(),
            [(session, _)] => format!("nothing waits for an answer in session {session}"),
            more => format!(
                "nothing waits for an answer in the {} sessions that run",
                more.len()
            ),
        });
    }
    Ok(Exit::Success)
}

fn answer(caller: &Caller, answering: &Answering, verdict: Answered) -> Outcome {
    let (session, number) = match answering.words.as_slice() {
        [session, number] => (Some(session.as_str()), number),
        [number] => (None, number),
        _ => return Err(Failure::new(Exit::Usage, "name one question")),
    };
    let number = number.parse().map_err(|_| {
        let number = print::escape(number);
        Failure::new(Exit::Usage, format!("{number} is no question's number"))
    })?;
    let (_, channel) = sessions::find(caller, session)?;
    let request = SessionRequest::Answer {
        question: QuestionId(number),
        verdict,
        scope: answering.scope.into(),
    };
    match sessions::ask(&channel, &request)? {
        SessionReply::Done(what) => {
            // Nobody reads: it is done all the same.
            print::line(print::escape(&what)).ok();
            Ok(Exit::Success)
        }
        _ => Err(sessions::unexpected()),
    }
}

fn watch(caller: &Caller, arguments: &List) -> Outcome {
    let (session, channel) = sessions::find(caller, arguments.session.as_deref())?;
    let forever = rustix::net::sockopt::set_socket_timeout(
        &channel,
        rustix::net::sockopt::Timeout::Recv,
        None,
    );
    forever.map_err(|error| Failure::new(Exit::Unavailable, format!("session: {error}")))?;
    channel
        .send(&SessionRequest::Watch)
        .map_err(|error| sessions::gone(&error))?;
    loop {
        match channel.recv() {
            Ok(SessionReply::Questions(questions)) => {
                tell(session, &questions, arguments.json);
            }
            Ok(_) => return Err(sessions::unexpected()),
            Err(crate::wire::WireError::Closed) => return Ok(Exit::Success),
            Err(error) => return Err(sessions::gone(&error)),
        }
    }
}

/// One JSON object a session, or one line a question.
fn tell(session: SessionId, questions: &[Question], as_json: bool) {
    if as_json {
        let line = json!({ "session": session, "questions": questions });
        print::line(line).ok();
        return;
    }
    for question in questions {
        let what = print::escape(&described(question));
        let rule = question.rule.as_ref().map_or_else(String::new, |rule| {
            format!(", by {}", print::escape(rule.as_str()))
        });
        let line = format!(
            "{session}  {}  {what}  ({}{rule})",
            question.id, question.transport
        );
        print::line(line).ok();
    }
}

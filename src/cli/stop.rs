//! `portcullis stop`: ends running sessions, and waits until they are over.

use std::time::{Duration, Instant};

use clap::Args;

use super::failure::{Failure, Outcome};
use super::{print, sessions};
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::session::caller::Caller;
use crate::session::running;
use crate::wire::Channel;
use crate::wire::session::{SessionReply, SessionRequest};

/// Arguments of `stop`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portcullis stop nightly            ask the command to end, kill the jail after 10 seconds
  portcullis stop --kill 0197        at once
  portcullis stop --all

Exits 0 when they are over, 69 if there is none, 1 if one goes on.")]
pub struct StopArguments {
    /// The sessions: names or beginnings of ids; may be left out if only one runs
    #[arg(conflicts_with = "all")]
    sessions: Vec<String>,
    /// Every session of yours
    #[arg(short, long)]
    all: bool,
    /// Do not ask the command first
    #[arg(short, long)]
    kill: bool,
    /// Seconds to wait for the end
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u32,
}

/// Stops them.
pub fn run(arguments: &StopArguments) -> Outcome {
    let caller = Caller::current();
    let meant = if arguments.all {
        let all = running::all(&caller).into_iter();
        all.map(|one| (one.id, one.channel)).collect()
    } else if arguments.sessions.is_empty() {
        vec![sessions::find(&caller, None)?]
    } else {
        let find = |text: &String| sessions::find(&caller, Some(text));
        arguments
            .sessions
            .iter()
            .map(find)
            .collect::<Result<Vec<_>, _>>()?
    };
    // Everything is asked before anything is waited for.
    let asked: Vec<_> = meant
        .into_iter()
        .map(|(id, channel)| (id, stop(&channel, arguments.kill), channel))
        .collect();
    let until = Instant::now() + Duration::from_secs(arguments.timeout.into());
    let mut outcome = Ok(Exit::Success);
    for (id, asked, channel) in asked {
        let ended = asked.and_then(|()| over(id, &channel, until));
        match ended {
            Ok(()) => drop(print::line(id)),
            Err(failure) => {
                print::error(&failure.message);
                outcome = Ok(failure.exit);
            }
        }
    }
    outcome
}

fn stop(channel: &Channel, kill: bool) -> Result<(), Failure> {
    match sessions::ask(channel, &SessionRequest::Stop { kill })? {
        SessionReply::Done(_) => Ok(()),
        _ => Err(sessions::unexpected()),
    }
}

/// Waits for the end of the session's own process: then its last record is written.
pub(super) fn over(id: SessionId, channel: &Channel, until: Instant) -> Result<(), Failure> {
    if sessions::wait_for_end(id, channel, Some(until))? {
        return Ok(());
    }
    let cure = "portcullis stop --kill ends it at once";
    Err(Failure::new(
        Exit::No,
        format!("session {id} goes on; {cure}"),
    ))
}

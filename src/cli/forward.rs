//! `portcullis forward`: a port that the command of a running session listens on, reachable from the host.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use clap::Args;
use serde_json::json;

use super::failure::{Failure, Outcome};
use super::{print, sessions};
use crate::exit::Exit;
use crate::session::caller::Caller;
use crate::session::forward::{Door, Forward, Listening};
use crate::session::running::{self, RunningSession};

/// Arguments of `forward`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portcullis forward nightly 8080:3000     http://127.0.0.1:8080 is port 3000 of the session
  portcullis forward 0197 3000 0:5173      port 3000 by the same number, 5173 by one that is free
  portcullis forward nightly [::1]:8080:3000

Goes on until Ctrl-C or the session's end. Of all users of this host, only you and root get through. Each
connection is on record (session.forwarded).")]
pub struct ForwardArguments {
    /// The session: its name or the beginning of its id
    session: String,
    /// Port of the host and port of the session
    #[arg(required = true, value_name = "[BIND:]HOSTPORT:JAILPORT")]
    forwards: Vec<Forward>,
    /// Let BIND be an address that other machines or users may reach: whoever does gets through
    #[arg(long)]
    bind_any: bool,
    /// Answer in JSON, one line a port
    #[arg(long)]
    json: bool,
}

/// Serves them.
pub fn run(arguments: &ForwardArguments) -> Outcome {
    for forward in &arguments.forwards {
        if !arguments.bind_any && !forward.at.ip().to_canonical().is_loopback() {
            let what = format!(
                "{}: others than you would reach the session there; use a loopback address (127.0.0.1), or \
                 add --bind-any",
                forward.at
            );
            return Err(Failure::new(Exit::Usage, what));
        }
    }
    let caller = Caller::current();
    let (id, channel) = sessions::find_own(&caller, Some(&arguments.session))?;
    let session = RunningSession { id, channel };
    let description = running::describe(&session)
        .map_err(|error| Failure::new(Exit::Unavailable, format!("session {id}: {error}")))?;
    let name = description
        .name
        .map_or_else(|| id.to_string(), |name| name.to_string());
    // All of them, or none.
    let ports = arguments.forwards.iter().map(listen);
    let ports = ports.collect::<Result<Vec<_>, _>>()?;
    let door = Arc::new(Door::new(caller, id));
    for port in ports {
        let (at, to) = (port.at, port.to.number());
        let line = if arguments.json {
            json!({ "session": id, "listen": at, "port": to }).to_string()
        } else {
            format!("{at} → {name} {to}")
        };
        // Nobody reads: it is served all the same.
        print::line(line).ok();
        let door = Arc::clone(&door);
        thread::Builder::new()
            .spawn(move || port.serve(&door, tell))
            .map_err(|error| Failure::new(Exit::Internal, format!("start a thread: {error}")))?;
    }
    sessions::wait_for_end(id, &session.channel, None)?;
    print::error(format!("session {name} ended"));
    Ok(Exit::Success)
}

fn tell(what: &str) {
    print::error(print::escape(what));
}

fn listen(forward: &Forward) -> Result<Listening, Failure> {
    let failed = |error: std::io::Error| {
        let at: SocketAddr = forward.at;
        let what = format!("listen on {at}: {error}; choose another port, or 0 for any");
        Failure::new(Exit::Unavailable, what)
    };
    Listening::open(forward).map_err(failed)
}

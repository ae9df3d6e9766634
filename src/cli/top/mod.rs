//! `portcullis top`: the caller's running sessions on the whole screen, looked at every second.
//!
//! Two threads, so that a session that does not answer holds no key up: one looks, this one draws. The
//! terminal is given back on every way out: the end of [`run`], a signal, a panic (ratatui's hook).

mod look;
mod screen;
mod usage;

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use self::look::{Looker, Row};
use self::screen::{Act, Screen};
use super::failure::{Failure, Outcome};
use super::sessions;
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::session::caller::Caller;
use crate::session::running;
use crate::session::signals::Signals;
use crate::wire::session::{SessionReply, SessionRequest};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a key may wait for its turn at most, and a signal.
const TURN: Duration = Duration::from_millis(100);

/// How long a session may take to say that it is about to stop: no key is taken meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// Arguments of `top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys:
  q         quit
  up, down  select
  enter     what the session is, where it went, its budgets; esc goes back
  s         stop the session, as portcullis stop does
  o, r      sort by the next column, and the other way round

For programs: portcullis ps --json.")]
pub struct TopArguments {}

/// Shows them until the user has seen enough.
pub fn run(TopArguments {}: &TopArguments) -> Outcome {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let what = "top needs a terminal; for programs there is portcullis ps --json";
        return Err(Failure::new(Exit::Usage, what));
    }
    let failed =
        |what: &str, error: io::Error| Failure::new(Exit::Internal, format!("{what}: {error}"));
    // Before any other thread: a signal is to end us in order.
    let mut signals = Signals::watch().map_err(|error| failed("watch signals", error))?;
    let caller = Caller::current();
    let (sender, looks) = mpsc::sync_channel(1);
    let looker = Looker::new(caller.clone());
    thread::Builder::new()
        .spawn(move || keep_looking(looker, &sender))
        .map_err(|error| failed("start a thread", error))?;
    let mut terminal = ratatui::try_init().map_err(|error| failed("terminal", error))?;
    let outcome = show(&mut terminal, &mut signals, &looks, &caller);
    // Whatever went wrong before: it is to be given back first. What then fails is told by the outcome.
    let restored = ratatui::try_restore();
    let exit = outcome.map_err(|error| failed("terminal", error))?;
    restored.map_err(|error| failed("give the terminal back", error))?;
    Ok(exit)
}

/// Looks until nobody wants to see it.
fn keep_looking(mut looker: Looker, to: &SyncSender<Vec<Row>>) {
    while to.send(looker.look()).is_ok() {
        thread::sleep(PAUSE);
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    signals: &mut Signals,
    looks: &Receiver<Vec<Row>>,
    caller: &Caller,
) -> io::Result<Exit> {
    let mut screen = Screen::new();
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        // Any of three, or a turn: a resized terminal is an event as well.
        if event::poll(TURN)?
            && let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
        {
            match screen.press(key) {
                Act::Go => {}
                Act::Quit => return Ok(Exit::Success),
                Act::Stop(session) => {
                    let name = screen.called(session);
                    match stop(caller, session) {
                        Ok(()) => screen.say(&format!("{name} is asked to end")),
                        Err(failure) => screen.say(&format!("{name}: {failure}")),
                    }
                }
            }
        }
        if let Ok(rows) = looks.try_recv() {
            screen.take(rows);
        }
        while let Some(arrived) = signals.take()? {
            // The end of a child is none: there are no children.
            if arrived.signal != Signal::SIGCHLD {
                let number = u8::try_from(arrived.signal as i32).unwrap_or(u8::MAX);
                return Ok(Exit::Signal(number));
            }
        }
    }
}

fn stop(caller: &Caller, session: SessionId) -> Result<(), Failure> {
    let meant = running::meant(caller, &session.to_string());
    let gone = || Failure::new(Exit::Unavailable, "it has ended");
    let channel = meant.into_iter().next().ok_or_else(gone)?.channel;
    set_socket_timeout(&channel, Timeout::Recv, Some(PATIENCE))
        .map_err(|errno| Failure::new(Exit::Internal, errno))?;
    match sessions::ask(&channel, &SessionRequest::Stop { kill: false })? {
        SessionReply::Done(_) => Ok(()),
        _ => Err(sessions::unexpected()),
    }
}

//! The caller's terminal: usable, but nothing can be typed into it.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use nix::libc::EPERM;

use crate::act::{Act, Answer};
use crate::bench::{Bench, CALLERS, Caller, until};

const TIOCSTI: u64 = 0x5412;
const TIOCSETD: u64 = 0x5423;
const TIOCLINUX: u64 = 0x541c;
const TIOCGETD: u64 = 0x5424;

/// A command as a shell reads it, for the bench's caller.
fn command_line(bench: &Bench, program: &Command) -> String {
    let parts = std::iter::once(program.get_program()).chain(program.get_args());
    let mut line: String = parts
        .flat_map(|part| [quoted(part.to_str().unwrap()), " ".to_owned()])
        .collect();
    // The daemon's part is root's.
    let daemon = program.get_args().any(|argument| argument == "enter");
    if bench.caller != Caller::Root && !daemon {
        line.insert_str(0, "setpriv --reuid 4001 --regid 4001 --clear-groups ");
    }
    line
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Runs a command with a new terminal of its own, and gives what it wrote there.
fn in_terminal(bench: &Bench, program: &Command) -> Vec<Answer> {
    let line = command_line(bench, program);
    let output = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // What was typed into the terminal stands before the answers.
    let answers = said.find('[').and_then(|start| said.get(start..));
    serde_json::from_str(answers.unwrap_or_else(|| unreachable!("{output:?}"))).unwrap()
}

#[test]
fn nothing_can_be_typed_into_the_callers_terminal() {
    let acts = [
        Act::Terminal(TIOCSTI),
        Act::Terminal(1 << 32 | TIOCSTI),
        Act::Terminal(TIOCSETD),
        Act::Terminal(TIOCLINUX),
        Act::Terminal(1 << 63 | TIOCLINUX),
    ];
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let json = serde_json::to_string(&acts).unwrap();
        bench.order.argv = vec!["/run/probe".to_owned(), json];
        let answers = in_terminal(&bench, &bench.session());
        assert_eq!(
            answers,
            vec![Answer::Errno(EPERM); acts.len()],
            "{caller:?}"
        );
    }
    let bench = Bench::new(Caller::Root);
    let json = serde_json::to_string(&acts[..1]).unwrap();
    assert_eq!(in_terminal(&bench, &bench.twin(&json)), [Answer::done()]);
}

#[test]
fn the_terminal_can_be_used() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let json = serde_json::to_string(&[Act::Terminal(TIOCGETD)]).unwrap();
        bench.order.argv = vec!["/run/probe".to_owned(), json];
        let answers = in_terminal(&bench, &bench.session());
        assert_eq!(answers, [Answer::done()], "{caller:?}");
        assert!(fs::exists(&bench.order.outcome).unwrap());
    }
}

#[test]
fn an_interrupt_from_the_keyboard_reaches_the_command_and_not_bubblewrap() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let script = "trap 'echo caught; exit 3' INT; touch ready; while :; do sleep 0.05; done";
        bench.order.argv = ["bash", "-c", script].map(Into::into).into();
        // The session ignores the keyboard as `portcullis run` does while a command has the terminal.
        let session = bench.through_shell("trap '' INT; exec \"$0\" \"$@\"");
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &command_line(&bench, &session), "/dev/null"]);
        let child = terminal
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        until("the command runs", || bench.path("ready").exists());
        child.stdin.as_ref().unwrap().write_all(b"\x03").unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("caught"), "{caller:?}: {output:?}");
        let outcome = fs::read_to_string(&bench.order.outcome).unwrap();
        assert!(outcome.contains(r#""status":3"#), "{caller:?}: {outcome}");
    }
}

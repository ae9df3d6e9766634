//! The caller's terminal: usable, but nothing can be typed into it.

use std::fs;
use std::process::Command;

use nix::libc::EPERM;

use crate::act::{Act, Answer};
use crate::bench::{Bench, CALLERS, Caller};

const TIOCSTI: u64 = 0x5412;
const TIOCSETD: u64 = 0x5423;
const TIOCLINUX: u64 = 0x541c;
const TIOCGETD: u64 = 0x5424;

/// Runs a command line with a new terminal of its own, and gives what it wrote there.
fn in_terminal(bench: &Bench, program: &Command) -> Vec<Answer> {
    let parts = std::iter::once(program.get_program()).chain(program.get_args());
    let mut line: String = parts
        .flat_map(|part| ["'", part.to_str().unwrap(), "' "])
        .collect();
    if bench.caller == Caller::User {
        line.insert_str(0, "setpriv --reuid 4001 --regid 4001 --clear-groups ");
    }
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

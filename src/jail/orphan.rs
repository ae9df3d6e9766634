//! Jails that nobody waits for: bubblewrap's first process, when its outer one was killed at the wrong moment.
//!
//! Between clone(2) and its `--die-with-parent` it does not die with its parent (bubblewrap 0.8 to 0.11), and
//! for the first part of that time it waits for its parent to say who it is, for ever. The sweeper ends it
//! where it has heard of it; this is for what is left: whoever finds that a session was killed looks.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, getuid, pidfd_open, pidfd_send_signal};

use super::bwrap::{ARGS_FD, INIT_FD};

/// Kills them, those of this user.
pub fn end_all() {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for number in numbers {
        if is_orphan(number) {
            end(number);
        }
    }
}

/// Between the two looks nobody can have taken over the number: the descriptor is there.
fn end(number: i32) {
    let Some(process) = Pid::from_raw(number) else {
        return;
    };
    if let Ok(process) = pidfd_open(process, PidfdFlags::empty())
        && is_orphan(number)
    {
        // Gone by itself is as good.
        pidfd_send_signal(process, Signal::KILL).ok();
    }
}

/// Whether a process is bubblewrap as we start it, the first of its namespace, and its parent is not.
fn is_orphan(number: i32) -> bool {
    is_ours(number)
        && status(number).is_some_and(|status| {
            status.is_first && status.user == getuid().as_raw() && !is_ours(status.parent)
        })
}

/// Nobody else starts bubblewrap with these arguments; both of its processes have them.
fn is_ours(number: i32) -> bool {
    let arguments = format!("\0--args\0{ARGS_FD}\0--\0/proc/self/fd/{INIT_FD}\0");
    fs::read(format!("/proc/{number}/cmdline"))
        .is_ok_and(|line| line.ends_with(arguments.as_bytes()))
}

/// `/proc/PID/status`, what of it matters.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    parent: i32,
    user: u32,
    /// Whether it is the first process of a namespace below ours.
    is_first: bool,
}

fn status(number: i32) -> Option<Status> {
    parse(&fs::read_to_string(format!("/proc/{number}/status")).ok()?)
}

fn parse(text: &str) -> Option<Status> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_ascii_whitespace())
    };
    let numbers: Vec<&str> = field("NSpid:")?.collect();
    Some(Status {
        parent: field("PPid:")?.next()?.parse().ok()?,
        user: field("Uid:")?.next()?.parse().ok()?,
        is_first: numbers.len() > 1 && numbers.last() == Some(&"1"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_of_a_namespace_is_known() {
        let text = |numbers: &str| {
            format!("Name:\tbwrap\nPPid:\t1\nUid:\t7\t7\t7\t7\nNSpid:\t{numbers}\n")
        };
        let first = |numbers: &str| parse(&text(numbers)).unwrap().is_first;
        assert!(first("30014\t1") && first("30014\t12\t1"));
        assert!(!first("30014") && !first("30014\t2") && !first("1"));
        let status = parse(&text("30014\t1")).unwrap();
        assert_eq!((status.parent, status.user), (1, 7));
        assert_eq!(parse("Name:\tbwrap\n"), None);
    }
}

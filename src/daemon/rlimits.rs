//! The limits of resources of whoever asks for a session (setrlimit(2)): what an admin sets for users at their
//! login binds their sessions as well, which the daemon starts and not they. Asked of the kernel, not of them.

use std::fs::File;
use std::io::{self, Read};

use crate::sys::peer::Peer;
use crate::wire::service::CallerLimit;

/// The longest text of the kernel's that is read, in bytes.
const LONGEST: u64 = 16 << 10;

/// Reads them (proc_pid_limits(5)). Whoever has ended by now has none, and gets no session.
pub(super) fn of(peer: &Peer) -> io::Result<Vec<CallerLimit>> {
    let pid = peer.pid.as_raw_nonzero();
    let limits = text(&format!("/proc/{pid}/limits"))?;
    // The number may be somebody else's by now.
    let status = text(&format!("/proc/{pid}/status"))?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = uid.and_then(|ids| ids.split_ascii_whitespace().nth(1)?.parse().ok());
    if uid != Some(peer.uid) {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(limits.lines().filter_map(parse).collect())
}

fn text(path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// `Max open files            1024                 524288               files     `
fn parse(line: &str) -> Option<CallerLimit> {
    let (name, rest) = line.split_at_checked(25)?;
    let mut words = rest.split_ascii_whitespace();
    let mut amount = || match words.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some(CallerLimit {
        name: name.trim_end().to_owned(),
        soft: amount()?,
        hard: amount()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernels_are_read() {
        let limit = |name: &str, soft, hard| {
            let name = name.to_owned();
            Some(CallerLimit { name, soft, hard })
        };
        for (line, expected) in [
            (
                "Max open files            1024                 524288               files     ",
                limit("Max open files", Some(1024), Some(524_288)),
            ),
            (
                "Max cpu time              unlimited            unlimited            seconds   ",
                limit("Max cpu time", None, None),
            ),
            (
                "Max nice priority         0                    0                    ",
                limit("Max nice priority", Some(0), Some(0)),
            ),
            (
                "Limit                     Soft Limit           Hard Limit           Units     ",
                None,
            ),
            ("", None),
        ] {
            assert_eq!(parse(line), expected);
        }
    }
}

//! Sockets are closed without a wait for what others have sent on them. A program of its own: a child that
//! another test forks would hold the sockets that linger.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic and dial"
)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use portcullis::sys::close::without_waiting;

#[path = "support/linger.rs"]
mod linger;

#[test]
fn what_nobody_has_taken_holds_nobody_up() {
    for before in [0, 1, 100_000] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&vec![b'x'; before]).unwrap();
        let _peer = linger::send(&theirs, b"x", Duration::from_mins(1));
        let start = Instant::now();
        without_waiting(ours);
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn what_was_said_before_still_arrives_and_then_the_end() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"unread").unwrap();
    ours.write_all(b"answer").unwrap();
    without_waiting(ours);
    let mut said = Vec::new();
    theirs.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"answer");
}

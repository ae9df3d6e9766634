//! What comes over the control socket from somebody who means no good: refused, and the daemon serves on.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::linger;
use crate::service::{ADA, Service};

const LAUNCH: &str = r#"{"launch":{"profile":"base","name":null,"detached":false}}"#;

fn socket(host: &Service) -> PathBuf {
    host.inside("/run/portcullis/control.sock")
}

/// What the daemon answers to these bytes with these descriptors, until it closes.
fn answer(host: &Service, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> String {
    let mut stream = UnixStream::connect(socket(host)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    }
    sendmsg(
        &stream,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
    let mut said = Vec::new();
    // A reset is as good as an end.
    stream.read_to_end(&mut said).ok();
    String::from_utf8_lossy(said.get(4..).unwrap_or_default()).into_owned()
}

fn frame(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_le_bytes();
    [&length, text.as_bytes()].concat()
}

fn serves(host: &Service) {
    let run = host.run(ADA, &["run", "--", "echo", "alive"]);
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (Some(0), "alive\n"),
        "{run:#?}"
    );
}

#[test]
fn frames_that_are_none_are_cut_off() {
    let host = Service::start("");
    for (what, bytes) in [
        ("too long", u32::MAX.to_le_bytes().to_vec()),
        (
            "over the cap of requests",
            (5_u32 << 10).to_le_bytes().to_vec(),
        ),
        ("no JSON", frame("\u{1}\u{2}")),
        ("an unknown request", frame("\"reboot\"")),
        (
            "an unknown field",
            frame("{\"connect\":{\"session\":\"01a207a016357651921666c3c79a734f\",\"as\":0}}"),
        ),
        (
            "no session",
            frame("{\"connect\":{\"session\":\"../../etc\"}}"),
        ),
        (
            "two at once",
            [frame("\"list\""), frame("\"list\"")].concat(),
        ),
        ("empty", frame("")),
    ] {
        assert_eq!(answer(&host, &bytes, &[]), "", "{what}");
    }
    assert_eq!(answer(&host, &frame("\"list\""), &[]), "{\"sessions\":[]}");
    serves(&host);
}

#[test]
fn half_a_frame_holds_nobody_up_and_many_are_turned_away() {
    let host = Service::start("");
    let connect = || {
        let mut stream = UnixStream::connect(socket(&host)).unwrap();
        stream.write_all(&[200, 0, 0, 0, b'{']).ok();
        stream
    };
    let held: Vec<_> = (0..300).map(|_| connect()).collect();
    serves(&host);
    drop(held);
}

#[test]
fn a_flood_of_descriptors_is_cut_off_and_none_of_them_stays() {
    let host = Service::start("");
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds: Vec<_> = std::iter::repeat_n(null.as_fd(), 60).collect();
    let open = || {
        let folder = format!("/proc/{}/fd", host.daemon());
        std::fs::read_dir(folder).unwrap().count()
    };
    serves(&host);
    host.until("the session is over", || {
        !host.run(ADA, &["ps", "--json"]).stdout.contains("session")
    });
    let before = open();
    // More than there is room for never arrive; those that do come with a request that takes none.
    answer(&host, &frame("\"list\""), &fds);
    for _ in 0..20 {
        let mut stream = UnixStream::connect(socket(&host)).unwrap();
        for byte in frame("\"list\"").iter().take(5) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds[..4])));
            sendmsg(
                &stream,
                &[IoSlice::new(&[*byte])],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )
            .ok();
        }
        stream.flush().ok();
    }
    host.until("they are closed", || open() <= before);
    serves(&host);
}

#[test]
fn a_descriptor_that_cannot_be_closed_holds_nobody_up() {
    let host = Service::start("");
    let daemon = rustix::process::Pid::from_raw(host.daemon().cast_signed()).unwrap();
    let signal = |signal| rustix::process::kill_process(daemon, signal).unwrap();
    let mut peers = Vec::new();
    signal(rustix::process::Signal::STOP);
    for bytes in [
        frame("\"list\""),
        frame(LAUNCH),
        vec![200, 0, 0, 0],
        frame("x"),
    ] {
        let stream = UnixStream::connect(socket(&host)).unwrap();
        // No longer than this, because a child that another test forks may be the last to have it.
        let peer = linger::send(&stream, &bytes, Duration::from_secs(20));
        peers.push((stream, peer));
    }
    signal(rustix::process::Signal::CONT);
    // All of them would take 80 seconds, an answer may take 30.
    assert_eq!(answer(&host, &frame("\"list\""), &[]), "{\"sessions\":[]}");
    serves(&host);
}

#[test]
fn a_launch_that_is_incomplete_is_refused_with_a_reason() {
    let host = Service::start("");
    let null = std::fs::File::open("/dev/null").unwrap();
    // Descriptors are for the session.
    assert_eq!(answer(&host, &frame(LAUNCH), &[null.as_fd()]), "");
    // The tests run as root, whose sessions are its own.
    let said = answer(&host, &frame(LAUNCH), &[]);
    assert!(said.contains("root runs its sessions itself"), "{said}");
    serves(&host);
}

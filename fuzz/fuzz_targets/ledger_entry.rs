//! Entries of the ledger are read without a panic, and what is believed of them is what the chain, the key and the order
//! of heads allow. Each line of the input is the event of an entry, which is sealed here as it has to be, so that
//! what it says is looked at; a line `sign` is a checkpoint that is signed.
#![no_main]

use std::io::Cursor;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis::audit::ChainHash;
use portcullis::audit::ledger::anchor::Anchors;
use portcullis::audit::ledger::entry::{self, Place};
use portcullis::audit::ledger::key::SigningKey;
use portcullis::audit::ledger::read::Contents;

const HOST: &str = "0123456789abcdef";
const TS: &str = "2026-11-23T18:00:00.000000Z";

static KEY: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::from_seed([7; 32].into()).expect("a key"));

fuzz_target!(|input: &[u8]| {
    // As it is: whatever stands there, what holds is an entry by its own hash.
    read(input);
    if let Ok(known) = entry::parse(input) {
        let text = std::str::from_utf8(input).expect("an entry is text");
        let (open, hash) = text.rsplit_once(r#","hash":""#).expect("a hash");
        assert_eq!(known.prev.follow(open.as_bytes()), known.hash);
        assert_eq!(hash, format!("{}\"}}", known.hash));
    }

    let mut ledger = Vec::new();
    let mut ends = Vec::new();
    let mut prev = entry::genesis(HOST);
    let events = input.split(|byte| *byte == b'\n');
    let key = format!(r#""event":"key.created","key":"{}""#, KEY.public());
    let events = std::iter::once(key.as_bytes()).chain(events);
    for (seq, event) in (1..).zip(events) {
        let signed = (event == b"sign").then(|| sign(seq, prev));
        let open = [
            format!(r#"{{"v":1,"seq":{seq},"ts":"{TS}","host_id":"{HOST}","#).as_bytes(),
            signed.as_deref().unwrap_or(event),
            format!(r#","prev":"{prev}""#).as_bytes(),
        ]
        .concat();
        prev = prev.follow(&open);
        ledger.extend_from_slice(&open);
        ledger.extend_from_slice(format!(",\"hash\":\"{prev}\"}}\n").as_bytes());
        ends.push((ledger.len(), prev));
    }
    let whole = read(&ledger);
    let held = usize::try_from(whole.entries).expect("few");
    assert!(held >= 1, "the first one holds");
    let (end, head) = ends[held - 1];
    assert_eq!(whole.head, Some(head));
    assert_eq!(whole.broken.is_none(), held == ends.len());
    // What holds, holds without what follows, and says the same.
    let part = read(&ledger[..end]);
    assert_eq!((part.entries, &part.broken), (whole.entries, &None));
    assert_eq!((&part.sessions, &part.holds), (&whole.sessions, &whole.holds));
    for bound in whole.sessions.values() {
        let mut last = (0, 0);
        for end in &bound.pruned {
            assert!(end.segment == last.0 + 1 && end.records > last.1, "{bound:?}");
            last = (end.segment, end.records);
            assert_eq!(bound.head(end.records), Some(end.head));
        }
    }
    // Without a signature nothing is removed.
    if whole.signed.is_none() {
        assert!(whole.sessions.values().all(|bound| bound.pruned.is_empty()));
    }
});

/// Reads a ledger; what breaks it is the entry after the last that holds.
fn read(text: &[u8]) -> Contents {
    let contents = Contents::read(Cursor::new(text), &mut Anchors::default()).expect("memory");
    if let Some(broken) = &contents.broken {
        assert_eq!(broken.entry, contents.entries + 1);
    }
    contents
}

/// The fields of a checkpoint that holds.
fn sign(seq: u64, prev: ChainHash) -> Vec<u8> {
    let (host_id, ts, key) = (HOST, TS, KEY.public());
    let place = Place {
        host_id,
        seq,
        ts,
        prev,
    };
    let signature = KEY.sign(&entry::checkpoint_message(place, &key)).expect("signed");
    let signature = String::from(signature);
    format!(r#""event":"checkpoint","key":"{key}","signature":"{signature}""#).into_bytes()
}

//! A checkpoint is found in any text that it was forwarded in, as it is or in a string of another object, and stands in
//! its ledger; one of which a byte is another is none, or is not in the ledger.
#![no_main]

use std::io::Cursor;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis::audit::ledger::LedgerEvent;
use portcullis::audit::ledger::anchor::Anchors;
use portcullis::audit::ledger::entry::{self, Place, checkpoint_message};
use portcullis::audit::ledger::key::SigningKey;
use portcullis::audit::ledger::read::Contents;

const HOST: &str = "0123456789abcdef";

/// A ledger: its key and a checkpoint.
static LEDGER: LazyLock<String> = LazyLock::new(|| {
    let key = SigningKey::from_seed([7; 32].into()).expect("a key");
    let mut lines = Vec::new();
    let place = |seq, prev| Place {
        host_id: HOST,
        seq,
        ts: "2026-11-23T18:00:00.000000Z",
        prev,
    };
    let first = place(1, entry::genesis(HOST));
    let created = LedgerEvent::KeyCreated { key: key.public() };
    let head = entry::seal(&mut lines, first, &created).expect("sealed");
    let second = place(2, head);
    let signature = key.sign(&checkpoint_message(second, &key.public()));
    let checkpoint = LedgerEvent::Checkpoint {
        key: key.public(),
        signature: signature.expect("signed"),
    };
    entry::seal(&mut lines, second, &checkpoint).expect("sealed");
    String::from_utf8(lines).expect("text")
});

fuzz_target!(|input: (&[u8], bool, Option<(usize, u8)>, &[u8])| {
    let (before, escaped, change, after) = input;
    // What stands around it may hold others: of text without one there is none.
    let noise = found(&[before, b"\n", after].concat()).count;
    let checkpoint = LEDGER.lines().nth(1).expect("two lines");
    let mut planted = checkpoint.as_bytes().to_vec();
    if let Some((place, byte)) = change {
        let place = place % planted.len();
        planted[place] = byte;
    }
    let same = planted == checkpoint.as_bytes();
    if escaped {
        let text = String::from_utf8_lossy(&planted).replace('"', "\\\"");
        planted = text.into_bytes();
    }
    let mut anchors = found(&[before, b" ", &planted, b"\n", after].concat());
    let ledger = Contents::read(Cursor::new(LEDGER.as_bytes()), &mut anchors).expect("memory");
    assert_eq!((ledger.entries, &ledger.broken), (2, &None));
    if same {
        assert!(anchors.count > noise.saturating_sub(1), "it is not found");
    }
    if same && noise == 0 {
        assert_eq!((anchors.count, anchors.flaws(&ledger)), (1, Vec::new()));
    }
    // Another byte, and it is no entry by its own hash; but backslashes are nowhere in one.
    let is_lost = change.is_some_and(|(_, byte)| byte != b'\\');
    if !same && is_lost && noise == 0 {
        assert_eq!(anchors.count, 0);
    }
});

fn found(text: &[u8]) -> Anchors {
    let mut anchors = Anchors::default();
    let count = anchors.add(Cursor::new(text)).expect("memory");
    assert_eq!(count, anchors.count);
    anchors
}

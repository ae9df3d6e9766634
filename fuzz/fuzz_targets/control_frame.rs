//! What anybody on the host can say to portcullisd, and a session to its daemon: nothing panics, what is read says
//! the same when it is written again, and an unknown field is never passed over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::wire::control::ControlRequest;
use portcullis::wire::detached::{FromStarter, Start};
use portcullis::wire::frame::{body_length, decode, encode};
use portcullis::wire::service::{Asked, ToSession};
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|bytes: &[u8]| {
    round::<ControlRequest>(bytes);
    round::<Asked>(bytes);
    round::<ToSession>(bytes);
    round::<FromStarter>(bytes);
    round::<Start>(bytes);
    if let Some(header) = bytes.first_chunk() {
        assert!(body_length(*header).is_err() || body_length(*header).unwrap() <= 16 << 20);
    }
});

fn round<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = decode::<T>(bytes) else {
        return;
    };
    let written = encode(&message).expect("what was read fits a frame");
    let again: T = decode(&written[4..]).expect("what was written reads back");
    assert_eq!(again, message);
    // One more field in the outermost object belongs to nobody.
    let text = std::str::from_utf8(&written[4..]).expect("JSON is UTF-8");
    if let Some(open) = text.strip_prefix('{') {
        let more = format!("{{\"unknown_field\":0,{open}");
        assert!(decode::<T>(more.as_bytes()).is_err(), "{more}");
    }
}

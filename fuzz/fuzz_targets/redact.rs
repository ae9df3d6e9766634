//! Taking secrets out of bytes never fails, leaves nothing of a key that stands by itself, and finds nothing more
//! when it looks again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::audit::redact;

fuzz_target!(|input: (&[u8], u64, &[u8])| {
    let (before, seed, after) = input;
    let (once, _) = redact::bytes(before);
    let (twice, more) = redact::bytes(&once);
    assert_eq!((&*twice, more), (&*once, 0));
    // Between blanks, so that what stands around it is no part of it.
    let key = format!("ghp_{:036x}", u128::from(seed));
    let hay = [before, b" ", key.as_bytes(), b" ", after].concat();
    let (clean, _) = redact::bytes(&hay);
    let left = clean.windows(key.len()).any(|part| part == key.as_bytes());
    assert!(!left, "{}", String::from_utf8_lossy(&clean));
});

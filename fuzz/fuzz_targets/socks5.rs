//! SOCKS5 messages are read exactly: no prefix of a message is one, none needs a byte more than it
//! says, and what is read is a canonical host.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::gate::fuzz::{Progress, socks5_greeting, socks5_request};
use portcullis::policy::Host;

fuzz_target!(|bytes: &[u8]| {
    exact(bytes, socks5_greeting);
    exact(bytes, socks5_request);
    if let Progress::Whole((host, port)) = socks5_request(bytes) {
        assert_ne!(port, 0);
        assert_eq!(Host::parse(&host).map(|host| host.to_string()), Ok(host));
    }
});

/// Reads as the gate does: byte by byte as asked for, never more.
fn exact<T: PartialEq + std::fmt::Debug>(bytes: &[u8], read: impl Fn(&[u8]) -> Progress<T>) {
    let mut taken = 0;
    loop {
        let Some(prefix) = bytes.get(..taken) else {
            return;
        };
        match read(prefix) {
            Progress::More(more) => {
                assert!(more > 0 && taken + more <= 600, "{more} more after {taken}");
                taken += more;
            }
            Progress::Refused => return,
            whole @ Progress::Whole(_) => {
                // What follows the message is not looked at.
                assert_eq!(read(bytes), whole);
                return;
            }
        }
    }
}

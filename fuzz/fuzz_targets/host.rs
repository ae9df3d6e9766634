//! A text is one host in one canonical form or none, and agrees with what the standard library and the
//! URL standard make of it.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use portcullis::policy::{EgressRequest, Host, HostPattern};

fuzz_target!(|text: &str| {
    // Total, whatever comes.
    let _request = EgressRequest::parse(text);
    if let Ok(pattern) = HostPattern::parse(text) {
        assert_eq!(HostPattern::parse(&pattern.to_string()), Ok(pattern));
    }
    let Ok(host) = Host::parse(text) else {
        return;
    };
    let shown = host.to_string();
    assert_eq!(Host::parse(&shown), Ok(host.clone()), "canonical");
    match host {
        Host::Addr(address) => {
            let std: IpAddr = text.parse().expect("an address to us");
            assert_eq!(std.to_canonical(), address, "another address is dialed");
        }
        Host::Name(name) => {
            assert!(text.parse::<IpAddr>().is_err(), "an address judged as a name");
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
            assert!(name.as_str().bytes().all(allowed));
            // WHATWG reads numbers in every spelling as IPv4; none may hide behind a name.
            if let Ok(url::Host::Ipv4(address)) = url::Host::parse(name.as_str()) {
                panic!("{name} is {address} to a browser");
            }
        }
    }
});

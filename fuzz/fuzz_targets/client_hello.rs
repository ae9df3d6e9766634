//! A ClientHello is read alike however it is cut, and never as another name than rustls reads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::gate::fuzz::server_name;
use rustls::server::Acceptor;

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let at_once = server_name(std::iter::once(bytes));
    let in_steps = server_name(bytes.chunks(usize::from(step).max(1)));
    match (&at_once, &in_steps) {
        // The end of a hello may come before bytes that spoil what follows it.
        (Err(_), Ok(Some(_))) => {}
        _ => assert_eq!(at_once, in_steps),
    }
    let Ok(Some(ours)) = at_once else {
        return;
    };
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() && acceptor.read_tls(&mut rest).is_ok_and(|read| read > 0) {
        match acceptor.accept() {
            Ok(None) => {}
            Err(_) => return,
            Ok(Some(accepted)) => {
                let theirs = accepted.client_hello().server_name().map(str::to_owned);
                if let Some(theirs) = theirs {
                    let ours = ours.expect("rustls sees a name").to_ascii_lowercase();
                    assert_eq!(ours.trim_end_matches('.'), theirs.to_ascii_lowercase());
                }
                return;
            }
        }
    }
});

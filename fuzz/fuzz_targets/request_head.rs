//! A request head that the gate takes is read alike by the parser that reads it next (httparse, in
//! hyper): same method, same target, as many fields, and one framing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::gate::fuzz::{authority, request_head};

fuzz_target!(|bytes: &[u8]| {
    let whole = [bytes, b"\r\n\r\n"].concat();
    let Ok(length) = request_head(&whole) else {
        return;
    };
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(&whole).expect("taken by the gate");
    assert_eq!(parsed, httparse::Status::Complete(whole.len()), "all of it");
    let method = request.method.expect("complete");
    let target = request.path.expect("complete");
    let line = format!("{method} {target} HTTP/1.{}", request.version.expect("complete"));
    assert!(whole.starts_with(line.as_bytes()), "{line:?}");
    let values = |name: &str| -> Vec<&[u8]> {
        let named = request.headers.iter();
        let named = named.filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    assert!(lengths.len() + codings.len() <= 1, "two framings");
    if let (Some(length), [text]) = (length, lengths.as_slice()) {
        assert_eq!(std::str::from_utf8(text).unwrap().trim().parse(), Ok(length));
    }
    let hosts = values("host");
    assert!(hosts.len() <= 1, "two hosts");
    for text in hosts.into_iter().filter_map(|host| std::str::from_utf8(host).ok()) {
        if let Some((host, port)) = authority(text) {
            assert_eq!(authority(&shown(&host, port)), Some((host, port)));
        }
    }
});

fn shown(host: &str, port: Option<u16>) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    port.map_or(host.clone(), |port| format!("{host}:{port}"))
}

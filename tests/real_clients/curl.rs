//! curl: every version of HTTP and every way through the gate, with content that must come through unchanged.

use std::io::Write;
use std::process::{Command, Stdio};

use hyper::body::Bytes;
use hyper::{Response, StatusCode};

use crate::cli::{EVERYONE, Who};
use crate::scene::{NAME, Scene, says};
use crate::tls_origin::{CertKind, OriginSpec, Seen};

/// Bytes without a pattern that a mistake could keep.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    (0..length.div_ceil(8))
        .flat_map(step)
        .take(length)
        .collect()
}

fn answer(status: StatusCode, fields: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut gzip = Command::new("gzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = gzip.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    gzip.wait_with_output().unwrap().stdout
}

/// The ways to one origin: flags, and what the record says of them.
const WAYS: [(&str, &str); 3] = [
    ("", "connect"),
    ("--socks5-hostname 127.0.0.1:8081", "socks5"),
    ("-x http://127.0.0.1:3128", "connect"),
];

#[test]
fn both_versions_of_http_through_every_proxy_are_judged_inside_tls() {
    for who in EVERYONE {
        for (way, transport) in WAYS {
            let scene = Scene::new(who, "", "methods = ['GET']\npaths = ['/open/**']");
            let (open, closed) = (scene.url("/open/a"), scene.url("/closed"));
            let script = format!(
                "for version in --http1.1 --http2; do \
                 curl -sS {way} $version -o body -w '%{{http_version}} %{{http_code}}\\n' {open}; \
                 curl -sS {way} $version -o body -w '%{{http_version}} %{{http_code}} ' {closed}; \
                 sed -n 's/.*\"code\":\"\\([a-z_]*\\)\".*/\\1/p' body; echo; \
                 done; \
                 curl -sS {way} https://other.test:{port}/ || echo $?",
                port = scene.origin.port()
            );
            let run = scene.run(&["sh", "-c", &script]);
            // What curl says of a proxy that refuses.
            let refused = if transport == "socks5" { 97 } else { 56 };
            says(
                &run,
                &format!(
                    "1.1 200\n1.1 403 path_not_allowed\n2 200\n2 403 path_not_allowed\n{refused}\n"
                ),
            );
            let judged = ["allow GET /open/a", "deny GET /closed path_not_allowed"];
            assert_eq!(
                scene.inspected(),
                [judged, judged].concat(),
                "{who:?} {way}"
            );
            let last = format!(
                "deny {transport} other.test:{} host_not_allowed",
                scene.origin.port()
            );
            assert_eq!(scene.decisions().last(), Some(&last));
            assert_eq!(scene.reached(), ["GET /open/a"; 2]);
            assert!(scene.names.asked().iter().all(|name| name == NAME));
        }
    }
}

#[test]
fn large_content_comes_through_inspection_unchanged_in_both_directions_and_versions() {
    let (up, down) = (noise(5 << 20), noise(20 << 20));
    let scene = Scene::new(Who::User, "", "paths = ['/body']");
    let file = scene.install.work().join("up");
    std::fs::write(&file, &up).unwrap();
    let script = format!(
        "for version in --http1.1 --http2; do \
         curl -sS $version --data-binary @up -H 'Expect:' -o $version.body -w '%{{http_version}} ' {url}; \
         curl -sS $version -T - -H 'Expect:' -o $version.chunks -w '%{{http_version}} ' {url} <up; \
         done",
        url = scene.url("/body")
    );
    says(&scene.run(&["sh", "-c", &script]), "1.1 1.1 2 2 ");
    for name in [
        "--http1.1.body",
        "--http1.1.chunks",
        "--http2.body",
        "--http2.chunks",
    ] {
        let back = std::fs::read(scene.install.work().join(name)).unwrap();
        assert!(back == up, "{name}: {} bytes", back.len());
    }
    // The answer is heard although nobody takes the content.
    let script = format!(
        "for version in --http1.1 --http2; do \
         curl -sS $version --data-binary @up -o body -w '%{{http_code}} ' {url}; done",
        url = scene.url("/closed")
    );
    says(&scene.run(&["sh", "-c", &script]), "403 403 ");
    // Of unknown length, one was chunked and the other ended by its frames.
    let seen = scene.origin.seen();
    let lengths = seen.iter().map(|seen| seen.header("content-length"));
    let known = Some("5242880");
    assert_eq!(lengths.collect::<Vec<_>>(), [known, None, known, None]);

    let content = Bytes::from(down.clone());
    let origin = OriginSpec::new(NAME).answer(move |_| Response::new(content.clone()));
    let scene = Scene::before(Who::User, origin, "", "");
    let script = format!(
        "curl -sS --http1.1 -o one {url} && curl -sS --http2 -o two {url}",
        url = scene.url("/down")
    );
    says(&scene.run(&["sh", "-c", &script]), "");
    for name in ["one", "two"] {
        let back = std::fs::read(scene.install.work().join(name)).unwrap();
        assert!(back == down, "{name}: {} bytes", back.len());
    }
}

#[test]
fn a_client_that_waits_for_100_is_told_to_go_on_or_is_refused_before_it_sends() {
    for cert in [CertKind::Good, CertKind::Plain] {
        let origin = OriginSpec::new(NAME).cert(cert);
        let rule = "methods = ['POST']\npaths = ['/body']";
        let scene = Scene::before(Who::User, origin, "", rule);
        let (open, closed) = (scene.url("/body"), scene.url("/closed"));
        let curl = "curl -sS --http1.1 -v -H 'Expect: 100-continue' --expect100-timeout 30 -d word";
        let run = scene.run(&["sh", "-c", &format!("{curl} {open}")]);
        says(&run, "word");
        assert!(run.stderr.contains("< HTTP/1.1 100 Continue"), "{run:#?}");
        let script = format!("{curl} -o body -w '%{{http_code}} %{{size_upload}}' {closed}");
        let run = scene.run(&["sh", "-c", &script]);
        says(&run, "403 0");
        assert!(!run.stderr.contains("100 Continue"), "{run:#?}");
        assert_eq!(scene.reached(), ["POST /body"], "{cert:?}");
    }
}

#[test]
fn heads_ranges_and_compressed_content_are_the_origins_own() {
    let packed = gzip("unpacked\n");
    for cert in [CertKind::Good, CertKind::Plain] {
        let packed = packed.clone();
        let origin = OriginSpec::new(NAME).cert(cert).answer(move |seen: &Seen| {
            let range = seen.header("range").unwrap_or_default();
            match (seen.path.as_str(), seen.method.as_str(), range) {
                ("/file", "HEAD", _) => answer(StatusCode::OK, &[("content-length", "10")], ""),
                ("/file", "GET", "bytes=2-5") => answer(
                    StatusCode::PARTIAL_CONTENT,
                    &[("content-range", "bytes 2-5/10")],
                    "2345",
                ),
                ("/file", "GET", "") => answer(StatusCode::OK, &[], "0123456789"),
                ("/packed", "GET", "") if seen.header("accept-encoding").is_some() => answer(
                    StatusCode::OK,
                    &[("content-encoding", "gzip")],
                    packed.clone(),
                ),
                _ => answer(StatusCode::BAD_REQUEST, &[], ""),
            }
        });
        let rule = "methods = ['GET', 'HEAD']\npaths = ['/file', '/packed']";
        let scene = Scene::before(Who::User, origin, "", rule);
        let (file, packed) = (scene.url("/file"), scene.url("/packed"));
        let told = "%{http_code} %header{content-length} %header{content-range}\\n";
        let closed = scene.url("/closed");
        let script = format!(
            "curl -sS -I -o head -w '{told}' {file}; \
             curl -sS -r 2-5 -w ' {told}' {file}; \
             curl -sS -w ' {told}' {file}; \
             curl -sS --compressed {packed}; \
             curl -sS -I -o head -w '%{{http_code}} %header{{x-portcullis-denied}}\\n' {closed}; \
             curl -sS -r 2-5 -o body -w '%{{http_code}} %header{{x-portcullis-denied}}\\n' {closed}"
        );
        let run = scene.run(&["sh", "-c", &script]);
        says(
            &run,
            "200 10 \n2345 206 4 bytes 2-5/10\n0123456789 200 10 \nunpacked\n\
             403 path_not_allowed\n403 path_not_allowed\n",
        );
        assert_eq!(scene.reached().len(), 4);
    }
}

#[test]
fn a_head_beyond_the_limit_is_refused_and_nothing_of_it_reaches_the_origin() {
    for (cert, version) in [
        (CertKind::Good, "--http1.1"),
        (CertKind::Good, "--http2"),
        (CertKind::Plain, "--http1.1"),
    ] {
        // Its library takes shorter heads over HTTP/2.
        let origin = OriginSpec::new(NAME).cert(cert).alpn(&["http/1.1"]);
        let limit = "limits = { head_bytes = 32768 }";
        let scene = Scene::before(Who::User, origin, limit, "");
        let url = scene.url("/x");
        let script = format!(
            "long() {{ head -c $1 /dev/zero | tr '\\0' x; }}; \
             curl -sS {version} -o body -w '%{{http_code}}\\n' -H \"X-Long: $(long 10000)\" {url}; \
             curl -sS {version} -o body -w '%{{http_code}}' -H \"X-Long: $(long 40000)\" {url}"
        );
        let run = scene.run(&["sh", "-c", &script]);
        // The library of HTTP/2 refuses it by itself, in words of its own.
        let status = if version == "--http2" { 431 } else { 400 };
        says(&run, &format!("200\n{status}"));
        assert_eq!(scene.refusals(), ["malformed"], "{cert:?} {version}");
        assert_eq!(scene.reached(), ["GET /x"], "{cert:?} {version}");
    }
}

#[test]
fn plain_http_is_of_version_1_alone_and_says_so_at_once() {
    for who in EVERYONE {
        let origin = OriginSpec::new(NAME).cert(CertKind::Plain).http();
        let scene = Scene::before(who, origin, "transparent = true", "methods = ['GET']");
        let url = scene.url("/x");
        // An offer to change over ends at the gate: it is answered in version 1.1.
        let script = format!(
            "for way in '' '-x http://127.0.0.1:3128'; do \
             curl -sS $way --http2 -o body -w '%{{http_version}} %{{http_code}}\\n' {url}; done; \
             printf 'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' | nc.openbsd 127.0.0.1 3128 >&2; \
             curl -sS -m 20 --http2-prior-knowledge -o body -w '%{{http_code}}' {url} || echo ' failed'"
        );
        let run = scene.run_bare(&["sh", "-c", &script]);
        says(&run, "1.1 200\n1.1 200\n000 failed\n");
        // Not by a time-out.
        assert!(!run.stderr.contains("curl: (28)"), "{run:#?}");
        let head = "HTTP/1.1 400 Bad Request\r\n";
        assert!(run.stderr.starts_with(head), "{run:#?}");
        assert_eq!(scene.refusals(), ["malformed"; 2]);
        assert_eq!(scene.reached(), ["GET /x", "GET /x"]);
    }
}

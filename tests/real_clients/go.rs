//! A Go program that knows nothing of proxies or of the session's CA.

use std::path::PathBuf;
use std::process::Command;

use crate::cli::EVERYONE;
use crate::scene::{NAME, Scene, says};
use crate::tls_origin::{CertKind, OriginSpec};

const PROGRAM: &str = r#"package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
)

func main() {
	for _, url := range os.Args[1:] {
		answer, err := http.Post(url, "text/plain", strings.NewReader("word"))
		var unresolved *net.DNSError
		if errors.As(err, &unresolved) {
			fmt.Println("no such name")
		} else if err != nil {
			fmt.Println(err)
		} else {
			fmt.Println(answer.Proto, answer.StatusCode, answer.Header.Get("x-portcullis-denied"))
			answer.Body.Close()
		}
	}
}
"#;

/// Compiles it, with what earlier runs have left.
fn compile() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("go");
    std::fs::create_dir_all(&folder).unwrap();
    let (source, program) = (folder.join("fetch.go"), folder.join("fetch"));
    std::fs::write(&source, PROGRAM).unwrap();
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([&program, &source])
        .env("GOCACHE", folder.join("cache"))
        .env("GO111MODULE", "off")
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    program
}

#[test]
fn it_speaks_plainly_and_inside_tls_without_a_proxy_and_hears_of_refusals() {
    let program = compile();
    for who in EVERYONE {
        for (cert, version) in [(CertKind::Good, "HTTP/2.0"), (CertKind::Plain, "HTTP/1.1")] {
            let origin = OriginSpec::new(NAME).cert(cert);
            let plain = cert == CertKind::Plain;
            // Without a proxy, HTTP is read on port 80 and inside TLS; on another port it is a tunnel's.
            let tunnel = format!("transparent = true\n[network.tls]\n'{NAME}' = 'tunnel'");
            let (network, rule) = match cert {
                CertKind::Plain => (tunnel.as_str(), ""),
                _ => ("transparent = true", "paths = ['/open/**']"),
            };
            let scene = Scene::before(who, origin, network, rule);
            std::fs::copy(&program, scene.install.work().join("fetch")).unwrap();
            let open = scene.url("/open/a");
            let other = open.replace(NAME, "other.test");
            let closed = if plain { &other } else { &scene.url("/closed") };
            let run = scene.run_bare(&["./fetch", &open, closed, &other]);
            let refused = if plain {
                "no such name".to_owned()
            } else {
                format!("{version} 403 path_not_allowed")
            };
            says(&run, &format!("{version} 200 \n{refused}\nno such name\n"));
            assert_eq!(scene.reached(), ["POST /open/a"], "{who:?}");
            if !plain {
                let judged = ["allow POST /open/a", "deny POST /closed path_not_allowed"];
                assert_eq!(scene.inspected(), judged, "{who:?}");
            }
            let first = format!("allow transparent {NAME}:{}", scene.origin.port());
            assert_eq!(scene.decisions().first(), Some(&first));
        }
    }
}

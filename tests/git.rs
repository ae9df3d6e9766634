//! Real git through the gate: a clone over HTTPS from a server under a name, so that CONNECT, the TLS
//! server name and the one DNS query are real; and the refusal of any other host.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;
#[path = "support/dns.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod dns;

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cli::{EVERYONE, Install, Who};
use dns::DnsStub;

const NAME: &str = "git.test";

/// Serves a folder over TLS and prints its port.
const SERVER: &str = "\
import http.server, ssl, sys
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('cert.pem', 'key.pem')
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
";

/// A repository behind HTTPS; the server ends with it.
struct Forge {
    server: Child,
    port: u16,
}

impl Forge {
    fn start(folder: &Path) -> Self {
        let certified = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        std::fs::write(folder.join("cert.pem"), certified.cert.pem()).unwrap();
        std::fs::write(
            folder.join("key.pem"),
            certified.signing_key.serialize_pem(),
        )
        .unwrap();
        let git = "git init -q -b main r && cd r && echo text > file && git add file \
            && git -c user.name=t -c user.email=t@t.test commit -q -m one \
            && cd .. && git clone -q --bare r repository.git \
            && git -C repository.git update-server-info";
        let made = Command::new("sh")
            .args(["-c", git])
            .current_dir(folder)
            .status()
            .unwrap();
        assert!(made.success());
        let mut server = Command::new("python3")
            .args(["-c", SERVER])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            server,
            port: line.trim().parse().unwrap(),
        }
    }
}

impl Drop for Forge {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// A profile that reaches the forge by name and nothing else.
fn profile(install: &Install, forge: &Forge, names: &DnsStub) -> String {
    let text = format!(
        "extends = 'base'\n[[network.rules]]\nhost = '{NAME}'\nports = [{}]\naction = 'allow'\n\
         [network.addresses]\nallow = ['127.0.0.1/32']\n[network.dns]\nservers = ['{}']\n",
        forge.port, names.address
    );
    install.write("profile.toml", &text).display().to_string()
}

#[test]
fn git_clones_over_https_through_the_gate() {
    for who in EVERYONE {
        let install = Install::new(who);
        let folder = tempfile::tempdir().unwrap();
        let forge = Forge::start(folder.path());
        let names = DnsStub::constant(Ipv4Addr::LOCALHOST.into());
        let profile = profile(&install, &forge, &names);
        let authority = std::fs::read_to_string(folder.path().join("cert.pem")).unwrap();
        let authority = install.write("ca.pem", &authority).display().to_string();
        let trust = format!("GIT_SSL_CAINFO={authority}");
        let url = format!("https://{NAME}:{}/repository.git", forge.port);
        let run = install.run(
            &["-p", &profile, "--env", &trust],
            &["git", "clone", "-q", &url, "clone"],
        );
        assert_eq!(run.status, Some(0), "{who:?}: {run:#?}");
        let file = std::fs::read_to_string(install.work().join("clone/file")).unwrap();
        assert_eq!(file, "text\n");
        assert_eq!(
            names
                .asked()
                .into_iter()
                .collect::<std::collections::BTreeSet<_>>(),
            [NAME.to_owned()].into()
        );
    }
}

#[test]
fn git_is_refused_any_other_host_and_nobody_is_asked_for_its_name() {
    let install = Install::new(Who::User);
    let folder = tempfile::tempdir().unwrap();
    let forge = Forge::start(folder.path());
    let names = DnsStub::constant(Ipv4Addr::LOCALHOST.into());
    let profile = profile(&install, &forge, &names);
    let run = install.run(
        &["-p", &profile],
        &["git", "clone", "https://elsewhere.test/x.git"],
    );
    assert_eq!(run.status, Some(128), "{run:#?}");
    assert!(
        run.stderr
            .contains("refused elsewhere.test:443: host_not_allowed"),
        "{run:#?}"
    );
    assert_eq!(names.asked(), Vec::<String>::new());
}

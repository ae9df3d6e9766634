//! Real clients in real jails under a profile that has TLS inspected: each trusts the session's CA without
//! being told to, gets what a rule allows, and is refused what it does not, in the middle of its TLS.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
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

use cli::{EVERYONE, Install, Run, Who};
use dns::DnsStub;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Inspected, and tunnelled.
const NAME: &str = "origin.test";
const PINNED: &str = "pinned.test";

/// Serves the folder `www` over TLS, writes down every request, and prints its port.
const SERVER: &str = "\
import http.server, ssl
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def __init__(self, *arguments):
        super().__init__(*arguments, directory='www')
    def log_request(self, code='-', size='-'):
        with open('requests', 'a') as log:
            log.write(self.command + ' ' + self.path + chr(10))
    def do_POST(self):
        self.rfile.read(int(self.headers.get('content-length', 0)))
        self.send_response(200)
        self.send_header('content-length', '0')
        self.end_headers()
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('cert.pem', 'key.pem')
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
";

/// A package for pip and one for npm, as their registries describe them, and a repository.
const CONTENT: &str = "\
import json, os, subprocess, zipfile
os.makedirs('www/open/simple/thing'); os.makedirs('www/open/npm'); os.makedirs('www/closed')
for folder in 'open', 'closed':
    open(f'www/{folder}/file', 'w').write(folder + chr(10))
wheel = 'thing-1.0-py3-none-any.whl'
with zipfile.ZipFile(f'www/open/simple/thing/{wheel}', 'w') as archive:
    info = 'thing-1.0.dist-info/'
    archive.writestr('thing.py', '')
    archive.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: thing\\nVersion: 1.0\\n')
    archive.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    archive.writestr(info + 'RECORD', '')
open('www/open/simple/thing/index.html', 'w').write(f'<a href=\"{wheel}\">{wheel}</a>')
version = {'name': 'thing', 'version': '1.2.3', 'dist': {'tarball': 'https://origin.test/thing.tgz', 'shasum': '0' * 40}}
open('www/open/npm/thing', 'w').write(json.dumps(
    {'name': 'thing', 'dist-tags': {'latest': '1.2.3'}, 'versions': {'1.2.3': version}}))
subprocess.run('git init -q -b main r && cd r && echo text > file && git add file'
    ' && git -c user.name=t -c user.email=t@t.test commit -q -m one && cd ..'
    ' && git clone -q --bare r www/open/repository.git'
    ' && git -C www/open/repository.git update-server-info', shell=True, check=True)
";

/// Fetches the URLs of its arguments and prints status and body of each.
const JAVA: &str = "\
public class Fetch {
    public static void main(String[] urls) throws Exception {
        for (String url : urls) {
            var request = (javax.net.ssl.HttpsURLConnection) java.net.URI.create(url).toURL().openConnection();
            int status = request.getResponseCode();
            System.out.print(status + \" \");
            var body = status < 400 ? request.getInputStream() : request.getErrorStream();
            System.out.write(body.readAllBytes());
            System.out.flush();
        }
    }
}
";

/// The origin; ends with it.
struct Origin {
    server: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Origin {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        certify(folder.path());
        let python = |script: &str| {
            let mut python = Command::new("python3");
            python.args(["-c", script]).current_dir(folder.path());
            python
        };
        assert!(python(CONTENT).status().unwrap().success());
        let mut server = python(SERVER)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let port = line.trim().parse().unwrap();
        Self {
            server,
            folder,
            port,
        }
    }

    /// What it was asked for, in order.
    fn requests(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("requests")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// A CA that only this origin has, and a certificate under it.
fn certify(folder: &Path) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name
        .push(DnType::CommonName, "The Origin's CA");
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let names = [NAME.to_owned(), PINNED.to_owned()];
    let leaf = CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &Issuer::new(ca, ca_key))
        .unwrap();
    for (name, text) in [
        ("ca.pem", ca_pem),
        ("cert.pem", leaf.pem()),
        ("key.pem", key.serialize_pem()),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

/// An origin, a name server and an installation with a profile for both.
struct Scene {
    install: Install,
    origin: Origin,
    profile: String,
    _names: DnsStub,
}

impl Scene {
    fn new(who: Who) -> Self {
        let install = Install::new(who);
        let origin = Origin::start();
        let names = DnsStub::constant(Ipv4Addr::LOCALHOST.into());
        let ca = std::fs::read_to_string(origin.folder.path().join("ca.pem")).unwrap();
        install.write("home/origin-ca.pem", &ca);
        let text = format!(
            "[network]\nmitm = true\nextra_ca = ['~/origin-ca.pem']\n\
             [network.tls]\n'{PINNED}' = 'tunnel'\n\
             [[network.rules]]\nhost = '{NAME}'\nports = [{port}]\nmethods = ['GET', 'HEAD']\n\
             paths = ['/open/**']\naction = 'allow'\n\
             [[network.rules]]\nhost = '{PINNED}'\nports = [{port}]\naction = 'allow'\n\
             [network.addresses]\nallow = ['127.0.0.1/32']\n[network.dns]\nservers = ['{dns}']\n",
            port = origin.port,
            dns = names.address,
        );
        let profile = install.write("profile.toml", &text).display().to_string();
        Self {
            install,
            origin,
            profile,
            _names: names,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{NAME}:{}{path}", self.origin.port)
    }

    fn run(&self, command: &[&str]) -> Run {
        self.install.run(&["-p", &self.profile], command)
    }

    /// The command succeeds and says this.
    #[track_caller]
    fn says(&self, command: &[&str], expected: &str) {
        let run = self.run(command);
        assert_eq!(
            (run.status, run.stdout.as_str()),
            (Some(0), expected),
            "{run:#?}"
        );
        assert_ne!(self.inspected("allow"), 0, "no request was seen inside TLS");
        self.only_reads_of_open();
    }

    /// How many requests inside TLS were judged so.
    fn inspected(&self, verdict: &str) -> usize {
        let decided = self.install.events("egress.decided");
        decided
            .iter()
            .filter(|record| record["transport"] == "inspected" && record["verdict"] == verdict)
            .count()
    }

    /// Nothing that the policy refuses has come to the origin.
    #[track_caller]
    fn only_reads_of_open(&self) {
        for request in self.origin.requests() {
            let read = request.starts_with("GET /open/") || request.starts_with("HEAD /open/");
            assert!(read, "{request}");
        }
    }
}

// D17
#[test]
fn curl_gets_what_is_allowed_and_a_403_for_the_rest_in_every_mode() {
    for who in EVERYONE {
        for mode in ["read-only", "workspace-write", "danger-full-access"] {
            let scene = Scene::new(who);
            let (open, closed) = (scene.url("/open/file"), scene.url("/closed/file"));
            let script = format!(
                "curl -sS {open} && curl -sS -o /dev/null -w '%{{http_code}} ' -d x {open} \
                 && curl -sS -o /dev/null -w '%{{http_code}} ' {closed} \
                 && env -u CURL_CA_BUNDLE -u SSL_CERT_FILE curl -sS {open}"
            );
            let flags = ["-p", &scene.profile, "--mode", mode];
            let run = scene.install.run(&flags, &["sh", "-c", &script]);
            assert_eq!(
                (run.status, run.stdout.as_str()),
                (Some(0), "open\n403 403 open\n"),
                "{who:?} {mode}: {run:#?}"
            );
            assert_eq!((scene.inspected("allow"), scene.inspected("deny")), (2, 2));
            assert_eq!(scene.origin.requests(), ["GET /open/file"; 2]);
        }
    }
}

#[test]
fn wget_trusts_the_systems_bundle() {
    let scene = Scene::new(Who::User);
    scene.says(&["wget", "-qO-", &scene.url("/open/file")], "open\n");
    let run = scene.run(&["wget", "-O-", &scene.url("/closed/file")]);
    assert_eq!(run.status, Some(8), "{run:#?}");
    assert!(run.stderr.contains("ERROR 403"), "{run:#?}");
    assert_eq!(scene.inspected("deny"), 1);
    scene.only_reads_of_open();
}

// D17
#[test]
fn git_clones() {
    for who in EVERYONE {
        let scene = Scene::new(who);
        let url = scene.url("/open/repository.git");
        scene.says(&["git", "clone", "-q", &url, "clone"], "");
        let file = scene.install.work().join("clone/file");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "text\n");
    }
}

// D17
#[test]
fn python_reads_with_its_own_library() {
    let scene = Scene::new(Who::User);
    let script = "\
import sys, urllib.request, urllib.error
print(urllib.request.urlopen(sys.argv[1]).read().decode(), end='')
try: urllib.request.urlopen(sys.argv[1], data=b'x')
except urllib.error.HTTPError as refused: print(refused.code)
";
    let url = scene.url("/open/file");
    scene.says(&["/usr/bin/python3", "-c", script, &url], "open\n403\n");
    assert_eq!(scene.inspected("deny"), 1);
}

// D17
#[test]
fn pip_downloads_from_an_index() {
    let scene = Scene::new(Who::User);
    let index = scene.url("/open/simple/");
    let command = [
        "/usr/bin/pip",
        "download",
        "-q",
        "--no-deps",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--index-url",
        &index,
        "thing",
    ];
    let run = scene.run(&command);
    assert_eq!(run.status, Some(0), "{run:#?}");
    let wheel = scene.install.work().join("thing-1.0-py3-none-any.whl");
    assert!(wheel.is_file(), "{run:#?}");
    scene.only_reads_of_open();
}

/// Node before version 24 does not go by the proxy variables: the script asks for the tunnel itself, and
/// leaves trust to Node.
const NODE: &str = "\
const http = require('http'), https = require('https'), tls = require('tls');
const url = new URL(process.argv[1]), proxy = new URL(process.env.HTTPS_PROXY);
const ask = (method) => new Promise((done, failed) => {
    const { hostname: host, port } = proxy;
    const headers = { host: url.host };
    http.request({ host, port, method: 'CONNECT', path: url.host, headers }).on('error', failed).on('connect', (_, socket) => {
        const agent = new https.Agent();
        agent.createConnection = () => tls.connect({ socket, servername: url.hostname });
        https.request(url, { method, agent }, (answer) => {
            let text = '';
            answer.on('data', (part) => { text += part; });
            answer.on('end', () => done([answer.statusCode, text]));
        }).on('error', failed).end();
    }).end();
});
(async () => {
    const [status, text] = await ask('GET');
    process.stdout.write(status + ' ' + text);
    console.log((await ask('POST'))[0]);
    process.exit(0);
})();
";

// D17
#[test]
fn node_reads_with_the_session_ca_beside_its_own() {
    let scene = Scene::new(Who::User);
    let url = scene.url("/open/file");
    scene.says(&["node", "-e", NODE, &url], "200 open\n403\n");
    assert_eq!(scene.inspected("deny"), 1);
}

#[test]
fn npm_views_a_package() {
    let scene = Scene::new(Who::User);
    let registry = scene.url("/open/npm/");
    let command = ["npm", "view", "--registry", &registry, "thing", "version"];
    scene.says(&command, "1.2.3\n");
}

// D17
#[test]
fn java_reads_with_its_own_key_store() {
    let scene = Scene::new(Who::User);
    scene.install.write("work/Fetch.java", JAVA);
    let (open, closed) = (scene.url("/open/file"), scene.url("/closed/file"));
    let run = scene.run(&["java", "Fetch.java", &open, &closed]);
    assert_eq!(run.status, Some(0), "{run:#?}");
    assert!(run.stdout.starts_with("200 open\n403 "), "{run:#?}");
    scene.only_reads_of_open();
}

// D18
#[test]
fn a_tunnelled_name_shows_the_origins_own_certificate_and_an_inspected_one_the_sessions() {
    let scene = Scene::new(Who::User);
    let connect = |name: &str, trust: &str| {
        let script = format!(
            "openssl s_client -proxy 127.0.0.1:3128 -connect {name}:{} -servername {name} \
             -verify_hostname {name} -verify_return_error {trust} </dev/null",
            scene.origin.port
        );
        let run = scene.run(&["sh", "-c", &script]);
        assert_eq!(run.status, Some(0), "{run:#?}");
        let issuer = run.stdout.lines().find(|line| line.starts_with("issuer="));
        issuer.unwrap().to_owned()
    };
    // The bundle has the origin's CA too: what it is signed by is the difference.
    let bundle = "-CAfile \"$SSL_CERT_FILE\"";
    assert!(connect(PINNED, bundle).contains("The Origin's CA"));
    let inspected = connect(NAME, "-CAfile \"$NODE_EXTRA_CA_CERTS\"");
    assert!(!inspected.contains("The Origin's CA"), "{inspected}");
}

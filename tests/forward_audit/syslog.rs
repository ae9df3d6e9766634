//! A real rsyslog, over TCP and TLS, that dies and comes back.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::scene::{Running, Scene, free_port, repeats_only_at_seams, seqs, wait_for};

struct Rsyslog<'a> {
    scene: &'a Scene,
    port: u16,
}

impl Rsyslog<'_> {
    /// Starts one that writes each message's structured data and text as a line; `global` and `module` set up TLS.
    fn start(&self, global: &str, module: &str) -> Running {
        let config = format!(
            r#"global(workDirectory="{work}" maxMessageSize="256k")
{global}
module(load="imtcp" {module})
input(type="imtcp" port="{port}" address="127.0.0.1")
template(name="whole" type="string" string="%pri% %app-name% %msgid% %structured-data% %msg%\n")
action(type="omfile" file="{out}" template="whole")
"#,
            work = self.scene.path("").display(),
            port = self.port,
            out = self.out().display(),
        );
        let path = self.scene.path("rsyslog.conf");
        fs::write(&path, config).unwrap();
        let mut command = Command::new("/usr/sbin/rsyslogd");
        command
            .args(["-n", "-f"])
            .arg(&path)
            .arg("-i")
            .arg(self.scene.path("rsyslog.pid"));
        let quiet = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let running = Running(quiet.spawn().unwrap());
        wait_for("rsyslog to listen", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
        running
    }

    fn out(&self) -> PathBuf {
        self.scene.path("received")
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read(self.out()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole.map(str::to_owned).collect()
    }

    fn records(&self) -> Vec<String> {
        let lines = self.lines().into_iter();
        let records =
            lines.filter_map(|line| Some(line[line.find("] {")? + 2..].trim().to_owned()));
        records.collect()
    }
}

#[test]
fn nothing_is_lost_when_rsyslog_dies_and_comes_back() {
    let port = free_port();
    let scene = Scene::new(&format!(
        "[[forward]]\nname = \"siem\"\nkind = \"syslog\"\naddress = \"tcp://127.0.0.1:{port}\"\n"
    ));
    let rsyslog = Rsyslog {
        scene: &scene,
        port,
    };
    let mut first = rsyslog.start("", "");
    let (mut alice, mut bob) = (scene.session("alice"), scene.session("bob"));
    alice.denials(700);
    bob.denials(5);
    let forward = scene.start();
    wait_for("the first records", || {
        (seqs(&rsyslog.records(), alice.id).len() >= 700).then_some(())
    });
    alice.denials(100);
    first.kill();
    alice.denials(300);
    wait_for("the failure to be told", || {
        scene.said().contains("siem: ").then_some(())
    });
    let _second = rsyslog.start("", "");
    bob.denials(5);
    alice.end();
    wait_for("the rest", || {
        let records = rsyslog.records();
        let all = seqs(&records, alice.id).contains(&1101) && seqs(&records, bob.id).contains(&10);
        all.then_some(())
    });
    let records = rsyslog.records();
    repeats_only_at_seams(&seqs(&records, alice.id), 1101, 2);
    repeats_only_at_seams(&seqs(&records, bob.id), 10, 2);
    let line = rsyslog.lines().remove(0);
    let (head, _) = line.split_once(" {").unwrap();
    let begins = format!(
        "109 portcullis egress.decided [portcullis@32473 session=\"{}\"",
        alice.id
    );
    assert!(head.starts_with(&begins), "{head}");
    drop(forward);

    // What has settled is not sent again by the next process.
    let before = rsyslog.lines().len();
    assert_eq!(scene.once(), (0, String::new()));
    let after_seam = rsyslog.lines().len();
    assert_eq!(scene.once(), (0, String::new()));
    assert_eq!(rsyslog.lines().len(), after_seam, "{before} lines before");
}

#[test]
fn rsyslog_gets_records_over_tls_from_whoever_trusts_it() {
    let port = free_port();
    let scene = Scene::new("");
    let config = |ca: &str| {
        format!(
            "[[forward]]\nname = \"siem\"\nkind = \"syslog\"\naddress = \"tls://localhost:{port}\"\nca = \"{}\"\nformat = \"ocsf\"\n",
            scene.path(ca).display()
        )
    };
    for name in ["ca", "other"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(scene.path(name), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        fs::write(scene.path(&format!("{name}.cert")), certificate.pem()).unwrap();
        fs::write(scene.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let rsyslog = Rsyslog {
        scene: &scene,
        port,
    };
    let file = |name: &str| scene.path(name).display().to_string();
    let global = format!(
        r#"global(defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{}" defaultNetstreamDriverCertFile="{}" defaultNetstreamDriverKeyFile="{}")"#,
        file("ca"),
        file("ca.cert"),
        file("ca.key"),
    );
    let module = r#"streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon""#;
    let _rsyslog = rsyslog.start(&global, module);
    let mut session = scene.session("alice");
    session.denials(20);
    session.end();
    scene.configure(&config("other"));
    let (code, said) = scene.once();
    assert_eq!(code, 1);
    assert!(
        said.contains("siem: TLS: invalid peer certificate"),
        "{said}"
    );
    assert_eq!(rsyslog.lines(), Vec::<String>::new());

    scene.configure(&config("ca"));
    assert_eq!(scene.once(), (0, String::new()));
    let events = wait_for("the records", || {
        let events = rsyslog.records();
        (events.len() >= 21).then_some(events)
    });
    let event: serde_json::Value = serde_json::from_str(&events[3]).unwrap();
    assert_eq!(event["type_uid"], 400_105);
    assert_eq!(event["metadata"]["uid"], format!("{}:4", session.id));
    assert_eq!(events.len(), 21);
}

#[test]
fn a_receiver_that_is_down_holds_up_nobody_else() {
    let port = free_port();
    let scene = Scene::new("");
    let anchor = scene.path("copy.sock");
    let journal = std::os::unix::net::UnixDatagram::bind(&anchor).unwrap();
    scene.configure(&format!(
        "[[forward]]\nname = \"down\"\nkind = \"syslog\"\naddress = \"tcp://127.0.0.1:{port}\"\n\
         [[forward]]\nname = \"up\"\nkind = \"journald\"\naddress = \"{}\"\n",
        anchor.display()
    ));
    let mut session = scene.session("alice");
    session.denials(1);
    let _forward = scene.start();
    let mut bytes = [0; 8192];
    let mut received = || journal.recv(&mut bytes).unwrap();
    journal
        .set_read_timeout(Some(super::scene::PATIENCE))
        .unwrap();
    assert!(received() > 0);
    wait_for("the failure to be told", || {
        scene
            .said()
            .contains("forward: down: Connection refused")
            .then_some(())
    });
    session.denials(1);
    assert!(received() > 0);
    assert!(!scene.said().contains("up:"), "{}", scene.said());
}

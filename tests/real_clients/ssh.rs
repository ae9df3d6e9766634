//! OpenSSH, and git over it: bare TCP by a rule that says so, without a proxy and through one.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::cli::{EVERYONE, Install, Run, Who};
use crate::dns::DnsStub;
use crate::forge::Forge;
use crate::scene::{decisions, only};

const HOST: &str = "forge.test";

struct Scene {
    install: Install,
    forge: Forge,
    names: DnsStub,
    profile: String,
}

impl Scene {
    fn new(who: Who, transparent: bool) -> Self {
        let forge = Forge::start();
        let names = only(HOST, forge.address.into());
        let install = Install::new(who);
        let key = install.write("work/key", &forge.user_key());
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
        install.write("work/known", &forge.known_as("*"));
        let text = format!(
            "[network]\ntransparent = {transparent}\n\
             [[network.rules]]\nhost = '{HOST}'\nports = [22]\nprotocol = 'tcp'\naction = 'allow'\n\
             [network.addresses]\nallow = ['127.0.0.0/8']\n[network.dns]\nservers = ['{}']\n",
            names.address
        );
        let profile = install.write("profile.toml", &text).display().to_string();
        Self {
            install,
            forge,
            names,
            profile,
        }
    }

    /// Clones the forge's repository from where `authority` says, into a folder.
    fn clone(&self, authority: &str, proxy: Option<&str>, into: &str) -> Run {
        let work = self.install.work();
        let proxy = proxy.map_or_else(String::new, |command| {
            format!("-o 'ProxyCommand {command}'")
        });
        let ssh = format!(
            "GIT_SSH_COMMAND=ssh -F none -i {work}/key -o UserKnownHostsFile={work}/known \
             -o StrictHostKeyChecking=yes -o BatchMode=yes {proxy}",
            work = work.display()
        );
        let url = self.forge.url(authority);
        let flags = ["-p", &self.profile, "--env", &ssh];
        self.install
            .run(&flags, &["git", "clone", "-q", &url, into])
    }

    #[track_caller]
    fn has_cloned(&self, run: &Run) {
        assert_eq!(run.status, Some(0), "{run:#?} {}", self.forge.log());
        let file = self.install.work().join("clone/file");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "text\n");
        let log = self.forge.log();
        assert!(log.contains("Accepted publickey for git"), "{log}");
    }

    /// git says that it failed, and did not wait for a time-out.
    #[track_caller]
    fn fails(&self, authority: &str, proxy: Option<&str>, word: &str) {
        let start = Instant::now();
        let run = self.clone(authority, proxy, "none");
        assert_eq!(run.status, Some(128), "{run:#?}");
        assert!(run.stderr.contains(word), "{run:#?}");
        // connect(2) gives up after two minutes (tcp(7), tcp_syn_retries).
        assert!(start.elapsed() < Duration::from_mins(1), "{run:#?}");
    }
}

#[test]
fn git_clones_over_ssh_without_a_proxy_and_no_other_host_port_or_address() {
    for who in EVERYONE {
        let scene = Scene::new(who, true);
        scene.has_cloned(&scene.clone(HOST, None, "clone"));
        let before = scene.forge.log().matches("Connection from").count();
        scene.fails("other.test", None, "Could not resolve hostname other.test");
        scene.fails("forge.test:2222", None, "Could not read from remote");
        // The very address that the name has.
        let literal = scene.forge.address.to_string();
        scene.fails(&literal, None, "Could not read from remote");
        scene.fails("192.0.2.22", None, "Could not read from remote");
        assert_eq!(
            decisions(&scene.install),
            [
                "allow transparent forge.test:22",
                "deny transparent forge.test:2222 port_not_allowed",
                "deny transparent 192.0.2.22:22 host_not_allowed",
            ],
            "{who:?}"
        );
        assert_eq!(scene.forge.log().matches("Connection from").count(), before);
        let asked = scene.names.asked();
        assert!(asked.iter().all(|name| name == HOST), "{asked:?}");
        let closed = scene.install.events("egress.closed");
        assert_eq!(closed.len(), 1);
        assert!(closed[0]["bytes_up"].as_u64().unwrap() > 0, "{closed:?}");
    }
}

#[test]
fn git_clones_over_ssh_through_socks_and_connect_with_netcat_as_its_proxy_command() {
    for (kind, port, transport) in [("5", 8081, "socks5"), ("connect", 3128, "connect")] {
        let scene = Scene::new(Who::User, false);
        let netcat = format!("nc.openbsd -X {kind} -x 127.0.0.1:{port} %h %p");
        scene.has_cloned(&scene.clone(HOST, Some(&netcat), "clone"));
        let refused = "Could not read from remote";
        scene.fails("other.test", Some(&netcat), refused);
        scene.fails("forge.test:2222", Some(&netcat), refused);
        // And without the proxy there is no network at all.
        scene.fails(HOST, None, "Could not resolve hostname");
        assert_eq!(
            decisions(&scene.install),
            [
                format!("allow {transport} forge.test:22"),
                format!("deny {transport} other.test:22 host_not_allowed"),
                format!("deny {transport} forge.test:2222 port_not_allowed"),
            ]
        );
    }
}

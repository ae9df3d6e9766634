//! An origin, a name server that knows it alone, and an installation with a profile for it.

use std::net::IpAddr;

use serde_json::Value;

use crate::cli::{Install, Run, Who};
use crate::dns::{Answer, DnsStub};
use crate::tls_origin::{CertKind, OriginSpec, TlsOrigin};

/// The name of every origin.
pub(crate) const NAME: &str = "origin.test";

/// A command without the variables that name a proxy; those that name the session's CA stay.
const BARE: &str = "unset $(env | sed -n 's/^\\([A-Za-z_]*[Pp][Rr][Oo][Xx][Yy][A-Za-z_]*\\)=.*/\\1/p'); exec \"$@\"";

pub(crate) struct Scene {
    pub(crate) install: Install,
    pub(crate) origin: TlsOrigin,
    pub(crate) names: DnsStub,
    profile: String,
    scheme: &'static str,
}

impl Scene {
    /// An origin that echoes, all TLS looked into. `network` has more lines for `[network]`, `rule` for the
    /// origin's rule.
    pub(crate) fn new(who: Who, network: &str, rule: &str) -> Self {
        Self::before(who, OriginSpec::new(NAME), network, rule)
    }

    pub(crate) fn before(who: Who, spec: OriginSpec, network: &str, rule: &str) -> Self {
        let plain = spec.cert == CertKind::Plain;
        let scheme = if plain { "http" } else { "https" };
        let origin = spec.start();
        let address = origin.addr.ip();
        let names = only(NAME, address);
        let install = Install::new(who);
        install.write("home/origin-ca.pem", &origin.ca_pem);
        let text = format!(
            "[network]\nmitm = true\nextra_ca = ['~/origin-ca.pem']\n{network}\n\
             [[network.rules]]\nhost = '{NAME}'\nports = [{port}]\n{rule}\naction = 'allow'\n\
             [network.addresses]\nallow = ['127.0.0.0/8']\n[network.dns]\nservers = ['{dns}']\n",
            port = origin.port(),
            dns = names.address,
        );
        let profile = install.write("profile.toml", &text).display().to_string();
        Self {
            install,
            origin,
            names,
            profile,
            scheme,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{NAME}:{}{path}", self.scheme, self.origin.port())
    }

    /// Runs a command in a jail.
    pub(crate) fn run(&self, command: &[&str]) -> Run {
        self.run_with(&[], command)
    }

    /// The same with more flags.
    pub(crate) fn run_with(&self, flags: &[&str], command: &[&str]) -> Run {
        let flags = [&["-p", self.profile.as_str()], flags].concat();
        self.install.run(&flags, command)
    }

    /// Runs a command that is told of no proxy.
    pub(crate) fn run_bare(&self, command: &[&str]) -> Run {
        self.run(&[&["sh", "-c", BARE, "sh"], command].concat())
    }

    /// The decisions, as `verdict transport host:port method path reason` with what each has, in order. The
    /// same twice is one: a client that is reset tries the next address of the name.
    pub(crate) fn decisions(&self) -> Vec<String> {
        decisions(&self.install)
    }

    /// The decisions on requests that were seen inside TLS, as `verdict method path reason`.
    pub(crate) fn inspected(&self) -> Vec<String> {
        let target = format!("{NAME}:{} ", self.origin.port());
        let all = self.decisions().into_iter();
        all.filter(|line| line.contains(" inspected "))
            .map(|line| line.replace(&format!("inspected {target}"), ""))
            .collect()
    }

    /// The reasons of what was refused without a decision of its own, in order.
    pub(crate) fn refusals(&self) -> Vec<String> {
        let events = self.install.events("egress.refused");
        let reason = |event: &Value| event["reason"].as_str().unwrap().to_owned();
        events.iter().map(reason).collect()
    }

    /// Method and path of what reached the origin.
    pub(crate) fn reached(&self) -> Vec<String> {
        let seen = self.origin.seen();
        seen.iter()
            .map(|seen| format!("{} {}", seen.method, seen.path))
            .collect()
    }
}

/// A name server that knows one name.
pub(crate) fn only(name: &'static str, address: IpAddr) -> DnsStub {
    DnsStub::start(move |asked, _| {
        let known = asked == name;
        known
            .then_some(Answer::Address(address))
            .into_iter()
            .collect()
    })
}

/// As [`Scene::decisions`].
pub(crate) fn decisions(install: &Install) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = install.events("egress.decided");
    let mut decisions: Vec<String> = events
        .iter()
        .map(|event| {
            let [verdict, transport, host, method, path, reason] =
                ["verdict", "transport", "host", "method", "path", "reason"]
                    .map(|key| text(&event[key]));
            let target = format!("{host}:{}", event["port"]);
            let words = [verdict, transport, target, method, path, reason];
            let said = words.into_iter().filter(|word| !word.is_empty());
            said.collect::<Vec<_>>().join(" ")
        })
        .collect();
    decisions.dedup();
    decisions
}

/// The run succeeds and says this.
#[track_caller]
pub(crate) fn says(run: &Run, expected: &str) {
    let told = (run.status, run.stdout.as_str());
    assert_eq!(told, (Some(0), expected), "{run:#?}");
}

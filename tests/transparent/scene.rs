//! An installation, a name server outside, and a profile with `transparent = true`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::cli::{Install, Run, Who};
use crate::dns::{Answer, DnsStub};

/// A profile and where it is used.
pub(crate) struct Scene {
    pub(crate) install: Install,
    pub(crate) names: DnsStub,
    pub(crate) profile: String,
}

/// A rule of the profile: host, port, protocol.
pub(crate) type Allowed<'a> = (&'a str, u16, &'a str);

impl Scene {
    /// Hosts with their addresses, and what is allowed.
    pub(crate) fn new(who: Who, hosts: &[(&str, IpAddr)], allowed: &[Allowed<'_>]) -> Self {
        Self::with(who, hosts, allowed, "")
    }

    /// The same, with more lines for `[network]`.
    pub(crate) fn with(
        who: Who,
        hosts: &[(&str, IpAddr)],
        allowed: &[Allowed<'_>],
        network: &str,
    ) -> Self {
        let hosts: BTreeMap<String, IpAddr> = hosts
            .iter()
            .map(|(name, address)| ((*name).to_owned(), *address))
            .collect();
        let names = DnsStub::start(move |name, _| {
            let found = hosts.get(name);
            found
                .map(|address| Answer::Address(*address))
                .into_iter()
                .collect()
        });
        let rules: Vec<String> = allowed
            .iter()
            .map(|(host, port, protocol)| {
                let protocol = match *protocol {
                    "" => String::new(),
                    other => format!("protocol = '{other}'\n"),
                };
                format!(
                    "[[network.rules]]\nhost = '{host}'\nports = [{port}]\n{protocol}action = 'allow'\n"
                )
            })
            .collect();
        let rules = rules.concat();
        let text = format!(
            "extends = 'base'\n[network]\ntransparent = true\n{network}\n{rules}\
             [network.addresses]\nallow = ['127.0.0.0/8', '203.0.113.0/24']\n\
             [network.dns]\nservers = ['{}']\n",
            names.address
        );
        let install = Install::new(who);
        let profile = install.write("profile.toml", &text).display().to_string();
        install.write("work/actor.py", include_str!("actor.py"));
        Self {
            install,
            names,
            profile,
        }
    }

    /// Runs a command in a jail, without the variables that name the proxy.
    pub(crate) fn run(&self, command: &[&str]) -> Run {
        let bare = [
            "env",
            "-i",
            "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        ];
        let command = [bare.as_slice(), command].concat();
        self.install.run(&["-p", &self.profile], &command)
    }

    /// Has the acts done in a jail.
    pub(crate) fn act(&self, acts: &Value) -> Vec<Value> {
        let run = self.run(&["/usr/bin/python3", "actor.py", &acts.to_string()]);
        read_answers(&run)
    }

    /// The decisions, as `verdict transport host:port [reason]`, in order. The same twice is one: a name has
    /// two addresses, and a client that is reset before its connect is over tries the other.
    pub(crate) fn decisions(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = self.install.events("egress.decided");
        let mut decisions: Vec<String> = events
            .iter()
            .map(|event| {
                let [verdict, transport, host, reason] =
                    ["verdict", "transport", "host", "reason"].map(|key| text(&event[key]));
                format!("{verdict} {transport} {host}:{} {reason}", event["port"])
                    .trim_end()
                    .to_owned()
            })
            .collect();
        decisions.dedup();
        decisions
    }

    /// What was asked of the gate, as `name kind answer`, in order, without repetitions.
    pub(crate) fn asked(&self) -> Vec<String> {
        let events = self.install.events("dns.asked");
        let mut asked: Vec<String> = Vec::new();
        for event in events {
            let line =
                ["name", "kind", "answer"].map(|key| event[key].as_str().unwrap().to_owned());
            let line = line.join(" ");
            if !asked.contains(&line) {
                asked.push(line);
            }
        }
        asked
    }
}

/// What the actor printed.
pub(crate) fn read_answers(run: &Run) -> Vec<Value> {
    assert_eq!(run.status, Some(0), "{run:?}");
    serde_json::from_str(&run.stdout).unwrap()
}

/// An error that came at once: no time-out. On a loaded machine "at once" is a few seconds.
pub(crate) fn assert_failed(answer: &Value, error: &str) {
    let found = answer["error"].as_str().unwrap_or_default();
    // A reset that is there before the client has said all is told by the next call on the socket.
    let reset = error == "ECONNRESET" && ["ENOTCONN", "EPIPE"].contains(&found);
    assert!(found == error || reset, "{answer}");
    assert!(answer["seconds"].as_u64().unwrap() < 5, "{answer}");
}

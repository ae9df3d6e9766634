//! Holds a profile to the requirements.

use std::fmt;

use super::{NetworkRequirements, Requirements};
use crate::policy::profile::{
    LimitsFloor, NetworkMode, NetworkPolicy, OnFailure, Profile, TlsHandling, Unlisted,
    WebsocketPolicy,
};
use crate::policy::rule::{Effect, HostPattern, Protocol, Rule};
use crate::policy::unix_socket::UnixSocket;

/// Something that a profile grants and the requirements do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The path of the key.
    pub key: String,
    /// What holds now, as "is limited".
    pub what: String,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.what)
    }
}

/// What was taken, in the order of the keys.
struct Cuts(Vec<Cut>);

impl Cuts {
    fn note(&mut self, key: &str, what: impl Into<String>) {
        self.0.push(Cut {
            key: key.to_owned(),
            what: what.into(),
        });
    }

    /// A switch that may be on only where it is permitted.
    fn permit(&mut self, key: &str, switch: &mut bool, permitted: Option<bool>) {
        if *switch && permitted == Some(false) {
            *switch = false;
            self.note(key, "is false");
        }
    }

    /// A value that may be exceeded in one direction.
    fn bound<T: Copy + fmt::Display>(
        &mut self,
        key: &str,
        value: &mut T,
        bound: Option<T>,
        exceeds: fn(&T, &T) -> bool,
    ) {
        if let Some(bound) = bound.filter(|bound| exceeds(value, bound)) {
            *value = bound;
            self.note(key, format!("is {bound}"));
        }
    }

    /// Entries of which some may not be granted.
    fn retain<T>(
        &mut self,
        key: &str,
        list: &mut Vec<T>,
        granted: impl Fn(&T) -> bool,
        name: impl Fn(&T) -> String,
    ) {
        list.retain(|entry| {
            let granted = granted(entry);
            if !granted {
                self.note(key, format!("is without {}", name(entry)));
            }
            granted
        });
    }
}

impl Profile {
    /// Leaves in the profile what the requirements permit, adds what they insist on, and tells what it
    /// took away. What was added without taking anything is not told.
    pub(in crate::policy) fn hold_to(&mut self, required: &Requirements) -> Vec<Cut> {
        let mut cuts = Cuts(Vec::new());
        let files = &mut self.filesystem;
        cuts.bound(
            "filesystem.mode",
            &mut files.mode,
            required.filesystem_mode,
            |mode, most| mode > most,
        );
        for (list, more) in [
            (&mut files.masked, &required.masked),
            (&mut files.protected, &required.protected),
        ] {
            let missing: Vec<_> = more.iter().filter(|path| !list.contains(path)).collect();
            list.extend(missing.into_iter().cloned());
        }
        network(&mut self.network, &required.network, &mut cuts);
        for (resource, most) in self.limits.hold_to(&required.limits) {
            let what = format!("is {}", resource.amount(most));
            cuts.note(&format!("limits.{resource}"), what);
        }
        cuts.bound(
            "isolation.landlock_abi",
            &mut self.isolation.landlock_abi,
            required.landlock_abi,
            |abi, least| abi < least,
        );
        let floor = &mut self.isolation.limits;
        if required.limits_floor == Some(LimitsFloor::Required) && *floor != LimitsFloor::Required {
            *floor = LimitsFloor::Required;
            cuts.note("isolation.limits", "is \"required\"");
        }
        if let Some(durability) = required.audit.durability
            && durability > self.audit.durability
        {
            self.audit.durability = durability;
            cuts.note("audit.durability", "is \"each\"");
        }
        if required.audit.file_changes && !self.audit.file_changes {
            self.audit.file_changes = true;
            cuts.note("audit.file_changes", "is true");
        }
        if required.on_failure(self.audit.on_failure) > self.audit.on_failure {
            self.audit.on_failure = OnFailure::Block;
            cuts.note("audit.on_failure", "is \"block\"");
        }
        cuts.0
    }
}

impl NetworkPolicy {
    /// Leaves in the policy what the requirements permit, as [`Profile`]s are held to them.
    pub fn hold_to(&mut self, required: &Requirements) {
        let own = self.ceiling.take();
        network(self, &required.network, &mut Cuts(Vec::new()));
        // Where the requirements say nothing of hosts, what the policy was held to before still counts.
        if self.ceiling.is_none() {
            self.ceiling = own;
        }
    }
}

fn network(policy: &mut NetworkPolicy, required: &NetworkRequirements, cuts: &mut Cuts) {
    cuts.permit("network.enabled", &mut policy.enabled, required.enabled);
    if required.mode == Some(NetworkMode::Limited) && policy.mode == NetworkMode::Full {
        policy.mode = NetworkMode::Limited;
        cuts.note("network.mode", "is \"limited\"");
    }
    if required.default == Some(Unlisted::Deny) && policy.default == Unlisted::Ask {
        policy.default = Unlisted::Deny;
        cuts.note("network.default", "is \"deny\"");
    }
    if let Some(websocket) = required.websocket
        && policy.websocket == WebsocketPolicy::Allow
        && websocket != WebsocketPolicy::Allow
    {
        policy.websocket = websocket;
        cuts.note("network.websocket", "is not \"allow\"");
    }
    for (key, switch, permitted) in [
        (
            "network.unconfined_tunnels",
            &mut policy.unconfined_tunnels,
            required.unconfined_tunnels,
        ),
        (
            "network.enable_socks5_udp",
            &mut policy.enable_socks5_udp,
            required.enable_socks5_udp,
        ),
        (
            "network.allow_upstream_proxy",
            &mut policy.allow_upstream_proxy,
            required.allow_upstream_proxy,
        ),
    ] {
        cuts.permit(key, switch, permitted);
    }
    if required.mitm == Some(true) {
        inspect(policy, &required.tunnels, cuts);
    }
    lists(policy, required, cuts);
    for kind in policy.budgets.hold_to(&required.budgets) {
        let amount = policy
            .budgets
            .get(kind)
            .map(|budget| kind.amount(budget.max));
        let what = format!("is {}", amount.unwrap_or_default());
        cuts.note(&format!("network.budgets.{kind}"), what);
    }
    policy.ceiling.clone_from(&required.rules);
}

/// What a profile lists, entry by entry.
fn lists(policy: &mut NetworkPolicy, required: &NetworkRequirements, cuts: &mut Cuts) {
    if let Some(ranges) = &required.addresses {
        cuts.retain(
            "network.addresses.allow",
            &mut policy.addresses.allow,
            |range| ranges.iter().any(|outer| outer.contains(range)),
            ToString::to_string,
        );
    }
    if let Some(files) = &required.extra_ca {
        cuts.retain(
            "network.extra_ca",
            &mut policy.extra_ca,
            |file| files.contains(file),
            |file| file.display().to_string(),
        );
    }
    if let Some(hosts) = &required.credentials {
        cuts.retain(
            "network.credentials",
            &mut policy.credentials,
            |credential| hosts.iter().any(|host| host.contains(&credential.host)),
            |credential| credential.name.clone(),
        );
    }
    if let Some(sockets) = &required.unix_sockets {
        policy.unix_sockets.retain(|path, action| {
            let granted = *action == UnixSocket::Deny || sockets.contains(path);
            if !granted {
                let what = format!("is without {}", path.display());
                cuts.note("network.unix_sockets", what);
            }
            granted
        });
    }
}

/// Has all TLS inspected. Bytes of any kind go out unopened, so rules for them go as well.
fn inspect(policy: &mut NetworkPolicy, tunnels: &[HostPattern], cuts: &mut Cuts) {
    let excepted = |host: &HostPattern| tunnels.iter().any(|pattern| pattern.contains(host));
    if !policy.mitm {
        policy.mitm = true;
        cuts.note("network.mitm", "is true");
    }
    policy.tls.retain(|host, handling| {
        let granted = *handling == TlsHandling::Inspect || excepted(host);
        if !granted {
            cuts.note("network.tls", format!("is without \"{host}\" = \"tunnel\""));
        }
        granted
    });
    let opaque = |rule: &Rule| rule.effect != Effect::Deny && rule.protocol != Protocol::Web;
    cuts.retain(
        "network.rules",
        &mut policy.rules,
        |rule| !opaque(rule) || excepted(&rule.host),
        |rule| format!("{}, which nobody can inspect", rule.id),
    );
}

//! A gate that looks into TLS, in front of an origin.

use portcullis::audit::AuditEvent;
use portcullis::policy::{DenyReason, Transport, Verdict};

use crate::test_gate::{GateSpec, TestGate, spec};
use crate::tls_origin::{OriginSpec, TlsOrigin};

/// The name of the origin.
pub(crate) const HOST: &str = "a.test";

/// Both halves.
pub(crate) struct Scene {
    pub(crate) gate: TestGate,
    pub(crate) origin: TlsOrigin,
}

impl Scene {
    /// Everything is allowed at the origin, all TLS is looked into.
    pub(crate) fn new() -> Self {
        Self::with(|spec| spec)
    }

    pub(crate) fn with(change: impl FnOnce(GateSpec) -> GateSpec) -> Self {
        Self::before(OriginSpec::new(HOST), change)
    }

    pub(crate) fn before(origin: OriginSpec, change: impl FnOnce(GateSpec) -> GateSpec) -> Self {
        let origin = origin.start();
        let mut spec = spec()
            .allow(HOST, &[origin.port()])
            .host(HOST, &origin.addr.ip().to_string())
            .policy(|policy| policy.mitm = true);
        spec.roots.clone_from(&origin.ca_pem);
        let gate = change(spec).start();
        Self { gate, origin }
    }

    pub(crate) fn authority(&self) -> &str {
        self.gate.authority.as_deref().unwrap()
    }

    /// `a.test:port`.
    pub(crate) fn target(&self) -> String {
        format!("{HOST}:{}", self.origin.port())
    }

    /// Method, path and verdict of each inner request, in the order of their records.
    pub(crate) fn judged(&self) -> Vec<(String, String, Verdict)> {
        let events = self.gate.audit.events().into_iter();
        events
            .filter_map(|event| match event {
                AuditEvent::EgressDecided {
                    transport: Transport::Inspected,
                    method,
                    path,
                    verdict,
                    ..
                } => Some((method.unwrap().to_string(), path.unwrap(), verdict)),
                _ => None,
            })
            .collect()
    }

    /// The first refusal on record.
    pub(crate) fn refusal(&self) -> (Transport, DenyReason, String) {
        let event = self.gate.audit.wait_for_one("a refusal", |event| {
            matches!(event, AuditEvent::EgressRefused { .. })
        });
        match event {
            AuditEvent::EgressRefused {
                transport,
                reason,
                detail,
                ..
            } => (transport, reason, detail),
            other => panic!("{other:?}"),
        }
    }

    /// Whether nothing of any kind reached the origin.
    pub(crate) fn origin_is_untouched(&self) -> bool {
        self.origin.connections() == 0 && self.origin.seen().is_empty()
    }
}

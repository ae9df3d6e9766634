//! A gate between a hostile client, an origin and a name server that both say what reached them.

use portcullis::audit::AuditEvent;
use portcullis::policy::{DenyReason, Verdict};

use crate::client::Raw;
use crate::dns_stub::DnsStub;
use crate::test_gate::{GateSpec, TestGate, spec};
use crate::upstream::{Origin, ok};

/// All four.
pub(crate) struct Ground {
    pub(crate) gate: TestGate,
    pub(crate) origin: Origin,
    pub(crate) dns: DnsStub,
}

impl Ground {
    /// Everything under `allowed.test` is allowed at the origin's port; every name leads to the origin.
    pub(crate) fn new() -> Self {
        Self::with(|spec, _| spec)
    }

    /// The same, with what `change(spec, port)` makes of it.
    pub(crate) fn with(change: impl FnOnce(GateSpec, u16) -> GateSpec) -> Self {
        Self::before(Origin::http(|head, _| ok(head)), change)
    }

    pub(crate) fn before(origin: Origin, change: impl FnOnce(GateSpec, u16) -> GateSpec) -> Self {
        let dns = DnsStub::constant(origin.address.ip());
        let port = origin.port();
        let spec = spec()
            .allow("**.allowed.test", &[port])
            .name_server(dns.address);
        let gate = change(spec, port).start();
        Self { gate, origin, dns }
    }

    pub(crate) fn port(&self) -> u16 {
        self.origin.port()
    }

    /// `allowed.test:port`.
    pub(crate) fn allowed(&self) -> String {
        format!("allowed.test:{}", self.port())
    }

    /// Sends this to the HTTP door: it is refused with this status and code, which is the only record.
    #[track_caller]
    pub(crate) fn refuses(&self, what: &str, request: &str, status: u16, code: &str) {
        let before = self.gate.audit.events().len();
        let mut client = Raw::open(self.gate.http);
        client.send(request);
        let response = client.response();
        let denied = response.header("x-portcullis-denied").unwrap_or_default();
        let found = (response.status(), denied);
        assert_eq!(found, (status, code), "{what}: {request:?}");
        assert_eq!(response.denied(), code, "{what}: body and header differ");
        self.recorded(before, what, code);
    }

    /// Asks for a host at both doors, in each way in which a host can be asked for.
    #[track_caller]
    pub(crate) fn refuses_host(&self, host: &str, code: &str) {
        let status = if code == "malformed" { 400 } else { 403 };
        let at = format!("{host}:{}", self.port());
        let connect = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n");
        self.refuses("CONNECT", &connect, status, code);
        let get = format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n\r\n");
        self.refuses("GET", &get, status, code);
        self.refuses_name(host, code);
    }

    /// Asks for a name at the SOCKS5 door: reply 2, and one record.
    #[track_caller]
    pub(crate) fn refuses_name(&self, name: &str, code: &str) {
        let before = self.gate.audit.events().len();
        let reply = Raw::open(self.gate.socks).socks5(name, self.port());
        assert_eq!(reply, 2, "SOCKS5 {name:?}");
        self.recorded(before, name, code);
    }

    #[track_caller]
    fn recorded(&self, before: usize, what: &str, code: &str) {
        // What is refused after its decision is on record soon, not before the answer.
        let one = |events: &[AuditEvent]| !denials(&events[before..]).is_empty();
        let events = self.gate.audit.wait_for(what, one).split_off(before);
        let codes: Vec<_> = denials(&events)
            .iter()
            .map(|reason| reason.code())
            .collect();
        assert_eq!(codes, [code], "{what}: {events:?}");
    }

    /// The positive twin of [`Ground::refuses_host`]: all three reach the origin.
    #[track_caller]
    pub(crate) fn reaches(&self, host: &str) {
        let at = format!("{host}:{}", self.port());
        let get = format!("GET / HTTP/1.1\r\nHost: {at}\r\n\r\n");
        let mut plain = Raw::open(self.gate.http);
        plain.send(get.replacen('/', &format!("http://{at}/"), 1));
        assert_eq!(plain.response().status(), 200, "GET {host}");
        let mut tunnel = Raw::open(self.gate.http);
        tunnel.connect(&at).send(&get);
        assert_eq!(tunnel.response().status(), 200, "CONNECT {host}");
        let mut socks = Raw::open(self.gate.socks);
        assert_eq!(socks.socks5(host, self.port()), 0, "SOCKS5 {host}");
        assert_eq!(socks.send(&get).response().status(), 200, "SOCKS5 {host}");
    }

    /// Neither a question nor a connection left.
    #[track_caller]
    pub(crate) fn is_untouched(&self) {
        assert_eq!(self.dns.asked(), Vec::<String>::new(), "DNS was asked");
        assert_eq!(self.origin.log.connections(), 0, "the origin was reached");
    }
}

/// Why each refusal among these records was one.
pub(crate) fn denials(events: &[AuditEvent]) -> Vec<DenyReason> {
    let denial = |event: &AuditEvent| match event {
        AuditEvent::EgressRefused { reason, .. } => Some(*reason),
        AuditEvent::EgressDecided {
            verdict: Verdict::Deny,
            reason,
            ..
        } => *reason,
        _ => None,
    };
    events.iter().filter_map(denial).collect()
}

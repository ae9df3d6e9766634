//! One inner request: judged, recorded, sent to its origin, or refused.

use hyper::body::Incoming;
use hyper::{Request, Response};

use crate::gate::authorize::{Permit, Refusal, authorize_within};
use crate::gate::body::GateBody;
use crate::gate::budget::Seen;
use crate::gate::hop::{self, ProtectedNamed};
use crate::gate::http_request::{self, Authority, PROTECTED, to_origin};
use crate::gate::upstream::{self, Opened};
use crate::policy::{DenyReason, EgressRequest, Transport};

use super::Tunnel;
use super::request::{self, Unreadable};

/// What a request asks for, as far as it can be read.
pub(super) type Asked = Result<EgressRequest, Unreadable>;

impl Tunnel {
    /// Reads a request.
    pub(super) fn read(&self, request: &Request<Incoming>) -> Asked {
        let mode = self.gate.rules().mode();
        if self.door == Transport::Inspected {
            return request::read(request, &self.destination, mode);
        }
        // Out of a tunnel without TLS, as at the proxy door from a client that knows no proxy.
        let server = Authority {
            host: self.destination.host.clone(),
            port: self.destination.port,
        };
        let resolved = |host| self.gate.names.host(host);
        let asked = http_request::read_for(request, mode, &server, resolved)?;
        hop::check_request(request.headers())
            .map_err(|ProtectedNamed| Unreadable::Malformed(PROTECTED))?;
        Ok(asked)
    }

    /// Decides and records; what could not be read is recorded under the tunnel's number.
    pub(super) async fn judge(&self, asked: Asked, seen: Seen) -> Result<Permit, Refusal> {
        match asked {
            Ok(asked) => {
                let conn = self.gate.next_conn();
                authorize_within(&self.gate, &self.lease, conn, asked, seen).await
            }
            Err(unreadable) => {
                let (reason, detail) = unreadable.told();
                Err(self.unreadable(reason, detail).await)
            }
        }
    }

    /// Records that something in the tunnel could not be read, and makes the answer.
    pub(super) async fn unreadable(&self, reason: DenyReason, detail: String) -> Refusal {
        let whom = (&self.destination.host, self.destination.port);
        let summary = &self.gate.summary;
        summary.count_refused(whom, self.door, reason);
        let refusal =
            Refusal::unreadable(&self.gate, self.destination.conn, self.door, reason, detail);
        Refusal {
            host: Some(self.destination.host.clone()),
            port: Some(self.destination.port),
            ..refusal.await
        }
    }

    /// Sends a permitted request to its origin.
    pub(super) async fn forward(
        &self,
        permit: Permit,
        request: Request<Incoming>,
    ) -> Result<Response<GateBody>, Refusal> {
        upstream::forward(&self.gate, permit, to_origin(request)).await
    }

    /// Asks the origin for a WebSocket; the request has the fields of RFC 6455 section 4.1.
    pub(super) async fn open_websocket(
        &self,
        permit: Permit,
        request: Request<Incoming>,
    ) -> Result<Opened, Refusal> {
        upstream::open_websocket(&self.gate, permit, request).await
    }
}

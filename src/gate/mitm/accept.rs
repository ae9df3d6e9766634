//! The client's handshake. The `ClientHello` is read and judged by [`crate::gate::screen`] first, as in every
//! tunnel; rustls gets the same bytes afterwards, so a resumed session or a second connection is
//! judged like the first. Encrypted ClientHello makes no difference here: only the outer name exists
//! for us, and rustls answers as a server without ECH, which the client notices and obeys (RFC 9849
//! section 6.1.6).

use std::io;
use std::rc::Rc;

use rustls::AlertDescription;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::gate::authorize::Destination;
use crate::gate::state::Gate;
use crate::policy::DenyReason;

use super::replay::Replay;

/// Speaks TLS with a client whose `ClientHello` was screened; says why not, for the log.
pub(super) async fn handshake(
    gate: &Rc<Gate>,
    client: TcpStream,
    hello: Vec<u8>,
    destination: &Destination,
) -> Result<TlsStream<Replay<TcpStream>>, (DenyReason, String)> {
    let failed = |detail: String| (DenyReason::ClientTlsFailed, detail);
    let leaves = gate
        .mitm
        .as_ref()
        .ok_or_else(|| failed("this gate has no certificate authority".to_owned()))?;
    let config = leaves
        .config_for(&destination.host)
        .map_err(|error| failed(error.to_string()))?;
    let accepting = TlsAcceptor::from(config).accept(Replay::new(hello.into(), client));
    match timeout(gate.limits.head, accepting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(tls_failure(&error))),
        Err(_) => Err((
            DenyReason::TimedOut,
            "the TLS handshake was not complete in time".to_owned(),
        )),
    }
}

/// What a failed TLS connection tells an operator: mostly that the client does not take our authority.
pub(super) fn tls_failure(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let distrust = [
        AlertDescription::UnknownCA,
        AlertDescription::BadCertificate,
        AlertDescription::CertificateUnknown,
    ];
    match inner {
        Some(rustls::Error::AlertReceived(alert)) if distrust.contains(alert) => {
            format!("the client does not trust the session's CA: alert {alert:?}")
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("the client ended TLS: alert {alert:?}")
        }
        Some(error) => format!("TLS with the client: {error}"),
        None => format!(
            "the client left TLS without a word, it may not trust the session's CA: {}",
            error.kind()
        ),
    }
}

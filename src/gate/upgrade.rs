//! STAND-IN until the origin half lands: replaced as a whole.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::policy::Host;

use super::state::Gate;
use super::upstream::OriginStream;

thread_local! {
    static ROOTS: RefCell<Option<Arc<rustls::ClientConfig>>> = const { RefCell::new(None) };
}

/// Keeps the authorities.
pub(super) fn stand_in_roots(pem: &str) {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()).flatten() {
        drop(roots.add(certificate));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    if let Ok(builder) =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
    {
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        ROOTS.set(Some(Arc::new(config)));
    }
}

/// TLS to an origin.
pub(super) async fn stand_in_tls(stream: TcpStream, host: &Host) -> Option<TlsStream<TcpStream>> {
    let config = ROOTS.with_borrow(Clone::clone)?;
    let name = ServerName::try_from(host.to_string()).ok()?;
    let connector = tokio_rustls::TlsConnector::from(config);
    connector.connect(name, stream).await.ok()
}

/// Moves bytes both ways.
pub(super) async fn relay_upgraded(
    gate: &Rc<Gate>,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut origin: OriginStream,
) {
    tokio::select! {
        relayed = tokio::io::copy_bidirectional(&mut client, &mut origin) => drop(relayed),
        () = gate.until_interrupted() => {}
    }
}

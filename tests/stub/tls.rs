//! A CA and a server certificate, made anew at each start; the CA's key is never written down.

use std::error::Error;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What clients trust, and what serves under it.
pub(crate) struct Authority {
    /// The CA's certificate.
    pub(crate) ca_pem: String,
    /// Serves the names.
    pub(crate) acceptor: TlsAcceptor,
}

/// Makes a CA and a certificate for these names. Offers no ALPN: clients fall back to HTTP/1.1.
pub(crate) fn issue(names: &[String]) -> Result<Authority, Box<dyn Error>> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    ca.distinguished_name
        .push(DnType::CommonName, "Portcullis responses-stub");
    let ca_key = KeyPair::generate()?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let leaf_key = KeyPair::generate()?;
    let leaf = CertificateParams::new(names)?.signed_by(&leaf_key, &Issuer::new(ca, ca_key))?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)?;
    Ok(Authority {
        ca_pem,
        acceptor: TlsAcceptor::from(Arc::new(config)),
    })
}

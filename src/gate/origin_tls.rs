//! TLS towards origins, and towards upstream proxies: whom to trust, what to offer, what a failure is called. Built once at start,
//! because the gate opens no file later. Never: client certificates, 0-RTT data (it can be replayed), a
//! key log, a session kept beyond this process.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::policy::{DenyReason, Host};

/// Origins whose sessions may be resumed; the oldest makes room.
const SESSIONS: usize = 256;

/// HTTP/2 in ALPN (RFC 9113 section 3.2).
pub(super) const H2: &[u8] = b"h2";

/// HTTP/1.1 in ALPN (RFC 7301 section 6).
const HTTP1: &[u8] = b"http/1.1";

/// Why the gate cannot speak TLS to origins.
#[derive(Debug, thiserror::Error)]
pub(super) enum OriginTlsError {
    /// Without one no origin could ever be verified.
    #[error(
        "TLS is to be looked into, or an https:// upstream proxy leads out, but none of the {0} certificate \
         authorities that came along can be used; install the host's CA certificates, or set mitm = false"
    )]
    NoRoots(usize),
    /// rustls refuses the settings.
    #[error("TLS towards origins: {0}")]
    Config(#[from] rustls::Error),
    /// The generator does not work.
    #[error("TLS towards origins: no random numbers")]
    Random,
}

/// What a handshake offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// HTTP/2, else HTTP/1.1.
    Any,
    /// HTTP/1.1 alone: for protocols that begin with an upgrade.
    Http1,
}

/// Makes connections to origins secure.
pub(super) struct OriginTls {
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl std::fmt::Debug for OriginTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OriginTls").finish_non_exhaustive()
    }
}

impl OriginTls {
    /// Trusts these authorities (PEM) alone; what does not parse among them is left out.
    pub(super) fn new(roots: &str) -> Result<Self, OriginTlsError> {
        let mut store = RootCertStore::empty();
        let mut came = 0_usize;
        for certificate in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            came += 1;
            if let Ok(certificate) = certificate {
                store.add_parsable_certificates([certificate]);
            }
        }
        if store.is_empty() {
            return Err(OriginTlsError::NoRoots(came));
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        // The generator looks at the host when it is first used; later that would be refused.
        let random = provider.secure_random;
        random
            .fill(&mut [0; 32])
            .map_err(|_| OriginTlsError::Random)?;
        let mut any = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_root_certificates(store)
            .with_no_client_auth();
        any.enable_early_data = false;
        any.resumption = Resumption::in_memory_sessions(SESSIONS);
        any.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
        let mut http1 = any.clone();
        http1.alpn_protocols = vec![HTTP1.to_vec()];
        Ok(Self {
            any: Arc::new(any),
            http1: Arc::new(http1),
        })
    }

    /// Shakes hands; the certificate must be for exactly this host. Not bounded in time.
    pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &Host,
        offer: Offer,
        stream: S,
    ) -> Result<TlsStream<S>, TlsFailure> {
        let config = match offer {
            Offer::Any => &self.any,
            Offer::Http1 => &self.http1,
        };
        let name = server_name(host).ok_or(TlsFailure::Certificate("wrong_name"))?;
        TlsConnector::from(Arc::clone(config))
            .connect(name, stream)
            .await
            .map_err(|error| TlsFailure::from(&error))
    }
}

fn server_name(host: &Host) -> Option<ServerName<'static>> {
    match host {
        Host::Addr(address) => Some(ServerName::IpAddress((*address).into())),
        Host::Name(name) => ServerName::try_from(name.as_str().to_owned()).ok(),
    }
}

/// Why there is no TLS, in words that do not come from the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsFailure {
    /// The certificate does not verify; the word says why.
    Certificate(&'static str),
    /// Anything else; the word says what.
    Handshake(&'static str),
}

impl TlsFailure {
    /// What the client is told it is.
    pub(super) fn reason(self) -> DenyReason {
        match self {
            Self::Certificate(_) => DenyReason::CertificateRefused,
            Self::Handshake(_) => DenyReason::DialFailed,
        }
    }

    /// The word for the client and the record.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Certificate(word) | Self::Handshake(word) => word,
        }
    }
}

impl From<&io::Error> for TlsFailure {
    fn from(error: &io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(problem)) => Self::Certificate(word(problem)),
            Some(rustls::Error::NoCertificatesPresented) => Self::Certificate("other"),
            Some(rustls::Error::AlertReceived(_)) => Self::Handshake("tls_alert"),
            Some(_) => Self::Handshake("tls_protocol"),
            None => Self::Handshake("tls_broke_off"),
        }
    }
}

/// One word for each problem that an operator would treat in a way of its own.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls may add kinds, and marks some as deprecated; they are `other`"
)]
fn word(problem: &CertificateError) -> &'static str {
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "not_yet_valid"
        }
        CertificateError::UnknownIssuer => "unknown_issuer",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "wrong_name"
        }
        CertificateError::Revoked => "revoked",
        CertificateError::BadSignature => "bad_signature",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        ca.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn what_does_not_parse_among_the_roots_is_left_out() {
        let bad = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
        let not_one = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for roots in [
            authority(),
            format!("# comment\n{bad}{}", authority()),
            format!("{not_one}{}{bad}", authority()),
        ] {
            assert!(OriginTls::new(&roots).is_ok(), "{roots}");
        }
        for (roots, came) in [(String::new(), 0), (format!("{bad}{not_one}"), 2)] {
            let failed = OriginTls::new(&roots).map(drop).unwrap_err();
            assert!(
                matches!(failed, OriginTlsError::NoRoots(n) if n == came),
                "{failed}"
            );
        }
    }

    #[test]
    fn no_early_data_and_http_1_alone_where_that_is_meant() {
        let tls = OriginTls::new(&authority()).unwrap();
        assert!(!tls.any.enable_early_data && !tls.http1.enable_early_data);
        assert_eq!(tls.any.alpn_protocols, [H2, HTTP1]);
        assert_eq!(tls.http1.alpn_protocols, [HTTP1]);
    }
}

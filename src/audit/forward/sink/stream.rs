//! A TCP connection, with TLS where it is wanted.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::address::Address;
use super::{SinkError, UNACKNOWLEDGED};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// Makes connections to one address.
pub(super) struct Dialer {
    pub(super) address: Address,
    tls: Option<Arc<ClientConfig>>,
}

/// A connection.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Dialer {
    /// Reads the certificates to trust: those of the file, or the system's.
    pub(super) fn new(address: &Address, ca: Option<&Path>) -> Result<Self, SinkError> {
        let tls = address.tls.then(|| config(ca)).transpose()?;
        let address = address.clone();
        Ok(Self { address, tls })
    }

    /// A new connection; the receiver's name is verified.
    pub(super) async fn dial(&self) -> Result<Stream, SinkError> {
        let dialed = tokio::time::timeout(CONNECT, self.connect()).await;
        dialed.map_err(|_| SinkError::Slow)?
    }

    async fn connect(&self) -> Result<Stream, SinkError> {
        let Address { host, port, .. } = &self.address;
        #[expect(
            clippy::disallowed_methods,
            reason = "no session's way out: where the admin or user wants records to go"
        )]
        let tcp = TcpStream::connect((host.as_str(), *port)).await?;
        tcp.set_nodelay(true)?;
        let limit = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(&tcp, limit).map_err(io::Error::from)?;
        let Some(config) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        let name = ServerName::try_from(host.clone());
        let name = name.map_err(|error| SinkError::Tls(error.to_string()))?;
        let connector = TlsConnector::from(config.clone());
        let tls = connector.connect(name, tcp).await;
        let tls = tls.map_err(|error| SinkError::Tls(error.to_string()))?;
        Ok(Stream::Tls(Box::new(tls)))
    }
}

fn config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, SinkError> {
    let failed = |error: &dyn std::fmt::Display| SinkError::Tls(error.to_string());
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| failed(&error))?;
            roots.add(certificate).map_err(|error| failed(&error))?;
        }
    } else {
        let native = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(native.certs);
    }
    if roots.is_empty() {
        return Err(failed(&"no certificate authority is trusted; give `ca`"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

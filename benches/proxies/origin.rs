//! The origin of all rows: HTTP/1.1 with kept connections, the same over TLS 1.3, and names that lead to
//! it. `GET /N` is answered with N bytes.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The name that stands for one host.
pub(crate) const HOST: &str = "origin.bench.test";

/// Names below which every number is a host of its own.
pub(crate) const HOSTS: u32 = 4_000;

/// A running origin.
pub(crate) struct Origin {
    pub(crate) http: u16,
    pub(crate) https: u16,
    /// The authority that its certificate leads to (PEM).
    pub(crate) ca: String,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    pub(crate) fn start() -> Self {
        let (ca, tls) = certificates();
        let connections = Arc::new(AtomicUsize::new(0));
        let (ports, receiver) = std::sync::mpsc::channel();
        let counted = Arc::clone(&connections);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let plain = TcpListener::bind(any).await.unwrap();
                let secure = TcpListener::bind(any).await.unwrap();
                let port = |l: &TcpListener| l.local_addr().unwrap().port();
                ports.send((port(&plain), port(&secure))).unwrap();
                let tls = TlsAcceptor::from(Arc::new(tls));
                loop {
                    tokio::select! {
                        Ok((stream, _)) = plain.accept() => {
                            counted.fetch_add(1, Ordering::Relaxed);
                            stream.set_nodelay(true).unwrap();
                            tokio::spawn(serve(stream));
                        }
                        Ok((stream, _)) = secure.accept() => {
                            counted.fetch_add(1, Ordering::Relaxed);
                            stream.set_nodelay(true).unwrap();
                            let tls = tls.clone();
                            tokio::spawn(async move {
                                if let Ok(stream) = tls.accept(stream).await {
                                    serve(stream).await;
                                }
                            });
                        }
                    }
                }
            });
        });
        let (http, https) = receiver.recv().unwrap();
        Self {
            http,
            https,
            ca,
            connections,
        }
    }

    /// Connections that it accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let answer = |request: Request<Incoming>| async move {
        let size = request.uri().path().trim_start_matches('/').parse();
        Ok::<_, Infallible>(Response::new(Zeros(size.unwrap_or(0))))
    };
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    drop(served.await);
}

/// So many bytes that are zero.
struct Zeros(u64);

static CHUNK: [u8; 64 << 10] = [0; 64 << 10];

impl Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = usize::try_from(self.0)
            .unwrap_or(usize::MAX)
            .min(CHUNK.len());
        if size == 0 {
            return Poll::Ready(None);
        }
        self.0 -= size as u64;
        let chunk = Bytes::from_static(CHUNK.get(..size).unwrap());
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.0 == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

fn certificates() -> (String, ServerConfig) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    // Another name than the leaf's, which would be self-signed to some verifiers.
    let name = &mut params.distinguished_name;
    name.push(rcgen::DnType::CommonName, "the benchmark's origins");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let names = vec![HOST.to_owned(), "*.hosts.bench.test".to_owned()];
    let leaf = CertificateParams::new(names).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into()),
        )
        .unwrap();
    (ca.pem(), config)
}

/// The hosts file that all proxies read. Needs root; without it the benchmark says so.
pub(crate) fn enter_own_names() {
    use std::fmt::Write;
    if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS) {
        panic!("a mount namespace of our own, for a hosts file: {error}; run this as root");
    }
    let mut text = format!("127.0.0.1 localhost\n127.0.0.1 {HOST}\n");
    for host in 0..HOSTS {
        writeln!(text, "127.0.0.1 h{host}.hosts.bench.test").unwrap();
    }
    let file = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    fs::write(&file, text).unwrap();
    let none: Option<&Path> = None;
    let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    nix::mount::mount(none, "/", none, private, none).unwrap();
    let bind = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&*file), "/etc/hosts", none, bind, none).unwrap();
    // World-readable: some proxies leave root behind.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions("/etc/hosts", mode).unwrap();
}

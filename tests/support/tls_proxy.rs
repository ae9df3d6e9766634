//! Upstream proxies that are spoken to by TLS: squid, and TLS in front of any other.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::proxy::RealProxy;
use crate::tls_origin::{CertKind, OriginSpec, issue};

/// TLS in front of a proxy; it connects to that only after a handshake.
pub(crate) struct TlsFront {
    pub(crate) address: SocketAddr,
    /// The authority to trust.
    pub(crate) ca: String,
    /// Server name (empty: none) and ALPN (empty: none) of each handshake that was completed.
    hellos: Arc<Mutex<Vec<(String, String)>>>,
}

impl TlsFront {
    /// With a certificate for this name.
    pub(crate) fn new(name: &str, to: SocketAddr) -> Self {
        Self::with(name, CertKind::Good, to)
    }

    pub(crate) fn with(name: &str, cert: CertKind, to: SocketAddr) -> Self {
        let (ca, chain, key) = issue(&OriginSpec::new(name).cert(cert));
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let hellos = Arc::new(Mutex::new(Vec::new()));
        let (acceptor, log) = (acceptor(chain, key), Arc::clone(&hellos));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, acceptor.clone(), to, Arc::clone(&log)));
                }
            });
        });
        Self {
            address,
            ca,
            hellos,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn hellos(&self) -> Vec<(String, String)> {
        self.hellos.lock().unwrap().clone()
    }
}

/// It would rather speak HTTP/2, which no client of a proxy may be talked into.
fn acceptor(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> TlsAcceptor {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    to: SocketAddr,
    log: Arc<Mutex<Vec<(String, String)>>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut client = acceptor.accept(stream).await?;
    let session = client.get_ref().1;
    let alpn = session.alpn_protocol().unwrap_or_default();
    let hello = (
        session.server_name().unwrap_or_default().to_owned(),
        String::from_utf8_lossy(alpn).into_owned(),
    );
    log.lock().unwrap().push(hello);
    #[expect(clippy::disallowed_methods, reason = "a proxy dials")]
    let mut proxy = TcpStream::connect(to).await?;
    proxy.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut proxy).await?;
    Ok(())
}

/// squid's `https_port` for this name, with the ACLs that it comes with: CONNECT leads to 443 alone. With a
/// login where one is given. It and the authority to trust.
pub(crate) fn squid(
    name: &str,
    hosts: &[(&str, SocketAddr)],
    login: Option<(&str, &str)>,
) -> (RealProxy, String) {
    let (ca, chain, key) = issue(&OriginSpec::new(name));
    let cert = pem::encode(&pem::Pem::new("CERTIFICATE", chain[0].as_ref()));
    let key = pem::encode(&pem::Pem::new("PRIVATE KEY", key.secret_der()));
    let lines: Vec<String> = hosts
        .iter()
        .map(|(host, address)| format!("{} {host}\n", address.ip()))
        .collect();
    let lines = lines.concat();
    let proxy = RealProxy::launch(&lines, |port, folder| {
        let at = folder.display();
        std::fs::write(folder.join("cert.pem"), &cert).unwrap();
        std::fs::write(folder.join("key.pem"), &key).unwrap();
        let known = login.map_or(String::new(), |(user, password)| {
            asks_for_login(folder, user, password)
        });
        let text = format!(
            "https_port 127.0.0.1:{port} tls-cert={at}/cert.pem tls-key={at}/key.pem\n\
             acl SSL_ports port 443\nacl Safe_ports port 80\nacl Safe_ports port 443\n\
             acl Safe_ports port 1025-65535\nhttp_access deny !Safe_ports\n\
             http_access deny CONNECT !SSL_ports\n{known}http_access allow all\n\
             cache deny all\naccess_log none\ncache_log {at}/cache.log\npid_filename none\n\
             coredump_dir {at}\npinger_enable off\nvisible_hostname {name}\ndns_nameservers 127.0.0.1\n\
             shutdown_lifetime 0 seconds\n"
        );
        let file = folder.join("squid.conf");
        std::fs::write(&file, text).unwrap();
        ["/usr/sbin/squid", "-N", "-f", file.to_str().unwrap()]
            .map(str::to_owned)
            .into()
    });
    (proxy, ca)
}

/// The lines by which squid takes one login, and the program that it asks.
fn asks_for_login(folder: &Path, user: &str, password: &str) -> String {
    let program = folder.join("login");
    let script = format!(
        "#!/bin/sh\nwhile read -r line; do\n\
         if [ \"$line\" = '{user} {password}' ]; then echo OK; else echo ERR; fi\ndone\n"
    );
    std::fs::write(&program, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    format!(
        "auth_param basic program {}\nacl known proxy_auth REQUIRED\nhttp_access deny !known\n",
        program.display()
    )
}

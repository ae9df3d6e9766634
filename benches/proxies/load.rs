//! A load generator: speaks to an HTTP or SOCKS5 proxy in one way, many times, and prints what that took.
//! Runs inside a jail for ours and outside for the others, so it is a process of its own (this program
//! with [`WORD`] as its first argument). It says `ready` and waits for a line, so that whoever counts the proxy's CPU time can
//! start counting; it waits for the end of its input afterwards, so that the proxy is still there.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

#[derive(Debug, Parser)]
struct Arguments {
    /// What one unit of work is.
    #[arg(value_enum)]
    way: Way,
    /// The proxy's port on 127.0.0.1.
    proxy: u16,
    /// The origin as host:port; `{}` in the host becomes the unit's number.
    origin: String,
    /// Units of work.
    count: u64,
    /// At once.
    #[arg(default_value_t = 8)]
    clients: u64,
    /// Bytes of one answer.
    #[arg(default_value_t = 1024)]
    size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// An absolute-form GET on a connection that is kept.
    Plain,
    /// CONNECT, close.
    Connect,
    /// CONNECT, a TLS handshake, close.
    Handshake,
    /// CONNECT, TLS, one GET, close.
    Tunnel,
    /// SOCKS5, TLS, one GET, close.
    Socks,
    /// A GET in one TLS session through one CONNECT that is kept.
    Kept,
    /// CONNECT, then one large answer without TLS.
    Bulk,
    /// Connections through CONNECT that are opened and left open.
    Idle,
}

/// The argument that makes this program the load generator.
pub(crate) const WORD: &str = "load";

pub(crate) fn main() {
    let arguments = Rc::new(Arguments::parse_from(std::env::args().skip(1)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(LocalSet::new().run_until(run(arguments)));
}

async fn run(arguments: Rc<Arguments>) {
    println!("ready");
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).unwrap() == 0 {
        // Only its session's memory was wanted.
        return;
    }
    let work = Rc::new(Work {
        next: Cell::new(0),
        times: RefCell::default(),
        failed: Cell::new(0),
        tls: TlsConnector::from(Arc::new(blind())),
        kept: RefCell::default(),
        arguments,
    });
    let began = Instant::now();
    let clients: Vec<_> = (0..work.arguments.clients)
        .map(|_| tokio::task::spawn_local(client(Rc::clone(&work))))
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut times = work.times.take();
    times.sort_unstable();
    let at = |share: usize| {
        let place = (times.len() * share / 100).min(times.len().saturating_sub(1));
        times
            .get(place)
            .map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    println!(
        "{{\"done\":{},\"failed\":{},\"seconds\":{seconds:.4},\"p50_ms\":{:.3},\"p99_ms\":{:.3}}}",
        times.len(),
        work.failed.get(),
        at(50),
        at(99)
    );
    std::io::stdin().read_line(&mut line).unwrap();
}

struct Work {
    arguments: Rc<Arguments>,
    next: Cell<u64>,
    times: RefCell<Vec<Duration>>,
    failed: Cell<u64>,
    tls: TlsConnector,
    /// Connections that stay open.
    kept: RefCell<Vec<TcpStream>>,
}

type Sender = SendRequest<Empty<Bytes>>;

async fn client(work: Rc<Work>) {
    let mut kept: Option<Sender> = None;
    loop {
        let unit = work.next.get();
        if unit >= work.arguments.count {
            return;
        }
        work.next.set(unit + 1);
        let began = Instant::now();
        let reused = kept.is_some();
        let mut outcome = work.unit(unit, &mut kept).await;
        if reused && outcome.is_err() {
            // Closed just as it was used again: what any client does then.
            kept = None;
            outcome = work.unit(unit, &mut kept).await;
        }
        if outcome.is_ok() {
            work.times.borrow_mut().push(began.elapsed());
        } else {
            kept = None;
            work.failed.set(work.failed.get() + 1);
        }
    }
}

type Failure = Box<dyn std::error::Error>;

impl Work {
    async fn unit(&self, unit: u64, kept: &mut Option<Sender>) -> Result<(), Failure> {
        let origin = self.arguments.origin.replace("{}", &unit.to_string());
        let host = origin.rsplit_once(':').unwrap().0;
        let path = format!("/{}", self.arguments.size);
        match self.arguments.way {
            Way::Plain => {
                if kept.as_ref().is_none_or(Sender::is_closed) {
                    *kept = Some(handshake(self.proxy().await?).await?);
                }
                let sender = kept.as_mut().unwrap();
                get(sender, &format!("http://{origin}{path}"), &origin).await
            }
            Way::Connect => {
                self.connect(&origin).await?;
                Ok(())
            }
            Way::Handshake => {
                let stream = self.connect(&origin).await?;
                self.secure(stream, host).await?;
                Ok(())
            }
            Way::Tunnel => {
                let stream = self.connect(&origin).await?;
                let mut sender = handshake(self.secure(stream, host).await?).await?;
                get(&mut sender, &path, &origin).await
            }
            Way::Socks => {
                let stream = self.socks(&origin).await?;
                let mut sender = handshake(self.secure(stream, host).await?).await?;
                get(&mut sender, &path, &origin).await
            }
            Way::Kept => {
                if kept.as_ref().is_none_or(Sender::is_closed) {
                    let stream = self.connect(&origin).await?;
                    *kept = Some(handshake(self.secure(stream, host).await?).await?);
                }
                get(kept.as_mut().unwrap(), &path, &origin).await
            }
            Way::Bulk => {
                let mut sender = handshake(self.connect(&origin).await?).await?;
                get(&mut sender, &path, &origin).await
            }
            Way::Idle => {
                let stream = self.connect(&origin).await?;
                self.kept.borrow_mut().push(stream);
                Ok(())
            }
        }
    }

    async fn proxy(&self) -> Result<TcpStream, Failure> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.arguments.proxy));
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn connect(&self, origin: &str) -> Result<TcpStream, Failure> {
        let mut stream = self.proxy().await?;
        let head = format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await?);
        }
        if answer.get(9..12) == Some(b"200") {
            Ok(stream)
        } else {
            Err(String::from_utf8_lossy(&answer).into())
        }
    }

    async fn socks(&self, origin: &str) -> Result<TcpStream, Failure> {
        let (host, port) = origin.rsplit_once(':').unwrap();
        let mut stream = self.proxy().await?;
        stream.write_all(&[5, 1, 0]).await?;
        let mut chosen = [0; 2];
        stream.read_exact(&mut chosen).await?;
        let mut request = vec![5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
        request.extend(host.as_bytes());
        request.extend(port.parse::<u16>().unwrap().to_be_bytes());
        stream.write_all(&request).await?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).await?;
        if answer[1] == 0 {
            Ok(stream)
        } else {
            Err(format!("SOCKS5 reply {}", answer[1]).into())
        }
    }

    async fn secure(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
        let name = ServerName::try_from(host.to_owned())?;
        Ok(self.tls.connect(name, stream).await?)
    }
}

async fn handshake<S>(stream: S) -> Result<Sender, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(sender)
}

async fn get(sender: &mut Sender, target: &str, host: &str) -> Result<(), Failure> {
    sender.ready().await?;
    let request = Request::get(target).header("host", host);
    let mut answer = sender.send_request(request.body(Empty::new())?).await?;
    if answer.status() != StatusCode::OK {
        return Err(answer.status().to_string().into());
    }
    while let Some(frame) = answer.body_mut().frame().await {
        frame?;
    }
    Ok(())
}

/// TLS 1.3 without resumption, any certificate: what is measured is the proxy.
fn blind() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config
}

#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        panic!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

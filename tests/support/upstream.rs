//! Origins on loopback: plain HTTP, raw TCP, TLS. Each logs what reached it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What one origin saw.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) connections: AtomicUsize,
    /// Every byte that reached it, TLS undone where it speaks TLS.
    bytes: Mutex<Vec<u8>>,
    /// Bytes of the connection itself.
    pub(crate) raw_bytes: AtomicUsize,
}

impl Log {
    fn add(&self, bytes: &[u8]) {
        self.raw_bytes.fetch_add(bytes.len(), Ordering::SeqCst);
        self.bytes.lock().unwrap().extend(bytes);
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn raw_bytes(&self) -> usize {
        self.raw_bytes.load(Ordering::SeqCst)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }
}

/// A server.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    pub(crate) log: Arc<Log>,
    /// The certificate authority of a TLS origin, as PEM.
    pub(crate) ca: String,
}

impl Origin {
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Gives every connection to this function.
    pub(crate) fn raw(serve: impl Fn(Logged) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::listen(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), serve)
    }

    fn listen(
        listener: TcpListener,
        serve: impl Fn(Logged) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Log::default());
        let (serve, shared) = (Arc::new(serve), Arc::clone(&log));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (serve, log) = (Arc::clone(&serve), Arc::clone(&shared));
                log.connections.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                thread::spawn(move || drop(serve(Logged { stream, log })));
            }
        });
        Self {
            address,
            log,
            ca: String::new(),
        }
    }

    /// Answers every request with `answer(head, body)`.
    pub(crate) fn http(answer: impl Fn(&str, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::raw(move |stream| serve_http(stream, &answer))
    }

    /// Answers every request with 200 and its own request line.
    pub(crate) fn echo() -> Self {
        Self::http(|head, _| ok(head.lines().next().unwrap_or_default()))
    }

    /// Sends back every byte.
    pub(crate) fn echo_bytes() -> Self {
        Self::raw(|mut stream| {
            let mut chunk = vec![0; 64 << 10];
            loop {
                let got = stream.read(&mut chunk)?;
                if got == 0 {
                    return stream.stream.shutdown(std::net::Shutdown::Write);
                }
                stream.write_all(&chunk[..got])?;
            }
        })
    }

    /// Speaks TLS for this name, and HTTP inside, on port 443 of a loopback address of its own.
    pub(crate) fn tls(name: &str) -> Self {
        let key = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![key.cert.der().clone()],
                PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into(),
            )
            .unwrap();
        let config = Arc::new(config);
        let origin = Self::listen(bind_at(443), move |stream| {
            let tls = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
            serve_http(StreamOwned::new(tls, stream), &|head, _| {
                ok(head.lines().next().unwrap_or_default())
            })
        });
        Self {
            ca: key.cert.pem(),
            ..origin
        }
    }

    /// Any bytes on port 443 of a loopback address of its own.
    pub(crate) fn raw_443(
        serve: impl Fn(Logged) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::raw_at(443, serve)
    }

    /// Any bytes on this port of a loopback address of its own.
    pub(crate) fn raw_at(
        port: u16,
        serve: impl Fn(Logged) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(bind_at(port), serve)
    }
}

/// Tests run side by side, and all of them want the same ports: each takes a loopback address nobody else has.
fn bind_at(port: u16) -> TcpListener {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id().to_be_bytes();
    loop {
        let last = NEXT.fetch_add(1, Ordering::SeqCst);
        let address = Ipv4Addr::new(127, 0x40 ^ process[2], process[3], last);
        if let Ok(listener) = TcpListener::bind((address, port)) {
            return listener;
        }
    }
}

/// A 200 with this text.
pub(crate) fn ok(text: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

/// Answers the requests of one connection with `answer(head, body)`.
pub(crate) fn serve_http(
    mut stream: impl Read + Write,
    answer: &impl Fn(&str, &[u8]) -> Vec<u8>,
) -> io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte)? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut body = vec![0; content_length(&head)];
        stream.read_exact(&mut body)?;
        stream.write_all(&answer(&head, &body))?;
        stream.flush()?;
    }
}

fn content_length(head: &str) -> usize {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap())
}

/// A connection whose incoming bytes are logged.
pub(crate) struct Logged {
    pub(crate) stream: TcpStream,
    log: Arc<Log>,
}

impl Read for Logged {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.stream.read(buffer)?;
        self.log.add(&buffer[..got]);
        Ok(got)
    }
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

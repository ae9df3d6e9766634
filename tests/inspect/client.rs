//! Clients within a tunnel: TLS over a CONNECT or SOCKS5, then raw bytes, hyper, or a real program.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use crate::scene::{HOST, Scene};
use crate::test_gate::PATIENCE;

/// A client that trusts these authorities and offers these protocols.
pub(crate) fn config(authority: &str, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A socket on which the gate has granted a CONNECT.
pub(crate) fn connect(gate: SocketAddr, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gate).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let answer = read_head(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream
}

/// A socket on which the gate has granted a SOCKS5 request.
pub(crate) fn socks5(gate: SocketAddr, host: &str, port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(gate).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[5, 1, 0]).unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    let mut request = vec![5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
    request.extend(host.as_bytes());
    request.extend(port.to_be_bytes());
    stream.write_all(&request).unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[1], 0);
    stream
}

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let got = stream.read(&mut byte).unwrap();
        assert!(got > 0, "ended in {:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// TLS with raw bytes in it.
pub(crate) struct Tls(pub(crate) StreamOwned<ClientConnection, TcpStream>);

impl Tls {
    /// Through a CONNECT, for HTTP/1.1.
    pub(crate) fn open(scene: &Scene) -> Self {
        let stream = connect(scene.gate.http, &scene.target());
        Self::over(stream, config(scene.authority(), &["http/1.1"]), HOST)
    }

    pub(crate) fn over(stream: TcpStream, config: Arc<ClientConfig>, name: &'static str) -> Self {
        let name = ServerName::try_from(name).unwrap();
        let mut tls = Self(StreamOwned::new(
            ClientConnection::new(config, name).unwrap(),
            stream,
        ));
        tls.0.conn.complete_io(&mut tls.0.sock).unwrap();
        tls
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        // A gate that has closed is found out by reading.
        drop(self.0.write_all(bytes.as_ref()));
        drop(self.0.flush());
        self
    }

    /// A request without content; its answer.
    pub(crate) fn ask(&mut self, line: &str, host: &str, fields: &str) -> Answer {
        self.send(format!("{line} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
        self.answer()
    }

    /// One response, its content by Content-Length or in chunks.
    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = Answer {
            head: read_head(&mut self.0),
            body: Vec::new(),
        };
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                answer.body.extend(chunk);
            }
        } else {
            let length = answer.header("content-length").unwrap_or("0");
            answer.body = vec![0; length.parse().unwrap()];
            self.0.read_exact(&mut answer.body).unwrap();
        }
        answer
    }

    pub(crate) fn head(&mut self) -> Answer {
        Answer {
            head: read_head(&mut self.0),
            body: Vec::new(),
        }
    }

    /// The next chunk of a chunked body; `None`: that was the last.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line();
        let size = usize::from_str_radix(&line, 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.0.read_exact(&mut chunk).unwrap();
        chunk.truncate(size);
        (size > 0).then_some(chunk)
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    /// Everything up to the end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        drop(self.0.read_to_end(&mut bytes));
        bytes
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Status and code of a refusal.
    pub(crate) fn denied(&self) -> (u16, String) {
        let code = self.header("x-portcullis-denied").unwrap_or_default();
        (self.status(), code.to_owned())
    }
}

/// A client of HTTP/2 within TLS.
#[derive(Clone)]
pub(crate) struct H2 {
    sender: http2::SendRequest<Full<Bytes>>,
    authority: String,
}

impl H2 {
    pub(crate) async fn open(scene: &Scene) -> Self {
        let stream = connect(scene.gate.http, &scene.target());
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let config = config(scene.authority(), &["h2"]);
        let name = ServerName::try_from(HOST).unwrap();
        let tls = tokio_rustls::TlsConnector::from(config)
            .connect(name, stream)
            .await
            .unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
            .await
            .unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self {
            sender,
            authority: scene.target(),
        }
    }

    /// Sends what `build` makes of a request for a path of the scene's origin.
    pub(crate) async fn send(
        &mut self,
        path: &str,
        build: impl FnOnce(hyper::http::request::Builder) -> hyper::http::request::Builder,
        body: &'static str,
    ) -> hyper::Result<Response<Incoming>> {
        let uri = format!("https://{}{path}", self.authority);
        let request = build(Request::builder().uri(uri));
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Begins a GET without waiting for its answer.
    pub(crate) async fn start(
        &mut self,
        path: &str,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        let uri = format!("https://{}{path}", self.authority);
        let request = Request::builder().uri(uri);
        self.sender.ready().await.unwrap();
        self.sender
            .send_request(request.body(Full::default()).unwrap())
    }

    /// The same as [`H2::send`], with its content: as JSON, or null.
    pub(crate) async fn ask(
        &mut self,
        path: &str,
        build: impl FnOnce(hyper::http::request::Builder) -> hyper::http::request::Builder,
        body: &'static str,
    ) -> (u16, Value) {
        let response = self.send(path, build, body).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

/// Exit status, standard output and standard error of a program with a clean environment.
pub(crate) fn run(
    program: &str,
    arguments: &[&str],
    input: &[u8],
) -> (Option<i32>, String, String) {
    let mut child = Command::new(program)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdin.take().unwrap().write_all(input));
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

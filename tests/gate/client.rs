//! Clients: a raw socket for what no real client sends, and curl.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::test_gate::PATIENCE;

/// A raw connection.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        // A gate that has closed is found out by reading.
        drop(self.0.write_all(bytes.as_ref()));
        self
    }

    pub(crate) fn finish(&mut self) -> &mut Self {
        drop(self.0.shutdown(Shutdown::Write));
        self
    }

    /// Everything up to the end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match self.0.read(&mut chunk) {
                Ok(0) => return bytes,
                Ok(got) => bytes.extend(&chunk[..got]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return bytes,
                Err(error) => panic!("after {:?}: {error}", String::from_utf8_lossy(&bytes)),
            }
        }
    }

    pub(crate) fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// One HTTP response; its body by Content-Length.
    pub(crate) fn response(&mut self) -> Response {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let got = self.0.read(&mut byte).unwrap();
            assert!(got > 0, "ended in {:?}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        let mut response = Response {
            head: String::from_utf8(head).unwrap(),
            body: Vec::new(),
        };
        let length = response.header("content-length").unwrap_or("0").parse();
        response.body = self.exactly(length.unwrap());
        response
    }

    /// A CONNECT that the gate grants.
    pub(crate) fn connect(&mut self, target: &str) -> &mut Self {
        self.send(format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
        ));
        let response = self.response();
        assert_eq!(response.status(), 200, "{}", response.head);
        self
    }

    /// Greeting and request for a name; the gate's reply code.
    pub(crate) fn socks5(&mut self, host: &str, port: u16) -> u8 {
        self.send([5, 1, 0]);
        assert_eq!(self.exactly(2), [5, 0]);
        let mut request = vec![5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
        request.extend(host.as_bytes());
        request.extend(port.to_be_bytes());
        self.send(request);
        self.exactly(10)[1]
    }
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The code in the header, which must be the one in the body.
    pub(crate) fn denied(&self) -> String {
        let code = self.header("x-portcullis-denied").unwrap().to_owned();
        assert_eq!(self.json()["code"], code.as_str());
        code
    }
}

/// A plain GET through the proxy, for one response.
pub(crate) fn get(gate: SocketAddr, authority: &str, path: &str) -> Response {
    let mut client = Raw::open(gate);
    client.send(format!(
        "GET http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: raw\r\n\r\n"
    ));
    client.response()
}

/// curl's exit status and standard output.
pub(crate) fn curl(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new("curl")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args(["--silent", "--max-time", "30"])
        .args(arguments)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// A moment in which a gate that would do something wrong does it.
pub(crate) fn a_moment() {
    std::thread::sleep(Duration::from_millis(150));
}

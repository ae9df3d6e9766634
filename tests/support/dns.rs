//! A name server on loopback, UDP and TCP, that answers from a script and logs every question.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

/// One record of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Address(IpAddr),
    /// An alias, and the address it leads to.
    Alias(&'static str, IpAddr),
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

type Script = Box<dyn Fn(&str, usize) -> Vec<Answer> + Send + Sync>;

/// The server. Answers `NXDOMAIN` where the script has nothing for a name at all.
pub(crate) struct DnsStub {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Script,
    /// Answer over UDP with the TC bit alone, so that the question is repeated over TCP.
    truncate: bool,
    asked: Mutex<Vec<String>>,
    /// How often each name was asked for addresses of its kind.
    counts: Mutex<HashMap<(String, u16), usize>>,
}

impl DnsStub {
    /// `script(name, n)`: the records of the nth answer for a name.
    pub(crate) fn start(
        script: impl Fn(&str, usize) -> Vec<Answer> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Box::new(script), false)
    }

    /// As [`DnsStub::start`], but every UDP answer is cut short.
    pub(crate) fn truncating(
        script: impl Fn(&str, usize) -> Vec<Answer> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Box::new(script), true)
    }

    /// Every name has this one address.
    pub(crate) fn constant(address: IpAddr) -> Self {
        Self::start(move |_, _| vec![Answer::Address(address)])
    }

    fn listen(script: Script, truncate: bool) -> Self {
        let (tcp, udp) = bind_both();
        let address = tcp.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script,
            truncate,
            asked: Mutex::default(),
            counts: Mutex::default(),
        });
        let (for_udp, for_tcp) = (Arc::clone(&shared), Arc::clone(&shared));
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                let answer = for_udp.answer(&buffer[..length], for_udp.truncate);
                drop(udp.send_to(&answer, peer));
            }
        });
        thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let shared = Arc::clone(&for_tcp);
                thread::spawn(move || drop(shared.serve_tcp(stream)));
            }
        });
        Self { address, shared }
    }

    /// Every question so far, as `name`, in order, each kind of address counted.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }
}

fn bind_both() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            return (tcp, udp);
        }
    }
}

impl Shared {
    fn serve_tcp(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query)?;
            let answer = self.answer(&query, false);
            let length = u16::try_from(answer.len())
                .unwrap_or_default()
                .to_be_bytes();
            stream.write_all(&[&length[..], &answer].concat())?;
        }
    }

    fn answer(&self, query: &[u8], truncated: bool) -> Vec<u8> {
        let (name, kind, question) = read_question(query);
        self.asked.lock().unwrap().push(name.clone());
        let mut counts = self.counts.lock().unwrap();
        let nth = counts.entry((name.clone(), kind)).or_default();
        let all = (self.script)(&name, *nth);
        if !truncated {
            *nth += 1;
        }
        let mut records = Vec::new();
        if !truncated {
            for answer in &all {
                records.extend(encode(answer, kind));
            }
        }
        // QR, RD, RA; the response code.
        let truncation = if truncated { 2 } else { 0 };
        let code = if all.is_empty() { 3 } else { 0 };
        let count = u16::try_from(records.len()).unwrap().to_be_bytes();
        let mut bytes = vec![query[0], query[1], 0x81 | truncation, 0x80 | code, 0, 1];
        bytes.extend(count);
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(question);
        bytes.extend(records.concat());
        bytes
    }
}

/// Name, kind and raw question of a query with one question.
fn read_question(query: &[u8]) -> (String, u16, &[u8]) {
    let mut at = 12;
    let mut labels = Vec::new();
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_ascii_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    (labels.join("."), kind, &query[12..at + 5])
}

/// The records of one answer that belong to a question of this kind.
fn encode(answer: &Answer, kind: u16) -> Vec<Vec<u8>> {
    match answer {
        Answer::Address(address) => address_record(&[0xc0, 12], *address, kind)
            .into_iter()
            .collect(),
        Answer::Alias(name, address) => {
            let name = encode_name(name);
            let mut alias = vec![0xc0, 12];
            alias.extend(CNAME.to_be_bytes());
            alias.extend([0, 1, 0, 0, 0, 0]);
            alias.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
            alias.extend(&name);
            let address = address_record(&name, *address, kind);
            std::iter::once(alias).chain(address).collect()
        }
    }
}

/// TTL 0: nothing is remembered.
fn address_record(name: &[u8], address: IpAddr, kind: u16) -> Option<Vec<u8>> {
    let (own_kind, octets) = match address {
        IpAddr::V4(v4) => (A, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AAAA, v6.octets().to_vec()),
    };
    if own_kind != kind {
        return None;
    }
    let mut record = name.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend([0, 1, 0, 0, 0, 0]);
    record.extend(u16::try_from(octets.len()).unwrap().to_be_bytes());
    record.extend(octets);
    Some(record)
}

fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

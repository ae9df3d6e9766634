//! A name server (RFC 1035) that knows its own names and writes down every name it is asked for:
//! the witness for "no query left".

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// UDP and TCP on one port.
pub(crate) struct Sockets {
    /// That port.
    pub(crate) port: u16,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds both on 127.0.0.1.
    pub(crate) async fn bind(port: u16) -> io::Result<Self> {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let port = tcp.local_addr()?.port();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await?;
        Ok(Self { port, udp, tcp })
    }

    /// Answers for ever: this address for these names, "no such name" for all others.
    pub(crate) async fn serve(
        self,
        names: Vec<String>,
        address: Ipv4Addr,
        log: &Path,
    ) -> Result<(), Box<dyn Error>> {
        let zone = Arc::new(Zone {
            names,
            address,
            log: Mutex::new(File::create(log)?),
        });
        tokio::try_join!(
            serve_udp(self.udp, Arc::clone(&zone)),
            serve_tcp(self.tcp, zone)
        )?;
        Ok(())
    }
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Zone>) -> io::Result<()> {
    let mut packet = [0; 512];
    loop {
        let (length, peer) = socket.recv_from(&mut packet).await?;
        let answer = packet.get(..length).and_then(|query| zone.answer(query));
        if let Some(answer) = answer {
            socket.send_to(&answer, peer).await?;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Zone>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let zone = Arc::clone(&zone);
        tokio::spawn(async move {
            if let Err(error) = answer_tcp(stream, &zone).await {
                crate::log::complain("dns over tcp", &error);
            }
        });
    }
}

/// RFC 1035 4.2.2: each message after its length.
async fn answer_tcp(mut stream: TcpStream, zone: &Zone) -> io::Result<()> {
    let mut query = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut query).await?;
    if let Some(answer) = zone.answer(&query) {
        stream
            .write_u16(answer.len().try_into().map_err(io::Error::other)?)
            .await?;
        stream.write_all(&answer).await?;
    }
    Ok(())
}

struct Zone {
    names: Vec<String>,
    address: Ipv4Addr,
    log: Mutex<File>,
}

impl Zone {
    /// Nothing for a message that is no single question, or that cannot be written down.
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let question = Question::parse(query)?;
        self.note(&question.name).ok()?;
        let known = self
            .names
            .iter()
            .any(|name| name.eq_ignore_ascii_case(&question.name));
        let address = known && question.kind == TYPE_A;
        let code = if known { 0 } else { NXDOMAIN };
        let mut answer = query.get(..2)?.to_vec();
        // QR and AA; RA and the code; one question, perhaps one answer, no more sections.
        answer.extend([0x84, 0x80 | code, 0, 1, 0, u8::from(address), 0, 0, 0, 0]);
        answer.extend(question.bytes);
        if address {
            // The name by reference to offset 12, type A, class IN, five seconds, four octets.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
            answer.extend(self.address.octets());
        }
        Some(answer)
    }

    fn note(&self, name: &str) -> io::Result<()> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(log, "{name}")
    }
}

struct Question<'a> {
    name: String,
    kind: u16,
    bytes: &'a [u8],
}

impl<'a> Question<'a> {
    fn parse(query: &'a [u8]) -> Option<Self> {
        let mut labels = Vec::new();
        let mut at = HEADER;
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = query.get(at..at.checked_add(length)?)?;
            labels.push(String::from_utf8_lossy(label).into_owned());
            at += length;
        }
        let kind = query.get(at..at + 2)?.try_into().ok()?;
        Some(Self {
            name: labels.join("."),
            kind: u16::from_be_bytes(kind),
            bytes: query.get(HEADER..at + 4)?,
        })
    }
}

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const NXDOMAIN: u8 = 3;

//! Syslog: RFC 5424 messages with octet counting (RFC 6587 section 3.4.1) over TCP, or over TLS (RFC 5425).
//!
//! The protocol has no acknowledgement. What was sent counts as arrived when the receiver is still there some
//! seconds later ([`super::super::worker::SETTLED`]), or has closed the connection after we did.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::super::address::Address;
use super::super::source::Item;
use super::SinkError;
use super::stream::{Dialer, Stream};

/// "log audit" (RFC 5424 section 6.2.1).
const FACILITY: u8 = 13;

/// The identifier of our structured data: the private enterprise number that RFC 5612 keeps for examples, since
/// this project has none.
const SD_ID: &str = "portcullis@32473";

/// A receiver.
pub(in super::super) struct Syslog {
    dialer: Dialer,
    stream: Option<Stream>,
    hostname: String,
}

impl Syslog {
    pub(super) fn new(address: &Address, ca: Option<&Path>) -> Result<Self, SinkError> {
        let dialer = Dialer::new(address, ca)?;
        let name = rustix::system::uname();
        let name = name.nodename().to_string_lossy();
        let hostname = word(&name, 255);
        Ok(Self {
            dialer,
            stream: None,
            hostname,
        })
    }

    pub(super) async fn send(&mut self, items: &[Item]) -> Result<(), SinkError> {
        self.check()?;
        if self.stream.is_none() {
            self.stream = Some(self.dialer.dial().await?);
        }
        let mut frames = String::new();
        for item in items {
            let message = message(item, &self.hostname);
            frames.push_str(&message.len().to_string());
            frames.push(' ');
            frames.push_str(&message);
        }
        if let Some(stream) = &mut self.stream {
            stream.write_all(frames.as_bytes()).await?;
            stream.flush().await?;
        }
        Ok(())
    }

    /// Fails when the receiver has closed the connection, which it does when it ends.
    pub(super) fn check(&mut self) -> Result<(), SinkError> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        let mut byte = [0; 64];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(stream).poll_read(&mut context, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                Err(io::Error::from(io::ErrorKind::ConnectionReset).into())
            }
            Poll::Ready(Err(error)) => Err(error.into()),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Says that nothing follows, and waits for the receiver to say so too: it has read everything then.
    pub(super) async fn close(&mut self) -> Result<(), SinkError> {
        let Some(mut stream) = self.stream.take() else {
            return Ok(());
        };
        poll_fn(|cx| tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut stream), cx)).await?;
        let mut bytes = [0; 64];
        loop {
            match stream.read(&mut bytes).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // Many receivers end TCP without ending TLS first.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn disconnect(&mut self) {
        self.stream = None;
    }
}

/// `<PRI>1 TIME HOST portcullis - EVENT [DATA] TEXT`.
fn message(item: &Item, hostname: &str) -> String {
    let seen = &item.seen;
    // Warning, notice, informational.
    let severity = match seen.event.as_str() {
        "gate.lost" | "witness.lost" | "ledger.lost" | "log.resumed" | "log.sync_failed"
        | "records.lost" | "policy.rejected" => 4,
        _ if seen.reason().is_some() => 5,
        _ => 6,
    };
    let priority = FACILITY * 8 + severity;
    let mut message = format!(
        "<{priority}>1 {:.6} {hostname} portcullis - {} [{SD_ID}",
        seen.ts,
        word(&seen.event, 32),
    );
    let seq = seen.seq.to_string();
    for (name, value) in [
        ("session", seen.session.as_str()),
        ("seq", &seq),
        ("host_id", &seen.host_id),
        ("user", &seen.user),
        ("event", &seen.event),
    ] {
        if value.is_empty() {
            continue;
        }
        message.push(' ');
        message.push_str(name);
        message.push_str("=\"");
        for c in value.chars() {
            if matches!(c, '"' | '\\' | ']') {
                message.push('\\');
            }
            message.push(c);
        }
        message.push('"');
    }
    message.push_str("] ");
    message.push_str(&item.text);
    message
}

/// Printable ASCII without spaces, as headers have it; `-` for nothing.
fn word(text: &str, most: usize) -> String {
    let printable = text.chars().filter(char::is_ascii_graphic);
    let word: String = printable.take(most).collect();
    if word.is_empty() { "-".into() } else { word }
}

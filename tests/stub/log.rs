//! What reached the stub, one JSON object a line. Of a credential only that it was there.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// One request, or one message on a WebSocket.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Seen {
    /// `http`, `sse` or `websocket`.
    pub(crate) transport: &'static str,
    /// The method; of a WebSocket message its `type`.
    pub(crate) method: String,
    /// The path.
    pub(crate) path: String,
    /// The `Host` header.
    pub(crate) host: Option<String>,
    /// The server name of the TLS handshake.
    pub(crate) sni: Option<String>,
    /// Whether there was an `Authorization` header.
    pub(crate) authorization: bool,
    /// Whether that header was the expected one.
    pub(crate) authorized: bool,
    /// The `ChatGPT-Account-ID` header: which account the token is used for.
    pub(crate) account: Option<String>,
    /// The `User-Agent` header.
    pub(crate) user_agent: Option<String>,
    /// Which step of the script was answered.
    pub(crate) step: Option<usize>,
    /// The tool outputs that the request brought.
    pub(crate) outputs: Vec<String>,
}

/// The open log.
pub(crate) struct RequestLog {
    file: Mutex<File>,
}

impl RequestLog {
    /// Starts an empty log.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = Mutex::new(File::create(path)?);
        Ok(Self { file })
    }

    /// Appends one line.
    pub(crate) fn write(&self, seen: &Seen) -> io::Result<()> {
        let line = serde_json::to_string(seen)?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{line}")
    }
}

/// Tells the person who started the stub why a connection ended early; the stub goes on.
pub(crate) fn complain(what: &str, error: &dyn std::error::Error) {
    drop(writeln!(
        io::stderr().lock(),
        "responses-stub: {what}: {error}"
    ));
}

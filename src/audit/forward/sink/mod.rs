//! The ways out. Each takes a batch and answers when it has done with it what its protocol can say.

mod file;
mod http;
mod journald;
mod otlp;
mod stream;
mod syslog;

use std::io;
use std::time::Duration;

use super::config::{Target, TargetPlace};
use super::source::Item;

/// How long the kernel tries to bring something to a receiver before it gives the connection up.
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(4);

/// Why nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A socket or a file failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// TLS cannot be spoken.
    #[error("TLS: {0}")]
    Tls(String),
    /// The receiver said no.
    #[error("{0}")]
    Refused(String),
    /// It takes too long.
    #[error("no answer in time")]
    Slow,
}

/// A way out.
pub(super) enum Sink {
    Journald(journald::Journald),
    Syslog(syslog::Syslog),
    Otlp(otlp::Otlp),
    File(file::Append),
    Http(http::Post),
}

impl Sink {
    /// The one that leads to this target. Connects to nothing yet.
    pub(super) fn new(target: &Target) -> Result<Self, SinkError> {
        let ca = target.ca.as_deref();
        Ok(match &target.place {
            TargetPlace::Journald(path) => Self::Journald(journald::Journald::new(path)),
            TargetPlace::Syslog(address) => Self::Syslog(syslog::Syslog::new(address, ca)?),
            TargetPlace::Otlp(address) => Self::Otlp(otlp::Otlp::new(address, ca)?),
            TargetPlace::File(path) => Self::File(file::Append::new(path)),
            TargetPlace::Http(address) => Self::Http(http::Post::new(address, ca)?),
        })
    }

    /// Whether `send` answers only when the receiver has taken everything.
    pub(super) fn acknowledges(&self) -> bool {
        !matches!(self, Self::Syslog(_))
    }

    /// Sends these. After an error, part of them may have arrived. `Some`: they are sent, and somebody should
    /// read this.
    pub(super) async fn send(&mut self, items: &[Item]) -> Result<Option<String>, SinkError> {
        match self {
            Self::Otlp(sink) => return sink.send(items).await,
            Self::Journald(sink) => sink.send(items)?,
            Self::Syslog(sink) => sink.send(items).await?,
            Self::File(sink) => sink.send(items)?,
            Self::Http(sink) => sink.send(items).await?,
        }
        Ok(None)
    }

    /// Whether the receiver is still there.
    pub(super) fn check(&mut self) -> Result<(), SinkError> {
        match self {
            Self::Syslog(sink) => sink.check(),
            _ => Ok(()),
        }
    }

    /// Ends it well: answers when the receiver has read everything.
    pub(super) async fn close(&mut self) -> Result<(), SinkError> {
        match self {
            Self::Syslog(sink) => sink.close().await,
            _ => Ok(()),
        }
    }

    /// Forgets the connection.
    pub(super) fn disconnect(&mut self) {
        match self {
            Self::Syslog(sink) => sink.disconnect(),
            Self::Journald(_) | Self::Otlp(_) | Self::File(_) | Self::Http(_) => {}
        }
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

//! `portcullis audit forward` with real receivers: rsyslog over TCP and TLS, a journal's socket, a collector that
//! reads Protobuf, an HTTP server and a file.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests may panic"
)]
#![expect(clippy::disallowed_methods, reason = "tests start the real program")]

mod anchors;
mod collector;
mod journal;
mod metrics;
mod scene;
mod syslog;

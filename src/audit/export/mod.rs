//! Records in the forms that other tools read.
//!
//! Owns: the forms ([`Format`]), one file each, and the one view of a record that all of them share
//! ([`Seen`]). A form is fed one record after the other and writes as it goes; what it keeps between two
//! records is bounded, and its file says by what. Never: opens a log or an output, adds anything to a
//! record that does not stand in the log, drops a field without saying so.
//!
//! The fields of a record are read from its JSON and not from [`super::AuditEvent`]: an export goes on with
//! events and fields that it does not know.

mod cell;
pub mod checked;
mod columnar;
mod har;
pub mod ocsf;
mod row;
mod seen;
mod table;

use std::io::{self, Write};

pub use row::COLUMNS;
pub use seen::Seen;

/// A form of export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The records as they stand, byte for byte: still verifiable.
    Jsonl,
    /// RFC 4180, a row a record, the columns of [`COLUMNS`].
    Csv,
    /// HTTP Archive 1.2: an entry a request or tunnel.
    Har,
    /// Open Cybersecurity Schema Framework: a JSON object a line, an event a record.
    Ocsf,
    /// Apache Parquet, a row a record, the columns of [`COLUMNS`].
    Parquet,
}

/// Where records go, one after the other; a session's in their order and together.
pub trait Form {
    /// Takes a record and the line it stands in (without its newline).
    fn record(&mut self, line: &[u8]) -> io::Result<()>;

    /// No record of this session follows.
    fn session_over(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Writes what is still to be written. Without it the output is not whole.
    fn finish(&mut self) -> io::Result<()>;
}

/// A form that writes here.
pub fn form<W: Write + Send + 'static>(format: Format, output: W) -> io::Result<Box<dyn Form>> {
    Ok(match format {
        Format::Jsonl => Box::new(Jsonl(output)),
        Format::Csv => Box::new(table::Table::new(output)?),
        Format::Har => Box::new(har::Archive::new(output)?),
        Format::Ocsf => Box::new(ocsf::Lines::new(output)),
        Format::Parquet => Box::new(columnar::Groups::new(output)?),
    })
}

/// The records as they are. Keeps nothing.
struct Jsonl<W>(W);

impl<W: Write> Form for Jsonl<W> {
    fn record(&mut self, line: &[u8]) -> io::Result<()> {
        self.0.write_all(line)?;
        self.0.write_all(b"\n")
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

//! CSV (RFC 4180), a row a record. Keeps nothing between two records.
//!
//! A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return for a formula, and
//! a jail chooses what stands in some: such a cell gets an apostrophe in front (OWASP, CSV Injection).

use std::io::{self, Write};

use csv::{Terminator, Writer, WriterBuilder};

use super::cell::Cell;
use super::row::{COLUMNS, cells};
use super::{Form, Seen};

/// The table.
pub(super) struct Table<W: Write>(Writer<W>);

impl<W: Write> Table<W> {
    /// Writes the header.
    pub(super) fn new(output: W) -> io::Result<Self> {
        let mut builder = WriterBuilder::new();
        let mut writer = builder.terminator(Terminator::CRLF).from_writer(output);
        writer.write_record(COLUMNS.map(|(name, _)| name))?;
        Ok(Self(writer))
    }
}

impl<W: Write> Form for Table<W> {
    fn record(&mut self, line: &[u8]) -> io::Result<()> {
        let seen = Seen::parse(line)?;
        self.0.write_record(cells(&seen).map(written))?;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn written(cell: Cell<'_>) -> String {
    match cell {
        Cell::Empty => String::new(),
        Cell::Number(number) => number.to_string(),
        Cell::Time(time) => format!("{time:.6}"),
        Cell::Text(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => {
            format!("'{text}")
        }
        Cell::Text(text) => text.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        for bad in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"] {
            assert_eq!(written(Cell::from(bad)), format!("'{bad}"));
        }
        for good in ["", "a=1", "'=1", " =1"] {
            assert_eq!(written(Cell::from(good)), good);
        }
    }
}

//! Apache Parquet, a row a record, zstd, the columns of [`COLUMNS`] with their types: texts are `STRING`, numbers
//! `INT64`, the time `TIMESTAMP(MICROS, UTC)`; a value that a record does not have is null.
//!
//! Keeps one group of rows (at most [`MAX_ROWS`] rows or [`MAX_BYTES`] of text) and, since the format has its
//! index at the end, some hundred bytes a group and column for the whole file.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use super::cell::{Cell, Kind};
use super::row::{COLUMNS, cells};
use super::{Form, Seen};

/// The most rows in a group.
const MAX_ROWS: usize = 32 << 10;

/// The most bytes of text in a group.
const MAX_BYTES: usize = 16 << 20;

/// A file of groups of rows.
pub(super) struct Groups<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<Column>,
    rows: usize,
    bytes: usize,
}

/// The values of one column, and which rows have none (definition level 0).
struct Column {
    values: Values,
    levels: Vec<i16>,
}

enum Values {
    Texts(Vec<ByteArray>),
    Numbers(Vec<i64>),
}

impl<W: Write + Send> Groups<W> {
    /// Begins the file.
    pub(super) fn new(output: W) -> io::Result<Self> {
        let fields = COLUMNS
            .into_iter()
            .map(|(name, kind)| {
                let (physical, logical) = match kind {
                    Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
                    Kind::Number => (Physical::INT64, None),
                    Kind::Time => (
                        Physical::INT64,
                        Some(LogicalType::Timestamp {
                            is_adjusted_to_u_t_c: true,
                            unit: TimeUnit::MICROS,
                        }),
                    ),
                };
                Type::primitive_type_builder(name, physical)
                    .with_repetition(Repetition::OPTIONAL)
                    .with_logical_type(logical)
                    .build()
                    .map(Arc::new)
            })
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let schema = Type::group_type_builder("record").with_fields(fields);
        let schema = schema.build().map_err(failed)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(format!("portcullis {}", env!("CARGO_PKG_VERSION")));
        let properties = Arc::new(properties.build());
        let writer = SerializedFileWriter::new(output, Arc::new(schema), properties);
        Ok(Self {
            writer: writer.map_err(failed)?,
            columns: COLUMNS.map(|(_, kind)| Column::new(kind)).into(),
            rows: 0,
            bytes: 0,
        })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column()? else {
                break;
            };
            let levels = Some(column.levels.as_slice());
            match &column.values {
                Values::Texts(texts) => writer
                    .typed::<ByteArrayType>()
                    .write_batch(texts, levels, None)?,
                Values::Numbers(numbers) => writer
                    .typed::<Int64Type>()
                    .write_batch(numbers, levels, None)?,
            };
            writer.close()?;
            column.clear();
        }
        group.close()?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }
}

impl<W: Write + Send> Form for Groups<W> {
    fn record(&mut self, line: &[u8]) -> io::Result<()> {
        let seen = Seen::parse(line)?;
        for (column, cell) in self.columns.iter_mut().zip(cells(&seen)) {
            column.push(cell);
        }
        self.rows += 1;
        self.bytes += line.len();
        if self.rows >= MAX_ROWS || self.bytes >= MAX_BYTES {
            self.write_group().map_err(failed)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.write_group().map_err(failed)?;
        self.writer.finish().map_err(failed)?;
        self.writer.inner_mut().flush()
    }
}

impl Column {
    fn new(kind: Kind) -> Self {
        let values = match kind {
            Kind::Text => Values::Texts(Vec::new()),
            Kind::Number | Kind::Time => Values::Numbers(Vec::new()),
        };
        Self {
            values,
            levels: Vec::new(),
        }
    }

    fn push(&mut self, cell: Cell<'_>) {
        let taken = match (&mut self.values, cell) {
            (Values::Texts(texts), Cell::Text(text)) => {
                texts.push(text.into_owned().into_bytes().into());
                true
            }
            (Values::Numbers(numbers), Cell::Number(number)) => {
                numbers.push(number);
                true
            }
            (Values::Numbers(numbers), Cell::Time(time)) => {
                numbers.push(time.as_microsecond());
                true
            }
            // No other kind of cell stands in a column, or it is empty.
            _ => false,
        };
        self.levels.push(i16::from(taken));
    }

    fn clear(&mut self) {
        self.levels.clear();
        match &mut self.values {
            Values::Texts(texts) => texts.clear(),
            Values::Numbers(numbers) => numbers.clear(),
        }
    }
}

/// Keeps an error of the output what it was: a closed pipe is no failure.
fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(cause) => io::Error::other(cause),
        },
        error => io::Error::other(error),
    }
}

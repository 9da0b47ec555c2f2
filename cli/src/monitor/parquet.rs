//! Writes rows as Parquet: a row group every so many rows, compressed with gzip.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result};
use parquet::basic::{Compression, GzipLevel, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type as Schema;

use super::table::{Cell, Rows, Table, Type};

/// Rows that are held in memory, and make a row group.
const GROUP_ROWS: usize = 16_384;

/// Writes rows as Parquet.
pub(crate) struct Parquet<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<(&'static str, Type)>,
    rows: Vec<Vec<Cell>>,
}

impl<W: Write + Send> Parquet<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// Output that fails.
    pub(crate) fn new(out: W, table: Table) -> Result<Parquet<W>> {
        let columns = table.columns();
        let fields = columns
            .iter()
            .map(|(name, kind)| {
                let (physical, logical) = match kind {
                    Type::Integer => (Physical::INT64, LogicalType::integer(64, false)),
                    Type::Real => {
                        return Schema::primitive_type_builder(name, Physical::DOUBLE)
                            .with_repetition(Repetition::OPTIONAL)
                            .build()
                            .map(Arc::new);
                    }
                    Type::Text => (Physical::BYTE_ARRAY, LogicalType::String),
                };
                Schema::primitive_type_builder(name, physical)
                    .with_repetition(Repetition::OPTIONAL)
                    .with_logical_type(Some(logical))
                    .build()
                    .map(Arc::new)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let schema = Schema::group_type_builder("monitor").with_fields(fields).build()?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::GZIP(GzipLevel::default()))
            .build();
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))?;
        Ok(Parquet { writer, columns, rows: Vec::new() })
    }

    /// Writes what is left, and the file's end.
    ///
    /// # Errors
    /// Output that fails.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.group()?;
        self.writer.close().context("the end of the Parquet file")?;
        Ok(())
    }

    fn group(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let mut group = self.writer.next_row_group()?;
        for (column, (_, kind)) in self.columns.iter().enumerate() {
            let cells = || rows.iter().map(|row| row.get(column).unwrap_or(&Cell::Empty));
            let present: Vec<i16> = cells().map(|cell| i16::from(*cell != Cell::Empty)).collect();
            let mut writer =
                group.next_column()?.context("a column that the schema has and the file lacks")?;
            match kind {
                Type::Integer => {
                    let values: Vec<i64> = cells()
                        .filter_map(|cell| match cell {
                            // The logical type says that the 64 bits are unsigned.
                            Cell::Integer(value) => Some(*value as i64),
                            _ => None,
                        })
                        .collect();
                    write_batch::<Int64Type>(&mut writer, &values, &present)?;
                }
                Type::Real => {
                    let values: Vec<f64> = cells()
                        .filter_map(|cell| match cell {
                            Cell::Real(value) => Some(*value),
                            _ => None,
                        })
                        .collect();
                    write_batch::<DoubleType>(&mut writer, &values, &present)?;
                }
                Type::Text => {
                    let values: Vec<ByteArray> = cells()
                        .filter_map(|cell| match cell {
                            Cell::Text(text) => Some(ByteArray::from(text.as_str())),
                            _ => None,
                        })
                        .collect();
                    write_batch::<ByteArrayType>(&mut writer, &values, &present)?;
                }
            }
            writer.close()?;
        }
        group.close()?;
        Ok(())
    }
}

fn write_batch<T: parquet::data_type::DataType>(
    writer: &mut SerializedColumnWriter<'_>,
    values: &[T::T],
    present: &[i16],
) -> Result<()> {
    writer.typed::<T>().write_batch(values, Some(present), None)?;
    Ok(())
}

impl<W: Write + Send> Rows for Parquet<W> {
    fn row(&mut self, cells: &[Cell]) -> Result<()> {
        self.rows.push(cells.to_vec());
        if self.rows.len() >= GROUP_ROWS { self.group() } else { Ok(()) }
    }
}

//! `whit monitor export`: logs for other tools.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::Args;

use super::{Logs, say_remarks};
use crate::monitor::merge::Merger;
use crate::monitor::metrics::{otlp, prometheus};
use crate::monitor::reading::{Read, read_logs};
use crate::monitor::table::{Csv, Rows, Table, Tabulate};

#[derive(Args)]
pub(crate) struct Export {
    #[command(flatten)]
    logs: Logs,
    #[command(flatten)]
    format: Format,
    /// What the rows of CSV and Parquet are
    #[arg(long, value_enum, default_value = "periods", conflicts_with_all = ["prometheus", "otlp_json"])]
    table: Table,
    /// One row for all periods of a device that begin in the same so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = ["prometheus", "otlp_json"])]
    every: Option<u32>,
    /// Where to; text goes to the terminal without it
    #[arg(short, long, value_name = "FILE", required_if_eq("parquet", "true"))]
    output: Option<PathBuf>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Format {
    /// Rows of text, separated by commas
    #[arg(long)]
    csv: bool,
    /// Rows as Apache Parquet
    #[arg(long)]
    parquet: bool,
    /// Totals of each device in Prometheus' text format
    #[arg(long)]
    prometheus: bool,
    /// Totals of each device in OpenTelemetry's protocol, as JSON
    #[arg(long)]
    otlp_json: bool,
}

impl Export {
    pub(crate) fn run(self) -> Result<ExitCode> {
        if self.every.is_some() && self.table != Table::Periods {
            anyhow::bail!("--every sums up periods: it goes with --table periods");
        }
        match self.write() {
            // A reader such as `head` may have seen enough.
            Err(error) if self.output.is_none() && is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
            Err(error) => Err(error),
            Ok(read) => {
                say_remarks(&read);
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    fn write(&self) -> Result<Read> {
        let selection = self.logs.selection();
        if self.format.prometheus || self.format.otlp_json {
            let mut merger = Merger::default();
            let read = read_logs(&self.logs.logs, &selection, &mut merger)?;
            let fleets = merger.finish();
            let text = if self.format.prometheus {
                prometheus(&fleets, &read)
            } else {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let now_s = now.map_or(0, |since| since.as_secs());
                format!("{}\n", serde_json::to_string_pretty(&otlp(&fleets, &read, now_s))?)
            };
            let mut out = self.open()?;
            out.write_all(text.as_bytes())
                .and_then(|()| out.flush())
                .with_context(|| self.name())?;
            return Ok(read);
        }
        let tabulate = |rows: &mut dyn Rows| -> Result<Read> {
            let mut sink = Tabulate::new(self.table, self.every, rows);
            let read = read_logs(&self.logs.logs, &selection, &mut sink)?;
            sink.finish()?;
            Ok(read)
        };
        if self.format.parquet {
            return match &self.output {
                Some(path) => write_parquet(path, self.table, tabulate),
                None => anyhow::bail!("--parquet needs -o FILE"),
            };
        }
        let mut csv = Csv::new(self.open()?, self.table).with_context(|| self.name())?;
        let read = tabulate(&mut csv)?;
        csv.finish().with_context(|| self.name())?;
        Ok(read)
    }

    fn name(&self) -> String {
        self.output.as_ref().map_or("the output".to_owned(), |path| path.display().to_string())
    }

    fn open(&self) -> Result<Box<dyn Write>> {
        Ok(match &self.output {
            Some(path) => {
                let file = File::create(path).with_context(|| path.display().to_string())?;
                Box::new(BufWriter::new(file))
            }
            None => Box::new(BufWriter::new(io::stdout().lock())),
        })
    }
}

#[cfg(feature = "parquet")]
fn write_parquet(
    path: &Path,
    table: Table,
    tabulate: impl FnOnce(&mut dyn Rows) -> Result<Read>,
) -> Result<Read> {
    let name = || path.display().to_string();
    let file = BufWriter::new(File::create(path).with_context(name)?);
    let mut rows = crate::monitor::parquet::Parquet::new(file, table).with_context(name)?;
    let read = tabulate(&mut rows)?;
    rows.finish().with_context(name)?;
    Ok(read)
}

#[cfg(not(feature = "parquet"))]
fn write_parquet(
    _: &Path,
    _: Table,
    _: impl FnOnce(&mut dyn Rows) -> Result<Read>,
) -> Result<Read> {
    anyhow::bail!(
        "this whit was built without Parquet: build it with `cargo build --release -p whit-cli --features parquet`, or export --csv"
    )
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

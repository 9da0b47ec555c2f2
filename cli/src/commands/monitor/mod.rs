//! `whit monitor`: what devices saw.

mod export;
mod merge;
mod record;
mod report;
mod samples;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::monitor::reading::{Read, Selection};

/// Writes and reads the logs of monitors.
#[derive(Args)]
pub(crate) struct Monitor {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run data through a model and write the log that a device with these inputs would write
    Record(record::Record),
    /// Sum up logs: latency, classes, quality, drift, alarms
    Report(report::Report),
    /// Write many logs as one, their counts summed up
    Merge(merge::Merge),
    /// Write logs for other tools: CSV, Parquet, Prometheus, OpenTelemetry
    Export(export::Export),
    /// Write the inputs that devices kept for labelling
    Samples(samples::Samples),
    /// Answer a browser and Prometheus with what logs say when they ask
    Serve(serve::Serve),
}

impl Monitor {
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Record(command) => command.run(),
            Command::Report(command) => command.run(),
            Command::Merge(command) => command.run(),
            Command::Export(command) => command.run(),
            Command::Samples(command) => command.run(),
            Command::Serve(command) => command.run(),
        }
    }
}

/// Which logs, and which of their records.
#[derive(Args, Clone, Debug)]
struct Logs {
    /// Logs, or folders with logs
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// Only this device
    #[arg(long, value_name = "NUMBER")]
    device: Option<u64>,
    /// Only this model: the 16 hexadecimal digits that reports show
    #[arg(long, value_name = "ID", value_parser = parse_model)]
    model_id: Option<u64>,
    /// Only periods that begin at this second of the device's clock or later
    #[arg(long, value_name = "SECOND")]
    from: Option<u32>,
    /// Only periods that begin before this second
    #[arg(long, value_name = "SECOND")]
    until: Option<u32>,
    /// Count a period once that several logs have, as copies of one device's log do
    #[arg(long)]
    once: bool,
}

impl Logs {
    fn selection(&self) -> Selection {
        Selection {
            device: self.device,
            model: self.model_id,
            from_s: self.from,
            until_s: self.until,
            once: self.once,
        }
    }
}

/// Tells on stderr what was remarkable about the logs.
fn say_remarks(read: &Read) {
    for sentence in read.sentences() {
        eprintln!("note: {sentence}");
    }
}

fn parse_model(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let valid = digits.len() <= 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u64::from_str_radix(digits, 16) {
        Ok(id) if valid => Ok(id),
        _ => {
            Err("a model is up to 16 hexadecimal digits, as `whit monitor report` shows them"
                .into())
        }
    }
}

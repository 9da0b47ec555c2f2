//! `whit monitor report`: logs summed up for a terminal, as JSON, as a page.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use super::Logs;
use crate::commands::{print_json, print_text};
use crate::monitor::merge::{Fleet, Merger};
use crate::monitor::page::page;
use crate::monitor::reading::{Read, read_logs};
use crate::monitor::summary::{Named, Summary, read_json};
use crate::monitor::text;

#[derive(Args)]
pub(crate) struct Report {
    #[command(flatten)]
    logs: Logs,
    /// The model that the devices run: its name and those of its tensors
    #[arg(long, value_name = "FILE.whit")]
    model: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Write a page with plots and explanations
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Report {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let named = self.model.as_deref().map(Named::open).transpose()?;
        let mut merger = Merger::default();
        let read = read_logs(&self.logs.logs, &self.logs.selection(), &mut merger)?;
        let fleets = merger.finish();
        check(&fleets, named.as_ref(), &read)?;
        let summaries: Vec<Summary<'_>> =
            fleets.iter().map(|fleet| Summary::new(fleet, named.as_ref())).collect();
        if let Some(path) = &self.html {
            std::fs::write(path, page(&summaries, &read, false)?)
                .with_context(|| path.display().to_string())?;
        }
        if self.json {
            print_json(&json!({
                "log": read_json(&read),
                "fleets": summaries.iter().map(Summary::json).collect::<Vec<_>>(),
            }))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut parts: Vec<String> = summaries.iter().map(text::fleet).collect();
        if fleets.len() > 1 {
            parts.insert(0, several(&fleets));
        }
        parts.push(remarks(&read));
        print_text(&parts.join("\n\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Refuses logs without anything to report, and a model that none of them is of.
pub(super) fn check(fleets: &[Fleet], named: Option<&Named>, read: &Read) -> Result<()> {
    if fleets.is_empty() {
        let said = read.sentences();
        let why = if said.is_empty() { String::new() } else { format!(": {}", said.join("; ")) };
        bail!("there is nothing to report{why}");
    }
    if let Some(named) = named
        && fleets.iter().all(|fleet| fleet.header.model != named.id)
    {
        let models: Vec<String> =
            fleets.iter().map(|fleet| format!("{:016x}", fleet.header.model)).collect();
        bail!(
            "{}: is model {:016x}, the logs are of {}; a model that was converted again is another one",
            named.file,
            named.id,
            models.join(", ")
        );
    }
    Ok(())
}

fn several(fleets: &[Fleet]) -> String {
    let mut models: Vec<u64> = fleets.iter().map(|fleet| fleet.header.model).collect();
    models.sort_unstable();
    models.dedup();
    format!(
        "The logs are of {} {} in {} configurations of the monitor, reported one by one.",
        models.len(),
        if models.len() == 1 { "model" } else { "models" },
        fleets.len()
    )
}

fn remarks(read: &Read) -> String {
    let remarks = &read.remarks;
    let mut lines = vec![format!(
        "{} records in {} {}, {}",
        remarks.records,
        read.logs,
        if read.logs == 1 { "log" } else { "logs" },
        crate::report::bytes(remarks.bytes)
    )];
    lines.extend(read.sentences().iter().map(|sentence| format!("note: {sentence}")));
    lines.join("\n")
}

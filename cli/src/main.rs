//! `whit`, the command-line tool: convert, inspect, run, evaluate, measure, verify.
#![forbid(unsafe_code)]

mod commands;
mod data;
mod decoder_rates;
mod metrics;
mod monitor;
mod new_file;
mod plots;
mod program;
mod report;
mod report_html;
mod roofline;
mod samples;
mod texts;
mod whit_file;

use std::process::ExitCode;

use clap::Parser;

/// Counts allocations, for `bench`'s `allocations_per_run`.
#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    match cli.command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}

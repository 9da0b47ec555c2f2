//! `whit`, the command-line tool: convert, inspect, run, evaluate, compare, measure, monitor.
#![forbid(unsafe_code)]

#[allow(dead_code, unused_imports, reason = "the commands that use it are being written")]
mod data;
#[allow(dead_code, unused_imports, reason = "the commands that use it are being written")]
mod metrics;
#[allow(dead_code, unused_imports, reason = "the commands that use it are being written")]
mod report;

fn main() {}

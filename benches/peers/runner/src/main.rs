//! Runs one model in Whit, tract, rten or candle, and times the runs inside the process.
//!
//! The same protocol as `worker.py`, by lines: a job as JSON comes in, then requests; an answer
//! as JSON goes out for each. Between requests the driver stops the process.

#[cfg(feature = "candle")]
mod candle;
mod job;
mod memory;
#[cfg(feature = "rten")]
mod rten;
#[cfg(feature = "tract")]
mod tract;
mod whit;

use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use job::{Job, Output};

/// A model that a runtime has loaded.
trait Engine {
    /// Makes a sample the input of the runs to come.
    fn select(&mut self, sample: usize) -> Result<()>;
    /// One inference. Outputs stay where the runtime puts them.
    fn run(&mut self) -> Result<()>;
    /// Outputs of the last run, as real numbers.
    fn outputs(&mut self) -> Result<Vec<Output>>;
    /// Calls `body` where the runtime runs fastest: rten's runs start in a pool of its own.
    fn within(
        &mut self,
        body: &mut (dyn FnMut(&mut dyn Engine) -> Result<()> + Send),
    ) -> Result<()>;
}

fn main() -> Result<()> {
    let mut lines = std::io::stdin().lock().lines();
    let line = lines.next().context("no job on standard input")??;
    let job: Job = serde_json::from_str(&line)?;
    if let Err(error) = serve(&job, lines) {
        answer(&json!({"error": format!("{error:#}")}))?;
    }
    Ok(())
}

fn answer(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

fn serve(job: &Job, lines: impl Iterator<Item = std::io::Result<String>>) -> Result<()> {
    let inputs = job.read_inputs()?;
    let base_bytes = memory::reset_peak()?;
    let start = Instant::now();
    match job.runtime.as_str() {
        // Whit's session borrows from the map, so the file is opened here.
        "whit" => {
            let file = ::whit::ModelFile::open(&job.model)?;
            let mut engine = whit::Whit::new(&file, job.threads, &inputs)?;
            answer_requests(&mut engine, start, base_bytes, job, lines)
        }
        #[cfg(feature = "tract")]
        "tract" => {
            let mut engine = tract::Tract::new(&job.model, job.threads, inputs)?;
            answer_requests(&mut engine, start, base_bytes, job, lines)
        }
        #[cfg(feature = "rten")]
        "rten" => {
            let mut engine = rten::Rten::new(&job.model, job.threads, inputs)?;
            answer_requests(&mut engine, start, base_bytes, job, lines)
        }
        #[cfg(feature = "candle")]
        "candle" => {
            let mut engine = candle::Candle::new(&job.model, inputs)?;
            answer_requests(&mut engine, start, base_bytes, job, lines)
        }
        other => bail!("the runner was built without {other}"),
    }
}

/// The first run belongs to the cold start; then one answer for each request, until the end of the input.
fn answer_requests(
    engine: &mut dyn Engine,
    start: Instant,
    base_bytes: u64,
    job: &Job,
    lines: impl Iterator<Item = std::io::Result<String>>,
) -> Result<()> {
    engine.select(0)?;
    engine.run()?;
    let cold_ns = start.elapsed().as_nanos() as u64;
    let peak_bytes = memory::peak()?;
    answer(&json!({"cold_ns": cold_ns, "base_bytes": base_bytes, "peak_bytes": peak_bytes}))?;
    for line in lines {
        let line = line?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["run", warm_up, runs] => {
                let times = time(engine, warm_up.parse()?, runs.parse()?)?;
                answer(&json!({"ns": times}))?;
            }
            ["outputs", folder] => {
                for sample in 0..job.samples {
                    engine.select(sample)?;
                    engine.run()?;
                    for (index, output) in engine.outputs()?.iter().enumerate() {
                        let path = format!("{folder}/{index}.f32");
                        output.append(&path, sample == 0).with_context(|| path.clone())?;
                    }
                }
                engine.select(0)?;
                engine.run()?;
                let outputs: Vec<Value> = engine.outputs()?.iter().map(Output::describe).collect();
                answer(&json!({"outputs": outputs}))?;
            }
            _ => bail!("unknown request `{line}`"),
        }
    }
    Ok(())
}

fn time(engine: &mut dyn Engine, warm_up: usize, runs: usize) -> Result<Vec<u64>> {
    let mut times = Vec::with_capacity(runs);
    engine.within(&mut |engine| {
        for _ in 0..warm_up {
            engine.run()?;
        }
        for _ in 0..runs {
            let start = Instant::now();
            engine.run()?;
            times.push(start.elapsed().as_nanos() as u64);
        }
        Ok(())
    })?;
    Ok(times)
}

//! `whit bench`: latency, memory and work of a model, as JSON or for people.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use stats_alloc::Region;
use whit::format::{Op, StepRecord};
use whit::{DType, Model, Prepared, Session, SessionError};
use whit_convert::evaluate::fill_pseudo_random;

use super::{ModelPath, Target, print_json, print_text};
use crate::decoder_rates::Rates;
use crate::program::{self, Backend};
use crate::report::{self, Align};
use crate::roofline::{Near, Roofline};
use crate::whit_file;

/// Runs before measuring: caches and the branch predictor settle.
const WARM_UP: Duration = Duration::from_millis(100);

/// Latencies kept at most; a longer measurement overwrites the oldest.
const MAX_LATENCIES: usize = 1 << 20;

/// Start of the pseudo-random inputs: the same in every measurement.
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

#[derive(Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    path: ModelPath,
    #[command(flatten)]
    target: Target,
    /// Size of a dimension that is chosen at run time; the largest unless given
    #[arg(long = "dim", value_name = "NAME=N", value_parser = parse_dimension)]
    dims: Vec<(String, u32)>,
    /// How long to measure
    #[arg(long, default_value_t = 1.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Show the time of every step, beside what this machine can do at most
    #[arg(long)]
    profile: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

fn parse_dimension(text: &str) -> Result<(String, u32), String> {
    let (name, size) = text.rsplit_once('=').ok_or("write NAME=N")?;
    let size = size.parse().map_err(|_| format!("`{size}` is not a whole number"))?;
    Ok((name.to_owned(), size))
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.01..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("between 0.01 and 3600".to_owned())
    }
}

/// Time spent in each step over some runs.
#[derive(Default)]
pub(crate) struct Profile {
    step_ns: Vec<u64>,
    runs: u64,
    /// Whether a dimension was below its largest. The file has the work of the largest only.
    is_smaller: bool,
}

impl Profile {
    /// Runs the session once, timing every step.
    pub(crate) fn run(&mut self, session: &mut Session<'_>) -> Result<(), SessionError> {
        self.step_ns.resize(session.model().header().step_count as usize, 0);
        let mut symbols = session.model().symbols().enumerate();
        self.is_smaller =
            symbols.any(|(index, symbol)| session.dimension(index) != Some(symbol.max));
        let steps = &mut self.step_ns;
        let mut before = Instant::now();
        session.run_observed(|step, _| {
            let now = Instant::now();
            steps[step] += (now - before).as_nanos() as u64;
            before = now;
        })?;
        self.runs += 1;
        Ok(())
    }

    /// Mean microseconds of a step.
    fn mean_us(&self, step: usize) -> f64 {
        self.step_ns.get(step).map_or(0.0, |ns| *ns as f64 / 1e3 / self.runs.max(1) as f64)
    }

    /// Products of a step, where the file says how many there were.
    fn macs(&self, step: &StepRecord) -> Option<u64> {
        (!self.is_smaller).then_some(step.macs)
    }

    pub(crate) fn json(&self, model: &Model<'_>, roofline: Option<&Roofline>) -> Value {
        let roofline = roofline.filter(|_| !self.is_smaller);
        model
            .steps()
            .enumerate()
            .map(|(index, step)| {
                let mean_us = self.mean_us(index);
                let near = roofline.map(|roofline| roofline.near(model, &step, mean_us));
                json!({
                    "step": index,
                    "op": Op::from_number(step.op).map_or("unknown", |op| op.name()),
                    "variant": DType::from_number(step.variant).map(DType::name),
                    "name": model.text(step.name),
                    "mean_us": mean_us,
                    "macs": self.macs(&step),
                    "gmacs_per_s": self.macs(&step).map(|macs| macs as f64 / mean_us / 1e3),
                    "macs_per_cycle": near.as_ref().and_then(|near| near.macs_per_cycle),
                    "share_of_peak": near.as_ref().and_then(|near| near.of_peak),
                    "share_of_roofline": near.as_ref().map(|near| near.of_roof),
                    "bound": near.as_ref().map(Near::bound),
                })
            })
            .collect()
    }
}

/// The steps of a profile, the model's order.
pub(crate) fn profile_table(
    profile: &Profile,
    model: &Model<'_>,
    roofline: Option<&Roofline>,
) -> String {
    let roofline = roofline.filter(|_| !profile.is_smaller);
    let total: f64 = (0..profile.step_ns.len()).map(|step| profile.mean_us(step)).sum();
    let rows: Vec<Vec<String>> = model
        .steps()
        .enumerate()
        .map(|(index, step)| {
            let mean_us = profile.mean_us(index);
            let op = Op::from_number(step.op).map_or("unknown", |op| op.name());
            let mut row = vec![
                index.to_string(),
                format!("{op} {}", DType::from_number(step.variant).map_or("", DType::name)),
                model.text(step.name).to_owned(),
                report::micros(mean_us),
                report::percent(mean_us / total),
                match profile.macs(&step) {
                    Some(macs) if macs > 0 => format!("{:.1}", macs as f64 / mean_us / 1e3),
                    _ => String::new(),
                },
            ];
            if let Some(near) = roofline.map(|roofline| roofline.near(model, &step, mean_us)) {
                let cycle = near.macs_per_cycle.map_or(String::new(), |macs| format!("{macs:.1}"));
                row.extend([
                    cycle,
                    near.of_peak.map_or(String::new(), report::percent),
                    report::percent(near.of_roof),
                    near.bound().to_owned(),
                ]);
            }
            row
        })
        .collect();
    let (left, right) = (Align::Left, Align::Right);
    let mut header = vec![
        ("step", right),
        ("operator", left),
        ("node", left),
        ("mean", right),
        ("share", right),
        ("GMAC/s", right),
    ];
    if roofline.is_some() {
        header.extend([
            ("MAC/cycle", right),
            ("of peak", right),
            ("of roofline", right),
            ("bound", left),
        ]);
    }
    report::table(&header, &rows)
}

/// What was measured.
pub(crate) struct Measured {
    pub(crate) runs: u64,
    /// Sorted, in microseconds.
    pub(crate) latencies_us: Vec<f64>,
    pub(crate) open_us: f64,
    pub(crate) prepare_us: f64,
    pub(crate) first_run_us: f64,
    pub(crate) allocations_per_run: f64,
    pub(crate) session_bytes: usize,
    /// `None` where it isn't the CPU that runs.
    pub(crate) isa: Option<whit::Isa>,
    /// That take part, at most as many as asked for.
    pub(crate) threads: usize,
    /// Whether a dimension was below its largest.
    is_smaller: bool,
}

impl Measured {
    /// The latency below which this share of runs stays.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        self.latencies_us.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
    }

    fn mean(&self) -> f64 {
        self.latencies_us.iter().sum::<f64>() / self.latencies_us.len().max(1) as f64
    }
}

/// Whether a dimension is below its largest.
fn is_smaller(session: &dyn Prepared<'_>) -> bool {
    let mut symbols = session.model().symbols().enumerate();
    symbols.any(|(index, symbol)| session.dimension(index) != Some(symbol.max))
}

fn micros_since(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64 / 1e3
}

/// The elements of inputs that hold integers, such as indices. A run may overwrite its inputs, and the next needs them.
struct Integers(Vec<(usize, Vec<u8>)>);

impl Integers {
    fn of(session: &mut dyn Prepared<'_>) -> Result<Integers> {
        let model = *session.model();
        let mut inputs = Vec::new();
        for (index, tensor) in model.inputs().enumerate() {
            let dtype = model.tensor(tensor).and_then(|tensor| DType::from_number(tensor.dtype));
            if matches!(dtype, Some(DType::I32 | DType::I64)) {
                inputs.push((index, session.input_bytes(index)?.to_vec()));
            }
        }
        Ok(Integers(inputs))
    }

    fn restore(&self, session: &mut dyn Prepared<'_>) -> Result<()> {
        for (index, bytes) in &self.0 {
            session.set_input_bytes(*index, bytes)?;
        }
        Ok(())
    }
}

/// Opens, prepares and runs a model with these dimensions, others at their largest, for about `seconds`. Inputs are
/// pseudo-random: small reals, any i8, 0 or 1 for other integers.
pub(crate) fn measure(
    bytes: &[u8],
    settings: impl Into<whit_file::Settings>,
    dims: &[(String, u32)],
    seconds: f64,
) -> Result<Measured> {
    let start = Instant::now();
    let model = Model::open(bytes)?;
    let open_us = micros_since(start);
    let start = Instant::now();
    let mut program = program::prepare(model, settings)?;
    let prepare_us = micros_since(start);
    let session = program.prepared();
    whit_file::set_dimensions(session, dims)?;
    fill_pseudo_random(session, &mut SEED.clone())?;
    let integers = Integers::of(session)?;
    let start = Instant::now();
    session.run().map_err(|e| whit_file::named(&model, e))?;
    let first_run_us = micros_since(start);

    let warm = Instant::now();
    while warm.elapsed() < WARM_UP.min(Duration::from_secs_f64(seconds)) {
        integers.restore(session)?;
        session.run()?;
    }
    let mut latencies_us = Vec::with_capacity(MAX_LATENCIES);
    let mut runs = 0u64;
    let region = Region::new(crate::ALLOCATOR);
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < seconds || runs == 0 {
        integers.restore(session)?;
        let start = Instant::now();
        session.run()?;
        let us = start.elapsed().as_nanos() as f64 / 1e3;
        if latencies_us.len() < MAX_LATENCIES {
            latencies_us.push(us);
        } else {
            latencies_us[(runs % MAX_LATENCIES as u64) as usize] = us;
        }
        runs += 1;
    }
    let allocations = region.change().allocations + region.change().reallocations;
    latencies_us.sort_by(f64::total_cmp);
    let is_smaller = is_smaller(session);
    Ok(Measured {
        is_smaller,
        runs,
        latencies_us,
        open_us,
        prepare_us,
        first_run_us,
        allocations_per_run: allocations as f64 / runs as f64,
        session_bytes: program.bytes(),
        isa: program.isa(),
        threads: program.threads(),
    })
}

/// Largest resident memory of this process so far, where the system tells.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let map = Instant::now();
        let file = whit_file::open(&self.path.model)?;
        let map_us = micros_since(map);
        let model = whit_file::model(&file, &self.path.model)?;
        let settings = self.target.settings()?;
        if self.profile && settings.backend != Backend::Cpu {
            bail!("--profile: only on the CPU; leave out `--backend {}`", settings.backend.name());
        }
        let mut measured = measure(file.bytes(), settings, &self.dims, self.seconds)?;
        measured.open_us += map_us;
        let mut profile = Profile::default();
        let roofline = measured.isa.filter(|_| self.profile).map(Roofline::measure);
        if self.profile {
            let mut session = whit_file::session(model, settings)?;
            whit_file::set_dimensions(&mut session, &self.dims)?;
            fill_pseudo_random(&mut session, &mut SEED.clone())?;
            let integers = Integers::of(&mut session)?;
            let begin = Instant::now();
            while begin.elapsed().as_secs_f64() < self.seconds.min(2.0) {
                integers.restore(&mut session)?;
                profile.run(&mut session)?;
            }
        }
        let rates = Rates::measure(model, settings)?;
        let header = model.header();
        let p50 = measured.percentile(0.5);
        // The file says how much work there is at the largest dimensions.
        let gmacs_per_s = (!measured.is_smaller).then(|| header.macs as f64 / p50 / 1e3);
        if self.json {
            let mut object = json!({
                "model": self.path.model.display().to_string(),
                "backend": settings.backend.name(),
                "isa": measured.isa.map(whit::Isa::name),
                "threads": measured.threads,
                "runs": measured.runs,
                "latency_us": {
                    "min": measured.percentile(0.0),
                    "p50": p50,
                    "p90": measured.percentile(0.9),
                    "p99": measured.percentile(0.99),
                    "max": measured.percentile(1.0),
                    "mean": measured.mean(),
                },
                "open_us": measured.open_us,
                "prepare_us": measured.prepare_us,
                "first_run_us": measured.first_run_us,
                "arena_bytes": header.arena_bytes,
                "state_bytes": header.state_bytes,
                "weight_bytes": header.weight_bytes,
                "file_bytes": header.file_bytes,
                "session_bytes": measured.session_bytes,
                "macs": header.macs,
                "gmacs_per_s": gmacs_per_s,
                "peak_rss_bytes": peak_rss_bytes(),
                "allocations_per_run": measured.allocations_per_run,
            });
            if let Some(rates) = &rates {
                rates.add_to(&mut object);
            }
            if let Some(roofline) = &roofline {
                object["profile"] = profile.json(&model, Some(roofline));
                object["machine"] = roofline.json();
            }
            print_json(&object)?;
            return Ok(ExitCode::SUCCESS);
        }
        let us = report::micros;
        let mut fields = vec![
            (
                "runs",
                format!(
                    "{} on {}, {} {}",
                    measured.runs,
                    measured.isa.map_or(settings.backend.name(), whit::Isa::name),
                    measured.threads,
                    if measured.threads == 1 { "thread" } else { "threads" }
                ),
            ),
            (
                "latency",
                format!(
                    "p50 {}   min {}   p90 {}   p99 {}   max {}",
                    us(p50),
                    us(measured.percentile(0.0)),
                    us(measured.percentile(0.9)),
                    us(measured.percentile(0.99)),
                    us(measured.percentile(1.0))
                ),
            ),
            (
                "cold start",
                format!(
                    "open {}   prepare {}   first run {}",
                    us(measured.open_us),
                    us(measured.prepare_us),
                    us(measured.first_run_us)
                ),
            ),
            (
                "memory",
                format!(
                    "arena {}   session {}   weights {}   file {}",
                    report::bytes(header.arena_bytes),
                    report::bytes(measured.session_bytes as u64),
                    report::bytes(header.weight_bytes),
                    report::bytes(header.file_bytes)
                ),
            ),
            (
                "work",
                match gmacs_per_s {
                    Some(rate) => format!("{}   {rate:.1} GMAC/s", report::macs(header.macs)),
                    None => format!("{} at the largest dimensions", report::macs(header.macs)),
                },
            ),
            ("allocations", format!("{} per run", measured.allocations_per_run)),
        ];
        fields.extend(rates.map(|rates| ("tokens", rates.text())));
        print_text(&report::fields(&fields))?;
        if let Some(roofline) = &roofline {
            let table = profile_table(&profile, &model, Some(roofline));
            print_text(&format!("\n{}\n\n{table}", roofline.text()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

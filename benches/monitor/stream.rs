//! Runs a model with its monitor, or one change detector, over a stream, and prints every alarm: what `streams.py` drives.
//!
//! ```text
//! monitor-stream run MODEL.whit INPUTS.f32 [--labels CLASSES.i32] [--statistic psi|js|ks] [--signals OUT.i32]
//! monitor-stream detect SIGNAL.i32 SOURCE A,B,C
//! ```
//!
//! Files are little-endian numbers without a header. `run` closes a period at the end of every window, so that an alarm
//! doesn't end the tests. It prints `alarm,RUN,KIND` (RUN from 0: the run after which it was raised), `drifted,RUN,FEATURES` for
//! windows with drifted features, and last what the monitor costs. OUT.i32 has, for each run, confidence and entropy in 2⁻¹⁵,
//! value, class. `detect` prints `alarm,INDEX,SOURCE` and what a number costs.

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::time::Instant;

use whit::metrics::baseline::Baseline;
use whit::metrics::counters::{Event, Group};
use whit::metrics::detect::{Detector, DetectorRecord};
use whit::metrics::drift::Statistic;
use whit::metrics::record::{Scores, Source};
use whit::metrics::scores::Scorer;
use whit::metrics::{Config, Monitor};

use whit::{DType, Model, ModelFile, Options, Session};

type Failure = Box<dyn Error>;

/// What a run can raise, by the events that count it.
const KINDS: [(Event, &str); 8] = [
    (Event::InputDrifts, "inputs"),
    (Event::ClassDrifts, "classes"),
    (Event::ConfidenceDrifts, "confidence"),
    (Event::PageHinkleyAlarms, "page_hinkley"),
    (Event::CusumAlarms, "cusum"),
    (Event::EwmaAlarms, "ewma"),
    (Event::DdmAlarms, "ddm"),
    (Event::AdwinAlarms, "adwin"),
];

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut out = BufWriter::new(io::stdout().lock());
    match &words[..] {
        ["run", model, inputs, options @ ..] => run(model, inputs, options, &mut out)?,
        ["detect", signal, source, parameters] => detect(signal, source, parameters, &mut out)?,
        _ => return Err("run MODEL INPUTS [OPTIONS], or detect SIGNAL SOURCE A,B,C".into()),
    }
    Ok(out.flush()?)
}

fn run(path: &str, inputs: &str, options: &[&str], out: &mut dyn Write) -> Result<(), Failure> {
    let file = ModelFile::open(path)?;
    let model = file.model()?;
    let baseline = Baseline::of(&model).map_err(|e| e.to_string())?.ok_or("no baseline")?;
    let mut config = Config { window_every: 0, samples: 0, ..Config::default() };
    let (mut labels, mut signals) = (None, None);
    for option in options.chunks(2) {
        match option {
            ["--labels", path] => labels = Some(numbers(path, i32::from_le_bytes)?),
            ["--signals", path] => signals = Some(path),
            ["--statistic", "psi"] => config.statistic = Statistic::Psi,
            ["--statistic", "js"] => config.statistic = Statistic::JensenShannon,
            ["--statistic", "ks"] => config.statistic = Statistic::KolmogorovSmirnov,
            _ => return Err(format!("{option:?}?").into()),
        }
    }
    let mut session = Session::new(model, Options::default())?;
    let elements = session.input_slot(0)?.elements();
    let inputs = numbers(inputs, f32::from_le_bytes)?;
    let rows = || inputs.chunks_exact(elements);

    let begin = Instant::now();
    for row in rows() {
        session.set_input_f32(0, row)?;
        session.run()?;
    }
    let alone = begin.elapsed();

    let mut memory = vec![0; Monitor::memory_bytes(&model, &config)?];
    let mut monitor = Monitor::new(&model, &config, &mut memory, (0, 0))?;
    let mut alarms = Vec::new();
    let mut log = Vec::new();
    let mut counted = [0; KINDS.len()];
    let begin = Instant::now();
    for (at, row) in rows().enumerate() {
        session.set_input_f32(0, row)?;
        let number = monitor.run(&mut session, &mut || 0)?;
        if let Some(label) = labels.as_ref().and_then(|labels| labels.get(at)) {
            monitor.label_class(number, *label as u32).map_err(|e| format!("{e:?}"))?;
        }
        for (count, (event, kind)) in counted.iter_mut().zip(KINDS) {
            if monitor.event(event) > *count {
                *count = monitor.event(event);
                alarms.push((at, kind));
            }
        }
        if monitor.event(Event::Windows) == 0 {
            continue;
        }
        if monitor.event(Event::InputDrifts) > 0 {
            let drifted = (0..baseline.header().features)
                .filter(|feature| monitor.get(Group::Drifted, (*feature).into()) > 0)
                .count();
            writeln!(out, "drifted,{at},{drifted}")?;
        }
        monitor.close_period(at as u32, &mut log).map_err(|e| format!("{e:?}"))?;
        log.clear();
        counted = [0; KINDS.len()];
    }
    let watched = begin.elapsed();
    for (at, kind) in alarms {
        writeln!(out, "alarm,{at},{kind}")?;
    }
    let runs = rows().len();
    let ns = watched.saturating_sub(alone).as_nanos() / runs.max(1) as u128;
    writeln!(out, "runs,{runs}")?;
    writeln!(out, "window_runs,{}", baseline.header().window_runs)?;
    writeln!(out, "monitor_ns_per_run,{ns}")?;
    writeln!(out, "monitor_bytes,{}", memory_bytes(&model, &config)?)?;
    if let Some(path) = signals {
        std::fs::write(path, signals_of(&mut session, &baseline, rows())?)?;
    }
    Ok(())
}

fn memory_bytes(model: &Model<'_>, config: &Config) -> Result<usize, Failure> {
    Ok(Monitor::memory_bytes(model, config)? + size_of::<Monitor<'_>>())
}

/// What detectors are given: runs again, as the monitor doesn't tell.
fn signals_of<'r>(
    session: &mut Session<'_>,
    baseline: &Baseline<'_>,
    rows: impl Iterator<Item = &'r [f32]>,
) -> Result<Vec<u8>, Failure> {
    let header = baseline.header();
    let slot = session.output_slot(0)?;
    let scores = Scores::from_number(header.scores).ok_or("unknown scores")?;
    let unit = if slot.dtype().is_float() { header.value_unit } else { 1.0 };
    let numbers: (DType, f32, i32) = (slot.dtype(), slot.scale(), slot.zero_point());
    let scorer = Scorer::new(scores, header.classes, numbers, unit).ok_or("no scores")?;
    let mut out = Vec::new();
    for row in rows {
        session.set_input_f32(0, row)?;
        session.run()?;
        let scored = scorer.score(session.output_bytes(0)?).map_err(|e| format!("{e:?}"))?;
        let (confidence, entropy) = (scored.confidence.into(), scored.entropy.into());
        for number in [confidence, entropy, scored.value, scored.class.into()] {
            out.extend(i32::to_le_bytes(number));
        }
    }
    Ok(out)
}

fn detect(
    signal: &str,
    source: &str,
    parameters: &str,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let signal = numbers(signal, i32::from_le_bytes)?;
    let kinds = [
        (Source::PageHinkley, "page_hinkley"),
        (Source::Cusum, "cusum"),
        (Source::Ewma, "ewma"),
        (Source::Ddm, "ddm"),
        (Source::Adwin, "adwin"),
    ];
    let (number, _) = kinds.iter().find(|(_, name)| *name == source).ok_or("which detector?")?;
    let parameters: Vec<i32> = parameters.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let record = DetectorRecord {
        source: *number as u8,
        parameters: parameters.try_into().map_err(|_| "three parameters")?,
        ..DetectorRecord::default()
    };
    let mut detector = Detector::new(&record).ok_or("no detector")?;
    let begin = Instant::now();
    let alarms: Vec<usize> =
        (signal.iter().enumerate()).filter_map(|(at, x)| detector.add(*x).map(|_| at)).collect();
    let ns = begin.elapsed().as_nanos() as f64 / signal.len().max(1) as f64;
    for at in alarms {
        writeln!(out, "alarm,{at},{source}")?;
    }
    let bytes = match detector {
        Detector::PageHinkley(detector) => size_of_val(&detector),
        Detector::Cusum(detector) => size_of_val(&detector),
        Detector::Ewma(detector) => size_of_val(&detector),
        Detector::Ddm(detector) => size_of_val(&detector),
        Detector::Adwin(detector) => size_of_val(&detector),
    };
    writeln!(out, "ns_per_number,{ns:.1}")?;
    Ok(writeln!(out, "state_bytes,{bytes}")?)
}

/// The numbers of a file.
fn numbers<T>(path: &str, read: fn([u8; 4]) -> T) -> Result<Vec<T>, Failure> {
    let bytes = std::fs::read(path).map_err(|e| format!("{path}: {e}"))?;
    Ok(bytes.chunks_exact(4).map(|raw| read([raw[0], raw[1], raw[2], raw[3]])).collect())
}

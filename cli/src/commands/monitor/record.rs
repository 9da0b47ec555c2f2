//! `whit monitor record`: what a device would log that sees this data.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use whit::metrics::counters::Event;
use whit::metrics::record::{Scores, Signal};
use whit::metrics::{Config, FileLog, LEAST_FILE_BYTES, Monitor, PERIOD_RUNS, Recovered};
use whit_convert::evaluate::{Samples, feed};

use crate::commands::eval::class_labels;
use crate::commands::{Images, ModelPath, Sequence, Target, print_json, print_text};
use crate::data::Dataset;
use crate::samples::{Bound, progress_bar};
use crate::whit_file::{self, input_specs, tensor_info};

#[derive(Args)]
pub(crate) struct Record {
    #[command(flatten)]
    path: ModelPath,
    /// Inputs in the order in which they come, and labels if there are: .npz, folder of .npy, or folder of images by class
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// The log to write; one that is there is gone on with
    #[arg(short, long, value_name = "LOG")]
    output: PathBuf,
    /// Length of the log at most, in bytes: before it is longer, its older half is summed up
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(LEAST_FILE_BYTES..))]
    limit: u64,
    /// Runs of a period: what a record sums up
    #[arg(long, value_name = "RUNS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(PERIOD_RUNS)))]
    period: u32,
    /// Labels arrive so many runs after theirs
    #[arg(long, value_name = "RUNS", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=4096))]
    label_delay: u16,
    /// Leave out labels, though the data has them
    #[arg(long, conflicts_with = "label_delay")]
    no_labels: bool,
    /// What the first output is, for models without a baseline
    #[arg(long, value_enum)]
    scores: Option<ScoresArg>,
    /// Seconds from one sample to the next on the log's clock (default: the time that passes here)
    #[arg(long, value_name = "SECONDS")]
    interval: Option<NonZeroU32>,
    /// Runs that take longer miss their deadline
    #[arg(long, value_name = "MICROSECONDS")]
    deadline: Option<u32>,
    /// Inputs that are kept of each period for labelling, the least certain
    #[arg(long, value_name = "N", default_value_t = Config::DEFAULT.samples)]
    samples: u16,
    /// Keep a quantile sketch of a signal, in 2 KB
    #[arg(long, value_enum)]
    sketch: Option<SignalArg>,
    /// Number of the device
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    device: u64,
    #[command(flatten)]
    sequence: Sequence,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    images: Images,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ScoresArg {
    /// A probability per class
    Probabilities,
    /// A logit per class
    Logits,
    /// The probability of class 1 out of two
    Probability,
    /// The logit of class 1 out of two
    Logit,
    /// An estimate of a number
    Value,
}

impl From<ScoresArg> for Scores {
    fn from(arg: ScoresArg) -> Scores {
        match arg {
            ScoresArg::Probabilities => Scores::Probabilities,
            ScoresArg::Logits => Scores::Logits,
            ScoresArg::Probability => Scores::Probability,
            ScoresArg::Logit => Scores::Logit,
            ScoresArg::Value => Scores::Value,
        }
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum SignalArg {
    /// Confidence of each run
    Confidence,
    /// Entropy of each run's scores
    Entropy,
    /// Latency of each run
    Latency,
    /// Each estimate of a model of values
    Value,
}

impl From<SignalArg> for Signal {
    fn from(arg: SignalArg) -> Signal {
        match arg {
            SignalArg::Confidence => Signal::Confidence,
            SignalArg::Entropy => Signal::Entropy,
            SignalArg::Latency => Signal::Latency,
            SignalArg::Value => Signal::Value,
        }
    }
}

/// Room for items of a sketch: with its head 2 KB.
const SKETCH_ITEMS: u16 = 472;

/// A sample's label.
#[derive(Clone, Copy)]
enum Label {
    Class(u32),
    Value(f32),
}

/// Seconds since 1970, modulo 2³².
fn seconds() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32)
}

impl Record {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let file = whit_file::open(&self.path.model)?;
        let model = whit_file::model(&file, &self.path.model)?;
        let image_spec = whit_file::image_spec(&input_specs(&model), &self.images);
        let data = Dataset::open(&self.data, image_spec.as_ref())?;
        let infos: Vec<_> =
            model.inputs().filter_map(|tensor| tensor_info(&model, tensor)).collect();
        let ranks: Vec<usize> = infos.iter().map(|info| info.dims.len()).collect();
        let bound = Bound::new(&data, input_specs(&model), &ranks)?;
        let mut session = whit_file::session(model, self.target.settings()?)?;

        let labelled = data.labels.is_some() && !self.no_labels;
        let config = Config {
            scores: self.scores.map(Scores::from),
            device: self.device,
            deadline_us: self.deadline.unwrap_or(u32::MAX),
            labels: if labelled { self.label_delay.max(Config::DEFAULT.labels - 1) + 1 } else { 0 },
            samples: self.samples,
            sample_bytes: u32::MAX,
            record_bytes: u16::MAX,
            sketch: match self.sketch {
                Some(signal) => (signal.into(), SKETCH_ITEMS),
                None => Config::DEFAULT.sketch,
            },
            ..Config::default()
        };
        let mut memory = vec![0; Monitor::memory_bytes(&model, &config)?];
        let begin_s = seconds();
        let in_log = || self.output.display().to_string();
        let mut log = FileLog::open(&self.output, self.limit).with_context(in_log)?;
        say_recovered(&log.recovered());
        let mut monitor =
            Monitor::start(&model, &config, &mut memory, &mut log, begin_s).with_context(in_log)?;
        let first = monitor.sequence();
        let header = *monitor.header();
        if header.scores == Scores::None as u8 && self.scores.is_none() {
            eprintln!(
                "note: {} has no baseline, so that its output means nothing to the monitor: --scores says what it is, `whit convert --monitor default` stores one",
                self.path.model.display()
            );
        }
        let labels = match header.labels {
            0 => Vec::new(),
            1 => {
                let names = whit_file::class_names(&model);
                let labels = class_labels(names.as_deref(), &data, header.classes.into())?;
                labels.into_iter().map(|class| Label::Class(class as u32)).collect()
            }
            _ => {
                let values = data.targets()?;
                if values.len() != bound.len() {
                    bail!(
                        "{}: {} labels for {} samples of one value each",
                        self.data.display(),
                        values.len(),
                        bound.len()
                    );
                }
                values.into_iter().map(Label::Value).collect()
            }
        };

        let clock = Instant::now();
        let mut now_us = || clock.elapsed().as_micros() as u32;
        let now_s = |samples: usize| match self.interval {
            Some(interval) => begin_s.wrapping_add((samples as u32).wrapping_mul(interval.get())),
            None => seconds(),
        };
        let bar = (!self.json).then(|| progress_bar("recording", bound.len()));
        let mut waiting = VecDeque::new();
        let (mut alarms, mut drifts) = (0u64, 0u64);
        for sample in 0..bound.len() {
            if self.sequence.begins(sample) {
                session.reset_state();
            }
            feed(&mut session, &bound, sample)?;
            let run = monitor
                .run(&mut session, &mut now_us)
                .map_err(|e| whit_file::named(&model, e).context(format!("sample {sample}")))?;
            waiting.extend(labels.get(sample).map(|label| (run, *label)));
            if waiting.len() > usize::from(self.label_delay) {
                tell(&mut monitor, waiting.pop_front());
            }
            if (sample + 1) % self.period as usize == 0 || sample + 1 == bound.len() {
                if sample + 1 == bound.len() {
                    waiting.drain(..).for_each(|waiting| tell(&mut monitor, Some(waiting)));
                }
                let count = |events: &[Event]| -> u64 {
                    events.iter().map(|event| u64::from(monitor.event(*event))).sum()
                };
                drifts += count(&[Event::InputDrifts, Event::ClassDrifts, Event::ConfidenceDrifts]);
                alarms += count(&[
                    Event::PageHinkleyAlarms,
                    Event::CusumAlarms,
                    Event::EwmaAlarms,
                    Event::DdmAlarms,
                    Event::AdwinAlarms,
                ]);
                monitor.close_period(now_s(sample + 1), &mut log).with_context(in_log)?;
            }
            if let Some(bar) = &bar {
                bar.set_position(sample as u64 + 1);
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let bytes = log.bytes();
        let periods = monitor.sequence().wrapping_sub(first);
        if self.json {
            print_json(&json!({
                "log": self.output.display().to_string(), "bytes": bytes, "runs": bound.len(), "periods": periods,
                "drifts": drifts, "detector_alarms": alarms, "monitor_bytes": size_of::<Monitor<'_>>() + memory.len(),
            }))?;
        } else {
            print_text(&format!(
                "{}: {} runs in {periods} periods, {bytes} bytes; {drifts} windows drifted, {alarms} alarms of detectors\nwhit monitor report {} shows it",
                self.output.display(),
                bound.len(),
                self.output.display()
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Tells what a log that is gone on with had lost.
fn say_recovered(recovered: &Recovered) {
    if recovered.cut_bytes > 0 {
        eprintln!(
            "note: the log ended within a record; its {} bytes were cut off",
            recovered.cut_bytes
        );
    }
    if recovered.damages > 0 {
        eprintln!("note: {} bytes of the log are damaged and stay", recovered.damaged_bytes);
    }
}

/// Gives the monitor a label; those it has no use for are counted in the log.
fn tell(monitor: &mut Monitor<'_>, waiting: Option<(u32, Label)>) {
    let _ = match waiting {
        Some((run, Label::Class(class))) => monitor.label_class(run, class),
        Some((run, Label::Value(value))) => monitor.label_value(run, value),
        None => Ok(()),
    };
}

//! `whit inspect --monitor`: what the baseline has, and the memory and time that configurations of the monitor take.

use anyhow::Result;
use serde_json::{Value, json};
use whit::metrics::baseline::Baseline;
use whit::metrics::counters::CONFIDENCE_BINS;
use whit::metrics::record::{Scores, Signal, Source};
use whit::metrics::{Config, Monitor};
use whit::{DType, Model};

use crate::report::{self, Align};

/// Baseline and configurations.
pub(super) struct About<'m> {
    baseline: Option<Baseline<'m>>,
    /// Name, bytes of the memory handed over, instructions of recording a run.
    costs: Vec<(&'static str, usize, u64)>,
}

/// Instructions on a Cortex-M4, fitted to what `firmware/monitor.sh --models "digits kws ic vww sww"` measures.
mod fitted {
    /// Of every run: looking at the session, counting, detectors.
    pub(super) const RUN: f64 = 4700.0;
    /// Of a watched element, whose bin is looked for.
    pub(super) const ELEMENT: f64 = 44.0;
    /// Of going on to the next feature.
    pub(super) const FEATURE: f64 = 62.0;
    /// Of a byte that is compared with the limits of its type.
    pub(super) const BYTE: f64 = 3.0;
    /// Of a class's score.
    pub(super) const CLASS: f64 = 286.0;
    /// Of the test of a bin of features, classes or confidences, at the end of a window.
    pub(super) const BIN: f64 = 600.0;
}

/// Instructions of recording a run on a Cortex-M4, a window's end spread over its runs: an estimate.
fn instructions(model: &Model<'_>, baseline: Option<&Baseline<'_>>, config: &Config) -> u64 {
    let tensor = |index: Option<usize>| {
        let tensor = model.tensor(index?)?;
        Some((tensor.bytes as f64, DType::from_number(tensor.dtype)?))
    };
    let inputs = (0..model.inputs().len()).map(|index| tensor(model.input(index)));
    let outputs = (0..model.outputs().len()).map(|index| tensor(model.output(index)));
    let compared: f64 = (inputs.chain(outputs).flatten())
        .filter(|(_, dtype)| config.saturation && !dtype.is_float())
        .map(|(bytes, _)| bytes)
        .sum();
    let mut sum = fitted::RUN + fitted::BYTE * compared;
    let Some(header) = baseline.map(Baseline::header) else { return sum as u64 };
    sum += fitted::CLASS * f64::from(header.classes);
    if config.drift
        && header.features > 0
        && let Some((bytes, dtype)) = tensor(model.input(header.input.into()))
    {
        let elements = bytes / dtype.size() as f64;
        let looked = (elements / f64::from(header.step)).ceil();
        // Every element that is looked at may be another feature's.
        let next = looked.min((elements / f64::from(header.inner)).ceil());
        let bins = f64::from(header.features) * f64::from(header.bins)
            + f64::from(header.classes)
            + CONFIDENCE_BINS as f64;
        sum += fitted::ELEMENT * looked + fitted::FEATURE * next;
        sum += fitted::BIN * bins / f64::from(header.window_runs);
    }
    sum.round() as u64
}

pub(super) fn about<'m>(model: &Model<'m>) -> Result<About<'m>> {
    let baseline = Baseline::of(model)?;
    let default = Config::DEFAULT;
    let configurations = [
        ("default", default),
        ("without drift tests", Config { drift: false, ..default }),
        ("without labels", Config { labels: 0, ..default }),
        ("without latency histogram", Config { latency: false, ..default }),
        ("without samples", Config { samples: 0, ..default }),
        ("smallest", Config::SMALLEST),
    ];
    let costs = configurations
        .into_iter()
        .map(|(name, config)| {
            let time = instructions(model, baseline.as_ref(), &config);
            Ok((name, Monitor::memory_bytes(model, &config)?, time))
        })
        .collect::<Result<_>>()?;
    Ok(About { baseline, costs })
}

/// A share of 2³² as text.
fn share(q32: u32) -> f64 {
    f64::from(q32) / 4_294_967_296.0
}

impl About<'_> {
    fn detectors(&self) -> Vec<(&'static str, &'static str, [i32; 3])> {
        let records = self.baseline.iter().flat_map(|baseline| baseline.detectors());
        records
            .filter_map(|record| {
                let source = Source::from_number(record.source)?;
                Some((source.name(), Signal::from_number(record.signal)?.name(), record.parameters))
            })
            .collect()
    }

    pub(super) fn json(&self) -> Value {
        let detectors: Vec<Value> = self
            .detectors()
            .into_iter()
            .map(|(detector, signal, parameters)| {
                json!({ "detector": detector, "signal": signal, "parameters": parameters })
            })
            .collect();
        let costs: Vec<Value> = self
            .costs
            .iter()
            .map(|(name, bytes, instructions)| {
                json!({ "configuration": name, "memory_bytes": bytes, "instructions_per_run": instructions })
            })
            .collect();
        let baseline = self.baseline.map(|baseline| {
            let header = baseline.header();
            json!({
                "flash_bytes": baseline.section().len(),
                "samples": header.samples,
                "scores": format!("{:?}", Scores::from_number(header.scores).unwrap_or_default()).to_lowercase(),
                "classes": header.classes,
                "input": header.input,
                "features": header.features,
                "bins": header.bins,
                "window_runs": header.window_runs,
                "false_alarm": share(header.false_alarm_q32),
                "discovery_rate": share(header.discovery_q32),
                "calibration_table": header.flags & 1 != 0,
                "detectors": detectors,
            })
        });
        json!({
            "baseline": baseline,
            "monitor_bytes": size_of::<Monitor<'_>>(),
            "configurations": costs,
        })
    }

    pub(super) fn text(&self) -> String {
        let mut parts = Vec::new();
        match &self.baseline {
            None => parts.push(
                "no baseline: convert with --monitor default --calibrate DATA.npz for drift tests and detectors"
                    .to_owned(),
            ),
            Some(baseline) => {
                let header = baseline.header();
                let scores = Scores::from_number(header.scores).unwrap_or_default();
                parts.push(report::fields(&[
                    ("baseline", format!("{} in the file", report::bytes(baseline.section().len() as u64))),
                    ("made from", format!("{} samples", header.samples)),
                    ("first output", format!("{scores:?}, {} classes", header.classes).to_lowercase()),
                    (
                        "drift tests",
                        format!(
                            "{} features of input {} in {} bins, every {} runs",
                            header.features, header.input, header.bins, header.window_runs
                        ),
                    ),
                    (
                        "false alarms",
                        format!(
                            "{} of windows, by a false discovery rate of {} among the features",
                            report::percent(share(header.false_alarm_q32)),
                            report::percent(share(header.discovery_q32)),
                        ),
                    ),
                    (
                        "accuracy without labels",
                        if header.flags & 1 != 0 { "by a calibration table" } else { "no labels in the data" }
                            .to_owned(),
                    ),
                ]));
                let rows: Vec<Vec<String>> = self
                    .detectors()
                    .into_iter()
                    .map(|(detector, signal, parameters)| {
                        vec![detector.to_owned(), signal.to_owned(), format!("{parameters:?}")]
                    })
                    .collect();
                let left = Align::Left;
                parts.push(report::table(
                    &[("detector", left), ("watches", left), ("parameters", left)],
                    &rows,
                ));
            }
        }
        let own = size_of::<Monitor<'_>>();
        let rows: Vec<Vec<String>> = self
            .costs
            .iter()
            .map(|(name, bytes, instructions)| {
                let ram = bytes + own;
                vec![
                    (*name).to_owned(),
                    bytes.to_string(),
                    ram.to_string(),
                    instructions.to_string(),
                ]
            })
            .collect();
        parts.push(report::table(
            &[
                ("configuration", Align::Left),
                ("memory, bytes", Align::Right),
                ("with the monitor itself, on this machine", Align::Right),
                ("instructions a run, Cortex-M4", Align::Right),
            ],
            &rows,
        ));
        parts.join("\n\n")
    }
}

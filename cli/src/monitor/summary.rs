//! What a fleet's counts amount to, once for the terminal, JSON and the page.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use whit::Model;
use whit::format::crc32;
use whit::metrics::baseline::{self, BaselineError};
use whit::metrics::counters::{Event, Group};
use whit::metrics::model_id;
use whit::metrics::record::{Signal, Source};

use super::counts::{Counts, Timeline};
use super::findings::findings;
use super::merge::{Fleet, Raised};
use super::reading::Read;
use super::sketch::{Figures, QUANTILES};
use super::statistics::{
    self, Bounded, Classification, Distance, Latency, Regression, Saturation, Scored, Share,
};
use crate::whit_file::{self, tensor_info};

/// Of the windows, the share that is taken for normal when there is no baseline: the first tenth.
const REFERENCE_SHARE: u64 = 10;

/// A .whit file that says how things are called.
pub(crate) struct Named {
    /// What logs call it.
    pub(crate) id: u64,
    pub(crate) file: String,
    /// Inputs, then outputs: name and elements.
    pub(crate) tensors: Vec<(String, u64)>,
    pub(crate) baseline: Option<Baseline>,
}

/// What the converter counted on the calibration data.
pub(crate) struct Baseline {
    crc32: u32,
    features: Vec<Vec<u64>>,
    classes: Vec<u64>,
    confidence: Vec<u64>,
    /// How often predictions are right, by bin of their confidence.
    pub(crate) calibrated: Option<Vec<u16>>,
    /// The probability of a false alarm of each kind in a window.
    false_alarms: f64,
    /// By watched tensor: shares of elements at either limit of their type, where they were counted.
    pub(crate) saturated: Vec<Option<f64>>,
}

impl Baseline {
    fn of(model: &Model<'_>) -> Result<Option<Baseline>, BaselineError> {
        let Some(section) = baseline::Baseline::of(model)? else { return Ok(None) };
        let header = section.header();
        let feature = |feature| -> Vec<u64> {
            (0..usize::from(header.bins)).map(|bin| section.count(feature, bin).into()).collect()
        };
        let classes = 0..usize::from(header.classes);
        Ok(Some(Baseline {
            crc32: crc32(&[section.section()]),
            features: (0..usize::from(header.features)).map(feature).collect(),
            classes: classes.map(|class| section.class_count(class).into()).collect(),
            confidence: header.confidence.map(u64::from).to_vec(),
            calibrated: (header.flags & 1 != 0).then(|| header.calibrated.to_vec()),
            false_alarms: f64::from(header.false_alarm_q32) / 4_294_967_296.0,
            saturated: {
                let [low, high, output_low, output_high] =
                    header.saturated_q32.map(|share| f64::from(share) / 4_294_967_296.0);
                let inputs = model.inputs().len();
                let mut shares = vec![None; inputs + model.outputs().len()];
                let at =
                    [(usize::from(header.input), low + high), (inputs, output_low + output_high)];
                for (tensor, share) in at {
                    if let Some(place) = shares.get_mut(tensor) {
                        *place = Some(share);
                    }
                }
                shares
            },
        }))
    }
}

impl Named {
    /// Reads it.
    ///
    /// # Errors
    /// A file that isn't there, or no .whit file.
    pub(crate) fn open(path: &Path) -> Result<Named> {
        let file = whit_file::open(path)?;
        let model = whit_file::model(&file, path)?;
        let tensors = model.inputs().chain(model.outputs());
        Ok(Named {
            id: model_id(&model),
            file: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            tensors: tensors
                .filter_map(|tensor| tensor_info(&model, tensor))
                .map(|info| (info.name.to_owned(), info.bytes / info.dtype.size().max(1) as u64))
                .collect(),
            baseline: Baseline::of(&model).with_context(|| path.display().to_string())?,
        })
    }
}

/// How far a feature's values are from the reference, and how often the device found it to drift.
#[derive(Clone, Debug)]
pub(crate) struct FeatureDrift {
    pub(crate) feature: usize,
    pub(crate) windows: Option<Share>,
    /// Of everything, or of what is behind the reference.
    pub(crate) distance: Option<Distance>,
}

/// A fleet in figures.
pub(crate) struct Summary<'f> {
    pub(crate) fleet: &'f Fleet,
    pub(crate) named: Option<&'f Named>,
    pub(crate) latency: Option<Latency>,
    pub(crate) classification: Option<Classification>,
    pub(crate) scored: Option<Scored>,
    pub(crate) regression: Option<Regression>,
    pub(crate) confidence: Option<Bounded>,
    pub(crate) entropy: Option<Bounded>,
    /// Without labels: what the confidences promise, if the model has a calibration table.
    pub(crate) estimated_accuracy: Option<f64>,
    pub(crate) calibrated: Option<Vec<u16>>,
    /// Windows that drift tests find to drift when nothing drifts, if the model says so.
    pub(crate) false_alarms: Option<f64>,
    pub(crate) saturation: Vec<Saturation>,
    /// Of the signals that devices sketch.
    pub(crate) sketches: Vec<Figures>,
    /// Features with counts, the most drifted first.
    pub(crate) features: Vec<FeatureDrift>,
    /// What features are compared with.
    pub(crate) reference: Option<Reference>,
}

/// What is taken for normal.
pub(crate) struct Reference {
    pub(crate) features: Vec<Vec<u64>>,
    pub(crate) classes: Vec<u64>,
    pub(crate) confidence: Vec<u64>,
    /// Without a baseline: the windows before this moment.
    pub(crate) until_s: Option<u64>,
}

impl Reference {
    /// What it is, behind "against".
    pub(crate) fn name(&self) -> String {
        match self.until_s {
            None => "the baseline in the model".to_owned(),
            Some(until_s) => format!("the windows before {}", instant(until_s)),
        }
    }

    /// Whether a slot is compared with it.
    pub(crate) fn compares(&self, start_s: u64) -> bool {
        self.until_s.is_none_or(|until_s| start_s >= until_s)
    }

    /// How far a feature's values in windows are from it.
    pub(crate) fn distance(&self, counts: &Counts, feature: usize) -> Option<Distance> {
        statistics::distance(statistics::feature(counts, feature), self.features.get(feature)?)
    }
}

impl<'f> Summary<'f> {
    /// Figures of a fleet.
    pub(crate) fn new(fleet: &'f Fleet, named: Option<&'f Named>) -> Summary<'f> {
        let totals = &fleet.totals;
        let named = named.filter(|named| named.id == fleet.header.model);
        let baseline = named.and_then(|named| named.baseline.as_ref());
        let baseline = baseline.filter(|baseline| baseline.crc32 == fleet.header.baseline_crc32);
        let reference = match baseline {
            Some(baseline) => Some(Reference {
                features: baseline.features.clone(),
                classes: baseline.classes.clone(),
                confidence: baseline.confidence.clone(),
                until_s: None,
            }),
            None => first_windows(&fleet.timeline),
        };
        let calibrated = baseline.and_then(|baseline| baseline.calibrated.clone());
        Summary {
            fleet,
            named,
            estimated_accuracy: calibrated
                .as_ref()
                .and_then(|calibrated| statistics::estimated_accuracy(totals, calibrated)),
            calibrated,
            false_alarms: baseline.map(|baseline| baseline.false_alarms),
            latency: statistics::latency(totals),
            classification: statistics::classification(totals),
            scored: statistics::scored(totals),
            regression: statistics::regression(totals, &fleet.header),
            confidence: statistics::mean_confidence(totals),
            entropy: statistics::mean_entropy(totals),
            saturation: statistics::saturation(totals),
            sketches: (fleet.sketches.values())
                .filter_map(|sketch| sketch.figures(&fleet.header))
                .collect(),
            features: features(fleet, reference.as_ref()),
            reference,
        }
    }

    /// `80f3a1c20000d8f4`, as metrics label a model.
    pub(crate) fn model(&self) -> String {
        format!("{:016x}", self.fleet.header.model)
    }

    /// The name of a watched tensor.
    pub(crate) fn tensor(&self, index: usize) -> String {
        let tensor = self.named.and_then(|named| named.tensors.get(index));
        tensor.map_or_else(|| format!("tensor {index}"), |(name, _)| name.clone())
    }

    /// Elements of a watched tensor.
    pub(crate) fn elements(&self, index: usize) -> Option<u64> {
        let (_, elements) = self.named?.tensors.get(index)?;
        (*elements > 0).then_some(*elements)
    }

    /// The share of a watched tensor's elements that were at a limit in the calibration data.
    pub(crate) fn saturated_before(&self, index: usize) -> Option<f64> {
        let baseline = self.named?.baseline.as_ref()?;
        baseline.saturated.get(index).copied().flatten()
    }

    /// A share of the runs.
    pub(crate) fn of_runs(&self, event: Event) -> Option<Share> {
        let all = |event| self.fleet.totals.event(event);
        let of = match event {
            Event::Errors => all(Event::Runs).saturating_add(all(Event::Errors)),
            _ => all(Event::Runs),
        };
        Share::new(all(event), of)
    }

    /// Runs of each class as shares of those with a class.
    pub(crate) fn classes(&self) -> Vec<Share> {
        let runs = self.fleet.totals.group(Group::Classes);
        let all = statistics::total(runs);
        runs.iter().filter_map(|count| Share::new(*count, all)).collect()
    }

    /// Everything as JSON.
    pub(crate) fn json(&self) -> Value {
        let Fleet { header, totals, timeline, devices, alarms, .. } = self.fleet;
        let events: serde_json::Map<String, Value> = Event::ALL
            .iter()
            .map(|event| (event.name().to_owned(), json!(totals.event(*event))))
            .collect();
        let classes: Vec<Value> = self
            .classes()
            .iter()
            .enumerate()
            .map(|(class, share)| {
                let quality = self.classification.as_ref().map(|all| all.classes[class]);
                json!({
                    "class": class,
                    "runs": share.hits,
                    "share": share_json(Some(*share)),
                    "labelled": quality.map(|q| q.labelled),
                    "precision": quality.map(|q| number(q.precision)),
                    "recall": quality.map(|q| number(q.recall)),
                    "f1": quality.map(|q| number(q.f1)),
                })
            })
            .collect();
        json!({
            "model": self.model(),
            "file": self.named.map(|named| &named.file),
            "devices": devices.keys().collect::<Vec<_>>(),
            "periods": totals.periods,
            "start_s": totals.start_s.min(totals.end_s),
            "end_s": totals.end_s,
            "events": events,
            "error_share": share_json(self.of_runs(Event::Errors)),
            "findings": findings(self).iter().map(|finding| json!({
                "weight": finding.weight.name(),
                "title": finding.title,
                "text": finding.text,
            })).collect::<Vec<_>>(),
            "deadline_us": (header.deadline_us != u32::MAX).then_some(header.deadline_us),
            "deadline_miss_share": share_json(self.of_runs(Event::DeadlineMisses)),
            "latency_us": self.latency.as_ref().map(|latency| json!({
                "runs": latency.runs,
                "p50": bounded_json(latency.p50),
                "p90": bounded_json(latency.p90),
                "p99": bounded_json(latency.p99),
                "mean": bounded_json(latency.mean),
                "max": latency.max,
            })),
            "confidence": self.confidence.map(bounded_json),
            "entropy": self.entropy.map(bounded_json),
            "estimated_accuracy": self.estimated_accuracy,
            "classes": classes,
            "quality": self.classification.as_ref().map(|quality| json!({
                "labelled": quality.accuracy.of,
                "accuracy": share_json(Some(quality.accuracy)),
                "macro_precision": number(quality.macro_precision),
                "macro_recall": number(quality.macro_recall),
                "macro_f1": number(quality.macro_f1),
                "micro_f1": number(quality.micro_f1),
                "confusion": quality.confusion,
            })),
            "scores": self.scored.as_ref().map(|scored| json!({
                "event": if scored.binary { "class 1" } else { "prediction is right" },
                "runs": scored.runs,
                "share": share_json(Share::new(scored.hits, scored.runs)),
                "roc_auc": scored.roc_auc.map(bounded_json),
                "log_loss": bounded_json(scored.log_loss),
                "calibration_error": bounded_json(scored.calibration_error),
                "overconfidence": bounded_json(scored.overconfidence),
                "bins": scored.bins.iter().map(|bin| json!({
                    "from": bin.from,
                    "to": bin.to,
                    "runs": bin.samples,
                    "share": number(bin.accuracy),
                })).collect::<Vec<_>>(),
            })),
            "regression": self.regression.map(|regression| json!({
                "labels": regression.labels,
                "mae": number(regression.mae),
                "rmse": number(regression.rmse),
                "bias": number(regression.bias),
                "r2": number(regression.r2),
            })),
            "saturation": self.saturation.iter().map(|tensor| json!({
                "tensor": self.tensor(tensor.tensor),
                "low": tensor.low,
                "high": tensor.high,
            })).collect::<Vec<_>>(),
            "quantiles": self.sketches.iter().map(|sketch| json!({
                "signal": sketch.signal.name(),
                "count": sketch.count,
                "rank_error": sketch.rank_error,
                "min": sketch.min,
                "quantiles": QUANTILES.iter().zip(sketch.quantiles).map(|((part, _), x)| json!({
                    "percent": part,
                    "value": number(x),
                })).collect::<Vec<_>>(),
                "max": sketch.max,
            })).collect::<Vec<_>>(),
            "drift": {
                "windows": statistics::windows(totals),
                "worst": totals.worst.map(|worst| json!({
                    "feature": worst.feature,
                    "js": f64::from(worst.js_q16) / 65_536.0,
                })),
                "reference": self.reference.as_ref().map(Reference::name),
                "classes_js": self.distance_of(Group::WindowClasses),
                "confidence_js": self.distance_of(Group::WindowConfidence),
                "features": self.features.iter().map(|drift| json!({
                    "feature": drift.feature,
                    "drifted_windows": drift.windows.map(|share| share.hits),
                    "psi": drift.distance.map(|d| number(d.psi)),
                    "js": drift.distance.map(|d| number(d.js)),
                    "ks": drift.distance.map(|d| number(d.ks)),
                })).collect::<Vec<_>>(),
            },
            "alarms": alarms.iter().map(|alarm| self.alarm_json(alarm)).collect::<Vec<_>>(),
            "alarm_records": self.fleet.alarm_records,
            "sample_records": self.fleet.sample_records,
            "slot_s": timeline.slot_s(),
            "slots": timeline.slots().map(|(start_s, counts)| slot_json(start_s, counts)).collect::<Vec<_>>(),
            "by_device": devices.iter().map(|(device, counts)| device_json(*device, counts)).collect::<Vec<_>>(),
        })
    }

    /// The Jensen–Shannon divergence of predicted classes or confidences in windows from the reference.
    pub(crate) fn distance_of(&self, group: Group) -> Option<f64> {
        let reference = self.reference.as_ref()?;
        let normal = match group {
            Group::WindowClasses => &reference.classes,
            _ => &reference.confidence,
        };
        let mut sum: Vec<u64> = vec![0; normal.len()];
        for (start_s, counts) in self.fleet.timeline.slots() {
            if reference.compares(start_s) {
                for (sum, count) in sum.iter_mut().zip(counts.group(group)) {
                    *sum = sum.saturating_add(*count);
                }
            }
        }
        statistics::distance(&sum, normal).map(|distance| distance.js)
    }

    fn alarm_json(&self, alarm: &Raised) -> Value {
        let (value, threshold) = alarm.numbers();
        json!({
            "device": alarm.device,
            "period": alarm.sequence,
            "start_s": alarm.start_s,
            "run": alarm.run,
            "source": alarm.source_name(),
            "what": alarm.what_name(),
            "feature": alarm.is_feature().then_some(alarm.index),
            "value": value,
            "threshold": threshold,
            "p": alarm.p(),
        })
    }
}

fn slot_json(start_s: u64, counts: &Counts) -> Value {
    let latency = statistics::latency(counts);
    let alarms: u64 = ALARMS.iter().map(|event| counts.event(*event)).fold(0, u64::saturating_add);
    json!({
        "start_s": start_s,
        "periods": counts.periods,
        "runs": counts.event(Event::Runs),
        "errors": counts.event(Event::Errors),
        "deadline_misses": counts.event(Event::DeadlineMisses),
        "latency_p50_us": latency.as_ref().map(|latency| latency.p50.value),
        "latency_p99_us": latency.as_ref().map(|latency| latency.p99.value),
        "confidence": statistics::mean_confidence(counts).map(|mean| mean.value),
        "accuracy": statistics::classification(counts).map(|quality| quality.accuracy.value),
        "windows": statistics::windows(counts),
        "input_drifts": counts.event(Event::InputDrifts),
        "worst_js": counts.worst.map(|worst| f64::from(worst.js_q16) / 65_536.0),
        "alarms": alarms,
    })
}

fn device_json(device: u64, counts: &Counts) -> Value {
    let latency = statistics::latency(counts);
    json!({
        "device": device,
        "periods": counts.periods,
        "start_s": counts.start_s.min(counts.end_s),
        "end_s": counts.end_s,
        "runs": counts.event(Event::Runs),
        "errors": counts.event(Event::Errors),
        "deadline_misses": counts.event(Event::DeadlineMisses),
        "starts": counts.event(Event::Starts),
        "latency_p50_us": latency.as_ref().map(|latency| latency.p50.value),
        "latency_p99_us": latency.as_ref().map(|latency| latency.p99.value),
        "latency_max_us": counts.latency_max_us,
        "confidence": statistics::mean_confidence(counts).map(|mean| mean.value),
        "accuracy": share_json(statistics::classification(counts).map(|quality| quality.accuracy)),
        "input_drifts": counts.event(Event::InputDrifts),
        "windows": statistics::windows(counts),
    })
}

/// Counters of alarms.
pub(crate) const ALARMS: [Event; 8] = [
    Event::InputDrifts,
    Event::ClassDrifts,
    Event::ConfidenceDrifts,
    Event::PageHinkleyAlarms,
    Event::CusumAlarms,
    Event::EwmaAlarms,
    Event::DdmAlarms,
    Event::AdwinAlarms,
];

impl Raised {
    pub(crate) fn source_name(&self) -> &'static str {
        Source::from_number(self.source).map_or("unknown", Source::name)
    }

    pub(crate) fn is_feature(&self) -> bool {
        self.source == Source::Feature as u8
    }

    fn is_test(&self) -> bool {
        self.source <= Source::Confidence as u8
    }

    /// The statistic of a drift test, the signal of a detector.
    pub(crate) fn what_name(&self) -> &'static str {
        if self.is_test() {
            return match self.what {
                1 => "PSI",
                2 => "Jensen-Shannon",
                3 => "Kolmogorov-Smirnov",
                _ => "unknown",
            };
        }
        Signal::from_number(self.what).map_or("unknown", Signal::name)
    }

    /// Value and threshold.
    pub(crate) fn numbers(&self) -> (f64, f64) {
        let unit = if self.is_test() { 65_536.0 } else { 1.0 };
        (f64::from(self.value) / unit, f64::from(self.threshold) / unit)
    }

    /// The p-value of a drift test.
    pub(crate) fn p(&self) -> Option<f64> {
        self.is_test().then(|| f64::from(self.p_value) / 4_294_967_296.0)
    }
}

/// The first windows of a timeline; `None` when it has none, or nothing behind them.
fn first_windows(timeline: &Timeline) -> Option<Reference> {
    let windows = |counts: &Counts| counts.get(Group::Windowed, 0);
    let all = timeline.slots().map(|(_, counts)| windows(counts)).fold(0, u64::saturating_add);
    let mut first: Option<Counts> = None;
    for (start_s, counts) in timeline.slots() {
        match &mut first {
            Some(first) if windows(first) > 0 && windows(first) >= all / REFERENCE_SHARE => {
                let features = 0..usize::from(first.shape.features);
                return Some(Reference {
                    features: features.map(|f| statistics::feature(first, f).to_vec()).collect(),
                    classes: first.group(Group::WindowClasses).to_vec(),
                    confidence: first.group(Group::WindowConfidence).to_vec(),
                    until_s: Some(start_s),
                });
            }
            Some(first) => first.add_counts(counts),
            None => first = Some(counts.clone()),
        }
    }
    None
}

fn features(fleet: &Fleet, reference: Option<&Reference>) -> Vec<FeatureDrift> {
    let totals = &fleet.totals;
    let judged = totals.event(Event::Windows);
    let mut compared = Counts::new(totals.shape);
    for (start_s, counts) in fleet.timeline.slots() {
        if reference.is_some_and(|reference| reference.compares(start_s)) {
            compared.add_counts(counts);
        }
    }
    let mut features: Vec<FeatureDrift> = (0..usize::from(totals.shape.features))
        .map(|feature| FeatureDrift {
            feature,
            windows: Share::new(totals.get(Group::Drifted, feature), judged),
            distance: reference.and_then(|reference| reference.distance(&compared, feature)),
        })
        .filter(|drift| drift.windows.is_some() || drift.distance.is_some())
        .collect();
    let rank = |drift: &FeatureDrift| {
        let js = drift.distance.map_or(0.0, |distance| distance.js);
        (drift.windows.map_or(0, |share| share.hits), js)
    };
    features.sort_by(|a, b| {
        let (a_rank, b_rank) = (rank(a), rank(b));
        b_rank.0.cmp(&a_rank.0).then(b_rank.1.total_cmp(&a_rank.1)).then(a.feature.cmp(&b.feature))
    });
    features
}

/// What reading came to, as JSON.
pub(crate) fn read_json(read: &Read) -> Value {
    let remarks = &read.remarks;
    json!({
        "logs": read.logs,
        "bytes": remarks.bytes,
        "records": remarks.records,
        "clean": remarks.is_clean(),
        "damages": remarks.damages,
        "damaged_bytes": remarks.damaged_bytes,
        "cut": remarks.cut,
        "other_versions": remarks.versions.values().sum::<u64>(),
        "without_header": remarks.without_header,
        "meaningless": remarks.meaningless,
        "too_large": remarks.too_large,
        "incomplete_periods": remarks.incomplete,
        "repeated_periods": read.repeated.values().sum::<u64>(),
        "overlapping_summaries": read.overlapping,
        "passed_over": read.passed_over,
        "remarks": read.sentences(),
    })
}

pub(crate) fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { Value::Null }
}

fn share_json(share: Option<Share>) -> Value {
    share.map_or(Value::Null, |share| {
        json!({ "value": share.value, "low": share.low, "high": share.high, "hits": share.hits, "of": share.of })
    })
}

fn bounded_json(bounded: Bounded) -> Value {
    json!({ "value": number(bounded.value), "low": number(bounded.low), "high": number(bounded.high) })
}

/// `2026-11-21 18:07` of seconds since 1970, `3 d 04:12:09` of those since a device started: a clock that was never set
/// counts from 0.
pub(crate) fn instant(seconds: u64) -> String {
    const SET: u64 = 1_000_000_000; // September 2001
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (hours, minutes) = (rest / 3600, rest / 60 % 60);
    if seconds < SET {
        return format!("{days} d {hours:02}:{minutes:02}:{:02}", rest % 60);
    }
    // The Gregorian calendar in eras of 400 years that begin in March (Hinnant, "chrono-compatible low-level date
    // algorithms").
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {hours:02}:{minutes:02}")
}

/// `45 s`, `12 min`, `3.5 h`, `14 d`.
pub(crate) fn duration(seconds: u64) -> String {
    let value = seconds as f64;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{:.0} min", value / 60.0),
        7200..172_800 => format!("{:.1} h", value / 3600.0),
        _ => format!("{:.1} d", value / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_tell_them() {
        for (seconds, text) in [
            (0, "0 d 00:00:00"),
            (86_399, "0 d 23:59:59"),
            (273_129, "3 d 03:52:09"),
            // `date -u -d @…` of GNU.
            (1_000_000_000, "2001-09-09 01:46"),
            (1_709_164_800, "2024-02-29 00:00"),
            (1_735_689_599, "2024-12-31 23:59"),
            (1_795_284_424, "2026-11-21 18:07"),
            (4_294_967_295, "2106-02-07 06:28"),
        ] {
            assert_eq!(instant(seconds), text);
        }
        for (seconds, text) in [(0, "0 s"), (119, "119 s"), (600, "10 min"), (90_000, "25.0 h")] {
            assert_eq!(duration(seconds), text);
        }
    }
}

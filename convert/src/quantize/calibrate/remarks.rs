//! What is wrong with calibration data: too little of it, nothing that changes, single samples far out.

use std::collections::BTreeMap;

use crate::graph::{Graph, ValueId};
use crate::quantize::calibrate::statistics::{Extreme, Observed, Statistics};

/// Below this many samples there is a remark.
const ENOUGH: usize = 32;

/// A sample is far out when a range would be this many times narrower without it.
const FAR_OUT: f32 = 4.0;

/// Samples that it takes to call one of them far out.
const COMPANY: usize = 8;

/// Names in a list at most.
const NAMES: usize = 5;

/// Remarks for the user.
pub(super) fn on_data(graph: &Graph, statistics: &Statistics) -> Vec<String> {
    let mut notes = Vec::new();
    let samples = statistics.samples;
    let inputs: Vec<(ValueId, &Observed)> =
        graph.inputs.iter().filter_map(|id| Some((*id, statistics.get(*id)?))).collect();
    let name = |id: ValueId| graph.value(id).name.as_str();
    if samples < ENOUGH {
        notes.push(format!(
            "calibrated on {samples} sample{}; a hundred or so typical ones are enough, and safer",
            if samples == 1 { "" } else { "s" }
        ));
    }
    if samples > 1 {
        let still: Vec<&str> =
            inputs.iter().filter(|(_, seen)| !seen.varies).map(|(id, _)| name(*id)).collect();
        if !still.is_empty() && still.len() == graph.inputs.len() {
            notes.push(format!("all {samples} calibration samples are the same"));
        } else if !still.is_empty() {
            notes.push(format!("the same in every calibration sample: {}", listed(&still)));
        }
    }
    if samples >= COMPANY {
        notes.extend(far_out(graph, statistics));
    }
    notes
}

/// Samples that alone make ranges wide, of inputs or, where no input shows it, of what is made of them.
fn far_out(graph: &Graph, statistics: &Statistics) -> Vec<String> {
    let mut found: BTreeMap<usize, Vec<(f32, ValueId)>> = BTreeMap::new();
    for (value, seen) in &statistics.values {
        let (Some(low), Some(high)) = (seen.low, seen.high) else { continue };
        for sample in [low.sample, high.sample] {
            let ratio = width(low, high, None) / width(low, high, Some(sample));
            let known = found.entry(sample).or_default();
            if ratio >= FAR_OUT && !known.iter().any(|(_, id)| id == value) {
                known.push((ratio, *value));
            }
        }
    }
    let mut notes = Vec::new();
    for (sample, values) in found {
        let input = values.iter().find(|(_, id)| graph.inputs.contains(id));
        let Some((ratio, value)) = input.or(values.first()) else { continue };
        let others = match values.len() - 1 {
            0 => String::new(),
            others => format!(", and {others} more wide"),
        };
        notes.push(format!(
            "sample {sample} alone makes the range of `{}` {ratio:.0} times as wide{others}: see whether it belongs to \
             the data",
            graph.value(*value).name
        ));
    }
    // One sample in many that is far out is worth a look; dozens are what the data is like.
    if notes.len() > NAMES { Vec::new() } else { notes }
}

/// Width of a range with 0 in it, without one of the samples. Never 0.
fn width(low: Extreme, high: Extreme, without: Option<usize>) -> f32 {
    let end = |end: Extreme| match end.others {
        Some(others) if without == Some(end.sample) => others,
        _ => end.value,
    };
    (end(high).max(0.0) - end(low).min(0.0)).max(f32::MIN_POSITIVE)
}

/// Names in quotes, the first few of them.
pub(super) fn listed(names: &[&str]) -> String {
    let mut text: Vec<String> = names.iter().take(NAMES).map(|name| format!("`{name}`")).collect();
    if names.len() > NAMES {
        text.push(format!("{} more", names.len() - NAMES));
    }
    text.join(", ")
}

//! Makes a file's baseline from calibration data: what the monitor compares the field with, and from when on a difference
//! is one.
//!
//! Thresholds come from the data. The bootstrap draws blocks of neighbouring samples, so that what follows on each other stays
//! together, twice: as calibration data and as a window. Both draws vary, as both did when they were recorded. How long blocks are
//! follows from how long samples depend on each other.

mod blocks;
mod detectors;
mod features;
mod null;

use whit::format::Field;
use whit::metrics::baseline::{BASELINE_VERSION, BaselineHeader, Feature, write};
use whit::metrics::record::Scores;
use whit::metrics::scores::{Scored, Scorer, confidence_bin};
use whit::{DType, Model};

use crate::evaluate::{EvaluateError, Program, Samples, describe, feed, output_reals};
use features::Watched;

/// Runs of a window of the drift tests, when the calibration data is large enough.
const WINDOW_RUNS: usize = 128;
/// Samples below which nothing can be said about what is usual.
pub const LEAST_SAMPLES: usize = 32;
/// Samples whose inputs thresholds are made from at most; of more, stretches of neighbours.
const MOST_INPUTS: usize = 4096;
/// Samples whose outputs are, likewise.
const MOST_OUTPUTS: usize = 1 << 16;
/// Stretches that are taken of more samples.
const STRETCHES: usize = 32;
/// Blocks below which calibration data that depends on itself says little about what is usual.
const FEW_BLOCKS: usize = 50;
/// Blocks that chance alone doesn't ask for.
const LONG_BLOCK: usize = 16;
/// Windows drawn to find thresholds.
const ROUNDS: usize = 1000;
/// Runs of a confidence bin that say as much as its labels: what the calibration table believes without data.
const PRIOR_RUNS: f64 = 2.0;

/// What the baseline is for.
#[derive(Clone, Debug, PartialEq)]
pub struct MonitorOptions {
    /// What the first output is; `None` looks at what it gives for the calibration data.
    pub scores: Option<Scores>,
    /// The probability of a false alarm of each kind in a window of the drift tests, and of a detector in as many runs.
    pub false_alarm: f64,
    /// Classes of the samples, for the calibration table of confidences.
    pub labels: Option<Vec<usize>>,
}

impl Default for MonitorOptions {
    fn default() -> Self {
        MonitorOptions { scores: None, false_alarm: 0.01, labels: None }
    }
}

/// What the calibration data is to a baseline: features by sample, and scores.
struct Observed {
    watched: Option<Watched>,
    scores: Scores,
    classes: u16,
    value_unit: f32,
    /// Of each sample; `None` for outputs that aren't finite.
    scored: Vec<Option<Scored>>,
    labels: Option<Vec<usize>>,
    /// Shares of elements at the limits of their type: of the watched input, then of the first output.
    saturated: [f64; 4],
}

/// How many neighbouring samples are drawn together.
struct Blocks {
    inputs: usize,
    outputs: usize,
    errors: usize,
}

impl Blocks {
    /// The longest that a feature or a signal wants.
    fn of(observed: &Observed) -> Blocks {
        let longest = |series: &[Vec<f64>]| {
            series.iter().map(|series| blocks::block_length(series)).max().unwrap_or(1)
        };
        let scored = || observed.scored.iter().flatten();
        let series = |of: &dyn Fn(&Scored) -> f64| scored().map(of).collect::<Vec<f64>>();
        let outputs = match observed.scores {
            Scores::None => vec![],
            Scores::Value => vec![series(&|scored| scored.value.into())],
            _ => vec![
                series(&|scored| scored.confidence.into()),
                series(&|scored| scored.entropy.into()),
                series(&|scored| scored.class.into()),
            ],
        };
        Blocks {
            inputs: longest(&observed.watched.as_ref().map_or(vec![], Watched::courses)),
            outputs: longest(&outputs),
            errors: longest(&[observed.errors().into_iter().map(f64::from).collect()]),
        }
    }
}

impl Observed {
    /// 2¹⁵ for each wrong prediction, 0 for each right one; empty without labels of classes.
    fn errors(&self) -> Vec<i32> {
        let labels = self.labels.iter().flatten().filter(|_| self.classes > 0);
        let wrong = |(scored, label): (&Option<Scored>, &usize)| {
            scored.as_ref().map(|scored| i32::from(usize::from(scored.class) != *label) << 15)
        };
        self.scored.iter().zip(labels).filter_map(wrong).collect()
    }
}

/// Whether a sample belongs to what is kept: all of them, or evenly spread stretches of neighbours.
fn is_kept(sample: usize, samples: usize, most: usize) -> bool {
    samples <= most || {
        let place = sample % samples.div_ceil(STRETCHES);
        place < most / STRETCHES
    }
}

/// The bytes of a baseline section, and what should be said about it.
///
/// # Errors
/// When a sample doesn't fit the model, a run fails, there are too few samples or the scores aren't possible.
pub fn baseline(
    program: &Program,
    samples: &dyn Samples,
    options: &MonitorOptions,
    seed: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Vec<u8>, Vec<String>), EvaluateError> {
    let mut notes = Vec::new();
    if samples.len() < LEAST_SAMPLES {
        return Err(EvaluateError::Sample(format!(
            "a baseline for the monitor needs {LEAST_SAMPLES} samples of calibration data or more, there are {}",
            samples.len()
        )));
    }
    let observed = observe(program, samples, options, progress)?;
    let count = observed.scored.len();
    let mut window_runs = WINDOW_RUNS.min(count);
    let (features, bins, dtype, input, inner, step) = match &observed.watched {
        None => (0, 1, DType::I8, 0, 1, 1),
        Some(watched) => {
            // Counts of a window are 16 bits.
            window_runs = window_runs.min(usize::from(u16::MAX) / watched.most_of_a_feature());
            (
                watched.features,
                features::BINS,
                watched.dtype,
                watched.input,
                watched.inner as u32,
                watched.step as u32,
            )
        }
    };
    let blocks = Blocks::of(&observed);
    let null = null::draw(&observed, &blocks, window_runs, ROUNDS, options.false_alarm, seed);
    let per_run = options.false_alarm / window_runs as f64;
    let detectors = detectors::choose(&observed, &blocks, per_run, seed);
    let inputs = observed.watched.as_ref().map_or(count, Watched::samples);
    for (what, samples, block) in
        [("inputs", inputs, blocks.inputs), ("outputs", count, blocks.outputs)]
    {
        if samples / block < FEW_BLOCKS && block >= LONG_BLOCK {
            notes.push(format!(
                "neighbouring samples resemble each other: as to {what}, the {samples} samples of calibration data tell as much \
                 as {} others. The monitor's thresholds are wide, and uncertain: give a longer recording, or shuffle the \
                 samples if their order isn't that of time",
                (samples / block).max(1)
            ));
        }
    }
    if observed.scores == Scores::None {
        notes.push(
            "the monitor keeps no classes and confidences: say what the first output is with --monitor probabilities, \
             logits, probability, logit or value"
                .to_owned(),
        );
    }

    let mut confidence = [0u64; 16];
    let mut classes = vec![0u64; observed.classes.into()];
    for scored in observed.scored.iter().flatten().filter(|_| observed.classes > 0) {
        confidence[confidence_bin(scored.confidence)] += 1;
        classes[usize::from(scored.class)] += 1;
    }
    let q32 = |share: f64| (share * 4_294_967_296.0).min(f64::from(u32::MAX)) as u32;
    let (calibrated, has_table) = calibration_table(&observed);
    let header = BaselineHeader {
        version: BASELINE_VERSION,
        header_bytes: BaselineHeader::SIZE as u32,
        samples: samples.len() as u32,
        window_runs: window_runs as u16,
        classes: observed.classes,
        features: features as u16,
        detectors: detectors.len() as u16,
        input: input as u8,
        dtype: dtype as u8,
        bins: bins as u8,
        scores: observed.scores as u8,
        inner,
        step,
        false_alarm_q32: q32(options.false_alarm),
        discovery_q32: null.discovery_q32,
        class_thresholds: null.class_thresholds,
        confidence_thresholds: null.confidence_thresholds,
        value_unit: observed.value_unit,
        flags: u32::from(has_table),
        confidence: fit(&confidence).try_into().unwrap_or([0; 16]),
        calibrated,
        saturated_q32: observed.saturated.map(q32),
    };
    let (edges, counts) = match &observed.watched {
        Some(watched) => (&watched.edges[..], watched.counts()),
        None => (&[][..], Vec::new()),
    };
    let counts: Vec<Vec<u16>> = counts.iter().map(|counts| fit(counts)).collect();
    let features: Vec<Feature<'_>> = (edges.iter().zip(&counts).zip(&null.means))
        .map(|((edges, counts), means)| Feature { edges, counts, means: *means })
        .collect();
    let mut section = vec![0; header.section_bytes(dtype)];
    write(&header, dtype, &null.quantiles, &features, &fit(&classes), &detectors, &mut section);
    Ok((section, notes))
}

/// Counts in 16 bits: as they are, or in proportion; none that isn't 0 becomes 0.
fn fit(counts: &[u64]) -> Vec<u16> {
    let most = counts.iter().copied().max().unwrap_or(0).max(u64::from(u16::MAX));
    let scaled = |count: u64| u128::from(count) * u128::from(u16::MAX) / u128::from(most);
    counts.iter().map(|count| (scaled(*count) as u16).max(u16::from(*count > 0))).collect()
}

/// Runs the samples and takes down inputs and scores.
fn observe(
    program: &Program,
    samples: &dyn Samples,
    options: &MonitorOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Observed, EvaluateError> {
    let mut session = program.session(None)?;
    let model = *session.model();
    let failed = |e: whit::SessionError| EvaluateError::Invalid(e.to_string());
    let mut watched = Watched::of(&model, samples.len().min(MOST_INPUTS));
    let mut outputs = Vec::new();
    let mut reals = Vec::new();
    let mut saturated = [0u64; 4];
    session.reset_state();
    for sample in 0..samples.len() {
        feed(&mut session, samples, sample)?;
        // Models with state see every sample; what they make of some of them is kept.
        let input_kept = is_kept(sample, samples.len(), MOST_INPUTS);
        let mut count = |at: usize, dtype, bytes: &[u8]| {
            let (low, high) = whit::metrics::saturated(dtype, bytes);
            saturated[at] += u64::from(low);
            saturated[at + 1] += u64::from(high);
        };
        if let Some(watched) = &mut watched {
            let bytes = session.input_bytes(watched.input).map_err(failed)?;
            count(0, watched.dtype, bytes);
            if input_kept {
                watched.add(bytes);
            }
        }
        session.run().map_err(|e| EvaluateError::Run { sample, why: describe(&model, e) })?;
        let bytes = session.output_bytes(0).map_err(failed)?;
        count(2, session.output_slot(0).map_err(failed)?.dtype(), bytes);
        if is_kept(sample, samples.len(), MOST_OUTPUTS) {
            outputs.push(bytes.to_vec());
        }
        if input_kept {
            reals.push(output_reals(&session, 0)?);
        }
        progress(sample + 1, samples.len());
    }
    if let Some(watched) = &mut watched {
        watched.cut();
    }
    let labels: Option<Vec<usize>> = options.labels.as_ref().map(|labels| {
        let kept = |(sample, label): (usize, &usize)| {
            is_kept(sample, samples.len(), MOST_OUTPUTS).then_some(*label)
        };
        labels.iter().enumerate().filter_map(kept).collect()
    });
    let slot = session.output_slot(0).map_err(failed)?;
    let scores = options.scores.unwrap_or_else(|| guess(&reals, labels.as_deref()));
    let classes = match scores {
        Scores::None | Scores::Value => 0,
        Scores::Probability | Scores::Logit => 2,
        Scores::Probabilities | Scores::Logits => {
            u16::try_from(slot.elements()).unwrap_or(u16::MAX)
        }
    };
    let value_unit = if slot.dtype().is_float() { unit_of(&reals) } else { 1.0 };
    let numbers = (slot.dtype(), slot.scale(), slot.zero_point());
    let one = matches!(scores, Scores::Probability | Scores::Logit | Scores::Value);
    let scorer = Scorer::new(scores, classes, numbers, value_unit)
        .filter(|_| {
            classes <= whit::metrics::counters::MAX_CLASSES && (!one || slot.elements() == 1)
        })
        .ok_or_else(|| {
            EvaluateError::Sample(format!(
                "--monitor: the first output, {} of {} elements, can't be {scores:?}",
                slot.dtype(),
                slot.elements()
            ))
        })?;
    if let Some(labels) = &labels
        && classes > 0
        && let Some(label) = labels.iter().find(|label| **label >= usize::from(classes))
    {
        return Err(EvaluateError::Sample(format!(
            "--monitor: the data has label {label}, the model has {classes} classes"
        )));
    }
    let scored = outputs.iter().map(|bytes| scorer.score(bytes).ok()).collect();
    let elements = [watched.as_ref().map_or(0, |watched| watched.elements()), slot.elements()];
    let share =
        |at: usize| saturated[at] as f64 / (samples.len() as f64 * elements[at / 2].max(1) as f64);
    let saturated = [share(0), share(1), share(2), share(3)];
    Ok(Observed { watched, scores, classes, value_unit, scored, labels, saturated })
}

/// What the first output seems to be.
fn guess(rows: &[Vec<f32>], labels: Option<&[usize]>) -> Scores {
    let width = rows.first().map_or(0, Vec::len);
    let of_one = rows.iter().flatten().all(|x| (0.0..=1.0).contains(x));
    // i8 probabilities in steps of 1/256 are off by half a step each.
    let slack = 0.01 + width as f32 / 512.0;
    let whole = rows.iter().all(|row| (row.iter().sum::<f32>() - 1.0).abs() <= slack);
    let are_classes =
        |classes| labels.is_some_and(|labels| labels.iter().all(|label| *label < classes));
    match width {
        0 => Scores::None,
        1 if of_one => Scores::Probability,
        1 if are_classes(2) => Scores::Logit,
        1 => Scores::Value,
        2..=4096 if of_one && whole => Scores::Probabilities,
        2..=4096 if are_classes(width) => Scores::Logits,
        _ => Scores::None,
    }
}

/// A power of two of which the largest value seen is 2¹⁴ or less, so that values 256 times as large fit.
fn unit_of(rows: &[Vec<f32>]) -> f32 {
    let most =
        rows.iter().flatten().filter(|x| x.is_finite()).fold(0f32, |most, x| most.max(x.abs()));
    if most > 0.0 { (most.log2().ceil().clamp(-100.0, 100.0) - 14.0).exp2() } else { 1.0 }
}

/// How often predictions are right, by bin of their confidence, and whether labels say so. A bin without labels is believed.
fn calibration_table(observed: &Observed) -> ([u16; 16], bool) {
    let Some(labels) = observed.labels.as_ref().filter(|_| observed.classes > 0) else {
        return ([0; 16], false);
    };
    let mut bins = [(0.0, 0.0, 0.0); 16];
    for (scored, label) in observed.scored.iter().zip(labels) {
        let Some(scored) = scored else { continue };
        let (count, right, confidence) = &mut bins[confidence_bin(scored.confidence)];
        *count += 1.0;
        *right += f64::from(u8::from(usize::from(scored.class) == *label));
        *confidence += f64::from(scored.confidence) / 32768.0;
    }
    let table = std::array::from_fn(|bin| {
        let (count, right, confidence) = bins[bin];
        let believed = if count > 0.0 { confidence / count } else { middle(bin) };
        let share = (right + PRIOR_RUNS * believed) / (count + PRIOR_RUNS);
        (share * 32768.0).round() as u16
    });
    (table, true)
}

/// The middle of a confidence bin.
fn middle(bin: usize) -> f64 {
    let edges = &whit::metrics::scores::CONFIDENCE_EDGES;
    let low = if bin == 0 { 0.0 } else { f64::from(edges[bin - 1]) };
    let high = edges.get(bin).map_or(32768.0, |edge| f64::from(*edge));
    (low + high) / 65536.0
}

/// The input that drift tests watch: the first with numbers.
fn watched_input(model: &Model<'_>) -> Option<(usize, whit::format::TensorRecord, DType)> {
    model.inputs().enumerate().find_map(|(input, tensor)| {
        let record = model.tensor(tensor)?;
        let dtype = DType::from_number(record.dtype)?;
        let numbers = dtype.is_float()
            || (matches!(dtype, DType::I8 | DType::U8 | DType::I16) && record.scale > 0.0);
        numbers.then_some((input, record, dtype))
    })
}

#[cfg(test)]
mod tests;

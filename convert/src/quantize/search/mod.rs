//! The mix of numbers per layer that costs least for the accuracy that is asked for.
//!
//! First each layer alone is given each choice, the others float: the error that it makes at the outputs.
//! These errors very nearly add up, so that the mixes on the front of error against cost are found by weighing
//! one against the other, from all weight on cost to all on error (Lagrange's multiplier, as Shoham and Gersho 1988
//! allot bits). Every mix that comes out is converted and run on the data, and what counts from there on is measured.

mod mix;
mod quality;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use mix::{CHOICES, Layer};
pub use quality::{Answers, Quality};

use crate::emit::emit;
use crate::evaluate::{EvaluateError, Program, Samples, Subset};
use crate::graph::Graph;
use crate::pipeline::Watch;
use crate::plan::PlanOptions;
use crate::quantize::calibrate::{Method, Ranges};
use crate::quantize::improve::{Context, Effect, Steps, improve};
use crate::quantize::measure::noise_of_mix;
use crate::quantize::numbers::Numbers;
use crate::quantize::quantization::Quantization;

/// Samples that the error of single layers is measured on: it is a mean over many elements each.
const SENSITIVITY_SAMPLES: usize = 32;

/// Weights of error against cost that are tried for each kind of cost.
const WEIGHINGS: usize = 24;

/// Mixes that are improved at most, when the cheapest ones miss the mark without.
const IMPROVED: usize = 4;

/// Share of a mix's cost that must be saved for changing as many answers as may be lost: few bytes aren't worth many
/// decibels.
const WORTH: f64 = 0.05;

/// Error over signal of a layer that leaves its outputs as they are: nothing is better than that.
const NO_ERROR: f64 = 1e-12;

/// What a mix may cost, and must keep.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Quality that may be lost, as a share: 0.005 for half a point.
    pub max_drop: Option<f64>,
    /// Bytes of the file, without golden vectors.
    pub max_file_bytes: Option<u64>,
    /// Bytes of the arena.
    pub max_arena_bytes: Option<u64>,
    /// Median microseconds of a run, measured here.
    pub max_latency_us: Option<f64>,
}

/// What is spared first among the mixes that fit the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// Bytes of the file.
    Size,
    /// Time, by the model of [`mix::relative_time`].
    Time,
    /// Both: the product of the two, relative to float.
    #[default]
    Balance,
}

/// What to search for, and on what data.
pub struct Search<'s> {
    /// Data that the quality is measured on.
    pub samples: &'s dyn Samples,
    /// The classes of these samples, when they are labelled.
    pub labels: Option<Vec<usize>>,
    /// What a mix may cost.
    pub budget: Budget,
    /// What is spared first.
    pub prefer: Prefer,
    /// No new mix is tried after this time.
    pub time_limit: Duration,
}

/// Error that a layer makes at the outputs, the other layers float.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    /// Name of the layer.
    pub layer: String,
    /// Its numbers.
    pub numbers: Numbers,
    /// Signal-to-noise ratio of the outputs in decibels.
    pub snr_db: f64,
}

/// A mix that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// How many layers have which numbers.
    pub description: String,
    /// The numbers of every node.
    pub numbers: Vec<Numbers>,
    /// Quality on the data.
    pub quality: f64,
    /// Quality that errors of this size leave in the mean: [`Answers::expected_quality`].
    pub expected_quality: f64,
    /// Share of the answers that such errors change in the mean.
    pub expected_changes: f64,
    /// Signal-to-noise ratio of the outputs in decibels.
    pub snr_db: f64,
    /// Bytes of the file, without golden vectors.
    pub file_bytes: u64,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Median of the runs, in microseconds.
    pub latency_us: f64,
    /// Time relative to float by the model that the search goes by.
    pub relative_time: f64,
    /// Whether its weights went through the steps of improvement.
    pub improved: bool,
    /// Whether no other is at least as good in quality, size and time, and better in one.
    pub on_front: bool,
}

/// Everything that a search measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Front {
    /// What quality is.
    pub quality: &'static str,
    /// Samples it was measured on.
    pub samples: usize,
    /// That of the float model.
    pub float: Point,
    /// The mixes, in the order in which they were measured.
    pub points: Vec<Point>,
    /// Which of them was taken.
    pub chosen: usize,
    /// The error of each layer in each choice.
    pub sensitivities: Vec<Sensitivity>,
    /// Whether the time ran out before everything was tried.
    pub cut_short: bool,
}

/// Why a search found nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// There is nothing to choose.
    #[error(
        "--quantize auto chooses numbers layer by layer, and the model has no convolution or fully connected layer \
             with constant weights"
    )]
    NoLayers,
    /// Labels of another number than the samples.
    #[error("there are {labels} labels for {samples} samples")]
    Labels {
        /// Number of labels.
        labels: usize,
        /// Number of samples.
        samples: usize,
    },
    /// Nothing fits.
    #[error("no mix of numbers keeps to {budget}; the nearest: {nearest}")]
    Budget {
        /// What was asked for.
        budget: String,
        /// What can be had.
        nearest: String,
    },
    /// Planning or running failed.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}

/// What was found: the quantization, what was done to its weights, all that was measured.
pub struct Found {
    /// The chosen mix, decided.
    pub quantization: Quantization,
    /// What each step of improvement did.
    pub effects: Vec<Effect>,
    /// All that was measured.
    pub front: Front,
}

/// What stays the same throughout a search.
struct Bench<'b> {
    graph: &'b Graph,
    ranges: &'b Ranges,
    calibration: &'b dyn Samples,
    search: &'b Search<'b>,
    plan: PlanOptions,
    layers: Vec<Layer>,
    quality: Quality,
    float: Answers,
    started: Instant,
}

/// Searches. `graph` is the rewritten float graph, the ranges come from the calibration data, by this method.
///
/// # Errors
/// [`SearchError`] says what is missing, or what comes nearest to the budget.
pub fn search(
    graph: &Graph,
    (ranges, method): (&Ranges, Method),
    calibration: &dyn Samples,
    improvements: &Steps,
    plan: PlanOptions,
    seed: u64,
    search: &Search<'_>,
    watch: &mut dyn Watch,
) -> Result<Found, SearchError> {
    let started = Instant::now();
    let count = search.samples.len();
    if let Some(labels) = &search.labels
        && labels.len() != count
    {
        return Err(SearchError::Labels { labels: labels.len(), samples: count });
    }
    let program = Program::new(graph, &plan)?;
    let layers = mix::layers(graph, &program.plan);
    if layers.is_empty() {
        return Err(SearchError::NoLayers);
    }
    let float = Answers::of(&program, search.samples, &mut |done| {
        watch.progress("running the float model", done, count);
    })?;
    let quality = match &search.labels {
        Some(labels) => Quality::Accuracy { labels: labels.clone() },
        None if float.are_scores() => Quality::Agreement,
        None => Quality::Fidelity,
    };
    let bench = Bench { graph, ranges, calibration, search, plan, layers, quality, float, started };
    let all_float = vec![Numbers::Float; graph.nodes.len()];
    let float_point = bench.point(&program, &bench.float, all_float, false);

    let (noise, sensitivities) = bench.sensitivities(&program, watch)?;
    let mut points: Vec<Point> = Vec::new();
    let mut kept: Vec<Option<(Quantization, Vec<Effect>)>> = Vec::new();
    let mixes = bench.mixes(&noise);
    let mut cut_short = false;
    for (at, numbers) in mixes.iter().enumerate() {
        watch.progress("measuring mixes", at, mixes.len());
        if bench.out_of_time() && !points.is_empty() {
            cut_short = true;
            break;
        }
        let quantization = Quantization::new(graph.clone(), numbers, ranges);
        points.push(bench.measure(&quantization, false)?);
        kept.push(None);
    }
    // The cheapest that fits; cheaper ones that miss the quality only may reach it with better weights.
    let order = bench.by_cost(&points, &float_point);
    let mut tried = 0;
    let mut chosen = None;
    for at in order {
        let fits = bench.fits(&points[at], &float_point);
        let near = bench.fits_but_for_quality(&points[at]) && tried < IMPROVED;
        if !fits && !near {
            continue;
        }
        let time_is_left = !(bench.out_of_time() && fits);
        let numbers = points[at].numbers.clone();
        if time_is_left && !improvements.for_numbers(&numbers).is_empty() {
            tried += usize::from(!fits);
            let mut quantization = Quantization::new(graph.clone(), &numbers, ranges);
            let notes = Vec::new();
            let mut context =
                Context { reference: graph, samples: calibration, method, seed, watch, notes };
            let effects = improve(&mut quantization, improvements, &mut context)?;
            let improved = bench.measure(&quantization, true)?;
            let closer = improved.expected_changes <= points[at].expected_changes;
            if effects.iter().any(|effect| effect.kept) {
                let improved_fits = bench.fits(&improved, &float_point);
                points.push(improved);
                kept.push(Some((quantization, effects)));
                if improved_fits && (closer || !fits) {
                    chosen = Some(points.len() - 1);
                    break;
                }
                // What is closer to the float model and misses the mark shows that the other met it by luck.
                if closer {
                    continue;
                }
            }
        }
        if fits {
            chosen = Some(at);
            break;
        }
    }
    mark_front(&mut points);
    let Some(chosen) = chosen else {
        return Err(SearchError::Budget {
            budget: describe_budget(&search.budget),
            nearest: nearest(&points, &float_point, &search.budget),
        });
    };
    let (quantization, effects) = match kept.swap_remove(chosen) {
        Some(improved) => improved,
        None => (Quantization::new(graph.clone(), &points[chosen].numbers, ranges), Vec::new()),
    };
    let front = Front {
        quality: bench.quality.name(),
        samples: count,
        float: float_point,
        points,
        chosen,
        sensitivities,
        cut_short,
    };
    Ok(Found { quantization, effects, front })
}

impl Bench<'_> {
    fn out_of_time(&self) -> bool {
        self.started.elapsed() > self.search.time_limit
    }

    /// Converts and runs a mix.
    fn measure(&self, quantization: &Quantization, improved: bool) -> Result<Point, EvaluateError> {
        let program = Program::new(&quantization.lowered(), &self.plan)?;
        let answers = Answers::of(&program, self.search.samples, &mut |_| ())?;
        Ok(self.point(&program, &answers, quantization.numbers.clone(), improved))
    }

    fn point(
        &self,
        program: &Program,
        answers: &Answers,
        numbers: Vec<Numbers>,
        improved: bool,
    ) -> Point {
        let time: f64 = self
            .layers
            .iter()
            .map(|layer| mix::relative_time(layer, numbers[layer.node], self.plan.target))
            .sum();
        let of_float: f64 = self.layers.iter().map(|layer| layer.macs as f64).sum();
        let changes = match self.quality {
            Quality::Accuracy { .. } => Quality::Agreement,
            Quality::Agreement | Quality::Fidelity => self.quality.clone(),
        };
        Point {
            description: mix::describe(self.graph, &numbers),
            numbers,
            quality: answers.quality(&self.quality, &self.float),
            expected_quality: answers.expected_quality(&self.quality, &self.float),
            expected_changes: 1.0 - answers.expected_quality(&changes, &self.float),
            snr_db: answers.snr_db(&self.float),
            file_bytes: emit(&program.plan, &[]).len() as u64,
            arena_bytes: program.plan.arena_bytes as u64,
            latency_us: answers.latency_us,
            relative_time: time / of_float.max(1.0),
            improved,
            on_front: false,
        }
    }

    /// The error over signal at the outputs of each layer in each of its choices, by the layer's place.
    fn sensitivities(
        &self,
        float: &Program,
        watch: &mut dyn Watch,
    ) -> Result<(Vec<Vec<f64>>, Vec<Sensitivity>), EvaluateError> {
        let few = Subset::first(self.calibration, SENSITIVITY_SAMPLES);
        let total = self.layers.iter().map(|layer| layer.choices.len()).sum();
        let mut done = 0;
        let mut noise = Vec::new();
        let mut sensitivities = Vec::new();
        for layer in &self.layers {
            let mut of_layer = Vec::new();
            for numbers in &layer.choices {
                watch.progress("measuring layers", done, total);
                done += 1;
                if *numbers == Numbers::Float {
                    of_layer.push(0.0);
                    continue;
                }
                let mix = mix::spread(self.graph, &[(layer.node, *numbers)].into());
                let noise = noise_of_mix(self.graph, &mix, self.ranges, float, &few)?;
                of_layer.push(noise.max(NO_ERROR));
                sensitivities.push(Sensitivity {
                    layer: layer.name.clone(),
                    numbers: *numbers,
                    snr_db: -10.0 * noise.log10(),
                });
            }
            noise.push(of_layer);
        }
        Ok((noise, sensitivities))
    }

    /// The mixes worth measuring: one kind of numbers throughout, and those that weigh cost against error.
    fn mixes(&self, noise: &[Vec<f64>]) -> Vec<Vec<Numbers>> {
        let mut seen = BTreeSet::new();
        let mut mixes = Vec::new();
        let mut add = |chosen: &BTreeMap<usize, Numbers>| {
            let numbers = mix::spread(self.graph, chosen);
            if seen.insert(numbers.clone()) {
                mixes.push(numbers);
            }
        };
        for uniform in CHOICES {
            let nodes = self.layers.iter().map(|layer| (layer.node, uniform));
            add(&nodes.collect());
        }
        let all_bytes: f64 =
            self.layers.iter().map(|layer| Numbers::Float.weight_bytes(layer.weights)).sum();
        let all_time: f64 = self
            .layers
            .iter()
            .map(|layer| mix::relative_time(layer, Numbers::Float, self.plan.target))
            .sum();
        let costs = match self.search.prefer {
            Prefer::Size => vec![1.0],
            Prefer::Time => vec![0.0],
            Prefer::Balance => vec![0.5, 1.0, 0.0],
        };
        for of_bytes in costs {
            for weighing in 0..WEIGHINGS {
                // From an error of 10 (far beyond any use) to one of 1e-9 for the whole of the cost.
                let weight = 10f64.powf(-1.0 + 10.0 * weighing as f64 / (WEIGHINGS - 1) as f64);
                let mut chosen = BTreeMap::new();
                for (layer, noise) in self.layers.iter().zip(noise) {
                    let cost = |(numbers, noise): &(Numbers, f64)| {
                        let bytes = numbers.weight_bytes(layer.weights) / all_bytes.max(1.0);
                        let time = mix::relative_time(layer, *numbers, self.plan.target);
                        let time = time / all_time.max(1.0);
                        of_bytes * bytes + (1.0 - of_bytes) * time + weight * noise
                    };
                    let choices = layer.choices.iter().copied().zip(noise.iter().copied());
                    let best = choices.min_by(|a, b| cost(a).total_cmp(&cost(b)));
                    if let Some((numbers, _)) = best {
                        chosen.insert(layer.node, numbers);
                    }
                }
                add(&chosen);
            }
        }
        mixes
    }

    fn fits(&self, point: &Point, float: &Point) -> bool {
        // A drop of exactly the share asked for is allowed, whatever the last bit says; and less than half a
        // sample, where only the mean is told.
        let keeps = self.search.budget.max_drop.is_none_or(|most| {
            float.quality - point.quality <= most + 1e-9
                && float.quality - point.expected_quality <= most + self.half_a_sample()
        });
        keeps && self.fits_but_for_quality(point)
    }

    fn half_a_sample(&self) -> f64 {
        0.5 / self.search.samples.len().max(1) as f64
    }

    fn fits_but_for_quality(&self, point: &Point) -> bool {
        let budget = &self.search.budget;
        budget.max_file_bytes.is_none_or(|most| point.file_bytes <= most)
            && budget.max_arena_bytes.is_none_or(|most| point.arena_bytes <= most)
            && budget.max_latency_us.is_none_or(|most| point.latency_us <= most)
    }

    /// The points from the cheapest to the dearest. Without a bound on quality, the best come first: a budget is
    /// there to be spent.
    fn by_cost(&self, points: &[Point], float: &Point) -> Vec<usize> {
        let allowed = self.search.budget.max_drop.map(|most| most.max(self.half_a_sample()));
        let cost = |point: &Point| {
            let loss = allowed.map_or(0.0, |most| WORTH * point.expected_changes / most);
            let size = (point.file_bytes as f64 / float.file_bytes as f64).ln();
            let time = point.relative_time.max(f64::MIN_POSITIVE).ln();
            let cost = match self.search.prefer {
                Prefer::Size => size + time * 1e-3,
                Prefer::Time => time + size * 1e-3,
                Prefer::Balance => size + time,
            };
            cost + loss
        };
        let mut order: Vec<usize> = (0..points.len()).collect();
        order.sort_by(|a, b| {
            let (a, b) = (&points[*a], &points[*b]);
            let by_cost = cost(a).total_cmp(&cost(b)).then(b.snr_db.total_cmp(&a.snr_db));
            match self.search.budget.max_drop {
                Some(_) => by_cost,
                None => b.expected_quality.total_cmp(&a.expected_quality).then(by_cost),
            }
        });
        order
    }
}

/// Marks the points that no other beats.
fn mark_front(points: &mut [Point]) {
    let beats = |a: &Point, b: &Point| {
        let no_worse = a.quality >= b.quality
            && a.file_bytes <= b.file_bytes
            && a.relative_time <= b.relative_time;
        let better = a.quality > b.quality
            || a.file_bytes < b.file_bytes
            || a.relative_time < b.relative_time;
        no_worse && better
    };
    for at in 0..points.len() {
        points[at].on_front = !points.iter().any(|other| beats(other, &points[at]));
    }
}

fn describe_budget(budget: &Budget) -> String {
    let mut parts = Vec::new();
    if let Some(drop) = budget.max_drop {
        parts.push(format!("--max-drop {}%", trimmed(drop * 100.0)));
    }
    if let Some(bytes) = budget.max_file_bytes {
        parts.push(format!("--max-size {bytes}"));
    }
    if let Some(bytes) = budget.max_arena_bytes {
        parts.push(format!("--max-arena {bytes}"));
    }
    if let Some(us) = budget.max_latency_us {
        parts.push(format!("--max-latency {}us", trimmed(us)));
    }
    parts.join(" and ")
}

fn trimmed(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What comes nearest to a budget that nothing fits: for each part of it, the mix that exceeds it least.
fn nearest(points: &[Point], float: &Point, budget: &Budget) -> String {
    let line = |point: &Point| {
        format!(
            "{} ({:.2} points lost, file {} bytes, arena {} bytes, {:.0} us)",
            point.description,
            100.0 * (float.quality - point.quality),
            point.file_bytes,
            point.arena_bytes,
            point.latency_us
        )
    };
    let by = |key: &dyn Fn(&Point) -> f64| {
        points.iter().min_by(|a, b| key(a).total_cmp(&key(b))).map(line)
    };
    let mut lines: Vec<String> = Vec::new();
    if budget.max_drop.is_some() {
        lines.extend(by(&|point| float.quality - point.quality));
    }
    if budget.max_file_bytes.is_some() {
        lines.extend(by(&|point| point.file_bytes as f64));
    }
    if budget.max_arena_bytes.is_some() {
        lines.extend(by(&|point| point.arena_bytes as f64));
    }
    if budget.max_latency_us.is_some() {
        lines.extend(by(&|point| point.latency_us));
    }
    lines.dedup();
    lines.join("; ")
}

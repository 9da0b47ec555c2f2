//! Measures every layer that two programs share: total, introduced and inherited error, and what its tensor
//! looks like.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use whit::format::Op;
use whit::{DType, Model, Slot};

use super::cause::{Cause, WeightFacts};
use super::program::{Grid, Made, Steps};
use super::{CompareError, Comparison, Output, decibels};
use crate::evaluate::{EvaluateError, Samples, output_reals};
use crate::graph::Graph;
use crate::pipeline::Watch;
use crate::quantize::improve::Improvement;

/// What a quantized tensor's name may have behind that of the float value it stands for.
const SUFFIXES: [&str; 5] = ["/q", "/dq", "/i8", "/real", "/rescaled"];

/// Values of a layer that are kept, for quantiles and the histogram; more change neither visibly.
const KEPT_VALUES: usize = 1 << 15;

/// Bins of a layer's histogram.
const BINS: usize = 48;

/// Channels that a layer's are looked at one by one for; beyond, the last axis isn't one of channels.
const MAX_CHANNELS: usize = 4096;

/// Samples that the factors of equalized channels are found on.
const FACTOR_SAMPLES: usize = 16;

/// Work that measuring all layers' effects on the outputs may take, in multiply-accumulates: a few seconds.
const EFFECT_WORK: u64 = 20_000_000_000;

/// Samples that the effects are measured on at most: they are powers, which a few samples tell within a decibel.
const EFFECT_SAMPLES: usize = 8;

/// Work of a step beside its multiply-accumulates.
const STEP_WORK: u64 = 2_000;

/// A layer that both models have.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// Name of its output in the float model.
    pub name: String,
    /// Name of the step in the file; that of the tensor for an input.
    pub node: String,
    /// Operator of the step; `input` for an input, `quantize` where a float is only rounded to a grid.
    pub op: String,
    /// Type of its output in the file.
    pub dtype: String,
    /// Step of the output's grid; 0 for floats.
    pub scale: f32,
    /// Zero point of the grid.
    pub zero_point: i32,
    /// Multiply-accumulates of the step.
    pub macs: u64,
    /// Signal over error of the output as it is in the quantized model.
    pub total_db: f64,
    /// Signal over the error that the layer itself introduces.
    pub introduced_db: f64,
    /// Signal over the error that came with its inputs.
    pub inherited_db: f64,
    /// Signal over the error that the grids of its inputs make in it, when they hold exact values.
    pub input_grids_db: f64,
    /// Share of the introduced error that is from values beyond the ends of the output's grid.
    pub clipping_share: f64,
    /// … from rounding to the output's grid.
    pub rounding_share: f64,
    /// … from weights and arithmetic: the rest.
    pub weights_share: f64,
    /// Largest error in the quantized model.
    pub max_error: f64,
    /// Cosine of the angle between the float's output and the quantized one.
    pub cosine: f64,
    /// Share of the elements that are beyond the ends of the grid.
    pub clipped: f64,
    /// Smallest and largest value of the float model.
    pub seen: [f64; 2],
    /// Ends of the grid.
    pub representable: Option<[f64; 2]>,
    /// Largest magnitude over the one that 99.9 % of the values stay below.
    pub outliers: f64,
    /// Largest magnitude over the root mean square.
    pub crest: f64,
    /// Integers of the grid that occur, out of how many.
    pub levels: Option<[u32; 2]>,
    /// Its channels, where its last axis is one of channels.
    pub channels: Option<Channels>,
    /// Its weights, where it has some.
    pub weights: Option<WeightFacts>,
    /// The outputs' signal over error when only this layer is quantized.
    pub output_db: Option<f64>,
    /// Its part of the error power that all layers make in the outputs, each taken alone.
    pub output_share: Option<f64>,
    /// Counts of the float model's values in equal bins over `seen`.
    pub histogram: Vec<u32>,
    /// What its error comes from, the main cause first.
    pub causes: Vec<Cause>,
}

/// The channels of a layer's output.
#[derive(Clone, Debug, Serialize)]
pub struct Channels {
    /// Number of channels.
    pub count: usize,
    /// The one with the widest range.
    pub widest: usize,
    /// Its range.
    pub widest_range: f64,
    /// The median of all channels' ranges.
    pub median_range: f64,
    /// Channels that are 0 in every sample.
    pub dead: Vec<usize>,
}

/// A tensor of the file, and the float value that it stands for.
struct Pair {
    /// Index of what the file makes.
    file: usize,
    /// Index of what the float program makes.
    float: usize,
    /// The float layer itself, not a copy of it in other numbers.
    own: bool,
}

#[derive(Default)]
struct Sums {
    count: f64,
    signal: f64,
    total: f64,
    introduced: f64,
    input_grids: f64,
    clipping: f64,
    rounding: f64,
    clipped: f64,
    dot: f64,
    quantized: f64,
    max_error: f64,
    low: f32,
    high: f32,
    kept: Vec<f32>,
    /// Smallest and largest value per channel.
    channels: Vec<[f32; 2]>,
    levels: BTreeSet<i32>,
    /// Power of what it does to each output alone.
    effects: Vec<f64>,
}

pub(super) fn measure(
    reference: Model<'_>,
    graph: Option<&Graph>,
    file: Model<'_>,
    samples: &dyn Samples,
    watch: &mut dyn Watch,
) -> Result<Comparison, CompareError> {
    let (float, file) = (Steps::new(reference), Steps::new(file));
    if float.made.iter().any(Made::is_quantized) {
        return Err(CompareError::ReferenceQuantized);
    }
    same_inputs(&float, &file)?;
    let (pairs, ambiguous) = pair(&float, &file);
    let steps = |steps: &Steps<'_>, at: usize| steps.made[at].step.is_some();
    if !pairs.iter().any(|pair| steps(&file, pair.file)) && file.model.steps().len() > 0 {
        let some = |steps: &Steps<'_>| {
            let names = steps.made.iter().filter(|made| made.step.is_some());
            names.map(|made| format!("`{}`", made.name)).take(4).collect::<Vec<_>>().join(", ")
        };
        return Err(CompareError::NoOverlap { file: some(&file), model: some(&float) });
    }

    let mut runs = Runs::new(&float, &file, &pairs, samples.len())?;
    let steps_applied = file.model.metadata_value("quantization.improvements").unwrap_or_default();
    if steps_applied.split(',').any(|step| step == Improvement::Equalize.name()) {
        runs.find_factors(samples)?;
    }
    for sample in 0..samples.len() {
        runs.sample(samples, sample)?;
        watch.progress("comparing", sample + 1, samples.len());
    }
    let effect_samples = runs.effects(samples, watch)?;
    let Runs { sums, outputs, .. } = runs;

    let output_ratio = |sums: &OutputSums| sums.error / sums.signal.max(f64::MIN_POSITIVE);
    let mean = outputs.iter().map(output_ratio).sum::<f64>() / outputs.len().max(1) as f64;
    // The effects' reference: the outputs' signal on the same samples.
    let outputs_alone: f64 = sums.iter().map(|sums| sums.effects.iter().sum::<f64>()).sum();
    let weights = graph.map(Weights::new).unwrap_or_default();
    let layers: Vec<Layer> = pairs
        .iter()
        .zip(sums)
        .filter(|(pair, _)| {
            // A float input is the same on both sides.
            let made = &file.made[pair.file];
            made.step.is_some() || made.is_quantized()
        })
        .map(|(pair, sums)| {
            describe(&float, &file, pair, sums, &weights, effect_samples, outputs_alone)
        })
        .collect();
    let matched =
        |side: fn(&Pair) -> usize| -> BTreeSet<usize> { pairs.iter().map(side).collect() };
    let unmatched = |steps: &Steps<'_>, matched: BTreeSet<usize>| -> Vec<String> {
        let alone = |(at, made): &(usize, &Made)| {
            let own = !SUFFIXES.iter().any(|suffix| made.name.ends_with(suffix));
            made.step.is_some() && own && !matched.contains(at)
        };
        steps.made.iter().enumerate().filter(alone).map(|(_, made)| made.name.clone()).collect()
    };
    let other_weights = |step: &whit::format::StepRecord| {
        let mut inputs = file.model.operands(step).take(usize::from(step.input_count));
        let tensor = inputs.nth(1).and_then(|tensor| file.model.tensor(tensor as usize));
        let dtype = tensor.and_then(|tensor| DType::from_number(tensor.dtype));
        is_layer(step.op) && dtype.is_some_and(|dtype| dtype != DType::F32)
    };
    Ok(Comparison {
        samples: samples.len(),
        samples_of_effects: effect_samples,
        quantized: file.made.iter().any(Made::is_quantized)
            || file.model.steps().any(|step| other_weights(&step)),
        outputs: outputs
            .iter()
            .enumerate()
            .map(|(output, sums)| Output {
                name: output_name(&file.model, output),
                snr_db: decibels(sums.signal, sums.error),
                max_error: sums.max,
                cosine: cosine(sums.dot, sums.signal, sums.other),
            })
            .collect(),
        output_snr_db: decibels(1.0, mean),
        layers,
        only_in_file: unmatched(&file, matched(|pair| pair.file)),
        only_in_model: unmatched(&float, matched(|pair| pair.float)),
        ambiguous,
        remedies: Vec::new(),
        baseline_db: None,
    })
}

/// Whether a step is a convolution or fully connected.
fn is_layer(op: u16) -> bool {
    let layers = [Op::Conv2d, Op::DepthwiseConv2d, Op::FullyConnected];
    Op::from_number(op).is_some_and(|op| layers.contains(&op))
}

fn output_name(model: &Model<'_>, output: usize) -> String {
    let record = model.output(output).and_then(|tensor| model.tensor(tensor));
    record.map_or("", |record| model.text(record.name)).to_owned()
}

fn same_inputs(float: &Steps<'_>, file: &Steps<'_>) -> Result<(), CompareError> {
    let interface =
        |steps: &Steps<'_>| -> (Vec<Vec<(u32, u32)>>, String) {
            let records = steps.model.inputs().filter_map(|tensor| steps.model.tensor(tensor));
            let (mut shapes, mut texts) = (Vec::new(), Vec::new());
            for record in records {
                let dims = record.dims[..usize::from(record.rank)].iter();
                let dims: Vec<(u32, u32)> =
                    dims.map(|dim| steps.model.dim_bounds(*dim).unwrap_or((0, 0))).collect();
                let sizes = dims.iter().map(|(min, max)| {
                    if min == max { max.to_string() } else { format!("{min}..{max}") }
                });
                let sizes: Vec<String> = sizes.collect();
                texts.push(format!("`{}` {}", steps.model.text(record.name), sizes.join("×")));
                shapes.push(dims);
            }
            (shapes, texts.join(", "))
        };
    let ((a, model), (b, other)) = (interface(float), interface(file));
    let outputs = |steps: &Steps<'_>| steps.model.outputs().len();
    // Names may differ: a renamed copy of a model is still the model.
    if a == b && outputs(float) == outputs(file) {
        return Ok(());
    }
    let text = |inputs: String, outputs: usize| format!("{inputs} and {outputs} outputs");
    Err(CompareError::Inputs {
        model: text(model, outputs(float)),
        file: text(other, outputs(file)),
    })
}

/// Finds what stands for the same value in both, by name.
fn pair(float: &Steps<'_>, file: &Steps<'_>) -> (Vec<Pair>, Vec<String>) {
    let (by_name, mut ambiguous) = float.by_name();
    let (in_file, twice) = file.by_name();
    ambiguous.extend(twice);
    let mut pairs = Vec::new();
    for (at, made) in file.made.iter().enumerate() {
        if ambiguous.contains(made.name.as_str()) {
            continue;
        }
        let mut name = made.name.as_str();
        let found = loop {
            if let Some(found) = by_name.get(name) {
                break Some(*found);
            }
            match SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)) {
                Some(shorter) => name = shorter,
                None => break None,
            }
        };
        let Some(mut found) = found else { continue };
        if made.name != float.made[found].name && !made.is_quantized() {
            // The reals behind integers, which are compared themselves.
            continue;
        }
        if made.is_quantized()
            && made.name == float.made[found].name
            && let Some(clamp) = float.sole_clamp(found)
            && !in_file.contains_key(float.made[clamp].name.as_str())
        {
            // The clamp became the saturation of this layer, which keeps its name.
            found = clamp;
        }
        if float.made[found].elements == made.elements {
            let own = made.name == name;
            pairs.push(Pair { file: at, float: found, own });
        }
    }
    (pairs, ambiguous.into_iter().map(str::to_owned).collect())
}

#[derive(Clone, Default)]
struct OutputSums {
    signal: f64,
    error: f64,
    other: f64,
    dot: f64,
    max: f64,
}

/// The programs while they run.
struct Runs<'r, 'm> {
    float: &'r Steps<'m>,
    file: &'r Steps<'m>,
    pairs: &'r [Pair],
    /// Pairs of each tensor of the float program.
    of_float: HashMap<usize, Vec<usize>>,
    of_file: HashMap<usize, usize>,
    /// Factors by channel between what equalization made of a value in the file and the float program's, by the
    /// float program's tensor. Layers are compared as the file has them.
    factors: HashMap<usize, Vec<f32>>,
    /// The grid on which every reader finds a value of the float program, if all find it on one.
    fed: HashMap<usize, Option<Grid>>,
    sessions: [whit::Session<'m>; 4],
    sums: Vec<Sums>,
    outputs: Vec<OutputSums>,
    keep_per_sample: usize,
    /// By float tensor and pair, of the sample last run.
    exact: HashMap<usize, Vec<f32>>,
    own: Vec<Vec<f32>>,
}

impl<'r, 'm> Runs<'r, 'm> {
    fn new(
        float: &'r Steps<'m>,
        file: &'r Steps<'m>,
        pairs: &'r [Pair],
        samples: usize,
    ) -> Result<Runs<'r, 'm>, EvaluateError> {
        let mut of_float: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut of_file = HashMap::new();
        let mut fed: HashMap<usize, Option<Grid>> = HashMap::new();
        for (at, pair) in pairs.iter().enumerate() {
            of_float.entry(pair.float).or_default().push(at);
            of_file.insert(pair.file, at);
            let grid = file.made[pair.file].grid();
            if grid.is_none() && file.is_only_quantized(pair.file) {
                // What is computed behind is computed on the integers.
                continue;
            }
            // What is there as floats and as integers is read exactly by some.
            fed.entry(pair.float)
                .and_modify(|known| *known = known.filter(|known| Some(*known) == grid))
                .or_insert(grid);
        }
        let session = |steps: &Steps<'m>| steps.session();
        let empty = || Sums { low: f32::INFINITY, high: f32::NEG_INFINITY, ..Sums::default() };
        Ok(Runs {
            float,
            file,
            pairs,
            of_float,
            of_file,
            factors: HashMap::new(),
            fed,
            sessions: [session(float)?, session(float)?, session(file)?, session(file)?],
            sums: pairs.iter().map(|_| empty()).collect(),
            outputs: vec![OutputSums::default(); file.model.outputs().len()],
            keep_per_sample: (KEPT_VALUES / samples.max(1)).max(32),
            exact: HashMap::new(),
            own: vec![Vec::new(); pairs.len()],
        })
    }

    /// Finds the factors of equalized channels: powers of two, so that errors don't hide them.
    fn find_factors(&mut self, samples: &dyn Samples) -> Result<(), CompareError> {
        // By float tensor: Σ float · file and Σ file² of every channel.
        let mut products: HashMap<usize, Vec<[f64; 2]>> = HashMap::new();
        let (float, file) = (self.float, self.file);
        let [mut plain, mut quantized] = [float.session()?, file.session()?];
        for sample in 0..samples.len().min(FACTOR_SAMPLES) {
            let mut exact: HashMap<usize, (Vec<f32>, usize)> = HashMap::new();
            float.run(&mut plain, samples, sample, &mut |made, slot, reals| {
                let channels = slot.dims().last().map_or(0, |dim| *dim as usize);
                let own = |pair: &usize| self.pairs[*pair].own;
                let layer = self.of_float.get(&made).is_some_and(|pairs| pairs.iter().any(own));
                if layer && float.made[made].step.is_some() && channels > 1 {
                    exact.insert(made, (reals.to_vec(), channels));
                }
                None
            })?;
            file.run(&mut quantized, samples, sample, &mut |made, _, reals| {
                let pair = &self.pairs[*self.of_file.get(&made)?];
                let (exact, channels) = exact.get(&pair.float).filter(|_| pair.own)?;
                let sums = products.entry(pair.float).or_insert(vec![[0.0; 2]; *channels]);
                for (at, (exact, real)) in exact.iter().zip(reals).enumerate() {
                    let (exact, real) = (f64::from(*exact), f64::from(*real));
                    sums[at % channels][0] += exact * real;
                    sums[at % channels][1] += real * real;
                }
                None
            })?;
        }
        for (made, sums) in products {
            let factor = |[product, square]: [f64; 2]| {
                let factor = (product / square).log2().round().exp2() as f32;
                if factor.is_normal() { factor } else { 1.0 }
            };
            let factors: Vec<f32> = sums.into_iter().map(factor).collect();
            if factors.iter().any(|factor| *factor != 1.0) {
                self.factors.insert(made, factors);
            }
        }
        Ok(())
    }

    /// Runs one sample four times: float; float on rounded values; quantized; quantized on exact values.
    fn sample(&mut self, samples: &dyn Samples, sample: usize) -> Result<(), CompareError> {
        let Runs {
            float,
            file,
            pairs,
            of_float,
            of_file,
            factors,
            fed,
            sessions: [plain, rounded, quantized, isolated],
            sums,
            outputs,
            keep_per_sample,
            exact,
            own,
        } = self;
        let (float, file, keep) = (*float, *file, *keep_per_sample);
        exact.clear();
        float.run(plain, samples, sample, &mut |made, slot, reals| {
            if let Some(of) = of_float.get(&made) {
                let reals = scaled(reals, factors.get(&made), |real, factor| real / factor);
                for pair in of {
                    look(&mut sums[*pair], slot, &reals, keep);
                }
                exact.insert(made, reals);
            }
            None
        })?;
        // What the float layers make of rounded inputs.
        let mut made_of_rounded: HashMap<usize, Vec<f32>> = HashMap::new();
        float.run(rounded, samples, sample, &mut |made, _, reals| {
            let of = of_float.get(&made)?;
            let exact = &exact[&made];
            let reals = scaled(reals, factors.get(&made), |real, factor| real / factor);
            for pair in of {
                sums[*pair].input_grids += squared(exact, &reals);
            }
            made_of_rounded.insert(made, reals);
            let rounded: Vec<f32> = match fed.get(&made).copied().flatten() {
                Some(grid) => exact.iter().map(|real| grid.nearest(*real)).collect(),
                None => exact.clone(),
            };
            Some(scaled(&rounded, factors.get(&made), |real, factor| real * factor))
        })?;
        file.run(quantized, samples, sample, &mut |made, _, reals| {
            let pair = *of_file.get(&made)?;
            let exact = exact.get(&pairs[pair].float)?;
            let sums = &mut sums[pair];
            sums.total += squared(exact, reals);
            for (exact, real) in exact.iter().zip(reals) {
                let (exact, real) = (f64::from(*exact), f64::from(*real));
                sums.dot += exact * real;
                sums.quantized += real * real;
                sums.max_error = sums.max_error.max((exact - real).abs());
            }
            None
        })?;
        file.run(isolated, samples, sample, &mut |made, _, reals| {
            let pair = *of_file.get(&made)?;
            let of_float = pairs[pair].float;
            let (exact, wanted) = (exact.get(&of_float)?, made_of_rounded.get(&of_float)?);
            // A copy on another grid, and an input, have only that grid's error.
            let is_layer = pairs[pair].own && file.made[made].step.is_some();
            let wanted = if is_layer { wanted } else { exact };
            introduce(&mut sums[pair], file.made[made].grid(), wanted, reals);
            own[pair] = reals.iter().zip(wanted).map(|(real, wanted)| real - wanted).collect();
            Some(exact.clone())
        })?;
        for (output, sums) in outputs.iter_mut().enumerate() {
            let (a, b) = (output_reals(plain, output)?, output_reals(quantized, output)?);
            for (a, b) in a.iter().zip(&b) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                sums.signal += a * a;
                sums.other += b * b;
                sums.dot += a * b;
                sums.error += (a - b).powi(2);
                sums.max = sums.max.max((a - b).abs());
            }
        }
        Ok(())
    }

    /// What each layer's own error does to the outputs, if it is the only one: on how many samples it was
    /// measured. Not for models with state, whose runs would disturb each other.
    fn effects(
        &mut self,
        samples: &dyn Samples,
        watch: &mut dyn Watch,
    ) -> Result<usize, CompareError> {
        if self.float.model.states().len() > 0 {
            return Ok(0);
        }
        let steps = self.float.model.steps();
        let work: u64 = steps.map(|step| step.macs.saturating_add(STEP_WORK)).sum();
        let work = work.saturating_mul(self.pairs.len() as u64).max(1);
        let count = ((EFFECT_WORK / work) as usize).clamp(1, EFFECT_SAMPLES).min(samples.len());
        let outputs = self.outputs.len();
        for sums in &mut self.sums {
            sums.effects = vec![0.0; outputs];
        }
        for sample in 0..count {
            // Only its values are wanted; what it adds up is taken back.
            let sums = std::mem::take(&mut self.sums);
            let totals = self.outputs.clone();
            self.sums = self.pairs.iter().map(|_| Sums::default()).collect();
            self.sample(samples, sample)?;
            self.sums = sums;
            self.outputs = totals;
            let mut exact = Vec::new();
            for output in 0..outputs {
                exact.push(output_reals(&self.sessions[0], output)?);
            }
            for (at, pair) in self.pairs.iter().enumerate() {
                if self.own[at].iter().all(|error| *error == 0.0) {
                    continue;
                }
                let factors = self.factors.get(&pair.float);
                let own = &scaled(&self.own[at], factors, |error, factor| error * factor);
                self.float.run(&mut self.sessions[0], samples, sample, &mut |made, _, reals| {
                    (made == pair.float)
                        .then(|| reals.iter().zip(own).map(|(real, error)| real + error).collect())
                })?;
                for (output, exact) in exact.iter().enumerate() {
                    let other = output_reals(&self.sessions[0], output)?;
                    let signal: f64 = exact.iter().map(|real| f64::from(*real).powi(2)).sum();
                    self.sums[at].effects[output] +=
                        squared(exact, &other) / signal.max(f64::MIN_POSITIVE);
                }
                let done = sample * self.pairs.len() + at + 1;
                watch.progress("isolating layers", done, count * self.pairs.len());
            }
        }
        Ok(count)
    }
}

/// Values with the factors of their channels applied, where there are some.
fn scaled(reals: &[f32], factors: Option<&Vec<f32>>, apply: fn(f32, f32) -> f32) -> Vec<f32> {
    match factors {
        None => reals.to_vec(),
        Some(factors) => reals
            .iter()
            .zip(factors.iter().cycle())
            .map(|(real, factor)| apply(*real, *factor))
            .collect(),
    }
}

fn squared(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

/// Takes down what a layer's values look like.
fn look(sums: &mut Sums, slot: &Slot, reals: &[f32], keep: usize) {
    for real in reals {
        sums.low = sums.low.min(*real);
        sums.high = sums.high.max(*real);
        sums.signal += f64::from(*real).powi(2);
    }
    sums.count += reals.len() as f64;
    sums.kept.extend(reals.iter().step_by(reals.len().div_ceil(keep).max(1)));
    let count = slot.dims().last().map_or(0, |dim| *dim as usize);
    if slot.rank() < 2 || !(2..=MAX_CHANNELS).contains(&count) {
        return;
    }
    sums.channels.resize(count, [f32::INFINITY, f32::NEG_INFINITY]);
    for row in reals.chunks_exact(count) {
        for (range, real) in sums.channels.iter_mut().zip(row) {
            *range = [range[0].min(*real), range[1].max(*real)];
        }
    }
}

/// Adds what a layer itself got wrong, and how much of it the output's grid can't do better.
fn introduce(sums: &mut Sums, grid: Option<Grid>, wanted: &[f32], got: &[f32]) {
    sums.introduced += squared(wanted, got);
    let Some(grid) = grid else { return };
    let ends = grid.ends();
    for (wanted, got) in wanted.iter().zip(got) {
        let real = f64::from(*wanted);
        let inside = real.clamp(ends[0], ends[1]);
        // Half a step beyond the end still rounds to it.
        if (real - inside).abs() > grid.step() / 2.0 {
            sums.clipped += 1.0;
            sums.clipping += (real - inside).powi(2);
        } else {
            sums.rounding += (real - f64::from(grid.nearest(*wanted))).powi(2);
        }
        if grid.levels() <= 256.0 {
            sums.levels.insert(grid.integer(*got) as i32);
        }
    }
}

fn cosine(dot: f64, a: f64, b: f64) -> f64 {
    if a == 0.0 && b == 0.0 { 1.0 } else { dot / (a * b).sqrt().max(f64::MIN_POSITIVE) }
}

/// Facts of weights by the name of the layer's output, from the float graph.
#[derive(Default)]
struct Weights {
    by_output: BTreeMap<String, WeightFacts>,
}

impl Weights {
    fn new(graph: &Graph) -> Weights {
        let mut by_output = BTreeMap::new();
        for (at, node) in graph.nodes.iter().enumerate() {
            if let Some(facts) = WeightFacts::of(graph, at) {
                by_output.insert(graph.value(node.outputs[0]).name.clone(), facts);
            }
        }
        Weights { by_output }
    }
}

fn describe(
    float: &Steps<'_>,
    file: &Steps<'_>,
    pair: &Pair,
    mut sums: Sums,
    weights: &Weights,
    effect_samples: usize,
    all_effects: f64,
) -> Layer {
    let made = &file.made[pair.file];
    let model = &file.model;
    let step = made.step.and_then(|step| model.step(step));
    let op = step.as_ref().and_then(|step| Op::from_number(step.op));
    let inputs: Vec<usize> = step.as_ref().map_or(Vec::new(), |step| {
        let inputs = model.operands(step).take(usize::from(step.input_count));
        inputs.map(|tensor| tensor as usize).collect()
    });
    let scale_of = |tensor: usize| model.tensor(tensor).map_or(0.0, |record| record.scale);
    let share = |part: f64| if sums.introduced > 0.0 { part / sums.introduced } else { 0.0 };
    let (clipping_share, rounding_share) =
        (share(sums.clipping).min(1.0), share(sums.rounding).min(1.0));
    let rms = (sums.signal / sums.count.max(1.0)).sqrt();
    let largest = f64::from(sums.high.abs().max(sums.low.abs()));
    sums.kept.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let place = (sums.kept.len() as f64 * 0.999) as usize;
    let usual = sums.kept.get(place.min(sums.kept.len().saturating_sub(1)));
    let usual = usual.map_or(0.0, |real| f64::from(real.abs()));
    let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 1.0 };
    let mut histogram = vec![0; BINS];
    let width = (sums.high - sums.low) / BINS as f32;
    for real in &sums.kept {
        let bin = if width > 0.0 { ((real - sums.low) / width) as usize } else { 0 };
        histogram[bin.min(BINS - 1)] += 1;
    }
    let effect = (effect_samples > 0).then(|| {
        let outputs = sums.effects.len().max(1) as f64;
        sums.effects.iter().sum::<f64>() / outputs / effect_samples as f64
    });
    let float_name = &float.made[pair.float].name;
    let facts = || {
        let mut facts = weights
            .by_output
            .get(float_name)
            .or_else(|| weights.by_output.get(&made.name))?
            .clone();
        let weights = model.tensor(*inputs.get(1)?)?;
        facts.stored_as(&weights, made.dtype, scale_of(*inputs.first()?));
        Some(facts)
    };
    Layer {
        name: float_name.clone(),
        node: step.as_ref().map_or(made.name.clone(), |step| model.text(step.name).to_owned()),
        op: match op {
            _ if made.step.is_none() => "input".to_owned(),
            _ if !pair.own => "quantize".to_owned(),
            op => op.map_or("?", Op::name).to_owned(),
        },
        dtype: made.dtype.to_string(),
        scale: made.scale,
        zero_point: made.zero_point,
        macs: step.as_ref().map_or(0, |step| step.macs),
        total_db: decibels(sums.signal, sums.total),
        introduced_db: decibels(sums.signal, sums.introduced),
        inherited_db: decibels(sums.signal, sums.total - sums.introduced),
        input_grids_db: decibels(sums.signal, sums.input_grids),
        clipping_share,
        rounding_share,
        weights_share: if sums.introduced > 0.0 {
            (1.0 - clipping_share - rounding_share).max(0.0)
        } else {
            0.0
        },
        max_error: sums.max_error,
        cosine: cosine(sums.dot, sums.signal, sums.quantized),
        clipped: sums.clipped / sums.count.max(1.0),
        seen: [f64::from(sums.low), f64::from(sums.high)],
        representable: made.grid().map(|grid| grid.ends()),
        outliers: ratio(largest, usual),
        crest: ratio(largest, rms),
        levels: made
            .grid()
            .filter(|grid| grid.levels() <= 256.0)
            .map(|grid| [sums.levels.len() as u32, grid.levels() as u32]),
        channels: channels(&sums.channels),
        weights: if pair.own && step.as_ref().is_some_and(|step| is_layer(step.op)) {
            facts()
        } else {
            None
        },
        output_db: effect.map(|ratio| decibels(1.0, ratio)),
        output_share: (effect_samples > 0 && all_effects > 0.0)
            .then(|| sums.effects.iter().sum::<f64>() / all_effects),
        histogram,
        causes: Vec::new(),
    }
}

fn channels(ranges: &[[f32; 2]]) -> Option<Channels> {
    if ranges.is_empty() {
        return None;
    }
    // A channel's grid would have to hold 0, too.
    let width = |range: &[f32; 2]| f64::from(range[1].max(0.0)) - f64::from(range[0].min(0.0));
    let widths: Vec<f64> = ranges.iter().map(width).collect();
    let widest = (0..widths.len()).max_by(|a, b| widths[*a].total_cmp(&widths[*b]))?;
    let mut sorted = widths.clone();
    sorted.sort_by(f64::total_cmp);
    Some(Channels {
        count: widths.len(),
        widest,
        widest_range: widths[widest],
        median_range: sorted[sorted.len() / 2],
        dead: (0..widths.len()).filter(|channel| widths[*channel] == 0.0).collect(),
    })
}

//! Equalization: channels between layers are rescaled so that few of them decide a tensor's range.
//!
//! A channel that is divided by s where it is made and multiplied by s in the weights that read it leaves the
//! function as it was (Nagel et al. 2019, arXiv:1906.04721, section 4.1, between layers with ReLU between them;
//! Xiao et al. 2022, SmoothQuant, arXiv:2211.10438, from the scale of a normalisation or a layer into the layers
//! behind it; Lin et al. 2023, AWQ, arXiv:2306.00978, for weights in groups). The factors are chosen among those that
//! the three papers propose, for each tensor by the error of the outputs of the layers that read it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use whit::DType;

use crate::evaluate::EvaluateError;
use crate::graph::{BinaryKind, Clamp, Graph, Node, Op, PadMode, ReduceKind, UnaryKind, ValueId};
use crate::quantize::calibrate::Ranges;
use crate::quantize::numbers::{Numbers, output_axis, weights_of};
use crate::quantize::quantization::Quantization;
use crate::quantize::weights::Weights;
use crate::quantize::{asymmetric, limits, symmetric};
use crate::tensor::Tensor;

use super::Context;
use super::probe::watch;
use super::rows::{Draw, Reads, dot};

/// Products per candidate and layer that its error is measured on, about.
const PRODUCTS: usize = 100_000_000;

/// Rows of a layer's input that its error is measured on.
const ROWS: [usize; 2] = [32, 256];

/// Shares of the difficulty that move from activations into weights.
const SHARES: [f32; 5] = [0.25, 0.4, 0.5, 0.65, 0.8];

/// Factors beyond this or its inverse would make numbers that f16 scales don't hold.
const LARGEST_FACTOR: f32 = 1024.0;

/// A factor is worth it where it takes this much of the error away.
const LEAST_GAIN: f64 = 0.02;

/// A fused clamp is as good as unreached by a channel that stays below the bound by this factor in all the data.
const HEADROOM: f32 = 2.0;

/// A tensor whose channels can be rescaled.
struct Site {
    /// The layer or normalisation that makes it.
    producer: usize,
    channels: usize,
    /// The layers that read it, and as which value.
    readers: Vec<(usize, ValueId)>,
    /// Clamps that channels have to stay within.
    bounds: Vec<(ValueId, Clamp)>,
}

/// What the float model shows of a value.
struct Seen {
    low: Vec<f32>,
    high: Vec<f32>,
    /// Mean magnitude.
    mean: Vec<f64>,
    count: usize,
}

/// Rows of the input of a layer.
struct Rows {
    reads: Reads,
    draw: Draw,
    most: usize,
    every: usize,
    rows: Vec<f32>,
}

/// Runs the step.
pub(super) fn run(
    quantization: &mut Quantization,
    context: &mut Context<'_>,
) -> Result<bool, EvaluateError> {
    let mut sites = sites(&quantization.graph);
    sites.retain(|site| site.readers.iter().any(|(node, x)| is_rounded(quantization, *node, *x)));
    if sites.is_empty() {
        return Ok(false);
    }
    let (seen, rows) = look(quantization, &sites, context)?;
    let mut graph = quantization.graph.clone();
    let mut taken = HashSet::new();
    let mut changed = false;
    for (at, site) in sites.iter().enumerate() {
        context.watch.progress("equalizing", at, sites.len());
        // Two tensors that are multiplied reach the same weights; one of them is rescaled.
        if site.readers.iter().any(|(node, _)| taken.contains(node)) {
            continue;
        }
        if let Some(factors) = choose(quantization, &graph, site, &seen, &rows) {
            rescale(&mut graph, site, &factors);
            taken.extend(site.readers.iter().map(|(node, _)| *node));
            changed = true;
        }
    }
    if !changed {
        return Ok(false);
    }
    let ranges = match quantization.activations.is_empty() {
        true => Ranges::new(),
        false => context.calibrate(&graph, &quantization.numbers)?,
    };
    let equalized = Some(Arc::new(graph.clone()));
    *quantization = Quantization::new(graph, &quantization.numbers, &ranges);
    quantization.equalized = equalized;
    Ok(true)
}

/// Whether a layer's weights or the value it reads are rounded.
fn is_rounded(quantization: &Quantization, node: usize, x: ValueId) -> bool {
    quantization.weights.contains_key(&node) || grid(quantization, node, x).is_some()
}

/// The integers that a layer reads a value as.
fn grid(quantization: &Quantization, node: usize, x: ValueId) -> Option<DType> {
    let own = quantization.numbers[node].integer();
    let has = |dtype: &DType| quantization.activations.contains_key(&(x, *dtype));
    own.filter(has).or_else(|| [DType::I8, DType::I16].into_iter().find(has))
}

/// Every tensor whose channels can be rescaled without changing what the graph computes.
fn sites(graph: &Graph) -> Vec<Site> {
    let consumers = graph.consumers();
    let results: HashSet<ValueId> = graph.results().collect();
    let sole = |id: ValueId| consumers[id.0 as usize].len() == 1;
    let mut sites = Vec::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        let Some(channels) = produces(graph, node).filter(|channels| *channels > 1) else {
            continue;
        };
        // Weights that another layer shares would have to be stored twice.
        if weights_of(graph, node).is_some() && !node.inputs[1].is_some_and(sole) {
            continue;
        }
        let mut site = Site { producer: at, channels, readers: Vec::new(), bounds: Vec::new() };
        let clamp = match &node.op {
            Op::Conv(conv) => conv.clamp,
            Op::MatMul(matmul) => matmul.clamp,
            _ => Clamp::NONE,
        };
        let ok = bounded(&mut site, node.outputs[0], clamp)
            && follow(graph, &consumers, &results, node.outputs[0], &mut site);
        if ok && !site.readers.is_empty() {
            sites.push(site);
        }
    }
    sites
}

/// The channels of a node's result, if they can be divided by numbers of their own.
fn produces(graph: &Graph, node: &Node) -> Option<usize> {
    let constant = |operand: usize| {
        let id = node.inputs.get(operand).copied().flatten();
        id.is_none_or(|id| graph.constant(id).is_some_and(|c| c.dtype == DType::F32))
    };
    let channels = last(graph, node.outputs[0])?;
    match &node.op {
        Op::Conv(_) | Op::MatMul(_) => {
            let weights = weights_of(graph, node)?;
            let residual = node.inputs.get(3).copied().flatten();
            let fits = weights.shape[output_axis(node)] == channels;
            (fits && constant(2) && residual.is_none()).then_some(channels)
        }
        Op::Normalize { axis, .. } => {
            let rank = graph.value(node.outputs[0]).shape.len();
            (axis + 1 == rank && constant(1) && constant(2)).then_some(channels)
        }
        _ => None,
    }
}

/// The size of a value's last axis.
fn last(graph: &Graph, id: ValueId) -> Option<usize> {
    graph.value(id).shape.last()?.as_const().and_then(|size| usize::try_from(size).ok())
}

/// Takes note of a clamp; false where it can't be rescaled with the channels.
fn bounded(site: &mut Site, value: ValueId, clamp: Clamp) -> bool {
    let free = |bound: f32| bound == 0.0 || bound.is_infinite();
    if !(free(clamp.min) && free(clamp.max)) {
        site.bounds.push((value, clamp));
    }
    clamp.min <= 0.0 && clamp.max > 0.0
}

/// Follows a value to the layers that read it, through what commutes with a positive factor per channel. False when
/// somebody else reads it.
fn follow(
    graph: &Graph,
    consumers: &[Vec<usize>],
    results: &HashSet<ValueId>,
    value: ValueId,
    site: &mut Site,
) -> bool {
    if results.contains(&value) || last(graph, value).is_none_or(|n| n % site.channels != 0) {
        return false;
    }
    for reader in &consumers[value.0 as usize] {
        let node = &graph.nodes[*reader];
        let operands: Vec<usize> =
            (0..node.inputs.len()).filter(|o| node.inputs[*o] == Some(value)).collect();
        let [operand] = operands[..] else { return false };
        if operand == 0 && weights_of(graph, node).is_some() {
            let alone = node.inputs[1].is_some_and(|id| consumers[id.0 as usize].len() == 1);
            let fits = Reads::of(graph, node).is_some_and(|r| r.channels % site.channels == 0);
            if !alone || !fits {
                return false;
            }
            site.readers.push((*reader, value));
            continue;
        }
        let clamp = match &node.op {
            Op::Unary(UnaryKind::Clip { min, max }) => Clamp { min: *min, max: *max },
            _ => Clamp::NONE,
        };
        let y = node.outputs[0];
        let passes = node.outputs.len() == 1
            && commutes(graph, node, operand, site.channels)
            && bounded(site, y, clamp)
            && follow(graph, consumers, results, y, site);
        if !passes {
            return false;
        }
    }
    true
}

/// Whether a node keeps positive factors per channel of the last axis, those of an operand becoming those of its
/// result.
fn commutes(graph: &Graph, node: &Node, operand: usize, channels: usize) -> bool {
    let Some(x) = node.inputs[operand] else { return false };
    let y = node.outputs[0];
    let axis = graph.value(x).shape.len() - 1;
    let same_axis = last(graph, x) == last(graph, y);
    let is_constant = |id: Option<ValueId>| id.is_some_and(|id| graph.constant(id).is_some());
    match &node.op {
        Op::Unary(
            UnaryKind::Relu | UnaryKind::LeakyRelu { .. } | UnaryKind::Abs | UnaryKind::Neg,
        ) => true,
        // Whether its bounds allow it, the caller finds out.
        Op::Unary(UnaryKind::Clip { .. }) => true,
        Op::Binary(BinaryKind::PRelu) => {
            operand == 0 && same_axis && is_constant(node.inputs.get(1).copied().flatten())
        }
        Op::Binary(BinaryKind::Mul) => same_axis,
        Op::Binary(BinaryKind::Div) => operand == 0 && same_axis,
        Op::Pool(_) => operand == 0,
        Op::Reduce { kind, axes, .. } => {
            let linear = matches!(
                kind,
                ReduceKind::Sum
                    | ReduceKind::Mean
                    | ReduceKind::Max
                    | ReduceKind::Min
                    | ReduceKind::L1
                    | ReduceKind::L2
            );
            linear && !axes.contains(&axis)
        }
        Op::Resize { scales, .. } => same_axis && scales.last() == Some(&1.0),
        Op::Pad { before, after, mode } => {
            let zeros = !matches!(mode, PadMode::Constant(value) if *value != 0.0);
            zeros && before.last() == Some(&0) && after.last() == Some(&0)
        }
        Op::Slice { starts, steps } => {
            let whole = starts.last().and_then(|s| s.as_const()) == Some(0);
            same_axis && whole && steps.last() == Some(&1)
        }
        Op::Transpose { perm } => perm.last() == Some(&axis),
        // An element's channel is its index modulo the channels as long as the last axis is whole blocks of them.
        Op::Reshape => last(graph, y).is_some_and(|size| size > 0 && size % channels == 0),
        Op::Expand => same_axis,
        Op::Gather { axis: gathered } => operand == 0 && *gathered < axis,
        _ => false,
    }
}

/// What activations and the inputs of layers, by node, held.
type Looked = (BTreeMap<ValueId, Seen>, BTreeMap<usize, Rows>);

/// Runs the float model and looks at what the sites are about.
fn look(
    quantization: &Quantization,
    sites: &[Site],
    context: &mut Context<'_>,
) -> Result<Looked, EvaluateError> {
    let graph = &quantization.graph;
    let mut seen: BTreeMap<ValueId, Seen> = BTreeMap::new();
    let mut rows: BTreeMap<usize, Rows> = BTreeMap::new();
    let mut readers: BTreeMap<ValueId, BTreeSet<usize>> = BTreeMap::new();
    let count = context.samples.len().max(1);
    for site in sites {
        let bounds = site.bounds.iter().map(|(value, _)| *value);
        for value in bounds.chain(site.readers.iter().map(|(_, value)| *value)) {
            let n = site.channels;
            let none = Seen {
                low: vec![f32::INFINITY; n],
                high: vec![f32::NEG_INFINITY; n],
                mean: vec![0.0; n],
                count: 0,
            };
            seen.insert(value, none);
        }
        for (node, value) in &site.readers {
            let layer = &graph.nodes[*node];
            let (Some(reads), Some(weights)) = (Reads::of(graph, layer), weights_of(graph, layer))
            else {
                continue;
            };
            let most = (PRODUCTS / weights.len().max(1)).clamp(ROWS[0], ROWS[1]);
            let draw = Draw::new(context.seed ^ *node as u64);
            // So many of every so many samples.
            let (most, every) = (most.div_ceil(count), count.div_ceil(most));
            rows.insert(*node, Rows { reads, draw, most, every, rows: Vec::new() });
            readers.entry(*value).or_default().insert(*node);
        }
    }
    let values = seen.keys().copied().collect();
    let watcher = &mut *context.watch;
    let samples = context.samples;
    let mut progress = |done: usize| watcher.progress("equalizing", done, count);
    watch(graph, &values, samples, &mut progress, &mut |value, sample, reals| {
        if let Some(seen) = seen.get_mut(&value) {
            let channels = seen.low.len();
            for row in reals.chunks_exact(channels) {
                for (channel, real) in row.iter().enumerate() {
                    seen.low[channel] = seen.low[channel].min(*real);
                    seen.high[channel] = seen.high[channel].max(*real);
                    seen.mean[channel] += f64::from(real.abs());
                }
            }
            seen.count += reals.len() / channels;
        }
        for node in readers.get(&value).into_iter().flatten() {
            if let Some(Rows { reads, draw, most, every, rows }) = rows.get_mut(node)
                && sample % *every == 0
            {
                for row in draw.some(reads.count(reals.len()), *most) {
                    reads.push(reals, row, rows);
                }
            }
        }
    })?;
    for seen in seen.values_mut() {
        seen.mean.iter_mut().for_each(|mean| *mean /= seen.count.max(1) as f64);
    }
    Ok((seen, rows))
}

/// What is fixed while factors are tried: a reader's weights as rows, the channel of each, what it should compute.
struct Reader<'r> {
    node: usize,
    rows: &'r Rows,
    seen: &'r Seen,
    weights: Arc<Tensor>,
    numbers: Option<Numbers>,
    grid: Option<DType>,
    expected: Vec<f32>,
}

/// The factors with the least error, if they are better than none.
fn choose(
    quantization: &Quantization,
    graph: &Graph,
    site: &Site,
    seen: &BTreeMap<ValueId, Seen>,
    rows: &BTreeMap<usize, Rows>,
) -> Option<Vec<f32>> {
    let mut readers = Vec::new();
    for (node, value) in &site.readers {
        let (rows, seen) = (rows.get(node)?, seen.get(value)?);
        let weights = Arc::clone(graph.constant(graph.nodes[*node].inputs[1]?)?);
        let numbers = quantization.weights.contains_key(node).then(|| quantization.numbers[*node]);
        let grid = grid(quantization, *node, *value);
        if rows.rows.is_empty() || seen.count == 0 || !finite(&weights) {
            return None;
        }
        let ohwi = by_output(&graph.nodes[*node], &weights, &weights.to_f32());
        let expected = products(&rows.reads, &rows.rows, &ohwi);
        readers.push(Reader { node: *node, rows, seen, weights, numbers, grid, expected });
    }
    let error = |factors: &[f32]| -> f64 {
        readers.iter().map(|reader| reader_error(graph, reader, factors)).sum()
    };
    let none = vec![1.0; site.channels];
    let plain = error(&none);
    let (best, least) = candidates(graph, site, seen, &readers)?
        .into_iter()
        .map(|factors| (error(&factors), factors))
        .map(|(error, factors)| (factors, error))
        .min_by(|a, b| a.1.total_cmp(&b.1))?;
    (least < plain * (1.0 - LEAST_GAIN)).then_some(best)
}

/// Factors that the papers propose.
fn candidates(
    graph: &Graph,
    site: &Site,
    seen: &BTreeMap<ValueId, Seen>,
    readers: &[Reader<'_>],
) -> Option<Vec<Vec<f32>>> {
    let n = site.channels;
    let mut peak = vec![0f32; n];
    let mut mean = vec![0f32; n];
    let mut weight = vec![0f32; n];
    for reader in readers {
        for channel in 0..n {
            let (low, high) = (reader.seen.low[channel], reader.seen.high[channel]);
            peak[channel] = peak[channel].max(low.abs()).max(high.abs());
            mean[channel] = mean[channel].max(reader.seen.mean[channel] as f32);
        }
        let node = &graph.nodes[reader.node];
        for (at, real) in reader.weights.to_f32().iter().enumerate() {
            let channel = input_channel(node, &reader.weights, at) % n;
            weight[channel] = weight[channel].max(real.abs());
        }
    }
    let made = made_by(graph, &graph.nodes[site.producer], n)?;
    let mut all = Vec::new();
    all.push(equal_ranges(&made, &weight));
    for share in SHARES {
        // SmoothQuant, equation 4.
        let of = |c: usize| peak[c].powf(share) / weight[c].powf(1.0 - share);
        all.push((0..n).map(of).collect());
        // AWQ, equation 5.
        all.push((0..n).map(|c| mean[c].powf(share)).collect::<Vec<f32>>());
    }
    for factors in &mut all {
        for channel in 0..n {
            let dead = peak[channel] == 0.0 || weight[channel] == 0.0 || made[channel] == 0.0;
            if dead || !factors[channel].is_finite() || factors[channel] <= 0.0 {
                factors[channel] = f32::NAN;
            }
        }
        normalize(site, seen, factors);
    }
    Some(all)
}

/// Factors that give both layers' weights of a channel the same range (Nagel et al., equation 11).
pub(super) fn equal_ranges(made: &[f32], read: &[f32]) -> Vec<f32> {
    made.iter().zip(read).map(|(made, read)| (made / read).sqrt()).collect()
}

/// Centres factors around 1, keeps them within bounds, and gives channels without one the factor 1. They become powers of
/// two: values and weights of the float model then keep every bit, and who compares the two finds the factors again.
fn normalize(site: &Site, seen: &BTreeMap<ValueId, Seen>, factors: &mut [f32]) {
    // How far a channel may grow: None where it reaches a clamp.
    let least = |channel: usize| -> Option<f32> {
        let mut least = 0f32;
        for (value, clamp) in &site.bounds {
            let seen = seen.get(value)?;
            let sides = [(seen.high[channel], clamp.max), (-seen.low[channel], -clamp.min)];
            for (reach, bound) in sides.into_iter().filter(|(_, b)| b.is_finite() && *b > 0.0) {
                least = least.max(HEADROOM * reach / bound);
            }
        }
        (least < 1.0).then_some(least)
    };
    let free: Vec<Option<f32>> = (0..factors.len()).map(least).collect();
    let tied: Vec<usize> = (0..factors.len()).filter(|c| free[*c].is_none()).collect();
    let basis: Vec<usize> = if tied.is_empty() { (0..factors.len()).collect() } else { tied };
    let logs = basis.iter().map(|c| f64::from(factors[*c]).ln()).filter(|log| log.is_finite());
    let (sum, count) = logs.fold((0.0, 0), |(sum, count), log| (sum + log, count + 1));
    let centre = (sum / f64::from(count.max(1))).exp() as f32;
    for (factor, least) in factors.iter_mut().zip(&free) {
        *factor = match least {
            Some(least) if factor.is_finite() => {
                let bounded = (*factor / centre).clamp(1.0 / LARGEST_FACTOR, LARGEST_FACTOR);
                let power = bounded.log2().round().exp2();
                if power >= *least { power } else { least.log2().ceil().exp2() }
            }
            _ => 1.0,
        };
    }
}

/// The largest weight that makes each channel.
fn made_by(graph: &Graph, node: &Node, channels: usize) -> Option<Vec<f32>> {
    let mut largest = vec![0f32; channels];
    match &node.op {
        Op::Normalize { .. } => match node.inputs.get(1).copied().flatten() {
            None => largest.fill(1.0),
            Some(id) => {
                let scale = graph.constant(id)?.to_f32();
                let wide = scale.len() == channels;
                for (channel, largest) in largest.iter_mut().enumerate() {
                    *largest = scale.get(if wide { channel } else { 0 })?.abs();
                }
            }
        },
        _ => {
            let weights = weights_of(graph, node)?;
            let rows = crate::quantize::weights::Rows::of(weights, output_axis(node));
            for (at, real) in weights.to_f32().iter().enumerate() {
                let channel = rows.place(at).0;
                largest[channel] = largest[channel].max(real.abs());
            }
        }
    }
    Some(largest)
}

/// The input channel that a weight belongs to.
fn input_channel(node: &Node, weights: &Tensor, at: usize) -> usize {
    match &node.op {
        Op::Conv(conv) => {
            let own = weights.shape[weights.shape.len() - 1];
            let output = at / (weights.len() / weights.shape[0]).max(1);
            let group = output / (weights.shape[0] / conv.groups.max(1)).max(1);
            group * own + at % own
        }
        Op::MatMul(matmul) if !matmul.transpose_b => at / weights.shape[1],
        _ => at % weights.shape[1],
    }
}

/// Weights with the outputs first.
fn by_output(node: &Node, weights: &Tensor, reals: &[f32]) -> Vec<f32> {
    let rows = crate::quantize::weights::Rows::of(weights, output_axis(node));
    (0..rows.count * rows.len).map(|at| reals[rows.index(at / rows.len, at % rows.len)]).collect()
}

/// What a layer computes of rows, without its bias: `[row][output]`.
fn products(reads: &Reads, rows: &[f32], ohwi: &[f32]) -> Vec<f32> {
    let taps = reads.row_elems / reads.channels;
    let own = reads.channels / reads.groups;
    let len = taps * own;
    let outputs = ohwi.len() / len;
    let per_group = outputs / reads.groups;
    let mut result = Vec::with_capacity(rows.len() / reads.row_elems * outputs);
    let mut part = vec![0f32; len];
    for row in rows.chunks_exact(reads.row_elems) {
        for group in 0..reads.groups {
            for tap in 0..taps {
                let from = tap * reads.channels + group * own;
                part[tap * own..(tap + 1) * own].copy_from_slice(&row[from..from + own]);
            }
            let weights = &ohwi[group * per_group * len..(group + 1) * per_group * len];
            result.extend(weights.chunks_exact(len).map(|weights| dot(weights, &part)));
        }
    }
    result
}

/// The error of a layer's outputs, relative to their power, with its input divided and its weights multiplied.
fn reader_error(graph: &Graph, reader: &Reader<'_>, factors: &[f32]) -> f64 {
    let node = &graph.nodes[reader.node];
    let n = factors.len();
    let mut reals: Vec<f32> = reader.weights.to_f32();
    for (at, real) in reals.iter_mut().enumerate() {
        *real *= factors[input_channel(node, &reader.weights, at) % n];
    }
    let tensor = Tensor::from_f32(reader.weights.shape.clone(), &reals);
    let rounded = reader
        .numbers
        .and_then(|numbers| Weights::of(&tensor, output_axis(node), numbers, 1.0, None));
    let reals = rounded.map_or(reals, |weights| weights.to_f32());
    let ohwi = by_output(node, &tensor, &reals);
    let mut rows = reader.rows.rows.clone();
    for row in rows.chunks_exact_mut(n) {
        for (x, factor) in row.iter_mut().zip(factors) {
            *x /= factor;
        }
    }
    if let Some(dtype) = reader.grid {
        let ends = |ends: &[f32], pick: fn(f32, f32) -> f32| {
            ends.iter().zip(factors).map(|(end, factor)| end / factor).fold(0.0, pick)
        };
        let (low, high) = (ends(&reader.seen.low, f32::min), ends(&reader.seen.high, f32::max));
        let quant = match dtype {
            DType::I16 => symmetric(low, high),
            _ => asymmetric(low, high),
        };
        let (scale, zero) = (quant.scale[0], quant.zero_point[0] as f32);
        let [least, most] = limits(dtype).map(|limit| limit as f32);
        for x in &mut rows {
            *x = (((*x / scale).round_ties_even() + zero).clamp(least, most) - zero) * scale;
        }
    }
    let got = products(&reader.rows.reads, &rows, &ohwi);
    let (mut signal, mut error) = (0f64, 0f64);
    for (expected, got) in reader.expected.iter().zip(&got) {
        signal += f64::from(*expected).powi(2);
        error += f64::from(expected - got).powi(2);
    }
    if error == 0.0 { 0.0 } else { error / signal.max(f64::MIN_POSITIVE) }
}

fn finite(tensor: &Tensor) -> bool {
    tensor.to_f32().iter().all(|real| real.is_finite())
}

/// Divides the channels where they are made and multiplies the weights that read them, in constants of their own.
fn rescale(graph: &mut Graph, site: &Site, factors: &[f32]) {
    let n = factors.len();
    let producer = graph.nodes[site.producer].clone();
    let scale = match &producer.op {
        Op::Normalize { .. } => 1,
        _ => 2,
    };
    let spread = |graph: &Graph, operand: usize, absent: Option<f32>| -> Option<Vec<f32>> {
        match producer.inputs.get(operand).copied().flatten() {
            None => absent.map(|one| vec![one; n]),
            Some(id) => {
                let values = graph.constant(id)?.to_f32();
                Some(if values.len() == 1 { vec![values[0]; n] } else { values })
            }
        }
    };
    // The vectors: bias of a layer, scale and bias of a normalisation.
    for operand in scale..=2 {
        let absent = (operand == 1).then_some(1.0);
        if let Some(values) = spread(graph, operand, absent) {
            let divided: Vec<f32> = values.iter().zip(factors).map(|(v, f)| v / f).collect();
            put(graph, site.producer, operand, Tensor::from_f32([n], &divided));
        }
    }
    if scale == 2
        && let Some(weights) = producer.inputs[1].and_then(|id| graph.constant(id).cloned())
    {
        let rows = crate::quantize::weights::Rows::of(&weights, output_axis(&producer));
        let mut reals = weights.to_f32();
        for (at, real) in reals.iter_mut().enumerate() {
            *real /= factors[rows.place(at).0];
        }
        put(graph, site.producer, 1, Tensor::from_f32(weights.shape.clone(), &reals));
    }
    for (node, _) in &site.readers {
        let reader = graph.nodes[*node].clone();
        let Some(weights) = reader.inputs[1].and_then(|id| graph.constant(id).cloned()) else {
            continue;
        };
        let mut reals = weights.to_f32();
        for (at, real) in reals.iter_mut().enumerate() {
            *real *= factors[input_channel(&reader, &weights, at) % n];
        }
        put(graph, *node, 1, Tensor::from_f32(weights.shape.clone(), &reals));
    }
}

/// [`rescale`] for a layer and the one behind it.
#[cfg(test)]
pub(super) fn rescale_between(graph: &mut Graph, producer: usize, reader: usize, factors: &[f32]) {
    let readers = vec![(reader, graph.nodes[producer].outputs[0])];
    let site = Site { producer, channels: factors.len(), readers, bounds: Vec::new() };
    rescale(graph, &site, factors);
}

/// Makes an operand of a node a constant of its own.
fn put(graph: &mut Graph, node: usize, operand: usize, tensor: Tensor) {
    let name = match graph.nodes[node].inputs.get(operand).copied().flatten() {
        Some(id) => graph.value(id).name.clone(),
        None => format!("{}/scale", graph.nodes[node].name),
    };
    let id = graph.add_constant(name, tensor);
    let inputs = &mut graph.nodes[node].inputs;
    inputs.resize(inputs.len().max(operand + 1), None);
    inputs[operand] = Some(id);
}

//! GPTQ: weights are rounded one after the other, and those still to come make up for the error so far.
//!
//! Frantar et al. 2022 (arXiv:2210.17323). The error of a layer's outputs is `e H eᵀ` for every output, with e the errors
//! of its weights and H the second moment of its inputs, as the quantized model has them. With `H = U D Uᵀ`, U upper
//! triangular with ones on its diagonal, that is `Σ_j d_j (e_j + Σ_{i<j} e_i u_ij)²`, and rounding
//! `w_j + Σ_{i<j} e_i u_ij` in turn makes every term small. This is GPTQ without an inverse (Chee et al. 2023,
//! arXiv:2307.13304, theorem 6). A group's scale is chosen when its turn comes, from its weights as they are then.

use std::collections::{BTreeMap, BTreeSet};

use crate::evaluate::{EvaluateError, Samples, Subset};
use crate::graph::ValueId;
use crate::quantize::numbers::tables;
use crate::quantize::quantization::Quantization;
use crate::quantize::weights::{Rows, Scales, Weights};
use crate::tensor::Tensor;

use super::Context;
use super::probe::{Relay, levels};
use super::rows::{Draw, Reads};

/// Samples that inputs are taken from.
const MOST_SAMPLES: usize = 256;

/// Inputs of a layer whose errors are made up for together: H takes the square of it in memory (128 MiB) and its cube in
/// time. Longer rows are cut into stretches of so many, each as if the others were independent of it.
const STRETCH: usize = 4096;

/// Rows of a layer's input for H, per input: with fewer than about twice as many, H says more about them than about
/// the next.
const ROWS_PER_INPUT: usize = 4;

/// Rows of a layer's input at least and at most.
const ROWS: [usize; 2] = [1024, 8192];

/// What is added to the diagonal of H, relative to its mean: the paper's 1 %.
pub(super) const DAMPING: f64 = 0.01;

/// How often the damping grows tenfold where H has no factors.
const ATTEMPTS: i32 = 4;

/// Rows of weights that are rounded side by side, so that a row of U is read once for all of them.
const BATCH: usize = 32;

/// Weights per block where scales don't make the blocks.
const BLOCK: usize = 64;

/// Whether inputs with the largest second moment are rounded first, with the scales that groups have, instead of in
/// their order with new scales.
const BY_ACTIVATION: bool = false;

/// Layers with the same weights, which stay the same.
struct Unit {
    nodes: Vec<usize>,
    level: usize,
}

/// Runs the step.
pub(super) fn run(
    quantization: &mut Quantization,
    context: &mut Context<'_>,
) -> Result<bool, EvaluateError> {
    let units = units(quantization);
    let samples = Subset::spread(context.samples, &quantization.graph, MOST_SAMPLES);
    for node in units.iter().flat_map(|unit| &unit.nodes) {
        let node = &quantization.graph.nodes[*node];
        if let Some(long) = Reads::of(&quantization.graph, node).map(|reads| reads.row_elems)
            && long > STRETCH
        {
            context.notes.push(format!(
                "gptq: `{}` has {long} weights per output; they make up for each other's errors in stretches of {STRETCH}",
                node.name
            ));
        }
    }
    let Some(depth) = units.iter().map(|unit| unit.level + 1).max() else { return Ok(false) };
    let mut changed = false;
    let mut relay = Relay::new(&samples);
    for level in 0..depth {
        let at: Vec<&Unit> = units.iter().filter(|unit| unit.level == level).collect();
        let waiting = units.iter().filter(|unit| unit.level >= level).flat_map(|unit| &unit.nodes);
        let changing = waiting.map(|node| quantization.graph.nodes[*node].outputs[0]).collect();
        let inputs = moments(
            quantization,
            &at,
            (&mut relay, &changing),
            samples.len(),
            context,
            (level, depth),
        )?;
        // Layers of one weight see the sum of their moments.
        for unit in at.iter().filter(|unit| unit.nodes.len() > 1) {
            let mut own = inputs.iter().filter(|input| unit.nodes.iter().any(|n| input.feeds(*n)));
            let Some(mut sum) = own.next().map(|input| input.moments.clone()) else { continue };
            for other in own {
                sum.iter_mut().zip(&other.moments).for_each(|(sum, other)| sum.add(other));
            }
            changed |= round(quantization, unit, &prepare(sum, BY_ACTIVATION));
        }
        for input in inputs {
            let fed: Vec<&&Unit> =
                at.iter().filter(|u| u.nodes.len() == 1 && input.feeds(u.nodes[0])).collect();
            if !fed.is_empty() {
                let prepared = prepare(input.moments, BY_ACTIVATION);
                fed.iter().for_each(|unit| changed |= round(quantization, unit, &prepared));
            }
        }
    }
    Ok(changed)
}

/// Rounds the weights of a unit anew. False when they stay as they were.
fn round(quantization: &mut Quantization, unit: &Unit, stretches: &[Stretch]) -> bool {
    let Some(old) = quantization.weights.get(&unit.nodes[0]) else { return false };
    let Some(real) = real_weights(quantization, unit.nodes[0]) else { return false };
    let better = rounded(&real, old, stretches);
    let changed = better != *old;
    for node in unit.nodes.iter().filter(|_| changed) {
        quantization.weights.insert(*node, better.clone());
    }
    changed
}

/// The float weights of a node.
fn real_weights(quantization: &Quantization, node: usize) -> Option<Tensor> {
    let id = quantization.graph.nodes[node].inputs[1]?;
    quantization.graph.constant(id).map(|tensor| tensor.as_ref().clone())
}

/// The layers with rounded weights, but those of grouped and depthwise convolutions, whose few weights a channel leave
/// nothing to make up with, and of those that share their weights with a table, whose rows serve best as near as they are.
fn units(quantization: &Quantization) -> Vec<Unit> {
    let graph = &quantization.graph;
    let tables = tables(graph);
    let fits = |node: &usize| {
        let of = &graph.nodes[*node];
        Reads::of(graph, of).is_some_and(|reads| reads.groups == 1)
            && of.inputs[1].is_none_or(|weights| !tables.contains(&weights))
            && real_weights(quantization, *node)
                .is_some_and(|weights| weights.to_f32().iter().all(|real| real.is_finite()))
    };
    let nodes: BTreeSet<usize> = quantization.weights.keys().copied().filter(fits).collect();
    let levels = levels(graph, &nodes);
    let mut units: Vec<Unit> = Vec::new();
    for (node, level) in levels {
        // The same constant, rounded the same way.
        let same = units.iter_mut().find(|unit| {
            let other = unit.nodes[0];
            graph.nodes[other].inputs[1] == graph.nodes[node].inputs[1]
                && quantization.weights.get(&other) == quantization.weights.get(&node)
        });
        match same {
            Some(unit) => {
                unit.nodes.push(node);
                unit.level = unit.level.max(level);
            }
            None => units.push(Unit { nodes: vec![node], level }),
        }
    }
    units
}

/// What some layers read, the same way.
struct Input {
    nodes: Vec<usize>,
    reads: Reads,
    draw: Draw,
    /// Rows of a sample, and every which sample they are taken from.
    most: usize,
    every: usize,
    /// Stretch by stretch.
    moments: Vec<Moment>,
}

impl Input {
    fn feeds(&self, node: usize) -> bool {
        self.nodes.contains(&node)
    }
}

/// The inputs of layers as the quantized model has them.
fn moments(
    quantization: &Quantization,
    units: &[&Unit],
    (relay, changing): (&mut Relay<'_>, &BTreeSet<ValueId>),
    count: usize,
    context: &mut Context<'_>,
    (level, depth): (usize, usize),
) -> Result<Vec<Input>, EvaluateError> {
    let graph = quantization.with_quantize_nodes();
    let producers = graph.producers();
    let count = count.max(1);
    let mut layers: BTreeMap<ValueId, Vec<Input>> = BTreeMap::new();
    for node in units.iter().flat_map(|unit| &unit.nodes) {
        let of = &quantization.graph.nodes[*node];
        // The layer as the quantized model has it reads the value behind the rounding.
        let Some(at) = producers[of.outputs[0].0 as usize] else { continue };
        let (Some(input), Some(reads)) =
            (graph.nodes[at].inputs[0], Reads::of(&quantization.graph, of))
        else {
            continue;
        };
        let here = layers.entry(input).or_default();
        if let Some(layer) = here.iter_mut().find(|layer| layer.reads == reads) {
            layer.nodes.push(*node);
            continue;
        }
        let most = (reads.row_elems * ROWS_PER_INPUT).clamp(ROWS[0], ROWS[1]);
        let (most, every) = (most.div_ceil(count), count.div_ceil(most));
        let moments = Moment::of_stretches(reads.row_elems);
        let draw = Draw::new(context.seed ^ *node as u64);
        here.push(Input { nodes: vec![*node], reads, draw, most, every, moments });
    }
    let values = layers.keys().copied().collect();
    let watcher = &mut *context.watch;
    let mut progress =
        |done: usize| watcher.progress("rounding by GPTQ", level * count + done, depth * count);
    let mut row = Vec::new();
    let base = &quantization.graph;
    relay.watch(base, &graph, &values, changing, &mut progress, &mut |value, sample, reals| {
        for layer in layers.get_mut(&value).into_iter().flatten() {
            if sample % layer.every != 0 {
                continue;
            }
            for at in layer.draw.some(layer.reads.count(reals.len()), layer.most) {
                row.clear();
                layer.reads.push(reals, at, &mut row);
                for (moment, part) in layer.moments.iter_mut().zip(row.chunks(STRETCH)) {
                    moment.push(part);
                }
            }
        }
    })?;
    let mut inputs: Vec<Input> = layers.into_values().flatten().collect();
    inputs.iter_mut().flat_map(|input| &mut input.moments).for_each(Moment::flush);
    Ok(inputs)
}

/// Sum of x xᵀ over rows x.
#[derive(Clone)]
pub(super) struct Moment {
    len: usize,
    /// `[len][len]`; only what lies on and right of the diagonal counts.
    sums: Vec<f64>,
    /// Rows that aren't added yet.
    waiting: Vec<f32>,
}

impl Moment {
    pub(super) fn new(len: usize) -> Moment {
        Moment { len, sums: vec![0.0; len * len], waiting: Vec::new() }
    }

    fn of_stretches(len: usize) -> Vec<Moment> {
        (0..len).step_by(STRETCH).map(|start| Moment::new(STRETCH.min(len - start))).collect()
    }

    pub(super) fn push(&mut self, row: &[f32]) {
        self.waiting.extend_from_slice(row);
        if self.waiting.len() >= BATCH * self.len {
            self.flush();
        }
    }

    /// Adds the rows that wait, a tile at a time that stays in the nearest cache.
    pub(super) fn flush(&mut self) {
        const TILE: usize = 128;
        let len = self.len;
        let mut sums = [0f32; TILE];
        for start in (0..len).step_by(TILE) {
            let end = len.min(start + TILE);
            for i in 0..end {
                let from = start.max(i);
                let sums = &mut sums[..end - from];
                sums.fill(0.0);
                for row in self.waiting.chunks_exact(len) {
                    let x = row[i];
                    for (sum, y) in sums.iter_mut().zip(&row[from..end]) {
                        *sum += x * y;
                    }
                }
                let to = &mut self.sums[i * len + from..i * len + end];
                to.iter_mut().zip(sums).for_each(|(to, sum)| *to += f64::from(*sum));
            }
        }
        self.waiting.clear();
    }

    fn add(&mut self, other: &Moment) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| *sum += other);
    }

    fn diagonal(&self) -> Vec<f64> {
        (0..self.len).map(|i| self.sums[i * self.len + i]).collect()
    }

    /// The same with its indices in another order.
    fn ordered(&self, order: &[usize]) -> Moment {
        let at = |i: usize, j: usize| self.sums[i.min(j) * self.len + i.max(j)];
        let sums = order.iter().flat_map(|i| order.iter().map(move |j| at(*i, *j))).collect();
        Moment { len: self.len, sums, waiting: Vec::new() }
    }

    /// U and D of the damped moment; `None` for one of zeros, or where damping doesn't help.
    fn factors(mut self) -> Option<Factors> {
        let len = self.len;
        let diagonal = self.diagonal();
        let mean = diagonal.iter().sum::<f64>() / len as f64;
        if !(mean > 0.0 && mean.is_finite()) {
            return None;
        }
        // The left half keeps what the right half is overwritten from.
        for i in 0..len {
            for j in 0..i {
                self.sums[i * len + j] = self.sums[j * len + i];
            }
        }
        (0..ATTEMPTS)
            .find_map(|attempt| {
                let damping = mean * DAMPING * 10f64.powi(attempt);
                let weights = factorize(&mut self.sums, len, &diagonal, damping)?;
                Some(weights)
            })
            .map(|weights| Factors { len, upper: self.sums, weights })
    }
}

/// `H = U D Uᵀ` from the last column to the first: H is read from the left half of `h`, and its diagonal, U put into the
/// right half; D. `None` when H isn't positive.
fn factorize(h: &mut [f64], len: usize, diagonal: &[f64], damping: f64) -> Option<Vec<f64>> {
    let mut weights = vec![0f64; len];
    let mut column = vec![0f64; len];
    for j in (0..len).rev() {
        // Row j of U times D, behind the diagonal.
        for k in j + 1..len {
            column[k] = h[j * len + k] * weights[k];
        }
        let squares = dot(&h[j * len + j + 1..(j + 1) * len], &column[j + 1..]);
        let weight = diagonal[j] + damping - squares;
        if weight.is_nan() || weight <= damping * 1e-6 {
            return None;
        }
        weights[j] = weight;
        for i in 0..j {
            let sum = dot(&h[i * len + j + 1..(i + 1) * len], &column[j + 1..]);
            h[i * len + j] = (h[j * len + i] - sum) / weight;
        }
    }
    Some(weights)
}

/// Sum of products, in a fixed order that vectorises.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0f64; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// U and D.
struct Factors {
    len: usize,
    /// `[len][len]`, right of the diagonal.
    upper: Vec<f64>,
    weights: Vec<f64>,
}

impl Factors {
    fn row(&self, i: usize) -> &[f64] {
        &self.upper[i * self.len..(i + 1) * self.len]
    }

    /// `e H eᵀ`.
    fn error(&self, errors: &[f64]) -> f64 {
        let mut sums = errors.to_vec();
        for (i, error) in errors.iter().enumerate().filter(|(_, error)| **error != 0.0) {
            let tail = &self.row(i)[i + 1..];
            sums[i + 1..].iter_mut().zip(tail).for_each(|(sum, u)| *sum += error * u);
        }
        sums.iter().zip(&self.weights).map(|(sum, weight)| weight * sum * sum).sum()
    }
}

/// A row of weights that is being rounded.
struct Row {
    real: Vec<f64>,
    /// Real less rounded, as far as it has come.
    errors: Vec<f64>,
    integers: Vec<i8>,
    scales: Vec<half::f16>,
    /// What the errors so far add to the block.
    carried: Vec<f64>,
}

/// Consecutive weights of every row, the order in which they are rounded, and the factors of their H in that order;
/// `None` where it has none.
pub(super) struct Stretch {
    start: usize,
    order: Vec<usize>,
    factors: Option<Factors>,
    by_activation: bool,
}

/// Takes moments apart, once for all layers that read the same.
pub(super) fn prepare(moments: Vec<Moment>, by_activation: bool) -> Vec<Stretch> {
    let prepare = |(stretch, moment): (usize, Moment)| {
        let mut order: Vec<usize> = (0..moment.len).collect();
        if by_activation {
            let diagonal = moment.diagonal();
            order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]));
        }
        let moment = if by_activation { moment.ordered(&order) } else { moment };
        Stretch { start: stretch * STRETCH, order, factors: moment.factors(), by_activation }
    };
    moments.into_iter().enumerate().map(prepare).collect()
}

/// Weights rounded anew, stretch by stretch; a row whose error doesn't get smaller keeps its integers.
pub(super) fn rounded(real: &Tensor, old: &Weights, stretches: &[Stretch]) -> Weights {
    let axis = match &old.scales {
        Scales::PerChannel(quant) => quant.axis.unwrap_or(0),
        Scales::Groups(groups) => groups.axis,
    };
    let (rows, reals, before) = (Rows::of(real, axis), real.to_f32(), old.to_f32());
    let mut values = old.values.to_i8();
    let mut scales = old.scales.clone();
    for stretch in stretches {
        let Some(factors) = &stretch.factors else { continue };
        let (start, order, len) = (stretch.start, &stretch.order, factors.len);
        for first in (0..rows.count).step_by(BATCH) {
            let batch = first..rows.count.min(first + BATCH);
            let at = |row: usize, k: &usize| rows.index(row, start + k);
            let mut work: Vec<Row> = batch
                .clone()
                .map(|row| Row {
                    real: order.iter().map(|k| f64::from(reals[at(row, k)])).collect(),
                    errors: vec![0.0; len],
                    integers: vec![0; len],
                    scales: Vec::new(),
                    carried: Vec::new(),
                })
                .collect();
            stretch.round(factors, first, &mut work, old, &rows);
            for (row, work) in batch.zip(work) {
                let error = |k: &usize| {
                    let at = at(row, k);
                    f64::from(reals[at]) - f64::from(before[at])
                };
                let old_errors: Vec<f64> = order.iter().map(error).collect();
                if factors.error(&work.errors) >= factors.error(&old_errors) {
                    continue;
                }
                for (k, integer) in order.iter().zip(&work.integers) {
                    values[at(row, k)] = *integer;
                }
                if let Scales::Groups(groups) = &mut scales {
                    let per_row = rows.len.div_ceil(groups.size);
                    let to = row * per_row + start / groups.size;
                    let to = &mut groups.scale[to..to + work.scales.len()];
                    to.iter_mut().zip(&work.scales).for_each(|(to, scale)| *to = scale.to_f32());
                }
            }
        }
    }
    Weights { values: Tensor::from_i8(real.shape.clone(), &values), scales }
}

impl Stretch {
    fn round(&self, factors: &Factors, first: usize, work: &mut [Row], old: &Weights, rows: &Rows) {
        let len = factors.len;
        let group = match &old.scales {
            Scales::Groups(groups) if !self.by_activation => Some(groups.size),
            _ => None,
        };
        let codebook = old.codebook();
        let scale_of = old.scale_of();
        let size = group.unwrap_or(BLOCK);
        for from in (0..len).step_by(size) {
            let to = len.min(from + size);
            for row in work.iter_mut() {
                row.carried.clear();
                row.carried.resize(to - from, 0.0);
            }
            for i in 0..from {
                let upper = &factors.row(i)[from..to];
                for row in work.iter_mut() {
                    let error = row.errors[i];
                    row.carried.iter_mut().zip(upper).for_each(|(sum, u)| *sum += error * u);
                }
            }
            for (at, row) in work.iter_mut().enumerate() {
                if group.is_some() {
                    let reals = Stretch::unrounded(factors, row, from);
                    row.scales.push(codebook.group_scale(&reals));
                }
                for j in from..to {
                    let target = row.real[j] + row.carried[j - from];
                    let scale = match row.scales.last() {
                        Some(scale) => f64::from(scale.to_f32()),
                        None => {
                            let k = self.start + self.order[j];
                            f64::from(scale_of(rows.index(first + at, k)))
                        }
                    };
                    let integer = codebook.nearest(target / scale);
                    let error = row.real[j] - f64::from(integer) * scale;
                    row.integers[j] = integer;
                    row.errors[j] = error;
                    let upper = &factors.row(j)[j + 1..to];
                    let behind = row.carried[j + 1 - from..].iter_mut();
                    behind.zip(upper).for_each(|(sum, u)| *sum += error * u);
                }
            }
        }
    }

    /// The weights of a block as they are now: what makes up best for the errors before it, were they not rounded.
    fn unrounded(factors: &Factors, row: &Row, from: usize) -> Vec<f32> {
        let mut carried = row.carried.clone();
        let mut reals = Vec::with_capacity(carried.len());
        for at in 0..carried.len() {
            let error = -carried[at];
            reals.push((row.real[from + at] - error) as f32);
            let upper = &factors.row(from + at)[from + at + 1..from + carried.len()];
            carried[at + 1..].iter_mut().zip(upper).for_each(|(sum, u)| *sum += error * u);
        }
        reals
    }
}

//! Learned rounding: which way each weight is rounded is learned, layer by layer, so that the layer's output comes as
//! close as it can to the float model's.
//!
//! AdaRound (Nagel et al. 2020, arXiv:2004.10568): a weight is `scale * (floor(w / scale) + h(v))`, where h is a
//! sigmoid stretched beyond 0 and 1 and cut to 0..1; a regulariser that gets steeper pushes every h to 0 or 1. Where the integers
//! aren't all there, h is the share of the way from the one below to the one above.
//! As in its section 3.3, a layer reads what the quantized layers before it make, and its clamp is part of what is compared.

use candle_core::{Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};

use super::data::{Data, PerSample, advance, batches, last_uses, stack};
use super::forward::{Forward, Values};
use super::kernels::pointwise;
use super::{LearnError, Learned, Random};
use crate::evaluate::Samples;
use crate::graph::{Graph, Op, UnaryKind, ValueId};
use crate::quantize::numbers::weights_of;
use crate::quantize::quantization::Quantization;
use crate::quantize::weights::Weights;

/// Ends of the stretched sigmoid (section 3.2 of the paper).
const GAMMA: f32 = -0.1;
/// The upper one.
const ZETA: f32 = 1.1;
/// Steepness of the regulariser, at first and at last.
const BETA: [f64; 2] = [20.0, 2.0];
/// The share of the steps before the regulariser sets in.
const WARM_UP: f64 = 0.2;
/// Weight of the regulariser beside the error over that of nearest rounding.
const LAMBDA: f64 = 0.5;
/// Adam's step, in v.
const RATE: f64 = 0.02;
/// Steps per layer, at most and at least.
const ITERATIONS: [usize; 2] = [1000, 100];
/// Multiply-accumulates of a batch, forward; larger layers see fewer samples a step.
const BATCH_MACS: usize = 16 << 20;
/// Samples of a batch, at least and at most.
const BATCH: [usize; 2] = [8, 64];
/// Multiply-accumulates for all layers together, forward and back.
const WORK: usize = 300 << 30;
/// Every so many steps it is seen whether all roundings are decided.
const CHECK_EVERY: usize = 50;
/// Of so many samples one is held out, and decides whether a layer's new integers are kept.
const HELD_OUT: usize = 5;

/// A layer whose rounding is learned.
struct Block {
    /// Index of the layer in the float graph.
    node: usize,
    /// Its nodes in the graph with quantize nodes: the layer, then clamps.
    nodes: Vec<usize>,
    /// What is compared.
    target: ValueId,
    /// What stands for the weights there.
    weights: ValueId,
    /// What it reads, other than weights and constants.
    reads: Vec<ValueId>,
    /// Multiply-accumulates per sample.
    macs: usize,
}

/// Learns the rounding of every layer with integer weights, in the model's order. `reference` is the float model,
/// whose nodes and values are those of the quantization's graph.
///
/// # Errors
/// When a sample doesn't fit, the model has a state, or an operator on the way has no form with gradients.
pub fn learn(
    quantization: &mut Quantization,
    reference: &Graph,
    samples: &dyn Samples,
    seed: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Learned, LearnError> {
    let quantized_graph = quantization.with_quantize_nodes();
    let data = Data::load(reference, samples)?;
    let float = Forward::new(reference, data.sizes.clone());
    let quantized = Forward::new(&quantized_graph, data.sizes.clone());
    let blocks = find_blocks(quantization, &quantized)?;
    let mut learned = Learned { samples: data.samples, ..Learned::default() };
    let held_out: Vec<usize> =
        (0..data.samples).filter(|at| at % HELD_OUT == HELD_OUT - 1).collect();
    let train: Vec<usize> = (0..data.samples).filter(|at| !held_out.contains(at)).collect();
    let held_out = if held_out.is_empty() { train.clone() } else { held_out };

    let work: usize = blocks
        .iter()
        .map(|block| 3 * block.macs.saturating_mul(batch_of(block, train.len()) * ITERATIONS[0]))
        .fold(0, usize::saturating_add);
    let share = (WORK as f64 / work.max(1) as f64).min(1.0);
    let iterations = ((ITERATIONS[0] as f64 * share) as usize).max(ITERATIONS[1]);

    let mut float_walk = Walk::new(&float, &data);
    let mut walk = Walk::new(&quantized, &data);
    let mut random = Random::new(seed);
    for (at, block) in blocks.iter().enumerate() {
        float_walk.to(block.target, &blocks[at..])?;
        walk.before(block.nodes[0])?;
        let Some(current) = quantization.weights.get(&block.node).cloned() else { continue };
        let Some(reals) = weights_of(reference, &reference.nodes[block.node]) else { continue };
        let layer = Layer {
            forward: &quantized,
            block,
            store: &walk.store,
            targets: &float_walk.store[&block.target],
            train: &train,
            held_out: &held_out,
            reals: reals.to_f32(),
            current: &current,
        };
        let total = blocks.len() * iterations;
        let found = layer.learn(iterations, &mut random, &mut |done| {
            progress(at * iterations + done, total);
        })?;
        learned.iterations += found.iterations;
        let weights = match found.integers {
            Some(integers) => {
                learned.layers += 1;
                let values =
                    crate::tensor::Tensor::from_i8(current.values.shape.clone(), &integers);
                let weights = Weights { values, scales: current.scales.clone() };
                quantization.weights.insert(block.node, weights.clone());
                weights
            }
            None => {
                learned.unchanged += 1;
                current
            }
        };
        let shape = weights.values.shape.clone();
        walk.fixed.insert(block.weights, Tensor::from_vec(weights.to_f32(), shape, &Device::Cpu)?);
    }
    Ok(learned)
}

/// A graph on its way through all samples, node by node.
struct Walk<'f, 'g> {
    forward: &'f Forward<'g>,
    samples: usize,
    store: PerSample,
    /// What stands in place of what nodes make.
    fixed: Values,
    last: Vec<usize>,
    next: usize,
}

impl<'f, 'g> Walk<'f, 'g> {
    fn new(forward: &'f Forward<'g>, data: &Data) -> Walk<'f, 'g> {
        let last = last_uses(forward.graph());
        let (samples, store) = (data.samples, data.inputs.clone());
        Walk { forward, samples, store, fixed: Values::new(), last, next: 0 }
    }

    /// Up to a node, without it. What nobody reads from there on is dropped.
    fn before(&mut self, node: usize) -> Result<(), LearnError> {
        self.run(node, &[])
    }

    /// Until a value is there; targets of blocks to come stay.
    fn to(&mut self, value: ValueId, coming: &[Block]) -> Result<(), LearnError> {
        let nodes = &self.forward.graph().nodes;
        let maker = nodes.iter().position(|node| node.outputs.contains(&value));
        let keep: Vec<ValueId> = coming.iter().map(|block| block.target).collect();
        self.run(maker.map_or(0, |maker| maker + 1), &keep)
    }

    fn run(&mut self, end: usize, keep: &[ValueId]) -> Result<(), LearnError> {
        while self.next < end {
            let node = &self.forward.graph().nodes[self.next];
            if !node.outputs.iter().all(|id| self.fixed.contains_key(id)) {
                advance(self.forward, self.next, self.samples, &self.fixed, &mut self.store)?;
            }
            let (last, next) = (&self.last, self.next);
            self.store.retain(|id, _| last[id.0 as usize] > next || keep.contains(id));
            self.next += 1;
        }
        Ok(())
    }
}

/// Every layer with integer weights, and the clamps behind it that its output isn't quantized before.
fn find_blocks(
    quantization: &Quantization,
    quantized: &Forward<'_>,
) -> Result<Vec<Block>, LearnError> {
    let graph = quantized.graph();
    let (producers, consumers) = (graph.producers(), graph.consumers());
    let mut blocks = Vec::new();
    for node in quantization.weights.keys() {
        let output = quantization.graph.nodes[*node].outputs[0];
        let Some(first) = producers[output.0 as usize] else { continue };
        let (mut nodes, mut target) = (vec![first], output);
        while let [next] = consumers[target.0 as usize].as_slice()
            && !graph.is_result(target)
            && is_clamp(&graph.nodes[*next].op)
        {
            nodes.push(*next);
            target = graph.nodes[*next].outputs[0];
        }
        let Some(weights) = graph.nodes[first].inputs.get(1).copied().flatten() else { continue };
        let inside: Vec<ValueId> = nodes.iter().map(|at| graph.nodes[*at].outputs[0]).collect();
        let mut reads: Vec<ValueId> =
            nodes.iter().flat_map(|at| graph.nodes[*at].inputs.iter().flatten().copied()).collect();
        reads.retain(|id| *id != weights && !inside.contains(id) && graph.constant(*id).is_none());
        let macs = macs(quantization, quantized, *node, output)?;
        blocks.push(Block { node: *node, nodes, target, weights, reads, macs });
    }
    blocks.sort_by_key(|block| block.nodes[0]);
    Ok(blocks)
}

fn is_clamp(op: &Op) -> bool {
    matches!(op, Op::Unary(UnaryKind::Relu | UnaryKind::Clip { .. }))
}

/// Multiply-accumulates of a layer for one sample.
fn macs(
    quantization: &Quantization,
    forward: &Forward<'_>,
    node: usize,
    output: ValueId,
) -> Result<usize, LearnError> {
    let weights = &quantization.weights[&node].values;
    let outputs: usize = forward.shape(output, 1)?.iter().product();
    let graph: &Graph = &quantization.graph;
    let axis = crate::quantize::numbers::output_axis(&graph.nodes[node]);
    Ok(outputs.saturating_mul(weights.len() / weights.shape[axis].max(1)))
}

/// Samples of a batch.
fn batch_of(block: &Block, samples: usize) -> usize {
    (BATCH_MACS / block.macs.max(1)).clamp(BATCH[0], BATCH[1]).min(samples).max(1)
}

/// A layer with what its learning takes.
struct Layer<'l> {
    forward: &'l Forward<'l>,
    block: &'l Block,
    store: &'l PerSample,
    targets: &'l [Tensor],
    train: &'l [usize],
    held_out: &'l [usize],
    reals: Vec<f32>,
    current: &'l Weights,
}

struct Found {
    /// Better integers than the present ones.
    integers: Option<Vec<i8>>,
    iterations: usize,
}

impl Layer<'_> {
    fn learn(
        &self,
        iterations: usize,
        random: &mut Random,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Found, LearnError> {
        let before = self.error(self.train, &self.current.to_f32())?;
        if before == 0.0 {
            return Ok(Found { integers: None, iterations: 0 });
        }
        let shape = self.current.values.shape.clone();
        let scale_of = self.current.scale_of();
        let scales: Vec<f32> = (0..self.reals.len()).map(&scale_of).collect();
        let steps: Vec<f32> = self.reals.iter().zip(&scales).map(|(w, s)| w / s).collect();
        let codebook = self.current.codebook();
        // The integer below, how far it is to the next one, and the share of that way. What lies beyond the limits stays at them.
        let around = steps.iter().map(|w| codebook.around(*w));
        let (floors, ways): (Vec<f32>, Vec<f32>) =
            around.map(|[below, above]| (below, above - below)).unzip();
        let start = steps.iter().zip(floors.iter().zip(&ways)).map(|(w, (floor, way))| {
            let share = (((w - floor) / way).clamp(0.0, 1.0) - GAMMA) / (ZETA - GAMMA);
            (share / (1.0 - share)).ln()
        });
        let v = Tensor::from_vec(start.collect::<Vec<f32>>(), shape.as_slice(), &Device::Cpu)?;
        let v = Var::from_tensor(&v)?;
        let scales = Tensor::from_vec(scales, shape.as_slice(), &Device::Cpu)?;
        let floor = Tensor::from_vec(floors.clone(), shape.as_slice(), &Device::Cpu)?;
        let way = Tensor::from_vec(ways.clone(), shape.as_slice(), &Device::Cpu)?;

        let options = ParamsAdamW { lr: RATE, weight_decay: 0.0, ..ParamsAdamW::default() };
        let mut adam = AdamW::new(vec![v.clone()], options)?;
        let batch = batch_of(self.block, self.train.len());
        // The error of one sample, with the integers there are.
        let unit = before / self.train.len() as f64;
        let mut order = Vec::new();
        let mut done = 0;
        while done < iterations {
            if order.len() < batch {
                let again = random.order(self.train.len());
                order = again.into_iter().map(|at| self.train[at]).collect();
            }
            let chosen = order.split_off(order.len() - batch);
            let weights = ((&floor + (rectified(&v)? * &way)?)? * &scales)?;
            let mut loss = (self.loss(&chosen, &weights)? / (unit * batch as f64))?;
            let share = done as f64 / iterations as f64;
            if share >= WARM_UP {
                let annealed = (share - WARM_UP) / (1.0 - WARM_UP);
                let beta = BETA[1] + (BETA[0] - BETA[1]) * (1.0 - annealed);
                loss = (loss + (undecided(&v, beta as f32)?.mean_all()? * LAMBDA)?)?;
            }
            adam.backward_step(&loss)?;
            done += 1;
            if done % CHECK_EVERY == 0 {
                progress(done);
                if decided(&v)? {
                    break;
                }
            }
        }
        let ups: Vec<f32> = rectified(&v.as_detached_tensor())?.flatten_all()?.to_vec1()?;
        let integers: Vec<i8> = floors
            .iter()
            .zip(ways)
            .zip(ups)
            .map(|((floor, way), up)| (floor + way * f32::from(up >= 0.5)) as i8)
            .collect();
        let values = crate::tensor::Tensor::from_i8(shape, &integers);
        let new = Weights { values, scales: self.current.scales.clone() }.to_f32();
        let better = self.error(self.held_out, &new)?
            < self.error(self.held_out, &self.current.to_f32())?
            && self.error(self.train, &new)? < before;
        progress(iterations);
        Ok(Found { integers: better.then_some(integers), iterations: done })
    }

    /// The sum of squared errors of the layer's output over samples.
    fn loss(&self, samples: &[usize], weights: &Tensor) -> Result<Tensor, LearnError> {
        let mut sum: Option<Tensor> = None;
        let mut at = 0;
        for (batch, mut values) in batches(self.forward, self.store, &self.block.reads, samples)? {
            values.insert(self.block.weights, weights.clone());
            self.forward.run(batch, &mut values, &[self.block.target])?;
            let target = stack(self.targets, &samples[at..at + batch])?;
            let error = (&values[&self.block.target] - target)?.sqr()?.sum_all()?;
            at += batch;
            sum = Some(match sum {
                Some(sum) => (sum + error)?,
                None => error,
            });
        }
        sum.ok_or_else(|| LearnError::Model("there are no samples to learn from".into()))
    }

    fn error(&self, samples: &[usize], weights: &[f32]) -> Result<f64, LearnError> {
        let shape = self.current.values.shape.as_slice();
        let weights = Tensor::from_slice(weights, shape, &Device::Cpu)?;
        let chunk = batch_of(self.block, samples.len());
        samples.chunks(chunk).try_fold(0.0, |sum, samples| {
            Ok(sum + f64::from(self.loss(samples, &weights)?.to_scalar::<f32>()?))
        })
    }
}

fn stretched(v: f32) -> f32 {
    (ZETA - GAMMA) / (1.0 + (-v).exp()) + GAMMA
}

/// Derivative of the stretched sigmoid, 0 where it is cut.
fn slope(v: f32) -> f32 {
    let h = stretched(v);
    if h <= 0.0 || h >= 1.0 { 0.0 } else { (h - GAMMA) * (ZETA - h) / (ZETA - GAMMA) }
}

/// h(v): how far up a weight is rounded.
fn rectified(v: &Tensor) -> candle_core::Result<Tensor> {
    pointwise(v, |v| stretched(v).clamp(0.0, 1.0), slope)
}

/// `1 - |2 h(v) - 1|^beta`: 0 where h is 0 or 1.
fn undecided(v: &Tensor, beta: f32) -> candle_core::Result<Tensor> {
    let side = |v: f32| 2.0 * stretched(v).clamp(0.0, 1.0) - 1.0;
    pointwise(
        v,
        move |v| 1.0 - side(v).abs().powf(beta),
        move |v| -2.0 * beta * side(v).abs().powf(beta - 1.0) * side(v).signum() * slope(v),
    )
}

fn decided(v: &Var) -> Result<bool, LearnError> {
    let h: Vec<f32> = rectified(&v.as_detached_tensor())?.flatten_all()?.to_vec1()?;
    Ok(h.iter().all(|h| *h < 0.01 || *h > 0.99))
}

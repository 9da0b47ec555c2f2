//! Steps on small models made by code.

mod gptq;
mod relay;

use std::sync::Arc;

use whit::DType;

use crate::dim::Dim;
use crate::evaluate::{Program, Reals, Samples, observe};
use crate::graph::{
    BinaryKind, Clamp, Conv, Graph, MatMul, Node, NormKind, Op, Pool, PoolKind, State, UnaryKind,
    ValueId,
};
use crate::plan::PlanOptions;
use crate::quantize::calibrate::{Method, calibrate};
use crate::quantize::numbers::{GroupedBits, Numbers};
use crate::quantize::quantization::Quantization;
use crate::tensor::Tensor;

use super::rows::Draw;
use super::{Context, Improvement, bias, equalize};

/// Rounding of a rescaled function in f32: a few hundred sums of products.
const SAME_FUNCTION: f32 = 1e-5;

/// A graph in the making.
pub(super) struct Build {
    pub(super) graph: Graph,
    draw: Draw,
}

impl Build {
    pub(super) fn new(seed: u64) -> Build {
        Build { graph: Graph::default(), draw: Draw::new(seed) }
    }

    /// Reals between −1 and 1.
    pub(super) fn reals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.draw.below(20001) as f32 / 10000.0 - 1.0).collect()
    }

    pub(super) fn input(&mut self, shape: &[usize]) -> ValueId {
        let id =
            self.graph.add_value("x", DType::F32, shape.iter().map(|d| Dim::from(*d)).collect());
        self.graph.inputs.push(id);
        id
    }

    pub(super) fn constant(&mut self, shape: &[usize], values: &[f32]) -> ValueId {
        self.graph.add_constant("c", Tensor::from_f32(shape, values))
    }

    /// Weights whose inputs and outputs differ a hundredfold in size.
    fn uneven(&mut self, shape: &[usize]) -> ValueId {
        let (first, last) = (shape[0], shape[shape.len() - 1]);
        let mut values = self.reals(shape.iter().product());
        let len = values.len();
        for (at, value) in values.iter_mut().enumerate() {
            let (from, to) = (at % last, at / (len / first));
            *value *= 10f32.powf(((from * 7 % 5) as f32 - (to * 3 % 5) as f32) / 2.0);
        }
        self.constant(shape, &values)
    }

    pub(super) fn node(&mut self, op: Op, inputs: &[ValueId], shape: &[usize]) -> ValueId {
        let name = format!("n{}", self.graph.nodes.len());
        let shape = shape.iter().map(|d| Dim::from(*d)).collect();
        let y = self.graph.add_value(name.clone(), DType::F32, shape);
        let inputs = inputs.iter().copied().map(Some).collect();
        self.graph.nodes.push(Node { name, op, inputs, outputs: vec![y] });
        y
    }

    fn shape(&self, id: ValueId) -> Vec<usize> {
        self.graph.value(id).const_shape().expect("fixed")
    }

    /// A 3×3 convolution that keeps height and width, with a bias.
    fn conv(&mut self, x: ValueId, outputs: usize, groups: usize, clamp: Clamp) -> ValueId {
        let mut shape = self.shape(x);
        let weights = self.uneven(&[outputs, 3, 3, shape[3] / groups]);
        let bias = self.reals(outputs);
        let bias = self.constant(&[outputs], &bias);
        shape[3] = outputs;
        self.node(conv(groups, clamp), &[x, weights, bias], &shape)
    }

    /// A fully connected layer without a bias.
    fn dense(&mut self, x: ValueId, outputs: usize, clamp: Clamp) -> ValueId {
        let mut shape = self.shape(x);
        let inputs = shape.pop().expect("an axis");
        shape.push(outputs);
        let weights = self.uneven(&[inputs, outputs]);
        self.node(matmul(clamp), &[x, weights], &shape)
    }

    fn normalize(&mut self, x: ValueId, scale: &[f32]) -> ValueId {
        let shape = self.shape(x);
        let bias = self.reals(scale.len());
        let (scale, bias) =
            (self.constant(&[scale.len()], scale), self.constant(&[scale.len()], &bias));
        let op = Op::Normalize { kind: NormKind::Layer, axis: shape.len() - 1, epsilon: 1e-5 };
        self.node(op, &[x, scale, bias], &shape)
    }

    pub(super) fn output(mut self, id: ValueId) -> Graph {
        self.graph.outputs.push(id);
        self.graph
    }
}

pub(super) fn conv(groups: usize, clamp: Clamp) -> Op {
    Op::Conv(Conv {
        kernel: vec![3; 2],
        stride: vec![1; 2],
        dilation: vec![1; 2],
        pad_before: vec![1; 2],
        pad_after: vec![1; 2],
        groups,
        clamp,
        inner_quant: None,
    })
}

pub(super) fn matmul(clamp: Clamp) -> Op {
    Op::MatMul(MatMul { transpose_a: false, transpose_b: false, clamp, inner_quant: None })
}

/// Pseudo-random inputs, channel by channel of another size.
pub(super) fn inputs(graph: &Graph, count: usize) -> Reals {
    let shape = graph.value(graph.inputs[0]).const_shape().expect("fixed");
    let mut build = Build::new(99);
    let channels = shape[shape.len() - 1];
    let mut sample = || -> Vec<f32> {
        let reals = build.reals(shape.iter().product());
        let size = |at: usize| if at % channels == 1 { 8.0 } else { 1.0 };
        reals.iter().enumerate().map(|(at, x)| x * size(at) + 0.3).collect()
    };
    let samples = (0..count).map(|_| sample()).collect();
    Reals { shape, samples }
}

pub(super) fn quantize(graph: &Graph, numbers: Numbers, samples: &dyn Samples) -> Quantization {
    let numbers = vec![numbers; graph.nodes.len()];
    let found = calibrate(graph, &numbers, samples, Method::MinMax, &mut |_, _, _| ());
    Quantization::new(graph.clone(), &numbers, &found.expect("runs").ranges)
}

/// Runs a step by its function.
pub(super) fn improved(
    graph: &Graph,
    quantization: &Quantization,
    samples: &dyn Samples,
    step: Improvement,
) -> (bool, Quantization) {
    let mut better = quantization.clone();
    let method = Method::MinMax;
    let (notes, watch) = (Vec::new(), &mut ());
    let mut context = Context { reference: graph, samples, method, seed: 1, watch, notes };
    let changed = step.run(&mut better, &mut context).expect("runs");
    (changed, better)
}

/// Every element of a value in all samples.
pub(super) fn values(graph: &Graph, value: ValueId, samples: &dyn Samples) -> Vec<f32> {
    let program = Program::new(graph, &PlanOptions::default()).expect("plans");
    let tensor = program.plan.tensor_of_value[&value];
    let mut all = Vec::new();
    observe(&program, samples, &mut |_| (), &mut |seen| {
        if seen.tensor == tensor {
            all.extend_from_slice(seen.reals);
        }
    })
    .expect("runs");
    all
}

/// Largest difference relative to the largest magnitude.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    a.iter().zip(b).fold(0f32, |worst, (a, b)| worst.max((a - b).abs())) / largest
}

const RELU6: Clamp = Clamp { min: 0.0, max: 6.0 };
const NONE: Clamp = Clamp::NONE;

/// Everything that channels are followed through.
fn chain() -> Graph {
    let mut b = Build::new(1);
    let x = b.input(&[1, 6, 6, 3]);
    let y = b.conv(x, 8, 1, Clamp::RELU);
    let y = b.conv(y, 8, 8, Clamp::NONE);
    let y = b.node(Op::Unary(UnaryKind::LeakyRelu { alpha: 0.1 }), &[y], &[1, 6, 6, 8]);
    let y = b.conv(y, 10, 2, Clamp::RELU);
    let pool = Pool {
        kind: PoolKind::Max,
        kernel: vec![2; 2],
        stride: vec![2; 2],
        dilation: vec![1; 2],
        pad_before: vec![0; 2],
        pad_after: vec![0; 2],
        count_include_pad: false,
        column_major: false,
    };
    let y = b.node(Op::Pool(pool), &[y], &[1, 3, 3, 10]);
    let y = b.node(Op::Reshape, &[y], &[1, 90]);
    let y = b.dense(y, 12, Clamp::NONE);
    let y = b.dense(y, 4, Clamp::NONE);
    b.output(y)
}

/// A normalisation in front of two layers whose results are multiplied.
fn gated() -> Graph {
    let mut b = Build::new(2);
    let x = b.input(&[1, 5, 8]);
    let scale = [0.1, 30.0, 1.0, 1.0, 0.5, 2.0, 8.0, 1.0];
    let n = b.normalize(x, &scale);
    let gate = b.dense(n, 16, Clamp::NONE);
    let gate = b.node(Op::Unary(UnaryKind::Silu), &[gate], &[1, 5, 16]);
    let up = b.dense(n, 16, Clamp::NONE);
    let y = b.node(Op::Binary(BinaryKind::Mul), &[gate, up], &[1, 5, 16]);
    let y = b.dense(y, 8, Clamp::NONE);
    b.output(y)
}

/// Two layers with something between.
fn pair(clamp: Clamp, between: impl Fn(&mut Build, ValueId) -> ValueId) -> Graph {
    let mut b = Build::new(3);
    let x = b.input(&[1, 12]);
    let y = b.dense(x, 16, clamp);
    let y = between(&mut b, y);
    let y = b.dense(y, 6, Clamp::NONE);
    b.output(y)
}

#[test]
fn equalization_keeps_the_function() {
    let cases = [
        ("chain", chain()),
        ("gated", gated()),
        ("within a bound", pair(Clamp { min: -1e4, max: 1e4 }, |_, y| y)),
        ("a bound that some channels reach", pair(RELU6, |_, y| y)),
    ];
    for (name, graph) in cases {
        let samples = inputs(&graph, 20);
        let expected = values(&graph, graph.outputs[0], &samples);
        for numbers in [
            Numbers::Int8,
            Numbers::Int16,
            Numbers::Grouped { bits: GroupedBits::W4, group: 32 },
            Numbers::Grouped { bits: GroupedBits::W4Nl, group: 32 },
        ] {
            let quantization = quantize(&graph, numbers, &samples);
            let (changed, better) =
                improved(&graph, &quantization, &samples, Improvement::Equalize);
            assert!(changed, "{name} {numbers}");
            let equalized = better.equalized.clone().expect("an equalized graph");
            let got = values(&equalized, graph.outputs[0], &samples);
            let difference = difference(&expected, &got);
            assert!(difference <= SAME_FUNCTION, "{name} {numbers}: {difference}");
            let (_, again) = improved(&graph, &quantization, &samples, Improvement::Equalize);
            assert_eq!(better.weights, again.weights, "{name} {numbers}: not deterministic");
            assert_eq!(better.activations, again.activations, "{name} {numbers}");
        }
    }
}

#[test]
fn what_cannot_be_rescaled_stays() {
    let result = {
        let mut graph = pair(Clamp::NONE, |_, y| y);
        let inner = graph.nodes[0].outputs[0];
        graph.outputs.push(inner);
        graph
    };
    let state = {
        let mut graph = pair(Clamp::NONE, |_, y| y);
        let next = graph.nodes[0].outputs[0];
        let shape = graph.value(next).shape.clone();
        let read = graph.add_value("state", DType::F32, shape);
        graph.states.push(State { name: "state".into(), read, next, initial: None });
        graph
    };
    let shared = {
        let mut b = Build::new(4);
        let x = b.input(&[1, 8]);
        let weights = b.uneven(&[8, 8]);
        let y = b.node(matmul(NONE), &[x, weights], &[1, 8]);
        let y = b.node(matmul(NONE), &[y, weights], &[1, 8]);
        b.output(y)
    };
    let cases = [
        ("an output", result),
        ("a state", state),
        ("shared weights", shared),
        (
            "a function that isn't homogeneous",
            pair(NONE, |b, y| b.node(Op::Unary(UnaryKind::Tanh), &[y], &[1, 16])),
        ),
        ("an addition", pair(NONE, |b, y| b.node(Op::Binary(BinaryKind::Add), &[y, y], &[1, 16]))),
        ("a bound that every channel reaches", pair(Clamp { min: 0.0, max: 1e-6 }, |_, y| y)),
        ("bounds on one side of zero", pair(Clamp { min: 1.0, max: 6.0 }, |_, y| y)),
    ];
    for (name, graph) in cases {
        let samples = inputs(&graph, 20);
        let quantization = quantize(&graph, Numbers::Int8, &samples);
        let (changed, better) = improved(&graph, &quantization, &samples, Improvement::Equalize);
        assert!(!changed, "{name}");
        assert_eq!(better.weights, quantization.weights, "{name}");
    }
}

#[test]
fn a_dead_channel_keeps_its_weights() {
    let mut graph = pair(Clamp::RELU, |_, y| y);
    for (node, stride, offset) in [(0, 16, 5), (1, 1, 7 * 6)] {
        // Channel 5 is never made, channel 7 never read.
        let id = graph.nodes[node].inputs[1].expect("weights");
        let tensor = graph.constant(id).expect("constant").clone();
        let mut reals = tensor.to_f32();
        let count = if node == 0 { 12 } else { 6 };
        for at in 0..count {
            reals[offset + at * stride] = 0.0;
        }
        let tensor = Tensor::from_f32(tensor.shape.clone(), &reals);
        graph.value_mut(id).constant = Some(Arc::new(tensor));
    }
    let samples = inputs(&graph, 20);
    let quantization = quantize(&graph, Numbers::Int8, &samples);
    let (changed, better) = improved(&graph, &quantization, &samples, Improvement::Equalize);
    assert!(changed);
    let weights = |graph: &Graph, node: usize| {
        let id = graph.nodes[node].inputs[1].expect("weights");
        graph.constant(id).expect("constant").to_f32()
    };
    assert_eq!(weights(&graph, 1)[5 * 6..6 * 6], weights(&better.graph, 1)[5 * 6..6 * 6]);
    for k in 0..12 {
        assert_eq!(weights(&graph, 0)[k * 16 + 7], weights(&better.graph, 0)[k * 16 + 7]);
    }
}

#[test]
fn both_layers_get_the_same_range() {
    // Nagel et al., equation 11, worked out by hand: made 4 and read 1 meet at 2, made 1 and read 9 at 3.
    let mut b = Build::new(5);
    let x = b.input(&[1, 1]);
    let made = b.constant(&[1, 2], &[4.0, -1.0]);
    let y = b.node(matmul(Clamp::RELU), &[x, made], &[1, 2]);
    let read = b.constant(&[2, 1], &[1.0, 9.0]);
    let y = b.node(matmul(NONE), &[y, read], &[1, 1]);
    let graph = b.output(y);
    let factors = equalize::equal_ranges(&[4.0, 1.0], &[1.0, 9.0]);
    assert_eq!(factors, [2.0, 1.0 / 3.0]);
    let mut rescaled = graph.clone();
    equalize::rescale_between(&mut rescaled, 0, 1, &factors);
    let weights = |node: usize| {
        let id = rescaled.nodes[node].inputs[1].expect("weights");
        rescaled.constant(id).expect("constant").to_f32()
    };
    assert_eq!(weights(0), [2.0, -3.0]);
    assert_eq!(weights(1), [2.0, 3.0]);
}

#[test]
fn corrected_means_are_those_of_the_float_model() {
    let clamped = |clamp| {
        let mut b = Build::new(6);
        let x = b.input(&[1, 40]);
        let y = b.dense(x, 24, clamp);
        let y = b.dense(y, 24, clamp);
        let y = b.dense(y, 6, NONE);
        b.output(y)
    };
    let cases =
        [("linear", clamped(NONE)), ("relu", clamped(Clamp::RELU)), ("relu6", clamped(RELU6))];
    for (name, graph) in cases {
        let samples = inputs(&graph, 200);
        for numbers in [Numbers::Int8, Numbers::Grouped { bits: GroupedBits::W4, group: 32 }] {
            let quantization = quantize(&graph, numbers, &samples);
            let (changed, better) = improved(&graph, &quantization, &samples, Improvement::Bias);
            assert!(changed, "{name} {numbers}");
            assert_eq!(better.weights, quantization.weights);
            let mut most = 0f64;
            for node in 0..3 {
                for (mean, chance) in shifts(&graph, &quantization, node, &samples) {
                    most = most.max(mean.abs() / chance);
                }
                for (mean, chance) in shifts(&graph, &better, node, &samples) {
                    // f32 sums of some thousand, beside which a shift may be nothing.
                    let exact = mean.abs() <= chance * 1.01 + 1e-3;
                    assert!(exact, "{name} {numbers} {node}: {mean}, by chance {chance}");
                }
            }
            assert!(most > 2.0, "{name} {numbers}: nothing to correct");
        }
    }
}

/// By how much each channel's sums are smaller than the float model's in the mean, and the standard error of that:
/// computed in f64 from the values that the layer reads, one row a sample.
fn shifts(
    graph: &Graph,
    quantization: &Quantization,
    node: usize,
    samples: &Reals,
) -> Vec<(f64, f64)> {
    let output = graph_output(quantization, node);
    let sums = |graph: &Graph| -> Vec<Vec<f64>> {
        let layer = graph.nodes.iter().find(|n| n.outputs[0] == output).expect("the layer");
        let input = layer.inputs[0].expect("an input");
        let x = match graph.inputs.contains(&input) {
            true => samples.samples.concat(),
            false => values(graph, input, samples),
        };
        let weights = graph.constant(layer.inputs[1].expect("weights")).expect("constant");
        let [k, n] = weights.shape[..] else { panic!("rank 2") };
        let w = weights.to_f32();
        let bias = layer.inputs.get(2).copied().flatten();
        let bias = bias.map(|id| graph.constant(id).expect("constant").to_f32());
        let sum = |row: &[f32], o: usize| -> f64 {
            let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[o]));
            (0..k).map(|i| f64::from(row[i]) * f64::from(w[i * n + o])).sum::<f64>() + bias
        };
        x.chunks_exact(k).map(|row| (0..n).map(|o| sum(row, o)).collect()).collect()
    };
    let (expected, got) = (sums(graph), sums(&quantization.simulated()));
    let count = expected.len() as f64;
    (0..expected[0].len())
        .map(|o| {
            let differences = || expected.iter().zip(&got).map(move |(e, g)| e[o] - g[o]);
            let mean = differences().sum::<f64>() / count;
            let squares: f64 = differences().map(|d| (d - mean).powi(2)).sum();
            (mean, (squares / (count - 1.0) / count).sqrt())
        })
        .collect()
}

fn graph_output(quantization: &Quantization, node: usize) -> ValueId {
    quantization.graph.nodes[node].outputs[0]
}

#[test]
fn shifts_that_may_be_chance_are_left() {
    // Four samples of two channels: one shifted for certain, one by chance.
    let expected: Vec<Vec<f64>> = [1.0, 1.1, 0.9, 1.0].iter().map(|x| vec![*x, 0.0]).collect();
    let got: Vec<Vec<f64>> = [1.0, -1.0, 1.0, -0.9].iter().map(|x| vec![0.0, *x]).collect();
    let shift = bias::shift(&expected, &got);
    // Mean 1, variance 0.02 / 3, of the mean a quarter of that.
    assert!((shift[0] - (1.0 - 0.02 / 3.0 / 4.0)).abs() < 1e-12, "{shift:?}");
    assert_eq!(shift[1], 0.0);
}

#[test]
fn biases_stay_within_the_accumulator() {
    // The input is always 1e-30 but for rounding, so that a step of the accumulator is tiny.
    let graph = pair(NONE, |_, y| y);
    let mut samples = inputs(&graph, 3);
    for value in samples.samples.iter_mut().flatten() {
        *value *= 1e-20;
    }
    let quantization = quantize(&graph, Numbers::Int8, &samples);
    let (_, better) = improved(&graph, &quantization, &samples, Improvement::Bias);
    Program::new(&better.lowered(), &PlanOptions::default()).expect("plans");
    // One sample is too few, no layers nothing to do.
    let one = Reals { shape: samples.shape.clone(), samples: samples.samples[..1].to_vec() };
    assert!(!improved(&graph, &quantization, &one, Improvement::Bias).0);
    let float = quantize(&graph, Numbers::Float, &samples);
    for step in Improvement::ALL {
        assert!(!improved(&graph, &float, &samples, *step).0, "{step}");
    }
}

#[test]
fn a_shared_bias_is_changed_for_one_layer_only() {
    let mut b = Build::new(7);
    let x = b.input(&[1, 16]);
    let shared = b.constant(&[16], &[0.5; 16]);
    let weights = b.uneven(&[16, 16]);
    let mut y = x;
    for _ in 0..2 {
        y = b.node(matmul(NONE), &[y, weights, shared], &[1, 16]);
    }
    let graph = b.output(y);
    let samples = inputs(&graph, 50);
    let quantization = quantize(&graph, Numbers::Int8, &samples);
    let (changed, better) = improved(&graph, &quantization, &samples, Improvement::Bias);
    assert!(changed);
    assert_eq!(better.graph.constant(shared).expect("constant").to_f32(), [0.5; 16]);
    assert_ne!(better.graph.nodes[0].inputs[2], better.graph.nodes[1].inputs[2]);
}

//! Functions behind float layers that the layers' own steps compute, while their results are in a cache.
//!
//! The bits stay what they are: kernels apply the same function to the same numbers. Values in between are gone, which is why
//! programs that somebody looks into are planned without.

use std::collections::{HashMap, HashSet};

use whit::DType;
use whit::format::UnaryOp;

use crate::graph::{BinaryKind, Graph, Node, Op, ValueId};

use super::steps::{packed_weights, unary_op};

/// A function behind a layer, and what its result is multiplied by and what is added then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Activation {
    pub(super) function: UnaryOp,
    pub(super) affine: [f32; 2],
}

/// Which nodes become part of which steps.
#[derive(Default)]
pub(super) struct Fused {
    /// By the layer's node: its activation, and the value that its step makes then.
    pub(super) layers: HashMap<usize, (Activation, ValueId)>,
    /// Nodes that have no step of their own.
    pub(super) absorbed: HashSet<usize>,
}

/// Finds float layers whose only reader is a function that layers have, alone or with one number as a factor, one as a summand,
/// or both behind it.
pub(super) fn activations(graph: &Graph) -> Fused {
    let consumers = graph.consumers();
    let results: HashSet<ValueId> = graph.results().collect();
    // The one node that reads a value, which isn't a result of the model, and what it makes of it in the same shape.
    let reader = |value: ValueId| -> Option<(usize, &Node, ValueId)> {
        let [index] = consumers[value.0 as usize][..] else { return None };
        let node = &graph.nodes[index];
        let [made] = node.outputs[..] else { return None };
        let (from, to) = (graph.value(value), graph.value(made));
        let is_kept = from.dtype == DType::F32 && to.dtype == DType::F32 && from.shape == to.shape;
        (is_kept && !results.contains(&value)).then_some((index, node, made))
    };
    let mut fused = Fused::default();
    for (index, layer) in graph.nodes.iter().enumerate() {
        let [made] = layer.outputs[..] else { continue };
        if packed_weights(graph, layer).is_none() || !reads_floats(graph, layer) {
            continue;
        }
        let Some((at, Node { op: Op::Unary(kind), .. }, mut made)) = reader(made) else { continue };
        let function = unary_op(*kind).0;
        if !UnaryOp::FUSED.contains(&function) {
            continue;
        }
        fused.absorbed.insert(at);
        let mut affine = [1.0, 0.0];
        for (kind, place) in [(BinaryKind::Mul, 0), (BinaryKind::Add, 1)] {
            if let Some((at, node, next)) = reader(made)
                && node.op == Op::Binary(kind)
                && let Some(number) = number_beside(graph, node, made)
            {
                affine[place] = number;
                fused.absorbed.insert(at);
                made = next;
            }
        }
        fused.layers.insert(index, (Activation { function, affine }, made));
    }
    fused
}

fn reads_floats(graph: &Graph, node: &Node) -> bool {
    node.inputs.first().copied().flatten().is_some_and(|x| graph.value(x).dtype == DType::F32)
}

/// The other operand of a node that reads `value` once, if it is one constant number.
fn number_beside(graph: &Graph, node: &Node, value: ValueId) -> Option<f32> {
    let [Some(a), Some(b)] = node.inputs[..] else { return None };
    let other = if a == value { b } else { a };
    let tensor = graph.constant(other).filter(|tensor| tensor.dtype == DType::F32)?;
    match tensor.to_f32()[..] {
        [number] => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dim::Dim;
    use crate::evaluate::{Program, Reals, feed, output_reals};
    use crate::graph::{Clamp, Conv, UnaryKind};
    use crate::passes::tests::builder::Build;
    use crate::plan::PlanOptions;

    /// A layer with 5 outputs: a convolution of one pixel, or with two axes a matrix product.
    fn layer(build: &mut Build, shape: &[usize]) -> ValueId {
        let x = build.input(shape);
        let axes = shape.len() - 2;
        if axes == 0 {
            return build.dense(x, 5);
        }
        let one = vec![1; axes];
        let weights = build.random(&[&[5], &one[..], &shape[axes + 1..]].concat());
        let mut made = build.shape(x);
        made[axes + 1] = Dim::from(5usize);
        let conv = Conv {
            kernel: one.clone(),
            stride: one.clone(),
            dilation: one,
            pad_before: vec![0; axes],
            pad_after: vec![0; axes],
            groups: 1,
            clamp: Clamp::RELU,
            inner_quant: None,
        };
        build.node(Op::Conv(conv), &[x, weights], made)
    }

    /// Steps that are left, given that the results are the same to the bit.
    fn steps(mut build: Build) -> usize {
        let shape = build.shape(build.graph.inputs[0]);
        let shape: Vec<usize> = shape.iter().map(|dim| dim.as_const().unwrap() as usize).collect();
        let samples = Reals { samples: vec![build.numbers(shape.iter().product())], shape };
        let graph = build.graph;
        let [(apart, _), (fused, steps)] = [false, true].map(|fuse| {
            let options = PlanOptions { fuse, ..PlanOptions::default() };
            let program = Program::new(&graph, &options).unwrap();
            let mut session = program.session(None).unwrap();
            feed(&mut session, &samples, 0).unwrap();
            session.run().unwrap();
            let outputs: Vec<Vec<u32>> = (0..graph.outputs.len())
                .map(|output| output_reals(&session, output).unwrap())
                .map(|reals| reals.iter().map(|real| real.to_bits()).collect())
                .collect();
            (outputs, program.plan.steps.len())
        });
        assert_eq!(apart, fused);
        steps
    }

    /// Chains behind layers of every rank, with a summand on either side.
    #[test]
    fn chains_become_one_step() {
        for shape in [&[3, 7][..], &[1, 6, 7], &[1, 4, 3, 7]] {
            for kind in [UnaryKind::HardSwish, UnaryKind::Silu, UnaryKind::Gelu, UnaryKind::Tanh] {
                let mut build = Build::default();
                let y = layer(&mut build, shape);
                let y = build.unary(kind, y);
                let (scale, shift) = (build.constant(&[1], &[0.7]), build.scalar(-0.3));
                let y = build.binary(BinaryKind::Mul, scale, y);
                let y = build.binary(BinaryKind::Add, y, shift);
                build.graph.outputs = vec![y];
                assert_eq!(steps(build), 1, "{kind:?} {shape:?}");
            }
        }
    }

    /// What somebody else reads, what layers don't have, and what isn't one number stays a step.
    #[test]
    fn others_stay() {
        let shape = [1, 4, 3, 7];
        let mut shown = Build::default();
        let y = layer(&mut shown, &shape);
        let z = shown.unary(UnaryKind::Silu, y);
        shown.graph.outputs = vec![y, z];
        assert_eq!(steps(shown), 2, "the layer's result is an output");

        let mut gate = Build::default();
        let y = layer(&mut gate, &shape);
        let z = gate.unary(UnaryKind::Sigmoid, y);
        let product = gate.binary(BinaryKind::Mul, y, z);
        gate.graph.outputs = vec![product];
        assert_eq!(steps(gate), 3, "two readers");

        let mut other = Build::default();
        let y = layer(&mut other, &shape);
        let z = other.unary(UnaryKind::Sqrt, y);
        other.graph.outputs = vec![z];
        assert_eq!(steps(other), 2, "no function of layers");

        let mut channels = Build::default();
        let y = layer(&mut channels, &shape);
        let y = channels.unary(UnaryKind::Silu, y);
        let scale = channels.random(&[5]);
        let y = channels.binary(BinaryKind::Mul, y, scale);
        channels.graph.outputs = vec![y];
        assert_eq!(steps(channels), 2, "a factor per channel");
    }
}

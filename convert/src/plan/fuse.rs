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
    // The one node that reads a value of a node, as its only float input of that shape.
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
    use crate::graph::{Clamp, Conv, MatMul, UnaryKind};
    use crate::plan::PlanOptions;
    use crate::tensor::Tensor;

    fn numbers(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect()
    }

    #[derive(Default)]
    struct Build(Graph);

    impl Build {
        fn node(&mut self, op: Op, inputs: &[ValueId], shape: &[usize]) -> ValueId {
            let name = format!("n{}", self.0.nodes.len());
            let shape = shape.iter().map(|dim| Dim::from(*dim)).collect();
            let made = self.0.add_value(name.clone(), DType::F32, shape);
            let inputs = inputs.iter().copied().map(Some).collect();
            self.0.nodes.push(Node { name, op, inputs, outputs: vec![made] });
            made
        }

        fn constant(&mut self, shape: &[usize], values: &[f32]) -> ValueId {
            self.0.add_constant("c", Tensor::from_f32(shape, values))
        }

        /// A convolution of `x`, or with two axes a matrix product, as a layer with 5 outputs.
        fn layer(&mut self, shape: &[usize]) -> (ValueId, Vec<usize>) {
            let dims = shape.iter().map(|dim| Dim::from(*dim)).collect();
            let x = self.0.add_value("x", DType::F32, dims);
            self.0.inputs.push(x);
            let (c, axes) = (shape[shape.len() - 1], shape.len() - 2);
            let mut made = shape.to_vec();
            made[axes + 1] = 5;
            let bias = self.constant(&[5], &numbers(5));
            if axes == 0 {
                let weights = self.constant(&[c, 5], &numbers(5 * c));
                let op = Op::MatMul(MatMul {
                    transpose_a: false,
                    transpose_b: false,
                    clamp: Clamp::NONE,
                    inner_quant: None,
                });
                return (self.node(op, &[x, weights, bias], &made), made);
            }
            let one = vec![1; axes];
            let kernel = [&[5], &one[..], &[c]].concat();
            let weights = self.constant(&kernel, &numbers(5 * c));
            let op = Op::Conv(Conv {
                kernel: one.clone(),
                stride: one.clone(),
                dilation: one.clone(),
                pad_before: vec![0; axes],
                pad_after: vec![0; axes],
                groups: 1,
                clamp: Clamp::RELU,
                inner_quant: None,
            });
            (self.node(op, &[x, weights, bias], &made), made)
        }

        /// Steps that are left, given that the results are the same to the bit.
        fn steps(&self) -> usize {
            let input = &self.0.value(self.0.inputs[0]).shape;
            let shape: Vec<usize> =
                input.iter().map(|dim| dim.as_const().unwrap() as usize).collect();
            let samples = Reals { samples: vec![numbers(shape.iter().product())], shape };
            let [(apart, _), (fused, steps)] = [false, true].map(|fuse| {
                let options = PlanOptions { fuse, ..PlanOptions::default() };
                let program = Program::new(&self.0, &options).unwrap();
                let mut session = program.session(None).unwrap();
                feed(&mut session, &samples, 0).unwrap();
                session.run().unwrap();
                let outputs: Vec<Vec<u32>> = (0..self.0.outputs.len())
                    .map(|output| output_reals(&session, output).unwrap())
                    .map(|reals| reals.iter().map(|real| real.to_bits()).collect())
                    .collect();
                (outputs, program.plan.steps.len())
            });
            assert_eq!(apart, fused);
            steps
        }
    }

    /// Chains behind layers of every rank, with a summand on either side.
    #[test]
    fn chains_become_one_step() {
        for shape in [&[3, 7][..], &[1, 6, 7], &[1, 4, 3, 7]] {
            for kind in [UnaryKind::HardSwish, UnaryKind::Silu, UnaryKind::Gelu, UnaryKind::Tanh] {
                let mut build = Build::default();
                let (y, shape) = build.layer(shape);
                let y = build.node(Op::Unary(kind), &[y], &shape);
                let (scale, shift) = (build.constant(&[1], &[0.7]), build.constant(&[], &[-0.3]));
                let y = build.node(Op::Binary(BinaryKind::Mul), &[scale, y], &shape);
                let y = build.node(Op::Binary(BinaryKind::Add), &[y, shift], &shape);
                build.0.outputs = vec![y];
                assert_eq!(build.steps(), 1, "{kind:?} {shape:?}");
            }
        }
    }

    /// What somebody else reads, what layers don't have, and what isn't one number stays a step.
    #[test]
    fn others_stay() {
        let shape = [1, 4, 3, 7];
        let mut shown = Build::default();
        let (y, made) = shown.layer(&shape);
        let z = shown.node(Op::Unary(UnaryKind::Silu), &[y], &made);
        shown.0.outputs = vec![y, z];
        assert_eq!(shown.steps(), 2, "the layer's result is an output");

        let mut gate = Build::default();
        let (y, made) = gate.layer(&shape);
        let z = gate.node(Op::Unary(UnaryKind::Sigmoid), &[y], &made);
        let product = gate.node(Op::Binary(BinaryKind::Mul), &[y, z], &made);
        gate.0.outputs = vec![product];
        assert_eq!(gate.steps(), 3, "two readers");

        let mut other = Build::default();
        let (y, made) = other.layer(&shape);
        let z = other.node(Op::Unary(UnaryKind::Sqrt), &[y], &made);
        other.0.outputs = vec![z];
        assert_eq!(other.steps(), 2, "no function of layers");

        let mut channels = Build::default();
        let (y, made) = channels.layer(&shape);
        let y = channels.node(Op::Unary(UnaryKind::Silu), &[y], &made);
        let scale = channels.constant(&[5], &numbers(5));
        let y = channels.node(Op::Binary(BinaryKind::Mul), &[y, scale], &made);
        channels.0.outputs = vec![y];
        assert_eq!(channels.steps(), 2, "a factor per channel");
    }
}

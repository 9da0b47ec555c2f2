//! A model run a stretch at a time beside the same model run anew for every stretch.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{BinaryKind, Clamp, Graph, Op, UnaryKind, ValueId};
use crate::quantize::improve::probe::{Relay, watch};
use crate::quantize::improve::tests::{Build, inputs, matmul};

type Seen = BTreeMap<(ValueId, usize), Vec<f32>>;

/// Layers one behind the other, each adding to what it reads: values are read by nodes of later stretches, too.
fn residual_layers() -> (Graph, Vec<usize>) {
    let mut b = Build::new(91);
    let x = b.input(&[1, 8]);
    let mut sum = x;
    for layer in 0..4 {
        if layer == 2 {
            sum = b.node(Op::Reshape, &[sum], &[2, 4]);
            sum = b.node(Op::Unary(UnaryKind::Relu), &[sum], &[2, 4]);
            sum = b.node(Op::Reshape, &[sum], &[1, 8]);
        }
        let reals = b.reals(64);
        let weights = b.constant(&[8, 8], &reals);
        let y = b.node(matmul(Clamp::RELU), &[sum, weights], &[1, 8]);
        sum = b.node(Op::Binary(BinaryKind::Add), &[sum, y], &[1, 8]);
    }
    let graph = b.output(sum);
    let layers = (0..graph.nodes.len()).filter(|at| matches!(graph.nodes[*at].op, Op::MatMul(_)));
    let layers = layers.collect();
    (graph, layers)
}

/// A graph with one layer's weights halved.
fn halved(graph: &Graph, layer: usize) -> Graph {
    let mut graph = graph.clone();
    let id = graph.nodes[layer].inputs[1].expect("weights");
    let weights = graph.constant(id).expect("constant");
    let half: Vec<f32> = weights.to_f32().iter().map(|w| w / 2.0).collect();
    let half = crate::tensor::Tensor::from_f32(weights.shape.clone(), &half);
    graph.value_mut(id).constant = Some(std::sync::Arc::new(half));
    graph
}

#[test]
fn a_stretch_sees_what_the_whole_model_computes() {
    let (mut graph, layers) = residual_layers();
    let samples = inputs(&graph, 5);
    let mut relay = Relay::new(&samples);
    for (at, layer) in layers.iter().enumerate() {
        // What the layer reads, and what it makes before its weights change.
        let of = &graph.nodes[*layer];
        let values: BTreeSet<ValueId> = [of.inputs[0].expect("input"), of.outputs[0]].into();
        let changing = layers[at..].iter().map(|node| graph.nodes[*node].outputs[0]).collect();
        let (mut got, mut expected) = (Seen::new(), Seen::new());
        let mut see = |value: ValueId, sample: usize, reals: &[f32]| {
            got.insert((value, sample), reals.to_vec());
        };
        relay.watch(&graph, &graph, &values, &changing, &mut |_| (), &mut see).expect("stretch");
        let mut see = |value: ValueId, sample: usize, reals: &[f32]| {
            expected.insert((value, sample), reals.to_vec());
        };
        watch(&graph, &values, &samples, &mut |_| (), &mut see).expect("whole");
        assert_eq!(expected.len(), 2 * 5, "layer {at}");
        assert_eq!(got, expected, "layer {at}");
        graph = halved(&graph, *layer);
    }
}

#[test]
fn only_what_is_new_runs() {
    let (graph, layers) = residual_layers();
    let samples = inputs(&graph, 2);
    let mut relay = Relay::new(&samples);
    for layer in &layers {
        let of = &graph.nodes[*layer];
        let values: BTreeSet<ValueId> = [of.inputs[0].expect("input")].into();
        let changing = [of.outputs[0]].into();
        relay
            .watch(&graph, &graph, &values, &changing, &mut |_| (), &mut |_, _, _| ())
            .expect("run");
        let part = relay.part(&graph, &[of.outputs[0]].into());
        assert!(
            part.nodes.iter().filter(|node| node.op != Op::Reshape).count() <= 1,
            "{}",
            of.name
        );
    }
}

//! Graphs whose loss has a known cause by construction.

use whit::DType;

use super::remedy::{Attempts, try_remedies};
use super::{CauseKind, CompareError, Comparison, compare};
use crate::dim::Dim;
use crate::evaluate::{Program, Reals};
use crate::graph::{BinaryKind, Clamp, Conv, Graph, MatMul, Node, Op, ValueId};
use crate::plan::PlanOptions;
use crate::quantize::calibrate::{Method, calibrate};
use crate::quantize::numbers::{GroupedBits, Numbers};
use crate::quantize::quantization::Quantization;
use crate::tensor::Tensor;

/// Numbers in −1..1, always the same (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Nearly normal: the sum of four.
    fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.next()).sum::<f32>() * 0.87
    }

    fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }
}

fn data(shape: &[usize], count: usize, mut value: impl FnMut(usize) -> f32) -> Reals {
    let len: usize = shape.iter().product();
    let samples = (0..count).map(|_| (0..len).map(&mut value).collect()).collect();
    Reals { shape: shape.to_vec(), samples }
}

/// A graph under construction.
struct Net {
    graph: Graph,
    random: Random,
}

impl Net {
    fn new(shape: &[usize]) -> (Net, ValueId) {
        let mut net = Net { graph: Graph::default(), random: Random(0x9E37_79B9_7F4A_7C15) };
        let x = net.value("x", shape);
        net.graph.inputs.push(x);
        (net, x)
    }

    fn value(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let shape = shape.iter().map(|size| Dim::from(*size)).collect();
        self.graph.add_value(name, DType::F32, shape)
    }

    fn node(&mut self, name: &str, op: Op, inputs: &[ValueId], shape: &[usize]) -> ValueId {
        let output = self.value(name, shape);
        let inputs = inputs.iter().map(|id| Some(*id)).collect();
        self.graph.nodes.push(Node {
            name: format!("{name}.node"),
            op,
            inputs,
            outputs: vec![output],
        });
        output
    }

    fn constant(&mut self, shape: &[usize], values: &[f32]) -> ValueId {
        let name = format!("c{}", self.graph.values.len());
        self.graph.add_constant(name, Tensor::from_f32(shape.to_vec(), values))
    }

    /// Fully connected, `weights` as `[inputs][outputs]`.
    fn dense(
        &mut self,
        name: &str,
        x: ValueId,
        sizes: [usize; 2],
        weights: &[f32],
        bias: &[f32],
        clamp: Clamp,
    ) -> ValueId {
        let w = self.constant(&sizes, weights);
        let b = self.constant(&[sizes[1]], bias);
        let op =
            Op::MatMul(MatMul { transpose_a: false, transpose_b: false, clamp, inner_quant: None });
        let shape: Vec<usize> = self.graph.value(x).const_shape().expect("fixed");
        let shape = [&shape[..shape.len() - 1], &[sizes[1]]].concat();
        self.node(name, op, &[x, w, b], &shape)
    }

    fn plain(&mut self, name: &str, x: ValueId, sizes: [usize; 2]) -> ValueId {
        let weights = self.random.normals(sizes[0] * sizes[1]);
        self.dense(name, x, sizes, &weights, &vec![0.0; sizes[1]], Clamp::NONE)
    }

    fn done(mut self, outputs: &[ValueId]) -> Graph {
        self.graph.outputs = outputs.to_vec();
        self.graph
    }
}

fn quantized(graph: &Graph, numbers: &[Numbers], data: &Reals, method: Method) -> Program {
    let found = calibrate(graph, numbers, data, method, &mut |_, _, _| ()).expect("calibrates");
    let ranges = found.ranges;
    let lowered = Quantization::new(graph.clone(), numbers, &ranges).lowered();
    Program::new(&lowered, &PlanOptions::default()).expect("plans")
}

fn compared(graph: &Graph, file: &Program, data: &Reals) -> Result<Comparison, CompareError> {
    let float = Program::new(graph, &PlanOptions::default()).expect("plans");
    compare(float.model()?, Some(graph), file.model()?, data, &mut ())
}

/// A graph, data, and the numbers that all its nodes but the named are to have.
struct Case {
    name: &'static str,
    graph: Graph,
    data: Reals,
    method: Method,
    numbers: Numbers,
    float: &'static [&'static str],
    /// The layer that is at fault, or looked at.
    layer: &'static str,
    cause: CauseKind,
}

fn cases() -> Vec<Case> {
    let plain = |name, graph, data, layer, cause| Case {
        name,
        graph,
        data,
        method: Method::MinMax,
        numbers: Numbers::Int8,
        float: &[],
        layer,
        cause,
    };
    let mut random = Random(7);
    let mut normal = |shape: &[usize], count| data(shape, count, |_| random.normal());
    let mut cases = Vec::new();

    let (mut net, x) = Net::new(&[1, 64]);
    let y = net.plain("y", x, [64, 32]);
    cases.push(plain(
        "as it should be",
        net.done(&[y]),
        normal(&[1, 64], 32),
        "y",
        CauseKind::RoundingNoise,
    ));

    // A fifth of the values lies outside the range that 80 % of them have.
    let (mut net, x) = Net::new(&[1, 64]);
    let y = net.plain("y", x, [64, 32]);
    let clipped = plain("clipped", net.done(&[y]), normal(&[1, 64], 32), "y", CauseKind::Clipped);
    cases.push(Case { method: Method::Percentile(80.0), ..clipped });

    // The first output is 300 times the others, which the next layer alone reads.
    let loud = |net: &mut Net, x: ValueId| {
        let mut weights = net.random.normals(64 * 32);
        for k in 0..64 {
            weights[k * 32] *= 300.0;
        }
        net.dense("loud", x, [64, 32], &weights, &[0.0; 32], Clamp::NONE)
    };
    let deaf = |net: &mut Net, x: ValueId| {
        let mut weights = net.random.normals(32 * 16);
        weights[..16].fill(0.0);
        net.dense("y", x, [32, 16], &weights, &[0.0; 16], Clamp::NONE)
    };
    for (name, layer, cause) in [
        ("one loud channel", "loud", CauseKind::DominatingChannel),
        ("behind a loud channel", "y", CauseKind::Inherited),
    ] {
        let (mut net, x) = Net::new(&[1, 64]);
        let hidden = loud(&mut net, x);
        let y = deaf(&mut net, hidden);
        cases.push(plain(name, net.done(&[y]), normal(&[1, 64], 32), layer, cause));
    }

    // One value in 2500 is large, in any channel.
    let (mut net, x) = Net::new(&[1, 100, 4]);
    let y = net.plain("y", x, [4, 4]);
    let mut draw = Random(11);
    let mut count = 0;
    let samples = data(&[1, 100, 4], 50, |_| {
        count += 1;
        if count % 2501 == 0 { 120.0 } else { draw.normal() }
    });
    cases.push(plain("outliers", net.done(&[y]), samples, "y", CauseKind::Outliers));

    // Two branches on the grid of their concatenation, one of them 1000 times the other.
    let (mut net, x) = Net::new(&[1, 64]);
    let small: Vec<f32> = net.random.normals(64 * 16).iter().map(|w| w * 1e-3).collect();
    let a = net.plain("a", x, [64, 16]);
    let b = net.dense("b", x, [64, 16], &small, &[0.0; 16], Clamp::NONE);
    let y = net.node("y", Op::Concat { axis: 1 }, &[a, b], &[1, 32]);
    cases.push(plain(
        "a shared grid",
        net.done(&[y]),
        normal(&[1, 64], 32),
        "b",
        CauseKind::UnusedLevels,
    ));

    // 2000 classes, about as likely: 1/2000 each, an eighth of a step.
    let (mut net, x) = Net::new(&[1, 16]);
    let weights: Vec<f32> = net.random.normals(16 * 2000).iter().map(|w| w * 0.1).collect();
    let scores = net.dense("scores", x, [16, 2000], &weights, &[0.0; 2000], Clamp::NONE);
    let y = net.node("y", Op::Softmax { axis: 1, log: false }, &[scores], &[1, 2000]);
    cases.push(plain(
        "softmax of many",
        net.done(&[y]),
        normal(&[1, 16], 16),
        "y",
        CauseKind::FixedGrid,
    ));

    // … and one of them sure.
    let (mut net, x) = Net::new(&[1, 16]);
    let weights: Vec<f32> = net.random.normals(16 * 2000).iter().map(|w| w * 0.1).collect();
    let mut bias = vec![0.0; 2000];
    bias[3] = 6.5;
    let scores = net.dense("scores", x, [16, 2000], &weights, &bias, Clamp::NONE);
    let y = net.node("y", Op::Softmax { axis: 1, log: false }, &[scores], &[1, 2000]);
    cases.push(plain(
        "softmax of one and many",
        net.done(&[y]),
        normal(&[1, 16], 16),
        "y",
        CauseKind::FixedGrid,
    ));

    // Each output has one weight of 400 among 1024, on an input that is small.
    let (mut net, x) = Net::new(&[1, 1024]);
    let mut weights = net.random.normals(1024 * 8);
    weights[..8].fill(400.0);
    let y = net.dense("y", x, [1024, 8], &weights, &[0.0; 8], Clamp::NONE);
    let mut draw = Random(13);
    let samples = data(&[1, 1024], 24, |at| draw.normal() * if at == 0 { 0.01 } else { 1.0 });
    cases.push(plain(
        "heavy-tailed weights",
        net.done(&[y]),
        samples,
        "y",
        CauseKind::HeavyTailedWeights,
    ));

    // 4 bits.
    let (mut net, x) = Net::new(&[1, 128]);
    let y = net.plain("y", x, [128, 32]);
    let four =
        plain("4 bits", net.done(&[y]), normal(&[1, 128], 16), "y", CauseKind::FewWeightBits);
    cases.push(Case { numbers: Numbers::Grouped { bits: GroupedBits::W4, group: 32 }, ..four });

    // Depthwise, on i16 so that its weights are all that is rough; only its small difference from itself in
    // float is an output.
    let (mut net, x) = Net::new(&[1, 8, 8, 4]);
    let taps = net.random.normals(4 * 9);
    let depthwise = |net: &mut Net, name: &str, taps: &[f32]| {
        let w = net.constant(&[4, 3, 3, 1], taps);
        let conv = Conv {
            kernel: vec![3, 3],
            stride: vec![1, 1],
            dilation: vec![1, 1],
            pad_before: vec![1, 1],
            pad_after: vec![1, 1],
            groups: 4,
            clamp: Clamp::NONE,
            inner_quant: None,
        };
        net.node(name, Op::Conv(conv), &[x, w], &[1, 8, 8, 4])
    };
    let rough = depthwise(&mut net, "rough", &taps);
    let other: Vec<f32> = taps.iter().map(|w| w * 1.02).collect();
    let exact = depthwise(&mut net, "exact", &other);
    let y = net.node("y", Op::Binary(BinaryKind::Sub), &[exact, rough], &[1, 8, 8, 4]);
    let depthwise = plain(
        "depthwise",
        net.done(&[y]),
        normal(&[1, 8, 8, 4], 16),
        "rough",
        CauseKind::NarrowDepthwise,
    );
    cases.push(Case { numbers: Numbers::Int16, float: &["exact", "y"], ..depthwise });
    cases
}

impl Case {
    fn numbers(&self) -> Vec<Numbers> {
        let of = |node: &Node| {
            let float = self.float.iter().any(|name| node.name == format!("{name}.node"));
            if float { Numbers::Float } else { self.numbers }
        };
        self.graph.nodes.iter().map(of).collect()
    }
}

#[test]
fn constructed_losses_have_their_cause_named() {
    for case in cases() {
        let file = quantized(&case.graph, &case.numbers(), &case.data, case.method);
        let comparison = compared(&case.graph, &file, &case.data).expect(case.name);
        let layer = comparison.layers.iter().find(|layer| layer.name == case.layer);
        let layer = layer.unwrap_or_else(|| panic!("{}: no layer {}", case.name, case.layer));
        let cause = layer.causes.first().map(|cause| cause.kind);
        assert_eq!(cause, Some(case.cause), "{}: {layer:#?}", case.name);
        assert!(comparison.quantized, "{}", case.name);
    }
}

#[test]
fn dead_channels_and_widened_steps_are_told() {
    let (mut net, x) = Net::new(&[1, 16]);
    let mut weights = net.random.normals(16 * 8);
    for k in 0..16 {
        weights[k * 8 + 2] = 0.0;
        weights[k * 8 + 5] = 1e-9;
    }
    let mut bias = [0.0; 8];
    bias[5] = 4.0;
    let y = net.dense("y", x, [16, 8], &weights, &bias, Clamp::NONE);
    let graph = net.done(&[y]);
    let mut random = Random(3);
    let samples = data(&[1, 16], 8, |_| random.normal());
    let file = quantized(&graph, &[Numbers::Int8], &samples, Method::MinMax);
    let comparison = compared(&graph, &file, &samples).expect("compares");
    let layer = comparison.layers.iter().find(|layer| layer.name == "y").expect("a layer");
    assert_eq!(layer.channels.as_ref().map(|channels| channels.dead.clone()), Some(vec![2]));
    let weights = layer.weights.as_ref().expect("weights");
    assert_eq!((weights.widened, weights.dead.clone(), weights.bits), (1, vec![2], 8));
    for kind in [CauseKind::DeadChannels, CauseKind::WidenedForBias] {
        assert!(layer.causes.iter().any(|cause| cause.kind == kind), "{:?}", layer.causes);
    }
}

#[test]
fn errors_are_told_apart() {
    // Layer by layer, by hand: the first is quantized, the second float.
    let (mut net, x) = Net::new(&[1, 32]);
    let hidden = net.plain("hidden", x, [32, 32]);
    let y = net.plain("y", hidden, [32, 8]);
    let graph = net.done(&[y]);
    let mut random = Random(5);
    let samples = data(&[1, 32], 16, |_| random.normal());
    let file = quantized(&graph, &[Numbers::Int8, Numbers::Float], &samples, Method::MinMax);
    let comparison = compared(&graph, &file, &samples).expect("compares");
    let of = |name: &str, op: fn(&str) -> bool| {
        comparison.layers.iter().find(|layer| layer.name == name && op(&layer.op)).expect("a layer")
    };
    // A float layer on the same inputs makes no error of its own (the two plans sum in the same order).
    let last = of("y", |_| true);
    assert!(last.introduced_db > 100.0, "{last:#?}");
    assert!(last.total_db < 50.0 && (last.total_db - last.inherited_db).abs() < 0.1, "{last:#?}");
    // Only the first layer and the input's grid make errors, so the outputs' is theirs.
    let shares: f64 = comparison.layers.iter().filter_map(|layer| layer.output_share).sum();
    assert!((shares - 1.0).abs() < 1e-6, "{shares}");
    let alone: f64 = comparison
        .layers
        .iter()
        .filter_map(|layer| layer.output_db)
        .map(|db| 10f64.powf(-db / 10.0))
        .sum();
    let alone_db = -10.0 * alone.log10();
    assert!(
        (alone_db - comparison.output_snr_db).abs() < 2.0,
        "{alone_db} {}",
        comparison.output_snr_db
    );
}

#[test]
fn remedies_are_measured() {
    let case = cases().into_iter().find(|case| case.name == "one loud channel").expect("a case");
    let file = quantized(&case.graph, &case.numbers(), &case.data, case.method);
    let mut comparison = compared(&case.graph, &file, &case.data).expect("compares");
    let attempts = Attempts {
        calibration: &case.data,
        samples: &case.data,
        method: Method::MinMax,
        numbers: Numbers::Int8,
        other_methods: vec![("--method percentile".to_owned(), Method::Percentile(99.9))],
        applied: Vec::new(),
        improvements: Vec::new(),
        layers: 2,
        seed: 0,
    };
    try_remedies(&mut comparison, &case.graph, &attempts, &mut ()).expect("tries");
    let baseline = comparison.baseline_db.expect("a baseline");
    assert!((baseline - comparison.output_snr_db).abs() < 0.5, "{baseline}");
    let best = comparison.remedies.first().expect("a remedy");
    assert!(best.gain_db > 15.0, "{:#?}", comparison.remedies);
    // The gain is that of a conversion with these numbers.
    let int16 = comparison
        .remedies
        .iter()
        .find(|remedy| remedy.options.contains("loud.node=int16"))
        .expect("int16 was tried");
    let file = quantized(&case.graph, &[Numbers::Int16; 2], &case.data, case.method);
    let again = compared(&case.graph, &file, &case.data).expect("compares");
    assert!((again.output_snr_db - int16.output_db).abs() < 0.5, "{again:#?} {int16:?}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let build = |name: &str, width: usize| {
        let (mut net, x) = Net::new(&[1, width]);
        let y = net.plain(name, x, [width, 8]);
        net.done(&[y])
    };
    let (a, renamed, wider) = (build("y", 16), build("other", 16), build("y", 24));
    let mut random = Random(5);
    let mut data = data(&[1, 16], 4, |_| random.normal());
    let int8 = quantized(&a, &[Numbers::Int8], &data, Method::MinMax);
    assert!(matches!(compared(&renamed, &int8, &data), Err(CompareError::NoOverlap { .. })));
    assert!(matches!(compared(&wider, &int8, &data), Err(CompareError::Inputs { .. })));
    let twice =
        compare(int8.model().expect("opens"), None, int8.model().expect("opens"), &data, &mut ());
    assert!(matches!(twice, Err(CompareError::ReferenceQuantized)));
    data.samples.clear();
    assert!(matches!(compared(&a, &int8, &data), Err(CompareError::NoSamples)));
}

//! Weights of 8 to 4 bits in groups, f16 and bf16 weights: from the graph through the file to the results of every
//! instruction set, beside sums in f64.

mod common;

use common::{GroupedLayer, LayerKind, Random};
use half::{bf16, f16};
use whit::format::Layout;
use whit::kernels::conv_f32::grouped::GroupedBits::{W4, W4Nl, W5, W6, W8};
use whit::{DType, Isa, Model, Options, Precision, Session};
use whit_convert::emit::emit;
use whit_convert::evaluate::AlignedBytes;
use whit_convert::graph::{Graph, Groups};
use whit_convert::plan::{PlanOptions, plan};
use whit_convert::quantize::calibrate::Ranges;
use whit_convert::quantize::numbers::Numbers;
use whit_convert::quantize::quantization::Quantization;
use whit_convert::tensor::Tensor;

const CONV: LayerKind = LayerKind::Conv {
    size: [5, 6],
    kernel: [3, 3],
    stride: [1, 1],
    dilation: [1, 1],
    pad: [1, 1],
    groups: 1,
};

fn layers() -> Vec<GroupedLayer> {
    let layer = |kind, rows, in_c, out_c, bits, size| GroupedLayer {
        kind,
        rows,
        in_c,
        out_c,
        bits,
        size,
        bias: true,
        residual: false,
        relu: false,
    };
    let conv = |size, kernel, stride, dilation, pad, groups| LayerKind::Conv {
        size,
        kernel,
        stride,
        dilation,
        pad,
        groups,
    };
    let mut layers = vec![
        // K of 45: a short last group, and a part of a word.
        layer(CONV, 1, 5, 18, W8, 32),
        layer(CONV, 2, 5, 18, W4, 32),
        layer(CONV, 1, 3, 7, W4, 128),
        layer(conv([8, 9], [3, 2], [2, 3], [2, 1], [0, 1], 1), 1, 20, 33, W4, 64),
        layer(conv([6, 6], [3, 3], [1, 1], [1, 1], [1, 1], 2), 1, 12, 10, W4, 32),
        layer(conv([4, 4], [1, 1], [1, 1], [1, 1], [0, 0], 1), 1, 70, 40, W8, 64),
        layer(conv([1, 2], [1, 1], [1, 1], [1, 1], [0, 0], 1), 1, 130, 40, W4, 64),
        layer(conv([6, 6], [3, 3], [1, 1], [1, 1], [1, 1], 2), 1, 12, 10, W5, 32),
        layer(CONV, 2, 5, 18, W6, 16),
        layer(CONV, 1, 5, 18, W4Nl, 32),
        layer(conv([4, 4], [1, 1], [1, 1], [1, 1], [0, 0], 1), 1, 70, 40, W4Nl, 64),
    ];
    for (rows, k, n) in
        [(1, 1, 1), (1, 31, 16), (1, 200, 50), (2, 129, 17), (5, 64, 32), (60, 390, 20)]
    {
        for (bits, size) in [
            (W8, 32),
            (W8, 128),
            (W4, 32),
            (W4, 64),
            (W5, 32),
            (W6, 16),
            (W6, 64),
            (W4Nl, 32),
            (W4Nl, 128),
        ] {
            for transpose_b in [false, true] {
                layers.push(layer(LayerKind::MatMul { transpose_b }, rows, k, n, bits, size));
            }
        }
    }
    for (index, layer) in layers.iter_mut().enumerate() {
        layer.bias = index % 3 != 0;
        layer.residual = index % 4 == 1;
        layer.relu = index % 5 == 2;
    }
    layers
}

fn file(graph: &Graph) -> Vec<u8> {
    emit(&plan(graph, &PlanOptions::default()).unwrap_or_else(|e| panic!("{e}")), &[])
}

/// The output on an instruction set.
fn run(file: &[u8], inputs: &[Vec<f32>], options: Options) -> Vec<f32> {
    let bytes = AlignedBytes::new(file);
    let model = Model::open(bytes.as_slice()).unwrap();
    let mut session = Session::new(model, options).unwrap();
    for (index, input) in inputs.iter().enumerate() {
        session.set_input_f32(index, input).unwrap();
    }
    session.run().unwrap();
    let bytes = session.output_bytes(0).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Compares a graph's results with the sums of products of inputs, which are real before they are rounded, with `weights`, OHWI.
fn check(
    name: &str,
    layer: &GroupedLayer,
    graph: &Graph,
    weights: &[f64],
    round: fn(f32) -> f32,
    seed: u64,
) {
    let mut random = Random::new(seed);
    let inputs: Vec<Vec<f32>> = graph
        .inputs
        .iter()
        .map(|id| {
            let len = graph.value(*id).const_shape().unwrap().iter().product();
            (0..len).map(|_| random.real()).collect()
        })
        .collect();
    let mut rounded = inputs.clone();
    rounded[0].iter_mut().for_each(|x| *x = round(*x));
    let expected = layer.expected(graph, weights, &rounded);
    let largest = f64::from(inputs[0].iter().fold(0.0f32, |most, x| most.max(x.abs())));
    let file = file(graph);
    let precisions = [(Precision::High, 1), (Precision::Highest, 1), (Precision::Highest, 3)];
    let ways = Isa::available().flat_map(|isa| precisions.map(|way| (isa, way)));
    for (isa, (precision, threads)) in ways {
        let options = Options { isa: Some(isa), threads, precision, ..Options::default() };
        let output = run(&file, &inputs, options);
        assert_eq!(output.len(), expected.len(), "{name}");
        for (index, (got, (want, size))) in output.iter().zip(&expected).enumerate() {
            // γ(K + 3) of the kernels' documentation: at most K + 3 roundings touch a term.
            let unit = (layer.k() + 3) as f64 * f64::from(f32::EPSILON) / 2.0;
            // Rows may be rounded to 16 bits, by the largest input of a group.
            let row = &weights[index % layer.out_c * layer.k()..][..layer.k()];
            let rounded = match precision {
                Precision::High => largest / 65_000.0 * row.iter().map(|w| w.abs()).sum::<f64>(),
                _ => 0.0,
            };
            let tolerance = unit / (1.0 - unit) * size + rounded;
            let error = (f64::from(*got) - want).abs();
            assert!(
                error <= tolerance,
                "{name} on {isa}, {precision:?}, {index}: {got}, not {want} ± {tolerance}"
            );
        }
    }
}

#[test]
fn layers_compute_what_their_weights_say() {
    for (index, layer) in layers().into_iter().enumerate() {
        let seed = index as u64;
        let (graph, weights) = layer.graph(&mut Random::new(1000 + seed));
        check(&format!("{layer:?}"), &layer, &graph, &weights, |x| x, seed);
    }
}

#[test]
fn rounded_layers_compute_what_their_weights_say() {
    // Of a step, the widest there is: half of it is the largest error within the limits.
    for (bits, layout, widest) in [
        (W8, Layout::GroupedW8, 1.0),
        (W6, Layout::GroupedW6, 1.0),
        (W5, Layout::GroupedW5, 1.0),
        (W4Nl, Layout::GroupedW4Nl, 24.0),
        (W4, Layout::GroupedW4, 1.0),
    ] {
        for size in [32, 64, 128] {
            let layer = GroupedLayer {
                kind: LayerKind::MatMul { transpose_b: true },
                rows: 3,
                in_c: 200,
                out_c: 20,
                bits,
                size,
                bias: true,
                residual: false,
                relu: false,
            };
            let name = format!("{layer:?}");
            let (mut graph, _) = layer.graph(&mut Random::new(5));
            let mut random = Random::new(6);
            let reals: Vec<f32> = (0..20 * 200).map(|_| random.real()).collect();
            let constant = graph.add_constant("reals", Tensor::from_f32([20, 200], &reals));
            graph.nodes[0].inputs[1] = Some(constant);
            let numbers = Numbers::Grouped { bits, group: size };
            let quantization = Quantization::new(graph, &[numbers], &Ranges::new());
            let rounded = &quantization.weights[&0];
            let weights = rounded.to_f32();
            let within = (0..reals.len())
                .filter(|at| {
                    let away = (reals[*at] - weights[*at]).abs();
                    away <= rounded.scale_of()(*at).abs() * widest * 0.5 * 1.0001
                })
                .count();
            assert!(within > reals.len() * 8 / 10, "{name}: {within} of {}", reals.len());
            let graph = quantization.lowered();
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            check(&name, &layer, &graph, &weights, |x| x, 7);
            let file = file(&graph);
            let aligned = AlignedBytes::new(&file);
            let model = Model::open(aligned.as_slice()).unwrap();
            let packed: Vec<_> = model.tensors().filter(|tensor| tensor.layout != 0).collect();
            assert_eq!(packed.len(), 1, "{name}");
            assert_eq!(packed[0].layout, layout as u8, "{name}");
            assert_eq!(packed[0].group_size as usize, size, "{name}");
        }
    }
}

#[test]
fn files_are_as_small_as_their_weights() {
    let layer = GroupedLayer {
        kind: LayerKind::MatMul { transpose_b: true },
        rows: 1,
        in_c: 256,
        out_c: 32,
        bits: W4,
        size: 32,
        bias: false,
        residual: false,
        relu: false,
    };
    for (bits, size, bytes, layout) in [
        (W4, 32, 4608, Layout::GroupedW4),
        (W4, 128, 4224, Layout::GroupedW4),
        (W8, 32, 8704, Layout::GroupedW8),
        (W8, 64, 8448, Layout::GroupedW8),
        // Nibbles, fifth bits, scales.
        (W5, 32, 4096 + 1024 + 512, Layout::GroupedW5),
        // No layout has 5 bits in groups of 16, but one has 6.
        (W5, 16, 4096 + 2048 + 1024, Layout::GroupedW6),
        // Nibbles, two bits each, scales, factors.
        (W6, 16, 4096 + 2048 + 512 + 64, Layout::GroupedW6Narrow),
        (W6, 32, 4096 + 2048 + 512, Layout::GroupedW6),
        (W4Nl, 32, 4608, Layout::GroupedW4Nl),
        (W4Nl, 128, 4224, Layout::GroupedW4Nl),
    ] {
        let layer = GroupedLayer { bits, size, ..layer.clone() };
        let (graph, _) = layer.graph(&mut Random::new(1));
        let file = file(&graph);
        let aligned = AlignedBytes::new(&file);
        let model = Model::open(aligned.as_slice()).unwrap();
        let packed: Vec<_> = model.tensors().filter(|tensor| tensor.layout != 0).collect();
        let dtype = if layout == Layout::GroupedW8 { DType::I8 } else { DType::U8 };
        assert_eq!(packed.len(), 1);
        assert_eq!((packed[0].layout, packed[0].dtype), (layout as u8, dtype as u8));
        assert_eq!((packed[0].group_size as usize, packed[0].bytes), (size, bytes));
    }
}

#[test]
fn f16_and_bf16_weights_are_a_matter_of_each_node() {
    struct Half {
        dtype: DType,
        store: fn(f64) -> [u8; 2],
        load: fn([u8; 2]) -> f64,
        /// What becomes of inputs.
        round: fn(f32) -> f32,
    }
    let types = [
        Half {
            dtype: DType::F16,
            store: |w| f16::from_f64(w).to_le_bytes(),
            load: |bytes| f16::from_le_bytes(bytes).to_f64(),
            round: |x| x,
        },
        Half {
            dtype: DType::BF16,
            store: |w| bf16::from_f64(w).to_le_bytes(),
            load: |bytes| bf16::from_le_bytes(bytes).to_f64(),
            round: |x| bf16::from_f32(x).to_f32(),
        },
    ];
    let mut tried = [0; 2];
    for layer in layers() {
        for (at, Half { dtype, store, load, round }) in types.iter().enumerate() {
            let groups = match layer.kind {
                LayerKind::Conv { groups, .. } => groups,
                _ => 1,
            };
            // Weights in bf16 come in pairs.
            if at == 1 && !(layer.in_c / groups).is_multiple_of(2) {
                continue;
            }
            tried[at] += 1;
            let (mut graph, weights) = layer.graph(&mut Random::new(9));
            let id = graph.nodes[0].inputs[1].unwrap();
            let shape = graph.constant(id).unwrap().shape.clone();
            let halves: Vec<[u8; 2]> = weights.iter().map(|w| store(w / 3.0)).collect();
            let stored = |i: usize| match layer.kind {
                LayerKind::MatMul { transpose_b: false } => {
                    halves[i % layer.out_c * layer.in_c + i / layer.out_c]
                }
                _ => halves[i],
            };
            let data: Vec<u8> = (0..halves.len()).flat_map(stored).collect();
            let constant = Tensor { dtype: *dtype, shape, data: data.into() };
            graph.nodes[0].inputs[1] = Some(graph.add_constant("halves", constant));
            let reals: Vec<f64> = halves.iter().map(|half| load(*half)).collect();
            check(&format!("{dtype} {layer:?}"), &layer, &graph, &reals, *round, 77);
            let file = file(&graph);
            let aligned = AlignedBytes::new(&file);
            let model = Model::open(aligned.as_slice()).unwrap();
            let packed: Vec<_> = model.tensors().filter(|tensor| tensor.layout != 0).collect();
            assert_eq!((packed.len(), packed[0].dtype), (1, *dtype as u8));
        }
    }
    assert!(tried[0] > 40 && tried[1] > 20, "{tried:?}");
}

#[test]
fn what_no_kernel_reads_is_refused_by_name() {
    struct Case {
        what: &'static str,
        says: &'static str,
        change: fn(&mut Graph),
    }
    fn groups(graph: &mut Graph) -> &mut Groups {
        let id = graph.nodes[0].inputs[1].unwrap();
        graph.value_mut(id).groups.as_mut().unwrap()
    }
    let cases = [
        Case { what: "size", says: "groups of 48", change: |graph| groups(graph).size = 48 },
        Case {
            what: "scales",
            says: "scales for",
            change: |graph| {
                groups(graph).scale.pop();
            },
        },
        Case { what: "axis", says: "axis 3", change: |graph| groups(graph).axis = 3 },
        Case {
            what: "an infinite scale",
            says: "infinite",
            change: |graph| groups(graph).scale[0] = f32::INFINITY,
        },
        Case { what: "range", says: "none of w4", change: |graph| groups(graph).bits = W4 },
        Case { what: "table", says: "none of w4nl", change: |graph| groups(graph).bits = W4Nl },
        Case {
            what: "activations",
            says: "f32 activations",
            change: |graph| {
                let x = graph.inputs[0];
                graph.value_mut(x).dtype = DType::I8;
            },
        },
        Case {
            what: "another operand",
            says: "only constant weights",
            change: |graph| {
                let weights = graph.nodes[0].inputs[1].unwrap();
                let x = graph.inputs[0];
                let groups = graph.value(weights).groups.clone();
                graph.value_mut(x).groups = groups;
            },
        },
    ];
    let layer = GroupedLayer {
        kind: CONV,
        rows: 1,
        in_c: 5,
        out_c: 18,
        bits: W8,
        size: 32,
        bias: true,
        residual: false,
        relu: false,
    };
    for Case { what, says, change } in cases {
        let (mut graph, _) = layer.graph(&mut Random::new(3));
        change(&mut graph);
        let error = plan(&graph, &PlanOptions::default()).expect_err(what).to_string();
        assert!(error.contains("layer") && error.contains(says), "{what}: {error}");
    }
    let depthwise = GroupedLayer {
        kind: LayerKind::Conv {
            size: [5, 6],
            kernel: [3, 3],
            stride: [1, 1],
            dilation: [1, 1],
            pad: [1, 1],
            groups: 8,
        },
        in_c: 8,
        out_c: 8,
        ..layer
    };
    let (graph, _) = depthwise.graph(&mut Random::new(3));
    let error = plan(&graph, &PlanOptions::default()).expect_err("depthwise").to_string();
    assert!(error.contains("layer") && error.contains("depthwise"), "{error}");
}

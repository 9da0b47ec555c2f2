//! Layers against results of ONNX Runtime, and what a hostile file can ask for.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Op, RecurrentAttributes, RecurrentFunction as F};
use crate::isa::Isa;
use crate::ops::testing::{Case, Random, Tensor, Typed, assert_close, shape, tensor};

/// Functions within a few units in the last place, over three time steps.
const TOLERANCE: f32 = 2e-6;

/// Time steps, sequences, size of the input, size of the state.
const SIZES: [usize; 4] = [3, 2, 2, 2];

/// A layer of [`SIZES`]. Element i of operand number n is `sin(n + 1.3 i)` times its scale.
struct Layer {
    op: Op,
    backwards: &'static [bool],
    variant: bool,
    clip: f32,
    functions: &'static [(F, f32, f32)],
    /// Optional operands: b(ias), l(engths 2 and 3), h (initial state), c(ell), p(eepholes).
    given: &'static str,
    every: &'static [f32],
    last: &'static [f32],
    last_cell: &'static [f32],
}

/// Results of ONNX Runtime 1.31.
#[rustfmt::skip]
fn layers() -> Vec<Layer> {
    vec![
        Layer {
            op: Op::Lstm,
            backwards: &[false, true],
            variant: false,
            clip: f32::INFINITY,
            functions: &[(F::Sigmoid, 0.0, 0.0), (F::Tanh, 0.0, 0.0), (F::Tanh, 0.0, 0.0), (F::Sigmoid, 0.0, 0.0), (F::Tanh, 0.0, 0.0), (F::Tanh, 0.0, 0.0)],
            given: "lhcp",
            every: &[-0.2278866, 0.14964534, 0.110724315, -0.24702887, 0.048203737, -0.1696702, -0.18971649, 0.09702877, -0.08396566, 0.07984292, -0.1476716, -0.078775726, -0.059388258, -0.07858017, 0.20537822, 0.0058323033, 0.0, 0.0, -0.35679838, 0.045090184, 0.0, 0.0, 0.16481091, -0.17222442],
            last: &[-0.08396566, 0.07984292, -0.35679838, 0.045090184, 0.048203737, -0.1696702, -0.18971649, 0.09702877],
            last_cell: &[-0.14258261, 0.24446768, -0.56899893, 0.1207586, 0.112746276, -0.41133824, -0.3046136, 0.20556107],
        },
        Layer {
            op: Op::Lstm,
            backwards: &[true],
            variant: true,
            clip: 0.4,
            functions: &[(F::HardSigmoid, 0.3, 0.4), (F::Softsign, 0.0, 0.0), (F::Relu, 0.0, 0.0)],
            given: "b",
            every: &[0.0, 0.008408626, 0.0, 0.0, 0.0, 0.0, 0.0, 0.038866222, 0.022400001, 0.0, 0.0, 0.022400001],
            last: &[0.0, 0.008408626, 0.0, 0.0],
            last_cell: &[-0.1502253, 0.030030806, -0.12507474, -0.11269492],
        },
        Layer {
            op: Op::Lstm,
            backwards: &[false],
            variant: false,
            clip: f32::INFINITY,
            functions: &[(F::Sigmoid, 0.0, 0.0), (F::ScaledTanh, 1.5, 0.5), (F::LeakyRelu, 0.2, 0.0)],
            given: "bh",
            every: &[-0.042661022, 0.046107683, 0.010855816, -0.036028106, -0.034396496, 0.025974572, -0.030289192, -0.01922891, -0.0044548255, -0.03971327, -0.089548275, 0.015792089],
            last: &[-0.0044548255, -0.03971327, -0.089548275, 0.015792089],
            last_cell: &[-0.0680811, -0.34215572, -0.67781687, 0.040127337],
        },
        Layer {
            op: Op::Gru,
            backwards: &[false, true],
            variant: false,
            clip: f32::INFINITY,
            functions: &[(F::Sigmoid, 0.0, 0.0), (F::Tanh, 0.0, 0.0), (F::Sigmoid, 0.0, 0.0), (F::Tanh, 0.0, 0.0)],
            given: "lhb",
            every: &[-0.2421317, -0.15521783, -0.2261706, 0.0009261966, -0.19442296, 0.028344957, 0.33714938, 0.32076356, 0.106903896, -0.43881994, -0.44706184, 0.10680533, -0.31096154, -0.03567575, 0.24085943, 0.22818702, 0.0, 0.0, -0.3372332, 2.0187348e-05, 0.0, 0.0, 0.002777364, 0.42848247],
            last: &[0.106903896, -0.43881994, -0.3372332, 2.0187348e-05, -0.19442296, 0.028344957, 0.33714938, 0.32076356],
            last_cell: &[],
        },
        Layer {
            op: Op::Gru,
            backwards: &[true],
            variant: true,
            clip: f32::INFINITY,
            functions: &[(F::Sigmoid, 0.0, 0.0), (F::Affine, 0.7, 0.1)],
            given: "bl",
            every: &[0.3018627, -0.069852695, -0.296761, 0.08193153, 0.31509688, -0.26070938, -0.13270877, 0.16229671, 0.0, 0.0, 0.043587737, 0.07715725],
            last: &[0.3018627, -0.069852695, -0.296761, 0.08193153],
            last_cell: &[],
        },
        Layer {
            op: Op::Gru,
            backwards: &[false],
            variant: true,
            clip: 0.5,
            functions: &[(F::Sigmoid, 0.0, 0.0), (F::Elu, 0.6, 0.0)],
            given: "h",
            every: &[-0.19454782, 0.09331292, 0.06962447, 0.16295822, 0.19918385, -0.07228565, -0.04671718, 0.35142022, 0.22894976, -0.13412529, 0.08662403, 0.2796806],
            last: &[0.22894976, -0.13412529, 0.08662403, 0.2796806],
            last_cell: &[],
        },
        Layer {
            op: Op::Rnn,
            backwards: &[false, true],
            variant: false,
            clip: f32::INFINITY,
            functions: &[(F::Softplus, 0.0, 0.0), (F::ThresholdedRelu, 0.1, 0.0)],
            given: "bhl",
            every: &[0.86829513, 0.43892708, 0.48918444, 1.0164057, 0.99601936, 0.0, 0.0, 0.46134552, 0.4606115, 0.5130598, 0.54634076, 0.6907894, 0.16819696, 0.0, 0.43168512, 0.0, 0.0, 0.0, 0.7403811, 0.36727437, 0.0, 0.0, 0.7982896, 0.0],
            last: &[0.4606115, 0.5130598, 0.7403811, 0.36727437, 0.99601936, 0.0, 0.0, 0.46134552],
            last_cell: &[],
        },
        Layer {
            op: Op::Rnn,
            backwards: &[false],
            variant: false,
            clip: f32::INFINITY,
            functions: &[(F::Tanh, 0.0, 0.0)],
            given: "",
            every: &[0.47616458, -0.712366, -0.19537944, 0.56872475, 0.3774295, -0.6553522, 0.065384746, 0.08362961, -0.16120976, 0.19458723, 0.54877377, -0.7165277],
            last: &[-0.16120976, 0.19458723, 0.54877377, -0.7165277],
            last_cell: &[],
        },
    ]
}

fn values(number: usize, count: usize, scale: f64) -> Vec<f32> {
    (0..count).map(|i| ((number as f64 + 1.3 * i as f64).sin() * scale) as f32).collect()
}

fn gates_of(op: Op) -> usize {
    match op {
        Op::Lstm => 4,
        Op::Gru => 3,
        _ => 1,
    }
}

/// The operands as the operator takes them, from those of the ONNX operator.
fn inputs(layer: &Layer) -> Vec<Option<Tensor>> {
    let [time, batch, size, hidden] = SIZES;
    let directions = layer.backwards.len();
    let rows = gates_of(layer.op) * hidden;
    let x = values(1, time * batch * size, 1.0);
    let w = values(2, directions * rows * size, 0.8);
    let r = values(3, directions * rows * hidden, 0.8);
    let given = |letter: char| layer.given.contains(letter);
    let bias_scale = if given('b') { 0.3 } else { 0.0 };
    let bias = values(4, directions * 2 * rows, bias_scale);
    let inside = layer.op == Op::Gru && layer.variant;

    let mut gates = vec![];
    for at in 0..time * batch {
        for d in 0..directions {
            for row in 0..rows {
                let mut sum = f64::from(bias[d * 2 * rows + row]);
                if !(inside && row >= 2 * hidden) {
                    sum += f64::from(bias[d * 2 * rows + rows + row]);
                }
                for i in 0..size {
                    sum += f64::from(x[at * size + i]) * f64::from(w[(d * rows + row) * size + i]);
                }
                gates.push(sum as f32);
            }
        }
    }
    // Rows `from..to` of every direction's recurrent weights, transposed.
    let transposed = |from: usize, to: usize| -> Vec<f32> {
        let mut out = vec![];
        for d in 0..directions {
            for k in 0..hidden {
                out.extend((from..to).map(|row| r[(d * rows + row) * hidden + k]));
            }
        }
        out
    };
    let (d, b, h) = (directions as u32, batch as u32, hidden as u32);
    let state =
        |number, scale| tensor(&[d, b, h], &values(number, directions * batch * hidden, scale));
    let read = if layer.op == Op::Gru { 2 * hidden } else { rows };
    let mut inputs = vec![
        Some(tensor(&[time as u32, b, d * rows as u32], &gates)),
        Some(tensor(&[d, h, read as u32], &transposed(0, read))),
        given('l').then(|| tensor(&[b], &[2i32, 3])),
        given('h').then(|| state(5, 0.5)),
    ];
    match layer.op {
        Op::Lstm => {
            inputs.push(given('c').then(|| state(6, 0.5)));
            let peepholes = values(7, directions * 3 * hidden, 0.4);
            inputs.push(given('p').then(|| tensor(&[d, 3 * h], &peepholes)));
        }
        Op::Gru => {
            inputs.push(Some(tensor(&[d, h, h], &transposed(read, rows))));
            let mut inner = vec![];
            for d in 0..directions {
                inner.extend_from_slice(&bias[d * 2 * rows + rows + read..(d + 1) * 2 * rows]);
            }
            inputs.push(inside.then(|| tensor(&[d, h], &inner)));
        }
        _ => {}
    }
    inputs
}

fn attributes(layer: &Layer) -> RecurrentAttributes {
    let mut attributes = RecurrentAttributes {
        directions: layer.backwards.len() as u32,
        variant: u32::from(layer.variant),
        clip: layer.clip,
        ..RecurrentAttributes::default()
    };
    let per_direction = layer.functions.len() / layer.backwards.len();
    for (d, backwards) in layer.backwards.iter().enumerate() {
        attributes.backwards |= u32::from(*backwards) << d;
        for index in 0..per_direction {
            let (function, alpha, beta) = layer.functions[d * per_direction + index];
            let at = 3 * d + index;
            attributes.functions[at] = function as u32;
            (attributes.alpha[at], attributes.beta[at]) = (alpha, beta);
        }
    }
    attributes
}

fn case(layer: &Layer) -> Case {
    let [time, batch, _, hidden] = SIZES.map(|size| size as u32);
    let d = layer.backwards.len() as u32;
    let every = shape(DType::F32, &[time, d, batch, hidden]);
    let mut case = Case::new(layer.op, Some(DType::F32), attributes(layer), &[], every);
    case.inputs = inputs(layer);
    let last = Some(shape(DType::F32, &[d, batch, hidden]));
    case.with_outputs(&vec![last; if layer.op == Op::Lstm { 2 } else { 1 }])
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(f32::from_bytes).collect()
}

#[test]
fn results_are_those_of_onnx_runtime() {
    for layer in layers() {
        for isa in Isa::available() {
            let outputs = case(&layer).run_outputs(Some(isa)).unwrap();
            let wanted = [layer.every, layer.last, layer.last_cell];
            for (got, want) in outputs.iter().zip(wanted) {
                assert_close(&floats(got), want, TOLERANCE);
            }
        }
    }
}

#[test]
fn any_output_may_be_absent() {
    for layer in layers() {
        let all = case(&layer).run_outputs(None).unwrap();
        let only_every = Case { more_outputs: vec![], ..case(&layer) };
        assert_eq!(only_every.run_outputs(None).unwrap(), all[..1]);
        let mut without_last = case(&layer);
        without_last.more_outputs[0] = None;
        let got = without_last.run_outputs(None).unwrap();
        assert_eq!(got, [&all[..1], &all[2..]].concat());
    }
}

/// Sizes at which the product changes its path, against a plain loop in f64.
#[test]
fn larger_sizes() {
    let mut random = Random(31);
    for (time, batch, hidden) in [(1, 1, 1), (3, 1, 17), (2, 3, 40), (4, 5, 33), (2, 16, 64)] {
        let (t, b, h) = (time as u32, batch as u32, hidden as u32);
        let gates = random.f32s(time * batch * hidden);
        let weights: Vec<f32> =
            random.f32s(hidden * hidden).iter().map(|w| w / hidden as f32).collect();
        let lengths: Vec<i32> = (0..batch).map(|_| random.below(t + 2) as i32 - 1).collect();
        let mut want = vec![0.0f32; time * batch * hidden];
        for row in 0..batch {
            let mut state = vec![0.0f64; hidden];
            let length = lengths[row].clamp(0, t as i32) as usize;
            for at in (0..length).rev() {
                let start = (at * batch + row) * hidden;
                let next = (0..hidden).map(|j| {
                    let sum: f64 =
                        (0..hidden).map(|k| state[k] * f64::from(weights[k * hidden + j])).sum();
                    (f64::from(gates[start + j]) + sum).tanh()
                });
                state = next.collect();
                for j in 0..hidden {
                    want[start + j] = state[j] as f32;
                }
            }
        }
        let attributes = RecurrentAttributes {
            directions: 1,
            backwards: 1,
            clip: f32::INFINITY,
            functions: [F::Tanh as u32, 0, 0, 0, 0, 0],
            ..RecurrentAttributes::default()
        };
        let inputs =
            [tensor(&[t, b, h], &gates), tensor(&[1, h, h], &weights), tensor(&[b], &lengths)];
        let y = shape(DType::F32, &[t, 1, b, h]);
        let case = Case::new(Op::Rnn, Some(DType::F32), attributes, &inputs, y);
        for isa in Isa::available() {
            assert_close(&floats(&case.run_on(Some(isa)).unwrap()), &want, 1e-5);
        }
    }
}

#[test]
fn no_time_and_no_sequences() {
    let layers = layers();
    let layer = layers.last().unwrap();
    let plain = |t: u32, b: u32| {
        let count = (t * b * 2) as usize;
        let inputs = [tensor(&[t, b, 2], &vec![0.5f32; count]), tensor(&[1, 2, 2], &[0.0f32; 4])];
        let y = shape(DType::F32, &[t, 1, b, 2]);
        let last = shape(DType::F32, &[1, b, 2]);
        Case::new(Op::Rnn, Some(DType::F32), attributes(layer), &inputs, y)
            .with_outputs(&[Some(last)])
            .run_outputs(None)
            .unwrap()
    };
    assert_eq!(plain(0, 2), [vec![], vec![0; 16]]);
    assert_eq!(plain(1 << 30, 0), [vec![], vec![]]);
}

#[test]
fn hostile_steps_are_refused() {
    let layers = layers();
    let with = |index: usize, change: &dyn Fn(&mut Case)| {
        let mut case = case(&layers[index]);
        change(&mut case);
        case
    };
    let with_attributes = |index: usize, change: &dyn Fn(&mut RecurrentAttributes)| {
        let mut record = attributes(&layers[index]);
        change(&mut record);
        with(index, &|case| case.attributes = crate::ops::testing::bytes_of(record))
    };
    let state = |dims: &[u32]| {
        let count = dims.iter().product::<u32>() as usize;
        Some(tensor(dims, &vec![0.0f32; count]))
    };
    let refused = [
        with_attributes(0, &|a| a.directions = 0),
        with_attributes(0, &|a| a.directions = 1),
        with_attributes(0, &|a| a.directions = 3),
        with_attributes(0, &|a| a.backwards = 4),
        with_attributes(0, &|a| a.variant = 2),
        with_attributes(0, &|a| a.functions[5] = 0),
        with_attributes(0, &|a| a.functions[2] = 12),
        with(0, &|c| c.attributes.truncate(92)),
        with(0, &|c| c.inputs.push(None)),
        with(0, &|c| c.inputs.truncate(1)),
        with(0, &|c| c.inputs[1] = None),
        with(0, &|c| c.inputs[2] = Some(tensor(&[2], &[1i64, 2]))),
        with(0, &|c| c.inputs[2] = Some(tensor(&[3], &[1i32; 3]))),
        with(0, &|c| c.inputs[3] = state(&[2, 2, 3])),
        with(0, &|c| c.inputs[3] = state(&[2, 4])),
        with(0, &|c| c.inputs[4] = state(&[1, 2, 2])),
        with(0, &|c| c.inputs[5] = state(&[2, 8])),
        with(0, &|c| c.inputs[1] = state(&[2, 2, 6])),
        with(0, &|c| c.inputs[1] = state(&[2, 0, 0])),
        with(3, &|c| c.inputs[4] = None),
        with(3, &|c| c.inputs[4] = state(&[2, 2, 4])),
        with(4, &|c| c.inputs[5] = state(&[2])),
        with(0, &|c| c.output = shape(DType::F32, &[3, 2, 2, 4])),
        with(0, &|c| c.output = shape(DType::I32, &[3, 2, 2, 2])),
        with(0, &|c| c.more_outputs[1] = Some(shape(DType::F32, &[2, 2]))),
        with(7, &|c| c.more_outputs.push(None)),
        with(7, &|c| c.shared = Some((0, 0))),
    ];
    for (index, case) in refused.iter().enumerate() {
        let result = case.run_outputs(None);
        let refused = matches!(result, Err(crate::SessionError::Step { .. }));
        assert!(refused, "{index}: {result:?}");
    }
    assert!(matches!(
        with_attributes(0, &|a| a.functions[2] = 12).run_outputs(None),
        Err(crate::SessionError::Step { kind: StepErrorKind::Attribute("function"), .. })
    ));
}

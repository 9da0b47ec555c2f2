//! Convolutions, pools, normalisations, resizes and transforms: what they compute, against loops that
//! follow the definitions, and what is refused.

use whit::format::Op as StepOp;

use super::*;
use crate::evaluate::{Program, constants};
use crate::passes;
use crate::plan::PlanOptions;

/// f32 sums of up to a few hundred products of numbers below 2, relative to the largest result.
const MAX_ERR: f64 = 1e-5;

/// Reproducible numbers: xorshift32.
struct Random(u32);

impl Random {
    fn below(&mut self, limit: u32) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 % limit) as usize
    }

    /// Between −2 and 2.
    fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.below(4096) as f32 / 1024.0 - 2.0).collect()
    }
}

fn text(dims: &[usize]) -> Vec<String> {
    dims.iter().map(usize::to_string).collect()
}

/// An f32 operand: a name, a shape and values.
type Operand<'a> = (&'a str, &'a [usize], &'a [f32]);

struct Outcome {
    /// Steps of the program, in order.
    steps: Vec<StepOp>,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// Imports, rewrites, plans and runs one node. The first `fed` operands are inputs, the others
/// constants.
fn run(opset: i64, operands: &[Operand<'_>], fed: usize, more: Vec<T>, node: N) -> Outcome {
    let inputs = operands[..fed].iter().map(|(name, dims, _)| {
        let dims = text(dims);
        input(name, &dims.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let mut made: Vec<T> = operands[fed..]
        .iter()
        .map(|(name, dims, values)| {
            let dims: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
            T::f32(name, &dims, values)
        })
        .collect();
    made.extend(more);
    let label = format!("{:?} {:?}", node.op_type, node.attribute);
    let model = model(opset, inputs.collect(), made, vec![node]);
    let mut graph = import(&model, &ImportOptions::default())
        .unwrap_or_else(|error| panic!("{label}: {error}"));
    passes::check(&graph).unwrap_or_else(|error| panic!("{label}: {error}"));
    while {
        passes::run_all(&mut graph, &[], &mut |_, _| ());
        passes::fold_with(&mut graph, &constants)
    } {}
    let program = Program::new(&graph, &PlanOptions::default())
        .unwrap_or_else(|error| panic!("{label}: {error}"));
    let mut session = program.session(None).unwrap_or_else(|error| panic!("{label}: {error}"));
    for (index, (_, _, values)) in operands[..fed].iter().enumerate() {
        session.set_input_f32(index, values).expect("input");
    }
    session.run().unwrap_or_else(|error| panic!("{label}: {error}"));
    let slot = session.output_slot(0).expect("output");
    let shape = slot.dims().iter().map(|d| *d as usize).collect();
    let bytes = session.output_bytes(0).expect("output");
    let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Outcome {
        steps: program.plan.steps.iter().map(|step| step.op).collect(),
        shape,
        values: values.collect(),
    }
}

#[track_caller]
fn assert_near(name: &str, got: &Outcome, shape: &[usize], want: &[f64]) {
    assert_eq!(got.shape, shape, "{name}");
    let largest = want.iter().fold(1.0f64, |max, v| max.max(v.abs()));
    for (at, (g, w)) in got.values.iter().zip(want).enumerate() {
        let close = (f64::from(*g) - w).abs() <= MAX_ERR * largest;
        assert!(close, "{name}: element {at}: {g} instead of {w}");
    }
}

/// Every index of a shape, in row-major order.
fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for size in shape {
        all = all
            .iter()
            .flat_map(|head: &Vec<usize>| (0..*size).map(move |i| [head.as_slice(), &[i]].concat()))
            .collect();
    }
    all
}

fn at(shape: &[usize], index: &[usize]) -> usize {
    index.iter().zip(shape).fold(0, |flat, (i, size)| flat * size + i)
}

/// Scatters `x * w` over a canvas that holds everything, then cuts the result out of it.
fn scattered(
    (x_shape, x): (&[usize], &[f32]),
    (w_shape, w): (&[usize], &[f32]),
    groups: usize,
    [stride, dilation, before, size]: [&[usize]; 4],
) -> Vec<f64> {
    let rank = stride.len();
    let (in_group, out_group) = (x_shape[1] / groups, w_shape[1]);
    let mut canvas = vec![x_shape[0], out_group * groups];
    for axis in 0..rank {
        let reach =
            (x_shape[axis + 2] - 1) * stride[axis] + (w_shape[axis + 2] - 1) * dilation[axis] + 1;
        canvas.push(reach.max(before[axis] + size[axis]));
    }
    let mut full = vec![0.0; canvas.iter().product()];
    for from in indices(x_shape) {
        for tap in indices(w_shape) {
            if tap[0] != from[1] {
                continue;
            }
            let mut to = vec![from[0], from[1] / in_group * out_group + tap[1]];
            to.extend((0..rank).map(|i| from[i + 2] * stride[i] + tap[i + 2] * dilation[i]));
            let product = f64::from(x[at(x_shape, &from)]) * f64::from(w[at(w_shape, &tap)]);
            full[at(&canvas, &to)] += product;
        }
    }
    let mut result = vec![canvas[0], canvas[1]];
    result.extend_from_slice(size);
    let cut = |index: &Vec<usize>| {
        let mut from = index.clone();
        (0..rank).for_each(|axis| from[axis + 2] += before[axis]);
        full[at(&canvas, &from)]
    };
    indices(&result).iter().map(cut).collect()
}

#[test]
fn transposed_convolution_is_a_scattered_sum() {
    let mut random = Random(9);
    for round in 0..60 {
        let rank = 1 + round % 3;
        let groups = 1 + random.below(3);
        let mut pick = |least: usize, most: u32| -> Vec<usize> {
            (0..rank).map(|_| least + random.below(most)).collect()
        };
        let (sizes, kernel, stride) = (pick(1, 4), pick(1, 4), pick(1, 3));
        let (dilation, extra, before, after) = (pick(1, 2), pick(0, 2), pick(0, 3), pick(0, 3));
        let (mut x_shape, mut w_shape) = (vec![1 + round % 2, 2 * groups], vec![2 * groups, 2]);
        x_shape.extend(&sizes);
        w_shape.extend(&kernel);
        let reach: Vec<usize> = (0..rank)
            .map(|i| (sizes[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 + extra[i])
            .collect();
        if (0..rank).any(|i| reach[i] <= before[i] + after[i]) {
            continue;
        }
        let size: Vec<usize> = (0..rank).map(|i| reach[i] - before[i] - after[i]).collect();
        let x = random.numbers(x_shape.iter().product());
        let w = random.numbers(w_shape.iter().product());
        let bias = random.numbers(2 * groups);
        let wide = |values: &[usize]| values.iter().map(|v| *v as i64).collect::<Vec<i64>>();
        let node = N::new("ConvTranspose", &["x", "w", "bias"], &["y"])
            .with(A::ints("strides", &wide(&stride)))
            .with(A::ints("dilations", &wide(&dilation)))
            .with(A::ints("output_padding", &wide(&extra)))
            .with(A::ints("pads", &wide(&[before.clone(), after].concat())))
            .with(A::int("group", groups as i64));
        let parameters = [stride.as_slice(), &dilation, &before, &size];
        let mut want = scattered((&x_shape, &x), (&w_shape, &w), groups, parameters);
        let mut shape = vec![x_shape[0], 2 * groups];
        shape.extend(&size);
        for (index, value) in indices(&shape).iter().zip(&mut want) {
            *value += f64::from(bias[index[1]]);
        }
        let operands: [Operand<'_>; 3] =
            [("x", &x_shape, &x), ("w", &w_shape, &w), ("bias", &[2 * groups], &bias)];
        for fed in [1, 3] {
            let name = format!("round {round}, {fed} inputs, {:?}", node.attribute);
            let got = run(11, &operands, fed, vec![], node.clone());
            assert_near(&name, &got, &shape, &want);
            // A product of one pixel is a fully connected layer.
            let packed = [StepOp::Conv2d, StepOp::DepthwiseConv2d, StepOp::FullyConnected];
            let is_packed = got.steps.iter().any(|op| packed.contains(op));
            assert_eq!(is_packed, fed == 1 && rank < 3, "{name}: {:?}", got.steps);
        }
    }
}

#[test]
fn convolution_with_given_or_computed_weights() {
    let mut random = Random(4);
    for rank in 1..=3 {
        let sizes: Vec<usize> = [5, 4, 6][..rank].to_vec();
        let (mut x_shape, mut w_shape) = (vec![2, 4], vec![6, 2]);
        x_shape.extend(&sizes);
        w_shape.extend([3, 2, 3][..rank].iter());
        let x = random.numbers(x_shape.iter().product());
        let w = random.numbers(w_shape.iter().product());
        let pads: Vec<i64> = (0..2 * rank as i64).map(|at| at % 2).collect();
        let node = N::new("Conv", &["x", "w"], &["y"])
            .with(A::int("group", 2))
            .with(A::ints("pads", &pads))
            .with(A::ints("strides", &vec![2; rank]));
        let mut shape = vec![2, 6];
        for axis in 0..rank {
            let padded = sizes[axis] + pads[axis] as usize + pads[rank + axis] as usize;
            shape.push((padded - w_shape[axis + 2]) / 2 + 1);
        }
        let value = |to: &Vec<usize>| {
            let mut sum = 0.0;
            for tap in indices(&w_shape[1..]) {
                let mut from = vec![to[0], to[1] / 3 * 2 + tap[0]];
                for axis in 0..rank {
                    let place = to[axis + 2] * 2 + tap[axis + 1];
                    from.push(place.wrapping_sub(pads[axis] as usize));
                }
                if (0..rank).all(|axis| from[axis + 2] < sizes[axis]) {
                    let weight = w[at(&w_shape, &[&[to[1]], tap.as_slice()].concat())];
                    sum += f64::from(x[at(&x_shape, &from)]) * f64::from(weight);
                }
            }
            sum
        };
        let want: Vec<f64> = indices(&shape).iter().map(value).collect();
        for fed in [1, 2] {
            let operands: [Operand<'_>; 2] = [("x", &x_shape, &x), ("w", &w_shape, &w)];
            let got = run(13, &operands, fed, vec![], node.clone());
            assert_near(&format!("{rank} axes, {fed} inputs"), &got, &shape, &want);
            let general = got.steps.contains(&StepOp::ConvNd);
            assert_eq!(general, fed == 2 || rank == 3, "{rank} axes, {fed} inputs");
        }
    }
}

#[test]
fn blocks_add_up_to_an_image() {
    let mut random = Random(6);
    let (channels, block, image) = (2usize, [2usize, 3], [5usize, 6]);
    let counts = [(5 + 1 - 3) / 2 + 1, 6 - 3 + 1];
    let x_shape = [1, channels * 6, counts[0] * counts[1]];
    let x = random.numbers(x_shape.iter().product());
    let mut want = vec![0.0; channels * 30];
    for index in indices(&x_shape) {
        let (channel, place) = (index[1] / 6, index[1] % 6);
        let (row, column) = (index[2] / counts[1] * 2 + place / 3 * 2, index[2] % counts[1]);
        let (row, column) = (row.wrapping_sub(1), column + place % 3);
        if row < image[0] && column < image[1] {
            want[(channel * 5 + row) * 6 + column] += f64::from(x[at(&x_shape, &index)]);
        }
    }
    let node = N::new("Col2Im", &["x", "image", "block"], &["y"])
        .with(A::ints("strides", &[2, 1]))
        .with(A::ints("dilations", &[2, 1]))
        .with(A::ints("pads", &[1, 0, 0, 0]));
    let more = vec![
        T::i64("image", &[2], &image.map(|s| s as i64)),
        T::i64("block", &[2], &block.map(|s| s as i64)),
    ];
    let got = run(18, &[("x", &x_shape, &x)], 1, more, node);
    assert_near("col2im", &got, &[1, channels, 5, 6], &want);
}

/// Rows of `n` elements, each normalised by mean and variance or by its mean square.
fn normalised(x: &[f32], n: usize, centre: bool) -> Vec<f64> {
    let row = |row: &[f32]| -> Vec<f64> {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64;
        let mean = if centre { mean } else { 0.0 };
        let square = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n as f64;
        row.iter().map(|v| (f64::from(*v) - mean) / (square + 1e-5).sqrt()).collect()
    };
    x.chunks_exact(n).flat_map(row).collect()
}

#[test]
fn normalisations() {
    let mut random = Random(21);
    const SHAPE: [usize; 4] = [2, 6, 3, 4];
    let x = random.numbers(144);
    let (channels, last, row) = (random.numbers(6), random.numbers(4), random.numbers(12));
    let groups = random.numbers(3);
    struct Case<'a> {
        name: &'static str,
        opset: i64,
        node: N,
        factors: Vec<Operand<'a>>,
        want: Vec<f64>,
        /// Index of the factor of an element.
        factor: fn(&[usize]) -> usize,
    }
    let node = |op: &str, names: &[&str]| N::new(op, &[&["x"], names].concat(), &["y"]);
    let plain = |n: usize, centre: bool| normalised(&x, n, centre);
    let norm_of = |p: f64| -> Vec<f64> {
        let sums = x
            .chunks_exact(4)
            .map(|row| row.iter().map(|v| f64::from(v.abs()).powf(p)).sum::<f64>().powf(1.0 / p));
        let sums: Vec<f64> = sums.collect();
        x.iter().enumerate().map(|(i, v)| f64::from(*v) / sums[i / 4]).collect()
    };
    let response: Vec<f64> = indices(&SHAPE)
        .iter()
        .map(|index| {
            let near = (index[1].saturating_sub(1)..(index[1] + 3).min(6))
                .map(|c| f64::from(x[at(&SHAPE, &[index[0], c, index[2], index[3]])]).powi(2));
            let own = f64::from(x[at(&SHAPE, index)]);
            own / (2.0 + 0.5 / 4.0 * near.sum::<f64>()).powf(0.75)
        })
        .collect();
    for case in [
        Case {
            name: "layer",
            opset: 17,
            node: node("LayerNormalization", &["s", "b"]),
            factors: vec![("s", &[4], &last), ("b", &[4], &last)],
            want: plain(4, true),
            factor: |index| index[3],
        },
        Case {
            name: "layer of two axes",
            opset: 17,
            node: node("LayerNormalization", &["s", "b"]).with(A::int("axis", 2)),
            factors: vec![("s", &[3, 4], &row), ("b", &[3, 4], &row)],
            want: plain(12, true),
            factor: |index| index[2] * 4 + index[3],
        },
        Case {
            name: "layer with a scale for some of its axes",
            opset: 17,
            node: node("LayerNormalization", &["s", "b"]).with(A::int("axis", -2)),
            factors: vec![("s", &[4], &last), ("b", &[1, 4], &last)],
            want: plain(12, true),
            factor: |index| index[3],
        },
        Case {
            name: "rms",
            opset: 23,
            node: node("RMSNormalization", &["s"]).with(A::int("axis", 2)),
            factors: vec![("s", &[3, 4], &row)],
            want: plain(12, false),
            factor: |index| index[2] * 4 + index[3],
        },
        Case {
            name: "instance",
            opset: 6,
            node: node("InstanceNormalization", &["s", "b"]),
            factors: vec![("s", &[6], &channels), ("b", &[6], &channels)],
            want: plain(12, true),
            factor: |index| index[1],
        },
        Case {
            name: "group, by group",
            opset: 18,
            node: node("GroupNormalization", &["s", "b"]).with(A::int("num_groups", 3)),
            factors: vec![("s", &[3], &groups), ("b", &[3], &groups)],
            want: plain(24, true),
            factor: |index| index[1] / 2,
        },
        Case {
            name: "group, by channel",
            opset: 21,
            node: node("GroupNormalization", &["s", "b"]).with(A::int("num_groups", 3)),
            factors: vec![("s", &[6], &channels), ("b", &[6], &channels)],
            want: plain(24, true),
            factor: |index| index[1],
        },
        Case {
            name: "norm of order 1",
            opset: 22,
            node: node("LpNormalization", &[]).with(A::int("p", 1)),
            factors: vec![],
            want: norm_of(1.0),
            factor: |_| 0,
        },
        Case {
            name: "norm of order 2",
            opset: 1,
            node: node("LpNormalization", &[]),
            factors: vec![],
            want: norm_of(2.0),
            factor: |_| 0,
        },
        Case {
            name: "local response",
            opset: 13,
            node: node("LRN", &[])
                .with(A::int("size", 4))
                .with(A::float("alpha", 0.5))
                .with(A::float("bias", 2.0)),
            factors: vec![],
            want: response,
            factor: |_| 0,
        },
    ] {
        let mut want = case.want;
        for (value, index) in want.iter_mut().zip(indices(&SHAPE)) {
            let place = (case.factor)(&index);
            for (at, (_, _, factor)) in case.factors.iter().enumerate() {
                let factor = f64::from(factor[place]);
                *value = if at == 0 { *value * factor } else { *value + factor };
            }
        }
        let operands = [&[("x", SHAPE.as_slice(), x.as_slice())], case.factors.as_slice()].concat();
        for fed in [1, operands.len()] {
            let got = run(case.opset, &operands, fed, vec![], case.node.clone());
            assert_near(case.name, &got, &SHAPE, &want);
        }
    }
    // A row of zeros has norm 0 and stays.
    let zeros = [0.0, 0.0, 3.0, 4.0];
    let got = run(22, &[("x", &[2, 2], &zeros)], 1, vec![], node("LpNormalization", &[]));
    assert_near("zeros", &got, &[2, 2], &[0.0, 0.0, 0.6, 0.8]);
}

/// A filter of the given support that is stretched when the result is smaller, at every output.
fn resampled(x: &[f32], out: usize, cubic: bool) -> Vec<f64> {
    let scale = out as f64 / x.len() as f64;
    let stretch = scale.min(1.0);
    let a = -0.75;
    let filter = |d: f64| match (cubic, d.abs()) {
        (false, d) => (1.0 - d).max(0.0),
        (true, d) if d < 1.0 => (a + 2.0) * d.powi(3) - (a + 3.0) * d * d + 1.0,
        (true, d) if d < 2.0 => a * (d.powi(3) - 5.0 * d * d + 8.0 * d - 4.0),
        _ => 0.0,
    };
    let value = |i: usize| {
        let centre = (i as f64 + 0.5) / scale - 0.5;
        let (mut sum, mut weights) = (0.0, 0.0);
        for place in -64i64..64 + x.len() as i64 {
            let weight = filter((place as f64 - centre) * stretch);
            let inside = place.clamp(0, x.len() as i64 - 1) as usize;
            sum += weight * f64::from(x[inside]);
            weights += weight;
        }
        sum / weights
    };
    (0..out).map(value).collect()
}

#[test]
fn resizes_by_tables() {
    let mut random = Random(33);
    let x = random.numbers(14);
    let resize = |attributes: Vec<A>, inputs: &[&str]| {
        attributes.into_iter().fold(N::new("Resize", inputs, &["y"]), N::with)
    };
    let sizes = |values: &[i64]| T::i64("sizes", &[values.len() as i64], values);
    for (mode, out) in [("linear", 5), ("cubic", 5), ("linear", 3), ("cubic", 12), ("cubic", 20)] {
        let node = resize(
            vec![A::string("mode", mode), A::int("antialias", 1), A::ints("axes", &[2])],
            &["x", "", "", "sizes"],
        );
        let more = vec![sizes(&[out])];
        let got = run(18, &[("x", &[1, 1, 14], &x)], 1, more, node);
        let want = resampled(&x, out as usize, mode == "cubic");
        assert_near(mode, &got, &[1, 1, out as usize], &want);
    }
    // The middle of a picture, and beyond its border.
    let x: Vec<f32> = (0..16).map(|v| v as f32).collect();
    let node = |start: &str| {
        resize(
            vec![
                A::string("mode", "linear"),
                A::string("coordinate_transformation_mode", "tf_crop_and_resize"),
                A::float("extrapolation_value", -7.0),
                A::ints("axes", &[3, 2]),
            ],
            &["x", start, "", "sizes"],
        )
    };
    let more = || {
        vec![
            T::f32("middle", &[4], &[1.0 / 3.0, 0.0, 1.0, 1.0 / 3.0]),
            T::f32("beyond", &[4], &[0.0, 0.0, 2.0, 0.0]),
            sizes(&[3, 2]),
        ]
    };
    let got = run(18, &[("x", &[1, 1, 4, 4], &x)], 1, more(), node("middle"));
    assert_near("crop", &got, &[1, 1, 2, 3], &[1.0, 2.0, 3.0, 5.0, 6.0, 7.0]);
    let got = run(18, &[("x", &[1, 1, 4, 4], &x)], 1, more(), node("beyond"));
    assert_near("beyond", &got, &[1, 1, 2, 3], &[0.0, 3.0, -7.0, 0.0, 3.0, -7.0]);
    // Sizes that aren't whole: 4 · 0.6 = 2.4, so that the corners meet at (4 − 1) / (2.4 − 1).
    let scales = vec![T::f32("scales", &[4], &[1.0, 1.0, 1.0, 0.6])];
    let align = vec![
        A::string("mode", "linear"),
        A::string("coordinate_transformation_mode", "align_corners"),
    ];
    let row = [1.0, 2.0, 3.0, 4.0];
    let node = resize(align, &["x", "", "scales"]);
    let got = run(13, &[("x", &[1, 1, 1, 4], &row)], 1, scales, node);
    assert_near("corners", &got, &[1, 1, 1, 2], &[1.0, 1.0 + 3.0 / 1.4]);
    // One scale for both axes.
    for (policy, shape) in [("not_larger", [1, 1, 3, 3]), ("not_smaller", [1, 1, 6, 6])] {
        let node = resize(
            vec![A::string("keep_aspect_ratio_policy", policy), A::ints("axes", &[2, 3])],
            &["x", "", "", "sizes"],
        );
        let got = run(18, &[("x", &[1, 1, 4, 4], &x)], 1, vec![sizes(&[3, 6])], node);
        assert_eq!(got.shape, shape, "{policy}");
    }
}

/// The transform of complex numbers, sum by sum.
fn transformed(x: &[(f64, f64)], length: usize, inverse: bool) -> Vec<(f64, f64)> {
    let sign = if inverse { 1.0 } else { -1.0 };
    let scale = if inverse { 1.0 / length as f64 } else { 1.0 };
    let value = |k: usize| {
        let terms = x.iter().take(length).enumerate().map(|(n, (re, im))| {
            let angle = sign * std::f64::consts::TAU * (k * n) as f64 / length as f64;
            (re * angle.cos() - im * angle.sin(), re * angle.sin() + im * angle.cos())
        });
        let sum = terms.fold((0.0, 0.0), |sum, term| (sum.0 + term.0, sum.1 + term.1));
        (sum.0 * scale, sum.1 * scale)
    };
    (0..length).map(value).collect()
}

#[test]
fn fourier_transforms() {
    let mut random = Random(17);
    for (length, stated, parts, inverse, one_sided) in [
        (8, None, 1, false, false),
        (7, None, 2, false, false),
        (7, None, 2, true, false),
        (9, None, 1, false, true),
        (6, Some(9), 2, false, false),
        (6, Some(4), 1, false, false),
    ] {
        // Along the axis in the middle.
        let shape = [2, length, 3, parts];
        let x = random.numbers(shape.iter().product());
        let n = stated.unwrap_or(length);
        let count = if one_sided { n / 2 + 1 } else { n };
        let to = [2, count, 3, 2];
        let mut want = vec![0.0; to.iter().product()];
        for (batch, column) in indices(&[2, 3]).iter().map(|index| (index[0], index[1])) {
            let element = |i: usize, part: usize| match part < parts {
                true => f64::from(x[at(&shape, &[batch, i, column, part])]),
                false => 0.0,
            };
            let signal: Vec<(f64, f64)> =
                (0..length).map(|i| (element(i, 0), element(i, 1))).collect();
            for (k, (re, im)) in transformed(&signal, n, inverse).iter().take(count).enumerate() {
                want[at(&to, &[batch, k, column, 0])] = *re;
                want[at(&to, &[batch, k, column, 1])] = *im;
            }
        }
        let name = format!("{length} {stated:?} {parts} {inverse} {one_sided}");
        for (opset, inputs) in [(17, ["x", "n", ""]), (20, ["x", "n", "axis"])] {
            let inputs = if stated.is_some() { inputs } else { ["x", "", inputs[2]] };
            let node = N::new("DFT", if opset == 17 { &inputs[..2] } else { &inputs }, &["y"])
                .with(A::int("inverse", i64::from(inverse)))
                .with(A::int("onesided", i64::from(one_sided)));
            let more = vec![T::i64("n", &[], &[n as i64]), T::i64("axis", &[], &[-3])];
            let got = run(opset, &[("x", &shape, &x)], 1, more, node);
            assert_near(&name, &got, &to, &want);
        }
    }
    // Half of a spectrum and back.
    let signal = random.numbers(10);
    let there = N::new("DFT", &["x"], &["y"]).with(A::int("onesided", 1));
    let half = run(20, &[("x", &[1, 10, 1], &signal)], 1, vec![], there);
    let back = N::new("DFT", &["x"], &["y"]).with(A::int("onesided", 1)).with(A::int("inverse", 1));
    let got = run(20, &[("x", &[1, 6, 2], &half.values)], 1, vec![], back);
    let want: Vec<f64> = signal.iter().map(|v| f64::from(*v)).collect();
    assert_near("there and back", &got, &[1, 10, 1], &want);
}

#[test]
fn frames_are_transformed_one_by_one() {
    let mut random = Random(18);
    let (x, window) = (random.numbers(40), random.numbers(8));
    let mut want = vec![];
    for batch in x.chunks_exact(20) {
        for start in (0..=12).step_by(3) {
            let frame: Vec<(f64, f64)> =
                (0..8).map(|n| (f64::from(batch[start + n]) * f64::from(window[n]), 0.0)).collect();
            want.extend(transformed(&frame, 8, false)[..5].iter().flat_map(|(re, im)| [*re, *im]));
        }
    }
    let node = N::new("STFT", &["x", "step", "window"], &["y"]);
    let step = vec![T::i64("step", &[], &[3])];
    let operands: [Operand<'_>; 2] = [("x", &[2, 20, 1], &x), ("window", &[8], &window)];
    for (fed, kernel) in [(1, StepOp::Conv2d), (2, StepOp::ConvNd)] {
        let got = run(17, &operands, fed, step.clone(), node.clone());
        assert_near("stft", &got, &[2, 5, 5, 2], &want);
        assert!(got.steps.contains(&kernel), "{:?}", got.steps);
    }
}

#[test]
fn the_first_operator_sets_broadcast_on_request() {
    let x: Vec<f32> = (0..12).map(|v| v as f32).collect();
    let add = || N::new("Add", &["x", "b"], &["y"]).with(A::int("broadcast", 1));
    let sum =
        |f: fn(usize) -> f64| -> Vec<f64> { (0..12).map(|i| i as f64 + 100.0 * f(i)).collect() };
    let along = [0.0, 100.0, 200.0];
    for (name, node, b, want) in [
        ("behind", add(), (&[3usize][..], &along[..]), sum(|i| (i % 3) as f64)),
        ("at an axis", add().with(A::int("axis", 0)), (&[2], &along[..2]), sum(|i| (i / 6) as f64)),
        ("one element", add(), (&[1, 1], &along[1..2]), sum(|_| 1.0)),
    ] {
        let operands: [Operand<'_>; 2] = [("x", &[2, 2, 3], &x), ("b", b.0, b.1)];
        assert_near(name, &run(6, &operands, 1, vec![], node), &[2, 2, 3], &want);
    }
}

#[test]
fn refused() {
    let node = |op: &str, inputs: &[&str]| N::new(op, inputs, &["y"]);
    let w = || vec![T::f32("w", &[3, 2, 3], &[0.5; 18]), T::f32("v", &[2], &[0.5; 2])];
    const X: &[&str] = &["1", "3", "8"];
    for (name, opset, x, node, part) in [
        ("six axes", 11, &["1"; 6][..], node("Conv", &["x", "w"]), "at most three"),
        ("groups", 11, X, node("ConvTranspose", &["x", "w"]).with(A::int("group", 2)), "groups"),
        (
            "nothing left",
            11,
            X,
            node("ConvTranspose", &["x", "w"]).with(A::ints("pads", &[9, 9])),
            "the result would have size",
        ),
        ("an order of 0", 11, X, node("GlobalLpPool", &["x"]).with(A::int("p", 0)), "order 0"),
        (
            "statistics in half precision",
            17,
            X,
            node("LayerNormalization", &["x", "v"]).with(A::int("stash_type", 16)),
            "stash_type 16",
        ),
        ("a scale too many", 17, X, node("LayerNormalization", &["x", "w"]), "broadcast"),
        (
            "a type before numbers",
            5,
            X,
            node("Cast", &["x"]).with(A::string("to", "NUMBER")),
            "missing or unknown",
        ),
        ("training", 6, X, node("Dropout", &["x"]), "training"),
        ("an old form", 6, X, node("LSTM", &["x", "w", "w"]), "its form in operator set 6"),
        ("shapes that differ", 6, X, node("Add", &["x", "v"]), "without `broadcast`"),
        ("a signal of eight parts", 17, X, node("STFT", &["x", "step"]), "one or two numbers"),
    ] {
        let inputs = vec![input("x", x)];
        let mut constants = w();
        constants.push(T::i64("step", &[], &[1]));
        let error = import(&model(opset, inputs, constants, vec![node]), &ImportOptions::default());
        let text = error.err().unwrap_or_else(|| panic!("{name} is accepted")).to_string();
        assert!(text.contains(part), "{name}: {text}");
    }
}

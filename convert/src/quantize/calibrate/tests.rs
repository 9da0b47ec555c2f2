use super::*;
use crate::dim::Dim;
use crate::evaluate::Reals;
use crate::graph::{Attention, BinaryKind, Clamp, MatMul, Op, UnaryKind};
use crate::quantize::quantization::Quantization;
use crate::tensor::Tensor;

/// Numbers in −1..1 (Marsaglia's xorshift).
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A graph that is built node by node.
#[derive(Default)]
struct Build(Graph);

impl Build {
    fn input(&mut self, size: usize) -> ValueId {
        let id = self.0.add_value("x", DType::F32, [1, size].map(Dim::from).to_vec());
        self.0.inputs.push(id);
        id
    }

    fn node(&mut self, name: &str, op: Op, inputs: &[ValueId], size: usize) -> ValueId {
        let id =
            self.0.add_value(format!("{name}/y"), DType::F32, [1, size].map(Dim::from).to_vec());
        let inputs = inputs.iter().copied().map(Some).collect();
        self.0.nodes.push(crate::graph::Node {
            name: name.to_owned(),
            op,
            inputs,
            outputs: vec![id],
        });
        id
    }

    /// `[1, rows] × [rows, columns]`, weights by the row and column.
    fn layer(
        &mut self,
        name: &str,
        x: ValueId,
        [k, n]: [usize; 2],
        w: impl FnMut((usize, usize)) -> f32,
    ) -> ValueId {
        let weights: Vec<f32> = (0..k * n).map(|at| (at / n, at % n)).map(w).collect();
        let weights = self.0.add_constant(format!("{name}/w"), Tensor::from_f32([k, n], &weights));
        let op = MatMul {
            transpose_a: false,
            transpose_b: false,
            clamp: Clamp::NONE,
            inner_quant: None,
        };
        self.node(name, Op::MatMul(op), &[x, weights], n)
    }

    fn ends(mut self, outputs: &[ValueId]) -> Graph {
        self.0.outputs = outputs.to_vec();
        self.0
    }
}

/// Rows for an input `[1, n]`.
fn samples(rows: Vec<Vec<f32>>) -> Reals {
    Reals { shape: vec![1, rows.first().map_or(0, Vec::len)], samples: rows }
}

fn found(graph: &Graph, rows: Vec<Vec<f32>>, method: Method) -> Result<Calibration, EvaluateError> {
    let numbers = vec![Numbers::Int8; graph.nodes.len()];
    calibrate(graph, &numbers, &samples(rows), method, &mut |_, _, _| ())
}

fn rows(count: usize, size: usize) -> Vec<Vec<f32>> {
    let mut next = noise(7);
    (0..count).map(|_| (0..size).map(|_| next()).collect()).collect()
}

/// Two models whose input has a spike in one feature. In one the layer behind doesn't read that feature, in the other
/// it is all that it reads: by the input alone they look the same.
#[test]
fn ranges_follow_what_readers_make_of_them() {
    const SIZE: usize = 16;
    const SPIKE: f32 = 40.0;
    let mut data = rows(64, SIZE);
    data.iter_mut().for_each(|row| row[0] = row[0].signum() * SPIKE);
    for reads_spike in [false, true] {
        let mut build = Build::default();
        let x = build.input(SIZE);
        let mut next = noise(3);
        let y = build.layer("dense", x, [SIZE, 8], |(row, _)| {
            let weight = next();
            if (row == 0) == reads_spike { weight } else { 0.0 }
        });
        let graph = build.ends(&[y]);
        let calibration = found(&graph, data.clone(), Method::Auto).unwrap();
        let range = calibration.ranges[&(x, DType::I8)];
        let width = range.max - range.min;
        assert_eq!(width >= 75.0, reads_spike, "{range:?} {:?}", calibration.choices);
        let choice = calibration.choices.iter().find(|choice| choice.values.contains(&x)).unwrap();
        assert_eq!(choice.readers, ["dense"]);
        assert!(choice.candidates.len() > 1);
        let least = choice.candidates.iter().map(|c| c.error).fold(f64::INFINITY, f64::min);
        let taken = choice.candidates.iter().find(|c| c.methods.contains(&choice.method)).unwrap();
        assert!(taken.error <= least / 0.99, "{choice:?}");
    }
}

/// The errors of candidates are those of the arithmetic done here by hand.
#[test]
fn errors_are_those_of_the_reading_layer() {
    const SIZE: usize = 6;
    let mut build = Build::default();
    let x = build.input(SIZE);
    let mut next = noise(5);
    let weights: Vec<f32> = (0..SIZE * 2).map(|_| next()).collect();
    let y = build.layer("dense", x, [SIZE, 2], |(row, column)| weights[row * 2 + column]);
    let graph = build.ends(&[y]);
    let mut data = rows(40, SIZE);
    data[3][2] = 5.0;
    let calibration = found(&graph, data.clone(), Method::Auto).unwrap();
    let choice = calibration.choices.iter().find(|choice| choice.values.contains(&x)).unwrap();
    for candidate in &choice.candidates {
        let grid = candidate.range.grid(DType::I8);
        let (scale, zero) = (f64::from(grid.scale[0]), f64::from(grid.zero_point[0]));
        let (mut signal, mut error) = (0.0, 0.0);
        for row in &data {
            for column in 0..2 {
                let dot = |f: &dyn Fn(f64) -> f64| -> f64 {
                    (0..SIZE)
                        .map(|k| f(f64::from(row[k])) * f64::from(weights[k * 2 + column]))
                        .sum()
                };
                let stored = |v: f64| {
                    (((v / scale).round_ties_even() + zero).clamp(-128.0, 127.0) - zero) * scale
                };
                signal += dot(&|v| v).powi(2);
                error += (dot(&|v| v) - dot(&stored)).powi(2);
            }
        }
        let ratio = error / signal;
        assert!((candidate.error / ratio - 1.0).abs() < 1e-3, "{candidate:?}: {ratio}");
    }
}

/// What the whole model's outputs are by each method is measured, and the best is taken, min-max if others
/// are hardly better.
#[test]
fn whole_models_are_compared() {
    let mut build = Build::default();
    let x = build.input(8);
    let mut next = noise(11);
    let hidden = build.layer("one", x, [8, 16], |_| next());
    let active = build.node("relu", Op::Unary(UnaryKind::Relu), &[hidden], 16);
    let y = build.layer("two", active, [16, 4], |_| next());
    let graph = build.ends(&[y]);
    let calibration = found(&graph, rows(64, 8), Method::Auto).unwrap();
    let chosen: Vec<_> = calibration.whole.iter().filter(|whole| whole.chosen).collect();
    assert_eq!((calibration.whole.len(), chosen.len()), (choice::CANDIDATES.len() + 1, 1));
    let minmax = calibration.whole[0];
    assert_eq!((minmax.method, minmax.sigma), (Method::MinMax, 0.0));
    for whole in &calibration.whole {
        let sure = whole.sigma >= 2.0;
        assert!(!sure || whole.snr_db <= chosen[0].snr_db + 0.05, "{:?}", calibration.whole);
        assert_eq!(whole.sigma > 0.0, whole.snr_db > minmax.snr_db, "{:?}", calibration.whole);
    }
    let again = found(&graph, rows(64, 8), Method::Auto).unwrap();
    assert_eq!((again.choices, again.whole), (calibration.choices, calibration.whole));
}

#[test]
fn remarks_say_what_is_wrong_with_data() {
    let model = || {
        let mut build = Build::default();
        let x = build.input(4);
        let y = build.layer("dense", x, [4, 4], |(row, column)| (row * 4 + column) as f32 - 7.5);
        build.ends(&[y])
    };
    let far = {
        let mut data = rows(40, 4);
        data[17][2] = 300.0;
        data
    };
    struct Case {
        data: Vec<Vec<f32>>,
        notes: &'static [&'static str],
    }
    for case in [
        Case { data: rows(40, 4), notes: &[] },
        Case {
            data: rows(3, 4),
            notes: &["calibrated on 3 samples; a hundred or so typical ones are enough, and safer"],
        },
        Case {
            data: rows(1, 4),
            notes: &["calibrated on 1 sample; a hundred or so typical ones are enough, and safer"],
        },
        Case {
            data: vec![vec![1.0, 2.0, 3.0, 4.0]; 40],
            notes: &["all 40 calibration samples are the same"],
        },
        Case { data: far, notes: &["sample 17 alone makes the range of `x`"] },
    ] {
        let notes = found(&model(), case.data, Method::MinMax).unwrap().notes;
        assert_eq!(notes.len(), case.notes.len(), "{notes:?}");
        for (note, expected) in notes.iter().zip(case.notes) {
            assert!(note.starts_with(expected), "{note}");
        }
    }
}

/// An attention mask of −∞ keeps the nodes that touch it float, and the rest is quantized.
#[test]
fn infinities_stay_float() {
    let mut build = Build::default();
    let x = build.input(4);
    let scores = build.layer("scores", x, [4, 4], |(row, column)| (row + column) as f32 / 8.0);
    let mask = Tensor::from_f32([1, 4], &[0.0, 0.0, f32::NEG_INFINITY, 0.0]);
    let mask = build.0.add_constant("mask", mask);
    let masked = build.node("masked", Op::Binary(BinaryKind::Add), &[scores, mask], 4);
    let softmax = build.node("softmax", Op::Softmax { axis: 1, log: false }, &[masked], 4);
    let y = build.layer("last", softmax, [4, 2], |(row, column)| row as f32 - column as f32);
    let graph = build.ends(&[y]);
    for method in [Method::MinMax, Method::Mse, Method::Auto] {
        let calibration = found(&graph, rows(40, 4), method).unwrap();
        assert!(
            calibration.notes.iter().any(|note| note.contains("`masked`, `softmax`")),
            "{:?}",
            calibration.notes
        );
        assert_eq!(calibration.statistics.get(masked).unwrap().non_finite.infinite, 40);
        let numbers = [Numbers::Int8; 4];
        let quantization = Quantization::new(graph.clone(), &numbers, &calibration.ranges);
        assert_eq!(
            quantization.numbers,
            [Numbers::Int8, Numbers::Float, Numbers::Float, Numbers::Int8],
            "{method}"
        );
        assert!(!quantization.activations.contains_key(&(masked, DType::I8)));
        let noise = {
            let program =
                |graph: &Graph| crate::evaluate::Program::new(graph, &Default::default()).unwrap();
            let (float, integer) = (program(&graph), program(&quantization.lowered()));
            crate::quantize::measure::output_noise(
                &float,
                &integer,
                &samples(rows(9, 4)),
                &mut |_, _| (),
            )
            .unwrap()
        };
        assert!(noise[0].snr_db() > 30.0, "{}", noise[0].snr_db());
    }
}

/// Attention between integer layers is on integers, but for what it adds to the scores.
#[test]
fn attention_on_integers_reads_a_float_mask() {
    let mut build = Build::default();
    let x = build.input(5);
    let mut next = noise(11);
    let mut heads = |build: &mut Build, name: &str| {
        let rows = build.layer(name, x, [5, 40], |_| next());
        let heads = build.node(&format!("{name}/heads"), Op::Reshape, &[rows], 40);
        build.0.value_mut(heads).shape = [1i64, 2, 5, 4].map(Dim::from).to_vec();
        heads
    };
    let [q, k, v] = ["q", "k", "v"].map(|name| heads(&mut build, name));
    // Has no integer form.
    let logs = build.node("logs", Op::Softmax { axis: 1, log: true }, &[x], 5);
    let twice = build.0.add_constant("twice", Tensor::from_f32([1], &[2.0]));
    let mask = build.node("mask", Op::Binary(BinaryKind::Mul), &[logs, twice], 5);
    let op = Attention { scale: 0.5, softcap: 0.0, causal: None, zero_rows: false };
    let mixed = build.node("attention", Op::Attention(op), &[q, k, v, mask], 40);
    build.0.value_mut(mixed).shape = [1i64, 2, 5, 4].map(Dim::from).to_vec();
    let flat = build.node("flat", Op::Reshape, &[mixed], 40);
    let y = build.layer("last", flat, [40, 3], |(row, column)| (row * column) as f32 / 40.0 - 0.5);
    let graph = build.ends(&[y]);
    let attention = graph.nodes.iter().position(|node| node.name == "attention").unwrap();

    let ranges = found(&graph, rows(40, 5), Method::MinMax).unwrap().ranges;
    let all = |numbers: Numbers| {
        Quantization::new(graph.clone(), &vec![numbers; graph.nodes.len()], &ranges)
    };
    let quantization = all(Numbers::Int8);
    for (node, numbers) in graph.nodes.iter().zip(&quantization.numbers) {
        let is_float = ["logs", "mask"].contains(&node.name.as_str());
        assert_eq!(
            *numbers,
            if is_float { Numbers::Float } else { Numbers::Int8 },
            "{}",
            node.name
        );
    }
    let lowered = quantization.lowered();
    let node = lowered.nodes.iter().find(|node| matches!(node.op, Op::Attention(_))).unwrap();
    let types = node.inputs.iter().flatten().map(|id| lowered.value(*id).dtype);
    assert_eq!(types.collect::<Vec<_>>(), [DType::I8, DType::I8, DType::I8, DType::F32]);
    let program =
        |graph: &Graph| crate::evaluate::Program::new(graph, &Default::default()).unwrap();
    let (float, integer) = (program(&graph), program(&lowered));
    let data = samples(rows(9, 5));
    let noise = crate::quantize::measure::output_noise(&float, &integer, &data, &mut |_, _| ());
    let snr = noise.unwrap()[0].snr_db();
    assert!(snr > 25.0, "{snr}");

    // i16 has no such kernel, nor has softcap.
    assert_eq!(all(Numbers::Int16).numbers[attention], Numbers::Float);
    let mut bent = graph.clone();
    if let Op::Attention(attention) = &mut bent.nodes[attention].op {
        attention.softcap = 3.0;
    }
    assert_eq!(Numbers::Int8.fitted(&bent, &bent.nodes[attention]), Numbers::Float);
}

#[test]
fn nan_is_refused_with_its_node() {
    let mut build = Build::default();
    let x = build.input(4);
    let root = build.node("root", Op::Unary(UnaryKind::Sqrt), &[x], 4);
    let y = build.layer("dense", root, [4, 2], |_| 1.0);
    let graph = build.ends(&[y]);
    let mut data = vec![vec![1.0; 4]; 3];
    data[2][1] = -1.0;
    let error = found(&graph, data, Method::MinMax).unwrap_err().to_string();
    assert!(error.contains("node `root`") && error.contains("sample 2"), "{error}");
    let error = found(&graph, vec![vec![f32::NAN; 4]], Method::MinMax).unwrap_err().to_string();
    assert!(error.contains("NaN in the input `x`"), "{error}");
}

/// Values that lie in the memory of others have statistics of their own.
#[test]
fn views_are_seen() {
    let mut build = Build::default();
    let x = build.input(4);
    let y = build.layer(
        "dense",
        x,
        [4, 4],
        |(row, column)| if row == column { 1.0 + row as f32 } else { 0.0 },
    );
    let shape = |build: &mut Build, id: ValueId, sizes: &[usize]| {
        build.0.value_mut(id).shape = sizes.iter().map(|size| Dim::from(*size)).collect();
    };
    let square = build.node("square", Op::Reshape, &[y], 4);
    shape(&mut build, square, &[2, 2]);
    let row = build.node(
        "row",
        Op::Slice { starts: vec![Dim::from(1usize), Dim::from(0usize)], steps: vec![1, 1] },
        &[square],
        2,
    );
    let z = build.layer("last", row, [2, 2], |_| 1.0);
    let graph = build.ends(&[z]);
    let statistics =
        found(&graph, vec![vec![1.0, 2.0, 3.0, 4.0]; 2], Method::MinMax).unwrap().statistics;
    let range = |id| {
        let range = statistics.get(id).and_then(Observed::range).unwrap();
        (range.min, range.max, statistics.get(id).unwrap().channels.len())
    };
    assert_eq!(range(y), (1.0, 16.0, 4));
    assert_eq!(range(square), (1.0, 16.0, 2));
    assert_eq!(range(row), (9.0, 16.0, 2));
}

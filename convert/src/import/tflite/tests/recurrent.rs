//! What stays from one run to the next: variables, LSTM and SVDF, beside their formulas.

use super::builder::{I16, RESOURCE};
use super::*;

/// Converts a model and runs it on a sequence of inputs; the first output's bytes after each run.
fn runs(model: &Model, inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let graph = import(model, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let options = ConvertOptions { golden_cases: 1, ..ConvertOptions::default() };
    let converted = convert(graph, None, &options, &mut ()).unwrap_or_else(|e| panic!("{e}"));
    let file = AlignedBytes::new(&converted.file);
    let mut session =
        Session::new(Program::open(file.as_slice()).expect("opens"), Options::default())
            .expect("prepares");
    let mut run = |bytes: &Vec<u8>| {
        session.set_input_bytes(0, bytes).expect("an input");
        session.run().expect("runs");
        session.output_bytes(0).expect("an output").to_vec()
    };
    inputs.iter().map(&mut run).collect()
}

fn reals(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// `sum += x`, the sum a variable that begins as 5 and 6.
fn accumulator() -> Model {
    let names = ["CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ADD", "ASSIGN_VARIABLE"];
    let operator = |code: u32, inputs: &[i32], outputs: &[i32]| Operator {
        code,
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
        ..Operator::default()
    };
    let handle = |tensor: i32| Operator {
        options_type: 111,
        options: vec![(1, Field::Text("sum"))],
        ..operator(1, &[], &[tensor])
    };
    let once =
        Operator { options_type: 103, options: vec![(0, Field::Int(1))], ..operator(0, &[], &[]) };
    Model {
        version: 3,
        codes: names.iter().map(|name| (code(name), String::new())).collect(),
        tensors: vec![
            Tensor::new("x", F32, &[1, 2]),
            Tensor::new("handle", RESOURCE, &[]),
            Tensor::new("before", F32, &[1, 2]),
            Tensor::new("after", F32, &[1, 2]),
            Tensor::f32s("first", &[1, 2], &[5.0, 6.0]),
        ],
        operators: vec![
            once,
            handle(1),
            operator(2, &[1], &[2]),
            operator(3, &[2, 0], &[3]),
            operator(4, &[1, 3], &[]),
        ],
        inputs: vec![0],
        outputs: vec![3],
        second: vec![handle(1), operator(4, &[1, 4], &[])],
    }
}

#[test]
fn a_variable_keeps_what_was_assigned() {
    let inputs = [[1.0, 2.0], [10.0, 20.0], [-3.0, 0.5]].map(|x| bytes_of(&x)).to_vec();
    let made: Vec<Vec<f32>> = runs(&accumulator(), &inputs).iter().map(|y| reals(y)).collect();
    assert_eq!(made, [[6.0, 8.0], [16.0, 28.0], [13.0, 28.5]]);
}

#[test]
fn broken_variables_are_refused() {
    type Change = fn(&mut Model);
    let cases: [(&str, Change); 6] = [
        ("before anything was assigned", |m| _ = m.operators.remove(0)),
        ("graph #7 doesn't exist", |m| m.operators[0].options = vec![(0, Field::Int(7))]),
        ("calls another one", |m| m.operators[0].options = vec![(0, Field::Int(0))]),
        ("calls another one", |m| {
            let once = m.operators[0].clone();
            m.second.insert(0, once);
        }),
        ("is no variable", |m| m.operators[2].inputs = vec![0]),
        ("and becomes", |m| m.tensors[4] = Tensor::f32s("first", &[1, 1], &[5.0])),
    ];
    for (want, change) in cases {
        let mut model = accumulator();
        change(&mut model);
        let error = import(&model, &ImportOptions::default()).expect_err(want);
        assert!(error.to_string().contains(want), "{want}: {error}");
    }
}

const HIDDEN: usize = 2;
const FEATURES: usize = 3;

/// Weights of the LSTMs below: any numbers between −0.7 and 0.7.
fn weight(gate: usize, row: usize, column: usize, salt: usize) -> f64 {
    ((gate * 31 + row * 17 + column * 7 + salt * 5) % 15) as f64 / 10.0 - 0.7
}

/// Every state of an LSTM over a sequence, which goes on where it was.
fn lstm(xs: &[Vec<f64>], state: &mut [[f64; HIDDEN]; 2], clip: f64) -> Vec<[f64; HIDDEN]> {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let step = |x: &Vec<f64>| {
        let [h, c] = *state;
        let gate = |g: usize, row: usize| {
            let of_x: f64 = (0..FEATURES).map(|k| weight(g, row, k, 0) * x[k]).sum();
            let of_h: f64 = (0..HIDDEN).map(|k| weight(g, row, k, 1) * h[k]).sum();
            of_x + of_h + weight(g, row, 0, 2)
        };
        for row in 0..HIDDEN {
            let kept = sigmoid(gate(1, row)) * c[row];
            let cell = kept + sigmoid(gate(0, row)) * gate(2, row).tanh();
            state[1][row] = cell.clamp(-clip, clip);
            state[0][row] = sigmoid(gate(3, row)) * state[1][row].tanh();
        }
        state[0]
    };
    xs.iter().map(step).collect()
}

/// The model of it: 24 operands, most of them absent.
fn lstm_model(clip: f32, quantized: bool, hybrid: bool) -> Model {
    const STEP: f64 = 0.7 / 127.0;
    let (h, f) = (HIDDEN as i32, FEATURES as i32);
    let matrix = |gate: usize, columns: usize, salt: usize| {
        let name = format!("w{salt}{gate}");
        let values: Vec<f64> = (0..HIDDEN)
            .flat_map(|row| (0..columns).map(move |k| weight(gate, row, k, salt)))
            .collect();
        if quantized || hybrid {
            let steps: Vec<i8> = values.iter().map(|v| (v / STEP).round() as i8).collect();
            return Tensor::i8s(&name, &[h, columns as i32], &steps).scaled(STEP as f32, 0);
        }
        let reals: Vec<f32> = values.iter().map(|v| *v as f32).collect();
        Tensor::f32s(&name, &[h, columns as i32], &reals)
    };
    let (of_x, of_h) = ((1.0 / 64.0, 3), (1.0 / 128.0, 0));
    let mut tensors = Vec::new();
    let mut operands = Vec::new();
    let mut add = |operand: Option<Tensor>| match operand {
        Some(tensor) => {
            operands.push(tensors.len() as i32);
            tensors.push(tensor);
        }
        None => operands.push(-1),
    };
    let kind = if quantized { I8 } else { F32 };
    let scaled = |tensor: Tensor, (scale, zero): (f32, i64)| match quantized {
        true => tensor.scaled(scale, zero),
        false => tensor,
    };
    add(Some(scaled(Tensor::new("x", kind, &[1, 4, f]), of_x)));
    for (salt, columns) in [(0, FEATURES), (1, HIDDEN)] {
        (0..4).for_each(|gate| add(Some(matrix(gate, columns, salt))));
    }
    (0..3).for_each(|_| add(None));
    for gate in 0..4 {
        let values: Vec<f64> = (0..HIDDEN).map(|row| weight(gate, row, 0, 2)).collect();
        let step = f64::from(of_x.0) * f64::from(STEP as f32);
        add(Some(match quantized {
            true => {
                let steps: Vec<i32> = values.iter().map(|v| (v / step).round() as i32).collect();
                Tensor::i32s(&format!("b{gate}"), &[h], &steps)
            }
            false => {
                let reals: Vec<f32> = values.iter().map(|v| *v as f32).collect();
                Tensor::f32s(&format!("b{gate}"), &[h], &reals)
            }
        }));
    }
    (0..2).for_each(|_| add(None));
    let variable = |tensor: Tensor| Tensor { variable: true, ..tensor };
    add(Some(variable(scaled(Tensor::new("h", kind, &[1, h]), of_h))));
    let cell = if quantized { I16 } else { F32 };
    add(Some(variable(scaled(Tensor::new("c", cell, &[1, h]), (1.0 / 2048.0, 0)))));
    (0..4).for_each(|_| add(None));
    let y = tensors.len() as i32;
    tensors.push(scaled(Tensor::new("y", kind, &[1, 4, h]), of_h));
    let options = vec![(0, Field::Byte(4)), (1, Field::Real(clip))];
    Model {
        version: 3,
        codes: vec![(code("UNIDIRECTIONAL_SEQUENCE_LSTM"), String::new())],
        tensors,
        operators: vec![Operator {
            inputs: operands,
            outputs: vec![y],
            options_type: 71,
            options,
            ..Operator::default()
        }],
        inputs: vec![0],
        outputs: vec![y],
        second: Vec::new(),
    }
}

#[test]
fn an_lstm_goes_on_where_it_was() {
    // Numbers of steps of 1/64, so that the integers hold them.
    let sequence = |run: usize| -> Vec<Vec<f64>> {
        (0..4)
            .map(|t| {
                (0..FEATURES).map(move |k| ((run * 7 + t * 5 + k * 11) % 60) as f64 / 32.0 - 0.9375)
            })
            .map(|x| x.collect())
            .collect()
    };
    for (name, clip, quantized, hybrid, tolerance) in [
        ("float", 0.0f32, false, false, 1e-5),
        ("clipped", 0.3, false, false, 1e-5),
        // Weights within 1/360 of their own, of which ten add up.
        ("int8 weights", 0.0, false, true, 0.01),
        // The same, and results in steps of 1/128 that go on through the state.
        ("int8", 0.0, true, false, 0.025),
        ("int8, clipped", 0.3, true, false, 0.025),
    ] {
        let model = lstm_model(clip, quantized, hybrid);
        let fed: Vec<Vec<u8>> = (0..3)
            .map(|run| {
                let flat = sequence(run).concat();
                match quantized {
                    true => flat.iter().map(|x| ((x * 64.0) as i32 + 3) as i8 as u8).collect(),
                    false => bytes_of(&flat.iter().map(|x| *x as f32).collect::<Vec<_>>()),
                }
            })
            .collect();
        let mut state = [[0.0; HIDDEN]; 2];
        for (run, bytes) in runs(&model, &fed).into_iter().enumerate() {
            let bound = if clip == 0.0 { f64::INFINITY } else { f64::from(clip) };
            let want = lstm(&sequence(run), &mut state, bound).concat();
            let got: Vec<f64> = match quantized {
                true => bytes.iter().map(|b| f64::from(*b as i8) / 128.0).collect(),
                false => reals(&bytes).into_iter().map(f64::from).collect(),
            };
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < tolerance, "{name}, run {run}: {got} {want}");
            }
            assert_eq!(got.len(), want.len());
        }
    }
}

#[test]
fn an_svdf_remembers_its_features() {
    const RUNS: usize = 5;
    // Two units of rank 2 over two features, three runs kept.
    let (filters, rank, memory) = (4usize, 2usize, 3usize);
    let feature: Vec<f32> = (0..filters * 2).map(|i| (i % 5) as f32 - 1.5).collect();
    let time: Vec<f32> = (0..filters * memory).map(|i| (i % 7) as f32 / 4.0 - 0.75).collect();
    let bias = [0.5f32, -0.25];
    let state = Tensor { variable: true, ..Tensor::new("state", F32, &[1, 12]) };
    let mut model = one(
        "SVDF",
        (6, vec![(0, Field::Int(rank as i32)), (1, Field::Byte(1))]),
        vec![
            Tensor::new("x", F32, &[1, 2]),
            Tensor::f32s("feature", &[4, 2], &feature),
            Tensor::f32s("time", &[4, 3], &time),
            Tensor::f32s("bias", &[2], &bias),
            state,
        ],
        vec![Tensor::new("y", F32, &[1, 2])],
    );
    model.inputs = vec![0];
    let xs: Vec<[f32; 2]> = (0..RUNS).map(|t| [t as f32 - 1.0, 2.0 - (t * t) as f32]).collect();
    let made = runs(&model, &xs.iter().map(|x| bytes_of(x)).collect::<Vec<_>>());
    for (at, bytes) in made.iter().enumerate() {
        for (unit, got) in reals(bytes).into_iter().enumerate() {
            let mut want = bias[unit];
            for filter in unit * rank..(unit + 1) * rank {
                for age in 0..memory.min(at + 1) {
                    let x = xs[at - age];
                    let kept = feature[filter * 2] * x[0] + feature[filter * 2 + 1] * x[1];
                    want += kept * time[filter * memory + memory - 1 - age];
                }
            }
            assert!((got - want.max(0.0)).abs() < 1e-4, "run {at}: {got} {want}");
        }
    }
}

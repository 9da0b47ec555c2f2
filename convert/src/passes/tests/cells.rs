//! Recurrent cells as PyTorch, Keras, TensorFlow and Flax leave them when a loop is unrolled.

use super::*;
use crate::dim::Dim;
use crate::graph::{BinaryKind, Clamp, MatMul, UnaryKind, ValueId};
use BinaryKind::{Add, Mul, Sub};

const INPUT: usize = 3;
const HIDDEN: usize = 4;

/// Gates by their letters in the order of the columns: input, forget, output, candidate.
type Order = &'static str;

const TORCH: Order = "ifgo";

/// Weights that every time step shares, and biases.
struct Weights {
    input: ValueId,
    state: ValueId,
    biases: [ValueId; 2],
}

fn weights(g: &mut Build, gates: usize) -> Weights {
    Weights {
        input: g.random(&[INPUT, gates * HIDDEN]),
        state: g.random(&[HIDDEN, gates * HIDDEN]),
        biases: [g.random(&[gates * HIDDEN]), g.random(&[gates * HIDDEN])],
    }
}

fn dense(g: &mut Build, x: ValueId, weights: ValueId, bias: ValueId) -> ValueId {
    let y = g.matmul(x, weights);
    g.binary(Add, y, bias)
}

/// The columns of one gate.
fn part(g: &mut Build, x: ValueId, index: usize) -> ValueId {
    g.slice(x, 1, (index * HIDDEN) as i64, 1, HIDDEN)
}

/// From the sums of all gates to the new state and cell.
fn lstm(g: &mut Build, sums: ValueId, order: Order, c: ValueId) -> (ValueId, ValueId) {
    let mut gate = |letter: char| {
        let index = order.find(letter).expect("a gate");
        let sum = part(g, sums, index);
        g.unary(if letter == 'g' { UnaryKind::Tanh } else { UnaryKind::Sigmoid }, sum)
    };
    let [i, f, candidate, o] = ['i', 'f', 'g', 'o'].map(&mut gate);
    lstm_end(g, [i, f, candidate, o], c)
}

fn lstm_end(g: &mut Build, [i, f, candidate, o]: [ValueId; 4], c: ValueId) -> (ValueId, ValueId) {
    let kept = g.binary(Mul, f, c);
    let added = g.binary(Mul, i, candidate);
    let c = g.binary(Add, kept, added);
    let bent = g.unary(UnaryKind::Tanh, c);
    (g.binary(Mul, o, bent), c)
}

/// As `nn.LSTMCell` in a loop: two layers, the state's first, added.
fn torch_lstm(
    g: &mut Build,
    w: &Weights,
    x: ValueId,
    h: ValueId,
    c: ValueId,
) -> (ValueId, ValueId) {
    let of_state = dense(g, h, w.state, w.biases[0]);
    let of_input = dense(g, x, w.input, w.biases[1]);
    let sums = g.binary(Add, of_state, of_input);
    lstm(g, sums, TORCH, c)
}

fn state(g: &mut Build, batch: &Dim) -> ValueId {
    g.input_dims(vec![batch.clone(), HIDDEN.into()])
}

fn input(g: &mut Build, batch: &Dim) -> ValueId {
    g.input_dims(vec![batch.clone(), INPUT.into()])
}

#[test]
fn lstm_cells() {
    check_cases(&[
        Case {
            name: "PyTorch: two time steps from given states",
            build: |g| {
                let batch = g.batch();
                let w = weights(g, 4);
                let (mut h, mut c) = (state(g, &batch), state(g, &batch));
                for _ in 0..2 {
                    let x = input(g, &batch);
                    (h, c) = torch_lstm(g, &w, x, h, c);
                }
                g.finish(&[h, c])
            },
            left: "MatMul+bias Reshape Reshape Reshape Recurrent \
                   MatMul+bias Reshape Recurrent Reshape Reshape",
        },
        Case {
            name: "PyTorch: zeros before, every state an output, input as large as the state",
            build: |g| {
                let batch = Dim::from(2usize);
                let (of_input, of_state) =
                    (g.random(&[HIDDEN, 4 * HIDDEN]), g.random(&[HIDDEN, 4 * HIDDEN]));
                let bias = g.random(&[4 * HIDDEN]);
                let zeros = g.constant(&[2, HIDDEN], &[0.0; 2 * HIDDEN]);
                let w = Weights { input: of_input, state: of_state, biases: [bias, bias] };
                let (mut h, mut c) = (zeros, zeros);
                let mut states = vec![];
                for _ in 0..3 {
                    let x = state(g, &batch);
                    (h, c) = torch_lstm(g, &w, x, h, c);
                    states.push(h);
                }
                g.finish(&states)
            },
            left: "MatMul+bias Reshape Recurrent Reshape MatMul+bias Reshape Recurrent Reshape \
                   MatMul+bias Reshape Recurrent Reshape",
        },
        Case {
            name: "PyTorch: the first product folded away by the exporter",
            build: |g| {
                let batch = Dim::from(2usize);
                let w = weights(g, 4);
                let zeros = g.constant(&[1, HIDDEN], &[0.0; HIDDEN]);
                let folded = g.random(&[1, 4 * HIDDEN]);
                let x = input(g, &batch);
                let of_input = dense(g, x, w.input, w.biases[0]);
                let sums = g.binary(Add, folded, of_input);
                let (h, c) = lstm(g, sums, TORCH, zeros);
                let x = input(g, &batch);
                let (h, _) = torch_lstm(g, &w, x, h, c);
                g.finish(&[h])
            },
            left: "MatMul+bias Reshape Recurrent MatMul+bias Reshape Recurrent Reshape",
        },
        Case {
            name: "Keras: the input's product first, one bias, gates in order i f c o",
            build: |g| {
                let batch = g.batch();
                let w = weights(g, 4);
                let (mut h, mut c) = (state(g, &batch), state(g, &batch));
                for _ in 0..2 {
                    let x = input(g, &batch);
                    let (of_input, of_state) = (g.matmul(x, w.input), g.matmul(h, w.state));
                    let sums = g.binary(Add, of_input, of_state);
                    let sums = g.binary(Add, sums, w.biases[0]);
                    (h, c) = lstm(g, sums, "ifgo", c);
                }
                g.finish(&[h])
            },
            left: "MatMul+bias Reshape Reshape Reshape Recurrent \
                   MatMul+bias Reshape Recurrent Reshape",
        },
        Case {
            name: "Keras, implementation 1: a product per gate, and hard sigmoids",
            build: |g| {
                let batch = g.batch();
                let (x, h, c) = (input(g, &batch), state(g, &batch), state(g, &batch));
                let mut gates = vec![];
                for letter in "ifgo".chars() {
                    let w = g.random(&[INPUT, HIDDEN]);
                    let r = g.random(&[HIDDEN, HIDDEN]);
                    let bias = g.random(&[HIDDEN]);
                    let of_input = dense(g, x, w, bias);
                    let of_state = g.matmul(h, r);
                    let sum = g.binary(Add, of_input, of_state);
                    let function = match letter {
                        'g' => UnaryKind::Tanh,
                        _ => UnaryKind::HardSigmoid { alpha: 0.2, beta: 0.5 },
                    };
                    gates.push(g.unary(function, sum));
                }
                let (h, c) = lstm_end(g, [gates[0], gates[1], gates[2], gates[3]], c);
                g.finish(&[h, c])
            },
            left: "MatMul+bias Reshape Reshape Reshape Recurrent Reshape Reshape",
        },
        Case {
            name: "TensorFlow: input and state joined, order i j f o, a forget bias",
            build: |g| {
                let batch = g.batch();
                let kernel = g.random(&[INPUT + HIDDEN, 4 * HIDDEN]);
                let bias = g.random(&[4 * HIDDEN]);
                let (mut h, mut c) = (state(g, &batch), state(g, &batch));
                for _ in 0..2 {
                    let x = input(g, &batch);
                    let joined = g.concat(&[x, h], 1);
                    let sums = dense(g, joined, kernel, bias);
                    let mut gate = |index: usize, function: UnaryKind, added: f32| {
                        let mut sum = part(g, sums, index);
                        if added != 0.0 {
                            let added = g.scalar(added);
                            sum = g.binary(Add, sum, added);
                        }
                        g.unary(function, sum)
                    };
                    let i = gate(0, UnaryKind::Sigmoid, 0.0);
                    let j = gate(1, UnaryKind::Tanh, 0.0);
                    let f = gate(2, UnaryKind::Sigmoid, 1.0);
                    let o = gate(3, UnaryKind::Sigmoid, 0.0);
                    (h, c) = lstm_end(g, [i, f, j, o], c);
                }
                g.finish(&[h])
            },
            left: "MatMul+bias Reshape Reshape Reshape Recurrent \
                   MatMul+bias Reshape Recurrent Reshape",
        },
        Case {
            name: "the input's part computed elsewhere, weights stored by columns",
            build: |g| {
                let batch = Dim::from(2usize);
                let of_input = g.input(&[2, 4 * HIDDEN]);
                let (h, c) = (state(g, &batch), state(g, &batch));
                let r = g.random(&[4 * HIDDEN, HIDDEN]);
                let op = MatMul {
                    transpose_a: false,
                    transpose_b: true,
                    clamp: Clamp::NONE,
                    inner_quant: None,
                };
                let of_state =
                    g.node(Op::MatMul(op), &[h, r], vec![batch.clone(), (4 * HIDDEN).into()]);
                let sums = g.binary(Add, of_input, of_state);
                let (h, c) = lstm(g, sums, TORCH, c);
                g.finish(&[h, c])
            },
            left: "Slice Slice Slice Slice Concat Reshape Reshape Reshape Recurrent \
                   Reshape Reshape",
        },
        Case {
            name: "a gate that is read elsewhere",
            build: |g| {
                let batch = Dim::from(2usize);
                let w = weights(g, 4);
                let (x, h, c) = (input(g, &batch), state(g, &batch), state(g, &batch));
                let of_state = g.matmul(h, w.state);
                let of_input = g.matmul(x, w.input);
                let sums = g.binary(Add, of_state, of_input);
                let gates: Vec<ValueId> = (0..4)
                    .map(|index| {
                        let sum = part(g, sums, index);
                        g.unary(if index == 2 { UnaryKind::Tanh } else { UnaryKind::Sigmoid }, sum)
                    })
                    .collect();
                let (h, _) = lstm_end(g, [gates[0], gates[1], gates[2], gates[3]], c);
                g.finish(&[h, gates[3]])
            },
            left: "MatMul MatMul+residual Slice Sigmoid Slice Sigmoid Slice Tanh Slice Sigmoid \
                   Mul Mul Add Tanh Mul",
        },
        Case {
            name: "a forget gate by another function",
            build: |g| {
                let batch = Dim::from(2usize);
                let w = weights(g, 4);
                let (x, h, c) = (input(g, &batch), state(g, &batch), state(g, &batch));
                let of_state = g.matmul(h, w.state);
                let of_input = g.matmul(x, w.input);
                let sums = g.binary(Add, of_state, of_input);
                let functions = [
                    UnaryKind::Sigmoid,
                    UnaryKind::HardSigmoid { alpha: 0.2, beta: 0.5 },
                    UnaryKind::Tanh,
                    UnaryKind::Sigmoid,
                ];
                let gates: Vec<ValueId> = (0..4)
                    .map(|index| {
                        let sum = part(g, sums, index);
                        g.unary(functions[index], sum)
                    })
                    .collect();
                let (h, _) = lstm_end(g, [gates[0], gates[1], gates[2], gates[3]], c);
                g.finish(&[h])
            },
            left: "MatMul MatMul+residual Slice Sigmoid Slice HardSigmoid { alpha: 0.2, beta: 0.5 } Slice Tanh Slice \
                   Sigmoid Mul Mul Add Tanh Mul",
        },
        Case {
            name: "weights that are computed",
            build: |g| {
                let batch = Dim::from(2usize);
                let w = weights(g, 4);
                let (x, h, c) = (input(g, &batch), state(g, &batch), state(g, &batch));
                let r = g.input(&[HIDDEN, 4 * HIDDEN]);
                let of_state = g.matmul(h, r);
                let of_input = g.matmul(x, w.input);
                let sums = g.binary(Add, of_state, of_input);
                let (h, _) = lstm(g, sums, TORCH, c);
                g.finish(&[h])
            },
            left: "MatMul MatMul+residual Slice Sigmoid Slice Sigmoid Slice Tanh Slice Sigmoid \
                   Mul Mul Add Tanh Mul",
        },
    ]);
}

#[test]
fn time_steps_share_their_weights() {
    let g = &mut Build::default();
    let batch = Dim::from(2usize);
    let w = weights(g, 4);
    let zeros = g.constant(&[2, HIDDEN], &[0.0; 2 * HIDDEN]);
    let (mut h, mut c) = (zeros, zeros);
    for _ in 0..5 {
        let x = input(g, &batch);
        (h, c) = torch_lstm(g, &w, x, h, c);
    }
    let mut graph = g.finish(&[h]);
    super::super::run_all(&mut graph, &[], &mut |_, _| ());
    let constants = graph.values.iter().filter(|value| value.constant.is_some());
    let mut shapes: Vec<Vec<usize>> = constants.filter_map(|value| value.const_shape()).collect();
    shapes.sort();
    let (input, state) = (vec![INPUT, 4 * HIDDEN], vec![1, HIDDEN, 4 * HIDDEN]);
    assert_eq!(shapes, [state, input, vec![4 * HIDDEN]]);
}

/// Reset and update of PyTorch and Keras, reset behind the product.
fn gru(g: &mut Build, w: &Weights, x: ValueId, h: ValueId, order: &str, torch: bool) -> ValueId {
    let of_input = dense(g, x, w.input, w.biases[0]);
    let of_state = dense(g, h, w.state, w.biases[1]);
    let mut both = |letter: char| {
        let index = order.find(letter).expect("a gate");
        [part(g, of_input, index), part(g, of_state, index)]
    };
    let [r, z, n] = ['r', 'z', 'n'].map(&mut both);
    let r = g.binary(Add, r[0], r[1]);
    let r = g.unary(UnaryKind::Sigmoid, r);
    let z = g.binary(Add, z[0], z[1]);
    let z = g.unary(UnaryKind::Sigmoid, z);
    let share = g.binary(Mul, r, n[1]);
    let n = g.binary(Add, n[0], share);
    let n = g.unary(UnaryKind::Tanh, n);
    gru_end(g, z, h, n, torch)
}

fn gru_end(g: &mut Build, z: ValueId, h: ValueId, n: ValueId, torch: bool) -> ValueId {
    if torch {
        let way = g.binary(Sub, h, n);
        let way = g.binary(Mul, way, z);
        return g.binary(Add, way, n);
    }
    let one = g.scalar(1.0);
    let rest = g.binary(Sub, one, z);
    let (old, new) = (g.binary(Mul, z, h), g.binary(Mul, rest, n));
    g.binary(Add, old, new)
}

#[test]
fn gru_cells() {
    check_cases(&[
        Case {
            name: "PyTorch: two time steps, reset first",
            build: |g| {
                let batch = g.batch();
                let w = weights(g, 3);
                let mut h = state(g, &batch);
                for _ in 0..2 {
                    let x = input(g, &batch);
                    h = gru(g, &w, x, h, "rzn", true);
                }
                g.finish(&[h])
            },
            left: "MatMul+bias Reshape Reshape Recurrent MatMul+bias Reshape Recurrent Reshape",
        },
        Case {
            name: "PyTorch: zeros before",
            build: |g| {
                let batch = Dim::from(2usize);
                let w = weights(g, 3);
                let mut h = g.constant(&[2, HIDDEN], &[0.0; 2 * HIDDEN]);
                for _ in 0..2 {
                    let x = input(g, &batch);
                    h = gru(g, &w, x, h, "rzn", true);
                }
                g.finish(&[h])
            },
            left: "MatMul+bias Reshape Recurrent MatMul+bias Reshape Recurrent Reshape",
        },
        Case {
            name: "Keras, reset_after: update first",
            build: |g| {
                let batch = g.batch();
                let w = weights(g, 3);
                let (x, h) = (input(g, &batch), state(g, &batch));
                let h = gru(g, &w, x, h, "zrn", false);
                g.finish(&[h])
            },
            left: "MatMul+bias Reshape Reshape Recurrent Reshape",
        },
        Case {
            name: "Keras, not reset_after",
            build: |g| {
                let batch = g.batch();
                let w = weights(g, 3);
                let (x, mut h) = (input(g, &batch), state(g, &batch));
                for _ in 0..2 {
                    let of_input = dense(g, x, w.input, w.biases[0]);
                    let narrow = g.slice(w.state, 1, 0, 1, 2 * HIDDEN);
                    let of_state = g.matmul(h, narrow);
                    let mut gate = |index: usize| {
                        let (a, b) = (part(g, of_input, index), part(g, of_state, index));
                        let sum = g.binary(Add, a, b);
                        g.unary(UnaryKind::Sigmoid, sum)
                    };
                    let (z, r) = (gate(0), gate(1));
                    let candidate = g.slice(w.state, 1, 2 * HIDDEN as i64, 1, HIDDEN);
                    let seen = g.binary(Mul, r, h);
                    let seen = g.matmul(seen, candidate);
                    let n = part(g, of_input, 2);
                    let n = g.binary(Add, n, seen);
                    let n = g.unary(UnaryKind::Tanh, n);
                    h = gru_end(g, z, h, n, false);
                }
                g.finish(&[h])
            },
            left: "MatMul+bias Reshape Reshape Recurrent Recurrent Reshape",
        },
        Case {
            name: "TensorFlow: joined with the input, before and behind the reset",
            build: |g| {
                let batch = g.batch();
                let gates = g.random(&[INPUT + HIDDEN, 2 * HIDDEN]);
                let candidate = g.random(&[INPUT + HIDDEN, HIDDEN]);
                let biases = [g.random(&[2 * HIDDEN]), g.random(&[HIDDEN])];
                let (x, h) = (input(g, &batch), state(g, &batch));
                let joined = g.concat(&[x, h], 1);
                let both = dense(g, joined, gates, biases[0]);
                let both = g.unary(UnaryKind::Sigmoid, both);
                let (r, z) = (part(g, both, 0), part(g, both, 1));
                let seen = g.binary(Mul, r, h);
                let joined = g.concat(&[x, seen], 1);
                let n = dense(g, joined, candidate, biases[1]);
                let n = g.unary(UnaryKind::Tanh, n);
                let h = gru_end(g, z, h, n, false);
                g.finish(&[h])
            },
            left: "MatMul+bias Reshape Reshape Recurrent Reshape",
        },
        Case {
            name: "a mean of two, not of state and candidate",
            build: |g| {
                let batch = Dim::from(2usize);
                let w = weights(g, 1);
                let (x, a) = (input(g, &batch), state(g, &batch));
                let z = g.matmul(x, w.input);
                let z = g.unary(UnaryKind::Sigmoid, z);
                let n = g.matmul(a, w.state);
                let n = g.unary(UnaryKind::Tanh, n);
                let y = gru_end(g, z, a, n, false);
                g.finish(&[y])
            },
            left: "MatMul Sigmoid MatMul Tanh Sub Mul Mul Add",
        },
    ]);
}

//! Identities, common sub-expressions, constants, formulas and look-ups.

use whit::DType;

use super::*;
use crate::dim::Dim;
use crate::graph::{BinaryKind, CompareKind, UnaryKind};
use crate::tensor::Tensor;

#[test]
fn nodes_that_change_nothing() {
    check_cases(&[
        Case {
            name: "identities",
            build: |g| {
                let x = g.input(&[2, 3, 4]);
                let y = g.unary(UnaryKind::Tanh, x);
                let y = g.transpose(y, &[0, 1, 2]);
                let y = g.pad(y, &[0, 0, 0], &[0, 0, 0]);
                let y = g.slice(y, 1, 0, 1, 3);
                let y = g.concat(&[y], 0);
                let shape = g.shape(y);
                let y = g.reshape(y, shape.clone());
                let y = g.node(Op::Expand, &[y], shape.clone());
                let y = g.node(Op::Cast, &[y], shape);
                let one = g.scalar(1.0);
                let y = g.binary(BinaryKind::Mul, y, one);
                let infinite = UnaryKind::Clip { min: f32::NEG_INFINITY, max: f32::INFINITY };
                let y = g.unary(infinite, y);
                g.finish(&[y])
            },
            left: "Tanh",
        },
        Case {
            name: "clamps in a row, and written as maximum and minimum",
            build: |g| {
                let x = g.input(&[8]);
                let y = g.unary(UnaryKind::Relu, x);
                let y = g.unary(UnaryKind::Relu, y);
                let six = g.scalar(6.0);
                let y = g.binary(BinaryKind::Min, six, y);
                g.finish(&[y])
            },
            left: "Clip { min: 0.0, max: 6.0 }",
        },
        Case {
            name: "an input returned unchanged stays a node",
            build: |g| {
                let x = g.input(&[2, 3]);
                let shape = g.shape(x);
                let y = g.reshape(x, shape);
                g.finish(&[y])
            },
            left: "Reshape",
        },
        Case {
            name: "equal nodes and equal constants, one result unused",
            build: |g| {
                let x = g.input(&[4]);
                let (one, same) = (g.scalar(1.5), g.scalar(1.5));
                let a = g.binary(BinaryKind::Add, x, one);
                let b = g.binary(BinaryKind::Add, x, same);
                g.unary(UnaryKind::Exp, a);
                let y = g.binary(BinaryKind::Mul, a, b);
                g.finish(&[y])
            },
            left: "Add Mul",
        },
        Case {
            name: "moved constants",
            build: |g| {
                let x = g.input(&[4, 6]);
                let (a, b) = (g.random(&[3, 4]), g.random(&[3, 4]));
                let c = g.concat(&[a, b], 0);
                let c = g.transpose(c, &[1, 0]);
                let c = g.slice(c, 1, 5, -1, 6);
                let c = g.reshape(c, vec![Dim::from(2i64), Dim::from(12i64)]);
                let c = g.reshape(c, vec![Dim::from(4i64), Dim::from(6i64)]);
                let y = g.binary(BinaryKind::Mul, x, c);
                g.finish(&[y])
            },
            left: "Mul",
        },
        Case {
            name: "an expansion before broadcasting",
            build: |g| {
                let n = g.batch();
                let x = g.input_dims(vec![n.clone(), Dim::from(5i64)]);
                let mean = g.mean(x, &[1], true);
                let all = g.shape(x);
                let mean = g.node(Op::Expand, &[mean], all);
                let y = g.binary(BinaryKind::Sub, x, mean);
                g.finish(&[y])
            },
            left: "Reduce Sub",
        },
        Case {
            name: "reshapes around pointwise nodes",
            build: |g| {
                let n = g.batch();
                let x = g.input_dims(vec![n.clone(), Dim::from(1i64), Dim::from(6i64)]);
                let y = g.reshape(x, vec![n.clone(), Dim::from(6i64)]);
                let y = g.unary(UnaryKind::Tanh, y);
                let y = g.qdq(y);
                let y = g.reshape(y, vec![n.clone(), Dim::from(2i64), Dim::from(3i64)]);
                let y = g.reshape(y, vec![n, Dim::from(1i64), Dim::from(6i64)]);
                g.finish(&[y])
            },
            left: "Tanh Quantize Dequantize",
        },
    ]);
}

#[test]
#[allow(clippy::approx_constant, reason = "the digits that exporters write")]
fn activation_formulas() {
    use BinaryKind::{Add, Div, Mul, Pow};
    check_cases(&[
        Case {
            name: "x * sigmoid(x)",
            build: |g| {
                let x = g.input(&[64]);
                let s = g.unary(UnaryKind::Sigmoid, x);
                let y = g.binary(Mul, s, x);
                g.finish(&[y])
            },
            left: "Silu",
        },
        Case {
            name: "hard swish as PyTorch exports it to old operator sets",
            build: |g| {
                let x = g.input(&[64]);
                let (three, six) = (g.scalar(3.0), g.scalar(6.0));
                let s = g.binary(Add, x, three);
                let s = g.unary(UnaryKind::Clip { min: 0.0, max: 6.0 }, s);
                let y = g.binary(Mul, x, s);
                let y = g.binary(Div, y, six);
                g.finish(&[y])
            },
            left: "HardSwish",
        },
        Case {
            name: "x * hardsigmoid(x)",
            build: |g| {
                let x = g.input(&[64]);
                let s = g.unary(UnaryKind::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }, x);
                let y = g.binary(Mul, x, s);
                g.finish(&[y])
            },
            left: "HardSwish",
        },
        Case {
            name: "gelu as PyTorch exports it",
            build: |g| {
                let x = g.input(&[64]);
                let (root, one, half) = (g.scalar(1.4142135), g.scalar(1.0), g.scalar(0.5));
                let e = g.binary(Div, x, root);
                let e = g.unary(UnaryKind::Erf, e);
                let e = g.binary(Add, e, one);
                let y = g.binary(Mul, x, e);
                let y = g.binary(Mul, y, half);
                g.finish(&[y])
            },
            left: "Gelu",
        },
        Case {
            name: "gelu by tanh, the cube as a power",
            build: |g| {
                let x = g.input(&[64]);
                let (three, c, r) = (g.scalar(3.0), g.scalar(0.044715), g.scalar(0.7978846));
                let (one, half) = (g.scalar(1.0), g.scalar(0.5));
                let cube = g.binary(Pow, x, three);
                let t = g.binary(Mul, cube, c);
                let t = g.binary(Add, x, t);
                let t = g.binary(Mul, t, r);
                let t = g.unary(UnaryKind::Tanh, t);
                let t = g.binary(Add, t, one);
                let h = g.binary(Mul, x, half);
                let y = g.binary(Mul, h, t);
                g.finish(&[y])
            },
            left: "GeluTanh",
        },
        Case {
            name: "gelu by tanh as JAX exports it, on a computed x",
            build: |g| {
                let x = g.input(&[64]);
                let shift = g.scalar(0.3);
                let x = g.binary(Add, x, shift);
                let (c, r) = (g.scalar(0.044715), g.scalar(0.7978846));
                let (one, half) = (g.scalar(1.0), g.scalar(0.5));
                let t = g.binary(Mul, c, x);
                let t = g.binary(Mul, x, t);
                let t = g.binary(Mul, x, t);
                let t = g.binary(Add, x, t);
                let t = g.binary(Mul, r, t);
                let t = g.unary(UnaryKind::Tanh, t);
                let t = g.binary(Add, one, t);
                let t = g.binary(Mul, half, t);
                let y = g.binary(Mul, x, t);
                g.finish(&[y])
            },
            left: "Add GeluTanh",
        },
        Case {
            name: "almost a silu",
            build: |g| {
                let x = g.input(&[64]);
                let k = g.scalar(1.702);
                let s = g.binary(Mul, x, k);
                let s = g.unary(UnaryKind::Sigmoid, s);
                let y = g.binary(Mul, x, s);
                g.finish(&[y])
            },
            left: "Mul Sigmoid Mul",
        },
        Case {
            name: "a part of the formula is an output, too",
            build: |g| {
                let x = g.input(&[64]);
                let s = g.unary(UnaryKind::Sigmoid, x);
                let y = g.binary(Mul, x, s);
                g.finish(&[y, s])
            },
            left: "Sigmoid Mul",
        },
    ]);
}

#[test]
fn look_ups() {
    check_cases(&[
        Case {
            name: "a one-hot product, indices outside included",
            build: |g| {
                let n = g.batch();
                let x = g.graph.add_value("x", DType::I32, vec![n.clone(), Dim::from(9i64)]);
                g.graph.inputs.push(x);
                let (nine, five) = (Dim::from(9i64), Dim::from(5i64));
                let i = g.reshape(x, vec![n.clone(), nine.clone(), Dim::from(1i64)]);
                let i = g.node(Op::Expand, &[i], vec![n.clone(), nine.clone(), five.clone()]);
                let counted = Tensor::from_i32([1, 1, 5], &[0, 1, 2, 3, 4]);
                let counted = g.graph.add_constant("iota", counted);
                let hot = g.node(
                    Op::Compare(CompareKind::Equal),
                    &[i, counted],
                    vec![n.clone(), nine.clone(), five.clone()],
                );
                let shape = g.shape(hot);
                let float = g.node(Op::Cast, &[hot], shape);
                g.graph.value_mut(hot).dtype = DType::Bool;
                for id in [1, 2] {
                    g.graph.values[id].dtype = DType::I32;
                }
                let y = g.dense(float, 3);
                g.finish(&[y])
            },
            left: "Max Min Gather",
        },
        Case {
            name: "a gather of the last index",
            build: |g| {
                let n = g.batch();
                let x = g.input_dims(vec![n.clone(), Dim::from(4i64), Dim::from(2i64)]);
                let last = g.graph.add_constant("i", Tensor::from_i64([], &[-1]));
                let y = g.node(Op::Gather { axis: 1 }, &[x, last], vec![n, Dim::from(2i64)]);
                g.finish(&[y])
            },
            left: "Slice Reshape",
        },
        Case {
            name: "PyTorch, dynamo: as_strided as a gather of all elements, and one of some of them",
            build: |g| {
                let x = g.input(&[6]);
                let dims = |d: &[usize]| d.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>();
                let mut gather = |values: &[i64], shape: &[usize]| {
                    let indices = g.graph.add_constant("i", Tensor::from_i64(shape, values));
                    g.node(Op::Gather { axis: 0 }, &[x, indices], dims(shape))
                };
                let all = gather(&[0, 1, 2, 3, 4, 5], &[1, 6, 1]);
                let some = gather(&[2, 3, 4, 5], &[2, 2]);
                let last = gather(&[-2, -1], &[2]);
                let around = gather(&[-1, 0], &[2]);
                let steps = gather(&[0, 2], &[2]);
                g.finish(&[all, some, last, around, steps])
            },
            left: "Reshape Slice Reshape Slice Gather Gather",
        },
    ]);
}

#[test]
fn fold_with_evaluates_but_keeps_dequantized_weights() {
    let mut g = Build::default();
    let x = g.input(&[2, 4]);
    let (a, b) = (g.random(&[4]), g.random(&[4]));
    let sum = g.binary(BinaryKind::Add, a, b);
    let y = g.binary(BinaryKind::Mul, x, sum);
    let w = g.weights_i8(&[4, 3], 1);
    let y = g.matmul(y, w);
    let before = g.finish(&[y]);
    let mut after = before.clone();
    let evaluate = |single: &Graph| {
        let array = oracle::run(single, &[], &[]).pop()?;
        let values: Vec<f32> = array.data.iter().map(|v| *v as f32).collect();
        Some(vec![Tensor::from_f32(array.shape, &values)])
    };
    assert!(super::super::fold_with(&mut after, &evaluate));
    assert_eq!(summary(&after), "Mul Dequantize MatMul");
    assert_same("fold_with", &before, &after);
    assert!(!super::super::fold_with(&mut after, &evaluate));
}

#[test]
fn arithmetic_between_reshapes() {
    use crate::graph::BinaryKind::{Add, Mul};
    check_cases(&[
        Case {
            name: "PaddlePaddle: squeeze-and-excitation with biases added per channel of NCHW",
            build: |g| {
                let n = g.batch();
                let x = g.input_dims(vec![n, 4usize.into(), 5usize.into(), 6usize.into()]);
                let x = g.transpose(x, &[0, 3, 1, 2]);
                let mut y = g.mean(x, &[2, 3], true);
                for (channels, kind) in [(3, UnaryKind::Relu), (6, UnaryKind::Sigmoid)] {
                    y = g.transpose(y, &[0, 2, 3, 1]);
                    y = g.conv(y, channels, 1, 0);
                    y = g.transpose(y, &[0, 3, 1, 2]);
                    let bias = g.random(&[1, channels, 1, 1]);
                    y = g.binary(Add, y, bias);
                    y = g.unary(kind, y);
                }
                let y = g.binary(Mul, x, y);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                g.finish(&[y])
            },
            left: "Reduce MatMul+bias+clamp MatMul+bias Sigmoid Mul",
        },
        Case {
            name: "a factor of some of the axes that become one",
            build: |g| {
                let x = g.input(&[2, 3, 4]);
                let y = g.reshape(x, [6usize, 4].map(Dim::from).to_vec());
                let by = g.random(&[6, 1]);
                let y = g.binary(Mul, y, by);
                let y = g.reshape(y, [24usize].map(Dim::from).to_vec());
                let z = g.reshape(x, [2usize, 3, 2, 2].map(Dim::from).to_vec());
                let by = g.random(&[2, 1]);
                let z = g.binary(Mul, z, by);
                let z = g.reshape(z, [24usize].map(Dim::from).to_vec());
                g.finish(&[y, z])
            },
            left: "Mul Reshape Reshape Mul Reshape",
        },
    ]);
}

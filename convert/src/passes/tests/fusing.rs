//! Normalisation, scales, biases, residuals and clamps into layers.

use super::*;
use crate::dim::Dim;
use crate::graph::{BinaryKind, UnaryKind};

#[test]
fn normalisation_and_bias() {
    use BinaryKind::{Add, Div, Mul, Sub};
    check_cases(&[
        Case {
            name: "conv, batch norm, relu as PyTorch exports them to NCHW",
            build: |g| {
                let n = g.batch();
                let x = g.input_dims(vec![n, Dim::from(5i64), Dim::from(5i64), Dim::from(3i64)]);
                let x = g.transpose(x, &[0, 3, 1, 2]);
                let y = g.conv_nchw(x, 4, 3, 1);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                let y = g.batch_norm(y);
                let y = g.transpose(y, &[0, 3, 1, 2]);
                let y = g.unary(UnaryKind::Relu, y);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                g.finish(&[y])
            },
            left: "Conv+bias+clamp",
        },
        Case {
            name: "conv, mul, add as tf2onnx exports batch norm",
            build: |g| {
                let x = g.input(&[1, 6, 5, 3]);
                let x = g.transpose(x, &[0, 3, 1, 2]);
                let y = g.conv_nchw(x, 4, 3, 1);
                let (scale, shift) = (g.random(&[1, 4, 1, 1]), g.random(&[4, 1, 1]));
                let y = g.binary(Mul, y, scale);
                let y = g.binary(Add, y, shift);
                let y = g.unary(UnaryKind::Relu, y);
                let y = g.unary(UnaryKind::Clip { min: -1.0, max: 6.0 }, y);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                g.finish(&[y])
            },
            left: "Conv+bias+clamp",
        },
        Case {
            name: "matmul, add, mul, add, relu",
            build: |g| {
                let x = g.input(&[3, 7]);
                let y = g.dense(x, 5);
                let (bias, scale, shift) = (g.random(&[5]), g.random(&[1, 5]), g.random(&[1, 5]));
                let y = g.binary(Add, y, bias);
                let y = g.binary(Mul, y, scale);
                let y = g.binary(Add, shift, y);
                let y = g.unary(UnaryKind::Relu, y);
                g.finish(&[y])
            },
            left: "MatMul+bias+clamp",
        },
        Case {
            name: "subtraction and division, and a number minus a layer",
            build: |g| {
                let x = g.input(&[3, 7]);
                let y = g.dense(x, 5);
                let (a, two) = (g.random(&[5]), g.scalar(2.0));
                let y = g.binary(Sub, y, a);
                let y = g.binary(Div, y, two);
                let y = g.binary(Sub, two, y);
                g.finish(&[y])
            },
            left: "MatMul+bias",
        },
        Case {
            name: "batch norm before a convolution without padding",
            build: |g| {
                let x = g.input(&[1, 6, 5, 3]);
                let y = g.batch_norm(x);
                let y = g.conv(y, 4, 3, 0);
                g.finish(&[y])
            },
            left: "Conv+bias",
        },
        Case {
            name: "batch norm before a convolution with padding",
            build: |g| {
                let x = g.input(&[1, 6, 5, 3]);
                let y = g.batch_norm(x);
                let y = g.conv(y, 4, 3, 1);
                g.finish(&[y])
            },
            left: "Mul Add Conv+bias",
        },
        Case {
            name: "a number in front of a convolution with padding",
            build: |g| {
                let x = g.input(&[1, 6, 5, 3]);
                let three = g.scalar(3.0);
                let y = g.binary(Div, x, three);
                let y = g.conv(y, 4, 3, 1);
                g.finish(&[y])
            },
            left: "Conv+bias",
        },
        Case {
            name: "scales in front of a layer that are too far apart for one range of weights",
            build: |g| {
                let x = g.input(&[4, 3]);
                let scale = g.constant(&[3], &[1.0, -0.05, 0.5]);
                let y = g.binary(Mul, x, scale);
                let y = g.dense(y, 2);
                g.finish(&[y])
            },
            left: "Mul MatMul",
        },
        Case {
            name: "a scale and a shift between convolutions that an activation parts",
            build: |g| {
                let x = g.input(&[1, 6, 5, 3]);
                let y = g.conv(x, 4, 1, 0);
                let y = g.unary(UnaryKind::Tanh, y);
                let scale = g.constant(&[4], &[0.5, -1.5, 2.0, 0.25]);
                let shift = g.random(&[4]);
                let y = g.binary(Mul, scale, y);
                let y = g.binary(Sub, shift, y);
                let y = g.conv(y, 3, 3, 0);
                let y = g.unary(UnaryKind::Tanh, y);
                let shift = g.scalar(0.25);
                let z = g.binary(Add, y, shift);
                let z = g.conv(z, 3, 3, 1);
                let w = g.dense(y, 2);
                g.finish(&[z, w])
            },
            left: "Conv+bias Tanh Conv+bias Tanh Add Conv+bias MatMul",
        },
        Case {
            name: "batch norm before a matrix product",
            build: |g| {
                let x = g.input(&[4, 6]);
                let y = g.batch_norm(x);
                let y = g.dense(y, 3);
                g.finish(&[y])
            },
            left: "MatMul+bias",
        },
        Case {
            name: "batch norm of a layer that is read elsewhere, too",
            build: |g| {
                let x = g.input(&[4, 6]);
                let y = g.dense(x, 3);
                let z = g.batch_norm(y);
                g.finish(&[y, z])
            },
            left: "MatMul Mul Add",
        },
        Case {
            name: "a float bias on integer weights, and a scale that stays",
            build: |g| {
                let x = g.input(&[4, 6]);
                let w = g.weights_i8(&[6, 3], 1);
                let y = g.matmul(x, w);
                let (bias, scale) = (g.random(&[3]), g.random(&[3]));
                let y = g.binary(Add, y, bias);
                let y = g.binary(Mul, y, scale);
                g.finish(&[y])
            },
            left: "Dequantize MatMul+bias Mul",
        },
        Case {
            name: "a scale that grows the result",
            build: |g| {
                let x = g.input(&[1, 6]);
                let y = g.dense(x, 1);
                let scale = g.random(&[4]);
                let y = g.binary(Mul, y, scale);
                g.finish(&[y])
            },
            left: "MatMul Mul",
        },
    ]);
}

#[test]
fn residuals() {
    use BinaryKind::Add;
    check_cases(&[
        Case {
            name: "a residual block in NCHW",
            build: |g| {
                let x = g.input(&[1, 5, 5, 4]);
                let x = g.transpose(x, &[0, 3, 1, 2]);
                let a = g.conv_nchw(x, 4, 3, 1);
                let a = g.unary(UnaryKind::Relu, a);
                let b = g.conv_nchw(a, 4, 3, 1);
                let y = g.binary(Add, x, b);
                let y = g.unary(UnaryKind::Relu, y);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                g.finish(&[y])
            },
            left: "Conv+bias+clamp Conv+bias+residual+clamp",
        },
        Case {
            name: "two convolutions meet: the later one takes the sum",
            build: |g| {
                let x = g.input(&[1, 5, 5, 4]);
                let a = g.conv(x, 4, 1, 0);
                let b = g.conv(x, 4, 3, 1);
                let y = g.binary(Add, b, a);
                let y = g.unary(UnaryKind::Clip { min: 0.0, max: 6.0 }, y);
                g.finish(&[y])
            },
            left: "Conv+bias Conv+bias+residual+clamp",
        },
        Case {
            name: "the other operand comes after the layer",
            build: |g| {
                let x = g.input(&[3, 4]);
                let a = g.dense(x, 4);
                let b = g.unary(UnaryKind::Tanh, x);
                let y = g.binary(Add, a, b);
                g.finish(&[y])
            },
            left: "Tanh MatMul+residual",
        },
        Case {
            name: "an activation in between, a broadcast operand, twice the same",
            build: |g| {
                let (x, row) = (g.input(&[3, 4]), g.input(&[1, 4]));
                let a = g.dense(x, 4);
                let a = g.unary(UnaryKind::Relu, a);
                let y = g.binary(Add, a, x);
                let b = g.dense(y, 4);
                let y = g.binary(Add, b, row);
                let c = g.dense(y, 4);
                let y = g.binary(Add, c, c);
                g.finish(&[y])
            },
            left: "MatMul+clamp Add MatMul Add MatMul Add",
        },
        Case {
            name: "not in quantized graphs",
            build: |g| {
                let x = g.input(&[3, 4]);
                let a = g.dense(x, 4);
                let y = g.binary(Add, a, x);
                let y = g.qdq(y);
                g.finish(&[y])
            },
            left: "MatMul Add Quantize Dequantize",
        },
    ]);
}

/// A transposed convolution of stride 2 as importers write it: phases side by side, then in their places.
fn upscaled(g: &mut Build, channels: usize) -> crate::graph::ValueId {
    let dims = |d: &[usize]| d.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>();
    let x = g.input(&[1, 3, 5, 2]);
    let y = g.conv(x, 4 * channels, 1, 0);
    let y = g.reshape(y, dims(&[3, 5, 2, 2, channels]));
    let y = g.transpose(y, &[0, 2, 1, 3, 4]);
    g.reshape(y, dims(&[1, 6, 10, channels]))
}

#[test]
fn behind_moved_data() {
    use BinaryKind::Mul;
    check_cases(&[
        Case {
            name: "PyTorch: transposed convolution, batch norm, relu",
            build: |g| {
                let y = upscaled(g, 3);
                let y = g.slice(y, 1, 0, 1, 5);
                let y = g.batch_norm(y);
                let y = g.unary(UnaryKind::Relu, y);
                g.finish(&[y])
            },
            left: "Conv+bias+clamp Reshape Transpose Reshape Slice",
        },
        Case {
            name: "Keras 3 through tf2onnx: transposed convolution, batch norm as a product",
            build: |g| {
                let y = upscaled(g, 3);
                let scale = g.random(&[1, 1, 1, 3]);
                let y = g.binary(Mul, y, scale);
                g.finish(&[y])
            },
            left: "Conv+bias Reshape Transpose Reshape",
        },
        Case {
            name: "PyTorch: attention's last layer over rows, added to a sequence",
            build: |g| {
                let n = g.batch();
                let x = g.input_dims(vec![n.clone(), 3usize.into(), 4usize.into()]);
                let y = g.reshape(x, vec![n.mul(&Dim::from(3usize)), 4usize.into()]);
                let y = g.dense(y, 4);
                let shape = g.shape(x);
                let y = g.reshape(y, shape);
                let y = g.binary(BinaryKind::Add, x, y);
                g.finish(&[y])
            },
            left: "Reshape MatMul+residual Reshape",
        },
        Case {
            name: "channels in reverse order, and a part of them",
            build: |g| {
                let y = upscaled(g, 3);
                let y = g.slice(y, 3, 2, -1, 3);
                let scale = g.random(&[3]);
                let reversed = g.binary(Mul, y, scale);
                let y = upscaled(g, 4);
                let y = g.slice(y, 3, 1, 1, 2);
                let scale = g.random(&[2]);
                let part = g.binary(Mul, y, scale);
                g.finish(&[reversed, part])
            },
            left: "Conv+bias Reshape Transpose Reshape Slice Mul \
                   Conv+bias Reshape Transpose Reshape Slice Mul",
        },
        Case {
            name: "moved data that is an output, too",
            build: |g| {
                let moved = upscaled(g, 3);
                let y = g.batch_norm(moved);
                let z = g.unary(UnaryKind::Relu, moved);
                g.finish(&[y, z])
            },
            left: "Conv+bias Reshape Transpose Reshape Mul Add Relu",
        },
        Case {
            name: "channels moved among the places",
            build: |g| {
                let x = g.input(&[1, 3, 5, 2]);
                let y = g.conv(x, 6, 1, 0);
                let y = g.reshape(y, [3usize, 5, 2, 3].map(Dim::from).to_vec());
                let y = g.transpose(y, &[0, 1, 3, 2]);
                let y = g.reshape(y, [1usize, 3, 5, 6].map(Dim::from).to_vec());
                let scale = g.random(&[6]);
                let y = g.binary(Mul, y, scale);
                g.finish(&[y])
            },
            left: "Conv+bias Reshape Transpose Reshape Mul",
        },
    ]);
}

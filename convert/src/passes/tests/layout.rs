//! Transposes on their way out.

use super::*;
use crate::dim::Dim;
use crate::graph::{BinaryKind, UnaryKind, ValueId};

/// An NHWC input seen as NCHW, so that only the layout of the model itself counts.
fn nchw(g: &mut Build, h: usize, w: usize, c: usize) -> ValueId {
    let n = g.batch();
    let x = g.input_dims(vec![n, Dim::from(h), Dim::from(w), Dim::from(c)]);
    g.transpose(x, &[0, 3, 1, 2])
}

fn dims(g: &Build, like: ValueId, rest: &[usize]) -> Vec<Dim> {
    let batch = g.shape(like)[0].clone();
    std::iter::once(batch).chain(rest.iter().map(|d| Dim::from(*d))).collect()
}

#[test]
fn transposes_cancel() {
    use BinaryKind::{Add, Mul};
    check_cases(&[
        Case {
            name: "an NCHW image input keeps one",
            build: |g| {
                let x = g.input(&[1, 3, 6, 6]);
                let y = g.conv_nchw(x, 4, 3, 1);
                let y = g.unary(UnaryKind::Tanh, y);
                let y = g.conv_nchw(y, 4, 3, 1);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                g.finish(&[y])
            },
            left: "Transpose Conv+bias Tanh Conv+bias",
        },
        Case {
            name: "silu, squeeze and excite",
            build: |g| {
                let x = nchw(g, 4, 4, 6);
                let y = g.conv_nchw(x, 6, 3, 1);
                let s = g.unary(UnaryKind::Sigmoid, y);
                let y = g.binary(Mul, y, s);
                let m = g.mean(y, &[2, 3], true);
                let m = g.conv_nchw(m, 2, 1, 0);
                let m = g.unary(UnaryKind::Relu, m);
                let m = g.conv_nchw(m, 6, 1, 0);
                let m = g.unary(UnaryKind::Sigmoid, m);
                let y = g.binary(Mul, y, m);
                let y = g.conv_nchw(y, 3, 1, 0);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                g.finish(&[y])
            },
            left: "Conv+bias Silu Reduce MatMul+bias+clamp MatMul+bias Sigmoid Mul Conv+bias",
        },
        Case {
            name: "concat, slice, pad, softmax and a fan-out",
            build: |g| {
                let x = nchw(g, 5, 5, 4);
                let a = g.conv_nchw(x, 4, 3, 1);
                let b = g.conv_nchw(a, 4, 3, 1);
                let y = g.concat(&[a, b, x], 1);
                let y = g.slice(y, 2, 4, -1, 3);
                let y = g.pad(y, &[0, 1, 0, 2], &[0, 0, 1, 0]);
                let y = g.softmax(y, 1);
                let y = g.conv_nchw(y, 2, 1, 0);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                g.finish(&[y])
            },
            left: "Conv+bias Conv+bias Concat Slice Pad Softmax Conv+bias",
        },
        Case {
            name: "global average, flattened",
            build: |g| {
                let x = nchw(g, 4, 4, 6);
                let y = g.conv_nchw(x, 6, 3, 1);
                let y = g.mean(y, &[2, 3], true);
                let flat = dims(g, y, &[6]);
                let y = g.reshape(y, flat);
                let y = g.dense(y, 3);
                let y = g.softmax(y, 1);
                g.finish(&[y])
            },
            left: "Conv+bias Reduce Reshape MatMul Softmax",
        },
        Case {
            name: "flatten before a fully connected layer",
            build: |g| {
                let x = nchw(g, 3, 4, 2);
                let y = g.conv_nchw(x, 2, 3, 1);
                let y = g.unary(UnaryKind::Relu, y);
                let flat = dims(g, y, &[24]);
                let y = g.reshape(y, flat);
                let y = g.dense(y, 3);
                g.finish(&[y])
            },
            left: "Conv+bias+clamp Reshape MatMul",
        },
        Case {
            name: "flatten between quantized layers",
            build: |g| {
                let x = nchw(g, 3, 4, 2);
                let y = g.qdq(x);
                let y = g.conv_nchw(y, 2, 3, 1);
                let y = g.qdq(y);
                let flat = dims(g, y, &[24]);
                let y = g.reshape(y, flat);
                let y = g.qdq(y);
                let w = g.weights_i8(&[24, 3], 1);
                let y = g.matmul(y, w);
                g.finish(&[y])
            },
            left: "Quantize Dequantize Conv+bias Quantize Dequantize Reshape Quantize Dequantize \
                   Dequantize MatMul",
        },
        Case {
            name: "a quantized residual block",
            build: |g| {
                let x = nchw(g, 5, 5, 2);
                let x = g.qdq(x);
                let y = g.conv_nchw(x, 2, 3, 1);
                let y = g.qdq(y);
                let y = g.binary(Add, x, y);
                let y = g.qdq(y);
                let y = g.conv_nchw(y, 2, 3, 1);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                g.finish(&[y])
            },
            left: "Quantize Dequantize Conv+bias Quantize Dequantize Add Quantize Dequantize \
                   Conv+bias",
        },
        Case {
            name: "weights quantized per channel in another order of axes",
            build: |g| {
                let x = g.input(&[1, 5, 5, 3]);
                let w = g.weights_i8(&[4, 3, 3, 3], 0);
                let w = g.transpose(w, &[0, 2, 3, 1]);
                let y = g.conv_with(x, &[w], 4, 3, 1);
                g.finish(&[y])
            },
            left: "Dequantize Conv",
        },
        Case {
            name: "the image is quantized before it is transposed",
            build: |g| {
                let x = g.input(&[1, 3, 4, 4]);
                let x = g.qdq(x);
                let y = g.conv_nchw(x, 2, 1, 0);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                g.finish(&[y])
            },
            left: "Quantize Transpose Dequantize Conv+bias",
        },
        Case {
            name: "channels last by reshape: tokens of a vision transformer",
            build: |g| {
                let x = nchw(g, 4, 4, 3);
                let y = g.conv_nchw(x, 6, 2, 0);
                let shape = dims(g, y, &[6, 9]);
                let y = g.reshape(y, shape);
                let y = g.transpose(y, &[0, 2, 1]);
                let y = g.dense(y, 4);
                g.finish(&[y])
            },
            left: "Conv+bias Reshape MatMul",
        },
        Case {
            name: "one channel: the transposes only move axes of size 1",
            build: |g| {
                let n = g.batch();
                let x = g.input_dims(vec![n.clone(), Dim::from(20i64)]);
                let shape = dims(g, x, &[1, 5, 4]);
                let y = g.reshape(x, shape);
                let y = g.conv_nchw(y, 2, 3, 1);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                g.finish(&[y])
            },
            left: "Reshape Conv+bias",
        },
        Case {
            name: "mean without kept axes, over channels",
            build: |g| {
                let x = nchw(g, 3, 4, 5);
                let y = g.conv_nchw(x, 2, 1, 0);
                let y = g.mean(y, &[1], false);
                let y = g.unary(UnaryKind::Tanh, y);
                g.finish(&[y])
            },
            left: "Conv+bias Reduce Tanh",
        },
        Case {
            name: "attention heads stay where they are",
            build: |g| {
                let n = g.batch();
                let x = g.input_dims(vec![n.clone(), Dim::from(5i64), Dim::from(8i64)]);
                let heads = |g: &mut Build, x| {
                    let y = g.dense(x, 8);
                    let shape = dims(g, y, &[5, 2, 4]);
                    let y = g.reshape(y, shape);
                    g.transpose(y, &[0, 2, 1, 3])
                };
                let (q, k, v) = (heads(g, x), heads(g, x), heads(g, x));
                let k = g.transpose(k, &[0, 1, 3, 2]);
                let scores = g.matmul(q, k);
                let scores = g.softmax(scores, 3);
                let y = g.matmul(scores, v);
                let y = g.transpose(y, &[0, 2, 1, 3]);
                let shape = dims(g, y, &[5, 8]);
                let y = g.reshape(y, shape);
                g.finish(&[y])
            },
            left: "MatMul Reshape Transpose MatMul Reshape Transpose MatMul Reshape Transpose \
                   Attention Transpose Reshape",
        },
        Case {
            name: "both sides of a pooling",
            build: |g| {
                let x = nchw(g, 4, 4, 3);
                let y = g.unary(UnaryKind::Tanh, x);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                let y = g.max_pool(y);
                let y = g.transpose(y, &[0, 3, 1, 2]);
                let c = g.random(&[3, 2, 1]);
                let y = g.binary(Mul, y, c);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                g.finish(&[y])
            },
            left: "Tanh Pool Mul",
        },
    ]);
}

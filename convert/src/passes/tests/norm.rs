//! Layer and RMS normalisation as exporters spell them.

use super::*;
use crate::graph::{BinaryKind, UnaryKind, ValueId};

const WIDTH: usize = 6;

fn number(g: &mut Build, x: ValueId, kind: BinaryKind, by: f32) -> ValueId {
    let by = g.scalar(by);
    g.binary(kind, x, by)
}

/// `mean(d * d) + epsilon`.
fn power(g: &mut Build, d: ValueId, by_pow: bool, axes: &[usize]) -> ValueId {
    let square = match by_pow {
        true => number(g, d, BinaryKind::Pow, 2.0),
        false => g.binary(BinaryKind::Mul, d, d),
    };
    let mean = g.mean(square, axes, true);
    number(g, mean, BinaryKind::Add, 1e-3)
}

fn scale_and_bias(g: &mut Build, y: ValueId, shape: &[usize]) -> ValueId {
    let (scale, bias) = (g.random(shape), g.random(shape));
    let y = g.binary(BinaryKind::Mul, y, scale);
    g.binary(BinaryKind::Add, y, bias)
}

/// The mean, and the scale over the root of the variance.
fn keras_factor(g: &mut Build, x: ValueId) -> (ValueId, ValueId) {
    let mean = g.mean(x, &[2], true);
    let d = g.binary(BinaryKind::Sub, x, mean);
    let p = power(g, d, false, &[2]);
    let root = g.unary(UnaryKind::Sqrt, p);
    let inverse = g.unary(UnaryKind::Reciprocal, root);
    let scale = g.random(&[1, 1, WIDTH]);
    (mean, g.binary(BinaryKind::Mul, inverse, scale))
}

fn sequence(g: &mut Build) -> ValueId {
    let n = g.batch();
    g.input_dims(vec![n, 3usize.into(), WIDTH.into()])
}

#[test]
fn layer_and_rms() {
    use BinaryKind::{Add, Div, Mul, Pow, Sub};
    check_cases(&[
        Case {
            name: "PyTorch: deviation squared by Pow, divided by the root",
            build: |g| {
                let x = sequence(g);
                let mean = g.mean(x, &[2], true);
                let d = g.binary(Sub, x, mean);
                let p = power(g, d, true, &[2]);
                let root = g.unary(UnaryKind::Sqrt, p);
                let y = g.binary(Div, d, root);
                let y = scale_and_bias(g, y, &[WIDTH]);
                g.finish(&[y])
            },
            left: "Normalize+scale+bias",
        },
        Case {
            name: "two trailing axes, the deviation computed twice, scales with more axes",
            build: |g| {
                let x = g.input(&[2, 3, 4]);
                let mean = g.mean(x, &[1, 2], true);
                let d = g.binary(Sub, x, mean);
                let other = g.binary(Sub, x, mean);
                let p = power(g, other, false, &[1, 2]);
                let root = g.unary(UnaryKind::Sqrt, p);
                let y = g.binary(Div, d, root);
                let y = scale_and_bias(g, y, &[1, 3, 4]);
                g.finish(&[y])
            },
            left: "Normalize+scale+bias",
        },
        Case {
            name: "tf2onnx: the scale goes into the root",
            build: |g| {
                let x = sequence(g);
                let mean = g.mean(x, &[2], true);
                let d = g.binary(Sub, x, mean);
                let p = power(g, d, false, &[2]);
                let root = g.unary(UnaryKind::Sqrt, p);
                let inverse = g.unary(UnaryKind::Reciprocal, root);
                let (scale, bias) = (g.random(&[WIDTH]), g.random(&[WIDTH]));
                let s = g.binary(Mul, inverse, scale);
                let scaled = g.binary(Mul, x, s);
                let shift = g.binary(Mul, s, mean);
                let rest = g.binary(Sub, bias, shift);
                let y = g.binary(Add, scaled, rest);
                g.finish(&[y])
            },
            left: "Normalize+scale+bias",
        },
        Case {
            name: "Keras without scale",
            build: |g| {
                let x = sequence(g);
                let mean = g.mean(x, &[2], true);
                let d = g.binary(Sub, x, mean);
                let p = power(g, d, false, &[2]);
                let root = g.unary(UnaryKind::Sqrt, p);
                let one = g.scalar(1.0);
                let inverse = g.binary(Div, one, root);
                let bias = g.random(&[WIDTH]);
                let scaled = g.binary(Mul, inverse, x);
                let shift = g.binary(Mul, mean, inverse);
                let rest = g.binary(Sub, bias, shift);
                let y = g.binary(Add, rest, scaled);
                g.finish(&[y])
            },
            left: "Normalize+bias",
        },
        Case {
            name: "Keras 3 through tf2onnx: the mean negated, scale and bias with all axes",
            build: |g| {
                let x = sequence(g);
                let (mean, s) = keras_factor(g, x);
                let scaled = g.binary(Mul, x, s);
                let negated = g.unary(UnaryKind::Neg, mean);
                let shift = g.binary(Mul, negated, s);
                let bias = g.random(&[1, 1, WIDTH]);
                let rest = g.binary(Add, shift, bias);
                let y = g.binary(Add, scaled, rest);
                g.finish(&[y])
            },
            left: "Normalize+scale+bias",
        },
        Case {
            name: "Keras 3 through tf2onnx without bias",
            build: |g| {
                let x = sequence(g);
                let (mean, s) = keras_factor(g, x);
                let scaled = g.binary(Mul, x, s);
                let negated = g.unary(UnaryKind::Neg, mean);
                let shift = g.binary(Mul, negated, s);
                let y = g.binary(Add, scaled, shift);
                g.finish(&[y])
            },
            left: "Normalize+scale",
        },
        Case {
            name: "the product with the mean taken off",
            build: |g| {
                let x = sequence(g);
                let (mean, s) = keras_factor(g, x);
                let scaled = g.binary(Mul, x, s);
                let shift = g.binary(Mul, mean, s);
                let y = g.binary(Sub, scaled, shift);
                g.finish(&[y])
            },
            left: "Normalize+scale",
        },
        Case {
            name: "the mean added instead of taken off",
            build: |g| {
                let x = sequence(g);
                let (mean, s) = keras_factor(g, x);
                let scaled = g.binary(Mul, x, s);
                let shift = g.binary(Mul, mean, s);
                let y = g.binary(Add, scaled, shift);
                g.finish(&[y])
            },
            left: "Reduce Sub Mul Reduce Add Sqrt Reciprocal Mul Mul Mul Add",
        },
        Case {
            name: "Keras 3 through tf2onnx: RMS with the scale in the factor",
            build: |g| {
                let x = sequence(g);
                let p = power(g, x, false, &[2]);
                let root = g.unary(UnaryKind::Sqrt, p);
                let inverse = g.unary(UnaryKind::Reciprocal, root);
                let scale = g.random(&[WIDTH]);
                let s = g.binary(Mul, inverse, scale);
                let y = g.binary(Mul, x, s);
                g.finish(&[y])
            },
            left: "Normalize+scale",
        },
        Case {
            name: "RMS with a factor that is computed",
            build: |g| {
                let x = sequence(g);
                let p = power(g, x, false, &[2]);
                let root = g.unary(UnaryKind::Sqrt, p);
                let inverse = g.unary(UnaryKind::Reciprocal, root);
                let scale = g.input(&[WIDTH]);
                let s = g.binary(Mul, inverse, scale);
                let y = g.binary(Mul, x, s);
                g.finish(&[y])
            },
            left: "Mul Reduce Add Sqrt Reciprocal Mul Mul",
        },
        Case {
            name: "RMS as Llama has it",
            build: |g| {
                let x = sequence(g);
                let p = power(g, x, true, &[2]);
                let root = g.unary(UnaryKind::Sqrt, p);
                let inverse = g.unary(UnaryKind::Reciprocal, root);
                let y = g.binary(Mul, x, inverse);
                let scale = g.random(&[WIDTH]);
                let y = g.binary(Mul, scale, y);
                g.finish(&[y])
            },
            left: "Normalize+scale",
        },
        Case {
            name: "RMS by a power of minus a half",
            build: |g| {
                let x = sequence(g);
                let p = power(g, x, false, &[2]);
                let inverse = number(g, p, Pow, -0.5);
                let y = g.binary(Mul, inverse, x);
                g.finish(&[y])
            },
            left: "Normalize",
        },
        Case {
            name: "over the channels of NCHW, as ConvNeXt does",
            build: |g| {
                let x = g.input(&[1, 5, 5, WIDTH]);
                let x = g.conv(x, WIDTH, 3, 1);
                let x = g.transpose(x, &[0, 3, 1, 2]);
                let mean = g.mean(x, &[1], true);
                let d = g.binary(Sub, x, mean);
                let p = power(g, d, true, &[1]);
                let root = g.unary(UnaryKind::Sqrt, p);
                let y = g.binary(Div, d, root);
                let y = scale_and_bias(g, y, &[WIDTH, 1, 1]);
                let y = g.transpose(y, &[0, 2, 3, 1]);
                let y = g.conv(y, 4, 1, 0);
                g.finish(&[y])
            },
            left: "Conv+bias Normalize+scale+bias Conv+bias",
        },
        Case {
            name: "the deviation of something else, and another mean",
            build: |g| {
                let (x, z) = (sequence(g), g.input(&[1, 3, WIDTH]));
                let mean = g.mean(x, &[2], true);
                let d = g.binary(Sub, x, mean);
                let p = power(g, z, true, &[2]);
                let root = g.unary(UnaryKind::Sqrt, p);
                let y = g.binary(Div, d, root);
                g.finish(&[y])
            },
            left: "Reduce Sub Mul Reduce Add Sqrt Div",
        },
        Case {
            name: "an inner axis",
            build: |g| {
                let x = sequence(g);
                let p = power(g, x, false, &[1]);
                let root = g.unary(UnaryKind::Sqrt, p);
                let y = g.binary(Div, x, root);
                g.finish(&[y])
            },
            left: "Mul Reduce Add Sqrt Div",
        },
    ]);
}

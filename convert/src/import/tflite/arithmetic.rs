//! Elementwise arithmetic and activations.

use whit::DType;

use super::node::TfliteNode;
use super::schema::{AddOptions, DivOptions, MulOptions, SoftmaxOptions, SubOptions};
use crate::graph::{BinaryKind, Op, UnaryKind};
use crate::import::builder::{Builder, Outcome};
use crate::import::failure::invalid;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("ADD", |b, n| {
        let options: AddOptions = n.options()?;
        binary(b, n, BinaryKind::Add, options.activation)
    }),
    ("SUB", |b, n| {
        let options: SubOptions = n.options()?;
        binary(b, n, BinaryKind::Sub, options.activation)
    }),
    ("MUL", |b, n| {
        let options: MulOptions = n.options()?;
        binary(b, n, BinaryKind::Mul, options.activation)
    }),
    ("DIV", |b, n| {
        let options: DivOptions = n.options()?;
        binary(b, n, BinaryKind::Div, options.activation)
    }),
    ("RELU", |b, n| unary(b, n, UnaryKind::Relu)),
    ("RELU6", |b, n| unary(b, n, UnaryKind::Clip { min: 0.0, max: 6.0 })),
    ("RELU_N1_TO_1", |b, n| unary(b, n, UnaryKind::Clip { min: -1.0, max: 1.0 })),
    ("LOGISTIC", |b, n| unary(b, n, UnaryKind::Sigmoid)),
    ("TANH", |b, n| unary(b, n, UnaryKind::Tanh)),
    ("SOFTMAX", softmax),
];

/// Two operands, in reals if they are quantized, in their integers if not.
fn binary(b: &mut Builder, node: &TfliteNode<'_>, kind: BinaryKind, activation: i8) -> Outcome {
    let (x, y) = (node.required(0, "input 1")?, node.required(1, "input 2")?);
    let plain = |b: &Builder, id| {
        matches!(b.dtype(id), DType::I32 | DType::I64) && b.graph.value(id).quant.is_none()
    };
    if plain(b, x) && plain(b, y) {
        if activation != 0 {
            return Err(invalid("an activation of integers"));
        }
        return Ok(vec![b.binary(node, "", kind, x, y)?]);
    }
    let (x, y) = (node.real(b, 0, "input 1")?, node.real(b, 1, "input 2")?);
    let z = b.binary(node, "", kind, x, y)?;
    let z = node.activated(b, z, activation)?;
    Ok(vec![node.declared(b, z, 0)?])
}

fn unary(b: &mut Builder, node: &TfliteNode<'_>, kind: UnaryKind) -> Outcome {
    let x = node.real(b, 0, "input")?;
    let y = b.unary(node, "", kind, x)?;
    Ok(vec![node.declared(b, y, 0)?])
}

/// `exp(beta * x) / sum of exp(beta * x)` over the last axis.
fn softmax(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: SoftmaxOptions = node.options()?;
    let mut x = node.real(b, 0, "input")?;
    let Some(axis) = b.rank(x).checked_sub(1) else {
        return Err(invalid("a scalar"));
    };
    if options.beta != 1.0 {
        x = b.with_number(node, "beta", BinaryKind::Mul, x, f64::from(options.beta))?;
    }
    let shape = b.shape(x);
    let op = Op::Softmax { axis, log: false };
    let y = b.emit(node, "", op, &[Some(x)], DType::F32, shape)?;
    Ok(vec![node.declared(b, y, 0)?])
}

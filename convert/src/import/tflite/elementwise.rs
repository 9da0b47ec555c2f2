//! Elementwise arithmetic, comparisons, activations, and what is made of them.

use whit::DType;

use super::fixed_point;
use super::node::TfliteNode;
use super::schema::{
    AddOptions, DivOptions, GeluOptions, L2NormOptions, LeakyReluOptions, MulOptions,
    SoftmaxOptions, SubOptions,
};
use crate::dim::Dim;
use crate::graph::{BinaryKind, CompareKind, Op, ReduceKind, UnaryKind, ValueId};
use crate::import::builder::{Builder, Outcome};
use crate::import::compose::Compose;
use crate::import::failure::{Failure, invalid, unsupported};

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
    ("MAXIMUM", |b, n| binary(b, n, BinaryKind::Max, 0)),
    ("MINIMUM", |b, n| binary(b, n, BinaryKind::Min, 0)),
    ("POW", |b, n| binary(b, n, BinaryKind::Pow, 0)),
    ("FLOOR_MOD", |b, n| binary(b, n, BinaryKind::Mod, 0)),
    ("FLOOR_DIV", floor_div),
    ("PRELU", |b, n| binary(b, n, BinaryKind::PRelu, 0)),
    ("SQUARED_DIFFERENCE", squared_difference),
    ("ADD_N", add_n),
    ("EQUAL", |b, n| compare(b, n, CompareKind::Equal)),
    ("NOT_EQUAL", not_equal),
    ("GREATER", |b, n| compare(b, n, CompareKind::Greater)),
    ("GREATER_EQUAL", |b, n| compare(b, n, CompareKind::GreaterOrEqual)),
    ("LESS", |b, n| compare(b, n, CompareKind::Less)),
    ("LESS_EQUAL", |b, n| compare(b, n, CompareKind::LessOrEqual)),
    ("LOGICAL_AND", |b, n| logical(b, n, BinaryKind::And)),
    ("LOGICAL_OR", |b, n| logical(b, n, BinaryKind::Or)),
    ("LOGICAL_NOT", |b, n| {
        let x = n.required(0, "input")?;
        expect_bool(b, x)?;
        Ok(vec![b.unary(n, "", UnaryKind::Not, x)?])
    }),
    ("SELECT", select),
    ("SELECT_V2", select),
    ("RELU", |b, n| clip(b, n, 0.0, f32::INFINITY)),
    ("RELU6", |b, n| clip(b, n, 0.0, 6.0)),
    ("RELU_N1_TO_1", |b, n| clip(b, n, -1.0, 1.0)),
    ("RELU_0_TO_1", |b, n| clip(b, n, 0.0, 1.0)),
    ("LOGISTIC", |b, n| unary(b, n, UnaryKind::Sigmoid)),
    ("TANH", |b, n| unary(b, n, UnaryKind::Tanh)),
    ("HARD_SWISH", |b, n| match n.both_i8(b)? {
        Some((x, from, to)) => {
            let table = fixed_point::hard_swish(&from, &to);
            Ok(vec![n.lut(b, x, to, table)?])
        }
        None => unary(b, n, UnaryKind::HardSwish),
    }),
    ("LEAKY_RELU", |b, n| {
        let options: LeakyReluOptions = n.options()?;
        let alpha = options.alpha;
        match n.both_i8(b)? {
            Some((x, from, to)) => {
                let table = fixed_point::leaky_relu(&from, &to, alpha);
                Ok(vec![n.lut(b, x, to, table)?])
            }
            None => unary(b, n, UnaryKind::LeakyRelu { alpha }),
        }
    }),
    ("ELU", |b, n| unary(b, n, UnaryKind::Elu { alpha: 1.0 })),
    ("GELU", |b, n| {
        let options: GeluOptions = n.options()?;
        unary(b, n, if options.approximate { UnaryKind::GeluTanh } else { UnaryKind::Gelu })
    }),
    ("EXP", |b, n| unary(b, n, UnaryKind::Exp)),
    ("LOG", |b, n| unary(b, n, UnaryKind::Log)),
    ("SQRT", |b, n| unary(b, n, UnaryKind::Sqrt)),
    ("RSQRT", |b, n| {
        let x = n.real(b, 0, "input")?;
        let root = b.unary(n, "sqrt", UnaryKind::Sqrt, x)?;
        let y = b.unary(n, "", UnaryKind::Reciprocal, root)?;
        Ok(vec![n.declared(b, y, 0)?])
    }),
    ("SQUARE", |b, n| {
        let x = arithmetic(b, n, &[0])?[0];
        let y = b.binary(n, "", BinaryKind::Mul, x, x)?;
        Ok(vec![n.declared(b, y, 0)?])
    }),
    ("ABS", |b, n| unary(b, n, UnaryKind::Abs)),
    ("NEG", |b, n| unary(b, n, UnaryKind::Neg)),
    ("SIGN", |b, n| unary(b, n, UnaryKind::Sign)),
    ("SIN", |b, n| unary(b, n, UnaryKind::Sin)),
    ("COS", |b, n| unary(b, n, UnaryKind::Cos)),
    ("FLOOR", |b, n| unary(b, n, UnaryKind::Floor)),
    ("CEIL", |b, n| unary(b, n, UnaryKind::Ceil)),
    ("ROUND", |b, n| unary(b, n, UnaryKind::Round)),
    ("SOFTMAX", softmax),
    ("LOG_SOFTMAX", log_softmax),
    ("L2_NORMALIZATION", l2_normalization),
];

/// The smallest norm that `L2_NORMALIZATION` divides by.
const MIN_NORM: f64 = 1e-6;

/// The operands that arithmetic is done with: integers that stand for themselves as they are, everything
/// else in reals.
pub(super) fn arithmetic(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    operands: &[usize],
) -> Result<Vec<ValueId>, Failure> {
    let name = |index: usize| format!("input_{index}");
    let mut plain = true;
    for index in operands {
        let x = node.required(*index, &name(*index))?;
        let value = b.graph.value(x);
        plain &= matches!(value.dtype, DType::I32 | DType::I64) && value.quant.is_none();
    }
    operands
        .iter()
        .map(|index| match plain {
            true => node.required(*index, &name(*index)),
            false => node.real(b, *index, &name(*index)),
        })
        .collect()
}

fn binary(b: &mut Builder, node: &TfliteNode<'_>, kind: BinaryKind, activation: i8) -> Outcome {
    let operands = arithmetic(b, node, &[0, 1])?;
    let z = b.binary(node, "", kind, operands[0], operands[1])?;
    if activation != 0 && !b.dtype(z).is_float() {
        return Err(unsupported("a fused activation of wide integers", "leave it out"));
    }
    let z = node.activated(b, z, activation)?;
    Ok(vec![node.declared(b, z, 0)?])
}

fn floor_div(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let operands = arithmetic(b, node, &[0, 1])?;
    let (x, y) = (operands[0], operands[1]);
    let z = match b.dtype(x).is_float() {
        true => {
            let quotient = b.binary(node, "quotient", BinaryKind::Div, x, y)?;
            b.unary(node, "", UnaryKind::Floor, quotient)?
        }
        // Without what is left over, whose sign is the divisor's, the division is exact.
        false => {
            let rest = b.binary(node, "rest", BinaryKind::Mod, x, y)?;
            let whole = b.binary(node, "whole", BinaryKind::Sub, x, rest)?;
            b.binary(node, "", BinaryKind::Div, whole, y)?
        }
    };
    Ok(vec![node.declared(b, z, 0)?])
}

fn squared_difference(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let operands = arithmetic(b, node, &[0, 1])?;
    let difference = b.binary(node, "difference", BinaryKind::Sub, operands[0], operands[1])?;
    let y = b.binary(node, "", BinaryKind::Mul, difference, difference)?;
    Ok(vec![node.declared(b, y, 0)?])
}

fn add_n(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let all: Vec<usize> = (0..node.inputs.len()).collect();
    let operands = arithmetic(b, node, &all)?;
    let Some((first, rest)) = operands.split_first() else {
        return Err(invalid("it has no inputs"));
    };
    let mut sum = *first;
    for (at, x) in rest.iter().enumerate() {
        let part = if at + 1 == rest.len() { String::new() } else { format!("sum_{at}") };
        sum = b.binary(node, &part, BinaryKind::Add, sum, *x)?;
    }
    Ok(vec![node.declared(b, sum, 0)?])
}

/// Two operands as they can be compared: bools and plain integers as they are, everything else in reals.
fn comparable(b: &mut Builder, node: &TfliteNode<'_>) -> Result<[ValueId; 2], Failure> {
    let (x, y) = (node.required(0, "input 1")?, node.required(1, "input 2")?);
    if b.dtype(x) == DType::Bool && b.dtype(y) == DType::Bool {
        return Ok([x, y]);
    }
    let operands = arithmetic(b, node, &[0, 1])?;
    Ok([operands[0], operands[1]])
}

fn compare(b: &mut Builder, node: &TfliteNode<'_>, kind: CompareKind) -> Outcome {
    let [x, y] = comparable(b, node)?;
    if b.dtype(x) == DType::Bool && kind != CompareKind::Equal {
        return Err(invalid("an order of bools"));
    }
    Ok(vec![b.compare(node, "", kind, x, y)?])
}

fn not_equal(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let [x, y] = comparable(b, node)?;
    let equal = b.compare(node, "equal", CompareKind::Equal, x, y)?;
    Ok(vec![b.unary(node, "", UnaryKind::Not, equal)?])
}

fn expect_bool(b: &Builder, x: ValueId) -> Result<(), Failure> {
    match b.dtype(x) {
        DType::Bool => Ok(()),
        other => Err(invalid(format!("an operand of type {other} instead of bool"))),
    }
}

fn logical(b: &mut Builder, node: &TfliteNode<'_>, kind: BinaryKind) -> Outcome {
    let (x, y) = (node.required(0, "input 1")?, node.required(1, "input 2")?);
    expect_bool(b, x)?;
    expect_bool(b, y)?;
    Ok(vec![b.binary(node, "", kind, x, y)?])
}

/// `x` where the condition holds, else `y`. A condition of one axis may choose whole rows.
fn select(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let mut condition = node.required(0, "condition")?;
    expect_bool(b, condition)?;
    let (x, y) = (node.required(1, "x")?, node.required(2, "y")?);
    let rank = b.rank(x);
    let rows = b.rank(condition) == 1 && rank > 1 && b.shape(condition)[0] == b.shape(x)[0];
    if rows && b.shape(x) == b.shape(y) && !b.shape(x)[rank - 1].is(1) {
        let mut shape = vec![Dim::from(1i64); rank];
        shape[0] = b.shape(condition)[0].clone();
        condition = b.reshape(node, "rows", condition, shape)?;
    }
    // Integers with one scale are chosen as they are.
    if b.dtype(x) == b.dtype(y) && b.graph.value(x).quant == b.graph.value(y).quant {
        let quant = b.graph.value(x).quant.clone();
        let z = b.select(node, "", [condition, x, y])?;
        b.graph.value_mut(z).quant = quant;
        return Ok(vec![z]);
    }
    let (x, y) = (node.real(b, 1, "x")?, node.real(b, 2, "y")?);
    let z = b.select(node, "", [condition, x, y])?;
    Ok(vec![node.declared(b, z, 0)?])
}

fn unary(b: &mut Builder, node: &TfliteNode<'_>, kind: UnaryKind) -> Outcome {
    let x = arithmetic(b, node, &[0])?[0];
    let of_integers =
        matches!(kind, UnaryKind::Relu | UnaryKind::Neg | UnaryKind::Abs | UnaryKind::Sign);
    if !b.dtype(x).is_float() && !of_integers {
        return Err(invalid(format!("an operand of type {}", b.dtype(x))));
    }
    let y = b.unary(node, "", kind, x)?;
    Ok(vec![node.declared(b, y, 0)?])
}

/// A clamp. Between integers of one scale it leaves them as they are; else they are rescaled.
fn clip(b: &mut Builder, node: &TfliteNode<'_>, min: f32, max: f32) -> Outcome {
    if let Some((x, from, to)) = node.both_i8(b)?
        && from != to
    {
        let table = fixed_point::clipped(&from, &to, min, max);
        return Ok(vec![node.lut(b, x, to, table)?]);
    }
    match max == f32::INFINITY {
        true => unary(b, node, UnaryKind::Relu),
        false => unary(b, node, UnaryKind::Clip { min, max }),
    }
}

fn last_axis(b: &Builder, x: ValueId) -> Result<usize, Failure> {
    b.rank(x).checked_sub(1).ok_or_else(|| invalid("an operand without axes"))
}

/// `exp(beta * x) / sum of exp(beta * x)` over the last axis.
fn softmax(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: SoftmaxOptions = node.options()?;
    let mut x = node.required(0, "input")?;
    let axis = last_axis(b, x)?;
    let beta = options.beta;
    if !beta.is_finite() || beta <= 0.0 {
        return Err(invalid(format!("beta is {beta}")));
    }
    if beta != 1.0 {
        // Of integers, the factor goes into what they stand for.
        x = match b.graph.value(x).quant.clone() {
            Some(quant) => node.scaled(b, "beta", x, &quant, beta)?,
            None => b.with_number(node, "beta", BinaryKind::Mul, x, f64::from(beta))?,
        };
    }
    let x = node.dequantized(b, "input", x)?;
    let shape = b.shape(x);
    let y = b.emit(node, "", Op::Softmax { axis, log: false }, &[Some(x)], DType::F32, shape)?;
    Ok(vec![node.declared(b, y, 0)?])
}

fn log_softmax(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.real(b, 0, "input")?;
    let (axis, shape) = (last_axis(b, x)?, b.shape(x));
    let y = b.emit(node, "", Op::Softmax { axis, log: true }, &[Some(x)], DType::F32, shape)?;
    Ok(vec![node.declared(b, y, 0)?])
}

/// `x / max(sqrt(sum of x²), 1e-6)` over the last axis.
fn l2_normalization(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: L2NormOptions = node.options()?;
    let x = node.real(b, 0, "input")?;
    let axis = last_axis(b, x)?;
    let y = {
        let c = &mut Compose::new(b, node);
        let norm = c.reduce(ReduceKind::L2, x, &[axis], true)?;
        let norm = c.with_number(BinaryKind::Max, norm, MIN_NORM)?;
        c.main().div(x, norm)?
    };
    let y = node.activated(b, y, options.activation)?;
    Ok(vec![node.declared(b, y, 0)?])
}

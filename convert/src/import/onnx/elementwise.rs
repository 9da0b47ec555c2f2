//! Elementwise operators, comparisons, casts and softmax.

use whit::DType;

use super::builder::expect_float;
use super::builder::{Builder, Outcome};
use super::compose::Compose;
use super::data::axis_of;
use super::dims;
use super::failure::{Failure, invalid};
use super::legacy;
use super::node::OnnxNode;
use super::transformer::swish;
use super::types::wrapped;
use crate::graph::{BinaryKind, CompareKind, Op, UnaryKind, ValueId};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("Add", |b, n| numeric(b, n, BinaryKind::Add)),
    ("Sub", |b, n| numeric(b, n, BinaryKind::Sub)),
    ("Mul", |b, n| numeric(b, n, BinaryKind::Mul)),
    ("Div", |b, n| numeric(b, n, BinaryKind::Div)),
    ("Pow", pow),
    ("Mod", modulo),
    ("And", |b, n| logical(b, n, BinaryKind::And)),
    ("Or", |b, n| logical(b, n, BinaryKind::Or)),
    ("Xor", |b, n| logical(b, n, BinaryKind::Xor)),
    ("PRelu", prelu),
    ("Min", |b, n| variadic(b, n, BinaryKind::Min, false)),
    ("Max", |b, n| variadic(b, n, BinaryKind::Max, false)),
    ("Sum", |b, n| variadic(b, n, BinaryKind::Add, false)),
    ("Mean", |b, n| variadic(b, n, BinaryKind::Add, true)),
    ("Equal", |b, n| compare(b, n, CompareKind::Equal)),
    ("Less", |b, n| compare(b, n, CompareKind::Less)),
    ("LessOrEqual", |b, n| compare(b, n, CompareKind::LessOrEqual)),
    ("Greater", |b, n| compare(b, n, CompareKind::Greater)),
    ("GreaterOrEqual", |b, n| compare(b, n, CompareKind::GreaterOrEqual)),
    ("Where", select),
    ("Not", not),
    ("Relu", |b, n| numeric_unary(b, n, UnaryKind::Relu)),
    ("Neg", |b, n| numeric_unary(b, n, UnaryKind::Neg)),
    ("Abs", |b, n| numeric_unary(b, n, UnaryKind::Abs)),
    ("Sign", |b, n| numeric_unary(b, n, UnaryKind::Sign)),
    ("Clip", clip),
    ("LeakyRelu", |b, n| {
        let alpha = n.attributes.float("alpha", 0.01)?;
        unary(b, n, UnaryKind::LeakyRelu { alpha })
    }),
    ("Elu", |b, n| {
        let alpha = n.attributes.float("alpha", 1.0)?;
        unary(b, n, UnaryKind::Elu { alpha })
    }),
    ("Selu", |b, n| {
        // The defaults as the specification writes them.
        let alpha = n.attributes.float("alpha", 1.673_263_2)?;
        let gamma = n.attributes.float("gamma", 1.050_701)?;
        unary(b, n, UnaryKind::Selu { alpha, gamma })
    }),
    ("Celu", |b, n| {
        let alpha = n.attributes.float("alpha", 1.0)?;
        unary(b, n, UnaryKind::Celu { alpha })
    }),
    ("ThresholdedRelu", |b, n| {
        let alpha = n.attributes.float("alpha", 1.0)?;
        unary(b, n, UnaryKind::ThresholdedRelu { alpha })
    }),
    ("HardSigmoid", |b, n| {
        let alpha = n.attributes.float("alpha", 0.2)?;
        let beta = n.attributes.float("beta", 0.5)?;
        unary(b, n, UnaryKind::HardSigmoid { alpha, beta })
    }),
    ("Swish", |b, n| match n.attributes.float("alpha", 1.0)? {
        1.0 => unary(b, n, UnaryKind::Silu),
        alpha => {
            n.at_most(1)?;
            let x = n.required(0, "X")?;
            let c = &mut Compose::new(b, n);
            Ok(vec![swish(c, x, alpha)?])
        }
    }),
    ("Gelu", |b, n| match n.attributes.string("approximate", "none")? {
        "none" => unary(b, n, UnaryKind::Gelu),
        "tanh" => unary(b, n, UnaryKind::GeluTanh),
        other => Err(invalid(format!("approximate `{other}` is not defined"))),
    }),
    ("Sigmoid", |b, n| unary(b, n, UnaryKind::Sigmoid)),
    ("HardSwish", |b, n| unary(b, n, UnaryKind::HardSwish)),
    ("Mish", |b, n| unary(b, n, UnaryKind::Mish)),
    ("Softplus", |b, n| unary(b, n, UnaryKind::Softplus)),
    ("Softsign", |b, n| unary(b, n, UnaryKind::Softsign)),
    ("Tanh", |b, n| unary(b, n, UnaryKind::Tanh)),
    ("Erf", |b, n| unary(b, n, UnaryKind::Erf)),
    ("Exp", |b, n| unary(b, n, UnaryKind::Exp)),
    ("Log", |b, n| unary(b, n, UnaryKind::Log)),
    ("Sqrt", |b, n| unary(b, n, UnaryKind::Sqrt)),
    ("Reciprocal", |b, n| unary(b, n, UnaryKind::Reciprocal)),
    ("Floor", |b, n| unary(b, n, UnaryKind::Floor)),
    ("Ceil", |b, n| unary(b, n, UnaryKind::Ceil)),
    ("Round", |b, n| unary(b, n, UnaryKind::Round)),
    ("Sin", |b, n| unary(b, n, UnaryKind::Sin)),
    ("Cos", |b, n| unary(b, n, UnaryKind::Cos)),
    ("Tan", |b, n| unary(b, n, UnaryKind::Tan)),
    ("Asin", |b, n| unary(b, n, UnaryKind::Asin)),
    ("Acos", |b, n| unary(b, n, UnaryKind::Acos)),
    ("Atan", |b, n| unary(b, n, UnaryKind::Atan)),
    ("Sinh", |b, n| unary(b, n, UnaryKind::Sinh)),
    ("Cosh", |b, n| unary(b, n, UnaryKind::Cosh)),
    ("Asinh", |b, n| unary(b, n, UnaryKind::Asinh)),
    ("Acosh", |b, n| unary(b, n, UnaryKind::Acosh)),
    ("Atanh", |b, n| unary(b, n, UnaryKind::Atanh)),
    ("Softmax", |b, n| softmax(b, n, false)),
    ("LogSoftmax", |b, n| softmax(b, n, true)),
];

/// Two operands of one type, and the type.
fn pair(b: &mut Builder, node: &OnnxNode<'_>) -> Result<(ValueId, ValueId, DType), Failure> {
    node.at_most(2)?;
    let (x, y) = (node.required(0, "A")?, node.required(1, "B")?);
    if b.dtype(x) != b.dtype(y) {
        return Err(invalid(format!("operands of types {} and {}", b.dtype(x), b.dtype(y))));
    }
    let y = legacy::aligned(b, node, x, y)?;
    Ok((x, y, b.dtype(x)))
}

fn numeric(b: &mut Builder, node: &OnnxNode<'_>, kind: BinaryKind) -> Outcome {
    let (x, y, dtype) = pair(b, node)?;
    if dtype == DType::Bool {
        return Err(invalid("arithmetic on bool"));
    }
    let z = b.binary(node, "", kind, x, y)?;
    // Of these types only unsigned ones wrap; the others stay in their range.
    let onnx = b.onnx_type(x);
    Ok(vec![match kind {
        BinaryKind::Add | BinaryKind::Sub | BinaryKind::Mul => wrapped(b, node, z, onnx)?,
        _ => z,
    }])
}

fn logical(b: &mut Builder, node: &OnnxNode<'_>, kind: BinaryKind) -> Outcome {
    let (x, y, dtype) = pair(b, node)?;
    if dtype != DType::Bool {
        return Err(invalid(format!("logic on {dtype}")));
    }
    Ok(vec![b.binary(node, "", kind, x, y)?])
}

fn modulo(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let kind =
        if node.attributes.flag("fmod", false)? { BinaryKind::Fmod } else { BinaryKind::Mod };
    let (x, ..) = pair(b, node)?;
    if kind == BinaryKind::Mod && b.dtype(x).is_float() && node.opset < 28 {
        return Err(invalid("Mod of floats needs fmod = 1"));
    }
    numeric(b, node, kind)
}

/// The exponent may be of another type than the base.
fn pow(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let (x, y) = (node.required(0, "X")?, node.required(1, "Y")?);
    let dtype = b.dtype(x);
    if dtype == DType::Bool || b.dtype(y) == DType::Bool {
        return Err(invalid("a power of bool"));
    }
    if !dtype.is_float() && b.dtype(y).is_float() {
        // In reals; what is left of an integer base is cut off.
        let base = b.cast(node, "base", x, DType::F32)?;
        let y = b.cast(node, "exponent", y, DType::F32)?;
        let z = b.binary(node, "real", BinaryKind::Pow, base, y)?;
        return Ok(vec![b.cast(node, "", z, dtype)?]);
    }
    let y = legacy::aligned(b, node, x, y)?;
    let y = b.cast(node, "exponent", y, dtype)?;
    let z = b.binary(node, "", BinaryKind::Pow, x, y)?;
    let onnx = b.onnx_type(x);
    Ok(vec![wrapped(b, node, z, onnx)?])
}

fn prelu(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let (x, slope) = (node.required(0, "X")?, node.required(1, "slope")?);
    let (dtype, of_x) = (b.dtype(x), b.shape(x));
    if b.dtype(slope) != dtype || dtype == DType::Bool {
        return Err(invalid(format!("operands of types {dtype} and {}", b.dtype(slope))));
    }
    let slope = legacy::slope(b, node, x, slope)?;
    let shape = dims::broadcast(&of_x, &b.shape(slope), &b.graph.symbols)?;
    if !dims::same_shape(&shape, &of_x, &b.graph.symbols) {
        return Err(invalid("the slope doesn't broadcast to the input"));
    }
    let op = Op::Binary(BinaryKind::PRelu);
    Ok(vec![b.emit(node, "", op, &[Some(x), Some(slope)], dtype, shape)?])
}

/// Any number of operands, as a chain of two-operand nodes.
fn variadic(b: &mut Builder, node: &OnnxNode<'_>, kind: BinaryKind, mean: bool) -> Outcome {
    let mut result = node.required(0, "data_0")?;
    let dtype = b.dtype(result);
    if dtype == DType::Bool || (mean && !dtype.is_float()) {
        return Err(invalid(format!("operands of type {dtype}")));
    }
    let count = node.inputs.len();
    for index in 1..count {
        let operand = node.required(index, "data")?;
        let part = if index + 1 == count && !mean { String::new() } else { index.to_string() };
        result = b.binary(node, &part, kind, result, operand)?;
    }
    if mean && count > 1 {
        result = b.with_number(node, "", BinaryKind::Div, result, count as f64)?;
    }
    Ok(vec![result])
}

fn compare(b: &mut Builder, node: &OnnxNode<'_>, kind: CompareKind) -> Outcome {
    let (x, y, dtype) = pair(b, node)?;
    if dtype == DType::Bool && kind != CompareKind::Equal {
        return Err(invalid("an order of bools"));
    }
    Ok(vec![b.compare(node, "", kind, x, y)?])
}

fn select(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let (c, x, y) =
        (node.required(0, "condition")?, node.required(1, "X")?, node.required(2, "Y")?);
    if b.dtype(c) != DType::Bool || b.dtype(x) != b.dtype(y) {
        return Err(invalid("operands are not bool and two of one type"));
    }
    Ok(vec![b.select(node, "", [c, x, y])?])
}

fn emit_unary(b: &mut Builder, node: &OnnxNode<'_>, kind: UnaryKind) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "X")?;
    Ok(vec![b.unary(node, "", kind, x)?])
}

/// Of floats.
pub(super) fn unary(b: &mut Builder, node: &OnnxNode<'_>, kind: UnaryKind) -> Outcome {
    if let Some(x) = node.input(0) {
        expect_float(b, x)?;
    }
    emit_unary(b, node, kind)
}

/// Of floats or integers.
fn numeric_unary(b: &mut Builder, node: &OnnxNode<'_>, kind: UnaryKind) -> Outcome {
    match node.input(0) {
        Some(x) if b.dtype(x) == DType::Bool => Err(invalid("an operand of type bool")),
        _ => emit_unary(b, node, kind),
    }
}

fn not(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    match node.input(0) {
        Some(x) if b.dtype(x) != DType::Bool => {
            Err(invalid(format!("an operand of type {}", b.dtype(x))))
        }
        _ => emit_unary(b, node, UnaryKind::Not),
    }
}

/// Bounds are attributes before opset 11, then inputs.
fn clip(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let dtype = b.dtype(x);
    if dtype == DType::Bool {
        return Err(invalid("an operand of type bool"));
    }
    if node.opset < 11 {
        node.at_most(1)?;
        if !dtype.is_float() {
            return Err(invalid(format!("an operand of type {dtype}")));
        }
        let min = node.attributes.float("min", f32::MIN)?;
        let max = node.attributes.float("max", f32::MAX)?;
        // The defaults mean no bound.
        let min = if min == f32::MIN { f32::NEG_INFINITY } else { min };
        let max = if max == f32::MAX { f32::INFINITY } else { max };
        return emit_clip(b, node, x, min, max);
    }
    node.at_most(3)?;
    let (low, high) = (node.input(1), node.input(2));
    for bound in [low, high].into_iter().flatten() {
        if b.dtype(bound) != dtype {
            return Err(invalid(format!("bounds of type {} for {dtype}", b.dtype(bound))));
        }
        if !b.shape(bound).iter().all(|d| d.is(1)) {
            return Err(invalid("a bound is not a scalar"));
        }
    }
    let min = match low {
        Some(id) => b.scalar_float(id, "min")?,
        None => Some(f32::NEG_INFINITY),
    };
    let max = match high {
        Some(id) => b.scalar_float(id, "max")?,
        None => Some(f32::INFINITY),
    };
    if let (Some(min), Some(max), true) = (min, max, dtype.is_float()) {
        return emit_clip(b, node, x, min, max);
    }
    // Bounds of integers stay integers; others are computed at run time.
    let mut y = x;
    for (part, kind, bound) in [("min", BinaryKind::Max, low), ("max", BinaryKind::Min, high)] {
        if let Some(bound) = bound {
            let bound = b.reshape(node, &format!("{part}/scalar"), bound, Vec::new())?;
            y = b.binary(node, part, kind, y, bound)?;
        }
    }
    Ok(vec![y])
}

fn emit_clip(b: &mut Builder, node: &OnnxNode<'_>, x: ValueId, min: f32, max: f32) -> Outcome {
    if min.is_nan() || max.is_nan() {
        return Err(invalid("a bound is not a number"));
    }
    // Where the bounds cross, the upper one wins.
    let kind = UnaryKind::Clip { min: min.min(max), max };
    Ok(vec![b.unary(node, "", kind, x)?])
}

/// Before opset 13 everything from `axis` on sums to one; since then the axis alone.
fn softmax(b: &mut Builder, node: &OnnxNode<'_>, log: bool) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "input")?;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    if !dtype.is_float() {
        return Err(invalid(format!("an operand of type {dtype}")));
    }
    let flattens = node.opset < 13;
    let axis = node.attributes.int("axis", if flattens { 1 } else { -1 })?;
    let rank = shape.len();
    // Flattening at the very end leaves rows of one element.
    let axis = match usize::try_from(axis) {
        Ok(axis) if flattens && axis == rank => rank,
        _ => axis_of(axis, rank)?,
    };
    let alone = axis < rank && shape[axis + 1..].iter().all(|d| d.is(1));
    if !flattens || alone {
        let op = Op::Softmax { axis, log };
        return Ok(vec![b.emit(node, "", op, &[Some(x)], dtype, shape)?]);
    }
    let flat = vec![dims::product(&shape[..axis])?, dims::product(&shape[axis..])?];
    let y = b.reshape(node, "flat", x, flat.clone())?;
    let y = b.emit(node, "", Op::Softmax { axis: 1, log }, &[Some(y)], dtype, flat)?;
    Ok(vec![b.reshape(node, "shaped", y, shape)?])
}

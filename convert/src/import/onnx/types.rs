//! Element types of ONNX that another type holds here, casts between all of them, and operators on
//! bits.
//!
//! A u32 lives in an i64, an int4 in an i8, a float8 in an f32. Where the difference shows (a sum
//! that wraps around, a shift, a cast to the same type), the importers ask which type a value has
//! in the model: [`Builder::onnx_type`].

use whit::DType;
use whit::format::NarrowFloat;

use super::builder::{Builder, Outcome, expect_float};
use super::failure::{Failure, invalid, unsupported};
use super::node::OnnxNode;
use super::proto::data_type as t;
use super::tensor::dtype_of;
use super::{legacy, narrow};
use crate::graph::{BinaryKind, CompareKind, Op, UnaryKind, ValueId};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("Cast", |b, n| {
        n.at_most(1)?;
        let to = attribute_type(n)?;
        cast_node(b, n, to)
    }),
    ("CastLike", |b, n| {
        n.at_most(2)?;
        let to = b.onnx_type(n.required(1, "target_type")?);
        cast_node(b, n, to)
    }),
    ("BitCast", bit_cast),
    ("BitShift", bit_shift),
    ("BitwiseAnd", |b, n| bitwise(b, n, BinaryKind::BitAnd)),
    ("BitwiseOr", |b, n| bitwise(b, n, BinaryKind::BitOr)),
    ("BitwiseXor", |b, n| bitwise(b, n, BinaryKind::BitXor)),
    ("BitwiseNot", |b, n| {
        n.at_most(1)?;
        let x = n.required(0, "X")?;
        expect_integer(b, x)?;
        let y = b.unary(n, "", UnaryKind::BitNot, x)?;
        let onnx = b.onnx_type(x);
        Ok(vec![wrapped(b, n, y, onnx)?])
    }),
    ("IsNaN", is_nan),
    ("IsInf", is_inf),
];

/// Operators whose first result isn't of the type of their data.
const OTHER_TYPES: &[&str] = &[
    "Shape",
    "Size",
    "ArgMax",
    "ArgMin",
    "NonZero",
    "DequantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "OneHot",
    "EyeLike",
    "GatherElements",
];

/// Imports a node, and passes the types of its data on to its results.
pub(super) fn tracked(
    import: super::Importer,
    b: &mut Builder,
    node: &OnnxNode<'_>,
    op_type: &str,
) -> Outcome {
    let values = import(b, node)?;
    let data = if op_type == "Where" { 1 } else { 0 };
    if let Some(x) = node.input(data).filter(|_| !OTHER_TYPES.contains(&op_type)) {
        let onnx = b.onnx_type(x);
        let results = if op_type == "Split" { values.len() } else { 1 };
        for y in values.iter().take(results) {
            if b.dtype(*y) == b.dtype(x) && !b.has_onnx_type(*y) {
                b.set_onnx_type(*y, onnx);
            }
        }
    }
    Ok(values)
}

impl Builder {
    /// The type that a value has in the model.
    pub(crate) fn onnx_type(&self, id: ValueId) -> i32 {
        self.source_types.get(&id).copied().unwrap_or_else(|| own_type(self.dtype(id)))
    }

    /// Whether the type in the model has been stated.
    pub(crate) fn has_onnx_type(&self, id: ValueId) -> bool {
        self.source_types.contains_key(&id)
    }

    /// States the type that a value has in the model.
    pub(crate) fn set_onnx_type(&mut self, id: ValueId, onnx: i32) {
        if onnx != own_type(self.dtype(id)) {
            self.source_types.insert(id, onnx);
        }
    }
}

/// The type of this module that stands for itself.
pub(super) fn own_type(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => t::FLOAT,
        DType::F16 => t::FLOAT16,
        DType::BF16 => t::BFLOAT16,
        DType::I8 => t::INT8,
        DType::U8 => t::UINT8,
        DType::I16 => t::INT16,
        DType::I32 => t::INT32,
        DType::I64 => t::INT64,
        DType::Bool => t::BOOL,
        _ => t::UNDEFINED,
    }
}

/// Largest number of an unsigned type that a wider signed one holds.
fn mask_of(onnx: i32) -> Option<i64> {
    match onnx {
        t::UINT16 => Some(0xFFFF),
        t::UINT32 => Some(0xFFFF_FFFF),
        _ => None,
    }
}

/// Arithmetic on a type that a wider one holds, taken back to its range.
pub(super) fn wrapped(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    y: ValueId,
    onnx: i32,
) -> Result<ValueId, Failure> {
    let Some(mask) = mask_of(onnx) else {
        b.set_onnx_type(y, onnx);
        return Ok(y);
    };
    let y = b.with_number(node, "wrapped", BinaryKind::BitAnd, y, mask as f64)?;
    b.set_onnx_type(y, onnx);
    Ok(y)
}

fn attribute_type(n: &OnnxNode<'_>) -> Result<i32, Failure> {
    let to = match n.opset {
        ..6 => legacy::type_number(n.attributes.string("to", "")?),
        _ => n.attributes.optional_int("to")?,
    };
    let to = to.ok_or_else(|| invalid("attribute `to` is missing or unknown"))?;
    i32::try_from(to).map_err(|_| invalid(format!("type #{to} is not defined")))
}

fn cast_node(b: &mut Builder, n: &OnnxNode<'_>, to: i32) -> Outcome {
    let saturate = n.attributes.flag("saturate", true)?;
    let x = n.required(0, "input")?;
    if to == t::FLOAT8E8M0 && b.onnx_type(x) != to {
        return Err(unsupported(format!("a cast to {}", t::name(to)), ""));
    }
    n.attributes.ignore("round_mode"); // of that type alone
    Ok(vec![cast_to(b, n, x, to, saturate)?])
}

/// A value in any type of ONNX, as ONNX casts it.
fn cast_to(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    x: ValueId,
    to: i32,
    saturate: bool,
) -> Result<ValueId, Failure> {
    let dtype =
        dtype_of(to).ok_or_else(|| unsupported(format!("a cast to {}", t::name(to)), ""))?;
    let from = b.onnx_type(x);
    if from == to {
        return Ok(x);
    }
    let signed = matches!(b.dtype(x), DType::I8 | DType::I16 | DType::I32 | DType::I64);
    let narrower = |from: i32| match (mask_of(from), mask_of(to)) {
        (Some(from), Some(to)) => from <= to,
        _ => false,
    };
    if let Some(to_float) = narrow_float(to) {
        let real = b.cast(node, "real", x, DType::F32)?;
        let kind = UnaryKind::RoundNarrow { to: to_float, saturate };
        let y = b.unary(node, "", kind, real)?;
        b.set_onnx_type(y, to);
        return Ok(y);
    }
    if let Some((low, high)) = narrow::range(to) {
        // Floats lose their fraction first; then the low bits count.
        let whole = b.cast(node, "whole", x, DType::I32)?;
        let bits = b.with_number(node, "bits", BinaryKind::BitAnd, whole, (high - low) as f64)?;
        let y = match low {
            0 => bits,
            _ => {
                let sign = b.with_number(node, "sign", BinaryKind::BitXor, bits, -low as f64)?;
                b.with_number(node, "signed", BinaryKind::Add, sign, low as f64)?
            }
        };
        let y = b.cast(node, "", y, dtype)?;
        b.set_onnx_type(y, to);
        return Ok(y);
    }
    let y = b.cast(node, "", x, dtype)?;
    // In i64 a negative or larger number would stay what it is instead of wrapping around.
    if mask_of(to).is_some() && (signed && b.known(x).is_none() && !narrower(from)) {
        return wrapped(b, node, y, to);
    }
    if y != x {
        b.set_onnx_type(y, to);
        return Ok(y);
    }
    // The same elements under another name.
    let y = b.emit(node, "", Op::Reshape, &[Some(x)], dtype, b.shape(x))?;
    b.set_onnx_type(y, to);
    Ok(y)
}

/// The format of a floating-point type to which f32 can be rounded.
pub(super) fn narrow_float(onnx: i32) -> Option<NarrowFloat> {
    Some(match onnx {
        t::FLOAT8E4M3FN => NarrowFloat::E4M3Fn,
        t::FLOAT8E4M3FNUZ => NarrowFloat::E4M3FnUz,
        t::FLOAT8E5M2 => NarrowFloat::E5M2,
        t::FLOAT8E5M2FNUZ => NarrowFloat::E5M2FnUz,
        t::FLOAT4E2M1 => NarrowFloat::E2M1,
        _ => return None,
    })
}

/// The type here whose bits are those of an ONNX type, or `None` for types that are held as others.
fn carrier(onnx: i32) -> Option<DType> {
    match onnx {
        t::UINT16 => Some(DType::I16),
        t::UINT32 => Some(DType::I32),
        t::UINT64 => Some(DType::I64),
        t::DOUBLE => None,
        _ if narrow::bits(onnx).is_some() => None,
        _ => dtype_of(onnx),
    }
}

fn bit_cast(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let (x, to) = (node.required(0, "input")?, attribute_type(node)?);
    let from = b.onnx_type(x);
    let (Some(own), Some(other), Some(result)) = (carrier(from), carrier(to), dtype_of(to)) else {
        return Err(unsupported(
            format!("the bits of {} as {}", t::name(from), t::name(to)),
            "the model is computed in other types than these",
        ));
    };
    if own.size() != other.size() {
        return Err(invalid(format!("{} and {} differ in size", t::name(from), t::name(to))));
    }
    let bits = b.cast(node, "bits", x, own)?;
    let y = match (own == other, other) {
        (true, _) => bits,
        (false, DType::Bool) => b.cast(node, "truth", bits, DType::Bool)?,
        (false, _) => b.emit(node, "cast", Op::BitCast, &[Some(bits)], other, b.shape(x))?,
    };
    let y = b.cast(node, "", y, result)?;
    let y = if mask_of(to).is_some() { wrapped(b, node, y, to)? } else { y };
    if y != x {
        b.set_onnx_type(y, to);
    }
    Ok(vec![y])
}

/// Refuses what isn't an integer.
fn expect_integer(b: &Builder, x: ValueId) -> Result<(), Failure> {
    match b.dtype(x) {
        dtype if dtype.is_float() || dtype == DType::Bool => {
            Err(invalid(format!("an operand of type {dtype}")))
        }
        _ => Ok(()),
    }
}

fn bitwise(b: &mut Builder, node: &OnnxNode<'_>, kind: BinaryKind) -> Outcome {
    node.at_most(2)?;
    let (x, y) = (node.required(0, "A")?, node.required(1, "B")?);
    expect_integer(b, x)?;
    Ok(vec![b.binary(node, "", kind, x, y)?])
}

/// A shift by a negative number or by all bits leaves what the sign alone would.
fn bit_shift(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let (x, y) = (node.required(0, "X")?, node.required(1, "Y")?);
    expect_integer(b, x)?;
    let onnx = b.onnx_type(x);
    match node.attributes.string("direction", "")? {
        "LEFT" => {
            let y = b.binary(node, "", BinaryKind::ShiftLeft, x, y)?;
            Ok(vec![wrapped(b, node, y, onnx)?])
        }
        "RIGHT" if onnx == t::UINT64 => {
            // By one bit first, without the sign that i64 sees; by none is another matter.
            let half = b.with_number(node, "half", BinaryKind::ShiftRight, x, 1.0)?;
            let name = format!("{}/positive", node.name);
            let largest = crate::tensor::Tensor::from_i64([], &[i64::MAX]);
            let largest = b.constant(name, largest);
            let half = b.binary(node, "halved", BinaryKind::BitAnd, half, largest)?;
            let rest = b.with_number(node, "rest", BinaryKind::Sub, y, 1.0)?;
            let shifted = b.binary(node, "shifted", BinaryKind::ShiftRight, half, rest)?;
            let zero = b.scalar(format!("{}/zero", node.name), DType::I64, 0.0)?;
            let none = b.compare(node, "none", CompareKind::Equal, y, zero)?;
            Ok(vec![b.select(node, "", [none, x, shifted])?])
        }
        "RIGHT" => Ok(vec![b.binary(node, "", BinaryKind::ShiftRight, x, y)?]),
        other => Err(invalid(format!("direction `{other}` is not defined"))),
    }
}

/// A NaN isn't equal to itself.
fn is_nan(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "X")?;
    expect_float(b, x)?;
    let equal = b.compare(node, "equal", CompareKind::Equal, x, x)?;
    Ok(vec![b.unary(node, "", UnaryKind::Not, equal)?])
}

fn is_inf(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let mut x = node.required(0, "X")?;
    expect_float(b, x)?;
    let positive = node.attributes.flag("detect_positive", true)?;
    let negative = node.attributes.flag("detect_negative", true)?;
    let (kind, infinity) = match (positive, negative) {
        (true, true) => {
            x = b.unary(node, "abs", UnaryKind::Abs, x)?;
            (CompareKind::Equal, f64::INFINITY)
        }
        (true, false) => (CompareKind::Equal, f64::INFINITY),
        (false, true) => (CompareKind::Equal, f64::NEG_INFINITY),
        // Nothing is.
        (false, false) => (CompareKind::Less, f64::NEG_INFINITY),
    };
    let infinity = b.scalar(format!("{}/infinity", node.name), b.dtype(x), infinity)?;
    Ok(vec![b.compare(node, "", kind, x, infinity)?])
}

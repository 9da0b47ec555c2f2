//! `QuantizeLinear`, `DequantizeLinear` and `DynamicQuantizeLinear`.
//!
//! Constant scales of 8-bit integers, one per tensor or per index of an axis, become the [`Quant`]
//! of the integer value: the quantize stage makes integer programs of those. What is constant
//! altogether is computed right here. Everything else (scales that are computed at run time, one
//! scale per block, integers of other sizes, floats of 8 bits) is arithmetic.

use std::sync::Arc;

use whit::DType;

use super::builder::{Builder, Outcome};
use super::data::axis_of;
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::narrow;
use super::node::OnnxNode;
use super::proto::data_type as t;
use super::tensor::dtype_of;
use super::types::{narrow_float, own_type};
use crate::dim::Dim;
use crate::graph::{BinaryKind, CompareKind, Op, Quant, ReduceKind, UnaryKind, ValueId};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("QuantizeLinear", quantize_linear),
    ("DequantizeLinear", dequantize_linear),
    ("DynamicQuantizeLinear", |b, n| {
        n.at_most(1)?;
        let x = n.required(0, "x")?;
        let dynamic = dynamically(b, n, x)?;
        Ok(vec![dynamic.y, dynamic.scale, dynamic.zero_point])
    }),
];

/// Which elements share a scale.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spread {
    All,
    Axis(usize),
    /// So many neighbours along the axis.
    Blocks {
        axis: usize,
        size: usize,
    },
}

/// Scales, and as many zero points.
type Constants = (Vec<f32>, Vec<i32>);
/// A shape and its elements.
type Integers = (Vec<usize>, Vec<i64>);

/// How integers of the model stand for reals.
pub(super) struct Scaling {
    pub scale: ValueId,
    pub zero_point: Option<ValueId>,
    pub axis: i64,
    pub block_size: i64,
}

impl Scaling {
    /// One scale for all, or one per index of an axis.
    pub(super) fn new(scale: ValueId, zero_point: Option<ValueId>, axis: i64) -> Scaling {
        Scaling { scale, zero_point, axis, block_size: 0 }
    }

    fn spread(&self, b: &Builder, shape: &[Dim]) -> Result<Spread, Failure> {
        let of_scale = b.shape(self.scale);
        let same = |a: &Dim, c: &Dim| dims::same(a, c, &b.graph.symbols);
        if let Some(zero) = self.zero_point {
            let of_zero = b.shape(zero);
            let alike = of_zero.len() == of_scale.len()
                && of_zero.iter().zip(&of_scale).all(|(a, c)| same(a, c));
            let single = |shape: &[Dim]| shape.iter().all(|d| d.is(1));
            let fits = alike || single(&of_zero) && single(&of_scale);
            if !fits {
                return Err(invalid(format!(
                    "zero points of shape {} for scales of {}",
                    b.text(&of_zero),
                    b.text(&of_scale)
                )));
            }
        }
        if self.block_size == 0 && of_scale.len() <= 1 {
            return match of_scale.first() {
                None => Ok(Spread::All),
                Some(one) if one.is(1) => Ok(Spread::All),
                Some(count) => {
                    let axis = axis_of(self.axis, shape.len())?;
                    if !same(count, &shape[axis]) {
                        return Err(invalid(format!(
                            "{} scales along axis {axis} of size {}",
                            b.text(&of_scale),
                            b.text(&shape[axis..=axis])
                        )));
                    }
                    Ok(Spread::Axis(axis))
                }
            };
        }
        let axis = axis_of(self.axis, shape.len())?;
        let size = usize::try_from(self.block_size).ok().filter(|size| *size > 0);
        let size = size.ok_or_else(|| invalid(format!("block_size {}", self.block_size)))?;
        let blocks = dims::ceil_div_by(&shape[axis], self.block_size);
        let fits = of_scale.len() == shape.len()
            && (0..shape.len()).all(|i| {
                let extent = if i == axis { &blocks } else { &shape[i] };
                same(&of_scale[i], extent)
            });
        match fits {
            true => Ok(Spread::Blocks { axis, size }),
            false => Err(invalid(format!(
                "scales of shape {} for blocks of {size} along axis {axis} of {}",
                b.text(&of_scale),
                b.text(shape)
            ))),
        }
    }

    /// Scales and zero points, when they are constants.
    fn constants(&self, b: &mut Builder) -> Result<Option<Constants>, Failure> {
        let Some(scale) = b.tensor(self.scale) else { return Ok(None) };
        b.charge(scale.len().saturating_mul(8))?;
        let scale = scale.to_f32();
        if scale.iter().any(|s| !s.is_finite() || *s < 0.0) {
            return Err(invalid("a scale is not a positive number"));
        }
        let zero_point = match self.zero_point {
            None => vec![0; scale.len()],
            Some(id) => {
                let Some(tensor) = b.tensor(id) else { return Ok(None) };
                let points: Result<Vec<i32>, _> =
                    tensor.to_i64().into_iter().map(i32::try_from).collect();
                points.map_err(|_| invalid("a zero point is out of range"))?
            }
        };
        match zero_point.len() == scale.len() {
            true => Ok(Some((scale, zero_point))),
            false => Err(invalid("scales and zero points differ in number")),
        }
    }
}

/// The index of the scale of an element.
fn scale_index(spread: Spread, shape: &[usize], element: usize) -> usize {
    let inner = |axis: usize| shape[axis + 1..].iter().product::<usize>().max(1);
    match spread {
        Spread::All => 0,
        Spread::Axis(axis) => element / inner(axis) % shape[axis].max(1),
        Spread::Blocks { axis, size } => {
            let (inner, extent) = (inner(axis), shape[axis].max(1));
            let (outer, at) = (element / inner / extent, element / inner % extent);
            (outer * extent.div_ceil(size) + at / size) * inner + element % inner
        }
    }
}

/// Scales or zero points as reals of a shape that broadcasts to `shape`.
fn spread_out(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    part: &str,
    values: ValueId,
    spread: Spread,
    shape: &[Dim],
) -> Result<ValueId, Failure> {
    let values = b.cast(node, &format!("{part}/real"), values, DType::F32)?;
    let one = Dim::from(1i64);
    match spread {
        Spread::All => b.reshape(node, &format!("{part}/one"), values, Vec::new()),
        Spread::Axis(axis) => {
            let mut wide = vec![one; shape.len()];
            wide[axis] = shape[axis].clone();
            b.reshape(node, &format!("{part}/along"), values, wide)
        }
        Spread::Blocks { axis, size } => {
            // Every scale is repeated `size` times; the last block may be cut short.
            let of_values = b.shape(values);
            let mut apart = of_values.clone();
            apart.insert(axis + 1, one.clone());
            let apart = b.reshape(node, &format!("{part}/apart"), values, apart)?;
            let mut repeated = b.shape(apart);
            repeated[axis + 1] = Dim::from(size);
            let op = Op::Expand;
            let all = format!("{part}/repeated");
            let wide = b.emit(node, &all, op, &[Some(apart)], DType::F32, repeated)?;
            let mut merged = of_values.clone();
            merged[axis] = dims::multiply(&of_values[axis], &Dim::from(size))
                .ok_or_else(|| invalid("the size overflows"))?;
            let merged = b.reshape(node, &format!("{part}/merged"), wide, merged)?;
            b.slice(node, &format!("{part}/cut"), merged, axis, &Dim::from(0i64), &shape[axis])
        }
    }
}

/// The reals that a tensor stands for, as f32.
pub(super) fn dequantize(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    part: &str,
    x: ValueId,
    scaling: &Scaling,
) -> Result<ValueId, Failure> {
    let (shape, onnx) = (b.shape(x), b.onnx_type(x));
    if b.dtype(x) == DType::Bool || matches!(onnx, t::INT64 | t::FLOAT | t::DOUBLE) {
        return Err(invalid(format!("dequantization of {}", t::name(onnx))));
    }
    let spread = scaling.spread(b, &shape)?;
    let name =
        |what: &str| if part.is_empty() { what.to_owned() } else { format!("{part}/{what}") };
    if let Some((scale, zero_point)) = scaling.constants(b)? {
        let axis = match spread {
            Spread::Axis(axis) => Some(Some(axis)),
            Spread::All => Some(None),
            Spread::Blocks { .. } => None,
        };
        let constant = b.tensor(x);
        // A bias of i32 is read with its scales, too.
        let in_steps =
            matches!(onnx, t::INT8 | t::UINT8) || (onnx == t::INT32 && constant.is_some());
        let positive = !scale.is_empty() && !scale.contains(&0.0);
        if let (Some(axis), true, true) = (axis, in_steps, positive) {
            let x = with_quant(b, node, &name("bits"), x, Quant { scale, zero_point, axis })?;
            return b.emit(node, part, Op::Dequantize, &[Some(x)], DType::F32, shape);
        }
        if let Some(tensor) = constant {
            b.charge(tensor.len().saturating_mul(8))?;
            let whole = tensor.to_f32();
            let reals: Vec<f32> = whole
                .into_iter()
                .enumerate()
                .map(|(element, q)| {
                    let at = scale_index(spread, &tensor.shape, element);
                    (q - zero_point[at] as f32) * scale[at]
                })
                .collect();
            let reals = Tensor::from_f32(tensor.shape.clone(), &reals);
            return Ok(b.constant(format!("{}/{}", node.name, name("reals")), reals));
        }
    }
    let mut real = b.cast(node, &name("real"), x, DType::F32)?;
    if let Some(zero) = scaling.zero_point {
        let zero = spread_out(b, node, &name("zero_point"), zero, spread, &shape)?;
        real = b.binary(node, &name("shifted"), BinaryKind::Sub, real, zero)?;
    }
    let scale = spread_out(b, node, &name("scale"), scaling.scale, spread, &shape)?;
    b.binary(node, part, BinaryKind::Mul, real, scale)
}

/// Reals, f32, as integers or narrow floats of an ONNX type.
pub(super) fn quantize(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    part: &str,
    x: ValueId,
    scaling: &Scaling,
    to: i32,
    saturate: bool,
) -> Result<ValueId, Failure> {
    let shape = b.shape(x);
    let range = match to {
        t::INT8 => Some((-128, 127)),
        t::UINT8 => Some((0, 255)),
        t::INT16 => Some((-32768, 32767)),
        t::UINT16 => Some((0, 65535)),
        _ => narrow::range(to),
    };
    let (Some(dtype), true) = (dtype_of(to), range.is_some() || narrow_float(to).is_some()) else {
        return Err(unsupported(format!("quantization to {}", t::name(to)), ""));
    };
    let spread = scaling.spread(b, &shape)?;
    let constants = scaling.constants(b)?;
    if constants.as_ref().is_some_and(|(scale, _)| scale.contains(&0.0)) {
        return Err(invalid("a scale is 0"));
    }
    if let (Some((scale, zero_point)), t::INT8 | t::UINT8) = (constants, to)
        && !matches!(spread, Spread::Blocks { .. })
        && !scale.is_empty()
    {
        let axis = if let Spread::Axis(axis) = spread { Some(axis) } else { None };
        let quant = Quant { scale, zero_point, axis };
        if let Some(tensor) = b.graph.constant(x).cloned() {
            b.charge(tensor.len().saturating_mul(dtype.size()))?;
            let integers = quantized(&tensor, &quant, dtype);
            let id = b.constant(node.name.clone(), integers);
            b.graph.value_mut(id).quant = Some(quant);
            return Ok(id);
        }
        let id = b.emit(node, part, Op::Quantize, &[Some(x)], dtype, shape)?;
        b.graph.value_mut(id).quant = Some(quant);
        return Ok(id);
    }
    let name =
        |what: &str| if part.is_empty() { what.to_owned() } else { format!("{part}/{what}") };
    let scale = spread_out(b, node, &name("scale"), scaling.scale, spread, &shape)?;
    let mut y = b.binary(node, &name("scaled"), BinaryKind::Div, x, scale)?;
    if let Some(to_float) = narrow_float(to) {
        let kind = UnaryKind::RoundNarrow { to: to_float, saturate };
        let y = b.unary(node, part, kind, y)?;
        b.set_onnx_type(y, to);
        return Ok(y);
    }
    y = b.unary(node, &name("rounded"), UnaryKind::Round, y)?;
    if let Some(zero) = scaling.zero_point {
        let zero = spread_out(b, node, &name("zero_point"), zero, spread, &shape)?;
        y = b.binary(node, &name("shifted"), BinaryKind::Add, y, zero)?;
    }
    let (low, high) = range.unwrap_or_default();
    let kind = UnaryKind::Clip { min: low as f32, max: high as f32 };
    y = b.unary(node, &name("saturated"), kind, y)?;
    let y = b.cast(node, part, y, dtype)?;
    b.set_onnx_type(y, to);
    Ok(y)
}

fn quantize_linear(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let x = node.required(0, "x")?;
    let scaling = Scaling {
        scale: node.required(1, "y_scale")?,
        zero_point: node.input(2),
        axis: node.attributes.int("axis", 1)?,
        block_size: node.attributes.int("block_size", 0)?,
    };
    let saturate = node.attributes.flag("saturate", true)?;
    if !matches!(i32::try_from(node.attributes.int("precision", 0)?), Ok(0 | t::FLOAT)) {
        return Err(unsupported("a division in another precision than f32", ""));
    }
    let stated = match node.attributes.int("output_dtype", 0)? {
        0 => None,
        number => Some(i32::try_from(number).unwrap_or(t::UNDEFINED)),
    };
    let zero_type = scaling.zero_point.map(|id| b.onnx_type(id));
    if zero_type.is_some() && stated.is_some() && zero_type != stated {
        return Err(invalid("output_dtype is not the zero point's type"));
    }
    if b.dtype(x) == DType::Bool || !b.dtype(scaling.scale).is_float() {
        return Err(invalid(format!("{} and a scale of {}", b.dtype(x), b.dtype(scaling.scale))));
    }
    let x = b.cast(node, "f32", x, DType::F32)?;
    let to = zero_type.or(stated).unwrap_or(t::UINT8);
    Ok(vec![quantize(b, node, "", x, &scaling, to, saturate)?])
}

/// `saturate(round_ties_even(x / scale) + zero_point)`.
fn quantized(tensor: &Tensor, quant: &Quant, dtype: DType) -> Tensor {
    let (low, high) = if dtype == DType::I8 { (-128.0, 127.0) } else { (0.0, 255.0) };
    let spread = quant.axis.map_or(Spread::All, Spread::Axis);
    let mut data = Vec::with_capacity(tensor.len());
    for (index, value) in tensor.to_f32().into_iter().enumerate() {
        let channel = scale_index(spread, &tensor.shape, index);
        let rounded = (value / quant.scale[channel]).round_ties_even();
        let integer = (rounded + quant.zero_point[channel] as f32).clamp(low, high) as i16;
        // The low byte of a number in range, of either signedness.
        data.push(integer as u8);
    }
    Tensor { dtype, shape: tensor.shape.clone(), data: data.into() }
}

fn dequantize_linear(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let x = node.required(0, "x")?;
    let scaling = Scaling {
        scale: node.required(1, "x_scale")?,
        zero_point: node.input(2),
        axis: node.attributes.int("axis", 1)?,
        block_size: node.attributes.int("block_size", 0)?,
    };
    let scale_type = b.dtype(scaling.scale);
    if !scale_type.is_float() {
        return Err(invalid(format!("a scale of type {scale_type}")));
    }
    if let Some(zero) = scaling.zero_point
        && b.onnx_type(zero) != b.onnx_type(x)
    {
        let (zero, x) = (t::name(b.onnx_type(zero)), t::name(b.onnx_type(x)));
        return Err(invalid(format!("a zero point of {zero} for {x}")));
    }
    let result = match node.attributes.int("output_dtype", 0)? {
        0 => scale_type,
        number => match dtype_of(i32::try_from(number).unwrap_or(0)) {
            Some(dtype) if dtype.is_float() => dtype,
            _ => {
                return Err(invalid(format!("output_dtype {number} is not a floating-point type")));
            }
        },
    };
    let y = dequantize(b, node, "", x, &scaling)?;
    Ok(vec![b.cast(node, "cast", y, result)?])
}

/// The integer value with this meaning: itself, another constant, or the same bits under another
/// name when the value is an input of the model or has another meaning elsewhere.
fn with_quant(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    part: &str,
    x: ValueId,
    quant: Quant,
) -> Result<ValueId, Failure> {
    // Known elements become a constant now: a node is about to read them.
    b.tensor(x);
    let made = b.producer(x).is_some();
    let value = b.graph.value_mut(x);
    let own = match &value.quant {
        Some(old) => *old == quant,
        None => value.constant.is_some() || made,
    };
    if own {
        value.quant = Some(quant);
        return Ok(x);
    }
    let id = match value.constant.clone() {
        Some(tensor) => {
            let name = value.name.clone();
            b.constant(name, Tensor::clone(&Arc::clone(&tensor)))
        }
        None => b.emit(node, part, Op::BitCast, &[Some(x)], b.dtype(x), b.shape(x))?,
    };
    b.graph.value_mut(id).quant = Some(quant);
    Ok(id)
}

/// A tensor quantized to u8 by its own range.
pub(super) struct Dynamic {
    pub y: ValueId,
    pub scale: ValueId,
    pub zero_point: ValueId,
}

/// The range is widened to hold 0; a tensor of zeros has a scale of 1/255.
pub(super) fn dynamically(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    x: ValueId,
) -> Result<Dynamic, Failure> {
    if b.dtype(x) != DType::F32 {
        return Err(invalid(format!("an operand of type {}", b.dtype(x))));
    }
    if b.shape(x).iter().any(|d| dims::bounds(d, &b.graph.symbols).is_none_or(|(low, _)| low < 1)) {
        return Err(unsupported("a range of no elements", FIX_THE_DIM));
    }
    let axes: Vec<usize> = (0..b.rank(x)).collect();
    let mut ends = [x; 2];
    let kinds =
        [("min", ReduceKind::Min, BinaryKind::Min), ("max", ReduceKind::Max, BinaryKind::Max)];
    for (end, (part, kind, with_zero)) in ends.iter_mut().zip(kinds) {
        if !axes.is_empty() {
            *end = b.reduce(node, part, kind, x, &axes, false)?;
        }
        *end = b.with_number(node, &format!("{part}/zero"), with_zero, *end, 0.0)?;
    }
    let [min, max] = ends;
    let extent = b.binary(node, "extent", BinaryKind::Sub, max, min)?;
    let zero = b.scalar(format!("{}/none", node.name), DType::F32, 0.0)?;
    let one = b.scalar(format!("{}/one", node.name), DType::F32, 1.0)?;
    let empty = b.compare(node, "is_empty", CompareKind::Equal, extent, zero)?;
    let extent = b.select(node, "steps", [empty, one, extent])?;
    let scale = b.with_number(node, "scale", BinaryKind::Div, extent, 255.0)?;
    let zero = b.binary(node, "zero/scaled", BinaryKind::Div, min, scale)?;
    let zero = b.unary(node, "zero/positive", UnaryKind::Neg, zero)?;
    let zero = b.unary(node, "zero/in_range", UnaryKind::Clip { min: 0.0, max: 255.0 }, zero)?;
    let zero = b.unary(node, "zero/rounded", UnaryKind::Round, zero)?;
    let zero_point = b.cast(node, "zero_point", zero, DType::U8)?;
    let scaling = Scaling::new(scale, Some(zero_point), 1);
    let y = quantize(b, node, "", x, &scaling, t::UINT8, true)?;
    Ok(Dynamic { y, scale, zero_point })
}

/// The integers of a constant minus their zero points, one for all or one per index of an axis.
pub(super) fn centred(
    b: &mut Builder,
    x: ValueId,
    zero_point: Option<ValueId>,
    axis: usize,
) -> Result<Option<Integers>, Failure> {
    let Some(tensor) = b.tensor(x) else { return Ok(None) };
    let zeros = match zero_point {
        None => vec![0],
        Some(id) => match b.tensor(id) {
            Some(zeros) => zeros.to_i64(),
            None => return Ok(None),
        },
    };
    let spread = if zeros.len() == 1 { Spread::All } else { Spread::Axis(axis) };
    if zeros.len() != 1 && tensor.shape.get(axis) != Some(&zeros.len()) {
        return Err(invalid(format!("{} zero points for {:?}", zeros.len(), tensor.shape)));
    }
    b.charge(tensor.len().saturating_mul(16))?;
    let values = tensor.to_i64().into_iter().enumerate();
    let values =
        values.map(|(element, q)| q - zeros[scale_index(spread, &tensor.shape, element)]).collect();
    Ok(Some((tensor.shape.clone(), values)))
}

/// The type of quantized results: that of their zero point, or of what they are computed from.
pub(super) fn result_type(b: &Builder, zero_point: Option<ValueId>, like: ValueId) -> i32 {
    b.onnx_type(zero_point.unwrap_or(like))
}

/// A constant of one integer type that a zero point may have: for operators that leave it out.
pub(super) fn is_8_bit(b: &Builder, x: ValueId) -> bool {
    matches!(b.onnx_type(x), t::INT8 | t::UINT8) && own_type(b.dtype(x)) == b.onnx_type(x)
}

//! `QuantizeLinear` and `DequantizeLinear`: scales and zero points become the [`Quant`] of the
//! integer value, and a quantized constant is quantized right here.

use std::sync::Arc;

use whit::DType;

use super::builder::{Builder, OnnxNode, Outcome};
use super::data::axis_of;
use super::dims;
use super::elementwise::cast;
use super::failure::{Failure, invalid, unsupported};
use super::proto::data_type;
use super::tensor::dtype_of;
use crate::dim::Dim;
use crate::graph::{Op, Quant, ValueId};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] =
    &[("QuantizeLinear", quantize), ("DequantizeLinear", dequantize)];

/// Scale and zero point, for a tensor of this shape; and the zero point's type.
fn parameters(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    shape: &[Dim],
) -> Result<(Quant, Option<DType>), Failure> {
    const REMEDY: &str = "quantize statically, with constant scales";
    if node.attributes.int("block_size", 0)? != 0 {
        return Err(unsupported("blocked quantization", "quantize per tensor or per axis"));
    }
    let axis = node.attributes.int("axis", 1)?;
    let scale = b
        .tensor(node.required(1, "scale")?)
        .ok_or_else(|| unsupported("its scale is computed at run time", REMEDY))?;
    if !scale.dtype.is_float() {
        return Err(invalid(format!("a scale of type {}", scale.dtype)));
    }
    b.charge(scale.len().saturating_mul(8))?;
    let axis = match scale.shape.as_slice() {
        [] | [1] => None,
        [count] => {
            let axis = axis_of(axis, shape.len())?;
            if !dims::same(&Dim::from(*count), &shape[axis], &b.graph.symbols) {
                return Err(invalid(format!(
                    "{count} scales along axis {axis} of size {}",
                    b.text(&shape[axis..=axis])
                )));
            }
            Some(axis)
        }
        _ => return Err(unsupported("blocked quantization", "quantize per tensor or per axis")),
    };
    let values = scale.to_f32();
    if values.is_empty() || values.iter().any(|s| !s.is_finite() || *s < 0.0) {
        return Err(invalid("a scale is not a positive number"));
    }
    let (zero_point, dtype) = match node.input(2) {
        None => (vec![0; values.len()], None),
        Some(id) => {
            let dtype = b.dtype(id);
            let tensor = b
                .tensor(id)
                .ok_or_else(|| unsupported("its zero point is computed at run time", REMEDY))?;
            if tensor.len() != values.len() {
                return Err(invalid(format!(
                    "{} zero points for {} scales",
                    tensor.len(),
                    values.len()
                )));
            }
            let points: Result<Vec<i32>, _> =
                tensor.to_i64().into_iter().map(i32::try_from).collect();
            (points.map_err(|_| invalid("a zero point is out of range"))?, Some(dtype))
        }
    };
    Ok((Quant { scale: values, zero_point, axis }, dtype))
}

fn quantize(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let x = node.required(0, "x")?;
    let shape = b.shape(x);
    let (quant, zero_type) = parameters(b, node, &shape)?;
    node.attributes.flag("saturate", true)?; // of 8-bit floats
    if !matches!(i32::try_from(node.attributes.int("precision", 0)?), Ok(0 | data_type::FLOAT)) {
        return Err(unsupported("a division in another precision than f32", ""));
    }
    let stated = match node.attributes.int("output_dtype", 0)? {
        0 => None,
        number => {
            let onnx = i32::try_from(number).unwrap_or(0);
            let known = dtype_of(onnx).ok_or_else(|| {
                unsupported(format!("quantization to {}", data_type::name(onnx)), "")
            })?;
            Some(known)
        }
    };
    if zero_type.is_some() && stated.is_some() && zero_type != stated {
        return Err(invalid("output_dtype is not the zero point's type"));
    }
    let dtype = zero_type.or(stated).unwrap_or(DType::U8);
    if !matches!(dtype, DType::I8 | DType::U8 | DType::I16) {
        return Err(unsupported("quantization to a type other than int8, uint8 and int16", ""));
    }
    if quant.scale.contains(&0.0) {
        return Err(invalid("a scale is 0"));
    }
    if !b.dtype(x).is_float() {
        return Err(unsupported(format!("quantization of {}", b.dtype(x)), ""));
    }
    if let Some(tensor) = b.graph.constant(x).cloned() {
        b.charge(tensor.len().saturating_mul(dtype.size()))?;
        let integers = quantized(&tensor, &quant, dtype);
        let id = b.constant(node.name.clone(), integers);
        b.graph.value_mut(id).quant = Some(quant);
        return Ok(vec![id]);
    }
    let x = cast(b, node, "f32", x, DType::F32)?;
    let id = b.emit(node, "", Op::Quantize, &[Some(x)], dtype, shape)?;
    b.graph.value_mut(id).quant = Some(quant);
    Ok(vec![id])
}

/// `saturate(round_ties_even(x / scale) + zero_point)`.
fn quantized(tensor: &Tensor, quant: &Quant, dtype: DType) -> Tensor {
    let (low, high) = match dtype {
        DType::I8 => (-128.0, 127.0),
        DType::U8 => (0.0, 255.0),
        _ => (-32768.0, 32767.0),
    };
    // Elements between two neighbours along the axis, and how many there are.
    let (inner, count) = match quant.axis {
        Some(axis) => {
            (tensor.shape[axis + 1..].iter().product::<usize>().max(1), tensor.shape[axis].max(1))
        }
        None => (1, 1),
    };
    let mut data = Vec::with_capacity(tensor.len() * dtype.size());
    for (index, value) in tensor.to_f32().into_iter().enumerate() {
        let channel = index / inner % count;
        let rounded = (value / quant.scale[channel]).round_ties_even();
        let integer = (rounded + quant.zero_point[channel] as f32).clamp(low, high) as i16;
        match dtype {
            DType::I16 => data.extend_from_slice(&integer.to_le_bytes()),
            // The low byte of a number in range, of either signedness.
            _ => data.push(integer as u8),
        }
    }
    Tensor { dtype, shape: tensor.shape.clone(), data: data.into() }
}

fn dequantize(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let x = node.required(0, "x")?;
    let (shape, dtype) = (b.shape(x), b.dtype(x));
    let (quant, zero_type) = parameters(b, node, &shape)?;
    if !matches!(dtype, DType::I8 | DType::U8 | DType::I16 | DType::I32) {
        return Err(unsupported(format!("dequantization of {dtype}"), "use int8, uint8 or int16"));
    }
    if zero_type.is_some_and(|zero| zero != dtype) {
        return Err(invalid(format!("a zero point of another type than {dtype}")));
    }
    let scale_type = b.dtype(node.required(1, "scale")?);
    let result = match node.attributes.int("output_dtype", 0)? {
        0 => scale_type,
        number => match dtype_of(i32::try_from(number).unwrap_or(0)) {
            Some(dtype) if dtype.is_float() => dtype,
            _ => {
                return Err(invalid(format!("output_dtype {number} is not a floating-point type")));
            }
        },
    };
    let x = with_quant(b, x, quant)?;
    let y = b.emit(node, "", Op::Dequantize, &[Some(x)], DType::F32, shape)?;
    Ok(vec![cast(b, node, "cast", y, result)?])
}

/// The integer value with this meaning: itself, or another constant when it has a different one.
fn with_quant(b: &mut Builder, x: ValueId, quant: Quant) -> Result<ValueId, Failure> {
    // Known elements become a constant now: a node is about to read them.
    b.tensor(x);
    let value = b.graph.value_mut(x);
    match &value.quant {
        Some(old) if *old == quant => Ok(x),
        None => {
            value.quant = Some(quant);
            Ok(x)
        }
        Some(_) => match value.constant.clone() {
            Some(tensor) => {
                let name = value.name.clone();
                let copy = b.constant(name, Tensor::clone(&Arc::clone(&tensor)));
                b.graph.value_mut(copy).quant = Some(quant);
                Ok(copy)
            }
            None => Err(unsupported(
                "its scale or zero point differs from those that its input was quantized with",
                "quantize and dequantize with the same parameters",
            )),
        },
    }
}

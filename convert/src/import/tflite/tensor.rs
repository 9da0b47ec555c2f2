//! Tensors of the model: element types, constants, quantization.

use bytes::Bytes;
use whit::DType;

use super::schema::{Model, Tensor, tensor_type as t};
use crate::graph::Quant;
use crate::import::builder::{MAX_ELEMENTS, MAX_RANK};
use crate::import::failure::{Failure, invalid, unsupported};
use crate::tensor::Tensor as Constant;

/// The element type that stands for one of the model.
pub(super) fn dtype_of(kind: i8) -> Result<DType, Failure> {
    match kind {
        t::FLOAT32 => Ok(DType::F32),
        t::FLOAT16 => Ok(DType::F16),
        t::BFLOAT16 => Ok(DType::BF16),
        t::INT32 => Ok(DType::I32),
        t::UINT8 => Ok(DType::U8),
        t::INT64 => Ok(DType::I64),
        t::BOOL => Ok(DType::Bool),
        t::INT16 => Ok(DType::I16),
        t::INT8 => Ok(DType::I8),
        other => Err(unsupported(format!("tensors of element type {}", t::name(other)), "")),
    }
}

/// The sizes of a tensor that doesn't change.
pub(super) fn sizes(tensor: &Tensor) -> Result<Vec<usize>, Failure> {
    if tensor.shape.len() > MAX_RANK {
        return Err(unsupported(
            format!("{} axes; at most {MAX_RANK} are supported", tensor.shape.len()),
            "",
        ));
    }
    let sizes: Result<Vec<usize>, _> = tensor.shape.iter().map(|d| usize::try_from(*d)).collect();
    sizes.map_err(|_| invalid(format!("a tensor of shape {:?}", tensor.shape)))
}

/// Scales and zero points; `None` for a tensor that has none.
pub(super) fn quant(tensor: &Tensor) -> Result<Option<Quant>, Failure> {
    let Some(stated) = tensor.quantization.as_ref().filter(|q| !q.scale.is_empty()) else {
        return Ok(None);
    };
    if stated.details_type != 0 {
        return Err(unsupported("a quantization with details of its own", ""));
    }
    let scale = stated.scale.clone();
    let zero_point = match stated.zero_point.is_empty() {
        true => vec![0; scale.len()],
        false => {
            let points: Result<Vec<i32>, _> =
                stated.zero_point.iter().map(|z| i32::try_from(*z)).collect();
            points.map_err(|_| invalid("a zero point is out of range"))?
        }
    };
    if scale.iter().any(|s| !s.is_finite() || *s <= 0.0) {
        return Err(invalid("a scale is not a positive number"));
    }
    let limits = match tensor.kind {
        t::INT8 => -128..=127,
        t::UINT8 => 0..=255,
        // Integers of 16 bits and more are symmetric by definition.
        t::INT16 | t::INT32 | t::INT64 => 0..=0,
        _ => i32::MIN..=i32::MAX,
    };
    if zero_point.iter().any(|z| !limits.contains(z)) {
        return Err(invalid("a zero point is outside of its tensor's type"));
    }
    if scale.len() != zero_point.len() {
        return Err(invalid("scales and zero points differ in number"));
    }
    if scale.len() == 1 {
        return Ok(Some(Quant { scale, zero_point, axis: None }));
    }
    let axis = usize::try_from(stated.axis).ok().filter(|axis| {
        tensor.shape.get(*axis).and_then(|size| usize::try_from(*size).ok()) == Some(scale.len())
    });
    match axis {
        Some(axis) => Ok(Some(Quant { scale, zero_point, axis: Some(axis) })),
        None => Err(invalid(format!(
            "{} scales along axis {} of shape {:?}",
            scale.len(),
            stated.axis,
            tensor.shape
        ))),
    }
}

/// The constant that a tensor is, if it is one. Its elements stay in the file.
pub(super) fn constant(
    file: &Bytes,
    model: &Model,
    tensor: &Tensor,
) -> Result<Option<Constant>, Failure> {
    let buffer = model
        .buffers
        .get(tensor.buffer as usize)
        .ok_or_else(|| invalid(format!("buffer #{} doesn't exist", tensor.buffer)))?;
    let range = match buffer.offset {
        // 1 stands for a place that the writer didn't fill in.
        0 | 1 => buffer.data.clone(),
        offset => {
            let start = usize::try_from(offset).ok();
            let range = start.and_then(|start| {
                let end = start.checked_add(usize::try_from(buffer.size).ok()?)?;
                (end <= file.len()).then_some(start..end)
            });
            range.ok_or_else(|| invalid("a buffer lies outside of the file"))?
        }
    };
    // The first buffer is empty by definition, and a tensor with an empty one is computed.
    if tensor.buffer == 0 || range.is_empty() {
        return Ok(None);
    }
    if tensor.sparsity.is_some() {
        return Err(unsupported("sparse weights", "convert the model without sparsity"));
    }
    let (dtype, shape) = (dtype_of(tensor.kind)?, sizes(tensor)?);
    let count = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
    let count = count.filter(|n| *n <= MAX_ELEMENTS);
    if count.map(|n| n * dtype.size()) != Some(range.len()) {
        return Err(invalid(format!("{} bytes for {dtype} of shape {shape:?}", range.len())));
    }
    Ok(Some(Constant { dtype, shape, data: file.slice(range) }))
}

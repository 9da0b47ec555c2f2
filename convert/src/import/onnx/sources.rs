//! Operators that make tensors out of attributes and shapes.

use whit::DType;

use super::builder::{Builder, OnnxNode, Outcome};
use super::dims;
use super::failure::{Failure, invalid, unsupported};
use super::proto::{TensorProto, data_type};
use super::shapes::{Elem, Known, to_tensor};
use super::tensor::{TensorProblem, read};
use crate::dim::Dim;
use crate::graph::Op;
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("Constant", constant),
    ("ConstantOfShape", constant_of_shape),
    ("Shape", shape),
    ("Size", size),
    ("Range", range),
];

fn attribute_tensor(proto: &TensorProto) -> Result<Tensor, Failure> {
    read(proto, None).map_err(|problem| match problem {
        TensorProblem::UnsupportedType(reason) => unsupported(reason, ""),
        TensorProblem::Invalid(problem) => invalid(format!("its tensor: {problem}")),
    })
}

fn constant(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(0)?;
    let a = &node.attributes;
    let mut onnx = None;
    let tensor = if let Some(proto) = a.tensor("value")? {
        onnx = Some(proto.data_type());
        attribute_tensor(proto)?
    } else if let Some(value) = a.optional_int("value_int")? {
        Tensor::from_i64([], &[value])
    } else if let Some(values) = a.ints("value_ints")? {
        Tensor::from_i64([values.len()], values)
    } else if a.has("value_float") {
        Tensor::from_f32([], &[a.float("value_float", 0.0)?])
    } else if let Some(values) = a.floats("value_floats")? {
        Tensor::from_f32([values.len()], values)
    } else {
        return Err(unsupported("a constant that is sparse or a string", ""));
    };
    let id = b.constant(node.name.clone(), tensor);
    if let Some(onnx) = onnx {
        b.set_onnx_type(id, onnx);
    }
    Ok(vec![id])
}

fn constant_of_shape(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let dims = b.dims(node.required(0, "input")?, "the shape")?;
    let mut onnx = data_type::FLOAT;
    let value = match node.attributes.tensor("value")? {
        Some(proto) => {
            onnx = proto.data_type();
            attribute_tensor(proto)?
        }
        None => Tensor::from_f32([1], &[0.0]),
    };
    if value.len() != 1 {
        return Err(invalid(format!("the value has {} elements, not 1", value.len())));
    }
    let dtype = value.dtype;
    let scalar = b.constant(format!("{}/value", node.name), value.reshaped([]));
    let id = b.emit(node, "", Op::Expand, &[Some(scalar)], dtype, dims)?;
    b.set_onnx_type(id, onnx);
    Ok(vec![id])
}

fn shape(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let shape = b.shape(node.required(0, "data")?);
    let rank = i64::try_from(shape.len()).unwrap_or(i64::MAX);
    let clamped = |value: i64| -> usize {
        let counted = if value < 0 { value.saturating_add(rank) } else { value };
        usize::try_from(counted.clamp(0, rank)).unwrap_or(0)
    };
    let start = clamped(node.attributes.int("start", 0)?);
    let end = clamped(node.attributes.int("end", rank)?);
    let dims = shape.get(start..end.max(start)).unwrap_or_default().to_vec();
    Ok(vec![b.virtual_value(node.name.clone(), DType::I64, Known::list(dims))?])
}

fn size(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let size = dims::product(&b.shape(node.required(0, "data")?))?;
    let known = Known { shape: Vec::new(), elems: vec![Elem::Int(size)] };
    Ok(vec![b.virtual_value(node.name.clone(), DType::I64, known)?])
}

/// Of constants; a length that is only known at run time isn't supported.
fn range(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    const MAX_LENGTH: i64 = 1 << 20; // positions of a long sequence, not a data set
    node.at_most(3)?;
    node.attributes.ignore("stash_type"); // of half precision
    let mut ends = Vec::new();
    let first = node.required(0, "start")?;
    let dtype = b.dtype(first);
    for (index, what) in ["start", "limit", "delta"].into_iter().enumerate() {
        let id = node.required(index, what)?;
        let tensor = b.tensor(id).ok_or_else(|| {
            unsupported(format!("{what} is only known at run time"), super::failure::FIX_THE_DIM)
        })?;
        if tensor.len() != 1 || tensor.dtype != dtype {
            return Err(invalid(format!("{what} is not a scalar of type {dtype}")));
        }
        ends.push(tensor);
    }
    let too_long = || unsupported("a range of more than a million elements", "");
    let tensor = match dtype {
        DType::I16 | DType::I32 | DType::I64 => {
            let [start, limit, delta] = [&ends[0], &ends[1], &ends[2]].map(|t| t.to_i64()[0]);
            if delta == 0 {
                return Err(invalid("delta is 0"));
            }
            let span = i128::from(limit) - i128::from(start);
            let delta = i128::from(delta);
            // ceil(span / delta), at least 0.
            let (span, step) = if delta > 0 { (span, delta) } else { (-span, -delta) };
            let length = (span + step - 1).div_euclid(step).max(0);
            let length =
                i64::try_from(length).ok().filter(|n| *n <= MAX_LENGTH).ok_or_else(too_long)?;
            let elems: Vec<Elem> = (0..length)
                .map(|i| Elem::Int(Dim::from((i128::from(start) + i128::from(i) * delta) as i64)))
                .collect();
            to_tensor(dtype, vec![elems.len()], &elems)
        }
        DType::F32 => {
            let [start, limit, delta] = [&ends[0], &ends[1], &ends[2]].map(|t| t.to_f32()[0]);
            let length = ((f64::from(limit) - f64::from(start)) / f64::from(delta)).ceil().max(0.0);
            if !length.is_finite() || length > MAX_LENGTH as f64 {
                return Err(too_long());
            }
            let values: Vec<f32> = (0..length as usize).map(|i| start + i as f32 * delta).collect();
            Some(Tensor::from_f32([values.len()], &values))
        }
        _ => return Err(unsupported(format!("a range of {dtype}"), "cast after it instead")),
    };
    let tensor = tensor.ok_or_else(|| invalid("the range leaves its type"))?;
    b.charge(tensor.data.len())?;
    Ok(vec![b.constant(node.name.clone(), tensor)])
}

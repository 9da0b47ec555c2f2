//! Operators that make tensors out of attributes and shapes.

use whit::DType;

use super::builder::{Builder, Outcome};
use super::dims;
use super::failure::{Failure, invalid, unsupported};
use super::node::OnnxNode;
use super::proto::{TensorProto, data_type};
use super::shapes::{Elem, Known, to_tensor};
use super::tensor::{TensorProblem, read};
use crate::dim::Dim;
use crate::graph::{BinaryKind, Op, ValueId};
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

/// Of constants; of integers also up to a dynamic size, with a step of any size.
fn range(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    const MAX_LENGTH: i64 = 1 << 20; // positions of a long sequence, not a data set
    node.at_most(3)?;
    node.attributes.ignore("stash_type"); // half precision is computed in f32
    let mut ids = Vec::new();
    for (index, what) in ["start", "limit", "delta"].into_iter().enumerate() {
        let id = node.required(index, what)?;
        ids.push(id);
        if b.shape(id).iter().any(|dim| !dim.is(1)) || b.dtype(id) != b.dtype(ids[0]) {
            return Err(invalid(format!("{what} is not a scalar of type {}", b.dtype(ids[0]))));
        }
    }
    let dtype = b.dtype(ids[0]);
    if dtype == DType::Bool {
        return Err(invalid("a range of bools"));
    }
    if ids.iter().any(|id| b.tensor(*id).is_none()) {
        return dynamic_range(b, node, &ids, dtype);
    }
    let ends: Vec<_> = ids.iter().filter_map(|id| b.tensor(*id)).collect();
    let too_long = || unsupported("a range of more than a million elements", "");
    let elems: Vec<Elem> = if dtype.is_float() {
        let [start, limit, delta] = [&ends[0], &ends[1], &ends[2]].map(|t| t.to_f32()[0]);
        let length = ((f64::from(limit) - f64::from(start)) / f64::from(delta)).ceil().max(0.0);
        if !length.is_finite() || length > MAX_LENGTH as f64 {
            return Err(too_long());
        }
        let values = (0..length as usize).map(|i| start + i as f32 * delta);
        values.map(|value| Elem::Real(f64::from(value))).collect()
    } else {
        let [start, limit, delta] = [&ends[0], &ends[1], &ends[2]].map(|t| t.to_i64()[0]);
        if delta == 0 {
            return Err(invalid("delta is 0"));
        }
        let span = i128::from(limit) - i128::from(start);
        let delta = i128::from(delta);
        // ceil(span / delta), at least 0.
        let (span, step) = if delta > 0 { (span, delta) } else { (-span, -delta) };
        let length = (span + step - 1).div_euclid(step).max(0);
        let length = i64::try_from(length).ok().filter(|n| *n <= MAX_LENGTH);
        let values =
            (0..length.ok_or_else(too_long)?).map(|i| i128::from(start) + i128::from(i) * delta);
        values.map(|value| Elem::Int(Dim::from(value as i64))).collect()
    };
    let tensor = to_tensor(dtype, vec![elems.len()], &elems);
    let tensor = tensor.ok_or_else(|| invalid("the range leaves its type"))?;
    b.charge(tensor.data.len())?;
    Ok(vec![b.constant(node.name.clone(), tensor)])
}

/// The beginning of 0, 1, 2, …, stretched and moved.
fn dynamic_range(b: &mut Builder, node: &OnnxNode<'_>, ids: &[ValueId], dtype: DType) -> Outcome {
    let run_time = |what: &str| {
        unsupported(format!("{what} is only known at run time"), super::failure::FIX_THE_DIM)
    };
    if !matches!(dtype, DType::I32 | DType::I64) {
        return Err(run_time("a length"));
    }
    let end = |b: &Builder, index: usize, what: &str| -> Result<Dim, Failure> {
        let known = b.dims(ids[index], what).map_err(|_| run_time(what))?;
        known.into_iter().next().ok_or_else(|| run_time(what))
    };
    let (start, limit) = (end(b, 0, "start")?, end(b, 1, "limit")?);
    let delta = end(b, 2, "delta")?.as_const().ok_or_else(|| run_time("delta"))?;
    const MAX_STEP: i64 = 1 << 31;
    if delta == 0 || delta.abs() > MAX_STEP {
        return Err(invalid(format!("delta is {delta}")));
    }
    let span = if delta > 0 { limit.sub(&start) } else { start.sub(&limit) };
    let symbols = &b.graph.symbols;
    let length = dims::ceil_div_by(&span, delta.abs());
    let length = dims::max(&length, &Dim::from(0i64), symbols);
    // The model may be smaller than the largest: there has to be something of it.
    if dims::bounds(&length, symbols).is_none_or(|(low, _)| low < 1) {
        return Err(run_time("a length"));
    }
    let first = start.as_const().ok_or_else(|| run_time("start"))?;
    let mut y = b.range(node, "positions", &length)?;
    for (part, kind, value) in
        [("steps", BinaryKind::Mul, delta), ("moved", BinaryKind::Add, first)]
    {
        if value != i64::from(kind == BinaryKind::Mul) {
            let by = b.constant(format!("{}/{part}/by", node.name), Tensor::from_i64([], &[value]));
            y = b.binary(node, part, kind, y, by)?;
        }
    }
    Ok(vec![b.cast(node, "", y, dtype)?])
}

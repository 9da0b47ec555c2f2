//! Tensors that follow from shapes or from a few numbers.

use whit::DType;

use super::node::TfliteNode;
use super::schema::{ShapeOptions, tensor_type};
use super::tensor;
use crate::dim::Dim;
use crate::graph::Op;
use crate::import::builder::{Builder, Outcome};
use crate::import::compose::Compose;
use crate::import::dims;
use crate::import::failure::{Failure, invalid, unsupported};
use crate::import::shapes::{Elem, Known, MAX_ELEMS};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("SHAPE", |b, n| {
        let options: ShapeOptions = n.options()?;
        let dtype = match options.output_type {
            tensor_type::INT32 => DType::I32,
            tensor_type::INT64 => DType::I64,
            other => return Err(invalid(format!("sizes of {}", tensor_type::name(other)))),
        };
        let shape = b.shape(n.required(0, "input")?);
        Ok(vec![b.virtual_value(n.name.clone(), dtype, Known::list(shape))?])
    }),
    ("RANK", |b, n| {
        let rank = b.rank(n.required(0, "input")?);
        Ok(vec![b.scalar(n.name.clone(), DType::I32, rank as f64)?])
    }),
    ("FILL", fill),
    ("ZEROS_LIKE", zeros_like),
    ("BROADCAST_TO", |b, n| {
        let x = n.required(0, "input")?;
        let shape = b.dims(n.required(1, "shape")?, "the shape")?;
        Ok(vec![Compose::new(b, n).main().expand(x, shape)?])
    }),
    ("BROADCAST_ARGS", |b, n| {
        let (x, y) = (n.required(0, "shape 1")?, n.required(1, "shape 2")?);
        let dtype = b.dtype(x);
        let (x, y) = (b.dims(x, "the first shape")?, b.dims(y, "the second shape")?);
        let shape = dims::broadcast(&x, &y, &b.graph.symbols)?;
        Ok(vec![b.virtual_value(n.name.clone(), dtype, Known::list(shape))?])
    }),
    ("RANGE", range),
];

fn fill(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let shape = b.dims(node.required(0, "shape")?, "the shape")?;
    let value = node.required(1, "value")?;
    if b.rank(value) != 0 {
        return Err(invalid("the value is not one number"));
    }
    Ok(vec![Compose::new(b, node).main().expand(value, shape)?])
}

fn zeros_like(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let quant = tensor::quant(node.output_tensor(0)?)?.filter(|_| dtype.size() < 4);
    let stored = quant.as_ref().map_or(0, |quant| quant.zero_point[0]);
    let zero = b.scalar(format!("{}/zero", node.name), dtype, f64::from(stored))?;
    b.graph.value_mut(zero).quant = quant;
    Ok(vec![b.emit(node, "", Op::Expand, &[Some(zero)], dtype, shape)?])
}

/// One number of a constant.
fn number(b: &mut Builder, node: &TfliteNode<'_>, index: usize) -> Result<f64, Failure> {
    let x = node.required(index, "number")?;
    let constant = b.tensor(x).ok_or_else(|| {
        unsupported("as many results as numbers say that are only known at run time", "")
    })?;
    match constant.len() {
        1 if constant.dtype.is_float() => Ok(f64::from(constant.to_f32()[0])),
        1 => Ok(constant.to_i64()[0] as f64),
        count => Err(invalid(format!("{count} numbers instead of one"))),
    }
}

/// `start, start + delta, …` below the limit.
fn range(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let dtype = b.dtype(node.required(0, "start")?);
    if !matches!(dtype, DType::F32 | DType::I32 | DType::I64) {
        return Err(unsupported(format!("a range of {dtype}"), "use int32 or float32"));
    }
    let (start, limit) = (number(b, node, 0)?, number(b, node, 1)?);
    let delta = number(b, node, 2)?;
    let count = ((limit - start) / delta).ceil();
    if !count.is_finite() || delta == 0.0 {
        return Err(invalid(format!("a range from {start} to {limit} by {delta}")));
    }
    let count = count.max(0.0);
    if count > (1u64 << 24) as f64 {
        return Err(unsupported(format!("a range of {count} numbers"), "make it a constant"));
    }
    let count = count as usize;
    let name = node.name.clone();
    if count <= MAX_ELEMS && dtype != DType::F32 {
        let elems = (0..count).map(|at| Elem::Int(Dim::from((start + at as f64 * delta) as i64)));
        let known = Known { shape: vec![count], elems: elems.collect() };
        return Ok(vec![b.virtual_value(name, dtype, known)?]);
    }
    b.charge(count.saturating_mul(dtype.size()))?;
    let tensor = match dtype {
        DType::F32 => {
            let (start, delta) = (start as f32, delta as f32);
            let values: Vec<f32> = (0..count).map(|at| start + at as f32 * delta).collect();
            Tensor::from_f32([count], &values)
        }
        _ => {
            let values: Vec<i64> =
                (0..count).map(|at| (start + at as f64 * delta) as i64).collect();
            let wide = Tensor::from_i64([count], &values);
            wide.converted(dtype).ok_or_else(|| invalid("a range beyond its type"))?
        }
    };
    Ok(vec![b.constant(name, tensor)])
}

//! Operators that move elements or change their type.

use super::node::TfliteNode;
use super::schema::ReshapeOptions;
use crate::dim::Dim;
use crate::graph::ValueId;
use crate::import::builder::{Builder, Outcome};
use crate::import::dims;
use crate::import::failure::{Failure, invalid};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("RESHAPE", reshape),
    ("QUANTIZE", |b, n| {
        let x = n.real(b, 0, "input")?;
        Ok(vec![n.declared(b, x, 0)?])
    }),
    ("DEQUANTIZE", |b, n| {
        let x = n.real(b, 0, "input")?;
        Ok(vec![n.declared(b, x, 0)?])
    }),
];

/// The shape comes from the second operand or, in older files, from the options.
fn reshape(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "tensor")?;
    let options: ReshapeOptions = node.options()?;
    let stated = match (node.input(1), options.new_shape) {
        (Some(shape), _) => b.dims(shape, "the shape")?,
        (None, Some(shape)) => shape.iter().map(|d| Dim::from(i64::from(*d))).collect(),
        (None, None) => return Err(invalid("it has no shape")),
    };
    let shape = filled_in(b, x, stated)?;
    Ok(vec![b.reshape(node, "", x, shape)?])
}

/// A shape with what its one −1 stands for.
fn filled_in(b: &Builder, x: ValueId, mut shape: Vec<Dim>) -> Result<Vec<Dim>, Failure> {
    let all = dims::product(&b.shape(x))?;
    let unknown: Vec<usize> = (0..shape.len()).filter(|i| shape[*i].is(-1)).collect();
    let from = b.text(&b.shape(x));
    if let [axis] = unknown[..] {
        shape[axis] = Dim::from(1i64);
        let rest = dims::product(&shape)?;
        let size = dims::floor_div(&all, &rest, &b.graph.symbols);
        shape[axis] = size.ok_or_else(|| invalid(format!("{from} in shape {}", b.text(&shape))))?;
    }
    if shape.iter().any(|d| d.as_const().is_some_and(|d| d < 0))
        || !dims::same(&all, &dims::product(&shape)?, &b.graph.symbols)
    {
        let to = b.text(&shape);
        return Err(invalid(format!("{from} doesn't hold as many elements as {to}")));
    }
    Ok(shape)
}

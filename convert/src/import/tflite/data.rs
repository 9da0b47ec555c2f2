//! Operators that move elements or change their type. Quantized tensors are moved as integers.

use whit::DType;

use super::fixed_point;
use super::node::TfliteNode;
use super::reduce::axis_of;
use super::schema::{
    ConcatenationOptions, DepthToSpaceOptions, PackOptions, ReshapeOptions, ReverseSequenceOptions,
    SpaceToDepthOptions, SqueezeOptions, UnpackOptions,
};
use super::tensor;
use crate::dim::Dim;
use crate::graph::{Op, ValueId};
use crate::import::builder::{Builder, Outcome};
use crate::import::compose::Compose;
use crate::import::dims;
use crate::import::failure::{FIX_THE_DIM, Failure, invalid, unsupported};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("RESHAPE", reshape),
    ("SQUEEZE", squeeze),
    ("EXPAND_DIMS", expand_dims),
    ("TRANSPOSE", transpose),
    ("CONCATENATION", concatenation),
    ("PACK", pack),
    ("UNPACK", unpack),
    ("SPLIT", split),
    ("SPLIT_V", split_v),
    ("SPACE_TO_DEPTH", space_to_depth),
    ("DEPTH_TO_SPACE", depth_to_space),
    ("BATCH_TO_SPACE_ND", batch_to_space),
    ("REVERSE_SEQUENCE", reverse_sequence),
    ("CAST", cast),
    ("QUANTIZE", |b, n| match n.both_i8(b)? {
        Some((x, from, to)) if from == to => Ok(vec![x]),
        Some((x, from, to)) => {
            let table = fixed_point::requantized(&from, &to);
            Ok(vec![n.lut(b, x, to, table)?])
        }
        None => {
            let x = n.real(b, 0, "input")?;
            Ok(vec![n.declared(b, x, 0)?])
        }
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

/// Without the listed axes of size 1, or without all of them.
fn squeeze(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let options: SqueezeOptions = node.options()?;
    let from = b.shape(x);
    let axes: Result<Vec<usize>, Failure> =
        options.axes.iter().map(|axis| axis_of(i64::from(*axis), from.len())).collect();
    let axes = axes?;
    if let Some(axis) = axes.iter().find(|axis| !from[**axis].is(1)) {
        return Err(invalid(format!("axis {axis} of {} isn't 1", b.text(&from))));
    }
    let leaves = |axis: usize| match axes.is_empty() {
        true => from[axis].is(1),
        false => axes.contains(&axis),
    };
    let shape = (0..from.len()).filter(|axis| !leaves(*axis)).map(|axis| from[axis].clone());
    let shape = shape.collect();
    Ok(vec![b.reshape(node, "", x, shape)?])
}

fn expand_dims(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let mut shape = b.shape(x);
    let axis = axis_of(b.int(node.required(1, "axis")?, "the axis")?, shape.len() + 1)?;
    shape.insert(axis, Dim::from(1i64));
    Ok(vec![b.reshape(node, "", x, shape)?])
}

fn transpose(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let rank = b.rank(x);
    let stated = b.ints(node.required(1, "permutation")?, "the permutation")?;
    let perm: Result<Vec<usize>, Failure> =
        stated.iter().map(|axis| axis_of(*axis, rank)).collect();
    let perm = perm?;
    if perm.len() != rank || (0..rank).any(|axis| !perm.contains(&axis)) {
        return Err(invalid(format!("{stated:?} is no permutation of {rank} axes")));
    }
    Ok(vec![b.transpose(node, "", x, &perm)?])
}

/// Parts as the result has them: integers of its scale as they are, others by way of reals.
fn concatenation(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: ConcatenationOptions = node.options()?;
    let first = node.required(0, "the first part")?;
    let axis = axis_of(i64::from(options.axis), b.rank(first))?;
    let dtype = tensor::dtype_of(node.output_tensor(0)?.kind)?;
    let quant = tensor::quant(node.output_tensor(0)?)?.filter(|_| dtype.size() < 4);
    let all = 0..node.inputs.len();
    let alike = all.clone().all(|index| {
        node.input(index)
            .is_some_and(|part| b.dtype(part) == dtype && b.graph.value(part).quant == quant)
    });
    let parts: Result<Vec<ValueId>, Failure> = all
        .map(|index| match alike && options.activation == 0 {
            true => node.required(index, "a part"),
            false => node.real(b, index, &format!("part_{index}")),
        })
        .collect();
    let y = Compose::new(b, node).main().concat(&parts?, axis)?;
    let y = node.activated(b, y, options.activation)?;
    match b.dtype(y) == dtype {
        true => Ok(vec![y]),
        false => Ok(vec![node.declared(b, y, 0)?]),
    }
}

fn pack(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: PackOptions = node.options()?;
    let rank = b.rank(node.required(0, "the first part")?);
    let axis = axis_of(i64::from(options.axis), rank + 1)?;
    let mut parts = Vec::new();
    let c = &mut Compose::new(b, node);
    for index in 0..node.inputs.len() {
        let part = node.required(index, "a part")?;
        if c.rank(part) != rank {
            return Err(invalid("parts of different ranks"));
        }
        parts.push(c.unsqueeze(part, axis)?);
    }
    Ok(vec![c.main().concat(&parts, axis)?])
}

fn unpack(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: UnpackOptions = node.options()?;
    let x = node.required(0, "input")?;
    let axis = axis_of(i64::from(options.axis), b.rank(x))?;
    let count = node.operator.outputs.len();
    if !b.shape(x)[axis].is(count as i64) {
        return Err(invalid(format!("{count} results of {}", b.text(&b.shape(x)))));
    }
    let mut shape = b.shape(x);
    shape.remove(axis);
    let c = &mut Compose::new(b, node);
    (0..count)
        .map(|index| {
            let part = c.part_of(x, axis, &Dim::from(index), &Dim::from(1i64))?;
            c.reshape(part, shape.clone())
        })
        .collect()
}

/// As many equal parts as there are results.
fn split(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(1, "input")?;
    let axis = axis_of(b.int(node.required(0, "axis")?, "the axis")?, b.rank(x))?;
    let count = node.operator.outputs.len() as i64;
    let size = b.shape(x)[axis].clone();
    let part = dims::floor_div_by(&size, count.max(1));
    if count == 0 || !dims::same(&part.mul(&Dim::from(count)), &size, &b.graph.symbols) {
        return Err(invalid(format!("{count} parts of {}", size.display(&b.graph.symbols))));
    }
    let sizes = vec![part; count as usize];
    parts(b, node, x, axis, &sizes)
}

/// Parts of stated sizes, of which one may be −1.
fn split_v(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let axis = axis_of(b.int(node.required(2, "axis")?, "the axis")?, b.rank(x))?;
    let mut sizes = b.dims(node.required(1, "sizes")?, "the sizes")?;
    let size = b.shape(x)[axis].clone();
    let stated = sizes.iter().filter(|size| !size.is(-1));
    let stated = stated.fold(Dim::from(0i64), |sum, size| sum.add(size));
    if let [open] = (0..sizes.len()).filter(|at| sizes[*at].is(-1)).collect::<Vec<_>>()[..] {
        sizes[open] = size.sub(&stated);
    }
    let sum = sizes.iter().fold(Dim::from(0i64), |sum, size| sum.add(size));
    let negative = |size: &Dim| dims::bounds(size, &b.graph.symbols).is_none_or(|(low, _)| low < 0);
    if sizes.len() != node.operator.outputs.len()
        || sizes.iter().any(negative)
        || !dims::same(&sum, &size, &b.graph.symbols)
    {
        let (sizes, size) = (b.text(&sizes), size.display(&b.graph.symbols));
        return Err(invalid(format!("parts of {sizes} of {size}")));
    }
    parts(b, node, x, axis, &sizes)
}

/// Parts that lie one behind the other.
fn parts(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    x: ValueId,
    axis: usize,
    sizes: &[Dim],
) -> Outcome {
    let mut start = Dim::from(0i64);
    let mut parts = Vec::with_capacity(sizes.len());
    for (index, size) in sizes.iter().enumerate() {
        parts.push(b.slice(node, &format!("part_{index}"), x, axis, &start, size)?);
        start = start.add(size);
    }
    Ok(parts)
}

/// Height and width in blocks: `[n, h / b, b, w / b, b, c]`.
fn block_size(b: &Builder, x: ValueId, size: i32) -> Result<(Vec<Dim>, Dim), Failure> {
    let shape = b.shape(x);
    if shape.len() != 4 || size < 1 {
        return Err(invalid(format!("blocks of {size} of {}", b.text(&shape))));
    }
    Ok((shape, Dim::from(i64::from(size))))
}

/// `a / b`, which must come out even.
fn exact(b: &Builder, dividend: &Dim, divisor: &Dim) -> Result<Dim, Failure> {
    let quotient = dims::floor_div(dividend, divisor, &b.graph.symbols);
    let whole = |q: &Dim| {
        dims::multiply(q, divisor).is_some_and(|p| dims::same(&p, dividend, &b.graph.symbols))
    };
    quotient.filter(whole).ok_or_else(|| {
        let symbols = &b.graph.symbols;
        let (dividend, divisor) = (dividend.display(symbols), divisor.display(symbols));
        invalid(format!("{dividend} elements in blocks of {divisor}"))
    })
}

fn space_to_depth(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: SpaceToDepthOptions = node.options()?;
    let x = node.required(0, "input")?;
    let (shape, block) = block_size(b, x, options.block_size)?;
    let (h, w) = (exact(b, &shape[1], &block)?, exact(b, &shape[2], &block)?);
    let (n, channels) = (&shape[0], &shape[3]);
    let apart = [n, &h, &block, &w, &block, channels].into_iter().cloned().collect();
    let deep = dims::product(&[block.clone(), block.clone(), channels.clone()])?;
    let c = &mut Compose::new(b, node);
    let x = c.reshape(x, apart)?;
    let x = c.main().transpose(x, &[0, 1, 3, 2, 4, 5])?;
    Ok(vec![c.reshape(x, vec![n.clone(), h, w, deep])?])
}

fn depth_to_space(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: DepthToSpaceOptions = node.options()?;
    let x = node.required(0, "input")?;
    let (shape, block) = block_size(b, x, options.block_size)?;
    let channels = exact(b, &shape[3], &dims::product(&[block.clone(), block.clone()])?)?;
    let (n, h, w) = (&shape[0], &shape[1], &shape[2]);
    let apart = [n, h, w, &block, &block, &channels].into_iter().cloned().collect();
    let wide = vec![n.clone(), h.mul(&block), w.mul(&block), channels.clone()];
    let c = &mut Compose::new(b, node);
    let x = c.reshape(x, apart)?;
    let x = c.main().transpose(x, &[0, 1, 3, 2, 4, 5])?;
    Ok(vec![c.reshape(x, wide)?])
}

/// Blocks of the batch spread over the spatial axes, then cropped.
fn batch_to_space(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let shape = b.shape(x);
    let block = b.ints(node.required(1, "block shape")?, "the block shape")?;
    let crops = node.pairs(b, 2, "crops", block.len())?;
    let n = block.len();
    if block.iter().any(|size| *size < 1) || n + 1 > shape.len() {
        return Err(invalid(format!("blocks of {block:?} of {}", b.text(&shape))));
    }
    let blocks: Vec<Dim> = block.iter().map(|size| Dim::from(*size)).collect();
    let batch = exact(b, &shape[0], &dims::product(&blocks)?)?;
    let mut apart = blocks.clone();
    apart.push(batch.clone());
    apart.extend_from_slice(&shape[1..]);
    // [batch, h, block, w, block, …, rest]
    let mut perm = vec![n];
    let mut merged = vec![batch];
    for axis in 0..n {
        perm.extend([n + 1 + axis, axis]);
        merged.push(shape[axis + 1].mul(&blocks[axis]));
    }
    perm.extend(2 * n + 1..apart.len());
    merged.extend_from_slice(&shape[n + 1..]);
    let c = &mut Compose::new(b, node);
    let x = c.reshape(x, apart)?;
    let x = c.main().transpose(x, &perm)?;
    let mut y = c.reshape(x, merged.clone())?;
    for (axis, [before, after]) in crops.into_iter().enumerate() {
        let left = merged[axis + 1].sub(&Dim::from(before)).sub(&Dim::from(after));
        if dims::bounds(&left, &c.graph().symbols).is_none_or(|(low, _)| low < 1) {
            return Err(invalid("crops leave nothing"));
        }
        y = c.part_of(y, axis + 1, &Dim::from(before), &left)?;
    }
    Ok(vec![y])
}

fn reverse_sequence(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: ReverseSequenceOptions = node.options()?;
    let (x, lengths) = (node.required(0, "input")?, node.required(1, "lengths")?);
    let time_axis = match (options.sequence_axis, options.batch_axis) {
        (0, 1) => 0,
        (1, 0) => 1,
        (time, batch) => {
            return Err(unsupported(
                format!("time in axis {time} and batch in axis {batch}"),
                "transpose them to the first two axes",
            ));
        }
    };
    if b.rank(x) < 2 || !matches!(b.dtype(lengths), DType::I32 | DType::I64) {
        return Err(invalid("no axes of time and batch, or lengths that aren't integers"));
    }
    if b.shape(lengths) != [b.shape(x)[1 - time_axis].clone()] {
        return Err(invalid("the lengths are not one per sequence"));
    }
    let op = Op::ReverseSequence { time_axis };
    Ok(vec![b.emit(node, "", op, &[Some(x), Some(lengths)], b.dtype(x), b.shape(x))?])
}

/// Numbers to another type; quantized tensors count as the integers that they hold.
fn cast(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let to = tensor::dtype_of(node.output_tensor(0)?.kind)?;
    let y = b.cast(node, "", x, to)?;
    if y != x && matches!(to, DType::I8 | DType::U8 | DType::I16) {
        b.graph.value_mut(y).quant = tensor::quant(node.output_tensor(0)?)?;
    }
    Ok(vec![y])
}

/// Only what is constant can be cut up at conversion.
pub(super) fn fixed(b: &Builder, x: ValueId) -> Result<Vec<usize>, Failure> {
    let shape = b.graph.value(x).const_shape();
    shape.ok_or_else(|| {
        unsupported(format!("the dynamic shape {}", b.text(&b.shape(x))), FIX_THE_DIM)
    })
}

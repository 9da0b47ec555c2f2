//! Operators that move elements without computing with them.

use whit::DType;

use super::builder::{Builder, Outcome};
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{Op, PadMode, ValueId};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("Identity", |_, n| {
        n.at_most(1)?;
        Ok(vec![n.required(0, "input")?])
    }),
    ("Dropout", dropout),
    ("Concat", concat),
    ("Split", split),
    ("Slice", slice),
    ("Reshape", reshape),
    ("Flatten", flatten),
    ("Transpose", transpose),
    ("Squeeze", squeeze),
    ("Unsqueeze", unsqueeze),
    ("Expand", expand),
    ("Gather", gather),
    ("Pad", pad),
    ("Tile", tile),
    ("DepthToSpace", depth_to_space),
    ("SpaceToDepth", space_to_depth),
];

/// An axis counted from the front, for one that may count from the back.
pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize, Failure> {
    let signed = i64::try_from(rank).unwrap_or(i64::MAX);
    let counted = if axis < 0 { axis.saturating_add(signed) } else { axis };
    usize::try_from(counted)
        .ok()
        .filter(|axis| *axis < rank)
        .ok_or_else(|| invalid(format!("axis {axis} of {rank} axes")))
}

/// Different axes, in the order given.
pub(super) fn axes_of(axes: &[i64], rank: usize) -> Result<Vec<usize>, Failure> {
    let mut result = Vec::new();
    for axis in axes {
        let index = axis_of(*axis, rank)?;
        if result.contains(&index) {
            return Err(invalid(format!("axis {axis} occurs twice")));
        }
        result.push(index);
    }
    Ok(result)
}

/// The operand's axes, which were an attribute before they became an input.
pub(super) fn axes_input(
    b: &Builder,
    node: &OnnxNode<'_>,
    input_since: i64,
) -> Result<Option<Vec<i64>>, Failure> {
    if node.opset < input_since {
        node.at_most(1)?;
        return Ok(node.attributes.ints("axes")?.map(<[i64]>::to_vec));
    }
    node.at_most(2)?;
    node.input(1).map(|id| b.ints(id, "axes")).transpose()
}

fn dropout(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    // Nothing is dropped at inference.
    node.attributes.ignore("ratio");
    node.attributes.ignore("seed");
    let training = match node.input(2) {
        None if node.opset < 7 => !node.attributes.flag("is_test", false)?,
        Some(id) => b.ints(id, "training_mode")?.iter().any(|t| *t != 0),
        None => false,
    };
    let nothing = match node.input(1) {
        Some(ratio) => b.scalar_float(ratio, "ratio")? == Some(0.0),
        None => false,
    };
    if training && !nothing {
        return Err(unsupported("dropout in training mode", "export the model in evaluation mode"));
    }
    let x = node.required(0, "data")?;
    let mut outputs = vec![x];
    // The mask of what is kept, which is everything. Before opset 10 it was of the data's type.
    if node.wants(1) {
        let dtype = if node.opset < 10 { b.dtype(x) } else { DType::Bool };
        let kept = b.scalar(format!("{}/kept", node.name), dtype, 1.0)?;
        let shape = b.shape(x);
        outputs.push(b.emit(node, "mask", Op::Expand, &[Some(kept)], dtype, shape)?);
    }
    Ok(outputs)
}

fn concat(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let first = node.required(0, "inputs")?;
    let (dtype, mut shape) = (b.dtype(first), b.shape(first));
    let axis = node.attributes.optional_int("axis")?.or((node.opset < 4).then_some(1));
    let axis = axis.ok_or_else(|| invalid("attribute `axis` is missing"))?;
    let axis = axis_of(axis, shape.len())?;
    for index in 1..node.inputs.len() {
        let id = node.required(index, "inputs")?;
        let other = b.shape(id);
        if b.dtype(id) != dtype || other.len() != shape.len() {
            return Err(invalid("inputs differ in type or rank"));
        }
        for (at, (ours, theirs)) in shape.iter().zip(&other).enumerate() {
            if at != axis && !dims::same(ours, theirs, &b.graph.symbols) {
                return Err(invalid(format!(
                    "inputs differ along axis {at}, not only along {axis}"
                )));
            }
        }
        shape[axis] =
            dims::sum(&shape[axis], &other[axis]).ok_or_else(|| invalid("the size overflows"))?;
    }
    if node.inputs.len() == 1 {
        return Ok(vec![first]);
    }
    Ok(vec![b.emit(node, "", Op::Concat { axis }, &node.inputs, dtype, shape)?])
}

/// Into one slice per output.
fn split(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let shape = b.shape(x);
    let axis = axis_of(node.attributes.int("axis", 0)?, shape.len())?;
    let total = shape[axis].clone();
    let sizes = if node.opset < 13 {
        node.at_most(1)?;
        node.attributes
            .ints("split")?
            .map(|s| s.iter().map(|v| Dim::from(*v)).collect::<Vec<Dim>>())
    } else {
        node.at_most(2)?;
        node.input(1).map(|id| b.dims(id, "split")).transpose()?
    };
    let parts = node.outputs.len();
    if let Some(stated) = node.attributes.optional_int("num_outputs")?
        && usize::try_from(stated) != Ok(parts)
    {
        return Err(invalid(format!("num_outputs {stated}, but {parts} outputs")));
    }
    let symbols = b.graph.symbols.clone();
    let sizes = match sizes {
        Some(sizes) => sizes,
        None => {
            let parts = i64::try_from(parts).unwrap_or(i64::MAX).max(1);
            let each = dims::ceil_div_by(&total, parts);
            let last = total.sub(&each.mul(&Dim::from(parts - 1)));
            let even = dims::same(&last, &each, &symbols);
            if !even && (node.opset < 18 || total.as_const().is_none()) {
                let total = total.display(&symbols);
                return Err(unsupported(
                    format!("{total} elements don't split evenly into {parts}"),
                    "",
                ));
            }
            let mut sizes = vec![each; node.outputs.len()];
            if let Some(size) = sizes.last_mut().filter(|_| !even) {
                *size = last;
            }
            sizes
        }
    };
    if sizes.len() != parts {
        return Err(invalid(format!("{} sizes for {parts} outputs", sizes.len())));
    }
    let mut start = Dim::from(0i64);
    let mut outputs = Vec::new();
    for (index, size) in sizes.iter().enumerate() {
        if dims::bounds(size, &symbols).is_none_or(|(low, _)| low < 0) {
            return Err(invalid(format!("part {index} has {} elements", size.display(&symbols))));
        }
        let mut starts = vec![Dim::from(0i64); shape.len()];
        starts[axis] = start.clone();
        let mut part = shape.clone();
        part[axis] = size.clone();
        let op = Op::Slice { starts, steps: vec![1; shape.len()] };
        outputs.push(b.emit(node, &index.to_string(), op, &[Some(x)], b.dtype(x), part)?);
        start = dims::sum(&start, size).ok_or_else(|| invalid("the sizes overflow"))?;
    }
    if !dims::same(&start, &total, &symbols) {
        let (sum, total) = (start.display(&symbols), total.display(&symbols));
        return Err(invalid(format!("the parts have {sum} elements together, the axis {total}")));
    }
    Ok(outputs)
}

fn slice(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let x = node.required(0, "data")?;
    let shape = b.shape(x);
    let rank = shape.len();
    let (starts, ends, axes, steps);
    if node.opset < 10 {
        node.at_most(1)?;
        let list = |name: &str| -> Result<Option<Vec<i64>>, Failure> {
            Ok(node.attributes.ints(name)?.map(<[i64]>::to_vec))
        };
        let dims = |name: &str| -> Result<Vec<Dim>, Failure> {
            let values =
                list(name)?.ok_or_else(|| invalid(format!("attribute `{name}` is missing")))?;
            Ok(values.into_iter().map(Dim::from).collect())
        };
        (starts, ends) = (dims("starts")?, dims("ends")?);
        (axes, steps) = (list("axes")?, None);
    } else {
        node.at_most(5)?;
        starts = b.dims(node.required(1, "starts")?, "starts")?;
        ends = b.dims(node.required(2, "ends")?, "ends")?;
        axes = node.input(3).map(|id| b.ints(id, "axes")).transpose()?;
        steps = node.input(4).map(|id| b.ints(id, "steps")).transpose()?;
    }
    let axes = match axes {
        Some(axes) => axes_of(&axes, rank)?,
        None => (0..starts.len()).collect(),
    };
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if axes.len() != starts.len()
        || ends.len() != starts.len()
        || steps.len() != starts.len()
        || axes.len() > rank
    {
        return Err(invalid("starts, ends, axes and steps differ in length"));
    }

    let symbols = b.graph.symbols.clone();
    let zero = Dim::from(0i64);
    let mut first = vec![zero.clone(); rank];
    let mut walk = vec![1i64; rank];
    let mut result = shape.clone();
    for (index, axis) in axes.iter().enumerate() {
        let (size, step) = (&shape[*axis], steps[index]);
        // An extreme step takes one element, as any step longer than the axis does.
        if step == 0 {
            return Err(invalid("a step is 0"));
        }
        let step = step.clamp(-(1 << 40), 1 << 40);
        let last = size.sub(&Dim::from(1i64));
        // What a start or end means before it is clamped.
        let counted = |value: &Dim| -> Result<Dim, Failure> {
            let value = match value.as_const() {
                Some(v) => Dim::from(v.clamp(-(1 << 41), 1 << 41)),
                None => value.clone(),
            };
            match dims::bounds(&value, &symbols) {
                Some((low, _)) if low >= 0 => Ok(value),
                Some((_, high)) if high < 0 => Ok(value.add(size)),
                _ => Err(unsupported(
                    format!("the index {} may count from either end", value.display(&symbols)),
                    FIX_THE_DIM,
                )),
            }
        };
        let clamped = |value: &Dim, low: &Dim, high: &Dim| {
            dims::max(&dims::min(value, high, &symbols), low, &symbols)
        };
        let (start, end) = (counted(&starts[index])?, counted(&ends[index])?);
        let (start, length) = if step > 0 {
            let start = clamped(&start, &zero, size);
            let end = clamped(&end, &zero, size);
            let length = dims::ceil_div_by(&end.sub(&start), step);
            (start, length)
        } else {
            let start = clamped(&start, &zero, &last);
            let end = clamped(&end, &Dim::from(-1i64), &last);
            let length = dims::ceil_div_by(&start.sub(&end), -step);
            (start, length)
        };
        let length = dims::max(&length, &zero, &symbols);
        // Shape arithmetic does take nothing of a list; data wouldn't.
        if length.is(0) && b.known(x).is_none() {
            return Err(unsupported(
                format!("an empty slice of axis {axis}"),
                "remove the branch that reads it",
            ));
        }
        first[*axis] = start;
        walk[*axis] = step;
        result[*axis] = length;
    }
    let op = Op::Slice { starts: first, steps: walk };
    Ok(vec![b.emit(node, "", op, &[Some(x)], b.dtype(x), result)?])
}

fn reshape(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let x = node.required(0, "data")?;
    let target = match node.opset {
        ..5 => {
            node.at_most(1)?;
            let shape = node.attributes.required_ints("shape")?;
            shape.iter().map(|size| Dim::from(*size)).collect()
        }
        _ => {
            node.at_most(2)?;
            b.dims(node.required(1, "shape")?, "the new shape")?
        }
    };
    let keeps_zero = node.attributes.flag("allowzero", false)?;
    let from = b.shape(x);
    let mut shape = Vec::with_capacity(target.len());
    let mut inferred = None;
    for (axis, dim) in target.into_iter().enumerate() {
        match dim.as_const() {
            Some(0) if !keeps_zero => {
                let kept = from.get(axis).ok_or_else(|| {
                    invalid(format!("axis {axis} of the new shape copies an axis that isn't there"))
                })?;
                shape.push(kept.clone());
            }
            Some(-1) if inferred.is_none() => {
                inferred = Some(axis);
                shape.push(Dim::from(1i64));
            }
            Some(size) if size < 0 => {
                return Err(invalid(format!("axis {axis} of the new shape is {size}")));
            }
            _ => shape.push(dim),
        }
    }
    let (before, after) = (dims::product(&from)?, dims::product(&shape)?);
    let symbols = b.graph.symbols.clone();
    let text = |shape: &[Dim]| b.text(shape);
    if let Some(axis) = inferred {
        let missing = dims::floor_div(&before, &after, &symbols);
        let whole = missing
            .as_ref()
            .and_then(|m| dims::multiply(m, &after))
            .is_some_and(|p| dims::same(&p, &before, &symbols));
        match missing {
            Some(size) if whole => shape[axis] = size,
            _ => {
                return Err(invalid(format!(
                    "{} doesn't divide into {} and the inferred axis",
                    text(&from),
                    text(&shape)
                )));
            }
        }
    } else if !dims::same(&before, &after, &symbols) {
        let problem = format!("{} doesn't hold as many elements as {}", text(&from), text(&shape));
        return match before.as_const().zip(after.as_const()) {
            Some(_) => Err(invalid(problem)),
            None => Err(unsupported(problem, FIX_THE_DIM)),
        };
    }
    Ok(vec![b.reshape(node, "", x, shape)?])
}

fn flatten(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "input")?;
    let shape = b.shape(x);
    let axis = node.attributes.int("axis", 1)?;
    let axis = match usize::try_from(axis) {
        Ok(axis) if axis == shape.len() => axis,
        _ => axis_of(axis, shape.len())?,
    };
    let flat = vec![dims::product(&shape[..axis])?, dims::product(&shape[axis..])?];
    Ok(vec![b.reshape(node, "", x, flat)?])
}

fn transpose(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "data")?;
    let rank = b.rank(x);
    let perm = match node.attributes.ints("perm")? {
        Some(perm) if perm.len() != rank => {
            return Err(invalid(format!("perm {perm:?} for {rank} axes")));
        }
        Some(perm) => axes_of(perm, rank)?,
        None => (0..rank).rev().collect(),
    };
    Ok(vec![b.transpose(node, "", x, &perm)?])
}

fn squeeze(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let x = node.required(0, "data")?;
    let shape = b.shape(x);
    let axes = match axes_input(b, node, 13)? {
        Some(axes) => axes_of(&axes, shape.len())?,
        None => {
            if let Some(dim) = shape.iter().find(|d| d.as_const().is_none()) {
                let dim = dim.display(&b.graph.symbols);
                return Err(unsupported(
                    format!("whether {dim} is 1 is only known at run time"),
                    FIX_THE_DIM,
                ));
            }
            (0..shape.len()).filter(|axis| shape[*axis].is(1)).collect()
        }
    };
    if let Some(axis) = axes.iter().find(|axis| !shape[**axis].is(1)) {
        return Err(invalid(format!("axis {axis} doesn't have size 1")));
    }
    let kept =
        shape.into_iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, d)| d);
    Ok(vec![b.reshape(node, "", x, kept.collect())?])
}

fn unsqueeze(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let x = node.required(0, "data")?;
    let axes = axes_input(b, node, 13)?.ok_or_else(|| invalid("the axes are missing"))?;
    let rank = b.rank(x) + axes.len();
    let axes = axes_of(&axes, rank)?;
    let mut old = b.shape(x).into_iter();
    let shape: Option<Vec<Dim>> = (0..rank)
        .map(|axis| if axes.contains(&axis) { Some(Dim::from(1i64)) } else { old.next() })
        .collect();
    let shape = shape.ok_or_else(|| invalid("the axes don't fit the input"))?;
    Ok(vec![b.reshape(node, "", x, shape)?])
}

fn expand(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let x = node.required(0, "input")?;
    let target = b.dims(node.required(1, "shape")?, "the new shape")?;
    let shape = dims::broadcast(&b.shape(x), &target, &b.graph.symbols)?;
    Ok(vec![b.emit(node, "", Op::Expand, &[Some(x)], b.dtype(x), shape)?])
}

fn gather(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let (x, indices) = (node.required(0, "data")?, node.required(1, "indices")?);
    let of_x = b.shape(x);
    let axis = axis_of(node.attributes.int("axis", 0)?, of_x.len())?;
    if !matches!(b.dtype(indices), DType::I32 | DType::I64) {
        return Err(invalid(format!("indices of type {}", b.dtype(indices))));
    }
    if let (Some(size), Some(known)) = (of_x[axis].as_const(), b.known(indices)) {
        for elem in &known.elems {
            if let super::shapes::Elem::Int(index) = elem
                && let Some(index) = index.as_const()
                && (index >= size || index < -size)
            {
                return Err(invalid(format!("index {index} into {size} elements")));
            }
        }
    }
    let mut shape = of_x[..axis].to_vec();
    shape.extend(b.shape(indices));
    shape.extend_from_slice(&of_x[axis + 1..]);
    Ok(vec![b.emit(node, "", Op::Gather { axis }, &[Some(x), Some(indices)], b.dtype(x), shape)?])
}

/// Negative padding is a slice.
fn pad(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    const MAX_PAD: i64 = 1 << 40;
    let x = node.required(0, "data")?;
    let mut shape = b.shape(x);
    let rank = shape.len();
    let mode = node.attributes.string("mode", "constant")?;
    let (pads, fill, axes);
    if node.opset < 11 {
        node.at_most(1)?;
        let name = if node.opset < 2 { "paddings" } else { "pads" };
        pads = node.attributes.required_ints(name)?.to_vec();
        fill = node.attributes.float("value", 0.0)?;
        axes = (0..rank).collect::<Vec<usize>>();
    } else {
        node.at_most(if node.opset < 18 { 3 } else { 4 })?;
        pads = b.ints(node.required(1, "pads")?, "pads")?;
        fill = match node.input(2) {
            Some(id) => fill_value(b, id)?,
            None => 0.0,
        };
        axes = match node.input(3) {
            Some(id) => axes_of(&b.ints(id, "axes")?, rank)?,
            None => (0..rank).collect(),
        };
    }
    if pads.len() != 2 * axes.len() {
        return Err(invalid(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    if pads.iter().any(|p| p.unsigned_abs() > MAX_PAD.unsigned_abs()) {
        return Err(invalid(format!("pads {pads:?}")));
    }
    let (mut before, mut after) = (vec![0i64; rank], vec![0i64; rank]);
    for (index, axis) in axes.iter().enumerate() {
        before[*axis] = pads[index];
        after[*axis] = pads[axes.len() + index];
    }
    let mode = match mode {
        "constant" => PadMode::Constant(fill),
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" if node.opset >= 19 => PadMode::Wrap,
        other => return Err(invalid(format!("mode `{other}` is not defined"))),
    };
    let dtype = b.dtype(x);
    let mut y = x;
    if pads.iter().any(|p| *p < 0) {
        if !matches!(mode, PadMode::Constant(_)) {
            return Err(unsupported("negative padding in this mode", "crop with a Slice instead"));
        }
        let mut starts = vec![Dim::from(0i64); rank];
        for axis in 0..rank {
            let (cut_front, cut_back) = ((-before[axis]).max(0), (-after[axis]).max(0));
            let rest = shape[axis].sub(&Dim::from(cut_front + cut_back));
            if dims::bounds(&rest, &b.graph.symbols).is_none_or(|(low, _)| low < 1) {
                return Err(invalid(format!("pads {pads:?} leave nothing of axis {axis}")));
            }
            starts[axis] = Dim::from(cut_front);
            shape[axis] = rest;
            before[axis] = before[axis].max(0);
            after[axis] = after[axis].max(0);
        }
        let op = Op::Slice { starts, steps: vec![1; rank] };
        y = b.emit(node, "cropped", op, &[Some(y)], dtype, shape.clone())?;
    }
    if before.iter().chain(&after).all(|p| *p == 0) {
        return Ok(vec![y]);
    }
    for axis in 0..rank {
        // A reflection needs more elements than it adds; a torus at least as many.
        let least = match mode {
            PadMode::Reflect => before[axis].max(after[axis]) + 1,
            PadMode::Wrap => before[axis].max(after[axis]),
            PadMode::Edge => 1,
            PadMode::Constant(_) => 0,
        };
        if dims::bounds(&shape[axis], &b.graph.symbols).is_none_or(|(low, _)| low < least) {
            return Err(unsupported(format!("padding wider than axis {axis}"), ""));
        }
        shape[axis] = shape[axis].add(&Dim::from(before[axis] + after[axis]));
    }
    // None is negative by now.
    let sizes = |pads: &[i64]| pads.iter().map(|p| *p as usize).collect();
    let op = Op::Pad { before: sizes(&before), after: sizes(&after), mode };
    Ok(vec![b.emit(node, "", op, &[Some(y)], dtype, shape)?])
}

fn fill_value(b: &mut Builder, id: ValueId) -> Result<f32, Failure> {
    let fill = b.float(id, "constant_value")?;
    if !b.dtype(id).is_float() {
        let exact = b.tensor(id).is_some_and(|t| t.to_i64().iter().all(|v| fill as i64 == *v));
        if !exact {
            return Err(unsupported("constant_value is not exact in f32", ""));
        }
    }
    Ok(fill)
}

/// Each repeated axis gets an axis before it, which is broadcast and then merged with it.
fn tile(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let x = node.required(0, "input")?;
    let repeats = b.dims(node.required(1, "repeats")?, "repeats")?;
    let shape = b.shape(x);
    if repeats.len() != shape.len() {
        return Err(invalid(format!("{} repeats for {} axes", repeats.len(), shape.len())));
    }
    let (mut apart, mut repeated, mut merged) = (Vec::new(), Vec::new(), Vec::new());
    for (size, repeat) in shape.iter().zip(&repeats) {
        if dims::bounds(repeat, &b.graph.symbols).is_none_or(|(low, _)| low < 1) {
            return Err(unsupported(format!("{} repeats", repeat.display(&b.graph.symbols)), ""));
        }
        // An axis of size 1 is broadcast itself.
        if !repeat.is(1) && !size.is(1) {
            apart.push(Dim::from(1i64));
            repeated.push(repeat.clone());
        }
        apart.push(size.clone());
        repeated.push(if size.is(1) { repeat.clone() } else { size.clone() });
        merged.push(dims::multiply(size, repeat).ok_or_else(|| invalid("the size overflows"))?);
    }
    if repeats.iter().all(|r| r.is(1)) {
        return Ok(vec![x]);
    }
    let dtype = b.dtype(x);
    let mut y = x;
    if apart.len() > shape.len() {
        y = b.reshape(node, "apart", y, apart)?;
    }
    y = b.emit(node, "repeat", Op::Expand, &[Some(y)], dtype, repeated.clone())?;
    if repeated.len() > shape.len() {
        y = b.reshape(node, "", y, merged)?;
    }
    Ok(vec![y])
}

/// The block size and the shape of an image.
fn blocks(b: &Builder, node: &OnnxNode<'_>) -> Result<(ValueId, i64, Vec<Dim>), Failure> {
    node.at_most(1)?;
    let x = node.required(0, "input")?;
    let size = node.attributes.required_int("blocksize")?;
    let shape = b.shape(x);
    if shape.len() != 4 || !(1..=1 << 20).contains(&size) {
        return Err(invalid(format!("blocks of {size} in {} axes", shape.len())));
    }
    Ok((x, size, shape))
}

fn divided(b: &Builder, dim: &Dim, divisor: i64) -> Result<Dim, Failure> {
    let symbols = &b.graph.symbols;
    let quotient = dims::floor_div_by(dim, divisor);
    match dims::same(&quotient.mul(&Dim::from(divisor)), dim, symbols) {
        true => Ok(quotient),
        false => Err(invalid(format!("{} is not a multiple of {divisor}", dim.display(symbols)))),
    }
}

fn depth_to_space(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let (x, block, shape) = blocks(b, node)?;
    let depth = divided(b, &shape[1], block * block)?;
    let (n, h, w, k) = (shape[0].clone(), shape[2].clone(), shape[3].clone(), Dim::from(block));
    let (apart, perm) = match node.attributes.string("mode", "DCR")? {
        "DCR" => (
            [n.clone(), k.clone(), k.clone(), depth.clone(), h.clone(), w.clone()],
            [0, 3, 4, 1, 5, 2],
        ),
        "CRD" => (
            [n.clone(), depth.clone(), k.clone(), k.clone(), h.clone(), w.clone()],
            [0, 1, 4, 2, 5, 3],
        ),
        other => return Err(invalid(format!("mode `{other}` is not defined"))),
    };
    let y = b.reshape(node, "apart", x, apart.to_vec())?;
    let y = b.transpose(node, "order", y, &perm)?;
    Ok(vec![b.reshape(node, "", y, vec![n, depth, h.mul(&k), w.mul(&k)])?])
}

fn space_to_depth(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let (x, block, shape) = blocks(b, node)?;
    let (h, w) = (divided(b, &shape[2], block)?, divided(b, &shape[3], block)?);
    let (n, c, k) = (shape[0].clone(), shape[1].clone(), Dim::from(block));
    let perm = match node.attributes.string("mode", "DCR")? {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => return Err(invalid(format!("mode `{other}` is not defined"))),
    };
    let apart = vec![n.clone(), c.clone(), h.clone(), k.clone(), w.clone(), k.clone()];
    let y = b.reshape(node, "apart", x, apart)?;
    let y = b.transpose(node, "order", y, &perm)?;
    Ok(vec![b.reshape(node, "", y, vec![n, c.mul(&k).mul(&k), h, w])?])
}

//! Slices, paddings, repetitions.

use whit::DType;

use super::node::TfliteNode;
use super::reduce::axes_of;
use super::schema::{MirrorPadOptions, StridedSliceOptions};
use crate::dim::Dim;
use crate::graph::{Op, PadMode, ValueId};
use crate::import::builder::{Builder, Outcome};
use crate::import::compose::Compose;
use crate::import::dims;
use crate::import::failure::{FIX_THE_DIM, Failure, invalid, unsupported};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("SLICE", slice),
    ("STRIDED_SLICE", strided_slice),
    ("REVERSE_V2", reverse),
    ("PAD", |b, n| pad(b, n, None)),
    ("PADV2", |b, n| {
        let value = n.required(2, "value")?;
        pad(b, n, Some(value))
    }),
    ("MIRROR_PAD", mirror_pad),
    ("SPACE_TO_BATCH_ND", space_to_batch),
    ("TILE", tile),
];

/// From a beginning, so many elements; −1 for all that follow.
fn slice(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let from = b.shape(x);
    let starts = b.dims(node.required(1, "begin")?, "the beginning")?;
    let mut shape = b.dims(node.required(2, "size")?, "the size")?;
    if starts.len() != from.len() || shape.len() != from.len() {
        return Err(invalid(format!("a slice of {} axes of {}", starts.len(), b.text(&from))));
    }
    let symbols = &b.graph.symbols;
    for axis in 0..from.len() {
        if shape[axis].is(-1) {
            shape[axis] = from[axis].sub(&starts[axis]);
        }
        let low = |dim: &Dim| dims::bounds(dim, symbols).map_or(i64::MIN, |(low, _)| low);
        let end = starts[axis].add(&shape[axis]);
        if low(&starts[axis]) < 0
            || low(&shape[axis]) < 0
            || !dims::at_most(&end, &from[axis], symbols)
        {
            return Err(invalid(format!(
                "{} elements from {} on in axis {axis} of {}",
                shape[axis].display(symbols),
                starts[axis].display(symbols),
                b.text(&from)
            )));
        }
    }
    if shape == from {
        return Ok(vec![x]);
    }
    let steps = vec![1; from.len()];
    Ok(vec![b.emit(node, "", Op::Slice { starts, steps }, &[Some(x)], b.dtype(x), shape)?])
}

/// What a strided slice does with one axis of its input.
struct Cut {
    start: Dim,
    step: i64,
    len: Dim,
    /// The axis goes away.
    shrinks: bool,
}

fn strided_slice(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: StridedSliceOptions = node.options()?;
    let x = node.required(0, "input")?;
    let from = b.shape(x);
    let begin = b.dims(node.required(1, "begin")?, "the beginning")?;
    let end = b.dims(node.required(2, "end")?, "the end")?;
    let steps = b.ints(node.required(3, "strides")?, "the strides")?;
    let count = begin.len();
    if end.len() != count || steps.len() != count || count > 31 {
        return Err(invalid("beginnings, ends and strides differ in number"));
    }
    let bit = |mask: i32, at: usize| mask >> at & 1 == 1;
    let added = (0..count).filter(|at| bit(options.new_axis_mask, *at)).count();
    let ellipses = (0..count).filter(|at| bit(options.ellipsis_mask, *at)).count();
    let named = count - added - ellipses;
    if ellipses > 1 || named > from.len() {
        return Err(invalid(format!("{named} axes are cut of {}", b.text(&from))));
    }
    // The result's axes before any goes away: a cut of the input's next axis, or one that is new.
    let mut cuts: Vec<Option<Cut>> = Vec::new();
    let mut axis = 0;
    let whole = |axis: usize| {
        Some(Cut { start: Dim::from(0i64), step: 1, len: from[axis].clone(), shrinks: false })
    };
    for at in 0..count {
        if bit(options.ellipsis_mask, at) {
            for _ in 0..from.len() - named {
                cuts.push(whole(axis));
                axis += 1;
            }
        } else if bit(options.new_axis_mask, at) {
            cuts.push(None);
        } else {
            // The end counts from the beginning.
            let end = if options.offset { begin[at].add(&end[at]) } else { end[at].clone() };
            let start = (!bit(options.begin_mask, at)).then_some(&begin[at]);
            let end = (!bit(options.end_mask, at)).then_some(&end);
            let shrinks = bit(options.shrink_axis_mask, at);
            cuts.push(Some(cut(b, &from[axis], start, end, steps[at], shrinks)?));
            axis += 1;
        }
    }
    while axis < from.len() {
        cuts.push(whole(axis));
        axis += 1;
    }
    let own: Vec<&Cut> = cuts.iter().flatten().collect();
    let cut_shape: Vec<Dim> = own.iter().map(|cut| cut.len.clone()).collect();
    let starts: Vec<Dim> = own.iter().map(|cut| cut.start.clone()).collect();
    let steps: Vec<i64> = own.iter().map(|cut| cut.step).collect();
    let shape: Vec<Dim> = cuts
        .iter()
        .filter_map(|cut| match cut {
            None => Some(Dim::from(1i64)),
            Some(cut) => (!cut.shrinks).then(|| cut.len.clone()),
        })
        .collect();
    let mut y = x;
    if cut_shape != from || steps.iter().any(|step| *step != 1) {
        y = b.emit(node, "", Op::Slice { starts, steps }, &[Some(x)], b.dtype(x), cut_shape)?;
    }
    if b.shape(y) != shape {
        y = b.reshape(node, "axes", y, shape)?;
    }
    Ok(vec![y])
}

/// One axis, from `start` up to `end` and without it; what isn't given is as far as it goes.
fn cut(
    b: &Builder,
    size: &Dim,
    start: Option<&Dim>,
    end: Option<&Dim>,
    step: i64,
    shrinks: bool,
) -> Result<Cut, Failure> {
    let symbols = &b.graph.symbols;
    let (zero, one) = (Dim::from(0i64), Dim::from(1i64));
    // Negative positions count from the end.
    let placed = |position: &Dim| match dims::bounds(position, symbols) {
        Some((low, _)) if low >= 0 => Ok(position.clone()),
        Some((_, high)) if high < 0 => Ok(size.add(position)),
        _ => Err(unsupported(
            format!("the position {}, of either sign", position.display(symbols)),
            FIX_THE_DIM,
        )),
    };
    if shrinks {
        let start = match start {
            Some(start) => placed(start)?,
            None => zero.clone(),
        };
        let inside = dims::bounds(&start, symbols).is_some_and(|(low, _)| low >= 0)
            && dims::at_most(&start.add(&one), size, symbols);
        return match inside {
            true => Ok(Cut { start, step: 1, len: one, shrinks }),
            false => Err(invalid(format!(
                "element {} of {}",
                start.display(symbols),
                size.display(symbols)
            ))),
        };
    }
    if step == 0 || step == i64::MIN {
        return Err(invalid(format!("a stride of {step}")));
    }
    // Where positions are limited to: behind the last element, or before the first one.
    let (low, high) = match step > 0 {
        true => (zero.clone(), size.clone()),
        false => (Dim::from(-1i64), size.sub(&one)),
    };
    let limited = |position: &Dim| -> Result<Dim, Failure> {
        Ok(dims::min(&dims::max(&placed(position)?, &low, symbols), &high, symbols))
    };
    let start = match start {
        Some(start) => limited(start)?,
        None if step > 0 => low.clone(),
        None => high.clone(),
    };
    let end = match end {
        Some(end) => limited(end)?,
        None if step > 0 => high.clone(),
        None => low.clone(),
    };
    let distance = if step > 0 { end.sub(&start) } else { start.sub(&end) };
    let len = dims::ceil_div_by(&distance, step.abs());
    let len = dims::max(&len, &zero, symbols);
    // Of nothing, any place will do that is there.
    let start = if len.is(0) { zero } else { start };
    Ok(Cut { start, step, len, shrinks })
}

fn reverse(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let shape = b.shape(x);
    let axes = axes_of(b, node, 1, shape.len())?;
    let (mut starts, mut steps) = (vec![Dim::from(0i64); shape.len()], vec![1; shape.len()]);
    for axis in axes {
        starts[axis] = shape[axis].sub(&Dim::from(1i64));
        steps[axis] = -1;
    }
    Ok(vec![b.emit(node, "", Op::Slice { starts, steps }, &[Some(x)], b.dtype(x), shape)?])
}

/// Zeros, or a stated value, around: for integers the number that stands for it.
fn pad(b: &mut Builder, node: &TfliteNode<'_>, value: Option<ValueId>) -> Outcome {
    let x = node.required(0, "input")?;
    let pads = node.pairs(b, 1, "paddings", b.rank(x))?;
    let value = match value {
        Some(value) => {
            let same = b.graph.value(value).quant == b.graph.value(x).quant;
            let constant = b.tensor(value).filter(|t| t.len() == 1 && t.dtype == b.dtype(x));
            let constant = constant.filter(|_| same).map(|t| match t.dtype.is_float() {
                true => t.to_f32()[0],
                false => t.to_i64()[0] as f32,
            });
            constant.ok_or_else(|| {
                unsupported(
                    "a padding value that isn't one constant of the input's type and scale",
                    "make it a constant",
                )
            })?
        }
        None => zero_of(b, x)?,
    };
    padded(b, node, "", x, &pads, PadMode::Constant(value)).map(|y| vec![y])
}

/// The stored number that stands for 0.
fn zero_of(b: &Builder, x: ValueId) -> Result<f32, Failure> {
    match &b.graph.value(x).quant {
        None => Ok(0.0),
        Some(quant) if quant.axis.is_none() => Ok(quant.zero_point[0] as f32),
        Some(_) => Err(unsupported("padding of a tensor with several scales", "")),
    }
}

/// Elements before and after, per axis.
fn padded(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    part: &str,
    x: ValueId,
    pads: &[[usize; 2]],
    mode: PadMode,
) -> Result<ValueId, Failure> {
    if pads.iter().all(|pad| *pad == [0, 0]) {
        return Ok(x);
    }
    let from = b.shape(x);
    let around = from.iter().zip(pads);
    let shape =
        around.map(|(size, [before, after])| size.add(&Dim::from(*before)).add(&Dim::from(*after)));
    let shape = shape.collect();
    let before = pads.iter().map(|[before, _]| *before).collect();
    let after = pads.iter().map(|[_, after]| *after).collect();
    b.emit(node, part, Op::Pad { before, after, mode }, &[Some(x)], b.dtype(x), shape)
}

/// The input mirrored at its edges, with the edge itself or without.
fn mirror_pad(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: MirrorPadOptions = node.options()?;
    let x = node.required(0, "input")?;
    let shape = b.shape(x);
    let pads = node.pairs(b, 1, "paddings", shape.len())?;
    let repeats = match options.mode {
        0 => 0,
        1 => 1,
        mode => return Err(invalid(format!("mode {mode} is not defined"))),
    };
    for (size, pad) in shape.iter().zip(&pads) {
        let most = size.sub(&Dim::from(1i64 - repeats));
        if !pad.iter().all(|pad| dims::at_most(&Dim::from(*pad), &most, &b.graph.symbols)) {
            return Err(invalid(format!("{pad:?} elements mirrored of {}", b.text(&shape))));
        }
    }
    if repeats == 0 {
        return Ok(vec![padded(b, node, "", x, &pads, PadMode::Reflect)?]);
    }
    // With the edge: parts of the input, backwards, around it.
    let mut y = x;
    for (axis, [before, after]) in pads.into_iter().enumerate() {
        let c = &mut Compose::new(b, node);
        let size = c.shape(y)[axis].clone();
        let mut parts = Vec::new();
        if before > 0 {
            parts.push(c.stepped(y, axis, &Dim::from(before - 1), &Dim::from(before), -1)?);
        }
        parts.push(y);
        if after > 0 {
            let last = size.sub(&Dim::from(1i64));
            parts.push(c.stepped(y, axis, &last, &Dim::from(after), -1)?);
        }
        y = c.concat(&parts, axis)?;
    }
    Ok(vec![y])
}

/// Spatial axes, padded, cut into blocks whose elements become batches.
fn space_to_batch(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let rank = b.rank(x);
    let block = b.ints(node.required(1, "block shape")?, "the block shape")?;
    let n = block.len();
    if n + 1 > rank || block.iter().any(|size| !(1..=1 << 30).contains(size)) {
        return Err(invalid(format!("blocks of {block:?} of {}", b.text(&b.shape(x)))));
    }
    let mut pads = vec![[0, 0]; rank];
    pads[1..=n].copy_from_slice(&node.pairs(b, 2, "paddings", n)?);
    let zero = zero_of(b, x)?;
    let x = padded(b, node, "padded", x, &pads, PadMode::Constant(zero))?;
    let shape = b.shape(x);
    let mut apart = vec![shape[0].clone()];
    let mut merged = vec![shape[0].clone()];
    let mut perm = Vec::new();
    for axis in 0..n {
        let size = Dim::from(block[axis]);
        let count = dims::floor_div_by(&shape[axis + 1], block[axis]);
        if !dims::same(&count.mul(&size), &shape[axis + 1], &b.graph.symbols) {
            return Err(invalid(format!("{} in blocks of {block:?}", b.text(&shape))));
        }
        merged[0] = dims::multiply(&merged[0], &size)
            .ok_or_else(|| invalid("the number of blocks overflows"))?;
        merged.push(count.clone());
        apart.extend([count, size]);
        perm.push(2 + 2 * axis);
    }
    perm.push(0);
    perm.extend((0..n).map(|axis| 1 + 2 * axis));
    apart.extend_from_slice(&shape[n + 1..]);
    merged.extend_from_slice(&shape[n + 1..]);
    perm.extend(1 + 2 * n..apart.len());
    let c = &mut Compose::new(b, node);
    let x = c.reshape(x, apart)?;
    let x = c.main().transpose(x, &perm)?;
    Ok(vec![c.reshape(x, merged)?])
}

/// The input so many times along each axis.
fn tile(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let times = b.ints(node.required(1, "multiples")?, "the multiples")?;
    if times.len() != b.rank(x) || times.iter().any(|times| *times < 0) {
        return Err(invalid(format!("{times:?} times {}", b.text(&b.shape(x)))));
    }
    let c = &mut Compose::new(b, node);
    let mut y = x;
    for (axis, times) in times.into_iter().enumerate().filter(|(_, times)| *times != 1) {
        let mut shape = c.shape(y);
        let mut apart = shape.clone();
        apart.insert(axis, Dim::from(1i64));
        let mut wide = apart.clone();
        wide[axis] = Dim::from(times);
        shape[axis] = dims::multiply(&shape[axis], &wide[axis])
            .ok_or_else(|| invalid("the size overflows"))?;
        y = c.reshape(y, apart)?;
        let dtype: DType = c.dtype(y);
        y = c.emit("repeat", Op::Expand, &[y], dtype, wide)?;
        y = c.reshape(y, shape)?;
    }
    Ok(vec![y])
}

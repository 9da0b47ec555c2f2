//! Operators that index by tensors or select elements.

use whit::DType;

use super::builder::{Builder, Outcome};
use super::data::axis_of;
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use super::proto::data_type;
use super::tensor::dtype_of;
use crate::dim::Dim;
use crate::graph::{BinaryKind, CompareKind, Op, ScatterReduction, ValueId};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("Scatter", |b, n| scatter_elements(b, n, false)),
    ("ScatterElements", |b, n| scatter_elements(b, n, true)),
    ("ScatterND", scatter_nd),
    ("TensorScatter", tensor_scatter),
    ("TopK", top_k),
    ("CumSum", |b, n| cumulative(b, n, false)),
    ("CumProd", |b, n| cumulative(b, n, true)),
    ("ReverseSequence", reverse_sequence),
    ("Compress", compress),
    ("OneHot", one_hot),
    ("Hardmax", hardmax),
    ("Trilu", trilu),
    ("EyeLike", eye_like),
    ("NonZero", non_zero),
    ("Unique", unique),
];

/// The type that an operator computes in, for one that has f32, i32 and i64.
pub(super) fn computed_in(dtype: DType) -> DType {
    match dtype {
        DType::I32 | DType::I64 => dtype,
        DType::I8 | DType::U8 | DType::I16 | DType::Bool => DType::I32,
        dtype if dtype.is_float() => DType::F32,
        _ => DType::I64,
    }
}

fn expect_indices(b: &Builder, id: ValueId) -> Result<(), Failure> {
    match b.dtype(id) {
        DType::I32 | DType::I64 => Ok(()),
        dtype => Err(invalid(format!("indices of type {dtype}"))),
    }
}

/// Checks constant indices against the axis that they index.
fn expect_inside(b: &mut Builder, indices: ValueId, size: &Dim) -> Result<(), Failure> {
    let (Some(size), Some(tensor)) = (size.as_const(), b.tensor(indices)) else { return Ok(()) };
    match tensor.to_i64().into_iter().find(|index| !(-size..size).contains(index)) {
        Some(index) => Err(invalid(format!("index {index} into {size} elements"))),
        None => Ok(()),
    }
}

/// Checks that indices have the axes of the data and, but for one, none that is longer.
fn expect_aligned(b: &Builder, data: &[Dim], indices: &[Dim], axis: usize) -> Result<(), Failure> {
    let (ours, theirs) = (b.text(data), b.text(indices));
    if data.len() != indices.len() {
        return Err(invalid(format!("indices of shape {theirs} into {ours}")));
    }
    for at in (0..data.len()).filter(|at| *at != axis) {
        match dims::bounds(&data[at].sub(&indices[at]), &b.graph.symbols) {
            Some((low, _)) if low >= 0 => {}
            Some((_, high)) if high < 0 => {
                return Err(invalid(format!("indices of shape {theirs} into {ours}")));
            }
            _ => {
                return Err(unsupported(
                    format!("indices of shape {theirs} may be longer than {ours}"),
                    FIX_THE_DIM,
                ));
            }
        }
    }
    Ok(())
}

/// Checks that two shapes are one.
fn expect_same(b: &Builder, a: &[Dim], c: &[Dim], what: &str) -> Result<(), Failure> {
    let symbols = &b.graph.symbols;
    let known = |dims: &[Dim]| dims.iter().all(|dim| dim.as_const().is_some());
    if dims::same_shape(a, c, symbols) {
        return Ok(());
    }
    let problem = format!("{what} of shape {} instead of {}", b.text(a), b.text(c));
    match a.len() != c.len() || (known(a) && known(c)) {
        true => Err(invalid(problem)),
        false => Err(unsupported(problem, FIX_THE_DIM)),
    }
}

fn gather_elements(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let (x, indices) = (node.required(0, "data")?, node.required(1, "indices")?);
    let (of_x, shape) = (b.shape(x), b.shape(indices));
    let axis = axis_of(node.attributes.int("axis", 0)?, of_x.len())?;
    expect_indices(b, indices)?;
    expect_aligned(b, &of_x, &shape, axis)?;
    expect_inside(b, indices, &of_x[axis])?;
    let op = Op::GatherElements { axis };
    Ok(vec![b.emit(node, "", op, &[Some(x), Some(indices)], b.dtype(x), shape)?])
}

/// The places of the indices and how many axes a tuple of them indexes.
fn tuples(b: &Builder, indices: ValueId) -> Result<(Vec<Dim>, usize), Failure> {
    expect_indices(b, indices)?;
    let mut places = b.shape(indices);
    let tuple = places.pop().ok_or_else(|| invalid("the indices are a scalar"))?;
    let size = tuple.as_const().ok_or_else(|| {
        let tuple = tuple.display(&b.graph.symbols);
        unsupported(format!("tuples of {tuple} indices"), FIX_THE_DIM)
    })?;
    match usize::try_from(size) {
        Ok(size) if size > 0 => Ok((places, size)),
        _ => Err(invalid(format!("tuples of {size} indices"))),
    }
}

fn gather_nd(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let (x, indices) = (node.required(0, "data")?, node.required(1, "indices")?);
    let of_x = b.shape(x);
    let batch = if node.opset >= 12 { node.attributes.int("batch_dims", 0)? } else { 0 };
    let (mut shape, tuple) = tuples(b, indices)?;
    let batch_axes = usize::try_from(batch).ok().filter(|batch| *batch <= shape.len());
    let fits = batch_axes.and_then(|batch| Some((batch, of_x.get(batch.checked_add(tuple)?..)?)));
    let Some((batch_axes, rest)) = fits else {
        let (ours, theirs) = (b.text(&of_x), b.text(&b.shape(indices)));
        return Err(invalid(format!("{batch} batch axes of {ours} and indices of shape {theirs}")));
    };
    expect_same(b, &shape[..batch_axes], &of_x[..batch_axes], "batch axes")?;
    if tuple == 1 {
        expect_inside(b, indices, &of_x[batch_axes])?;
    }
    shape.extend_from_slice(rest);
    let op = Op::GatherNd { batch_axes };
    Ok(vec![b.emit(node, "", op, &[Some(x), Some(indices)], b.dtype(x), shape)?])
}

/// How updates meet what is there; the reductions came with opsets 16 and 18.
fn reduction(node: &OnnxNode<'_>) -> Result<ScatterReduction, Failure> {
    let name = if node.opset >= 16 { node.attributes.string("reduction", "none")? } else { "none" };
    match name {
        "none" => Ok(ScatterReduction::Replace),
        "add" => Ok(ScatterReduction::Add),
        "mul" => Ok(ScatterReduction::Mul),
        "max" if node.opset >= 18 => Ok(ScatterReduction::Max),
        "min" if node.opset >= 18 => Ok(ScatterReduction::Min),
        other => Err(invalid(format!("reduction `{other}` is not defined"))),
    }
}

/// A scatter in a type that has the reduction.
fn scatter(b: &mut Builder, node: &OnnxNode<'_>, op: Op, operands: [ValueId; 3]) -> Outcome {
    let [x, indices, updates] = operands;
    let replaces = matches!(
        op,
        Op::ScatterElements { reduction: ScatterReduction::Replace, .. }
            | Op::ScatterNd { reduction: ScatterReduction::Replace }
    );
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    if b.dtype(updates) != dtype {
        return Err(invalid(format!("updates of type {} for {dtype}", b.dtype(updates))));
    }
    let wide = if replaces { dtype } else { computed_in(dtype) };
    let (x, updates) = (b.cast(node, "data", x, wide)?, b.cast(node, "updates", updates, wide)?);
    let part = if wide == dtype { "" } else { "scatter" };
    let inputs = [Some(x), Some(indices), Some(updates)];
    let y = b.emit(node, part, op, &inputs, wide, shape)?;
    Ok(vec![b.cast(node, "", y, dtype)?])
}

fn scatter_elements(b: &mut Builder, node: &OnnxNode<'_>, reduces: bool) -> Outcome {
    node.at_most(3)?;
    let (x, indices) = (node.required(0, "data")?, node.required(1, "indices")?);
    let updates = node.required(2, "updates")?;
    let of_x = b.shape(x);
    let axis = axis_of(node.attributes.int("axis", 0)?, of_x.len())?;
    let reduction = if reduces { reduction(node)? } else { ScatterReduction::Replace };
    expect_indices(b, indices)?;
    expect_aligned(b, &of_x, &b.shape(indices), axis)?;
    expect_same(b, &b.shape(updates), &b.shape(indices), "updates")?;
    expect_inside(b, indices, &of_x[axis])?;
    scatter(b, node, Op::ScatterElements { axis, reduction }, [x, indices, updates])
}

fn scatter_nd(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let (x, indices) = (node.required(0, "data")?, node.required(1, "indices")?);
    let updates = node.required(2, "updates")?;
    let (of_x, reduction) = (b.shape(x), reduction(node)?);
    let (mut places, tuple) = tuples(b, indices)?;
    let Some(rest) = of_x.get(tuple..) else {
        return Err(invalid(format!("tuples of {tuple} indices into {} axes", of_x.len())));
    };
    places.extend_from_slice(rest);
    expect_same(b, &b.shape(updates), &places, "updates")?;
    if tuple == 1 {
        expect_inside(b, indices, &of_x[0])?;
    }
    scatter(b, node, Op::ScatterNd { reduction }, [x, indices, updates])
}

/// Updates of a cache from a row on that each batch entry has of its own: a scatter along the axis
/// whose indices are those rows and the ones behind them.
fn tensor_scatter(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let (x, updates) = (node.required(0, "past_cache")?, node.required(1, "update")?);
    let (of_x, shape) = (b.shape(x), b.shape(updates));
    let axis = axis_of(node.attributes.int("axis", -2)?, of_x.len())?;
    let circular = match node.attributes.string("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return Err(invalid(format!("mode `{other}` is not defined"))),
    };
    if axis == 0 {
        return Err(invalid("the axis is that of the batch"));
    }
    let mut expected = of_x.clone();
    if let Some(size) = shape.get(axis) {
        expected[axis] = size.clone();
    }
    expect_same(b, &shape, &expected, "updates")?;
    if !dims::at_most(&shape[axis], &of_x[axis], &b.graph.symbols) {
        let (ours, theirs) = (b.text(&of_x), b.text(&shape));
        return Err(invalid(format!("updates of shape {theirs} for a cache of {ours}")));
    }
    let one = Dim::from(1i64);
    let mut along = vec![one.clone(); of_x.len()];
    along[axis] = shape[axis].clone();
    let rows = b.range(node, "steps", &shape[axis])?;
    let mut rows = b.reshape(node, "rows", rows, along)?;
    if let Some(first) = node.input(2) {
        expect_same(b, &b.shape(first), &of_x[..1], "write indices")?;
        let first = b.cast(node, "first", first, DType::I64)?;
        let mut per_batch = vec![one; of_x.len()];
        per_batch[0] = of_x[0].clone();
        let first = b.reshape(node, "starts", first, per_batch)?;
        rows = b.binary(node, "from", BinaryKind::Add, first, rows)?;
    }
    if circular {
        let size = of_x[axis].as_const().ok_or_else(|| {
            unsupported("a circular cache of dynamic size".to_owned(), FIX_THE_DIM)
        })?;
        rows = b.with_number(node, "wrapped", BinaryKind::Mod, rows, size as f64)?;
    }
    let indices = b.emit(node, "indices", Op::Expand, &[Some(rows)], DType::I64, shape)?;
    let op = Op::ScatterElements { axis, reduction: ScatterReduction::Replace };
    scatter(b, node, op, [x, indices, updates])
}

fn top_k(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let x = node.required(0, "X")?;
    let (dtype, mut shape) = (b.dtype(x), b.shape(x));
    let axis = axis_of(node.attributes.int("axis", -1)?, shape.len())?;
    let k = if node.opset < 10 {
        node.at_most(1)?;
        Dim::from(node.attributes.required_int("k")?)
    } else {
        node.at_most(2)?;
        let k = b.dims(node.required(1, "K")?, "K")?;
        k.first().filter(|_| k.len() == 1).cloned().ok_or_else(|| invalid("K is not one number"))?
    };
    let largest = node.opset < 11 || node.attributes.flag("largest", true)?;
    // Any order will do for those that aren't sorted, also this one.
    node.attributes.ignore("sorted");
    if dtype == DType::Bool {
        return Err(invalid("an operand of type bool"));
    }
    let symbols = &b.graph.symbols;
    let positive = dims::bounds(&k, symbols).is_some_and(|(low, _)| low >= 1);
    if !positive || !dims::at_most(&k, &shape[axis], symbols) {
        let (k, size) = (k.display(symbols), shape[axis].display(symbols));
        return Err(unsupported(
            format!("the first {k} of {size} elements"),
            "K must be between 1 and the size of the axis",
        ));
    }
    shape[axis] = k;
    let native = matches!(dtype, DType::F32 | DType::I8 | DType::I32 | DType::I64);
    let wide = if native { dtype } else { computed_in(dtype) };
    let x = b.cast(node, "wide", x, wide)?;
    let op = Op::TopK { axis, smallest: !largest };
    let results = [(wide, shape.clone()), (DType::I64, shape)];
    let outputs = b.emit_several(node, "", op, &[Some(x)], &results)?;
    Ok(vec![b.cast(node, "values", outputs[0], dtype)?, outputs[1]])
}

fn cumulative(b: &mut Builder, node: &OnnxNode<'_>, product: bool) -> Outcome {
    node.at_most(2)?;
    let x = node.required(0, "x")?;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let axis = axis_of(b.int(node.required(1, "axis")?, "axis")?, shape.len())?;
    let exclusive = node.attributes.flag("exclusive", false)?;
    let reverse = node.attributes.flag("reverse", false)?;
    if dtype == DType::Bool {
        return Err(invalid("an operand of type bool"));
    }
    let wide = computed_in(dtype);
    let x = b.cast(node, "wide", x, wide)?;
    let part = if wide == dtype { "" } else { "scan" };
    let op = Op::Cumulative { axis, product, exclusive, reverse };
    let y = b.emit(node, part, op, &[Some(x)], wide, shape)?;
    Ok(vec![b.cast(node, "", y, dtype)?])
}

fn reverse_sequence(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let (x, lengths) = (node.required(0, "input")?, node.required(1, "sequence_lens")?);
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let (batch, time) =
        (node.attributes.int("batch_axis", 1)?, node.attributes.int("time_axis", 0)?);
    let time_axis = match (batch, time) {
        (1, 0) => 0,
        (0, 1) => 1,
        _ => return Err(invalid(format!("batch axis {batch} and time axis {time}"))),
    };
    if shape.len() < 2 {
        return Err(invalid(format!("an operand of {} axes", shape.len())));
    }
    expect_indices(b, lengths)?;
    expect_same(b, &b.shape(lengths), &shape[1 - time_axis..][..1], "lengths")?;
    let op = Op::ReverseSequence { time_axis };
    Ok(vec![b.emit(node, "", op, &[Some(x), Some(lengths)], dtype, shape)?])
}

/// A gather, for the condition has to be known.
fn compress(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let (mut x, condition) = (node.required(0, "input")?, node.required(1, "condition")?);
    let mut shape = b.shape(x);
    let axis = match node.attributes.optional_int("axis")? {
        Some(axis) => axis_of(axis, shape.len())?,
        None => {
            shape = vec![dims::product(&shape)?];
            x = b.reshape(node, "flat", x, shape.clone())?;
            0
        }
    };
    let kept = b.tensor(condition).ok_or_else(|| {
        unsupported(
            "the condition is computed at run time, and with it the size of the result",
            "make it a constant, or end the model before it",
        )
    })?;
    if kept.dtype != DType::Bool || kept.shape.len() != 1 {
        return Err(invalid("the condition is not a list of bools"));
    }
    let kept = kept.to_i64().into_iter().enumerate().filter(|(_, keep)| *keep != 0);
    let kept: Vec<i64> = kept.filter_map(|(index, _)| i64::try_from(index).ok()).collect();
    let Some(last) = kept.last() else {
        return Err(unsupported("nothing is selected", "remove the branch that reads it"));
    };
    if dims::bounds(&shape[axis], &b.graph.symbols).is_none_or(|(low, _)| *last >= low) {
        let size = shape[axis].display(&b.graph.symbols);
        return Err(invalid(format!("element {last} of {size} is selected")));
    }
    b.charge(kept.len() * 8)?;
    shape[axis] = Dim::from(kept.len());
    let indices = b.constant(format!("{}/kept", node.name), Tensor::from_i64([kept.len()], &kept));
    let op = Op::Gather { axis };
    Ok(vec![b.emit(node, "", op, &[Some(x), Some(indices)], b.dtype(x), shape)?])
}

/// Where a matrix is on, above or below a diagonal.
fn diagonal(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    [rows, columns]: [&Dim; 2],
    k: i64,
    kind: CompareKind,
) -> Result<ValueId, Failure> {
    const FAR: i64 = 1 << 40; // beyond any matrix
    let row = b.range(node, "rows", rows)?;
    let upright = vec![rows.clone(), Dim::from(1i64)];
    let row = b.reshape(node, "upright", row, upright)?;
    let row = b.with_number(node, "shifted", BinaryKind::Add, row, k.clamp(-FAR, FAR) as f64)?;
    let column = b.range(node, "columns", columns)?;
    b.compare(node, "mask", kind, column, row)
}

fn trilu(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let x = node.required(0, "input")?;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let k = match node.input(1) {
        Some(id) => b.int(id, "k")?,
        None => 0,
    };
    let kind = match node.attributes.flag("upper", true)? {
        true => CompareKind::GreaterOrEqual,
        false => CompareKind::LessOrEqual,
    };
    let [.., rows, columns] = &shape[..] else {
        return Err(invalid(format!("an operand of {} axes", shape.len())));
    };
    let mask = diagonal(b, node, [rows, columns], k, kind)?;
    let zero = b.scalar(format!("{}/zero", node.name), dtype, 0.0)?;
    Ok(vec![b.select(node, "", [mask, x, zero])?])
}

fn eye_like(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "input")?;
    let shape = b.shape(x);
    let dtype = match node.attributes.optional_int("dtype")? {
        Some(onnx) => {
            let onnx = i32::try_from(onnx).unwrap_or(0);
            let name = data_type::name(onnx);
            dtype_of(onnx).ok_or_else(|| unsupported(format!("a matrix of {name}"), ""))?
        }
        None => b.dtype(x),
    };
    let [rows, columns] = &shape[..] else {
        return Err(invalid(format!("an operand of {} axes", shape.len())));
    };
    let k = node.attributes.int("k", 0)?;
    let mask = diagonal(b, node, [rows, columns], k, CompareKind::Equal)?;
    Ok(vec![b.cast(node, "", mask, dtype)?])
}

/// The one number in a constant, which may be stored as a float.
fn whole_number(b: &mut Builder, id: ValueId, what: &str) -> Result<i64, Failure> {
    if !b.dtype(id).is_float() {
        return b.int(id, what);
    }
    let value = b.float(id, what)?;
    match value as i64 as f32 == value {
        true => Ok(value as i64),
        false => Err(invalid(format!("{what} is {value}"))),
    }
}

fn one_hot(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let (indices, depth) = (node.required(0, "indices")?, node.required(1, "depth")?);
    let values = node.required(2, "values")?;
    let shape = b.shape(indices);
    let depth = whole_number(b, depth, "depth")?;
    if depth < 1 {
        return Err(invalid(format!("depth {depth}")));
    }
    if !b.shape(values).first().is_some_and(|size| size.is(2)) || b.rank(values) != 1 {
        return Err(invalid(format!("values of shape {}", b.text(&b.shape(values)))));
    }
    let axis = axis_of(node.attributes.int("axis", -1)?, shape.len() + 1)?;
    let indices = b.cast(node, "indices", indices, DType::I64)?;
    let mut narrow = shape;
    narrow.insert(axis, Dim::from(1i64));
    let indices = b.reshape(node, "apart", indices, narrow)?;
    let mut along = vec![Dim::from(1i64); b.rank(indices)];
    along[axis] = Dim::from(depth);
    let classes = b.range(node, "classes", &Dim::from(depth))?;
    let classes = b.reshape(node, "along", classes, along)?;
    // Indices below 0 count from the end; what is out of range is off everywhere.
    let below = b.with_number(node, "below", BinaryKind::Sub, classes, depth as f64)?;
    let front = b.compare(node, "front", CompareKind::Equal, indices, classes)?;
    let back = b.compare(node, "back", CompareKind::Equal, indices, below)?;
    let hot = b.binary(node, "hot", BinaryKind::Or, front, back)?;
    let one = Dim::from(1i64);
    let off = b.slice(node, "off", values, 0, &Dim::from(0i64), &one)?;
    let on = b.slice(node, "on", values, 0, &one, &one)?;
    Ok(vec![b.select(node, "", [hot, on, off])?])
}

/// One where the largest element is, the first one of equals, else zero.
fn hardmax(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let mut x = node.required(0, "input")?;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let default = if node.opset < 13 { 1 } else { -1 };
    let mut axis = axis_of(node.attributes.int("axis", default)?, shape.len())?;
    let mut within = shape.clone();
    if node.opset < 13 {
        // Over all axes from this one on.
        within = vec![dims::product(&shape[..axis])?, dims::product(&shape[axis..])?];
        x = b.reshape(node, "flat", x, within.clone())?;
        axis = 1;
    }
    let wide = computed_in(dtype);
    let x = b.cast(node, "wide", x, wide)?;
    let mut narrow = within.clone();
    narrow[axis] = Dim::from(1i64);
    let op = Op::ArgReduce { axis, min: false, keep_dims: true, select_last: false };
    let largest = b.emit(node, "largest", op, &[Some(x)], DType::I64, narrow)?;
    let mut along = vec![Dim::from(1i64); within.len()];
    along[axis] = within[axis].clone();
    let places = b.range(node, "places", &within[axis])?;
    let places = b.reshape(node, "along", places, along)?;
    let hot = b.compare(node, "hot", CompareKind::Equal, largest, places)?;
    let y = b.cast(node, if node.opset < 13 { "as" } else { "" }, hot, dtype)?;
    match node.opset < 13 {
        true => Ok(vec![b.reshape(node, "", y, shape)?]),
        false => Ok(vec![y]),
    }
}

/// Of constants; and of a vector that is nothing but one value, which is how exporters counted before
/// there was Range.
fn non_zero(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "X")?;
    let filled = b.producer(x).filter(|node| node.op == Op::Expand);
    let filled = filled.and_then(|node| node.inputs.first().copied().flatten());
    let filled = filled.and_then(|id| b.graph.constant(id)).filter(|t| t.len() == 1);
    let filled = filled.is_some_and(|tensor| tensor.to_f32()[0] != 0.0);
    if let ([size], true) = (&b.shape(x)[..], filled) {
        let places = b.range(node, "places", size)?;
        return Ok(vec![b.reshape(node, "", places, vec![Dim::from(1i64), size.clone()])?]);
    }
    let tensor = b.tensor(x).ok_or_else(|| {
        unsupported(
            "the size of the result depends on data",
            "end the model before it and do this step in the application",
        )
    })?;
    if tensor.shape.is_empty() {
        return Err(unsupported("the places in a scalar", ""));
    }
    b.charge(tensor.len().saturating_mul(8 * tensor.shape.len()))?;
    let found: Vec<usize> = if tensor.dtype.is_float() {
        let values = tensor.to_f32();
        (0..values.len()).filter(|index| values[*index] != 0.0).collect()
    } else {
        let values = tensor.to_i64();
        (0..values.len()).filter(|index| values[*index] != 0).collect()
    };
    if found.is_empty() {
        return Err(unsupported("every element is 0", "remove the branch that reads it"));
    }
    let mut places = Vec::with_capacity(found.len() * tensor.shape.len());
    for axis in 0..tensor.shape.len() {
        let stride: usize = tensor.shape[axis + 1..].iter().product();
        places.extend(found.iter().map(|flat| (flat / stride % tensor.shape[axis]) as i64));
    }
    let places = Tensor::from_i64([tensor.shape.len(), found.len()], &places);
    Ok(vec![b.constant(node.name.clone(), places)])
}

/// Of constants: the size of the result depends on the data.
fn unique(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "X")?;
    let axis = node.attributes.optional_int("axis")?;
    let axis = axis.map(|axis| axis_of(axis, b.rank(x))).transpose()?;
    let sorted = node.attributes.flag("sorted", true)?;
    let tensor = b.tensor(x).ok_or_else(|| {
        unsupported(
            "the size of the result depends on data",
            "end the model before it and do this step in the application",
        )
    })?;
    if tensor.is_empty() {
        return Err(unsupported("of nothing", "remove the branch that reads it"));
    }
    // Rows, parts, first places and counts.
    b.charge(tensor.data.len().saturating_mul(4).saturating_add(tensor.len() * 64))?;
    let axes: Vec<usize> = match axis {
        Some(axis) => {
            std::iter::once(axis).chain((0..tensor.shape.len()).filter(|a| *a != axis)).collect()
        }
        None => vec![],
    };
    let rows = match axis {
        Some(_) => tensor.transposed(&axes),
        None => tensor.reshaped([tensor.len()]),
    };
    let count = rows.shape[0];
    let width = rows.len() / count;
    let order = order_of_rows(&rows);
    let row = |index: usize| index * width..(index + 1) * width;
    // Every row's group, by the first row of it.
    let mut by_value: Vec<usize> = (0..count).collect();
    by_value.sort_by(|a, c| order(row(*a), row(*c)));
    let mut firsts: Vec<usize> = Vec::new();
    let mut group = vec![0usize; count];
    for (at, index) in by_value.iter().enumerate() {
        if at == 0 || order(row(by_value[at - 1]), row(*index)).is_ne() {
            firsts.push(*index);
        }
        group[*index] = firsts.len() - 1;
    }
    if !sorted {
        let mut by_place: Vec<usize> = (0..firsts.len()).collect();
        by_place.sort_by_key(|group| firsts[*group]);
        let mut rank = vec![0; firsts.len()];
        by_place.iter().enumerate().for_each(|(at, group)| rank[*group] = at);
        group.iter_mut().for_each(|group| *group = rank[*group]);
        firsts.sort_unstable();
    }
    let mut counts = vec![0i64; firsts.len()];
    group.iter().for_each(|group| counts[*group] += 1);
    let bytes = width * tensor.dtype.size();
    let data: Vec<u8> = firsts
        .iter()
        .flat_map(|first| &rows.data[first * bytes..(first + 1) * bytes])
        .copied()
        .collect();
    let mut shape = rows.shape.clone();
    shape[0] = firsts.len();
    let mut y = Tensor { dtype: tensor.dtype, shape, data: data.into() };
    if axis.is_some() {
        let back: Vec<usize> =
            (0..axes.len()).filter_map(|axis| axes.iter().position(|a| *a == axis)).collect();
        y = y.transposed(&back);
    }
    let list = |values: Vec<usize>| -> Tensor {
        let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
        Tensor::from_i64([values.len()], &values)
    };
    let named = |part: &str| format!("{}/{part}", node.name);
    Ok(vec![
        b.constant(node.name.clone(), y),
        b.constant(named("indices"), list(firsts)),
        b.constant(named("inverse_indices"), list(group)),
        b.constant(named("counts"), Tensor::from_i64([counts.len()], &counts)),
    ])
}

/// Compares rows element by element; NaN is the largest number.
fn order_of_rows(
    rows: &Tensor,
) -> impl Fn(std::ops::Range<usize>, std::ops::Range<usize>) -> std::cmp::Ordering + use<> {
    let reals = if rows.dtype.is_float() { rows.to_f32() } else { Vec::new() };
    let integers = if rows.dtype.is_float() { Vec::new() } else { rows.to_i64() };
    move |a, c| {
        let of_reals = || {
            let pairs = reals[a.clone()].iter().zip(&reals[c.clone()]);
            let mut orders = pairs.map(|(a, c)| a.partial_cmp(c).unwrap_or_else(|| a.total_cmp(c)));
            orders.find(|order| order.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
        };
        match reals.is_empty() {
            true => integers[a.clone()].cmp(&integers[c.clone()]),
            false => of_reals(),
        }
    }
}

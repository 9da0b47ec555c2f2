//! Operators that choose elements by index.

use whit::DType;

use super::data::fixed;
use super::node::TfliteNode;
use super::reduce::axis_of;
use super::schema::{GatherOptions, OneHotOptions};
use crate::dim::Dim;
use crate::graph::{CompareKind, Op, ScatterReduction, ValueId};
use crate::import::builder::{Builder, Outcome};
use crate::import::compose::Compose;
use crate::import::dims;
use crate::import::failure::{Failure, invalid, unsupported};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("GATHER", gather),
    ("GATHER_ND", gather_nd),
    ("EMBEDDING_LOOKUP", |b, n| {
        let (indices, data) = (n.required(0, "indices")?, n.required(1, "table")?);
        expect_indices(b, indices)?;
        let y = Compose::new(b, n).main().gather(data, indices, 0)?;
        match n.output_tensor(0)?.quantization.as_ref().is_some_and(|q| !q.scale.is_empty()) {
            true => Ok(vec![y]),
            // Rows of a quantized table as reals.
            false => Ok(vec![n.dequantized(b, "row", y)?]),
        }
    }),
    ("SCATTER_ND", scatter_nd),
    ("TOPK_V2", top_k),
    ("ONE_HOT", one_hot),
    ("WHERE", |_, _| {
        Err(unsupported(
            "as many results as elements are true, which is only known at run time",
            "multiply by the condition or use SELECT",
        ))
    }),
];

fn expect_indices(b: &Builder, x: ValueId) -> Result<(), Failure> {
    match b.dtype(x) {
        DType::I32 | DType::I64 => Ok(()),
        other => Err(unsupported(format!("indices of type {other}"), "use int32")),
    }
}

fn gather(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: GatherOptions = node.options()?;
    let (x, indices) = (node.required(0, "data")?, node.required(1, "indices")?);
    expect_indices(b, indices)?;
    let (rank, of_indices) = (b.rank(x), b.shape(indices));
    let axis = axis_of(i64::from(options.axis), rank)?;
    let batch = match options.batch_dims {
        0 => 0,
        dims => axis_of(i64::from(dims), of_indices.len() + 1)?,
    };
    if batch > axis || b.shape(x).iter().zip(&of_indices).take(batch).any(|(a, c)| a != c) {
        return Err(invalid(format!("{batch} axes shared by data and indices")));
    }
    let c = &mut Compose::new(b, node);
    if batch == 0 {
        return Ok(vec![c.main().gather(x, indices, axis)?]);
    }
    // The indexed axis behind the shared ones; the axes between are put back behind the indices.
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.remove(axis);
    perm.insert(batch, axis);
    let moved = c.transpose(x, &perm)?;
    let indices = c.unsqueeze(indices, of_indices.len())?;
    let mut shape = of_indices.clone();
    shape.extend_from_slice(&c.shape(moved)[batch + 1..]);
    let op = Op::GatherNd { batch_axes: batch };
    let dtype = c.dtype(moved);
    let y = c.main().emit("gather", op, &[moved, indices], dtype, shape)?;
    let (between, chosen) = (axis - batch, of_indices.len() - batch);
    let mut back: Vec<usize> = (0..batch).collect();
    back.extend((0..between).map(|at| batch + chosen + at));
    back.extend((0..chosen).map(|at| batch + at));
    back.extend(batch + chosen + between..c.rank(y));
    Ok(vec![c.transpose(y, &back)?])
}

/// The number of indices in a tuple, the last axis of a tensor of indices.
fn tuple(b: &Builder, indices: ValueId, rank: usize) -> Result<usize, Failure> {
    expect_indices(b, indices)?;
    let size = b.shape(indices).last().and_then(Dim::as_const);
    let size = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= rank);
    size.ok_or_else(|| invalid(format!("indices {} for {rank} axes", b.text(&b.shape(indices)))))
}

fn gather_nd(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let (x, indices) = (node.required(0, "data")?, node.required(1, "indices")?);
    let size = tuple(b, indices, b.rank(x))?;
    let mut shape = b.shape(indices);
    shape.pop();
    shape.extend_from_slice(&b.shape(x)[size..]);
    let op = Op::GatherNd { batch_axes: 0 };
    Ok(vec![b.emit(node, "", op, &[Some(x), Some(indices)], b.dtype(x), shape)?])
}

/// Updates added up where tuples of indices say, zeros elsewhere.
fn scatter_nd(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let (indices, updates) = (node.required(0, "indices")?, node.required(1, "updates")?);
    let shape = b.dims(node.required(2, "shape")?, "the shape")?;
    let dtype = b.dtype(updates);
    if !matches!(dtype, DType::F32 | DType::I32 | DType::I64) {
        return Err(unsupported(format!("sums of {dtype}"), "use float32 or int32"));
    }
    let size = tuple(b, indices, shape.len())?;
    let mut expected = b.shape(indices);
    expected.pop();
    expected.extend_from_slice(&shape[size..]);
    let c = &mut Compose::new(b, node);
    if !c.same_shape(&expected, &c.shape(updates)) {
        return Err(invalid(format!("updates {}", c.b.text(&c.shape(updates)))));
    }
    let zero = c.scalar(dtype, 0.0)?;
    let zeros = c.expand(zero, shape.clone())?;
    let op = Op::ScatterNd { reduction: ScatterReduction::Add };
    Ok(vec![c.main().emit("scatter", op, &[zeros, indices, updates], dtype, shape)?])
}

/// The largest elements of the last axis, in order, and where they are.
fn top_k(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let k = b.int(node.required(1, "k")?, "k")?;
    let quant = b.graph.value(x).quant.clone();
    let dtype = b.dtype(x);
    if !matches!(dtype, DType::F32 | DType::I8 | DType::I32 | DType::I64) {
        return Err(unsupported(format!("the largest of {dtype}"), "use int8 or float32"));
    }
    let mut shape = b.shape(x);
    let Some(axis) = shape.len().checked_sub(1) else {
        return Err(invalid("an operand without axes"));
    };
    if k < 1 || !dims::at_most(&Dim::from(k), &shape[axis], &b.graph.symbols) {
        return Err(invalid(format!("the first {k} of {}", b.text(&shape))));
    }
    shape[axis] = Dim::from(k);
    let op = Op::TopK { axis, smallest: false };
    let results = [(dtype, shape.clone()), (DType::I64, shape)];
    let results = b.emit_several(node, "", op, &[Some(x)], &results)?;
    b.graph.value_mut(results[0]).quant = quant;
    Ok(vec![results[0], b.cast(node, "indices", results[1], DType::I32)?])
}

/// `on` where the class is the index, else `off`.
fn one_hot(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: OneHotOptions = node.options()?;
    let indices = node.required(0, "indices")?;
    expect_indices(b, indices)?;
    let depth = b.int(node.required(1, "depth")?, "the depth")?;
    let (on, off) = (node.required(2, "on")?, node.required(3, "off")?);
    let rank = b.rank(indices);
    let axis = axis_of(i64::from(options.axis), rank + 1)?;
    if depth < 1 || b.dtype(on) != b.dtype(off) || b.rank(on) + b.rank(off) > 0 {
        return Err(invalid(format!("a depth of {depth}, or values that aren't two numbers")));
    }
    if b.graph.value(on).quant != b.graph.value(off).quant {
        return Err(unsupported("values with different scales", "use one scale"));
    }
    let quant = b.graph.value(on).quant.clone();
    let y = {
        let c = &mut Compose::new(b, node);
        let indices = c.cast(indices, DType::I64)?;
        let indices = c.unsqueeze(indices, axis)?;
        let classes = c.range(&Dim::from(depth))?;
        let mut along = vec![Dim::from(1i64); rank + 1];
        along[axis] = Dim::from(depth);
        let classes = c.reshape(classes, along)?;
        let hot = c.compare(CompareKind::Equal, indices, classes)?;
        c.main().select(hot, on, off)?
    };
    b.graph.value_mut(y).quant = quant;
    Ok(vec![y])
}

/// Elements of constant positions along an axis.
pub(super) fn chosen(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    x: ValueId,
    axis: usize,
    indices: &[i64],
) -> Result<ValueId, Failure> {
    fixed(b, x)?;
    let c = &mut Compose::new(b, node);
    let indices = c.ints(&format!("positions_{axis}"), &[indices.len()], |at| indices[at])?;
    c.gather(x, indices, axis)
}

//! Look-ups in disguise: a one-hot product becomes a gather of rows, a gather of successive
//! indices a slice.

use whit::DType;

use crate::dim::Dim;
use crate::graph::{BinaryKind, CompareKind, Graph, Node, Op, ValueId};
use crate::tensor::Tensor;

use super::edit::{Editor, f32_constant, input, output};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        if edit.is_alive(index) && one_hot(&mut edit, index).is_none() {
            successive(&mut edit, index);
        }
    }
    edit.finish()
}

/// `cast(x == [0, 1, …, n-1]) × table`, as JAX and TensorFlow export embeddings: row `x` of the table,
/// and zeros for an `x` outside of it. The gather reads a table with a row of zeros behind it, and
/// indices outside are clamped to -1 and n, which both name that row.
fn one_hot(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let node = edit.node(index);
    let Op::MatMul(matmul) = &node.op else { return None };
    let plain = !matmul.transpose_a && !matmul.transpose_b && input(node, 3).is_none();
    if !plain || input(node, 2).is_some() || matmul.clamp != crate::graph::Clamp::NONE {
        return None;
    }
    let (y, table_id) = (output(node)?, input(node, 1)?);
    let table = f32_constant(edit.graph, table_id)?;
    let [rows, columns] = table.shape[..] else { return None };
    let cast = edit.node(edit.source(index, 0)?);
    let equal = edit.node(edit.producer(input(cast, 0)?)?);
    if cast.op != Op::Cast || equal.op != Op::Compare(CompareKind::Equal) {
        return None;
    }
    let values = table.to_f32();
    if values.iter().any(|v| !v.is_finite()) {
        return None;
    }
    let (a, b) = (input(equal, 0)?, input(equal, 1)?);
    let x = if counts_up(edit.graph, b, rows) {
        a
    } else if counts_up(edit.graph, a, rows) {
        b
    } else {
        return None;
    };
    let x = without_expand(edit, x);
    let indices = edit.graph.value(x);
    let integer = matches!(indices.dtype, DType::I32 | DType::I64);
    let (last, leading) = indices.shape.split_last()?;
    // One row of the product per index: the indices have a last axis of 1 where the rows were counted.
    let y_leading = edit.graph.value(y).shape.split_last().map(|(_, leading)| leading)?;
    if !integer || !last.is(1) || leading != y_leading {
        return None;
    }
    let (dtype, leading, shape) = (indices.dtype, leading.to_vec(), indices.shape.clone());
    let name = node.name.clone();
    let mut extended = values;
    extended.resize((rows + 1) * columns, 0.0);
    let table_name = edit.graph.value(table_id).name.clone();
    let table =
        edit.graph.add_constant(table_name, Tensor::from_f32([rows + 1, columns], &extended));
    let bound = |edit: &mut Editor<'_>, x, kind, bound: i64| {
        let tensor = match dtype {
            DType::I32 => Tensor::from_i32([], &[bound as i32]),
            _ => Tensor::from_i64([], &[bound]),
        };
        let bound = edit.graph.add_constant(format!("{name}.bound"), tensor);
        let inputs = vec![Some(x), Some(bound)];
        insert(edit, index, &name, Op::Binary(kind), inputs, dtype, shape.clone())
    };
    let at_least = bound(edit, x, BinaryKind::Max, -1);
    let within = bound(edit, at_least, BinaryKind::Min, i64::try_from(rows).ok()?);
    let flat = insert(edit, index, &name, Op::Reshape, vec![Some(within)], dtype, leading);
    let mut node = edit.node(index).clone();
    node.op = Op::Gather { axis: 0 };
    node.inputs = vec![Some(table), Some(flat)];
    edit.replace(index, node);
    Some(())
}

/// Adds a node before `index` and returns its result.
fn insert(
    edit: &mut Editor<'_>,
    index: usize,
    name: &str,
    op: Op,
    inputs: Vec<Option<ValueId>>,
    dtype: DType,
    shape: Vec<Dim>,
) -> ValueId {
    let y = edit.graph.add_value(format!("{name}.index"), dtype, shape);
    edit.insert_before(index, Node { name: name.to_owned(), op, inputs, outputs: vec![y] });
    y
}

/// What stands before an expansion.
fn without_expand(edit: &Editor<'_>, id: ValueId) -> ValueId {
    let expand = edit.producer(id).map(|at| edit.node(at)).filter(|node| node.op == Op::Expand);
    expand.and_then(|node| input(node, 0)).unwrap_or(id)
}

/// A constant 0, 1, …, n-1 along the last axis.
fn counts_up(graph: &Graph, id: ValueId, n: usize) -> bool {
    graph.constant(id).is_some_and(|tensor| {
        tensor.shape.last() == Some(&n)
            && tensor.len() == n
            && !tensor.dtype.is_float()
            && tensor.to_i64().iter().copied().eq(0..n as i64)
    })
}

/// A gather of constant indices that count up, or of one, as a slice, which later stages can do without
/// copying. (PyTorch's `as_strided` is such a gather.)
fn successive(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let node = edit.node(index);
    let Op::Gather { axis } = node.op else { return None };
    let (x, y) = (input(node, 0)?, output(node)?);
    let indices = edit.graph.constant(input(node, 1)?)?;
    let indices = indices.to_i64();
    let (at, count) = (*indices.first()?, i64::try_from(indices.len()).ok()?);
    if !indices.iter().copied().eq(at..at.checked_add(count)?) {
        return None;
    }
    let data = edit.graph.value(x);
    let size = data.shape.get(axis)?;
    let start = if at < 0 { size.add(&Dim::from(at)) } else { Dim::from(at) };
    let known = match size.as_const() {
        Some(size) if at < 0 => at >= -size && count <= -at,
        Some(size) => at.checked_add(count)? <= size,
        // The last of a symbolic axis is there; other indices may not be.
        None => (at == -1 || at == 0) && count == 1,
    };
    if !known {
        return None;
    }
    let mut starts = vec![Dim::default(); data.shape.len()];
    starts[axis] = start;
    let steps = vec![1; data.shape.len()];
    let mut shape = data.shape.clone();
    shape[axis] = Dim::from(count);
    let (dtype, quant, name) = (data.dtype, data.quant.clone(), node.name.clone());
    if quant.as_ref().is_some_and(|q| q.axis.is_some()) {
        return None;
    }
    let sliced =
        insert(edit, index, &name, Op::Slice { starts, steps }, vec![Some(x)], dtype, shape);
    edit.graph.value_mut(sliced).quant = quant;
    edit.replace(
        index,
        Node { name, op: Op::Reshape, inputs: vec![Some(sliced)], outputs: vec![y] },
    );
    Some(())
}

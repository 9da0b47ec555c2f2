//! Matrix products.

use whit::DType;

use super::builder::{Builder, Outcome};
use super::compose::product;
use super::dims;
use super::failure::{Failure, invalid, unsupported};
use super::legacy;
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{BinaryKind, Op, ValueId};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[("MatMul", matmul), ("Gemm", gemm)];

fn check_types(b: &Builder, x: ValueId, y: ValueId) -> Result<(), Failure> {
    match b.dtype(x) == b.dtype(y) && b.dtype(x) != DType::Bool {
        true => Ok(()),
        false => Err(invalid(format!("a product of {} and {}", b.dtype(x), b.dtype(y)))),
    }
}

fn matmul(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let (mut x, mut y) = (node.required(0, "A")?, node.required(1, "B")?);
    check_types(b, x, y)?;
    let (rank_x, rank_y) = (b.rank(x), b.rank(y));
    if rank_x == 0 || rank_y == 0 {
        return Err(invalid("an operand is a scalar"));
    }
    // As in NumPy, a vector is a row on the left and a column on the right.
    let one = Dim::from(1i64);
    if rank_x == 1 {
        let shape = vec![one.clone(), b.shape(x)[0].clone()];
        x = b.reshape(node, "row", x, shape)?;
    }
    if rank_y == 1 {
        let shape = vec![b.shape(y)[0].clone(), one];
        y = b.reshape(node, "column", y, shape)?;
    }
    let (of_x, of_y) = (b.shape(x), b.shape(y));
    let (outer_x, inner_x) = of_x.split_at(of_x.len() - 2);
    let (outer_y, inner_y) = of_y.split_at(of_y.len() - 2);
    if !dims::same(&inner_x[1], &inner_y[0], &b.graph.symbols) {
        return Err(invalid(format!(
            "{} columns meet {} rows",
            b.text(&inner_x[1..]),
            b.text(&inner_y[..1])
        )));
    }
    let mut shape = dims::broadcast(outer_x, outer_y, &b.graph.symbols)?;
    shape.extend([inner_x[0].clone(), inner_y[1].clone()]);
    let z =
        b.emit(node, "", product(false, false), &[Some(x), Some(y)], b.dtype(x), shape.clone())?;
    if rank_x > 1 && rank_y > 1 {
        return Ok(vec![z]);
    }
    let columns = shape.pop();
    let rows = shape.pop();
    shape.extend(rows.filter(|_| rank_x > 1));
    shape.extend(columns.filter(|_| rank_y > 1));
    Ok(vec![b.reshape(node, "vector", z, shape)?])
}

/// `alpha * A' * B' + beta * C`.
fn gemm(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    if node.opset < legacy::MODERN
        && !node.attributes.flag("broadcast", false)?
        && node.input(2).is_some_and(|c| b.rank(c) != 2)
    {
        return Err(invalid("C is not a matrix, and `broadcast` isn't set"));
    }
    let (mut x, mut y) = (node.required(0, "A")?, node.required(1, "B")?);
    check_types(b, x, y)?;
    let dtype = b.dtype(x);
    if !dtype.is_float() {
        return Err(unsupported(format!("a product of {dtype}"), "use MatMul and Add"));
    }
    let alpha = node.attributes.float("alpha", 1.0)?;
    let beta = node.attributes.float("beta", 1.0)?;
    let mut transpose_a = node.attributes.int("transA", 0)? != 0;
    let mut transpose_b = node.attributes.int("transB", 0)? != 0;
    let c = node.input(2).filter(|_| beta != 0.0);
    if b.rank(x) != 2 || b.rank(y) != 2 {
        return Err(invalid("an operand is not a matrix"));
    }
    // What is constant is transposed now.
    if transpose_a && b.is_weight(x) {
        x = b.transpose(node, "a", x, &[1, 0])?;
        transpose_a = false;
    }
    if transpose_b && b.is_weight(y) {
        y = b.transpose(node, "weights", y, &[1, 0])?;
        transpose_b = false;
    }
    let (of_x, of_y) = (b.shape(x), b.shape(y));
    let (m, k) = if transpose_a { (&of_x[1], &of_x[0]) } else { (&of_x[0], &of_x[1]) };
    let (k2, n) = if transpose_b { (&of_y[1], &of_y[0]) } else { (&of_y[0], &of_y[1]) };
    if !dims::same(k, k2, &b.graph.symbols) {
        return Err(invalid(format!(
            "{} columns meet {} rows",
            b.text(std::slice::from_ref(k)),
            b.text(std::slice::from_ref(k2))
        )));
    }
    let shape = vec![m.clone(), n.clone()];

    // alpha goes into a constant B.
    let mut alpha_left = alpha;
    if alpha != 1.0
        && dtype == DType::F32
        && let Some(tensor) = b.tensor(y)
    {
        b.charge(tensor.data.len())?;
        let scaled: Vec<f32> = tensor.to_f32().into_iter().map(|v| v * alpha).collect();
        y = b.constant(
            format!("{}/weights", node.name),
            Tensor::from_f32(tensor.shape.clone(), &scaled),
        );
        alpha_left = 1.0;
    }
    let bias = match c {
        Some(c) if alpha_left == 1.0 => bias(b, node, c, beta, n)?,
        _ => None,
    };
    let op = product(transpose_a, transpose_b);
    if bias.is_some() || (c.is_none() && alpha_left == 1.0) {
        let mut inputs = vec![Some(x), Some(y)];
        inputs.extend(bias.map(Some));
        return Ok(vec![b.emit(node, "", op, &inputs, dtype, shape)?]);
    }

    let mut z = b.emit(node, "product", op, &[Some(x), Some(y)], dtype, shape.clone())?;
    if alpha_left != 1.0 {
        z = b.with_number(node, "alpha", BinaryKind::Mul, z, f64::from(alpha_left))?;
    }
    if let Some(mut c) = c {
        if b.dtype(c) != dtype || dims::broadcast(&b.shape(c), &shape, &b.graph.symbols)? != shape {
            return Err(invalid("C doesn't broadcast to the product"));
        }
        if beta != 1.0 {
            c = b.with_number(node, "beta", BinaryKind::Mul, c, f64::from(beta))?;
        }
        z = b.emit(node, "", Op::Binary(BinaryKind::Add), &[Some(z), Some(c)], dtype, shape)?;
    }
    Ok(vec![z])
}

/// C as a vector of `n` numbers that the product adds by itself, when it is one.
fn bias(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    c: ValueId,
    beta: f32,
    n: &Dim,
) -> Result<Option<ValueId>, Failure> {
    let shape = b.shape(c);
    let vector = match shape.as_slice() {
        [size] => Some(size),
        [rows, size] if rows.is(1) => Some(size),
        [] => None,
        _ => return Ok(None),
    };
    let is_whole = vector.is_some_and(|size| size == n);
    let tensor = b.tensor(c);
    if let (Some(tensor), Some(n)) = (tensor, n.as_const().and_then(|n| usize::try_from(n).ok()))
        && b.dtype(c) == DType::F32
        && (is_whole || tensor.len() == 1)
    {
        if is_whole && beta == 1.0 {
            return Ok(Some(b.reshape(node, "bias", c, vec![Dim::from(n)])?));
        }
        b.charge(n.saturating_mul(4))?;
        let values = tensor.to_f32();
        let values: Vec<f32> =
            (0..n).map(|i| beta * values[if is_whole { i } else { 0 }]).collect();
        return Ok(Some(b.constant(format!("{}/bias", node.name), Tensor::from_f32([n], &values))));
    }
    if is_whole && beta == 1.0 && b.is_weight(c) {
        return Ok(Some(b.reshape(node, "bias", c, vec![n.clone()])?));
    }
    Ok(None)
}

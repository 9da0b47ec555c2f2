//! Data movement over constants, done at import: weights must be constants when they meet their
//! operator, whatever the exporter put between. General constant folding is a later pass.

use std::sync::Arc;

use whit::DType;

use crate::graph::{BinaryKind, Op};
use crate::tensor::Tensor;

/// Bytes that folding `op` would allocate; `None` when it isn't folded here.
pub(crate) fn cost_bytes(
    op: &Op,
    inputs: &[Arc<Tensor>],
    dtype: DType,
    shape: &[usize],
) -> Option<usize> {
    let bytes = || shape.iter().try_fold(dtype.size(), |n, d| n.checked_mul(*d));
    match op {
        Op::Reshape => Some(0),
        Op::Transpose { .. } => bytes(),
        Op::Cast if dtype == DType::F32 && inputs[0].dtype.is_float() => bytes(),
        Op::Binary(BinaryKind::Add | BinaryKind::Sub | BinaryKind::Mul | BinaryKind::Div)
            if dtype == DType::F32 =>
        {
            // Not an outer product, which could be far larger than the file.
            let largest = inputs.iter().map(|t| t.data.len()).max()?;
            bytes().filter(|bytes| *bytes == largest && *bytes > 0)
        }
        _ => None,
    }
}

/// The result of `op`; the caller has checked shapes and types.
pub(crate) fn fold(
    op: &Op,
    inputs: &[Arc<Tensor>],
    dtype: DType,
    shape: &[usize],
) -> Option<Tensor> {
    let x = inputs.first()?;
    match op {
        Op::Reshape => (shape.iter().product::<usize>() == x.len()).then(|| x.reshaped(shape)),
        Op::Transpose { perm } => Some(x.transposed(perm)),
        Op::Cast if dtype == DType::F32 => Some(Tensor::from_f32(shape, &x.to_f32())),
        Op::Binary(kind) => {
            let f: fn(f32, f32) -> f32 = match kind {
                BinaryKind::Add => |a, b| a + b,
                BinaryKind::Sub => |a, b| a - b,
                BinaryKind::Mul => |a, b| a * b,
                BinaryKind::Div => |a, b| a / b,
                _ => return None,
            };
            let (a, b) = (x.to_f32(), inputs.get(1)?.to_f32());
            let (of_a, of_b) = (steps(&x.shape, shape)?, steps(&inputs[1].shape, shape)?);
            let count: usize = shape.iter().product();
            let mut out = Vec::with_capacity(count);
            for flat in 0..count {
                let (mut rest, mut at_a, mut at_b) = (flat, 0, 0);
                for axis in (0..shape.len()).rev() {
                    let index = rest % shape[axis];
                    rest /= shape[axis];
                    at_a += index * of_a[axis];
                    at_b += index * of_b[axis];
                }
                out.push(f(*a.get(at_a)?, *b.get(at_b)?));
            }
            Some(Tensor::from_f32(shape, &out))
        }
        _ => None,
    }
}

/// Strides of `own` when walked by the indices of `shape`; 0 along broadcast axes.
fn steps(own: &[usize], shape: &[usize]) -> Option<Vec<usize>> {
    let missing = shape.len().checked_sub(own.len())?;
    let mut steps = vec![0; shape.len()];
    let mut stride = 1usize;
    for axis in (0..own.len()).rev() {
        if own[axis] != 1 {
            steps[missing + axis] = stride;
        }
        stride *= own[axis];
    }
    Some(steps)
}

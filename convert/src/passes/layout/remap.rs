//! How a node changes when its operands are stored with permuted axes.
//!
//! Everywhere here `v = transpose(v', perm)`: axis `i` of the value as the model means it is axis
//! `perm[i]` of the value as stored.

use crate::dim::Dim;
use crate::graph::{Graph, Node, Op, Quant};

use super::super::edit::{input, inverse, output, permuted, product};

/// What happens to an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// Read as stored.
    Stored,
    /// A constant, permuted here and now.
    Constant,
    /// One element: any layout is the same.
    Unchanged,
}

/// A node over permuted operands.
#[derive(Clone, Debug)]
pub(super) struct Remapped {
    pub(super) op: Op,
    /// How the result is stored.
    pub(super) perm: Vec<usize>,
    pub(super) operands: Vec<Operand>,
    /// Whether the layout of the result determines that of the operands.
    pub(super) reversible: bool,
}

/// The node over operands stored by `perm`; `None` for nodes that need their axes where they are.
pub(super) fn remap(graph: &Graph, node: &Node, perm: &[usize]) -> Option<Remapped> {
    let (x, y) = (graph.value(input(node, 0)?), graph.value(output(node)?));
    let unary = |op: Op| {
        let operands = vec![Operand::Stored];
        (x.shape.len() == perm.len() && y.shape.len() == perm.len()).then(|| Remapped {
            op,
            perm: perm.to_vec(),
            operands,
            reversible: true,
        })
    };
    let moved = inverse(perm);
    match &node.op {
        Op::Unary(_) | Op::Lut { .. } | Op::Quantize | Op::Dequantize | Op::Cast | Op::Expand => {
            unary(node.op.clone())
        }
        Op::Binary(_) | Op::Compare(_) | Op::Where => {
            let operands = operands(graph, node, perm.len(), true)?;
            let op = node.op.clone();
            (y.shape.len() == perm.len()).then(|| Remapped {
                op,
                perm: perm.to_vec(),
                operands,
                reversible: true,
            })
        }
        Op::Concat { axis } => {
            let operands = operands(graph, node, perm.len(), false)?;
            let op = Op::Concat { axis: *perm.get(*axis)? };
            Some(Remapped { op, perm: perm.to_vec(), operands, reversible: true })
        }
        Op::Softmax { axis, log } => unary(Op::Softmax { axis: *perm.get(*axis)?, log: *log }),
        Op::Slice { starts, steps } if starts.len() == perm.len() => {
            let (starts, steps) = (permuted(starts, &moved), permuted(steps, &moved));
            unary(Op::Slice { starts, steps })
        }
        Op::Pad { before, after, mode } if before.len() == perm.len() => {
            let (before, after) = (permuted(before, &moved), permuted(after, &moved));
            unary(Op::Pad { before, after, mode: *mode })
        }
        Op::Interpolate { axis } if x.shape.len() == perm.len() => {
            let op = Op::Interpolate { axis: *perm.get(*axis)? };
            let operands = vec![Operand::Stored, Operand::Unchanged, Operand::Unchanged];
            Some(Remapped { op, perm: perm.to_vec(), operands, reversible: true })
        }
        Op::Reduce { kind, axes, keep_dims } if x.shape.len() == perm.len() => {
            let mut stored: Vec<usize> = axes.iter().map(|a| perm[*a]).collect();
            stored.sort_unstable();
            let op = Op::Reduce { kind: *kind, axes: stored, keep_dims: *keep_dims };
            Some(reduced(op, perm, axes, *keep_dims))
        }
        Op::ArgReduce { axis, min, keep_dims, select_last } if x.shape.len() == perm.len() => {
            let (min, keep_dims, select_last) = (*min, *keep_dims, *select_last);
            let op = Op::ArgReduce { axis: *perm.get(*axis)?, min, keep_dims, select_last };
            Some(reduced(op, perm, &[*axis], keep_dims))
        }
        Op::Reshape if x.shape.len() == perm.len() => {
            let per_axis = |q: &Option<Quant>| q.as_ref().is_some_and(|q| q.axis.is_some());
            if per_axis(&x.quant) || per_axis(&y.quant) {
                return None;
            }
            let perm = regrouped(&x.shape, &y.shape, perm)?;
            let operands = vec![Operand::Stored];
            Some(Remapped { op: Op::Reshape, perm, operands, reversible: false })
        }
        _ => None,
    }
}

/// Operands of a node that combines several tensors of one rank.
fn operands(graph: &Graph, node: &Node, rank: usize, broadcasts: bool) -> Option<Vec<Operand>> {
    let operand = |id: &Option<_>| {
        let value = graph.value((*id)?);
        let single = value.shape.iter().all(|dim| dim.is(1));
        if broadcasts && single && value.shape.len() <= rank {
            Some(Operand::Unchanged)
        } else if value.constant.is_some() && value.shape.len() <= rank {
            (broadcasts || value.shape.len() == rank).then_some(Operand::Constant)
        } else {
            (value.shape.len() == rank).then_some(Operand::Stored)
        }
    };
    let operands: Vec<Operand> = node.inputs.iter().map(operand).collect::<Option<_>>()?;
    // All of them single or constant: nothing is stored differently, so there is nothing to gain.
    operands.contains(&Operand::Stored).then_some(operands)
}

/// A reduction over stored axes: those that stay keep their order.
fn reduced(op: Op, perm: &[usize], axes: &[usize], keep_dims: bool) -> Remapped {
    let operands = vec![Operand::Stored];
    if keep_dims {
        return Remapped { op, perm: perm.to_vec(), operands, reversible: true };
    }
    let kept: Vec<usize> =
        (0..perm.len()).filter(|axis| !axes.contains(axis)).map(|axis| perm[axis]).collect();
    let rank = |axis: &usize| kept.iter().filter(|other| *other < axis).count();
    let perm = kept.iter().map(rank).collect();
    Remapped { op, perm, operands, reversible: false }
}

/// How the result of a reshape from `x` to `y` is stored when `x` is stored by `perm`.
///
/// Ignoring axes of size 1, a reshape merges and splits groups of neighbouring axes. It can be done
/// on the stored tensor when every group's axes are neighbours there, too, in the same order.
fn regrouped(x: &[Dim], y: &[Dim], perm: &[usize]) -> Option<Vec<usize>> {
    let large = |dims: &[Dim]| -> Vec<usize> {
        (0..dims.len()).filter(|axis| !dims[*axis].is(1)).collect()
    };
    let (xs, ys) = (large(x), large(y));
    // Position of each larger axis of x among those stored.
    let position = |axis: usize| xs.iter().filter(|other| perm[**other] < perm[axis]).count();
    let (mut i, mut j) = (0, 0);
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    while i < xs.len() || j < ys.len() {
        let (a, b) = next_group(x, y, &xs[i..], &ys[j..])?;
        let first = position(xs[i]);
        if !xs[i..i + a].iter().enumerate().all(|(k, axis)| position(*axis) == first + k) {
            return None;
        }
        groups.push((first, ys[j..j + b].to_vec()));
        (i, j) = (i + a, j + b);
    }
    // Axes of size 1 follow the axis before them.
    let mut order: Vec<usize> = Vec::new();
    groups.sort_unstable();
    let leading = ys.first().copied().unwrap_or(y.len());
    order.extend(0..leading);
    for axis in groups.iter().flat_map(|(_, axes)| axes) {
        let ones = (axis + 1..y.len()).take_while(|next| y[*next].is(1));
        order.push(*axis);
        order.extend(ones);
    }
    (order.len() == y.len()).then(|| inverse(&order))
}

/// The fewest axes of both sides with equal products.
fn next_group(x: &[Dim], y: &[Dim], xs: &[usize], ys: &[usize]) -> Option<(usize, usize)> {
    let of = |dims: &[Dim], axes: &[usize]| product(&permuted(dims, axes));
    (2..=xs.len() + ys.len()).find_map(|total| {
        (1..total)
            .map(|a| (a, total - a))
            .filter(|(a, b)| *a <= xs.len() && *b <= ys.len())
            .find(|(a, b)| of(x, &xs[..*a]) == of(y, &ys[..*b]))
    })
}

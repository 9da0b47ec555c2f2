//! Operators that read their input with another stride per axis: slice, transpose, expand; and copy.
//! They move elements of any type.

use crate::error::StepErrorKind;
use crate::format::{Element, MAX_RANK, Op, SliceAttributes, TransposeAttributes};
use crate::memory::{Context, typed, typed_mut};
#[cfg(feature = "std")]
use crate::ops::parallel::{Work, moved_ns};
use crate::ops::shape::{
    Rows, Walk, broadcast_strides, by_element_size, expect_apart, expect_broadcast, strides,
};
use crate::ops::{Operator, Step, no_scratch};
#[cfg(feature = "std")]
use crate::threads::Disjoint;

/// A strided part; steps may be negative.
pub static SLICE: Operator = Operator {
    op: Op::Slice,
    dtype: None,
    check: check_slice,
    select: |_| run_slice,
    scratch_bytes: no_scratch,
};

/// Axes permuted.
pub static TRANSPOSE: Operator = Operator {
    op: Op::Transpose,
    dtype: None,
    check: check_transpose,
    select: |_| run_transpose,
    scratch_bytes: no_scratch,
};

/// Broadcast to a larger shape.
pub static EXPAND: Operator = Operator {
    op: Op::Expand,
    dtype: None,
    check: check_expand,
    select: |_| run_expand,
    scratch_bytes: no_scratch,
};

/// The same bytes elsewhere; shapes may differ.
pub static COPY: Operator = Operator {
    op: Op::Copy,
    dtype: None,
    check: check_copy,
    select: |_| run_copy,
    scratch_bytes: no_scratch,
};

/// Checks for one input and one output of the same type, apart in memory.
fn expect_move(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 1)?;
    if step.input(0)?.dtype != step.output(0)?.dtype {
        return Err(StepErrorKind::OperandType(1));
    }
    expect_apart(step)
}

fn check_copy(step: &Step<'_>) -> Result<(), StepErrorKind> {
    expect_move(step)?;
    let same = step.input(0)?.bytes() == step.output(0)?.bytes();
    if same { Ok(()) } else { Err(StepErrorKind::OperandShape(1)) }
}

fn run_copy(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let operands = context.operands([0])?;
    operands.output.copy_from_slice(operands.inputs[0]);
    Ok(())
}

fn check_expand(step: &Step<'_>) -> Result<(), StepErrorKind> {
    expect_move(step)?;
    expect_broadcast(&step.input(0)?, &step.output(0)?, 0)
}

/// Where the input of a step is read first, and elements from there to the next, per axis of the output.
type Reads = (usize, [usize; MAX_RANK]);

pub(super) fn expanded(step: &Step<'_>) -> Result<Reads, StepErrorKind> {
    Ok((0, broadcast_strides(&step.input(0)?, step.output(0)?.rank())))
}

fn run_expand(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let reads = expanded(&context.step)?;
    by_element_size!(context.step.input(0)?.dtype, read_strided(context, reads))
}

fn check_transpose(step: &Step<'_>) -> Result<(), StepErrorKind> {
    expect_move(step)?;
    let attributes: TransposeAttributes = step.expect_attributes()?;
    let (x, y) = (step.input(0)?, step.output(0)?);
    if x.rank() != y.rank() {
        return Err(StepErrorKind::OperandShape(1));
    }
    let mut seen = 0u32;
    for (axis, from) in attributes.perm[..x.rank()].iter().enumerate() {
        let from = usize::from(*from);
        if from >= x.rank() || seen >> from & 1 == 1 {
            return Err(StepErrorKind::Attribute("perm"));
        }
        seen |= 1 << from;
        if y.dim(axis) != x.dim(from) {
            return Err(StepErrorKind::OperandShape(1));
        }
    }
    Ok(())
}

pub(super) fn transposed(step: &Step<'_>) -> Result<Reads, StepErrorKind> {
    let perm = step.attributes::<TransposeAttributes>().perm;
    let own = strides(&step.input(0)?);
    Ok((0, perm.map(|axis| own.get(usize::from(axis)).copied().unwrap_or(0))))
}

fn run_transpose(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let reads = transposed(&context.step)?;
    by_element_size!(context.step.input(0)?.dtype, read_strided(context, reads))
}

/// First index and step along an axis.
fn slice_axis(step: &Step<'_>, axis: usize) -> Result<(i64, i64), StepErrorKind> {
    let attributes: SliceAttributes = step.attributes();
    Ok((step.dim(attributes.starts[axis])? as i64, i64::from(attributes.steps[axis])))
}

fn check_slice(step: &Step<'_>) -> Result<(), StepErrorKind> {
    expect_move(step)?;
    step.expect_attributes::<SliceAttributes>()?;
    let (x, y) = (step.input(0)?, step.output(0)?);
    if x.rank() != y.rank() {
        return Err(StepErrorKind::OperandShape(1));
    }
    for axis in 0..x.rank() {
        let (start, step_size) = slice_axis(step, axis)?;
        if step_size == 0 {
            return Err(StepErrorKind::Attribute("steps"));
        }
        if y.elements() == 0 {
            continue;
        }
        let last = start + (y.dim(axis) as i64 - 1) * step_size;
        let inside = 0..x.dim(axis) as i64;
        if !inside.contains(&start) || !inside.contains(&last) {
            return Err(StepErrorKind::OperandShape(1));
        }
    }
    Ok(())
}

pub(super) fn sliced(step: &Step<'_>) -> Result<Reads, StepErrorKind> {
    let x = step.input(0)?;
    let mut steps = strides(&x);
    let mut at = 0usize;
    for (axis, stride) in steps.iter_mut().enumerate().take(x.rank()) {
        let (start, step_size) = slice_axis(step, axis)?;
        at = at.wrapping_add((start as usize).wrapping_mul(*stride));
        *stride = stride.wrapping_mul(step_size as isize as usize);
    }
    Ok((at, steps))
}

fn run_slice(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let reads = sliced(&context.step)?;
    by_element_size!(context.step.input(0)?.dtype, read_strided(context, reads))
}

/// What there is to share: stretches along the outermost axis of the output.
#[cfg(feature = "std")]
pub(super) fn work(
    step: &Step<'_>,
    reads: fn(&Step<'_>) -> Result<Reads, StepErrorKind>,
) -> Option<Work> {
    let y = step.output(0).ok()?;
    let (_, steps) = reads(step).ok()?;
    let (outer, _) = Walk::new(y.dims(), &[steps, strides(&y)]).axis(0);
    Some(Work { units: outer, ns: moved_ns(&y), is_by_rows: false })
}

/// Rows and columns of a tile: what a transposition reads stays in the first cache until it is used up.
const TILE: usize = 16;

/// Writes the output in order.
fn read_strided<T: Element>(
    context: &mut Context<'_>,
    (start, steps): Reads,
) -> Result<(), StepErrorKind> {
    let y = context.step.output(0)?;
    let walk = Walk::new(y.dims(), &[steps, strides(&y)]);
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands([0])?;
    let x: &[T] = typed(operands.inputs[0], 0)?;
    let y: &mut [T] = typed_mut(operands.output, 1)?;
    #[cfg(feature = "std")]
    if let Some(mut crew) = crew {
        let (outer, [step, row]) = walk.axis(0);
        let cut = crew.cut(outer);
        let y = Disjoint::new(y, cut, row);
        return crew.run(cut.parts, |part, _| {
            let y = y.take(part).ok_or(StepErrorKind::TooLarge)?;
            let own = cut.range(part);
            let start = start.wrapping_add(own.start.wrapping_mul(step));
            move_elements(&walk.with_outer(own.len()), start, x, y);
            Ok(())
        });
    }
    move_elements(&walk, start, x, y);
    Ok(())
}

/// Reads from `start` on with the first strides of `walk`, whose others are those of all of `y`.
fn move_elements<T: Element>(walk: &Walk<2>, start: usize, x: &[T], y: &mut [T]) {
    let last = walk.rank() - 1;
    let (extent, [stride, _]) = walk.inner();
    match stride {
        1 => {
            // Rows of one axis in a loop of their own: they may be short.
            let rows_axis = last.saturating_sub(1);
            let (rows, row_strides) = match last {
                0 => (1, [0, 0]),
                _ => walk.axis(rows_axis),
            };
            walk.for_each_without(&[rows_axis, last], [start, 0], |at| {
                Rows { at, count: rows, strides: row_strides }.copy(extent, x, y);
            });
        }
        0 => walk.for_each_row([start, 0], |[from, to]| y[to..to + extent].fill(x[from])),
        _ => {
            // An axis along which the input is contiguous makes this a transposition of matrices.
            let across = (0..last).find(|axis| walk.axis(*axis).1[0] == 1);
            let Some(across) = across else {
                walk.for_each_row([start, 0], |[mut from, to]| {
                    for y in &mut y[to..to + extent] {
                        *y = x[from];
                        from = from.wrapping_add(stride);
                    }
                });
                return;
            };
            let (rows, [_, row_stride]) = walk.axis(across);
            walk.for_each_without(&[across, last], [start, 0], |[from, to]| {
                let (x, y) = (&x[from..], &mut y[to..]);
                // Steps back are wrapped, and so beyond any length.
                match (row_stride == extent && stride < x.len(), extent) {
                    (true, 2) => return interleave::<T, 2>(x, stride, &mut y[..rows * 2]),
                    (true, 3) => return interleave::<T, 3>(x, stride, &mut y[..rows * 3]),
                    (true, 4) => return interleave::<T, 4>(x, stride, &mut y[..rows * 4]),
                    _ => {}
                }
                for row in (0..rows).step_by(TILE) {
                    for column in (0..extent).step_by(TILE) {
                        let columns = TILE.min(extent - column);
                        for row in row..rows.min(row + TILE) {
                            let to = row * row_stride + column;
                            let mut from = row.wrapping_add(column.wrapping_mul(stride));
                            for y in &mut y[to..to + columns] {
                                *y = x[from];
                                from = from.wrapping_add(stride);
                            }
                        }
                    }
                }
            });
        }
    }
}

/// Columns of a matrix, `stride` elements from one to the next, as rows: few planes of an image as pixels.
fn interleave<T: Element, const COLUMNS: usize>(x: &[T], stride: usize, y: &mut [T]) {
    let rows = y.len() / COLUMNS;
    let columns: [&[T]; COLUMNS] = core::array::from_fn(|column| &x[column * stride..][..rows]);
    for (row, y) in y.chunks_exact_mut(COLUMNS).enumerate() {
        for (y, column) in y.iter_mut().zip(columns) {
            *y = column[row];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::ops::testing::{Case, Tensor, shape, tensor};

    /// 0, 1, 2, … in a shape.
    fn iota(dims: &[u32]) -> Tensor {
        let values: Vec<i32> = (0..dims.iter().product::<u32>() as i32).collect();
        tensor(dims, &values)
    }

    fn slice(x: &[u32], starts: &[i32], steps: &[i32], y: &[u32]) -> Case {
        let mut attributes = SliceAttributes { starts: [0; 8], steps: [1; 8] };
        attributes.starts[..starts.len()].copy_from_slice(starts);
        attributes.steps[..steps.len()].copy_from_slice(steps);
        Case::new(Op::Slice, None, attributes, &[iota(x)], shape(DType::I32, y))
    }

    fn transpose(x: &[u32], perm: &[u8], y: &[u32]) -> Case {
        let mut attributes = TransposeAttributes::default();
        attributes.perm[..perm.len()].copy_from_slice(perm);
        Case::new(Op::Transpose, None, attributes, &[iota(x)], shape(DType::I32, y))
    }

    #[test]
    fn slices() {
        assert_eq!(slice(&[2, 5], &[1, 1], &[1, 2], &[1, 2]).run::<i32>(), [6, 8]);
        assert_eq!(slice(&[2, 3], &[1, 2], &[-1, -2], &[2, 2]).run::<i32>(), [5, 3, 2, 0]);
        assert_eq!(
            slice(&[2, 2, 2], &[0, 1, 0], &[1, 1, 1], &[2, 1, 2]).run::<i32>(),
            [2, 3, 6, 7]
        );
        assert_eq!(slice(&[4], &[3], &[-3], &[2]).run::<i32>(), [3, 0]);
        assert_eq!(slice(&[4], &[3], &[i32::MIN], &[1]).run::<i32>(), [3]);
        assert_eq!(slice(&[4], &[9], &[1], &[0]).run::<i32>(), []);
        assert_eq!(slice(&[], &[], &[], &[]).run::<i32>(), [0]);
    }

    #[test]
    fn hostile_slices_are_refused() {
        let refused = [
            slice(&[4], &[4], &[1], &[1]),
            slice(&[4], &[0], &[0], &[1]),
            slice(&[4], &[0], &[0], &[0]),
            slice(&[4], &[0], &[2], &[3]),
            slice(&[4], &[0], &[-1], &[2]),
            slice(&[4], &[1], &[i32::MAX], &[4]),
            slice(&[4], &[1], &[i32::MIN], &[4]),
            slice(&[4], &[i32::MAX], &[1], &[1]),
            // A reference to a dimension that the file doesn't have.
            slice(&[4], &[-1], &[1], &[1]),
            slice(&[4], &[0], &[1], &[4, 1]),
            slice(&[0], &[0], &[1], &[1]),
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.attributes);
        }
    }

    #[test]
    fn transpositions_agree_with_indexing() {
        let cases: [(&[u32], &[u8]); 13] = [
            (&[2, 3], &[1, 0]),
            (&[37, 19], &[1, 0]),
            (&[2, 3, 4], &[0, 2, 1]),
            (&[2, 3, 4], &[2, 1, 0]),
            (&[2, 3, 4], &[1, 0, 2]),
            (&[2, 3, 4, 5], &[0, 3, 1, 2]),
            (&[2, 17, 18, 5], &[0, 2, 3, 1]),
            (&[2, 2, 9, 5], &[0, 2, 3, 1]),
            (&[1, 3, 7, 11], &[0, 2, 3, 1]),
            (&[3, 4, 6, 5], &[0, 2, 3, 1]),
            (&[2, 3, 4, 5], &[3, 1, 2, 0]),
            (&[2, 1, 3, 1, 2, 1, 2, 3], &[7, 5, 3, 1, 0, 2, 4, 6]),
            (&[3, 2, 0], &[2, 0, 1]),
        ];
        for (x, perm) in cases {
            let y: Vec<u32> = perm.iter().map(|axis| x[usize::from(*axis)]).collect();
            let mut want = vec![0i32; x.iter().product::<u32>() as usize];
            for (element, value) in want.iter_mut().enumerate() {
                let (mut rest, mut index) = (element as u32, vec![0; x.len()]);
                for axis in (0..x.len()).rev() {
                    index[usize::from(perm[axis])] = rest % y[axis];
                    rest /= y[axis];
                }
                *value =
                    index.iter().zip(x).fold(0, |at, (index, extent)| at * extent + index) as i32;
            }
            assert_eq!(transpose(x, perm, &y).run::<i32>(), want, "{x:?} {perm:?}");
        }
        let refused = [
            transpose(&[2, 2], &[0, 0], &[2, 2]),
            transpose(&[2, 2], &[0, 2], &[2, 2]),
            transpose(&[2, 2], &[255, 0], &[2, 2]),
            transpose(&[2, 3], &[1, 0], &[2, 3]),
            transpose(&[2, 3], &[1, 0], &[3, 2, 1]),
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.attributes);
        }
    }

    #[test]
    fn expansion_and_copy_for_every_element_size() {
        let expand = |x: Tensor, y: &[u32]| {
            let y = shape(x.dtype, y);
            Case::new(Op::Expand, None, [0u8; 0], &[x], y)
        };
        assert_eq!(
            expand(tensor(&[2, 1], &[1i8, 2]), &[2, 2, 2]).run::<i8>(),
            [1, 1, 2, 2, 1, 1, 2, 2]
        );
        assert_eq!(expand(tensor(&[2], &[1i16, 2]), &[2, 2]).run::<i16>(), [1, 2, 1, 2]);
        assert_eq!(expand(tensor(&[], &[1.5f32]), &[3]).run::<f32>(), [1.5, 1.5, 1.5]);
        assert_eq!(expand(tensor(&[1], &[-7i64]), &[2, 1]).run::<i64>(), [-7, -7]);
        assert_eq!(expand(tensor(&[1], &[1i8]), &[0]).run::<i8>(), []);
        assert!(expand(tensor(&[2], &[1i8, 2]), &[3]).run_bytes().is_err());
        assert!(expand(tensor(&[1, 1], &[1i8]), &[1]).run_bytes().is_err());
        let copy =
            |y: &[u32]| Case::new(Op::Copy, None, [0u8; 0], &[iota(&[2, 3])], shape(DType::I32, y));
        assert_eq!(copy(&[3, 2]).run::<i32>(), [0, 1, 2, 3, 4, 5]);
        assert!(copy(&[7]).run_bytes().is_err());
        assert!(copy(&[6]).sharing(0, 4).run_bytes().is_err());
        let other = Case::new(Op::Copy, None, [0u8; 0], &[iota(&[2])], shape(DType::F32, &[2]));
        assert!(other.run_bytes().is_err());
    }
}

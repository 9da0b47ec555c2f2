//! Indexing element by element and by tuples of indices, elements of any type.

use crate::error::StepErrorKind;
use crate::format::{AxisAttributes, Element, GatherNdAttributes, Op};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::indices::{Indices, expect_indices};
use crate::ops::shape::{Walk, by_element_size, expect_apart, product, split, strides};
use crate::ops::{Operator, Step, expect_same_shape, no_scratch};

/// `y[i, j, k] = data[i, index[i, j, k], k]` for axis 1. Inputs: data, indices (i32 or i64).
pub static GATHER_ELEMENTS: Operator = Operator {
    op: Op::GatherElements,
    dtype: None,
    check: check_elements,
    select: |_| run_elements,
    scratch_bytes: no_scratch,
};

/// The last axis of the indices holds tuples of indices into data. Inputs: data, indices.
pub static GATHER_ND: Operator = Operator {
    op: Op::GatherNd,
    dtype: None,
    check: check_nd,
    select: |_| run_nd,
    scratch_bytes: no_scratch,
};

fn check_elements(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    expect_apart(step)?;
    let axis = step.expect_attributes::<AxisAttributes>()?.axis;
    let (data, indices, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    split(&data, axis)?;
    expect_indices(&indices, 1)?;
    if y.dtype != data.dtype {
        return Err(StepErrorKind::OperandType(2));
    }
    expect_same_shape(&y, &indices, 2)?;
    let inside = |(at, (index, data)): (usize, (&u32, &u32))| at == axis as usize || index <= data;
    let fits = indices.rank() == data.rank()
        && indices.dims().iter().zip(data.dims()).enumerate().all(inside);
    if fits { Ok(()) } else { Err(StepErrorKind::OperandShape(1)) }
}

fn run_elements(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let dtype = context.step.input(0)?.dtype;
    by_element_size!(dtype, gather_elements(context))
}

fn gather_elements<T: Element>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let (data, indices, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    let axis = step.attributes::<AxisAttributes>().axis as usize;
    let extent = data.dim(axis);
    // The indexed axis doesn't move along with the result; the index does that.
    let mut free = strides(&data);
    let along = core::mem::replace(&mut free[axis], 0);
    let walk = Walk::new(y.dims(), &[free, strides(&y)]);
    let (row, [stride, _]) = walk.inner();
    let operands = context.operands([0, 1])?;
    let x: &[T] = typed(operands.inputs[0], 0)?;
    let indices = Indices::new(operands.inputs[1], indices.dtype, 1)?;
    let y: &mut [T] = typed_mut(operands.output, 2)?;
    let mut outcome = Ok(());
    walk.for_each_row([0, 0], |[from, to]| {
        for (position, y) in y[to..to + row].iter_mut().enumerate() {
            match indices.at(to + position, extent) {
                Ok(index) => *y = x[from + position * stride + index * along],
                Err(error) => outcome = Err(error),
            }
        }
    });
    outcome
}

fn check_nd(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    expect_apart(step)?;
    let batch = step.expect_attributes::<GatherNdAttributes>()?.batch_axes as usize;
    let (data, indices, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    expect_indices(&indices, 1)?;
    if y.dtype != data.dtype {
        return Err(StepErrorKind::OperandType(2));
    }
    let Some((tuple, places)) = indices.dims().split_last() else {
        return Err(StepErrorKind::OperandShape(1));
    };
    if batch > places.len() || batch > data.rank() {
        return Err(StepErrorKind::Attribute("batch_axes"));
    }
    let (ours, theirs) = (&places[..batch], &data.dims()[..batch]);
    let Some(rest) = data.dims().get(batch + *tuple as usize..).filter(|_| ours == theirs) else {
        return Err(StepErrorKind::OperandShape(1));
    };
    let dims = places.iter().chain(rest);
    if dims.eq(y.dims()) { Ok(()) } else { Err(StepErrorKind::OperandShape(2)) }
}

fn run_nd(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let (data, indices, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    if y.elements() == 0 {
        return Ok(());
    }
    let batch = step.attributes::<GatherNdAttributes>().batch_axes as usize;
    let places = &indices.dims()[..indices.rank() - 1];
    let tuple = indices.dim(indices.rank() - 1);
    let per_batch = product(&places[batch..]);
    let batch_stride = product(&data.dims()[batch..]);
    let own = strides(&data);
    let block = product(&data.dims()[batch + tuple..]) * data.dtype.size();
    let operands = context.operands([0, 1])?;
    let [x, index_bytes] = operands.inputs;
    let indices = Indices::new(index_bytes, indices.dtype, 1)?;
    for (place, to) in operands.output.chunks_exact_mut(block).enumerate() {
        let mut at = place / per_batch * batch_stride;
        for axis in 0..tuple {
            let index = indices.at(place * tuple + axis, data.dim(batch + axis))?;
            at += index * own[batch + axis];
        }
        let start = at * data.dtype.size();
        to.copy_from_slice(&x[start..start + block]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionError;
    use crate::ops::testing::{Case, Tensor, shape, tensor};

    fn elements(axis: u32, data: &Tensor, indices: Tensor, y: &[u32]) -> Case {
        let attributes = AxisAttributes { axis, reserved: 0 };
        let output = shape(data.dtype, y);
        Case::new(Op::GatherElements, None, attributes, &[data.clone(), indices], output)
    }

    fn nd(batch_axes: u32, data: &Tensor, indices: Tensor, y: &[u32]) -> Case {
        let attributes = GatherNdAttributes { batch_axes, reserved: 0 };
        Case::new(Op::GatherNd, None, attributes, &[data.clone(), indices], shape(data.dtype, y))
    }

    fn out_of_range(case: &Case) -> bool {
        matches!(
            case.run_bytes(),
            Err(SessionError::Step { kind: StepErrorKind::IndexOutOfRange, .. })
        )
    }

    #[test]
    fn elements_along_any_axis() {
        // numpy.take_along_axis
        let data = tensor(&[3, 2], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let y = elements(1, &data, tensor(&[3, 2], &[0i64, 0, 1, 0, -1, -2]), &[3, 2]);
        assert_eq!(y.run::<f32>(), [1.0, 1.0, 4.0, 3.0, 6.0, 5.0]);
        let y = elements(0, &data, tensor(&[4, 1], &[2i32, 0, -1, 1]), &[4, 1]);
        assert_eq!(y.run::<f32>(), [5.0, 1.0, 5.0, 3.0]);
        let cube = tensor(&[2, 2, 2], &[1i8, 2, 3, 4, 5, 6, 7, 8]);
        let y = elements(
            1,
            &cube,
            tensor(&[2, 3, 2], &[0i64, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1, 0]),
            &[2, 3, 2],
        );
        assert_eq!(y.run::<i8>(), [1, 4, 3, 2, 1, 2, 7, 8, 5, 8, 7, 6]);
        let wide = tensor(&[2], &[7i64, 8]);
        assert_eq!(elements(0, &wide, tensor(&[0], &[0i64; 0]), &[0]).run::<i64>(), []);
    }

    #[test]
    fn tuples_of_indices() {
        let data = tensor(&[2, 2, 2], &[0i16, 1, 2, 3, 4, 5, 6, 7]);
        // data[tuple] for each tuple
        let y = nd(0, &data, tensor(&[2, 3], &[0i64, 0, 1, -1, 1, 0]), &[2]);
        assert_eq!(y.run::<i16>(), [1, 6]);
        let y = nd(0, &data, tensor(&[2, 1, 2], &[0i32, 1, 1, 0]), &[2, 1, 2]);
        assert_eq!(y.run::<i16>(), [2, 3, 4, 5]);
        let y = nd(1, &data, tensor(&[2, 1], &[1i64, 0]), &[2, 2]);
        assert_eq!(y.run::<i16>(), [2, 3, 4, 5]);
        let y = nd(2, &data, tensor(&[2, 2, 1], &[1i64, 0, 0, 1]), &[2, 2]);
        assert_eq!(y.run::<i16>(), [1, 2, 4, 7]);
        let y = nd(0, &data, tensor(&[2, 0], &[0i64; 0]), &[2, 2, 2, 2]);
        assert_eq!(y.run::<i16>(), [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn indices_outside_are_an_error() {
        let data = tensor(&[2, 3], &[1i32, 2, 3, 4, 5, 6]);
        for index in [3i64, -4, i64::MAX, i64::MIN] {
            assert!(out_of_range(&elements(1, &data, tensor(&[1, 1], &[index]), &[1, 1])));
            assert!(out_of_range(&nd(0, &data, tensor(&[1, 2], &[0, index]), &[1])));
        }
        let none = tensor(&[0, 3], &[0i32; 0]);
        assert!(out_of_range(&elements(0, &none, tensor(&[1, 3], &[0i64; 3]), &[1, 3])));
    }

    #[test]
    fn hostile_steps_are_refused() {
        let data = tensor(&[2, 3], &[1i32, 2, 3, 4, 5, 6]);
        let index = || tensor(&[2, 2], &[0i64; 4]);
        let refused = [
            elements(2, &data, index(), &[2, 2]),
            elements(u32::MAX, &data, index(), &[2, 2]),
            elements(1, &data, index(), &[2, 1]),
            elements(1, &data, tensor(&[3, 1], &[0i64; 3]), &[3, 1]),
            elements(1, &data, tensor(&[2], &[0i64; 2]), &[2]),
            elements(1, &data, tensor(&[1, 1], &[0f32]), &[1, 1]),
            elements(1, &data, index(), &[2, 2]).sharing(0, 0),
            nd(0, &data, tensor(&[], &[0i64]), &[]),
            nd(0, &data, tensor(&[1, 3], &[0i64; 3]), &[1]),
            nd(2, &data, index(), &[2]),
            nd(u32::MAX, &data, index(), &[2]),
            nd(1, &data, tensor(&[3, 1], &[0i64; 3]), &[3]),
            nd(0, &data, index(), &[2, 1]),
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.attributes);
        }
    }
}

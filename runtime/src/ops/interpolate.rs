//! Weighted sums along one axis by tables: resizes whose taps were worked out at conversion.
//!
//! ```text
//! y[…, i, …] = sum over t of weights[i, t] · x[…, indices[i, t], …]
//! ```
//!
//! in f32, taps in order, starting from 0.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{AxisAttributes, Op};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::shape::{expect_apart, expect_types, split};
use crate::ops::{Operator, Step, no_scratch};

/// f32.
pub static INTERPOLATE_F32: Operator = Operator {
    op: Op::Interpolate,
    dtype: Some(DType::F32),
    check,
    select: |_| run,
    scratch_bytes: no_scratch,
};

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(3, 3)?;
    expect_types(step, &[DType::F32, DType::I32, DType::F32], DType::F32)?;
    expect_apart(step)?;
    let axis = step.expect_attributes::<AxisAttributes>()?.axis;
    let (x, indices, weights) = (step.input(0)?, step.input(1)?, step.input(2)?);
    let y = step.output(0)?;
    split(&x, axis)?;
    if indices.rank() != 2 {
        return Err(StepErrorKind::OperandShape(1));
    }
    if weights.dims() != indices.dims() {
        return Err(StepErrorKind::OperandShape(2));
    }
    let axis = axis as usize;
    let same = x.rank() == y.rank()
        && (0..x.rank()).all(|at| y.dim(at) == if at == axis { indices.dim(0) } else { x.dim(at) });
    if same { Ok(()) } else { Err(StepErrorKind::OperandShape(3)) }
}

fn run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let axis = step.attributes::<AxisAttributes>().axis;
    let x = split(&step.input(0)?, axis)?;
    let (out, taps) = (step.input(1)?.dim(0), step.input(1)?.dim(1));
    if step.output(0)?.elements() == 0 {
        return Ok(());
    }
    let operands = context.operands([0, 1, 2])?;
    let [values, indices, weights] = operands.inputs;
    let (values, weights): (&[f32], &[f32]) = (typed(values, 0)?, typed(weights, 2)?);
    let indices: &[i32] = typed(indices, 1)?;
    let y: &mut [f32] = typed_mut(operands.output, 3)?;
    for (row, y) in y.chunks_exact_mut(x.inner).enumerate() {
        let (outer, i) = (row / out, row % out);
        y.fill(0.0);
        let own = i * taps..(i + 1) * taps;
        for (index, weight) in indices[own.clone()].iter().zip(&weights[own]) {
            let index = usize::try_from(*index).ok().filter(|index| *index < x.extent);
            let index = index.ok_or(StepErrorKind::IndexOutOfRange)?;
            let from = (outer * x.extent + index) * x.inner;
            for (y, x) in y.iter_mut().zip(&values[from..from + x.inner]) {
                *y += weight * x;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Tensor, assert_close, shape, tensor};

    fn case(axis: u32, x: Tensor, indices: Tensor, weights: Tensor, y: &[u32]) -> Case {
        let attributes = AxisAttributes { axis, reserved: 0 };
        let inputs = [x, indices, weights];
        Case::new(Op::Interpolate, Some(DType::F32), attributes, &inputs, shape(DType::F32, y))
    }

    #[test]
    fn along_either_axis() {
        let x = tensor(&[2, 3], &[1.0f32, 2.0, 4.0, 10.0, 20.0, 40.0]);
        let indices = tensor(&[2, 2], &[0i32, 1, 2, 2]);
        let weights = tensor(&[2, 2], &[0.5f32, 0.5, 0.25, 0.5]);
        let got = case(1, x.clone(), indices, weights, &[2, 2]).run::<f32>();
        assert_close(&got, &[1.5, 3.0, 15.0, 30.0], 0.0);
        let indices = tensor(&[1, 2], &[1i32, 0]);
        let weights = tensor(&[1, 2], &[1.0f32, -1.0]);
        let got = case(0, x, indices, weights, &[1, 3]).run::<f32>();
        assert_close(&got, &[9.0, 18.0, 36.0], 0.0);
    }

    #[test]
    fn hostile_steps_are_refused() {
        let x = tensor(&[2, 3], &[1.0f32; 6]);
        let indices = |value: i32| tensor(&[2, 1], &[value; 2]);
        let weights = tensor(&[2, 1], &[1.0f32; 2]);
        assert!(case(1, x.clone(), indices(2), weights.clone(), &[2, 2]).run_bytes().is_ok());
        for (axis, index, y) in
            [(1, 3, [2, 2]), (1, -1, [2, 2]), (2, 0, [2, 2]), (1, 0, [2, 3]), (0, 0, [2, 2])]
        {
            let case = case(axis, x.clone(), indices(index), weights.clone(), &y);
            assert!(case.run_bytes().is_err(), "{axis} {index} {y:?}");
        }
        let long = tensor(&[2, 2], &[1.0f32; 4]);
        assert!(case(1, x.clone(), indices(0), long, &[2, 2]).run_bytes().is_err());
        let flat = tensor(&[2], &[0i32; 2]);
        assert!(case(1, x, flat, weights, &[2, 2]).run_bytes().is_err());
    }
}

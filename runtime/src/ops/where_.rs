//! `condition ? a : b` for elements of any type, broadcasting as NumPy does.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Element, Op};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::shape::{Walk, broadcast_strides, by_element_size, expect_apart, expect_broadcast};
use crate::ops::{Operator, Step, expect_type, no_scratch};

/// Inputs: condition (bool), a, b.
pub static WHERE: Operator =
    Operator { op: Op::Where, dtype: None, check, select: |_| run, scratch_bytes: no_scratch };

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(3, 3)?;
    expect_apart(step)?;
    let y = step.output(0)?;
    expect_type(&step.input(0)?, DType::Bool, 0)?;
    for operand in 0..3 {
        let x = step.input(operand)?;
        if operand > 0 {
            expect_type(&x, y.dtype, operand as u8)?;
        }
        expect_broadcast(&x, &y, operand as u8)?;
    }
    Ok(())
}

fn run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let dtype = context.step.output(0)?.dtype;
    by_element_size!(dtype, run_sized(context))
}

fn run_sized<T: Element>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let y = step.output(0)?;
    let mut steps = [[0; crate::format::MAX_RANK]; 3];
    for (operand, steps) in steps.iter_mut().enumerate() {
        *steps = broadcast_strides(&step.input(operand)?, y.rank());
    }
    let walk = Walk::new(y.dims(), &steps);
    let (extent, [condition_stride, a_stride, b_stride]) = walk.inner();
    let operands = context.operands([0, 1, 2])?;
    let [condition, a, b] = operands.inputs;
    let (a, b): (&[T], &[T]) = (typed(a, 1)?, typed(b, 2)?);
    let y: &mut [T] = typed_mut(operands.output, 3)?;
    let mut row = 0;
    walk.for_each_row([0; 3], |[condition_at, a_at, b_at]| {
        for (index, y) in y[row..row + extent].iter_mut().enumerate() {
            let truth = condition[condition_at + index * condition_stride] != 0;
            *y = if truth { a[a_at + index * a_stride] } else { b[b_at + index * b_stride] };
        }
        row += extent;
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Tensor, bools, shape, tensor};

    fn case(condition: Tensor, a: Tensor, b: Tensor, y: &[u32]) -> Case {
        let y = shape(a.dtype, y);
        Case::new(Op::Where, None, [0u8; 0], &[condition, a, b], y)
    }

    #[test]
    fn broadcasts_each_operand() {
        let condition = bools(&[2, 1], &[2, 0]);
        let a = tensor(&[3], &[1f32, 2.0, 3.0]);
        let b = tensor(&[], &[-1f32]);
        assert_eq!(
            case(condition.clone(), a, b, &[2, 3]).run::<f32>(),
            [1.0, 2.0, 3.0, -1.0, -1.0, -1.0]
        );
        let a = tensor(&[2, 2], &[1i64, 2, 3, 4]);
        let b = tensor(&[2, 2], &[5i64, 6, 7, 8]);
        assert_eq!(case(condition, a, b, &[2, 2]).run::<i64>(), [1, 2, 7, 8]);
        let scalar = || tensor(&[], &[7i16]);
        assert_eq!(
            case(bools(&[3], &[0, 1, 0]), scalar(), tensor(&[1], &[9i16]), &[3]).run::<i16>(),
            [9, 7, 9]
        );
        assert_eq!(case(bools(&[0], &[]), scalar(), scalar(), &[0]).run::<i16>(), []);
    }

    #[test]
    fn hostile_steps_are_refused() {
        let x = || tensor(&[2], &[1i8, 2]);
        let refused = [
            case(x(), x(), x(), &[2]),
            case(bools(&[3], &[1; 3]), x(), x(), &[2]),
            case(bools(&[2], &[1; 2]), x(), tensor(&[2], &[1f32, 2.0]), &[2]),
            case(bools(&[2], &[1; 2]), x(), x(), &[2]).sharing(1, 0),
            case(bools(&[2, 2], &[1; 4]), x(), x(), &[2]),
        ];
        for case in refused {
            assert!(case.run_bytes().is_err());
        }
    }
}

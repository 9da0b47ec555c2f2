//! Join of any number of tensors of any type along an axis.

use crate::error::StepErrorKind;
use crate::format::{AxisAttributes, Op};
use crate::memory::Context;
#[cfg(feature = "std")]
use crate::ops::parallel::{Work, moved_ns};
use crate::ops::shape::{Rows, expect_apart, split};
use crate::ops::{Operator, Step, no_scratch};
#[cfg(feature = "std")]
use crate::threads::Disjoint;

/// Join along an axis.
pub static CONCAT: Operator =
    Operator { op: Op::Concat, dtype: None, check, select: |_| run, scratch_bytes: no_scratch };

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(1, usize::from(u16::MAX))?;
    expect_apart(step)?;
    let axis = step.expect_attributes::<AxisAttributes>()?.axis;
    let y = step.output(0)?;
    let extent = split(&y, axis)?.extent;
    let mut sum = 0usize;
    for index in 0..step.input_count() {
        let (x, operand) = (step.input(index)?, index.min(255) as u8);
        if x.dtype != y.dtype {
            return Err(StepErrorKind::OperandType(operand));
        }
        let matches = |other: usize| other == axis as usize || x.dim(other) == y.dim(other);
        if x.rank() != y.rank() || !(0..y.rank()).all(matches) {
            return Err(StepErrorKind::OperandShape(operand));
        }
        sum = sum.checked_add(x.dim(axis as usize)).ok_or(StepErrorKind::TooLarge)?;
    }
    if sum == extent {
        Ok(())
    } else {
        Err(StepErrorKind::OperandShape(step.input_count().min(255) as u8))
    }
}

fn run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let (axis, y) = (step.attributes::<AxisAttributes>().axis, step.output(0)?);
    if y.elements() == 0 {
        return Ok(());
    }
    let whole = split(&y, axis)?;
    let row_bytes = whole.inner * y.dtype.size();
    let whole_bytes = whole.extent * row_bytes;
    #[cfg(feature = "std")]
    let mut crew = context.take_crew();
    let mut at = 0;
    for index in 0..step.input_count() {
        let bytes = step.input(index)?.dim(axis as usize) * row_bytes;
        if bytes == 0 {
            continue;
        }
        let operands = context.operands([index])?;
        let x = operands.inputs[0];
        let rows = |first: usize, count: usize, y: &mut [u8]| {
            Rows { at: [first * bytes, at], count, strides: [bytes, whole_bytes] }.copy(bytes, x, y)
        };
        #[cfg(feature = "std")]
        if let Some(crew) = &mut crew {
            let cut = crew.cut(whole.outer);
            let y = Disjoint::new(operands.output, cut, whole_bytes);
            crew.run(cut.parts, |part, _| {
                let own = cut.range(part);
                rows(own.start, own.len(), y.take(part).ok_or(StepErrorKind::TooLarge)?);
                Ok(())
            })?;
            at += bytes;
            continue;
        }
        rows(0, whole.outer, operands.output);
        at += bytes;
    }
    Ok(())
}

/// What there is to share.
#[cfg(feature = "std")]
pub(super) fn work(step: &Step<'_>) -> Option<Work> {
    let y = step.output(0).ok()?;
    let whole = split(&y, step.attributes::<AxisAttributes>().axis).ok()?;
    Some(Work { units: whole.outer, ns: moved_ns(&y), is_by_rows: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::ops::testing::{Case, Tensor, shape, tensor};

    fn concat(axis: u32, inputs: &[Tensor], y: &[u32]) -> Case {
        let y = shape(inputs[0].dtype, y);
        Case::new(Op::Concat, None, AxisAttributes { axis, reserved: 0 }, inputs, y)
    }

    #[test]
    fn joins_along_any_axis() {
        let a = tensor(&[2, 2], &[1i32, 2, 3, 4]);
        let b = tensor(&[2, 1], &[5i32, 6]);
        let empty = tensor::<i32>(&[2, 0], &[]);
        let inputs = [a.clone(), empty, b, a.clone()];
        assert_eq!(concat(1, &inputs, &[2, 5]).run::<i32>(), [1, 2, 5, 1, 2, 3, 4, 6, 3, 4]);
        assert_eq!(concat(0, &[a.clone(), a], &[4, 2]).run::<i32>(), [1, 2, 3, 4, 1, 2, 3, 4]);
        let bytes = [tensor(&[1], &[1i8]).constant(), tensor(&[2], &[2i8, 3])];
        assert_eq!(concat(0, &bytes, &[3]).run::<i8>(), [1, 2, 3]);
        let many: Vec<Tensor> = (0..300i64).map(|value| tensor(&[1], &[value])).collect();
        assert_eq!(concat(0, &many, &[300]).run::<i64>(), (0..300).collect::<Vec<_>>());
    }

    #[test]
    fn hostile_steps_are_refused() {
        let a = tensor(&[2, 2], &[1i32, 2, 3, 4]);
        let refused = [
            concat(2, &[a.clone(), a.clone()], &[4, 2]),
            concat(u32::MAX, &[a.clone(), a.clone()], &[4, 2]),
            concat(0, &[a.clone(), a.clone()], &[3, 2]),
            concat(0, &[a.clone(), a.clone()], &[5, 2]),
            concat(1, &[a.clone(), tensor(&[1, 2], &[1i32, 2])], &[2, 4]),
            concat(1, &[a.clone(), tensor(&[2], &[1i32, 2])], &[2, 3]),
            concat(1, &[a.clone(), tensor(&[2, 1], &[1f32, 2.0])], &[2, 3]),
            Case::new(Op::Concat, None, AxisAttributes::default(), &[], shape(DType::I32, &[0])),
            concat(0, &[a.clone(), a.clone()], &[4, 2]).sharing(0, 0),
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.output.dims);
        }
        let mut absent = concat(0, &[a.clone(), a], &[2, 2]);
        absent.inputs[1] = None;
        assert!(absent.run_bytes().is_err());
    }
}

//! Reverses the beginning of each sequence of a batch, as far as its length says; elements of any type.

use crate::error::StepErrorKind;
use crate::format::{AxisAttributes, Op};
use crate::memory::Context;
use crate::ops::indices::{Indices, expect_indices};
use crate::ops::shape::{expect_apart, product};
use crate::ops::{Operator, Step, expect_same_shape, no_scratch};

/// Inputs: x, whose first two axes are time and batch in either order; lengths (i32 or i64). The
/// attribute names the axis of time.
pub static REVERSE_SEQUENCE: Operator = Operator {
    op: Op::ReverseSequence,
    dtype: None,
    check,
    select: |_| run,
    scratch_bytes: no_scratch,
};

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    expect_apart(step)?;
    let time = step.expect_attributes::<AxisAttributes>()?.axis as usize;
    let (x, lengths, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    if time > 1 {
        return Err(StepErrorKind::Attribute("axis"));
    }
    expect_indices(&lengths, 1)?;
    if y.dtype != x.dtype {
        return Err(StepErrorKind::OperandType(2));
    }
    expect_same_shape(&y, &x, 2)?;
    let fits = x.rank() >= 2 && lengths.rank() == 1 && lengths.dim(0) == x.dim(1 - time);
    if fits { Ok(()) } else { Err(StepErrorKind::OperandShape(1)) }
}

fn run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let time = step.attributes::<AxisAttributes>().axis as usize;
    let (x, lengths) = (step.input(0)?, step.input(1)?);
    if x.elements() == 0 {
        return Ok(());
    }
    let block = product(&x.dims()[2..]) * x.dtype.size();
    let columns = x.dim(1);
    let operands = context.operands([0, 1])?;
    let [from, length_bytes] = operands.inputs;
    let lengths = Indices::new(length_bytes, lengths.dtype, 1)?;
    for (place, to) in operands.output.chunks_exact_mut(block).enumerate() {
        let mut at = [place / columns, place % columns];
        // A length of all steps is one beyond the last index.
        let length = lengths.raw(at[1 - time])?;
        let length = usize::try_from(length).ok().filter(|length| *length <= x.dim(time));
        let length = length.ok_or(StepErrorKind::IndexOutOfRange)?;
        if at[time] < length {
            at[time] = length - 1 - at[time];
        }
        let start = (at[0] * columns + at[1]) * block;
        to.copy_from_slice(&from[start..start + block]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionError;
    use crate::ops::testing::{Case, Tensor, shape, tensor};

    fn case(axis: u32, x: Tensor, lengths: Tensor) -> Case {
        let y = shape(x.dtype, &x.dims);
        let attributes = AxisAttributes { axis, reserved: 0 };
        Case::new(Op::ReverseSequence, None, attributes, &[x, lengths], y)
    }

    #[test]
    fn reverses_as_far_as_the_length_says() {
        let x = || tensor(&[4, 3], &[0i8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        let time_first = case(0, x(), tensor(&[3], &[4i64, 2, 0])).run::<i8>();
        assert_eq!(time_first, [9, 4, 2, 6, 1, 5, 3, 7, 8, 0, 10, 11]);
        let batch_first = case(1, x(), tensor(&[4], &[1i32, 2, 3, 3])).run::<i8>();
        assert_eq!(batch_first, [0, 1, 2, 4, 3, 5, 8, 7, 6, 11, 10, 9]);
        let deep = tensor(&[2, 1, 2], &[1f32, 2.0, 3.0, 4.0]);
        assert_eq!(case(0, deep, tensor(&[1], &[2i64])).run::<f32>(), [3.0, 4.0, 1.0, 2.0]);
    }

    #[test]
    fn lengths_outside_are_an_error() {
        for length in [3i64, -1, i64::MAX] {
            let case = case(0, tensor(&[2, 1], &[1i16, 2]), tensor(&[1], &[length]));
            let error = case.run_bytes().unwrap_err();
            let kind = StepErrorKind::IndexOutOfRange;
            assert_eq!(error, SessionError::Step { step: 0, kind }, "{length}");
        }
    }

    #[test]
    fn hostile_steps_are_refused() {
        let x = || tensor(&[2, 2], &[1i8, 2, 3, 4]);
        let refused = [
            case(2, x(), tensor(&[2], &[1i64; 2])),
            case(0, x(), tensor(&[3], &[1i64; 3])),
            case(0, x(), tensor(&[2], &[1f32; 2])),
            case(0, x(), tensor(&[2, 1], &[1i64; 2])),
            case(0, tensor(&[2], &[1i8; 2]), tensor(&[2], &[1i64; 2])),
            case(0, x(), tensor(&[2], &[1i64; 2])).sharing(0, 0),
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.attributes);
        }
    }
}

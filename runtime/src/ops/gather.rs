//! Indexing along an axis, elements of any type. Indices below 0 count from the end.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{AxisAttributes, Op};
use crate::memory::{Context, typed};
use crate::ops::shape::{expect_apart, split};
use crate::ops::{Operator, Step, no_scratch};

/// Inputs: data, indices (i32 or i64). The indices' axes stand in the place of the indexed one.
pub static GATHER: Operator =
    Operator { op: Op::Gather, dtype: None, check, select: |_| run, scratch_bytes: no_scratch };

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    expect_apart(step)?;
    let axis = step.expect_attributes::<AxisAttributes>()?.axis;
    let (data, indices, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    split(&data, axis)?;
    if !matches!(indices.dtype, DType::I32 | DType::I64) {
        return Err(StepErrorKind::OperandType(1));
    }
    if y.dtype != data.dtype {
        return Err(StepErrorKind::OperandType(2));
    }
    let (before, after) = data.dims().split_at(axis as usize);
    let dims = before.iter().chain(indices.dims()).chain(&after[1..]);
    if dims.eq(y.dims()) { Ok(()) } else { Err(StepErrorKind::OperandShape(2)) }
}

fn run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let (data, indices, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    if y.elements() == 0 {
        return Ok(());
    }
    let data_split = split(&data, step.attributes::<AxisAttributes>().axis)?;
    let block = data_split.inner * data.dtype.size();
    let operands = context.operands([0, 1])?;
    let [data, index_bytes] = operands.inputs;
    let (narrow, wide): (&[i32], &[i64]) = match indices.dtype {
        DType::I32 => (typed(index_bytes, 1)?, &[]),
        _ => (&[], typed(index_bytes, 1)?),
    };
    let count = narrow.len() + wide.len();
    for (position, to) in operands.output.chunks_exact_mut(block).enumerate() {
        let (outer, at) = (position / count, position % count);
        let index =
            narrow.get(at).map(|index| i64::from(*index)).or(wide.get(at).copied()).unwrap_or(0);
        let index = if index < 0 { index + data_split.extent as i64 } else { index };
        if !(0..data_split.extent as i64).contains(&index) {
            return Err(StepErrorKind::IndexOutOfRange);
        }
        let start = (outer * data_split.extent + index as usize) * block;
        to.copy_from_slice(&data[start..start + block]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionError;
    use crate::ops::testing::{Case, Tensor, shape, tensor};

    fn case(axis: u32, data: &Tensor, indices: Tensor, y: &[u32]) -> Case {
        let attributes = AxisAttributes { axis, reserved: 0 };
        Case::new(Op::Gather, None, attributes, &[data.clone(), indices], shape(data.dtype, y))
    }

    #[test]
    fn gathers_along_any_axis() {
        let data =
            tensor(&[2, 3, 2], &[0f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        // np.take(data, indices, axis)
        let rows = case(0, &data, tensor(&[], &[-1i64]), &[3, 2]).run::<f32>();
        assert_eq!(rows, [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let middle = case(1, &data, tensor(&[1, 2], &[2i32, -3]), &[2, 1, 2, 2]).run::<f32>();
        assert_eq!(middle, [4.0, 5.0, 0.0, 1.0, 10.0, 11.0, 6.0, 7.0]);
        let last = case(2, &data, tensor(&[1], &[1i32]), &[2, 3, 1]).run::<f32>();
        assert_eq!(last, [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]);
        let bytes = tensor(&[3], &[7i8, 8, 9]);
        assert_eq!(case(0, &bytes, tensor(&[4], &[2i64, 2, 0, 1]), &[4]).run::<i8>(), [9, 9, 7, 8]);
        assert_eq!(case(0, &bytes, tensor::<i64>(&[0], &[]), &[0]).run::<i8>(), []);
    }

    #[test]
    fn indices_out_of_range_are_found_at_run() {
        let data = tensor(&[3], &[7i8, 8, 9]);
        for index in [3i64, -4, i64::MIN, i64::MAX] {
            let error = case(0, &data, tensor(&[1], &[index]), &[1]).run_bytes().unwrap_err();
            assert_eq!(error, SessionError::Step { step: 0, kind: StepErrorKind::IndexOutOfRange });
        }
        let none = tensor::<i8>(&[0], &[]);
        assert!(case(0, &none, tensor(&[1], &[0i32]), &[1]).run_bytes().is_err());
    }

    #[test]
    fn hostile_steps_are_refused() {
        let data = tensor(&[3, 2], &[7i8, 8, 9, 1, 2, 3]);
        let index = || tensor(&[1], &[0i32]);
        let refused = [
            case(2, &data, index(), &[3, 1]),
            case(u32::MAX, &data, index(), &[3, 1]),
            case(0, &data, index(), &[3, 1]),
            case(0, &data, index(), &[2]),
            case(0, &data, tensor(&[1], &[0f32]), &[1, 2]),
            case(0, &data, index(), &[1, 2]).sharing(0, 0),
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.output.dims);
        }
    }
}

//! Softmax and its logarithm along one axis, f32, i8 and i16.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Op, SoftmaxAttributes};
use crate::isa::Isa;
use crate::kernels::softmax::{self, SoftmaxI8, SoftmaxI16, SoftmaxShape, TABLE_LEN};
use crate::memory::{Context, typed, typed_mut};
#[cfg(feature = "std")]
use crate::ops::parallel::{Rates, Work};
use crate::ops::shape::{expect_apart, expect_types, split};
use crate::ops::{Operator, Step, expect_same_shape, expect_vector_at, no_scratch, select_isa};
#[cfg(feature = "std")]
use crate::threads::{Crew, Disjoint};

/// f32 softmax.
pub static SOFTMAX_F32: Operator = Operator {
    op: Op::Softmax,
    dtype: Some(DType::F32),
    check: check_f32,
    select: select_isa!(run_f32),
    scratch_bytes: no_scratch,
};

/// i8 softmax by a table of exponentials.
pub static SOFTMAX_I8: Operator = Operator {
    op: Op::Softmax,
    dtype: Some(DType::I8),
    check: |step| check_quantized(step, DType::I8, TABLE_LEN),
    select: select_isa!(run_i8),
    scratch_bytes: no_scratch,
};

/// i16 softmax by two tables of exponentials.
pub static SOFTMAX_I16: Operator = Operator {
    op: Op::Softmax,
    dtype: Some(DType::I16),
    check: |step| check_quantized(step, DType::I16, 2 * TABLE_LEN),
    select: |_| run_i16,
    scratch_bytes: no_scratch,
};

fn check(step: &Step<'_>) -> Result<SoftmaxAttributes, StepErrorKind> {
    expect_apart(step)?;
    let attributes: SoftmaxAttributes = step.expect_attributes()?;
    let (Some(x), Some(y)) = (step.optional_input(0), step.optional_output(0)) else {
        return Err(StepErrorKind::OperandCount);
    };
    split(&x, attributes.axis)?;
    expect_same_shape(&y, &x, step.input_count() as u8)?;
    Ok(attributes)
}

fn check_f32(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 1)?;
    expect_types(step, &[DType::F32], DType::F32)?;
    check(step).map(|_| ())
}

fn check_quantized(step: &Step<'_>, dtype: DType, entries: usize) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    expect_types(step, &[dtype, DType::I32], dtype)?;
    expect_vector_at(step, 1, DType::I32, entries)?;
    if check(step)?.log != 0 {
        return Err(StepErrorKind::Attribute("log"));
    }
    Ok(())
}

/// `None` when there are no elements.
fn shape(step: &Step<'_>) -> Result<Option<SoftmaxShape>, StepErrorKind> {
    let x = step.input(0)?;
    if x.elements() == 0 {
        return Ok(None);
    }
    let split = split(&x, step.attributes::<SoftmaxAttributes>().axis)?;
    Ok(Some(SoftmaxShape { outer: split.outer, extent: split.extent, inner: split.inner }))
}

/// What there is to share.
#[cfg(feature = "std")]
pub(super) fn work(step: &Step<'_>, isa: Isa) -> Option<Work> {
    let shape = shape(step).ok()??;
    let ns = (shape.outer * shape.extent * shape.inner) as f32 / Rates::FUNCTION_F32.of(isa);
    Some(Work { units: shape.outer, ns, is_by_rows: false })
}

/// Gives a crew its parts of `y`.
#[cfg(feature = "std")]
fn in_parts<T: Sync + Send>(
    mut crew: Crew<'_>,
    shape: SoftmaxShape,
    x: &[T],
    y: &mut [T],
    kernel: impl Fn(SoftmaxShape, &[T], &mut [T]) + Sync,
) -> Result<(), StepErrorKind> {
    let cut = crew.cut(shape.outer);
    let unit = shape.extent * shape.inner;
    let y = Disjoint::new(y, cut, unit);
    crew.run(cut.parts, |part, _| {
        let range = cut.range(part);
        let y = y.take(part).ok_or(StepErrorKind::TooLarge)?;
        let x = &x[range.start * unit..range.end * unit];
        kernel(SoftmaxShape { outer: range.len(), ..shape }, x, y);
        Ok(())
    })
}

fn run_f32<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let Some(shape) = shape(&context.step)? else { return Ok(()) };
    let log = context.step.attributes::<SoftmaxAttributes>().log != 0;
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands([0])?;
    let (x, y): (&[f32], _) = (typed(operands.inputs[0], 0)?, typed_mut(operands.output, 1)?);
    let kernel = |shape, x: &[f32], y: &mut [f32]| match log {
        true => softmax::log_softmax_f32(shape, x, y),
        false => softmax::select_f32(Isa::ALL[ISA])(shape, x, y),
    };
    #[cfg(feature = "std")]
    if let Some(crew) = crew {
        return in_parts(crew, shape, x, y, kernel);
    }
    kernel(shape, x, y);
    Ok(())
}

fn run_i8<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let Some(shape) = shape(&step)? else { return Ok(()) };
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands([0, 1])?;
    let [x, table] = operands.inputs;
    let to = SoftmaxI8 {
        table: typed(table, 1)?.first_chunk().ok_or(StepErrorKind::OperandShape(1))?,
        inverse_scale: step.attributes::<SoftmaxAttributes>().inverse_output_scale,
        zero_point: step.output(0)?.zero_point,
    };
    let (x, y): (&[i8], _) = (typed(x, 0)?, typed_mut(operands.output, 2)?);
    let kernel = softmax::select_i8(Isa::ALL[ISA]);
    #[cfg(feature = "std")]
    if let Some(crew) = crew {
        return in_parts(crew, shape, x, y, |shape, x, y| kernel(shape, &to, x, y));
    }
    kernel(shape, &to, x, y);
    Ok(())
}

fn run_i16(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let Some(shape) = shape(&step)? else { return Ok(()) };
    let operands = context.operands([0, 1])?;
    let [x, table] = operands.inputs;
    let tables = typed::<i32>(table, 1)?.as_chunks().0;
    let [high, low, ..] = tables else { return Err(StepErrorKind::OperandShape(1)) };
    let inverse_scale = step.attributes::<SoftmaxAttributes>().inverse_output_scale;
    let to = SoftmaxI16 { high, low, inverse_scale };
    softmax::softmax_i16(shape, &to, typed(x, 0)?, typed_mut(operands.output, 2)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, assert_close, shape, tensor};

    fn attributes(axis: u32, log: u32) -> SoftmaxAttributes {
        SoftmaxAttributes { axis, log, inverse_output_scale: 256.0, reserved: 0 }
    }

    fn run_f32(dims: &[u32], values: &[f32], axis: u32, log: u32) -> Vec<f32> {
        let y = shape(DType::F32, dims);
        Case::new(Op::Softmax, Some(DType::F32), attributes(axis, log), &[tensor(dims, values)], y)
            .run()
    }

    #[test]
    fn f32_along_either_axis() {
        // np.exp(x) / np.exp(x).sum(axis, keepdims=True), and its np.log.
        let x = [1.0, 2.0, 3.0, -1.0, 0.0, 5.0];
        let last =
            [0.090_030_57, 0.244_728_48, 0.665_240_94, 0.002_456_11, 0.006_676_41, 0.990_867_5];
        assert_close(&run_f32(&[2, 3], &x, 1, 0), &last, 1e-6);
        let first =
            [0.880_797_1, 0.880_797_1, 0.119_202_92, 0.119_202_92, 0.119_202_92, 0.880_797_1];
        assert_close(&run_f32(&[2, 3], &x, 0, 0), &first, 1e-6);
        let logs: Vec<f32> = last.iter().map(|y: &f32| y.ln()).collect();
        assert_close(&run_f32(&[2, 3], &x, 1, 1), &logs, 1e-5);
    }

    #[test]
    fn i8_through_a_session() {
        let mut table = [0i32; TABLE_LEN];
        (table[0], table[10], table[20]) = (1 << 20, 1 << 19, 1 << 18);
        let x = tensor(&[1, 4], &[-10i8, 0, 10, 10]);
        let table = tensor(&[256], &table).constant();
        let y = shape(DType::I8, &[1, 4]).quantized(1.0 / 256.0, -128);
        let got =
            Case::new(Op::Softmax, Some(DType::I8), attributes(1, 0), &[x, table], y).run::<i8>();
        // Shares 1, 2, 4, 4 of 11: 23.27, 46.55, 93.09, 93.09 of 256.
        assert_eq!(got, [-105, -81, -35, -35]);
    }

    #[test]
    fn hostile_steps_are_refused() {
        let x = tensor(&[1, 2], &[1i8, 2]);
        let table = tensor(&[256], &[1i32; 256]);
        let cases = [
            (attributes(2, 0), table.clone(), vec![1, 2]),
            (attributes(u32::MAX, 0), table.clone(), vec![1, 2]),
            (attributes(1, 1), table.clone(), vec![1, 2]),
            (attributes(1, 0), tensor(&[255], &[1i32; 255]), vec![1, 2]),
            (attributes(1, 0), tensor(&[256], &[1f32; 256]), vec![1, 2]),
            (attributes(1, 0), table, vec![2, 1]),
        ];
        for (attributes, table, y) in cases {
            let y = shape(DType::I8, &y);
            let case = Case::new(Op::Softmax, Some(DType::I8), attributes, &[x.clone(), table], y);
            assert!(case.run_bytes().is_err());
        }
        assert_eq!(run_f32(&[0, 3], &[], 0, 0), []);
        assert_eq!(run_f32(&[3, 0], &[], 0, 0), []);
    }
}

//! Two operands compared, broadcasting as NumPy does; the result is bool.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{BinaryAttributes, CompareOp, Element, Op};
use crate::memory::Context;
use crate::ops::elementwise::zip;
use crate::ops::shape::{expect_broadcast, expect_elementwise, expect_types};
use crate::ops::{Operator, RunFn, Step, no_scratch};

const fn operator(
    dtype: DType,
    check: fn(&Step<'_>) -> Result<(), StepErrorKind>,
    select: fn(crate::Isa) -> RunFn,
) -> Operator {
    Operator { op: Op::Compare, dtype: Some(dtype), check, select, scratch_bytes: no_scratch }
}

/// f32; whatever is compared with NaN is false.
pub static COMPARE_F32: Operator =
    operator(DType::F32, |step| check(step, DType::F32), |_| run::<f32>);
/// i8, the stored numbers: meant for operands of the same scale and zero point.
pub static COMPARE_I8: Operator = operator(DType::I8, |step| check(step, DType::I8), |_| run::<i8>);
/// u8, the stored numbers.
pub static COMPARE_U8: Operator = operator(DType::U8, |step| check(step, DType::U8), |_| run::<u8>);
/// i32.
pub static COMPARE_I32: Operator =
    operator(DType::I32, |step| check(step, DType::I32), |_| run::<i32>);
/// i64.
pub static COMPARE_I64: Operator =
    operator(DType::I64, |step| check(step, DType::I64), |_| run::<i64>);
/// bool: equal.
pub static COMPARE_BOOL: Operator = operator(DType::Bool, check_bool, |_| run_bool);

fn check(step: &Step<'_>, dtype: DType) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    expect_types(step, &[dtype, dtype], DType::Bool)?;
    expect_elementwise(step)?;
    CompareOp::from_number(step.expect_attributes::<BinaryAttributes>()?.kind)
        .ok_or(StepErrorKind::Attribute("kind"))?;
    let y = step.output(0)?;
    expect_broadcast(&step.input(0)?, &y, 0)?;
    expect_broadcast(&step.input(1)?, &y, 1)
}

fn check_bool(step: &Step<'_>) -> Result<(), StepErrorKind> {
    check(step, DType::Bool)?;
    let is_equal = step.attributes::<BinaryAttributes>().kind == CompareOp::Equal as u32;
    if is_equal { Ok(()) } else { Err(StepErrorKind::Attribute("kind")) }
}

fn run<T: Element + PartialOrd>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let attributes: BinaryAttributes = context.step.attributes();
    match CompareOp::from_number(attributes.kind).ok_or(StepErrorKind::Attribute("kind"))? {
        CompareOp::Equal => zip(context, |a: T, b: T| u8::from(a == b)),
        CompareOp::Less => zip(context, |a: T, b: T| u8::from(a < b)),
        CompareOp::LessOrEqual => zip(context, |a: T, b: T| u8::from(a <= b)),
        CompareOp::Greater => zip(context, |a: T, b: T| u8::from(a > b)),
        CompareOp::GreaterOrEqual => zip(context, |a: T, b: T| u8::from(a >= b)),
    }
}

fn run_bool(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    zip(context, |a: u8, b: u8| u8::from((a != 0) == (b != 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Tensor, bools, shape, tensor};

    fn case(kind: u32, a: &Tensor, b: &Tensor, y: &[u32]) -> Case {
        let attributes = BinaryAttributes { kind, ..BinaryAttributes::default() };
        let y = shape(DType::Bool, y);
        Case::new(Op::Compare, Some(a.dtype), attributes, &[a.clone(), b.clone()], y)
    }

    #[test]
    fn kinds() {
        let n = f32::NAN;
        let tables = [
            (tensor(&[4], &[1f32, 2.0, 3.0, n]), tensor(&[4], &[2f32, 2.0, 2.0, n]), false),
            (tensor(&[4], &[1i64, 2, 3, 0]), tensor(&[4], &[2i64, 2, 2, 0]), true),
            (tensor(&[4], &[1i32, 2, 3, 0]), tensor(&[4], &[2i32, 2, 2, 0]), true),
            (tensor(&[4], &[-1i8, 2, 3, 0]), tensor(&[4], &[2i8, 2, 2, 0]), true),
            (tensor(&[4], &[1u8, 200, 201, 0]), tensor(&[4], &[200u8, 200, 200, 0]), true),
        ];
        for (a, b, last) in tables {
            let last = u8::from(last);
            for (kind, want) in [
                (CompareOp::Equal, [0, 1, 0, last]),
                (CompareOp::Less, [1, 0, 0, 0]),
                (CompareOp::LessOrEqual, [1, 1, 0, last]),
                (CompareOp::Greater, [0, 0, 1, 0]),
                (CompareOp::GreaterOrEqual, [0, 1, 1, last]),
            ] {
                let got = case(kind as u32, &a, &b, &[4]).run::<u8>();
                assert_eq!(got, want, "{} {}", kind.name(), a.dtype);
            }
        }
    }

    #[test]
    fn bool_is_compared_as_truth() {
        let (a, b) = (bools(&[2, 2], &[0, 1, 2, 0]), bools(&[2], &[0, 1]));
        assert_eq!(case(1, &a, &b, &[2, 2]).run::<u8>(), [1, 1, 0, 0]);
        assert!(case(2, &a, &b, &[2, 2]).run_bytes().is_err());
    }

    #[test]
    fn hostile_steps_are_refused() {
        let (a, b) = (tensor(&[2], &[1f32, 2.0]), tensor(&[3], &[1f32, 2.0, 3.0]));
        assert!(case(0, &a, &a, &[2]).run_bytes().is_err());
        assert!(case(6, &a, &a, &[2]).run_bytes().is_err());
        assert!(case(1, &a, &b, &[2]).run_bytes().is_err());
        assert!(case(1, &a, &tensor(&[2], &[1i32, 2]), &[2]).run_bytes().is_err());
        // A bool output can't lie over f32 inputs: it would be written before they are read.
        assert!(case(1, &a, &a, &[2]).sharing(0, 0).run_bytes().is_err());
    }
}

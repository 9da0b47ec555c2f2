//! A gated linear unit behind its product: `f(x[…, i]) · x[…, n + i]`, the last axis being gates, then values.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{GatedAttributes, Op, UnaryOp};
use crate::isa::Isa;
use crate::kernels::elementary::{self, Function};
use crate::memory::{Context, typed, typed_mut};
#[cfg(feature = "std")]
use crate::ops::parallel::{Rates, Work};
use crate::ops::shape::{expect_apart, expect_types};
use crate::ops::{Operator, Step, no_scratch, select_isa};
#[cfg(feature = "std")]
use crate::threads::Disjoint;

/// f32.
pub static GATED_F32: Operator = Operator {
    op: Op::Gated,
    dtype: Some(DType::F32),
    check,
    select: select_isa!(run),
    scratch_bytes: no_scratch,
};

/// The function of a kind; `None` is relu.
fn function(kind: u32) -> Result<Option<Function>, StepErrorKind> {
    Ok(match UnaryOp::from_number(kind) {
        Some(UnaryOp::Relu) => None,
        Some(UnaryOp::Sigmoid) => Some(Function::Sigmoid),
        Some(UnaryOp::Silu) => Some(Function::Silu),
        Some(UnaryOp::Gelu) => Some(Function::Gelu),
        Some(UnaryOp::GeluTanh) => Some(Function::GeluTanh),
        _ => return Err(StepErrorKind::Attribute("kind")),
    })
}

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 1)?;
    expect_types(step, &[DType::F32], DType::F32)?;
    expect_apart(step)?;
    function(step.expect_attributes::<GatedAttributes>()?.kind)?;
    let (x, y) = (step.input(0)?, step.output(0)?);
    let (Some((wide, before)), Some((narrow, before_y))) =
        (x.dims().split_last(), y.dims().split_last())
    else {
        return Err(StepErrorKind::OperandShape(0));
    };
    if u64::from(*wide) != 2 * u64::from(*narrow) || before != before_y {
        return Err(StepErrorKind::OperandShape(1));
    }
    Ok(())
}

fn run<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let function = function(context.step.attributes::<GatedAttributes>().kind)?;
    let n = context.step.output(0)?.dims().last().map_or(0, |n| *n as usize);
    if context.step.output(0)?.elements() == 0 {
        return Ok(());
    }
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands([0])?;
    let x: &[f32] = typed(operands.inputs[0], 0)?;
    let y: &mut [f32] = typed_mut(operands.output, 1)?;
    let apply = elementary::select(Isa::ALL[ISA]);
    let rows = |first: usize, y: &mut [f32]| {
        for (row, y) in y.chunks_exact_mut(n).enumerate() {
            let (gates, values) = x[(first + row) * 2 * n..][..2 * n].split_at(n);
            y.copy_from_slice(gates);
            match function {
                Some(function) => apply(function, y),
                None => y.iter_mut().for_each(|y| *y = if *y < 0.0 { 0.0 } else { *y }),
            }
            y.iter_mut().zip(values).for_each(|(y, value)| *y *= value);
        }
    };
    #[cfg(feature = "std")]
    if let Some(mut crew) = crew {
        let cut = crew.cut(y.len() / n);
        let y = Disjoint::new(y, cut, n);
        return crew.run(cut.parts, |part, _| {
            rows(cut.range(part).start, y.take(part).ok_or(StepErrorKind::TooLarge)?);
            Ok(())
        });
    }
    rows(0, y);
    Ok(())
}

/// What there is to share.
#[cfg(feature = "std")]
pub(super) fn work(step: &Step<'_>, isa: Isa) -> Option<Work> {
    let y = step.output(0).ok()?;
    let n = *y.dims().last()? as usize;
    let ns = y.elements() as f32 / Rates::FUNCTION_F32.of(isa);
    Some(Work { units: y.elements().checked_div(n)?, ns, is_by_rows: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Random, assert_close, shape, tensor};

    fn case(kind: u32, x: &[u32], values: &[f32], y: &[u32]) -> Case {
        let attributes = GatedAttributes { kind, reserved: 0 };
        let x = tensor(x, values);
        Case::new(Op::Gated, Some(DType::F32), attributes, &[x], shape(DType::F32, y))
    }

    #[test]
    fn gates_times_values() {
        type Formula = fn(f64) -> f64;
        let kinds: [(UnaryOp, Formula); 4] = [
            (UnaryOp::Relu, |x| x.max(0.0)),
            (UnaryOp::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
            (UnaryOp::Silu, |x| x / (1.0 + (-x).exp())),
            (UnaryOp::GeluTanh, |x| {
                x / 2.0
                    * (1.0
                        + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }),
        ];
        let mut random = Random(8);
        for n in [1, 7, 33] {
            let values = random.f32s(3 * 2 * n);
            for (kind, formula) in kinds {
                let want: Vec<f32> = values
                    .chunks(2 * n)
                    .flat_map(|row| {
                        let (gates, values) = row.split_at(n);
                        let product = |(g, v): (&f32, &f32)| formula(f64::from(*g)) * f64::from(*v);
                        gates.iter().zip(values).map(move |pair| product(pair) as f32)
                    })
                    .collect();
                let case = case(kind as u32, &[3, 2 * n as u32], &values, &[3, n as u32]);
                assert_close(&case.run::<f32>(), &want, 1e-5);
            }
        }
    }

    #[test]
    fn hostile_steps_are_refused() {
        let silu = UnaryOp::Silu as u32;
        let refused = [
            case(UnaryOp::Exp as u32, &[2, 4], &[0.0; 8], &[2, 2]),
            case(999, &[2, 4], &[0.0; 8], &[2, 2]),
            case(silu, &[2, 4], &[0.0; 8], &[2, 4]),
            case(silu, &[2, 3], &[0.0; 6], &[2, 1]),
            case(silu, &[2, 4], &[0.0; 8], &[4, 2]),
            case(silu, &[], &[0.0; 1], &[]),
            case(silu, &[2, 4], &[0.0; 8], &[2, 2]).sharing(0, 0),
        ];
        for (index, case) in refused.iter().enumerate() {
            assert!(case.run_bytes().is_err(), "{index}");
        }
    }
}

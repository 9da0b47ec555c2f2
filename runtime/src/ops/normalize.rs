//! Normalisation over the trailing axes; [`normalize_f32`](crate::kernels::normalize_f32) has the formulas.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{NormalizeAttributes, Op};
use crate::isa::Isa;
use crate::kernels::normalize_f32::{self, NormalizeF32};
use crate::memory::{Context, Slot, typed, typed_mut};
#[cfg(feature = "std")]
use crate::ops::parallel::{Rates, Work};
use crate::ops::shape::{expect_apart, expect_types, product};
use crate::ops::{Operator, Step, expect_same_shape, no_scratch, select_isa};
#[cfg(feature = "std")]
use crate::threads::Disjoint;

/// f32.
pub static NORMALIZE_F32: Operator = Operator {
    op: Op::Normalize,
    dtype: Some(DType::F32),
    check,
    select: select_isa!(run),
    scratch_bytes: no_scratch,
};

const LAYER: u32 = 1;
const RMS: u32 = 2;

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 3)?;
    expect_types(step, &[DType::F32], DType::F32)?;
    expect_apart(step)?;
    let attributes: NormalizeAttributes = step.expect_attributes()?;
    if !matches!(attributes.kind, LAYER | RMS) {
        return Err(StepErrorKind::Attribute("kind"));
    }
    let x = step.input(0)?;
    let axis = attributes.axis as usize;
    if axis > x.rank() {
        return Err(StepErrorKind::Attribute("axis"));
    }
    expect_same_shape(&step.output(0)?, &x, step.input_count() as u8)?;
    for index in 1..3 {
        let Some(factor) = step.optional_input(index) else { continue };
        if factor.dtype != DType::F32 {
            return Err(StepErrorKind::OperandType(index as u8));
        }
        if factor.dims() != &x.dims()[axis..] {
            return Err(StepErrorKind::OperandShape(index as u8));
        }
    }
    Ok(())
}

/// Elements of the normalised axes.
fn row_elements(x: &Slot, axis: u32) -> usize {
    product(&x.dims()[(axis as usize).min(x.rank())..])
}

fn run<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let attributes: NormalizeAttributes = context.step.attributes();
    let x = context.step.input(0)?;
    if x.elements() == 0 {
        return Ok(());
    }
    let n = row_elements(&x, attributes.axis);
    let operand = context.step.input_count() as u8;
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands([0, 1, 2])?;
    let [x, scale, bias] = operands.inputs;
    let (x, scale, bias): (&[f32], &[f32], &[f32]) =
        (typed(x, 0)?, typed(scale, 1)?, typed(bias, 2)?);
    let y: &mut [f32] = typed_mut(operands.output, operand)?;
    let by = NormalizeF32 {
        row: n,
        centred: attributes.kind == LAYER,
        epsilon: attributes.epsilon,
        scale,
        bias,
    };
    let kernel = normalize_f32::select(Isa::ALL[ISA]);
    #[cfg(feature = "std")]
    if let Some(mut crew) = crew {
        let cut = crew.cut(y.len() / n);
        let y = Disjoint::new(y, cut, n);
        return crew.run(cut.parts, |part, _| {
            let y = y.take(part).ok_or(StepErrorKind::TooLarge)?;
            kernel(&by, &x[cut.range(part).start * n..], y);
            Ok(())
        });
    }
    kernel(&by, x, y);
    Ok(())
}

/// What there is to share.
#[cfg(feature = "std")]
pub(super) fn work(step: &Step<'_>, isa: Isa) -> Option<Work> {
    let x = step.input(0).ok()?;
    let n = row_elements(&x, step.attributes::<NormalizeAttributes>().axis);
    // Three passes.
    let ns = 3.0 * x.elements() as f32 / Rates::ELEMENTS.of(isa);
    Some(Work { units: x.elements().checked_div(n)?, ns, is_by_rows: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Random, Tensor, assert_close, shape, tensor};

    fn attributes(kind: u32, axis: u32) -> NormalizeAttributes {
        NormalizeAttributes { kind, axis, epsilon: 1e-5, reserved: 0 }
    }

    fn case(a: NormalizeAttributes, x: Tensor, factors: &[Tensor]) -> Case {
        let y = shape(DType::F32, &x.dims);
        let inputs = [&[x], factors].concat();
        Case::new(Op::Normalize, Some(DType::F32), a, &inputs, y)
    }

    #[test]
    fn equals_the_formula_in_f64() {
        let mut random = Random(3);
        for (dims, axis) in [
            (vec![2u32, 3, 5], 2u32),
            (vec![2, 3, 40], 1),
            (vec![4, 17], 1),
            (vec![3, 4], 0),
            (vec![1], 0),
            (vec![2, 2], 2),
        ] {
            let n: usize = dims[axis as usize..].iter().product::<u32>() as usize;
            let total: usize = dims.iter().product::<u32>() as usize;
            let x = random.f32s(total);
            let (scale, bias) = (random.f32s(n), random.f32s(n));
            for kind in [LAYER, RMS] {
                let mut want = vec![];
                for row in x.chunks_exact(n) {
                    let mean = match kind {
                        LAYER => row.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64,
                        _ => 0.0,
                    };
                    let square =
                        row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n as f64;
                    for (i, x) in row.iter().enumerate() {
                        let y = (f64::from(*x) - mean) / (square + 1e-5).sqrt();
                        want.push((y * f64::from(scale[i]) + f64::from(bias[i])) as f32);
                    }
                }
                let of = &dims[axis as usize..];
                let factors = [tensor(of, &scale), tensor(of, &bias)];
                let got = case(attributes(kind, axis), tensor(&dims, &x), &factors).run::<f32>();
                assert_close(&got, &want, 2e-5);
                // Without a bias.
                for (at, want) in want.iter_mut().enumerate() {
                    *want -= bias[at % n];
                }
                let got =
                    case(attributes(kind, axis), tensor(&dims, &x), &factors[..1]).run::<f32>();
                assert_close(&got, &want, 2e-5);
            }
        }
    }

    #[test]
    fn hostile_steps_are_refused() {
        let x = tensor(&[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let three = tensor(&[3], &[1.0f32; 3]);
        let good = attributes(LAYER, 1);
        assert!(case(good, x.clone(), core::slice::from_ref(&three)).run_bytes().is_ok());
        assert!(
            case(good, shape(DType::F32, &[0, 3]), core::slice::from_ref(&three))
                .run_bytes()
                .is_ok()
        );
        assert!(case(good, shape(DType::F32, &[3, 0]), &[]).run_bytes().is_ok());
        for (a, factors) in [
            (attributes(0, 1), vec![]),
            (attributes(3, 1), vec![]),
            (attributes(LAYER, 3), vec![]),
            (attributes(LAYER, u32::MAX), vec![]),
            (attributes(LAYER, 0), vec![three.clone()]),
            (good, vec![tensor(&[2], &[1.0f32; 2])]),
            (good, vec![tensor(&[3], &[1i32; 3])]),
            (good, vec![three.clone(), three.clone(), three]),
        ] {
            assert!(case(a, x.clone(), &factors).run_bytes().is_err(), "{a:?}");
        }
    }
}

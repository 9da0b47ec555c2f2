//! Change of element type, from any type to any.
//!
//! Float to integer rounds toward zero and saturates, NaN gives 0. Integer to integer wraps. To
//! bool is `!= 0`, from bool 0 or 1. To f16 and bf16 rounds once, ties to even (integers beyond 2⁵³
//! are first rounded to f64). Scales and zero points play no part.

use half::{bf16, f16};

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Element, Op};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::shape::expect_apart;
use crate::ops::{Operator, Step, expect_same_shape, no_scratch};

/// The types are those of input and output.
pub static CAST: Operator =
    Operator { op: Op::Cast, dtype: None, check, select: |_| run, scratch_bytes: no_scratch };

/// Elements converted at a time: every type goes through f64 or i64, which hold it exactly.
const BLOCK: usize = 64;

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 1)?;
    expect_apart(step)?;
    expect_same_shape(&step.output(0)?, &step.input(0)?, 1)
}

fn run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let (from, to) = (context.step.input(0)?.dtype, context.step.output(0)?.dtype);
    let operands = context.operands([0])?;
    let (x, y) = (operands.inputs[0], operands.output);
    let blocks = x.chunks(BLOCK * from.size()).zip(y.chunks_mut(BLOCK * to.size()));
    for (x, y) in blocks {
        let count = x.len() / from.size();
        if from.is_float() {
            let mut block = [0f64; BLOCK];
            match from {
                DType::F16 => load(x, &mut block, |x: f16| x.to_f64())?,
                DType::BF16 => load(x, &mut block, |x: bf16| x.to_f64())?,
                _ => load(x, &mut block, |x: f32| f64::from(x))?,
            }
            store_float(&block[..count], y, to)?;
        } else {
            let mut block = [0i64; BLOCK];
            match from {
                DType::I8 => load(x, &mut block, |x: i8| i64::from(x))?,
                DType::I16 => load(x, &mut block, |x: i16| i64::from(x))?,
                DType::I32 => load(x, &mut block, |x: i32| i64::from(x))?,
                DType::I64 => load(x, &mut block, |x: i64| x)?,
                DType::Bool => load(x, &mut block, |x: u8| i64::from(x != 0))?,
                _ => load(x, &mut block, |x: u8| i64::from(x))?,
            }
            store_integer(&block[..count], y, to)?;
        }
    }
    Ok(())
}

fn load<T: Element, W>(
    x: &[u8],
    block: &mut [W],
    widen: impl Fn(T) -> W,
) -> Result<(), StepErrorKind> {
    for (to, from) in block.iter_mut().zip(typed::<T>(x, 0)?) {
        *to = widen(*from);
    }
    Ok(())
}

fn store<T: Element, W: Copy>(
    block: &[W],
    y: &mut [u8],
    narrow: impl Fn(W) -> T,
) -> Result<(), StepErrorKind> {
    for (to, from) in typed_mut::<T>(y, 1)?.iter_mut().zip(block) {
        *to = narrow(*from);
    }
    Ok(())
}

fn store_float(block: &[f64], y: &mut [u8], to: DType) -> Result<(), StepErrorKind> {
    match to {
        DType::F32 => store(block, y, |x| x as f32),
        // Every float type lies within f32.
        DType::F16 => store(block, y, |x| f16::from_f32(x as f32)),
        DType::BF16 => store(block, y, |x| bf16::from_f32(x as f32)),
        DType::I8 => store(block, y, |x| x as i8),
        DType::U8 => store(block, y, |x| x as u8),
        DType::I16 => store(block, y, |x| x as i16),
        DType::I32 => store(block, y, |x| x as i32),
        DType::I64 => store(block, y, |x| x as i64),
        DType::Bool => store(block, y, |x| u8::from(x != 0.0)),
    }
}

/// A whole number as f32, with the last bit set where it isn't exact, so that rounding it further rounds once.
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    let is_beyond = libm::fabs(f64::from(near)) > libm::fabs(x);
    let towards_zero = if is_beyond { near.to_bits() - 1 } else { near.to_bits() };
    f32::from_bits(towards_zero | u32::from(f64::from(near) != x))
}

fn store_integer(block: &[i64], y: &mut [u8], to: DType) -> Result<(), StepErrorKind> {
    match to {
        DType::F32 => store(block, y, |x| x as f32),
        DType::F16 => store(block, y, |x| f16::from_f64(x as f64)),
        DType::BF16 => store(block, y, |x| bf16::from_f32(to_odd(x as f64))),
        DType::I8 => store(block, y, |x| x as i8),
        DType::U8 => store(block, y, |x| x as u8),
        DType::I16 => store(block, y, |x| x as i16),
        DType::I32 => store(block, y, |x| x as i32),
        DType::I64 => store(block, y, |x| x),
        DType::Bool => store(block, y, |x| u8::from(x != 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Tensor, bools, shape, tensor};

    fn cast(x: Tensor, to: DType) -> Case {
        let y = shape(to, &x.dims.clone());
        Case::new(Op::Cast, None, [0u8; 0], &[x], y)
    }

    #[test]
    fn floats() {
        let x =
            || tensor(&[8], &[1.9f32, -1.9, 300.0, -300.0, f32::NAN, f32::INFINITY, -1e20, 0.1]);
        assert_eq!(cast(x(), DType::I8).run::<i8>(), [1, -1, 127, -128, 0, 127, -128, 0]);
        assert_eq!(cast(x(), DType::U8).run::<u8>(), [1, 0, 255, 0, 0, 255, 0, 0]);
        let wide = [1, -1, 300, -300, 0, i64::MAX, i64::MIN, 0];
        assert_eq!(cast(x(), DType::I64).run::<i64>(), wide);
        assert_eq!(cast(x(), DType::Bool).run::<u8>(), [1; 8]);
        assert_eq!(cast(tensor(&[2], &[0f32, -0.0]), DType::Bool).run::<u8>(), [0, 0]);
        // 2049 and 2051 lie between two f16: ties go to even.
        let halves = cast(tensor(&[3], &[2049f32, 2051.0, 1e6]), DType::F16).run::<f16>();
        assert_eq!(halves.map_to_f32(), [2048.0, 2052.0, f32::INFINITY]);
        let brain = cast(tensor(&[2], &[257f32, 259.0]), DType::BF16).run::<bf16>();
        assert_eq!(brain.iter().map(|x| x.to_f32()).collect::<Vec<_>>(), [256.0, 260.0]);
        // A little more than half way.
        let more = [1.0 + 1.0 / 256.0 + f32::EPSILON, -1.0 - 1.0 / 256.0 - f32::EPSILON];
        let brain = cast(tensor(&[2], &more), DType::BF16).run::<bf16>();
        let brain: Vec<f32> = brain.iter().map(|x| x.to_f32()).collect();
        assert_eq!(brain, [1.007_812_5, -1.007_812_5]);
        let back = cast(tensor(&[2], &[f16::from_f32(0.5), f16::from_f32(-7.75)]), DType::I32)
            .run::<i32>();
        assert_eq!(back, [0, -7]);
    }

    trait MapToF32 {
        fn map_to_f32(&self) -> Vec<f32>;
    }

    impl MapToF32 for Vec<f16> {
        fn map_to_f32(&self) -> Vec<f32> {
            self.iter().map(|x| x.to_f32()).collect()
        }
    }

    #[test]
    fn integers() {
        let x = || tensor(&[4], &[300i64, -1, i64::MAX, 16_777_217]);
        assert_eq!(cast(x(), DType::I8).run::<i8>(), [44, -1, -1, 1]);
        assert_eq!(cast(x(), DType::U8).run::<u8>(), [44, 255, 255, 1]);
        assert_eq!(cast(x(), DType::I32).run::<i32>(), [300, -1, -1, 16_777_217]);
        assert_eq!(cast(x(), DType::F32).run::<f32>(), [300.0, -1.0, 9.223_372e18, 16_777_216.0]);
        let half_way = (1i64 << 40) + (1 << 32);
        let brain = cast(tensor(&[3], &[half_way, half_way + 1, -half_way - 1]), DType::BF16);
        let brain: Vec<f32> = brain.run::<bf16>().iter().map(|x| x.to_f32()).collect();
        let (below, above) = ((1i64 << 40) as f32, ((1i64 << 40) + (1 << 33)) as f32);
        assert_eq!(brain, [below, above, -above]);
        assert_eq!(cast(tensor(&[2], &[200u8, 0]), DType::I16).run::<i16>(), [200, 0]);
        assert_eq!(cast(bools(&[3], &[0, 1, 9]), DType::F32).run::<f32>(), [0.0, 1.0, 1.0]);
        assert_eq!(cast(bools(&[3], &[0, 1, 9]), DType::Bool).run::<u8>(), [0, 1, 1]);
    }

    #[test]
    fn every_pair_of_types_and_more_than_a_block() {
        for from in DType::ALL {
            let ones: Vec<f32> = (0..130).map(|index| (index % 2) as f32).collect();
            let x = cast(tensor(&[130], &ones), from).run_bytes().unwrap();
            for to in DType::ALL {
                let x = Tensor { bytes: x.clone(), ..shape(from, &[130]) };
                let y = Tensor { bytes: cast(x, to).run_bytes().unwrap(), ..shape(to, &[130]) };
                assert_eq!(cast(y, DType::F32).run::<f32>(), ones, "{from} {to}");
            }
        }
    }

    #[test]
    fn hostile_steps_are_refused() {
        let mut case = cast(tensor(&[2], &[1f32, 2.0]), DType::I32);
        case.output.dims = vec![3];
        assert!(case.run_bytes().is_err());
        assert!(cast(tensor(&[2], &[1f32, 2.0]), DType::I32).sharing(0, 0).run_bytes().is_err());
        assert_eq!(cast(tensor::<f32>(&[0], &[]), DType::I8).run::<i8>(), []);
    }
}

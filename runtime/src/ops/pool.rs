//! Pooling: maximum and average over windows of NHWC activations, f32 and i8.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Element, Op, PoolAttributes};
use crate::isa::Isa;
use crate::kernels::ConvGeometry;
use crate::kernels::pool::{self, PoolGeometry, PoolI8};
use crate::kernels::requantize::Quantized;
use crate::memory::{Context, typed, typed_mut};
use crate::ops::conv::window_geometry;
#[cfg(feature = "std")]
use crate::ops::conv_parts;
#[cfg(feature = "std")]
use crate::ops::parallel::{Rates, Work};
use crate::ops::shape::{expect_apart, expect_types};
use crate::ops::{Operator, Step, by_ref, expect_clamp_of, no_scratch, select_isa};

const MAX: u32 = 1;
const AVERAGE: u32 = 2;
/// i8 only: the average of stored numbers, ties away from zero.
const AVERAGE_STORED: u32 = 3;

/// f32 pooling.
pub static POOL_F32: Operator = Operator {
    op: Op::Pool2d,
    dtype: Some(DType::F32),
    check: |step| check(step, by_ref(&Layer::of(step))?, DType::F32),
    select: select_isa!(run_f32),
    scratch_bytes: no_scratch,
};

/// i8 pooling.
pub static POOL_I8: Operator = Operator {
    op: Op::Pool2d,
    dtype: Some(DType::I8),
    check: |step| check_quantized::<i8>(step, DType::I8),
    select: select_isa!(run_i8),
    scratch_bytes: no_scratch,
};

/// i16 pooling.
pub static POOL_I16: Operator = Operator {
    op: Op::Pool2d,
    dtype: Some(DType::I16),
    check: |step| check_quantized::<i16>(step, DType::I16),
    select: |_| run_i16,
    scratch_bytes: no_scratch,
};

/// What every kernel needs to know of a step, read once.
struct Layer {
    kind: u32,
    geometry: PoolGeometry,
    /// Where a quantized result goes.
    to: PoolI8,
}

impl Layer {
    #[inline(never)]
    fn of(step: &Step<'_>) -> Result<Layer, StepErrorKind> {
        let (Some(x), Some(y)) = (step.optional_input(0), step.optional_output(0)) else {
            return Err(StepErrorKind::OperandCount);
        };
        let attributes: PoolAttributes = step.expect_attributes()?;
        let PoolAttributes { kernel, stride, dilation, pad, .. } = attributes;
        // Channels don't mix: each is a group of its own.
        let windows = window_geometry(&x, &y, 1, &[kernel, stride, dilation, pad], y.dim(3))?;
        if !windows.is_depthwise() {
            return Err(StepErrorKind::OperandShape(1));
        }
        Ok(Layer {
            kind: attributes.kind,
            geometry: PoolGeometry {
                windows,
                pad_after: attributes.pad_after.map(usize::from),
                count_include_pad: attributes.count_include_pad == 1,
            },
            to: PoolI8 {
                input_zero_point: x.zero_point,
                zero_point: y.zero_point,
                scale: attributes.scale,
                min: attributes.clamp_q[0],
                max: attributes.clamp_q[1],
            },
        })
    }
}

fn check(step: &Step<'_>, layer: &Layer, dtype: DType) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 1)?;
    expect_types(step, &[dtype], dtype)?;
    expect_apart(step)?;
    match layer.kind {
        MAX | AVERAGE => Ok(()),
        AVERAGE_STORED if dtype == DType::I8 => Ok(()),
        _ => Err(StepErrorKind::Attribute("kind")),
    }
}

fn check_quantized<T: Quantized>(step: &Step<'_>, dtype: DType) -> Result<(), StepErrorKind> {
    let layer = Layer::of(step);
    let layer = by_ref(&layer)?;
    check(step, layer, dtype)?;
    let Layer { geometry, to, .. } = layer;
    expect_clamp_of::<T>([to.min, to.max])?;
    // Largest sum of a window.
    let ConvGeometry { in_h, in_w, kernel_h, kernel_w, .. } = geometry.windows;
    let taps = kernel_h.min(in_h) as u64 * kernel_w.min(in_w) as u64;
    let step_size = u64::from(to.input_zero_point.unsigned_abs() + T::LOWEST.unsigned_abs());
    if taps.saturating_mul(step_size) > i32::MAX as u64 {
        return Err(StepErrorKind::TooLarge);
    }
    Ok(())
}

/// Calls `kernel` with the input and the output, or on several threads with parts of them.
#[inline(always)]
fn in_parts<T: Element>(
    context: &mut Context<'_>,
    geometry: &PoolGeometry,
    kernel: impl Fn(&PoolGeometry, &[T], &mut [T]) + Sync,
) -> Result<(), StepErrorKind> {
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands([0])?;
    let (x, y): (&[T], &mut [T]) = (typed(operands.inputs[0], 0)?, typed_mut(operands.output, 1)?);
    #[cfg(feature = "std")]
    if let Some(crew) = crew {
        return conv_parts::run_windows(crew, &geometry.windows, x, y, |piece, x, y| {
            kernel(&PoolGeometry { windows: piece.geometry, ..*geometry }, x, y);
            Ok(())
        });
    }
    kernel(geometry, x, y);
    Ok(())
}

/// What there is to share.
#[cfg(feature = "std")]
pub(super) fn work(step: &Step<'_>, rates: Rates, isa: Isa) -> Option<Work> {
    let g = Layer::of(step).ok()?.geometry.windows;
    let taps = g.out_pixels() as f32 * g.out_c as f32 * (g.kernel_h * g.kernel_w) as f32;
    let units = conv_parts::window_units(&g)?;
    Some(Work { units, ns: taps / rates.of(isa), is_by_rows: false })
}

fn run_f32<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let layer = Layer::of(&context.step);
    let Layer { kind, geometry, .. } = by_ref(&layer)?;
    let kernel = match *kind {
        MAX => pool::select_max_f32(Isa::ALL[ISA]),
        _ => pool::select_average_f32(Isa::ALL[ISA]),
    };
    in_parts(context, geometry, kernel)
}

fn run_i16(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let layer = Layer::of(&context.step);
    let Layer { kind, geometry, to } = by_ref(&layer)?;
    let kernel = match *kind {
        MAX => pool::max_quantized::<i16>,
        _ => pool::average_i16,
    };
    in_parts(context, geometry, |geometry, x, y| kernel(geometry, to, x, y))
}

fn run_i8<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let layer = Layer::of(&context.step);
    let Layer { kind, geometry, to } = by_ref(&layer)?;
    let isa = Isa::ALL[ISA];
    let kernel = match *kind {
        MAX => pool::select_max_i8(isa),
        AVERAGE_STORED => pool::select_average_stored_i8(isa),
        _ => pool::select_average_i8(isa),
    };
    in_parts(context, geometry, |geometry, x, y| kernel(geometry, to, x, y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionError;
    use crate::ops::testing::{Case, Tensor, assert_close, shape, tensor};

    fn average_2x2() -> PoolAttributes {
        PoolAttributes {
            kind: AVERAGE,
            kernel: [2, 2],
            stride: [1, 1],
            dilation: [1, 1],
            scale: 1.0,
            clamp_q: [-128, 127],
            ..PoolAttributes::default()
        }
    }

    fn case(dtype: DType, attributes: PoolAttributes, x: Tensor, y: &[u32]) -> Case {
        let y = shape(dtype, y).quantized(1.0, x.zero_point);
        Case::new(Op::Pool2d, Some(dtype), attributes, &[x], y)
    }

    #[test]
    fn average_and_maximum() {
        let x = tensor(&[1, 2, 3, 1], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let y = case(DType::F32, average_2x2(), x.clone(), &[1, 1, 2, 1]).run::<f32>();
        assert_close(&y, &[3.0, 4.0], 0.0);
        let max = PoolAttributes { kind: MAX, pad: [1, 1], ..average_2x2() };
        let y = case(DType::F32, max, x, &[1, 1, 3, 1]).run::<f32>();
        assert_close(&y, &[1.0, 2.0, 3.0], 0.0);
    }

    #[test]
    fn quantized_average_ties_to_even() {
        // Sums from the zero point: 10 and 18; over 4: 2.5 -> 2, 4.5 -> 4.
        let x = tensor(&[1, 2, 2, 2], &[11i8, 11, 11, 11, 14, 16, 14, 20]).quantized(0.5, 10);
        let y = case(DType::I8, average_2x2(), x, &[1, 1, 1, 2]).run::<i8>();
        assert_eq!(y, [12, 14]);
    }

    #[test]
    fn averages_of_stored_numbers_go_away_from_zero() {
        // The zero point has no part in it: 10 / 4, -10 / 4, 11 / 4, -11 / 4, bounds.
        let x = [[1i8, -1, 2, -2, 127, -128], [2, -2, 2, -2, 127, -128]];
        let x = [x[0], x[1], [3, -3, 3, -3, 127, -128], [4, -4, 4, -4, 127, -128]].concat();
        let x = tensor(&[1, 2, 2, 6], &x).quantized(0.5, 10);
        let stored = PoolAttributes { kind: AVERAGE_STORED, clamp_q: [-100, 90], ..average_2x2() };
        let y = case(DType::I8, stored, x.clone(), &[1, 1, 1, 6]).run::<i8>();
        assert_eq!(y, [3, -3, 3, -3, 90, -100]);
        // Corners of the padding count only what is inside, unless told otherwise.
        let padded = PoolAttributes { pad: [1, 1], pad_after: [1, 1], ..stored };
        let y = case(DType::I8, padded, x.clone(), &[1, 3, 3, 6]).run::<i8>();
        assert_eq!(y[..6], [1, -1, 2, -2, 90, -100]);
        let counted = PoolAttributes { count_include_pad: 1, ..padded };
        let y = case(DType::I8, counted, x, &[1, 3, 3, 6]).run::<i8>();
        assert_eq!(y[..6], [0, 0, 1, -1, 32, -32]);
        let floats = tensor(&[1, 2, 2, 1], &[1f32, 2.0, 3.0, 4.0]);
        assert!(case(DType::F32, stored, floats, &[1, 1, 1, 1]).run_bytes().is_err());
        let wide = tensor(&[1, 2, 2, 1], &[1i16, 2, 3, 4]);
        assert!(case(DType::I16, stored, wide, &[1, 1, 1, 1]).run_bytes().is_err());
    }

    #[test]
    fn hostile_attributes_are_refused() {
        let good = average_2x2();
        let hostile = [
            PoolAttributes { kind: 4, ..good },
            PoolAttributes { kernel: [0, 2], ..good },
            PoolAttributes { stride: [1, 0], ..good },
            PoolAttributes { dilation: [0, 1], ..good },
            PoolAttributes { kernel: [9, 1], dilation: [u16::MAX; 2], ..good },
            PoolAttributes { clamp_q: [-129, 127], ..good },
            PoolAttributes { clamp_q: [-128, i32::MAX], ..good },
        ];
        for attributes in hostile {
            let x = tensor(&[1, 2, 2, 1], &[1i8, 2, 3, 4]).quantized(0.5, 10);
            let result = case(DType::I8, attributes, x, &[1, 1, 1, 1]).run_bytes();
            assert!(matches!(result, Err(SessionError::Step { .. })), "{attributes:?}: {result:?}");
        }
        for (input, output) in [
            (&[1, 2, 2, 1], &[1, 1, 1, 2]),
            (&[1, 2, 2, 1], &[2, 1, 1, 1]),
            (&[1, 2, 2, 1], &[1, 0, 1, 1]),
            (&[1, 2, 2, 1], &[1, 1, 1 << 20, 1]),
        ] {
            let x = tensor(input, &[1i8, 2, 3, 4]).quantized(0.5, 10);
            assert!(case(DType::I8, good, x, output).run_bytes().is_err(), "{output:?}");
        }
        let x = tensor(&[2, 2, 1], &[1i8, 2, 3, 4]);
        assert!(case(DType::I8, good, x, &[1, 1, 1]).run_bytes().is_err());
    }

    #[test]
    fn huge_windows_and_strange_numbers_run() {
        let huge = u16::MAX;
        for scale in [f32::NAN, f32::INFINITY, -1.0, 0.0] {
            for kind in [MAX, AVERAGE, AVERAGE_STORED] {
                let attributes = PoolAttributes {
                    kind,
                    kernel: [huge; 2],
                    stride: [huge; 2],
                    dilation: [2; 2],
                    pad: [huge; 2],
                    pad_after: [huge; 2],
                    count_include_pad: 1,
                    scale,
                    clamp_q: [127, -128],
                };
                let x = tensor(&[1, 2, 2, 1], &[1i8, 2, 3, 4]).quantized(0.5, -128);
                case(DType::I8, attributes, x, &[1, 2, 2, 1]).run_bytes().unwrap();
                let x = tensor(&[1, 2, 2, 1], &[1f32, 2.0, 3.0, 4.0]);
                let floats = case(DType::F32, attributes, x, &[1, 2, 2, 1]).run_bytes();
                assert_eq!(floats.is_ok(), kind != AVERAGE_STORED);
            }
        }
    }
}

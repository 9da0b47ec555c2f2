//! One operand, elementwise. The output may lie exactly over the input.
//!
//! f32 functions are those of [`elementary`], or come from `libm`; both are within a few units in the last
//! place and, written in plain arithmetic, give the same bits on every platform.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{NarrowFloat, Op, UnaryAttributes, UnaryOp};
use crate::isa::Isa;
use crate::kernels::elementary::{self, Function, clip};
use crate::kernels::requantize::round_clamp;
use crate::memory::Context;
use crate::ops::elementwise::{map, map_blocks};
use crate::ops::shape::{expect_elementwise, expect_types};
use crate::ops::{Operator, Step, expect_same_shape, no_scratch, select_isa};

/// f32, every kind but not and bit_not.
pub static UNARY_F32: Operator = Operator {
    op: Op::Unary,
    dtype: Some(DType::F32),
    check: check_f32,
    select: select_isa!(run_f32),
    scratch_bytes: no_scratch,
};

/// Quantized i16: clip of the stored numbers, and leaky_relu with one factor from input to output steps
/// on either side of 0, which also is a change of scale, a relu, a negation.
pub static UNARY_I16: Operator = Operator {
    op: Op::Unary,
    dtype: Some(DType::I16),
    check: |step| {
        check(step, DType::I16, |kind| matches!(kind, UnaryOp::Clip | UnaryOp::LeakyRelu))
    },
    select: |_| run_i16,
    scratch_bytes: no_scratch,
};

/// i32: relu, clip, neg, abs, sign, bit_not. Negation wraps.
pub static UNARY_I32: Operator = Operator {
    op: Op::Unary,
    dtype: Some(DType::I32),
    check: |step| check(step, DType::I32, is_integer),
    select: |_| run_i32,
    scratch_bytes: no_scratch,
};

/// i64: as i32.
pub static UNARY_I64: Operator = Operator {
    op: Op::Unary,
    dtype: Some(DType::I64),
    check: |step| check(step, DType::I64, is_integer),
    select: |_| run_i64,
    scratch_bytes: no_scratch,
};

/// bool: not.
pub static UNARY_BOOL: Operator = Operator {
    op: Op::Unary,
    dtype: Some(DType::Bool),
    check: |step| check(step, DType::Bool, |kind| kind == UnaryOp::Not),
    select: |_| |context| map(context, |x: u8| u8::from(x == 0)),
    scratch_bytes: no_scratch,
};

fn is_integer(kind: UnaryOp) -> bool {
    use UnaryOp::{Abs, BitNot, Clip, Neg, Relu, Sign};
    matches!(kind, Relu | Clip | Neg | Abs | Sign | BitNot)
}

fn run_i16(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    const LOWEST: i32 = i16::MIN as i32;
    const HIGHEST: i32 = i16::MAX as i32;
    let UnaryAttributes { alpha, beta, .. } = context.step.attributes();
    match kind(&context.step.attributes())? {
        UnaryOp::Clip => map(context, |x: i16| {
            round_clamp(clip(f32::from(x), alpha, beta), LOWEST, HIGHEST) as i16
        }),
        _ => map(context, |x: i16| {
            let factor = if x < 0 { beta } else { alpha };
            round_clamp(f32::from(x) * factor, LOWEST, HIGHEST) as i16
        }),
    }
}

fn check_f32(step: &Step<'_>) -> Result<(), StepErrorKind> {
    check(step, DType::F32, |kind| !matches!(kind, UnaryOp::Not | UnaryOp::BitNot))?;
    let attributes: UnaryAttributes = step.attributes();
    match kind(&attributes)? {
        UnaryOp::RoundNarrow => narrow(&attributes).map(|_| ()),
        _ => Ok(()),
    }
}

fn check(step: &Step<'_>, dtype: DType, has: fn(UnaryOp) -> bool) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 1)?;
    expect_types(step, &[dtype], dtype)?;
    expect_elementwise(step)?;
    expect_same_shape(&step.output(0)?, &step.input(0)?, 1)?;
    let attributes: UnaryAttributes = step.expect_attributes()?;
    let known = UnaryOp::from_number(attributes.kind).is_some_and(has);
    if known { Ok(()) } else { Err(StepErrorKind::Attribute("kind")) }
}

fn kind(attributes: &UnaryAttributes) -> Result<UnaryOp, StepErrorKind> {
    UnaryOp::from_number(attributes.kind).ok_or(StepErrorKind::Attribute("kind"))
}

/// A floating-point type with fewer bits, as `round_narrow` needs it.
#[derive(Clone, Copy)]
struct Narrow {
    /// Bits of the significand behind the point.
    mantissa_bits: i32,
    /// Exponent of the smallest normal number.
    min_exponent: i32,
    largest: f32,
    /// What a number beyond the largest, or an infinity, becomes.
    beyond: f32,
    /// What a NaN becomes.
    nan: f32,
    has_negative_zero: bool,
}

fn narrow(attributes: &UnaryAttributes) -> Result<Narrow, StepErrorKind> {
    // Saturating casts of anything that is no number of a format give 0.
    let kind = NarrowFloat::from_number(attributes.alpha as u32);
    let kind = kind.ok_or(StepErrorKind::Attribute("alpha"))?;
    let (mantissa_bits, min_exponent, largest, beyond) = match kind {
        NarrowFloat::E4M3Fn => (3, -6, 448.0, f32::NAN),
        NarrowFloat::E4M3FnUz => (3, -7, 240.0, f32::NAN),
        NarrowFloat::E5M2 => (2, -14, 57344.0, f32::INFINITY),
        NarrowFloat::E5M2FnUz => (2, -15, 57344.0, f32::NAN),
        NarrowFloat::E2M1 => (1, 0, 6.0, 6.0),
    };
    let beyond = if attributes.beta == 0.0 { beyond } else { largest };
    // The type of four bits has no NaN.
    let nan = if kind == NarrowFloat::E2M1 { -0.0 } else { f32::NAN };
    let has_negative_zero = !matches!(kind, NarrowFloat::E4M3FnUz | NarrowFloat::E5M2FnUz);
    Ok(Narrow { mantissa_bits, min_exponent, largest, beyond, nan, has_negative_zero })
}

/// The nearest number of the type, ties to even.
fn round_narrow(x: f32, to: &Narrow) -> f32 {
    if x.is_nan() {
        return to.nan;
    }
    // The exponent of x as its bits have it; that of a subnormal is below every `min_exponent`.
    let exponent = ((x.to_bits() >> 23 & 0xFF) as i32 - 127).max(to.min_exponent);
    // A power of two within f32's normal numbers: multiplying and dividing by it is exact.
    let step = f32::from_bits(((exponent - to.mantissa_bits + 127).clamp(1, 254) as u32) << 23);
    let rounded = libm::rintf(x / step) * step;
    if libm::fabsf(rounded) > to.largest || x.is_infinite() {
        return if x < 0.0 { -to.beyond } else { to.beyond };
    }
    if rounded == 0.0 && !to.has_negative_zero { 0.0 } else { rounded }
}

/// `ln(1 + exp(x))`, without overflow.
pub(crate) fn softplus(x: f32) -> f32 {
    let tail = libm::log1pf(elementary::exp(-libm::fabsf(x)));
    if x > 0.0 { x + tail } else { tail }
}

fn sign(x: f32) -> f32 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else if x == 0.0 {
        0.0
    } else {
        x
    }
}

/// The function in kernels that layers share: there is one for each of [`UnaryOp::FUSED`].
pub(super) const fn elementary_function(kind: UnaryOp) -> Option<Function> {
    Some(match kind {
        UnaryOp::Sigmoid => Function::Sigmoid,
        UnaryOp::HardSwish => Function::HardSwish,
        UnaryOp::Silu => Function::Silu,
        UnaryOp::Gelu => Function::Gelu,
        UnaryOp::GeluTanh => Function::GeluTanh,
        UnaryOp::Tanh => Function::Tanh,
        UnaryOp::Erf => Function::Erf,
        UnaryOp::Exp => Function::Exp,
        _ => return None,
    })
}

const _: () = {
    let mut at = 0;
    while at < UnaryOp::FUSED.len() {
        assert!(elementary_function(UnaryOp::FUSED[at]).is_some());
        at += 1;
    }
};

fn run_f32<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    use UnaryOp as U;
    let attributes: UnaryAttributes = context.step.attributes();
    let (alpha, beta) = (attributes.alpha, attributes.beta);
    let kind = kind(&attributes)?;
    if let Some(function) = elementary_function(kind) {
        let elementary = elementary::select(Isa::ALL[ISA]);
        return map_blocks(context, |x| elementary(function, x));
    }
    match kind {
        U::Relu => map(context, |x: f32| if x < 0.0 { 0.0 } else { x }),
        U::Clip => map(context, |x: f32| clip(x, alpha, beta)),
        U::LeakyRelu => map(context, |x: f32| if x < 0.0 { alpha * x } else { x }),
        U::Elu => map(context, |x: f32| if x < 0.0 { alpha * libm::expm1f(x) } else { x }),
        U::Selu => map(context, |x: f32| beta * if x > 0.0 { x } else { alpha * libm::expm1f(x) }),
        U::Celu => map(context, |x: f32| if x < 0.0 { alpha * libm::expm1f(x / alpha) } else { x }),
        U::ThresholdedRelu => map(context, |x: f32| if x > alpha || x.is_nan() { x } else { 0.0 }),
        U::HardSigmoid => map(context, |x: f32| clip(alpha * x + beta, 0.0, 1.0)),
        U::Mish => map(context, |x: f32| x * elementary::tanh(softplus(x))),
        U::Softplus => map(context, softplus),
        U::Softsign => map(context, |x: f32| x / (1.0 + libm::fabsf(x))),
        U::Log => map(context, libm::logf),
        U::Sqrt => map(context, libm::sqrtf),
        U::Reciprocal => map(context, |x: f32| 1.0 / x),
        U::Neg => map(context, |x: f32| -x),
        U::Abs => map(context, libm::fabsf),
        U::Sign => map(context, sign),
        U::Floor => map(context, libm::floorf),
        U::Ceil => map(context, libm::ceilf),
        U::Round => map(context, libm::rintf),
        U::Sin => map(context, libm::sinf),
        U::Cos => map(context, libm::cosf),
        U::Tan => map(context, libm::tanf),
        U::Asin => map(context, libm::asinf),
        U::Acos => map(context, libm::acosf),
        U::Atan => map(context, libm::atanf),
        U::Sinh => map(context, libm::sinhf),
        U::Cosh => map(context, libm::coshf),
        U::Asinh => map(context, libm::asinhf),
        U::Acosh => map(context, libm::acoshf),
        U::Atanh => map(context, libm::atanhf),
        U::RoundNarrow => {
            let to = narrow(&attributes)?;
            map(context, |x: f32| round_narrow(x, &to))
        }
        _ => Err(StepErrorKind::Attribute("kind")),
    }
}

macro_rules! run_integer {
    ($run:ident, $ty:ty) => {
        fn $run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
            let attributes: UnaryAttributes = context.step.attributes();
            // Saturates: an infinite bound is none.
            let (low, high) = (attributes.alpha as $ty, attributes.beta as $ty);
            match kind(&attributes)? {
                UnaryOp::Relu => map(context, |x: $ty| x.max(0)),
                UnaryOp::Clip => map(context, |x: $ty| x.max(low).min(high)),
                UnaryOp::Neg => map(context, <$ty>::wrapping_neg),
                UnaryOp::Abs => map(context, <$ty>::wrapping_abs),
                UnaryOp::Sign => map(context, <$ty>::signum),
                UnaryOp::BitNot => map(context, |x: $ty| !x),
                _ => Err(StepErrorKind::Attribute("kind")),
            }
        }
    };
}
run_integer!(run_i32, i32);
run_integer!(run_i64, i64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Typed, assert_close, bools, shape, tensor};
    use UnaryOp as U;

    /// libm against ONNX Runtime's vectorised approximations, relative to values above 1.
    const TOLERANCE: f32 = 2e-6;
    const N: f32 = f32::NAN;
    const I: f32 = f32::INFINITY;

    const X: [f32; 9] = [-3.5, -1.0, -0.5, -0.0, 0.25, 0.5, 1.0, 2.5, 90.0];

    /// Kind, alpha, beta, results for `X`. Computed by ONNX Runtime 1.31 with the operator of the
    /// same name (opset 22; Silu by numpy in f64).
    #[rustfmt::skip]
    #[allow(clippy::approx_constant, reason = "results, which happen to be constants")]
    const TABLE: [(UnaryOp, f32, f32, [f32; 9]); 37] = [
        (U::LeakyRelu, 0.1, 0.0, [-0.35, -0.1, -0.05, -0.0, 0.25, 0.5, 1.0, 2.5, 90.0]),
        (U::Elu, 1.5, 0.0, [-1.4547039, -0.9481808, -0.590204, -0.0, 0.25, 0.5, 1.0, 2.5, 90.0]),
        (
            U::Selu,
            1.6732632,
            1.050701,
            [-1.7050093, -1.1113307, -0.69175816, 0.0, 0.26267526, 0.5253505, 1.050701, 2.6267526, 94.563095],
        ),
        (U::Celu, 2.0, 0.0, [-1.6524521, -0.78693867, -0.44239843, 0.0, 0.25, 0.5, 1.0, 2.5, 90.0]),
        (U::ThresholdedRelu, 0.5, 0.0, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.5, 90.0]),
        (
            U::Sigmoid,
            0.0,
            0.0,
            [0.029312193, 0.26894143, 0.3775407, 0.5, 0.56217647, 0.6224593, 0.7310586, 0.9241418, 1.0],
        ),
        (U::HardSigmoid, 0.25, 0.4, [0.0, 0.15, 0.275, 0.4, 0.4625, 0.525, 0.65, 1.0, 1.0]),
        (
            U::HardSwish,
            0.0,
            0.0,
            [-0.0, -0.3333333, -0.20833333, -0.0, 0.13541667, 0.29166666, 0.6666667, 2.2916667, 90.0],
        ),
        (
            U::Mish,
            0.0,
            0.0,
            [-0.10409575, -0.30340144, -0.22074378, -0.0, 0.16957243, 0.37524524, 0.8650985, 2.4713924, 90.0],
        ),
        (
            U::Gelu,
            0.0,
            0.0,
            [-0.00081422925, -0.15865526, -0.15426877, -0.0, 0.14967658, 0.34573123, 0.8413447, 2.484476, 90.0],
        ),
        (
            U::GeluTanh,
            0.0,
            0.0,
            [-0.0006161481, -0.15880796, -0.154286, -0.0, 0.14967535, 0.345714, 0.841192, 2.4849157, 90.0],
        ),
        (
            U::Softplus,
            0.0,
            0.0,
            [0.029750422, 0.3132617, 0.474077, 0.6931472, 0.8259395, 0.974077, 1.3132617, 2.5788898, 90.0],
        ),
        (
            U::Softsign,
            0.0,
            0.0,
            [-0.7777778, -0.5, -0.33333334, -0.0, 0.2, 0.33333334, 0.5, 0.71428573, 0.989011],
        ),
        (
            U::Tanh,
            0.0,
            0.0,
            [-0.99817795, -0.7615942, -0.46211717, -0.0, 0.24491866, 0.46211717, 0.7615942, 0.98661435, 1.0],
        ),
        (
            U::Erf,
            0.0,
            0.0,
            [-0.9999993, -0.8427008, -0.5204999, -0.0, 0.2763264, 0.5204999, 0.8427008, 0.9995931, 1.0],
        ),
        (
            U::Exp,
            0.0,
            0.0,
            [0.030197384, 0.36787945, 0.60653067, 1.0, 1.2840254, 1.6487212, 2.7182817, 12.182494, I],
        ),
        (U::Log, 0.0, 0.0, [N, N, N, -I, -1.3862944, -0.6931472, 0.0, 0.91629076, 4.4998097]),
        (U::Sqrt, 0.0, 0.0, [N, N, N, -0.0, 0.5, 0.70710677, 1.0, 1.5811388, 9.486833]),
        (U::Reciprocal, 0.0, 0.0, [-0.2857143, -1.0, -2.0, -I, 4.0, 2.0, 1.0, 0.4, 0.011111111]),
        (U::Neg, 0.0, 0.0, [3.5, 1.0, 0.5, 0.0, -0.25, -0.5, -1.0, -2.5, -90.0]),
        (U::Abs, 0.0, 0.0, [3.5, 1.0, 0.5, 0.0, 0.25, 0.5, 1.0, 2.5, 90.0]),
        (U::Sign, 0.0, 0.0, [-1.0, -1.0, -1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (U::Floor, 0.0, 0.0, [-4.0, -1.0, -1.0, -0.0, 0.0, 0.0, 1.0, 2.0, 90.0]),
        (U::Ceil, 0.0, 0.0, [-3.0, -1.0, -0.0, -0.0, 1.0, 1.0, 1.0, 3.0, 90.0]),
        (U::Round, 0.0, 0.0, [-4.0, -1.0, -0.0, -0.0, 0.0, 0.0, 1.0, 2.0, 90.0]),
        (
            U::Sin,
            0.0,
            0.0,
            [0.35078323, -0.84147096, -0.47942555, -0.0, 0.24740396, 0.47942555, 0.84147096, 0.5984722, 0.89399666],
        ),
        (
            U::Cos,
            0.0,
            0.0,
            [-0.9364567, 0.5403023, 0.87758255, 1.0, 0.9689124, 0.87758255, 0.5403023, -0.8011436, -0.44807363],
        ),
        (
            U::Tan,
            0.0,
            0.0,
            [-0.37458563, -1.5574077, -0.5463025, -0.0, 0.25534192, 0.5463025, 1.5574077, -0.74702233, -1.9952004],
        ),
        (U::Asin, 0.0, 0.0, [N, -1.5707964, -0.52359873, -0.0, 0.25268027, 0.52359873, 1.5707964, N, N]),
        (U::Acos, 0.0, 0.0, [N, 3.1415927, 2.0943952, 1.5707964, 1.318116, 1.0471976, 0.0, N, N]),
        (
            U::Atan,
            0.0,
            0.0,
            [-1.2924967, -0.7853981, -0.46364754, -0.0, 0.24497868, 0.46364754, 0.7853981, 1.19029, 1.5596857],
        ),
        (
            U::Sinh,
            0.0,
            0.0,
            [-16.542627, -1.1752012, -0.5210953, -0.0, 0.25261232, 0.5210953, 1.1752012, 6.0502048, I],
        ),
        (
            U::Cosh,
            0.0,
            0.0,
            [16.572824, 1.5430806, 1.127626, 1.0, 1.0314131, 1.127626, 1.5430806, 6.1322894, I],
        ),
        (
            U::Asinh,
            0.0,
            0.0,
            [-1.9657205, -0.8813736, -0.48121184, -0.0, 0.24746647, 0.48121184, 0.8813736, 1.6472312, 5.192988],
        ),
        (U::Acosh, 0.0, 0.0, [N, N, N, N, N, N, 0.0, 1.5667993, 5.192926]),
        (U::Atanh, 0.0, 0.0, [N, -I, -0.54930615, -0.0, 0.25541282, 0.54930615, I, N, N]),
        (
            U::Silu,
            0.0,
            0.0,
            [-0.10259281, -0.26894143, -0.18877034, -0.0, 0.14054413, 0.31122968, 0.7310586, 2.3103545, 90.0],
        ),
    ];

    fn case<T: Typed>(kind: u32, alpha: f32, beta: f32, x: &[T]) -> Case {
        let attributes = UnaryAttributes { kind, alpha, beta, reserved: 0 };
        let dims = [x.len() as u32];
        Case::new(
            Op::Unary,
            Some(T::DTYPE),
            attributes,
            &[tensor(&dims, x)],
            shape(T::DTYPE, &dims),
        )
    }

    #[test]
    fn f32_kinds_agree_with_onnx_runtime() {
        for (kind, alpha, beta, want) in TABLE {
            let got = case(kind as u32, alpha, beta, &X).run::<f32>();
            println!("{}", kind.name());
            assert_close(&got, &want, TOLERANCE);
        }
        let tested = TABLE.map(|row| row.0);
        let untested = U::ALL.iter().filter(|kind| !tested.contains(kind));
        assert_eq!(
            untested.copied().collect::<Vec<_>>(),
            [U::Relu, U::Clip, U::Not, U::BitNot, U::RoundNarrow]
        );
    }

    #[test]
    fn nan_passes_and_ties_round_to_even() {
        let x = [-1.0f32, 2.0, 9.0, f32::NAN];
        assert_close(&case(U::Relu as u32, 0.0, 0.0, &x).run(), &[0.0, 2.0, 9.0, N], 0.0);
        assert_close(&case(U::Clip as u32, 0.0, 6.0, &x).run(), &[0.0, 2.0, 6.0, N], 0.0);
        assert_close(&case(U::Clip as u32, 6.0, 0.0, &x).run(), &[0.0, 0.0, 0.0, N], 0.0);
        assert_close(&case(U::Sign as u32, 0.0, 0.0, &x).run(), &[-1.0, 1.0, 1.0, N], 0.0);
        let x = [-1.5f32, -0.5, 0.5, 1.5, 2.5];
        assert_close(&case(U::Round as u32, 0.0, 0.0, &x).run(), &[-2.0, 0.0, 0.0, 2.0, 2.0], 0.0);
        let x = [-1e30f32, 1e30, -200.0, 200.0];
        assert_close(&case(U::Softplus as u32, 0.0, 0.0, &x).run(), &[0.0, 1e30, 0.0, 200.0], 0.0);
        assert_close(&case(U::Silu as u32, 0.0, 0.0, &x).run(), &[0.0, 1e30, 0.0, 200.0], 2e-36);
    }

    #[test]
    fn integers_and_bools() {
        let x = [i32::MIN, -3, 0, 5];
        for (kind, want) in [
            (U::Neg, [i32::MIN, 3, 0, -5]),
            (U::Abs, [i32::MIN, 3, 0, 5]),
            (U::Sign, [-1, -1, 0, 1]),
            (U::Relu, [0, 0, 0, 5]),
            (U::Clip, [-2, -2, 0, 4]),
            (U::BitNot, [i32::MAX, 2, -1, -6]),
        ] {
            assert_eq!(case(kind as u32, -2.0, 4.0, &x).run::<i32>(), want, "{}", kind.name());
            let wide = case(kind as u32, -2.0, 4.0, &x.map(i64::from)).run::<i64>();
            assert_eq!(wide[1..], want.map(i64::from)[1..], "{}", kind.name());
        }
        assert_eq!(
            case(U::Clip as u32, f32::NEG_INFINITY, I, &[i64::MIN, 7]).run::<i64>(),
            [i64::MIN, 7]
        );
        let attributes = UnaryAttributes { kind: U::Not as u32, ..UnaryAttributes::default() };
        let inputs = [bools(&[3], &[0, 1, 7])];
        let not =
            Case::new(Op::Unary, Some(DType::Bool), attributes, &inputs, shape(DType::Bool, &[3]));
        assert_eq!(not.run::<u8>(), [1, 0, 0]);
    }

    #[test]
    fn narrow_floats() {
        // ml_dtypes 0.5: x.astype(type).astype(float32), and with saturation the tables of ONNX's Cast.
        let x = [0.0f32, -0.0, 1.06, 1.0625, 1.1875, 0.001, 0.0009, 239.0, 250.0, 463.0, 465.0];
        #[rustfmt::skip]
        let tables: [(u32, f32, [f32; 11]); 5] = [
            (1, 1.0, [0.0, -0.0, 1.0, 1.0, 1.25, 0.001953125, 0.0, 240.0, 256.0, 448.0, 448.0]),
            (1, 0.0, [0.0, -0.0, 1.0, 1.0, 1.25, 0.001953125, 0.0, 240.0, 256.0, 448.0, N]),
            (2, 0.0, [0.0, 0.0, 1.0, 1.0, 1.25, 0.0009765625, 0.0009765625, 240.0, N, N, N]),
            (3, 0.0, [0.0, -0.0, 1.0, 1.0, 1.25, 0.0009765625, 0.0008544922, 224.0, 256.0, 448.0, 448.0]),
            (5, 1.0, [0.0, -0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 6.0, 6.0, 6.0, 6.0]),
        ];
        for (kind, saturate, want) in tables {
            let got = case(U::RoundNarrow as u32, kind as f32, saturate, &x).run::<f32>();
            assert_close(&got, &want, 0.0);
            for (got, want) in got.iter().zip(want) {
                assert_eq!(got.is_sign_negative(), want.is_sign_negative(), "{kind}: {got} {want}");
            }
        }
        let edges = [I, -I, N, 1e30, -1e30, f32::MIN_POSITIVE, 1e-42];
        let saturated = [57344.0, -57344.0, N, 57344.0, -57344.0, 0.0, 0.0];
        let open = [I, -I, N, I, -I, 0.0, 0.0];
        for (saturate, want) in [(1.0, saturated), (0.0, open)] {
            assert_close(&case(U::RoundNarrow as u32, 3.0, saturate, &edges).run(), &want, 0.0);
        }
    }

    #[test]
    fn in_place_and_longer_than_a_block() {
        let x: Vec<f32> = (0..200).map(|value| value as f32 - 100.0).collect();
        let want: Vec<f32> = x.iter().map(|x| -x).collect();
        assert_eq!(case(U::Neg as u32, 0.0, 0.0, &x).sharing(0, 0).run::<f32>(), want);
        assert!(case(U::Neg as u32, 0.0, 0.0, &x).sharing(0, 4).run_bytes().is_err());
        assert_eq!(case::<f32>(U::Neg as u32, 0.0, 0.0, &[]).run::<f32>(), []);
    }

    #[test]
    fn hostile_steps_are_refused() {
        for kind in [0, U::Not as u32, U::BitNot as u32, U::RoundNarrow as u32, 43, u32::MAX] {
            assert!(case(kind, 0.0, 0.0, &[1f32]).run_bytes().is_err());
        }
        assert!(case(U::Exp as u32, 0.0, 0.0, &[1i32]).run_bytes().is_err());
        let mut other_shape = case(U::Exp as u32, 0.0, 0.0, &[1f32, 2.0]);
        other_shape.output.dims = vec![1, 2];
        assert!(other_shape.run_bytes().is_err());
    }
}

//! Tables: any function of one i8 as 256 entries, of one i16 as lines between entries, computed once in
//! double precision.

use libm::{
    acos, acosh, asin, asinh, atan, atanh, cos, cosh, erf, exp, expm1, fabs, log, log1p, sin, sinh,
    sqrt, tan, tanh,
};

use crate::graph::{Quant, UnaryKind};

/// One in the fixed-point numbers of [`softmax_table`]: the largest power of two that f32 holds
/// with every smaller integer.
const SOFTMAX_ONE: f64 = (1u32 << 23) as f64;

/// `q' = saturate(round_ties_even(f(scale * (q - zero_point)) / scale') + zero_point')`, entry
/// `q + 128` for every q. Where f is undefined, the smallest value.
pub fn table(x: &Quant, y: &Quant, f: impl Fn(f64) -> f64) -> [i8; 256] {
    let (scale, zero_point) = (f64::from(y.scale[0]), f64::from(y.zero_point[0]));
    std::array::from_fn(|index| {
        let q = index as i32 - 128;
        let real = f64::from(x.scale[0]) * f64::from(q - x.zero_point[0]);
        let result = (f(real) / scale).round_ties_even() + zero_point;
        if result.is_nan() { -128 } else { result.clamp(-128.0, 127.0) as i8 }
    })
}

/// The fewest intervals of a table over i16, as a power of two: 2 KB.
const LEAST_BITS: u32 = 9;

/// The most: 8 KB, which a microcontroller may still have to spare.
const MOST_BITS: u32 = 12;

/// What lines between entries may add to the rounding of the result, in steps.
const MAX_ERR_LINES: f64 = 1.0;

/// Whether a function of an i16 needs a table: those made of straight pieces that meet in 0 don't, and
/// neither do clips.
pub(crate) fn is_curved(kind: UnaryKind) -> bool {
    use UnaryKind::{Abs, Clip, LeakyRelu, Neg, Relu};
    !matches!(kind, Relu | Clip { .. } | LeakyRelu { .. } | Neg | Abs)
}

/// A function at the numbers −32768, −32768 + d, … 32768, d a power of two, with the fewest entries that
/// keep lines between them within a step of it everywhere; `None` when no table of a bearable size does.
pub fn table_i16(x: &Quant, y: &Quant, kind: UnaryKind) -> Option<Vec<i16>> {
    let (from, to) = (f64::from(x.scale[0]), f64::from(y.scale[0]));
    let exact: Vec<f64> = (-32768..=32768)
        .map(|q| {
            let steps = unary_f64(kind, from * f64::from(q)) / to;
            // Undefined is the smallest number, as in i8.
            if steps.is_nan() { -32768.0 } else { steps.clamp(-32768.0, 32767.0) }
        })
        .collect();
    (LEAST_BITS..=MOST_BITS).find_map(|bits| {
        let width = 1usize << (16 - bits);
        let table: Vec<i16> =
            exact.iter().step_by(width).map(|entry| entry.round_ties_even() as i16).collect();
        let fits = exact[..1 << 16].iter().enumerate().all(|(place, exact)| {
            let (at, fraction) = (place / width, (place % width) as i32);
            let (low, high) = (i32::from(table[at]), i32::from(table[at + 1]));
            let line = low + (((high - low) * fraction + (width as i32 >> 1)) >> (16 - bits));
            (f64::from(line) - exact.round_ties_even()).abs() <= MAX_ERR_LINES
        });
        fits.then_some(table)
    })
}

/// `exp(-d * scale)` for differences `d = 256 h + l` of 0 to 65535 steps: entry h is that of 256 h, entry
/// 256 + l that of l, both in units of 2⁻³⁰.
pub fn softmax_tables_i16(scale: f32) -> [i32; 512] {
    std::array::from_fn(|index| {
        let d = if index < 256 { index as f64 * 256.0 } else { (index - 256) as f64 };
        (exp(-d * f64::from(scale)) * f64::from(1u32 << 30)).round_ties_even() as i32
    })
}

/// `exp(-d * scale)` for differences `d` of 0 to 255 steps, in units of 2⁻²³.
pub fn softmax_table(scale: f32) -> [i32; 256] {
    std::array::from_fn(|d| {
        (exp(-(d as f64) * f64::from(scale)) * SOFTMAX_ONE).round_ties_even() as i32
    })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + exp(-x))
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + log1p(exp(-fabs(x)))
}

/// The one-operand functions in double precision; formulas of the ONNX operator reference.
pub fn unary_f64(kind: UnaryKind, x: f64) -> f64 {
    use UnaryKind as K;
    match kind {
        K::Relu => x.max(0.0),
        K::Clip { min, max } => x.max(f64::from(min)).min(f64::from(max)),
        K::LeakyRelu { alpha } => {
            if x >= 0.0 {
                x
            } else {
                f64::from(alpha) * x
            }
        }
        K::Elu { alpha } => {
            if x >= 0.0 {
                x
            } else {
                f64::from(alpha) * expm1(x)
            }
        }
        K::Selu { alpha, gamma } => {
            f64::from(gamma) * if x > 0.0 { x } else { f64::from(alpha) * expm1(x) }
        }
        K::Celu { alpha } => {
            let alpha = f64::from(alpha);
            x.max(0.0) + (alpha * expm1(x / alpha)).min(0.0)
        }
        K::ThresholdedRelu { alpha } => {
            if x > f64::from(alpha) {
                x
            } else {
                0.0
            }
        }
        K::Sigmoid => sigmoid(x),
        K::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        K::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        K::Silu => x * sigmoid(x),
        K::Mish => x * tanh(softplus(x)),
        K::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        K::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + tanh(inner))
        }
        K::Softplus => softplus(x),
        K::Softsign => x / (1.0 + fabs(x)),
        K::Tanh => tanh(x),
        K::Erf => erf(x),
        K::Exp => exp(x),
        K::Log => log(x),
        K::Sqrt => sqrt(x),
        K::Reciprocal => 1.0 / x,
        K::Neg => -x,
        K::Abs => fabs(x),
        K::Sign => {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                0.0
            }
        }
        K::Floor => x.floor(),
        K::Ceil => x.ceil(),
        K::Round => x.round_ties_even(),
        K::Sin => sin(x),
        K::Cos => cos(x),
        K::Tan => tan(x),
        K::Asin => asin(x),
        K::Acos => acos(x),
        K::Atan => atan(x),
        K::Sinh => sinh(x),
        K::Cosh => cosh(x),
        K::Asinh => asinh(x),
        K::Acosh => acosh(x),
        K::Atanh => atanh(x),
        K::Not => {
            if x == 0.0 {
                1.0
            } else {
                0.0
            }
        }
        // Neither has an integer form: `integer_inputs` says so.
        K::BitNot | K::RoundNarrow { .. } => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_round_and_saturate() {
        let x = Quant::per_tensor(0.5, 0);
        let y = Quant::per_tensor(0.25, -128);
        let relu = table(&x, &y, |real| unary_f64(UnaryKind::Relu, real));
        assert_eq!(relu[128 - 5], -128);
        assert_eq!(relu[128 + 3], -128 + 6);
        assert_eq!(relu[255], 126);
        let undefined = table(&x, &y, |real| unary_f64(UnaryKind::Log, real));
        assert_eq!(undefined[0], -128);
    }

    #[test]
    fn softmax_table_falls_from_one() {
        let table = softmax_table(0.1);
        assert_eq!(table[0], 1 << 23);
        assert!(table.windows(2).all(|pair| pair[0] >= pair[1]));
        assert_eq!(table[10], (f64::exp(-f64::from(0.1f32) * 10.0) * SOFTMAX_ONE).round() as i32);
    }
}

//! The functions, and loops over them.
//!
//! Errors are bounds over all f32, measured by the tests against f64: in units in the last place (ulp) of the result.

use super::Function;

/// Adding it rounds a number below 2²² to an integer, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³
/// The front of ln 2, of 9 bits: its product with a small integer is exact (Cody and Waite, "Software manual for the elementary
/// functions", 1980).
const LN_2_FRONT: f32 = 355.0 / 512.0;
const LN_2_REST: f32 = -2.121_944_4e-4;

/// `x = n·ln 2 + f` with |f| ≤ ln(2)/2; gives ROUND + n, and `e^f` by the polynomial of degree 6 that begins with 1 + f and has
/// the least relative error (Remez's algorithm: 3.1·10⁻⁹), in pairs of terms (Estrin's scheme), so that processors find work
/// that doesn't wait.
#[inline(always)]
fn reduce(x: f32) -> (f32, f32) {
    let shifted = x * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let f = x - n * LN_2_FRONT - n * LN_2_REST;
    let square = f * f;
    let high = 8.368_71e-3 * f + 4.166_838_7e-2 + 1.381_461_3e-3 * square;
    let low = 1.666_652_1e-1 * f + 4.999_999_3e-1;
    (shifted, (low + high * square) * square + f + 1.0)
}

/// The larger of a number and a bound; NaN passes.
#[inline(always)]
fn at_least(x: f32, low: f32) -> f32 {
    if low > x { low } else { x }
}

/// The smaller of a number and a bound; NaN passes.
#[inline(always)]
fn at_most(x: f32, high: f32) -> f32 {
    if high < x { high } else { x }
}

/// `min(max(x, low), high)`; a NaN stays.
#[inline(always)]
pub fn clip(x: f32, low: f32, high: f32) -> f32 {
    at_most(at_least(x, low), high)
}

/// 2ᵏ for k from −126 to 127.
#[inline(always)]
fn power_of_two(k: i32) -> f32 {
    f32::from_bits((k.wrapping_add(127) as u32) << 23)
}

/// `eˣ`, within 2 ulp. Infinite above 88.73, 0 below −103.98; NaN passes.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let (shifted, p) = reduce(at_most(at_least(x, -104.0), 89.0));
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    // In two steps: 2ⁿ itself may be below the smallest normal number, or above the largest.
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// e⁻⁸⁷ is 1.6·10⁻³⁸, a little above the smallest normal number.
const LOW: f32 = -87.0;

/// `eˣ` for x ≤ 0; e⁻⁸⁷ below −87. NaN passes.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    let (shifted, p) = reduce(at_least(x, LOW));
    // n + 127 in the exponent's place: the low bits of the shifted number are n.
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// `eˣ` for x ≤ 0, within 2 ulp; 0 below −87, where it is under the smallest normal number. NaN passes.
#[inline(always)]
pub fn exp_below(x: f32) -> f32 {
    // All bits, or none: a branch would keep loops from being vectorised.
    let kept = u32::from(x < LOW).wrapping_sub(1);
    f32::from_bits(exp_of_negative(x).to_bits() & kept)
}

/// `1 / (1 + e⁻ˣ)`, within 3 ulp; 1.6·10⁻³⁸ below −87.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    // By e^−|x|, which doesn't overflow: the fraction is expanded by it where x is negative.
    let e = exp_of_negative(f32::from_bits(x.to_bits() | 0x8000_0000));
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// `x / (1 + e⁻ˣ)`, within 4 ulp; at least −2·10⁻³⁶ below −87.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    // At −∞ it is next to 0, not an infinity.
    at_least(x, -104.0) * sigmoid(x)
}

/// The hyperbolic tangent, within 3 ulp: `(1 − e^(−2x)) / (1 + e^(−2x))`, and near 0, where that cancels, x and a polynomial of odd degree
/// (Moshier, "Methods and programs for mathematical functions", 1989).
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let (size, sign) = (x.to_bits() & 0x7FFF_FFFF, x.to_bits() & 0x8000_0000);
    let size = f32::from_bits(size);
    let e = exp_of_negative(-size - size);
    let far = (1.0 - e) / (1.0 + e);
    let z = size * size;
    let p = -5.704_988_7e-3 * z + 2.063_908_8e-2;
    let p = (p * z - 5.373_971_6e-2) * z + 1.333_144_2e-1;
    let near = (p * z - 3.333_328_4e-1) * z * size + size;
    let y = if size < 0.625 { near } else { far };
    f32::from_bits(y.to_bits() | sign)
}

/// The error function, within 8 ulp: |x| up to 3.92 times a quotient of polynomials in x², fitted for the least relative error
/// (2·10⁻⁸; iteratively reweighted least squares at Chebyshev's points), beyond ±1.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let near = clip(x, -3.92, 3.92);
    let z = near * near;
    let p = 2.050_061_8e-6 * z + 2.848_648_6e-4;
    let p = (p * z + 3.765_158_8e-3) * z + 5.274_727_6e-2;
    let p = (p * z + 1.903_968_8e-1) * z + core::f32::consts::FRAC_2_SQRT_PI;
    let q = 3.809_052e-5 * z + 1.162_410_5e-3;
    let q = (q * z + 1.496_830_2e-2) * z + 1.141_049_9e-1;
    let q = (q * z + 5.020_675_7e-1) * z + 1.0;
    clip(near * p / q, -1.0, 1.0)
}

/// `x/2 · (1 + erf(x / √2))`, within 4·10⁻⁷ · |x|.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    0.5 * at_least(x, f32::MIN) * (1.0 + erf(x * core::f32::consts::FRAC_1_SQRT_2))
}

/// GELU by the hyperbolic tangent, within 3·10⁻⁷ · |x| (Hendrycks and Gimpel, "Gaussian error linear units", section 2).
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let inner = SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    0.5 * at_least(x, f32::MIN) * (1.0 + tanh(inner))
}

/// `x · max(0, min(x/6 + 1/2, 1))`, within 2 ulp.
#[inline(always)]
pub fn hard_swish(x: f32) -> f32 {
    x * clip(x * (1.0 / 6.0) + 0.5, 0.0, 1.0)
}

/// The loop, to be compiled for each instruction set.
#[inline(always)]
pub(super) fn apply(function: Function, values: &mut [f32]) {
    #[inline(always)]
    fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
        values.iter_mut().for_each(|x| *x = f(*x));
    }
    match function {
        Function::Exp => each(values, exp),
        Function::Sigmoid => each(values, sigmoid),
        Function::Silu => each(values, silu),
        Function::Tanh => each(values, tanh),
        Function::Erf => each(values, erf),
        Function::Gelu => each(values, gelu),
        Function::GeluTanh => each(values, gelu_tanh),
        Function::HardSwish => each(values, hard_swish),
    }
}

/// Elements that go through both loops of [`activate`] before the next ones do: a part of any L1.
const BLOCK: usize = 1024;

/// The loops of [`ActivationFn`](super::ActivationFn).
#[inline(always)]
pub(super) fn activate(function: Function, affine: [f32; 2], values: &mut [f32]) {
    if affine == [1.0, 0.0] {
        return apply(function, values);
    }
    let [scale, shift] = affine;
    for block in values.chunks_mut(BLOCK) {
        apply(function, block);
        block.iter_mut().for_each(|x| *x = *x * scale + shift);
    }
}

/// Lanes of maxima and sums: a register of AVX-512.
const LANES: usize = 16;

/// The larger of two numbers; the first where either is NaN.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Multiplies numbers by a scale; gives the largest.
#[inline(always)]
fn scaled(values: &mut [f32], scale: f32) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        // Indexed lanes: loops that are vectorised whatever is inlined.
        for i in 0..LANES {
            chunk[i] *= scale;
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    for (value, lane) in rest.iter_mut().zip(&mut lanes) {
        *value *= scale;
        *lane = larger(*lane, *value);
    }
    fold(lanes, larger)
}

/// As [`scaled`], and adds a mask, which has as many numbers.
#[inline(always)]
fn masked(values: &mut [f32], scale: f32, mask: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let ((chunks, rest), (masks, mask_rest)) =
        (values.as_chunks_mut::<LANES>(), mask.as_chunks::<LANES>());
    for (chunk, mask) in chunks.iter_mut().zip(masks) {
        for i in 0..LANES {
            chunk[i] = chunk[i] * scale + mask[i];
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    for ((value, mask), lane) in rest.iter_mut().zip(mask_rest).zip(&mut lanes) {
        *value = *value * scale + mask;
        *lane = larger(*lane, *value);
    }
    fold(lanes, larger)
}

/// Folds lanes in halves.
#[inline(always)]
pub(crate) fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// The loops of [`ExponentialsFn`](super::ExponentialsFn).
#[inline(always)]
pub(crate) fn exponentials(values: &mut [f32], scale: f32, mask: &[f32]) -> (f32, f32) {
    let largest = match mask.get(..values.len()) {
        Some(mask) if !mask.is_empty() => masked(values, scale, mask),
        _ => scaled(values, scale),
    };
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp_below(chunk[i] - largest);
            sums[i] += chunk[i];
        }
    }
    for (value, sum) in rest.iter_mut().zip(&mut sums) {
        *value = exp_below(*value - largest);
        *sum += *value;
    }
    (fold(sums, |a, b| a + b), largest)
}

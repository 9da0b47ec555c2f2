//! TFLite's fixed-point arithmetic, for tables that hold exactly what its reference kernels compute.
//!
//! Formulas of `kernels/internal/common.h` and `reference/{leaky_relu,hard_swish,requantize}.h`.

use crate::graph::Quant;

/// A positive real as `multiplier * 2^(shift - 31)`, the multiplier of 31 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Multiplier {
    multiplier: i32,
    shift: i32,
}

impl Multiplier {
    pub(super) fn new(real: f64) -> Multiplier {
        if real == 0.0 || !real.is_finite() {
            return Multiplier { multiplier: 0, shift: 0 };
        }
        let (fraction, mut shift) = libm::frexp(real);
        let mut multiplier = (fraction * (1i64 << 31) as f64).round() as i64;
        if multiplier == 1 << 31 {
            (multiplier, shift) = (multiplier / 2, shift + 1);
        }
        // Below that, every product is 0; above, none fits.
        match shift {
            ..-31 => Multiplier { multiplier: 0, shift: 0 },
            31.. => Multiplier { multiplier: i32::MAX, shift: 30 },
            _ => Multiplier { multiplier: multiplier as i32, shift },
        }
    }

    /// The product, rounded twice: to the multiplier's precision, then by the shift.
    pub(super) fn times(self, x: i32) -> i32 {
        let x = x.wrapping_shl(self.shift.max(0) as u32);
        divided(high_product(x, self.multiplier), (-self.shift).max(0))
    }
}

/// `a * b / 2^31`, ties away from zero for positive products and up for negative ones.
fn high_product(a: i32, b: i32) -> i32 {
    if a == i32::MIN && b == i32::MIN {
        return i32::MAX;
    }
    let product = i64::from(a) * i64::from(b);
    let nudge = if product >= 0 { 1 << 30 } else { 1 - (1 << 30) };
    ((product + nudge) / (1 << 31)) as i32
}

/// `x / 2^exponent`, ties away from zero.
fn divided(x: i32, exponent: i32) -> i32 {
    let mask = ((1i64 << exponent) - 1) as i32;
    let threshold = (mask >> 1) + i32::from(x < 0);
    (x >> exponent) + i32::from(x & mask > threshold)
}

fn saturated(q: i32) -> i8 {
    q.clamp(-128, 127) as i8
}

/// A table over all integers of 8 bits: `function` of `q - zero_point`, plus the result's zero point.
fn table(x: &Quant, y: &Quant, function: impl Fn(i32) -> i32) -> [i8; 256] {
    std::array::from_fn(|index| {
        let q = index as i32 - 128;
        saturated(function(q - x.zero_point[0]).saturating_add(y.zero_point[0]))
    })
}

/// The same reals at another scale.
pub(super) fn requantized(x: &Quant, y: &Quant) -> [i8; 256] {
    let multiplier = Multiplier::new(f64::from(x.scale[0]) / f64::from(y.scale[0]));
    table(x, y, |q| multiplier.times(q))
}

/// The same, limited to a range of reals.
pub(super) fn clipped(x: &Quant, y: &Quant, min: f32, max: f32) -> [i8; 256] {
    let stored = |real: f32| {
        let steps = (real / y.scale[0]).round().clamp(-1e6, 1e6) as i32;
        saturated(steps + y.zero_point[0])
    };
    let (low, high) = (stored(min), stored(max));
    requantized(x, y).map(|q| q.max(low).min(high))
}

/// `x` where it isn't negative, else `alpha * x`.
pub(super) fn leaky_relu(x: &Quant, y: &Quant, alpha: f32) -> [i8; 256] {
    let own = Multiplier::new(f64::from(x.scale[0] / y.scale[0]));
    // A negative factor has its sign apart.
    let slope = x.scale[0] * alpha / y.scale[0];
    let below = Multiplier::new(f64::from(slope.abs()));
    let sign = if slope < 0.0 { -1 } else { 1 };
    table(x, y, |q| if q >= 0 { own.times(q) } else { below.times(sign * q) })
}

/// `a * b / 2^15` in 16 bits, rounded.
fn high_product_16(a: i16, b: i16) -> i16 {
    if a == i16::MIN && b == i16::MIN {
        return i16::MAX;
    }
    let product = i32::from(a) * i32::from(b);
    let nudge = if product >= 0 { 1 << 14 } else { 1 - (1 << 14) };
    ((product + nudge) / (1 << 15)) as i16
}

fn shifted_left(x: i16, by: i32) -> i16 {
    (i32::from(x) << by.clamp(0, 15)).clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
}

/// A multiplier of 15 bits and its exponent.
fn short(real: f32) -> (i16, i32) {
    let Multiplier { multiplier, shift } = Multiplier::new(f64::from(real));
    let rounded = multiplier.saturating_add(1 << 15) >> 16;
    (rounded.clamp(0, i32::from(i16::MAX)) as i16, shift)
}

/// `x * clamp(x + 3, 0, 6) / 6`, in 16 bits with the input moved up by 7.
pub(super) fn hard_swish(x: &Quant, y: &Quant) -> [i8; 256] {
    let fine = x.scale[0] / 128.0;
    let (to_output, output_shift) = short(fine / y.scale[0]);
    // 3 in real numbers is the largest number of 16 bits.
    let (to_gate, gate_shift) = short(fine / (3.0 / 32768.0));
    table(x, y, |q| {
        let fine = (q << 7) as i16;
        let output = high_product_16(fine, to_output);
        let mut gate = fine;
        if gate_shift > 0 {
            gate = shifted_left(gate, gate_shift - 1);
        }
        gate = high_product_16(gate, to_gate);
        if gate_shift > 0 {
            gate = shifted_left(gate, 1);
        } else {
            gate = divided(i32::from(gate), (-gate_shift).min(15)) as i16;
        }
        let gate = ((i32::from(gate) + (1 << 15)) >> 1) as i16;
        let product = i32::from(gate) * i32::from(output) / (1 << 15);
        divided(product, (-output_shift).clamp(0, 31))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipliers_are_normalised() {
        let cases = [
            (0.5, 1 << 30, 0),
            (1.0, 1 << 30, 1),
            (0.75, 3 << 29, 0),
            (1e-12, 0, 0),
            // The fraction rounds up to one.
            (1.0 - 1e-12, 1 << 30, 1),
        ];
        for (real, multiplier, shift) in cases {
            assert_eq!(Multiplier::new(real), Multiplier { multiplier, shift }, "{real}");
        }
    }

    #[test]
    fn products_are_rounded_twice() {
        let cases = [
            (0.25, 6, 2),
            (0.25, -6, -2),
            // 1.498 to an eighth is 1.5, and that is 2.
            (0.0749, 20, 2),
            (0.0749, -20, -2),
            (0.07, 20, 1),
            (3.0, 7, 21),
        ];
        for (real, x, expected) in cases {
            assert_eq!(Multiplier::new(real).times(x), expected, "{real} {x}");
        }
    }

    /// A name, a table, and what it approximates.
    type Row = (&'static str, [i8; 256], fn(f64) -> f64);

    #[test]
    fn tables_are_near_the_functions() {
        let (x, y) = (Quant::per_tensor(0.047, 3), Quant::per_tensor(0.025, -113));
        let real = |index: usize| 0.047 * (index as f64 - 128.0 - 3.0);
        let functions: [Row; 4] = [
            ("requantized", requantized(&x, &y), |x| x),
            ("clipped", clipped(&x, &y, 0.0, 6.0), |x| x.clamp(0.0, 6.0)),
            ("leaky_relu", leaky_relu(&x, &y, 0.1), |x| if x < 0.0 { 0.1 * x } else { x }),
            ("hard_swish", hard_swish(&x, &y), |x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0),
        ];
        for (name, table, function) in functions {
            for (index, q) in table.into_iter().enumerate() {
                let exact = function(real(index)) / 0.025 - 113.0;
                let off = (f64::from(q) - exact.clamp(-128.0, 127.0)).abs();
                // Two roundings, and in hard swish numbers of 16 bits.
                assert!(off < 1.1, "{name} of {index}: {q} instead of {exact}");
            }
        }
    }
}

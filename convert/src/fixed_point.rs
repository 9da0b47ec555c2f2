//! Real factors as integers, as TFLite's kernels multiply by them.

use whit::kernels::requantize::fixed_point;

/// A positive real as `multiplier * 2^(shift - 31)`, the multiplier of 31 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Multiplier {
    pub(crate) multiplier: i32,
    pub(crate) shift: i32,
}

impl Multiplier {
    pub(crate) fn new(real: f64) -> Multiplier {
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

    /// The factor of a sum whose mean is wanted, as TFLite takes it from that of the mean: truncated.
    pub(crate) fn over(self, count: i64) -> Multiplier {
        let log = 63 - count.max(1).leading_zeros() as i32;
        let shift = log.min(32).min(31 + self.shift);
        let multiplier = (i64::from(self.multiplier) << shift) / count.max(1);
        Multiplier { multiplier: multiplier as i32, shift: self.shift - shift }
    }

    /// The product, rounded twice: to the multiplier's precision, then by the shift.
    pub(crate) fn times(self, x: i32) -> i32 {
        fixed_point(x, self.multiplier, self.shift)
    }
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
}

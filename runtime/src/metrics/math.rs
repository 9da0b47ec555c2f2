//! Logarithms and powers of two in fixed point: the same bits on every machine.

/// ⌊log2 x · 2¹⁶⌋ of a number from 1 on, up to one unit too low; 0 for 0. Digit by digit: the square of a number in 1..2
/// is 2 or more exactly when the next binary digit of its logarithm is 1.
pub fn log2_q16(x: u64) -> u32 {
    let Some(whole) = x.checked_ilog2() else { return 0 };
    // In 1..2, with 31 binary digits.
    let mut m = ((x << (63 - whole)) >> 32) as u32;
    let mut log = whole;
    for _ in 0..16 {
        // In 1..4, with 62 binary digits, from one product of 32 bits.
        let square = u64::from(m) * u64::from(m);
        let (high, low) = ((square >> 32) as u32, square as u32);
        let digit = high >> 31;
        m = if digit == 1 { high } else { high << 1 | low >> 31 };
        log = log << 1 | digit;
    }
    log
}

/// ⌊part · 2³² / whole⌋ of a part up to a whole that isn't 0.
pub fn share_q32(part: u32, whole: u64) -> u64 {
    match u32::try_from(whole) {
        // Digit by digit of 16 bits: what a small machine divides by itself.
        Ok(whole @ 1..0x1_0000) if part <= whole => {
            // A part of 2¹⁶ − 1 at most.
            let (high, rest) = ((part << 16) / whole, (part << 16) % whole);
            (u64::from(high) << 16) + u64::from((rest << 16) / whole)
        }
        _ => (u64::from(part) << 32) / whole,
    }
}

/// 2^(−2⁻ⁿ) for n from 1 to 16, in 2⁻³¹, rounded.
const ROOTS: [u32; 16] = [
    1_518_500_250,
    1_805_811_301,
    1_969_251_188,
    2_056_437_387,
    2_101_467_502,
    2_124_350_982,
    2_135_885_998,
    2_141_676_973,
    2_144_578_345,
    2_146_030_505,
    2_146_756_953,
    2_147_120_270,
    2_147_301_951,
    2_147_392_798,
    2_147_438_222,
    2_147_460_935,
];

/// 2^(−x) in 2⁻³¹ of x in 2⁻¹⁶: the product of the roots that its binary digits name.
pub fn exp2_neg_q31(x: u64) -> u32 {
    let whole = x >> 16;
    if whole >= 32 {
        return 0;
    }
    let mut power = 1u64 << 31;
    for (digit, root) in ROOTS.iter().enumerate() {
        if x >> (15 - digit) & 1 == 1 {
            power = (power * u64::from(*root)) >> 31;
        }
    }
    (power >> whole) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_those_of_the_standard_library() {
        let cases = (1..5000u64)
            .chain((0..64).flat_map(|bit| [1u64 << bit, (1u64 << bit) - 1, 3u64 << (bit / 2)]))
            .filter(|x| *x > 0)
            .chain([u64::MAX]);
        for x in cases {
            let exact = (x as f64).log2() * 65536.0;
            let found = f64::from(log2_q16(x));
            assert!(found <= exact + 1e-3 && exact - found < 1.01, "{x}: {found} {exact}");
        }
        assert_eq!((log2_q16(0), log2_q16(1), log2_q16(1 << 40)), (0, 0, 40 << 16));
    }

    #[test]
    fn digits_of_logarithms_are_those_of_the_format() {
        // MONITOR.md, "log2", with room for every digit.
        let text = |x: u64| {
            let whole = 63 - x.leading_zeros();
            let (mut m, mut log) = (u128::from((x << (63 - whole)) >> 32), whole);
            for _ in 0..16 {
                m = (m * m) >> 31;
                log *= 2;
                if m >= 1 << 32 {
                    (m, log) = (m >> 1, log + 1);
                }
            }
            log
        };
        let mut random = crate::metrics::counters::tests::Random(11);
        for _ in 0..100_000 {
            let x = (random.below(1 << 32) << 32 | random.below(1 << 32)) >> random.below(64);
            assert_eq!(log2_q16(x.max(1)), text(x.max(1)), "{x}");
        }
    }

    #[test]
    fn shares_are_those_of_a_long_division() {
        let mut random = crate::metrics::counters::tests::Random(12);
        let wholes = [1u64, 2, 3, 800, 65_534, 65_535, 65_536, 65_537, 1 << 20, u32::MAX.into()];
        for whole in wholes {
            let parts = [0, 1, whole / 2, whole - 1, whole];
            let drawn: Vec<u64> = (0..1000).map(|_| random.below(whole + 1)).collect();
            for part in parts.into_iter().chain(drawn) {
                let expected = (u128::from(part) << 32) / u128::from(whole);
                assert_eq!(u128::from(share_q32(part as u32, whole)), expected, "{part} / {whole}");
            }
        }
    }

    #[test]
    fn powers_are_those_of_the_standard_library() {
        for x in (0..40 << 16).step_by(97).chain([u64::MAX]) {
            let exact = (-(x as f64) / 65536.0).exp2() * f64::from(1u32 << 31);
            let found = f64::from(exp2_neg_q31(x));
            // A product of 16 factors, each rounded by half a unit and cut by one.
            assert!((found - exact).abs() <= 24.0, "{x}: {found} {exact}");
        }
        for (number, root) in ROOTS.iter().enumerate() {
            let exact = (-(-(number as f64 + 1.0)).exp2()).exp2() * f64::from(1u32 << 31);
            assert!((f64::from(*root) - exact).abs() <= 0.5, "{number}: {exact}");
        }
    }
}

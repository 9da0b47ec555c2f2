//! Logarithms and powers of two in fixed point: the same bits on every machine.

/// ⌊log2 x · 2¹⁶⌋ of a number from 1 on, up to one unit too low; 0 for 0. Digit by digit: the square of a number in 1..2
/// is 2 or more exactly when the next binary digit of its logarithm is 1.
pub fn log2_q16(x: u64) -> u32 {
    let Some(whole) = x.checked_ilog2() else { return 0 };
    // In 1..2, with 31 binary digits.
    let mut m = (x << (63 - whole)) >> 32;
    let mut log = whole;
    for _ in 0..16 {
        m = (m * m) >> 31;
        log <<= 1;
        if m >> 32 != 0 {
            m >>= 1;
            log |= 1;
        }
    }
    log
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

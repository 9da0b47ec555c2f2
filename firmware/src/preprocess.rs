//! From a window of samples to the inputs of a session.

use whit::{DType, Session, SessionError};

/// Fills a session's inputs from a window.
///
/// A closure will do: for an audio front-end, which is the application's, or more than one
/// input.
pub trait Preprocess<T, const N: usize> {
    /// Fills every input.
    ///
    /// # Errors
    /// When the model's inputs aren't what this fills.
    fn fill(&mut self, window: &[T; N], session: &mut Session<'_>) -> Result<(), SessionError>;
}

impl<T, const N: usize, F> Preprocess<T, N> for F
where
    F: FnMut(&[T; N], &mut Session<'_>) -> Result<(), SessionError>,
{
    fn fill(&mut self, window: &[T; N], session: &mut Session<'_>) -> Result<(), SessionError> {
        self(window, session)
    }
}

/// A sample made of integers: one, or one an axis.
pub trait IntegerSample: Copy {
    /// Its numbers, in the order in which the model has them.
    fn integers(&self) -> impl Iterator<Item = i32>;
}

macro_rules! integer_sample {
    ($($ty:ty),*) => {$(
        impl IntegerSample for $ty {
            fn integers(&self) -> impl Iterator<Item = i32> {
                core::iter::once(i32::from(*self))
            }
        }
    )*};
}
integer_sample!(i8, u8, i16, u16, i32);

impl<T: IntegerSample, const N: usize> IntegerSample for [T; N] {
    fn integers(&self) -> impl Iterator<Item = i32> {
        self.iter().flat_map(|sample| sample.integers())
    }
}

/// Quantizes integer samples for input 0, which is i8 or f32.
///
/// A sample `s` stands for the real number `s · unit + offset`: an accelerometer of ±2 g on 16 bits
/// has the unit 2/32768, a pixel that the model wants between 0 and 1 has 1/255. Into an i8 input goes
/// `clamp(round(real / scale) + zero_point)` with the scale and zero point of the file, computed as
/// `(s · m + b) >> k` in 64 bits, ties up, with all 24 bits of `unit / scale` in `m`: within 2⁻¹⁵ steps
/// of the real value before it is rounded, unless a large offset cancels large samples. A
/// multiplication, a shift and two comparisons a number; no float.
#[derive(Clone, Copy, Debug)]
pub struct Rescale {
    unit: f32,
    offset: f32,
}

impl Rescale {
    /// Samples that stand for `s · unit + offset`.
    pub const fn new(unit: f32, offset: f32) -> Self {
        Rescale { unit, offset }
    }
}

/// `(s · factor + bias) >> shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FixedPoint {
    factor: i64,
    bias: i64,
    shift: u32,
}

impl FixedPoint {
    /// For `round(s · unit / scale + offset / scale + zero_point)`, or `None` where that is no number
    /// that fits.
    fn new(unit: f32, offset: f32, scale: f32, zero_point: i32) -> Option<FixedPoint> {
        // In f32: double precision is soft on most microcontrollers and brings kilobytes of code.
        let ratio = unit / scale;
        let add = offset / scale + zero_point as f32;
        // Also for NaN. Above, every sample but 0 saturates.
        if !(ratio.abs() < 32768.0 && add.abs() < 32768.0) {
            return None;
        }
        // All 24 bits of the ratio, as far as the bias of 15 bits and more leaves room in 62.
        // Multiplying by a power of two is exact.
        let (mut factor, mut shift) = (ratio * 512.0, 9);
        while factor.abs() < 8_388_608.0 && shift < 46 {
            factor *= 2.0;
            shift += 1;
        }
        let bias = (add * (1u64 << shift) as f32) as i64 + (1i64 << (shift - 1));
        Some(FixedPoint { factor: factor as i64, bias, shift })
    }

    fn apply(self, sample: i32) -> i64 {
        (i64::from(sample) * self.factor).saturating_add(self.bias) >> self.shift
    }
}

impl<T: IntegerSample, const N: usize> Preprocess<T, N> for Rescale {
    fn fill(&mut self, window: &[T; N], session: &mut Session<'_>) -> Result<(), SessionError> {
        let slot = session.input_slot(0)?;
        let expected = slot.dtype();
        let numbers = window.iter().flat_map(|sample| sample.integers());
        let given = match expected {
            DType::I8 => {
                // Once a window, on the one or two divisions that this takes.
                let fixed =
                    FixedPoint::new(self.unit, self.offset, slot.scale(), slot.zero_point())
                        .ok_or(SessionError::InputType { input: 0, expected })?;
                fill(session.input_mut::<i8>(0)?, numbers, |number| {
                    fixed.apply(number).clamp(-128, 127) as i8
                })
            }
            DType::F32 => fill(session.input_mut::<f32>(0)?, numbers, |number| {
                number as f32 * self.unit + self.offset
            }),
            _ => return Err(SessionError::InputType { input: 0, expected }),
        };
        let expected = slot.elements();
        if given == expected {
            Ok(())
        } else {
            Err(SessionError::InputLength { input: 0, expected, given })
        }
    }
}

/// Gives how many numbers there were, of which those without room were dropped.
fn fill<T>(to: &mut [T], numbers: impl Iterator<Item = i32>, map: impl Fn(i32) -> T) -> usize {
    let mut to = to.iter_mut();
    let mut count = 0;
    for number in numbers {
        if let Some(to) = to.next() {
            *to = map(number);
        }
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_round_as_the_real_numbers_do() {
        struct Case {
            unit: f32,
            offset: f32,
            scale: f32,
            zero_point: i32,
        }
        let cases = [
            Case { unit: 1.0 / 255.0, offset: 0.0, scale: 1.0 / 255.0, zero_point: -128 },
            Case { unit: 2.0 / 32768.0, offset: 0.0, scale: 0.0157, zero_point: 3 },
            Case { unit: 1.0, offset: -128.0, scale: 1.0, zero_point: 0 },
            Case { unit: 0.5, offset: 0.25, scale: 0.003, zero_point: 127 },
            Case { unit: -1e-6, offset: 1e-3, scale: 0.01, zero_point: -5 },
            Case { unit: 1e-12, offset: 0.3, scale: 0.1, zero_point: 0 },
            Case { unit: 0.0, offset: 0.3, scale: 0.1, zero_point: 0 },
        ];
        for (number, case) in cases.iter().enumerate() {
            let fixed =
                FixedPoint::new(case.unit, case.offset, case.scale, case.zero_point).unwrap();
            let samples = (-40_000..40_000).chain([i32::MIN, i32::MAX]);
            for sample in samples {
                let real = (f64::from(sample) * f64::from(case.unit) + f64::from(case.offset))
                    / f64::from(case.scale)
                    + f64::from(case.zero_point);
                let given = fixed.apply(sample).clamp(-128, 127) as f64;
                let wanted = real.clamp(-128.0, 127.0);
                // Half a step, and what 31 bits of factor lose.
                assert!(
                    (given - wanted).abs() <= 0.5 + 1e-4,
                    "case {number} at {sample}: {given} {real}"
                );
                if (real - real.floor() - 0.5).abs() > 1e-4 {
                    assert_eq!(given, wanted.round(), "case {number} at {sample}");
                }
            }
        }
        for (unit, scale) in [(f32::NAN, 1.0), (1.0, 0.0), (1e30, 1e-3), (f32::INFINITY, 1.0)] {
            assert_eq!(FixedPoint::new(unit, 0.0, scale, 0), None, "{unit} / {scale}");
        }
    }
}

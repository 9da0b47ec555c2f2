//! From a model's outputs to class, confidence and entropy, in integers.

use super::math::{exp2_neg_q31, log2_q16};
use super::record::Scores;
use crate::DType;

/// 1 as a confidence, probability or entropy.
pub const ONE_Q15: u32 = 1 << 15;

/// The inner edges of the bins of confidences, in 2⁻¹⁵: 0.5, 2, 5, 10, 20, … 90, 95, 98 and 99.5 %. Narrow at both ends,
/// where calibration and log-loss are decided.
pub const CONFIDENCE_EDGES: [u16; 15] = [
    164, 655, 1638, 3277, 6554, 9830, 13107, 16384, 19661, 22938, 26214, 29491, 31130, 32113, 32604,
];

/// The bin of a confidence: how many edges it reaches.
pub fn confidence_bin(q15: u16) -> usize {
    CONFIDENCE_EDGES.iter().filter(|edge| q15 >= **edge).count()
}

/// The bin of an entropy.
pub fn entropy_bin(q15: u16) -> usize {
    (usize::from(q15) * super::counters::ENTROPY_BINS >> 15).min(super::counters::ENTROPY_BINS - 1)
}

/// What the monitor makes of a run's outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scored {
    /// The class with the highest score, the first of several.
    pub class: u16,
    /// Its probability, in 2⁻¹⁵.
    pub confidence: u16,
    /// Entropy of the probabilities over its maximum log2(classes), in 2⁻¹⁵.
    pub entropy: u16,
    /// The probability of the event that is scored, in 2⁻¹⁵: class 1 out of two, else that the prediction is right.
    pub event: u16,
    /// The estimate of a [`Scores::Value`] model, in units of the log header's scale.
    pub value: i32,
}

/// Why outputs have no score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unscored {
    /// One of them is NaN or infinite.
    NotFinite,
    /// They have another type or length than the monitor was made for.
    Wrong,
}

/// How a model's outputs become scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scorer {
    scores: Scores,
    classes: u16,
    dtype: DType,
    zero_point: i32,
    /// Integers: what one step of the output is worth, as the kind of scores wants it.
    factor: u64,
    /// Floats: what makes units of a value.
    per_unit: f32,
}

/// An element of an output: an integer less its zero point, or a float.
enum Number {
    Integer(i64),
    Real(f32),
}

/// Element number `index` of some bytes; `None` for types without a number or beyond the end.
fn number(dtype: DType, zero_point: i32, bytes: &[u8], index: usize) -> Option<Number> {
    let size = dtype.size();
    let raw = bytes.get(index.checked_mul(size)?..)?.get(..size)?;
    let integer = |q: i32| Number::Integer(i64::from(q) - i64::from(zero_point));
    Some(match (dtype, raw) {
        (DType::I8, [a]) => integer(i32::from(*a as i8)),
        (DType::U8 | DType::Bool, [a]) => integer(i32::from(*a)),
        (DType::I16, [a, b]) => integer(i32::from(i16::from_le_bytes([*a, *b]))),
        (DType::F16, [a, b]) => Number::Real(half::f16::from_le_bytes([*a, *b]).to_f32()),
        (DType::BF16, [a, b]) => Number::Real(half::bf16::from_le_bytes([*a, *b]).to_f32()),
        (DType::F32, [a, b, c, d]) => Number::Real(f32::from_le_bytes([*a, *b, *c, *d])),
        _ => return None,
    })
}

impl Scorer {
    /// For outputs of this type and quantization. `unit` is what one unit of a value stands for; a power of two keeps
    /// its arithmetic exact. `None` for kinds of scores that the type can't have.
    pub fn new(
        scores: Scores,
        classes: u16,
        (dtype, scale, zero_point): (DType, f32, i32),
        unit: f32,
    ) -> Option<Scorer> {
        let quantized = matches!(dtype, DType::I8 | DType::U8 | DType::I16) && scale > 0.0;
        if scores != Scores::None && !(quantized || dtype.is_float()) {
            return None;
        }
        let wanted = match scores {
            Scores::Probabilities | Scores::Logits => classes > 0,
            Scores::Probability | Scores::Logit => classes == 2,
            Scores::None | Scores::Value => classes == 0,
        };
        if !wanted || !(unit > 0.0 && unit.is_finite()) {
            return None;
        }
        // One product of floats, then powers of two and truncation: exact everywhere.
        let factor = match scores {
            Scores::Probabilities | Scores::Probability => scale * 16_777_216.0,
            _ => scale * core::f32::consts::LOG2_E * 4_294_967_296.0,
        };
        let per_unit = 1.0 / unit;
        Some(Scorer { scores, classes, dtype, zero_point, factor: factor as u64, per_unit })
    }

    /// The number of classes.
    pub fn classes(&self) -> u16 {
        self.classes
    }

    /// Scores of an output's elements.
    ///
    /// # Errors
    /// See [`Unscored`].
    pub fn score(&self, bytes: &[u8]) -> Result<Scored, Unscored> {
        match self.scores {
            Scores::None => Ok(Scored::default()),
            Scores::Value => {
                let value = self.units(self.at(bytes, 0)?);
                Ok(Scored { value, ..Scored::default() })
            }
            Scores::Probability | Scores::Logit => {
                if bytes.len() != self.dtype.size() {
                    return Err(Unscored::Wrong);
                }
                let number = self.at(bytes, 0)?;
                // Weights of class 1 and class 0.
                let (one, zero) = if self.scores == Scores::Probability {
                    let p = u64::from(self.probability(&number));
                    (p, u64::from(ONE_Q15) - p)
                } else {
                    let (positive, distance) = match number {
                        Number::Integer(q) => (q >= 0, self.distance(q)),
                        Number::Real(x) => (x >= 0.0, log2_distance(x.abs())),
                    };
                    let small = u64::from(exp2_neg_q31(distance)) >> 8;
                    if positive { (1 << 23, small) } else { (small, 1 << 23) }
                };
                let sum = one + zero;
                let event = ((one << 15) / sum) as u16;
                let class = u16::from(one >= zero);
                let confidence = event.max(ONE_Q15 as u16 - event);
                let entropy = entropy_of(&|index| if index == 0 { zero } else { one }, 2, sum);
                Ok(Scored { class, confidence, entropy, event, value: 0 })
            }
            Scores::Probabilities | Scores::Logits => self.score_classes(bytes),
        }
    }

    fn score_classes(&self, bytes: &[u8]) -> Result<Scored, Unscored> {
        let classes = usize::from(self.classes);
        if bytes.len() != classes * self.dtype.size() {
            return Err(Unscored::Wrong);
        }
        let (mut class, mut highest) = (0, self.at(bytes, 0)?);
        for index in 1..classes {
            let number = self.at(bytes, index)?;
            let higher = match (&number, &highest) {
                (Number::Integer(a), Number::Integer(b)) => a > b,
                (Number::Real(a), Number::Real(b)) => a > b,
                _ => false,
            };
            if higher {
                (class, highest) = (index, number);
            }
        }
        // Every element was read, so that all are finite.
        let weight = |index: usize| -> u64 {
            let Ok(number) = self.at(bytes, index) else { return 0 };
            if self.scores == Scores::Probabilities {
                return u64::from(self.probability(&number));
            }
            let distance = match (&highest, number) {
                (Number::Integer(top), Number::Integer(q)) => self.distance(top - q),
                (Number::Real(top), Number::Real(x)) => log2_distance(top - x),
                _ => 0,
            };
            u64::from(exp2_neg_q31(distance)) >> 8
        };
        let sum: u64 = (0..classes).map(weight).sum();
        let share = |index: usize| -> u16 {
            let part = if self.scores == Scores::Probabilities {
                weight(index)
            } else {
                (weight(index) << 15) / sum.max(1)
            };
            part.min(u64::from(ONE_Q15)) as u16
        };
        let confidence = share(class);
        let event = if classes == 2 { share(1) } else { confidence };
        let entropy = entropy_of(&weight, classes, sum);
        Ok(Scored { class: class as u16, confidence, entropy, event, value: 0 })
    }

    /// An element, which has to be there and finite.
    fn at(&self, bytes: &[u8], index: usize) -> Result<Number, Unscored> {
        match number(self.dtype, self.zero_point, bytes, index).ok_or(Unscored::Wrong)? {
            Number::Real(x) if !x.is_finite() => Err(Unscored::NotFinite),
            number => Ok(number),
        }
    }

    /// A distance of two integer logits in binary digits, in 2⁻¹⁶.
    fn distance(&self, steps: i64) -> u64 {
        steps.unsigned_abs().saturating_mul(self.factor) >> 16
    }

    /// A probability in 2⁻¹⁵, cut to 0..1.
    fn probability(&self, number: &Number) -> u32 {
        match number {
            Number::Integer(q) => {
                (q.saturating_mul(self.factor as i64) >> 9).clamp(0, i64::from(ONE_Q15)) as u32
            }
            Number::Real(x) => ((x * 32_768.0) as i32).clamp(0, ONE_Q15 as i32) as u32,
        }
    }

    /// A value in units of the log's header, cut to [`VALUE_RANGE`].
    fn units(&self, number: Number) -> i32 {
        let units = match number {
            Number::Integer(q) => q,
            Number::Real(x) => (x * self.per_unit) as i64,
        };
        units.clamp(-i64::from(VALUE_RANGE), i64::from(VALUE_RANGE)) as i32
    }

    /// A label in those units; `None` for NaN and infinities. `scale` is that of the log's header.
    pub fn label_units(label: f32, scale: f32) -> Option<i32> {
        let units = label / scale;
        let limit = VALUE_RANGE as f32;
        label.is_finite().then(|| units.clamp(-limit, limit) as i32)
    }
}

/// Values and labels are cut to ±2²², so that a period's sums of squares stay below 2⁶².
pub const VALUE_RANGE: i32 = 1 << 22;

/// A distance of two logits in binary digits, in 2⁻¹⁶.
fn log2_distance(distance: f32) -> u64 {
    // Infinite when the difference of two floats overflows; the cast takes that for the largest number.
    (distance * core::f32::consts::LOG2_E * 65_536.0) as u64
}

/// Entropy of weights with this sum over its maximum: (log2 Σw − Σ w·log2 w / Σw) / log2 n, in 2⁻¹⁵. Without any weight it
/// is the maximum.
fn entropy_of(weight: &dyn Fn(usize) -> u64, count: usize, sum: u64) -> u16 {
    let most = u64::from(log2_q16(count as u64));
    if most == 0 {
        return 0;
    }
    if sum == 0 {
        return ONE_Q15 as u16;
    }
    let of_weights: u64 = (0..count)
        .map(|index| {
            let weight = weight(index);
            weight * u64::from(log2_q16(weight))
        })
        .sum();
    let entropy = u64::from(log2_q16(sum)).saturating_sub(of_weights / sum);
    ((entropy << 15) / most).min(u64::from(ONE_Q15)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Class, confidence and entropy in f64, from reals.
    fn oracle(reals: &[f64], scores: Scores) -> (usize, f64, f64) {
        let weights: Vec<f64> = match scores {
            Scores::Probabilities => reals.to_vec(),
            Scores::Logits => {
                let top = reals.iter().copied().fold(f64::MIN, f64::max);
                reals.iter().map(|x| (x - top).exp()).collect()
            }
            Scores::Probability => vec![1.0 - reals[0], reals[0]],
            _ => vec![1.0 / (1.0 + reals[0].exp()), 1.0 / (1.0 + (-reals[0]).exp())],
        };
        let sum: f64 = weights.iter().sum();
        let p: Vec<f64> = weights.iter().map(|w| w / sum).collect();
        let class = (0..p.len()).rev().max_by(|a, b| p[*a].total_cmp(&p[*b])).expect("classes");
        let entropy: f64 = p.iter().filter(|p| **p > 0.0).map(|p| -p * p.log2()).sum();
        let confidence = match scores {
            Scores::Probabilities => weights[class],
            _ => p[class],
        };
        (class, confidence, entropy / (p.len() as f64).log2())
    }

    #[test]
    fn scores_agree_with_floats() {
        struct Case {
            scores: Scores,
            classes: u16,
            dtype: DType,
            scale: f32,
            zero_point: i32,
        }
        let case = |scores, classes, dtype, scale, zero_point| Case {
            scores,
            classes,
            dtype,
            scale,
            zero_point,
        };
        let cases = [
            case(Scores::Probabilities, 10, DType::I8, 1.0 / 256.0, -128),
            case(Scores::Probabilities, 3, DType::U8, 1.0 / 256.0, 0),
            case(Scores::Probabilities, 2, DType::F32, 0.0, 0),
            case(Scores::Logits, 10, DType::I8, 0.1, 7),
            case(Scores::Logits, 12, DType::I16, 0.001, 0),
            case(Scores::Logits, 4, DType::F32, 0.0, 0),
            case(Scores::Probability, 2, DType::I8, 1.0 / 256.0, -128),
            case(Scores::Logit, 2, DType::F32, 0.0, 0),
            case(Scores::Logit, 2, DType::I8, 0.05, 3),
        ];
        let mut random = crate::metrics::counters::tests::Random(9);
        for Case { scores, classes, dtype, scale, zero_point } in cases {
            let scorer =
                Scorer::new(scores, classes, (dtype, scale, zero_point), 1.0).expect("fits");
            let count =
                if matches!(scores, Scores::Probability | Scores::Logit) { 1 } else { classes };
            for _ in 0..500 {
                let mut bytes = Vec::new();
                let mut reals = Vec::new();
                // Probabilities add up to one at most.
                let mut left = 256;
                for _ in 0..count {
                    let part = random.below(left + 1).min(255);
                    let of_one = matches!(scores, Scores::Probabilities | Scores::Probability);
                    left -= if of_one { part } else { 0 };
                    let q = if of_one {
                        part as i32 + zero_point
                    } else {
                        random.below(256) as i32 - 128
                    };
                    match dtype {
                        DType::I8 => bytes.push(q as i8 as u8),
                        DType::U8 => bytes.push(q as u8),
                        DType::I16 => bytes.extend((q as i16 * 50).to_le_bytes()),
                        _ => {
                            let x = if of_one { part as f32 / 256.0 } else { q as f32 / 9.0 };
                            bytes.extend(x.to_le_bytes());
                            reals.push(f64::from(x));
                            continue;
                        }
                    }
                    let q = if dtype == DType::I16 { q * 50 } else { q };
                    reals.push(f64::from(q - zero_point) * f64::from(scale));
                }
                let found = scorer.score(&bytes).expect("scores");
                let (class, confidence, entropy) = oracle(&reals, scores);
                if reals.iter().sum::<f64>() == 0.0 && scores == Scores::Probabilities {
                    continue;
                }
                let margin = (confidence - 0.5).abs() < 1e-4 && classes == 2;
                assert!(usize::from(found.class) == class || margin, "{scores:?} {reals:?}");
                let near = |q15: u16, exact: f64, tolerance: f64| {
                    (f64::from(q15) / 32768.0 - exact).abs() < tolerance
                };
                // A step of 2⁻¹⁵, and the factor's truncation over distances of some 50 digits.
                assert!(
                    near(found.confidence, confidence, 2e-4),
                    "{scores:?} {found:?} {confidence}"
                );
                assert!(
                    near(found.entropy, entropy, 2e-3),
                    "{scores:?} {found:?} {entropy} {reals:?}"
                );
            }
        }
    }

    #[test]
    fn outputs_that_mean_nothing_are_told_apart() {
        let logits = Scorer::new(Scores::Logits, 2, (DType::F32, 0.0, 0), 1.0).expect("fits");
        let bytes = |values: [f32; 2]| values.map(f32::to_le_bytes).concat();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(logits.score(&bytes([0.0, bad])), Err(Unscored::NotFinite));
        }
        assert_eq!(logits.score(&[0; 4]), Err(Unscored::Wrong));
        let far = logits.score(&bytes([f32::MAX, f32::MIN])).expect("finite");
        assert_eq!((far.class, far.confidence, far.entropy, far.event), (0, 32768, 0, 0));
        let value = Scorer::new(Scores::Value, 0, (DType::F32, 0.0, 0), 0.25).expect("fits");
        for (x, units) in [(1.0f32, 4), (-2.5, -10), (1e30, VALUE_RANGE), (-1e30, -VALUE_RANGE)] {
            assert_eq!(value.score(&x.to_le_bytes()).map(|s| s.value), Ok(units));
            assert_eq!(Scorer::label_units(x, 0.25), Some(units));
        }
        assert_eq!(Scorer::label_units(f32::NAN, 0.25), None);
        for (scores, classes, dtype) in [
            (Scores::Logits, 0, DType::F32),
            (Scores::Logit, 3, DType::F32),
            (Scores::Value, 2, DType::F32),
            (Scores::Logits, 2, DType::I64),
        ] {
            assert_eq!(Scorer::new(scores, classes, (dtype, 0.0, 0), 1.0), None);
        }
        let bins: Vec<usize> = [0, 163, 164, 16384, 32603, 32604, 32768].map(confidence_bin).into();
        assert_eq!(bins, [0, 0, 1, 8, 14, 15, 15]);
        assert_eq!([0, 4095, 4096, 32768].map(entropy_bin), [0, 0, 1, 7]);
    }
}

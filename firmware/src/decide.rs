//! From a session's outputs to what the device should do.

use heapless::Deque;
use whit::{DType, Session, SessionError};

/// Scores and thresholds: real numbers with 16 bits after the point, so that sums over windows are
/// exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score(pub i32);

impl Score {
    /// The nearest score below; saturates at ±32768, NaN is 0.
    pub const fn from_real(real: f32) -> Score {
        Score((real * 65536.0) as i32)
    }

    /// As a real number.
    pub const fn to_real(self) -> f32 {
        self.0 as f32 / 65536.0
    }
}

/// What a window says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Number of the class, or of the output's element.
    pub class: u16,
    /// How strongly: a probability, a smoothed probability, an error.
    pub score: Score,
    /// Whether this window changes what the device should do: a word was heard, the class
    /// changed, an alarm began. Only these are logged.
    pub fired: bool,
}

/// Looks at a session's outputs after a run.
///
/// `before` sees the inputs, whose memory later steps reuse. A closure will do for `decide`.
pub trait Decide {
    /// Called before the run, with the inputs filled.
    fn before(&mut self, session: &mut Session<'_>) -> Result<(), SessionError> {
        let _ = session;
        Ok(())
    }

    /// Called after the run.
    ///
    /// # Errors
    /// When the model's outputs aren't what this looks at.
    fn decide(&mut self, session: &Session<'_>) -> Result<Decision, SessionError>;

    /// Samples were lost: what was smoothed over windows is void.
    fn reset(&mut self) {}
}

impl<F: FnMut(&Session<'_>) -> Result<Decision, SessionError>> Decide for F {
    fn decide(&mut self, session: &Session<'_>) -> Result<Decision, SessionError> {
        self(session)
    }
}

/// Real value of an element of output 0, which is i8, u8 or f32.
fn score(session: &Session<'_>, index: usize) -> Result<Score, SessionError> {
    let slot = session.output_slot(0)?;
    let bytes = session.output_bytes(0)?;
    let quantized = |q: i32| Score::from_real(slot.scale() * (q - slot.zero_point()) as f32);
    let score = match slot.dtype() {
        DType::I8 => bytes.get(index).map(|q| quantized(i32::from(*q as i8))),
        DType::U8 => bytes.get(index).map(|q| quantized(i32::from(*q))),
        DType::F32 => {
            let (words, _) = bytes.as_chunks::<4>();
            words.get(index).map(|word| Score::from_real(f32::from_le_bytes(*word)))
        }
        _ => None,
    };
    score.ok_or(SessionError::Unknown)
}

/// The class with the largest output; the first of equals. Fires when it is another than before and
/// its score reaches the threshold.
#[derive(Clone, Copy, Debug)]
pub struct ArgMax {
    threshold: Score,
    last: Option<u16>,
}

impl ArgMax {
    /// With the least score that counts; 0 for all.
    pub const fn new(threshold: f32) -> Self {
        ArgMax { threshold: Score::from_real(threshold), last: None }
    }
}

impl Decide for ArgMax {
    fn decide(&mut self, session: &Session<'_>) -> Result<Decision, SessionError> {
        let bytes = session.output_bytes(0)?;
        let best = match session.output_slot(0)?.dtype() {
            // Within one tensor the order of integers is the order of what they stand for.
            DType::I8 => largest(bytes.iter().map(|byte| i32::from(*byte as i8))),
            DType::U8 => largest(bytes.iter().map(|byte| i32::from(*byte))),
            DType::F32 => {
                let (words, _) = bytes.as_chunks::<4>();
                largest(words.iter().map(|word| order(f32::from_le_bytes(*word))))
            }
            _ => None,
        };
        let class = best.ok_or(SessionError::Unknown)?;
        let score = score(session, usize::from(class))?;
        let fired = score >= self.threshold && self.last != Some(class);
        if fired {
            self.last = Some(class);
        }
        Ok(Decision { class, score, fired })
    }

    fn reset(&mut self) {
        self.last = None;
    }
}

/// An integer with the order of the float; NaN is the least.
fn order(real: f32) -> i32 {
    let bits = real.to_bits() as i32;
    match real.is_nan() {
        true => i32::MIN,
        false => bits ^ ((bits >> 31) as u32 >> 1) as i32,
    }
}

fn largest(values: impl Iterator<Item = i32>) -> Option<u16> {
    let mut best = None;
    for (index, value) in values.enumerate() {
        if best.is_none_or(|(_, most)| value > most) {
            best = Some((u16::try_from(index).ok()?, value));
        }
    }
    best.map(|(index, _)| index)
}

/// When a smoothed score is a detection.
#[derive(Clone, Copy, Debug)]
pub struct Trigger {
    /// The mean of the last windows must reach this …
    pub on: Score,
    /// … in so many windows in a row, at least 1, …
    pub windows: u8,
    /// … and fall below this before the next detection …
    pub off: Score,
    /// … which is at least so many windows later.
    pub hold: u16,
}

/// Smooths the score of one class over `K` windows and detects when it rises: wake words, events.
///
/// The mean is that of the windows seen so far until there are `K`: a reset doesn't hold up a detection
/// by itself, `windows` does. Costs `4 · K` bytes and a float multiplication a window.
#[derive(Clone, Debug)]
pub struct Smoothed<const K: usize> {
    class: u16,
    trigger: Trigger,
    scores: Deque<i32, K>,
    sum: i64,
    above: u8,
    /// A detection hasn't ended.
    is_on: bool,
    since: u16,
}

impl<const K: usize> Smoothed<K> {
    /// Watches an element of output 0.
    pub const fn new(class: u16, trigger: Trigger) -> Self {
        const { assert!(K > 0, "a mean needs a window") };
        let since = u16::MAX;
        Smoothed { class, trigger, scores: Deque::new(), sum: 0, above: 0, is_on: false, since }
    }

    fn push(&mut self, score: Score) -> Decision {
        if self.scores.is_full() {
            self.sum -= i64::from(self.scores.pop_front().unwrap_or(0));
        }
        if self.scores.push_back(score.0).is_ok() {
            self.sum += i64::from(score.0);
        }
        let count = i64::try_from(self.scores.len()).unwrap_or(1).max(1);
        let mean = Score((self.sum / count) as i32); // between the least and the largest i32
        self.since = self.since.saturating_add(1);
        self.above = if mean >= self.trigger.on { self.above.saturating_add(1) } else { 0 };
        if mean < self.trigger.off {
            self.is_on = false;
        }
        let is_due = self.above >= self.trigger.windows.max(1) && self.since >= self.trigger.hold;
        let fired = is_due && !self.is_on;
        if fired {
            self.is_on = true;
            self.since = 0;
        }
        Decision { class: self.class, score: mean, fired }
    }
}

impl<const K: usize> Decide for Smoothed<K> {
    fn decide(&mut self, session: &Session<'_>) -> Result<Decision, SessionError> {
        Ok(self.push(score(session, usize::from(self.class))?))
    }

    fn reset(&mut self) {
        self.scores.clear();
        self.sum = 0;
        self.above = 0;
    }
}

/// How badly an autoencoder reproduces its input: the mean squared error between input 0 and
/// output 0, smoothed over `K` windows; fires when an alarm begins.
///
/// Keeps a copy of the input, of up to `BYTES` bytes: its memory is gone after the run. i8 or f32.
#[derive(Clone, Debug)]
pub struct Anomaly<const BYTES: usize, const K: usize> {
    input: heapless::Vec<u8, BYTES>,
    dtype: DType,
    scale: f32,
    zero_point: i32,
    smoothed: Smoothed<K>,
}

impl<const BYTES: usize, const K: usize> Anomaly<BYTES, K> {
    /// With the errors at which an alarm begins and ends.
    pub const fn new(trigger: Trigger) -> Self {
        Anomaly {
            input: heapless::Vec::new(),
            dtype: DType::I8,
            scale: 0.0,
            zero_point: 0,
            smoothed: Smoothed::new(0, trigger),
        }
    }
}

impl<const BYTES: usize, const K: usize> Decide for Anomaly<BYTES, K> {
    fn before(&mut self, session: &mut Session<'_>) -> Result<(), SessionError> {
        let slot = session.input_slot(0)?;
        (self.dtype, self.scale, self.zero_point) = (slot.dtype(), slot.scale(), slot.zero_point());
        self.input.clear();
        let expected = slot.dtype();
        let wrong = SessionError::InputType { input: 0, expected };
        match expected {
            DType::I8 => {
                let input = session.input_mut::<i8>(0)?;
                input.iter().try_for_each(|q| self.input.push(*q as u8)).map_err(|_| wrong)
            }
            DType::F32 => session
                .input_mut::<f32>(0)?
                .iter()
                .try_for_each(|real| self.input.extend_from_slice(&real.to_le_bytes()))
                .map_err(|_| wrong),
            _ => Err(wrong),
        }
    }

    fn decide(&mut self, session: &Session<'_>) -> Result<Decision, SessionError> {
        let slot = session.output_slot(0)?;
        let output = reals(session.output_bytes(0)?, slot.dtype(), slot.scale(), slot.zero_point());
        let input = reals(&self.input, self.dtype, self.scale, self.zero_point);
        let error = mean_squared_error(input, output).ok_or(SessionError::Unknown)?;
        Ok(self.smoothed.push(Score::from_real(error)))
    }

    fn reset(&mut self) {
        self.smoothed.reset();
    }
}

/// The real values of i8 or f32 elements; nothing of others.
pub(crate) fn reals(
    bytes: &[u8],
    dtype: DType,
    scale: f32,
    zero_point: i32,
) -> impl Iterator<Item = f32> + '_ {
    let (integers, floats): (&[u8], &[u8]) = match dtype {
        DType::I8 => (bytes, &[]),
        DType::F32 => (&[], bytes),
        _ => (&[], &[]),
    };
    let integers = integers.iter().map(move |q| scale * (i32::from(*q as i8) - zero_point) as f32);
    integers.chain(floats.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)))
}

/// `None` unless there are equally many, and some.
pub(crate) fn mean_squared_error(
    a: impl Iterator<Item = f32>,
    mut b: impl Iterator<Item = f32>,
) -> Option<f32> {
    let (mut sum, mut count) = (0.0, 0u32);
    for a in a {
        let difference = a - b.next()?;
        sum += difference * difference;
        count += 1;
    }
    (count > 0 && b.next().is_none()).then(|| sum / count as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smoothed_score_fires_once_a_word() {
        struct Case {
            name: &'static str,
            trigger: Trigger,
            scores: &'static [f32],
            fires: &'static [usize],
        }
        let [on, off] = [Score::from_real(0.8), Score::from_real(0.5)];
        let trigger = Trigger { on, windows: 1, off, hold: 0 };
        let cases = [
            Case {
                name: "one high window among low ones is smoothed away",
                trigger,
                scores: &[0.0, 0.0, 1.0, 0.0, 0.0],
                fires: &[],
            },
            Case {
                name: "a long word fires once, the next one again",
                trigger,
                scores: &[0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0],
                fires: &[3, 11],
            },
            Case {
                name: "between the thresholds nothing ends and nothing begins",
                trigger,
                scores: &[1.0, 0.6, 0.6, 0.6, 1.0, 1.0, 1.0],
                fires: &[0],
            },
            Case {
                name: "several windows in a row",
                trigger: Trigger { windows: 3, ..trigger },
                scores: &[1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0],
                fires: &[7],
            },
            Case {
                name: "not again before the hold is over",
                trigger: Trigger { hold: 8, ..trigger },
                scores: &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
                fires: &[0, 8],
            },
            Case {
                name: "no number is no detection",
                trigger,
                scores: &[f32::NAN, f32::NAN, f32::NEG_INFINITY, f32::NAN],
                fires: &[],
            },
        ];
        for case in cases {
            let mut smoothed = Smoothed::<3>::new(0, case.trigger);
            let fires: Vec<_> = (0..case.scores.len())
                .filter(|i| smoothed.push(Score::from_real(case.scores[*i])).fired)
                .collect();
            assert_eq!(fires, case.fires, "{}", case.name);
        }
    }

    #[test]
    fn floats_are_ordered_as_numbers() {
        let sorted = [f32::NAN, f32::NEG_INFINITY, -1.0, -1e-40, 0.0, 1e-40, 2.0, f32::INFINITY];
        assert!(sorted.map(order).is_sorted());
        assert_eq!(largest([3, 7, 7, -1].into_iter()), Some(1));
        assert_eq!(largest([].into_iter()), None);
    }
}

//! Chooses change detectors and their thresholds: how many false alarms they raise on resampled calibration data.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use whit::metrics::detect::{Detector, DetectorRecord};
use whit::metrics::record::{Scores, Signal, Source};

use super::{Blocks, Observed};

/// False alarms that the resampled data is long enough for: their number is known to a ninth.
const EXPECTED_ALARMS: f64 = 80.0;
/// Numbers that are resampled at most; ADWIN, which is slower, gets a part.
const MOST_NUMBERS: usize = 1 << 21;
const MOST_FOR_ADWIN: usize = 1 << 18;
/// Streams that they are: each has its own idea of what is usual.
const STREAMS: usize = 64;
/// The bound of ADWIN below which every cut is one: −ln(2 ln n) of the longest window.
const LOOSEST_ADWIN: i32 = -(5 << 15);

/// Records of the detectors. `per_run` is the rate of false alarms.
pub(super) fn choose(
    observed: &Observed,
    blocks: &Blocks,
    per_run: f64,
    seed: u64,
) -> Vec<DetectorRecord> {
    let scored = || observed.scored.iter().flatten();
    let signals: Vec<(Signal, Vec<i32>)> = match observed.scores {
        Scores::None => return Vec::new(),
        Scores::Value => vec![(Signal::Value, scored().map(|scored| scored.value).collect())],
        _ => vec![
            (Signal::Confidence, scored().map(|scored| scored.confidence.into()).collect()),
            (Signal::Entropy, scored().map(|scored| scored.entropy.into()).collect()),
        ],
    };
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x6465_7465);
    let mut records = Vec::new();
    for (at, (signal, values)) in signals.iter().enumerate() {
        if values.is_empty() {
            continue;
        }
        let field = Field::draw(&mut random, values, blocks.outputs, per_run);
        let count = values.len() as f64;
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
        let variance = values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
        let (mean, deviation) = (mean.round() as i32, variance.sqrt().ceil() as i32);
        let record = |source: Source, parameters: [i32; 3]| DetectorRecord {
            source: source as u8,
            signal: *signal as u8,
            reserved: 0,
            parameters,
        };
        // Allowances for shifts of one deviation: half of it (Montgomery), and weight 0.05 of a chart for small shifts.
        let half = deviation / 2;
        // Each kind watches one signal: confidence, and entropy when there are both.
        let last = at + 1 == signals.len();
        if at == 0 {
            records.push(
                field.smallest(&|threshold| record(Source::PageHinkley, [half, threshold, 30])),
            );
            records.push(field.smallest(&|limit| record(Source::Ewma, [mean, 3277, limit])));
        }
        if last {
            records.push(field.smallest(&|limit| record(Source::Cusum, [mean, half, limit])));
        }
        if *signal == Signal::Confidence {
            let adwin = |strictness| record(Source::Adwin, [strictness, 0, 0]);
            records.push(field.cut(MOST_FOR_ADWIN).smallest_from(LOOSEST_ADWIN, &adwin));
        }
    }
    let errors = observed.errors();
    if !errors.is_empty() {
        let field = Field::draw(&mut random, &errors, blocks.errors, per_run);
        records.push(field.smallest(&|deviations_q8| DetectorRecord {
            source: Source::Ddm as u8,
            signal: Signal::Error as u8,
            reserved: 0,
            parameters: [deviations_q8, 30, 0],
        }));
    }
    records
}

/// What the field may be like without drift.
///
/// The calibration data is one draw of what is usual. A threshold that fits it exactly is too low for the field about half of the
/// time, and false alarms grow fast below it. So each stream draws from its own resample of the calibration data, which differs
/// from it as the field does (Rubin, "The Bayesian bootstrap", 1981), and all streams together may raise as many alarms as stated.
struct Field {
    streams: Vec<Vec<i32>>,
    per_run: f64,
}

impl Field {
    fn draw(random: &mut ChaCha8Rng, values: &[i32], block: usize, per_run: f64) -> Field {
        let numbers = ((EXPECTED_ALARMS / per_run.max(1e-9)) as usize).clamp(1, MOST_NUMBERS);
        let block = block.clamp(1, values.len());
        let stream = |_| {
            let usual: Vec<usize> = (0..values.len().div_ceil(block))
                .map(|_| random.random_range(0..values.len()))
                .collect();
            let mut stream = Vec::new();
            while stream.len() < numbers.div_ceil(STREAMS) {
                let start = usual[random.random_range(0..usual.len())];
                stream.extend((0..block).map(|at| values[(start + at) % values.len()]));
            }
            stream
        };
        Field { streams: (0..STREAMS).map(stream).collect(), per_run }
    }

    /// The first numbers of every stream.
    fn cut(&self, numbers: usize) -> Field {
        let cut = |stream: &Vec<i32>| stream[..stream.len().min(numbers / STREAMS)].to_vec();
        Field { streams: self.streams.iter().map(cut).collect(), per_run: self.per_run }
    }

    /// Whether a detector that begins anew on every stream raises no more alarms than stated.
    fn suits(&self, record: &DetectorRecord) -> bool {
        let numbers: usize = self.streams.iter().map(Vec::len).sum();
        let allowed = (self.per_run * numbers as f64).round() as usize;
        let mut alarms = 0;
        for stream in &self.streams {
            let Some(mut detector) = Detector::new(record) else { return true };
            let more = stream.iter().filter(|x| detector.add(**x).is_some());
            alarms += more.take(allowed + 1).count();
            if alarms > allowed {
                return false;
            }
        }
        true
    }

    /// The detector with the smallest threshold that suits.
    fn smallest(&self, record: &dyn Fn(i32) -> DetectorRecord) -> DetectorRecord {
        self.smallest_from(0, record)
    }

    /// Alarms get fewer as the threshold grows: by doubling, since what raises too many is soon found out, then by halving.
    fn smallest_from(&self, least: i32, record: &dyn Fn(i32) -> DetectorRecord) -> DetectorRecord {
        let (mut low, mut step) = (least, 16);
        let mut high = loop {
            let high = low.saturating_add(step).min(i32::MAX / 2);
            if high == i32::MAX / 2 || self.suits(&record(high)) {
                break high;
            }
            (low, step) = (high, step.saturating_mul(2));
        };
        while high - low > 1 + high.abs() / 256 {
            let middle = low + (high - low) / 2;
            if self.suits(&record(middle)) { high = middle } else { low = middle }
        }
        record(high)
    }
}

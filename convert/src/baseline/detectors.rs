//! Chooses change detectors and their thresholds: how many false alarms they raise on resampled calibration data.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use whit::metrics::detect::{Detector, DetectorRecord};
use whit::metrics::record::{Scores, Signal, Source};

use super::Observed;
use super::null::resample;

/// False alarms that a stream of calibration data is long enough for: their number is known to a fifth.
const EXPECTED_ALARMS: f64 = 25.0;
/// Numbers of such a stream at most.
const MOST_NUMBERS: usize = 1 << 19;

/// Records of the detectors. `per_run` is the rate of false alarms.
pub(super) fn choose(observed: &Observed, per_run: f64, seed: u64) -> Vec<DetectorRecord> {
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
    let len = ((EXPECTED_ALARMS / per_run.max(1e-9)) as usize).clamp(1, MOST_NUMBERS);
    let mut records = Vec::new();
    for (at, (signal, values)) in signals.iter().enumerate() {
        if values.is_empty() {
            continue;
        }
        let stream: Vec<i32> =
            resample(&mut random, values.len(), len).map(|sample| values[sample]).collect();
        let allowed = (per_run * stream.len() as f64).round() as usize;
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
        let page_hinkley = |threshold| record(Source::PageHinkley, [half, threshold, 30]);
        let cusum = |limit| record(Source::Cusum, [mean, half, limit]);
        let ewma = |limit| record(Source::Ewma, [mean, 3277, limit]);
        // Each kind watches one signal: confidence, and entropy when there are both.
        let last = at + 1 == signals.len();
        if at == 0 {
            records.push(page_hinkley(smallest(&stream, allowed, &page_hinkley)));
            records.push(ewma(smallest(&stream, allowed, &ewma)));
        }
        if last {
            records.push(cusum(smallest(&stream, allowed, &cusum)));
        }
        if *signal == Signal::Confidence {
            let adwin = |strictness| record(Source::Adwin, [strictness, 0, 0]);
            // ADWIN is slower: a part of the stream, and ln(1/δ) in steps of 1 from 0 to 40.
            let part = &stream[..stream.len().min(1 << 17)];
            let allowed = (per_run * part.len() as f64).round() as usize;
            let step =
                (0..40).find(|step| alarms(part, &adwin(step << 16)) <= allowed).unwrap_or(40);
            records.push(adwin(step << 16));
        }
    }
    if let Some(labels) = observed.labels.as_ref().filter(|_| observed.classes > 0) {
        let errors: Vec<i32> = (observed.scored.iter().zip(labels))
            .filter_map(|(scored, label)| {
                let scored = scored.as_ref()?;
                Some(i32::from(usize::from(scored.class) != *label) << 15)
            })
            .collect();
        if !errors.is_empty() {
            let stream: Vec<i32> =
                resample(&mut random, errors.len(), len).map(|sample| errors[sample]).collect();
            let ddm = |deviations_q8| DetectorRecord {
                source: Source::Ddm as u8,
                signal: Signal::Error as u8,
                reserved: 0,
                parameters: [deviations_q8, 30, 0],
            };
            let allowed = (per_run * stream.len() as f64).round() as usize;
            // Never stricter than the paper's 3 deviations.
            records.push(ddm(smallest(&stream, allowed, &ddm).max(3 << 8)));
        }
    }
    records
}

/// How many alarms a detector raises.
fn alarms(stream: &[i32], record: &DetectorRecord) -> usize {
    let Some(mut detector) = Detector::new(record) else { return 0 };
    stream.iter().filter(|x| detector.add(**x).is_some()).count()
}

/// The smallest threshold with no more alarms than allowed, by halving: alarms get fewer as it grows.
fn smallest(stream: &[i32], allowed: usize, record: &dyn Fn(i32) -> DetectorRecord) -> i32 {
    let (mut low, mut high) = (0, i32::MAX / 2);
    while high - low > 1 + low / 256 {
        let middle = low + (high - low) / 2;
        if alarms(stream, &record(middle)) <= allowed { high = middle } else { low = middle }
    }
    high
}

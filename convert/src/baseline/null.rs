//! How drift statistics are distributed without drift, by the bootstrap.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use whit::metrics::drift::{P_LEVELS, STATISTICS, Statistic, level, p_value};
use whit::metrics::scores::{Scored, confidence_bin};

use super::features::{BINS, Watched};
use super::{Blocks, Observed};

/// Thresholds of the drift tests.
pub(super) struct Null {
    pub(super) means: Vec<[u16; STATISTICS]>,
    pub(super) quantiles: [[u16; 16]; STATISTICS],
    pub(super) discovery_q32: u32,
    pub(super) class_thresholds: [u32; STATISTICS],
    pub(super) confidence_thresholds: [u32; STATISTICS],
}

/// Draws samples in circular blocks of neighbours (Politis and Romano, "A circular block-resampling procedure for stationary
/// data", 1992).
pub(super) fn resample(
    random: &mut ChaCha8Rng,
    samples: usize,
    block: usize,
    count: usize,
) -> impl Iterator<Item = usize> + use<> {
    let block = block.max(1);
    let starts: Vec<usize> =
        (0..count.div_ceil(block)).map(|_| random.random_range(0..samples)).collect();
    (0..count).map(move |index| (starts[index / block] + index % block) % samples)
}

/// Samples, each as the counters that it adds to.
struct Rows {
    rows: Vec<Vec<(u32, u32)>>,
    counters: usize,
    block: usize,
}

impl Rows {
    /// The counts of so many samples.
    fn draw(&self, random: &mut ChaCha8Rng, count: usize) -> Vec<u32> {
        let mut counts = vec![0u32; self.counters];
        for sample in resample(random, self.rows.len(), self.block, count) {
            for (index, count) in &self.rows[sample] {
                counts[*index as usize] += count;
            }
        }
        counts
    }

    /// Those of calibration data and of a window.
    fn pair(&self, random: &mut ChaCha8Rng, window_runs: usize) -> (Vec<u32>, Vec<u32>) {
        if self.rows.is_empty() || self.counters == 0 {
            return (vec![0; self.counters], vec![0; self.counters]);
        }
        (self.draw(random, self.rows.len()), self.draw(random, window_runs))
    }
}

/// Draws `rounds` pairs of calibration data and window.
pub(super) fn draw(
    observed: &Observed,
    blocks: &Blocks,
    window_runs: usize,
    rounds: usize,
    false_alarm: f64,
    seed: u64,
) -> Null {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x6261_7365);
    let features = observed.watched.as_ref().map_or(0, |watched| watched.features);
    let classes = usize::from(observed.classes);
    let of_inputs = |watched: &Watched, sample| {
        let counts = watched.counts_of(sample).into_iter().enumerate();
        counts.filter(|(_, count)| *count > 0).map(|(index, count)| (index as u32, count)).collect()
    };
    let inputs = Rows {
        rows: observed.watched.as_ref().map_or(vec![], |watched| {
            (0..watched.samples()).map(|sample| of_inputs(watched, sample)).collect()
        }),
        counters: features * BINS,
        block: blocks.inputs,
    };
    let of_output = |scored: &Option<Scored>| match scored {
        Some(scored) => vec![
            (u32::from(scored.class), 1),
            ((classes + confidence_bin(scored.confidence)) as u32, 1),
        ],
        None => vec![],
    };
    let outputs = Rows {
        rows: if classes > 0 { observed.scored.iter().map(of_output).collect() } else { vec![] },
        counters: if classes > 0 { classes + 16 } else { 0 },
        block: blocks.outputs,
    };
    let mut of_features: [Vec<Vec<u32>>; STATISTICS] = Default::default();
    let (mut of_classes, mut of_confidence) =
        <([Vec<u32>; STATISTICS], [Vec<u32>; STATISTICS])>::default();
    for _ in 0..rounds {
        let of_inputs = inputs.pair(&mut random, window_runs);
        let of_outputs = outputs.pair(&mut random, window_runs);
        for (number, statistic) in Statistic::ALL.into_iter().enumerate() {
            let of = |(reference, window): &(Vec<u32>, Vec<u32>), start: usize, bins: usize| {
                statistic.of(bins, &|bin| window[start + bin], &|bin| reference[start + bin])
            };
            of_features[number]
                .push((0..features).map(|feature| of(&of_inputs, feature * BINS, BINS)).collect());
            if classes > 0 {
                of_classes[number].push(of(&of_outputs, 0, classes));
                of_confidence[number].push(of(&of_outputs, classes, 16));
            }
        }
    }

    let mut means = vec![[1; STATISTICS]; features];
    let mut quantiles = [[u16::MAX; 16]; STATISTICS];
    let mut discovery_q32 = u32::MAX;
    for (number, rounds_of) in of_features.iter().enumerate() {
        for (feature, means) in means.iter_mut().enumerate() {
            let sum: u64 = rounds_of.iter().map(|round| u64::from(round[feature])).sum();
            means[number] = (sum / rounds.max(1) as u64).clamp(1, u64::from(u16::MAX)) as u16;
        }
        // All features together, each over its mean.
        let mut ratios: Vec<u64> = rounds_of
            .iter()
            .flat_map(|round| round.iter().zip(&means))
            .map(|(value, means)| (u64::from(*value) << 8) / u64::from(means[number]))
            .collect();
        ratios.sort_unstable_by(|a, b| b.cmp(a));
        for (quantile, p) in quantiles[number].iter_mut().zip(P_LEVELS) {
            let exceed = (f64::from(p) / 4_294_967_296.0 * ratios.len() as f64) as usize;
            if exceed > 0 && exceed < ratios.len() {
                *quantile = (ratios[exceed] + 1).min(u64::from(u16::MAX)) as u16;
            }
        }
        // The rate at which a round would have had a discovery.
        let mut rates: Vec<u64> = rounds_of
            .iter()
            .map(|round| {
                let levels: Vec<usize> = round
                    .iter()
                    .zip(&means)
                    .map(|(value, means)| {
                        level(*value, means[number].into(), &|level| {
                            quantiles[number][level].into()
                        })
                    })
                    .collect();
                (1..=P_LEVELS.len())
                    .filter_map(|level| {
                        let count = levels.iter().filter(|of| **of >= level).count() as u64;
                        let rate = u64::from(p_value(level)) * features as u64;
                        (count > 0).then(|| rate.div_ceil(count))
                    })
                    .min()
                    .unwrap_or(u64::MAX)
            })
            .collect();
        rates.sort_unstable();
        let allowed = (false_alarm * rounds as f64) as usize;
        if let Some(rate) = rates.get(allowed) {
            let below = rate.saturating_sub(1).min(u64::from(u32::MAX)) as u32;
            discovery_q32 = discovery_q32.min(below);
        }
    }
    let threshold = |values: &Vec<u32>| {
        let mut values = values.clone();
        values.sort_unstable_by(|a, b| b.cmp(a));
        values.get((false_alarm * rounds as f64) as usize).copied().unwrap_or(u32::MAX)
    };
    Null {
        means,
        quantiles,
        discovery_q32,
        class_thresholds: of_classes.each_ref().map(threshold),
        confidence_thresholds: of_confidence.each_ref().map(threshold),
    }
}

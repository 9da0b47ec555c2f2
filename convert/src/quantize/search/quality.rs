//! What a search measures of a candidate: the quality of its outputs.

use crate::evaluate::{EvaluateError, Program, Samples, describe, feed, output_reals};
use crate::quantize::measure::{Noise, overall_db};

/// Samples that the error near a decision is taken from, at least: those whose decision is closest.
const NEAREST: usize = 16;

/// How the quality of outputs is told, 1 being perfect.
#[derive(Clone, Debug, PartialEq)]
pub enum Quality {
    /// The share of samples whose largest score, in the first output, is the labelled class'; with one score, whether
    /// it is above a half.
    Accuracy {
        /// The class of each sample.
        labels: Vec<usize>,
    },
    /// The share of samples answered as the float model does: accuracy where there are no labels. What it loses is at
    /// least what accuracy loses.
    Agreement,
    /// One less the error's share of the power of the float outputs: for outputs that aren't scores of classes.
    Fidelity,
}

impl Quality {
    /// Its name in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Quality::Accuracy { .. } => "accuracy",
            Quality::Agreement => "agreement with the float model",
            Quality::Fidelity => "fidelity to the float outputs",
        }
    }
}

/// The outputs of a program on every sample, and how long runs took.
pub struct Answers {
    /// By sample, then by output.
    outputs: Vec<Vec<Vec<f32>>>,
    /// Median of the runs, in microseconds.
    pub latency_us: f64,
}

impl Answers {
    /// Runs a program on every sample. For a model with state the samples are one sequence.
    ///
    /// # Errors
    /// When a sample doesn't fit or a run fails.
    pub fn of(
        program: &Program,
        samples: &dyn Samples,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Answers, EvaluateError> {
        let mut session = program.session(None)?;
        session.reset_state();
        let mut outputs = Vec::with_capacity(samples.len());
        let mut times = Vec::with_capacity(samples.len());
        for sample in 0..samples.len() {
            feed(&mut session, samples, sample)?;
            let start = std::time::Instant::now();
            session.run().map_err(|error| EvaluateError::Run {
                sample,
                why: describe(session.model(), error),
            })?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
            let count = session.model().outputs().len();
            let reals: Result<Vec<_>, _> =
                (0..count).map(|output| output_reals(&session, output)).collect();
            outputs.push(reals?);
            progress(sample + 1);
        }
        times.sort_by(f64::total_cmp);
        let latency_us = times.get(times.len() / 2).copied().unwrap_or(0.0);
        Ok(Answers { outputs, latency_us })
    }

    /// Whether the first output looks like scores of classes: a few numbers whose largest differs from sample to
    /// sample, or that sum to 1.
    pub fn are_scores(&self) -> bool {
        let rows = || self.outputs.iter().filter_map(|outputs| outputs.first());
        let classes = rows().map(Vec::len).max().unwrap_or(0);
        let sums_to_1 = rows().all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-3);
        (2..=1000).contains(&classes)
            && self.outputs.iter().all(|outputs| outputs.len() == 1)
            && sums_to_1
    }

    /// The class that a sample was given.
    fn class(&self, sample: usize) -> usize {
        let row = self.outputs[sample].first().map_or(&[][..], Vec::as_slice);
        match row {
            [one] => usize::from(*one > 0.5),
            row => crate::statistics::classification::argmax(row),
        }
    }

    /// The quality of these answers beside the float model's.
    pub fn quality(&self, quality: &Quality, float: &Answers) -> f64 {
        let share = |right: &dyn Fn(usize) -> bool| {
            let right = (0..self.outputs.len()).filter(|sample| right(*sample)).count();
            right as f64 / self.outputs.len().max(1) as f64
        };
        match quality {
            Quality::Accuracy { labels } => {
                share(&|sample| labels.get(sample) == Some(&self.class(sample)))
            }
            Quality::Agreement => share(&|sample| self.class(sample) == float.class(sample)),
            Quality::Fidelity => {
                let noise = self.noise(float);
                1.0 - noise.iter().map(Noise::ratio).sum::<f64>() / noise.len().max(1) as f64
            }
        }
    }

    /// The quality that errors as large as these leave in the mean.
    ///
    /// Of a few hundred samples only a few answers change, and luck decides which way. But each sample has a margin, by
    /// which the right class is ahead in float, and an error in it. With normal errors of variance σ² a margin m is kept
    /// with probability Φ(m / σ). σ² is the mean square of the errors where margins are smallest: scores near 0 and 1
    /// err less, and don't matter.
    pub fn expected_quality(&self, quality: &Quality, float: &Answers) -> f64 {
        let class = |sample: usize| match quality {
            Quality::Accuracy { labels } => labels.get(sample).copied(),
            Quality::Agreement => Some(float.class(sample)),
            Quality::Fidelity => None,
        };
        let margins: Option<Vec<(f64, f64)>> = (0..self.outputs.len())
            .map(|sample| {
                let class = class(sample)?;
                Some((float.margin(sample, class)?, self.margin(sample, class)?))
            })
            .collect();
        let Some(mut margins) = margins.filter(|margins| !margins.is_empty()) else {
            return self.quality(quality, float);
        };
        margins.sort_by(|a, b| a.0.abs().total_cmp(&b.0.abs()));
        let near = margins.len().min(NEAREST.max(margins.len() / 4));
        let squares: f64 = margins[..near].iter().map(|(float, own)| (own - float).powi(2)).sum();
        let sigma = (squares / near as f64).sqrt();
        if sigma == 0.0 {
            return float.quality(quality, float);
        }
        let kept = |(margin, _): &(f64, f64)| {
            0.5 * libm::erfc(-margin / sigma * std::f64::consts::FRAC_1_SQRT_2)
        };
        margins.iter().map(kept).sum::<f64>() / margins.len() as f64
    }

    /// How far the score of a class is ahead of the others; none when there is no such score.
    fn margin(&self, sample: usize, class: usize) -> Option<f64> {
        let row = self.outputs[sample].first()?;
        if let [one] = row[..] {
            let above = f64::from(one) - 0.5;
            return Some(if class == 1 { above } else { -above });
        }
        let own = *row.get(class)?;
        let others = row.iter().enumerate().filter(|(at, _)| *at != class);
        let best = others.map(|(_, score)| *score).fold(f32::NEG_INFINITY, f32::max);
        Some(f64::from(own) - f64::from(best))
    }

    /// The signal-to-noise ratio of the outputs in decibels.
    pub fn snr_db(&self, float: &Answers) -> f64 {
        overall_db(&self.noise(float))
    }

    fn noise(&self, float: &Answers) -> Vec<Noise> {
        let outputs = self.outputs.first().map_or(0, Vec::len);
        let mut noise = vec![Noise::default(); outputs];
        for (own, float) in self.outputs.iter().zip(&float.outputs) {
            for ((noise, own), float) in noise.iter_mut().zip(own).zip(float) {
                noise.add(float, own);
            }
        }
        noise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(rows: &[&[f32]]) -> Answers {
        let outputs = rows.iter().map(|row| vec![row.to_vec()]).collect();
        Answers { outputs, latency_us: 0.0 }
    }

    #[test]
    fn qualities() {
        let float = answers(&[&[0.9, 0.1], &[0.2, 0.8], &[0.6, 0.4], &[0.3, 0.7]]);
        let other = answers(&[&[0.9, 0.1], &[0.2, 0.8], &[0.4, 0.6], &[0.3, 0.7]]);
        let labels = vec![0, 1, 1, 0];
        assert!(float.are_scores());
        let cases = [
            (Quality::Accuracy { labels: labels.clone() }, 0.5, 0.75),
            (Quality::Agreement, 1.0, 0.75),
            // Σ error² is 2 · 0.2², Σ float² 0.82 + 0.68 + 0.52 + 0.58.
            (Quality::Fidelity, 1.0, 1.0 - 0.08 / 2.6),
        ];
        for (quality, of_float, of_other) in cases {
            assert!((float.quality(&quality, &float) - of_float).abs() < 1e-6, "{quality:?}");
            assert!((other.quality(&quality, &float) - of_other).abs() < 1e-6, "{quality:?}");
        }
        assert_eq!(float.expected_quality(&Quality::Agreement, &float), 1.0);
        // Margins of 0.8, 0.6, 0.2 and 0.4; errors of 0, 0, 0.4 and 0.
        let phi = |x: f64| 0.5 * libm::erfc(-x / 2f64.sqrt());
        let kept: f64 = [0.8, 0.6, 0.2, 0.4].map(|margin| phi(margin / 0.2)).iter().sum();
        let expected = other.expected_quality(&Quality::Agreement, &float);
        assert!((expected - kept / 4.0).abs() < 1e-6, "{expected}");
        let single = answers(&[&[0.4], &[0.6]]);
        let accuracy = Quality::Accuracy { labels: vec![0, 1] };
        assert_eq!(single.quality(&accuracy, &single), 1.0);
    }
}

//! How far a quantized program's outputs are from the float program's.

use crate::evaluate::{EvaluateError, Program, Samples, describe, feed, output_reals};
use crate::graph::Graph;
use crate::plan::PlanOptions;
use crate::quantize::calibrate::Ranges;
use crate::quantize::numbers::Numbers;
use crate::quantize::quantization::Quantization;

/// Sums of squares of a signal and of an error in it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Noise {
    /// Σ signal².
    pub signal: f64,
    /// Σ (signal − other)².
    pub error: f64,
}

impl Noise {
    /// Adds the elements of a reference and of what should equal it.
    pub fn add(&mut self, reference: &[f32], other: &[f32]) {
        for (reference, other) in reference.iter().zip(other) {
            let (reference, other) = (f64::from(*reference), f64::from(*other));
            self.signal += reference * reference;
            self.error += (reference - other).powi(2);
        }
    }

    /// Error power over signal power; 0 when there is no error.
    pub fn ratio(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.signal.max(f64::MIN_POSITIVE) }
    }

    /// Signal-to-noise ratio in decibels, `10 log10(Σ signal² / Σ error²)`; infinite when there is no error.
    pub fn snr_db(&self) -> f64 {
        -10.0 * self.ratio().log10()
    }
}

/// The error of every output over all samples.
///
/// # Errors
/// When a sample doesn't fit or a run fails.
pub fn output_noise(
    reference: &Program,
    other: &Program,
    samples: &dyn Samples,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Noise>, EvaluateError> {
    let mut sums: Vec<Noise> = Vec::new();
    noise_by_sample(reference, other, samples, &mut |sample, noise| {
        sums.resize(noise.len(), Noise::default());
        for (sum, noise) in sums.iter_mut().zip(noise) {
            sum.signal += noise.signal;
            sum.error += noise.error;
        }
        progress(sample + 1, samples.len());
    })?;
    Ok(sums)
}

/// The error of every output, sample by sample.
///
/// # Errors
/// When a sample doesn't fit or a run fails.
pub fn noise_by_sample(
    reference: &Program,
    other: &Program,
    samples: &dyn Samples,
    see: &mut dyn FnMut(usize, &[Noise]),
) -> Result<(), EvaluateError> {
    let (mut a, mut b) = (reference.session(None)?, other.session(None)?);
    a.reset_state();
    b.reset_state();
    let outputs = a.model().outputs().len();
    let mut noise = vec![Noise::default(); outputs];
    for sample in 0..samples.len() {
        for session in [&mut a, &mut b] {
            feed(session, samples, sample)?;
            session.run().map_err(|error| EvaluateError::Run {
                sample,
                why: describe(session.model(), error),
            })?;
        }
        for (output, noise) in noise.iter_mut().enumerate() {
            *noise = Noise::default();
            noise.add(&output_reals(&a, output)?, &output_reals(&b, output)?);
        }
        see(sample, &noise);
    }
    Ok(())
}

/// Error over signal, averaged over the outputs, of a float graph whose nodes get these numbers.
///
/// # Errors
/// As [`output_noise`].
pub fn noise_of_mix(
    graph: &Graph,
    numbers: &[Numbers],
    ranges: &Ranges,
    float: &Program,
    samples: &dyn Samples,
) -> Result<f64, EvaluateError> {
    let quantization = Quantization::new(graph.clone(), numbers, ranges);
    let program = Program::new(&quantization.lowered(), &PlanOptions::default())?;
    Ok(mean_ratio(&output_noise(float, &program, samples, &mut |_, _| ())?))
}

fn mean_ratio(noise: &[Noise]) -> f64 {
    noise.iter().map(Noise::ratio).sum::<f64>() / noise.len().max(1) as f64
}

/// What each sample has in the ratio of error to signal, averaged over the outputs.
pub fn shares(noise: &[Vec<Noise>]) -> Vec<f64> {
    let outputs = noise.first().map_or(0, Vec::len);
    let signal = |output: usize| noise.iter().map(|sample| sample[output].signal).sum::<f64>();
    let signals: Vec<f64> = (0..outputs).map(signal).collect();
    let share = |sample: &Vec<Noise>| {
        let ratios = sample
            .iter()
            .zip(&signals)
            .map(|(noise, signal)| Noise { signal: *signal, error: noise.error }.ratio());
        ratios.sum::<f64>() / outputs.max(1) as f64
    };
    noise.iter().map(share).collect()
}

/// By how many standard errors the mean of `other` is below that of `base`, samples taken in pairs. 0 for
/// fewer than two samples.
pub fn sigma(base: &[f64], other: &[f64]) -> f64 {
    let count = base.len() as f64;
    let differences = || base.iter().zip(other).map(|(a, b)| a - b);
    let mean = differences().sum::<f64>() / count;
    let squares: f64 = differences().map(|d| (d - mean).powi(2)).sum();
    let error = (squares / (count * (count - 1.0))).sqrt();
    if error > 0.0 { mean / error } else { 0.0 }
}

/// One number for several outputs: the mean of their ratios of error to signal, in decibels.
pub fn overall_db(noise: &[Noise]) -> f64 {
    -10.0 * mean_ratio(noise).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decibels() {
        let mut noise = Noise::default();
        noise.add(&[3.0, 4.0], &[3.0, 4.5]);
        assert_eq!(noise, Noise { signal: 25.0, error: 0.25 });
        assert!((noise.snr_db() - 20.0).abs() < 1e-9);
        assert_eq!(Noise { signal: 1.0, error: 0.0 }.snr_db(), f64::INFINITY);
        assert!((overall_db(&[noise, Noise::default()]) - 23.0103).abs() < 1e-4);
    }
}

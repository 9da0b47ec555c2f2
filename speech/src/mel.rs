//! Log-mel spectrograms as Whisper listens to them.
//!
//! Frames are a hop apart and weighted by a Hann window; their power spectrum is summed by triangular filters on the mel scale of
//! Slaney's Auditory Toolbox (1998). Logarithms more than 8 below the largest of the whole sound are raised to that, and what comes out
//! is `(x + 4) / 4` (Radford et al. 2022).

use std::ops::Range;
use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex};
use whit::Model;

use crate::error::SpeechError;

/// Powers below this count as this.
const LEAST_POWER: f32 = 1e-10;

/// Decades below the largest power that are kept.
const DECADES: f32 = 8.0;

/// The largest transform, spectrogram and number of filters that are computed; Whisper's are 400, 3000 and 128.
const MAX_FFT: usize = 1 << 14;
const MAX_FRAMES: usize = 1 << 16;
const MAX_MELS: usize = 1 << 10;

/// How sound becomes a spectrogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MelSettings {
    /// Samples per second.
    pub sample_rate: u32,
    /// Samples of a frame.
    pub fft: usize,
    /// Samples from a frame to the next.
    pub hop: usize,
    /// Filters.
    pub mels: usize,
    /// Frames of a window, which is what a model listens to at once.
    pub frames: usize,
}

impl MelSettings {
    /// What a model's metadata says: `audio.sample_rate`, `.fft`, `.hop`, `.mels`, `.frames`.
    ///
    /// # Errors
    /// [`SpeechError::NotSpeech`] when a key is missing, [`SpeechError::Metadata`] when it isn't a size that makes sense.
    pub fn of(model: &Model<'_>) -> Result<MelSettings, SpeechError> {
        let number = |key: &'static str, most: usize| {
            let missing = || SpeechError::NotSpeech(format!("it has no metadata `{key}`"));
            let value = model.metadata_value(key).ok_or_else(missing)?;
            let number = value.parse().ok().filter(|number| (1..=most).contains(number));
            let wrong = SpeechError::Metadata { key, value: value.to_owned(), expected: "a size" };
            number.ok_or(wrong)
        };
        Ok(MelSettings {
            sample_rate: number("audio.sample_rate", 1 << 20)? as u32,
            fft: number("audio.fft", MAX_FFT)?,
            hop: number("audio.hop", MAX_FFT)?,
            mels: number("audio.mels", MAX_MELS)?,
            frames: number("audio.frames", MAX_FRAMES)?,
        })
    }

    /// Seconds from a frame to the next.
    pub fn seconds_per_frame(&self) -> f64 {
        self.hop as f64 / f64::from(self.sample_rate)
    }
}

/// What computes spectrograms.
pub struct LogMel {
    settings: MelSettings,
    transform: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    filters: Vec<Filter>,
}

/// A triangle over the bins of a power spectrum.
struct Filter {
    bins: Range<usize>,
    weights: Vec<f32>,
}

/// The spectrogram of a whole sound.
pub struct Spectrogram {
    settings: MelSettings,
    /// Frame by frame, for frames that overlap the sound.
    values: Vec<f32>,
    /// The value of silence.
    silence: f32,
    /// Frames that begin within the sound.
    frames: usize,
}

impl LogMel {
    /// Prepares the transform and the filters.
    pub fn new(settings: MelSettings) -> LogMel {
        let transform = RealFftPlanner::new().plan_fft_forward(settings.fft);
        let turn = std::f64::consts::TAU / settings.fft as f64;
        // Periodic: as if it went on, the next sample would be 0 again.
        let hann = |at: usize| (0.5 - 0.5 * (turn * at as f64).cos()) as f32;
        let window = (0..settings.fft).map(hann).collect();
        LogMel { settings, transform, window, filters: filters(&settings) }
    }

    /// How sound becomes a spectrogram.
    pub fn settings(&self) -> &MelSettings {
        &self.settings
    }

    /// The spectrogram of samples at the settings' rate. Frame i is centred at sample i · hop; before the first sample the
    /// sound is mirrored, behind the last it is silent.
    pub fn spectrogram(&self, samples: &[f32]) -> Spectrogram {
        let MelSettings { fft, hop, mels, .. } = self.settings;
        let before = fft / 2;
        let count = (samples.len() + before).div_ceil(hop);
        let mut values = Vec::with_capacity(count * mels);
        let mut input = self.transform.make_input_vec();
        let mut spectrum = self.transform.make_output_vec();
        let mut scratch = self.transform.make_scratch_vec();
        let mut power = vec![0.0; spectrum.len()];
        for frame in 0..count {
            let first = (frame * hop) as isize - before as isize;
            for (offset, (input, weight)) in input.iter_mut().zip(&self.window).enumerate() {
                let at = (first + offset as isize).unsigned_abs();
                *input = samples.get(at).map_or(0.0, |sample| sample * weight);
            }
            self.transform
                .process_with_scratch(&mut input, &mut spectrum, &mut scratch)
                .expect("buffers have the transform's lengths");
            for (power, bin) in power.iter_mut().zip(&spectrum) {
                *power = bin.norm_sqr();
            }
            values.extend(self.filters.iter().map(|filter| filter.log_of(&power)));
        }
        let largest = values.iter().copied().fold(LEAST_POWER.log10(), f32::max);
        let scaled = |value: f32| (value.max(largest - DECADES) + 4.0) / 4.0;
        values.iter_mut().for_each(|value| *value = scaled(*value));
        let frames = samples.len() / hop;
        let silence = scaled(LEAST_POWER.log10());
        Spectrogram { settings: self.settings, values, silence, frames }
    }
}

impl Filter {
    fn log_of(&self, power: &[f32]) -> f32 {
        let bins = power[self.bins.clone()].iter().zip(&self.weights);
        bins.map(|(power, weight)| power * weight).sum::<f32>().max(LEAST_POWER).log10()
    }
}

impl Spectrogram {
    /// Frames that the sound fills: those that begin within it, a hop each.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Copies a window, `[frames, mels]`, that begins with frame `first`; behind the sound it is silent.
    ///
    /// # Panics
    /// When `to` hasn't the length of a window.
    pub fn window(&self, first: usize, to: &mut [f32]) {
        let MelSettings { mels, frames, .. } = self.settings;
        assert_eq!(to.len(), frames * mels, "a window's length");
        let from = self.values.get(first.saturating_mul(mels)..).unwrap_or_default();
        let count = from.len().min(to.len());
        to[..count].copy_from_slice(&from[..count]);
        to[count..].fill(self.silence);
    }
}

/// Slaney's mel scale: linear up to 1000 Hz, then logarithmic.
const LINEAR_HZ_PER_MEL: f64 = 200.0 / 3.0;
const BEND_HZ: f64 = 1000.0;
/// A mel above the bend is this ratio of frequencies, to the 27th root.
const BEND_RATIO: f64 = 6.4;

fn hz_of_mel(mel: f64) -> f64 {
    let bend = BEND_HZ / LINEAR_HZ_PER_MEL;
    match mel < bend {
        true => mel * LINEAR_HZ_PER_MEL,
        false => BEND_HZ * ((mel - bend) * BEND_RATIO.ln() / 27.0).exp(),
    }
}

fn mel_of_hz(hz: f64) -> f64 {
    match hz < BEND_HZ {
        true => hz / LINEAR_HZ_PER_MEL,
        false => BEND_HZ / LINEAR_HZ_PER_MEL + (hz / BEND_HZ).ln() * 27.0 / BEND_RATIO.ln(),
    }
}

/// Triangles from 0 to half the sample rate, as high as makes their area 1 Hz.
fn filters(settings: &MelSettings) -> Vec<Filter> {
    let nyquist = f64::from(settings.sample_rate) / 2.0;
    let step = mel_of_hz(nyquist) / (settings.mels + 1) as f64;
    let corner = |index: usize| hz_of_mel(step * index as f64);
    let hz_per_bin = f64::from(settings.sample_rate) / settings.fft as f64;
    let filter = |index: usize| {
        let [low, centre, high] = [corner(index), corner(index + 1), corner(index + 2)];
        let weight = |bin: usize| {
            let hz = bin as f64 * hz_per_bin;
            let slope = ((hz - low) / (centre - low)).min((high - hz) / (high - centre));
            (slope.max(0.0) * 2.0 / (high - low)) as f32
        };
        let all = 0..settings.fft / 2 + 1;
        let first = all.clone().find(|bin| weight(*bin) > 0.0).unwrap_or(0);
        let last = all.rev().find(|bin| weight(*bin) > 0.0).map_or(first, |last| last + 1);
        Filter { bins: first..last, weights: (first..last).map(weight).collect() }
    };
    (0..settings.mels).map(filter).collect()
}

#[cfg(test)]
mod tests;

//! Samples out of WAV and FLAC files, of one channel, at the rate that a model wants.

use std::io::{Cursor, Read};
use std::path::Path;

use hound::{SampleFormat, WavReader};
use rubato::audioadapter_buffers::direct::SequentialSliceOfVecs;
use rubato::{Fft, FixedSync, Resampler};

use crate::error::SpeechError;

/// Rates beyond these are no speech; below the upper one the resampler's tables are a few megabytes at most.
const RATES: std::ops::RangeInclusive<u32> = 1000..=768_000;

/// Frames that the resampler takes at a time.
const RESAMPLER_CHUNK: usize = 1024;

/// Sound of one channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    /// From −1 to 1.
    pub samples: Vec<f32>,
    /// Samples per second.
    pub sample_rate: u32,
}

impl Audio {
    /// Reads a WAV file (integers of 8 to 32 bits, or floats) or a FLAC file. Several channels are averaged.
    ///
    /// # Errors
    /// As [`Audio::read`].
    pub fn open(path: &Path) -> Result<Audio, SpeechError> {
        Audio::read(std::io::BufReader::new(std::fs::File::open(path)?))
    }

    /// Reads the bytes of such a file. Memory is taken as samples arrive, whatever the header promises.
    ///
    /// # Errors
    /// [`SpeechError::NotAudio`] for other files, [`SpeechError::Damaged`], [`SpeechError::Truncated`],
    /// [`SpeechError::SampleRate`], and [`SpeechError::Empty`] without samples.
    pub fn read(mut file: impl Read) -> Result<Audio, SpeechError> {
        let mut magic = Vec::new();
        file.by_ref().take(4).read_to_end(&mut magic)?;
        let whole = Cursor::new(magic.clone()).chain(file);
        let audio = match &magic[..] {
            b"RIFF" => wav(whole)?,
            b"fLaC" => flac(whole)?,
            [] => return Err(SpeechError::Empty),
            _ => return Err(SpeechError::NotAudio),
        };
        if audio.samples.is_empty() {
            return Err(SpeechError::Empty);
        }
        Ok(audio)
    }

    /// Seconds.
    pub fn duration(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.sample_rate)
    }

    /// The same sound at another rate, without what that rate can't hold.
    ///
    /// # Errors
    /// [`SpeechError::Resample`] when the resampler refuses the rates.
    pub fn resampled(self, sample_rate: u32) -> Result<Audio, SpeechError> {
        if self.sample_rate == sample_rate {
            return Ok(self);
        }
        let failed = |error: &dyn std::fmt::Display| SpeechError::Resample(error.to_string());
        let (from, to) = (self.sample_rate as usize, sample_rate as usize);
        let mut resampler = Fft::<f32>::new(from, to, RESAMPLER_CHUNK, 1, FixedSync::Both)
            .map_err(|error| failed(&error))?;
        let (len, channels) = (self.samples.len(), [self.samples]);
        let input =
            SequentialSliceOfVecs::new(&channels, 1, len).map_err(|error| failed(&error))?;
        let output = resampler.process_all(&input, len, None).map_err(|error| failed(&error))?;
        Ok(Audio { samples: output.take_data(), sample_rate })
    }
}

fn checked_rate(rate: u32) -> Result<u32, SpeechError> {
    if RATES.contains(&rate) { Ok(rate) } else { Err(SpeechError::SampleRate(rate)) }
}

/// Averages channels as their samples arrive, one after the other.
struct Mixer {
    channels: usize,
    sum: f32,
    count: usize,
    samples: Vec<f32>,
}

impl Mixer {
    fn new(channels: usize) -> Mixer {
        Mixer { channels: channels.max(1), sum: 0.0, count: 0, samples: Vec::new() }
    }

    fn push(&mut self, sample: f32) {
        self.sum += sample;
        self.count += 1;
        if self.count.is_multiple_of(self.channels) {
            self.samples.push(self.sum / self.channels as f32);
            self.sum = 0.0;
        }
    }

    /// All samples; `promised` is how many of all channels the header told of.
    fn finish(self, format: &'static str, promised: u64) -> Result<Vec<f32>, SpeechError> {
        let found = self.count as u64;
        match found < promised {
            true => Err(SpeechError::Truncated { format, found, promised }),
            false => Ok(self.samples),
        }
    }
}

fn wav(file: impl Read) -> Result<Audio, SpeechError> {
    const FORMAT: &str = "WAV";
    let damaged = |error: hound::Error| match error {
        hound::Error::IoError(error) if !is_end(&error) => SpeechError::Io(error),
        error => SpeechError::Damaged { format: FORMAT, problem: error.to_string() },
    };
    let reader = WavReader::new(file).map_err(damaged)?;
    let (spec, promised) = (reader.spec(), u64::from(reader.len()));
    let sample_rate = checked_rate(spec.sample_rate)?;
    let mut mixer = Mixer::new(usize::from(spec.channels));
    let mut push = |sample: hound::Result<f32>| match sample {
        Ok(sample) => {
            mixer.push(sample);
            Ok(true)
        }
        Err(hound::Error::IoError(error)) if is_end(&error) => Ok(false),
        Err(error) => Err(damaged(error)),
    };
    match spec.sample_format {
        SampleFormat::Float => {
            for sample in reader.into_samples::<f32>() {
                let finite = sample.map(|s| if s.is_finite() { s } else { 0.0 });
                if !push(finite)? {
                    break;
                }
            }
        }
        SampleFormat::Int => {
            let scale = scale_of(u32::from(spec.bits_per_sample));
            for sample in reader.into_samples::<i32>() {
                if !push(sample.map(|s| s as f32 * scale))? {
                    break;
                }
            }
        }
    }
    Ok(Audio { samples: mixer.finish(FORMAT, promised)?, sample_rate })
}

fn flac(file: impl Read) -> Result<Audio, SpeechError> {
    const FORMAT: &str = "FLAC";
    let damaged = |error: claxon::Error| match error {
        claxon::Error::IoError(error) if !is_end(&error) => SpeechError::Io(error),
        error => SpeechError::Damaged { format: FORMAT, problem: error.to_string() },
    };
    let mut reader = claxon::FlacReader::new(file).map_err(damaged)?;
    let info = reader.streaminfo();
    let sample_rate = checked_rate(info.sample_rate)?;
    let promised = info.samples.unwrap_or(0).saturating_mul(u64::from(info.channels));
    let scale = scale_of(info.bits_per_sample);
    let mut mixer = Mixer::new(info.channels as usize);
    for sample in reader.samples() {
        match sample {
            Ok(sample) => mixer.push(sample as f32 * scale),
            Err(claxon::Error::IoError(error)) if is_end(&error) => break,
            Err(error) => return Err(damaged(error)),
        }
    }
    Ok(Audio { samples: mixer.finish(FORMAT, promised)?, sample_rate })
}

/// Whether a read failed because the file ended. hound has an error of its own for that.
fn is_end(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Other, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | Other)
}

/// What makes integers of so many bits numbers from −1 to 1.
fn scale_of(bits: u32) -> f32 {
    1.0 / (1u64 << bits.clamp(1, 32).saturating_sub(1)) as f32
}

#[cfg(test)]
mod tests;

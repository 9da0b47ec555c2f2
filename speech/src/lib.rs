//! Speech in, text out for models run by Whit.
//!
//! [`Audio`] is a WAV or FLAC file, [`LogMel`] makes of its samples the spectrogram that a model listens to, and [`Transcriber`]
//! writes what was said, window by window.
#![forbid(unsafe_code)]

mod audio;
mod error;
mod mel;
mod rules;
mod transcriber;

pub use audio::Audio;
pub use error::SpeechError;
pub use mel::{LogMel, MelSettings, Spectrogram};
pub use transcriber::{Request, Segment, Transcriber, Transcript};

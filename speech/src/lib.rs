//! Speech in, text out for models run by Whit.
//!
//! [`Audio`] is a WAV or FLAC file, [`LogMel`] makes of its samples the spectrogram that a model listens to, and [`Transcriber`]
//! writes what was said, window by window.
#![forbid(unsafe_code)]

mod audio;
mod beam;
mod error;
mod mel;
mod rules;
mod transcriber;
mod transcript;
mod words;

pub use audio::Audio;
pub use error::SpeechError;
pub use mel::{LogMel, MelSettings, Spectrogram};
pub use transcriber::Transcriber;
pub use transcript::{Request, Segment, Times, Transcript};
pub use words::Word;

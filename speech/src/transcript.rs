//! What is asked of a transcriber, and what it answers.

use std::time::Duration;

use crate::words::Word;

/// What is asked of a transcriber.
#[derive(Clone, Debug)]
pub struct Request {
    /// The language of the sound, `en`; `None` to find out.
    pub language: Option<String>,
    /// English text whatever the language.
    pub translate: bool,
    /// Let the model write when segments begin and end. Without, a window is one segment.
    pub timestamps: bool,
    /// Give the model the text so far as context of a window.
    pub use_context: bool,
    /// Text that comes before, for names and style.
    pub prompt: String,
    /// Temperatures to try one after the other, until a text is good enough.
    pub temperatures: Vec<f32>,
    /// A text that zlib makes smaller by more than this repeats itself, and isn't good enough.
    pub max_compression: f64,
    /// A text whose tokens' mean log probability is less isn't good enough.
    pub min_log_probability: f64,
    /// A window that has no speech with more than this probability is skipped, unless its text is good.
    pub max_no_speech: f64,
    /// Texts that are followed at temperature 0, the best of which is taken in the end; 1 takes the best token every time. The model
    /// has to be converted for as many sequences.
    pub beam_size: usize,
    /// With several texts: the search is over when this times `beam_size` texts have ended; above 0.
    pub patience: f64,
    /// With several texts: from 0 to 1, how much longer texts are preferred among those that ended, as α of Google's translation system
    /// (Wu et al. 2016); by the mean of their tokens' log probabilities without it.
    pub length_penalty: Option<f64>,
    /// Find out when each word was said; the model has to be converted for it.
    pub word_times: bool,
    /// The same seed gives the same text where temperatures aren't 0.
    pub seed: u64,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            language: None,
            translate: false,
            timestamps: true,
            use_context: true,
            prompt: String::new(),
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            max_compression: 2.4,
            min_log_probability: -1.0,
            max_no_speech: 0.6,
            beam_size: 1,
            patience: 1.0,
            length_penalty: None,
            word_times: false,
            seed: 0,
        }
    }
}

/// A piece of the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Seconds from the beginning of the sound.
    pub start: f64,
    /// Seconds from the beginning of the sound.
    pub end: f64,
    /// Usually begins with a space.
    pub text: String,
    /// Its tokens, timestamps among them.
    pub ids: Vec<i32>,
    /// Its words, if times of words were asked for.
    pub words: Vec<Word>,
    /// At which its window's text was good enough, or the last one tried.
    pub temperature: f32,
    /// Mean of its window's tokens.
    pub log_probability: f64,
    /// Bytes of its window's text over those that zlib makes of them.
    pub compression: f64,
    /// Probability that its window has no speech.
    pub no_speech: f64,
}

/// What was said.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// Segment after segment.
    pub segments: Vec<Segment>,
    /// The language asked for, or found with this probability; `None` for a model of one language.
    pub language: Option<(String, f64)>,
    /// Time that spectrograms, encoder (with each window's prompt), and decoder took.
    pub times: Times,
    /// Windows of sound that the encoder heard.
    pub windows: usize,
    /// Tokens that the decoder wrote, those of texts that weren't good enough included.
    pub written: usize,
}

/// Where the time of a transcription went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Of the spectrogram.
    pub mel: Duration,
    /// Of runs with a window of sound: the encoder, and the tokens before the text.
    pub encoder: Duration,
    /// Of the tokens of the text.
    pub decoder: Duration,
    /// Of finding when words were said.
    pub words: Duration,
}

impl Transcript {
    /// The whole text.
    pub fn text(&self) -> String {
        self.segments.iter().map(|segment| segment.text.as_str()).collect()
    }
}

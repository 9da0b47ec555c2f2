//! What can go wrong between a sound and its text, told so that its owner can act on it.

use whit_text::TextError;

/// Why sound didn't become text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum SpeechError {
    #[error("the file can't be read: {0}")]
    Io(#[from] std::io::Error),

    #[error("neither a WAV nor a FLAC file; convert it with: ffmpeg -i FILE out.wav")]
    NotAudio,

    #[error("the {format} file is damaged or of a kind that isn't supported: {problem}")]
    Damaged { format: &'static str, problem: String },

    #[error(
        "the {format} file ends after {found} of the {promised} samples that its header promises: it is truncated"
    )]
    Truncated { format: &'static str, found: u64, promised: u64 },

    #[error("a sample rate of {0} Hz; 1000 to 768000 are supported")]
    SampleRate(u32),

    #[error("there is no sound: the file has no samples")]
    Empty,

    #[error("the sound can't be resampled: {0}")]
    Resample(String),

    #[error(
        "the model can't transcribe: {0}; convert the folder of a Whisper model with its tokenizer.json"
    )]
    NotSpeech(String),

    #[error("metadata `{key}` is `{value}`, which is not {expected}")]
    Metadata { key: &'static str, value: String, expected: &'static str },

    #[error("the model doesn't know the language `{language}`; it knows {known}")]
    Language { language: String, known: String },

    #[error("the model knows one language only; leave {0} out")]
    OneLanguage(&'static str),

    #[error(
        "a search that follows {asked} texts, and the model was converted for {sequences} at most: convert it with --sequences {asked}"
    )]
    Beams { asked: usize, sequences: usize },

    #[error("a patience of {0}; it has to be above 0 and at most 100")]
    Patience(f64),

    #[error("a length penalty of {0}; it has to be from 0 to 1")]
    LengthPenalty(f64),

    #[error("the model doesn't tell when words are said: convert it with --word-times")]
    NoWordTimes,

    #[error(transparent)]
    Text(#[from] TextError),
}

impl From<whit::SessionError> for SpeechError {
    fn from(error: whit::SessionError) -> SpeechError {
        TextError::Session(error).into()
    }
}

//! `whit transcribe`: what is said in sound files, as it is found.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use whit_speech::{Audio, Request, Segment, SpeechError, Transcriber, Transcript, Word};
use whit_text::TextError;

use super::{ModelPath, Target, print_json, print_text};
use crate::program;
use crate::whit_file;

#[derive(Args)]
pub(crate) struct Transcribe {
    #[command(flatten)]
    path: ModelPath,
    /// WAV or FLAC files
    #[arg(required = true)]
    file: Vec<PathBuf>,
    #[command(flatten)]
    form: Form,
    /// The language of the sound, such as en or de (default: found out by the first 30 seconds)
    #[arg(long, value_name = "CODE")]
    language: Option<String>,
    /// Write English, whatever the language
    #[arg(long)]
    translate: bool,
    /// What was said or written before, for the spelling of names
    #[arg(long, value_name = "TEXT", default_value = "")]
    prompt: String,
    /// Don't let the model say when segments begin and end: one segment for each 30 seconds
    #[arg(long, conflicts_with_all = ["srt", "vtt", "timestamps"])]
    no_timestamps: bool,
    /// Follow N texts at once and take the best one, at temperature 0; the model has to be converted with --sequences N
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    beam_size: u16,
    /// With --beam-size: search until P times as many texts have ended as are followed
    #[arg(long, value_name = "P", default_value_t = Request::default().patience, requires = "beam_size")]
    patience: f64,
    /// With --beam-size: from 0 to 1, how much longer texts are preferred (default: the text whose tokens are the most probable in the mean)
    #[arg(long, value_name = "A", requires = "beam_size")]
    length_penalty: Option<f64>,
    /// With --json: when each word was said; the model has to be converted with --word-times
    #[arg(long)]
    word_times: bool,
    /// Don't give the model the text so far: repetitions can't spread
    #[arg(long)]
    no_context: bool,
    /// Temperatures to try one after the other, until a text is good enough
    #[arg(long, value_name = "T,…", value_delimiter = ',', default_values_t = Request::default().temperatures)]
    temperature: Vec<f32>,
    /// The probability of no speech above which a window without good text is skipped
    #[arg(long, value_name = "P", default_value_t = Request::default().max_no_speech)]
    no_speech: f64,
    /// The same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    target: Target,
}

/// How the text is printed; a line for each segment without any of these.
#[derive(Args)]
#[group(multiple = false)]
struct Form {
    /// Print one JSON object, or a list of them for several files
    #[arg(long)]
    json: bool,
    /// Print SubRip subtitles
    #[arg(long)]
    srt: bool,
    /// Print WebVTT subtitles
    #[arg(long)]
    vtt: bool,
    /// Print when each segment begins and ends
    #[arg(long)]
    timestamps: bool,
}

impl Transcribe {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let file = whit_file::open(&self.path.model)?;
        let model = whit_file::model(&file, &self.path.model)?;
        let place = || self.path.model.display().to_string();
        if self.word_times && !self.form.json {
            bail!("--word-times goes with --json");
        }
        let program = program::prepare(model, self.target.settings()?)?;
        let ran_on = program.ran_on();
        let named = |error| match error {
            SpeechError::Text(TextError::Session(error)) => whit_file::named(&model, error),
            error => error.into(),
        };
        let mut transcriber =
            Transcriber::new(program.into_prepared()).map_err(named).with_context(place)?;
        let request = Request {
            language: self.language.clone(),
            translate: self.translate,
            timestamps: !self.no_timestamps,
            use_context: !self.no_context,
            prompt: self.prompt.clone(),
            temperatures: self.temperature.clone(),
            max_no_speech: self.no_speech,
            beam_size: usize::from(self.beam_size),
            patience: self.patience,
            length_penalty: self.length_penalty,
            word_times: self.word_times,
            seed: self.seed,
            ..Request::default()
        };
        if self.form.vtt {
            print_text("WEBVTT\n")?;
        }
        let (mut objects, mut count) = (Vec::new(), 0);
        for path in &self.file {
            let begin = Instant::now();
            let audio = Audio::open(path).and_then(|audio| {
                let duration = audio.duration();
                Ok((duration, audio.resampled(transcriber.settings().sample_rate)?))
            });
            let (duration, audio) = audio.with_context(|| path.display().to_string())?;
            let mut failed = None;
            let transcript = transcriber.transcribe(&audio.samples, &request, |segment| {
                count += 1;
                match self.print(segment, count) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            });
            if let Some(error) = failed {
                return Err(error);
            }
            let transcript =
                transcript.map_err(named).with_context(|| path.display().to_string())?;
            let seconds = begin.elapsed().as_secs_f64();
            if self.form.json {
                let with_words = self.word_times;
                let mut object = object(path, &transcript, duration, seconds, with_words);
                ran_on.add_to(&mut object);
                objects.push(object);
            } else {
                eprintln!("{}", summary(path, &transcript, duration, seconds));
            }
        }
        match (self.form.json, &objects[..]) {
            (true, [object]) => print_json(object)?,
            (true, _) => print_json(&Value::Array(objects))?,
            (false, _) => (),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Prints the `number`th segment, unless JSON is wanted.
    fn print(&self, segment: &Segment, number: usize) -> Result<()> {
        let (start, end, text) = (segment.start, segment.end, segment.text.trim());
        let Form { json, srt, vtt, timestamps } = self.form;
        if json {
            return Ok(());
        }
        print_text(&match () {
            () if srt => {
                format!("{number}\n{} --> {}\n{text}\n", clock(start, ','), clock(end, ','))
            }
            () if vtt => format!("{} --> {}\n{text}\n", clock(start, '.'), clock(end, '.')),
            () if timestamps => format!("[{} --> {}]  {text}", clock(start, '.'), clock(end, '.')),
            () => text.to_owned(),
        })
    }
}

/// `01:02:03.040`.
fn clock(seconds: f64, point: char) -> String {
    let ms = (seconds * 1e3).round() as u64;
    let (s, ms) = (ms / 1000, ms % 1000);
    format!("{:02}:{:02}:{:02}{point}{ms:03}", s / 3600, s / 60 % 60, s % 60)
}

fn object(
    path: &Path,
    transcript: &Transcript,
    duration: f64,
    seconds: f64,
    with_words: bool,
) -> Value {
    let segments = transcript.segments.iter().map(|segment| {
        let mut object = json!({
            "start": segment.start,
            "end": segment.end,
            "text": segment.text,
            "ids": segment.ids,
            "temperature": segment.temperature,
            "mean_log_probability": segment.log_probability,
            "compression": segment.compression,
            "no_speech_probability": segment.no_speech,
        });
        if with_words {
            let words = segment.words.iter().map(|word| {
                let Word { text, start, end, probability } = word;
                json!({ "text": text, "start": start, "end": end, "probability": probability })
            });
            object["words"] = words.collect();
        }
        object
    });
    let language = transcript.language.as_ref();
    json!({
        "file": path.display().to_string(),
        "text": transcript.text(),
        "language": language.map(|(code, _)| code),
        "language_probability": language.map(|(_, probability)| probability),
        "segments": segments.collect::<Vec<Value>>(),
        "audio_seconds": duration,
        "seconds": seconds,
        "times_real_time": duration / seconds,
        "mel_seconds": transcript.times.mel.as_secs_f64(),
        "encoder_seconds": transcript.times.encoder.as_secs_f64(),
        "decoder_seconds": transcript.times.decoder.as_secs_f64(),
        "word_seconds": transcript.times.words.as_secs_f64(),
        "windows": transcript.windows,
        "decoder_tokens": transcript.written,
    })
}

/// What a person wants to know besides the text.
fn summary(path: &Path, transcript: &Transcript, duration: f64, seconds: f64) -> String {
    let language = transcript
        .language
        .as_ref()
        .map(|(code, probability)| format!("language {code} ({:.0} %), ", 100.0 * probability));
    let (times, windows) = (&transcript.times, transcript.windows);
    let decoder = times.decoder.as_secs_f64();
    format!(
        "{}: {}{duration:.1} s of sound in {seconds:.2} s, {:.1} × real time; spectrogram {:.0} ms, encoder {:.0} ms for {windows} {}, decoder {} tokens, {:.1} tokens/s",
        path.display(),
        language.unwrap_or_default(),
        duration / seconds,
        times.mel.as_secs_f64() * 1e3,
        times.encoder.as_secs_f64() * 1e3,
        if windows == 1 { "window" } else { "windows" },
        transcript.written,
        if decoder > 0.0 { transcript.written as f64 / decoder } else { 0.0 },
    )
}

//! Transcribes sound window by window: what a window's tokens say, and where the next one begins (the procedure of section 4.5 of Radford
//! et al. 2022, whose thresholds are the defaults here).

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use whit::{DType, Session};
use whit_text::{Decoder, Sampler, Sampling, SessionDecoder, TextError, Tokenizer};

use crate::error::SpeechError;
use crate::mel::{LogMel, MelSettings, Spectrogram};
use crate::rules::{TIMESTAMP_SECONDS, Tokens, log_sum_exp};

/// The dimension that says whether a run has a window of sound.
const WINDOWS: &str = "windows";

/// Above this temperature a text doesn't become the next window's context: it is too uncertain.
const MAX_CONTEXT_TEMPERATURE: f32 = 0.5;

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
}

impl Transcript {
    /// The whole text.
    pub fn text(&self) -> String {
        self.segments.iter().map(|segment| segment.text.as_str()).collect()
    }
}

/// Transcribes with a model.
pub struct Transcriber<'m> {
    tokenizer: Tokenizer,
    tokens: Tokens,
    decoder: SessionDecoder<'m>,
    mel: LogMel,
    /// The input for spectrograms.
    input: usize,
}

/// What a window's tokens are, and how certain they are.
#[derive(Clone, Debug, Default)]
struct Text {
    ids: Vec<i32>,
    temperature: f32,
    log_probability: f64,
    compression: f64,
    no_speech: f64,
}

impl<'m> Transcriber<'m> {
    /// Checks that a session's model listens to speech.
    ///
    /// # Errors
    /// [`SpeechError::NotSpeech`] with what is missing.
    pub fn new(session: Session<'m>) -> Result<Transcriber<'m>, SpeechError> {
        let model = *session.model();
        let missing = |what: &str| SpeechError::NotSpeech(format!("it has no {what}"));
        let named =
            |tensor: usize| model.tensor(tensor).is_some_and(|t| model.text(t.name) == "mel");
        let input = model.inputs().position(named).ok_or_else(|| missing("input `mel`"))?;
        let settings = MelSettings::of(&model)?;
        let slot = session.input_slot(input)?;
        let sizes = [settings.frames as u32, settings.mels as u32];
        if slot.dtype() != DType::F32 || slot.dims().get(1..) != Some(&sizes[..]) {
            return Err(missing("input `mel` of f32 that is as its metadata says"));
        }
        let symbol = model.symbols().find(|symbol| model.text(symbol.name) == WINDOWS);
        if symbol.is_none_or(|symbol| (symbol.min, symbol.max) != (0, 1)) {
            return Err(missing("dimension `windows` of 0 or 1"));
        }
        let tokenizer = Tokenizer::of(&model)?;
        let decoder = SessionDecoder::new(session)?;
        let tokens = Tokens::of(&model, &tokenizer, decoder.vocabulary())?;
        Ok(Transcriber { tokenizer, tokens, decoder, mel: LogMel::new(settings), input })
    }

    /// What spectrograms are made for.
    pub fn settings(&self) -> &MelSettings {
        self.mel.settings()
    }

    /// The session.
    pub fn session(&self) -> &Session<'m> {
        self.decoder.session()
    }

    /// Codes of the languages that the model knows; none for a model of one language.
    pub fn languages(&self) -> impl Iterator<Item = &str> {
        self.tokens.languages.iter().map(|(code, _)| code.as_str())
    }

    /// Transcribes samples, which are at the rate of [`Transcriber::settings`], and tells of each segment as soon as it is there.
    ///
    /// # Errors
    /// [`SpeechError::Language`] and [`SpeechError::OneLanguage`] for requests that the model can't fulfil,
    /// [`SpeechError::Empty`] without samples, and when the model fails.
    pub fn transcribe(
        &mut self,
        samples: &[f32],
        request: &Request,
        mut tell: impl FnMut(&Segment) -> ControlFlow<()>,
    ) -> Result<Transcript, SpeechError> {
        if samples.is_empty() {
            return Err(SpeechError::Empty);
        }
        let asked = self.language(request)?;
        let begin = Instant::now();
        let spectrogram = self.mel.spectrogram(samples);
        let mut transcript = Transcript {
            segments: Vec::new(),
            language: asked.map(|(code, _)| (code, 1.0)),
            times: Times { mel: begin.elapsed(), ..Times::default() },
            windows: 0,
            written: 0,
        };
        // A sound of less than a hop is heard, too.
        let frames = spectrogram.frames().max(1);
        let mut context = match request.prompt.trim() {
            "" => Vec::new(),
            prompt => self.tokenizer.encode(&format!(" {prompt}"), false)?,
        };
        let mut sampler_seed = request.seed;
        let mut frame = 0;
        'windows: while frame < frames {
            let size = self.settings().frames.min(frames - frame);
            self.hear(&spectrogram, frame)?;
            let mut is_heard = false;
            if transcript.language.is_none() && !self.tokens.languages.is_empty() {
                let begin = Instant::now();
                transcript.language = Some(self.detect(&mut is_heard)?);
                transcript.times.encoder += begin.elapsed();
            }
            let language = transcript.language.as_ref().map(|(code, _)| code.as_str());
            let prompt = self.prompt(&context, language, request);
            let text =
                self.text(&prompt, request, &mut sampler_seed, &mut is_heard, &mut transcript)?;
            transcript.windows += 1;
            let is_good = text.log_probability > request.min_log_probability;
            if text.no_speech > request.max_no_speech && !is_good {
                frame += size;
                continue;
            }
            let (segments, next) = self.segments(&text, frame, size)?;
            if !request.use_context || text.temperature > MAX_CONTEXT_TEMPERATURE {
                context.clear();
            }
            for segment in segments {
                let told = match segment.text.trim().is_empty() || segment.start >= segment.end {
                    true => ControlFlow::Continue(()),
                    false => {
                        if request.use_context && text.temperature <= MAX_CONTEXT_TEMPERATURE {
                            context.extend_from_slice(&segment.ids);
                        }
                        let told = tell(&segment);
                        transcript.segments.push(segment);
                        told
                    }
                };
                if told.is_break() {
                    break 'windows;
                }
            }
            frame = next;
        }
        Ok(transcript)
    }

    /// The language asked for, with its token.
    fn language(&self, request: &Request) -> Result<Option<(String, i32)>, SpeechError> {
        let languages = &self.tokens.languages;
        if languages.is_empty() {
            if request.translate {
                return Err(SpeechError::OneLanguage("--translate"));
            }
            return match request.language.as_deref() {
                None | Some("en") => Ok(None),
                Some(_) => Err(SpeechError::OneLanguage("--language")),
            };
        }
        if request.translate && self.tokens.translate.is_none() {
            return Err(SpeechError::OneLanguage("--translate"));
        }
        let Some(language) = &request.language else { return Ok(None) };
        let found = languages.iter().find(|(code, _)| code.eq_ignore_ascii_case(language));
        let unknown = || {
            let known: Vec<&str> = self.languages().collect();
            SpeechError::Language { language: language.clone(), known: known.join(", ") }
        };
        Ok(Some(found.cloned().ok_or_else(unknown)?))
    }

    /// Gives the next run a window of sound.
    fn hear(&mut self, spectrogram: &Spectrogram, frame: usize) -> Result<(), SpeechError> {
        let session = self.decoder.session_mut();
        session.set_dimension(WINDOWS, 1)?;
        spectrogram.window(frame, session.input_mut::<f32>(self.input)?);
        Ok(())
    }

    /// Runs tokens; logits of the rows. The first run of a window hears it, those that follow remember.
    fn forward(
        &mut self,
        ids: &[i32],
        first: usize,
        rows: &[i32],
        is_heard: &mut bool,
    ) -> Result<&[f32], SpeechError> {
        if *is_heard {
            self.decoder.session_mut().set_dimension(WINDOWS, 0)?;
        }
        *is_heard = true;
        let positions: Vec<i32> = (first..first + ids.len()).map(|at| at as i32).collect();
        Ok(self.decoder.forward(ids, &positions, rows)?)
    }

    /// The most probable language, and how probable it is among all.
    fn detect(&mut self, is_heard: &mut bool) -> Result<(String, f64), SpeechError> {
        let languages = self.tokens.languages.clone();
        let logits = self.forward(&[self.tokens.start], 0, &[0], is_heard)?;
        let of: Vec<f32> = languages
            .iter()
            .map(|(_, id)| logits.get(*id as usize).copied().unwrap_or(f32::NEG_INFINITY))
            .collect();
        let sum = log_sum_exp(&of);
        let best = (0..of.len()).max_by(|a, b| of[*a].total_cmp(&of[*b]).then(b.cmp(a)));
        let best = best.ok_or(TextError::NoToken)?;
        Ok((languages[best].0.clone(), (f64::from(of[best]) - sum).exp()))
    }

    /// The tokens before a window's text.
    fn prompt(&self, context: &[i32], language: Option<&str>, request: &Request) -> Vec<i32> {
        let tokens = &self.tokens;
        let mut prompt = Vec::new();
        if let Some(previous) = tokens.previous.filter(|_| !context.is_empty()) {
            // Half of the positions are for what was, but for its mark.
            let most = (self.decoder.context() / 2).saturating_sub(1);
            prompt.push(previous);
            prompt.extend_from_slice(&context[context.len().saturating_sub(most)..]);
        }
        prompt.push(tokens.start);
        let language = tokens.languages.iter().find(|(code, _)| Some(code.as_str()) == language);
        if let Some((_, id)) = language {
            prompt.push(*id);
            prompt.extend(if request.translate { tokens.translate } else { tokens.transcribe });
        }
        if !request.timestamps {
            prompt.push(tokens.no_timestamps);
        }
        prompt
    }

    /// A window's text at the first temperature at which it is good enough.
    fn text(
        &mut self,
        prompt: &[i32],
        request: &Request,
        seed: &mut u64,
        is_heard: &mut bool,
        transcript: &mut Transcript,
    ) -> Result<Text, SpeechError> {
        let mut text = Text::default();
        for temperature in &request.temperatures {
            let sampling = Sampling {
                temperature: *temperature,
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
                seed: *seed,
                ..Sampling::default()
            };
            *seed = seed.wrapping_add(1);
            text = self.attempt(prompt, sampling, request.timestamps, is_heard, transcript)?;
            let is_silent = text.no_speech > request.max_no_speech;
            let is_unlikely = text.log_probability < request.min_log_probability;
            let repeats = text.compression > request.max_compression;
            if is_silent && is_unlikely || !is_unlikely && !repeats {
                break;
            }
        }
        Ok(text)
    }

    /// A window's text.
    fn attempt(
        &mut self,
        prompt: &[i32],
        sampling: Sampling,
        with_timestamps: bool,
        is_heard: &mut bool,
        transcript: &mut Transcript,
    ) -> Result<Text, SpeechError> {
        let vocabulary = self.decoder.vocabulary();
        let mut sampler = Sampler::new(sampling, vocabulary)?;
        let most = (self.decoder.context() / 2).min(self.decoder.context() - prompt.len());
        let start = prompt.iter().position(|id| *id == self.tokens.start).unwrap_or(0);
        let rows = [start as i32, prompt.len() as i32 - 1];
        let begin = Instant::now();
        let found = self.forward(prompt, 0, &rows, is_heard)?;
        let (at_start, behind) = found.split_at(vocabulary);
        let (at_start, mut logits) = (at_start.to_vec(), behind.to_vec());
        transcript.times.encoder += begin.elapsed();

        let no_speech = self.tokens.no_speech.and_then(|id| at_start.get(id as usize));
        let no_speech = no_speech.map_or(0.0, |l| (f64::from(*l) - log_sum_exp(&at_start)).exp());
        let begin = Instant::now();
        let (mut ids, mut sum) = (Vec::new(), 0.0);
        loop {
            self.tokens.apply(&mut logits, &ids, with_timestamps);
            let id = sampler.sample(&logits, None)?;
            sum += f64::from(logits[id as usize]) - log_sum_exp(&logits);
            transcript.written += 1;
            if id == self.tokens.end {
                break;
            }
            ids.push(id);
            if ids.len() >= most {
                break;
            }
            let at = prompt.len() + ids.len() - 1;
            let found = self.forward(&[id], at, &[0], is_heard)?;
            logits.copy_from_slice(found);
        }
        transcript.times.decoder += begin.elapsed();
        let log_probability = sum / (ids.len() + 1) as f64;
        let compression = compression(&self.written_text(&ids)?);
        let temperature = sampling.temperature;
        Ok(Text { ids, temperature, log_probability, compression, no_speech })
    }

    /// The text of tokens, without timestamps.
    fn written_text(&self, ids: &[i32]) -> Result<String, SpeechError> {
        let text: Vec<i32> = ids.iter().copied().filter(|id| *id < self.tokens.end).collect();
        Ok(self.tokenizer.decode(&text, false)?)
    }

    /// The segments of a window that begins at `frame` and has `size` frames of sound, and the frame where the next one begins: behind the
    /// last whole segment, when the model wrote that another begins there.
    fn segments(
        &self,
        text: &Text,
        frame: usize,
        size: usize,
    ) -> Result<(Vec<Segment>, usize), SpeechError> {
        let tokens = &self.tokens;
        let seconds = self.settings().seconds_per_frame();
        let (offset, duration) = (frame as f64 * seconds, size as f64 * seconds);
        let time = |id: i32| f64::from(id - tokens.first_timestamp) * TIMESTAMP_SECONDS;
        let segment = |ids: &[i32], start: f64, end: f64| -> Result<Segment, SpeechError> {
            Ok(Segment {
                start: offset + start,
                end: offset + end,
                text: self.written_text(ids)?,
                ids: ids.to_vec(),
                temperature: text.temperature,
                log_probability: text.log_probability,
                compression: text.compression,
                no_speech: text.no_speech,
            })
        };
        let is_time = |at: usize| text.ids.get(at).is_some_and(|id| tokens.is_timestamp(*id));
        let count = text.ids.len();
        let ends_alone = count >= 2 && !is_time(count - 2) && is_time(count - 1);
        // Where one segment ends and the next begins.
        let mut cuts: Vec<usize> =
            (1..count).filter(|at| is_time(*at) && is_time(*at - 1)).collect();
        if cuts.is_empty() {
            let last = text.ids.iter().rfind(|id| tokens.is_timestamp(**id));
            let last = last.map(|id| time(*id)).filter(|time| *time > 0.0);
            let only = segment(&text.ids, 0.0, last.unwrap_or(duration).min(duration))?;
            return Ok((vec![only], frame + size));
        }
        if ends_alone {
            cuts.push(count);
        }
        let (mut segments, mut first) = (Vec::new(), 0);
        for cut in cuts {
            let ids = &text.ids[first..cut];
            segments.push(segment(ids, time(ids[0]), time(ids[ids.len() - 1]))?);
            first = cut;
        }
        if ends_alone {
            return Ok((segments, frame + size));
        }
        let heard = (time(text.ids[first - 1]) / seconds).round() as usize;
        // A window that heard nothing new is over.
        Ok((segments, frame + if heard == 0 { size } else { heard.min(size) }))
    }
}

/// Bytes of a text over those that zlib makes of it.
fn compression(text: &str) -> f64 {
    use std::io::Write;
    let level = flate2::Compression::default();
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
    let written = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    let bytes = written.expect("memory takes all bytes").len();
    text.len() as f64 / bytes as f64
}

//! Transcribes sound window by window: what a window's tokens say, and where the next one begins (the procedure of section 4.5 of Radford
//! et al. 2022, whose thresholds are the defaults here).

use std::ops::ControlFlow;
use std::time::Instant;

use whit::{DType, Prepared};
use whit_text::{Decoder, Sampling, SessionDecoder, TextError, Tokenizer};

use crate::error::SpeechError;
use crate::mel::{LogMel, MelSettings, Spectrogram};
use crate::rules::{TIMESTAMP_SECONDS, Tokens, log_sum_exp};
use crate::transcript::{Request, Segment, Times, Transcript};

mod search;
mod timing;

use search::Begun;

/// The dimension that says whether a run has a window of sound.
const WINDOWS: &str = "windows";

/// What the names of outputs begin with that say which rows of the encoder tokens attend to.
const ALIGNMENT: &str = "alignment";

/// Above this temperature a text doesn't become the next window's context: it is too uncertain.
const MAX_CONTEXT_TEMPERATURE: f32 = 0.5;

/// Beyond, a search would only stop at the longest text.
const MOST_PATIENCE: f64 = 100.0;

/// Transcribes with a model.
pub struct Transcriber<'m> {
    tokenizer: Tokenizer,
    tokens: Tokens,
    decoder: SessionDecoder<'m>,
    mel: LogMel,
    /// The input for spectrograms.
    input: usize,
    /// Outputs that say which rows of the encoder tokens attend to, with their numbers of heads.
    alignment: Vec<(usize, usize)>,
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
    pub fn new(session: Box<dyn Prepared<'m> + 'm>) -> Result<Transcriber<'m>, SpeechError> {
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
        let mut alignment = Vec::new();
        for (output, tensor) in model.outputs().enumerate() {
            let is_one = |t: whit::format::TensorRecord| model.text(t.name).starts_with(ALIGNMENT);
            if model.tensor(tensor).is_some_and(is_one) {
                let slot = session.output_slot(output)?;
                match (slot.dtype(), slot.dims()) {
                    (DType::F32, [_, heads, frames]) if *heads > 0 && *frames > 0 => {
                        alignment.push((output, *heads as usize));
                    }
                    _ => return Err(missing("output `alignment` of f32 with three dimensions")),
                }
            }
        }
        let symbol = model.symbols().find(|symbol| model.text(symbol.name) == WINDOWS);
        if symbol.is_none_or(|symbol| (symbol.min, symbol.max) != (0, 1)) {
            return Err(missing("dimension `windows` of 0 or 1"));
        }
        let tokenizer = Tokenizer::of(&model)?;
        let decoder = SessionDecoder::new(session)?;
        let tokens = Tokens::of(&model, &tokenizer, decoder.vocabulary())?;
        let mel = LogMel::new(settings);
        Ok(Transcriber { tokenizer, tokens, decoder, mel, input, alignment })
    }

    /// What spectrograms are made for.
    pub fn settings(&self) -> &MelSettings {
        self.mel.settings()
    }

    /// The session.
    pub fn session(&self) -> &(dyn Prepared<'m> + 'm) {
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
    /// [`SpeechError::Patience`] and [`SpeechError::LengthPenalty`] for numbers that have no meaning,
    /// [`SpeechError::Beams`] and [`SpeechError::NoWordTimes`] for those that it wasn't converted for, [`SpeechError::Empty`] without
    /// samples, and when the model fails.
    pub fn transcribe(
        &mut self,
        samples: &[f32],
        request: &Request,
        mut tell: impl FnMut(&Segment) -> ControlFlow<()>,
    ) -> Result<Transcript, SpeechError> {
        if samples.is_empty() {
            return Err(SpeechError::Empty);
        }
        // A row of logits for each.
        let sequences = self.decoder.sequences().min(self.decoder.rows());
        let asked = request.beam_size;
        if !(1..=sequences).contains(&asked) {
            return Err(SpeechError::Beams { asked, sequences });
        }
        if !(request.patience > 0.0 && request.patience <= MOST_PATIENCE) {
            return Err(SpeechError::Patience(request.patience));
        }
        if let Some(penalty) = request.length_penalty.filter(|alpha| !(0.0..=1.0).contains(alpha)) {
            return Err(SpeechError::LengthPenalty(penalty));
        }
        if request.word_times && self.alignment.is_empty() {
            return Err(SpeechError::NoWordTimes);
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
            let (mut segments, next) = self.segments(&text, frame, size)?;
            if request.word_times {
                let begin = Instant::now();
                let language = transcript.language.as_ref().map(|(code, _)| code.clone());
                self.find_words(&mut segments, language.as_deref(), request, [frame, size])?;
                transcript.times.words += begin.elapsed();
            }
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
        self.remember(ids, first, rows)
    }

    /// Runs tokens that attend to the window heard last; logits of the rows.
    fn remember(&mut self, ids: &[i32], first: usize, rows: &[i32]) -> Result<&[f32], SpeechError> {
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
            text = self.attempt(prompt, sampling, request, is_heard, transcript)?;
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
        request: &Request,
        is_heard: &mut bool,
        transcript: &mut Transcript,
    ) -> Result<Text, SpeechError> {
        let vocabulary = self.decoder.vocabulary();
        let with_timestamps = request.timestamps;
        let most = (self.decoder.context() / 2).min(self.decoder.context() - prompt.len());
        let start = prompt.iter().position(|id| *id == self.tokens.start).unwrap_or(0);
        let rows = [start as i32, prompt.len() as i32 - 1];
        let begin = Instant::now();
        let found = self.forward(prompt, 0, &rows, is_heard)?;
        let (at_start, behind) = found.split_at(vocabulary);
        let (at_start, logits) = (at_start.to_vec(), behind.to_vec());
        transcript.times.encoder += begin.elapsed();

        let no_speech = self.tokens.no_speech.and_then(|id| at_start.get(id as usize));
        let no_speech = no_speech.map_or(0.0, |l| (f64::from(*l) - log_sum_exp(&at_start)).exp());
        let begin = Instant::now();
        self.decoder.session_mut().set_dimension(WINDOWS, 0)?;
        let begun = Begun { at: prompt.len(), most, logits, with_timestamps };
        let (ids, sum) = match request.beam_size > 1 && sampling.temperature <= 0.0 {
            true => self.search(begun, request, transcript)?,
            false => self.draw(begun, sampling, transcript)?,
        };
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
                words: Vec::new(),
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

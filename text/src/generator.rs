//! Continues a prompt: prefill in batches, then token by token, until something ends the text.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::constraint::Constraint;
use crate::decoder::{Decoder, compute};
use crate::draft::{Draft, Guesses};
use crate::error::TextError;
use crate::run::Run;
use crate::sampler::Sampling;
use crate::tokenizer::Tokenizer;

/// What is asked of a generator.
#[derive(Clone, Debug)]
pub struct Request {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Strings that end the text and aren't part of it.
    pub stop: Vec<String>,
    /// Tokens to guess at most, 0 for none: what the draft model says ([`Generator::with_draft`]), or without one what
    /// followed the last time that the text's last tokens were there. Guesses are computed together with the token before
    /// them, and kept as far as sampling chooses the same tokens. What a draft model drew by chance is kept or replaced so
    /// that every token is as probable as without it (Leviathan et al. 2023); all other texts are the same as without
    /// guesses. A model's logits may differ in their last bits with the number of tokens computed together, so where two logits
    /// tie, the text may differ.
    pub guesses: usize,
}

impl Default for Request {
    fn default() -> Request {
        Request { sampling: Sampling::default(), max_tokens: 128, stop: Vec::new(), guesses: 0 }
    }
}

/// Why a text ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended it.
    Eos,
    /// This stop string came.
    StopString(String),
    /// The grammar allows nothing more.
    Complete,
    /// As many tokens as asked for.
    Length,
    /// The model's context is full.
    Context,
    /// The caller wanted no more.
    Cancelled,
}

/// A generated text.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The text, without what ended it.
    pub text: String,
    /// Its tokens, the one that ended it among them.
    pub ids: Vec<i32>,
    /// Why it ended.
    pub stop: StopReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, tokens that were in the cache from the call before.
    pub reused_tokens: usize,
    /// Tokens that were guessed, and those of them that were right.
    pub guessed: (usize, usize),
    /// From the call to the logits of the first token.
    pub prompt_time: Duration,
    /// From then to the end.
    pub generation_time: Duration,
}

impl Generation {
    /// Tokens of the prompt that were computed, per second.
    pub fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens - self.reused_tokens, self.prompt_time)
    }

    /// Tokens that were computed one after another, per second: all but the first, whose logits are the prompt's.
    pub fn generation_rate(&self) -> f64 {
        rate(self.ids.len().saturating_sub(1), self.generation_time)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 }
}

/// Generates text with a model, remembering what its cache holds: a prompt that begins as the last text did
/// continues behind the common tokens.
pub struct Generator<'t, D> {
    tokenizer: &'t Tokenizer,
    decoder: D,
    draft: Option<Draft<'t>>,
    /// The tokens whose keys and values are in the cache, by position.
    cached: Vec<i32>,
}

impl<'t, D: Decoder> Generator<'t, D> {
    /// A generator whose cache is empty.
    pub fn new(tokenizer: &'t Tokenizer, decoder: D) -> Generator<'t, D> {
        Generator { tokenizer, decoder, draft: None, cached: Vec::new() }
    }

    /// Lets a smaller model guess, whose tokens are the same ([`Tokenizer::check_same`]): as many as
    /// [`Request::guesses`].
    #[must_use]
    pub fn with_draft(self, draft: impl Decoder + 't) -> Generator<'t, D> {
        Generator { draft: Some(Draft::new(draft)), ..self }
    }

    /// The model.
    pub fn decoder(&self) -> &D {
        &self.decoder
    }

    pub(crate) fn decoder_mut(&mut self) -> &mut D {
        &mut self.decoder
    }

    /// The tokens whose keys and values are in the cache, by position.
    pub(crate) fn cached(&self) -> &[i32] {
        &self.cached
    }

    pub(crate) fn cached_mut(&mut self) -> &mut Vec<i32> {
        &mut self.cached
    }

    /// Continues a prompt and tells of each part of the text as soon as it is certain.
    ///
    /// # Errors
    /// [`TextError::EmptyPrompt`], [`TextError::Context`] when the prompt doesn't fit, [`TextError::Vocabulary`]
    /// when it isn't the model's, and whatever the sampler, the constraint and the model return.
    pub fn generate(
        &mut self,
        prompt: &[i32],
        request: &Request,
        mut constraint: Option<&mut Constraint>,
        mut tell: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, TextError> {
        let start = Instant::now();
        let (context, vocabulary) = (self.decoder.context(), self.decoder.vocabulary());
        let mut run = Run::new(self.tokenizer, &self.decoder, prompt, request)?;

        // The last token is computed again in any case: its logits aren't kept.
        let common = self.cached.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let reused = common.min(prompt.len() - 1);
        self.cached.truncate(reused);
        let (last, before) = prompt[reused..].split_last().ok_or(TextError::EmptyPrompt)?;
        // All but the last batch, which is computed with its logits.
        let batch = self.decoder.batch().max(1);
        let whole = before.len() / batch * batch;
        for tokens in before[..whole].chunks(batch) {
            self.forward(tokens, 1)?;
        }
        let mut feed = before[whole..].to_vec();
        feed.push(*last);

        let (mut guesses, mut guessed) = (Guesses::default(), (0, 0));
        let drafting = self.draft.as_ref().map(|draft| draft.sampler(request.sampling));
        let mut drafting = drafting.transpose()?;
        let mut prompt_time = None;
        let stop = loop {
            let at = self.cached.len();
            if request.max_tokens == 0 {
                break StopReason::Length;
            }
            guesses.clear();
            // Nothing behind the context, and no more than are wanted.
            let left = (context - at - feed.len()).min(request.max_tokens - run.ids.len() - 1);
            let rows = self.decoder.rows().saturating_sub(1).min(batch - feed.len());
            let room = left.min(rows).min(request.guesses);
            if room > 0 {
                self.cached.extend_from_slice(&feed);
                match (&mut self.draft, &mut drafting) {
                    (Some(draft), Some(sampler)) => {
                        draft.guess(&self.cached, room, vocabulary, sampler, &mut guesses)?;
                    }
                    _ => guesses.look_up(&self.cached, room),
                }
                self.cached.truncate(at);
            }
            let fed = feed.len();
            feed.extend_from_slice(&guesses.ids);
            let logits = self.forward(&feed, guesses.ids.len() + 1)?;
            prompt_time.get_or_insert_with(|| start.elapsed());

            let mut right = 0;
            let mut stop = None;
            for (row, logits) in logits.chunks_exact(vocabulary).enumerate() {
                let guess = guesses.get(row);
                let id = run.choose(logits, guess, constraint.as_deref_mut())?;
                let full = at + fed + row + 1 >= context;
                stop = run.take(id, full, constraint.as_deref_mut(), &mut tell)?;
                let is_right = guess.is_some_and(|(guess, _)| guess == id);
                right += usize::from(is_right);
                if stop.is_some() || !is_right {
                    feed.clear();
                    feed.push(id);
                    break;
                }
            }
            guessed = (guessed.0 + guesses.ids.len(), guessed.1 + right);
            self.cached.truncate(at + fed + right);
            if let Some(stop) = stop {
                break stop;
            }
        };
        let stop = run.finish(stop, &mut tell);
        let prompt_time = prompt_time.unwrap_or_else(|| start.elapsed());
        Ok(Generation {
            text: run.text,
            ids: run.ids,
            stop,
            prompt_tokens: prompt.len(),
            reused_tokens: reused,
            guessed,
            prompt_time,
            generation_time: start.elapsed() - prompt_time,
        })
    }

    /// Computes tokens behind those in the cache; the logits of the last `rows`.
    fn forward(&mut self, tokens: &[i32], rows: usize) -> Result<&[f32], TextError> {
        compute(&mut self.decoder, &mut self.cached, tokens, rows)
    }
}

#[cfg(test)]
mod tests;

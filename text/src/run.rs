//! One text in the making: which token comes next, what of it is certain, and why it ends.

use std::ops::ControlFlow;

use crate::constraint::Constraint;
use crate::decoder::Decoder;
use crate::error::TextError;
use crate::generator::{Request, StopReason};
use crate::sampler::Sampler;
use crate::stop::StopStrings;
use crate::stream::TextStream;
use crate::tokenizer::Tokenizer;

/// One text in the making.
pub(crate) struct Run<'t> {
    tokenizer: &'t Tokenizer,
    sampler: Sampler,
    max_tokens: usize,
    stream: TextStream<'t>,
    stops: StopStrings,
    pub(crate) ids: Vec<i32>,
    pub(crate) text: String,
    /// Bytes of `text` that the caller has.
    told: usize,
}

impl<'t> Run<'t> {
    /// Begins behind a prompt, which has to fit in the context.
    ///
    /// # Errors
    /// As [`Generator::generate`](crate::Generator::generate).
    pub(crate) fn new(
        tokenizer: &'t Tokenizer,
        decoder: &impl Decoder,
        prompt: &[i32],
        request: &Request,
    ) -> Result<Run<'t>, TextError> {
        let (context, vocabulary) = (decoder.context(), decoder.vocabulary());
        if prompt.is_empty() {
            return Err(TextError::EmptyPrompt);
        }
        if prompt.len() >= context {
            return Err(TextError::Context { prompt: prompt.len(), context });
        }
        let outside = |id: &&i32| usize::try_from(**id).map_or(true, |id| id >= vocabulary);
        if let Some(id) = prompt.iter().find(outside) {
            return Err(TextError::Vocabulary { id: *id, vocabulary });
        }
        let mut sampler = Sampler::new(request.sampling, vocabulary)?;
        prompt.iter().for_each(|id| sampler.accept(*id));
        Ok(Run {
            tokenizer,
            sampler,
            max_tokens: request.max_tokens,
            stream: tokenizer.stream()?,
            stops: StopStrings::new(&request.stop),
            ids: Vec::new(),
            text: String::new(),
            told: 0,
        })
    }

    /// The next token by its logits, given a guess and the probabilities that it was drawn by.
    pub(crate) fn choose(
        &mut self,
        logits: &[f32],
        guess: Option<(i32, &[(i32, f64)])>,
        constraint: Option<&mut Constraint>,
    ) -> Result<i32, TextError> {
        let mask = constraint.map(|constraint| constraint.mask()).transpose()?;
        let id = match guess {
            Some((guess, drawn)) if !drawn.is_empty() => {
                self.sampler.sample_guessed(logits, mask, guess, drawn)?
            }
            _ => self.sampler.sample(logits, mask)?,
        };
        self.sampler.accept(id);
        Ok(id)
    }

    /// Adds a token to the text. Returns why it ends, if it does; `full` when no position is left.
    pub(crate) fn take(
        &mut self,
        id: i32,
        full: bool,
        constraint: Option<&mut Constraint>,
        tell: &mut impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Option<StopReason>, TextError> {
        self.ids.push(id);
        if self.tokenizer.eos().contains(&id) {
            return Ok(Some(StopReason::Eos));
        }
        let mut part = String::new();
        self.stream.push(id, &mut part)?;
        if let Some(stop) = self.stops.push(&part, &mut self.text) {
            return Ok(Some(StopReason::StopString(stop.to_owned())));
        }
        if self.tell(tell).is_break() {
            return Ok(Some(StopReason::Cancelled));
        }
        let mut complete = false;
        if let Some(constraint) = constraint {
            constraint.accept(id)?;
            complete = constraint.is_complete();
        }
        Ok(match () {
            () if complete => Some(StopReason::Complete),
            () if self.ids.len() >= self.max_tokens => Some(StopReason::Length),
            () if full => Some(StopReason::Context),
            () => None,
        })
    }

    /// Tells of what was withheld, in which a stop string may still be.
    pub(crate) fn finish(
        &mut self,
        stop: StopReason,
        tell: &mut impl FnMut(&str) -> ControlFlow<()>,
    ) -> StopReason {
        let mut stop = stop;
        if !matches!(stop, StopReason::StopString(_)) {
            let mut part = String::new();
            self.stream.finish(&mut part);
            match self.stops.push(&part, &mut self.text) {
                Some(found) => stop = StopReason::StopString(found.to_owned()),
                None => self.stops.finish(&mut self.text),
            }
        }
        if stop != StopReason::Cancelled {
            // It is over either way.
            let _ = self.tell(tell);
        }
        stop
    }

    fn tell(&mut self, tell: &mut impl FnMut(&str) -> ControlFlow<()>) -> ControlFlow<()> {
        let new = &self.text[self.told..];
        self.told = self.text.len();
        if new.is_empty() { ControlFlow::Continue(()) } else { tell(new) }
    }
}

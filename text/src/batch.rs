//! Continues several prompts at once: each in a sequence of its own, and the next tokens of all in one run, which reads a model's
//! weights once for all of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::constraint::Constraint;
use crate::decoder::Decoder;
use crate::error::TextError;
use crate::generator::{Generation, Request, StopReason};
use crate::run::Run;
use crate::tokenizer::Tokenizer;

/// A prompt to continue. Of its request, guesses are not made.
pub struct Job {
    /// The prompt's tokens.
    pub prompt: Vec<i32>,
    /// What is asked for.
    pub request: Request,
    /// What the text has to look like.
    pub constraint: Option<Constraint>,
}

/// Generates texts with a model of several sequences.
///
/// A text has a sampler, stop strings and a constraint of its own. It is what a [`Generator`](crate::Generator) makes of the same
/// job, but where two logits tie: they may differ in their last bits with the number of tokens computed together.
pub struct Batch<'t, D> {
    tokenizer: &'t Tokenizer,
    decoder: D,
    parallel: usize,
}

/// A text in a sequence.
struct Slot<'t> {
    /// The job's number.
    job: usize,
    run: Run<'t>,
    constraint: Option<Constraint>,
    /// Tokens in the cache.
    cached: usize,
    prompt_tokens: usize,
    prompt_time: Duration,
    /// When its first logits were there.
    since: Instant,
}

impl<'t, D: Decoder> Batch<'t, D> {
    /// At most `parallel` texts at once.
    ///
    /// # Errors
    /// [`TextError::Sequences`] when the model doesn't have so many sequences.
    pub fn new(
        tokenizer: &'t Tokenizer,
        decoder: D,
        parallel: usize,
    ) -> Result<Batch<'t, D>, TextError> {
        let most = decoder.sequences().min(decoder.rows()).min(decoder.batch());
        match (1..=most).contains(&parallel) {
            true => Ok(Batch { tokenizer, decoder, parallel }),
            false => Err(TextError::Sequences { asked: parallel, sequences: most }),
        }
    }

    /// The model.
    pub fn decoder(&self) -> &D {
        &self.decoder
    }

    /// Continues all prompts and gives each text to `done`, in the order of the jobs, as soon as it and all before it are
    /// finished. A job is taken from the iterator when a sequence is free for it.
    ///
    /// # Errors
    /// The first error of a job; of a prompt as [`Generator::generate`](crate::Generator::generate).
    pub fn generate<E: From<TextError>>(
        &mut self,
        jobs: impl IntoIterator<Item = Result<Job, E>>,
        mut done: impl FnMut(usize, Generation) -> ControlFlow<()>,
    ) -> Result<(), E> {
        let mut jobs = jobs.into_iter().enumerate().fuse();
        let mut slots: Vec<Option<Slot<'t>>> = (0..self.parallel).map(|_| None).collect();
        // What is finished, but not what comes before it.
        let (mut finished, mut next) = (BTreeMap::new(), 0);
        loop {
            for (sequence, slot) in slots.iter_mut().enumerate() {
                while slot.is_none() {
                    let Some((number, job)) = jobs.next() else { break };
                    match self.begin(sequence, number, job?)? {
                        Begun::Slot(begun) => *slot = Some(*begun),
                        Begun::Finished(generation) => _ = finished.insert(number, generation),
                    }
                }
            }
            // A free sequence found no job.
            let is_over = slots.iter().all(Option::is_none);
            self.step(&mut slots, &mut finished)?;
            while let Some(generation) = finished.remove(&next) {
                if done(next, generation).is_break() {
                    return Ok(());
                }
                next += 1;
            }
            if is_over {
                return Ok(());
            }
        }
    }

    /// Computes a prompt in a sequence, and the first token of its text.
    fn begin(&mut self, sequence: usize, number: usize, job: Job) -> Result<Begun<'t>, TextError> {
        let start = Instant::now();
        let Job { prompt, request, constraint } = job;
        let run = Run::new(self.tokenizer, &self.decoder, &prompt, &request)?;
        let mut slot = Slot {
            job: number,
            run,
            constraint,
            cached: 0,
            prompt_tokens: prompt.len(),
            prompt_time: Duration::ZERO,
            since: start,
        };
        if request.max_tokens == 0 {
            return Ok(Begun::Finished(slot.finish(StopReason::Length)));
        }
        let (batch, context) = (self.decoder.batch(), self.decoder.context());
        let mut stop = None;
        for tokens in prompt.chunks(batch) {
            let positions: Vec<i32> =
                (slot.cached..).take(tokens.len()).map(|position| position as i32).collect();
            let sequences = vec![sequence as i32; tokens.len()];
            let rows = [tokens.len() as i32 - 1];
            let logits = self.decoder.forward_in(&sequences, tokens, &positions, &rows)?;
            slot.cached += tokens.len();
            if slot.cached == prompt.len() {
                slot.since = Instant::now();
                slot.prompt_time = slot.since - start;
                stop = slot.take(logits, context)?;
            }
        }
        Ok(match stop {
            Some(stop) => Begun::Finished(slot.finish(stop)),
            None => Begun::Slot(Box::new(slot)),
        })
    }

    /// Computes the last token of every text, and chooses the next one.
    fn step(
        &mut self,
        slots: &mut [Option<Slot<'t>>],
        finished: &mut BTreeMap<usize, Generation>,
    ) -> Result<(), TextError> {
        let [mut sequences, mut tokens, mut positions] = [const { Vec::new() }; 3];
        for (sequence, slot) in slots.iter().enumerate() {
            let last = slot.as_ref().and_then(|slot| slot.run.ids.last().map(|id| (slot, *id)));
            if let Some((slot, id)) = last {
                sequences.push(sequence as i32);
                tokens.push(id);
                positions.push(slot.cached as i32);
            }
        }
        if tokens.is_empty() {
            return Ok(());
        }
        let rows: Vec<i32> = (0..tokens.len() as i32).collect();
        let (vocabulary, context) = (self.decoder.vocabulary(), self.decoder.context());
        let logits = self.decoder.forward_in(&sequences, &tokens, &positions, &rows)?;
        for (sequence, logits) in sequences.iter().zip(logits.chunks_exact(vocabulary)) {
            let place = &mut slots[*sequence as usize];
            let Some(slot) = place else { continue };
            slot.cached += 1;
            if let Some(stop) = slot.take(logits, context)?
                && let Some(slot) = place.take()
            {
                finished.insert(slot.job, slot.finish(stop));
            }
        }
        Ok(())
    }
}

/// A text whose prompt was computed.
enum Begun<'t> {
    /// It goes on.
    Slot(Box<Slot<'t>>),
    /// Its first token ended it.
    Finished(Generation),
}

impl Slot<'_> {
    /// Chooses the next token. Returns why the text ends, if it does.
    fn take(&mut self, logits: &[f32], context: usize) -> Result<Option<StopReason>, TextError> {
        let id = self.run.choose(logits, None, self.constraint.as_mut())?;
        let full = self.cached + 1 >= context;
        self.run.take(id, full, self.constraint.as_mut(), &mut |_| ControlFlow::Continue(()))
    }

    fn finish(mut self, stop: StopReason) -> Generation {
        let stop = self.run.finish(stop, &mut |_| ControlFlow::Continue(()));
        Generation {
            text: self.run.text,
            ids: self.run.ids,
            stop,
            prompt_tokens: self.prompt_tokens,
            reused_tokens: 0,
            guessed: (0, 0),
            prompt_time: self.prompt_time,
            generation_time: self.since.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests;

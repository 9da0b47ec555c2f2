//! Guesses of the next tokens, to be computed together: what followed last time, or what a smaller model says.

use crate::decoder::{Decoder, compute};
use crate::error::TextError;
use crate::sampler::{Sampler, Sampling};

/// The longest sequence of tokens that a guess looks for in the text so far.
const MAX_NGRAM: usize = 3;
/// The shortest: single tokens repeat for no reason.
const MIN_NGRAM: usize = 2;

/// Tokens that may come.
#[derive(Default)]
pub(crate) struct Guesses {
    pub(crate) ids: Vec<i32>,
    /// The probabilities that each token was drawn by, in the order of ids; empty for tokens that weren't drawn.
    pub(crate) drawn: Vec<Vec<(i32, f64)>>,
}

impl Guesses {
    pub(crate) fn clear(&mut self) {
        self.ids.clear();
        self.drawn.iter_mut().for_each(Vec::clear);
    }

    /// Token `at`, with the probabilities that it was drawn by.
    pub(crate) fn get(&self, at: usize) -> Option<(i32, &[(i32, f64)])> {
        let drawn = self.drawn.get(at).map_or(&[][..], Vec::as_slice);
        self.ids.get(at).map(|id| (*id, drawn))
    }

    /// Guesses what followed when the last tokens of a text were there the last time, at most `count` tokens.
    pub(crate) fn look_up(&mut self, tokens: &[i32], count: usize) {
        for length in (MIN_NGRAM..=MAX_NGRAM).rev() {
            let Some(split) = tokens.len().checked_sub(length) else { continue };
            let (before, ngram) = (&tokens[..tokens.len() - 1], &tokens[split..]);
            if let Some(at) = before.windows(length).rposition(|window| window == ngram) {
                let followed = &tokens[at + length..];
                self.ids.extend_from_slice(&followed[..followed.len().min(count)]);
                return;
            }
        }
    }
}

/// A smaller model of the same tokens, which guesses what the model is going to say.
pub(crate) struct Draft<'d> {
    decoder: Box<dyn Decoder + 'd>,
    /// The tokens whose keys and values are in its cache, by position.
    cached: Vec<i32>,
}

impl<'d> Draft<'d> {
    pub(crate) fn new(decoder: impl Decoder + 'd) -> Draft<'d> {
        Draft { decoder: Box::new(decoder), cached: Vec::new() }
    }

    /// The sampler of a text's guesses: as the text's own, with random numbers of its own.
    pub(crate) fn sampler(&self, sampling: Sampling) -> Result<Sampler, TextError> {
        let sampling = Sampling { seed: !sampling.seed, ..sampling };
        Sampler::new(sampling, self.decoder.vocabulary())
    }

    /// Guesses up to `count` tokens behind a text, all of them below `vocabulary`; fewer where its context ends.
    pub(crate) fn guess(
        &mut self,
        tokens: &[i32],
        count: usize,
        vocabulary: usize,
        sampler: &mut Sampler,
        guesses: &mut Guesses,
    ) -> Result<(), TextError> {
        let own = self.decoder.vocabulary();
        let known = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < own);
        if tokens.len() >= self.decoder.context() || !tokens.iter().all(known) {
            return Ok(());
        }
        let count = count.min(self.decoder.context() - tokens.len());
        sampler.remember(tokens);
        let common = self.cached.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // The last token is computed again in any case: its logits aren't kept.
        self.cached.truncate(common.min(tokens.len() - 1));
        let mut feed = tokens[self.cached.len()..].to_vec();
        let batch = self.decoder.batch().max(1);
        guesses.drawn.resize_with(count.max(guesses.drawn.len()), Vec::new);
        for drawn in &mut guesses.drawn[..count] {
            let whole = (feed.len() - 1) / batch * batch;
            for tokens in feed[..whole].chunks(batch) {
                compute(&mut *self.decoder, &mut self.cached, tokens, 1)?;
            }
            let logits = compute(&mut *self.decoder, &mut self.cached, &feed[whole..], 1)?;
            let id = sampler.sample_telling(&logits[..vocabulary.min(own)], drawn)?;
            sampler.accept(id);
            guesses.ids.push(id);
            feed.clear();
            feed.push(id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! Chooses the next token by the logits.

use std::cmp::Ordering;
use std::collections::VecDeque;

use crate::error::TextError;

/// How a token is chosen. The defaults of the numbers are llama.cpp's; [`Sampling::greedy`] takes the best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides logits; 0 always takes the best token.
    pub temperature: f32,
    /// Only this many best tokens; 0 for all.
    pub top_k: usize,
    /// Only the best tokens whose probabilities together reach this; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this times as probable as the best; 0 for all.
    pub min_p: f32,
    /// Makes tokens among the last ones less probable; 1 changes nothing.
    pub repeat_penalty: f32,
    /// The number of last tokens, the prompt's included, that the penalty looks at.
    pub repeat_last: usize,
    /// The same seed and logits give the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last: 64,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Always the token with the largest logit.
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }
}

/// The largest window of the repetition penalty: it is searched for every token in it.
const MAX_REPEAT_LAST: usize = 1 << 12;

/// Chooses tokens. The order is llama.cpp's: repetition penalty, top-k, top-p, min-p, temperature, then a draw.
///
/// Penalty: `l / r` for a logit `l > 0`, else `l · r` (Keskar et al. 2019, CTRL). Top-p (Holtzman et al. 2019) sums
/// the probabilities of what top-k left, before the temperature; min-p keeps `l ≥ l_max + ln(p)`. Equal logits are
/// in the order of ids. Exponentials and the generator (SplitMix64, Steele et al. 2014) are the same on every
/// machine, so equal logits give equal tokens. Nothing is allocated after [`Sampler::new`].
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
    /// Tokens that the penalty looks at.
    last: VecDeque<i32>,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: i32,
    logit: f32,
    /// Relative to the others, not normalised.
    weight: f64,
}

impl Candidate {
    /// The larger logit first, then the smaller id.
    fn order(&self, other: &Candidate) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

impl Sampler {
    /// A sampler for models with `vocabulary` tokens.
    ///
    /// # Errors
    /// [`TextError::Sampling`] for numbers out of range.
    pub fn new(sampling: Sampling, vocabulary: usize) -> Result<Sampler, TextError> {
        let Sampling { temperature, top_p, min_p, repeat_penalty, .. } = sampling;
        let finite = |value: f32| value.is_finite() && value >= 0.0;
        let window = sampling.repeat_last.min(MAX_REPEAT_LAST + 1);
        let checks = [
            ("temperature", temperature, finite(temperature), "0 or more"),
            ("top-p", top_p, finite(top_p) && top_p <= 1.0, "from 0 to 1"),
            ("min-p", min_p, finite(min_p) && min_p <= 1.0, "from 0 to 1"),
            (
                "repetition penalty",
                repeat_penalty,
                finite(repeat_penalty) && repeat_penalty > 0.0,
                "above 0",
            ),
            (
                "window of the repetition penalty",
                window as f32,
                window <= MAX_REPEAT_LAST,
                "at most 4096",
            ),
        ];
        for (name, value, holds, allowed) in checks {
            if !holds {
                return Err(TextError::Sampling { name, value, allowed });
            }
        }
        Ok(Sampler {
            sampling,
            state: sampling.seed,
            last: VecDeque::with_capacity(sampling.repeat_last + 1),
            candidates: Vec::with_capacity(vocabulary),
        })
    }

    /// Tells of a token of the prompt or of the answer, for the penalty.
    pub fn accept(&mut self, id: i32) {
        self.last.push_back(id);
        if self.last.len() > self.sampling.repeat_last {
            self.last.pop_front();
        }
    }

    /// Forgets what it was told of and takes these tokens instead.
    pub(crate) fn remember(&mut self, tokens: &[i32]) {
        self.last.clear();
        let seen = tokens.len().min(self.sampling.repeat_last);
        self.last.extend(&tokens[tokens.len() - seen..]);
    }

    /// Chooses from one row of logits; `mask` has a bit for each token that is allowed.
    ///
    /// # Errors
    /// [`TextError::NoToken`] when no allowed logit is a finite number.
    pub fn sample(&mut self, logits: &[f32], mask: Option<&[u32]>) -> Result<i32, TextError> {
        self.weigh_all(logits, mask);
        let chosen = match self.sampling.temperature > 0.0 {
            true => self.draw(),
            false => self.candidates.first().map(|best| best.id),
        };
        chosen.ok_or(TextError::NoToken)
    }

    /// The same, and the probabilities that the token was drawn by, in the order of ids; none when nothing was drawn.
    pub(crate) fn sample_telling(
        &mut self,
        logits: &[f32],
        probabilities: &mut Vec<(i32, f64)>,
    ) -> Result<i32, TextError> {
        let id = self.sample(logits, None)?;
        probabilities.clear();
        if self.sampling.temperature > 0.0 {
            let total = self.total();
            probabilities.extend(self.candidates.iter().map(|c| (c.id, c.weight / total)));
            probabilities.sort_unstable_by_key(|(id, _)| *id);
        }
        Ok(id)
    }

    /// Chooses as [`Sampler::sample`] does, given a guess that was drawn by `drawn`, probabilities in the order of ids: the guess itself with
    /// probability `min(1, p / q)`, and otherwise a token drawn by `max(0, p − q)` (Leviathan et al. 2023, "Fast inference from
    /// transformers via speculative decoding", section 2.3), so that tokens come with probability p all the same.
    pub(crate) fn sample_guessed(
        &mut self,
        logits: &[f32],
        mask: Option<&[u32]>,
        guess: i32,
        drawn: &[(i32, f64)],
    ) -> Result<i32, TextError> {
        self.weigh_all(logits, mask);
        let total = self.total();
        let q =
            |id: i32| drawn.binary_search_by_key(&id, |(of, _)| *of).map_or(0.0, |at| drawn[at].1);
        let chance =
            self.candidates.iter().find(|c| c.id == guess).map_or(0.0, |c| c.weight / total);
        if self.random() * q(guess) < chance {
            return Ok(guess);
        }
        for candidate in &mut self.candidates {
            candidate.weight = (candidate.weight / total - q(candidate.id)).max(0.0);
        }
        // Where rounding leaves nothing, p and q are the same, and the guess was as good as any.
        match self.total() > 0.0 {
            true => self.draw().ok_or(TextError::NoToken),
            false if self.candidates.is_empty() => Err(TextError::NoToken),
            false => Ok(guess),
        }
    }

    /// Leaves the candidates that may come, with weights.
    fn weigh_all(&mut self, logits: &[f32], mask: Option<&[u32]>) {
        let allowed = |id: usize| {
            mask.is_none_or(|mask| mask.get(id / 32).is_some_and(|w| w >> (id % 32) & 1 == 1))
        };
        self.candidates.clear();
        for (id, logit) in logits.iter().enumerate() {
            if logit.is_finite() && allowed(id) {
                self.candidates.push(Candidate { id: id as i32, logit: *logit, weight: 0.0 });
            }
        }
        self.penalize();
        if self.sampling.temperature > 0.0 {
            return self.narrow();
        }
        if let Some(best) = self.candidates.iter().copied().min_by(Candidate::order) {
            self.candidates.clear();
            self.candidates.push(Candidate { weight: 1.0, ..best });
        }
    }

    fn total(&self) -> f64 {
        self.candidates.iter().map(|candidate| candidate.weight).sum()
    }

    fn penalize(&mut self) {
        let penalty = self.sampling.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        for (index, id) in self.last.iter().enumerate() {
            if self.last.range(..index).any(|before| before == id) {
                continue;
            }
            // Candidates are in the order of ids so far.
            if let Ok(at) = self.candidates.binary_search_by_key(id, |candidate| candidate.id) {
                let logit = &mut self.candidates[at].logit;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Leaves the candidates that top-k, top-p and min-p leave, the best first.
    fn narrow(&mut self) {
        let Sampling { top_k, top_p, min_p, .. } = self.sampling;
        let candidates = &mut self.candidates;
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, Candidate::order);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(Candidate::order);
        let Some(best) = candidates.first().map(|best| best.logit) else { return };
        if top_p < 1.0 {
            weigh(candidates, best, 1.0);
            let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
            let mut sum = 0.0;
            let reached = candidates.iter().position(|candidate| {
                sum += candidate.weight;
                sum >= f64::from(top_p) * total
            });
            candidates.truncate(reached.map_or(candidates.len(), |last| last + 1));
        }
        if min_p > 0.0 {
            let least = f64::from(best) + libm::log(f64::from(min_p));
            let kept = candidates.partition_point(|candidate| f64::from(candidate.logit) >= least);
            candidates.truncate(kept.max(1));
        }
        weigh(candidates, best, self.sampling.temperature);
    }

    /// A candidate by chance, as probable as its weight.
    fn draw(&mut self) -> Option<i32> {
        let mut rest = self.random() * self.total();
        let drawn = self.candidates.iter().find(|candidate| {
            rest -= candidate.weight;
            rest < 0.0
        });
        drawn.or(self.candidates.last()).map(|candidate| candidate.id)
    }

    /// From 0 up to 1, which it doesn't reach.
    fn random(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Sets weights to `exp((logit − best) / temperature)`.
fn weigh(candidates: &mut [Candidate], best: f32, temperature: f32) {
    for candidate in candidates {
        let below = f64::from(candidate.logit) - f64::from(best);
        candidate.weight = libm::exp(below / f64::from(temperature));
    }
}

#[cfg(test)]
mod tests;

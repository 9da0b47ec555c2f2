//! How well a model foretells a text: perplexity, and divergence from another model.

use whit::kernels::elementary::exp_below;

use crate::decoder::Decoder;
use crate::error::TextError;

/// How a text that may be longer than a model's context is cut into windows, each computed from its own beginning.
///
/// A window starts `stride` tokens behind the one before, and only tokens that no window before held are scored: the
/// others are their context (the sliding window of Hugging Face's "Perplexity of fixed-length models"). The first
/// token of the text is scored only when windows begin with a token of their own, `begin`, since nothing stands before
/// it; with a stride of a whole window the same goes for the first token of every window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens of a window, `begin` included; 2 to the model's context.
    pub window: usize,
    /// Tokens from one window to the next; 1 to `window`. Smaller ones give each token more context, and take longer.
    pub stride: usize,
    /// The token that each window begins with, for models that want one.
    pub begin: Option<i32>,
}

/// One window of a text: the tokens `start..end`, of which those from `scored` on are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    start: usize,
    scored: usize,
    end: usize,
}

impl Windows {
    /// The windows of a text of so many tokens.
    fn over(self, tokens: usize) -> impl Iterator<Item = Window> {
        let own = usize::from(self.begin.is_some());
        let room = self.window - own;
        let stride = self.stride.min(room);
        let mut next = Some((0, 0));
        std::iter::from_fn(move || {
            let (start, before) = next.take()?;
            let end = tokens.min(start + room);
            if end < tokens {
                next = Some((start + stride, end));
            }
            Some(Window { start, scored: before.max(start + 1 - own), end })
        })
    }
}

/// Count, mean and spread of numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments {
    count: usize,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn push(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.squares += value * value;
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// The mean's standard error, as if the numbers didn't depend on each other: `s / √n`. NaN for fewer than two.
    pub fn standard_error(&self) -> f64 {
        let n = self.count as f64;
        let variance = (self.squares - self.sum * self.sum / n).max(0.0) / (n - 1.0);
        (variance / n).sqrt()
    }

    /// `exp` of the mean and its standard error (delta method): perplexity, when the numbers are negative log-likelihoods.
    pub fn exponential(&self) -> (f64, f64) {
        let value = libm::exp(self.mean());
        (value, value * self.standard_error())
    }
}

/// A model's answers beside another's.
#[derive(Clone, Debug, Default)]
pub struct Divergence {
    /// Negative log-likelihoods of the reference.
    pub reference: Moments,
    /// Negative log-likelihood of the model less that of the reference.
    pub difference: Moments,
    /// Kullback–Leibler divergences `Σ p ln(p / q)` of the model's distribution q from the reference's p, in nats.
    pub divergence: Moments,
    /// All of these divergences, in the text's order.
    pub divergences: Vec<f64>,
    /// Tokens at which both models have the same best one.
    pub same_best: usize,
}

/// What a text says of a model.
#[derive(Clone, Debug, Default)]
pub struct TextScore {
    /// Negative log-likelihoods of the scored tokens, in nats.
    pub likelihood: Moments,
    /// Tokens that the model computed, those of context included.
    pub computed: usize,
    /// Beside another model.
    pub against: Option<Divergence>,
}

/// Scores a text: how probable each token is for a model, given the tokens before it in its window. With a
/// `reference`, both models compute the same windows.
///
/// # Errors
/// [`TextError::Windows`] for windows that the models don't have room for, [`TextError::TooFewTokens`],
/// [`TextError::Vocabulary`] for tokens that aren't the models', [`TextError::Vocabularies`] when theirs differ in size,
/// [`TextError::NotFinite`] when a token's probability is 0 or no number, and what the models return.
pub fn score_text(
    tokens: &[i32],
    windows: Windows,
    model: &mut dyn Decoder,
    mut reference: Option<&mut dyn Decoder>,
    mut progress: impl FnMut(usize),
) -> Result<TextScore, TextError> {
    let mut limits = [model.context(), model.batch(), model.rows()];
    let vocabulary = model.vocabulary();
    if let Some(reference) = &reference {
        let other = [reference.context(), reference.batch(), reference.rows()];
        limits = std::array::from_fn(|at| limits[at].min(other[at]));
        if reference.vocabulary() != vocabulary {
            return Err(TextError::Vocabularies(vocabulary, reference.vocabulary()));
        }
    }
    let [context, batch, rows] = limits;
    if !(2..=context).contains(&windows.window) || !(1..=windows.window).contains(&windows.stride) {
        return Err(TextError::Windows { window: windows.window, stride: windows.stride, context });
    }
    let outside = |id: &&i32| usize::try_from(**id).map_or(true, |id| id >= vocabulary);
    if let Some(id) = tokens.iter().chain(&windows.begin).find(outside) {
        return Err(TextError::Vocabulary { id: *id, vocabulary });
    }
    if tokens.len() + usize::from(windows.begin.is_some()) < 2 {
        return Err(TextError::TooFewTokens(tokens.len()));
    }

    let mut score = TextScore {
        against: reference.as_ref().map(|_| Divergence::default()),
        ..Default::default()
    };
    let mut window_tokens = Vec::with_capacity(windows.window);
    for window in windows.over(tokens.len()) {
        window_tokens.clear();
        window_tokens.extend(windows.begin);
        // The token of text at `window.start` has this place in the window.
        let own = window_tokens.len();
        window_tokens.extend_from_slice(&tokens[window.start..window.end]);
        // The logits at `place` foretell the token behind it, so nothing is asked of the last.
        let first_wanted = window.scored - window.start + own - 1;
        let last = window_tokens.len() - 1;
        let mut place = 0;
        while place < last {
            // Context first, then pieces whose logits are all wanted.
            let is_context = place < first_wanted;
            let end = match is_context {
                true => first_wanted.min(place + batch.max(1)),
                false => last.min(place + rows.min(batch).max(1)),
            };
            let piece = &window_tokens[place..end];
            let positions: Vec<i32> = (place..end).map(|position| position as i32).collect();
            let wanted: Vec<i32> = match is_context {
                true => vec![piece.len() as i32 - 1],
                false => (0..piece.len() as i32).collect(),
            };
            let logits = model.forward(piece, &positions, &wanted)?;
            let other = match &mut reference {
                Some(reference) => Some(reference.forward(piece, &positions, &wanted)?),
                None => None,
            };
            score.computed += piece.len();
            if !is_context {
                let targets = &window_tokens[place + 1..=end];
                let first = window.start + place + 1 - own;
                score.take(targets, first, vocabulary, logits, other)?;
                progress(score.likelihood.count);
            }
            place = end;
        }
    }
    Ok(score)
}

impl TextScore {
    /// Adds rows of logits and the tokens that came; `first` is the place in the text of the first of them.
    fn take(
        &mut self,
        targets: &[i32],
        first: usize,
        vocabulary: usize,
        logits: &[f32],
        reference: Option<&[f32]>,
    ) -> Result<(), TextError> {
        for (row, target) in targets.iter().enumerate() {
            let of =
                |logits: &'_ [f32]| row * vocabulary..((row + 1) * vocabulary).min(logits.len());
            let q = Distribution::of(&logits[of(logits)]);
            let likelihood = q.surprise(*target);
            self.likelihood.push(likelihood);
            let mut finite = likelihood.is_finite();
            if let (Some(reference), Some(against)) = (reference, &mut self.against) {
                let p = Distribution::of(&reference[of(reference)]);
                let expected = p.surprise(*target);
                let divergence = p.divergence(&q);
                finite &= expected.is_finite() && divergence.is_finite();
                against.reference.push(expected);
                against.difference.push(likelihood - expected);
                against.divergence.push(divergence);
                against.divergences.push(divergence);
                against.same_best += usize::from(p.best == q.best);
            }
            if !finite {
                return Err(TextError::NotFinite { token: first + row });
            }
        }
        Ok(())
    }
}

/// The softmax of logits.
struct Distribution<'l> {
    logits: &'l [f32],
    /// `ln Σ exp(l)`.
    log_sum: f64,
    largest: f32,
    /// The first of the largest logits.
    best: usize,
}

impl Distribution<'_> {
    fn of(logits: &[f32]) -> Distribution<'_> {
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, larger);
        let best = logits.iter().position(|logit| *logit == largest).unwrap_or(0);
        // Exponentials within 2 ulp of f32; thousands of them are added, in f64.
        let sum: f64 = logits.iter().map(|logit| f64::from(exp_below(logit - largest))).sum();
        Distribution { logits, log_sum: f64::from(largest) + libm::log(sum), largest, best }
    }

    /// The negative logarithm of a token's probability.
    fn surprise(&self, token: i32) -> f64 {
        let logit = usize::try_from(token).ok().and_then(|token| self.logits.get(token));
        self.log_sum - logit.map_or(f64::NAN, |logit| f64::from(*logit))
    }

    /// `Σ p ln(p / q)`, p being this one.
    fn divergence(&self, q: &Distribution<'_>) -> f64 {
        let (mut sum, mut total) = (0.0, 0.0);
        for (p, q) in self.logits.iter().zip(q.logits) {
            let weight = f64::from(exp_below(p - self.largest));
            // What is impossible for p adds nothing, however it is for q.
            if weight > 0.0 {
                sum += weight * (f64::from(*p) - f64::from(*q));
            }
            total += weight;
        }
        sum / total - (self.log_sum - q.log_sum)
    }
}

#[cfg(test)]
mod tests;

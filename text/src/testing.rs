//! A decoder for tests, whose logits are known.

use crate::decoder::Decoder;
use crate::error::TextError;

/// Number of tokens of hashed models.
pub(crate) const VOCABULARY: usize = 11;

/// Logits behind some tokens.
type LogitsBehind = dyn Fn(&[i32]) -> Vec<f32>;

/// A model whose logits are a function of all that it sees, the same for every way of cutting its input into pieces.
pub(crate) struct Known {
    /// Tokens by position, of each sequence.
    caches: Vec<Vec<i32>>,
    batch: usize,
    rows: usize,
    vocabulary: usize,
    logits_behind: Box<LogitsBehind>,
    logits: Vec<f32>,
    /// Tokens of each call.
    pub(crate) calls: Vec<usize>,
}

impl Known {
    /// Batches of 5 tokens; logits are a hash.
    pub(crate) fn hashed(context: usize, rows: usize, seed: u64) -> Known {
        let logits_behind = move |seen: &[i32]| logits(seen, seed).to_vec();
        Known::new([context, 5, rows, VOCABULARY], logits_behind)
    }

    /// Batches of 4 tokens and 3 rows; the best token behind what `text` begins with is the next one of it, else `unsure`.
    pub(crate) fn reciting(
        text: Vec<i32>,
        unsure: i32,
        context: usize,
        vocabulary: usize,
    ) -> Known {
        Known::new([context, 4, 3, vocabulary], move |seen| {
            let next = text.get(seen.len()).filter(|_| text.starts_with(seen));
            let next = next.copied().unwrap_or(unsure) as usize;
            (0..vocabulary).map(|id| if id == next { 2.0 } else { -(id as f32) }).collect()
        })
    }

    fn new(
        [context, batch, rows, vocabulary]: [usize; 4],
        logits_behind: impl Fn(&[i32]) -> Vec<f32> + 'static,
    ) -> Known {
        Known {
            caches: vec![vec![-1; context]],
            batch,
            rows,
            vocabulary,
            logits_behind: Box::new(logits_behind),
            logits: Vec::new(),
            calls: Vec::new(),
        }
    }

    pub(crate) fn with_sequences(mut self, sequences: usize) -> Known {
        self.caches.resize(sequences, self.caches[0].clone());
        self
    }
}

/// Logits from −4 to 4 behind some tokens.
pub(crate) fn logits(seen: &[i32], seed: u64) -> [f32; VOCABULARY] {
    let mut state = seed;
    let mut mix = |value: u64| {
        state = (state ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state ^= state >> 29;
        state
    };
    seen.iter().for_each(|token| _ = mix(*token as u64 + 1));
    std::array::from_fn(|id| (mix(id as u64) % 8000) as f32 / 1000.0 - 4.0)
}

impl Decoder for Known {
    fn context(&self) -> usize {
        self.caches[0].len()
    }

    fn sequences(&self) -> usize {
        self.caches.len()
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn forward_in(
        &mut self,
        sequences: &[i32],
        tokens: &[i32],
        positions: &[i32],
        rows: &[i32],
    ) -> Result<&[f32], TextError> {
        assert!(tokens.len() <= self.batch && (1..=self.rows).contains(&rows.len()));
        assert_eq!((sequences.len(), positions.len()), (tokens.len(), tokens.len()));
        self.calls.push(tokens.len());
        for ((token, position), sequence) in tokens.iter().zip(positions).zip(sequences) {
            self.caches[*sequence as usize][*position as usize] = *token;
        }
        self.logits.clear();
        for row in rows {
            let (sequence, position) = (sequences[*row as usize], positions[*row as usize]);
            let seen = &self.caches[sequence as usize][..=position as usize];
            self.logits.extend((self.logits_behind)(seen));
        }
        Ok(&self.logits)
    }
}

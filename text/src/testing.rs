//! A decoder for tests, whose logits are known.

use crate::decoder::Decoder;
use crate::error::TextError;

/// Number of tokens.
pub(crate) const VOCABULARY: usize = 11;

/// A model whose logits are a hash of all that it sees, the same for every way of cutting its input into pieces.
pub(crate) struct Hashed {
    cache: Vec<i32>,
    seed: u64,
    rows: usize,
    logits: Vec<f32>,
}

impl Hashed {
    pub(crate) fn new(context: usize, rows: usize, seed: u64) -> Hashed {
        Hashed { cache: vec![-1; context], seed, rows, logits: Vec::new() }
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

impl Decoder for Hashed {
    fn context(&self) -> usize {
        self.cache.len()
    }

    fn batch(&self) -> usize {
        5
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn forward(
        &mut self,
        tokens: &[i32],
        positions: &[i32],
        rows: &[i32],
    ) -> Result<&[f32], TextError> {
        assert!(tokens.len() <= 5 && (1..=self.rows).contains(&rows.len()));
        for (token, position) in tokens.iter().zip(positions) {
            self.cache[*position as usize] = *token;
        }
        self.logits.clear();
        for row in rows {
            let position = positions[*row as usize] as usize;
            self.logits.extend(logits(&self.cache[..=position], self.seed));
        }
        Ok(&self.logits)
    }
}

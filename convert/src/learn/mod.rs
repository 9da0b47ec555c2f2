//! Gradients for quantization: graphs run as tensors of candle, roundings that gradients pass, weights that learn
//! which way to round, and whole models that learn to do what the float model did.
//!
//! [`forward`] is also a second implementation of the operators, written without the runtime's; tests hold one
//! against the other.

mod data;
pub mod finetune;
pub mod forward;
mod kernels;
mod ops;
pub mod rounding;
mod windows;

use crate::evaluate::EvaluateError;

/// Why something can't be learned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LearnError {
    /// An operator, type or shape without a form that has gradients.
    #[error("`{node}` has no form with gradients: {why}")]
    Unsupported {
        /// Name of the node.
        node: String,
        /// What is missing.
        why: String,
    },
    /// The model as a whole.
    #[error("{0}")]
    Model(String),
    /// Data that doesn't fit.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// Arithmetic on tensors failed: a defect.
    #[error("tensor arithmetic failed ({0}); this is a defect of the converter, please report it")]
    Tensor(#[from] candle_core::Error),
}

/// What learning did to a quantization.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learned {
    /// Layers whose integers or biases are new.
    pub layers: usize,
    /// Layers that learned nothing better than what they had.
    pub unchanged: usize,
    /// What couldn't be learned, and why.
    pub skipped: Vec<String>,
    /// Samples that were used.
    pub samples: usize,
    /// Steps of gradient descent in all.
    pub iterations: usize,
}

/// Random numbers that follow from a seed (SplitMix64, Steele et al. 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; even but for what 64 bits can't divide.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// The numbers below `n` in a random order (Fisher–Yates).
    pub(crate) fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for at in (1..n).rev() {
            order.swap(at, self.below(at + 1));
        }
        order
    }
}

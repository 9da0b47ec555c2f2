//! Text in, text out for models run by Whit.
//!
//! [`Tokenizer`] turns text into token ids and back, [`ChatTemplate`] a conversation into a prompt. [`Generator`]
//! continues a prompt with a [`Decoder`]: a [`Sampler`] chooses tokens, a [`Constraint`] says which may come, and
//! [`StopStrings`] where the text ends. A [`Batch`] continues several prompts at once. [`score_text`] says how well a decoder foretells a text.
#![forbid(unsafe_code)]

mod batch;
mod constraint;
mod decoder;
mod draft;
mod error;
mod generator;
mod perplexity;
mod run;
mod sampler;
mod saved;
mod stop;
mod stream;
mod template;
#[cfg(test)]
mod testing;
mod tokenizer;

pub use batch::{Batch, Job};
pub use constraint::{Constraint, Grammar};
pub use decoder::{Decoder, SessionDecoder};
pub use error::TextError;
pub use generator::{Generation, Generator, Request, StopReason};
pub use perplexity::{Divergence, Moments, TextScore, Windows, score_text};
pub use sampler::{Sampler, Sampling};
pub use stop::StopStrings;
pub use stream::TextStream;
pub use template::{ChatTemplate, Message};
pub use tokenizer::Tokenizer;

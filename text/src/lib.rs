//! Text in, text out for models run by Whit.
//!
//! [`Tokenizer`] turns text into token ids and back.
#![forbid(unsafe_code)]

mod error;
mod stream;
mod tokenizer;

pub use error::TextError;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;

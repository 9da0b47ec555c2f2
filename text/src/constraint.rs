//! Which tokens may come next, by a grammar.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::error::TextError;
use crate::tokenizer::Tokenizer;

/// What a text has to look like.
#[derive(Clone, Copy, Debug)]
pub enum Grammar<'a> {
    /// JSON that a schema allows; the schema's text.
    JsonSchema(&'a str),
    /// A regular expression that the whole text matches.
    Regex(&'a str),
    /// A context-free grammar in the Lark dialect of the library llguidance.
    Lark(&'a str),
}

/// Follows a grammar token by token.
pub struct Constraint {
    matcher: Matcher,
    mask: SimpleVob,
}

/// Between the parts of JSON: a space, or a line's end and an indentation. A small model that may write as much
/// white space as it likes sometimes never stops.
const WHITE_SPACE: &str = r" |\n {0,16}";
/// A token longer than this is never allowed: the trie of tokens is walked by recursion.
const MAX_TOKEN_BYTES: usize = 1 << 10;

impl Constraint {
    /// Prepares a grammar for a tokenizer and a model with `vocabulary` tokens. The first call for a tokenizer
    /// takes some tenths of a second.
    ///
    /// # Errors
    /// [`TextError::Grammar`] when the grammar isn't one, or asks for what isn't supported; and when the tokenizer
    /// names no token that ends a text.
    pub fn new(
        tokenizer: &Tokenizer,
        vocabulary: usize,
        grammar: Grammar<'_>,
    ) -> Result<Constraint, TextError> {
        let failed = |error: &dyn std::fmt::Display| TextError::Grammar(error.to_string());
        let grammar = match grammar {
            Grammar::JsonSchema(text) => {
                let mut schema: Value =
                    serde_json::from_str(text).map_err(|error| failed(&error))?;
                if let Some(schema) = schema.as_object_mut() {
                    let options = || json!({ "whitespace_pattern": WHITE_SPACE });
                    schema.entry("x-guidance").or_insert_with(options);
                }
                TopLevelGrammar::from_json_schema(schema)
            }
            Grammar::Regex(text) => TopLevelGrammar::from_regex(text),
            Grammar::Lark(text) => TopLevelGrammar::from_lark(text.to_owned()),
        };
        let environment = environment(tokenizer, vocabulary)?;
        let factory = ParserFactory::new_simple(&environment);
        let mut factory = factory.map_err(|error| failed(&error))?;
        factory.quiet();
        let parser = factory.create_parser(grammar).map_err(|error| failed(&error))?;
        let matcher = Matcher::new(Ok(parser));
        Ok(Constraint { matcher, mask: SimpleVob::new() })
    }

    /// One bit for each token that may come next, the tokens that end the text among them when it may end.
    ///
    /// # Errors
    /// [`TextError::Grammar`] when the grammar became too costly to follow.
    pub fn mask(&mut self) -> Result<&[u32], TextError> {
        self.mask = self.matcher.compute_mask_or_eos().map_err(failed)?;
        Ok(self.mask.as_slice())
    }

    /// Goes on behind a token.
    ///
    /// # Errors
    /// [`TextError::Grammar`] when it wasn't allowed.
    pub fn accept(&mut self, id: i32) -> Result<(), TextError> {
        self.matcher.consume_token(id as u32).map_err(failed)
    }

    /// Whether the text is complete and nothing may follow.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }
}

fn failed(error: impl std::fmt::Display) -> TextError {
    TextError::Grammar(error.to_string())
}

/// The tokenizer's tokens as bytes.
fn environment(tokenizer: &Tokenizer, vocabulary: usize) -> Result<TokEnv, TextError> {
    // A stream proves that tokens have bytes of their own.
    tokenizer.stream()?;
    let eos: Vec<u32> = tokenizer
        .eos()
        .iter()
        .filter(|id| (**id as usize) < vocabulary)
        .map(|id| *id as u32)
        .collect();
    let first =
        *eos.first().ok_or_else(|| failed("the tokenizer names no token that ends a text"))?;
    let size = u32::try_from(vocabulary).map_err(failed)?;
    let mut words = Vec::with_capacity(vocabulary);
    for id in 0..vocabulary as i32 {
        let mut word = Vec::new();
        match tokenizer.token(id) {
            Some(token) if tokenizer.is_special(id) => {
                word.push(TokTrie::SPECIAL_TOKEN_MARKER);
                word.extend_from_slice(token.as_bytes());
            }
            Some(_) => tokenizer.piece(id, &mut word)?,
            None => {}
        }
        if word.len() > MAX_TOKEN_BYTES {
            word.clear();
        }
        words.push(word);
    }
    let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(&eos);
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}

#[cfg(test)]
mod tests;

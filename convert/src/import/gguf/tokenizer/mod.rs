//! A GGUF file's tokenizer as a tokenizer.json, and the other metadata that text needs.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::GgufError;
use super::file::{Metadata, Value as Stored};

mod byte_level;
mod pre_tokenizers;
pub(crate) mod sentence_piece;
#[cfg(test)]
mod tests;
mod unigram;
mod word_piece;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MODEL: &str = "tokenizer.ggml.model";

/// What `tokenizer.ggml.model` may be.
const MODELS: &[(&str, Family)] = &[
    ("gpt2", Family { make: byte_level::make, defaults: Defaults::NONE }),
    ("llama", Family { make: sentence_piece::make, defaults: Defaults::LLAMA }),
    ("bert", Family { make: word_piece::make, defaults: Defaults::BERT }),
    ("t5", Family { make: unigram::make, defaults: Defaults::T5 }),
];

/// A kind of tokenizer.
struct Family {
    /// Makes everything but `added_tokens`.
    make: fn(&Source<'_>) -> Result<Map<String, Value>, GgufError>,
    defaults: Defaults,
}

/// What holds where metadata is silent.
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    /// Whether text begins with bos, and ends with eos.
    ends: (bool, bool),
}

impl Defaults {
    const NONE: Defaults = Defaults { bos: None, eos: None, unknown: None, ends: (false, false) };
    const LLAMA: Defaults =
        Defaults { bos: Some(1), eos: Some(2), unknown: Some(0), ends: (true, false) };
    const BERT: Defaults =
        Defaults { bos: Some(101), eos: Some(102), unknown: Some(100), ends: (true, true) };
    const T5: Defaults =
        Defaults { bos: None, eos: Some(1), unknown: Some(2), ends: (false, true) };
}

/// Tokens after which nothing is generated, whatever the metadata names: those that end a turn or a document.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "<end_of_utterance>",
];

/// What a token is, by the numbers of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The vocabulary, checked, and the metadata that it came with.
struct Source<'a> {
    metadata: &'a Metadata<'a>,
    tokens: &'a [&'a str],
    kinds: Vec<Kind>,
    ids: HashMap<&'a str, u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    ends: (bool, bool),
}

/// The metadata of a `.whit` file that a GGUF file's tokenizer becomes: `tokenizer`, `tokenizer.bos`,
/// `tokenizer.eos`, and `tokenizer.chat_template` when there is one.
///
/// # Errors
/// [`GgufError::MissingKey`] when there is no tokenizer, [`GgufError::Key`] when there is no such model or
/// pre-tokenizer, or when lists don't fit together.
pub fn tokenizer_metadata(metadata: &Metadata<'_>) -> Result<Vec<(String, String)>, GgufError> {
    let model = metadata.required(MODEL, metadata.text(MODEL)?)?;
    let family = MODELS.iter().find(|(name, _)| *name == model).map(|(_, family)| family);
    let family = family.ok_or_else(|| {
        let names: Vec<&str> = MODELS.iter().map(|(name, _)| *name).collect();
        key(MODEL, format!("`{model}` can't be imported; {} can", names.join(", ")))
    })?;
    let source = Source::new(metadata, family)?;
    let mut json = json!({ "version": "1.0", "truncation": null, "padding": null });
    json["added_tokens"] = source.added_tokens();
    for (name, value) in (family.make)(&source)? {
        json[name] = value;
    }
    let mut entries = vec![("tokenizer".to_owned(), json.to_string())];
    if let Some(bos) = source.bos {
        entries.push(("tokenizer.bos".to_owned(), source.token(bos).to_owned()));
    }
    let eos = source.all_ends()?;
    if !eos.is_empty() {
        entries.push(("tokenizer.eos".to_owned(), eos.join("\n")));
    }
    if let Some(template) = metadata.text("tokenizer.chat_template")? {
        entries.push(("tokenizer.chat_template".to_owned(), template.to_owned()));
    }
    Ok(entries)
}

fn key(key: &str, problem: impl Into<String>) -> GgufError {
    GgufError::Key { key: key.to_owned(), problem: problem.into() }
}

impl<'a> Source<'a> {
    fn new(metadata: &'a Metadata<'a>, family: &Family) -> Result<Source<'a>, GgufError> {
        let tokens = metadata.required(TOKENS, metadata.texts(TOKENS)?)?;
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            let first = ids.insert(*token, id as u32);
            if let Some(first) = first {
                return Err(key(TOKENS, format!("tokens {first} and {id} are both `{token}`")));
            }
        }
        // Ids are i32 in llama.cpp and in Whit.
        if tokens.is_empty() || i32::try_from(tokens.len()).is_err() {
            return Err(key(TOKENS, format!("there are {} tokens", tokens.len())));
        }
        let kinds = kinds(metadata, tokens.len())?;
        let id = |name: &str, default: Option<u32>| -> Result<Option<u32>, GgufError> {
            let name = format!("tokenizer.ggml.{name}_token_id");
            match metadata.unsigned(&name)? {
                None => Ok(default.filter(|id| (*id as usize) < tokens.len())),
                Some(id) if id < tokens.len() as u64 => Ok(Some(id as u32)),
                Some(id) => {
                    Err(key(&name, format!("{id} is no token; there are {}", tokens.len())))
                }
            }
        };
        let Defaults { bos, eos, unknown, ends } = family.defaults;
        // Encoders' texts begin and end with tokens that some files have under these names alone.
        let bos = id("bos", id("cls", bos)?)?;
        let eos = id("eos", id("seperator", eos)?)?;
        let unknown = id("unknown", unknown)?;
        let source = Source { metadata, tokens, kinds, ids, bos, eos, unknown, ends };
        let pre = byte_level::pre_tokenizer(metadata)?;
        let ends = (
            metadata
                .truth("tokenizer.ggml.add_bos_token")?
                .unwrap_or(ends.0 || pre.is_some_and(|p| p.adds_bos)),
            metadata.truth("tokenizer.ggml.add_eos_token")?.unwrap_or(ends.1),
        );
        Ok(Source { ends, ..source })
    }

    fn token(&self, id: u32) -> &'a str {
        self.tokens[id as usize]
    }

    /// Tokens by kind, with their ids.
    fn of_kinds(&self, kinds: &[Kind]) -> impl Iterator<Item = (u32, &'a str)> {
        let tokens = self.tokens.iter().zip(&self.kinds).enumerate();
        tokens
            .filter(|(_, (_, kind))| kinds.contains(kind))
            .map(|(id, (token, _))| (id as u32, *token))
    }

    /// The tokens that are found in text before anything else is done with it.
    fn added_tokens(&self) -> Value {
        // Phi-3's tokens of turns take the white space behind them.
        let strips = self.metadata.text("general.architecture") == Ok(Some("phi3"))
            && self.metadata.text(MODEL) == Ok(Some("llama"));
        let kinds = [Kind::Unknown, Kind::Control, Kind::UserDefined];
        let added =
            self.of_kinds(&kinds).filter(|(_, token)| !token.is_empty()).map(|(id, token)| {
                let special = self.kinds[id as usize] != Kind::UserDefined;
                let rstrip =
                    strips && special && !["<unk>", "<s>", "<|endoftext|>"].contains(&token);
                json!({
                    "id": id, "content": token, "special": special, "single_word": false,
                    "lstrip": false, "rstrip": rstrip, "normalized": false,
                })
            });
        added.collect()
    }

    /// Every token that ends a text, each once.
    fn all_ends(&self) -> Result<Vec<&'a str>, GgufError> {
        let mut ends: Vec<&str> = self.eos.iter().map(|id| self.token(*id)).collect();
        for name in ["eot", "eom"] {
            let name = format!("tokenizer.ggml.{name}_token_id");
            let id = self.metadata.unsigned(&name)?.and_then(|id| usize::try_from(id).ok());
            ends.extend(id.and_then(|id| self.tokens.get(id)));
        }
        let control = self.of_kinds(&[Kind::Control, Kind::UserDefined]).map(|(_, token)| token);
        ends.extend(control.filter(|token| ENDS.contains(token)));
        let mut once = Vec::new();
        for end in ends {
            if !end.contains('\n') && !once.contains(&end) {
                once.push(end);
            }
        }
        Ok(once)
    }

    /// A post-processor that puts bos and eos around a text, where the metadata asks for them.
    fn template(&self) -> Value {
        let sequence =
            |id: &str, type_id: u32| json!({ "Sequence": { "id": id, "type_id": type_id } });
        let (mut single, mut pair) = (vec![sequence("A", 0)], vec![sequence("A", 0)]);
        let mut special = Map::new();
        let mut around = |id: u32, first: bool| {
            let token = self.token(id);
            special
                .insert(token.to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }));
            let place = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
            for list in [&mut single, &mut pair] {
                list.insert(if first { 0 } else { list.len() }, place.clone());
            }
        };
        let (bos, eos) = (self.bos.filter(|_| self.ends.0), self.eos.filter(|_| self.ends.1));
        if bos.is_none() && eos.is_none() {
            return Value::Null;
        }
        bos.into_iter().for_each(|id| around(id, true));
        eos.into_iter().for_each(|id| around(id, false));
        pair.push(sequence("B", 1));
        if let Some(eos) = eos {
            pair.push(json!({ "SpecialToken": { "id": self.token(eos), "type_id": 1 } }));
        }
        json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special })
    }

    /// Token to id.
    fn vocabulary(&self) -> Map<String, Value> {
        let ids = self.tokens.iter().enumerate();
        ids.map(|(id, token)| ((*token).to_owned(), json!(id))).collect()
    }
}

/// What each token is; without a list, all are normal.
fn kinds(metadata: &Metadata<'_>, tokens: usize) -> Result<Vec<Kind>, GgufError> {
    let Some(numbers) = metadata.numbers(TOKEN_TYPES)? else {
        return Ok(vec![Kind::Normal; tokens]);
    };
    expect_length(TOKEN_TYPES, numbers.len(), tokens)?;
    let kind = |number| {
        Ok(match number {
            // Zero is what some converters write for tokens that the model pads its vocabulary with.
            Stored::Integer(0 | 5) => Kind::Unused,
            Stored::Integer(1) => Kind::Normal,
            Stored::Integer(2) => Kind::Unknown,
            Stored::Integer(3) => Kind::Control,
            Stored::Integer(4) => Kind::UserDefined,
            Stored::Integer(6) => Kind::Byte,
            other => return Err(key(TOKEN_TYPES, format!("there is no token type {other:?}"))),
        })
    };
    numbers.iter().map(kind).collect()
}

/// The score of each token.
fn scores(source: &Source<'_>) -> Result<Vec<f64>, GgufError> {
    let metadata = source.metadata;
    let numbers = metadata.required(SCORES, metadata.numbers(SCORES)?)?;
    expect_length(SCORES, numbers.len(), source.tokens.len())?;
    let score = |value| match value {
        Stored::Float(score) if score.is_finite() => Ok(score),
        other => Err(key(SCORES, format!("{other:?} is no score"))),
    };
    numbers.iter().map(score).collect()
}

fn expect_length(name: &str, length: usize, tokens: usize) -> Result<(), GgufError> {
    match length == tokens {
        true => Ok(()),
        false => Err(key(name, format!("there are {length} for {tokens} tokens"))),
    }
}

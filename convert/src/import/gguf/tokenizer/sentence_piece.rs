//! Byte pairs by scores over characters, spaces written as `▁`: `tokenizer.ggml.model` is `llama`.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{Kind, Source, TOKENS, key, scores};
use crate::import::gguf::GgufError;

/// The time to find merges grows with the squares of the tokens' lengths in bytes; real vocabularies stay
/// a hundred times below.
const MAX_SQUARES: usize = 1 << 31;

pub(super) fn make(source: &Source<'_>) -> Result<Map<String, Value>, GgufError> {
    let scores = scores(source)?;
    let prefix = source.metadata.truth("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut pieces = Vec::new();
    for (id, token) in source.of_kinds(&[Kind::Normal, Kind::UserDefined]) {
        pieces.push((token, scores[id as usize]));
    }
    let merges = merges(&pieces, &source.ids)?;
    let unknown = source.unknown.map(|id| source.token(id));
    Ok(parts(source.vocabulary(), &merges, unknown, prefix, source.template()))
}

/// A tokenizer.json's parts for a vocabulary in which a space is `▁` and `<0x0A>` a byte. With `prefix`, text
/// begins with a space that isn't there.
pub(crate) fn parts(
    vocabulary: Map<String, Value>,
    merges: &[(&str, &str)],
    unknown: Option<&str>,
    prefix: bool,
    post_processor: Value,
) -> Map<String, Value> {
    let mut normalizers =
        vec![json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" })];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": vocabulary, "merges": merges,
    });
    Map::from_iter([
        ("normalizer".to_owned(), json!({ "type": "Sequence", "normalizers": normalizers })),
        ("pre_tokenizer".to_owned(), Value::Null),
        ("post_processor".to_owned(), post_processor),
        ("decoder".to_owned(), json!({ "type": "Sequence", "decoders": decoders })),
        ("model".to_owned(), model),
    ])
}

/// The pairs of tokens that make a token, those first whose result has the highest score. SentencePiece merges
/// by the score of the result, so this order is the order of its merges.
pub(crate) fn merges<'a>(
    pieces: &[(&'a str, f64)],
    ids: &HashMap<&str, u32>,
) -> Result<Vec<(&'a str, &'a str)>, GgufError> {
    let squares = pieces.iter().map(|(token, _)| token.len().saturating_mul(token.len()));
    if squares.fold(0, usize::saturating_add) > MAX_SQUARES {
        return Err(key(TOKENS, "tokens are too long to find their merges"));
    }
    let mut found = Vec::new();
    for (token, score) in pieces {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut pairs: Vec<_> = cuts
            .filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, left, right)))
            .collect();
        pairs.sort_by_key(|(left, right, ..)| (*left, *right));
        found.extend(pairs.into_iter().map(|(_, _, left, right)| (*score, left, right)));
    }
    // Among equal scores, the longer left part first, as in Hugging Face's converters.
    found.sort_by(|a, b| {
        let lengths = |left: &str, right: &str| (left.chars().count(), right.chars().count());
        b.0.total_cmp(&a.0).then_with(|| lengths(b.1, b.2).cmp(&lengths(a.1, a.2)))
    });
    Ok(found.into_iter().map(|(_, left, right)| (left, right)).collect())
}

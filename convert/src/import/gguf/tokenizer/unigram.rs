//! The pieces that make a text most probable: `tokenizer.ggml.model` is `t5`, of T5 and XLM-R.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Map, Value, json};

use super::{Source, key, scores};
use crate::import::gguf::GgufError;
use crate::import::gguf::file::Value as Stored;

pub(super) fn make(source: &Source<'_>) -> Result<Map<String, Value>, GgufError> {
    const SUFFIX: &str = "tokenizer.ggml.treat_whitespace_as_suffix";
    let metadata = source.metadata;
    let flag = |name: &str| Ok::<_, GgufError>(metadata.truth(name)?.unwrap_or(false));
    if flag(SUFFIX)? {
        return Err(key(SUFFIX, "it is true, which isn't supported"));
    }
    let unknown = metadata.required("tokenizer.ggml.unknown_token_id", source.unknown)?;
    let scored = source.tokens.iter().zip(scores(source)?);
    let model = json!({
        "type": "Unigram", "unk_id": unknown, "byte_fallback": false,
        "vocab": scored.map(|(token, score)| json!([token, score])).collect::<Vec<_>>(),
    });

    let mut normalizers = Vec::new();
    if let Some(table) = normal_forms(source)? {
        let table = BASE64_STANDARD.encode(table);
        normalizers.push(json!({ "type": "Precompiled", "precompiled_charsmap": table }));
    }
    if flag("tokenizer.ggml.remove_extra_whitespaces")? {
        normalizers.push(json!({ "type": "Strip", "strip_left": true, "strip_right": true }));
        let spaces = json!({ "Regex": " {2,}" });
        normalizers.push(json!({ "type": "Replace", "pattern": spaces, "content": " " }));
    }
    let prefix = if flag("tokenizer.ggml.add_space_prefix")? { "always" } else { "never" };
    let spaces =
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": prefix, "split": true });
    Ok(Map::from_iter([
        ("normalizer".to_owned(), json!({ "type": "Sequence", "normalizers": normalizers })),
        ("pre_tokenizer".to_owned(), spaces.clone()),
        ("post_processor".to_owned(), source.template()),
        ("decoder".to_owned(), spaces),
        ("model".to_owned(), model),
    ]))
}

/// SentencePiece's table of normal forms, byte for byte; `None` without one.
fn normal_forms(source: &Source<'_>) -> Result<Option<Vec<u8>>, GgufError> {
    const TABLE: &str = "tokenizer.ggml.precompiled_charsmap";
    let Some(numbers) = source.metadata.numbers(TABLE)?.filter(|numbers| !numbers.is_empty())
    else {
        return Ok(None);
    };
    // Written as u8 or as i8.
    let byte = |number| match number {
        Stored::Integer(number @ -128..=255) => Ok(number as u8),
        other => Err(key(TABLE, format!("{other:?} is no byte"))),
    };
    numbers.iter().map(byte).collect::<Result<_, _>>().map(Some)
}

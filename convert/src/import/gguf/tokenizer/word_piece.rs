//! BERT's word pieces: `tokenizer.ggml.model` is `bert`.

use serde_json::{Map, Value, json};

use super::{Source, key};
use crate::import::gguf::GgufError;

pub(super) fn make(source: &Source<'_>) -> Result<Map<String, Value>, GgufError> {
    let metadata = source.metadata;
    let lowercase = metadata.truth("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
    let mut vocabulary = Map::new();
    for (id, token) in source.tokens.iter().enumerate() {
        if vocabulary.insert(piece(token), json!(id)).is_some() {
            let problem = format!("token {id}, `{token}`, is there twice with and without `▁`");
            return Err(key(super::TOKENS, problem));
        }
    }
    let unknown = metadata.required("tokenizer.ggml.unknown_token_id", source.unknown)?;
    let model = json!({
        "type": "WordPiece", "unk_token": source.token(unknown), "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": vocabulary,
    });
    let normalizer = json!({
        "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": null, "lowercase": lowercase,
    });
    Ok(Map::from_iter([
        ("normalizer".to_owned(), normalizer),
        ("pre_tokenizer".to_owned(), json!({ "type": "BertPreTokenizer" })),
        ("post_processor".to_owned(), source.template()),
        ("decoder".to_owned(), json!({ "type": "WordPiece", "prefix": "##", "cleanup": true })),
        ("model".to_owned(), model),
    ]))
}

/// A token as BERT's own vocabulary has it. GGUF marks the beginning of words with `▁` instead of their
/// continuation with `##`, and leaves `[CLS]` and its like alone.
fn piece(token: &str) -> String {
    match token.strip_prefix('▁') {
        Some(word) => word.to_owned(),
        None if token.starts_with('[') && token.ends_with(']') => token.to_owned(),
        None => format!("##{token}"),
    }
}

//! Byte pairs over GPT-2's alphabet of bytes: `tokenizer.ggml.model` is `gpt2`.

use serde_json::{Map, Value, json};

use super::pre_tokenizers::{PRE_TOKENIZERS, PreTokenizer};
use super::{MODEL, Source, key};
use crate::import::gguf::GgufError;
use crate::import::gguf::file::Metadata;

const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

/// The way that metadata says text is cut into words; `None` for models that don't do so.
pub(super) fn pre_tokenizer(
    metadata: &Metadata<'_>,
) -> Result<Option<&'static PreTokenizer>, GgufError> {
    if metadata.text(MODEL)? != Some("gpt2") {
        return Ok(None);
    }
    let name = metadata.text(PRE)?.unwrap_or("default");
    let found = PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name));
    found.map(Some).ok_or_else(|| {
        let names: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).copied().collect();
        key(PRE, format!("`{name}` isn't known; {} are", names.join(", ")))
    })
}

pub(super) fn make(source: &Source<'_>) -> Result<Map<String, Value>, GgufError> {
    let metadata = source.metadata;
    let pre = metadata.required(PRE, pre_tokenizer(metadata)?)?;
    let merges = metadata.required(MERGES, metadata.texts(MERGES)?)?;
    let mut pairs = Vec::with_capacity(merges.len());
    for (index, merge) in merges.iter().enumerate() {
        // The first character may be a space itself only in vocabularies that aren't of bytes.
        let pair = merge.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let known = |(left, right): &(&str, &str)| {
            let merged = format!("{left}{right}");
            [*left, *right, &merged].iter().all(|token| source.ids.contains_key(token))
        };
        let pair = pair.filter(known).ok_or_else(|| {
            key(MERGES, format!("merge {index}, `{merge}`, isn't of two tokens that make a third"))
        })?;
        pairs.push(json!([pair.0, pair.1]));
    }
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let cut = |expression: &&str| json!({ "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false });
    let mut cuts: Vec<Value> = pre.expressions.iter().map(cut).collect();
    cuts.push(byte_level.clone());
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "ignore_merges": pre.whole_words, "vocab": source.vocabulary(), "merges": pairs,
    });
    Ok(Map::from_iter([
        ("normalizer".to_owned(), if pre.nfc { json!({ "type": "NFC" }) } else { Value::Null }),
        ("pre_tokenizer".to_owned(), json!({ "type": "Sequence", "pretokenizers": cuts })),
        ("post_processor".to_owned(), source.template()),
        ("decoder".to_owned(), byte_level),
        ("model".to_owned(), model),
    ]))
}

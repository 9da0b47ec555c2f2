//! A small language model that recites the alphabet, for tests of text in and out.
#![allow(dead_code, reason = "each test file uses its part")]

use super::{Folder, table};
use serde_json::{Map, Value, json};

pub(crate) const EOS: usize = 256;
pub(crate) const VOCABULARY: usize = 257;

/// GPT-2's character for a byte.
fn byte_text(byte: u8) -> String {
    let own = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let moved = (0..byte).filter(|byte| !own(byte)).count() as u32;
    let code = if own(&byte) { u32::from(byte) } else { 0x100 + moved };
    char::from_u32(code).expect("a character").to_string()
}

/// Every byte is a token, and `<end>` another.
pub(crate) fn tokenizer() -> String {
    let mut vocabulary: Map<String, Value> =
        (0..=255u8).map(|byte| (byte_text(byte), json!(byte))).collect();
    vocabulary.insert("<end>".to_owned(), json!(EOS));
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{ "id": EOS, "content": "<end>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false }],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": [] },
    })
    .to_string()
}

/// The best token behind each: `z` ends the lower-case letters, `Z` is followed by `A`, everything else by `a`.
fn next(token: usize) -> usize {
    match u8::try_from(token) {
        Ok(b'z') => EOS,
        Ok(b'Z') => b'A'.into(),
        Ok(byte) if byte.is_ascii_alphabetic() => token + 1,
        _ => b'a'.into(),
    }
}

/// The logits behind a token, `best` being those of the best one.
pub(crate) fn logits(token: usize, best: f32) -> [f32; VOCABULARY] {
    let mut row = [0.0; VOCABULARY];
    row[next(token)] = best;
    // The next best.
    for (rank, byte) in b"!\":}".iter().enumerate() {
        row[usize::from(*byte)] = 10.0 - rank as f32;
    }
    row
}

/// A decoder of these logits.
pub(crate) fn model(best: f32, metadata: &[(&str, &str)]) -> Vec<u8> {
    let table: Vec<f32> = (0..VOCABULARY).flat_map(|token| logits(token, best)).collect();
    table::file(table::decoder("alphabet", &table, VOCABULARY, 8), metadata)
}

const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}";

/// The file of a model that has everything, with logits of 20 for the best token.
pub(crate) fn whole(folder: &Folder) -> String {
    certain(folder, "alphabet.whit", 20.0)
}

/// The same with other logits for the best token.
pub(crate) fn certain(folder: &Folder, name: &str, best: f32) -> String {
    let tokenizer = tokenizer();
    let metadata = [
        ("tokenizer", &*tokenizer),
        ("tokenizer.eos", "<end>"),
        ("tokenizer.chat_template", TEMPLATE),
        ("model.context", "60"),
    ];
    folder.write(name, &model(best, &metadata))
}

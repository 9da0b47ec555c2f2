//! The vocabulary of llama2.c models (`tok512.json`) as a tokenizer.json.
//!
//! Tokens are UTF-8 written byte by byte as Latin-1 characters, spaces as they are, with line ends around the
//! special tokens; merges follow from scores, and every text begins with bos.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::gguf::sentence_piece::{merges, parts};
use crate::error::ImportError;

#[derive(Deserialize)]
struct Vocabulary {
    vocab: Vec<String>,
    scores: Vec<f64>,
}

/// The special tokens, which come first.
const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// The metadata `tokenizer`, `tokenizer.bos` and `tokenizer.eos` of a `.whit` file.
///
/// # Errors
/// [`ImportError::Model`] when the text isn't such a vocabulary.
pub fn llama2c_tokenizer(text: &str) -> Result<Vec<(String, String)>, ImportError> {
    let invalid = |problem: String| ImportError::Model(format!("the vocabulary: {problem}"));
    let read: Vocabulary =
        serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    if read.vocab.len() != read.scores.len() {
        return Err(invalid(format!("{} tokens, {} scores", read.vocab.len(), read.scores.len())));
    }
    let mut tokens = Vec::with_capacity(read.vocab.len());
    for (id, token) in read.vocab.iter().enumerate() {
        let bytes: Option<Vec<u8>> = token.chars().map(|c| u8::try_from(c).ok()).collect();
        let utf8 = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let utf8 = utf8.ok_or_else(|| invalid(format!("token {id} isn't UTF-8 in Latin-1")))?;
        tokens.push(if id < SPECIAL.len() {
            utf8.trim().to_owned()
        } else {
            utf8.replace(' ', "▁")
        });
    }
    if !tokens.iter().zip(SPECIAL).all(|(token, special)| token == special) || tokens.len() < 3 {
        return Err(invalid(format!("it doesn't begin with {}", SPECIAL.join(", "))));
    }
    let ids: HashMap<&str, u32> =
        tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id as u32)).collect();
    if ids.len() != tokens.len() {
        return Err(invalid("a token is there twice".to_owned()));
    }
    // As tokens, the bytes' names mean bytes; as text they'd be other characters.
    let is_byte = |token: &str| token.starts_with("<0x") && token.ends_with('>');
    let pieces: Vec<(&str, f64)> = tokens.iter().map(String::as_str).zip(read.scores).collect();
    let pieces = pieces.get(SPECIAL.len()..).unwrap_or_default().iter().copied();
    let pieces: Vec<_> = pieces.filter(|(token, _)| !is_byte(token)).collect();
    let merges = merges(&pieces, &ids)?;
    let template = json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } },
    });
    let vocabulary: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let added = SPECIAL.iter().enumerate().map(|(id, token)| {
        json!({
            "id": id, "content": token, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false,
        })
    });
    let mut tokenizer = json!({ "version": "1.0", "truncation": null, "padding": null });
    tokenizer["added_tokens"] = added.collect();
    for (name, value) in parts(vocabulary, &merges, Some(SPECIAL[0]), true, template) {
        tokenizer[name] = value;
    }
    Ok(vec![
        ("tokenizer".to_owned(), tokenizer.to_string()),
        ("tokenizer.bos".to_owned(), SPECIAL[1].to_owned()),
        ("tokenizer.eos".to_owned(), SPECIAL[2].to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vocabularies_become_tokenizers() {
        let text = r#"{ "max_token_length": 2, "scores": [0, 0, 0, 0, -1, -2, -3, -4],
            "vocab": ["<unk>", "\n<s>\n", "\n</s>\n", "<0x0A>", " a", " ", "a", "Ã©"] }"#;
        let all: HashMap<_, _> =
            llama2c_tokenizer(text).expect("a tokenizer").into_iter().collect();
        let json: Value = serde_json::from_str(&all["tokenizer"]).expect("JSON");
        assert_eq!(json["model"]["vocab"]["é"], 7);
        assert_eq!(json["model"]["merges"], json!([["▁", "a"]]));
        assert_eq!((&*all["tokenizer.bos"], &*all["tokenizer.eos"]), ("<s>", "</s>"));
    }

    /// A text that the reference decoded comes back as its ids.
    #[test]
    fn real_vocabulary() {
        let folder = std::env::var_os("WHIT_SHARED_MODELS").map_or_else(
            || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models"),
            std::path::PathBuf::from,
        );
        let read = |name: &str| std::fs::read_to_string(folder.join("stories260k").join(name));
        let (Ok(vocabulary), Ok(golden)) = (read("tok512.json"), read("golden.json")) else {
            println!("skipped: no stories260k in {}", folder.display());
            return;
        };
        let golden: Value = serde_json::from_str(&golden).expect("JSON");
        let ids = golden["greedy_ids"].as_array().expect("ids").iter();
        let ids: Vec<i32> = ids.map(|id| id.as_i64().expect("an id") as i32).collect();
        let all = llama2c_tokenizer(&vocabulary).expect("a tokenizer");
        let tokenizer = whit_text::Tokenizer::from_json(&all[0].1).expect("a tokenizer");
        let text = tokenizer.decode(&ids, false).expect("text");
        let expected = golden["text"].as_str().expect("a text").replace("<0x0A>", "\n");
        assert_eq!(text, expected.trim_start());
        assert_eq!(tokenizer.encode(&text, true).expect("ids"), ids);
    }

    #[test]
    fn other_texts_are_refused() {
        let cases = [
            ("", "EOF"),
            (r#"{ "vocab": ["a"], "scores": [] }"#, "1 tokens, 0 scores"),
            (r#"{ "vocab": ["€"], "scores": [0] }"#, "token 0 isn't UTF-8"),
            (r#"{ "vocab": ["Ã"], "scores": [0] }"#, "token 0 isn't UTF-8"),
            (r#"{ "vocab": ["<unk>", "<s>"], "scores": [0, 0] }"#, "doesn't begin with"),
            (r#"{ "vocab": ["<unk>", "<s>", "</s>", "a", "a"], "scores": [0,0,0,0,0] }"#, "twice"),
        ];
        for (text, expected) in cases {
            let error = llama2c_tokenizer(text).expect_err(expected).to_string();
            assert!(error.contains(expected), "`{error}` should contain `{expected}`");
        }
    }
}

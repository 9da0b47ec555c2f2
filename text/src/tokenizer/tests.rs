use serde_json::{Value, json};

use super::*;

/// A byte-level tokenizer of all bytes and a few merges.
pub(crate) fn byte_level() -> Value {
    let mut vocab = serde_json::Map::new();
    let byte_text = |byte: u8| -> String {
        (0..=0x143u32).filter_map(char::from_u32).filter(|c| byte_of(*c) == Some(byte)).collect()
    };
    for byte in 0..=255u8 {
        vocab.insert(byte_text(byte), json!(byte));
    }
    let merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "ð Ł"];
    for (index, merge) in merges.iter().enumerate() {
        vocab.insert(merge.replace(' ', ""), json!(256 + index));
    }
    json!({
        "version": "1.0",
        "truncation": { "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 8 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!" },
        "added_tokens": [
            { "id": 262, "content": "<s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
            { "id": 263, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
            { "id": 264, "content": "<a b>", "special": false, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false }
        ],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }, { "SpecialToken": { "id": "</s>", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [262], "tokens": ["<s>"] }, "</s>": { "id": "</s>", "ids": [263], "tokens": ["</s>"] } } },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges }
    })
}

/// A tokenizer of spaces as `▁` with bytes for what it has no token for.
pub(crate) fn byte_fallback() -> Value {
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255u8 {
        vocab.insert(format!("<0x{byte:02X}>"), json!(byte));
    }
    for (index, token) in ["▁", "a", "b", "▁a", "<unk>"].iter().enumerate() {
        vocab.insert((*token).to_owned(), json!(256 + index));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        "pre_tokenizer": null, "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" } ] },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": ["▁ a"] }
    })
}

impl Tokenizer {
    /// With a token that ends texts.
    pub(crate) fn with_eos(self, eos: i32) -> Tokenizer {
        Tokenizer { eos: vec![eos], ..self }
    }
}

fn tokenizer(json: &Value) -> Tokenizer {
    Tokenizer::from_json(&json.to_string()).expect("a tokenizer")
}

const ODD: &[&str] = &[
    "",
    "hello world",
    "  many   spaces\t\ttabs\r\n\n ends ",
    "naïve café e\u{301}",
    "漢字かな交じり文",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \u{1f600}\u{1f601}",
    "\u{0}\u{7f}\u{ad}\u{a0}\u{feff}\u{fffd}",
    "<a b> in between",
    "العربية हिन्दी",
];

#[test]
fn text_comes_back_whole_and_token_by_token() {
    for json in [byte_level(), byte_fallback()] {
        let tokenizer = tokenizer(&json);
        for text in ODD {
            let ids = tokenizer.encode(text, false).expect("ids");
            assert_eq!(tokenizer.decode(&ids, false).expect("text"), *text);
            let (mut stream, mut streamed) = (tokenizer.stream().expect("a stream"), String::new());
            for id in ids {
                stream.push(id, &mut streamed).expect("a known id");
            }
            stream.finish(&mut streamed);
            assert_eq!(streamed, *text);
        }
    }
}

#[test]
fn special_tokens_are_added_kept_and_left_out() {
    let tokenizer = tokenizer(&byte_level());
    assert_eq!(tokenizer.encode("hello", true).expect("ids"), [262, 259, 263]);
    assert_eq!(tokenizer.encode("hello</s>", false).expect("ids"), [259, 263]);
    assert_eq!(tokenizer.decode(&[262, 259, 263], false).expect("text"), "hello");
    assert_eq!(tokenizer.decode(&[262, 259, 263], true).expect("text"), "<s>hello</s>");
    assert_eq!(tokenizer.id("</s>"), Some(263));
    assert!(tokenizer.is_special(263) && !tokenizer.is_special(264));
    let mut text = String::new();
    let mut stream = tokenizer.stream().expect("a stream");
    for id in [262, 259, 264, 263] {
        stream.push(id, &mut text).expect("a known id");
    }
    assert_eq!(text, "hello<a b>");
}

#[test]
fn batches_are_cut_but_keep_special_tokens() {
    let tokenizer = tokenizer(&byte_level());
    let batch = tokenizer.encode_batch(&["hello", "xyz", ""], 4).expect("ids");
    assert_eq!(batch, [vec![262, 259, 263], vec![262, 120, 121, 263], vec![262, 263]]);
    let error = tokenizer.encode_batch(&["x"], 1).expect_err("too short");
    assert!(matches!(error, TextError::TooShort { added: 2, limit: 1 }));
}

#[test]
fn unknown_ids_are_refused() {
    let tokenizer = tokenizer(&byte_level());
    for id in [-1, 265, i32::MAX] {
        assert!(matches!(tokenizer.decode(&[id], false), Err(TextError::UnknownToken { .. })));
        let mut stream = tokenizer.stream().expect("a stream");
        assert!(stream.push(id, &mut String::new()).is_err());
    }
}

#[test]
fn unreadable_tokenizers_are_refused() {
    let mut unknown_model = byte_level();
    unknown_model["model"]["type"] = json!("Words");
    for text in ["", "{}", "[1]", "{\"model\": 3}", &unknown_model.to_string()] {
        assert!(matches!(Tokenizer::from_json(text), Err(TextError::Tokenizer(_))), "{text}");
    }
    let mut words = byte_level();
    words["decoder"] = json!({ "type": "WordPiece", "prefix": "##", "cleanup": true });
    let words = tokenizer(&words);
    let error = words.stream().err().expect("no stream");
    assert!(error.to_string().contains("WordPiece"), "{error}");
}

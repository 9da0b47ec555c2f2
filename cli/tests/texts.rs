//! Texts as calibration data, and the numbers of a language model's tables.

mod common;

use std::collections::BTreeMap;

use common::llama::llama;
use common::{Folder, example, fail, json};

/// The types that a file's steps keep their weights in, by name.
fn weights(path: &str) -> BTreeMap<String, String> {
    let found = json(&["inspect", path]);
    let steps = found["steps"].as_array().expect("steps").iter();
    let of = |step: &serde_json::Value| {
        let weights = step["weights"].as_object()?;
        let name = step["name"].as_str().expect("a name");
        Some((name.to_owned(), weights["type"].as_str().expect("a type").to_owned()))
    };
    steps.filter_map(of).collect()
}

fn bytes(path: &str) -> u64 {
    json(&["inspect", path])["weight_bytes"].as_u64().expect("bytes")
}

#[test]
fn tables_have_numbers_of_their_own() {
    let folder = Folder::new("tables");
    let (table, head, layer) = ("model.embed_tokens", "lm_head", "model.layers.0.qkv");
    let cases: [(&[&str], [&str; 3]); 8] = [
        (&["--quantize", "w8"], ["w8", "w8", "w8"]),
        (&["--quantize", "f16"], ["f16", "f16", "f16"]),
        // The table's weights are the output's, and 8 bits unless somebody says otherwise.
        (&["--quantize", "w4"], ["w8", "w8", "w4"]),
        (&["--quantize", "w4", "--embeddings", "w4"], ["w4", "w4", "w4"]),
        (&["--quantize", "w4", "--embeddings", "f16"], ["f16", "f16", "w4"]),
        (&["--quantize", "w8", "--output-layer", "w4"], ["w8", "w4", "w8"]),
        (&["--quantize", "w4nl"], ["w8", "w8", "w4nl"]),
        (&["--quantize", "w4nl", "--embeddings", "w4nl:64"], ["w4nl", "w4nl", "w4nl"]),
    ];
    for (at, (options, expected)) in cases.into_iter().enumerate() {
        let path = llama(&folder, &format!("{at}.whit"), 1, options);
        let found = weights(&path);
        assert_eq!([table, head, layer].map(|name| &*found[name]), expected, "{options:?}");
    }
    // Kept once where both have the same numbers.
    let shared = bytes(&folder.path("0.whit"));
    let apart = bytes(&folder.path("5.whit"));
    assert!(shared < apart, "{shared} {apart}");
}

#[test]
fn a_text_improves_weights() {
    let folder = Folder::new("texts");
    let text = "the quick brown fox jumps over the lazy dog, and then does it again. ".repeat(40);
    let file = folder.write("text.txt", text.as_bytes());
    let float = llama(&folder, "float.whit", 2, &[]);
    let plain = llama(&folder, "plain.whit", 2, &["--quantize", "w4"]);
    let options = ["--quantize", "w4", "--calibrate", &file, "--improve", "gptq"];
    let improved = llama(&folder, "improved.whit", 2, &options);
    let divergence = |path: &str| {
        let found = json(&["eval", path, "--perplexity", &file, "--against", &float]);
        found["against"]["kl_divergence"]["mean"].as_f64().expect("a mean")
    };
    let (plain, improved) = (divergence(&plain), divergence(&improved));
    assert!(improved < plain, "{improved} {plain}");
}

#[test]
fn the_highest_precision_is_that_of_scalar_kernels() {
    let folder = Folder::new("precision");
    let text = "the quick brown fox jumps over the lazy dog, and then does it again. ".repeat(40);
    let file = folder.write("text.txt", text.as_bytes());
    let path = llama(&folder, "w4.whit", 2, &["--quantize", "w4", "--kv-cache", "f32"]);
    let loss = |options: &[&str]| {
        let found = json(&[&["eval", &path, "--perplexity", &file], options].concat());
        found["negative_log_likelihood"]["mean"].as_f64().expect("a mean")
    };
    let scalar = loss(&["--isa", "scalar"]);
    for options in [&["--precision", "highest"][..], &["--precision", "highest", "--threads", "2"]]
    {
        let found = loss(options);
        assert!((found - scalar).abs() < 2e-7 * scalar, "{options:?}: {found} {scalar}");
    }
    // So is what 16 bits give, less so.
    let high = loss(&[]);
    assert!((high - scalar).abs() < 1e-4 * scalar, "{high} {scalar}");
}

#[test]
fn texts_are_for_language_models() {
    let folder = Folder::new("texts-wrong");
    let file = folder.write("text.txt", b"some text");
    let model = example("digits.onnx");
    let output = folder.path("x.whit");
    let convert = ["convert", &model, "-o", &output, "--quantize", "int8", "--calibrate", &file];
    fail(&convert, &["text.txt is a text", "no tokenizer", ".npz"]);
    let float = llama(&folder, "llama.whit", 1, &[]);
    let source = float.replace(".whit", ".whit-source");
    let empty = folder.write("empty.txt", b"");
    let convert = ["convert", &source, "-o", &output, "--quantize", "w4", "--calibrate", &empty];
    fail(&convert, &["empty.txt has no text"]);
}

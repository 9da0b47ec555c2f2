//! A small language model that recites the alphabet, for tests of text in and out.
#![allow(dead_code, reason = "each test file uses its part")]

use super::{Folder, table};
use serde_json::{Map, Value, json};
use whit::DType;
use whit_convert::dim::{Dim, Symbol};
use whit_convert::graph::{Graph, Node, Op, ReduceKind};
use whit_convert::tensor::Tensor;

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

/// An encoder whose embedding is the mean of its tokens' rows of a table.
pub(crate) fn encoder() -> Vec<u8> {
    let width = 5;
    let mut graph = Graph { name: "means".to_owned(), ..Graph::default() };
    for (name, max) in [("batch", 3), ("seq", 16)] {
        graph.symbols.push(Symbol { name: name.to_owned(), min: 1, max });
    }
    let shape = vec![Dim::symbol(0), Dim::symbol(1)];
    let ids = graph.add_value("input_ids", DType::I32, shape.clone());
    graph.inputs.push(ids);
    let numbers: Vec<f32> =
        (0..VOCABULARY * width).map(|at| (at * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let rows = graph.add_constant("table", Tensor::from_f32([VOCABULARY, width], &numbers));
    let wide = [shape, vec![Dim::from(width)]].concat();
    let looked_up = table::looked_up(&mut graph, "rows", [rows, ids], wide);
    let embedding =
        graph.add_value("embedding", DType::F32, vec![Dim::symbol(0), Dim::from(width)]);
    graph.nodes.push(Node {
        name: "mean".to_owned(),
        op: Op::Reduce { kind: ReduceKind::Mean, axes: vec![1], keep_dims: false },
        inputs: vec![Some(looked_up)],
        outputs: vec![embedding],
    });
    graph.outputs.push(embedding);
    table::file(graph, &[("tokenizer", &tokenizer())])
}

//! A small language model that recites the alphabet, for tests of text in and out.
#![allow(dead_code, reason = "each test file uses its part")]

use serde_json::{Map, Value, json};
use whit::DType;
use whit_convert::dim::{Dim, Symbol};
use whit_convert::graph::{Graph, Node, Op};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_convert::tensor::Tensor;

use super::Folder;

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

/// A decoder whose logits are a table's rows. It has no cache, since it needs none.
pub(crate) fn model(best: f32, metadata: &[(&str, &str)]) -> Vec<u8> {
    let table: Vec<f32> = (0..VOCABULARY).flat_map(|token| logits(token, best)).collect();
    let mut graph = Graph { name: "alphabet".to_owned(), ..Graph::default() };
    for (name, max) in [("tokens", 8), ("rows", 2)] {
        graph.symbols.push(Symbol { name: name.to_owned(), min: 1, max });
    }
    let of = |symbol: usize| Dim::symbol(symbol as u32);
    for (name, symbol) in [("tokens", 0), ("positions", 0), ("rows", 1)] {
        let value = graph.add_value(name, DType::I32, vec![of(symbol)]);
        graph.inputs.push(value);
    }
    let wide = Dim::from(VOCABULARY);
    let table = Tensor::from_f32([VOCABULARY, VOCABULARY], &table);
    let table = graph.add_constant("table", table);
    let all = graph.add_value("all", DType::F32, vec![of(0), wide.clone()]);
    let logits = graph.add_value("logits", DType::F32, vec![of(1), wide]);
    let (tokens, rows) = (graph.inputs[0], graph.inputs[2]);
    for (name, data, indices, output) in
        [("embed", table, tokens, all), ("choose", all, rows, logits)]
    {
        graph.nodes.push(Node {
            name: name.to_owned(),
            op: Op::Gather { axis: 0 },
            inputs: vec![Some(data), Some(indices)],
            outputs: vec![output],
        });
    }
    graph.outputs.push(logits);
    graph.metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let options = ConvertOptions { golden_cases: 0, ..ConvertOptions::default() };
    convert(graph, None, &options, &mut ()).expect("a model").file
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

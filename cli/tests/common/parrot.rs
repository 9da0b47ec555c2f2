//! A model of speech that says the same of every sound, and sounds for it.
#![allow(dead_code, reason = "each test file uses its part")]

use serde_json::{Map, Value, json};
use whit::DType;
use whit_convert::dim::{Dim, Symbol};
use whit_convert::graph::{Node, Op};
use whit_convert::tensor::Tensor;

use super::table;

/// Special tokens behind the 256 bytes, in Whisper's order.
const SPECIAL: [&str; 9] = [
    "endoftext",
    "startoftranscript",
    "en",
    "de",
    "translate",
    "transcribe",
    "startofprev",
    "nospeech",
    "notimestamps",
];
const END: usize = 256;
const START: usize = 257;
const GERMAN: usize = 259;
const TRANSLATE: usize = 260;
const TRANSCRIBE: usize = 261;
const NO_TIMESTAMPS: usize = 264;
const FIRST_TIMESTAMP: usize = 265;
const VOCABULARY: usize = FIRST_TIMESTAMP + 51;

/// Samples per second, and of a window: one second.
const RATE: u32 = 1600;
const FRAMES: usize = 100;

/// The character that stands for a byte that is a letter or a mark.
fn tokenizer() -> String {
    let mut vocabulary: Map<String, Value> =
        (0x21..=0x7eu8).map(|byte| (char::from(byte).to_string(), json!(byte))).collect();
    vocabulary.insert("\u{120}".to_owned(), json!(b' '));
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(at, name)| {
            json!({ "id": END + at, "content": format!("<|{name}|>"), "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false })
        })
        .collect();
    for (at, name) in SPECIAL.iter().enumerate() {
        vocabulary.insert(format!("<|{name}|>"), json!(END + at));
    }
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added, "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": [] },
    })
    .to_string()
}

/// The best tokens behind each, the best first: ` hi` until 0.5 s, then from 0.5 s on what comes in the next window;
/// translated ` ok`, without timestamps ` hm`.
fn next(token: usize) -> Vec<usize> {
    let byte = |byte: u8| vec![usize::from(byte)];
    match token {
        START => vec![GERMAN, FIRST_TIMESTAMP],
        TRANSLATE => vec![FIRST_TIMESTAMP + 1],
        TRANSCRIBE => vec![FIRST_TIMESTAMP],
        NO_TIMESTAMPS => byte(b'm'),
        FIRST_TIMESTAMP => byte(b'h'),
        at if at == FIRST_TIMESTAMP + 1 => byte(b'o'),
        at if at == FIRST_TIMESTAMP + 25 => vec![FIRST_TIMESTAMP + 25, END],
        104 => byte(b'i'),
        // i, k
        105 | 107 => vec![FIRST_TIMESTAMP + 25],
        // o
        111 => byte(b'k'),
        _ => vec![END],
    }
}

/// Rows of the encoder in a window.
const POSITIONS: usize = FRAMES / 2;

/// Where a token looks, of rows in tens: what comes behind the mark of no timestamps, behind h, and behind i.
fn attention(token: usize) -> [f32; POSITIONS] {
    let ten = [NO_TIMESTAMPS, 104, 105].iter().position(|known| *known == token);
    std::array::from_fn(|at| if Some(at / 10) == ten { 0.09 } else { 0.002 })
}

/// A decoder whose logits are a table's rows.
pub(crate) fn model(changed: &[(&str, &str)]) -> Vec<u8> {
    parrot(changed, 1)
}

/// The same for so many sequences; with several it also says where tokens look.
pub(crate) fn parrot(changed: &[(&str, &str)], sequences: usize) -> Vec<u8> {
    let mut table = vec![0.0f32; VOCABULARY * VOCABULARY];
    for token in 0..VOCABULARY {
        for (rank, next) in next(token).into_iter().enumerate() {
            table[token * VOCABULARY + next] = 30.0 - rank as f32;
        }
    }
    let mut graph = table::decoder("parrot", &table, VOCABULARY, 16);
    graph.symbols.push(Symbol { name: "windows".to_owned(), min: 0, max: 1 });
    let mel = vec![Dim::symbol(2), Dim::from(FRAMES), Dim::from(8usize)];
    let mel = graph.add_value("mel", DType::F32, mel);
    graph.inputs.push(mel);
    let sequences = sequences.to_string();
    if sequences != "1" {
        let tokens = Dim::symbol(0);
        let value = graph.add_value("sequences", DType::I32, vec![tokens.clone()]);
        graph.inputs.push(value);
        let rows: Vec<f32> = (0..VOCABULARY).flat_map(attention).collect();
        let rows = graph.add_constant("rows", Tensor::from_f32([VOCABULARY, POSITIONS], &rows));
        let shape = vec![tokens.clone(), Dim::from(POSITIONS)];
        let indices = graph.inputs[0];
        let looks = table::looked_up(&mut graph, "looks", [rows, indices], shape);
        let shape = vec![tokens, Dim::from(1usize), Dim::from(POSITIONS)];
        let weights = graph.add_value("alignment.0", DType::F32, shape);
        let (inputs, outputs) = (vec![Some(looks)], vec![weights]);
        graph.nodes.push(Node { name: "heads".to_owned(), op: Op::Reshape, inputs, outputs });
        graph.outputs.push(weights);
    }
    let tokenizer = tokenizer();
    let mut metadata = vec![
        ("tokenizer", &*tokenizer),
        ("model.context", "40"),
        ("audio.sample_rate", "1600"),
        ("audio.fft", "40"),
        ("audio.hop", "16"),
        ("audio.mels", "8"),
        ("audio.frames", "100"),
        ("speech.multilingual", "1"),
        ("speech.suppress", "1 2"),
        ("model.sequences", &sequences),
    ];
    for (key, value) in changed {
        metadata.retain(|(known, _)| known != key);
        metadata.push((key, value));
    }
    table::file(graph, &metadata)
}

/// A WAV file of 16 bits, so many seconds of one channel long.
pub(crate) fn wav(seconds: f64) -> Vec<u8> {
    let samples = (seconds * f64::from(RATE)) as u32;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + 2 * samples).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(RATE.to_le_bytes());
    file.extend((2 * RATE).to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend((2 * samples).to_le_bytes());
    file.extend((0..samples).flat_map(|at| ((at * 37 % 2000) as i16).to_le_bytes()));
    file
}

//! A small Llama of numbers that look random, with the alphabet's tokenizer: text that depends on all tokens before it.
#![allow(dead_code, reason = "each test file uses its part")]

use serde_json::{Map, Value, json};

use super::alphabet::{VOCABULARY, tokenizer};
use super::{Folder, succeed};

/// Positions that the model was made for.
pub(crate) const POSITIONS: usize = 96;
/// Bytes that a token's keys and values take: two of f16 with 1 head of 8 channels, in each layer.
pub(crate) const TOKEN_BYTES: usize = 2 * 2 * 8;

/// A `.whit` file of a Llama with so many layers, and these further options of `whit convert`.
pub(crate) fn llama(folder: &Folder, name: &str, layers: usize, options: &[&str]) -> String {
    let source = folder.path(&format!("{name}-source"));
    let (width, inner, heads, size) = (16, 24, 2, 8);
    let config = json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 1, "intermediate_size": inner,
        "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, width]),
        ("model.norm.weight".to_owned(), vec![width]),
    ];
    for layer in 0..layers {
        for (part, shape) in [
            ("input_layernorm", vec![width]),
            ("post_attention_layernorm", vec![width]),
            ("self_attn.q_proj", vec![heads * size, width]),
            ("self_attn.k_proj", vec![size, width]),
            ("self_attn.v_proj", vec![size, width]),
            ("self_attn.o_proj", vec![width, heads * size]),
            ("mlp.gate_proj", vec![inner, width]),
            ("mlp.up_proj", vec![inner, width]),
            ("mlp.down_proj", vec![width, inner]),
        ] {
            shapes.push((format!("model.layers.{layer}.{part}.weight"), shape));
        }
    }
    let (mut header, mut data) = (Map::new(), Vec::new());
    // Equal names have equal numbers: a model of fewer layers begins as one of more.
    for (name, shape) in shapes {
        let mut state = name.bytes().fold(0x9e37_79b9_7f4a_7c15u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let start = data.len();
        for _ in 0..shape.iter().product() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            data.extend((value * 0.8).to_le_bytes());
        }
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name, entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    let write = |file: &str, bytes: &[u8]| folder.write(&format!("{name}-source/{file}"), bytes);
    write("config.json", config.to_string().as_bytes());
    write("tokenizer.json", tokenizer().as_bytes());
    write("tokenizer_config.json", br#"{"eos_token": "<end>"}"#);
    write("model.safetensors", &file);
    let path = folder.path(name);
    succeed(&[&["convert", &source, "-o", &path], options].concat());
    path
}

//! `whit inspect --context`: what a language model takes, known before its first token.

mod common;

use common::alphabet::whole;
use common::llama::{POSITIONS, TOKEN_BYTES, llama};
use common::{Folder, fail, json, succeed, usage};

#[test]
fn memory_is_known_before_the_first_token() {
    let folder = Folder::new("memory");
    let path = llama(&folder, "three.whit", 3, &["--context", "80"]);
    let found = json(&["inspect", &path, "--context", "20"]);
    let bytes = |key: &str| found[key].as_u64().expect("bytes") as usize;
    let file = std::fs::metadata(&path).expect("a file").len() as usize;
    assert_eq!((bytes("context"), bytes("asked_context"), bytes("file_bytes")), (80, 20, file));
    assert_eq!(bytes("kv_cache_bytes_per_token"), 3 * TOKEN_BYTES);
    assert_eq!(bytes("kv_cache_bytes"), 80 * 3 * TOKEN_BYTES);
    assert_eq!(bytes("asked_kv_cache_bytes"), 20 * 3 * TOKEN_BYTES);
    let parts = ["kv_cache_bytes", "other_state_bytes", "arena_bytes", "working_bytes"];
    let session: usize = parts.into_iter().map(bytes).sum();
    assert_eq!((bytes("session_bytes"), bytes("total_bytes")), (session, session + file));
    let whole = json(&["inspect", &path]);
    assert_eq!(
        (&whole["arena_bytes"], &whole["state_bytes"]),
        (&found["arena_bytes"], &found["kv_cache_bytes"])
    );
    // In q8 a head's 8 channels have a byte each, and a scale of two bytes.
    let q8 = llama(&folder, "q8.whit", 3, &["--context", "80", "--kv-cache", "q8"]);
    let of_q8 = json(&["inspect", &q8, "--context", "20"]);
    assert_eq!(of_q8["kv_cache_bytes_per_token"], 3 * 2 * (8 + 2));
    assert_eq!(of_q8["kv_cache_bytes"], 80 * 3 * 2 * (8 + 2));
    // In f32 twice the bytes of f16.
    let floats = llama(&folder, "f32.whit", 3, &["--context", "80", "--kv-cache", "f32"]);
    let of_f32 = json(&["inspect", &floats, "--context", "20"]);
    assert_eq!(of_f32["kv_cache_bytes_per_token"], 2 * 3 * TOKEN_BYTES);

    // As much as a session says that it holds.
    let opened = whit::ModelFile::open(&path).expect("a file");
    let model = opened.model().expect("a model");
    let held = whit::Session::new(model, whit::Options::default()).expect("a session");
    assert_eq!(held.needed_bytes(), session);

    let told = succeed(&["inspect", &path, "--context", "20"]);
    for part in [
        "context of 80 tokens",
        "96 bytes a token",
        "--context 20, the KV cache takes 1.9 KB instead of 7.7 KB",
    ] {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
    assert!(!succeed(&["inspect", &path, "--context", "80"]).contains("instead of"));
    // Long metadata is cut, though not in JSON.
    let printed = succeed(&["inspect", &path]);
    assert!(printed.lines().all(|line| line.chars().count() < 300), "{printed}");
    assert!(whole["metadata"]["tokenizer"].as_str().expect("a tokenizer").len() > 1000);
}

#[test]
fn bad_input_is_told() {
    let folder = Folder::new("memory-bad");
    let path = llama(&folder, "one.whit", 1, &[]);
    let room = format!("room for {POSITIONS} tokens");
    fail(&["inspect", &path, "--context", "97"], &[&room, "--context 97"]);
    fail(&["inspect", &whole(&folder), "--context", "9"], &["keeps no keys and values"]);
    usage(&["inspect", &path, "--context", "0"], &["--context"]);
    usage(&["inspect", &path, "--context", "9", "--operators"], &["cannot be used with"]);
}

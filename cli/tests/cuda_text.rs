//! Commands for language models, vectors of texts and speech with `--backend cuda`, beside the CPU: on the kernels compiled for the host, or on the
//! GPU whose number is in `WHIT_CUDA_DEVICE`. Built with `--features cuda-emulation`; needs a C++ compiler (`CXX`, or `c++`).

mod common;

use common::alphabet::encoder;
use common::llama::llama;
use common::parrot::{parrot, wav};
use common::{Folder, fail, json, succeed, text, whit};
use serde_json::Value;

const ON_CUDA: [&str; 2] = ["--backend", "cuda"];

/// Of perplexities and divergences, relative: the CPU rounds inputs of layers whose weights are in groups to 16 bits.
const MAX_DIFFERENCE: f64 = 5e-3;

/// What the CPU and the GPU say.
fn both(arguments: &[&str]) -> [Value; 2] {
    let found = [json(arguments), json(&[arguments, &ON_CUDA].concat())];
    for (found, backend) in found.iter().zip(["cpu", "cuda"]) {
        assert_eq!(found["backend"], backend, "{arguments:?}");
        assert_eq!(found["isa"].is_null(), backend == "cuda");
    }
    found
}

fn greedy<'a>(model: &'a str, prompt: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base = ["generate", model, "--temperature", "0", "--max-tokens", "12", "--prompt", prompt];
    [&base[..], more].concat()
}

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().expect("a number")
}

#[test]
fn texts_are_the_same() {
    let folder = Folder::new("cuda-generate");
    for (name, options) in [
        ("f32.whit", &[][..]),
        ("w8.whit", &["--quantize", "w8", "--kv-cache", "q8"]),
        ("bf16.whit", &["--quantize", "bf16"]),
    ] {
        let model = llama(&folder, name, 2, options);
        // More tokens than one run takes; one token.
        let long = "Once upon a time ".repeat(3);
        for prompt in ["a", &long] {
            let [cpu, cuda] = both(&greedy(&model, prompt, &[]));
            assert_eq!(cpu["ids"], cuda["ids"], "{name} {prompt}");
        }
        // Guesses are computed together and written over where they are wrong.
        let draft = llama(&folder, "draft.whit", 1, &[]);
        for more in [["--guesses", "3"], ["--draft", &draft]] {
            let [cpu, cuda] = both(&greedy(&model, "abcabcabc", &more));
            assert_eq!(cpu["ids"], cuda["ids"], "{name} {more:?}");
            assert_eq!(cpu["guessed_right"], cuda["guessed_right"], "{name} {more:?}");
        }
    }
}

#[test]
fn sessions_go_from_backend_to_backend() {
    let folder = Folder::new("cuda-sessions");
    for options in [&[][..], &["--kv-cache", "f32"], &["--kv-cache", "q8"]] {
        let model = llama(&folder, "model.whit", 2, options);
        let prompts = ["Once upon a time", "Once upon a time, x", "Once upon"];
        let alone = prompts.map(|prompt| json(&greedy(&model, prompt, &[]))["ids"].clone());
        for backends in [["cuda", "cuda", "cuda"], ["cuda", "cpu", "cuda"], ["cpu", "cuda", "cpu"]]
        {
            let file = folder.path(&backends.join("-"));
            for ((prompt, backend), ids) in prompts.iter().zip(backends).zip(&alone) {
                let more = ["--session", &file, "--backend", backend];
                let found = json(&greedy(&model, prompt, &more));
                assert_eq!(&found["ids"], ids, "{backends:?} {prompt}");
                let reused = number(&found, "reused_tokens");
                let expected = if *prompt == prompts[0] { 0 } else { 8 };
                assert!(reused >= expected, "{backends:?} {prompt}: {reused}");
            }
            std::fs::remove_file(&file).expect("a session");
        }
        // A session of a model that is another one.
        let file = folder.path("kept.session");
        let _ = std::fs::remove_file(&file);
        json(&greedy(&model, "abc", &["--session", &file, "--backend", "cuda"]));
        let other = llama(&folder, "other.whit", 1, options);
        let arguments = greedy(&other, "abc", &["--session", &file, "--backend", "cuda"]);
        fail(&arguments, &["kept.session: remove it", "another model's"]);
    }
}

#[test]
fn many_prompts_are_computed_at_once() {
    let folder = Folder::new("cuda-many");
    let model = llama(&folder, "model.whit", 2, &["--sequences", "3"]);
    let prompts = folder.write("prompts.txt", b"a\nOnce upon\nzzz {\nq\nabc abc abc\n");
    let arguments =
        ["generate", &model, "--prompts", &prompts, "--temperature", "0", "--max-tokens", "7"];
    let cpu = succeed(&arguments);
    assert_eq!(succeed(&[&arguments[..], &ON_CUDA].concat()), cpu);
    assert!(cpu.lines().count() >= 5, "{cpu}");
}

#[test]
fn perplexities_are_the_same() {
    let folder = Folder::new("cuda-perplexity");
    let model = llama(&folder, "f32.whit", 2, &[]);
    let other = llama(&folder, "w4.whit", 2, &["--quantize", "w4"]);
    let file =
        folder.write("text.txt", "the quick brown fox jumps over the dog. ".repeat(4).as_bytes());
    let [cpu, cuda] =
        both(&["eval", &model, "--perplexity", &file, "--against", &other, "--window", "40"]);
    let places: [&[&str]; 4] = [
        &["perplexity"],
        &["against", "perplexity"],
        &["against", "kl_divergence", "mean"],
        &["against", "kl_divergence_max"],
    ];
    for place in places {
        let [cpu, cuda] = [&cpu, &cuda].map(|found| {
            place.iter().fold(found, |found, key| &found[key]).as_f64().expect("a number")
        });
        assert!((cpu - cuda).abs() < MAX_DIFFERENCE * cpu, "{place:?}: {cuda} instead of {cpu}");
    }
    assert_eq!(cpu["scored_tokens"], cuda["scored_tokens"]);
}

#[test]
fn vectors_are_the_same() {
    let folder = Folder::new("cuda-embed");
    let model = folder.write("encoder.whit", &encoder());
    let texts = ["a", "a longer text", "some more", "b"];
    let arguments = [&["embed", &*model][..], &texts].concat();
    let vectors = |found: Value| -> Vec<f64> {
        let rows = found["embeddings"].as_array().expect("rows").clone();
        let numbers = rows.iter().flat_map(|row| row.as_array().expect("a row").clone());
        numbers.map(|number| number.as_f64().expect("a number")).collect()
    };
    let cpu = vectors(json(&arguments));
    let cuda = vectors(json(&[&arguments[..], &ON_CUDA].concat()));
    assert_eq!((cpu.len(), cuda.len()), (20, 20));
    for (cpu, cuda) in cpu.iter().zip(&cuda) {
        assert!((cpu - cuda).abs() < 1e-6, "{cuda} instead of {cpu}");
    }
}

#[test]
fn speech_is_written_down() {
    let folder = Folder::new("cuda-transcribe");
    let model = folder.write("parrot.whit", &parrot(&[], 3));
    let sound = folder.write("sound.wav", &wav(1.4));
    for more in [&["--word-times"][..], &["--word-times", "--beam-size", "2"]] {
        let [cpu, cuda] = both(&[&["transcribe", &*model, &sound], more].concat());
        assert_eq!(cuda["text"], "hihihi");
        for key in ["language", "windows", "decoder_tokens"] {
            assert_eq!(cpu[key], cuda[key], "{key}");
        }
        let words = |found: &Value| -> Vec<[Value; 3]> {
            let segments = found["segments"].as_array().expect("segments").iter();
            let words = segments.flat_map(|segment| segment["words"].as_array().expect("words"));
            words.map(|word| ["text", "start", "end"].map(|key| word[key].clone())).collect()
        };
        assert_eq!(words(&cpu), words(&cuda));
    }
}

#[test]
fn rates_are_measured() {
    let folder = Folder::new("cuda-bench");
    let model = llama(&folder, "model.whit", 1, &["--sequences", "2", "--context", "24"]);
    let found = json(&["bench", &model, "--seconds", "0.01", "--backend", "cuda"]);
    for key in ["pp24", "tg24", "tg24x2"] {
        assert!(found[key].as_f64().is_some_and(|rate| rate > 0.0), "{key}: {found}");
    }
    let output = whit(&["bench", &model, "--seconds", "0.01", "--profile", "--backend", "cuda"]);
    assert!(text(&output.stderr).contains("--profile: only on the CPU"), "{output:?}");
}

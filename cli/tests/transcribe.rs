//! `whit transcribe` with a model that says the same of every sound.

mod common;

use common::{Folder, command, example, fail, json, succeed, table, text, usage, whit};
use serde_json::{Map, Value, json};
use whit::DType;
use whit_convert::dim::{Dim, Symbol};
use whit_convert::graph::{Node, Op};
use whit_convert::tensor::Tensor;

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
fn model(changed: &[(&str, &str)]) -> Vec<u8> {
    parrot(changed, 1)
}

/// The same for so many sequences; with several it also says where tokens look.
fn parrot(changed: &[(&str, &str)], sequences: usize) -> Vec<u8> {
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
fn wav(seconds: f64) -> Vec<u8> {
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

#[test]
fn windows_follow_the_models_times() {
    let folder = Folder::new("transcribe");
    let (model, sound) =
        (folder.write("parrot.whit", &model(&[])), folder.write("sound.wav", &wav(1.4)));
    // Half a second of each window is taken: three windows.
    let found = json(&["transcribe", &model, &sound]);
    assert_eq!(found["text"], "hihihi");
    assert_eq!((&found["language"], &found["windows"]), (&json!("de"), &json!(3)));
    assert!(found["language_probability"].as_f64().unwrap() > 0.99);
    let times: Vec<(f64, f64)> = found["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["start"].as_f64().unwrap(), s["end"].as_f64().unwrap()))
        .collect();
    assert_eq!(times, [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)]);

    assert_eq!(succeed(&["transcribe", &model, &sound]), "hi\nhi\nhi\n");
    let lines = succeed(&["transcribe", &model, &sound, "--timestamps"]);
    assert_eq!(lines.lines().next(), Some("[00:00:00.000 --> 00:00:00.500]  hi"));
    let subtitles = succeed(&["transcribe", &model, &sound, "--srt"]);
    assert!(subtitles.contains("2\n00:00:00,500 --> 00:00:01,000\nhi\n\n3\n"), "{subtitles}");
    let subtitles = succeed(&["transcribe", &model, &sound, "--vtt"]);
    assert!(subtitles.starts_with("WEBVTT\n\n00:00:00.000 --> 00:00:00.500\nhi\n"), "{subtitles}");
    let translated = json(&["transcribe", &model, &sound, "--translate", "--language", "EN"]);
    assert_eq!((&translated["text"], &translated["language"]), (&json!("okokok"), &json!("en")));
    // A segment for each whole window.
    let plain = json(&["transcribe", &model, &sound, "--no-timestamps"]);
    assert_eq!((&plain["text"], &plain["windows"]), (&json!("mm"), &json!(2)));
    assert_eq!(plain["segments"][1]["end"], json!(1.4));

    let output = whit(&["transcribe", &model, &sound, &sound, "--threads", "2"]);
    assert_eq!(text(&output.stdout), "hi\n".repeat(6));
    let told = text(&output.stderr);
    assert!(told.contains("1.4 s of sound") && told.contains("× real time"), "{told}");
    assert!(told.contains("3 windows") && told.contains("language de"), "{told}");
}

#[test]
fn texts_are_searched_and_words_have_times() {
    let folder = Folder::new("transcribe-words");
    let model = folder.write("parrot.whit", &parrot(&[], 3));
    let sound = folder.write("sound.wav", &wav(1.4));
    // As many as there are rows of logits.
    for size in ["1", "2"] {
        let found = json(&["transcribe", &model, &sound, "--word-times", "--beam-size", size]);
        assert_eq!(found["text"], "hihihi");
        for (at, segment) in found["segments"].as_array().unwrap().iter().enumerate() {
            let words = segment["words"].as_array().unwrap();
            assert_eq!((words.len(), &words[0]["text"]), (1, &json!("hi")));
            // Two tokens of ten rows, 0.02 s each; the last row of the sound begins at 1.38 s.
            let start = 0.5 * at as f64;
            for (key, time) in [("start", start), ("end", (start + 0.4).min(1.38))] {
                assert!((words[0][key].as_f64().unwrap() - time).abs() < 1e-9, "{segment}");
            }
            // Without timestamps it would say m, so the h is improbable, and the i behind it sure.
            assert!((words[0]["probability"].as_f64().unwrap() - 0.5).abs() < 1e-3);
        }
        let without = json(&["transcribe", &model, &sound, "--beam-size", size]);
        assert!(without["segments"][0].get("words").is_none());
    }
}

#[test]
fn english_models_need_no_language() {
    let folder = Folder::new("transcribe-english");
    let model = folder.write("parrot.whit", &model(&[("speech.multilingual", "0")]));
    let sound = folder.write("sound.wav", &wav(0.6));
    let found = json(&["transcribe", &model, &sound]);
    assert_eq!((&found["text"], &found["language"]), (&json!("hihi"), &Value::Null));
    fail(&["transcribe", &model, &sound, "--translate"], &["sound.wav", "leave --translate out"]);
    fail(&["transcribe", &model, &sound, "--language", "de"], &["leave --language out"]);
}

#[test]
fn what_is_wrong_is_told() {
    let folder = Folder::new("transcribe-wrong");
    let parrot = folder.write("parrot.whit", &model(&[]));
    let sound = folder.write("sound.wav", &wav(0.2));
    let mut short = wav(0.2);
    short.truncate(300);
    let short = folder.write("short.wav", &short);
    let empty = folder.write("empty.wav", &wav(0.0));
    let other = folder.write("other.wav", b"OggS and so on");
    let digits = folder.path("digits.whit");
    succeed(&["convert", &example("digits.onnx"), "-o", &digits]);
    fail(&["transcribe", &parrot, &short], &["short.wav", "128 of the 320 samples", "truncated"]);
    fail(&["transcribe", &parrot, &empty], &["empty.wav", "no samples"]);
    fail(&["transcribe", &parrot, &other], &["other.wav", "neither a WAV nor a FLAC"]);
    fail(&["transcribe", &parrot, &folder.path("none.wav")], &["none.wav", "can't be read"]);
    fail(&["transcribe", &parrot, &sound, "--language", "tlh"], &["`tlh`", "en, de"]);
    fail(&["transcribe", &parrot, &sound, "--temperature=-1"], &["temperature", "0 or more"]);
    fail(&["transcribe", &digits, &sound], &["can't transcribe", "input `mel`"]);
    let searched = ["transcribe", &parrot, &sound, "--beam-size", "3"];
    fail(&searched, &["sound.wav", "3 texts", "for 1 at most", "--sequences 3"]);
    let words = ["transcribe", &parrot, &sound, "--word-times"];
    fail(&words, &["goes with --json"]);
    fail(&[&words[..], &["--json"]].concat(), &["sound.wav", "convert it with --word-times"]);
    usage(&["transcribe", &parrot, &sound, "--beam-size", "0"], &["--beam-size"]);
    usage(&["transcribe", &parrot], &["FILE"]);
    usage(&["transcribe", &parrot, &sound, "--srt", "--json"], &["cannot be used with"]);

    for (key, value, parts) in [
        ("audio.hop", "0", &["audio.hop", "is not a size"][..]),
        ("audio.hop", "", &["no metadata `audio.hop`"]),
        ("audio.mels", "9", &["input `mel`"]),
        ("speech.suppress", "1 x", &["speech.suppress", "`x`"]),
        ("tokenizer", "", &["no metadata `tokenizer`"]),
        ("tokenizer", "{}", &["tokenizer can't be read"]),
    ] {
        let model = folder.write("changed.whit", &model(&[(key, value)]));
        fail(&["transcribe", &model, &sound], &[&["changed.whit"], parts].concat());
    }

    // A reader that has seen enough ends it.
    let mut child = command(&["transcribe", &parrot, &sound]);
    let output = child.stdout(std::process::Stdio::null()).output().expect("whit starts");
    assert!(output.status.success());
}

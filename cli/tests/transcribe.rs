//! `whit transcribe` with a model that says the same of every sound.

mod common;

use common::parrot::{model, parrot, wav};
use common::{Folder, command, example, fail, json, succeed, text, usage, whit};
use serde_json::{Value, json};

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

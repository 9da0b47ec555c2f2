//! `whit generate` on a model that recites the alphabet.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::alphabet::{model, tokenizer, whole};
use common::{Folder, command, example, fail, json, succeed, text, usage, whit};

#[test]
fn text_goes_on_until_it_ends() {
    let folder = Folder::new("generate");
    let path = whole(&folder);
    let greedy = ["generate", &path, "--temperature", "0"];
    let cases: [(&[&str], &str, &str); 7] = [
        (&["--prompt", "u"], "vwxyz", "eos"),
        (&["--prompt", "u", "--max-tokens", "3"], "vwx", "length"),
        (&["--prompt", "u", "--stop", "q", "--stop", "yz"], "vwx", "stop string"),
        (&["--prompt", "M", "--stop", "OQ", "--stop", "YZAB"], "NOPQRSTUVWX", "stop string"),
        (
            &["--prompt", "a long text, with blocks of 8: W"],
            "XYZABCDEFGHIJKLMNOPQRSTUVWXY",
            "context full",
        ),
        (
            &["--prompt", "A", "--guesses", "4", "--max-tokens", "40"],
            "BCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNO",
            "length",
        ),
        (
            &["--prompt", "A", "--repeat-penalty", "3", "--max-tokens", "28"],
            "BCDEFGHIJKLMNOPQRSTUVWXYZ!ab",
            "length",
        ),
    ];
    for (arguments, expected, stop) in cases {
        let arguments = [&greedy[..], arguments].concat();
        assert_eq!(succeed(&arguments), format!("{expected}\n"), "{arguments:?}");
        let report = json(&arguments);
        assert_eq!((&report["text"], &report["stop"]), (&expected.into(), &stop.into()));
        let ids = report["ids"].as_array().expect("ids").len();
        assert_eq!(report["generated_tokens"], ids);
        assert!(report["prompt_tokens_per_second"].as_f64().expect("a rate") > 0.0);
    }
    // By chance, but the same chance.
    let drawn = |seed: &str| {
        succeed(&[
            "generate",
            &path,
            "--prompt",
            "A",
            "--temperature",
            "9",
            "--seed",
            seed,
            "--top-p",
            "1",
            "--min-p",
            "0",
        ])
    };
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
}

#[test]
fn rates_go_to_standard_error() {
    let folder = Folder::new("rates");
    let output = whit(&["generate", &whole(&folder), "--prompt", "u", "--temperature", "0"]);
    let rates = text(&output.stderr);
    for part in
        ["prompt 1 tokens, ", " tokens/s; first token after ", "generated 6 tokens", "ended by eos"]
    {
        assert!(rates.contains(part), "`{part}` is not in: {rates}");
    }
}

#[test]
fn grammars_hold() {
    let folder = Folder::new("grammars");
    let path = whole(&folder);
    let schema = r#"{ "type": "object", "properties": { "k": { "enum": ["!", "b"] } }, "required": ["k"], "additionalProperties": false }"#;
    let schema = folder.write("schema.json", schema.as_bytes());
    let lark = folder.write("grammar.lark", b"start: \"u\" start | \"!\"");
    let greedy = ["generate", &path, "--temperature", "0", "--prompt", "s"];
    assert_eq!(succeed(&[&greedy[..], &["--regex", "[tu!]{4}"]].concat()), "tu!!\n");
    assert_eq!(succeed(&[&greedy[..], &["--grammar", &lark]].concat()), "!\n");
    let printed = succeed(&[&greedy[..], &["--schema", &schema]].concat());
    assert_eq!(printed, "{\"k\":\"!\"}\n");
    fail(&[&greedy[..], &["--regex", "(("]].concat(), &["--regex: the grammar can't be used"]);
    let broken = folder.write("broken.json", b"{");
    fail(&[&greedy[..], &["--schema", &broken]].concat(), &["broken.json", "EOF"]);
    usage(
        &[&greedy[..], &["--regex", "a", "--schema", &schema]].concat(),
        &["cannot be used with"],
    );
}

#[test]
fn conversations_keep_their_history() {
    let folder = Folder::new("chat");
    let path = whole(&folder);
    let arguments = ["generate", &path, "--chat", "--temperature", "0", "--max-tokens", "3"];
    let once = [&arguments[..], &["--system", "Be brief.", "--prompt", "Hi B"]].concat();
    let report = json(&once);
    assert_eq!(report["text"], "CDE");
    assert_eq!(report["prompt_tokens"], "[system]Be brief.[user]Hi B".len());

    let mut child = command(&arguments);
    child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("whit starts");
    child.stdin.take().expect("a pipe").write_all(b"o\n\nI G\n").expect("two turns");
    let output = child.wait_with_output().expect("whit ends");
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), "pqr\nHIJ\n");
    // The second prompt goes on behind the first one's `[user]o`.
    let rates = text(&output.stderr);
    assert!(rates.contains("prompt 7 tokens,") && rates.contains("(7 in the cache)"), "{rates}");
}

#[test]
fn bad_input_is_told() {
    let folder = Folder::new("generate-bad");
    let path = whole(&folder);
    let prompt = ["--prompt", "u"];
    let with = |arguments: &[&'static str]| [&["generate", &*path], arguments].concat();
    let bytes = folder.write("bytes.txt", b"ab\xffcd");
    fail(&["generate", &path, "--prompt-file", &bytes], &["bytes.txt", "byte 2 isn't UTF-8"]);
    fail(&["generate", &path, "--prompt-file", "absent.txt"], &["absent.txt"]);
    fail(&with(&[]), &["--prompt"]);
    fail(&with(&["--prompt", ""]), &["the prompt is empty"]);
    fail(&with(&["--prompt", "u", "--top-p", "2"]), &["top-p is 2", "from 0 to 1"]);
    fail(&with(&["--chat", "--json"]), &["--json takes one prompt"]);
    let long = "x".repeat(61);
    fail(&["generate", &path, "--prompt", &long], &["the prompt has 61 tokens", "context is 60"]);
    usage(&with(&["--prompt", "u", "--system", "s"]), &["--chat"]);

    let tokenizer = tokenizer();
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[("model.context", "9")], "no metadata `tokenizer`"),
        (&[("tokenizer", "{}"), ("model.context", "9")], "can't be read as a tokenizer.json"),
        (&[("tokenizer", &tokenizer)], "no metadata `model.context`"),
        (&[("tokenizer", &tokenizer), ("model.context", "no")], "no metadata `model.context`"),
        (&[("tokenizer", &tokenizer), ("tokenizer.eos", "</s>")], "names the token `</s>`"),
        (&[("tokenizer", &tokenizer), ("tokenizer.add_bos", "1")], "no metadata `tokenizer.bos`"),
    ];
    for (index, (metadata, expected)) in cases.into_iter().enumerate() {
        let path = folder.write(&format!("{index}.whit"), &model(20.0, metadata));
        fail(&["generate", &path, "--prompt", "u"], &[&path, expected]);
    }
    let metadata = [("tokenizer", &*tokenizer), ("model.context", "60")];
    let path = folder.write("no-template.whit", &model(20.0, &metadata));
    fail(&["generate", &path, "--chat", "--prompt", "u"], &["has no chat template"]);
    let broken = [
        ("tokenizer", &*tokenizer),
        ("model.context", "60"),
        ("tokenizer.chat_template", "\n{% if %}"),
    ];
    let path = folder.write("broken-template.whit", &model(20.0, &broken));
    fail(&["generate", &path, "--chat", "--prompt", "u"], &["chat template fails at line 2"]);

    // A model that is no language model.
    let digits = folder.path("digits.whit");
    succeed(&["convert", &example("digits.onnx"), "-o", &digits]);
    fail(
        &[&["generate", &*digits], &prompt[..]].concat(),
        &["digits.whit", "no metadata `tokenizer`"],
    );
}

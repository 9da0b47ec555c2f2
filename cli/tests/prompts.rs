//! `whit generate --prompts` on small Llamas: many texts, several at once.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::alphabet::whole;
use common::llama::{TOKEN_BYTES, llama};
use common::{Folder, command, example, fail, json, succeed, usage};
use serde_json::Value;

/// Of different lengths, one of them more than a batch of tokens that share a run.
const PROMPTS: [&str; 7] =
    ["a", "Once upon a time", "zzz {", "The capital of France is", "b", "a", "x y z"];

/// Each line of what is printed.
fn lines(arguments: &[&str]) -> Vec<Value> {
    let printed = succeed(&[arguments, &["--json"]].concat());
    printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn texts_are_those_of_one_by_one() {
    let folder = Folder::new("prompts");
    let file = folder.write("prompts.txt", PROMPTS.join("\n\n").as_bytes());
    for options in [&["--sequences", "3"][..], &["--sequences", "4", "--kv-cache", "q8"]] {
        let path = llama(&folder, "several.whit", 3, options);
        for more in [
            &["--temperature", "0"][..],
            &["--temperature", "2", "--seed", "5", "--stop", "q"],
            &["--temperature", "1", "--regex", "[a-f]{3,9}"],
        ] {
            let base = [&["generate", &path, "--max-tokens", "12"][..], more].concat();
            let one = |prompt| json(&[&base[..], &["--prompt", prompt]].concat());
            let alone = PROMPTS.map(one);
            for parallel in [&[][..], &["--parallel", "1"], &["--parallel", "2"]] {
                let all = lines(&[&base[..], &["--prompts", &file], parallel].concat());
                assert_eq!(all.len(), PROMPTS.len());
                for (at, (got, want)) in all.iter().zip(&alone).enumerate() {
                    assert_eq!(got["number"], at + 1);
                    for key in ["ids", "text", "stop", "stop_string", "prompt_tokens"] {
                        assert_eq!(got[key], want[key], "{key}, {more:?}, {parallel:?}");
                    }
                }
            }
            // As text, each followed by an empty line.
            let printed = succeed(&[&base[..], &["--prompts", &file]].concat());
            let texts = alone.iter().map(|text| text["text"].as_str().expect("a text"));
            assert_eq!(printed, texts.map(|text| format!("{text}\n\n")).collect::<String>());
        }
    }
}

#[test]
fn lines_of_json_ask_for_themselves() {
    let folder = Folder::new("prompts-json");
    let path = whole(&folder);
    let lines_of = [
        r#""u""#,
        "",
        r#"{"prompt": "a\nM", "max_tokens": 3}"#,
        r#"{"prompt": "M", "stop": ["PQ"], "seed": 3}"#,
    ];
    let file = folder.write("prompts.jsonl", lines_of.join("\n").as_bytes());
    let arguments = ["generate", &path, "--temperature", "0", "--prompts", &file];
    let texts: Vec<_> = lines(&arguments).iter().map(|line| line["text"].clone()).collect();
    assert_eq!(texts, ["vwxyz", "NOP", "NO"]);

    let mut child = command(&["generate", &path, "--temperature", "0", "--prompts", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process");
    child.stdin.take().expect("input").write_all(b"x\nw\n").expect("a pipe");
    let output = child.wait_with_output().expect("output");
    assert_eq!(String::from_utf8(output.stdout).expect("text"), "yz\n\nxyz\n\n");
    // Through a template.
    let chat = [&arguments[..], &["--chat", "--max-tokens", "2"]].concat();
    assert_eq!(lines(&chat)[0]["text"], "vw");
}

#[test]
fn several_sequences_are_counted_and_measured() {
    let folder = Folder::new("prompts-memory");
    let path = llama(&folder, "six.whit", 2, &["--sequences", "6", "--context", "40"]);
    let found = json(&["inspect", &path, "--context", "10"]);
    assert_eq!(found["sequences"], 6);
    assert_eq!(found["kv_cache_bytes_per_token"], 2 * TOKEN_BYTES);
    assert_eq!(found["kv_cache_bytes"], 6 * 40 * 2 * TOKEN_BYTES);
    assert_eq!(found["asked_kv_cache_bytes"], 6 * 10 * 2 * TOKEN_BYTES);
    assert!(succeed(&["inspect", &path, "--context", "10"]).contains("a token, 6 sequences"));
    let rates = json(&["bench", &path, "--seconds", "0.01"]);
    for key in ["pp40", "tg40", "tg40x4", "tg40x6"] {
        assert!(rates[key].as_f64().is_some_and(|rate| rate > 0.0), "{key}: {rates}");
    }
    assert!(rates.get("tg40x8").is_none());
    assert!(succeed(&["bench", &path, "--seconds", "0.01"]).contains("6 at once"));
}

#[test]
fn what_does_not_fit_is_told() {
    let folder = Folder::new("prompts-bad");
    let path = llama(&folder, "one.whit", 1, &[]);
    let file = folder.write("prompts.txt", b"a\nb\n");
    let base = ["generate", &path, "--prompts"];
    let parallel = [&base[..], &[&file, "--parallel", "2"]].concat();
    fail(&parallel, &["one.whit", "2 texts at once", "for 1 at most", "--sequences 2"]);
    let with = |name: &str, bytes: &[u8], parts: &[&str]| {
        let file = folder.write(name, bytes);
        fail(&[&base[..], &[&file]].concat(), parts);
    };
    with("empty.txt", b"\n  \n", &["empty.txt", "no line has a prompt"]);
    with("binary.txt", b"ab\xff", &["byte 2 isn't UTF-8"]);
    let long = format!("a\n{}\n", "x".repeat(200));
    with("long.txt", long.as_bytes(), &["long.txt, line 2", "200 tokens", "shorten the prompt"]);
    for (line, part) in [
        (&b"\"a\"\nnot JSON"[..], "line 2"),
        (b"{\"prompt\": 3}", "a string, or an object with \"prompt\""),
        (b"{\"prompt\": \"a\", \"tokens\": 3}", "a string, or an object with \"prompt\""),
        (b"[]", "a string, or an object with \"prompt\""),
    ] {
        with("bad.jsonl", line, &["bad.jsonl", part]);
    }
    fail(&[&base[..], &["no-file"]].concat(), &["no-file"]);
    for option in ["--session", "--draft", "--guesses", "--prompt", "--prompt-file"] {
        usage(&[&base[..], &[&file, option, "1"]].concat(), &[option, "cannot be used with"]);
    }
    fail(&["generate", &path, "--prompt", "a", "--parallel", "2"], &["goes with --prompts"]);
    for (option, value) in [("--sequences", "2"), ("--kv-cache", "q8")] {
        let out = folder.path("out.whit");
        let arguments = ["convert", &example("digits.onnx"), "-o", &out, option, value];
        fail(&arguments, &["keeps no keys and values", &format!("leave {option} out")]);
    }
}

//! `whit generate --session` and `--draft` on small Llamas.

mod common;

use common::alphabet::whole;
use common::llama::{TOKEN_BYTES, llama};
use common::{Folder, fail, json, succeed};
use serde_json::Value;

/// Texts that go on differently.
const PROMPTS: [&str; 4] = ["a", "Once upon a time", "zzz {", "The capital of France is"];

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().expect("a number")
}

#[test]
fn sessions_go_on_from_a_file() {
    let folder = Folder::new("sessions");
    // In q8 a head's 8 channels have a byte each, and a scale of two bytes.
    goes_on(&folder, &llama(&folder, "three.whit", 3, &[]), TOKEN_BYTES);
    goes_on(&folder, &llama(&folder, "q8.whit", 3, &["--kv-cache", "q8"]), 2 * (8 + 2));
    goes_on(&folder, &llama(&folder, "f32.whit", 3, &["--kv-cache", "f32"]), 2 * TOKEN_BYTES);
}

fn goes_on(folder: &Folder, path: &str, token_bytes: usize) {
    let file = folder.path("kept.session");
    let _ = std::fs::remove_file(&file);
    let prompt = "Once upon a time";
    let base = ["generate", path, "--temperature", "0", "--max-tokens", "9"];
    let run =
        |prompt: &str, more: &[&str]| json(&[&base[..], &["--prompt", prompt], more].concat());
    let first = run(prompt, &["--session", &file]);
    assert_eq!(number(&first, "reused_tokens"), 0);
    // Tokens of the prompt and all but the last that came, in three layers, and little more.
    let tokens = prompt.len() + 8;
    let bytes = std::fs::metadata(&file).expect("a file").len() as usize;
    let least = tokens * (3 * token_bytes + 4);
    assert!((least..least + 900).contains(&bytes), "{bytes} for {least}");

    let again = run(prompt, &["--session", &file]);
    assert_eq!((&again["ids"], number(&again, "reused_tokens")), (&first["ids"], 15));
    let ids = |report: &Value| report["ids"].as_array().expect("ids").len() as u64;
    // What goes on where the text ended computes as much as is new.
    let printable = "Once upon a time, x";
    let longer = run(printable, &["--session", &file]);
    assert_eq!(number(&longer, "reused_tokens"), 16);
    assert_eq!(longer["ids"], run(printable, &[])["ids"]);
    assert_eq!(ids(&longer), 9);

    let kept = std::fs::read(&file).expect("a file");
    for other in
        [llama(folder, "one.whit", 1, &[]), llama(folder, "short.whit", 3, &["--context", "60"])]
    {
        fail(
            &["generate", &other, "--prompt", "a", "--session", &file],
            &["kept.session: remove it", "another model's"],
        );
    }
    let damaged = |bytes: &[u8], parts: &[&str]| {
        let damaged = folder.write("damaged.session", bytes);
        let arguments = ["generate", path, "--prompt", "a", "--session", &damaged];
        fail(
            &arguments,
            &[&["damaged.session: remove it", "the session can't be restored"], parts].concat(),
        );
        assert_eq!(std::fs::read(&damaged).expect("a file"), bytes);
    };
    damaged(b"", &["cut short"]);
    damaged(b"no session at all", &["no saved session"]);
    for length in [11, 40, 110, kept.len() / 2, kept.len() - 1] {
        damaged(&kept[..length], &["cut short"]);
    }
    for at in (0..kept.len()).step_by(kept.len() / 37) {
        let mut bytes = kept.clone();
        bytes[at] ^= 0x10;
        damaged(&bytes, &[]);
    }
    let mut many = kept.clone();
    many[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    damaged(&many, &["more tokens than the model's context"]);
    fail(
        &["generate", path, "--prompt", "a", "--session", &folder.path("no-folder/x")],
        &["there is no folder", "no-folder"],
    );
}

#[test]
fn drafts_change_no_text() {
    let folder = Folder::new("drafts");
    let path = llama(&folder, "three.whit", 3, &[]);
    let draft = llama(&folder, "one.whit", 1, &[]);
    let base = ["generate", &path, "--max-tokens", "24", "--temperature", "0", "--prompt"];
    for prompt in PROMPTS {
        let run = |more: &[&str]| json(&[&base[..], &[prompt], more].concat());
        let plain = run(&[]);
        for more in
            [&["--draft", &*draft][..], &["--draft", &draft, "--guesses", "9"], &["--draft", &path]]
        {
            let drafted = run(more);
            assert_eq!(drafted["ids"], plain["ids"], "{prompt}, {more:?}");
            assert!(number(&drafted, "guessed_tokens") > 0);
            if more[1] == path {
                assert_eq!(drafted["guessed_right"], drafted["guessed_tokens"]);
            }
        }
        assert_eq!(number(&run(&["--draft", &draft, "--guesses", "0"]), "guessed_tokens"), 0);
    }
    // By chance, but the same chance.
    let drawn = |seed: &str| {
        succeed(&[
            "generate",
            &path,
            "--prompt",
            "a",
            "--draft",
            &draft,
            "--seed",
            seed,
            "--max-tokens",
            "20",
        ])
    };
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
}

#[test]
fn drafts_that_do_not_fit_are_refused() {
    let folder = Folder::new("drafts-bad");
    let path = llama(&folder, "three.whit", 3, &[]);
    let with = |draft: &str, parts: &[&str]| {
        fail(&["generate", &path, "--prompt", "a", "--draft", draft], parts)
    };
    with("absent.whit", &["absent.whit"]);
    let renamed = common::alphabet::tokenizer().replace("<end>", "<fin>");
    let metadata = [("tokenizer", &*renamed), ("model.context", "60")];
    let other = folder.write("other.whit", &common::alphabet::model(20.0, &metadata));
    with(
        &other,
        &[
            "other.whit: the tokenizers differ: token 256 is `<end>` in one and `<fin>` in the other",
        ],
    );
    // The same tokens do, whatever the model.
    succeed(&["generate", &path, "--prompt", "a", "--draft", &whole(&folder), "--max-tokens", "5"]);
}

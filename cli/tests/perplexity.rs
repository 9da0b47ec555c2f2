//! `whit eval --perplexity` on a model that recites the alphabet, whose logits are known.

mod common;

use common::alphabet::{EOS, certain, logits, model, tokenizer, whole};
use common::{Folder, example, fail, json, succeed, usage};

/// `ln p` of every token behind one.
fn log_softmax(token: usize, best: f32) -> Vec<f64> {
    let logits = logits(token, best).map(f64::from);
    let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
    logits.iter().map(|logit| logit - sum.ln()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard error of the mean.
fn error(values: &[f64]) -> f64 {
    let (n, mean) = (values.len() as f64, mean(values));
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt()
}

const TEXT: &str = "abcdeXYZABz? and a longer text, so that there are windows and pieces";

#[test]
fn perplexity_is_that_of_the_formula() {
    let folder = Folder::new("perplexity");
    let path = whole(&folder);
    let file = folder.write("text.txt", TEXT.as_bytes());
    let bytes = TEXT.as_bytes();
    let pairs: Vec<(usize, usize)> = bytes.windows(2).map(|w| (w[0].into(), w[1].into())).collect();
    let losses: Vec<f64> = pairs.iter().map(|(a, b)| -log_softmax(*a, 20.0)[*b]).collect();
    let close = |found: &serde_json::Value, expected: f64| {
        let found = found.as_f64().expect("a number");
        assert!((found - expected).abs() < 1e-5 * expected.abs().max(1e-3), "{found}, {expected}");
    };

    // The table has no memory, so any window that scores all tokens gives the same.
    for options in [&[][..], &["--window", "9"], &["--window", "20", "--stride", "7"]] {
        let found = json(&[&["eval", &path, "--perplexity", &file], options].concat());
        close(&found["perplexity"], mean(&losses).exp());
        close(&found["standard_error"], mean(&losses).exp() * error(&losses));
        close(&found["negative_log_likelihood"]["mean"], mean(&losses));
        assert_eq!((&found["tokens"], &found["scored_tokens"]), (&68.into(), &67.into()));
        assert!(found["tokens_per_second"].as_f64().expect("a rate") > 0.0);
    }
    // Windows that don't overlap leave the first token of each out.
    let found = json(&["eval", &path, "--perplexity", &file, "--window", "17", "--stride", "17"]);
    let left: Vec<f64> = (1..68).filter(|at| at % 17 != 0).map(|at| losses[at - 1]).collect();
    close(&found["perplexity"], mean(&left).exp());

    let other = certain(&folder, "other.whit", 12.0);
    let against = ["eval", &path, "--perplexity", &file, "--against", &other];
    let found = json(&against);
    let theirs: Vec<f64> = pairs.iter().map(|(a, b)| -log_softmax(*a, 12.0)[*b]).collect();
    let differences: Vec<f64> = losses.iter().zip(&theirs).map(|(a, b)| a - b).collect();
    let divergence = |token: &usize| -> f64 {
        let (p, q) = (log_softmax(*token, 12.0), log_softmax(*token, 20.0));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    let divergences: Vec<f64> = pairs.iter().map(|(a, _)| divergence(a)).collect();
    let compared = &found["against"];
    close(&compared["perplexity"], mean(&theirs).exp());
    close(&compared["ratio"], mean(&differences).exp());
    close(&compared["ratio_standard_error"], mean(&differences).exp() * error(&differences));
    close(&compared["kl_divergence"]["mean"], mean(&divergences));
    close(&compared["kl_divergence_max"], divergences.iter().copied().fold(0.0, f64::max));
    assert_eq!(compared["same_best_token"], 1.0);
    let told = succeed(&against);
    for part in [
        "68 tokens in windows of 60 every 30",
        "alphabet.whit",
        "other.whit",
        "same best token",
        "100.0 %",
    ] {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
}

#[test]
fn windows_begin_with_the_token_that_texts_begin_with() {
    let folder = Folder::new("perplexity-bos");
    let tokenizer = tokenizer();
    let metadata = [
        ("tokenizer", &*tokenizer),
        ("tokenizer.bos", "<end>"),
        ("tokenizer.add_bos", "1"),
        ("model.context", "60"),
    ];
    let path = folder.write("bos.whit", &model(20.0, &metadata));
    let file = folder.write("text.txt", b"aa");
    let found = json(&["eval", &path, "--perplexity", &file]);
    assert_eq!((&found["scored_tokens"], &found["begin"]), (&2.into(), &EOS.into()));
    // `a` follows the beginning, and doesn't follow `a`.
    let expected = -log_softmax(EOS, 20.0)[97] - log_softmax(97, 20.0)[97];
    let found = found["negative_log_likelihood"]["mean"].as_f64().expect("a number");
    assert!((found - expected / 2.0).abs() < 1e-5);
}

#[test]
fn bad_input_is_told() {
    let folder = Folder::new("perplexity-bad");
    let path = whole(&folder);
    let file = folder.write("text.txt", TEXT.as_bytes());
    let base = ["eval", &*path, "--perplexity"];
    let with = |text: &str, options: &[&str]| -> Vec<String> {
        base.iter().chain(&[text]).chain(options).map(|part| (*part).to_owned()).collect()
    };
    let refused = |text: &str, options: &[&str], parts: &[&str]| {
        let arguments = with(text, options);
        fail(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), parts);
    };
    let short = folder.write("short.txt", b"a");
    let bytes = folder.write("bytes.txt", b"ab\xff");
    refused("absent.txt", &[], &["absent.txt"]);
    refused(&short, &[], &["the text has 1 tokens"]);
    refused(&bytes, &[], &["bytes.txt", "byte 2 isn't UTF-8"]);
    refused(&file, &["--window", "61"], &["windows of 61 tokens", "2 to 60"]);
    refused(&file, &["--window", "8", "--stride", "9"], &["every 9"]);
    refused(&file, &["--against", "absent.whit"], &["absent.whit"]);

    let others = tokenizer().replace("\"a\":97,\"b\":98", "\"a\":98,\"b\":97");
    let metadata = [("tokenizer", &*others), ("model.context", "60")];
    let other = folder.write("other.whit", &model(20.0, &metadata));
    refused(&file, &["--against", &other], &["different tokens"]);

    let digits = folder.path("digits.whit");
    succeed(&["convert", &example("digits.onnx"), "-o", &digits]);
    fail(&["eval", &digits, "--perplexity", &file], &["digits.whit", "no metadata `tokenizer`"]);
    usage(&["eval", &path, "--perplexity", &file, "--folds", "3"], &["cannot be used with"]);
    usage(&["eval", &path], &["--data"]);
}

use super::*;
use crate::testing::{Known, VOCABULARY, logits};

fn text(tokens: usize) -> Vec<i32> {
    (0..tokens).map(|at| ((at * at * 7 + at / 3) % VOCABULARY) as i32).collect()
}

/// `ln p` of all tokens behind some tokens, in f64.
fn log_softmax(seen: &[i32], seed: u64) -> Vec<f64> {
    let logits = logits(seen, seed).map(f64::from);
    let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
    logits.iter().map(|logit| logit - sum.ln()).collect()
}

/// Token by token, as the loop of Hugging Face's documentation goes: negative log-likelihoods and divergences.
fn by_formula(tokens: &[i32], windows: Windows) -> Vec<(f64, f64)> {
    let begin: Vec<i32> = windows.begin.into_iter().collect();
    let room = windows.window - begin.len();
    let (mut scored, mut start, mut before) = (Vec::new(), 0, 0);
    loop {
        let end = tokens.len().min(start + room);
        for at in before.max(start)..end {
            let seen = [&begin, &tokens[start..at]].concat();
            if !seen.is_empty() {
                let (q, p) = (log_softmax(&seen, 1), log_softmax(&seen, 2));
                let terms = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q));
                scored.push((-q[tokens[at] as usize], terms.sum()));
            }
        }
        if end == tokens.len() {
            return scored;
        }
        before = end;
        start += windows.stride.min(room);
    }
}

#[test]
fn windows_score_every_token_once_as_the_formula_does() {
    for (length, window, stride) in [
        (2, 8, 4),
        (8, 8, 8),
        (9, 8, 8),
        (30, 8, 8),
        (30, 8, 3),
        (31, 8, 1),
        (17, 2, 1),
        (40, 24, 12),
    ] {
        for (begin, rows) in [(None, 3), (Some(4), 1), (Some(4), 9)] {
            let (tokens, windows) = (text(length), Windows { window, stride, begin });
            let mut model = Known::hashed(24, rows, 1);
            let mut other = Known::hashed(24, 2, 2);
            let mut told = 0;
            let score =
                score_text(&tokens, windows, &mut model, Some(&mut other), |scored| told = scored);
            let score = score.expect("a score");
            let expected = by_formula(&tokens, windows);
            let count = expected.len();
            assert_eq!((score.likelihood.count(), told), (count, count), "{windows:?}");
            if stride < window && begin.is_some() {
                assert_eq!(count, length);
            }
            // Exponentials in f32.
            let close = |a: f64, b: f64| {
                assert!((a - b).abs() < 1e-6 * b.abs().max(1.0), "{windows:?}: {a}, {b}");
            };
            let mean = expected.iter().map(|(own, _)| own).sum::<f64>() / count as f64;
            close(score.likelihood.mean(), mean);
            close(score.likelihood.exponential().0, mean.exp());
            if count > 1 {
                let squares = expected.iter().map(|(own, _)| (own - mean).powi(2)).sum::<f64>();
                let error = (squares / (count as f64 - 1.0) / count as f64).sqrt();
                close(score.likelihood.standard_error(), error);
            }
            let against = score.against.expect("a comparison");
            for (found, (_, expected)) in against.divergences.iter().zip(&expected) {
                close(*found, *expected);
            }
            close(against.difference.mean(), mean - against.reference.mean());
            assert_eq!(against.divergences.len(), count);
        }
    }
}

#[test]
fn a_model_does_not_differ_from_itself() {
    let windows = Windows { window: 9, stride: 4, begin: None };
    let (mut model, mut same) = (Known::hashed(9, 2, 1), Known::hashed(30, 3, 1));
    let score = score_text(&text(25), windows, &mut model, Some(&mut same), |_| ());
    let against = score.expect("a score").against.expect("a comparison");
    assert!(against.divergences.iter().all(|divergence| *divergence == 0.0));
    assert_eq!((against.difference.mean(), against.same_best), (0.0, 24));
}

#[test]
fn what_can_not_be_scored_is_refused() {
    let windows = |window, stride| Windows { window, stride, begin: None };
    let run = |tokens: &[i32], windows| {
        let mut model = Known::hashed(8, 2, 1);
        score_text(tokens, windows, &mut model, None, |_| ()).map(|score| score.likelihood.count())
    };
    for (window, stride) in [(0, 1), (1, 1), (9, 4), (8, 0), (4, 5)] {
        let refused = run(&text(20), windows(window, stride));
        assert!(matches!(refused, Err(TextError::Windows { context: 8, .. })), "{refused:?}");
    }
    for tokens in [&[][..], &[3]] {
        assert!(matches!(run(tokens, windows(8, 4)), Err(TextError::TooFewTokens(_))));
    }
    assert_eq!(run(&[3], Windows { begin: Some(1), ..windows(8, 4) }).expect("a score"), 1);
    for id in [-1, VOCABULARY as i32] {
        let strange = run(&[1, id], windows(8, 4));
        assert!(matches!(strange, Err(TextError::Vocabulary { vocabulary: VOCABULARY, .. })));
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    let cases: [(&[f32], bool); 4] = [
        (&[0.0, f32::NEG_INFINITY, 1.0], true),
        (&[f32::NEG_INFINITY, 0.0, 1.0], false),
        (&[0.0, f32::NAN, 1.0], false),
        (&[f32::INFINITY, 0.0, 1.0], false),
    ];
    for (logits, is_finite) in cases {
        let found = TextScore::default().take(&[0], 7, 3, logits, None);
        match is_finite {
            true => found.expect("a score"),
            false => assert!(matches!(found, Err(TextError::NotFinite { token: 7 })), "{logits:?}"),
        }
    }
}

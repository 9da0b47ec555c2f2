use std::ops::ControlFlow;

use super::*;
use crate::generator::{Generation, Generator, Request};
use crate::testing::{Known, VOCABULARY, logits};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::tests::byte_level;

const CONTEXT: usize = 24;
const PROMPT: [i32; 7] = [3, 1, 4, 1, 5, 9, 2];

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(&byte_level().to_string()).expect("a tokenizer")
}

/// What a model says, perhaps with a draft of this seed and context.
fn generate(
    tokenizer: &Tokenizer,
    draft: Option<(u64, usize)>,
    request: &Request,
    prompt: &[i32],
) -> Generation {
    let mut generator = Generator::new(tokenizer, Known::hashed(CONTEXT, 9, 1));
    if let Some((seed, context)) = draft {
        generator = generator.with_draft(Known::hashed(context, 1, seed));
    }
    generator.generate(prompt, request, None, |_| ControlFlow::Continue(())).expect("a text")
}

#[test]
fn the_best_token_is_that_without_a_draft() {
    let tokenizer = tokenizer();
    let greedy = |guesses| Request {
        sampling: Sampling::greedy(),
        max_tokens: 30,
        guesses,
        ..Request::default()
    };
    let penalized = |guesses| {
        let sampling = Sampling { repeat_penalty: 1.7, repeat_last: 5, ..Sampling::greedy() };
        Request { sampling, ..greedy(guesses) }
    };
    for length in 1..=PROMPT.len() {
        let prompt = &PROMPT[..length];
        for (request, name) in
            [(&greedy as &dyn Fn(usize) -> Request, "greedy"), (&penalized, "penalized")]
        {
            let plain = generate(&tokenizer, None, &request(0), prompt);
            for guesses in [1, 2, 4, 20] {
                // Another model; the model itself; one that hasn't room for all of the text.
                for draft in [(2, CONTEXT), (1, CONTEXT), (1, 11)] {
                    let drafted = generate(&tokenizer, Some(draft), &request(guesses), prompt);
                    assert_eq!(drafted.ids, plain.ids, "{name}, {draft:?}, {guesses} guesses");
                    assert_eq!(drafted.stop, plain.stop);
                    let (all, right) = drafted.guessed;
                    assert!(all > 0 && (draft.0 == 2 || all == right), "{name}: {right} of {all}");
                }
            }
        }
    }
}

/// Probabilities at a temperature among the best `k` tokens.
fn probabilities(seen: &[i32], temperature: f64, k: usize) -> Vec<f64> {
    let logits = logits(seen, 1).map(f64::from);
    let mut order: Vec<usize> = (0..VOCABULARY).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let mut weights = [0.0; VOCABULARY];
    order[..k].iter().for_each(|id| weights[*id] = (logits[*id] / temperature).exp());
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

#[test]
fn tokens_are_as_probable_as_without_a_draft() {
    const TEXTS: usize = 8_000;
    // Four and a half standard deviations, so that none of the cells below is outside by chance.
    let bound = |p: f64| 4.5 * (p * (1.0 - p) / TEXTS as f64).sqrt() + 1e-12;
    let tokenizer = tokenizer();
    for (top_k, seed) in [(0, 2), (4, 2), (4, 1)] {
        let sampling =
            Sampling { temperature: 2.0, top_k, top_p: 1.0, min_p: 0.0, ..Sampling::default() };
        let k = if top_k == 0 { VOCABULARY } else { top_k };
        let mut counts = vec![vec![0usize; VOCABULARY]; VOCABULARY];
        let mut guessed = (0, 0);
        for text in 0..TEXTS {
            let sampling = Sampling { seed: text as u64, ..sampling };
            let request = Request { sampling, max_tokens: 4, guesses: 3, ..Request::default() };
            let generation = generate(&tokenizer, Some((seed, CONTEXT)), &request, &PROMPT);
            counts[generation.ids[0] as usize][generation.ids[1] as usize] += 1;
            guessed = (guessed.0 + generation.guessed.0, guessed.1 + generation.guessed.1);
        }
        let first = probabilities(&PROMPT, 2.0, k);
        for a in 0..VOCABULARY {
            let second = probabilities(&[&PROMPT[..], &[a as i32]].concat(), 2.0, k);
            for b in 0..VOCABULARY {
                let (p, found) = (first[a] * second[b], counts[a][b] as f64 / TEXTS as f64);
                assert!((found - p).abs() <= bound(p), "{top_k}, {seed}: {a}, {b}: {found}, {p}");
            }
        }
        // A draft that is the model itself is always right, another one now and then.
        match seed {
            1 => assert_eq!(guessed.0, guessed.1),
            _ => assert!(guessed.1 * 10 > guessed.0 && guessed.1 < guessed.0, "{guessed:?}"),
        }
    }
}

#[test]
fn a_seed_gives_the_same_text() {
    let tokenizer = tokenizer();
    let text = |seed| {
        let request = Request {
            sampling: Sampling { seed, ..Sampling::default() },
            max_tokens: 15,
            guesses: 3,
            ..Request::default()
        };
        generate(&tokenizer, Some((2, CONTEXT)), &request, &PROMPT).ids
    };
    assert_eq!(text(5), text(5));
    assert_ne!(text(5), text(6));
}

#[test]
fn tokenizers_are_compared() {
    let one = tokenizer();
    one.check_same(&tokenizer()).expect("the same");
    let ends = tokenizer().with_eos(7);
    assert!(matches!(one.check_same(&ends), Err(TextError::OtherEnds)));
    let mut other = byte_level();
    let vocabulary = other["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let (a, b) = (vocabulary["a"].clone(), vocabulary["b"].clone());
    vocabulary.insert("a".to_owned(), b);
    vocabulary.insert("b".to_owned(), a.clone());
    let other = Tokenizer::from_json(&other.to_string()).expect("a tokenizer");
    let differs = one.check_same(&other);
    let id = a.as_i64().expect("an id") as i32;
    match differs {
        Err(TextError::OtherTokens { id: found, own, other }) => {
            assert!(found <= id && own != other, "{found}: {own}, {other}");
        }
        other => panic!("{other:?}"),
    }
}

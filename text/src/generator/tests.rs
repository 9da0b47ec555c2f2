use super::*;
use crate::testing::Known;
use crate::tokenizer::tests::byte_level;

const VOCABULARY: usize = 265;
const EOS: i32 = 263;
const UNSURE: i32 = b'~' as i32;

/// A model of bytes that goes on in one fixed text, and says `~` where the tokens in its cache aren't the text's.
fn reciting(text: &str, context: usize) -> Known {
    let mut text = tokenizer().encode(text, false).expect("ids");
    text.push(EOS);
    Known::reciting(text, UNSURE, context, VOCABULARY)
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(&byte_level().to_string()).expect("a tokenizer").with_eos(EOS)
}

fn greedy() -> Request {
    Request { sampling: Sampling::greedy(), ..Request::default() }
}

/// The whole text, told part by part.
fn generate(
    generator: &mut Generator<'_, Known>,
    prompt: &str,
    request: &Request,
) -> Result<Generation, TextError> {
    let ids = generator.tokenizer.encode(prompt, false)?;
    let mut told = String::new();
    let generation = generator.generate(&ids, request, None, |part| {
        told.push_str(part);
        ControlFlow::Continue(())
    })?;
    assert_eq!(told, generation.text);
    Ok(generation)
}

const TEXT: &str = "say: hé漢 👩 word, word and word, word and word";

#[test]
fn ends_for_every_reason() {
    let tokenizer = tokenizer();
    let stop = |stop: &str| Request { stop: vec![stop.to_owned()], ..greedy() };
    let cases = [
        (greedy(), 100, " hé漢 👩 word, word and word, word and word", StopReason::Eos),
        (stop("d and"), 100, " hé漢 👩 word, wor", StopReason::StopString("d and".to_owned())),
        (stop("wordy"), 100, " hé漢 👩 word, word and word, word and word", StopReason::Eos),
        (Request { max_tokens: 4, ..greedy() }, 100, " hé", StopReason::Length),
        // An incomplete character is told as one that isn't valid.
        (Request { max_tokens: 5, ..greedy() }, 100, " hé\u{fffd}", StopReason::Length),
        (Request { max_tokens: 0, ..greedy() }, 100, "", StopReason::Length),
        (greedy(), 8, " hé", StopReason::Context),
    ];
    for (request, context, expected, reason) in cases {
        for guesses in [0, 1, 2, 9] {
            let request = Request { guesses, ..request.clone() };
            let mut generator = Generator::new(&tokenizer, reciting(TEXT, context));
            let generation = generate(&mut generator, "say:", &request).expect("a text");
            assert_eq!((&*generation.text, &generation.stop), (expected, &reason), "{guesses}");
        }
    }
}

#[test]
fn prompts_are_computed_in_batches_and_once() {
    let tokenizer = tokenizer();
    let mut generator = Generator::new(&tokenizer, reciting(TEXT, 100));
    let request = Request { max_tokens: 2, ..greedy() };
    let first = generate(&mut generator, "say: hé漢 ", &request).expect("a text");
    assert_eq!((first.prompt_tokens, first.reused_tokens), (12, 0));
    let again = generate(&mut generator, "say: hé漢 ", &request).expect("a text");
    assert_eq!((again.prompt_tokens, again.reused_tokens), (12, 11));
    // Behind what was generated, of which the last token isn't in the cache.
    let longer = generate(&mut generator, "say: hé漢 👩", &request).expect("a text");
    assert_eq!(longer.prompt_tokens - longer.reused_tokens, 2);
    let shorter = generate(&mut generator, "say", &request).expect("a text");
    assert_eq!((shorter.prompt_tokens, shorter.reused_tokens), (3, 2));
    assert_eq!(generator.decoder().calls[..4], [4, 4, 4, 1]);
}

#[test]
fn guesses_save_calls_and_change_nothing() {
    let tokenizer = tokenizer();
    let text = "a b c d e f g h. a b c d e f g h. a b c d e f g h.";
    let run = |guesses| {
        let mut generator = Generator::new(&tokenizer, reciting(text, 100));
        let generation = generate(&mut generator, "a b", &Request { guesses, ..greedy() });
        (generation.expect("a text"), generator.decoder().calls.len())
    };
    let ((plain, plain_calls), (guessed, guessed_calls)) = (run(0), run(2));
    assert_eq!(plain.ids, guessed.ids);
    assert_eq!(plain.guessed, (0, 0));
    assert!(guessed.guessed.1 > 15 && guessed.guessed.1 <= guessed.guessed.0);
    assert!(guessed_calls + guessed.guessed.1 == plain_calls, "{guessed_calls}, {plain_calls}");
}

#[test]
fn callers_may_stop() {
    let tokenizer = tokenizer();
    let mut generator = Generator::new(&tokenizer, reciting(TEXT, 100));
    let ids = tokenizer.encode("say:", false).expect("ids");
    let stopped = generator.generate(&ids, &greedy(), None, |_| ControlFlow::Break(()));
    let stopped = stopped.expect("a text");
    assert_eq!((&*stopped.text, stopped.stop), (" ", StopReason::Cancelled));
}

#[test]
fn prompts_that_dont_fit_are_refused() {
    let tokenizer = tokenizer();
    let mut generator = Generator::new(&tokenizer, reciting(TEXT, 8));
    assert!(matches!(generate(&mut generator, "", &greedy()), Err(TextError::EmptyPrompt)));
    let long = generate(&mut generator, "say: hé漢", &greedy());
    assert!(matches!(long, Err(TextError::Context { prompt: 11, context: 8 })), "{long:?}");
    for id in [-1, VOCABULARY as i32] {
        let strange = generator.generate(&[id], &greedy(), None, |_| ControlFlow::Continue(()));
        assert!(matches!(strange, Err(TextError::Vocabulary { vocabulary: VOCABULARY, .. })));
    }
}

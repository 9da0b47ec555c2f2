use super::*;
use crate::constraint::Grammar;
use crate::generator::Generator;
use crate::sampler::Sampling;
use crate::testing::{Known, VOCABULARY};
use crate::tokenizer::tests::byte_level;

const CONTEXT: usize = 24;

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(&byte_level().to_string()).expect("a tokenizer")
}

/// Jobs of different lengths, each with a sampler, stop strings and an end of its own.
fn jobs(count: usize) -> Vec<(Vec<i32>, Request)> {
    let job = |at: usize| {
        let prompt = (0..1 + at * 5 % 13).map(|i| ((i * 7 + at) % VOCABULARY) as i32).collect();
        let temperature = [0.0, 0.7, 1.5][at % 3];
        let sampling = Sampling { temperature, seed: at as u64, ..Sampling::default() };
        // Bytes below the space are the vocabulary's first tokens.
        let stop = if at % 4 == 3 { vec!["\u{3}".to_owned()] } else { vec![] };
        let max_tokens = [1, 6, 0, 30][at % 4];
        (prompt, Request { sampling, max_tokens, stop, guesses: 0 })
    };
    (0..count).map(job).collect()
}

/// All texts, in the order in which they were given.
fn texts(
    batch: &mut Batch<'_, Known>,
    jobs: &[(Vec<i32>, Request)],
) -> Result<Vec<Generation>, TextError> {
    let jobs = jobs.iter().map(|(prompt, request)| {
        let (prompt, request) = (prompt.clone(), request.clone());
        Ok::<_, TextError>(Job { prompt, request, constraint: None })
    });
    let mut all = Vec::new();
    batch.generate(jobs, |number, generation| {
        assert_eq!(number, all.len());
        all.push(generation);
        ControlFlow::Continue(())
    })?;
    Ok(all)
}

#[test]
fn texts_are_those_of_one_by_one() {
    let tokenizer = tokenizer();
    for count in [0, 1, 2, 3, 11] {
        let jobs = jobs(count);
        for parallel in 1..=4 {
            let model = Known::hashed(CONTEXT, 9, 1).with_sequences(4);
            let mut batch = Batch::new(&tokenizer, model, parallel).expect("a batch");
            // A second time over what is in the cache.
            for _ in 0..2 {
                let all = texts(&mut batch, &jobs).expect("texts");
                assert_eq!(all.len(), count);
                for (got, (prompt, request)) in all.iter().zip(&jobs) {
                    let mut generator = Generator::new(&tokenizer, Known::hashed(CONTEXT, 9, 1));
                    let want = generator
                        .generate(prompt, request, None, |_| ControlFlow::Continue(()))
                        .expect("a text");
                    assert_eq!((&got.ids, &got.text), (&want.ids, &want.text), "{parallel}");
                    assert_eq!((&got.stop, got.prompt_tokens), (&want.stop, prompt.len()));
                }
            }
        }
    }
}

#[test]
fn sequences_share_runs() {
    let tokenizer = tokenizer();
    let request = Request { sampling: Sampling::greedy(), max_tokens: 9, ..Request::default() };
    let jobs: Vec<_> = (0..6).map(|at| (vec![at], request.clone())).collect();
    let calls = |parallel| {
        let model = Known::hashed(CONTEXT, 9, 1).with_sequences(3);
        let mut batch = Batch::new(&tokenizer, model, parallel).expect("a batch");
        texts(&mut batch, &jobs).expect("texts");
        batch.decoder().calls.clone()
    };
    // A prompt and eight tokens for each text.
    assert_eq!(calls(1), vec![1; 6 * 9]);
    let together = [[1; 3].as_slice(), &[3; 8]].concat();
    assert_eq!(calls(3), together.repeat(2));
}

#[test]
fn each_text_follows_its_own_grammar() {
    let tokenizer = tokenizer().with_eos(10);
    let model = Known::hashed(CONTEXT, 9, 1).with_sequences(2);
    let mut batch = Batch::new(&tokenizer, model, 2).expect("a batch");
    let grammars = ["\\x01{3}", "\\x02\\x03", "[\\x04-\\x06]{5}"];
    let jobs = grammars.map(|regex| {
        let constraint = Constraint::new(&tokenizer, VOCABULARY, Grammar::Regex(regex))?;
        let request = Request { sampling: Sampling::greedy(), ..Request::default() };
        Ok::<_, TextError>(Job { prompt: vec![7], request, constraint: Some(constraint) })
    });
    let mut all = Vec::new();
    let done = |_, generation: Generation| {
        all.push(generation.text);
        ControlFlow::Continue(())
    };
    batch.generate(jobs, done).expect("texts");
    assert_eq!(all[..2], ["\u{1}\u{1}\u{1}", "\u{2}\u{3}"]);
    assert!(all[2].len() == 5 && all[2].chars().all(|c| ('\u{4}'..='\u{6}').contains(&c)));
}

#[test]
fn what_does_not_fit_is_refused() {
    let tokenizer = tokenizer();
    for (parallel, sequences, most) in [(0, 4, 4), (5, 4, 4), (2, 1, 1), (6, 9, 5)] {
        let model = Known::hashed(CONTEXT, 9, 1).with_sequences(sequences);
        let refused = Batch::new(&tokenizer, model, parallel).err().expect("an error");
        let TextError::Sequences { asked, sequences } = refused else { panic!("{refused}") };
        assert_eq!((asked, sequences), (parallel, most));
    }
    let mut batch = Batch::new(&tokenizer, Known::hashed(CONTEXT, 9, 1), 1).expect("a batch");
    for (prompt, wanted) in [(vec![], "empty"), (vec![1; CONTEXT], "context"), (vec![99], "99")] {
        let jobs = [
            (vec![1], Request { max_tokens: 2, ..Request::default() }),
            (prompt, Request::default()),
        ];
        let error = texts(&mut batch, &jobs).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn callers_may_stop() {
    let tokenizer = tokenizer();
    let model = Known::hashed(CONTEXT, 9, 1).with_sequences(2);
    let mut batch = Batch::new(&tokenizer, model, 2).expect("a batch");
    let request = Request { max_tokens: 2, ..Request::default() };
    let (mut begun, mut given) = (0, 0);
    let jobs = (0..100).map(|_| {
        begun += 1;
        Ok::<_, TextError>(Job { prompt: vec![1], request: request.clone(), constraint: None })
    });
    let done = |_, _| {
        given += 1;
        if given == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    batch.generate(jobs, done).expect("texts");
    assert!(given == 3 && begun < 8, "{given} of {begun}");
}

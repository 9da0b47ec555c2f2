use super::*;

const LOGITS: [f32; 6] = [1.0, 3.0, 2.0, 3.0, -1.0, f32::NAN];

/// What each option alone leaves, and everything with all off.
const ALL: Sampling = Sampling {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repeat_penalty: 1.0,
    repeat_last: 4,
    seed: 1,
};

fn sampler(sampling: Sampling) -> Sampler {
    Sampler::new(sampling, LOGITS.len()).expect("numbers in range")
}

/// The share of each token among many draws.
fn shares(sampling: Sampling, last: &[i32], mask: Option<&[u32]>) -> Vec<f64> {
    const DRAWS: usize = 20_000;
    let mut sampler = sampler(sampling);
    last.iter().for_each(|id| sampler.accept(*id));
    let mut shares = vec![0.0; LOGITS.len()];
    for _ in 0..DRAWS {
        let id = sampler.sample(&LOGITS, mask).expect("a token");
        shares[id as usize] += 1.0 / DRAWS as f64;
    }
    shares
}

/// Probabilities of weights.
fn normalized(weights: [f64; 6]) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

#[test]
fn shares_are_the_formulas() {
    // Four standard deviations of a share of a half in 20,000 draws.
    const MAX_ERROR: f64 = 0.015;
    let e = f64::exp;
    let cases = [
        ("all", ALL, normalized([e(1.0), e(3.0), e(2.0), e(3.0), e(-1.0), 0.0])),
        (
            "temperature",
            Sampling { temperature: 2.0, ..ALL },
            normalized([e(0.5), e(1.5), e(1.0), e(1.5), e(-0.5), 0.0]),
        ),
        // Of two equal ones, the smaller id.
        ("top-k 1", Sampling { top_k: 1, ..ALL }, normalized([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])),
        (
            "top-k 3",
            Sampling { top_k: 3, ..ALL },
            normalized([0.0, e(3.0), e(2.0), e(3.0), 0.0, 0.0]),
        ),
        // Probabilities are 0.40, 0.40, 0.15, 0.05, 0.01.
        ("top-p 0.3", Sampling { top_p: 0.3, ..ALL }, normalized([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])),
        ("top-p 0.6", Sampling { top_p: 0.6, ..ALL }, normalized([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])),
        ("top-p 0", Sampling { top_p: 0.0, ..ALL }, normalized([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])),
        // Relative to the best: 0.37, 0.14, 0.02.
        (
            "min-p 0.2",
            Sampling { min_p: 0.2, ..ALL },
            normalized([0.0, e(3.0), e(2.0), e(3.0), 0.0, 0.0]),
        ),
        ("min-p 1", Sampling { min_p: 1.0, ..ALL }, normalized([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])),
        // After the temperature it would leave more.
        (
            "top-p, hot",
            Sampling { top_p: 0.6, temperature: 50.0, ..ALL },
            normalized([0.0, 1.0, 0.0, 1.0, 0.0, 0.0]),
        ),
        (
            "greedy",
            Sampling { temperature: 0.0, ..ALL },
            normalized([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
        ),
    ];
    for (name, sampling, expected) in cases {
        let shares = shares(sampling, &[], None);
        for (share, expected) in shares.iter().zip(&expected) {
            assert!((share - expected).abs() <= MAX_ERROR, "{name}: {shares:?}, not {expected}");
        }
    }
}

#[test]
fn penalties_and_masks() {
    let greedy = Sampling { temperature: 0.0, repeat_penalty: 2.0, ..ALL };
    let chosen = |last: &[i32], mask: Option<&[u32]>| {
        let mut sampler = sampler(greedy);
        last.iter().for_each(|id| sampler.accept(*id));
        sampler.sample(&LOGITS, mask).expect("a token")
    };
    assert_eq!(chosen(&[1], None), 3);
    assert_eq!(chosen(&[1, 3], None), 2);
    // Once, however often it was there: 3 / 2 > 1.
    assert_eq!(chosen(&[1, 1, 1], Some(&[0b1_0011])), 1);
    // Only the last four count.
    assert_eq!(chosen(&[1, 0, 0, 4, 4], None), 1);
    // A negative logit becomes more so: −2 < −1.5 isn't there to take, so −2 it is.
    assert_eq!(chosen(&[4], Some(&[0b1_0000])), 4);
    assert_eq!(chosen(&[], Some(&[0b1_0101])), 2);
    let mut sampler = sampler(ALL);
    for mask in [&[0u32][..], &[1 << 5], &[]] {
        assert!(matches!(sampler.sample(&LOGITS, Some(mask)), Err(TextError::NoToken)));
    }
}

/// These were drawn by a program in Python; every machine draws the same.
#[test]
fn a_seed_gives_the_same_tokens_everywhere() {
    let mut sampler = sampler(Sampling { seed: 42, ..ALL });
    let tokens: Vec<i32> =
        (0..12).map(|_| sampler.sample(&LOGITS, None).expect("a token")).collect();
    assert_eq!(tokens, [3, 1, 1, 1, 1, 2, 1, 2, 1, 3, 1, 3]);
}

#[test]
fn numbers_out_of_range_are_refused() {
    let cases = [
        ("temperature", Sampling { temperature: -0.1, ..ALL }),
        ("temperature", Sampling { temperature: f32::NAN, ..ALL }),
        ("top-p", Sampling { top_p: 1.1, ..ALL }),
        ("min-p", Sampling { min_p: -1.0, ..ALL }),
        ("repetition penalty", Sampling { repeat_penalty: 0.0, ..ALL }),
        ("window", Sampling { repeat_last: usize::MAX, ..ALL }),
    ];
    for (name, sampling) in cases {
        let error = Sampler::new(sampling, 6).expect_err(name).to_string();
        assert!(error.contains(name), "{error}");
    }
}

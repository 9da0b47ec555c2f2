//! Intervals, tests, calibration and thresholds beside scipy 1.17.1, scikit-learn 1.9.1 and statsmodels 0.15.0.

use super::bootstrap::{Bootstrap, IntervalMethod, compare, intervals};
use super::calibration::{expected_error, maximum_error, overconfidence, softmax};
use super::proportion::{mcnemar, tango, wilson};
use super::threshold::{Decisions, Rule, from_normal};
use super::*;

/// statsmodels: `proportion_confint(hits, n, 1 - confidence, method='wilson')`.
#[test]
fn shares() {
    for (hits, n, confidence, low, high) in [
        (0, 10, 0.95, 0.0, 0.2775327998628892),
        (10, 10, 0.95, 0.7224672001371107, 1.0),
        (9, 10, 0.95, 0.5958499732047615, 0.9821237869049271),
        (361, 400, 0.95, 0.8694877208462789, 0.9278548822146123),
        (361, 400, 0.99, 0.8574762392563553, 0.9343889024015122),
        (1, 45, 0.9, 0.004973318477046795, 0.09366392812770717),
    ] {
        let interval = wilson(hits, n, confidence).unwrap();
        assert_close(interval.low, low, MAX_ERR_SUM);
        assert_close(interval.high, high, MAX_ERR_SUM);
    }
    assert_eq!(wilson(0, 0, 0.95), None);
}

/// statsmodels: `mcnemar(table, exact=True)`, `mcnemar(table, exact=False, correction=True)`; mid-p by its definition,
/// the probability of less likely outcomes and half of the equally likely ones, from `scipy.stats.binom.pmf`.
#[test]
fn discordant_samples() {
    for (b, c, exact, mid, chi2, chi2_p) in [
        (0, 1, 1.0, 0.5, 0.0, 1.0),
        (1, 7, 0.0703125, 0.0390625, 3.125, 0.07709987174354202),
        (5, 5, 1.0, 0.876953125, 0.1, 0.7518296340458492),
        (
            12,
            30,
            0.007915897334896727,
            0.005401572654591291,
            6.880952380952381,
            0.008711912962379598,
        ),
        (0, 6, 0.03125, 0.015625, 4.166666666666667, 0.041226833337163815),
        (3, 4, 1.0, 0.7265625, 0.0, 1.0),
        (
            40,
            22,
            0.030015864349067285,
            0.022574972673257192,
            4.661290322580645,
            0.030849999436874987,
        ),
    ] {
        let test = mcnemar(b, c);
        assert_close(test.exact_p, exact, MAX_ERR_SUM);
        assert_close(test.mid_p, mid, MAX_ERR_SUM);
        // 5 and 5 are no further apart than by chance: the correction stops at 0, statsmodels squares −1.
        let chi2 = if b == c { (0.0, 1.0) } else { (chi2, chi2_p) };
        assert_close(test.chi2.unwrap(), chi2.0, MAX_ERR_SUM);
        assert_close(test.chi2_p.unwrap(), chi2.1, MAX_ERR_SUM);
    }
    let none = mcnemar(0, 0);
    assert_eq!((none.exact_p, none.mid_p, none.chi2, none.p()), (1.0, 1.0, None, (1.0, "exact")));
    assert_eq!(mcnemar(12, 30).p().1, "mid-p");
}

/// The score test inverted with `scipy.optimize.brentq`, its nuisance parameter by numerical maximisation of the likelihood.
/// The first row is the example of Fagerland, Lydersen and Laake (2014): −0.517 to −0.026.
#[test]
fn paired_shares() {
    /// What the numerical maximisation leaves.
    const MAX_ERR_SCORE: f64 = 1e-6;
    for (b, c, n, confidence, low, high) in [
        (1, 7, 21, 0.95, -0.5172322772717038, -0.02600303220904926),
        (4, 6, 400, 0.95, -0.02363866289993632, 0.012385186060020432),
        (0, 0, 400, 0.95, -0.009512294683852068, 0.00951229433452052),
        (30, 12, 150, 0.99, 0.009261121320129566, 0.23252066635015398),
    ] {
        let interval = tango(b, c, n, confidence).unwrap();
        assert_close(interval.low, low, MAX_ERR_SCORE);
        assert_close(interval.high, high, MAX_ERR_SCORE);
    }
    assert_eq!(tango(0, 0, 0, 0.95), None);
}

const ERRORS: [f32; 20] = [
    0.1, 0.5, 0.3, 1.2, 0.2, 0.05, 2.5, 0.4, 0.15, 0.35, 0.6, 0.22, 0.9, 0.01, 0.45, 0.33, 0.75,
    0.27, 0.18, 3.1,
];
const POSITIVES: [f32; 10] = [0.9, 0.8, 0.35, 0.7, 0.95, 0.6, 0.4, 0.85, 0.55, 0.5];
const NEGATIVES: [f32; 12] = [0.1, 0.3, 0.45, 0.2, 0.65, 0.15, 0.25, 0.05, 0.52, 0.38, 0.12, 0.42];

fn ranked() -> Ranked {
    let scores = [&POSITIVES[..], &NEGATIVES[..]].concat();
    let labels: Vec<bool> = (0..22).map(|i| i < 10).collect();
    Ranked::new(&scores, &labels).unwrap()
}

/// `scipy.stats.bootstrap(method='BCa')` with 400 000 resamples (AUC: 100 000, two samples).
#[test]
fn bootstrap_intervals() {
    /// Quantiles of 20 000 resamples move by about 1 % of the interval's width from seed to seed; four times that.
    const MAX_ERR_DRAWN: f64 = 0.04;
    let errors = Regressed::new(&ERRORS, &[0.0; 20], 1).unwrap();
    let ranked = ranked();
    struct Case<'s> {
        statistic: &'s dyn Statistic,
        metric: usize,
        confidence: f64,
        low: f64,
        high: f64,
    }
    for c in [
        Case { statistic: &errors, metric: 1, confidence: 0.95, low: 0.3765, high: 1.1375 },
        Case { statistic: &errors, metric: 0, confidence: 0.9, low: 0.587355, high: 1.549931 },
        Case { statistic: &ranked, metric: 0, confidence: 0.95, low: 0.675, high: 0.975 },
    ] {
        let options = Bootstrap { confidence: c.confidence, resamples: 20_000, seed: 1 };
        let interval = intervals(c.statistic, &options)[c.metric].unwrap();
        assert_eq!(interval.method, IntervalMethod::Bca);
        let tolerance = MAX_ERR_DRAWN * (c.high - c.low);
        assert_close(interval.low, c.low, tolerance);
        assert_close(interval.high, c.high, tolerance);
    }
    // R² of a constant target is undefined, and so is its interval.
    assert_eq!(intervals(&errors, &Bootstrap::default())[2], None);
    // No resample of a perfect ranking is less than perfect: that says nothing about the population.
    let perfect = Ranked::new(&[1.0, 2.0, 3.0, 4.0], &[false, false, true, true]).unwrap();
    assert_eq!(intervals(&perfect, &Bootstrap::default()), [None; 3]);
    let none = Bootstrap { resamples: 0, ..Bootstrap::default() };
    assert_eq!(intervals(&errors, &none)[1], None);
}

#[test]
fn resampling_depends_on_the_seed_alone() {
    let (a, b) = (ranked(), ranked());
    let seed = |seed| Bootstrap { resamples: 200, seed, ..Bootstrap::default() };
    assert_eq!(intervals(&a, &seed(5)), intervals(&b, &seed(5)));
    assert_ne!(intervals(&a, &seed(5)), intervals(&b, &seed(6)));
}

/// With enough samples the percentile bootstrap of a mean is the normal interval.
#[test]
fn many_samples_take_percentiles() {
    let n = 4000;
    let errors: Vec<f32> = (0..n).map(|i| (i % 100) as f32 / 100.0).collect();
    let statistic = Regressed::new(&errors, &vec![0.0; n], 1).unwrap();
    let interval = intervals(&statistic, &Bootstrap::default())[1].unwrap();
    assert_eq!(interval.method, IntervalMethod::Percentile);
    // Mean 0.495, deviation of the uniform grid √((100² − 1)/12)/100.
    let half = 1.959964 * 0.2886607 / (n as f64).sqrt();
    /// Quantiles of 2000 resamples: a tenth of the half-width.
    const MAX_ERR: f64 = 0.1;
    assert_close(interval.low, 0.495 - half, MAX_ERR * half);
    assert_close(interval.high, 0.495 + half, MAX_ERR * half);
}

#[test]
fn differences_are_paired() {
    let exact: Vec<f32> = (0..60).map(|i| (i * 37 % 61) as f32).collect();
    let noisy = |scale: f32| -> Vec<f32> {
        exact.iter().enumerate().map(|(i, t)| t + scale * ((i % 7) as f32 - 3.0)).collect()
    };
    let of = |predictions: &[f32]| Regressed::new(predictions, &exact, 1).unwrap();
    let options = Bootstrap::default();
    // Twice the error: worse in every resample. p can't be less than 2 / (B + 1).
    let worse = &compare(&of(&noisy(2.0)), &of(&noisy(1.0)), &options).unwrap()[1];
    assert_eq!(worse.metric.name, "mae");
    assert_close(worse.difference, worse.model - worse.against, MAX_ERR_SUM);
    assert!(worse.interval.unwrap().low > 0.0, "{worse:?}");
    assert_close(worse.p.unwrap(), 2.0 / 2001.0, MAX_ERR_SUM);
    // The same model twice: no difference, and nothing to be unsure of.
    let same = &compare(&of(&noisy(1.0)), &of(&noisy(1.0)), &options).unwrap()[1];
    assert_eq!((same.difference, same.interval, same.p), (0.0, None, None));
    // Errors moved from some samples to others: as good.
    let mut moved = noisy(1.0);
    let errors: Vec<f32> = (0..60).map(|i| moved[i] - exact[i]).collect();
    for i in 0..60 {
        moved[i] = exact[i] + errors[59 - i];
    }
    let equal = &compare(&of(&moved), &of(&noisy(1.0)), &options).unwrap()[1];
    let interval = equal.interval.unwrap();
    assert!(interval.low < 0.0 && interval.high > 0.0 && equal.p.unwrap() > 0.5, "{equal:?}");
    assert!(compare(&of(&exact), &ranked(), &options).is_err());
}

const SCORES: [f32; 30] = [
    0.7, 0.2, 0.1, 0.2, 0.5, 0.3, 0.1, 0.3, 0.6, 0.5, 0.3, 0.2, 0.3, 0.4, 0.3, //
    0.2, 0.2, 0.6, 0.6, 0.3, 0.1, 0.1, 0.6, 0.3, 0.4, 0.4, 0.2, 0.25, 0.25, 0.5,
];

/// scikit-learn: `accuracy_score`, `balanced_accuracy_score`, `f1_score(average='macro')`, `roc_auc_score(multi_class='ovr')`,
/// `log_loss`, `brier_score_loss`; with two classes `roc_auc_score`, `average_precision_score`. ECE: numpy, bins by
/// `searchsorted(arange(1, 16) / 15, confidence)`.
#[test]
fn classes() {
    let three = Classified::new(&SCORES, &[0, 1, 2, 1, 1, 2, 0, 2, 0, 0], 3).unwrap();
    let names: Vec<&str> = three.metrics().iter().map(|metric| metric.name).collect();
    assert_eq!(
        names,
        ["accuracy", "balanced_accuracy", "macro_f1", "macro_roc_auc", "log_loss", "brier", "ece"]
    );
    let expected = [
        0.7,
        0.6944444444444443,
        0.6944444444444443,
        0.8392857142857143,
        0.8209120429316723,
        0.4895,
        0.25999999046325684,
    ];
    for (value, expected) in three.value().iter().zip(expected) {
        assert_close(*value, expected, MAX_ERR_F32);
    }
    let probabilities = three.probabilities().unwrap();
    let ones = [1; 10];
    assert_close(maximum_error(&probabilities.equal_width(&ones)), 0.5999999940395355, MAX_ERR_F32);
    let mass = probabilities.equal_mass(&ones);
    assert_eq!(mass.iter().map(|bin| bin.samples).sum::<u64>(), 10);
    assert_close(expected_error(&mass), 0.25999999046325684, MAX_ERR_F32);
    // Mean confidence 0.54 against an accuracy of 0.7.
    assert_close(overconfidence(&probabilities.equal_width(&ones)), 0.54 - 0.7, MAX_ERR_F32);

    let class_1 = [0.2, 0.9, 0.4, 0.6, 0.75, 0.1, 0.3, 0.55f32];
    let rows: Vec<f32> = class_1.iter().flat_map(|p| [1.0 - p, *p]).collect();
    let two = Classified::new(&rows, &[0, 1, 1, 0, 1, 0, 0, 1], 2).unwrap();
    let expected = [0.75, 0.75, 0.75, 0.875, 0.8875, 0.4385800079405382, 0.141875];
    for (value, expected) in two.value().iter().zip(expected) {
        assert_close(*value, expected, MAX_ERR_F32);
    }
    assert_eq!(two.right(), [true, true, false, false, true, true, true, true]);
    // Logits have no calibration.
    let logits = Classified::new(&[3.0, -1.0, 0.5, 2.0], &[0, 1], 2).unwrap();
    assert_eq!((logits.metrics().len(), logits.probabilities().is_none()), (5, true));
    assert_eq!(
        Classified::new(&SCORES, &[0, 1, 2, 1, 3, 2, 0, 2, 0, 0], 3).unwrap_err(),
        StatisticsError::Label { sample: 4, label: 3, classes: 3 }
    );
}

/// `scipy.special.softmax`.
#[test]
fn logits_become_probabilities() {
    let rows = softmax(&[1.0, 2.0, 3.0, 1000.0, 0.0, -1000.0], 3);
    let expected = [0.09003057, 0.24472847, 0.66524096, 1.0, 0.0, 0.0];
    for (p, expected) in rows.iter().zip(expected) {
        assert_close(f64::from(*p), expected, MAX_ERR_F32);
    }
}

/// scipy: `spearmanr`, `pearsonr` of the cosines, which numpy computed.
#[test]
fn pairs_and_matches() {
    let vectors = [
        1.0, 0.0, 1.0, 0.1, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 0.0, -1.0, 0.5, 0.3, 0.7,
        0.2, 0.9,
    ];
    let scores = [3.0, 3.0, 2.0, 2.0, 5.0, 5.0, 0.5, 0.5, 4.0, 4.0];
    let pairs = Pairs::new(&vectors, &scores, 2).unwrap();
    for (value, expected) in pairs.value().iter().zip([0.6, 0.783037927239391]) {
        assert_close(*value, expected, MAX_ERR_F32);
    }
    assert_eq!(
        Pairs::new(&vectors[..6], &scores[..3], 2).unwrap_err(),
        StatisticsError::OddPairs { samples: 3 }
    );
    assert_eq!(
        Pairs::new(&vectors[..8], &[1.0, 1.0, 2.0, 3.0], 2).unwrap_err(),
        StatisticsError::PairLabels { first: 2 }
    );
    let matched = Matched::new(&[1.0, 0.0, 0.0, 0.0], &[1.0, 0.0, 1.0, 1.0], 2).unwrap();
    assert_eq!((matched.value(), matched.cosines()[1].is_nan()), (vec![1.0], true));
    assert_close(similarity::spearman(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0]), 0.5, MAX_ERR_SUM);
}

/// By hand, from the sorted scores: positives .9 .8 .7 .4, negatives .75 .5 .3 .3 .2.
#[test]
fn thresholds() {
    let scores = [0.9, 0.8, 0.7, 0.4, 0.75, 0.5, 0.3, 0.3, 0.2];
    let positive: Vec<bool> = (0..9).map(|i| i < 4).collect();
    let ranking = Ranking::new(&scores, &positive);
    let ones = ranking.ones();
    for (rule, threshold, counts) in [
        // From .4 up: precision 4/6, recall 1, F1 0.8; from .7 up 3/4, 3/4, 0.75.
        (Rule::F1, 0.4, [4, 2, 3, 0]),
        // .4: 1 − 2/5 = 0.6; .7: 3/4 − 1/5 = 0.55; .8: 0.5.
        (Rule::Youden, 0.4, [4, 2, 3, 0]),
        (Rule::FalsePositiveRate(0.0), 0.8, [2, 0, 5, 2]),
        (Rule::FalsePositiveRate(0.2), 0.7, [3, 1, 4, 1]),
        (Rule::FalsePositiveRate(0.39), 0.7, [3, 1, 4, 1]),
        (Rule::FalsePositiveRate(1.0), 0.2, [4, 5, 0, 0]),
        (Rule::Recall(0.5), 0.8, [2, 0, 5, 2]),
        (Rule::Recall(0.51), 0.7, [3, 1, 4, 1]),
        (Rule::Recall(1.0), 0.4, [4, 2, 3, 0]),
        (Rule::Fixed(0.6), 0.6, [3, 1, 4, 1]),
    ] {
        let chosen = rule.choose(&ranking, &ones).unwrap();
        let d = Decisions::new(&scores, &positive, chosen);
        let got = [d.true_positives, d.false_positives, d.true_negatives, d.false_negatives];
        assert_eq!((chosen, got), (threshold, counts), "{rule:?}");
    }
    // No positives: only rules about negatives have an answer. A negative on top: nothing may alarm.
    let normal = Ranking::new(&[0.1, 0.2], &[false, false]);
    assert_eq!(Rule::F1.choose(&normal, &[1, 1]), None);
    assert_eq!(Rule::Youden.choose(&normal, &[1, 1]), None);
    assert_eq!(Rule::Recall(0.5).choose(&normal, &[1, 1]), None);
    assert_eq!(Rule::FalsePositiveRate(0.0).choose(&normal, &[1, 1]), Some(0.2f32.next_up()));
    let strata: Vec<u32> = positive.iter().map(|p| u32::from(*p)).collect();
    let interval = Rule::F1.interval(&ranking, &strata, &Bootstrap::default()).unwrap();
    assert!((interval.low..=interval.high).contains(&f64::from(0.4f32)), "{interval:?}");
}

/// scipy: `beta.ppf([.025, .975], k + 1, n - k)`.
#[test]
fn thresholds_from_normal_data() {
    /// statrs finds quantiles to this.
    const MAX_ERR_QUANTILE: f64 = 1e-7;
    for (n, rate, above, expected, low, high) in [
        (99, 0.01, 0, 0.01, 0.00025570, 0.03657574),
        (98, 0.0405, 3, 4.0 / 99.0, 0.01123132, 0.08686301),
        (999, 0.01, 9, 0.01, 0.00481033, 0.01703275),
    ] {
        let scores: Vec<f32> = (0..n).map(|i| (i * 7919 % n) as f32).collect();
        let chosen = from_normal(&scores, rate, 0.95).unwrap();
        assert_eq!(
            (chosen.above, chosen.threshold),
            (above, (n as f32 - 1.0 - above as f32).next_up())
        );
        assert_close(chosen.expected_rate, expected, MAX_ERR_SUM);
        assert_close(chosen.rate.low, low, MAX_ERR_QUANTILE);
        assert_close(chosen.rate.high, high, MAX_ERR_QUANTILE);
    }
    assert_eq!(from_normal(&[0.0; 98], 0.01, 0.95), Err(1.0 / 99.0));
}

//! How sure metrics are: intervals, folds, and the comparison with another model.

use serde::Serialize;
use serde_json::{Map, Value, json};
use whit_convert::statistics::folds::{Folds, Spread};
use whit_convert::statistics::{
    Bootstrap, Difference, Interval, IntervalMethod, Metric, Statistic, StatisticsError, compare,
    folds, intervals,
};

use super::defined;

/// Interval of every metric of one model.
pub(crate) struct Uncertainty {
    pub(crate) metrics: Vec<(Metric, f64, Option<Interval>)>,
}

/// Metrics over folds.
pub(crate) struct FoldScores {
    pub(crate) folds: Folds,
    pub(crate) metrics: Vec<(Metric, Option<Spread>)>,
}

/// A model beside another one.
pub(crate) struct Comparison {
    pub(crate) differences: Vec<Difference>,
    pub(crate) verdict: Option<Verdict>,
}

/// What a comparison comes to, by its first metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    /// The metric it is about.
    pub(crate) metric: &'static str,
    pub(crate) outcome: Outcome,
    /// The same as a sentence.
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The interval of the difference holds 0.
    NotMeasurablyDifferent,
    MeasurablyBetter,
    MeasurablyWorse,
    /// Every resample gives the same difference, so that there is no interval.
    NoInterval,
}

/// The interval of each metric, and how it came to be.
pub(crate) fn uncertainty(statistic: &dyn Statistic, options: &Bootstrap) -> Uncertainty {
    let values = statistic.metrics().iter().zip(statistic.value());
    let intervals = intervals(statistic, options);
    Uncertainty {
        metrics: values.zip(intervals).map(|((metric, value), i)| (*metric, value, i)).collect(),
    }
}

impl Uncertainty {
    /// The interval of a metric.
    pub(crate) fn of(&self, name: &str) -> Option<Interval> {
        self.metrics.iter().find(|(metric, ..)| metric.name == name)?.2
    }

    pub(crate) fn json(&self, options: &Bootstrap) -> Value {
        let metrics: Map<String, Value> = (self.metrics.iter())
            .map(|(metric, value, interval)| {
                let mut object = json!({ "value": defined(*value) });
                put_interval(&mut object, *interval);
                (metric.name.to_owned(), object)
            })
            .collect();
        json!({
            "confidence": options.confidence,
            "resamples": options.resamples,
            "seed": options.seed,
            "metrics": metrics,
        })
    }
}

/// Adds `low`, `high` and `method`, `null` without an interval.
pub(crate) fn put_interval(object: &mut Value, interval: Option<Interval>) {
    object["low"] = json!(interval.map(|i| i.low));
    object["high"] = json!(interval.map(|i| i.high));
    object["method"] = json!(interval.map(|i| i.method.name()));
}

/// The metrics on each of `count` folds.
pub(crate) fn fold_scores(
    statistic: &dyn Statistic,
    count: usize,
    seed: u64,
) -> Result<FoldScores, StatisticsError> {
    let folds = folds::evaluate(statistic, count, seed)?;
    let metrics = statistic.metrics().iter().enumerate();
    let metrics = metrics.map(|(index, metric)| (*metric, folds.spread(index))).collect();
    Ok(FoldScores { folds, metrics })
}

impl FoldScores {
    pub(crate) fn json(&self, seed: u64) -> Value {
        let metrics: Map<String, Value> = (self.metrics.iter().enumerate())
            .map(|(index, (metric, spread))| {
                let values: Vec<Option<f64>> =
                    self.folds.values.iter().map(|fold| defined(fold[index])).collect();
                let object = json!({
                    "mean": spread.map(|s| s.mean),
                    "standard_deviation": spread.and_then(|s| defined(s.deviation)),
                    "min": spread.map(|s| s.min),
                    "max": spread.map(|s| s.max),
                    "values": values,
                });
                (metric.name.to_owned(), object)
            })
            .collect();
        json!({ "count": self.folds.sizes.len(), "seed": seed, "sizes": self.folds.sizes, "metrics": metrics })
    }
}

/// Compares a model with another one; `names` are theirs.
pub(crate) fn comparison(
    model: &dyn Statistic,
    against: &dyn Statistic,
    names: [&str; 2],
    options: &Bootstrap,
) -> Result<Comparison, StatisticsError> {
    let differences = compare(model, against, options)?;
    let verdict = differences.first().map(|d| verdict(d, names, model.samples(), options));
    Ok(Comparison { differences, verdict })
}

impl Comparison {
    pub(crate) fn json(&self) -> Value {
        let metrics: Map<String, Value> = (self.differences.iter())
            .map(|d| {
                let mut object = json!({
                    "model": defined(d.model),
                    "against": defined(d.against),
                    "difference": defined(d.difference),
                });
                put_interval(&mut object, d.interval);
                object["p"] = json!(d.p);
                object["test"] = json!(d.p.map(|_| d.test));
                (d.metric.name.to_owned(), object)
            })
            .collect();
        let mcnemar = self.differences.iter().find_map(|d| d.mcnemar.as_ref()).map(|test| {
            json!({
                "only_model_right": test.only_model,
                "only_against_right": test.only_against,
                "exact_p": test.exact_p,
                "mid_p": test.mid_p,
                "chi2": test.chi2,
                "chi2_p": test.chi2_p,
            })
        });
        json!({ "metrics": metrics, "mcnemar": mcnemar, "verdict": self.verdict })
    }
}

/// A value of a metric: shares in percent.
pub(crate) fn value_text(metric: &Metric, value: f64) -> String {
    match defined(value) {
        None => crate::report::UNDEFINED.to_owned(),
        Some(value) if metric.is_share => format!("{:.2} %", 100.0 * value),
        Some(value) => crate::report::significant(value),
    }
}

/// `low … high` in the metric's unit.
pub(crate) fn interval_text(metric: &Metric, interval: Option<Interval>) -> String {
    match interval {
        None => crate::report::UNDEFINED.to_owned(),
        Some(i) if metric.is_share => format!("{:.2} … {:.2} %", 100.0 * i.low, 100.0 * i.high),
        Some(i) => {
            format!(
                "{} … {}",
                crate::report::significant(i.low),
                crate::report::significant(i.high)
            )
        }
    }
}

/// A difference with its sign, shares in percentage points.
pub(crate) fn difference_text(metric: &Metric, difference: f64) -> String {
    let (value, decimals, unit) = if metric.is_share {
        (100.0 * difference, 2, " points")
    } else {
        (difference, crate::report::decimals_of(difference), "")
    };
    let text = format!("{:.decimals$}{unit}", value.abs());
    let is_zero = !text.contains(|c: char| ('1'..='9').contains(&c));
    match value {
        v if v.is_nan() => crate::report::UNDEFINED.to_owned(),
        _ if is_zero => text,
        v if v < 0.0 => format!("−{text}"),
        _ => format!("+{text}"),
    }
}

pub(crate) fn difference_interval_text(metric: &Metric, interval: Option<Interval>) -> String {
    interval.map_or_else(
        || crate::report::UNDEFINED.to_owned(),
        |i| {
            let low = difference_text(metric, i.low);
            let low = low.strip_suffix(" points").unwrap_or(&low);
            format!("{low} … {}", difference_text(metric, i.high))
        },
    )
}

/// `0.73`, `< 0.001`.
pub(crate) fn p_text(p: Option<f64>) -> String {
    match p {
        None => crate::report::UNDEFINED.to_owned(),
        Some(p) if p < 0.001 => "< 0.001".to_owned(),
        Some(p) if p < 0.1 => format!("{p:.3}"),
        Some(p) => format!("{p:.2}"),
    }
}

fn verdict(
    d: &Difference,
    [model, against]: [&str; 2],
    samples: usize,
    options: &Bootstrap,
) -> Verdict {
    let metric = &d.metric;
    let values = format!(
        "{} {} against {}",
        metric.title,
        value_text(metric, d.model),
        value_text(metric, d.against)
    );
    let level = crate::report::percent_short(options.confidence);
    let (outcome, text) = match d.interval {
        None if d.difference == 0.0 => (
            Outcome::NoInterval,
            format!("{model} and {against} can't be told apart: {values} in every resample"),
        ),
        None => (
            Outcome::NoInterval,
            format!(
                "{values}: the difference has no interval, because resamples don't define it or all agree; it takes \
                 more samples, or samples of every class"
            ),
        ),
        Some(interval) => {
            let difference = format!(
                "{values}, difference {} ({level} interval {}, p = {})",
                difference_text(metric, d.difference),
                difference_interval_text(metric, d.interval),
                p_text(d.p)
            )
            .replace("= <", "<");
            // As a gain: above 0 is better.
            let (low, high) = if metric.higher_is_better {
                (interval.low, interval.high)
            } else {
                (-interval.high, -interval.low)
            };
            if low > 0.0 {
                (
                    Outcome::MeasurablyBetter,
                    format!("{model} is measurably better than {against}: {difference}"),
                )
            } else if high < 0.0 {
                (
                    Outcome::MeasurablyWorse,
                    format!("{model} is measurably worse than {against}: {difference}"),
                )
            } else {
                let loss = difference_text(metric, -low);
                let loss = loss.strip_prefix('+').unwrap_or(&loss);
                (
                    Outcome::NotMeasurablyDifferent,
                    format!(
                        "{model} is not measurably worse than {against}: {difference}; these {samples} samples can't rule \
                         out a loss of up to {loss}"
                    ),
                )
            }
        }
    };
    Verdict { metric: metric.name, outcome, text }
}

/// What the intervals of a report are, for people.
pub(crate) fn methods_text(intervals: &[Option<Interval>], options: &Bootstrap) -> Option<String> {
    let has = |method| intervals.iter().flatten().any(|i| i.method == method);
    let mut parts = Vec::new();
    if has(IntervalMethod::Wilson) {
        parts.push("Wilson for shares".to_owned());
    }
    if has(IntervalMethod::Tango) {
        parts.push("Tango for differences of shares".to_owned());
    }
    for (method, name) in [(IntervalMethod::Bca, "BCa"), (IntervalMethod::Percentile, "percentile")]
    {
        if has(method) {
            parts.push(format!(
                "{name} bootstrap, {} resamples, seed {}",
                options.resamples, options.seed
            ));
        }
    }
    (!parts.is_empty()).then(|| {
        format!(
            "{} intervals: {}",
            crate::report::percent_short(options.confidence),
            parts.join("; ")
        )
    })
}

#[cfg(test)]
mod tests {
    use whit_convert::statistics::{Classified, Regressed};

    use super::*;

    fn classified(right: &[bool]) -> Classified {
        let scores: Vec<f32> =
            right.iter().flat_map(|r| if *r { [1.0, 0.0] } else { [0.0, 1.0] }).collect();
        Classified::new(&scores, &vec![0; right.len()], 2).unwrap()
    }

    /// Outcomes follow the interval: Tango's of 12 against 30 discordant of 150 is −0.2 … −0.04, of 4 against 6 of 400 holds 0.
    #[test]
    fn verdicts() {
        struct Case {
            samples: usize,
            only_model: usize,
            only_against: usize,
            outcome: Outcome,
            parts: &'static [&'static str],
        }
        for c in [
            Case {
                samples: 400,
                only_model: 4,
                only_against: 6,
                outcome: Outcome::NotMeasurablyDifferent,
                parts: &[
                    "a.whit is not measurably worse than b.whit",
                    "accuracy 98.50 % against 99.00 %, difference −0.50 points",
                    "(95 % interval −2.36 … +1.24 points, p = 0.75)",
                    "these 400 samples can't rule out a loss of up to 2.36 points",
                ],
            },
            Case {
                samples: 150,
                only_model: 12,
                only_against: 30,
                outcome: Outcome::MeasurablyWorse,
                parts: &["a.whit is measurably worse than b.whit", "−12.00 points", "p = 0.005"],
            },
            Case {
                samples: 150,
                only_model: 30,
                only_against: 1,
                outcome: Outcome::MeasurablyBetter,
                parts: &["a.whit is measurably better than b.whit", "p < 0.001"],
            },
            Case {
                samples: 50,
                only_model: 0,
                only_against: 0,
                outcome: Outcome::NotMeasurablyDifferent,
                parts: &["difference 0.00 points", "−7.13 … +7.13 points, p = 1.00"],
            },
        ] {
            let wrong = |from: usize, count: usize| -> Vec<bool> {
                (0..c.samples).map(|i| !(from..from + count).contains(&i)).collect()
            };
            let (a, b) = (wrong(0, c.only_against), wrong(c.only_against, c.only_model));
            let comparison = comparison(
                &classified(&a),
                &classified(&b),
                ["a.whit", "b.whit"],
                &Bootstrap::default(),
            )
            .unwrap();
            let verdict = comparison.verdict.unwrap();
            assert_eq!(verdict.outcome, c.outcome, "{}", verdict.text);
            for part in c.parts {
                assert!(verdict.text.contains(part), "{}", verdict.text);
            }
        }
    }

    /// For errors, less is better.
    #[test]
    fn a_larger_error_is_worse() {
        let targets: Vec<f32> = (0..50).map(|i| i as f32).collect();
        let off = |by: f32| -> Vec<f32> {
            targets.iter().enumerate().map(|(i, t)| t + by * (1.0 + (i % 5) as f32)).collect()
        };
        let of = |by| Regressed::new(&off(by), &targets, 1).unwrap();
        let options = Bootstrap::default();
        let verdict =
            |a, b| comparison(&of(a), &of(b), ["a", "b"], &options).unwrap().verdict.unwrap();
        assert_eq!(verdict(2.0, 1.0).outcome, Outcome::MeasurablyWorse);
        assert_eq!(verdict(1.0, 2.0).outcome, Outcome::MeasurablyBetter);
        let same = verdict(1.0, 1.0);
        assert_eq!(same.outcome, Outcome::NoInterval);
        assert!(same.text.starts_with("a and b can't be told apart: RMSE 3.317"), "{}", same.text);
    }
}

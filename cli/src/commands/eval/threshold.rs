//! The threshold that is asked for: parsed, chosen, told.

use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};
use whit_convert::statistics::threshold::{NormalThreshold, Rule, from_normal};
use whit_convert::statistics::{Bootstrap, Ranked};

use super::judge::{Judged, Scored};
use crate::metrics::{Operation, operation};
use crate::report;

#[derive(Args, Clone, Debug, Default)]
#[group(multiple = false)]
pub(super) struct ThresholdArgs {
    /// For two classes or anomalies: the threshold with the best F1, with the best Youden's J, or this number
    #[arg(long, value_name = "f1|youden|NUMBER", value_parser = parse_rule, allow_hyphen_values = true)]
    threshold: Option<Named>,
    /// The lowest threshold whose false-positive rate is at most this, such as 1%
    #[arg(long, value_name = "RATE", value_parser = parse_share)]
    threshold_fpr: Option<f64>,
    /// The highest threshold whose recall is at least this, such as 95%
    #[arg(long, value_name = "RATE", value_parser = parse_share)]
    threshold_recall: Option<f64>,
    /// A threshold from normal data alone: this share of new normal samples stays below it, such as 99%
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    threshold_quantile: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Named(Rule);

fn parse_rule(text: &str) -> Result<Named, String> {
    match (text, text.parse::<f32>()) {
        ("f1", _) => Ok(Named(Rule::F1)),
        ("youden", _) => Ok(Named(Rule::Youden)),
        (_, Ok(number)) if number.is_finite() => Ok(Named(Rule::Fixed(number))),
        _ => Err("write f1, youden, or a number".to_owned()),
    }
}

/// A share strictly between 0 and 1, in percent with a sign or as a fraction; 0 and 1 themselves with `--threshold-fpr 0` and
/// `--threshold-recall 1`.
fn parse_share(text: &str) -> Result<f64, String> {
    let hint = "write a percentage such as 1% or a fraction such as 0.01";
    let (number, unit) = match text.trim().strip_suffix('%') {
        Some(percent) => (percent.trim(), 100.0),
        None => (text.trim(), 1.0),
    };
    let share = number.parse::<f64>().map_err(|_| hint.to_owned())? / unit;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(hint.to_owned()) }
}

/// The confidence of intervals: 95, 95% or 0.95.
pub(super) fn parse_confidence(text: &str) -> Result<f64, String> {
    let number: f64 = text
        .trim()
        .trim_end_matches('%')
        .trim()
        .parse()
        .map_err(|_| format!("`{text}` is not a number"))?;
    // Rounded, so that 99.9 becomes the double nearest to 0.999.
    let share =
        if number >= 1.0 || text.contains('%') { (number * 1e8).round() / 1e10 } else { number };
    if (0.5..1.0).contains(&share) {
        Ok(share)
    } else {
        Err("between 50 and 100 percent, such as 95".to_owned())
    }
}

/// A threshold, from labels or from normal data.
pub(super) enum Chosen {
    Labelled(Operation),
    Normal { wanted: f64, samples: usize, found: NormalThreshold, confidence: f64 },
}

impl ThresholdArgs {
    fn rule(&self) -> Option<(Rule, String)> {
        let of_share = |share| report::percent_short(share);
        if let Some(Named(rule)) = self.threshold {
            let words = match rule {
                Rule::F1 => "best F1".to_owned(),
                Rule::Youden => "best Youden's J".to_owned(),
                _ => "given".to_owned(),
            };
            return Some((rule, words));
        }
        if let Some(rate) = self.threshold_fpr {
            let words = format!("false-positive rate at most {}", of_share(rate));
            return Some((Rule::FalsePositiveRate(rate), words));
        }
        let recall = self.threshold_recall?;
        Some((Rule::Recall(recall), format!("recall at least {}", of_share(recall))))
    }

    /// Chooses what was asked for; `None` if nothing was.
    pub(super) fn choose(&self, judged: &Judged, options: &Bootstrap) -> Result<Option<Chosen>> {
        if let Some(share) = self.threshold_quantile {
            let scores: Vec<f32> = match &judged.scored {
                Scored::Unlabelled { scores } => scores.clone(),
                // With labels, the normal samples among them.
                Scored::Ranked { scores, labels, .. } => scores
                    .iter()
                    .zip(labels)
                    .filter(|(_, anomaly)| !**anomaly)
                    .map(|(s, _)| *s)
                    .collect(),
                _ => bail!("--threshold-quantile is for --task anomaly"),
            };
            let samples = scores.len();
            let found = from_normal(&scores, 1.0 - share, options.confidence).map_err(|lowest| {
                anyhow!(
                    "--threshold-quantile {}: {samples} normal samples can't promise that; they allow {} at most, and {} \
                     would be enough",
                    report::percent_short(share),
                    report::percent_short(((1.0 - lowest) * 1e4).floor() / 1e4),
                    // n with 1 / (n + 1) no more than the rate; none is enough for a rate of 0.
                    if share < 1.0 {
                        format!("{:.0}", (1.0 / (1.0 - share) - 1.0 - 1e-9).ceil())
                    } else {
                        "no number of them".to_owned()
                    }
                )
            })?;
            return Ok(Some(Chosen::Normal {
                wanted: share,
                samples,
                found,
                confidence: options.confidence,
            }));
        }
        let Some((rule, words)) = self.rule() else { return Ok(None) };
        let (scores, labels) = match &judged.scored {
            Scored::Ranked { scores, labels, .. } => (scores.clone(), labels.clone()),
            Scored::Classified { classified, scores } if classified.classes() == 2 => {
                let labels = whit_convert::statistics::Statistic::strata(classified);
                (
                    scores.iter().skip(1).step_by(2).copied().collect(),
                    labels.iter().map(|l| *l == 1).collect(),
                )
            }
            Scored::Classified { classified, .. } => bail!(
                "a threshold divides two classes; this model has {}, and answers with the highest score",
                classified.classes()
            ),
            Scored::Unlabelled { .. } => bail!(
                "the data has no labels, and a threshold by {words} needs them (an array `labels`: 0 normal, 1 anomaly). From \
                 normal data alone there is --threshold-quantile 99%"
            ),
            _ => bail!("thresholds are for --task anomaly, and classify with two classes"),
        };
        let ranked = Ranked::new(&scores, &labels)?;
        let Some(operation) = operation(rule, &words, &ranked, &scores, &labels, options) else {
            let (has, lacks) = if labels.iter().any(|l| *l) { ("1", "0") } else { ("0", "1") };
            bail!(
                "every label is {has}, and a threshold by {words} needs samples with label {lacks}, too{}",
                if has == "0" {
                    "; from normal data alone there is --threshold-quantile 99%"
                } else {
                    ""
                }
            )
        };
        Ok(Some(Chosen::Labelled(operation)))
    }
}

impl Chosen {
    pub(super) fn json(&self) -> Value {
        match self {
            Chosen::Labelled(operation) => operation.json(),
            Chosen::Normal { wanted, samples, found, .. } => json!({
                "rule": format!("{} of normal samples below", report::percent_short(*wanted)),
                "threshold": found.threshold,
                "normal_samples": samples,
                "normal_samples_above": found.above,
                "false_positive_rate": {
                    "value": found.expected_rate,
                    "low": found.rate.low,
                    "high": found.rate.high,
                    "method": found.rate.method.name(),
                },
            }),
        }
    }

    pub(super) fn threshold(&self) -> f32 {
        match self {
            Chosen::Labelled(operation) => operation.threshold,
            Chosen::Normal { found, .. } => found.threshold,
        }
    }

    pub(super) fn text(&self, options: &Bootstrap) -> String {
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        match self {
            Chosen::Normal { wanted, samples, found, confidence } => report::fields(&[
                ("threshold", found.threshold.to_string()),
                (
                    "chosen by",
                    format!("{} of normal samples below", report::percent_short(*wanted)),
                ),
                ("normal samples", format!("{samples}, {} of them at or above it", found.above)),
                (
                    "false alarms",
                    format!(
                        "{} expected of new normal samples ({} interval {} … {})",
                        percent(found.expected_rate),
                        report::percent_short(*confidence),
                        percent(found.rate.low),
                        percent(found.rate.high)
                    ),
                ),
            ]),
            Chosen::Labelled(operation) => {
                let level = format!("{} interval", report::percent_short(options.confidence));
                let value = operation.threshold.to_string();
                let moved = operation.interval.map(|i| {
                    format!(
                        " ({level} {} … {})",
                        report::significant(i.low),
                        report::significant(i.high)
                    )
                });
                let d = &operation.decisions;
                let head = report::fields(&[
                    ("threshold", format!("{value}{}", moved.unwrap_or_default())),
                    ("chosen by", operation.rule.clone()),
                    ("F1", report::score(operation.f1, 3)),
                ]);
                let right = report::Align::Right;
                let left = report::Align::Left;
                let rows: Vec<Vec<String>> = (operation.rates.iter())
                    .map(|(_, title, hits, of, interval)| {
                        let share = (*of > 0).then(|| percent(*hits as f64 / *of as f64));
                        vec![
                            (*title).to_owned(),
                            share.unwrap_or_else(|| report::UNDEFINED.to_owned()),
                            interval.map_or_else(
                                || report::UNDEFINED.to_owned(),
                                |i| format!("{:.2} … {:.2} %", 100.0 * i.low, 100.0 * i.high),
                            ),
                            format!("{hits} of {of}"),
                        ]
                    })
                    .collect();
                let rates = report::table(
                    &[("", left), ("value", right), (level.as_str(), right), ("samples", right)],
                    &rows,
                );
                let row = |name: &str, below: u64, above: u64| {
                    vec![name.to_owned(), below.to_string(), above.to_string()]
                };
                let confusion = report::table(
                    &[("label \\ decided", left), ("below", right), ("at or above", right)],
                    &[
                        row("0", d.true_negatives, d.false_positives),
                        row("1", d.false_negatives, d.true_positives),
                    ],
                );
                format!("{head}\n\n{rates}\n\n{confusion}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_confidences() {
        for (text, share) in [
            ("1%", Some(0.01)),
            ("0.01", Some(0.01)),
            ("99.5 %", Some(0.995)),
            ("0", Some(0.0)),
            ("1", Some(1.0)),
            ("5", None),
            ("101%", None),
            ("-1%", None),
            ("NaN", None),
            ("x", None),
        ] {
            assert_eq!(parse_share(text).ok(), share, "{text}");
        }
        for (text, share) in [
            ("95", Some(0.95)),
            ("95%", Some(0.95)),
            ("0.9", Some(0.9)),
            ("99.9", Some(0.999)),
            ("100", None),
            ("1", None),
            ("0.2", None),
            ("NaN", None),
        ] {
            assert_eq!(parse_confidence(text).ok(), share, "{text}");
        }
        assert!(matches!(parse_rule("0.5"), Ok(Named(Rule::Fixed(0.5)))));
        assert!(parse_rule("inf").is_err() && parse_rule("best").is_err());
    }
}

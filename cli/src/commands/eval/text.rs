//! What `whit eval` prints for people.

use whit_convert::statistics::Interval;

use super::Findings;
use super::judge::{Judged, Quality, Scored};
use crate::metrics::{self, Classification};
use crate::report::{self, Align, score};

/// Confusions that are listed beside the matrix.
const SHOWN_CONFUSIONS: usize = 5;

const LEFT: Align = Align::Left;
const RIGHT: Align = Align::Right;

/// Says what the data or the outputs don't allow.
pub(super) fn note_missing(judged: &Judged, notes: &mut Vec<String>) {
    match (&judged.quality, &judged.scored) {
        (Quality::Classification(c), Scored::Classified { classified, scores }) => {
            if c.calibration.is_none() {
                let logits = scores.iter().any(|s| !(0.0..=1.0).contains(s));
                notes.push(format!(
                    "the scores are no probabilities{}: log-loss and calibration are left out",
                    if logits {
                        " (with --logits they become some)"
                    } else {
                        ", as rows don't sum to 1"
                    }
                ));
            }
            let present = c.per_class.iter().filter(|class| class.support > 0).count();
            if present == 1 {
                notes.push("all labels are of one class: there is no AUC, and other classes can't be judged".to_owned());
            } else if present < c.classes {
                notes.push(format!(
                    "{} of {} classes have no samples",
                    c.classes - present,
                    c.classes
                ));
            }
            if scores.chunks_exact(c.classes).all(|row| row == &scores[..c.classes])
                && c.samples > 1
            {
                notes.push(
                    "every sample gets the same scores: the model doesn't see the data (scaling of the inputs?)".to_owned(),
                );
            }
            if classified.rankings().is_empty() {
                notes.push("too many scores for an interval of the AUC".to_owned());
            }
        }
        (Quality::Anomaly(a), _) => {
            match a.anomalies {
                None => notes.push(
                    "the data has no labels: AUC, F1 and intervals need them (an array `labels`: 0 normal, 1 anomaly). Without, \
                     --threshold-quantile 99% chooses a threshold if all samples are normal"
                        .to_owned(),
                ),
                Some(0) => notes.push(
                    "no sample is labelled 1, an anomaly: there is no AUC and no recall; --threshold-quantile 99% chooses a \
                     threshold from the normal ones"
                        .to_owned(),
                ),
                Some(n) if n == a.samples => notes.push(
                    "every sample is labelled 1, an anomaly: AUC and false alarms need normal ones, with label 0".to_owned(),
                ),
                Some(_) => {}
            }
            if a.score_min == a.score_max && a.samples > 1 {
                notes
                    .push("every sample has the same score: no threshold can part them".to_owned());
            }
        }
        (Quality::Regression(r), _) if r.overall.r2.is_none() => {
            notes.push(
                "a target is the same in all samples: R² and rank correlation aren't defined"
                    .to_owned(),
            );
        }
        (Quality::Embedding(e), _) if e.undefined > 0 => {
            notes.push(format!(
                "{} samples have a vector of zeros, which has no direction",
                e.undefined
            ));
        }
        _ => {}
    }
}

/// The whole report.
pub(super) fn findings(f: &Findings) -> String {
    let mut parts = vec![headline(f)];
    if let Some(folds) = &f.folds {
        parts.push(fold_table(folds));
    }
    if let Quality::Classification(c) = &f.judged.quality {
        parts.extend(class_tables(c, f.names.as_deref()));
    }
    if let Some(threshold) = &f.threshold {
        parts.push(threshold.text(&f.bootstrap));
    }
    if let Some(against) = &f.against {
        let agreement = &against.agreement;
        let mut fields = vec![
            ("largest difference", format!("{:.3e}", agreement.max_abs_difference)),
            ("mean difference", format!("{:.3e}", agreement.mean_abs_difference)),
            ("largest, over range", format!("{:.3e}", agreement.max_relative_to_range)),
        ];
        if let Some(same) = agreement.same_label {
            fields.insert(0, ("same label", report::percent(same)));
        }
        parts.push(format!("outputs beside {}\n{}", against.name, report::fields(&fields)));
        let comparison = against.comparison.as_ref();
        if let Some(test) =
            comparison.and_then(|c| c.differences.iter().find_map(|d| d.mcnemar.as_ref()))
        {
            parts.push(report::fields(&[
                (&format!("only {} right", f.name), test.only_model.to_string()),
                (&format!("only {} right", against.name), test.only_against.to_string()),
                ("McNemar, exact", format!("p = {}", metrics::p_text(Some(test.exact_p)))),
                ("McNemar, mid-p", format!("p = {}", metrics::p_text(Some(test.mid_p)))),
            ]));
        }
    }
    parts.extend(f.notes.iter().map(|note| format!("note: {note}")));
    if let Some(verdict) =
        f.against.as_ref().and_then(|a| a.comparison.as_ref()).and_then(|c| c.verdict.as_ref())
    {
        parts.push(format!("{}.", verdict.text));
    }
    parts.join("\n\n")
}

/// Values with their intervals, beside those of another model; then what has no interval.
fn headline(f: &Findings) -> String {
    let mut parts = Vec::new();
    if let Some(uncertainty) = &f.uncertainty {
        let level = format!("{} interval", report::percent_short(f.bootstrap.confidence));
        let comparison =
            f.against.as_ref().and_then(|against| Some((against, against.comparison.as_ref()?)));
        let mut header = vec![("", LEFT), ("model", RIGHT), (level.as_str(), RIGHT)];
        if comparison.is_some() {
            header.extend([
                ("against", RIGHT),
                ("difference", RIGHT),
                (level.as_str(), RIGHT),
                ("p", RIGHT),
            ]);
        }
        let mut intervals: Vec<Option<Interval>> = Vec::new();
        let rows: Vec<Vec<String>> = (uncertainty.metrics.iter())
            .map(|(metric, value, interval)| {
                intervals.push(*interval);
                let mut row = vec![
                    metric.title.to_owned(),
                    metrics::value_text(metric, *value),
                    metrics::interval_text(metric, *interval),
                ];
                if let Some((_, comparison)) = comparison {
                    match comparison.differences.iter().find(|d| d.metric == *metric) {
                        Some(d) => {
                            intervals.push(d.interval);
                            row.extend([
                                metrics::value_text(metric, d.against),
                                metrics::difference_text(metric, d.difference),
                                metrics::difference_interval_text(metric, d.interval),
                                metrics::p_text(d.p),
                            ]);
                        }
                        None => row.extend(std::iter::repeat_n(report::UNDEFINED.to_owned(), 4)),
                    }
                }
                row
            })
            .collect();
        if let Some((against, _)) = comparison {
            parts.push(format!("model {}, against {}", f.name, against.name));
        }
        parts.push(report::table(&header, &rows));
        parts.extend(metrics::methods_text(&intervals, &f.bootstrap));
    }
    parts.push(report::fields(&more(&f.judged.quality)));
    parts.join("\n\n")
}

/// The numbers that have no interval.
fn more(quality: &Quality) -> Vec<(&'static str, String)> {
    let three = |value: Option<f64>| score(value, 3);
    match quality {
        Quality::Classification(c) => {
            let mut fields =
                vec![("samples", c.samples.to_string()), ("classes", c.classes.to_string())];
            if c.top5_accuracy.is_some() {
                fields.push(("top-5 accuracy", report::percent(c.top5_accuracy)));
            }
            fields.extend([
                ("precision, macro", three(c.macro_average.precision)),
                ("recall, macro", three(c.macro_average.recall)),
                ("F1, weighted", three(c.weighted.f1)),
            ]);
            if let Some(calibration) = &c.calibration {
                fields.extend([
                    ("calibration error, bins of equal mass", score(calibration.ece_equal_mass, 4)),
                    ("calibration error, largest", score(calibration.mce, 4)),
                    ("confidence − accuracy", score(calibration.overconfidence, 4)),
                ]);
            }
            fields
        }
        Quality::Regression(r) => vec![
            ("samples", r.samples.to_string()),
            ("largest error", report::significant(r.overall.max_error)),
        ],
        Quality::Anomaly(a) => {
            let mut fields = vec![
                ("samples", a.samples.to_string()),
                ("score, lowest", report::significant(f64::from(a.score_min))),
                ("score, median", report::significant(f64::from(a.score_median))),
                ("score, highest", report::significant(f64::from(a.score_max))),
            ];
            if let Some(anomalies) = a.anomalies {
                fields.insert(1, ("anomalies", anomalies.to_string()));
                fields.push(("best F1", three(a.best_f1.as_ref().map(|point| point.f1))));
            }
            fields
        }
        Quality::Embedding(e) => vec![
            ("samples", e.samples.to_string()),
            ("dimensions", e.dimensions.to_string()),
            ("cosine, lowest", score(e.cosine_min, 6)),
            (
                "at sample",
                e.worst_sample.map_or_else(|| report::UNDEFINED.to_owned(), |s| s.to_string()),
            ),
        ],
        Quality::Pairs(p) => {
            vec![("pairs", p.pairs.to_string()), ("dimensions", p.dimensions.to_string())]
        }
    }
}

fn fold_table(folds: &metrics::FoldScores) -> String {
    let sizes = &folds.folds.sizes;
    let (least, most) = (sizes.iter().min().unwrap_or(&0), sizes.iter().max().unwrap_or(&0));
    let of = if least == most { least.to_string() } else { format!("{least} to {most}") };
    let header =
        [("", LEFT), ("mean", RIGHT), ("std. dev.", RIGHT), ("lowest", RIGHT), ("highest", RIGHT)];
    let rows: Vec<Vec<String>> = (folds.metrics.iter())
        .map(|(metric, spread)| {
            let text = |value: Option<f64>| metrics::value_text(metric, value.unwrap_or(f64::NAN));
            vec![
                metric.title.to_owned(),
                text(spread.map(|s| s.mean)),
                text(spread.map(|s| s.deviation)),
                text(spread.map(|s| s.min)),
                text(spread.map(|s| s.max)),
            ]
        })
        .collect();
    format!("{} stratified folds of {of} samples\n{}", sizes.len(), report::table(&header, &rows))
}

fn class_tables(c: &Classification, names: Option<&[String]>) -> Vec<String> {
    let name = |class: usize| {
        names.and_then(|names| names.get(class)).cloned().unwrap_or_else(|| class.to_string())
    };
    let header = [
        ("class", LEFT),
        ("precision", RIGHT),
        ("recall", RIGHT),
        ("F1", RIGHT),
        ("ROC-AUC", RIGHT),
        ("samples", RIGHT),
    ];
    let per_class: Vec<Vec<String>> = (c.per_class.iter())
        .map(|class| {
            vec![
                name(class.class),
                score(class.precision, 3),
                score(class.recall, 3),
                score(class.f1, 3),
                score(class.roc_auc, 3),
                class.support.to_string(),
            ]
        })
        .collect();
    let mut parts =
        vec![report::table(&header, &per_class), report::confusion(&c.confusion, names)];
    // With two classes the matrix says it all; beyond 20 it is this list already.
    if (3..=20).contains(&c.classes) && !c.top_confusions.is_empty() {
        let rows: Vec<Vec<String>> = (c.top_confusions.iter().take(SHOWN_CONFUSIONS))
            .map(|confusion| {
                vec![
                    name(confusion.label),
                    name(confusion.predicted),
                    confusion.samples.to_string(),
                    report::percent(confusion.share_of_label),
                ]
            })
            .collect();
        let header =
            [("label", LEFT), ("called", LEFT), ("samples", RIGHT), ("of the label's", RIGHT)];
        parts.push(format!("most frequent confusions\n{}", report::table(&header, &rows)));
    }
    if let Some(calibration) = &c.calibration {
        let rows: Vec<Vec<String>> = (calibration.bins.iter())
            .filter(|bin| bin.samples > 0)
            .map(|bin| {
                let gap = bin.confidence.zip(bin.accuracy).map(|(c, a)| a - c);
                vec![
                    format!("{:.3} … {:.3}", bin.from, bin.to),
                    bin.samples.to_string(),
                    score(bin.confidence, 3),
                    score(bin.accuracy, 3),
                    gap.map_or_else(
                        || report::UNDEFINED.to_owned(),
                        |gap| format!("{gap:+.3}").replace('-', "−"),
                    ),
                ]
            })
            .collect();
        let header = [
            ("confidence", LEFT),
            ("samples", RIGHT),
            ("mean confidence", RIGHT),
            ("accuracy", RIGHT),
            ("gap", RIGHT),
        ];
        parts.push(format!("reliability\n{}", report::table(&header, &rows)));
    }
    parts
}

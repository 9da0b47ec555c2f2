//! Which plots an evaluation has, and their content.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use whit_convert::statistics::{Classified, Interval, Ranking, Statistic};

use super::Findings;
use super::judge::{Judged, Quality, Scored};
use super::threshold::Chosen;
use crate::metrics::Classification;
use crate::plots::{self, Curve, Group, PlotFormat, save};
use crate::report;

/// Classes of which a curve is named: those with the lowest area.
const NAMED_CURVES: usize = 3;

/// Writes the plots that a task has; their paths.
pub(super) fn write(f: &Findings, folder: &Path, format: PlotFormat) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut written = Vec::new();
    let mut put = |name: &str, svg: String| -> Result<()> {
        written.extend(save(folder, name, &svg, format)?);
        Ok(())
    };
    let (name, threshold) = (&f.name, f.threshold.as_ref().map(|t| f64::from(t.threshold())));
    match (&f.judged.quality, &f.judged.scored) {
        (Quality::Classification(c), Scored::Classified { classified, scores }) => {
            let class_names = class_names(c, f.names.as_deref());
            let samples = c.samples;
            put(
                "confusion",
                plots::confusion(
                    &format!("Confusion matrix of {name}, {samples} samples"),
                    &c.confusion,
                    &class_names,
                )?,
            )?;
            let (roc, precision) = class_curves(f, c, classified, &class_names);
            if !roc.is_empty() {
                let mean = |title: &str, area: Option<f64>| {
                    (classified.rankings().len() > 1).then(|| {
                        format!("mean of {} classes: {title} {}", roc.len(), report::score(area, 3))
                    })
                };
                let average = mean_precision(classified, &roc_classes(classified));
                put(
                    "roc",
                    plots::roc(
                        &format!("ROC of {name}, {samples} samples"),
                        &roc,
                        mean("AUC", c.macro_roc_auc).as_deref(),
                    )?,
                )?;
                put(
                    "precision-recall",
                    plots::precision_recall(
                        &format!("Precision and recall of {name}, {samples} samples"),
                        &precision,
                        mean("AP", average).as_deref(),
                    )?,
                )?;
            }
            if let Some(calibration) = &c.calibration {
                let mut models = vec![(name.as_str(), calibration)];
                if let Some(against) = &f.against
                    && let Some(Quality::Classification(other)) =
                        against.judged.as_ref().map(|j| &j.quality)
                    && let Some(other) = &other.calibration
                {
                    models.push((&against.name, other));
                }
                put(
                    "reliability",
                    plots::reliability(
                        &format!("Reliability of {name}, {samples} samples"),
                        &models,
                        f.bootstrap.confidence,
                    )?,
                )?;
            }
            let (axis, groups) = if c.classes == 2 {
                let of = |class: u32| -> Vec<f64> {
                    let of_class = scores.iter().skip(1).step_by(2).zip(classified.strata());
                    of_class.filter(|(_, l)| **l == class).map(|(s, _)| f64::from(*s)).collect()
                };
                let group = |class: usize| Group {
                    name: called(f, &class_names, class),
                    scores: of(class as u32),
                };
                (format!("score of {}", called(f, &class_names, 1)), vec![group(0), group(1)])
            } else {
                let highest = scores
                    .chunks_exact(c.classes)
                    .map(|row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                let (right, wrong): (Vec<_>, Vec<_>) =
                    highest.zip(classified.right()).partition(|(_, right)| *right);
                let group = |name: &str, of: Vec<(f32, bool)>| Group {
                    name: name.to_owned(),
                    scores: of.into_iter().map(|(score, _)| f64::from(score)).collect(),
                };
                let groups = vec![group("right answers", right), group("wrong answers", wrong)];
                ("highest score".to_owned(), groups)
            };
            let title = format!("Scores of {name}, {samples} samples");
            put("scores", plots::histogram(&title, &axis, &groups, threshold)?)?;
        }
        (Quality::Anomaly(a), scored) => {
            let title = format!("Anomaly scores of {name}, {} samples", a.samples);
            let all = a.scores.iter().map(|score| f64::from(*score));
            let groups = match scored {
                Scored::Ranked { labels, .. } => {
                    let of = |anomaly: bool| -> Vec<f64> {
                        all.clone()
                            .zip(labels)
                            .filter(|(_, l)| **l == anomaly)
                            .map(|(s, _)| s)
                            .collect()
                    };
                    vec![
                        Group { name: "normal".to_owned(), scores: of(false) },
                        Group { name: "anomalies".to_owned(), scores: of(true) },
                    ]
                }
                _ => vec![Group { name: "unlabelled".to_owned(), scores: all.collect() }],
            };
            put("scores", plots::histogram(&title, "anomaly score", &groups, threshold)?)?;
            if let (Scored::Ranked { ranked, .. }, Some(_)) = (scored, a.roc_auc) {
                let curves = |metric: &str, short: &str| -> Vec<Curve<'_>> {
                    let other = f.against.as_ref().and_then(|against| {
                        match against.judged.as_ref().map(|judged| &judged.scored) {
                            Some(Scored::Ranked { ranked, .. }) => {
                                Some((ranked.ranking(), against.name.clone()))
                            }
                            _ => None,
                        }
                    });
                    pair_of_curves(f, ranked.ranking(), other, metric, short)
                };
                let title = |what: &str| format!("{what} of {name}, {} samples", a.samples);
                put("roc", plots::roc(&title("ROC"), &curves("roc_auc", "AUC"), None)?)?;
                let svg = plots::precision_recall(
                    &title("Precision and recall"),
                    &curves("average_precision", "AP"),
                    None,
                )?;
                put("precision-recall", svg)?;
            }
        }
        (_, Scored::Regressed { predictions, targets, .. }) => {
            let reals =
                |values: &[f32]| -> Vec<f64> { values.iter().map(|v| f64::from(*v)).collect() };
            let title = format!("Predictions of {name}, {} values", targets.len());
            let (targets, predictions) = (reals(targets), reals(predictions));
            put(
                "predictions",
                plots::scatter(&title, ("target", &targets), ("prediction", &predictions), true)?,
            )?;
        }
        (_, Scored::Matched(matched)) => {
            let scores = matched.cosines().iter().copied().filter(|c| !c.is_nan()).collect();
            let groups = [Group { name: "samples".to_owned(), scores }];
            let title = format!("Cosines of {name} and its reference");
            put("scores", plots::histogram(&title, "cosine", &groups, None)?)?;
        }
        (_, Scored::Pairs(pairs)) => {
            let title = format!("Pairs as {name} sees them, {} pairs", pairs.cosines().len());
            let svg = plots::scatter(
                &title,
                ("label", pairs.scores()),
                ("cosine", pairs.cosines()),
                false,
            )?;
            put("pairs", svg)?;
        }
        _ => {}
    }
    Ok(written)
}

fn class_names(c: &Classification, names: Option<&[String]>) -> Vec<String> {
    let name = |class: usize| names.and_then(|names| names.get(class)).cloned();
    (0..c.classes).map(|class| name(class).unwrap_or_else(|| class.to_string())).collect()
}

/// A class in running text: numbers want a word in front.
fn called(f: &Findings, names: &[String], class: usize) -> String {
    if f.names.is_some() { names[class].clone() } else { format!("class {class}") }
}

/// Classes with samples of their own and of others, so that they have curves.
fn roc_classes(classified: &Classified) -> Vec<usize> {
    let rankings = classified.rankings().iter().enumerate();
    rankings.filter(|(_, r)| !r.roc_auc(&r.ones()).is_nan()).map(|(class, _)| class).collect()
}

fn mean_precision(classified: &Classified, classes: &[usize]) -> Option<f64> {
    let of = |class: &usize| {
        let ranking = &classified.rankings()[*class];
        ranking.average_precision(&ranking.ones())
    };
    (!classes.is_empty()).then(|| classes.iter().map(of).sum::<f64>() / classes.len() as f64)
}

/// ROC curves and curves of precision: one with two classes, else one for each class, the worst ones named.
fn class_curves<'f>(
    f: &'f Findings,
    c: &Classification,
    classified: &'f Classified,
    names: &[String],
) -> (Vec<Curve<'f>>, Vec<Curve<'f>>) {
    let classes = roc_classes(classified);
    if c.classes == 2 {
        let Some(ranking) = classes.first().map(|class| &classified.rankings()[*class]) else {
            return (Vec::new(), Vec::new());
        };
        let other = || {
            let against = f.against.as_ref()?;
            let Some(Judged { scored: Scored::Classified { classified, .. }, .. }) =
                &against.judged
            else {
                return None;
            };
            Some((classified.rankings().first()?, against.name.clone()))
        };
        return (
            pair_of_curves(f, ranking, other(), "binary_roc_auc", "AUC"),
            pair_of_curves(f, ranking, other(), "average_precision", "AP"),
        );
    }
    let curves = |short: &str, area: fn(&Ranking) -> f64| -> Vec<Curve<'f>> {
        let mut by_area: Vec<(usize, f64)> =
            classes.iter().map(|class| (*class, area(&classified.rankings()[*class]))).collect();
        by_area.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        let curve = |(place, (class, area)): (usize, &(usize, f64))| Curve {
            ranking: &classified.rankings()[*class],
            name: called(f, names, *class),
            area: format!("{short} {area:.3}"),
            faint: place >= NAMED_CURVES,
            chosen: None,
        };
        by_area.iter().enumerate().map(curve).collect()
    };
    (
        curves("AUC", |ranking| ranking.roc_auc(&ranking.ones())),
        curves("AP", |ranking| ranking.average_precision(&ranking.ones())),
    )
}

/// The model's curve and the other one's, with areas and the threshold chosen.
fn pair_of_curves<'f>(
    f: &'f Findings,
    ranking: &'f Ranking,
    other: Option<(&'f Ranking, String)>,
    metric: &str,
    short: &str,
) -> Vec<Curve<'f>> {
    let area = |ranking: &Ranking, interval: Option<Interval>| {
        let ones = ranking.ones();
        let value =
            if short == "AP" { ranking.average_precision(&ones) } else { ranking.roc_auc(&ones) };
        let interval = interval.map(|i| format!(" [{:.3}, {:.3}]", i.low, i.high));
        format!("{short} {value:.3}{}", interval.unwrap_or_default())
    };
    let chosen = match &f.threshold {
        Some(Chosen::Labelled(operation)) => operation.place(),
        _ => None,
    };
    let own = f.uncertainty.as_ref().and_then(|u| u.of(metric));
    let mut curves = vec![Curve {
        ranking,
        name: f.name.clone(),
        area: area(ranking, own),
        faint: false,
        chosen,
    }];
    if let Some((ranking, name)) = other {
        curves.push(Curve { ranking, name, area: area(ranking, None), faint: false, chosen: None });
    }
    curves
}

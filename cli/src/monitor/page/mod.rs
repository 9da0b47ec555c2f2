//! The page of a report: one HTML file that needs nothing else.

mod charts;

use anyhow::Result;
use serde_json::{Value, json};
use whit::metrics::counters::{Event, Group};
use whit::metrics::histogram;

use self::charts::{Axis, Series};
use super::counts::Counts;
use super::findings::findings;
use super::reading::Read;
use super::sketch::{self, Figures};
use super::statistics::{self, Bounded, Share};
use super::summary::{ALARMS, Summary, duration, instant};
use super::text::{alarm_row, columns, interval_text};
use crate::report;
use crate::report_html::render_page;

const PAGE: &str = include_str!("page.html");
/// Columns of plots over time.
const COLUMNS: usize = 120;
/// Rows of tables and heat maps.
const ROWS: usize = 40;
/// Classes that are told apart over time.
const CLASSES: usize = 9;
/// Classes that a confusion matrix is shown for.
const MATRIX: usize = 24;

/// The page.
pub(crate) fn page(summaries: &[Summary<'_>], read: &Read, live: bool) -> Result<String> {
    let runs = summaries
        .iter()
        .map(|summary| summary.fleet.totals.event(Event::Runs))
        .fold(0, u64::saturating_add);
    let devices: usize = summaries.iter().map(|summary| summary.fleet.devices.len()).sum();
    let context = json!({
        "title": "What the devices saw",
        "subtitle": format!(
            "{runs} runs on {devices} {}, {} records in {} {}, {}",
            if devices == 1 { "device" } else { "devices" },
            read.remarks.records,
            read.logs,
            if read.logs == 1 { "log" } else { "logs" },
            report::bytes(read.remarks.bytes)
        ),
        "live": live,
        "remarks": read.sentences(),
        "fleets": summaries.iter().map(fleet).collect::<Vec<_>>(),
        "footer": concat!("whit ", env!("CARGO_PKG_VERSION")),
    });
    render_page(PAGE, context)
}

fn tile(value: String, label: &str) -> Value {
    json!({ "value": value, "label": label })
}

fn fleet(summary: &Summary<'_>) -> Value {
    let fleet = summary.fleet;
    let totals = &fleet.totals;
    let timeline = fleet.timeline.in_slots(COLUMNS);
    let columns = columns(&timeline);
    let labels: Vec<String> = columns
        .iter()
        .map(|column| column.map_or(String::new(), |(start_s, _)| instant(start_s)))
        .collect();
    let axis = Axis { labels: &labels };
    let over_time = columns.iter().flatten().count() > 1;
    let start_s = totals.start_s.min(totals.end_s);
    let findings: Vec<Value> = findings(summary)
        .iter()
        .map(|f| json!({ "weight": f.weight.name(), "title": f.title, "text": f.text }))
        .collect();
    json!({
        "name": summary.named.map_or_else(|| format!("model {}", summary.model()), |named| named.file.clone()),
        "subtitle": format!(
            "model {}, {} to {} ({}), {} periods",
            summary.model(),
            instant(start_s),
            instant(totals.end_s),
            duration(totals.end_s - start_s),
            totals.periods
        ),
        "tiles": tiles(summary),
        "findings": findings,
        "activity": if over_time { activity(&axis, &columns) } else { Value::Null },
        "latency": latency(summary, &axis, &columns, over_time),
        "classes": classes(summary, &axis, &columns, over_time),
        "confidence": confidence(summary, &axis, &columns, over_time),
        "quantiles": quantiles(summary),
        "quality": quality(summary, &axis, &columns, over_time),
        "drift": drift(summary, &axis, &columns, over_time),
        "saturation": saturation(summary),
        "alarms": alarms(summary, &axis, &columns, over_time),
        "devices": devices(summary),
    })
}

type Columns<'c> = [Option<(u64, &'c Counts)>];

fn values(columns: &Columns<'_>, value: &dyn Fn(&Counts) -> Option<f64>) -> Vec<Option<f64>> {
    columns.iter().map(|column| column.and_then(|(_, counts)| value(counts))).collect()
}

fn count_text(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.1} M", value / 1e6)
    } else if value >= 1e4 {
        format!("{:.0} k", value / 1e3)
    } else {
        format!("{}", (value * 100.0).round() / 100.0)
    }
}

fn percent_text(value: f64) -> String {
    report::percent(value)
}

fn tiles(summary: &Summary<'_>) -> Vec<Value> {
    let totals = &summary.fleet.totals;
    let mut tiles = vec![
        tile(count_text(totals.event(Event::Runs) as f64), "runs"),
        tile(summary.fleet.devices.len().to_string(), "devices"),
        tile(
            report::percent(summary.of_runs(Event::Errors).map(|share| share.value)),
            "of runs failed",
        ),
    ];
    if let Some(latency) = &summary.latency {
        tiles.push(tile(report::micros(latency.p50.value), "latency, median"));
        tiles.push(tile(report::micros(latency.p99.value), "99 % are faster than"));
    }
    if summary.fleet.header.deadline_us != u32::MAX {
        let share = summary.of_runs(Event::DeadlineMisses).map(|share| share.value);
        tiles.push(tile(report::percent(share), "missed the deadline"));
    }
    if let Some(confidence) = summary.confidence {
        tiles.push(tile(report::percent(confidence.value), "mean confidence"));
    }
    if let Some(quality) = &summary.classification {
        tiles.push(tile(report::percent(quality.accuracy.value), "accuracy on labels"));
    } else if let Some(estimate) = summary.estimated_accuracy {
        tiles.push(tile(report::percent(estimate), "accuracy, estimated"));
    }
    if let Some(regression) = summary.regression {
        tiles.push(tile(report::significant(regression.mae), "mean absolute error"));
    }
    if let Some(share) = Share::new(totals.event(Event::InputDrifts), totals.event(Event::Windows))
    {
        tiles.push(tile(report::percent(share.value), "of windows drifted"));
    }
    tiles
}

fn activity(axis: &Axis<'_>, columns: &Columns<'_>) -> Value {
    let series = |name, class, event| Series {
        name,
        class,
        values: values(columns, &|counts| Some(counts.event(event) as f64)),
    };
    let mut plots = vec![charts::lines(
        "Runs over time",
        axis,
        &[series("runs", "a", Event::Runs)],
        None,
        &count_text,
    )];
    let trouble =
        [series("errors", "b", Event::Errors), series("late", "c", Event::DeadlineMisses)];
    if trouble.iter().any(|s| s.values.iter().flatten().any(|value| *value > 0.0)) {
        plots.push(charts::lines("Errors and late runs", axis, &trouble, None, &count_text));
    }
    json!(plots)
}

fn bounds(bounded: Bounded, text: &dyn Fn(f64) -> String) -> String {
    format!("{} ({} to {})", text(bounded.value), text(bounded.low), text(bounded.high))
}

fn latency(
    summary: &Summary<'_>,
    axis: &Axis<'_>,
    columns: &Columns<'_>,
    over_time: bool,
) -> Value {
    let Some(latency) = &summary.latency else { return Value::Null };
    let buckets = summary.fleet.totals.group(Group::Latency);
    let first = buckets.iter().position(|count| *count > 0).unwrap_or(0);
    let last = buckets.iter().rposition(|count| *count > 0).unwrap_or(0);
    let micros = |us: f64| report::micros(us);
    let bars: Vec<(String, String, u64)> = buckets[first..=last]
        .iter()
        .enumerate()
        .map(|(at, count)| {
            let (low, high) = histogram::range(first + at);
            let low = micros(f64::from(low));
            let tip = format!("{low} to {}: {count} runs", micros(f64::from(high) + 1.0));
            (low, tip, *count)
        })
        .collect();
    let at = |bounded: Bounded| {
        histogram::bucket(bounded.value as u32).saturating_sub(first).min(last - first)
    };
    let marks: Vec<(usize, String)> = [(latency.p50, "p50"), (latency.p99, "p99")]
        .map(|(b, name)| (at(b), name.to_owned()))
        .into();
    let quantile = |name, of: &dyn Fn(&statistics::Latency) -> f64, class| Series {
        name,
        class,
        values: values(columns, &|counts| statistics::latency(counts).map(|latency| of(&latency))),
    };
    let series = [
        quantile("p50", &|latency| latency.p50.value, "a"),
        quantile("p99", &|latency| latency.p99.value, "b"),
        quantile("max", &|latency| f64::from(latency.max), "c"),
    ];
    let deadline = summary.fleet.header.deadline_us;
    let mark = (deadline != u32::MAX).then_some((f64::from(deadline), "deadline"));
    json!({
        "histogram": charts::bars("Runs by latency", &bars, &marks),
        "rows": [
            ["median", bounds(latency.p50, &micros)],
            ["90 % of runs take at most", bounds(latency.p90, &micros)],
            ["99 % of runs take at most", bounds(latency.p99, &micros)],
            ["mean", bounds(latency.mean, &micros)],
            ["longest", micros(f64::from(latency.max))],
            ["deadline", if deadline == u32::MAX { "none".to_owned() } else { micros(f64::from(deadline)) }],
        ],
        "time": over_time.then(|| charts::lines("Latency over time", axis, &series, mark, &micros)),
    })
}

fn classes(
    summary: &Summary<'_>,
    axis: &Axis<'_>,
    columns: &Columns<'_>,
    over_time: bool,
) -> Value {
    let shares = summary.classes();
    if shares.is_empty() {
        return Value::Null;
    }
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|class| (std::cmp::Reverse(shares[*class].hits), *class));
    // The most frequent ones in the order of their numbers, then all others together.
    let mut shown: Vec<usize> = order.iter().copied().take(CLASSES).collect();
    shown.sort_unstable();
    let others = shares.len() > shown.len();
    let mut names: Vec<String> = shown.iter().map(|class| format!("class {class}")).collect();
    let share_of = |counts: &Counts, classes: &[usize]| {
        let all = statistics::total(counts.group(Group::Classes));
        let part = classes.iter().map(|class| counts.get(Group::Classes, *class)).sum::<u64>();
        (all > 0).then(|| part as f64 / all as f64)
    };
    let mut parts: Vec<Vec<Option<f64>>> =
        shown.iter().map(|class| values(columns, &|counts| share_of(counts, &[*class]))).collect();
    if others {
        let rest: Vec<usize> = order.iter().copied().skip(CLASSES).collect();
        parts.push(values(columns, &|counts| share_of(counts, &rest)));
        names.push("others".to_owned());
    }
    let quality = summary.classification.as_ref();
    let rows: Vec<Value> = order
        .iter()
        .take(ROWS)
        .map(|class| {
            let share = shares[*class];
            let quality = quality.map(|quality| quality.classes[*class]);
            json!({
                "class": class,
                "color": shown.iter().position(|shown| shown == class).unwrap_or(CLASSES),
                "runs": share.hits,
                "share": interval_text(share),
                "width": share.value * 100.0,
                "labelled": quality.map(|q| q.labelled),
                "precision": quality.map(|q| report::score(q.precision, 3)),
                "recall": quality.map(|q| report::score(q.recall, 3)),
                "f1": quality.map(|q| report::score(q.f1, 3)),
            })
        })
        .collect();
    json!({
        "rows": rows,
        "more": shares.len().saturating_sub(ROWS),
        "labelled": quality.is_some(),
        "time": over_time.then(|| charts::stacked("Predicted classes over time", axis, &names, &parts)),
    })
}

fn confidence(
    summary: &Summary<'_>,
    axis: &Axis<'_>,
    columns: &Columns<'_>,
    over_time: bool,
) -> Value {
    let Some(mean) = summary.confidence else { return Value::Null };
    let edges = statistics::confidence_edges();
    let counts = summary.fleet.totals.group(Group::Confidence);
    let bars: Vec<(String, String, u64)> = counts
        .iter()
        .zip(edges.windows(2))
        .map(|(count, ends)| {
            let (from, to) = (report::percent(ends[0]), report::percent(ends[1]));
            (format!("{:.0} %", ends[0] * 100.0), format!("{from} to {to}: {count} runs"), *count)
        })
        .collect();
    let mut series = vec![Series {
        name: "mean confidence",
        class: "a",
        values: values(columns, &|counts| {
            statistics::mean_confidence(counts).map(|mean| mean.value)
        }),
    }];
    if let Some(calibrated) = &summary.calibrated {
        series.push(Series {
            name: "estimated accuracy",
            class: "b",
            values: values(columns, &|counts| statistics::estimated_accuracy(counts, calibrated)),
        });
    }
    json!({
        "histogram": charts::bars("Runs by confidence", &bars, &[]),
        "mean": bounds(mean, &percent_text),
        "entropy": summary.entropy.map(|entropy| bounds(entropy, &|value| format!("{value:.3}"))),
        "estimate": summary.estimated_accuracy.map(percent_text),
        "time": over_time.then(|| {
            charts::lines("Confidence over time", axis, &series, None, &percent_text)
        }),
    })
}

fn quantiles(summary: &Summary<'_>) -> Value {
    let rows: Vec<_> = summary.sketches.iter().map(Figures::cells).collect();
    if rows.is_empty() { Value::Null } else { json!({ "columns": sketch::COLUMNS, "rows": rows }) }
}

fn quality(
    summary: &Summary<'_>,
    axis: &Axis<'_>,
    columns: &Columns<'_>,
    over_time: bool,
) -> Value {
    let mut rows: Vec<[String; 2]> = Vec::new();
    let mut row = |name: &str, value: String| rows.push([name.to_owned(), value]);
    let totals = &summary.fleet.totals;
    if totals.event(Event::Labels) > 0 {
        row("labels that met their run", totals.event(Event::Labels).to_string());
        row(
            "runs that were forgotten before a label came",
            totals.event(Event::LabelsMissed).to_string(),
        );
    }
    let decimals = |value: f64| format!("{value:.3}");
    if let Some(quality) = &summary.classification {
        row("accuracy", interval_text(quality.accuracy));
        row(
            "recall, mean over classes (balanced accuracy)",
            report::score(quality.macro_recall, 3),
        );
        row("precision, mean over classes", report::score(quality.macro_precision, 3));
        row("F1, mean over classes", report::score(quality.macro_f1, 3));
        row("F1 over all runs (micro)", report::score(quality.micro_f1, 3));
    }
    if let Some(scored) = &summary.scored {
        if let Some(area) = scored.roc_auc {
            let name = if scored.binary {
                "ROC-AUC: a run of class 1 scores above one of class 0 with this probability"
            } else {
                "ROC-AUC: a right answer is surer than a wrong one with this probability"
            };
            row(name, bounds(area, &decimals));
        }
        row("log-loss", bounds(scored.log_loss, &decimals));
        row("calibration error", bounds(scored.calibration_error, &decimals));
        row("score less outcome, in the mean", bounds(scored.overconfidence, &decimals));
    }
    if let Some(regression) = summary.regression {
        row("labelled estimates", regression.labels.to_string());
        row("mean absolute error", report::significant(regression.mae));
        row("root of the mean squared error", report::significant(regression.rmse));
        row("mean error (estimate less label)", report::significant(regression.bias));
        row(
            "R²: share of the labels' variance that is explained",
            report::significant(regression.r2),
        );
    }
    if rows.is_empty() {
        return Value::Null;
    }
    let reliability = summary.scored.as_ref().map(|scored| {
        let group = totals.group(Group::Scored);
        let hits = &group[group.len() / 2..];
        let bins: Vec<([f64; 5], String)> = (scored.bins.iter().zip(hits))
            .filter_map(|(bin, hits)| {
                let share = Share::new(*hits, bin.samples)?;
                let (from, to) = (report::percent(bin.from), report::percent(bin.to));
                let text = interval_text(share);
                let tip =
                    format!("score {from} to {to}: {hits} of {} came true, {text}", bin.samples);
                Some(([bin.from, bin.to, share.value, share.low, share.high], tip))
            })
            .collect();
        charts::reliability("Scores and how often they came true", &bins)
    });
    let confusion =
        summary.classification.as_ref().filter(|q| q.confusion.len() <= MATRIX).map(|quality| {
            let shade = |row: &[u64], count: u64| {
                let all = statistics::total(row).max(1);
                (count as f64 / all as f64 * 100.0).round()
            };
            let rows: Vec<Vec<Value>> = quality
                .confusion
                .iter()
                .map(|row| row.iter().map(|n| json!({ "n": n, "shade": shade(row, *n) })).collect())
                .collect();
            json!(rows)
        });
    let accuracy = [Series {
        name: "accuracy",
        class: "a",
        values: values(columns, &|counts| {
            statistics::classification(counts).map(|quality| quality.accuracy.value)
        }),
    }];
    let error = [Series {
        name: "mean absolute error",
        class: "a",
        values: values(columns, &|counts| {
            statistics::regression(counts, &summary.fleet.header).map(|regression| regression.mae)
        }),
    }];
    let time = over_time.then(|| {
        if summary.classification.is_some() {
            Some(charts::lines("Accuracy over time", axis, &accuracy, None, &percent_text))
        } else if summary.regression.is_some() {
            Some(charts::lines(
                "Mean absolute error over time",
                axis,
                &error,
                None,
                &report::significant,
            ))
        } else {
            None
        }
    });
    json!({ "rows": rows, "reliability": reliability, "confusion": confusion, "time": time.flatten() })
}

fn drift(summary: &Summary<'_>, axis: &Axis<'_>, columns: &Columns<'_>, over_time: bool) -> Value {
    let totals = &summary.fleet.totals;
    let windows = totals.event(Event::Windows);
    if windows == 0 && summary.features.is_empty() {
        return Value::Null;
    }
    let share = |name, class, event| Series {
        name,
        class,
        values: values(columns, &|counts| {
            Share::new(counts.event(event), counts.event(Event::Windows)).map(|share| share.value)
        }),
    };
    let series = [
        share("inputs", "a", Event::InputDrifts),
        share("classes", "b", Event::ClassDrifts),
        share("confidence", "c", Event::ConfidenceDrifts),
    ];
    let shown: Vec<usize> = summary.features.iter().take(ROWS).map(|drift| drift.feature).collect();
    let names: Vec<String> = shown.iter().map(|feature| feature.to_string()).collect();
    let drifted: Vec<Vec<Option<f64>>> = shown
        .iter()
        .map(|feature| {
            values(columns, &|counts| {
                let windows = counts.event(Event::Windows);
                Share::new(counts.get(Group::Drifted, *feature), windows).map(|share| share.value)
            })
        })
        .collect();
    let distances: Vec<Vec<Option<f64>>> = shown
        .iter()
        .map(|feature| {
            columns
                .iter()
                .map(|column| {
                    let (start_s, counts) = (*column)?;
                    let reference = summary.reference.as_ref()?;
                    let distance = reference.distance(counts, *feature)?;
                    reference.compares(start_s).then_some(distance.js)
                })
                .collect()
        })
        .collect();
    let any = |values: &[Vec<Option<f64>>]| values.iter().flatten().any(|value| value.is_some());
    let most = distances.iter().flatten().flatten().copied().fold(0.0, f64::max);
    let rows: Vec<Value> = summary
        .features
        .iter()
        .take(ROWS)
        .map(|drift| {
            json!({
                "feature": drift.feature,
                "windows": drift.windows.map_or("–".to_owned(), |share| format!("{} of {}", share.hits, share.of)),
                "share": drift.windows.map(interval_text),
                "psi": report::score(drift.distance.map(|d| d.psi), 3),
                "js": report::score(drift.distance.map(|d| d.js), 3),
                "ks": report::score(drift.distance.map(|d| d.ks), 3),
            })
        })
        .collect();
    json!({
        "windows": windows,
        "logged": totals.get(Group::Windowed, 0),
        "runs": summary.fleet.header.window_runs,
        "reference": summary.reference.as_ref().map(super::summary::Reference::name),
        "false_alarms": summary.false_alarms.map(percent_text),
        "worst": totals.worst.map(|worst| format!(
            "{:.3} bits, feature {}", f64::from(worst.js_q16) / 65_536.0, worst.feature
        )),
        "rows": rows,
        "more": summary.features.len().saturating_sub(ROWS),
        "time": (over_time && windows > 0).then(|| {
            charts::lines("Windows that drifted, over time", axis, &series, None, &percent_text)
        }),
        "map": (over_time && any(&drifted)).then(|| {
            charts::heat("Features that drifted", axis, &names, &drifted, 1.0, &|v| {
                format!("drifted in {} of its windows", percent_text(v))
            })
        }),
        "distances": (over_time && any(&distances)).then(|| {
            charts::heat("Distance of features", axis, &names, &distances, most.max(0.05), &|v| {
                format!("{v:.3} bits")
            })
        }),
    })
}

fn saturation(summary: &Summary<'_>) -> Value {
    let runs = summary.fleet.totals.event(Event::Runs).max(1) as f64;
    let rows: Vec<Value> = summary
        .saturation
        .iter()
        .filter(|tensor| tensor.low > 0 || tensor.high > 0)
        .map(|tensor| {
            let per_run = |count: u64| report::significant(count as f64 / runs);
            let both = tensor.low.saturating_add(tensor.high) as f64;
            let share = summary.elements(tensor.tensor).map(|n| both / runs / n as f64);
            json!({
                "name": summary.tensor(tensor.tensor),
                "low": per_run(tensor.low),
                "high": per_run(tensor.high),
                "share": share.map_or("–".to_owned(), percent_text),
            })
        })
        .collect();
    if rows.is_empty() { Value::Null } else { json!(rows) }
}

fn alarms(summary: &Summary<'_>, axis: &Axis<'_>, columns: &Columns<'_>, over_time: bool) -> Value {
    let totals = &summary.fleet.totals;
    let counted: Vec<Value> = ALARMS
        .iter()
        .filter(|event| totals.event(**event) > 0)
        .map(|event| json!({ "name": event.name().replace('_', " "), "count": totals.event(*event) }))
        .collect();
    if counted.is_empty() && summary.fleet.alarms.is_empty() {
        return Value::Null;
    }
    let series = [Series {
        name: "alarms",
        class: "b",
        values: values(columns, &|counts| {
            Some(ALARMS.iter().map(|event| counts.event(*event) as f64).sum())
        }),
    }];
    let list: Vec<Vec<String>> =
        summary.fleet.alarms.iter().rev().take(100).map(alarm_row).collect();
    json!({
        "counted": counted,
        "dropped": totals.event(Event::AlarmsDropped),
        "list": list,
        "more": summary.fleet.alarm_records.saturating_sub(list.len() as u64),
        "time": over_time.then(|| charts::lines("Alarms over time", axis, &series, None, &count_text)),
    })
}

fn devices(summary: &Summary<'_>) -> Value {
    let mut order: Vec<(&u64, &Counts)> = summary.fleet.devices.iter().collect();
    let trouble = |counts: &Counts| {
        let late = counts.event(Event::DeadlineMisses);
        counts.event(Event::Errors).saturating_add(late) as f64
            / counts.event(Event::Runs).max(1) as f64
    };
    order.sort_by(|a, b| trouble(b.1).total_cmp(&trouble(a.1)).then(a.0.cmp(b.0)));
    let rows: Vec<Vec<String>> = order
        .iter()
        .take(200)
        .map(|(device, counts)| {
            let drifted =
                Share::new(counts.event(Event::InputDrifts), counts.event(Event::Windows));
            vec![
                device.to_string(),
                counts.event(Event::Runs).to_string(),
                counts.event(Event::Errors).to_string(),
                counts.event(Event::DeadlineMisses).to_string(),
                statistics::latency(counts)
                    .map_or("–".to_owned(), |l| report::micros(l.p99.value)),
                report::score(statistics::mean_confidence(counts).map(|mean| mean.value), 3),
                report::percent(statistics::classification(counts).map(|q| q.accuracy.value)),
                report::percent(drifted.map(|share| share.value)),
                counts.event(Event::Starts).to_string(),
                instant(counts.end_s),
            ]
        })
        .collect();
    json!({ "rows": rows, "more": order.len().saturating_sub(200) })
}

//! The report of a fleet for a terminal: figures, tables, and plots of a line.

use whit::metrics::counters::{Event, Group};

use super::counts::{Counts, Timeline};
use super::findings::{Weight, findings};
use super::merge::Raised;
use super::sketch::{COLUMNS as COLUMNS_OF_QUANTILES, Figures};
use super::statistics::{self, Bounded, Share};
use super::summary::{ALARMS, FeatureDrift, Summary, duration, instant};
use crate::report::{self, Align, UNDEFINED};

/// Columns of a plot.
const COLUMNS: usize = 60;
/// Rows of a table; the rest is in `--json` and on the page.
const ROWS: usize = 20;
const BAR_CHARS: usize = 20;

/// The report.
pub(crate) fn fleet(summary: &Summary<'_>) -> String {
    let fleet = summary.fleet;
    let totals = &fleet.totals;
    let timeline = fleet.timeline.in_slots(COLUMNS);
    let mut out = Vec::new();
    let mut fields: Vec<(&str, String)> = Vec::new();
    let file = summary.named.map_or(String::new(), |named| format!("  {}", named.file));
    fields.push(("model", format!("{}{file}", summary.model())));
    fields.push(("devices", devices_text(summary)));
    let start_s = totals.start_s.min(totals.end_s);
    fields.push((
        "time",
        format!(
            "{} to {} ({}), {} periods",
            instant(start_s),
            instant(totals.end_s),
            duration(totals.end_s - start_s),
            totals.periods
        ),
    ));
    fields.push(("runs", totals.event(Event::Runs).to_string()));
    let mut event = |name, event| {
        if totals.event(event) > 0 {
            fields.push((name, share_text(summary.of_runs(event))));
        }
    };
    event("errors", Event::Errors);
    event("deadline misses", Event::DeadlineMisses);
    for (name, event) in [
        ("outputs not finite", Event::OutputsNotFinite),
        ("outputs of another shape", Event::OutputsWrong),
        ("inputs not finite", Event::InputsNotFinite),
        ("runs not recorded", Event::Unrecorded),
        ("clock faults", Event::ClockFaults),
        ("starts", Event::Starts),
        ("samples kept", Event::Samples),
        ("records refused by sink", Event::SinkFailures),
        ("samples dropped by log", Event::SamplesDropped),
        ("records dropped by log", Event::CountsDropped),
    ] {
        if totals.event(event) > 0 {
            fields.push((name, totals.event(event).to_string()));
        }
    }
    if let Some(latency) = &summary.latency {
        for (name, quantile) in [
            ("latency p50", latency.p50),
            ("        p90", latency.p90),
            ("        p99", latency.p99),
        ] {
            fields.push((name, micros_text(quantile)));
        }
        let deadline = fleet.header.deadline_us;
        let deadline = if deadline == u32::MAX {
            String::new()
        } else {
            format!(", deadline {}", report::micros(f64::from(deadline)))
        };
        fields
            .push(("        max", format!("{}{deadline}", report::micros(f64::from(latency.max)))));
    }
    if let Some(confidence) = summary.confidence {
        fields.push(("confidence, mean", bounded_text(confidence, 3)));
    }
    if let Some(entropy) = summary.entropy {
        fields.push(("entropy, mean", bounded_text(entropy, 3)));
    }
    if let Some(estimate) = summary.estimated_accuracy {
        let text = format!("{} estimated from confidences", report::percent(estimate));
        fields.push(("accuracy", text));
    }
    out.push(report::fields(&fields));
    let findings: Vec<String> = findings(summary)
        .iter()
        .filter(|finding| finding.weight != Weight::Note)
        .map(|finding| format!("! {}", finding.title))
        .collect();
    if !findings.is_empty() {
        out.push(findings.join("\n"));
    }
    if timeline.slots().len() > 1 {
        out.push(plots(&timeline));
    }
    out.extend(quantiles(summary));
    out.extend(classes(summary));
    out.extend(quality(summary));
    out.extend(drift(summary));
    out.extend(alarms(summary));
    out.extend(devices(summary));
    out.join("\n\n")
}

fn devices_text(summary: &Summary<'_>) -> String {
    let devices = &summary.fleet.devices;
    let names: Vec<String> = devices.keys().take(8).map(u64::to_string).collect();
    let more = if devices.len() > names.len() { ", …" } else { "" };
    format!("{} ({}{more})", devices.len(), names.join(", "))
}

fn share_text(share: Option<Share>) -> String {
    share.map_or(UNDEFINED.to_owned(), |share| {
        format!("{} of {}, {}", share.hits, share.of, interval_text(share))
    })
}

/// `1.2 % (1.0 to 1.4 %)`.
pub(crate) fn interval_text(share: Share) -> String {
    format!(
        "{} ({:.1} to {:.1} %)",
        report::percent(share.value),
        share.low * 100.0,
        share.high * 100.0
    )
}

fn micros_text(bounded: Bounded) -> String {
    format!(
        "{} ({} to {})",
        report::micros(bounded.value),
        report::micros(bounded.low),
        report::micros(bounded.high)
    )
}

fn bounded_text(bounded: Bounded, decimals: usize) -> String {
    format!(
        "{:.decimals$} ({:.decimals$} to {:.decimals$})",
        bounded.value, bounded.low, bounded.high
    )
}

/// One character a value, the highest a full block, 0 a line at the foot; a space where there is none.
pub(crate) fn sparkline(values: &[Option<f64>]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let top = values.iter().flatten().copied().fold(0.0, f64::max);
    let block = |value: f64| {
        let level = if top > 0.0 { (value / top * 7.0).round() } else { 0.0 };
        BLOCKS[(level.max(0.0) as usize).min(7)]
    };
    values.iter().map(|value| value.map_or(' ', block)).collect()
}

/// A bar of eighths of characters; 1 fills it.
pub(crate) fn bar(share: f64, chars: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * chars as f64 * 8.0).round() as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// Slots of a timeline as columns, `None` for the gaps between them; a gap is one column, however long. There is a gap where no
/// record of a slot reaches the next one's first, or the slot behind its own.
pub(crate) fn columns(timeline: &Timeline) -> Vec<Option<(u64, &Counts)>> {
    let (mut columns, mut reached) = (Vec::new(), None);
    for (start_s, counts) in timeline.slots() {
        if reached.is_some_and(|reached| reached < counts.start_s) {
            columns.push(None);
        }
        let end_s = counts.end_s.max(start_s.saturating_add(2 * timeline.slot_s() - 1));
        reached = reached.max(Some(end_s));
        columns.push(Some((start_s, counts)));
    }
    columns
}

fn plots(timeline: &Timeline) -> String {
    let columns = columns(timeline);
    let line = |value: &dyn Fn(&Counts) -> Option<f64>| -> Vec<Option<f64>> {
        columns.iter().map(|column| column.and_then(|(_, counts)| value(counts))).collect()
    };
    let events = |events: &'static [Event]| {
        line(&|counts| Some(events.iter().map(|event| counts.event(*event) as f64).sum()))
    };
    let share = |part: Event, all: Event| {
        line(&|counts| {
            let all = counts.event(all);
            (all > 0).then(|| counts.event(part) as f64 / all as f64)
        })
    };
    let plots = [
        ("runs", events(&[Event::Runs]), 0),
        ("errors", events(&[Event::Errors]), 0),
        ("deadline misses", events(&[Event::DeadlineMisses]), 0),
        (
            "latency p99",
            line(&|counts| statistics::latency(counts).map(|latency| latency.p99.value)),
            1,
        ),
        ("confidence", line(&|counts| statistics::mean_confidence(counts).map(|m| m.value)), 2),
        (
            "accuracy",
            line(&|counts| statistics::classification(counts).map(|all| all.accuracy.value)),
            2,
        ),
        ("drifted windows", share(Event::InputDrifts, Event::Windows), 2),
        (
            "worst JS",
            line(&|counts| counts.worst.map(|worst| f64::from(worst.js_q16) / 65_536.0)),
            2,
        ),
        ("alarms", events(&ALARMS), 0),
    ];
    let rows: Vec<(&str, String)> = plots
        .into_iter()
        .filter_map(|(name, values, kind)| {
            let top = values.iter().flatten().copied().fold(0.0, f64::max);
            (top > 0.0).then(|| {
                let top = match kind {
                    0 => format!("{top}"),
                    1 => report::micros(top),
                    _ => format!("{top:.3}"),
                };
                (name, format!("{}  up to {top}", sparkline(&values)))
            })
        })
        .collect();
    format!("over time; a blank is a gap\n{}", report::fields(&rows))
}

fn quantiles(summary: &Summary<'_>) -> Option<String> {
    let rows: Vec<Vec<String>> = summary.sketches.iter().map(Figures::cells).collect();
    let mut header = COLUMNS_OF_QUANTILES.map(|column| (column, Align::Right));
    header[0].1 = Align::Left;
    (!rows.is_empty()).then(|| format!("quantiles\n{}", report::table(&header, &rows)))
}

fn classes(summary: &Summary<'_>) -> Option<String> {
    let shares = summary.classes();
    let all = shares.first()?.of;
    let mut order: Vec<usize> = (0..shares.len()).collect();
    let shortened = shares.len() > ROWS;
    if shortened {
        order.sort_by_key(|class| (std::cmp::Reverse(shares[*class].hits), *class));
        order.truncate(ROWS);
    }
    let mut header = vec![
        ("class", Align::Right),
        ("runs", Align::Right),
        ("share", Align::Right),
        ("", Align::Left),
    ];
    let quality = summary.classification.as_ref();
    if quality.is_some() {
        header
            .extend(["labelled", "precision", "recall", "F1"].map(|column| (column, Align::Right)));
    }
    let rows: Vec<Vec<String>> = order
        .iter()
        .map(|class| {
            let share = shares[*class];
            let mut row = vec![
                class.to_string(),
                share.hits.to_string(),
                report::percent(share.value),
                format!("{:BAR_CHARS$}", bar(share.value, BAR_CHARS)),
            ];
            if let Some(quality) = quality.map(|quality| quality.classes[*class]) {
                row.push(quality.labelled.to_string());
                row.extend(
                    [quality.precision, quality.recall, quality.f1].map(|x| report::score(x, 3)),
                );
            }
            row
        })
        .collect();
    let title = if shortened {
        format!("the {ROWS} most frequent of {} classes, {all} runs", shares.len())
    } else {
        format!("classes, {all} runs")
    };
    Some(format!("{title}\n{}", report::table(&header, &rows)))
}

fn quality(summary: &Summary<'_>) -> Option<String> {
    let mut fields: Vec<(&str, String)> = Vec::new();
    let totals = &summary.fleet.totals;
    for (name, event) in [
        ("labels", Event::Labels),
        ("labels of unknown runs", Event::LabelsUnknown),
        ("labels given again", Event::LabelsDuplicate),
        ("labels without meaning", Event::LabelsInvalid),
        ("runs without a label", Event::LabelsMissed),
    ] {
        if totals.event(event) > 0 {
            fields.push((name, totals.event(event).to_string()));
        }
    }
    if let Some(quality) = &summary.classification {
        fields.push(("accuracy", interval_text(quality.accuracy)));
        for (name, value) in [
            ("precision, macro", quality.macro_precision),
            ("recall, macro", quality.macro_recall),
            ("F1, macro", quality.macro_f1),
            ("F1, micro", quality.micro_f1),
        ] {
            fields.push((name, report::score(value, 3)));
        }
    }
    if let Some(scored) = &summary.scored {
        let (auc, loss) = if scored.binary {
            ("ROC-AUC", "log-loss")
        } else {
            ("ROC-AUC, right by confidence", "log-loss, right by confidence")
        };
        if let Some(area) = scored.roc_auc {
            fields.push((auc, bounded_text(area, 3)));
        }
        fields.push((loss, bounded_text(scored.log_loss, 3)));
        fields.push(("calibration error", bounded_text(scored.calibration_error, 3)));
        fields.push(("overconfidence", bounded_text(scored.overconfidence, 3)));
    }
    if let Some(regression) = summary.regression {
        for (name, value) in [
            ("MAE", regression.mae),
            ("RMSE", regression.rmse),
            ("bias", regression.bias),
            ("R²", regression.r2),
        ] {
            fields.push((name, report::significant(value)));
        }
    }
    if fields.is_empty() {
        return None;
    }
    let mut text = format!("against labels\n{}", report::fields(&fields));
    if let Some(quality) = &summary.classification {
        text.push_str("\n\n");
        text.push_str(&report::confusion(&quality.confusion, None));
    }
    Some(text)
}

fn drift(summary: &Summary<'_>) -> Option<String> {
    let totals = &summary.fleet.totals;
    let mut lines = Vec::new();
    let windows = totals.event(Event::Windows);
    let mut fields: Vec<(&str, String)> = Vec::new();
    for (name, event) in [
        ("windows with a drift of inputs", Event::InputDrifts),
        ("… of classes", Event::ClassDrifts),
        ("… of confidence", Event::ConfidenceDrifts),
    ] {
        if windows > 0 {
            fields.push((name, share_text(Share::new(totals.event(event), windows))));
        }
    }
    if let Some(worst) = totals.worst {
        let js = f64::from(worst.js_q16) / 65_536.0;
        fields.push(("most in one window", format!("{js:.3} bits, feature {}", worst.feature)));
    }
    if !fields.is_empty() {
        lines.push(format!("drift\n{}", report::fields(&fields)));
    }
    let timeline = summary.fleet.timeline.in_slots(COLUMNS / 2);
    let columns = columns(&timeline);
    let rows: Vec<Vec<String>> = summary
        .features
        .iter()
        .take(ROWS)
        .map(|drift| {
            let values: Vec<Option<f64>> = columns
                .iter()
                .map(|column| {
                    let (_, counts) = (*column)?;
                    let windows = counts.event(Event::Windows);
                    let drifted = counts.get(Group::Drifted, drift.feature);
                    (windows > 0).then(|| drifted as f64 / windows as f64)
                })
                .collect();
            let score = |value: Option<f64>| report::score(value, 3);
            vec![
                drift.feature.to_string(),
                drift.windows.map_or(UNDEFINED.to_owned(), |share| share.hits.to_string()),
                score(drift.distance.map(|distance| distance.psi)),
                score(drift.distance.map(|distance| distance.js)),
                score(drift.distance.map(|distance| distance.ks)),
                if columns.len() > 1 { sparkline(&values) } else { String::new() },
            ]
        })
        .collect();
    let told = |drift: &FeatureDrift| {
        drift.distance.is_some() || drift.windows.is_some_and(|share| share.hits > 0)
    };
    if summary.features.iter().any(told) {
        let header = [
            ("feature", Align::Right),
            ("drifted windows", Align::Right),
            ("PSI", Align::Right),
            ("JS", Align::Right),
            ("KS", Align::Right),
            ("drifted, over time", Align::Left),
        ];
        if let Some(reference) = &summary.reference {
            lines.push(format!("PSI, JS, KS: windows in the log against {}", reference.name()));
        }
        lines.push(report::table(&header, &rows));
        if summary.features.len() > ROWS {
            lines.push(format!("and {} features that drifted less", summary.features.len() - ROWS));
        }
    }
    let saturated: Vec<Vec<String>> = (summary.saturation.iter())
        .filter(|tensor| tensor.low > 0 || tensor.high > 0)
        .map(|t| vec![summary.tensor(t.tensor), t.low.to_string(), t.high.to_string()])
        .collect();
    if !saturated.is_empty() {
        let header = [
            ("saturated", Align::Left),
            ("at the lower limit", Align::Right),
            ("at the upper limit", Align::Right),
        ];
        lines.push(report::table(&header, &saturated));
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn alarms(summary: &Summary<'_>) -> Option<String> {
    let totals = &summary.fleet.totals;
    let detectors: Vec<String> = ALARMS[3..]
        .iter()
        .filter(|event| totals.event(**event) > 0)
        .map(|event| format!("{} {}", totals.event(*event), event.name().replace('_', " ")))
        .collect();
    let alarms = &summary.fleet.alarms;
    if detectors.is_empty() && alarms.is_empty() {
        return None;
    }
    let mut lines = vec![format!(
        "alarms: {} recorded, {} more counted; {}",
        summary.fleet.alarm_records,
        totals.event(Event::AlarmsDropped),
        if detectors.is_empty() { "none of detectors".to_owned() } else { detectors.join(", ") }
    )];
    let rows: Vec<Vec<String>> = alarms.iter().rev().take(ROWS / 2).map(alarm_row).collect();
    if !rows.is_empty() {
        let header = [
            ("period began", Align::Left),
            ("device", Align::Right),
            ("run", Align::Right),
            ("source", Align::Left),
            ("of", Align::Left),
            ("value", Align::Right),
            ("threshold", Align::Right),
            ("p", Align::Right),
        ];
        lines.push(report::table(&header, &rows));
        if alarms.len() > rows.len() {
            lines.push(format!("and {} earlier ones", alarms.len() - rows.len()));
        }
    }
    Some(lines.join("\n"))
}

/// Cells of an alarm.
pub(crate) fn alarm_row(alarm: &Raised) -> Vec<String> {
    let (value, threshold) = alarm.numbers();
    let source = if alarm.is_feature() {
        format!("feature {}", alarm.index)
    } else {
        alarm.source_name().replace('_', " ")
    };
    let number =
        |value: f64| if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.4}") };
    vec![
        instant(u64::from(alarm.start_s)),
        alarm.device.to_string(),
        alarm.run.to_string(),
        source,
        alarm.what_name().to_owned(),
        number(value),
        number(threshold),
        alarm.p().map_or(UNDEFINED.to_owned(), |p| format!("≤ {p:.1e}")),
    ]
}

fn devices(summary: &Summary<'_>) -> Option<String> {
    let devices = &summary.fleet.devices;
    if devices.len() < 2 {
        return None;
    }
    // Those with the most trouble first.
    let mut order: Vec<(&u64, &Counts)> = devices.iter().collect();
    let trouble = |counts: &Counts| {
        let all = counts.event(Event::Runs).max(1) as f64;
        (counts.event(Event::Errors).saturating_add(counts.event(Event::DeadlineMisses))) as f64
            / all
    };
    order.sort_by(|a, b| trouble(b.1).total_cmp(&trouble(a.1)).then(a.0.cmp(b.0)));
    let rows: Vec<Vec<String>> = order
        .iter()
        .take(ROWS)
        .map(|(device, counts)| {
            let latency = statistics::latency(counts);
            vec![
                device.to_string(),
                counts.event(Event::Runs).to_string(),
                counts.event(Event::Errors).to_string(),
                counts.event(Event::DeadlineMisses).to_string(),
                latency.map_or(UNDEFINED.to_owned(), |latency| report::micros(latency.p99.value)),
                report::score(statistics::mean_confidence(counts).map(|mean| mean.value), 3),
                report::percent(
                    statistics::classification(counts).map(|quality| quality.accuracy.value),
                ),
                counts.event(Event::InputDrifts).to_string(),
                instant(counts.end_s),
            ]
        })
        .collect();
    let header = [
        ("device", Align::Right),
        ("runs", Align::Right),
        ("errors", Align::Right),
        ("late", Align::Right),
        ("p99", Align::Right),
        ("confidence", Align::Right),
        ("accuracy", Align::Right),
        ("drifted windows", Align::Right),
        ("last heard of", Align::Left),
    ];
    let more = devices.len().saturating_sub(ROWS);
    let more = if more > 0 { format!("\nand {more} more devices") } else { String::new() };
    Some(format!(
        "devices, most errors and late runs first\n{}{more}",
        report::table(&header, &rows)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_of_a_line() {
        assert_eq!(sparkline(&[Some(0.0), Some(3.5), None, Some(7.0)]), "▁▅ █");
        assert_eq!(sparkline(&[Some(0.0), None]), "▁ ");
        assert_eq!(sparkline(&[]), "");
        for (share, expected) in
            [(0.0, ""), (0.5, "██"), (1.0, "████"), (9.0, "████"), (0.28, "█▏")]
        {
            assert_eq!(bar(share, 4), expected, "{share}");
        }
    }
}

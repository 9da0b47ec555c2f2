//! Totals as metrics: Prometheus' text format, and OTLP as JSON.

use std::fmt::Write;

use serde_json::{Value, json};
use whit::metrics::counters::{Event, Group};
use whit::metrics::histogram;

use super::counts::Counts;
use super::merge::Fleet;
use super::reading::Read;
use super::statistics;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A value with its labels.
struct Point {
    labels: Vec<(&'static str, String)>,
    value: Number,
    /// From and to, in seconds of the device's clock.
    time_s: (u64, u64),
}

enum Number {
    Integer(u64),
    Real(f64),
    /// Upper bounds and the counts up to each, not cumulated; how many are above the last; the sum of all.
    Buckets {
        bounds: Vec<f64>,
        counts: Vec<u64>,
        above: u64,
        sum: f64,
    },
}

/// A metric: its name is the same in both formats.
struct Metric {
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    help: &'static str,
    points: Vec<Point>,
}

/// Events with metrics of their own: not in `whit_events_total`.
const OWN: [(Event, &str, &str); 6] = [
    (Event::Runs, "whit_runs_total", "Runs that ended well."),
    (Event::Errors, "whit_errors_total", "Runs that failed."),
    (Event::DeadlineMisses, "whit_deadline_misses_total", "Runs over the deadline."),
    (Event::Starts, "whit_starts_total", "Starts of the monitor."),
    (Event::Windows, "whit_windows_total", "Windows of the drift tests."),
    (Event::Labels, "whit_labels_total", "Labels that met their run."),
];

/// What raises alarms, by the label `source`.
const ALARMS: [(Event, &str); 8] = [
    (Event::InputDrifts, "inputs"),
    (Event::ClassDrifts, "classes"),
    (Event::ConfidenceDrifts, "confidence"),
    (Event::PageHinkleyAlarms, "page_hinkley"),
    (Event::CusumAlarms, "cusum"),
    (Event::EwmaAlarms, "ewma"),
    (Event::DdmAlarms, "ddm"),
    (Event::AdwinAlarms, "adwin"),
];

/// Collects metrics, each family once.
#[derive(Default)]
struct Families(Vec<Metric>);

impl Families {
    fn put(
        &mut self,
        (name, kind, unit, help): (&'static str, Kind, &'static str, &'static str),
        point: Point,
    ) {
        match self.0.iter_mut().find(|metric| metric.name == name) {
            Some(metric) => metric.points.push(point),
            None => self.0.push(Metric { name, kind, unit, help, points: vec![point] }),
        }
    }
}

fn families(fleets: &[Fleet], read: &Read) -> Vec<Metric> {
    let mut families = Families::default();
    for fleet in fleets {
        let model = format!("{:016x}", fleet.header.model);
        for (device, counts) in &fleet.devices {
            let labels = vec![("model", model.clone()), ("device", device.to_string())];
            of_device(&mut families, &labels, fleet, counts);
        }
    }
    let remarks = &read.remarks;
    for (name, help, value) in [
        ("whit_log_files", "Logs that were read.", read.logs as u64),
        ("whit_log_bytes", "Bytes of the logs.", remarks.bytes),
        ("whit_log_records", "Whole records in the logs.", remarks.records),
        ("whit_log_damaged_bytes", "Bytes of the logs that hold no record.", remarks.damaged_bytes),
    ] {
        let point = Point { labels: Vec::new(), value: Number::Integer(value), time_s: (0, 0) };
        families.put((name, Kind::Gauge, "", help), point);
    }
    families.0
}

fn of_device(
    families: &mut Families,
    labels: &[(&'static str, String)],
    fleet: &Fleet,
    counts: &Counts,
) {
    let time_s = (counts.start_s.min(counts.end_s), counts.end_s);
    let point = |more: &[(&'static str, String)], value| Point {
        labels: labels.iter().chain(more).cloned().collect(),
        value,
        time_s,
    };
    let mut count = |name, help, more: &[(&'static str, String)], value| {
        families.put((name, Kind::Counter, "", help), point(more, Number::Integer(value)));
    };
    for (event, name, help) in OWN {
        count(name, help, &[], counts.event(event));
    }
    count("whit_periods_total", "Periods in the log.", &[], counts.periods);
    for (event, source) in ALARMS {
        let help = "Drift found and alarms raised, by source.";
        count("whit_alarms_total", help, &[("source", source.to_owned())], counts.event(event));
    }
    let alarms = ALARMS.map(|(event, _)| event);
    let owned = OWN.map(|(event, _, _)| event);
    for event in Event::ALL.iter().filter(|event| !alarms.contains(event) && !owned.contains(event))
    {
        let help = "Other events, by name.";
        count(
            "whit_events_total",
            help,
            &[("event", event.name().to_owned())],
            counts.event(*event),
        );
    }
    for (class, runs) in counts.group(Group::Classes).iter().enumerate() {
        count(
            "whit_class_runs_total",
            "Runs by predicted class.",
            &[("class", class.to_string())],
            *runs,
        );
    }
    for (feature, windows) in counts.group(Group::Drifted).iter().enumerate() {
        let help = "Windows in which a feature of the inputs drifted.";
        count("whit_feature_drifts_total", help, &[("feature", feature.to_string())], *windows);
    }
    for saturation in statistics::saturation(counts) {
        for (limit, value) in [("low", saturation.low), ("high", saturation.high)] {
            let more = [("tensor", saturation.tensor.to_string()), ("limit", limit.to_owned())];
            let help =
                "Elements at a limit of their type; tensors are the inputs, then the outputs.";
            count("whit_saturated_elements_total", help, &more, value);
        }
    }
    for (class, row) in
        counts.group(Group::Confusion).chunks(usize::from(counts.shape.classes).max(1)).enumerate()
    {
        let right = row.get(class).copied().unwrap_or(0);
        let wrong = statistics::total(row).saturating_sub(right);
        for (answer, value) in [("right", right), ("wrong", wrong)] {
            let more = [("class", class.to_string()), ("answer", answer.to_owned())];
            count("whit_labelled_runs_total", "Labelled runs by their label.", &more, value);
        }
    }
    if let Some(buckets) = latency_buckets(counts) {
        let help = "How long runs took. The sum takes each run for the middle of its bucket.";
        families.put(("whit_latency_seconds", Kind::Histogram, "s", help), point(&[], buckets));
    }
    let edges = statistics::confidence_edges();
    let confidences = counts.group(Group::Confidence);
    if let Some(mean) = statistics::mean_of_bins(confidences, &edges) {
        let all = statistics::total(confidences) as f64;
        let value = Number::Buckets {
            bounds: edges[1..].to_vec(),
            counts: confidences.to_vec(),
            above: 0,
            sum: mean.value * all,
        };
        let help = "Confidence of runs. The sum takes each run for the middle of its bin.";
        families.put(("whit_confidence", Kind::Histogram, "1", help), point(&[], value));
    }
    let mut gauge = |name, unit, help, more: &[(&'static str, String)], value: Option<f64>| {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            families.put((name, Kind::Gauge, unit, help), point(more, Number::Real(value)));
        }
    };
    if let Some(latency) = statistics::latency(counts) {
        for (quantile, us) in [
            ("0.5", latency.p50.value),
            ("0.9", latency.p90.value),
            ("0.99", latency.p99.value),
            ("1", f64::from(latency.max)),
        ] {
            let help = "Quantiles of the latency over all that is in the log, within 6.25 %; that of 1 is exact.";
            let more = [("quantile", quantile.to_owned())];
            gauge("whit_latency_quantile_seconds", "s", help, &more, Some(us / 1e6));
        }
    }
    let worst = counts.worst.map(|worst| f64::from(worst.js_q16) / 65_536.0);
    let help = "Largest Jensen-Shannon divergence of a feature in a window, in bits.";
    gauge("whit_feature_divergence_max", "1", help, &[], worst);
    let entropy = statistics::mean_entropy(counts).map(|mean| mean.value);
    gauge("whit_entropy_mean", "1", "Mean entropy of the answers over its maximum.", &[], entropy);
    if let Some(quality) = statistics::classification(counts) {
        gauge(
            "whit_accuracy",
            "1",
            "Accuracy of labelled runs.",
            &[],
            Some(quality.accuracy.value),
        );
        gauge(
            "whit_f1_macro",
            "1",
            "F1 of labelled runs, mean over classes.",
            &[],
            Some(quality.macro_f1),
        );
    }
    if let Some(scored) = statistics::scored(counts) {
        let help = "Area under the ROC curve of labelled runs.";
        gauge("whit_roc_auc", "1", help, &[], scored.roc_auc.map(|area| area.value));
        gauge("whit_log_loss", "1", "Log-loss of labelled runs.", &[], Some(scored.log_loss.value));
        let help = "Expected calibration error of labelled runs.";
        gauge("whit_calibration_error", "1", help, &[], Some(scored.calibration_error.value));
    }
    if let Some(regression) = statistics::regression(counts, &fleet.header) {
        gauge(
            "whit_mae",
            "1",
            "Mean absolute error of labelled estimates.",
            &[],
            Some(regression.mae),
        );
        gauge(
            "whit_rmse",
            "1",
            "Root mean squared error of labelled estimates.",
            &[],
            Some(regression.rmse),
        );
        gauge(
            "whit_r2",
            "1",
            "Share of the labels' variance that is explained.",
            &[],
            Some(regression.r2),
        );
    }
    let help = "End of the last period in the log, by the device's clock.";
    gauge("whit_last_seconds", "s", help, &[], Some(counts.end_s as f64));
}

/// Two buckets for each doubling of the latency: four of the device's make one.
fn latency_buckets(counts: &Counts) -> Option<Number> {
    const JOINED: usize = 4;
    let mean = statistics::latency(counts)?.mean.value;
    let buckets = counts.group(Group::Latency);
    let all = statistics::total(buckets) as f64;
    let (mut bounds, mut joined) = (Vec::new(), Vec::new());
    for (at, counts) in buckets.chunks(JOINED).enumerate() {
        let (_, high) = histogram::range(at * JOINED + counts.len() - 1);
        // Latencies are whole microseconds: those of a bucket are at most its highest.
        bounds.push(f64::from(high) / 1e6);
        joined.push(statistics::total(counts));
    }
    Some(Number::Buckets { bounds, counts: joined, above: 0, sum: mean * all / 1e6 })
}

/// The text format of Prometheus, version 0.0.4.
pub(crate) fn prometheus(fleets: &[Fleet], read: &Read) -> String {
    let mut out = String::new();
    for metric in families(fleets, read) {
        let name = metric.name;
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(out, "# HELP {name} {}\n# TYPE {name} {kind}\n", metric.help);
        for Point { labels, value, .. } in &metric.points {
            let text = |more: &str| {
                let mut parts: Vec<String> =
                    labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
                parts.extend((!more.is_empty()).then(|| more.to_owned()));
                if parts.is_empty() { String::new() } else { format!("{{{}}}", parts.join(",")) }
            };
            let _ = match value {
                Number::Integer(value) => writeln!(out, "{name}{} {value}", text("")),
                Number::Real(value) => writeln!(out, "{name}{} {value}", text("")),
                Number::Buckets { bounds, counts, above, sum } => {
                    let mut below = 0u64;
                    for (bound, count) in bounds.iter().zip(counts) {
                        below = below.saturating_add(*count);
                        let le = text(&format!("le=\"{bound}\""));
                        let _ = writeln!(out, "{name}_bucket{le} {below}");
                    }
                    let all = below.saturating_add(*above);
                    let _ = writeln!(out, "{name}_bucket{} {all}", text("le=\"+Inf\""));
                    let _ = writeln!(out, "{name}_sum{} {sum}", text(""));
                    writeln!(out, "{name}_count{} {all}", text(""))
                }
            };
        }
    }
    out
}

/// OTLP (OpenTelemetry protocol 1) as JSON: 64-bit integers are strings, times nanoseconds since 1970. The clock of a device
/// that was never set counts from its start; such points carry `now_s` and no start.
pub(crate) fn otlp(fleets: &[Fleet], read: &Read, now_s: u64) -> Value {
    const SET: u64 = 1_000_000_000;
    let nanos = |seconds: u64| (u128::from(seconds) * 1_000_000_000).to_string();
    let metrics: Vec<Value> = families(fleets, read)
        .iter()
        .map(|metric| {
            let points: Vec<Value> = metric
                .points
                .iter()
                .map(|point| {
                    let attributes: Vec<Value> = point
                        .labels
                        .iter()
                        .map(|(key, value)| json!({ "key": key, "value": { "stringValue": value } }))
                        .collect();
                    let (start_s, end_s) = point.time_s;
                    let is_set = start_s >= SET;
                    let mut data = json!({
                        "attributes": attributes,
                        "timeUnixNano": nanos(if is_set { end_s } else { now_s }),
                    });
                    if is_set {
                        data["startTimeUnixNano"] = json!(nanos(start_s));
                    }
                    match &point.value {
                        Number::Integer(value) => data["asInt"] = json!(value.to_string()),
                        Number::Real(value) => data["asDouble"] = json!(value),
                        Number::Buckets { bounds, counts, above, sum } => {
                            let all = statistics::total(counts).saturating_add(*above);
                            let counts: Vec<String> =
                                counts.iter().chain([above]).map(u64::to_string).collect();
                            data["count"] = json!(all.to_string());
                            data["sum"] = json!(sum);
                            data["bucketCounts"] = json!(counts);
                            data["explicitBounds"] = json!(bounds);
                        }
                    }
                    data
                })
                .collect();
            let mut out = json!({
                // OTLP's names don't end in the kind of the metric.
                "name": metric.name.trim_end_matches("_total"),
                "description": metric.help,
                "unit": metric.unit,
            });
            // 2: since the start, not since the last export.
            match metric.kind {
                Kind::Counter => {
                    out["sum"] = json!({ "dataPoints": points, "aggregationTemporality": 2, "isMonotonic": true });
                }
                Kind::Gauge => out["gauge"] = json!({ "dataPoints": points }),
                Kind::Histogram => {
                    out["histogram"] = json!({ "dataPoints": points, "aggregationTemporality": 2 });
                }
            }
            out
        })
        .collect();
    json!({ "resourceMetrics": [{
        "resource": { "attributes": [
            { "key": "service.name", "value": { "stringValue": "whit" } },
        ] },
        "scopeMetrics": [{
            "scope": { "name": "whit.monitor", "version": env!("CARGO_PKG_VERSION") },
            "metrics": metrics,
        }],
    }] })
}

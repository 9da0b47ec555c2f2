//! The options of `whit convert --quantize auto`, and what it found.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use whit_convert::evaluate::Samples;
use whit_convert::graph::Graph;
use whit_convert::plan::ArenaGoal;
use whit_convert::quantize::search::{Budget, Front, Point, Prefer, Search};

use crate::data::Dataset;
use crate::report::{self, Align};

/// Points of quality that may be lost when the command names no budget at all.
const DEFAULT_MAX_DROP: f64 = 0.005;

#[derive(Args)]
pub(super) struct SearchArgs {
    /// For --quantize auto: accuracy that may be lost, in percentage points (0.5% unless another budget is
    /// given). Without labels it is the share of samples that may be answered otherwise than in float
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    max_drop: Option<f64>,
    /// For --quantize auto: the largest file, such as 100KB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_size: Option<u64>,
    /// The largest arena, such as 64KB, or `smallest`: where activations would take more, layers are computed in bands of
    /// rows. --quantize auto looks for numbers with which they don't
    #[arg(long, value_name = "BYTES", value_parser = parse_arena)]
    pub(super) max_arena: Option<ArenaGoal>,
    /// For --quantize auto: the longest median of a run here, such as 250us or 2ms
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    max_latency: Option<Duration>,
    /// For --quantize auto: data to measure on, with `labels` when it has them (default: that of --calibrate)
    #[arg(long, value_name = "DATA")]
    pub(super) evaluate: Option<PathBuf>,
    /// For --quantize auto: what is spared first among the mixes that fit
    #[arg(long, value_enum, default_value_t = PreferArg::Balance)]
    prefer: PreferArg,
    /// For --quantize auto: no new mix is tried after this time. A search that ends before it gives the same file
    /// each time
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_time)]
    time_limit: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PreferArg {
    /// Bytes of the file
    Size,
    /// Time of a run
    Time,
    /// Both alike
    Balance,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    let percent: f64 = number.parse().map_err(|_| format!("`{text}` is no percentage"))?;
    if (0.0..=100.0).contains(&percent) {
        Ok(percent / 100.0)
    } else {
        Err("between 0% and 100%".to_owned())
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [
        ("KiB", 1024.0),
        ("MiB", 1048576.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("k", 1e3),
        ("M", 1e6),
        ("B", 1.0),
    ];
    let found = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = found.unwrap_or((text, 1.0));
    match number.trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number * factor < 1e15 => Ok((number * factor) as u64),
        _ => Err(format!("`{text}` is no size; write 65536, 64KB or 64KiB")),
    }
}

fn parse_arena(text: &str) -> Result<ArenaGoal, String> {
    if text == "smallest" {
        return Ok(ArenaGoal::Smallest);
    }
    let bytes = parse_bytes(text).map_err(|why| format!("{why}, or `smallest`"))?;
    usize::try_from(bytes).map(ArenaGoal::AtMost).map_err(|_| format!("`{text}` is too large"))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let units = [
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ms", 1e-3),
        ("min", 60.0),
        ("m", 60.0),
        ("h", 3600.0),
        ("s", 1.0),
    ];
    let found = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = found.unwrap_or((text, 1.0));
    match number.trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number * factor < 1e7 => {
            Ok(Duration::from_secs_f64(number * factor))
        }
        _ => Err(format!("`{text}` is no time; write 250us, 2ms, 90s or 10m")),
    }
}

impl SearchArgs {
    /// What is searched for, on this data.
    pub(super) fn wanted<'d>(
        &self,
        data: Option<&'d Dataset>,
        graph: &Graph,
    ) -> Result<Wanted<'d>> {
        let data = data.context(
            "--quantize auto measures on data: --calibrate DATA.npz, with an array `labels` to go by accuracy",
        )?;
        let classes = graph.outputs.first().and_then(|output| graph.value(*output).shape.last());
        let classes = classes.and_then(|dim| dim.as_const()).and_then(|n| usize::try_from(n).ok());
        let labels = match (&data.labels, classes) {
            (None, _) => None,
            // One score tells two classes apart.
            (Some(_), classes) => Some(data.class_labels(classes.unwrap_or(usize::MAX).max(2)).context(
                "--quantize auto goes by accuracy where there are labels; without the array it goes by the float \
                 model's answers",
            )?),
        };
        let mut budget = Budget {
            max_drop: self.max_drop,
            max_file_bytes: self.max_size,
            max_arena_bytes: match self.max_arena {
                Some(ArenaGoal::AtMost(bytes)) => Some(bytes as u64),
                Some(ArenaGoal::Smallest) | None => None,
            },
            max_latency_us: self.max_latency.map(|time| time.as_secs_f64() * 1e6),
        };
        if budget == Budget::default() {
            budget.max_drop = Some(DEFAULT_MAX_DROP);
        }
        let prefer = match self.prefer {
            PreferArg::Size => Prefer::Size,
            PreferArg::Time => Prefer::Time,
            PreferArg::Balance => Prefer::Balance,
        };
        Ok(Wanted { data, labels, budget, prefer, time_limit: self.time_limit })
    }
}

/// A search, but for its samples.
pub(crate) struct Wanted<'d> {
    pub(crate) data: &'d Dataset,
    labels: Option<Vec<usize>>,
    budget: Budget,
    prefer: Prefer,
    time_limit: Duration,
}

impl Wanted<'_> {
    pub(crate) fn search<'s>(&self, samples: &'s dyn Samples) -> Search<'s> {
        Search {
            samples,
            labels: self.labels.clone(),
            budget: self.budget,
            prefer: self.prefer,
            time_limit: self.time_limit,
        }
    }
}

/// The float model, the front and the mix that was taken.
pub(super) fn table(front: &Front) -> String {
    let row = |point: &Point, mark: &str| {
        vec![
            mark.to_owned(),
            point.description.clone() + if point.improved { ", improved" } else { "" },
            report::percent(point.quality),
            format!("{:.1}", point.snr_db),
            report::bytes(point.file_bytes),
            report::bytes(point.arena_bytes),
            report::micros(point.latency_us),
        ]
    };
    let mut rows = vec![row(&front.float, "float")];
    let mut shown: Vec<usize> = (0..front.points.len())
        .filter(|at| front.points[*at].on_front || *at == front.chosen)
        .collect();
    shown.sort_by_key(|at| front.points[*at].file_bytes);
    for at in shown {
        rows.push(row(&front.points[at], if at == front.chosen { "taken" } else { "" }));
    }
    let header = [
        ("", Align::Left),
        ("layers", Align::Left),
        (front.quality, Align::Right),
        ("SNR dB", Align::Right),
        ("file", Align::Right),
        ("arena", Align::Right),
        ("median", Align::Right),
    ];
    let mut text = report::table(&header, &rows);
    if front.cut_short {
        text.push_str("\nThe time limit ended the search; another run may find another mix.");
    }
    text
}

/// Everything that was measured, as JSON.
pub(super) fn json(front: &Front) -> Value {
    let point = |point: &Point| {
        json!({
            "layers": point.description,
            "quality": point.quality,
            "expected_quality": point.expected_quality,
            "expected_changes": point.expected_changes,
            "snr_db": finite(point.snr_db),
            "file_bytes": point.file_bytes,
            "arena_bytes": point.arena_bytes,
            "latency_us": point.latency_us,
            "relative_time": point.relative_time,
            "improved": point.improved,
            "on_front": point.on_front,
        })
    };
    json!({
        "quality": front.quality,
        "samples": front.samples,
        "float": point(&front.float),
        "points": front.points.iter().map(point).collect::<Vec<_>>(),
        "chosen": front.chosen,
        "sensitivities": front.sensitivities.iter().map(|s| json!({
            "layer": s.layer,
            "numbers": s.numbers.to_string(),
            "snr_db": finite(s.snr_db),
        })).collect::<Vec<_>>(),
        "cut_short": front.cut_short,
    })
}

/// JSON has no infinity.
fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read() {
        assert_eq!(parse_percent("0.5%"), Ok(0.005));
        assert_eq!(parse_percent("1"), Ok(0.01));
        assert!(parse_percent("-1%").is_err() && parse_percent("x").is_err());
        for (text, bytes) in
            [("100", 100), ("64KB", 64_000), ("64KiB", 65_536), ("1.5M", 1_500_000)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
        assert!(parse_bytes("0").is_err() && parse_bytes("many").is_err());
        for (text, us) in
            [("250us", 250), ("2ms", 2_000), ("90s", 90_000_000), ("10m", 600_000_000)]
        {
            assert_eq!(parse_time(text), Ok(Duration::from_micros(us)));
        }
        assert!(parse_time("0s").is_err() && parse_time("soon").is_err());
    }
}

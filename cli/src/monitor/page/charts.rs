//! Plots of the monitor's page as inline SVG, coloured by the page's style.

use std::fmt::Write;

use crate::report_html::charts::{escape, short, start, ticks};

/// Width of a plot over time.
const WIDTH: f64 = 1000.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 990.0;

/// Values over time, one a column; `None` where there are none.
pub(crate) struct Series<'s> {
    pub(crate) name: &'s str,
    /// Class of the style.
    pub(crate) class: &'s str,
    pub(crate) values: Vec<Option<f64>>,
}

/// What all plots over time have in common: a label for each column.
pub(crate) struct Axis<'a> {
    pub(crate) labels: &'a [String],
}

impl Axis<'_> {
    fn step(&self) -> f64 {
        (RIGHT - LEFT) / self.labels.len().max(1) as f64
    }

    fn center(&self, column: usize) -> f64 {
        LEFT + self.step() * (column as f64 + 0.5)
    }

    /// Labels of about six columns, and a strip for each that tells its values.
    fn draw(&self, svg: &mut String, bottom: f64, tip: &dyn Fn(usize) -> String) {
        let every = self.labels.len().div_ceil(6).max(1);
        for (column, label) in self.labels.iter().enumerate().step_by(every) {
            if label.is_empty() {
                continue;
            }
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                self.center(column) - self.step() / 2.0,
                bottom + 15.0,
                escape(label)
            );
        }
        for column in 0..self.labels.len() {
            let tip = tip(column);
            if !tip.is_empty() {
                let _ = write!(
                    svg,
                    "<rect class=\"strip\" x=\"{:.1}\" y=\"0\" width=\"{:.1}\" height=\"{bottom:.1}\"><title>{}</title></rect>",
                    LEFT + self.step() * column as f64,
                    self.step(),
                    escape(&tip)
                );
            }
        }
    }
}

/// Lines over time from 0 up, with `mark` as a dashed line; `unit` writes a value.
pub(crate) fn lines(
    title: &str,
    axis: &Axis<'_>,
    series: &[Series<'_>],
    mark: Option<(f64, &str)>,
    unit: &dyn Fn(f64) -> String,
) -> String {
    let (height, top, bottom) = (190.0, 12.0, 164.0);
    let mut svg = start(WIDTH, height, title);
    let values = series.iter().flat_map(|series| series.values.iter().flatten());
    let highest = values.copied().fold(0.0, f64::max);
    // A mark far above would flatten the lines.
    let mark = mark.filter(|(value, _)| *value <= highest * 3.0);
    let highest = mark.map_or(highest, |(value, _)| highest.max(value)).max(1e-9) * 1.05;
    let at = |value: f64| bottom - (bottom - top) * (value / highest).clamp(0.0, 1.0);
    for tick in ticks(0.0, highest) {
        let y = at(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{RIGHT}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            y + 3.5,
            escape(&unit(tick))
        );
    }
    for series in series {
        // A line for each stretch without gaps; a stretch of one is a dot.
        let mut stretch: Vec<String> = Vec::new();
        let end = [None];
        for (column, value) in series.values.iter().chain(&end).enumerate() {
            if let Some(value) = value {
                stretch.push(format!("{:.1},{:.1}", axis.center(column), at(*value)));
                continue;
            }
            if let [point] = &stretch[..] {
                let (x, y) = point.split_once(',').unwrap_or(("0", "0"));
                let _ = write!(
                    svg,
                    "<circle class=\"dot {}\" cx=\"{x}\" cy=\"{y}\" r=\"2.4\"/>",
                    series.class
                );
            } else if !stretch.is_empty() {
                let _ = write!(
                    svg,
                    "<polyline class=\"line {}\" points=\"{}\"/>",
                    series.class,
                    stretch.join(" ")
                );
            }
            stretch.clear();
        }
    }
    if let Some((value, name)) = mark {
        let y = at(value);
        let _ = write!(
            svg,
            "<line class=\"mark\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{RIGHT}\" y2=\"{y:.1}\"/><text class=\"label\" x=\"{RIGHT}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            y - 4.0,
            escape(name)
        );
    }
    axis.draw(&mut svg, bottom, &|column| {
        let values: Vec<String> = series
            .iter()
            .filter_map(|series| {
                let value = (*series.values.get(column)?)?;
                Some(format!("{}: {}", series.name, unit(value)))
            })
            .collect();
        if values.is_empty() {
            return String::new();
        }
        format!("{}\n{}", axis.labels[column], values.join("\n"))
    });
    svg.push_str("</svg>");
    svg
}

/// Shares that add up to one, stacked over time: `values[part][column]`.
pub(crate) fn stacked(
    title: &str,
    axis: &Axis<'_>,
    names: &[String],
    values: &[Vec<Option<f64>>],
) -> String {
    let (height, top, bottom) = (190.0, 12.0, 164.0);
    let mut svg = start(WIDTH, height, title);
    for tick in [0.0, 0.5, 1.0] {
        let y = bottom - (bottom - top) * tick;
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>",
            LEFT - 6.0,
            y + 3.5,
            tick * 100.0
        );
    }
    for column in 0..axis.labels.len() {
        let mut below = 0.0;
        for (part, values) in values.iter().enumerate() {
            let Some(share) = values.get(column).copied().flatten().filter(|share| *share > 0.0)
            else {
                continue;
            };
            let tall = (bottom - top) * share;
            let _ = write!(
                svg,
                "<rect class=\"part p{}\" x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{tall:.2}\"/>",
                part.min(9),
                LEFT + axis.step() * column as f64,
                bottom - below - tall,
                axis.step() + 0.3
            );
            below += tall;
        }
    }
    axis.draw(&mut svg, bottom, &|column| {
        let shares: Vec<String> = names
            .iter()
            .zip(values)
            .filter_map(|(name, values)| {
                Some(format!("{name}: {:.1} %", (*values.get(column)?)? * 100.0))
            })
            .collect();
        if shares.is_empty() {
            return String::new();
        }
        format!("{}\n{}", axis.labels[column], shares.join("\n"))
    });
    svg.push_str("</svg>");
    svg
}

/// A row for each name, a field for each column, darker for values nearer to `full`: `values[row][column]`.
pub(crate) fn heat(
    title: &str,
    axis: &Axis<'_>,
    names: &[String],
    values: &[Vec<Option<f64>>],
    full: f64,
    unit: &dyn Fn(f64) -> String,
) -> String {
    let row = 18.0;
    let bottom = row * names.len() as f64 + 4.0;
    let mut svg = start(WIDTH, bottom + 24.0, title);
    let every = axis.labels.len().div_ceil(6).max(1);
    for (index, (name, values)) in names.iter().zip(values).enumerate() {
        let y = row * index as f64 + 2.0;
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            y + 12.0,
            escape(name)
        );
        for (column, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let strength = (value / full.max(1e-12)).clamp(0.0, 1.0);
            let _ = write!(
                svg,
                "<rect class=\"cell\" fill-opacity=\"{:.3}\" x=\"{:.2}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"{:.1}\"><title>{}</title></rect>",
                0.06 + 0.94 * strength,
                LEFT + axis.step() * column as f64,
                (axis.step() - 0.6).max(0.6),
                row - 2.0,
                escape(&format!(
                    "{name}\n{}\n{}",
                    axis.labels.get(column).map_or("", |l| l),
                    unit(*value)
                ))
            );
        }
    }
    for (column, label) in axis.labels.iter().enumerate().step_by(every) {
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT + axis.step() * column as f64,
            bottom + 15.0,
            escape(label)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// A histogram: a label and a tip for each bar, and marks at bars.
pub(crate) fn bars(
    title: &str,
    counts: &[(String, String, u64)],
    marks: &[(usize, String)],
) -> String {
    let (width, height, left, right, top, bottom) = (480.0, 210.0, 12.0, 468.0, 26.0, 182.0);
    let mut svg = start(width, height, title);
    let tallest = counts.iter().map(|(_, _, count)| *count).max().unwrap_or(0).max(1) as f64;
    let step = (right - left) / counts.len().max(1) as f64;
    for (bar, (_, tip, count)) in counts.iter().enumerate() {
        let tall = (bottom - top) * (*count as f64 / tallest);
        let tall = if *count > 0 { tall.max(1.0) } else { 0.0 };
        let _ = write!(
            svg,
            "<rect class=\"bin\" x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{tall:.2}\"><title>{}</title></rect>",
            left + step * bar as f64,
            bottom - tall,
            (step - 0.8).max(0.8),
            escape(tip)
        );
    }
    for (bar, name) in marks {
        let x = left + step * (*bar as f64 + 0.5);
        let _ = write!(
            svg,
            "<line class=\"mark\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom}\"/><text class=\"label\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            top - 4.0,
            top - 8.0,
            escape(name)
        );
    }
    let _ = write!(
        svg,
        "<line class=\"axis\" x1=\"{left}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{bottom}\"/>"
    );
    let every = counts.len().div_ceil(6).max(1);
    for (bar, (label, _, _)) in counts.iter().enumerate().step_by(every) {
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"198\">{}</text>",
            left + step * bar as f64,
            escape(label)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// How often a score came true, bin by bin, with 95 % intervals: `from`, `to`, share, low, high, tip.
pub(crate) fn reliability(title: &str, bins: &[([f64; 5], String)]) -> String {
    let (width, height, left, right, top, bottom) = (480.0, 260.0, 48.0, 468.0, 10.0, 222.0);
    let mut svg = start(width, height, title);
    let x_at = |x: f64| left + (right - left) * x;
    let y_at = |y: f64| bottom - (bottom - top) * y;
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (x, y) = (x_at(tick), y_at(tick));
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            left - 6.0,
            y + 3.5,
            short(tick),
            bottom + 15.0,
            short(tick)
        );
    }
    let _ = write!(
        svg,
        "<line class=\"mark\" x1=\"{left}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{top}\"/>"
    );
    for ([from, to, share, low, high], tip) in bins {
        let (x, middle) = (x_at(*from), x_at((from + to) / 2.0));
        let _ = write!(
            svg,
            "<g><title>{}</title><rect class=\"total\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/><line class=\"whisker\" x1=\"{middle:.1}\" y1=\"{:.1}\" x2=\"{middle:.1}\" y2=\"{:.1}\"/></g>",
            escape(tip),
            y_at(*share),
            (x_at(*to) - x - 0.5).max(0.8),
            bottom - y_at(*share),
            y_at(*low),
            y_at(*high)
        );
    }
    let _ = write!(
        svg,
        "<text class=\"title\" x=\"{:.0}\" y=\"254\" text-anchor=\"middle\">score</text><text class=\"title\" transform=\"translate(12 {:.0}) rotate(-90)\" text-anchor=\"middle\">came true</text></svg>",
        (left + right) / 2.0,
        (top + bottom) / 2.0
    );
    svg
}

//! Plots as inline SVG, coloured by the page's style so that they follow light, dark and print.

use std::fmt::Write;

/// Text as it may stand in HTML and SVG.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Characters that XML has no place for.
            c if (c as u32) < 0x20 && !"\n\t\r".contains(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// One row of a chart of signal-to-noise ratios.
pub(crate) struct Bar<'b> {
    pub(crate) name: &'b str,
    pub(crate) total_db: f64,
    pub(crate) introduced_db: f64,
    pub(crate) tip: String,
}

/// Decibels beyond which a bar ends: nobody needs better.
const FULL_DB: f64 = 80.0;

/// Two thin bars per layer, total and introduced; longer is better.
pub(crate) fn snr_bars(bars: &[Bar<'_>]) -> String {
    let (left, row, width) = (230.0, 20.0, 760.0);
    let span = width - left - 20.0;
    let height = row * bars.len() as f64 + 34.0;
    let mut svg = start(width, height, "Signal over noise per layer, in decibels");
    let at = |db: f64| left + span * db.clamp(0.0, FULL_DB) / FULL_DB;
    for tick in (0..=8).map(|tick| f64::from(tick) * 10.0) {
        let (x, bottom) = (at(tick), height - 22.0);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"6\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/><text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick:.0}{}</text>",
            height - 8.0,
            if tick == FULL_DB { " dB" } else { "" }
        );
    }
    for (index, bar) in bars.iter().enumerate() {
        let y = 8.0 + row * index as f64;
        let name = shortened(bar.name, 34);
        let _ = write!(
            svg,
            "<g><title>{}</title><text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            escape(&bar.tip),
            left - 8.0,
            y + 11.0,
            escape(&name)
        );
        for (db, class, dy) in [(bar.total_db, "total", 1.5), (bar.introduced_db, "own", 8.5)] {
            let end = if db.is_finite() { at(db) } else { at(FULL_DB) };
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"6\" rx=\"1.5\"/>",
                y + dy,
                (end - left).max(1.0)
            );
        }
        svg.push_str("</g>");
    }
    svg.push_str("</svg>");
    svg
}

/// A histogram over a range, with the ends of a grid marked where there is one.
pub(crate) fn histogram(
    counts: &[u32],
    over: [f64; 2],
    marks: Option<[f64; 2]>,
    title: &str,
) -> String {
    let (width, height, base) = (230.0, 92.0, 70.0);
    let mut svg = start(width, height, title);
    let low = marks.map_or(over[0], |marks| over[0].min(marks[0]));
    let high = marks.map_or(over[1], |marks| over[1].max(marks[1]));
    let span = (high - low).max(f64::MIN_POSITIVE);
    let at = |value: f64| 6.0 + (width - 12.0) * (value - low) / span;
    if let Some([from, to]) = marks {
        let _ = write!(
            svg,
            "<rect class=\"range\" x=\"{:.2}\" y=\"4\" width=\"{:.2}\" height=\"{:.0}\"/>",
            at(from),
            (at(to) - at(from)).max(1.0),
            base - 4.0
        );
    }
    // Roots show the tails, which a linear scale hides and a logarithm overstates.
    let tallest = f64::from(counts.iter().copied().max().unwrap_or(0)).sqrt().max(1.0);
    let bin = (over[1] - over[0]) / counts.len().max(1) as f64;
    for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let from = at(over[0] + bin * index as f64);
        let tall = ((base - 8.0) * f64::from(*count).sqrt() / tallest).max(1.0);
        let wide = (at(over[0] + bin * (index + 1) as f64) - from - 0.4).max(0.8);
        let _ = write!(
            svg,
            "<rect class=\"bin\" x=\"{from:.2}\" y=\"{:.2}\" width=\"{wide:.2}\" height=\"{tall:.2}\"/>",
            base - tall
        );
    }
    let _ = write!(
        svg,
        "<line class=\"axis\" x1=\"6\" y1=\"{base}\" x2=\"{:.0}\" y2=\"{base}\"/><text class=\"tick\" x=\"6\" y=\"84\">{}</text><text class=\"tick\" x=\"{:.0}\" y=\"84\" text-anchor=\"end\">{}</text></svg>",
        width - 6.0,
        short(low),
        width - 6.0,
        short(high)
    );
    svg
}

/// A point of a scatter plot.
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) on_front: bool,
    pub(crate) chosen: bool,
    /// The float model, to compare with.
    pub(crate) float: bool,
    pub(crate) tip: String,
}

/// Points, the front of the best joined by a line, the chosen one marked.
pub(crate) fn front(points: &[Point], x_title: &str, y_title: &str) -> String {
    let (width, height, left, bottom, top, right) = (480.0, 300.0, 62.0, 258.0, 14.0, 466.0);
    let mut svg = start(width, height, &format!("{y_title} against {x_title}"));
    let usable: Vec<&Point> =
        points.iter().filter(|point| point.x.is_finite() && point.y.is_finite()).collect();
    let range = |of: &dyn Fn(&Point) -> f64| {
        let low = usable.iter().map(|point| of(point)).fold(f64::INFINITY, f64::min);
        let high = usable.iter().map(|point| of(point)).fold(f64::NEG_INFINITY, f64::max);
        let room = ((high - low) * 0.08).max(high.abs() * 1e-3).max(1e-9);
        (low - room, high + room)
    };
    if usable.is_empty() {
        svg.push_str("</svg>");
        return svg;
    }
    let (x_range, y_range) = (range(&|point| point.x), range(&|point| point.y));
    let x_at = |x: f64| left + (right - left) * (x - x_range.0) / (x_range.1 - x_range.0);
    let y_at = |y: f64| bottom - (bottom - top) * (y - y_range.0) / (y_range.1 - y_range.0);
    for (range, is_x) in [(x_range, true), (y_range, false)] {
        for tick in ticks(range.0, range.1) {
            if is_x {
                let x = x_at(tick);
                let _ = write!(
                    svg,
                    "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\"/><text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    bottom + 15.0,
                    short(tick)
                );
            } else {
                let y = y_at(tick);
                let _ = write!(
                    svg,
                    "<line class=\"grid\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                    left - 6.0,
                    y + 3.5,
                    short(tick)
                );
            }
        }
    }
    let _ = write!(
        svg,
        "<text class=\"title\" x=\"{:.0}\" y=\"294\" text-anchor=\"middle\">{}</text><text class=\"title\" transform=\"translate(14 {:.0}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (left + right) / 2.0,
        escape(x_title),
        (top + bottom) / 2.0,
        escape(y_title)
    );
    // Of each plot's own two measures: what has less to pay and nothing better.
    let mut line: Vec<&Point> = usable.iter().copied().filter(|point| !point.float).collect();
    line.sort_by(|a, b| a.x.total_cmp(&b.x).then(b.y.total_cmp(&a.y)));
    let mut best = f64::NEG_INFINITY;
    line.retain(|point| {
        let better = point.y > best;
        best = best.max(point.y);
        better
    });
    let path: Vec<String> =
        line.iter().map(|point| format!("{:.1},{:.1}", x_at(point.x), y_at(point.y))).collect();
    let _ = write!(svg, "<polyline class=\"front\" points=\"{}\"/>", path.join(" "));
    for point in usable {
        let (x, y) = (x_at(point.x), y_at(point.y));
        let class = match point {
            Point { float: true, .. } => "float",
            Point { chosen: true, .. } => "chosen",
            Point { on_front: true, .. } => "on",
            _ => "off",
        };
        let radius = if point.chosen { 6.5 } else { 3.8 };
        let _ = write!(
            svg,
            "<circle class=\"point {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{}</title></circle>",
            escape(&point.tip)
        );
    }
    svg.push_str("</svg>");
    svg
}

pub(crate) fn start(width: f64, height: f64, title: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\"><title>{}</title>",
        escape(title)
    )
}

/// Round numbers inside a range, four to eight of them.
pub(crate) fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|s| *s >= rough);
    let step = step.unwrap_or(magnitude * 10.0);
    if !(step.is_finite() && step > 0.0) {
        return Vec::new();
    }
    let first = (low / step).ceil() as i64;
    let last = ((high / step).floor() as i64).min(first.saturating_add(20));
    (first..=last).map(|n| n as f64 * step).collect()
}

/// A number in few characters.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e5).contains(&size) {
        format!("{value:.1e}")
    } else {
        let decimals = if size >= 100.0 {
            0
        } else if size >= 10.0 {
            1
        } else if size >= 0.1 {
            2
        } else {
            4
        };
        let text = format!("{value:.decimals$}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    }
}

/// The end of a name, which tells layers apart better than its beginning.
pub(crate) fn shortened(name: &str, chars: usize) -> String {
    let count = name.chars().count();
    if count <= chars {
        return name.to_owned();
    }
    std::iter::once('…').chain(name.chars().skip(count - chars + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        for (low, high) in [(0.0, 1.0), (-3.0, 88.0), (0.91, 0.93), (1e6, 3.3e6)] {
            let ticks = ticks(low, high);
            assert!((3..=11).contains(&ticks.len()), "{low} {high}: {ticks:?}");
            assert!(ticks.iter().all(|tick| (low..=high).contains(tick)), "{ticks:?}");
        }
        assert!(ticks(1.0, 1.0).is_empty());
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (12.5, "12.5"),
            (1234.0, "1234"),
            (100.0, "100"),
            (-0.004, "-0.004"),
            (1e-7, "1.0e-7"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}

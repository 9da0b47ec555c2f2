//! Histograms of scores by group, and predictions beside targets.

use anyhow::Result;
use plotters::prelude::*;

use super::{
    BLUE, Corner, FINE, GREY, HEIGHT, INK, Mark, VERMILLION, WIDTH, draw, mesh, shortened, titled,
};

const BINS: usize = 40;

/// Points of a scatter plot at most: more are drawn as every so many.
const MAX_POINTS: usize = 4000;

/// Scores of one kind of sample.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) scores: Vec<f64>,
}

/// The range of finite values, widened where they are all the same.
fn range(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    match (low, high) {
        (low, high) if low > high => (0.0, 1.0),
        (low, high) if low == high => {
            (low - 0.5 * low.abs().max(1.0), high + 0.5 * high.abs().max(1.0))
        }
        found => found,
    }
}

/// Shares of up to two groups' samples per bin, with a threshold's line.
pub(crate) fn histogram(
    title: &str,
    x: &str,
    groups: &[Group],
    threshold: Option<f64>,
) -> Result<String> {
    let all = groups.iter().flat_map(|group| group.scores.iter().copied());
    let (mut low, mut high) = range(all.chain(threshold));
    // Probabilities show their whole range.
    if low >= 0.0 && high <= 1.0 && high - low > 0.3 {
        (low, high) = (0.0, 1.0);
    }
    let width = (high - low) / BINS as f64;
    let shares: Vec<Vec<f64>> = (groups.iter())
        .map(|group| {
            let mut counts = vec![0.0; BINS];
            for score in &group.scores {
                counts[(((score - low) / width) as usize).min(BINS - 1)] += 1.0;
            }
            let total = group.scores.len().max(1) as f64;
            counts.iter().map(|count| 100.0 * count / total).collect()
        })
        .collect();
    let most = shares.iter().flatten().copied().fold(1.0, f64::max);
    draw(WIDTH, HEIGHT, |canvas| {
        let area = titled(canvas, title)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(14 * FINE)
            .margin_top(4 * FINE)
            .x_label_area_size(44 * FINE)
            .y_label_area_size(58 * FINE)
            .build_cartesian_2d(low..high + width * 0.001, 0.0..most * 1.12)?;
        mesh(&mut chart)
            .x_desc(x)
            .y_desc(if groups.len() > 1 {
                "share of the group's samples, %"
            } else {
                "share of samples, %"
            })
            .x_labels(7)
            .y_labels(6)
            .disable_x_mesh()
            .draw()?;
        let mut entries = Vec::new();
        for ((group, shares), color) in groups.iter().zip(&shares).zip([BLUE, VERMILLION]) {
            // One shape: boxes side by side would show their seams. Its outline tells overlapping groups apart.
            let mut outline = vec![(low, 0.0)];
            for (bin, share) in shares.iter().enumerate() {
                let left = low + width * bin as f64;
                outline.extend([(left, *share), (left + width, *share)]);
            }
            outline.push((high, 0.0));
            let fill = color.mix(0.42).filled();
            chart.draw_series(std::iter::once(Polygon::new(outline.clone(), fill)))?;
            chart.draw_series(LineSeries::new(outline, color.stroke_width(FINE)))?;
            let name = format!("{} ({})", shortened(&group.name, 30), group.scores.len());
            entries.push((Mark::Box(fill), name));
        }
        if let Some(threshold) = threshold {
            let style = INK.stroke_width(FINE);
            let line = [(threshold, 0.0), (threshold, most * 1.12)];
            chart.draw_series(DashedLineSeries::new(line, 6 * FINE, 4 * FINE, style))?;
            let name = format!("threshold {}", crate::report::significant(threshold));
            entries.push((Mark::Dashes(style), name));
        }
        super::legend(&chart.plotting_area().strip_coord_spec(), Corner::UpperMiddle, &entries)?;
        Ok(())
    })
}

/// One value over another, with the line where they are equal if they have one unit.
pub(crate) fn scatter(
    title: &str,
    (x, xs): (&str, &[f64]),
    (y, ys): (&str, &[f64]),
    same_unit: bool,
) -> Result<String> {
    let (mut x_range, mut y_range) = (range(xs.iter().copied()), range(ys.iter().copied()));
    if same_unit {
        x_range = (x_range.0.min(y_range.0), x_range.1.max(y_range.1));
        y_range = x_range;
    }
    let widen = |(low, high): (f64, f64)| {
        let room = (high - low) * 0.04;
        low - room..high + room
    };
    let every = xs.len().div_ceil(MAX_POINTS).max(1);
    draw(WIDTH, HEIGHT, |canvas| {
        let area = titled(canvas, title)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(14 * FINE)
            .margin_top(4 * FINE)
            .x_label_area_size(44 * FINE)
            .y_label_area_size(64 * FINE)
            .build_cartesian_2d(widen(x_range), widen(y_range))?;
        mesh(&mut chart).x_desc(x).y_desc(y).x_labels(7).y_labels(7).draw()?;
        if same_unit {
            let line = [(x_range.0, x_range.0), (x_range.1, x_range.1)];
            let style = GREY.stroke_width(FINE);
            chart.draw_series(DashedLineSeries::new(line, 6 * FINE, 5 * FINE, style))?;
        }
        let points = xs.iter().zip(ys).step_by(every);
        chart.draw_series(
            points.map(|(x, y)| Circle::new((*x, *y), 3 * FINE, BLUE.mix(0.5).filled())),
        )?;
        Ok(())
    })
}

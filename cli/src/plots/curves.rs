//! ROC curves, and precision over recall.

use anyhow::Result;
use plotters::prelude::*;
use whit_convert::statistics::Ranking;

use super::{
    BLUE, Corner, FAINT, FINE, GREEN, GREY, HEIGHT, Mark, PURPLE, VERMILLION, WIDTH, draw, mesh,
    titled,
};

/// What a curve is drawn from.
pub(crate) struct Curve<'r> {
    pub(crate) ranking: &'r Ranking,
    pub(crate) name: String,
    /// The area, with its interval if there is one.
    pub(crate) area: String,
    /// Drawn as one of many, without a name.
    pub(crate) faint: bool,
    /// Where a chosen threshold puts it: (false-positive rate, recall, precision).
    pub(crate) chosen: Option<Point>,
}

const COLORS: [RGBColor; 4] = [BLUE, VERMILLION, GREEN, PURPLE];

/// Points of the averaged curve.
const GRID_POINTS: usize = 400;

/// Recall over the false-positive rate.
pub(crate) fn roc(title: &str, curves: &[Curve<'_>], mean: Option<&str>) -> Result<String> {
    let points = |curve: &Curve<'_>| {
        let ranking = curve.ranking;
        let totals = ranking.totals(&ranking.ones());
        let mut points = vec![(0.0, 0.0)];
        points.extend(ranking.points(&ranking.ones()).iter().map(|point| {
            (
                point.false_positives as f64 / totals.false_positives as f64,
                point.true_positives as f64 / totals.true_positives as f64,
            )
        }));
        points
    };
    let chance = vec![(0.0, 0.0), (1.0, 1.0)];
    plot(&Frame {
        title,
        x: "false-positive rate",
        y: "recall (true-positive rate)",
        reference: Some((chance, "chance")),
        lines: &curves.iter().map(points).collect::<Vec<_>>(),
        curves,
        chosen: |(fpr, recall, _)| Some((fpr, recall)),
        mean,
        corner: Corner::LowerRight,
    })
}

/// Precision over recall, in the steps that average precision sums.
pub(crate) fn precision_recall(
    title: &str,
    curves: &[Curve<'_>],
    mean: Option<&str>,
) -> Result<String> {
    let points = |curve: &Curve<'_>| {
        let ranking = curve.ranking;
        let positives = ranking.totals(&ranking.ones()).true_positives as f64;
        let mut points: Vec<(f64, f64)> = Vec::new();
        for point in ranking.points(&ranking.ones()) {
            let (tp, fp) = (point.true_positives as f64, point.false_positives as f64);
            let before = points.last().map_or(0.0, |last| last.0);
            let precision = tp / (tp + fp);
            if tp / positives > before {
                points.extend([(before, precision), (tp / positives, precision)]);
            }
        }
        points
    };
    // Of one curve, what guessing reaches: the share of positives.
    let reference = curves.first().filter(|_| mean.is_none()).map(|curve| {
        let totals = curve.ranking.totals(&curve.ranking.ones());
        let all = totals.true_positives + totals.false_positives;
        let share = totals.true_positives as f64 / all as f64;
        (vec![(0.0, share), (1.0, share)], "chance")
    });
    plot(&Frame {
        title,
        x: "recall",
        y: "precision",
        reference,
        lines: &curves.iter().map(points).collect::<Vec<_>>(),
        curves,
        chosen: |(_, recall, precision)| Some((recall, precision?)),
        mean,
        corner: Corner::LowerLeft,
    })
}

/// A place on a curve and the threshold that gives it.
type Point = (f64, f64, Option<f64>);

struct Frame<'f, 'r> {
    title: &'f str,
    x: &'f str,
    y: &'f str,
    reference: Option<(Vec<(f64, f64)>, &'f str)>,
    lines: &'f [Vec<(f64, f64)>],
    curves: &'f [Curve<'r>],
    chosen: fn(Point) -> Option<(f64, f64)>,
    /// The name of the mean of all curves.
    mean: Option<&'f str>,
    corner: Corner,
}

fn plot(frame: &Frame<'_, '_>) -> Result<String> {
    let Frame { title, x, y, reference, lines, curves, chosen, mean, corner } = frame;
    draw(WIDTH, HEIGHT, |canvas| {
        let area = titled(canvas, title)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(14 * FINE)
            .margin_top(4 * FINE)
            .x_label_area_size(44 * FINE)
            .y_label_area_size(58 * FINE)
            .build_cartesian_2d(0.0..1.0, 0.0..1.02)?;
        mesh(&mut chart).x_desc(*x).y_desc(*y).x_labels(6).y_labels(6).draw()?;
        let mut entries = Vec::new();
        if let Some((line, name)) = reference {
            let style = GREY.stroke_width(FINE);
            chart.draw_series(DashedLineSeries::new(line.clone(), 6 * FINE, 5 * FINE, style))?;
            entries.push((Mark::Dashes(style), (*name).to_owned()));
        }
        for (_, line) in curves.iter().zip(*lines).filter(|(curve, _)| curve.faint) {
            chart.draw_series(LineSeries::new(line.iter().copied(), FAINT.stroke_width(FINE)))?;
        }
        let named = curves.iter().zip(*lines).filter(|(curve, _)| !curve.faint);
        // The mean is blue and goes last, on top; single curves then take the other colours.
        let first = usize::from(mean.is_some());
        for (index, (curve, line)) in named.enumerate() {
            let color = COLORS[(first + index) % COLORS.len()];
            let style = color.stroke_width(2 * FINE);
            chart.draw_series(LineSeries::new(line.iter().copied(), style))?;
            let name = format!("{}: {}", super::shortened(&curve.name, 24), curve.area);
            entries.push((Mark::Line(style), name));
            if let Some(at) = curve.chosen.and_then(chosen) {
                chart.draw_series(std::iter::once(Circle::new(at, 5 * FINE, color.filled())))?;
                chart.draw_series(std::iter::once(Circle::new(at, 2 * FINE, WHITE.filled())))?;
            }
        }
        if curves.iter().any(|curve| curve.faint) {
            let others = format!("the other {}", curves.iter().filter(|c| c.faint).count());
            entries.push((Mark::Line(FAINT.stroke_width(FINE)), others));
        }
        if let Some(name) = mean {
            let style = BLUE.stroke_width(3 * FINE);
            chart.draw_series(LineSeries::new(average(lines), style))?;
            entries.push((Mark::Line(style), (*name).to_owned()));
        }
        super::legend(&chart.plotting_area().strip_coord_spec(), *corner, &entries)?;
        Ok(())
    })
}

/// The mean of the curves' heights at each place. Of a step, the upper end counts.
fn average(lines: &[Vec<(f64, f64)>]) -> Vec<(f64, f64)> {
    let height = |line: &[(f64, f64)], x: f64| {
        let next = line.partition_point(|point| point.0 <= x);
        match (next.checked_sub(1).map(|at| line[at]), line.get(next)) {
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0),
            (Some(a), None) => a.1,
            (None, Some(b)) => b.1,
            (None, None) => f64::NAN,
        }
    };
    (0..=GRID_POINTS)
        .map(|step| {
            let x = step as f64 / GRID_POINTS as f64;
            let heights: Vec<f64> =
                lines.iter().map(|line| height(line, x)).filter(|y| !y.is_nan()).collect();
            (x, heights.iter().sum::<f64>() / heights.len().max(1) as f64)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_lie_between_the_curves() {
        let a = vec![(0.0, 0.0), (0.0, 0.5), (1.0, 1.0)];
        let b = vec![(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (1.0, 1.0)];
        let mean = average(&[a, b]);
        assert_eq!(mean.len(), GRID_POINTS + 1);
        assert_eq!(mean[0], (0.0, 0.25));
        assert_eq!(mean[GRID_POINTS / 4], (0.25, 0.3125));
        assert_eq!(mean[GRID_POINTS / 2], (0.5, 0.875));
        assert_eq!(mean[GRID_POINTS], (1.0, 1.0));
    }
}

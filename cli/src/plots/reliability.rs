//! The reliability diagram: how often answers are right, by how sure the model is, over the count of such answers.

use anyhow::Result;
use plotters::prelude::*;
use whit_convert::statistics::proportion::wilson;

use super::{BLUE, Corner, FINE, GREY, Mark, VERMILLION, WIDTH, draw, mesh, shortened, titled};
use crate::metrics::Calibration;

const HEIGHT: u32 = 600 * FINE;

/// Draws one or two models: name and calibration.
pub(crate) fn reliability(
    title: &str,
    models: &[(&str, &Calibration)],
    confidence: f64,
) -> Result<String> {
    draw(WIDTH, HEIGHT, |canvas| {
        let area = titled(canvas, title)?;
        let (upper, lower) = area.split_vertically(392 * FINE);
        let mut chart = ChartBuilder::on(&upper)
            .margin(14 * FINE)
            .margin_top(4 * FINE)
            .margin_bottom(0)
            .x_label_area_size(24 * FINE)
            .y_label_area_size(58 * FINE)
            .build_cartesian_2d(0.0..1.0, 0.0..1.02)?;
        mesh(&mut chart).y_desc("share that is right").x_labels(6).y_labels(6).draw()?;
        let dashed = GREY.stroke_width(FINE);
        let ideal = DashedLineSeries::new([(0.0, 0.0), (1.0, 1.0)], 6 * FINE, 5 * FINE, dashed);
        chart.draw_series(ideal)?;
        let mut entries = vec![(Mark::Dashes(dashed), "as sure as right".to_owned())];
        for ((name, calibration), color) in models.iter().zip([BLUE, VERMILLION]) {
            let points: Vec<(f64, f64, u64)> = (calibration.bins.iter())
                .filter_map(|bin| Some((bin.confidence?, bin.accuracy?, bin.samples)))
                .collect();
            let line = color.stroke_width(2 * FINE);
            let error = calibration.ece.unwrap_or(f64::NAN);
            chart.draw_series(LineSeries::new(points.iter().map(|(x, y, _)| (*x, *y)), line))?;
            entries.push((Mark::Line(line), format!("{}: ECE {error:.3}", shortened(name, 26))));
            for (x, y, samples) in points {
                let hits = (y * samples as f64).round() as u64;
                if let Some(interval) = wilson(hits, samples, confidence) {
                    let bar = vec![(x, interval.low), (x, interval.high)];
                    let style = color.mix(0.55).stroke_width(FINE);
                    chart.draw_series(std::iter::once(PathElement::new(bar, style)))?;
                }
                chart.draw_series(std::iter::once(Circle::new(
                    (x, y),
                    4 * FINE,
                    color.filled(),
                )))?;
            }
        }
        super::legend(&chart.plotting_area().strip_coord_spec(), Corner::UpperLeft, &entries)?;
        counts(&lower, models)
    })
}

/// How many answers are so sure, below and on the same axis.
fn counts(area: &super::Canvas<'_>, models: &[(&str, &Calibration)]) -> Result<()> {
    let most = models.iter().flat_map(|(_, c)| c.bins.iter().map(|bin| bin.samples)).max();
    let most = most.unwrap_or(1).max(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(14 * FINE)
        .margin_top(6 * FINE)
        .x_label_area_size(44 * FINE)
        .y_label_area_size(58 * FINE)
        .build_cartesian_2d(0.0..1.0, 0.0..most * 1.08)?;
    mesh(&mut chart)
        .x_desc("confidence: probability of the class answered")
        .y_desc("samples")
        .x_labels(6)
        .y_labels(4)
        .disable_x_mesh()
        .draw()?;
    let share = 0.86 / models.len() as f64;
    for (index, ((_, calibration), color)) in models.iter().zip([BLUE, VERMILLION]).enumerate() {
        chart.draw_series(calibration.bins.iter().filter(|bin| bin.samples > 0).map(|bin| {
            let width = bin.to - bin.from;
            let left = bin.from + width * (0.07 + share * index as f64);
            Rectangle::new(
                [(left, 0.0), (left + width * share, bin.samples as f64)],
                color.mix(0.75).filled(),
            )
        }))?;
    }
    Ok(())
}

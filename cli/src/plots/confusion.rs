//! The confusion matrix: rows are labels, columns answers, colour is the share of the label's samples.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{FINE, GREY, INK, TICK, draw, font, shortened, text_width, titled, upwards};

/// Side of the matrix in canvas units, about: cells are whole units.
const SIDE: u32 = 430 * FINE;

/// Classes up to which cells have numbers and all classes a name.
const MAX_NUMBERED: usize = 30;

const LONGEST_NAME: usize = 14;

/// Draws counts `matrix[label][answer]`.
pub(crate) fn confusion(title: &str, matrix: &[Vec<u64>], names: &[String]) -> Result<String> {
    let classes = matrix.len();
    let cell = (SIDE / classes.max(1) as u32).clamp(1, 120 * FINE);
    // Whole units of the picture have sharp edges.
    let cell = if cell > FINE { cell / FINE * FINE } else { cell };
    let side = (cell * classes as u32) as i32;
    let numbered = classes <= MAX_NUMBERED;
    let unit = FINE as i32;
    let names: Vec<String> = names.iter().map(|name| shortened(name, LONGEST_NAME)).collect();
    let size = if numbered { TICK.min(cell * 2 / 3) } else { TICK };
    let mut longest = 0;
    for name in &names {
        longest = longest.max(text_width(name, size));
    }
    let margin = longest + 62 * unit;
    let (width, height) = (margin + side + 120 * unit, 44 * unit + side + margin);
    draw(width.max(420 * unit) as u32, height as u32, |canvas| {
        let area = titled(canvas, title)?;
        let (left, top) = (margin, 6 * unit);
        for (label, row) in matrix.iter().enumerate() {
            let support: u64 = row.iter().sum();
            for (answer, count) in row.iter().enumerate() {
                let share = if support == 0 { 0.0 } else { *count as f64 / support as f64 };
                let x = left + (answer as u32 * cell) as i32;
                let y = top + (label as u32 * cell) as i32;
                let gap = if cell > 8 * FINE { unit } else { 0 };
                let corners = [(x, y), (x + cell as i32 - gap, y + cell as i32 - gap)];
                area.draw(&Rectangle::new(corners, shade(share).filled()))?;
                if numbered && *count > 0 {
                    let color = if share > 0.55 { WHITE } else { INK };
                    let middle = (x + cell as i32 / 2, y + cell as i32 / 2);
                    let style = font(size.min(cell / 2))
                        .color(&color)
                        .pos(Pos::new(HPos::Center, VPos::Center));
                    area.draw(&Text::new(count.to_string(), middle, style))?;
                }
            }
        }
        // With many classes, every so many have a name.
        let every = if numbered { 1 } else { classes.div_ceil(20) };
        for class in (0..classes).step_by(every) {
            let middle = (class as u32 * cell + cell / 2) as i32;
            let name = names.get(class).cloned().unwrap_or_else(|| class.to_string());
            area.draw(&Text::new(
                name.clone(),
                (left - 6 * unit, top + middle),
                font(size).pos(Pos::new(HPos::Right, VPos::Center)),
            ))?;
            // Short names stand upright below their column.
            let width = text_width(&name, size);
            let below = top + side + 6 * unit;
            if width < cell as i32 * 9 / 10 {
                let style = font(size).pos(Pos::new(HPos::Center, VPos::Top));
                area.draw(&Text::new(name, (left + middle, below), style))?;
            } else {
                let style = upwards(size).pos(Pos::new(HPos::Center, VPos::Center));
                area.draw(&Text::new(name, (left + middle, below + width / 2), style))?;
            }
        }
        let centre = Pos::new(HPos::Center, VPos::Center);
        area.draw(&Text::new(
            "predicted class",
            (left + side / 2, top + side + margin - 24 * unit),
            font(super::LABEL).pos(centre),
        ))?;
        area.draw(&Text::new(
            "label",
            (22 * unit, top + side / 2),
            upwards(super::LABEL).pos(centre),
        ))?;
        colour_bar(&area, (left + side + 24 * unit, top), side.min(200 * unit))?;
        Ok(())
    })
}

/// White to dark blue, evenly darker.
fn shade(share: f64) -> RGBColor {
    let mix = |from: u8, to: u8| {
        (f64::from(from) + (f64::from(to) - f64::from(from)) * share).round() as u8
    };
    if share == 0.0 {
        return RGBColor(246, 248, 250);
    }
    RGBColor(mix(228, 0), mix(239, 66), mix(247, 112))
}

fn colour_bar(area: &super::Canvas<'_>, (x, y): (i32, i32), height: i32) -> Result<()> {
    let unit = FINE as i32;
    area.draw(&Text::new("share of", (x, y), font(TICK).color(&GREY)))?;
    area.draw(&Text::new("the label", (x, y + 15 * unit), font(TICK).color(&GREY)))?;
    let (top, steps) = (y + 40 * unit, 50);
    // Steps of whole units, so that no seams show.
    let step_height = ((height - 40 * unit) / steps / unit).max(1) * unit;
    let height = step_height * steps;
    for step in 0..steps {
        let share = 1.0 - (f64::from(step) + 0.5) / f64::from(steps);
        let from = top + step_height * step;
        let corners = [(x, from), (x + 14 * unit, from + step_height)];
        area.draw(&Rectangle::new(corners, shade(share).filled()))?;
    }
    for (share, text) in [(0, "100 %"), (1, "50 %"), (2, "0 %")] {
        let at = (x + 20 * unit, top + height * share / 2);
        area.draw(&Text::new(text, at, font(TICK).pos(Pos::new(HPos::Left, VPos::Center))))?;
    }
    Ok(())
}

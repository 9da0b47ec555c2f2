//! Plots of an evaluation as SVG, and as PNG drawn from that SVG: confusion matrix, ROC, precision and recall,
//! reliability, scores, predictions beside targets.
//!
//! Text is measured and, in PNG, drawn with Noto Sans, which is linked in: no font has to be installed. An SVG names it
//! first and falls back on what the viewer has. Colours are those of Okabe and Ito, which the colour-blind tell apart.

mod confusion;
mod curves;
mod reliability;
mod scores;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64 as Axis;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, register_font};
use resvg::{tiny_skia, usvg};

pub(crate) use confusion::confusion;
pub(crate) use curves::{Curve, precision_recall, roc};
pub(crate) use reliability::reliability;
pub(crate) use scores::{Group, histogram, scatter};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlotFormat {
    /// Vector graphics
    Svg,
    /// Pixels, twice as many as the SVG's size
    Png,
    /// One file of each
    Both,
}

/// Canvas units per unit of the finished picture. Plotters counts in whole units, so that curves want small ones.
const FINE: u32 = 4;
/// Pixels of a PNG per unit of the SVG.
const PIXELS: u32 = 2;
const WIDTH: u32 = 640 * FINE;
const HEIGHT: u32 = 520 * FINE;

const FAMILY: &str = "Noto Sans, Helvetica, Arial, sans-serif";
const TITLE: u32 = 15 * FINE;
const LABEL: u32 = 13 * FINE;
const TICK: u32 = 11 * FINE;

const BLUE: RGBColor = RGBColor(0, 114, 178);
const VERMILLION: RGBColor = RGBColor(213, 94, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const PURPLE: RGBColor = RGBColor(204, 121, 167);
const INK: RGBColor = RGBColor(34, 34, 34);
const GREY: RGBColor = RGBColor(120, 120, 120);
const FAINT: RGBColor = RGBColor(205, 205, 205);
const GRID: RGBColor = RGBColor(234, 234, 234);

type Canvas<'s> = DrawingArea<SVGBackend<'s>, Shift>;
type Chart<'c, 'b> = ChartContext<'c, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;

/// Draws onto a white canvas; the text of an SVG file.
fn draw(width: u32, height: u32, paint: impl FnOnce(&Canvas<'_>) -> Result<()>) -> Result<String> {
    static FONT: OnceLock<bool> = OnceLock::new();
    let loaded = FONT.get_or_init(|| {
        register_font(FAMILY, FontStyle::Normal, notosans::REGULAR_TTF).is_ok()
            && register_font(FAMILY, FontStyle::Bold, notosans::BOLD_TTF).is_ok()
    });
    if !loaded {
        return Err(anyhow!("the plots' font doesn't load"));
    }
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        canvas.fill(&WHITE)?;
        paint(&canvas)?;
        canvas.present()?;
    }
    // The view box keeps the fine units.
    Ok(svg.replacen(
        &format!("width=\"{width}\" height=\"{height}\""),
        &format!("width=\"{}\" height=\"{}\"", width / FINE, height / FINE),
        1,
    ))
}

/// Writes a plot as `DIR/NAME.svg`, `DIR/NAME.png`, or both.
pub(crate) fn save(
    folder: &Path,
    name: &str,
    svg: &str,
    format: PlotFormat,
) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let mut write = |extension: &str, bytes: &[u8]| -> Result<()> {
        let path = folder.join(format!("{name}.{extension}"));
        std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        written.push(path);
        Ok(())
    };
    if format != PlotFormat::Png {
        write("svg", svg.as_bytes())?;
    }
    if format != PlotFormat::Svg {
        write("png", &png(svg)?)?;
    }
    Ok(written)
}

fn png(svg: &str) -> Result<Vec<u8>> {
    let mut options = usvg::Options { font_family: "Noto Sans".to_owned(), ..Default::default() };
    let fonts = options.fontdb_mut();
    fonts.load_font_data(notosans::REGULAR_TTF.to_vec());
    fonts.load_font_data(notosans::BOLD_TTF.to_vec());
    fonts.set_sans_serif_family("Noto Sans");
    let tree = usvg::Tree::from_str(svg, &options)?;
    let size = tree.size().to_int_size();
    let mut pixels = tiny_skia::Pixmap::new(size.width() * PIXELS, size.height() * PIXELS)
        .ok_or_else(|| anyhow!("a plot without size"))?;
    let scale = tiny_skia::Transform::from_scale(PIXELS as f32, PIXELS as f32);
    resvg::render(&tree, scale, &mut pixels.as_mut());
    Ok(pixels.encode_png()?)
}

/// Plotters writes font sizes divided by this into SVG.
const SIZE_DIVISOR: f64 = 1.24;

/// Plotters measures text a tenth narrower than Noto Sans is: it takes the line's height for the size.
const MEASURED_SHORT: f64 = 1.11;

fn family(size: u32, style: FontStyle) -> FontDesc<'static> {
    FontDesc::new(FontFamily::Name(FAMILY), f64::from(size) * SIZE_DIVISOR, style)
}

fn font(size: u32) -> TextStyle<'static> {
    family(size, FontStyle::Normal).color(&INK)
}

fn bold(size: u32) -> TextStyle<'static> {
    family(size, FontStyle::Bold).color(&INK)
}

fn upwards(size: u32) -> TextStyle<'static> {
    family(size, FontStyle::Normal).transform(FontTransform::Rotate270).color(&INK)
}

fn text_width(text: &str, size: u32) -> i32 {
    let measured = family(size, FontStyle::Normal).box_size(text).map_or(0, |(width, _)| width);
    (f64::from(measured) * MEASURED_SHORT) as i32
}

/// What stands before an entry of a legend.
enum Mark {
    Line(ShapeStyle),
    Dashes(ShapeStyle),
    Box(ShapeStyle),
}

#[derive(Clone, Copy)]
enum Corner {
    UpperLeft,
    UpperMiddle,
    LowerLeft,
    LowerRight,
}

/// Draws a legend into a corner of the area between the axes.
fn legend(area: &Canvas<'_>, corner: Corner, entries: &[(Mark, String)]) -> Result<()> {
    let unit = FINE as i32;
    let (width, height) = area.dim_in_pixel();
    let longest = entries.iter().map(|(_, text)| text_width(text, TICK)).max().unwrap_or(0);
    let (row, pad, mark) = (19 * unit, 8 * unit, 26 * unit);
    let (w, h) = (longest + mark + 2 * pad, row * entries.len() as i32 + pad);
    let (right, bottom) = (width as i32 - w - 10 * unit, height as i32 - h - 10 * unit);
    let (x, y) = match corner {
        Corner::UpperLeft => (10 * unit, 12 * unit),
        Corner::UpperMiddle => ((width as i32 - w) / 2, 6 * unit),
        Corner::LowerLeft => (10 * unit, bottom),
        Corner::LowerRight => (right, bottom),
    };
    area.draw(&Rectangle::new([(x, y), (x + w, y + h)], WHITE.mix(0.9).filled()))?;
    for (index, (kind, text)) in entries.iter().enumerate() {
        let middle = y + pad / 2 + row * index as i32 + row / 2;
        let (from, to) = (x + pad, x + pad + 20 * unit);
        match kind {
            Mark::Line(style) => {
                area.draw(&PathElement::new([(from, middle), (to, middle)], *style))?;
            }
            Mark::Dashes(style) => {
                for dash in 0..2 {
                    let at = from + 12 * unit * dash;
                    area.draw(&PathElement::new([(at, middle), (at + 8 * unit, middle)], *style))?;
                }
            }
            Mark::Box(style) => {
                let corners = [(from, middle - 5 * unit), (to - 2 * unit, middle + 5 * unit)];
                area.draw(&Rectangle::new(corners, *style))?;
            }
        }
        let at = (x + pad + mark, middle);
        area.draw(&Text::new(
            text.as_str(),
            at,
            font(TICK).pos(Pos::new(HPos::Left, VPos::Center)),
        ))?;
    }
    Ok(())
}

/// The title across the top, and what is left below it.
fn titled<'s>(canvas: &Canvas<'s>, title: &str) -> Result<Canvas<'s>> {
    let (head, rest) = canvas.split_vertically(38 * FINE);
    let title = shortened(title, 68);
    head.draw(&Text::new(title, (14 * FINE as i32, 12 * FINE as i32), bold(TITLE)))?;
    Ok(rest)
}

/// `0.2`, `15`, `1.5e6`: a tick without needless zeros.
/// A mesh in the style of all plots; the caller names its axes and draws it.
fn mesh<'m, 'c, 'b>(chart: &'m mut Chart<'c, 'b>) -> MeshStyle<'c, 'm, Axis, Axis, SVGBackend<'b>> {
    let mut mesh = chart.configure_mesh();
    mesh.axis_desc_style(font(LABEL))
        .label_style(font(TICK))
        .x_label_formatter(&tick)
        .y_label_formatter(&tick)
        .bold_line_style(GRID.stroke_width(FINE))
        .light_line_style(TRANSPARENT)
        .axis_style(GREY.stroke_width(FINE));
    mesh
}

fn tick(value: &f64) -> String {
    let value = if value.abs() < 1e-12 { 0.0 } else { *value };
    if value != 0.0 && !(1e-4..1e6).contains(&value.abs()) {
        return format!("{value:e}");
    }
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').replace('-', "−")
}

fn shortened(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_owned();
    }
    name.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks() {
        for (value, text) in [
            (0.30000000000000004, "0.3"),
            (-0.5, "−0.5"),
            (0.0, "0"),
            (1e-17, "0"),
            (120.0, "120"),
            (2e6, "2e6"),
        ] {
            assert_eq!(tick(&value), text);
        }
    }

    /// A picture is well-formed, has the size asked for, and its text is really drawn: pixels of ink without any system font.
    #[test]
    fn text_needs_no_system_font() {
        let svg = draw(200 * FINE, 100 * FINE, |canvas| {
            canvas.draw(&Text::new("Größe <1 & 2>", (40, 40), font(TITLE)))?;
            Ok(())
        })
        .unwrap();
        assert!(svg.contains("width=\"200\" height=\"100\""), "{svg}");
        let image = image::load_from_memory(&png(&svg).unwrap()).unwrap().to_luma8();
        assert_eq!(image.dimensions(), (200 * PIXELS, 100 * PIXELS));
        let dark = image.pixels().filter(|pixel| pixel.0[0] < 128).count();
        assert!((500..20_000).contains(&dark), "{dark} dark pixels");
    }
}

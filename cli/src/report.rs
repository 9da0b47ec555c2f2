//! What people read: aligned tables, numbers with units, confusion matrices.

use std::fmt::Display;

use comfy_table::{CellAlignment, Table};

/// Shown where a value isn't defined.
pub(crate) const UNDEFINED: &str = "–";

/// Classes that a confusion matrix is printed for; more don't fit a terminal.
const MAX_MATRIX_CLASSES: usize = 20;
const MAX_NAME_CHARS: usize = 16;

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table without lines: columns two spaces apart, each aligned as its header says. The rows have
/// as many cells as the header.
pub(crate) fn table(header: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.iter().map(|(title, _)| *title));
    for row in rows {
        table.add_row(row);
    }
    for (index, (_, align)) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            column.set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Lines `name  value`, names aligned left and values left.
pub(crate) fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines: Vec<String> =
        rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
    lines.join("\n")
}

/// `812 B`, `1.2 MB`: decimal units, one decimal.
pub(crate) fn bytes(count: u64) -> String {
    if count < 1000 {
        format!("{count} B")
    } else {
        scaled(count as f64 / 1e3, &["KB", "MB", "GB", "TB"], |_| 1)
    }
}

/// `264 kMAC`, `12.5 MMAC`: three digits.
pub(crate) fn macs(count: u64) -> String {
    if count < 1000 {
        format!("{count} MAC")
    } else {
        scaled(count as f64 / 1e3, &["kMAC", "MMAC", "GMAC", "TMAC"], three_digits)
    }
}

/// `850 ns`, `43.1 µs`, `1.24 ms`, `12.0 s`: three digits.
pub(crate) fn micros(us: f64) -> String {
    if !us.is_finite() {
        return UNDEFINED.to_owned();
    }
    scaled(us * 1e3, &["ns", "µs", "ms", "s"], three_digits)
}

/// `97.3 %` of a share in 0..=1.
pub(crate) fn percent(share: impl Into<Option<f64>>) -> String {
    defined(share.into().map(|s| s * 100.0), |s| format!("{s:.1} %"))
}

/// `0.973`: a score with `decimals` digits behind the point.
pub(crate) fn score(value: impl Into<Option<f64>>, decimals: usize) -> String {
    defined(value.into(), |v| format!("{v:.decimals$}"))
}

/// A number with four digits or so, more for the very small.
pub(crate) fn significant(value: f64) -> String {
    if !value.is_finite() {
        return UNDEFINED.to_owned();
    }
    if value != 0.0 && value.abs() < 1e-6 {
        return format!("{value:.3e}");
    }
    format!("{value:.*}", decimals_of(value))
}

/// Decimals that leave about four digits.
pub(crate) fn decimals_of(value: f64) -> usize {
    match value.abs() {
        v if v >= 1000.0 => 0,
        v if v >= 100.0 => 1,
        v if v >= 10.0 => 2,
        v if v >= 1.0 => 3,
        v if v >= 1e-3 || v == 0.0 => 4,
        _ => 6,
    }
}

/// `95 %`, `99.9 %`: no more decimals than needed.
pub(crate) fn percent_short(share: f64) -> String {
    format!("{} %", (share * 1e6).round() / 1e4)
}

fn defined(value: Option<f64>, format: impl Fn(f64) -> String) -> String {
    value.filter(|v| v.is_finite()).map_or_else(|| UNDEFINED.to_owned(), format)
}

/// Decimals that leave three digits.
fn three_digits(value: f64) -> usize {
    if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    }
}

/// `value` of the first unit, in the unit where it is below 1000 as printed.
fn scaled(mut value: f64, units: &[&str], decimals: impl Fn(f64) -> usize) -> String {
    for (index, unit) in units.iter().enumerate() {
        let text = format!("{value:.*}", decimals(value));
        let overflows = text.parse::<f64>().is_ok_and(|printed| printed >= 1000.0);
        if !overflows || index + 1 == units.len() {
            // A whole count of the smallest time unit has no decimals worth printing.
            return if *unit == "ns" { format!("{value:.0} ns") } else { format!("{text} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value}")
}

/// Rows are labels, columns predictions. With more than 20 classes: the most frequent confusions.
pub(crate) fn confusion(matrix: &[Vec<u64>], names: Option<&[String]>) -> String {
    let name = |class: usize| {
        names.and_then(|n| n.get(class)).map_or_else(|| class.to_string(), |n| shorten(n))
    };
    if matrix.len() > MAX_MATRIX_CLASSES {
        return top_confusions(matrix, name);
    }
    let columns: Vec<String> = (0..matrix.len()).map(name).collect();
    let mut header = vec![("label \\ predicted", Align::Left)];
    header.extend(columns.iter().map(|c| (c.as_str(), Align::Right)));
    let rows: Vec<Vec<String>> = matrix
        .iter()
        .enumerate()
        .map(|(label, row)| {
            let cells = row.iter().map(|n| if *n == 0 { "·".to_owned() } else { n.to_string() });
            std::iter::once(name(label)).chain(cells).collect()
        })
        .collect();
    table(&header, &rows)
}

fn top_confusions<N: Display>(matrix: &[Vec<u64>], name: impl Fn(usize) -> N) -> String {
    let mut mistakes = Vec::new();
    for (label, row) in matrix.iter().enumerate() {
        for (predicted, count) in row.iter().enumerate().filter(|(p, n)| *p != label && **n > 0) {
            mistakes.push((*count, label, predicted));
        }
    }
    mistakes
        .sort_by_key(|(count, label, predicted)| (std::cmp::Reverse(*count), *label, *predicted));
    let rows: Vec<Vec<String>> = mistakes
        .iter()
        .take(MAX_MATRIX_CLASSES)
        .map(|(count, label, predicted)| {
            vec![name(*label).to_string(), name(*predicted).to_string(), count.to_string()]
        })
        .collect();
    if rows.is_empty() {
        return "no confusions".to_owned();
    }
    table(&[("label", Align::Left), ("predicted", Align::Left), ("samples", Align::Right)], &rows)
}

fn shorten(name: &str) -> String {
    if name.chars().count() <= MAX_NAME_CHARS {
        return name.to_owned();
    }
    name.chars().take(MAX_NAME_CHARS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, expected) in [
            (bytes(0), "0 B"),
            (bytes(999), "999 B"),
            (bytes(1000), "1.0 KB"),
            (bytes(55_296), "55.3 KB"),
            (bytes(999_949), "999.9 KB"),
            (bytes(999_950), "1.0 MB"),
            (bytes(1_234_567), "1.2 MB"),
            (bytes(5_000_000_000), "5.0 GB"),
            (bytes(u64::MAX), "18446744.1 TB"),
            (macs(12), "12 MAC"),
            (macs(264_192), "264 kMAC"),
            (macs(999_600), "1.00 MMAC"),
            (macs(2_656_768), "2.66 MMAC"),
            (macs(12_501_632), "12.5 MMAC"),
            (micros(0.0), "0 ns"),
            (micros(0.85), "850 ns"),
            (micros(0.9996), "1.00 µs"),
            (micros(3.5), "3.50 µs"),
            (micros(9.996), "10.0 µs"),
            (micros(43.13), "43.1 µs"),
            (micros(342.4), "342 µs"),
            (micros(999.7), "1.00 ms"),
            (micros(1240.0), "1.24 ms"),
            (micros(12e6), "12.0 s"),
            (micros(1.5e9), "1500 s"),
            (micros(f64::NAN), "–"),
            (percent(0.9731), "97.3 %"),
            (percent(1.0), "100.0 %"),
            (percent(None), "–"),
            (percent(f64::NAN), "–"),
            (score(0.91234, 3), "0.912"),
            (score(None, 3), "–"),
            (significant(0.0), "0.0000"),
            (significant(0.95344), "0.9534"),
            (significant(-12.3456), "-12.35"),
            (significant(123456.7), "123457"),
            (significant(0.000123), "0.000123"),
            (significant(1.5e-9), "1.500e-9"),
            (significant(f64::NAN), "–"),
            (percent_short(0.95), "95 %"),
            (percent_short(0.999), "99.9 %"),
            (percent_short(0.99), "99 %"),
        ] {
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn tables_are_aligned() {
        let header = [("layer", Align::Left), ("time", Align::Right), ("MACs", Align::Right)];
        let rows = [
            vec!["conv/0".to_owned(), micros(9.5), macs(300_000)],
            vec!["größe".to_owned(), micros(120.0), UNDEFINED.to_owned()],
        ];
        assert_eq!(
            table(&header, &rows),
            "\
layer      time      MACs
conv/0  9.50 µs  300 kMAC
größe    120 µs         –"
        );
        assert_eq!(
            fields(&[("model", "kws".to_owned()), ("arena", bytes(22_820))]),
            "\
model  kws
arena  22.8 KB"
        );
    }

    #[test]
    fn confusions() {
        let names = ["cat".to_owned(), "a very long class name".to_owned()];
        assert_eq!(
            confusion(&[vec![10, 2], vec![0, 7]], Some(&names)),
            "\
label \\ predicted  cat  a very long cla…
cat                 10                 2
a very long cla…     ·                 7"
        );
        assert_eq!(
            confusion(&[vec![1, 0], vec![3, 20]], None),
            "\
label \\ predicted  0   1
0                  1   ·
1                  3  20"
        );
        let mut large = vec![vec![0; 21]; 21];
        assert_eq!(confusion(&large, None), "no confusions");
        (large[3][3], large[20][1], large[0][2]) = (50, 4, 9);
        assert_eq!(
            confusion(&large, None),
            "\
label  predicted  samples
0      2                9
20     1                4"
        );
    }
}

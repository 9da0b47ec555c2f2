//! When each word was said: which sound tokens attend to, brought into the order of time (dynamic time warping), and tokens as words. The
//! procedure is that of OpenAI's whisper, version 20231117 on ("timing"), without its rules of thumb about pauses.

use std::ops::Range;

/// A word and when it was said.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// Usually begins with a space.
    pub text: String,
    /// Seconds from the beginning of the sound.
    pub start: f64,
    /// Seconds from the beginning of the sound.
    pub end: f64,
    /// Mean of its tokens'.
    pub probability: f64,
}

/// Frames over which attention is smoothed.
const MEDIAN_FRAMES: usize = 7;

/// Marks that belong to the word behind them.
const PREPENDED: &str = "\"'“¿([{-";

/// Marks that belong to the word before them.
const APPENDED: &str = "\"'.。,，!！?？:：”)]}、";

/// Languages that are written without spaces between words.
const WITHOUT_SPACES: [&str; 6] = ["zh", "ja", "th", "lo", "my", "yue"];

/// How much tokens attend to frames of the encoder, by some heads: `[tokens, heads, frames]`.
#[derive(Default)]
pub(crate) struct Attention {
    pub(crate) heads: usize,
    pub(crate) frames: usize,
    pub(crate) weights: Vec<f32>,
}

impl Attention {
    /// The frame at which each token of `tokens` begins to be said, of the first `heard` frames.
    pub(crate) fn frames_of(&self, tokens: Range<usize>, heard: usize) -> Vec<usize> {
        let heard = heard.clamp(1, self.frames);
        let mut cost = vec![0.0f64; tokens.len() * heard];
        let all = self.weights.len() / (self.heads * self.frames);
        for head in 0..self.heads {
            // A row for each token: shares of what was heard.
            let mut rows: Vec<Vec<f64>> = (0..all)
                .map(|token| {
                    let at = (token * self.heads + head) * self.frames;
                    let row: Vec<f64> =
                        self.weights[at..at + heard].iter().map(|w| f64::from(*w)).collect();
                    let sum = row.iter().sum::<f64>().max(f64::MIN_POSITIVE);
                    row.into_iter().map(|weight| weight / sum).collect()
                })
                .collect();
            // What a frame gets from every token says nothing.
            for frame in 0..heard {
                let mean = rows.iter().map(|row| row[frame]).sum::<f64>() / all as f64;
                let variance = rows.iter().map(|row| (row[frame] - mean).powi(2)).sum::<f64>();
                let deviation = (variance / all as f64).sqrt();
                for row in &mut rows {
                    let off = row[frame] - mean;
                    row[frame] = if deviation > 0.0 { off / deviation } else { 0.0 };
                }
            }
            let wanted = rows[tokens.clone()].iter().zip(cost.chunks_exact_mut(heard));
            for (row, cost) in wanted {
                for (cost, weight) in cost.iter_mut().zip(medians(row)) {
                    *cost -= weight / self.heads as f64;
                }
            }
        }
        warp(&cost, heard)
    }
}

/// The median of the frames around each, reflected at both ends.
fn medians(row: &[f64]) -> Vec<f64> {
    let side = MEDIAN_FRAMES / 2;
    if row.len() <= side {
        return row.to_vec();
    }
    let last = row.len() - 1;
    let reflected = |at: isize| {
        let at = at.unsigned_abs();
        row[if at > last { 2 * last - at } else { at }]
    };
    (0..row.len() as isize)
        .map(|at| {
            let mut window: [f64; MEDIAN_FRAMES] =
                std::array::from_fn(|i| reflected(at + i as isize - side as isize));
            window.sort_by(f64::total_cmp);
            window[side]
        })
        .collect()
}

/// The cheapest way through a matrix `[rows, columns]` from its first to its last element, in steps to the next row, column or both: the
/// column at which each row begins.
fn warp(cost: &[f64], columns: usize) -> Vec<usize> {
    /// Where an element is reached from.
    #[derive(Clone, Copy, PartialEq)]
    enum From {
        Both,
        Row,
        Column,
    }
    let rows = cost.len() / columns;
    let mut from = vec![From::Column; cost.len()];
    let mut before = vec![f64::INFINITY; columns];
    for row in 0..rows {
        let mut sums = vec![f64::INFINITY; columns];
        for column in 0..columns {
            let left = |sums: &[f64]| column.checked_sub(1).map_or(f64::INFINITY, |at| sums[at]);
            let (up, beside, both) = (before[column], left(&sums), left(&before));
            let (least, way) = match () {
                () if row == 0 && column == 0 => (0.0, From::Both),
                () if both < up && both < beside => (both, From::Both),
                () if up < both && up < beside => (up, From::Row),
                () => (beside, From::Column),
            };
            sums[column] = cost[row * columns + column] + least;
            from[row * columns + column] = match way {
                From::Column if column == 0 => From::Row,
                way => way,
            };
        }
        before = sums;
    }
    let mut begins = vec![0; rows];
    let (mut row, mut column) = (rows.saturating_sub(1), columns - 1);
    while row > 0 {
        let way = from[row * columns + column];
        if way != From::Column {
            begins[row] = column;
            row -= 1;
        }
        if way != From::Row {
            column = column.saturating_sub(1);
        }
    }
    begins
}

/// Tokens of a word, by their numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) tokens: Range<usize>,
}

/// Cuts a text into words: where a space or a mark begins one, in languages without spaces at every character. `decode` gives the text of
/// some of its `count` tokens.
pub(crate) fn pieces<E>(
    count: usize,
    language: Option<&str>,
    decode: impl Fn(Range<usize>) -> Result<String, E>,
) -> Result<Vec<Piece>, E> {
    let mut pieces: Vec<Piece> = Vec::new();
    let whole = decode(0..count)?;
    let (mut first, mut bytes) = (0, 0);
    for end in 1..=count {
        let text = decode(first..end)?;
        // Bytes of a character that isn't complete, unless the text has them so.
        let is_cut =
            text.ends_with('\u{fffd}') && whole.get(bytes..bytes + text.len()) != Some(&*text);
        if is_cut && end < count {
            continue;
        }
        bytes += text.len();
        let is_mark = text.trim().chars().all(|c| c.is_ascii_punctuation());
        let begins = text.starts_with(' ') || is_mark || pieces.is_empty();
        let always = language.is_some_and(|language| WITHOUT_SPACES.contains(&language));
        match pieces.last_mut() {
            Some(last) if !begins && !always => {
                last.text += &text;
                last.tokens.end = end;
            }
            _ => pieces.push(Piece { text, tokens: first..end }),
        }
        first = end;
    }
    Ok(joined(pieces))
}

/// Puts marks to the words that they belong to.
fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let is_among = |marks: &str, text: &str| !text.is_empty() && marks.contains(text);
    let mut words: Vec<Piece> = Vec::new();
    // From the end: a mark is put to the word behind it.
    for mut piece in pieces.into_iter().rev() {
        match words.last_mut() {
            Some(next) if piece.text.starts_with(' ') && is_among(PREPENDED, piece.text.trim()) => {
                piece.text += &next.text;
                next.text = piece.text;
                next.tokens.start = piece.tokens.start;
            }
            _ => words.push(piece),
        }
    }
    let mut all: Vec<Piece> = Vec::new();
    for piece in words.into_iter().rev() {
        match all.last_mut() {
            Some(last) if !last.text.ends_with(' ') && is_among(APPENDED, &piece.text) => {
                last.text += &piece.text;
                last.tokens.end = piece.tokens.end;
            }
            _ => all.push(piece),
        }
    }
    all
}

#[cfg(test)]
mod tests;

//! When the words of a window were said.

use std::ops::Range;

use whit_text::Decoder;

use super::{Transcriber, WINDOWS};
use crate::error::SpeechError;
use crate::rules::log_sum_exp;
use crate::transcript::{Request, Segment};
use crate::words::{Attention, Word, pieces};

impl Transcriber<'_> {
    /// Finds the words of a window's segments; the window begins at `frame` and has `size` frames of sound. The tokens are computed once more,
    /// as if they had been written without timestamps.
    pub(super) fn find_words(
        &mut self,
        segments: &mut [Segment],
        language: Option<&str>,
        request: &Request,
        [frame, size]: [usize; 2],
    ) -> Result<(), SpeechError> {
        let end_of_text = self.tokens.end;
        let is_text = |id: &i32| *id < end_of_text;
        let ids: Vec<i32> =
            segments.iter().flat_map(|s| s.ids.iter().copied().filter(is_text)).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut fed = self.prompt(&[], language, &Request { timestamps: false, ..request.clone() });
        // The mark that there are no timestamps; what it and the tokens behind it attend to is what comes next.
        let first = fed.len() - 1;
        fed.extend_from_slice(&ids);
        fed.truncate(self.decoder.context() - 1);
        let known = fed.len() - 1 - first;
        fed.push(self.tokens.end);
        let (attention, probabilities) = self.listen(&fed)?;
        let begins = attention.frames_of(first..first + known + 1, size / 2);

        let seconds = self.settings().seconds_per_frame();
        // The encoder has a row for two frames.
        let time = |row: usize| (frame + 2 * begins[row]) as f64 * seconds;
        let decode = |range: Range<usize>| self.tokenizer.decode(&ids[range], false);
        let mut found = Vec::new();
        for piece in pieces(known, language, decode)? {
            let of = &probabilities[first + piece.tokens.start..first + piece.tokens.end];
            let word = Word {
                text: piece.text,
                start: time(piece.tokens.start),
                end: time(piece.tokens.end),
                probability: of.iter().sum::<f64>() / of.len() as f64,
            };
            found.push((piece.tokens.start, word));
        }
        let mut words = found.into_iter().peekable();
        let mut end = 0;
        for segment in segments {
            end += segment.ids.iter().filter(|id| is_text(id)).count();
            while let Some((_, word)) = words.next_if(|(at, _)| *at < end) {
                segment.words.push(word);
            }
        }
        Ok(())
    }

    /// Runs tokens that attend to the window heard last: what they attend to, and the probability of each next token among those of text.
    fn listen(&mut self, ids: &[i32]) -> Result<(Attention, Vec<f64>), SpeechError> {
        self.decoder.session_mut().set_dimension(WINDOWS, 0)?;
        let vocabulary = self.decoder.vocabulary();
        let text = ..self.tokens.end as usize;
        let heads = self.alignment.iter().map(|(_, heads)| heads).sum();
        let mut attention = Attention { heads, ..Attention::default() };
        let mut probabilities = Vec::new();
        let piece = self.decoder.batch().min(self.decoder.rows());
        for (number, tokens) in ids.chunks(piece).enumerate() {
            let at = number * piece;
            let rows: Vec<i32> = (0..tokens.len() as i32).collect();
            let logits = self.remember(tokens, at, &rows)?;
            for (row, next) in logits.chunks_exact(vocabulary).zip(&ids[at + 1..]) {
                let logit = row[text].get(*next as usize).copied().unwrap_or(f32::NEG_INFINITY);
                probabilities.push((f64::from(logit) - log_sum_exp(&row[text])).exp());
            }
            let session = self.decoder.session();
            let mut outputs = Vec::new();
            for (output, heads) in &self.alignment {
                let weights = session.output::<f32>(*output)?;
                attention.frames = weights.len() / tokens.len() / heads;
                outputs.push(weights.chunks_exact(heads * attention.frames));
            }
            for _ in tokens {
                let of_token = outputs.iter_mut().filter_map(Iterator::next);
                of_token.for_each(|weights| attention.weights.extend_from_slice(weights));
            }
        }
        Ok((attention, probabilities))
    }
}

//! Whisper's special tokens, and which tokens may come next (Radford et al. 2022; section 4.5 and its code).

use std::ops::Range;

use whit::Model;
use whit_text::Tokenizer;

use crate::error::SpeechError;

/// Seconds between two timestamps.
pub(crate) const TIMESTAMP_SECONDS: f64 = 0.02;

/// The latest time that a window's first segment begins at, in timestamps: one second.
const MAX_FIRST_TIMESTAMP: usize = 50;

/// The special tokens of a model, whose ids come behind those of text.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    pub(crate) end: i32,
    pub(crate) start: i32,
    pub(crate) transcribe: Option<i32>,
    pub(crate) translate: Option<i32>,
    pub(crate) previous: Option<i32>,
    pub(crate) no_speech: Option<i32>,
    pub(crate) no_timestamps: i32,
    /// The time 0; those behind it are later by [`TIMESTAMP_SECONDS`] each.
    pub(crate) first_timestamp: i32,
    /// Codes such as `en`, with their tokens; empty for a model of one language.
    pub(crate) languages: Vec<(String, i32)>,
    /// Ids of text, of special tokens, and of timestamps.
    vocabulary: usize,
    /// Tokens that are never written.
    suppressed: Vec<i32>,
    /// Tokens that don't come first.
    suppressed_first: Vec<i32>,
}

/// Ids by name, `0 1 2`.
fn ids(model: &Model<'_>, key: &'static str) -> Result<Vec<i32>, SpeechError> {
    let text = model.metadata_value(key).unwrap_or_default();
    let id = |word: &str| {
        let id = word.parse::<i32>().ok().filter(|id| *id >= 0);
        let expected = "a list of tokens' numbers";
        id.ok_or_else(|| SpeechError::Metadata { key, value: word.to_owned(), expected })
    };
    text.split_whitespace().map(id).collect()
}

impl Tokens {
    /// Finds them in a model's tokenizer; `vocabulary` is the number of logits.
    pub(crate) fn of(
        model: &Model<'_>,
        tokenizer: &Tokenizer,
        vocabulary: usize,
    ) -> Result<Tokens, SpeechError> {
        let optional = |name: &str| tokenizer.id(&format!("<|{name}|>"));
        let required = |name: &str| {
            let missing = || SpeechError::NotSpeech(format!("its tokenizer has no <|{name}|>"));
            optional(name).ok_or_else(missing)
        };
        let (end, start) = (required("endoftext")?, required("startoftranscript")?);
        let no_timestamps = required("notimestamps")?;
        let (transcribe, translate) = (optional("transcribe"), optional("translate"));
        // The end, the start, languages, tasks and the rest, then timestamps: the order of all of Whisper's vocabularies.
        let ordered = 0 <= end && end < start && start < no_timestamps;
        if !ordered || no_timestamps as usize + 1 >= vocabulary {
            let problem =
                "its tokenizer's special tokens aren't in Whisper's order, or not the model's";
            return Err(SpeechError::NotSpeech(problem.to_owned()));
        }
        let mut languages = Vec::new();
        if model.metadata_value("speech.multilingual") == Some("1") {
            let tasks = [transcribe, translate].into_iter().flatten().min();
            for id in start + 1..tasks.unwrap_or(start + 1) {
                let token = tokenizer.token(id).unwrap_or_default();
                let code = token.strip_prefix("<|").and_then(|token| token.strip_suffix("|>"));
                languages.extend(code.map(|code| (code.to_owned(), id)));
            }
            if languages.is_empty() || transcribe.is_none() {
                let problem = "its tokenizer has no tokens of languages and tasks";
                return Err(SpeechError::NotSpeech(problem.to_owned()));
            }
        }
        Ok(Tokens {
            end,
            start,
            transcribe,
            translate,
            previous: optional("startofprev"),
            no_speech: optional("nospeech").or_else(|| optional("nocaptions")),
            no_timestamps,
            first_timestamp: no_timestamps + 1,
            languages,
            vocabulary,
            suppressed: ids(model, "speech.suppress")?,
            suppressed_first: ids(model, "speech.begin_suppress")?,
        })
    }

    pub(crate) fn is_timestamp(&self, id: i32) -> bool {
        id >= self.first_timestamp
    }

    fn timestamps(&self) -> Range<usize> {
        self.first_timestamp as usize..self.vocabulary
    }

    /// Hides the logits of tokens that may not follow `written`, those of a window so far.
    pub(crate) fn apply(&self, logits: &mut [f32], written: &[i32], with_timestamps: bool) {
        let hide = |logits: &mut [f32], range: Range<usize>| {
            let end = range.end.min(logits.len());
            logits[range.start.min(end)..end].fill(f32::NEG_INFINITY);
        };
        let first = if written.is_empty() { &self.suppressed_first[..] } else { &[] };
        for id in self.suppressed.iter().chain(first) {
            hide(logits, *id as usize..*id as usize + 1);
        }
        hide(logits, self.end as usize + 1..self.first_timestamp as usize);
        if !with_timestamps {
            hide(logits, self.timestamps());
            return;
        }

        // Timestamps come in pairs, an end and the next beginning, but for the first, and an end before the end.
        let text = 0..self.end as usize;
        let last_is_time = written.last().is_some_and(|id| self.is_timestamp(*id));
        let is_paired = written.len() < 2 || self.is_timestamp(written[written.len() - 2]);
        if last_is_time && is_paired {
            hide(logits, self.timestamps());
        } else if last_is_time {
            hide(logits, text.clone());
        }
        // Time goes on, and a segment takes some.
        if let Some(last) = written.iter().rfind(|id| self.is_timestamp(**id)) {
            let least = if last_is_time && !is_paired { *last } else { *last + 1 };
            hide(logits, self.first_timestamp as usize..least as usize);
        }
        if written.is_empty() {
            hide(logits, 0..self.first_timestamp as usize);
            hide(logits, self.first_timestamp as usize + MAX_FIRST_TIMESTAMP + 1..self.vocabulary);
        }

        // A time, if all times together are more probable than any token of text.
        let (before, times) = logits.split_at(self.first_timestamp as usize);
        let most = before.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let largest = times.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if largest > f32::NEG_INFINITY {
            let sum: f64 = times.iter().map(|time| f64::from(time - largest).exp()).sum();
            if f64::from(largest) + sum.ln() > f64::from(most) {
                hide(logits, 0..self.first_timestamp as usize);
            }
        }
    }
}

/// The logarithm of `Σ exp(logits)`; −∞ when all are hidden.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - largest).exp())).sum();
    f64::from(largest) + sum.ln()
}

#[cfg(test)]
mod tests;

//! `whit eval --perplexity`: how well a language model foretells a text, alone or against another model.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use whit::Model;
use whit_text::{
    Decoder, Divergence, Moments, SessionDecoder, TextError, TextScore, Tokenizer, Windows,
    score_text,
};

use super::{file_name, is_whit, model_bytes};
use crate::commands::{print_json, print_text};
use crate::program::{self, RanOn};
use crate::report::{self, Align};
use crate::samples::progress_bar;
use crate::whit_file::{self, Settings};

/// The share of tokens whose divergence is below what is told beside the largest.
const TAIL: f64 = 0.99;

#[derive(Args)]
pub(crate) struct PerplexityArgs {
    /// Measure the perplexity of a language model on this text: exp of the mean negative log-likelihood of a token.
    /// With --against, also how far the model is from the other one (KL divergence)
    #[arg(long, value_name = "FILE.txt", conflicts_with_all = [
        "data", "task", "output", "against_output", "logits", "confidence", "resamples", "seed", "folds", "plots",
        "reset_every",
    ])]
    pub(super) perplexity: Option<PathBuf>,
    /// Tokens of a window, for texts longer than that (default: the model's context). Each window is computed from its
    /// own beginning, with the token that begins a text if the model wants one
    #[arg(long, value_name = "N", requires = "perplexity")]
    window: Option<usize>,
    /// Tokens from one window to the next (default: half a window). A window scores the tokens that the one before
    /// didn't hold; those before them are context. With the stride of a whole window, tokens at its start have little
    /// context or none, and a first token that nothing stands before isn't scored: faster, and higher numbers
    #[arg(long, value_name = "N", requires = "perplexity")]
    stride: Option<usize>,
}

/// A model that a text is scored with.
struct Scorer<'m> {
    name: String,
    tokenizer: Tokenizer,
    decoder: SessionDecoder<'m>,
    ran_on: RanOn,
}

impl<'m> Scorer<'m> {
    fn new(model: Model<'m>, path: &Path, settings: Settings) -> Result<Scorer<'m>> {
        let place = || path.display().to_string();
        let tokenizer = Tokenizer::of(&model).with_context(place)?;
        let program = program::prepare(model, settings)?;
        let ran_on = program.ran_on();
        let decoder = SessionDecoder::new(program.into_prepared()).with_context(place)?;
        Ok(Scorer { name: file_name(path), tokenizer, decoder, ran_on })
    }

    /// The text's tokens, and the one that texts begin with.
    fn tokens(&self, text: &str) -> Result<(Vec<i32>, Option<i32>)> {
        let begin = self.tokenizer.encode("", true)?.first().copied();
        let begin = begin.filter(|id| self.tokenizer.bos() == Some(*id));
        Ok((self.tokenizer.encode(text, false)?, begin))
    }
}

/// All that is told.
struct Findings {
    names: Vec<String>,
    windows: Windows,
    tokens: usize,
    score: TextScore,
    seconds: f64,
}

impl PerplexityArgs {
    /// Scores the text with the model, and the other one of `paths` if there is one.
    pub(super) fn run(
        &self,
        model: Model<'_>,
        paths: Vec<&Path>,
        settings: Settings,
        is_json: bool,
    ) -> Result<()> {
        let Some(path) = &self.perplexity else { bail!("--perplexity names the text") };
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            anyhow::anyhow!("{}: byte {at} isn't UTF-8", path.display())
        })?;
        let mut scorer = Scorer::new(model, paths[0], settings)?;
        let (file, bytes);
        let mut reference = match paths.get(1) {
            None => None,
            Some(path) => {
                let model = match is_whit(path) {
                    true => {
                        file = whit_file::open(path)?;
                        whit_file::model(&file, path)?
                    }
                    false => {
                        bytes = model_bytes(path)?;
                        Model::open(bytes.as_slice()).with_context(|| path.display().to_string())?
                    }
                };
                Some(Scorer::new(model, path, settings)?)
            }
        };
        let findings = self.find(&text, &mut scorer, reference.as_mut(), is_json)?;
        if !is_json {
            return print_text(&findings.text(path));
        }
        let mut object = findings.json();
        object["model"] = json!(paths[0].display().to_string());
        object["data"] = json!(path.display().to_string());
        if let Some(path) = paths.get(1) {
            object["against"]["model"] = json!(path.display().to_string());
        }
        scorer.ran_on.add_to(&mut object);
        print_json(&object)
    }

    fn find(
        &self,
        text: &str,
        scorer: &mut Scorer<'_>,
        reference: Option<&mut Scorer<'_>>,
        quiet: bool,
    ) -> Result<Findings> {
        let (tokens, begin) = scorer.tokens(text)?;
        let mut names = vec![scorer.name.clone()];
        let mut context = scorer.decoder.context();
        if let Some(reference) = &reference {
            names.push(reference.name.clone());
            context = context.min(reference.decoder.context());
            if reference.tokens(text)? != (tokens.clone(), begin) {
                bail!(
                    "{} and {} make different tokens of the text: only models with the same tokenizer can be compared",
                    scorer.name,
                    reference.name
                );
            }
        }
        let window = self.window.unwrap_or(context);
        let stride = self.stride.unwrap_or((window / 2).max(1));
        let windows = Windows { window, stride, begin };
        let start = Instant::now();
        let bar = (!quiet).then(|| progress_bar("scoring", tokens.len()));
        let other = reference.map(|reference| &mut reference.decoder as &mut dyn Decoder);
        let score = score_text(&tokens, windows, &mut scorer.decoder, other, |scored| {
            if let Some(bar) = &bar {
                bar.set_position(scored as u64);
            }
        });
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let score = score.map_err(|error| match error {
            TextError::Session(error) => whit_file::named(scorer.decoder.session().model(), error),
            error => error.into(),
        })?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Findings { names, windows, tokens: tokens.len(), score, seconds })
    }
}

impl Findings {
    /// Tokens that each model computed, per second.
    fn rate(&self) -> f64 {
        self.score.computed as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    fn json(&self) -> Value {
        let Findings { windows, tokens, score, seconds, .. } = self;
        let (perplexity, error) = score.likelihood.exponential();
        let mut object = json!({
            "task": "perplexity",
            "perplexity": perplexity,
            "standard_error": finite(error),
            "negative_log_likelihood": moments_json(&score.likelihood),
            "tokens": tokens,
            "scored_tokens": score.likelihood.count(),
            "computed_tokens": score.computed,
            "window": windows.window,
            "stride": windows.stride,
            "begin": windows.begin,
            "seconds": seconds,
            "tokens_per_second": self.rate(),
        });
        if let Some(against) = &score.against {
            let (perplexity, error) = against.reference.exponential();
            let (ratio, ratio_error) = against.difference.exponential();
            let sorted = sorted(against);
            object["against"] = json!({
                "perplexity": perplexity,
                "standard_error": finite(error),
                "ratio": ratio,
                "ratio_standard_error": finite(ratio_error),
                "kl_divergence": moments_json(&against.divergence),
                "kl_divergence_median": quantile(&sorted, 0.5),
                "kl_divergence_99_percent": quantile(&sorted, TAIL),
                "kl_divergence_max": sorted.last(),
                "same_best_token": against.same_best as f64 / sorted.len() as f64,
            });
        }
        object
    }

    fn text(&self, path: &Path) -> String {
        let Findings { names, windows, tokens, score, .. } = self;
        let Windows { window, stride, .. } = windows;
        let windows = match *tokens + usize::from(windows.begin.is_some()) <= *window {
            true => "in one window".to_owned(),
            false => format!("in windows of {window} every {stride}"),
        };
        let head = [
            ("text", format!("{}, {tokens} tokens {windows}", path.display())),
            ("scored", format!("{} tokens", score.likelihood.count())),
            ("speed", format!("{:.1} tokens/s, {} computed", self.rate(), score.computed)),
        ];
        let own = with_error(score.likelihood.exponential());
        let mut parts = vec![report::fields(&head)];
        let Some(against) = &score.against else {
            parts.push(report::fields(&[("perplexity", own)]));
            return parts.join("\n\n");
        };
        let header = [("", Align::Left), (&names[0], Align::Right), (&names[1], Align::Right)];
        let row = vec!["perplexity".to_owned(), own, with_error(against.reference.exponential())];
        parts.push(report::table(&header, &[row]));
        let sorted = sorted(against);
        let divergence = &against.divergence;
        let same = against.same_best as f64 / sorted.len() as f64;
        parts.push(report::fields(&[
            ("ratio of perplexities", with_error(against.difference.exponential())),
            ("mean KL divergence", with_error((divergence.mean(), divergence.standard_error()))),
            ("99 % of tokens below", report::significant(quantile(&sorted, TAIL))),
            ("largest", report::significant(quantile(&sorted, 1.0))),
            ("same best token", report::percent(same)),
        ]));
        parts.join("\n\n")
    }
}

/// JSON has no NaN: of one token there is no error.
fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}

fn moments_json(moments: &Moments) -> Value {
    json!({ "mean": finite(moments.mean()), "standard_error": finite(moments.standard_error()) })
}

/// `10.07 ± 0.53`.
fn with_error((value, error): (f64, f64)) -> String {
    let decimals = report::decimals_of(if error.is_finite() { error } else { value });
    let decimals = decimals.saturating_sub(2).max(report::decimals_of(value));
    match error.is_finite() {
        true => format!("{value:.decimals$} ± {error:.decimals$}"),
        false => format!("{value:.decimals$}"),
    }
}

fn sorted(against: &Divergence) -> Vec<f64> {
    let mut sorted = against.divergences.clone();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The value that this share of the numbers doesn't exceed.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

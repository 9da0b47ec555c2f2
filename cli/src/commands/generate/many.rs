//! `whit generate --prompts`: many prompts, several of which are continued at once.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;
use whit_text::{Batch, ChatTemplate, Decoder, Job, Request, SessionDecoder, TextError, Tokenizer};

use super::{Generate, explained, read_text, to_json};

/// A line of a .jsonl file.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a string, or an object with \"prompt\"")]
enum Line {
    Text(String),
    Object(Prompt),
}

/// A prompt, and what is asked of it alone.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    prompt: String,
    max_tokens: Option<usize>,
    seed: Option<u64>,
    stop: Option<Vec<String>>,
}

/// A prompt ready to be continued.
struct Ready {
    ids: Vec<i32>,
    request: Request,
}

impl Generate {
    pub(super) fn many(
        &self,
        path: &Path,
        model: &whit::Model<'_>,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        decoder: SessionDecoder<'_>,
    ) -> Result<ExitCode> {
        let parallel = self.parallel.map_or(decoder.sequences(), usize::from);
        let (context, vocabulary) = (decoder.context(), decoder.vocabulary());
        let mut batch = Batch::new(tokenizer, decoder, parallel)
            .with_context(|| self.path.model.display().to_string())?;
        // All are looked at before the first is computed.
        let mut ready = Vec::new();
        for (number, prompt) in prompts(path)? {
            let place = || format!("{}, line {number}", path.display());
            let ids = self.ids(tokenizer, template, prompt.prompt).with_context(place)?;
            let mut request = self.wanted.request(false);
            request.max_tokens = prompt.max_tokens.unwrap_or(request.max_tokens);
            request.sampling.seed = prompt.seed.unwrap_or(request.sampling.seed);
            request.stop = prompt.stop.unwrap_or(request.stop);
            match ids.len() {
                0 => Err(TextError::EmptyPrompt),
                prompt if prompt >= context => Err(TextError::Context { prompt, context }),
                _ => Ok(()),
            }
            .with_context(place)?;
            ready.push(Ready { ids, request });
        }
        let jobs = ready.into_iter().map(|Ready { ids, request }| {
            let constraint = self.grammar.constraint(tokenizer, vocabulary)?;
            Ok::<_, Failed>(Job { prompt: ids, request, constraint })
        });

        let begin = Instant::now();
        let (mut texts, mut tokens, mut failed) = (0, 0, None);
        let mut out = std::io::stdout().lock();
        let generated = batch.generate(jobs, |number, generation| {
            texts += 1;
            tokens += generation.ids.len();
            let written = match self.json {
                true => {
                    let mut object = to_json(&generation);
                    object["number"] = json!(number + 1);
                    writeln!(out, "{object}")
                }
                false => writeln!(out, "{}\n", generation.text),
            };
            match written.and_then(|()| out.flush()) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        match failed {
            // A reader such as `head` may have seen enough.
            Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(error.into());
            }
            _ => generated.map_err(|error| error.explained(model))?,
        }
        let seconds = begin.elapsed().as_secs_f64();
        let s = if texts == 1 { "" } else { "s" };
        eprintln!(
            "{texts} text{s}, at most {parallel} at once; generated {tokens} tokens in {seconds:.1} s, {:.1} tokens/s with the prompts",
            tokens as f64 / seconds
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// An error of a text, or of what it is to look like.
enum Failed {
    Text(TextError),
    Grammar(anyhow::Error),
}

impl From<TextError> for Failed {
    fn from(error: TextError) -> Failed {
        Failed::Text(error)
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Failed {
        Failed::Grammar(error)
    }
}

impl Failed {
    fn explained(self, model: &whit::Model<'_>) -> anyhow::Error {
        match self {
            Failed::Text(error) => explained(model, error),
            Failed::Grammar(error) => error,
        }
    }
}

/// The prompts of a file with the numbers of their lines; empty lines are none.
fn prompts(path: &Path) -> Result<Vec<(usize, Prompt)>> {
    let text = read_text(path)?;
    let is_json = path.extension().is_some_and(|extension| extension == "jsonl");
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    let mut prompts = Vec::new();
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let prompt = match is_json {
            false => Prompt { prompt: line.to_owned(), ..Prompt::default() },
            true => {
                let line = serde_json::from_str(line);
                match line.with_context(|| format!("{}, line {number}", path.display()))? {
                    Line::Text(prompt) => Prompt { prompt, ..Prompt::default() },
                    Line::Object(prompt) => prompt,
                }
            }
        };
        prompts.push((number, prompt));
    }
    if prompts.is_empty() {
        bail!("{}: no line has a prompt", path.display());
    }
    Ok(prompts)
}

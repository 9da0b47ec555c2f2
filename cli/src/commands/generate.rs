//! `whit generate`: text that a language model continues, as it comes.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};
use whit_text::{
    ChatTemplate, Constraint, Decoder, Generation, Generator, Grammar, Message, Request, Sampling,
    SessionDecoder, StopReason, TextError, Tokenizer,
};

use super::{ModelPath, Target, print_json, print_text};
use crate::program::{self, RanOn};
use crate::{new_file, report, whit_file};

#[derive(Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    path: ModelPath,
    /// The text to continue; with --chat, what the user says
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// A file with the prompt; - reads it from standard input
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// A file with many prompts, one a line, to continue each by itself; - reads standard input. In a file that ends in .jsonl each line
    /// is a JSON string, or an object with "prompt" and perhaps "max_tokens", "seed" and "stop"
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompt_file", "session", "draft", "guesses"])]
    prompts: Option<PathBuf>,
    /// With --prompts: texts that are generated at once, at most as many as the model was converted for with --sequences (default)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    parallel: Option<u16>,
    /// Talk to the model through its chat template. Without a prompt, each line of standard input is a turn
    #[arg(long)]
    chat: bool,
    /// With --chat: what the model is told first
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Go on with what this file remembers, and save it again at the end: of a prompt that begins as the text before
    /// did, only what follows is computed
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
    /// A smaller model of the same tokens that guesses what comes next, for the model to check several tokens at once
    #[arg(long, value_name = "DRAFT.whit")]
    draft: Option<PathBuf>,
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    grammar: GrammarArgs,
    #[command(flatten)]
    target: Target,
    /// Print one JSON object instead of the text as it comes; with --prompts one a line for each text
    #[arg(long)]
    json: bool,
}

mod many;

/// Tokens that a draft model guesses at once.
const DRAFTED: usize = 4;

/// How the text is made and where it ends.
#[derive(Args)]
struct Wanted {
    /// Tokens to generate at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Divides logits before a token is drawn; 0 always takes the best
    #[arg(long, value_name = "T", default_value_t = Sampling::default().temperature)]
    temperature: f32,
    /// Draw among the K best tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = Sampling::default().top_k)]
    top_k: usize,
    /// Draw among the best tokens that are together this probable; 1 for all
    #[arg(long, value_name = "P", default_value_t = Sampling::default().top_p)]
    top_p: f32,
    /// Draw among tokens at least P times as probable as the best; 0 for all
    #[arg(long, value_name = "P", default_value_t = Sampling::default().min_p)]
    min_p: f32,
    /// Make tokens among the last 64 less probable; 1 changes nothing
    #[arg(long, value_name = "R", default_value_t = Sampling::default().repeat_penalty)]
    repeat_penalty: f32,
    /// The same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = Sampling::default().seed)]
    seed: u64,
    /// End the text before this string; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Guess up to N tokens at once and check them together: faster where many are right. Guesses are what the draft model
    /// says (default with --draft: 4), or without one what the text repeats (default: 0)
    #[arg(long, value_name = "N")]
    guesses: Option<usize>,
}

impl Wanted {
    fn request(&self, has_draft: bool) -> Request {
        Request {
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repeat_penalty: self.repeat_penalty,
                seed: self.seed,
                ..Sampling::default()
            },
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            guesses: self.guesses.unwrap_or(if has_draft { DRAFTED } else { 0 }),
        }
    }
}

/// What the text has to look like.
#[derive(Args)]
#[group(multiple = false)]
struct GrammarArgs {
    /// A file with a JSON schema: the text is JSON that it allows
    #[arg(long, value_name = "FILE.json")]
    schema: Option<PathBuf>,
    /// A file with a grammar in the Lark dialect of llguidance
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// A regular expression that the whole text matches
    #[arg(long, value_name = "REGEX")]
    regex: Option<String>,
}

impl GrammarArgs {
    /// A new constraint, when one is asked for.
    fn constraint(&self, tokenizer: &Tokenizer, vocabulary: usize) -> Result<Option<Constraint>> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| path.display().to_string())
        };
        let text;
        let (grammar, place) = match (&self.schema, &self.grammar, &self.regex) {
            (Some(path), ..) => {
                text = read(path)?;
                (Grammar::JsonSchema(&text), path.display().to_string())
            }
            (_, Some(path), _) => {
                text = read(path)?;
                (Grammar::Lark(&text), path.display().to_string())
            }
            (_, _, Some(regex)) => (Grammar::Regex(regex), "--regex".to_owned()),
            _ => return Ok(None),
        };
        let constraint = Constraint::new(tokenizer, vocabulary, grammar);
        constraint.map(Some).map_err(on_one_line).context(place)
    }
}

/// The parts that every turn uses.
struct Machine<'m> {
    model: whit::Model<'m>,
    tokenizer: &'m Tokenizer,
    generator: Generator<'m, SessionDecoder<'m>>,
    ran_on: RanOn,
}

impl Generate {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let start = Instant::now();
        let file = whit_file::open(&self.path.model)?;
        let model = whit_file::model(&file, &self.path.model)?;
        if self.parallel.is_some() && self.prompts.is_none() {
            bail!("--parallel goes with --prompts");
        }
        let place = || self.path.model.display().to_string();
        let tokenizer = Tokenizer::of(&model).with_context(place)?;
        let template = match self.chat {
            false => None,
            true => Some(ChatTemplate::of(&model).with_context(place)?.with_context(|| {
                format!("{}: the model has no chat template: leave --chat out", place())
            })?),
        };
        let settings = self.target.settings()?;
        let program = program::prepare(model, settings)?;
        let ran_on = program.ran_on();
        let decoder = SessionDecoder::new(program.into_prepared()).with_context(place)?;
        if let Some(path) = &self.prompts {
            return self.many(path, &model, &tokenizer, template.as_ref(), decoder);
        }
        let (draft_file, draft_tokenizer);
        let mut generator = Generator::new(&tokenizer, decoder);
        if let Some(path) = &self.draft {
            let place = || path.display().to_string();
            draft_file = whit_file::open(path)?;
            let model = whit_file::model(&draft_file, path)?;
            draft_tokenizer = Tokenizer::of(&model).with_context(place)?;
            tokenizer.check_same(&draft_tokenizer).with_context(place)?;
            let session = program::prepare(model, settings)?.into_prepared();
            generator = generator.with_draft(SessionDecoder::new(session).with_context(place)?);
        }
        self.restore(&mut generator)?;
        let mut machine = Machine { model, tokenizer: &tokenizer, generator, ran_on };
        let load_seconds = start.elapsed().as_secs_f64();

        let prompt = self.prompt()?;
        match (&template, prompt) {
            (Some(template), None) => self.converse(&mut machine, template)?,
            (None, None) => {
                bail!("give a prompt with --prompt or --prompt-file, or talk with --chat")
            }
            (_, Some(prompt)) => {
                let ids = self.ids(&tokenizer, template.as_ref(), prompt)?;
                let generation = self.generate(&mut machine, &ids)?;
                self.report(&machine, &generation, load_seconds)?;
            }
        }
        if let Some(path) = &self.session {
            new_file::replace(path, |out| machine.generator.save(out))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Goes on with the session in the file, if it is there.
    fn restore(&self, generator: &mut Generator<'_, SessionDecoder<'_>>) -> Result<()> {
        let Some(path) = &self.session else { return Ok(()) };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let folder = new_file::folder(path);
                return match folder.is_dir() {
                    true => Ok(()),
                    false => bail!("{}: there is no folder {}", path.display(), folder.display()),
                };
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let restored = generator.restore(&mut BufReader::new(file));
        restored.with_context(|| {
            format!("{}: remove it, or name another file with --session", path.display())
        })?;
        Ok(())
    }

    /// The prompt of the options.
    fn prompt(&self) -> Result<Option<String>> {
        match &self.prompt_file {
            Some(path) => read_text(path).map(Some),
            None => Ok(self.prompt.clone()),
        }
    }

    /// The tokens of a prompt, which with a template is what the user says.
    fn ids(
        &self,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        prompt: String,
    ) -> Result<Vec<i32>> {
        let Some(template) = template else { return first_tokens(tokenizer, &prompt) };
        let mut messages = self.opening();
        messages.push(Message::new("user", prompt));
        Ok(tokenizer.encode(&template.render(&messages, true)?, false)?)
    }

    /// What a conversation begins with.
    fn opening(&self) -> Vec<Message> {
        self.system.iter().map(|system| Message::new("system", system.as_str())).collect()
    }

    /// A turn for each line of standard input.
    fn converse(&self, machine: &mut Machine<'_>, template: &ChatTemplate) -> Result<()> {
        if self.json {
            bail!("--json takes one prompt: give it with --prompt or --prompt-file");
        }
        let is_terminal = std::io::stdin().is_terminal();
        let mut messages = self.opening();
        let mut lines = std::io::stdin().lock().lines();
        loop {
            if is_terminal {
                eprint!("> ");
            }
            let Some(line) = lines.next() else { return Ok(()) };
            let line = line.context("standard input")?;
            if line.trim().is_empty() {
                continue;
            }
            messages.push(Message::new("user", line));
            let ids = machine.tokenizer.encode(&template.render(&messages, true)?, false)?;
            let generation = self.generate(machine, &ids)?;
            print_text("")?;
            eprintln!("{}", summary(&generation));
            messages.push(Message::new("assistant", generation.text));
        }
    }

    /// Continues a prompt, and prints the text as it comes unless JSON is wanted.
    fn generate(&self, machine: &mut Machine<'_>, ids: &[i32]) -> Result<Generation> {
        let vocabulary = machine.generator.decoder().vocabulary();
        let mut constraint = self.grammar.constraint(machine.tokenizer, vocabulary)?;
        let request = self.wanted.request(self.draft.is_some());
        let mut out = std::io::stdout().lock();
        let mut failed = None;
        let generation = machine.generator.generate(ids, &request, constraint.as_mut(), |part| {
            let written = match self.json {
                true => Ok(()),
                false => out.write_all(part.as_bytes()).and_then(|()| out.flush()),
            };
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        match failed {
            // A reader such as `head` may have seen enough.
            Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => generation.map_err(|error| explained(&machine.model, error)),
        }
    }

    fn report(&self, machine: &Machine<'_>, generation: &Generation, load: f64) -> Result<()> {
        if !self.json {
            print_text("")?;
            eprintln!("{}", summary(generation));
            return Ok(());
        }
        let mut object = to_json(generation);
        object["reused_tokens"] = json!(generation.reused_tokens);
        object["guessed_tokens"] = json!(generation.guessed.0);
        object["guessed_right"] = json!(generation.guessed.1);
        object["load_seconds"] = json!(load);
        machine.ran_on.add_to(&mut object);
        print_json(&object)
    }
}

/// What there is to say of every text.
fn to_json(generation: &Generation) -> Value {
    let stop_string = match &generation.stop {
        StopReason::StopString(stop) => Some(stop),
        _ => None,
    };
    json!({
        "text": generation.text,
        "ids": generation.ids,
        "stop": stop_name(&generation.stop),
        "stop_string": stop_string,
        "prompt_tokens": generation.prompt_tokens,
        "generated_tokens": generation.ids.len(),
        "prompt_tokens_per_second": generation.prompt_rate(),
        "generation_tokens_per_second": generation.generation_rate(),
        "first_token_seconds": generation.prompt_time.as_secs_f64(),
    })
}

/// The text in a file, or of standard input for `-`.
fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    match path.as_os_str() == "-" {
        true => std::io::stdin().lock().read_to_end(&mut bytes).context("standard input")?,
        false => {
            bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
            bytes.len()
        }
    };
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow!("{}: byte {at} isn't UTF-8", path.display())
    })
}

/// The prompt's tokens; for an empty one, the token that begins every text.
fn first_tokens(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<i32>> {
    let ids = tokenizer.encode(prompt, true)?;
    Ok(if ids.is_empty() { tokenizer.bos().into_iter().collect() } else { ids })
}

fn stop_name(stop: &StopReason) -> &'static str {
    match stop {
        StopReason::Eos => "eos",
        StopReason::StopString(_) => "stop string",
        StopReason::Complete => "grammar complete",
        StopReason::Length => "length",
        StopReason::Context => "context full",
        StopReason::Cancelled => "cancelled",
    }
}

/// What a person wants to know besides the text.
fn summary(generation: &Generation) -> String {
    let Generation { prompt_tokens, reused_tokens, ids, guessed, stop, .. } = generation;
    let reused = match reused_tokens {
        0 => String::new(),
        reused => format!(" ({reused} in the cache)"),
    };
    let guessed = match guessed {
        (0, _) => String::new(),
        (all, right) => {
            let share = report::percent(*right as f64 / *all as f64);
            format!(", {right} of {all} guesses right ({share})")
        }
    };
    format!(
        "prompt {prompt_tokens} tokens{reused}, {:.1} tokens/s; first token after {:.1} ms; generated {} tokens, {:.1} tokens/s{guessed}; ended by {}",
        generation.prompt_rate(),
        generation.prompt_time.as_secs_f64() * 1e3,
        ids.len(),
        generation.generation_rate(),
        stop_name(stop),
    )
}

/// An error of generation, with the names of a model.
fn explained(model: &whit::Model<'_>, error: TextError) -> anyhow::Error {
    match error {
        TextError::Session(error) => whit_file::named(model, error),
        error => on_one_line(error),
    }
}

/// Libraries explain grammars over several lines.
fn on_one_line(error: TextError) -> anyhow::Error {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    anyhow::Error::msg(lines.join(" | "))
}

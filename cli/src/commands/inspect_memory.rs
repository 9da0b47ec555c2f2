//! `whit inspect --context N`: all memory that a language model takes, known before its first token.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use whit::format::Op;
use whit::{Isa, Model, Options, Session};

use crate::report::{self, Align};
use crate::whit_file::{self, Settings};

/// Where the bytes of a session and its file are.
pub(super) struct Memory {
    /// Positions that the file has room for.
    context: u64,
    /// Positions asked for, at most those.
    asked: u64,
    /// Sequences, each with all positions.
    sequences: u64,
    file: u64,
    weights: u64,
    /// Keys and values of all positions of all sequences.
    cache: u64,
    /// States that aren't keys and values.
    other_state: u64,
    arena: u64,
    /// Working memory of the kernels, and tables.
    working: u64,
    isa: Isa,
    threads: usize,
}

/// Bytes of the keys and values that steps keep, scales included.
fn cache_bytes(model: &Model<'_>) -> u64 {
    let steps = model.steps().filter(|step| step.op == Op::CachedAttention as u16);
    let caches = steps.flat_map(|step| {
        // The first output is attention's result.
        model.operands(&step).skip(usize::from(step.input_count) + 1).collect::<Vec<_>>()
    });
    caches.filter_map(|tensor| model.tensor(tensor as usize)).map(|tensor| tensor.bytes).sum()
}

impl Memory {
    /// What a model takes for a context of `asked` tokens.
    pub(super) fn of(model: &Model<'_>, asked: u64, settings: Settings) -> Result<Memory> {
        let cache = cache_bytes(model);
        let context = model.metadata_value("model.context").and_then(|text| text.parse().ok());
        let Some(context) = context.filter(|context| *context > 0 && cache > 0) else {
            bail!(
                "the model keeps no keys and values of a context: its memory doesn't depend on one, and `whit inspect` without --context prints it"
            );
        };
        if asked > context {
            bail!(
                "the file has room for {context} tokens: convert the model again with --context {asked}, if it was made for so many"
            );
        }
        let sequences = model.metadata_value("model.sequences").and_then(|text| text.parse().ok());
        let Settings { isa, threads, .. } = settings;
        let options = Options { isa, threads, ..Options::default() };
        let session = Session::memory_bytes(model, &options)
            .map_err(|error| whit_file::named(model, error))? as u64;
        let header = model.header();
        let working = session.checked_sub(header.arena_bytes + header.state_bytes);
        Ok(Memory {
            context,
            asked,
            sequences: sequences.unwrap_or(1).max(1),
            file: header.file_bytes,
            weights: header.weight_bytes,
            cache,
            other_state: header.state_bytes.saturating_sub(cache),
            arena: header.arena_bytes,
            working: working.context("the session is smaller than its parts")?,
            isa: isa.unwrap_or_else(Isa::detect),
            threads,
        })
    }

    fn session(&self) -> u64 {
        self.cache + self.other_state + self.arena + self.working
    }

    /// Keys and values of one token.
    fn token(&self) -> u64 {
        self.cache / self.context / self.sequences
    }

    /// Keys and values of the positions asked for.
    fn asked_cache(&self) -> u64 {
        self.token() * self.asked * self.sequences
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "context": self.context,
            "sequences": self.sequences,
            "file_bytes": self.file,
            "weight_bytes": self.weights,
            "kv_cache_bytes": self.cache,
            "kv_cache_bytes_per_token": self.token(),
            "other_state_bytes": self.other_state,
            "arena_bytes": self.arena,
            "working_bytes": self.working,
            "session_bytes": self.session(),
            "total_bytes": self.file + self.session(),
            "asked_context": self.asked,
            "asked_kv_cache_bytes": self.asked_cache(),
            "isa": self.isa.name(),
            "threads": self.threads,
        })
    }

    pub(super) fn text(&self) -> String {
        let Memory { context, asked, isa, threads, .. } = self;
        let row = |what: &str, count: u64, remark: String| {
            vec![what.to_owned(), report::bytes(count), count.to_string(), remark]
        };
        let of_all = match self.sequences {
            1 => String::new(),
            sequences => format!(", {sequences} sequences"),
        };
        let token = format!("{} bytes a token{of_all}", self.token());
        let weights =
            format!("mapped, shared by all sessions; {} are weights", report::bytes(self.weights));
        let mut rows = vec![row("file", self.file, weights), row("KV cache", self.cache, token)];
        if self.other_state > 0 {
            rows.push(row("other state", self.other_state, String::new()));
        }
        rows.push(row("arena", self.arena, "activations and logits".to_owned()));
        rows.push(row("working memory", self.working, "of kernels, and tables".to_owned()));
        rows.push(row("session", self.session(), "allocated once, all but the file".to_owned()));
        rows.push(row("total", self.file + self.session(), String::new()));
        let header =
            [("", Align::Left), ("", Align::Right), ("bytes", Align::Right), ("", Align::Left)];
        let s = if *threads == 1 { "" } else { "s" };
        let mut text = format!(
            "memory for a context of {context} tokens, {isa}, {threads} thread{s}\n\n{}",
            report::table(&header, &rows)
        );
        if asked < context {
            text += &format!(
                "\n\nA session has room for all {context} tokens. Converted with --context {asked}, the KV cache takes {} instead of {}.",
                report::bytes(self.asked_cache()),
                report::bytes(self.cache),
            );
        }
        text
    }
}

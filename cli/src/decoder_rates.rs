//! Rates of a decoder in llama-bench's terms: tokens per second of a prompt, of tokens one by one, and of several sequences' tokens
//! one by one.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use whit::Model;
use whit_text::{Decoder, SessionDecoder};

use crate::program;
use crate::whit_file::Settings;

/// Tokens of the prompt; as many as fit in a smaller context.
const PROMPT: usize = 512;

/// Tokens one by one.
const GENERATED: usize = 128;

/// Numbers of sequences at once, of models that have as many; and as many as a model has.
const SEQUENCES: [usize; 2] = [4, 8];

/// Rounds, of which the median counts.
const ROUNDS: usize = 3;

/// Tokens per second.
pub(crate) struct Rates {
    prompt: usize,
    generated: usize,
    prompt_rate: f64,
    generation_rate: f64,
    /// Sequences at once, and the tokens per second of all of them together.
    parallel: Vec<(usize, f64)>,
}

impl Rates {
    /// Measures a model; `None` for one that is no decoder.
    pub(crate) fn measure(model: Model<'_>, settings: Settings) -> Result<Option<Rates>> {
        // Asked first: other models are spared a session.
        if model.metadata_value("model.context").is_none() {
            return Ok(None);
        }
        let session = program::prepare(model, settings)?.into_prepared();
        let Ok(mut decoder) = SessionDecoder::new(session) else { return Ok(None) };
        let prompt = PROMPT.min(decoder.context());
        let generated = GENERATED.min(decoder.context());
        // Low ids are in every vocabulary; what they are doesn't matter for the time.
        let tokens: Vec<i32> = (0..prompt as i32).map(|at| at % 2).collect();
        let positions: Vec<i32> = (0..prompt as i32).collect();
        let batch = decoder.batch().max(1);
        let most = decoder.sequences().min(decoder.rows()).min(batch);
        let mut counts: Vec<usize> =
            SEQUENCES.into_iter().chain([most]).filter(|n| (2..=most).contains(n)).collect();
        counts.dedup();
        let mut parallels: Vec<_> = counts.iter().map(|_| Vec::new()).collect();
        let (mut prompts, mut generations) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            for (tokens, positions) in tokens.chunks(batch).zip(positions.chunks(batch)) {
                decoder.forward(tokens, positions, &[tokens.len() as i32 - 1])?;
            }
            prompts.push(prompt as f64 / begin.elapsed().as_secs_f64());
            let begin = Instant::now();
            for at in 0..generated {
                decoder.forward(&tokens[at..=at], &positions[at..=at], &[0])?;
            }
            generations.push(generated as f64 / begin.elapsed().as_secs_f64());
            for (count, rates) in counts.iter().zip(&mut parallels) {
                let sequences: Vec<i32> = (0..*count as i32).collect();
                let begin = Instant::now();
                for at in 0..generated {
                    let (tokens, positions) = (vec![tokens[at]; *count], vec![at as i32; *count]);
                    decoder.forward_in(&sequences, &tokens, &positions, &sequences)?;
                }
                rates.push((count * generated) as f64 / begin.elapsed().as_secs_f64());
            }
        }
        let median = |mut rates: Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        let (prompt_rate, generation_rate) = (median(prompts), median(generations));
        let parallel = counts.into_iter().zip(parallels.into_iter().map(median)).collect();
        Ok(Some(Rates { prompt, generated, prompt_rate, generation_rate, parallel }))
    }

    /// Keys such as `pp512`, `tg128` and `tg128x4`, in tokens per second.
    pub(crate) fn add_to(&self, object: &mut Value) {
        object[format!("pp{}", self.prompt)] = json!(self.prompt_rate);
        object[format!("tg{}", self.generated)] = json!(self.generation_rate);
        for (count, rate) in &self.parallel {
            object[format!("tg{}x{count}", self.generated)] = json!(rate);
        }
    }

    /// `pp512 608.6 tokens/s   tg128 251.0 tokens/s`, and `4 at once 702.0 tokens/s` of a model of four sequences.
    pub(crate) fn text(&self) -> String {
        let Rates { prompt, generated, prompt_rate, generation_rate, parallel } = self;
        let mut text = format!(
            "pp{prompt} {prompt_rate:.1} tokens/s   tg{generated} {generation_rate:.1} tokens/s"
        );
        for (count, rate) in parallel {
            text += &format!("   {count} at once {rate:.1} tokens/s");
        }
        text
    }
}

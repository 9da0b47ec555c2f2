//! A text as the samples that a language model runs on.

use std::path::Path;

use anyhow::{Context, Result, bail};
use whit::DType;
use whit_convert::dim::Dim;
use whit_convert::evaluate::Samples;
use whit_convert::graph::Graph;
use whit_text::Tokenizer;

/// Pieces of a text that are taken, unless the caller says how many: GPTQ needs some thousands of tokens.
const PIECES: usize = 16;

/// What an input of a language model is fed with.
#[derive(Clone, Copy)]
enum Feed {
    Tokens,
    /// Their numbers, from 0 on.
    Positions,
    /// Tokens whose logits are asked for: so many at most, spread over the piece.
    Rows(usize),
    /// The same number for each token.
    Constant(i32),
}

/// A text in pieces.
pub(crate) struct Texts {
    pieces: Vec<Vec<i32>>,
    /// By input: what it is, and whether its first axis is the batch's.
    inputs: Vec<(Feed, bool)>,
}

/// Whether a file is a text by its name.
pub(crate) fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "txt")
}

impl Texts {
    /// Cuts a text for a graph: at most `limit` pieces, spread over the text. A decoder's are as long as its runs can be, an
    /// encoder's are the text's lines.
    ///
    /// # Errors
    /// When the model has no tokenizer or other inputs than language models have, or the text is too short.
    pub(crate) fn open(path: &Path, graph: &Graph, limit: Option<usize>) -> Result<Texts> {
        let value = |key: &str| {
            let found = graph.metadata.iter().find(|(name, _)| name == key);
            found.map(|(_, value)| value.as_str())
        };
        if value("tokenizer").is_none() {
            bail!(
                "{} is a text, and the model has no tokenizer to read it with: give a .npz with arrays of its inputs",
                path.display()
            );
        }
        let tokenizer = Tokenizer::from_metadata(value)?;
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let most: Vec<i64> = graph.symbols.iter().map(|symbol| symbol.max).collect();
        let longest = |shape: &[Dim]| {
            let size = shape.last().and_then(|dim| dim.eval(&most));
            size.and_then(|size| usize::try_from(size).ok()).unwrap_or(1)
        };
        let mut inputs = Vec::new();
        let (mut most_tokens, mut is_decoder) = (0, false);
        for input in graph.inputs.iter().map(|id| graph.value(*id)) {
            let feed = match input.name.as_str() {
                "tokens" | "input_ids" => {
                    most_tokens = longest(&input.shape);
                    Feed::Tokens
                }
                "positions" => {
                    is_decoder = true;
                    Feed::Positions
                }
                "rows" => Feed::Rows(longest(&input.shape)),
                "attention_mask" => Feed::Constant(1),
                "token_type_ids" => Feed::Constant(0),
                other => bail!(
                    "{} is a text, and the model's input `{other}` isn't one that language models have: give a \
                     .npz with arrays of its inputs",
                    path.display()
                ),
            };
            inputs.push((feed, input.shape.len() > 1));
        }
        let mut pieces: Vec<Vec<i32>> = if is_decoder {
            let bos = tokenizer.encode("", true)?;
            let ids = tokenizer.encode(&text, false)?;
            let room = most_tokens.saturating_sub(bos.len()).max(1);
            let piece = |part: &[i32]| bos.iter().chain(part).copied().take(most_tokens).collect();
            ids.chunks(room).map(piece).collect()
        } else {
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            tokenizer.encode_batch(&lines, most_tokens)?
        };
        // What is left over at the end says little.
        if pieces.len() > 1
            && is_decoder
            && pieces.last().is_some_and(|p| p.len() < most_tokens / 2)
        {
            pieces.pop();
        }
        pieces.retain(|piece| !piece.is_empty());
        if pieces.is_empty() {
            bail!("{} has no text in it", path.display());
        }
        let count = limit.unwrap_or(if is_decoder { PIECES } else { pieces.len() });
        let (all, count) = (pieces.len(), pieces.len().min(count.max(1)));
        let pieces = (0..count).map(|at| pieces[at * all / count].clone()).collect();
        Ok(Texts { pieces, inputs })
    }
}

impl Samples for Texts {
    fn len(&self) -> usize {
        self.pieces.len()
    }

    fn input(
        &self,
        sample: usize,
        input: usize,
        name: &str,
        dtype: DType,
    ) -> Result<(Vec<usize>, Vec<u8>), String> {
        let piece = self.pieces.get(sample).ok_or("no such piece of text")?;
        let (feed, is_batched) = self.inputs.get(input).ok_or("no such input")?;
        let numbers: Vec<i32> = match *feed {
            Feed::Tokens => piece.clone(),
            Feed::Positions => (0..piece.len() as i32).collect(),
            Feed::Rows(most) => {
                let rows = most.min(piece.len());
                (1..=rows).map(|row| (row * piece.len() / rows) as i32 - 1).collect()
            }
            Feed::Constant(number) => vec![number; piece.len()],
        };
        let bytes = match dtype {
            DType::I32 => numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
            DType::I64 => numbers.iter().flat_map(|n| i64::from(*n).to_le_bytes()).collect(),
            other => return Err(format!("input `{name}` of tokens takes {other}, not integers")),
        };
        let shape = if *is_batched { vec![1, numbers.len()] } else { vec![numbers.len()] };
        Ok((shape, bytes))
    }
}

//! What a decoder reads: tokens and their places, within the room that its states have.

use whit::DType;

use super::blocks::{Blocks, Input};
use crate::error::ImportError;
use crate::graph::ValueId;

/// Tokens of a run at most, unless the caller chose otherwise.
const MAX_TOKENS: usize = 512;

/// Rows of logits of a run at most, unless the caller chose otherwise: enough to check a draft of tokens, and to score a
/// text (rows by vocabulary, they take no more of the arena than the layers).
const MAX_ROWS: usize = 32;

/// Positions, unless the caller chose otherwise or the model has less.
const DEFAULT_CONTEXT: usize = 4096;

/// Sequences at most: as many as there are tokens in a run.
const MAX_SEQUENCES: usize = MAX_TOKENS;

/// What every decoder reads: tokens, their positions, and which of them logits are wanted of.
const INPUTS: [Input<'_>; 3] = [
    ("tokens", DType::I32, &["tokens"], &[]),
    ("positions", DType::I32, &["tokens"], &[]),
    ("rows", DType::I32, &["rows"], &[]),
];

/// What a decoder of several sequences reads besides: the sequence of each token.
const SEQUENCES: Input<'_> = ("sequences", DType::I32, &["tokens"], &[]);

/// The inputs of a decoder.
#[derive(Clone, Copy)]
pub(super) struct DecoderInputs {
    pub(super) tokens: ValueId,
    pub(super) positions: ValueId,
    pub(super) rows: ValueId,
    /// Where there are several.
    pub(super) sequences: Option<ValueId>,
}

/// What a decoder's states have room for.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) sequences: usize,
    /// Positions of each.
    pub(super) context: usize,
}

impl Room {
    /// The room that the caller chose for a model that was made for `most` positions.
    pub(super) fn of(blocks: &mut Blocks<'_>, most: usize) -> Result<Room, ImportError> {
        let asked = blocks.options.context;
        if let Some(context) = asked.filter(|context| !(1..=most).contains(context)) {
            let problem =
                format!("a context of {context} positions; the model was made for 1 to {most}");
            return Err(ImportError::Option { option: "--context", problem });
        }
        let context = context(most, asked);
        if asked.is_none() && context < most {
            blocks.note(format!(
                "room for {context} positions of the model's {most}; --context N changes that"
            ));
        }
        let sequences = blocks.options.sequences.unwrap_or(1);
        if !(1..=MAX_SEQUENCES).contains(&sequences) {
            let problem = format!("{sequences} sequences; there can be 1 to {MAX_SEQUENCES}");
            return Err(ImportError::Option { option: "--sequences", problem });
        }
        Ok(Room { sequences, context })
    }

    /// Adds the inputs, and those that the model has besides, with the sizes of their axes.
    pub(super) fn inputs(
        self,
        blocks: &mut Blocks<'_>,
        others: &[Input<'_>],
        ranges: &[(&str, i64, i64)],
    ) -> Result<(DecoderInputs, Vec<ValueId>), ImportError> {
        let mut inputs = INPUTS.to_vec();
        inputs.extend((self.sequences > 1).then_some(SEQUENCES));
        inputs.extend(others);
        let tokens = MAX_TOKENS.min(self.context).max(self.sequences);
        let rows = MAX_ROWS.max(self.sequences);
        let own = [("tokens", 1, tokens as i64), ("rows", 1, rows as i64)];
        let mut ids = blocks.inputs(&inputs, &[&own, ranges].concat())?.into_iter();
        let mut next = || ids.next().expect("an id of each input");
        let [tokens, positions, rows] = [next(), next(), next()];
        let sequences = (self.sequences > 1).then(next);
        Ok((DecoderInputs { tokens, positions, rows, sequences }, ids.collect()))
    }
}

/// Positions that the cache of a model made for `most` has.
pub(super) fn context(most: usize, asked: Option<usize>) -> usize {
    asked.unwrap_or(DEFAULT_CONTEXT).min(most)
}

//! What generates logits: a language model with a KV cache.

use whit::{DType, Prepared};

use crate::error::TextError;

/// A language model that remembers the keys and values of the tokens it has seen, by position.
pub trait Decoder {
    /// Positions at most, of prompt and answer together.
    fn context(&self) -> usize;

    /// Sequences that the model keeps apart, at least 1, each with all positions of the context.
    fn sequences(&self) -> usize;

    /// Tokens in one call at most.
    fn batch(&self) -> usize;

    /// Rows of logits in one call at most.
    fn rows(&self) -> usize;

    /// Number of logits in a row.
    fn vocabulary(&self) -> usize;

    /// Computes the tokens at their positions and returns the logits behind some of them, row by row; `rows` has
    /// indices into `tokens`, at least one. A token sees the positions of its sequence up to its own. A position that was written
    /// before is written again.
    ///
    /// # Errors
    /// [`TextError::Session`] when the model fails.
    fn forward_in(
        &mut self,
        sequences: &[i32],
        tokens: &[i32],
        positions: &[i32],
        rows: &[i32],
    ) -> Result<&[f32], TextError>;

    /// The same for tokens that are all in the first sequence.
    ///
    /// # Errors
    /// As [`Decoder::forward_in`].
    fn forward(
        &mut self,
        tokens: &[i32],
        positions: &[i32],
        rows: &[i32],
    ) -> Result<&[f32], TextError> {
        self.forward_in(&vec![0; tokens.len()], tokens, positions, rows)
    }
}

/// Computes tokens behind those in a model's cache, at most a batch; the logits of the last `rows`.
pub(crate) fn compute<'d, D: Decoder + ?Sized>(
    decoder: &'d mut D,
    cached: &mut Vec<i32>,
    tokens: &[i32],
    rows: usize,
) -> Result<&'d [f32], TextError> {
    let at = cached.len();
    let positions: Vec<i32> = (at..at + tokens.len()).map(|position| position as i32).collect();
    let rows: Vec<i32> = (tokens.len() - rows..tokens.len()).map(|row| row as i32).collect();
    let logits = decoder.forward(tokens, &positions, &rows)?;
    cached.extend_from_slice(tokens);
    Ok(logits)
}

/// A session of a `.whit` decoder, on any backend: inputs `tokens`, `positions`, `rows` and, of several sequences, `sequences`, output
/// `logits`, and the state that is its KV cache.
pub struct SessionDecoder<'m> {
    session: Box<dyn Prepared<'m> + 'm>,
    inputs: [usize; 3],
    /// The input `sequences` of a model that has several.
    sequences_input: Option<usize>,
    output: usize,
    context: usize,
    sequences: usize,
    vocabulary: usize,
    /// The largest values of the dimensions `tokens` and `rows`.
    largest: [usize; 2],
}

/// Inputs, all i32 of one dimension.
const INPUTS: [&str; 3] = ["tokens", "positions", "rows"];
/// As many as tokens, in models of several sequences.
const SEQUENCES: &str = "sequences";
/// Dimensions, named like the inputs that have them.
const SYMBOLS: [&str; 2] = ["tokens", "rows"];

impl<'m> SessionDecoder<'m> {
    /// Checks that a session's model is a decoder. Other dimensions than those of tokens and rows are set to their smallest size.
    ///
    /// # Errors
    /// [`TextError::NotDecoder`] with what is missing.
    pub fn new(mut session: Box<dyn Prepared<'m> + 'm>) -> Result<SessionDecoder<'m>, TextError> {
        let model = *session.model();
        let missing = |what: String| TextError::NotDecoder(format!("it has no {what}"));
        let find = |mut tensors: Vec<usize>, name: &str| {
            let named =
                |tensor: usize| model.tensor(tensor).is_some_and(|t| model.text(t.name) == name);
            tensors.iter_mut().position(|tensor| named(*tensor))
        };
        let mut inputs = [0; 3];
        let expect_ids = |input: usize, name: &str| -> Result<(), TextError> {
            let slot = session.input_slot(input)?;
            match slot.dtype() == DType::I32 && slot.dims().len() == 1 {
                true => Ok(()),
                false => Err(missing(format!("input `{name}` of i32 with one dimension"))),
            }
        };
        for (input, name) in inputs.iter_mut().zip(INPUTS) {
            let found = find(model.inputs().collect(), name);
            *input = found.ok_or_else(|| missing(format!("input `{name}`")))?;
            expect_ids(*input, name)?;
        }
        let sequences_input = find(model.inputs().collect(), SEQUENCES);
        let mut sequences = 1;
        if let Some(input) = sequences_input {
            expect_ids(input, SEQUENCES)?;
            let stated = model.metadata_value("model.sequences").and_then(|text| text.parse().ok());
            let stated = stated.filter(|stated| *stated > 0);
            sequences = stated.ok_or_else(|| missing("metadata `model.sequences`".to_owned()))?;
        }
        let output = find(model.outputs().collect(), "logits");
        let output = output.ok_or_else(|| missing("output `logits`".to_owned()))?;
        let slot = session.output_slot(output)?;
        let &[_, vocabulary] = slot.dims() else {
            return Err(missing("output `logits` with two dimensions".to_owned()));
        };
        if slot.dtype() != DType::F32 {
            return Err(missing("output `logits` of f32".to_owned()));
        }
        let mut largest = [0; 2];
        for (largest, name) in largest.iter_mut().zip(SYMBOLS) {
            let symbol = model.symbols().find(|symbol| model.text(symbol.name) == name);
            let symbol = symbol.filter(|symbol| symbol.min <= 1);
            let symbol = symbol.ok_or_else(|| missing(format!("dimension `{name}` from 1 on")))?;
            *largest = symbol.max as usize;
        }
        for symbol in model.symbols() {
            let name = model.text(symbol.name);
            if !SYMBOLS.contains(&name) {
                session.set_dimension(name, symbol.min)?;
            }
        }
        let context = model.metadata_value("model.context").and_then(|text| text.parse().ok());
        let context = context.ok_or_else(|| missing("metadata `model.context`".to_owned()))?;
        let vocabulary = vocabulary as usize;
        Ok(SessionDecoder {
            session,
            inputs,
            sequences_input,
            output,
            context,
            sequences,
            vocabulary,
            largest,
        })
    }

    /// The session.
    pub fn session(&self) -> &(dyn Prepared<'m> + 'm) {
        &*self.session
    }

    /// The session, to fill inputs that a model has besides those of a decoder.
    pub fn session_mut(&mut self) -> &mut (dyn Prepared<'m> + 'm) {
        &mut *self.session
    }
}

impl Decoder for SessionDecoder<'_> {
    fn context(&self) -> usize {
        self.context
    }

    fn sequences(&self) -> usize {
        self.sequences
    }

    fn batch(&self) -> usize {
        self.largest[0]
    }

    fn rows(&self) -> usize {
        self.largest[1]
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn forward_in(
        &mut self,
        sequences: &[i32],
        tokens: &[i32],
        positions: &[i32],
        rows: &[i32],
    ) -> Result<&[f32], TextError> {
        for (name, size) in SYMBOLS.iter().zip([tokens.len(), rows.len()]) {
            self.session.set_dimension(name, u32::try_from(size).unwrap_or(u32::MAX))?;
        }
        let inputs = self.inputs.into_iter().zip([tokens, positions, rows]);
        for (input, values) in inputs.chain(self.sequences_input.map(|input| (input, sequences))) {
            let slot = self.session.input_mut::<i32>(input)?;
            let expected = slot.len();
            if expected != values.len() {
                let (input, given) = (input as u32, values.len());
                return Err(whit::SessionError::InputLength { input, expected, given }.into());
            }
            slot.copy_from_slice(values);
        }
        self.session.run()?;
        Ok(self.session.output::<f32>(self.output)?)
    }
}

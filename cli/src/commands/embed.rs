//! `whit embed`: texts in, vectors out, and how alike they are.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use whit::{DType, Model, Prepared};
use whit_text::Tokenizer;

use super::{ModelPath, Target, print_json, print_text};
use crate::data::{Array, ArrayData, write_npy_file};
use crate::program;
use crate::report::{self, Align};
use crate::samples::output_f32;
use crate::whit_file::{self, TensorInfo, tensor_info};

#[derive(Args)]
pub(crate) struct Embed {
    #[command(flatten)]
    path: ModelPath,
    /// Texts; without any, and without --file, a text a line is read from standard input
    #[arg(conflicts_with = "file")]
    text: Vec<String>,
    /// A file with a text a line
    #[arg(long)]
    file: Option<PathBuf>,
    /// Write the vectors to a .npy file, one row per text
    #[arg(long, value_name = "X.npy")]
    output: Option<PathBuf>,
    /// Print the cosine of every two texts instead of the vectors, as is done for exactly two texts
    #[arg(long)]
    cosine: bool,
    /// Texts per run at most (default: as many as the model takes)
    #[arg(long, value_name = "N")]
    batch: Option<std::num::NonZeroUsize>,
    #[command(flatten)]
    target: Target,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// A text, as the model reads it.
struct Tokens {
    /// Its place among the texts.
    text: usize,
    ids: Vec<i32>,
}

/// How a model takes texts and gives vectors.
struct Interface<'m> {
    /// Index and name of each input.
    inputs: Vec<(usize, &'m str)>,
    batch: Axis,
    seq: Axis,
    /// Index of the output.
    output: usize,
}

/// An axis of the inputs: its bounds, and the symbol that sets it.
struct Axis {
    min: usize,
    max: usize,
    symbol: String,
}

impl Axis {
    fn of(info: &TensorInfo<'_>, axis: usize) -> Axis {
        let (min, max, symbol) = &info.dims[axis];
        Axis { min: *min as usize, max: *max as usize, symbol: symbol.clone() }
    }

    /// Sets the size for so many elements, which is the smallest that holds them; returns it.
    fn set(&self, session: &mut dyn Prepared<'_>, count: usize) -> Result<usize> {
        let size = count.max(self.min);
        if self.min != self.max {
            session.set_dimension(&self.symbol, u32::try_from(size)?)?;
        }
        Ok(size)
    }
}

impl<'m> Interface<'m> {
    /// Looks at the names of a model's inputs and outputs.
    fn of(model: &Model<'m>) -> Result<Interface<'m>> {
        const REMEDY: &str = "convert the folder of a Hugging Face encoder, with --pooling mean or cls if \
             it isn't one of sentence-transformers";
        let output = model.outputs().position(|tensor| {
            tensor_info(model, tensor)
                .is_some_and(|info| info.name == "embedding" && info.dims.len() == 2)
        });
        let Some(output) = output else {
            bail!("the model gives no embedding of texts: it has no output `embedding`; {REMEDY}");
        };
        let mut inputs = Vec::new();
        let mut ids = None;
        for (index, tensor) in model.inputs().enumerate() {
            let Some(info) = tensor_info(model, tensor) else { continue };
            if info.dims.len() != 2 || info.dtype != DType::I32 {
                bail!("input `{}` isn't i32 of two axes; {REMEDY}", info.name);
            }
            match info.name {
                "input_ids" => ids = Some((Axis::of(&info, 0), Axis::of(&info, 1))),
                "attention_mask" | "token_type_ids" => (),
                other => bail!("input `{other}` has no meaning for a text; {REMEDY}"),
            }
            inputs.push((index, info.name));
        }
        let Some((batch, seq)) = ids else {
            bail!("the model takes no text: it has no input `input_ids`; {REMEDY}");
        };
        Ok(Interface { inputs, batch, seq, output })
    }

    /// The vectors of a few texts, one after the other.
    fn run(&self, session: &mut dyn Prepared<'_>, texts: &[Tokens]) -> Result<Vec<Vec<f32>>> {
        let longest = texts.iter().map(|tokens| tokens.ids.len()).max().unwrap_or(0);
        let rows = self.batch.set(session, texts.len())?;
        let seq = self.seq.set(session, longest)?;
        for (index, name) in &self.inputs {
            let mut values = vec![0i32; rows * seq];
            for (row, tokens) in values.chunks_mut(seq).zip(texts) {
                match *name {
                    "input_ids" => row[..tokens.ids.len()].copy_from_slice(&tokens.ids),
                    "attention_mask" => row[..tokens.ids.len()].fill(1),
                    _ => (),
                }
            }
            session.input_mut::<i32>(*index)?.copy_from_slice(&values);
        }
        let model = *session.model();
        session.run().map_err(|error| whit_file::named(&model, error))?;
        let vectors = output_f32(session, self.output)?;
        let width = vectors.len() / rows;
        Ok(vectors.chunks(width.max(1)).take(texts.len()).map(<[f32]>::to_vec).collect())
    }
}

impl Embed {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let texts = self.texts()?;
        let file = whit_file::open(&self.path.model)?;
        let model = whit_file::model(&file, &self.path.model)?;
        let interface = Interface::of(&model)?;
        let tokenizer = Tokenizer::of(&model).with_context(|| {
            format!("{}: embedding texts takes a tokenizer", self.path.model.display())
        })?;
        let batch = self.batch.map_or(interface.batch.max, usize::from);
        if batch > interface.batch.max {
            let most = interface.batch.max;
            bail!(
                "--batch {batch}: the model takes {most} texts at once; convert it with --dim batch=1..{batch}"
            );
        }

        let start = Instant::now();
        let (mut tokens, cut) = tokens(&tokenizer, &texts, interface.seq.max)?;
        if cut > 0 {
            eprintln!(
                "note: {cut} of {} texts were cut to {} tokens",
                texts.len(),
                interface.seq.max
            );
        }
        let count: usize = tokens.iter().map(|tokens| tokens.ids.len()).sum();
        // Texts of like lengths are padded least.
        tokens.sort_by_key(|tokens| tokens.ids.len());
        let mut program = program::prepare(model, self.target.settings()?)?;
        let session = program.prepared();
        let mut vectors = vec![Vec::new(); texts.len()];
        for texts in tokens.chunks(batch) {
            for (tokens, vector) in texts.iter().zip(interface.run(session, texts)?) {
                vectors[tokens.text] = vector;
            }
        }
        let seconds = start.elapsed().as_secs_f64();

        if let Some(path) = &self.output {
            let width = vectors.first().map_or(0, Vec::len);
            let data = ArrayData::F32(vectors.concat());
            let array = Array { shape: vec![vectors.len(), width], data };
            write_npy_file(path, &array).with_context(|| path.display().to_string())?;
        }
        self.report(&texts, &vectors, cut, count, seconds)?;
        Ok(ExitCode::SUCCESS)
    }

    fn texts(&self) -> Result<Vec<String>> {
        if !self.text.is_empty() {
            return Ok(self.text.clone());
        }
        let mut all = String::new();
        match &self.file {
            Some(path) => {
                all = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            }
            None => {
                let read = std::io::stdin().lock().read_to_string(&mut all);
                read.context("reading standard input")?;
            }
        }
        let texts: Vec<String> = all.lines().map(str::to_owned).collect();
        if texts.is_empty() {
            bail!("there are no texts; give some, a --file, or lines on standard input");
        }
        Ok(texts)
    }

    fn report(
        &self,
        texts: &[String],
        vectors: &[Vec<f32>],
        cut: usize,
        tokens: usize,
        seconds: f64,
    ) -> Result<()> {
        let compares = self.cosine || texts.len() == 2;
        let cosines: Vec<Vec<f64>> = match compares {
            true => {
                vectors.iter().map(|a| vectors.iter().map(|b| cosine(a, b)).collect()).collect()
            }
            false => Vec::new(),
        };
        let rate = tokens as f64 / seconds;
        if self.json {
            let mut object = json!({
                "model": self.path.model.display().to_string(),
                "texts": texts.len(),
                "truncated": cut,
                "tokens": tokens,
                "seconds": seconds,
                "tokens_per_s": rate,
            });
            if compares {
                object["cosines"] = json!(cosines);
            }
            if self.output.is_none() {
                object["embeddings"] = json!(vectors);
            }
            return print_json(&object);
        }
        if compares && texts.len() == 2 {
            print_text(&format!("cosine {:.6}", cosines[0][1]))?;
        } else if compares {
            print_text(&table(texts, &cosines))?;
        } else if self.output.is_none() {
            for vector in vectors {
                let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
                print_text(&numbers.join(" "))?;
            }
        }
        let (ms, texts) = (seconds * 1e3, texts.len());
        eprintln!("{texts} texts, {tokens} tokens in {ms:.1} ms, {rate:.0} tokens/s");
        Ok(())
    }
}

/// Every text's tokens, at most `limit`, and how many texts were cut to that.
fn tokens(tokenizer: &Tokenizer, texts: &[String], limit: usize) -> Result<(Vec<Tokens>, usize)> {
    let mut cut = 0;
    let mut all = Vec::with_capacity(texts.len());
    for (text, content) in texts.iter().enumerate() {
        let mut ids = tokenizer.encode(content, true)?;
        if ids.len() > limit {
            cut += 1;
            ids = tokenizer.encode_batch(&[content], limit)?.swap_remove(0);
        }
        all.push(Tokens { text, ids });
    }
    Ok((all, cut))
}

/// The cosine of the angle between two vectors; 0 when one of them is 0.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

/// The cosines of all pairs, with the beginnings of the texts.
fn table(texts: &[String], cosines: &[Vec<f64>]) -> String {
    const MOST: usize = 40; // characters of a text in the first column
    let numbers: Vec<String> = (1..=texts.len()).map(|number| number.to_string()).collect();
    let mut header = vec![("", Align::Right), ("text", Align::Left)];
    header.extend(numbers.iter().map(|number| (number.as_str(), Align::Right)));
    let row = |(index, text): (usize, &String)| {
        let text: String = text.chars().take(MOST).collect();
        let cells = cosines[index].iter().map(|cosine| format!("{cosine:.4}"));
        [(index + 1).to_string(), text].into_iter().chain(cells).collect()
    };
    let rows: Vec<Vec<String>> = texts.iter().enumerate().map(row).collect();
    report::table(&header, &rows)
}

#[cfg(test)]
mod tests {
    use super::cosine;

    #[test]
    fn cosines() {
        struct Case(&'static [f32], &'static [f32], f64);
        let cases = [
            Case(&[1.0, 0.0], &[0.0, 2.0], 0.0),
            Case(&[1.0, 1.0], &[3.0, 3.0], 1.0),
            Case(&[1.0, 0.0], &[-4.0, 0.0], -1.0),
            Case(&[3.0, 4.0], &[4.0, 3.0], 0.96),
            Case(&[0.0, 0.0], &[1.0, 1.0], 0.0),
        ];
        for Case(a, b, expected) in cases {
            assert!((cosine(a, b) - expected).abs() < 1e-12, "{a:?} {b:?}");
        }
    }
}

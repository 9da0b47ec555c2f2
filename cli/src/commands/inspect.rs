//! `whit inspect`: what is in a file, and what running it will take.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use whit::format::{Layout, Op, StepRecord};
use whit::kernels::conv_f32::grouped::GroupedForm;
use whit::ops::{self, Operator};
use whit::{DType, Model};

use super::inspect_memory::Memory;
use super::{ModelPath, Target, inspect_monitor as monitor, print_json, print_text};
use crate::report::{self, Align};
use crate::whit_file::{self, TensorInfo, tensor_info};

#[derive(Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    path: ModelPath,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Print the operators as the Rust table that firmware gives `Options::operators`
    #[arg(long, conflicts_with = "json")]
    operators: bool,
    /// Print what the monitor's baseline has, and what a monitor of the model costs
    #[arg(long, conflicts_with = "operators")]
    monitor: bool,
    /// Print all memory that a language model takes with a context of N tokens: file, KV cache, arena, working memory
    #[arg(long, value_name = "N", conflicts_with_all = ["operators", "monitor"], value_parser = clap::value_parser!(u64).range(1..))]
    context: Option<u64>,
    #[command(flatten)]
    target: Target,
}

/// Characters of a metadata value that are printed; tokenizers have millions.
const MAX_VALUE_CHARS: usize = 120;

fn interface_json(info: &TensorInfo<'_>) -> Value {
    let quantized = info.is_quantized();
    json!({
        "name": info.name,
        "type": info.dtype.name(),
        "shape": info.shape_json(),
        "scale": if quantized { Value::from(f64::from(info.scale)) } else { Value::Null },
        "zero_point": if quantized { Value::from(info.zero_point) } else { Value::Null },
    })
}

/// Operator name with its variant: `conv_2d i8`.
fn op_text(step: &StepRecord) -> (&'static str, Option<DType>) {
    (Op::from_number(step.op).map_or("unknown", |op| op.name()), DType::from_number(step.variant))
}

/// The packed weights that a step reads.
fn weights_of<'a>(model: &Model<'a>, step: &StepRecord) -> Option<Weights<'a>> {
    model.operands(step).take(usize::from(step.input_count)).find_map(|tensor| {
        let record = model.tensor(tensor as usize)?;
        let layout = Layout::from_number(record.layout)?;
        (layout != Layout::Dense).then_some(())?;
        let info = tensor_info(model, tensor as usize)?;
        let (kind, group_size) = match GroupedForm::of(layout) {
            Some(form) => (form.bits.name(), Some(record.group_size)),
            None => (info.dtype.name(), None),
        };
        Some(Weights { kind, group_size, info })
    })
}

/// Weights as people call them.
struct Weights<'a> {
    /// Element type, or `w8`, `w6`, `w5`, `w4`, or `w4nl` for the values of a table at 4 bits.
    kind: &'static str,
    /// Inputs per scale.
    group_size: Option<u32>,
    info: TensorInfo<'a>,
}

impl Weights<'_> {
    /// `i8`, `w4 in groups of 32`.
    fn text(&self) -> String {
        match self.group_size {
            Some(size) => format!("{} in groups of {size}", self.kind),
            None => self.kind.to_owned(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "type": self.kind,
            "group_size": self.group_size,
            "shape": self.info.shape_json(),
            "bytes": self.info.bytes,
        })
    }
}

/// The tensor that a step makes.
fn output_of(model: &Model<'_>, step: &StepRecord) -> Option<usize> {
    model.operands(step).nth(usize::from(step.input_count)).map(|tensor| tensor as usize)
}

impl Inspect {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let file = whit_file::open(&self.path.model)?;
        let model = whit_file::model(&file, &self.path.model)?;
        if self.operators {
            print_text(&operator_table(&model)?)?
        } else if self.monitor {
            let about = monitor::about(&model)?;
            if self.json { print_json(&about.json())? } else { print_text(&about.text())? }
        } else if let Some(context) = self.context {
            let memory = Memory::of(&model, context, self.target.settings()?)
                .with_context(|| self.path.model.display().to_string())?;
            if self.json { print_json(&memory.json())? } else { print_text(&memory.text())? }
        } else if self.json {
            print_json(&json(&model))?
        } else {
            print_text(&text(&model))?
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The operators that steps are bound to, each once and in the table's order, by the names of their
/// statics in `whit::ops`.
fn operator_names(model: &Model<'_>) -> Result<Vec<&'static str>> {
    let mut used = vec![false; ops::ALL.len()];
    for step in model.steps() {
        let is_bound = |operator: &&Operator| {
            operator.op as u16 == step.op && operator.dtype == DType::from_number(step.variant)
        };
        let Some(index) = ops::ALL.iter().position(is_bound) else {
            let (op, dtype) = op_text(&step);
            let dtype = dtype.map_or(String::new(), |dtype| format!(" for {dtype}"));
            bail!(
                "step `{}`: this build of whit lacks operator {op}{dtype}",
                model.text(step.name)
            );
        };
        used[index] = true;
    }
    Ok(ops::NAMES.iter().zip(used).filter_map(|(name, used)| used.then_some(*name)).collect())
}

/// A Rust expression, to paste behind `static OPERATORS: &[&whit::ops::Operator] =` or to include.
fn operator_table(model: &Model<'_>) -> Result<String> {
    let rows = operator_names(model)?.into_iter().map(|name| format!("    &whit::ops::{name},\n"));
    Ok(format!("&[\n{}]", rows.collect::<String>()))
}

fn json(model: &Model<'_>) -> Value {
    let header = model.header();
    let interface = |tensors: &mut dyn Iterator<Item = usize>| -> Vec<Value> {
        tensors
            .filter_map(|tensor| tensor_info(model, tensor))
            .map(|info| interface_json(&info))
            .collect()
    };
    let steps: Vec<Value> = model
        .steps()
        .map(|step| {
            let (op, variant) = op_text(&step);
            let output = output_of(model, &step).and_then(|tensor| tensor_info(model, tensor));
            json!({
                "op": op,
                "variant": variant.map(DType::name),
                "name": model.text(step.name),
                "macs": step.macs,
                "weights": weights_of(model, &step).map(|weights| weights.json()),
                "output": output.map(|info| json!({
                    "name": info.name,
                    "type": info.dtype.name(),
                    "shape": info.shape_json(),
                    "bytes": info.bytes,
                })),
            })
        })
        .collect();
    let symbols: Vec<Value> = model
        .symbols()
        .map(|symbol| json!({ "name": model.text(symbol.name), "min": symbol.min, "max": symbol.max }))
        .collect();
    let metadata: serde_json::Map<String, Value> =
        model.metadata().map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
    json!({
        "format": format!("{}.{}", header.version_major, header.version_minor),
        "file_bytes": header.file_bytes,
        "weight_bytes": header.weight_bytes,
        "arena_bytes": header.arena_bytes,
        "liveness_bound_bytes": header.liveness_bound_bytes,
        "state_bytes": header.state_bytes,
        "macs": header.macs,
        "step_count": header.step_count,
        "tensor_count": header.tensor_count,
        "golden_vectors": golden_cases(model),
        "baseline_bytes": model.section(whit::format::Section::Baseline).len(),
        "inputs": interface(&mut model.inputs()),
        "outputs": interface(&mut model.outputs()),
        "symbols": symbols,
        "op_set": model.op_set().iter().map(Op::name).collect::<Vec<_>>(),
        "steps": steps,
        "metadata": metadata,
    })
}

/// Number of golden vectors: `Model::open` checked that cases count from 0.
pub(super) fn golden_cases(model: &Model<'_>) -> u32 {
    model.golden().last().map_or(0, |record| record.case.saturating_add(1))
}

/// A metadata value on one line, cut where it gets long.
fn shortened(value: &str) -> String {
    let line = value.replace('\n', ", ");
    match line.char_indices().nth(MAX_VALUE_CHARS) {
        None => line,
        Some((end, _)) => format!("{}… ({})", &line[..end], report::bytes(value.len() as u64)),
    }
}

fn text(model: &Model<'_>) -> String {
    let header = model.header();
    let over = header.arena_bytes as f64 / header.liveness_bound_bytes.max(1) as f64;
    let mut parts = vec![report::fields(&[
        ("file", report::bytes(header.file_bytes)),
        ("weights", report::bytes(header.weight_bytes)),
        (
            "arena",
            format!(
                "{} bytes, {over:.3} × the liveness bound of {} bytes",
                header.arena_bytes, header.liveness_bound_bytes
            ),
        ),
        ("state", format!("{} bytes", header.state_bytes)),
        ("work", format!("{} in {} steps", report::macs(header.macs), header.step_count)),
        ("operators", model.op_set().to_string()),
        ("golden", format!("{} vectors", golden_cases(model))),
        ("baseline", report::bytes(model.section(whit::format::Section::Baseline).len() as u64)),
    ])];

    let quantization = |info: &TensorInfo<'_>| match info.is_quantized() {
        true => format!("{} × (q − {})", info.scale, info.zero_point),
        false => String::new(),
    };
    let mut rows = Vec::new();
    for (kind, tensors) in
        [("input", model.inputs().collect::<Vec<_>>()), ("output", model.outputs().collect())]
    {
        for info in tensors.into_iter().filter_map(|tensor| tensor_info(model, tensor)) {
            rows.push(vec![
                kind.to_owned(),
                info.name.to_owned(),
                info.dtype.name().to_owned(),
                info.shape_text(),
                quantization(&info),
            ]);
        }
    }
    let left = Align::Left;
    parts.push(report::table(
        &[("", left), ("name", left), ("type", left), ("shape", left), ("real value", left)],
        &rows,
    ));
    if model.symbols().len() > 0 {
        let rows: Vec<Vec<String>> = model
            .symbols()
            .map(|symbol| {
                vec![model.text(symbol.name).to_owned(), format!("{}..={}", symbol.min, symbol.max)]
            })
            .collect();
        parts.push(report::table(&[("dimension", left), ("sizes", left)], &rows));
    }
    let rows: Vec<Vec<String>> = model
        .steps()
        .enumerate()
        .map(|(index, step)| {
            let (op, variant) = op_text(&step);
            let output = output_of(model, &step).and_then(|tensor| tensor_info(model, tensor));
            vec![
                index.to_string(),
                format!("{op}{}", variant.map_or(String::new(), |dtype| format!(" {dtype}"))),
                model.text(step.name).to_owned(),
                output.as_ref().map_or(String::new(), TensorInfo::shape_text),
                weights_of(model, &step).map_or(String::new(), |weights| weights.text()),
                if step.macs > 0 { report::macs(step.macs) } else { String::new() },
            ]
        })
        .collect();
    parts.push(report::table(
        &[
            ("step", Align::Right),
            ("operator", left),
            ("node", left),
            ("output", left),
            ("weights", left),
            ("work", Align::Right),
        ],
        &rows,
    ));
    let metadata: Vec<(&str, String)> =
        model.metadata().map(|(key, value)| (key, shortened(value))).collect();
    if !metadata.is_empty() {
        parts.push(report::fields(&metadata));
    }
    parts.join("\n\n")
}

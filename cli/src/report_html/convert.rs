//! The report of `whit convert --report`: what was decided, what it costs, what it does to every layer.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use whit_convert::evaluate::{AlignedBytes, Program, Samples, Subset};
use whit_convert::graph::{Graph, Op};
use whit_convert::pipeline::{Converted, rewrite_float};
use whit_convert::plan::PlanOptions;
use whit_convert::quantize::diagnose::{Comparison, compare};
use whit_convert::quantize::search::{Front, Point};

use super::charts;
use super::{Page, decibels, render};
use crate::commands::{Bar, graph_specs};
use crate::data::Dataset;
use crate::report;
use crate::samples::{Bound, progress_bar};

/// Samples that layers are compared on at most.
const SAMPLES: usize = 64;

/// What a report is made of.
pub(crate) struct ConvertReport<'r> {
    /// The source, as a user would name it.
    pub(crate) model: String,
    /// Its size.
    pub(crate) source_bytes: u64,
    /// The imported graph, before conversion changed it.
    pub(crate) source: Graph,
    /// What was asked for.
    pub(crate) scheme: String,
    pub(crate) converted: &'r Converted,
}

/// Refuses a path that says neither page nor data, before anything is done.
pub(crate) fn check_path(path: &Path) -> Result<()> {
    match extension(path).as_str() {
        "html" | "htm" | "json" => Ok(()),
        _ => bail!("{}: a report is written as .html or .json", path.display()),
    }
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

impl ConvertReport<'_> {
    /// The report as the bytes of the file, by its name's extension.
    ///
    /// `data` is what to compare layers on; without it they aren't.
    pub(crate) fn write(self, path: &Path, data: Option<&Dataset>, quiet: bool) -> Result<Vec<u8>> {
        let (specs, ranks) = graph_specs(&self.source);
        let bound = data.map(|data| Bound::new(data, specs, &ranks)).transpose()?;
        let bar = if quiet { ProgressBar::hidden() } else { progress_bar("comparing", 1) };
        let mut watch = Bar(bar);
        let aligned = AlignedBytes::new(&self.converted.file);
        let model = whit::Model::open(aligned.as_slice())?;
        let header = model.header();
        let scales = source_scales(&self.source, self.converted);
        let mut graph = self.source;
        let integers = model.tensors().any(|tensor| tensor.scale != 0.0);
        let is_float = rewrite_float(&mut graph, integers);
        let mut notes = self.converted.report.notes.clone();
        let (mut comparison, mut float) = (None, None);
        if is_float {
            let program = Program::new(&graph, &PlanOptions::default())?;
            let file = AlignedBytes::new(&whit_convert::emit::emit(&program.plan, &[]));
            float = Some((file.as_slice().len() as u64, program.plan.arena_bytes as u64));
            match bound.as_ref().filter(|samples| !samples.is_empty()) {
                Some(samples) if self.scheme != "none" => {
                    let reference = program.model()?;
                    let samples = Subset::first(samples, SAMPLES);
                    let found = compare(reference, Some(&graph), model, &samples, &mut watch);
                    comparison = Some(found.context("comparing the layers for the report")?);
                }
                Some(_) => {}
                None => {
                    notes.push("layers aren't compared without data: give --calibrate".to_owned())
                }
            }
        }
        watch.0.finish_and_clear();
        let front = self.converted.report.front.as_ref();
        let effects = effects(self.converted);
        let methods = methods(self.converted, &graph);
        let higher = comparison.as_ref().map(|comparison| higher(comparison, &graph, front));
        if extension(path) == "json" {
            let mut value = json!({
                "model": self.model,
                "scheme": self.scheme,
                "source_bytes": self.source_bytes,
                "file_bytes": header.file_bytes,
                "weight_bytes": header.weight_bytes,
                "arena_bytes": header.arena_bytes,
                "macs": header.macs,
                "steps": header.step_count,
                "float": float.map(|(file, arena)| json!({ "file_bytes": file, "arena_bytes": arena })),
                "float_nodes": self.converted.report.float_nodes,
                "effects": effects,
                "front": front.map(front_data),
                "higher_precision": higher,
                "range_methods": methods,
                "source_scales": scales,
                "notes": notes,
            });
            if let (Value::Object(object), Some(comparison)) = (&mut value, &comparison) {
                object.insert("comparison".to_owned(), serde_json::to_value(comparison)?);
            }
            return Ok((serde_json::to_string_pretty(&value)? + "\n").into_bytes());
        }

        let change = |before: Option<u64>| {
            before
                .filter(|before| *before > 0)
                .map_or(String::new(), |before| format!(" · float {}", report::bytes(before)))
        };
        let mut tiles = Vec::new();
        if let Some(comparison) = &comparison {
            tiles.push((
                format!("{} dB", decibels(comparison.output_snr_db)),
                "outputs, signal over error".to_owned(),
            ));
        }
        tiles.extend([
            (report::bytes(header.file_bytes), format!("file{}", change(float.map(|f| f.0)))),
            (report::bytes(header.arena_bytes), format!("arena{}", change(float.map(|f| f.1)))),
            (report::macs(header.macs), "per run".to_owned()),
            (header.step_count.to_string(), "steps".to_owned()),
        ]);
        if let Some(front) = front {
            let chosen = front.points.get(front.chosen);
            if let Some(chosen) = chosen {
                tiles.push((
                    format!("{:.4}", chosen.quality),
                    format!("{} · float {:.4}", front.quality, front.float.quality),
                ));
            }
        }
        let mut sections = Map::new();
        sections.insert("effects".to_owned(), json!(effects));
        sections.insert("scheme".to_owned(), json!(self.scheme));
        if let Some(higher) = higher.filter(|higher| !higher.is_empty()) {
            sections.insert("higher".to_owned(), json!(higher));
        }
        if let Some(scales) = scales {
            sections.insert("source_scales".to_owned(), scales);
        }
        if let Some(front) = front {
            sections.insert("front".to_owned(), front_section(front));
        }
        let page = Page {
            title: format!("{} as {}", self.model, self.scheme),
            subtitle: format!(
                "{} of source became {} of .whit; calibration: {}",
                report::bytes(self.source_bytes),
                report::bytes(header.file_bytes),
                model.metadata_value("quantization.calibration").unwrap_or("none")
            ),
            tiles,
            summary: comparison.as_ref().map(crate::commands::summary_lines).unwrap_or_default(),
            notes,
            methods,
            sections,
        };
        Ok(render(&page, comparison.as_ref())?.into_bytes())
    }
}

/// The method that chose the range of each value, where each has its own.
fn methods(converted: &Converted, graph: &Graph) -> BTreeMap<String, String> {
    let choices = converted.report.calibration.iter().flat_map(|found| &found.choices);
    choices
        .flat_map(|choice| choice.values.iter().map(|value| (value, choice.method)))
        .filter_map(|(value, method)| {
            let value = graph.values.get(value.0 as usize)?;
            Some((value.name.clone(), method.to_string()))
        })
        .collect()
}

fn effects(converted: &Converted) -> Vec<Value> {
    let effect = |effect: &whit_convert::quantize::improve::Effect| {
        json!({
            "step": effect.improvement.name(),
            "before": decibels(effect.before_db),
            "after": decibels(effect.after_db),
            "gain": format!("{:+.1}", effect.after_db - effect.before_db),
            "verdict": if effect.kept { "kept" } else { "taken back: no better" },
        })
    };
    converted.report.effects.iter().map(effect).collect()
}

/// The layers that compute on wider numbers than most, and why as far as it is known.
fn higher(comparison: &Comparison, graph: &Graph, front: Option<&Front>) -> Vec<Value> {
    let i8s = comparison.layers.iter().filter(|layer| layer.dtype == "i8").count();
    if i8s == 0 {
        return Vec::new();
    }
    let has_form = |name: &str| {
        let node = graph.nodes.iter().find(|node| graph.value(node.outputs[0]).name == *name);
        node.map(|node| whit_convert::quantize::numbers::integer_form(graph, node).is_some())
    };
    let mut listed = Vec::new();
    for layer in &comparison.layers {
        if layer.dtype == "i8" || matches!(layer.op.as_str(), "input" | "quantize") {
            continue;
        }
        let searched = front.and_then(|front| {
            let int8 = front
                .sensitivities
                .iter()
                .find(|tried| tried.layer == layer.node && tried.numbers.to_string() == "int8")?;
            Some(format!("in int8 alone it brings the outputs to {:.1} dB", int8.snr_db))
        });
        let why = match (searched, has_form(&layer.name)) {
            (Some(why), _) => why,
            (None, Some(false)) => "the operator has no integer form".to_owned(),
            _ => "asked for, or its neighbours are".to_owned(),
        };
        listed.push(json!({ "name": layer.name, "numbers": layer.dtype, "why": why }));
    }
    listed
}

/// For a model that came with scales: which tensors had some, and what was done with the others.
fn source_scales(source: &Graph, converted: &Converted) -> Option<Value> {
    let producers = source.producers();
    let mut with = Vec::new();
    let mut scaled = vec![false; source.values.len()];
    for node in &source.nodes {
        let integer = match node.op {
            Op::Quantize => node.outputs.first().copied(),
            Op::Dequantize => node.inputs.first().copied().flatten(),
            _ => None,
        };
        let Some(integer) = integer else { continue };
        for id in node.inputs.iter().flatten().chain(&node.outputs) {
            scaled[id.0 as usize] = true;
        }
        let value = source.value(integer);
        let Some(quant) = value.quant.as_ref().filter(|_| value.constant.is_none()) else {
            continue;
        };
        if with.iter().any(|known: &Value| known["name"] == json!(value.name)) {
            continue;
        }
        with.push(json!({
            "name": value.name,
            "dtype": value.dtype.to_string(),
            "scale": quant.scale.first(),
            "zero_point": quant.zero_point.first(),
        }));
    }
    if with.is_empty() {
        return None;
    }
    let without: Vec<Value> = source
        .nodes
        .iter()
        .flat_map(|node| &node.outputs)
        .filter(|id| {
            let value = source.value(**id);
            let made = producers[id.0 as usize].is_some();
            made && value.dtype == whit::DType::F32 && !scaled[id.0 as usize]
        })
        .map(|id| {
            let name = &source.value(*id).name;
            let float = converted.report.float_nodes.iter().any(|node| {
                producers[id.0 as usize].is_some_and(|at| source.nodes[at].name == *node)
            });
            let done = if float {
                "computed in float"
            } else {
                "fused into the layer before or behind it, or only moved"
            };
            json!({ "name": name, "done": done })
        })
        .collect();
    let text = format!(
        "The model came quantized. The scales of its {} activations were kept exactly; {} values between them had none.",
        with.len(),
        without.len()
    );
    Some(json!({ "text": text, "with": with, "without": without }))
}

fn front_data(front: &Front) -> Value {
    let point = |point: &Point| {
        json!({
            "description": point.description,
            "quality": point.quality,
            "snr_db": point.snr_db,
            "file_bytes": point.file_bytes,
            "arena_bytes": point.arena_bytes,
            "latency_us": point.latency_us,
            "relative_time": point.relative_time,
            "improved": point.improved,
            "on_front": point.on_front,
        })
    };
    let sensitivities: Vec<Value> = front
        .sensitivities
        .iter()
        .map(|tried| {
            json!({ "layer": tried.layer, "numbers": tried.numbers.to_string(), "snr_db": tried.snr_db })
        })
        .collect();
    json!({
        "quality": front.quality,
        "samples": front.samples,
        "float": point(&front.float),
        "points": front.points.iter().map(point).collect::<Vec<_>>(),
        "chosen": front.chosen,
        "sensitivities": sensitivities,
        "cut_short": front.cut_short,
    })
}

fn front_section(front: &Front) -> Value {
    let all = || {
        let mixes = front.points.iter().enumerate();
        mixes.map(|(at, point)| (point, at == front.chosen, false)).chain([(
            &front.float,
            false,
            true,
        )])
    };
    // Float's outputs are exact: off any scale of decibels.
    let by_snr = front.float.quality.is_infinite();
    let plot = |x: &dyn Fn(&Point) -> f64, title: &str| {
        let points: Vec<charts::Point> = all()
            .map(|(point, chosen, float)| charts::Point {
                x: x(point),
                y: if by_snr { point.snr_db } else { point.quality },
                on_front: point.on_front,
                chosen,
                float,
                tip: format!(
                    "{}: {} {:.4}, {:.1} dB, {}, {:.0} µs",
                    point.description,
                    front.quality,
                    point.quality,
                    point.snr_db,
                    report::bytes(point.file_bytes),
                    point.latency_us
                ),
            })
            .collect();
        charts::front(&points, title, front.quality)
    };
    let rows: Vec<Value> = all()
        .map(|(point, chosen, float)| {
            json!({
                "description": point.description,
                "quality": format!("{:.4}", point.quality),
                "snr": decibels(point.snr_db),
                "file": report::bytes(point.file_bytes),
                "arena": report::bytes(point.arena_bytes),
                "latency": format!("{:.1}", point.latency_us),
                "mark": match (chosen, float, point.on_front) {
                    (true, ..) => "taken",
                    (_, true, _) => "float",
                    (_, _, true) => "on the front",
                    _ => "",
                },
            })
        })
        .collect();
    json!({
        "quality": front.quality,
        "samples": front.samples,
        "cut_short": front.cut_short,
        "points": rows,
        "plots": [
            plot(&|point| point.file_bytes as f64 / 1e3, "file, KB"),
            plot(&|point| point.latency_us, "time, µs"),
        ],
    })
}

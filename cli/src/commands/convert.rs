//! `whit convert`: a trained model in, a .whit file out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde_json::json;
use sha2::{Digest, Sha256};
use whit::metrics::record::Scores;
use whit_convert::baseline::MonitorOptions;
use whit_convert::dump;
use whit_convert::evaluate::Samples;
use whit_convert::graph::Graph;
use whit_convert::import::import_file;
use whit_convert::import::transformers::weights_file;
use whit_convert::pipeline::{ConvertOptions, Converted, Watch, convert, convert_searched};
use whit_convert::plan::Target;
use whit_convert::quantize::calibrate::{Calibration, Method};
use whit_convert::quantize::improve::{Effect, Steps};
use whit_convert::quantize::numbers::{DEFAULT_GROUP, GroupedBits, Numbers, parse_group};

use super::import_args::ImportArgs;
use super::search::{self, SearchArgs, Wanted};
use super::{Images, check, print_json, print_text};
use crate::data::{Dataset, Extent, InputSpec};
use crate::report::{self, Align};
use crate::report_html::{self, ConvertReport};
use crate::samples::{Bound, progress_bar};
use crate::texts::{Texts, is_text};

#[derive(Args)]
pub(crate) struct Convert {
    /// The trained model: .onnx, .tflite, or the folder of a Hugging Face model
    model: PathBuf,
    /// The .whit file to write
    #[arg(short, long, required_unless_present = "check")]
    output: Option<PathBuf>,
    /// Only say whether the model can be converted; if not, list everything that stands in the way
    #[arg(long, conflicts_with_all = ["output", "quantize", "calibrate"])]
    check: bool,
    /// Write the graph after each pass into this folder, as .onnx files to look at in Netron
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    dump_passes: Option<PathBuf>,
    /// Numbers to convert to. A model that is quantized already keeps its own scales with `none`
    #[arg(long, value_enum, default_value_t = SchemeArg::None)]
    quantize: SchemeArg,
    /// Typical inputs, for int8, int16, w6, w5, w4nl and w4: .npz, folder of .npy, folder of images by class, or, for a language
    /// model, a text: .txt, of which an encoder takes the lines and a decoder 16 pieces
    #[arg(long, value_name = "DATA")]
    calibrate: Option<PathBuf>,
    /// How activation ranges are chosen from the calibration data
    #[arg(long, value_enum, default_value_t = MethodArg::Auto)]
    method: MethodArg,
    /// For --method percentile: the share of values that the range holds, in percent
    #[arg(long, default_value_t = 99.99, value_parser = parse_percentile)]
    percentile: f64,
    /// Use at most this many calibration samples
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    samples: Option<u32>,
    /// Kind of machine that the weights are packed for
    #[arg(long, value_enum, default_value_t = TargetArg::Any)]
    target: TargetArg,
    /// Round integer layers of a TFLite model as TFLite's reference kernels do: for comparisons, slow
    #[arg(long)]
    exact_tflite: bool,
    #[command(flatten)]
    import: ImportArgs,
    /// Inputs per scale of w8, w6, w5, w4nl and w4 weights: 32, 64 or 128
    #[arg(long, value_name = "N", default_value_t = DEFAULT_GROUP, value_parser = parse_group)]
    group: usize,
    /// Numbers of tables of embeddings, and of an output layer that shares a table's weights: float, f16, bf16, w8, w6, w5, w4nl or w4:64
    /// (default: those of --quantize, but w8 where that is w6, w5, w4nl or w4)
    #[arg(long, value_name = "NUMBERS")]
    embeddings: Option<Numbers>,
    /// Numbers of the layer that makes the output
    #[arg(long, value_name = "NUMBERS")]
    output_layer: Option<Numbers>,
    /// Numbers of one node, in place of those of --quantize: NODE=float, f16, bf16, w8, w6, w5, w4nl, w4:64, int16 or int8
    #[arg(long, value_name = "NODE=NUMBERS", value_parser = parse_layer)]
    layer: Vec<(String, Numbers)>,
    /// A node that stays float: short for --layer NODE=float
    #[arg(long, value_name = "NODE")]
    keep_float: Vec<String>,
    /// Steps that improve the quantized model on the calibration data: auto (those that serve its numbers and take
    /// seconds), none, or names separated by commas of widen, equalize, gptq, rounding, bias and finetune. One that
    /// brings the outputs no closer to the float model's is taken back
    #[arg(long, value_name = "STEPS", default_value = "auto")]
    improve: Steps,
    /// What is drawn at random follows from this
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    search: SearchArgs,
    /// Store what the monitor compares the field with, made from the calibration data: `default` sees from the data what
    /// the first output is, the others say so
    #[arg(long, value_enum, value_name = "OUTPUT", default_value_t = MonitorArg::None)]
    monitor: MonitorArg,
    /// For --monitor: the probability of a false alarm in a window of the drift tests
    #[arg(long, value_name = "P", default_value_t = 0.01, value_parser = parse_false_alarm)]
    false_alarm: f64,
    /// Names of the classes, one a line, stored in the file
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Inputs with expected outputs to store, for `whit verify`
    #[arg(long, default_value_t = 2)]
    golden: usize,
    #[command(flatten)]
    images: Images,
    /// Write what was decided, what it costs and what it does to every layer: as a page, or as JSON
    #[arg(long, value_name = "FILE.html|FILE.json", conflicts_with = "check")]
    report: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemeArg {
    /// As the model has them
    None,
    /// Weights stored as f16, float arithmetic
    F16,
    /// Weights stored as bf16, inputs of layers rounded to bf16: twice as fast as float where the CPU multiplies bf16
    Bf16,
    /// i8 weights per channel and i8 activations; needs --calibrate
    Int8,
    /// i8 weights per channel and i16 activations; needs --calibrate
    Int16,
    /// Weights of 8 bits in groups, float arithmetic
    W8,
    /// Weights of 6 bits in groups, float arithmetic
    W6,
    /// Weights of 5 bits in groups, float arithmetic
    W5,
    /// Weights of 4 bits in groups, which stand for sixteen values that are closer to each other near 0; float arithmetic
    W4nl,
    /// Weights of 4 bits in groups, float arithmetic
    W4,
    /// The numbers of each layer chosen by what they cost and lose on the data; needs --calibrate
    Auto,
}

impl SchemeArg {
    fn numbers(self, group: usize) -> Numbers {
        match self {
            SchemeArg::None | SchemeArg::Auto => Numbers::Float,
            SchemeArg::F16 => Numbers::F16,
            SchemeArg::Bf16 => Numbers::Bf16,
            SchemeArg::Int8 => Numbers::Int8,
            SchemeArg::Int16 => Numbers::Int16,
            SchemeArg::W8 => Numbers::Grouped { bits: GroupedBits::W8, group },
            SchemeArg::W6 => Numbers::Grouped { bits: GroupedBits::W6, group },
            SchemeArg::W5 => Numbers::Grouped { bits: GroupedBits::W5, group },
            SchemeArg::W4nl => Numbers::Grouped { bits: GroupedBits::W4Nl, group },
            SchemeArg::W4 => Numbers::Grouped { bits: GroupedBits::W4, group },
        }
    }
}

fn parse_layer(text: &str) -> Result<(String, Numbers), String> {
    // Names of nodes may contain '=', numbers don't.
    let (name, numbers) = text.rsplit_once('=').ok_or("write NODE=NUMBERS")?;
    Ok((name.to_owned(), numbers.parse()?))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MonitorArg {
    /// No baseline
    None,
    /// Probabilities add up to one, logits have labels, a single output is a probability if it keeps to 0..1
    Default,
    /// One probability per class
    Probabilities,
    /// One logit per class
    Logits,
    /// The probability of class 1 out of two
    Probability,
    /// The logit of class 1 out of two
    Logit,
    /// An estimate
    Value,
    /// Drift of inputs only
    Inputs,
}

impl MonitorArg {
    /// `None` without a baseline.
    fn scores(self) -> Option<Option<Scores>> {
        Some(match self {
            MonitorArg::None => return None,
            MonitorArg::Default => None,
            MonitorArg::Probabilities => Some(Scores::Probabilities),
            MonitorArg::Logits => Some(Scores::Logits),
            MonitorArg::Probability => Some(Scores::Probability),
            MonitorArg::Logit => Some(Scores::Logit),
            MonitorArg::Value => Some(Scores::Value),
            MonitorArg::Inputs => Some(Scores::None),
        })
    }
}

fn parse_false_alarm(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    // Thresholds are found in 1,000 windows.
    if (0.002..=0.5).contains(&share) { Ok(share) } else { Err("between 0.002 and 0.5".to_owned()) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TargetArg {
    /// Panels for vector instructions, which every machine runs
    Any,
    /// The same as any
    X86_64,
    /// Pairs of channels for the DSP instructions of Cortex-M4, M7, M33 and M55
    CortexM,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MethodArg {
    /// For each activation the method that changes the results of the layers behind it least; min-max for int16
    Auto,
    /// Smallest and largest value seen
    Minmax,
    /// Moving average of each sample's smallest and largest value
    Average,
    /// The range that holds most values, see --percentile
    Percentile,
    /// The range with the least squared error
    Mse,
    /// The range that keeps the distribution best (Kullback-Leibler divergence)
    Entropy,
}

fn parse_percentile(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (50.0..=100.0).contains(&percent) {
        Ok(percent)
    } else {
        Err("between 50 and 100".to_owned())
    }
}

/// The inputs of a graph as data has to fit them.
pub(crate) fn graph_specs(graph: &Graph) -> (Vec<InputSpec>, Vec<usize>) {
    let bounds = |dim: &whit_convert::dim::Dim| {
        let low: Vec<i64> = graph.symbols.iter().map(|symbol| symbol.min).collect();
        let high: Vec<i64> = graph.symbols.iter().map(|symbol| symbol.max).collect();
        let of =
            |values: &[i64]| dim.eval(values).and_then(|v| usize::try_from(v).ok()).unwrap_or(0);
        (of(&low), of(&high))
    };
    let mut specs = Vec::new();
    let mut ranks = Vec::new();
    for input in &graph.inputs {
        let value = graph.value(*input);
        let dims: Vec<(usize, usize)> = value.shape.iter().map(bounds).collect();
        let skip = usize::from(dims.first().is_some_and(|(min, _)| *min == 1));
        let sample_shape = dims[skip..]
            .iter()
            .map(
                |(min, max)| {
                    if min == max { Extent::Fixed(*min) } else { Extent::Between(*min, *max) }
                },
            )
            .collect();
        specs.push(InputSpec { name: value.name.clone(), sample_shape });
        ranks.push(dims.len());
    }
    (specs, ranks)
}

/// What to convert, and how: shared by the command and the demo.
pub(crate) struct Request<'r> {
    pub(crate) graph: Graph,
    pub(crate) data: Option<&'r Dataset>,
    /// In its place, for language models.
    pub(crate) texts: Option<&'r Texts>,
    /// For the mix of numbers to be searched.
    pub(crate) search: Option<Wanted<'r>>,
    pub(crate) options: ConvertOptions,
    pub(crate) quiet: bool,
    pub(crate) dump_passes: Option<&'r Path>,
}

/// Shows progress, and writes the graph after each pass.
struct Watcher<'r> {
    bar: Option<ProgressBar>,
    folder: Option<&'r Path>,
    written: usize,
    failed: Option<anyhow::Error>,
}

impl Watch for Watcher<'_> {
    fn progress(&mut self, stage: &str, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(stage.to_owned());
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }

    fn graph(&mut self, stage: &str, graph: &Graph) {
        let Some(folder) = self.folder else { return };
        let path = folder.join(format!("{:03}-{stage}.onnx", self.written));
        self.written += 1;
        if let Err(error) = std::fs::write(&path, dump::to_onnx(graph)) {
            let error = anyhow::Error::from(error).context(format!("writing {}", path.display()));
            self.failed.get_or_insert(error);
        }
    }
}

/// Converts a graph with a data set.
pub(crate) fn convert_graph(request: Request<'_>) -> Result<Converted> {
    let (specs, ranks) = graph_specs(&request.graph);
    let bind = |data| {
        let bound = Bound::new(data, specs.clone(), &ranks)?;
        bound.check_finite(data)?;
        Ok::<_, anyhow::Error>(bound)
    };
    let bound = request.data.map(bind).transpose()?;
    let measured = request.search.as_ref().map(|search| bind(search.data)).transpose()?;
    if let Some(folder) = request.dump_passes {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut watcher = Watcher {
        bar: (!request.quiet).then(|| progress_bar("calibrating", 1)),
        folder: request.dump_passes,
        written: 0,
        failed: None,
    };
    let texts = request.texts.map(|texts| texts as &dyn Samples);
    let samples = texts.or(bound.as_ref().map(|bound| bound as &dyn Samples));
    let converted = match (&request.search, &measured, samples) {
        (Some(wanted), Some(measured), Some(samples)) => {
            let search = wanted.search(measured);
            convert_searched(request.graph, samples, &request.options, &search, &mut watcher)?
        }
        _ => convert(request.graph, samples, &request.options, &mut watcher)?,
    };
    if let Some(bar) = watcher.bar {
        bar.finish_and_clear();
    }
    match watcher.failed {
        Some(error) => Err(error),
        None => Ok(converted),
    }
}

/// Metadata that says where a model came from.
pub(crate) fn provenance(source: &str, bytes: &[u8]) -> Vec<(String, String)> {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        ("source.file".to_owned(), source.to_owned()),
        ("source.sha256".to_owned(), hash),
        ("converter".to_owned(), concat!("whit ", env!("CARGO_PKG_VERSION")).to_owned()),
    ]
}

/// Writes a file whole or not at all: into a neighbour first, then renamed.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    std::fs::write(&part, bytes)
        .and_then(|()| std::fs::rename(&part, path))
        .inspect_err(|_| drop(std::fs::remove_file(&part)))
        .with_context(|| format!("writing {}", path.display()))
}

/// How ranges were chosen: what each method makes of the model, and each activation's method with what was tried.
fn ranges_json(calibration: &Calibration) -> serde_json::Value {
    let text = |methods: &[Method]| methods.iter().map(Method::to_string).collect::<Vec<_>>();
    let whole = calibration.whole.iter().map(|whole| {
        json!({
            "method": whole.method.to_string(),
            "snr_db": whole.snr_db,
            "sigma": whole.sigma,
            "chosen": whole.chosen,
        })
    });
    let choices = calibration.choices.iter().map(|choice| {
        let candidates = choice.candidates.iter().map(|candidate| {
            json!({
                "methods": text(&candidate.methods),
                "min": candidate.range.min,
                "max": candidate.range.max,
                "error": candidate.error,
            })
        });
        json!({
            "activation": choice.name,
            "method": choice.method.to_string(),
            "readers": choice.readers,
            "candidates": candidates.collect::<Vec<_>>(),
        })
    });
    json!({ "models": whole.collect::<Vec<_>>(), "activations": choices.collect::<Vec<_>>() })
}

impl Convert {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let import = self.import.options()?;
        let Some(output) = &self.output else {
            return check::run(&self.model, &import, self.json);
        };
        let mut graph =
            import_file(&self.model, &import).with_context(|| self.model.display().to_string())?;
        let source_file = weights_file(&self.model)?;
        let file_name = self.model.file_name().unwrap_or_default().to_string_lossy();
        let source = whit::ModelFile::open(&source_file)
            .with_context(|| source_file.display().to_string())?;
        graph.metadata.extend(provenance(&file_name, source.bytes()));
        drop(source);
        if let Some(path) = &self.labels {
            let labels =
                std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            graph.metadata.push(("labels".to_owned(), labels.trim_end().to_owned()));
        }

        let (specs, _) = graph_specs(&graph);
        let image_spec = crate::whit_file::image_spec(&specs, &self.images);
        let is_text = self.calibrate.as_deref().is_some_and(is_text);
        let limit = self.samples.map(|samples| samples as usize);
        let (mut data, texts) = match &self.calibrate {
            Some(path) if is_text => (None, Some(Texts::open(path, &graph, limit)?)),
            Some(path) => (Some(Dataset::open(path, image_spec.as_ref())?), None),
            None => (None, None),
        };
        if let (Some(data), Some(limit)) = (&mut data, limit) {
            data.truncate(limit);
        }
        if let Some(names) = data.as_ref().and_then(|data| data.class_names.as_ref())
            && self.labels.is_none()
        {
            graph.metadata.push(("labels".to_owned(), names.join("\n")));
        }
        let numbers = self.quantize.numbers(self.group);
        let kept = self.keep_float.iter().map(|node| (node.clone(), Numbers::Float));
        let layers: Vec<_> = self.layer.iter().cloned().chain(kept).collect();
        let plain =
            |numbers: &Numbers| matches!(numbers, Numbers::Float | Numbers::F16 | Numbers::Bf16);
        if data.is_some()
            && self.monitor == MonitorArg::None
            && self.quantize != SchemeArg::Auto
            && plain(&numbers)
            && layers.iter().all(|(_, numbers)| plain(numbers))
        {
            eprintln!(
                "note: --calibrate chooses ranges and improves weights; float, f16 and bf16 have neither, here it only \
                 feeds the golden vectors"
            );
        }
        let options = ConvertOptions {
            numbers,
            embeddings: self.embeddings,
            output_layers: self.output_layer,
            layers,
            method: match self.method {
                MethodArg::Auto => Method::Auto,
                MethodArg::Minmax => Method::MinMax,
                MethodArg::Average => Method::Average,
                MethodArg::Mse => Method::Mse,
                MethodArg::Entropy => Method::Entropy,
                MethodArg::Percentile => Method::Percentile(self.percentile),
            },
            improve: self.improve.clone(),
            seed: self.seed,
            golden_cases: self.golden,
            target: match self.target {
                TargetArg::Any | TargetArg::X86_64 => Target::Any,
                TargetArg::CortexM => Target::CortexM,
            },
            exact_tflite: self.exact_tflite,
            arena: self.search.max_arena,
            monitor: self.monitor.scores().map(|scores| MonitorOptions {
                scores,
                false_alarm: self.false_alarm,
                labels: data.as_ref().and_then(|data| data.class_labels(usize::MAX).ok()),
            }),
        };
        if output.is_dir() {
            bail!("{} is a folder; name the .whit file to write", output.display());
        }
        let evaluate = match (&self.search.evaluate, self.quantize) {
            (Some(path), SchemeArg::Auto) => Some(Dataset::open(path, image_spec.as_ref())?),
            _ => None,
        };
        let search = match self.quantize {
            SchemeArg::Auto => {
                Some(self.search.wanted(evaluate.as_ref().or(data.as_ref()), &graph)?)
            }
            _ => None,
        };
        if let Some(path) = &self.report {
            report_html::check_path(path)?;
        }
        let source = self.report.as_ref().map(|_| graph.clone());
        let request = Request {
            graph,
            data: data.as_ref(),
            texts: texts.as_ref(),
            search,
            options,
            quiet: self.json,
            dump_passes: self.dump_passes.as_deref(),
        };
        let converted = convert_graph(request).with_context(|| self.model.display().to_string())?;
        let page = match (&self.report, source) {
            (Some(path), Some(source)) => {
                let report = ConvertReport {
                    model: file_name.into_owned(),
                    source_bytes: std::fs::metadata(&source_file)?.len(),
                    source,
                    scheme: format!("{:?}", self.quantize).to_lowercase(),
                    converted: &converted,
                };
                Some((path, report.write(path, data.as_ref(), self.json)?))
            }
            _ => None,
        };
        write_whole(output, &converted.file)?;
        if let Some((path, page)) = page {
            write_whole(path, &page)?;
        }
        self.report(output, &converted)
    }

    fn report(&self, output: &Path, converted: &Converted) -> Result<ExitCode> {
        let aligned = whit_convert::evaluate::AlignedBytes::new(&converted.file);
        let model = whit::Model::open(aligned.as_slice())?;
        let header = model.header();
        let report = &converted.report;
        if self.json {
            print_json(&json!({
                "output": output.display().to_string(),
                "scheme": format!("{:?}", self.quantize).to_lowercase(),
                "file_bytes": header.file_bytes,
                "weight_bytes": header.weight_bytes,
                "arena_bytes": header.arena_bytes,
                "liveness_bound_bytes": header.liveness_bound_bytes,
                "state_bytes": header.state_bytes,
                "macs": header.macs,
                "nodes_imported": report.nodes_imported,
                "steps": header.step_count,
                "float_nodes": report.float_nodes,
                "improvements": effects_json(&report.effects),
                "search": report.front.as_ref().map(search::json),
                "ranges": report.calibration.as_ref().map(ranges_json),
                "baseline_bytes": model.section(whit::format::Section::Baseline).len(),
                "notes": report.notes,
            }))?;
            return Ok(ExitCode::SUCCESS);
        }
        for note in &report.notes {
            eprintln!("note: {note}");
        }
        if let Some(front) = &report.front {
            print_text(&search::table(front))?;
        }
        if !report.effects.is_empty() {
            print_text(&effects_table(&report.effects))?;
        }
        if !report.float_nodes.is_empty() {
            eprintln!(
                "note: {} of {} nodes compute on float numbers: {}",
                report.float_nodes.len(),
                header.step_count,
                report.float_nodes.join(", ")
            );
        }
        print_text(&format!(
            "{}: {} nodes became {} steps, {} · file {} · arena {} · {}",
            output.display(),
            report.nodes_imported,
            header.step_count,
            model.op_set(),
            report::bytes(header.file_bytes),
            report::bytes(header.arena_bytes),
            report::macs(header.macs),
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What the steps of improvement did, as a table.
fn effects_table(effects: &[Effect]) -> String {
    let header = [
        ("step", Align::Left),
        ("SNR before, dB", Align::Right),
        ("after, dB", Align::Right),
        ("", Align::Left),
    ];
    let rows: Vec<Vec<String>> = effects
        .iter()
        .map(|effect| {
            vec![
                effect.improvement.to_string(),
                format!("{:.2}", effect.before_db),
                format!("{:.2}", effect.after_db),
                if effect.kept { "kept" } else { "taken back" }.to_owned(),
            ]
        })
        .collect();
    report::table(&header, &rows)
}

fn effects_json(effects: &[Effect]) -> Vec<serde_json::Value> {
    let json = |effect: &Effect| {
        json!({
            "step": effect.improvement.name(),
            "snr_before_db": effect.before_db,
            "snr_after_db": effect.after_db,
            "sigma": effect.sigma,
            "kept": effect.kept,
        })
    };
    effects.iter().map(json).collect()
}

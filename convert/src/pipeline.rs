//! The whole way from an imported graph to the bytes of a `.whit` file.

use std::collections::{BTreeSet, HashSet};

use half::f16;
use whit::DType;

use crate::baseline::{MonitorOptions, baseline};
use crate::emit::emit_with;
use crate::evaluate::{self, EvaluateError, Program, Samples};
use crate::graph::{Graph, Op, ValueId};
use crate::passes;
use crate::plan::{ArenaGoal, PlanOptions, Target, plan};
use crate::quantize::calibrate::{Calibration, Method, Ranges, calibrate};
use crate::quantize::improve::{Context, Effect, Steps, improve};
use crate::quantize::integers;
use crate::quantize::numbers::{DEFAULT_GROUP, GroupedBits, Numbers, stored, tables, weights_of};
use crate::quantize::quantization::Quantization;
use crate::quantize::search::{self, Front, Search, SearchError};
use crate::quantize::{smooth, split, spread};
use crate::tensor::Tensor;

/// Rounds of passes and folding at most; models settle in two or three.
const MAX_ROUNDS: usize = 8;

/// How to convert.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// The numbers of every layer that can have them. Float is what the model has: a quantized one keeps its
    /// integers and scales.
    pub numbers: Numbers,
    /// Numbers of tables of embeddings, and of layers that share their weights with one. `None`: as all others, but 8 bits
    /// where those have 4: a row of 4 bits is wrong for every use of its token.
    pub embeddings: Option<Numbers>,
    /// Numbers of the layers from which an output is reached through no other layer. `None`: as all others.
    pub output_layers: Option<Numbers>,
    /// Numbers of single nodes, by their name.
    pub layers: Vec<(String, Numbers)>,
    /// How activation ranges are chosen.
    pub method: Method,
    /// Steps that improve the quantization.
    pub improve: Steps,
    /// What is drawn at random follows from this.
    pub seed: u64,
    /// Golden vectors to store.
    pub golden_cases: usize,
    /// The machine that weights are packed for.
    pub target: Target,
    /// Round as TFLite's reference kernels do; for graphs imported from TFLite.
    pub exact_tflite: bool,
    /// How much memory activations may take.
    pub arena: Option<ArenaGoal>,
    /// Store a baseline for the monitor, made from the samples.
    pub monitor: Option<MonitorOptions>,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        ConvertOptions {
            numbers: Numbers::Float,
            embeddings: None,
            output_layers: None,
            layers: Vec::new(),
            method: Method::Auto,
            improve: Steps::Auto,
            seed: 0,
            golden_cases: 2,
            target: Target::Any,
            exact_tflite: false,
            arena: None,
            monitor: None,
        }
    }
}

/// Why a graph could not be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// Integers need ranges, and ranges need data.
    #[error(
        "{0} needs calibration data, a hundred or so typical inputs: --calibrate DATA.npz. \
             Without data there are w8, w6, w5, w4nl, w4, f16 and bf16, which quantize weights only"
    )]
    NoCalibration(Numbers),
    /// The calibration data has no samples.
    #[error("the calibration data has no samples")]
    EmptyCalibration,
    /// A baseline without data.
    #[error(
        "--monitor needs calibration data, a hundred or so typical inputs: --calibrate DATA.npz"
    )]
    NoBaseline,
    /// Steps of improvement without data.
    #[error(
        "--improve {0} needs calibration data, a hundred or so typical inputs: --calibrate DATA.npz"
    )]
    NoImprovement(Steps),
    /// The model is quantized already, and not the way that was asked for.
    #[error(
        "the model is already quantized (it has quantize and dequantize nodes), and {0} would store \
             its integers less exactly. Convert it with --quantize none, or the float model with {0}"
    )]
    AlreadyQuantized(Numbers),
    /// A search has nothing to choose.
    #[error(
        "the model is already quantized (it has quantize and dequantize nodes): there is nothing to choose. Convert \
             it with --quantize none, which keeps its scales, or give the float model"
    )]
    AlreadyChosen,
    /// The search found nothing that fits.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// Only TFLite models have TFLite's rounding.
    #[error("--exact-tflite reproduces how TFLite rounds, and this model isn't a TFLite model")]
    NotTflite,
    /// A node is named that isn't there.
    #[error("there is no node `{name}` after fusion; nodes are: {nodes}")]
    UnknownNode {
        /// The name given.
        name: String,
        /// Names of nodes, as far as they fit a message.
        nodes: String,
    },
    /// Planning or running the model failed.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}

/// What conversion did, besides the file.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Nodes after import.
    pub nodes_imported: usize,
    /// Steps of the program.
    pub steps: usize,
    /// Nodes that compute on float numbers in a quantized program.
    pub float_nodes: Vec<String>,
    /// What was seen on the calibration data, and how ranges were chosen.
    pub calibration: Option<Calibration>,
    /// What each step did that was to improve the quantization.
    pub effects: Vec<Effect>,
    /// What the search measured, if there was one.
    pub front: Option<Front>,
    /// Remarks for the user.
    pub notes: Vec<String>,
}

/// A converted model.
pub struct Converted {
    /// Bytes of the `.whit` file.
    pub file: Vec<u8>,
    /// What was done.
    pub report: Report,
}

/// Hears what a conversion does. `()` doesn't listen.
pub trait Watch {
    /// A stage that takes a while: how much of it is done.
    fn progress(&mut self, _stage: &str, _done: usize, _total: usize) {}

    /// The graph after a stage or a pass that changed it.
    fn graph(&mut self, _stage: &str, _graph: &Graph) {}
}

impl Watch for () {}

/// Converts a graph.
///
/// # Errors
/// [`ConvertError`] names the node, sample or option and what to do.
pub fn convert(
    graph: Graph,
    samples: Option<&dyn Samples>,
    options: &ConvertOptions,
    watch: &mut dyn Watch,
) -> Result<Converted, ConvertError> {
    convert_with(graph, samples, options, None, watch)
}

/// Converts a float graph to the mix of numbers that a search finds; `options.numbers` is not looked at.
///
/// # Errors
/// As [`convert`], and [`ConvertError::Search`] when nothing fits.
pub fn convert_searched(
    graph: Graph,
    samples: &dyn Samples,
    options: &ConvertOptions,
    search: &Search<'_>,
    watch: &mut dyn Watch,
) -> Result<Converted, ConvertError> {
    convert_with(graph, Some(samples), options, Some(search), watch)
}

fn convert_with(
    mut graph: Graph,
    samples: Option<&dyn Samples>,
    options: &ConvertOptions,
    search: Option<&Search<'_>>,
    watch: &mut dyn Watch,
) -> Result<Converted, ConvertError> {
    if options.exact_tflite && !graph.is_of_tflite() {
        return Err(ConvertError::NotTflite);
    }
    let mut report = Report { nodes_imported: graph.nodes.len(), ..Report::default() };
    let already_quantized = is_quantized(&mut graph);
    let of_layers = options.layers.iter().map(|(_, numbers)| *numbers);
    let of_kinds = [options.embeddings, options.output_layers].into_iter().flatten();
    let wanted = || {
        std::iter::once(options.numbers)
            .chain(of_layers.clone())
            .chain(of_kinds.clone())
            .filter(|numbers| *numbers != Numbers::Float)
    };
    // A search may come to integers.
    let integers = match search {
        Some(_) => Some(Numbers::Int8),
        None => wanted().find(|numbers| numbers.integer().is_some()),
    };
    rewrite_imported(&mut graph, already_quantized || integers.is_some(), watch);
    let is_float = options.numbers == Numbers::Float && search.is_none() && !already_quantized;
    let all = match options.numbers {
        _ if is_float && has_halves(&graph) => Numbers::F16,
        numbers => numbers,
    };
    let plan_options = PlanOptions {
        target: options.target,
        exact_tflite: options.exact_tflite,
        fuse: true,
        arena: None,
    };

    let mut calibration = "none".to_owned();
    if already_quantized {
        if search.is_some() {
            return Err(ConvertError::AlreadyChosen);
        }
        if let Some(numbers) = wanted().find(|numbers| numbers.integer().is_none()) {
            return Err(ConvertError::AlreadyQuantized(numbers));
        }
        if integers.is_some() {
            report
                .notes
                .push("the model is already quantized; its own scales were kept".to_owned());
        }
        calibration = "scales of the source model".to_owned();
        lower_to_integers(&mut graph, watch);
    } else if integers.is_some() || wanted().next().is_some() || all != Numbers::Float {
        let samples = match integers {
            None => samples.filter(|samples| !samples.is_empty()),
            Some(numbers) => {
                let samples = samples.ok_or(ConvertError::NoCalibration(numbers))?;
                if samples.is_empty() {
                    return Err(ConvertError::EmptyCalibration);
                }
                calibration = format!("{} over {} samples", options.method, samples.len());
                Some(samples)
            }
        };
        let mut numbers = numbers_of_nodes(&graph, options, all)?;
        if let (Some(samples), Some(_), None) = (samples, integers, search) {
            let count = samples.len();
            let mut progress = |done| watch.progress("splitting", done, count);
            split::run(&mut graph, &mut numbers, samples, &mut progress)?;
            let mut progress = |done| watch.progress("spreading", done, count);
            spread::run(&mut graph, &mut numbers, samples, &mut progress)?;
            let mut progress = |done| watch.progress("smoothing", done, count);
            smooth::run(&mut graph, &mut numbers, samples, &mut progress)?;
        }
        if let (Some(samples), Some(integers)) = (samples, integers) {
            // Ranges for a search are those of the model that is integer throughout.
            let numbers = match search {
                Some(_) => &vec![integers; graph.nodes.len()],
                None => &numbers,
            };
            let mut progress = |stage: &str, done, total| watch.progress(stage, done, total);
            let found = calibrate(&graph, numbers, samples, options.method, &mut progress)?;
            report.notes.extend(found.notes.iter().cloned());
            report.calibration = Some(found);
        }
        let none = Ranges::new();
        let ranges = report.calibration.as_ref().map_or(&none, |found| &found.ranges);
        let quantization = match (search, samples) {
            (Some(search), Some(samples)) => {
                let (steps, seed) = (&options.improve, options.seed);
                let ranges = (ranges, options.method);
                let found = search::search(
                    &graph,
                    ranges,
                    samples,
                    steps,
                    plan_options,
                    seed,
                    search,
                    watch,
                )?;
                report.effects = found.effects;
                report.front = Some(found.front);
                found.quantization
            }
            (_, None) => {
                let quantization = Quantization::new(graph, &numbers, ranges);
                match &options.improve {
                    Steps::Named(steps) if !steps.is_empty() => {
                        return Err(ConvertError::NoImprovement(options.improve.clone()));
                    }
                    Steps::Auto
                        if !options.improve.for_numbers(&quantization.numbers).is_empty() =>
                    {
                        report.notes.push(
                            "weights were only rounded; with --calibrate DATA.npz they are improved on data, which \
                             4 bits gain most from"
                                .to_owned(),
                        );
                    }
                    _ => (),
                }
                quantization
            }
            (_, Some(samples)) => {
                let reference = graph.clone();
                let mut quantization = Quantization::new(graph, &numbers, ranges);
                let (seed, method, notes) = (options.seed, options.method, Vec::new());
                let mut context =
                    Context { reference: &reference, samples, method, seed, watch, notes };
                report.effects = improve(&mut quantization, &options.improve, &mut context)?;
                report.notes.append(&mut context.notes);
                quantization
            }
        };
        graph = quantization.with_quantize_nodes();
        watch.graph("quantize", &graph);
        lower_to_integers(&mut graph, watch);
    }
    let named = matches!(&options.improve, Steps::Named(steps) if !steps.is_empty());
    if named && report.effects.is_empty() {
        let note = format!("--improve {} found nothing to improve", options.improve);
        report.notes.push(note);
    }
    if already_quantized || integers.is_some() {
        report.float_nodes = graph
            .nodes
            .iter()
            .filter(|node| computes_on_floats(&graph, node))
            .map(|node| node.name.clone())
            .collect();
    }
    passes::debug_check(&graph, "quantize");

    graph.metadata.retain(|(key, value)| {
        let note = key == "note";
        if note {
            report.notes.push(value.clone());
        }
        !note
    });
    let scheme = match (search, options.numbers) {
        (Some(_), _) => "auto".to_owned(),
        (None, Numbers::Float) => "none".to_owned(),
        (None, numbers) => numbers.to_string(),
    };
    graph.metadata.push(("quantization.scheme".to_owned(), scheme));
    graph.metadata.push(("quantization.calibration".to_owned(), calibration));
    let steps: Vec<&str> = report
        .effects
        .iter()
        .filter(|effect| effect.kept)
        .map(|effect| effect.improvement.name())
        .collect();
    if !steps.is_empty() {
        graph.metadata.push(("quantization.improvements".to_owned(), steps.join(",")));
    }
    if !report.float_nodes.is_empty() {
        graph.metadata.push(("quantization.float_nodes".to_owned(), report.float_nodes.join("\n")));
    }

    let program = Program::new(&graph, &PlanOptions { arena: options.arena, ..plan_options })?;
    watch.progress("recording golden vectors", 0, options.golden_cases);
    let golden = evaluate::golden(&program, samples, options.golden_cases)?;
    report.steps = program.plan.steps.len();
    let section = match (&options.monitor, samples) {
        (None, _) => Vec::new(),
        (Some(_), None) => return Err(ConvertError::NoBaseline),
        (Some(monitor), Some(samples)) => {
            let mut progress = |done, total| watch.progress("monitor", done, total);
            let made = baseline(&program, samples, monitor, options.seed, &mut progress)?;
            report.notes.extend(made.1);
            made.0
        }
    };
    Ok(Converted { file: emit_with(&program.plan, &golden, &section), report })
}

/// Whether activations are quantized. Weights alone are stored that way, and dequantized here.
fn is_quantized(graph: &mut Graph) -> bool {
    let reals = |id: &crate::graph::ValueId| graph.constant(*id).is_none();
    let quantized = graph.nodes.iter().any(|node| match node.op {
        Op::Quantize => true,
        Op::Dequantize => node.inputs.iter().flatten().any(reals),
        _ => false,
    });
    if !quantized {
        integers::fold_dequantized(graph);
    }
    quantized
}

/// Rewrites a graph before it is quantized or planned.
fn rewrite_imported(graph: &mut Graph, will_be_integer: bool, watch: &mut dyn Watch) {
    passes::widen::run(graph);
    watch.graph("import", graph);
    rewrite(graph, if will_be_integer { &["residual"] } else { &[] }, watch);
}

/// Makes what lies between quantize and dequantize nodes integer.
fn lower_to_integers(graph: &mut Graph, watch: &mut dyn Watch) {
    integers::lower(graph);
    integers::fold_dequantized(graph);
    watch.graph("integers", graph);
    // What stayed float between integers can still be fused.
    rewrite(graph, &[], watch);
}

/// Passes and constant folding until nothing changes.
pub(crate) fn rewrite(graph: &mut Graph, skip: &[&str], watch: &mut dyn Watch) {
    for _ in 0..MAX_ROUNDS {
        passes::run_all(graph, skip, &mut |pass, graph| watch.graph(pass, graph));
        if !passes::fold_with(graph, &evaluate::constants) {
            break;
        }
        watch.graph("fold-arithmetic", graph);
    }
}

/// Rewrites an imported float graph as [`convert`] does before it quantizes: its values are then named as the tensors
/// of the converted file are. False when the model is quantized itself.
pub fn rewrite_float(graph: &mut Graph, will_be_integer: bool) -> bool {
    let quantized = is_quantized(graph);
    rewrite_imported(graph, quantized || will_be_integer, &mut ());
    !quantized
}

/// Whether a graph can be planned in float: what `convert` would find out, without writing a file.
///
/// # Errors
/// As [`convert`].
pub fn check(mut graph: Graph) -> Result<(), ConvertError> {
    let quantized = is_quantized(&mut graph);
    rewrite_imported(&mut graph, quantized, &mut ());
    if quantized {
        lower_to_integers(&mut graph, &mut ());
    }
    plan(&graph, &PlanOptions::default()).map_err(EvaluateError::from)?;
    Ok(())
}

/// Weights of a model from which on it matters that they take half the memory.
const MANY_WEIGHTS: usize = 1 << 20;

/// Whether every weight of a large model is f16 without loss, as those of one are that was stored so.
fn has_halves(graph: &Graph) -> bool {
    let all = || graph.nodes.iter().filter_map(|node| stored(graph, node)).map(|(_, c)| c);
    let is_exact =
        |floats: &Tensor| floats.to_f32().iter().all(|x| f16::from_f32(*x).to_f32() == *x);
    all().map(Tensor::len).sum::<usize>() >= MANY_WEIGHTS && all().all(is_exact)
}

/// The numbers of each node: those of all, and what some kinds and single ones have instead.
fn numbers_of_nodes(
    graph: &Graph,
    options: &ConvertOptions,
    all: Numbers,
) -> Result<Vec<Numbers>, ConvertError> {
    let mut numbers = vec![all; graph.nodes.len()];
    let tables = tables(graph);
    let of_tables = options.embeddings.unwrap_or(match all {
        narrow if narrow.widened().is_some() => {
            Numbers::Grouped { bits: GroupedBits::W8, group: DEFAULT_GROUP }
        }
        numbers => numbers,
    });
    for (node, numbers) in graph.nodes.iter().zip(&mut numbers) {
        if let Some((operand, _)) = stored(graph, node)
            && node.inputs[operand].is_some_and(|id| tables.contains(&id))
        {
            *numbers = of_tables;
        }
    }
    if let Some(own) = options.output_layers {
        output_layers(graph).into_iter().for_each(|node| numbers[node] = own);
    }
    for (name, own) in &options.layers {
        let mut found = false;
        for (at, _) in graph.nodes.iter().enumerate().filter(|(_, node)| node.name == *name) {
            numbers[at] = *own;
            found = true;
        }
        if !found {
            let mut nodes: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
            nodes.truncate(40);
            return Err(ConvertError::UnknownNode { name: name.clone(), nodes: nodes.join(", ") });
        }
    }
    Ok(numbers)
}

/// The layers from which an output is reached through no other layer.
fn output_layers(graph: &Graph) -> BTreeSet<usize> {
    let producers = graph.producers();
    let mut layers = BTreeSet::new();
    let mut seen = HashSet::new();
    let mut left: Vec<ValueId> = graph.outputs.clone();
    while let Some(id) = left.pop() {
        let Some(at) = producers[id.0 as usize].filter(|at| seen.insert(*at)) else { continue };
        match weights_of(graph, &graph.nodes[at]) {
            Some(_) => drop(layers.insert(at)),
            None => left.extend(graph.nodes[at].inputs.iter().flatten()),
        }
    }
    layers
}

/// A node that does float arithmetic (moving, quantizing and dequantizing isn't arithmetic).
fn computes_on_floats(graph: &Graph, node: &crate::graph::Node) -> bool {
    let is_f32 = |id: &crate::graph::ValueId| graph.value(*id).dtype == DType::F32;
    let moves = matches!(
        node.op,
        Op::Quantize
            | Op::Dequantize
            | Op::Reshape
            | Op::Transpose { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::Expand
            | Op::Cast
    );
    !moves && node.outputs.iter().any(is_f32)
}

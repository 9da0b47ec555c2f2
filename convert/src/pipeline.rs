//! The whole way from an imported graph to the bytes of a `.whit` file.

use std::collections::HashSet;

use whit::DType;

use crate::emit::emit;
use crate::evaluate::{self, EvaluateError, Program, Samples};
use crate::graph::{Graph, Op};
use crate::passes;
use crate::plan::{PlanOptions, Target, plan};
use crate::quantize::calibrate::{Method, calibrate};
use crate::quantize::{insert, integers, weights};

/// Rounds of passes and folding at most; models settle in two or three.
const MAX_ROUNDS: usize = 8;

/// The numbers that a model is converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// As the model has them: float stays float, a quantized model keeps its integers and scales.
    None,
    /// Float arithmetic, weights stored as f16.
    F16,
    /// i8 weights per channel and i8 activations, from calibration data.
    Int8,
}

impl Scheme {
    /// The name that `--quantize` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::None => "none",
            Scheme::F16 => "f16",
            Scheme::Int8 => "int8",
        }
    }
}

/// How to convert.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Target numbers.
    pub scheme: Scheme,
    /// How activation ranges are chosen.
    pub method: Method,
    /// Nodes that stay float, by name.
    pub keep_float: Vec<String>,
    /// Golden vectors to store.
    pub golden_cases: usize,
    /// The machine that weights are packed for.
    pub target: Target,
    /// Round as TFLite's reference kernels do; for graphs imported from TFLite.
    pub exact_tflite: bool,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        ConvertOptions {
            scheme: Scheme::None,
            method: Method::MinMax,
            keep_float: Vec::new(),
            golden_cases: 2,
            target: Target::Any,
            exact_tflite: false,
        }
    }
}

/// Why a graph could not be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// Int8 needs ranges, and ranges need data.
    #[error("int8 needs calibration data, a hundred or so typical inputs: --calibrate DATA.npz")]
    NoCalibration,
    /// The calibration data has no samples.
    #[error("the calibration data has no samples")]
    EmptyCalibration,
    /// The model is quantized already, and not the way that was asked for.
    #[error(
        "the model is already quantized (it has quantize and dequantize nodes); f16 would store \
             its integers less exactly. Convert it with --quantize none, or the float model with f16"
    )]
    AlreadyQuantized,
    /// Only TFLite models have TFLite's rounding.
    #[error("--exact-tflite reproduces how TFLite rounds, and this model isn't a TFLite model")]
    NotTflite,
    /// `keep_float` names a node that isn't there.
    #[error("--keep-float {name}: there is no such node after fusion; nodes are: {nodes}")]
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
    mut graph: Graph,
    samples: Option<&dyn Samples>,
    options: &ConvertOptions,
    watch: &mut dyn Watch,
) -> Result<Converted, ConvertError> {
    if options.exact_tflite && !graph.is_of_tflite() {
        return Err(ConvertError::NotTflite);
    }
    let mut report = Report { nodes_imported: graph.nodes.len(), ..Report::default() };
    let already_quantized = is_quantized(&mut graph);
    let will_be_integer = already_quantized || options.scheme == Scheme::Int8;
    rewrite_imported(&mut graph, will_be_integer, watch);

    let mut calibration = "none".to_owned();
    match (options.scheme, already_quantized) {
        (Scheme::F16, true) => return Err(ConvertError::AlreadyQuantized),
        (Scheme::Int8, false) => {
            let samples = samples.ok_or(ConvertError::NoCalibration)?;
            if samples.is_empty() {
                return Err(ConvertError::EmptyCalibration);
            }
            let keep = check_names(&graph, &options.keep_float)?;
            let ranges = calibrate(&graph, samples, options.method, &mut |done, total| {
                watch.progress("calibrating", done, total);
            })?;
            calibration = match options.method {
                Method::MinMax => format!("min-max over {} samples", samples.len()),
                Method::Percentile(p) => format!("percentile {p} over {} samples", samples.len()),
            };
            insert::insert(&mut graph, &ranges, &keep);
            watch.graph("quantize", &graph);
        }
        (Scheme::Int8, true) => {
            report
                .notes
                .push("the model is already quantized; its own scales were kept".to_owned());
            calibration = "scales of the source model".to_owned();
        }
        (Scheme::None, true) => calibration = "scales of the source model".to_owned(),
        (Scheme::None | Scheme::F16, false) => {}
    }
    if will_be_integer {
        lower_to_integers(&mut graph, watch);
        report.float_nodes = graph
            .nodes
            .iter()
            .filter(|node| computes_on_floats(&graph, node))
            .map(|node| node.name.clone())
            .collect();
    }
    if options.scheme == Scheme::F16 {
        for node in 0..graph.nodes.len() {
            weights::to_f16(&mut graph, node);
        }
    }
    passes::debug_check(&graph, "quantize");

    graph.metadata.retain(|(key, value)| {
        let note = key == "note";
        if note {
            report.notes.push(value.clone());
        }
        !note
    });
    graph.metadata.push(("quantization.scheme".to_owned(), options.scheme.name().to_owned()));
    graph.metadata.push(("quantization.calibration".to_owned(), calibration));
    if !report.float_nodes.is_empty() {
        graph.metadata.push(("quantization.float_nodes".to_owned(), report.float_nodes.join("\n")));
    }

    let plan_options = PlanOptions { target: options.target, exact_tflite: options.exact_tflite };
    let program = Program::new(&graph, &plan_options)?;
    watch.progress("recording golden vectors", 0, options.golden_cases);
    let golden = evaluate::golden(&program, samples, options.golden_cases)?;
    report.steps = program.plan.steps.len();
    Ok(Converted { file: emit(&program.plan, &golden), report })
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
fn rewrite(graph: &mut Graph, skip: &[&str], watch: &mut dyn Watch) {
    for _ in 0..MAX_ROUNDS {
        passes::run_all(graph, skip, &mut |pass, graph| watch.graph(pass, graph));
        if !passes::fold_with(graph, &evaluate::constants) {
            break;
        }
        watch.graph("fold-arithmetic", graph);
    }
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

/// The nodes that stay float.
fn check_names(graph: &Graph, names: &[String]) -> Result<HashSet<String>, ConvertError> {
    for name in names {
        if !graph.nodes.iter().any(|node| node.name == *name) {
            let mut nodes: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
            nodes.truncate(40);
            return Err(ConvertError::UnknownNode { name: name.clone(), nodes: nodes.join(", ") });
        }
    }
    Ok(names.iter().cloned().collect())
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

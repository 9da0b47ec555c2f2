//! Decides everything that the device won't: steps and their order, packed weights, arena offsets.
//!
//! [`plan`] takes a rewritten (and perhaps quantized) [`Graph`] to a [`Plan`], which
//! [`emit`](crate::emit::emit) writes down. The stages: every node becomes a step with its
//! attribute record and packed constants (`steps`), functions behind float layers become part of theirs (`fuse`), values that only rename memory become views
//! ([`alias`]), states are updated where they lie or by a copy ([`state`]), the order of steps is chosen to lower the peak ([`order`]), and buffers get offsets
//! ([`arena`]).

pub mod alias;
pub mod arena;
mod bands;
mod builder;
mod dims;
mod fuse;
pub mod order;
mod share;
pub mod state;
mod steps;

use std::collections::HashMap;

use whit::DType;
use whit::format::{DimRecord, Layout, Op as StepOp, Storage};

use crate::graph::{Graph, Node, ValueId};
use crate::passes::check;

pub use builder::Builder;
use fuse::Fused;
pub(crate) use steps::packed_weights;

/// What can go wrong between a graph and its plan. Every variant names the node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// An operator, type or shape that the runtime has no step for.
    #[error("{op} `{node}`: {why}")]
    Unsupported {
        /// Name of the node.
        node: String,
        /// Its operator.
        op: String,
        /// What is missing and what can be done about it.
        why: String,
    },
    /// A graph that contradicts itself: a pass or an importer has a fault.
    #[error(
        "the converter made an invalid graph, which is a fault in it; please report it with the model: {0}"
    )]
    Graph(String),
    /// A state whose size isn't fixed.
    #[error(
        "state `{name}` has the shape {shape}: what lives across runs needs a fixed size; fix its dimensions with --dim NAME=N"
    )]
    SymbolicState {
        /// Name of the state.
        name: String,
        /// Its shape.
        shape: String,
    },
    /// More symbolic dimensions than a file holds.
    #[error(
        "the model has {0} symbolic dimensions and expressions, more than the format's 256; fix some with --dim NAME=N"
    )]
    TooManyDims(usize),
    /// An arena that can't be as small as was asked for.
    #[error(
        "the arena takes {least} bytes with layers computed in bands of rows, and {wanted} were asked for; allow {least}, give the \
         model a smaller input, or quantize it to int8"
    )]
    Arena {
        /// Bytes asked for.
        wanted: usize,
        /// The smallest arena that was found.
        least: usize,
    },
    /// A size that doesn't fit.
    #[error("tensor `{0}` is too large: its size overflows")]
    TooLarge(String),
}

/// Choices that shape a plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanOptions {
    /// Whose kernels weights are packed for.
    pub target: Target,
    /// Integer convolutions and averages round as TFLite's reference kernels do, in slow kernels.
    pub exact_tflite: bool,
    /// Functions behind float layers become part of the layers' steps; the values in between are gone then.
    pub fuse: bool,
    /// How much memory activations may take. Where it is too much, layers are computed in bands of rows, and the values in between are
    /// gone then.
    pub arena: Option<ArenaGoal>,
}

/// How small the arena is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArenaGoal {
    /// As small as it gets.
    Smallest,
    /// At most so many bytes.
    AtMost(usize),
}

/// The machine that a file is made for. Every backend runs every file; the wrong one is slower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Panels, for vector instructions; any machine runs them.
    #[default]
    Any,
    /// Pairs of output channels, for the DSP instructions of Cortex-M; nothing padded for vectors.
    CortexM,
}

impl Target {
    /// Every target.
    pub const ALL: [Target; 2] = [Target::Any, Target::CortexM];

    /// The name that `--target` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Any => "any",
            Target::CortexM => "cortex-m",
        }
    }
}

/// A tensor of the file.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// Name of the value.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Order of the elements.
    pub layout: Layout,
    /// Where they lie.
    pub storage: Storage,
    /// Dimension references.
    pub dims: Vec<i32>,
    /// Offset within the storage; for arena tensors filled in at the end.
    pub offset: usize,
    /// Bytes at the largest dimensions.
    pub bytes: usize,
    /// Quantization, 0 for none.
    pub scale: f32,
    /// Quantization.
    pub zero_point: i32,
    /// Inputs that share a scale, of grouped weights; else 0.
    pub group_size: u32,
}

/// A step of the file.
#[derive(Clone, Debug)]
pub struct PlannedStep {
    /// Name of the node that it came from.
    pub name: String,
    /// Operator.
    pub op: StepOp,
    /// Element type that selects the operator's variant.
    pub variant: Option<DType>,
    /// Encoded attribute record.
    pub attributes: Vec<u8>,
    /// Input tensors, `None` for absent optional ones.
    pub inputs: Vec<Option<usize>>,
    /// Output tensors, `None` for those that nobody reads; at least one is there.
    pub outputs: Vec<Option<usize>>,
    /// Multiply-accumulates at the largest dimensions.
    pub macs: u64,
    /// Inputs whose memory the first output may take over: the step reads each element before it
    /// writes the one at its place.
    pub in_place: Vec<usize>,
}

/// A tensor that lives across runs.
#[derive(Clone, Debug)]
pub struct PlannedState {
    /// The tensor, in state storage.
    pub tensor: usize,
    /// Its first content: an offset in the constants. Zero bytes without.
    pub initial: Option<usize>,
}

/// A program, decided down to the byte.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Name of the source model.
    pub name: String,
    /// Symbols: name, smallest, largest.
    pub symbols: Vec<(String, u32, u32)>,
    /// Expressions over them.
    pub dims: Vec<DimRecord>,
    /// Tensors.
    pub tensors: Vec<PlannedTensor>,
    /// Steps in the order in which they run.
    pub steps: Vec<PlannedStep>,
    /// Contents of the constants section.
    pub constants: Vec<u8>,
    /// Tensor indices of the inputs.
    pub inputs: Vec<usize>,
    /// Tensor indices of the outputs.
    pub outputs: Vec<usize>,
    /// What lives across runs.
    pub states: Vec<PlannedState>,
    /// Bytes of state storage.
    pub state_bytes: usize,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Largest sum of buffers alive at one step.
    pub liveness_bound_bytes: usize,
    /// Tensor of each value that has one, for calibration and for naming things.
    pub tensor_of_value: HashMap<ValueId, usize>,
    /// Tensors that are another one under another shape.
    pub view_of: HashMap<usize, usize>,
    /// Tensors that no step makes because they lie in the memory of others: a slice in its source, a
    /// concatenation over its parts.
    pub made_of: HashMap<usize, Vec<usize>>,
    /// Metadata that travels into the file.
    pub metadata: Vec<(String, String)>,
}

/// Turns a graph into a program.
///
/// # Errors
/// [`PlanError`] names the first node that has no step.
pub fn plan(graph: &Graph, options: &PlanOptions) -> Result<Plan, PlanError> {
    // A tensor that is read but never made would be whatever lies in the arena.
    check(graph).map_err(PlanError::Graph)?;
    let whole = plan_whole(graph, options)?;
    match options.arena {
        None => Ok(whole),
        Some(goal) => {
            let fused = fused(graph, options);
            bands::shrink(graph, &fused, whole, goal, |graph| plan_whole(graph, options))
        }
    }
}

fn fused(graph: &Graph, options: &PlanOptions) -> Fused {
    if options.fuse { fuse::activations(graph) } else { Fused::default() }
}

/// [`plan`] without bands.
fn plan_whole(graph: &Graph, options: &PlanOptions) -> Result<Plan, PlanError> {
    let mut builder = Builder::new(graph, options)?;
    let fused = fused(graph, options);
    for (index, node) in graph.nodes.iter().enumerate() {
        if let Some((activation, made)) = fused.layers.get(&index) {
            let layer = Node { outputs: vec![*made], ..node.clone() };
            steps::lower(&mut builder, &layer, Some(*activation))?;
        } else if !fused.absorbed.contains(&index) {
            steps::lower(&mut builder, node, None)?;
        }
    }
    let (mut plan, mut aliases) = builder.finish()?;
    state::update(&mut plan, &mut aliases, graph);
    plan.steps = order::lower_peak(&plan, &aliases);
    alias::in_place(&plan, &mut aliases);
    arena::assign(&mut plan, &aliases);
    share::constants(&mut plan);
    plan.metadata = graph.metadata.clone();
    Ok(plan)
}

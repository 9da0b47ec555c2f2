//! Runs graphs on the host, through the same plan, file and kernels that a device runs.

use std::collections::HashMap;

use bytes::Bytes;
use whit::format::{Layout, Op as StepOp};
use whit::{DType, Isa, Model, Options, Prepared, Session};

use crate::emit::{Golden, emit};
use crate::graph::Graph;
use crate::plan::{self, Plan, PlanError, PlanOptions};
use crate::tensor::Tensor;

/// Why a graph could not be run at conversion.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// A node has no step.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The emitted program was refused: a defect of the converter.
    #[error(
        "the converted program is not valid ({0}); this is a defect of the converter, please report it"
    )]
    Invalid(String),
    /// A sample doesn't fit the model's inputs.
    #[error("{0}")]
    Sample(String),
    /// A run failed on a sample.
    #[error("running the model on sample {sample}: {why}")]
    Run {
        /// Index of the sample.
        sample: usize,
        /// What the runtime said.
        why: String,
    },
}

/// Data to run a model on, for calibration and golden vectors. Samples can be read more than once.
pub trait Samples {
    /// Number of samples.
    fn len(&self) -> usize;

    /// True when there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One input of one sample, by the input's index, name and type: its shape, batch axis
    /// included, and its elements as little-endian bytes of that type.
    ///
    /// # Errors
    /// A message that names the array and what is wrong with it.
    fn input(
        &self,
        sample: usize,
        input: usize,
        name: &str,
        dtype: DType,
    ) -> Result<(Vec<usize>, Vec<u8>), String>;
}

/// Samples of one f32 input, in memory.
#[derive(Clone, Debug, Default)]
pub struct Reals {
    /// Of every sample, batch axis included.
    pub shape: Vec<usize>,
    /// The elements of each.
    pub samples: Vec<Vec<f32>>,
}

impl Samples for Reals {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn input(
        &self,
        sample: usize,
        input: usize,
        name: &str,
        dtype: DType,
    ) -> Result<(Vec<usize>, Vec<u8>), String> {
        if input > 0 || dtype != DType::F32 {
            return Err(format!(
                "there is one input of f32, and `{name}` is input {input} of {dtype}"
            ));
        }
        let reals = self.samples.get(sample).ok_or("no such sample")?;
        Ok((self.shape.clone(), reals.iter().flat_map(|x| x.to_le_bytes()).collect()))
    }
}

/// Some of the samples, in their order.
pub struct Subset<'s> {
    samples: &'s dyn Samples,
    chosen: Vec<usize>,
}

impl<'s> Subset<'s> {
    /// At most this many: the first ones.
    pub fn first(samples: &'s dyn Samples, most: usize) -> Subset<'s> {
        Subset { samples, chosen: (0..samples.len().min(most)).collect() }
    }

    /// At most this many: spread over all, or the first ones of a model with state, whose samples are one
    /// sequence.
    pub fn spread(samples: &'s dyn Samples, graph: &Graph, most: usize) -> Subset<'s> {
        if !graph.states.is_empty() {
            return Subset::first(samples, most);
        }
        let (all, count) = (samples.len(), samples.len().min(most));
        Subset { samples, chosen: (0..count).map(|at| at * all / count).collect() }
    }
}

impl Samples for Subset<'_> {
    fn len(&self) -> usize {
        self.chosen.len()
    }

    fn input(
        &self,
        sample: usize,
        input: usize,
        name: &str,
        dtype: DType,
    ) -> Result<(Vec<usize>, Vec<u8>), String> {
        let sample = *self.chosen.get(sample).ok_or("no such sample")?;
        self.samples.input(sample, input, name, dtype)
    }
}

/// Bytes at a multiple of 64 in memory, as a memory map would give them.
pub struct AlignedBytes {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBytes {
    /// Copies bytes to aligned memory.
    pub fn new(from: &[u8]) -> AlignedBytes {
        let mut bytes = vec![0; from.len() + 63];
        let start = bytes.as_ptr().align_offset(64);
        bytes[start..start + from.len()].copy_from_slice(from);
        AlignedBytes { bytes, start, len: from.len() }
    }

    /// The bytes, at a multiple of 64.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

/// A planned graph with its file.
pub struct Program {
    /// The plan that the file was made from.
    pub plan: Plan,
    file: AlignedBytes,
}

impl Program {
    /// Plans and emits a graph.
    ///
    /// # Errors
    /// When a node has no step.
    pub fn new(graph: &Graph, options: &PlanOptions) -> Result<Program, EvaluateError> {
        let plan = plan::plan(graph, options)?;
        let file = AlignedBytes::new(&emit(&plan, &[]));
        Ok(Program { plan, file })
    }

    /// The program as the runtime opens it.
    ///
    /// # Errors
    /// When the runtime refuses the program.
    pub fn model(&self) -> Result<Model<'_>, EvaluateError> {
        Model::open(self.file.as_slice()).map_err(|e| EvaluateError::Invalid(e.to_string()))
    }

    /// A session of the program.
    ///
    /// # Errors
    /// When the runtime refuses the program.
    pub fn session(&self, isa: Option<Isa>) -> Result<Session<'_>, EvaluateError> {
        let invalid = |why: &dyn std::fmt::Display| EvaluateError::Invalid(why.to_string());
        let model = Model::open(self.file.as_slice()).map_err(|e| invalid(&e))?;
        Session::new(model, Options { isa, ..Options::default() })
            .map_err(|error| invalid(&describe(&model, error)))
    }
}

/// A runtime error as text, with the operator and name of its step.
pub fn describe(model: &Model<'_>, error: whit::SessionError) -> String {
    if let whit::SessionError::Step { step, kind } = error
        && let Some(record) = model.step(step as usize)
    {
        let op = whit::format::Op::from_number(record.op).map_or("?", |op| op.name());
        return format!("step {step}, {op} `{}`: {kind}", model.text(record.name));
    }
    error.to_string()
}

/// Gives the symbolic dimensions of an input the values that `shape` has.
///
/// # Errors
/// A message when the shape doesn't fit the input.
pub fn bind_shape(
    session: &mut dyn Prepared<'_>,
    input: usize,
    shape: &[usize],
) -> Result<(), String> {
    let model = *session.model();
    let record =
        model.input(input).and_then(|tensor| model.tensor(tensor)).ok_or("no such input")?;
    let name = model.text(record.name);
    let rank = usize::from(record.rank);
    if shape.len() != rank {
        return Err(format!("input `{name}` has {rank} axes, the data has {}", shape.len()));
    }
    for (axis, reference) in record.dims[..rank].iter().enumerate() {
        let symbol = (*reference < 0).then(|| model.symbols().nth(!*reference as usize)).flatten();
        let Some(symbol) = symbol else { continue };
        let dim = model.text(symbol.name);
        let value = u32::try_from(shape[axis]).unwrap_or(u32::MAX);
        session.set_dimension(dim, value).map_err(|_| {
            format!(
                "dimension `{dim}` of input `{name}` is {value} in the data; the model takes {} to {}",
                symbol.min, symbol.max
            )
        })?;
    }
    let slot = session.input_slot(input).map_err(|e| e.to_string())?;
    let fits = slot.dims().iter().map(|dim| *dim as usize).eq(shape.iter().copied());
    if fits {
        Ok(())
    } else {
        Err(format!("input `{name}` takes {:?}, the data has {shape:?}", slot.dims()))
    }
}

/// Fills the inputs of a session from a sample; real numbers are quantized for i8 and i16 inputs.
///
/// # Errors
/// When an array is missing or doesn't fit.
pub fn feed(
    session: &mut dyn Prepared<'_>,
    samples: &dyn Samples,
    sample: usize,
) -> Result<(), EvaluateError> {
    let model = *session.model();
    for (input, tensor) in model.inputs().enumerate() {
        let slot = session.input_slot(input).map_err(|e| EvaluateError::Sample(e.to_string()))?;
        let name = model.tensor(tensor).map_or("", |record| model.text(record.name));
        let quantized = matches!(slot.dtype(), DType::I8 | DType::I16) && slot.scale() > 0.0;
        let dtype = if quantized { DType::F32 } else { slot.dtype() };
        let (shape, bytes) =
            samples.input(sample, input, name, dtype).map_err(EvaluateError::Sample)?;
        bind_shape(session, input, &shape).map_err(EvaluateError::Sample)?;
        let result = if quantized {
            let reals: Vec<f32> = bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            session.set_input_f32(input, &reals)
        } else {
            session.set_input_bytes(input, &bytes)
        };
        result.map_err(|e| EvaluateError::Sample(e.to_string()))?;
    }
    Ok(())
}

/// A tensor right after it was made, or an input.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'s> {
    /// The sample that is run.
    pub sample: usize,
    /// Index in the plan; that of what it is a view of.
    pub tensor: usize,
    /// The step that made it; `None` for an input.
    pub step: Option<usize>,
    /// Type in the program.
    pub dtype: DType,
    /// Sizes of the axes, outermost first.
    pub dims: &'s [u32],
    /// The elements: as they are when they are f32, what the integers stand for when they have a scale. Those of
    /// an input are finite; what a step makes needn't be.
    pub reals: &'s [f32],
}

/// Runs the program on every sample; `see` gets every input, and every tensor right after a step made it (or the
/// last part of it, when it lies in the memory of others), that holds reals: f32, or integers with a scale. For a
/// model with state the samples are one sequence.
///
/// # Errors
/// When a sample doesn't fit the model or holds an f32 that isn't finite, or a run fails.
pub fn observe(
    program: &Program,
    samples: &dyn Samples,
    progress: &mut dyn FnMut(usize),
    see: &mut dyn FnMut(Seen<'_>),
) -> Result<(), EvaluateError> {
    let mut session = program.session(None)?;
    let model = *session.model();
    let steps = &program.plan.steps;
    let made = made_by_steps(&program.plan);
    let mut reals = Vec::new();
    session.reset_state();
    for sample in 0..samples.len() {
        feed(&mut session, samples, sample)?;
        for input in 0..model.inputs().len() {
            let Some(tensor) = model.input(input) else { continue };
            let slot =
                session.input_slot(input).map_err(|e| EvaluateError::Invalid(e.to_string()))?;
            let bytes = input_bytes(&mut session, input)?;
            if !to_reals(slot.dtype(), slot.scale(), slot.zero_point(), &bytes, &mut reals) {
                continue;
            }
            let name = model.tensor(tensor).map_or("", |record| model.text(record.name));
            check_finite(&reals, sample, name)?;
            let (dtype, dims) = (slot.dtype(), slot.dims());
            see(Seen { sample, tensor, step: None, dtype, dims, reals: &reals });
        }
        session
            .run_observed(|step, memory| {
                for output in steps[step].outputs.iter().flatten().chain(&made[step]) {
                    let Some((slot, bytes)) = memory.tensor(*output) else { continue };
                    let (scale, zero_point) = (slot.scale(), slot.zero_point());
                    let (dtype, dims) = (slot.dtype(), slot.dims());
                    if to_reals(dtype, scale, zero_point, bytes, &mut reals) {
                        let tensor = program.plan.view_of.get(output).copied().unwrap_or(*output);
                        see(Seen { sample, tensor, step: Some(step), dtype, dims, reals: &reals });
                    }
                }
            })
            .map_err(|e| EvaluateError::Run { sample, why: describe(&model, e) })?;
        progress(sample + 1);
    }
    Ok(())
}

/// For each step, the tensors without a step of their own that are complete behind it.
fn made_by_steps(plan: &Plan) -> Vec<Vec<usize>> {
    let mut step_of: HashMap<usize, usize> = HashMap::new();
    for (step, planned) in plan.steps.iter().enumerate() {
        for output in planned.outputs.iter().flatten() {
            step_of.insert(plan.view_of.get(output).copied().unwrap_or(*output), step);
        }
    }
    let mut made = vec![Vec::new(); plan.steps.len()];
    let mut tensors: Vec<usize> =
        plan.made_of.keys().copied().filter(|tensor| !step_of.contains_key(tensor)).collect();
    tensors.sort_unstable();
    for tensor in tensors {
        // Parts of parts; an input is there before every step, and so has none.
        let (mut last, mut parts) = (None, vec![tensor]);
        while let Some(part) = parts.pop() {
            last = last.max(step_of.get(&part).copied());
            parts.extend(plan.made_of.get(&part).into_iter().flatten());
        }
        if let Some(step) = last {
            made[step].push(tensor);
        }
    }
    made
}

/// An output of the last run as reals: f32 as they are, what integers stand for when they have a scale, else their
/// own values.
///
/// # Errors
/// When there is no such output.
pub fn output_reals(session: &Session<'_>, output: usize) -> Result<Vec<f32>, EvaluateError> {
    let failed = |e: whit::SessionError| EvaluateError::Invalid(e.to_string());
    let slot = session.output_slot(output).map_err(failed)?;
    let bytes = session.output_bytes(output).map_err(failed)?;
    let mut reals = Vec::new();
    if to_reals(slot.dtype(), slot.scale(), slot.zero_point(), bytes, &mut reals) {
        return Ok(reals);
    }
    let shape: Vec<usize> = slot.dims().iter().map(|dim| *dim as usize).collect();
    let data = Bytes::copy_from_slice(bytes);
    Ok(Tensor { dtype: slot.dtype(), shape, data }.to_f32())
}

/// The reals that a tensor's bytes stand for; false when they don't stand for any.
pub(crate) fn to_reals(
    dtype: DType,
    scale: f32,
    zero_point: i32,
    bytes: &[u8],
    reals: &mut Vec<f32>,
) -> bool {
    reals.clear();
    let real = |q: i32| (q - zero_point) as f32 * scale;
    match dtype {
        DType::F32 => reals
            .extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        DType::I8 if scale != 0.0 => reals.extend(bytes.iter().map(|b| real(i32::from(*b as i8)))),
        DType::U8 if scale != 0.0 => reals.extend(bytes.iter().map(|b| real(i32::from(*b)))),
        DType::I16 if scale != 0.0 => reals.extend(
            bytes.chunks_exact(2).map(|b| real(i32::from(i16::from_le_bytes([b[0], b[1]])))),
        ),
        _ => return false,
    }
    true
}

fn check_finite(values: &[f32], sample: usize, name: &str) -> Result<(), EvaluateError> {
    match values.iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(value) => Err(EvaluateError::Sample(format!(
            "sample {sample} of the data has {value} in the input `{name}`: remove or repair the sample"
        ))),
    }
}

/// Runs a graph that has no inputs; `None` when it can't be run.
pub fn constants(graph: &Graph) -> Option<Vec<Tensor>> {
    let program = Program::new(graph, &PlanOptions::default()).ok()?;
    let mut session = program.session(None).ok()?;
    session.run().ok()?;
    (0..graph.outputs.len())
        .map(|output| {
            let slot = session.output_slot(output).ok()?;
            let data = Bytes::copy_from_slice(session.output_bytes(output).ok()?);
            let shape = slot.dims().iter().map(|dim| *dim as usize).collect();
            Some(Tensor { dtype: slot.dtype(), shape, data })
        })
        .collect()
}

/// Difference from the expected float outputs that golden vectors allow, relative to the largest
/// expected magnitude: other instruction sets sum in other orders; 1e-4 is what the tests of whole
/// models hold float outputs to.
pub const GOLDEN_TOLERANCE: f32 = 1e-4;

/// The same of programs that keep f16: where another order of a sum gives another f16, the difference is 2⁻¹¹ of one number.
const HALF_TOLERANCE: f32 = 2e-3;

/// The same of programs that keep reals in i8, whose steps are 2⁻⁷ of the largest of 32 numbers, or that round inputs of layers to
/// bf16, in steps of up to 2⁻⁸.
const BYTE_TOLERANCE: f32 = 2e-2;

/// A run on pseudo-random inputs isn't much more work than this. The scalar kernels take about a second for it.
const GOLDEN_MACS: u64 = 1 << 29;

/// Runs the program with the scalar kernels, the definition, on the first samples, or on
/// pseudo-random inputs when there are none: of the largest sizes, or smaller ones for a model that is much work. Of such a
/// model no samples are run either, where it can have smaller sizes.
///
/// # Errors
/// When a sample doesn't fit or a run fails.
pub fn golden(
    program: &Program,
    samples: Option<&dyn Samples>,
    cases: usize,
) -> Result<Vec<Golden>, EvaluateError> {
    let mut session = program.session(Some(Isa::Scalar))?;
    let model = *session.model();
    let is_work = model.header().macs > 16 * GOLDEN_MACS && model.symbols().len() > 0;
    let samples = samples.filter(|_| !is_work);
    if samples.is_none() {
        limit_work(&mut session)?;
    }
    let keeps_halves =
        program.plan.states.iter().any(|state| {
            matches!(program.plan.tensors[state.tensor].dtype, DType::F16 | DType::BF16)
        });
    let keeps_bytes = program
        .plan
        .steps
        .iter()
        .any(|step| step.op == StepOp::CachedAttention && step.variant == Some(DType::I8));
    let rounds_inputs = program
        .plan
        .tensors
        .iter()
        .any(|tensor| tensor.dtype == DType::BF16 && tensor.layout == Layout::PanelFloat);
    let tolerance = match keeps_halves {
        _ if keeps_bytes || rounds_inputs => BYTE_TOLERANCE,
        true => HALF_TOLERANCE,
        false => GOLDEN_TOLERANCE,
    };
    let mut vectors = Vec::new();
    let mut random = 0x2545_F491_4F6C_DD1Du64;
    for case in 0..cases {
        session.reset_state();
        match samples {
            Some(samples) if case >= samples.len() => break,
            Some(samples) => feed(&mut session, samples, case)?,
            None => fill_pseudo_random(&mut session, &mut random)?,
        }
        let dims =
            (0..model.symbols().len()).filter_map(|index| session.dimension(index)).collect();
        let mut vector = Golden { dims, ..Golden::default() };
        for input in 0..model.inputs().len() {
            vector.inputs.push(input_bytes(&mut session, input)?);
        }
        if let Err(error) = session.run() {
            // Random indices may be out of range; a program that needs real data has no vector.
            if samples.is_none() {
                break;
            }
            return Err(EvaluateError::Run { sample: case, why: describe(&model, error) });
        }
        for output in 0..model.outputs().len() {
            let failed = |e: whit::SessionError| EvaluateError::Invalid(e.to_string());
            let slot = session.output_slot(output).map_err(failed)?;
            let tolerance = if slot.dtype().is_float() { tolerance } else { 0.0 };
            vector
                .outputs
                .push((session.output_bytes(output).map_err(failed)?.to_vec(), tolerance));
        }
        vectors.push(vector);
    }
    Ok(vectors)
}

/// Makes sizes 0 that can be, then halves the others until a run is at most [`GOLDEN_MACS`], taking work to be in proportion to them.
fn limit_work(session: &mut Session<'_>) -> Result<(), EvaluateError> {
    let model = *session.model();
    let mut macs = model.header().macs;
    let mut sizes: Vec<(&str, u32, u32)> =
        model.symbols().map(|s| (model.text(s.name), s.min, s.max)).collect();
    // What a run can do without, such as an encoder beside a decoder, may be most of the work whatever the other sizes.
    if macs > GOLDEN_MACS {
        sizes.iter_mut().filter(|(_, min, _)| *min == 0).for_each(|(.., size)| *size = 0);
    }
    while macs > GOLDEN_MACS {
        let Some((_, min, size)) =
            sizes.iter_mut().max_by_key(|(_, min, size)| size / 2 - (*min).min(size / 2))
        else {
            break;
        };
        if *size / 2 < *min {
            break;
        }
        *size /= 2;
        macs /= 2;
    }
    for (name, _, size) in sizes {
        session.set_dimension(name, size).map_err(|e| EvaluateError::Invalid(e.to_string()))?;
    }
    Ok(())
}

/// The elements of an input as they are, in its type.
///
/// # Errors
/// [`EvaluateError::Invalid`] when there is no such input.
pub fn input_bytes(session: &mut Session<'_>, input: usize) -> Result<Vec<u8>, EvaluateError> {
    let failed = |e: whit::SessionError| EvaluateError::Invalid(e.to_string());
    let slot = session.input_slot(input).map_err(failed)?;
    Ok(match slot.dtype().size() {
        1 => session.input_mut::<u8>(input).map_err(failed)?.to_vec(),
        2 => session
            .input_mut::<u16>(input)
            .map_err(failed)?
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
        4 => session
            .input_mut::<u32>(input)
            .map_err(failed)?
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
        _ => session
            .input_mut::<u64>(input)
            .map_err(failed)?
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
    })
}

/// Fills every input with numbers that any model can take: small reals, any i8, any quantized i16, 0
/// or 1 otherwise.
/// `state` is the generator's (Marsaglia's xorshift) and must not be 0.
///
/// # Errors
/// When the runtime refuses an input: a defect of the converter.
pub fn fill_pseudo_random(
    session: &mut dyn Prepared<'_>,
    state: &mut u64,
) -> Result<(), EvaluateError> {
    for input in 0..session.model().inputs().len() {
        pseudo_random(session, input, state)?;
    }
    Ok(())
}

fn pseudo_random(
    session: &mut dyn Prepared<'_>,
    input: usize,
    state: &mut u64,
) -> Result<(), EvaluateError> {
    let failed = |e: whit::SessionError| EvaluateError::Invalid(e.to_string());
    let mut next = || {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    };
    let slot = session.input_slot(input).map_err(failed)?;
    let count = slot.elements();
    let bytes: Vec<u8> = match slot.dtype() {
        DType::F32 => {
            (0..count).flat_map(|_| ((next() % 2001) as f32 / 1000.0 - 1.0).to_le_bytes()).collect()
        }
        DType::I8 => (0..count).map(|_| next() as u8).collect(),
        DType::I16 if slot.scale() > 0.0 => {
            (0..count).flat_map(|_| (next() as i16).to_le_bytes()).collect()
        }
        dtype => (0..count)
            .flat_map(|_| {
                let mut element = vec![0u8; dtype.size()];
                element[0] = (next() % 2) as u8;
                element
            })
            .collect(),
    };
    session.set_input_bytes(input, &bytes).map_err(failed)
}

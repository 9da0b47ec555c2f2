//! A session: a model bound to kernels and memory. Prepared once, then `run` is a loop.

use core::ops::{ControlFlow, Range};

use crate::dtype::DType;
use crate::error::{SessionError, StepErrorKind};
use crate::format::{Element, Op, OpBits, StepRecord, cast, cast_mut};
use crate::isa::Isa;
use crate::kernels::quantize::{Affine, Affinely};
use crate::memory::{Block, BlockSizes, Slot};
use crate::model::{MAX_DIMS, Model};
#[cfg(feature = "std")]
use crate::ops::parallel::{self, Sharing};
use crate::ops::{self, Bound, Operator};
use crate::tables::Tables;
#[cfg(feature = "std")]
use crate::threads::{MAX_THREADS, Pool};

/// How a session is prepared.
#[derive(Clone, Copy)]
pub struct Options {
    /// The instruction set; `None` takes the fastest that this CPU has.
    pub isa: Option<Isa>,
    /// The operators that steps may be bound to.
    pub operators: &'static [&'static Operator],
    /// Threads at most, the caller's included; 0 counts as 1, and 64 are the most. How many parts each step
    /// is cut into is decided when a session is prepared, and a model whose steps are all too short to share
    /// gets no threads: [`Session::threads`]. Results are the same to the bit, whatever the number.
    #[cfg(feature = "std")]
    pub threads: usize,
    /// What layers with weights in groups do with their inputs.
    #[cfg(feature = "std")]
    pub precision: Precision,
}

/// The precision of the inputs of fully connected layers whose weights are in groups (`w8`, `w6`, `w5`, `w4`, `w4nl`).
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Integers of 16 bits, with a scale for each group, on instruction sets that multiply those fastest: AVX2 and above, `dotprod` and
    /// above. f32 on the others.
    #[default]
    High,
    /// f32 on all of them, as the reference has it.
    Highest,
}

impl Options {
    /// These operators, one thread; names no operator of its own, so that the linker drops the rest.
    pub const fn new(isa: Option<Isa>, operators: &'static [&'static Operator]) -> Options {
        Options {
            isa,
            operators,
            #[cfg(feature = "std")]
            threads: 1,
            #[cfg(feature = "std")]
            precision: Precision::High,
        }
    }
}

impl Default for Options {
    /// Every operator of this build, the fastest instruction set of this CPU, one thread.
    fn default() -> Self {
        Options {
            isa: None,
            operators: ops::ALL,
            #[cfg(feature = "std")]
            threads: 1,
            #[cfg(feature = "std")]
            precision: Precision::High,
        }
    }
}

/// A model ready to run.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = whit::ModelFile::open("model.whit")?;
/// let mut session = whit::Session::new(file.model()?, whit::Options::default())?;
/// session.set_input_f32(0, &[0.0; 490])?;
/// session.run()?;
/// println!("{:?}", session.output::<i8>(0)?);
/// # Ok(())
/// # }
/// ```
pub struct Session<'m> {
    model: Model<'m>,
    block: Block<'m>,
    isa: Isa,
    needed_bytes: usize,
    /// Threads beside the caller's, when some step is shared among them.
    #[cfg(feature = "std")]
    pool: Option<Pool>,
}

struct Prepared {
    isa: Isa,
    /// Threads that steps may be cut for: as asked, or 1 when no step is worth it.
    threads: usize,
    sizes: BlockSizes,
    /// What steps are bound to before their own operator is found.
    filler: &'static Operator,
}

impl Prepared {
    fn filler(&self) -> Bound {
        Bound::new(self.filler, self.isa)
    }
}

impl<'m> Session<'m> {
    /// Prepares a session in memory that it allocates: the only allocation of its life.
    ///
    /// # Errors
    /// When operators or variants are missing, or a step doesn't hold together.
    #[cfg(feature = "std")]
    pub fn new(model: Model<'m>, options: Options) -> Result<Session<'m>, SessionError> {
        let prepared = prepare(&model, &options)?;
        let needed = prepared.sizes.total().unwrap_or(usize::MAX);
        let tables = Tables::in_file(&model);
        let block = Block::owned(&prepared.sizes, tables, prepared.filler())
            .ok_or(SessionError::Memory { needed, given: 0 })?;
        Session::bind(model, block, &prepared, &options, needed)
    }

    /// Prepares a session in the caller's memory.
    ///
    /// # Errors
    /// As `new`, and when `memory` is shorter than [`Session::memory_bytes`].
    pub fn in_memory(
        model: Model<'m>,
        memory: &'m mut [u8],
        options: Options,
    ) -> Result<Session<'m>, SessionError> {
        let prepared = prepare(&model, &options)?;
        let needed = prepared.sizes.total().unwrap_or(usize::MAX);
        let given = memory.len();
        let tables = Tables::in_file(&model);
        let block = Block::borrowed(memory, &prepared.sizes, tables, prepared.filler())
            .ok_or(SessionError::Memory { needed, given })?;
        Session::bind(model, block, &prepared, &options, needed)
    }

    /// Bytes that a session of this model takes: arena, state, the kernels' scratch, and tables, which
    /// are small unless the file is mapped.
    pub fn memory_bytes(model: &Model<'_>, options: &Options) -> Result<usize, SessionError> {
        let sizes = prepare(model, options)?.sizes;
        sizes.total().ok_or(SessionError::Memory { needed: usize::MAX, given: 0 })
    }

    fn bind(
        model: Model<'m>,
        mut block: Block<'m>,
        prepared: &Prepared,
        options: &Options,
        needed_bytes: usize,
    ) -> Result<Session<'m>, SessionError> {
        for index in 0..block.bound().len() {
            let operator = find_operator(options, block.tables().step_record(index), index)?;
            block.bound_mut()[index] = Bound {
                #[cfg(feature = "std")]
                precision: options.precision,
                ..Bound::new(operator, prepared.isa)
            };
        }
        #[cfg(feature = "std")]
        let pool = match prepared.threads {
            0 | 1 => None,
            threads => Some(Pool::new(threads).map_err(|_| SessionError::Threads)?),
        };
        let mut session = Session {
            model,
            block,
            isa: prepared.isa,
            needed_bytes,
            #[cfg(feature = "std")]
            pool,
        };
        for (index, symbol) in model.symbols().enumerate() {
            if let Some(dim) = session.block.dims_mut().get_mut(index) {
                *dim = symbol.max;
            }
        }
        // `prepare` checked the file's records at these dimensions. A copy is checked again, since the
        // file may have changed in between.
        if prepared.sizes.copy > 0 || prepared.sizes.dims > 0 {
            session.bind_shapes()?;
        } else {
            #[cfg(feature = "std")]
            session.resolve()?;
        }
        #[cfg(feature = "std")]
        session.cut_steps();
        if session.block.is_new() {
            session.initialize_state();
        } else {
            session.reset_state();
        }
        Ok(session)
    }

    /// Computes every dimension from the symbols' values, and what follows for the tensors.
    #[inline]
    fn resolve(&mut self) -> Result<(), SessionError> {
        #[cfg(feature = "std")]
        self.block.bound_mut().iter_mut().for_each(|bound| bound.shaped = ops::Shaped::default());
        let symbols = self.model.symbols().len();
        let too_large = SessionError::Step { step: 0, kind: StepErrorKind::TooLarge };
        self.block.resolve(symbols).ok_or(too_large)
    }

    /// Computes every dimension from the symbols' values, and checks every step with them that has something to compute.
    fn bind_shapes(&mut self) -> Result<(), SessionError> {
        self.resolve()?;
        let too_large = SessionError::Step { step: 0, kind: StepErrorKind::TooLarge };
        let (tables, dims) = (self.block.tables(), self.block.dims());
        if !tables.tensors.hold_together(dims) {
            return Err(too_large);
        }
        let bound = self.block.bound();
        let needs = check_steps(&tables, dims, self.isa, 1, &|index| {
            bound.get(index).map(|bound| bound.operator).ok_or(too_large)
        })?;
        if needs.scratch > self.block.scratch_bytes() {
            return Err(too_large);
        }
        #[cfg(feature = "std")]
        {
            self.find_idle_steps();
            self.cut_steps();
        }
        Ok(())
    }

    /// Decides which steps have nothing to compute at the present dimensions.
    #[cfg(feature = "std")]
    fn find_idle_steps(&mut self) {
        for index in 0..self.block.bound().len() {
            let step = self.block.tables().step(index, self.block.dims());
            let is_idle = step.is_some_and(|step| step.is_idle());
            self.block.bound_mut()[index].set_idle(is_idle, self.isa);
        }
    }

    /// Decides how many parts each step is cut into at the present dimensions, and which steps wake threads.
    /// A step whose parts would need more scratch than there is stays whole.
    #[cfg(feature = "std")]
    fn cut_steps(&mut self) {
        let sharing = Sharing::of(&self.block.tables(), self.isa, self.threads());
        let room = self.block.scratch_bytes();
        // Of the cut steps from here to the end.
        let mut ns = 0.0;
        for index in (0..self.block.bound().len()).rev() {
            let operator = self.block.bound()[index].operator;
            let step = self.block.tables().step(index, self.block.dims());
            let step = step.filter(|step| !step.is_idle());
            let share = step.and_then(|step| sharing.share(operator, &step));
            let share = share.filter(|share| share.scratch_bytes <= room);
            ns += share.as_ref().map_or(0.0, |share| share.ns);
            let bound = &mut self.block.bound_mut()[index];
            bound.parts = share.map_or(1, |share| share.parts as u8);
            bound.wakes = parallel::pays_waking(ns);
        }
        // Nobody would ever wake them.
        if !parallel::pays_waking(ns) {
            self.block.bound_mut().iter_mut().for_each(|bound| bound.parts = 1);
        }
    }

    /// Threads that take part in a run at most, the caller's included.
    #[cfg(feature = "std")]
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, Pool::threads)
    }

    /// Number of parts that the work of step `index` is cut into; 1 when one thread does it.
    #[cfg(feature = "std")]
    pub fn parts(&self, index: usize) -> usize {
        self.block.bound().get(index).map_or(1, |bound| usize::from(bound.parts))
    }

    /// The instruction set that the steps were bound for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// Bytes of memory that the session holds.
    pub fn needed_bytes(&self) -> usize {
        self.needed_bytes
    }

    /// Bytes of working memory, part of [`Session::needed_bytes`].
    pub fn scratch_bytes(&self) -> usize {
        self.block.scratch_bytes()
    }

    /// Gives a symbolic dimension its value for the runs to come; it starts at its largest.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] when no dimension has this name, [`SessionError::Dimension`] when
    /// the value is out of bounds, [`SessionError::Step`] when a step refuses the shapes that
    /// follow; the former value then stays.
    pub fn set_dimension(&mut self, name: &str, value: u32) -> Result<(), SessionError> {
        let index = self.model.symbol_for(name, value)?;
        let before = self.block.dims()[index];
        if before == value {
            return Ok(());
        }
        self.block.dims_mut()[index] = value;
        self.bind_shapes().inspect_err(|_| {
            self.block.dims_mut()[index] = before;
            // These shapes were accepted before, so they are again.
            let _ = self.bind_shapes();
        })
    }

    /// The present value of symbol number `index`.
    pub fn dimension(&self, index: usize) -> Option<u32> {
        (index < self.model.symbols().len())
            .then(|| self.block.dims().get(index).copied())
            .flatten()
    }

    /// Sets every state tensor to its initial value.
    pub fn reset_state(&mut self) {
        self.block.state_mut().fill(0);
        self.initialize_state();
    }

    /// The same, given that the state is zeros.
    fn initialize_state(&mut self) {
        let model = self.model;
        for state in model.states() {
            if state.has_initial == 0 {
                continue;
            }
            let Some(slot) = self.block.slot(state.tensor as usize) else {
                continue;
            };
            let constants = model.section(crate::format::Section::Constants);
            let start = state.offset as usize;
            let bytes = self.block.tensor_mut(&slot);
            // `Model::open` checked that the initial value lies inside the constants.
            if let Some(initial) = constants.get(start..start + bytes.len()) {
                bytes.copy_from_slice(initial);
            }
        }
    }

    /// A tensor's place at the present dimensions.
    pub(crate) fn slot(&self, tensor: usize) -> Option<Slot> {
        self.block.slot(tensor)
    }

    pub(crate) fn read_state(
        &self,
        range: Range<usize>,
        take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), SessionError> {
        // One piece, so that nothing comes behind a break.
        let _ = take(self.block.state().get(range).ok_or(SessionError::Unknown)?);
        Ok(())
    }

    pub(crate) fn write_state(
        &mut self,
        range: Range<usize>,
        fill: &mut dyn FnMut(&mut [u8]) -> ControlFlow<()>,
    ) -> Result<(), SessionError> {
        let _ = fill(self.block.state_mut().get_mut(range).ok_or(SessionError::Unknown)?);
        Ok(())
    }

    pub(crate) fn copy_state(&mut self, from: Range<usize>, to: usize) -> Result<(), SessionError> {
        let state = self.block.state_mut();
        let end = to.checked_add(from.len()).ok_or(SessionError::Unknown)?;
        if state.get(from.clone()).is_none() || end > state.len() {
            return Err(SessionError::Unknown);
        }
        state.copy_within(from, to);
        Ok(())
    }

    /// Runs every step once. Allocates nothing.
    ///
    /// # Errors
    /// Only for what depends on the data: an index out of range in a gather.
    pub fn run(&mut self) -> Result<(), SessionError> {
        self.run_observed(|_, _| ())
    }

    /// Runs every step, calling `observe(step, session memory)` after each: for profiling and for
    /// reading intermediate tensors through [`Observed::tensor`].
    pub fn run_observed(
        &mut self,
        mut observe: impl FnMut(usize, Observed<'_>),
    ) -> Result<(), SessionError> {
        let constants = self.model.section(crate::format::Section::Constants);
        for index in 0..self.block.bound().len() {
            let failed = |kind| SessionError::Step { step: index as u32, kind };
            let context = self.block.context(
                index,
                constants,
                #[cfg(feature = "std")]
                self.pool.as_mut(),
            );
            let (run, mut context) = context.ok_or(failed(StepErrorKind::TooLarge))?;
            run(&mut context).map_err(failed)?;
            observe(index, Observed { block: &self.block, constants });
        }
        Ok(())
    }

    /// Runs every step, calling `probe(step, session memory)` after each, which may change what the step
    /// made: for feeding the steps behind with what another program computed.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_probed(
        &mut self,
        mut probe: impl FnMut(usize, &mut Probe<'_, 'm>),
    ) -> Result<(), SessionError> {
        let constants = self.model.section(crate::format::Section::Constants);
        for index in 0..self.block.bound().len() {
            let failed = |kind| SessionError::Step { step: index as u32, kind };
            let context = self.block.context(
                index,
                constants,
                #[cfg(feature = "std")]
                self.pool.as_mut(),
            );
            let (run, mut context) = context.ok_or(failed(StepErrorKind::TooLarge))?;
            run(&mut context).map_err(failed)?;
            probe(index, &mut Probe { block: &mut self.block });
        }
        Ok(())
    }

    /// Type, shape and quantization of an input.
    pub fn input_slot(&self, index: usize) -> Result<Slot, SessionError> {
        let tensor = self.model.input(index).ok_or(SessionError::Unknown)?;
        self.block.slot(tensor).ok_or(SessionError::Unknown)
    }

    /// Type, shape and quantization of an output.
    pub fn output_slot(&self, index: usize) -> Result<Slot, SessionError> {
        let tensor = self.model.output(index).ok_or(SessionError::Unknown)?;
        self.block.slot(tensor).ok_or(SessionError::Unknown)
    }

    /// An input's elements, to fill in place before each run: their memory is reused by later steps.
    pub fn input_mut<T: Element>(&mut self, index: usize) -> Result<&mut [T], SessionError> {
        let slot = self.input_slot(index)?;
        let wrong = SessionError::InputType { input: index as u32, expected: slot.dtype };
        if size_of::<T>() != slot.dtype.size() {
            return Err(wrong);
        }
        cast_mut(self.block.tensor_mut(&slot)).ok_or(wrong)
    }

    /// An input's bytes, to fill in place as [`Session::input_mut`].
    pub fn input_bytes_mut(&mut self, index: usize) -> Result<&mut [u8], SessionError> {
        let slot = self.input_slot(index)?;
        Ok(self.block.tensor_mut(&slot))
    }

    /// An input's bytes: what the caller wrote, until a run reuses their memory.
    pub fn input_bytes(&self, index: usize) -> Result<&[u8], SessionError> {
        let slot = self.input_slot(index)?;
        Ok(self.block.tensor(&slot, self.model.section(crate::format::Section::Constants)))
    }

    /// Copies bytes in, which must be the input's elements in its own type.
    pub fn set_input_bytes(&mut self, index: usize, bytes: &[u8]) -> Result<(), SessionError> {
        let slot = self.input_slot(index)?;
        let input = self.block.tensor_mut(&slot);
        if input.len() != bytes.len() {
            let size = slot.dtype.size();
            return Err(SessionError::InputLength {
                input: index as u32,
                expected: input.len() / size,
                given: bytes.len() / size,
            });
        }
        input.copy_from_slice(bytes);
        Ok(())
    }

    /// Copies real numbers in: as they are for an f32 input, quantized with the input's scale and
    /// zero point for an i8 or i16 input, `saturate(round_ties_even(x / scale) + zero_point)`.
    ///
    /// # Errors
    /// [`SessionError::InputType`] for inputs of other types.
    pub fn set_input_f32(&mut self, index: usize, values: &[f32]) -> Result<(), SessionError> {
        let slot = self.input_slot(index)?;
        if slot.elements() != values.len() {
            return Err(SessionError::InputLength {
                input: index as u32,
                expected: slot.elements(),
                given: values.len(),
            });
        }
        match slot.dtype {
            DType::F32 => self.input_mut::<f32>(index)?.copy_from_slice(values),
            DType::I8 if slot.scale > 0.0 => self.quantize_input::<i8>(index, &slot, values)?,
            DType::I16 if slot.scale > 0.0 => self.quantize_input::<i16>(index, &slot, values)?,
            expected => return Err(SessionError::InputType { input: index as u32, expected }),
        }
        Ok(())
    }

    fn quantize_input<T: Affinely>(
        &mut self,
        index: usize,
        slot: &Slot,
        values: &[f32],
    ) -> Result<(), SessionError> {
        let numbers = Affine { scale: slot.scale, zero_point: slot.zero_point };
        T::select_quantize(self.isa)(&numbers, values, self.input_mut(index)?);
        Ok(())
    }

    /// An output's bytes after a run.
    pub fn output_bytes(&self, index: usize) -> Result<&[u8], SessionError> {
        let slot = self.output_slot(index)?;
        Ok(self.block.tensor(&slot, self.model.section(crate::format::Section::Constants)))
    }

    /// An output's elements after a run.
    pub fn output<T: Element>(&self, index: usize) -> Result<&[T], SessionError> {
        let slot = self.output_slot(index)?;
        if size_of::<T>() != slot.dtype.size() {
            return Err(SessionError::Unknown);
        }
        cast(self.output_bytes(index)?).ok_or(SessionError::Unknown)
    }
}

/// The memory of a session between two steps.
pub struct Observed<'o> {
    block: &'o Block<'o>,
    constants: &'o [u8],
}

impl Observed<'_> {
    /// A tensor's description and present bytes; meaningful from the step that makes it to the
    /// last step that reads it.
    pub fn tensor(&self, index: usize) -> Option<(Slot, &[u8])> {
        let slot = self.block.slot(index)?;
        Some((slot, self.block.tensor(&slot, self.constants)))
    }
}

/// The memory of a session between two steps, to look at and to change.
pub struct Probe<'p, 'm> {
    block: &'p mut Block<'m>,
}

impl Probe<'_, '_> {
    /// A tensor's description and present bytes; no bytes for a constant. Whatever is written, the steps behind take
    /// it: what they check doesn't depend on the content of activations.
    pub fn tensor_mut(&mut self, index: usize) -> Option<(Slot, &mut [u8])> {
        let slot = self.block.slot(index)?;
        Some((slot, self.block.tensor_mut(&slot)))
    }
}

/// The operator for a step.
fn find_operator(
    options: &Options,
    record: Option<StepRecord>,
    index: usize,
) -> Result<&'static Operator, SessionError> {
    let step = index as u32;
    let record = record.ok_or(SessionError::Step { step, kind: StepErrorKind::TooLarge })?;
    let dtype = DType::from_number(record.variant);
    let named = |operator: &&&Operator| operator.op as u16 == record.op && operator.dtype == dtype;
    options.operators.iter().find(named).copied().ok_or_else(|| match Op::from_number(record.op) {
        Some(op) => SessionError::MissingVariant { step, op, dtype },
        None => SessionError::MissingOperators(OpBits::of_number(record.op)),
    })
}

/// Finds every operator, and how much memory the session takes.
fn prepare(model: &Model<'_>, options: &Options) -> Result<Prepared, SessionError> {
    let isa = options.isa.unwrap_or_else(Isa::detect);
    if !isa.is_available() {
        return Err(SessionError::IsaUnavailable(isa));
    }
    let mut missing = model.op_set();
    for operator in options.operators {
        missing.remove(operator.op);
    }
    if !missing.is_empty() {
        return Err(SessionError::MissingOperators(missing));
    }

    let header = model.header();
    let tables = Tables::in_file(model);
    let too_large = SessionError::Memory { needed: usize::MAX, given: 0 };
    let symbols = model.symbols().len();
    let mut prepared = Prepared {
        isa,
        #[cfg(feature = "std")]
        threads: options.threads.clamp(1, MAX_THREADS),
        #[cfg(not(feature = "std"))]
        threads: 1,
        sizes: BlockSizes {
            arena: usize::try_from(header.arena_bytes).map_err(|_| too_large)?,
            state: usize::try_from(header.state_bytes).map_err(|_| too_large)?,
            scratch: 0,
            bound: tables.step_count(),
            dims: symbols + tables.dim_count(),
            slots: if cfg!(feature = "std") { tables.tensors.count() } else { 0 },
            copy: if model.may_change() { tables.bytes() } else { 0 },
        },
        // A program without steps has no `Bound` to fill; any operator does.
        filler: options.operators.first().copied().unwrap_or(&ops::LUT_I8),
    };
    let operator = |index| find_operator(options, tables.step_record(index), index);
    let needs = if prepared.sizes.dims == 0 {
        check_steps(&tables, &[], isa, prepared.threads, &operator)?
    } else {
        check_steps_at_largest(&tables, model, isa, prepared.threads, &operator)?
    };
    prepared.sizes.scratch = needs.scratch;
    prepared.threads = needs.parts.min(prepared.threads);
    Ok(prepared)
}

/// How a step's operator is found.
type OperatorOf<'f> = &'f dyn Fn(usize) -> Result<&'static Operator, SessionError>;

/// What the steps need.
struct Needs {
    /// Bytes of scratch, the most of any step.
    scratch: usize,
    /// Parts, the most of any step.
    parts: usize,
}

/// [`check_steps`] at the largest dimensions. Apart, because the table takes a kilobyte of stack.
#[inline(never)]
fn check_steps_at_largest(
    tables: &Tables<'_>,
    model: &Model<'_>,
    isa: Isa,
    threads: usize,
    operator: OperatorOf<'_>,
) -> Result<Needs, SessionError> {
    let mut dims = [0u32; MAX_DIMS];
    for (dim, symbol) in dims.iter_mut().zip(model.symbols()) {
        *dim = symbol.max;
    }
    // `Model::open` checked that the table has at most MAX_DIMS entries.
    let too_large = SessionError::Memory { needed: usize::MAX, given: 0 };
    let symbols = model.symbols().len();
    let dims = dims.get_mut(..symbols + tables.dim_count()).ok_or(too_large)?;
    tables.evaluate_dims(symbols, dims).ok_or(too_large)?;
    check_steps(tables, dims, isa, threads, operator)
}

/// Checks every step at these dimensions, and finds what they need on so many threads.
#[inline(never)]
fn check_steps(
    tables: &Tables<'_>,
    dims: &[u32],
    isa: Isa,
    threads: usize,
    operator: OperatorOf<'_>,
) -> Result<Needs, SessionError> {
    let mut needs = Needs { scratch: 0, parts: 1 };
    #[cfg(feature = "std")]
    let sharing = Sharing::of(tables, isa, threads);
    #[cfg(feature = "std")]
    let (mut shared, mut shared_ns) = (Needs { scratch: 0, parts: 1 }, 0.0);
    for index in 0..tables.step_count() {
        let failed = |kind| SessionError::Step { step: index as u32, kind };
        let operator = operator(index)?;
        let step = tables.step(index, dims).ok_or(failed(StepErrorKind::TooLarge))?;
        #[cfg(feature = "std")]
        if step.is_idle() {
            continue;
        }
        (operator.check)(&step).map_err(failed)?;
        needs.scratch = needs.scratch.max((operator.scratch_bytes)(&step, isa));
        #[cfg(feature = "std")]
        if let Some(share) = sharing.share(operator, &step) {
            shared.scratch = shared.scratch.max(share.scratch_bytes);
            shared.parts = shared.parts.max(share.parts);
            shared_ns += share.ns;
        }
    }
    #[cfg(feature = "std")]
    if parallel::pays_waking(shared_ns) {
        needs = Needs { scratch: needs.scratch.max(shared.scratch), parts: shared.parts };
    }
    #[cfg(not(feature = "std"))]
    let _ = threads;
    Ok(needs)
}

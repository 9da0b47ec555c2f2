//! A model prepared for a device: weights uploaded once, every shape's program captured as a graph.

use std::fmt;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::device::Device;
use super::driver::{Command, Driver, Launch};
use super::error::Error;
use super::memory::{Graph, Memory, STATUS_BYTES, Stream};
use super::program::{Call, Lowered, Refusal};
use super::steps::{
    check_operators, check_steps, evaluate, expect_all_lowered, lower_step, missing_step,
};
use crate::backend::Prepared;
use crate::dtype::DType;
use crate::error::{DeviceError, SessionError, StepErrorKind};
use crate::format::{Element, Section, cast};
use crate::kernels::quantize::{Affine, Affinely};
use crate::memory::Slot;
use crate::model::Model;
use crate::tables::Tables;

/// How a session is prepared.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Programs kept for different values of symbolic dimensions, at least 1; the one unused for longest makes
    /// room.
    pub shapes: usize,
    /// Whether programs are captured as graphs; else every kernel is launched by itself.
    pub graphs: bool,
}

impl Default for Options {
    /// 8 shapes, as graphs.
    fn default() -> Options {
        Options { shapes: 8, graphs: true }
    }
}

/// Where an input or output lies.
#[derive(Clone, Copy, Debug)]
struct Port {
    tensor: u32,
    /// In the staging memory of the host.
    offset: usize,
    /// At its largest.
    bytes: usize,
    /// Whether it stays on the device.
    resident: bool,
}

/// The program at some values of the symbols.
struct Shape {
    symbols: Vec<u32>,
    commands: Vec<Command>,
    graph: Option<Graph>,
    /// Whether kernels may report data out of range.
    checks: bool,
    used: u64,
}

/// A model ready to run on a device.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "cuda")] {
/// let device = whit::cuda::Device::open(0)?;
/// let file = whit::ModelFile::open("model.whit")?;
/// let mut session = whit::cuda::Session::new(file.model()?, &device, Default::default())?;
/// session.set_input_f32(0, &[0.0; 490])?;
/// session.run()?;
/// println!("{:?}", session.output::<i8>(0)?);
/// # }
/// # Ok(())
/// # }
/// ```
pub struct Session<'m> {
    model: Model<'m>,
    /// The records, which a file that others write to can't change.
    copy: Vec<u8>,
    /// Symbols, then expressions.
    dims: Vec<u32>,
    options: Options,
    // Graphs go before the memory that they name.
    shapes: Vec<Shape>,
    clock: u64,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    /// Whether the states are to be set to their initial values before the next run.
    resets: bool,
    /// Whether the stream may still be at work on the staging memory.
    in_flight: bool,
    stream: Stream,
    memory: Memory,
    driver: Arc<dyn Driver>,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("dims", &self.dims).finish_non_exhaustive()
    }
}

/// A run under way. Ends when it is dropped, at the latest.
pub struct Running<'s, 'm> {
    session: &'s mut Session<'m>,
    shape: usize,
    done: bool,
}

impl Running<'_, '_> {
    /// Waits until the run is done and its outputs are there.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn finish(mut self) -> Result<(), SessionError> {
        self.done = true;
        self.session.finish(self.shape)
    }
}

impl Drop for Running<'_, '_> {
    fn drop(&mut self) {
        if !self.done {
            // Whoever wants to know calls `finish`.
            let _ = self.session.finish(self.shape);
        }
    }
}

impl<'m> Session<'m> {
    /// Prepares a model: uploads its constants, makes room for arena and state, compiles its kernels, captures the
    /// program at the largest dimensions.
    ///
    /// # Errors
    /// As a session of the CPU; [`Error::Missing`] with every step that this backend lacks; and what can fail on
    /// a device.
    pub fn new(model: Model<'m>, device: &Device, options: Options) -> Result<Session<'m>, Error> {
        let driver = device.driver();
        let header = model.header();
        let tables = Tables::in_file(&model);
        let mut copy = vec![0; tables.bytes()];
        let too_large = Error::Session(SessionError::Memory { needed: usize::MAX, given: 0 });
        tables.copy_to(&mut copy).ok_or(too_large.clone())?;
        let tables = tables.copied(&copy);
        let mut dims: Vec<u32> = model.symbols().map(|symbol| symbol.max).collect();
        let symbols = dims.len();
        dims.resize(symbols + tables.dim_count(), 0);
        evaluate(&tables, symbols, &mut dims)?;
        check_operators(&model)?;
        check_steps(&tables, &dims)?;
        let scratch_bytes = expect_all_lowered(&model, &tables, &dims, driver.properties())?;

        let mut staging = STATUS_BYTES.next_multiple_of(STAGING_ALIGN);
        let mut port = |tensor: usize| -> Result<Port, SessionError> {
            let slot = tables.tensors.slot(tensor as u32, &dims).ok_or(SessionError::Unknown)?;
            let port = Port {
                tensor: tensor as u32,
                offset: staging,
                bytes: slot.bytes(),
                resident: false,
            };
            staging = (staging + slot.bytes()).next_multiple_of(STAGING_ALIGN);
            Ok(port)
        };
        let inputs = model.inputs().map(&mut port).collect::<Result<Vec<_>, _>>()?;
        let outputs = model.outputs().map(&mut port).collect::<Result<Vec<_>, _>>()?;
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| too_large.clone());
        let memory = Memory::new(
            driver,
            model.section(Section::Constants),
            size(header.arena_bytes)?,
            size(header.state_bytes)?,
            scratch_bytes,
            staging,
        )?;
        let mut session = Session {
            model,
            copy,
            dims,
            options: Options { shapes: options.shapes.max(1), ..options },
            shapes: Vec::new(),
            clock: 0,
            inputs,
            outputs,
            resets: true,
            in_flight: false,
            stream: Stream::new(driver)?,
            memory,
            driver: Arc::clone(driver),
        };
        session.memory.staging.bytes_mut().fill(0);
        // Zeros, as the CPU's arena has before anything is written.
        let (address, bytes) = (session.memory.bases().arena, size(header.arena_bytes)?);
        if bytes > 0 {
            driver.enqueue(session.stream.handle, &Command::Clear { address, bytes })?;
            session.in_flight = true;
        }
        session.build()?;
        session.settle()?;
        Ok(session)
    }

    fn tables(&self) -> Tables<'_> {
        Tables::in_file(&self.model).copied(&self.copy)
    }

    fn symbols(&self) -> &[u32] {
        &self.dims[..self.dims.len() - self.tables().dim_count()]
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// Bytes of device memory that the session holds, graphs apart.
    pub fn device_bytes(&self) -> usize {
        self.memory.device_bytes()
    }

    /// Programs captured so far that are still kept.
    pub fn shapes(&self) -> usize {
        self.shapes.len()
    }

    /// Kernels that a run at the present dimensions launches.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn launches(&mut self) -> Result<usize, SessionError> {
        let shape = self.shape()?;
        let is_launch = |command: &&Command| matches!(command, Command::Launch(_));
        Ok(self.shapes[shape].commands.iter().filter(is_launch).count())
    }

    /// Gives a symbolic dimension its value for the runs to come; it starts at its largest.
    ///
    /// # Errors
    /// As [`crate::Session::set_dimension`].
    pub fn set_dimension(&mut self, name: &str, value: u32) -> Result<(), SessionError> {
        let index = self.model.symbol_for(name, value)?;
        if self.dims[index] == value {
            return Ok(());
        }
        let mut dims = self.dims.clone();
        dims[index] = value;
        let tables = self.tables();
        evaluate(&tables, dims.len() - tables.dim_count(), &mut dims)?;
        check_steps(&tables, &dims)?;
        self.dims = dims;
        Ok(())
    }

    /// The present value of symbol number `index`.
    pub fn dimension(&self, index: usize) -> Option<u32> {
        self.symbols().get(index).copied()
    }

    /// Sets every state tensor to its initial value, before the next run.
    pub fn reset_state(&mut self) {
        self.resets = true;
    }

    /// Type, shape and quantization of an input.
    pub fn input_slot(&self, index: usize) -> Result<Slot, SessionError> {
        self.port_slot(&self.inputs, index)
    }

    /// Type, shape and quantization of an output.
    pub fn output_slot(&self, index: usize) -> Result<Slot, SessionError> {
        self.port_slot(&self.outputs, index)
    }

    fn port_slot(&self, ports: &[Port], index: usize) -> Result<Slot, SessionError> {
        let port = ports.get(index).ok_or(SessionError::Unknown)?;
        self.slot(port.tensor as usize).ok_or(SessionError::Unknown)
    }

    /// Where a port's present bytes are in the staging memory.
    fn staged(&self, ports: &[Port], index: usize) -> Result<Range<usize>, SessionError> {
        let bytes = self.port_slot(ports, index)?.bytes();
        let port = ports.get(index).filter(|port| bytes <= port.bytes);
        let port = port.ok_or(SessionError::Unknown)?;
        Ok(port.offset..port.offset + bytes)
    }

    /// Type, shape and quantization of a tensor of the model.
    pub(crate) fn slot(&self, tensor: usize) -> Option<Slot> {
        self.tables().tensors.slot(u32::try_from(tensor).ok()?, &self.dims)
    }

    /// An input's bytes on the host, to fill in place before each run.
    ///
    /// # Errors
    /// When there is no such input, or an earlier run failed on the device.
    pub fn input_bytes_mut(&mut self, index: usize) -> Result<&mut [u8], SessionError> {
        let range = self.staged(&self.inputs, index)?;
        self.settle()?;
        Ok(&mut self.memory.staging.bytes_mut()[range])
    }

    /// Copies bytes in, which must be the input's elements in its own type.
    ///
    /// # Errors
    /// When there is no such input, or its length is another.
    pub fn set_input_bytes(&mut self, index: usize, bytes: &[u8]) -> Result<(), SessionError> {
        let size = self.input_slot(index)?.dtype.size();
        let staged = self.input_bytes_mut(index)?;
        if staged.len() != bytes.len() {
            return Err(SessionError::InputLength {
                input: index as u32,
                expected: staged.len() / size,
                given: bytes.len() / size,
            });
        }
        staged.copy_from_slice(bytes);
        Ok(())
    }

    /// Copies real numbers in: as they are for an f32 input, quantized for an i8 or i16 input that has a scale, as
    /// [`crate::Session::set_input_f32`] does.
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
        let bytes: Vec<u8> = match slot.dtype {
            DType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            DType::I8 if slot.scale > 0.0 => {
                quantized::<i8>(&slot, values).iter().map(|q| *q as u8).collect()
            }
            DType::I16 if slot.scale > 0.0 => {
                quantized::<i16>(&slot, values).iter().flat_map(|q| q.to_le_bytes()).collect()
            }
            expected => return Err(SessionError::InputType { input: index as u32, expected }),
        };
        self.set_input_bytes(index, &bytes)
    }

    /// What the input was last given.
    ///
    /// # Errors
    /// When there is no such input.
    pub fn input_bytes(&self, index: usize) -> Result<&[u8], SessionError> {
        self.settled(self.staged(&self.inputs, index)?)
    }

    /// Bytes of the staging memory, unless the device may be at work on them.
    fn settled(&self, range: Range<usize>) -> Result<&[u8], SessionError> {
        if self.in_flight {
            let call = "a run that was not waited for";
            return Err(SessionError::Device(DeviceError::Failed { call, code: 0 }));
        }
        Ok(&self.memory.staging.bytes()[range])
    }

    /// Runs every step once and waits for it: inputs go to the device, the graph is replayed, outputs come back. At
    /// dimensions that ran before, it allocates nothing.
    ///
    /// # Errors
    /// [`StepErrorKind::IndexOutOfRange`] of a step for what depends on the data, [`SessionError::Device`] when
    /// the device fails.
    pub fn run(&mut self) -> Result<(), SessionError> {
        self.start()?.finish()
    }

    /// Begins a run without waiting for it: other sessions' runs may go on beside it.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn start(&mut self) -> Result<Running<'_, 'm>, SessionError> {
        self.settle()?;
        let shape = self.shape()?;
        self.in_flight = true;
        self.reset_if_asked()?;
        let (driver, stream) = (&self.driver, self.stream.handle);
        match &self.shapes[shape].graph {
            Some(graph) => {
                driver.replay(stream, graph.handle).map_err(SessionError::Device)?;
            }
            None => {
                for command in &self.shapes[shape].commands {
                    driver.enqueue(stream, command).map_err(SessionError::Device)?;
                }
            }
        }
        Ok(Running { session: self, shape, done: false })
    }

    /// Waits for a run that failed half-way, or whose [`Running`] was forgotten.
    fn settle(&mut self) -> Result<(), SessionError> {
        if self.in_flight {
            let waited = self.driver.synchronize(self.stream.handle);
            waited.map_err(SessionError::Device)?;
            self.in_flight = false;
        }
        Ok(())
    }

    fn finish(&mut self, shape: usize) -> Result<(), SessionError> {
        self.settle()?;
        if !self.shapes[shape].checks {
            return Ok(());
        }
        let status =
            self.memory.staging.bytes().first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        match status.checked_sub(1) {
            None => Ok(()),
            Some(step) => Err(SessionError::Step { step, kind: StepErrorKind::IndexOutOfRange }),
        }
    }

    /// Sets the states to their initial values if they are to be before the next run.
    fn reset_if_asked(&mut self) -> Result<(), SessionError> {
        self.in_flight |= self.resets;
        self.enqueue_resets()?;
        self.resets = false;
        Ok(())
    }

    /// The same, of a session that will do it again.
    fn enqueue_resets(&self) -> Result<(), SessionError> {
        if !self.resets {
            return Ok(());
        }
        let (bases, tables) = (self.memory.bases(), self.tables());
        let state_bytes = self.model.header().state_bytes as usize;
        let mut commands = vec![Command::Clear { address: bases.state, bytes: state_bytes }];
        for state in self.model.states().filter(|state| state.has_initial != 0) {
            let Some(slot) = tables.tensors.slot(state.tensor, &self.dims) else { continue };
            // `Model::open` checked that the initial value lies inside the constants.
            commands.push(Command::Copy {
                to: bases.address(&slot.place),
                from: bases.constants + state.offset,
                bytes: slot.bytes(),
            });
        }
        for command in commands.iter().filter(|_| state_bytes > 0) {
            let enqueued = self.driver.enqueue(self.stream.handle, command);
            enqueued.map_err(SessionError::Device)?;
        }
        Ok(())
    }

    /// Address of a range of the states.
    fn state_address(&self, range: &Range<usize>) -> Result<u64, SessionError> {
        let is_inside =
            range.start <= range.end && range.end as u64 <= self.model.header().state_bytes;
        match is_inside {
            true => Ok(self.memory.bases().state + range.start as u64),
            false => Err(SessionError::Unknown),
        }
    }

    pub(crate) fn read_state(
        &self,
        range: Range<usize>,
        take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), SessionError> {
        let address = self.state_address(&range)?;
        self.enqueue_resets()?;
        self.driver.synchronize(self.stream.handle).map_err(SessionError::Device)?;
        let mut memory = vec![0; range.len().min(STATE_PIECE_BYTES)];
        for start in (0..range.len()).step_by(STATE_PIECE_BYTES) {
            let piece = &mut memory[..STATE_PIECE_BYTES.min(range.len() - start)];
            self.driver.read(address + start as u64, piece).map_err(SessionError::Device)?;
            if take(piece).is_break() {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn write_state(
        &mut self,
        range: Range<usize>,
        fill: &mut dyn FnMut(&mut [u8]) -> ControlFlow<()>,
    ) -> Result<(), SessionError> {
        let address = self.state_address(&range)?;
        self.reset_if_asked()?;
        self.settle()?;
        let mut memory = vec![0; range.len().min(STATE_PIECE_BYTES)];
        for start in (0..range.len()).step_by(STATE_PIECE_BYTES) {
            let piece = &mut memory[..STATE_PIECE_BYTES.min(range.len() - start)];
            if fill(piece).is_break() {
                break;
            }
            self.driver.write(address + start as u64, piece).map_err(SessionError::Device)?;
        }
        Ok(())
    }

    pub(crate) fn copy_state(&mut self, from: Range<usize>, to: usize) -> Result<(), SessionError> {
        let bytes = from.len();
        let end = to.checked_add(bytes).ok_or(SessionError::Unknown)?;
        let command = Command::Copy {
            from: self.state_address(&from)?,
            to: self.state_address(&(to..end))?,
            bytes,
        };
        if bytes == 0 || from.start == to {
            return Ok(());
        }
        self.reset_if_asked()?;
        self.in_flight = true;
        self.driver.enqueue(self.stream.handle, &command).map_err(SessionError::Device)
    }

    /// An output's bytes after a run.
    ///
    /// # Errors
    /// When there is no such output.
    pub fn output_bytes(&self, index: usize) -> Result<&[u8], SessionError> {
        self.settled(self.staged(&self.outputs, index)?)
    }

    /// An output's elements after a run.
    ///
    /// # Errors
    /// When there is no such output, or its elements have another size.
    pub fn output<T: Element>(&self, index: usize) -> Result<&[T], SessionError> {
        if size_of::<T>() != self.output_slot(index)?.dtype.size() {
            return Err(SessionError::Unknown);
        }
        cast(self.output_bytes(index)?).ok_or(SessionError::Unknown)
    }

    /// Whether an input stays on the device: runs don't upload it, and whoever fills it does so before each run
    /// (the memory of an input may be reused once its last reader has run), at [`Session::input_address`] or with
    /// [`Session::copy_input`].
    ///
    /// # Errors
    /// When there is no such input.
    pub fn keep_input_on_device(&mut self, index: usize, keep: bool) -> Result<(), SessionError> {
        self.inputs.get_mut(index).ok_or(SessionError::Unknown)?.resident = keep;
        self.shapes.clear();
        Ok(())
    }

    /// Whether an output stays on the device: runs don't download it, and it is there until the next run.
    ///
    /// # Errors
    /// When there is no such output.
    pub fn keep_output_on_device(&mut self, index: usize, keep: bool) -> Result<(), SessionError> {
        self.outputs.get_mut(index).ok_or(SessionError::Unknown)?.resident = keep;
        self.shapes.clear();
        Ok(())
    }

    /// Address of an input on the device.
    ///
    /// # Errors
    /// When there is no such input.
    pub fn input_address(&self, index: usize) -> Result<u64, SessionError> {
        Ok(self.memory.bases().address(&self.input_slot(index)?.place))
    }

    /// Address of an output on the device.
    ///
    /// # Errors
    /// When there is no such output.
    pub fn output_address(&self, index: usize) -> Result<u64, SessionError> {
        Ok(self.memory.bases().address(&self.output_slot(index)?.place))
    }

    /// Copies an output of a session on the same device to an input, which stays there.
    ///
    /// # Errors
    /// When there are no such input and output, their lengths differ, or the device fails.
    pub fn copy_input(
        &mut self,
        input: usize,
        from: &Session<'_>,
        output: usize,
    ) -> Result<(), SessionError> {
        let (to, x) = (self.input_slot(input)?, from.output_slot(output)?);
        if to.bytes() != x.bytes() || !Arc::ptr_eq(&self.driver, &from.driver) {
            return Err(SessionError::InputLength {
                input: input as u32,
                expected: to.elements(),
                given: x.elements(),
            });
        }
        let command = Command::Copy {
            to: self.input_address(input)?,
            from: from.output_address(output)?,
            bytes: to.bytes(),
        };
        let stream = self.stream.handle;
        let copied = self.driver.enqueue(stream, &command);
        copied.and_then(|()| self.driver.synchronize(stream)).map_err(SessionError::Device)
    }

    /// What a run at the present dimensions does.
    #[cfg(test)]
    pub(crate) fn commands_for_test(&mut self) -> &[Command] {
        let shape = self.shape().expect("it ran");
        &self.shapes[shape].commands
    }

    /// The program at the present dimensions, built if it isn't there.
    fn shape(&mut self) -> Result<usize, SessionError> {
        self.clock += 1;
        let found = self.shapes.iter().position(|shape| shape.symbols == self.symbols());
        let index = match found {
            Some(index) => index,
            None => self.build().map_err(|error| match error {
                Error::Session(error) => error,
                Error::Device(error) => SessionError::Device(error),
                Error::Compile { file, .. } => SessionError::Device(DeviceError::Kernels(file)),
                // The largest shapes have all operators.
                _ => SessionError::Device(DeviceError::Kernels("")),
            })?,
        };
        self.shapes[index].used = self.clock;
        Ok(index)
    }

    /// Lowers the program at the present dimensions and captures it; the index of the shape.
    fn build(&mut self) -> Result<usize, Error> {
        let (mut commands, checks) = self.commands()?;
        let upload = |session: &Session<'m>, ports: &[Port], index: usize| {
            let slot = session.port_slot(ports, index)?;
            let address = session.memory.bases().address(&slot.place);
            let staged = session.memory.staging.address() + ports[index].offset as u64;
            Ok::<_, SessionError>((address, staged, slot.bytes()))
        };
        let bases = self.memory.bases();
        let mut before = Vec::new();
        for index in (0..self.inputs.len()).filter(|index| !self.inputs[*index].resident) {
            let (to, from, bytes) = upload(self, &self.inputs, index)?;
            before.push(Command::Upload { to, from, bytes });
        }
        if checks {
            before.push(Command::Clear { address: bases.status, bytes: STATUS_BYTES });
            let to = self.memory.staging.address();
            commands.push(Command::Download { to, from: bases.status, bytes: STATUS_BYTES });
        }
        for index in (0..self.outputs.len()).filter(|index| !self.outputs[*index].resident) {
            let (from, to, bytes) = upload(self, &self.outputs, index)?;
            commands.push(Command::Download { to, from, bytes });
        }
        before.append(&mut commands);
        before.retain(|command| {
            !matches!(
                command,
                Command::Upload { bytes: 0, .. } | Command::Download { bytes: 0, .. }
            )
        });
        let commands = before;
        let graph = self.options.graphs.then(|| self.capture(&commands)).transpose()?;
        if self.shapes.len() >= self.options.shapes {
            let oldest = self.shapes.iter().enumerate().min_by_key(|(_, shape)| shape.used);
            if let Some((oldest, _)) = oldest {
                self.shapes.swap_remove(oldest);
            }
        }
        let symbols = self.symbols().to_vec();
        self.shapes.push(Shape { symbols, commands, graph, checks, used: self.clock });
        Ok(self.shapes.len() - 1)
    }

    fn capture(&self, commands: &[Command]) -> Result<Graph, DeviceError> {
        let (driver, stream) = (&self.driver, self.stream.handle);
        driver.begin_capture(stream)?;
        let recorded = commands.iter().try_for_each(|command| driver.enqueue(stream, command));
        // A capture that was begun has to end, whatever happened in it.
        let graph = driver.end_capture(stream).map(|handle| Graph::new(driver, handle));
        recorded.and(graph)
    }

    /// The launches of all steps, and whether kernels may report data out of range.
    fn commands(&self) -> Result<(Vec<Command>, bool), Error> {
        let (tables, bases) = (self.tables(), self.memory.bases());
        let (mut commands, mut checks) = (Vec::new(), false);
        for index in 0..tables.step_count() {
            let missing =
                |what| Error::Missing(vec![missing_step(&self.model, &tables, index, what)]);
            let invalid = |kind| SessionError::Step { step: index as u32, kind };
            let Lowered { calls, checks: checked, scratch_bytes } =
                match lower_step(&tables, &self.dims, index, bases, self.driver.properties())? {
                    None => return Err(missing(None)),
                    Some(Ok(lowered)) => lowered,
                    Some(Err(Refusal::Lacks(what))) => return Err(missing(Some(what))),
                    Some(Err(Refusal::Invalid(kind))) => return Err(invalid(kind).into()),
                };
            if scratch_bytes > self.memory.scratch_bytes() {
                return Err(invalid(StepErrorKind::TooLarge).into());
            }
            checks |= checked;
            for Call { kernel, grid, arguments } in calls {
                let function = self.driver.function(kernel)?;
                commands.push(Command::Launch(Launch { kernel, function, grid, arguments }));
            }
        }
        Ok((commands, checks))
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Memory is given back after this; a device that is lost no longer uses it.
        let _ = self.settle();
    }
}

/// States go to the host and back in pieces of so many bytes at most.
const STATE_PIECE_BYTES: usize = 1 << 20;

/// Parts of the staging memory begin at multiples of it: what the widest copies want.
const STAGING_ALIGN: usize = 64;

fn quantized<T: Affinely + Default>(slot: &Slot, values: &[f32]) -> Vec<T> {
    let by = Affine { scale: slot.scale, zero_point: slot.zero_point };
    values.iter().map(|value| by.quantize(*value)).collect()
}

crate::backend::forward_prepared!();
crate::saved::forward_states!();

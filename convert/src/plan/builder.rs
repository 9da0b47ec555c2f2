//! Collects tensors, constants and steps while nodes are lowered.

use std::collections::{HashMap, HashSet};

use whit::DType;
use whit::format::{Field, Layout, Op as StepOp, SECTION_ALIGN, Storage};

use crate::dim::Dim;
use crate::graph::{Graph, Node, Quant, State, Value, ValueId};
use crate::plan::alias::Aliases;
use crate::plan::dims::DimTable;
use crate::plan::{Plan, PlanError, PlanOptions, PlannedState, PlannedStep, PlannedTensor};

/// Bytes at either end that tell most constants apart.
const SAMPLE_BYTES: usize = 64;

/// States lie at multiples of this, as activations do.
const STATE_ALIGN: usize = 16;

/// A plan under construction.
pub struct Builder<'g> {
    /// The graph being planned.
    pub graph: &'g Graph,
    /// Choices.
    pub options: &'g PlanOptions,
    plan: Plan,
    dims: DimTable,
    aliases: Aliases,
    /// Offsets of stored constants by length and bytes at either end, so that equal ones are found
    /// and stored once.
    stored: HashMap<(usize, Vec<u8>), Vec<usize>>,
    /// Values that a node or the caller reads.
    read: HashSet<ValueId>,
}

impl<'g> Builder<'g> {
    /// Starts with the graph's inputs.
    pub(crate) fn new(
        graph: &'g Graph,
        options: &'g PlanOptions,
    ) -> Result<Builder<'g>, PlanError> {
        let mut builder = Builder {
            graph,
            options,
            plan: Plan { name: graph.name.clone(), ..Plan::default() },
            dims: DimTable::new(&graph.symbols),
            aliases: Aliases::default(),
            stored: HashMap::new(),
            read: graph
                .nodes
                .iter()
                .flat_map(|node| node.inputs.iter().flatten())
                .copied()
                .chain(graph.results())
                .collect(),
        };
        for symbol in &graph.symbols {
            builder.plan.symbols.push((symbol.name.clone(), symbol.min as u32, symbol.max as u32));
        }
        for input in &graph.inputs {
            let tensor = builder.tensor(*input)?;
            builder.plan.inputs.push(tensor);
        }
        for state in &graph.states {
            builder.state(state)?;
        }
        Ok(builder)
    }

    /// Gives a state its place and its initial value.
    fn state(&mut self, state: &State) -> Result<(), PlanError> {
        let value = self.graph.value(state.read);
        if value.const_shape().is_none() {
            return Err(PlanError::SymbolicState {
                name: state.name.clone(),
                shape: self.graph.shape_text(&value.shape),
            });
        }
        let mut tensor =
            self.describe(&state.name, value.dtype, &value.shape, value.quant.as_ref())?;
        tensor.storage = Storage::State;
        tensor.offset = self.plan.state_bytes.next_multiple_of(STATE_ALIGN);
        self.plan.state_bytes = tensor.offset + tensor.bytes;
        let initial = match &state.initial {
            Some(initial) if initial.data.iter().any(|byte| *byte != 0) => {
                let name = format!("{}/initial", state.name);
                let (dtype, data) = (initial.dtype, initial.data.to_vec());
                let at = self.constant(&name, dtype, Layout::Dense, &initial.shape, data)?;
                Some(self.plan.tensors[at].offset)
            }
            _ => None,
        };
        let tensor = self.add_tensor(tensor);
        self.plan.tensor_of_value.insert(state.read, tensor);
        self.plan.states.push(PlannedState { tensor, initial });
        Ok(())
    }

    /// The finished plan, its steps still in the graph's order and its arena still without offsets.
    pub(crate) fn finish(mut self) -> Result<(Plan, Aliases), PlanError> {
        for output in &self.graph.outputs {
            let tensor = self.tensor(*output)?;
            self.plan.outputs.push(tensor);
        }
        for state in &self.graph.states {
            self.tensor(state.next)?;
        }
        self.plan.dims = self.dims.into_records();
        Ok((self.plan, self.aliases))
    }

    /// The value with this id.
    pub fn value(&self, id: ValueId) -> &'g Value {
        self.graph.value(id)
    }

    /// Input number `index` of a node, which must be there.
    pub fn input(&self, node: &Node, index: usize) -> Result<ValueId, PlanError> {
        let missing = || unsupported(node, format!("input {index} is missing"));
        node.inputs.get(index).copied().flatten().ok_or_else(missing)
    }

    /// The dimension reference for an expression.
    pub fn dim(&mut self, dim: &Dim) -> Result<i32, PlanError> {
        self.dims.reference(dim)
    }

    /// The largest value that a dimension can take.
    pub fn largest(&mut self, dim: &Dim) -> Result<u64, PlanError> {
        let reference = self.dims.reference(dim)?;
        self.dims
            .largest(reference, &self.graph.symbols)
            .ok_or_else(|| PlanError::TooLarge(dim.display(&self.graph.symbols)))
    }

    /// Elements of a shape at the largest dimensions.
    pub fn largest_elements(&mut self, shape: &[Dim]) -> Result<u64, PlanError> {
        let mut elements = 1u64;
        for dim in shape {
            let size = self.largest(dim)?;
            elements = elements
                .checked_mul(size)
                .ok_or_else(|| PlanError::TooLarge(self.graph.shape_text(shape)))?;
        }
        Ok(elements)
    }

    fn describe(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[Dim],
        quant: Option<&Quant>,
    ) -> Result<PlannedTensor, PlanError> {
        let dims = shape.iter().map(|dim| self.dim(dim)).collect::<Result<Vec<_>, _>>()?;
        let bytes = self.largest_elements(shape)?.checked_mul(dtype.size() as u64);
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let per_tensor = quant.filter(|quant| quant.axis.is_none());
        Ok(PlannedTensor {
            name: name.to_owned(),
            dtype,
            layout: Layout::Dense,
            storage: Storage::Arena,
            dims,
            offset: 0,
            bytes: bytes.ok_or_else(|| PlanError::TooLarge(name.to_owned()))?,
            scale: per_tensor.map_or(0.0, |quant| quant.scale[0]),
            zero_point: per_tensor.map_or(0, |quant| quant.zero_point[0]),
            group_size: 0,
        })
    }

    /// The tensor of a value: in the arena, or a dense constant.
    pub fn tensor(&mut self, id: ValueId) -> Result<usize, PlanError> {
        if let Some(tensor) = self.plan.tensor_of_value.get(&id) {
            return Ok(*tensor);
        }
        let value = self.graph.value(id);
        let tensor = match &value.constant {
            Some(constant) => {
                let data = constant.data.to_vec();
                let tensor =
                    self.constant(&value.name, value.dtype, Layout::Dense, &constant.shape, data)?;
                if let Some(quant) = value.quant.as_ref().filter(|quant| quant.axis.is_none()) {
                    self.plan.tensors[tensor].scale = quant.scale[0];
                    self.plan.tensors[tensor].zero_point = quant.zero_point[0];
                }
                tensor
            }
            None => {
                let tensor =
                    self.describe(&value.name, value.dtype, &value.shape, value.quant.as_ref())?;
                self.add_tensor(tensor)
            }
        };
        self.plan.tensor_of_value.insert(id, tensor);
        Ok(tensor)
    }

    /// The tensors of all inputs of a node.
    pub fn inputs(&mut self, node: &Node) -> Result<Vec<Option<usize>>, PlanError> {
        node.inputs.iter().map(|id| id.map(|id| self.tensor(id)).transpose()).collect()
    }

    fn add_tensor(&mut self, tensor: PlannedTensor) -> usize {
        self.plan.tensors.push(tensor);
        self.aliases.add();
        self.plan.tensors.len() - 1
    }

    /// A tensor that no value stands for.
    pub fn temporary(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[Dim],
        quant: Option<&Quant>,
    ) -> Result<usize, PlanError> {
        let tensor = self.describe(name, dtype, shape, quant)?;
        Ok(self.add_tensor(tensor))
    }

    /// The same memory under another shape.
    pub fn view(&mut self, tensor: usize, shape: &[Dim]) -> Result<usize, PlanError> {
        let dims = shape.iter().map(|dim| self.dim(dim)).collect::<Result<Vec<_>, _>>()?;
        if dims == self.plan.tensors[tensor].dims {
            return Ok(tensor);
        }
        let view = PlannedTensor { dims, ..self.plan.tensors[tensor].clone() };
        let index = self.add_tensor(view);
        self.aliases.join(index, tensor, 0);
        self.plan.view_of.insert(index, tensor);
        Ok(index)
    }

    /// Makes the tensor of `value` a view of `tensor`, `offset` bytes into it.
    pub fn set_view(
        &mut self,
        value: ValueId,
        tensor: usize,
        offset: usize,
    ) -> Result<(), PlanError> {
        let of = self.graph.value(value);
        let mut view = self.describe(&of.name, of.dtype, &of.shape, of.quant.as_ref())?;
        view.storage = self.plan.tensors[tensor].storage;
        view.offset = self.plan.tensors[tensor].offset + offset;
        let index = self.add_tensor(view);
        self.aliases.join(index, tensor, offset);
        self.plan.made_of.insert(index, vec![tensor]);
        self.plan.tensor_of_value.insert(value, index);
        Ok(())
    }

    /// Whether `part` may lie inside `whole`: it is made by a step, is no result of the model, and
    /// nothing ties its memory yet.
    pub fn can_place(&self, part: usize, whole: usize) -> bool {
        let (root, offset) = self.aliases.root(part);
        self.plan.tensors[part].storage == Storage::Arena
            && offset == 0
            && root != self.aliases.root(whole).0
            && self.plan.tensors[root].bytes == self.plan.tensors[part].bytes
            && !self.plan.inputs.iter().any(|input| self.aliases.root(*input).0 == root)
            && !self.graph.results().any(|output| {
                self.plan
                    .tensor_of_value
                    .get(&output)
                    .is_some_and(|t| self.aliases.root(*t).0 == root)
            })
    }

    /// Whether two tensors belong to one group.
    pub fn shares_memory(&self, a: usize, b: usize) -> bool {
        self.aliases.root(a).0 == self.aliases.root(b).0
    }

    /// Makes the group of `part` lie inside `whole`; [`Builder::can_place`] has said yes.
    pub fn place_inside(&mut self, part: usize, whole: usize, offset: usize) {
        let root = self.aliases.root(part).0;
        self.aliases.join(root, whole, offset);
        self.plan.made_of.entry(whole).or_default().push(part);
    }

    /// True when the tensor is a constant.
    pub fn is_constant(&self, tensor: usize) -> bool {
        self.plan.tensors[tensor].storage == Storage::Constant
    }

    /// Stores a constant, once however often it occurs.
    pub fn constant(
        &mut self,
        name: &str,
        dtype: DType,
        layout: Layout,
        shape: &[usize],
        data: Vec<u8>,
    ) -> Result<usize, PlanError> {
        let bytes = data.len();
        let ends = SAMPLE_BYTES.min(bytes);
        let sample = [&data[..ends], &data[bytes - ends..]].concat();
        let alike = self.stored.entry((bytes, sample)).or_default();
        let constants = &mut self.plan.constants;
        let equal = alike.iter().find(|offset| constants[**offset..**offset + bytes] == data[..]);
        let offset = match equal {
            Some(offset) => *offset,
            None => {
                let offset = constants.len().next_multiple_of(SECTION_ALIGN);
                constants.resize(offset, 0);
                constants.extend_from_slice(&data);
                alike.push(offset);
                offset
            }
        };
        let dims = shape
            .iter()
            .map(|dim| i32::try_from(*dim).map_err(|_| PlanError::TooLarge(name.to_owned())))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(self.add_tensor(PlannedTensor {
            name: name.to_owned(),
            dtype,
            layout,
            storage: Storage::Constant,
            dims,
            offset,
            bytes,
            scale: 0.0,
            zero_point: 0,
            group_size: 0,
        }))
    }

    /// Says how many inputs of grouped weights share a scale.
    pub fn set_group_size(&mut self, tensor: usize, group_size: u32) {
        self.plan.tensors[tensor].group_size = group_size;
    }

    /// A constant vector of f32.
    pub fn constant_f32(&mut self, name: &str, values: &[f32]) -> Result<usize, PlanError> {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, DType::F32, Layout::Dense, &[values.len()], data)
    }

    /// A constant vector of i32.
    pub fn constant_i32(&mut self, name: &str, values: &[i32]) -> Result<usize, PlanError> {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, DType::I32, Layout::Dense, &[values.len()], data)
    }

    /// A constant of i8 in some layout.
    pub fn constant_i8(
        &mut self,
        name: &str,
        layout: Layout,
        shape: &[usize],
        values: &[i8],
    ) -> Result<usize, PlanError> {
        let data = values.iter().map(|v| *v as u8).collect();
        self.constant(name, DType::I8, layout, shape, data)
    }

    /// Adds a step that makes the node's output.
    pub fn step<A: Field>(
        &mut self,
        node: &Node,
        op: StepOp,
        variant: Option<DType>,
        attributes: A,
        inputs: Vec<Option<usize>>,
        macs: u64,
    ) -> Result<(), PlanError> {
        let output = self.tensor(node.outputs[0])?;
        self.step_to(&node.name, op, variant, attributes, inputs, output, macs, &[]);
        Ok(())
    }

    /// Adds a step that makes every output of the node; those that nobody reads are left out.
    pub fn step_with_outputs<A: Field>(
        &mut self,
        node: &Node,
        op: StepOp,
        variant: Option<DType>,
        attributes: A,
        inputs: Vec<Option<usize>>,
        macs: u64,
    ) -> Result<(), PlanError> {
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for id in &node.outputs {
            outputs.push(if self.read.contains(id) { Some(self.tensor(*id)?) } else { None });
        }
        self.push_step(&node.name, op, variant, attributes, inputs, outputs, macs, &[]);
        Ok(())
    }

    /// Adds an elementwise step, whose output may take over the memory of an input in `in_place`.
    pub fn elementwise<A: Field>(
        &mut self,
        node: &Node,
        op: StepOp,
        variant: DType,
        attributes: A,
        inputs: Vec<Option<usize>>,
        in_place: &[usize],
    ) -> Result<(), PlanError> {
        let output = self.tensor(node.outputs[0])?;
        self.step_to(&node.name, op, Some(variant), attributes, inputs, output, 0, in_place);
        Ok(())
    }

    /// Adds a step to any tensor.
    pub fn step_to<A: Field>(
        &mut self,
        name: &str,
        op: StepOp,
        variant: Option<DType>,
        attributes: A,
        inputs: Vec<Option<usize>>,
        output: usize,
        macs: u64,
        in_place: &[usize],
    ) {
        let outputs = vec![Some(output)];
        self.push_step(name, op, variant, attributes, inputs, outputs, macs, in_place);
    }

    fn push_step<A: Field>(
        &mut self,
        name: &str,
        op: StepOp,
        variant: Option<DType>,
        attributes: A,
        inputs: Vec<Option<usize>>,
        outputs: Vec<Option<usize>>,
        macs: u64,
        in_place: &[usize],
    ) {
        let mut bytes = vec![0; A::SIZE];
        attributes.write(&mut bytes);
        self.plan.steps.push(PlannedStep {
            name: name.to_owned(),
            op,
            variant,
            attributes: bytes,
            inputs,
            outputs,
            macs,
            in_place: in_place.to_vec(),
        });
    }
}

/// An error about a node.
pub(crate) fn unsupported(node: &Node, why: impl Into<String>) -> PlanError {
    let op = format!("{:?}", node.op);
    let op = op.split(['(', ' ', '{']).next().unwrap_or("node").to_owned();
    PlanError::Unsupported { node: node.name.clone(), op, why: why.into() }
}

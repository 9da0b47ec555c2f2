//! The graph under construction: values, nodes, and what is known of integer tensors' elements.
//!
//! Operators are emitted through [`Builder::emit`], which is where folding happens: an operator
//! over constants that is only data movement becomes a constant, and one over small tensors with
//! known (possibly symbolic) elements becomes another such tensor, without a node. That way shape
//! arithmetic vanishes, and every importer below gets its shapes as [`Dim`]s.

use std::collections::HashMap;
use std::sync::Arc;

use whit::DType;

use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::shapes::{self, Elem, Known};
use super::{dims, fold};
use crate::dim::Dim;
use crate::graph::{
    BinaryKind, CompareKind, Graph, Node, Op, PoolKind, Quant, ReduceKind, ResizeMode, UnaryKind,
    ValueId,
};
use crate::tensor::Tensor;

/// What an operator's importer returns: one value per output that it makes.
pub(crate) type Outcome = Result<Vec<ValueId>, Failure>;

/// A node of the source model, as far as what it becomes needs it.
pub(crate) trait Named {
    /// Its name in the model, or one made for it.
    fn name(&self) -> &str;
}

impl Named for String {
    fn name(&self) -> &str {
        self
    }
}

/// More axes than any operator here has a use for.
pub(crate) const MAX_RANK: usize = 8;

/// Keeps every byte count, in any type, far from overflow.
pub(crate) const MAX_ELEMENTS: usize = 1 << 48;

/// Elements tracked in all: bounds the memory that a hostile model can make the importer use.
const MAX_TRACKED_ELEMS: usize = 1 << 20;

pub(crate) struct Builder {
    pub graph: Graph,
    /// Elements of values that have neither a producer nor (yet) a constant.
    known: HashMap<ValueId, Known>,
    producers: HashMap<ValueId, usize>,
    /// Numbers of the source format's types, for values that another type holds here.
    pub source_types: HashMap<ValueId, i32>,
    tracked_elems: usize,
    /// What sequences hold; their own values have no tensor behind them.
    sequences: HashMap<ValueId, Vec<ValueId>>,
    /// Bytes that folding and generated constants may still take.
    budget_bytes: usize,
    /// See [`ImportOptions::pad_boxes`](crate::import::ImportOptions).
    pub pads_boxes: bool,
}

impl Builder {
    /// `file_bytes`: generated constants are limited to a small multiple of it.
    pub(crate) fn new(graph: Graph, file_bytes: usize) -> Builder {
        Builder {
            graph,
            known: HashMap::new(),
            producers: HashMap::new(),
            source_types: HashMap::new(),
            tracked_elems: 0,
            sequences: HashMap::new(),
            budget_bytes: file_bytes.saturating_mul(8).saturating_add(64 << 20),
            pads_boxes: false,
        }
    }

    pub(crate) fn dtype(&self, id: ValueId) -> DType {
        self.graph.value(id).dtype
    }

    pub(crate) fn shape(&self, id: ValueId) -> Vec<Dim> {
        self.graph.value(id).shape.clone()
    }

    pub(crate) fn rank(&self, id: ValueId) -> usize {
        self.graph.value(id).shape.len()
    }

    pub(crate) fn text(&self, shape: &[Dim]) -> String {
        self.graph.shape_text(shape)
    }

    /// Takes `bytes` from the budget for generated data.
    pub(crate) fn charge(&mut self, bytes: usize) -> Result<(), Failure> {
        match self.budget_bytes.checked_sub(bytes) {
            Some(rest) => {
                self.budget_bytes = rest;
                Ok(())
            }
            None => Err(unsupported(
                "the constants made while importing outgrow the model many times over",
                "simplify the model first, for example with onnxsim",
            )),
        }
    }

    /// Checks a shape and adds a value.
    pub(crate) fn value(
        &mut self,
        name: String,
        dtype: DType,
        shape: Vec<Dim>,
    ) -> Result<ValueId, Failure> {
        if shape.len() > MAX_RANK {
            return Err(unsupported(
                format!("{} axes; at most {MAX_RANK} are supported", shape.len()),
                "",
            ));
        }
        let mut elements = 1usize;
        for dim in &shape {
            dims::check_size(dim)?;
            let largest = match dim.as_const() {
                Some(size) => size,
                None => dims::bounds(dim, &self.graph.symbols).map_or(1, |(_, max)| max),
            };
            if largest < 0 {
                return Err(invalid(format!("the result would have shape {}", self.text(&shape))));
            }
            // Zeros don't make the others any smaller: partial products must not overflow either.
            let largest = usize::try_from(largest).unwrap_or(usize::MAX).max(1);
            elements = elements
                .checked_mul(largest)
                .filter(|elements| *elements <= MAX_ELEMENTS)
                .ok_or_else(|| {
                invalid(format!("the result would have shape {}", self.text(&shape)))
            })?;
        }
        Ok(self.graph.add_value(name, dtype, shape))
    }

    pub(crate) fn constant(&mut self, name: String, tensor: Tensor) -> ValueId {
        self.graph.add_constant(name, tensor)
    }

    /// A constant of one element, of the given type.
    pub(crate) fn scalar(
        &mut self,
        name: String,
        dtype: DType,
        value: f64,
    ) -> Result<ValueId, Failure> {
        let elem = match dtype.is_float() {
            true => Elem::Real(value),
            false => Elem::Int(Dim::from(value as i64)),
        };
        let tensor = shapes::to_tensor(dtype, Vec::new(), &[elem])
            .ok_or_else(|| invalid(format!("{value} is out of the range of {dtype}")))?;
        Ok(self.constant(name, tensor))
    }

    /// A value whose elements are known, without a node.
    pub(crate) fn virtual_value(
        &mut self,
        name: String,
        dtype: DType,
        known: Known,
    ) -> Result<ValueId, Failure> {
        let shape = known.shape.iter().map(|d| Dim::from(*d)).collect();
        let id = self.value(name, dtype, shape)?;
        self.tracked_elems += known.elems.len();
        if self.tracked_elems > MAX_TRACKED_ELEMS {
            return Err(unsupported(
                "too much shape arithmetic",
                "simplify the model first, for example with onnxsim",
            ));
        }
        self.known.insert(id, known);
        Ok(id)
    }

    /// A value that stands for a sequence of tensors.
    pub(crate) fn add_sequence(
        &mut self,
        name: String,
        elements: Vec<ValueId>,
    ) -> Result<ValueId, Failure> {
        // Each sequence is a copy of its own, so that long chains of insertions grow as a square.
        self.charge(64 + elements.len() * size_of::<ValueId>())?;
        let id = self.graph.add_value(name, DType::U8, Vec::new());
        self.sequences.insert(id, elements);
        Ok(id)
    }

    /// What a sequence holds; `None` for tensors.
    pub(crate) fn sequence(&self, id: ValueId) -> Option<&[ValueId]> {
        self.sequences.get(&id).map(Vec::as_slice)
    }

    /// The elements of a small tensor, when they are known.
    pub(crate) fn known(&self, id: ValueId) -> Option<Known> {
        if let Some(known) = self.known.get(&id) {
            return Some(known.clone());
        }
        shapes::from_tensor(self.graph.constant(id)?)
    }

    /// The elements of an integer tensor of rank 0 or 1, as sizes.
    pub(crate) fn dims(&self, id: ValueId, what: &str) -> Result<Vec<Dim>, Failure> {
        let known = self.known(id).ok_or_else(|| {
            unsupported(
                format!("{what} is computed from data at run time"),
                "if an input decides it, give that at conversion (--input-value); or simplify the model, for example with onnxsim",
            )
        })?;
        if known.shape.len() > 1 {
            return Err(invalid(format!("{what} has {} axes instead of one", known.shape.len())));
        }
        let elems = known.elems.into_iter().map(|elem| match elem {
            Elem::Int(dim) => Ok(dim),
            Elem::Real(_) => Err(invalid(format!("{what} is not a tensor of integers"))),
        });
        elems.collect()
    }

    /// The same, without symbols.
    pub(crate) fn ints(&self, id: ValueId, what: &str) -> Result<Vec<i64>, Failure> {
        let dims = self.dims(id, what)?;
        let ints: Option<Vec<i64>> = dims.iter().map(Dim::as_const).collect();
        ints.ok_or_else(|| {
            unsupported(
                format!("{what} ({}) depends on a dynamic dimension", self.text(&dims)),
                FIX_THE_DIM,
            )
        })
    }

    /// The one integer of a tensor.
    pub(crate) fn int(&self, id: ValueId, what: &str) -> Result<i64, Failure> {
        match self.ints(id, what)?[..] {
            [one] => Ok(one),
            ref other => Err(invalid(format!("{what} has {} elements, not 1", other.len()))),
        }
    }

    /// The tensor of a constant, also of one that stands for known elements.
    pub(crate) fn tensor(&mut self, id: ValueId) -> Option<Arc<Tensor>> {
        if let Some(tensor) = self.graph.constant(id) {
            return Some(tensor.clone());
        }
        self.materialise(id).ok()?;
        self.graph.constant(id).cloned()
    }

    /// The f32 values of a constant, also of a quantized one.
    pub(crate) fn floats(&mut self, id: ValueId) -> Option<Vec<f32>> {
        if let Some(tensor) = self.tensor(id) {
            return Some(tensor.to_f32());
        }
        let source = self.dequantized(id)?;
        let value = self.graph.value(source);
        let (tensor, quant) = (value.constant.as_ref()?, value.quant.as_ref()?);
        if quant.axis.is_some() {
            return None;
        }
        let real = |q: i64| (q - i64::from(quant.zero_point[0])) as f32 * quant.scale[0];
        Some(tensor.to_i64().into_iter().map(real).collect())
    }

    /// The one element of a constant.
    pub(crate) fn scalar_float(&mut self, id: ValueId, what: &str) -> Result<Option<f32>, Failure> {
        match self.floats(id) {
            None => Ok(None),
            Some(values) if values.len() == 1 => Ok(Some(values[0])),
            Some(values) => Err(invalid(format!("{what} has {} elements, not 1", values.len()))),
        }
    }

    /// The same, which must be constant.
    pub(crate) fn float(&mut self, id: ValueId, what: &str) -> Result<f32, Failure> {
        self.scalar_float(id, what)?.ok_or_else(|| {
            unsupported(format!("{what} is only known at run time"), "make it a constant")
        })
    }

    /// The node that makes a value.
    pub(crate) fn producer(&self, id: ValueId) -> Option<&Node> {
        self.producers.get(&id).map(|index| &self.graph.nodes[*index])
    }

    /// The integer constant behind a value that is a dequantized constant.
    pub(crate) fn dequantized(&self, id: ValueId) -> Option<ValueId> {
        let node = self.producer(id)?;
        let source = node.inputs.first().copied().flatten()?;
        (node.op == Op::Dequantize && self.graph.constant(source).is_some()).then_some(source)
    }

    /// True for what can be a weight: a constant or a dequantized constant.
    pub(crate) fn is_weight(&mut self, id: ValueId) -> bool {
        self.tensor(id).is_some() || self.dequantized(id).is_some()
    }

    /// Turns known elements into a constant, because a node reads them as data.
    fn materialise(&mut self, id: ValueId) -> Result<(), Failure> {
        if self.sequences.contains_key(&id) {
            return Err(unsupported("a sequence of tensors is read at run time", ""));
        }
        let Some(known) = self.known.get(&id) else {
            return Ok(());
        };
        let dtype = self.graph.value(id).dtype;
        match shapes::to_tensor(dtype, known.shape.clone(), &known.elems) {
            Some(tensor) => {
                self.known.remove(&id);
                self.graph.value_mut(id).constant = Some(Arc::new(tensor));
                Ok(())
            }
            None => {
                let dynamic = known.elems.iter().find_map(|e| match e {
                    Elem::Int(dim) if dim.as_const().is_none() => {
                        Some(dim.display(&self.graph.symbols))
                    }
                    _ => None,
                });
                let dynamic = dynamic.unwrap_or_default();
                Err(unsupported(
                    format!("the size {dynamic} is read as data at run time"),
                    FIX_THE_DIM,
                ))
            }
        }
    }

    /// What an operator that only moves elements keeps of its operand's quantization.
    fn carried_quant(&self, op: &Op, inputs: &[Option<ValueId>]) -> Option<Quant> {
        let first = self.graph.value(inputs.first().copied().flatten()?);
        let quant = first.quant.as_ref()?;
        match op {
            Op::Transpose { perm } => {
                let axis = match quant.axis {
                    Some(axis) => Some(perm.iter().position(|p| *p == axis)?),
                    None => None,
                };
                Some(Quant { axis, ..quant.clone() })
            }
            _ if quant.axis.is_some() => None,
            Op::Concat { .. } => {
                let same = |id: &ValueId| self.graph.value(*id).quant.as_ref() == Some(quant);
                inputs.iter().flatten().all(same).then(|| quant.clone())
            }
            Op::Pool(pool) if pool.kind == PoolKind::Max => Some(quant.clone()),
            Op::Resize { mode: ResizeMode::Nearest(_), .. } => Some(quant.clone()),
            Op::Slice { .. } | Op::Reshape | Op::Expand | Op::Gather { .. } | Op::Pad { .. } => {
                Some(quant.clone())
            }
            Op::GatherElements { .. } | Op::GatherNd { .. } | Op::ReverseSequence { .. } => {
                Some(quant.clone())
            }
            _ => None,
        }
    }

    /// Adds an operator, or what it comes to when its operands are known. `part` tells the nodes
    /// apart that one node of the model becomes; it is empty for the main one.
    pub(crate) fn emit(
        &mut self,
        node: &dyn Named,
        part: &str,
        op: Op,
        inputs: &[Option<ValueId>],
        dtype: DType,
        shape: Vec<Dim>,
    ) -> Result<ValueId, Failure> {
        let name = match part {
            "" => node.name().to_owned(),
            _ => format!("{}/{part}", node.name()),
        };
        let quant = self.carried_quant(&op, inputs).filter(|_| !dtype.is_float());
        let id = self.value(name.clone(), dtype, shape)?;

        let operands: Vec<ValueId> = inputs.iter().copied().flatten().collect();
        if operands.len() == inputs.len() && !operands.is_empty() {
            if let Some(tensor) = self.folded(&op, &operands, id) {
                let value = self.graph.value_mut(id);
                value.constant = Some(Arc::new(tensor));
                value.quant = quant;
                return Ok(id);
            }
            if let Some(known) = self.evaluated(&op, &operands, id) {
                self.tracked_elems += known.elems.len();
                if self.tracked_elems <= MAX_TRACKED_ELEMS {
                    self.known.insert(id, known);
                    self.graph.value_mut(id).quant = quant;
                    return Ok(id);
                }
            }
        }
        for operand in &operands {
            self.materialise(*operand)?;
        }
        self.graph.value_mut(id).quant = quant;
        self.producers.insert(id, self.graph.nodes.len());
        self.graph.nodes.push(Node { name, op, inputs: inputs.to_vec(), outputs: vec![id] });
        Ok(id)
    }

    /// Adds an operator with several results, each with its type and shape.
    pub(crate) fn emit_several(
        &mut self,
        node: &dyn Named,
        part: &str,
        op: Op,
        inputs: &[Option<ValueId>],
        results: &[(DType, Vec<Dim>)],
    ) -> Result<Vec<ValueId>, Failure> {
        let name = match part {
            "" => node.name().to_owned(),
            _ => format!("{}/{part}", node.name()),
        };
        let mut outputs = Vec::with_capacity(results.len());
        for (index, (dtype, shape)) in results.iter().enumerate() {
            outputs.push(self.value(format!("{name}/{index}"), *dtype, shape.clone())?);
        }
        for operand in inputs.iter().copied().flatten() {
            self.materialise(operand)?;
        }
        for id in &outputs {
            self.producers.insert(*id, self.graph.nodes.len());
        }
        let (inputs, made) = (inputs.to_vec(), outputs.clone());
        self.graph.nodes.push(Node { name, op, inputs, outputs: made });
        Ok(outputs)
    }

    /// Adds a node that makes a value of its own from `x`, whatever is known of it.
    pub(crate) fn emit_unfolded(
        &mut self,
        node: &dyn Named,
        op: Op,
        x: ValueId,
    ) -> Result<ValueId, Failure> {
        self.materialise(x)?;
        let id = self.value(node.name().to_owned(), self.dtype(x), self.shape(x))?;
        self.graph.value_mut(id).quant = self.graph.value(x).quant.clone();
        self.producers.insert(id, self.graph.nodes.len());
        self.graph.nodes.push(Node {
            name: node.name().to_owned(),
            op,
            inputs: vec![Some(x)],
            outputs: vec![id],
        });
        Ok(id)
    }

    fn folded(&mut self, op: &Op, operands: &[ValueId], result: ValueId) -> Option<Tensor> {
        let tensors: Option<Vec<Arc<Tensor>>> =
            operands.iter().map(|id| self.graph.constant(*id).cloned()).collect();
        let tensors = tensors?;
        let value = self.graph.value(result);
        let (dtype, shape) = (value.dtype, value.const_shape()?);
        let cost = fold::cost_bytes(op, &tensors, dtype, &shape)?;
        self.charge(cost).ok()?;
        fold::fold(op, &tensors, dtype, &shape)
    }

    fn evaluated(&self, op: &Op, operands: &[ValueId], result: ValueId) -> Option<Known> {
        if !shapes::can_evaluate(op) {
            return None;
        }
        let value = self.graph.value(result);
        let shape = value.const_shape()?;
        let known: Option<Vec<Known>> = operands.iter().map(|id| self.known(*id)).collect();
        shapes::evaluate(op, &known?, value.dtype, shape, &self.graph.symbols)
    }

    // What importers are made of: nodes whose shape follows from their operands.

    /// Two operands of one type, broadcast.
    pub(crate) fn binary(
        &mut self,
        node: &dyn Named,
        part: &str,
        kind: BinaryKind,
        x: ValueId,
        y: ValueId,
    ) -> Result<ValueId, Failure> {
        let shape = self.pair(x, y)?;
        self.emit(node, part, Op::Binary(kind), &[Some(x), Some(y)], self.dtype(x), shape)
    }

    /// An operand and a number of its type.
    pub(crate) fn with_number(
        &mut self,
        node: &dyn Named,
        part: &str,
        kind: BinaryKind,
        x: ValueId,
        number: f64,
    ) -> Result<ValueId, Failure> {
        let name = format!("{}/{}", node.name(), join(part, "number"));
        let number = self.scalar(name, self.dtype(x), number)?;
        self.binary(node, part, kind, x, number)
    }

    /// One operand.
    pub(crate) fn unary(
        &mut self,
        node: &dyn Named,
        part: &str,
        kind: UnaryKind,
        x: ValueId,
    ) -> Result<ValueId, Failure> {
        self.emit(node, part, Op::Unary(kind), &[Some(x)], self.dtype(x), self.shape(x))
    }

    /// Two operands of one type, broadcast, as bools.
    pub(crate) fn compare(
        &mut self,
        node: &dyn Named,
        part: &str,
        kind: CompareKind,
        x: ValueId,
        y: ValueId,
    ) -> Result<ValueId, Failure> {
        let shape = self.pair(x, y)?;
        self.emit(node, part, Op::Compare(kind), &[Some(x), Some(y)], DType::Bool, shape)
    }

    /// What two operands of one type broadcast to.
    fn pair(&self, x: ValueId, y: ValueId) -> Result<Vec<Dim>, Failure> {
        if self.dtype(x) != self.dtype(y) {
            let (x, y) = (self.dtype(x), self.dtype(y));
            return Err(invalid(format!("operands of types {x} and {y}")));
        }
        dims::broadcast(&self.shape(x), &self.shape(y), &self.graph.symbols)
    }

    /// `x` where the condition holds, else `y`, broadcast.
    pub(crate) fn select(
        &mut self,
        node: &dyn Named,
        part: &str,
        [condition, x, y]: [ValueId; 3],
    ) -> Result<ValueId, Failure> {
        let symbols = &self.graph.symbols;
        let shape = dims::broadcast(&self.shape(x), &self.shape(y), symbols)?;
        let shape = dims::broadcast(&self.shape(condition), &shape, symbols)?;
        let inputs = [Some(condition), Some(x), Some(y)];
        self.emit(node, part, Op::Where, &inputs, self.dtype(x), shape)
    }

    /// A cast, or the value itself when it has the type already.
    pub(crate) fn cast(
        &mut self,
        node: &dyn Named,
        part: &str,
        x: ValueId,
        to: DType,
    ) -> Result<ValueId, Failure> {
        match self.dtype(x) == to {
            true => Ok(x),
            false => self.emit(node, part, Op::Cast, &[Some(x)], to, self.shape(x)),
        }
    }

    /// A half-precision operand in f32, in which composites are computed.
    pub(crate) fn real(
        &mut self,
        node: &dyn Named,
        part: &str,
        x: ValueId,
    ) -> Result<ValueId, Failure> {
        expect_float(self, x)?;
        self.cast(node, part, x, DType::F32)
    }

    /// A reduction over ascending axes.
    pub(crate) fn reduce(
        &mut self,
        node: &dyn Named,
        part: &str,
        kind: ReduceKind,
        x: ValueId,
        axes: &[usize],
        keep_dims: bool,
    ) -> Result<ValueId, Failure> {
        let mut shape = self.shape(x);
        for axis in axes.iter().rev() {
            if keep_dims {
                shape[*axis] = Dim::from(1i64);
            } else {
                shape.remove(*axis);
            }
        }
        let op = Op::Reduce { kind, axes: axes.to_vec(), keep_dims };
        self.emit(node, part, op, &[Some(x)], self.dtype(x), shape)
    }

    /// `len` elements of an axis, from `start` on, or the value itself when that is all; the caller
    /// vouches that they are there.
    pub(crate) fn slice(
        &mut self,
        node: &dyn Named,
        part: &str,
        x: ValueId,
        axis: usize,
        start: &Dim,
        len: &Dim,
    ) -> Result<ValueId, Failure> {
        let mut shape = self.shape(x);
        if start.is(0) && dims::same(&shape[axis], len, &self.graph.symbols) {
            return Ok(x);
        }
        let mut starts = vec![Dim::from(0i64); shape.len()];
        let steps = vec![1; shape.len()];
        (starts[axis], shape[axis]) = (start.clone(), len.clone());
        self.emit(node, part, Op::Slice { starts, steps }, &[Some(x)], self.dtype(x), shape)
    }

    /// `0, 1, …` as i64, as many as `len`. `len` may be symbolic: then it is the front of a constant of
    /// its largest size.
    pub(crate) fn range(
        &mut self,
        node: &dyn Named,
        part: &str,
        len: &Dim,
    ) -> Result<ValueId, Failure> {
        const MOST: usize = 1 << 22; // places of a sequence or an axis, not elements of a tensor
        let most = self.largest(len)?;
        if most > MOST {
            let len = len.display(&self.graph.symbols);
            return Err(unsupported(format!("an axis of {len} elements counted"), FIX_THE_DIM));
        }
        self.charge(most.saturating_mul(DType::I64.size()))?;
        let all: Vec<i64> = (0..most).map(|at| at as i64).collect();
        let all = self.constant(format!("{}/{part}", node.name()), Tensor::from_i64([most], &all));
        self.slice(node, part, all, 0, &Dim::from(0i64), len)
    }

    /// The largest value of a size.
    pub(crate) fn largest(&self, size: &Dim) -> Result<usize, Failure> {
        let bounds = dims::bounds(size, &self.graph.symbols);
        bounds
            .and_then(|(_, most)| usize::try_from(most).ok())
            .ok_or_else(|| unsupported("a size without an upper bound", FIX_THE_DIM))
    }

    // Movement, which also passes through the dequantization of a constant: weights stay constants.

    /// Permutes axes.
    pub(crate) fn transpose(
        &mut self,
        node: &dyn Named,
        part: &str,
        x: ValueId,
        perm: &[usize],
    ) -> Result<ValueId, Failure> {
        let op = Op::Transpose { perm: perm.to_vec() };
        let from = self.shape(x);
        let shape: Vec<Dim> = perm.iter().map(|p| from[*p].clone()).collect();
        match self.dequantized(x) {
            Some(source) => {
                let moved = self.emit(
                    node,
                    &join(part, "q"),
                    op,
                    &[Some(source)],
                    self.dtype(source),
                    shape.clone(),
                )?;
                self.emit(node, part, Op::Dequantize, &[Some(moved)], self.dtype(x), shape)
            }
            None => self.emit(node, part, op, &[Some(x)], self.dtype(x), shape),
        }
    }

    /// The same elements in another shape; the caller has checked the count.
    pub(crate) fn reshape(
        &mut self,
        node: &dyn Named,
        part: &str,
        x: ValueId,
        shape: Vec<Dim>,
    ) -> Result<ValueId, Failure> {
        let source = self.dequantized(x);
        if let Some(source) = source
            && let Some(quant) = self.graph.value(source).quant.clone()
            && let Some(axis) = self.reshaped_axis(&quant, source, &shape)
        {
            let moved = self.emit(
                node,
                &join(part, "q"),
                Op::Reshape,
                &[Some(source)],
                self.dtype(source),
                shape.clone(),
            )?;
            if self.graph.constant(moved).is_some() {
                self.graph.value_mut(moved).quant = Some(Quant { axis, ..quant });
                return self.emit(node, part, Op::Dequantize, &[Some(moved)], self.dtype(x), shape);
            }
        }
        self.emit(node, part, Op::Reshape, &[Some(x)], self.dtype(x), shape)
    }

    /// The axis of `shape` that the quantized axis becomes; `Some(None)` when there is none.
    fn reshaped_axis(
        &self,
        quant: &Quant,
        source: ValueId,
        shape: &[Dim],
    ) -> Option<Option<usize>> {
        let Some(axis) = quant.axis else {
            return Some(None);
        };
        let from = self.graph.value(source).const_shape()?;
        let to: Option<Vec<usize>> =
            shape.iter().map(|d| d.as_const().and_then(|d| usize::try_from(d).ok())).collect();
        let to = to?;
        let outer: usize = from[..axis].iter().product();
        let mut before = 1usize;
        for (index, size) in to.iter().enumerate() {
            if before == outer && *size == from[axis] {
                return Some(Some(index));
            }
            before = before.checked_mul(*size)?;
        }
        None
    }
}

fn join(part: &str, more: &str) -> String {
    if part.is_empty() { more.to_owned() } else { format!("{part}/{more}") }
}

/// Refuses an operand of a type that the operator isn't defined for: it is for reals.
pub(crate) fn expect_float(b: &Builder, x: ValueId) -> Result<(), Failure> {
    match b.dtype(x).is_float() {
        true => Ok(()),
        false => Err(invalid(format!("an operand of type {}", b.dtype(x)))),
    }
}

//! TensorFlow Lite: flatbuffer bytes to a [`Graph`].
//!
//! The driver reads the model, decides its dynamic dimensions and hands each operator to its importer
//! from `OPERATORS`. A quantized tensor is a value of integers with the file's own scales; an operator
//! that computes reads it through a dequantize node and writes its result through a quantize node, and
//! the quantize stage makes integer operators of those. Operators that only move elements move the
//! integers themselves. An operator that isn't supported poisons its results and the import goes
//! on, so that everything unsupported is reported at once.

use bytes::Bytes;
use whit::DType;

use self::node::TfliteNode;
use self::operators::OPERATOR_NAMES;
use self::schema::{Model, Operator, SubGraph, Tensor};
use self::variables::Variables;
use super::builder::{Builder, Outcome};
use super::failure::{Failure, unsupported};
use super::inputs::{Axis, Declared, Dynamic, MAX_DIM};
use super::{ImportOptions, inputs, prune};
use crate::error::{ImportError, UnsupportedNode};
use crate::graph::{Graph, Op, ValueId};

mod conv;
mod data;
mod elementwise;
mod fixed_point;
mod indexing;
mod node;
mod operators;
mod pool;
mod quantized_lstm;
mod recurrent;
mod reduce;
mod resize;
mod schema;
mod slice;
mod sources;
mod tensor;
#[cfg(test)]
mod tests;
mod transpose_conv;
mod variables;

/// The version of the schema; its changes since are additions.
const VERSION: u32 = 3;

type Importer = fn(&mut Builder, &TfliteNode<'_>) -> Outcome;

/// Every operator that is imported, by family. Adding one means a row here and a function there.
const OPERATORS: &[&[(&str, Importer)]] = &[
    conv::OPERATORS,
    transpose_conv::OPERATORS,
    pool::OPERATORS,
    elementwise::OPERATORS,
    reduce::OPERATORS,
    data::OPERATORS,
    slice::OPERATORS,
    indexing::OPERATORS,
    resize::OPERATORS,
    sources::OPERATORS,
    recurrent::OPERATORS,
];

fn importer(name: &str) -> Option<Importer> {
    let mut rows = OPERATORS.iter().copied().flatten();
    rows.find(|(row, _)| *row == name).map(|(_, import)| *import)
}

/// Whether these are the bytes of a TFLite file.
pub fn is_tflite(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(b"TFL3")
}

/// Imports a TFLite model.
///
/// # Errors
///
/// [`ImportError::Unsupported`] lists every unsupported operator; the others say what is wrong with
/// the model or the options.
pub fn import_tflite(bytes: Bytes, options: &ImportOptions) -> Result<Graph, ImportError> {
    if !is_tflite(&bytes) {
        return Err(ImportError::Flatbuffer("its identifier isn't TFL3".to_owned()));
    }
    let model = schema::model(&bytes).map_err(|e| ImportError::Flatbuffer(e.to_string()))?;
    if model.version != VERSION {
        let version = model.version;
        return Err(ImportError::Model(format!(
            "its schema has version {version}; only {VERSION} is supported: convert it again"
        )));
    }
    let Some(graph) = model.subgraphs.first() else {
        return Err(ImportError::Model("it holds no graph".to_owned()));
    };

    let result = Graph { name: graph.name.clone(), metadata: metadata(&model), ..Graph::default() };
    let mut import = Import {
        variables: Variables::default(),
        file: &bytes,
        model: &model,
        graph,
        builder: Builder::new(result, bytes.len()),
        slots: vec![Slot::Unknown; graph.tensors.len()],
        unsupported: Vec::new(),
        notes: Vec::new(),
    };
    import.inputs(options)?;
    for (index, operator) in graph.operators.iter().enumerate() {
        import.operator(index, operator)?;
    }
    import.finish()
}

fn metadata(model: &Model) -> Vec<(String, String)> {
    let mut metadata = vec![("source.format".to_owned(), "tflite".to_owned())];
    if !model.description.is_empty() {
        metadata.push(("source.producer".to_owned(), model.description.clone()));
    }
    metadata
}

/// What a tensor of the model stands for.
#[derive(Clone, Copy, Debug)]
enum Slot {
    /// Nothing has made it yet; it may be a constant.
    Unknown,
    Value(ValueId),
    /// A variable, by its number: what VAR_HANDLE gives.
    Variable(usize),
    /// The result of an operator that isn't supported: nothing is known about it.
    Poisoned,
}

/// The state of one import.
struct Import<'a> {
    file: &'a Bytes,
    model: &'a Model,
    graph: &'a SubGraph,
    builder: Builder,
    /// One per tensor of the graph.
    slots: Vec<Slot>,
    unsupported: Vec<UnsupportedNode>,
    notes: Vec<String>,
    variables: Variables,
}

impl<'a> Import<'a> {
    fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// A tensor by its number in the file.
    fn tensor(&self, number: i32) -> Result<(usize, &'a Tensor), ImportError> {
        let index = usize::try_from(number).ok();
        let found = index.and_then(|index| Some((index, self.graph.tensors.get(index)?)));
        found.ok_or_else(|| ImportError::Model(format!("tensor #{number} doesn't exist")))
    }

    fn inputs(&mut self, options: &ImportOptions) -> Result<(), ImportError> {
        let mut dynamics: Vec<Dynamic> = Vec::new();
        let mut declared: Vec<Declared> = Vec::new();
        for number in &self.graph.inputs {
            let (_, tensor) = self.tensor(*number)?;
            declared.push(declare(tensor, &mut dynamics)?);
        }
        if let Some((name, _)) = options.input_layouts.first() {
            return Err(ImportError::Input {
                input: name.clone(),
                problem: "TFLite models are channels last already; leave out --input-layout"
                    .to_owned(),
            });
        }
        let mut notes = Vec::new();
        let shapes = inputs::sizes(&mut self.builder, &declared, dynamics, options, &mut notes)?;
        self.notes.extend(notes);
        for (number, shape) in self.graph.inputs.iter().zip(shapes) {
            let (index, tensor) = self.tensor(*number)?;
            let name = tensor.name.as_str();
            let dtype = tensor::dtype_of(tensor.kind).map_err(|f| wrong_input(name, f))?;
            let given = options.input_values.iter().find(|(n, _)| n == name);
            let id = match given {
                Some((_, value)) => {
                    self.note(format!("input `{name}` fixed to the value given"));
                    let tensor = inputs::given(&self.builder, name, dtype, &shape, value)?;
                    self.builder.constant(name.to_owned(), tensor)
                }
                None => {
                    let id = self.builder.value(name.to_owned(), dtype, shape);
                    let id = id.map_err(|failure| wrong_input(name, failure))?;
                    self.builder.graph.inputs.push(id);
                    id
                }
            };
            let quant = activation_quant(tensor).map_err(|failure| wrong_input(name, failure))?;
            self.builder.graph.value_mut(id).quant = quant;
            if matches!(self.slots[index], Slot::Value(_)) {
                return Err(ImportError::Model(format!("input `{name}` occurs twice")));
            }
            self.slots[index] = Slot::Value(id);
        }
        Ok(())
    }

    /// What a tensor stands for, which is a constant if nothing has made it.
    fn slot(&mut self, number: i32) -> Result<Slot, ImportError> {
        let (index, tensor) = self.tensor(number)?;
        if let Slot::Unknown = self.slots[index] {
            let wrong = |failure: Failure| ImportError::Tensor {
                name: tensor.name.clone(),
                problem: failure.text(),
            };
            let made = tensor::constant(self.file, self.model, tensor);
            let Some(constant) = made.map_err(wrong)? else {
                if tensor.is_variable {
                    self.slots[index] = Slot::Value(self.variable_tensor(tensor).map_err(wrong)?);
                }
                return Ok(self.slots[index]);
            };
            let quant = activation_quant(tensor).map_err(wrong)?;
            let id = self.builder.constant(tensor.name.clone(), constant);
            self.builder.graph.value_mut(id).quant = quant;
            self.slots[index] = Slot::Value(id);
        }
        Ok(self.slots[index])
    }

    fn operator(&mut self, index: usize, operator: &'a Operator) -> Result<(), ImportError> {
        let op_type = self.op_type(operator)?;
        let result = match operator.outputs.first() {
            Some(number) => self.tensor(*number)?.1.name.as_str(),
            None => "",
        };
        // A fused operator is called by the names of all that it is made of.
        let name = match result.split(';').next() {
            None | Some("") => format!("{op_type} #{index}"),
            Some(first) => first.to_owned(),
        };
        let mut slots = Vec::with_capacity(operator.inputs.len());
        for number in &operator.inputs {
            slots.push(match *number {
                -1 => None,
                number => match self.slot(number)? {
                    Slot::Unknown => {
                        let tensor = &self.tensor(number)?.1.name;
                        return Err(ImportError::Model(format!(
                            "{op_type} `{name}` reads `{tensor}`, which nothing makes"
                        )));
                    }
                    slot => Some(slot),
                },
            });
        }
        let values_before = self.builder.graph.values.len();
        match self.outcome(&op_type, &name, operator, &slots) {
            Ok(values) => self.bind(&op_type, &name, operator, &values, values_before),
            Err(Failure::Unsupported { reason, remedy }) => {
                let shapes = self.shapes(&slots);
                self.report(&op_type, &name, shapes, reason, remedy);
                for number in &operator.outputs {
                    let (index, _) = self.tensor(*number)?;
                    self.slots[index] = Slot::Poisoned;
                }
                Ok(())
            }
            Err(Failure::Invalid(problem)) => {
                Err(ImportError::Node { node: name, op_type, shapes: self.shapes(&slots), problem })
            }
        }
    }

    /// The name of an operator in the schema, or of a custom one in the model.
    fn op_type(&self, operator: &Operator) -> Result<String, ImportError> {
        let code = self.model.operator_codes.get(operator.opcode_index as usize);
        let code = code.ok_or_else(|| {
            ImportError::Model(format!("operator code #{} doesn't exist", operator.opcode_index))
        })?;
        // Codes beyond 127 don't fit the older field.
        let number = code.builtin_code.max(i32::from(code.deprecated_builtin_code));
        Ok(match usize::try_from(number).ok().and_then(|n| OPERATOR_NAMES.get(n)) {
            Some(&"CUSTOM") => code.custom_code.clone(),
            Some(name) => (*name).to_owned(),
            None => format!("operator #{number}"),
        })
    }

    /// The values that an operator makes.
    fn outcome(
        &mut self,
        op_type: &str,
        name: &str,
        operator: &'a Operator,
        slots: &[Option<Slot>],
    ) -> Result<Vec<Slot>, Failure> {
        if let Some(slots) = self.variable_operator(op_type, operator, slots)? {
            return Ok(slots);
        }
        let import = importer(op_type).ok_or_else(|| {
            unsupported(
                "the operator is not supported",
                "end the model before it, or replace it by other operators",
            )
        })?;
        if slots.iter().any(|slot| matches!(slot, Some(Slot::Poisoned))) {
            return Ok(vec![Slot::Poisoned; operator.outputs.len()]);
        }
        let value = |slot: &Option<Slot>| match slot {
            Some(Slot::Value(id)) => Some(*id),
            _ => None,
        };
        let node = TfliteNode {
            name: name.to_owned(),
            inputs: slots.iter().map(value).collect(),
            tensors: &self.graph.tensors,
            operator,
            bytes: self.file,
        };
        let values = import(&mut self.builder, &node)?;
        for (index, value) in values.iter().enumerate() {
            node.check_shape(&self.builder, *value, index)?;
        }
        Ok(values.into_iter().map(Slot::Value).collect())
    }

    /// Makes the tensors that an operator writes stand for these values.
    fn bind(
        &mut self,
        op_type: &str,
        node: &str,
        operator: &Operator,
        values: &[Slot],
        values_before: usize,
    ) -> Result<(), ImportError> {
        for (at, number) in operator.outputs.iter().enumerate() {
            let (index, tensor) = self.tensor(*number)?;
            if !matches!(self.slots[index], Slot::Unknown) {
                return Err(ImportError::Model(format!(
                    "{op_type} `{node}` makes `{}`, which is there already",
                    tensor.name
                )));
            }
            self.slots[index] = match values.get(at) {
                Some(slot) => *slot,
                None => {
                    let reason = format!("output #{at} is not supported");
                    self.report(op_type, node, String::new(), reason, String::new());
                    Slot::Poisoned
                }
            };
            // An operand that is passed on keeps its own name.
            if let Slot::Value(id) = self.slots[index]
                && id.0 as usize >= values_before
            {
                self.builder.graph.value_mut(id).name = tensor.name.clone();
            }
        }
        Ok(())
    }

    fn report(
        &mut self,
        op_type: &str,
        name: &str,
        shapes: String,
        reason: String,
        remedy: String,
    ) {
        let node = UnsupportedNode {
            op_type: op_type.to_owned(),
            domain: String::new(),
            count: 1,
            first_node_name: name.to_owned(),
            shapes,
            reason,
            remedy,
        };
        node.join(&mut self.unsupported);
    }

    /// `f32 1×3×32×32, i64 2, –, ?` for a missing and an unknown operand.
    fn shapes(&self, slots: &[Option<Slot>]) -> String {
        const MOST: usize = 8; // operands; a CONCATENATION can have hundreds
        let text = |slot: &Option<Slot>| match slot {
            None => "–".to_owned(),
            Some(Slot::Poisoned | Slot::Unknown) => "?".to_owned(),
            Some(Slot::Variable(_)) => "variable".to_owned(),
            Some(Slot::Value(id)) => {
                let value = self.builder.graph.value(*id);
                format!("{} {}", value.dtype, self.builder.graph.shape_text(&value.shape))
            }
        };
        let mut texts: Vec<String> = slots.iter().take(MOST).map(text).collect();
        if slots.len() > MOST {
            texts.push("…".to_owned());
        }
        texts.join(", ")
    }

    fn finish(mut self) -> Result<Graph, ImportError> {
        let mut outputs = Vec::new();
        for number in &self.graph.outputs {
            let name = self.tensor(*number)?.1.name.as_str();
            match self.slot(*number)? {
                Slot::Value(id) => outputs.push((name, id)),
                Slot::Poisoned => {}
                Slot::Variable(_) => {
                    let problem = format!("output `{name}` is a variable itself");
                    return Err(ImportError::Model(problem));
                }
                Slot::Unknown => {
                    let problem = format!("output `{name}` is made by no operator");
                    return Err(ImportError::Model(problem));
                }
            }
        }
        if self.unsupported.is_empty() && outputs.is_empty() {
            return Err(ImportError::Model("it has no outputs".to_owned()));
        }
        for (name, id) in outputs {
            if let Err(failure) = self.output(name, id) {
                let reason = failure.text();
                self.report("output", name, String::new(), reason, String::new());
            }
        }
        if !self.unsupported.is_empty() {
            return Err(ImportError::Unsupported(self.unsupported));
        }
        self.finish_variables()?;
        let mut graph = self.builder.graph;
        graph.metadata.extend(self.notes.into_iter().map(|note| ("note".to_owned(), note)));
        Ok(prune::pruned(graph))
    }

    /// Makes a value an output of the graph, under its name. An output is a value of its own: not
    /// an input, not a constant, not another output.
    fn output(&mut self, name: &str, id: ValueId) -> Result<(), Failure> {
        let builder = &mut self.builder;
        let own = builder.producer(id).is_some() && !builder.graph.outputs.contains(&id);
        let id = match own {
            true => id,
            false => {
                let node = format!("{name}/output");
                builder.emit_unfolded(&node, Op::Reshape, id)?
            }
        };
        builder.graph.value_mut(id).name = name.to_owned();
        builder.graph.outputs.push(id);
        Ok(())
    }
}

/// The axes of an input.
fn declare(tensor: &Tensor, dynamics: &mut Vec<Dynamic>) -> Result<Declared, ImportError> {
    let name = tensor.name.clone();
    let wrong = |problem: String| ImportError::Input { input: name.clone(), problem };
    let signature = &tensor.shape_signature;
    if !signature.is_empty() && signature.len() != tensor.shape.len() {
        return Err(wrong("its shape and shape signature differ in rank".to_owned()));
    }
    let mut axes = Vec::new();
    for (axis, size) in tensor.shape.iter().enumerate() {
        if signature.get(axis).is_some_and(|size| *size < 0) || *size < 0 {
            dynamics.push(Dynamic {
                name: String::new(),
                named: false,
                places: vec![(name.clone(), axis)],
                choice: None,
                default: None,
            });
            axes.push(Axis::Dynamic(dynamics.len() - 1));
            continue;
        }
        let size = i64::from(*size);
        if size == 0 || size > MAX_DIM {
            return Err(wrong(format!("axis {axis} has size {size}")));
        }
        axes.push(Axis::Size(size));
    }
    Ok(Declared { name: name.clone(), axes })
}

/// How the integers of a tensor stand for reals. Wide integers count: scales are read with them only
/// where they are biases.
fn activation_quant(tensor: &Tensor) -> Result<Option<crate::graph::Quant>, Failure> {
    match tensor::dtype_of(tensor.kind) {
        Ok(DType::I8 | DType::U8 | DType::I16) => tensor::quant(tensor),
        _ => Ok(None),
    }
}

fn wrong_input(input: &str, failure: Failure) -> ImportError {
    ImportError::Input { input: input.to_owned(), problem: failure.text() }
}

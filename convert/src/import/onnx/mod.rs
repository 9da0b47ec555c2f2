//! ONNX: protobuf bytes to a [`Graph`].
//!
//! The driver checks the model, decides its dynamic dimensions, sorts its nodes and hands each to
//! its operator's importer from `OPERATORS`. A node that isn't supported poisons its outputs and
//! the import goes on, so that everything unsupported is reported at once. At the end, nodes and
//! values that no output needs are dropped.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use self::attributes::Attributes;
use self::builder::{Builder, OnnxNode, Outcome};
use self::failure::Failure;
use self::proto::{GraphProto, ModelProto, NodeProto, TensorProto, data_type};
use self::tensor::TensorProblem;
use super::ImportOptions;
use crate::error::{ImportError, UnsupportedNode};
use crate::graph::{Graph, Op, ValueId};

mod attributes;
mod builder;
mod conv;
mod data;
mod dims;
mod elementwise;
mod failure;
mod fold;
mod indexing;
mod inputs;
mod matmul;
mod order;
mod pool;
pub mod proto;
mod prune;
mod quant;
mod reduce;
mod resize;
mod sampling;
mod sequences;
mod shapes;
mod sources;
mod tensor;
#[cfg(test)]
mod tests;

/// Operator sets whose meanings the importers below know.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;

type Importer = fn(&mut Builder, &OnnxNode<'_>) -> Outcome;

/// Every operator that is imported, by family. Adding one means a row here and a function there.
const OPERATORS: &[&[(&str, Importer)]] = &[
    conv::OPERATORS,
    pool::OPERATORS,
    matmul::OPERATORS,
    elementwise::OPERATORS,
    data::OPERATORS,
    resize::OPERATORS,
    reduce::OPERATORS,
    quant::OPERATORS,
    sources::OPERATORS,
    indexing::OPERATORS,
    sampling::OPERATORS,
    sequences::OPERATORS,
];

fn importer(op_type: &str) -> Option<Importer> {
    OPERATORS
        .iter()
        .copied()
        .flatten()
        .find(|(name, _)| *name == op_type)
        .map(|(_, import)| *import)
}

/// Imports an ONNX model. `base_dir` is the folder where external tensor data may lie.
///
/// # Errors
///
/// [`ImportError::Unsupported`] lists every unsupported node; the others say what is wrong with
/// the model or the options.
pub fn import_onnx(
    bytes: Bytes,
    base_dir: Option<&Path>,
    options: &ImportOptions,
) -> Result<Graph, ImportError> {
    let file_bytes = bytes.len();
    let model = ModelProto::decode(bytes).map_err(|e| ImportError::Protobuf(e.to_string()))?;
    let Some(graph) = &model.graph else {
        return Err(ImportError::Protobuf("it holds no graph".to_owned()));
    };
    let opset = opset(&model)?;

    let mut result = Graph { name: graph.name().to_owned(), ..Graph::default() };
    result.metadata = metadata(&model, opset);
    let mut import = Import {
        model: &model,
        graph,
        base_dir,
        opset,
        builder: Builder::new(result, file_bytes),
        values: HashMap::new(),
        initializers: HashMap::new(),
        unsupported: Vec::new(),
        notes: Vec::new(),
    };
    import.find_initializers()?;
    inputs::add(&mut import, options)?;
    for index in order::sorted(graph, &import.values, &import.initializers)? {
        import.node(index)?;
    }
    import.finish()
}

fn opset(model: &ModelProto) -> Result<i64, ImportError> {
    let mut versions = model.opset_import.iter().filter(|o| matches!(o.domain(), "" | "ai.onnx"));
    let Some(set) = versions.next() else {
        return Err(ImportError::Model("it doesn't say which operator set it uses".to_owned()));
    };
    let version = set.version();
    if !OPSETS.contains(&version) {
        let remedy = "convert it with onnx.version_converter or export it with another opset";
        let (first, last) = (OPSETS.start(), OPSETS.end());
        return Err(ImportError::Model(format!(
            "operator set {version} is not supported ({first} to {last} are); {remedy}"
        )));
    }
    Ok(version)
}

fn metadata(model: &ModelProto, opset: i64) -> Vec<(String, String)> {
    let mut metadata = vec![
        ("source.format".to_owned(), "onnx".to_owned()),
        ("source.opset".to_owned(), opset.to_string()),
    ];
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            metadata.push((key.to_owned(), value.to_owned()));
        }
    };
    add("source.producer", model.producer_name());
    add("source.producer_version", model.producer_version());
    add("source.domain", model.domain());
    // Under a prefix, so that a model can't pass for its own converter.
    for entry in &model.metadata_props {
        add(&format!("model.{}", entry.key()), entry.value());
    }
    metadata
}

/// What a name of the model stands for.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Value(ValueId),
    /// The output of a node that isn't supported: nothing is known about it.
    Poisoned,
}

/// The state of one import.
struct Import<'a> {
    model: &'a ModelProto,
    graph: &'a GraphProto,
    base_dir: Option<&'a Path>,
    opset: i64,
    builder: Builder,
    values: HashMap<&'a str, Slot>,
    /// Not yet read: many are only shapes, some aren't used at all.
    initializers: HashMap<&'a str, &'a TensorProto>,
    unsupported: Vec<UnsupportedNode>,
    notes: Vec<String>,
}

impl<'a> Import<'a> {
    fn find_initializers(&mut self) -> Result<(), ImportError> {
        for tensor in &self.graph.initializer {
            if self.initializers.insert(tensor.name(), tensor).is_some() {
                return Err(ImportError::Model(format!(
                    "initializer `{}` occurs twice",
                    tensor.name()
                )));
            }
        }
        if let Some(sparse) = self.graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |v| v.name());
            return Err(ImportError::Tensor {
                name: name.to_owned(),
                problem: "sparse tensors are not supported; store it densely".to_owned(),
            });
        }
        Ok(())
    }

    fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// The value with a name, reading it first when it is an initializer.
    fn value(&mut self, name: &'a str) -> Result<Option<Slot>, ImportError> {
        if let Some(slot) = self.values.get(name) {
            return Ok(Some(*slot));
        }
        let Some(proto) = self.initializers.get(name).copied() else {
            return Ok(None);
        };
        let slot = match tensor::read(proto, self.base_dir) {
            Ok(tensor) => {
                self.note_type(proto.data_type());
                Slot::Value(self.builder.constant(name.to_owned(), tensor))
            }
            Err(TensorProblem::UnsupportedType(reason)) => {
                self.report("initializer", "", name, String::new(), reason, String::new());
                Slot::Poisoned
            }
            Err(TensorProblem::Invalid(problem)) => {
                return Err(ImportError::Tensor { name: name.to_owned(), problem });
            }
        };
        self.values.insert(name, slot);
        Ok(Some(slot))
    }

    fn note_type(&mut self, onnx: i32) {
        match onnx {
            data_type::DOUBLE => self.note("float64 tensors are computed in float32"),
            data_type::UINT16 | data_type::UINT32 | data_type::UINT64 => {
                self.note("unsigned integers wider than 8 bits are computed in int64");
            }
            _ => {}
        }
    }

    fn report(
        &mut self,
        op_type: &str,
        domain: &str,
        name: &str,
        shapes: String,
        reason: String,
        remedy: String,
    ) {
        let same = |n: &&mut UnsupportedNode| {
            n.op_type == op_type && n.domain == domain && n.reason == reason
        };
        if let Some(known) = self.unsupported.iter_mut().find(same) {
            known.count += 1;
            return;
        }
        self.unsupported.push(UnsupportedNode {
            op_type: op_type.to_owned(),
            domain: domain.to_owned(),
            count: 1,
            first_node_name: name.to_owned(),
            shapes,
            reason,
            remedy,
        });
    }

    fn node(&mut self, index: usize) -> Result<(), ImportError> {
        let proto = &self.graph.node[index];
        let op_type = proto.op_type();
        let name = match proto.name() {
            "" => format!("{op_type} #{index}"),
            name => name.to_owned(),
        };
        let mut slots = Vec::with_capacity(proto.input.len());
        for input in &proto.input {
            let slot = match input.as_str() {
                "" => None,
                name => self.value(name)?,
            };
            if slot.is_none() && !input.is_empty() {
                return Err(ImportError::Model(format!(
                    "{op_type} `{name}` reads `{input}`, which nothing makes"
                )));
            }
            slots.push(slot);
        }

        let (import, domain) = match self.find_importer(proto) {
            Ok(import) => (import, proto.domain()),
            Err((reason, remedy)) => {
                let shapes = self.shapes(&slots);
                self.report(op_type, own_domain(proto), &name, shapes, reason, remedy);
                self.poison(proto);
                return Ok(());
            }
        };
        if slots.iter().any(|slot| matches!(slot, Some(Slot::Poisoned))) {
            self.poison(proto);
            return Ok(());
        }

        let is_sequence = |slot: &Option<Slot>| match slot {
            Some(Slot::Value(id)) => self.builder.sequence(*id).is_some(),
            _ => false,
        };
        if slots.iter().any(is_sequence) && !sequences::takes_sequences(op_type) {
            let shapes = self.shapes(&slots);
            let reason = "a sequence as its input is not supported".to_owned();
            self.report(op_type, domain, &name, shapes, reason, String::new());
            self.poison(proto);
            return Ok(());
        }

        let node = OnnxNode {
            name: name.clone(),
            inputs: slots
                .iter()
                .map(|slot| match slot {
                    Some(Slot::Value(id)) => Some(*id),
                    _ => None,
                })
                .collect(),
            outputs: &proto.output,
            attributes: Attributes::new(&proto.attribute),
            opset: self.opset,
        };
        self.note_types(proto);
        let values_before = self.builder.graph.values.len();
        let outcome = node
            .attributes
            .check_names()
            .and_then(|()| import(&mut self.builder, &node))
            .and_then(|values| node.attributes.check_all_read().map(|()| values));
        match outcome {
            Ok(values) => self.bind(proto, &name, &values, values_before),
            Err(Failure::Unsupported { reason, remedy }) => {
                let shapes = self.shapes(&slots);
                self.report(op_type, domain, &name, shapes, reason, remedy);
                self.poison(proto);
                Ok(())
            }
            Err(Failure::Invalid(problem)) => Err(ImportError::Node {
                node: name,
                op_type: op_type.to_owned(),
                shapes: self.shapes(&slots),
                problem,
            }),
        }
    }

    /// The importer, or the reason and the remedy why there is none.
    fn find_importer(&self, proto: &NodeProto) -> Result<Importer, (String, String)> {
        let domain = own_domain(proto);
        let is_function = self
            .model
            .functions
            .iter()
            .any(|f| f.name() == proto.op_type() && f.domain() == proto.domain());
        if is_function {
            return Err((
                "functions of the model are not supported".to_owned(),
                "inline them with onnx.inliner.inline_local_functions".to_owned(),
            ));
        }
        if !domain.is_empty() {
            return Err((
                format!("operator domain {domain} is not supported"),
                "export the model with ONNX's own operators".to_owned(),
            ));
        }
        importer(proto.op_type()).ok_or_else(|| {
            ("the operator is not supported".to_owned(), remedy_for(proto.op_type()))
        })
    }

    fn note_types(&mut self, proto: &NodeProto) {
        for attribute in &proto.attribute {
            match (attribute.name(), &attribute.t) {
                ("to" | "output_dtype", _) => {
                    if let Ok(onnx) = i32::try_from(attribute.i()) {
                        self.note_type(onnx);
                    }
                }
                (_, Some(tensor)) => self.note_type(tensor.data_type()),
                _ => {}
            }
        }
    }

    /// Gives the values of a node the names of its outputs.
    fn bind(
        &mut self,
        proto: &'a NodeProto,
        node: &str,
        values: &[ValueId],
        values_before: usize,
    ) -> Result<(), ImportError> {
        for (index, output) in proto.output.iter().enumerate().filter(|(_, o)| !o.is_empty()) {
            match values.get(index) {
                Some(id) => {
                    // Not that of an operand that is passed on.
                    if id.0 as usize >= values_before {
                        self.builder.graph.value_mut(*id).name = output.clone();
                    }
                    self.values.insert(output, Slot::Value(*id));
                }
                None => {
                    let reason = format!("output #{index} is not supported");
                    self.report(proto.op_type(), "", node, String::new(), reason, String::new());
                    self.values.insert(output, Slot::Poisoned);
                }
            }
        }
        Ok(())
    }

    fn poison(&mut self, proto: &'a NodeProto) {
        for output in proto.output.iter().filter(|o| !o.is_empty()) {
            self.values.insert(output, Slot::Poisoned);
        }
    }

    /// `f32 1×3×32×32, i64 2, –, ?` for a missing and an unknown operand.
    fn shapes(&self, slots: &[Option<Slot>]) -> String {
        const MOST: usize = 8; // operands; a Concat can have hundreds
        let text = |slot: &Option<Slot>| match slot {
            None => "–".to_owned(),
            Some(Slot::Poisoned) => "?".to_owned(),
            Some(Slot::Value(id)) if self.builder.sequence(*id).is_some() => "sequence".to_owned(),
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
        for output in &self.graph.output {
            let name = output.name();
            match self.value(name)? {
                Some(Slot::Value(id)) => outputs.push((name, id)),
                Some(Slot::Poisoned) => {}
                None => {
                    let problem = format!("output `{name}` is made by no node");
                    return Err(ImportError::Model(problem));
                }
            }
        }
        if self.unsupported.is_empty() && outputs.is_empty() {
            return Err(ImportError::Model("it has no outputs".to_owned()));
        }
        for (name, id) in outputs {
            let (reason, remedy) = match self.output(name, id) {
                Ok(()) => continue,
                Err(Failure::Unsupported { reason, remedy }) => (reason, remedy),
                Err(Failure::Invalid(reason)) => (reason, String::new()),
            };
            self.report("output", "", name, String::new(), reason, remedy);
        }
        if !self.unsupported.is_empty() {
            return Err(ImportError::Unsupported(self.unsupported));
        }
        let mut graph = self.builder.graph;
        graph.metadata.extend(self.notes.into_iter().map(|note| ("note".to_owned(), note)));
        Ok(prune::pruned(graph))
    }

    /// Makes a value an output of the graph, under its name. An output is a value of its own: not
    /// an input, not a constant, not another output.
    fn output(&mut self, name: &str, id: ValueId) -> Result<(), Failure> {
        let builder = &mut self.builder;
        if builder.sequence(id).is_some() {
            return Err(failure::unsupported(
                "it is a sequence of tensors",
                "make its tensors the model's outputs",
            ));
        }
        let own = builder.producer(id).is_some() && !builder.graph.outputs.contains(&id);
        let id = match own {
            true => id,
            false => {
                let node = OnnxNode {
                    name: format!("{name}/output"),
                    inputs: Vec::new(),
                    outputs: &[],
                    attributes: Attributes::new(&[]),
                    opset: self.opset,
                };
                builder.emit_unfolded(&node, Op::Reshape, id)?
            }
        };
        let value = builder.graph.value_mut(id);
        value.name = name.to_owned();
        builder.graph.outputs.push(id);
        Ok(())
    }
}

/// The domain of a node, empty for ONNX's own.
fn own_domain(proto: &NodeProto) -> &str {
    match proto.domain() {
        "ai.onnx" => "",
        domain => domain,
    }
}

/// Advice for operators that models use often.
fn remedy_for(op_type: &str) -> String {
    let advice = match op_type {
        "If" | "Loop" | "Scan" => {
            "fold control flow away, for example with onnxsim and fixed shapes"
        }
        "QLinearConv" | "QLinearMatMul" | "QLinearAdd" | "ConvInteger" | "MatMulInteger" => {
            "export the quantized model in QDQ form"
        }
        "DynamicQuantizeLinear" => "quantize statically instead, or import the float model",
        "NonMaxSuppression" | "TopK" | "NonZero" => {
            "end the model before it and do this step in the application"
        }
        "LpPool" => "replace it by powers and an average pooling",
        _ => "",
    };
    advice.to_owned()
}

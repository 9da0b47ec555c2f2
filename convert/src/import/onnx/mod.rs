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
use self::builder::{Builder, Outcome};
use self::failure::{Failure, Stop, unsupported};
use self::node::OnnxNode;
use self::proto::{FunctionProto, GraphProto, ModelProto, NodeProto, data_type};
use self::scope::{Bodies, Body, Scope};
use super::{ImportOptions, builder, compose, dims, failure, prune, shapes};
use crate::error::{ImportError, UnsupportedNode};
use crate::graph::{Graph, Op, ValueId};

mod attention;
mod attributes;
mod causal_conv;
mod contrib;
mod control;
mod conv;
mod conv_transpose;
mod data;
mod deform;
mod einsum;
mod elementwise;
mod functions;
mod indexing;
mod inputs;
mod legacy;
mod loss;
mod matmul;
mod narrow;
mod nbits;
mod node;
mod norm;
mod order;
mod pool;
pub mod proto;
mod qlinear;
mod quant;
mod recurrent;
mod reduce;
mod resize;
mod sampling;
mod scope;
mod sequences;
mod signal;
mod sources;
mod tensor;
#[cfg(test)]
mod tests;
mod transformer;
mod types;

/// Operator sets whose meanings the importers below know.
const OPSETS: std::ops::RangeInclusive<i64> = 1..=28;

type Importer = fn(&mut Builder, &OnnxNode<'_>) -> Outcome;

/// Every operator that is imported, by family. Adding one means a row here and a function there.
const OPERATORS: &[&[(&str, Importer)]] = &[
    conv::OPERATORS,
    conv_transpose::OPERATORS,
    causal_conv::OPERATORS,
    norm::OPERATORS,
    signal::OPERATORS,
    pool::OPERATORS,
    matmul::OPERATORS,
    elementwise::OPERATORS,
    data::OPERATORS,
    resize::OPERATORS,
    reduce::OPERATORS,
    quant::OPERATORS,
    qlinear::OPERATORS,
    sources::OPERATORS,
    types::OPERATORS,
    recurrent::OPERATORS,
    einsum::OPERATORS,
    loss::OPERATORS,
    attention::OPERATORS,
    transformer::OPERATORS,
    indexing::OPERATORS,
    sampling::OPERATORS,
    deform::OPERATORS,
    sequences::OPERATORS,
];

/// Operators of other domains.
const DOMAINS: &[(&str, &[(&str, Importer)])] = &[
    ("ai.onnx.preview", attention::PREVIEW_OPERATORS),
    ("com.microsoft", contrib::OPERATORS),
    ("com.microsoft", norm::MICROSOFT),
    ("com.microsoft", qlinear::CONTRIB),
    ("com.microsoft", nbits::CONTRIB),
];

/// `domain` is empty for ONNX's own operators.
fn importer(domain: &str, op_type: &str) -> Option<Importer> {
    let own = OPERATORS.iter().copied().flatten().filter(|_| domain.is_empty());
    let others = DOMAINS.iter().filter(|(name, _)| *name == domain).flat_map(|(_, rows)| *rows);
    own.chain(others).find(|(name, _)| *name == op_type).map(|(_, import)| *import)
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
    let initializers = scope::initializers(graph)?;
    // Up to IR version 3, initializers are listed among the inputs.
    let inputs = graph.input.iter().map(|i| i.name());
    let inputs = inputs.filter(|name| !initializers.contains_key(name)).collect();
    let outputs = graph.output.iter().map(|o| o.name()).collect();
    let body = Body::new(&graph.node, initializers, inputs, outputs)?;
    let mut import = Import {
        graph,
        base_dir,
        builder: Builder::new(result, file_bytes),
        scope: Scope::outermost(body, opset),
        outer: Vec::new(),
        bodies: Bodies::default(),
        functions: functions::by_name(&model)?,
        unsupported: Vec::new(),
        notes: Vec::new(),
    };
    import.builder.pads_boxes = options.pad_boxes;
    inputs::add(&mut import, options)?;
    let body = import.scope.body.clone();
    for index in &body.order {
        import.node(*index)?;
    }
    import.finish()
}

fn opset(model: &ModelProto) -> Result<i64, ImportError> {
    let mut versions = model.opset_import.iter().filter(|o| matches!(o.domain(), "" | "ai.onnx"));
    let Some(set) = versions.next() else {
        // All its nodes are of other domains, each with a version of its own.
        if !model.opset_import.is_empty() {
            return Ok(*OPSETS.end());
        }
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
    /// An optional input of a function that the call leaves out.
    Absent,
}

/// The state of one import.
struct Import<'a> {
    graph: &'a GraphProto,
    base_dir: Option<&'a Path>,
    builder: Builder,
    /// The graph or body at hand, and those around it, outermost first.
    scope: Scope<'a>,
    outer: Vec<Scope<'a>>,
    bodies: Bodies<'a>,
    functions: HashMap<functions::Key<'a>, &'a FunctionProto>,
    unsupported: Vec<UnsupportedNode>,
    notes: Vec<String>,
}

impl<'a> Import<'a> {
    fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    fn note_type(&mut self, onnx: i32) {
        match onnx {
            data_type::DOUBLE => self.note("float64 tensors are computed in float32"),
            data_type::UINT16 | data_type::UINT32 | data_type::UINT64 => {
                self.note("unsigned integers wider than 8 bits are computed in int64");
            }
            data_type::INT2 | data_type::INT4 | data_type::UINT2 | data_type::UINT4 => {
                self.note("integers of 2 and 4 bits are held in 8");
            }
            _ if narrow::bits(onnx).is_some() => {
                self.note("floating-point numbers of 8 bits and less are held in float32");
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
        let node = UnsupportedNode {
            op_type: op_type.to_owned(),
            domain: domain.to_owned(),
            count: 1,
            first_node_name: name.to_owned(),
            shapes,
            reason,
            remedy,
        };
        node.join(&mut self.unsupported);
    }

    /// Imports a node of the scope at hand.
    fn node(&mut self, index: usize) -> Result<(), ImportError> {
        let proto: &'a NodeProto = &self.scope.body.nodes[index];
        let op_type = proto.op_type();
        let prefix = &self.scope.prefix;
        let name = match proto.name() {
            "" => format!("{prefix}{op_type} #{index}"),
            name => format!("{prefix}{name}"),
        };
        let mut slots = Vec::with_capacity(proto.input.len());
        for input in &proto.input {
            let slot = match input.as_str() {
                "" => Slot::Absent,
                input => self.value(input)?.ok_or_else(|| {
                    let problem =
                        format!("{op_type} `{name}` reads `{input}`, which nothing makes");
                    ImportError::Model(problem)
                })?,
            };
            slots.push(slot);
        }
        let attributes = Attributes::resolved(&proto.attribute, self.scope.given());
        self.note_types(&attributes);
        // A constant in a body that is imported again and again is still one constant.
        let constant = match (own(proto.domain()), op_type, attributes.list()) {
            ("", "Constant", [(_, attribute)]) => Some(scope::address(*attribute)),
            _ => None,
        };
        if let Some(slot) = constant.and_then(|key| self.bodies.constants.get(&key)).copied() {
            self.bind(proto, &name, &[slot]);
            return Ok(());
        }

        let values_before = self.builder.graph.values.len();
        let outcome = match attributes.check_names() {
            Ok(()) => self.outcome(proto, &name, attributes, &slots),
            Err(failure) => Err(failure.into()),
        };
        match outcome {
            Ok(values) => {
                if let (Some(key), [slot]) = (constant, values.as_slice()) {
                    self.bodies.constants.insert(key, *slot);
                }
                self.name(proto, &values, values_before);
                self.bind(proto, &name, &values);
                Ok(())
            }
            Err(Stop::Import(error)) => Err(error),
            Err(Stop::Node(Failure::Unsupported { reason, remedy })) => {
                let shapes = self.shapes(&slots);
                self.report(op_type, own(proto.domain()), &name, shapes, reason, remedy);
                self.poison(proto);
                Ok(())
            }
            Err(Stop::Node(Failure::Invalid(problem))) => Err(ImportError::Node {
                node: name,
                op_type: op_type.to_owned(),
                shapes: self.shapes(&slots),
                problem,
            }),
        }
    }

    /// The values that a node makes: by a function, by control flow, or by an operator's importer.
    fn outcome(
        &mut self,
        proto: &'a NodeProto,
        name: &str,
        attributes: Attributes<'a>,
        slots: &[Slot],
    ) -> Result<Vec<Slot>, Stop> {
        if let Some(function) = functions::called(self, proto) {
            return self.call(function, name, &attributes, slots.to_vec());
        }
        let domain = own(proto.domain());
        if domain.is_empty() && control::has_subgraphs(proto.op_type()) {
            let node = control::ControlNode { proto, name, attributes, slots };
            return control::import(self, &node);
        }
        let import = find_importer(proto, self.scope.opset)?;
        if slots.iter().any(|slot| matches!(slot, Slot::Poisoned)) {
            return Ok(vec![Slot::Poisoned; proto.output.len()]);
        }
        let is_sequence =
            |slot: &Slot| slot.value().is_some_and(|id| self.builder.sequence(id).is_some());
        if slots.iter().any(is_sequence) && !sequences::takes_sequences(proto.op_type()) {
            return Err(unsupported("an input that is a sequence of tensors", "").into());
        }
        let inputs = slots.iter().map(|slot| slot.value()).collect();
        let node = OnnxNode {
            name: name.to_owned(),
            inputs,
            outputs: &proto.output,
            attributes,
            opset: self.scope.opset,
        };
        if node.opset < 6 {
            // It once said which inputs may be overwritten.
            node.attributes.ignore("consumed_inputs");
        }
        let values = types::tracked(import, &mut self.builder, &node, proto.op_type())?;
        node.attributes.check_all_read()?;
        Ok(values.into_iter().map(Slot::Value).collect())
    }

    fn note_types(&mut self, attributes: &Attributes<'_>) {
        for (name, attribute) in attributes.list() {
            match (*name, &attribute.t) {
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

    /// Calls the values that a node made by the names of its outputs, but not an operand that it
    /// passed on.
    fn name(&mut self, proto: &NodeProto, values: &[Slot], values_before: usize) {
        for (output, slot) in proto.output.iter().zip(values).filter(|(o, _)| !o.is_empty()) {
            if let Slot::Value(id) = slot
                && id.0 as usize >= values_before
            {
                self.builder.graph.value_mut(*id).name = output.clone();
            }
        }
    }

    /// Makes the names of a node's outputs stand for these values.
    fn bind(&mut self, proto: &'a NodeProto, node: &str, values: &[Slot]) {
        for (index, output) in proto.output.iter().enumerate().filter(|(_, o)| !o.is_empty()) {
            let slot = values.get(index).copied().unwrap_or_else(|| {
                let reason = format!("output #{index} is not supported");
                self.report(proto.op_type(), "", node, String::new(), reason, String::new());
                Slot::Poisoned
            });
            self.scope.values.insert(output, slot);
        }
    }

    fn poison(&mut self, proto: &'a NodeProto) {
        for output in proto.output.iter().filter(|o| !o.is_empty()) {
            self.scope.values.insert(output, Slot::Poisoned);
        }
    }

    /// `f32 1×3×32×32, i64 2, –, ?` for a missing and an unknown operand.
    fn shapes(&self, slots: &[Slot]) -> String {
        const MOST: usize = 8; // operands; a Concat can have hundreds
        let text = |slot: &Slot| match slot {
            Slot::Absent => "–".to_owned(),
            Slot::Poisoned => "?".to_owned(),
            Slot::Value(id) if self.builder.sequence(*id).is_some() => "sequence".to_owned(),
            Slot::Value(id) => {
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
                Some(Slot::Absent) | None => {
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
            return Err(unsupported(
                "it is a sequence of tensors",
                "make its tensors the model's outputs",
            ));
        }
        let own = builder.producer(id).is_some() && !builder.graph.outputs.contains(&id);
        // Whoever reads integers wants the model's own, not reals that they stand for.
        let quantized = builder.graph.value(id).quant.is_some();
        let id = match own && !quantized {
            true => id,
            false => {
                let node = OnnxNode {
                    name: format!("{name}/output"),
                    inputs: Vec::new(),
                    outputs: &[],
                    attributes: Attributes::new(&[]),
                    opset: self.scope.opset,
                };
                let op = if quantized { Op::BitCast } else { Op::Reshape };
                builder.emit_unfolded(&node, op, id)?
            }
        };
        let value = builder.graph.value_mut(id);
        value.quant = None;
        value.name = name.to_owned();
        builder.graph.outputs.push(id);
        Ok(())
    }
}

impl Slot {
    /// The value, if it is one.
    fn value(&self) -> Option<ValueId> {
        match self {
            Slot::Value(id) => Some(*id),
            Slot::Poisoned | Slot::Absent => None,
        }
    }
}

/// A domain, empty for ONNX's own.
fn own(domain: &str) -> &str {
    match domain {
        "ai.onnx" => "",
        domain => domain,
    }
}

/// The importer of a node, or why there is none.
fn find_importer(proto: &NodeProto, opset: i64) -> Result<Importer, Failure> {
    let (domain, op_type) = (own(proto.domain()), proto.op_type());
    if let Some(import) = importer(domain, op_type) {
        if !domain.is_empty() || legacy::is_known(op_type, opset) {
            return Ok(import);
        }
        return Err(unsupported(
            format!("its form in operator set {opset} is not supported"),
            "convert the model with onnx.version_converter",
        ));
    }
    if !domain.is_empty() && !DOMAINS.iter().any(|(name, _)| *name == domain) {
        return Err(unsupported(
            format!("operator domain {domain} is not supported"),
            "export the model with ONNX's own operators",
        ));
    }
    Err(unsupported("the operator is not supported", remedy_for(proto.op_type())))
}

/// Advice for operators that models use often.
fn remedy_for(op_type: &str) -> String {
    let advice = match op_type {
        "ImageDecoder" | "StringNormalizer" | "StringSplit" | "StringConcat" | "RegexFullMatch"
        | "TfIdfVectorizer" => "do this step in the application and start the model behind it",
        "Bernoulli" | "Multinomial" | "RandomNormal" | "RandomNormalLike" | "RandomUniform"
        | "RandomUniformLike" => "make the random numbers an input of the model",
        _ => "end the model before it, or replace it by other operators",
    };
    advice.to_owned()
}

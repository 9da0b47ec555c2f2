//! Names and what they stand for: one scope per graph, subgraph or function body under import.
//!
//! A subgraph sees the names of the graphs around it, a function only its own. Bodies are imported
//! where they are used, once per use; a model can ask for far more nodes that way than it holds, so
//! both the depth and the number of nodes are bounded.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::attributes::Named;
use super::order;
use super::proto::{FunctionProto, GraphProto, NodeProto, TensorProto};
use super::tensor::{self, TensorProblem};
use super::{Import, Slot};
use crate::error::ImportError;

/// Scopes inside each other. Deep enough for a module tree; shallow enough for a thread's stack.
const MAX_DEPTH: usize = 48;

/// Nodes that functions, branches and unrolled loops may add: a loop of a hundred nodes can run a
/// thousand times. Long names and operand lists count as more than one.
const MAX_INLINED_NODES: usize = 1 << 17;

/// A longer name of a node isn't put before the names of the nodes that it becomes.
const MAX_PREFIX_BYTES: usize = 256;

/// The names of one graph or function body.
pub(super) struct Scope<'a> {
    pub(super) values: HashMap<&'a str, Slot>,
    pub(super) body: Rc<Body<'a>>,
    /// Version of the default operator set.
    pub(super) opset: i64,
    /// What stands before the names of its nodes.
    pub(super) prefix: String,
    /// The function that it is the body of, and the attributes of the call.
    function: Option<Call<'a>>,
    /// Whether names that it doesn't have are looked up in the scope around it.
    captures: bool,
}

#[derive(Clone)]
struct Call<'a> {
    function: &'a FunctionProto,
    attributes: Rc<[Named<'a>]>,
}

/// The nodes of a graph or a function, sorted once, however often they are imported.
#[derive(Default)]
pub(super) struct Body<'a> {
    pub(super) nodes: &'a [NodeProto],
    /// Indices of the nodes that the outputs need, in topological order.
    pub(super) order: Vec<usize>,
    /// Not yet read: many are only shapes, some aren't used at all.
    pub(super) initializers: HashMap<&'a str, &'a TensorProto>,
    pub(super) inputs: Vec<&'a str>,
    pub(super) outputs: Vec<&'a str>,
    /// What importing it takes from the number of nodes that are left.
    cost: usize,
}

/// What an import keeps about bodies.
pub(super) struct Bodies<'a> {
    /// By address of their graph or function.
    known: HashMap<usize, Rc<Body<'a>>>,
    /// Tensors that were read, by address: a body in a loop holds the same ones every time.
    pub(super) constants: HashMap<usize, Slot>,
    nodes_left: usize,
}

impl Default for Bodies<'_> {
    fn default() -> Self {
        Bodies { known: HashMap::new(), constants: HashMap::new(), nodes_left: MAX_INLINED_NODES }
    }
}

/// What tells two messages of the decoded model apart.
pub(super) fn address<T>(message: &T) -> usize {
    std::ptr::from_ref(message).addr()
}

/// The initializers of a graph by name.
pub(super) fn initializers(graph: &GraphProto) -> Result<HashMap<&str, &TensorProto>, ImportError> {
    let mut by_name = HashMap::new();
    for tensor in &graph.initializer {
        if by_name.insert(tensor.name(), tensor).is_some() {
            let problem = format!("initializer `{}` occurs twice", tensor.name());
            return Err(ImportError::Model(problem));
        }
    }
    if let Some(sparse) = graph.sparse_initializer.first() {
        let name = sparse.values.as_ref().map_or("", |v| v.name());
        return Err(ImportError::Tensor {
            name: name.to_owned(),
            problem: "sparse tensors are not supported; store it densely".to_owned(),
        });
    }
    Ok(by_name)
}

/// Nodes that a node counts as: its own record, and text and lists that are copied with it.
fn cost(node: &NodeProto) -> usize {
    let lists = node.input.len() + node.output.len() + node.attribute.len();
    let text = node.name().len() + node.output.iter().map(String::len).sum::<usize>();
    1 + lists / 16 + text / 512
}

impl<'a> Body<'a> {
    pub(super) fn new(
        nodes: &'a [NodeProto],
        initializers: HashMap<&'a str, &'a TensorProto>,
        inputs: Vec<&'a str>,
        outputs: Vec<&'a str>,
    ) -> Result<Body<'a>, ImportError> {
        let given: HashSet<&str> = inputs.iter().copied().collect();
        let order = order::sorted(nodes, outputs.iter().copied(), |name| {
            initializers.contains_key(name) || given.contains(name)
        })?;
        let cost = order.iter().map(|index| cost(&nodes[*index])).sum();
        Ok(Body { nodes, order, initializers, inputs, outputs, cost })
    }
}

impl<'a> Scope<'a> {
    /// The scope of the model's graph.
    pub(super) fn outermost(body: Body<'a>, opset: i64) -> Scope<'a> {
        Scope {
            values: HashMap::new(),
            body: Rc::new(body),
            opset,
            prefix: String::new(),
            function: None,
            captures: false,
        }
    }

    /// The attributes that references in this body stand for.
    pub(super) fn given(&self) -> Option<&[Named<'a>]> {
        self.function.as_ref().map(|call| &*call.attributes)
    }
}

impl<'a> Import<'a> {
    /// The sorted nodes of a subgraph.
    pub(super) fn body_of_graph(
        &mut self,
        graph: &'a GraphProto,
    ) -> Result<Rc<Body<'a>>, ImportError> {
        if let Some(body) = self.bodies.known.get(&address(graph)) {
            return Ok(body.clone());
        }
        let inputs = graph.input.iter().map(|i| i.name()).collect();
        let outputs = graph.output.iter().map(|o| o.name()).collect();
        let body = Rc::new(Body::new(&graph.node, initializers(graph)?, inputs, outputs)?);
        self.bodies.known.insert(address(graph), body.clone());
        Ok(body)
    }

    /// The sorted nodes of a function.
    fn body_of_function(
        &mut self,
        function: &'a FunctionProto,
    ) -> Result<Rc<Body<'a>>, ImportError> {
        if let Some(body) = self.bodies.known.get(&address(function)) {
            return Ok(body.clone());
        }
        let inputs = function.input.iter().map(String::as_str).collect();
        let outputs = function.output.iter().map(String::as_str).collect();
        let body = Rc::new(Body::new(&function.node, HashMap::new(), inputs, outputs)?);
        self.bodies.known.insert(address(function), body.clone());
        Ok(body)
    }

    /// Imports a subgraph with these values for its inputs; the values of its outputs.
    pub(super) fn import_subgraph(
        &mut self,
        graph: &'a GraphProto,
        inputs: Vec<Slot>,
        prefix: Option<&str>,
    ) -> Result<Vec<Slot>, ImportError> {
        let body = self.body_of_graph(graph)?;
        let around = &self.scope;
        let scope = Scope {
            values: HashMap::new(),
            body,
            opset: around.opset,
            prefix: prefixed(around, prefix),
            function: around.function.clone(),
            captures: true,
        };
        self.import_body(scope, inputs)
    }

    /// Imports the body of a function with these values for its inputs; the values of its outputs.
    pub(super) fn import_function(
        &mut self,
        function: &'a FunctionProto,
        opset: i64,
        attributes: Vec<Named<'a>>,
        inputs: Vec<Slot>,
        name: &str,
    ) -> Result<Vec<Slot>, ImportError> {
        let is_open = |scope: &Scope<'_>| {
            scope.function.as_ref().is_some_and(|call| std::ptr::eq(call.function, function))
        };
        if self.outer.iter().chain([&self.scope]).any(is_open) {
            return Err(ImportError::Model(format!("function `{}` calls itself", function.name())));
        }
        let scope = Scope {
            values: HashMap::new(),
            body: self.body_of_function(function)?,
            opset,
            prefix: prefixed(&self.scope, Some(name)),
            function: Some(Call { function, attributes: attributes.into() }),
            captures: false,
        };
        self.import_body(scope, inputs)
    }

    fn import_body(
        &mut self,
        mut scope: Scope<'a>,
        inputs: Vec<Slot>,
    ) -> Result<Vec<Slot>, ImportError> {
        if self.outer.len() + 1 >= MAX_DEPTH {
            return Err(ImportError::Model(format!(
                "functions and subgraphs nest more than {MAX_DEPTH} deep; {SIMPLIFY}"
            )));
        }
        let body = scope.body.clone();
        match self.bodies.nodes_left.checked_sub(1 + body.cost) {
            Some(left) => self.bodies.nodes_left = left,
            None => {
                return Err(ImportError::Model(format!(
                    "its functions and loops come to more than {MAX_INLINED_NODES} nodes; {SIMPLIFY}"
                )));
            }
        }
        for (name, slot) in body.inputs.iter().zip(inputs) {
            scope.values.insert(*name, slot);
        }
        let around = std::mem::replace(&mut self.scope, scope);
        self.outer.push(around);
        let outputs = self.body_outputs(&body);
        self.scope = self.outer.pop().expect("it was pushed above");
        outputs
    }

    fn body_outputs(&mut self, body: &Body<'a>) -> Result<Vec<Slot>, ImportError> {
        for index in &body.order {
            self.node(*index)?;
        }
        let mut outputs = Vec::with_capacity(body.outputs.len());
        for name in &body.outputs {
            match self.value(name)? {
                Some(slot) => outputs.push(slot),
                None => {
                    let problem = format!("output `{name}` of a body is made by no node");
                    return Err(ImportError::Model(problem));
                }
            }
        }
        Ok(outputs)
    }

    /// What a name stands for, reading it first when it is an initializer.
    pub(super) fn value(&mut self, name: &'a str) -> Result<Option<Slot>, ImportError> {
        // 0 is the scope at hand, counting outwards.
        let mut found = None;
        for (distance, scope) in
            std::iter::once(&self.scope).chain(self.outer.iter().rev()).enumerate()
        {
            if let Some(slot) = scope.values.get(name) {
                return Ok(Some(*slot));
            }
            if let Some(proto) = scope.body.initializers.get(name) {
                found = Some((distance, *proto));
                break;
            }
            if !scope.captures {
                break;
            }
        }
        let Some((distance, proto)) = found else {
            return Ok(None);
        };
        let slot = match self.bodies.constants.get(&address(proto)) {
            Some(slot) => *slot,
            None => self.read_initializer(proto)?,
        };
        self.bodies.constants.insert(address(proto), slot);
        let scope = match distance {
            0 => &mut self.scope,
            _ => {
                let at = self.outer.len() - distance;
                &mut self.outer[at]
            }
        };
        scope.values.insert(name, slot);
        Ok(Some(slot))
    }

    fn read_initializer(&mut self, proto: &'a TensorProto) -> Result<Slot, ImportError> {
        let name = proto.name();
        match tensor::read(proto, self.base_dir) {
            Ok(tensor) => {
                self.note_type(proto.data_type());
                let id = self.builder.constant(name.to_owned(), tensor);
                self.builder.set_onnx_type(id, proto.data_type());
                Ok(Slot::Value(id))
            }
            Err(TensorProblem::UnsupportedType(reason)) => {
                self.report("initializer", "", name, String::new(), reason, String::new());
                Ok(Slot::Poisoned)
            }
            Err(TensorProblem::Invalid(problem)) => {
                Err(ImportError::Tensor { name: name.to_owned(), problem })
            }
        }
    }
}

const SIMPLIFY: &str = "simplify the model first, for example with onnxsim";

fn prefixed(around: &Scope<'_>, name: Option<&str>) -> String {
    match name {
        Some(name) if name.len() <= MAX_PREFIX_BYTES => format!("{name}/"),
        _ => around.prefix.clone(),
    }
}

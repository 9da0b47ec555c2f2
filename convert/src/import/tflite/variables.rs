//! What a model keeps from one run to the next: variables (VAR_HANDLE, READ_VARIABLE, ASSIGN_VARIABLE) with
//! the graph that gives them their first values (CALL_ONCE), and tensors that an operator updates. Both
//! become states of the graph.
//!
//! A variable is what was assigned to it last. What a run reads before it assigns is the state; what it
//! holds when the run ends is the state's next content. The initialising graph is worked out at import.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use whit::DType;

use super::node::TfliteNode;
use super::schema::{CallOnceOptions, Operator, Tensor, VarHandleOptions};
use super::{Import, Slot, activation_quant, tensor};
use crate::dim::Dim;
use crate::error::ImportError;
use crate::graph::{Op, State, ValueId};
use crate::import::failure::{Failure, invalid, unsupported};
use crate::tensor::Tensor as Constant;

/// The variables of a model.
#[derive(Default)]
pub(super) struct Variables {
    list: Vec<Variable>,
    /// By container and name.
    numbers: HashMap<(String, String), usize>,
    /// Initialising graphs that have been run.
    initialised: HashSet<usize>,
    /// An initialising graph is being worked out.
    initialising: bool,
}

struct Variable {
    name: String,
    /// What the initialising graph assigned.
    initial: Option<Arc<Constant>>,
    /// What it holds at this place of the graph; `None` before anything was read or assigned.
    current: Option<ValueId>,
    /// What it held at the start of the run, if that was read.
    read: Option<ValueId>,
}

impl<'a> Import<'a> {
    /// What an operator on variables makes; `None` for every other operator.
    pub(super) fn variable_operator(
        &mut self,
        op_type: &str,
        operator: &'a Operator,
        slots: &[Option<Slot>],
    ) -> Result<Option<Vec<Slot>>, Failure> {
        let node = TfliteNode {
            name: String::new(),
            inputs: Vec::new(),
            tensors: &self.graph.tensors,
            operator,
            bytes: self.file,
        };
        let variable = || match slots.first() {
            Some(Some(Slot::Variable(number))) => Ok(*number),
            _ => Err(invalid("its first input is no variable")),
        };
        let made = match op_type {
            "VAR_HANDLE" => {
                let VarHandleOptions { container, shared_name } = node.options()?;
                let variables = &mut self.variables;
                let next = variables.list.len();
                let key = (container, shared_name.clone());
                let number = *variables.numbers.entry(key).or_insert(next);
                if number == next {
                    let name = shared_name;
                    let (initial, current, read) = (None, None, None);
                    variables.list.push(Variable { name, initial, current, read });
                }
                vec![Slot::Variable(number)]
            }
            "READ_VARIABLE" => vec![Slot::Value(self.read(variable()?, node.output_tensor(0)?)?)],
            "ASSIGN_VARIABLE" => {
                match slots.get(1) {
                    Some(Some(Slot::Value(id))) => self.assign(variable()?, *id)?,
                    // Reported where it went wrong.
                    Some(Some(Slot::Poisoned)) => {}
                    _ => return Err(invalid("it has no value to assign")),
                }
                Vec::new()
            }
            "CALL_ONCE" => {
                let options: CallOnceOptions = node.options()?;
                self.initialise(options.subgraph)?;
                Vec::new()
            }
            _ => return Ok(None),
        };
        Ok(Some(made))
    }

    fn read(&mut self, number: usize, tensor: &Tensor) -> Result<ValueId, Failure> {
        let variable = &self.variables.list[number];
        if let Some(current) = variable.current {
            return Ok(current);
        }
        let name = variable.name.clone();
        let Some(initial) = variable.initial.clone().filter(|_| !self.variables.initialising)
        else {
            return Err(unsupported(
                format!("variable `{name}` is read before anything was assigned to it"),
                "export the model with an initialising graph",
            ));
        };
        let shape = initial.shape.iter().map(|size| Dim::from(*size)).collect();
        let read = self.builder.value(name.clone(), initial.dtype, shape)?;
        self.builder.graph.value_mut(read).quant = activation_quant(tensor)?;
        let initial = Some(initial);
        self.builder.graph.states.push(State { name, read, next: read, initial });
        let variable = &mut self.variables.list[number];
        (variable.current, variable.read) = (Some(read), Some(read));
        Ok(read)
    }

    fn assign(&mut self, number: usize, id: ValueId) -> Result<(), Failure> {
        if !self.variables.initialising {
            self.variables.list[number].current = Some(id);
            return Ok(());
        }
        let constant = self.builder.tensor(id).ok_or_else(|| {
            unsupported("a first value that isn't constant", "assign constants in it")
        })?;
        self.variables.list[number].initial = Some(constant);
        Ok(())
    }

    /// Works out a graph that runs once, before all others.
    fn initialise(&mut self, subgraph: i32) -> Result<(), Failure> {
        let wrong = |error: ImportError| invalid(format!("graph #{subgraph}: {error}"));
        let number = usize::try_from(subgraph).ok();
        let graph = number.and_then(|number| Some((number, self.model.subgraphs.get(number)?)));
        let (number, graph) =
            graph.ok_or_else(|| invalid(format!("graph #{subgraph} doesn't exist")))?;
        if self.variables.initialising || number == 0 {
            return Err(invalid("an initialising graph calls another one"));
        }
        if !self.variables.initialised.insert(number) {
            return Ok(());
        }
        let unsupported_before = self.unsupported.len();
        let main = std::mem::replace(&mut self.graph, graph);
        let slots = vec![Slot::Unknown; graph.tensors.len()];
        let main_slots = std::mem::replace(&mut self.slots, slots);
        self.variables.initialising = true;
        let mut operators = graph.operators.iter().enumerate();
        let result = operators.try_for_each(|(at, operator)| self.operator(at, operator));
        self.variables.initialising = false;
        (self.graph, self.slots) = (main, main_slots);
        result.map_err(wrong)?;
        if self.unsupported.len() > unsupported_before {
            return Err(unsupported("an operator of the graph that it calls is not supported", ""));
        }
        Ok(())
    }

    /// A tensor that its operator updates: it starts as the real number 0.
    pub(super) fn variable_tensor(&mut self, tensor: &Tensor) -> Result<ValueId, Failure> {
        let dtype = tensor::dtype_of(tensor.kind)?;
        let shape = tensor::sizes(tensor)?;
        let dims = shape.iter().map(|size| Dim::from(*size)).collect();
        let read = self.builder.value(tensor.name.clone(), dtype, dims)?;
        let quant = activation_quant(tensor)?;
        let zero_point = quant.as_ref().map_or(0, |quant| quant.zero_point[0]);
        let initial = match (dtype, zero_point) {
            (DType::I8, 1..) | (DType::I8, ..=-1) => {
                let count = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
                let count = count.ok_or_else(|| invalid("a tensor without end"))?;
                self.builder.charge(count)?;
                Some(Arc::new(Constant::from_i8(shape, &vec![zero_point as i8; count])))
            }
            _ => None,
        };
        self.builder.graph.value_mut(read).quant = quant;
        let name = tensor.name.clone();
        self.builder.graph.states.push(State { name, read, next: read, initial });
        Ok(read)
    }

    /// Gives every variable that is read what it holds at the end of a run.
    pub(super) fn finish_variables(&mut self) -> Result<(), ImportError> {
        for variable in &self.variables.list {
            let (Some(read), Some(mut next)) = (variable.read, variable.current) else { continue };
            let wrong = |problem: String| {
                ImportError::Model(format!("variable `{}`: {problem}", variable.name))
            };
            let kind = |id: ValueId| {
                let value = self.builder.graph.value(id);
                (value.dtype, value.shape.clone())
            };
            if kind(read) != kind(next) {
                let text = |(dtype, shape): (DType, Vec<Dim>)| {
                    format!("{dtype} {}", self.builder.text(&shape))
                };
                let (from, to) = (text(kind(read)), text(kind(next)));
                return Err(wrong(format!("it is {from} and becomes {to}")));
            }
            let quant = self.builder.graph.value(read).quant.clone();
            if self.builder.graph.value(next).quant != quant {
                // The bytes are what stays.
                let (dtype, shape) = kind(read);
                let name = format!("{}/assign", variable.name);
                let made = self.builder.emit(&name, "", Op::BitCast, &[Some(next)], dtype, shape);
                next = made.map_err(|failure| wrong(failure.text()))?;
                self.builder.graph.value_mut(next).quant = quant;
            }
            let mut states = self.builder.graph.states.iter_mut();
            if let Some(state) = states.find(|state| state.read == read) {
                state.next = next;
            }
        }
        Ok(())
    }
}

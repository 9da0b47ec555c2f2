//! Calls of the model's own functions, imported as their bodies.

use std::collections::HashMap;

use super::attributes::{Attributes, Named};
use super::failure::{Failure, Stop, invalid, unsupported};
use super::proto::{FunctionProto, ModelProto, NodeProto};
use super::{Import, OPSETS, Slot, own};
use crate::error::ImportError;

/// Domain, name, overload.
pub(super) type Key<'a> = (&'a str, &'a str, &'a str);

/// The function that a node calls, if it calls one.
pub(super) fn called<'a>(import: &Import<'a>, node: &NodeProto) -> Option<&'a FunctionProto> {
    let key = (own(node.domain()), node.op_type(), node.overload());
    import.functions.get(&key).copied()
}

/// The functions of a model.
pub(super) fn by_name(model: &ModelProto) -> Result<HashMap<Key<'_>, &FunctionProto>, ImportError> {
    let mut functions = HashMap::new();
    for function in &model.functions {
        let key = (own(function.domain()), function.name(), function.overload());
        if functions.insert(key, function).is_some() {
            let problem = format!("function `{}` is defined twice", function.name());
            return Err(ImportError::Model(problem));
        }
    }
    Ok(functions)
}

impl<'a> Import<'a> {
    /// The values of a call's outputs.
    pub(super) fn call(
        &mut self,
        function: &'a FunctionProto,
        name: &str,
        attributes: &Attributes<'a>,
        mut inputs: Vec<Slot>,
    ) -> Result<Vec<Slot>, Stop> {
        if inputs.len() > function.input.len() {
            let counts = format!("{} inputs; it has {}", inputs.len(), function.input.len());
            let call = format!("a call of function `{}` with {counts}", function.name());
            return Err(invalid(call).into());
        }
        inputs.resize(function.input.len(), Slot::Absent);
        let attributes = bound(function, attributes)?;
        let opset = opset(function, self.scope.opset)?;
        Ok(self.import_function(function, opset, attributes, inputs, name)?)
    }
}

/// The version of the default operator set that the body is written in.
fn opset(function: &FunctionProto, around: i64) -> Result<i64, Failure> {
    let set = function.opset_import.iter().find(|set| own(set.domain()).is_empty());
    let version = set.map_or(around, |set| set.version());
    match OPSETS.contains(&version) {
        true => Ok(version),
        false => Err(unsupported(
            format!("function `{}` uses operator set {version}", function.name()),
            format!(
                "export it with one of the operator sets {} to {}",
                OPSETS.start(),
                OPSETS.end()
            ),
        )),
    }
}

/// The attributes of a call, with the function's defaults for those that it leaves out.
fn bound<'a>(
    function: &'a FunctionProto,
    given: &Attributes<'a>,
) -> Result<Vec<Named<'a>>, Failure> {
    let is_declared = |name: &str| {
        function.attribute.iter().any(|declared| declared == name)
            || function.attribute_proto.iter().any(|declared| declared.name() == name)
    };
    let mut attributes = given.list().to_vec();
    if let Some((name, _)) = attributes.iter().find(|(name, _)| !is_declared(name)) {
        return Err(invalid(format!("function `{}` has no attribute `{name}`", function.name())));
    }
    for default in &function.attribute_proto {
        if !attributes.iter().any(|(name, _)| *name == default.name()) {
            attributes.push((default.name(), default));
        }
    }
    Ok(attributes)
}

//! A node of the model as its operator's importer sees it.

use super::attributes::Attributes;
use super::builder::Named;
use super::failure::{Failure, invalid};
use crate::graph::ValueId;

/// One node of the model, with its operands resolved.
pub(crate) struct OnnxNode<'a> {
    /// Its name, or operator and index when it has none.
    pub name: String,
    pub inputs: Vec<Option<ValueId>>,
    /// Names of the outputs; empty for one that nobody wants.
    pub outputs: &'a [String],
    pub attributes: Attributes<'a>,
    /// Version of the default operator set.
    pub opset: i64,
}

impl Named for OnnxNode<'_> {
    fn name(&self) -> &str {
        &self.name
    }
}

impl OnnxNode<'_> {
    pub(crate) fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    pub(crate) fn required(&self, index: usize, what: &str) -> Result<ValueId, Failure> {
        self.input(index).ok_or_else(|| invalid(format!("input #{index} ({what}) is missing")))
    }

    /// Refuses more inputs than the operator has.
    pub(crate) fn at_most(&self, inputs: usize) -> Result<(), Failure> {
        match self.inputs.len() > inputs {
            true => {
                Err(invalid(format!("{} inputs; at most {inputs} are defined", self.inputs.len())))
            }
            false => Ok(()),
        }
    }

    /// True when output `index` is read by somebody.
    pub(crate) fn wants(&self, index: usize) -> bool {
        self.outputs.get(index).is_some_and(|name| !name.is_empty())
    }
}

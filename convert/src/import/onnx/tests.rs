//! Models built with the protobuf structs: what each operator becomes, and what is refused.

use std::path::PathBuf;

use bytes::Bytes;

use super::import_onnx;
use super::proto::*;
use crate::error::ImportError;
use crate::graph::{Graph, Op};
use crate::import::{DimChoice, ImportOptions, InputLayout, import_file};

use AttributeProto as A;
use NodeProto as N;
use TensorProto as T;
use data_type as t;

mod arithmetic;
mod composites;
mod control;
mod hostile;
mod indexing;
mod models;
mod movement;
mod options;
mod recurrent;
mod spatial;
mod table;
mod types;
mod versions;
mod windows;

/// An f32 input.
fn input(name: &str, dims: &[&str]) -> ValueInfoProto {
    ValueInfoProto::tensor(name, t::FLOAT, dims.iter().map(|d| dim(d)))
}

/// `"3"` is a size, anything else a name.
fn dim(text: &str) -> DimensionProto {
    match text.parse::<i64>() {
        Ok(size) => size.into(),
        Err(_) => text.into(),
    }
}

/// A model whose output is `y`.
fn model(opset: i64, inputs: Vec<ValueInfoProto>, initializer: Vec<T>, node: Vec<N>) -> ModelProto {
    let output = vec![ValueInfoProto { name: Some("y".to_owned()), ..Default::default() }];
    ModelProto::new(
        opset,
        GraphProto { node, input: inputs, initializer, output, ..Default::default() },
    )
}

fn import(model: &ModelProto, options: &ImportOptions) -> Result<Graph, ImportError> {
    import_onnx(model.to_bytes(), None, options)
}

/// Short names of the graph's operators.
fn ops(graph: &Graph) -> String {
    let name = |op: &Op| {
        let text = format!("{op:?}");
        match op {
            Op::Binary(kind) => format!("{kind:?}"),
            Op::Unary(_) => text["Unary(".len()..text.len() - 1].to_owned(),
            Op::Reduce { kind, .. } => format!("Reduce{kind:?}"),
            _ => text.split([' ', '(', '{']).next().unwrap_or_default().to_owned(),
        }
    };
    graph.nodes.iter().map(|n| name(&n.op)).collect::<Vec<_>>().join(" ")
}

/// One importer for one operator of one domain.
#[test]
fn no_operator_is_imported_twice() {
    let own = super::OPERATORS.iter().map(|rows| ("", *rows));
    let mut seen = std::collections::HashSet::new();
    for (domain, rows) in own.chain(super::DOMAINS.iter().copied()) {
        for (operator, _) in rows {
            assert!(seen.insert((domain, *operator)), "{domain} {operator}");
        }
    }
}

/// The shape of the first output.
fn shape(graph: &Graph) -> String {
    graph.shape_text(&graph.value(graph.outputs[0]).shape)
}

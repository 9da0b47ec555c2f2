//! `whit convert --check`: whether a model can be converted, and everything that stands in the way.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use whit_convert::error::{ImportError, UnspecifiedDim, UnsupportedNode};
use whit_convert::graph::Graph;
use whit_convert::import::{DimChoice, ImportOptions, import_file};
use whit_convert::pipeline;

use super::{print_json, print_text};

/// Size tried for a dimension that the caller left open, so that its nodes can be looked at.
const TRIED_SIZE: i64 = 64;

#[derive(Default)]
struct Findings {
    nodes: usize,
    dims: Vec<UnspecifiedDim>,
    unsupported: Vec<UnsupportedNode>,
    /// Anything else, as one message.
    problem: Option<String>,
    notes: Vec<String>,
}

impl Findings {
    fn convertible(&self) -> bool {
        self.dims.is_empty() && self.unsupported.is_empty() && self.problem.is_none()
    }

    fn take(&mut self, graph: Graph) {
        self.nodes = graph.nodes.len();
        let notes = graph.metadata.iter().filter(|(key, _)| key == "note");
        self.notes = notes.map(|(_, note)| note.clone()).collect();
        if let Err(error) = pipeline::check(graph) {
            self.problem = Some(error.to_string());
        }
    }
}

/// Looks at a model; exit status 1 when it can't be converted as it is.
pub(super) fn run(model: &Path, options: &ImportOptions, json: bool) -> Result<ExitCode> {
    let mut found = Findings::default();
    match import_file(model, options) {
        Ok(graph) => found.take(graph),
        Err(ImportError::Unsupported(nodes)) => found.unsupported = nodes,
        Err(ImportError::UnspecifiedDims(dims)) => {
            // Which nodes are unsupported can be told all the same.
            let mut sized = options.clone();
            let chosen = |dim: &UnspecifiedDim| (dim.name.clone(), DimChoice::Fixed(TRIED_SIZE));
            sized.dims.extend(dims.iter().map(chosen));
            if let Err(ImportError::Unsupported(nodes)) = import_file(model, &sized) {
                found.unsupported = nodes;
            }
            found.dims = dims;
        }
        Err(error) => found.problem = Some(error.to_string()),
    }
    if json {
        print_json(&report(model, &found))?;
    } else {
        explain(model, &found)?;
    }
    Ok(ExitCode::from(u8::from(!found.convertible())))
}

fn report(model: &Path, found: &Findings) -> Value {
    let unsupported: Vec<Value> = found
        .unsupported
        .iter()
        .map(|node| {
            json!({
                "op_type": node.op_type,
                "domain": node.domain,
                "count": node.count,
                "first_node": node.first_node_name,
                "inputs": node.shapes,
                "reason": node.reason,
                "remedy": node.remedy,
            })
        })
        .collect();
    let dims: Vec<Value> =
        found.dims.iter().map(|dim| json!({ "name": dim.name, "place": dim.place })).collect();
    json!({
        "model": model.display().to_string(),
        "convertible": found.convertible(),
        "nodes": found.nodes,
        "unsupported": unsupported,
        "unspecified_dims": dims,
        "problem": found.problem,
        "notes": found.notes,
    })
}

fn explain(model: &Path, found: &Findings) -> Result<()> {
    let model = model.display();
    for note in &found.notes {
        eprintln!("note: {note}");
    }
    if found.convertible() {
        return print_text(&format!("{model}: all {} nodes are supported", found.nodes));
    }
    if !found.dims.is_empty() {
        eprintln!("error: {model}: {}", ImportError::UnspecifiedDims(found.dims.clone()));
    }
    if !found.unsupported.is_empty() {
        eprintln!("error: {model}: {}", ImportError::Unsupported(found.unsupported.clone()));
    }
    if let Some(problem) = &found.problem {
        eprintln!("error: {model}: {problem}");
    }
    Ok(())
}

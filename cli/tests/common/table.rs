//! A decoder whose logits are a table's rows, one behind each token. It has no cache, since it needs none.

use whit::DType;
use whit_convert::dim::{Dim, Symbol};
use whit_convert::graph::{Graph, Node, Op, ValueId};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_convert::tensor::Tensor;

/// The graph of a decoder with these logits behind each of its tokens, for runs of so many tokens; its inputs are tokens, positions and rows.
pub(crate) fn decoder(name: &str, table: &[f32], vocabulary: usize, most: i64) -> Graph {
    let mut graph = Graph { name: name.to_owned(), ..Graph::default() };
    for (name, max) in [("tokens", most), ("rows", 2)] {
        graph.symbols.push(Symbol { name: name.to_owned(), min: 1, max });
    }
    for (name, symbol) in [("tokens", 0), ("positions", 0), ("rows", 1)] {
        let value = graph.add_value(name, DType::I32, vec![Dim::symbol(symbol)]);
        graph.inputs.push(value);
    }
    let table = graph.add_constant("table", Tensor::from_f32([vocabulary, vocabulary], table));
    let (tokens, rows) = (graph.inputs[0], graph.inputs[2]);
    let all =
        looked_up(&mut graph, "all", [table, tokens], vec![Dim::symbol(0), Dim::from(vocabulary)]);
    let logits =
        looked_up(&mut graph, "logits", [all, rows], vec![Dim::symbol(1), Dim::from(vocabulary)]);
    graph.outputs.push(logits);
    graph
}

/// Adds the rows of a table that indices say.
pub(crate) fn looked_up(
    graph: &mut Graph,
    name: &str,
    [table, indices]: [ValueId; 2],
    shape: Vec<Dim>,
) -> ValueId {
    let rows = graph.add_value(name, DType::F32, shape);
    graph.nodes.push(Node {
        name: name.to_owned(),
        op: Op::Gather { axis: 0 },
        inputs: vec![Some(table), Some(indices)],
        outputs: vec![rows],
    });
    rows
}

/// The file of a graph with metadata, of which empty values are left out.
pub(crate) fn file(mut graph: Graph, metadata: &[(&str, &str)]) -> Vec<u8> {
    let kept = metadata.iter().filter(|(_, value)| !value.is_empty());
    graph.metadata = kept.map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let options = ConvertOptions { golden_cases: 0, ..ConvertOptions::default() };
    convert(graph, None, &options, &mut ()).expect("a model").file
}

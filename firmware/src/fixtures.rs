// Models for the tests, made in code; also included by the example of the crate's documentation.

use whit_convert::emit::{Golden, emit};
use whit_convert::evaluate::{Program, golden};
use whit_convert::graph::{Graph, Node, Op, Quant, UnaryKind};
use whit_convert::plan::PlanOptions;
use whit_convert::quantize::integers;

/// Elements of input and output.
#[allow(dead_code)]
pub(crate) const ELEMENTS: usize = 8;

/// The file of a classifier on 8 numbers, i8 in and out: the largest wins. `filler` bytes of
/// metadata make it longer, `edit` changes its two golden vectors.
pub(crate) fn classifier(filler: usize, edit: impl FnOnce(&mut Vec<Golden>)) -> Vec<u8> {
    let mut graph = Graph::default();
    let shape = || vec![1usize.into(), ELEMENTS.into()];
    let mut value = |name: &str, dtype, quant: Option<(f32, i32)>| {
        let id = graph.add_value(name, dtype, shape());
        graph.value_mut(id).quant = quant.map(|(scale, zero)| Quant::per_tensor(scale, zero));
        id
    };
    use whit::DType::{F32, I8};
    let x = value("x", I8, Some((1.0 / 32.0, -3)));
    let real = value("real", F32, None);
    let bent = value("bent", F32, None);
    let soft = value("soft", F32, None);
    let y = value("y", I8, Some((1.0 / 256.0, -128)));
    let steps = [
        (Op::Dequantize, x, real),
        (Op::Unary(UnaryKind::Relu), real, bent),
        (Op::Softmax { axis: 1, log: false }, bent, soft),
        (Op::Quantize, soft, y),
    ];
    for (number, (op, from, to)) in steps.into_iter().enumerate() {
        let name = format!("step{number}");
        graph.nodes.push(Node { name, op, inputs: vec![Some(from)], outputs: vec![to] });
    }
    (graph.inputs, graph.outputs) = (vec![x], vec![y]);
    graph.metadata.push(("filler".to_owned(), "x".repeat(filler)));
    integers::lower(&mut graph);
    let program = Program::new(&graph, &PlanOptions::default()).expect("a plan");
    let mut vectors = golden(&program, None, 2).expect("golden vectors");
    edit(&mut vectors);
    emit(&program.plan, &vectors)
}

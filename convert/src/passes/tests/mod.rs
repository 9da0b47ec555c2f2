//! Patterns as PyTorch, tf2onnx and JAX export them: what is left after the passes, and that it
//! computes the same.

mod attention;
pub(crate) mod builder;
mod cells;
mod cleaning;
mod functions;
mod fusing;
mod layout;
mod norm;
mod oracle;
mod random;

use crate::graph::{Graph, Op};

use builder::Build;
use oracle::Array;

/// One graph and the operators that should be left of it, in order.
struct Case {
    name: &'static str,
    build: fn(&mut Build) -> Graph,
    left: &'static str,
}

/// Folding rounds weights and biases to f32 once (2⁻²⁴ relative each); sums here have up to a few
/// hundred terms and results are compared relative to the largest.
const MAX_ERR: f64 = 1e-5;

/// Runs all passes over every case.
fn check_cases(cases: &[Case]) {
    let mut wrong = String::new();
    for case in cases {
        let mut build = Build::default();
        build.numbers(case.name.len());
        let before = (case.build)(&mut build);
        let mut after = before.clone();
        super::run_all(&mut after, &[], &mut |_, _| ());
        let left = summary(&after);
        if left != case.left {
            wrong += &format!("\n{}:\n  left     {left}\n  expected {}", case.name, case.left);
        }
        assert_same(case.name, &before, &after);
        for (a, b) in before.outputs.iter().zip(&after.outputs) {
            assert_eq!(before.value(*a).name, after.value(*b).name, "{}: output name", case.name);
            assert_eq!(
                before.value(*a).shape,
                after.value(*b).shape,
                "{}: output shape",
                case.name
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Both graphs give the same on random inputs, for two sizes of their symbols.
fn assert_same(name: &str, before: &Graph, after: &Graph) {
    super::check(after).unwrap_or_else(|error| panic!("{name}: {error}"));
    for size in [1, 3] {
        let symbols = vec![size; before.symbols.len()];
        let mut random = Build::default();
        let inputs: Vec<Array> = before
            .inputs
            .iter()
            .map(|id| {
                let value = before.value(*id);
                let shape = oracle::evaluated(&value.shape, &symbols);
                let numbers = random.numbers(shape.iter().product());
                let data = numbers.iter().map(|v| {
                    let v = f64::from(*v);
                    if value.dtype.is_float() { 2.0 * v } else { (6.0 * v).round() }
                });
                Array { shape: shape.clone(), data: data.collect() }
            })
            .collect();
        let expected = oracle::run(before, &inputs, &symbols);
        let actual = oracle::run(after, &inputs, &symbols);
        for (e, a) in expected.iter().zip(&actual) {
            assert_eq!(e.shape, a.shape, "{name}");
            let largest = e.data.iter().fold(1.0f64, |max, v| max.max(v.abs()));
            for (e, a) in e.data.iter().zip(&a.data) {
                assert!((e - a).abs() <= MAX_ERR * largest, "{name}: {e} became {a}");
            }
        }
    }
}

/// Operators in order, with what was fused into them.
fn summary(graph: &Graph) -> String {
    let text = |node: &crate::graph::Node| {
        let fused = |clamp: crate::graph::Clamp| {
            let mut text = String::new();
            for (k, name) in [(2, "+bias"), (3, "+residual")] {
                if super::edit::input(node, k).is_some() {
                    text.push_str(name);
                }
            }
            if clamp != crate::graph::Clamp::NONE {
                text.push_str("+clamp");
            }
            text
        };
        match &node.op {
            Op::Conv(conv) => format!("Conv{}", fused(conv.clamp)),
            Op::MatMul(matmul) => format!("MatMul{}", fused(matmul.clamp)),
            Op::Attention(attention) => {
                let mask = super::edit::input(node, 3).map(|_| "+mask");
                let causal = attention.causal.as_ref().map(|_| "+causal");
                let zero_rows = attention.zero_rows.then_some("+zero_rows");
                let fused = [mask, causal, zero_rows].into_iter().flatten().collect::<String>();
                format!("Attention{fused}")
            }
            Op::Normalize { .. } => {
                let scale = super::edit::input(node, 1).map(|_| "+scale").unwrap_or_default();
                let bias = super::edit::input(node, 2).map(|_| "+bias").unwrap_or_default();
                format!("Normalize{scale}{bias}")
            }
            Op::Unary(kind) => format!("{kind:?}"),
            Op::Binary(kind) => format!("{kind:?}"),
            other => {
                let text = format!("{other:?}");
                text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
            }
        }
    };
    graph.nodes.iter().map(text).collect::<Vec<_>>().join(" ")
}

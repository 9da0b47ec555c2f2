//! Tables of nodes, what they become and the shape of the result.

use super::*;

/// A model of a few nodes with the input `x` and the output `y`.
pub(super) struct Case {
    name: &'static str,
    opset: i64,
    x: &'static [&'static str],
    constants: Vec<T>,
    nodes: Vec<N>,
    /// Operators and shape of the result, or a part of the error.
    expected: Result<(&'static str, &'static str), &'static str>,
}

pub(super) fn case(
    name: &'static str,
    opset: i64,
    x: &'static [&'static str],
    constants: Vec<T>,
    nodes: Vec<N>,
    ops: &'static str,
    shape: &'static str,
) -> Case {
    Case { name, opset, x, constants, nodes, expected: Ok((ops, shape)) }
}

pub(super) fn refused(
    name: &'static str,
    opset: i64,
    x: &'static [&'static str],
    constants: Vec<T>,
    nodes: Vec<N>,
    error: &'static str,
) -> Case {
    Case { name, opset, x, constants, nodes, expected: Err(error) }
}

pub(super) fn check(cases: Vec<Case>) {
    let options = ImportOptions {
        dims: ["b", "s", "h"].map(|d| (d.to_owned(), DimChoice::Range(1, 64))).to_vec(),
        ..Default::default()
    };
    for case in cases {
        let inputs = vec![input("x", case.x)];
        let model = model(case.opset, inputs, case.constants, case.nodes);
        let mut options = options.clone();
        options.dims.retain(|(name, _)| case.x.contains(&name.as_str()));
        match (import(&model, &options), case.expected) {
            (Ok(graph), Ok((expected_ops, expected_shape))) => {
                assert_eq!(
                    (ops(&graph).as_str(), shape(&graph).as_str()),
                    (expected_ops, expected_shape),
                    "{}",
                    case.name
                );
                assert_eq!(graph.value(graph.outputs[0]).name, "y", "{}", case.name);
            }
            (Err(error), Err(part)) => {
                let text = error.to_string();
                assert!(text.contains(part), "{}: {text}", case.name);
            }
            (Ok(graph), Err(part)) => panic!("{}: {} instead of {part}", case.name, ops(&graph)),
            (Err(error), Ok(_)) => panic!("{}: {error}", case.name),
        }
    }
}

pub(super) fn zeros(name: &str, dims: &[i64]) -> T {
    let count = dims.iter().product::<i64>() as usize;
    T::f32(name, dims, &vec![0.5; count])
}

pub(super) fn ints(name: &str, values: &[i64]) -> T {
    T::i64(name, &[values.len() as i64], values)
}

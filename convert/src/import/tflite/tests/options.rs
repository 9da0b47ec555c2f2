//! Dynamic dimensions, given inputs, and what the report of unsupported operators says.

use super::*;
use crate::import::{DimChoice, InputLayout};
use crate::tensor::Tensor as Constant;

fn relu(signature: &[i32]) -> Model {
    let dynamic =
        |name: &str| Tensor { signature: signature.to_vec(), ..Tensor::new(name, F32, &[1, 4]) };
    one("RELU", (0, vec![]), vec![dynamic("x")], vec![dynamic("y")])
}

/// A shape signature, choices, and the result's shape or a part of the error.
type Dynamic = (&'static [i32], Vec<(String, DimChoice)>, Result<&'static str, &'static str>);

#[test]
fn dynamic_dimensions() {
    let dim = |name: &str, choice| (name.to_owned(), choice);
    let cases: Vec<Dynamic> = vec![
        (&[], vec![], Ok("1×4")),
        (&[-1, 4], vec![], Ok("1×4")),
        (&[-1, 4], vec![dim("x_0", DimChoice::Fixed(3))], Ok("3×4")),
        (&[-1, 4], vec![dim("x:0", DimChoice::Range(1, 8))], Ok("x_0×4")),
        (&[1, -1], vec![], Err("--dim x_1=N")),
        (&[1, -1], vec![dim("x_1", DimChoice::Fixed(9))], Ok("1×9")),
        (&[1, 4], vec![dim("x_1", DimChoice::Fixed(9))], Err("no such dimension")),
        (&[1, 4], vec![dim("x:1", DimChoice::Fixed(9))], Err("fixes this axis to 4")),
        (&[1, -1, 4], vec![], Err("differ in rank")),
    ];
    for (signature, dims, expected) in cases {
        let options = ImportOptions { dims, ..ImportOptions::default() };
        match (import(&relu(signature), &options), expected) {
            (Ok(graph), Ok(shape)) => {
                let output = graph.value(graph.outputs[0]);
                assert_eq!(
                    (graph.shape_text(&output.shape).as_str(), output.name.as_str()),
                    (shape, "y")
                );
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (result, expected) => panic!("{signature:?}: {result:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn given_inputs_become_constants() {
    let value = Constant::from_f32([1, 4], &[-1.0, 2.0, -3.0, 4.0]);
    let options =
        ImportOptions { input_values: vec![("x".to_owned(), value)], ..ImportOptions::default() };
    let graph = import(&relu(&[]), &options).unwrap();
    assert!(graph.inputs.is_empty());
    let options = ImportOptions {
        input_values: vec![("z".to_owned(), Constant::from_f32([1], &[1.0]))],
        ..ImportOptions::default()
    };
    let error = import(&relu(&[]), &options).unwrap_err().to_string();
    assert!(error.contains("no such input; the model has x"), "{error}");
    let options = ImportOptions {
        input_layouts: vec![("x".to_owned(), InputLayout::Nhwc)],
        ..ImportOptions::default()
    };
    let error = import(&relu(&[]), &options).unwrap_err().to_string();
    assert!(error.contains("channels last already"), "{error}");
}

/// Everything that isn't supported is reported at once; what comes behind it isn't blamed.
#[test]
fn all_unsupported_operators_are_reported() {
    let tensor = |name: &str| Tensor::new(name, F32, &[4]);
    let operator = |code: u32, from: i32, to: i32| Operator {
        code,
        inputs: vec![from],
        outputs: vec![to],
        ..Operator::default()
    };
    let model = Model {
        version: 3,
        codes: vec![
            (code("CUSTOM"), "MyFilter".to_owned()),
            (code("RELU"), String::new()),
            (code("RFFT2D"), String::new()),
            (9999, String::new()),
        ],
        tensors: ["x", "a", "b", "c", "d", "y"].map(tensor).to_vec(),
        operators: vec![
            operator(0, 0, 1),
            operator(1, 1, 2),
            operator(2, 0, 3),
            operator(0, 3, 4),
            operator(3, 0, 5),
        ],
        inputs: vec![0],
        outputs: vec![2, 4, 5],
    };
    let error = import(&model, &ImportOptions::default()).unwrap_err().to_string();
    for part in ["4 nodes", "MyFilter `a` and 1 more", "RFFT2D `c`", "operator #9999"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert!(!error.contains("RELU"), "{error}");
}

#[test]
fn what_can_not_be_expressed_is_refused() {
    let cases: Vec<(&str, Model, &str)> = vec![
        (
            "where",
            one(
                "WHERE",
                (0, vec![]),
                vec![Tensor::new("x", BOOL, &[4])],
                vec![Tensor::new("y", I64, &[1, 1])],
            ),
            "only known at run time",
        ),
        (
            "an activation without a meaning here",
            one(
                "ADD",
                (11, vec![(0, Field::Byte(5))]),
                vec![input(&[4]), Tensor::f32s("c", &[], &[1.0])],
                vec![Tensor::new("y", F32, &[4])],
            ),
            "fused activation #5",
        ),
        (
            "shuffled weights",
            one(
                "FULLY_CONNECTED",
                (8, vec![(1, Field::Byte(1))]),
                vec![input(&[1, 1]), Tensor::f32s("w", &[1, 1], &[1.0])],
                vec![Tensor::new("y", F32, &[1, 1])],
            ),
            "shuffled",
        ),
        (
            "a shape that is computed",
            one(
                "RESHAPE",
                (0, vec![]),
                vec![input(&[4]), Tensor::new("s", I32, &[2])],
                vec![Tensor::new("y", F32, &[2, 2])],
            ),
            "computed from data at run time",
        ),
        (
            "options of another operator",
            one(
                "CONV_2D",
                (5, vec![]),
                vec![input(&[1, 1, 1, 1]), Tensor::f32s("w", &[1, 1, 1, 1], &[1.0])],
                vec![Tensor::new("y", F32, &[1, 1, 1, 1])],
            ),
            "options of another operator",
        ),
        (
            "strings",
            one(
                "RELU",
                (0, vec![]),
                vec![Tensor::new("x", 5, &[4])],
                vec![Tensor::new("y", F32, &[4])],
            ),
            "STRING",
        ),
    ];
    for (name, model, part) in cases {
        let error = import(&model, &ImportOptions::default()).expect_err(name).to_string();
        assert!(error.contains(part), "{name}: {error}");
    }
}

//! Operators on integers, in the numbers that TFLite's documentation of quantization gives.

use super::*;

/// The program's outputs as i8 or u8.
fn outputs(model: &Model, inputs: &[Vec<u8>]) -> Vec<i32> {
    let signed = model.tensors[model.outputs[0] as usize].kind == I8;
    let widen = |byte: &u8| if signed { i32::from(*byte as i8) } else { i32::from(*byte) };
    run(model, inputs)[0].iter().map(widen).collect()
}

fn i8s(values: &[i8]) -> Vec<u8> {
    values.iter().map(|v| *v as u8).collect()
}

#[test]
fn layers_keep_the_scales_of_the_file() {
    // Per channel: x = 0.5 * (q - 10), w = 0.25 and 2, bias in steps of 0.125 and 1.
    let bias = Tensor::i32s("b", &[2], &[8, -3]).per_channel(&[0.125, 1.0], 0);
    for (activation, expected) in [(0, [-9, 127]), (1, [-9, 127]), (3, [-9, 7])] {
        let model = one(
            "FULLY_CONNECTED",
            (8, vec![(0, Field::Byte(activation))]),
            vec![
                Tensor::new("x", I8, &[1, 2]).scaled(0.5, 10),
                Tensor::i8s("w", &[2, 2], &[4, -8, 1, 10]).per_channel(&[0.25, 2.0], 0),
                bias.clone(),
            ],
            vec![Tensor::new("y", I8, &[1, 2]).scaled(0.25, -17)],
        );
        // x is 1 and 0.5 * 6 = 3, so y is 1 - 6 + 1 = -4 … and 2 + 60 - 3 = 59.
        let made = outputs(&model, &[i8s(&[12, 16])]);
        let first = if activation == 0 { -33 } else { -17 };
        assert_eq!(made, [first, expected[1]], "activation {activation}");
    }
}

#[test]
fn integers_are_moved_as_they_are() {
    let x = || Tensor::new("x", I8, &[1, 2]).scaled(0.5, 10);
    let unsigned = |shape: &[i32], scale: f32, zero: i64| Tensor {
        kind: U8,
        ..Tensor::new("x", I8, shape).scaled(scale, zero)
    };
    let pads = || Tensor::i32s("p", &[2, 2], &[0, 0, 1, 1]);
    let cases: Vec<(&str, Model, Vec<u8>, Vec<i32>)> = vec![
        (
            "padding is what stands for 0",
            one(
                "PAD",
                (0, vec![]),
                vec![x(), pads()],
                vec![Tensor::new("y", I8, &[1, 4]).scaled(0.5, 10)],
            ),
            i8s(&[-128, 127]),
            vec![10, -128, 127, 10],
        ),
        (
            "also of unsigned integers",
            one(
                "PAD",
                (0, vec![]),
                vec![unsigned(&[1, 2], 0.5, 200), pads()],
                vec![unsigned(&[1, 4], 0.5, 200)],
            ),
            vec![0, 255],
            vec![200, 0, 255, 200],
        ),
        (
            "another scale",
            one(
                "QUANTIZE",
                (0, vec![]),
                vec![x()],
                vec![Tensor::new("y", I8, &[1, 2]).scaled(1.0, 0)],
            ),
            i8s(&[12, 13]),
            // 1 and 1.5, whose half goes away from zero.
            vec![1, 2],
        ),
        (
            "a clamp at another scale",
            one(
                "RELU6",
                (0, vec![]),
                vec![x()],
                vec![Tensor::new("y", I8, &[1, 2]).scaled(0.25, -100)],
            ),
            i8s(&[0, 127]),
            vec![-100, -76],
        ),
        (
            "a table: leaky relu",
            one(
                "LEAKY_RELU",
                (75, vec![(0, Field::Real(0.25))]),
                vec![x()],
                vec![Tensor::new("y", I8, &[1, 2]).scaled(0.5, 0)],
            ),
            i8s(&[2, 12]),
            vec![-2, 2],
        ),
        (
            "unsigned, by way of signed",
            one(
                "ADD",
                (11, vec![]),
                vec![unsigned(&[1, 2], 0.5, 128), unsigned(&[1, 2], 0.5, 128)],
                vec![unsigned(&[1, 2], 1.0, 100)],
            ),
            vec![],
            vec![102, 98],
        ),
    ];
    for (name, model, bytes, expected) in cases {
        let given = match bytes.is_empty() {
            true => vec![vec![130, 126], vec![130, 126]],
            false => vec![bytes],
        };
        assert_eq!(outputs(&model, &given), expected, "{name}");
    }
}

/// The program of an integer model has integers at its ends and between.
#[test]
fn programs_are_integer() {
    let model = one(
        "CONV_2D",
        (1, vec![(0, Field::Byte(0)), (1, Field::Int(1)), (2, Field::Int(1))]),
        vec![
            Tensor::new("x", I8, &[1, 2, 2, 1]).scaled(0.5, 0),
            Tensor::i8s("w", &[1, 1, 1, 1], &[2]).scaled(0.5, 0),
        ],
        vec![Tensor::new("y", I8, &[1, 2, 2, 1]).scaled(0.5, 0)],
    );
    let graph = import(&model, &ImportOptions::default()).unwrap();
    let converted = convert(graph, None, &ConvertOptions::default(), &mut ()).unwrap();
    assert_eq!((converted.report.steps, converted.report.float_nodes), (1, vec![]));
    assert_eq!(outputs(&model, &[i8s(&[1, -1, 127, -128])]), [1, -1, 127, -128]);
}

//! Operators on reals and plain integers, beside results worked out by hand.

use super::*;

/// One operator, its operands (those without data get the values) and what it makes.
struct Case {
    name: &'static str,
    operator: &'static str,
    options: (u8, Vec<(u16, Field)>),
    inputs: Vec<Tensor>,
    given: Vec<Vec<u8>>,
    output: (i8, Vec<i32>),
    expected: Vec<u8>,
}

fn ints(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The constant that the second operand of many operators is.
fn list(values: &[i32]) -> Tensor {
    Tensor::i32s("list", &[values.len() as i32], values)
}

/// An operator of one f32 input and constants, to f32.
fn real(
    name: &'static str,
    operator: &'static str,
    options: (u8, Vec<(u16, Field)>),
    x: (&[i32], &[f32]),
    constants: Vec<Tensor>,
    y: (&[i32], &[f32]),
) -> Case {
    let mut inputs = vec![input(x.0)];
    inputs.extend(constants);
    Case {
        name,
        operator,
        options,
        inputs,
        given: vec![bytes_of(x.1)],
        output: (F32, y.0.to_vec()),
        expected: bytes_of(y.1),
    }
}

fn none() -> (u8, Vec<(u16, Field)>) {
    (0, Vec::new())
}

fn check(cases: Vec<Case>) {
    for case in cases {
        let output = Tensor::new("y", case.output.0, &case.output.1);
        let model = one(case.operator, case.options, case.inputs, vec![output]);
        let made = run(&model, &case.given);
        assert_eq!(made[0], case.expected, "{}", case.name);
    }
}

#[test]
fn layers() {
    let (int, byte) = (Field::Int, Field::Byte);
    let conv = |padding: i8, stride: i32, activation: i8| {
        let fields =
            vec![(0, byte(padding)), (1, int(stride)), (2, int(stride)), (3, byte(activation))];
        (1u8, fields)
    };
    let ones = Tensor::f32s("w", &[1, 2, 2, 1], &[1.0; 4]);
    let x3: (&[i32], &[f32]) = (&[1, 3, 3, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    check(vec![
        // The odd element of the padding is behind.
        real(
            "conv, same",
            "CONV_2D",
            conv(0, 1, 0),
            x3,
            vec![ones.clone(), Tensor::f32s("b", &[1], &[0.5])],
            (&[1, 3, 3, 1], &[12.5, 16.5, 9.5, 24.5, 28.5, 15.5, 15.5, 17.5, 9.5]),
        ),
        real(
            "conv, valid, ReLU6",
            "CONV_2D",
            conv(1, 1, 3),
            x3,
            vec![Tensor::f32s("w", &[1, 2, 2, 1], &[4.0, 0.0, 0.0, -1.0])],
            (&[1, 2, 2, 1], &[0.0, 2.0, 6.0, 6.0]),
        ),
        real(
            "conv, same, stride 2",
            "CONV_2D",
            conv(0, 2, 0),
            x3,
            vec![ones.clone()],
            (&[1, 2, 2, 1], &[12.0, 9.0, 15.0, 9.0]),
        ),
        // Channel c makes the results 2c and 2c + 1.
        real(
            "depthwise, multiplier 2",
            "DEPTHWISE_CONV_2D",
            (2, vec![(0, byte(1)), (1, int(1)), (2, int(1)), (3, int(2))]),
            (&[1, 1, 1, 2], &[3.0, 5.0]),
            vec![Tensor::f32s("w", &[1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0])],
            (&[1, 1, 1, 4], &[3.0, 6.0, 15.0, 20.0]),
        ),
        real(
            "fully connected, rows flattened",
            "FULLY_CONNECTED",
            (8, vec![]),
            (&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]),
            vec![Tensor::f32s("w", &[1, 2], &[10.0, 1.0]), Tensor::f32s("b", &[1], &[0.5])],
            (&[2, 1], &[12.5, 34.5]),
        ),
        real(
            "fully connected, axes kept",
            "FULLY_CONNECTED",
            (8, vec![(2, byte(1)), (0, byte(1))]),
            (&[1, 2, 2], &[1.0, 2.0, -3.0, -4.0]),
            vec![Tensor::f32s("w", &[1, 2], &[10.0, 1.0])],
            (&[1, 2, 1], &[12.0, 0.0]),
        ),
        real(
            "average, padding not counted",
            "AVERAGE_POOL_2D",
            (5, vec![(0, byte(0)), (1, int(2)), (2, int(2)), (3, int(2)), (4, int(2))]),
            x3,
            vec![],
            (&[1, 2, 2, 1], &[3.0, 4.5, 7.5, 9.0]),
        ),
        real(
            "maximum",
            "MAX_POOL_2D",
            (5, vec![(0, byte(1)), (1, int(1)), (2, int(1)), (3, int(3)), (4, int(2))]),
            x3,
            vec![],
            (&[1, 2, 1, 1], &[6.0, 9.0]),
        ),
        real(
            "root of the mean of squares",
            "L2_POOL_2D",
            (5, vec![(0, byte(1)), (1, int(1)), (2, int(1)), (3, int(2)), (4, int(1))]),
            (&[1, 1, 2, 1], &[1.0, 7.0]),
            vec![],
            (&[1, 1, 1, 1], &[5.0]),
        ),
    ]);
    // Two places of the input that overlap in the middle of the result.
    let transposed = Case {
        name: "transposed convolution",
        operator: "TRANSPOSE_CONV",
        options: (49, vec![(0, byte(1)), (1, int(2)), (2, int(1))]),
        inputs: vec![
            list(&[1, 1, 5, 1]),
            Tensor::f32s("w", &[1, 1, 3, 1], &[1.0, 2.0, 3.0]),
            input(&[1, 1, 2, 1]),
        ],
        given: vec![bytes_of(&[1.0, 10.0])],
        output: (F32, vec![1, 1, 5, 1]),
        expected: bytes_of(&[1.0, 2.0, 13.0, 20.0, 30.0]),
    };
    check(vec![transposed]);
}

#[test]
fn movement() {
    let int = Field::Int;
    let x6: (&[i32], &[f32]) = (&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let wide: (&[i32], &[f32]) = (&[1, 4, 1, 1], &[1.0, 2.0, 3.0, 4.0]);
    check(vec![
        real(
            "reshape by options",
            "RESHAPE",
            (17, vec![(0, Field::Ints(vec![3, -1]))]),
            x6,
            vec![],
            (&[3, 2], x6.1),
        ),
        real(
            "transpose",
            "TRANSPOSE",
            none(),
            x6,
            vec![list(&[1, 0])],
            (&[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]),
        ),
        real(
            "strided slice, backwards, an axis taken out",
            "STRIDED_SLICE",
            (32, vec![(1, int(2)), (4, int(1))]),
            x6,
            vec![list(&[-1, -1]), list(&[0, 0]), list(&[1, -2])],
            (&[2], &[6.0, 4.0]),
        ),
        real(
            "strided slice, a new axis and an ellipsis",
            "STRIDED_SLICE",
            (32, vec![(2, int(2)), (3, int(1))]),
            x6,
            vec![list(&[0, 0, 1]), list(&[0, 0, 3]), list(&[1, 1, 1])],
            (&[1, 2, 2], &[2.0, 3.0, 5.0, 6.0]),
        ),
        real(
            "strided slice, ends that count from the beginning",
            "STRIDED_SLICE",
            (32, vec![(5, Field::Byte(1))]),
            x6,
            vec![list(&[0, 1]), list(&[2, 2]), list(&[1, 1])],
            (&[2, 2], &[2.0, 3.0, 5.0, 6.0]),
        ),
        real(
            "slice to the end",
            "SLICE",
            none(),
            x6,
            vec![list(&[1, 1]), list(&[1, -1])],
            (&[1, 2], &[5.0, 6.0]),
        ),
        real(
            "reverse",
            "REVERSE_V2",
            none(),
            x6,
            vec![list(&[1])],
            (&[2, 3], &[3.0, 2.0, 1.0, 6.0, 5.0, 4.0]),
        ),
        real(
            "pad with a value",
            "PADV2",
            none(),
            (&[2], &[1.0, 2.0]),
            vec![Tensor::i32s("p", &[1, 2], &[1, 2]), Tensor::f32s("v", &[], &[7.0])],
            (&[5], &[7.0, 1.0, 2.0, 7.0, 7.0]),
        ),
        real(
            "mirrored with the edge",
            "MIRROR_PAD",
            (77, vec![(0, Field::Byte(1))]),
            (&[3], &[1.0, 2.0, 3.0]),
            vec![Tensor::i32s("p", &[1, 2], &[2, 1])],
            (&[6], &[2.0, 1.0, 1.0, 2.0, 3.0, 3.0]),
        ),
        real(
            "mirrored without the edge",
            "MIRROR_PAD",
            (77, vec![]),
            (&[3], &[1.0, 2.0, 3.0]),
            vec![Tensor::i32s("p", &[1, 2], &[2, 1])],
            (&[6], &[3.0, 2.0, 1.0, 2.0, 3.0, 2.0]),
        ),
        real(
            "space to batch",
            "SPACE_TO_BATCH_ND",
            none(),
            wide,
            vec![list(&[2, 1]), Tensor::i32s("p", &[2, 2], &[1, 1, 0, 0])],
            (&[2, 3, 1, 1], &[0.0, 2.0, 4.0, 1.0, 3.0, 0.0]),
        ),
        real(
            "batch to space",
            "BATCH_TO_SPACE_ND",
            none(),
            (&[2, 2, 1, 1], &[1.0, 2.0, 3.0, 4.0]),
            vec![list(&[2, 1]), Tensor::i32s("p", &[2, 2], &[1, 0, 0, 0])],
            (&[1, 3, 1, 1], &[3.0, 2.0, 4.0]),
        ),
        real(
            "depth to space",
            "DEPTH_TO_SPACE",
            (94, vec![(0, int(2))]),
            (&[1, 1, 1, 4], wide.1),
            vec![],
            (&[1, 2, 2, 1], wide.1),
        ),
        real(
            "tile",
            "TILE",
            none(),
            (&[2], &[1.0, 2.0]),
            vec![list(&[2])],
            (&[4], &[1.0, 2.0, 1.0, 2.0]),
        ),
        // Batches of their own: row b takes from row b.
        real(
            "gather within batches",
            "GATHER",
            (23, vec![(0, int(1)), (1, int(1))]),
            x6,
            vec![Tensor::i32s("i", &[2, 2], &[2, 0, 1, 1])],
            (&[2, 2], &[3.0, 1.0, 5.0, 5.0]),
        ),
        real(
            "gather by tuples",
            "GATHER_ND",
            none(),
            x6,
            vec![Tensor::i32s("i", &[2, 2], &[1, 0, 0, 2])],
            (&[2], &[4.0, 3.0]),
        ),
        // 4 to 3 with corners aligned: 0, 1.5, 3, and halves go away from zero.
        real(
            "nearest, corners aligned",
            "RESIZE_NEAREST_NEIGHBOR",
            (74, vec![(0, Field::Byte(1))]),
            wide,
            vec![list(&[3, 1])],
            (&[1, 3, 1, 1], &[1.0, 3.0, 4.0]),
        ),
        real(
            "bilinear, half pixels",
            "RESIZE_BILINEAR",
            (15, vec![(3, Field::Byte(1))]),
            (&[1, 2, 1, 1], &[0.0, 4.0]),
            vec![list(&[4, 1])],
            (&[1, 4, 1, 1], &[0.0, 1.0, 3.0, 4.0]),
        ),
    ]);
}

#[test]
fn arithmetic() {
    let integers = |name: &'static str, operator: &'static str, x: &[i32], y: &[i32], z: &[i32]| {
        let shape = [x.len() as i32];
        Case {
            name,
            operator,
            options: none(),
            inputs: vec![Tensor::new("x", I32, &shape), Tensor::new("y", I32, &shape)],
            given: vec![ints(x), ints(y)],
            output: (I32, shape.to_vec()),
            expected: ints(z),
        }
    };
    let x: (&[i32], &[f32]) = (&[4], &[-2.0, -0.5, 1.0, 8.0]);
    check(vec![
        integers("floor_div", "FLOOR_DIV", &[7, -7, 7, -7], &[2, 2, -2, -2], &[3, -4, -4, 3]),
        integers("floor_mod", "FLOOR_MOD", &[7, -7, 7, -7], &[3, 3, -3, -3], &[1, 2, -2, -1]),
        integers("add", "ADD", &[7, -7], &[3, 3], &[10, -4]),
        real("relu6", "RELU6", none(), x, vec![], (&[4], &[0.0, 0.0, 1.0, 6.0])),
        real("relu, -1 to 1", "RELU_N1_TO_1", none(), x, vec![], (&[4], &[-1.0, -0.5, 1.0, 1.0])),
        real(
            "leaky relu",
            "LEAKY_RELU",
            (75, vec![(0, Field::Real(0.5))]),
            x,
            vec![],
            (&[4], &[-1.0, -0.25, 1.0, 8.0]),
        ),
        real(
            "a fused activation",
            "ADD",
            (11, vec![(0, Field::Byte(2))]),
            x,
            vec![Tensor::f32s("c", &[], &[0.25])],
            (&[4], &[-1.0, -0.25, 1.0, 1.0]),
        ),
        real(
            "mean, axes kept",
            "MEAN",
            (27, vec![(0, Field::Byte(1))]),
            (&[2, 2], &[1.0, 3.0, 5.0, 7.0]),
            vec![list(&[-1])],
            (&[2, 1], &[2.0, 6.0]),
        ),
        real(
            "running sums from the end, without themselves",
            "CUMSUM",
            (102, vec![(0, Field::Byte(1)), (1, Field::Byte(1))]),
            (&[3], &[1.0, 2.0, 4.0]),
            vec![Tensor::i32s("axis", &[], &[0])],
            (&[3], &[6.0, 4.0, 0.0]),
        ),
        real(
            "over its norm",
            "L2_NORMALIZATION",
            (12, vec![]),
            (&[1, 2], &[3.0, -4.0]),
            vec![],
            (&[1, 2], &[0.6, -0.8]),
        ),
    ]);
    let one_hot = Case {
        name: "one hot",
        operator: "ONE_HOT",
        options: (61, vec![(0, Field::Int(-1))]),
        inputs: vec![
            Tensor::new("x", I32, &[3]),
            Tensor::i32s("depth", &[], &[2]),
            Tensor::f32s("on", &[], &[5.0]),
            Tensor::f32s("off", &[], &[-1.0]),
        ],
        given: vec![ints(&[1, 0, -1])],
        output: (F32, vec![3, 2]),
        expected: bytes_of(&[-1.0, 5.0, 5.0, -1.0, -1.0, -1.0]),
    };
    let arg_max = Case {
        name: "the first of the largest",
        operator: "ARG_MAX",
        options: (40, vec![(0, Field::Byte(I64))]),
        inputs: vec![input(&[1, 4]), Tensor::i32s("axis", &[], &[-1])],
        given: vec![bytes_of(&[1.0, 7.0, 7.0, 0.0])],
        output: (I64, vec![1]),
        expected: 1i64.to_le_bytes().to_vec(),
    };
    let any = Case {
        name: "any",
        operator: "REDUCE_ANY",
        options: (27, vec![]),
        inputs: vec![Tensor::new("x", BOOL, &[2, 2]), list(&[1])],
        given: vec![vec![0, 1, 0, 0]],
        output: (BOOL, vec![2]),
        expected: vec![1, 0],
    };
    check(vec![one_hot, arg_max, any]);
}

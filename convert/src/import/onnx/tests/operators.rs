//! Each operator in each of its versions: the nodes it becomes and the shape of its result.

use super::*;

struct Case {
    name: &'static str,
    opset: i64,
    x: &'static [&'static str],
    constants: Vec<T>,
    nodes: Vec<N>,
    /// Operators and shape of the result, or a part of the error.
    expected: Result<(&'static str, &'static str), &'static str>,
}

fn case(
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

fn refused(
    name: &'static str,
    opset: i64,
    x: &'static [&'static str],
    constants: Vec<T>,
    nodes: Vec<N>,
    error: &'static str,
) -> Case {
    Case { name, opset, x, constants, nodes, expected: Err(error) }
}

fn check(cases: Vec<Case>) {
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

fn zeros(name: &str, dims: &[i64]) -> T {
    let count = dims.iter().product::<i64>() as usize;
    T::f32(name, dims, &vec![0.5; count])
}

fn ints(name: &str, values: &[i64]) -> T {
    T::i64(name, &[values.len() as i64], values)
}

#[test]
fn convolution() {
    const AROUND: &str = "Transpose Conv Transpose";
    let conv = || N::new("Conv", &["x", "w"], &["y"]);
    let pads = |p: &[i64]| A::ints("pads", p);
    let strides = |s: &[i64]| A::ints("strides", s);
    let auto = |s: &str| A::string("auto_pad", s);
    let w = || vec![zeros("w", &[8, 3, 3, 3])];
    const X: &[&str] = &["1", "3", "32", "20"];
    check(vec![
        case("valid", 11, X, w(), vec![conv()], AROUND, "1×8×30×18"),
        case("pads", 11, X, w(), vec![conv().with(pads(&[1, 1, 1, 1]))], AROUND, "1×8×32×20"),
        case(
            "asymmetric",
            11,
            X,
            w(),
            vec![conv().with(pads(&[0, 1, 2, 0])).with(strides(&[2, 2]))],
            AROUND,
            "1×8×16×10",
        ),
        case(
            "same",
            11,
            X,
            w(),
            vec![conv().with(auto("SAME_UPPER")).with(strides(&[3, 2]))],
            AROUND,
            "1×8×11×10",
        ),
        case("same lower", 11, X, w(), vec![conv().with(auto("SAME_LOWER"))], AROUND, "1×8×32×20"),
        case(
            "auto valid with zero pads",
            11,
            X,
            w(),
            vec![conv().with(auto("VALID")).with(pads(&[0; 4]))],
            AROUND,
            "1×8×30×18",
        ),
        case(
            "dilated",
            11,
            X,
            w(),
            vec![conv().with(A::ints("dilations", &[2, 3]))],
            AROUND,
            "1×8×28×14",
        ),
        case(
            "depthwise",
            11,
            X,
            vec![zeros("w", &[6, 1, 3, 3])],
            vec![conv().with(A::int("group", 3))],
            AROUND,
            "1×6×30×18",
        ),
        case(
            "1-D",
            11,
            &["1", "3", "40"],
            vec![zeros("w", &[5, 3, 4])],
            vec![conv()],
            AROUND,
            "1×5×37",
        ),
        case(
            "bias",
            11,
            X,
            vec![zeros("w", &[8, 3, 3, 3]), zeros("c", &[8])],
            vec![N::new("Conv", &["x", "w", "c"], &["y"])],
            AROUND,
            "1×8×30×18",
        ),
        case(
            "dynamic",
            11,
            &["b", "3", "h", "20"],
            w(),
            vec![conv().with(pads(&[1; 4])).with(strides(&[2, 1]))],
            AROUND,
            "b×8×((h + -1)/(2)) + 1×20".replace(" + -1", " - 1").leak(),
        ),
        case(
            "same, dynamic, stride 1",
            11,
            &["b", "3", "h", "20"],
            w(),
            vec![conv().with(auto("SAME_UPPER"))],
            AROUND,
            "b×8×h×20",
        ),
        case(
            "weights behind movement",
            13,
            X,
            vec![zeros("w0", &[3, 3, 3, 8]), ints("axes", &[0])],
            vec![
                N::new("Unsqueeze", &["w0", "axes"], &["w1"]),
                N::new("Transpose", &["w1"], &["w2"]).with(A::ints("perm", &[4, 3, 1, 2, 0])),
                N::new("Squeeze", &["w2", "four"], &["w"]),
                conv(),
                N::new("Constant", &[], &["four"]).with(A::ints("value_ints", &[4])),
            ],
            AROUND,
            "1×8×30×18",
        ),
        refused(
            "same, dynamic, strided",
            11,
            &["b", "3", "h", "20"],
            w(),
            vec![conv().with(auto("SAME_UPPER")).with(strides(&[2, 2]))],
            "fix the dimension",
        ),
        refused(
            "window too large when small",
            11,
            &["b", "3", "h", "20"],
            w(),
            vec![conv()],
            "raise the lower bound",
        ),
        refused("window too large", 11, &["1", "3", "2", "20"], w(), vec![conv()], "doesn't fit"),
        refused("channels", 11, &["1", "4", "9", "9"], w(), vec![conv()], "4 channels"),
        refused(
            "kernel_shape",
            11,
            X,
            w(),
            vec![conv().with(A::ints("kernel_shape", &[5, 5]))],
            "kernel_shape",
        ),
        case(
            "3-D",
            11,
            &["1", "3", "9", "9", "9"],
            vec![zeros("w", &[8, 3, 3, 3, 3])],
            vec![conv()],
            AROUND,
            "1×8×7×7×7",
        ),
        case(
            "computed weights",
            11,
            X,
            vec![],
            vec![N::new("Conv", &["x", "x"], &["y"])],
            "Transpose Transpose Conv Transpose",
            "1×1×1×1",
        ),
        refused("negative group", 11, X, w(), vec![conv().with(A::int("group", -1))], "group"),
        refused(
            "unknown attribute",
            11,
            X,
            w(),
            vec![conv().with(A::int("fused_relu", 1))],
            "attribute `fused_relu` is not known",
        ),
        refused(
            "wrong type",
            11,
            X,
            w(),
            vec![conv().with(A::int("strides", 1))],
            "has type INT, not INTS",
        ),
        refused(
            "contradiction",
            11,
            X,
            w(),
            vec![conv().with(auto("VALID")).with(pads(&[1; 4]))],
            "contradicts",
        ),
    ]);
}

#[test]
fn conv_weights_become_ohwi() {
    let w: Vec<f32> = (0..2 * 3 * 2).map(|v| v as f32).collect();
    let nodes = vec![N::new("Conv", &["x", "w"], &["y"])];
    let graph = import(
        &model(13, vec![input("x", &["1", "3", "5"])], vec![T::f32("w", &[2, 3, 2], &w)], nodes),
        &Default::default(),
    )
    .unwrap();
    let weights = graph.nodes[1].inputs[1].unwrap();
    let tensor = graph.constant(weights).unwrap();
    assert_eq!(tensor.shape, [2, 2, 3]);
    assert_eq!(tensor.to_f32(), [0., 2., 4., 1., 3., 5., 6., 8., 10., 7., 9., 11.]);
}

#[test]
fn pooling() {
    const AROUND: &str = "Transpose Pool Transpose";
    let pool = |op: &str, k: &[i64]| N::new(op, &["x"], &["y"]).with(A::ints("kernel_shape", k));
    const X: &[&str] = &["1", "3", "32", "21"];
    check(vec![
        case(
            "max",
            12,
            X,
            vec![],
            vec![pool("MaxPool", &[2, 2]).with(A::ints("strides", &[2, 2]))],
            AROUND,
            "1×3×16×10",
        ),
        case(
            "ceil",
            12,
            X,
            vec![],
            vec![
                pool("MaxPool", &[2, 2])
                    .with(A::ints("strides", &[2, 2]))
                    .with(A::int("ceil_mode", 1)),
            ],
            AROUND,
            "1×3×16×11",
        ),
        // ceil((4 + 2 - 1) / 3) + 1 = 3, but the third window would start at 6, behind 4 + 1.
        case(
            "ceil ignores windows in the padding",
            12,
            &["1", "1", "4"],
            vec![],
            vec![
                pool("AveragePool", &[1])
                    .with(A::ints("strides", &[3]))
                    .with(A::int("ceil_mode", 1)),
            ],
            AROUND,
            "1×1×2",
        ),
        case(
            "1-D average",
            19,
            &["1", "3", "9"],
            vec![],
            vec![
                pool("AveragePool", &[3])
                    .with(A::int("count_include_pad", 1))
                    .with(A::ints("pads", &[1, 1]))
                    .with(A::ints("dilations", &[2])),
            ],
            AROUND,
            "1×3×7",
        ),
        case(
            "global average",
            12,
            X,
            vec![],
            vec![N::new("GlobalAveragePool", &["x"], &["y"])],
            "ReduceMean",
            "1×3×1×1",
        ),
        case(
            "global max",
            12,
            X,
            vec![],
            vec![N::new("GlobalMaxPool", &["x"], &["y"])],
            "ReduceMax",
            "1×3×1×1",
        ),
        case(
            "indices",
            12,
            X,
            vec![],
            vec![N::new("MaxPool", &["x"], &["i", "y"]).with(A::ints("kernel_shape", &[2, 2]))],
            "Transpose Pool Transpose",
            "1×3×31×20",
        ),
        refused(
            "no kernel",
            12,
            X,
            vec![],
            vec![N::new("MaxPool", &["x"], &["y"])],
            "kernel_shape",
        ),
        case("norm", 12, X, vec![], vec![pool("LpPool", &[2, 2])], AROUND, "1×3×31×20"),
        refused(
            "norm of order 0",
            12,
            X,
            vec![],
            vec![pool("LpPool", &[2, 2]).with(A::int("p", 0))],
            "order 0",
        ),
    ]);
}

#[test]
fn products() {
    let gemm = || N::new("Gemm", &["x", "w", "c"], &["y"]);
    const X: &[&str] = &["b", "4"];
    let w = || zeros("w", &[4, 5]);
    let transposed = || zeros("w", &[5, 4]);
    check(vec![
        case("gemm", 13, X, vec![w(), zeros("c", &[5])], vec![gemm()], "MatMul", "b×5"),
        case("row bias", 13, X, vec![w(), zeros("c", &[1, 5])], vec![gemm()], "MatMul", "b×5"),
        case(
            "scalar bias, factors",
            13,
            X,
            vec![w(), zeros("c", &[])],
            vec![gemm().with(A::float("alpha", 2.0)).with(A::float("beta", 3.0))],
            "MatMul",
            "b×5",
        ),
        case(
            "transposed",
            13,
            X,
            vec![transposed(), zeros("c", &[5])],
            vec![gemm().with(A::int("transB", 1))],
            "MatMul",
            "b×5",
        ),
        case(
            "no bias",
            13,
            X,
            vec![w()],
            vec![N::new("Gemm", &["x", "w"], &["y"])],
            "MatMul",
            "b×5",
        ),
        case(
            "column bias",
            13,
            &["3", "4"],
            vec![w(), zeros("c", &[3, 1])],
            vec![gemm()],
            "MatMul Add",
            "3×5",
        ),
        case(
            "dynamic operands",
            13,
            &["4", "4"],
            vec![],
            vec![
                N::new("Gemm", &["x", "x", "x"], &["y"])
                    .with(A::int("transA", 1))
                    .with(A::float("alpha", 2.0)),
            ],
            "MatMul Mul Add",
            "4×4",
        ),
        case(
            "matmul",
            13,
            &["b", "7", "4"],
            vec![w()],
            vec![N::new("MatMul", &["x", "w"], &["y"])],
            "MatMul",
            "b×7×5",
        ),
        case(
            "batched",
            13,
            &["2", "1", "3", "4"],
            vec![zeros("w", &[6, 4, 5])],
            vec![N::new("MatMul", &["x", "w"], &["y"])],
            "MatMul",
            "2×6×3×5",
        ),
        case(
            "vector left",
            13,
            &["4"],
            vec![w()],
            vec![N::new("MatMul", &["x", "w"], &["y"])],
            "Reshape MatMul Reshape",
            "5",
        ),
        case(
            "vector right",
            13,
            &["2", "3", "4"],
            vec![zeros("w", &[4])],
            vec![N::new("MatMul", &["x", "w"], &["y"])],
            "MatMul Reshape",
            "2×3",
        ),
        case(
            "dot",
            13,
            &["4"],
            vec![zeros("w", &[4])],
            vec![N::new("MatMul", &["x", "w"], &["y"])],
            "Reshape MatMul Reshape",
            "scalar",
        ),
        refused(
            "sizes",
            13,
            &["b", "5"],
            vec![w()],
            vec![N::new("MatMul", &["x", "w"], &["y"])],
            "5 columns meet 4 rows",
        ),
    ]);
}

#[test]
fn versions() {
    const X: &[&str] = &["2", "3", "4"];
    let one = |op: &str| N::new(op, &["x"], &["y"]);
    let two = |op: &str| N::new(op, &["x", "a"], &["y"]);
    let f = |name: &str, v: f32| T::f32(name, &[], &[v]);
    check(vec![
        case(
            "clip 7",
            7,
            X,
            vec![],
            vec![one("Clip").with(A::float("min", 0.0)).with(A::float("max", 6.0))],
            "Clip { min: 0.0, max: 6.0 }",
            "2×3×4",
        ),
        case(
            "clip 7, one bound",
            7,
            X,
            vec![],
            vec![one("Clip").with(A::float("min", 0.0))],
            "Clip { min: 0.0, max: inf }",
            "2×3×4",
        ),
        case(
            "clip 11",
            11,
            X,
            vec![f("lo", 0.0), f("hi", 6.0)],
            vec![N::new("Clip", &["x", "lo", "hi"], &["y"])],
            "Clip { min: 0.0, max: 6.0 }",
            "2×3×4",
        ),
        case(
            "clip 11, one bound",
            11,
            X,
            vec![f("hi", 6.0)],
            vec![N::new("Clip", &["x", "", "hi"], &["y"])],
            "Clip { min: -inf, max: 6.0 }",
            "2×3×4",
        ),
        refused(
            "clip 11 with attributes",
            11,
            X,
            vec![],
            vec![one("Clip").with(A::float("min", 0.0))],
            "attribute `min` is not known",
        ),
        case(
            "squeeze 11",
            11,
            &["1", "3", "1"],
            vec![],
            vec![one("Squeeze").with(A::ints("axes", &[-1]))],
            "Reshape",
            "1×3",
        ),
        case(
            "squeeze 13",
            13,
            &["1", "3", "1"],
            vec![ints("a", &[0, 2])],
            vec![two("Squeeze")],
            "Reshape",
            "3",
        ),
        case("squeeze all", 13, &["1", "3", "1"], vec![], vec![one("Squeeze")], "Reshape", "3"),
        refused(
            "squeeze 3",
            13,
            &["1", "3", "1"],
            vec![ints("a", &[1])],
            vec![two("Squeeze")],
            "doesn't have size 1",
        ),
        case(
            "unsqueeze 11",
            11,
            X,
            vec![],
            vec![one("Unsqueeze").with(A::ints("axes", &[0, -1]))],
            "Reshape",
            "1×2×3×4×1",
        ),
        case(
            "unsqueeze 13",
            13,
            X,
            vec![ints("a", &[1])],
            vec![two("Unsqueeze")],
            "Reshape",
            "2×1×3×4",
        ),
        case(
            "reduce 11",
            11,
            X,
            vec![],
            vec![one("ReduceMean").with(A::ints("axes", &[-1, 0]))],
            "ReduceMean",
            "1×3×1",
        ),
        case(
            "reduce 18",
            18,
            X,
            vec![ints("a", &[1])],
            vec![two("ReduceMean").with(A::int("keepdims", 0))],
            "ReduceMean",
            "2×4",
        ),
        case(
            "reduce sum 13",
            13,
            X,
            vec![ints("a", &[1])],
            vec![two("ReduceSum")],
            "ReduceSum",
            "2×1×4",
        ),
        case(
            "reduce all",
            13,
            X,
            vec![],
            vec![one("ReduceL2").with(A::int("keepdims", 0))],
            "ReduceL2",
            "scalar",
        ),
        case(
            "reduce nothing",
            13,
            X,
            vec![],
            vec![one("ReduceSum").with(A::int("noop_with_empty_axes", 1))],
            "Reshape",
            "2×3×4",
        ),
        refused(
            "reduce axis",
            11,
            X,
            vec![],
            vec![one("ReduceMax").with(A::ints("axes", &[3]))],
            "axis 3 of 3 axes",
        ),
        refused(
            "reduce twice",
            11,
            X,
            vec![],
            vec![one("ReduceMax").with(A::ints("axes", &[0, -3]))],
            "occurs twice",
        ),
        case(
            "slice 9",
            9,
            X,
            vec![],
            vec![
                one("Slice").with(A::ints("starts", &[0, 1])).with(A::ints("ends", &[1, i64::MAX])),
            ],
            "Slice",
            "1×2×4",
        ),
        case(
            "slice 10",
            10,
            X,
            vec![ints("s", &[-1]), ints("e", &[i64::MIN]), ints("a", &[2]), ints("p", &[-2])],
            vec![N::new("Slice", &["x", "s", "e", "a", "p"], &["y"])],
            "Slice",
            "2×3×2",
        ),
        refused(
            "empty slice",
            10,
            X,
            vec![ints("s", &[2]), ints("e", &[1])],
            vec![N::new("Slice", &["x", "s", "e"], &["y"])],
            "empty slice",
        ),
        case(
            "pad 10",
            10,
            X,
            vec![],
            vec![one("Pad").with(A::ints("pads", &[0, 1, 0, 0, 0, 2]))],
            "Pad",
            "2×4×6",
        ),
        case(
            "pad 11",
            11,
            X,
            vec![ints("p", &[0, 1, 0, 0, 0, 2])],
            vec![N::new("Pad", &["x", "p"], &["y"]).with(A::string("mode", "reflect"))],
            "Pad",
            "2×4×6",
        ),
        case(
            "pad 18",
            18,
            X,
            vec![ints("p", &[1, 2]), ints("a", &[-1])],
            vec![N::new("Pad", &["x", "p", "", "a"], &["y"])],
            "Pad",
            "2×3×7",
        ),
        case(
            "crop",
            11,
            X,
            vec![ints("p", &[0, -1, 0, 0, 0, -2])],
            vec![N::new("Pad", &["x", "p"], &["y"])],
            "Slice",
            "2×2×2",
        ),
        case(
            "crop and pad",
            11,
            X,
            vec![ints("p", &[1, -1, 0, 0, 0, 2])],
            vec![N::new("Pad", &["x", "p"], &["y"])],
            "Slice Pad",
            "3×2×6",
        ),
        refused(
            "pad too wide",
            11,
            X,
            vec![ints("p", &[0, 3, 0, 0, 0, 0])],
            vec![N::new("Pad", &["x", "p"], &["y"]).with(A::string("mode", "reflect"))],
            "wider than axis 1",
        ),
        case(
            "split 11",
            11,
            X,
            vec![],
            vec![
                N::new("Split", &["x"], &["y", "z"])
                    .with(A::ints("split", &[1, 3]))
                    .with(A::int("axis", 2)),
            ],
            "Slice",
            "2×3×1",
        ),
        case(
            "split 13",
            13,
            X,
            vec![ints("s", &[1, 3])],
            vec![N::new("Split", &["x", "s"], &["z", "y"]).with(A::int("axis", 2))],
            "Slice",
            "2×3×3",
        ),
        case(
            "split 18",
            18,
            X,
            vec![],
            vec![
                N::new("Split", &["x"], &["z", "y"])
                    .with(A::int("axis", 1))
                    .with(A::int("num_outputs", 2)),
            ],
            "Slice",
            "2×1×4",
        ),
        refused(
            "split sum",
            13,
            X,
            vec![ints("s", &[1, 2])],
            vec![N::new("Split", &["x", "s"], &["z", "y"]).with(A::int("axis", 2))],
            "3 elements together",
        ),
        case("softmax 12", 12, X, vec![], vec![one("Softmax")], "Reshape Softmax Reshape", "2×3×4"),
        case(
            "softmax 12, last",
            12,
            X,
            vec![],
            vec![one("Softmax").with(A::int("axis", 2))],
            "Softmax",
            "2×3×4",
        ),
        case(
            "softmax 13",
            13,
            X,
            vec![],
            vec![one("Softmax").with(A::int("axis", 1))],
            "Softmax",
            "2×3×4",
        ),
        case(
            "dropout 7",
            7,
            X,
            vec![],
            vec![one("Dropout").with(A::float("ratio", 0.5))],
            "Reshape",
            "2×3×4",
        ),
        case(
            "upsample 7",
            7,
            &["1", "3", "4", "4"],
            vec![],
            vec![one("Upsample").with(A::floats("scales", &[1.0, 1.0, 2.0, 2.0]))],
            "Transpose Resize Transpose",
            "1×3×8×8",
        ),
        case(
            "upsample 9",
            9,
            &["1", "3", "4", "4"],
            vec![T::f32("s", &[4], &[1.0, 1.0, 2.0, 1.5])],
            vec![N::new("Upsample", &["x", "s"], &["y"]).with(A::string("mode", "linear"))],
            "Transpose Resize Transpose",
            "1×3×8×6",
        ),
        case(
            "resize 10",
            10,
            &["1", "3", "4", "4"],
            vec![T::f32("s", &[4], &[1.0, 1.0, 2.0, 2.0])],
            vec![N::new("Resize", &["x", "s"], &["y"])],
            "Transpose Resize Transpose",
            "1×3×8×8",
        ),
        case(
            "resize 11, sizes",
            11,
            &["1", "3", "4", "4"],
            vec![T::f32("r", &[0], &[]), T::f32("s", &[0], &[]), ints("z", &[1, 3, 7, 5])],
            vec![N::new("Resize", &["x", "r", "s", "z"], &["y"]).with(A::string("mode", "linear"))],
            "Transpose Resize Transpose",
            "1×3×7×5",
        ),
        case(
            "resize 13, dynamic",
            13,
            &["b", "3", "h", "4"],
            vec![T::f32("s", &[4], &[1.0, 1.0, 2.0, 0.5])],
            vec![N::new("Resize", &["x", "", "s"], &["y"])],
            "Transpose Resize Transpose",
            "b×3×2*h×2",
        ),
        case(
            "resize 18, axes",
            18,
            &["1", "3", "8"],
            vec![ints("z", &[12])],
            vec![
                N::new("Resize", &["x", "", "", "z"], &["y"])
                    .with(A::ints("axes", &[-1]))
                    .with(A::string("mode", "cubic")),
            ],
            "Transpose Resize Transpose",
            "1×3×12",
        ),
        case(
            "align corners",
            13,
            &["1", "3", "4", "4"],
            vec![T::f32("s", &[4], &[1.0, 1.0, 1.5, 1.5])],
            vec![
                N::new("Resize", &["x", "", "s"], &["y"])
                    .with(A::string("coordinate_transformation_mode", "align_corners")),
            ],
            "Transpose Resize Transpose",
            "1×3×6×6",
        ),
        case(
            "align corners, fractional",
            13,
            &["1", "3", "4", "4"],
            vec![T::f32("s", &[4], &[1.0, 1.0, 0.6, 0.6])],
            vec![
                N::new("Resize", &["x", "", "s"], &["y"])
                    .with(A::string("coordinate_transformation_mode", "align_corners")),
            ],
            "Gather Gather",
            "1×3×2×2",
        ),
        case(
            "dropout mask",
            13,
            X,
            vec![],
            vec![N::new("Dropout", &["x"], &["z", "m"]), N::new("Where", &["m", "x", "z"], &["y"])],
            "Where",
            "2×3×4",
        ),
        refused(
            "resize with crop, but without a region",
            13,
            &["1", "3", "4", "4"],
            vec![T::f32("s", &[4], &[1.0, 1.0, 2.0, 2.0])],
            vec![
                N::new("Resize", &["x", "", "s"], &["y"])
                    .with(A::string("coordinate_transformation_mode", "tf_crop_and_resize")),
            ],
            "input #1 (roi) is missing",
        ),
        case(
            "resize antialias",
            18,
            &["1", "3", "4", "4"],
            vec![T::f32("s", &[4], &[1.0, 1.0, 0.5, 0.5])],
            vec![
                N::new("Resize", &["x", "", "s"], &["y"])
                    .with(A::int("antialias", 1))
                    .with(A::string("mode", "linear")),
            ],
            "Interpolate Interpolate",
            "1×3×2×2",
        ),
    ]);
}

#[test]
fn elementwise() {
    const X: &[&str] = &["b", "3", "4"];
    let unaries = [
        "Relu",
        "Sigmoid",
        "HardSwish",
        "Mish",
        "Softplus",
        "Softsign",
        "Tanh",
        "Erf",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Neg",
        "Abs",
        "Sign",
        "Floor",
        "Ceil",
        "Round",
        "Sin",
        "Cos",
        "Tan",
        "Asin",
        "Acos",
        "Atan",
        "Sinh",
        "Cosh",
        "Asinh",
        "Acosh",
        "Atanh",
        "Gelu",
    ];
    check(
        unaries
            .map(|op| case(op, 20, X, vec![], vec![N::new(op, &["x"], &["y"])], op, "b×3×4"))
            .into(),
    );
    let binaries = ["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "PRelu"];
    check(
        binaries
            .map(|op| {
                case(
                    op,
                    16,
                    X,
                    vec![zeros("a", &[3, 1])],
                    vec![N::new(op, &["x", "a"], &["y"])],
                    op,
                    "b×3×4",
                )
            })
            .into(),
    );
    let one = |op: &str| N::new(op, &["x"], &["y"]);
    check(vec![
        case(
            "default alpha",
            16,
            X,
            vec![],
            vec![one("LeakyRelu")],
            "LeakyRelu { alpha: 0.01 }",
            "b×3×4",
        ),
        case(
            "alpha",
            16,
            X,
            vec![],
            vec![one("Elu").with(A::float("alpha", 2.0))],
            "Elu { alpha: 2.0 }",
            "b×3×4",
        ),
        case(
            "gelu tanh",
            20,
            X,
            vec![],
            vec![one("Gelu").with(A::string("approximate", "tanh"))],
            "GeluTanh",
            "b×3×4",
        ),
        case(
            "mean",
            13,
            X,
            vec![zeros("a", &[4]), zeros("c", &[1])],
            vec![N::new("Mean", &["x", "a", "c"], &["y"])],
            "Add Add Div",
            "b×3×4",
        ),
        case("sum of one", 13, X, vec![], vec![one("Sum")], "Reshape", "b×3×4"),
        case(
            "compare and select",
            13,
            X,
            vec![zeros("a", &[1])],
            vec![N::new("Greater", &["x", "a"], &["m"]), N::new("Where", &["m", "x", "a"], &["y"])],
            "Compare Where",
            "b×3×4",
        ),
        case("cast", 13, X, vec![], vec![one("Cast").with(A::int("to", 10))], "Cast", "b×3×4"),
        refused(
            "broadcast",
            13,
            X,
            vec![zeros("a", &[5])],
            vec![N::new("Add", &["x", "a"], &["y"])],
            "sizes 4 and 5 don't broadcast",
        ),
        refused(
            "dynamic broadcast",
            13,
            X,
            vec![zeros("a", &[5, 1, 1])],
            vec![N::new("Add", &["x", "a"], &["y"])],
            "sizes b and 5 may differ",
        ),
        refused(
            "types",
            13,
            X,
            vec![ints("a", &[5])],
            vec![N::new("Add", &["x", "a"], &["y"])],
            "types f32 and i64",
        ),
        refused("logic", 13, X, vec![], vec![N::new("And", &["x", "x"], &["y"])], "logic on f32"),
        refused("string cast", 13, X, vec![], vec![one("Cast").with(A::int("to", 8))], "STRING"),
    ]);
}

#[test]
fn movement() {
    const X: &[&str] = &["b", "4", "6", "6"];
    let one = |op: &str| N::new(op, &["x"], &["y"]);
    check(vec![
        case("flatten", 13, X, vec![], vec![one("Flatten")], "Reshape", "b×144"),
        case(
            "flatten at the end",
            13,
            X,
            vec![],
            vec![one("Flatten").with(A::int("axis", 4))],
            "Reshape",
            "144*b×1",
        ),
        case(
            "reshape",
            13,
            X,
            vec![ints("a", &[0, -1, 2])],
            vec![N::new("Reshape", &["x", "a"], &["y"])],
            "Reshape",
            "b×72×2",
        ),
        refused(
            "reshape, not whole",
            13,
            X,
            vec![ints("a", &[0, -1, 7])],
            vec![N::new("Reshape", &["x", "a"], &["y"])],
            "doesn't divide",
        ),
        case(
            "expand",
            13,
            X,
            vec![ints("a", &[2, 1, 1, 1, 1])],
            vec![N::new("Expand", &["x", "a"], &["y"])],
            "Expand",
            "2×b×4×6×6",
        ),
        case(
            "gather",
            13,
            X,
            vec![T::i64("i", &[], &[-1])],
            vec![N::new("Gather", &["x", "i"], &["y"]).with(A::int("axis", 1))],
            "Gather",
            "b×6×6",
        ),
        refused(
            "gather outside",
            13,
            X,
            vec![ints("i", &[4])],
            vec![N::new("Gather", &["x", "i"], &["y"]).with(A::int("axis", 1))],
            "index 4 into 4",
        ),
        case(
            "concat",
            13,
            X,
            vec![],
            vec![N::new("Concat", &["x", "x"], &["y"]).with(A::int("axis", 0))],
            "Concat",
            "2*b×4×6×6",
        ),
        case(
            "tile",
            13,
            X,
            vec![ints("a", &[1, 2, 1, 1])],
            vec![N::new("Tile", &["x", "a"], &["y"])],
            "Reshape Expand Reshape",
            "b×8×6×6",
        ),
        case(
            "tile a new axis",
            13,
            &["b", "1"],
            vec![ints("a", &[1, 5])],
            vec![N::new("Tile", &["x", "a"], &["y"])],
            "Expand",
            "b×5",
        ),
        case(
            "depth to space",
            13,
            X,
            vec![],
            vec![one("DepthToSpace").with(A::int("blocksize", 2))],
            "Reshape Transpose Reshape",
            "b×1×12×12",
        ),
        case(
            "space to depth",
            13,
            X,
            vec![],
            vec![one("SpaceToDepth").with(A::int("blocksize", 3))],
            "Reshape Transpose Reshape",
            "b×36×2×2",
        ),
        case(
            "transpose",
            13,
            &["b", "2", "3"],
            vec![],
            vec![one("Transpose")],
            "Transpose",
            "3×2×b",
        ),
        refused(
            "perm",
            13,
            &["b", "2", "3"],
            vec![],
            vec![one("Transpose").with(A::ints("perm", &[0, 0, 1]))],
            "occurs twice",
        ),
        case(
            "argmax",
            13,
            X,
            vec![],
            vec![one("ArgMax").with(A::int("axis", -1)).with(A::int("keepdims", 0))],
            "ArgReduce",
            "b×4×6",
        ),
        case(
            "constant of shape",
            13,
            X,
            vec![],
            vec![
                N::new("Shape", &["x"], &["s"]),
                N::new("ConstantOfShape", &["s"], &["c"]),
                N::new("Add", &["x", "c"], &["y"]),
            ],
            "Expand Add",
            "b×4×6×6",
        ),
        case(
            "range",
            13,
            &["4", "3"],
            vec![T::i64("s", &[], &[10]), T::i64("e", &[], &[3]), T::i64("d", &[], &[-2])],
            vec![
                N::new("Range", &["s", "e", "d"], &["r"]),
                N::new("Cast", &["r"], &["f"]).with(A::int("to", 1)),
                N::new("Unsqueeze", &["f", "one"], &["u"]),
                N::new("Mul", &["x", "u"], &["y"]),
                N::new("Constant", &[], &["one"]).with(A::ints("value_ints", &[1])),
            ],
            "Mul",
            "4×3",
        ),
    ]);
}

/// What exporters write to compute shapes leaves no nodes behind.
#[test]
fn shape_arithmetic() {
    const X: &[&str] = &["b", "s", "8", "6"];
    let n = |op: &str, i: &[&str], o: &str| N::new(op, i, &[o]);
    let c = |name: &str, v: i64| T::i64(name, &[], &[v]);
    check(vec![
        case(
            "flatten as torch does",
            13,
            X,
            vec![c("zero", 0), ints("minus", &[-1]), ints("ax", &[0])],
            vec![
                n("Shape", &["x"], "sh"),
                n("Gather", &["sh", "zero"], "g"),
                n("Unsqueeze", &["g", "ax"], "u"),
                n("Concat", &["u", "minus"], "t").with(A::int("axis", 0)),
                n("Reshape", &["x", "t"], "y"),
            ],
            "Reshape",
            "b×48*s",
        ),
        case(
            "split heads",
            13,
            X,
            vec![
                c("two", 2),
                c("three", 3),
                ints("ax", &[0]),
                ints("ends", &[2]),
                ints("zero", &[0]),
            ],
            vec![
                n("Shape", &["x"], "sh"),
                n("Slice", &["sh", "zero", "ends"], "head"),
                n("Gather", &["sh", "two"], "g"),
                n("Div", &["g", "two"], "d"),
                n("Mul", &["d", "three"], "m"),
                n("Unsqueeze", &["m", "ax"], "u"),
                n("Constant", &[], "four").with(A::ints("value_ints", &[4])),
                n("Concat", &["head", "u", "four"], "t").with(A::int("axis", 0)),
                n("Reshape", &["x", "t"], "y"),
            ],
            "Reshape",
            "b×s×12×4",
        ),
        case(
            "resize to twice the size through floats",
            13,
            &["b", "8", "h", "6"],
            vec![
                ints("ends", &[4]),
                ints("two", &[2]),
                ints("zero", &[0]),
                T::f32("k", &[2], &[2.0, 2.0]),
            ],
            vec![
                n("Shape", &["x"], "sh"),
                n("Slice", &["sh", "two", "ends"], "hw"),
                n("Slice", &["sh", "zero", "two"], "nc"),
                n("Cast", &["hw"], "f").with(A::int("to", 1)),
                n("Mul", &["f", "k"], "fm"),
                n("Floor", &["fm"], "ff"),
                n("Cast", &["ff"], "fi").with(A::int("to", 7)),
                n("Concat", &["nc", "fi"], "t").with(A::int("axis", 0)),
                n("Resize", &["x", "", "", "t"], "y"),
            ],
            "Transpose Resize Transpose",
            "b×8×2*h×12",
        ),
        case(
            "expand with where",
            13,
            X,
            vec![ints("want", &[-1, -1, 8, 6]), ints("minus", &[-1])],
            vec![
                n("Shape", &["x"], "sh"),
                n("Equal", &["want", "minus"], "e"),
                n("Where", &["e", "sh", "want"], "t"),
                n("Expand", &["x", "t"], "y"),
            ],
            "Expand",
            "b×s×8×6",
        ),
        case(
            "product",
            13,
            X,
            vec![],
            vec![
                n("Shape", &["x"], "sh"),
                n("ReduceProd", &["sh"], "p").with(A::int("keepdims", 1)),
                n("Reshape", &["x", "p"], "y"),
            ],
            "Reshape",
            "48*b*s",
        ),
        case(
            "size as data, constant",
            13,
            &["2", "8"],
            vec![],
            vec![
                n("Size", &["x"], "s"),
                n("Cast", &["s"], "f").with(A::int("to", 1)),
                n("Div", &["x", "f"], "y"),
            ],
            "Div",
            "2×8",
        ),
        refused(
            "size as data, dynamic",
            13,
            X,
            vec![],
            vec![
                n("Size", &["x"], "s"),
                n("Cast", &["s"], "f").with(A::int("to", 1)),
                n("Div", &["x", "f"], "y"),
            ],
            "48*b*s is read as data",
        ),
    ]);
}

//! Operators that are composed of others: what they become, and what is refused. Their values are
//! compared with ONNX's own cases by `convert/proof/onnx_nodes.py`.

use super::*;

/// Names and shapes.
type Inputs = &'static [(&'static str, &'static [&'static str])];

struct Case {
    name: &'static str,
    opset: i64,
    inputs: Inputs,
    constants: Vec<T>,
    node: N,
    /// Operators and shape of the result, or a part of the error.
    expected: Result<(&'static str, &'static str), &'static str>,
}

fn check(cases: Vec<Case>) {
    for case in cases {
        let integers = ["target", "lengths", "ids"];
        let inputs = case.inputs.iter().map(|(name, dims)| {
            let of = if integers.contains(name) { t::INT64 } else { t::FLOAT };
            ValueInfoProto::tensor(name, of, dims.iter().map(|d| dim(d)))
        });
        let model = model(case.opset, inputs.collect(), case.constants, vec![case.node]);
        let used = |name: &&str| case.inputs.iter().any(|(_, dims)| dims.contains(name));
        let dims = ["b", "m", "n"].iter().filter(|name| used(name));
        let options = ImportOptions {
            dims: dims.map(|d| ((*d).to_owned(), DimChoice::Range(1, 8))).collect(),
            ..Default::default()
        };
        match (import(&model, &options), case.expected) {
            (Ok(graph), Ok(expected)) => {
                crate::passes::check(&graph).unwrap_or_else(|e| panic!("{}: {e}", case.name));
                let got = (ops(&graph), shape(&graph));
                assert_eq!((got.0.as_str(), got.1.as_str()), expected, "{}", case.name);
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

fn microsoft(mut node: N) -> N {
    node.domain = Some("com.microsoft".to_owned());
    node
}

fn half(name: &str, dims: &[i64]) -> T {
    T::f32(name, dims, &vec![0.5; dims.iter().product::<i64>() as usize])
}

#[test]
fn einsum() {
    const ONE: Inputs = &[("x", &["3", "4"])];
    const CUBE: Inputs = &[("x", &["2", "3", "3"])];
    const BATCHED: Inputs = &[("x", &["b", "2", "3"]), ("w", &["b", "3", "n"])];
    const THREE: Inputs = &[("x", &["2", "3"]), ("w", &["3", "4"]), ("z", &["4", "5"])];
    const SPREAD: Inputs = &[("x", &["5", "1", "2", "3"]), ("w", &["7", "3", "4"])];
    let case = |equation: &'static str, inputs: Inputs, expected| Case {
        name: equation,
        opset: 12,
        inputs,
        constants: vec![],
        node: N::new("Einsum", &inputs.iter().map(|(n, _)| *n).collect::<Vec<_>>(), &["y"])
            .with(A::string("equation", equation)),
        expected,
    };
    check(vec![
        case("ij->ji", ONE, Ok(("Transpose", "4×3"))),
        case("ij->j", ONE, Ok(("ReduceSum", "4"))),
        case("ij->", ONE, Ok(("ReduceSum", "scalar"))),
        case("ba", ONE, Ok(("Transpose", "4×3"))),
        case("...ii -> ...i", CUBE, Ok(("Reshape Slice", "2×3"))),
        case("bij, bjk -> bik", BATCHED, Ok(("MatMul", "b×2×n"))),
        case("bij, bjk", BATCHED, Ok(("Transpose Reshape Reshape MatMul", "2×n"))),
        case("ij,jk,kl->il", THREE, Ok(("MatMul MatMul", "2×5"))),
        case(
            "...ij,...jk->...ik",
            SPREAD,
            Ok(("Reshape Reshape Transpose Reshape MatMul Reshape Transpose", "5×7×2×4")),
        ),
        case("ij,jk,kl->iz", THREE, Err("is in no operand")),
        case("ij,jk->ik", THREE, Err("2 terms for 3 operands")),
        case("ijk->i", ONE, Err("for 2 axes")),
        case("i1->i", ONE, Err("not a letter")),
        case("ij->ii", ONE, Err("occurs twice")),
        case("bij,bik->bjk", BATCHED, Err("has size")),
    ]);
}

#[test]
fn losses() {
    const SCORES: Inputs = &[("x", &["b", "5", "6"]), ("target", &["b", "6"])];
    const OTHERS: Inputs = &[("x", &["b", "5", "6"]), ("target", &["b", "7"])];
    let case = |name, node, inputs, expected| Case {
        name,
        opset: 13,
        inputs,
        constants: vec![half("w", &[5])],
        node,
        expected,
    };
    let nll = |inputs: &[&str]| N::new("NegativeLogLikelihoodLoss", inputs, &["y"]);
    let sce = |inputs: &[&str]| N::new("SoftmaxCrossEntropyLoss", inputs, &["y"]);
    const PICK: &str = "Reshape Compare Where ReduceSum Neg";
    let none = || A::string("reduction", "none");
    check(vec![
        case("none", nll(&["x", "target"]).with(none()), SCORES, Ok((PICK, "b×6"))),
        case(
            "mean",
            nll(&["x", "target"]),
            SCORES,
            Ok((&*format!("{PICK} ReduceMean").leak(), "scalar")),
        ),
        case(
            "weights and an ignored class",
            sce(&["x", "target", "w"]).with(A::int("ignore_index", -1)),
            SCORES,
            Ok((
                &*format!(
                    "Softmax {PICK} Where ReduceSum Compare Where Where Mul ReduceSum ReduceSum Div"
                )
                .leak(),
                "scalar",
            )),
        ),
        case("a target of another size", nll(&["x", "target"]), OTHERS, Err("targets of")),
        case(
            "an unknown reduction",
            nll(&["x", "target"]).with(A::string("reduction", "max")),
            SCORES,
            Err("not defined"),
        ),
    ]);
}

#[test]
fn attention() {
    const HEADS: Inputs =
        &[("q", &["b", "4", "m", "8"]), ("k", &["b", "4", "n", "8"]), ("v", &["b", "4", "n", "6"])];
    const GROUPED: Inputs =
        &[("q", &["1", "4", "3", "8"]), ("k", &["1", "2", "5", "8"]), ("v", &["1", "2", "5", "8"])];
    const FLAT: Inputs =
        &[("q", &["b", "m", "32"]), ("k", &["b", "n", "32"]), ("v", &["b", "n", "32"])];
    const WINDOW: Inputs = &[
        ("q", &["2", "4", "3", "8"]),
        ("k", &["2", "4", "5", "8"]),
        ("v", &["2", "4", "5", "8"]),
        ("lengths", &["2"]),
    ];
    let node = |inputs: &[&str]| N::new("Attention", inputs, &["y"]);
    let plain = || node(&["q", "k", "v"]);
    let heads = |q, kv| plain().with(A::int("q_num_heads", q)).with(A::int("kv_num_heads", kv));
    let case = |name, opset, inputs, node, expected| Case {
        name,
        opset,
        inputs,
        constants: vec![half("mask", &[3, 4]), half("long", &[3, 9])],
        node,
        expected,
    };
    check(vec![
        case("plain", 23, HEADS, plain(), Ok(("Mul MatMul Softmax MatMul", "b×4×m×6"))),
        case(
            "causal over symbolic sizes",
            23,
            HEADS,
            plain().with(A::int("is_causal", 1)).with(A::float("scale", 1.0)),
            Ok(("Slice Slice MatMul Add Softmax MatMul", "b×4×m×6")),
        ),
        case(
            "softcap",
            23,
            HEADS,
            plain().with(A::float("softcap", 2.0)).with(A::float("scale", 1.0)),
            Ok(("MatMul Div Tanh Mul Softmax MatMul", "b×4×m×6")),
        ),
        case(
            "grouped heads and a short mask",
            23,
            GROUPED,
            node(&["q", "k", "v", "mask"]),
            Ok((
                "Pad Reshape Expand Reshape Reshape Expand Reshape Mul MatMul Add Softmax \
                 ReduceMax Compare Where MatMul",
                "1×4×3×8",
            )),
        ),
        case(
            "three axes",
            23,
            FLAT,
            heads(4, 4),
            Ok((
                "Reshape Transpose Reshape Transpose Reshape Transpose Mul MatMul Softmax MatMul \
                 Transpose Reshape",
                "b×m×32",
            )),
        ),
        case("no head counts", 23, FLAT, plain(), Err("`q_num_heads`")),
        case("heads that don't divide", 23, FLAT, heads(5, 5), Err("don't divide")),
        case("a long mask", 23, GROUPED, node(&["q", "k", "v", "long"]), Err("a mask of 9 keys")),
        case(
            "a mask for dynamic keys",
            23,
            HEADS,
            node(&["q", "k", "v", "mask"]),
            Err("may be shorter"),
        ),
        case(
            "valid lengths and a window",
            25,
            WINDOW,
            node(&["q", "k", "v", "", "", "", "lengths"])
                .with(A::int("left_window_size", 1))
                .with(A::float("scale", 1.0)),
            Ok((
                "Reshape Compare Add Sub Compare And Where MatMul Add Softmax ReduceMax Compare \
                 Where MatMul",
                "2×4×3×8",
            )),
        ),
        case(
            "a window before it was defined",
            24,
            WINDOW,
            plain().with(A::int("left_window_size", 1)),
            Err("`left_window_size` is not known"),
        ),
        case(
            "an undefined output",
            23,
            HEADS,
            plain().with(A::int("qk_matmul_output_mode", 4)),
            Err("mode 4"),
        ),
        case(
            "an integer softmax",
            23,
            HEADS,
            plain().with(A::int("softmax_precision", 6)),
            Err("float type"),
        ),
    ]);
}

#[test]
fn transformers() {
    const X: Inputs = &[("x", &["b", "m", "32"]), ("ids", &["b", "m"])];
    const TWO: Inputs = &[("x", &["3", "4"]), ("z", &["3", "4"])];
    const STEPS: Inputs =
        &[("q", &["1", "2", "8"]), ("k", &["1", "2", "8"]), ("v", &["1", "2", "8"])];
    const MANY: Inputs =
        &[("q", &["1", "m", "8"]), ("k", &["1", "m", "8"]), ("v", &["1", "m", "8"])];
    const DECODER: Inputs = &[("q", &["1", "1", "8"])];
    let rotary = |dim| {
        N::new("RotaryEmbedding", &["x", "cos", "sin", "ids"], &["y"])
            .with(A::int("num_heads", 4))
            .with(A::int("rotary_embedding_dim", dim))
    };
    let linear = || {
        N::new("LinearAttention", &["q", "k", "v"], &["y"])
            .with(A::int("q_num_heads", 2))
            .with(A::int("kv_num_heads", 2))
            .with(A::string("update_rule", "linear"))
    };
    let case = |name, opset, inputs, node, expected| Case {
        name,
        opset,
        inputs,
        constants: vec![half("cos", &[9, 4]), half("sin", &[9, 4])],
        node,
        expected,
    };
    const TURN: &str = "Mul Mul Mul Mul Sub Add";
    check(vec![
        case(
            "rotary",
            23,
            X,
            rotary(0),
            Ok((
                &*format!(
                    "Gather Gather Reshape Reshape Reshape Slice Slice {TURN} Concat Reshape"
                )
                .leak(),
                "b×m×32",
            )),
        ),
        case(
            "interleaved rotary",
            23,
            X,
            rotary(8).with(A::int("interleaved", 1)),
            Ok((
                &*format!(
                    "Gather Gather Reshape Reshape Reshape Slice Slice {TURN} Reshape Reshape \
                     Concat Reshape Reshape"
                )
                .leak(),
                "b×m×32",
            )),
        ),
        case("rotary of more than a head", 23, X, rotary(10), Err("of heads of 8")),
        case("rotary of another cache", 23, X, rotary(4), Err("a cache of")),
        case("gated unit", 28, TWO, N::new("SwiGLU", &["x", "z"], &["y"]), Ok(("Silu Mul", "3×4"))),
        case(
            "gated unit of two shapes",
            28,
            X,
            N::new("SwiGLU", &["x", "cos"], &["y"]),
            Err("differ in type or shape"),
        ),
        case(
            "linear attention over two steps",
            27,
            STEPS,
            linear(),
            Ok((
                "Reshape Transpose Reshape Transpose Reshape Transpose Mul Slice Slice Slice \
                 Transpose Mul MatMul Slice Slice Slice Transpose Mul Add MatMul Concat Transpose \
                 Reshape",
                "1×2×8",
            )),
        ),
        case("linear attention over any steps", 27, MANY, linear(), Err("are written out")),
        case(
            "a decoder's attention",
            17,
            DECODER,
            microsoft(N::new("GroupQueryAttention", &["q"], &["y"])),
            Err("key-value cache"),
        ),
        case(
            "an operator nobody knows",
            17,
            DECODER,
            microsoft(N::new("Unheard", &["q"], &["y"])),
            Err("com.microsoft::Unheard"),
        ),
        case(
            "FastGelu",
            17,
            DECODER,
            microsoft(N::new("FastGelu", &["q"], &["y"])),
            Ok(("GeluTanh", "1×1×8")),
        ),
    ]);
}

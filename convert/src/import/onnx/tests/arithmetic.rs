//! Products and elementwise operators.

use super::table::{case, check, ints, refused, zeros};
use super::*;

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

//! Convolution and pooling: windows, padding and layout.

use super::table::{case, check, ints, refused, zeros};
use super::*;

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

//! Operators that index, select and sample, and sequences: what they compute for constants, the shapes
//! and nodes that they become, and what is refused. Values were worked out by hand or stand in the
//! ONNX specification; ONNX's own cases are in `convert/proof/onnx_nodes.py`.

use super::*;
use crate::evaluate;

fn ints(name: &str, values: &[i64]) -> T {
    T::i64(name, &[values.len() as i64], values)
}

fn reals(name: &str, dims: &[i64], values: &[f32]) -> T {
    T::f32(name, dims, values)
}

fn bools(name: &str, values: &[u8]) -> T {
    T::raw(name, t::BOOL, &[values.len() as i64], values.to_vec())
}

/// `from, from + 1, …`
fn counting(name: &str, dims: &[i64], from: i64) -> T {
    let count = dims.iter().product::<i64>();
    let values: Vec<f32> = (from..from + count).map(|v| v as f32).collect();
    T::f32(name, dims, &values)
}

struct Values {
    name: &'static str,
    opset: i64,
    constants: Vec<T>,
    nodes: Vec<N>,
    shape: &'static [usize],
    values: &'static [f32],
}

fn check_values(cases: Vec<Values>) {
    for case in cases {
        let model = model(case.opset, vec![], case.constants, case.nodes);
        let graph = import(&model, &ImportOptions::default())
            .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        crate::passes::check(&graph).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let results = evaluate::constants(&graph).unwrap_or_else(|| panic!("{}", case.name));
        let y = &results[0];
        assert_eq!(y.shape, case.shape, "{}", case.name);
        let got = y.to_f32();
        let same = |(got, want): (&f32, &f32)| (got - want).abs() <= 1e-5 * want.abs().max(1.0);
        assert!(got.iter().zip(case.values).all(same), "{}: {got:?}", case.name);
        assert_eq!(got.len(), case.values.len(), "{}: {got:?}", case.name);
    }
}

#[test]
fn indexing_and_scattering() {
    let data = || reals("x", &[3, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    let table = |opset, name, constants, node: N, shape, values| Values {
        name,
        opset,
        constants,
        nodes: vec![node],
        shape,
        values,
    };
    let gather = |op: &str| N::new(op, &["x", "i"], &["y"]);
    let scatter = |op: &str| N::new(op, &["x", "i", "u"], &["y"]);
    let index = || T::i64("i", &[2, 3], &[1, 2, 0, 2, 0, 0]);
    let updates = || reals("u", &[2, 3], &[10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
    check_values(vec![
        table(
            13,
            "GatherElements",
            vec![data(), index()],
            gather("GatherElements"),
            &[2, 3],
            &[4.0, 8.0, 3.0, 7.0, 2.0, 3.0],
        ),
        table(
            13,
            "GatherElements along 1",
            vec![data(), T::i64("i", &[3, 1], &[-1, 0, -3])],
            gather("GatherElements").with(A::int("axis", 1)),
            &[3, 1],
            &[3.0, 4.0, 7.0],
        ),
        table(
            13,
            "GatherND",
            vec![data(), T::i64("i", &[2, 2], &[0, -1, 2, 0])],
            gather("GatherND"),
            &[2],
            &[3.0, 7.0],
        ),
        table(
            13,
            "GatherND with batch",
            vec![data(), T::i64("i", &[3, 1], &[0, 1, 2])],
            gather("GatherND").with(A::int("batch_dims", 1)),
            &[3],
            &[1.0, 5.0, 9.0],
        ),
        table(
            10,
            "Scatter",
            vec![data(), index(), updates()],
            scatter("Scatter"),
            &[3, 3],
            &[1.0, 50.0, 60.0, 10.0, 5.0, 6.0, 40.0, 20.0, 9.0],
        ),
        table(
            16,
            "ScatterElements add",
            vec![data(), index(), updates()],
            scatter("ScatterElements").with(A::string("reduction", "add")),
            &[3, 3],
            &[1.0, 52.0, 93.0, 14.0, 5.0, 6.0, 47.0, 28.0, 9.0],
        ),
        table(
            18,
            "ScatterND of bytes, which are added in 32 bits",
            vec![
                T::u8("x", &[2, 2], &[1, 2, 3, 4]),
                T::i64("i", &[2, 1], &[1, 1]),
                T::u8("u", &[2, 2], &[5, 6, 7, 8]),
            ],
            scatter("ScatterND").with(A::string("reduction", "add")),
            &[2, 2],
            &[1.0, 2.0, 15.0, 18.0],
        ),
        table(
            24,
            "TensorScatter around the end",
            vec![
                counting("x", &[2, 1, 3, 1], 0),
                reals("i", &[2, 1, 2, 1], &[10.0, 11.0, 12.0, 13.0]),
                ints("u", &[2, 1]),
            ],
            scatter("TensorScatter").with(A::string("mode", "circular")),
            &[2, 1, 3, 1],
            &[11.0, 1.0, 10.0, 3.0, 12.0, 13.0],
        ),
    ]);
}

#[test]
fn selecting() {
    let x = || reals("x", &[2, 3], &[3.0, 1.0, 2.0, 4.0, 6.0, 5.0]);
    let k = |k| ints("k", &[k]);
    let case = |name, opset, constants, nodes, shape, values| Values {
        name,
        opset,
        constants,
        nodes,
        shape,
        values,
    };
    check_values(vec![
        case(
            "TopK by attribute",
            9,
            vec![x()],
            vec![N::new("TopK", &["x"], &["y", "i"]).with(A::int("k", 2))],
            &[2, 2],
            &[3.0, 2.0, 6.0, 5.0],
        ),
        case(
            "TopK indices, smallest",
            11,
            vec![x(), k(2)],
            vec![
                N::new("TopK", &["x", "k"], &["v", "y"])
                    .with(A::int("largest", 0))
                    .with(A::int("axis", 1)),
            ],
            &[2, 2],
            &[1.0, 2.0, 0.0, 2.0],
        ),
        case(
            "CumSum",
            14,
            vec![x(), ints("k", &[-1])],
            vec![
                N::new("CumSum", &["x", "k"], &["y"])
                    .with(A::int("exclusive", 1))
                    .with(A::int("reverse", 1)),
            ],
            &[2, 3],
            &[3.0, 2.0, 0.0, 11.0, 5.0, 0.0],
        ),
        case(
            "Compress",
            11,
            vec![x(), bools("k", &[0, 1])],
            vec![N::new("Compress", &["x", "k"], &["y"]).with(A::int("axis", 0))],
            &[1, 3],
            &[4.0, 6.0, 5.0],
        ),
        case(
            "Compress all axes",
            11,
            vec![x(), bools("k", &[0, 1, 0, 0, 1])],
            vec![N::new("Compress", &["x", "k"], &["y"])],
            &[2],
            &[1.0, 6.0],
        ),
        case(
            "OneHot, also from the end and out of range",
            11,
            vec![ints("x", &[0, -1, 3]), k(3), reals("v", &[2], &[-1.0, 5.0])],
            vec![N::new("OneHot", &["x", "k", "v"], &["y"])],
            &[3, 3],
            &[5.0, -1.0, -1.0, -1.0, -1.0, 5.0, -1.0, -1.0, -1.0],
        ),
        case(
            "Hardmax",
            13,
            vec![reals("x", &[2, 3], &[1.0, 3.0, 3.0, 2.0, 0.0, 1.0])],
            vec![N::new("Hardmax", &["x"], &["y"])],
            &[2, 3],
            &[0.0, 1.0, 0.0, 1.0, 0.0, 0.0],
        ),
        case(
            "Hardmax over the rest",
            11,
            vec![reals("x", &[1, 2, 2], &[1.0, 3.0, 4.0, 2.0])],
            vec![N::new("Hardmax", &["x"], &["y"])],
            &[1, 2, 2],
            &[0.0, 0.0, 1.0, 0.0],
        ),
        case(
            "lower triangle",
            14,
            vec![x(), ints("k", &[-1])],
            vec![N::new("Trilu", &["x", "k"], &["y"]).with(A::int("upper", 0))],
            &[2, 3],
            &[0.0, 0.0, 0.0, 4.0, 0.0, 0.0],
        ),
        case(
            "EyeLike",
            22,
            vec![x()],
            vec![N::new("EyeLike", &["x"], &["y"]).with(A::int("k", 1))],
            &[2, 3],
            &[0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        ),
        case(
            "NonZero",
            13,
            vec![reals("x", &[2, 2], &[0.0, 5.0, -1.0, 0.0])],
            vec![N::new("NonZero", &["x"], &["y"])],
            &[2, 2],
            &[0.0, 1.0, 1.0, 0.0],
        ),
        case(
            "Unique by first place",
            11,
            vec![reals("x", &[5], &[2.0, 1.0, 2.0, 3.0, 1.0])],
            vec![N::new("Unique", &["x"], &["u", "i", "y"]).with(A::int("sorted", 0))],
            &[5],
            &[0.0, 1.0, 0.0, 2.0, 1.0],
        ),
        case(
            "Unique columns",
            11,
            vec![reals("x", &[2, 3], &[2.0, 1.0, 2.0, 0.0, 5.0, 0.0])],
            vec![N::new("Unique", &["x"], &["y"]).with(A::int("axis", 1))],
            &[2, 2],
            &[1.0, 2.0, 5.0, 0.0],
        ),
        case(
            "ReverseSequence",
            10,
            vec![x(), ints("k", &[3, 2])],
            vec![
                N::new("ReverseSequence", &["x", "k"], &["y"])
                    .with(A::int("batch_axis", 0))
                    .with(A::int("time_axis", 1)),
            ],
            &[2, 3],
            &[2.0, 1.0, 3.0, 6.0, 4.0, 5.0],
        ),
        case(
            "Range downwards",
            11,
            vec![T::i64("x", &[], &[7]), T::i64("k", &[], &[0]), T::i64("d", &[], &[-3])],
            vec![N::new("Range", &["x", "k", "d"], &["y"])],
            &[3],
            &[7.0, 4.0, 1.0],
        ),
    ]);
}

#[test]
fn sampling() {
    let case = |name, opset, constants, node, shape, values| Values {
        name,
        opset,
        constants,
        nodes: vec![node],
        shape,
        values,
    };
    let image = || counting("x", &[1, 1, 2, 2], 1);
    check_values(vec![
        case(
            "GridSample in the middle and on a pixel",
            16,
            vec![image(), reals("g", &[1, 1, 2, 2], &[0.0, 0.0, 1.0, -1.0])],
            N::new("GridSample", &["x", "g"], &["y"]).with(A::int("align_corners", 1)),
            &[1, 1, 1, 2],
            &[2.5, 2.0],
        ),
        case(
            "AffineGrid of the identity",
            20,
            vec![reals("x", &[1, 2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), ints("s", &[1, 1, 2, 2])],
            N::new("AffineGrid", &["x", "s"], &["y"]),
            &[1, 2, 2, 2],
            &[-0.5, -0.5, 0.5, -0.5, -0.5, 0.5, 0.5, 0.5],
        ),
        case(
            "RoiAlign of the whole image",
            10,
            vec![image(), reals("r", &[1, 4], &[0.0, 0.0, 1.0, 1.0]), ints("n", &[0])],
            N::new("RoiAlign", &["x", "r", "n"], &["y"]),
            &[1, 1, 1, 1],
            &[2.5],
        ),
        case(
            "MaxUnpool",
            11,
            vec![image(), T::i64("i", &[1, 1, 2, 2], &[5, 7, 13, 15])],
            N::new("MaxUnpool", &["x", "i"], &["y"])
                .with(A::ints("kernel_shape", &[2, 2]))
                .with(A::ints("strides", &[2, 2])),
            &[1, 1, 4, 4],
            &[0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 4.0],
        ),
        case(
            "Col2Im adds what overlaps",
            18,
            // Blocks of 2 at the places 0 and 1 of an image of 3: rows are elements, columns places.
            vec![counting("x", &[1, 2, 2], 1), ints("s", &[1, 3]), ints("b", &[1, 2])],
            N::new("Col2Im", &["x", "s", "b"], &["y"]),
            &[1, 1, 1, 3],
            &[1.0, 5.0, 4.0],
        ),
        case(
            "DeformConv half a pixel to the right",
            19,
            vec![
                image(),
                reals("w", &[1, 1, 1, 1], &[2.0]),
                reals("o", &[1, 2, 2, 2], &[0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5]),
                reals("b", &[1], &[10.0]),
            ],
            N::new("DeformConv", &["x", "w", "o", "b"], &["y"]),
            &[1, 1, 2, 2],
            &[13.0, 12.0, 17.0, 14.0],
        ),
        case(
            "CenterCropPad",
            18,
            vec![counting("x", &[3, 2], 1), ints("s", &[1, 5])],
            N::new("CenterCropPad", &["x", "s"], &["y"]),
            &[1, 5],
            &[0.0, 3.0, 4.0, 0.0, 0.0],
        ),
        case(
            "Shrink",
            9,
            vec![reals("x", &[5], &[-2.0, -1.0, 0.0, 1.0, 2.0])],
            N::new("Shrink", &["x"], &["y"])
                .with(A::float("lambd", 1.5))
                .with(A::float("bias", 1.5)),
            &[5],
            &[-0.5, 0.0, 0.0, 0.0, 0.5],
        ),
    ]);
}

#[test]
fn sequences() {
    let case = |name, constants, nodes, shape, values| Values {
        name,
        opset: 13,
        constants,
        nodes,
        shape,
        values,
    };
    let x = || counting("x", &[3, 2], 1);
    let at = |name: &str, position| T::i64(name, &[], &[position]);
    check_values(vec![
        case(
            "split, insert, erase, concat",
            vec![x(), counting("z", &[1, 2], 10), at("p", 0), at("q", -1)],
            vec![
                N::new("SplitToSequence", &["x"], &["s"]),
                N::new("SequenceInsert", &["s", "z", "p"], &["t"]),
                N::new("SequenceErase", &["t", "q"], &["u"]),
                N::new("ConcatFromSequence", &["u"], &["y"]).with(A::int("axis", 0)),
            ],
            &[3, 2],
            &[10.0, 11.0, 1.0, 2.0, 3.0, 4.0],
        ),
        case(
            "stack in a new axis",
            vec![x(), T::i64("n", &[], &[2])],
            vec![
                N::new("SplitToSequence", &["x"], &["s"]).with(A::int("keepdims", 0)),
                N::new("ConcatFromSequence", &["s"], &["y"])
                    .with(A::int("axis", 1))
                    .with(A::int("new_axis", 1)),
            ],
            &[2, 3],
            &[1.0, 3.0, 5.0, 2.0, 4.0, 6.0],
        ),
        case(
            "unequal parts, the last",
            vec![x(), T::i64("n", &[], &[2]), at("p", -1)],
            vec![
                N::new("SplitToSequence", &["x", "n"], &["s"]),
                N::new("Identity", &["s"], &["t"]),
                N::new("SequenceAt", &["t", "p"], &["y"]),
            ],
            &[1, 2],
            &[5.0, 6.0],
        ),
        case(
            "length",
            vec![x()],
            vec![
                N::new("SequenceEmpty", &[], &["e"]),
                N::new("SequenceInsert", &["e", "x"], &["s"]),
                N::new("SequenceConstruct", &["x", "x"], &["c"]),
                N::new("SequenceInsert", &["c", "x"], &["d"]),
                N::new("SequenceLength", &["s"], &["m"]),
                N::new("SequenceLength", &["d"], &["n"]),
                N::new("Add", &["m", "n"], &["y"]),
            ],
            &[],
            &[4.0],
        ),
        case(
            "optional",
            vec![x()],
            vec![
                N::new("Optional", &["x"], &["o"]),
                N::new("OptionalHasElement", &["o"], &["h"]),
                N::new("OptionalGetElement", &["o"], &["z"]),
                N::new("Where", &["h", "z", "z"], &["y"]),
            ],
            &[3, 2],
            &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        ),
    ]);
}

/// Inputs: name, type, sizes.
type Inputs = Vec<(&'static str, i32, &'static [&'static str])>;

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
        let inputs: Vec<_> = case
            .inputs
            .iter()
            .map(|(name, of, dims)| ValueInfoProto::tensor(name, *of, dims.iter().map(|d| dim(d))))
            .collect();
        let model = model(case.opset, inputs, case.constants, vec![case.node]);
        let used = |name: &&str| case.inputs.iter().any(|(_, _, dims)| dims.contains(name));
        let dims = ["b", "s"].iter().filter(|name| used(name));
        let options = ImportOptions {
            dims: dims.map(|d| ((*d).to_owned(), DimChoice::Range(1, 8))).collect(),
            pad_boxes: case.name.ends_with("padded"),
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

#[test]
fn nodes_and_dynamic_sizes() {
    const X: (&str, i32, &[&str]) = ("x", t::FLOAT, &["b", "s", "4"]);
    let case = |name, opset, inputs, constants, node, ops, shape| Case {
        name,
        opset,
        inputs,
        constants,
        node,
        expected: Ok((ops, shape)),
    };
    let new = |op: &str, inputs: &[&str]| N::new(op, inputs, &["y"]);
    check(vec![
        case(
            "indices of a dynamic batch",
            13,
            vec![X, ("i", t::INT64, &["b", "2", "4"])],
            vec![],
            new("GatherElements", &["x", "i"]).with(A::int("axis", 1)),
            "GatherElements",
            "b×2×4",
        ),
        case(
            "half precision is added in f32",
            16,
            vec![("x", t::FLOAT16, &["4"]), ("i", t::INT64, &["b"]), ("u", t::FLOAT16, &["b"])],
            vec![],
            new("ScatterElements", &["x", "i", "u"]).with(A::string("reduction", "add")),
            "Cast Cast ScatterElements Cast",
            "4",
        ),
        case(
            "the best of a dynamic batch",
            11,
            vec![X],
            vec![ints("k", &[3])],
            new("TopK", &["x", "k"]),
            "TopK",
            "b×s×3",
        ),
        case(
            "a triangle of dynamic size",
            14,
            vec![("x", t::FLOAT, &["s", "s"])],
            vec![],
            new("Trilu", &["x"]),
            "Slice Reshape Add Slice Compare Where",
            "s×s",
        ),
        case(
            "boxes, padded",
            11,
            vec![("x", t::FLOAT, &["b", "9", "4"]), ("s", t::FLOAT, &["b", "2", "9"])],
            vec![ints("k", &[5])],
            new("NonMaxSuppression", &["x", "s", "k"]),
            "NonMaxSuppression",
            "10*b×3",
        ),
        case(
            "more boxes than there are, padded",
            11,
            vec![("x", t::FLOAT, &["1", "9", "4"]), ("s", t::FLOAT, &["1", "2", "9"])],
            vec![ints("k", &[1000])],
            new("NonMaxSuppression", &["x", "s", "k"]),
            "NonMaxSuppression",
            "18×3",
        ),
        case(
            "places of a dynamic batch",
            20,
            vec![("x", t::FLOAT, &["b", "3", "8", "8"]), ("g", t::FLOAT, &["b", "5", "6", "2"])],
            vec![],
            new("GridSample", &["x", "g"]).with(A::string("mode", "cubic")),
            "GridSample",
            "b×3×5×6",
        ),
    ]);
}

#[test]
fn what_is_refused() {
    const X: (&str, i32, &[&str]) = ("x", t::FLOAT, &["2", "3"]);
    let case = |name, opset, inputs, constants, node, error| Case {
        name,
        opset,
        inputs,
        constants,
        node,
        expected: Err(error),
    };
    let new = |op: &str, inputs: &[&str]| N::new(op, inputs, &["y"]);
    let index = |name: &'static str, dims: &'static [&'static str]| (name, t::INT64, dims);
    check(vec![
        case(
            "a constant index",
            13,
            vec![X],
            vec![T::i64("i", &[1, 1], &[3])],
            new("GatherElements", &["x", "i"]).with(A::int("axis", 1)),
            "index 3 into 3 elements",
        ),
        case(
            "indices longer than the data",
            13,
            vec![X, index("i", &["3", "1"])],
            vec![],
            new("GatherElements", &["x", "i"]).with(A::int("axis", 1)),
            "indices of shape 3×1 into 2×3",
        ),
        case(
            "tuples longer than the rank",
            13,
            vec![X, index("i", &["1", "3"])],
            vec![],
            new("GatherND", &["x", "i"]),
            "0 batch axes of 2×3 and indices of shape 1×3",
        ),
        case(
            "tuples of dynamic length",
            13,
            vec![X, index("i", &["1", "s"])],
            vec![],
            new("GatherND", &["x", "i"]),
            "tuples of s indices",
        ),
        case(
            "a reduction before its time",
            16,
            vec![X, index("i", &["1", "3"]), ("u", t::FLOAT, &["1", "3"])],
            vec![],
            new("ScatterElements", &["x", "i", "u"]).with(A::string("reduction", "max")),
            "reduction `max` is not defined",
        ),
        case(
            "updates of another shape",
            16,
            vec![X, index("i", &["1", "1"]), ("u", t::FLOAT, &["3", "1"])],
            vec![],
            new("ScatterND", &["x", "i", "u"]),
            "updates of shape 3×1 instead of 1×3",
        ),
        case(
            "more than there are",
            11,
            vec![X],
            vec![ints("k", &[4])],
            new("TopK", &["x", "k"]),
            "the first 4 of 3 elements",
        ),
        case(
            "a condition from data",
            11,
            vec![X, ("c", t::BOOL, &["3"])],
            vec![],
            new("Compress", &["x", "c"]).with(A::int("axis", 1)),
            "the condition is computed at run time",
        ),
        case(
            "nothing selected",
            11,
            vec![X],
            vec![bools("c", &[0, 0])],
            new("Compress", &["x", "c"]),
            "nothing is selected",
        ),
        case("places in data", 13, vec![X], vec![], new("NonZero", &["x"]), "depends on data"),
        case("unique data", 11, vec![X], vec![], new("Unique", &["x"]), "depends on data"),
        case(
            "a huge one-hot",
            11,
            vec![index("x", &["1"])],
            vec![ints("k", &[1 << 40]), reals("v", &[2], &[0.0, 1.0])],
            new("OneHot", &["x", "k", "v"]),
            "elements counted",
        ),
        case(
            "boxes",
            11,
            vec![("x", t::FLOAT, &["1", "9", "4"]), ("s", t::FLOAT, &["1", "2", "9"])],
            vec![ints("k", &[5])],
            new("NonMaxSuppression", &["x", "s", "k"]),
            "--pad-boxes for always 10 rows",
        ),
        case(
            "an image of integers",
            16,
            vec![("x", t::INT32, &["1", "1", "2", "2"]), ("g", t::FLOAT, &["1", "1", "1", "2"])],
            vec![],
            new("GridSample", &["x", "g"]),
            "an operand of type i32",
        ),
        case(
            "offsets of another size",
            19,
            vec![("x", t::FLOAT, &["1", "1", "3", "3"]), ("o", t::FLOAT, &["1", "8", "3", "3"])],
            vec![reals("w", &[1, 1, 2, 2], &[1.0; 4])],
            new("DeformConv", &["x", "w", "o"]),
            "offsets of shape 1×8×3×3 for [8, 2, 2]",
        ),
        case(
            "a sequence as the result",
            11,
            vec![X],
            vec![],
            new("SplitToSequence", &["x"]),
            "it is a sequence of tensors",
        ),
        case(
            "a sequence of many",
            11,
            vec![("x", t::INT8, &["1000000"])],
            vec![],
            new("SplitToSequence", &["x"]),
            "1000000 elements in parts of 1",
        ),
        case(
            "no sequence",
            11,
            vec![X],
            vec![ints("p", &[0])],
            new("SequenceAt", &["x", "p"]),
            "is not a sequence",
        ),
    ]);
}

#[test]
fn sequences_stay_among_their_operators() {
    let nodes = |last: N| vec![N::new("SplitToSequence", &["x"], &["s"]), last];
    let cases = [
        (N::new("Relu", &["s"], &["y"]), "an input that is a sequence of tensors"),
        (N::new("Shape", &["s"], &["y"]), "an input that is a sequence of tensors"),
        (N::new("SequenceConstruct", &["x", "s"], &["y"]), "is a sequence"),
        (N::new("SequenceAt", &["s", "p"], &["y"]), "position 5 in a sequence of 2"),
        (N::new("SequenceInsert", &["s", "x", "m"], &["y"]), "position -3 in a sequence of 2"),
    ];
    for (last, part) in cases {
        let constants = vec![ints("p", &[5]), ints("m", &[-3])];
        let model = model(11, vec![input("x", &["2", "3"])], constants, nodes(last.clone()));
        let error = import(&model, &ImportOptions::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{}: {error}", last.op_type());
    }
}

//! LSTM, GRU and RNN: the nodes that they become in each version, and what is refused.

use super::*;
use crate::graph::Recurrent;

struct Layer {
    op: &'static str,
    opset: i64,
    inputs: Vec<&'static str>,
    attributes: Vec<A>,
}

fn layer(op: &'static str, inputs: &[&'static str], attributes: Vec<A>) -> Layer {
    Layer { op, opset: 14, inputs: inputs.to_vec(), attributes }
}

fn strings(name: &str, values: &[&str]) -> A {
    A {
        name: Some(name.to_owned()),
        strings: values.iter().map(|v| Bytes::copy_from_slice(v.as_bytes())).collect(),
        r#type: Some(attribute_type::STRINGS),
        ..A::default()
    }
}

/// 5 time steps, 2 sequences of 3 elements, a state of 4; two directions where an operand ends in 2.
fn imported(layer: Layer) -> Result<Graph, ImportError> {
    let gates = match layer.op {
        "LSTM" => 4,
        "GRU" => 3,
        _ => 1,
    };
    let zeros = |name: &str, dims: &[i64]| {
        T::f32(name, dims, &vec![0.5; dims.iter().product::<i64>() as usize])
    };
    let mut constants = vec![
        T::i32("lens", &[2], &[5, 3]),
        T::i32("full", &[2], &[5, 5]),
        T::i32("long", &[2], &[5, 6]),
    ];
    for (suffix, d) in [("", 1), ("2", 2)] {
        constants.push(zeros(&format!("w{suffix}"), &[d, gates * 4, 3]));
        constants.push(zeros(&format!("r{suffix}"), &[d, gates * 4, 4]));
        constants.push(zeros(&format!("b{suffix}"), &[d, 2 * gates * 4]));
        constants.push(zeros(&format!("h{suffix}"), &[d, 2, 4]));
        constants.push(zeros(&format!("p{suffix}"), &[d, 12]));
    }
    constants.push(zeros("h_batch", &[2, 1, 4]));
    constants.push(zeros("odd", &[1, 3, 3]));
    let mut inputs = vec![input("x", &["5", "2", "3"]), input("batch", &["2", "5", "3"])];
    inputs.push(ValueInfoProto::tensor("rw", t::FLOAT, [1, gates * 4, 3]));
    inputs.push(ValueInfoProto::tensor("rr", t::FLOAT, [1, gates * 4, 4]));
    inputs.push(ValueInfoProto::tensor("rb", t::FLOAT, [1, 2 * gates * 4]));
    let node = N::new(layer.op, &layer.inputs, &["y"]);
    let node = layer.attributes.into_iter().fold(node, N::with);
    import(&model(layer.opset, inputs, constants, vec![node]), &ImportOptions::default())
}

#[test]
fn layers() {
    let direction = |d: &str| A::string("direction", d);
    let layout = || A::int("layout", 1);
    let cases: Vec<(Layer, &str, &str)> = vec![
        (layer("LSTM", &["x", "w", "r"], vec![]), "MatMul Recurrent", "5×1×2×4"),
        (
            layer("LSTM", &["x", "w", "r", "b", "", "h", "h", "p"], vec![A::int("hidden_size", 4)]),
            "MatMul Recurrent",
            "5×1×2×4",
        ),
        (
            layer(
                "LSTM",
                &["x", "w2", "r2", "b2", "lens", "h2", "h2", "p2"],
                vec![direction("bidirectional")],
            ),
            "MatMul Recurrent",
            "5×2×2×4",
        ),
        (
            layer("LSTM", &["batch", "w", "r", "b", "", "h_batch"], vec![layout()]),
            "Transpose MatMul Recurrent Transpose",
            "2×5×1×4",
        ),
        // Lengths that are all of the sequence say nothing.
        (
            layer("RNN", &["x", "w", "r", "b", "full"], vec![direction("reverse")]),
            "MatMul Recurrent",
            "5×1×2×4",
        ),
        (layer("GRU", &["x", "w", "r", "b"], vec![]), "MatMul Recurrent", "5×1×2×4"),
        (
            layer("GRU", &["x", "w", "r", "b"], vec![A::int("linear_before_reset", 1)]),
            "MatMul Recurrent",
            "5×1×2×4",
        ),
        // Weights that come at run time.
        (
            layer("LSTM", &["x", "rw", "rr", "rb"], vec![]),
            "Reshape MatMul Slice Reshape Add Slice Reshape Add Transpose Recurrent",
            "5×1×2×4",
        ),
        (
            layer("GRU", &["x", "rw", "rr", "rb"], vec![A::int("linear_before_reset", 1)]),
            "Reshape MatMul Slice Reshape Add Slice Pad Reshape Add Slice Transpose Slice Transpose Slice Recurrent",
            "5×1×2×4",
        ),
    ];
    for (layer, expected_ops, expected_shape) in cases {
        let text = format!("{} {:?}", layer.op, layer.inputs);
        let graph = imported(layer).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(
            (ops(&graph).as_str(), shape(&graph).as_str()),
            (expected_ops, expected_shape),
            "{text}"
        );
        crate::passes::check(&graph).unwrap();
    }
}

/// Each function takes the next alpha or beta if it has one, whatever the others have.
#[test]
fn functions_and_their_parameters() {
    use whit::format::RecurrentFunction as F;
    let attributes = vec![
        A::string("direction", "bidirectional"),
        strings("activations", &["sigmoid", "LeakyRelu", "HardSigmoid", "Tanh", "Elu", "Affine"]),
        A::floats("activation_alpha", &[0.5, 0.25, 2.0]),
        A::floats("activation_beta", &[0.75]),
        A::float("clip", 3.0),
        A::int("input_forget", 1),
    ];
    let graph = imported(layer("LSTM", &["x", "w2", "r2"], attributes)).unwrap();
    let Op::Recurrent(Recurrent { backwards, variant, clip, functions, .. }) =
        &graph.nodes.last().unwrap().op
    else {
        panic!("{}", ops(&graph));
    };
    assert_eq!((backwards.as_slice(), *variant, *clip), (&[false, true][..], true, 3.0));
    let wanted = [
        (F::Sigmoid, 0.0, 0.0),
        (F::LeakyRelu, 0.5, 0.0),
        (F::HardSigmoid, 0.25, 0.75),
        (F::Tanh, 0.0, 0.0),
        (F::Elu, 2.0, 0.0),
        (F::Affine, 1.0, 0.0),
    ];
    assert_eq!(*functions, wanted.map(Some));
}

#[test]
fn refusals() {
    let direction = |d: &str| vec![A::string("direction", d)];
    let functions = |names: &[&str]| vec![strings("activations", names)];
    let cases: Vec<(Layer, &str)> = vec![
        (layer("LSTM", &["x", "w"], vec![]), "#2 (R) is missing"),
        (layer("LSTM", &["x", "w", "r2"], vec![]), "R has shape"),
        (layer("LSTM", &["x", "odd", "r"], vec![]), "W has shape"),
        (layer("LSTM", &["x", "w", "r", "b2"], vec![]), "B has shape"),
        (layer("LSTM", &["x", "w", "r", "", "", "h2"], vec![]), "initial_h has shape"),
        (layer("LSTM", &["x", "w", "r", "", "", "", "", "p2"], vec![]), "P has shape"),
        (layer("LSTM", &["x", "w", "r", "", "b"], vec![]), "not int32"),
        (layer("LSTM", &["x", "w", "r", "", "long"], vec![]), "for 5 time steps"),
        (layer("LSTM", &["lens", "w", "r"], vec![]), "X is i32"),
        (layer("LSTM", &["b", "w", "r"], vec![]), "X has 2 axes"),
        (layer("LSTM", &["x", "w", "r"], direction("sideways")), "sideways"),
        (layer("LSTM", &["x", "w", "r"], direction("bidirectional")), "W has shape"),
        (layer("LSTM", &["x", "w", "r"], vec![A::int("hidden_size", 5)]), "hidden_size is 5"),
        (layer("LSTM", &["x", "w", "r"], vec![A::float("clip", f32::NAN)]), "clip NaN"),
        (layer("LSTM", &["x", "w", "r"], vec![A::int("layout", 2)]), "not 0 or 1"),
        (layer("LSTM", &["x", "w", "r"], vec![A::int("linear_before_reset", 1)]), "is not known"),
        (layer("LSTM", &["x", "w", "r"], functions(&["Tanh"])), "1 activations, not 3"),
        (layer("RNN", &["x", "w", "r"], functions(&["Sine"])), "`Sine` is not defined"),
        (layer("RNN", &["x", "w", "r"], functions(&["ScaledTanh"])), "without alpha and beta"),
        (layer("GRU", &["x", "w", "r", "", "", "", "h"], vec![]), "at most 6"),
    ];
    for (layer, part) in cases {
        let text = format!("{} {:?}", layer.op, layer.inputs);
        let error = imported(layer).expect_err(&text).to_string();
        assert!(error.contains(part), "{text}: {part}: {error}");
    }
}

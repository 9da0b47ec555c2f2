//! Models made to break the importer: every one is refused, none makes it panic.

use super::*;

fn error(model: &ModelProto) -> String {
    import(model, &Default::default()).expect_err("a hostile model was imported").to_string()
}

#[test]
fn broken_graphs() {
    let x = || vec![input("x", &["1", "3"])];
    let n = |op: &str, i: &[&str], o: &[&str]| N::new(op, i, o);
    let with = |nodes: Vec<N>| model(13, x(), vec![], nodes);
    let shaped = |dims: &[i64], node: N| {
        model(13, x(), vec![T::i64("s", &[dims.len() as i64], dims)], vec![node])
    };
    let cases: Vec<(ModelProto, &str)> = vec![
        (
            with(vec![
                n("Add", &["x", "b"], &["a"]),
                n("Relu", &["a"], &["b"]),
                n("Relu", &["b"], &["y"]),
            ]),
            "depends on its own output",
        ),
        (with(vec![n("Relu", &["y"], &["y"])]), "depends on its own output"),
        (with(vec![n("Relu", &["x"], &["y"]), n("Relu", &["x"], &["y"])]), "made twice"),
        (with(vec![n("Relu", &["x"], &["x"])]), "made twice"),
        (with(vec![n("Relu", &["nowhere"], &["y"])]), "`nowhere`, which nothing makes"),
        (with(vec![]), "made by no node"),
        (with(vec![n("Relu", &[], &["y"])]), "is missing"),
        (with(vec![n("Add", &["x"], &["y"])]), "is missing"),
        (with(vec![n("Relu", &["x", "x"], &["y"])]), "at most 1"),
        (with(vec![n("", &["x"], &["y"])]), "not supported"),
        (with(vec![n("Relu", &["x"], &["z", "y"])]), "output #1"),
        (
            with(vec![n("Transpose", &["x"], &["y"]).with(A::ints("perm", &[i64::MIN, 0]))]),
            "axis -9223372036854775808",
        ),
        (
            with(vec![n("Softmax", &["x"], &["y"]).with(A::int("axis", i64::MAX))]),
            "axis 9223372036854775807",
        ),
        (with(vec![n("Flatten", &["x"], &["y"]).with(A::int("axis", -9))]), "axis -9"),
        (
            with(vec![n("Clip", &["x"], &["y"]).with(A::int("a", 1)).with(A::int("a", 1))]),
            "occurs twice",
        ),
        (
            model(
                13,
                vec![input("x", &["1"]), input("x", &["1"])],
                vec![],
                vec![n("Relu", &["x"], &["y"])],
            ),
            "occurs twice",
        ),
        (
            model(
                13,
                x(),
                vec![T::f32("w", &[1], &[0.0]), T::f32("w", &[1], &[0.0])],
                vec![n("Relu", &["x"], &["y"])],
            ),
            "occurs twice",
        ),
        (model(0, x(), vec![], vec![n("Relu", &["x"], &["y"])]), "operator set 0 is not supported"),
        (model(999, x(), vec![], vec![n("Relu", &["x"], &["y"])]), "operator set 999"),
        (
            model(
                13,
                vec![ValueInfoProto::tensor("x", t::STRING, [1i64])],
                vec![],
                vec![n("Relu", &["x"], &["y"])],
            ),
            "STRING",
        ),
        (
            model(
                13,
                vec![ValueInfoProto::tensor("x", t::FLOAT, [1i64; 9])],
                vec![],
                vec![n("Relu", &["x"], &["y"])],
            ),
            "9 axes",
        ),
        (
            model(
                13,
                vec![ValueInfoProto::tensor("x", t::FLOAT, [i64::MAX])],
                vec![],
                vec![n("Relu", &["x"], &["y"])],
            ),
            "size",
        ),
        (
            model(
                13,
                vec![ValueInfoProto::tensor("x", t::FLOAT, [1i64 << 39; 3])],
                vec![],
                vec![n("Relu", &["x"], &["y"])],
            ),
            "would have shape",
        ),
        (shaped(&[i64::MAX, i64::MAX], n("Expand", &["x", "s"], &["y"])), "don't broadcast"),
        (shaped(&[i64::MAX, 1, 1], n("Expand", &["x", "s"], &["y"])), "would have shape"),
        (shaped(&[1 << 40, 1 << 40, 1, 3], n("Expand", &["x", "s"], &["y"])), "would have shape"),
        (shaped(&[i64::MAX, i64::MAX], n("Tile", &["x", "s"], &["y"])), ""),
        (shaped(&[i64::MAX, i64::MAX], n("Reshape", &["x", "s"], &["y"])), "overflows"),
        (shaped(&[-2, 3], n("Reshape", &["x", "s"], &["y"])), "is -2"),
        (shaped(&[-1, -1], n("Reshape", &["x", "s"], &["y"])), "is -1"),
        (shaped(&[i64::MAX, i64::MIN], n("ConstantOfShape", &["s"], &["y"])), "would have shape"),
        (shaped(&[1; 9], n("ConstantOfShape", &["s"], &["y"])), "9 axes"),
        (shaped(&[i64::MIN, i64::MAX, 0, 0], n("Pad", &["x", "s"], &["y"])), "pads"),
    ];
    for (model, part) in cases {
        let text = error(&model);
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(import_onnx(Bytes::from_static(b"\xff\xff\xff"), None, &Default::default()).is_err());
    assert!(import_onnx(Bytes::new(), None, &Default::default()).is_err());
}

/// Small files that ask for much: time and memory stay bounded.
#[test]
fn amplification() {
    // Squaring a size again and again.
    let mut nodes = vec![N::new("Shape", &["x"], &["s0"])];
    for i in 0..200 {
        let (from, to) = (format!("s{i}"), format!("s{}", i + 1));
        nodes.push(N::new(if i % 2 == 0 { "Mul" } else { "Add" }, &[&from, &from], &[&to]));
    }
    nodes.push(N::new("Expand", &["x", "s200"], &["y"]));
    let dims = vec![("b".to_owned(), DimChoice::Range(1, 9))];
    let squares = model(13, vec![input("x", &["b", "3"])], vec![], nodes);
    assert!(import(&squares, &ImportOptions { dims, ..Default::default() }).is_err());

    // Transposing one large constant again and again folds only within the budget.
    let side = 1024i64;
    let weights = T::f32("w0", &[side, side], &vec![1.0; (side * side) as usize]);
    let mut nodes = Vec::new();
    for i in 0..100 {
        nodes.push(N::new("Transpose", &[&format!("w{i}")], &[&format!("w{}", i + 1)]));
    }
    nodes.push(N::new("MatMul", &["x", "w100"], &["y"]));
    let graph = import(
        &model(13, vec![input("x", &["1", "1024"])], vec![weights], nodes),
        &Default::default(),
    )
    .unwrap();
    assert!(graph.nodes.len() > 10, "{}", ops(&graph));

    // A long chain of nodes, in reverse.
    let mut nodes: Vec<N> = (0..20_000)
        .map(|i| N::new("Relu", &[&format!("v{i}")], &[&format!("v{}", i + 1)]))
        .collect();
    nodes.push(N::new("Relu", &["v20000"], &["y"]));
    nodes.reverse();
    let graph =
        import(&model(13, vec![input("v0", &["1"])], vec![], nodes), &Default::default()).unwrap();
    assert_eq!(graph.nodes.len(), 20_001);

    // Subgraphs in subgraphs in subgraphs.
    let mut nested = GraphProto::default();
    for _ in 0..200 {
        let node = vec![N::new("If", &["x"], &["y"]).with(A::graph("then_branch", nested))];
        nested = GraphProto { node, ..Default::default() };
    }
    let output = vec![input("y", &[])];
    let nested = GraphProto { input: vec![input("x", &["1"])], output, ..nested };
    assert!(import(&ModelProto::new(13, nested), &Default::default()).is_err());
}

/// Thousands of damaged copies of a model with many operators: errors or graphs, never a panic.
#[test]
fn mutations_never_panic() {
    let n = |op: &str, i: &[&str], o: &[&str]| N::new(op, i, o);
    let ints = |name: &str, v: &[i64]| T::i64(name, &[v.len() as i64], v);
    let constants = vec![
        T::f32("w", &[4, 3, 3, 3], &[0.1; 108]),
        T::f32("s", &[], &[0.1]),
        T::i8("z", &[], &[3]),
        T::i8("fc", &[4, 5], &[1; 20]),
        T::f32("fcs", &[5], &[0.1; 5]),
        ints("minus", &[-1]),
        ints("zero", &[0]),
        ints("one", &[1]),
        ints("pads", &[0, 0, 1, 1, 0, 0, 1, 1]),
        T::f32("scales", &[4], &[1.0, 1.0, 2.0, 2.0]),
    ];
    let nodes = vec![
        n("Pad", &["x", "pads"], &["p"]).with(A::string("mode", "edge")),
        n("Conv", &["p", "w"], &["c"])
            .with(A::ints("strides", &[2, 2]))
            .with(A::string("auto_pad", "SAME_UPPER")),
        n("Resize", &["c", "", "scales"], &["r"]).with(A::string("mode", "linear")),
        n("MaxPool", &["r"], &["m"])
            .with(A::ints("kernel_shape", &[2, 2]))
            .with(A::int("ceil_mode", 1)),
        n("Split", &["m"], &["a", "b"]).with(A::int("axis", 1)),
        n("Concat", &["a", "b"], &["cc"]).with(A::int("axis", 1)),
        n("ReduceMean", &["cc"], &["g"]).with(A::ints("axes", &[2, 3])),
        n("Shape", &["g"], &["sh"]),
        n("Slice", &["sh", "zero", "one"], &["batch"]),
        n("Concat", &["batch", "minus"], &["to"]).with(A::int("axis", 0)),
        n("Reshape", &["g", "to"], &["f"]),
        n("QuantizeLinear", &["f", "s", "z"], &["q"]),
        n("DequantizeLinear", &["q", "s", "z"], &["d"]),
        n("DequantizeLinear", &["fc", "fcs"], &["wd"]).with(A::int("axis", 1)),
        n("Gemm", &["d", "wd"], &["l"]).with(A::float("alpha", 1.0)),
        n("Softmax", &["l"], &["y"]).with(A::int("axis", -1)),
    ];
    let model = model(13, vec![input("x", &["b", "3", "8", "8"])], constants, nodes);
    let bytes = model.to_bytes();
    let options = ImportOptions {
        dims: vec![("b".to_owned(), DimChoice::Range(1, 16))],
        ..Default::default()
    };
    import(&model, &options).unwrap();

    const ROUNDS: usize = 4000;
    // xorshift64: the same damage in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut imported = 0;
    for round in 0..ROUNDS {
        let mut damaged = bytes.to_vec();
        match round % 4 {
            0 => damaged.truncate(random(bytes.len())),
            1 => {
                let at = random(bytes.len());
                damaged.remove(at);
            }
            _ => {
                for _ in 0..=random(4) {
                    let at = random(damaged.len());
                    damaged[at] =
                        [random(256) as u8, damaged[at] ^ (1 << random(8)), 0xff, 0x7f][random(4)];
                }
            }
        }
        // Once with the symbol and once without.
        let options = if round % 2 == 0 { options.clone() } else { ImportOptions::default() };
        imported += usize::from(import_onnx(Bytes::from(damaged), None, &options).is_ok());
    }
    assert!(imported > 0 && imported < ROUNDS);
}

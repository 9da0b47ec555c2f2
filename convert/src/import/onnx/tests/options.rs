//! Dynamic dimensions, input layouts, names, types and the report of what isn't supported.

use super::*;
use crate::graph::Quant;
use whit::DType;

fn relu(x: &[&str]) -> ModelProto {
    model(13, vec![input("x", x)], vec![], vec![N::new("Relu", &["x"], &["y"])])
}

#[test]
fn dimensions() {
    use DimChoice::{Fixed, Range};
    struct Case {
        x: &'static [&'static str],
        dims: &'static [(&'static str, DimChoice)],
        /// The output's shape, or a part of the error.
        expected: Result<&'static str, &'static str>,
    }
    let cases = [
        Case { x: &["unk__6", "4"], dims: &[], expected: Ok("1×4") },
        Case { x: &["unk__6", "4"], dims: &[("unk__6", Fixed(3))], expected: Ok("3×4") },
        Case { x: &["unk__6", "4"], dims: &[("unk__6", Range(1, 8))], expected: Ok("unk__6×4") },
        Case { x: &["", "4"], dims: &[("x_0", Range(1, 8))], expected: Ok("x_0×4") },
        Case { x: &["", "4"], dims: &[("x:0", Range(1, 8))], expected: Ok("x_0×4") },
        Case { x: &["-1", "4"], dims: &[], expected: Ok("1×4") },
        Case { x: &["n", "n"], dims: &[("x:1", Range(2, 8))], expected: Ok("n×n") },
        Case {
            x: &["n", "n"],
            dims: &[],
            expected: Err("--dim n=N or --dim n=1..N   (axis 0 of input `x`)"),
        },
        Case {
            x: &["b", "seq", "w"],
            dims: &[],
            expected: Err("2 dimensions of the model:\n  --dim seq=N"),
        },
        Case { x: &["a=b, c:1", "4"], dims: &[("a=b, c:1", Fixed(2))], expected: Ok("2×4") },
        Case {
            x: &["b", "4"],
            dims: &[("batch", Fixed(2))],
            expected: Err("no such dimension; the model has b"),
        },
        Case { x: &["b", "4"], dims: &[("b", Range(4, 2))], expected: Err("not a range") },
        Case { x: &["b", "4"], dims: &[("b", Fixed(0))], expected: Err("not a range") },
        Case { x: &["b", "4"], dims: &[("x:1", Fixed(5))], expected: Err("fixes this axis to 4") },
        Case { x: &["b", "4"], dims: &[("x:1", Fixed(4))], expected: Ok("1×4") },
        Case { x: &["b", "4"], dims: &[("x:2", Fixed(4))], expected: Err("no such dimension") },
        Case {
            x: &["b", "4"],
            dims: &[("b", Fixed(4)), ("x:0", Fixed(5))],
            expected: Err("given twice"),
        },
    ];
    for case in cases {
        let dims = case.dims.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect();
        let result = import(&relu(case.x), &ImportOptions { dims, ..Default::default() });
        match (result, case.expected) {
            (Ok(graph), Ok(expected)) => assert_eq!(shape(&graph), expected, "{:?}", case.x),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (result, expected) => {
                panic!("{:?}: {:?} instead of {expected:?}", case.x, result.map(|g| shape(&g)))
            }
        }
    }
    let graph = import(&relu(&["unk__6", "4"]), &ImportOptions::default()).unwrap();
    let note = ("note".to_owned(), "dimension `unk__6` fixed to 1; choose with --dim".to_owned());
    assert!(graph.metadata.contains(&note), "{:?}", graph.metadata);
}

#[test]
fn channels_last_input() {
    let model = relu(&["1", "3", "8", "6"]);
    let with = |name: &str| ImportOptions {
        input_layouts: vec![(name.to_owned(), InputLayout::Nhwc)],
        ..Default::default()
    };
    let graph = import(&model, &with("x")).unwrap();
    assert_eq!(ops(&graph), "Transpose Relu");
    let x = graph.value(graph.inputs[0]);
    assert_eq!((x.name.as_str(), graph.shape_text(&x.shape).as_str()), ("x", "1×8×6×3"));
    assert_eq!(shape(&graph), "1×3×8×6");
    assert!(
        import(&model, &with("z"))
            .unwrap_err()
            .to_string()
            .contains("no such input; the model has x")
    );
    assert!(import(&relu(&["1", "3"]), &with("x")).unwrap_err().to_string().contains("2 axes"));
}

#[test]
fn everything_unsupported_is_reported_at_once() {
    let foreign = |i: &str, o: &str| N {
        domain: Some("com.microsoft".to_owned()),
        ..N::new("FusedConv", &[i], &[o])
    };
    let nodes = vec![
        N::new("StringNormalizer", &["x"], &["a"]).named("cell"),
        N::new("StringNormalizer", &["x"], &["b"]),
        // Downstream of a poisoned value: not checked further, but its operator is.
        N::new("Conv", &["a", "b"], &["c"]),
        N::new("StringSplit", &["c"], &["d"]),
        foreign("d", "e"),
        N::new("Relu", &["x"], &["f"]).with(A::int("inplace", 1)),
        N::new("Dead", &["x"], &["unused"]),
        N::new("Sum", &["e", "f"], &["y"]),
    ];
    let error =
        import(&model(13, vec![input("x", &["1", "3"])], vec![], nodes), &Default::default())
            .unwrap_err();
    let ImportError::Unsupported(list) = &error else { panic!("{error}") };
    let found: Vec<(&str, &str, usize, &str)> = list
        .iter()
        .map(|n| (n.op_type.as_str(), n.domain.as_str(), n.count, n.first_node_name.as_str()))
        .collect();
    let expected = [
        ("StringNormalizer", "", 2, "cell"),
        ("StringSplit", "", 1, "StringSplit #3"),
        ("FusedConv", "com.microsoft", 1, "FusedConv #4"),
        ("Relu", "", 1, "Relu #5"),
    ];
    assert_eq!(found, expected);
    let text = error.to_string();
    assert!(
        text.starts_with(
            "5 nodes are not supported:\n  StringNormalizer `cell` and 1 more (inputs f32 1×3): the operator"
        ),
        "{text}"
    );
}

#[test]
fn errors_name_node_operator_shapes() {
    let nodes = vec![N::new("MatMul", &["x", "w"], &["y"]).named("head/dense")];
    let w = vec![T::f32("w", &[4, 2], &[0.0; 8])];
    let error = import(&model(13, vec![input("x", &["1", "3"])], w, nodes), &Default::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "MatMul `head/dense` with inputs f32 1×3, f32 4×2: 3 columns meet 4 rows"
    );
}

#[test]
fn outputs_have_their_names() {
    // An alias of an input, a constant, and one value under two names.
    let nodes = vec![
        N::new("Identity", &["x"], &["same"]),
        N::new("Constant", &[], &["c"]).with(A::float("value_float", 1.0)),
        N::new("Relu", &["x"], &["r"]),
        N::new("Identity", &["r"], &["r2"]),
    ];
    let output = ["same", "c", "r", "r2"].map(|n| input(n, &[])).to_vec();
    let graph = GraphProto {
        node: nodes,
        input: vec![input("x", &["1", "3"])],
        output,
        ..Default::default()
    };
    let graph = import(&ModelProto::new(13, graph), &Default::default()).unwrap();
    let names: Vec<&str> = graph.outputs.iter().map(|id| graph.value(*id).name.as_str()).collect();
    assert_eq!(names, ["same", "c", "r", "r2"]);
    assert_eq!(graph.value(graph.inputs[0]).name, "x");
    let mut ids = graph.outputs.clone();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[test]
fn quantized_weights() {
    let scale = |name: &str, values: &[f32]| T::f32(name, &[values.len() as i64], values);
    let constants = vec![
        T::f32("s", &[], &[0.5]),
        T::u8("z", &[], &[7]),
        T::i8("w", &[2, 3, 1, 2], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        scale("ws", &[0.1, 0.2]),
        T::i32("c", &[2], &[100, -100]),
        scale("cs", &[0.05, 0.1]),
    ];
    let nodes = vec![
        N::new("QuantizeLinear", &["x", "s", "z"], &["q"]),
        N::new("DequantizeLinear", &["q", "s", "z"], &["d"]),
        N::new("DequantizeLinear", &["w", "ws"], &["wd"]).with(A::int("axis", 0)),
        N::new("DequantizeLinear", &["c", "cs"], &["cd"]).with(A::int("axis", 0)),
        N::new("Conv", &["d", "wd", "cd"], &["y"]),
    ];
    let graph = import(
        &model(13, vec![input("x", &["1", "3", "4", "4"])], constants.clone(), nodes),
        &Default::default(),
    )
    .unwrap();
    assert_eq!(ops(&graph), "Quantize Dequantize Dequantize Dequantize Transpose Conv Transpose");
    let q = graph.value(graph.nodes[0].outputs[0]);
    assert_eq!((q.dtype, q.quant.as_ref()), (DType::U8, Some(&Quant::per_tensor(0.5, 7))));
    let conv = graph.nodes.iter().find(|n| matches!(n.op, Op::Conv(_))).unwrap();
    let weights = graph.producers()[conv.inputs[1].unwrap().0 as usize].unwrap();
    let weights = graph.value(graph.nodes[weights].inputs[0].unwrap());
    assert_eq!(weights.quant, Some(Quant::per_channel(vec![0.1, 0.2], 0)));
    let tensor = weights.constant.as_ref().unwrap();
    assert_eq!(
        (tensor.shape.as_slice(), tensor.to_i8()),
        (&[2, 1, 2, 3][..], vec![0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11])
    );

    // Gemm transposes the constant, and the axis of its scales with it.
    let constants = vec![
        T::i8("w", &[2, 3], &[0, 1, 2, 3, 4, 5]),
        scale("ws", &[0.1, 0.2]),
        T::f32("c", &[2], &[1.0, 2.0]),
    ];
    let nodes = vec![
        N::new("DequantizeLinear", &["w", "ws"], &["wd"]).with(A::int("axis", 0)),
        N::new("Gemm", &["x", "wd", "c"], &["y"]).with(A::int("transB", 1)),
    ];
    let graph =
        import(&model(13, vec![input("x", &["1", "3"])], constants, nodes), &Default::default())
            .unwrap();
    assert_eq!(ops(&graph), "Dequantize MatMul");
    let weights = graph.value(graph.nodes[0].inputs[0].unwrap());
    assert_eq!(weights.quant, Some(Quant::per_channel(vec![0.1, 0.2], 1)));
    assert_eq!(weights.constant.as_ref().unwrap().to_i8(), [0, 3, 1, 4, 2, 5]);

    // Weights quantized in the model are quantized here: 0.25 / 0.1 is 2.5, ties to even.
    let constants = vec![
        T::f32("w", &[2, 2], &[0.25, -0.35, 9.0, 100.0]),
        scale("ws", &[0.1, 0.2]),
        T::i8("wz", &[2], &[0, 0]),
    ];
    let nodes = vec![
        N::new("QuantizeLinear", &["w", "ws", "wz"], &["q"]).with(A::int("axis", 1)),
        N::new("DequantizeLinear", &["q", "ws", "wz"], &["wd"]).with(A::int("axis", 1)),
        N::new("MatMul", &["x", "wd"], &["y"]),
    ];
    let graph =
        import(&model(13, vec![input("x", &["1", "2"])], constants, nodes), &Default::default())
            .unwrap();
    assert_eq!(ops(&graph), "Dequantize MatMul");
    let weights = graph.value(graph.nodes[0].inputs[0].unwrap());
    assert_eq!(weights.constant.as_ref().unwrap().to_i8(), [2, -2, 90, 127]);

    // Different parameters on both sides of one activation.
    let constants = vec![T::f32("s", &[], &[0.5]), T::f32("s2", &[], &[0.25])];
    let nodes = vec![
        N::new("QuantizeLinear", &["x", "s"], &["q"]),
        N::new("DequantizeLinear", &["q", "s2"], &["y"]),
    ];
    let graph =
        import(&model(13, vec![input("x", &["1", "2"])], constants, nodes), &Default::default())
            .unwrap();
    assert_eq!(ops(&graph), "Quantize BitCast Dequantize");
}

#[test]
fn quantization_survives_movement() {
    let constants = vec![T::f32("s", &[], &[0.5]), T::i8("z", &[], &[3])];
    let nodes = vec![
        N::new("QuantizeLinear", &["x", "s", "z"], &["q"]),
        N::new("MaxPool", &["q"], &["p"]).with(A::ints("kernel_shape", &[2, 2])),
        N::new("Flatten", &["p"], &["f"]),
        N::new("DequantizeLinear", &["f", "s", "z"], &["y"]),
    ];
    let graph = import(
        &model(13, vec![input("x", &["1", "3", "4", "4"])], constants, nodes),
        &Default::default(),
    )
    .unwrap();
    assert_eq!(ops(&graph), "Quantize Transpose Pool Transpose Reshape Dequantize");
    for node in &graph.nodes[..5] {
        assert_eq!(
            graph.value(node.outputs[0]).quant,
            Some(Quant::per_tensor(0.5, 3)),
            "{}",
            node.name
        );
    }
}

#[test]
fn tensor_types() {
    struct Case {
        tensor: T,
        /// Type and elements, or a part of the error.
        expected: Result<(DType, &'static [i64]), &'static str>,
    }
    let empty = |data_type: i32, dims: &[i64]| T {
        data_type: Some(data_type),
        dims: dims.to_vec(),
        ..T::default()
    };
    let cases = [
        Case {
            tensor: T { float_data: vec![1.0, 2.0], ..empty(t::FLOAT, &[2]) },
            expected: Ok((DType::F32, &[1, 2])),
        },
        Case {
            tensor: T { double_data: vec![1.0, 2.0], ..empty(t::DOUBLE, &[2]) },
            expected: Ok((DType::F32, &[1, 2])),
        },
        Case {
            tensor: T::raw("", t::DOUBLE, &[1], 3f64.to_le_bytes().to_vec()),
            expected: Ok((DType::F32, &[3])),
        },
        Case {
            tensor: T { int64_data: vec![-1, 2], ..empty(t::INT64, &[2]) },
            expected: Ok((DType::I64, &[-1, 2])),
        },
        Case {
            tensor: T { uint64_data: vec![1, 2], ..empty(t::UINT64, &[2]) },
            expected: Ok((DType::I64, &[1, 2])),
        },
        Case {
            tensor: T { uint64_data: vec![u64::MAX], ..empty(t::UINT64, &[1]) },
            expected: Err("beyond the range"),
        },
        Case {
            tensor: T::raw("", t::UINT64, &[1], vec![255; 8]),
            expected: Err("beyond the range"),
        },
        Case {
            tensor: T { uint64_data: vec![7], ..empty(t::UINT32, &[1]) },
            expected: Ok((DType::I64, &[7])),
        },
        Case {
            tensor: T::raw("", t::UINT32, &[1], vec![255; 4]),
            expected: Ok((DType::I64, &[0xffff_ffff])),
        },
        Case {
            tensor: T { int32_data: vec![-3], ..empty(t::INT8, &[1]) },
            expected: Ok((DType::I8, &[-3])),
        },
        Case {
            tensor: T { int32_data: vec![300], ..empty(t::INT8, &[1]) },
            expected: Err("300 is out of range"),
        },
        Case {
            tensor: T { int32_data: vec![300], ..empty(t::INT16, &[1]) },
            expected: Ok((DType::I16, &[300])),
        },
        Case {
            tensor: T { int32_data: vec![300], ..empty(t::UINT16, &[1]) },
            expected: Ok((DType::I64, &[300])),
        },
        Case {
            tensor: T { int32_data: vec![5, 0], ..empty(t::BOOL, &[2]) },
            expected: Ok((DType::Bool, &[1, 0])),
        },
        Case {
            tensor: T::raw("", t::BOOL, &[2], vec![0, 9]),
            expected: Ok((DType::Bool, &[0, 1])),
        },
        Case {
            tensor: T { int32_data: vec![0x3c00], ..empty(t::FLOAT16, &[1]) },
            expected: Ok((DType::F16, &[1])),
        },
        Case {
            tensor: T { int32_data: vec![0x3f80], ..empty(t::BFLOAT16, &[1]) },
            expected: Ok((DType::BF16, &[1])),
        },
        Case {
            tensor: T::raw("", t::INT4, &[3], vec![0x9F, 0x07]),
            expected: Ok((DType::I8, &[-1, -7, 7])),
        },
        Case {
            tensor: T { int32_data: vec![0x9F], ..empty(t::UINT4, &[2]) },
            expected: Ok((DType::U8, &[15, 9])),
        },
        Case {
            tensor: T::raw("", t::INT4, &[3], vec![0]),
            expected: Err("dims say 2 bytes, data has 1"),
        },
        Case {
            tensor: T { int32_data: vec![256], ..empty(t::UINT4, &[2]) },
            expected: Err("out of range"),
        },
        Case {
            tensor: T::raw("", t::FLOAT8E5M2, &[2], vec![0x3C, 0xC0]),
            expected: Ok((DType::F32, &[1, -2])),
        },
        Case {
            tensor: T { string_data: vec![Bytes::new()], ..empty(t::STRING, &[1]) },
            expected: Err("STRING"),
        },
        Case {
            tensor: T::raw("", t::FLOAT, &[2], vec![0; 7]),
            expected: Err("dims say 8 bytes, data has 7"),
        },
        Case {
            tensor: T::raw("", t::FLOAT, &[1 << 40, 1 << 40], vec![]),
            expected: Err("overflow"),
        },
        Case {
            tensor: T::raw("", t::FLOAT, &[0, 1 << 40, 1 << 40], vec![]),
            expected: Err("overflow"),
        },
        Case { tensor: T::raw("", t::FLOAT, &[1 << 40], vec![0; 4]), expected: Err("data has 4") },
        Case {
            tensor: T { float_data: vec![0.0], ..empty(t::FLOAT, &[1 << 40]) },
            expected: Err("data has 1"),
        },
        Case { tensor: T::raw("", t::FLOAT, &[-1], vec![]), expected: Err("negative") },
        Case { tensor: T::raw("", t::FLOAT, &[1; 9], vec![0; 4]), expected: Err("9 axes") },
        Case {
            tensor: T { data_location: Some(1), ..empty(t::FLOAT, &[1]) },
            expected: Err("another file"),
        },
    ];
    for case in cases {
        let tensor = T { name: Some("c".to_owned()), ..case.tensor };
        let model = model(13, vec![], vec![tensor], vec![N::new("Identity", &["c"], &["y"])]);
        match (import(&model, &Default::default()), case.expected) {
            (Ok(graph), Ok((dtype, values))) => {
                let constant = graph.values.iter().find_map(|v| v.constant.as_ref()).unwrap();
                assert_eq!((constant.dtype, constant.to_i64().as_slice()), (dtype, values));
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (result, expected) => panic!("{result:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn external_data() {
    let folder = std::env::temp_dir().join(format!("whit-external-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    let data: Vec<u8> = [9f32, 1.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.join("sub/weights.bin"), data).unwrap();
    let tensor = |location: &str, offset: &str, length: &str| {
        let entry = |k: &str, v: &str| StringStringEntryProto {
            key: Some(k.to_owned()),
            value: Some(v.to_owned()),
        };
        T {
            raw_data: None,
            data_location: Some(1),
            external_data: vec![
                entry("location", location),
                entry("offset", offset),
                entry("length", length),
            ],
            ..T::f32("c", &[2], &[0.0; 2])
        }
    };
    type Expected = Result<&'static [f32], &'static str>;
    let cases: [(&str, &str, &str, Expected); 8] = [
        ("sub/weights.bin", "4", "8", Ok(&[1.0, 2.0])),
        ("./sub/weights.bin", "0", "8", Ok(&[9.0, 1.0])),
        ("sub/weights.bin", "8", "8", Err("has 4")),
        ("sub/weights.bin", "0", "12", Err("has 12")),
        ("sub/weights.bin", "18446744073709551615", "8", Err("has 0")),
        ("../../etc/passwd", "0", "8", Err("not below the model's folder")),
        ("/etc/passwd", "0", "8", Err("not below the model's folder")),
        ("missing.bin", "0", "8", Err("cannot read")),
    ];
    for (location, offset, length, expected) in cases {
        let model = model(
            13,
            vec![],
            vec![tensor(location, offset, length)],
            vec![N::new("Identity", &["c"], &["y"])],
        );
        let path = folder.join("model.onnx");
        std::fs::write(&path, model.to_bytes()).unwrap();
        match (import_file(&path, &ImportOptions::default()), expected) {
            (Ok(graph), Ok(values)) => {
                assert_eq!(
                    graph.values.iter().find_map(|v| v.constant.as_ref()).unwrap().to_f32(),
                    values
                );
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (result, expected) => panic!("{location}: {result:?} instead of {expected:?}"),
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn other_formats_are_named() {
    let folder = std::env::temp_dir().join(format!("whit-formats-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let cases: [(&str, &[u8], &str); 4] = [
        ("m.tflite", b"hello", "not a TensorFlow Lite model"),
        ("m.pt", b"PK\x03\x04", "PyTorch"),
        ("m.safetensors", b"\x02\0\0\0\0\0\0\0{}", "safetensors"),
        ("m.txt", b"hello", "isn't recognised"),
    ];
    for (name, bytes, part) in cases {
        std::fs::write(folder.join(name), bytes).unwrap();
        let text =
            import_file(folder.join(name), &ImportOptions::default()).unwrap_err().to_string();
        assert!(
            text.contains(part)
                && text.contains("supported formats: ONNX (.onnx), TensorFlow Lite (.tflite)"),
            "{text}"
        );
    }
    std::fs::remove_dir_all(folder).unwrap();
    let missing = import_file("/nonexistent/m.onnx", &ImportOptions::default()).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read /nonexistent/m.onnx"));
}

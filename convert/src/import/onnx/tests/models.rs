//! Real models, where they are present.

use super::*;

/// `WHIT_SHARED_MODELS`, or `shared/models` beside the workspace.
fn shared_models() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    let path = std::env::var_os("WHIT_SHARED_MODELS").map_or(beside, PathBuf::from);
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no models in {}", path.display());
    None
}

#[test]
fn mlperf_tiny() {
    struct Case {
        path: &'static str,
        input: &'static str,
        output: &'static str,
        ops: &'static [(&'static str, usize)],
    }
    const CASES: &[Case] = &[
        Case { path: "ad/float.onnx", input: "1×640", output: "1×640", ops: &[("MatMul", 10)] },
        Case {
            path: "ad/qdq.onnx",
            input: "1×640",
            output: "1×640",
            ops: &[("MatMul", 10), ("Quantize", 11)],
        },
        Case {
            path: "ic/float.onnx",
            input: "1×32×32×3",
            output: "1×10",
            ops: &[("Conv", 9), ("Pool", 1)],
        },
        Case {
            path: "ic/qdq.onnx",
            input: "1×32×32×3",
            output: "1×10",
            ops: &[("Conv", 9), ("Quantize", 15)],
        },
        Case {
            path: "kws/float.onnx",
            input: "1×49×10×1",
            output: "1×12",
            ops: &[("Conv", 9), ("Pool", 1)],
        },
        Case {
            path: "kws/qdq.onnx",
            input: "1×490",
            output: "1×12",
            ops: &[("Conv", 9), ("Quantize", 12)],
        },
        Case {
            path: "vww/float.onnx",
            input: "1×96×96×3",
            output: "1×2",
            ops: &[("Conv", 27), ("Pool", 1)],
        },
        Case {
            path: "vww/qdq.onnx",
            input: "1×3×96×96",
            output: "1×2",
            ops: &[("Conv", 27), ("Quantize", 30)],
        },
        Case {
            path: "sww/float.onnx",
            input: "1×30×1×40",
            output: "1×3",
            ops: &[("Conv", 8), ("BatchNorm", 4)],
        },
    ];
    let Some(models) = shared_models() else { return };
    for case in CASES {
        let path = models.join("mlperf-tiny").join(case.path);
        if !path.is_file() {
            println!("skipped: no {}", path.display());
            continue;
        }
        let graph = import_file(&path, &ImportOptions::default())
            .unwrap_or_else(|e| panic!("{}: {e}", case.path));
        let names = ops(&graph);
        for (op, count) in case.ops {
            assert_eq!(
                names.split(' ').filter(|n| n == op).count(),
                *count,
                "{}: {op} in {names}",
                case.path
            );
        }
        assert_eq!(
            graph.shape_text(&graph.value(graph.inputs[0]).shape),
            case.input,
            "{}",
            case.path
        );
        assert_eq!(shape(&graph), case.output, "{}", case.path);
        // Weights and biases are constants, possibly behind a dequantization.
        let producers = graph.producers();
        for node in graph.nodes.iter().filter(|n| matches!(n.op, Op::Conv(_) | Op::MatMul(_))) {
            for input in node.inputs[1..].iter().flatten() {
                let source = match producers[input.0 as usize].map(|index| &graph.nodes[index]) {
                    Some(node) if node.op == Op::Dequantize => node.inputs[0].unwrap(),
                    _ => *input,
                };
                assert!(graph.constant(source).is_some(), "{}: {}", case.path, node.name);
            }
        }
    }
}

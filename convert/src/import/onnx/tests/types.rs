//! Element types, integer and bit operators, quantized forms: what models compute, converted and run.
//! Numbers without another source are numpy's, in the type that the case names.

use super::*;
use crate::evaluate::AlignedBytes;
use crate::pipeline::{ConvertOptions, convert};
use whit::{Model, Options, Session};

/// A tensor of the model: name, ONNX type, sizes, elements as the type that holds them here.
#[derive(Clone)]
struct Given {
    name: &'static str,
    onnx: i32,
    dims: Vec<i64>,
    bytes: Vec<u8>,
}

macro_rules! bytes {
    ($ty:ty: $($v:expr),* $(,)?) => {{
        let values: Vec<$ty> = vec![$($v as $ty),*];
        values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()
    }};
}

fn given(name: &'static str, onnx: i32, dims: &[i64], bytes: Vec<u8>) -> Given {
    Given { name, onnx, dims: dims.to_vec(), bytes }
}

fn reals(name: &'static str, dims: &[i64], values: &[f32]) -> Given {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    given(name, t::FLOAT, dims, bytes)
}

/// Halves from reals that are exact in f16.
fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
}

fn constant(of: &Given) -> T {
    T::raw(of.name, of.onnx, &of.dims, of.bytes.clone())
}

fn built(opset: i64, inputs: &[Given], constants: Vec<T>, nodes: Vec<N>) -> ModelProto {
    let inputs = inputs.iter().map(|given| {
        ValueInfoProto::tensor(
            given.name,
            given.onnx,
            given.dims.iter().map(|d| DimensionProto::from(*d)),
        )
    });
    model(opset, inputs.collect(), constants, nodes)
}

/// The bytes of `y`, and the names of nodes that a quantized model computes in floats.
fn run(model: &ModelProto, inputs: &[Given]) -> Result<(Vec<u8>, Vec<String>), String> {
    let graph = import(model, &ImportOptions::default()).map_err(|e| e.to_string())?;
    crate::passes::check(&graph)?;
    let options = ConvertOptions { golden_cases: 0, ..ConvertOptions::default() };
    let converted = convert(graph, None, &options, &mut ()).map_err(|e| e.to_string())?;
    let file = AlignedBytes::new(&converted.file);
    let model = Model::open(file.as_slice()).map_err(|e| e.to_string())?;
    let mut session = Session::new(model, Options::default()).map_err(|e| e.to_string())?;
    for (index, tensor) in model.inputs().enumerate() {
        let record = model.tensor(tensor).ok_or("no tensor")?;
        let name = model.text(record.name);
        let given = inputs.iter().find(|given| given.name == name).ok_or("no such input")?;
        // A real input that is only quantized takes the integers, or has them made.
        let slot = session.input_slot(index).map_err(|e| e.to_string())?;
        let set = match given.onnx == t::FLOAT && slot.scale() > 0.0 {
            true => {
                let words = given.bytes.chunks_exact(4);
                let reals: Vec<f32> =
                    words.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                session.set_input_f32(index, &reals)
            }
            false => session.set_input_bytes(index, &given.bytes),
        };
        set.map_err(|e| e.to_string())?;
    }
    session.run().map_err(|e| e.to_string())?;
    let mut bytes = session.output_bytes(0).map_err(|e| e.to_string())?.to_vec();
    // A real output that is only dequantized is left as integers with a scale.
    let slot = session.output_slot(0).map_err(|e| e.to_string())?;
    if slot.scale() > 0.0 {
        let real = |q: &u8| (i32::from(*q as i8) - slot.zero_point()) as f32 * slot.scale();
        bytes = bytes.iter().flat_map(|q| real(q).to_le_bytes()).collect();
    }
    Ok((bytes, converted.report.float_nodes))
}

struct Case {
    name: &'static str,
    opset: i64,
    inputs: Vec<Given>,
    constants: Vec<Given>,
    nodes: Vec<N>,
    expected: Result<Vec<u8>, &'static str>,
}

fn check(cases: Vec<Case>) {
    for case in cases {
        let constants = case.constants.iter().map(constant).collect();
        let model = built(case.opset, &case.inputs, constants, case.nodes);
        match (run(&model, &case.inputs), case.expected) {
            (Ok((got, _)), Ok(expected)) => assert_eq!(got, expected, "{}", case.name),
            (Err(error), Err(part)) => assert!(error.contains(part), "{}: {error}", case.name),
            (got, expected) => panic!("{}: {got:?} instead of {expected:?}", case.name),
        }
    }
}

#[test]
fn arithmetic_wraps_in_its_own_type() {
    let case = |name, op: &str, onnx, x: Vec<u8>, y: Vec<u8>, expected: Vec<u8>| Case {
        name,
        opset: 18,
        inputs: vec![given("x", onnx, &[3], x), given("w", onnx, &[3], y)],
        constants: vec![],
        nodes: vec![N::new(op, &["x", "w"], &["y"])],
        expected: Ok(expected),
    };
    check(vec![
        case(
            "i16 add",
            "Add",
            t::INT16,
            bytes!(i16: 32767, -5, 1),
            bytes!(i16: 1, -32768, 2),
            bytes!(i16: -32768, 32763, 3),
        ),
        case("u8 sub", "Sub", t::UINT8, vec![3, 5, 0], vec![5, 3, 1], vec![254, 2, 255]),
        case("u8 mul", "Mul", t::UINT8, vec![200, 16, 3], vec![2, 16, 5], vec![144, 0, 15]),
        case(
            "i8 div",
            "Div",
            t::INT8,
            bytes!(i8: -128, -7, 7),
            bytes!(i8: -1, 2, -2),
            bytes!(i8: -128, -3, -3),
        ),
        case("u8 max", "Max", t::UINT8, vec![200, 3, 0], vec![100, 5, 0], vec![200, 5, 0]),
        case(
            "i8 and",
            "BitwiseAnd",
            t::INT8,
            bytes!(i8: -1, 12, -128),
            bytes!(i8: 7, 10, -1),
            bytes!(i8: 7, 8, -128),
        ),
        case(
            "u16 add",
            "Add",
            t::UINT16,
            bytes!(i64: 65535, 1, 0),
            bytes!(i64: 2, 1, 0),
            bytes!(i64: 1, 2, 0),
        ),
        case(
            "u32 mul",
            "Mul",
            t::UINT32,
            bytes!(i64: 4294967295u32, 65536, 3),
            bytes!(i64: 2, 65536, 5),
            bytes!(i64: 4294967294u32, 0, 15),
        ),
        case(
            "u32 sub",
            "Sub",
            t::UINT32,
            bytes!(i64: 1, 5, 0),
            bytes!(i64: 2, 3, 0),
            bytes!(i64: 4294967295u32, 2, 0),
        ),
        case(
            "i16 less",
            "Less",
            t::INT16,
            bytes!(i16: -300, 300, 1),
            bytes!(i16: 300, -300, 1),
            vec![1, 0, 0],
        ),
    ]);
}

#[test]
fn shifts() {
    let case = |name, direction, onnx, x: Vec<u8>, y: Vec<u8>, expected: Vec<u8>| Case {
        name,
        opset: 28,
        inputs: vec![given("x", onnx, &[3], x), given("w", onnx, &[3], y)],
        constants: vec![],
        nodes: vec![
            N::new("BitShift", &["x", "w"], &["y"]).with(A::string("direction", direction)),
        ],
        expected: Ok(expected),
    };
    // The specification: what moves out is gone, the sign comes in from the left; a count that is negative or
    // too large leaves what the sign alone would.
    check(vec![
        case("u8 left", "LEFT", t::UINT8, vec![255, 1, 1], vec![1, 7, 8], vec![254, 128, 0]),
        case("u8 right", "RIGHT", t::UINT8, vec![255, 128, 1], vec![1, 7, 200], vec![127, 1, 0]),
        case(
            "i8 right",
            "RIGHT",
            t::INT8,
            bytes!(i8: -128, -1, 64),
            bytes!(i8: 1, 9, -1),
            bytes!(i8: -64, -1, 0),
        ),
        case(
            "u16 left",
            "LEFT",
            t::UINT16,
            bytes!(i64: 65535, 1, 1),
            bytes!(i64: 1, 15, 16),
            bytes!(i64: 65534, 32768, 0),
        ),
        case(
            "u64 right",
            "RIGHT",
            t::UINT64,
            bytes!(i64: -1, -1, -1),
            bytes!(i64: 0, 1, 63),
            bytes!(i64: -1, i64::MAX, 1),
        ),
    ]);
}

fn to(onnx: i32) -> A {
    A::int("to", i64::from(onnx))
}

#[test]
fn casts() {
    let case = |name, from, x: Vec<u8>, count: i64, to_type, expected: Vec<u8>| Case {
        name,
        opset: 25,
        inputs: vec![given("x", from, &[count], x)],
        constants: vec![],
        nodes: vec![N::new("Cast", &["x"], &["y"]).with(to(to_type))],
        expected: Ok(expected),
    };
    let bits = |name, from, x: Vec<u8>, count, to, expected| {
        let mut case = case(name, from, x, count, to, expected);
        case.nodes[0].op_type = Some("BitCast".to_owned());
        case.opset = 26;
        case
    };
    let f8 = bytes!(f32: 465.0, -1e9, 1.06, 0.001);
    let mut unsaturated = case("float8 open", t::FLOAT, bytes!(f32: 465.0, 448.0), 2, 17, vec![]);
    unsaturated.nodes[0] = unsaturated.nodes[0].clone().with(A::int("saturate", 0));
    unsaturated.expected = Ok(bytes!(f32: f32::NAN, 448.0));
    let mut double = bits("f64", t::DOUBLE, bytes!(f32: 1.0), 1, t::INT64, vec![]);
    double.expected = Err("the bits of DOUBLE as INT64");
    check(vec![
        case("i64 u16", t::INT64, bytes!(i64: -1, 65537), 2, t::UINT16, bytes!(i64: 65535, 1)),
        case("i8 u32", t::INT8, bytes!(i8: -1, 5), 2, t::UINT32, bytes!(i64: 4294967295u32, 5)),
        case("u32 i16", t::UINT32, bytes!(i64: 65535, 7), 2, t::INT16, bytes!(i16: -1, 7)),
        case(
            "float int4",
            t::FLOAT,
            bytes!(f32: 7.6, -8.0, 18.0),
            3,
            t::INT4,
            bytes!(i8: 7, -8, 2),
        ),
        case("float uint2", t::FLOAT, bytes!(f32: 2.9, 3.0, 0.5), 3, t::UINT2, vec![2, 3, 0]),
        // ml_dtypes, after clipping to ±448.
        case(
            "float8",
            t::FLOAT,
            f8,
            4,
            t::FLOAT8E4M3FN,
            bytes!(f32: 448.0, -448.0, 1.0, 0.001953125),
        ),
        unsaturated,
        bits(
            "f32 i32",
            t::FLOAT,
            bytes!(f32: 1.0, -0.0),
            2,
            t::INT32,
            bytes!(u32: 0x3F80_0000, 1u32 << 31),
        ),
        bits("u32 f32", t::UINT32, bytes!(i64: 0x4000_0000), 1, t::FLOAT, bytes!(f32: 2.0)),
        bits("i16 u16", t::INT16, bytes!(i16: -2), 1, t::UINT16, bytes!(i64: 65534)),
        bits("i8 u8", t::INT8, bytes!(i8: -1, 3), 2, t::UINT8, vec![255, 3]),
        bits("bf16 f16", t::BFLOAT16, bytes!(u16: 0x3C00), 1, t::FLOAT16, halves(&[1.0])),
        double,
    ]);
}

#[test]
fn half_precision_is_not_rounded_in_between() {
    let x = given("x", t::FLOAT16, &[2], halves(&[11.5, 0.25]));
    let chain = |last: N, expected| Case {
        name: "chain",
        opset: 18,
        inputs: vec![x.clone()],
        constants: vec![],
        nodes: vec![N::new("Exp", &["x"], &["e"]), last],
        expected: Ok(expected),
    };
    check(vec![
        // exp(11.5) is beyond the largest f16.
        chain(N::new("Log", &["e"], &["y"]), halves(&[11.5, 0.25])),
        Case {
            name: "a cast that the model states rounds",
            opset: 18,
            inputs: vec![reals("x", &[1], &[1.0 / 3.0])],
            constants: vec![],
            nodes: vec![
                N::new("Cast", &["x"], &["h"]).with(to(t::FLOAT16)),
                N::new("Cast", &["h"], &["y"]).with(to(t::FLOAT)),
            ],
            expected: Ok(bytes!(f32: 0.333_251_95)),
        },
    ]);
    let model = built(18, &[x], vec![], vec![N::new("Exp", &["x"], &["y"])]);
    let mut graph = import(&model, &ImportOptions::default()).unwrap();
    crate::passes::widen::run(&mut graph);
    assert_eq!(ops(&graph), "Cast Exp Cast");
    assert!(graph.metadata.iter().any(|(_, note)| note.contains("computed in float32")));
}

#[test]
fn other_operators_on_every_type() {
    let case = |name, inputs: Vec<Given>, node: N, expected: Vec<u8>| Case {
        name,
        opset: 20,
        inputs,
        constants: vec![],
        nodes: vec![node],
        expected: Ok(expected),
    };
    let i = f32::INFINITY;
    let odd = || vec![reals("x", &[4], &[i, -i, f32::NAN, 1.0])];
    let two = |x: Given, w: Given| vec![x, w];
    check(vec![
        case("nan", odd(), N::new("IsNaN", &["x"], &["y"]), vec![0, 0, 1, 0]),
        case("infinite", odd(), N::new("IsInf", &["x"], &["y"]), vec![1, 1, 0, 0]),
        case(
            "positive",
            odd(),
            N::new("IsInf", &["x"], &["y"]).with(A::int("detect_negative", 0)),
            vec![1, 0, 0, 0],
        ),
        case(
            "neither",
            odd(),
            N::new("IsInf", &["x"], &["y"])
                .with(A::int("detect_negative", 0))
                .with(A::int("detect_positive", 0)),
            vec![0; 4],
        ),
        case(
            "integer to a real power",
            two(given("x", t::INT32, &[2], bytes!(i32: 2, 3)), reals("w", &[2], &[0.5, 2.5])),
            N::new("Pow", &["x", "w"], &["y"]),
            bytes!(i32: 1, 15),
        ),
        case(
            "bool maximum",
            vec![given("x", t::BOOL, &[2, 2], vec![0, 0, 1, 0])],
            N::new("ReduceMax", &["x"], &["y"]).with(A::int("keepdims", 0)),
            vec![1],
        ),
        case(
            "u16 not",
            vec![given("x", t::UINT16, &[2], bytes!(i64: 0, 65535))],
            N::new("BitwiseNot", &["x"], &["y"]),
            bytes!(i64: 65535, 0),
        ),
        case(
            "i32 product",
            two(
                given("x", t::INT32, &[1, 2], bytes!(i32: i32::MAX, 3)),
                given("w", t::INT32, &[2, 1], bytes!(i32: 2, 5)),
            ),
            N::new("MatMul", &["x", "w"], &["y"]),
            bytes!(i32: 13),
        ),
        case(
            "u8 pool",
            vec![given("x", t::UINT8, &[1, 1, 2, 2], vec![200, 3, 255, 0])],
            N::new("MaxPool", &["x"], &["y"]).with(A::ints("kernel_shape", &[2, 2])),
            vec![255],
        ),
        case(
            "u8 index",
            vec![given("x", t::UINT8, &[3], vec![3, 200, 100])],
            N::new("ArgMax", &["x"], &["y"]),
            bytes!(i64: 1),
        ),
        case(
            "i8 clip",
            vec![
                given("x", t::INT8, &[3], bytes!(i8: -128, 5, 127)),
                given("w", t::INT8, &[], bytes!(i8: -3)),
            ],
            N::new("Clip", &["x", "w"], &["y"]),
            bytes!(i8: -3, 5, 127),
        ),
    ]);
}

#[test]
fn quantize_and_dequantize() {
    let linear = |op: &str, inputs: &[&str]| N::new(op, inputs, &["y"]);
    let scale = || reals("s", &[], &[0.5]);
    let u8s = |name, values: &[u8]| given(name, t::UINT8, &[values.len() as i64], values.to_vec());
    let zero = |onnx, bytes| given("z", onnx, &[], bytes);
    let x = || reals("x", &[3], &[-1.0, 0.25, 1000.0]);
    check(vec![
        Case {
            name: "u8 results are the model's own",
            opset: 13,
            inputs: vec![x()],
            constants: vec![scale(), zero(t::UINT8, vec![10])],
            nodes: vec![linear("QuantizeLinear", &["x", "s", "z"])],
            expected: Ok(vec![8, 10, 255]),
        },
        Case {
            name: "u8 inputs are the model's own",
            opset: 13,
            inputs: vec![u8s("x", &[0, 10, 255])],
            constants: vec![scale(), zero(t::UINT8, vec![10])],
            nodes: vec![linear("DequantizeLinear", &["x", "s", "z"])],
            expected: Ok(bytes!(f32: -5.0, 0.0, 122.5)),
        },
        Case {
            name: "a scale computed at run time",
            opset: 13,
            inputs: vec![x(), scale()],
            constants: vec![zero(t::INT8, bytes!(i8: -3))],
            nodes: vec![linear("QuantizeLinear", &["x", "s", "z"])],
            expected: Ok(bytes!(i8: -5, -3, 127)),
        },
        Case {
            name: "u16",
            opset: 21,
            inputs: vec![x()],
            constants: vec![scale(), given("z", t::UINT16, &[], bytes!(u16: 40000))],
            nodes: vec![linear("QuantizeLinear", &["x", "s", "z"])],
            expected: Ok(bytes!(i64: 39998, 40000, 42000)),
        },
        Case {
            name: "int4 in blocks of two, the last one cut",
            opset: 21,
            inputs: vec![],
            constants: vec![
                // 1, -2, 7, -8, 3 from the low end of each byte
                given("x", t::INT4, &[1, 5], vec![0xE1, 0x87, 0x03]),
                reals("s", &[1, 3], &[1.0, 10.0, 100.0]),
            ],
            nodes: vec![linear("DequantizeLinear", &["x", "s"]).with(A::int("block_size", 2))],
            expected: Ok(bytes!(f32: 1.0, -2.0, 70.0, -80.0, 300.0)),
        },
        Case {
            name: "blocks of an input",
            opset: 21,
            inputs: vec![given("x", t::INT8, &[1, 3], bytes!(i8: 1, -2, 7))],
            constants: vec![reals("s", &[1, 2], &[1.0, 10.0])],
            nodes: vec![linear("DequantizeLinear", &["x", "s"]).with(A::int("block_size", 2))],
            expected: Ok(bytes!(f32: 1.0, -2.0, 70.0)),
        },
        Case {
            name: "blocks that don't fit",
            opset: 21,
            inputs: vec![given("x", t::INT8, &[1, 3], bytes!(i8: 1, -2, 7))],
            constants: vec![reals("s", &[1, 2], &[1.0, 10.0])],
            nodes: vec![linear("DequantizeLinear", &["x", "s"]).with(A::int("block_size", 3))],
            expected: Err("blocks of 3"),
        },
        Case {
            name: "float8",
            opset: 19,
            inputs: vec![],
            constants: vec![given("x", t::FLOAT8E4M3FN, &[2], vec![0x38, 0xBC]), scale()],
            nodes: vec![linear("DequantizeLinear", &["x", "s"])],
            expected: Ok(bytes!(f32: 0.5, -0.75)),
        },
        Case {
            // The example of the specification.
            name: "its own range",
            opset: 13,
            inputs: vec![reals("x", &[6], &[0.0, 2.0, -3.0, -2.5, 1.34, 0.5])],
            constants: vec![],
            nodes: vec![N::new("DynamicQuantizeLinear", &["x"], &["y", "scale", "zero"])],
            expected: Ok(vec![153, 255, 0, 26, 221, 179]),
        },
    ]);
}

/// Integers in a fixed order that fill the range.
fn scattered(count: usize, low: i64, high: i64) -> Vec<i64> {
    (0..count as i64).map(|i| low + (i * 7919 + 13) % (high - low + 1)).collect()
}

/// `saturate(round(sum * scale) + zero)` in u8.
fn rescaled(sum: i64, scale: f32, zero: i64) -> u8 {
    ((sum as f32 * scale).round_ties_even() as i64 + zero).clamp(0, 255) as u8
}

#[test]
fn quantized_layers_become_integer_steps() {
    // A 3x3 convolution of u8 by i8, one scale per channel, with padding and a bias.
    let (x, w) = (scattered(2 * 5 * 5, 0, 255), scattered(3 * 2 * 9, -127, 127));
    let scales = [0.01f32, 0.02, 0.03];
    let bias = [500i64, -2000, 70];
    let (x_zero, y_zero) = (120i64, 99i64);
    let mut want = Vec::new();
    for channel in 0..3 {
        for (row, column) in (0..25).map(|i| (i / 5, i % 5)) {
            let mut sum = bias[channel];
            for (from, tap) in (0..18).map(|i| (i / 9, i % 9)) {
                let (r, c) = (row + tap / 3, column + tap % 3);
                if (1..6).contains(&r) && (1..6).contains(&c) {
                    let at = from * 25 + (r - 1) * 5 + c - 1;
                    sum += (x[at] - x_zero) * w[channel * 18 + from * 9 + tap];
                }
            }
            want.push(rescaled(sum, 0.02 * scales[channel] / 0.5, y_zero));
        }
    }
    let byte = |name, onnx, value: i64| given(name, onnx, &[], vec![value as u8]);
    let all = |values: &[i64]| values.iter().map(|v| *v as u8).collect::<Vec<u8>>();
    let input = given("x", t::UINT8, &[1, 2, 5, 5], all(&x));
    let constants = [
        reals("xs", &[], &[0.02]),
        byte("xz", t::UINT8, x_zero),
        given("w", t::INT8, &[3, 2, 3, 3], all(&w)),
        reals("ws", &[3], &scales),
        given("wz", t::INT8, &[3], vec![0; 3]),
        reals("ys", &[], &[0.5]),
        byte("yz", t::UINT8, y_zero),
        given("b", t::INT32, &[3], bias.iter().flat_map(|b| (*b as i32).to_le_bytes()).collect()),
    ];
    let names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"];
    let conv = N::new("QLinearConv", &names, &["y"]).with(A::ints("pads", &[1; 4]));
    let constants: Vec<T> = constants.iter().map(constant).collect();
    let model = built(13, std::slice::from_ref(&input), constants.clone(), vec![conv]);
    let (got, floats) = run(&model, std::slice::from_ref(&input)).unwrap();
    assert_eq!(got, want);
    assert!(floats.is_empty(), "{floats:?}");

    // A product with weights of u8 around 128.
    let (x, w) = (scattered(3 * 40, 0, 255), scattered(40 * 4, 0, 255));
    let mut want = Vec::new();
    for (row, column) in (0..12).map(|i| (i / 4, i % 4)) {
        let sum: i64 = (0..40).map(|k| (x[row * 40 + k] - 120) * (w[k * 4 + column] - 128)).sum();
        want.push(rescaled(sum, 0.02 * 0.01 / 0.5, y_zero));
    }
    let input = given("x", t::UINT8, &[3, 40], all(&x));
    let constants: Vec<T> = [
        reals("xs", &[], &[0.02]),
        byte("xz", t::UINT8, x_zero),
        given("w", t::UINT8, &[40, 4], all(&w)),
        reals("ws", &[], &[0.01]),
        byte("wz", t::UINT8, 128),
        reals("ys", &[], &[0.5]),
        byte("yz", t::UINT8, y_zero),
    ]
    .iter()
    .map(constant)
    .collect();
    let product = N::new("QLinearMatMul", &names[..8], &["y"]);
    let model = built(13, std::slice::from_ref(&input), constants, vec![product]);
    let (got, floats) = run(&model, std::slice::from_ref(&input)).unwrap();
    assert_eq!(got, want);
    assert!(floats.is_empty(), "{floats:?}");
}

#[test]
fn integer_products_are_exact() {
    // Depths at which f32 holds the sums at once, in two parts, and not at all.
    for (depth, constant_weights) in [(40, true), (1000, true), (5000, true), (1000, false)] {
        let (x, w) = (vec![255i64; depth], scattered(depth * 2, 100, 255));
        let want: Vec<u8> = (0..2)
            .map(|n| (0..depth).map(|k| (x[k] - 3) * (w[k * 2 + n] - n as i64)).sum::<i64>() as i32)
            .flat_map(i32::to_le_bytes)
            .collect();
        let all = |values: &[i64]| values.iter().map(|v| *v as u8).collect::<Vec<u8>>();
        let mut inputs = vec![given("x", t::UINT8, &[1, depth as i64], all(&x))];
        let weights = given("w", t::UINT8, &[depth as i64, 2], all(&w));
        let mut constants = vec![
            constant(&given("xz", t::UINT8, &[], vec![3])),
            constant(&given("wz", t::UINT8, &[2], vec![0, 1])),
        ];
        match constant_weights {
            true => constants.push(constant(&weights)),
            false => inputs.push(weights),
        }
        let node = N::new("MatMulInteger", &["x", "w", "xz", "wz"], &["y"]);
        let model = built(13, &inputs, constants, vec![node]);
        assert_eq!(run(&model, &inputs).unwrap().0, want, "{depth} {constant_weights}");
    }
    let input = given("x", t::UINT8, &[1, 1, 2, 2], vec![1, 2, 3, 255]);
    let constants = vec![
        constant(&given("w", t::UINT8, &[1, 1, 2, 2], vec![1, 2, 3, 4])),
        constant(&given("z", t::UINT8, &[], vec![1])),
    ];
    let node = N::new("ConvInteger", &["x", "w", "z"], &["y"]).with(A::ints("pads", &[0, 0, 1, 1]));
    let model = built(13, std::slice::from_ref(&input), constants, vec![node]);
    let got = run(&model, std::slice::from_ref(&input)).unwrap().0;
    // [[0, 1], [2, 254]] by [[1, 2], [3, 4]], padded with zeros behind
    assert_eq!(got, bytes!(i32: 2 + 6 + 1016, 1 + 762, 2 + 508, 254));
}

#[test]
fn weights_of_a_few_bits() {
    let microsoft = |mut node: N| {
        node.domain = Some("com.microsoft".to_owned());
        node
    };
    let x: Vec<f32> = (0..32).map(|i| (i % 5) as f32 - 2.0).collect();
    let input = reals("x", &[1, 32], &x);
    let packed: Vec<u8> = scattered(2 * 2 * 8, 0, 255).iter().map(|v| *v as u8).collect();
    let scales = [0.5f32, 0.25, 1.0, 2.0];
    let zeros = [0x53u8, 0x0A]; // 3, 5 and 10, 0
    let mut want = Vec::new();
    for column in 0..2 {
        let term = |k: usize| {
            let byte = packed[column * 16 + k / 2];
            let q = byte >> (4 * (k % 2)) & 15;
            let zero = zeros[column] >> (4 * (k / 16)) & 15;
            (f32::from(q) - f32::from(zero)) * scales[column * 2 + k / 16] * x[k]
        };
        want.extend((0..32).map(term).sum::<f32>().to_le_bytes());
    }
    let constants = |g_idx: bool| {
        let mut all = vec![
            constant(&given("w", t::UINT8, &[2, 2, 8], packed.clone())),
            constant(&reals("s", &[4], &scales)),
            constant(&given("z", t::UINT8, &[2], zeros.to_vec())),
        ];
        if g_idx {
            all.push(constant(&given("g", t::INT32, &[32], vec![0; 128])));
        }
        all
    };
    let node = |inputs: &[&str], bits| {
        microsoft(N::new("MatMulNBits", inputs, &["y"]))
            .with(A::int("K", 32))
            .with(A::int("N", 2))
            .with(A::int("bits", bits))
            .with(A::int("block_size", 16))
    };
    let of = |node, g| built(18, std::slice::from_ref(&input), constants(g), vec![node]);
    let inputs = std::slice::from_ref(&input);
    assert_eq!(run(&of(node(&["x", "w", "s", "z"], 4), false), inputs).unwrap().0, want);
    for (node, g, part) in [
        (node(&["x", "w", "s", "z", "g"], 4), true, "g_idx"),
        (node(&["x", "w", "s", "z"], 3), false, "3 bits"),
        (node(&["x", "w", "s", "z"], 8), false, "weights of u8 for 2 columns"),
    ] {
        let error = run(&of(node, g), inputs).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

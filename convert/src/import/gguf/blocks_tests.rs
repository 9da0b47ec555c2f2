use std::borrow::Cow;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};

use whit::format::Layout;

use super::*;
use crate::dim::Dim;
use crate::evaluate::{self, Program};
use crate::graph::{Graph, Node, Op};
use crate::import::gguf::GGML_TYPES;
use crate::plan::PlanOptions;

fn named(name: &str) -> GgmlType {
    GGML_TYPES.iter().copied().find(|row| row.name == name).expect("a type")
}

fn bytes(count: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Blocks of any bytes, NaN and infinite scales among them, are number for number what candle makes of them.
#[test]
fn blocks_are_those_of_candle() {
    const ROWS: usize = 20;
    let types = [
        ("Q4_0", GgmlDType::Q4_0),
        ("Q4_1", GgmlDType::Q4_1),
        ("Q5_0", GgmlDType::Q5_0),
        ("Q5_1", GgmlDType::Q5_1),
        ("Q8_0", GgmlDType::Q8_0),
        ("Q2_K", GgmlDType::Q2K),
        ("Q3_K", GgmlDType::Q3K),
        ("Q4_K", GgmlDType::Q4K),
        ("Q5_K", GgmlDType::Q5K),
        ("Q6_K", GgmlDType::Q6K),
    ];
    for (name, theirs) in types {
        let dtype = named(name);
        let columns = 2 * dtype.block_elems;
        let bytes = bytes(ROWS * 2 * dtype.block_bytes);
        let device = Device::Cpu;
        let storage = QStorage::from_data(Cow::Borrowed(&bytes), &device, theirs).expect("blocks");
        let tensor = QTensor::new(storage, (ROWS, columns)).expect("a tensor");
        let want: Vec<f32> =
            tensor.dequantize(&device).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let weight = weight(dtype, vec![ROWS, columns], &bytes).expect("supported");
        assert!(weight.groups.is_some(), "{name}");
        let got = weight.real().to_f32();
        assert_eq!(got.len(), want.len(), "{name}");
        let mut finite = 0;
        for (at, (got, want)) in got.iter().zip(&want).enumerate() {
            finite += usize::from(want.is_finite());
            let same = got == want || got.is_nan() && want.is_nan();
            assert!(same, "{name}, element {at}: {got}, not {want}");
        }
        assert!(finite > want.len() / 2, "{name}");
    }
}

/// A file has the same numbers, in no more bits per weight than these.
#[test]
fn files_have_the_numbers_of_blocks() {
    const ROWS: usize = 32;
    const COLUMNS: usize = 512;
    let types = [
        ("Q4_0", GgmlDType::Q4_0, Layout::GroupedW4, 4.5),
        ("Q4_1", GgmlDType::Q4_1, Layout::GroupedW4Min, 5.0),
        ("Q5_0", GgmlDType::Q5_0, Layout::GroupedW5, 5.5),
        ("Q5_1", GgmlDType::Q5_1, Layout::GroupedW5Min, 6.0),
        ("Q8_0", GgmlDType::Q8_0, Layout::GroupedW8, 8.5),
        ("Q2_K", GgmlDType::Q2K, Layout::GroupedW4NarrowMin, 5.125),
        ("Q3_K", GgmlDType::Q3K, Layout::GroupedW4Narrow, 4.5625),
        ("Q4_K", GgmlDType::Q4K, Layout::GroupedW4NarrowMin, 4.625),
        ("Q5_K", GgmlDType::Q5K, Layout::GroupedW5NarrowMin, 5.625),
        ("Q6_K", GgmlDType::Q6K, Layout::GroupedW6Narrow, 6.5625),
    ];
    // Of about the same size, and of both signs.
    let reals: Vec<f32> = bytes(4 * ROWS * COLUMNS)
        .chunks(4)
        .map(|b| f32::from(b[0]) / f32::from(b[1] | 1))
        .collect();
    let reals: Vec<f32> = reals.iter().map(|x| x.min(9.0) - 4.0).collect();
    for (name, theirs, layout, bits) in types {
        let tensor = candle_core::Tensor::new(&reals[..], &Device::Cpu).unwrap();
        let tensor = tensor.reshape((ROWS, COLUMNS)).unwrap();
        let blocks = QTensor::quantize(&tensor, theirs).unwrap();
        let weight = weight(named(name), vec![ROWS, COLUMNS], &blocks.data().unwrap());
        check_file(name, &weight.expect("supported"), layout, bits);
    }
}

/// Holds a file with this weight in groups against the weight's numbers.
fn check_file(name: &str, weight: &Weight, layout: Layout, bits: f64) {
    let [rows, columns] = weight.tensor.shape[..] else { panic!("a matrix") };
    let mut graph = Graph::default();
    let dims = |sizes: &[usize]| sizes.iter().map(|size| Dim::from(*size)).collect();
    let table = graph.add_constant("table", weight.tensor.clone());
    graph.value_mut(table).groups = weight.groups.clone();
    let ids: Vec<i64> = (0..rows as i64).collect();
    let ids = graph.add_constant("ids", Tensor::from_i64([rows], &ids));
    let y = graph.add_value("y", DType::F32, dims(&[rows, columns]));
    graph.outputs.push(y);
    graph.nodes.push(Node {
        name: "rows".to_owned(),
        op: Op::Embedding { scale: 1.0 },
        inputs: vec![Some(table), Some(ids)],
        outputs: vec![y],
    });
    let read = evaluate::constants(&graph).expect("rows");
    assert_eq!(read[0].to_f32(), weight.real().to_f32(), "{name}");
    let program = Program::new(&graph, &PlanOptions::default()).expect("a program");
    let model = program.model().expect("a model");
    let packed = model.tensors().find(|tensor| tensor.layout != 0).expect("packed");
    assert_eq!(packed.layout, layout as u8, "{name}");
    assert_eq!(8.0 * packed.bytes as f64 / (rows * columns) as f64, bits, "{name}");
}

/// The values of IQ4's sixteen codes.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The same of types that candle doesn't have: blocks of any codes and scales, and of one factor for all that f16 doesn't hold.
#[test]
fn files_have_the_numbers_of_codes() {
    const ROWS: usize = 32;
    const COLUMNS: usize = 512;
    let types = [
        ("IQ4_NL", Layout::GroupedW4Nl, 4.5, Layout::GroupedW4NlWide, 5.0),
        ("IQ4_XS", Layout::GroupedW4NlNarrow, 4.3125, Layout::GroupedW4NlWide, 5.0),
    ];
    for (name, layout, bits, wide, wide_bits) in types {
        let dtype = named(name);
        let mut bytes = bytes(ROWS * COLUMNS / dtype.block_elems * dtype.block_bytes);
        for (at, block) in bytes.chunks_exact_mut(dtype.block_bytes).enumerate() {
            let scale = f16::from_f32(0.01 + at as f32 / 9000.0);
            block[..2].copy_from_slice(&scale.to_le_bytes());
        }
        let mut weight = weight(dtype, vec![ROWS, COLUMNS], &bytes).expect("supported");
        check_file(name, &weight, layout, bits);
        let groups = weight.groups.as_mut().expect("groups");
        groups.scale.iter_mut().for_each(|scale| *scale *= 1.1);
        groups.factors = None;
        check_file(name, &weight, wide, wide_bits);
    }
}

/// What candle doesn't read, by hand.
#[test]
fn blocks_of_codes() {
    let two = f16::from_f32(2.0).to_le_bytes();
    let codes: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
    let nl = [&two[..], &codes].concat();
    let got = weight(named("IQ4_NL"), vec![1, 32], &nl).expect("supported").real().to_f32();
    let want: Vec<f32> = IQ4.iter().chain(IQ4.iter().rev()).map(|v| 2.0 * f32::from(*v)).collect();
    assert_eq!(got, want);

    // Scales 0 to 7 in the low bits of groups 0 to 7, their high bits 0, 1, 2, 3, 0, …
    let high: u16 = (0..8).map(|group| (group % 4) << (2 * group)).sum();
    let low: Vec<u8> = (0..4).map(|pair| (2 * pair) | (2 * pair + 1) << 4).collect();
    let xs = [&two[..], &high.to_le_bytes(), &low, &codes.repeat(8)].concat();
    let got = weight(named("IQ4_XS"), vec![1, 256], &xs).expect("supported").real().to_f32();
    for (group, got) in got.chunks(32).enumerate() {
        let scale = 2.0 * ((group + 16 * (group % 4)) as f32 - 32.0);
        let want = IQ4.iter().chain(IQ4.iter().rev()).map(|v| scale * f32::from(*v));
        assert_eq!(got, want.collect::<Vec<f32>>(), "{group}");
    }
}

#[test]
fn floats_vectors_and_other_types() {
    let bytes = bytes(64);
    for (name, dtype) in [("F32", DType::F32), ("F16", DType::F16), ("BF16", DType::BF16)] {
        let shape = vec![2, 32 / dtype.size()];
        let weight = weight(named(name), shape, &bytes).expect("supported");
        assert_eq!((weight.tensor.dtype, &weight.tensor.data[..]), (dtype, &bytes[..]), "{name}");
    }
    let vector = weight(named("Q8_0"), vec![32], &bytes[..34]).expect("supported");
    assert!(vector.groups.is_none() && vector.tensor.dtype == DType::F32);
    for name in SUPPORTED.split(", ") {
        let row = named(name);
        let zeros = vec![0; row.block_bytes];
        assert!(weight(row, vec![1, row.block_elems], &zeros).is_some(), "{name}");
    }
    for name in ["IQ2_XXS", "TQ1_0", "I32", "MXFP4"] {
        assert!(weight(named(name), vec![1, 256], &[0; 512]).is_none(), "{name}");
    }
}

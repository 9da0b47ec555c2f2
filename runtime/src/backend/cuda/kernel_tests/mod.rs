//! Every kernel by name, beside the CPU's scalar one, at shapes that reach its edges.

mod caches;
mod indexed;
mod integers;
mod layers;
mod recurrent;
mod sampling;
mod windows;

use std::collections::BTreeSet;

use self::indexed::indexed;
use self::integers::integers;
use self::layers::{as_quantized, floats, grouped, half_floats, halves, layers, pairs};
use self::recurrent::recurrent;
use self::sampling::sampling;
use self::windows::windows;
use super::kernels::KERNELS;
use super::tests::{compare, devices};
use crate::dtype::DType::{self, BF16, Bool, F16, F32, I8, I32, I64, U8};
use crate::format::{
    ArgReduceAttributes, AttentionAttributes, AxisAttributes, BinaryAttributes,
    CachedAttentionAttributes, CrossAttentionAttributes, EmbeddingAttributes, GatedAttributes,
    Layout, MatMulAttributes, NormalizeAttributes, Op, PadAttributes, PoolAttributes,
    QuantizeAttributes, ReduceAttributes, RotaryAttributes, SoftmaxAttributes, UnaryAttributes,
};
use crate::isa::Isa;
use crate::kernels::PANEL_N;
use crate::model::Model;
use crate::ops::testing::{Case, Random, Tensor, shape, tensor};

/// A kernel's name and a case that it runs in.
type Named = (&'static str, Case);

fn random_i8(seed: u32, dims: &[u32]) -> Tensor {
    tensor(dims, &Random(seed).i8s(dims.iter().product::<u32>() as usize)).quantized(0.5, 3)
}

fn random_f32(seed: u32, dims: &[u32]) -> Tensor {
    tensor(dims, &Random(seed).f32s(dims.iter().product::<u32>() as usize))
}

fn elementwise(cases: &mut Vec<Named>) {
    let binary = |kind| BinaryAttributes {
        kind,
        scale: [0.6, 0.3],
        clamp: [-1.0, 3.0],
        clamp_q: [-100, 127],
        reserved: 0,
    };
    for dims in [vec![3, 1, 5], vec![4, 1], vec![5], vec![3, 4, 5]] {
        let to = [3, 4, 5];
        for kind in [1, 2, 3, 6, 7] {
            let inputs = [random_i8(1, &to), random_i8(2, &dims)];
            let y = shape(I8, &to).quantized(0.4, -5);
            cases.push(("binary_i8", Case::new(Op::Binary, Some(I8), binary(kind), &inputs, y)));
        }
        for kind in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13] {
            let inputs = [random_f32(1, &dims), random_f32(2, &to)];
            cases.push((
                "binary_f32",
                Case::new(Op::Binary, Some(F32), binary(kind), &inputs, shape(F32, &to)),
            ));
        }
    }
    for kind in 1..=28 {
        let attributes = UnaryAttributes { kind, alpha: 0.25, beta: 1.5, reserved: 0 };
        let y = shape(F32, &[301]);
        cases.push((
            "unary_f32",
            Case::new(Op::Unary, Some(F32), attributes, &[random_f32(3, &[301])], y),
        ));
    }
    for kind in (29..=39).chain([42]) {
        for (alpha, scale) in [(1.0, 1.0), (2.0, 9.5), (3.0, 1e6), (4.0, 0.01), (5.0, 2.0)] {
            let attributes = UnaryAttributes { kind, alpha, beta: alpha % 2.0, reserved: 0 };
            // Tangents near their poles differ by as much as their arguments.
            let largest = if kind == 31 { 0.7 } else { scale };
            let x = random_f32(3, &[301]);
            let x: Vec<f32> = super::tests::floats(&x.bytes).iter().map(|x| x * largest).collect();
            let y = shape(F32, &[301]);
            let case = Case::new(Op::Unary, Some(F32), attributes, &[tensor(&[301], &x)], y);
            cases.push(("rare_unary_f32", case));
        }
    }
    for kind in [1, 8, 11, 13, 14] {
        let attributes = GatedAttributes { kind, reserved: 0 };
        let (x, y) = (random_f32(3, &[3, 5, 34]), shape(F32, &[3, 5, 17]));
        cases.push(("gated_f32", Case::new(Op::Gated, Some(F32), attributes, &[x], y)));
    }
    let table = random_i8(5, &[256]).constant();
    cases.push((
        "lut_i8",
        Case::new(Op::Lut, Some(I8), [0u8; 0], &[random_i8(4, &[700]), table], shape(I8, &[700])),
    ));
    let zero_points = tensor(&[3], &[-7i32, 200_000, 90]).constant();
    let channels = [tensor(&[3], &[0.1f32, 0.02, 0.7]).constant(), zero_points];
    let attributes = QuantizeAttributes { axis: 1, reserved: 0 };
    for per_channel in [&[][..], &channels[..]] {
        let inputs = |x: Tensor| [&[x], per_channel].concat();
        let reals = || inputs(random_f32(3, &[2, 3, 90]));
        let to = |dtype| shape(dtype, &[2, 3, 90]).quantized(0.013, 8);
        cases
            .push(("quantize_i8", Case::new(Op::Quantize, Some(I8), attributes, &reals(), to(I8))));
        cases
            .push(("quantize_u8", Case::new(Op::Quantize, Some(U8), attributes, &reals(), to(U8))));
        let y = || shape(F32, &[2, 3, 90]);
        let x = random_i8(7, &[2, 3, 90]);
        let bytes = Tensor { dtype: U8, ..x.clone() };
        cases.push((
            "dequantize_i8",
            Case::new(Op::Dequantize, Some(I8), attributes, &inputs(x), y()),
        ));
        cases.push((
            "dequantize_u8",
            Case::new(Op::Dequantize, Some(U8), attributes, &inputs(bytes), y()),
        ));
    }
}

/// Zeros of a type are as good to move as any, but say nothing: numbers from 0 on.
fn counted(dtype: DType, dims: &[u32]) -> Tensor {
    let bytes = dims.iter().product::<u32>() as usize * dtype.size();
    let bytes: Vec<u8> = (0..bytes).map(|at| (at * 7 % 251) as u8).collect();
    let plain = tensor(&[bytes.len() as u32], &bytes);
    Tensor { dtype, dims: dims.to_vec(), ..plain }
}

fn moves(cases: &mut Vec<Named>) {
    for (dtype, names) in [
        (I8, ["move_1", "pad_1", "gather_1"]),
        (F16, ["move_2", "pad_2", "gather_2"]),
        (I32, ["move_4", "pad_4", "gather_4"]),
        (I64, ["move_8", "pad_8", "gather_8"]),
    ] {
        let x = counted(dtype, &[3, 5, 2]);
        let concat = AxisAttributes { axis: 1, reserved: 0 };
        let inputs = [x.clone(), counted(dtype, &[3, 1, 2])];
        cases.push((
            names[0],
            Case::new(Op::Concat, None, concat, &inputs, shape(dtype, &[3, 6, 2])),
        ));
        for mode in 1..=4 {
            let attributes = PadAttributes {
                before: [1, 2, 0, 0, 0, 0, 0, 0],
                mode,
                value: [0x0605_0403, 0x0102_0304],
                reserved: 0,
            };
            cases.push((
                names[1],
                Case::new(
                    Op::Pad,
                    None,
                    attributes,
                    std::slice::from_ref(&x),
                    shape(dtype, &[5, 9, 2]),
                ),
            ));
        }
        let ids = tensor(&[2, 2], &[0i64, -1, 3, -5]);
        cases.push((
            names[2],
            Case::new(Op::Gather, None, concat, &[x, ids], shape(dtype, &[3, 2, 2, 2])),
        ));
    }
    let narrow = tensor(&[2], &[1i32, -2]);
    let x = counted(Bool, &[3, 4]);
    let axis = AxisAttributes { axis: 0, reserved: 0 };
    cases.push(("gather_1", Case::new(Op::Gather, None, axis, &[x, narrow], shape(Bool, &[2, 4]))));
}

fn reductions(cases: &mut Vec<Named>) {
    for axes in [0b1, 0b10, 0b101, 0b111] {
        let keep = |axis: usize, size: u32| if axes >> axis & 1 == 1 { 1 } else { size };
        let dims = [keep(0, 4), keep(1, 70), keep(2, 3)];
        let attributes =
            |kind| ReduceAttributes { kind, axes, scale: 0.8, clamp_q: [-128, 120], reserved: 0 };
        for kind in 2..=4 {
            let y = shape(I8, &dims).quantized(0.5, 9);
            let x = random_i8(3, &[4, 70, 3]);
            cases.push((
                "reduce_i8",
                Case::new(
                    Op::Reduce,
                    Some(I8),
                    attributes(kind),
                    std::slice::from_ref(&x),
                    y.clone(),
                ),
            ));
            if kind == 2 {
                let numbers = tensor(&[2], &[0x5123_4567i32, -6]).constant();
                cases.push((
                    "reduce_i8",
                    Case::new(Op::Reduce, Some(I8), attributes(2), &[x, numbers], y),
                ));
            }
        }
        for kind in 1..=10 {
            // Logarithms want sums above 0.
            let x: Vec<f32> = Random(5).f32s(840).iter().map(|x| x.abs() * 0.1 + 0.95).collect();
            let x = tensor(&[4, 70, 3], &x);
            cases.push((
                "reduce_f32",
                Case::new(Op::Reduce, Some(F32), attributes(kind), &[x], shape(F32, &dims)),
            ));
        }
    }
    let exponentials: Vec<i32> =
        (0..256).map(|d| ((-(d as f64) * 0.1).exp() * 8_388_608.0) as i32).collect();
    let table = tensor(&[256], &exponentials).constant();
    for (axis, dims) in [(1, [3, 300, 1]), (1, [2, 5, 7]), (2, [2, 3, 2])] {
        let attributes =
            |log| SoftmaxAttributes { axis, log, inverse_output_scale: 256.0, reserved: 0 };
        let y = shape(I8, &dims).quantized(1.0 / 256.0, -128);
        let inputs = [random_i8(4, &dims), table.clone()];
        cases.push(("softmax_i8", Case::new(Op::Softmax, Some(I8), attributes(0), &inputs, y)));
        for log in [0, 1] {
            let x = random_f32(4, &dims);
            cases.push((
                "softmax_f32",
                Case::new(Op::Softmax, Some(F32), attributes(log), &[x], shape(F32, &dims)),
            ));
        }
    }
    for kind in [1, 2] {
        for (axis, size) in [(1, 300), (2, 300), (1, 5)] {
            let attributes = NormalizeAttributes { kind, axis, epsilon: 1e-5, reserved: 0 };
            let row = if axis == 1 { vec![3, size] } else { vec![size] };
            let inputs = [random_f32(1, &[2, 3, size]), random_f32(2, &row), random_f32(3, &row)];
            for count in 1..=3 {
                let y = shape(F32, &[2, 3, size]);
                cases.push((
                    "normalize_f32",
                    Case::new(Op::Normalize, Some(F32), attributes, &inputs[..count], y),
                ));
            }
        }
    }
    for kind in 1..=3 {
        for (name, dtype) in [("pool_i8", I8), ("pool_f32", F32)] {
            let attributes = PoolAttributes {
                kind,
                kernel: [3, 2],
                stride: [2, 1],
                dilation: [1, 2],
                pad: [1, 1],
                pad_after: [1, 1],
                count_include_pad: kind % 2,
                scale: 0.7,
                clamp_q: [-100, 127],
            };
            if dtype == F32 && kind == 3 {
                continue;
            }
            let dims = [2, 6, 5, 19];
            let x = if dtype == I8 { random_i8(3, &dims) } else { random_f32(3, &dims) };
            let y = as_quantized(shape(dtype, &[2, 3, 5, 19]));
            cases.push((name, Case::new(Op::Pool2d, Some(dtype), attributes, &[x], y)));
        }
    }
}

fn attention(cases: &mut Vec<Named>) {
    for (queries, keys, causal, mask) in
        [(3u32, 3u32, 1, None), (5, 150, 0, Some([2, 1, 1, 150])), (33, 40, 1, Some([1, 6, 33, 1]))]
    {
        for softcap in [0.0, 4.0] {
            let attributes = AttentionAttributes {
                scale: 0.3,
                softcap,
                causal,
                offset: (keys - queries) as i32,
                zero_rows: 0,
                output_scale: 0.0,
            };
            let mut inputs = vec![
                random_f32(1, &[2, 6, queries, 20]),
                random_f32(2, &[2, 3, keys, 20]),
                random_f32(3, &[2, 3, keys, 9]),
            ];
            inputs.extend(mask.map(|dims| random_f32(4, &dims)));
            let y = shape(F32, &[2, 6, queries, 9]);
            cases.push((
                "attention_f32",
                Case::new(Op::Attention, Some(F32), attributes, &inputs, y),
            ));
        }
    }
    for ([queries, keys, values], causal, mask) in [
        ([3u32, 3u32, 9u32], 1, None),
        ([5, 150, 200], 0, Some([2, 1, 1, 150])),
        ([33, 40, 32], 1, Some([1, 6, 33, 1])),
        // More keys than a block keeps.
        ([2, 2100, 200], 0, None),
    ] {
        let attributes = AttentionAttributes {
            scale: 2e-5,
            causal,
            offset: (keys - queries) as i32,
            output_scale: 0.8,
            ..AttentionAttributes::default()
        };
        let mut inputs = vec![
            random_i8(1, &[2, 6, queries, 20]),
            random_i8(2, &[2, 3, keys, 20]),
            random_i8(3, &[2, 3, keys, values]),
        ];
        inputs.extend(mask.map(|dims| random_f32(4, &dims)));
        let y = as_quantized(shape(I8, &[2, 6, queries, values]));
        let case = Case::new(Op::Attention, Some(I8), attributes, &inputs, y);
        cases.push(("attention_i8", case));
    }
    for transpose_a in [0, 1] {
        for transpose_b in [0, 1] {
            let attributes = MatMulAttributes { transpose_a, transpose_b, reserved: [0; 2] };
            let turned = |turn: u32, lead: &[u32], [rows, columns]: [u32; 2]| {
                let matrix = if turn == 1 { [columns, rows] } else { [rows, columns] };
                [lead, &matrix].concat()
            };
            let a = random_f32(1, &turned(transpose_a, &[2, 1], [37, 45]));
            let b = random_f32(2, &turned(transpose_b, &[3], [45, 33]));
            let y = shape(F32, &[2, 3, 37, 33]);
            cases.push(("matmul_f32", Case::new(Op::MatMul, Some(F32), attributes, &[a, b], y)));
        }
    }
    for (window, positions) in [(0, [0, 1, 2]), (5, [70, 3, 71]), (0, [99, 98, 97]), (0, [7, 7, 7])]
    {
        let attributes = CachedAttentionAttributes {
            heads: 4,
            kv_heads: 2,
            size: 36,
            window,
            scale: 0.2,
            softcap: 0.0,
            reserved: [0; 2],
        };
        let inputs =
            [random_f32(1, &[3, 288]), tensor(&[3], &positions), tensor(&[3], &[1i32, 0, 1])];
        let cache = || Some(shape(F16, &[2, 2, 100, 36]));
        for count in [2, 3] {
            let y = shape(F32, &[3, 144]);
            let case = Case::new(Op::CachedAttention, Some(F32), attributes, &inputs[..count], y);
            for name in ["cache_check", "cache_write", "cached_attention"] {
                cases.push((name, case_with(&case, &[cache(), cache()])));
            }
            let wide = || Some(shape(F32, &[2, 2, 100, 36]));
            for name in ["cache_write_f32", "cached_attention_f32"] {
                cases.push((name, case_with(&case, &[wide(), wide()])));
            }
            let narrow = || Some(shape(I8, &[2, 2, 100, 36]));
            let scales = || Some(shape(F16, &[2, 2, 100, 2]));
            let y = shape(F32, &[3, 144]);
            let case = Case::new(Op::CachedAttention, Some(I8), attributes, &inputs[..count], y);
            for name in ["cache_write_q8", "cached_attention_q8"] {
                cases.push((name, case_with(&case, &[narrow(), narrow(), scales(), scales()])));
            }
        }
    }
    for interleaved in [0, 1] {
        let attributes = RotaryAttributes {
            heads: 3,
            kv_heads: 2,
            size: 40,
            rotated: 24,
            interleaved,
            epsilon: 1e-5,
            reserved: [0; 2],
        };
        let table = random_f32(2, &[50, 24]).constant();
        let scales = [random_f32(3, &[40]).constant(), random_f32(4, &[40]).constant()];
        let inputs = [random_f32(1, &[2, 280]), tensor(&[2], &[49i32, 7]), table];
        for inputs in [inputs.to_vec(), [&inputs[..], &scales].concat()] {
            cases.push((
                "rotary",
                Case::new(Op::Rotary, Some(F32), attributes, &inputs, shape(F32, &[2, 280])),
            ));
        }
    }
    let (rows, size) = (37usize, 22usize);
    let padded = rows.next_multiple_of(PANEL_N);
    let named = |tensor: Tensor| Tensor { dims: vec![rows as u32, size as u32], ..tensor };
    let bf16s: Vec<half::bf16> =
        Random(3).f32s(814).into_iter().map(half::bf16::from_f32).collect();
    let tables = [
        random_f32(1, &[rows as u32, size as u32]).constant(),
        named(tensor(&[814], &halves(Random(3).f32s(814)))).constant(),
        named(floats(Layout::PanelFloat)(&mut Random(4), padded, size)),
        named(half_floats(Layout::PanelFloat)(&mut Random(5), padded, size)),
        named(tensor(&[814], &bf16s)).constant(),
        named(pairs(&mut Random(10), padded, size)),
        named(grouped(Layout::GroupedW8, padded, size, &mut Random(6))),
        named(grouped(Layout::GroupedW4Min, padded, size, &mut Random(7))),
        named(grouped(Layout::GroupedW5NarrowMin, padded, size, &mut Random(8))),
        named(grouped(Layout::GroupedW6Narrow, padded, size, &mut Random(9))),
        named(grouped(Layout::GroupedW4NlWide, padded, size, &mut Random(11))),
    ];
    for (at, table) in tables.into_iter().enumerate() {
        let attributes =
            EmbeddingAttributes { scale: if at % 2 == 0 { 1.0 } else { 3.5 }, reserved: 0 };
        let narrow = tensor(&[3], &[0i32, 36, 17]);
        let wide = tensor(&[3, 1], &[0i64, 36, 17]);
        let (ids, dims) = if at % 2 == 0 { (narrow, vec![3, 22]) } else { (wide, vec![3, 1, 22]) };
        cases.push((
            "embedding",
            Case::new(Op::Embedding, Some(F32), attributes, &[table, ids], shape(F32, &dims)),
        ));
    }
}

fn case_with(case: &Case, more: &[Option<Tensor>]) -> Case {
    Case {
        op: case.op,
        variant: case.variant,
        attributes: case.attributes.clone(),
        inputs: case.inputs.clone(),
        output: case.output.clone(),
        more_outputs: more.to_vec(),
        shared: None,
    }
}

fn whole_numbers(cases: &mut Vec<Named>) {
    let ints = |dims: &[u32], seed: u32| {
        let mut random = Random(seed);
        let count = dims.iter().product::<u32>() as usize;
        // Small ones, so that shifts and powers are some; equal ones among them.
        let mut values: Vec<i32> = (0..count).map(|_| random.below(9) as i32 - 4).collect();
        values[..2].copy_from_slice(&[i32::MIN, i32::MAX]);
        tensor(dims, &values)
    };
    let wide = |x: &Tensor| {
        let values: Vec<i64> = x
            .bytes
            .chunks(4)
            .map(|b| i64::from(i32::from_le_bytes(b.try_into().unwrap())) << 7 >> 7)
            .collect();
        tensor(&x.dims, &values)
    };
    let truth = |x: &Tensor| {
        let values: Vec<u8> = x.bytes.chunks(4).map(|b| b[0] % 3).collect();
        Tensor { dtype: Bool, ..tensor(&x.dims, &values) }
    };
    let (a, b) = (ints(&[5, 1, 9], 1), ints(&[4, 9], 2));
    let binary = |kind| BinaryAttributes { kind, ..BinaryAttributes::default() };
    let dims = [5, 4, 9];
    let pair = |f: &dyn Fn(&Tensor) -> Tensor| [f(&a), f(&b)];
    for kind in 1..=18 {
        let (narrow, long) = ([a.clone(), b.clone()], pair(&wide));
        cases.push((
            "binary_i32",
            Case::new(Op::Binary, Some(I32), binary(kind), &narrow, shape(I32, &dims)),
        ));
        cases.push((
            "binary_i64",
            Case::new(Op::Binary, Some(I64), binary(kind), &long, shape(I64, &dims)),
        ));
        if (10..=12).contains(&kind) {
            let inputs = pair(&truth);
            cases.push((
                "binary_bool",
                Case::new(Op::Binary, Some(Bool), binary(kind), &inputs, shape(Bool, &dims)),
            ));
        }
    }
    let bytes = |dtype: DType| {
        [&a, &b].map(|x| Tensor {
            dtype,
            ..tensor(&x.dims, &x.bytes.chunks(4).map(|b| b[0]).collect::<Vec<u8>>())
        })
    };
    let reals =
        [random_f32(1, &a.dims), Tensor { bytes: vec![0; 4 * 36], ..random_f32(2, &b.dims) }];
    for kind in 1..=5 {
        for (name, dtype, inputs) in [
            ("compare_f32", F32, reals.clone()),
            ("compare_i8", I8, bytes(I8)),
            ("compare_u8", U8, bytes(U8)),
            ("compare_i32", I32, [a.clone(), b.clone()]),
            ("compare_i64", I64, pair(&wide)),
        ] {
            cases.push((
                name,
                Case::new(Op::Compare, Some(dtype), binary(kind), &inputs, shape(Bool, &dims)),
            ));
        }
    }
    let equal = Case::new(Op::Compare, Some(Bool), binary(1), &pair(&truth), shape(Bool, &dims));
    cases.push(("binary_bool", equal));
    let not = UnaryAttributes { kind: 40, ..UnaryAttributes::default() };
    cases.push((
        "not_bool",
        Case::new(Op::Unary, Some(Bool), not, &[truth(&a)], shape(Bool, &a.dims)),
    ));
    for (name, dtype) in [("where_1", I8), ("where_2", F16), ("where_4", F32), ("where_8", I64)] {
        let inputs = [truth(&a), counted(dtype, &[4, 1]), counted(dtype, &[5, 4, 9])];
        cases.push((name, Case::new(Op::Where, None, [0u8; 0], &inputs, shape(dtype, &dims))));
    }
    let real =
        tensor(&[9], &[1.9f32, -1.9, 300.0, -300.0, f32::NAN, f32::INFINITY, -1e20, 0.0, 65_519.0]);
    let bf16s = tensor(&[4], &[1.5f32, -3e38, f32::NAN, 77.0].map(half::bf16::from_f32));
    for x in
        [real, bf16s, a.clone(), wide(&b), truth(&a), bytes(I8)[0].clone(), bytes(U8)[0].clone()]
    {
        for to in [F32, F16, BF16, I8, U8, DType::I16, I32, I64, Bool] {
            let y = shape(to, &x.dims.clone());
            let inputs = std::slice::from_ref(&x);
            cases.push(("cast", Case::new(Op::Cast, None, [0u8; 0], inputs, y)));
        }
    }
    for min in [0, 1] {
        for select_last in [0, 1] {
            let attributes = ArgReduceAttributes { axis: 1, min, select_last, reserved: 0 };
            let x = ints(&[3, 12, 5], 7);
            let long = wide(&x);
            for (name, x) in [
                ("arg_reduce_f32", random_f32(3, &[3, 12, 5])),
                ("arg_reduce_i8", random_i8(4, &[3, 12, 5])),
                ("arg_reduce_i32", x),
                ("arg_reduce_i64", long),
            ] {
                let y = shape(I64, &[3, 5]);
                cases.push((
                    name,
                    Case::new(
                        Op::ArgReduce,
                        Some(x.dtype),
                        attributes,
                        std::slice::from_ref(&x),
                        y,
                    ),
                ));
            }
        }
    }
    let attributes = CrossAttentionAttributes { heads: 4, kv_heads: 2, size: 36, scale: 0.2 };
    let cache = || Some(shape(F16, &[1, 2, 70, 36]));
    let inputs = [random_f32(1, &[3, 144]), random_f32(2, &[1, 70, 144])];
    let case = Case::new(Op::CrossAttention, Some(F32), attributes, &inputs, shape(F32, &[3, 144]));
    for name in ["cross_write", "cross_attention"] {
        cases.push((name, case_with(&case, &[cache(), cache()])));
    }
    let chosen = [&inputs[..], &[tensor(&[3], &[3i32, 0, 3])]].concat();
    let case = Case::new(Op::CrossAttention, Some(F32), attributes, &chosen, shape(F32, &[3, 144]));
    for name in ["cross_check", "cross_weights"] {
        let weights = Some(shape(F32, &[3, 3, 70]));
        cases.push((name, case_with(&case, &[cache(), cache(), weights])));
    }
}

#[test]
fn every_kernel_agrees_with_the_scalar_one() {
    if devices().is_none() {
        return;
    }
    let mut cases = vec![];
    layers(&mut cases);
    elementwise(&mut cases);
    moves(&mut cases);
    reductions(&mut cases);
    attention(&mut cases);
    caches::parts(&mut cases);
    whole_numbers(&mut cases);
    sampling(&mut cases);
    recurrent(&mut cases);
    indexed(&mut cases);
    integers(&mut cases);
    windows(&mut cases);
    let mut ran = BTreeSet::new();
    for (index, (name, case)) in cases.iter().enumerate() {
        let outputs = case.run_outputs(Some(Isa::Scalar));
        let outputs = outputs.unwrap_or_else(|e| panic!("case {index}, {name}: {e}"));
        let file = case.file();
        let mut memory = vec![0u8; file.len() + 8];
        let start = memory.as_ptr().align_offset(8);
        memory[start..start + file.len()].copy_from_slice(&file);
        let model = Model::open(&memory[start..start + file.len()]).unwrap();
        let launched = compare(case, model, Ok(&outputs));
        assert!(launched.contains(name), "case {index}: {launched:?} instead of {name}");
        ran.extend(launched);
    }
    let all: BTreeSet<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
    assert_eq!(ran, all);
    println!("{} cases of {} kernels, forwards and backwards", cases.len(), all.len());
}

//! Random steps for every operator: whatever its check accepts must run without a panic.

use super::testing::{Case, Random, Tensor, shape, tensor};
use super::{ALL, Operator};
use crate::SessionError;
use crate::dtype::DType;
use crate::format::{
    ArgReduceAttributes, AttentionAttributes, AxisAttributes, BinaryAttributes, BinaryOp,
    CachedAttentionAttributes, CompareOp, ConvAttributes, ConvNdAttributes,
    CrossAttentionAttributes, CumulativeAttributes, EmbeddingAttributes, Field, GatedAttributes,
    GatherNdAttributes, GridSampleAttributes, Layout, MatMulAttributes,
    NonMaxSuppressionAttributes, NormalizeAttributes, Op, PadAttributes, PoolAttributes,
    PoolNdAttributes, QuantizeAttributes, QuantizedLstmAttributes, RecurrentAttributes,
    ReduceAttributes, ResizeAttributes, RoiAlignAttributes, RotaryAttributes, ScatterAttributes,
    SliceAttributes, SoftmaxAttributes, TopKAttributes, TransposeAttributes, UnaryAttributes,
    UnaryOp,
};
use crate::isa::Isa;
use crate::kernels::conv_f32::grouped::GroupedForm;

const CASES_PER_OPERATOR: usize = 4000;
/// Every so many cases run on the CUDA kernels that are compiled for the host, which takes longer.
const CUDA_EVERY: usize = 16;
/// Tensors of a case stay small, so that thousands of cases take a second.
const MAX_BYTES: usize = 1 << 12;

/// Bytes of the operator's attribute record, and how many inputs it takes.
fn signature(op: Op, random: &mut Random) -> (usize, usize) {
    match op {
        Op::Conv2d | Op::DepthwiseConv2d | Op::FullyConnected => (ConvAttributes::SIZE, 5),
        Op::MatMul => (MatMulAttributes::SIZE, 2),
        Op::Attention => (AttentionAttributes::SIZE, 3 + random.below(2) as usize),
        Op::Pool2d => (PoolAttributes::SIZE, 1),
        Op::Binary | Op::Compare => (BinaryAttributes::SIZE, 2),
        Op::Unary => (UnaryAttributes::SIZE, 1),
        Op::Lut => (0, 2),
        Op::Where => (0, 3),
        Op::Softmax => (SoftmaxAttributes::SIZE, 1 + random.below(2) as usize),
        Op::Concat => (AxisAttributes::SIZE, 1 + random.below(3) as usize),
        Op::Slice => (SliceAttributes::SIZE, 1),
        Op::Transpose => (TransposeAttributes::SIZE, 1),
        Op::Copy | Op::Expand | Op::Cast => (0, 1),
        Op::Pad => (PadAttributes::SIZE, 1),
        Op::Resize => (ResizeAttributes::SIZE, 1),
        Op::Gather => (AxisAttributes::SIZE, 2),
        Op::Quantize | Op::Dequantize => {
            (QuantizeAttributes::SIZE, 1 + 2 * random.below(2) as usize)
        }
        Op::Reduce => (ReduceAttributes::SIZE, 1 + (random.below(4) == 0) as usize),
        Op::ArgReduce => (ArgReduceAttributes::SIZE, 1),
        Op::Lstm | Op::Gru | Op::Rnn => (RecurrentAttributes::SIZE, 6),
        Op::GatherElements | Op::ReverseSequence => (AxisAttributes::SIZE, 2),
        Op::GatherNd => (GatherNdAttributes::SIZE, 2),
        Op::ScatterElements | Op::ScatterNd => (ScatterAttributes::SIZE, 3),
        Op::TopK => (TopKAttributes::SIZE, 1),
        Op::Cumulative => (CumulativeAttributes::SIZE, 1),
        Op::GridSample => (GridSampleAttributes::SIZE, 2),
        Op::RoiAlign => (RoiAlignAttributes::SIZE, 3),
        Op::NonMaxSuppression => (NonMaxSuppressionAttributes::SIZE, 2),
        Op::ConvNd => (ConvNdAttributes::SIZE, 2 + random.below(2) as usize),
        Op::PoolNd => (PoolNdAttributes::SIZE, 1),
        Op::Normalize => (NormalizeAttributes::SIZE, 1 + random.below(3) as usize),
        Op::Interpolate => (AxisAttributes::SIZE, 3),
        Op::QuantizedLstm => (QuantizedLstmAttributes::SIZE, 9),
        Op::Embedding => (EmbeddingAttributes::SIZE, 2),
        Op::Rotary => (RotaryAttributes::SIZE, 3 + random.below(3) as usize),
        Op::CachedAttention => (CachedAttentionAttributes::SIZE, 2 + random.below(2) as usize),
        Op::Gated => (GatedAttributes::SIZE, 1),
        Op::CrossAttention => (CrossAttentionAttributes::SIZE, 2 + random.below(2) as usize),
    }
}

fn dims(random: &mut Random, like: &[u32]) -> Vec<u32> {
    let mut dims = match random.below(8) {
        0..4 => like.to_vec(),
        4 => vec![0, i32::MAX as u32, i32::MAX as u32, i32::MAX as u32],
        _ => (0..random.below(5))
            .map(|_| [0, 1, 1, 2, 2, 3, 256][random.below(7) as usize])
            .collect(),
    };
    if random.below(4) == 0 && !dims.is_empty() {
        let axis = random.below(dims.len() as u32) as usize;
        dims[axis] = [1, 1, 2, 3, 0][random.below(5) as usize];
    }
    let mut bytes = 8usize;
    for dim in &mut dims {
        // A file refuses shapes whose product overflows before it meets its zero.
        bytes = bytes.saturating_mul(*dim as usize);
        if bytes > MAX_BYTES {
            *dim = 1;
            bytes = 8;
        }
    }
    dims
}

/// Bytes of which most are plausible numbers and some are anything.
fn attributes(random: &mut Random, len: usize) -> Vec<u8> {
    let half_words = random.below(3) == 0;
    let bytewise = random.below(6) == 0;
    let mut bytes = vec![];
    while bytes.len() < len {
        let word = match random.below(16) {
            0..9 => [0, 1, 2, 1, 1, 2, 3, 4][random.below(8) as usize],
            9 => random.below(42),
            10 => u32::MAX,
            11 => 1f32.to_bits(),
            12 => 2f32.to_bits(),
            13 => 1 << 16 | 1,
            14 => i32::MIN as u32,
            _ => random.next(),
        };
        if bytewise {
            bytes.push(word as u8);
        } else if half_words {
            bytes.extend((word as u16).to_le_bytes());
        } else {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.truncate(len);
    bytes
}

fn random_tensor(random: &mut Random, dtype: DType, dims: Vec<u32>) -> Tensor {
    let elements = dims.iter().fold(1usize, |product, dim| product.wrapping_mul(*dim as usize));
    let mask = if random.below(4) == 0 { 0 } else { 0xFF };
    let bytes = (0..elements * dtype.size()).map(|_| random.next() as u8 & mask).collect();
    let zero_point = match dtype {
        DType::I8 => i32::from(random.next() as i8),
        DType::U8 => i32::from(random.next() as u8),
        _ => 0,
    };
    Tensor { bytes, ..shape(dtype, &dims) }.quantized(1.0, zero_point)
}

fn set_input(case: &mut Case, random: &mut Random, index: usize, dtype: DType, dims: &[u32]) {
    case.inputs[index] = Some(random_tensor(random, dtype, dims.to_vec()));
}

/// Packed weights of about the right size, for a layer that is otherwise plausible more often than not: in
/// groups, or i8 in panels under i16.
fn packed_weights(case: &mut Case, random: &mut Random) {
    let is_i16 = case.variant == Some(DType::I16);
    let layouts: Vec<Layout> = GroupedForm::all().filter_map(GroupedForm::layout).collect();
    let layout = layouts[random.below(layouts.len() as u32) as usize];
    let layout = if is_i16 { Layout::PanelI8 } else { layout };
    let dtype = GroupedForm::of(layout).map_or(DType::I8, GroupedForm::dtype);
    let [x, bias] = if is_i16 { [DType::I16, DType::I64] } else { [DType::F32, DType::F32] };
    let [k, n] = [0; 2].map(|_| 1 + random.below(70));
    let rows = 1 + random.below(4);
    let wide = n.next_multiple_of(16);
    let bytes = (random.below(4) * 2048 + random.below(64) * 2) as usize;
    let group_size = if is_i16 { 0 } else { 32 << random.below(4) };
    let weights = Tensor { layout, group_size, ..shape(dtype, &[n, k]) };
    let weights = Tensor { bytes: (0..bytes).map(|_| random.next() as u8).collect(), ..weights };
    set_input(case, random, 0, x, &[rows, 1, 1, k]);
    case.inputs[1] = Some(weights.constant());
    case.inputs[2] = Some(random_tensor(random, bias, vec![wide]));
    case.inputs.truncate(3);
    case.inputs.push(is_i16.then(|| random_tensor(random, DType::F32, vec![wide])));
    case.output = shape(x, &[rows, 1, 1, n]);
    let one = [1, 1];
    ConvAttributes {
        kernel: one,
        stride: one,
        dilation: one,
        pad: [0, 0],
        groups: 1,
        clamp_q: [-32768, random.next() as i16 as i32],
        activation: [0, UnaryOp::FUSED[random.below(8) as usize] as u32][random.below(2) as usize],
        ..ConvAttributes::read(&case.attributes)
    }
    .write(&mut case.attributes);
}

/// Makes a case of a windowed or rowwise operator plausible: shapes that fit, sizes from a few.
fn windows_and_rows(case: &mut Case, random: &mut Random) {
    let mut three = || [0; 3].map(|_| [1, 1, 2, 3, 1 << 30, u32::MAX][random.below(6) as usize]);
    let (stride, dilation, pad, kernel, pad_after) = (three(), three(), three(), three(), three());
    match case.op {
        Op::ConvNd => {
            let dtype = case.variant.unwrap_or(DType::F32);
            set_input(case, random, 0, dtype, &[1, 3, 4, 2]);
            set_input(case, random, 1, dtype, &[3, 2, 2, 2]);
            if case.inputs.len() > 2 {
                let bias = random_tensor(random, dtype, vec![3]);
                case.inputs[2] = Some(bias);
            }
            case.output = shape(dtype, &[1, 2, 3, 3]);
            let clamp = [f32::NEG_INFINITY, f32::INFINITY];
            let reserved = [0; 2];
            ConvNdAttributes { stride, dilation, pad, groups: 1, clamp, reserved }
                .write(&mut case.attributes);
        }
        Op::PoolNd => {
            let dtype = case.variant.unwrap_or(DType::F32);
            set_input(case, random, 0, dtype, &[1, 3, 4, 2]);
            case.output = shape(dtype, &[1, 2, 3, 2]);
            if random.below(2) == 0 {
                case.more_outputs = vec![Some(shape(DType::I64, &[1, 2, 3, 2]))];
            }
            let kind = 1 + random.below(3);
            let of = PoolNdAttributes::read(&case.attributes);
            PoolNdAttributes { kind, kernel, stride, dilation, pad, pad_after, p: 2.0, ..of }
                .write(&mut case.attributes);
        }
        Op::Normalize => {
            for index in 0..case.inputs.len() {
                let dims: &[u32] = if index == 0 { &[2, 3, 4] } else { &[3, 4] };
                set_input(case, random, index, DType::F32, dims);
            }
            case.output = shape(DType::F32, &[2, 3, 4]);
            case.attributes[..8].copy_from_slice(&[1 + (pad[0] % 2) as u8, 0, 0, 0, 1, 0, 0, 0]);
        }
        _ => {
            set_input(case, random, 0, DType::F32, &[2, 3, 2]);
            set_input(case, random, 1, DType::I32, &[4, 2]);
            set_input(case, random, 2, DType::F32, &[4, 2]);
            case.output = shape(DType::F32, &[2, 4, 2]);
            case.attributes[..8].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
            if let Some(indices) = case.inputs[1].as_mut().filter(|_| random.below(2) == 0) {
                indices.bytes.fill(0);
            }
        }
    }
}

/// Operands that mostly fit each other: by chance they never would.
fn recurrent(operator: &Operator, random: &mut Random) -> Case {
    let (gates, weights, most_inputs) = match operator.op {
        Op::Lstm => (4, 4, 6),
        Op::Gru => (3, 2, 6),
        _ => (1, 1, 4),
    };
    let d = 1 + random.below(2);
    let [t, b, h] = [0; 3].map(|_| [0, 1, 1, 2, 3, 5][random.below(6) as usize]);
    let state = vec![d, b, h];
    let own = match operator.op {
        Op::Gru => [vec![d, h, h], vec![d, h]],
        _ => [state.clone(), vec![d, 3 * h]],
    };
    let [fifth, sixth] = own;
    let shapes = [
        vec![t, b, d * gates * h],
        vec![d, h, weights * h],
        vec![b],
        state.clone(),
        fifth,
        sixth,
        vec![t, d, b, h],
        state.clone(),
        state,
    ];
    let tensor = |random: &mut Random, index: usize| {
        let dtype = if index == 2 { DType::I32 } else { DType::F32 };
        let dtype = if random.below(64) == 0 { DType::I64 } else { dtype };
        let mut dims = shapes[index].clone();
        if random.below(32) == 0 {
            let axis = random.below(dims.len() as u32) as usize;
            dims[axis] = random.below(4);
        }
        random_tensor(random, dtype, dims)
    };
    let y = tensor(random, 6);
    let mut case = Case::new(operator.op, operator.dtype, [0u8; 0], &[], y);
    for index in 0..most_inputs {
        let absent = index > 1 && random.below(3) == 0;
        case.inputs.push(if absent { None } else { Some(tensor(random, index)) });
    }
    case.inputs.truncate(2 + random.below(most_inputs as u32) as usize);
    for index in 7..7 + random.below(4) as usize {
        let absent = random.below(3) == 0;
        case.more_outputs.push(if absent { None } else { Some(tensor(random, index.min(8))) });
    }
    let mut function =
        || [1 + random.below(11), random.below(13)][(random.below(16) == 0) as usize];
    let functions = [0; 6].map(|_| function());
    let mut number = || [0.0, 0.5, -1.0, f32::INFINITY, f32::NAN][random.below(5) as usize];
    let (clip, alpha, beta) = (number(), [0; 6].map(|_| number()), [0; 6].map(|_| number()));
    let plausible = RecurrentAttributes {
        directions: d,
        backwards: random.below(4),
        variant: random.below(2) + random.below(8) / 7,
        clip,
        functions,
        alpha,
        beta,
        ..RecurrentAttributes::default()
    };
    case.attributes = vec![0; RecurrentAttributes::SIZE];
    plausible.write(&mut case.attributes);
    if random.below(16) == 0 {
        case = case.sharing(0, 8 * random.below(2) as usize);
    }
    case
}

/// Operands of an LSTM on integers, one of which may be anything.
fn quantized_lstm(random: &mut Random) -> Case {
    let [t, b, k, h] = [0; 4].map(|_| [0, 1, 1, 2, 3, 5][random.below(6) as usize]);
    let entries = [3, 513, 4, 1, 65537][random.below(5) as usize];
    let table = vec![if random.below(2) == 0 { 17 } else { entries }];
    let batch_first = random.below(2);
    let first = |x: u32| if batch_first == 1 { vec![b, t, x] } else { vec![t, b, x] };
    let shapes = [
        (DType::I8, first(k)),
        (DType::I8, vec![4 * h, k]),
        (DType::I8, vec![4 * h, h]),
        (DType::I32, vec![2, 4 * h]),
        (DType::I8, vec![b, h]),
        (DType::I16, vec![b, h]),
        (DType::I16, vec![33]),
        (DType::I16, table),
        (DType::I16, vec![3]),
    ];
    let strange = random.below(2 * shapes.len() as u32) as usize;
    let in_panels = random.below(2) == 0;
    let mut tensors = vec![];
    for (at, (dtype, shape)) in shapes.into_iter().enumerate() {
        let shape = if at == strange { dims(random, &shape) } else { shape };
        let mut tensor = random_tensor(random, dtype, shape);
        if matches!(at, 1 | 2) && in_panels {
            // Of at most 20 rows and 5 columns, more often than not.
            let bytes = (random.below(4) * 256) as usize;
            tensor.bytes = (0..bytes).map(|_| random.next() as u8).collect();
            tensor = tensor.packed(Layout::PanelI8);
        }
        tensors.push(tensor);
    }
    let real = |random: &mut Random| f32::from_bits(random.next());
    let attributes = QuantizedLstmAttributes {
        batch_first,
        input_scale: [real(random), 0.5, 1e-3, f32::INFINITY],
        state_scale: [real(random), f32::NAN, 1.0, -1.0],
        output_scale: real(random),
        cell_shift: [15, 18, 30, 1, 0, 31, u32::MAX][random.below(7) as usize],
        cell_clip: [0, 1, 32767, 32768, -1][random.below(5) as usize],
        reserved: [0; 4],
    };
    let y = random_tensor(random, DType::I8, first(h));
    let case = Case::new(Op::QuantizedLstm, Some(DType::I8), attributes, &tensors, y);
    let last = |dtype| Some(shape(dtype, &[b, h]));
    match random.below(3) {
        0 => case,
        1 => case.with_outputs(&[None, last(DType::I16)]),
        _ => case.with_outputs(&[last(DType::I8), last(DType::I16)]),
    }
}

/// Operands of a decoder's operators that fit each other, but for one at most.
fn of_a_decoder(case: &mut Case, random: &mut Random) {
    let small = |random: &mut Random| 1 + random.below(4);
    let [tokens, kv_heads, positions, sequences] = [0; 4].map(|_| small(random));
    let (heads, size) = (kv_heads * small(random), 2 * small(random));
    let tokens = if random.below(4) == 0 { 9 + random.below(30) } else { tokens };
    let indices = |random: &mut Random, most: u32| {
        let numbers = (0..tokens).map(|token| match random.below(200) {
            0 => -1,
            1 => i32::MAX,
            _ => (token % most) as i32,
        });
        tensor(&[tokens], &numbers.collect::<Vec<i32>>())
    };
    let x = vec![tokens, (heads + 2 * kv_heads) * size];
    let positions = if tokens > 8 { tokens } else { positions };
    let inputs = case.inputs.len();
    let cache = || Some(shape(DType::F16, &[sequences, kv_heads, positions, size]));
    let mut tensors: Vec<Tensor> = vec![];
    match case.op {
        Op::Embedding => {
            tensors.push(random_tensor(random, DType::F32, vec![5, size]).constant());
            tensors.push(indices(random, 5));
            case.output = shape(DType::F32, &[tokens, size]);
        }
        Op::Gated => {
            tensors.push(random_tensor(random, DType::F32, vec![tokens, 2 * size]));
            case.output = shape(DType::F32, &[tokens, size]);
            let kinds = [UnaryOp::Relu, UnaryOp::Silu, UnaryOp::GeluTanh, UnaryOp::Exp];
            case.attributes[..4]
                .copy_from_slice(&(kinds[random.below(4) as usize] as u32).to_le_bytes());
        }
        Op::CrossAttention => {
            tensors.push(random_tensor(random, DType::F32, vec![tokens, heads * size]));
            let new = vec![random.below(2), positions, 2 * kv_heads * size];
            tensors.push(random_tensor(random, DType::F32, new));
            case.output = shape(DType::F32, &[tokens, heads * size]);
            let cache = || Some(shape(DType::F16, &[1, kv_heads, positions, size]));
            case.more_outputs = vec![cache(), cache()];
            if inputs > 2 {
                tensors.push(indices(random, heads));
                let chosen = tensors[2].dims.iter().product::<u32>();
                case.more_outputs.push(Some(shape(DType::F32, &[tokens, chosen, positions])));
            }
            CrossAttentionAttributes { heads, kv_heads, size, scale: 0.5 }
                .write(&mut case.attributes);
        }
        Op::Rotary => {
            let rotated = 2 * random.below(size / 2 + 1);
            tensors.push(random_tensor(random, DType::F32, x.clone()));
            tensors.push(indices(random, positions));
            tensors.push(random_tensor(random, DType::F32, vec![positions, rotated]));
            for _ in 3..inputs {
                tensors.push(random_tensor(random, DType::F32, vec![size]));
            }
            case.output = shape(DType::F32, &x);
            let interleaved = random.below(2);
            let (epsilon, reserved) = (1e-5, [0; 2]);
            RotaryAttributes { heads, kv_heads, size, rotated, interleaved, epsilon, reserved }
                .write(&mut case.attributes);
        }
        _ => {
            tensors.push(random_tensor(random, DType::F32, x));
            tensors.push(indices(random, positions));
            if inputs > 2 {
                tensors.push(indices(random, sequences));
            }
            case.output = shape(DType::F32, &[tokens, heads * size]);
            case.more_outputs = vec![cache(), cache()];
            if case.variant == Some(DType::I8) {
                let scales =
                    || shape(DType::F16, &[sequences, kv_heads, positions, size.div_ceil(32)]);
                let numbers = || shape(DType::I8, &[sequences, kv_heads, positions, size]);
                case.more_outputs = [numbers(), numbers(), scales(), scales()].map(Some).to_vec();
            }
            let window = random.below(4);
            let (scale, softcap, reserved) = (0.5, random.below(2) as f32, [0; 2]);
            CachedAttentionAttributes { heads, kv_heads, size, window, scale, softcap, reserved }
                .write(&mut case.attributes);
        }
    }
    if random.below(4) == 0 {
        let strange = random.below(tensors.len() as u32) as usize;
        let of = &tensors[strange];
        let (dtype, like) = (of.dtype, of.dims.clone());
        let dims = dims(random, &like);
        tensors[strange] = random_tensor(random, dtype, dims);
    }
    case.inputs = tensors.into_iter().map(Some).collect();
}

fn case(operator: &Operator, random: &mut Random) -> Case {
    if matches!(operator.op, Op::Lstm | Op::Gru | Op::Rnn) {
        return recurrent(operator, random);
    }
    if operator.op == Op::QuantizedLstm {
        return quantized_lstm(random);
    }
    let (attribute_bytes, inputs) = signature(operator.op, random);
    let shape: &[u32] = if operator.op == Op::MatMul { &[2, 3, 3] } else { &[2, 3, 3, 2] };
    let like = dims(random, shape);
    let mut dtype = || match operator.dtype {
        Some(dtype) if random.below(4) > 0 => dtype,
        None if random.below(4) > 0 => DType::I32,
        _ => DType::ALL[random.below(9) as usize],
    };
    let mut dtypes = [dtype(), dtype(), dtype(), dtype(), dtype(), dtype()];
    match operator.op {
        Op::Quantize | Op::Dequantize if random.below(4) > 0 => {
            let integer = operator.dtype.unwrap_or(DType::I8);
            let [from, to] = match operator.op {
                Op::Quantize => [DType::F32, integer],
                _ => [integer, DType::F32],
            };
            dtypes = [from, DType::F32, DType::I32, to, to, to];
            if inputs == 1 {
                dtypes[1] = to;
            }
        }
        Op::Softmax | Op::Reduce if inputs == 2 => dtypes[1] = DType::I32,
        Op::Compare => dtypes[2] = DType::Bool,
        Op::ArgReduce => dtypes[1] = DType::I64,
        Op::Where => dtypes[0] = DType::Bool,
        Op::Interpolate => {
            dtypes = [DType::F32, DType::I32, DType::F32, DType::F32, dtypes[4], dtypes[5]]
        }
        _ => {}
    }
    let mut tensors = vec![];
    for dtype in &dtypes[..inputs] {
        let dims = dims(random, &like);
        tensors.push(random_tensor(random, *dtype, dims));
    }
    if matches!(operator.op, Op::Lut | Op::Softmax) && inputs == 2 {
        let entries = match (operator.op, operator.dtype) {
            (Op::Lut, Some(DType::I16)) => 257,
            (Op::Softmax, Some(DType::I16)) => 512,
            _ => 256,
        };
        tensors[1] = random_tensor(random, tensors[1].dtype, vec![entries]);
    }
    if operator.op == Op::Reduce && inputs == 2 {
        let numbers = 2 - random.below(4) / 3;
        tensors[1] = random_tensor(random, tensors[1].dtype, vec![numbers]);
    }
    let y = dims(random, &tensors[0].dims.clone());
    let y = random_tensor(random, dtypes[inputs], y);
    let mut case = Case::new(operator.op, operator.dtype, [0u8; 0], &tensors, y);
    case.attributes = attributes(random, attribute_bytes);
    if matches!(operator.op, Op::Conv2d | Op::FullyConnected) && random.below(2) == 0 {
        packed_weights(&mut case, random);
    }
    let is_of_a_decoder = matches!(
        operator.op,
        Op::Embedding | Op::Rotary | Op::CachedAttention | Op::Gated | Op::CrossAttention
    );
    if is_of_a_decoder && random.below(4) > 0 {
        of_a_decoder(&mut case, random);
    }
    if operator.op == Op::Attention && random.below(2) == 0 {
        let dtype = operator.dtype.unwrap_or(DType::F32);
        // Shapes that fit, and switches that are switches.
        let [b, heads, m, n, d] = [0; 5].map(|_| 1 + random.below(3));
        for (input, dims) in [[b, heads, m, d], [b, 1, n, d], [b, 1, n, 2]].into_iter().enumerate()
        {
            case.inputs[input] = Some(random_tensor(random, dtype, dims.to_vec()));
        }
        case.output = random_tensor(random, dtype, vec![b, heads, m, 2]);
        case.attributes[8..20].fill(0);
        if dtype == DType::I8 {
            // No softcap.
            case.attributes[4..8].fill(0);
        }
        case.attributes[8] = random.below(2) as u8;
        case.attributes[12] = random.below(4) as u8;
        case.attributes[16] = random.below(2) as u8;
    }
    if operator.op == Op::Pool2d {
        let mut pair = || [0; 2].map(|_| [1, 1, 2, 3, 7, u16::MAX][random.below(6) as usize]);
        let plausible = PoolAttributes {
            kernel: pair(),
            stride: pair(),
            dilation: pair(),
            pad: pair(),
            pad_after: pair(),
            ..PoolAttributes::read(&case.attributes)
        };
        plausible.write(&mut case.attributes);
        if random.below(2) == 0 {
            case.attributes[..4].copy_from_slice(&[1 + random.below(3) as u8, 0, 0, 0]);
        }
    }
    if operator.op == Op::MatMul && random.below(2) == 0 {
        // Twice the same factor, square more often than not.
        case.inputs[1] = case.inputs[0].clone();
        case.output.dims = tensors[0].dims.clone();
        case.attributes.fill(0);
        case.attributes[0] = random.below(2) as u8;
        case.attributes[4] = random.below(2) as u8;
    }
    if matches!(operator.op, Op::ConvNd | Op::PoolNd | Op::Normalize | Op::Interpolate)
        && random.below(2) == 0
    {
        windows_and_rows(&mut case, random);
    }
    if operator.op == Op::Resize && random.below(2) == 0 {
        let plausible = ResizeAttributes {
            mode: 1 + random.below(3),
            coordinates: 1 + random.below(4),
            rounding: 1 + random.below(4),
            scales: [0; 8].map(|_| [0.5, 1.0, 2.0, 1e-40, 1e30][random.below(5) as usize]),
            ..ResizeAttributes::read(&case.attributes)
        };
        plausible.write(&mut case.attributes);
        if case.output.dtype == DType::I8 && tensors[0].dtype == DType::I8 {
            case.output.zero_point = tensors[0].zero_point;
        }
    }
    if operator.dtype == Some(DType::Bool) && random.below(2) == 0 {
        let kind = match operator.op {
            Op::Unary => UnaryOp::Not as u8,
            Op::Binary => BinaryOp::And as u8 + random.below(3) as u8,
            _ => CompareOp::Equal as u8,
        };
        case.attributes[..4].copy_from_slice(&[kind, 0, 0, 0]);
    }
    if operator.op == Op::Gather && random.below(2) == 0 {
        // Along the first axis, if the result has a rank and a size that a tensor can have.
        case.attributes.fill(0);
        let [data, indices] = [0, 1].map(|input| tensors[input].dims.as_slice());
        let dims = [indices, data.get(1..).unwrap_or(&[])].concat();
        let bytes = dims.iter().try_fold(8usize, |bytes, dim| bytes.checked_mul(*dim as usize));
        if dims.len() <= 8 && bytes.is_some_and(|bytes| bytes <= MAX_BYTES) {
            case.output.dims = dims;
        }
    }
    if operator.op == Op::Reduce && random.below(2) == 0 {
        // A known kind and one axis.
        case.attributes[..8].copy_from_slice(&[
            1 + random.below(10) as u8,
            0,
            0,
            0,
            1 << random.below(4),
            0,
            0,
            0,
        ]);
    }
    if matches!(operator.op, Op::Reduce | Op::ArgReduce) && random.below(2) == 0 {
        let axis = random.below(4) as usize;
        case.output.dims = case.inputs[0].as_ref().unwrap().dims.clone();
        // A 1 in the place of the 0 would leave a shape that doesn't fit.
        let fits = case.output.dims.iter().all(|dim| *dim <= 256);
        if let (true, Some(dim)) = (fits, case.output.dims.get_mut(axis)) {
            *dim = 1;
        }
    }
    if random.below(2) == 0 {
        fit(&mut case, operator, random);
    }
    if random.below(8) == 0 {
        case = case.sharing(0, 8 * random.below(2) as usize);
    }
    case
}

/// Gives operators that index and sample shapes and attributes that hold together: chance alone
/// hardly finds them. What the tensors hold stays random.
fn fit(case: &mut Case, operator: &Operator, random: &mut Random) {
    let dtype = operator.dtype.unwrap_or(DType::I32);
    let mut tensor = |dtype, dims: &[u32]| Some(random_tensor(random, dtype, dims.to_vec()));
    let (inputs, y): (Vec<Option<Tensor>>, _) = match operator.op {
        Op::GatherElements => {
            (vec![tensor(dtype, &[2, 3]), tensor(DType::I64, &[2, 3])], (dtype, vec![2, 3]))
        }
        Op::GatherNd => {
            (vec![tensor(dtype, &[2, 3, 2]), tensor(DType::I32, &[2, 2])], (dtype, vec![2, 2]))
        }
        Op::ScatterElements => {
            let indices = tensor(DType::I64, &[2, 3]);
            (vec![tensor(dtype, &[2, 3]), indices, tensor(dtype, &[2, 3])], (dtype, vec![2, 3]))
        }
        Op::ScatterNd => {
            let indices = tensor(DType::I32, &[2, 1]);
            (vec![tensor(dtype, &[2, 3]), indices, tensor(dtype, &[2, 3])], (dtype, vec![2, 3]))
        }
        Op::TopK => (vec![tensor(dtype, &[2, 3])], (dtype, vec![2, 2])),
        Op::Cumulative => (vec![tensor(dtype, &[2, 3])], (dtype, vec![2, 3])),
        Op::GridSample => {
            let grid = tensor(dtype, &[1, 2, 2, 2]);
            (vec![tensor(dtype, &[1, 2, 3, 2]), grid], (dtype, vec![1, 2, 2, 2]))
        }
        Op::RoiAlign => {
            let (regions, images) = (tensor(dtype, &[2, 4]), tensor(DType::I64, &[2]));
            (vec![tensor(dtype, &[2, 1, 3, 3]), regions, images], (dtype, vec![2, 1, 2, 2]))
        }
        Op::NonMaxSuppression => {
            let boxes = tensor(dtype, &[1, 4, 4]);
            (vec![boxes, tensor(dtype, &[1, 2, 4])], (DType::I64, vec![4, 3]))
        }
        Op::ReverseSequence => {
            (vec![tensor(dtype, &[2, 3, 2]), tensor(DType::I64, &[3])], (dtype, vec![2, 3, 2]))
        }
        _ => return,
    };
    let any = random.next();
    let mut below = |limit: u32| random.below(limit);
    let words: [u32; 6] = match operator.op {
        Op::GatherElements => [below(2), 0, 0, 0, 0, 0],
        Op::ScatterElements | Op::ScatterNd if operator.dtype.is_some() => {
            [below(2), 1 + below(4), 0, 0, 0, 0]
        }
        Op::TopK => [1, below(2), 0, 0, 0, 0],
        Op::Cumulative => [below(2), 1 + below(2), below(2), below(2), 0, 0],
        Op::GridSample => [1 + below(3), 1 + below(3), below(2), 0, 0, 0],
        Op::RoiAlign => [1 + below(2), below(3), any, below(2), 0, 0],
        Op::NonMaxSuppression => [2, any, any, below(2), below(2), 0],
        _ => [0; 6],
    };
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let len = case.attributes.len();
    case.attributes.copy_from_slice(&bytes[..len]);
    (case.inputs, case.output) = (inputs, shape(y.0, &y.1));
}

#[test]
fn whatever_is_accepted_runs() {
    let mut random = Random(77);
    for operator in ALL {
        if matches!(operator.op, Op::Conv2d | Op::DepthwiseConv2d | Op::FullyConnected) {
            continue;
        }
        let (mut accepted, mut with_elements) = (0, 0);
        for index in 0..CASES_PER_OPERATOR {
            let case = case(operator, &mut random);
            // Without an instruction set it runs on CUDA's kernels as well.
            let isa = (index % CUDA_EVERY != 0).then(Isa::detect);
            match case.run_on(isa) {
                Ok(bytes) => {
                    accepted += 1;
                    with_elements += usize::from(!bytes.is_empty());
                }
                Err(SessionError::Step { .. }) => {}
                Err(error) => panic!("{} {:?}: {error}", operator.op, operator.dtype),
            }
        }
        let name = (operator.op, operator.dtype);
        println!("{name:?}: {accepted} accepted, {with_elements} with elements");
        assert!(with_elements > 0, "{name:?}: only {accepted} accepted");
    }
}

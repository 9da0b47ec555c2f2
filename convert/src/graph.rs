//! The graph that every stage of the converter reads and rewrites.
//!
//! Spatial operators ([`Op::Conv`], [`Op::Pool`], [`Op::Resize`]) are defined over channels-last
//! activations (NHWC, NWC); an importer of a channels-first format puts [`Op::Transpose`] around
//! them and the layout pass cancels those. Everything else is layout-free.

use std::sync::Arc;

use whit::DType;
use whit::format::NarrowFloat;
use whit::format::RecurrentFunction;
use whit::kernels::conv_f32::grouped::GroupedBits;

use crate::dim::{Dim, Symbol};
use crate::tensor::Tensor;

/// Index of a value in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// A tensor that flows through the graph, or a constant.
#[derive(Clone, Debug)]
pub struct Value {
    /// Name in the source model, or derived from it; unique names aren't required.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape, outermost axis first.
    pub shape: Vec<Dim>,
    /// The elements, when they are known at conversion.
    pub constant: Option<Arc<Tensor>>,
    /// How integers stand for reals, when they do.
    pub quant: Option<Quant>,
    /// How the integers of weights stand for reals, when they do so in groups.
    pub groups: Option<Groups>,
}

/// Weights whose rows are cut into groups of consecutive inputs, each with a scale:
/// `real = scale[output][input / size] * integer`, plus the group's minimum where there are minima.
///
/// A row is what one output of a [`Conv`] or [`MatMul`] reads, in the order kernel row, kernel column, input
/// channel; the constant (i8) keeps the shape that the operator wants. The layer computes on floats.
#[derive(Clone, Debug, PartialEq)]
pub struct Groups {
    /// What integers are there: of 8 bits −128..=127, of b of 4, 5, 6 those in −2ᵇ⁻¹..2ᵇ⁻¹, with minima in 0..2ᵇ; or those of a table. A file
    /// may have less, in a layout that holds all of them.
    pub bits: GroupedBits,
    /// Inputs per group: 16, 32, 64 or 128; the last group of a row may be shorter.
    pub size: usize,
    /// The axis of the constant that the outputs run along.
    pub axis: usize,
    /// `[outputs][ceil(inputs / size)]`; may be negative. Stored as f16 if all of them, and all minima, are numbers of it.
    pub scale: Vec<f32>,
    /// As many minima, if there are any.
    pub min: Option<Vec<f32>>,
    /// What they are integers times of, if that is known.
    pub factors: Option<Factors>,
}

/// Numbers of f16 that scales and minima are an integer of 8 bits times of, one for every 256 inputs of an output:
/// `[outputs][ceil(inputs / 256)]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Factors {
    /// Of scales.
    pub scale: Vec<f32>,
    /// Of minima; empty without.
    pub min: Vec<f32>,
}

/// `real = scale * (integer - zero_point)`, per tensor or along one axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Quant {
    /// One scale, or one per index of `axis`.
    pub scale: Vec<f32>,
    /// As many zero points as scales.
    pub zero_point: Vec<i32>,
    /// The axis that the scales run along; `None` when there is one scale.
    pub axis: Option<usize>,
}

impl Quant {
    /// One scale and zero point for the whole tensor.
    pub fn per_tensor(scale: f32, zero_point: i32) -> Quant {
        Quant { scale: vec![scale], zero_point: vec![zero_point], axis: None }
    }

    /// Symmetric, one scale per index of `axis`.
    pub fn per_channel(scale: Vec<f32>, axis: usize) -> Quant {
        Quant { zero_point: vec![0; scale.len()], scale, axis: Some(axis) }
    }
}

/// One operation. Inputs that are optional and absent are `None`.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name in the source model, or derived from it.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// Operands.
    pub inputs: Vec<Option<ValueId>>,
    /// Results.
    pub outputs: Vec<ValueId>,
}

/// A clamp fused behind an operator, in real numbers. ReLU is `0..=inf`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamp {
    /// Lower bound, −∞ for none.
    pub min: f32,
    /// Upper bound, +∞ for none.
    pub max: f32,
}

impl Clamp {
    /// No clamp at all.
    pub const NONE: Clamp = Clamp { min: f32::NEG_INFINITY, max: f32::INFINITY };
    /// `max(x, 0)`.
    pub const RELU: Clamp = Clamp { min: 0.0, max: f32::INFINITY };
}

/// A convolution over NWC, NHWC or NDHWC. The vectors have one entry per spatial axis.
///
/// Inputs: x; weights `[out_c, kernel…, in_c / groups]` (OHWI); optional bias `[out_c]`; optional
/// residual of the output's shape, added before the clamp. Constant weights of at most two spatial
/// axes become packed kernels; others are computed at run time, as they are, in f32 or i32.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the standard attributes of a convolution")]
pub struct Conv {
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    pub pad_before: Vec<usize>,
    pub pad_after: Vec<usize>,
    pub groups: usize,
    pub clamp: Clamp,
    /// Quantization of the convolution's own result, before a residual is added (integers only).
    pub inner_quant: Option<Quant>,
}

/// A matrix product `[…, m, k] × […, k, n]` with broadcasting of leading axes as in NumPy.
///
/// Inputs: a; b; optional bias `[n]`; optional residual of the output's shape, added before the clamp.
/// `b` constant of rank 2 becomes a fully connected layer with packed weights.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the standard attributes of a matrix product")]
pub struct MatMul {
    pub transpose_a: bool,
    pub transpose_b: bool,
    pub clamp: Clamp,
    /// Quantization of the product's own result, before a residual is added (integers only).
    pub inner_quant: Option<Quant>,
}

/// Scaled dot-product attention; see [`Op::Attention`].
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Factor of the products.
    pub scale: f32,
    /// Scores are bent to `softcap * tanh(score / softcap)`; 0 for none.
    pub softcap: f32,
    /// With an offset, query i sees keys 0 to i + offset.
    pub causal: Option<Dim>,
    /// A query whose mask is −∞ for all keys gives zeros instead of NaN.
    pub zero_rows: bool,
}

/// Heads of a product that gives queries, keys and values at once, `[tokens, (heads + 2 · kv_heads) · size]`: all queries, then
/// all keys, then all values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "standard names")]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    /// Channels of a head.
    pub size: usize,
}

/// Positions of queries and keys; see [`Op::Rotary`].
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// What x holds.
    pub heads: Heads,
    /// Channels of a head that are rotated.
    pub rotated: usize,
    /// Pairs are neighbours, not halves.
    pub interleaved: bool,
    /// Added to the mean square of heads that are normalised.
    pub epsilon: f32,
}

/// Attention over kept keys and values; see [`Op::CachedAttention`].
#[derive(Clone, Debug, PartialEq)]
pub struct CachedAttention {
    /// What x holds.
    pub heads: Heads,
    /// Positions that a query sees, its own the last; `None`: all.
    pub window: Option<usize>,
    /// Factor of the products.
    pub scale: f32,
    /// Scores are bent to `softcap * tanh(score / softcap)`; 0 for none.
    pub softcap: f32,
}

/// Attention over kept keys and values of another sequence; see [`Op::CrossAttention`].
#[derive(Clone, Debug, PartialEq)]
pub struct CrossAttention {
    /// Those of queries, `heads`, and of keys and values, `kv_heads`.
    pub heads: Heads,
    /// Factor of the products.
    pub scale: f32,
}

/// Which pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "standard names")]
pub enum PoolKind {
    Max,
    Average,
    /// `(sum of |x|^p)^(1/p)`.
    Norm {
        p: u32,
    },
}

/// A pooling over NWC, NHWC or NDHWC. The output's shape says how far the window goes (ceil mode).
///
/// A maximum may have a second output (i64): the position of each maximum in x as if it were stored
/// channels first, −1 for a window without elements.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the standard attributes of a pooling")]
pub struct Pool {
    pub kind: PoolKind,
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    pub pad_before: Vec<usize>,
    pub pad_after: Vec<usize>,
    /// Average over padded positions, too (but never over those beyond the padding).
    pub count_include_pad: bool,
    /// Positions count the spatial axes with the first one fastest.
    pub column_major: bool,
}

/// Two-operand elementwise operations with NumPy broadcasting. Operands and result have one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "standard names")]
pub enum BinaryKind {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Min,
    Max,
    /// Sign of the divisor (Python's %).
    Mod,
    /// Sign of the dividend (C's fmod).
    Fmod,
    And,
    Or,
    Xor,
    /// `x if x > 0 else slope * x`; operands x, slope.
    PRelu,
    BitAnd,
    BitOr,
    BitXor,
    /// By the second operand; by a negative number or beyond the type's bits, 0 is left.
    ShiftLeft,
    /// The same, and the sign is shifted in.
    ShiftRight,
}

/// Comparisons with NumPy broadcasting; the result is bool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "standard names")]
pub enum CompareKind {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// One-operand elementwise operations.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "standard names; formulas in the ONNX operator reference")]
pub enum UnaryKind {
    Relu,
    /// `clamp(x, min, max)`.
    Clip {
        min: f32,
        max: f32,
    },
    LeakyRelu {
        alpha: f32,
    },
    Elu {
        alpha: f32,
    },
    Selu {
        alpha: f32,
        gamma: f32,
    },
    Celu {
        alpha: f32,
    },
    ThresholdedRelu {
        alpha: f32,
    },
    Sigmoid,
    /// `max(0, min(1, alpha * x + beta))`.
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    HardSwish,
    Silu,
    Mish,
    Gelu,
    /// The tanh approximation.
    GeluTanh,
    Softplus,
    Softsign,
    Tanh,
    Erf,
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Neg,
    Abs,
    Sign,
    Floor,
    Ceil,
    /// Ties to even.
    Round,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
    /// Logical not, on bool.
    Not,
    /// Of integers.
    BitNot,
    /// To the nearest number of a narrower floating-point type.
    RoundNarrow {
        to: NarrowFloat,
        /// The largest number instead of an infinity or a NaN.
        saturate: bool,
    },
}

/// Reductions over a set of axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "standard names")]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

/// How [`Op::Pad`] fills.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "standard names")]
pub enum PadMode {
    /// With this value (of the tensor's type, given as f32; for i8 values the raw integer).
    Constant(f32),
    Reflect,
    Edge,
    Wrap,
}

/// What [`Op::Normalize`] divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// The mean is taken away, and the rest divided by `sqrt(variance + epsilon)`.
    Layer,
    /// Divided by `sqrt(mean of squares + epsilon)`.
    Rms,
}

/// Interpolation of [`Op::Resize`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "names of the ONNX specification")]
pub enum ResizeMode {
    Nearest(NearestRounding),
    Linear,
    Cubic { coefficient: f32, exclude_outside: bool },
}

/// Which neighbour nearest interpolation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "names of the ONNX specification")]
pub enum NearestRounding {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// From an output coordinate to an input coordinate in [`Op::Resize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "names of the ONNX specification")]
pub enum CoordinateMode {
    HalfPixel,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
}

/// Which recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "standard names")]
pub enum RecurrentKind {
    Lstm,
    Gru,
    Rnn,
}

impl RecurrentKind {
    /// Gates per direction.
    pub fn gates(self) -> usize {
        match self {
            RecurrentKind::Lstm => 4,
            RecurrentKind::Gru => 3,
            RecurrentKind::Rnn => 1,
        }
    }
}

/// A recurrent layer over a sequence, in one or two directions.
///
/// Inputs: gates, which is what the layer's input contributes, `[time, batch, direction × gate ×
/// hidden]`; recurrent weights, `[direction, hidden, gate × hidden]`; optional: lengths of the
/// sequences (i32), initial state `[direction, batch, hidden]`. Then of an LSTM (gates input,
/// output, forget, cell), both optional: initial cell, peepholes `[direction, 3 × hidden]`. Of a
/// GRU (gates update, reset, candidate; the weights are those of the first two): weights of the
/// candidate `[direction, hidden, hidden]`, and an optional bias of that product.
/// Outputs: every state `[time, direction, batch, hidden]`, the last state, of an LSTM the last cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrent {
    /// Which layer.
    pub kind: RecurrentKind,
    /// One entry per direction: whether it goes from the end to the start.
    pub backwards: Vec<bool>,
    /// LSTM: forget is one minus input. GRU: the reset is applied behind the product.
    pub variant: bool,
    /// What functions are applied to lies within ± this; infinity for no bound.
    pub clip: f32,
    /// LSTM: the cell lies within ± this behind every time step; infinity for no bound.
    pub cell_clip: f32,
    /// Three per direction with their parameters, `None` for those that the layer hasn't.
    pub functions: Vec<Option<(RecurrentFunction, f32, f32)>>,
}

/// An LSTM over a sequence on i8, its cell on i16 in steps of a power of two; its arithmetic is that of the
/// runtime's operator.
///
/// Inputs: x (i8) `[batch, time, features]` or time first; weights (i8) `[4 × hidden, features]` and
/// `[4 × hidden, hidden]`, gates input, forget, cell, output; biases (i32) `[2, 4 × hidden]`; initial state (i8) and
/// cell (i16) `[batch, hidden]`; tables (i16) of sigmoid, tanh, and tanh of the cell.
/// Outputs: every state, the last state, the last cell.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedLstm {
    /// Batch before time.
    pub batch_first: bool,
    /// Steps of 2⁻¹² per product of input and weight, by gate.
    pub input_scale: [f32; 4],
    /// Steps of 2⁻¹² per product of state and weight, by gate.
    pub state_scale: [f32; 4],
    /// Steps of the state per unit of 2⁻³⁰.
    pub output_scale: f32,
    /// The cell's step is 2 to the power of this less 30.
    pub cell_shift: u32,
    /// The cell lies within ± this many steps; 0 for no bound.
    pub cell_clip: i32,
}

/// What a node does. Shapes of results stand in the output values.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// See [`Conv`].
    Conv(Conv),
    /// See [`MatMul`].
    MatMul(MatMul),
    /// See [`Pool`].
    Pool(Pool),
    /// `(x - mean) / sqrt(var + epsilon) * scale + bias` along the last axis (channels last).
    /// Inputs: x, scale, bias, mean, var; the last four constant.
    BatchNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// Inputs: a, b.
    Binary(BinaryKind),
    /// Inputs: a, b; output bool.
    Compare(CompareKind),
    /// Input: x.
    Unary(UnaryKind),
    /// Inputs: condition (bool), a, b with broadcasting.
    Where,
    /// Along one axis.
    Softmax {
        /// The axis that sums to one.
        axis: usize,
        /// Logarithm of the softmax.
        log: bool,
    },
    /// `softmax(softcap(q · kᵀ · scale) + mask) · v`. Inputs: q `[b, heads, m, d]`; k `[b, kv heads, n, d]`;
    /// v `[b, kv heads, n, e]`; optional mask, which broadcasts to `[b, heads, m, n]`. Query heads share
    /// key heads in groups.
    Attention(Attention),
    /// Rows of a table as f32, times a factor. Inputs: table `[rows, size]`, constant, f32, f16 or in groups along axis 0;
    /// ids (i32 or i64).
    Embedding {
        /// The factor.
        scale: f32,
    },
    /// Queries and keys turned by their position, normalised before if there are scales. Inputs: x; positions (i32)
    /// `[tokens]`; table `[positions, rotated]` of cosines, then sines; optional: scale of queries, scale of keys `[size]`.
    Rotary(Rotary),
    /// Attention of new tokens over all of their sequence. Inputs: x; positions (i32) `[tokens]`; kept keys and values (f16, or i8 in
    /// q8) `[sequences, kv heads, positions, size]`, which are states; in q8 the scales (f16) of keys and of values
    /// `[sequences, kv heads, positions, groups]`, states as well; optional: sequences (i32) `[tokens]`. Outputs:
    /// `[tokens, heads · size]`; what is kept with the new tokens in it, which the states become.
    CachedAttention(CachedAttention),
    /// Attention of tokens over all positions of another sequence. Inputs: x `[tokens, heads · size]`; its new keys and values
    /// `[0 or 1, positions, 2 · kv heads · size]`; kept keys and values (f16) `[1, kv heads, positions, size]`, which are states.
    /// Optional: chosen heads (i32). Outputs: `[tokens, heads · size]`; the keys and values, new if there are new ones, which the states
    /// become; with chosen heads their weights `[tokens, chosen, positions]`.
    CrossAttention(CrossAttention),
    /// `f(x[…, i]) · x[…, n + i]`, the last axis being gates, then values.
    Gated {
        /// Relu, Sigmoid, Silu, Gelu or GeluTanh.
        kind: UnaryKind,
    },
    /// Inputs: any number of tensors.
    Concat {
        /// The axis they are joined along.
        axis: usize,
    },
    /// `output[i…] = x[start + i * step…]` per axis; the extent is the output's shape.
    Slice {
        /// First index per axis.
        starts: Vec<Dim>,
        /// Step per axis, not 0; negative walks backwards.
        steps: Vec<i64>,
    },
    /// Axis `i` of the output is axis `perm[i]` of the input.
    Transpose {
        /// A permutation of the axes.
        perm: Vec<usize>,
    },
    /// The same elements in the output's shape (also Flatten, Squeeze, Unsqueeze).
    Reshape,
    /// Broadcast to the output's shape.
    Expand,
    /// Elements added per axis; the output's shape follows.
    Pad {
        /// Elements before, per axis; never negative (negative pads import as a slice).
        before: Vec<usize>,
        /// Elements after, per axis.
        after: Vec<usize>,
        /// What they hold.
        mode: PadMode,
    },
    /// Channels last; every axis with `scales[axis] != 1` is interpolated.
    Resize {
        /// Interpolation.
        mode: ResizeMode,
        /// Coordinate transformation.
        coordinates: CoordinateMode,
        /// Output size over input size, per axis, as the model states it.
        scales: Vec<f32>,
    },
    /// The trailing axes normalised, times scale, plus bias. Inputs: x; optional scale and bias, of
    /// the shape of the normalised axes.
    Normalize {
        /// By what.
        kind: NormKind,
        /// The first normalised axis.
        axis: usize,
        /// Added to the variance or mean square.
        epsilon: f32,
    },
    /// `y[…, i, …] = sum over t of weights[i, t] * x[…, indices[i, t], …]` along one axis. Inputs: x;
    /// indices (i32) and weights, both `[size of the output's axis, taps]`.
    Interpolate {
        /// The axis.
        axis: usize,
    },
    /// Inputs: data, indices (i32 or i64, negative counts from the end).
    Gather {
        /// The axis that is indexed.
        axis: usize,
    },
    /// To the output's type, as in ONNX (float to integer truncates, to bool is `!= 0`).
    Cast,
    /// The same bytes as another type of the same size, or with another [`Quant`].
    BitCast,
    /// `table[x + 128]`, an i8 for every i8.
    Lut {
        /// The results, from that of −128 on.
        table: Box<[i8; 256]>,
    },
    /// f32 to the output's integer type and [`Quant`]: `saturate(round_ties_even(x / scale) + zero_point)`.
    Quantize,
    /// The input's integer type and [`Quant`] to f32.
    Dequantize,
    /// Over several axes.
    Reduce {
        /// What is computed.
        kind: ReduceKind,
        /// Axes, ascending.
        axes: Vec<usize>,
        /// Whether they stay, with size 1.
        keep_dims: bool,
    },
    /// Index (i64) of the largest or smallest element along an axis.
    ArgReduce {
        /// The axis searched.
        axis: usize,
        /// Smallest instead of largest.
        min: bool,
        /// Whether the axis stays, with size 1.
        keep_dims: bool,
        /// The last of equal elements instead of the first.
        select_last: bool,
    },
    /// See [`Recurrent`].
    Recurrent(Recurrent),
    /// See [`QuantizedLstm`].
    QuantizedLstm(QuantizedLstm),
    /// `y[i, j, k] = data[i, index[i, j, k], k]` for axis 1. Inputs: data, indices (i32 or i64).
    GatherElements {
        /// The axis that is indexed.
        axis: usize,
    },
    /// The last axis of the indices holds tuples of indices into data. Inputs: data, indices.
    GatherNd {
        /// Leading axes that data and indices share.
        batch_axes: usize,
    },
    /// A copy of data with `y[i, index[i, j, k], k] = updates[i, j, k]` for axis 1. Inputs: data,
    /// indices, updates.
    ScatterElements {
        /// The axis that is indexed.
        axis: usize,
        /// How an update meets what is there.
        reduction: ScatterReduction,
    },
    /// The same with tuples of indices in the last axis of the indices. Inputs: data, indices, updates.
    ScatterNd {
        /// How an update meets what is there.
        reduction: ScatterReduction,
    },
    /// The first elements along an axis in order of size; ties go by index. Outputs: values,
    /// indices (i64). How many there are is the outputs' size.
    TopK {
        /// The axis searched.
        axis: usize,
        /// Smallest instead of largest.
        smallest: bool,
    },
    /// Running sums or products along an axis.
    Cumulative {
        /// The axis walked.
        axis: usize,
        /// Products instead of sums.
        product: bool,
        /// An element's result doesn't contain it.
        exclusive: bool,
        /// From the end.
        reverse: bool,
    },
    /// See [`GridSample`]. Inputs: x `[n, c, space…]`, grid `[n, places…, axes]`.
    GridSample(GridSample),
    /// See [`RoiAlign`]. Inputs: x `[n, c, h, w]`, regions `[r, 4]`, images `[r]` (i32 or i64).
    RoiAlign(RoiAlign),
    /// See [`NonMaxSuppression`]. Inputs: boxes `[b, n, 4]`, scores `[b, c, n]`. Output (i64): rows of
    /// batch, class, box; −1 in those that aren't needed.
    NonMaxSuppression(NonMaxSuppression),
    /// The beginning of each sequence reversed. Inputs: x, whose first two axes are time and batch in
    /// either order; lengths (i32 or i64).
    ReverseSequence {
        /// The axis of time, 0 or 1.
        time_axis: usize,
    },
}

/// How a scattered update meets what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "standard names")]
pub enum ScatterReduction {
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

/// Interpolation of [`GridSample`] between pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "standard names")]
pub enum SampleMode {
    Nearest,
    Linear,
    Cubic,
}

/// What [`GridSample`] meets beyond the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "standard names")]
pub enum SamplePadding {
    Zeros,
    Border,
    Reflection,
}

/// Sampling at places that a second tensor names, channels first.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the standard attributes of a grid sample")]
pub struct GridSample {
    pub mode: SampleMode,
    pub padding: SamplePadding,
    pub align_corners: bool,
}

/// Regions of a feature map resampled to the output's size, channels first.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the standard attributes of a RoI align")]
pub struct RoiAlign {
    pub max: bool,
    pub half_pixel: bool,
    /// Samples per bin and axis; 0 for one per pixel.
    pub sampling_ratio: u32,
    pub spatial_scale: f32,
}

/// The best boxes of each class that don't overlap.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the standard attributes of a non-maximum suppression")]
pub struct NonMaxSuppression {
    pub most_per_class: u32,
    pub iou_threshold: f32,
    /// `None`: every score will do.
    pub score_threshold: Option<f32>,
    pub center_point_box: bool,
}

/// A tensor that lives from one run to the next: the memory of a delay line, a recurrent cell, a
/// resource variable.
#[derive(Clone, Debug)]
pub struct State {
    /// Name in the source model.
    pub name: String,
    /// Its content at the start of a run. No node makes it.
    pub read: ValueId,
    /// Its content at the end of a run, of the same type, shape and quantization; `read` itself when it
    /// never changes.
    pub next: ValueId,
    /// Its content before the first run and after a reset; zero bytes without.
    pub initial: Option<Arc<Tensor>>,
}

/// A model: values, nodes in an order in which they can run, inputs and outputs.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Name of the source model.
    pub name: String,
    /// Every value, referred to by [`ValueId`].
    pub values: Vec<Value>,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// What the caller provides, in order.
    pub inputs: Vec<ValueId>,
    /// What the caller reads, in order.
    pub outputs: Vec<ValueId>,
    /// What lives across runs.
    pub states: Vec<State>,
    /// Symbols of symbolic dimensions.
    pub symbols: Vec<Symbol>,
    /// Metadata of the source (producer, opset, licence, …) as key and value.
    pub metadata: Vec<(String, String)>,
}

impl Graph {
    /// Whether the model was imported from TFLite.
    pub fn is_of_tflite(&self) -> bool {
        self.metadata.iter().any(|(key, value)| key == "source.format" && value == "tflite")
    }

    /// The value with this id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The value with this id.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0 as usize]
    }

    /// Adds a value that a node or the caller will fill.
    pub fn add_value(&mut self, name: impl Into<String>, dtype: DType, shape: Vec<Dim>) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).expect("fewer than 2^32 values"));
        self.values.push(Value {
            name: name.into(),
            dtype,
            shape,
            constant: None,
            quant: None,
            groups: None,
        });
        id
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        let shape = tensor.shape.iter().map(|d| Dim::from(*d)).collect();
        let id = self.add_value(name, tensor.dtype, shape);
        self.value_mut(id).constant = Some(Arc::new(tensor));
        id
    }

    /// The constant behind an input of a node, if it is one.
    pub fn constant(&self, id: ValueId) -> Option<&Arc<Tensor>> {
        self.value(id).constant.as_ref()
    }

    /// Index of the node that makes each value.
    pub fn producers(&self) -> Vec<Option<usize>> {
        let mut producers = vec![None; self.values.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for output in &node.outputs {
                producers[output.0 as usize] = Some(index);
            }
        }
        producers
    }

    /// Indices of the nodes that read each value, once per operand. Being a result isn't counted.
    pub fn consumers(&self) -> Vec<Vec<usize>> {
        let mut consumers = vec![Vec::new(); self.values.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for input in node.inputs.iter().flatten() {
                consumers[input.0 as usize].push(index);
            }
        }
        consumers
    }

    /// What no node makes and isn't constant: inputs, and states at the start of a run.
    pub fn sources(&self) -> impl Iterator<Item = ValueId> {
        self.inputs.iter().copied().chain(self.states.iter().map(|state| state.read))
    }

    /// What must be there when a run ends: outputs, and what states become.
    pub fn results(&self) -> impl Iterator<Item = ValueId> {
        self.outputs.iter().copied().chain(self.states.iter().map(|state| state.next))
    }

    /// Whether a value is an input, or a state at the start of a run.
    pub fn is_source(&self, id: ValueId) -> bool {
        self.sources().any(|source| source == id)
    }

    /// Whether a value is an output, or what a state becomes.
    pub fn is_result(&self, id: ValueId) -> bool {
        self.results().any(|result| result == id)
    }

    /// Makes every reader of `from`, the graph's outputs and its states read `to` instead.
    pub fn replace_uses(&mut self, from: ValueId, to: ValueId) {
        for node in &mut self.nodes {
            for input in node.inputs.iter_mut().flatten() {
                if *input == from {
                    *input = to;
                }
            }
        }
        self.replace_results(from, to);
    }

    /// Makes outputs and states that are `from` be `to` instead.
    pub(crate) fn replace_results(&mut self, from: ValueId, to: ValueId) {
        let nexts = self.states.iter_mut().map(|state| &mut state.next);
        for id in self.outputs.iter_mut().chain(nexts).filter(|id| **id == from) {
            *id = to;
        }
    }

    /// A shape as text: `1×49×10×1`, `batch×seq`.
    pub fn shape_text(&self, shape: &[Dim]) -> String {
        if shape.is_empty() {
            return "scalar".to_owned();
        }
        shape.iter().map(|d| d.display(&self.symbols)).collect::<Vec<_>>().join("×")
    }
}

impl Value {
    /// The shape, when every dimension is a known non-negative constant.
    pub fn const_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(|d| d.as_const().and_then(|d| usize::try_from(d).ok())).collect()
    }
}

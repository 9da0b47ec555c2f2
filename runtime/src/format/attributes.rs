//! Attribute records: what an operator needs to know besides its tensors' types and shapes.

use super::{MAX_RANK, record};

record! {
    /// [`Op::Conv2d`](super::Op), [`Op::DepthwiseConv2d`](super::Op), [`Op::FullyConnected`](super::Op).
    ///
    /// Inputs, i8: x, packed weights, bias (i32), scales (f32), weight sums (i32), residual (optional).
    /// Inputs, f32: x, packed weights (f32 or f16), bias (f32), residual (optional).
    pub struct ConvAttributes: 72 {
        /// Height, width. A fully connected layer has 1, 1.
        pub kernel: [u16; 2],
        /// Vertical, horizontal.
        pub stride: [u16; 2],
        /// Vertical, horizontal.
        pub dilation: [u16; 2],
        /// Top, left; what is needed below and on the right follows from the output's shape.
        pub pad: [u16; 2],
        /// Groups; equal to the channels for depthwise.
        pub groups: u32,
        /// f32: fused clamp.
        pub clamp: [f32; 2],
        /// i8: clamp of the convolution's own result.
        pub clamp_q: [i32; 2],
        /// i8: zero point of the convolution's own result (the output's, unless a residual follows).
        pub zero_point: i32,
        /// i8 residual: scale of the convolution's result, and of the residual, over the sum's.
        pub residual_scale: [f32; 2],
        /// i8 residual: clamp of the sum.
        pub residual_clamp_q: [i32; 2],
        /// f32: number of the [`UnaryOp`] behind the clamp, one of [`UnaryOp::FUSED`]; 0 for none.
        pub activation: u32,
        /// f32: what the activation's result is multiplied by, and what is added then.
        pub activation_affine: [f32; 2],
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::MatMul`](super::Op): `[…, m, k] × […, k, n]`. Inputs: a, b.
    pub struct MatMulAttributes: 16 {
        /// 1: a is stored `[…, k, m]`.
        pub transpose_a: u32,
        /// 1: b is stored `[…, n, k]`.
        pub transpose_b: u32,
        /// Zero.
        pub reserved: [u32; 2],
    }
}

record! {
    /// [`Op::Pool2d`](super::Op) over NHWC. Input: x.
    pub struct PoolAttributes: 40 {
        /// 1 maximum, 2 average.
        pub kind: u32,
        /// Height, width.
        pub kernel: [u16; 2],
        /// Vertical, horizontal.
        pub stride: [u16; 2],
        /// Vertical, horizontal.
        pub dilation: [u16; 2],
        /// Top, left.
        pub pad: [u16; 2],
        /// Bottom, right: where padding that `count_include_pad` counts ends.
        pub pad_after: [u16; 2],
        /// 1: the average counts padded positions.
        pub count_include_pad: u32,
        /// i8: input scale over output scale.
        pub scale: f32,
        /// i8: clamp of the result.
        pub clamp_q: [i32; 2],
    }
}

record! {
    /// [`Op::Binary`](super::Op) and [`Op::Compare`](super::Op). Inputs: a, b.
    pub struct BinaryAttributes: 32 {
        /// A [`BinaryOp`] or [`CompareOp`] number.
        pub kind: u32,
        /// i8: scale of a over the output's (add, sub), or both scales' product over it (mul, first).
        pub scale: [f32; 2],
        /// f32: clamp of the result.
        pub clamp: [f32; 2],
        /// i8: clamp of the result.
        pub clamp_q: [i32; 2],
        /// Zero.
        pub reserved: u32,
    }
}

macro_rules! numbered {
    ($(#[$meta:meta])* $Name:ident { $($Variant:ident = $number:literal $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "standard names")]
        pub enum $Name { $($Variant = $number,)* }

        impl $Name {
            /// Every value.
            pub const ALL: &'static [$Name] = &[$($Name::$Variant),*];

            /// The value with this number.
            pub fn from_number(number: u32) -> Option<$Name> {
                match number { $($number => Some($Name::$Variant),)* _ => None }
            }

            /// The name that `inspect` prints.
            pub const fn name(self) -> &'static str {
                match self { $($Name::$Variant => $text,)* }
            }
        }
    };
}

numbered! {
    /// Two-operand elementwise operations.
    BinaryOp {
        Add = 1 "add",
        Sub = 2 "sub",
        Mul = 3 "mul",
        Div = 4 "div",
        Pow = 5 "pow",
        Min = 6 "min",
        Max = 7 "max",
        Mod = 8 "mod",
        Fmod = 9 "fmod",
        And = 10 "and",
        Or = 11 "or",
        Xor = 12 "xor",
        PRelu = 13 "prelu",
        BitAnd = 14 "bit_and",
        BitOr = 15 "bit_or",
        BitXor = 16 "bit_xor",
        ShiftLeft = 17 "shift_left",
        ShiftRight = 18 "shift_right",
    }
}

numbered! {
    /// Comparisons.
    CompareOp {
        Equal = 1 "equal",
        Less = 2 "less",
        LessOrEqual = 3 "less_or_equal",
        Greater = 4 "greater",
        GreaterOrEqual = 5 "greater_or_equal",
    }
}

numbered! {
    /// One-operand elementwise operations. `alpha` and `beta` of [`UnaryAttributes`] in brackets.
    UnaryOp {
        Relu = 1 "relu",
        // [min, max]
        Clip = 2 "clip",
        LeakyRelu = 3 "leaky_relu",
        Elu = 4 "elu",
        Selu = 5 "selu",
        Celu = 6 "celu",
        ThresholdedRelu = 7 "thresholded_relu",
        Sigmoid = 8 "sigmoid",
        HardSigmoid = 9 "hard_sigmoid",
        HardSwish = 10 "hard_swish",
        Silu = 11 "silu",
        Mish = 12 "mish",
        Gelu = 13 "gelu",
        GeluTanh = 14 "gelu_tanh",
        Softplus = 15 "softplus",
        Softsign = 16 "softsign",
        Tanh = 17 "tanh",
        Erf = 18 "erf",
        Exp = 19 "exp",
        Log = 20 "log",
        Sqrt = 21 "sqrt",
        Reciprocal = 22 "reciprocal",
        Neg = 23 "neg",
        Abs = 24 "abs",
        Sign = 25 "sign",
        Floor = 26 "floor",
        Ceil = 27 "ceil",
        Round = 28 "round",
        Sin = 29 "sin",
        Cos = 30 "cos",
        Tan = 31 "tan",
        Asin = 32 "asin",
        Acos = 33 "acos",
        Atan = 34 "atan",
        Sinh = 35 "sinh",
        Cosh = 36 "cosh",
        Asinh = 37 "asinh",
        Acosh = 38 "acosh",
        Atanh = 39 "atanh",
        Not = 40 "not",
        BitNot = 41 "bit_not",
        // [number of a NarrowFloat, 1 to saturate]
        RoundNarrow = 42 "round_narrow",
    }
}

impl UnaryOp {
    /// Those that a float layer can have behind its clamp: [`ConvAttributes::activation`].
    pub const FUSED: [UnaryOp; 8] = [
        UnaryOp::Sigmoid,
        UnaryOp::HardSwish,
        UnaryOp::Silu,
        UnaryOp::Gelu,
        UnaryOp::GeluTanh,
        UnaryOp::Tanh,
        UnaryOp::Erf,
        UnaryOp::Exp,
    ];
}

numbered! {
    /// Floating-point types narrower than f16, to whose values `round_narrow` rounds.
    NarrowFloat {
        E4M3Fn = 1 "e4m3fn",
        E4M3FnUz = 2 "e4m3fnuz",
        E5M2 = 3 "e5m2",
        E5M2FnUz = 4 "e5m2fnuz",
        E2M1 = 5 "e2m1",
    }
}

record! {
    /// [`Op::Unary`](super::Op). Input: x.
    pub struct UnaryAttributes: 16 {
        /// A [`UnaryOp`] number.
        pub kind: u32,
        /// First parameter: alpha, or the minimum of a clip.
        pub alpha: f32,
        /// Second parameter: beta or gamma, or the maximum of a clip.
        pub beta: f32,
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::Softmax`](super::Op). Inputs: x; i8 only: a table of 256 i32, entry `d` the fixed-point
    /// exponential of `-d` input steps.
    pub struct SoftmaxAttributes: 16 {
        /// The axis that sums to one.
        pub axis: u32,
        /// 1: the logarithm (f32 only).
        pub log: u32,
        /// i8: one over the output's scale.
        pub inverse_output_scale: f32,
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::Concat`](super::Op) (any number of inputs) and [`Op::Gather`](super::Op) (data, indices).
    pub struct AxisAttributes: 8 {
        /// The axis.
        pub axis: u32,
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::Slice`](super::Op). Input: x. The extent is the output's shape.
    pub struct SliceAttributes: 64 {
        /// First index per axis: dimension references.
        pub starts: [i32; MAX_RANK],
        /// Step per axis, not 0.
        pub steps: [i32; MAX_RANK],
    }
}

record! {
    /// [`Op::Transpose`](super::Op). Input: x. Axis `i` of the output is axis `perm[i]` of the input.
    pub struct TransposeAttributes: 8 {
        /// A permutation of the axes.
        pub perm: [u8; MAX_RANK],
    }
}

record! {
    /// [`Op::Pad`](super::Op). Input: x.
    pub struct PadAttributes: 48 {
        /// Elements before, per axis.
        pub before: [u32; MAX_RANK],
        /// 1 constant, 2 reflect, 3 edge, 4 wrap.
        pub mode: u32,
        /// The constant as bytes of one element, little-endian, in the low bytes of these two.
        pub value: [u32; 2],
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::Resize`](super::Op) over any axes. Input: x.
    pub struct ResizeAttributes: 56 {
        /// 1 nearest, 2 linear, 3 cubic.
        pub mode: u32,
        /// 1 half pixel, 2 half pixel of PyTorch, 3 align corners, 4 asymmetric.
        pub coordinates: u32,
        /// Nearest: 1 round prefer floor, 2 round prefer ceil, 3 floor, 4 ceil.
        pub rounding: u32,
        /// Cubic: the coefficient a.
        pub cubic_coefficient: f32,
        /// Cubic: 1 when weights outside are dropped and the rest renormalised.
        pub exclude_outside: u32,
        /// Output size over input size, per axis, as the model states it.
        pub scales: [f32; MAX_RANK],
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::Quantize`](super::Op) (f32 → i8) and [`Op::Dequantize`](super::Op) (i8 → f32). Inputs: x;
    /// for one scale per channel: scales (f32), zero points (i32).
    pub struct QuantizeAttributes: 8 {
        /// The axis that the scales run along, when they are given.
        pub axis: u32,
        /// Zero.
        pub reserved: u32,
    }
}

numbered! {
    /// Reductions.
    ReduceOp {
        Sum = 1 "sum",
        Mean = 2 "mean",
        Max = 3 "max",
        Min = 4 "min",
        Prod = 5 "prod",
        L1 = 6 "l1",
        L2 = 7 "l2",
        SumSquare = 8 "sum_square",
        LogSum = 9 "log_sum",
        LogSumExp = 10 "log_sum_exp",
    }
}

record! {
    /// [`Op::Reduce`](super::Op). Input: x. Axes that don't stay are dropped from the output's shape.
    pub struct ReduceAttributes: 24 {
        /// A [`ReduceOp`] number.
        pub kind: u32,
        /// One bit per axis of the input.
        pub axes: u32,
        /// i8 mean: input scale over output scale.
        pub scale: f32,
        /// i8: clamp of the result.
        pub clamp_q: [i32; 2],
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::ArgReduce`](super::Op). Input: x; output: i64.
    pub struct ArgReduceAttributes: 16 {
        /// The axis searched.
        pub axis: u32,
        /// 1: smallest instead of largest.
        pub min: u32,
        /// 1: the last of equal elements instead of the first.
        pub select_last: u32,
        /// Zero.
        pub reserved: u32,
    }
}

numbered! {
    /// Functions of recurrent operators. `alpha` and `beta` of [`RecurrentAttributes`].
    RecurrentFunction {
        Sigmoid = 1 "sigmoid",
        Tanh = 2 "tanh",
        Relu = 3 "relu",
        // alpha * x + beta
        Affine = 4 "affine",
        LeakyRelu = 5 "leaky_relu",
        ThresholdedRelu = 6 "thresholded_relu",
        // alpha * tanh(beta * x)
        ScaledTanh = 7 "scaled_tanh",
        HardSigmoid = 8 "hard_sigmoid",
        Elu = 9 "elu",
        Softsign = 10 "softsign",
        Softplus = 11 "softplus",
    }
}

record! {
    /// [`Op::QuantizedLstm`](super::Op). Gates in the order input, forget, cell, output.
    pub struct QuantizedLstmAttributes: 64 {
        /// 1: the batch is the first axis, time the second.
        pub batch_first: u32,
        /// Steps of 2⁻¹² per product of input and weight, by gate.
        pub input_scale: [f32; 4],
        /// Steps of 2⁻¹² per product of state and weight, by gate.
        pub state_scale: [f32; 4],
        /// Steps of the result per product of the output gate and the cell's tanh, in units of 2⁻³⁰.
        pub output_scale: f32,
        /// The cell counts in steps of 2 to the power of this less 30.
        pub cell_shift: u32,
        /// The cell lies within ± this many steps; 0 for no bound of its own.
        pub cell_clip: i32,
        /// Zero.
        pub reserved: [u32; 4],
    }
}

record! {
    /// [`Op::Lstm`](super::Op), [`Op::Gru`](super::Op), [`Op::Rnn`](super::Op).
    ///
    /// Inputs: gates, recurrent weights, lengths, initial state, and what is the operator's own.
    /// Outputs, any of which may be absent: every state, the last state, the last cell (lstm).
    pub struct RecurrentAttributes: 96 {
        /// 1, or 2 for one direction after the other.
        pub directions: u32,
        /// Bit d: direction d goes from the end to the start.
        pub backwards: u32,
        /// lstm, 1: forget is one minus input. gru, 1: the reset is applied behind the product.
        pub variant: u32,
        /// What functions are applied to lies within ± this; infinity for no bound.
        pub clip: f32,
        /// [`RecurrentFunction`] numbers, three per direction; 0 for those that the operator hasn't.
        pub functions: [u32; 6],
        /// First parameter of each.
        pub alpha: [f32; 6],
        /// Second parameter of each.
        pub beta: [f32; 6],
        /// lstm: the cell lies within ± this behind every time step; 0 for no bound.
        pub cell_clip: f32,
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::GatherNd`](super::Op). Inputs: data, indices `[…, tuple]` (i32 or i64).
    pub struct GatherNdAttributes: 8 {
        /// Leading axes that data and indices share.
        pub batch_axes: u32,
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::ScatterElements`](super::Op) and [`Op::ScatterNd`](super::Op). Inputs: data, indices (i32
    /// or i64), updates.
    pub struct ScatterAttributes: 8 {
        /// ScatterElements: the axis; ScatterNd: zero.
        pub axis: u32,
        /// 0 replace, 1 add, 2 multiply, 3 maximum, 4 minimum.
        pub reduction: u32,
    }
}

record! {
    /// [`Op::TopK`](super::Op). Input: x; outputs: values, indices (i64), either of which may be absent.
    pub struct TopKAttributes: 16 {
        /// The axis searched; how many are kept is the outputs' size along it.
        pub axis: u32,
        /// 1: smallest instead of largest.
        pub smallest: u32,
        /// Zero.
        pub reserved: [u32; 2],
    }
}

record! {
    /// [`Op::Cumulative`](super::Op). Input: x.
    pub struct CumulativeAttributes: 16 {
        /// The axis walked.
        pub axis: u32,
        /// 1 sum, 2 product.
        pub kind: u32,
        /// 1: an element's result doesn't contain it.
        pub exclusive: u32,
        /// 1: from the end.
        pub reverse: u32,
    }
}

record! {
    /// [`Op::GridSample`](super::Op). Inputs: x `[n, c, space…]`, grid `[n, places…, axes]`.
    pub struct GridSampleAttributes: 16 {
        /// 1 nearest, 2 linear, 3 cubic.
        pub mode: u32,
        /// 1 zeros, 2 border, 3 reflection.
        pub padding: u32,
        /// 1: −1 and 1 are the centres of the outer pixels instead of their outer edges.
        pub align_corners: u32,
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::RoiAlign`](super::Op). Inputs: x `[n, c, h, w]`, regions `[r, 4]`, images `[r]`.
    pub struct RoiAlignAttributes: 24 {
        /// 1 average, 2 maximum.
        pub mode: u32,
        /// Samples per bin and axis; 0: one per pixel.
        pub sampling_ratio: u32,
        /// From the regions' coordinates to pixels.
        pub spatial_scale: f32,
        /// 1: pixels have their centres at halves, and regions may be smaller than one.
        pub half_pixel: u32,
        /// Zero.
        pub reserved: [u32; 2],
    }
}

record! {
    /// [`Op::NonMaxSuppression`](super::Op). Inputs: boxes `[b, n, 4]`, scores `[b, c, n]`.
    pub struct NonMaxSuppressionAttributes: 24 {
        /// Boxes kept per batch and class.
        pub most_per_class: u32,
        /// Intersection over union above which the box with the lower score goes.
        pub iou_threshold: f32,
        /// Scores must be above it.
        pub score_threshold: f32,
        /// 0: every score will do.
        pub has_score_threshold: u32,
        /// 1: boxes are x, y of the centre, width, height; 0: y, x of two opposite corners.
        pub center_point_box: u32,
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::Attention`](super::Op). Inputs: q `[batch, heads, queries, size]`, k `[batch, kv heads, keys,
    /// size]`, v `[batch, kv heads, keys, value size]`; mask (optional), added to the scores `[batch,
    /// heads, queries, keys]`, which it broadcasts to.
    pub struct AttentionAttributes: 24 {
        /// Factor of the products; in i8 of products of integers.
        pub scale: f32,
        /// Scores are bent to `softcap * tanh(score / softcap)`; 0 for none.
        pub softcap: f32,
        /// 1: query i sees keys 0 to i + offset.
        pub causal: u32,
        /// A dimension reference.
        pub offset: i32,
        /// 1: a query whose mask is −∞ for all keys gives zeros, not NaN.
        pub zero_rows: u32,
        /// In i8: the scale of values over that of the output. Else zero.
        pub output_scale: f32,
    }
}

record! {
    /// [`Op::Embedding`](super::Op). Inputs: table `[rows, size]` (constant), ids. Output: the ids' shape, and `size`.
    pub struct EmbeddingAttributes: 8 {
        /// Factor of every element.
        pub scale: f32,
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::Rotary`](super::Op). Inputs: x `[tokens, (heads + 2 · kv_heads) · size]`, positions `[tokens]`, table
    /// `[positions, rotated]` of cosines, then sines; scale of queries and scale of keys (both optional) `[size]`.
    pub struct RotaryAttributes: 32 {
        /// Heads of queries.
        pub heads: u32,
        /// Heads of keys, and of values.
        pub kv_heads: u32,
        /// Channels of a head.
        pub size: u32,
        /// How many of them are rotated, an even number.
        pub rotated: u32,
        /// 1: pairs are neighbours; 0: channel i and channel i + rotated / 2.
        pub interleaved: u32,
        /// Added to the mean square of a head that is normalised.
        pub epsilon: f32,
        /// Zero.
        pub reserved: [u32; 2],
    }
}

/// Numbers of a row of keys or values that share a scale in q8, as in GGUF's Q8_0. Channels of keys differ in size by far: one scale for
/// a head of 64 would save 3 % of the bytes, and its KL divergence from f16 (SmolLM2-135M) is 0.0011, not 0.0007.
pub const Q8_GROUP: usize = 32;

record! {
    /// [`Op::CachedAttention`](super::Op). Inputs: x `[tokens, (heads + 2 · kv_heads) · size]`, positions `[tokens]`, sequences
    /// `[tokens]` (optional). Outputs: y `[tokens, heads · size]`, keys and values `[sequences, kv_heads, positions, size]`, in q8
    /// also scales of keys and of values `[sequences, kv_heads, positions, size / Q8_GROUP]`, rounded up.
    pub struct CachedAttentionAttributes: 32 {
        /// Heads of queries.
        pub heads: u32,
        /// Heads of keys and values; a divisor of `heads`.
        pub kv_heads: u32,
        /// Channels of a head.
        pub size: u32,
        /// Positions that a query sees, its own the last; 0: all.
        pub window: u32,
        /// Factor of the products.
        pub scale: f32,
        /// Scores are bent to `softcap * tanh(score / softcap)`; 0 for none.
        pub softcap: f32,
        /// Zero.
        pub reserved: [u32; 2],
    }
}

record! {
    /// [`Op::CrossAttention`](super::Op). Inputs: x `[tokens, heads · size]`, new keys and values
    /// `[0 or 1, positions, 2 · kv_heads · size]`. Outputs: y `[tokens, heads · size]`, keys and values `[1, kv_heads, positions, size]`.
    pub struct CrossAttentionAttributes: 16 {
        /// Heads of queries.
        pub heads: u32,
        /// Heads of keys and values; a divisor of `heads`.
        pub kv_heads: u32,
        /// Channels of a head.
        pub size: u32,
        /// Factor of the products.
        pub scale: f32,
    }
}

record! {
    /// [`Op::Gated`](super::Op). Input: x `[…, 2n]`; output `[…, n]`.
    pub struct GatedAttributes: 8 {
        /// A [`UnaryOp`] number: relu, sigmoid, silu, gelu or gelu_tanh.
        pub kind: u32,
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::ConvNd`](super::Op) over NWC, NHWC or NDHWC. Inputs: x, weights
    /// `[out_c, kernel…, in_c / groups]`, bias `[out_c]` (optional). Entries beyond the spatial axes
    /// are zero.
    pub struct ConvNdAttributes: 56 {
        /// Step of the window per spatial axis.
        pub stride: [u32; 3],
        /// Distance of the kernel's elements per spatial axis.
        pub dilation: [u32; 3],
        /// Padding before; what is needed behind follows from the output's shape.
        pub pad: [u32; 3],
        /// Groups.
        pub groups: u32,
        /// f32: bounds of the result.
        pub clamp: [f32; 2],
        /// Zero.
        pub reserved: [u32; 2],
    }
}

record! {
    /// [`Op::PoolNd`](super::Op) over NWC, NHWC or NDHWC. Input: x; outputs: y, and for a maximum its
    /// position (i64, optional). Entries beyond the spatial axes are zero.
    pub struct PoolNdAttributes: 80 {
        /// 1 maximum, 2 average, 3 norm.
        pub kind: u32,
        /// Size of the window per spatial axis.
        pub kernel: [u32; 3],
        /// Step of the window.
        pub stride: [u32; 3],
        /// Distance of the window's elements.
        pub dilation: [u32; 3],
        /// Padding before.
        pub pad: [u32; 3],
        /// Padding behind: where padding that `count_include_pad` counts ends.
        pub pad_after: [u32; 3],
        /// 1: the average counts padded positions.
        pub count_include_pad: u32,
        /// Order of the norm, at least 1.
        pub p: f32,
        /// Positions count the spatial axes 0: with the last one fastest, 1: with the first one.
        pub column_major: u32,
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// [`Op::Normalize`](super::Op). Inputs: x, scale, bias (both optional, of the shape of the
    /// normalised axes).
    pub struct NormalizeAttributes: 16 {
        /// 1 mean and variance, 2 root mean square.
        pub kind: u32,
        /// The first normalised axis; all behind it are normalised, too.
        pub axis: u32,
        /// Added to the variance or mean square.
        pub epsilon: f32,
        /// Zero.
        pub reserved: u32,
    }
}

//! The operators of a program, by number.

use core::fmt;

macro_rules! ops {
    ($( $(#[$meta:meta])* $Name:ident = $number:literal, $text:literal; )*) => {
        /// What a step does. The numbers are part of the file format and never change meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Op {
            $( $(#[$meta])* $Name = $number, )*
        }

        impl Op {
            /// Every operator of this version.
            pub const ALL: &'static [Op] = &[$(Op::$Name),*];

            /// The name that `inspect` prints.
            pub const fn name(self) -> &'static str {
                match self { $(Op::$Name => $text,)* }
            }

            /// The operator with this number.
            pub fn from_number(number: u16) -> Option<Op> {
                match number { $($number => Some(Op::$Name),)* _ => None }
            }
        }
    };
}

ops! {
    /// Convolution over NHWC with packed weights.
    Conv2d = 1, "conv_2d";
    /// Convolution where each channel has its own filter.
    DepthwiseConv2d = 2, "depthwise_conv_2d";
    /// Matrix product with packed, constant weights.
    FullyConnected = 3, "fully_connected";
    /// Matrix product of two activations.
    MatMul = 4, "matmul";
    /// Maximum or average over windows.
    Pool2d = 5, "pool_2d";
    /// Two operands, elementwise, broadcasting.
    Binary = 6, "binary";
    /// Two operands compared, broadcasting; bool result.
    Compare = 7, "compare";
    /// One operand, elementwise.
    Unary = 8, "unary";
    /// A 256-entry table over i8.
    Lut = 9, "lut";
    /// `condition ? a : b`, broadcasting.
    Where = 10, "where";
    /// Softmax or its logarithm along one axis.
    Softmax = 11, "softmax";
    /// Join along an axis.
    Concat = 12, "concat";
    /// A strided part.
    Slice = 13, "slice";
    /// Axes permuted.
    Transpose = 14, "transpose";
    /// The same bytes elsewhere (a reshape that could not be elided).
    Copy = 15, "copy";
    /// Broadcast to a larger shape.
    Expand = 16, "expand";
    /// Elements added around.
    Pad = 17, "pad";
    /// Interpolation to another size.
    Resize = 18, "resize";
    /// Indexing along an axis.
    Gather = 19, "gather";
    /// Change of element type.
    Cast = 20, "cast";
    /// f32 to quantized i8.
    Quantize = 21, "quantize";
    /// Quantized i8 to f32.
    Dequantize = 22, "dequantize";
    /// Sum, mean, maximum, … over axes.
    Reduce = 23, "reduce";
    /// Index of the extreme along an axis.
    ArgReduce = 24, "arg_reduce";
    /// Convolution with dense weights, which may be computed, over up to three spatial axes.
    ConvNd = 36, "conv_nd";
    /// Maximum, average or norm over windows of up to three spatial axes.
    PoolNd = 37, "pool_nd";
    /// Mean and variance, or root mean square, of the trailing axes normalised.
    Normalize = 38, "normalize";
    /// Weighted sums of taps along one axis.
    Interpolate = 39, "interpolate";
    /// Long short-term memory over a sequence.
    Lstm = 41, "lstm";
    /// Gated recurrent unit over a sequence.
    Gru = 42, "gru";
    /// Plain recurrent layer over a sequence.
    Rnn = 43, "rnn";
    /// Indexing element by element along an axis.
    GatherElements = 25, "gather_elements";
    /// Indexing by tuples of indices.
    GatherNd = 26, "gather_nd";
    /// Updates written or combined element by element along an axis.
    ScatterElements = 27, "scatter_elements";
    /// Updates written or combined where tuples of indices say.
    ScatterNd = 28, "scatter_nd";
    /// The largest or smallest elements along an axis, and their indices.
    TopK = 29, "top_k";
    /// Running sums or products along an axis.
    Cumulative = 30, "cumulative";
    /// Sampling at given places.
    GridSample = 31, "grid_sample";
    /// Regions of a feature map, resampled to one size.
    RoiAlign = 32, "roi_align";
    /// The best boxes that don't overlap.
    NonMaxSuppression = 33, "non_max_suppression";
    /// The beginning of each sequence reversed.
    ReverseSequence = 34, "reverse_sequence";
    /// Scaled dot-product attention.
    Attention = 47, "attention";
    /// Long short-term memory on i8, its cell on i16.
    QuantizedLstm = 48, "quantized_lstm";
    /// Rows of a constant table, packed or not, as floats.
    Embedding = 49, "embedding";
    /// Rotary positions of queries and keys, with their normalisation.
    Rotary = 50, "rotary";
    /// Attention over keys and values that are kept from run to run.
    CachedAttention = 51, "cached_attention";
    /// One half of the last axis times a function of the other.
    Gated = 52, "gated";
    /// Attention over another sequence, whose keys and values are kept from run to run.
    CrossAttention = 53, "cross_attention";
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of operators, one bit per number; operator numbers stay below 128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpBits(pub [u64; 2]);

impl OpBits {
    /// Adds an operator.
    pub const fn insert(&mut self, op: Op) {
        let number = op as usize;
        self.0[number / 64] |= 1 << (number % 64);
    }

    /// Takes an operator out.
    pub const fn remove(&mut self, op: Op) {
        let number = op as usize;
        self.0[number / 64] &= !(1 << (number % 64));
    }

    /// The set of one number, which needn't be an operator of this version.
    pub(crate) const fn of_number(number: u16) -> OpBits {
        let mut bits = OpBits([0; 2]);
        bits.0[number as usize / 64 % 2] |= 1 << (number % 64);
        bits
    }

    /// Whether the operator is in the set.
    pub const fn contains(&self, op: Op) -> bool {
        let number = op as usize;
        self.0[number / 64] >> (number % 64) & 1 == 1
    }

    /// True when no operator is in the set.
    pub const fn is_empty(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0
    }

    /// The operators of the set, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Op> + '_ {
        Op::ALL.iter().copied().filter(|op| self.contains(*op))
    }
}

impl fmt::Display for OpBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, op) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            f.write_str(op.name())?;
        }
        Ok(())
    }
}

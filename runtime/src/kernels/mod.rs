//! Kernels: the arithmetic of the operators, over plain slices, one folder per family.
//!
//! A family has `scalar.rs`, which reads like the formula and defines the result, and siblings for
//! instruction sets (`x86_64.rs`, …) that must agree with it: to the bit for integers, within the
//! family's stated tolerance for floats. `select(isa)` hands out the entry for an instruction set.
//! A kernel knows nothing of files, steps or arenas.

/// The entry for an instruction set of a function in plain Rust, which has to be `#[inline(always)]`: compiled again with
/// registers of 256 and of 512 bits for x86-64 CPUs that have them. To the bit the same results, for the compiler neither
/// reorders nor contracts floats.
macro_rules! select_compiled {
    ($isa:expr, $function:path: fn($($arg:ident: $ty:ty),*) $(-> $result:ty)?) => {{
        #[allow(unused_mut, reason = "only x86-64 has others")]
        let mut entry = $function as fn($($ty),*) $(-> $result)?;
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        if matches!($isa, Isa::Avx512) && Isa::Avx512.is_available() {
            entry = compiled!("avx512f,avx512bw,avx512dq,avx512vl", $function: fn($($arg: $ty),*) $(-> $result)?);
        } else if $isa.has_avx2() && Isa::Avx2.is_available() {
            entry = compiled!("avx2", $function: fn($($arg: $ty),*) $(-> $result)?);
        }
        let _ = $isa;
        entry
    }};
}

/// For [`select_compiled`], which uses it only where the features are available.
#[cfg(all(target_arch = "x86_64", feature = "std"))]
macro_rules! compiled {
    ($features:literal, $function:path: fn($($arg:ident: $ty:ty),*) $(-> $result:ty)?) => {{
        #[target_feature(enable = $features)]
        fn with_features($($arg: $ty),*) $(-> $result)? {
            $function($($arg),*)
        }
        fn kernel($($arg: $ty),*) $(-> $result)? {
            // SAFETY: this function leaves `select_compiled` only where the features are available.
            unsafe { with_features($($arg),*) }
        }
        kernel
    }};
}

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub mod add_i8;
pub mod attention_i8;
pub(crate) mod attention_kept;
pub mod binary_f32;
pub mod binary_i8;
pub mod conv_f32;
pub mod conv_i16;
pub mod conv_i8;
#[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
mod cortex_m;
pub mod depthwise_f32;
pub mod depthwise_i8;
pub mod elementary;
pub mod lstm_i8;
pub mod lut_i8;
pub mod matmul_f32;
pub mod normalize_f32;
pub mod peak;
pub mod pool;
pub mod quantize;
pub mod requantize;
pub mod softmax;

#[cfg(all(test, feature = "std"))]
mod shapes;
#[cfg(all(test, feature = "std"))]
mod testing;

/// Output channels per weight panel. 16 i32 or f32 accumulators fill one AVX-512 register.
pub const PANEL_N: usize = 16;

/// Output channels of an i8 weight word of [`Packing::CortexM`].
pub const PAIR_N: usize = 2;

/// The order in which i8 weights and the vectors along output channels lie; FORMAT.md, "Weight
/// layouts", has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// For vector instructions: layouts 1 (panels) and 3 (depthwise).
    Panels,
    /// For Cortex-M: layout 6, pairs of channels, or whole filters when depthwise.
    CortexM,
}

/// Inputs per panel entry of i8 weights: what VNNI and `sdot` multiply into one i32 lane.
pub const PANEL_K: usize = 4;

/// Shape of a 2-D convolution over NHWC activations. A 1-D convolution has height 1; a fully
/// connected layer or matrix product has `batch = M` and everything spatial 1.
///
/// All sizes are in elements. Whoever builds one has checked that the products of sizes don't
/// overflow `usize`, that strides, dilations and `groups` are at least 1, and that `groups`
/// divides `in_c` and `out_c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct ConvGeometry {
    pub batch: usize,
    pub in_h: usize,
    pub in_w: usize,
    /// Input channels over all groups.
    pub in_c: usize,
    pub out_h: usize,
    pub out_w: usize,
    /// Output channels over all groups.
    pub out_c: usize,
    pub kernel_h: usize,
    pub kernel_w: usize,
    pub stride_h: usize,
    pub stride_w: usize,
    /// Rows of padding above the input. Padding below follows from `out_h`.
    pub pad_top: usize,
    /// Columns of padding left of the input. Padding on the right follows from `out_w`.
    pub pad_left: usize,
    pub dilation_h: usize,
    pub dilation_w: usize,
    pub groups: usize,
}

impl ConvGeometry {
    /// A matrix product `[m, k] × [k, n]` seen as a 1×1 convolution.
    pub const fn matmul(m: usize, k: usize, n: usize) -> Self {
        ConvGeometry {
            batch: m,
            in_h: 1,
            in_w: 1,
            in_c: k,
            out_h: 1,
            out_w: 1,
            out_c: n,
            kernel_h: 1,
            kernel_w: 1,
            stride_h: 1,
            stride_w: 1,
            pad_top: 0,
            pad_left: 0,
            dilation_h: 1,
            dilation_w: 1,
            groups: 1,
        }
    }

    /// Rows as columns and columns as rows. A convolution of one row is one of one column over the same bytes.
    pub const fn turned(&self) -> Self {
        ConvGeometry {
            in_h: self.in_w,
            in_w: self.in_h,
            out_h: self.out_w,
            out_w: self.out_h,
            kernel_h: self.kernel_w,
            kernel_w: self.kernel_h,
            stride_h: self.stride_w,
            stride_w: self.stride_h,
            pad_top: self.pad_left,
            pad_left: self.pad_top,
            dilation_h: self.dilation_w,
            dilation_w: self.dilation_h,
            ..*self
        }
    }

    /// Input channels of one group.
    pub const fn group_in_c(&self) -> usize {
        self.in_c / self.groups
    }

    /// Output channels of one group.
    pub const fn group_out_c(&self) -> usize {
        self.out_c / self.groups
    }

    /// Products summed into one output: kernel height × kernel width × input channels of a group.
    /// This is the K of the implicit matrix product; its order is (kernel row, kernel column, channel).
    pub const fn k(&self) -> usize {
        self.kernel_h * self.kernel_w * self.group_in_c()
    }

    /// Output channels of one group, rounded up to whole panels.
    pub const fn padded_group_out_c(&self) -> usize {
        self.group_out_c().next_multiple_of(PANEL_N)
    }

    /// Length of the per-output-channel arrays (bias, scales, weight sums): every group padded to
    /// whole panels, groups one after the other.
    pub const fn padded_out_c(&self) -> usize {
        self.groups * self.padded_group_out_c()
    }

    /// Output pixels over the whole batch: the M of the implicit matrix product.
    pub const fn out_pixels(&self) -> usize {
        self.batch * self.out_h * self.out_w
    }

    /// Elements of the input.
    pub const fn input_len(&self) -> usize {
        self.batch * self.in_h * self.in_w * self.in_c
    }

    /// Bytes (= elements) of i8 weights in panels `[groups][N/16][K/4][16][4]`, zero-padded.
    pub const fn packed_i8_len(&self) -> usize {
        self.padded_out_c() * self.k().next_multiple_of(PANEL_K)
    }

    /// Length of the per-output-channel arrays of a convolution that isn't depthwise.
    pub const fn channels_len(&self, packing: Packing) -> usize {
        self.groups * self.padded_channels(packing)
    }

    /// Output channels of one group, rounded up to whole panels or pairs.
    pub const fn padded_channels(&self, packing: Packing) -> usize {
        self.group_out_c().next_multiple_of(match packing {
            Packing::Panels => PANEL_N,
            Packing::CortexM => PAIR_N,
        })
    }

    /// Bytes of i8 weights of a convolution that isn't depthwise.
    pub const fn weights_i8_len(&self, packing: Packing) -> usize {
        self.channels_len(packing) * self.k().next_multiple_of(PANEL_K)
    }

    /// Elements of float weights in panels `[groups][N/16][K][16]`, zero-padded.
    pub const fn packed_float_len(&self) -> usize {
        self.padded_out_c() * self.k()
    }

    /// True when each group has one input and one output channel.
    pub const fn is_depthwise(&self) -> bool {
        self.groups == self.in_c && self.groups == self.out_c
    }

    /// True when input rows are already the rows of the matrix product: nothing to gather.
    pub const fn is_pointwise(&self) -> bool {
        self.kernel_h == 1
            && self.kernel_w == 1
            && self.stride_h == 1
            && self.stride_w == 1
            && self.pad_top == 0
            && self.pad_left == 0
            && self.groups == 1
            && self.out_h == self.in_h
            && self.out_w == self.in_w
    }

    /// True when there is one output pixel, whose taps are the whole input as it lies: a row by a matrix.
    pub const fn is_row(&self) -> bool {
        self.out_pixels() == 1
            && self.kernel_h == self.in_h
            && self.kernel_w == self.in_w
            && self.pad_top == 0
            && self.pad_left == 0
            && (self.dilation_h == 1 || self.kernel_h == 1)
            && (self.dilation_w == 1 || self.kernel_w == 1)
            && self.groups == 1
    }

    /// True when every size, offset and coordinate that a kernel derives from the geometry is at
    /// most 2⁴⁰ (2²⁸ on 32-bit machines) and the divisors are not zero: then none of the arithmetic
    /// on them can wrap. Kernels that use raw pointers require it.
    pub fn is_bounded(&self) -> bool {
        const LIMIT: usize = 1 << if usize::BITS == 64 { 40 } else { 28 };
        let ConvGeometry { batch, in_h, in_w, in_c, out_h, out_w, out_c, .. } = *self;
        let ConvGeometry { kernel_h, kernel_w, pad_top, pad_left, groups, .. } = *self;
        // Most layers: the largest products below have four factors of ten bits, or two of seven, one of eleven and
        // one of fourteen.
        let sizes =
            batch | in_h | in_w | in_c | out_h | out_w | out_c | pad_top | pad_left | groups;
        let windows = kernel_h | kernel_w | self.stride_h | self.stride_w;
        let are_small = usize::BITS == 64
            && sizes < 1 << 10
            && (windows | self.dilation_h | self.dilation_w) < 1 << 7;
        if are_small {
            return groups == 1
                || groups > 0 && in_c.is_multiple_of(groups) && out_c.is_multiple_of(groups);
        }
        let products = [
            [batch, in_h, in_w, in_c],
            [batch, out_h, out_w, out_c],
            [out_h, self.stride_h, 1, 1],
            [out_w, self.stride_w, in_c, 1],
            [kernel_h, self.dilation_h, 1, 1],
            [kernel_w, self.dilation_w, in_c, 1],
            [pad_top.max(pad_left), 1, 1, 1],
            // The panels: out_c and in_c grow by at most PANEL_N and PANEL_K in each group.
            [kernel_h, kernel_w, in_c, out_c],
            [kernel_h, kernel_w, in_c.saturating_add(PANEL_K), groups.saturating_mul(PANEL_N)],
            [PANEL_K, out_c.saturating_add(PANEL_N), groups, 1],
        ];
        // A factor of zero counts as one, so that it can't hide the others.
        let bounded = |factors: &[usize; 4]| {
            factors.iter().fold(1usize, |product, factor| product.saturating_mul((*factor).max(1)))
                <= LIMIT
        };
        groups > 0
            && in_c.is_multiple_of(groups)
            && out_c.is_multiple_of(groups)
            && products.iter().all(bounded)
    }
}

/// Where an i8 accumulator goes: requantization per channel, then optionally a residual add.
///
/// With `acc` the i32 sum of `(x) * w` plus bias (the converter folded the input zero point into
/// the bias), channel `c` of the output is, in f32 with one IEEE rounding per operation:
///
/// ```text
/// q = clamp(round_ties_even(acc as f32 * scale[c]), min - zero_point, max - zero_point)
/// without residual:  y = q + zero_point
/// with residual r:   y = clamp(round_ties_even(q as f32 * r.scale_conv
///                        + (r.data - r.zero_point) as f32 * r.scale_data), r.min - r.out_zero_point, r.max - r.out_zero_point)
///                        + r.out_zero_point
/// ```
///
/// No fused multiply-add anywhere. Clamping to integers before rounding gives the same result as
/// after it, and keeps the conversion to i32 in range.
#[derive(Clone, Copy)]
pub struct EpilogueI8<'a> {
    /// Real scale of an accumulator over the output scale, per output channel
    /// ([`ConvGeometry::padded_out_c`] long; depthwise: channels
    /// rounded up to [`PANEL_N`]).
    pub scale: &'a [f32],
    /// Empty, or per output channel a multiplier and a shift that stand for `scale`, padded like it:
    /// [`requantize::fixed_point`]. Only scalar kernels and those of AArch64 read it.
    pub fixed_point: &'a [i32],
    /// Zero point of the output (of the convolution itself, before the residual).
    pub zero_point: i32,
    /// Smallest output value; −128, or the zero point for a fused ReLU.
    pub min: i32,
    /// Largest output value; 127, or less for a fused ReLU6.
    pub max: i32,
    /// A tensor of the output's shape to add.
    pub residual: Option<ResidualI8<'a>>,
}

impl EpilogueI8<'_> {
    /// What to add at element `index` of the dense output, whose place holds `before` so far; without
    /// a residual 0.
    #[inline(always)]
    pub fn residual_at(&self, index: usize, before: i8) -> i8 {
        self.residual.map_or(0, |residual| residual.data.at(index, before))
    }

    /// Whether the residual lies in the output.
    pub fn is_in_place(&self) -> bool {
        self.residual.is_some_and(|residual| matches!(residual.data, ResidualData::InOutput))
    }

    /// Whether the arrays cover `channels` (with padding) and `outputs` elements, and every bound
    /// and zero point is an i8. Kernels that use raw pointers require it.
    pub fn is_sound(&self, channels: usize, outputs: usize) -> bool {
        let is_i8 = |value: i32| i8::try_from(value).is_ok();
        self.scale.len() >= channels
            && (self.fixed_point.is_empty() || self.fixed_point.len() / 2 >= channels)
            && [self.zero_point, self.min, self.max].into_iter().all(is_i8)
            && self.min <= self.max
            && self.residual.as_ref().is_none_or(|residual| {
                residual.data.covers(outputs)
                    && [residual.zero_point, residual.out_zero_point, residual.min, residual.max]
                        .into_iter()
                        .all(is_i8)
                    && residual.min <= residual.max
            })
    }
}

/// Where the elements of a residual are.
#[derive(Clone, Copy, Debug)]
pub enum ResidualData<'a, T> {
    /// Apart from the output: dense, of its shape.
    Apart(&'a [T]),
    /// In the output, which holds the residual when the kernel starts: it reads an element of the
    /// output before it writes that element, and writes each once. Depthwise kernels don't take it.
    InOutput,
}

impl<T: Copy> ResidualData<'_, T> {
    /// Element `index` of the dense residual, given what its place in the output holds.
    #[inline(always)]
    pub fn at(&self, index: usize, before: T) -> T {
        match self {
            ResidualData::Apart(data) => data[index],
            ResidualData::InOutput => before,
        }
    }

    /// Whether there are `outputs` elements, given that the output has as many.
    pub fn covers(&self, outputs: usize) -> bool {
        match self {
            ResidualData::Apart(data) => data.len() >= outputs,
            ResidualData::InOutput => true,
        }
    }

    /// The first element, and elements from one row to the next, given those of the output.
    pub fn rows(&self, out_c: usize, output: *const T, output_stride: usize) -> (*const T, usize) {
        match self {
            ResidualData::Apart(data) => (data.as_ptr(), out_c),
            ResidualData::InOutput => (output, output_stride),
        }
    }
}

/// The second operand of a fused quantized addition; see [`EpilogueI8`].
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "named in the formula of EpilogueI8")]
pub struct ResidualI8<'a> {
    pub data: ResidualData<'a, i8>,
    /// Scale of the convolution's result over the sum's scale.
    pub scale_conv: f32,
    /// Scale of `data` over the sum's scale.
    pub scale_data: f32,
    pub zero_point: i32,
    pub out_zero_point: i32,
    pub min: i32,
    pub max: i32,
}

/// A function behind the clamp of a float layer: `function(y) * scale + shift`, every operation rounded on its own.
#[derive(Clone, Copy)]
pub struct Activation {
    /// The function.
    pub function: elementary::Function,
    /// Scale and shift.
    pub affine: [f32; 2],
    /// The loop: [`elementary::select_activation`].
    pub apply: elementary::ActivationFn,
}

/// Where a float accumulator goes: `y = clamp(acc + bias[c] + residual, min, max)`, and on through the activation.
#[derive(Clone, Copy)]
pub struct EpilogueF32<'a> {
    /// Per output channel, padded like [`EpilogueI8::scale`].
    pub bias: &'a [f32],
    /// A tensor of the output's shape to add.
    pub residual: Option<ResidualData<'a, f32>>,
    /// −∞, or 0 for a fused ReLU.
    pub min: f32,
    /// +∞, or 6 for a fused ReLU6.
    pub max: f32,
    /// What comes behind the clamp.
    pub activation: Option<Activation>,
}

impl EpilogueF32<'_> {
    /// Applies the activation to some channels of some rows of an output, whose rows lie `stride` elements apart: kernels do so a few rows
    /// at a time, while they are in a cache.
    ///
    /// # Panics
    ///
    /// When the output ends before them.
    #[inline]
    pub(crate) fn activate(
        &self,
        output: &mut [f32],
        rows: core::ops::Range<usize>,
        channels: core::ops::Range<usize>,
        stride: usize,
    ) {
        if let Some(Activation { function, affine, apply }) = self.activation {
            if channels == (0..stride) {
                return apply(
                    function,
                    affine,
                    &mut output[rows.start * stride..rows.end * stride],
                );
            }
            for row in rows {
                apply(function, affine, &mut output[row * stride..][channels.clone()]);
            }
        }
    }
}

/// Weights of a float kernel, in panels. f16 weights are widened exactly as they are read.
#[derive(Clone, Copy)]
pub enum FloatWeights<'a> {
    /// IEEE single precision.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [half::f16]),
}

/// Weights of a float convolution: floats, or integers with scales.
#[derive(Clone, Copy)]
pub enum PanelWeights<'a> {
    /// Layout 2 of FORMAT.md.
    Float(FloatWeights<'a>),
    /// The same layout, in pairs; for an even number of input channels in a group.
    Bf16(&'a [half::bf16]),
    /// Layouts 4 and 5.
    Grouped(conv_f32::grouped::GroupedWeights<'a>),
}

impl<'a> From<FloatWeights<'a>> for PanelWeights<'a> {
    fn from(weights: FloatWeights<'a>) -> Self {
        PanelWeights::Float(weights)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    /// Sizes around the limits at which the products needn't be computed, with an oracle in 128 bits.
    #[test]
    fn bounded_as_the_products_are() {
        let mut random = testing::Random(5);
        let mut bounded = 0;
        for _ in 0..20_000 {
            let mut size = |most: usize| match random.below(4) {
                0 => most,
                1 => most + 1,
                2 => 1 + random.below(3),
                _ => 1 + random.below(4 * most),
            };
            let groups = size(1023);
            let g = ConvGeometry {
                batch: size(1023),
                in_h: size(1023),
                in_w: size(1023),
                in_c: size(1023).next_multiple_of(groups),
                out_h: size(1023),
                out_w: size(1023),
                out_c: size(1023).next_multiple_of(groups),
                kernel_h: size(127),
                kernel_w: size(127),
                stride_h: size(127),
                stride_w: size(127),
                dilation_h: size(127),
                dilation_w: size(127),
                pad_top: size(1023),
                pad_left: size(1023),
                groups,
            };
            let product = |factors: &[usize]| factors.iter().map(|x| *x as u128).product::<u128>();
            let limit = 1u128 << if usize::BITS == 64 { 40 } else { 28 };
            let want = [
                product(&[g.batch, g.in_h, g.in_w, g.in_c]),
                product(&[g.batch, g.out_h, g.out_w, g.out_c]),
                product(&[g.out_h, g.stride_h]),
                product(&[g.out_w, g.stride_w, g.in_c]),
                product(&[g.kernel_h, g.dilation_h]),
                product(&[g.kernel_w, g.dilation_w, g.in_c]),
                product(&[g.kernel_h, g.kernel_w, g.in_c, g.out_c]),
                product(&[g.kernel_h, g.kernel_w, g.in_c + PANEL_K, g.groups * PANEL_N]),
                product(&[PANEL_K, g.out_c + PANEL_N, g.groups]),
            ]
            .iter()
            .all(|product| *product <= limit);
            assert_eq!(g.is_bounded(), want, "{g:?}");
            bounded += usize::from(want);
        }
        assert!((1000..19_000).contains(&bounded), "{bounded}");
    }
}

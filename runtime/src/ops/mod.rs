//! Operators: each decodes its attributes, checks its operands' types and shapes, and calls a kernel.
//!
//! An [`Operator`] is one operator for one element type. A session binds each step to one of a
//! table of them; firmware names the ones it needs in a table of its own, and the linker drops the
//! rest. See CONTRIBUTING.md for how to add one.

mod attention;
mod attention_i8;
mod binary;
mod cached_attention;
mod cast;
mod compare;
mod concat;
pub(crate) mod conv;
mod conv_i16;
pub(crate) mod conv_nd;
#[cfg(feature = "std")]
mod conv_parts;
mod cross_attention;
mod cumulative;
mod elementwise;
mod embedding;
#[cfg(test)]
mod fuzz;
mod gated;
mod gather;
mod gather_nd;
mod grid_sample;
#[cfg(test)]
mod i16_tests;
mod indices;
mod interpolate;
mod matmul;
mod non_max_suppression;
mod normalize;
mod pad;
#[cfg(feature = "std")]
pub(crate) mod parallel;
mod pool;
mod pool_nd;
pub(crate) mod quantize;
mod quantized_lstm;
mod recurrent;
mod reduce;
pub(crate) mod resize;
mod reverse_sequence;
mod roi_align;
mod rotary;
mod scatter;
pub(crate) mod shape;
mod softmax;
mod strided;
#[cfg(test)]
pub(crate) mod testing;
mod top_k;
mod unary;
mod where_;

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Layout, Op};
use crate::isa::Isa;
use crate::kernels::requantize::Quantized;
use crate::memory::{Context, Slot};
#[cfg(feature = "std")]
use crate::session::Precision;

pub use crate::tables::Step;
pub use attention::ATTENTION_F32;
pub use attention_i8::ATTENTION_I8;
pub use binary::{BINARY_BOOL, BINARY_F32, BINARY_I8, BINARY_I16, BINARY_I32, BINARY_I64};
pub use cached_attention::{CACHED_ATTENTION_F32, CACHED_ATTENTION_Q8};
pub use cast::CAST;
pub use compare::{COMPARE_BOOL, COMPARE_F32, COMPARE_I8, COMPARE_I32, COMPARE_I64, COMPARE_U8};
pub use concat::CONCAT;
pub use conv::{
    CONV_F32, CONV_I8, DEPTHWISE_F32, DEPTHWISE_I8, FULLY_CONNECTED_F32, FULLY_CONNECTED_I8,
};
pub(crate) use conv::{GeometryFn, Layer, Shaped};
pub use conv_i16::{CONV_I16, DEPTHWISE_I16, FULLY_CONNECTED_I16};
pub use conv_nd::{CONV_ND_F32, CONV_ND_I32};
pub use cross_attention::CROSS_ATTENTION_F32;
pub use cumulative::{CUMULATIVE_F32, CUMULATIVE_I32, CUMULATIVE_I64};
pub use embedding::EMBEDDING;
pub use gated::GATED_F32;
pub use gather::GATHER;
pub use gather_nd::{GATHER_ELEMENTS, GATHER_ND};
pub use grid_sample::GRID_SAMPLE_F32;
pub use interpolate::INTERPOLATE_F32;
pub use matmul::{MATMUL_F32, MATMUL_I32, MATMUL_I64};
pub use non_max_suppression::NON_MAX_SUPPRESSION_F32;
pub use normalize::NORMALIZE_F32;
pub use pad::PAD;
pub use pool::{POOL_F32, POOL_I8, POOL_I16};
pub use pool_nd::{POOL_ND_F32, POOL_ND_I8, POOL_ND_U8};
pub use quantize::{
    DEQUANTIZE_I8, DEQUANTIZE_I16, DEQUANTIZE_I32, DEQUANTIZE_U8, LUT_I8, LUT_I16, QUANTIZE_I8,
    QUANTIZE_I16, QUANTIZE_U8,
};
pub use quantized_lstm::QUANTIZED_LSTM;
pub use recurrent::{GRU_F32, LSTM_F32, RNN_F32};
pub use reduce::{
    ARG_REDUCE_F32, ARG_REDUCE_I8, ARG_REDUCE_I32, ARG_REDUCE_I64, REDUCE_F32, REDUCE_I8,
    REDUCE_I16, REDUCE_I32, REDUCE_I64,
};
pub use resize::{RESIZE_F32, RESIZE_I8, RESIZE_I16};
pub use reverse_sequence::REVERSE_SEQUENCE;
pub use roi_align::ROI_ALIGN_F32;
pub use rotary::ROTARY_F32;
pub use scatter::{
    SCATTER_ELEMENTS, SCATTER_ELEMENTS_F32, SCATTER_ELEMENTS_I32, SCATTER_ELEMENTS_I64, SCATTER_ND,
    SCATTER_ND_F32, SCATTER_ND_I32, SCATTER_ND_I64,
};
pub use softmax::{SOFTMAX_F32, SOFTMAX_I8, SOFTMAX_I16};
pub use strided::{COPY, EXPAND, SLICE, TRANSPOSE};
pub use top_k::{TOP_K_F32, TOP_K_I8, TOP_K_I32, TOP_K_I64};
pub use unary::{UNARY_BOOL, UNARY_F32, UNARY_I16, UNARY_I32, UNARY_I64};
pub use where_::WHERE;

/// Runs one step.
pub type RunFn = fn(&mut Context<'_>) -> Result<(), StepErrorKind>;

/// One entry per instruction set of this build, so that a step's kernel is fixed when it is bound.
macro_rules! select_isa {
    ($run:ident $(, $family:ident)?) => {
        |isa: $crate::isa::Isa| -> $crate::ops::RunFn {
            use $crate::isa::Isa;
            match isa {
                // One entry for all: it has scalar code for what it can't do, so that nothing is
                // linked twice.
                #[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
                _ => $run::<$($family,)? { Isa::CortexM as usize }>,
                #[cfg(all(target_arch = "x86_64", feature = "std"))]
                Isa::Avx2 => $run::<$($family,)? { Isa::Avx2 as usize }>,
                #[cfg(all(target_arch = "x86_64", feature = "std"))]
                Isa::AvxVnni => $run::<$($family,)? { Isa::AvxVnni as usize }>,
                #[cfg(all(target_arch = "x86_64", feature = "std"))]
                Isa::Avx512 => $run::<$($family,)? { Isa::Avx512 as usize }>,
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => $run::<$($family,)? { Isa::Neon as usize }>,
                #[cfg(all(target_arch = "aarch64", feature = "std"))]
                Isa::Dotprod => $run::<$($family,)? { Isa::Dotprod as usize }>,
                #[cfg(all(target_arch = "aarch64", feature = "std"))]
                Isa::I8mm => $run::<$($family,)? { Isa::I8mm as usize }>,
                #[cfg(not(all(
                    target_os = "none",
                    target_abi = "eabihf",
                    not(feature = "no-dsp")
                )))]
                _ => $run::<$($family,)? { Isa::Scalar as usize }>,
            }
        }
    };
}

pub(crate) use select_isa;

/// One operator for one element type.
pub struct Operator {
    /// Which operator.
    pub op: Op,
    /// Which element type; `None` for operators that move elements of any type.
    pub dtype: Option<DType>,
    /// Checks operands and attributes at the present shapes. Nothing that it accepts may make
    /// `run` panic or touch memory outside its operands.
    pub check: fn(&Step<'_>) -> Result<(), StepErrorKind>,
    /// The function that runs it with an instruction set.
    pub select: fn(Isa) -> RunFn,
    /// Working memory, at the present shapes; grows with every dimension.
    pub scratch_bytes: fn(&Step<'_>, Isa) -> usize,
}

/// The value of a result in its place: moving a large one out of there is a copy.
pub(crate) fn by_ref<T>(result: &Result<T, StepErrorKind>) -> Result<&T, StepErrorKind> {
    result.as_ref().map_err(|kind| *kind)
}

/// No working memory.
fn no_scratch(_: &Step<'_>, _: Isa) -> usize {
    0
}

macro_rules! table {
    ($( &$NAME:ident, )*) => {
        /// Every operator of this build.
        pub static ALL: &[&Operator] = &[$(&$NAME),*];

        /// What the statics in [`ALL`] are called, in the same order: for tools that write tables.
        pub static NAMES: &[&str] = &[$(stringify!($NAME)),*];
    };
}

table! {
    &CONV_I8,
    &CONV_F32,
    &DEPTHWISE_I8,
    &DEPTHWISE_F32,
    &FULLY_CONNECTED_I8,
    &FULLY_CONNECTED_F32,
    &QUANTIZE_I8,
    &DEQUANTIZE_I8,
    &QUANTIZE_U8,
    &DEQUANTIZE_U8,
    &LUT_I8,
    &POOL_F32,
    &POOL_I8,
    &BINARY_F32,
    &BINARY_I8,
    &BINARY_I32,
    &BINARY_I64,
    &BINARY_BOOL,
    &COMPARE_F32,
    &COMPARE_I8,
    &COMPARE_U8,
    &COMPARE_I32,
    &COMPARE_I64,
    &COMPARE_BOOL,
    &SOFTMAX_F32,
    &SOFTMAX_I8,
    &REDUCE_F32,
    &REDUCE_I8,
    &REDUCE_I32,
    &REDUCE_I64,
    &ARG_REDUCE_F32,
    &ARG_REDUCE_I8,
    &ARG_REDUCE_I32,
    &ARG_REDUCE_I64,
    &UNARY_F32,
    &UNARY_I32,
    &UNARY_I64,
    &UNARY_BOOL,
    &CONCAT,
    &SLICE,
    &TRANSPOSE,
    &COPY,
    &EXPAND,
    &PAD,
    &MATMUL_F32,
    &MATMUL_I32,
    &MATMUL_I64,
    &ATTENTION_F32,
    &ATTENTION_I8,
    &WHERE,
    &GATHER,
    &CAST,
    &RESIZE_F32,
    &RESIZE_I8,
    &CONV_ND_F32,
    &CONV_ND_I32,
    &POOL_ND_F32,
    &POOL_ND_I8,
    &POOL_ND_U8,
    &NORMALIZE_F32,
    &INTERPOLATE_F32,
    &LSTM_F32,
    &GRU_F32,
    &RNN_F32,
    &GATHER_ELEMENTS,
    &GATHER_ND,
    &SCATTER_ELEMENTS,
    &SCATTER_ELEMENTS_F32,
    &SCATTER_ELEMENTS_I32,
    &SCATTER_ELEMENTS_I64,
    &SCATTER_ND,
    &SCATTER_ND_F32,
    &SCATTER_ND_I32,
    &SCATTER_ND_I64,
    &TOP_K_F32,
    &TOP_K_I8,
    &TOP_K_I32,
    &TOP_K_I64,
    &CUMULATIVE_F32,
    &CUMULATIVE_I32,
    &CUMULATIVE_I64,
    &GRID_SAMPLE_F32,
    &ROI_ALIGN_F32,
    &NON_MAX_SUPPRESSION_F32,
    &REVERSE_SEQUENCE,
    &CONV_I16,
    &DEPTHWISE_I16,
    &FULLY_CONNECTED_I16,
    &QUANTIZE_I16,
    &DEQUANTIZE_I16,
    &DEQUANTIZE_I32,
    &LUT_I16,
    &POOL_I16,
    &BINARY_I16,
    &UNARY_I16,
    &SOFTMAX_I16,
    &REDUCE_I16,
    &RESIZE_I16,
    &QUANTIZED_LSTM,
    &EMBEDDING,
    &ROTARY_F32,
    &CACHED_ATTENTION_F32,
    &CACHED_ATTENTION_Q8,
    &CROSS_ATTENTION_F32,
    &GATED_F32,
}

/// A step, bound to its operator.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) operator: &'static Operator,
    pub(crate) run: RunFn,
    /// What [`Context::shaped`] keeps.
    #[cfg(feature = "std")]
    pub(crate) shaped: Shaped,
    /// Parts that its work is cut into; 1 when one thread runs it.
    #[cfg(feature = "std")]
    pub(crate) parts: u8,
    /// Of the session.
    #[cfg(feature = "std")]
    pub(crate) precision: Precision,
    /// Whether threads that sleep are woken to take some of them.
    #[cfg(feature = "std")]
    pub(crate) wakes: bool,
}

impl Bound {
    pub(crate) fn new(operator: &'static Operator, isa: Isa) -> Bound {
        Bound {
            operator,
            run: (operator.select)(isa),
            #[cfg(feature = "std")]
            shaped: Shaped::default(),
            #[cfg(feature = "std")]
            parts: 1,
            #[cfg(feature = "std")]
            precision: Precision::High,
            #[cfg(feature = "std")]
            wakes: false,
        }
    }

    /// Fixes what runs for a step with nothing to compute, or for one with something.
    #[cfg(feature = "std")]
    pub(crate) fn set_idle(&mut self, is_idle: bool, isa: Isa) {
        self.run = if is_idle { |_| Ok(()) } else { (self.operator.select)(isa) };
    }
}

/// Checks an operand's type.
pub(crate) fn expect_type(slot: &Slot, dtype: DType, operand: u8) -> Result<(), StepErrorKind> {
    if slot.dtype == dtype { Ok(()) } else { Err(StepErrorKind::OperandType(operand)) }
}

/// Checks an operand's exact shape.
pub(crate) fn expect_same_shape(
    slot: &Slot,
    like: &Slot,
    operand: u8,
) -> Result<(), StepErrorKind> {
    if slot.dims() == like.dims() { Ok(()) } else { Err(StepErrorKind::OperandShape(operand)) }
}

/// Checks that the bounds of a quantized clamp are numbers of its type.
pub(crate) fn expect_clamp_of<T: Quantized>(clamp_q: [i32; 2]) -> Result<(), StepErrorKind> {
    let fits = clamp_q.into_iter().all(|bound| (T::LOWEST..=T::HIGHEST).contains(&bound));
    if fits { Ok(()) } else { Err(StepErrorKind::Attribute("clamp")) }
}

/// [`expect_vector`] of an input that has to be there.
#[inline(never)]
pub(crate) fn expect_vector_at(
    step: &Step<'_>,
    index: u8,
    dtype: DType,
    elements: usize,
) -> Result<(), StepErrorKind> {
    expect_vector(&step.input(usize::from(index))?, dtype, elements, index)
}

/// Checks that an operand is dense and holds at least `elements` elements of `dtype`.
pub(crate) fn expect_vector(
    slot: &Slot,
    dtype: DType,
    elements: usize,
    operand: u8,
) -> Result<(), StepErrorKind> {
    expect_type(slot, dtype, operand)?;
    if slot.layout != Layout::Dense || slot.elements() < elements {
        return Err(StepErrorKind::OperandShape(operand));
    }
    Ok(())
}

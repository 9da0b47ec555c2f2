//! From steps to calls of kernels: which kernel, how many blocks, which arguments.
//!
//! [`LOWERINGS`] has a row for each operator and element type. What a step looks like has been checked by the
//! CPU's operator of the same name before it comes here.

mod attention;
mod elementwise;
mod indexed;
mod integers;
mod layers;
mod layers_f32;
mod moves;
mod recurrent;
mod reductions;
mod resize;
mod sampling;
mod windows;

use super::arguments::Arguments;
use super::driver::Properties;
use super::kernels::Kernel;
use super::memory::Bases;
use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Field, Op};
use crate::memory::Slot;
use crate::ops::Step;

/// Blocks along the second axis of a grid at most.
const MAX_GRID_Y: usize = 65_535;

/// A call of a kernel, of a function that isn't loaded yet.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) kernel: &'static Kernel,
    pub(crate) grid: [u32; 3],
    pub(crate) arguments: Vec<u8>,
}

/// What a step becomes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lowered {
    pub(crate) calls: Vec<Call>,
    /// Whether some kernel may find data out of range.
    pub(crate) checks: bool,
    /// What the kernels leave for each other: no more at other dimensions than at the largest.
    pub(crate) scratch_bytes: usize,
}

/// Why a step has no calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It doesn't hold together.
    Invalid(StepErrorKind),
    /// Something that the kernels don't do.
    Lacks(&'static str),
}

impl From<StepErrorKind> for Refusal {
    fn from(kind: StepErrorKind) -> Refusal {
        Refusal::Invalid(kind)
    }
}

/// A step on its way to calls.
pub(crate) struct Lower<'a> {
    pub(crate) step: Step<'a>,
    bases: Bases,
    /// Its index.
    index: u32,
    device: &'a Properties,
    lowered: Lowered,
}

impl<'a> Lower<'a> {
    /// An input and its address.
    fn input(&self, index: usize) -> Result<(Slot, u64), StepErrorKind> {
        let slot = self.step.input(index)?;
        Ok((slot, self.bases.address(&slot.place)))
    }

    /// Address of an input; 0 when it isn't there.
    fn optional_address(&self, index: usize) -> u64 {
        self.step.optional_input(index).map_or(0, |slot| self.bases.address(&slot.place))
    }

    /// An output and its address.
    fn output(&self, index: usize) -> Result<(Slot, u64), StepErrorKind> {
        let slot = self.step.output(index)?;
        Ok((slot, self.bases.address(&slot.place)))
    }

    /// Where kernels report data out of range.
    fn status(&mut self) -> u64 {
        self.lowered.checks = true;
        self.bases.status
    }

    /// Memory for so many bytes that the step's kernels leave for each other.
    fn scratch(&mut self, bytes: usize) -> u64 {
        self.lowered.scratch_bytes = self.lowered.scratch_bytes.max(bytes);
        self.bases.scratch
    }

    /// Calls a kernel.
    fn call<A: Arguments>(
        &mut self,
        kernel: &'static Kernel,
        grid: [usize; 2],
        arguments: A,
    ) -> Result<(), Refusal> {
        assert_eq!(kernel.arguments, A::NAME, "{}", kernel.name);
        let [x, y] = grid;
        if y > MAX_GRID_Y {
            return Err(Refusal::Lacks("so many rows or groups"));
        }
        let x = u32::try_from(x).ok().filter(|x| *x <= i32::MAX as u32);
        let x = x.ok_or(StepErrorKind::TooLarge)?;
        if x == 0 || y == 0 {
            return Ok(());
        }
        let mut bytes = vec![0; <A as Field>::SIZE];
        arguments.write(&mut bytes);
        self.lowered.calls.push(Call { kernel, grid: [x, y as u32, 1], arguments: bytes });
        Ok(())
    }

    /// Calls a kernel whose threads have an element each.
    fn call_elements<A: Arguments>(
        &mut self,
        kernel: &'static Kernel,
        elements: u32,
        arguments: A,
    ) -> Result<(), Refusal> {
        self.call(kernel, [elements.div_ceil(kernel.threads) as usize, 1], arguments)
    }
}

/// A number that kernels have as 32 bits.
fn small(number: usize) -> Result<u32, StepErrorKind> {
    // Indices and their sums with a block's threads stay below 2³².
    u32::try_from(number).ok().filter(|n| *n <= i32::MAX as u32).ok_or(StepErrorKind::TooLarge)
}

/// Elements of a tensor, as kernels count them.
fn elements(slot: &Slot) -> Result<u32, StepErrorKind> {
    small(slot.elements())
}

/// How the steps of an operator become calls.
pub(crate) struct Lowering {
    op: Op,
    dtype: Option<DType>,
    lower: fn(&mut Lower<'_>) -> Result<(), Refusal>,
}

const fn row(
    op: Op,
    dtype: Option<DType>,
    lower: fn(&mut Lower<'_>) -> Result<(), Refusal>,
) -> Lowering {
    Lowering { op, dtype, lower }
}

/// What this backend has.
pub(crate) static LOWERINGS: &[Lowering] = &[
    row(Op::Conv2d, Some(DType::I8), layers::conv_i8),
    row(Op::FullyConnected, Some(DType::I8), layers::fully_connected_i8),
    row(Op::DepthwiseConv2d, Some(DType::I8), layers::depthwise_i8),
    row(Op::Conv2d, Some(DType::I16), layers::conv_i16),
    row(Op::FullyConnected, Some(DType::I16), layers::fully_connected_i16),
    row(Op::DepthwiseConv2d, Some(DType::I16), layers::depthwise_i16),
    row(Op::Pool2d, Some(DType::I8), layers::pool_i8),
    row(Op::Pool2d, Some(DType::I16), layers::pool_i16),
    row(Op::Pool2d, Some(DType::F32), layers::pool_f32),
    row(Op::Conv2d, Some(DType::F32), layers_f32::conv),
    row(Op::FullyConnected, Some(DType::F32), layers_f32::fully_connected),
    row(Op::DepthwiseConv2d, Some(DType::F32), layers_f32::depthwise),
    row(Op::MatMul, Some(DType::F32), layers_f32::matmul),
    row(Op::MatMul, Some(DType::I32), layers_f32::matmul),
    row(Op::MatMul, Some(DType::I64), layers_f32::matmul),
    row(Op::Embedding, Some(DType::F32), layers_f32::embedding),
    row(Op::Attention, Some(DType::F32), attention::attention),
    row(Op::Attention, Some(DType::I8), attention::attention_i8),
    row(Op::CachedAttention, Some(DType::F32), attention::cached_attention),
    row(Op::CachedAttention, Some(DType::I8), attention::cached_attention_q8),
    row(Op::CrossAttention, Some(DType::F32), attention::cross_attention),
    row(Op::Rotary, Some(DType::F32), attention::rotary),
    row(Op::Softmax, Some(DType::I8), reductions::softmax_i8),
    row(Op::Softmax, Some(DType::I16), reductions::softmax_i16),
    row(Op::Softmax, Some(DType::F32), reductions::softmax_f32),
    row(Op::Reduce, Some(DType::I8), reductions::reduce),
    row(Op::Reduce, Some(DType::I16), reductions::reduce),
    row(Op::Reduce, Some(DType::I32), reductions::reduce),
    row(Op::Reduce, Some(DType::I64), reductions::reduce),
    row(Op::Reduce, Some(DType::F32), reductions::reduce),
    row(Op::Normalize, Some(DType::F32), reductions::normalize),
    row(Op::Binary, Some(DType::F32), elementwise::binary_f32),
    row(Op::Unary, Some(DType::F32), elementwise::unary),
    row(Op::Unary, Some(DType::I16), elementwise::unary),
    row(Op::Unary, Some(DType::I32), elementwise::unary),
    row(Op::Unary, Some(DType::I64), elementwise::unary),
    row(Op::Gated, Some(DType::F32), elementwise::gated),
    row(Op::Binary, Some(DType::I8), elementwise::binary_quantized),
    row(Op::Binary, Some(DType::I16), elementwise::binary_quantized),
    row(Op::Binary, Some(DType::I32), integers::binary),
    row(Op::Binary, Some(DType::I64), integers::binary),
    row(Op::Binary, Some(DType::Bool), integers::binary),
    row(Op::Compare, Some(DType::F32), integers::compare),
    row(Op::Compare, Some(DType::I8), integers::compare),
    row(Op::Compare, Some(DType::U8), integers::compare),
    row(Op::Compare, Some(DType::I32), integers::compare),
    row(Op::Compare, Some(DType::I64), integers::compare),
    row(Op::Compare, Some(DType::Bool), integers::compare),
    row(Op::Unary, Some(DType::Bool), integers::unary_bool),
    row(Op::ArgReduce, Some(DType::F32), integers::arg_reduce),
    row(Op::ArgReduce, Some(DType::I8), integers::arg_reduce),
    row(Op::ArgReduce, Some(DType::I32), integers::arg_reduce),
    row(Op::ArgReduce, Some(DType::I64), integers::arg_reduce),
    row(Op::Where, None, integers::choose),
    row(Op::Cast, None, integers::cast),
    row(Op::Lut, Some(DType::I8), elementwise::lut_i8),
    row(Op::Lut, Some(DType::I16), elementwise::lut_i16),
    row(Op::Quantize, Some(DType::I8), elementwise::quantize_i8),
    row(Op::Quantize, Some(DType::U8), elementwise::quantize_u8),
    row(Op::Quantize, Some(DType::I16), elementwise::quantize_i16),
    row(Op::Dequantize, Some(DType::I8), elementwise::dequantize_i8),
    row(Op::Dequantize, Some(DType::U8), elementwise::dequantize_u8),
    row(Op::Dequantize, Some(DType::I16), elementwise::dequantize_i16),
    row(Op::Dequantize, Some(DType::I32), elementwise::dequantize_i32),
    row(Op::ConvNd, Some(DType::F32), windows::conv_nd),
    row(Op::ConvNd, Some(DType::I32), windows::conv_nd),
    row(Op::PoolNd, Some(DType::F32), windows::pool_nd),
    row(Op::PoolNd, Some(DType::I8), windows::pool_nd),
    row(Op::PoolNd, Some(DType::U8), windows::pool_nd),
    row(Op::GridSample, Some(DType::F32), sampling::grid_sample),
    row(Op::RoiAlign, Some(DType::F32), sampling::roi_align),
    row(Op::NonMaxSuppression, Some(DType::F32), sampling::non_max_suppression),
    row(Op::Resize, Some(DType::F32), resize::resize),
    row(Op::Resize, Some(DType::I8), resize::resize),
    row(Op::Resize, Some(DType::I16), resize::resize),
    row(Op::Interpolate, Some(DType::F32), resize::interpolate),
    row(Op::Lstm, Some(DType::F32), recurrent::lstm),
    row(Op::Gru, Some(DType::F32), recurrent::gru),
    row(Op::Rnn, Some(DType::F32), recurrent::rnn),
    row(Op::QuantizedLstm, Some(DType::I8), recurrent::quantized_lstm),
    row(Op::Copy, None, moves::copy),
    row(Op::Slice, None, moves::slice),
    row(Op::Transpose, None, moves::transpose),
    row(Op::Expand, None, moves::expand),
    row(Op::Concat, None, moves::concat),
    row(Op::Pad, None, moves::pad),
    row(Op::Gather, None, moves::gather),
    row(Op::GatherElements, None, indexed::gather_elements),
    row(Op::GatherNd, None, indexed::gather_nd),
    row(Op::ScatterElements, None, indexed::scatter_elements),
    row(Op::ScatterElements, Some(DType::F32), indexed::scatter_elements),
    row(Op::ScatterElements, Some(DType::I32), indexed::scatter_elements),
    row(Op::ScatterElements, Some(DType::I64), indexed::scatter_elements),
    row(Op::ScatterNd, None, indexed::scatter_nd),
    row(Op::ScatterNd, Some(DType::F32), indexed::scatter_nd),
    row(Op::ScatterNd, Some(DType::I32), indexed::scatter_nd),
    row(Op::ScatterNd, Some(DType::I64), indexed::scatter_nd),
    row(Op::TopK, Some(DType::F32), indexed::top_k),
    row(Op::TopK, Some(DType::I8), indexed::top_k),
    row(Op::TopK, Some(DType::I32), indexed::top_k),
    row(Op::TopK, Some(DType::I64), indexed::top_k),
    row(Op::Cumulative, Some(DType::F32), indexed::cumulative),
    row(Op::Cumulative, Some(DType::I32), indexed::cumulative),
    row(Op::Cumulative, Some(DType::I64), indexed::cumulative),
    row(Op::ReverseSequence, None, indexed::reverse_sequence),
];

/// What a step becomes on a device; `None`: the operator is missing.
pub(crate) fn lower(
    op: u16,
    dtype: Option<DType>,
    index: u32,
    step: Step<'_>,
    bases: Bases,
    device: &Properties,
) -> Option<Result<Lowered, Refusal>> {
    let mut outputs = (0..step.output_count()).filter_map(|index| step.optional_output(index));
    let nothing = outputs.all(|y| y.elements() == 0);
    let lowering = LOWERINGS.iter().find(|row| row.op as u16 == op && row.dtype == dtype)?;
    if nothing {
        return Some(Ok(Lowered::default()));
    }
    let mut lower = Lower { step, bases, index, device, lowered: Lowered::default() };
    Some((lowering.lower)(&mut lower).map(|()| lower.lowered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;

    #[test]
    fn every_operator_of_the_cpu_has_a_row() {
        for operator in ops::ALL {
            let own = LOWERINGS.iter().filter(|row| row.op == operator.op);
            let count = own.filter(|row| row.dtype == operator.dtype).count();
            assert_eq!(count, 1, "{:?} {:?}", operator.op, operator.dtype);
        }
        assert_eq!(LOWERINGS.len(), ops::ALL.len());
    }
}

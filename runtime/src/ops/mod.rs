//! Operators: each decodes its attributes, checks its operands' types and shapes, and calls a kernel.
//!
//! An [`Operator`] is one operator for one element type. A session binds each step to one of a
//! table of them; firmware names the ones it needs in a table of its own, and the linker drops the
//! rest. See CONTRIBUTING.md for how to add one.

mod attention;
mod binary;
mod cast;
mod compare;
mod concat;
mod conv;
mod conv_i16;
mod conv_nd;
mod cumulative;
mod elementwise;
#[cfg(test)]
mod fuzz;
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
mod pool;
mod pool_nd;
mod quantize;
mod quantized_lstm;
mod recurrent;
mod reduce;
mod resize;
mod reverse_sequence;
mod roi_align;
mod scatter;
mod shape;
mod softmax;
mod strided;
#[cfg(test)]
pub(crate) mod testing;
mod top_k;
mod unary;
mod where_;

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Field, Layout, NO_OPERAND, Op, StepRecord};
use crate::isa::Isa;
use crate::kernels::requantize::Quantized;
use crate::memory::{Context, Slot};
use crate::model::Model;

pub use attention::ATTENTION_F32;
pub use binary::{BINARY_BOOL, BINARY_F32, BINARY_I8, BINARY_I16, BINARY_I32, BINARY_I64};
pub use cast::CAST;
pub use compare::{COMPARE_BOOL, COMPARE_F32, COMPARE_I8, COMPARE_I32, COMPARE_I64, COMPARE_U8};
pub use concat::CONCAT;
pub use conv::{
    CONV_F32, CONV_I8, DEPTHWISE_F32, DEPTHWISE_I8, FULLY_CONNECTED_F32, FULLY_CONNECTED_I8,
};
pub use conv_i16::{CONV_I16, DEPTHWISE_I16, FULLY_CONNECTED_I16};
pub use conv_nd::{CONV_ND_F32, CONV_ND_I32};
pub use cumulative::{CUMULATIVE_F32, CUMULATIVE_I32, CUMULATIVE_I64};
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
pub(crate) use quantize::{quantize_value, quantize_value_i16};
pub use quantized_lstm::QUANTIZED_LSTM;
pub use recurrent::{GRU_F32, LSTM_F32, RNN_F32};
pub use reduce::{
    ARG_REDUCE_F32, ARG_REDUCE_I8, ARG_REDUCE_I32, ARG_REDUCE_I64, REDUCE_F32, REDUCE_I8,
    REDUCE_I16, REDUCE_I32, REDUCE_I64,
};
pub use resize::{RESIZE_F32, RESIZE_I8, RESIZE_I16};
pub use reverse_sequence::REVERSE_SEQUENCE;
pub use roi_align::ROI_ALIGN_F32;
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

/// No working memory.
fn no_scratch(_: &Step<'_>, _: Isa) -> usize {
    0
}

/// Every operator of this build.
pub static ALL: &[&Operator] = &[
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
];

/// A step, bound to its operator.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) operator: &'static Operator,
    pub(crate) run: RunFn,
    pub(crate) attributes_start: u32,
    pub(crate) attributes_bytes: u32,
    pub(crate) operands_start: u32,
    pub(crate) input_count: u16,
    pub(crate) output_count: u16,
}

impl Bound {
    /// The step's inputs and outputs, out of the operands of all steps.
    pub(crate) fn operands<'a>(&self, operands: &'a [u32]) -> (&'a [u32], &'a [u32]) {
        let inputs = self.operands_start as usize;
        let outputs = inputs + usize::from(self.input_count);
        let end = outputs + usize::from(self.output_count);
        (operands.get(inputs..outputs).unwrap_or(&[]), operands.get(outputs..end).unwrap_or(&[]))
    }

    /// The step's attributes, out of those of all steps.
    pub(crate) fn attributes<'a>(&self, attributes: &'a [u8]) -> &'a [u8] {
        let start = self.attributes_start as usize;
        attributes.get(start..start + self.attributes_bytes as usize).unwrap_or(&[])
    }
}

/// What a step says about itself: operand shapes and attributes, without their memory.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    source: StepSource<'a>,
    attributes: &'a [u8],
}

#[derive(Clone, Copy)]
enum StepSource<'a> {
    /// In a session: tables in its memory, dimensions of the present run.
    Session { inputs: &'a [u32], outputs: &'a [u32], slots: &'a [Slot], dims: &'a [u32] },
    /// In a file: dimensions at these values.
    File { model: &'a Model<'a>, record: &'a StepRecord, dims: &'a [u32] },
}

impl<'a> Step<'a> {
    pub(crate) fn bound(
        inputs: &'a [u32],
        outputs: &'a [u32],
        attributes: &'a [u8],
        slots: &'a [Slot],
        dims: &'a [u32],
    ) -> Step<'a> {
        Step { source: StepSource::Session { inputs, outputs, slots, dims }, attributes }
    }

    pub(crate) fn in_file(
        model: &'a Model<'a>,
        record: &'a StepRecord,
        dims: &'a [u32],
    ) -> Step<'a> {
        Step {
            source: StepSource::File { model, record, dims },
            attributes: model.attributes(record),
        }
    }

    /// The attribute record; `check` makes sure that it is there in full.
    pub fn attributes<T: Field>(&self) -> T {
        T::read(self.attributes)
    }

    /// Whether the attribute record has the size of a `T`.
    pub fn expect_attributes<T: Field>(&self) -> Result<T, StepErrorKind> {
        if self.attributes.len() != T::SIZE {
            return Err(StepErrorKind::Attribute("record"));
        }
        Ok(T::read(self.attributes))
    }

    /// Number of inputs, absent ones included.
    pub fn input_count(&self) -> usize {
        match self.source {
            StepSource::Session { inputs, .. } => inputs.len(),
            StepSource::File { record, .. } => usize::from(record.input_count),
        }
    }

    /// Number of outputs.
    pub fn output_count(&self) -> usize {
        match self.source {
            StepSource::Session { outputs, .. } => outputs.len(),
            StepSource::File { record, .. } => usize::from(record.output_count),
        }
    }

    /// Input number `index`.
    pub fn input(&self, index: usize) -> Result<Slot, StepErrorKind> {
        self.optional_input(index).ok_or(StepErrorKind::OperandCount)
    }

    /// Input number `index`, if it is there.
    pub fn optional_input(&self, index: usize) -> Option<Slot> {
        match self.source {
            StepSource::Session { inputs, slots, .. } => {
                slots.get(*inputs.get(index)? as usize).copied()
            }
            StepSource::File { model, record, dims } => {
                if index >= usize::from(record.input_count) {
                    return None;
                }
                slot_in_file(model, model.operands(record).nth(index)?, dims)
            }
        }
    }

    /// Output number `index`.
    pub fn output(&self, index: usize) -> Result<Slot, StepErrorKind> {
        self.optional_output(index).ok_or(StepErrorKind::OperandCount)
    }

    /// Output number `index`, if somebody wants it.
    pub fn optional_output(&self, index: usize) -> Option<Slot> {
        match self.source {
            StepSource::Session { outputs, slots, .. } => {
                outputs.get(index).and_then(|tensor| slots.get(*tensor as usize)).copied()
            }
            StepSource::File { model, record, dims } => model
                .operands(record)
                .skip(usize::from(record.input_count))
                .nth(index)
                .and_then(|tensor| slot_in_file(model, tensor, dims)),
        }
    }

    /// The present value of a dimension reference in an attribute.
    pub fn dim(&self, reference: i32) -> Result<usize, StepErrorKind> {
        let dims = match self.source {
            StepSource::Session { dims, .. } | StepSource::File { dims, .. } => dims,
        };
        resolve_dim(dims, reference)
            .map(|dim| dim as usize)
            .ok_or(StepErrorKind::Attribute("dimension"))
    }

    /// Checks the number of operands: inputs between `inputs.0` and `inputs.1`, one output.
    pub fn expect_counts(&self, least: usize, most: usize) -> Result<(), StepErrorKind> {
        let fits = (least..=most).contains(&self.input_count()) && self.output_count() == 1;
        if fits { Ok(()) } else { Err(StepErrorKind::OperandCount) }
    }
}

/// The value of a dimension reference, given the dimension table.
pub(crate) fn resolve_dim(dims: &[u32], reference: i32) -> Option<u32> {
    if reference >= 0 { Some(reference as u32) } else { dims.get(!reference as usize).copied() }
}

/// A tensor of the file at these dimensions.
pub(crate) fn slot_in_file(model: &Model<'_>, tensor: u32, dims: &[u32]) -> Option<Slot> {
    if tensor == NO_OPERAND {
        return None;
    }
    let record = model.tensor(tensor as usize)?;
    let dtype = DType::from_number(record.dtype)?;
    let layout = Layout::from_number(record.layout)?;
    let mut slot = Slot {
        dims: [1; crate::format::MAX_RANK],
        rank: record.rank,
        dtype,
        storage: crate::format::Storage::from_number(record.storage)?,
        layout,
        offset: usize::try_from(record.offset).ok()?,
        bytes: usize::try_from(record.bytes).ok()?,
        scale: record.scale,
        zero_point: record.zero_point,
    };
    for (dim, reference) in slot.dims.iter_mut().zip(record.dims.get(..usize::from(record.rank))?) {
        *dim = resolve_dim(dims, *reference)?;
    }
    if layout == Layout::Dense {
        let mut bytes = dtype.size();
        for dim in slot.dims() {
            bytes = bytes.checked_mul(*dim as usize)?;
        }
        if bytes > slot.bytes {
            return None;
        }
        slot.bytes = bytes;
    }
    Some(slot)
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

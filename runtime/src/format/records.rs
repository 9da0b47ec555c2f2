//! The records of the sections.

use super::{MAX_RANK, record};

record! {
    /// UTF-8 text in the strings section.
    pub struct Name: 8 {
        /// From the start of the strings section.
        pub offset: u32,
        /// Length.
        pub bytes: u32,
    }
}

record! {
    /// A named dimension.
    pub struct SymbolRecord: 16 {
        /// What `--dim` and [`Session::set_dimension`](crate::Session::set_dimension) call it.
        pub name: Name,
        /// Smallest value, at least 1.
        pub min: u32,
        /// Largest value; memory is planned for it.
        pub max: u32,
    }
}

record! {
    /// An expression over earlier dimensions. Operands are dimension references: `>= 0` is that
    /// constant, `< 0` is entry `!operand` of the table in which symbols come first and the
    /// expressions follow in order.
    pub struct DimRecord: 16 {
        /// A [`DimOp`] number.
        pub op: u32,
        /// First operand.
        pub a: i32,
        /// Second operand.
        pub b: i32,
        /// Zero.
        pub reserved: u32,
    }
}

/// What a [`DimRecord`] computes. Values and results lie in 0..2³¹.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the operations")]
pub enum DimOp {
    Add = 1,
    /// Saturates at 0.
    Sub = 2,
    Mul = 3,
    /// Rounds toward zero; a divisor of 0 is refused.
    Div = 4,
    Max = 5,
    Min = 6,
}

impl DimOp {
    /// The operation with this number.
    pub fn from_number(number: u32) -> Option<DimOp> {
        [DimOp::Add, DimOp::Sub, DimOp::Mul, DimOp::Div, DimOp::Max, DimOp::Min]
            .into_iter()
            .find(|op| *op as u32 == number)
    }

    /// Applies it; `None` on overflow or division by zero.
    pub fn apply(self, a: u32, b: u32) -> Option<u32> {
        let value = match self {
            DimOp::Add => a.checked_add(b)?,
            DimOp::Sub => a.saturating_sub(b),
            DimOp::Mul => a.checked_mul(b)?,
            DimOp::Div => a.checked_div(b)?,
            DimOp::Max => a.max(b),
            DimOp::Min => a.min(b),
        };
        (value <= i32::MAX as u32).then_some(value)
    }
}

/// Where a tensor's elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Storage {
    /// In the arena; overwritten when no longer needed.
    Arena = 1,
    /// In the constants section.
    Constant = 2,
    /// In the state block; lives across runs.
    State = 3,
}

impl Storage {
    /// The storage with this number.
    pub fn from_number(number: u8) -> Option<Storage> {
        match number {
            1 => Some(Storage::Arena),
            2 => Some(Storage::Constant),
            3 => Some(Storage::State),
            _ => None,
        }
    }
}

/// In which order a constant's elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Layout {
    /// Row-major, dense.
    Dense = 0,
    /// i8 matrix panels `[groups][N/16][K/4][16][4]`, zero-padded.
    PanelI8 = 1,
    /// f32 or f16 matrix panels `[groups][N/16][K][16]`, zero-padded.
    PanelFloat = 2,
    /// Depthwise filters `[kernel height × kernel width][channels rounded up to 16]`.
    Depthwise = 3,
    /// Grouped 8-bit weights with f16 scales: `[groups][N/16][K/4][16][4]`, then the scales.
    GroupedW8 = 4,
    /// Grouped 4-bit weights with f16 scales: `[groups][N/16][K/8][16][4]` of two each, then the scales.
    GroupedW4 = 5,
    /// i8 weights for Cortex-M DSP instructions: pairs of output channels, or whole depthwise filters.
    CortexM = 6,
    /// As [`Layout::GroupedW8`], with minima behind the scales.
    GroupedW8Min = 7,
    /// As [`Layout::GroupedW4`], with minima behind the scales.
    GroupedW4Min = 8,
    /// As [`Layout::GroupedW8`], with f32 scales.
    GroupedW8Wide = 9,
    /// As [`Layout::GroupedW4`], with f32 scales.
    GroupedW4Wide = 10,
    /// As [`Layout::GroupedW8Min`], with f32 scales and minima.
    GroupedW8WideMin = 11,
    /// As [`Layout::GroupedW4Min`], with f32 scales and minima.
    GroupedW4WideMin = 12,
    /// As [`Layout::GroupedW4`], with scales of i8 times f16.
    GroupedW4Narrow = 13,
    /// As [`Layout::GroupedW4Min`], with scales and minima of i8 times f16.
    GroupedW4NarrowMin = 14,
    /// As [`Layout::GroupedW4`], with a plane of fifth bits behind the nibbles.
    GroupedW5 = 15,
    /// As [`Layout::GroupedW5`], with minima behind the scales.
    GroupedW5Min = 16,
    /// As [`Layout::GroupedW5Min`], with scales and minima of i8 times f16.
    GroupedW5NarrowMin = 17,
    /// As [`Layout::GroupedW4Narrow`], with a plane of two more bits behind the nibbles.
    GroupedW6Narrow = 18,
    /// As [`Layout::GroupedW5`], with two more bits for a weight in the plane behind the nibbles.
    GroupedW6 = 19,
    /// As [`Layout::GroupedW4`], with nibbles that stand for values of a table.
    GroupedW4Nl = 20,
    /// As [`Layout::GroupedW4Nl`], with f32 scales.
    GroupedW4NlWide = 21,
    /// As [`Layout::GroupedW4Nl`], with scales of i8 times f16.
    GroupedW4NlNarrow = 22,
}

impl Layout {
    /// The layout with this number.
    pub fn from_number(number: u8) -> Option<Layout> {
        match number {
            0 => Some(Layout::Dense),
            1 => Some(Layout::PanelI8),
            2 => Some(Layout::PanelFloat),
            3 => Some(Layout::Depthwise),
            4 => Some(Layout::GroupedW8),
            5 => Some(Layout::GroupedW4),
            6 => Some(Layout::CortexM),
            7 => Some(Layout::GroupedW8Min),
            8 => Some(Layout::GroupedW4Min),
            9 => Some(Layout::GroupedW8Wide),
            10 => Some(Layout::GroupedW4Wide),
            11 => Some(Layout::GroupedW8WideMin),
            12 => Some(Layout::GroupedW4WideMin),
            13 => Some(Layout::GroupedW4Narrow),
            14 => Some(Layout::GroupedW4NarrowMin),
            15 => Some(Layout::GroupedW5),
            16 => Some(Layout::GroupedW5Min),
            17 => Some(Layout::GroupedW5NarrowMin),
            18 => Some(Layout::GroupedW6Narrow),
            19 => Some(Layout::GroupedW6),
            20 => Some(Layout::GroupedW4Nl),
            21 => Some(Layout::GroupedW4NlWide),
            22 => Some(Layout::GroupedW4NlNarrow),
            _ => None,
        }
    }
}

record! {
    /// A tensor.
    pub struct TensorRecord: 80 {
        /// Name in the source model, or made up by the converter.
        pub name: Name,
        /// A [`DType`](crate::DType) number.
        pub dtype: u8,
        /// A [`Layout`] number; other than dense only for constants.
        pub layout: u8,
        /// A [`Storage`] number.
        pub storage: u8,
        /// Axes, at most [`MAX_RANK`].
        pub rank: u8,
        /// Dimension references (see [`DimRecord`]); zero beyond `rank`.
        pub dims: [i32; MAX_RANK],
        /// From the start of the arena, constants section or state block; a multiple of the
        /// element's size.
        pub offset: u64,
        /// Bytes reserved: for dense tensors the size at the largest symbol values.
        pub bytes: u64,
        /// `real = scale * (q - zero_point)` for quantized integers, else 0.
        pub scale: f32,
        /// See `scale`.
        pub zero_point: i32,
        /// Inputs that share a scale, in layouts of grouped weights; else 0.
        pub group_size: u32,
        /// Zero.
        pub reserved: [u32; 2],
    }
}

record! {
    /// A step of the program.
    pub struct StepRecord: 40 {
        /// Name of the node that it came from.
        pub name: Name,
        /// An [`Op`](super::Op) number.
        pub op: u16,
        /// The [`DType`](crate::DType) number that selects the operator's variant, 0 for operators
        /// that move bytes of any type.
        pub variant: u8,
        /// Zero.
        pub flags: u8,
        /// Into the attributes section, a multiple of 8.
        pub attributes_offset: u32,
        /// Length of its attribute record.
        pub attributes_bytes: u32,
        /// First of its operands: inputs, then outputs.
        pub operands_start: u32,
        /// Inputs, absent optional ones included.
        pub input_count: u16,
        /// Outputs.
        pub output_count: u16,
        /// Zero.
        pub reserved: u32,
        /// Multiply-accumulates at the largest symbol values.
        pub macs: u64,
    }
}

record! {
    /// A state tensor's initial value.
    pub struct StateRecord: 16 {
        /// Index of a tensor whose storage is state.
        pub tensor: u32,
        /// 1 when `offset` holds, 0 when the state starts as zeros.
        pub has_initial: u32,
        /// Of the initial value in the constants section.
        pub offset: u64,
    }
}

record! {
    /// What stands before the states that a session saved.
    pub struct SavedStateHeader: 40 {
        /// `WHST`.
        pub magic: [u8; 4],
        /// 1.
        pub version: u16,
        /// How the states' numbers lie: 1 with their least byte first, 2 with their greatest.
        pub byte_order: u16,
        /// Positions of KV caches.
        pub positions: u32,
        /// The checksum in the model's header, which covers those of all its sections.
        pub model_crc32: u32,
        /// Length of the model's file.
        pub model_bytes: u64,
        /// State of the model as a whole.
        pub state_bytes: u64,
        /// Between this header and the checksum at the end.
        pub payload_bytes: u64,
    }
}

record! {
    /// A key with its value, both in the strings section.
    pub struct MetadataRecord: 16 {
        /// For instance `labels`, `source.sha256`.
        pub key: Name,
        /// UTF-8 text; lists have one item a line.
        pub value: Name,
    }
}

record! {
    /// One tensor of one golden vector.
    pub struct GoldenRecord: 32 {
        /// Which vector, counted from 0; its records are adjacent: dimensions, inputs, outputs.
        pub case: u32,
        /// Index among the model's inputs (role 0), outputs (role 1) or symbols (role 2).
        pub index: u32,
        /// 0: feed it. 1: expect it. 2: give the dimension this value, a u32.
        pub role: u32,
        /// For float outputs the largest accepted |difference| relative to the largest expected
        /// magnitude; 0 for integers, which must be equal.
        pub tolerance: f32,
        /// Into the golden data section, a multiple of 8 (writers use 64).
        pub offset: u64,
        /// Length; dense elements of the tensor's type.
        pub bytes: u64,
    }
}

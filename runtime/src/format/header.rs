//! The header and the section directory.

use super::record;

/// First four bytes of every file.
pub const MAGIC: [u8; 4] = *b"WHIT";
/// Readers refuse files of another major version.
pub const VERSION_MAJOR: u16 = 1;
/// Readers accept any minor version; a minor version only adds optional sections and operators.
pub const VERSION_MINOR: u16 = 0;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 128;

record! {
    /// The first 128 bytes. The totals are what a caller wants to know before running anything.
    pub struct Header: 128 {
        /// [`MAGIC`].
        pub magic: [u8; 4],
        /// [`VERSION_MAJOR`].
        pub version_major: u16,
        /// [`VERSION_MINOR`].
        pub version_minor: u16,
        /// [`HEADER_BYTES`]; the directory follows.
        pub header_bytes: u32,
        /// Entries of the directory.
        pub section_count: u32,
        /// Length of the whole file.
        pub file_bytes: u64,
        /// Activations: the block that steps read and write.
        pub arena_bytes: u64,
        /// Tensors that live across runs.
        pub state_bytes: u64,
        /// Constants that steps read.
        pub weight_bytes: u64,
        /// Multiply-accumulates of one run, at the largest value of every symbol.
        pub macs: u64,
        /// Largest sum of activations alive at one step: no order-keeping plan can use less.
        pub liveness_bound_bytes: u64,
        /// Records in the steps section.
        pub step_count: u32,
        /// Records in the tensors section.
        pub tensor_count: u32,
        /// Tensors the caller fills.
        pub input_count: u32,
        /// Tensors the caller reads.
        pub output_count: u32,
        /// Features a reader must know; none are defined yet, so 0.
        pub required_features: u64,
        /// The operators that the steps use, one bit per number.
        pub op_set: [u64; 2],
        /// Zero.
        pub reserved: [u32; 4],
        /// Zero.
        pub reserved_word: u32,
        /// CRC-32 (IEEE) of the header up to here and of the directory.
        pub crc32: u32,
    }
}

record! {
    /// One entry of the section directory.
    pub struct SectionEntry: 32 {
        /// A [`Section`] number; readers skip unknown ones unless `required` is set.
        pub kind: u32,
        /// 1 when a reader that doesn't know the section must refuse the file.
        pub required: u32,
        /// From the start of the file, a multiple of 64.
        pub offset: u64,
        /// Length.
        pub bytes: u64,
        /// CRC-32 (IEEE) of the bytes; checked by `verify`, or at open when asked.
        pub crc32: u32,
        /// Bytes of one record; 1 for plain bytes.
        pub record_bytes: u32,
    }
}

/// The sections, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Section {
    /// UTF-8 text that records refer to.
    Strings = 1,
    /// Named dimensions with bounds.
    Symbols = 2,
    /// Expressions over symbols.
    Dims = 3,
    /// Tensors.
    Tensors = 4,
    /// Steps, in the order in which they run.
    Steps = 5,
    /// Tensor indices of the steps' inputs and outputs (u32).
    Operands = 6,
    /// Attribute records of the steps, 8-byte aligned.
    Attributes = 7,
    /// Weights and tables.
    Constants = 8,
    /// State tensors and their initial values.
    State = 9,
    /// Keys and values about the model.
    Metadata = 10,
    /// Tensor indices of inputs, then outputs (u32).
    Interface = 11,
    /// Inputs with their expected outputs.
    Golden = 12,
    /// Bytes of the golden vectors.
    GoldenData = 13,
    /// What the monitor compares the field with.
    Baseline = 14,
    /// Who vouches for the file.
    Signature = 15,
}

impl Section {
    /// Every section of this version.
    pub const ALL: [Section; 15] = [
        Section::Strings,
        Section::Symbols,
        Section::Dims,
        Section::Tensors,
        Section::Steps,
        Section::Operands,
        Section::Attributes,
        Section::Constants,
        Section::State,
        Section::Metadata,
        Section::Interface,
        Section::Golden,
        Section::GoldenData,
        Section::Baseline,
        Section::Signature,
    ];

    /// The section with this number.
    pub fn from_number(number: u32) -> Option<Section> {
        Section::ALL.into_iter().find(|section| *section as u32 == number)
    }

    /// The name used in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Section::Strings => "strings",
            Section::Symbols => "symbols",
            Section::Dims => "dims",
            Section::Tensors => "tensors",
            Section::Steps => "steps",
            Section::Operands => "operands",
            Section::Attributes => "attributes",
            Section::Constants => "constants",
            Section::State => "state",
            Section::Metadata => "metadata",
            Section::Interface => "interface",
            Section::Golden => "golden",
            Section::GoldenData => "golden data",
            Section::Baseline => "baseline",
            Section::Signature => "signature",
        }
    }

    /// True for sections that a program can't run without; a reader refuses files that lack one.
    pub const fn is_required(self) -> bool {
        matches!(
            self,
            Section::Strings
                | Section::Tensors
                | Section::Steps
                | Section::Operands
                | Section::Attributes
                | Section::Constants
                | Section::Interface
        )
    }
}

/// CRC-32 of the header (without its checksum) and of the directory; `None` when they don't fit.
pub(crate) fn directory_crc32(file: &[u8]) -> Option<u32> {
    use super::{Field, crc32};
    let header = file.get(..HEADER_BYTES)?;
    let count = usize::try_from(Header::read(header).section_count).ok()?;
    let end = count.checked_mul(SectionEntry::SIZE)?.checked_add(HEADER_BYTES)?;
    Some(crc32(&[&header[..HEADER_BYTES - 4], file.get(HEADER_BYTES..end)?]))
}

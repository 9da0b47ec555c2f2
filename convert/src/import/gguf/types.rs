//! The element types of GGML tensors: their numbers, and how many bytes how many elements take.

/// An element type. Elements of a row come in blocks; a block has a fixed number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlType {
    /// Its number in a file.
    pub number: u32,
    /// Its name, as llama.cpp prints it.
    pub name: &'static str,
    /// Elements of a block.
    pub block_elems: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

const fn row(number: u32, name: &'static str, block_elems: usize, block_bytes: usize) -> GgmlType {
    GgmlType { number, name, block_elems, block_bytes }
}

/// Every type that a file may hold, whether it can be imported or not. The numbers that are missing were
/// layouts for one instruction set, which files don't hold any more.
pub const GGML_TYPES: &[GgmlType] = &[
    row(0, "F32", 1, 4),
    row(1, "F16", 1, 2),
    row(2, "Q4_0", 32, 18),
    row(3, "Q4_1", 32, 20),
    row(6, "Q5_0", 32, 22),
    row(7, "Q5_1", 32, 24),
    row(8, "Q8_0", 32, 34),
    row(9, "Q8_1", 32, 36),
    row(10, "Q2_K", 256, 84),
    row(11, "Q3_K", 256, 110),
    row(12, "Q4_K", 256, 144),
    row(13, "Q5_K", 256, 176),
    row(14, "Q6_K", 256, 210),
    row(15, "Q8_K", 256, 292),
    row(16, "IQ2_XXS", 256, 66),
    row(17, "IQ2_XS", 256, 74),
    row(18, "IQ3_XXS", 256, 98),
    row(19, "IQ1_S", 256, 50),
    row(20, "IQ4_NL", 32, 18),
    row(21, "IQ3_S", 256, 110),
    row(22, "IQ2_S", 256, 82),
    row(23, "IQ4_XS", 256, 136),
    row(24, "I8", 1, 1),
    row(25, "I16", 1, 2),
    row(26, "I32", 1, 4),
    row(27, "I64", 1, 8),
    row(28, "F64", 1, 8),
    row(29, "IQ1_M", 256, 56),
    row(30, "BF16", 1, 2),
    row(34, "TQ1_0", 256, 54),
    row(35, "TQ2_0", 256, 66),
    row(39, "MXFP4", 32, 17),
    row(40, "NVFP4", 64, 36),
    row(41, "Q1_0", 128, 18),
];

impl GgmlType {
    /// The type of a number.
    pub fn from_number(number: u32) -> Option<GgmlType> {
        GGML_TYPES.iter().copied().find(|row| row.number == number)
    }

    /// Bytes of a tensor whose rows have `columns` elements; `None` when rows aren't whole blocks, or when the
    /// number is too large.
    pub fn tensor_bytes(self, rows: usize, columns: usize) -> Option<usize> {
        let blocks =
            columns.is_multiple_of(self.block_elems).then(|| columns / self.block_elems)?;
        rows.checked_mul(blocks)?.checked_mul(self.block_bytes)
    }
}

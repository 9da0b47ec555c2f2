//! What can be wrong with a GGUF file.

/// Why a GGUF file wasn't read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum GgufError {
    #[error("it doesn't begin with `GGUF`")]
    Magic,

    #[error(
        "it has version {0}; versions 2 and 3 are read: convert the model anew with a current llama.cpp"
    )]
    Version(u32),

    #[error(
        "its numbers are big-endian; only little-endian files are read: convert it with llama.cpp's gguf_convert_endian.py"
    )]
    BigEndian,

    #[error("it ends at byte {length}, within {what}: download it again")]
    Truncated { what: String, length: usize },

    #[error("it claims {count} {what}, and has room for {room} at most")]
    Count { what: String, count: u64, room: usize },

    #[error("{what} isn't UTF-8")]
    Utf8 { what: String },

    #[error("metadata `{key}`: there is no value type {number}")]
    ValueType { key: String, number: u32 },

    #[error("metadata `{key}`: arrays lie in arrays more than {MAX_DEPTH} deep")]
    Depth { key: String },

    #[error("metadata `{key}`: a truth value is {value}, not 0 or 1")]
    Truth { key: String, value: u8 },

    #[error("metadata `{key}` is there twice")]
    DuplicateKey { key: String },

    #[error("metadata `{key}` is missing")]
    MissingKey { key: String },

    #[error("metadata `{key}` is {found}, not {expected}")]
    KeyType { key: String, found: &'static str, expected: &'static str },

    #[error("metadata `{key}`: {problem}")]
    Key { key: String, problem: String },

    #[error("metadata `general.alignment` is {0}, not a power of two up to 2^30")]
    Alignment(u64),

    #[error(
        "it is one of {0} parts of a model: join them with llama.cpp's `llama-gguf-split --merge`"
    )]
    Split(u64),

    #[error("tensor `{name}` is there twice")]
    DuplicateTensor { name: String },

    #[error("tensor `{name}` has {rank} dimensions; 1 to 4 are possible")]
    Rank { name: String, rank: u32 },

    #[error("tensor `{name}`: there is no element type {number}; the types are {}", type_names())]
    ElementType { name: String, number: u32 },

    #[error("tensor `{name}`: dimensions {dims:?} are empty or too many bytes")]
    Dims { name: String, dims: Vec<u64> },

    #[error(
        "tensor `{name}`: rows of {columns} elements are no whole blocks of {block} {dtype} elements"
    )]
    Blocks { name: String, columns: u64, block: usize, dtype: &'static str },

    #[error(
        "tensor `{name}` begins at byte {offset} of the data, which is no multiple of {alignment}"
    )]
    Unaligned { name: String, offset: u64, alignment: usize },

    #[error(
        "tensor `{name}` takes {bytes} bytes at byte {offset} of the data, which has {data}: download the file again"
    )]
    OutOfBounds { name: String, offset: u64, bytes: usize, data: usize },

    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap { first: String, second: String },
}

/// Arrays within arrays, at most.
pub(super) const MAX_DEPTH: usize = 4;

fn type_names() -> String {
    let names: Vec<&str> = super::GGML_TYPES.iter().map(|row| row.name).collect();
    names.join(", ")
}

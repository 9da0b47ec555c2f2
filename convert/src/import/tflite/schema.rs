//! The tables of TFLite's `schema.fbs` that inference reads, by hand.
//!
//! A table is decoded once, through the verifier of the `flatbuffers` crate: it checks every offset
//! and bounds depth, number of tables and the bytes that are reached in all, so that a hostile file can
//! neither lead out of the buffer nor unfold to many times its size. Contents of buffers stay where they
//! are, as ranges of the file. Numbers of fields and enumerations are those of the schema, version 3.

use std::ops::Range;

use flatbuffers::{InvalidFlatbuffer, Verifier, VerifierOptions};

/// Something decoded, or why the bytes don't hold it.
pub(super) type Decoded<T> = Result<T, InvalidFlatbuffer>;

/// What stands at a place of the file: a number, or the offset of something larger.
pub(super) trait Decode: Sized {
    /// `at`: where the number or the offset is.
    fn decode(verifier: &mut Verifier<'_, '_>, bytes: &[u8], at: usize) -> Decoded<Self>;
}

fn array<const N: usize>(
    verifier: &mut Verifier<'_, '_>,
    bytes: &[u8],
    at: usize,
) -> Decoded<[u8; N]> {
    verifier.range_in_buffer(at, N)?;
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    Ok(array)
}

/// Where the offset at `at` leads.
fn follow(verifier: &mut Verifier<'_, '_>, bytes: &[u8], at: usize) -> Decoded<usize> {
    let offset = u32::from_le_bytes(array(verifier, bytes, at)?);
    Ok(at.saturating_add(offset as usize))
}

/// The elements of a vector, as bytes of the file.
fn elements(
    verifier: &mut Verifier<'_, '_>,
    bytes: &[u8],
    at: usize,
    size: usize,
) -> Decoded<Range<usize>> {
    let start = follow(verifier, bytes, at)?;
    let count = u32::from_le_bytes(array(verifier, bytes, start)?) as usize;
    // `array` has shown that these four bytes are there.
    let start = start + 4;
    let len = count.saturating_mul(size);
    verifier.range_in_buffer(start, len)?;
    Ok(start..start + len)
}

macro_rules! numbers {
    ($($number:ty)*) => { $(
        impl Decode for $number {
            fn decode(verifier: &mut Verifier<'_, '_>, bytes: &[u8], at: usize) -> Decoded<Self> {
                Ok(<$number>::from_le_bytes(array(verifier, bytes, at)?))
            }
        }

        impl Decode for Vec<$number> {
            fn decode(verifier: &mut Verifier<'_, '_>, bytes: &[u8], at: usize) -> Decoded<Self> {
                const SIZE: usize = size_of::<$number>();
                let range = elements(verifier, bytes, at, SIZE)?;
                let number = |chunk: &[u8]| {
                    <$number>::from_le_bytes(chunk.try_into().expect("chunks of this size"))
                };
                Ok(bytes[range].chunks_exact(SIZE).map(number).collect())
            }
        }
    )* };
}
numbers!(i8 u8 i32 u32 i64 u64 f32);

impl Decode for bool {
    fn decode(verifier: &mut Verifier<'_, '_>, bytes: &[u8], at: usize) -> Decoded<Self> {
        Ok(u8::decode(verifier, bytes, at)? != 0)
    }
}

impl Decode for String {
    fn decode(verifier: &mut Verifier<'_, '_>, bytes: &[u8], at: usize) -> Decoded<Self> {
        let range = elements(verifier, bytes, at, 1)?;
        Ok(String::from_utf8_lossy(&bytes[range]).into_owned())
    }
}

/// Bytes of the file.
impl Decode for Range<usize> {
    fn decode(verifier: &mut Verifier<'_, '_>, bytes: &[u8], at: usize) -> Decoded<Self> {
        elements(verifier, bytes, at, 1)
    }
}

/// Where something is that is decoded later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(usize);

impl Decode for Place {
    fn decode(_: &mut Verifier<'_, '_>, _: &[u8], at: usize) -> Decoded<Self> {
        Ok(Place(at))
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(verifier: &mut Verifier<'_, '_>, bytes: &[u8], at: usize) -> Decoded<Self> {
        T::decode(verifier, bytes, at).map(Some)
    }
}

/// A table with options of an operator.
pub(super) trait Options: Decode + Default {
    /// Its number in the union `BuiltinOptions`.
    const TYPE: u8;
}

/// Declares tables: fields with their types, their numbers and, where it isn't zero, their default.
macro_rules! tables {
    ($(
        $(#[$meta:meta])*
        $name:ident $(($type:literal))? {
            $($(#[$doc:meta])* $field:ident: $kind:ty = $number:literal $(($default:expr))?,)*
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub(super) struct $name {
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: tables!(@default $($default)?),)* }
            }
        }

        impl Decode for $name {
            #[allow(unused_mut, unused_variables, reason = "a table without fields")]
            fn decode(verifier: &mut Verifier<'_, '_>, bytes: &[u8], at: usize) -> Decoded<Self> {
                let at = follow(verifier, bytes, at)?;
                let mut result = $name::default();
                let mut table = verifier.visit_table(at)?;
                $(
                    // The first two numbers of a vtable are sizes.
                    if let Some(at) = table.deref(4 + 2 * $number)? {
                        result.$field = <$kind>::decode(table.verifier(), bytes, at)?;
                    }
                )*
                table.finish();
                Ok(result)
            }
        }

        impl Decode for Vec<$name> {
            fn decode(verifier: &mut Verifier<'_, '_>, bytes: &[u8], at: usize) -> Decoded<Self> {
                let offsets = elements(verifier, bytes, at, 4)?;
                offsets.step_by(4).map(|at| $name::decode(verifier, bytes, at)).collect()
            }
        }

        $(impl Options for $name {
            const TYPE: u8 = $type;
        })?
    )* };
    (@default) => { Default::default() };
    (@default $default:expr) => { $default };
}

tables! {
    Model {
        version: u32 = 0,
        operator_codes: Vec<OperatorCode> = 1,
        subgraphs: Vec<SubGraph> = 2,
        description: String = 3,
        buffers: Vec<Buffer> = 4,
        metadata: Vec<Metadata> = 6,
        signatures: Vec<Signature> = 7,
    }
    OperatorCode {
        /// Codes below 127 in files of older converters.
        deprecated_builtin_code: i8 = 0,
        custom_code: String = 1,
        version: i32 = 2 (1),
        builtin_code: i32 = 3,
    }
    Buffer {
        data: Range<usize> = 0,
        /// Of data behind the tables, in files above 2 GB.
        offset: u64 = 1,
        size: u64 = 2,
    }
    Metadata {
        name: String = 0,
        buffer: u32 = 1,
    }
    Signature {
        inputs: Vec<SignatureTensor> = 0,
        outputs: Vec<SignatureTensor> = 1,
        key: String = 2,
        subgraph: u32 = 4,
    }
    SignatureTensor {
        name: String = 0,
        tensor: u32 = 1,
    }
    SubGraph {
        tensors: Vec<Tensor> = 0,
        inputs: Vec<i32> = 1,
        outputs: Vec<i32> = 2,
        operators: Vec<Operator> = 3,
        name: String = 4,
    }
    Tensor {
        shape: Vec<i32> = 0,
        kind: i8 = 1,
        buffer: u32 = 2,
        name: String = 3,
        quantization: Option<Quantization> = 4,
        is_variable: bool = 5,
        sparsity: Option<Place> = 6,
        /// The shape, with −1 for dimensions that may change.
        shape_signature: Vec<i32> = 7,
    }
    Quantization {
        scale: Vec<f32> = 2,
        zero_point: Vec<i64> = 3,
        /// Not 0 for a kind of quantization of its own.
        details_type: u8 = 4,
        axis: i32 = 6,
    }
    Operator {
        opcode_index: u32 = 0,
        inputs: Vec<i32> = 1,
        outputs: Vec<i32> = 2,
        options_type: u8 = 3,
        options: Option<Place> = 4,
        /// Tensors that a layer keeps to itself; their quantization counts.
        intermediates: Vec<i32> = 8,
    }
    Conv2dOptions (1) {
        padding: i8 = 0,
        stride_w: i32 = 1,
        stride_h: i32 = 2,
        activation: i8 = 3,
        dilation_w: i32 = 4 (1),
        dilation_h: i32 = 5 (1),
    }
    DepthwiseConv2dOptions (2) {
        padding: i8 = 0,
        stride_w: i32 = 1,
        stride_h: i32 = 2,
        activation: i8 = 4,
        dilation_w: i32 = 5 (1),
        dilation_h: i32 = 6 (1),
    }
    Pool2dOptions (5) {
        padding: i8 = 0,
        stride_w: i32 = 1,
        stride_h: i32 = 2,
        filter_w: i32 = 3,
        filter_h: i32 = 4,
        activation: i8 = 5,
    }
    SvdfOptions (6) {
        rank: i32 = 0,
        activation: i8 = 1,
    }
    SequenceLstmOptions (71) {
        activation: i8 = 0,
        cell_clip: f32 = 1,
        projection_clip: f32 = 2,
        time_major: bool = 3,
    }
    CallOnceOptions (103) {
        subgraph: i32 = 0,
    }
    VarHandleOptions (111) {
        container: String = 0,
        shared_name: String = 1,
    }
    FullyConnectedOptions (8) {
        activation: i8 = 0,
        weights_format: i8 = 1,
        keep_num_dims: bool = 2,
        asymmetric_quantize_inputs: bool = 3,
    }
    SoftmaxOptions (9) {
        beta: f32 = 0,
    }
    ConcatenationOptions (10) {
        axis: i32 = 0,
        activation: i8 = 1,
    }
    AddOptions (11) {
        activation: i8 = 0,
    }
    L2NormOptions (12) {
        activation: i8 = 0,
    }
    ResizeBilinearOptions (15) {
        align_corners: bool = 2,
        half_pixel_centers: bool = 3,
    }
    ReshapeOptions (17) {
        new_shape: Option<Vec<i32>> = 0,
    }
    SpaceToDepthOptions (19) {
        block_size: i32 = 0,
    }
    MulOptions (21) {
        activation: i8 = 0,
    }
    GatherOptions (23) {
        axis: i32 = 0,
        batch_dims: i32 = 1,
    }
    ReducerOptions (27) {
        keep_dims: bool = 0,
    }
    SubOptions (28) {
        activation: i8 = 0,
    }
    DivOptions (29) {
        activation: i8 = 0,
    }
    SqueezeOptions (30) {
        axes: Vec<i32> = 0,
    }
    StridedSliceOptions (32) {
        begin_mask: i32 = 0,
        end_mask: i32 = 1,
        ellipsis_mask: i32 = 2,
        new_axis_mask: i32 = 3,
        shrink_axis_mask: i32 = 4,
        /// The ends count from the beginnings.
        offset: bool = 5,
    }
    SplitOptions (35) {
        num_splits: i32 = 0,
    }
    CastOptions (37) {
        from: i8 = 0,
        to: i8 = 1,
    }
    ArgMaxOptions (40) {
        output_type: i8 = 0,
    }
    TransposeConvOptions (49) {
        padding: i8 = 0,
        stride_w: i32 = 1,
        stride_h: i32 = 2,
        activation: i8 = 3,
    }
    ShapeOptions (55) {
        output_type: i8 = 0,
    }
    ArgMinOptions (57) {
        output_type: i8 = 0,
    }
    PackOptions (59) {
        count: i32 = 0,
        axis: i32 = 1,
    }
    OneHotOptions (61) {
        axis: i32 = 0,
    }
    UnpackOptions (64) {
        count: i32 = 0,
        axis: i32 = 1,
    }
    ResizeNearestNeighborOptions (74) {
        align_corners: bool = 0,
        half_pixel_centers: bool = 1,
    }
    LeakyReluOptions (75) {
        alpha: f32 = 0,
    }
    MirrorPadOptions (77) {
        /// 0 leaves out the edge itself (reflect), 1 repeats it (symmetric).
        mode: i8 = 0,
    }
    SplitVOptions (79) {
        num_splits: i32 = 0,
    }
    ReverseSequenceOptions (87) {
        sequence_axis: i32 = 0,
        batch_axis: i32 = 1,
    }
    DepthToSpaceOptions (94) {
        block_size: i32 = 0,
    }
    BatchMatMulOptions (101) {
        adjoint_x: bool = 0,
        adjoint_y: bool = 1,
        asymmetric_quantize_inputs: bool = 2,
    }
    CumsumOptions (102) {
        exclusive: bool = 0,
        reverse: bool = 1,
    }
    GeluOptions (116) {
        approximate: bool = 0,
    }
}

/// Values of `TensorType`.
pub(super) mod tensor_type {
    pub(crate) const FLOAT32: i8 = 0;
    pub(crate) const FLOAT16: i8 = 1;
    pub(crate) const INT32: i8 = 2;
    pub(crate) const UINT8: i8 = 3;
    pub(crate) const INT64: i8 = 4;
    pub(crate) const BOOL: i8 = 6;
    pub(crate) const INT16: i8 = 7;
    pub(crate) const INT8: i8 = 9;
    pub(crate) const BFLOAT16: i8 = 18;

    const NAMES: [&str; 21] = [
        "FLOAT32",
        "FLOAT16",
        "INT32",
        "UINT8",
        "INT64",
        "STRING",
        "BOOL",
        "INT16",
        "COMPLEX64",
        "INT8",
        "FLOAT64",
        "COMPLEX128",
        "UINT64",
        "RESOURCE",
        "VARIANT",
        "UINT32",
        "UINT16",
        "INT4",
        "BFLOAT16",
        "INT2",
        "UINT4",
    ];

    /// The name in the schema.
    pub(crate) fn name(number: i8) -> String {
        let name = usize::try_from(number).ok().and_then(|n| NAMES.get(n));
        name.map_or_else(|| format!("type #{number}"), |name| (*name).to_owned())
    }
}

/// Values of `Padding`.
pub(super) const PADDING_SAME: i8 = 0;
/// Values of `Padding`.
pub(super) const PADDING_VALID: i8 = 1;

/// Tables in one another at most; the schema nests five.
const MAX_DEPTH: usize = 16;

fn limits(bytes: &[u8]) -> VerifierOptions {
    VerifierOptions {
        max_depth: MAX_DEPTH,
        max_tables: 1_000_000,
        // Tables of one kind share a description of some tens of bytes, which counts for each of them.
        max_apparent_size: bytes.len().saturating_mul(16).saturating_add(1 << 16),
        ignore_missing_null_terminator: true,
    }
}

/// The model in a file.
pub(super) fn model(bytes: &[u8]) -> Decoded<Model> {
    let limits = limits(bytes);
    Model::decode(&mut Verifier::new(&limits, bytes), bytes, 0)
}

/// The options of an operator, or their defaults when it has none.
pub(super) fn options<T: Options>(bytes: &[u8], operator: &Operator) -> Decoded<Option<T>> {
    match operator.options {
        Some(Place(at)) if operator.options_type == T::TYPE => {
            let limits = limits(bytes);
            T::decode(&mut Verifier::new(&limits, bytes), bytes, at).map(Some)
        }
        None => Ok(Some(T::default())),
        Some(_) if operator.options_type == 0 => Ok(Some(T::default())),
        Some(_) => Ok(None),
    }
}

//! The table of the kernels: files, names, threads of a block.

/// A file of kernels, compiled as a whole.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
}

/// What files include.
pub(crate) static HEADERS: [File; 3] = [
    File { name: "common.h", source: include_str!("kernels/common.h") },
    File { name: "conv_f32.h", source: include_str!("kernels/conv_f32.h") },
    File { name: "patch_i8.h", source: include_str!("kernels/patch_i8.h") },
];

/// Oldest architecture with the products of `conv_i8_mma.cu` and `conv_bf16_mma.cu`.
pub(crate) const MMA_ARCHITECTURE: [u32; 2] = [8, 0];

/// A kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    pub(crate) file: &'static File,
    /// Name of the struct that it takes.
    pub(crate) arguments: &'static str,
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Whether threads of a block wait for each other, which decides how the host runs them.
    #[cfg(any(test, feature = "cuda-emulation"))]
    pub(crate) waits: bool,
}

macro_rules! kernels {
    ($(
        $FILE:ident = $file:literal {
            $( $KERNEL:ident: $name:literal($Arguments:ident), $threads:literal $(, $waits:ident)?; )*
        }
    )*) => {
        $(
            pub(crate) static $FILE: File =
                File { name: $file, source: include_str!(concat!("kernels/", $file)) };
            $(
                pub(crate) static $KERNEL: Kernel = Kernel {
                    name: $name,
                    file: &$FILE,
                    arguments: stringify!($Arguments),
                    threads: $threads,
                    #[cfg(any(test, feature = "cuda-emulation"))]
                    waits: kernels!(@waits $($waits)?),
                };
            )*
        )*

        /// Every file.
        #[cfg(any(test, feature = "cuda-emulation"))]
        pub(crate) static FILES: &[&File] = &[$(&$FILE),*];

        /// Every kernel.
        #[cfg(test)]
        pub(crate) static KERNELS: &[&Kernel] = &[$($(&$KERNEL),*),*];
    };
    (@waits waits) => { true };
    (@waits) => { false };
}

kernels! {
    CONV_I8_FILE = "conv_i8.cu" {
        CONV_I8_DP4A: "conv_i8_dp4a"(ConvI8), 128, waits;
        DENSE_I8_DP4A: "dense_i8_dp4a"(ConvI8), 256, waits;
        DEPTHWISE_I8: "depthwise_i8"(DepthwiseI8), 128;
    }
    LAYERS_F32_FILE = "layers_f32.cu" {
        CONV_F32: "conv_f32"(ConvF32), 256, waits;
        CONV_F16: "conv_f16"(ConvF32), 256, waits;
        CONV_BF16: "conv_bf16"(ConvF32), 256, waits;
        CONV_W8: "conv_w8"(ConvF32), 256, waits;
        CONV_W4: "conv_w4"(ConvF32), 256, waits;
        CONV_W5: "conv_w5"(ConvF32), 256, waits;
        CONV_W6: "conv_w6"(ConvF32), 256, waits;
        CONV_W4NL: "conv_w4nl"(ConvF32), 256, waits;
        DENSE_F32_1: "dense_f32_1"(ConvF32), 256, waits;
        DENSE_F32_4: "dense_f32_4"(ConvF32), 256, waits;
        DENSE_F16_1: "dense_f16_1"(ConvF32), 256, waits;
        DENSE_F16_4: "dense_f16_4"(ConvF32), 256, waits;
        DENSE_BF16_1: "dense_bf16_1"(ConvF32), 256, waits;
        DENSE_BF16_4: "dense_bf16_4"(ConvF32), 256, waits;
        DENSE_W8_1: "dense_w8_1"(ConvF32), 256, waits;
        DENSE_W8_4: "dense_w8_4"(ConvF32), 256, waits;
        DENSE_W4_1: "dense_w4_1"(ConvF32), 256, waits;
        DENSE_W4_4: "dense_w4_4"(ConvF32), 256, waits;
        DENSE_W5_1: "dense_w5_1"(ConvF32), 256, waits;
        DENSE_W5_4: "dense_w5_4"(ConvF32), 256, waits;
        DENSE_W6_1: "dense_w6_1"(ConvF32), 256, waits;
        DENSE_W6_4: "dense_w6_4"(ConvF32), 256, waits;
        DENSE_W4NL_1: "dense_w4nl_1"(ConvF32), 256, waits;
        DENSE_W4NL_4: "dense_w4nl_4"(ConvF32), 256, waits;
        DEPTHWISE_F32: "depthwise_f32"(DepthwiseF32), 128;
    }
    CONV_I8_MMA_FILE = "conv_i8_mma.cu" {
        CONV_I8_MMA: "conv_i8_mma"(ConvI8), 128, waits;
    }
    CONV_BF16_MMA_FILE = "conv_bf16_mma.cu" {
        CONV_BF16_MMA: "conv_bf16_mma"(ConvF32), 128, waits;
    }
    POOL_FILE = "pool.cu" {
        POOL_I8: "pool_i8"(Pool), 128;
        POOL_I16: "pool_i16"(Pool), 128;
        POOL_F32: "pool_f32"(Pool), 128;
    }
    SOFTMAX_FILE = "softmax.cu" {
        SOFTMAX_I8: "softmax_i8"(Softmax), 128, waits;
        SOFTMAX_I16: "softmax_i16"(Softmax), 128, waits;
        SOFTMAX_F32: "softmax_f32"(Softmax), 128, waits;
    }
    ELEMENTWISE_FILE = "elementwise.cu" {
        BINARY_I8: "binary_i8"(BinaryQuantized), 256;
        BINARY_I16: "binary_i16"(BinaryQuantized), 256;
        LUT_I8: "lut_i8"(Lut), 256;
        LUT_I16: "lut_i16"(Lut), 256;
        QUANTIZE_I8: "quantize_i8"(Quantize), 256;
        QUANTIZE_U8: "quantize_u8"(Quantize), 256;
        QUANTIZE_I16: "quantize_i16"(Quantize), 256;
        DEQUANTIZE_I8: "dequantize_i8"(Quantize), 256;
        DEQUANTIZE_U8: "dequantize_u8"(Quantize), 256;
        DEQUANTIZE_I16: "dequantize_i16"(Quantize), 256;
        DEQUANTIZE_I32: "dequantize_i32"(Quantize), 256;
    }
    MOVES_FILE = "moves.cu" {
        MOVE_1: "move_1"(Move), 256;
        MOVE_2: "move_2"(Move), 256;
        MOVE_4: "move_4"(Move), 256;
        MOVE_8: "move_8"(Move), 256;
        PAD_1: "pad_1"(Pad), 256;
        PAD_2: "pad_2"(Pad), 256;
        PAD_4: "pad_4"(Pad), 256;
        PAD_8: "pad_8"(Pad), 256;
        GATHER_1: "gather_1"(Gather), 256;
        GATHER_2: "gather_2"(Gather), 256;
        GATHER_4: "gather_4"(Gather), 256;
        GATHER_8: "gather_8"(Gather), 256;
    }
    REDUCE_FILE = "reduce.cu" {
        REDUCE_I8: "reduce_i8"(Reduce), 128, waits;
        REDUCE_I16: "reduce_i16"(Reduce), 128, waits;
        REDUCE_I32: "reduce_i32"(Reduce), 128, waits;
        REDUCE_I64: "reduce_i64"(Reduce), 128, waits;
        REDUCE_F32: "reduce_f32"(Reduce), 128, waits;
        NORMALIZE_F32: "normalize_f32"(Normalize), 256, waits;
    }
    FUNCTIONS_FILE = "functions.cu" {
        UNARY_F32: "unary_f32"(Unary), 256;
        UNARY_I32: "unary_i32"(Unary), 256;
        UNARY_I64: "unary_i64"(Unary), 256;
        UNARY_I16: "unary_i16"(Unary), 256;
        RARE_UNARY_F32: "rare_unary_f32"(Unary), 256;
        GATED_F32: "gated_f32"(Gated), 256;
        BINARY_F32: "binary_f32"(BinaryF32), 256;
    }
    MATMUL_FILE = "matmul.cu" {
        MATMUL_F32: "matmul_f32"(MatMul), 256, waits;
        MATMUL_I32: "matmul_i32"(MatMul), 256, waits;
        MATMUL_I64: "matmul_i64"(MatMul), 256, waits;
    }
    ATTENTION_FILE = "attention.cu" {
        ATTENTION_F32: "attention_f32"(Attention), 128, waits;
        CACHE_CHECK: "cache_check"(CachedAttention), 256;
        CACHE_WRITE: "cache_write"(CachedAttention), 256, waits;
        CACHE_WRITE_F32: "cache_write_f32"(CachedAttention), 256, waits;
        CACHE_WRITE_Q8: "cache_write_q8"(CachedAttention), 256, waits;
        CACHED_ATTENTION: "cached_attention"(CachedAttention), 128, waits;
        CACHED_ATTENTION_F32: "cached_attention_f32"(CachedAttention), 128, waits;
        CACHED_ATTENTION_Q8: "cached_attention_q8"(CachedAttention), 128, waits;
        CACHED_ATTENTION_PART_1: "cached_attention_part_1"(CachedAttention), 128, waits;
        CACHED_ATTENTION_PART_4: "cached_attention_part_4"(CachedAttention), 128, waits;
        CACHED_ATTENTION_F32_PART_1: "cached_attention_f32_part_1"(CachedAttention), 128, waits;
        CACHED_ATTENTION_F32_PART_4: "cached_attention_f32_part_4"(CachedAttention), 128, waits;
        CACHED_ATTENTION_Q8_PART_1: "cached_attention_q8_part_1"(CachedAttention), 128, waits;
        CACHED_ATTENTION_Q8_PART_4: "cached_attention_q8_part_4"(CachedAttention), 128, waits;
        CACHED_ATTENTION_JOIN: "cached_attention_join"(CachedAttention), 128;
        CROSS_CHECK: "cross_check"(CrossAttention), 256;
        CROSS_WRITE: "cross_write"(CrossAttention), 256;
        CROSS_ATTENTION: "cross_attention"(CrossAttention), 128, waits;
        CROSS_WEIGHTS: "cross_weights"(CrossAttention), 128, waits;
    }
    ATTENTION_I8_FILE = "attention_i8.cu" {
        ATTENTION_I8: "attention_i8"(AttentionI8), 128, waits;
    }
    INTEGERS_FILE = "integers.cu" {
        COMPARE_F32: "compare_f32"(Elements), 256;
        COMPARE_I8: "compare_i8"(Elements), 256;
        COMPARE_U8: "compare_u8"(Elements), 256;
        COMPARE_I32: "compare_i32"(Elements), 256;
        COMPARE_I64: "compare_i64"(Elements), 256;
        BINARY_BOOL: "binary_bool"(Elements), 256;
        BINARY_I32: "binary_i32"(Elements), 256;
        BINARY_I64: "binary_i64"(Elements), 256;
        NOT_BOOL: "not_bool"(Elements), 256;
        WHERE_1: "where_1"(Where), 256;
        WHERE_2: "where_2"(Where), 256;
        WHERE_4: "where_4"(Where), 256;
        WHERE_8: "where_8"(Where), 256;
        CAST: "cast"(Cast), 256;
        ARG_REDUCE_F32: "arg_reduce_f32"(ArgReduce), 128;
        ARG_REDUCE_I8: "arg_reduce_i8"(ArgReduce), 128;
        ARG_REDUCE_I32: "arg_reduce_i32"(ArgReduce), 128;
        ARG_REDUCE_I64: "arg_reduce_i64"(ArgReduce), 128;
    }
    RESIZE_FILE = "resize.cu" {
        RESIZE_F32: "resize_f32"(Resize), 128;
        RESIZE_I8: "resize_i8"(Resize), 128;
        RESIZE_I16: "resize_i16"(Resize), 128;
        NEAREST_1: "nearest_1"(Nearest), 256;
        NEAREST_2: "nearest_2"(Nearest), 256;
        NEAREST_4: "nearest_4"(Nearest), 256;
        INTERPOLATE: "interpolate"(Interpolate), 256;
    }
    RECURRENT_FILE = "recurrent.cu" {
        LSTM_F32: "lstm_f32"(Recurrent), 512, waits;
        GRU_F32: "gru_f32"(Recurrent), 512, waits;
        RNN_F32: "rnn_f32"(Recurrent), 512, waits;
        QUANTIZED_LSTM: "quantized_lstm"(QuantizedLstm), 512, waits;
    }
    INDEXED_FILE = "indexed.cu" {
        GATHER_ELEMENTS_1: "gather_elements_1"(GatherElements), 256;
        GATHER_ELEMENTS_2: "gather_elements_2"(GatherElements), 256;
        GATHER_ELEMENTS_4: "gather_elements_4"(GatherElements), 256;
        GATHER_ELEMENTS_8: "gather_elements_8"(GatherElements), 256;
        GATHER_ND_1: "gather_nd_1"(GatherNd), 256;
        GATHER_ND_2: "gather_nd_2"(GatherNd), 256;
        GATHER_ND_4: "gather_nd_4"(GatherNd), 256;
        GATHER_ND_8: "gather_nd_8"(GatherNd), 256;
        SCATTER_ELEMENTS_1: "scatter_elements_1"(ScatterElements), 256;
        SCATTER_ELEMENTS_2: "scatter_elements_2"(ScatterElements), 256;
        SCATTER_ELEMENTS_4: "scatter_elements_4"(ScatterElements), 256;
        SCATTER_ELEMENTS_8: "scatter_elements_8"(ScatterElements), 256;
        SCATTER_ELEMENTS_F32: "scatter_elements_f32"(ScatterElements), 256;
        SCATTER_ELEMENTS_I32: "scatter_elements_i32"(ScatterElements), 256;
        SCATTER_ELEMENTS_I64: "scatter_elements_i64"(ScatterElements), 256;
        SCATTER_ND_1: "scatter_nd_1"(ScatterNd), 256;
        SCATTER_ND_2: "scatter_nd_2"(ScatterNd), 256;
        SCATTER_ND_4: "scatter_nd_4"(ScatterNd), 256;
        SCATTER_ND_8: "scatter_nd_8"(ScatterNd), 256;
        SCATTER_ND_F32: "scatter_nd_f32"(ScatterNd), 256;
        SCATTER_ND_I32: "scatter_nd_i32"(ScatterNd), 256;
        SCATTER_ND_I64: "scatter_nd_i64"(ScatterNd), 256;
        TOP_K_F32: "top_k_f32"(TopK), 256;
        TOP_K_I8: "top_k_i8"(TopK), 256;
        TOP_K_I32: "top_k_i32"(TopK), 256;
        TOP_K_I64: "top_k_i64"(TopK), 256;
        CUMULATIVE_F32: "cumulative_f32"(Cumulative), 128;
        CUMULATIVE_I32: "cumulative_i32"(Cumulative), 128;
        CUMULATIVE_I64: "cumulative_i64"(Cumulative), 128;
        REVERSE_SEQUENCE_1: "reverse_sequence_1"(ReverseSequence), 256;
        REVERSE_SEQUENCE_2: "reverse_sequence_2"(ReverseSequence), 256;
        REVERSE_SEQUENCE_4: "reverse_sequence_4"(ReverseSequence), 256;
        REVERSE_SEQUENCE_8: "reverse_sequence_8"(ReverseSequence), 256;
    }
    CONV_I16_FILE = "conv_i16.cu" {
        CONV_I16: "conv_i16"(ConvI16), 128;
        DEPTHWISE_I16: "depthwise_i16"(ConvI16), 128;
    }
    WINDOWS_FILE = "windows.cu" {
        CONV_ND_F32: "conv_nd_f32"(ConvNd), 128;
        CONV_ND_I32: "conv_nd_i32"(ConvNd), 128;
        POOL_ND_I8: "pool_nd_i8"(PoolNd), 128;
        POOL_ND_U8: "pool_nd_u8"(PoolNd), 128;
        MAX_POOL_ND_F32: "max_pool_nd_f32"(PoolNd), 128;
        AVERAGE_POOL_ND_F32: "average_pool_nd_f32"(PoolNd), 128;
        NORM_POOL_ND_F32: "norm_pool_nd_f32"(PoolNd), 128;
    }
    SAMPLING_FILE = "sampling.cu" {
        GRID_SAMPLE: "grid_sample"(GridSample), 128;
        ROI_ALIGN: "roi_align"(RoiAlign), 128;
        SUPPRESS_BOXES: "suppress_boxes"(NonMaxSuppression), 256, waits;
        JOIN_BOXES: "join_boxes"(NonMaxSuppression), 256, waits;
    }
    DECODER_FILE = "decoder.cu" {
        EMBEDDING: "embedding"(Embedding), 256;
        ROTARY: "rotary"(Rotary), 128, waits;
    }
}

#[cfg(test)]
mod tests {
    use super::super::arguments::STRUCTS;
    use super::*;

    /// Size and alignment of a C++ type.
    fn layout(ty: &str) -> (usize, usize) {
        match ty {
            "u64" => (8, 8),
            "u32" | "i32" | "f32" => (4, 4),
            name => {
                let (_, bytes, fields) = STRUCTS.iter().find(|(own, ..)| *own == name).unwrap();
                let align = fields
                    .iter()
                    .map(|(ty, _)| layout(ty.trim_matches(['[']).split(';').next().unwrap()).1);
                (*bytes, align.max().unwrap())
            }
        }
    }

    /// The fields of a struct of C++, as Rust writes them.
    fn fields_of(source: &str, name: &str) -> Vec<(String, String)> {
        let start = source.find(&format!("struct {name} {{")).expect(name);
        let body = &source[start..][..source[start..].find("};").unwrap()];
        let lines = body
            .lines()
            .skip(1)
            .map(str::trim)
            .filter(|line| !line.starts_with("//") && !line.is_empty());
        lines
            .map(|line| {
                let line = line.split("//").next().unwrap().trim().trim_end_matches(';');
                let (ty, field) = line.split_once(' ').expect(line);
                match field.split_once('[') {
                    Some((field, count)) => {
                        (format!("[{ty}; {}]", count.trim_end_matches(']')), field.to_owned())
                    }
                    None => (ty.to_owned(), field.to_owned()),
                }
            })
            .collect()
    }

    #[test]
    fn arguments_are_the_structs_of_the_sources() {
        let sources: String =
            HEADERS.iter().chain(FILES.iter().copied()).map(|file| file.source).collect();
        for (name, bytes, fields) in STRUCTS {
            let own: Vec<(String, String)> =
                fields.iter().map(|(ty, field)| ((*ty).to_owned(), (*field).to_owned())).collect();
            assert_eq!(own, fields_of(&sources, name), "{name}");
            // C++ leaves no gap.
            let (mut at, mut most) = (0, 1);
            for (ty, field) in *fields {
                let (element, count) = match ty.strip_prefix('[') {
                    Some(array) => {
                        let (element, count) =
                            array.trim_end_matches(']').split_once("; ").unwrap();
                        (element, count.parse().unwrap())
                    }
                    None => (*ty, 1),
                };
                let (size, align) = layout(element);
                assert_eq!(at % align, 0, "{name}.{field}");
                (at, most) = (at + size * count, most.max(align));
            }
            assert_eq!((at, at % most), (*bytes, 0), "{name}");
        }
    }

    #[test]
    fn the_table_is_what_the_sources_have() {
        for file in FILES {
            let mut found: Vec<&str> = vec![];
            for rest in file.source.split("KERNEL(").skip(1) {
                let declared = rest.split(')').next().unwrap();
                let parts: Vec<&str> = declared.split(", ").collect();
                let [name, threads, arguments] = parts[..] else { panic!("{declared}") };
                let kernel = KERNELS.iter().find(|kernel| kernel.name == name);
                let kernel = kernel.unwrap_or_else(|| panic!("{name} is not in the table"));
                assert_eq!(kernel.file.name, file.name, "{name}");
                assert_eq!(
                    (kernel.threads.to_string().as_str(), kernel.arguments),
                    (threads, arguments),
                    "{name}"
                );
                assert!(kernel.threads.is_multiple_of(32), "{name}: warps are whole");
                assert!(STRUCTS.iter().any(|(own, ..)| own == &arguments), "{name}: {arguments}");
                found.push(name);
            }
            let listed: Vec<&str> = KERNELS
                .iter()
                .filter(|kernel| kernel.file.name == file.name)
                .map(|k| k.name)
                .collect();
            assert_eq!(listed, found, "{}", file.name);
        }
    }
}

//! The arguments of kernels, as the structs of C++ have them.

use crate::format::Field;

/// The arguments of a kernel: a struct of C++ in bytes.
pub(crate) trait Arguments: Field {
    /// The struct's name.
    const NAME: &'static str;
}

macro_rules! arguments {
    ($( $(#[$meta:meta])* struct $Name:ident { $( $field:ident: $ty:ty, )* } )*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, Default)]
            pub(crate) struct $Name {
                $( pub(crate) $field: $ty, )*
            }

            impl Field for $Name {
                const SIZE: usize = $(<$ty as Field>::SIZE +)* 0;
                #[allow(unused_assignments, reason = "the offset after the last field is not read")]
                fn read(bytes: &[u8]) -> Self {
                    let mut at = 0;
                    $(
                        let $field = <$ty as Field>::read(bytes.get(at..).unwrap_or(&[]));
                        at += <$ty as Field>::SIZE;
                    )*
                    $Name { $($field),* }
                }
                #[allow(unused_assignments, reason = "the offset after the last field is not read")]
                fn write(self, bytes: &mut [u8]) {
                    let mut at = 0;
                    $(
                        self.$field.write(&mut bytes[at..]);
                        at += <$ty as Field>::SIZE;
                    )*
                }
            }

            impl Arguments for $Name {
                const NAME: &'static str = stringify!($Name);
            }
        )*

        /// Name, bytes and fields (type, name) of every struct.
        #[cfg(test)]
        pub(crate) static STRUCTS: &[(&str, usize, &[(&str, &str)])] = &[$(
            (stringify!($Name), $Name::SIZE, &[$( (stringify!($ty), stringify!($field)) ),*]),
        )*];
    };
}

arguments! {
    /// Where accumulators of an i8 layer go.
    struct EpilogueI8 {
        bias: u64,
        scale: u64,
        fixed_point: u64,
        residual: u64,
        zero_point: i32,
        min: i32,
        max: i32,
        scale_conv: f32,
        scale_data: f32,
        residual_zero_point: i32,
        out_zero_point: i32,
        residual_min: i32,
        residual_max: i32,
        reserved: u32,
    }

    /// Sizes of a convolution, pooling or layer.
    struct ConvShape {
        pixels: u32,
        in_h: u32,
        in_w: u32,
        in_c: u32,
        out_h: u32,
        out_w: u32,
        out_c: u32,
        kernel_h: u32,
        kernel_w: u32,
        stride_h: u32,
        stride_w: u32,
        dilation_h: u32,
        dilation_w: u32,
        pad_top: u32,
        pad_left: u32,
        group_in_c: u32,
        group_out_c: u32,
        panels: u32,
    }

    struct ConvI8 {
        input: u64,
        weights: u64,
        output: u64,
        epilogue: EpilogueI8,
        shape: ConvShape,
        k: u32,
        input_zero_point: i32,
        aligned: u32,
        reserved: u32,
    }

    struct DepthwiseI8 {
        input: u64,
        weights: u64,
        output: u64,
        epilogue: EpilogueI8,
        shape: ConvShape,
        input_zero_point: i32,
        reserved: u32,
    }

    /// Weights of a float layer.
    struct Weights {
        data: u64,
        upper: u64,
        scales: u64,
        minima: u64,
        scale_factors: u64,
        minimum_factors: u64,
        k: u32,
        group_size: u32,
        scale_kind: u32,
        reserved: u32,
    }

    struct ConvF32 {
        input: u64,
        output: u64,
        bias: u64,
        residual: u64,
        weights: Weights,
        shape: ConvShape,
        min: f32,
        max: f32,
        pointwise: u32,
        aligned: u32,
    }

    struct DepthwiseF32 {
        input: u64,
        weights: u64,
        output: u64,
        bias: u64,
        residual: u64,
        shape: ConvShape,
        min: f32,
        max: f32,
        half_weights: u32,
        reserved: u32,
    }

    struct Attention {
        q: u64,
        k: u64,
        v: u64,
        mask: u64,
        output: u64,
        mask_strides: [u64; 4],
        heads: u32,
        kv_heads: u32,
        queries: u32,
        keys: u32,
        size: u32,
        value_size: u32,
        scale: f32,
        softcap: f32,
        zero_rows: u32,
        causal: u32,
        offset: u32,
        reserved: u32,
    }

    struct AttentionI8 {
        q: u64,
        k: u64,
        v: u64,
        mask: u64,
        output: u64,
        mask_strides: [u64; 4],
        heads: u32,
        kv_heads: u32,
        queries: u32,
        keys: u32,
        size: u32,
        value_size: u32,
        scale: f32,
        output_scale: f32,
        q_zero_point: i32,
        k_zero_point: i32,
        v_zero_point: i32,
        zero_point: i32,
        causal: u32,
        offset: u32,
    }

    struct CachedAttention {
        x: u64,
        positions: u64,
        sequences: u64,
        keys: u64,
        values: u64,
        key_scales: u64,
        value_scales: u64,
        output: u64,
        status: u64,
        scratch: u64,
        tokens: u32,
        heads: u32,
        kv_heads: u32,
        size: u32,
        sequence_count: u32,
        context: u32,
        window: u32,
        step: u32,
        scale: f32,
        softcap: f32,
        parts: u32,
        reserved: u32,
    }

    struct CrossAttention {
        x: u64,
        fresh: u64,
        keys: u64,
        values: u64,
        output: u64,
        chosen: u64,
        weights: u64,
        status: u64,
        tokens: u32,
        heads: u32,
        kv_heads: u32,
        size: u32,
        positions: u32,
        scale: f32,
        chosen_count: u32,
        step: u32,
    }

    struct Elements {
        a: u64,
        b: u64,
        output: u64,
        strides_a: [u64; 8],
        strides_b: [u64; 8],
        extents: [u32; 8],
        rank: u32,
        elements: u32,
        kind: u32,
        reserved: u32,
    }

    struct Where {
        condition: u64,
        a: u64,
        b: u64,
        output: u64,
        strides_condition: [u64; 8],
        strides_a: [u64; 8],
        strides_b: [u64; 8],
        extents: [u32; 8],
        rank: u32,
        elements: u32,
    }

    struct Cast {
        input: u64,
        output: u64,
        elements: u32,
        from: u32,
        to: u32,
        reserved: u32,
    }

    struct ArgReduce {
        input: u64,
        output: u64,
        outputs: u32,
        extent: u32,
        inner: u32,
        least: u32,
        last: u32,
        reserved: u32,
    }

    struct Embedding {
        ids: u64,
        output: u64,
        status: u64,
        table: Weights,
        rows: u32,
        elements: u32,
        step: u32,
        form: u32,
        wide_ids: u32,
        scale: f32,
    }

    struct Rotary {
        input: u64,
        output: u64,
        positions: u64,
        table: u64,
        query_scale: u64,
        key_scale: u64,
        status: u64,
        heads: u32,
        kv_heads: u32,
        size: u32,
        rotated: u32,
        interleaved: u32,
        rows: u32,
        epsilon: f32,
        step: u32,
    }

    struct Unary {
        input: u64,
        output: u64,
        elements: u32,
        kind: u32,
        alpha: f32,
        beta: f32,
        scale: f32,
        shift: f32,
    }

    struct Gated {
        input: u64,
        output: u64,
        elements: u32,
        width: u32,
        kind: u32,
        reserved: u32,
    }

    struct BinaryF32 {
        a: u64,
        b: u64,
        output: u64,
        strides_a: [u64; 8],
        strides_b: [u64; 8],
        extents: [u32; 8],
        rank: u32,
        elements: u32,
        kind: u32,
        min: f32,
        max: f32,
        reserved: u32,
    }

    struct MatMul {
        a: u64,
        b: u64,
        output: u64,
        strides_a: [u64; 8],
        strides_b: [u64; 8],
        extents: [u32; 8],
        rank: u32,
        m: u32,
        k: u32,
        n: u32,
        row_a: u32,
        column_a: u32,
        row_b: u32,
        column_b: u32,
    }

    struct Gather {
        data: u64,
        indices: u64,
        output: u64,
        status: u64,
        extent: u32,
        inner: u32,
        count: u32,
        elements: u32,
        step: u32,
        wide: u32,
    }

    struct Normalize {
        input: u64,
        output: u64,
        scale: u64,
        bias: u64,
        row: u32,
        centred: u32,
        epsilon: f32,
        reserved: u32,
    }

    struct Pool {
        input: u64,
        output: u64,
        shape: ConvShape,
        kind: u32,
        pad_bottom: u32,
        pad_right: u32,
        counts_padding: u32,
        input_zero_point: i32,
        zero_point: i32,
        scale: f32,
        min: i32,
        max: i32,
        reserved: u32,
    }

    struct Softmax {
        input: u64,
        output: u64,
        table: u64,
        extent: u32,
        inner: u32,
        inverse_scale: f32,
        zero_point: i32,
        log: u32,
        reserved: u32,
    }

    struct BinaryQuantized {
        a: u64,
        b: u64,
        output: u64,
        strides_a: [u64; 8],
        strides_b: [u64; 8],
        extents: [u32; 8],
        rank: u32,
        elements: u32,
        kind: u32,
        zero_point_a: i32,
        zero_point_b: i32,
        zero_point: i32,
        scale_a: f32,
        scale_b: f32,
        min: i32,
        max: i32,
    }

    struct Lut {
        input: u64,
        output: u64,
        table: u64,
        elements: u32,
        bits: u32,
    }

    struct Quantize {
        input: u64,
        output: u64,
        scales: u64,
        zero_points: u64,
        elements: u32,
        extent: u32,
        inner: u32,
        scale: f32,
        zero_point: i32,
        reserved: u32,
    }

    struct Move {
        input: u64,
        output: u64,
        input_strides: [u64; 8],
        output_strides: [u64; 8],
        extents: [u32; 8],
        rank: u32,
        elements: u32,
    }

    struct Pad {
        input: u64,
        output: u64,
        value: u64,
        input_strides: [u64; 8],
        input_extents: [u32; 8],
        before: [u32; 8],
        extents: [u32; 8],
        rank: u32,
        elements: u32,
        mode: u32,
        reserved: u32,
    }

    struct Reduce {
        input: u64,
        output: u64,
        fixed_point: u64,
        kept_strides: [u64; 8],
        reduced_strides: [u64; 8],
        kept_extents: [u32; 8],
        reduced_extents: [u32; 8],
        kept_rank: u32,
        reduced_rank: u32,
        outputs: u32,
        count: u32,
        kind: u32,
        input_zero_point: i32,
        zero_point: i32,
        scale: f32,
        min: i32,
        max: i32,
    }

    struct Blended {
        stride: u64,
        extent: u32,
        out_extent: u32,
        out_inner: u32,
        scale: f32,
    }

    struct Resize {
        input: u64,
        output: u64,
        input_strides: [u64; 8],
        out_inner: [u32; 8],
        extents: [u32; 8],
        first: Blended,
        second: Blended,
        third: Blended,
        rank: u32,
        blended: u32,
        elements: u32,
        mode: u32,
        coordinates: u32,
        cubic_coefficient: f32,
        exclude_outside: u32,
        zero_point: i32,
    }

    struct Nearest {
        input: u64,
        output: u64,
        input_strides: [u64; 8],
        input_extents: [u32; 8],
        extents: [u32; 8],
        scales: [f32; 8],
        resized: u32,
        rank: u32,
        elements: u32,
        coordinates: u32,
        rounding: u32,
        reserved: u32,
    }

    struct Interpolate {
        input: u64,
        indices: u64,
        weights: u64,
        output: u64,
        status: u64,
        extent: u32,
        out_extent: u32,
        inner: u32,
        taps: u32,
        elements: u32,
        step: u32,
    }

    struct Recurrent {
        gates: u64,
        weights: u64,
        lengths: u64,
        initial: u64,
        extra: u64,
        more: u64,
        every: u64,
        last: u64,
        last_cell: u64,
        time: u32,
        batch: u32,
        directions: u32,
        hidden: u32,
        backwards: u32,
        variant: u32,
        clip: f32,
        cell_clip: f32,
        functions: [u32; 6],
        alpha: [f32; 6],
        beta: [f32; 6],
    }

    struct QuantizedLstm {
        input: u64,
        weights: u64,
        state_weights: u64,
        bias: u64,
        initial: u64,
        initial_cell: u64,
        tables: [u64; 3],
        every: u64,
        last: u64,
        last_cell: u64,
        time: u32,
        batch: u32,
        inputs: u32,
        hidden: u32,
        batch_first: u32,
        bits: [u32; 3],
        input_scale: [f32; 4],
        state_scale: [f32; 4],
        output_scale: f32,
        cell_shift: u32,
        cell_bound: i32,
        zero_point: i32,
        panels: u32,
        reserved: u32,
    }

    struct GatherElements {
        data: u64,
        indices: u64,
        output: u64,
        status: u64,
        strides: [u64; 8],
        along: u64,
        extents: [u32; 8],
        rank: u32,
        extent: u32,
        elements: u32,
        step: u32,
        wide: u32,
        reserved: u32,
    }

    struct GatherNd {
        data: u64,
        indices: u64,
        output: u64,
        status: u64,
        strides: [u64; 8],
        batch_stride: u64,
        extents: [u32; 8],
        tuple: u32,
        per_batch: u32,
        block: u32,
        elements: u32,
        step: u32,
        wide: u32,
    }

    struct ScatterElements {
        indices: u64,
        updates: u64,
        output: u64,
        status: u64,
        strides: [u64; 8],
        along: u64,
        extents: [u32; 8],
        rank: u32,
        lines: u32,
        count: u32,
        inner: u32,
        extent: u32,
        reduction: u32,
        step: u32,
        wide: u32,
    }

    struct ScatterNd {
        indices: u64,
        updates: u64,
        output: u64,
        status: u64,
        strides: [u64; 8],
        extents: [u32; 8],
        tuple: u32,
        places: u32,
        block: u32,
        shares: u32,
        reduction: u32,
        step: u32,
        wide: u32,
        reserved: u32,
    }

    struct TopK {
        input: u64,
        values: u64,
        indices: u64,
        extent: u32,
        inner: u32,
        kept: u32,
        elements: u32,
        smallest: u32,
        reserved: u32,
    }

    struct Cumulative {
        input: u64,
        output: u64,
        extent: u32,
        inner: u32,
        columns: u32,
        kind: u32,
        exclusive: u32,
        reverse: u32,
    }

    struct ReverseSequence {
        input: u64,
        lengths: u64,
        output: u64,
        status: u64,
        rows: u32,
        columns: u32,
        block: u32,
        time: u32,
        elements: u32,
        step: u32,
        wide: u32,
        reserved: u32,
    }

    struct ConvI16 {
        input: u64,
        weights: u64,
        output: u64,
        bias: u64,
        scale: u64,
        shape: ConvShape,
        k: u32,
        min: i32,
        max: i32,
        in_panels: u32,
    }

    struct Windows {
        input: [u32; 3],
        output: [u32; 3],
        kernel: [u32; 3],
        stride: [u32; 3],
        dilation: [u32; 3],
        pad: [u32; 3],
    }

    struct ConvNd {
        input: u64,
        weights: u64,
        bias: u64,
        output: u64,
        windows: Windows,
        in_c: u32,
        out_c: u32,
        group_in_c: u32,
        group_out_c: u32,
        elements: u32,
        min: f32,
        max: f32,
        reserved: u32,
    }

    struct PoolNd {
        input: u64,
        output: u64,
        positions: u64,
        windows: Windows,
        pad_after: [u32; 3],
        channels: u32,
        elements: u32,
        kind: u32,
        counts_padding: u32,
        p: f32,
        inverse_p: f32,
        column_major: u32,
    }

    struct GridSample {
        input: u64,
        grid: u64,
        output: u64,
        extents: [u32; 3],
        axes: u32,
        channels: u32,
        places: u32,
        elements: u32,
        mode: u32,
        padding: u32,
        align_corners: u32,
    }

    struct RoiAlign {
        input: u64,
        regions: u64,
        images: u64,
        output: u64,
        status: u64,
        count: u32,
        channels: u32,
        height: u32,
        width: u32,
        out_height: u32,
        out_width: u32,
        elements: u32,
        mode: u32,
        sampling_ratio: u32,
        spatial_scale: f32,
        half_pixel: u32,
        step: u32,
        wide: u32,
        reserved: u32,
    }

    struct NonMaxSuppression {
        boxes: u64,
        scores: u64,
        output: u64,
        groups: u32,
        classes: u32,
        count: u32,
        most: u32,
        iou_threshold: f32,
        score_threshold: f32,
        has_score_threshold: u32,
        center_point_box: u32,
    }
}

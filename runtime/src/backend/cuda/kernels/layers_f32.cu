// Convolutions and layers on f32, with weights of floats or of groups of integers. Sums are fused multiply-adds. With weights in
// bf16, inputs are rounded to bf16, too.
#include "common.h"
#include "conv_f32.h"

// An input as it is multiplied.
template <Form form>
__device__ inline f32 factor(f32 x) {
    return form == BF16 ? bf16_to_float(float_to_bf16(x)) : x;
}

#define TILE 64
#define TILE_K 16

// Grid: blocks of 64 pixels, blocks of four panels of all groups. A thread has four pixels by four channels.
template <Form form>
__device__ inline void conv_tile(const ConvF32& a) {
    __shared__ float4 x_tile[TILE_K][TILE / 4 + 1];  // one more, so that columns lie in different banks
    __shared__ float4 w_tile[TILE_K][TILE / 4];
    const ConvShape& s = a.shape;
    const u32 quads = (s.panels + 3) / 4, group = blockIdx.y / quads, quad = blockIdx.y % quads;
    const u32 tx = threadIdx.x % 16, ty = threadIdx.x / 16, first_pixel = blockIdx.x * TILE;
    const f32* input = (const f32*)a.input;
    f32 acc[4][4] = {};
    for (u32 first = 0; first < a.weights.k; first += TILE_K) {
        // Pixel by input for x, input by output for weights.
        const u32 k = first + tx;
        for (u32 i = 0; i < 4; i++) {
            const u32 row = ty + 16 * i, pixel = first_pixel + row;
            f32 x = 0.0f;
            if (pixel < s.pixels && k < a.weights.k) {
                i64 at;
                if (a.pointwise) {
                    at = (i64)pixel * s.in_c + k;
                } else {
                    const u32 tap = k / s.group_in_c;
                    at = input_pixel(s, window_of(s, pixel), tap / s.kernel_w, tap % s.kernel_w);
                    if (at >= 0) at += group * s.group_in_c + k % s.group_in_c;
                }
                if (at >= 0) x = factor<form>(input[at]);
            }
            ((f32*)x_tile[tx])[row] = x;
            const u32 panel = quad * 4 + i, weight_k = first + ty;
            const bool inside = panel < s.panels && weight_k < a.weights.k;
            ((f32*)w_tile[ty])[i * 16 + tx] =
                inside ? weight_at<form>(a.weights, group * s.panels + panel, weight_k, tx) : 0.0f;
        }
        __syncthreads();
        for (u32 k_in_tile = 0; k_in_tile < TILE_K; k_in_tile++) {
            const float4 x = x_tile[k_in_tile][ty], w = w_tile[k_in_tile][tx];
            const f32 xs[4] = {x.x, x.y, x.z, x.w}, ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
#pragma unroll
                for (u32 j = 0; j < 4; j++) acc[i][j] = __fmaf_rn(xs[i], ws[j], acc[i][j]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            const u32 pixel = first_pixel + 4 * ty + i, channel = quad * TILE + 4 * tx + j;
            if (pixel < s.pixels && channel < s.group_out_c) store(a, pixel, group, channel, acc[i][j]);
        }
    }
}

KERNEL(conv_f32, 256, ConvF32) { conv_tile<F32>(a); }
KERNEL(conv_f16, 256, ConvF32) { conv_tile<F16>(a); }
KERNEL(conv_bf16, 256, ConvF32) { conv_tile<BF16>(a); }
KERNEL(conv_w8, 256, ConvF32) { conv_tile<W8>(a); }
KERNEL(conv_w4, 256, ConvF32) { conv_tile<W4>(a); }
KERNEL(conv_w5, 256, ConvF32) { conv_tile<W5>(a); }
KERNEL(conv_w6, 256, ConvF32) { conv_tile<W6>(a); }
KERNEL(conv_w4nl, 256, ConvF32) { conv_tile<W4NL>(a); }

// Four columns from `column` on of the weights of an input, or of a word of inputs: four words, of f16 two.
template <Form form>
__device__ inline int4 load_weights(const Weights& w, u64 panel_start, u32 load, u32 column) {
    const u64 at = panel_start + (u64)load * 16 + column;
    if (form == F16) {
        const int2 two = *(const int2*)((const u16*)w.data + at);
        const int4 four = {two.x, two.y, 0, 0};
        return four;
    }
    return *(const int4*)((const u32*)w.data + at);
}

// The weights of four columns, by input; integers of groups without their scale, and with the bits of `upper` from bit `place` of bytes on.
template <Form form, u32 inputs>
__device__ inline void widen(const Weights& w, const int4& four, const int4& upper, u32 place, f32 (&q)[inputs][4]) {
    constexpr u32 bits = upper_bits(form);
    const u32 words[4] = {(u32)four.x, (u32)four.y, (u32)four.z, (u32)four.w};
    const u32 uppers[4] = {(u32)upper.x, (u32)upper.y, (u32)upper.z, (u32)upper.w};
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
#pragma unroll
        for (u32 i = 0; i < inputs; i++) {
            if (form == F32 || form == F16) {
                q[i][j] = form == F32 ? __uint_as_float(words[j])
                                      : half_to_float((u16)(words[j / 2] >> (16 * (j % 2))));
                continue;
            }
            if (form == BF16) {
                q[i][j] = bf16_to_float((u16)(words[j] >> (16 * i)));
                continue;
            }
            if (form == W4NL) {
                const u32 nibble = 2 * (i % 4) + i / 4;
                q[i][j] = __int2float_rn((i8)(nonlinear(words[j] >> (16 * (nibble / 4))) >> (8 * (nibble % 4))));
                continue;
            }
            const u32 shift = 8 * (i % 4) + (i < 4 ? 0 : 4);
            i32 value = form == W8 ? (i8)(words[j] >> shift) : (i32)(words[j] >> shift & 15);
            if (bits > 0) {
                value |= (i32)(uppers[j] >> (8 * (i % 4) + place + (i < 4 ? 0 : bits)) & ((1 << bits) - 1)) << 4;
            }
            q[i][j] = __int2float_rn(w.minima == 0 ? value - surplus_of(form) : value);
        }
    }
}

// Inputs from `first` on of a row; zeros behind the last.
template <u32 inputs>
__device__ inline void load_inputs(const f32* x, u32 first, u32 k, u32 aligned, f32 (&values)[inputs]) {
    if (inputs % 4 == 0 && aligned) {
#pragma unroll
        for (u32 i = 0; i < inputs; i += 4) {
            const float4 four = *(const float4*)(x + first + i);
            values[i] = four.x, values[i + 1] = four.y, values[i + 2] = four.z, values[i + 3] = four.w;
        }
        return;
    }
#pragma unroll
    for (u32 i = 0; i < inputs; i++) values[i] = first + i < k ? x[first + i] : 0.0f;
}

// Few rows. Grid: blocks of `rows` rows, panels. A lane has four columns, and every 64th load of weights, of which the next is
// under way while one is multiplied.
template <Form form, u32 rows>
__device__ inline void dense_rows(const ConvF32& a) {
    __shared__ f32 sums[8][rows][16];
    const ConvShape& s = a.shape;
    const Weights& w = a.weights;
    constexpr u32 inputs = inputs_per_word(form), unit = words_per_unit(form), bits = upper_bits(form);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, column = 4 * (lane % 4);
    const u32 first_row = blockIdx.x * rows, rows_left = s.pixels - first_row, panel = blockIdx.y;
    const u32 loads = parts_of(w.k, inputs);
    const u64 panel_start = (u64)panel * words_of(form, w.k) * 16;
    const f32* x = (const f32*)a.input + (u64)first_row * w.k;
    f32 acc[rows][4] = {};
    u32 load = warp * 8 + lane / 4;
    int4 next = {0, 0, 0, 0};
    if (load < loads) next = load_weights<form>(w, panel_start, load, column);
    for (; load < loads; load += 64) {
        const int4 four = next;
        if (load + 64 < loads) next = load_weights<form>(w, panel_start, load + 64, column);
        f32 q[inputs][4], scale[4] = {1.0f, 1.0f, 1.0f, 1.0f}, minimum[4] = {};
        int4 upper = {0, 0, 0, 0};
        if (bits > 0) upper = *(const int4*)((const u32*)w.upper + panel_start / unit + (u64)(load / unit) * 16 + column);
        widen<form, inputs>(w, four, upper, 2 * bits * (load % unit), q);
        const u32 first = load * inputs;
        if (form >= W8) {
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                scale[j] = scale_at(w, w.scales, w.scale_factors, panel, first, column + j);
                if (w.minima != 0) minimum[j] = scale_at(w, w.minima, w.minimum_factors, panel, first, column + j);
            }
        }
#pragma unroll
        for (u32 row = 0; row < rows; row++) {
            if (row >= rows_left) break;
            f32 values[inputs], products[4] = {}, sum = 0.0f;
            load_inputs<inputs>(x + (u64)row * w.k, first, w.k, a.aligned, values);
#pragma unroll
            for (u32 i = 0; i < inputs; i++) {
                values[i] = factor<form>(values[i]);
                sum = __fadd_rn(sum, values[i]);
#pragma unroll
                for (u32 j = 0; j < 4; j++) products[j] = __fmaf_rn(values[i], q[i][j], products[j]);
            }
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                acc[row][j] = __fmaf_rn(products[j], scale[j], acc[row][j]);
                if (w.minima != 0) acc[row][j] = __fmaf_rn(sum, minimum[j], acc[row][j]);
            }
        }
    }
#pragma unroll
    for (u32 row = 0; row < rows; row++) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            for (i32 lanes = 4; lanes < WARP; lanes *= 2) {
                acc[row][j] = __fadd_rn(acc[row][j], __shfl_xor_sync(ALL_LANES, acc[row][j], lanes));
            }
            if (lane < 4) sums[warp][row][column + j] = acc[row][j];
        }
    }
    __syncthreads();
    const u32 row = threadIdx.x / 16, channel = panel * 16 + threadIdx.x % 16;
    if (row >= rows || row >= rows_left || channel >= s.group_out_c) return;
    f32 sum = 0.0f;
    for (u32 i = 0; i < 8; i++) sum = __fadd_rn(sum, sums[i][row][threadIdx.x % 16]);
    store(a, first_row + row, 0, channel, sum);
}

KERNEL(dense_f32_1, 256, ConvF32) { dense_rows<F32, 1>(a); }
KERNEL(dense_f32_4, 256, ConvF32) { dense_rows<F32, 4>(a); }
KERNEL(dense_f16_1, 256, ConvF32) { dense_rows<F16, 1>(a); }
KERNEL(dense_f16_4, 256, ConvF32) { dense_rows<F16, 4>(a); }
KERNEL(dense_bf16_1, 256, ConvF32) { dense_rows<BF16, 1>(a); }
KERNEL(dense_bf16_4, 256, ConvF32) { dense_rows<BF16, 4>(a); }
KERNEL(dense_w8_1, 256, ConvF32) { dense_rows<W8, 1>(a); }
KERNEL(dense_w8_4, 256, ConvF32) { dense_rows<W8, 4>(a); }
KERNEL(dense_w4_1, 256, ConvF32) { dense_rows<W4, 1>(a); }
KERNEL(dense_w4_4, 256, ConvF32) { dense_rows<W4, 4>(a); }
KERNEL(dense_w5_1, 256, ConvF32) { dense_rows<W5, 1>(a); }
KERNEL(dense_w5_4, 256, ConvF32) { dense_rows<W5, 4>(a); }
KERNEL(dense_w6_1, 256, ConvF32) { dense_rows<W6, 1>(a); }
KERNEL(dense_w6_4, 256, ConvF32) { dense_rows<W6, 4>(a); }
KERNEL(dense_w4nl_1, 256, ConvF32) { dense_rows<W4NL, 1>(a); }
KERNEL(dense_w4nl_4, 256, ConvF32) { dense_rows<W4NL, 4>(a); }

struct DepthwiseF32 {
    u64 input;
    u64 weights;
    u64 output;
    u64 bias;
    u64 residual;
    ConvShape shape;
    f32 min;
    f32 max;
    // 1: weights are f16.
    u32 half_weights;
    u32 reserved;
};

// A thread has one output.
KERNEL(depthwise_f32, 128, DepthwiseF32) {
    const ConvShape& s = a.shape;
    const u32 at = thread_index();
    if (at >= s.pixels * s.out_c) return;
    const u32 channel = at % s.out_c, padded = (s.out_c + 15) / 16 * 16;
    const Window window = window_of(s, at / s.out_c);
    f32 sum = 0.0f;
    for (u32 kh = 0; kh < s.kernel_h; kh++) {
        for (u32 kw = 0; kw < s.kernel_w; kw++) {
            const i64 from = input_pixel(s, window, kh, kw);
            if (from < 0) continue;
            const u64 tap = (u64)(kh * s.kernel_w + kw) * padded + channel;
            const f32 w = a.half_weights ? half_to_float(((const u16*)a.weights)[tap]) : ((const f32*)a.weights)[tap];
            sum = __fmaf_rn(((const f32*)a.input)[from + channel], w, sum);
        }
    }
    sum = __fadd_rn(sum, ((const f32*)a.bias)[channel]);
    if (a.residual != 0) sum = __fadd_rn(sum, ((const f32*)a.residual)[at]);
    ((f32*)a.output)[at] = clip(sum, a.min, a.max);
}

// Convolutions and layers on f32, with weights of floats or of groups of integers. Sums are fused multiply-adds.
#include "common.h"

struct ConvF32 {
    u64 input;
    u64 output;
    u64 bias;
    // 0, or a tensor of the output's shape to add; perhaps the output itself.
    u64 residual;
    Weights weights;
    ConvShape shape;
    f32 min;
    f32 max;
    // 1: an output pixel reads the input pixel of its number, and nothing else.
    u32 pointwise;
    u32 reserved;
};

__device__ inline void store(const ConvF32& a, u32 pixel, u32 group, u32 channel, f32 sum) {
    const ConvShape& s = a.shape;
    const u64 at = (u64)pixel * s.out_c + group * s.group_out_c + channel;
    sum = __fadd_rn(sum, ((const f32*)a.bias)[group * s.panels * 16 + channel]);
    if (a.residual != 0) sum = __fadd_rn(sum, ((const f32*)a.residual)[at]);
    ((f32*)a.output)[at] = clip(sum, a.min, a.max);
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
                if (at >= 0) x = input[at];
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
KERNEL(conv_w8, 256, ConvF32) { conv_tile<W8>(a); }
KERNEL(conv_w4, 256, ConvF32) { conv_tile<W4>(a); }

// Inputs that one load of weights covers.
template <Form form>
__device__ constexpr u32 inputs_per_load() { return form == W8 ? 4 : (form == W4 ? 8 : 1); }

// Four columns from `column` on of the weights of `inputs_per_load` inputs, times x, added up.
template <Form form, u32 rows>
__device__ inline void multiply(const Weights& w, u32 panel, u32 load, u32 column, const f32* x, u32 stride,
                                u32 rows_left, f32 (&acc)[rows][4]) {
    const u32 inputs = inputs_per_load<form>(), loads = (w.k + inputs - 1) / inputs, first = load * inputs;
    const u64 at = ((u64)panel * loads + load) * 16 + column;
    f32 q[inputs][4];
    if (form == F32) {
        const float4 four = *(const float4*)((const f32*)w.data + at);
        q[0][0] = four.x, q[0][1] = four.y, q[0][2] = four.z, q[0][3] = four.w;
    } else if (form == F16) {
        const int2 four = *(const int2*)((const u16*)w.data + at);
        q[0][0] = half_to_float((u16)four.x), q[0][1] = half_to_float((u16)((u32)four.x >> 16));
        q[0][2] = half_to_float((u16)four.y), q[0][3] = half_to_float((u16)((u32)four.y >> 16));
    } else {
        const int4 four = *(const int4*)((const u32*)w.data + at);
        const u32 words[4] = {(u32)four.x, (u32)four.y, (u32)four.z, (u32)four.w};
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
#pragma unroll
            for (u32 i = 0; i < inputs; i++) {
                const u32 shift = 8 * (i % 4) + (i < 4 ? 0 : 4);
                const i32 value = form == W8 ? (i8)(words[j] >> shift) : (i32)(words[j] >> shift & 15);
                q[i][j] = __int2float_rn(form == W4 && w.minima == 0 ? value - 8 : value);
            }
        }
    }
    f32 scale[4] = {1.0f, 1.0f, 1.0f, 1.0f}, minimum[4] = {};
    if (form == W8 || form == W4) {
        const u32 groups = (w.k + w.group_size - 1) / w.group_size;
        const u64 group = ((u64)panel * groups + first / w.group_size) * 16 + column;
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            scale[j] = scale_at(w.scales, w.wide, group + j);
            if (w.minima != 0) minimum[j] = scale_at(w.minima, w.wide, group + j);
        }
    }
#pragma unroll
    for (u32 row = 0; row < rows; row++) {
        if (row >= rows_left) break;
        f32 sums[4] = {}, sum_x = 0.0f;
#pragma unroll
        for (u32 i = 0; i < inputs; i++) {
            // What lies behind the last input has weights of 0, but may not be read.
            const f32 value = inputs == 1 || first + i < w.k ? x[row * stride + first + i] : 0.0f;
            sum_x = __fadd_rn(sum_x, value);
#pragma unroll
            for (u32 j = 0; j < 4; j++) sums[j] = __fmaf_rn(value, q[i][j], sums[j]);
        }
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            acc[row][j] = __fmaf_rn(sums[j], scale[j], acc[row][j]);
            if (w.minima != 0) acc[row][j] = __fmaf_rn(sum_x, minimum[j], acc[row][j]);
        }
    }
}

// Few rows. Grid: blocks of `rows` rows, panels. A lane has four columns, and every 64th load of weights.
template <Form form, u32 rows>
__device__ inline void dense_rows(const ConvF32& a) {
    __shared__ f32 sums[8][rows][16];
    const ConvShape& s = a.shape;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, column = 4 * (lane % 4);
    const u32 first_row = blockIdx.x * rows, rows_left = s.pixels - first_row, panel = blockIdx.y;
    const u32 inputs = inputs_per_load<form>(), loads = (a.weights.k + inputs - 1) / inputs;
    const f32* x = (const f32*)a.input + (u64)first_row * a.weights.k;
    f32 acc[rows][4] = {};
    for (u32 load = warp * 8 + lane / 4; load < loads; load += 64) {
        multiply<form, rows>(a.weights, panel, load, column, x, a.weights.k, rows_left, acc);
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
KERNEL(dense_w8_1, 256, ConvF32) { dense_rows<W8, 1>(a); }
KERNEL(dense_w8_4, 256, ConvF32) { dense_rows<W8, 4>(a); }
KERNEL(dense_w4_1, 256, ConvF32) { dense_rows<W4, 1>(a); }
KERNEL(dense_w4_4, 256, ConvF32) { dense_rows<W4, 4>(a); }

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

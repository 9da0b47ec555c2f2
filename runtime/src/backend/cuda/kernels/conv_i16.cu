// Convolution, depthwise convolution and layers on i16 with weights in i8. Sums are exact, in 64 bits; padding is 0. A thread has
// one output.
#include "common.h"

struct ConvI16 {
    u64 input;
    u64 weights;
    u64 output;
    // i64; these and the scales are padded as the weights are.
    u64 bias;
    u64 scale;
    ConvShape shape;
    // Sums of an output: kernel height × width × input channels of a group.
    u32 k;
    i32 min;
    i32 max;
    // 1: weights are panels of 16 outputs by 4 inputs, else dense.
    u32 in_panels;
};

__device__ inline void store(const ConvI16& a, u32 at, u32 channel, i64 sum) {
    sum = (i64)((u64)sum + (u64)((const i64*)a.bias)[channel]);
    const f32 real = __fmul_rn(__ll2float_rn(sum), ((const f32*)a.scale)[channel]);
    ((i16*)a.output)[at] = (i16)round_clamp(real, a.min, a.max);
}

KERNEL(conv_i16, 128, ConvI16) {
    const ConvShape& s = a.shape;
    const u32 at = thread_index();
    if (at >= s.pixels * s.out_c) return;
    const u32 channel = at % s.out_c, group = channel / s.group_out_c, own = channel % s.group_out_c;
    const Window window = window_of(s, at / s.out_c);
    const u32 panel = group * s.panels + own / 16, lane = own % 16;
    const i16* input = (const i16*)a.input + group * s.group_in_c;
    const i8* weights = (const i8*)a.weights;
    // Where the first weight lies; in panels four inputs in a row lie together.
    weights += a.in_panels ? (u64)panel * ((a.k + 3) / 4) * 64 + lane * 4 : (u64)channel * a.k;
    i64 sum = 0;
    u32 k = 0;
    for (u32 kh = 0; kh < s.kernel_h; kh++) {
        for (u32 kw = 0; kw < s.kernel_w; kw++) {
            const i64 from = input_pixel(s, window, kh, kw);
            if (from < 0) {
                k += s.group_in_c;
                continue;
            }
            for (u32 c = 0; c < s.group_in_c; c++, k++) {
                const i32 w = weights[a.in_panels ? (u64)(k / 4) * 64 + k % 4 : (u64)k];
                sum += (i32)input[from + c] * w;
            }
        }
    }
    store(a, at, a.in_panels ? panel * 16 + lane : channel, sum);
}

KERNEL(depthwise_i16, 128, ConvI16) {
    const ConvShape& s = a.shape;
    const u32 at = thread_index();
    if (at >= s.pixels * s.out_c) return;
    const u32 channel = at % s.out_c, padded = (s.out_c + 15) / 16 * 16;
    const Window window = window_of(s, at / s.out_c);
    const i8* weights = (const i8*)a.weights + channel;
    i64 sum = 0;
    for (u32 kh = 0; kh < s.kernel_h; kh++) {
        for (u32 kw = 0; kw < s.kernel_w; kw++) {
            const i64 from = input_pixel(s, window, kh, kw);
            if (from < 0) continue;
            sum += (i32)((const i16*)a.input)[from + channel] * (i32)weights[(u64)(kh * s.kernel_w + kw) * padded];
        }
    }
    store(a, at, channel, sum);
}

// Arguments of convolutions and layers on f32, and where their sums go.
#pragma once

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
    // 1: eight inputs in a row are two aligned loads.
    u32 aligned;
};

__device__ inline void store(const ConvF32& a, u32 pixel, u32 group, u32 channel, f32 sum) {
    const ConvShape& s = a.shape;
    const u64 at = (u64)pixel * s.out_c + group * s.group_out_c + channel;
    sum = __fadd_rn(sum, ((const f32*)a.bias)[group * s.panels * 16 + channel]);
    if (a.residual != 0) sum = __fadd_rn(sum, ((const f32*)a.residual)[at]);
    ((f32*)a.output)[at] = clip(sum, a.min, a.max);
}

// Convolutions and layers with weights in bf16 by tensor cores: products of 16 × 16 by 16 × 8, which are exact, sums in f32.
#include "common.h"
#include "conv_f32.h"

// Of compute capability: what the file is compiled for at least.
#define LEAST_ARCHITECTURE 80

#define TILE 64
// Words of two inputs that a block stages at a time: two products deep.
#define TILE_WORDS 16
// Rows of staged words, so long that the lanes of a product read different banks.
#define PATCH_ROW (TILE_WORDS + 4)
#define WEIGHT_ROW (TILE + 8)

// Inputs 2 · word and 2 · word + 1 of a pixel's window, rounded to bf16. Both are of one tap, since a group has an even number of channels.
__device__ inline u32 patch_pair(const ConvF32& a, u32 pixel, u32 group, u32 word) {
    const ConvShape& s = a.shape;
    const u32 k = 2 * word;
    i64 at;
    if (a.pointwise) {
        at = (i64)pixel * s.in_c + k;
    } else {
        const u32 tap = k / s.group_in_c;
        at = input_pixel(s, window_of(s, pixel), tap / s.kernel_w, tap % s.kernel_w);
        if (at < 0) return 0;
        at += group * s.group_in_c + k % s.group_in_c;
    }
    const f32* x = (const f32*)a.input + at;
    return (u32)float_to_bf16(x[0]) | (u32)float_to_bf16(x[1]) << 16;
}

// Grid: blocks of 64 pixels, blocks of four panels of all groups. Each of four warps has 32 pixels by 32 channels.
KERNEL(conv_bf16_mma, 128, ConvF32) {
    __shared__ u32 patches[TILE * PATCH_ROW];
    __shared__ int4 weights[TILE_WORDS * WEIGHT_ROW / 4];
    const ConvShape& s = a.shape;
    const u32 quads = (s.panels + 3) / 4, group = blockIdx.y / quads, quad = blockIdx.y % quads;
    const u32 words = a.weights.k / 2, first_pixel = blockIdx.x * TILE;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, row = lane / 4, word = lane % 4;
    const u32 warp_row = warp % 2 * 32, warp_column = warp / 2 * 32;
    f32 acc[2][4][4] = {};
    for (u32 first = 0; first < words; first += TILE_WORDS) {
        for (u32 i = threadIdx.x; i < TILE * TILE_WORDS; i += blockDim.x) {
            const u32 at = i / TILE_WORDS, own = i % TILE_WORDS, pixel = first_pixel + at;
            const bool inside = pixel < s.pixels && first + own < words;
            patches[at * PATCH_ROW + own] = inside ? patch_pair(a, pixel, group, first + own) : 0;
        }
        for (u32 i = threadIdx.x; i < TILE_WORDS * TILE / 4; i += blockDim.x) {
            const u32 own = i / 16, panel = quad * 4 + i % 16 / 4;
            const u64 at = ((u64)(group * s.panels + panel) * words + first + own) * 4 + i % 4;
            const bool inside = panel < s.panels && first + own < words;
            const int4 none = {0, 0, 0, 0};
            weights[own * (WEIGHT_ROW / 4) + i % 16] = inside ? ((const int4*)a.weights.data)[at] : none;
        }
        __syncthreads();
#pragma unroll
        for (u32 deep = 0; deep < TILE_WORDS; deep += 8) {
            u32 left[2][4], right[4][2];
#pragma unroll
            for (u32 m = 0; m < 2; m++) {
                const u32* patch = patches + (warp_row + 16 * m + row) * PATCH_ROW + deep + word;
                left[m][0] = patch[0];
                left[m][1] = patch[8 * PATCH_ROW];
                left[m][2] = patch[4];
                left[m][3] = patch[8 * PATCH_ROW + 4];
            }
#pragma unroll
            for (u32 n = 0; n < 4; n++) {
                const u32* weight = (const u32*)weights + (deep + word) * WEIGHT_ROW + warp_column + 8 * n + row;
                right[n][0] = weight[0];
                right[n][1] = weight[4 * WEIGHT_ROW];
            }
#pragma unroll
            for (u32 m = 0; m < 2; m++) {
#pragma unroll
                for (u32 n = 0; n < 4; n++) multiply_bf16(acc[m][n], left[m], right[n]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (u32 m = 0; m < 2; m++) {
#pragma unroll
        for (u32 n = 0; n < 4; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 pixel = first_pixel + warp_row + 16 * m + row + i / 2 * 8;
                const u32 channel = quad * TILE + warp_column + 8 * n + 2 * word + i % 2;
                if (pixel < s.pixels && channel < s.group_out_c) store(a, pixel, group, channel, acc[m][n][i]);
            }
        }
    }
}

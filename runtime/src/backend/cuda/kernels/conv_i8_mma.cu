// Convolution and layers on i8 by tensor cores: products of 16 × 32 by 32 × 8, sums in i32 that wrap.
#include "common.h"
#include "patch_i8.h"

// Of compute capability: what the file is compiled for at least.
#define LEAST_ARCHITECTURE 80

#define TILE 64
// Words of four inputs that a block stages at a time: two products deep.
#define TILE_WORDS 16
// Rows of staged words, so long that the lanes of a product read different banks.
#define PATCH_ROW (TILE_WORDS + 4)
#define WEIGHT_ROW (TILE + 8)

// Grid: blocks of 64 pixels, blocks of four panels of all groups. Each of four warps has 32 pixels by 32 channels.
KERNEL(conv_i8_mma, 128, ConvI8) {
    __shared__ i32 patches[TILE * PATCH_ROW];
    __shared__ int4 weights[TILE_WORDS * WEIGHT_ROW / 4];
    const ConvShape& s = a.shape;
    const u32 quads = (s.panels + 3) / 4, group = blockIdx.y / quads, quad = blockIdx.y % quads;
    const u32 words = (a.k + 3) / 4, first_pixel = blockIdx.x * TILE;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, row = lane / 4, word = lane % 4;
    const u32 warp_row = warp % 2 * 32, warp_column = warp / 2 * 32;
    i32 acc[2][4][4] = {};
    for (u32 first = 0; first < words; first += TILE_WORDS) {
        for (u32 i = threadIdx.x; i < TILE * TILE_WORDS; i += blockDim.x) {
            const u32 at = i / TILE_WORDS, own = i % TILE_WORDS, pixel = first_pixel + at;
            const bool inside = pixel < s.pixels && first + own < words;
            const i32 patch = inside ? patch_word(a, window_of(s, pixel), group * s.group_in_c, first + own) : 0;
            patches[at * PATCH_ROW + own] = patch;
        }
        for (u32 i = threadIdx.x; i < TILE_WORDS * TILE / 4; i += blockDim.x) {
            const u32 own = i / 16, panel = quad * 4 + i % 16 / 4;
            const u64 at = ((u64)(group * s.panels + panel) * words + first + own) * 4 + i % 4;
            const bool inside = panel < s.panels && first + own < words;
            const int4 none = {0, 0, 0, 0};
            weights[own * (WEIGHT_ROW / 4) + i % 16] = inside ? ((const int4*)a.weights)[at] : none;
        }
        __syncthreads();
#pragma unroll
        for (u32 deep = 0; deep < TILE_WORDS; deep += 8) {
            i32 left[2][4], right[4][2];
#pragma unroll
            for (u32 m = 0; m < 2; m++) {
                const i32* patch = patches + (warp_row + 16 * m + row) * PATCH_ROW + deep + word;
                left[m][0] = patch[0];
                left[m][1] = patch[8 * PATCH_ROW];
                left[m][2] = patch[4];
                left[m][3] = patch[8 * PATCH_ROW + 4];
            }
#pragma unroll
            for (u32 n = 0; n < 4; n++) {
                const i32* weight = (const i32*)weights + (deep + word) * WEIGHT_ROW + warp_column + 8 * n + row;
                right[n][0] = weight[0];
                right[n][1] = weight[4 * WEIGHT_ROW];
            }
#pragma unroll
            for (u32 m = 0; m < 2; m++) {
#pragma unroll
                for (u32 n = 0; n < 4; n++) multiply_i8(acc[m][n], left[m], right[n]);
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
                if (pixel >= s.pixels || channel >= s.group_out_c) continue;
                const u32 at = pixel * s.out_c + group * s.group_out_c + channel;
                ((i8*)a.output)[at] = requantize_i8(a.epilogue, acc[m][n][i], group * s.panels * 16 + channel, at);
            }
        }
    }
}

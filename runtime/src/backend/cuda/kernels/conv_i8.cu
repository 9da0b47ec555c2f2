// Convolution, depthwise convolution and layers on i8: products of four by __dp4a, sums in i32 that wrap.
#include "common.h"
#include "patch_i8.h"

struct DepthwiseI8 {
    u64 input;
    u64 weights;
    u64 output;
    EpilogueI8 epilogue;
    ConvShape shape;
    i32 input_zero_point;
    u32 reserved;
};

// Output pixels of a block: one for each lane.
#define TILE_PIXELS 32
// Words of four inputs that a block stages at a time.
#define TILE_WORDS 32
#define PANEL 16

// Grid: blocks of 32 pixels, panels of all groups. A thread has one pixel and four channels.
KERNEL(conv_i8_dp4a, 128, ConvI8) {
    __shared__ i32 patches[TILE_WORDS][TILE_PIXELS + 1];  // one more, so that columns lie in different banks
    __shared__ int4 weights[TILE_WORDS][PANEL / 4];
    const ConvShape& s = a.shape;
    const u32 words = (a.k + 3) / 4, lane = threadIdx.x % WARP, quad = threadIdx.x / WARP;
    const u32 group = blockIdx.y / s.panels, panel = blockIdx.y % s.panels;
    const u32 first_pixel = blockIdx.x * TILE_PIXELS;
    const int4* packed = (const int4*)a.weights + (u64)blockIdx.y * words * (PANEL / 4);
    i32 acc[4] = {0, 0, 0, 0};
    for (u32 first = 0; first < words; first += TILE_WORDS) {
        const u32 count = words - first < TILE_WORDS ? words - first : TILE_WORDS;
        if (threadIdx.x / 4 < count) {
            weights[threadIdx.x / 4][threadIdx.x % 4] = packed[first * (PANEL / 4) + threadIdx.x];
        }
        for (u32 row = quad; row < TILE_PIXELS; row += 4) {
            const u32 pixel = first_pixel + row;
            if (pixel < s.pixels && lane < count) {
                const Window window = window_of(s, pixel);
                patches[lane][row] = patch_word(a, window, group * s.group_in_c, first + lane);
            }
        }
        __syncthreads();
        for (u32 word = 0; word < count; word++) {
            const i32 x = patches[word][lane];
            const int4 w = weights[word][quad];
            acc[0] = __dp4a(x, w.x, acc[0]);
            acc[1] = __dp4a(x, w.y, acc[1]);
            acc[2] = __dp4a(x, w.z, acc[2]);
            acc[3] = __dp4a(x, w.w, acc[3]);
        }
        __syncthreads();
    }
    const u32 pixel = first_pixel + lane;
    if (pixel >= s.pixels) return;
    i8* output = (i8*)a.output;
    for (u32 i = 0; i < 4; i++) {
        const u32 channel = panel * PANEL + 4 * quad + i;
        if (channel >= s.group_out_c) break;
        const u32 at = pixel * s.out_c + group * s.group_out_c + channel;
        output[at] = requantize_i8(a.epilogue, acc[i], blockIdx.y * PANEL + 4 * quad + i, at);
    }
}

// Few pixels. Grid: pixels, panels of all groups. Half a warp has the channels of a panel, and every 16th word.
KERNEL(dense_i8_dp4a, 256, ConvI8) {
    __shared__ i32 sums[16][PANEL];
    const ConvShape& s = a.shape;
    const u32 words = (a.k + 3) / 4, pixel = blockIdx.x, column = threadIdx.x % PANEL;
    const u32 part = threadIdx.x / PANEL, group = blockIdx.y / s.panels, panel = blockIdx.y % s.panels;
    const i32* packed = (const i32*)a.weights + (u64)blockIdx.y * words * PANEL;
    const Window window = window_of(s, pixel);
    i32 acc = 0;
    for (u32 word = part; word < words; word += 16) {
        acc = __dp4a(patch_word(a, window, group * s.group_in_c, word), packed[word * PANEL + column], acc);
    }
    sums[part][column] = acc;
    __syncthreads();
    const u32 channel = panel * PANEL + column;
    if (part != 0 || channel >= s.group_out_c) return;
    u32 sum = 0;
    for (u32 i = 0; i < 16; i++) sum += (u32)sums[i][column];
    const u32 at = pixel * s.out_c + group * s.group_out_c + channel;
    ((i8*)a.output)[at] = requantize_i8(a.epilogue, (i32)sum, blockIdx.y * PANEL + column, at);
}

// A thread has one output.
KERNEL(depthwise_i8, 128, DepthwiseI8) {
    const ConvShape& s = a.shape;
    const u32 at = thread_index();
    if (at >= s.pixels * s.out_c) return;
    const u32 channel = at % s.out_c, padded = (s.out_c + PANEL - 1) / PANEL * PANEL;
    const Window window = window_of(s, at / s.out_c);
    const i8* input = (const i8*)a.input;
    const i8* weights = (const i8*)a.weights + channel;
    i32 acc = 0;
    for (u32 kh = 0; kh < s.kernel_h; kh++) {
        for (u32 kw = 0; kw < s.kernel_w; kw++) {
            const i64 from = input_pixel(s, window, kh, kw);
            const i32 x = from < 0 ? a.input_zero_point : (i32)input[from + channel];
            acc += x * (i32)weights[(kh * s.kernel_w + kw) * padded];
        }
    }
    ((i8*)a.output)[at] = requantize_i8(a.epilogue, acc, channel, at);
}

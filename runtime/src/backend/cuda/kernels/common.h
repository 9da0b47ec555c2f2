// What all kernels share: names of types, the one rounding of integers, loops over axes.
//
// A kernel takes one struct by value, whose fields lie without gaps: launches are bytes that Rust writes.
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
typedef float f32;

#ifdef WHIT_HOST
#include "host.h"
#else
// f16 stored as its bits, widened exactly and narrowed to the nearest, ties to even.
__device__ inline f32 half_to_float(u16 bits) {
    f32 x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
__device__ inline u16 float_to_half(f32 x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

#if __CUDA_ARCH__ >= 800
// c += a · b in a warp, 16 × 32 by 32 × 8: the fragments of mma.m16n8k32 in the PTX ISA.
__device__ inline void multiply_i8(i32 (&c)[4], const i32 (&a)[4], const i32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c += a · b in a warp, 16 × 16 by 16 × 8, words of two bf16: the fragments of mma.m16n8k16.
__device__ inline void multiply_bf16(f32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// A kernel of so many threads in a block.
#define KERNEL(name, threads, Arguments) \
    extern "C" __global__ void __launch_bounds__(threads) name(const Arguments a)
#endif

// bf16 is the upper half of an f32.
__device__ inline f32 bf16_to_float(u16 bits) { return __uint_as_float((u32)bits << 16); }

// To the nearest, ties to even.
__device__ inline u16 float_to_bf16(f32 x) {
    const u32 bits = __float_as_uint(x);
    if (x != x) return (u16)(bits >> 16 | 0x40);
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Axes of a tensor at most.
#define MAX_RANK 8

#define WARP 32
#define ALL_LANES 0xffffffffu

// This thread's number in the whole grid.
__device__ inline u32 thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

// At least `lo`, then at most `hi`.
__device__ inline i32 clamp(i32 x, i32 lo, i32 hi) {
    x = x > lo ? x : lo;
    return x < hi ? x : hi;
}

// Towards zero, within bounds that lie in the type; a NaN gives 0.
__device__ inline i64 truncated(f32 x, i64 lo, i64 hi) {
    if (x != x) return 0;
    if (x <= (f32)lo) return lo;
    if (x >= (f32)hi) return hi;
    return (i64)x;
}

// clamp(round_ties_even(x), lo, hi) for bounds within ±2²²; a NaN gives lo. As the CPU's, operation by operation.
__device__ inline i32 round_clamp(f32 x, i32 lo, i32 hi) {
    const f32 magic = 12582912.0f;  // 1.5 × 2²³: its unit in the last place is 1
    const f32 lo_f = __int2float_rn(lo), hi_f = __int2float_rn(hi);
    x = x > lo_f ? x : lo_f;
    x = x < hi_f ? x : hi_f;
    return __float_as_int(__fadd_rn(x, magic)) - __float_as_int(magic);
}

// x · multiplier / 2³¹ · 2^shift, rounded twice; see FORMAT.md, fixed_point.
__device__ inline i32 fixed_point(i32 x, i32 multiplier, i32 shift) {
    const i32 up = shift < 0 ? 0 : (shift > 31 ? 31 : shift);
    const i32 down = shift > 0 ? 0 : (shift < -31 ? 31 : -shift);
    const i64 product = (i64)(i32)((u32)x << up) * multiplier;
    const i64 nudge = product >= 0 ? (1ll << 30) : 1 - (1ll << 30);
    i64 high = (product + nudge) / (1ll << 31);
    high = high > 2147483647ll ? 2147483647ll : high;
    const i32 h = (i32)high;
    const i32 mask = (i32)((1u << down) - 1);
    const i32 threshold = (mask >> 1) + (h < 0 ? 1 : 0);
    return (h >> down) + ((h & mask) > threshold ? 1 : 0);
}

// The line between two entries of a table over i16, 2^bits numbers apart.
__device__ inline i16 lut_i16(i32 x, u32 bits, const i16* table) {
    const u32 place = (u32)(x + 32768), at = place >> bits;
    const i32 low = table[at], high = table[at + 1], fraction = (i32)(place & ((1u << bits) - 1));
    return (i16)(low + (((high - low) * fraction + ((1 << bits) >> 1)) >> bits));
}

// Where an i32 accumulator of a layer goes: FORMAT.md, "Integer arithmetic".
struct EpilogueI8 {
    u64 bias;
    u64 scale;
    // 0, or pairs of multiplier and shift instead of scales.
    u64 fixed_point;
    // 0, or a tensor of the output's shape to add; perhaps the output itself.
    u64 residual;
    i32 zero_point;
    i32 min;
    i32 max;
    f32 scale_conv;
    f32 scale_data;
    i32 residual_zero_point;
    i32 out_zero_point;
    i32 residual_min;
    i32 residual_max;
    u32 reserved;
};

// The output of an accumulator without its bias: `channel` counts with padding, `at` is the output's index.
__device__ inline i8 requantize_i8(const EpilogueI8& e, i32 acc, u32 channel, u32 at) {
    acc = (i32)((u32)acc + (u32)((const i32*)e.bias)[channel]);
    const i32 min = e.min - e.zero_point, max = e.max - e.zero_point;
    i32 q;
    if (e.fixed_point != 0) {
        const i32* numbers = (const i32*)e.fixed_point + 2 * (u64)channel;
        q = clamp(fixed_point(acc, numbers[0], numbers[1]), min, max);
    } else {
        q = round_clamp(__fmul_rn(__int2float_rn(acc), ((const f32*)e.scale)[channel]), min, max);
    }
    if (e.residual == 0) return (i8)(q + e.zero_point);
    const i32 data = (i32)((const i8*)e.residual)[at] - e.residual_zero_point;
    const f32 sum = __fadd_rn(__fmul_rn(__int2float_rn(q), e.scale_conv),
                              __fmul_rn(__int2float_rn(data), e.scale_data));
    return (i8)(round_clamp(sum, e.residual_min - e.out_zero_point, e.residual_max - e.out_zero_point) +
                e.out_zero_point);
}

// Sizes of a convolution; a product of matrices is one of a 1 × 1 kernel over a row of pixels.
struct ConvShape {
    // Over the whole batch.
    u32 pixels;
    u32 in_h;
    u32 in_w;
    u32 in_c;
    u32 out_h;
    u32 out_w;
    u32 out_c;
    u32 kernel_h;
    u32 kernel_w;
    u32 stride_h;
    u32 stride_w;
    u32 dilation_h;
    u32 dilation_w;
    u32 pad_top;
    u32 pad_left;
    u32 group_in_c;
    u32 group_out_c;
    // Of 16 output channels, in a group.
    u32 panels;
};

// Where an output pixel's window begins: its image, and coordinates that may be negative.
struct Window {
    u32 image;
    i32 h;
    i32 w;
};

__device__ inline Window window_of(const ConvShape& s, u32 pixel) {
    const u32 row = pixel / s.out_w;
    Window window;
    window.image = row / s.out_h;
    window.h = (i32)(row % s.out_h * s.stride_h) - (i32)s.pad_top;
    window.w = (i32)(pixel % s.out_w * s.stride_w) - (i32)s.pad_left;
    return window;
}

// Index of the first channel of the input pixel under tap (kh, kw); −1 in the padding.
__device__ inline i64 input_pixel(const ConvShape& s, const Window& window, u32 kh, u32 kw) {
    const i32 h = window.h + (i32)(kh * s.dilation_h), w = window.w + (i32)(kw * s.dilation_w);
    if (h < 0 || w < 0 || h >= (i32)s.in_h || w >= (i32)s.in_w) return -1;
    return ((i64)(window.image * s.in_h + h) * s.in_w + w) * s.in_c;
}

// What kernels leave in the word at `status` when data of a step are out of range: the first such step, plus 1.
__device__ inline void report(u64 status, u32 step) { atomicCAS((u32*)status, 0u, step + 1); }

// Element `number` of a tensor of indices: i64 if `wide`, else i32.
__device__ inline i64 index_at(u64 indices, u32 wide, u64 number) {
    return wide ? ((const i64*)indices)[number] : ((const i32*)indices)[number];
}

// The same as an index of an axis, from the end below 0; −1 when it is out of range.
__device__ inline i64 axis_index(u64 indices, u32 wide, u64 number, u32 extent) {
    i64 index = index_at(indices, wide, number);
    if (index < 0) index += extent;
    return index >= 0 && index < extent ? index : -1;
}

// Weights of float layers, in panels of 16 outputs; see FORMAT.md, "Weight layouts".
struct Weights {
    u64 data;
    // Bits beside nibbles.
    u64 upper;
    // Of groups; 0 for floats.
    u64 scales;
    // 0, or of groups.
    u64 minima;
    // Of 256 inputs each, where scales and minima are i8.
    u64 scale_factors;
    u64 minimum_factors;
    // Inputs of an output.
    u32 k;
    // Inputs of a group.
    u32 group_size;
    // Of scales and minima: 0 f16, 1 f32, 2 i8.
    u32 scale_kind;
    u32 reserved;
};

enum Form { F32, F16, BF16, W8, W4, W5, W6, W4NL };

// Inputs whose weights of an output are a word.
__device__ constexpr u32 inputs_per_word(Form form) {
    return form < BF16 ? 1 : (form == BF16 ? 2 : (form == W8 ? 4 : 8));
}

// Bits of a weight beside its nibble.
__device__ constexpr u32 upper_bits(Form form) { return form == W5 ? 1 : (form == W6 ? 2 : 0); }

// Words whose upper bits are a word.
__device__ constexpr u32 words_per_unit(Form form) { return form == W5 ? 4 : (form == W6 ? 2 : 1); }

__device__ inline u32 parts_of(u32 whole, u32 part) { return (whole + part - 1) / part; }

// Words of an output, in whole units.
__device__ inline u32 words_of(Form form, u32 k) {
    return parts_of(k, inputs_per_word(form) * words_per_unit(form)) * words_per_unit(form);
}

// How much more integers without minima are stored as.
__device__ inline i32 surplus_of(Form form) { return form == W8 || form == W4NL ? 0 : 8 << upper_bits(form); }

// The i8 that four nibbles of w4nl stand for, from the lowest on.
__device__ inline u32 nonlinear(u32 nibbles) {
    // By three bits of each nibble among the lower half of all values, and among the upper half; then by the fourth.
    const u32 lower = __byte_perm(0xbfad9881u, 0xf6eaddcfu, nibbles);
    const u32 upper = __byte_perm(0x26190d01u, 0x71594535u, nibbles);
    return __byte_perm(lower, upper, 0x3210u | (nibbles & 0x8888u) >> 1);
}

// A scale or minimum of the group of input `k`, for output `column` of a panel.
__device__ inline f32 scale_at(const Weights& w, u64 plane, u64 factors, u32 panel, u32 k, u32 column) {
    const u64 at = ((u64)panel * parts_of(w.k, w.group_size) + k / w.group_size) * 16 + column;
    if (w.scale_kind == 0) return half_to_float(((const u16*)plane)[at]);
    if (w.scale_kind == 1) return ((const f32*)plane)[at];
    const u64 factor = ((u64)panel * parts_of(w.k, 256) + k / 256) * 16 + column;
    return __fmul_rn(half_to_float(((const u16*)factors)[factor]), __int2float_rn(((const i8*)plane)[at]));
}

// The weight of input `k` of output `column` of a panel.
template <Form form>
__device__ inline f32 weight_at(const Weights& w, u32 panel, u32 k, u32 column) {
    const u64 row = (u64)panel * w.k + k;
    if (form == F32) return ((const f32*)w.data)[row * 16 + column];
    if (form == F16) return half_to_float(((const u16*)w.data)[row * 16 + column]);
    if (form == BF16) {
        // Pairs of inputs.
        const u64 pair = (u64)panel * (w.k / 2) + k / 2;
        return bf16_to_float(((const u16*)w.data)[(pair * 16 + column) * 2 + k % 2]);
    }
    constexpr u32 per_word = inputs_per_word(form), bits = upper_bits(form);
    const u64 word = (u64)panel * words_of(form, w.k) + k / per_word;
    const u8 byte = ((const u8*)w.data)[(word * 16 + column) * 4 + k % 4];
    i32 q = form == W8 ? (i8)byte : (k % 8 < 4 ? byte & 15 : byte >> 4);
    if (bits > 0) {
        const u8 upper = ((const u8*)w.upper)[(word / words_per_unit(form) * 16 + column) * 4 + k % 4];
        q |= (upper >> (bits * (k % (8 * words_per_unit(form)) / 4)) & ((1 << bits) - 1)) << 4;
    }
    if (form == W4NL) q = (i8)nonlinear((u32)q);
    if (w.minima == 0) q -= surplus_of(form);
    const f32 scaled = __fmul_rn(scale_at(w, w.scales, w.scale_factors, panel, k, column), __int2float_rn(q));
    return w.minima ? __fadd_rn(scaled, scale_at(w, w.minima, w.minimum_factors, panel, k, column)) : scaled;
}

// Bounds that a NaN passes.
__device__ inline f32 clip(f32 x, f32 lo, f32 hi) {
    x = x < lo ? lo : x;
    return x > hi ? hi : x;
}

__device__ inline f32 sigmoid(f32 x) { return __fdiv_rn(1.0f, __fadd_rn(1.0f, expf(-x))); }

// ln(1 + exp(x)), without overflow.
__device__ inline f32 softplus(f32 x) {
    const f32 tail = log1pf(expf(-fabsf(x)));
    return x > 0.0f ? __fadd_rn(x, tail) : tail;
}

__device__ inline f32 infinity() { return __int_as_float(0x7f800000); }

// The position of element `index` of a row-major loop over axes, of an operand with these strides.
__device__ inline i64 position(u32 index, u32 rank, const u32* extents, const u64* strides) {
    u64 at = 0;
    for (u32 axis = rank; axis-- > 0;) {
        at += (u64)(index % extents[axis]) * strides[axis];
        index /= extents[axis];
    }
    return (i64)at;
}

struct Sum {
    template <class T>
    __device__ static T join(T a, T b) { return a + b; }
};

struct Largest {
    template <class T>
    __device__ static T join(T a, T b) { return b > a ? b : a; }
};

// The larger; a NaN stays.
struct LargestOrNan {
    __device__ static f32 join(f32 a, f32 b) { return b > a || b != b ? b : a; }
};

// All lanes' values as one, the same in every lane.
template <class Join, class T>
__device__ inline T warp_reduce(T value) {
    for (i32 lanes = WARP / 2; lanes > 0; lanes /= 2) {
        value = Join::join(value, __shfl_xor_sync(ALL_LANES, value, lanes));
    }
    return value;
}

// All threads' values as one, the same in every thread; `room` has an element for each warp.
template <class Join, class T>
__device__ inline T block_reduce(T value, T* room) {
    value = warp_reduce<Join>(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = value;
    __syncthreads();
    value = room[0];
    for (u32 warp = 1; warp < blockDim.x / WARP; warp++) value = Join::join(value, room[warp]);
    return value;
}

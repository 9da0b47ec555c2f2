// Operators on elements, i8 and i16, and what lies between integers and reals. A thread has one element.
#include "common.h"

struct BinaryQuantized {
    u64 a;
    u64 b;
    u64 output;
    u64 strides_a[8];
    u64 strides_b[8];
    u32 extents[8];
    u32 rank;
    u32 elements;
    // As in FORMAT.md: 1 add, 2 sub, 3 mul, 6 min, 7 max.
    u32 kind;
    i32 zero_point_a;
    i32 zero_point_b;
    i32 zero_point;
    f32 scale_a;
    f32 scale_b;
    i32 min;
    i32 max;
};

template <class T>
__device__ inline void binary(const BinaryQuantized& a) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const i32 qa = (i32)((const T*)a.a)[position(at, a.rank, a.extents, a.strides_a)] - a.zero_point_a;
    const i32 qb = (i32)((const T*)a.b)[position(at, a.rank, a.extents, a.strides_b)] - a.zero_point_b;
    const f32 ra = __fmul_rn(__int2float_rn(qa), a.scale_a), rb = __fmul_rn(__int2float_rn(qb), a.scale_b);
    f32 t;
    switch (a.kind) {
    case 1: t = __fadd_rn(ra, rb); break;
    case 2: t = __fsub_rn(ra, rb); break;
    case 3: t = __fmul_rn(__int2float_rn((i32)((u32)qa * (u32)qb)), a.scale_a); break;
    case 6: t = rb < ra ? rb : ra; break;
    default: t = rb > ra ? rb : ra; break;
    }
    const i32 y = round_clamp(t, a.min - a.zero_point, a.max - a.zero_point) + a.zero_point;
    ((T*)a.output)[at] = (T)y;
}

KERNEL(binary_i8, 256, BinaryQuantized) { binary<i8>(a); }
KERNEL(binary_i16, 256, BinaryQuantized) { binary<i16>(a); }

struct Lut {
    u64 input;
    u64 output;
    u64 table;
    u32 elements;
    // i16: of the numbers between two entries.
    u32 bits;
};

KERNEL(lut_i8, 256, Lut) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    ((i8*)a.output)[at] = ((const i8*)a.table)[(i32)((const i8*)a.input)[at] + 128];
}

KERNEL(lut_i16, 256, Lut) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    ((i16*)a.output)[at] = lut_i16(((const i16*)a.input)[at], a.bits, (const i16*)a.table);
}

struct Quantize {
    u64 input;
    u64 output;
    // 0, or those of each index along an axis.
    u64 scales;
    u64 zero_points;
    u32 elements;
    // Along the axis, and elements between one index and the next.
    u32 extent;
    u32 inner;
    f32 scale;
    i32 zero_point;
    u32 reserved;
};

struct Affine {
    f32 scale;
    i32 zero_point;
};

__device__ inline Affine affine_of(const Quantize& a, u32 at) {
    Affine affine = {a.scale, a.zero_point};
    if (a.scales != 0) {
        const u32 channel = at / a.inner % a.extent;
        const i32 zero_point = ((const i32*)a.zero_points)[channel], bound = 1 << 16;
        affine.scale = ((const f32*)a.scales)[channel];
        affine.zero_point = zero_point < -bound ? -bound : (zero_point > bound ? bound : zero_point);
    }
    return affine;
}

template <class T>
__device__ inline void quantize(const Quantize& a, i32 lowest, i32 highest) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const Affine by = affine_of(a, at);
    const f32 x = __fdiv_rn(((const f32*)a.input)[at], by.scale);
    ((T*)a.output)[at] = (T)(round_clamp(x, lowest - by.zero_point, highest - by.zero_point) + by.zero_point);
}

template <class T>
__device__ inline void dequantize(const Quantize& a) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const Affine by = affine_of(a, at);
    const i32 q = (i32)((const T*)a.input)[at] - by.zero_point;
    ((f32*)a.output)[at] = __fmul_rn(__int2float_rn(q), by.scale);
}

KERNEL(quantize_i8, 256, Quantize) { quantize<i8>(a, -128, 127); }
KERNEL(quantize_u8, 256, Quantize) { quantize<u8>(a, 0, 255); }
KERNEL(quantize_i16, 256, Quantize) { quantize<i16>(a, -32768, 32767); }
KERNEL(dequantize_i8, 256, Quantize) { dequantize<i8>(a); }
KERNEL(dequantize_u8, 256, Quantize) { dequantize<u8>(a); }
KERNEL(dequantize_i16, 256, Quantize) { dequantize<i16>(a); }

// Differences don't fit i32.
KERNEL(dequantize_i32, 256, Quantize) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const Affine by = affine_of(a, at);
    const i64 q = (i64)((const i32*)a.input)[at] - by.zero_point;
    ((f32*)a.output)[at] = __fmul_rn(__ll2float_rn(q), by.scale);
}

// Interpolation to another size. A thread has one element.
//
// Coordinates and weights are made by the CPU's operations in the CPU's order, so that integers come out with its bits.
#include "common.h"

// An axis along which elements are blended.
struct Blended {
    // Elements of the input from one index to the next.
    u64 stride;
    u32 extent;
    // Of the output, and its elements from one index to the next.
    u32 out_extent;
    u32 out_inner;
    // Output size over input size.
    f32 scale;
};

struct Resize {
    u64 input;
    u64 output;
    // Axes of which an element of the output reads its own index.
    u64 input_strides[8];
    u32 out_inner[8];
    u32 extents[8];
    Blended first;
    Blended second;
    Blended third;
    u32 rank;
    // How many of the three there are; the others have one tap.
    u32 blended;
    u32 elements;
    // 2 linear, 3 cubic.
    u32 mode;
    // 1 half pixel, 2 half pixel of PyTorch, 3 align corners, 4 asymmetric.
    u32 coordinates;
    f32 cubic_coefficient;
    u32 exclude_outside;
    i32 zero_point;
};

struct Nearest {
    u64 input;
    u64 output;
    u64 input_strides[8];
    u32 input_extents[8];
    // Of the output.
    u32 extents[8];
    f32 scales[8];
    // Bit by axis: 1 where an index becomes a coordinate, 0 where it stays.
    u32 resized;
    u32 rank;
    u32 elements;
    u32 coordinates;
    // 1 round prefer floor, 2 round prefer ceil, 3 floor, 4 ceil.
    u32 rounding;
    u32 reserved;
};

// Beyond every axis, and far from the ends of an i64.
#define FAR (1ll << 40)

// The coordinate in the input that an output index stands for.
__device__ inline f32 coordinate(u32 coordinates, f32 scale, u32 index, u32 extent, u32 out_extent) {
    const f32 position = __uint2float_rn(index);
    if (out_extent <= 1 && (coordinates == 2 || coordinates == 3)) return 0.0f;
    if (coordinates <= 2) return __fsub_rn(__fdiv_rn(__fadd_rn(position, 0.5f), scale), 0.5f);
    if (coordinates == 4) return __fdiv_rn(position, scale);
    const f32 last = __fsub_rn(__uint2float_rn(extent), 1.0f), out_last = __fsub_rn(__uint2float_rn(out_extent), 1.0f);
    return __fdiv_rn(__fmul_rn(position, last), out_last);
}

// Neighbours along an axis, the first of them perhaps beside it, and how much each counts.
struct Taps {
    i64 first;
    u32 count;
    f32 weights[4];
};

// Keys, "Cubic convolution interpolation for digital image processing", 1981.
__device__ inline f32 cubic_near(f32 d, f32 a) {
    const f32 slope = __fsub_rn(__fmul_rn(__fadd_rn(a, 2.0f), d), __fadd_rn(a, 3.0f));
    return __fadd_rn(__fmul_rn(__fmul_rn(slope, d), d), 1.0f);
}

__device__ inline f32 cubic_far(f32 d, f32 a) {
    const f32 curve = __fadd_rn(__fmul_rn(__fsub_rn(__fmul_rn(a, d), __fmul_rn(5.0f, a)), d), __fmul_rn(8.0f, a));
    return __fsub_rn(__fmul_rn(curve, d), __fmul_rn(4.0f, a));
}

__device__ inline Taps taps_along(const Resize& a, const Blended& axis, bool is_there, u32 element) {
    Taps taps = {0, 1, {1.0f, 0.0f, 0.0f, 0.0f}};
    if (!is_there) return taps;
    const u32 index = element / axis.out_inner % axis.out_extent;
    f32 at = coordinate(a.coordinates, axis.scale, index, axis.extent, axis.out_extent);
    const i64 last = (i64)axis.extent - 1;
    if (a.mode == 2) {
        const f32 end = __ll2float_rn(last);
        at = at > 0.0f ? at : 0.0f;
        at = at < end ? at : end;
        const f32 low = floorf(at), rest = __fsub_rn(at, low);
        taps.first = (i64)low;
        taps.count = 2;
        taps.weights[0] = __fsub_rn(1.0f, rest);
        taps.weights[1] = rest;
        return taps;
    }
    const f32 low = floorf(at), rest = __fsub_rn(at, low), coefficient = a.cubic_coefficient;
    taps.first = truncated(low, -FAR, FAR) - 1;
    taps.count = 4;
    taps.weights[0] = cubic_far(__fadd_rn(rest, 1.0f), coefficient);
    taps.weights[1] = cubic_near(rest, coefficient);
    taps.weights[2] = cubic_near(__fsub_rn(1.0f, rest), coefficient);
    taps.weights[3] = cubic_far(__fsub_rn(2.0f, rest), coefficient);
    if (a.exclude_outside) {
        f32 sum = 0.0f;
#pragma unroll
        for (u32 tap = 0; tap < 4; tap++) {
            const i64 place = taps.first + tap;
            if (place < 0 || place > last) taps.weights[tap] = 0.0f;
            sum = __fadd_rn(sum, taps.weights[tap]);
        }
#pragma unroll
        for (u32 tap = 0; tap < 4; tap++) taps.weights[tap] = __fdiv_rn(taps.weights[tap], sum);
    }
    return taps;
}

// The weight of a tap, in registers whatever its number.
__device__ inline f32 weight_of(const Taps& taps, u32 tap) {
    const f32 low = tap == 0 ? taps.weights[0] : taps.weights[1], high = tap == 2 ? taps.weights[2] : taps.weights[3];
    return tap < 2 ? low : high;
}

// Where a tap lies; indices outside repeat the edge.
__device__ inline u64 place_of(const Taps& taps, const Blended& axis, u32 tap) {
    const i64 last = (i64)axis.extent - 1, index = taps.first + tap;
    return (u64)(index < 0 ? 0 : (index > last ? last : index)) * axis.stride;
}

__device__ inline f32 above(f32 x, i32) { return x; }
__device__ inline f32 above(i32 x, i32 zero_point) { return __int2float_rn(x - zero_point); }

// The weighted sum of an element's neighbours, less a zero point, in row-major order.
template <class T>
__device__ inline f32 blend(const Resize& a, u32 element) {
    u64 base = 0;
    for (u32 axis = 0; axis < a.rank; axis++) {
        base += (u64)(element / a.out_inner[axis] % a.extents[axis]) * a.input_strides[axis];
    }
    const T* x = (const T*)a.input + base;
    const Taps outer = taps_along(a, a.first, a.blended >= 1, element);
    const Taps middle = taps_along(a, a.second, a.blended >= 2, element);
    const Taps inner = taps_along(a, a.third, a.blended >= 3, element);
    f32 sum = 0.0f;
    for (u32 i = 0; i < outer.count; i++) {
        const f32 plane = weight_of(outer, i);
        const u64 plane_at = place_of(outer, a.first, i);
        for (u32 j = 0; j < middle.count; j++) {
            const f32 row = __fmul_rn(plane, weight_of(middle, j));
            const u64 row_at = plane_at + place_of(middle, a.second, j);
            for (u32 k = 0; k < inner.count; k++) {
                const f32 weight = __fmul_rn(row, weight_of(inner, k));
                const T value = x[row_at + place_of(inner, a.third, k)];
                // A weight of 0 leaves an infinity beside it out.
                if (weight != 0.0f) sum = __fadd_rn(sum, __fmul_rn(weight, above(value, a.zero_point)));
            }
        }
    }
    return sum;
}

KERNEL(resize_f32, 128, Resize) {
    const u32 at = thread_index();
    if (at < a.elements) ((f32*)a.output)[at] = blend<f32>(a, at);
}

template <class T>
__device__ inline void resize_integer(const Resize& a, i32 lowest, i32 highest) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const i32 y = round_clamp(blend<T>(a, at), lowest - a.zero_point, highest - a.zero_point);
    ((T*)a.output)[at] = (T)(y + a.zero_point);
}

KERNEL(resize_i8, 128, Resize) { resize_integer<i8>(a, -128, 127); }
KERNEL(resize_i16, 128, Resize) { resize_integer<i16>(a, -32768, 32767); }

template <class T>
__device__ inline void nearest(const Nearest& a) {
    const u32 element = thread_index();
    if (element >= a.elements) return;
    u32 rest = element;
    u64 from = 0;
    for (u32 axis = a.rank; axis-- > 0;) {
        u32 index = rest % a.extents[axis];
        rest /= a.extents[axis];
        if (a.resized >> axis & 1) {
            const u32 extent = a.input_extents[axis];
            const f32 at = coordinate(a.coordinates, a.scales[axis], index, extent, a.extents[axis]);
            f32 whole;
            switch (a.rounding) {
            case 1: whole = ceilf(__fsub_rn(at, 0.5f)); break;
            case 2: whole = floorf(__fadd_rn(at, 0.5f)); break;
            case 3: whole = floorf(at); break;
            default: whole = ceilf(at); break;
            }
            const i64 place = truncated(whole, -FAR, FAR), last = (i64)extent - 1;
            index = (u32)(place < 0 ? 0 : (place > last ? last : place));
        }
        from += (u64)index * a.input_strides[axis];
    }
    ((T*)a.output)[element] = ((const T*)a.input)[from];
}

KERNEL(nearest_1, 256, Nearest) { nearest<u8>(a); }
KERNEL(nearest_2, 256, Nearest) { nearest<u16>(a); }
KERNEL(nearest_4, 256, Nearest) { nearest<u32>(a); }

struct Interpolate {
    u64 input;
    u64 indices;
    u64 weights;
    u64 output;
    u64 status;
    // Along the axis, of the input and of the output.
    u32 extent;
    u32 out_extent;
    // Elements between one index of the axis and the next.
    u32 inner;
    u32 taps;
    u32 elements;
    u32 step;
};

KERNEL(interpolate, 256, Interpolate) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const u32 row = at / a.inner, own = row % a.out_extent;
    const f32* x = (const f32*)a.input + (u64)(row / a.out_extent) * a.extent * a.inner + at % a.inner;
    f32 sum = 0.0f;
    for (u32 tap = 0; tap < a.taps; tap++) {
        const u64 number = (u64)own * a.taps + tap;
        const i32 index = ((const i32*)a.indices)[number];
        if (index < 0 || (u32)index >= a.extent) {
            report(a.status, a.step);
            return;
        }
        sum = __fadd_rn(sum, __fmul_rn(((const f32*)a.weights)[number], x[(u64)index * a.inner]));
    }
    ((f32*)a.output)[at] = sum;
}

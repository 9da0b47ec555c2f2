// Pooling over NHWC, i8, i16 and f32. A thread has one output.
#include "common.h"

struct Pool {
    u64 input;
    u64 output;
    ConvShape shape;
    // 1 maximum, 2 average, 3 average of stored numbers.
    u32 kind;
    // What counts as padding behind the input; without `counts_padding` nothing does.
    u32 pad_bottom;
    u32 pad_right;
    u32 counts_padding;
    i32 input_zero_point;
    i32 zero_point;
    f32 scale;
    i32 min;
    i32 max;
    u32 reserved;
};

// Positions of a window along an axis that begin before `end`, counted from the padding's edge.
__device__ inline u32 taps_before(u32 end, u32 origin, u32 dilation, u32 kernel) {
    const u32 taps = end > origin ? (end - origin + dilation - 1) / dilation : 0;
    return taps < kernel ? taps : kernel;
}

struct Taps {
    u32 begin;
    u32 end;
    u32 counted;
};

__device__ inline Taps taps_of(const Pool& a, u32 index, bool vertical) {
    const ConvShape& s = a.shape;
    const u32 size = vertical ? s.in_h : s.in_w, kernel = vertical ? s.kernel_h : s.kernel_w;
    const u32 dilation = vertical ? s.dilation_h : s.dilation_w, pad = vertical ? s.pad_top : s.pad_left;
    const u32 origin = index * (vertical ? s.stride_h : s.stride_w);
    Taps taps;
    taps.begin = taps_before(pad, origin, dilation, kernel);
    taps.end = taps_before(pad + size, origin, dilation, kernel);
    const u32 end = pad + size + (vertical ? a.pad_bottom : a.pad_right);
    taps.counted = a.counts_padding ? taps_before(end, origin, dilation, kernel) : taps.end - taps.begin;
    return taps;
}

struct Windowed {
    Taps rows;
    Taps columns;
    Window window;
    u32 channel;
    u32 count;
};

__device__ inline Windowed windowed(const Pool& a, u32 at) {
    const ConvShape& s = a.shape;
    const u32 pixel = at / s.out_c;
    Windowed w;
    w.channel = at % s.out_c;
    w.window = window_of(s, pixel);
    w.rows = taps_of(a, pixel / s.out_w % s.out_h, true);
    w.columns = taps_of(a, pixel % s.out_w, false);
    const u32 count = w.rows.counted * w.columns.counted;
    w.count = count > 1 ? count : 1;
    return w;
}

template <class T>
__device__ inline void pool_quantized(const Pool& a, i32 lowest) {
    const ConvShape& s = a.shape;
    const u32 at = thread_index();
    if (at >= s.pixels * s.out_c) return;
    const Windowed w = windowed(a, at);
    const T* input = (const T*)a.input;
    i32 acc = 0, largest = lowest;
    for (u32 kh = w.rows.begin; kh < w.rows.end; kh++) {
        for (u32 kw = w.columns.begin; kw < w.columns.end; kw++) {
            const i32 x = input[input_pixel(s, w.window, kh, kw) + w.channel];
            acc += x;
            largest = x > largest ? x : largest;
        }
    }
    const i32 lo = a.min - a.zero_point, hi = a.max - a.zero_point;
    const u32 inside = (w.rows.end - w.rows.begin) * (w.columns.end - w.columns.begin);
    i32 y;
    if (a.kind == 3) {
        const i64 count = w.count, half = acc > 0 ? count / 2 : -(count / 2);
        y = clamp((i32)(((i64)acc + half) / count), a.min, a.max);
    } else if (a.kind == 2) {
        acc = (i32)((u32)acc - inside * (u32)a.input_zero_point);
        const f32 scale = __fdiv_rn(a.scale, __uint2float_rn(w.count));
        y = round_clamp(__fmul_rn(__int2float_rn(acc), scale), lo, hi) + a.zero_point;
    } else {
        const f32 real = __fmul_rn(__int2float_rn(largest - a.input_zero_point), a.scale);
        y = round_clamp(real, lo, hi) + a.zero_point;
    }
    ((T*)a.output)[at] = (T)y;
}

KERNEL(pool_i8, 128, Pool) { pool_quantized<i8>(a, -128); }
KERNEL(pool_i16, 128, Pool) { pool_quantized<i16>(a, -32768); }

KERNEL(pool_f32, 128, Pool) {
    const ConvShape& s = a.shape;
    const u32 at = thread_index();
    if (at >= s.pixels * s.out_c) return;
    const Windowed w = windowed(a, at);
    const f32* input = (const f32*)a.input;
    f32 sum = 0.0f, largest = -__int_as_float(0x7f800000);
    for (u32 kh = w.rows.begin; kh < w.rows.end; kh++) {
        for (u32 kw = w.columns.begin; kw < w.columns.end; kw++) {
            const f32 x = input[input_pixel(s, w.window, kh, kw) + w.channel];
            sum = __fadd_rn(sum, x);
            largest = x > largest || x != x ? x : largest;
        }
    }
    ((f32*)a.output)[at] = a.kind == 1 ? largest : __fdiv_rn(sum, __uint2float_rn(w.count));
}

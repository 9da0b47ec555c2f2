// Reductions over any set of axes. A warp has one output.
#include "common.h"

struct Reduce {
    u64 input;
    u64 output;
    // i8: 0, or a multiplier and a shift instead of the scale.
    u64 fixed_point;
    u64 kept_strides[8];
    u64 reduced_strides[8];
    u32 kept_extents[8];
    u32 reduced_extents[8];
    u32 kept_rank;
    u32 reduced_rank;
    u32 outputs;
    // Inputs of an output.
    u32 count;
    // As in FORMAT.md: 1 sum, 2 mean, 3 max, 4 min, …
    u32 kind;
    i32 input_zero_point;
    i32 zero_point;
    f32 scale;
    i32 min;
    i32 max;
};

template <class T>
__device__ inline void reduce_quantized(const Reduce& a, i32 lowest) {
    const u32 output = thread_index() / WARP, lane = threadIdx.x % WARP;
    if (output >= a.outputs) return;
    const T* x = (const T*)a.input + position(output, a.kept_rank, a.kept_extents, a.kept_strides);
    i32 acc = a.kind == 2 ? 0 : lowest;
    for (u32 i = lane; i < a.count; i += WARP) {
        const i32 q = x[position(i, a.reduced_rank, a.reduced_extents, a.reduced_strides)];
        // The smallest is the largest of those with all bits inverted.
        acc = a.kind == 2 ? acc + q - a.input_zero_point : Largest::join(acc, a.kind == 3 ? q : ~q);
    }
    acc = a.kind == 2 ? warp_reduce<Sum>(acc) : warp_reduce<Largest>(acc);
    if (lane != 0) return;
    const i32 lo = a.min - a.zero_point, hi = a.max - a.zero_point;
    i32 q;
    if (a.kind == 2 && a.fixed_point != 0) {
        const i32* numbers = (const i32*)a.fixed_point;
        q = clamp(fixed_point(acc, numbers[0], numbers[1]), lo, hi);
    } else if (a.kind == 2) {
        q = round_clamp(__fmul_rn(__int2float_rn(acc), __fdiv_rn(a.scale, __uint2float_rn(a.count))), lo, hi);
    } else {
        const i32 extreme = a.kind == 3 ? acc : ~acc;
        q = round_clamp(__fmul_rn(__int2float_rn(extreme - a.input_zero_point), a.scale), lo, hi);
    }
    ((T*)a.output)[output] = (T)(q + a.zero_point);
}

KERNEL(reduce_i8, 128, Reduce) { reduce_quantized<i8>(a, -128); }
KERNEL(reduce_i16, 128, Reduce) { reduce_quantized<i16>(a, -32768); }

struct Times {
    template <class T>
    __device__ static T join(T a, T b) { return a * b; }
};

// T is signed, U of its size without a sign: sums and products wrap.
template <class T, class U>
__device__ inline void reduce_integer(const Reduce& a, T lowest) {
    const u32 output = thread_index() / WARP, lane = threadIdx.x % WARP;
    if (output >= a.outputs) return;
    const T* x = (const T*)a.input + position(output, a.kept_rank, a.kept_extents, a.kept_strides);
    U acc = a.kind == 5 ? 1 : 0;
    T largest = lowest;
    for (u32 i = lane; i < a.count; i += WARP) {
        const T value = x[position(i, a.reduced_rank, a.reduced_extents, a.reduced_strides)];
        // The smallest is the largest of those with all bits inverted.
        largest = Largest::join(largest, a.kind == 4 ? (T)~value : value);
        U own = (U)value;
        if (a.kind == 6 && value < 0) own = 0 - own;
        if (a.kind == 7 || a.kind == 8) own *= own;
        acc = a.kind == 5 ? acc * own : acc + own;
    }
    T y;
    if (a.kind == 3 || a.kind == 4) {
        largest = warp_reduce<Largest>(largest);
        y = a.kind == 3 ? largest : (T)~largest;
    } else {
        y = (T)(a.kind == 5 ? warp_reduce<Times>(acc) : warp_reduce<Sum>(acc));
        if (a.kind == 2) y = (T)((i64)y / (i64)a.count);
        // What has wrapped to below 0 has no root.
        if (a.kind == 7) y = y < 0 ? 0 : (T)sqrt((double)y);
    }
    if (lane == 0) ((T*)a.output)[output] = y;
}

KERNEL(reduce_i32, 128, Reduce) { reduce_integer<i32, u32>(a, -2147483647 - 1); }
KERNEL(reduce_i64, 128, Reduce) { reduce_integer<i64, u64>(a, -0x7fffffffffffffffll - 1); }

struct Product {
    __device__ static f32 join(f32 a, f32 b) { return __fmul_rn(a, b); }
};

struct SmallestOrNan {
    __device__ static f32 join(f32 a, f32 b) { return b < a || b != b ? b : a; }
};

// The elements of an output, mapped by `kind` and joined, the same in every lane.
template <class Join>
__device__ inline f32 reduced(const Reduce& a, u32 kind, const f32* x, f32 start, f32 largest) {
    f32 acc = start;
    for (u32 i = threadIdx.x % WARP; i < a.count; i += WARP) {
        f32 value = x[position(i, a.reduced_rank, a.reduced_extents, a.reduced_strides)];
        if (kind == 6) value = fabsf(value);
        if (kind == 7 || kind == 8) value = __fmul_rn(value, value);
        if (kind == 10) value = expf(__fsub_rn(value, largest));
        acc = Join::join(acc, value);
    }
    return warp_reduce<Join>(acc);
}

KERNEL(reduce_f32, 128, Reduce) {
    const u32 output = thread_index() / WARP;
    if (output >= a.outputs) return;
    const f32* x = (const f32*)a.input + position(output, a.kept_rank, a.kept_extents, a.kept_strides);
    f32 y;
    if (a.kind == 3) {
        y = reduced<LargestOrNan>(a, 3, x, -infinity(), 0.0f);
    } else if (a.kind == 4) {
        y = reduced<SmallestOrNan>(a, 4, x, infinity(), 0.0f);
    } else if (a.kind == 5) {
        y = reduced<Product>(a, 5, x, 1.0f, 0.0f);
    } else if (a.kind == 10) {
        const f32 largest = reduced<LargestOrNan>(a, 3, x, -infinity(), 0.0f);
        const f32 sum = reduced<Sum>(a, a.kind, x, 0.0f, largest);
        y = fabsf(largest) == infinity() ? largest : __fadd_rn(largest, logf(sum));
    } else {
        y = reduced<Sum>(a, a.kind, x, 0.0f, 0.0f);
    }
    if (a.kind == 2) y = __fdiv_rn(y, __uint2float_rn(a.count));
    if (a.kind == 7) y = __fsqrt_rn(y);
    if (a.kind == 9) y = logf(y);
    if (threadIdx.x % WARP == 0) ((f32*)a.output)[output] = y;
}

struct Normalize {
    u64 input;
    u64 output;
    // 0, or factors and what is added.
    u64 scale;
    u64 bias;
    u32 row;
    // 1: less the mean.
    u32 centred;
    f32 epsilon;
    u32 reserved;
};

// A block has one row.
KERNEL(normalize_f32, 256, Normalize) {
    __shared__ f32 room[8];
    const f32* x = (const f32*)a.input + (u64)blockIdx.x * a.row;
    f32* y = (f32*)a.output + (u64)blockIdx.x * a.row;
    const f32 count = __uint2float_rn(a.row);
    f32 mean = 0.0f;
    if (a.centred) {
        for (u32 i = threadIdx.x; i < a.row; i += blockDim.x) mean = __fadd_rn(mean, x[i]);
        mean = __fdiv_rn(block_reduce<Sum>(mean, room), count);
    }
    f32 square = 0.0f;
    for (u32 i = threadIdx.x; i < a.row; i += blockDim.x) {
        const f32 away = __fsub_rn(x[i], mean);
        square = __fmaf_rn(away, away, square);
    }
    square = __fdiv_rn(block_reduce<Sum>(square, room), count);
    const f32 factor = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(square, a.epsilon)));
    for (u32 i = threadIdx.x; i < a.row; i += blockDim.x) {
        f32 value = __fmul_rn(__fsub_rn(x[i], mean), factor);
        if (a.scale != 0) value = __fmul_rn(value, ((const f32*)a.scale)[i]);
        if (a.bias != 0) value = __fadd_rn(value, ((const f32*)a.bias)[i]);
        y[i] = value;
    }
}

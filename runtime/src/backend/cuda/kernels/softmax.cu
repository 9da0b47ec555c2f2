// Softmax along one axis. A block has one row.
#include "common.h"

struct Softmax {
    u64 input;
    u64 output;
    // i8: 256 exponentials. i16: 256 of whole units of 256 steps, then 256 of single steps.
    u64 table;
    u32 extent;
    // Elements between one index of the axis and the next.
    u32 inner;
    f32 inverse_scale;
    i32 zero_point;
    // f32: 1 for the logarithm.
    u32 log;
    u32 reserved;
};

__device__ inline u64 row_start(const Softmax& a) {
    return (u64)(blockIdx.x / a.inner) * a.extent * a.inner + blockIdx.x % a.inner;
}

KERNEL(softmax_i8, 128, Softmax) {
    __shared__ i32 largest_of[4];
    __shared__ i64 sums[4];
    const i8* x = (const i8*)a.input + row_start(a);
    i8* y = (i8*)a.output + row_start(a);
    const i32* table = (const i32*)a.table;
    i32 largest = -128;
    for (u32 i = threadIdx.x; i < a.extent; i += blockDim.x) {
        largest = Largest::join(largest, (i32)x[(u64)i * a.inner]);
    }
    largest = block_reduce<Largest>(largest, largest_of);
    i64 sum = 0;
    for (u32 i = threadIdx.x; i < a.extent; i += blockDim.x) sum += table[largest - x[(u64)i * a.inner]];
    sum = block_reduce<Sum>(sum, sums);
    const f32 scale = __fdiv_rn(a.inverse_scale, __ll2float_rn(sum));
    const i32 lo = -128 - a.zero_point, hi = 127 - a.zero_point;
    for (u32 i = threadIdx.x; i < a.extent; i += blockDim.x) {
        const u64 at = (u64)i * a.inner;
        const f32 exponential = __int2float_rn(table[largest - x[at]]);
        y[at] = (i8)(round_clamp(__fmul_rn(exponential, scale), lo, hi) + a.zero_point);
    }
}

// The exponential of d steps below the largest: a product of two entries.
__device__ inline i64 exponential_i16(const i32* table, u32 d) {
    return ((i64)table[d >> 8] * table[256 + (d & 255)] + (1ll << 36)) >> 37;
}

KERNEL(softmax_i16, 128, Softmax) {
    __shared__ i32 largest_of[4];
    __shared__ u64 sums[4];
    const i16* x = (const i16*)a.input + row_start(a);
    i16* y = (i16*)a.output + row_start(a);
    const i32* table = (const i32*)a.table;
    i32 largest = -32768;
    for (u32 i = threadIdx.x; i < a.extent; i += blockDim.x) {
        largest = Largest::join(largest, (i32)x[(u64)i * a.inner]);
    }
    largest = block_reduce<Largest>(largest, largest_of);
    u64 sum = 0;
    for (u32 i = threadIdx.x; i < a.extent; i += blockDim.x) {
        sum += (u64)exponential_i16(table, (u32)(largest - x[(u64)i * a.inner]));
    }
    const i64 all = (i64)block_reduce<Sum>(sum, sums);
    const f32 scale = __fdiv_rn(a.inverse_scale, __ll2float_rn(all));
    for (u32 i = threadIdx.x; i < a.extent; i += blockDim.x) {
        const u64 at = (u64)i * a.inner;
        const f32 exponential = __ll2float_rn(exponential_i16(table, (u32)(largest - x[at])));
        y[at] = (i16)round_clamp(__fmul_rn(exponential, scale), -32768, 32767);
    }
}

KERNEL(softmax_f32, 128, Softmax) {
    __shared__ f32 room[4];
    const f32* x = (const f32*)a.input + row_start(a);
    f32* y = (f32*)a.output + row_start(a);
    f32 largest = -infinity();
    for (u32 i = threadIdx.x; i < a.extent; i += blockDim.x) {
        largest = Largest::join(largest, x[(u64)i * a.inner]);
    }
    largest = block_reduce<Largest>(largest, room);
    f32 sum = 0.0f;
    for (u32 i = threadIdx.x; i < a.extent; i += blockDim.x) {
        sum = __fadd_rn(sum, expf(__fsub_rn(x[(u64)i * a.inner], largest)));
    }
    sum = block_reduce<Sum>(sum, room);
    const f32 log_sum = a.log ? logf(sum) : 0.0f;
    for (u32 i = threadIdx.x; i < a.extent; i += blockDim.x) {
        const f32 below = __fsub_rn(x[(u64)i * a.inner], largest);
        y[(u64)i * a.inner] = a.log ? __fsub_rn(below, log_sum) : __fdiv_rn(expf(below), sum);
    }
}

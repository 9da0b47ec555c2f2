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

KERNEL(reduce_i8, 128, Reduce) {
    const u32 output = thread_index() / WARP, lane = threadIdx.x % WARP;
    if (output >= a.outputs) return;
    const i8* x = (const i8*)a.input + position(output, a.kept_rank, a.kept_extents, a.kept_strides);
    i32 acc = a.kind == 2 ? 0 : -128;
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
    ((i8*)a.output)[output] = (i8)(q + a.zero_point);
}

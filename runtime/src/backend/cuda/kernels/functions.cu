// Functions of f32, by the numbers of kinds in FORMAT.md.
#include "common.h"

__device__ inline f32 gelu(f32 x) {
    return __fmul_rn(__fmul_rn(0.5f, x), __fadd_rn(1.0f, erff(__fmul_rn(x, 0.70710678118654752f))));
}

__device__ inline f32 gelu_tanh(f32 x) {
    const f32 cube = __fmul_rn(__fmul_rn(x, x), x);
    const f32 inner = __fmul_rn(0.79788456080286536f, __fmaf_rn(0.044715f, cube, x));
    return __fmul_rn(__fmul_rn(0.5f, x), __fadd_rn(1.0f, tanhf(inner)));
}

__device__ inline f32 sign(f32 x) { return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : (x == 0.0f ? 0.0f : x)); }

__device__ inline f32 function(u32 kind, f32 x, f32 alpha, f32 beta) {
    switch (kind) {
    case 1: return x < 0.0f ? 0.0f : x;
    case 2: return clip(x, alpha, beta);
    case 3: return x < 0.0f ? __fmul_rn(alpha, x) : x;
    case 4: return x < 0.0f ? __fmul_rn(alpha, expm1f(x)) : x;
    case 5: return __fmul_rn(beta, x > 0.0f ? x : __fmul_rn(alpha, expm1f(x)));
    case 6: return x < 0.0f ? __fmul_rn(alpha, expm1f(__fdiv_rn(x, alpha))) : x;
    case 7: return x > alpha || x != x ? x : 0.0f;
    case 8: return sigmoid(x);
    case 9: return clip(__fadd_rn(__fmul_rn(alpha, x), beta), 0.0f, 1.0f);
    case 10: return __fmul_rn(x, clip(__fadd_rn(__fmul_rn(x, 1.0f / 6.0f), 0.5f), 0.0f, 1.0f));
    case 11: return __fmul_rn(x, sigmoid(x));
    case 12: return __fmul_rn(x, tanhf(softplus(x)));
    case 13: return gelu(x);
    case 14: return gelu_tanh(x);
    case 15: return softplus(x);
    case 16: return __fdiv_rn(x, __fadd_rn(1.0f, fabsf(x)));
    case 17: return tanhf(x);
    case 18: return erff(x);
    case 19: return expf(x);
    case 20: return logf(x);
    case 21: return __fsqrt_rn(x);
    case 22: return __fdiv_rn(1.0f, x);
    case 23: return -x;
    case 24: return fabsf(x);
    case 25: return sign(x);
    case 26: return floorf(x);
    case 27: return ceilf(x);
    default: return rintf(x);
    }
}

struct Unary {
    u64 input;
    u64 output;
    u32 elements;
    u32 kind;
    f32 alpha;
    f32 beta;
    // What the result is multiplied by, and what is added then; 1 and 0 leave it alone.
    f32 scale;
    f32 shift;
};

KERNEL(unary_f32, 256, Unary) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    f32 y = function(a.kind, ((const f32*)a.input)[at], a.alpha, a.beta);
    if (a.scale != 1.0f || a.shift != 0.0f) y = __fadd_rn(__fmul_rn(y, a.scale), a.shift);
    ((f32*)a.output)[at] = y;
}

struct Gated {
    u64 input;
    u64 output;
    // Of the output.
    u32 elements;
    u32 width;
    u32 kind;
    u32 reserved;
};

// A row of the input is a row of gates, then one of values.
KERNEL(gated_f32, 256, Gated) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const f32* row = (const f32*)a.input + (u64)(at / a.width) * 2 * a.width + at % a.width;
    ((f32*)a.output)[at] = __fmul_rn(function(a.kind, row[0], 0.0f, 0.0f), row[a.width]);
}

struct BinaryF32 {
    u64 a;
    u64 b;
    u64 output;
    u64 strides_a[8];
    u64 strides_b[8];
    u32 extents[8];
    u32 rank;
    u32 elements;
    u32 kind;
    f32 min;
    f32 max;
    u32 reserved;
};

// The remainder with the divisor's sign.
__device__ inline f32 floor_mod(f32 a, f32 b) {
    const f32 remainder = fmodf(a, b);
    return remainder != 0.0f && (remainder < 0.0f) != (b < 0.0f) ? __fadd_rn(remainder, b) : remainder;
}

KERNEL(binary_f32, 256, BinaryF32) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const f32 x = ((const f32*)a.a)[position(at, a.rank, a.extents, a.strides_a)];
    const f32 b = ((const f32*)a.b)[position(at, a.rank, a.extents, a.strides_b)];
    f32 y;
    switch (a.kind) {
    case 1: y = __fadd_rn(x, b); break;
    case 2: y = __fsub_rn(x, b); break;
    case 3: y = __fmul_rn(x, b); break;
    case 4: y = __fdiv_rn(x, b); break;
    case 5: y = b == 2.0f ? __fmul_rn(x, x) : powf(x, b); break;
    case 6: y = x != x ? x : (b < x || b != b ? b : x); break;
    case 7: y = x != x ? x : (b > x || b != b ? b : x); break;
    case 8: y = floor_mod(x, b); break;
    case 9: y = fmodf(x, b); break;
    default: y = x < 0.0f ? __fmul_rn(x, b) : x; break;
    }
    ((f32*)a.output)[at] = clip(y, a.min, a.max);
}

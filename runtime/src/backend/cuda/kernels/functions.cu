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

// Words of 2 / π behind the point.
__device__ const u32 TWO_OVER_PI[7] = {0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu};

// An angle less a multiple of π / 2, at most π / 4 from 0, and the number of quarters that were taken off, modulo 4.
struct Angle {
    double rest;
    u32 quarters;
};

// Of x from 0 on, finite.
__device__ inline Angle reduced_angle(f32 x) {
    Angle angle;
    if (x < 134217728.0f) {
        // The product with the upper half of π / 2 isn't rounded.
        const double quarters = rint((double)x * 0.63661977236758134);
        angle.rest = fma(-quarters, 6.123233995736766e-17, fma(-quarters, 1.5707963267948966, (double)x));
        angle.quarters = (u32)(i64)quarters & 3;
        return angle;
    }
    // x is m · 2^e with e at least 4. Bits of 2 / π that make multiples of 4 are left out, and 96 of the others are enough.
    const u32 bits = __float_as_uint(x), dropped = (bits >> 23) - 150 - 2, first = dropped / 32, shift = dropped % 32;
    const u64 m = (bits & 0x7fffff) | 0x800000;
    const u64 upper = (u64)TWO_OVER_PI[first] << 32 | TWO_OVER_PI[first + 1];
    const u64 lower = (u64)TWO_OVER_PI[first + 2] << 32 | TWO_OVER_PI[first + 3];
    const u64 head = shift == 0 ? upper : upper << shift | lower >> (64 - shift);
    const u64 tail = lower << shift >> 32;
    // The number of quarters over 4, without its whole part, in units of 2⁻⁶⁴.
    const u64 turn = m * head + (m * tail >> 32);
    angle.quarters = (u32)((turn + (1ull << 61)) >> 62);
    angle.rest = (double)(i64)(turn - ((u64)angle.quarters << 62)) * (1.5707963267948966 / 4611686018427387904.0);
    angle.quarters &= 3;
    return angle;
}

struct Circular {
    double sine;
    double cosine;
};

// Sine and cosine, by their series; each has more digits than f32.
__device__ inline Circular circular(f32 x) {
    Circular of = {(double)(x - x), (double)(x - x)};
    // Infinities and NaN.
    if (x - x != 0.0f) return of;
    const Angle angle = reduced_angle(fabsf(x));
    const double r = angle.rest, z = r * r;
    const double sine =
        r * (1.0 - z / 6.0 * (1.0 - z / 20.0 * (1.0 - z / 42.0 * (1.0 - z / 72.0 * (1.0 - z / 110.0 * (1.0 - z / 156.0))))));
    const double cosine =
        1.0 - z / 2.0 * (1.0 - z / 12.0 * (1.0 - z / 30.0 * (1.0 - z / 56.0 * (1.0 - z / 90.0 * (1.0 - z / 132.0 * (1.0 - z / 182.0))))));
    of.sine = angle.quarters % 2 ? cosine : sine;
    of.cosine = angle.quarters % 2 ? sine : cosine;
    if (angle.quarters == 2 || angle.quarters == 3) of.sine = -of.sine;
    if (angle.quarters == 1 || angle.quarters == 2) of.cosine = -of.cosine;
    if (__float_as_int(x) < 0) of.sine = -of.sine;
    return of;
}

// The nearest number of a narrower type, ties to even. The type, as in FORMAT.md: 1 e4m3fn, 2 e4m3fnuz, 3 e5m2, 4 e5m2fnuz,
// 5 e2m1. What is beyond its largest number becomes that if it `saturates`, else what the type has for it.
__device__ inline f32 round_narrow(f32 x, u32 type, bool saturates) {
    const bool has_negative_zero = type != 2 && type != 4;
    const i32 mantissa_bits = type <= 2 ? 3 : (type <= 4 ? 2 : 1);
    const i32 least = type == 1 ? -6 : (type == 2 ? -7 : (type == 3 ? -14 : (type == 4 ? -15 : 0)));
    const f32 largest = type == 1 ? 448.0f : (type == 2 ? 240.0f : (type == 5 ? 6.0f : 57344.0f));
    const f32 nan = __uint_as_float(0x7fc00000u);
    const f32 beyond = saturates || type == 5 ? largest : (type == 3 ? infinity() : nan);
    // The type of four bits has no NaN.
    if (x != x) return type == 5 ? -0.0f : nan;
    i32 exponent = (i32)(__float_as_uint(x) >> 23 & 0xff) - 127;
    exponent = exponent > least ? exponent : least;
    // A power of two: multiplying and dividing by it is exact.
    const f32 step = __uint_as_float((u32)clamp(exponent - mantissa_bits + 127, 1, 254) << 23);
    const f32 rounded = __fmul_rn(rintf(__fdiv_rn(x, step)), step);
    if (fabsf(rounded) > largest || fabsf(x) == infinity()) return x < 0.0f ? -beyond : beyond;
    return rounded == 0.0f && !has_negative_zero ? 0.0f : rounded;
}

// From kind 29 on.
__device__ inline f32 rare_function(u32 kind, f32 x, f32 alpha, f32 beta) {
    switch (kind) {
    case 29: return (f32)circular(x).sine;
    case 30: return (f32)circular(x).cosine;
    case 31: {
        const Circular of = circular(x);
        return (f32)(of.sine / of.cosine);
    }
    case 32: return asinf(x);
    case 33: return acosf(x);
    case 34: return atanf(x);
    case 35: return sinhf(x);
    case 36: return coshf(x);
    case 37: return asinhf(x);
    case 38: return acoshf(x);
    case 39: return atanhf(x);
    default: return round_narrow(x, (u32)truncated(alpha, 0, 5), beta != 0.0f);
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

// T is signed, U of its size without a sign.
template <class T, class U>
__device__ inline T function_of_integer(const Unary& a, T x, i64 lowest, i64 highest) {
    // An infinite bound is none.
    const T low = (T)truncated(a.alpha, lowest, highest), high = (T)truncated(a.beta, lowest, highest);
    switch (a.kind) {
    case 1: return x > 0 ? x : 0;
    case 2: x = x > low ? x : low; return x < high ? x : high;
    case 23: return (T)(0 - (U)x);
    case 24: return x < 0 ? (T)(0 - (U)x) : x;
    case 25: return x > 0 ? 1 : (x < 0 ? -1 : 0);
    default: return ~x;
    }
}

KERNEL(unary_i32, 256, Unary) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    ((i32*)a.output)[at] = function_of_integer<i32, u32>(a, ((const i32*)a.input)[at], -2147483648ll, 2147483647ll);
}

KERNEL(unary_i64, 256, Unary) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const i64 most = 0x7fffffffffffffffll;
    ((i64*)a.output)[at] = function_of_integer<i64, u64>(a, ((const i64*)a.input)[at], -most - 1, most);
}

// Numbers between bounds; or times `alpha` from 0 on, times `beta` below.
KERNEL(unary_i16, 256, Unary) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const f32 x = __int2float_rn(((const i16*)a.input)[at]);
    const f32 y = a.kind == 2 ? clip(x, a.alpha, a.beta) : __fmul_rn(x, x < 0.0f ? a.beta : a.alpha);
    ((i16*)a.output)[at] = (i16)round_clamp(y, -32768, 32767);
}

KERNEL(rare_unary_f32, 256, Unary) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    ((f32*)a.output)[at] = rare_function(a.kind, ((const f32*)a.input)[at], a.alpha, a.beta);
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

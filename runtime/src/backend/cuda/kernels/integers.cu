// Operators on whole numbers and on truth, and between types. A thread has one element.
#include "common.h"

struct Elements {
    u64 a;
    u64 b;
    u64 output;
    u64 strides_a[8];
    u64 strides_b[8];
    u32 extents[8];
    u32 rank;
    u32 elements;
    // As in FORMAT.md.
    u32 kind;
    u32 reserved;
};

template <class T>
struct Pair {
    T a;
    T b;
};

template <class T>
__device__ inline Pair<T> pair_at(const Elements& e, u32 at) {
    return {((const T*)e.a)[position(at, e.rank, e.extents, e.strides_a)],
            ((const T*)e.b)[position(at, e.rank, e.extents, e.strides_b)]};
}

template <class T>
__device__ inline void compare(const Elements& e) {
    const u32 at = thread_index();
    if (at >= e.elements) return;
    const Pair<T> x = pair_at<T>(e, at);
    bool y;
    switch (e.kind) {
    case 1: y = x.a == x.b; break;
    case 2: y = x.a < x.b; break;
    case 3: y = x.a <= x.b; break;
    case 4: y = x.a > x.b; break;
    default: y = x.a >= x.b; break;
    }
    ((u8*)e.output)[at] = y;
}

KERNEL(compare_f32, 256, Elements) { compare<f32>(a); }
KERNEL(compare_i8, 256, Elements) { compare<i8>(a); }
KERNEL(compare_u8, 256, Elements) { compare<u8>(a); }
KERNEL(compare_i32, 256, Elements) { compare<i32>(a); }
KERNEL(compare_i64, 256, Elements) { compare<i64>(a); }

// and, or, xor; kind 0: equal.
KERNEL(binary_bool, 256, Elements) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const Pair<u8> x = pair_at<u8>(a, at);
    const bool l = x.a != 0, r = x.b != 0;
    ((u8*)a.output)[at] = a.kind == 10 ? l && r : (a.kind == 11 ? l || r : (a.kind == 12 ? l != r : l == r));
}

// Wraps; negative exponents give the fraction's integer part.
__device__ inline i64 power(i64 base, i64 exponent) {
    if (exponent < 0) return base == 1 ? 1 : (base == -1 ? 1 - 2 * (exponent & 1) : 0);
    u64 result = 1, factor = (u64)base;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1) result *= factor;
        factor *= factor;
    }
    return (i64)result;
}

// T is signed, U of its size without a sign: sums and products wrap.
template <class T, class U>
__device__ inline T integer(u32 kind, T a, T b) {
    const T bits = 8 * sizeof(T);
    // The one quotient that doesn't fit wraps, and leaves nothing.
    const bool is_negation = b == -1;
    const T quotient = b == 0 ? 0 : (is_negation ? (T)(0 - (U)a) : a / (b == 0 ? 1 : b));
    const T remainder = b == 0 || is_negation ? 0 : a % (b == 0 ? 1 : b);
    switch (kind) {
    case 1: return (T)((U)a + (U)b);
    case 2: return (T)((U)a - (U)b);
    case 3: return (T)((U)a * (U)b);
    case 4: return quotient;
    case 5: return (T)power(a, b);
    case 6: return b < a ? b : a;
    case 7: return b > a ? b : a;
    case 8: return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
    case 9: return remainder;
    case 10: case 14: return a & b;
    case 11: case 15: return a | b;
    case 12: case 16: return a ^ b;
    case 13: return a < 0 ? (T)((U)a * (U)b) : a;
    case 17: return b < 0 || b >= bits ? 0 : (T)((U)a << b);
    default: return a >> (b < 0 || b >= bits ? bits - 1 : b);
    }
}

KERNEL(binary_i32, 256, Elements) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const Pair<i32> x = pair_at<i32>(a, at);
    ((i32*)a.output)[at] = integer<i32, u32>(a.kind, x.a, x.b);
}

KERNEL(binary_i64, 256, Elements) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const Pair<i64> x = pair_at<i64>(a, at);
    ((i64*)a.output)[at] = integer<i64, u64>(a.kind, x.a, x.b);
}

KERNEL(not_bool, 256, Elements) {
    const u32 at = thread_index();
    if (at < a.elements) ((u8*)a.output)[at] = ((const u8*)a.a)[at] == 0;
}

struct Where {
    u64 condition;
    u64 a;
    u64 b;
    u64 output;
    u64 strides_condition[8];
    u64 strides_a[8];
    u64 strides_b[8];
    u32 extents[8];
    u32 rank;
    u32 elements;
};

template <class T>
__device__ inline void choose(const Where& w) {
    const u32 at = thread_index();
    if (at >= w.elements) return;
    const bool truth = ((const u8*)w.condition)[position(at, w.rank, w.extents, w.strides_condition)] != 0;
    const T* from = (const T*)(truth ? w.a : w.b);
    ((T*)w.output)[at] = from[position(at, w.rank, w.extents, truth ? w.strides_a : w.strides_b)];
}

KERNEL(where_1, 256, Where) { choose<u8>(a); }
KERNEL(where_2, 256, Where) { choose<u16>(a); }
KERNEL(where_4, 256, Where) { choose<u32>(a); }
KERNEL(where_8, 256, Where) { choose<u64>(a); }

struct Cast {
    u64 input;
    u64 output;
    u32 elements;
    // Numbers of types: 1 f32, 2 f16, 3 bf16, 4 i8, 5 u8, 6 i16, 7 i32, 8 i64, 9 bool.
    u32 from;
    u32 to;
    u32 reserved;
};

// A whole number with so many binary digits, to the nearest, ties to even.
__device__ inline f32 rounded_to(i64 whole, u32 digits) {
    const u32 dropped = 53 - digits;
    u64 bits = (u64)__double_as_longlong((double)whole);
    bits += (1ull << (dropped - 1)) - 1 + (bits >> dropped & 1);
    return (f32)__longlong_as_double((i64)(bits >> dropped << dropped));
}

KERNEL(cast, 256, Cast) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    i64 whole = 0;
    f32 real = 0.0f;
    switch (a.from) {
    case 1: real = ((const f32*)a.input)[at]; break;
    case 2: real = half_to_float(((const u16*)a.input)[at]); break;
    case 3: real = bf16_to_float(((const u16*)a.input)[at]); break;
    case 4: whole = ((const i8*)a.input)[at]; break;
    case 6: whole = ((const i16*)a.input)[at]; break;
    case 7: whole = ((const i32*)a.input)[at]; break;
    case 8: whole = ((const i64*)a.input)[at]; break;
    case 9: whole = ((const u8*)a.input)[at] != 0; break;
    default: whole = ((const u8*)a.input)[at]; break;
    }
    const bool is_real = a.from <= 3;
    const i64 most = 0x7fffffffffffffffll;
    switch (a.to) {
    case 1: ((f32*)a.output)[at] = is_real ? real : __ll2float_rn(whole); break;
    case 2: ((u16*)a.output)[at] = float_to_half(is_real ? real : rounded_to(whole, 11)); break;
    case 3: ((u16*)a.output)[at] = float_to_bf16(is_real ? real : rounded_to(whole, 8)); break;
    case 4: ((i8*)a.output)[at] = (i8)(is_real ? truncated(real, -128, 127) : whole); break;
    case 5: ((u8*)a.output)[at] = (u8)(is_real ? truncated(real, 0, 255) : whole); break;
    case 6: ((i16*)a.output)[at] = (i16)(is_real ? truncated(real, -32768, 32767) : whole); break;
    case 7: ((i32*)a.output)[at] = (i32)(is_real ? truncated(real, -2147483648ll, 2147483647ll) : whole); break;
    case 8: ((i64*)a.output)[at] = is_real ? truncated(real, -most - 1, most) : whole; break;
    default: ((u8*)a.output)[at] = is_real ? real != 0.0f : whole != 0; break;
    }
}

struct ArgReduce {
    u64 input;
    u64 output;
    u32 outputs;
    u32 extent;
    // Elements between one index of the axis and the next.
    u32 inner;
    // 1: the smallest.
    u32 least;
    // 1: of equals the last.
    u32 last;
    u32 reserved;
};

// A thread has one output.
template <class T>
__device__ inline void arg_reduce(const ArgReduce& a) {
    const u32 at = thread_index();
    if (at >= a.outputs) return;
    const T* x = (const T*)a.input + (u64)(at / a.inner) * a.extent * a.inner + at % a.inner;
    T best = x[0];
    u32 best_at = 0;
    for (u32 i = 1; i < a.extent; i++) {
        const T candidate = x[(u64)i * a.inner];
        if ((a.least ? candidate < best : candidate > best) || (a.last && candidate == best)) {
            best = candidate;
            best_at = i;
        }
    }
    ((i64*)a.output)[at] = best_at;
}

KERNEL(arg_reduce_f32, 128, ArgReduce) { arg_reduce<f32>(a); }
KERNEL(arg_reduce_i8, 128, ArgReduce) { arg_reduce<i8>(a); }
KERNEL(arg_reduce_i32, 128, ArgReduce) { arg_reduce<i32>(a); }
KERNEL(arg_reduce_i64, 128, ArgReduce) { arg_reduce<i64>(a); }

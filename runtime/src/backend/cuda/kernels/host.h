// The kernels compiled for the host, for tests: what CUDA C++ has and C++ has not.
//
// Threads of a block are fibers of one system thread, resumed in turn (host.cpp). A thread runs until it
// waits for others, so a missing barrier shows: some thread reads what another has not written yet.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define __device__
#define __global__
#define __shared__ static thread_local
#define __restrict__ __restrict

struct Dim3 {
    u32 x, y, z;
};
extern thread_local Dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) int4 {
    i32 x, y, z, w;
};
struct alignas(8) int2 {
    i32 x, y;
};
struct alignas(16) float4 {
    f32 x, y, z, w;
};
struct alignas(8) float2 {
    f32 x, y;
};

// A kernel is called with the address of its arguments.
#define KERNEL(name, threads, Arguments)                                                       \
    static void name##_body(const Arguments& a);                                               \
    extern "C" void name(const void* arguments) { name##_body(*(const Arguments*)arguments); } \
    static void name##_body(const Arguments& a)

// Waits for all threads of the block that have not ended.
void __syncthreads();
// Waits for all 32 threads of the warp.
void __syncwarp(u32 mask = 0xffffffffu);

// What the lanes of this warp show each other: 8 bytes each.
u64* warp_room();

template <class T>
inline T exchange(T value, u32 lane) {
    static_assert(sizeof(T) <= 8, "a lane shows 8 bytes");
    u64 bytes = 0;
    memcpy(&bytes, &value, sizeof(T));
    warp_room()[threadIdx.x % 32] = bytes;
    __syncwarp();
    memcpy(&value, &warp_room()[lane % 32], sizeof(T));
    __syncwarp();
    return value;
}

template <class T>
inline T __shfl_xor_sync(u32, T value, int lanes) {
    return exchange(value, (threadIdx.x % 32) ^ (u32)lanes);
}

template <class T>
inline T __shfl_sync(u32, T value, int lane) {
    return exchange(value, (u32)lane);
}

inline i32 __dp4a(i32 a, i32 b, i32 c) {
    u32 sum = (u32)c;
    for (int i = 0; i < 4; i++) sum += (u32)((i32)(i8)(a >> (8 * i)) * (i32)(i8)(b >> (8 * i)));
    return (i32)sum;
}

// Bytes of a and b, of which each nibble of `selector` names one by its lower three bits.
inline u32 __byte_perm(u32 a, u32 b, u32 selector) {
    const u64 bytes = (u64)b << 32 | a;
    u32 chosen = 0;
    for (u32 i = 0; i < 4; i++) chosen |= (u32)(u8)(bytes >> (8 * (selector >> (4 * i) & 7))) << (8 * i);
    return chosen;
}

// Words of all lanes of this warp, 8 for each.
u32* fragment_room();

// c += a · b in a warp, 16 rows by 8 columns, 8 words deep: lane l has rows l / 4 and l / 4 + 8 of a and c, column l / 4 of b, and of these
// words l % 4 and l % 4 + 4, columns 2 · (l % 4) and the next of c. `add(c, x, y)` adds the products of two words.
template <class C, class Word, class Add>
inline void multiply_words(C (&c)[4], const Word (&a)[4], const Word (&b)[2], const Add& add) {
    u32* room = fragment_room();
    const u32 lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) room[lane * 8 + i] = (u32)a[i];
    for (int i = 0; i < 2; i++) room[lane * 8 + 4 + i] = (u32)b[i];
    __syncwarp();
    for (u32 i = 0; i < 4; i++) {
        const u32 row = lane / 4, upper = i / 2, column = 2 * (lane % 4) + i % 2;
        for (u32 word = 0; word < 8; word++) {
            const u32 x = room[(row * 4 + word % 4) * 8 + upper + 2 * (word / 4)];
            const u32 y = room[(column * 4 + word % 4) * 8 + 4 + word / 4];
            c[i] = add(c[i], x, y);
        }
    }
    __syncwarp();
}

// Words of four i8.
inline void multiply_i8(i32 (&c)[4], const i32 (&a)[4], const i32 (&b)[2]) {
    multiply_words(c, a, b, [](i32 c, u32 x, u32 y) { return __dp4a((i32)x, (i32)y, c); });
}

// Words of two bf16, the lower input first.
inline void multiply_bf16(f32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    const auto upper = [](u32 word) {
        f32 x;
        memcpy(&x, &word, sizeof(x));
        return x;
    };
    multiply_words(c, a, b, [&](f32 c, u32 x, u32 y) {
        const f32 lower = std::fma(upper(x << 16), upper(y << 16), c);
        return std::fma(upper(x & 0xffff0000u), upper(y & 0xffff0000u), lower);
    });
}

inline u32 atomicCAS(u32* at, u32 compare, u32 value) {
    const u32 before = *at;
    if (before == compare) *at = value;
    return before;
}

// One IEEE operation each: the host compiles with -ffp-contract=off.
inline f32 __fadd_rn(f32 a, f32 b) { return a + b; }
inline f32 __fsub_rn(f32 a, f32 b) { return a - b; }
inline f32 __fmul_rn(f32 a, f32 b) { return a * b; }
inline f32 __fdiv_rn(f32 a, f32 b) { return a / b; }
inline f32 __fmaf_rn(f32 a, f32 b, f32 c) { return std::fma(a, b, c); }
inline f32 __fsqrt_rn(f32 a) { return std::sqrt(a); }
inline f32 __int2float_rn(i32 a) { return (f32)a; }
inline f32 __uint2float_rn(u32 a) { return (f32)a; }
inline f32 __ll2float_rn(i64 a) { return (f32)a; }
inline f32 __ull2float_rn(u64 a) { return (f32)a; }

// The upper half of a product.
inline u64 __umul64hi(u64 a, u64 b) { return (u64)((unsigned __int128)a * b >> 64); }

template <class To, class From>
inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}
inline i32 __float_as_int(f32 a) { return same_bits<i32>(a); }
inline u32 __float_as_uint(f32 a) { return same_bits<u32>(a); }
inline f32 __int_as_float(i32 a) { return same_bits<f32>(a); }
inline f32 __uint_as_float(u32 a) { return same_bits<f32>(a); }
inline i64 __double_as_longlong(double a) { return same_bits<i64>(a); }
inline double __longlong_as_double(i64 a) { return same_bits<double>(a); }

inline f32 half_to_float(u16 bits) { return (f32)same_bits<_Float16>(bits); }
inline u16 float_to_half(f32 x) { return same_bits<u16>((_Float16)x); }

// Products of two activations in tiles of 32 × 32. Sums of integers wrap.
#include "common.h"

struct MatMul {
    u64 a;
    u64 b;
    u64 output;
    // Of leading axes.
    u64 strides_a[8];
    u64 strides_b[8];
    u32 extents[8];
    u32 rank;
    u32 m;
    u32 k;
    u32 n;
    // Elements from one row to the next, and from one column.
    u32 row_a;
    u32 column_a;
    u32 row_b;
    u32 column_b;
};

#define TILE 32

__device__ inline f32 multiplied(f32 a, f32 b, f32 sum) { return __fmaf_rn(a, b, sum); }
__device__ inline u32 multiplied(u32 a, u32 b, u32 sum) { return sum + a * b; }
__device__ inline u64 multiplied(u64 a, u64 b, u64 sum) { return sum + a * b; }

// Grid: tiles of a product, products. A thread has four rows of a column.
template <class T>
__device__ inline void multiply(const MatMul& a) {
    __shared__ T a_tile[TILE][TILE + 1];
    __shared__ T b_tile[TILE][TILE + 1];
    const u32 tiles = (a.n + TILE - 1) / TILE, tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
    const u32 first_row = blockIdx.x / tiles * TILE, column = blockIdx.x % tiles * TILE + tx;
    const T* left = (const T*)a.a + position(blockIdx.y, a.rank, a.extents, a.strides_a);
    const T* right = (const T*)a.b + position(blockIdx.y, a.rank, a.extents, a.strides_b);
    T acc[4] = {};
    for (u32 first = 0; first < a.k; first += TILE) {
        for (u32 i = 0; i < 4; i++) {
            const u32 y = ty + 8 * i, row = first_row + y, k = first + y;
            a_tile[y][tx] = row < a.m && first + tx < a.k ? left[(u64)row * a.row_a + (u64)(first + tx) * a.column_a] : (T)0;
            b_tile[y][tx] = k < a.k && column < a.n ? right[(u64)k * a.row_b + (u64)column * a.column_b] : (T)0;
        }
        __syncthreads();
        const u32 count = a.k - first < TILE ? a.k - first : TILE;
        for (u32 k = 0; k < count; k++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) acc[i] = multiplied(a_tile[ty + 8 * i][k], b_tile[k][tx], acc[i]);
        }
        __syncthreads();
    }
    T* y = (T*)a.output + (u64)blockIdx.y * a.m * a.n;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 row = first_row + ty + 8 * i;
        if (row < a.m && column < a.n) y[(u64)row * a.n + column] = acc[i];
    }
}

KERNEL(matmul_f32, 256, MatMul) { multiply<f32>(a); }
KERNEL(matmul_i32, 256, MatMul) { multiply<u32>(a); }
KERNEL(matmul_i64, 256, MatMul) { multiply<u64>(a); }

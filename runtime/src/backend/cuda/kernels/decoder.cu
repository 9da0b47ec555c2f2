// What decoders have besides layers and attention: rows of a table, rotary positions.
#include "common.h"

struct Embedding {
    u64 ids;
    u64 output;
    u64 status;
    Weights table;
    // Rows of the table.
    u32 rows;
    u32 elements;
    u32 step;
    // Dense: 0 f32, 1 f16, 2 bf16; panels: 3 f32, 4 f16, 5 bf16, 6 w8, 7 w4, 8 w5, 9 w6, 10 w4nl.
    u32 form;
    // 1: ids are i64, else i32.
    u32 wide_ids;
    f32 scale;
};

// A thread has one channel of one id.
KERNEL(embedding, 256, Embedding) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const u32 size = a.table.k, token = at / size, k = at % size;
    const i64 id = a.wide_ids ? ((const i64*)a.ids)[token] : ((const i32*)a.ids)[token];
    if (id < 0 || id >= a.rows) {
        report(a.status, a.step);
        return;
    }
    const u32 row = (u32)id, panel = row / 16, column = row % 16;
    f32 x;
    switch (a.form) {
    case 0: x = ((const f32*)a.table.data)[(u64)row * size + k]; break;
    case 1: x = half_to_float(((const u16*)a.table.data)[(u64)row * size + k]); break;
    case 2: x = bf16_to_float(((const u16*)a.table.data)[(u64)row * size + k]); break;
    case 3: x = weight_at<F32>(a.table, panel, k, column); break;
    case 4: x = weight_at<F16>(a.table, panel, k, column); break;
    case 5: x = weight_at<BF16>(a.table, panel, k, column); break;
    case 6: x = weight_at<W8>(a.table, panel, k, column); break;
    case 7: x = weight_at<W4>(a.table, panel, k, column); break;
    case 8: x = weight_at<W5>(a.table, panel, k, column); break;
    case 9: x = weight_at<W6>(a.table, panel, k, column); break;
    default: x = weight_at<W4NL>(a.table, panel, k, column); break;
    }
    ((f32*)a.output)[at] = a.scale == 1.0f ? x : __fmul_rn(x, a.scale);
}

#define MOST_HEAD 1024

struct Rotary {
    // Perhaps the output itself.
    u64 input;
    u64 output;
    u64 positions;
    u64 table;
    // 0, or factors of normalised heads.
    u64 query_scale;
    u64 key_scale;
    u64 status;
    u32 heads;
    u32 kv_heads;
    u32 size;
    u32 rotated;
    u32 interleaved;
    // Rows of the table.
    u32 rows;
    f32 epsilon;
    u32 step;
};

// Grid: tokens, heads of queries, keys and values. A block has a head, which it reads before it writes.
KERNEL(rotary, 128, Rotary) {
    __shared__ f32 head[MOST_HEAD];
    __shared__ f32 room[4];
    const u32 token = blockIdx.x, number = blockIdx.y;
    const u64 at = ((u64)token * (a.heads + 2 * a.kv_heads) + number) * a.size;
    const f32* x = (const f32*)a.input + at;
    f32* y = (f32*)a.output + at;
    for (u32 i = threadIdx.x; i < a.size; i += blockDim.x) head[i] = x[i];
    __syncthreads();
    const i32 position = ((const i32*)a.positions)[token];
    if (position < 0 || (a.rotated > 0 && (u32)position >= a.rows)) {
        if (threadIdx.x == 0) report(a.status, a.step);
        return;
    }
    const bool is_value = number >= a.heads + a.kv_heads;
    const u64 scale = is_value ? 0 : (number < a.heads ? a.query_scale : a.key_scale);
    if (scale != 0) {
        f32 square = 0.0f;
        for (u32 i = threadIdx.x; i < a.size; i += blockDim.x) square = __fmaf_rn(head[i], head[i], square);
        square = block_reduce<Sum>(square, room);
        const f32 mean = __fdiv_rn(square, __uint2float_rn(a.size));
        const f32 factor = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, a.epsilon)));
        for (u32 i = threadIdx.x; i < a.size; i += blockDim.x) {
            head[i] = __fmul_rn(__fmul_rn(head[i], factor), ((const f32*)scale)[i]);
        }
        __syncthreads();
    }
    const u32 pairs = is_value ? 0 : a.rotated / 2;
    const f32* cosines = (const f32*)a.table + (u64)(u32)position * a.rotated;
    for (u32 i = threadIdx.x; i < a.size; i += blockDim.x) {
        f32 value = head[i];
        if (i < 2 * pairs) {
            const u32 pair = a.interleaved ? i / 2 : i % pairs;
            const bool second = a.interleaved ? i % 2 == 1 : i >= pairs;
            const f32 other = head[a.interleaved ? i ^ 1 : (second ? i - pairs : i + pairs)];
            const f32 cosine = cosines[pair], sine = cosines[pairs + pair];
            const f32 turned = __fmul_rn(other, sine);
            value = second ? __fadd_rn(__fmul_rn(value, cosine), turned) : __fsub_rn(__fmul_rn(value, cosine), turned);
        }
        y[i] = value;
    }
}

// Attention without the matrix of scores: exponentials are relative to the largest score so far.
#include "common.h"

// Channels of a head at most.
#define MOST_CHANNELS 512
#define WARPS 4

// What a query attends to.
struct Scores {
    f32 scale;
    // 0 for none.
    f32 softcap;
    // 1: a query that sees nothing gives zeros instead of NaN.
    u32 zero_rows;
};

template <class T>
__device__ inline f32 widened(T x) { return x; }
template <>
__device__ inline f32 widened<u16>(u16 x) { return half_to_float(x); }

// One query of a block's 4 warps: `y = softmax(q · kᵀ) · v` over keys first to end − 1. Warps take chunks of 32 keys in turn,
// lanes a key each for its score, then channels for the sum. `mask` may be null.
template <class T>
__device__ inline void attend(const f32* q, const T* keys, const T* values, u32 first, u32 end, u32 size, u32 value_size,
                              const f32* mask, i64 mask_stride, const Scores& to, f32* y) {
    __shared__ f32 query[MOST_CHANNELS];
    __shared__ f32 weighted[WARPS][MOST_CHANNELS];
    __shared__ f32 largest_of[WARPS], sum_of[WARPS];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (u32 i = threadIdx.x; i < size; i += blockDim.x) query[i] = q[i];
    __syncthreads();
    f32 acc[MOST_CHANNELS / WARP] = {};
    f32 largest = -infinity(), sum = 0.0f;
    for (u32 chunk = first + warp * WARP; chunk < end; chunk += WARPS * WARP) {
        const u32 key = chunk + lane;
        f32 score = -infinity();
        if (key < end) {
            const T* k = keys + (u64)key * size;
            f32 dot = 0.0f;
            for (u32 i = 0; i < size; i++) dot = __fmaf_rn(query[i], widened(k[i]), dot);
            score = __fmul_rn(dot, to.scale);
            if (to.softcap > 0.0f) score = __fmul_rn(to.softcap, tanhf(__fdiv_rn(score, to.softcap)));
            if (mask != nullptr) score = __fadd_rn(score, mask[key * mask_stride]);
        }
        const f32 before = largest;
        largest = Largest::join(largest, warp_reduce<Largest>(score));
        // Where all are −∞ so far, nothing has a weight.
        const f32 shrink = largest == -infinity() ? 0.0f : expf(__fsub_rn(before, largest));
        f32 weight = largest == -infinity() && score == -infinity() ? 0.0f : expf(__fsub_rn(score, largest));
        if (key >= end) weight = 0.0f;
        sum = __fmaf_rn(sum, shrink, warp_reduce<Sum>(weight));
#pragma unroll
        for (u32 i = 0; i < MOST_CHANNELS / WARP; i++) acc[i] = __fmul_rn(acc[i], shrink);
        const u32 count = end - chunk < WARP ? end - chunk : WARP;
        for (u32 j = 0; j < count; j++) {
            const f32 w = __shfl_sync(ALL_LANES, weight, (i32)j);
            const T* v = values + (u64)(chunk + j) * value_size;
#pragma unroll
            for (u32 i = 0; i < MOST_CHANNELS / WARP; i++) {
                const u32 channel = lane + i * WARP;
                if (channel < value_size) acc[i] = __fmaf_rn(w, widened(v[channel]), acc[i]);
            }
        }
    }
    if (lane == 0) {
        largest_of[warp] = largest;
        sum_of[warp] = sum;
    }
#pragma unroll
    for (u32 i = 0; i < MOST_CHANNELS / WARP; i++) {
        if (lane + i * WARP < value_size) weighted[warp][lane + i * WARP] = acc[i];
    }
    __syncthreads();
    f32 all = -infinity(), total = 0.0f, shrink[WARPS];
    for (u32 i = 0; i < WARPS; i++) all = Largest::join(all, largest_of[i]);
    for (u32 i = 0; i < WARPS; i++) {
        shrink[i] = largest_of[i] == -infinity() ? 0.0f : expf(__fsub_rn(largest_of[i], all));
        // A sum that is NaN stays so, whatever it is relative to.
        total = __fmaf_rn(sum_of[i], sum_of[i] != sum_of[i] ? 1.0f : shrink[i], total);
    }
    const bool none = total == 0.0f;
    for (u32 channel = threadIdx.x; channel < value_size; channel += blockDim.x) {
        f32 value = 0.0f;
        for (u32 i = 0; i < WARPS; i++) value = __fmaf_rn(weighted[i][channel], shrink[i], value);
        y[channel] = first >= end || (none && to.zero_rows) ? 0.0f : __fdiv_rn(value, total);
    }
}

struct Attention {
    u64 q;
    u64 k;
    u64 v;
    // 0, or added to scores.
    u64 mask;
    u64 output;
    // Elements of the mask from one batch, head, query, key to the next.
    u64 mask_strides[4];
    u32 heads;
    u32 kv_heads;
    u32 queries;
    u32 keys;
    u32 size;
    u32 value_size;
    f32 scale;
    f32 softcap;
    u32 zero_rows;
    u32 causal;
    u32 offset;
    u32 reserved;
};

// Grid: queries, heads of all samples.
KERNEL(attention_f32, 128, Attention) {
    const u32 query = blockIdx.x, sample = blockIdx.y / a.heads, head = blockIdx.y % a.heads;
    const u64 row = (u64)blockIdx.y * a.queries + query;
    const u64 kv = ((u64)sample * a.kv_heads + head / (a.heads / a.kv_heads)) * a.keys;
    const u64 seen = a.causal ? (u64)query + a.offset + 1 : a.keys;
    const f32* mask = a.mask == 0 ? nullptr
                                  : (const f32*)a.mask + sample * a.mask_strides[0] + head * a.mask_strides[1] +
                                        query * a.mask_strides[2];
    const Scores to = {a.scale, a.softcap, a.zero_rows};
    attend<f32>((const f32*)a.q + row * a.size, (const f32*)a.k + kv * a.size, (const f32*)a.v + kv * a.value_size, 0,
                (u32)(seen < a.keys ? seen : a.keys), a.size, a.value_size, mask, (i64)a.mask_strides[3], to,
                (f32*)a.output + row * a.value_size);
}

struct CachedAttention {
    // Queries, keys and values of tokens, one behind the other.
    u64 x;
    u64 positions;
    // 0, or which sequence each token belongs to.
    u64 sequences;
    u64 keys;
    u64 values;
    u64 output;
    u64 status;
    u32 tokens;
    u32 heads;
    u32 kv_heads;
    u32 size;
    // In the cache.
    u32 sequence_count;
    u32 context;
    // 0: all.
    u32 window;
    u32 step;
    f32 scale;
    f32 softcap;
};

// One block: whether all tokens have places in the cache.
KERNEL(cache_check, 256, CachedAttention) {
    for (u32 token = threadIdx.x; token < a.tokens; token += blockDim.x) {
        const i32 position = ((const i32*)a.positions)[token];
        const i32 sequence = a.sequences == 0 ? 0 : ((const i32*)a.sequences)[token];
        const bool inside = position >= 0 && (u32)position < a.context && sequence >= 0 && (u32)sequence < a.sequence_count;
        if (!inside) report(a.status, a.step);
    }
}

// Where a token's row of a head of keys or values begins in the cache.
__device__ inline u64 cache_row(const CachedAttention& a, u32 token, u32 kv_head) {
    const i32 sequence = a.sequences == 0 ? 0 : ((const i32*)a.sequences)[token];
    const u64 head = (u64)sequence * a.kv_heads + kv_head;
    return (head * a.context + ((const i32*)a.positions)[token]) * a.size;
}

// Grid: tokens. Writes nothing after an error. Of tokens with one place the last one has it.
KERNEL(cache_write, 256, CachedAttention) {
    __shared__ u32 room[8];
    if (*(const u32*)a.status != 0) return;
    const u32 token = blockIdx.x, width = a.kv_heads * a.size;
    const u64 place = cache_row(a, token, 0);
    u32 later = 0;
    for (u32 other = token + 1 + threadIdx.x; other < a.tokens; other += blockDim.x) {
        later += cache_row(a, other, 0) == place;
    }
    if (block_reduce<Sum>(later, room) > 0) return;
    const f32* x = (const f32*)a.x + ((u64)token * (a.heads + 2 * a.kv_heads) + a.heads) * a.size;
    for (u32 channel = threadIdx.x; channel < width; channel += blockDim.x) {
        const u64 to = place + (u64)(channel / a.size) * a.context * a.size + channel % a.size;
        ((u16*)a.keys)[to] = float_to_half(x[channel]);
        ((u16*)a.values)[to] = float_to_half(x[width + channel]);
    }
}

// Grid: tokens, heads.
KERNEL(cached_attention, 128, CachedAttention) {
    if (*(const u32*)a.status != 0) return;
    const u32 token = blockIdx.x, head = blockIdx.y;
    const u32 position = (u32)((const i32*)a.positions)[token];
    const u64 row = cache_row(a, token, head / (a.heads / a.kv_heads)) - (u64)position * a.size;
    const u32 end = position + 1, first = a.window != 0 && end > a.window ? end - a.window : 0;
    const Scores to = {a.scale, a.softcap, 0};
    const f32* q = (const f32*)a.x + ((u64)token * (a.heads + 2 * a.kv_heads) + head) * a.size;
    attend<u16>(q, (const u16*)a.keys + row, (const u16*)a.values + row, first, end, a.size, a.size, nullptr, 0, to,
                (f32*)a.output + ((u64)token * a.heads + head) * a.size);
}

struct CrossAttention {
    // Queries.
    u64 x;
    // Keys and values of every position, one behind the other; not read when there are none.
    u64 fresh;
    u64 keys;
    u64 values;
    u64 output;
    u32 tokens;
    u32 heads;
    u32 kv_heads;
    u32 size;
    u32 positions;
    f32 scale;
};

// A thread has a channel of the keys and values of a position.
KERNEL(cross_write, 256, CrossAttention) {
    const u32 width = a.kv_heads * a.size, at = thread_index();
    if (at >= a.positions * width) return;
    const u32 position = at / width, channel = at % width;
    const f32* x = (const f32*)a.fresh + (u64)position * 2 * width + channel;
    const u64 to = ((u64)(channel / a.size) * a.positions + position) * a.size + channel % a.size;
    ((u16*)a.keys)[to] = float_to_half(x[0]);
    ((u16*)a.values)[to] = float_to_half(x[width]);
}

// Grid: tokens, heads.
KERNEL(cross_attention, 128, CrossAttention) {
    const u64 row = ((u64)blockIdx.x * a.heads + blockIdx.y) * a.size;
    const u64 head = (u64)(blockIdx.y / (a.heads / a.kv_heads)) * a.positions * a.size;
    const Scores to = {a.scale, 0.0f, 0};
    attend<u16>((const f32*)a.x + row, (const u16*)a.keys + head, (const u16*)a.values + head, 0, a.positions, a.size,
                a.size, nullptr, 0, to, (f32*)a.output + row);
}

// Attention without the matrix of scores: exponentials are relative to the largest score so far.
#include "common.h"

// Channels of a head at most.
#define MOST_CHANNELS 512
// The same where several queries share the keys.
#define MOST_SHARED_CHANNELS 256
#define WARPS 4

// What a query attends to.
struct Scores {
    f32 scale;
    // 0 for none.
    f32 softcap;
    // 1: a query that sees nothing gives zeros instead of NaN.
    u32 zero_rows;
};

// Channels that a lane reads at a time where it can.
#define EIGHT 8

__device__ inline f32 widened(f32 x) { return x; }
__device__ inline f32 widened(u16 x) { return half_to_float(x); }

__device__ inline void widen_eight(const f32* from, f32 (&to)[EIGHT]) {
    const float4 a = ((const float4*)from)[0], b = ((const float4*)from)[1];
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
    to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

__device__ inline void widen_eight(const u16* from, f32 (&to)[EIGHT]) {
    const int4 words = *(const int4*)from;
    const i32 pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (u32 i = 0; i < EIGHT; i++) to[i] = half_to_float((u16)((u32)pairs[i / 2] >> (16 * (i % 2))));
}

// Rows of f32 or f16.
template <class T>
struct Floats {
    const T* numbers;
    u32 size;

    __device__ f32 at(u32 row, u32 channel) const { return widened(numbers[(u64)row * size + channel]); }

    // Whether rows can be read with `eight`.
    __device__ bool has_eights() const { return size % EIGHT == 0 && (u64)numbers % 16 == 0; }

    __device__ void eight(u32 row, u32 channel, f32 (&to)[EIGHT]) const {
        widen_eight(numbers + (u64)row * size + channel, to);
    }
};

// Channels with one scale.
#define Q8_GROUP 32

// Rows of i8, with scales in f16.
struct Q8 {
    const i8* numbers;
    const u16* scales;
    u32 size;

    __device__ f32 scale(u32 row, u32 channel) const {
        return half_to_float(scales[(u64)row * ((size + Q8_GROUP - 1) / Q8_GROUP) + channel / Q8_GROUP]);
    }

    __device__ f32 at(u32 row, u32 channel) const {
        return __fmul_rn(__int2float_rn(numbers[(u64)row * size + channel]), scale(row, channel));
    }

    __device__ bool has_eights() const { return size % EIGHT == 0 && (u64)numbers % 8 == 0; }

    // They lie in one group.
    __device__ void eight(u32 row, u32 channel, f32 (&to)[EIGHT]) const {
        const int2 words = *(const int2*)(numbers + (u64)row * size + channel);
        const f32 by = scale(row, channel);
#pragma unroll
        for (u32 i = 0; i < EIGHT; i++) {
            const u32 word = (u32)(i < 4 ? words.x : words.y);
            to[i] = __fmul_rn(__int2float_rn((i8)(word >> (8 * (i % 4)))), by);
        }
    }
};

// Exponentials' sums over parts of the keys, each relative to the part's largest score.
struct Parts {
    const f32* largest;
    const f32* sum;
    // A row of weighted values for each part.
    const f32* weighted;
    // From row to row.
    u32 stride;
    u32 count;
};

// What a part's sums count when they are relative to a larger score.
__device__ inline f32 shrunk(f32 largest, f32 to) {
    // Where all are −∞, nothing has a weight.
    return largest == -infinity() ? 0.0f : expf(__fsub_rn(largest, to));
}

// The sums of all parts as one, in their order.
struct Joined {
    f32 largest;
    f32 sum;

    __device__ explicit Joined(const Parts& parts) {
        largest = -infinity();
        sum = 0.0f;
        for (u32 i = 0; i < parts.count; i++) largest = Largest::join(largest, parts.largest[i]);
        for (u32 i = 0; i < parts.count; i++) {
            // A sum that is NaN stays so, whatever it is relative to.
            const f32 by = parts.sum[i] != parts.sum[i] ? 1.0f : shrunk(parts.largest[i], largest);
            sum = __fmaf_rn(parts.sum[i], by, sum);
        }
    }

    // A channel of the weighted values.
    __device__ f32 weighted(const Parts& parts, u32 channel) const {
        f32 value = 0.0f;
        for (u32 i = 0; i < parts.count; i++) {
            value = __fmaf_rn(parts.weighted[(u64)i * parts.stride + channel], shrunk(parts.largest[i], largest), value);
        }
        return value;
    }
};

// Goes over keys first to end − 1 for `count` queries of a block's 4 warps, at most QUERIES of at most CHANNELS: of each the exponentials' sum, and the values
// weighted with them. Warps take chunks of 32 keys in turn, lanes a key each for its score, then channels for the sum. `mask` may be null.
// `finish(query, parts)` is called by all threads and gets the warps' parts.
template <u32 QUERIES, u32 CHANNELS, class Rows, class Finish>
__device__ inline void attend(const f32* q, u32 count, const Rows& keys, const Rows& values, u32 first, u32 end,
                              const f32* mask, i64 mask_stride, const Scores& to, const Finish& finish) {
    const u32 size = keys.size, value_size = values.size;
    __shared__ f32 query[QUERIES][CHANNELS];
    __shared__ f32 weighted[WARPS][CHANNELS];
    __shared__ f32 largest_of[WARPS], sum_of[WARPS];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    // Behind the last query lies anything; nobody reads what becomes of it.
    for (u32 i = threadIdx.x; i < count * size; i += blockDim.x) query[i / size][i % size] = q[i];
    __syncthreads();
    f32 acc[QUERIES][CHANNELS / WARP] = {};
    f32 largest[QUERIES], sum[QUERIES];
#pragma unroll
    for (u32 n = 0; n < QUERIES; n++) {
        largest[n] = -infinity();
        sum[n] = 0.0f;
    }
    const bool has_eights = keys.has_eights();
    for (u32 chunk = first + warp * WARP; chunk < end; chunk += WARPS * WARP) {
        const u32 key = chunk + lane;
        f32 weight[QUERIES] = {};
        if (key < end) {
            if (has_eights) {
#pragma unroll 1
                for (u32 i = 0; i < size; i += EIGHT) {
                    f32 row[EIGHT];
                    keys.eight(key, i, row);
#pragma unroll
                    for (u32 n = 0; n < QUERIES; n++) {
#pragma unroll
                        for (u32 j = 0; j < EIGHT; j++) weight[n] = __fmaf_rn(query[n][i + j], row[j], weight[n]);
                    }
                }
            } else {
                for (u32 i = 0; i < size; i++) {
                    const f32 x = keys.at(key, i);
#pragma unroll
                    for (u32 n = 0; n < QUERIES; n++) weight[n] = __fmaf_rn(query[n][i], x, weight[n]);
                }
            }
        }
#pragma unroll
        for (u32 n = 0; n < QUERIES; n++) {
            f32 score = -infinity();
            if (key < end) {
                score = __fmul_rn(weight[n], to.scale);
                if (to.softcap > 0.0f) score = __fmul_rn(to.softcap, tanhf(__fdiv_rn(score, to.softcap)));
                if (mask != nullptr) score = __fadd_rn(score, mask[key * mask_stride]);
            }
            const f32 before = largest[n];
            largest[n] = Largest::join(before, warp_reduce<Largest>(score));
            // Where all are −∞ so far, nothing has a weight.
            const f32 shrink = largest[n] == -infinity() ? 0.0f : expf(__fsub_rn(before, largest[n]));
            weight[n] = largest[n] == -infinity() && score == -infinity() ? 0.0f : expf(__fsub_rn(score, largest[n]));
            if (key >= end) weight[n] = 0.0f;
            sum[n] = __fmaf_rn(sum[n], shrink, warp_reduce<Sum>(weight[n]));
#pragma unroll
            for (u32 i = 0; i < CHANNELS / WARP; i++) acc[n][i] = __fmul_rn(acc[n][i], shrink);
        }
        const u32 rows = end - chunk < WARP ? end - chunk : WARP;
#pragma unroll 4
        for (u32 j = 0; j < rows; j++) {
            f32 w[QUERIES];
#pragma unroll
            for (u32 n = 0; n < QUERIES; n++) w[n] = __shfl_sync(ALL_LANES, weight[n], (i32)j);
#pragma unroll
            for (u32 start = 0; start < CHANNELS; start += CHANNELS / 2) {
                // Most heads have less than half.
                if (start >= value_size) continue;
#pragma unroll
                for (u32 i = start / WARP; i < (start + CHANNELS / 2) / WARP; i++) {
                    // Behind the last channel nobody looks, so lanes go the same way.
                    const u32 channel = lane + i * WARP, last = value_size - 1;
                    const f32 value = values.at(chunk + j, channel < last ? channel : last);
#pragma unroll
                    for (u32 n = 0; n < QUERIES; n++) acc[n][i] = __fmaf_rn(w[n], value, acc[n][i]);
                }
            }
        }
    }
#pragma unroll
    for (u32 n = 0; n < QUERIES; n++) {
        // The query before has been finished.
        __syncthreads();
        if (lane == 0) {
            largest_of[warp] = largest[n];
            sum_of[warp] = sum[n];
        }
#pragma unroll
        for (u32 i = 0; i < CHANNELS / WARP; i++) {
            if (lane + i * WARP < value_size) weighted[warp][lane + i * WARP] = acc[n][i];
        }
        __syncthreads();
        const Parts parts = {largest_of, sum_of, weighted[0], CHANNELS, WARPS};
        if (n < count) finish(n, parts);
    }
}

// Divides weighted values by the exponentials' sum; `none`: there are no keys.
__device__ inline void divide(const Parts& parts, bool none, const Scores& to, u32 size, f32* y) {
    const Joined all(parts);
    none = none || (all.sum == 0.0f && to.zero_rows);
    for (u32 channel = threadIdx.x; channel < size; channel += blockDim.x) {
        y[channel] = none ? 0.0f : __fdiv_rn(all.weighted(parts, channel), all.sum);
    }
}

// One query: `y = softmax(q · kᵀ) · v`.
template <class Rows>
__device__ inline void attend(const f32* q, const Rows& keys, const Rows& values, u32 first, u32 end, const f32* mask,
                              i64 mask_stride, const Scores& to, f32* y) {
    attend<1, MOST_CHANNELS>(q, 1, keys, values, first, end, mask, mask_stride, to,
              [&](u32, const Parts& parts) { divide(parts, first >= end, to, values.size, y); });
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
    const Floats<f32> keys = {(const f32*)a.k + kv * a.size, a.size};
    const Floats<f32> values = {(const f32*)a.v + kv * a.value_size, a.value_size};
    attend((const f32*)a.q + row * a.size, keys, values, 0, (u32)(seen < a.keys ? seen : a.keys), mask,
           (i64)a.mask_strides[3], to, (f32*)a.output + row * a.value_size);
}

struct CachedAttention {
    // Queries, keys and values of tokens, one behind the other.
    u64 x;
    u64 positions;
    // 0, or which sequence each token belongs to.
    u64 sequences;
    u64 keys;
    u64 values;
    // Of keys and values in i8.
    u64 key_scales;
    u64 value_scales;
    u64 output;
    u64 status;
    // Where parts of the keys leave their sums.
    u64 scratch;
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
    // That the keys of each token and head are cut into.
    u32 parts;
    u32 reserved;
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

// The number of a token's row of a head of keys or values in the cache.
__device__ inline u64 cache_row(const CachedAttention& a, u32 token, u32 kv_head) {
    const i32 sequence = a.sequences == 0 ? 0 : ((const i32*)a.sequences)[token];
    const u64 head = (u64)sequence * a.kv_heads + kv_head;
    return head * a.context + ((const i32*)a.positions)[token];
}

// Whether a later token has the place of this block's.
__device__ inline bool is_replaced(const CachedAttention& a, u32 token, u32* room) {
    const u64 place = cache_row(a, token, 0);
    u32 later = 0;
    for (u32 other = token + 1 + threadIdx.x; other < a.tokens; other += blockDim.x) {
        later += cache_row(a, other, 0) == place;
    }
    return block_reduce<Sum>(later, room) > 0;
}

// The keys of a token, behind which lie its values.
__device__ inline const f32* new_keys(const CachedAttention& a, u32 token) {
    return (const f32*)a.x + ((u64)token * (a.heads + 2 * a.kv_heads) + a.heads) * a.size;
}

__device__ inline void store(f32 x, f32* at) { *at = x; }
__device__ inline void store(f32 x, u16* at) { *at = float_to_half(x); }

// Grid: tokens. Writes nothing after an error. Of tokens with one place the last one has it.
template <class T>
__device__ inline void write_cache(const CachedAttention& a) {
    __shared__ u32 room[8];
    if (*(const u32*)a.status != 0) return;
    const u32 token = blockIdx.x, width = a.kv_heads * a.size;
    if (is_replaced(a, token, room)) return;
    const f32* x = new_keys(a, token);
    for (u32 channel = threadIdx.x; channel < width; channel += blockDim.x) {
        const u64 to = cache_row(a, token, channel / a.size) * a.size + channel % a.size;
        store(x[channel], (T*)a.keys + to);
        store(x[width + channel], (T*)a.values + to);
    }
}

KERNEL(cache_write, 256, CachedAttention) { write_cache<u16>(a); }
KERNEL(cache_write_f32, 256, CachedAttention) { write_cache<f32>(a); }

// Keeps a group of a row's numbers.
__device__ inline void keep_group(const f32* x, u32 count, i8* numbers, u16* scale) {
    // Magnitudes are in the order of their bits, and a NaN is above them all.
    u32 largest = 0;
    for (u32 i = 0; i < count; i++) largest = Largest::join(largest, __float_as_uint(x[i]) & 0x7fffffff);
    *scale = float_to_half(__fdiv_rn(__uint_as_float(largest), 127.0f));
    const f32 inverse = *scale == 0 ? 0.0f : __fdiv_rn(1.0f, half_to_float(*scale));
    for (u32 i = 0; i < count; i++) numbers[i] = (i8)round_clamp(__fmul_rn(x[i], inverse), -127, 127);
}

// As `cache_write`; a thread has groups of keys or values.
KERNEL(cache_write_q8, 256, CachedAttention) {
    __shared__ u32 room[8];
    if (*(const u32*)a.status != 0) return;
    const u32 token = blockIdx.x, groups = (a.size + Q8_GROUP - 1) / Q8_GROUP, all = a.kv_heads * groups;
    if (is_replaced(a, token, room)) return;
    for (u32 number = threadIdx.x; number < 2 * all; number += blockDim.x) {
        const u32 head = number % all / groups, group = number % groups, first = group * Q8_GROUP;
        const u32 count = a.size - first < Q8_GROUP ? a.size - first : Q8_GROUP;
        const bool is_value = number >= all;
        const u64 row = cache_row(a, token, head);
        const f32* x = new_keys(a, token) + (u64)(is_value ? a.kv_heads + head : head) * a.size + first;
        keep_group(x, count, (i8*)(is_value ? a.values : a.keys) + row * a.size + first,
                   (u16*)(is_value ? a.value_scales : a.key_scales) + row * groups + group);
    }
}

// What a token attends to: rows from `first` to `end` of its sequence, counted from number `row` of the cache.
struct Seen {
    u64 row;
    u32 first;
    u32 end;
};

__device__ inline Seen seen_by(const CachedAttention& a, u32 token, u32 head) {
    const u32 position = (u32)((const i32*)a.positions)[token], end = position + 1;
    const u64 row = cache_row(a, token, head / (a.heads / a.kv_heads)) - position;
    const Seen seen = {row, a.window != 0 && end > a.window ? end - a.window : 0, end};
    return seen;
}

__device__ inline const f32* queries_of(const CachedAttention& a, u32 token, u32 head) {
    return (const f32*)a.x + ((u64)token * (a.heads + 2 * a.kv_heads) + head) * a.size;
}

// Keys and values in f16 or f32.
template <class T>
struct InFloats {
    Floats<T> keys;
    Floats<T> values;

    __device__ InFloats(const CachedAttention& a, u64 row)
        : keys{(const T*)a.keys + row * a.size, a.size}, values{(const T*)a.values + row * a.size, a.size} {}
};

// In i8, with scales.
struct InBytes {
    Q8 keys;
    Q8 values;

    __device__ static u64 groups(const CachedAttention& a) { return (a.size + Q8_GROUP - 1) / Q8_GROUP; }

    __device__ InBytes(const CachedAttention& a, u64 row)
        : keys{(const i8*)a.keys + row * a.size, (const u16*)a.key_scales + row * groups(a), a.size},
          values{(const i8*)a.values + row * a.size, (const u16*)a.value_scales + row * groups(a), a.size} {}
};

// Grid: tokens, heads.
template <class Cache>
__device__ inline void cached(const CachedAttention& a) {
    if (*(const u32*)a.status != 0) return;
    const u32 token = blockIdx.x, head = blockIdx.y;
    const Seen seen = seen_by(a, token, head);
    const Scores to = {a.scale, a.softcap, 0};
    const Cache cache(a, seen.row);
    attend(queries_of(a, token, head), cache.keys, cache.values, seen.first, seen.end, nullptr, 0, to,
           (f32*)a.output + ((u64)token * a.heads + head) * a.size);
}

KERNEL(cached_attention, 128, CachedAttention) { cached<InFloats<u16>>(a); }
KERNEL(cached_attention_f32, 128, CachedAttention) { cached<InFloats<f32>>(a); }
KERNEL(cached_attention_q8, 128, CachedAttention) { cached<InBytes>(a); }

// Keys of a part that has any: `a.parts` of equal size, but for the last one, as many of them as it takes.
__device__ inline u32 keys_of_part(const CachedAttention& a, const Seen& seen) {
    const u32 keys = seen.end - seen.first, share = (keys + a.parts - 1) / a.parts;
    return (share + WARPS * WARP - 1) / (WARPS * WARP) * (WARPS * WARP);
}

// The parts of a token's head in scratch: all largest scores, all sums, all weighted values.
__device__ inline Parts parts_of(const CachedAttention& a, u32 token, u32 head, u32 count) {
    const u64 all = (u64)a.tokens * a.heads * a.parts, first = ((u64)token * a.heads + head) * a.parts;
    const f32* scratch = (const f32*)a.scratch;
    const Parts parts = {scratch + first, scratch + all + first, scratch + 2 * all + first * a.size, a.size, count};
    return parts;
}

// Grid: parts; tokens, heads of keys and QUERIES of the heads of queries that share them. A part of the keys is read once for these queries.
template <u32 QUERIES, class Cache>
__device__ inline void attend_to_part(const CachedAttention& a) {
    if (*(const u32*)a.status != 0) return;
    const u32 shared = a.heads / a.kv_heads, groups = (shared + QUERIES - 1) / QUERIES;
    const u32 part = blockIdx.x, group = blockIdx.y % groups, kv_head = blockIdx.y / groups % a.kv_heads;
    const u32 token = blockIdx.y / groups / a.kv_heads, head = kv_head * shared + group * QUERIES;
    const u32 left = shared - group * QUERIES, count = left < QUERIES ? left : QUERIES;
    const Seen seen = seen_by(a, token, head);
    const u32 keys = keys_of_part(a, seen), first = seen.first + part * keys;
    if (first >= seen.end) return;
    const u32 end = seen.end - first < keys ? seen.end : first + keys;
    const Scores to = {a.scale, a.softcap, 0};
    const Cache cache(a, seen.row);
    const auto keep = [&](u32 query, const Parts& warps) {
        const Joined all(warps);
        const Parts own = parts_of(a, token, head + query, a.parts);
        f32* weighted = (f32*)own.weighted + (u64)part * a.size;
        for (u32 channel = threadIdx.x; channel < a.size; channel += blockDim.x) {
            weighted[channel] = all.weighted(warps, channel);
        }
        if (threadIdx.x == 0) {
            ((f32*)own.largest)[part] = all.largest;
            ((f32*)own.sum)[part] = all.sum;
        }
    };
    attend<QUERIES, MOST_SHARED_CHANNELS>(queries_of(a, token, head), count, cache.keys, cache.values, first, end,
                                          nullptr, 0, to, keep);
}

KERNEL(cached_attention_part_1, 128, CachedAttention) { attend_to_part<1, InFloats<u16>>(a); }
KERNEL(cached_attention_part_4, 128, CachedAttention) { attend_to_part<4, InFloats<u16>>(a); }
KERNEL(cached_attention_f32_part_1, 128, CachedAttention) { attend_to_part<1, InFloats<f32>>(a); }
KERNEL(cached_attention_f32_part_4, 128, CachedAttention) { attend_to_part<4, InFloats<f32>>(a); }
KERNEL(cached_attention_q8_part_1, 128, CachedAttention) { attend_to_part<1, InBytes>(a); }
KERNEL(cached_attention_q8_part_4, 128, CachedAttention) { attend_to_part<4, InBytes>(a); }

// Grid: tokens, heads. Joins the parts.
KERNEL(cached_attention_join, 128, CachedAttention) {
    if (*(const u32*)a.status != 0) return;
    const u32 token = blockIdx.x, head = blockIdx.y;
    const Seen seen = seen_by(a, token, head);
    const u32 keys = keys_of_part(a, seen), count = (seen.end - seen.first + keys - 1) / keys;
    const Scores to = {a.scale, a.softcap, 0};
    divide(parts_of(a, token, head, count), false, to, a.size, (f32*)a.output + ((u64)token * a.heads + head) * a.size);
}

struct CrossAttention {
    // Queries.
    u64 x;
    // Keys and values of every position, one behind the other; not read when there are none.
    u64 fresh;
    u64 keys;
    u64 values;
    u64 output;
    // 0, or heads whose weights are a result, too, and where these go.
    u64 chosen;
    u64 weights;
    u64 status;
    u32 tokens;
    u32 heads;
    u32 kv_heads;
    u32 size;
    u32 positions;
    f32 scale;
    u32 chosen_count;
    u32 step;
};

// Whether all chosen heads are there.
KERNEL(cross_check, 256, CrossAttention) {
    const u32 at = thread_index();
    if (at >= a.chosen_count) return;
    const i32 head = ((const i32*)a.chosen)[at];
    if (head < 0 || (u32)head >= a.heads) report(a.status, a.step);
}

// A thread has a channel of the keys and values of a position. Writes nothing after an error.
KERNEL(cross_write, 256, CrossAttention) {
    const u32 width = a.kv_heads * a.size, at = thread_index();
    if (at >= a.positions * width || (a.chosen != 0 && *(const u32*)a.status != 0)) return;
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
    const Floats<u16> keys = {(const u16*)a.keys + head, a.size}, values = {(const u16*)a.values + head, a.size};
    attend((const f32*)a.x + row, keys, values, 0, a.positions, nullptr, 0, to, (f32*)a.output + row);
}

// Grid: tokens, chosen heads. The softmax of a head's scores.
KERNEL(cross_weights, 128, CrossAttention) {
    __shared__ f32 room[WARPS];
    if (*(const u32*)a.status != 0) return;
    const u32 own = (u32)((const i32*)a.chosen)[blockIdx.y];
    const f32* q = (const f32*)a.x + ((u64)blockIdx.x * a.heads + own) * a.size;
    const Floats<u16> keys = {(const u16*)a.keys + (u64)(own / (a.heads / a.kv_heads)) * a.positions * a.size, a.size};
    f32* y = (f32*)a.weights + ((u64)blockIdx.x * a.chosen_count + blockIdx.y) * a.positions;
    f32 largest = -infinity();
    for (u32 key = threadIdx.x; key < a.positions; key += blockDim.x) {
        f32 dot = 0.0f;
        for (u32 i = 0; i < a.size; i++) dot = __fmaf_rn(q[i], keys.at(key, i), dot);
        y[key] = __fmul_rn(dot, a.scale);
        largest = Largest::join(largest, y[key]);
    }
    largest = block_reduce<Largest>(largest, room);
    f32 sum = 0.0f;
    for (u32 key = threadIdx.x; key < a.positions; key += blockDim.x) {
        y[key] = expf(__fsub_rn(y[key], largest));
        sum = __fadd_rn(sum, y[key]);
    }
    sum = block_reduce<Sum>(sum, room);
    for (u32 key = threadIdx.x; key < a.positions; key += blockDim.x) y[key] = __fdiv_rn(y[key], sum);
}

// Attention on i8: a block has one query of one head. FORMAT.md says what is computed, operation by operation.
#include "common.h"

struct AttentionI8 {
    u64 q;
    u64 k;
    u64 v;
    u64 mask;
    u64 output;
    u64 mask_strides[4];
    u32 heads;
    u32 kv_heads;
    u32 queries;
    u32 keys;
    u32 size;
    u32 value_size;
    f32 scale;
    f32 output_scale;
    i32 q_zero_point;
    i32 k_zero_point;
    i32 v_zero_point;
    i32 zero_point;
    u32 causal;
    // Query i sees keys 0 to i + offset.
    u32 offset;
};

#define MOST_CHANNELS 512
// Keys whose products a block keeps; of more, they are computed again.
#define CHUNK 2048

// round(2^(t + 16)) for t from −100 to 0, as the CPU's, operation by operation.
__device__ inline i32 power(f32 t) {
    const f32 magic = 12582912.0f;  // 1.5 × 2²³: its unit in the last place is 1
    const f32 rounded = __fadd_rn(t, magic);
    const f32 f = __fsub_rn(t, __fsub_rn(rounded, magic));
    const i32 n = __float_as_int(rounded) - __float_as_int(magic);
    f32 p = __fadd_rn(__fmul_rn(0.009584819f, f), 0.05590737f);
    p = __fadd_rn(__fmul_rn(p, f), 0.24024056f);
    p = __fadd_rn(__fmul_rn(p, f), 0.693124f);
    p = __fadd_rn(__fmul_rn(p, f), 1.0f);
    p = __fmul_rn(p, __int_as_float((n + 16 + 127) << 23));
    return __float_as_int(__fadd_rn(p, magic)) - __float_as_int(magic);
}

// One query and the keys that it sees.
struct Query {
    const i8* q;
    const i8* k;
    // 0, or of the first key.
    const f32* mask;
    u64 mask_stride;
    u32 size;
    i32 q_zero_point;
    i32 k_zero_point;
    f32 scale;

    __device__ i32 product(u32 key) const {
        const i8* k = this->k + (u64)key * size;
        i32 sum = 0;
        for (u32 c = 0; c < size; c++) sum += (q[c] - q_zero_point) * (k[c] - k_zero_point);
        return sum;
    }

    __device__ f32 score(i32 product, u32 key) const {
        const f32 added = mask == 0 ? 0.0f : mask[key * mask_stride];
        return __fadd_rn(__fmul_rn(__int2float_rn(product), scale), added);
    }

    __device__ i32 exponential(i32 product, u32 key, f32 largest) const {
        const f32 t = __fmul_rn(__fsub_rn(score(product, key), largest), 1.44269504f);
        return power(t > -100.0f ? t : -100.0f);
    }
};

KERNEL(attention_i8, 128, AttentionI8) {
    __shared__ i8 q[MOST_CHANNELS];
    __shared__ i32 products[CHUNK];
    __shared__ i32 sums[128];
    __shared__ f32 largest_of[4];
    __shared__ i32 sums_of[4];
    const u32 query = blockIdx.x, index = blockIdx.y, sample = index / a.heads, head = index % a.heads;
    const u32 of_kv = sample * a.kv_heads + head / (a.heads / a.kv_heads);
    const i8* row = (const i8*)a.q + ((u64)index * a.queries + query) * a.size;
    for (u32 c = threadIdx.x; c < a.size; c += blockDim.x) q[c] = row[c];
    const u64 mask_at = sample * a.mask_strides[0] + head * a.mask_strides[1] + query * a.mask_strides[2];
    const Query of = {
        q, (const i8*)a.k + (u64)of_kv * a.keys * a.size, a.mask == 0 ? 0 : (const f32*)a.mask + mask_at,
        a.mask_strides[3], a.size, a.q_zero_point, a.k_zero_point, a.scale,
    };
    const i8* v = (const i8*)a.v + (u64)of_kv * a.keys * a.value_size;
    i8* y = (i8*)a.output + ((u64)index * a.queries + query) * a.value_size;
    // Neither sum wraps: there are 2¹⁴ keys at most.
    const u64 last = a.causal ? (u64)query + a.offset + 1 : a.keys;
    const u32 seen = last < a.keys ? (u32)last : a.keys;
    const bool keeps = seen <= CHUNK;
    __syncthreads();

    f32 largest = -infinity();
    for (u32 j = threadIdx.x; j < seen; j += blockDim.x) {
        const i32 product = of.product(j);
        if (keeps) products[j] = product;
        const f32 score = of.score(product, j);
        largest = score > largest ? score : largest;
    }
    largest = block_reduce<Largest>(largest, largest_of);
    i32 sum = 0;
    for (u32 j = threadIdx.x; j < seen; j += blockDim.x) {
        sum += of.exponential(keeps ? products[j] : of.product(j), j, largest);
    }
    sum = block_reduce<Sum>(sum, sums_of);
    const f32 share = sum == 0 ? 0.0f : __fdiv_rn(32767.0f, __int2float_rn(sum));
    __syncthreads();

    // Threads by channel, and by turn of keys where there are more threads than channels.
    i32 weights = 0;
    for (u32 first = 0; first < a.value_size; first += blockDim.x) {
        const u32 channels = a.value_size - first < blockDim.x ? a.value_size - first : blockDim.x;
        const u32 turns = blockDim.x / channels, turn = threadIdx.x / channels;
        const u32 channel = first + threadIdx.x % channels;
        i32 weighted = 0;
        for (u32 start = 0; start < seen; start += CHUNK) {
            const u32 count = seen - start < CHUNK ? seen - start : CHUNK;
            // What the first channels made of a chunk that is kept serves the others.
            if (!keeps || first == 0) {
                for (u32 j = threadIdx.x; j < count; j += blockDim.x) {
                    const i32 product = keeps ? products[j] : of.product(start + j);
                    const f32 exponential = __int2float_rn(of.exponential(product, start + j, largest));
                    const i32 weight = round_clamp(__fmul_rn(exponential, share), 0, 32767);
                    products[j] = weight;
                    if (first == 0) weights += weight;
                }
            }
            __syncthreads();
            if (turn < turns) {
                for (u32 j = turn; j < count; j += turns) {
                    weighted += products[j] * (v[(u64)(start + j) * a.value_size + channel] - a.v_zero_point);
                }
            }
            __syncthreads();
        }
        if (first == 0) weights = block_reduce<Sum>(weights, sums_of);
        sums[threadIdx.x] = weighted;
        __syncthreads();
        if (threadIdx.x < channels) {
            for (u32 t = 1; t < turns; t++) weighted += sums[t * channels + threadIdx.x];
            const f32 factor = weights == 0 ? 0.0f : __fdiv_rn(a.output_scale, __int2float_rn(weights));
            const i32 lo = -128 - a.zero_point, hi = 127 - a.zero_point;
            y[channel] = (i8)(round_clamp(__fmul_rn(__int2float_rn(weighted), factor), lo, hi) + a.zero_point);
        }
        __syncthreads();
    }
}

// Recurrent layers over a sequence. A block has a sequence in a direction, all its time steps one after the other, with its
// state in shared memory; a thread has elements of the state.
#include "common.h"

// Elements of a state that a block has room for.
#define MOST_STATES 4096

struct Recurrent {
    // What the input contributes: [time, batch, direction × gate × hidden].
    u64 gates;
    u64 weights;
    // 0, or of each sequence.
    u64 lengths;
    // 0, or the state before the first time step.
    u64 initial;
    // lstm: 0, or the cell before. gru: weights of the candidate.
    u64 extra;
    // 0; or lstm: peepholes, gru: the bias of the candidate's product.
    u64 more;
    // Each 0 where nobody wants it.
    u64 every;
    u64 last;
    u64 last_cell;
    u32 time;
    u32 batch;
    u32 directions;
    u32 hidden;
    // Bit by direction: 1 from the end to the start.
    u32 backwards;
    // lstm, 1: forget is one minus input. gru, 1: the reset is applied behind the product.
    u32 variant;
    f32 clip;
    // Infinity for none.
    f32 cell_clip;
    // Three for each direction, as in FORMAT.md.
    u32 functions[6];
    f32 alpha[6];
    f32 beta[6];
};

// Function number `index` of a direction, of what is clipped when it is one of gates.
__device__ inline f32 function_of(const Recurrent& a, u32 index, f32 x) {
    const u32 at = blockIdx.y * 3 + index;
    const f32 alpha = a.alpha[at], beta = a.beta[at];
    switch (a.functions[at]) {
    case 1: return sigmoid(x);
    case 2: return tanhf(x);
    case 3: return clip(x, 0.0f, infinity());
    case 4: return __fadd_rn(__fmul_rn(alpha, x), beta);
    case 5: return x < 0.0f ? __fmul_rn(alpha, x) : x;
    case 6: return x >= alpha || x != x ? x : 0.0f;
    case 7: return __fmul_rn(alpha, tanhf(__fmul_rn(beta, x)));
    case 8: return clip(__fadd_rn(__fmul_rn(alpha, x), beta), 0.0f, 1.0f);
    case 9: return x < 0.0f ? __fmul_rn(alpha, expm1f(x)) : x;
    case 10: return __fdiv_rn(x, __fadd_rn(1.0f, fabsf(x)));
    default: return softplus(x);
    }
}

__device__ inline f32 gate(const Recurrent& a, u32 index, f32 x) {
    return function_of(a, index, clip(x, -a.clip, a.clip));
}

// Time steps of this block's sequence.
__device__ inline u32 length_of(const Recurrent& a) {
    if (a.lengths == 0) return a.time;
    const i32 length = ((const i32*)a.lengths)[blockIdx.x];
    if (length <= 0) return 0;
    return (u32)length < a.time ? (u32)length : a.time;
}

// The time at which the sequence is in a turn, one of the first `length`.
__device__ inline u32 time_of(const Recurrent& a, u32 turn, u32 length) {
    return a.backwards >> blockIdx.y & 1 ? length - 1 - turn : turn;
}

// Where this block's state begins in those of all sequences and directions.
__device__ inline u64 state_start(const Recurrent& a) { return ((u64)blockIdx.y * a.batch + blockIdx.x) * a.hidden; }

// What the input contributes at a time, of `count` gates.
__device__ inline const f32* gates_at(const Recurrent& a, u32 time, u32 count) {
    const u64 row = ((u64)time * a.batch + blockIdx.x) * a.directions + blockIdx.y;
    return (const f32*)a.gates + row * count * a.hidden;
}

// The state at a time among every state.
__device__ inline f32* state_at(const Recurrent& a, u32 time) {
    return (f32*)a.every + (((u64)time * a.directions + blockIdx.y) * a.batch + blockIdx.x) * a.hidden;
}

__device__ inline f32 initial_of(u64 states, u64 at) { return states == 0 ? 0.0f : ((const f32*)states)[at]; }

// Zeros behind the end of the sequence, and the last state.
__device__ inline void finish(const Recurrent& a, const f32* states, u32 length) {
    for (u32 j = threadIdx.x; j < a.hidden; j += blockDim.x) {
        if (a.every != 0) {
            for (u32 time = length; time < a.time; time++) state_at(a, time)[j] = 0.0f;
        }
        if (a.last != 0) ((f32*)a.last)[state_start(a) + j] = states[j];
    }
}

// Grid: sequences, directions.
KERNEL(lstm_f32, 512, Recurrent) {
    __shared__ f32 states[2][MOST_STATES];
    __shared__ f32 cells[MOST_STATES];
    const u32 n = a.hidden, length = length_of(a);
    const f32* weights = (const f32*)a.weights + (u64)blockIdx.y * n * 4 * n;
    const f32* peepholes = a.more == 0 ? nullptr : (const f32*)a.more + (u64)blockIdx.y * 3 * n;
    for (u32 j = threadIdx.x; j < n; j += blockDim.x) {
        states[0][j] = initial_of(a.initial, state_start(a) + j);
        cells[j] = initial_of(a.extra, state_start(a) + j);
    }
    __syncthreads();
    for (u32 turn = 0; turn < length; turn++) {
        const u32 time = time_of(a, turn, length);
        const f32* before = states[turn % 2];
        f32* after = states[(turn + 1) % 2];
        const f32* x = gates_at(a, time, 4);
        for (u32 j = threadIdx.x; j < n; j += blockDim.x) {
            f32 input = 0.0f, output = 0.0f, forget = 0.0f, candidate = 0.0f;
            for (u32 k = 0; k < n; k++) {
                const f32 h = before[k];
                const f32* w = weights + (u64)k * 4 * n + j;
                input = __fmaf_rn(h, w[0], input);
                output = __fmaf_rn(h, w[n], output);
                forget = __fmaf_rn(h, w[2 * n], forget);
                candidate = __fmaf_rn(h, w[3 * n], candidate);
            }
            input = __fadd_rn(input, x[j]);
            output = __fadd_rn(output, x[n + j]);
            forget = __fadd_rn(forget, x[2 * n + j]);
            candidate = __fadd_rn(candidate, x[3 * n + j]);
            f32 cell = cells[j];
            if (peepholes != nullptr) {
                input = __fadd_rn(input, __fmul_rn(peepholes[j], cell));
                forget = __fadd_rn(forget, __fmul_rn(peepholes[2 * n + j], cell));
            }
            input = gate(a, 0, input);
            forget = a.variant ? __fsub_rn(1.0f, input) : gate(a, 0, forget);
            cell = __fadd_rn(__fmul_rn(forget, cell), __fmul_rn(input, gate(a, 1, candidate)));
            cell = clip(cell, -a.cell_clip, a.cell_clip);
            cells[j] = cell;
            if (peepholes != nullptr) output = __fadd_rn(output, __fmul_rn(peepholes[n + j], cell));
            const f32 state = __fmul_rn(gate(a, 0, output), function_of(a, 2, cell));
            after[j] = state;
            if (a.every != 0) state_at(a, time)[j] = state;
        }
        __syncthreads();
    }
    finish(a, states[length % 2], length);
    if (a.last_cell == 0) return;
    for (u32 j = threadIdx.x; j < n; j += blockDim.x) ((f32*)a.last_cell)[state_start(a) + j] = cells[j];
}

// Grid: sequences, directions.
KERNEL(gru_f32, 512, Recurrent) {
    __shared__ f32 states[MOST_STATES];
    // What the candidate's product sees; with the reset behind it, the reset.
    __shared__ f32 resets[MOST_STATES];
    __shared__ f32 updates[MOST_STATES];
    const u32 n = a.hidden, length = length_of(a);
    const f32* weights = (const f32*)a.weights + (u64)blockIdx.y * n * 2 * n;
    const f32* extra = (const f32*)a.extra + (u64)blockIdx.y * n * n;
    const f32* bias = a.more == 0 ? nullptr : (const f32*)a.more + (u64)blockIdx.y * n;
    for (u32 j = threadIdx.x; j < n; j += blockDim.x) states[j] = initial_of(a.initial, state_start(a) + j);
    __syncthreads();
    for (u32 turn = 0; turn < length; turn++) {
        const u32 time = time_of(a, turn, length);
        const f32* x = gates_at(a, time, 3);
        for (u32 j = threadIdx.x; j < n; j += blockDim.x) {
            f32 update = 0.0f, reset = 0.0f;
            for (u32 k = 0; k < n; k++) {
                const f32* w = weights + (u64)k * 2 * n + j;
                update = __fmaf_rn(states[k], w[0], update);
                reset = __fmaf_rn(states[k], w[n], reset);
            }
            updates[j] = gate(a, 0, __fadd_rn(update, x[j]));
            reset = gate(a, 0, __fadd_rn(reset, x[n + j]));
            resets[j] = a.variant ? reset : __fmul_rn(reset, states[j]);
        }
        __syncthreads();
        const f32* seen = a.variant ? states : resets;
        for (u32 j = threadIdx.x; j < n; j += blockDim.x) {
            f32 candidate = 0.0f;
            for (u32 k = 0; k < n; k++) candidate = __fmaf_rn(seen[k], extra[(u64)k * n + j], candidate);
            if (bias != nullptr) candidate = __fadd_rn(candidate, bias[j]);
            if (a.variant) candidate = __fmul_rn(candidate, resets[j]);
            candidate = gate(a, 1, __fadd_rn(candidate, x[2 * n + j]));
            const f32 update = updates[j];
            // The state before is still read.
            updates[j] = __fadd_rn(__fmul_rn(__fsub_rn(1.0f, update), candidate), __fmul_rn(update, states[j]));
        }
        __syncthreads();
        for (u32 j = threadIdx.x; j < n; j += blockDim.x) {
            states[j] = updates[j];
            if (a.every != 0) state_at(a, time)[j] = states[j];
        }
        __syncthreads();
    }
    finish(a, states, length);
}

// Grid: sequences, directions.
KERNEL(rnn_f32, 512, Recurrent) {
    __shared__ f32 states[2][MOST_STATES];
    const u32 n = a.hidden, length = length_of(a);
    const f32* weights = (const f32*)a.weights + (u64)blockIdx.y * n * n;
    for (u32 j = threadIdx.x; j < n; j += blockDim.x) states[0][j] = initial_of(a.initial, state_start(a) + j);
    __syncthreads();
    for (u32 turn = 0; turn < length; turn++) {
        const u32 time = time_of(a, turn, length);
        const f32* before = states[turn % 2];
        f32* after = states[(turn + 1) % 2];
        const f32* x = gates_at(a, time, 1);
        for (u32 j = threadIdx.x; j < n; j += blockDim.x) {
            f32 sum = 0.0f;
            for (u32 k = 0; k < n; k++) sum = __fmaf_rn(before[k], weights[(u64)k * n + j], sum);
            after[j] = gate(a, 0, __fadd_rn(sum, x[j]));
            if (a.every != 0) state_at(a, time)[j] = after[j];
        }
        __syncthreads();
    }
    finish(a, states[length % 2], length);
}

struct QuantizedLstm {
    u64 input;
    // Of the input and of the state, by gate and element of the state; in panels or dense.
    u64 weights;
    u64 state_weights;
    u64 bias;
    u64 initial;
    u64 initial_cell;
    // Of sigmoid, tanh, and tanh of the cell.
    u64 tables[3];
    // Each 0 where nobody wants it.
    u64 every;
    u64 last;
    u64 last_cell;
    u32 time;
    u32 batch;
    u32 inputs;
    u32 hidden;
    u32 batch_first;
    // Of the numbers between two entries of a table.
    u32 bits[3];
    f32 input_scale[4];
    f32 state_scale[4];
    f32 output_scale;
    u32 cell_shift;
    i32 cell_bound;
    i32 zero_point;
    // 1: weights are panels, whose words are aligned.
    u32 panels;
    u32 reserved;
};

// Four numbers of a row of `count` from number 4 · word on, with zeros behind the last.
__device__ inline i32 word_of(const i8* row, u32 word, u32 count) {
    u32 bytes = 0;
    for (u32 i = 0; i < 4 && 4 * word + i < count; i++) bytes |= (u32)(u8)row[4 * word + i] << (8 * i);
    return (i32)bytes;
}

// The sum of a row's products with the weights of a column, wrapping.
__device__ inline i32 product_of(const i8* row, u32 count, const i8* weights, u32 column, u32 panels, i32 bias) {
    const u32 words = (count + 3) / 4;
    i32 sum = bias;
    for (u32 word = 0; word < words; word++) {
        const i32 w = panels ? ((const i32*)weights)[((u64)(column / 16) * words + word) * 16 + column % 16]
                             : word_of(weights + (u64)column * count, word, count);
        sum = __dp4a(word_of(row, word, count), w, sum);
    }
    return sum;
}

// v / 2ⁿ to nearest, halves away from zero; n at least 1, |v| at most 2³⁰.
__device__ inline i32 rounded_shift(i32 v, u32 n) { return (v + (1 << (n - 1)) + (v >> 31)) >> n; }

// Grid: sequences.
KERNEL(quantized_lstm, 512, QuantizedLstm) {
    __shared__ i8 states[2][MOST_STATES];
    __shared__ i16 cells[MOST_STATES];
    const u32 n = a.hidden, row = blockIdx.x;
    for (u32 j = threadIdx.x; j < n; j += blockDim.x) {
        states[0][j] = ((const i8*)a.initial)[(u64)row * n + j];
        cells[j] = ((const i16*)a.initial_cell)[(u64)row * n + j];
    }
    __syncthreads();
    for (u32 time = 0; time < a.time; time++) {
        const u64 place = a.batch_first ? (u64)row * a.time + time : (u64)time * a.batch + row;
        const i8* x = (const i8*)a.input + place * a.inputs;
        const i8* before = states[time % 2];
        for (u32 j = threadIdx.x; j < n; j += blockDim.x) {
            i32 gates[4];
#pragma unroll
            for (u32 gate = 0; gate < 4; gate++) {
                const u32 column = gate * n + j;
                const i32* bias = (const i32*)a.bias + column;
                const i32 of_x = product_of(x, a.inputs, (const i8*)a.weights, column, a.panels, bias[0]);
                const i32 of_h = product_of(before, n, (const i8*)a.state_weights, column, a.panels, bias[4 * n]);
                const f32 real_x = __fmul_rn(__int2float_rn(of_x), a.input_scale[gate]);
                const f32 real_h = __fmul_rn(__int2float_rn(of_h), a.state_scale[gate]);
                const i32 sum = round_clamp(real_x, -32768, 32767) + round_clamp(real_h, -32768, 32767);
                const u32 table = gate == 2 ? 1 : 0;
                gates[gate] = lut_i16(clamp(sum, -32768, 32767), a.bits[table], (const i16*)a.tables[table]);
            }
            const i32 kept = rounded_shift(gates[1] * cells[j], 15);
            const i32 added = rounded_shift(gates[0] * gates[2], a.cell_shift);
            const i32 cell = clamp(clamp(kept + added, -32768, 32767), -a.cell_bound, a.cell_bound);
            cells[j] = (i16)cell;
            const i32 shown = lut_i16(cells[j], a.bits[2], (const i16*)a.tables[2]);
            const f32 real = __fmul_rn(__int2float_rn(gates[3] * shown), a.output_scale);
            const i8 state = (i8)(round_clamp(real, -128 - a.zero_point, 127 - a.zero_point) + a.zero_point);
            states[(time + 1) % 2][j] = state;
            if (a.every != 0) ((i8*)a.every)[place * n + j] = state;
        }
        __syncthreads();
    }
    for (u32 j = threadIdx.x; j < n; j += blockDim.x) {
        if (a.last != 0) ((i8*)a.last)[(u64)row * n + j] = states[a.time % 2][j];
        if (a.last_cell != 0) ((i16*)a.last_cell)[(u64)row * n + j] = cells[j];
    }
}

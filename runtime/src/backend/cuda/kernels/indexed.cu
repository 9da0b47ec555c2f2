// Gathers and scatters by element and by tuple, selection, running sums, sequences.
#include "common.h"

struct GatherElements {
    u64 data;
    u64 indices;
    u64 output;
    u64 status;
    // Of the data; 0 along the indexed axis.
    u64 strides[8];
    // Elements of the data between one index of the axis and the next.
    u64 along;
    // Of the output.
    u32 extents[8];
    u32 rank;
    // Of the indexed axis.
    u32 extent;
    u32 elements;
    u32 step;
    // 1: indices are i64, else i32.
    u32 wide;
    u32 reserved;
};

// A thread has one element.
template <class T>
__device__ inline void gather_elements(const GatherElements& a) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const i64 index = axis_index(a.indices, a.wide, at, a.extent);
    if (index < 0) {
        report(a.status, a.step);
        return;
    }
    const i64 from = position(at, a.rank, a.extents, a.strides) + index * (i64)a.along;
    ((T*)a.output)[at] = ((const T*)a.data)[from];
}

KERNEL(gather_elements_1, 256, GatherElements) { gather_elements<u8>(a); }
KERNEL(gather_elements_2, 256, GatherElements) { gather_elements<u16>(a); }
KERNEL(gather_elements_4, 256, GatherElements) { gather_elements<u32>(a); }
KERNEL(gather_elements_8, 256, GatherElements) { gather_elements<u64>(a); }

struct GatherNd {
    u64 data;
    u64 indices;
    u64 output;
    u64 status;
    // Of the axes that tuples index.
    u64 strides[8];
    // Elements of the data of a batch.
    u64 batch_stride;
    // Of the axes that tuples index.
    u32 extents[8];
    // Indices of a tuple.
    u32 tuple;
    // Tuples of a batch.
    u32 per_batch;
    // Elements that a tuple names.
    u32 block;
    u32 elements;
    u32 step;
    u32 wide;
};

// A thread has one element.
template <class T>
__device__ inline void gather_nd(const GatherNd& a) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const u32 place = at / a.block;
    u64 from = (u64)(place / a.per_batch) * a.batch_stride + at % a.block;
    for (u32 axis = 0; axis < a.tuple; axis++) {
        const i64 index = axis_index(a.indices, a.wide, (u64)place * a.tuple + axis, a.extents[axis]);
        if (index < 0) {
            report(a.status, a.step);
            return;
        }
        from += (u64)index * a.strides[axis];
    }
    ((T*)a.output)[at] = ((const T*)a.data)[from];
}

KERNEL(gather_nd_1, 256, GatherNd) { gather_nd<u8>(a); }
KERNEL(gather_nd_2, 256, GatherNd) { gather_nd<u16>(a); }
KERNEL(gather_nd_4, 256, GatherNd) { gather_nd<u32>(a); }
KERNEL(gather_nd_8, 256, GatherNd) { gather_nd<u64>(a); }

// An update and what is there: 1 the sum, 2 the product, 3 the larger, 4 the smaller; of floats a NaN.
__device__ inline f32 combined(u32 reduction, f32 old, f32 update) {
    switch (reduction) {
    case 1: return __fadd_rn(old, update);
    case 2: return __fmul_rn(old, update);
    case 3: return old != old || old > update ? old : update;
    default: return old != old || old < update ? old : update;
    }
}

// U is T without its sign: sums and products wrap.
template <class T, class U>
__device__ inline T combined_integer(u32 reduction, T old, T update) {
    switch (reduction) {
    case 1: return (T)((U)old + (U)update);
    case 2: return (T)((U)old * (U)update);
    case 3: return old > update ? old : update;
    default: return old < update ? old : update;
    }
}

__device__ inline i32 combined(u32 reduction, i32 old, i32 update) {
    return combined_integer<i32, u32>(reduction, old, update);
}

__device__ inline i64 combined(u32 reduction, i64 old, i64 update) {
    return combined_integer<i64, u64>(reduction, old, update);
}

struct ScatterElements {
    u64 indices;
    u64 updates;
    // The data already.
    u64 output;
    u64 status;
    // Of the output, for all axes but the indexed one.
    u64 strides[8];
    // Elements of the output between one index of the axis and the next.
    u64 along;
    // Of the indices, for all axes but the indexed one.
    u32 extents[8];
    u32 rank;
    // Lines of indices along the axis, indices of a line, and elements between one of them and the next.
    u32 lines;
    u32 count;
    u32 inner;
    // Of the indexed axis.
    u32 extent;
    u32 reduction;
    u32 step;
    u32 wide;
};

// A thread has a line of indices, in order: no other names its places.
template <class T, class Store>
__device__ inline void scatter_line(const ScatterElements& a, Store store) {
    const u32 line = thread_index();
    if (line >= a.lines) return;
    T* y = (T*)a.output + position(line, a.rank, a.extents, a.strides);
    const u64 first = (u64)(line / a.inner) * a.count * a.inner + line % a.inner;
    for (u32 i = 0; i < a.count; i++) {
        const u64 at = first + (u64)i * a.inner;
        const i64 index = axis_index(a.indices, a.wide, at, a.extent);
        if (index < 0) {
            report(a.status, a.step);
            return;
        }
        T* place = y + (u64)index * a.along;
        *place = store(a.reduction, *place, ((const T*)a.updates)[at]);
    }
}

struct ScatterNd {
    u64 indices;
    u64 updates;
    // The data already.
    u64 output;
    u64 status;
    // Of the axes that tuples index.
    u64 strides[8];
    u32 extents[8];
    // Indices of a tuple.
    u32 tuple;
    // Tuples.
    u32 places;
    // Elements that a tuple names.
    u32 block;
    // Blocks of the output are shared out to so many threads for each element of a block.
    u32 shares;
    u32 reduction;
    u32 step;
    u32 wide;
    u32 reserved;
};

// A thread has an element of some blocks of the output, and goes through all updates in order for those that are its own.
template <class T, class Store>
__device__ inline void scatter_blocks(const ScatterNd& a, Store store) {
    const u32 thread = thread_index();
    if (thread >= a.block * a.shares) return;
    const u32 lane = thread % a.block, share = thread / a.block;
    for (u32 number = 0; number < a.places; number++) {
        u64 at = 0;
        for (u32 axis = 0; axis < a.tuple; axis++) {
            const i64 index = axis_index(a.indices, a.wide, (u64)number * a.tuple + axis, a.extents[axis]);
            if (index < 0) {
                report(a.status, a.step);
                return;
            }
            at += (u64)index * a.strides[axis];
        }
        if (at / a.block % a.shares != share) continue;
        T* place = (T*)a.output + at + lane;
        *place = store(a.reduction, *place, ((const T*)a.updates)[(u64)number * a.block + lane]);
    }
}

template <class T>
struct Replace {
    __device__ T operator()(u32, T, T update) const { return update; }
};

template <class T>
struct Combine {
    __device__ T operator()(u32 reduction, T old, T update) const { return combined(reduction, old, update); }
};

KERNEL(scatter_elements_1, 256, ScatterElements) { scatter_line<u8>(a, Replace<u8>()); }
KERNEL(scatter_elements_2, 256, ScatterElements) { scatter_line<u16>(a, Replace<u16>()); }
KERNEL(scatter_elements_4, 256, ScatterElements) { scatter_line<u32>(a, Replace<u32>()); }
KERNEL(scatter_elements_8, 256, ScatterElements) { scatter_line<u64>(a, Replace<u64>()); }
KERNEL(scatter_elements_f32, 256, ScatterElements) { scatter_line<f32>(a, Combine<f32>()); }
KERNEL(scatter_elements_i32, 256, ScatterElements) { scatter_line<i32>(a, Combine<i32>()); }
KERNEL(scatter_elements_i64, 256, ScatterElements) { scatter_line<i64>(a, Combine<i64>()); }
KERNEL(scatter_nd_1, 256, ScatterNd) { scatter_blocks<u8>(a, Replace<u8>()); }
KERNEL(scatter_nd_2, 256, ScatterNd) { scatter_blocks<u16>(a, Replace<u16>()); }
KERNEL(scatter_nd_4, 256, ScatterNd) { scatter_blocks<u32>(a, Replace<u32>()); }
KERNEL(scatter_nd_8, 256, ScatterNd) { scatter_blocks<u64>(a, Replace<u64>()); }
KERNEL(scatter_nd_f32, 256, ScatterNd) { scatter_blocks<f32>(a, Combine<f32>()); }
KERNEL(scatter_nd_i32, 256, ScatterNd) { scatter_blocks<i32>(a, Combine<i32>()); }
KERNEL(scatter_nd_i64, 256, ScatterNd) { scatter_blocks<i64>(a, Combine<i64>()); }

struct TopK {
    u64 input;
    // Each 0 where nobody wants it.
    u64 values;
    u64 indices;
    // Of the axis, and elements between one index of it and the next.
    u32 extent;
    u32 inner;
    // Of the output's axis.
    u32 kept;
    // Of the input.
    u32 elements;
    // 1: smallest instead of largest.
    u32 smallest;
    u32 reserved;
};

// A NaN is larger than any number.
__device__ inline bool is_below(f32 a, f32 b) { return a < b || (b != b && a == a); }
template <class T>
__device__ inline bool is_below(T a, T b) {
    return a < b;
}

// A thread has one element, and counts those that come before it.
template <class T>
__device__ inline void top_k(const TopK& a) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const u32 own = at / a.inner % a.extent, column = at % a.inner, outer = at / a.inner / a.extent;
    const T* x = (const T*)a.input + (u64)outer * a.extent * a.inner + column;
    const T value = x[(u64)own * a.inner];
    u32 before = 0;
    for (u32 i = 0; i < a.extent && before < a.kept; i++) {
        const T other = x[(u64)i * a.inner];
        const bool less = is_below(other, value), more = is_below(value, other);
        before += (a.smallest ? less : more) || (!less && !more && i < own);
    }
    if (before >= a.kept) return;
    const u64 to = ((u64)outer * a.kept + before) * a.inner + column;
    if (a.values != 0) ((T*)a.values)[to] = value;
    if (a.indices != 0) ((i64*)a.indices)[to] = own;
}

KERNEL(top_k_f32, 256, TopK) { top_k<f32>(a); }
KERNEL(top_k_i8, 256, TopK) { top_k<i8>(a); }
KERNEL(top_k_i32, 256, TopK) { top_k<i32>(a); }
KERNEL(top_k_i64, 256, TopK) { top_k<i64>(a); }

struct Cumulative {
    u64 input;
    u64 output;
    // Of the axis, and elements between one index of it and the next.
    u32 extent;
    u32 inner;
    u32 columns;
    // 1 sum, 2 product.
    u32 kind;
    // 1: an element's result doesn't contain it.
    u32 exclusive;
    // 1: from the end.
    u32 reverse;
};

// A thread has one column: every partial result is rounded.
template <class T>
__device__ inline void cumulative(const Cumulative& a) {
    const u32 column = thread_index();
    if (column >= a.columns) return;
    const u64 first = (u64)(column / a.inner) * a.extent * a.inner + column % a.inner;
    T so_far = a.kind == 1 ? (T)0 : (T)1;
    for (u32 i = 0; i < a.extent; i++) {
        const u64 at = first + (u64)(a.reverse ? a.extent - 1 - i : i) * a.inner;
        const T next = combined(a.kind, so_far, ((const T*)a.input)[at]);
        ((T*)a.output)[at] = a.exclusive ? so_far : next;
        so_far = next;
    }
}

KERNEL(cumulative_f32, 128, Cumulative) { cumulative<f32>(a); }
KERNEL(cumulative_i32, 128, Cumulative) { cumulative<i32>(a); }
KERNEL(cumulative_i64, 128, Cumulative) { cumulative<i64>(a); }

struct ReverseSequence {
    u64 input;
    u64 lengths;
    u64 output;
    u64 status;
    // Of the first two axes.
    u32 rows;
    u32 columns;
    // Elements of all others.
    u32 block;
    // The axis of time.
    u32 time;
    u32 elements;
    u32 step;
    // 1: lengths are i64, else i32.
    u32 wide;
    u32 reserved;
};

// A thread has one element.
template <class T>
__device__ inline void reverse_sequence(const ReverseSequence& a) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    u32 row = at / a.block / a.columns, column = at / a.block % a.columns;
    const i64 length = index_at(a.lengths, a.wide, a.time == 0 ? column : row);
    if (length < 0 || length > (i64)(a.time == 0 ? a.rows : a.columns)) {
        report(a.status, a.step);
        return;
    }
    if (a.time == 0 && row < length) row = (u32)length - 1 - row;
    if (a.time == 1 && column < length) column = (u32)length - 1 - column;
    ((T*)a.output)[at] = ((const T*)a.input)[((u64)row * a.columns + column) * a.block + at % a.block];
}

KERNEL(reverse_sequence_1, 256, ReverseSequence) { reverse_sequence<u8>(a); }
KERNEL(reverse_sequence_2, 256, ReverseSequence) { reverse_sequence<u16>(a); }
KERNEL(reverse_sequence_4, 256, ReverseSequence) { reverse_sequence<u32>(a); }
KERNEL(reverse_sequence_8, 256, ReverseSequence) { reverse_sequence<u64>(a); }

// Operators that move elements of any type, by their size in bytes. A thread has one element.
#include "common.h"

struct Move {
    u64 input;
    u64 output;
    u64 input_strides[8];
    u64 output_strides[8];
    u32 extents[8];
    u32 rank;
    u32 elements;
};

template <class T>
__device__ inline void move(const Move& a) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const i64 from = position(at, a.rank, a.extents, a.input_strides);
    const i64 to = position(at, a.rank, a.extents, a.output_strides);
    ((T*)a.output)[to] = ((const T*)a.input)[from];
}

KERNEL(move_1, 256, Move) { move<u8>(a); }
KERNEL(move_2, 256, Move) { move<u16>(a); }
KERNEL(move_4, 256, Move) { move<u32>(a); }
KERNEL(move_8, 256, Move) { move<u64>(a); }

struct Pad {
    u64 input;
    u64 output;
    u64 value;
    u64 input_strides[8];
    u32 input_extents[8];
    u32 before[8];
    // Of the output.
    u32 extents[8];
    u32 rank;
    u32 elements;
    // 1 constant, 2 reflect, 3 edge, 4 wrap.
    u32 mode;
    u32 reserved;
};

template <class T>
__device__ inline void pad(const Pad& a) {
    const u32 index = thread_index();
    if (index >= a.elements) return;
    u32 rest = index;
    u64 from = 0;
    for (u32 axis = a.rank; axis-- > 0;) {
        const i64 size = a.input_extents[axis];
        i64 at = (i64)(rest % a.extents[axis]) - a.before[axis];
        rest /= a.extents[axis];
        if (at < 0 || at >= size) {
            if (a.mode == 1) {
                ((T*)a.output)[index] = (T)a.value;
                return;
            }
            if (a.mode == 2) {
                at = at < 0 ? -at : 2 * (size - 1) - at;
            } else if (a.mode == 3) {
                at = at < 0 ? 0 : size - 1;
            } else {
                at = (at % size + size) % size;
            }
        }
        from += (u64)at * a.input_strides[axis];
    }
    ((T*)a.output)[index] = ((const T*)a.input)[from];
}

KERNEL(pad_1, 256, Pad) { pad<u8>(a); }
KERNEL(pad_2, 256, Pad) { pad<u16>(a); }
KERNEL(pad_4, 256, Pad) { pad<u32>(a); }
KERNEL(pad_8, 256, Pad) { pad<u64>(a); }

struct Gather {
    u64 data;
    u64 indices;
    u64 output;
    u64 status;
    // Of the indexed axis.
    u32 extent;
    // Elements between one index of the axis and the next.
    u32 inner;
    // Indices.
    u32 count;
    u32 elements;
    u32 step;
    // 1: indices are i64, else i32.
    u32 wide;
};

template <class T>
__device__ inline void gather(const Gather& a) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const u32 row = at / a.inner, number = row % a.count;
    const i64 index = axis_index(a.indices, a.wide, number, a.extent);
    if (index < 0) {
        report(a.status, a.step);
        return;
    }
    const u64 from = ((u64)(row / a.count) * a.extent + (u64)index) * a.inner + at % a.inner;
    ((T*)a.output)[at] = ((const T*)a.data)[from];
}

KERNEL(gather_1, 256, Gather) { gather<u8>(a); }
KERNEL(gather_2, 256, Gather) { gather<u16>(a); }
KERNEL(gather_4, 256, Gather) { gather<u32>(a); }
KERNEL(gather_8, 256, Gather) { gather<u64>(a); }

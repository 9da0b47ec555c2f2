// Convolution with computed weights, and pooling, over up to three spatial axes. A thread has one output.
#include "common.h"

// Axes that aren't there come first and have size 1.
struct Windows {
    u32 input[3];
    u32 output[3];
    // Sizes of 0 where there is nothing to read.
    u32 kernel[3];
    u32 stride[3];
    u32 dilation[3];
    u32 pad[3];
};

// The elements of a window along an axis that lie inside the input: first and end; and where the window starts.
struct Span {
    u32 first;
    u32 end;
    i64 start;
};

// Sizes, strides and paddings are at most 2³¹, 2³⁰ and 2³⁰, so that what is divided fits 32 bits.
__device__ inline Span span_of(i64 size, u32 kernel, u32 dilation, i64 start) {
    const u32 first = start < 0 ? ((u32)-start + dilation - 1) / dilation : 0;
    u32 end = start >= size ? 0 : (u32)(size - 1 - start) / dilation + 1;
    end = end < kernel ? end : kernel;
    const Span span = {first < end ? first : end, end, start};
    return span;
}

// The span along an axis of the window of output pixel `pixel`, which counts over the batch, too.
template <u32 axis>
__device__ inline Span span_along(const Windows& w, u32 pixel) {
    const u32 rest = axis == 2 ? pixel : (axis == 1 ? pixel / w.output[2] : pixel / w.output[2] / w.output[1]);
    const i64 start = (i64)(rest % w.output[axis]) * w.stride[axis] - (i64)w.pad[axis];
    return span_of(w.input[axis], w.kernel[axis], w.dilation[axis], start);
}

// The input pixel under a tap along an axis.
__device__ inline u64 pixel_along(const Span& span, u32 tap, u32 dilation) {
    return (u64)(span.start + (i64)tap * dilation);
}

struct ConvNd {
    u64 input;
    u64 weights;
    // 0 for none.
    u64 bias;
    u64 output;
    Windows windows;
    u32 in_c;
    u32 out_c;
    // Of a group.
    u32 group_in_c;
    u32 group_out_c;
    u32 elements;
    f32 min;
    f32 max;
    u32 reserved;
};

__device__ inline f32 multiplied(f32 a, f32 b, f32 sum) { return __fmaf_rn(a, b, sum); }
__device__ inline u32 multiplied(u32 a, u32 b, u32 sum) { return sum + a * b; }
__device__ inline f32 finished(const ConvNd& a, f32 sum, f32 bias) {
    return clip(a.bias == 0 ? sum : __fadd_rn(sum, bias), a.min, a.max);
}
__device__ inline u32 finished(const ConvNd&, u32 sum, u32 bias) { return sum + bias; }

template <class T>
__device__ inline void convolve(const ConvNd& a) {
    const Windows& w = a.windows;
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const u32 channel = at % a.out_c, pixel = at / a.out_c, batch = pixel / w.output[2] / w.output[1] / w.output[0];
    const Span planes = span_along<0>(w, pixel), rows = span_along<1>(w, pixel), columns = span_along<2>(w, pixel);
    const T* input = (const T*)a.input + channel / a.group_out_c * a.group_in_c;
    const T* weights = (const T*)a.weights + (u64)channel * w.kernel[0] * w.kernel[1] * w.kernel[2] * a.group_in_c;
    T sum = 0;
    for (u32 i = planes.first; i < planes.end; i++) {
        const u64 plane = (u64)batch * w.input[0] + pixel_along(planes, i, w.dilation[0]);
        for (u32 j = rows.first; j < rows.end; j++) {
            const u64 row = plane * w.input[1] + pixel_along(rows, j, w.dilation[1]);
            for (u32 k = columns.first; k < columns.end; k++) {
                const T* x = input + (row * w.input[2] + pixel_along(columns, k, w.dilation[2])) * a.in_c;
                const T* factors = weights + ((u64)(i * w.kernel[1] + j) * w.kernel[2] + k) * a.group_in_c;
                for (u32 c = 0; c < a.group_in_c; c++) sum = multiplied(x[c], factors[c], sum);
            }
        }
    }
    ((T*)a.output)[at] = finished(a, sum, a.bias == 0 ? (T)0 : ((const T*)a.bias)[channel]);
}

KERNEL(conv_nd_f32, 128, ConvNd) { convolve<f32>(a); }
KERNEL(conv_nd_i32, 128, ConvNd) { convolve<u32>(a); }

struct PoolNd {
    u64 input;
    u64 output;
    // 0, or of maxima: where they lie.
    u64 positions;
    Windows windows;
    u32 pad_after[3];
    u32 channels;
    u32 elements;
    // 1 maximum, 2 average, 3 norm.
    u32 kind;
    // 1: an average counts padding.
    u32 counts_padding;
    // Of a norm, and one over it.
    f32 p;
    f32 inverse_p;
    // 1: positions count with the first spatial axis fastest.
    u32 column_major;
};

__device__ inline bool wins(f32 a, f32 b) { return a > b || (a != a && b == b); }
__device__ inline bool wins(i32 a, i32 b) { return a > b; }

// W is T, or the integer that it widens to.
template <class T, class W>
__device__ inline void largest_of_window(const PoolNd& a, W lowest) {
    const Windows& w = a.windows;
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const u32 channel = at % a.channels, pixel = at / a.channels, batch = pixel / w.output[2] / w.output[1] / w.output[0];
    const Span planes = span_along<0>(w, pixel), rows = span_along<1>(w, pixel), columns = span_along<2>(w, pixel);
    W largest = lowest;
    i64 place = -1;
    for (u32 i = planes.first; i < planes.end; i++) {
        const u64 p0 = pixel_along(planes, i, w.dilation[0]), plane = (u64)batch * w.input[0] + p0;
        for (u32 j = rows.first; j < rows.end; j++) {
            const u64 p1 = pixel_along(rows, j, w.dilation[1]), row = plane * w.input[1] + p1;
            for (u32 k = columns.first; k < columns.end; k++) {
                const u64 p2 = pixel_along(columns, k, w.dilation[2]);
                const W x = ((const T*)a.input)[(row * w.input[2] + p2) * a.channels + channel];
                if (!wins(x, largest) && place >= 0) continue;
                if (wins(x, largest) || a.positions != 0) largest = x;
                place = (i64)(a.column_major ? (p2 * w.input[1] + p1) * w.input[0] + p0 : (p0 * w.input[1] + p1) * w.input[2] + p2);
            }
        }
    }
    ((T*)a.output)[at] = (T)largest;
    if (a.positions == 0) return;
    const u64 volume = (u64)w.input[0] * w.input[1] * w.input[2];
    if (place >= 0) place += (i64)(((u64)batch * a.channels + channel) * volume);
    ((i64*)a.positions)[at] = place;
}

KERNEL(pool_nd_i8, 128, PoolNd) { largest_of_window<i8, i32>(a, -128); }
KERNEL(pool_nd_u8, 128, PoolNd) { largest_of_window<u8, i32>(a, 0); }
KERNEL(max_pool_nd_f32, 128, PoolNd) { largest_of_window<f32, f32>(a, -infinity()); }

// Elements of a window along an axis that an average divides by.
template <u32 axis>
__device__ inline u32 counted_along(const PoolNd& a, const Span& span) {
    if (!a.counts_padding) return span.end - span.first;
    const Windows& w = a.windows;
    const i64 size = (i64)w.input[axis] + w.pad[axis] + a.pad_after[axis];
    const Span padded = span_of(size, w.kernel[axis], w.dilation[axis], span.start + (i64)w.pad[axis]);
    return padded.end - padded.first;
}

// The product, or the largest number.
__device__ inline u64 saturating_product(u64 a, u64 b) {
    return __umul64hi(a, b) != 0 ? ~0ull : a * b;
}

// The sum over a window of what `term` makes of its elements, in row-major order.
template <class Term>
__device__ inline f32 sum_of_window(const PoolNd& a, u32 at, const Span& planes, const Span& rows, const Span& columns,
                                    Term term) {
    const Windows& w = a.windows;
    const u32 channel = at % a.channels, batch = at / a.channels / w.output[2] / w.output[1] / w.output[0];
    f32 sum = 0.0f;
    for (u32 i = planes.first; i < planes.end; i++) {
        const u64 plane = (u64)batch * w.input[0] + pixel_along(planes, i, w.dilation[0]);
        for (u32 j = rows.first; j < rows.end; j++) {
            const u64 row = plane * w.input[1] + pixel_along(rows, j, w.dilation[1]);
            for (u32 k = columns.first; k < columns.end; k++) {
                const u64 from = (row * w.input[2] + pixel_along(columns, k, w.dilation[2])) * a.channels + channel;
                sum = __fadd_rn(sum, term(((const f32*)a.input)[from]));
            }
        }
    }
    return sum;
}

struct Itself {
    __device__ f32 operator()(f32 x) const { return x; }
};

struct Magnitude {
    __device__ f32 operator()(f32 x) const { return fabsf(x); }
};

struct Square {
    __device__ f32 operator()(f32 x) const { return __fmul_rn(x, x); }
};

struct Power {
    f32 exponent;

    __device__ f32 operator()(f32 x) const { return powf(fabsf(x), exponent); }
};

KERNEL(average_pool_nd_f32, 128, PoolNd) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const u32 pixel = at / a.channels;
    const Span planes = span_along<0>(a.windows, pixel), rows = span_along<1>(a.windows, pixel);
    const Span columns = span_along<2>(a.windows, pixel);
    const u64 two = saturating_product(counted_along<0>(a, planes), counted_along<1>(a, rows));
    const u64 count = saturating_product(two, counted_along<2>(a, columns));
    const f32 sum = sum_of_window(a, at, planes, rows, columns, Itself());
    ((f32*)a.output)[at] = __fdiv_rn(sum, __ull2float_rn(count > 1 ? count : 1));
}

KERNEL(norm_pool_nd_f32, 128, PoolNd) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const u32 pixel = at / a.channels;
    const Span planes = span_along<0>(a.windows, pixel), rows = span_along<1>(a.windows, pixel);
    const Span columns = span_along<2>(a.windows, pixel);
    f32 norm;
    if (a.p == 1.0f) {
        norm = sum_of_window(a, at, planes, rows, columns, Magnitude());
    } else if (a.p == 2.0f) {
        norm = __fsqrt_rn(sum_of_window(a, at, planes, rows, columns, Square()));
    } else {
        const Power power = {a.p};
        norm = powf(sum_of_window(a, at, planes, rows, columns, power), a.inverse_p);
    }
    ((f32*)a.output)[at] = norm;
}

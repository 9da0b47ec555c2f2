// Samples of images at computed places, and boxes.
#include "common.h"

// Beyond every axis, and far from the ends of an i64.
#define FAR (1ll << 40)

struct GridSample {
    u64 input;
    u64 grid;
    u64 output;
    // Spatial axes; those that aren't there come first and have size 1.
    u32 extents[3];
    // How many there are.
    u32 axes;
    u32 channels;
    // Of an image.
    u32 places;
    u32 elements;
    // 1 nearest, 2 linear, 3 cubic.
    u32 mode;
    // 1 zeros, 2 border, 3 reflection.
    u32 padding;
    u32 align_corners;
};

// Back and forth between the borders.
__device__ inline f32 reflected(f32 at, f32 low, f32 high) {
    const f32 range = __fsub_rn(high, low), beyond = at < low ? __fsub_rn(low, at) : __fsub_rn(at, high);
    // An axis of one pixel has no room to walk, and infinity no way back.
    if (range <= 0.0f || !(fabsf(beyond) < infinity())) return low;
    const f32 turns = floorf(__fdiv_rn(beyond, range)), rest = __fsub_rn(beyond, __fmul_rn(turns, range));
    const bool even = fmodf(turns, 2.0f) == 0.0f;
    return even == (at < low) ? __fadd_rn(low, rest) : __fsub_rn(high, rest);
}

// Pixels along an axis and how much each counts.
struct Pixels {
    u32 count;
    u32 index[4];
    f32 weight[4];
};

// An element of four in registers, whatever its number.
template <class T>
__device__ inline T chosen(const T (&of)[4], u32 number) {
    const T low = number == 0 ? of[0] : of[1], high = number == 2 ? of[2] : of[3];
    return number < 2 ? low : high;
}

// Keys' kernel with the coefficient −0.75, between the inner two pixels and beside them.
__device__ inline f32 inner_weight(f32 x) {
    return __fadd_rn(__fmul_rn(__fmul_rn(__fsub_rn(__fmul_rn(1.25f, x), 2.25f), x), x), 1.0f);
}

__device__ inline f32 outer_weight(f32 x) {
    const f32 curve = __fadd_rn(__fmul_rn(__fsub_rn(__fmul_rn(-0.75f, x), -3.75f), x), -6.0f);
    return __fsub_rn(__fmul_rn(curve, x), -3.0f);
}

// The pixels along an axis for a coordinate of the grid.
__device__ inline Pixels pixels_at(const GridSample& a, f32 coordinate, u32 extent) {
    const f32 size = __uint2float_rn(extent), before = __fsub_rn(size, 1.0f), shifted = __fadd_rn(coordinate, 1.0f);
    f32 at = a.align_corners ? __fmul_rn(__fdiv_rn(shifted, 2.0f), before)
                             : __fdiv_rn(__fsub_rn(__fmul_rn(shifted, size), 1.0f), 2.0f);
    const f32 low = a.align_corners ? 0.0f : -0.5f, high = a.align_corners ? before : __fsub_rn(size, 0.5f);
    if (a.mode == 1) at = rintf(at);
    if (!(at >= low && at <= high)) {
        if (a.padding == 2) at = fminf(fmaxf(at, 0.0f), before);
        if (a.padding == 3) at = reflected(at, low, high);
    }
    const f32 floor = floorf(at), x = __fsub_rn(at, floor);
    Pixels pixels = {1, {0, 0, 0, 0}, {1.0f, 0.0f, 0.0f, 0.0f}};
    i64 first = truncated(floor, -FAR, FAR);
    if (a.mode == 2) {
        pixels.count = 2;
        pixels.weight[0] = __fsub_rn(1.0f, x);
        pixels.weight[1] = x;
    } else if (a.mode == 3) {
        first -= 1;
        pixels.count = 4;
        pixels.weight[0] = outer_weight(__fadd_rn(x, 1.0f));
        pixels.weight[1] = inner_weight(x);
        pixels.weight[2] = inner_weight(__fsub_rn(1.0f, x));
        pixels.weight[3] = outer_weight(__fsub_rn(2.0f, x));
    }
    const i64 last = (i64)extent - 1;
#pragma unroll
    for (u32 number = 0; number < 4; number++) {
        i64 index = first + number;
        if (index < 0 || index > last) {
            if (a.padding == 1) {
                pixels.weight[number] = 0.0f;
                index = 0;
            } else if (a.padding == 3) {
                index = truncated(reflected(__ll2float_rn(index), low, high), -FAR, FAR);
            }
        }
        pixels.index[number] = (u32)(index < 0 ? 0 : (index > last ? last : index));
    }
    return pixels;
}

// A thread has one element.
KERNEL(grid_sample, 128, GridSample) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const u32 place = at % a.places, plane = at / a.places, image = plane / a.channels;
    // Coordinates of the last axis come first.
    const f32* grid = (const f32*)a.grid + ((u64)image * a.places + place) * a.axes;
    const Pixels one = {1, {0, 0, 0, 0}, {1.0f, 0.0f, 0.0f, 0.0f}};
    const Pixels inner = pixels_at(a, grid[0], a.extents[2]);
    const Pixels middle = a.axes >= 2 ? pixels_at(a, grid[1], a.extents[1]) : one;
    const Pixels outer = a.axes >= 3 ? pixels_at(a, grid[2], a.extents[0]) : one;
    const f32* x = (const f32*)a.input + (u64)plane * a.extents[0] * a.extents[1] * a.extents[2];
    f32 sum = 0.0f;
    for (u32 i = 0; i < outer.count; i++) {
        f32 slice = 0.0f;
        for (u32 j = 0; j < middle.count; j++) {
            const f32* row = x + ((u64)chosen(outer.index, i) * a.extents[1] + chosen(middle.index, j)) * a.extents[2];
            f32 line = 0.0f;
            for (u32 k = 0; k < inner.count; k++) {
                line = __fadd_rn(line, __fmul_rn(chosen(inner.weight, k), row[chosen(inner.index, k)]));
            }
            slice = __fadd_rn(slice, __fmul_rn(chosen(middle.weight, j), line));
        }
        sum = __fadd_rn(sum, __fmul_rn(chosen(outer.weight, i), slice));
    }
    ((f32*)a.output)[at] = sum;
}

struct RoiAlign {
    u64 input;
    u64 regions;
    u64 images;
    u64 output;
    u64 status;
    // Images of the input.
    u32 count;
    u32 channels;
    u32 height;
    u32 width;
    u32 out_height;
    u32 out_width;
    u32 elements;
    // 1 average, 2 maximum.
    u32 mode;
    // Of a bin along an axis; 0: one for each pixel.
    u32 sampling_ratio;
    f32 spatial_scale;
    u32 half_pixel;
    u32 step;
    // 1: images are i64, else i32.
    u32 wide;
    u32 reserved;
};

// The samples of one bin along one axis.
struct Samples {
    f32 start;
    f32 step;
    // All samples, also those beyond the image.
    f32 count;
    // Those that can lie on the image; the others are 0.
    u32 first;
    u32 end;
};

__device__ inline Samples samples_of(f32 start, f32 bin_size, u32 bin, u32 ratio, u32 extent) {
    Samples samples;
    samples.count = ratio > 0 ? __uint2float_rn(ratio) : fmaxf(ceilf(bin_size), 0.0f);
    samples.start = __fadd_rn(start, __fmul_rn(__uint2float_rn(bin), bin_size));
    samples.step = __fdiv_rn(bin_size, samples.count);
    // Only samples between −1 and the extent count: a region as large as a float gets must not keep the loop busy.
    const i64 all = truncated(samples.count, 0, 4294967295ll);
    i64 first = 0, end = all;
    if (samples.step > 0.0f) {
        first = truncated(floorf(__fdiv_rn(__fsub_rn(-1.0f, samples.start), samples.step)), -FAR, FAR) - 2;
        first = first < 0 ? 0 : (first > all ? all : first);
        end = truncated(ceilf(__fdiv_rn(__fsub_rn(__uint2float_rn(extent), samples.start), samples.step)), -FAR, FAR) + 2;
        end = end < first ? first : (end > all ? all : end);
    }
    // Samples are at least half a pixel apart unless the ratio says otherwise.
    i64 most = 2 * (i64)extent + 16;
    most = most > (i64)ratio ? most : (i64)ratio;
    end = end < first + most ? end : first + most;
    samples.first = (u32)first;
    samples.end = (u32)end;
    return samples;
}

// Where a sample lies: the pixels below and above, and how much the upper one counts.
struct Sample {
    bool inside;
    u32 low;
    u32 high;
    f32 rest;
};

__device__ inline Sample sample_of(const Samples& samples, u32 number, u32 extent) {
    f32 at = __fadd_rn(samples.start, __fmul_rn(__fadd_rn(__uint2float_rn(number), 0.5f), samples.step));
    Sample sample = {at >= -1.0f && at <= __uint2float_rn(extent), extent - 1, extent - 1, 0.0f};
    if (!sample.inside) return sample;
    at = fmaxf(at, 0.0f);
    const u32 low = (u32)at;
    if (low + 1 < extent) {
        sample.low = low;
        sample.high = low + 1;
        sample.rest = __fsub_rn(at, __uint2float_rn(low));
    }
    return sample;
}

// A thread has one bin of a channel.
KERNEL(roi_align, 128, RoiAlign) {
    const u32 at = thread_index();
    if (at >= a.elements) return;
    const u32 out_x = at % a.out_width, out_y = at / a.out_width % a.out_height;
    const u32 channel = at / a.out_width / a.out_height % a.channels;
    const u32 region = at / a.out_width / a.out_height / a.channels;
    const i64 image = index_at(a.images, a.wide, region);
    if (image < 0 || image >= a.count) {
        report(a.status, a.step);
        return;
    }
    const f32* corners = (const f32*)a.regions + (u64)region * 4;
    const f32 offset = a.half_pixel ? 0.5f : 0.0f;
    const f32 left = __fsub_rn(__fmul_rn(corners[0], a.spatial_scale), offset);
    const f32 top = __fsub_rn(__fmul_rn(corners[1], a.spatial_scale), offset);
    f32 width = __fsub_rn(__fsub_rn(__fmul_rn(corners[2], a.spatial_scale), offset), left);
    f32 height = __fsub_rn(__fsub_rn(__fmul_rn(corners[3], a.spatial_scale), offset), top);
    if (!a.half_pixel) {
        // What has no area counts as one pixel.
        width = fmaxf(width, 1.0f);
        height = fmaxf(height, 1.0f);
    }
    const f32 bin_height = __fdiv_rn(height, __uint2float_rn(a.out_height));
    const f32 bin_width = __fdiv_rn(width, __uint2float_rn(a.out_width));
    const Samples rows = samples_of(top, bin_height, out_y, a.sampling_ratio, a.height);
    const Samples columns = samples_of(left, bin_width, out_x, a.sampling_ratio, a.width);
    const f32* plane = (const f32*)a.input + ((u64)image * a.channels + channel) * a.height * a.width;
    f32 sum = 0.0f, largest = -infinity();
    u64 met = 0;
    for (u32 i = rows.first; i < rows.end; i++) {
        const Sample row = sample_of(rows, i, a.height);
        if (!row.inside) continue;
        const f32* upper = plane + (u64)row.low * a.width;
        const f32* lower = plane + (u64)row.high * a.width;
        const f32 above = __fsub_rn(1.0f, row.rest);
        for (u32 j = columns.first; j < columns.end; j++) {
            const Sample column = sample_of(columns, j, a.width);
            if (!column.inside) continue;
            const f32 before = __fsub_rn(1.0f, column.rest);
            const f32 first = __fmul_rn(__fmul_rn(above, before), upper[column.low]);
            const f32 second = __fmul_rn(__fmul_rn(above, column.rest), upper[column.high]);
            const f32 third = __fmul_rn(__fmul_rn(row.rest, before), lower[column.low]);
            const f32 fourth = __fmul_rn(__fmul_rn(row.rest, column.rest), lower[column.high]);
            sum = __fadd_rn(sum, __fadd_rn(__fadd_rn(__fadd_rn(first, second), third), fourth));
            largest = fmaxf(fmaxf(fmaxf(fmaxf(largest, first), second), third), fourth);
            met++;
        }
    }
    const f32 all = __fmul_rn(rows.count, columns.count);
    f32 y;
    if (a.mode == 1) {
        y = __fdiv_rn(sum, fmaxf(all, 1.0f));
    } else if (met == 0) {
        // Samples beyond the image are 0.
        y = 0.0f;
    } else {
        y = __ull2float_rn(met) < all ? fmaxf(largest, 0.0f) : largest;
    }
    ((f32*)a.output)[at] = y;
}

struct NonMaxSuppression {
    u64 boxes;
    u64 scores;
    // Rows of batch, class and box.
    u64 output;
    // Batches times classes.
    u32 groups;
    u32 classes;
    // Boxes of a batch.
    u32 count;
    // Rows of a group at most.
    u32 most;
    f32 iou_threshold;
    f32 score_threshold;
    u32 has_score_threshold;
    u32 center_point_box;
};

#define NO_BOX 0xffffffffu

struct Corners {
    f32 bottom;
    f32 left;
    f32 top;
    f32 right;
};

__device__ inline Corners corners_of(const f32* box, u32 center_point_box) {
    const f32 first = box[0], second = box[1], third = box[2], fourth = box[3];
    Corners corners;
    if (center_point_box) {
        const f32 half_width = __fdiv_rn(third, 2.0f), half_height = __fdiv_rn(fourth, 2.0f);
        corners.bottom = __fsub_rn(second, half_height);
        corners.left = __fsub_rn(first, half_width);
        corners.top = __fadd_rn(second, half_height);
        corners.right = __fadd_rn(first, half_width);
    } else {
        // Any two opposite corners.
        corners.bottom = fminf(first, third);
        corners.left = fminf(second, fourth);
        corners.top = fmaxf(first, third);
        corners.right = fmaxf(second, fourth);
    }
    return corners;
}

__device__ inline f32 area_of(const Corners& a) {
    return __fmul_rn(__fsub_rn(a.top, a.bottom), __fsub_rn(a.right, a.left));
}

// Intersection over union; 0 for boxes without area.
__device__ inline f32 overlap(const Corners& a, const Corners& b) {
    const f32 height = __fsub_rn(fminf(a.top, b.top), fmaxf(a.bottom, b.bottom));
    const f32 width = __fsub_rn(fminf(a.right, b.right), fmaxf(a.left, b.left));
    const f32 shared = __fmul_rn(height, width), area_a = area_of(a), area_b = area_of(b);
    const f32 all = __fsub_rn(__fadd_rn(area_a, area_b), shared);
    const bool real = height > 0.0f && width > 0.0f && area_a > 0.0f && area_b > 0.0f && all > 0.0f;
    return real ? __fdiv_rn(shared, all) : 0.0f;
}

// Whether a box comes before another: by score, NaN last, then by index. NO_BOX comes last.
__device__ inline bool comes_before(const f32* scores, u32 a, u32 b) {
    if (a == NO_BOX || b == NO_BOX) return a != NO_BOX;
    const f32 left = scores[a], right = scores[b];
    if (left > right) return true;
    if (left < right) return false;
    if ((left != left) != (right != right)) return right != right;
    return a < b;
}

// Grid: groups. Each has as many rows as it can need, of which the first are its boxes.
KERNEL(suppress_boxes, 256, NonMaxSuppression) {
    __shared__ u32 best_of[8];
    __shared__ u32 room[8];
    const u32 batch = blockIdx.x / a.classes, group_class = blockIdx.x % a.classes, lane = threadIdx.x % WARP;
    const f32* boxes = (const f32*)a.boxes + (u64)batch * a.count * 4;
    const f32* scores = (const f32*)a.scores + (u64)blockIdx.x * a.count;
    i64* rows = (i64*)a.output + (u64)blockIdx.x * a.most * 3;
    u32 used = 0, last = NO_BOX;
    while (used < a.most) {
        // The box that comes next.
        u32 best = NO_BOX;
        for (u32 i = threadIdx.x; i < a.count; i += blockDim.x) {
            const bool is_left = last == NO_BOX || comes_before(scores, last, i);
            if (is_left && comes_before(scores, i, best)) best = i;
        }
        for (i32 lanes = WARP / 2; lanes > 0; lanes /= 2) {
            const u32 other = __shfl_xor_sync(ALL_LANES, best, lanes);
            if (comes_before(scores, other, best)) best = other;
        }
        __syncthreads();
        if (lane == 0) best_of[threadIdx.x / WARP] = best;
        __syncthreads();
        best = best_of[0];
        for (u32 warp = 1; warp < blockDim.x / WARP; warp++) {
            if (comes_before(scores, best_of[warp], best)) best = best_of[warp];
        }
        if (best == NO_BOX || (a.has_score_threshold && !(scores[best] > a.score_threshold))) break;
        last = best;
        const Corners candidate = corners_of(boxes + (u64)best * 4, a.center_point_box);
        u32 suppressed = 0;
        for (u32 row = threadIdx.x; row < used; row += blockDim.x) {
            const Corners kept = corners_of(boxes + (u64)rows[(u64)row * 3 + 2] * 4, a.center_point_box);
            suppressed += overlap(candidate, kept) > a.iou_threshold;
        }
        if (block_reduce<Sum>(suppressed, room) > 0) continue;
        if (threadIdx.x < 3) {
            rows[(u64)used * 3 + threadIdx.x] = threadIdx.x == 0 ? batch : (threadIdx.x == 1 ? group_class : best);
        }
        used++;
        __syncthreads();
    }
    for (u64 at = (u64)used * 3 + threadIdx.x; at < (u64)a.most * 3; at += blockDim.x) rows[at] = -1;
}

// One block: moves the rows of all groups together.
KERNEL(join_boxes, 256, NonMaxSuppression) {
    __shared__ u32 room[8];
    i64* rows = (i64*)a.output;
    u64 used = 0;
    for (u32 group = 0; group < a.groups; group++) {
        for (u32 first = 0; first < a.most; first += blockDim.x) {
            const u32 own = first + threadIdx.x;
            i64 batch = -1, group_class = -1, box = -1;
            if (own < a.most) {
                const i64* row = rows + ((u64)group * a.most + own) * 3;
                batch = row[0], group_class = row[1], box = row[2];
            }
            // Everything is read before something is written over it.
            const u32 found = block_reduce<Sum>(box >= 0 ? 1u : 0u, room);
            if (box >= 0) {
                i64* row = rows + (used + threadIdx.x) * 3;
                row[0] = batch, row[1] = group_class, row[2] = box;
            }
            used += found;
            __syncthreads();
            if (found < blockDim.x) break;
        }
    }
    const u64 end = (u64)a.groups * a.most * 3;
    for (u64 at = used * 3 + threadIdx.x; at < end; at += blockDim.x) rows[at] = -1;
}

// The i8 convolution's arguments, and its inputs as words of four.
#pragma once

struct ConvI8 {
    u64 input;
    u64 weights;
    u64 output;
    EpilogueI8 epilogue;
    ConvShape shape;
    // Sums of an output: kernel height × width × input channels of a group.
    u32 k;
    i32 input_zero_point;
    // 1: four inputs in a row are one aligned word.
    u32 aligned;
    u32 reserved;
};

// Inputs 4 · word to 4 · word + 3 of a window, in the order of the weights.
__device__ inline i32 patch_word(const ConvI8& a, const Window& window, u32 first_c, u32 word) {
    const ConvShape& s = a.shape;
    const i8* input = (const i8*)a.input;
    const u32 k = 4 * word, padding = (u32)a.input_zero_point & 0xff;
    if (a.aligned) {
        const u32 tap = k / s.group_in_c;
        const i64 at = input_pixel(s, window, tap / s.kernel_w, tap % s.kernel_w);
        if (at < 0) return (i32)(padding * 0x01010101u);
        return *(const i32*)(input + at + first_c + k % s.group_in_c);
    }
    u32 bytes = 0;
    for (u32 i = 0; i < 4 && k + i < a.k; i++) {
        const u32 tap = (k + i) / s.group_in_c;
        const i64 at = input_pixel(s, window, tap / s.kernel_w, tap % s.kernel_w);
        const u32 x = at < 0 ? padding : (u32)(u8)input[at + first_c + (k + i) % s.group_in_c];
        bytes |= x << (8 * i);
    }
    return (i32)bytes;
}

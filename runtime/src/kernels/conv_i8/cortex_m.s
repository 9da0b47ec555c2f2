@ Integer matrix products for Arm Cortex-M with the DSP extension and a single-precision FPU.
@
@ Activations have been expanded to halfwords, in the order of the weights: for each quad of inputs, the
@ pair (0, 2) of every pixel, then the pair (1, 3) of every pixel. A weight word holds the same pair for two
@ output channels, as halfwords 256*b + a + 128: SMLAD of the word sums 256*b + a + 128, SMLAD of its UXTB16
@ sums a + 128. The difference of the sums is 256*sum(b) modulo 2^32, exact while |sum(b)| < 2^23: at most
@ 508 inputs between two flushes, which the caller arranges (`CHUNK_QUADS`). The sums start from
@ bias(a) - 128 * (sum of the pixel's activations).
@
@ struct Gemm, shared with cortex_m.rs; pointers to it are to `out`.
.equ G_BIAS, -8             @ bias, scale: the next pair of channels
.equ G_ZERO_POINT, 12       @ after three outs
.equ G_X, 16                @ first activation, end of the first chunk of whole blocks
.equ G_BLOCKS_END, 24       @ end of whole blocks, end of all
.equ G_CHUNK_BYTES, 32
.equ G_OUT_END, 36
.equ G_WEIGHTS, 40

    .syntax unified
    .thumb
    .cpu cortex-m4
    .fpu fpv4-sp-d16

@ One quad of inputs of three pixels by two channels: 12 SMLAD, 17 instructions.
.macro GEMM3_QUAD
    ldm     r1!, {r2, r3}
    ldm     r0!, {r4, r5, r6}
    smlad   r10, r4, r2, r10
    smlad   r11, r5, r2, r11
    smlad   r12, r6, r2, r12
    uxtb16  r2, r2
    smlad   r7, r4, r2, r7
    smlad   r8, r5, r2, r8
    smlad   r9, r6, r2, r9
    ldm     r0!, {r4, r5, r6}
    smlad   r10, r4, r3, r10
    smlad   r11, r5, r3, r11
    smlad   r12, r6, r3, r12
    uxtb16  r3, r3
    smlad   r7, r4, r3, r7
    smlad   r8, r5, r3, r8
    smlad   r9, r6, r3, r9
.endm

@ Three pixels by all channels. r0: Gemm. r0 and r1 walk activations and weights, r7-r9 sum a, r10-r12 sum
@ 256*b + a, s12-s14 hold what is known of the sums of b.
    .section .text.whit_gemm3_i8, "ax", %progbits
    .global whit_gemm3_i8
    .type   whit_gemm3_i8, %function
    .thumb_func
    .p2align 2
whit_gemm3_i8:
    push    {r0, r4-r11, lr}
    mov     r2, r0
    ldr     r1, [r2, #G_WEIGHTS]
1:  @ the next pair of channels; r2: Gemm
    ldmdb   r2, {r3-r7}                 @ three offsets, bias, scale
    ldrd    r8, r10, [r6], #8
    vldmia  r7!, {s2, s3}
    strd    r6, r7, [r2, #G_BIAS]
    vmov    s12, s13, r10, r10
    vmov    s14, r10
    add     r7, r8, r3
    add     r9, r8, r5
    add     r8, r8, r4
    mov     r10, r7
    mov     r11, r8
    mov     r12, r9
    ldrd    r0, lr, [r2, #G_X]
    cmp     r0, lr
    beq     3f
2:  GEMM3_QUAD
    GEMM3_QUAD
    GEMM3_QUAD
    GEMM3_QUAD
    cmp     r0, lr
    bne     2b
    ldr     r2, [sp]
3:  ldrd    r3, lr, [r2, #G_BLOCKS_END]
    cmp     r0, lr
    bne     5f
4:  @ s2-s3: scales, s4-s9: results, pixel by pixel
    ldm     r2, {r3, r4, r5, r6}
    vmov    r0, lr, s12, s13
    sub     r10, r10, r7
    add     r10, r0, r10, asr #8
    sub     r11, r11, r8
    add     r11, lr, r11, asr #8
    vmov    r0, s14
    sub     r12, r12, r9
    add     r12, r0, r12, asr #8
    vmov    s4, s5, r7, r10
    vmov    s6, s7, r8, r11
    vmov    s8, s9, r9, r12
    vcvt.f32.s32 s4, s4
    vcvt.f32.s32 s5, s5
    vcvt.f32.s32 s6, s6
    vcvt.f32.s32 s7, s7
    vcvt.f32.s32 s8, s8
    vcvt.f32.s32 s9, s9
    vmul.f32 s4, s4, s2
    vmul.f32 s5, s5, s3
    vmul.f32 s6, s6, s2
    vmul.f32 s7, s7, s3
    vmul.f32 s8, s8, s2
    vmul.f32 s9, s9, s3
    vcvtr.s32.f32 s4, s4
    vcvtr.s32.f32 s5, s5
    vcvtr.s32.f32 s6, s6
    vcvtr.s32.f32 s7, s7
    vcvtr.s32.f32 s8, s8
    vcvtr.s32.f32 s9, s9
    vmov    r7, r10, s4, s5
    vmov    r8, r11, s6, s7
    vmov    r9, r12, s8, s9
    qadd    r7, r7, r6
    qadd    r10, r10, r6
    qadd    r8, r8, r6
    qadd    r11, r11, r6
    qadd    r9, r9, r6
    qadd    r12, r12, r6
    ssat    r7, #8, r7
    ssat    r10, #8, r10
    ssat    r8, #8, r8
    ssat    r11, #8, r11
    ssat    r9, #8, r9
    ssat    r12, #8, r12
    strb    r7, [r3], #1
    strb    r10, [r3], #1
    strb    r8, [r4], #1
    strb    r11, [r4], #1
    strb    r9, [r5], #1
    strb    r12, [r5], #1
    stm     r2, {r3, r4, r5}
    ldr     r0, [r2, #G_OUT_END]
    cmp     r3, r0
    bne     1b
    pop     {r0, r4-r11, pc}

5:  cmp     r0, r3
    bne     7f
6:  @ quads that don't fill a block
    GEMM3_QUAD
    cmp     r0, lr
    bne     6b
    ldr     r2, [sp]
    b       4b
7:  @ the end of a chunk: sums of b go to s12-s14, which leaves 256*b + a equal to a
    vmov    r4, r5, s12, s13
    sub     r10, r10, r7
    add     r4, r4, r10, asr #8
    sub     r11, r11, r8
    add     r5, r5, r11, asr #8
    vmov    s12, s13, r4, r5
    vmov    r4, s14
    sub     r12, r12, r9
    add     r4, r4, r12, asr #8
    vmov    s14, r4
    mov     r10, r7
    mov     r11, r8
    mov     r12, r9
    ldr     lr, [r2, #G_CHUNK_BYTES]
    add     lr, lr, r0
    cmp     lr, r3
    it      hi
    movhi   lr, r3
    b       2b
    .size   whit_gemm3_i8, . - whit_gemm3_i8

@ Two quads of inputs of one pixel by two channels: 8 SMLAD, 14 instructions.
.macro GEMM1_QUADS
    ldm     r0!, {r4-r7}
    ldm     r1!, {r8-r11}
    smlad   r3, r4, r8, r3
    uxtb16  r8, r8
    smlad   r2, r4, r8, r2
    smlad   r3, r5, r9, r3
    uxtb16  r9, r9
    smlad   r2, r5, r9, r2
    smlad   r3, r6, r10, r3
    uxtb16  r10, r10
    smlad   r2, r6, r10, r2
    smlad   r3, r7, r11, r3
    uxtb16  r11, r11
    smlad   r2, r7, r11, r2
.endm

@ One pixel by all channels. r0 and r1 walk activations and weights, r2 sums a, r3 sums 256*b + a, s12 holds what
@ is known of the sum of b; r12: Gemm.
    .section .text.whit_gemm1_i8, "ax", %progbits
    .global whit_gemm1_i8
    .type   whit_gemm1_i8, %function
    .thumb_func
    .p2align 2
whit_gemm1_i8:
    push    {r3-r11, lr}
    mov     r12, r0
    ldr     r1, [r12, #G_WEIGHTS]
1:  ldmdb   r12, {r5-r9}                @ r5: offset, r8: bias, r9: scale
    ldrd    r2, r3, [r8], #8
    vldmia  r9!, {s2, s3}
    strd    r8, r9, [r12, #G_BIAS]
    vmov    s12, r3
    add     r2, r2, r5
    mov     r3, r2
    ldrd    r0, lr, [r12, #G_X]
    cmp     r0, lr
    beq     3f
2:  GEMM1_QUADS
    GEMM1_QUADS
    GEMM1_QUADS
    GEMM1_QUADS
    cmp     r0, lr
    bne     2b
3:  ldrd    r4, lr, [r12, #G_BLOCKS_END]
    cmp     r0, lr
    bne     5f
4:  vmov    r0, s12
    sub     r3, r3, r2
    add     r3, r0, r3, asr #8
    vmov    s4, s5, r2, r3
    vcvt.f32.s32 s4, s4
    vcvt.f32.s32 s5, s5
    vmul.f32 s4, s4, s2
    vmul.f32 s5, s5, s3
    vcvtr.s32.f32 s4, s4
    vcvtr.s32.f32 s5, s5
    vmov    r2, r3, s4, s5
    ldr     r4, [r12]
    ldr     r5, [r12, #G_ZERO_POINT]
    qadd    r2, r2, r5
    qadd    r3, r3, r5
    ssat    r2, #8, r2
    ssat    r3, #8, r3
    strb    r2, [r4], #1
    strb    r3, [r4], #1
    str     r4, [r12]
    ldr     r0, [r12, #G_OUT_END]
    cmp     r4, r0
    bne     1b
    pop     {r3-r11, pc}

5:  cmp     r0, r4
    bne     7f
6:  @ quads that don't fill a block
    ldm     r0!, {r4, r5}
    ldm     r1!, {r8, r9}
    smlad   r3, r4, r8, r3
    uxtb16  r8, r8
    smlad   r2, r4, r8, r2
    smlad   r3, r5, r9, r3
    uxtb16  r9, r9
    smlad   r2, r5, r9, r2
    cmp     r0, lr
    bne     6b
    b       4b
7:  @ the end of a chunk
    vmov    r5, s12
    sub     r3, r3, r2
    add     r5, r5, r3, asr #8
    vmov    s12, r5
    mov     r3, r2
    ldr     lr, [r12, #G_CHUNK_BYTES]
    add     lr, lr, r0
    cmp     lr, r4
    it      hi
    movhi   lr, r4
    b       2b
    .size   whit_gemm1_i8, . - whit_gemm1_i8

@ Expands the bytes of three pixels to halfwords in the order above, and takes 128 * their sums off the offsets.
@ r0-r2: pixels, may be unaligned, r3: where to, [sp]: quads, 1 to 127 so that halfwords hold the sums,
@ [sp, #4]: three offsets.
    .section .text.whit_expand3_i8, "ax", %progbits
    .global whit_expand3_i8
    .type   whit_expand3_i8, %function
    .thumb_func
    .p2align 2
whit_expand3_i8:
    push    {r4-r11, lr}
    ldr     lr, [sp, #36]
    add     lr, lr, lr, lsl #1
    add     lr, r3, lr, lsl #3          @ r3 + 24 * quads
    mov     r10, #0
    mov     r11, #0
    mov     r12, #0
1:  ldr     r4, [r0], #4
    ldr     r5, [r1], #4
    ldr     r6, [r2], #4
    sxtb16  r7, r4, ror #8
    sxtb16  r8, r5, ror #8
    sxtb16  r9, r6, ror #8
    sxtb16  r4, r4
    sxtb16  r5, r5
    sxtb16  r6, r6
    sadd16  r10, r10, r4
    sadd16  r11, r11, r5
    sadd16  r12, r12, r6
    stm     r3!, {r4-r9}
    sadd16  r10, r10, r7
    sadd16  r11, r11, r8
    sadd16  r12, r12, r9
    cmp     r3, lr
    bne     1b
    ldr     r0, [sp, #40]
    ldm     r0, {r4, r5, r6}
    sxth    r7, r10
    add     r10, r7, r10, asr #16
    sub     r4, r4, r10, lsl #7
    sxth    r7, r11
    add     r11, r7, r11, asr #16
    sub     r5, r5, r11, lsl #7
    sxth    r7, r12
    add     r12, r7, r12, asr #16
    sub     r6, r6, r12, lsl #7
    stm     r0, {r4, r5, r6}
    pop     {r4-r11, pc}
    .size   whit_expand3_i8, . - whit_expand3_i8

@ The same for one pixel. r0: pixel, r1: where to, r2: quads, r3: offset.
    .section .text.whit_expand1_i8, "ax", %progbits
    .global whit_expand1_i8
    .type   whit_expand1_i8, %function
    .thumb_func
    .p2align 2
whit_expand1_i8:
    push    {r4-r6}
    add     r2, r1, r2, lsl #3
    mov     r12, #0
1:  ldr     r6, [r0], #4
    sxtb16  r5, r6, ror #8
    sxtb16  r4, r6
    sadd16  r12, r12, r5
    sadd16  r12, r12, r4
    stm     r1!, {r4, r5}
    cmp     r1, r2
    bne     1b
    sxth    r4, r12
    add     r12, r4, r12, asr #16
    ldr     r4, [r3]
    sub     r4, r4, r12, lsl #7
    str     r4, [r3]
    pop     {r4-r6}
    bx      lr
    .size   whit_expand1_i8, . - whit_expand1_i8

@ Gathers runs of bytes one behind the other. r0: to, r1: from, r2: bytes of a run, r3: bytes from a run to the
@ next, [sp]: runs, at least 1. By words: up to 3 bytes behind a run are read, and written behind the last.
    .section .text.whit_gather_i8, "ax", %progbits
    .global whit_gather_i8
    .type   whit_gather_i8, %function
    .thumb_func
    .p2align 2
whit_gather_i8:
    push    {r4-r9}
    ldr     r12, [sp, #24]
1:  mov     r8, r1
    subs    r9, r2, #16
    blo     3f
2:  ldr     r4, [r8], #4
    ldr     r5, [r8], #4
    ldr     r6, [r8], #4
    ldr     r7, [r8], #4
    str     r4, [r0], #4
    str     r5, [r0], #4
    str     r6, [r0], #4
    str     r7, [r0], #4
    subs    r9, r9, #16
    bhs     2b
3:  adds    r9, r9, #16
    beq     5f
4:  ldr     r4, [r8], #4
    str     r4, [r0], #4
    subs    r9, r9, #4
    bhi     4b
    it      lo
    addlo   r0, r0, r9                  @ back by what was too much
5:  add     r1, r1, r3
    subs    r12, r12, #1
    bne     1b
    pop     {r4-r9}
    bx      lr
    .size   whit_gather_i8, . - whit_gather_i8

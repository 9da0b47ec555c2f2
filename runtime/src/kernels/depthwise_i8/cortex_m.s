@ Depthwise convolutions for Arm Cortex-M with the DSP extension and a single-precision FPU: one channel at a time
@ over rows of halfwords, two neighbouring outputs at once.
@
@ struct Channel, shared with cortex_m.rs
.equ C_X, 0                 @ first halfword of the first row of taps; advanced by row_step
.equ C_DILATION, 4          @ bytes from a row of taps to the next
.equ C_ROW_STEP, 8          @ bytes from an output row's first row of taps to that of the next
.equ C_ROWS, 12             @ output rows
.equ C_PAIRS, 16             @ whole pairs of outputs in a row; 3x3: in bytes of input
.equ C_ODD, 20              @ 1 when another output follows
.equ C_OUT, 24
.equ C_ZERO_POINT, 28       @ zero point, bytes from an output to the next
.equ C_BIAS, 36             @ bias twice, scale
.equ C_WEIGHTS, 48          @ 3x3: per row (w0, w1) and (w1, w2). Others: pointer, bytes in a row, bytes in all, bytes of input between outputs


    .syntax unified
    .thumb
    .cpu cortex-m4
    .fpu fpv4-sp-d16

@ From two sums to two bytes in \y0 and \y1; \z is the zero point.
.macro ROUND_PAIR y0, y1, z, step
    vmov    s0, s1, \y0, \y1
    vcvt.f32.s32 s0, s0
    vcvt.f32.s32 s1, s1
    vmul.f32 s0, s0, s8
    vmul.f32 s1, s1, s8
    vcvtr.s32.f32 s0, s0
    vcvtr.s32.f32 s1, s1
    vmov    \y0, \y1, s0, s1
    vmov    \z, \step, s10, s11
    qadd    \y0, \y0, \z
    qadd    \y1, \y1, \z
    ssat    \y0, #8, \y0
    ssat    \y1, #8, \y1
.endm

@ Two outputs of a row of taps, columns one apart. \p: the row, \w01 and \w12: its weights.
.macro TAPS_STRIDE1 p, w01, w12
    ldrd    r2, r3, [\p], #4
    smlad   r10, \w01, r2, r10
    smlabt  r11, \w01, r2, r11
    smlatb  r10, \w12, r3, r10
    smlad   r11, \w12, r3, r11
.endm

@ The same, columns two apart.
.macro TAPS_STRIDE2 p, w01, w12
    ldrd    r2, r3, [\p], #8
    smlad   r10, \w01, r2, r10
    smlatb  r10, \w12, r3, r10
    ldr     r2, [\p]
    smlad   r11, \w01, r3, r11
    smlatb  r11, \w12, r2, r11
.endm

@ 3x3 taps. r0: Channel. r0, r1, r12 walk the three rows, r4-r9 hold weights, r10 and r11 sum, lr is the output.
@ s6-s7: bias, s8: scale, s10: zero point, s11: output step, s12: end of the row.
.macro DEPTHWISE_3X3 name, taps
    .section .text.\name, "ax", %progbits
    .global \name
    .type   \name, %function
    .thumb_func
    .p2align 2
\name:
    push    {r0, r4-r11, lr}
    ldr     lr, [r0, #C_OUT]
    add     r1, r0, #C_ZERO_POINT
    vldmia  r1, {s10, s11}
    add     r1, r0, #C_BIAS
    vldmia  r1, {s6, s7, s8}
    add     r1, r0, #C_WEIGHTS
    ldm     r1, {r4-r9}
1:  ldr     r2, [sp]
    ldr     r0, [r2, #C_X]
    ldr     r3, [r2, #C_DILATION]
    add     r1, r0, r3
    add     r12, r1, r3
    ldr     r3, [r2, #C_ROW_STEP]
    add     r3, r3, r0
    str     r3, [r2, #C_X]
    ldr     r3, [r2, #C_PAIRS]
    cmp     r3, #0
    beq     3f
    add     r3, r3, r0
    vmov    s12, r3
2:  vmov    r10, r11, s6, s7
    \taps   r0, r4, r5
    \taps   r1, r6, r7
    \taps   r12, r8, r9
    ROUND_PAIR r10, r11, r2, r3
    strb    r10, [lr]
    strb    r11, [lr, r3]
    add     lr, lr, r3, lsl #1
    vmov    r2, s12
    cmp     r0, r2
    bne     2b
    ldr     r2, [sp]
3:  ldr     r3, [r2, #C_ODD]
    cmp     r3, #0
    beq     4f
    vmov    r10, r11, s6, s7
    \taps   r0, r4, r5
    \taps   r1, r6, r7
    \taps   r12, r8, r9
    ROUND_PAIR r10, r11, r2, r3
    strb    r10, [lr]
    add     lr, lr, r3
    ldr     r2, [sp]
4:  ldr     r3, [r2, #C_ROWS]
    subs    r3, r3, #1
    str     r3, [r2, #C_ROWS]
    bne     1b
    pop     {r0, r4-r11, pc}
    .size   \name, . - \name
.endm

    DEPTHWISE_3X3 whit_depthwise_3x3_stride1_i8, TAPS_STRIDE1
    DEPTHWISE_3X3 whit_depthwise_3x3_stride2_i8, TAPS_STRIDE2

@ Any taps and stride. r0: Channel. r0 walks a row of taps, r1 the weights, pairs of columns each; r4: words in a
@ row, r5: from the end of a row to the next, r6: end of weights, r7: stride in bytes, r8: left in the row, r9:
@ first tap, r10 and r11 sum, r12: words left, lr is the output.
    .section .text.whit_depthwise_i8, "ax", %progbits
    .global whit_depthwise_i8
    .type   whit_depthwise_i8, %function
    .thumb_func
    .p2align 2
whit_depthwise_i8:
    push    {r0, r4-r11, lr}
    ldr     lr, [r0, #C_OUT]
    add     r1, r0, #C_ZERO_POINT
    vldmia  r1, {s10, s11}
    add     r1, r0, #C_BIAS
    vldmia  r1, {s6, s7, s8}
    add     r1, r0, #C_WEIGHTS
    ldm     r1, {r1, r4, r6, r7}        @ pointer, bytes in a row, bytes in all, stride
    vmov    s13, r1
    add     r6, r6, r1
    ldr     r5, [r0, #C_DILATION]
    sub     r5, r5, r4
    lsr     r4, r4, #2
1:  ldr     r2, [sp]
    ldr     r9, [r2, #C_X]
    ldr     r3, [r2, #C_ROW_STEP]
    add     r3, r3, r9
    str     r3, [r2, #C_X]
    ldrd    r8, r3, [r2, #C_PAIRS]
    lsl     r8, r8, #1
    add     r8, r8, r3                  @ outputs in the row
2:  vmov    r10, r11, s6, s7
    mov     r0, r9
    vmov    r1, s13
3:  mov     r12, r4
4:  ldr     r2, [r1], #4
    ldr     r3, [r0, r7]
    smlad   r11, r2, r3, r11
    ldr     r3, [r0], #4
    smlad   r10, r2, r3, r10
    subs    r12, r12, #1
    bne     4b
    add     r0, r0, r5
    cmp     r1, r6
    bne     3b
    add     r9, r9, r7, lsl #1
    ROUND_PAIR r10, r11, r2, r3
    strb    r10, [lr]
    add     lr, lr, r3
    subs    r8, r8, #1
    beq     5f
    strb    r11, [lr]
    add     lr, lr, r3
    subs    r8, r8, #1
    bne     2b
5:  ldr     r2, [sp]
    ldr     r3, [r2, #C_ROWS]
    subs    r3, r3, #1
    str     r3, [r2, #C_ROWS]
    bne     1b
    pop     {r0, r4-r11, pc}
    .size   whit_depthwise_i8, . - whit_depthwise_i8

@ Expands rows of columns of four channels into four planes. r0: struct Expand of cortex_m.rs.
@ r0: column, r1: bytes from a column to the next, r2: halfword of the first plane, r3: bytes from a plane to the
@ next, r9: three times that, r10: columns, r11: rows left, r12: columns left, lr: struct.
    .section .text.whit_expand_planes_i8, "ax", %progbits
    .global whit_expand_planes_i8
    .type   whit_expand_planes_i8, %function
    .thumb_func
    .p2align 2
whit_expand_planes_i8:
    push    {r4-r11, lr}
    mov     lr, r0
    ldm     lr, {r0, r1, r2, r3, r10, r11}
    add     r9, r3, r3, lsl #1
1:  mov     r12, r10
    tst     r2, #2
    beq     3f
2:  @ one column
    ldr     r4, [r0]
    add     r0, r0, r1
    sxtb16  r5, r4, ror #8
    sxtb16  r4, r4
    strh    r5, [r2, r3]
    lsr     r5, r5, #16
    strh    r5, [r2, r9]
    strh    r4, [r2], #2
    lsr     r4, r4, #16
    add     r6, r2, r3, lsl #1
    strh    r4, [r6, #-2]
    subs    r12, r12, #1
    beq     5f
3:  subs    r12, r12, #2
    blo     6f
4:  @ two columns
    ldr     r4, [r0]
    ldr     r6, [r0, r1]
    add     r0, r0, r1, lsl #1
    sxtb16  r5, r4, ror #8
    sxtb16  r4, r4
    sxtb16  r7, r6, ror #8
    sxtb16  r6, r6
    pkhbt   r8, r5, r7, lsl #16
    str     r8, [r2, r3]
    pkhtb   r8, r7, r5, asr #16
    str     r8, [r2, r9]
    pkhtb   r8, r6, r4, asr #16
    str     r8, [r2, r3, lsl #1]
    pkhbt   r8, r4, r6, lsl #16
    str     r8, [r2], #4
    subs    r12, r12, #2
    bhs     4b
6:  adds    r12, r12, #2
    bne     2b
5:  ldr     r4, [lr, #24]               @ from the end of a row of input to the next
    ldr     r5, [lr, #28]               @ the same of planes
    add     r0, r0, r4
    add     r2, r2, r5
    subs    r11, r11, #1
    bne     1b
    pop     {r4-r11, pc}
    .size   whit_expand_planes_i8, . - whit_expand_planes_i8

@ y = saturate(round((a - za) * sa + (b - zb) * sb) + z), four elements at a time: 54 instructions.
@ r0: a, r1: b, r2: y, r3: length, at least 1, [sp]: struct Numbers of cortex_m.rs.

    .syntax unified
    .thumb
    .cpu cortex-m4
    .fpu fpv4-sp-d16

    .section .text.whit_add_i8, "ax", %progbits
    .global whit_add_i8
    .type   whit_add_i8, %function
    .thumb_func
    .p2align 2
whit_add_i8:
    push    {r4-r12, lr}
    ldr     r4, [sp, #40]
    ldm     r4!, {r6, r7, r8}
    vldmia  r4, {s14, s15}
    subs    r3, r3, #4
    blo     2f
1:  ldr     r4, [r0], #4
    ldr     r5, [r1], #4
    sxtab   r9, r6, r4
    sxtab   r10, r7, r5
    sxtab   r11, r6, r4, ror #8
    sxtab   r12, r7, r5, ror #8
    vmov    s0, s1, r9, r10
    vmov    s2, s3, r11, r12
    sxtab   r9, r6, r4, ror #16
    sxtab   r10, r7, r5, ror #16
    sxtab   r11, r6, r4, ror #24
    sxtab   r12, r7, r5, ror #24
    vmov    s4, s5, r9, r10
    vmov    s6, s7, r11, r12
    vcvt.f32.s32 s0, s0
    vcvt.f32.s32 s1, s1
    vcvt.f32.s32 s2, s2
    vcvt.f32.s32 s3, s3
    vcvt.f32.s32 s4, s4
    vcvt.f32.s32 s5, s5
    vcvt.f32.s32 s6, s6
    vcvt.f32.s32 s7, s7
    vmul.f32 s0, s0, s14
    vmul.f32 s1, s1, s15
    vmul.f32 s2, s2, s14
    vmul.f32 s3, s3, s15
    vmul.f32 s4, s4, s14
    vmul.f32 s5, s5, s15
    vmul.f32 s6, s6, s14
    vmul.f32 s7, s7, s15
    vadd.f32 s0, s0, s1
    vadd.f32 s1, s2, s3
    vadd.f32 s2, s4, s5
    vadd.f32 s3, s6, s7
    vcvtr.s32.f32 s0, s0
    vcvtr.s32.f32 s1, s1
    vcvtr.s32.f32 s2, s2
    vcvtr.s32.f32 s3, s3
    vmov    r9, r10, s0, s1
    vmov    r11, r12, s2, s3
    qadd    r9, r9, r8
    qadd    r10, r10, r8
    qadd    r11, r11, r8
    qadd    r12, r12, r8
    ssat    r9, #8, r9
    ssat    r10, #8, r10
    ssat    r11, #8, r11
    ssat    r12, #8, r12
    strb    r9, [r2], #1
    strb    r10, [r2], #1
    strb    r11, [r2], #1
    strb    r12, [r2], #1
    subs    r3, r3, #4
    bhs     1b
2:  adds    r3, r3, #4
    beq     4f
3:  ldrsb   r4, [r0], #1
    ldrsb   r5, [r1], #1
    add     r4, r4, r6
    add     r5, r5, r7
    vmov    s0, s1, r4, r5
    vcvt.f32.s32 s0, s0
    vcvt.f32.s32 s1, s1
    vmul.f32 s0, s0, s14
    vmul.f32 s1, s1, s15
    vadd.f32 s0, s0, s1
    vcvtr.s32.f32 s0, s0
    vmov    r9, s0
    qadd    r9, r9, r8
    ssat    r9, #8, r9
    strb    r9, [r2], #1
    subs    r3, r3, #1
    bne     3b
4:  pop     {r4-r12, pc}
    .size   whit_add_i8, . - whit_add_i8

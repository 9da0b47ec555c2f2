@ Clamps bytes. r0: where, r1: how many, r2: least, r3: greatest.

    .syntax unified
    .thumb
    .cpu cortex-m4

    .section .text.whit_clamp_i8, "ax", %progbits
    .global whit_clamp_i8
    .type   whit_clamp_i8, %function
    .thumb_func
    .p2align 2
whit_clamp_i8:
    push    {r4, r5}
    uxtb    r4, r2
    orr     r4, r4, r4, lsl #8
    orr     r4, r4, r4, lsl #16
    uxtb    r5, r3
    orr     r5, r5, r5, lsl #8
    orr     r5, r5, r5, lsl #16
    subs    r1, r1, #4
    blo     2f
1:  ldr     r12, [r0]
    ssub8   r2, r12, r4                 @ flags which bytes are at least r4
    sel     r12, r12, r4
    ssub8   r2, r5, r12
    sel     r12, r12, r5
    str     r12, [r0], #4
    subs    r1, r1, #4
    bhs     1b
2:  adds    r1, r1, #4
    beq     4f
3:  ldrb    r12, [r0]
    ssub8   r2, r12, r4
    sel     r12, r12, r4
    ssub8   r2, r5, r12
    sel     r12, r12, r5
    strb    r12, [r0], #1
    subs    r1, r1, #1
    bne     3b
4:  pop     {r4, r5}
    bx      lr
    .size   whit_clamp_i8, . - whit_clamp_i8

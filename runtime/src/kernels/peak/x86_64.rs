//! The loops in assembly, so that no compiler finds out that they compute nothing.

use core::arch::asm;
use core::arch::x86_64::*;

use super::Loop;
use crate::Isa;

/// Defines a function that repeats twelve times the same instruction, with a register of its own each, in a loop.
macro_rules! repeat {
    ($(#[$doc:meta])* $name:ident, $features:literal, [$($line:literal),+]) => {
        $(#[$doc])*
        fn $name(rounds: u64) {
            #[target_feature(enable = $features)]
            fn with_features(rounds: u64) {
                // SAFETY: only registers that are declared here change; no memory and no stack is used.
                unsafe {
                    asm!(
                        "test {n}, {n}",
                        "jz 3f",
                        "vzeroall",
                        "2:",
                        $($line,)+
                        "dec {n}",
                        "jnz 2b",
                        "3:",
                        n = inout(reg) rounds => _,
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                        out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                        out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                        options(nomem, nostack),
                    );
                }
            }
            // SAFETY: this function leaves its module only where the features are available.
            unsafe { with_features(rounds) }
        }
    };
}

repeat! {
    /// 12 × 8 fused multiply-adds: zeros, whose sums stay zeros.
    f32_avx2, "avx2,fma", [
        "vfmadd231ps ymm0, ymm14, ymm15", "vfmadd231ps ymm1, ymm14, ymm15", "vfmadd231ps ymm2, ymm14, ymm15",
        "vfmadd231ps ymm3, ymm14, ymm15", "vfmadd231ps ymm4, ymm14, ymm15", "vfmadd231ps ymm5, ymm14, ymm15",
        "vfmadd231ps ymm6, ymm14, ymm15", "vfmadd231ps ymm7, ymm14, ymm15", "vfmadd231ps ymm8, ymm14, ymm15",
        "vfmadd231ps ymm9, ymm14, ymm15", "vfmadd231ps ymm10, ymm14, ymm15", "vfmadd231ps ymm11, ymm14, ymm15"
    ]
}

repeat! {
    /// 6 × 16 products of i16 in pairs, each pair added to a sum.
    i8_avx2, "avx2", [
        "vpmaddwd ymm6, ymm14, ymm15", "vpaddd ymm0, ymm0, ymm6", "vpmaddwd ymm7, ymm14, ymm15", "vpaddd ymm1, ymm1, ymm7",
        "vpmaddwd ymm8, ymm14, ymm15", "vpaddd ymm2, ymm2, ymm8", "vpmaddwd ymm9, ymm14, ymm15", "vpaddd ymm3, ymm3, ymm9",
        "vpmaddwd ymm10, ymm14, ymm15", "vpaddd ymm4, ymm4, ymm10", "vpmaddwd ymm11, ymm14, ymm15", "vpaddd ymm5, ymm5, ymm11"
    ]
}

repeat! {
    /// 12 × 16 fused multiply-adds.
    f32_avx512, "avx512f", [
        "vfmadd231ps zmm0, zmm14, zmm15", "vfmadd231ps zmm1, zmm14, zmm15", "vfmadd231ps zmm2, zmm14, zmm15",
        "vfmadd231ps zmm3, zmm14, zmm15", "vfmadd231ps zmm4, zmm14, zmm15", "vfmadd231ps zmm5, zmm14, zmm15",
        "vfmadd231ps zmm6, zmm14, zmm15", "vfmadd231ps zmm7, zmm14, zmm15", "vfmadd231ps zmm8, zmm14, zmm15",
        "vfmadd231ps zmm9, zmm14, zmm15", "vfmadd231ps zmm10, zmm14, zmm15", "vfmadd231ps zmm11, zmm14, zmm15"
    ]
}

repeat! {
    /// 12 × 64 products of i8 in fours, each four added to a sum.
    i8_avx512, "avx512f,avx512vnni", [
        "vpdpbusd zmm0, zmm14, zmm15", "vpdpbusd zmm1, zmm14, zmm15", "vpdpbusd zmm2, zmm14, zmm15",
        "vpdpbusd zmm3, zmm14, zmm15", "vpdpbusd zmm4, zmm14, zmm15", "vpdpbusd zmm5, zmm14, zmm15",
        "vpdpbusd zmm6, zmm14, zmm15", "vpdpbusd zmm7, zmm14, zmm15", "vpdpbusd zmm8, zmm14, zmm15",
        "vpdpbusd zmm9, zmm14, zmm15", "vpdpbusd zmm10, zmm14, zmm15", "vpdpbusd zmm11, zmm14, zmm15"
    ]
}

repeat! {
    /// 12 × 32 products of i8 in fours, each four added to a sum.
    i8_avxvnni, "avx2,avxvnni", [
        "{{vex}} vpdpbusd ymm0, ymm14, ymm15", "{{vex}} vpdpbusd ymm1, ymm14, ymm15", "{{vex}} vpdpbusd ymm2, ymm14, ymm15",
        "{{vex}} vpdpbusd ymm3, ymm14, ymm15", "{{vex}} vpdpbusd ymm4, ymm14, ymm15", "{{vex}} vpdpbusd ymm5, ymm14, ymm15",
        "{{vex}} vpdpbusd ymm6, ymm14, ymm15", "{{vex}} vpdpbusd ymm7, ymm14, ymm15", "{{vex}} vpdpbusd ymm8, ymm14, ymm15",
        "{{vex}} vpdpbusd ymm9, ymm14, ymm15", "{{vex}} vpdpbusd ymm10, ymm14, ymm15", "{{vex}} vpdpbusd ymm11, ymm14, ymm15"
    ]
}

repeat! {
    /// 12 × 32 products of bf16 in pairs, each pair added to a sum.
    bf16_avx512, "avx512f,avx512bf16", [
        "vdpbf16ps zmm0, zmm14, zmm15", "vdpbf16ps zmm1, zmm14, zmm15", "vdpbf16ps zmm2, zmm14, zmm15",
        "vdpbf16ps zmm3, zmm14, zmm15", "vdpbf16ps zmm4, zmm14, zmm15", "vdpbf16ps zmm5, zmm14, zmm15",
        "vdpbf16ps zmm6, zmm14, zmm15", "vdpbf16ps zmm7, zmm14, zmm15", "vdpbf16ps zmm8, zmm14, zmm15",
        "vdpbf16ps zmm9, zmm14, zmm15", "vdpbf16ps zmm10, zmm14, zmm15", "vdpbf16ps zmm11, zmm14, zmm15"
    ]
}

/// Only where there is an instruction for it.
pub(super) fn multiply_add_bf16(isa: Isa) -> Option<Loop> {
    let is_there = isa == Isa::Avx512 && isa.is_available();
    let is_there = is_there && std::arch::is_x86_feature_detected!("avx512bf16");
    is_there.then_some(Loop { per_round: 12 * 32, run: bf16_avx512 })
}

pub(super) fn multiply_add_f32(isa: Isa) -> Option<Loop> {
    match isa {
        _ if !isa.is_available() => None,
        Isa::Avx2 | Isa::AvxVnni => Some(Loop { per_round: 12 * 8, run: f32_avx2 }),
        Isa::Avx512 => Some(Loop { per_round: 12 * 16, run: f32_avx512 }),
        _ => None,
    }
}

pub(super) fn multiply_add_i8(isa: Isa) -> Option<Loop> {
    match isa {
        _ if !isa.is_available() => None,
        Isa::Avx2 => Some(Loop { per_round: 6 * 16, run: i8_avx2 }),
        Isa::AvxVnni => Some(Loop { per_round: 12 * 32, run: i8_avxvnni }),
        Isa::Avx512 => Some(Loop { per_round: 12 * 64, run: i8_avx512 }),
        _ => None,
    }
}

/// Products that wait for each other: three cycles each on every x86-64 CPU since 2008.
pub(super) fn cycles() -> Loop {
    fn run(rounds: u64) {
        // SAFETY: only registers that are declared here change; no memory and no stack is used.
        unsafe {
            asm!(
                "test {n}, {n}",
                "jz 3f",
                "2:",
                "imul {x}, {x}", "imul {x}, {x}", "imul {x}, {x}", "imul {x}, {x}",
                "imul {x}, {x}", "imul {x}, {x}", "imul {x}, {x}", "imul {x}, {x}",
                "dec {n}",
                "jnz 2b",
                "3:",
                n = inout(reg) rounds => _,
                x = inout(reg) 3u64 => _,
                options(nomem, nostack),
            );
        }
    }
    Loop { per_round: 8 * 3, run }
}

/// Loads every byte of whole blocks of 256; whether this CPU has the instructions.
pub(super) fn load(bytes: &[u8]) -> bool {
    #[target_feature(enable = "avx2")]
    fn with_features(bytes: &[u8]) {
        let mut all = [_mm256_setzero_si256(); 4];
        for block in bytes.as_chunks::<256>().0 {
            for (at, vector) in block.as_chunks::<32>().0.iter().enumerate() {
                // SAFETY: the vector's 32 bytes.
                let vector = unsafe { _mm256_loadu_si256(vector.as_ptr().cast()) };
                all[at % 4] = _mm256_or_si256(all[at % 4], vector);
            }
        }
        core::hint::black_box(all);
    }
    if !Isa::Avx2.is_available() {
        return false;
    }
    // SAFETY: AVX2 is available.
    unsafe { with_features(bytes) };
    true
}

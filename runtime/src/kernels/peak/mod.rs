//! What a CPU can do at most: loops that do nothing but multiply and add, or load. They compute nothing; a profile compares
//! steps with them, as in the roofline model (Williams, Waterman and Patterson, 2009).
//!
//! The multiply-adds are those that the kernels of an instruction set are made of: `vpdpbusd` with AVX-512 VNNI, `vpmaddwd` and
//! `vpaddd` with AVX2, where exact products of i8 have to be widened first; on AArch64 `smull` to `sadalp`, `sdot` or
//! `smmla`; fused multiply-adds for f32; `vdpbf16ps` for bf16, where there is one. The scalar loops are what the compiler makes of plain Rust.

use core::hint::black_box;

use crate::Isa;

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod aarch64;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

/// A loop over registers.
#[derive(Clone, Copy, Debug)]
pub struct Loop {
    /// Multiply-adds, or cycles, of one round.
    pub per_round: u64,
    run: fn(u64),
}

impl Loop {
    /// Runs so many rounds.
    pub fn run(&self, rounds: u64) {
        (self.run)(rounds);
    }
}

/// Multiply-adds of i8 with sums in i32.
pub fn multiply_add_i8(isa: Isa) -> Loop {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    if let Some(found) = x86_64::multiply_add_i8(isa) {
        return found;
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    if let Some(found) = aarch64::multiply_add_i8(isa) {
        return found;
    }
    let _ = isa;
    Loop { per_round: 64, run: scalar_i8 }
}

/// Multiply-adds of f32.
pub fn multiply_add_f32(isa: Isa) -> Loop {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    if let Some(found) = x86_64::multiply_add_f32(isa) {
        return found;
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    if let Some(found) = aarch64::multiply_add_f32(isa) {
        return found;
    }
    let _ = isa;
    Loop { per_round: 64, run: scalar_f32 }
}

/// Multiply-adds of bf16 with sums in f32: those of f32 where there is no instruction for them.
pub fn multiply_add_bf16(isa: Isa) -> Loop {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    if let Some(found) = x86_64::multiply_add_bf16(isa) {
        return found;
    }
    multiply_add_f32(isa)
}

/// A loop whose rounds take a known number of cycles; `None` where no instruction is known to take the same time on all CPUs.
pub fn cycles() -> Option<Loop> {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    return Some(x86_64::cycles());
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    return Some(aarch64::cycles());
    #[cfg(not(any(
        all(target_arch = "x86_64", feature = "std"),
        all(target_arch = "aarch64", target_feature = "neon")
    )))]
    None
}

/// Loads every byte once, in order.
pub fn load(isa: Isa, bytes: &[u8]) {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    if isa >= Isa::Avx2 && x86_64::load(bytes) {
        return;
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    if isa >= Isa::Neon {
        return aarch64::load(bytes);
    }
    let _ = isa;
    let mut all = [0u64; 8];
    for block in bytes.chunks_exact(64) {
        for (lane, raw) in all.iter_mut().zip(block.as_chunks().0) {
            *lane |= u64::from_le_bytes(*raw);
        }
    }
    black_box(all);
}

fn scalar_i8(rounds: u64) {
    let (a, b) = (black_box([1i8; 16]), black_box([1i8; 16]));
    let mut sums = [0i32; 16];
    for _ in 0..rounds {
        let (a, b) = (black_box(a), b);
        for _ in 0..4 {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum = black_box(*sum).wrapping_add(i32::from(a) * i32::from(b));
            }
        }
    }
    black_box(sums);
}

fn scalar_f32(rounds: u64) {
    let (a, b) = (black_box([1f32; 16]), black_box([0f32; 16]));
    let mut sums = [0f32; 16];
    for _ in 0..rounds {
        for _ in 0..4 {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum += a * b;
            }
        }
    }
    black_box(sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_run_on_every_instruction_set_of_this_cpu() {
        let bytes = vec![1; 1000];
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for found in [multiply_add_i8(isa), multiply_add_f32(isa)] {
                assert!(found.per_round > 0);
                found.run(0);
                found.run(3);
            }
            load(isa, &bytes);
            load(isa, &[]);
        }
        cycles().iter().for_each(|cycles| cycles.run(10));
    }
}

//! A function of one i8 as a table of 256 numbers: `y = table[x + 128]`.

use crate::Isa;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(all(test, feature = "std"))]
mod tests;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

/// Entries of a table.
pub const LEN: usize = 256;

/// Replaces numbers by their entries.
pub type LutI8Fn = fn(&[i8; LEN], &mut [i8]);

/// The kernel for `isa`.
pub fn select(isa: Isa) -> LutI8Fn {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    if isa >= Isa::Avx512
        && let Some(kernel) = x86_64::lut_i8_avx512vbmi()
    {
        return kernel;
    }
    match isa {
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        _ if isa.has_avx2() && Isa::Avx2.is_available() => x86_64::lut_i8_avx2,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::Dotprod | Isa::I8mm if Isa::Neon.is_available() => aarch64::lut_i8_neon,
        _ => lut_i8_scalar,
    }
}

fn lut_i8_scalar(table: &[i8; LEN], values: &mut [i8]) {
    for value in values {
        *value = table[usize::from(*value as u8 ^ 0x80)];
    }
}

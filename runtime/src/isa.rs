//! Instruction sets: which ones this build has kernels for, and which of them this CPU can run.

use core::fmt;
#[cfg(feature = "std")]
use core::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that kernels are written for. Later values are preferred by [`Isa::detect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, the definition of every kernel. Runs everywhere.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// [`Isa::Avx2`] with the dot products of i8 in 256 bits, AVX-VNNI: x86-64 CPUs without AVX-512 since 2021.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// Arm Cortex-M with the DSP extension and a single-precision FPU: M4F, M7, M33, M55.
    CortexM,
    /// AArch64 with Advanced SIMD, which every such CPU has.
    Neon,
    /// [`Isa::Neon`] with the dot products of i8, `FEAT_DotProd`: Armv8.4 and most CPUs since 2017.
    Dotprod,
    /// [`Isa::Dotprod`] with the matrix products of i8, `FEAT_I8MM`: Armv8.6 and most server CPUs since 2020.
    I8mm,
}

impl Isa {
    /// Every instruction set, from the slowest to the fastest.
    pub const ALL: [Isa; 8] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::CortexM,
        Isa::Neon,
        Isa::Dotprod,
        Isa::I8mm,
    ];

    /// The name that `--isa` takes: `scalar`, `avx2`, `avxvnni`, `avx512`, `cortex-m`, `neon`, `dotprod`, `i8mm`.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::CortexM => "cortex-m",
            Isa::Neon => "neon",
            Isa::Dotprod => "dotprod",
            Isa::I8mm => "i8mm",
        }
    }

    /// The instruction set called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// Whether this CPU runs it. Without the `std` feature the CPU can't be asked: only
    /// [`Isa::Scalar`] is available then, on AArch64 [`Isa::Neon`], and on bare Arm targets with hardware floats (`eabihf`, but
    /// for the feature `no-dsp`) [`Isa::CortexM`].
    #[inline]
    pub fn is_available(self) -> bool {
        #[cfg(feature = "std")]
        return 1 << self as u8 & found() != 0;
        #[cfg(not(feature = "std"))]
        self.find()
    }

    /// The same, asked of the CPU.
    fn find(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Isa::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
            }
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Isa::AvxVnni => Isa::Avx2.find() && std::arch::is_x86_feature_detected!("avxvnni"),
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Isa::Avx512 => {
                Isa::Avx2.find()
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                    && std::arch::is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => cfg!(target_feature = "neon"),
            #[cfg(all(target_arch = "aarch64", feature = "std"))]
            Isa::Dotprod => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(all(target_arch = "aarch64", feature = "std"))]
            Isa::I8mm => Isa::Dotprod.find() && std::arch::is_aarch64_feature_detected!("i8mm"),
            #[cfg(all(target_os = "none", target_abi = "eabihf", not(feature = "no-dsp")))]
            Isa::CortexM => true,
            _ => false,
        }
    }

    /// Whether it is [`Isa::Avx2`] or has that and more.
    pub(crate) const fn has_avx2(self) -> bool {
        matches!(self, Isa::Avx2 | Isa::AvxVnni | Isa::Avx512)
    }

    /// The fastest instruction set that this CPU runs.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar)
    }

    /// Every instruction set that this CPU runs, the slowest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }
}

/// A bit for each instruction set that this CPU runs. Every step asks, and a small one takes little longer than asking for all
/// features of one.
#[cfg(feature = "std")]
#[inline]
fn found() -> u8 {
    /// None until the first time: [`Isa::Scalar`] is always among them.
    static FOUND: AtomicU8 = AtomicU8::new(0);
    match FOUND.load(Ordering::Relaxed) {
        0 => find_all(&FOUND),
        found => found,
    }
}

#[cfg(feature = "std")]
#[cold]
fn find_all(found: &AtomicU8) -> u8 {
    let bits = Isa::ALL.into_iter().filter(|isa| isa.find()).map(|isa| 1 << isa as u8);
    let bits = bits.fold(0, |all, bit| all | bit);
    found.store(bits, Ordering::Relaxed);
    bits
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

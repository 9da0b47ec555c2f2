//! The loops in assembly, so that no compiler finds out that they compute nothing.

use core::arch::asm;

use super::Loop;
use crate::Isa;

/// Defines a function that repeats the same instructions in a loop, with registers of their own.
macro_rules! repeat {
    ($(#[$doc:meta])* $name:ident, $features:literal, [$($line:literal),+]) => {
        $(#[$doc])*
        fn $name(rounds: u64) {
            #[target_feature(enable = $features)]
            fn with_features(rounds: u64) {
                // SAFETY: only registers that are declared here change; no memory and no stack is used.
                unsafe {
                    asm!(
                        "cbz {n}, 3f",
                        "movi v30.16b, #0",
                        "movi v31.16b, #0",
                        "2:",
                        $($line,)+
                        "subs {n}, {n}, #1",
                        "b.ne 2b",
                        "3:",
                        n = inout(reg) rounds => _,
                        out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _,
                        out("v6") _, out("v7") _, out("v8") _, out("v9") _, out("v10") _, out("v11") _,
                        out("v12") _, out("v13") _, out("v14") _, out("v15") _, out("v16") _, out("v17") _,
                        out("v30") _, out("v31") _,
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
    /// 6 × 16 products of i8, two added in i16, neighbours to a sum.
    i8_neon, "neon", [
        "smull v12.8h, v30.8b, v31.8b", "smlal2 v12.8h, v30.16b, v31.16b", "sadalp v0.4s, v12.8h",
        "smull v13.8h, v30.8b, v31.8b", "smlal2 v13.8h, v30.16b, v31.16b", "sadalp v1.4s, v13.8h",
        "smull v14.8h, v30.8b, v31.8b", "smlal2 v14.8h, v30.16b, v31.16b", "sadalp v2.4s, v14.8h",
        "smull v15.8h, v30.8b, v31.8b", "smlal2 v15.8h, v30.16b, v31.16b", "sadalp v3.4s, v15.8h",
        "smull v16.8h, v30.8b, v31.8b", "smlal2 v16.8h, v30.16b, v31.16b", "sadalp v4.4s, v16.8h",
        "smull v17.8h, v30.8b, v31.8b", "smlal2 v17.8h, v30.16b, v31.16b", "sadalp v5.4s, v17.8h"
    ]
}

#[cfg(feature = "std")]
repeat! {
    /// 12 × 16 products of i8 in fours, each four added to a sum.
    i8_dotprod, "neon,dotprod", [
        "sdot v0.4s, v30.16b, v31.4b[0]", "sdot v1.4s, v30.16b, v31.4b[1]", "sdot v2.4s, v30.16b, v31.4b[2]",
        "sdot v3.4s, v30.16b, v31.4b[3]", "sdot v4.4s, v30.16b, v31.4b[0]", "sdot v5.4s, v30.16b, v31.4b[1]",
        "sdot v6.4s, v30.16b, v31.4b[2]", "sdot v7.4s, v30.16b, v31.4b[3]", "sdot v8.4s, v30.16b, v31.4b[0]",
        "sdot v9.4s, v30.16b, v31.4b[1]", "sdot v10.4s, v30.16b, v31.4b[2]", "sdot v11.4s, v30.16b, v31.4b[3]"
    ]
}

#[cfg(feature = "std")]
repeat! {
    /// 12 × 32 products of i8 in eights, each eight added to a sum.
    i8_i8mm, "neon,i8mm", [
        "smmla v0.4s, v30.16b, v31.16b", "smmla v1.4s, v30.16b, v31.16b", "smmla v2.4s, v30.16b, v31.16b",
        "smmla v3.4s, v30.16b, v31.16b", "smmla v4.4s, v30.16b, v31.16b", "smmla v5.4s, v30.16b, v31.16b",
        "smmla v6.4s, v30.16b, v31.16b", "smmla v7.4s, v30.16b, v31.16b", "smmla v8.4s, v30.16b, v31.16b",
        "smmla v9.4s, v30.16b, v31.16b", "smmla v10.4s, v30.16b, v31.16b", "smmla v11.4s, v30.16b, v31.16b"
    ]
}

pub(super) fn multiply_add_i8(isa: Isa) -> Option<Loop> {
    match isa {
        _ if !isa.is_available() => None,
        Isa::Neon => Some(Loop { per_round: 6 * 16, run: i8_neon }),
        #[cfg(feature = "std")]
        Isa::Dotprod => Some(Loop { per_round: 12 * 16, run: i8_dotprod }),
        #[cfg(feature = "std")]
        Isa::I8mm => Some(Loop { per_round: 12 * 32, run: i8_i8mm }),
        _ => None,
    }
}

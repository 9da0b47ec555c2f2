//! The sums in plain Rust.

use super::GateSums;
use crate::kernels::{PANEL_K, PANEL_N};

fn add_product(sum: i32, x: i8, w: i8) -> i32 {
    sum.wrapping_add(i32::from(x) * i32::from(w))
}

/// Over panels.
pub(super) fn gate_sums_scalar(args: &mut GateSums<'_>) {
    let panel_bytes = args.check();
    for (n, sum) in args.sums.iter_mut().enumerate() {
        let panel = &args.weights[n / PANEL_N * panel_bytes..];
        *sum = args.bias[n];
        for (k, x) in args.x.iter().enumerate() {
            let w = panel[(k / PANEL_K * PANEL_N + n % PANEL_N) * PANEL_K + k % PANEL_K];
            *sum = add_product(*sum, *x, w);
        }
    }
}

/// Over dense weights, on every instruction set.
pub fn gate_sums_dense(args: &mut GateSums<'_>) {
    let k = args.x.len();
    for (n, sum) in args.sums.iter_mut().enumerate() {
        let products = args.x.iter().zip(&args.weights[n * k..(n + 1) * k]);
        *sum = products.fold(args.bias[n], |sum, (x, w)| add_product(sum, *x, *w));
    }
}

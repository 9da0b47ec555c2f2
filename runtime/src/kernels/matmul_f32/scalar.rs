//! Float matrix product in plain Rust: the formula, summed in f32 in the order of k.

use super::MatMulF32;

/// See [`MatMulF32`].
pub(super) fn matmul_f32_scalar(args: &mut MatMulF32<'_>) {
    args.check();
    let (m, k, n) = (args.m, args.k, args.n);
    for i in 0..m {
        for j in 0..n {
            let mut sum = 0.0;
            for l in 0..k {
                let a = if args.trans_a { args.a[l * m + i] } else { args.a[i * k + l] };
                let b = if args.trans_b { args.b[j * k + l] } else { args.b[l * n + j] };
                sum += a * b;
            }
            args.output[i * n + j] = sum;
        }
    }
}

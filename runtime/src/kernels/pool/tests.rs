use super::{
    PoolGeometry, PoolI8, Taps, average_f32, average_quantized, average_stored_i8, max_f32,
    max_quantized,
};
use crate::ops::testing::Random;

/// A window by its definition: every tap, inside or not.
fn window(g: &PoolGeometry, oy: usize, ox: usize) -> (Vec<[usize; 2]>, usize) {
    let (mut inside, mut padded) = (vec![], 0);
    for ky in 0..g.kernel[0] {
        for kx in 0..g.kernel[1] {
            let y = (oy * g.stride[0] + ky * g.dilation[0]) as i64 - g.pad[0] as i64;
            let x = (ox * g.stride[1] + kx * g.dilation[1]) as i64 - g.pad[1] as i64;
            let fits = |v: i64, axis: usize| (0..g.input[axis] as i64).contains(&v);
            if fits(y, 0) && fits(x, 1) {
                inside.push([y as usize, x as usize]);
            }
            let end = |axis: usize| (g.input[axis] + g.pad_after[axis]) as i64;
            padded += usize::from(y < end(0) && x < end(1));
        }
    }
    let count = if g.count_include_pad { padded } else { inside.len() };
    (inside, count)
}

fn geometry(random: &mut Random) -> PoolGeometry {
    let mut pair =
        |low: u32, high: u32| [0; 2].map(|_| (low + random.below(high - low + 1)) as usize);
    PoolGeometry {
        batch: 1 + pair(0, 1)[0],
        input: pair(1, 7),
        output: pair(1, 5),
        channels: [1, 3, 31, 32, 33, 70][pair(0, 5)[0]],
        kernel: pair(1, 4),
        stride: pair(1, 3),
        dilation: pair(1, 2),
        pad: pair(0, 3),
        pad_after: pair(0, 3),
        count_include_pad: pair(0, 1)[0] == 1,
    }
}

#[test]
fn agrees_with_the_definition() {
    let mut random = Random(7);
    for _ in 0..300 {
        let g = geometry(&mut random);
        let input_len = g.batch * g.input[0] * g.input[1] * g.channels;
        let output_len = g.batch * g.output[0] * g.output[1] * g.channels;
        let (xf, xq) = (random.f32s(input_len), random.i8s(input_len));
        let plain = PoolI8 { input_zero_point: -3, zero_point: -3, scale: 1.0, min: -100, max: 90 };
        let rescaled =
            PoolI8 { input_zero_point: -3, zero_point: 5, scale: 0.37, min: -128, max: 127 };
        for to in [plain, rescaled] {
            let mut got_f = [vec![0.0; output_len], vec![0.0; output_len]];
            let mut got_q = [vec![0; output_len], vec![0; output_len], vec![0; output_len]];
            max_f32(&g, &xf, &mut got_f[0]);
            average_f32(&g, &xf, &mut got_f[1]);
            max_quantized(&g, &to, &xq, &mut got_q[0]);
            average_quantized(&g, &to, &xq, &mut got_q[1]);
            average_stored_i8(&g, &to, &xq, &mut got_q[2]);
            for index in 0..output_len {
                let (pixel, channel) = (index / g.channels, index % g.channels);
                let (row, ox) = (pixel / g.output[1], pixel % g.output[1]);
                let (n, oy) = (row / g.output[0], row % g.output[0]);
                let (inside, count) = window(&g, oy, ox);
                let at = |p: &[usize; 2]| {
                    ((n * g.input[0] + p[0]) * g.input[1] + p[1]) * g.channels + channel
                };
                let max = inside.iter().map(|p| xf[at(p)]).fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(got_f[0][index], max, "{g:?}");
                let sum: f64 = inside.iter().map(|p| f64::from(xf[at(p)])).sum();
                let average = sum / count.max(1) as f64;
                assert!((f64::from(got_f[1][index]) - average).abs() < 1e-6, "{g:?}");
                let put = |real: f32| {
                    (real.round_ties_even() as i32 + to.zero_point).clamp(to.min, to.max) as i8
                };
                let max = inside.iter().map(|p| xq[at(p)]).max().unwrap_or(-128);
                assert_eq!(got_q[0][index], put(f32::from(i16::from(max) + 3) * to.scale), "{g:?}");
                let acc: i32 = inside.iter().map(|p| i32::from(xq[at(p)]) + 3).sum();
                let want = put(acc as f32 * (to.scale / count.max(1) as f32));
                assert_eq!(got_q[1][index], want, "{g:?}");
                // f64 holds the halves; its rounding takes them away from zero.
                let sum: f64 = inside.iter().map(|p| f64::from(xq[at(p)])).sum();
                let average = (sum / count.max(1) as f64).round() as i32;
                assert_eq!(got_q[2][index], average.clamp(to.min, to.max) as i8, "{g:?}");
            }
        }
    }
}

#[test]
fn huge_windows_are_clipped() {
    let g = PoolGeometry {
        batch: 1,
        input: [3, 3],
        output: [2, 2],
        channels: 1,
        kernel: [65535, 65535],
        stride: [65535, 1],
        dilation: [1, 65535],
        pad: [65535, 0],
        pad_after: [65535, 65535],
        count_include_pad: true,
    };
    assert_eq!(g.taps(0, 0), Taps { first: 0, inside: 0, counted: 65535 });
    assert_eq!(g.taps(0, 1), Taps { first: 0, inside: 3, counted: 65535 });
    assert_eq!(g.taps(1, 0), Taps { first: 0, inside: 1, counted: 2 });
}

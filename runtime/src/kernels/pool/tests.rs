use super::{
    ConvGeometry, PoolGeometry, PoolI8, PoolI8Fn, Taps, select_average_f32, select_average_i8,
    select_average_stored_i8, select_max_f32, select_max_i8,
};
use crate::Isa;
use crate::kernels::shapes::{CONVOLUTION, Family};
use crate::kernels::testing::{Output, placed};
use crate::ops::testing::Random;

/// A window by its definition: every tap, inside or not.
fn window(g: &PoolGeometry, oy: usize, ox: usize) -> (Vec<[usize; 2]>, usize) {
    let (mut inside, mut padded) = (vec![], 0);
    let w = &g.windows;
    for ky in 0..w.kernel_h {
        for kx in 0..w.kernel_w {
            let y = (oy * w.stride_h + ky * w.dilation_h) as i64 - w.pad_top as i64;
            let x = (ox * w.stride_w + kx * w.dilation_w) as i64 - w.pad_left as i64;
            if (0..w.in_h as i64).contains(&y) && (0..w.in_w as i64).contains(&x) {
                inside.push([y as usize, x as usize]);
            }
            let [below, right] = g.pad_after;
            padded += usize::from(y < (w.in_h + below) as i64 && x < (w.in_w + right) as i64);
        }
    }
    let count = if g.count_include_pad { padded } else { inside.len() };
    (inside, count)
}

fn geometry(random: &mut Random) -> PoolGeometry {
    let mut size = |low: u32, high: u32| (low + random.below(high - low + 1)) as usize;
    let channels = [1, 3, 32, 63, 64, 65, 150][size(0, 6)];
    PoolGeometry {
        windows: ConvGeometry {
            batch: size(1, 2),
            in_h: size(1, 7),
            in_w: size(1, 7),
            in_c: channels,
            out_h: size(1, 5),
            out_w: size(1, 5),
            out_c: channels,
            kernel_h: size(1, 4),
            kernel_w: size(1, 4),
            stride_h: size(1, 3),
            stride_w: size(1, 3),
            dilation_h: size(1, 2),
            dilation_w: size(1, 2),
            pad_top: size(0, 3),
            pad_left: size(0, 3),
            groups: channels,
        },
        pad_after: [size(0, 3), size(0, 3)],
        count_include_pad: size(0, 1) == 1,
    }
}

/// Every kind of pooling of random numbers, against the definition.
fn check(g: &PoolGeometry, offset: usize, random: &mut Random) {
    let ConvGeometry { in_h, in_w, out_h, out_w, out_c: channels, .. } = g.windows;
    let (input_len, output_len) = (g.windows.input_len(), g.windows.out_pixels() * channels);
    let (xf, xq) = (random.f32s(input_len), random.i8s(input_len));
    let (placed_f, placed_q) = (placed(&xf, offset), placed(&xq, offset));
    let (input_f, input_q) = (&placed_f[offset..], &placed_q[offset..]);
    let plain = PoolI8 { input_zero_point: -3, zero_point: -3, scale: 1.0, min: -100, max: 90 };
    let rescaled = PoolI8 { input_zero_point: -3, zero_point: 5, scale: 0.37, min: -128, max: 127 };
    for to in [plain, rescaled] {
        let floats = |kernel: fn(&PoolGeometry, &[f32], &mut [f32])| {
            let mut y = Output::new(output_len, offset, 12345.0);
            kernel(g, input_f, y.get());
            y.written()
        };
        let integers = |kernel: PoolI8Fn| {
            let mut y = Output::new(output_len, offset, 85);
            kernel(g, &to, input_q, y.get());
            y.written()
        };
        let of_isa = |isa| [floats(select_max_f32(isa)), floats(select_average_f32(isa))];
        let got_f = of_isa(Isa::Scalar);
        for isa in Isa::available() {
            assert_eq!(got_f, of_isa(isa), "{g:?} on {isa}");
        }
        let of_isa = |isa| {
            [
                integers(select_max_i8(isa)),
                integers(select_average_i8(isa)),
                integers(select_average_stored_i8(isa)),
            ]
        };
        let got_q = of_isa(Isa::Scalar);
        for isa in Isa::available() {
            assert_eq!(got_q, of_isa(isa), "{g:?} on {isa}");
        }
        for index in 0..output_len {
            let (pixel, channel) = (index / channels, index % channels);
            let (row, ox) = (pixel / out_w, pixel % out_w);
            let (n, oy) = (row / out_h, row % out_h);
            let (inside, count) = window(g, oy, ox);
            let at = |p: &[usize; 2]| ((n * in_h + p[0]) * in_w + p[1]) * channels + channel;
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

/// `groups` above 1 stand for counting the padding.
const FAMILY: Family = Family {
    name: "pool",
    fields: CONVOLUTION,
    work: |shape| shape.depthwise_work() * 10,
    check: |shape| {
        let windows = shape.depthwise().geometry();
        let pad_after = [shape.get("pad_bottom"), shape.get("pad_right")];
        let count_include_pad = shape.get("groups") > 1;
        let geometry = PoolGeometry { windows, pad_after, count_include_pad };
        if windows.out_pixels() > 0 {
            check(&geometry, shape.get("offset"), &mut Random(shape.seed as u32 | 1));
        }
    },
};

#[test]
fn kept_shapes() {
    FAMILY.replay();
}

#[test]
#[ignore = "a search"]
fn search_shapes() {
    FAMILY.search();
}

#[test]
fn agrees_with_the_definition() {
    let mut random = Random(7);
    for at in 0..if cfg!(miri) { 10 } else { 300 } {
        check(&geometry(&mut random), at % 3, &mut random);
    }
}

#[test]
fn huge_windows_are_clipped() {
    let g = PoolGeometry {
        windows: ConvGeometry {
            in_h: 3,
            in_w: 3,
            out_h: 2,
            out_w: 2,
            kernel_h: 65535,
            kernel_w: 65535,
            stride_h: 65535,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 65535,
            pad_top: 65535,
            pad_left: 0,
            ..ConvGeometry::matmul(1, 1, 1)
        },
        pad_after: [65535, 65535],
        count_include_pad: true,
    };
    assert_eq!(g.rows(0), Taps { first: 0, inside: 0, counted: 65535 });
    assert_eq!(g.rows(1), Taps { first: 0, inside: 3, counted: 65535 });
    assert_eq!(g.columns(0), Taps { first: 0, inside: 1, counted: 2 });
}

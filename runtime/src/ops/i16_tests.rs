//! The i16 variants of operators beside their formulas.

use super::testing::{Case, Random, Tensor, Typed, assert_close, shape, tensor};
use crate::dtype::DType;
use crate::format::{
    BinaryAttributes, BinaryOp, Field, Op, PoolAttributes, QuantizeAttributes, ReduceAttributes,
    ReduceOp, ResizeAttributes, SoftmaxAttributes, UnaryAttributes, UnaryOp,
};

const I16: Option<DType> = Some(DType::I16);

fn numbers(random: &mut Random, len: usize) -> Vec<i16> {
    let edges = [i16::MIN, i16::MAX, 0, -1, 1];
    (0..len).map(|at| edges.get(at).copied().unwrap_or(random.next() as i16)).collect()
}

fn rounded(real: f32, low: i32, high: i32) -> i16 {
    real.round_ties_even().clamp(low as f32, high as f32) as i16
}

fn run<T: Typed>(op: Op, attributes: impl Field, inputs: &[Tensor], y: Tensor) -> Vec<T> {
    Case::new(op, I16, attributes, inputs, y).run()
}

#[test]
fn reals_and_back() {
    let x = [-2.25f32, 1.25, 0.0, 1e9, -1e9, f32::INFINITY, 16383.5];
    let y = shape(DType::I16, &[7]).quantized(0.5, 0);
    let got: Vec<i16> = run(Op::Quantize, QuantizeAttributes::default(), &[tensor(&[7], &x)], y);
    assert_eq!(got, [-4, 2, 0, 32767, -32768, 32767, 32767]);
    let x = tensor(&[3], &[-32768i16, 3, 32767]).quantized(0.5, 0);
    let y = shape(DType::F32, &[3]);
    let got = run(Op::Dequantize, QuantizeAttributes::default(), &[x], y);
    assert_close(&got, &[-16384.0, 1.5, 16383.5], 0.0);
    let x = tensor(&[3], &[i32::MIN, 3, 1 << 24]).quantized(0.25, 0);
    let y = shape(DType::F32, &[3]);
    let attributes = QuantizeAttributes::default();
    let got = Case::new(Op::Dequantize, Some(DType::I32), attributes, &[x], y).run();
    assert_close(&got, &[-536_870_912.0, 0.75, 4_194_304.0], 0.0);
}

#[test]
fn binary_and_unary_follow_their_formulas() {
    let mut random = Random(5);
    let (a, b) = (numbers(&mut random, 300), numbers(&mut random, 301)[1..].to_vec());
    let inputs = [tensor(&[300], &a).quantized(1.0, 0), tensor(&[300], &b).quantized(1.0, 0)];
    for kind in [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Min, BinaryOp::Max] {
        let scale = if kind == BinaryOp::Mul { [3.1e-5, 0.0] } else { [0.71f32, 0.43] };
        let attributes = BinaryAttributes {
            kind: kind as u32,
            scale,
            clamp_q: [-32000, 31000],
            ..BinaryAttributes::default()
        };
        let got: Vec<i16> = run(Op::Binary, attributes, &inputs, shape(DType::I16, &[300]));
        for at in 0..300 {
            let (x, z) = (i32::from(a[at]), i32::from(b[at]));
            let (ra, rb) = (x as f32 * scale[0], z as f32 * scale[1]);
            let real = match kind {
                BinaryOp::Add => ra + rb,
                BinaryOp::Sub => ra - rb,
                BinaryOp::Mul => (x * z) as f32 * scale[0],
                BinaryOp::Min => ra.min(rb),
                _ => ra.max(rb),
            };
            assert_eq!(got[at], rounded(real, -32000, 31000), "{kind:?} of {x} and {z}");
        }
    }
    let unary = |kind: UnaryOp, alpha: f32, beta: f32| {
        let attributes = UnaryAttributes { kind: kind as u32, alpha, beta, reserved: 0 };
        run::<i16>(Op::Unary, attributes, &inputs[..1], shape(DType::I16, &[300]))
    };
    let (leaky, clipped) =
        (unary(UnaryOp::LeakyRelu, 1.3, 0.17), unary(UnaryOp::Clip, -77.0, 1000.0));
    for at in 0..300 {
        let x = f32::from(a[at]);
        let want = rounded(x * if x < 0.0 { 0.17 } else { 1.3 }, -32768, 32767);
        assert_eq!((leaky[at], clipped[at]), (want, a[at].clamp(-77, 1000)), "{x}");
    }
}

#[test]
fn tables_are_joined_by_lines() {
    let mut random = Random(9);
    let x = numbers(&mut random, 400);
    for bits in [1, 4, 9, 16] {
        let intervals = 1u32 << bits;
        // A table of any numbers, and one of the numbers themselves.
        for identity in [false, true] {
            let entry = |random: &mut Random, at: u32| {
                let place = i64::from(at) * i64::from(65536 / intervals) - 32768;
                if identity { place.min(32767) as i16 } else { random.next() as i16 }
            };
            let table: Vec<i16> = (0..=intervals).map(|at| entry(&mut random, at)).collect();
            let inputs = [tensor(&[400], &x), tensor(&[intervals + 1], &table).constant()];
            let got: Vec<i16> = run(Op::Lut, [0u8; 0], &inputs, shape(DType::I16, &[400]));
            for (x, got) in x.iter().zip(got) {
                let width = f64::from(65536 / intervals);
                let place = f64::from(i32::from(*x) + 32768) / width;
                let at = place.floor();
                let (low, high) = (table[at as usize], table[at as usize + 1]);
                let line = f64::from(high) - f64::from(low);
                let want = f64::from(low) + (line * (place - at) + 0.5).floor();
                assert_eq!(f64::from(got), want, "{x} of {intervals}");
                assert!(!identity || (i32::from(got) - i32::from(*x)).abs() <= 1);
            }
        }
    }
    for entries in [1u32, 2, 4, 256, 258] {
        let inputs = [tensor(&[1], &[3i16]), tensor(&[entries], &vec![0i16; entries as usize])];
        let case = Case::new(Op::Lut, I16, [0u8; 0], &inputs, shape(DType::I16, &[1]));
        assert!(case.run_bytes().is_err(), "{entries} entries");
    }
}

#[test]
fn pools_and_reductions() {
    let x = [5i16, -7, 32767, -32768, 100, 101, 9, 8];
    let pool = |kind| PoolAttributes {
        kind,
        kernel: [1, 2],
        stride: [1, 2],
        dilation: [1, 1],
        scale: 0.5,
        clamp_q: [-32768, 32767],
        ..PoolAttributes::default()
    };
    let input = tensor(&[1, 1, 8, 1], &x).quantized(1.0, 0);
    let y = || shape(DType::I16, &[1, 1, 4, 1]).quantized(2.0, 0);
    // Halves go to the even number: 16383.5, 50.5, 4.5.
    let max: Vec<i16> = run(Op::Pool2d, pool(1), std::slice::from_ref(&input), y());
    assert_eq!(max, [2, 16384, 50, 4]);
    let mean: Vec<i16> = run(Op::Pool2d, pool(2), std::slice::from_ref(&input), y());
    assert_eq!(mean, [0, 0, 50, 4]);
    let reduce = |kind: ReduceOp| ReduceAttributes {
        kind: kind as u32,
        axes: 2,
        scale: 0.5,
        clamp_q: [-32768, 32767],
        reserved: 0,
    };
    let input = tensor(&[2, 4], &x).quantized(1.0, 0);
    for (kind, want) in
        [(ReduceOp::Mean, [0, 27]), (ReduceOp::Max, [16384, 50]), (ReduceOp::Min, [-16384, 4])]
    {
        let y = shape(DType::I16, &[2]).quantized(2.0, 0);
        let got: Vec<i16> = run(Op::Reduce, reduce(kind), std::slice::from_ref(&input), y);
        assert_eq!(got, want, "{kind:?}");
    }
    let resize = ResizeAttributes {
        mode: 2,
        coordinates: 1,
        scales: [1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        ..ResizeAttributes::default()
    };
    let x = tensor(&[1, 2], &[-32768i16, 32767]).quantized(1.0, 0);
    let y = shape(DType::I16, &[1, 4]).quantized(1.0, 0);
    let got: Vec<i16> = run(Op::Resize, resize, &[x], y);
    assert_eq!(got, [-32768, -16384, 16383, 32767]);
}

#[test]
fn softmax_is_within_a_step() {
    let mut random = Random(3);
    let scale = 0.0007f64;
    let entry = |d: f64| (f64::exp(-d * scale) * f64::from(1 << 30)).round() as i32;
    let table: Vec<i32> = (0..256)
        .map(|h| entry(f64::from(h) * 256.0))
        .chain((0..256).map(|l| entry(f64::from(l))))
        .collect();
    let x = numbers(&mut random, 60);
    let attributes =
        SoftmaxAttributes { axis: 1, log: 0, inverse_output_scale: 32768.0, reserved: 0 };
    let inputs = [tensor(&[6, 10], &x), tensor(&[512], &table).constant()];
    let got: Vec<i16> = run(Op::Softmax, attributes, &inputs, shape(DType::I16, &[6, 10]));
    for (row, got) in x.chunks(10).zip(got.chunks(10)) {
        let max = f64::from(*row.iter().max().unwrap());
        let powers: Vec<f64> = row.iter().map(|x| ((f64::from(*x) - max) * scale).exp()).collect();
        let sum: f64 = powers.iter().sum();
        for (power, got) in powers.iter().zip(got) {
            let want = (power / sum * 32768.0).min(32767.0);
            // Half a step, and the roundings of two tables and of f32.
            assert!((f64::from(*got) - want).abs() < 0.51, "{got} {want}");
        }
    }
}

//! GPTQ beside the paper's own formulation, with explicit inverses.

use whit::DType;
use whit::kernels::conv_f32::grouped::NONLINEAR;

use crate::graph::Clamp;
use crate::quantize::codebook::Codebook;
use crate::quantize::improve::Improvement;
use crate::quantize::improve::gptq::{DAMPING, Moment, prepare, rounded};
use crate::quantize::numbers::{GroupedBits, Numbers};
use crate::quantize::weights::{Scales, Weights};
use crate::tensor::Tensor;

use super::{Build, conv, improved, inputs, matmul, quantize, values};

/// Rows of inputs that depend on each other.
fn rows(len: usize, count: usize) -> Vec<Vec<f32>> {
    let mut build = Build::new(11);
    (0..count)
        .map(|_| {
            let common = build.reals(3);
            let mut row = build.reals(len);
            for (at, x) in row.iter_mut().enumerate() {
                *x = 0.5 * *x + common[at % 3] + 0.2;
            }
            row
        })
        .collect()
}

/// Inverse by Gauss and Jordan, with pivots.
fn inverse(mut a: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = a.len();
    let mut b: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for i in 0..n {
        let pivot = (i..n).max_by(|p, q| a[*p][i].abs().total_cmp(&a[*q][i].abs())).expect("rows");
        a.swap(i, pivot);
        b.swap(i, pivot);
        let scale = a[i][i];
        a[i].iter_mut().chain(&mut b[i]).for_each(|x| *x /= scale);
        for j in (0..n).filter(|j| *j != i) {
            let factor = a[j][i];
            let (ai, bi) = (a[i].clone(), b[i].clone());
            a[j].iter_mut().zip(ai).for_each(|(x, y)| *x -= factor * y);
            b[j].iter_mut().zip(bi).for_each(|(x, y)| *x -= factor * y);
        }
    }
    b
}

/// The paper's update, equation 2: the weights left change by `−(w − q) / [H⁻¹]₀₀ · [H⁻¹]₀`, and H loses its first row and
/// column. Gives the rounded row.
fn one_by_one(
    mut weights: Vec<f64>,
    mut h: Vec<Vec<f64>>,
    group: usize,
    scale: impl Fn(&[f64], usize) -> f64,
    integers: &[i8],
) -> Vec<f64> {
    let mut result = Vec::new();
    let mut current = 0.0;
    for k in 0..weights.len() {
        let left = &weights[k..];
        if k % group == 0 {
            current = scale(&left[..group.min(left.len())], k);
        }
        let away = |q: &f64| (left[0] - q * current).abs();
        let products = integers.iter().map(|q| f64::from(*q));
        let q = products.min_by(|a, b| away(a).total_cmp(&away(b))).expect("integers") * current;
        let inverted = inverse(h.clone());
        let error = (left[0] - q) / inverted[0][0];
        for (w, column) in weights[k..].iter_mut().zip(&inverted[0]) {
            *w -= error * column;
        }
        result.push(q);
        h = h[1..].iter().map(|row| row[1..].to_vec()).collect();
    }
    result
}

/// The damped second moment, by its formula.
fn moment(rows: &[Vec<f32>]) -> Vec<Vec<f64>> {
    let n = rows[0].len();
    let sum = |i: usize, j: usize| -> f64 {
        rows.iter().map(|row| f64::from(row[i]) * f64::from(row[j])).sum()
    };
    let mut h: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| sum(i, j)).collect()).collect();
    let mean = (0..n).map(|i| h[i][i]).sum::<f64>() / n as f64;
    (0..n).for_each(|i| h[i][i] += DAMPING * mean);
    h
}

#[test]
fn weights_are_those_of_the_paper() {
    struct Case {
        inputs: usize,
        outputs: usize,
        numbers: Numbers,
        axis: usize,
    }
    let case = |inputs, outputs, numbers, axis| Case { inputs, outputs, numbers, axis };
    let cases = [
        case(1, 3, Numbers::Grouped { bits: GroupedBits::W4, group: 32 }, 0),
        case(5, 2, Numbers::Int8, 1),
        case(40, 3, Numbers::Grouped { bits: GroupedBits::W4, group: 32 }, 0),
        case(40, 3, Numbers::Grouped { bits: GroupedBits::W4, group: 32 }, 1),
        case(70, 2, Numbers::Grouped { bits: GroupedBits::W8, group: 32 }, 1),
        case(70, 2, Numbers::Grouped { bits: GroupedBits::W5, group: 32 }, 0),
        case(40, 3, Numbers::Grouped { bits: GroupedBits::W4Nl, group: 32 }, 0),
        case(70, 3, Numbers::Grouped { bits: GroupedBits::W4Nl, group: 64 }, 1),
        case(70, 35, Numbers::Int8, 0),
    ];
    for Case { inputs: n, outputs, numbers, axis } in cases {
        let what = format!("{n} inputs, {outputs} outputs, {numbers}, axis {axis}");
        let rows = rows(n, 3 * n + 20);
        let mut build = Build::new(12);
        let shape = if axis == 0 { [outputs, n] } else { [n, outputs] };
        let real = Tensor::from_f32(shape, &build.reals(n * outputs));
        let old = Weights::of(&real, axis, numbers, 1.0, None).expect("integers");
        let mut sums = Moment::new(n);
        rows.iter().for_each(|row| sums.push(row));
        sums.flush();
        let got = rounded(&real, &old, &prepare(vec![sums], false)).to_f32();

        let (reals, h) = (real.to_f32(), moment(&rows));
        let before = old.to_f32();
        let mut better = 0;
        for output in 0..outputs {
            let at = |k: usize| if axis == 0 { output * n + k } else { k * outputs + output };
            let row: Vec<f64> = (0..n).map(|k| f64::from(reals[at(k)])).collect();
            let channels: Vec<i8> = (-127..=127).collect();
            let (group, bits, integers) = match numbers {
                Numbers::Grouped { bits, group } => {
                    let integers = match bits {
                        GroupedBits::W8 => channels,
                        GroupedBits::W6 => (-32..=31).collect(),
                        GroupedBits::W5 => (-16..=15).collect(),
                        GroupedBits::W4 => (-8..=7).collect(),
                        GroupedBits::W4Nl => NONLINEAR.to_vec(),
                    };
                    (group, bits, integers)
                }
                _ => (n, GroupedBits::W8, channels),
            };
            let scale = |left: &[f64], _: usize| match &old.scales {
                Scales::PerChannel(quant) => f64::from(quant.scale[output]),
                Scales::Groups(_) => {
                    let left: Vec<f32> = left.iter().map(|x| *x as f32).collect();
                    f64::from(Codebook::of(bits, false).group_scale(&left).to_f32())
                }
            };
            let expected = one_by_one(row.clone(), h.clone(), group, scale, &integers);
            let error = |rounded: &dyn Fn(usize) -> f64| -> f64 {
                let e: Vec<f64> = (0..n).map(|k| row[k] - rounded(k)).collect();
                let of = |i: usize| (0..n).map(|j| e[i] * h[i][j] * e[j]).sum::<f64>();
                (0..n).map(of).sum()
            };
            let nearest = error(&|k| f64::from(before[at(k)]));
            // Where it is worse than the nearest integers, those stay.
            let want = |k: usize| match error(&|k| expected[k]) < nearest {
                true => expected[k],
                false => f64::from(before[at(k)]),
            };
            for k in 0..n {
                let (want, got) = (want(k), f64::from(got[at(k)]));
                assert!((want - got).abs() < 1e-5, "{what}: {output} {k}: {want} {got}");
            }
            better += usize::from(error(&|k| f64::from(got[at(k)])) < nearest);
        }
        assert!(n == 1 || better > 0, "{what}: nothing got better");
    }
}

#[test]
fn another_order_keeps_the_scales_and_lowers_the_error() {
    let (n, outputs) = (64, 8);
    let mut rows = rows(n, 300);
    rows.iter_mut().flat_map(|row| row.iter_mut().skip(50)).for_each(|x| *x *= 6.0);
    let real = Tensor::from_f32([outputs, n], &Build::new(13).reals(n * outputs));
    let old =
        Weights::of(&real, 0, Numbers::Grouped { bits: GroupedBits::W4, group: 32 }, 1.0, None)
            .expect("integers");
    let mut sums = Moment::new(n);
    rows.iter().for_each(|row| sums.push(row));
    sums.flush();
    let got = rounded(&real, &old, &prepare(vec![sums], true));
    assert_eq!(got.scales, old.scales);
    let error = |weights: &Weights| -> f64 {
        let (reals, rounded) = (real.to_f32(), weights.to_f32());
        let of = |row: &Vec<f32>, output: usize| -> f64 {
            let e = |k: usize| f64::from(reals[output * n + k] - rounded[output * n + k]);
            (0..n).map(|k| e(k) * f64::from(row[k])).sum::<f64>().powi(2)
        };
        rows.iter().map(|row| (0..outputs).map(|o| of(row, o)).sum::<f64>()).sum()
    };
    let (before, after) = (error(&old), error(&got));
    assert!(after < 0.7 * before, "{before} {after}");
}

#[test]
fn moments_without_information_change_nothing() {
    let real = Tensor::from_f32([2, 4], &Build::new(14).reals(8));
    for numbers in [Numbers::Int8, Numbers::Grouped { bits: GroupedBits::W4, group: 32 }] {
        let old = Weights::of(&real, 0, numbers, 1.0, None).expect("integers");
        for row in [[0.0; 4], [f32::INFINITY, 0.0, 0.0, 0.0], [f32::NAN; 4]] {
            let mut sums = Moment::new(4);
            sums.push(&row);
            sums.flush();
            assert_eq!(rounded(&real, &old, &prepare(vec![sums], false)), old, "{row:?}");
        }
        // An input that is always 0 is rounded by itself.
        let mut sums = Moment::new(4);
        rows(4, 50).into_iter().for_each(|mut row| {
            row[2] = 0.0;
            sums.push(&row);
        });
        sums.flush();
        let got = rounded(&real, &old, &prepare(vec![sums], false));
        if numbers == Numbers::Int8 {
            let integers = |weights: &Weights, k: usize| weights.values.to_i8()[k];
            assert_eq!(
                [integers(&got, 2), integers(&got, 6)],
                [integers(&old, 2), integers(&old, 6)]
            );
        }
    }
}

#[test]
fn outputs_of_layers_get_closer() {
    let dense = {
        let mut b = Build::new(15);
        let x = b.input(&[1, 4, 36]);
        let reals = b.reals(36 * 20);
        let weights = b.constant(&[36, 20], &reals);
        let y = b.node(matmul(Clamp::NONE), &[x, weights], &[1, 4, 20]);
        b.output(y)
    };
    let convolution = {
        let mut b = Build::new(16);
        let x = b.input(&[1, 6, 6, 5]);
        let reals = b.reals(8 * 9 * 5);
        let weights = b.constant(&[8, 3, 3, 5], &reals);
        let y = b.node(conv(1, Clamp::NONE), &[x, weights], &[1, 6, 6, 8]);
        b.output(y)
    };
    for (name, graph) in [("dense", dense), ("convolution", convolution)] {
        let samples = inputs(&graph, 60);
        let expected = values(&graph, graph.outputs[0], &samples);
        for numbers in [
            Numbers::Grouped { bits: GroupedBits::W4, group: 32 },
            Numbers::Grouped { bits: GroupedBits::W4Nl, group: 32 },
            Numbers::Grouped { bits: GroupedBits::W8, group: 32 },
            Numbers::Int8,
        ] {
            let quantization = quantize(&graph, numbers, &samples);
            let (changed, better) = improved(&graph, &quantization, &samples, Improvement::Gptq);
            assert!(changed, "{name} {numbers}");
            let error = |quantization: &crate::quantize::quantization::Quantization| -> f64 {
                let got = values(&quantization.simulated(), graph.outputs[0], &samples);
                expected.iter().zip(&got).map(|(a, b)| f64::from(a - b).powi(2)).sum()
            };
            let (before, after) = (error(&quantization), error(&better));
            assert!(after < before, "{name} {numbers}: {before} {after}");
            let (_, again) = improved(&graph, &quantization, &samples, Improvement::Gptq);
            assert_eq!(better.weights, again.weights, "{name} {numbers}: not deterministic");
        }
    }
}

#[test]
fn shared_weights_stay_the_same() {
    let mut b = Build::new(17);
    let x = b.input(&[1, 12]);
    let reals = b.reals(144);
    let weights = b.constant(&[12, 12], &reals);
    let y = b.node(matmul(Clamp::RELU), &[x, weights], &[1, 12]);
    let y = b.node(matmul(Clamp::NONE), &[y, weights], &[1, 12]);
    let graph = b.output(y);
    let samples = inputs(&graph, 60);
    let quantization =
        quantize(&graph, Numbers::Grouped { bits: GroupedBits::W4, group: 32 }, &samples);
    let (changed, better) = improved(&graph, &quantization, &samples, Improvement::Gptq);
    assert!(changed);
    assert_eq!(better.weights[&0], better.weights[&1]);
    assert_eq!(better.graph.constant(weights).expect("constant").dtype, DType::F32);
}

use super::{COLUMNS, MOST_KEYS, Mask, Products, factor, panels_len, scalar, select};
use crate::Isa;
#[cfg(not(feature = "std"))]
use std::vec::Vec;

/// Xorshift: Marsaglia, "Xorshift RNGs", 2003.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    fn i8s(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| self.next() as i8).collect()
    }
}

/// Rows, inner size and columns around those of tiles.
fn sizes() -> impl Iterator<Item = [usize; 3]> {
    let rows: &[usize] = if cfg!(miri) { &[2] } else { &[1, 2, 3, 4, 5, 11, 12, 25] };
    let inner: &[usize] = if cfg!(miri) { &[1, 4] } else { &[1, 2, 7, 32] };
    let columns: &[usize] = if cfg!(miri) { &[3, 17] } else { &[1, 15, 16, 17, 32, 48, 70] };
    rows.iter().flat_map(move |m| {
        inner.iter().flat_map(move |k| columns.iter().map(move |n| [*m, *k, *n]))
    })
}

#[test]
fn products_are_exact_on_every_instruction_set() {
    let mut random = Random(0x5151_7a11);
    for [m, k, n] in sizes() {
        let (zero_a, zero_b) = (random.next() as i8, random.next() as i8);
        let (a, rows_of_b) = (random.i8s(m * k), random.i8s(n * k));
        let columns_of_b: Vec<i8> = (0..k * n).map(|at| rows_of_b[at % n * k + at / n]).collect();
        let less = |x: &[i8], zero: i8, at: usize| i32::from(x[at]) - i32::from(zero);
        let width = k.next_multiple_of(2);
        let columns = n.next_multiple_of(COLUMNS);
        for isa in Isa::available() {
            let kernels = select(isa);
            let mut wide = vec![i16::MAX; m * width];
            (kernels.rows)(&a, k, zero_a.into(), &mut wide);
            // The same panels, from rows that are columns and from rows that are rows.
            let mut panels = [(); 2].map(|()| vec![i16::MAX; panels_len(k, n)]);
            (kernels.columns)(&rows_of_b, k, zero_b.into(), &mut panels[0]);
            (kernels.pairs)(&columns_of_b, n, zero_b.into(), &mut panels[1]);
            for b in panels {
                let mut output = vec![i32::MAX; m * columns];
                let output_at = &mut output;
                (kernels.products)(&mut Products {
                    a: &wide,
                    pairs: width / 2,
                    b: &b,
                    output: output_at,
                    columns,
                });
                for (row, output) in output.chunks_exact(columns).enumerate() {
                    for (column, got) in output.iter().enumerate() {
                        let product = |c: usize| {
                            less(&a, zero_a, row * k + c) * less(&rows_of_b, zero_b, column * k + c)
                        };
                        let want = if column < n { (0..k).map(product).sum() } else { 0 };
                        assert_eq!(*got, want, "{m} x {k} x {n} at {row}, {column} on {isa}");
                    }
                }
            }
        }
    }
}

fn weigh(isa: Isa, products: &[i32], scale: f32, mask: Mask<'_>) -> (Vec<i16>, i32) {
    let (kernels, mut products) = (select(isa), products.to_vec());
    let largest = (kernels.largest)(&products, scale, mask);
    let sum = (kernels.raise)(&mut products, scale, mask, largest);
    let mut weights = vec![-1; products.len()];
    let sum = (kernels.share)(&products, sum, &mut weights);
    assert_eq!(weights.iter().map(|w| i32::from(*w)).sum::<i32>(), sum);
    (weights, sum)
}

#[test]
fn weights_are_those_of_f64_and_the_same_on_every_instruction_set() {
    let mut random = Random(0xa77e_1710);
    let lens = if cfg!(miri) { vec![1, 17] } else { vec![1, 2, 15, 16, 17, 31, 64, 130, 1000] };
    for (case, len) in lens.into_iter().cycle().take(40).enumerate() {
        let products: Vec<i32> = (0..len).map(|_| random.next() as i32 >> 12).collect();
        let numbers: Vec<f32> = (0..len)
            .map(|_| [0.0, -0.5, f32::NEG_INFINITY, -90.0, 2.0][random.next() as usize % 5])
            .collect();
        let scale = [1e-7, 1e-5, 1e-4, -1e-5][case % 4];
        for mask in [Mask::All(0.0), Mask::All(-1.5), Mask::Each(&numbers)] {
            let real = |at: usize| {
                let mask = match mask {
                    Mask::All(number) => number,
                    Mask::Each(numbers) => numbers[at],
                };
                f64::from(products[at]) * f64::from(scale) + f64::from(mask)
            };
            let largest = (0..len).map(real).fold(f64::NEG_INFINITY, f64::max);
            let (got, sum) = weigh(Isa::Scalar, &products, scale, mask);
            if largest > f64::NEG_INFINITY {
                let exponentials: Vec<f64> =
                    (0..len).map(|at| (real(at) - largest).exp()).collect();
                let all: f64 = exponentials.iter().sum();
                for (got, e) in got.iter().zip(&exponentials) {
                    let want = 32767.0 * e / all;
                    // Half a part of rounding, half of one of 65,536 of the largest, and what f32 makes of x.
                    let bound = 0.5 + 32767.0 / all * 1.1e-5 + want * 2e-5;
                    assert!((f64::from(*got) - want).abs() <= bound, "{got} of {want}, {len}");
                }
                assert!(f64::from((sum - 32767).abs()) <= len as f64 * 0.51, "{sum} of {len}");
            }
            for isa in Isa::available() {
                assert_eq!(
                    weigh(isa, &products, scale, mask),
                    (got.clone(), sum),
                    "{len} on {isa}"
                );
            }
        }
    }
}

#[test]
fn nothing_seen_weighs_nothing() {
    let hidden = [f32::NEG_INFINITY, f32::NAN, f32::NEG_INFINITY];
    for isa in Isa::available() {
        assert_eq!(weigh(isa, &[1, 2, 3], 1.0, Mask::Each(&hidden)), (vec![0; 3], 0));
        assert_eq!(weigh(isa, &[1, 2, 3], 1.0, Mask::All(f32::NAN)), (vec![0; 3], 0));
        assert_eq!(weigh(isa, &[], 1.0, Mask::All(0.0)), (vec![], 0));
        // A NaN hides its own key only.
        let (weights, _) = weigh(isa, &[0, 0, 0], 1.0, Mask::Each(&[0.0, f32::NAN, 0.0]));
        assert_eq!(weights, [16384, 0, 16384]);
    }
    assert_eq!(factor(0.5, 0), 0.0);
    assert_eq!(factor(0.5, 2), 0.25);
}

#[test]
fn as_many_keys_as_there_may_be_count() {
    if cfg!(miri) {
        return;
    }
    for isa in Isa::available() {
        let (weights, sum) = weigh(isa, &vec![7; MOST_KEYS], 1e-3, Mask::All(0.0));
        assert_eq!((weights, sum), (vec![2; MOST_KEYS], 2 * MOST_KEYS as i32));
    }
}

#[test]
fn sums_become_i8_in_one_way() {
    let mut random = Random(0xfeed);
    for zero_point in [-128, -3, 0, 127] {
        let sums: Vec<i32> = (0..77).map(|_| random.next() as i32 >> 8).collect();
        let mut want = vec![0; sums.len()];
        scalar::narrow(&sums, 3e-5, zero_point, &mut want);
        for (sum, want) in sums.iter().zip(&want) {
            let real = (f64::from(*sum) * f64::from(3e-5f32)).round_ties_even() as i64;
            assert_eq!(i64::from(*want), (real + i64::from(zero_point)).clamp(-128, 127));
        }
        for isa in Isa::available() {
            let mut got = vec![0; sums.len()];
            (select(isa).narrow)(&sums, 3e-5, zero_point, &mut got);
            assert_eq!(got, want, "{isa}");
        }
    }
}

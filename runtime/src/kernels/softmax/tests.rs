use super::{
    SoftmaxI8, SoftmaxI8Fn, SoftmaxShape, TABLE_LEN, log_softmax_f32, select_f32, select_i8,
    softmax_i8,
};
use crate::Isa;
use crate::kernels::shapes::{Family, LENGTHS, OFFSETS, Shape};
use crate::kernels::testing::{Output, placed};
use crate::ops::testing::Random;

/// f32 softmax against f64: a few units in the last place of a number up to 1.
const MAX_ERROR_F32: f64 = 1e-6;

const SHAPES: [(usize, usize, usize); 8] =
    [(1, 1, 1), (3, 10, 1), (1, 12, 1), (2, 5, 7), (1, 1000, 1), (4, 1, 3), (70, 3, 1), (2, 9, 45)];

/// Softmax in f64, straight from the definition.
fn exact(shape: SoftmaxShape, x: &[f32]) -> Vec<f64> {
    let exp: Vec<f64> = x.iter().map(|x| f64::from(*x).exp()).collect();
    let row = |at: usize| (at / (shape.extent * shape.inner), at % shape.inner);
    let sum =
        |at: usize| -> f64 { (0..x.len()).filter(|o| row(*o) == row(at)).map(|o| exp[o]).sum() };
    (0..x.len()).map(|at| exp[at] / sum(at)).collect()
}

/// Softmax and its logarithm of random f32, beginning `offset` elements behind where their memory does.
fn check_f32(shape: SoftmaxShape, offset: usize, random: &mut Random) {
    let len = shape.outer * shape.extent * shape.inner;
    let values: Vec<f32> = random.f32s(len).iter().map(|x| x * 10.0).collect();
    let x = &placed(&values, offset)[offset..];
    let run = |kernel: &dyn Fn(&mut [f32])| {
        let mut y = Output::new(len, offset, 12345.0);
        kernel(y.get());
        y.written()
    };
    let y = run(&|y| select_f32(Isa::Scalar)(shape, x, y));
    for isa in Isa::available() {
        assert_eq!(y, run(&|y| select_f32(isa)(shape, x, y)), "{shape:?} on {isa}");
    }
    let log_y = run(&|y| log_softmax_f32(shape, x, y));
    for (at, want) in exact(shape, x).into_iter().enumerate() {
        assert!((f64::from(y[at]) - want).abs() < MAX_ERROR_F32, "{shape:?}");
        assert!((f64::from(log_y[at]) - want.ln()).abs() < 40.0 * MAX_ERROR_F32, "{shape:?}");
    }
}

const FAMILY: Family = Family {
    name: "softmax",
    fields: &[
        ("outer", &[1, 2, 3, 7]),
        ("extent", LENGTHS.split_at(1).1),
        ("inner", &[1, 2, 3, 7, 16, 33]),
        ("offset", OFFSETS),
    ],
    work: |shape| {
        40 * shape_of(shape).outer * shape.get("extent").pow(2) * shape.get("inner").pow(2)
    },
    check: |shape| {
        let mut random = Random(shape.seed as u32 | 1);
        check_f32(shape_of(shape), shape.get("offset"), &mut random);
        check_i8(shape_of(shape), shape.get("offset"), &mut random);
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

fn shape_of(shape: &Shape<'_>) -> SoftmaxShape {
    let [outer, extent, inner] = ["outer", "extent", "inner"].map(|name| shape.get(name));
    SoftmaxShape { outer, extent, inner }
}

#[test]
fn f32_agrees_with_the_definition() {
    let mut random = Random(5);
    for (outer, extent, inner) in SHAPES {
        check_f32(SoftmaxShape { outer, extent, inner }, outer % 2, &mut random);
    }
}

#[test]
fn f32_is_stable() {
    let shape = SoftmaxShape { outer: 1, extent: 3, inner: 1 };
    let mut y = [0.0; 3];
    select_f32(Isa::Scalar)(shape, &[1e30, 1e30, -1e30], &mut y);
    assert_eq!(y, [0.5, 0.5, 0.0]);
    log_softmax_f32(shape, &[f32::NEG_INFINITY, 80.0, -1e4], &mut y);
    assert_eq!(y, [f32::NEG_INFINITY, 0.0, -10080.0]);
}

/// Softmax of random i8.
fn check_i8(shape: SoftmaxShape, offset: usize, random: &mut Random) {
    let scale = 0.1f32;
    let table: [i32; TABLE_LEN] = std::array::from_fn(|d| {
        ((-(d as f64) * f64::from(scale)).exp() * f64::from(1 << 22)).round() as i32
    });
    let to = SoftmaxI8 { table: &table, inverse_scale: 256.0, zero_point: -128 };
    let x = random.i8s(shape.outer * shape.extent * shape.inner);
    let run = |kernel: SoftmaxI8Fn| {
        let mut y = Output::new(x.len(), offset, 85);
        kernel(shape, &to, &placed(&x, offset)[offset..], y.get());
        y.written()
    };
    let y = run(softmax_i8);
    for isa in Isa::available() {
        assert_eq!(y, run(select_i8(isa)), "{shape:?} on {isa}");
    }
    let real: Vec<f32> = x.iter().map(|x| f32::from(*x) * scale).collect();
    for (got, want) in y.iter().zip(exact(shape, &real)) {
        let want = (want * 256.0 - 128.0).min(127.0);
        assert!((f64::from(*got) - want).abs() <= 0.5001, "{got} {want}");
    }
}

#[test]
fn i8_is_within_one_step_of_the_real_function() {
    let mut random = Random(9);
    for (outer, extent, inner) in SHAPES {
        check_i8(SoftmaxShape { outer, extent, inner }, extent % 2, &mut random);
    }
}

/// A row alone, whose outputs are looked up when it is long, equals the same row with another between its elements.
#[test]
fn long_rows_of_i8_are_as_short_ones() {
    let mut random = Random(10);
    let table: [i32; TABLE_LEN] = std::array::from_fn(|d| (1 << 22) >> (d / 8).min(22));
    let to = SoftmaxI8 { table: &table, inverse_scale: 256.0, zero_point: -128 };
    for extent in [511, 512, 513, 1000] {
        let x = random.i8s(2 * extent);
        let twice: Vec<i8> = x.iter().flat_map(|x| [*x, 5]).collect();
        let (mut y, mut y_twice) = (vec![0; x.len()], vec![0; twice.len()]);
        softmax_i8(SoftmaxShape { outer: 2, extent, inner: 1 }, &to, &x, &mut y);
        softmax_i8(SoftmaxShape { outer: 2, extent, inner: 2 }, &to, &twice, &mut y_twice);
        let apart: Vec<i8> = y_twice.iter().step_by(2).copied().collect();
        assert_eq!(y, apart, "{extent}");
    }
}

#[test]
fn strange_tables_run() {
    for (entry, inverse_scale) in [(0, 256.0), (i32::MIN, f32::NAN), (i32::MAX, f32::INFINITY)] {
        let to = SoftmaxI8 { table: &[entry; TABLE_LEN], inverse_scale, zero_point: 65536 };
        let mut y = [0; 3];
        softmax_i8(SoftmaxShape { outer: 1, extent: 3, inner: 1 }, &to, &[-128, 0, 127], &mut y);
    }
}

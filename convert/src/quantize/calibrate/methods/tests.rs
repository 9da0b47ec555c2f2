use super::*;

const COUNT: usize = 200_000;

/// Quantiles of a distribution in place of random numbers.
fn quantiles(of: impl Fn(f64) -> f64) -> Vec<f32> {
    (0..COUNT).map(|i| of((i as f64 + 0.5) / COUNT as f64) as f32).collect()
}

fn laplace(u: f64) -> f64 {
    (0.5 - u).signum() * (1.0 - 2.0 * (u - 0.5).abs()).ln()
}

fn logistic(u: f64) -> f64 {
    (u / (1.0 - u)).ln()
}

fn exponential(u: f64) -> f64 {
    -(1.0 - u).ln()
}

fn outlier() -> Vec<f32> {
    let mut values = quantiles(logistic);
    values.push(60.0);
    values
}

fn seen(values: &[f32]) -> Observed {
    let mut seen = Observed::default();
    seen.add(0, values, 0);
    seen
}

/// Expected: `numpy.percentile(x, [p / 2, 100 − p / 2])` of the cut p. A bin is at most 2^-7 wide here, and numpy takes
/// the values next to the cut.
#[test]
fn percentiles_are_those_of_numpy() {
    struct Case {
        name: &'static str,
        values: Vec<f32>,
        percent: f64,
        min: f32,
        max: f32,
    }
    let case = |name, values, percent, min, max| Case { name, values, percent, min, max };
    let mut sparse = vec![0.0; 99];
    sparse.push(1.0);
    for c in [
        case("laplace", quantiles(laplace), 99.99, -9.161_555, 9.161_555),
        case("laplace", quantiles(laplace), 99.9, -6.902_773, 6.902_773),
        case("logistic", quantiles(logistic), 99.9, -7.595_417, 7.595_417),
        case("exponential", quantiles(exponential), 99.99, 0.0, 9.854_703),
        case("exponential", quantiles(exponential), 99.9, 0.0005, 7.595_92),
        case("outlier", outlier(), 99.99, -9.854_645, 9.954_733),
        case("zeros", vec![0.0; 10], 99.9, 0.0, 0.0),
        case("mostly zeros", sparse.clone(), 90.0, 0.0, 0.0),
        case("mostly zeros", sparse, 100.0, 0.0, 1.0),
        case("everything", vec![-3.0, 1.0, 7.0], 100.0, -3.0, 7.0),
    ] {
        let range = range_by(Method::Percentile(c.percent), &seen(&c.values), DType::I8).unwrap();
        let close = |a: f32, b: f32| (a - b).abs() < 0.05;
        assert!(
            close(range.min, c.min) && close(range.max, c.max),
            "{} {}: {range:?}",
            c.name,
            c.percent
        );
    }
}

/// Expected: ONNX Runtime 1.31, `HistogramCollector("entropy", True, 2048, 128)`, the mean of both
/// thresholds. Its bins are those of a symmetric range with half our levels, so thresholds agree roughly.
#[test]
fn entropy_is_near_onnx_runtimes() {
    for (name, values, threshold) in [
        ("laplace", quantiles(laplace), 9.17),
        ("logistic", quantiles(logistic), 9.69),
        ("outlier", outlier(), 11.34),
        ("cubed", quantiles(|u| laplace(u).powi(3)), 230.0),
        ("uniform", quantiles(|u| 2.0 * u - 1.0), 1.0),
    ] {
        let range = range_by(Method::Entropy, &seen(&values), DType::I8).unwrap();
        for end in [-range.min, range.max] {
            assert!((end / threshold).log2().abs() < 0.5, "{name}: {range:?}, not ±{threshold}");
        }
    }
}

/// What a grid costs, from the values themselves, in the plainest way.
fn squared_error(values: &[f32], min: f64, max: f64) -> f64 {
    let scale = (max - min) / 255.0;
    let zero_point = (-128.0 - min / scale).round_ties_even().clamp(-128.0, 127.0);
    let quantized = |v: f64| {
        let integer = ((v / scale).round_ties_even() + zero_point).clamp(-128.0, 127.0);
        (integer - zero_point) * scale
    };
    values.iter().map(|v| (f64::from(*v) - quantized(f64::from(*v))).powi(2)).sum()
}

/// The search on bins finds what a search of 40 × 40 ranges on all values finds, or better.
const NEAR_BEST: f64 = 1.01;

#[test]
fn squared_error_is_near_the_least() {
    let relu = |v: &f32| v.max(0.0);
    for (name, values) in [
        ("laplace", quantiles(laplace)),
        ("exponential", quantiles(exponential)),
        ("relu", quantiles(laplace).iter().map(relu).collect()),
        ("outlier", outlier()),
        ("shifted", quantiles(|u| logistic(u) + 6.0)),
        ("uniform", quantiles(|u| 3.0 * u - 1.0)),
        ("negative", quantiles(|u| -exponential(u))),
    ] {
        // One in ten, but every extreme one.
        let values: Vec<f32> = (values.iter().enumerate())
            .filter(|(i, v)| i % 10 == 0 || v.abs() > 10.0)
            .map(|(_, v)| *v)
            .collect();
        let seen = seen(&values);
        let whole = seen.range().unwrap();
        let (min, max) = (f64::from(whole.min.min(0.0)), f64::from(whole.max.max(0.0)));
        let parts = |end: f64| 1..=if end == 0.0 { 1 } else { 40 };
        let mut best = f64::INFINITY;
        for a in parts(min) {
            for b in parts(max) {
                let (a, b) = (min * f64::from(a) / 40.0, max * f64::from(b) / 40.0);
                best = best.min(squared_error(&values, a, b));
            }
        }
        let found = range_by(Method::Mse, &seen, DType::I8).unwrap();
        let (a, b) = (f64::from(found.min.min(0.0)), f64::from(found.max.max(0.0)));
        let error = squared_error(&values, a, b);
        assert!(error <= best * NEAR_BEST, "{name}: {error} at {found:?}, {best} is possible");
    }
}

#[test]
fn ranges_are_whole_where_there_is_nothing_to_gain() {
    let two = seen(&[-1.0, 1.0, 0.0]);
    for method in
        [Method::MinMax, Method::Average, Method::Percentile(100.0), Method::Mse, Method::Entropy]
    {
        for dtype in [DType::I8, DType::I16] {
            let range = range_by(method, &two, dtype).unwrap();
            assert!(range.min <= -0.98 && range.max >= 0.98, "{method} {dtype}: {range:?}");
        }
        assert_eq!(range_by(method, &Observed::default(), DType::I8), None);
        let zero = range_by(method, &seen(&[0.0; 4]), DType::I8).unwrap();
        assert_eq!((zero.min, zero.max), (0.0, 0.0), "{method}");
    }
}

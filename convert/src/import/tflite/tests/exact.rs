//! What rounds as TFLite's reference kernels do: averages always, layers and means when asked to.

use super::*;
use crate::pipeline::ConvertError;

/// `x · real` by a multiplier of 31 bits: to the nearest with ties up, then by the shift with ties away from zero.
fn fixed_point(x: i32, multiplier: i128, down: u32) -> i32 {
    let high = (i128::from(x) * multiplier + (1 << 30)).div_euclid(1 << 31);
    let half = (1i128 << down) / 2;
    (high.signum() * ((high.abs() + half) >> down)) as i32
}

/// The multiplier of a real below 1, and how far its products are shifted down.
fn multiplier(mut real: f64) -> (i128, u32) {
    let mut down = 0;
    while real < 0.5 {
        (real, down) = (real * 2.0, down + 1);
    }
    ((real * f64::from(1u32 << 31)).round() as i128, down)
}

/// An image with every i8.
fn every_byte() -> Vec<u8> {
    (0..=255).collect()
}

fn i8s(bytes: &[u8]) -> Vec<i32> {
    bytes.iter().map(|byte| i32::from(*byte as i8)).collect()
}

/// y = 20 · 0.0749 · x + bias per channel, and pixels averaged two by two.
fn conv_and_pool(operator: &str) -> Model {
    let weights = match operator {
        "CONV_2D" => Tensor::i8s("w", &[2, 1, 1, 1], &[20, -7]),
        _ => Tensor::i8s("w", &[1, 1, 1, 2], &[20, -7]),
    };
    let axis = if operator == "CONV_2D" { 0 } else { 3 };
    let window = vec![(0, Field::Byte(1)), (1, Field::Int(1)), (2, Field::Int(1))];
    let depthwise = vec![(3, Field::Int(2))];
    let (options_type, extra) = if axis == 0 { (1, vec![]) } else { (2, depthwise) };
    let mut model = one(
        operator,
        (options_type, [window, extra].concat()),
        vec![
            Tensor::new("x", I8, &[1, 16, 16, 1]).scaled(0.5, -3),
            weights.per_channel(&[0.0749, 0.25], axis),
            Tensor::i32s("b", &[2], &[11, -100]).per_channel(&[0.03745, 0.125], 0),
        ],
        vec![Tensor::new("conv", I8, &[1, 16, 16, 2]).scaled(0.5, 5)],
    );
    model.codes.push((code("AVERAGE_POOL_2D"), String::new()));
    model.tensors.push(Tensor::new("y", I8, &[1, 8, 8, 2]).scaled(0.5, 5));
    let two = [1, 2, 3, 4].map(|field| (field, Field::Int(2)));
    model.operators.push(Operator {
        code: 1,
        inputs: vec![3],
        outputs: vec![4],
        options_type: 5,
        options: [vec![(0, Field::Byte(1))], two.to_vec()].concat(),
        ..Operator::default()
    });
    model.outputs = vec![3, 4];
    model
}

#[test]
fn layers_and_averages_in_fixed_point() {
    for operator in ["CONV_2D", "DEPTHWISE_CONV_2D"] {
        let model = conv_and_pool(operator);
        let x = every_byte();
        let layer: Vec<i32> = i8s(&x)
            .iter()
            .flat_map(|x| [(20, 11, 0.0749f32), (-7, -100, 0.25)].map(|channel| (*x, channel)))
            .map(|(x, (w, bias, scale))| {
                let (by, down) = multiplier(0.5 * f64::from(scale) / 0.5);
                (fixed_point((x + 3) * w + bias, by, down) + 5).clamp(-128, 127)
            })
            .collect();
        let average = |layer: &[i32]| -> Vec<i32> {
            let at = |y: usize, x: usize, c: usize| f64::from(layer[(y * 16 + x) * 2 + c]);
            let index = (0..8 * 8 * 2).map(|i| (i / 16 * 2, i / 2 % 8 * 2, i % 2));
            let sum = index.map(|(y, x, c)| {
                at(y, x, c) + at(y, x + 1, c) + at(y + 1, x, c) + at(y + 1, x + 1, c)
            });
            sum.map(|sum| (sum / 4.0).round() as i32).collect()
        };
        let exact = run_with(&model, std::slice::from_ref(&x), true);
        assert_eq!(i8s(&exact[0]), layer, "{operator}");
        assert_eq!(i8s(&exact[1]), average(&layer), "{operator}");
        // Rounded once, some differ, by one; their averages are TFLite's nevertheless.
        let plain = run_with(&model, &[x], false);
        let own = i8s(&plain[0]);
        let off: Vec<i32> = own.iter().zip(&layer).map(|(a, b)| (a - b).abs()).collect();
        assert!(off.iter().max() == Some(&1), "{operator}: {off:?}");
        assert_eq!(i8s(&plain[1]), average(&own), "{operator}");
    }
}

#[test]
fn means_in_fixed_point() {
    let model = one(
        "MEAN",
        (27, vec![(0, Field::Byte(1))]),
        vec![Tensor::new("x", I8, &[1, 3, 85]).scaled(0.5, -3), Tensor::i32s("axes", &[1], &[1])],
        vec![Tensor::new("y", I8, &[1, 1, 85]).scaled(0.75, 5)],
    );
    let x = every_byte()[..255].to_vec();
    // The multiplier of the mean, of which that of the sum is a third: by 2 / 3 and a shift.
    let (by, down) = multiplier(0.5 / 0.75);
    let (by, down) = (by * 2 / 3, down + 1);
    let expected: Vec<i32> = (0..85)
        .map(|at| (0..3).map(|row| i8s(&x)[row * 85 + at] + 3).sum())
        .map(|sum| fixed_point(sum, by, down) + 5)
        .collect();
    assert_eq!(i8s(&run_with(&model, std::slice::from_ref(&x), true)[0]), expected);
}

#[test]
fn other_models_have_no_rounding_of_tflite() {
    let mut graph = import(&conv_and_pool("CONV_2D"), &ImportOptions::default()).unwrap();
    graph.metadata.retain(|(key, _)| key != "source.format");
    let options = ConvertOptions { exact_tflite: true, ..ConvertOptions::default() };
    let refused = convert(graph, None, &options, &mut ());
    assert!(matches!(refused, Err(ConvertError::NotTflite)));
}

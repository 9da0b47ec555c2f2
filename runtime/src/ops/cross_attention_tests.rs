use super::*;
use crate::ops::testing::{Case, Random, assert_close, shape, tensor};

/// Scores of up to 70 products below 4, whose exponentials are weighted.
const TOLERANCE: f32 = 2e-5;

const A: CrossAttentionAttributes =
    CrossAttentionAttributes { heads: 6, kv_heads: 2, size: 5, scale: 0.4 };

#[derive(Clone, Copy)]
struct Form {
    a: CrossAttentionAttributes,
    tokens: u32,
    positions: u32,
    /// Whether the run has keys and values.
    is_new: bool,
    /// Heads whose weights are wanted.
    chosen: &'static [i32],
}

fn case(form: Form, random: &mut Random) -> (Case, [Vec<f32>; 2]) {
    let Form { a, tokens, positions, is_new, chosen } = form;
    let (width, new) = (a.heads * a.size, [u32::from(is_new), positions, 2 * a.kv_heads * a.size]);
    let x = random.f32s((tokens * width) as usize);
    let kv = random.f32s(new.iter().product::<u32>() as usize);
    let mut inputs = vec![tensor(&[tokens, width], &x), tensor(&new, &kv)];
    let cache = || Some(shape(DType::F16, &[1, a.kv_heads, positions, a.size]));
    let y = shape(DType::F32, &[tokens, width]);
    let mut outputs = vec![cache(), cache()];
    if !chosen.is_empty() {
        inputs.push(tensor(&[chosen.len() as u32], chosen));
        outputs.push(Some(shape(DType::F32, &[tokens, chosen.len() as u32, positions])));
    }
    let case = Case::new(Op::CrossAttention, Some(DType::F32), a, &inputs, y);
    (case.with_outputs(&outputs), [x, kv])
}

/// One token and head at a time, in f64, results and weights. Keys and values that were never written are 0.
fn expected(form: Form, [x, kv]: &[Vec<f32>; 2]) -> [Vec<f32>; 2] {
    let (heads, kv_heads) = (form.a.heads as usize, form.a.kv_heads as usize);
    let (size, positions) = (form.a.size as usize, form.positions as usize);
    let kept = |position: usize, head: usize, channel: usize| {
        let row = kv.get(position * 2 * kv_heads * size..);
        let value = row.and_then(|row| row.get(head * size + channel));
        value.map_or(0.0, |v| f16::from_f32(*v).to_f64())
    };
    let (mut y, mut weights) = (vec![], vec![]);
    for (index, query) in x.chunks_exact(size).enumerate() {
        let head = index % heads / (heads / kv_heads);
        let score = |at: usize| {
            let products = query.iter().enumerate().map(|(c, q)| f64::from(*q) * kept(at, head, c));
            (products.sum::<f64>() * f64::from(form.a.scale)).exp()
        };
        let scores: Vec<f64> = (0..positions).map(score).collect();
        let sum: f64 = scores.iter().sum();
        y.extend((0..size).map(|c| {
            let weighed = scores.iter().enumerate();
            (weighed.map(|(at, s)| s * kept(at, kv_heads + head, c)).sum::<f64>() / sum) as f32
        }));
        weights.push(scores.into_iter().map(|s| (s / sum) as f32).collect::<Vec<f32>>());
    }
    let of_token = weights.chunks_exact(heads);
    let chosen = of_token.flat_map(|of| form.chosen.iter().flat_map(|h| of[*h as usize].clone()));
    [y, chosen.collect()]
}

#[test]
fn tokens_see_all_positions() {
    let form = Form { a: A, tokens: 1, positions: 7, is_new: true, chosen: &[] };
    let forms = [
        form,
        Form { tokens: 0, ..form },
        Form { tokens: 7, ..form },
        // Blocks of widened keys and values.
        Form { tokens: 8, positions: 1, ..form },
        Form { tokens: 53, positions: 70, ..form },
        Form { tokens: 9, chosen: &[5, 0, 2], ..form },
        Form { is_new: false, chosen: &[1], ..form },
        Form { is_new: false, ..form },
        Form { is_new: false, tokens: 9, ..form },
        Form { a: CrossAttentionAttributes { heads: 6, kv_heads: 6, size: 64, ..A }, ..form },
    ];
    let mut random = Random(5);
    for (index, form) in forms.into_iter().enumerate() {
        let (case, data) = case(form, &mut random);
        let want = expected(form, &data);
        for isa in Isa::available() {
            println!("{index} {isa}");
            let [y, weights] = &want;
            let got = case.floats_of_threads(isa);
            assert_close(&got[0], y, TOLERANCE);
            if !weights.is_empty() {
                assert_close(&got[WEIGHTS], weights, TOLERANCE);
            }
        }
    }
}

#[test]
fn hostile_steps_are_refused() {
    let form = Form { a: A, tokens: 2, positions: 3, is_new: true, chosen: &[] };
    let with = |change: &dyn Fn(&mut Case)| {
        let (mut case, _) = case(form, &mut Random(7));
        change(&mut case);
        case.run_bytes()
    };
    assert!(with(&|_| ()).is_ok());
    for a in [
        CrossAttentionAttributes { heads: 5, ..A },
        CrossAttentionAttributes { heads: 0, ..A },
        CrossAttentionAttributes { kv_heads: 0, ..A },
        CrossAttentionAttributes { size: 0, ..A },
        CrossAttentionAttributes { heads: u32::MAX, kv_heads: u32::MAX, size: u32::MAX, ..A },
    ] {
        let change = |case: &mut Case| case.attributes = crate::ops::testing::bytes_of(a);
        assert!(with(&change).is_err(), "{a:?}");
    }
    let zeros = |dims: &[u32]| tensor(dims, &vec![0.0; dims.iter().product::<u32>() as usize]);
    let wrong: [&dyn Fn(&mut Case); 11] = [
        &|case| case.inputs[0] = Some(zeros(&[2, 29])),
        &|case| case.inputs[1] = Some(zeros(&[2, 3, 20])),
        &|case| case.inputs[1] = Some(zeros(&[1, 2, 20])),
        &|case| case.inputs[1] = Some(zeros(&[1, 4, 20])),
        &|case| case.inputs[1] = Some(zeros(&[1, 3, 10])),
        &|case| case.inputs[1] = Some(zeros(&[3, 20])),
        &|case| case.inputs[1] = None,
        &|case| case.more_outputs[0] = None,
        &|case| case.more_outputs[0] = Some(shape(DType::F32, &[1, 2, 3, 5])),
        &|case| case.more_outputs[1] = Some(shape(DType::F16, &[2, 2, 3, 5])),
        &|case| case.output = shape(DType::F32, &[2, 20]),
    ];
    for (index, change) in wrong.into_iter().enumerate() {
        assert!(with(change).is_err(), "{index}");
    }
    let form = Form { chosen: &[0, 5], ..form };
    let with = |change: &dyn Fn(&mut Case)| {
        let (mut case, _) = case(form, &mut Random(7));
        change(&mut case);
        case.run_bytes()
    };
    assert!(with(&|_| ()).is_ok());
    let wrong: [&dyn Fn(&mut Case); 7] = [
        &|case| case.inputs[2] = Some(tensor(&[2], &[0, 6])),
        &|case| case.inputs[2] = Some(tensor(&[2], &[-1, 0])),
        &|case| case.inputs[2] = Some(tensor(&[3], &[0; 3])),
        &|case| case.inputs[2] = Some(tensor(&[2], &[0.0f32; 2])),
        &|case| case.inputs[2] = None,
        &|case| case.more_outputs[2] = Some(shape(DType::F32, &[2, 2, 4])),
        &|case| case.more_outputs.truncate(2),
    ];
    for (index, change) in wrong.into_iter().enumerate() {
        assert!(with(change).is_err(), "weights, {index}");
    }
    let nothing = Form { positions: 0, ..form };
    assert!(case(nothing, &mut Random(7)).0.run_bytes().is_err());
}

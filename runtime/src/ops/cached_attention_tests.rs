use super::*;
use crate::ops::testing::{Case, Random, Tensor, assert_close, shape, tensor};

/// Scores of up to 70 products below 4, whose exponentials are weighted.
const TOLERANCE: f32 = 2e-5;

const A: CachedAttentionAttributes = CachedAttentionAttributes {
    heads: 6,
    kv_heads: 2,
    size: 5,
    window: 0,
    scale: 0.4,
    softcap: 0.0,
    reserved: [0; 2],
};

#[derive(Clone)]
struct Form {
    a: CachedAttentionAttributes,
    /// What keys and values are kept in: F16, F32, or I8 for q8.
    kept: DType,
    sequences: u32,
    context: u32,
    /// Sequence and position of each token.
    places: Vec<(i32, i32)>,
}

fn channels(a: &CachedAttentionAttributes) -> usize {
    ((a.heads + 2 * a.kv_heads) * a.size) as usize
}

fn case(form: &Form, x: &[f32], with_sequences: bool) -> Case {
    let a = form.a;
    let n = form.places.len() as u32;
    let indices = |of: fn(&(i32, i32)) -> i32| {
        tensor(&[n], &form.places.iter().map(of).collect::<Vec<i32>>())
    };
    let mut inputs = vec![tensor(&[n, channels(&a) as u32], x), indices(|place| place.1)];
    if with_sequences {
        inputs.push(indices(|place| place.0));
    }
    let y = shape(DType::F32, &[n, a.heads * a.size]);
    let of = |dtype, width| Some(shape(dtype, &[form.sequences, a.kv_heads, form.context, width]));
    let cache = || of(form.kept, a.size);
    let scales = || of(DType::F16, a.size.div_ceil(Q8_GROUP as u32));
    match form.kept {
        DType::F16 | DType::F32 => Case::new(Op::CachedAttention, Some(DType::F32), a, &inputs, y)
            .with_outputs(&[cache(), cache()]),
        _ => Case::new(Op::CachedAttention, Some(DType::I8), a, &inputs, y).with_outputs(&[
            cache(),
            cache(),
            scales(),
            scales(),
        ]),
    }
}

/// A row as it is kept: as it is, each number rounded to f16, or to steps of its group's largest / 127, which is an f16.
fn kept(row: &[f32], dtype: DType) -> Vec<f64> {
    match dtype {
        DType::F32 => return row.iter().map(|x| f64::from(*x)).collect(),
        DType::F16 => return row.iter().map(|x| f16::from_f32(*x).to_f64()).collect(),
        _ => {}
    }
    let groups = row.chunks(Q8_GROUP).flat_map(|group| {
        let largest = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = f16::from_f32(largest / 127.0).to_f32();
        let step = move |x: &f32| (x * (1.0 / scale)).round_ties_even().clamp(-127.0, 127.0);
        group.iter().map(move |x| f64::from(step(x)) * f64::from(scale))
    });
    groups.collect()
}

/// One token at a time, in f64; keys and values that no token of this run wrote are 0.
fn expected(form: &Form, x: &[f32]) -> Vec<f32> {
    let a = form.a;
    let (size, group) = (a.size as usize, (a.heads / a.kv_heads) as usize);
    let row = |token: usize, head: usize| &x[token * channels(&a) + head * size..][..size];
    let mut y = vec![];
    for &(sequence, position) in &form.places {
        let token = y.len() / (a.heads as usize * size);
        let first = if a.window == 0 { 0 } else { (position + 1 - a.window as i32).max(0) };
        for head in 0..a.heads as usize {
            let written = |at: i32| form.places.iter().rposition(|place| *place == (sequence, at));
            let kv = |at: i32, offset: usize| -> Vec<f64> {
                let head = a.heads as usize + offset * a.kv_heads as usize + head / group;
                written(at).map_or(vec![0.0; size], |token| kept(row(token, head), form.kept))
            };
            let score = |at: i32| {
                let products =
                    row(token, head).iter().zip(kv(at, 0)).map(|(q, k)| f64::from(*q) * k);
                let score = products.sum::<f64>() * f64::from(a.scale);
                let softcap = f64::from(a.softcap);
                if softcap > 0.0 { softcap * (score / softcap).tanh() } else { score }
            };
            let scores: Vec<f64> = (first..=position).map(score).collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            let mut out = vec![0.0; size];
            for (at, score) in (first..=position).zip(&scores) {
                for (out, v) in out.iter_mut().zip(kv(at, 1)) {
                    *out += (score - largest).exp() / sum * v;
                }
            }
            y.extend(out.into_iter().map(|v| v as f32));
        }
    }
    y
}

#[test]
fn tokens_attend_to_their_own_past() {
    let single = Form { a: A, kept: DType::F16, sequences: 1, context: 40, places: vec![(0, 0)] };
    let run = |from: i32, to: i32| (from..to).map(|at| (0, at)).collect::<Vec<_>>();
    let forms = [
        single.clone(),
        Form { places: vec![(0, 7)], ..single.clone() },
        Form { places: run(0, 5), ..single.clone() },
        // A stretch, in blocks, and behind other content.
        Form { places: run(0, 40), ..single.clone() },
        Form { places: run(9, 38), ..single.clone() },
        Form { places: [run(20, 23), run(0, 12)].concat(), ..single.clone() },
        Form {
            a: CachedAttentionAttributes { window: 3, ..A },
            places: run(2, 36),
            ..single.clone()
        },
        Form {
            a: CachedAttentionAttributes { window: 2, ..A },
            places: run(0, 4),
            ..single.clone()
        },
        Form {
            a: CachedAttentionAttributes { softcap: 0.5, ..A },
            places: run(0, 11),
            ..single.clone()
        },
        Form {
            a: CachedAttentionAttributes { heads: 9, kv_heads: 1, size: 64, ..A },
            places: run(0, 17),
            ..single.clone()
        },
        // Three groups in q8, the last one short.
        Form {
            a: CachedAttentionAttributes { heads: 2, kv_heads: 1, size: 71, ..A },
            places: run(3, 15),
            ..single.clone()
        },
        Form {
            a: CachedAttentionAttributes { heads: 2, kv_heads: 2, size: 16, ..A },
            sequences: 3,
            places: vec![(2, 0), (0, 0), (2, 1), (1, 5), (0, 1), (2, 2)],
            ..single.clone()
        },
    ];
    let mut random = Random(5);
    let kept = |kept| forms.clone().map(|form| Form { kept, ..form });
    let forms = [DType::F16, DType::F32, DType::I8].map(kept).concat();
    for (index, form) in forms.iter().enumerate() {
        let x = random.f32s(form.places.len() * channels(&form.a));
        let want = expected(form, &x);
        for isa in Isa::available() {
            println!("{index} {isa}");
            let got = case(form, &x, form.sequences > 1).floats_of_threads(isa);
            assert_close(&got[0], &want, TOLERANCE);
        }
    }
}

#[test]
fn places_beyond_the_cache_are_found_at_run() {
    let x = [0.5; 100];
    for kept in [DType::F16, DType::F32, DType::I8] {
        let form =
            |place| Form { a: A, kept, sequences: 2, context: 4, places: vec![(0, 0), place] };
        for place in [(0, 4), (0, -1), (2, 0), (-1, 0), (0, i32::MAX), (i32::MIN, i32::MIN)] {
            assert!(case(&form(place), &x, true).run_bytes().is_err(), "{place:?}");
        }
        assert!(case(&form((1, 3)), &x, true).run_bytes().is_ok());
    }
}

#[test]
fn hostile_steps_are_refused() {
    let form = Form { a: A, kept: DType::F16, sequences: 1, context: 4, places: vec![(0, 0)] };
    let of = |a| Form { a, ..form.clone() };
    let x = vec![0.5; channels(&A)];
    for a in [
        CachedAttentionAttributes { heads: 5, ..A },
        CachedAttentionAttributes { heads: 0, ..A },
        CachedAttentionAttributes { kv_heads: 0, ..A },
        CachedAttentionAttributes { size: 0, ..A },
        CachedAttentionAttributes { heads: u32::MAX, kv_heads: u32::MAX, size: u32::MAX, ..A },
    ] {
        let mut case = case(&of(A), &x, false);
        case.attributes = crate::ops::testing::bytes_of(a);
        assert!(case.run_bytes().is_err(), "{a:?}");
    }
    let with = |change: fn(&mut Case)| {
        let mut case = case(&form, &x, true);
        change(&mut case);
        case.run_bytes()
    };
    let wrong: [fn(&mut Case); 7] = [
        |case| case.more_outputs[0] = None,
        |case| case.more_outputs[0] = Some(shape(DType::F32, &[1, 2, 4, 5])),
        |case| case.more_outputs[1] = Some(shape(DType::F16, &[1, 2, 3, 5])),
        |case| case.more_outputs[1] = Some(shape(DType::F16, &[2, 4, 5])),
        |case| case.inputs[1] = Some(tensor(&[2], &[0i32; 2])),
        |case| case.inputs[2] = Some(tensor(&[1], &[0.0f32])),
        |case| case.output = Tensor { dims: vec![1, 29], ..case.output.clone() },
    ];
    assert!(with(|_| ()).is_ok());
    for (index, change) in wrong.into_iter().enumerate() {
        assert!(with(change).is_err(), "{index}");
    }

    let form = Form { kept: DType::I8, ..form };
    let with = |change: fn(&mut Case)| {
        let mut case = case(&form, &x, true);
        change(&mut case);
        case.run_bytes()
    };
    let wrong: [fn(&mut Case); 6] = [
        |case| case.more_outputs.truncate(2),
        |case| case.more_outputs[0] = Some(shape(DType::F16, &[1, 2, 4, 5])),
        |case| case.more_outputs[2] = Some(shape(DType::F16, &[1, 2, 4, 2])),
        |case| case.more_outputs[3] = Some(shape(DType::F16, &[1, 2, 3, 1])),
        |case| case.more_outputs[3] = Some(shape(DType::F32, &[1, 2, 4, 1])),
        |case| case.variant = Some(DType::F32),
    ];
    assert!(with(|_| ()).is_ok());
    for (index, change) in wrong.into_iter().enumerate() {
        assert!(with(change).is_err(), "q8, {index}");
    }
}

use super::*;

const END: i32 = 3;

/// Log probabilities that follow from a text's last tokens, of 4 tokens.
fn behind(ids: &[i32]) -> Vec<f32> {
    let mut state = ids.iter().rev().take(3).fold(7u64, |state, id| {
        (state ^ (*id as u64 + 11)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ state >> 31
    });
    let mut logits = [0.0f32; 4].map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 22) as f32
    });
    // Texts end sooner or later.
    logits[END as usize] += ids.len() as f32 * 0.4 - 1.0;
    let sum: f32 = logits.iter().map(|l| l.exp()).sum();
    logits.map(|logit| logit - sum.ln()).to_vec()
}

fn search(size: usize, most: usize) -> Beam {
    let mut beams = Beams::new(size, 1.0, END);
    while !beams.is_over() && !beams.live().is_empty() && beams.live()[0].ids.len() < most {
        let before: Vec<Beam> = beams.live().to_vec();
        let rows: Vec<Vec<f32>> = before.iter().map(|beam| behind(&beam.ids)).collect();
        let parents = beams.step(&rows);
        assert!(parents.len() == beams.live().len() && parents.len() <= size);
        for (beam, parent) in beams.live().iter().zip(parents) {
            let (last, ids) = beam.ids.split_last().expect("a token");
            assert_eq!(ids, before[parent].ids);
            let sum = before[parent].sum + f64::from(rows[parent][*last as usize]);
            assert!((beam.sum - sum).abs() < 1e-9);
        }
    }
    beams.best(None)
}

/// All texts of up to `most` tokens, with the probabilities of their ends, and those of one token more that didn't end.
fn all(most: usize) -> Vec<Beam> {
    let mut texts = vec![Beam::default()];
    let mut ended = Vec::new();
    for _ in 0..=most {
        let mut longer = Vec::new();
        for beam in &texts {
            let row = behind(&beam.ids);
            ended.push(Beam { sum: beam.sum + f64::from(row[END as usize]), ..beam.clone() });
            longer.extend((0..END).map(|id| Beam {
                ids: [&beam.ids[..], &[id]].concat(),
                sum: beam.sum + f64::from(row[id as usize]),
            }));
        }
        texts = longer;
    }
    ended.extend(texts);
    ended
}

#[test]
fn one_beam_takes_the_best_token() {
    let mut ids = vec![];
    let mut sum = 0.0;
    loop {
        let row = behind(&ids);
        let best = (0..4).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("a token");
        sum += f64::from(row[best]);
        if best as i32 == END {
            break;
        }
        ids.push(best as i32);
    }
    let found = search(1, 50);
    assert_eq!(found.ids, ids);
    assert!((found.sum - sum).abs() < 1e-6);
}

#[test]
fn many_beams_find_the_best_of_all_texts() {
    let mean = |beam: &Beam| beam.sum / beam.ids.len().max(1) as f64;
    let texts = all(6);
    let best = texts.iter().max_by(|a, b| mean(a).total_cmp(&mean(b))).expect("a text");
    // As many as there are texts: nothing is dropped.
    let found = search(texts.len(), 7);
    assert!((mean(&found) - mean(best)).abs() < 1e-6, "{found:?}, {best:?}");
    assert_eq!(found.ids, best.ids);
    let few = search(3, 50);
    assert!(mean(&few) >= mean(&search(1, 50)) - 1e-9);
}

#[test]
fn texts_that_did_not_end_are_taken_where_too_few_did() {
    let mut beams = Beams::new(2, 1.0, END);
    let row = vec![-1.0, -2.0, f32::NEG_INFINITY, -9.0];
    assert_eq!(beams.step(std::slice::from_ref(&row)), [0, 0]);
    assert_eq!(beams.step(&[row.clone(), row]), [0, 0]);
    assert!(!beams.is_over());
    assert_eq!(beams.best(None), Beam { ids: vec![0, 0], sum: -2.0 });
    // Nothing is possible.
    let mut beams = Beams::new(2, 1.0, END);
    assert!(beams.step(&[vec![f32::NEG_INFINITY; 4]]).is_empty() && beams.live().is_empty());
    assert_eq!(beams.best(None), Beam::default());
}

#[test]
fn patience_waits_for_more_ends_and_length_penalties_weigh_them() {
    let row = vec![0.5f32.ln(), f32::NEG_INFINITY, f32::NEG_INFINITY, 0.5f32.ln()];
    // Patience, steps until the search is over: a text ends in each. Halves are rounded to even numbers.
    for (patience, steps) in [(0.1, 1), (0.5, 1), (1.0, 2), (1.25, 2), (1.5, 3), (2.0, 4)] {
        let mut beams = Beams::new(2, patience, END);
        let mut taken = 0;
        while !beams.is_over() {
            let rows = vec![row.clone(); beams.live().len()];
            beams.step(&rows);
            taken += 1;
        }
        assert_eq!(taken, steps, "{patience}");
    }
    // Texts of 0, 1 and 4 tokens, with sums of their log probabilities; which is the best by length penalty.
    let texts = [(0, -1.0), (1, -1.1), (4, -2.0)];
    for (penalty, best) in [(None, 4), (Some(0.0), 0), (Some(0.6), 1), (Some(1.0), 1)] {
        let mut beams = Beams::new(3, 1.0, END);
        beams.finished =
            texts.iter().map(|(len, sum)| Beam { ids: vec![0; *len], sum: *sum }).collect();
        assert_eq!(beams.best(penalty).ids.len(), best, "{penalty:?}");
    }
}

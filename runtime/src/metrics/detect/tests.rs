//! Each detector beside a plain one in f64, on streams with and without change.

use super::*;
use crate::metrics::counters::tests::Random;

/// Numbers in 0..=2¹⁵ around `before`, from `at` on around `after`; the sum of 4 uniform numbers is the noise.
fn stream(seed: u64, len: usize, at: usize, before: f64, after: f64, noise: f64) -> Vec<i32> {
    let mut random = Random(seed);
    (0..len)
        .map(|index| {
            let uniform: f64 = (0..4).map(|_| random.below(1 << 20) as f64 / 524_288.0 - 1.0).sum();
            let mean = if index < at { before } else { after };
            ((mean + noise * uniform) * 32768.0).clamp(0.0, 32768.0) as i32
        })
        .collect()
}

fn alarms(stream: &[i32], add: &mut dyn FnMut(i32) -> Option<Change>) -> Vec<usize> {
    (0..stream.len()).filter(|index| add(stream[*index]).is_some()).collect()
}

/// The streams that every detector is tried on.
fn streams() -> Vec<Vec<i32>> {
    let mut all = Vec::new();
    for seed in 1..8 {
        all.push(stream(seed, 3000, 1500, 0.8, 0.8, 0.05));
        all.push(stream(seed, 3000, 1500, 0.8, 0.7, 0.05));
        all.push(stream(seed, 3000, 900, 0.3, 0.5, 0.1));
        all.push(stream(seed, 3000, 40, 0.9, 0.1, 0.02));
    }
    all.push(vec![0; 500]);
    all.push(vec![32768; 500]);
    all
}

/// Both raise the same alarms, up to rounding: the same number, each within `slack` numbers of the other's.
fn agree(name: &str, ours: &[usize], oracle: &[usize], slack: usize) {
    let near = ours.iter().zip(oracle).all(|(a, b)| a.abs_diff(*b) <= slack);
    assert!(ours.len() == oracle.len() && near, "{name}: {ours:?} {oracle:?}");
}

#[test]
fn page_hinkley_agrees_with_floats() {
    let (delta, lambda, least) = (0.005, 5.0, 30usize);
    let parameters = [(delta * 32768.0) as i32, (lambda * 32768.0) as i32, least as i32];
    let mut raised = 0;
    for stream in streams() {
        let mut detector = PageHinkley::new(parameters);
        let ours = alarms(&stream, &mut |x| detector.add(x));
        // As written in the papers: sums and their extremes.
        let (mut seen, mut oracle) = (Vec::new(), Vec::new());
        let (mut up, mut down, mut lowest, mut highest) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
        for (index, x) in stream.iter().enumerate() {
            let x = f64::from(*x) / 32768.0;
            seen.push(x);
            let mean = seen.iter().sum::<f64>() / seen.len() as f64;
            up += x - mean - f64::from(parameters[0]) / 32768.0;
            down += x - mean + f64::from(parameters[0]) / 32768.0;
            (lowest, highest) = (lowest.min(up), highest.max(down));
            if seen.len() >= least && (up - lowest > lambda || highest - down > lambda) {
                oracle.push(index);
                seen.clear();
                (up, down, lowest, highest) = (0.0, 0.0, 0.0, 0.0);
            }
        }
        agree("Page-Hinkley", &ours, &oracle, 1);
        raised += ours.len();
    }
    assert!(raised > 14, "{raised}");
}

#[test]
fn cusum_and_ewma_agree_with_floats() {
    let (target, k, h, weight, limit) = (26_214, 500, 20_000, 6554, 3000);
    let mut raised = [0, 0];
    for stream in streams() {
        let mut detector = Cusum::new([target, k, h]);
        let ours = alarms(&stream, &mut |x| detector.add(x));
        let (mut up, mut down, mut oracle) = (0.0f64, 0.0f64, Vec::new());
        for (index, x) in stream.iter().enumerate() {
            let away = f64::from(*x) - f64::from(target);
            up = (up + away - f64::from(k)).max(0.0);
            down = (down - away - f64::from(k)).max(0.0);
            if up.max(down) > f64::from(h) {
                oracle.push(index);
                (up, down) = (0.0, 0.0);
            }
        }
        assert_eq!(ours, oracle, "CUSUM adds integers");
        raised[0] += ours.len();

        let mut detector = Ewma::new([target, weight, limit]);
        let ours = alarms(&stream, &mut |x| detector.add(x));
        let (mut average, mut oracle) = (f64::from(target), Vec::new());
        for (index, x) in stream.iter().enumerate() {
            let weight = f64::from(weight) / 65536.0;
            average = (1.0 - weight) * average + weight * f64::from(*x);
            if (average - f64::from(target)).abs() > f64::from(limit) {
                oracle.push(index);
                average = f64::from(target);
            }
        }
        agree("EWMA", &ours, &oracle, 0);
        raised[1] += ours.len();
    }
    assert!(raised.iter().all(|raised| *raised > 100), "{raised:?}");
}

#[test]
fn ddm_agrees_with_floats() {
    let mut random = Random(11);
    let mut raised = 0;
    for (rate, after) in [(5, 5), (5, 20), (20, 45), (0, 10), (50, 100), (0, 0)] {
        let stream: Vec<i32> = (0..4000)
            .map(|index| {
                let rate = if index < 2000 { rate } else { after };
                i32::from(random.below(100) < rate) << 15
            })
            .collect();
        let mut detector = Ddm::new([3 << 8, 30, 0]);
        let ours = alarms(&stream, &mut |x| detector.add(x));
        let (mut errors, mut count, mut oracle) = (0.0, 0.0, Vec::new());
        let (mut lowest_p, mut lowest_s) = (1.0f64, 1.0f64);
        for (index, x) in stream.iter().enumerate() {
            errors += f64::from(u8::from(*x != 0));
            count += 1.0;
            let p: f64 = errors / count;
            let s = (p * (1.0 - p) / count).sqrt();
            if count >= 30.0 && p + s <= lowest_p + lowest_s {
                (lowest_p, lowest_s) = (p, s);
            }
            if count >= 30.0 && p + s > lowest_p + 3.0 * lowest_s {
                oracle.push(index);
                (errors, count, lowest_p, lowest_s) = (0.0, 0.0, 1.0, 1.0);
            }
        }
        agree("DDM", &ours, &oracle, 1);
        raised += ours.len();
    }
    assert!(raised >= 4, "{raised}");
}

/// ADWIN over a plain list of buckets (size, sum, sum of squares), the oldest first.
fn adwin_oracle(stream: &[i32], delta: f64, rows: u32) -> Vec<usize> {
    let mut buckets: Vec<(f64, f64, f64)> = Vec::new();
    let mut alarms = Vec::new();
    for (index, x) in stream.iter().enumerate() {
        let x = f64::from(*x) / 32768.0;
        buckets.push((1.0, x, x * x));
        let mut size = 1.0;
        loop {
            let same: Vec<usize> = (0..buckets.len()).filter(|b| buckets[*b].0 == size).collect();
            if same.len() <= 5 {
                break;
            }
            let old = buckets.remove(same[0]);
            if size < f64::from(1u32 << (rows - 1)) {
                let next = &mut buckets[same[0]];
                *next = (next.0 + old.0, next.1 + old.1, next.2 + old.2);
            }
            size *= 2.0;
        }
        if (index + 1) % 32 != 0 {
            continue;
        }
        let mut raised = false;
        loop {
            let total =
                buckets.iter().fold((0.0, 0.0, 0.0), |t, b| (t.0 + b.0, t.1 + b.1, t.2 + b.2));
            let variance = total.2 / total.0 - (total.1 / total.0).powi(2);
            let strict = (2.0 * total.0.ln() / delta).ln();
            let mut old = (0.0, 0.0);
            let cut = buckets.iter().any(|bucket| {
                old = (old.0 + bucket.0, old.1 + bucket.1);
                let new = (total.0 - old.0, total.1 - old.1);
                let inverse = 1.0 / old.0 + 1.0 / new.0;
                let bound =
                    (2.0 * inverse * variance * strict).sqrt() + 2.0 / 3.0 * inverse * strict;
                old.0 >= 5.0 && new.0 >= 5.0 && (old.1 / old.0 - new.1 / new.0).abs() > bound
            });
            if !cut {
                break;
            }
            raised = true;
            buckets.remove(0);
        }
        if raised {
            alarms.push(index);
        }
    }
    alarms
}

#[test]
fn adwin_agrees_with_floats() {
    let delta = 0.002;
    let parameters = [407_281, 0, 0];
    assert_eq!(f64::from(parameters[0]), (-f64::ln(delta) * 65536.0).round());
    let (mut raised, mut quiet) = (0, 0);
    for stream in streams() {
        let mut detector = Adwin::<ADWIN_ROWS>::new(parameters);
        let ours = alarms(&stream, &mut |x| detector.add(x));
        // The window is looked at every 32 numbers: rounding may move an alarm to the next look.
        agree("ADWIN", &ours, &adwin_oracle(&stream, delta, ADWIN_ROWS as u32), 32);
        assert!(detector.len() <= 6 * 255);
        raised += ours.len();
        quiet += usize::from(ours.is_empty());
    }
    assert!(raised >= 21 && quiet >= 2, "{raised} {quiet}");
}

#[test]
fn numbers_at_the_limits_do_not_overflow() {
    for source in Source::ALL {
        for parameters in [[i32::MAX; 3], [i32::MIN; 3], [0; 3], [1; 3], [-1; 3]] {
            let record =
                DetectorRecord { source: source as u8, signal: 1, reserved: 0, parameters };
            let Some(mut detector) = Detector::new(&record) else {
                assert!(source < Source::PageHinkley);
                continue;
            };
            for index in 0..5000 {
                detector.add([i32::MAX, i32::MIN, 0, 1 << 22, -(1 << 22)][index % 5]);
            }
            for _ in 0..5000 {
                detector.add(i32::MAX);
            }
        }
    }
}

use super::*;

/// Text 0 to 9, the end 10, the start 11, other specials to 14, then 60 timestamps.
fn tokens() -> Tokens {
    Tokens {
        end: 10,
        start: 11,
        transcribe: None,
        translate: None,
        previous: Some(12),
        no_speech: Some(13),
        no_timestamps: 14,
        first_timestamp: 15,
        languages: Vec::new(),
        vocabulary: 75,
        suppressed: vec![3, 4],
        suppressed_first: vec![0, 10],
    }
}

/// The timestamp number `at`.
fn time(at: i32) -> i32 {
    15 + at
}

#[test]
fn what_may_follow() {
    struct Case {
        written: Vec<i32>,
        with_timestamps: bool,
        /// Text, the end, and the first and last timestamp that may come.
        text: bool,
        end: bool,
        times: Option<(i32, i32)>,
    }
    let case = |written: &[i32], text, end, times| Case {
        written: written.to_vec(),
        with_timestamps: true,
        text,
        end,
        times,
    };
    let cases = [
        // A time first, in the first second.
        case(&[], false, false, Some((0, 50))),
        // Then text, then a later time.
        case(&[time(4)], true, true, None),
        case(&[time(4), 7], true, true, Some((5, 59))),
        // The end of a segment: the next one begins, or the text ends.
        case(&[time(4), 7, time(9)], false, true, Some((9, 59))),
        case(&[time(4), 7, time(9), time(9)], true, true, None),
        case(&[time(4), 7, time(9), time(9), 8], true, true, Some((10, 59))),
        Case { with_timestamps: false, ..case(&[], true, false, None) },
        Case { with_timestamps: false, ..case(&[7], true, true, None) },
    ];
    for (at, case) in cases.into_iter().enumerate() {
        let mut logits = vec![1.0f32; 75];
        // Sixty times together would be more probable than a token of text.
        logits[15..].fill(-20.0);
        tokens().apply(&mut logits, &case.written, case.with_timestamps);
        let may = |id: i32| logits[id as usize] > f32::NEG_INFINITY;
        assert_eq!((may(7), may(10)), (case.text, case.end), "{at}");
        assert_eq!(may(0), case.text && !case.written.is_empty(), "{at}: not the first");
        assert!(!may(3) && !may(4) && (11..15).all(|id| !may(id)), "{at}: never");
        let times: Vec<i32> = (15..75).filter(|id| may(*id)).map(|id| id - 15).collect();
        let ends = times.first().zip(times.last()).map(|(first, last)| (*first, *last));
        assert_eq!(ends, case.times, "{at}");
    }
}

/// Times whose probabilities are together more than that of any token of text hide the text.
#[test]
fn many_times_are_one_time() {
    for (height, text) in [(-3.0f32, false), (-4.5, true)] {
        let mut logits = vec![f32::NEG_INFINITY; 75];
        logits[7] = 0.0;
        logits[15..].fill(height);
        // 54 may follow, of which each is less probable than the text: e³ is 20, e⁴·⁵ is 90.
        tokens().apply(&mut logits, &[time(5), 7], true);
        assert_eq!(logits[7] > f32::NEG_INFINITY, text, "{height}");
    }
}

#[test]
fn sums_of_exponentials() {
    assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), f64::NEG_INFINITY);
    assert!((log_sum_exp(&[1000.0, 1000.0]) - (1000.0 + 2f64.ln())).abs() < 1e-9);
    assert!((log_sum_exp(&[0.0, f32::NEG_INFINITY]) - 0.0).abs() < 1e-12);
}

use super::*;

/// The cost of a way given by where its rows begin.
fn cost_of(cost: &[f64], columns: usize, begins: &[usize], diagonal: &[bool]) -> f64 {
    let mut sum = 0.0;
    for (row, begin) in begins.iter().enumerate() {
        let end = match begins.get(row + 1) {
            // The next row begins one further, or in the same column.
            Some(next) if diagonal[row + 1] => *next,
            Some(next) => next + 1,
            None => columns,
        };
        sum += cost[row * columns..][*begin..end].iter().sum::<f64>();
    }
    sum
}

/// The least cost of all ways, tried one by one.
fn least(cost: &[f64], columns: usize) -> f64 {
    let rows = cost.len() / columns;
    let mut best = f64::INFINITY;
    for places in 0..columns.pow(rows as u32) {
        let begins: Vec<usize> =
            (0..rows).map(|row| places / columns.pow(row as u32) % columns).collect();
        for diagonals in 0..1u32 << rows {
            let diagonal: Vec<bool> = (0..rows).map(|row| diagonals >> row & 1 == 1).collect();
            let goes_on = (1..rows).all(|row| match diagonal[row] {
                true => begins[row] > begins[row - 1],
                false => begins[row] >= begins[row - 1],
            });
            if begins[0] == 0 && !diagonal[0] && goes_on {
                best = best.min(cost_of(cost, columns, &begins, &diagonal));
            }
        }
    }
    best
}

#[test]
fn the_cheapest_way_is_found() {
    let mut state = 5u64;
    for (rows, columns) in [(1, 1), (1, 5), (2, 2), (2, 5), (3, 4), (4, 4), (4, 2)] {
        for _ in 0..20 {
            let cost: Vec<f64> = (0..rows * columns)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 40) as f64 / f64::from(1 << 23) - 1.0
                })
                .collect();
            let begins = warp(&cost, columns);
            assert_eq!((begins.len(), begins[0]), (rows, 0));
            let found = (0..1u32 << rows)
                .filter_map(|diagonals| {
                    let diagonal: Vec<bool> =
                        (0..rows).map(|row| diagonals >> row & 1 == 1).collect();
                    let holds =
                        (1..rows).all(|row| !diagonal[row] || begins[row] > begins[row - 1]);
                    (holds && !diagonal[0]).then(|| cost_of(&cost, columns, &begins, &diagonal))
                })
                .fold(f64::INFINITY, f64::min);
            assert!((found - least(&cost, columns)).abs() < 1e-9, "{cost:?}: {begins:?}");
        }
    }
}

#[test]
fn tokens_begin_where_they_look() {
    // Six tokens look at ten frames each; two heads, the second of which always looks at the same one.
    let (heads, frames) = (2, 80);
    let mut weights = vec![0.001f32; 6 * heads * frames];
    for token in 0..6 {
        for frame in token * 10..(token + 1) * 10 {
            weights[token * heads * frames + frame] = 0.1;
        }
        weights[(token * heads + 1) * frames + 33] = 0.9;
    }
    let attention = Attention { heads, frames, weights };
    assert_eq!(attention.frames_of(0..6, 60), [0, 10, 20, 30, 40, 50]);
    assert_eq!(attention.frames_of(1..4, 60)[1..], [20, 30]);
    // Numbers that aren't numbers lead somewhere.
    let broken = Attention { weights: vec![f32::NAN; 6 * heads * frames], ..attention };
    assert_eq!(broken.frames_of(0..6, 60).len(), 6);
    assert_eq!(broken.frames_of(0..6, 0).len(), 6);
}

#[test]
fn medians_are_those_of_the_neighbours() {
    assert_eq!(medians(&[1.0, 9.0, 2.0]), [1.0, 9.0, 2.0]);
    // 4 3 2 1 2 3 4, then 3 2 1 2 3 4 5 and so on.
    assert_eq!(medians(&[1.0, 2.0, 3.0, 4.0, 5.0]), [3.0, 3.0, 3.0, 3.0, 3.0]);
    let spike = [0.0, 0.0, 0.0, 0.0, 7.0, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(medians(&spike), [0.0; 9]);
}

#[test]
fn texts_are_cut_into_words() {
    struct Case {
        tokens: &'static [&'static [u8]],
        language: Option<&'static str>,
        words: &'static [(&'static str, Range<usize>)],
    }
    let cases = [
        Case { tokens: &[], language: None, words: &[] },
        Case {
            tokens: &[b" And", b" fel", b"low", b",", b" ask", b"."],
            language: Some("en"),
            words: &[(" And", 0..1), (" fellow,", 1..4), (" ask.", 4..6)],
        },
        Case {
            tokens: &[b" He", b" \"", b"no", b"\"", b"!"],
            language: None,
            words: &[(" He", 0..1), (" \"no\"!", 1..5)],
        },
        // A character of three bytes in two tokens.
        Case {
            tokens: &[b"\xe6\xbc", b"\xa2", b"\xe5\xad\x97", b"\xe3\x80\x82"],
            language: Some("zh"),
            words: &[("漢", 0..2), ("字。", 2..4)],
        },
        Case { tokens: &[b" a", b"\xe6"], language: None, words: &[(" a\u{fffd}", 0..2)] },
        Case { tokens: &[b"no", b"space"], language: None, words: &[("nospace", 0..2)] },
    ];
    for Case { tokens, language, words } in cases {
        let decode = |range: Range<usize>| -> Result<String, ()> {
            Ok(String::from_utf8_lossy(&tokens[range].concat()).into_owned())
        };
        let found = pieces(tokens.len(), language, decode).expect("words");
        let found: Vec<_> = found.iter().map(|p| (&*p.text, p.tokens.clone())).collect();
        assert_eq!(found, words);
    }
}

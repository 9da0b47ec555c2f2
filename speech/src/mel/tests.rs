use super::*;

/// f32 sums of a few hundred numbers, as logarithms over four.
const TOLERANCE: f64 = 2e-5;

/// Numbers between −1 and 1 that look random.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// By the definitions in f64: a transform of every frame, a triangle over every bin.
fn expected(settings: &MelSettings, samples: &[f32]) -> Vec<Vec<f64>> {
    let MelSettings { fft, hop, mels, .. } = *settings;
    let rate = f64::from(settings.sample_rate);
    let sample = |at: i64| samples.get(at.unsigned_abs() as usize).map_or(0.0, |s| f64::from(*s));
    // The table of the mel scale, made by steps instead of by a formula for any mel.
    let mel_step = mel_of_hz(rate / 2.0) / (mels + 1) as f64;
    let hz = |corner: usize| {
        let mel = mel_step * corner as f64;
        if mel < 15.0 { mel * 200.0 / 3.0 } else { 1000.0 * 6.4f64.powf((mel - 15.0) / 27.0) }
    };
    let mut rows = Vec::new();
    for frame in 0..settings.frames {
        let mut power = Vec::new();
        for bin in 0..=fft / 2 {
            let (mut re, mut im) = (0.0, 0.0);
            for offset in 0..fft {
                let turn = std::f64::consts::TAU * offset as f64 / fft as f64;
                let weight = 0.5 * (1.0 - turn.cos());
                let value = weight * sample((frame * hop + offset) as i64 - (fft / 2) as i64);
                re += value * (turn * bin as f64).cos();
                im -= value * (turn * bin as f64).sin();
            }
            power.push(re * re + im * im);
        }
        let filter = |mel: usize| {
            let [low, centre, high] = [hz(mel), hz(mel + 1), hz(mel + 2)];
            let weigh = |(bin, power): (usize, &f64)| {
                let at = bin as f64 * rate / fft as f64;
                let up = (at - low) / (centre - low);
                let down = (high - at) / (high - centre);
                power * up.min(down).max(0.0) * 2.0 / (high - low)
            };
            power.iter().enumerate().map(weigh).sum::<f64>().max(1e-10).log10()
        };
        rows.push((0..mels).map(filter).collect::<Vec<f64>>());
    }
    let largest = rows.iter().flatten().copied().fold(f64::MIN, f64::max);
    rows.iter_mut().flatten().for_each(|v| *v = (v.max(largest - 8.0) + 4.0) / 4.0);
    rows
}

#[test]
fn spectrograms_follow_their_definition() {
    let whisper = MelSettings { sample_rate: 16000, fft: 400, hop: 160, mels: 80, frames: 12 };
    let cases = [
        // Shorter than a window, whose end is silent; and longer than one.
        (whisper, noise(1000)),
        (MelSettings { mels: 128, ..whisper }, noise(1601)),
        (MelSettings { fft: 64, hop: 7, mels: 9, frames: 80, ..whisper }, noise(500)),
        (whisper, vec![0.0; 700]),
        (whisper, noise(1)),
    ];
    for (at, (settings, samples)) in cases.into_iter().enumerate() {
        let spectrogram = LogMel::new(settings).spectrogram(&samples);
        assert_eq!(spectrogram.frames(), samples.len() / settings.hop);
        let mut window = vec![f32::NAN; settings.frames * settings.mels];
        spectrogram.window(0, &mut window);
        let want = expected(&settings, &samples);
        for (got, want) in window.iter().zip(want.iter().flatten()) {
            assert!((f64::from(*got) - want).abs() < TOLERANCE, "case {at}: {got}, not {want}");
        }
        // A later window is a piece of the same spectrogram, then silence.
        let mut later = window.clone();
        spectrogram.window(3, &mut later);
        let moved = 3 * settings.mels;
        let known = spectrogram.values.len().min(window.len());
        assert_eq!(later[..known.saturating_sub(moved)], window[moved.min(known)..known]);
        spectrogram.window(usize::MAX, &mut later);
        assert!(later.iter().all(|value| *value == spectrogram.silence), "case {at}");
    }
}

/// The corners of the scale: 1000 Hz is 15 mels, and 6400 Hz another 27.
#[test]
fn the_scale_is_slaneys() {
    for (hz, mel) in [(0.0, 0.0), (500.0, 7.5), (1000.0, 15.0), (6400.0, 42.0)] {
        assert!((mel_of_hz(hz) - mel).abs() < 1e-9 && (hz_of_mel(mel) - hz).abs() < 1e-9);
    }
}

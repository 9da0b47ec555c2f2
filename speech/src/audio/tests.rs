use super::*;

/// Bytes of a WAV file of 16 bits.
fn wav_bytes(channels: u16, sample_rate: u32, samples: &[i16]) -> Vec<u8> {
    let spec = hound::WavSpec {
        channels,
        sample_rate,
        bits_per_sample: 16,
        sample_format: SampleFormat::Int,
    };
    let mut file = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
    samples.iter().for_each(|s| writer.write_sample(*s).unwrap());
    writer.finalize().unwrap();
    file.into_inner()
}

fn of(bytes: &[u8]) -> Result<Audio, SpeechError> {
    Audio::read(bytes)
}

#[test]
fn samples_of_every_width_are_from_minus_one_to_one() {
    for (bits, sample_format) in [
        (8, SampleFormat::Int),
        (16, SampleFormat::Int),
        (24, SampleFormat::Int),
        (32, SampleFormat::Int),
        (32, SampleFormat::Float),
    ] {
        let spec =
            hound::WavSpec { channels: 1, sample_rate: 8000, bits_per_sample: bits, sample_format };
        let mut file = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
        for value in [-1.0f32, -0.5, 0.0, 0.25] {
            match sample_format {
                SampleFormat::Float => writer.write_sample(value).unwrap(),
                SampleFormat::Int => {
                    let scale = (1i64 << (bits - 1)) as f32;
                    writer.write_sample((value * scale) as i32).unwrap();
                }
            }
        }
        writer.finalize().unwrap();
        let audio = of(&file.into_inner()).unwrap();
        assert_eq!(audio.samples, [-1.0, -0.5, 0.0, 0.25], "{bits} {sample_format:?}");
        assert_eq!(audio.sample_rate, 8000);
    }
}

#[test]
fn channels_are_averaged() {
    let audio = of(&wav_bytes(2, 16000, &[16384, -16384, 8192, 16384])).unwrap();
    assert_eq!(audio.samples, [0.0, 0.375]);
}

#[test]
fn bad_files_are_named() {
    let good = wav_bytes(1, 16000, &[1; 100]);
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    // Samples, then bytes per second.
    let rate = [2_000_000_000u32.to_le_bytes(), 4_000_000_000u32.to_le_bytes()].concat();
    struct Case(Vec<u8>, &'static str);
    let cases = [
        Case(vec![], "no samples"),
        Case(b"ID3\x04something".to_vec(), "neither a WAV nor a FLAC"),
        Case(b"RI".to_vec(), "neither a WAV nor a FLAC"),
        Case(good[..30].to_vec(), "WAV file is damaged"),
        Case(good[..150].to_vec(), "of the 100 samples"),
        Case(wav_bytes(1, 16000, &[]), "no samples"),
        Case(wav_bytes(1, 10, &[0]), "sample rate of 10 Hz"),
        Case(with(24, &rate), "sample rate of 2000000000 Hz"),
        Case(with(8, b"AVI "), "damaged"),
        // The data promises four gigabytes.
        Case(with(good.len() - 204, &0xffff_fff0u32.to_le_bytes()), "of the 2147483640 samples"),
        Case(b"fLaC".to_vec(), "FLAC file is damaged"),
        Case([b"fLaC\x80\x00\x00\x22".to_vec(), vec![0; 34]].concat(), "FLAC file is damaged"),
    ];
    for (at, Case(bytes, part)) in cases.into_iter().enumerate() {
        let error = of(&bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{at}: {error}");
    }
}

/// Whatever is cut off or changed, there is an answer.
#[test]
fn damaged_files_are_no_panics() {
    let good = wav_bytes(2, 44100, &[7; 60]);
    for end in 0..good.len() {
        assert!(of(&good[..end]).is_err(), "cut at {end}");
    }
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut file = good.clone();
            file[at] ^= 1 << bit;
            drop(of(&file));
        }
    }
}

/// A tone keeps its frequency, its height and its place, and one that the new rate can't hold is gone.
#[test]
fn rates_change() {
    for (from, to) in [(44100u32, 16000u32), (48000, 16000), (8000, 16000), (22050, 16000)] {
        let tone = |hz: f64, rate: u32, count: usize| -> Vec<f32> {
            let turn = std::f64::consts::TAU * hz / f64::from(rate);
            (0..count).map(|at| (turn * at as f64).sin() as f32 * 0.5).collect()
        };
        let seconds = |rate: u32| rate as usize / 2;
        let audio = Audio { samples: tone(440.0, from, seconds(from)), sample_rate: from };
        let audio = audio.resampled(to).unwrap();
        assert_eq!((audio.sample_rate, audio.samples.len()), (to, seconds(to)));
        let want = tone(440.0, to, seconds(to));
        // The resampler's delay is a whole number of samples: up to half a sample of the input is left.
        let off = 2e-3 + 0.5 * (std::f64::consts::PI * 440.0 / f64::from(from)) as f32;
        // The ends are beside silence.
        let inside = 1000..seconds(to) - 1000;
        for (got, want) in audio.samples[inside.clone()].iter().zip(&want[inside.clone()]) {
            assert!((got - want).abs() < off, "{from} to {to}: {got}, not {want}");
        }
        if from > to {
            let audio = Audio { samples: tone(9500.0, from, seconds(from)), sample_rate: from };
            let left = audio.resampled(to).unwrap().samples;
            assert!(left[inside].iter().all(|sample| sample.abs() < 2e-3), "{from} to {to}");
        }
    }
}

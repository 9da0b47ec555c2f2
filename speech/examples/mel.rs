//! Writes the first window of a sound's spectrogram as Whisper wants it, `[3000, mels]` of f32:
//! `cargo run --release -p whit-speech --example mel -- FILE.wav MELS OUT.bin`.

use std::path::Path;

use whit_speech::{Audio, LogMel, MelSettings};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [sound, mels, out] = &arguments[..] else { return Err("FILE.wav MELS OUT.bin".into()) };
    let settings =
        MelSettings { sample_rate: 16000, fft: 400, hop: 160, mels: mels.parse()?, frames: 3000 };
    let audio = Audio::open(Path::new(sound))?.resampled(settings.sample_rate)?;
    let spectrogram = LogMel::new(settings).spectrogram(&audio.samples);
    let mut window = vec![0.0; settings.frames * settings.mels];
    spectrogram.window(0, &mut window);
    let bytes: Vec<u8> = window.iter().flat_map(|value| value.to_le_bytes()).collect();
    std::fs::write(out, bytes)?;
    Ok(())
}

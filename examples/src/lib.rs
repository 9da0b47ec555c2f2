//! What the examples share: an image of a digit, and noise.

/// A three as the digits model takes it: 8×8 pixels of 0..=16 (from digits/digits-test.npz).
#[rustfmt::skip]
pub const THREE: [f32; 64] = [
    0.0, 0.0,  6.0, 14.0, 16.0, 16.0,  2.0, 0.0,
    0.0, 5.0, 16.0, 13.0, 11.0, 16.0,  0.0, 0.0,
    0.0, 0.0,  7.0,  2.0, 15.0, 12.0,  0.0, 0.0,
    0.0, 0.0,  0.0,  7.0, 16.0, 13.0,  1.0, 0.0,
    0.0, 0.0,  0.0,  0.0,  6.0, 15.0, 10.0, 0.0,
    0.0, 0.0,  0.0,  0.0,  0.0, 15.0,  9.0, 0.0,
    0.0, 0.0,  3.0, 11.0,  8.0, 16.0,  6.0, 0.0,
    0.0, 0.0,  7.0, 16.0, 16.0,  8.0,  0.0, 0.0,
];

/// The most probable class and its probability.
pub fn best(probabilities: &[f32]) -> Option<(usize, f32)> {
    probabilities.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
}

/// An image with noise of some strength added: always the same for a seed.
pub fn noisy(image: &[f32; 64], strength: f32, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut noise = || {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    // The first numbers of neighbouring seeds are alike.
    for _ in 0..8 {
        noise();
    }
    image.iter().map(|pixel| (pixel + strength * noise()).clamp(0.0, 16.0)).collect()
}

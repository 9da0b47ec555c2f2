//! Angles of rotary positions, with the ways of stretching them over longer texts.

use crate::error::ImportError;
use crate::tensor::Tensor;

use super::config::Config;

/// How queries and keys turn with their position.
#[derive(Clone, Debug)]
pub(super) struct Rope {
    /// Channels of a head that turn.
    pub(super) rotated: usize,
    /// Pairs are neighbours, not halves.
    pub(super) interleaved: bool,
    /// Angle per position of each pair.
    frequencies: Vec<f64>,
    /// Factor of cosines and sines.
    factor: f64,
}

impl Rope {
    /// What `rope_theta`, `partial_rotary_factor` and `rope_scaling` (or `rope_parameters`) say of heads of `size`
    /// channels in a model made for `positions` positions.
    pub(super) fn new(config: &Config, size: usize, positions: usize) -> Result<Rope, ImportError> {
        let parameters = config.section("rope_parameters")?;
        let flat = |key: &str| -> Result<Option<f32>, ImportError> {
            match &parameters {
                Some(section) if section.get(key).is_some() => section.optional_float(key),
                _ => config.optional_float(key),
            }
        };
        let base = f64::from(flat("rope_theta")?.unwrap_or(10000.0));
        let share = flat("partial_rotary_factor")?.unwrap_or(1.0);
        let mut rope = Rope::plain(config, base, (size as f32 * share) as usize)?;
        if !(0.0..=1.0).contains(&share) {
            return Err(config.wrong("partial_rotary_factor", "is not from 0 to 1"));
        }
        rope.interleaved = config.flag_or("rope_interleaved", false)?;
        if let Some(factors) = config.optional_floats("rope_factors")? {
            rope.divide(config, "rope_factors", &factors)?;
        }
        let scaling = match config.section("rope_scaling")? {
            Some(scaling) => Some(scaling),
            None => parameters.filter(|section| section.get("rope_type").is_some()),
        };
        if let Some(scaling) = scaling {
            rope.stretch(&scaling, config, base, positions)?;
        }
        Ok(rope)
    }

    /// Without stretching.
    pub(super) fn plain(config: &Config, base: f64, rotated: usize) -> Result<Rope, ImportError> {
        if !rotated.is_multiple_of(2) || base <= 0.0 {
            let problem =
                format!("is {base} for {rotated} channels; it must be above 0 for an even number");
            return Err(config.wrong("rope_theta", problem));
        }
        let frequency = |pair: usize| base.powf(-2.0 * pair as f64 / rotated as f64);
        let frequencies = (0..rotated / 2).map(frequency).collect();
        Ok(Rope { rotated, interleaved: false, frequencies, factor: 1.0 })
    }

    /// Makes every angle smaller by the same factor.
    pub(super) fn slow_down(&mut self, factor: f64) {
        self.frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
    }

    fn divide(&mut self, config: &Config, key: &str, by: &[f32]) -> Result<(), ImportError> {
        if by.len() != self.frequencies.len() || by.iter().any(|factor| *factor <= 0.0) {
            let problem =
                format!("has {} numbers; {} above 0 are needed", by.len(), self.frequencies.len());
            return Err(config.wrong(key, problem));
        }
        for (frequency, factor) in self.frequencies.iter_mut().zip(by) {
            *frequency /= f64::from(*factor);
        }
        Ok(())
    }

    fn stretch(
        &mut self,
        scaling: &Config,
        config: &Config,
        base: f64,
        positions: usize,
    ) -> Result<(), ImportError> {
        let kind = match scaling.optional_text("rope_type")? {
            Some(kind) => kind,
            None => scaling.text_or("type", "default")?,
        };
        let number = |key: &str| scaling.float(key).map(f64::from);
        let number_or =
            |key: &str, default: f64| scaling.float_or(key, default as f32).map(f64::from);
        let original = |default: usize| -> Result<f64, ImportError> {
            let key = "original_max_position_embeddings";
            let outer = config.size_or(key, default)?;
            Ok(scaling.size_or(key, outer)? as f64)
        };
        match kind {
            "default" => {}
            "linear" => {
                let factor = number("factor")?;
                self.slow_down(factor);
            }
            // Llama 3.1: long waves are slowed down, short ones stay, and between them it is gradual.
            "llama3" => {
                let (factor, original) = (number("factor")?, original(8192)?);
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                for frequency in &mut self.frequencies {
                    let turns = original * *frequency / std::f64::consts::TAU;
                    let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *frequency *= (1.0 - smooth) / factor + smooth;
                }
            }
            // Peng et al., YaRN, 2023.
            "yarn" => {
                let (factor, original) = (number("factor")?, original(positions)?);
                let half = self.frequencies.len() as f64;
                let pair_of = |turns: f64| {
                    half * (original / (turns * std::f64::consts::TAU)).ln() / base.ln()
                };
                let low = pair_of(number_or("beta_fast", 32.0)?).floor().max(0.0);
                let high = pair_of(number_or("beta_slow", 1.0)?).ceil().min(2.0 * half - 1.0);
                let width = if high > low { high - low } else { 0.001 };
                for (pair, frequency) in self.frequencies.iter_mut().enumerate() {
                    let slow = ((pair as f64 - low) / width).clamp(0.0, 1.0);
                    *frequency *= slow / factor + 1.0 - slow;
                }
                let own = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
                self.factor = number_or("attention_factor", own)?;
            }
            // Ding et al., LongRoPE, 2024: one list of factors for what fits the original length, one beyond it.
            "longrope" | "su" => {
                let original = original(positions)?;
                let stretched = positions as f64 / original;
                let is_long =
                    config.size_or("rope_positions", original as usize)? as f64 > original;
                let key = if is_long { "long_factor" } else { "short_factor" };
                let factors = scaling.optional_floats(key)?;
                let factors = factors.ok_or_else(|| scaling.wrong(key, "is missing"))?;
                self.divide(scaling, key, &factors)?;
                let own = match stretched > 1.0 {
                    true => (1.0 + stretched.ln() / original.ln()).sqrt(),
                    false => 1.0,
                };
                self.factor = number_or("attention_factor", own)?;
            }
            other => {
                let problem =
                    format!("is `{other}`; known are default, linear, llama3, yarn, longrope");
                return Err(scaling.wrong("rope_type", problem));
            }
        }
        match self.frequencies.iter().all(|frequency| frequency.is_finite()) {
            true => Ok(()),
            false => {
                Err(scaling
                    .wrong("rope_type", "with these factors gives angles that aren't finite"))
            }
        }
    }

    /// `[positions, rotated]`: cosines of all pairs, then sines.
    pub(super) fn table(&self, positions: usize) -> Tensor {
        let mut values = Vec::with_capacity(positions * self.rotated);
        for position in 0..positions {
            let angles = self.frequencies.iter().map(|frequency| position as f64 * frequency);
            values.extend(angles.clone().map(|angle| (angle.cos() * self.factor) as f32));
            values.extend(angles.map(|angle| (angle.sin() * self.factor) as f32));
        }
        Tensor::from_f32([positions, self.rotated], &values)
    }
}

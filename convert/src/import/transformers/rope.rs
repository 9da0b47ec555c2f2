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

/// Layers that turn alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layers {
    /// All of a model.
    All,
    /// Those that see everything, of a model that has others.
    Full,
    /// Those that see a window.
    Sliding,
}

impl Layers {
    /// The part of the configuration that speaks of these layers; `transformers` 5 lists several kinds in `rope_parameters`.
    fn parameters(self, config: &Config) -> Result<Option<Config>, ImportError> {
        const KEY: &str = "rope_parameters";
        const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];
        let parameters = config.section(KEY)?;
        let Some(section) = parameters.filter(Config::has_sections) else {
            // What isn't told apart by layers is that of layers without windows.
            return Ok(config.section(KEY)?.filter(|_| self != Layers::Sliding));
        };
        let kind = match self {
            Layers::All => {
                let problem = "has parts for kinds of layers, and this architecture has one kind";
                return Err(config.wrong(KEY, problem));
            }
            Layers::Full => KINDS[0],
            Layers::Sliding => KINDS[1],
        };
        match section.section(kind)? {
            Some(parameters) => Ok(Some(parameters)),
            None => Err(section.wrong(kind, "is missing")),
        }
    }
}

impl Rope {
    /// What `rope_theta` (by default `theta`), `partial_rotary_factor` and `rope_scaling` (or `rope_parameters`) say of
    /// `layers` with heads of `size` channels in a model made for `positions` positions, of which there is room for
    /// `context`.
    pub(super) fn new(
        config: &Config,
        layers: Layers,
        theta: f32,
        size: usize,
        [positions, context]: [usize; 2],
    ) -> Result<Rope, ImportError> {
        let parameters = layers.parameters(config)?;
        let flat = |key: &str, older: &str| -> Result<Option<f32>, ImportError> {
            match &parameters {
                Some(section) if section.get(key).is_some() => section.optional_float(key),
                _ => config.optional_float(older),
            }
        };
        let theta_key = match layers {
            Layers::Sliding => "rope_local_base_freq",
            Layers::All | Layers::Full => "rope_theta",
        };
        let base = f64::from(flat("rope_theta", theta_key)?.unwrap_or(theta));
        let share = flat("partial_rotary_factor", "partial_rotary_factor")?.unwrap_or(1.0);
        let mut rope = Rope::plain(config, base, (size as f32 * share) as usize)?;
        if !(0.0..=1.0).contains(&share) {
            return Err(config.wrong("partial_rotary_factor", "is not from 0 to 1"));
        }
        rope.interleaved = config.flag_or("rope_interleaved", false)?;
        if let Some(factors) = config.optional_floats("rope_factors")? {
            rope.divide(config, "rope_factors", &factors)?;
        }
        let scaling = config.section("rope_scaling")?.filter(|_| layers != Layers::Sliding);
        let scaling = scaling.or(parameters.filter(|section| section.get("rope_type").is_some()));
        if let Some(scaling) = scaling {
            rope.stretch(&scaling, config, base, [positions, context])?;
        }
        Ok(rope)
    }

    /// Without stretching.
    fn plain(config: &Config, base: f64, rotated: usize) -> Result<Rope, ImportError> {
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
        [positions, context]: [usize; 2],
    ) -> Result<(), ImportError> {
        let kind = match scaling.optional_text("rope_type")? {
            Some(kind) => kind,
            None => scaling.text_or("type", "default")?,
        };
        let number = |key: &str| scaling.float(key).map(f64::from);
        let number_or =
            |key: &str, default: f64| scaling.float_or(key, default as f32).map(f64::from);
        let original = || -> Result<f64, ImportError> {
            let key = "original_max_position_embeddings";
            let inner = scaling.size_or(key, positions)?;
            Ok(config.size_or(key, inner)? as f64)
        };
        let optional = |key: &str| -> Result<Option<f64>, ImportError> {
            Ok(scaling.optional_float(key)?.map(f64::from))
        };
        match kind {
            // Dynamic NTK enlarges the base for positions beyond those that the model was made for, which a file has no
            // room for.
            "default" | "dynamic" => {}
            "linear" => {
                let factor = number("factor")?;
                self.slow_down(factor);
            }
            // Llama 3.1: long waves are slowed down, short ones stay, and between them it is gradual.
            "llama3" => {
                let (factor, original) = (number("factor")?, original()?);
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                for frequency in &mut self.frequencies {
                    let turns = original * *frequency / std::f64::consts::TAU;
                    let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *frequency *= (1.0 - smooth) / factor + smooth;
                }
            }
            // Ding et al., LongRoPE, 2024: one list of factors for what fits the original length, one beyond it.
            // Phi-3 called it su and yarn first.
            "longrope" | "su" | "yarn"
                if kind != "yarn" || scaling.get("short_factor").is_some() =>
            {
                let original = original()?;
                let stretched = optional("factor")?.unwrap_or(positions as f64 / original);
                let key = if context as f64 > original { "long_factor" } else { "short_factor" };
                let factors = scaling.optional_floats(key)?;
                let factors = factors.ok_or_else(|| scaling.wrong(key, "is missing"))?;
                self.divide(scaling, key, &factors)?;
                let own = match stretched > 1.0 {
                    true => (1.0 + stretched.ln() / original.ln()).sqrt(),
                    false => 1.0,
                };
                self.factor = optional("attention_factor")?.unwrap_or(own);
            }
            // Peng et al., YaRN, 2023.
            "yarn" => {
                let original = original()?;
                let factor = optional("factor")?.unwrap_or(positions as f64 / original);
                let half = self.frequencies.len() as f64;
                let pair_of = |turns: f64| {
                    half * (original / (turns * std::f64::consts::TAU)).ln() / base.ln()
                };
                let mut low = pair_of(number_or("beta_fast", 32.0)?);
                let mut high = pair_of(number_or("beta_slow", 1.0)?);
                if scaling.flag_or("truncate", true)? {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, high) = (low.max(0.0), high.min(2.0 * half - 1.0));
                let width = if high == low { 0.001 } else { high - low };
                for (pair, frequency) in self.frequencies.iter_mut().enumerate() {
                    let slow = ((pair as f64 - low) / width).clamp(0.0, 1.0);
                    *frequency *= slow / factor + 1.0 - slow;
                }
                let by =
                    |scale: f64| if factor > 1.0 { 0.1 * scale * factor.ln() + 1.0 } else { 1.0 };
                let scales = (optional("mscale")?, optional("mscale_all_dim")?);
                let own = match scales {
                    (Some(scale), Some(all)) if scale != 0.0 && all != 0.0 => by(scale) / by(all),
                    _ => by(1.0),
                };
                self.factor = optional("attention_factor")?.unwrap_or(own);
            }
            other => {
                let problem = format!(
                    "is `{other}`; known are default, linear, dynamic, llama3, yarn, longrope"
                );
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

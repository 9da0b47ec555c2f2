//! Steps that make a quantization better. Each is measured, and dropped where it doesn't help.

mod bias;
mod equalize;
mod finetune;
mod gptq;
pub(super) mod probe;
mod rounding;
mod rows;
#[cfg(test)]
mod tests;
mod widen;

use std::fmt;
use std::str::FromStr;

use crate::evaluate::{EvaluateError, Program, Samples};
use crate::graph::Graph;
use crate::pipeline::Watch;
use crate::plan::PlanOptions;
use crate::quantize::calibrate::{Method, Ranges, calibrate};
use crate::quantize::measure::{Noise, noise_by_sample, shares, sigma};
use crate::quantize::numbers::Numbers;
use crate::quantize::quantization::Quantization;

/// A step by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Improvement {
    /// The layers whose 4 bits harm the outputs most per byte get 8 bits; see [`widen`].
    Widen,
    /// Channels rescaled between layers; see [`equalize`].
    Equalize,
    /// Weights rounded one after the other, each making up for those before; see [`gptq`].
    Gptq,
    /// Which way weights are rounded, learned layer by layer; see [`learn::rounding`](crate::learn::rounding).
    Rounding,
    /// Biases that take back the shift of means; see [`bias`].
    Bias,
    /// The whole model tuned towards the float model's outputs; see [`learn::finetune`](crate::learn::finetune).
    FineTune,
}

impl Improvement {
    /// Every step, in the order in which they are applied.
    pub const ALL: &'static [Improvement] = &[
        Improvement::Widen,
        Improvement::Equalize,
        Improvement::Gptq,
        Improvement::Rounding,
        Improvement::Bias,
        Improvement::FineTune,
    ];

    /// The name that `--improve` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Improvement::Widen => "widen",
            Improvement::Equalize => "equalize",
            Improvement::Gptq => "gptq",
            Improvement::Rounding => "rounding",
            Improvement::Bias => "bias",
            Improvement::FineTune => "finetune",
        }
    }

    /// Improves a quantization; false when there was nothing to do. Whether it helped, [`improve`] finds out.
    ///
    /// # Errors
    /// When a sample doesn't fit or a run fails.
    pub fn run(
        self,
        quantization: &mut Quantization,
        context: &mut Context<'_>,
    ) -> Result<bool, EvaluateError> {
        match self {
            Improvement::Widen => widen::run(quantization, context),
            Improvement::Equalize => equalize::run(quantization, context),
            Improvement::Gptq => gptq::run(quantization, context),
            Improvement::Rounding => rounding::run(quantization, context),
            Improvement::Bias => bias::run(quantization, context),
            Improvement::FineTune => finetune::run(quantization, context),
        }
    }
}

impl fmt::Display for Improvement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Improvement {
    type Err = String;

    fn from_str(text: &str) -> Result<Improvement, String> {
        let found = Improvement::ALL.iter().find(|step| step.name() == text);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = Improvement::ALL.iter().map(|step| step.name()).collect();
            format!("`{text}` is none of auto, none, {}", names.join(", "))
        })
    }
}

/// Which steps are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Steps {
    /// Those that serve the numbers of the layers and take seconds; see [`Steps::for_numbers`].
    Auto,
    /// These.
    Named(Vec<Improvement>),
}

impl Steps {
    /// The steps for a model with these numbers, in order.
    pub fn for_numbers(&self, numbers: &[Numbers]) -> Vec<Improvement> {
        let has = |of: &dyn Fn(&Numbers) -> bool| numbers.iter().any(of);
        let integers = has(&|numbers| numbers.integer().is_some());
        let narrow = has(&|numbers| numbers.widened().is_some());
        let grouped = narrow || has(&|numbers| matches!(numbers, Numbers::Grouped { .. }));
        let serves = |step: &Improvement| match step {
            Improvement::Widen => narrow,
            Improvement::Equalize | Improvement::Bias => integers || narrow,
            Improvement::Gptq => grouped,
            Improvement::Rounding | Improvement::FineTune => false,
        };
        match self {
            Steps::Auto => Improvement::ALL.iter().copied().filter(serves).collect(),
            Steps::Named(steps) => {
                let mut steps = steps.clone();
                steps.sort();
                steps.dedup();
                steps
            }
        }
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Steps::Auto => f.write_str("auto"),
            Steps::Named(steps) if steps.is_empty() => f.write_str("none"),
            Steps::Named(steps) => {
                let names: Vec<&str> = steps.iter().map(|step| step.name()).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl FromStr for Steps {
    type Err = String;

    fn from_str(text: &str) -> Result<Steps, String> {
        match text {
            "auto" => Ok(Steps::Auto),
            "none" => Ok(Steps::Named(Vec::new())),
            names => names
                .split(',')
                .map(|name| name.trim().parse())
                .collect::<Result<_, _>>()
                .map(Steps::Named),
        }
    }
}

/// What a step works with.
pub struct Context<'c> {
    /// The float model; its nodes and values are those of the quantization's graph, equalized when that is.
    pub reference: &'c Graph,
    /// Calibration data.
    pub samples: &'c dyn Samples,
    /// How ranges are chosen, for steps that change them.
    pub method: Method,
    /// Where a step draws random numbers, they follow from this.
    pub seed: u64,
    /// Hears the progress.
    pub watch: &'c mut dyn Watch,
    /// What the user should know: what a step couldn't do, and why.
    pub notes: Vec<String>,
}

impl Context<'_> {
    /// Ranges of the activations of a graph with these numbers, chosen as those of the model were.
    fn calibrate(&mut self, graph: &Graph, numbers: &[Numbers]) -> Result<Ranges, EvaluateError> {
        let watch = &mut *self.watch;
        let mut progress = |stage: &str, done, total| watch.progress(stage, done, total);
        Ok(calibrate(graph, numbers, self.samples, self.method, &mut progress)?.ranges)
    }
}

/// A step must lower the error by this many standard errors of the mean over the samples: few samples often hold most
/// of the error, and what helps them alone won't help others.
const SURE: f64 = 1.0;

/// Multiply-accumulates that a step may take without being asked for by name: minutes.
const MOST_WORK: u64 = 1 << 44;

/// What a step did to the signal-to-noise ratio of the outputs, in decibels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effect {
    /// The step.
    pub improvement: Improvement,
    /// Before it.
    pub before_db: f64,
    /// After it.
    pub after_db: f64,
    /// By how many standard errors of the mean over the samples its error is lower.
    pub sigma: f64,
    /// Whether its result was kept.
    pub kept: bool,
}

/// Applies steps in their order; one whose outputs aren't surely closer to the float model's is taken back.
///
/// # Errors
/// When a sample doesn't fit or a run fails.
pub fn improve(
    quantization: &mut Quantization,
    steps: &Steps,
    context: &mut Context<'_>,
) -> Result<Vec<Effect>, EvaluateError> {
    let mut effects = Vec::new();
    let mut chosen = steps.for_numbers(&quantization.numbers);
    if chosen.is_empty() {
        return Ok(effects);
    }
    let float = Program::new(context.reference, &PlanOptions::default())?;
    let work = widen::runs(quantization, context).saturating_mul(float.model()?.header().macs);
    if *steps == Steps::Auto && chosen.contains(&Improvement::Widen) && work > MOST_WORK {
        chosen.retain(|step| *step != Improvement::Widen);
        context.notes.push(
            "the step `widen` was left out: it runs the model for every layer, which takes long; --improve \
             widen,equalize,gptq,bias has it"
                .to_owned(),
        );
    }
    let measure = |quantization: &Quantization, context: &mut Context<'_>| {
        let program = Program::new(&quantization.lowered(), &PlanOptions::default())?;
        let total = context.samples.len();
        let mut noise: Vec<Vec<Noise>> = Vec::new();
        noise_by_sample(&float, &program, context.samples, &mut |sample, of_outputs| {
            noise.push(of_outputs.to_vec());
            context.watch.progress("measuring", sample + 1, total);
        })?;
        Ok::<Vec<f64>, EvaluateError>(shares(&noise))
    };
    let decibels = |errors: &[f64]| -10.0 * errors.iter().sum::<f64>().log10();
    let mut before = measure(quantization, context)?;
    for improvement in chosen {
        let mut better = quantization.clone();
        let equalized = quantization.equalized.clone();
        let mut own = Context {
            reference: equalized.as_deref().unwrap_or(context.reference),
            samples: context.samples,
            method: context.method,
            seed: context.seed,
            watch: &mut *context.watch,
            notes: Vec::new(),
        };
        let changed = improvement.run(&mut better, &mut own)?;
        let mut notes = own.notes;
        if !changed {
            context.notes.append(&mut notes);
            continue;
        }
        let after = measure(&better, context)?;
        let (before_db, after_db) = (decibels(&before), decibels(&after));
        let sigma = sigma(&before, &after);
        // Of one sample there is no standard error.
        let sure = sigma >= SURE || (after.len() < 2 && after_db > before_db);
        let kept = after_db > before_db && sure;
        if kept {
            context.notes.append(&mut notes);
        }
        effects.push(Effect { improvement, before_db, after_db, sigma, kept });
        if kept {
            *quantization = better;
            before = after;
        }
    }
    Ok(effects)
}

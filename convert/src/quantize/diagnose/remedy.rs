//! Tries what could be done about the worst layers, by quantizing again and measuring the outputs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::cause::CauseKind;
use super::layers::Layer;
use super::{CompareError, Comparison};
use crate::evaluate::{EvaluateError, Program, Samples, Subset};
use crate::graph::{Graph, ValueId};
use crate::pipeline::Watch;
use crate::plan::PlanOptions;
use crate::quantize::calibrate::{Method, Ranges, calibrate};
use crate::quantize::clamp_of;
use crate::quantize::improve::{Context, Improvement, Steps, improve};
use crate::quantize::measure::{output_noise, overall_db};
use crate::quantize::numbers::{DEFAULT_GROUP, Numbers};
use crate::quantize::quantization::Quantization;

/// Samples that a try is measured on at most.
const MEASURED_SAMPLES: usize = 128;

/// A gain that is worth a line: less is within what other samples would show.
pub const WORTH_DB: f64 = 0.3;

/// What may be tried.
pub struct Attempts<'a> {
    /// Calibration data.
    pub calibration: &'a dyn Samples,
    /// Data that gains are measured on.
    pub samples: &'a dyn Samples,
    /// The method that the file's ranges were chosen by.
    pub method: Method,
    /// The numbers that the file was asked to have.
    pub numbers: Numbers,
    /// Other methods, by what the command line calls them.
    pub other_methods: Vec<(String, Method)>,
    /// Steps of improvement that the file's weights went through.
    pub applied: Vec<Improvement>,
    /// Others, to be tried.
    pub improvements: Vec<Improvement>,
    /// How many of the worst layers are tried.
    pub layers: usize,
    /// What is drawn at random follows from this.
    pub seed: u64,
}

/// Something that was tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Remedy {
    /// Options of `whit convert`.
    pub options: String,
    /// The layer it is for; none when it is for all.
    pub layer: Option<String>,
    /// Signal over error of the outputs with it.
    pub output_db: f64,
    /// Decibels more than without.
    pub gain_db: f64,
    /// Bytes of constants more than without.
    pub constant_bytes: i64,
    /// Bytes of arena more than without.
    pub arena_bytes: i64,
}

struct Bench<'b> {
    graph: &'b Graph,
    float: Program,
    samples: Subset<'b>,
}

struct Measured {
    db: f64,
    constants: i64,
    arena: i64,
}

impl Bench<'_> {
    fn measure(&self, quantization: &Quantization) -> Result<Measured, EvaluateError> {
        let program = Program::new(&quantization.lowered(), &PlanOptions::default())?;
        let noise = output_noise(&self.float, &program, &self.samples, &mut |_, _| ())?;
        Ok(Measured {
            db: overall_db(&noise),
            constants: program.plan.constants.len() as i64,
            arena: program.plan.arena_bytes as i64,
        })
    }
}

/// Tries remedies for the worst layers of a comparison and notes their gains in it, the best first.
/// `graph` is the float graph that was compared.
///
/// # Errors
/// When the graph can't be quantized anew, or a sample doesn't fit.
pub fn try_remedies(
    comparison: &mut Comparison,
    graph: &Graph,
    attempts: &Attempts<'_>,
    watch: &mut dyn Watch,
) -> Result<(), CompareError> {
    let bench = Bench {
        graph,
        float: Program::new(graph, &PlanOptions::default())?,
        samples: Subset::first(attempts.samples, MEASURED_SAMPLES),
    };
    let numbers = numbers_of(comparison, graph, attempts.numbers);
    let has_integers = numbers.iter().any(|numbers| numbers.integer().is_some());
    let mut stages = Stages { watch, done: 0, total: 1 };
    let ranges_by = |method: Method, stages: &mut Stages<'_>| -> Result<Ranges, EvaluateError> {
        if !has_integers {
            return Ok(Ranges::new());
        }
        let mut progress = |stage: &str, done, total| stages.watch.progress(stage, done, total);
        Ok(calibrate(graph, &numbers, attempts.calibration, method, &mut progress)?.ranges)
    };
    let ranges = ranges_by(attempts.method, &mut stages)?;
    // Everything that is tried goes through the steps that the file went through.
    let quantize = |numbers: &[Numbers],
                    (ranges, method): (&Ranges, Method),
                    more: Option<Improvement>,
                    stages: &mut Stages<'_>| {
        let mut quantization = Quantization::new(graph.clone(), numbers, ranges);
        let mut context = Context {
            reference: graph,
            samples: attempts.calibration,
            method,
            seed: attempts.seed,
            watch: &mut *stages.watch,
            notes: Vec::new(),
        };
        let steps = attempts.applied.iter().copied().chain(more).collect();
        let effects = improve(&mut quantization, &Steps::Named(steps), &mut context)?;
        let helped = effects.iter().any(|effect| Some(effect.improvement) == more && effect.kept);
        Ok::<_, EvaluateError>((quantization, helped))
    };
    let as_made = (&ranges, attempts.method);
    let (base, _) = quantize(&numbers, as_made, None, &mut stages)?;
    let before = bench.measure(&base)?;
    comparison.baseline_db = Some(before.db);

    let candidates = candidates(comparison, graph, &base, attempts.layers);
    stages.total =
        candidates.len() + attempts.other_methods.len() + attempts.improvements.len() + 1;
    let mut remedies = Vec::new();
    let mut note = |options: String, layer: Option<String>, after: Measured| {
        remedies.push(Remedy {
            options,
            layer,
            output_db: after.db,
            gain_db: after.db - before.db,
            constant_bytes: after.constants - before.constants,
            arena_bytes: after.arena - before.arena,
        });
        after.db - before.db
    };
    // Numbers by node that helped, with their gain, for the try of all together.
    let mut helped: Vec<(f64, &Candidate)> = Vec::new();
    for candidate in &candidates {
        stages.next();
        let (changed, _) = quantize(&candidate.numbers(&numbers), as_made, None, &mut stages)?;
        if changed.numbers == base.numbers {
            continue;
        }
        let gain =
            note(candidate.options(graph), Some(candidate.layer.clone()), bench.measure(&changed)?);
        if gain >= WORTH_DB {
            helped.push((gain, candidate));
        }
    }
    let mut best_method: Option<(f64, &(String, Method), Ranges)> = None;
    for other in attempts.other_methods.iter().filter(|_| has_integers) {
        stages.next();
        let own = ranges_by(other.1, &mut stages)?;
        let (changed, _) = quantize(&numbers, (&own, other.1), None, &mut stages)?;
        let gain = note(other.0.clone(), None, bench.measure(&changed)?);
        if gain >= WORTH_DB && best_method.as_ref().is_none_or(|best| gain > best.0) {
            best_method = Some((gain, other, own));
        }
    }
    for step in &attempts.improvements {
        stages.next();
        let (changed, helped) = quantize(&numbers, as_made, Some(*step), &mut stages)?;
        if helped {
            let mut steps = attempts.applied.clone();
            steps.push(*step);
            note(format!("--improve {}", Steps::Named(steps)), None, bench.measure(&changed)?);
        }
    }
    // For each layer the best that helped it, and the best method, in one.
    helped.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut layers = BTreeSet::new();
    helped.retain(|(_, candidate)| layers.insert(candidate.layer.clone()));
    if helped.len() + usize::from(best_method.is_some()) > 1 {
        stages.next();
        let mut together = numbers.clone();
        let mut nodes = BTreeMap::new();
        for (_, candidate) in &helped {
            for node in &candidate.nodes {
                nodes.entry(*node).or_insert(candidate.to);
            }
        }
        for (node, to) in &nodes {
            together[*node] = *to;
        }
        let used = best_method.as_ref().map_or(as_made, |(_, (_, method), own)| (own, *method));
        let (changed, _) = quantize(&together, used, None, &mut stages)?;
        let mut options = options_of(bench.graph, &nodes);
        if let Some((_, (name, _), _)) = &best_method {
            options.insert_str(0, &format!("{name} "));
        }
        note(options, None, bench.measure(&changed)?);
    }
    remedies.sort_by(|a, b| b.gain_db.total_cmp(&a.gain_db));
    comparison.remedies = remedies;
    Ok(())
}

struct Stages<'w> {
    watch: &'w mut dyn Watch,
    done: usize,
    total: usize,
}

impl Stages<'_> {
    fn next(&mut self) {
        self.done += 1;
        self.watch.progress("trying remedies", self.done.min(self.total), self.total);
    }
}

/// Other numbers for a few nodes.
struct Candidate {
    layer: String,
    nodes: Vec<usize>,
    to: Numbers,
}

impl Candidate {
    fn numbers(&self, before: &[Numbers]) -> Vec<Numbers> {
        let mut numbers = before.to_vec();
        for node in &self.nodes {
            numbers[*node] = self.to;
        }
        numbers
    }

    fn options(&self, graph: &Graph) -> String {
        options_of(graph, &self.nodes.iter().map(|node| (*node, self.to)).collect())
    }
}

/// As the command line takes them.
fn options_of(graph: &Graph, nodes: &BTreeMap<usize, Numbers>) -> String {
    let option = |(node, to): (&usize, &Numbers)| {
        let name = &graph.nodes[*node].name;
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
        if name.chars().all(plain) {
            format!("--layer {name}={to}")
        } else {
            format!("--layer '{name}={to}'")
        }
    };
    nodes.iter().map(option).collect::<Vec<_>>().join(" ")
}

/// The numbers of each node as the file has them; where the file has no such layer, those that were asked for.
fn numbers_of(comparison: &Comparison, graph: &Graph, asked: Numbers) -> Vec<Numbers> {
    let known: BTreeMap<&str, &Layer> = comparison
        .layers
        .iter()
        .filter(|layer| layer.op != "quantize" && layer.op != "input")
        .map(|layer| (layer.name.as_str(), layer))
        .collect();
    let of = |node: &crate::graph::Node| {
        let name = graph.value(node.outputs[0]).name.as_str();
        let Some(layer) = known.get(name) else { return asked };
        let weights = layer.weights.as_ref();
        match (layer.dtype.as_str(), weights.and_then(|weights| weights.grouped)) {
            ("i8", _) => Numbers::Int8,
            ("i16", _) => Numbers::Int16,
            _ if asked.integer().is_none() => asked,
            (_, Some(bits)) => Numbers::Grouped { bits, group: DEFAULT_GROUP },
            _ if weights.is_some_and(|weights| weights.bits == 16) => Numbers::F16,
            _ => Numbers::Float,
        }
    };
    graph.nodes.iter().map(of).collect()
}

/// What is tried for the worst layers: for a bad grid, wider numbers for the node and all that read it, since the
/// grid is theirs, too; for weights, float for the node alone.
fn candidates(
    comparison: &Comparison,
    graph: &Graph,
    base: &Quantization,
    count: usize,
) -> Vec<Candidate> {
    let mut worst: Vec<&Layer> =
        comparison.layers.iter().filter(|layer| layer.introduced_db.is_finite()).collect();
    // Where it was measured, what a layer does to the outputs is what counts.
    worst.sort_by(|a, b| {
        let (a_share, b_share) = (a.output_share.unwrap_or(0.0), b.output_share.unwrap_or(0.0));
        b_share.total_cmp(&a_share).then(a.introduced_db.total_cmp(&b.introduced_db))
    });
    let producers = graph.producers();
    let consumers = graph.consumers();
    let mut seen = BTreeSet::new();
    let mut candidates = Vec::new();
    let mut layers = 0;
    for layer in worst {
        if layers == count {
            break;
        }
        let named = (0..graph.values.len() as u32)
            .map(ValueId)
            .find(|id| graph.value(*id).name == layer.name && graph.constant(*id).is_none());
        let Some(value) = named else { continue };
        let own = producers[value.0 as usize];
        let readers = consumers[value.0 as usize].iter().copied();
        // The clamp that a layer absorbed is part of it.
        let before = own.filter(|own| clamp_of(&graph.nodes[*own].op).is_some()).and_then(|own| {
            producers[graph.nodes[own].inputs.first().copied().flatten()?.0 as usize]
        });
        let mine: Vec<usize> = own.into_iter().chain(before).collect();
        let all: Vec<usize> = mine.iter().copied().chain(readers).collect();
        let of_grid = layer.causes.first().is_some_and(|cause| cause.kind.is_of_grid());
        let weights_only = own.is_some_and(|own| {
            base.numbers[own].integer().is_none() && base.numbers[own] != Numbers::Float
        });
        let mut tries: Vec<(Vec<usize>, Numbers)> = Vec::new();
        if weights_only {
            let finer = own.and_then(|own| base.numbers[own].widened()).unwrap_or(Numbers::Float);
            tries.push((mine.clone(), finer));
        } else {
            if of_grid || layer.op == "input" {
                tries.push((all.clone(), Numbers::Int16));
                tries.push((all, Numbers::Float));
            } else {
                let narrow =
                    layer.causes.iter().any(|cause| matches!(cause.kind, CauseKind::Arithmetic));
                if narrow {
                    tries.push((mine.clone(), Numbers::Int16));
                }
                tries.push((mine, Numbers::Float));
            }
        }
        let mut added = false;
        for (mut nodes, to) in tries {
            nodes.sort_unstable();
            nodes.dedup();
            nodes.retain(|node| {
                let now = base.numbers[*node];
                to.fitted(graph, &graph.nodes[*node]) != now && now != Numbers::Float
            });
            if !nodes.is_empty() && seen.insert((nodes.clone(), to)) {
                candidates.push(Candidate { layer: layer.name.clone(), nodes, to });
                added = true;
            }
        }
        layers += usize::from(added);
    }
    candidates
}

//! Measures what a range does to the results of the layers that read a tensor.
//!
//! A probe is a copy of one reading node whose operand is quantized to a grid and back. It runs beside the float
//! model, in one program with many others; only the sums of squares of its result's error and of the float
//! result leave the program.

use crate::evaluate::{EvaluateError, Program, Samples, Subset, describe, feed, output_reals};
use crate::graph::{BinaryKind, Graph, Node, Op, Quant, ReduceKind, ValueId};
use crate::plan::PlanOptions;
use crate::quantize::measure::Noise;
use whit::DType;

/// Nodes of probes in one program at most: a plan's effort grows faster than its nodes.
const NODES: usize = 1200;

/// Nodes of a probe.
const NODES_EACH: usize = 5;

/// Multiply-accumulates that all probes together may cost: some ten seconds on a laptop.
const MACS: u64 = 100_000_000_000;

/// Samples that probes run on at most, and at least.
const SAMPLES: [usize; 2] = [4, 64];

/// What stands behind a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// The node of this index reads it.
    Node(usize),
    /// It is itself a result, or nothing reads it that could be measured.
    Itself,
}

/// A tensor, the grids to try on it, and one that reads it.
pub(super) struct Probe {
    pub(super) value: ValueId,
    pub(super) grids: Vec<Quant>,
    pub(super) reader: Reader,
}

/// As many samples as a budget allows for a program of so many multiply-accumulates.
pub(super) fn affordable(macs: u64, [least, most]: [usize; 2]) -> usize {
    usize::try_from(MACS / macs.max(1)).unwrap_or(most).clamp(least, most)
}

/// For every probe and each of its grids, the error in what is read.
pub(super) fn measure(
    graph: &Graph,
    probes: &[Probe],
    samples: &dyn Samples,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<Noise>>, EvaluateError> {
    let mut programs = Vec::new();
    let mut from = 0;
    while from < probes.len() {
        let mut nodes = 0;
        let fits = |probe: &&Probe| {
            nodes += probe.grids.len() * NODES_EACH;
            nodes <= NODES
        };
        let to = from + probes[from..].iter().take_while(fits).count().max(1);
        programs.push((
            from..to,
            Program::new(&with_probes(graph, &probes[from..to]), &PlanOptions::default())?,
        ));
        from = to;
    }
    let macs =
        programs.iter().flat_map(|(_, program)| &program.plan.steps).map(|step| step.macs).sum();
    let count = affordable(macs, SAMPLES);
    let subset = Subset::spread(samples, graph, count);
    let total = programs.len() * subset.len();
    let mut noise = Vec::new();
    for (at, (range, program)) in programs.iter().enumerate() {
        let probes = &probes[range.clone()];
        noise.extend(run(program, graph.outputs.len(), probes, &subset, &mut |done| {
            progress(at * subset.len() + done, total);
        })?);
    }
    Ok(noise)
}

/// Runs a program of probes. Their sums are its outputs from `first` on.
fn run(
    program: &Program,
    first: usize,
    probes: &[Probe],
    samples: &dyn Samples,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Noise>>, EvaluateError> {
    let mut noise: Vec<Vec<Noise>> =
        probes.iter().map(|probe| vec![Noise::default(); probe.grids.len()]).collect();
    let mut session = program.session(None)?;
    session.reset_state();
    for sample in 0..samples.len() {
        feed(&mut session, samples, sample)?;
        session.run().map_err(|error| EvaluateError::Run {
            sample,
            why: describe(session.model(), error),
        })?;
        let mut output = first;
        let mut next = || {
            output += 1;
            let reals = output_reals(&session, output - 1)?;
            Ok::<f64, EvaluateError>(reals.first().copied().map_or(0.0, f64::from))
        };
        for noise in &mut noise {
            let signal = next()?;
            for noise in noise {
                noise.signal += signal;
                noise.error += next()?;
            }
        }
        progress(sample + 1);
    }
    Ok(noise)
}

/// The graph with probes in it. More outputs for each: the sum of squares of what is read, then that of
/// its error by each grid.
fn with_probes(graph: &Graph, probes: &[Probe]) -> Graph {
    let mut graph = graph.clone();
    let nodes = std::mem::take(&mut graph.nodes);
    // Behind the node that makes the result, so that little is alive at once.
    let producers = {
        let mut producers = vec![None; graph.values.len()];
        for (at, node) in nodes.iter().enumerate() {
            node.outputs.iter().for_each(|output| producers[output.0 as usize] = Some(at));
        }
        producers
    };
    let mut into = Probes { graph, nodes: Vec::new() };
    let mut sums: Vec<Vec<ValueId>> = vec![Vec::new(); probes.len()];
    let mut behind: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (at, probe) in probes.iter().enumerate() {
        let node = match probe.reader {
            Reader::Node(reader) => Some(reader),
            Reader::Itself => producers[probe.value.0 as usize],
        };
        match node {
            Some(node) => behind[node].push(at),
            None => sums[at] = into.probe(probe, None),
        }
    }
    for (at, node) in nodes.into_iter().enumerate() {
        into.nodes.push(node.clone());
        for probe in &behind[at] {
            sums[*probe] = into.probe(&probes[*probe], Some(&node));
        }
    }
    let Probes { mut graph, nodes } = into;
    graph.nodes = nodes;
    graph.outputs.extend(sums.into_iter().flatten());
    graph
}

struct Probes {
    graph: Graph,
    nodes: Vec<Node>,
}

impl Probes {
    /// The nodes of a probe; gives its sums.
    fn probe(&mut self, probe: &Probe, reader: Option<&Node>) -> Vec<ValueId> {
        let reader = reader.filter(|_| probe.reader != Reader::Itself);
        let truth = reader.map_or(probe.value, |node| node.outputs[0]);
        let mut sums = vec![self.sum_of_squares(truth)];
        for grid in &probe.grids {
            let integer = self.like(probe.value, DType::I8);
            self.graph.value_mut(integer).quant = Some(grid.clone());
            self.push(Op::Quantize, vec![Some(probe.value)], integer);
            let mut result = self.like(probe.value, DType::F32);
            self.push(Op::Dequantize, vec![Some(integer)], result);
            if let Some(node) = reader {
                let mut node = node.clone();
                for input in node.inputs.iter_mut().filter(|input| **input == Some(probe.value)) {
                    *input = Some(result);
                }
                node.outputs = node
                    .outputs
                    .iter()
                    .map(|output| self.like(*output, self.graph.value(*output).dtype))
                    .collect();
                result = node.outputs[0];
                self.nodes.push(node);
            }
            let error = self.like(truth, DType::F32);
            self.push(Op::Binary(BinaryKind::Sub), vec![Some(result), Some(truth)], error);
            sums.push(self.sum_of_squares(error));
        }
        sums
    }

    fn sum_of_squares(&mut self, of: ValueId) -> ValueId {
        let sum = self.graph.add_value("probe", DType::F32, Vec::new());
        match self.graph.value(of).shape.len() {
            0 => self.push(Op::Binary(BinaryKind::Mul), vec![Some(of), Some(of)], sum),
            rank => {
                let axes = (0..rank).collect();
                let op = Op::Reduce { kind: ReduceKind::SumSquare, axes, keep_dims: false };
                self.push(op, vec![Some(of)], sum);
            }
        }
        sum
    }

    /// A new value of another's shape.
    fn like(&mut self, id: ValueId, dtype: DType) -> ValueId {
        let shape = self.graph.value(id).shape.clone();
        self.graph.add_value("probe", dtype, shape)
    }

    fn push(&mut self, op: Op, inputs: Vec<Option<ValueId>>, output: ValueId) {
        self.nodes.push(Node { name: "probe".to_owned(), op, inputs, outputs: vec![output] });
    }
}

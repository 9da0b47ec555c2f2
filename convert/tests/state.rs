//! What lives across runs: graphs with states, made by hand and at random, beside their own recurrence
//! computed in plain Rust.

mod common;

use std::sync::Arc;

use common::Random;
use whit::{DType, Isa, Model, Options, Session};
use whit_convert::dim::{Dim, Symbol};
use whit_convert::evaluate::{AlignedBytes, Reals};
use whit_convert::graph::{BinaryKind, Graph, Node, Op, State, UnaryKind, ValueId};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_convert::quantize::numbers::Numbers;
use whit_convert::tensor::Tensor;

/// A graph under construction; every value is f32.
#[derive(Default)]
struct Builder(Graph);

impl Builder {
    fn value(&mut self, shape: &[usize]) -> ValueId {
        let name = format!("v{}", self.0.values.len());
        self.0.add_value(name, DType::F32, shape.iter().map(|dim| Dim::from(*dim)).collect())
    }

    fn input(&mut self, shape: &[usize]) -> ValueId {
        let id = self.value(shape);
        self.0.inputs.push(id);
        id
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], shape: &[usize]) -> ValueId {
        let y = self.value(shape);
        let name = format!("n{}", self.0.nodes.len());
        let inputs = inputs.iter().copied().map(Some).collect();
        self.0.nodes.push(Node { name, op, inputs, outputs: vec![y] });
        y
    }

    /// A state that stays as it is, until [`Builder::becomes`] says otherwise.
    fn state(&mut self, shape: &[usize], initial: Option<&[f32]>) -> ValueId {
        let read = self.value(shape);
        let name = format!("state {}", self.0.states.len());
        let initial = initial.map(|values| Arc::new(Tensor::from_f32(shape, values)));
        self.0.states.push(State { name, read, next: read, initial });
        read
    }

    fn becomes(&mut self, read: ValueId, next: ValueId) {
        self.0.states.iter_mut().find(|state| state.read == read).unwrap().next = next;
    }

    fn binary(&mut self, kind: BinaryKind, a: ValueId, b: ValueId) -> ValueId {
        let shape = self.0.value(a).const_shape().unwrap();
        self.node(Op::Binary(kind), &[a, b], &shape)
    }
}

fn file(graph: Graph) -> Vec<u8> {
    convert(graph, None, &ConvertOptions::default(), &mut ()).unwrap_or_else(|e| panic!("{e}")).file
}

/// The outputs of every run in one sequence, after a run whose memory a reset must forget.
fn runs(file: &[u8], isa: Isa, inputs: &[Vec<Vec<f32>>]) -> Vec<Vec<Vec<f32>>> {
    let bytes = AlignedBytes::new(file);
    let model = Model::open(bytes.as_slice()).unwrap();
    let mut session =
        Session::new(model, Options { isa: Some(isa), ..Options::default() }).unwrap();
    run(&mut session, &inputs[0]);
    session.reset_state();
    inputs.iter().map(|inputs| run(&mut session, inputs)).collect()
}

/// The outputs of one run.
fn run(session: &mut Session<'_>, inputs: &[Vec<f32>]) -> Vec<Vec<f32>> {
    for (index, values) in inputs.iter().enumerate() {
        session.set_input_f32(index, values).unwrap();
    }
    session.run().unwrap();
    let outputs = 0..session.model().outputs().len();
    outputs.map(|at| session.output::<f32>(at).unwrap().to_vec()).collect()
}

fn steps(file: &[u8]) -> Vec<&'static str> {
    let bytes = AlignedBytes::new(file);
    let model = Model::open(bytes.as_slice()).unwrap();
    model.steps().map(|step| whit::format::Op::from_number(step.op).unwrap().name()).collect()
}

/// Outputs by run of the inputs of all runs.
type Recurrence = fn(&[[f32; 2]]) -> Vec<Vec<[f32; 2]>>;

/// A graph, the steps that it should take, and its recurrence: outputs by run, from the inputs.
struct Case {
    name: &'static str,
    graph: Graph,
    steps: &'static [&'static str],
    want: Recurrence,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name, make: &dyn Fn(&mut Builder, ValueId), steps, want| {
        let mut b = Builder::default();
        let x = b.input(&[2]);
        make(&mut b, x);
        cases.push(Case { name, graph: b.0, steps, want });
    };
    case(
        "a sum is written over itself",
        &|b, x| {
            let sum = b.state(&[2], Some(&[10.0, -1.0]));
            let next = b.binary(BinaryKind::Add, sum, x);
            b.becomes(sum, next);
            b.0.outputs = vec![next];
        },
        &["binary"],
        |xs| {
            let mut sum = [10.0, -1.0];
            let add = |sum: &mut [f32; 2], x: &[f32; 2]| {
                *sum = [sum[0] + x[0], sum[1] + x[1]];
                vec![*sum]
            };
            xs.iter().map(|x| add(&mut sum, x)).collect()
        },
    );
    case(
        "an output is the old content",
        &|b, x| {
            let sum = b.state(&[2], None);
            let next = b.binary(BinaryKind::Add, sum, x);
            b.becomes(sum, next);
            b.0.outputs = vec![sum];
        },
        &["binary", "copy", "copy"],
        |xs| {
            let sums = xs.iter().scan([0.0; 2], |sum, x| {
                let before = *sum;
                *sum = [sum[0] + x[0], sum[1] + x[1]];
                Some(vec![before])
            });
            sums.collect()
        },
    );
    case(
        "a delay of one run",
        &|b, x| {
            let last = b.state(&[2], Some(&[7.0, 8.0]));
            b.becomes(last, x);
            let difference = b.binary(BinaryKind::Sub, x, last);
            b.0.outputs = vec![difference];
        },
        &["binary", "copy"],
        |xs| {
            let before = std::iter::once([7.0, 8.0]).chain(xs.iter().copied());
            xs.iter().zip(before).map(|(x, b)| vec![[x[0] - b[0], x[1] - b[1]]]).collect()
        },
    );
    case(
        "two states change places",
        &|b, x| {
            let (p, q) = (b.state(&[2], Some(&[1.0, 2.0])), b.state(&[2], Some(&[3.0, 4.0])));
            b.becomes(p, q);
            b.becomes(q, p);
            let y = b.binary(BinaryKind::Add, p, x);
            b.0.outputs = vec![y];
        },
        &["binary", "copy", "copy", "copy"],
        |xs| {
            let p = [[1.0, 2.0], [3.0, 4.0]];
            let add = |(at, x): (usize, &[f32; 2])| {
                let p: [f32; 2] = p[at % 2];
                vec![[p[0] + x[0], p[1] + x[1]]]
            };
            xs.iter().enumerate().map(add).collect()
        },
    );
    case(
        "the old content is read behind the new one",
        &|b, x| {
            let sum = b.state(&[2], None);
            let next = b.binary(BinaryKind::Add, sum, x);
            b.becomes(sum, next);
            let product = b.binary(BinaryKind::Mul, next, x);
            let y = b.binary(BinaryKind::Sub, product, sum);
            b.0.outputs = vec![y];
        },
        &["binary", "binary", "binary", "copy"],
        |xs| {
            let mut sum = [0.0; 2];
            let one = |sum: &mut [f32; 2], x: &[f32; 2]| {
                let old = *sum;
                *sum = [sum[0] + x[0], sum[1] + x[1]];
                vec![[sum[0] * x[0] - old[0], sum[1] * x[1] - old[1]]]
            };
            xs.iter().map(|x| one(&mut sum, x)).collect()
        },
    );
    case(
        "it never changes",
        &|b, x| {
            let fixed = b.state(&[2], Some(&[5.0, 6.0]));
            let y = b.binary(BinaryKind::Mul, x, fixed);
            b.0.outputs = vec![y];
        },
        &["binary"],
        |xs| xs.iter().map(|x| vec![[x[0] * 5.0, x[1] * 6.0]]).collect(),
    );
    case(
        "a delay line of three",
        &|b, x| {
            let line = b.state(&[1, 3, 2], None);
            let x = b.node(Op::Reshape, &[x], &[1, 1, 2]);
            let all = b.node(Op::Concat { axis: 1 }, &[line, x], &[1, 4, 2]);
            let starts = |at: i64| vec![Dim::from(0i64), Dim::from(at), Dim::from(0i64)];
            let cut = |at| Op::Slice { starts: starts(at), steps: vec![1; 3] };
            let next = b.node(cut(1), &[all], &[1, 3, 2]);
            b.becomes(line, next);
            let oldest = b.node(cut(0), &[all], &[1, 1, 2]);
            let y = b.node(Op::Reshape, &[oldest], &[2]);
            b.0.outputs = vec![y];
        },
        &["concat", "copy"],
        |xs| (0..xs.len()).map(|at| vec![if at < 3 { [0.0; 2] } else { xs[at - 3] }]).collect(),
    );
    cases
}

fn sequence(runs: usize) -> Vec<[f32; 2]> {
    (0..runs).map(|at| [at as f32 + 1.0, 3.0 - (at * at) as f32]).collect()
}

#[test]
fn states_follow_their_recurrence() {
    let xs = sequence(6);
    let inputs: Vec<_> = xs.iter().map(|x| vec![x.to_vec()]).collect();
    for case in cases() {
        let file = file(case.graph);
        let want: Vec<Vec<Vec<f32>>> = (case.want)(&xs)
            .into_iter()
            .map(|run| run.into_iter().map(|output| output.to_vec()).collect())
            .collect();
        assert_eq!(runs(&file, Isa::Scalar, &inputs), want, "{}", case.name);
        assert_eq!(steps(&file), case.steps, "{}", case.name);
    }
}

/// What a random node does, in numbers.
fn apply(op: &Op, operands: &[&Vec<f32>]) -> Vec<f32> {
    let two = |f: fn(f32, f32) -> f32| -> Vec<f32> {
        operands[0].iter().zip(operands[1]).map(|(a, b)| f(*a, *b)).collect()
    };
    match op {
        Op::Binary(BinaryKind::Add) => two(|a, b| a + b),
        Op::Binary(BinaryKind::Sub) => two(|a, b| a - b),
        Op::Binary(BinaryKind::Max) => two(f32::max),
        Op::Unary(UnaryKind::Clip { min, max }) => {
            operands[0].iter().map(|x| x.clamp(*min, *max)).collect()
        }
        Op::Reshape => operands[0].clone(),
        // [1, 4] behind [1, 4] along axis 1 and the middle of it.
        Op::Concat { .. } => operands.iter().flat_map(|x| x.iter().copied()).collect(),
        Op::Slice { starts, .. } => {
            let at = starts[1].as_const().unwrap() as usize;
            operands[0][at..at + 4].to_vec()
        }
        op => panic!("{op:?}"),
    }
}

/// Every way in which reads, writes, views and copies of states can be woven together: small integers,
/// so that f32 is exact.
#[test]
fn random_graphs_follow_their_recurrence() {
    const RUNS: usize = 4;
    const SHAPE: [usize; 2] = [1, 4];
    let (mut direct, mut copied) = (0, 0);
    for seed in 0..600 {
        let mut random = Random::new(seed);
        let mut b = Builder::default();
        let mut pool: Vec<ValueId> = (0..1 + random.below(2)).map(|_| b.input(&SHAPE)).collect();
        let states = 1 + random.below(3);
        for _ in 0..states {
            let initial: Vec<f32> = (0..4).map(|_| random.below(9) as f32 - 4.0).collect();
            let id = b.state(&SHAPE, Some(&initial).filter(|_| seed % 2 == 0).map(|v| &v[..]));
            pool.push(id);
        }
        for _ in 0..2 + random.below(7) {
            let (x, z) = (random.pick(&pool), random.pick(&pool));
            let made = match random.below(7) {
                0 | 1 => b.binary(BinaryKind::Add, x, z),
                2 => b.binary(BinaryKind::Sub, x, z),
                3 => b.binary(BinaryKind::Max, x, z),
                4 => b.node(Op::Unary(UnaryKind::Clip { min: -8.0, max: 8.0 }), &[x], &SHAPE),
                5 => {
                    let flat = b.node(Op::Reshape, &[x], &[4]);
                    b.node(Op::Reshape, &[flat], &SHAPE)
                }
                _ => {
                    let both = b.node(Op::Concat { axis: 1 }, &[x, z], &[1, 8]);
                    let starts = vec![Dim::from(0i64), Dim::from(random.below(5))];
                    b.node(Op::Slice { starts, steps: vec![1; 2] }, &[both], &SHAPE)
                }
            };
            pool.push(made);
        }
        for index in 0..states {
            b.0.states[index].next = random.pick(&pool);
        }
        b.0.outputs = (0..1 + random.below(2)).map(|_| random.pick(&pool)).collect();
        b.0.outputs.dedup();
        let graph = b.0;

        let mut contents: Vec<Vec<f32>> = graph
            .states
            .iter()
            .map(|state| state.initial.as_ref().map_or(vec![0.0; 4], |tensor| tensor.to_f32()))
            .collect();
        let (mut inputs, mut want) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let fed: Vec<Vec<f32>> = graph
                .inputs
                .iter()
                .map(|_| (0..4).map(|_| random.below(9) as f32 - 4.0).collect())
                .collect();
            let mut values: Vec<Vec<f32>> = vec![Vec::new(); graph.values.len()];
            for (id, x) in graph.inputs.iter().zip(&fed) {
                values[id.0 as usize] = x.clone();
            }
            for (state, content) in graph.states.iter().zip(&contents) {
                values[state.read.0 as usize] = content.clone();
            }
            for node in &graph.nodes {
                let operands: Vec<&Vec<f32>> =
                    node.inputs.iter().map(|id| &values[id.unwrap().0 as usize]).collect();
                let made = apply(&node.op, &operands);
                values[node.outputs[0].0 as usize] = made;
            }
            let of = |id: &ValueId| values[id.0 as usize].clone();
            contents = graph.states.iter().map(|state| of(&state.next)).collect();
            want.push(graph.outputs.iter().map(of).collect::<Vec<_>>());
            inputs.push(fed);
        }
        let changing = graph.states.iter().filter(|state| state.next != state.read).count();
        let file = file(graph);
        assert_eq!(runs(&file, Isa::Scalar, &inputs), want, "seed {seed}");
        let copies = steps(&file).iter().filter(|step| **step == "copy").count();
        (direct, copied) =
            (direct + usize::from(copies < changing), copied + usize::from(copies > 0));
    }
    println!("{direct} graphs wrote a state in place, {copied} copied one");
    assert!(direct > 50 && copied > 50, "{direct} {copied}");
}

/// A smoothing filter: its state becomes i8, with a scale that holds what it was in the whole sequence.
#[test]
fn calibration_keeps_the_state_between_samples() {
    let mut b = Builder::default();
    let x = b.input(&[1, 2]);
    let state = b.state(&[1, 2], Some(&[-3.0, 0.5]));
    let weights = b.0.add_constant("w", Tensor::from_f32([2, 2], &[1.0, 0.5, 0.0, 1.0]));
    let product = |transpose_b| {
        Op::MatMul(whit_convert::graph::MatMul {
            transpose_a: false,
            transpose_b,
            clamp: whit_convert::graph::Clamp::NONE,
            inner_quant: None,
        })
    };
    let mixed = b.node(product(false), &[x, weights], &[1, 2]);
    let decay = b.0.add_constant("d", Tensor::from_f32([2, 2], &[0.75, 0.0, 0.0, 0.75]));
    let kept = b.node(product(true), &[state, decay], &[1, 2]);
    let next = b.binary(BinaryKind::Add, kept, mixed);
    b.becomes(state, next);
    b.0.outputs = vec![next];

    // Every input is 1: the state climbs to 4 and 6, which no single step reaches.
    let inputs = Reals { shape: vec![1, 2], samples: vec![vec![1.0, 1.0]; 40] };
    let options = ConvertOptions { numbers: Numbers::Int8, ..ConvertOptions::default() };
    let converted = convert(b.0, Some(&inputs), &options, &mut ()).unwrap();
    assert_eq!(converted.report.float_nodes, Vec::<String>::new());
    let bytes = AlignedBytes::new(&converted.file);
    let model = Model::open(bytes.as_slice()).unwrap();
    assert_eq!(model.header().state_bytes, 2, "i8");
    for isa in Isa::available() {
        let mut session =
            Session::new(model, Options { isa: Some(isa), ..Options::default() }).unwrap();
        let mut want = [-3.0f32, 0.5];
        for _ in 0..40 {
            want = [want[0] * 0.75 + 1.0, want[1] * 0.75 + 1.5];
            session.set_input_f32(0, &[1.0, 1.0]).unwrap();
            session.run().unwrap();
            let slot = session.output_slot(0).unwrap();
            for (got, want) in session.output::<i8>(0).unwrap().iter().zip(want) {
                let real = slot.scale() * (i32::from(*got) - slot.zero_point()) as f32;
                // Half a step for each of three roundings, kept by the factor 0.75 for four runs.
                assert!((real - want).abs() <= 6.0 * slot.scale(), "{real} {want} on {isa}");
            }
        }
        assert!((want[0] - 4.0).abs() < 0.01 && (want[1] - 6.0).abs() < 0.01);
    }
}

#[test]
fn a_state_needs_a_fixed_size() {
    let mut graph = Graph::default();
    graph.symbols.push(Symbol { name: "time".to_owned(), min: 1, max: 9 });
    let read = graph.add_value("memory", DType::F32, vec![Dim::symbol(0)]);
    let state = State { name: "memory".to_owned(), read, next: read, initial: None };
    graph.states.push(state);
    graph.outputs.push(read);
    let error = convert(graph, None, &ConvertOptions::default(), &mut ()).err().unwrap();
    assert!(error.to_string().contains("state `memory` has the shape time"), "{error}");
}

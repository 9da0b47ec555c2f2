use super::*;
use crate::evaluate::{Program, Reals, feed, output_reals};
use crate::graph::{BinaryKind, Clamp, PoolKind, Quant, UnaryKind};
use crate::passes::check;
use crate::passes::tests::builder::Build;
use crate::plan::{ArenaGoal, PlanError, PlanOptions, plan};
use whit::{DType, Isa};

/// Random graphs, each with some random regions.
const GRAPHS: usize = 150;

fn below(build: &mut Build, n: usize) -> usize {
    (((build.numbers(1)[0] + 1.0) / 2.0 * n as f32) as usize).min(n - 1)
}

fn shape(build: &Build, id: ValueId) -> Vec<usize> {
    build.graph.value(id).const_shape().unwrap()
}

fn dims(shape: [usize; 4]) -> Vec<Dim> {
    shape.map(Dim::from).to_vec()
}

/// Sizes of a window over an axis of `size`: kernel, stride, dilation, padding, and how often it fits.
fn window(build: &mut Build, size: usize) -> [usize; 6] {
    loop {
        let (kernel, stride) = (1 + below(build, 3), 1 + below(build, 2));
        let dilation = 1 + below(build, 2);
        let (before, after) = (below(build, kernel), below(build, kernel));
        let (padded, span) = (size + before + after, (kernel - 1) * dilation + 1);
        if padded >= span {
            return [kernel, stride, dilation, before, after, (padded - span) / stride + 1];
        }
    }
}

/// A convolution with random windows, of each channel by itself or with a residual where one is at hand.
fn conv(build: &mut Build, x: ValueId, values: &[ValueId]) -> ValueId {
    let [_, height, width, channels] = shape(build, x)[..] else { panic!("rank") };
    let windows = [window(build, height), window(build, width)];
    let of = |at: usize| windows.map(|window| window[at]).to_vec();
    let groups = if below(build, 2) == 0 { 1 } else { channels };
    let out = if groups > 1 { channels } else { 1 + below(build, 4) };
    let kernel = of(0);
    let weights = build.random(&[out, kernel[0], kernel[1], channels / groups]);
    let bias = build.random(&[out]);
    let conv = Conv {
        kernel,
        stride: of(1),
        dilation: of(2),
        pad_before: of(3),
        pad_after: of(4),
        groups,
        clamp: Clamp { min: -0.7, max: 0.8 },
        inner_quant: None,
    };
    let made = dims([1, windows[0][5], windows[1][5], out]);
    let residual = values.iter().copied().find(|id| build.graph.value(*id).shape == made);
    let inputs = [&[x, weights, bias][..], residual.as_slice()].concat();
    build.node(Op::Conv(conv), &inputs, made)
}

fn pool(build: &mut Build, x: ValueId) -> ValueId {
    let [_, height, width, channels] = shape(build, x)[..] else { panic!("rank") };
    let windows = [window(build, height), window(build, width)];
    let of = |at: usize| windows.map(|window| window[at]).to_vec();
    let pool = Pool {
        kind: if below(build, 2) == 0 { PoolKind::Max } else { PoolKind::Average },
        kernel: of(0),
        stride: of(1),
        dilation: vec![1; 2],
        pad_before: of(3),
        pad_after: of(4),
        count_include_pad: below(build, 2) == 0,
        column_major: false,
    };
    let fits = |size: usize, w: [usize; 6]| (size + w[3] + w[4] - w[0]) / w[1] + 1;
    let made = [1, fits(height, windows[0]), fits(width, windows[1]), channels];
    build.node(Op::Pool(pool), &[x], dims(made))
}

fn resize(build: &mut Build, x: ValueId) -> ValueId {
    let [_, height, width, channels] = shape(build, x)[..] else { panic!("rank") };
    let (down, across) = (1 + below(build, 3), 1 + below(build, 2));
    use CoordinateMode::{AlignCorners, Asymmetric, HalfPixel, PytorchHalfPixel};
    use NearestRounding::{Ceil, Floor, RoundPreferCeil, RoundPreferFloor};
    let coordinates = [Asymmetric, HalfPixel, PytorchHalfPixel, AlignCorners][below(build, 4)];
    let rounding = [Floor, RoundPreferCeil, RoundPreferFloor, Ceil][below(build, 4)];
    let mode = ResizeMode::Nearest(rounding);
    // A scale may be more than the ratio of the sizes, which are rounded down.
    let more = if below(build, 3) == 0 { 0.9 / height as f32 } else { 0.0 };
    let scales = vec![1.0, down as f32 + more, across as f32, 1.0];
    let op = Op::Resize { mode, coordinates, scales };
    build.node(op, &[x], dims([1, height * down, width * across, channels]))
}

/// A chain with branches that join again.
fn random_graph(build: &mut Build) -> Graph {
    let first = [1, 5 + below(build, 20), 3 + below(build, 6), 1 + below(build, 4)];
    let mut values = vec![build.input(&first)];
    for _ in 0..3 + below(build, 7) {
        let x = values[values.len() - 1 - below(build, values.len().min(2))];
        let like = |build: &Build, id: &ValueId| build.shape(*id)[..3] == build.shape(x)[..3];
        let other = values.iter().copied().rfind(|id| *id != x && like(build, id));
        let y = match (below(build, 9), other) {
            (0, _) => pool(build, x),
            (1, _) if shape(build, x)[1] < 30 => resize(build, x),
            (2, _) => build.unary(UnaryKind::HardSwish, x),
            (3, Some(other)) => {
                let mut made = build.shape(x);
                made[3] = made[3].add(&build.shape(other)[3]);
                build.node(Op::Concat { axis: 3 }, &[x, other], made)
            }
            (4, Some(other)) if build.shape(x) == build.shape(other) => {
                build.binary(BinaryKind::Sub, x, other)
            }
            (5, _) => {
                let channels = build.channels(x);
                let per_channel = build.random(&[channels]);
                build.binary(BinaryKind::Mul, per_channel, x)
            }
            (6, _) => {
                let q = build.node(Op::Quantize, &[x], build.shape(x));
                let value = build.graph.value_mut(q);
                (value.dtype, value.quant) = (DType::I8, Some(Quant::per_tensor(0.01, 3)));
                build.node(Op::Dequantize, &[q], build.shape(q))
            }
            _ => conv(build, x, &values),
        };
        values.push(y);
    }
    let mut graph = build.graph.clone();
    graph.outputs = vec![values[values.len() - 1], values[values.len() / 2]];
    graph.outputs.dedup();
    graph.outputs.retain(|id| !graph.inputs.contains(id));
    graph
}

/// The bits of all outputs of a program, and the products that it computes.
fn run(graph: &Graph, options: &PlanOptions, samples: &Reals) -> (Vec<Vec<u32>>, u64) {
    let program = Program::new(graph, options).unwrap();
    let mut session = program.session(Some(Isa::Scalar)).unwrap();
    feed(&mut session, samples, 0).unwrap();
    session.run().unwrap();
    let bits =
        |output| output_reals(&session, output).unwrap().iter().map(|x| x.to_bits()).collect();
    let outputs = (0..graph.outputs.len()).map(bits).collect();
    (outputs, program.plan.steps.iter().map(|step| step.macs).sum())
}

fn samples(build: &mut Build) -> Reals {
    let shape = shape(build, build.graph.inputs[0]);
    Reals { samples: vec![build.numbers(shape.iter().product())], shape }
}

#[test]
fn random_regions_compute_the_same_once() {
    let mut regions = 0;
    for seed in 0..GRAPHS {
        let mut build = Build::default();
        build.numbers(seed + 1);
        let graph = random_graph(&mut build);
        let samples = samples(&mut build);
        let options = PlanOptions { fuse: true, ..PlanOptions::default() };
        let whole = run(&graph, &options, &samples);
        let layers = Layers::of(&graph);
        for _ in 0..4 {
            let first = below(&mut build, graph.nodes.len());
            let run_of = layers.banded[first..].iter().take_while(|node| node.is_some()).count();
            if run_of == 0 {
                continue;
            }
            let end = first + 1 + below(&mut build, run_of);
            let height = layers.banded[end - 1].as_ref().unwrap().height;
            let bands = 1 + below(&mut build, height);
            let cut = layers.cut(&[(first..end, bands)]);
            check(&cut).unwrap();
            let name = format!("seed {seed}: nodes {first}..{end} in {bands} bands");
            let banded = run(&cut, &options, &samples);
            assert_eq!(banded.0, whole.0, "{name}");
            // Rows that nobody reads aren't computed.
            assert!(banded.1 <= whole.1, "{name}: {} products of {}", banded.1, whole.1);
            regions += usize::from(bands > 1);
        }
    }
    assert!(regions > GRAPHS, "{regions}");
}

/// Wide layers between a small input and a small result.
fn wide(build: &mut Build) -> Graph {
    let x = build.input(&[1, 32, 16, 2]);
    let x = build.conv(x, 24, 3, 1);
    let x = build.unary(UnaryKind::HardSwish, x);
    let x = build.conv(x, 24, 3, 1);
    let x = build.conv(x, 2, 1, 0);
    build.graph.outputs = vec![x];
    build.graph.clone()
}

#[test]
fn the_arena_shrinks_to_the_goal() {
    let mut build = Build::default();
    let graph = wide(&mut build);
    let samples = samples(&mut build);
    let options = |arena| PlanOptions { fuse: true, arena, ..PlanOptions::default() };
    let arena = |goal| plan(&graph, &options(goal)).unwrap().arena_bytes;
    let whole = arena(None);
    let smallest = arena(Some(ArenaGoal::Smallest));
    assert!(smallest * 3 < whole, "{smallest} of {whole} bytes");
    let middle = (smallest + whole) / 2;
    let at_most = arena(Some(ArenaGoal::AtMost(middle)));
    assert!((smallest..=middle).contains(&at_most), "{at_most} bytes, at most {middle}");
    assert_eq!(arena(Some(ArenaGoal::AtMost(whole))), whole);
    let bits = |goal| run(&graph, &options(goal), &samples);
    assert_eq!(bits(Some(ArenaGoal::Smallest)), bits(None));

    let refused = plan(&graph, &options(Some(ArenaGoal::AtMost(smallest / 2))));
    let Err(PlanError::Arena { wanted, least }) = refused else { panic!("{refused:?}") };
    assert_eq!((wanted, least), (smallest / 2, smallest));
}

/// Weights are stored and described once, however many bands use them.
#[test]
fn constants_are_shared() {
    let graph = wide(&mut Build::default());
    let layers = Layers::of(&graph);
    let described = |graph: &Graph| {
        let plan = plan(graph, &PlanOptions::default()).unwrap();
        let constants =
            plan.tensors.iter().filter(|t| t.storage == whit::format::Storage::Constant);
        (constants.count(), plan.constants.len())
    };
    assert_eq!(described(&layers.cut(&[(0..4, 8)])), described(&graph));
}

/// Rows that windows need, beside the definition.
#[test]
fn reaches_are_those_of_the_windows() {
    for (kernel, stride, dilation, before) in
        [(3, 1, 1, 1), (3, 2, 1, 0), (5, 1, 2, 4), (1, 3, 1, 0)]
    {
        let reach = Reach::window(kernel, stride, dilation, before);
        for (start, end) in [(0, 1), (0, 4), (2, 3), (3, 6), (5, 6)] {
            let taps = (start..end).flat_map(|row| {
                (0..kernel).map(move |tap| (row * stride + tap * dilation) as i64 - before as i64)
            });
            let (least, most) = (taps.clone().min().unwrap(), taps.max().unwrap());
            let (rows, [missing_before, missing_after]) = reach.operand(&(start..end), 12);
            assert_eq!(rows.start as i64 - missing_before as i64, least.min(rows.start as i64));
            assert_eq!((rows.end + missing_after) as i64, most + 1);
            assert!(rows.end <= 12 && rows.start as i64 == least.max(0));
        }
    }
}

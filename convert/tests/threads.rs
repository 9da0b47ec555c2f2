//! Several threads: the same bytes as one thread gives, whatever a symbolic dimension is, and nothing
//! allocated on any of them.

mod common;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use whit::{DType, Model, Options, Session};
use whit_convert::evaluate::AlignedBytes;
use whit_convert::import::onnx::proto::{
    AttributeProto as A, DimensionProto, TensorProto as T, ValueInfoProto, data_type as t,
};
use whit_convert::quantize::numbers::Numbers;

use common::{Random, Source, n, source, weight};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Channels, and rows at most.
const CHANNELS: i64 = 96;
const ROWS: u32 = 40;

/// Layers of each kind that is shared, long enough to be, over a symbolic number of rows.
fn wide() -> Source {
    let r = &mut Random::new(21);
    let constants = vec![
        weight(r, "w1", &[CHANNELS, 16, 3, 3]),
        weight(r, "wd", &[CHANNELS, 1, 3, 3]),
        weight(r, "wp", &[CHANNELS, CHANNELS, 1, 1]),
        weight(r, "wf", &[CHANNELS, 1024]),
        weight(r, "wg", &[1024, 512]),
        T::f32("scale", &[CHANNELS], &vec![1.5; CHANNELS as usize]),
        T::f32("shift", &[CHANNELS], &vec![0.1; CHANNELS as usize]),
    ];
    let pads = || A::ints("pads", &[1, 1, 1, 1]);
    let nodes = vec![
        n("Conv", &["x", "w1"], &["c1"]).with(pads()),
        n("Relu", &["c1"], &["a"]),
        n("Conv", &["a", "wd"], &["d"]).with(pads()).with(A::int("group", CHANNELS)),
        n("Sigmoid", &["d"], &["s"]),
        n("Conv", &["s", "wp"], &["p"]),
        n("Add", &["p", "a"], &["sum"]),
        n("Transpose", &["sum"], &["rows"]).with(A::ints("perm", &[0, 2, 3, 1])),
        n("LayerNormalization", &["rows", "scale", "shift"], &["ln"]),
        n("Softmax", &["ln"], &["soft"]),
        n("ReduceMean", &["soft"], &["mean"])
            .with(A::ints("axes", &[1, 2]))
            .with(A::int("keepdims", 0)),
        n("MatMul", &["mean", "wf"], &["f"]),
        n("Relu", &["f"], &["fr"]),
        n("MatMul", &["fr", "wg"], &["y"]),
    ];
    let dims = ["1", "16", "h", "40"].map(|d| match d.parse::<i64>() {
        Ok(size) => size.into(),
        Err(_) => DimensionProto::from(d),
    });
    let x = ValueInfoProto::tensor("x", t::FLOAT, dims);
    source("wide", &[("h", 1, i64::from(ROWS))], vec![x], constants, nodes, &["y", "ln"])
}

fn outputs(session: &Session<'_>) -> Vec<u8> {
    let count = session.model().outputs().len();
    (0..count).flat_map(|i| session.output_bytes(i).expect("an output").to_vec()).collect()
}

/// One test alone in its process: other tests' allocations would count as well.
#[test]
fn threads_change_no_bit_and_allocate_nothing() {
    for numbers in [Numbers::Float, Numbers::F16, Numbers::Bf16, Numbers::Int8] {
        let file = AlignedBytes::new(&wide().convert(numbers));
        let model = Model::open(file.as_slice()).expect("a model");
        let pairs = model.tensors().filter(|tensor| tensor.dtype == DType::BF16 as u8).count();
        // The pointwise convolution and both layers; one of 3×3 and one that is depthwise have f16.
        assert_eq!(pairs, if numbers == Numbers::Bf16 { 3 } else { 0 });
        let mut one = Session::new(model, Options::default()).expect("one thread");
        for threads in [2, 3, 7] {
            let options = Options { threads, ..Options::default() };
            let mut session = Session::new(model, options).expect("threads");
            assert_eq!(session.threads(), threads);
            let mut most = 0;
            for rows in [ROWS, 1, 33, ROWS] {
                for session in [&mut one, &mut session] {
                    session.set_dimension("h", rows).expect("rows");
                    common::fill_inputs(session, &mut Random::new(u64::from(rows)))
                        .expect("inputs");
                }
                one.run().expect("one thread");
                let region = Region::new(ALLOCATOR);
                let result = session.run();
                let change = region.change();
                result.expect("threads");
                let context = format!("{numbers}, {threads} threads, {rows} rows");
                assert_eq!(
                    change.allocations + change.reallocations + change.deallocations,
                    0,
                    "{context}"
                );
                assert!(outputs(&one) == outputs(&session), "{context}");

                let steps = 0..model.header().step_count as usize;
                let cut = steps.filter(|step| session.parts(*step) > 1).count();
                most = most.max(cut);
                assert!(
                    if rows == 1 { cut < most } else { cut >= 3 },
                    "{context}: {cut} of {most} steps are cut"
                );
            }
        }
    }
}

//! States saved and restored: a graph with a KV cache and a running sum goes on in another session as if nothing had happened,
//! on every backend, and damaged bytes are refused. Without a C++ compiler for the kernels of CUDA, the tests say so.

mod common;

use std::sync::OnceLock;

use common::Random;
use whit::cuda::{Device, Error};
use whit::{DType, Model, Options, Prepared, RestoreError, Session, SessionError};
use whit_convert::dim::{Dim, Symbol};
use whit_convert::evaluate::AlignedBytes;
use whit_convert::graph::{BinaryKind, CachedAttention, Graph, Heads, Node, Op, State};
use whit_convert::pipeline::{ConvertOptions, convert};

const HEADS: Heads = Heads { heads: 2, kv_heads: 2, size: 3 };
const CHANNELS: usize = 18;
const CONTEXT: usize = 11;
/// Keys and values of a position: of two heads, three f16 or three i8 and a scale.
const POSITION_BYTES: [usize; 2] = [2 * 2 * 3 * 2, 2 * 2 * (3 + 2)];
/// The running sum: one f32 for each of four.
const SUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 40;

/// Attention over what was seen, kept in f16, and the sum of all `addend`s.
fn model(scale: f32) -> AlignedBytes {
    kept(scale, 1, &[("keys", DType::F16, HEADS.size), ("values", DType::F16, HEADS.size)])
}

/// The same, kept in q8.
fn model_q8(scale: f32, sequences: usize) -> AlignedBytes {
    let numbers = [("keys", DType::I8, HEADS.size), ("values", DType::I8, HEADS.size)];
    let scales = [("key scales", DType::F16, 1), ("value scales", DType::F16, 1)];
    kept(scale, sequences, &[numbers, scales].concat())
}

/// The same with these states, which have so many numbers for each head and position; where there are several sequences, the last input
/// says which one a token is in.
fn kept(scale: f32, sequences: usize, states: &[(&str, DType, usize)]) -> AlignedBytes {
    let mut graph = Graph { name: "saved".to_owned(), ..Graph::default() };
    graph.symbols.push(Symbol { name: "tokens".to_owned(), min: 1, max: 4 });
    let tokens = Dim::symbol(0);
    let wide = |channels: usize| vec![tokens.clone(), Dim::from(channels)];
    let x = graph.add_value("x", DType::F32, wide(CHANNELS));
    let positions = graph.add_value("positions", DType::I32, vec![tokens.clone()]);
    let addend = graph.add_value("addend", DType::F32, vec![Dim::from(4usize)]);
    graph.inputs = vec![x, positions, addend];
    let mut inputs = vec![Some(x), Some(positions)];
    let y = graph.add_value("y", DType::F32, wide(HEADS.heads * HEADS.size));
    let mut outputs = vec![y];
    for (name, dtype, width) in states {
        let shape = [sequences, HEADS.kv_heads, CONTEXT, *width].map(Dim::from).to_vec();
        let read = graph.add_value(*name, *dtype, shape.clone());
        let next = graph.add_value(format!("{name} next"), *dtype, shape);
        inputs.push(Some(read));
        outputs.push(next);
        graph.states.push(State { name: (*name).to_owned(), read, next, initial: None });
    }
    if sequences > 1 {
        let places = graph.add_value("sequences", DType::I32, vec![tokens.clone()]);
        graph.inputs.push(places);
        inputs.push(Some(places));
    }
    let op =
        Op::CachedAttention(CachedAttention { heads: HEADS, window: None, scale, softcap: 0.0 });
    graph.nodes.push(Node { name: "attention".to_owned(), op, inputs, outputs });
    let sum = graph.add_value("sum", DType::F32, vec![Dim::from(4usize)]);
    let next = graph.add_value("sum next", DType::F32, vec![Dim::from(4usize)]);
    let op = Op::Binary(BinaryKind::Add);
    let inputs = vec![Some(sum), Some(addend)];
    graph.nodes.push(Node { name: "add".to_owned(), op, inputs, outputs: vec![next] });
    graph.states.push(State { name: "sum".to_owned(), read: sum, next, initial: None });
    graph.outputs = vec![y, next];
    let options = ConvertOptions { golden_cases: 0, ..ConvertOptions::default() };
    AlignedBytes::new(&convert(graph, None, &options, &mut ()).expect("a model").file)
}

/// Prepares a model on a backend.
type Prepare = for<'b> fn(&'b AlignedBytes) -> Box<dyn Prepared<'b> + 'b>;

fn session(bytes: &AlignedBytes) -> Box<dyn Prepared<'_> + '_> {
    let model = Model::open(bytes.as_slice()).expect("a model");
    Box::new(Session::new(model, Options::default()).expect("a session"))
}

fn on_cuda(bytes: &AlignedBytes) -> Box<dyn Prepared<'_> + '_> {
    let model = Model::open(bytes.as_slice()).expect("a model");
    let device = device().expect("asked before");
    Box::new(whit::cuda::Session::new(model, device, Default::default()).expect("a session"))
}

/// The kernels compiled for the host; `None` where there is no compiler.
fn device() -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    let open = || match Device::for_tests() {
        Ok(device) => Some(device),
        Err(Error::Compile { log, .. }) if log.contains("No such file") => {
            println!("skipped: {log}");
            None
        }
        Err(error) => panic!("{error}"),
    };
    DEVICE.get_or_init(open).as_ref()
}

/// Every backend that is there.
fn backends() -> Vec<Prepare> {
    [session as Prepare].into_iter().chain(device().map(|_| on_cuda as Prepare)).collect()
}

/// A run of tokens at these positions, with inputs that follow from the seed.
fn run(session: &mut dyn Prepared<'_>, positions: &[i32], seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let mut reals = |count: usize| -> Vec<f32> {
        (0..count).map(|_| (random.next() % 2001) as f32 / 1000.0 - 1.0).collect()
    };
    session.set_dimension("tokens", positions.len() as u32).expect("a size");
    session.set_input_f32(0, &reals(positions.len() * CHANNELS)).expect("x");
    session.input_mut::<i32>(1).expect("positions").copy_from_slice(positions);
    session.set_input_f32(2, &reals(4)).expect("an addend");
    session.run().expect("a run");
    (0..2).map(|at| session.output_bytes(at).expect("an output").to_vec()).collect()
}

fn saved(session: &dyn Prepared<'_>, positions: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = session.save_state(positions, |piece| {
        bytes.extend_from_slice(piece);
        Ok::<(), End>(())
    });
    written.expect("bytes");
    assert_eq!(bytes.len() as u64, session.saved_state_bytes(positions));
    bytes
}

/// Fewer bytes than asked for.
#[derive(Debug, PartialEq)]
struct End;

fn restore(session: &mut dyn Prepared<'_>, mut bytes: &[u8]) -> Result<u32, RestoreError<End>> {
    session.restore_state(|piece| {
        let (given, rest) = bytes.split_at_checked(piece.len()).ok_or(End)?;
        piece.copy_from_slice(given);
        bytes = rest;
        Ok(())
    })
}

/// Runs that tell whether two sessions remember the same at the first positions.
fn go_on(session: &mut dyn Prepared<'_>, from: i32) -> Vec<Vec<u8>> {
    let mut all = run(session, &[from, from + 1], 5);
    all.extend(run(session, &[from + 2], 6));
    all
}

#[test]
fn sessions_go_on_where_they_were_saved() {
    for (bytes, position_bytes) in [model(0.5), model_q8(0.5, 1)].iter().zip(POSITION_BYTES) {
        for session in backends() {
            goes_on_where_it_was_saved(bytes, position_bytes, session);
        }
    }
}

fn goes_on_where_it_was_saved(bytes: &AlignedBytes, position_bytes: usize, session: Prepare) {
    let mut first = session(bytes);
    run(&mut *first, &[0, 1, 2, 3], 1);
    run(&mut *first, &[4], 2);
    for (positions, kept) in [(5, 5), (11, 11), (20, 11), (u32::MAX, 11)] {
        let state = saved(&*first, positions);
        let least = HEADER_BYTES + kept * position_bytes + SUM_BYTES + 4;
        // States begin at multiples of a cache line, and what lies between them is kept, too.
        assert!((least..least + 5 * 64).contains(&state.len()), "{}", state.len());
        let mut second = session(bytes);
        run(&mut *second, &[0, 1, 2], 77);
        assert_eq!(restore(&mut *second, &state), Ok(positions));
        let mut original = session(bytes);
        run(&mut *original, &[0, 1, 2, 3], 1);
        run(&mut *original, &[4], 2);
        assert_eq!(go_on(&mut *second, 5), go_on(&mut *original, 5), "{positions}");
    }
    // Fewer positions than there are: those behind them are computed again.
    let state = saved(&*first, 2);
    let mut second = session(bytes);
    assert_eq!(restore(&mut *second, &state), Ok(2));
    let mut original = session(bytes);
    run(&mut *original, &[0, 1, 2, 3], 1);
    run(&mut *original, &[4], 2);
    assert_eq!(go_on(&mut *second, 2), go_on(&mut *original, 2));
}

/// Numbers that may differ by the order of sums.
fn assert_close(found: &[Vec<u8>], expected: &[Vec<u8>]) {
    let reals = |bytes: &[Vec<u8>]| -> Vec<f32> {
        let words = bytes.iter().flat_map(|bytes| bytes.chunks_exact(4));
        words.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    assert_eq!(found.len(), expected.len());
    for (found, expected) in reals(found).into_iter().zip(reals(expected)) {
        assert!((found - expected).abs() < 1e-5, "{found} instead of {expected}");
    }
}

#[test]
fn sessions_go_on_from_backend_to_backend() {
    for bytes in [model(0.5), model_q8(0.5, 1)] {
        let mut states = Vec::new();
        let mut expected: Option<Vec<Vec<u8>>> = None;
        for prepare in backends() {
            let mut first = prepare(&bytes);
            run(&mut *first, &[0, 1, 2, 3], 1);
            states.push(saved(&*first, 4));
            // What was asked for before the first run, too.
            first.reset_state();
            let fresh = saved(&*first, u32::MAX);
            assert!(fresh[HEADER_BYTES..fresh.len() - 4].iter().all(|byte| *byte == 0));
        }
        for state in &states {
            for prepare in backends() {
                let mut second = prepare(&bytes);
                assert_eq!(restore(&mut *second, state), Ok(4));
                let found = go_on(&mut *second, 4);
                assert_close(&found, expected.get_or_insert_with(|| found.clone()));
            }
        }
    }
}

#[test]
fn copied_sequences_go_on_as_their_originals() {
    let bytes = model_q8(0.5, 3);
    let run_in = |session: &mut dyn Prepared<'_>, sequence: i32, positions: &[i32], seed: u64| {
        session.set_dimension("tokens", positions.len() as u32).expect("a size");
        session.input_mut::<i32>(3).expect("sequences").fill(sequence);
        run(session, positions, seed).remove(0)
    };
    for prepare in backends() {
        let mut session = prepare(&bytes);
        let session = &mut *session;
        run_in(session, 0, &[0, 1, 2], 1);
        run_in(session, 2, &[0, 1, 2, 3], 2);
        // Two positions of sequence 2 become those of sequence 1, behind which it goes on.
        session.copy_sequence(2, 1, 2).expect("copied");
        let of_copy = run_in(session, 1, &[2, 3], 3);
        assert_eq!(of_copy, run_in(session, 2, &[2, 3], 3));
        assert_ne!(of_copy, run_in(session, 0, &[2, 3], 3));
        session.copy_sequence(0, 1, u32::MAX).expect("copied");
        assert_eq!(run_in(session, 1, &[4], 4), run_in(session, 0, &[4], 4));
        session.copy_sequence(1, 1, 5).expect("copied");
        for (from, to) in [(3, 0), (0, 3), (usize::MAX, 0)] {
            assert_eq!(session.copy_sequence(from, to, 1), Err(SessionError::Unknown));
        }
    }
}

#[test]
fn what_is_not_saved_state_of_the_model_is_refused() {
    let (bytes, other) = (model(0.5), model(0.25));
    let mut own = session(&bytes);
    run(&mut *own, &[0, 1], 1);
    let state = saved(&*own, 2);
    assert_eq!(restore(&mut *session(&other), &state), Err(RestoreError::OtherModel));
    let mut with = |at: usize, byte: u8| {
        let mut state = state.clone();
        state[at] = byte;
        restore(&mut *own, &state)
    };
    assert_eq!(with(0, b'X'), Err(RestoreError::NotState));
    assert_eq!(with(4, 9), Err(RestoreError::Version { version: 9 }));
    assert_eq!(with(6, 3), Err(RestoreError::ByteOrder));
    let longer = with(8, 3);
    assert!(matches!(longer, Err(RestoreError::Length { .. })), "{longer:?}");
    assert_eq!(with(16, 0xff), Err(RestoreError::OtherModel));
    // Refused by the header, so nothing was touched.
    let mut same = session(&bytes);
    run(&mut *same, &[0, 1], 1);
    assert_eq!(go_on(&mut *own, 2), go_on(&mut *same, 2));
}

#[test]
fn damaged_state_is_refused_and_leaves_initial_values() {
    let bytes = model(0.5);
    let mut own = session(&bytes);
    run(&mut *own, &[0, 1, 2], 1);
    let state = saved(&*own, 3);
    let fresh = go_on(&mut *session(&bytes), 0);
    for length in 0..state.len() {
        assert_eq!(restore(&mut *own, &state[..length]), Err(RestoreError::Read(End)), "{length}");
        if length >= HEADER_BYTES {
            assert_eq!(go_on(&mut *own, 0), fresh, "{length}");
        }
    }
    for bit in 0..state.len() * 8 {
        let mut damaged = state.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let refused = restore(&mut *own, &damaged);
        assert!(refused.is_err(), "bit {bit}");
        if bit >= HEADER_BYTES * 8 {
            assert_eq!(refused, Err(RestoreError::Checksum), "bit {bit}");
            assert_eq!(go_on(&mut *own, 0), fresh, "bit {bit}");
        }
    }
    // Bytes of any kind: never a panic.
    let mut random = Random::new(3);
    for _ in 0..2000 {
        let mut damaged = state.clone();
        for _ in 0..1 + random.next() % 6 {
            let at = random.next() as usize % damaged.len();
            damaged[at] = random.next() as u8;
        }
        damaged.truncate(random.next() as usize % (state.len() * 2));
        if damaged != state {
            assert!(restore(&mut *own, &damaged).is_err());
        }
    }
    assert_eq!(restore(&mut *own, &state), Ok(3));
}

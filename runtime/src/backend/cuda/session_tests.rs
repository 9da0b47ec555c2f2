//! Sessions over a recorder and over the kernels on the host: what is asked of a device, shapes, state, failures.

use std::sync::Arc;

use super::arguments::{BinaryQuantized, Lut};
use super::device::Device;
use super::driver::Command;
use super::error::{Error, MissingStep};
use super::recorder::{Call, Recorder};
use super::session::{Options, Session};
use crate::dtype::DType;
use crate::error::{DeviceError, SessionError};
use crate::format::{
    BinaryAttributes, BinaryOp, ConvAttributes, DimRecord, Field, FileBuilder, Header, Layout,
    NO_OPERAND, Name, Op, OpBits, Section, StateRecord, StepRecord, Storage, SymbolRecord,
    TensorRecord,
};
use crate::model::Model;
use crate::saved::{RestoreError, SaveError};

/// Largest value of the symbol.
const MOST: u32 = 16;
const WIDTH: u32 = 8;

/// A file: y = table[x] with x `[n, 8]`, and a state that grows by one in every run, also an output. With `extra`, two layers
/// whose weights are in an order that the backend lacks.
fn file(extra: bool) -> Vec<u8> {
    let tensor = |storage: Storage, offset: u64, dims: [i32; 2], rank: u8, bytes: u32| {
        let mut all = [0; 8];
        all[..2].copy_from_slice(&dims);
        TensorRecord {
            dtype: DType::I8 as u8,
            storage: storage as u8,
            rank,
            dims: all,
            offset,
            bytes: bytes.into(),
            scale: 1.0,
            ..TensorRecord::default()
        }
    };
    let (width, rows) = (WIDTH as i32, MOST * WIDTH);
    let symbolic = [-1, width];
    let tensors = [
        tensor(Storage::Arena, 0, symbolic, 2, rows),
        tensor(Storage::Constant, 0, [256, 0], 1, 256),
        tensor(Storage::Arena, 128, symbolic, 2, rows),
        tensor(Storage::State, 0, [width, 0], 1, WIDTH),
        tensor(Storage::Constant, 256, [1, 0], 1, 1),
        tensor(Storage::Arena, 256, [width, 0], 1, WIDTH),
        tensor(Storage::Arena, 320, symbolic, 2, rows),
        // Of a layer: weights, biases, scales. Nobody looks at what they are.
        TensorRecord {
            layout: Layout::CortexM as u8,
            ..tensor(Storage::Constant, 128, [128, 0], 1, 128)
        },
        TensorRecord {
            dtype: DType::I32 as u8,
            scale: 0.0,
            ..tensor(Storage::Constant, 0, [16, 0], 1, 64)
        },
        TensorRecord {
            dtype: DType::F32 as u8,
            scale: 0.0,
            ..tensor(Storage::Constant, 64, [16, 0], 1, 64)
        },
    ];
    let add = BinaryAttributes {
        kind: BinaryOp::Add as u32,
        scale: [1.0; 2],
        clamp_q: [-128, 127],
        ..BinaryAttributes::default()
    };
    let step =
        |op: Op, dtype: Option<DType>, start: u32, inputs: u16, attributes: u32| StepRecord {
            op: op as u16,
            variant: dtype.map_or(0, |dtype| dtype as u8),
            operands_start: start,
            input_count: inputs,
            output_count: 1,
            attributes_bytes: attributes,
            ..StepRecord::default()
        };
    let mut steps = vec![
        step(Op::Lut, Some(DType::I8), 0, 2, 0),
        step(Op::Binary, Some(DType::I8), 3, 2, BinaryAttributes::SIZE as u32),
        step(Op::Copy, None, 6, 1, 0),
    ];
    let mut operands = vec![0u32, 1, 2, 3, 4, 3, 3, 5];
    if extra {
        for start in [8, 14] {
            operands.extend([2, 7, 8, 9, NO_OPERAND, 6]);
            let layer =
                step(Op::FullyConnected, Some(DType::I8), start, 5, ConvAttributes::SIZE as u32);
            let attributes_offset = BinaryAttributes::SIZE as u32;
            steps.push(StepRecord {
                attributes_offset,
                name: Name { offset: 0, bytes: 5 },
                ..layer
            });
        }
    }
    let mut constants: Vec<u8> = (0..=255u8).map(|x| x.wrapping_mul(3)).collect();
    constants.push(1);
    constants.resize(320, 0);
    constants[264..272].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let mut attributes = vec![0; BinaryAttributes::SIZE + ConvAttributes::SIZE];
    add.write(&mut attributes);
    let layer = ConvAttributes {
        kernel: [1; 2],
        stride: [1; 2],
        dilation: [1; 2],
        groups: 1,
        clamp_q: [-128, 127],
        ..ConvAttributes::default()
    };
    layer.write(&mut attributes[BinaryAttributes::SIZE..]);
    let mut op_set = OpBits::default();
    steps.iter().for_each(|step| op_set.insert(Op::from_number(step.op).unwrap()));
    let totals = Header {
        arena_bytes: 448,
        state_bytes: 8,
        weight_bytes: constants.len() as u64,
        step_count: steps.len() as u32,
        tensor_count: tensors.len() as u32,
        input_count: 1,
        output_count: 2,
        op_set: op_set.0,
        ..Header::default()
    };
    FileBuilder::new()
        .bytes(Section::Strings, b"largen".to_vec())
        .records(
            Section::Symbols,
            &[SymbolRecord { name: Name { offset: 5, bytes: 1 }, min: 1, max: MOST }],
        )
        .records::<DimRecord>(Section::Dims, &[])
        .records(Section::Tensors, &tensors)
        .records(Section::Steps, &steps)
        .records(Section::Operands, &operands)
        .bytes(Section::Attributes, attributes)
        .bytes(Section::Constants, constants)
        .records(Section::Interface, &[0u32, 2, 5])
        .records(Section::State, &[StateRecord { tensor: 3, has_initial: 1, offset: 264 }])
        .finish(totals)
}

/// A file at a multiple of 8, as a model wants it.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(file: &[u8]) -> Aligned {
        let mut memory = vec![0; file.len() + 8];
        let start = memory.as_ptr().align_offset(8);
        memory[start..start + file.len()].copy_from_slice(file);
        Aligned { memory, start, len: file.len() }
    }

    fn model(&self) -> Model<'_> {
        Model::open(&self.memory[self.start..self.start + self.len]).unwrap()
    }
}

fn prepare<'m>(
    recorder: &Arc<Recorder>,
    model: Model<'m>,
    options: Options,
) -> Result<Session<'m>, Error> {
    let driver: Arc<Recorder> = Arc::clone(recorder);
    Session::new(model, &Device::over(driver)?, options)
}

/// The kernels that a list of commands launches.
fn kernels(commands: &[Command]) -> Vec<&'static str> {
    let name = |command: &Command| match command {
        Command::Launch(launch) => Some(launch.kernel.name),
        _ => None,
    };
    commands.iter().filter_map(name).collect()
}

#[test]
fn a_run_is_one_launch_of_a_graph() {
    let (recorder, file) = (Recorder::new([9, 0]), Aligned::new(&file(false)));
    let mut session = prepare(&recorder, file.model(), Options::default()).unwrap();
    assert_eq!(session.launches(), Ok(3));
    session.run().unwrap();
    session.run().unwrap();
    let record = recorder.record();
    assert_eq!(record.replays.len(), 2);
    let graph = &record.graphs[&record.replays[0]];
    // In, three kernels, two outputs.
    assert!(matches!(graph[0], Command::Upload { bytes: 128, .. }), "{graph:?}");
    assert_eq!(kernels(graph), ["lut_i8", "binary_i8", "move_8"]);
    assert!(matches!(
        graph[4..],
        [Command::Download { bytes: 128, .. }, Command::Download { bytes: 8, .. }]
    ));
    // The arena is cleared at first, the state is set before the first run alone.
    assert!(matches!(
        record.direct[..],
        [
            Command::Clear { bytes: 448, .. },
            Command::Clear { bytes: 8, .. },
            Command::Copy { bytes: 8, .. }
        ]
    ));
}

#[test]
fn addresses_are_those_of_the_plan() {
    let (recorder, file) = (Recorder::new([9, 0]), Aligned::new(&file(false)));
    let session = prepare(&recorder, file.model(), Options::default()).unwrap();
    let record = recorder.record();
    // No two allocations are of one length.
    let base =
        |bytes: usize| *record.memory.iter().find(|(_, own)| **own == bytes).expect("a length").0;
    let graph = record.graphs.values().next().unwrap();
    let [Command::Upload { to, .. }, Command::Launch(launch), ..] = &graph[..] else {
        panic!("{graph:?}")
    };
    let arguments = Lut::read(&launch.arguments);
    assert_eq!([*to, arguments.input, arguments.output], [base(448), base(448), base(448) + 128]);
    assert_eq!(
        (arguments.elements, launch.grid, launch.arguments.len()),
        (128, [1, 1, 1], Lut::SIZE)
    );
    assert_eq!(arguments.table, base(320));
    let Command::Launch(add) = &graph[2] else { panic!("{graph:?}") };
    assert_eq!(BinaryQuantized::read(&add.arguments).output, base(8), "the state");
    drop(record);
    assert_eq!(session.device_bytes(), 320 + 448 + 8 + 4);
    drop(session);
    let record = recorder.record();
    assert!(record.memory.is_empty() && record.graphs.is_empty() && record.streams == 0);
}

#[test]
fn shapes_are_kept_up_to_a_bound() {
    let (recorder, file) = (Recorder::new([9, 0]), Aligned::new(&file(false)));
    let mut session =
        prepare(&recorder, file.model(), Options { shapes: 2, graphs: true }).unwrap();
    let mut run = |n: u32| {
        session.set_dimension("n", n).unwrap();
        session.run().unwrap();
        session.shapes()
    };
    assert_eq!([run(3), run(16), run(5), run(16), run(16)], [2, 2, 2, 2, 2]);
    let built = |recorder: &Recorder| recorder.record().functions.len() / 3;
    // 16, 3, and 5 in the place of 3.
    assert_eq!((built(&recorder), recorder.record().graphs.len()), (3, 2));
    run(3);
    assert_eq!(built(&recorder), 4);
    assert_eq!(session.dimension(0), Some(3));
    assert_eq!(
        session.set_dimension("n", 17),
        Err(SessionError::Dimension { symbol: 0, value: 17 })
    );
    assert_eq!(session.set_dimension("m", 1), Err(SessionError::Unknown));
    assert_eq!(session.input_slot(0).unwrap().dims(), [3, WIDTH]);
    let wrong = SessionError::InputLength { input: 0, expected: 24, given: 128 };
    assert_eq!(session.set_input_bytes(0, &[0; 128]), Err(wrong));
}

#[test]
fn what_stays_on_the_device_is_not_copied() {
    let (recorder, file) = (Recorder::new([9, 0]), Aligned::new(&file(false)));
    let mut session = prepare(&recorder, file.model(), Options::default()).unwrap();
    session.keep_input_on_device(0, true).unwrap();
    session.keep_output_on_device(1, true).unwrap();
    session.run().unwrap();
    assert_eq!(session.output_address(1).unwrap() - session.input_address(0).unwrap(), 256);
    assert_eq!(session.keep_input_on_device(1, true), Err(SessionError::Unknown));
    let record = recorder.record();
    let graph = &record.graphs[&record.replays[0]];
    assert!(matches!(
        graph[..],
        [
            Command::Launch(_),
            Command::Launch(_),
            Command::Launch(_),
            Command::Download { bytes: 128, .. }
        ]
    ));
}

#[test]
fn without_graphs_every_kernel_is_launched() {
    let (recorder, file) = (Recorder::new([9, 0]), Aligned::new(&file(false)));
    let mut session =
        prepare(&recorder, file.model(), Options { graphs: false, ..Options::default() }).unwrap();
    session.run().unwrap();
    assert!(recorder.record().graphs.is_empty());
    assert_eq!(kernels(&recorder.record().direct), ["lut_i8", "binary_i8", "move_8"]);
}

#[test]
fn steps_that_are_missing_are_listed() {
    const LACKS: &str = "weights for Cortex-M; convert with `--target any`";
    let (recorder, file) = (Recorder::new([9, 0]), Aligned::new(&file(true)));
    let error = prepare(&recorder, file.model(), Options::default()).unwrap_err();
    let missing = |step| MissingStep {
        step,
        name: "large".to_owned(),
        operator: "fully_connected",
        dtype: Some(DType::I8),
        what: Some(LACKS),
    };
    assert_eq!(error, Error::Missing(vec![missing(3), missing(4)]));
    let lacks = |step| format!("  fully_connected i8 ({LACKS}) of step {step} `large`");
    let text = format!("the CUDA backend lacks\n{},\n{}; run it on the CPU", lacks(3), lacks(4));
    assert_eq!(error.to_string(), text);
    assert!(recorder.record().memory.is_empty());
}

#[test]
fn devices_that_are_too_old_are_refused() {
    let error = Device::over(Recorder::new([7, 0])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a recorder has compute capability 7.0, and the kernels need 7.5 or newer"
    );
    assert!(Device::over(Recorder::new([12, 0])).is_ok());
}

#[test]
fn every_call_may_fail() {
    let file = Aligned::new(&file(false));
    let lost = DeviceError::Lost;
    let full = DeviceError::OutOfMemory { bytes: 320 };
    let preparing = [
        (Call::Allocate, full),
        (Call::Pinned, full),
        (Call::Write, lost),
        (Call::Stream, lost),
        (Call::Enqueue, DeviceError::Failed { call: "cuLaunchKernel", code: 701 }),
        (Call::BeginCapture, lost),
        (Call::EndCapture, lost),
    ];
    for (call, error) in preparing {
        // From the first such call to one more than there are.
        let mut failed = 0;
        loop {
            let recorder = Recorder::new([9, 0]);
            recorder.record().fails = Some((call, failed, error));
            match prepare(&recorder, file.model(), Options::default()) {
                Ok(_) => break,
                Err(got) => assert_eq!(got, Error::Device(error), "{call:?} {failed}"),
            }
            let record = recorder.record();
            assert!(record.memory.is_empty() && record.graphs.is_empty() && record.streams == 0);
            failed += 1;
        }
        assert!(failed >= 1, "{call:?}");
    }
    let recorder = Recorder::new([9, 0]);
    recorder.record().fails = Some((Call::Function, 1, lost));
    let error = prepare(&recorder, file.model(), Options::default()).unwrap_err();
    assert_eq!(error, Error::Compile { file: "elementwise.cu", log: "on demand".to_owned() });

    // In a run: an error, and the next run goes well.
    for call in [Call::Replay, Call::Synchronize, Call::Enqueue] {
        let recorder = Recorder::new([9, 0]);
        let mut session = prepare(&recorder, file.model(), Options::default()).unwrap();
        recorder.record().fails = Some((call, 0, lost));
        assert_eq!(session.run(), Err(SessionError::Device(lost)), "{call:?}");
        if call == Call::Synchronize {
            assert!(session.output_bytes(0).is_err(), "the device may still write them");
        }
        recorder.record().fails = None;
        session.run().unwrap();
        assert_eq!(session.output_bytes(1).unwrap().len(), 8);
    }
    // For a shape that is new.
    let recorder = Recorder::new([9, 0]);
    let mut session = prepare(&recorder, file.model(), Options::default()).unwrap();
    session.set_dimension("n", 2).unwrap();
    recorder.record().fails = Some((Call::Function, 0, lost));
    assert_eq!(session.run(), Err(SessionError::Device(DeviceError::Kernels("elementwise.cu"))));
    recorder.record().fails = None;
    session.run().unwrap();
}

#[test]
fn states_that_a_device_loses_are_told() {
    let (recorder, file) = (Recorder::new([9, 0]), Aligned::new(&file(false)));
    let mut session = prepare(&recorder, file.model(), Options::default()).unwrap();
    let save = |session: &Session<'_>| {
        let mut bytes = Vec::new();
        let saved = session.save_state(u32::MAX, |piece| {
            bytes.extend_from_slice(piece);
            Ok::<(), ()>(())
        });
        saved.map(|()| bytes)
    };
    let restore = |session: &mut Session<'_>, mut bytes: &[u8]| {
        session.restore_state(|piece| {
            let (given, rest) = bytes.split_at_checked(piece.len()).ok_or(())?;
            piece.copy_from_slice(given);
            bytes = rest;
            Ok(())
        })
    };
    let bytes = save(&session).unwrap();
    // The initial values that were asked for are there first.
    assert!(matches!(
        recorder.record().direct[..],
        [
            Command::Clear { bytes: 448, .. },
            Command::Clear { bytes: 8, .. },
            Command::Copy { bytes: 8, .. }
        ]
    ));
    let lost = DeviceError::Lost;
    let failed = SessionError::Device(lost);
    for call in [Call::Read, Call::Synchronize, Call::Enqueue] {
        recorder.record().fails = Some((call, 0, lost));
        assert_eq!(save(&session), Err(SaveError::Session(failed)), "{call:?}");
    }
    for call in [Call::Write, Call::Synchronize, Call::Enqueue] {
        recorder.record().fails = Some((call, 0, lost));
        let restored = restore(&mut session, &bytes);
        assert_eq!(restored, Err(RestoreError::Session(failed)), "{call:?}");
    }
    recorder.record().fails = None;
    assert_eq!(restore(&mut session, &bytes[..50]), Err(RestoreError::Read(())));
    assert_eq!(restore(&mut session, &bytes), Ok(u32::MAX));
    for (from, to) in [(0..9, 0), (0..4, 5), (0..1, usize::MAX)] {
        assert_eq!(session.copy_state(from, to), Err(SessionError::Unknown));
    }
    session.copy_state(0..4, 4).unwrap();
    let last = recorder.record().direct.last().cloned();
    assert!(matches!(last, Some(Command::Copy { bytes: 4, to, from }) if to == from + 4));
}

#[test]
fn wrong_inputs_and_outputs_are_refused() {
    let (recorder, file) = (Recorder::new([9, 0]), Aligned::new(&file(false)));
    let mut session = prepare(&recorder, file.model(), Options::default()).unwrap();
    let wrong = SessionError::InputLength { input: 0, expected: 128, given: 3 };
    assert_eq!(session.set_input_f32(0, &[0.0; 3]), Err(wrong));
    assert!(matches!(session.input_slot(1), Err(SessionError::Unknown)));
    assert!(matches!(session.output::<f32>(0), Err(SessionError::Unknown)));
    assert_eq!(session.output::<i8>(0).unwrap().len(), 128);
}

#[test]
fn shapes_state_and_residents_on_the_host() {
    let Some([device, ..]) = super::tests::devices() else { return };
    let file = Aligned::new(&file(false));
    let model = file.model();
    for graphs in [true, false] {
        let options = Options { shapes: 2, graphs };
        let mut cuda = Session::new(model, device, options).unwrap();
        let mut cpu = crate::Session::new(model, crate::Options::default()).unwrap();
        for (round, n) in [16u32, 1, 7, 16, 7].into_iter().enumerate() {
            if round == 3 {
                cuda.reset_state();
                cpu.reset_state();
            }
            let x: Vec<f32> = (0..n * WIDTH).map(|i| (i * 7 % 256) as f32 - 128.4).collect();
            cuda.set_dimension("n", n).unwrap();
            cpu.set_dimension("n", n).unwrap();
            cuda.set_input_f32(0, &x).unwrap();
            cpu.set_input_f32(0, &x).unwrap();
            cuda.run().unwrap();
            cpu.run().unwrap();
            for output in 0..2 {
                assert_eq!(cuda.output_bytes(output), cpu.output_bytes(output), "{round}");
            }
        }
        // One session's output is another's input, and both run at a time.
        let mut second = Session::new(model, device, options).unwrap();
        second.set_dimension("n", 7).unwrap();
        second.keep_input_on_device(0, true).unwrap();
        second.copy_input(0, &cuda, 0).unwrap();
        let (first, other) = (cuda.start().unwrap(), second.start().unwrap());
        other.finish().unwrap();
        first.finish().unwrap();
        cpu.set_input_bytes(0, cuda.output_bytes(0).unwrap()).unwrap();
        cpu.run().unwrap();
        assert_eq!(second.output_bytes(0), cpu.output_bytes(0));
        assert!(second.copy_input(0, &cuda, 1).is_err());
    }
}

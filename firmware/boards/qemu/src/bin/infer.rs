//! Runs the model in flash on inputs that the host has and measures it.
//!
//! Reads `inputs.bin`, the inputs' bytes one sample after the other, writes the outputs' bytes to
//! `outputs.bin`, both in QEMU's working directory, and prints what it measured as `name value` lines.
#![no_std]
#![no_main]

use core::fmt::Display;

use cortex_m_rt::entry;
use semihosting::fs::File;
use semihosting::io::{Read, Write};
use semihosting::{c, println, process};
use whit::{DType, Model, Options, Session};
use whit_board_qemu::counter::{self, Calibration};
use whit_board_qemu::{MEMORY_BYTES, Memory, OPERATORS, model, stack};
use whit_firmware::SelfTest;

/// Steps whose instructions are reported one by one.
const MAX_STEPS: usize = 64;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("{info}");
    process::exit(101)
}

#[entry]
fn main() -> ! {
    let core = cortex_m::Peripherals::take().expect("taken once");
    counter::start(core.SYST);
    let calibration = Calibration::measure();
    println!("milli_instructions_per_tick {}", calibration.milli_instructions_per_tick());
    let memory = cortex_m::singleton!(: Memory = Memory([0; MEMORY_BYTES])).expect("taken once");
    measure(&calibration, &mut memory.0);
    process::exit(0)
}

fn fail(what: &str, error: impl Display) -> ! {
    println!("{what}: {error}");
    process::exit(1)
}

fn measure(calibration: &Calibration, memory: &'static mut [u8]) {
    let options = Options { isa: None, operators: OPERATORS };

    let mut instructions = 0;
    let mut opened = None;
    let open_stack = stack::high_water(|| {
        let start = counter::ticks();
        opened = Some(Model::open(model::bytes()));
        instructions = calibration.instructions(counter::ticks() - start);
    });
    let model = match opened.expect("the closure ran") {
        Ok(model) => model,
        Err(error) => fail("open", error),
    };
    println!("open_instructions {instructions}");
    println!("open_stack_bytes {open_stack}");
    self_test(&model, memory, options);

    let mut prepared = None;
    let prepare_stack = stack::high_water(|| {
        let start = counter::ticks();
        prepared = Some(Session::in_memory(model, memory, options));
        instructions = calibration.instructions(counter::ticks() - start);
    });
    let mut session = match prepared.expect("the closure ran") {
        Ok(session) => session,
        Err(error) => fail("prepare", error),
    };
    println!("prepare_instructions {instructions}");
    println!("prepare_stack_bytes {prepare_stack}");
    println!("isa {}", session.isa());
    println!("arena_bytes {}", model.header().arena_bytes);
    println!("state_bytes {}", model.header().state_bytes);
    println!("scratch_bytes {}", session.scratch_bytes());
    println!("session_bytes {}", session.needed_bytes());

    let mut inputs = match File::open(c!("inputs.bin")) {
        Ok(file) => file,
        Err(_) => fail("inputs.bin", "can't be read"),
    };
    let mut outputs = match File::create(c!("outputs.bin")) {
        Ok(file) => file,
        Err(_) => fail("outputs.bin", "can't be written"),
    };
    let (mut runs, mut least, mut most, mut run_stack) = (0u32, u64::MAX, 0, 0);
    while read_inputs(&mut session, &mut inputs) {
        let mut result = Ok(());
        let stack = stack::high_water(|| {
            let start = counter::ticks();
            result = session.run();
            instructions = calibration.instructions(counter::ticks() - start);
        });
        if let Err(error) = result {
            fail("run", error);
        }
        runs += 1;
        (least, most) = (least.min(instructions), most.max(instructions));
        run_stack = run_stack.max(stack);
        for index in 0..model.header().output_count as usize {
            let bytes = session.output_bytes(index).unwrap_or(&[]);
            if outputs.write_all(bytes).is_err() {
                fail("outputs.bin", "can't be written");
            }
        }
    }
    println!("runs {runs}");
    println!("run_instructions {least} {most}");
    println!("run_stack_bytes {run_stack}");
    steps(calibration, &mut session);
}

/// Replays the golden vectors. Not inlined, like all that isn't measured: its frame would be part of
/// everybody's stack.
#[inline(never)]
fn self_test(model: &Model<'_>, memory: &mut [u8], options: Options) {
    match SelfTest::run(model, memory, options) {
        Ok(passed) => println!("self_test_cases {}", passed.cases),
        Err(error) => fail("self-test", error),
    }
}

/// Fills the session's inputs with the next sample; false after the last.
fn read_inputs(session: &mut Session<'_>, file: &mut File) -> bool {
    for index in 0..session.model().header().input_count as usize {
        let read = match session.input_slot(index).map(|slot| slot.dtype()) {
            Ok(DType::F32) => match session.input_mut::<f32>(index) {
                Ok(input) => input.iter_mut().all(|value| {
                    let mut bytes = [0; 4];
                    let read = read_all(file, &mut bytes);
                    *value = f32::from_le_bytes(bytes);
                    read
                }),
                Err(error) => fail("input", error),
            },
            _ => match session.input_mut::<u8>(index) {
                Ok(input) => read_all(file, input),
                Err(error) => fail("input", error),
            },
        };
        if !read {
            return false;
        }
    }
    true
}

/// Fills `bytes` from the file; false at its end.
fn read_all(file: &mut File, mut bytes: &mut [u8]) -> bool {
    while !bytes.is_empty() {
        match file.read(bytes) {
            Ok(0) => return false,
            Ok(count) => bytes = &mut bytes[count..],
            Err(_) => fail("inputs.bin", "can't be read"),
        }
    }
    true
}

/// One more run, step by step, on what the inputs' memory holds now.
#[inline(never)]
fn steps(calibration: &Calibration, session: &mut Session<'_>) {
    let mut ends = [0; MAX_STEPS];
    let start = counter::ticks();
    let result = session.run_observed(|step, _| {
        if let Some(end) = ends.get_mut(step) {
            *end = counter::ticks();
        }
    });
    if let Err(error) = result {
        fail("run", error);
    }
    let model = *session.model();
    let mut before = start;
    for (record, end) in model.steps().zip(ends) {
        let instructions = calibration.instructions(end - before);
        before = end;
        let op = whit::format::Op::from_number(record.op).map_or("?", |op| op.name());
        println!("step {instructions} {} {op} {}", record.macs, model.text(record.name));
    }
}

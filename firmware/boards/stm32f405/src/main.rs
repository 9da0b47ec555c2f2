//! A device on an STM32F405: classifies windows of an analogue input, and answers on its serial port.
//!
//! | | |
//! |---|---|
//! | PA9, PA10 | USART1, 115,200 baud: the commands of `whit_firmware::Device` and of MLPerf Tiny |
//! | PA1 | the analogue input, 1000 samples a second |
//! | PC13 | a lamp: a deadline missed, or the input is silent |
#![no_std]
#![no_main]

mod board;
mod flash;

use core::cell::RefCell;
use core::num::NonZeroUsize;

use cortex_m_rt::entry;
use panic_halt as _;
use stm32f4xx_hal::pac;
use whit::Options;
use whit_firmware::{
    Action, ArgMax, Benchmark, BenchmarkInput, BenchmarkResults, Device, Log, NoWatchdog, Overload,
    Pipeline, PipelineConfig, Policy, Rescale, SensorPolicy, Slots, StatusPin,
};

use board::Board;
use flash::{Flash, LOG, SLOTS};

/// Samples of a window: the elements of the model's input. The digits model reads 8 × 8.
const WINDOW: usize = 64;
/// For a session: tables, arena, state and scratch; `whit inspect` and the command `status` say how much.
const MEMORY_BYTES: usize = 64 << 10;
/// Longest command line: an upload's, with chunks of 64 bytes.
const LINE: usize = 160;
/// The longest that erasing a block of 128 KB takes (data sheet: 2 s at 32-bit, 4 s at 8-bit writes).
const ERASE_US: u32 = 4_000_000;

/// The operators of the models that this firmware runs.
static OPERATORS: &[&whit::ops::Operator] = include!(concat!(env!("OUT_DIR"), "/operators.rs"));

/// A file at a multiple of 64, as a model must lie.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);
static FACTORY: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/factory.whit")));

#[entry]
fn main() -> ! {
    let (Some(device), Some(memory), Some(input)) = (
        pac::Peripherals::take(),
        cortex_m::singleton!(: Aligned<[u8; MEMORY_BYTES]> = Aligned([0; MEMORY_BYTES])),
        cortex_m::singleton!(: [u8; 1024] = [0; 1024]),
    ) else {
        unreachable!("taken once")
    };
    let Board { flash, port, mut clock, sensor, lamp } = Board::new(device);
    let flash = RefCell::new(flash);

    let mut slots = Slots::new(Flash(&flash), flash::map, SLOTS, Policy::default())
        .unwrap_or_else(|_| unreachable!("whole blocks"));
    if !FACTORY.0.is_empty() {
        slots = slots.with_factory(0, &FACTORY.0);
    }
    let log = Log::<_, 16>::new(Flash(&flash), LOG, ERASE_US)
        .unwrap_or_else(|_| unreachable!("two blocks"));
    let commands = Benchmark::new(
        "digits",
        "whit",
        BenchmarkInput::Raw,
        BenchmarkResults::Output,
        input.as_mut_slice(),
    );
    let options = Options { isa: None, operators: OPERATORS };
    let mut device = Device::<_, _, 2, _, _, _, _, _, LINE>::new(
        slots,
        port,
        move || clock.now_us(),
        NoWatchdog,
        log,
        commands,
        options,
    );
    let mut pipeline = Pipeline::<_, _, _, WINDOW>::new(
        sensor,
        Rescale::new(1.0 / 4095.0, 0.0), // 12 bits, full scale is 1
        ArgMax::new(0.5),
        PipelineConfig {
            hop: NonZeroUsize::new(WINDOW / 2).unwrap_or(NonZeroUsize::MIN),
            deadline_us: 32_000, // a hop at 1000 samples a second
            overload: Overload::SkipOldest,
            sensor: SensorPolicy::default(),
        },
    );
    let mut lamp = StatusPin(lamp);

    loop {
        let mut session = device.boot(&mut memory.0);
        while let Action::Continue = device.poll(session.as_mut(), pipeline.slack_us()) {
            let Some(session) = &mut session else { continue };
            let step = pipeline.step(session, &mut device.environment);
            board::show(&mut lamp, &step);
        }
    }
}

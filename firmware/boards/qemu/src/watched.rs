//! What a product with a monitor does for ever, for the images that show how large that is.

use core::sync::atomic::{AtomicU32, Ordering};

use whit::metrics::{Config, Log, Monitor};
use whit::{Model, Options, Session};

use crate::{MEMORY_BYTES, Memory, OPERATORS, model};

/// Stands for a sensor's, a clock's and an actuator's data registers.
static IO: AtomicU32 = AtomicU32::new(0);

/// Runs the model in flash on what comes in; periods end and labels arrive as the registers say.
pub fn serve<L: Log>(log: &mut L) -> Option<()> {
    let memory = cortex_m::singleton!(: Memory = Memory([0; MEMORY_BYTES]))?;
    let monitor_memory = cortex_m::singleton!(: [u8; 4096] = [0; 4096])?;
    let model = Model::open(model::bytes()).ok()?;
    let options = Options { isa: None, operators: OPERATORS };
    let mut session = Session::in_memory(model, &mut memory.0, options).ok()?;
    let mut monitor = Monitor::start(&model, &Config::DEFAULT, monitor_memory, log, 0).ok()?;
    let read = || IO.load(Ordering::Relaxed);
    loop {
        for value in session.input_mut::<i8>(0).ok()? {
            *value = read() as i8;
        }
        let run = monitor.run(&mut session, &mut || read()).ok()?;
        for value in session.output_bytes(0).ok()? {
            IO.store(u32::from(*value), Ordering::Relaxed);
        }
        if read() == 1 {
            let _ = monitor.label_class(run.wrapping_sub(read()), read());
        }
        if read() == 2 {
            monitor.close_period(read(), log).ok()?;
        }
    }
}

//! A device in the field, played from files: a model runs a prepared stream, a monitor watches it, power is cut.
//!
//! The image `monitor` and the example `field` of whit-firmware include this file, so that microcontroller and laptop live through the same
//! things. One process is one start of the device; `firmware/monitor.py` starts the next after a power cut.

mod costs;
mod flash;

use core::cell::Cell;
use core::ffi::CStr;
use core::fmt;

use whit::metrics::counters::Event as Counted;
use whit::metrics::record::Kind;
use whit::metrics::{Config, Log, Monitor, Sink};
use whit::{Session, SessionError};
use whit_firmware::{LogSizes, MonitorLog};

use costs::Costs;
pub use flash::{FLASH_BYTES, FileFlash};

/// The device's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// 12 bytes for each [`Event`].
    Events,
    /// The inputs' bytes, one sample behind the other.
    Inputs,
    /// The cuts of power in their order, 4 bytes each; see [`flash`].
    Cuts,
    /// What outlives the device: see [`World`].
    World,
    /// The identifiers of the stream's runs, as who labels them got them.
    Runs,
    /// How long each of the stream's runs took, in µs.
    Latencies,
    /// The chip's bytes.
    Flash,
    /// The log as it is read at the end.
    Log,
}

impl File {
    /// Its name.
    pub const fn name(self) -> &'static CStr {
        match self {
            File::Events => c"events.bin",
            File::Inputs => c"inputs.bin",
            File::Cuts => c"cuts.bin",
            File::World => c"world.bin",
            File::Runs => c"runs.bin",
            File::Latencies => c"latencies.bin",
            File::Flash => c"flash.bin",
            File::Log => c"log.bin",
        }
    }
}

/// What a device and a laptop do each in its way.
pub trait Host {
    /// Fills `into` from a place in a file and gives the number of bytes that were there.
    fn read(&self, file: File, offset: u32, into: &mut [u8]) -> usize;
    /// Overwrites a file from `offset` on.
    fn write(&self, file: File, offset: u32, bytes: &[u8]);
    /// Prints a line.
    fn say(&self, line: fmt::Arguments<'_>);
    /// Ends the process.
    fn exit(&self, status: i32) -> !;
    /// Runs the session as run number `run` of the stream, held up for `stall_us`; gives how long that took, in µs.
    fn infer(
        &self,
        session: &mut Session<'_>,
        run: u32,
        stall_us: u32,
    ) -> Result<u32, SessionError>;
    /// Reads a counter of time.
    fn ticks(&self) -> u64;
    /// Executed instructions between two readings.
    fn instructions(&self, ticks: u64) -> u64;
    /// Bytes of stack that `work` takes.
    fn stack(&self, work: &mut dyn FnMut()) -> u32;
}

/// What happens to a device: a kind, a flag, two reserved bytes, two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// 1: the clock shows so many seconds.
    Clock(u32),
    /// 2: an input arrives; something holds the run up.
    Run { input: u32, stall_us: u32 },
    /// 3: the label of a run of the stream arrives. With the flag the number is a run's identifier itself.
    Label { run: u32, is_id: bool, class: u32 },
    /// 4: the period ends.
    Close,
    /// 5: power fails between two runs.
    PowerOff,
    /// 6: costs are measured, the stack included, from here on.
    Measure,
}

impl Event {
    const BYTES: usize = 12;

    fn read(bytes: &[u8; Event::BYTES]) -> Option<Event> {
        let [kind, flag, _, _, a @ ..] = *bytes;
        let [a0, a1, a2, a3, b0, b1, b2, b3] = a;
        let (a, b) = (u32::from_le_bytes([a0, a1, a2, a3]), u32::from_le_bytes([b0, b1, b2, b3]));
        Some(match kind {
            1 => Event::Clock(a),
            2 => Event::Run { input: a, stall_us: b },
            3 => Event::Label { run: a, is_id: flag == 1, class: b },
            4 => Event::Close,
            5 => Event::PowerOff,
            6 => Event::Measure,
            _ => return None,
        })
    }
}

/// Where the stream is: what goes on while the device has no power.
#[derive(Default)]
struct World {
    next_event: Cell<u32>,
    /// Runs of the stream so far.
    runs: Cell<u32>,
    /// Seconds of the clock, which has a battery.
    now_s: Cell<u32>,
    next_cut: Cell<u32>,
    /// Operations since the last cut that the next one counts.
    matched: Cell<u32>,
    /// Time in the chip's driver since the start; not kept.
    flash_ticks: Cell<u64>,
}

impl World {
    fn cells(&self) -> [&Cell<u32>; 5] {
        [&self.next_event, &self.runs, &self.now_s, &self.next_cut, &self.matched]
    }

    fn load(host: &impl Host) -> World {
        let world = World::default();
        for (index, cell) in world.cells().into_iter().enumerate() {
            cell.set(read_u32(host, File::World, index as u32).unwrap_or(0));
        }
        world
    }

    /// The end of this start.
    fn power_fails(&self, host: &impl Host) -> ! {
        for (index, cell) in self.cells().into_iter().enumerate() {
            host.write(File::World, 4 * index as u32, &cell.get().to_le_bytes());
        }
        host.exit(POWER_CUT)
    }
}

/// Exit statuses: the stream is over, what is wrong was printed, power failed.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const POWER_CUT: i32 = 3;

fn read_u32(host: &impl Host, file: File, index: u32) -> Option<u32> {
    let mut bytes = [0; 4];
    (host.read(file, 4 * index, &mut bytes) == 4).then(|| u32::from_le_bytes(bytes))
}

fn fail(host: &impl Host, what: &str, error: impl fmt::Display) -> ! {
    host.say(format_args!("{what}: {error}"));
    host.exit(FAILED)
}

/// What a device keeps of its runs.
const CONFIG: Config = Config::DEFAULT;
const LOG_SIZES: LogSizes = LogSizes::of(&CONFIG);

/// What a device sets aside: for the monitor, for the log, and for the content of the chip, which a real one reads in place.
pub struct Buffers {
    monitor: [u8; MONITOR_BYTES],
    log: [u8; LOG_SIZES.memory_bytes()],
    flash: [u8; FLASH_BYTES],
}

/// Enough for [`CONFIG`] with the models that this is run with.
const MONITOR_BYTES: usize = 4096;

impl Buffers {
    /// Zeros.
    pub const EMPTY: Buffers = Buffers {
        monitor: [0; MONITOR_BYTES],
        log: [0; LOG_SIZES.memory_bytes()],
        flash: [0; FLASH_BYTES],
    };
}

/// Lives from one start to the next power cut, or to the end of the stream.
pub fn live<'m, H: Host>(host: &H, session: &mut Session<'m>, buffers: &'m mut Buffers) -> ! {
    let world = World::load(host);
    let model = *session.model();
    let flash = FileFlash::open(host, &world, &mut buffers.flash);
    let range = 0..FLASH_BYTES as u32;
    let mut log = match MonitorLog::open(flash, range, &mut buffers.log, LOG_SIZES) {
        Ok(log) => Timed { log, host, ticks: 0 },
        Err(error) => fail(host, "log", error),
    };
    let now_s = world.now_s.get();
    let mut monitor = match Monitor::start(&model, &CONFIG, &mut buffers.monitor, &mut log, now_s) {
        Ok(monitor) => monitor,
        Err(error) => fail(host, "monitor", error),
    };
    host.say(format_args!("start {} {}", world.next_event.get(), monitor.sequence()));
    let mut costs = Costs::default();
    while let Some(event) = next_event(host, &world) {
        match event {
            Event::Clock(now_s) => world.now_s.set(now_s),
            Event::Run { input, stall_us } => {
                take_input(host, session, input);
                let run = world.runs.replace(world.runs.get() + 1);
                let id = run_once(host, session, &mut monitor, &mut costs, (run, stall_us));
                host.write(File::Runs, 4 * run, &id.to_le_bytes());
            }
            Event::Label { run, is_id, class } => {
                let id = if is_id { Some(run) } else { read_u32(host, File::Runs, run) };
                let Some(id) = id else { fail(host, "label of run", run) };
                // One that is refused is counted.
                costs.label(host, &mut || {
                    let _ = monitor.label_class(id, class);
                });
            }
            Event::Close => {
                let (now_s, sequence) = (world.now_s.get(), monitor.sequence());
                let (before, flash_before) = (log.ticks, world.flash_ticks.get());
                let mut result = Ok(());
                let total =
                    costs.close(host, &mut || result = monitor.close_period(now_s, &mut log));
                let in_log = log.ticks - before;
                let in_flash = world.flash_ticks.get() - flash_before;
                costs.closed(host, total, in_log, in_flash);
                if let Err(error) = result {
                    fail(host, "close", error);
                }
                host.say(format_args!("closed {sequence}"));
            }
            Event::PowerOff => {
                host.say(format_args!("cut between runs"));
                world.power_fails(host)
            }
            Event::Measure => costs.begin(),
        }
    }
    let mut end = 0;
    let read = log.log.read(&mut |record| {
        host.write(File::Log, end, record);
        end += record.len() as u32;
    });
    if let Err(error) = read {
        fail(host, "log", error);
    }
    host.say(format_args!("log_bytes {end}"));
    let memory_bytes = match Monitor::memory_bytes(&model, &CONFIG) {
        Ok(bytes) => bytes,
        Err(error) => fail(host, "monitor", error),
    };
    host.say(format_args!("monitor_bytes {}", size_of::<Monitor<'_>>()));
    host.say(format_args!("monitor_memory_bytes {memory_bytes}"));
    host.say(format_args!("log_struct_bytes {}", size_of_val(&log.log)));
    host.say(format_args!("log_memory_bytes {}", LOG_SIZES.memory_bytes()));
    costs.say(host);
    host.exit(DONE)
}

/// The next thing that happens; `None` at the end of the stream.
fn next_event(host: &impl Host, world: &World) -> Option<Event> {
    let number = world.next_event.get();
    let mut bytes = [0; Event::BYTES];
    if host.read(File::Events, number * Event::BYTES as u32, &mut bytes) < Event::BYTES {
        return None;
    }
    world.next_event.set(number + 1);
    match Event::read(&bytes) {
        Some(event) => Some(event),
        None => fail(host, "no event", number),
    }
}

/// Fills the session's input with a sample.
fn take_input(host: &impl Host, session: &mut Session<'_>, number: u32) {
    let Ok(slot) = session.input_mut::<u8>(0) else { fail(host, "no bytes", number) };
    if host.read(File::Inputs, number * slot.len() as u32, slot) < slot.len() {
        fail(host, "no input", number)
    }
}

/// A run, watched; gives its identifier.
fn run_once<H: Host>(
    host: &H,
    session: &mut Session<'_>,
    monitor: &mut Monitor<'_>,
    costs: &mut Costs,
    (run, stall_us): (u32, u32),
) -> u32 {
    let mut result = Ok(());
    costs.before(host, &mut || result = monitor.before(session));
    if let Err(error) = result {
        fail(host, "before", error);
    }
    let latency_us = match host.infer(session, run, stall_us) {
        Ok(latency_us) => latency_us,
        Err(error) => fail(host, "run", error),
    };
    let count = |monitor: &Monitor<'_>| {
        (monitor.event(Counted::Windows), monitor.event(Counted::InputDrifts))
    };
    let (windows, drifts) = count(monitor);
    let mut id = Ok(0);
    let after = costs.after(host, &mut || id = monitor.after(session, latency_us));
    let now = count(monitor);
    costs.counted(windows != now.0, after);
    if drifts != now.1 {
        host.say(format_args!("drift {run}"));
    }
    match id {
        Ok(id) => id,
        Err(error) => fail(host, "after", error),
    }
}

/// A log that knows how long it took.
struct Timed<'h, H, L> {
    log: L,
    host: &'h H,
    ticks: u64,
}

impl<H: Host, L: Sink> Sink for Timed<'_, H, L> {
    type Error = L::Error;

    fn write(&mut self, kind: Kind, record: &[u8]) -> Result<(), L::Error> {
        let start = self.host.ticks();
        let result = self.log.write(kind, record);
        self.ticks += self.host.ticks() - start;
        result
    }
}

impl<H: Host, L: Log> Log for Timed<'_, H, L> {
    fn next_sequence(&self) -> u32 {
        self.log.next_sequence()
    }
}

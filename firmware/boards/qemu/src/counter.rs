//! Counts executed instructions: QEMU's `-icount shift=0` lets one nanosecond pass per instruction,
//! and SysTick counts a clock of so many MHz.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::exception;

/// SysTick counts this many ticks, then starts again; the interrupt counts how often.
const PERIOD_TICKS: u32 = 1 << 24;

/// How often SysTick has wrapped.
static WRAPS: AtomicU32 = AtomicU32::new(0);

#[exception]
fn SysTick() {
    // A plain load and store: nothing else writes it, and ARMv6-M has no atomic addition.
    WRAPS.store(WRAPS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Starts counting.
pub fn start(mut systick: SYST) {
    systick.set_clock_source(SystClkSource::Core);
    systick.set_reload(PERIOD_TICKS - 1);
    systick.clear_current();
    systick.enable_interrupt();
    systick.enable_counter();
    // It reads 0 until the first tick loads the period.
    while SYST::get_current() == 0 {}
}

/// Ticks since the start.
pub fn ticks() -> u64 {
    loop {
        let before = WRAPS.load(Ordering::Relaxed);
        let elapsed = PERIOD_TICKS - 1 - SYST::get_current();
        if before == WRAPS.load(Ordering::Relaxed) {
            return u64::from(before) * u64::from(PERIOD_TICKS) + u64::from(elapsed);
        }
    }
}

/// What a tick is worth, and what a measurement itself costs.
#[derive(Clone, Copy)]
pub struct Calibration {
    /// Instructions in [`PERIOD_TICKS`]: a tick's worth in fixed point of 24 bits.
    pub instructions_per_period: u64,
    /// Ticks that two readings one after the other are apart.
    pub overhead_ticks: u64,
}

impl Calibration {
    /// Measures a loop of a known number of instructions.
    pub fn measure() -> Calibration {
        let before = ticks();
        let overhead_ticks = ticks() - before;
        let before = ticks();
        spin(LOOPS);
        let elapsed = ticks() - before - overhead_ticks;
        let instructions = u64::from(LOOPS) * LOOP_INSTRUCTIONS;
        Calibration {
            instructions_per_period: (instructions * u64::from(PERIOD_TICKS) + elapsed / 2)
                / elapsed,
            overhead_ticks,
        }
    }

    /// Instructions executed between two readings.
    pub fn instructions(&self, ticks: u64) -> u64 {
        let ticks = ticks.saturating_sub(self.overhead_ticks);
        (ticks * self.instructions_per_period + u64::from(PERIOD_TICKS / 2))
            / u64::from(PERIOD_TICKS)
    }

    /// Thousandths of an instruction per tick, to print.
    pub fn milli_instructions_per_tick(&self) -> u64 {
        (self.instructions_per_period * 1000 + u64::from(PERIOD_TICKS / 2))
            / u64::from(PERIOD_TICKS)
    }
}

/// Turns of the calibration loop.
const LOOPS: u32 = 5_000_000;
/// Instructions of one turn: a subtraction and a branch.
const LOOP_INSTRUCTIONS: u64 = 2;

#[inline(never)]
fn spin(count: u32) {
    // SAFETY: counts a register down to 0 and changes nothing else but flags.
    unsafe {
        core::arch::asm!(
            "2:",
            "subs {count}, #1",
            "bne 2b",
            count = inout(reg) count => _,
            options(nomem, nostack),
        );
    }
}

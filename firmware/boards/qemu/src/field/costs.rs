//! What a monitor costs on a device, in executed instructions and bytes of stack.

use super::Host;

/// Least, sum and most of some measurements.
#[derive(Clone, Copy)]
struct Cost {
    count: u64,
    least: u64,
    sum: u64,
    most: u64,
}

impl Default for Cost {
    fn default() -> Cost {
        Cost { count: 0, least: u64::MAX, sum: 0, most: 0 }
    }
}

impl Cost {
    fn add(&mut self, instructions: u64) {
        self.count += 1;
        self.least = self.least.min(instructions);
        self.sum += instructions;
        self.most = self.most.max(instructions);
    }

    fn say(&self, host: &impl Host, name: &str) {
        let Cost { count, least, sum, most } = *self;
        if let Some(mean) = (sum + count / 2).checked_div(count) {
            host.say(format_args!("{name} {count} {least} {mean} {most}"));
        }
    }
}

/// The parts of a monitor's work.
#[derive(Default)]
pub(super) struct Costs {
    measures: bool,
    last_before: u64,
    before: Cost,
    after: Cost,
    run: Cost,
    window: Cost,
    label: Cost,
    close: Cost,
    log: Cost,
    run_stack: u32,
    close_stack: u32,
}

impl Costs {
    /// Measures from now on.
    pub(super) fn begin(&mut self) {
        self.measures = true;
    }

    /// Instructions and stack of some work.
    fn measure(&self, host: &impl Host, work: &mut dyn FnMut()) -> (u64, u32) {
        if !self.measures {
            work();
            return (0, 0);
        }
        let mut instructions = 0;
        let stack = host.stack(&mut || {
            let start = host.ticks();
            work();
            instructions = host.instructions(host.ticks() - start);
        });
        (instructions, stack)
    }

    pub(super) fn before(&mut self, host: &impl Host, work: &mut dyn FnMut()) {
        let (instructions, stack) = self.measure(host, work);
        self.last_before = instructions;
        self.run_stack = self.run_stack.max(stack);
    }

    pub(super) fn after(&mut self, host: &impl Host, work: &mut dyn FnMut()) -> u64 {
        let (instructions, stack) = self.measure(host, work);
        self.run_stack = self.run_stack.max(stack);
        instructions
    }

    /// Whether the run ended a window, and the instructions behind it.
    pub(super) fn counted(&mut self, ended_window: bool, after: u64) {
        if !self.measures {
            return;
        }
        if ended_window {
            self.window.add(after);
        } else {
            self.before.add(self.last_before);
            self.after.add(after);
            self.run.add(self.last_before + after);
        }
    }

    pub(super) fn label(&mut self, host: &impl Host, work: &mut dyn FnMut()) {
        let (instructions, _) = self.measure(host, work);
        if self.measures {
            self.label.add(instructions);
        }
    }

    /// Closing a period, log and flash included, in ticks.
    pub(super) fn close(&mut self, host: &impl Host, work: &mut dyn FnMut()) -> u64 {
        if !self.measures {
            work();
            return 0;
        }
        let mut ticks = 0;
        let stack = host.stack(&mut || {
            let start = host.ticks();
            work();
            ticks = host.ticks() - start;
        });
        self.close_stack = self.close_stack.max(stack);
        ticks
    }

    /// How many of those the log took, and how many of these the flash.
    pub(super) fn closed(&mut self, host: &impl Host, total: u64, in_log: u64, in_flash: u64) {
        if self.measures {
            self.close.add(host.instructions(total.saturating_sub(in_log)));
            self.log.add(host.instructions(in_log.saturating_sub(in_flash)));
        }
    }

    pub(super) fn say(&self, host: &impl Host) {
        if !self.measures {
            return;
        }
        for (name, cost) in [
            ("before_instructions", &self.before),
            ("after_instructions", &self.after),
            ("record_instructions", &self.run),
            ("window_instructions", &self.window),
            ("label_instructions", &self.label),
            ("close_instructions", &self.close),
            ("log_instructions", &self.log),
        ] {
            cost.say(host, name);
        }
        host.say(format_args!("record_stack_bytes {}", self.run_stack));
        host.say(format_args!("close_stack_bytes {}", self.close_stack));
    }
}

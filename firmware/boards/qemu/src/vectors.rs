//! The machine's interrupts, none of which is used: without this table cortex-m-rt makes one of 240.

/// As many as the machine has.
const INTERRUPTS: usize = if cfg!(any(feature = "mps2", feature = "microbit")) {
    32
} else {
    128 // AN505 has 124
};

unsafe extern "C" {
    /// Of cortex-m-rt.
    fn DefaultHandler();
}

// SAFETY: cortex-m-rt's linker script puts this section behind the exceptions, where the processor
// looks for the addresses of handlers, and its feature `device` leaves the name to us.
#[unsafe(link_section = ".vector_table.interrupts")]
#[unsafe(no_mangle)]
static __INTERRUPTS: [unsafe extern "C" fn(); INTERRUPTS] = [DefaultHandler; INTERRUPTS];

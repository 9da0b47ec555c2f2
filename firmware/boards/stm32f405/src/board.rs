//! The parts of the board: clocks, serial port, timer, analogue input, lamp.

use embedded_io::{ErrorKind, Read, ReadReady, Write};
use stm32f4xx_hal::adc::{Adc, config};
use stm32f4xx_hal::flash::LockedFlash;
use stm32f4xx_hal::gpio::{Analog, Output, PA1, PC13};
use stm32f4xx_hal::pac::{ADC1, Peripherals, TIM2, TIM3, USART1};
use stm32f4xx_hal::prelude::*;
use stm32f4xx_hal::rcc::Config;
use stm32f4xx_hal::serial;
use stm32f4xx_hal::serial::{RxISR, Serial};
use stm32f4xx_hal::timer::{CounterHz, CounterUs};
use whit_firmware::{Event, Record, Sensor, SensorFault, StatusPin, Step};

/// What `main` hands to the library.
pub(crate) struct Board {
    pub(crate) flash: LockedFlash,
    pub(crate) port: Port,
    pub(crate) clock: MicrosecondClock,
    pub(crate) sensor: AnalogueInput,
    pub(crate) lamp: PC13<Output>,
}

impl Board {
    /// Sets up clocks and peripherals.
    pub(crate) fn new(device: Peripherals) -> Board {
        let internal = Config::hsi();
        let config = if cfg!(feature = "qemu") { internal } else { internal.sysclk(168.MHz()) };
        let mut rcc = device.RCC.freeze(config);
        let gpioa = device.GPIOA.split(&mut rcc);
        let gpioc = device.GPIOC.split(&mut rcc);

        let serial = device
            .USART1
            .serial((gpioa.pa9, gpioa.pa10), 115_200.bps(), &mut rcc)
            .unwrap_or_else(|_| unreachable!("the clocks reach this rate"));
        let mut clock = device.TIM2.counter_us(&mut rcc);
        // As long as it goes, so that it wraps where a clock of 32 bits does.
        let _ = clock.start(u32::MAX.micros());

        let pin = gpioa.pa1.into_analog();
        // QEMU lacks the calibration values that the driver reads; there the input stays silent.
        let adc = (!cfg!(feature = "qemu")).then(|| {
            // It converts all the time; a sample is what it has at a tick of the timer.
            let config = config::AdcConfig::default().continuous(config::Continuous::Continuous);
            let mut adc = Adc::new(device.ADC1, true, config, &mut rcc);
            adc.configure_channel(&pin, config::Sequence::One, config::SampleTime::Cycles_84);
            adc.enable();
            adc.start_conversion();
            adc
        });
        let mut rate = device.TIM3.counter_hz(&mut rcc);
        let _ = rate.start(1000.Hz());

        Board {
            flash: LockedFlash::new(device.FLASH),
            port: Port(serial),
            clock: MicrosecondClock(clock),
            sensor: AnalogueInput { adc, rate, _pin: pin },
            lamp: gpioc.pc13.into_push_pull_output(),
        }
    }
}

/// The serial port as `embedded-io` knows it.
pub(crate) struct Port(Serial<USART1>);

/// The receiver lost bytes: overrun, noise, framing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortError;

impl core::fmt::Display for PortError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("bytes were lost")
    }
}

impl core::error::Error for PortError {}

impl embedded_io::Error for PortError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

impl embedded_io::ErrorType for Port {
    type Error = PortError;
}

impl ReadReady for Port {
    fn read_ready(&mut self) -> Result<bool, PortError> {
        Ok(self.0.is_rx_not_empty())
    }
}

impl Read for Port {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, PortError> {
        let Some(first) = bytes.first_mut() else { return Ok(0) };
        *first = nb::block!(self.0.read()).map_err(|_: serial::Error| PortError)?;
        Ok(1)
    }
}

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, PortError> {
        let Some(first) = bytes.first() else { return Ok(0) };
        nb::block!(self.0.write(*first)).map_err(|_: serial::Error| PortError)?;
        Ok(1)
    }

    fn flush(&mut self) -> Result<(), PortError> {
        nb::block!(self.0.flush()).map_err(|_: serial::Error| PortError)
    }
}

/// TIM2 has 32 bits: microseconds that wrap after 71 minutes.
pub(crate) struct MicrosecondClock(CounterUs<TIM2>);

impl MicrosecondClock {
    pub(crate) fn now_us(&mut self) -> u32 {
        self.0.now().ticks()
    }
}

/// The analogue input at the ticks of TIM3.
pub(crate) struct AnalogueInput {
    adc: Option<Adc<ADC1>>,
    rate: CounterHz<TIM3>,
    _pin: PA1<Analog>,
}

impl Sensor for AnalogueInput {
    type Sample = i16;
    type Error = core::convert::Infallible;

    fn read(&mut self) -> Result<Option<i16>, Self::Error> {
        let Some(adc) = &self.adc else { return Ok(None) };
        // 12 bits, so that it fits.
        Ok(self.rate.wait().is_ok().then(|| adc.current_sample() as i16))
    }

    fn restart(&mut self) -> Result<(), Self::Error> {
        if let Some(adc) = &mut self.adc {
            adc.disable();
            adc.enable();
            adc.start_conversion();
        }
        Ok(())
    }
}

/// The lamp is on after a failure and off after a decision.
pub(crate) fn show(lamp: &mut StatusPin<PC13<Output>>, step: &Step) {
    match step {
        Step::SensorFault(_) => lamp.record(0, &Event::Sensor(SensorFault::Timeout)),
        Step::Failed(_) => lamp.record(0, &Event::InferenceFailed),
        Step::Decided(_) => lamp.record(0, &Event::SensorBack),
        Step::Idle | Step::Sampled | Step::Skipped => {}
    }
}
